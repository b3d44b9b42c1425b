"""A small HTTP client: one GET, from the caller's namespace (RFC 9110, RFC 9112).

Owns: the connection and its deadline.  Redirects are not followed, certificates of https are not checked:
a lab makes its own.  Must not: look up names, or judge the answer.
"""

from __future__ import annotations

import http.client
import socket
import ssl
import time
from collections.abc import Sequence
from typing import NamedTuple

_LIMIT = 4 << 20
"""Bytes of a body that are read."""


class Page(NamedTuple):
    """Status, reason and body of an answer."""

    status: int
    reason: str
    body: bytes


def get(addresses: Sequence[str], port: int, host: str, path: str, timeout: float, tls: bool = False) -> Page:
    """GET ``path`` of the first of ``addresses`` that accepts a connection; ``host`` is the header's.

    OSError where none does, or the answer takes longer than ``timeout`` seconds or is none of HTTP.
    """
    deadline = time.monotonic() + timeout
    connection = http.client.HTTPConnection(host)
    connection.sock = _connect(addresses, port, deadline)
    try:
        if tls:
            connection.sock = _secured(connection.sock, host)
        connection.request("GET", path, headers={"User-Agent": "netorch", "Connection": "close"})
        answer = connection.getresponse()
        return Page(answer.status, answer.reason, _body(answer, connection.sock, deadline))
    except http.client.HTTPException as error:
        raise ConnectionError(f"no answer of HTTP: {str(error) or type(error).__name__}") from None
    finally:
        connection.close()


def _connect(addresses: Sequence[str], port: int, deadline: float) -> socket.socket:
    problem: OSError | None = None
    for address in addresses:
        try:
            return socket.create_connection((address, port), _left(deadline))
        except OSError as error:
            problem = problem or error
    raise problem or OSError("there is no address to connect to")


def _secured(plain: socket.socket, host: str) -> ssl.SSLSocket:
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    try:
        return context.wrap_socket(plain, server_hostname=host)
    except ssl.SSLError as error:  # whose errno is a number of TLS's own: 1 is no EPERM
        raise ConnectionError(f"no TLS there: {(error.reason or str(error)).replace('_', ' ')}") from None


def _body(answer: http.client.HTTPResponse, sock: socket.socket | None, deadline: float) -> bytes:
    body = b""
    while len(body) < _LIMIT:
        if sock is not None and sock.fileno() >= 0:
            sock.settimeout(_left(deadline))
        piece = answer.read1(65536)
        if not piece:
            break
        body += piece
        _left(deadline)
    return body


def _left(deadline: float) -> float:
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError("timed out")
    return left
