"""Connection tracking: forgets the lab's connections when it goes, and those of a port when that changes.

Owns: the few messages of ctnetlink that this takes (linux/netfilter/nfnetlink_conntrack.h).
Must not: touch an entry that has no address of the lab, but UDP's to a port that becomes the lab's.
"""

from __future__ import annotations

import errno
import ipaddress
import os
import socket
import struct
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from typing import NamedTuple

from netns_orch.errors import KernelError
from netns_orch.kernel import netfilter
from netns_orch.kernel.netlink import RECEIVE_BUFFER, Channel, Request, attribute, parse
from netns_orch.resources import PublishedPort

_NETLINK_NETFILTER = 12
_GET, _DELETE = (1 << 8) | 1, (1 << 8) | 2
_HEADER = struct.Struct("=BBH")
_TUPLE_ORIG, _TUPLE_REPLY, _ID, _ZONE = 1, 2, 12, 18
_TUPLE_IP, _TUPLE_PROTO = 1, 2
_PROTO_NUM, _PROTO_DST_PORT = 1, 3
_IP_SOURCES, _IP_DESTINATIONS = (1, 3), (2, 4)
"""Of IPv4, of IPv6."""
_PROTOCOLS = {"tcp": socket.IPPROTO_TCP, "udp": socket.IPPROTO_UDP}
_FAMILIES = {4: socket.AF_INET, 6: socket.AF_INET6}
_NESTED = 0x8000
_COUNT = "/proc/sys/net/netfilter/nf_conntrack_count"
Networks = Sequence[ipaddress.IPv4Network | ipaddress.IPv6Network]


def flush_conntrack(prefixes: Sequence[str], netns_fd: int | None = None) -> int:
    """Forget every connection from or to the prefixes (canonical, both families); returns how many."""
    networks = [ipaddress.ip_network(prefix) for prefix in prefixes]
    if not networks:
        return 0
    try:
        return netfilter.in_netns(netns_fd, _flush_here, networks)
    except OSError as error:
        raise KernelError(f"connection tracking: {error.strerror}", errno=error.errno) from error


def forget_ports(
    changes: Iterable[tuple[PublishedPort | None, PublishedPort | None]], netns_fd: int | None = None
) -> int:
    """Forget what a change of published ports (before, after) has made wrong; returns how many connections.

    Those that a port led somewhere, where it goes or leads elsewhere now; and of UDP, where nothing but
    silence ends a flow, those that went to the host itself before the port was published.
    """
    pairs = list(changes)
    old = [before for before, _ in pairs if before is not None]
    new = [after for _, after in pairs if after is not None and after.protocol == "udp"]

    def is_wrong(attributes: dict[int, bytes]) -> bool:
        flow = _flow(attributes)
        led = any(flow.is_to(port) and flow.answered_by == port.to_address for port in old)
        return led or any(flow.is_to(port) and flow.stays_on_host() for port in new)

    families = {_FAMILIES[port.family] for port in [*old, *new]}
    try:
        return netfilter.in_netns(netns_fd, _forget_here, families, is_wrong)
    except OSError as error:
        raise KernelError(f"connection tracking: {error.strerror}", errno=error.errno) from error


def _flush_here(networks: Networks) -> int:
    def is_theirs(attributes: dict[int, bytes]) -> bool:
        return any(address in network for address in _addresses(attributes) for network in networks)

    return _forget_here(_families(networks), is_theirs)


def _forget_here(families: set[int], chosen: Callable[[dict[int, bytes]], bool]) -> int:
    if _is_empty():
        return 0  # asking would load the kernel's module
    sock = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_NETFILTER)
    with Channel(sock, bytearray(RECEIVE_BUFFER)) as channel:
        found = [r for family in sorted(families) for r in _entries(channel, family, chosen)]
        for failure in channel.send(found).failures:
            if failure.errno != errno.ENOENT:  # it has ended by itself
                raise OSError(failure.errno, os.strerror(failure.errno))
    return len(found)


def _is_empty() -> bool:
    try:
        with open(_COUNT, encoding="ascii") as file:
            return int(file.read()) == 0
    except FileNotFoundError:
        return True


def _families(networks: Networks) -> set[int]:
    return {socket.AF_INET if network.version == 4 else socket.AF_INET6 for network in networks}


def _entries(channel: Channel, family: int, chosen: Callable[[dict[int, bytes]], bool]) -> Iterator[Request]:
    """The deletions of the entries of one family that are chosen by their attributes."""
    header = _HEADER.pack(family, 0, 0)
    for message in channel.dump(Request(_GET, 0, header)):
        attributes = parse(message.body, _HEADER.size)
        if chosen(attributes):
            yield Request(_DELETE, 0, header + _identity(attributes))


class _Flow(NamedTuple):
    """A connection as it was sent, and who answers it."""

    protocol: int
    destination: str
    port: int
    answered_by: str

    def is_to(self, port: PublishedPort) -> bool:
        """Whether it was sent to this port of the host."""
        at, address = (port.port, port.address) if port.transit is None else (port.transit, None)
        same_family = (":" in self.destination) == (port.family == 6)
        sent_to = (self.protocol, self.port) == (_PROTOCOLS[port.protocol], at)
        return sent_to and same_family and address in (None, self.destination)

    def stays_on_host(self) -> bool:
        """Whether it was sent to an address of this network namespace, and not led anywhere else."""
        if self.answered_by != self.destination:
            return False
        family = socket.AF_INET6 if ":" in self.destination else socket.AF_INET
        with socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as probe, suppress(OSError):
            probe.bind((self.destination, 0))
            return True
        return False


def _flow(attributes: dict[int, bytes]) -> _Flow:
    sent, answer = (parse(attributes.get(kind, b"")) for kind in (_TUPLE_ORIG, _TUPLE_REPLY))
    to, by = (parse(side.get(_TUPLE_IP, b"")) for side in (sent, answer))
    protocol = parse(sent.get(_TUPLE_PROTO, b""))
    return _Flow(
        int.from_bytes(protocol.get(_PROTO_NUM, b""), "big"),
        _text(to, _IP_DESTINATIONS),
        int.from_bytes(protocol.get(_PROTO_DST_PORT, b""), "big"),
        _text(by, _IP_SOURCES),
    )


def _text(addresses: dict[int, bytes], kinds: Sequence[int]) -> str:
    return next((str(ipaddress.ip_address(addresses[kind])) for kind in kinds if kind in addresses), "")


def _addresses(attributes: dict[int, bytes]) -> list[ipaddress.IPv4Address | ipaddress.IPv6Address]:
    """Sources and destinations as sent, and as answered after NAT."""
    found = []
    for kind in (_TUPLE_ORIG, _TUPLE_REPLY):
        addresses = parse(parse(attributes.get(kind, b"")).get(_TUPLE_IP, b""))
        found += [ipaddress.ip_address(value) for value in addresses.values()]
    return found


def _identity(attributes: dict[int, bytes]) -> bytes:
    names = [(_TUPLE_ORIG | _NESTED, _TUPLE_ORIG), (_ID, _ID), (_ZONE, _ZONE)]
    return b"".join(attribute(kind, attributes[key]) for kind, key in names if key in attributes)
