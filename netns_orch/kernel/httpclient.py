"""A small HTTP client: one GET, from the caller's namespace (RFC 9110, RFC 9112).

Owns: the connection and its deadline.  Redirects are not followed, certificates of https are not checked:
a lab makes its own.  Must not: look up names, or judge the answer.
"""

from __future__ import annotations

import http.client
import io
import socket
import time
from collections.abc import Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, NamedTuple

from netns_orch.errors import MissingFeature

if TYPE_CHECKING:
    import ssl

_LIMIT = 4 << 20
"""Bytes of a body that are read."""


class Page(NamedTuple):
    """Status, reason and body of an answer."""

    status: int
    reason: str
    body: bytes


def get(addresses: Sequence[str], port: int, host: str, path: str, timeout: float, tls: bool = False) -> Page:
    """GET ``path`` of the first of ``addresses`` that accepts a connection; ``host`` is the header's.

    OSError where none does, or the answer takes longer than ``timeout`` seconds or is none of HTTP;
    MissingFeature for ``tls`` where Python has none.
    """
    deadline = time.monotonic() + timeout
    with ExitStack() as open_now:
        sock = open_now.enter_context(_connect(addresses, port, deadline))
        if tls:
            sock = open_now.enter_context(_secured(sock, host))
        connection = http.client.HTTPConnection(host)
        connection.sock = _Timed(sock, deadline)
        try:
            connection.request("GET", path, headers={"User-Agent": "netorch", "Connection": "close"})
            answer = connection.getresponse()
            return Page(answer.status, answer.reason, _body(answer))
        except http.client.HTTPException as error:
            said = str(error).strip() or type(error).__name__
            raise ConnectionError(f"no answer of HTTP: {said}") from None


def _connect(addresses: Sequence[str], port: int, deadline: float) -> socket.socket:
    problem: OSError | None = None
    for address in addresses:
        try:
            return socket.create_connection((address, port), _left(deadline))
        except OSError as error:
            problem = problem or error
    raise problem or OSError("there is no address to connect to")


def _secured(plain: socket.socket, host: str) -> ssl.SSLSocket:
    try:
        import ssl
    except ImportError:
        what = "https takes Python's module ssl, and this Python was built without it"
        raise MissingFeature(what, hint="install OpenSSL's library, and build this Python again") from None
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    try:
        return context.wrap_socket(plain, server_hostname=host)
    except ssl.SSLError as error:  # whose errno is a number of TLS's own: 1 is no EPERM
        raise ConnectionError(f"no TLS there: {(error.reason or str(error)).replace('_', ' ')}") from None


class _Timed:
    """A socket as http.client uses one; whoever made it closes it."""

    def __init__(self, sock: socket.socket, deadline: float) -> None:
        self.sendall = sock.sendall
        self._reading = _Reading(sock, deadline)

    def makefile(self, mode: str) -> io.BufferedReader:
        """What the answer is read from."""
        assert mode == "rb"
        return io.BufferedReader(self._reading)

    def close(self) -> None:
        """Asked for when the answer has begun, which is read on."""


class _Reading(io.RawIOBase):
    """Each read ends at the deadline, however often a byte comes: OSError."""

    def __init__(self, sock: socket.socket, deadline: float) -> None:
        self._socket, self._deadline = sock, deadline

    def readable(self) -> bool:
        """As io wants to know."""
        return True

    def readinto(self, buffer: Any) -> int:
        """As io reads."""
        self._socket.settimeout(_left(self._deadline))
        return self._socket.recv_into(buffer)


def _body(answer: http.client.HTTPResponse) -> bytes:
    body = b""
    while len(body) < _LIMIT and (piece := answer.read1(65536)):
        body += piece
    return body


def _left(deadline: float) -> float:
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError("timed out")
    return left
