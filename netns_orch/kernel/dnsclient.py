"""A small DNS client: A and AAAA of a name, asked of one server (RFC 1035, RFC 3596, RFC 7766).

Owns: queries and how answers are read.  Must not: know whose resolv.conf it is; cache.
"""

from __future__ import annotations

import random
import socket
import struct
import time
from collections.abc import Iterator
from typing import NamedTuple

PORT = 53
A, CNAME, AAAA = 1, 5, 28
_IN, _RECURSION, _TRUNCATED, _ANSWER = 1, 0x0100, 0x0200, 0x8000
_HEADER = struct.Struct("!6H")
_RECORD = struct.Struct("!HHIH")
_CODES = {1: "format error", 2: "server failure", 3: "no such name", 4: "not implemented", 5: "refused"}
"""RCODE (RFC 1035 4.1.1)."""
_LIMIT = 65535
_JUMPS = 64
NO_SUCH_NAME, REFUSED = 3, 5


class Answer(NamedTuple):
    """What a server says: the addresses, and the response code (0: no error)."""

    addresses: tuple[str, ...]
    code: int = 0

    @property
    def words(self) -> str:
        """The response code in words."""
        return _CODES.get(self.code, f"code {self.code}") if self.code else "no error"


class ResolvConf(NamedTuple):
    """What resolv.conf(5) says: servers, domains to search, how many dots make a name absolute."""

    servers: tuple[str, ...]
    search: tuple[str, ...]
    ndots: int = 1

    def candidates(self, name: str) -> list[str]:
        """The names to ask for, in order."""
        if name.endswith("."):
            return [name]
        local = [f"{name}.{domain.strip('.')}." for domain in self.search]
        return [f"{name}.", *local] if name.count(".") >= self.ndots else [*local, f"{name}."]


def parse_resolv_conf(text: str) -> ResolvConf:
    """The lines that count; of ``search`` and ``domain`` the last one does."""
    servers: list[str] = []
    search: tuple[str, ...] = ()
    ndots = 1
    for words in map(str.split, text.splitlines()):
        if words[:1] == ["nameserver"] and len(words) > 1:
            servers.append(words[1])
        elif words[:1] in (["search"], ["domain"]):
            search = tuple(words[1:])
        elif words[:1] == ["options"]:
            ndots = next((int(w[6:]) for w in words if w[:6] == "ndots:" and w[6:].isdigit()), ndots)
    return ResolvConf(tuple(servers), search, ndots)


def query(server: str, name: str, kind: int, timeout: float) -> Answer:
    """Ask ``server`` (an address) from the caller's namespace.  OSError where it does not answer in time."""
    identity = random.randrange(1 << 16)
    labels = [label.encode("idna") for label in name.rstrip(".").split(".") if label]
    question = (
        b"".join(bytes([len(label)]) + label for label in labels) + b"\0" + struct.pack("!2H", kind, _IN)
    )
    packet = _HEADER.pack(identity, _RECURSION, 1, 0, 0, 0) + question
    deadline = time.monotonic() + timeout
    answer = _by_datagram(server, packet, deadline)
    if _HEADER.unpack_from(answer)[1] & _TRUNCATED:
        answer = _by_stream(server, packet, deadline)
    return _read(answer, kind)


def _left(deadline: float) -> float:
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError("timed out")
    return left


def _socket(server: str, kind: socket.SocketKind) -> socket.socket:
    return socket.socket(socket.AF_INET6 if ":" in server else socket.AF_INET, kind | socket.SOCK_CLOEXEC)


def _by_datagram(server: str, packet: bytes, deadline: float) -> bytes:
    with _socket(server, socket.SOCK_DGRAM) as asking:
        asking.connect((server, PORT))
        asking.send(packet)
        while True:
            asking.settimeout(_left(deadline))
            answer = asking.recv(_LIMIT)
            if len(answer) >= _HEADER.size and answer[:2] == packet[:2] and answer[2] & 0x80:
                return answer


def _by_stream(server: str, packet: bytes, deadline: float) -> bytes:
    with _socket(server, socket.SOCK_STREAM) as asking:
        asking.settimeout(_left(deadline))
        asking.connect((server, PORT))
        asking.sendall(struct.pack("!H", len(packet)) + packet)
        (size,) = struct.unpack("!H", _exactly(asking, 2, deadline))
        return _exactly(asking, size, deadline)


def _exactly(asking: socket.socket, size: int, deadline: float) -> bytes:
    data = b""
    while len(data) < size:
        asking.settimeout(_left(deadline))
        piece = asking.recv(size - len(data))
        if not piece:
            raise ConnectionError("the server closed the connection")
        data += piece
    return data


def _read(packet: bytes, kind: int) -> Answer:
    """The addresses of an answer; ConnectionError where it is none."""
    try:
        _, flags, questions, answers, _, _ = _HEADER.unpack_from(packet)
        at = _HEADER.size
        for _ in range(questions):
            at = _skip_name(packet, at) + 4
        return Answer(tuple(_addresses(packet, at, answers, kind)), flags & 15)
    except (struct.error, IndexError, ValueError):
        raise ConnectionError("the server's answer can't be read") from None


def _addresses(packet: bytes, at: int, count: int, kind: int) -> Iterator[str]:
    for _ in range(count):
        at = _skip_name(packet, at)
        found, _, _, size = _RECORD.unpack_from(packet, at)
        at += _RECORD.size
        if found == kind:
            yield socket.inet_ntop(
                socket.AF_INET6 if kind == AAAA else socket.AF_INET, packet[at : at + size]
            )
        at += size


def _skip_name(packet: bytes, at: int) -> int:
    for _ in range(_JUMPS * 2):
        length = packet[at]
        if length >= 0xC0:
            return at + 2
        at += 1 + length
        if not length:
            return at
    raise ValueError("a name without an end")
