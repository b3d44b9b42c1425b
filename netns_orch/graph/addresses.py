"""Addresses and prefixes as whole numbers, and the pools that addresses are taken from.

Owns: which addresses of a prefix may be given out, and the order in which they are.
Must not: know of links, bridges or files.

``ipaddress`` builds an object and a mask for each step; for ten thousand addresses that alone takes
seconds.  It is used here only to read and to print.
"""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_network
from typing import NamedTuple

from netns_orch.labfile.model import Interface, Network

BITS = {4: 32, 6: 128}


class Net(NamedTuple):
    """A prefix: family 4 or 6, its first address, the length of the prefix."""

    family: int
    base: int
    prefix: int

    @property
    def size(self) -> int:
        """How many addresses it has, the first and the last among them."""
        return 1 << (BITS[self.family] - self.prefix)

    def holds(self, family: int, value: int) -> bool:
        """Whether this address lies in it."""
        return family == self.family and self.base <= value < self.base + self.size

    def covers(self, other: Net) -> bool:
        """Whether all of ``other`` lies in it."""
        return self.prefix <= other.prefix and self.holds(other.family, other.base)

    def overlaps(self, other: Net) -> bool:
        """Whether the two have an address in common."""
        return self.covers(other) or other.covers(self)

    def __str__(self) -> str:
        return f"{ip_text(self.family, self.base)}/{self.prefix}"


class Addr(NamedTuple):
    """An address with the length of its prefix."""

    family: int
    value: int
    prefix: int

    @property
    def net(self) -> Net:
        """The prefix it lies in."""
        host_bits = BITS[self.family] - self.prefix
        return Net(self.family, self.value >> host_bits << host_bits, self.prefix)

    @property
    def ip(self) -> str:
        """The address alone, in canonical form."""
        return ip_text(self.family, self.value)

    @property
    def is_link_local(self) -> bool:
        """IPv6 link-local, fe80::/10 (RFC 4291)."""
        return self.family == 6 and self.value >> 118 == 0xFE80 >> 6

    @property
    def is_loopback(self) -> bool:
        """127.0.0.0/8 (RFC 1122, 3.2.1.3) or ::1 (RFC 4291)."""
        return self.value >> 24 == 127 if self.family == 4 else self.value == 1

    def __str__(self) -> str:
        return f"{self.ip}/{self.prefix}"


def ip_text(family: int, value: int) -> str:
    """An address in the form in which the kernel's tools list it (RFC 5952 for IPv6)."""
    return str(IPv4Address(value) if family == 4 else IPv6Address(value))


def from_interface(interface: Interface) -> Addr:
    """The number form of an address with prefix."""
    return Addr(interface.version, int(interface), interface.network.prefixlen)


def from_network(network: Network) -> Net:
    """The number form of a prefix."""
    return Net(network.version, int(network.network_address), network.prefixlen)


def parse_net(text: str) -> Net:
    """A prefix from text; a ValueError where it is none, or has bits beyond its length."""
    return from_network(ip_network(text))


def given_out(net: Net) -> tuple[int, int]:
    """The first and last address of a prefix that an interface may have.

    Not the network's and the broadcast address (RFC 1812), nor IPv6's subnet-router anycast address
    (RFC 4291 2.6.1); all of a /31 (RFC 3021), /127 (RFC 6164), /32 and /128.
    """
    last = net.base + net.size - 1
    if net.prefix >= BITS[net.family] - 1:
        return net.base, last
    return net.base + 1, last - 1 if net.family == 4 else last


class Pool:
    """The addresses of one prefix: some are taken, the lowest free one comes next."""

    __slots__ = ("_last", "_next", "_taken", "net")

    def __init__(self, net: Net) -> None:
        self.net = net
        self._next, self._last = given_out(net)
        self._taken: set[int] = set()

    def reserve(self, value: int) -> None:
        """Never give out this one."""
        self._taken.add(value)

    def take(self) -> Addr | None:
        """The lowest free address; None when there is none left."""
        while self._next in self._taken:
            self._next += 1
        if self._next > self._last:
            return None
        self._next += 1
        return Addr(self.net.family, self._next - 1, self.net.prefix)


class BlockPool:
    """Blocks of 2 ** ``bits`` addresses of one prefix, none of which overlaps what is reserved."""

    __slots__ = ("_bits", "_last", "_next", "_reserved", "_taken", "net")

    def __init__(self, net: Net, bits: int) -> None:
        self.net = net
        self._bits = bits
        first, last = (net.base, net.base + net.size - 1) if bits else given_out(net)
        self._next, self._last = first >> bits, (last + 1 >> bits) - 1
        self._taken: set[int] = set()
        self._reserved: list[Net] = []

    def reserve(self, value: int) -> None:
        """Never give out the block that holds this address."""
        self._taken.add(value >> self._bits)

    def reserve_net(self, net: Net) -> None:
        """Never give out a block of this prefix."""
        if net.overlaps(self.net):
            self._reserved.append(net)

    def take(self) -> Net | None:
        """The lowest free block; None when there is none left."""
        while self._next <= self._last:
            block = self._next
            beyond = self._beyond(block)
            self._next = beyond or block + 1
            if not beyond and block not in self._taken:
                return Net(self.net.family, block << self._bits, BITS[self.net.family] - self._bits)
        return None

    def _beyond(self, block: int) -> int:
        """The first block after the reserved prefix that this one lies in; 0 where it lies in none."""
        value = block << self._bits
        for net in self._reserved:
            if net.holds(self.net.family, value):
                return max(block + 1, (net.base + net.size) >> self._bits)
        return 0
