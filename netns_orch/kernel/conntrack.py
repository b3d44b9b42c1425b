"""Connection tracking: forgets the lab's connections when it goes.

Owns: the few messages of ctnetlink that this takes (linux/netfilter/nfnetlink_conntrack.h).
Must not: touch an entry that has no address of the lab.
"""

from __future__ import annotations

import errno
import ipaddress
import os
import socket
import struct
from collections.abc import Iterator, Sequence

from netns_orch.errors import KernelError
from netns_orch.kernel import netfilter
from netns_orch.kernel.netlink import RECEIVE_BUFFER, Channel, Request, attribute, parse

_NETLINK_NETFILTER = 12
_GET, _DELETE = (1 << 8) | 1, (1 << 8) | 2
_HEADER = struct.Struct("=BBH")
_TUPLE_ORIG, _TUPLE_REPLY, _ID, _ZONE = 1, 2, 12, 18
_TUPLE_IP = 1
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


def _flush_here(networks: Networks) -> int:
    if _is_empty():
        return 0  # asking would load the kernel's module
    sock = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_NETFILTER)
    with Channel(sock, bytearray(RECEIVE_BUFFER)) as channel:
        found = [r for family in sorted(_families(networks)) for r in _entries(channel, family, networks)]
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


def _entries(channel: Channel, family: int, networks: Networks) -> Iterator[Request]:
    """The deletions of the entries of one family that have an address in the networks."""
    header = _HEADER.pack(family, 0, 0)
    for message in channel.dump(Request(_GET, 0, header)):
        attributes = parse(message.body, _HEADER.size)
        if any(address in network for address in _addresses(attributes) for network in networks):
            yield Request(_DELETE, 0, header + _identity(attributes))


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
