"""Questions asked with real packets, many side by side: ICMP echo, TCP connections, UDP datagrams.

Owns: the sockets of these questions, each opened in the namespace of the node that asks, and one loop that
waits for all of them.  Must not: judge an answer; know what a check is.

A socket belongs to the namespace it was opened in, so one thread asks for any number of nodes.  Nothing
is asked of the nodes themselves: no program runs inside, no process enters.
"""

from __future__ import annotations

import errno
import os
import random
import select
import socket
import time
from collections.abc import Hashable, Iterator, Mapping, Sequence
from typing import NamedTuple

from netns_orch.kernel import icmp, neighbours
from netns_orch.kernel.nets import Gone, Nets, Visit

SIDE_BY_SIDE = 200
"""Questions that are open at once.  Each makes two neighbours, and the kernel keeps some 1,000 for all
namespaces together (arp(7), gc_thresh3)."""
_UNREACHABLE = {
    errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ENETDOWN, errno.EHOSTDOWN, errno.EACCES, errno.EPERM,
    errno.EADDRNOTAVAIL, errno.EINVAL, errno.ENONET, errno.EPROTO, errno.ENOPROTOOPT,
}  # fmt: skip
_LIMIT = 65536


class Ask(NamedTuple):
    """One question: ``echo`` an address, or open a ``tcp`` connection, or send a ``udp`` datagram to it."""

    node: str
    kind: str
    address: str
    port: int = 0
    payload: bytes = b"netorch check\n"
    """Of a datagram."""


class Heard(NamedTuple):
    """What came of a question."""

    kind: str
    """answered | refused | unreachable (``words`` say by whom or why) | silence | failed (not even asked)"""
    seconds: float | None = None
    words: str = ""
    data: bytes = b""
    """Of a datagram that came back."""


def ask(nets: Nets, asks: Sequence[Ask], timeout: float) -> list[Heard]:
    """Ask all, each with ``timeout`` seconds for its answer; what was heard, in the order of the questions.

    Many are asked in turns of ``SIDE_BY_SIDE``, and then what the nodes learned of their neighbours is
    forgotten after each turn.
    """
    heard: list[Heard] = []
    for at in range(0, len(asks), SIDE_BY_SIDE):
        turn = asks[at : at + SIDE_BY_SIDE]
        heard += _turn(nets, turn, timeout)
        if len(asks) > SIDE_BY_SIDE:
            nets.run(_forget)
    return heard


def _turn(nets: Nets, asks: Sequence[Ask], timeout: float) -> list[Heard]:
    with Desk() as desk:
        found = nets.run(lambda visit: desk.open(visit, dict(enumerate(asks))))
        for at in range(len(asks)):
            if at not in found and (refused := desk.send(at)) is not None:
                found[at] = refused
            found.update((number, heard) for number, heard in desk.hear(0))
        deadline = time.monotonic() + timeout
        while len(found) < len(asks) and (left := deadline - time.monotonic()) > 0:
            found.update((number, heard) for number, heard in desk.hear(left))
    return [found.get(at) or Heard("silence") for at in range(len(asks))]


def _forget(visit: Visit) -> None:
    for name in list(visit.pids):
        try:
            with visit.node(name) as channel:
                neighbours.forget_learned(channel)
        except Gone:
            continue


class Desk:
    """Questions that are open, each by a name of the caller's: their sockets, and whom an answer is for."""

    def __init__(self) -> None:
        self._poll = select.poll()
        self._open: dict[Hashable, _Question] = {}
        self._echoes: dict[tuple[str, bool], _Echo] = {}
        self._by_fd: dict[int, Hashable | _Echo] = {}

    def __enter__(self) -> Desk:
        return self

    def __exit__(self, *_: object) -> None:
        for name in list(self._open):
            self.drop(name)
        for echo in self._echoes.values():
            echo.socket.close()

    def open(self, visit: Visit, asks: Mapping[Hashable, Ask]) -> dict[Hashable, Heard]:
        """Open the sockets of questions, in the namespaces of the nodes; those that can't be asked."""
        wrong: dict[Hashable, Heard] = {}
        nodes: dict[str, list[Hashable]] = {}
        for name, one in asks.items():
            if one.kind == "echo" and (one.node, ":" in one.address) in self._echoes:
                self._open[name] = _Question(one, None)
            else:
                nodes.setdefault(one.node, []).append(name)
        for node, names in nodes.items():
            try:
                with visit.node(node):
                    for name in names:
                        self._open[name] = self._question(asks[name])
            except Gone:
                wrong.update(
                    {name: Heard("failed", words=f"container {node} does not run") for name in names}
                )
        return wrong

    def _question(self, one: Ask) -> _Question:
        six = ":" in one.address
        if one.kind == "echo":
            if (one.node, six) not in self._echoes:
                echo = self._echoes[one.node, six] = _Echo(icmp.open_socket(six), six)
                self._by_fd[echo.socket.fileno()] = echo
                self._poll.register(echo.socket, select.POLLIN)
            return _Question(one, None)
        family = socket.AF_INET6 if six else socket.AF_INET
        kind = socket.SOCK_STREAM if one.kind == "tcp" else socket.SOCK_DGRAM
        return _Question(one, socket.socket(family, kind | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK))

    def send(self, name: Hashable) -> Heard | None:
        """Ask; what is known at once, else None."""
        question = self._open[name]
        one, own = question.ask, question.socket
        question.started = time.monotonic()
        try:
            if own is None:
                self._echoes[one.node, ":" in one.address].send(name, one.address)
                return None
            number = own.connect_ex((one.address, one.port))
            if number not in (0, errno.EINPROGRESS):
                raise OSError(number, os.strerror(number))
            if one.kind == "udp":
                own.send(one.payload)
        except OSError as error:
            return refusal(error, time.monotonic() - question.started)
        self._by_fd[own.fileno()] = name
        self._poll.register(own, select.POLLIN if one.kind == "udp" else select.POLLOUT)
        return None

    def hear(self, seconds: float) -> Iterator[tuple[Hashable, Heard]]:
        """Wait for so long at most; the questions that something came for, and what."""
        for fd, _ in self._poll.poll(max(0, seconds * 1000)):
            whose = self._by_fd[fd]
            if isinstance(whose, _Echo):
                for name, kind, words in whose.hear():
                    if name in self._open:
                        yield name, Heard(kind, time.monotonic() - self._open[name].started, words)
            elif whose in self._open:
                heard = self._open[whose].read()
                self.drop(whose)
                yield whose, heard

    def drop(self, name: Hashable) -> None:
        """Close a question; no answer to it is told any more."""
        question = self._open.pop(name, None)
        if question is not None and question.socket is not None:
            if self._by_fd.pop(question.socket.fileno(), None) is not None:
                self._poll.unregister(question.socket)
            question.socket.close()


class _Question:
    """One that is open, with its socket unless that is shared."""

    def __init__(self, one: Ask, own: socket.socket | None) -> None:
        self.ask, self.socket = one, own
        self.started = time.monotonic()

    def read(self) -> Heard:
        """What came of a connection or a datagram."""
        assert self.socket is not None
        seconds = time.monotonic() - self.started
        number = self.socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if number:
            return refusal(OSError(number, os.strerror(number)), seconds)
        if self.ask.kind == "tcp":
            return Heard("answered", seconds)
        try:
            return Heard("answered", seconds, data=self.socket.recv(_LIMIT))
        except OSError as error:
            return refusal(error, seconds)


class _Echo:
    """One raw socket, for all that a node asks in one family."""

    def __init__(self, opened: socket.socket, six: bool) -> None:
        self.socket, self._six = opened, six
        self._id, self._sequence = random.randint(1, 0xFFFF), 0
        self._sent: dict[int, Hashable] = {}

    def send(self, name: Hashable, address: str) -> None:
        """Send one request.  OSError where the kernel refuses."""
        self._sequence = (self._sequence + 1) & 0xFFFF
        self._sent[self._sequence] = name
        self.socket.sendto(icmp.request(self._six, self._id, self._sequence), (address, 0))

    def hear(self) -> Iterator[tuple[Hashable, str, str]]:
        """All that has come in: whose it is, kind and words."""
        while True:
            try:
                packet, sender = self.socket.recvfrom(2048)
            except BlockingIOError:
                return
            except OSError:
                continue  # of a packet sent before: an ICMP error or silence tells the same
            message = icmp.read(self._six, packet, self._id)
            if message is None or message.sequence not in self._sent:
                continue
            name = self._sent.pop(message.sequence)
            if message.kind == "reply":
                yield name, "answered", ""
            else:
                yield name, "unreachable", f"{sender[0]} says: {message.words}"


def refusal(error: OSError, seconds: float | None = None) -> Heard:
    """What an error of a socket means for a question."""
    words = (error.strerror or str(error)).lower()
    if error.errno == errno.ECONNREFUSED:
        return Heard("refused", seconds, words)
    if error.errno == errno.EPERM:
        words += " (by a rule of its own firewall)"
    if error.errno in _UNREACHABLE:
        return Heard("unreachable", seconds, words)
    if error.errno in (errno.ETIMEDOUT, errno.ENOBUFS, errno.EAGAIN):
        return Heard("silence", words=words)
    return Heard("failed", seconds, words)
