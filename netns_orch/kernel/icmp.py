"""Echo requests and what answers them: packets of ICMP (RFC 792) and ICMPv6 (RFC 4443), on raw sockets.

Owns: how such packets are made and read.  Must not: wait, or judge.
"""

from __future__ import annotations

import socket
import struct
from contextlib import suppress
from typing import NamedTuple

ECHO_REQUEST, ECHO_REPLY, UNREACHABLE, EXCEEDED = 8, 0, 3, 11
ECHO_REQUEST6, ECHO_REPLY6, UNREACHABLE6, EXCEEDED6 = 128, 129, 1, 3
_PAYLOAD = b"netorch check"
_ECHO = struct.Struct("!BBHHH")
_CODES = {
    0: "network unreachable", 1: "host unreachable", 2: "protocol unreachable", 3: "port unreachable",
    9: "network prohibited", 10: "host prohibited", 13: "prohibited",
}  # fmt: skip
"""Of destination unreachable (RFC 792, RFC 1812 5.2.7.1)."""
_CODES6 = {0: "no route", 1: "prohibited", 3: "address unreachable", 4: "port unreachable"}
_SOL_RAW, _ICMP_FILTER = 255, 1
"""raw(7); the filter is a bit mask of types that are kept away."""
_ICMP6_FILTER = 1
"""RFC 3542 3.2, linux/icmpv6.h: 256 bits, one for each type that is kept away."""
_SO_RCVBUFFORCE = 33
_FULL = 1 << 22
"""Bytes that a socket holds: answers may come faster than they are read."""


class Message(NamedTuple):
    """What one packet says of one request."""

    kind: str
    """reply | exceeded | unreachable"""
    words: str
    sequence: int


def open_socket(six: bool) -> socket.socket:
    """A raw socket of the calling thread's namespace that hears only what may be an answer."""
    family = socket.AF_INET6 if six else socket.AF_INET
    protocol = socket.IPPROTO_ICMPV6 if six else socket.IPPROTO_ICMP
    found = socket.socket(family, socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK, protocol)
    try:
        if six:
            kept = sum(1 << kind for kind in (ECHO_REPLY6, UNREACHABLE6, EXCEEDED6))
            mask = ~kept & ((1 << 256) - 1)
            words = [mask >> 32 * at & 0xFFFF_FFFF for at in range(8)]
            found.setsockopt(socket.IPPROTO_ICMPV6, _ICMP6_FILTER, struct.pack("=8I", *words))
        else:
            kept = sum(1 << kind for kind in (ECHO_REPLY, UNREACHABLE, EXCEEDED))
            found.setsockopt(_SOL_RAW, _ICMP_FILTER, struct.pack("=I", ~kept & 0xFFFF_FFFF))
        with suppress(PermissionError):
            found.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _FULL)
    except OSError:
        found.close()
        raise
    return found


def request(six: bool, id: int, sequence: int) -> bytes:
    """An echo request; of ICMPv6 the kernel makes the check sum."""
    kind = ECHO_REQUEST6 if six else ECHO_REQUEST
    head = _ECHO.pack(kind, 0, 0, id, sequence)
    if not six:
        head = _ECHO.pack(kind, 0, checksum(head + _PAYLOAD), id, sequence)
    return head + _PAYLOAD


def read(six: bool, packet: bytes, id: int) -> Message | None:
    """What a packet says of a request that had ``id``; None where it is about something else."""
    icmp = packet if six else packet[(packet[0] & 15) * 4 :] if packet else b""
    if len(icmp) < _ECHO.size:
        return None
    kind, code = icmp[0], icmp[1]
    reply, unreachable, exceeded = (
        (ECHO_REPLY6, UNREACHABLE6, EXCEEDED6) if six else (ECHO_REPLY, UNREACHABLE, EXCEEDED)
    )
    if kind == reply:
        return _about(icmp, id, "reply", "")
    inner = icmp[8:]
    quoted = inner[40:] if six else inner[(inner[0] & 15) * 4 if inner else 0 :]
    if kind == unreachable:
        return _about(quoted, id, "unreachable", (_CODES6 if six else _CODES).get(code, f"code {code}"))
    return _about(quoted, id, "exceeded", "time to live exceeded") if kind == exceeded else None


def _about(echo: bytes, id: int, kind: str, words: str) -> Message | None:
    if len(echo) < _ECHO.size:
        return None
    _, _, _, whose, sequence = _ECHO.unpack_from(echo)
    return Message(kind, words, sequence) if whose == id else None


def checksum(data: bytes) -> int:
    """The internet check sum (RFC 1071)."""
    padded = data + b"\0" * (len(data) & 1)
    total: int = sum(struct.unpack(f"!{len(padded) // 2}H", padded))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF
