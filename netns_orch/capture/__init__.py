"""Packets of a lab that runs, in one pcapng file.

Owns: which interfaces are meant and what they are called there; what a file of them holds (``pcapng``); the
stream that is written as packets come, and the ring that keeps the last of them.
Must not: open a socket (``kernel.capture``), or print.
"""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from ipaddress import ip_interface
from typing import TYPE_CHECKING, Any, BinaryIO, Protocol

from netns_orch import __version__
from netns_orch import lab as labs
from netns_orch.capture import pcapng
from netns_orch.errors import UsageError
from netns_orch.kernel import interrupts
from netns_orch.kernel.capture import SNAPLEN, Tap, Taps, Wanted
from netns_orch.resources import HOST, Address, Bridge, Cable, CableEnd, Container, HostPort, State

if TYPE_CHECKING:
    from netns_orch.kernel.driver import LabKernel

__all__ = ["SNAPLEN", "Capture", "Recorder", "Ring", "Stream", "Summary"]


class Sink(Protocol):
    """Where the blocks of a file go: ``begin`` once, ``take`` as packets come, ``end`` once."""

    def begin(self, head: bytes) -> None:
        """What stands before all packets."""

    def take(self, blocks: Sequence[bytes]) -> None:
        """Packets, one block each."""

    def end(self, tail: bytes) -> None:
        """What stands behind them."""


class Stream:
    """A file or a pipe that gets every packet as soon as it is there."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file

    def begin(self, head: bytes) -> None:
        """Write it."""
        self._write(head)

    def take(self, blocks: Sequence[bytes]) -> None:
        """Write them."""
        self._write(b"".join(blocks))

    def end(self, tail: bytes) -> None:
        """Write it."""
        self._write(tail)

    def _write(self, data: bytes) -> None:
        view = memoryview(data)
        while view:  # the file has no buffer, and may take less than all
            view = view[self._file.write(view) :]
        self._file.flush()


class Ring:
    """The last ``size`` bytes of packets, in memory; the last one of all is always there."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._head = self._tail = b""
        self._blocks: deque[bytes] = deque()
        self._used = 0

    def begin(self, head: bytes) -> None:
        """Keep it, beside the ``size`` bytes."""
        self._head = head

    def take(self, blocks: Sequence[bytes]) -> None:
        """Keep them, and let the oldest ones go."""
        self._blocks.extend(blocks)
        self._used += sum(map(len, blocks))
        while self._used > self.size and len(self._blocks) > 1:
            self._used -= len(self._blocks.popleft())

    def end(self, tail: bytes) -> None:
        """Keep it."""
        self._tail = tail

    def save(self, file: BinaryIO) -> None:
        """Write the file that it is."""
        stream = Stream(file)
        stream.begin(self._head)
        stream.take(tuple(self._blocks))
        stream.end(self._tail)


@dataclass(frozen=True)
class Counts:
    """What an interface had: packets that were captured, and those that the kernel had to drop."""

    name: str
    packets: int
    dropped: int
    gone: bool
    """Whether it went while captured."""


@dataclass(frozen=True)
class Summary:
    """What a capture did; ``ended`` is count, duration, stopped or gone (no interface is left)."""

    lab: str
    packets: int
    dropped: int
    seconds: float
    ended: str
    interfaces: list[Counts]

    def to_json(self) -> dict[str, Any]:
        """As data."""
        return {
            "lab": self.lab,
            "packets": self.packets,
            "dropped": self.dropped,
            "seconds": round(self.seconds, 6),
            "ended": self.ended,
            "interfaces": [vars(each) for each in self.interfaces],
        }


class Capture:
    """A capture of a lab: ``open`` (or as a context), ``run``, ``close``.

    ``words`` are interfaces: ``red:eth0``, ``red`` (all of it but lo), a scaled name, a bridge (all that
    passes it), ``host:IF``; without any it is every cable once.  ``filter`` is in the words of
    pcap-filter(7), ``snaplen`` in bytes.
    """

    def __init__(
        self, lab: str, words: Sequence[str] = (), *, filter: str = "", snaplen: int = SNAPLEN
    ) -> None:
        self.lab = lab
        self._words = words
        self._filter, self._snaplen = filter, snaplen
        self._taps: Taps | None = None
        self.names: list[str] = []
        """Of the interfaces, once open."""
        self._head = b""
        self._begun = 0

    def __enter__(self) -> Capture:
        self.open()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def open(self) -> list[str]:
        """Begin to capture; the names of the interfaces.  Packets wait in the kernel for ``run``.

        UsageError for words that mean nothing and for a wrong filter; KernelError where a container does not
        run.
        """
        kernel, applied = labs.known(self.lab)
        choice = _Choice(self.lab, kernel, applied.state)
        wanted = choice.of(self._words)
        self._taps = kernel.taps(wanted, filter=self._filter, snaplen=self._snaplen)
        if not self._taps.taps:
            self.close()
            raise UsageError(f"lab {self.lab} has no cable to capture on")
        self._begun = time.time_ns()
        self.names = [choice.name(tap) for tap in self._taps.taps]
        self._head = self._described(choice)
        return self.names

    def _described(self, choice: _Choice) -> bytes:
        system = os.uname()
        os_name = f"{system.sysname} {system.release}"
        head = pcapng.section(
            application=f"netorch {__version__}",
            os=os_name,
            hardware=system.machine,
            comment=f"lab {self.lab}: {', '.join(self.names)}",
        )
        interfaces = (
            pcapng.interface(
                name,
                link_type=tap.link_type,
                snaplen=self._snaplen,
                description=choice.description(tap),
                mac=tap.mac,
                addresses=tap.addresses,
                filter=self._filter,
                os=os_name,
            )
            for name, tap in zip(self.names, self._open_taps.taps, strict=True)
        )
        return head + b"".join(interfaces) + pcapng.names(choice.names_by_address())

    def close(self) -> None:
        """Stop listening."""
        if self._taps is not None:
            self._taps.close()
            self._taps = None

    def stop(self) -> None:
        """Let ``run`` return; from a signal's handler or from another thread."""
        if self._taps is not None:
            self._taps.stop()

    def stopped_by_signals(self) -> AbstractContextManager[None]:
        """ctrl-C, SIGTERM and SIGHUP ``stop`` it inside the block."""
        return interrupts.ending(self.stop)

    def watch_reader(self, descriptor: int) -> None:
        """Let ``run`` raise BrokenPipeError once nobody reads from this pipe, also where no packet comes."""
        self._open_taps.watch_reader(descriptor)

    @property
    def _open_taps(self) -> Taps:
        assert self._taps is not None, "open() comes first"
        return self._taps

    def run(self, sink: Sink, *, count: int | None = None, seconds: float | None = None) -> Summary:
        """Hand on packets until there were ``count``, ``seconds`` are over, it is stopped, or all is gone."""
        taps = self._open_taps
        sink.begin(self._head)
        delivered = [0] * len(taps.taps)
        left = count
        deadline = None if seconds is None else time.monotonic() + seconds
        ended = None
        while ended is None:
            packets = taps.read(None if deadline is None else deadline - time.monotonic())
            ended = _why_ended(taps, deadline)
            if ended is not None:
                packets += taps.rest()
            if left is not None and len(packets) >= left:
                packets, ended = packets[:left], "count"
            if left is not None:
                left -= len(packets)
            for packet in packets:
                delivered[packet.tap] += 1
            if packets:
                sink.take([pcapng.packet(*packet) for packet in packets])
        return self._summary(sink, delivered, ended)

    def _summary(self, sink: Sink, delivered: Sequence[int], ended: str) -> Summary:
        now = time.time_ns()
        interfaces, tail = [], b""
        for number, tap in enumerate(self._open_taps.taps):
            received, dropped = tap.statistics()
            tail += pcapng.statistics(
                number,
                started=self._begun,
                ended=now,
                received=received,
                dropped=dropped,
                delivered=delivered[number],
            )
            interfaces.append(Counts(self.names[number], delivered[number], dropped, tap.gone))
        sink.end(tail)
        lost = sum(each.dropped for each in interfaces)
        return Summary(self.lab, sum(delivered), lost, (now - self._begun) / 1e9, ended, interfaces)


def _why_ended(taps: Taps, deadline: float | None) -> str | None:
    if taps.stopped:
        return "stopped"
    if taps.all_gone:
        return "gone"
    return "duration" if deadline is not None and time.monotonic() >= deadline else None


class Recorder:
    """A capture that runs in a thread of its own and keeps the last of it, until somebody wants to see it.

    For a test run: ``start``; when it failed ``stop`` and ``save``.
    """

    def __init__(self, capture: Capture, size: int) -> None:
        """``size``: bytes of packets that are kept."""
        self._capture = capture
        self._ring = Ring(size)
        self._thread: threading.Thread | None = None
        self._outcome: Summary | BaseException | None = None

    def start(self) -> list[str]:
        """Begin to capture; once it returns no packet is missed.  The names of the interfaces."""
        names = self._capture.open()
        self._thread = threading.Thread(target=self._run, name="capture")
        self._thread.start()
        return names

    def _run(self) -> None:
        try:
            self._outcome = self._capture.run(self._ring)
        except BaseException as error:  # noqa: BLE001 - handed to who stops it
            self._outcome = error

    def stop(self) -> Summary:
        """End it; what it did, or what it raised."""
        assert self._thread is not None, "start() comes first"
        self._capture.stop()
        self._thread.join()
        self._capture.close()
        if isinstance(self._outcome, Summary):
            return self._outcome
        assert self._outcome is not None
        raise self._outcome

    def save(self, file: BinaryIO) -> None:
        """Write what was kept as a pcapng file, after ``stop``."""
        self._ring.save(file)


# -- which interfaces --------------------------------------------------------------------------------


class _Choice:
    """What words mean in one lab, and what it calls its interfaces."""

    def __init__(self, lab: str, kernel: LabKernel, state: State) -> None:
        self._lab, self._kernel, self._state = lab, kernel, state
        self._containers = [container.name for container in state.of(Container)]
        about = kernel.directory.read_json("lab.json") or {}
        self._groups: Mapping[str, list[str]] = about.get("groups", {})
        self._bridges = {bridge.name: bridge.ifname for bridge in state.of(Bridge)}
        self._far = {
            (end.node, end.ifname): other
            for cable in state.of(Cable)
            for end, other in ((cable.a, cable.b), (cable.b, cable.a))
        }

    def of(self, words: Sequence[str]) -> list[Wanted]:
        """What is to be captured."""
        if not words:
            return list(self._every_cable())
        return [wanted for word in words for wanted in self._meant(word)]

    def _meant(self, word: str) -> Iterator[Wanted]:
        node, colon, ifname = word.partition(":")
        if not node or (colon and not ifname):
            raise UsageError(f"{word!r}: expected NODE or NODE:INTERFACE")
        if node == HOST:
            if not colon:
                hint = f"host:IF, or one of its bridges: {', '.join(self._bridges)}"
                raise UsageError("which interface of the host?", hint=hint if self._bridges else "host:IF")
            yield Wanted(HOST, self._bridges.get(ifname, ifname))
        elif node in self._bridges:
            if colon:
                raise UsageError(f"{word}: {node} is a bridge", hint=f"{node} is all that passes it")
            yield Wanted(HOST, self._bridges[node])
        elif node in self._containers or node in self._groups:
            names = [node] if node in self._containers else self._groups[node]
            yield from (Wanted(name, ifname or None) for name in names)
        else:
            raise labs.unknown_node(self._lab, node, [*self._containers, *self._groups, *self._bridges])

    def _every_cable(self) -> Iterator[Wanted]:
        """One end of each: the first one whose container runs.  What is missing is left out."""
        for cable in self._state.of(Cable):
            for end in (cable.a, cable.b):
                if end.node == HOST or self._kernel.container(end.node) is not None:
                    yield Wanted(end.node, end.ifname, must=False)
                    break
        for port in self._state.of(HostPort):
            yield Wanted(HOST, port.ifname, must=False)

    def name(self, tap: Tap) -> str:
        """``red:eth0``, or a bridge's name in the lab file, or ``host:IF``."""
        bridge = self._bridge(tap)
        return bridge if bridge is not None else f"{tap.node}:{tap.ifname}"

    def _bridge(self, tap: Tap) -> str | None:
        if tap.node != HOST:
            return None
        return next((name for name, ifname in self._bridges.items() if ifname == tap.ifname), None)

    def description(self, tap: Tap) -> str:
        """Where its cable leads, or what it is."""
        far = self._far.get((tap.node, tap.ifname))
        if far is not None:
            return f"cable to {_end_name(far)}"
        return f"bridge {tap.ifname} of the host" if self._bridge(tap) else tap.kind

    def names_by_address(self) -> dict[str, str]:
        """Nodes and bridges by their addresses, those apart that several have."""
        owners: dict[str, set[str]] = {}
        bridges = {ifname: name for name, ifname in self._bridges.items()}
        for address in self._state.of(Address):
            owner = bridges.get(address.ifname, HOST) if address.owner == HOST else address.owner
            owners.setdefault(str(ip_interface(address.cidr).ip), set()).add(owner)
        return {address: next(iter(names)) for address, names in owners.items() if len(names) == 1}


def _end_name(end: CableEnd) -> str:
    return end.bridge if end.bridge is not None else f"{end.node}:{end.ifname}"
