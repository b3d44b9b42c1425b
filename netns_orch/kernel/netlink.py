"""rtnetlink: attributes, and a socket that sends many requests at once and knows which of them failed.

Owns: the wire format below the messages (netlink(7), rtnetlink(7)), acknowledgements, dumps, extended
error texts, and the two ioctls that any socket answers for its own namespace (netdevice(7)).
Must not: know what a message means (that is ``messages``) or what a lab is.

Only the last request of a send asks for an acknowledgement: the kernel reports each failure anyway, with
the sequence number of the request, and goes on with the next.
"""

from __future__ import annotations

import array
import errno
import fcntl
import os
import socket
import struct
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import NamedTuple

NLM_F_REQUEST, NLM_F_ACK, NLM_F_DUMP = 0x1, 0x4, 0x300
NLM_F_REPLACE, NLM_F_EXCL, NLM_F_CREATE, NLM_F_APPEND = 0x100, 0x200, 0x400, 0x800
NLM_F_DUMP_INTR, NLM_F_ACK_TLVS = 0x10, 0x200
NLMSG_ERROR, NLMSG_DONE = 2, 3
NLMSGERR_ATTR_MSG = 1
NLA_F_NESTED = 0x8000
NLA_TYPE_MASK = 0x3FFF
SOL_NETLINK, NETLINK_CAP_ACK, NETLINK_EXT_ACK, NETLINK_GET_STRICT_CHK = 270, 10, 11, 12
SO_RCVBUFFORCE = 33
SIOCGIFFLAGS, SIOCGIFINDEX, SIOCETHTOOL = 0x8913, 0x8933, 0x8946

BATCH = 63
"""Requests in one send: their replies fit into the receive buffer.  A multiple of three: a link is made,
configured and marked by three, and nobody can be killed between requests of one send."""
RECEIVE_BUFFER = 1 << 20
DUMP_TRIES = 8

HEADER = struct.Struct("=IHHII")
_ATTRIBUTE = struct.Struct("=HH")
_PADDING = (b"", b"\0\0\0", b"\0\0", b"\0")
_pack_attribute = _ATTRIBUTE.pack
_pack_u8 = struct.Struct("=HHB3x").pack
_pack_u16 = struct.Struct("=HHH2x").pack
_pack_u32 = struct.Struct("=HHI").pack
_pack_header = HEADER.pack


# -- attributes ------------------------------------------------------------------------------------


def attribute(kind: int, value: bytes) -> bytes:
    """One attribute, padded to four bytes."""
    return _pack_attribute(4 + len(value), kind) + value + _PADDING[len(value) & 3]


def text(kind: int, value: str) -> bytes:
    """A string attribute, with its terminating zero."""
    return attribute(kind, value.encode() + b"\0")


def u8(kind: int, value: int) -> bytes:
    """An attribute of one byte."""
    return _pack_u8(5, kind, value)


def u16(kind: int, value: int) -> bytes:
    """An attribute of two bytes, in host order."""
    return _pack_u16(6, kind, value)


def u32(kind: int, value: int) -> bytes:
    """An attribute of four bytes, in host order."""
    return _pack_u32(8, kind, value)


def parse(data: bytes, start: int = 0, end: int | None = None) -> dict[int, bytes]:
    """The attributes of ``data[start:end]`` by type, flags taken off; the last of a repeated type wins."""
    found: dict[int, bytes] = {}
    end = (len(data) if end is None else end) - 4
    if end < start:
        return found
    numbers = memoryview(data)[: len(data) & ~1].cast("H")  # twice as fast as unpacking each header
    while start <= end:
        place = start >> 1
        length = numbers[place]
        if length < 4:
            break
        found[numbers[place + 1] & NLA_TYPE_MASK] = data[start + 4 : start + length]
        start += (length + 3) & ~3
    return found


def parse_list(data: bytes) -> Iterator[tuple[int, bytes]]:
    """The attributes of ``data`` in order, repeated types included."""
    start = 0
    while start + 4 <= len(data):
        length, kind = _ATTRIBUTE.unpack_from(data, start)
        if length < 4:
            return
        yield kind & NLA_TYPE_MASK, data[start + 4 : start + length]
        start += (length + 3) & ~3


# -- requests and replies --------------------------------------------------------------------------


class Request(NamedTuple):
    """One message: its type, flags beyond NLM_F_REQUEST, and the body (header and attributes)."""

    kind: int
    flags: int
    body: bytes

    def encode(self, sequence: int = 0, more_flags: int = 0) -> bytes:
        """The whole message, as it goes to the kernel."""
        length = HEADER.size + len(self.body)
        return (
            _pack_header(length, self.kind, self.flags | NLM_F_REQUEST | more_flags, sequence, 0) + self.body
        )


class Message(NamedTuple):
    """One received message."""

    kind: int
    flags: int
    sequence: int
    body: bytes


class Failure(NamedTuple):
    """A request (by its position in the sequence given) that the kernel refused."""

    position: int
    errno: int
    words: str
    """The kernel's own explanation (extended acknowledgement); else that of the errno."""


class Reply(NamedTuple):
    """What came back for a sequence of requests."""

    failures: list[Failure]
    messages: list[Message]


def split(data: bytes) -> Iterator[Message]:
    """The messages of one datagram."""
    start = 0
    unpack = HEADER.unpack_from
    while start + 16 <= len(data):
        length, kind, flags, sequence, _ = unpack(data, start)
        if length < 16 or start + length > len(data):
            raise OSError(errno.EBADMSG, "a netlink message is cut short")
        yield Message(kind, flags, sequence, data[start + 16 : start + length])
        start += (length + 3) & ~3


def failure_of(message: Message, position: int) -> Failure | None:
    """The failure that an NLMSG_ERROR (or NLMSG_DONE) message reports; None for a plain acknowledgement."""
    if len(message.body) < 4:
        return None
    number = -struct.unpack_from("=i", message.body)[0]
    if number <= 0:
        return None
    words = ""
    if message.flags & NLM_F_ACK_TLVS:
        # NETLINK_CAP_ACK: only the header of the request comes back between the errno and the words.
        offset = 4 if message.kind == NLMSG_DONE else 20
        words = parse(message.body, offset).get(NLMSGERR_ATTR_MSG, b"").rstrip(b"\0").decode(errors="replace")
    return Failure(position, number, words or os.strerror(number))


# -- the socket ------------------------------------------------------------------------------------


class Channel:
    """An rtnetlink socket; it stays with the namespace of the thread that opened it."""

    def __init__(self, sock: socket.socket, buffer: bytearray) -> None:
        self._socket = sock
        self._sequence = 0
        self._buffer = buffer
        self._indexes: dict[str, int] = {}

    def __enter__(self) -> Channel:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._socket.close()

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()

    def send(self, requests: Sequence[Request]) -> Reply:
        """Send all requests, ``BATCH`` at a time, and collect failures and answers."""
        reply = Reply([], [])
        for first in range(0, len(requests), BATCH):
            self._send_batch(requests[first : first + BATCH], first, reply)
        return reply

    def _send_batch(self, requests: Sequence[Request], first: int, reply: Reply) -> None:
        base = self._sequence + 1
        self._sequence = last = self._sequence + len(requests)
        parts: list[bytes] = []
        for sequence, (kind, flags, body) in enumerate(requests, base):
            flags |= NLM_F_REQUEST | (NLM_F_ACK if sequence == last else 0)
            parts.append(_pack_header(16 + len(body), kind, flags, sequence, 0))
            parts.append(body)
        self._socket.send(b"".join(parts))
        done = False
        while not done:
            for message in split(self._receive()):
                if message.sequence < base or message.sequence > last:
                    continue  # of an earlier send that was abandoned
                if message.kind != NLMSG_ERROR:
                    reply.messages.append(message)
                    continue
                failure = failure_of(message, first + message.sequence - base)
                if failure is not None:
                    reply.failures.append(failure)
                done = done or message.sequence == last

    def dump(self, request: Request) -> list[Message]:
        """All messages of a dump, repeated while the kernel says that it changed meanwhile."""
        for _ in range(DUMP_TRIES):
            messages, consistent = self._dump_once(request)
            if consistent:
                break
        return messages

    def _dump_once(self, request: Request) -> tuple[list[Message], bool]:
        self._sequence += 1
        self._socket.send(request.encode(self._sequence, NLM_F_DUMP))
        messages: list[Message] = []
        consistent = True
        while True:
            for message in split(self._receive()):
                if message.sequence != self._sequence:
                    continue
                consistent = consistent and not message.flags & NLM_F_DUMP_INTR
                if message.kind not in (NLMSG_DONE, NLMSG_ERROR):
                    messages.append(message)
                    continue
                failure = failure_of(message, 0)
                if failure is not None:
                    raise OSError(failure.errno, failure.words)
                return messages, consistent

    def _receive(self) -> bytes:
        length = self._socket.recv_into(self._buffer, 0, socket.MSG_TRUNC)
        if length > len(self._buffer):
            # No answer of today's kernels is that long; what was cut off can't be asked for again.
            raise OSError(errno.EMSGSIZE, f"a netlink answer of {length} bytes")
        return bytes(memoryview(self._buffer)[:length])

    def strict(self) -> None:
        """Let the kernel check and honour the filters of dumps (Linux 4.20; else they are ignored)."""
        self._socket.setsockopt(SOL_NETLINK, NETLINK_GET_STRICT_CHK, 1)

    # -- ioctls --

    def index(self, ifname: str) -> int:
        """The index of an interface, remembered; an OSError (ENODEV) where there is none."""
        known = self._indexes.get(ifname)
        if known is None:
            answer = fcntl.ioctl(self._socket, SIOCGIFINDEX, struct.pack("16s24x", ifname.encode()))
            known = self._indexes[ifname] = struct.unpack_from("i", answer, 16)[0]
        return known

    def forget_indexes(self) -> None:
        """Forget the remembered indexes, after interfaces were deleted or made."""
        self._indexes.clear()

    def flags(self, ifname: str) -> int:
        """The flags (IFF_UP ...) of an interface."""
        answer = fcntl.ioctl(self._socket, SIOCGIFFLAGS, struct.pack("16s24x", ifname.encode()))
        return int(struct.unpack_from("H", answer, 16)[0])

    def ethtool(self, ifname: str, command: int, value: int = 0) -> int:
        """An ethtool command that takes or gives one number (struct ethtool_value); the number after it."""
        data = array.array("I", (command, value))
        request = struct.pack("16sP16x", ifname.encode(), data.buffer_info()[0])
        fcntl.ioctl(self._socket, SIOCETHTOOL, request)
        return data[1]


def open_channel(buffer: bytearray | None = None) -> Channel:
    """An rtnetlink socket in the namespace of the calling thread.

    Channels that are used one after the other may share a receive ``buffer`` (of at least 64 KiB).
    """
    sock = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, 0)
    try:
        sock.setsockopt(SOL_NETLINK, NETLINK_CAP_ACK, 1)
        sock.setsockopt(SOL_NETLINK, NETLINK_EXT_ACK, 1)
        try:
            sock.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, RECEIVE_BUFFER)
        except PermissionError:  # not the initial user namespace's root: the system's limit holds
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)
    except BaseException:
        sock.close()
        raise
    return Channel(sock, bytearray(1 << 16) if buffer is None else buffer)
