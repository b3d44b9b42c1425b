"""Waiting for an event, with a deadline that says what was missing."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")
PAUSE = 0.02
PATIENCE = float(os.environ.get("NETORCH_TEST_PATIENCE", "1"))
"""By how much all deadlines are longer: an emulated CPU takes thirty times as long."""


def until(look: Callable[[], T | None], missing: str | Callable[[], str], seconds: float = 20.0) -> T:
    """What ``look`` returns, as soon as that is true; an AssertionError names ``missing`` at the deadline."""
    seconds *= PATIENCE
    deadline = time.monotonic() + seconds
    pause = threading.Event()
    while True:
        found = look()
        if found:
            return found
        if time.monotonic() > deadline:
            text = missing if isinstance(missing, str) else missing()
            raise AssertionError(f"after {seconds:g} s still missing: {text}")
        pause.wait(PAUSE)
