"""Reading nf_tables over netlink: which tables and chains there are, and the comments of rules.

Owns: the few messages this takes (linux/netfilter/nf_tables.h).  Must not: change anything: rules are loaded
by nft.

A list of ``nft``'s costs 5 ms, these 0.1.
"""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Iterator
from typing import NamedTuple

from netns_orch.errors import KernelError
from netns_orch.kernel.netlink import RECEIVE_BUFFER, Channel, Message, Request, parse, text

_NETLINK_NETFILTER = 12
_GET_TABLE, _GET_CHAIN, _GET_RULE = (10 << 8) | 1, (10 << 8) | 4, (10 << 8) | 7
_HEADER = struct.Struct("=BBH")
_NAME_OF_TABLE = 1
_CHAIN_TABLE, _CHAIN_NAME, _CHAIN_HOOK, _CHAIN_POLICY = 1, 3, 4, 5
_HOOK_NUMBER = 1
_RULE_TABLE, _RULE_CHAIN, _RULE_USERDATA = 1, 2, 7
_COMMENT = 0
"""The type of a comment among the data that nft keeps with a rule (libnftnl/udata.h)."""
_DROP = 0
_FORWARD = 2
FAMILIES = {1: "inet", 2: "ip", 3: "arp", 5: "netdev", 7: "bridge", 10: "ip6"}
_NUMBERS = {name: number for number, name in FAMILIES.items()}
_FORWARDING = ("inet", "ip", "ip6", "bridge")


class Chain(NamedTuple):
    """A chain of any table."""

    family: str
    table: str
    name: str
    forward: bool
    """Whether it is a base chain of the hook ``forward``."""
    drops: bool
    """Whether its policy is drop."""


def list_tables() -> list[tuple[str, str]]:
    """Family and name of every table of this thread's network namespace."""
    return [
        (_family(message), _string(parse(message.body, _HEADER.size)[_NAME_OF_TABLE]))
        for message in _dump(_GET_TABLE)
    ]


def list_chains() -> list[Chain]:
    """Every chain of this thread's network namespace."""
    return [_chain(message) for message in _dump(_GET_CHAIN)]


def list_comments(family: str, table: str, chain: str) -> list[str]:
    """The comments of a chain's rules, in order; rules without one are left out."""
    chosen = text(_RULE_TABLE, table) + text(_RULE_CHAIN, chain)
    found = []
    for message in _dump(_GET_RULE, _NUMBERS[family], chosen):
        userdata = parse(message.body, _HEADER.size).get(_RULE_USERDATA, b"")
        found += [_string(value) for kind, value in _userdata(userdata) if kind == _COMMENT]
    return found


def _chain(message: Message) -> Chain:
    attributes = parse(message.body, _HEADER.size)
    family = _family(message)
    hook = parse(attributes.get(_CHAIN_HOOK, b"")).get(_HOOK_NUMBER)
    return Chain(
        family,
        _string(attributes[_CHAIN_TABLE]),
        _string(attributes[_CHAIN_NAME]),
        family in _FORWARDING and hook == _FORWARD.to_bytes(4, "big"),
        attributes.get(_CHAIN_POLICY) == _DROP.to_bytes(4, "big"),
    )


def _family(message: Message) -> str:
    number = message.body[0]
    return FAMILIES.get(number, str(number))


def _string(value: bytes) -> str:
    return value.rstrip(b"\0").decode("utf-8", "surrogateescape")


def _userdata(data: bytes) -> Iterator[tuple[int, bytes]]:
    while len(data) >= 2:
        kind, length = data[0], data[1]
        yield kind, data[2 : 2 + length]
        data = data[2 + length :]


def _dump(kind: int, family: int = 0, attributes: bytes = b"") -> list[Message]:
    """[] where the kernel has no nf_tables, or the thing asked about is not there."""
    sock = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_NETFILTER)
    with Channel(sock, bytearray(RECEIVE_BUFFER)) as channel:
        try:
            return channel.dump(Request(kind, 0, _HEADER.pack(family, 0, 0) + attributes))
        except OSError as error:
            if error.errno in (errno.EINVAL, errno.ENOENT, errno.EOPNOTSUPP):
                return []
            what = f"can't read the kernel's nf_tables: {error.strerror}"
            raise KernelError(what, errno=error.errno) from error
