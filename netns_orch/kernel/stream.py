"""The same questions again and again, at a steady pace, while something is done to the lab.

Owns: the thread that asks and listens, and what it noted.  Must not: judge what a silence means.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Hashable, Sequence
from contextlib import suppress
from typing import NamedTuple

from netns_orch.errors import KernelError
from netns_orch.kernel.nets import Gone, Nets, Visit
from netns_orch.kernel.probes import Ask, Desk
from netns_orch.resources import HOST

_LOOK = 0.25
"""Seconds between two looks at which namespaces the nodes are in."""
GIVEN_UP = 1.0
"""Seconds after which a connection or a datagram counts as lost; TCP itself would try again then."""


class Sample(NamedTuple):
    """One packet: when it was sent and when answered, in seconds since a moment of the caller's."""

    sent: float
    answered: float | None


class Stream:
    """Questions asked every ``interval`` seconds from ``__enter__`` to ``__exit__``, in a thread of its own.

    ``nets`` is asked now and then, so that a container that was made again is found where it is.  ``began``
    (time.monotonic) is the moment that samples count from.
    """

    def __init__(self, nets: Callable[[], Nets], asks: Sequence[Ask], interval: float, began: float) -> None:
        self._nets, self._asks, self._interval, self._began = nets, list(asks), interval, began
        self._lock = threading.Lock()
        self._notes: list[list[list[float | None]]] = [[] for _ in asks]
        self._stop = threading.Event()
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="stream")

    def __enter__(self) -> Stream:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _now(self) -> float:
        return time.monotonic() - self._began

    def samples(self) -> list[list[Sample]]:
        """What was sent and heard so far, by question, in the order of sending.

        KernelError where the stream has broken.
        """
        if self._failure is not None:
            raise KernelError(f"the stream of probes broke: {self._failure}") from self._failure
        with self._lock:
            return [[Sample(sent or 0.0, answered) for sent, answered in notes] for notes in self._notes]

    def _run(self) -> None:
        try:
            while not self._stop.is_set():
                nets = self._nets()
                nets.run(lambda visit, nets=nets: self._work(visit, _places(nets)))  # type: ignore[misc]
        except BaseException as error:  # noqa: BLE001 - handed to whoever asks for samples
            self._failure = error

    def _work(self, visit: Visit, places: object) -> None:
        """Ask until the stream is closed, or a node is in another namespace than before."""
        look, tick = time.monotonic() + _LOOK, time.monotonic()
        open_since: dict[Hashable, float] = {}
        with Desk() as desk:
            while not self._stop.is_set():
                for at, one in enumerate(self._asks):
                    self._ask(visit, desk, at, one, open_since)
                tick = max(tick + self._interval, time.monotonic())
                while (left := tick - time.monotonic()) > 0:
                    self._hear(desk, left, open_since)
                self._hear(desk, 0, open_since)
                self._give_up(desk, open_since)
                if time.monotonic() > look:
                    if _places(self._nets()) != places:
                        return
                    look = time.monotonic() + _LOOK

    def _ask(self, visit: Visit, desk: Desk, at: int, one: Ask, open_since: dict[Hashable, float]) -> None:
        with self._lock:
            self._notes[at].append([self._now(), None])
            name = (at, len(self._notes[at]) - 1)
        if not desk.open(visit, {name: one}) and desk.send(name) is None:
            open_since[name] = time.monotonic()
        else:
            desk.drop(name)

    def _hear(self, desk: Desk, seconds: float, open_since: dict[Hashable, float]) -> None:
        for name, heard in desk.hear(seconds):
            open_since.pop(name, None)
            desk.drop(name)
            if heard.kind == "answered" and isinstance(name, tuple):
                with self._lock:
                    self._notes[name[0]][name[1]][1] = self._now()

    def _give_up(self, desk: Desk, open_since: dict[Hashable, float]) -> None:
        """Echoes are listened for as long as the stream lasts; the others have a socket each."""
        for name, since in list(open_since.items()):
            if time.monotonic() - since < GIVEN_UP:
                return
            del open_since[name]
            if isinstance(name, tuple) and self._asks[name[0]].kind != "echo":
                desk.drop(name)


def _places(nets: Nets) -> dict[str, int]:
    """The namespace of each node, by inode number."""
    found = {HOST: nets.host or 0}
    for node, pid in nets.pids.items():
        with suppress(OSError, Gone):
            found[node] = os.stat(f"/proc/{pid}/ns/net").st_ino
    return found
