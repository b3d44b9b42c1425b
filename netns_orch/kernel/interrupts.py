"""Signals of netorch itself: what ctrl-C, SIGTERM and a time-out do to a run.

Owns: the handlers of this process while a run lasts, given back after it.  Must not: touch other processes.
Only a main thread can have handlers (signal(7), Python's signal module); elsewhere the blocks do nothing.
"""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from netns_orch.errors import NetorchError

_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
Handler = Callable[[int, FrameType | None], Any]


class Interrupted(NetorchError):
    """The run was ended from outside, and rolled back."""

    def __init__(self, what: str, *, signal_number: int | None = None) -> None:
        super().__init__(what)
        self.exit_code = 1 if signal_number is None else 128 + signal_number


@contextmanager
def interruptible(timeout: float | None, lab: str, then: str = "rolled back") -> Iterator[None]:
    """Turn SIGINT, SIGTERM, SIGHUP and the end of ``timeout`` seconds into ``Interrupted``, once.

    ``then`` says what the caller does about it.
    """

    def end(number: int, frame: FrameType | None) -> None:
        _ignore_further(lab)
        if number == signal.SIGALRM:
            raise Interrupted(f"not up after {timeout:g} s: {then}")
        raise Interrupted(f"interrupted by {signal.Signals(number).name}: {then}", signal_number=number)

    with _handlers(dict.fromkeys((*_ENDING, signal.SIGALRM), end)):
        if timeout is not None and _in_main_thread():
            signal.setitimer(signal.ITIMER_REAL, timeout)
        try:
            yield
        finally:
            if timeout is not None and _in_main_thread():
                signal.setitimer(signal.ITIMER_REAL, 0)


@contextmanager
def uninterrupted(lab: str) -> Iterator[None]:
    """Answer signals with a line that says how to clean up, and go on."""
    with _handlers({number: _telling(lab) for number in (*_ENDING, signal.SIGALRM)}):
        yield


@contextmanager
def ending(call: Callable[[], None]) -> Iterator[None]:
    """The first SIGINT, SIGTERM or SIGHUP calls ``call``, which ends the block in good order; a second one
    does what it does to any program.
    """

    def end(number: int, frame: FrameType | None) -> None:
        for each in _ENDING:
            signal.signal(each, signal.default_int_handler if each == signal.SIGINT else signal.SIG_DFL)
        call()

    with _handlers(dict.fromkeys(_ENDING, end)):
        yield


def _telling(lab: str) -> Handler:
    def tell(number: int, frame: FrameType | None) -> None:
        if number != signal.SIGALRM:
            sys.stderr.write(f"cleaning up; if this is killed: netorch down {lab}\n")

    return tell


def _ignore_further(lab: str) -> None:
    for number in (*_ENDING, signal.SIGALRM):
        signal.signal(number, _telling(lab))


@contextmanager
def _handlers(handlers: dict[signal.Signals, Handler]) -> Iterator[None]:
    if not _in_main_thread():
        yield
        return
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _in_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()
