"""Locks of files that are waited for, but not for ever (flock(2)).

Owns: that wait.  Must not: know what a lock is for.
"""

from __future__ import annotations

import fcntl
import time

_LOOK = 0.02
"""Seconds between two looks."""


def take(descriptor: int, patience: float) -> bool:
    """Lock it, for this process alone, until it is closed; False where others have it for ``patience`` s."""
    deadline = time.monotonic() + patience
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            if time.monotonic() > deadline:
                return False
            time.sleep(_LOOK)
