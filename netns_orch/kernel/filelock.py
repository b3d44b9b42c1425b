"""Locks of files that are waited for, but not for ever (flock(2)).

Owns: that wait.  Must not: know what a lock is for.
"""

from __future__ import annotations

import fcntl
import time

_FIRST, _LONGEST = 0.001, 0.1
"""Seconds between two looks: at first, and when it takes longer."""


def take(descriptor: int, patience: float) -> bool:
    """Lock it, for this process alone, until it is closed; False where others have it for ``patience`` s."""
    deadline, pause = time.monotonic() + patience, _FIRST
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            if time.monotonic() > deadline:
                return False
            time.sleep(pause)
            pause = min(2 * pause, _LONGEST)
