"""``import netorch``: labs from Python; see ``netns_orch.api``."""

from netns_orch.api import *  # noqa: F403
from netns_orch.api import __all__  # noqa: F401
