"""Worker processes of netorch's own, some side by side: one order each, lines of news back.

Owns: these children, what they write, and that they are asked to clean up and waited for when their parent is
interrupted.  Must not: know what they are ordered to do.
"""

from __future__ import annotations

import os
import selectors
import signal
import subprocess
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import NamedTuple

from netns_orch.kernel import syscalls as sc

_PIECE = 65536


class Ended(NamedTuple):
    """How a worker ended: its exit code (negative: by that signal), and what it wrote to stderr."""

    code: int
    errors: str


def die_with_parent(parent: int) -> None:
    """Let the kernel send this worker SIGTERM when ``parent``, its parent, is no more (prctl(2))."""
    sc.prctl(sc.PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:
        os.kill(os.getpid(), signal.SIGTERM)


def run(
    argv: Sequence[str], orders: Sequence[bytes], jobs: int, on_line: Callable[[int, bytes], None]
) -> list[Ended]:
    """Run ``argv`` once for each order, which it reads from stdin; at most ``jobs`` at a time.

    ``on_line`` is told each line of stdout, with the number of the order.  Whatever ends this call early is
    sent on to the workers as SIGTERM, and raised once they have ended; what they say until then is told, too.
    """
    crew = _Crew(argv, orders, on_line)
    try:
        crew.work(jobs)
    except BaseException:
        crew.dismiss()
        raise
    finally:
        crew.close()
    return [crew.ended[number] for number in range(len(orders))]


class _Worker:
    def __init__(self, number: int, argv: Sequence[str], order: bytes) -> None:
        self.number = number
        self.errors = open(os.memfd_create("errors"), "w+b")  # noqa: SIM115 - closed by end()
        self.rest = b""
        self.process = subprocess.Popen(
            list(argv),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.errors,
            start_new_session=True,  # ctrl-C is for the parent, who knows in which order to end
        )
        assert self.process.stdin is not None
        try:
            with self.process.stdin as stdin:
                stdin.write(order)
        except BrokenPipeError:
            pass  # it has ended already: its exit code tells

    def lines(self) -> list[bytes] | None:
        """The lines that have come in; None at the end."""
        assert self.process.stdout is not None
        piece = os.read(self.process.stdout.fileno(), _PIECE)
        if not piece:
            return None
        *lines, self.rest = (self.rest + piece).split(b"\n")
        return lines

    def end(self) -> Ended:
        """Wait for it."""
        assert self.process.stdout is not None
        code = self.process.wait()
        self.process.stdout.close()
        self.errors.seek(0)
        said = self.errors.read().decode(errors="replace")
        self.errors.close()
        return Ended(code, said)


class _Crew:
    def __init__(
        self, argv: Sequence[str], orders: Sequence[bytes], on_line: Callable[[int, bytes], None]
    ) -> None:
        self._argv, self._on_line = argv, on_line
        self._waiting = list(enumerate(orders))[::-1]
        self._selector = selectors.DefaultSelector()
        self._working: dict[int, _Worker] = {}
        self.ended: dict[int, Ended] = {}

    def work(self, jobs: int) -> None:
        """Until all have ended."""
        while self._waiting or self._working:
            while self._waiting and len(self._working) < jobs:
                number, order = self._waiting.pop()
                self._working[number] = worker = _Worker(number, self._argv, order)
                assert worker.process.stdout is not None
                self._selector.register(worker.process.stdout, selectors.EVENT_READ, worker)
            for key, _ in self._selector.select():
                self._read(key.data)

    def _read(self, worker: _Worker) -> None:
        lines = worker.lines()
        for line in lines or ():
            self._on_line(worker.number, line)
        if lines is None:
            assert worker.process.stdout is not None
            self._selector.unregister(worker.process.stdout)
            self.ended[worker.number] = worker.end()
            del self._working[worker.number]

    def dismiss(self) -> None:
        """Ask all that work to clean up and end, and wait for them."""
        for worker in self._working.values():
            worker.process.terminate()
        for worker in list(self._working.values()):
            while (lines := worker.lines()) is not None:
                for line in lines:
                    with suppress(Exception):  # the others are waited for, whatever becomes of their news
                        self._on_line(worker.number, line)
            self.ended[worker.number] = worker.end()
        self._working.clear()

    def close(self) -> None:
        """Let go of what is open."""
        self._selector.close()
