"""How much TCP carries between two nodes: measured with two sockets of netorch's own.

Owns: the two ends and their threads.  Must not: judge a figure.
"""

from __future__ import annotations

import socket
import threading
import time
from contextlib import suppress

from netns_orch.kernel.nets import Nets, Visit

_PIECE = 256 << 10
_CONNECT = 5.0
_SLOW_START = 0.25
"""The part of the time that is not counted."""


def measure(nets: Nets, source: str, target: str, address: str, seconds: float) -> float:
    """Bits a second that arrive at ``address`` of ``target`` from ``source``, for so long.

    OSError where there is no connection.  The first quarter is left out: TCP begins slowly.
    """
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with _listen(nets, target, family, address) as listener:
        port = listener.getsockname()[1]
        sender = nets.run(lambda visit: _open(visit, source, family))
        sender.settimeout(_CONNECT)
        with sender:
            sender.connect((address, port))
            receiver, _ = listener.accept()
            with receiver:
                return _pump(sender, receiver, seconds)


def _open(visit: Visit, node: str, family: int) -> socket.socket:
    with visit.node(node):
        return socket.socket(family, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)


def _listen(nets: Nets, node: str, family: int, address: str) -> socket.socket:
    listener = nets.run(lambda visit: _open(visit, node, family))
    try:
        listener.bind((address, 0))
        listener.listen(1)
        listener.settimeout(_CONNECT)
    except OSError:
        listener.close()
        raise
    return listener


def _pump(sender: socket.socket, receiver: socket.socket, seconds: float) -> float:
    stop = threading.Event()

    def push() -> None:
        piece = bytes(_PIECE)
        sender.settimeout(0.1)
        while not stop.is_set():
            try:
                sender.send(piece)
            except TimeoutError:
                continue
            except OSError:
                return

    thread = threading.Thread(target=push, name="throughput")
    thread.start()
    try:
        return _count(receiver, seconds)
    finally:
        stop.set()
        thread.join()


def _count(receiver: socket.socket, seconds: float) -> float:
    buffer = bytearray(_PIECE)
    began = time.monotonic()
    counted_from, end = began + seconds * _SLOW_START, began + seconds
    total = 0
    receiver.settimeout(0.1)
    while (now := time.monotonic()) < end:
        with suppress(TimeoutError):
            size = receiver.recv_into(buffer)
            if not size:
                raise ConnectionError("the connection was closed")
            total += size if now >= counted_from else 0
    return total * 8 / (time.monotonic() - counted_from)
