"""``python -m netns_orch`` is ``netorch``."""

import sys

from netns_orch.cli import main

if __name__ == "__main__":
    sys.exit(main())
