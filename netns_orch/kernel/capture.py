"""Packets of interfaces in several network namespaces, as one stream in the order of time (packet(7)).

Owns: a packet socket for each interface, what the kernel tells of each packet (time, direction, VLAN tag,
length, losses), and that no socket outlives the container it looks at: it would keep its namespace alive.
Must not: know what is done with the packets, or what the interfaces are called in the lab file.
"""

from __future__ import annotations

import ctypes
import errno
import os
import select
import socket
import stat
import struct
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import NamedTuple

from netns_orch.errors import KernelError, UsageError
from netns_orch.kernel import ipmessages, messages, pcapfilter
from netns_orch.kernel import syscalls as sc
from netns_orch.kernel.cableview import read_links
from netns_orch.kernel.messages import Link
from netns_orch.kernel.netlink import Channel
from netns_orch.kernel.netobserve import FALLBACKS
from netns_orch.kernel.nets import Gone, Nets, Visit
from netns_orch.kernel.pcapfilter import Filter
from netns_orch.resources import HOST

SNAPLEN = 262144
"""Bytes of a packet that are kept at most, where nothing else is asked for: all, as tcpdump(8) has it."""
LINK_ETHERNET, LINK_RAW, LINK_COOKED = 1, 101, 113
"""Of https://www.tcpdump.org/linktypes.html: Ethernet; IP with nothing before it; Linux's cooked header."""
_LINK_TYPES = {1: LINK_ETHERNET, 772: LINK_ETHERNET, 519: LINK_RAW, 65534: LINK_RAW}
"""By ARPHRD_ETHER, LOOPBACK, RAWIP and NONE (linux/if_arp.h); all others are cooked."""
_ETH_P_ALL = 3
_SOL_PACKET, _ADD_MEMBERSHIP, _STATISTICS, _AUXDATA, _IGNORE_OUTGOING = 263, 1, 6, 8, 23
_MR_PROMISC = 1
_SO_RCVBUFFORCE, _SO_ATTACH_FILTER, _SO_TIMESTAMPNS = 33, 26, 35
_VLAN_VALID, _VLAN_TPID_VALID = 1 << 4, 1 << 6
_ETH_P_8021Q = 0x8100
_AUX = struct.Struct("=IIIHHHH")
_TIME = struct.Struct("=qq")
_COOKED = struct.Struct("!HHH8sH")
_CONTROL = socket.CMSG_SPACE(_TIME.size) + socket.CMSG_SPACE(_AUX.size)
_BUFFERS, _LARGEST_BUFFER, _SMALLEST_BUFFER = 256 << 20, 16 << 20, 1 << 20
"""Bytes that may wait in all sockets together, and in each; the kernel takes what packets need, no more."""
_AT_ONCE = 256
"""Packets that are read of one interface before the next has its turn."""
_GRACE, _LOOK = 5.0, 0.1
"""Seconds that a container may take to be made anew, and between two looks at what is down or has ended."""


class Wanted(NamedTuple):
    """What is to be captured: an interface of a node, or with None all of them but the loopback."""

    node: str
    ifname: str | None
    must: bool = True
    """False: what is not there is left out."""


class Packet(NamedTuple):
    """A packet: by which tap, when (Unix time, ns), its bytes, its length on the wire, packet(7)'s type."""

    tap: int
    time: int
    data: bytes
    length: int
    kind: int


class Tap:
    """An interface that is listened to, and what is known of it."""

    def __init__(
        self, node: str, link: Link, addresses: Sequence[str], listener: socket.socket, filter: Filter | None
    ) -> None:
        self.node, self.ifname = node, link.ifname
        self.mac, self.addresses = link.mac, addresses
        self.kind = messages.string(link.info().get(messages.IFLA_INFO_KIND, b""))
        """``veth``, ``bridge``, ...; empty for hardware."""
        self.link_type = _link_type(listener)
        self.gone = False
        """It, or its container, is no more; what had arrived can still be read."""
        self.listener = listener
        self.latest = 0
        """When the last packet that was read had come (Unix time, ns)."""
        self._filter = filter
        self._received = self._dropped = 0

    def statistics(self) -> tuple[int, int]:
        """How many packets the kernel's filter let through so far, and how many of those were lost."""
        if self.listener.fileno() >= 0:
            # reading them sets them back to 0
            received, dropped = struct.unpack("=II", self.listener.getsockopt(_SOL_PACKET, _STATISTICS, 8))
            self._received += received
            self._dropped += dropped
        return self._received, self._dropped

    def close(self) -> None:
        """Stop listening; its statistics stay."""
        with suppress(OSError):
            self.statistics()
        self.listener.close()

    def read(self, number: int, view: memoryview, snaplen: int) -> Packet | None:
        """The next packet; None where that one does not pass the filter.  BlockingIOError: there is none."""
        size, ancillary, _, address = self.listener.recvmsg_into([view], _CONTROL)
        seconds = nanoseconds = tag = status = protocol = 0
        length = size
        for level, _, content in ancillary:
            if level == _SOL_PACKET:
                status, length, _, _, _, tag, protocol = _AUX.unpack(content)
            else:
                seconds, nanoseconds = _TIME.unpack(content)
        data = bytes(view[:size])
        self.latest = seconds * 1_000_000_000 + nanoseconds
        checked = True
        if status & _VLAN_VALID:
            tpid = protocol if status & _VLAN_TPID_VALID else _ETH_P_8021Q
            data = b"".join((data[:12], struct.pack("!HH", tpid, tag), data[12:]))[:snaplen]
            length += 4
            checked = False
        elif self.link_type == LINK_COOKED:
            data, length, checked = _cooked(data, address), length + _COOKED.size, False
        if not checked and self._filter is not None and not self._filter.matches(data, length):
            return None
        return Packet(number, self.latest, data, length, address[2])


def _link_type(listener: socket.socket) -> int:
    return _LINK_TYPES.get(listener.getsockname()[3], LINK_COOKED)


def _cooked(data: bytes, address: tuple[str, int, int, int, bytes]) -> bytes:
    _, protocol, kind, hardware, sender = address
    return _COOKED.pack(kind, hardware, len(sender), sender[:8], protocol) + data


# -- opening ---------------------------------------------------------------------------------------


def _set_buffer(listener: socket.socket, size: int) -> None:
    """Without root no more than net.core.rmem_max (socket(7))."""
    try:
        listener.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, size)
    except PermissionError:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, size)


def open_taps(
    nets: Nets,
    wanted: Iterable[Wanted],
    reborn: Callable[[str], int | None],
    *,
    filter: str = "",
    snaplen: int = SNAPLEN,
) -> Taps:
    """Listen to interfaces, each once: packets are kept from now on.

    ``reborn`` tells the first process of a node of ``nets.pids`` that was made anew, None while there is
    none, and raises LookupError where there will be none.  UsageError where an interface is not there, or the
    filter is wrong; KernelError where a container does not run.
    """
    opener = _Opener(filter, snaplen)

    def work(visit: Visit) -> None:
        for each in wanted:
            opener.open(visit, each)

    taps = Taps(opener.taps, snaplen, reborn)
    try:
        nets.run(work)
        taps.begin(nets.pids)
    except BaseException:
        taps.close()
        raise
    return taps


class _Opener:
    def __init__(self, filter: str, snaplen: int) -> None:
        self.taps: list[Tap] = []
        self._text, self._snaplen = filter, snaplen
        self._filters: dict[int, Filter] = {}

    def open(self, visit: Visit, wanted: Wanted) -> None:
        try:
            with visit.node(wanted.node) as channel:
                links = {link.ifname: link for link in read_links(channel)}
                for link in _chosen(wanted, links):
                    if not any((tap.node, tap.ifname) == (wanted.node, link.ifname) for tap in self.taps):
                        self.taps.append(self._tap(wanted.node, channel, link))
        except Gone:
            if wanted.must:
                raise KernelError(
                    f"container {wanted.node} is not running", hint=f"netorch restart {wanted.node}"
                ) from None

    def _tap(self, node: str, channel: Channel, link: Link) -> Tap:
        facts = [ipmessages.decode_address(each.body) for each in channel.dump(ipmessages.dump_addresses())]
        addresses = [fact.cidr for fact in facts if fact.ifindex == link.ifindex]
        listener = self._bound(link, socket.SOCK_RAW, 0)
        link_type = _link_type(listener)
        listener.close()
        filter = self._filter(link.ifname, link_type)
        style = socket.SOCK_DGRAM if link_type == LINK_COOKED else socket.SOCK_RAW
        in_kernel = filter if link_type != LINK_COOKED else None
        listener = self._bound(link, style, _ETH_P_ALL, in_kernel)
        return Tap(node, link, addresses, listener, filter)

    def _filter(self, ifname: str, link_type: int) -> Filter | None:
        if self._text and link_type not in self._filters:
            try:
                self._filters[link_type] = pcapfilter.compile(self._text, link_type, self._snaplen)
            except UsageError as error:
                if link_type != LINK_ETHERNET:
                    error.hint = f"{ifname} is no Ethernet interface: name the others, without it"
                raise
        return self._filters.get(link_type)

    def _bound(self, link: Link, style: int, protocol: int, filter: Filter | None = None) -> socket.socket:
        """A socket in this thread's namespace; bound last, so that no packet comes in before all is set."""
        listener = socket.socket(socket.AF_PACKET, style | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK, 0)
        try:
            listener.setsockopt(_SOL_PACKET, _AUXDATA, 1)
            listener.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)
            if filter is not None:
                _attach(listener, filter.program)
            if link.flags & messages.IFF_LOOPBACK:  # each packet would be there twice
                listener.setsockopt(_SOL_PACKET, _IGNORE_OUTGOING, 1)
            if messages.string(link.info().get(messages.IFLA_INFO_KIND, b"")) == "bridge" and protocol:
                # else it hands up only what is for itself, not what it forwards
                request = struct.pack("=iHH8x", link.ifindex, _MR_PROMISC, 0)
                listener.setsockopt(_SOL_PACKET, _ADD_MEMBERSHIP, request)
            listener.bind((link.ifname, protocol))
        except OSError as error:
            listener.close()
            raise KernelError(
                f"can't capture on {link.ifname}: {error.strerror}", errno=error.errno
            ) from error
        return listener


def _chosen(wanted: Wanted, links: dict[str, Link]) -> list[Link]:
    if wanted.ifname in links:
        return [links[wanted.ifname]]
    if not wanted.must:
        return []
    if wanted.ifname is None:
        found = [
            link
            for link in links.values()
            if not link.flags & messages.IFF_LOOPBACK and not (link.ifname in FALLBACKS and not link.up)
        ]
        if not found:
            what = f"container {wanted.node} has no interface but lo"
            raise UsageError(what, hint=f"netorch capture {wanted.node}:lo")
        return found
    whose = "the host" if wanted.node == HOST else f"container {wanted.node}"
    raise UsageError(f"{whose} has no interface {wanted.ifname}", hint="there are: " + ", ".join(links))


def _attach(listener: socket.socket, program: bytes) -> None:
    """SO_ATTACH_FILTER (socket(7))."""
    code = ctypes.create_string_buffer(program, len(program))
    listener.setsockopt(
        socket.SOL_SOCKET, _SO_ATTACH_FILTER, struct.pack("@HP", len(program) // 8, ctypes.addressof(code))
    )


# -- reading ---------------------------------------------------------------------------------------


class Taps:
    """Several taps, read as one stream."""

    def __init__(self, taps: list[Tap], snaplen: int, reborn: Callable[[str], int | None]) -> None:
        self.taps = taps
        self.stopped = False
        self._snaplen, self._reborn = snaplen, reborn
        self._view = memoryview(b"")
        self._poll = select.poll()
        self._stop = -1
        self._listeners: dict[int, int] = {}
        self._watched: dict[int, str] = {}
        self._namespaces: dict[str, int | None] = {}
        self._ended: dict[str, float] = {}
        """Nodes whose first process has ended, and until when (monotonic) another one may come."""
        self._down: dict[int, int] = {}
        """Taps whose link went down, and when: it may come up again, or go for good, which no event tells."""
        self._held: list[Packet] = []

    def begin(self, pids: Mapping[str, int]) -> None:
        """Be ready to read; ``pids`` are the first processes of those nodes that may end."""
        self._view = memoryview(bytearray(self._snaplen))
        self._stop = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._poll.register(self._stop, select.POLLIN)
        size = min(max(_BUFFERS // max(len(self.taps), 1), _SMALLEST_BUFFER), _LARGEST_BUFFER)
        for number, tap in enumerate(self.taps):
            _set_buffer(tap.listener, size)
            self._listeners[tap.listener.fileno()] = number
            self._poll.register(tap.listener, select.POLLIN)
        for node in {tap.node for tap in self.taps if tap.node in pids}:
            self._namespaces[node] = _namespace(pids[node])
            self._watch(node, pids[node])

    def close(self) -> None:
        """Stop listening."""
        for tap in self.taps:
            tap.close()
        for descriptor in self._watched:
            os.close(descriptor)
        self._watched.clear()
        if self._stop >= 0:
            os.close(self._stop)
            self._stop = -1

    def stop(self) -> None:
        """Let ``read`` return, from a signal's handler or another thread: ``stopped`` is then true."""
        self.stopped = True
        with suppress(OSError):
            os.eventfd_write(self._stop, 1)

    def watch_reader(self, descriptor: int) -> None:
        """Let ``read`` raise BrokenPipeError once nobody reads from that pipe any more."""
        mode = os.fstat(descriptor).st_mode
        if stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode):
            self._poll.register(descriptor, 0)

    @property
    def all_gone(self) -> bool:
        """Whether nothing is left to listen to."""
        return not self._listeners

    def read(self, seconds: float | None) -> list[Packet]:
        """The packets of all taps that have come, in the order of time; waits for the first one.

        Empty after ``seconds``, when stopped, or when something other happened.
        """
        if self._held:
            seconds = 0.0
        elif self._ended or self._down:
            seconds = _LOOK if seconds is None else min(_LOOK, seconds)
        waiting = self._held[-1].time if self._held else 0
        ready = self._poll.poll(None if seconds is None else max(0.0, seconds) * 1000)
        begun = time.time_ns()
        complete_until = begun
        for descriptor, events in ready:
            if descriptor in self._listeners:
                complete_until = min(complete_until, self._read_tap(self._listeners[descriptor], begun))
            elif descriptor in self._watched:
                self._note_end(descriptor)
            elif descriptor != self._stop and events & (select.POLLERR | select.POLLHUP):
                raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))
        self._look_for_gone()
        self._look_for_ended()
        return self._in_order(complete_until if waiting <= begun else waiting)  # the clock may be set back

    def rest(self) -> list[Packet]:
        """All that had come when this was called, in the order of time."""
        now = time.time_ns()
        for number in list(self._listeners.values()):
            self._drain(number, now)
        held, self._held = self._held, []
        return sorted((packet for packet in held if packet.time <= now), key=_when)

    def _in_order(self, complete_until: int) -> list[Packet]:
        """What is earlier than anything that is still to be read; the others wait for the next turn."""
        held = sorted(self._held, key=_when)
        done = [packet for packet in held if packet.time <= complete_until]
        self._held = held[len(done) :]
        return done

    def _read_tap(self, number: int, until: int) -> int:
        """Read some packets; the time up to which these are all there are, at most ``until``."""
        tap, held, view, snaplen = self.taps[number], self._held, self._view, self._snaplen
        try:
            for _ in range(_AT_ONCE):
                packet = tap.read(number, view, snaplen)
                if packet is not None:
                    held.append(packet)
                if tap.latest > until:
                    return until
        except BlockingIOError:
            return until
        except OSError as error:
            if error.errno != errno.ENETDOWN:
                raise
            self._down[number] = time.time_ns()
            return self._read_tap(number, until)  # what it got before is still there
        return tap.latest

    def _drain(self, number: int, until: int) -> None:
        while self._read_tap(number, until) < until:
            pass

    def _lose(self, number: int) -> None:
        """It is no more; what it got before is read."""
        tap = self.taps[number]
        if tap.gone:
            return
        tap.gone = True
        self._drain(number, time.time_ns())
        self._poll.unregister(tap.listener)
        del self._listeners[tap.listener.fileno()]
        tap.close()

    def _look_for_gone(self) -> None:
        for number, since in list(self._down.items()):
            tap = self.taps[number]
            if tap.gone or tap.latest > since:
                del self._down[number]
            elif not tap.listener.getsockname()[0]:  # unregistered (packet(7): bound to no interface)
                self._lose(number)

    # -- containers that end --------------------------------------------------------------------------

    def _watch(self, node: str, pid: int) -> None:
        try:
            descriptor = sc.pidfd_open(pid)
        except ProcessLookupError:
            self._ended[node] = time.monotonic() + _GRACE
            return
        self._watched[descriptor] = node
        self._poll.register(descriptor, select.POLLIN)

    def _note_end(self, descriptor: int) -> None:
        node = self._watched.pop(descriptor)
        self._poll.unregister(descriptor)
        os.close(descriptor)
        self._ended[node] = time.monotonic() + _GRACE

    def _look_for_ended(self) -> None:
        for node, deadline in list(self._ended.items()):
            try:
                pid = self._reborn(node)
            except LookupError:
                pid, deadline = None, 0.0
            if pid is None and time.monotonic() < deadline:
                continue
            del self._ended[node]
            if pid is not None and _namespace(pid) == self._namespaces[node]:
                self._watch(node, pid)
                continue
            for number in [n for n in self._listeners.values() if self.taps[n].node == node]:
                self._lose(number)


def _when(packet: Packet) -> int:
    return packet.time


def _namespace(pid: int) -> int | None:
    with suppress(OSError):
        return os.stat(f"/proc/{pid}/ns/net").st_ino
    return None
