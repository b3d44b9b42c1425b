"""Bridges and nodes made by hand: what tests of one kernel room stand on, without the rest of netorch."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from collections.abc import Callable, Iterator
from typing import TypeVar

from support.outer import run
from support.outside import CLONE_NEWNET

T = TypeVar("T")
QUIET = 0.4
"""Seconds without an answer that count as none."""


def _call_in(fd: int, function: Callable[[], T]) -> T:
    """Call a function in a thread inside the namespace ``fd``; -1: inside a new one."""
    import ctypes

    results: list[T] = []

    def work() -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        assert (libc.unshare(CLONE_NEWNET) if fd < 0 else libc.setns(fd, CLONE_NEWNET)) == 0
        results.append(function())

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    return results[0]


def _opened(path: str) -> int:
    return os.open(path, os.O_RDONLY | os.O_CLOEXEC)


class Node:
    """A network namespace that lives as long as this object is open: a new one, or one that is there."""

    def __init__(self, there: str | None = None) -> None:
        """``there`` is the path of one, as in /run/netns."""
        new = "/proc/thread-self/ns/net"
        self.fd = _call_in(-1, lambda: _opened(new)) if there is None else _opened(there)
        self.path = f"/proc/{os.getpid()}/fd/{self.fd}"
        if there is None:
            self.run("ip", "link", "set", "lo", "up")

    def close(self) -> None:
        """Let the namespace go."""
        os.close(self.fd)

    def run(self, *argv: str) -> str:
        """Run a command of the host in it; its output."""
        return run("nsenter", f"--net={self.path}", *argv)

    def call(self, function: Callable[[], T]) -> T:
        """Call a function in a thread inside."""
        return _call_in(self.fd, function)

    def udp_socket(self, address: str | None = None, port: int = 0) -> socket.socket:
        """A UDP socket of this namespace, bound where an address is given."""

        def make() -> socket.socket:
            family = socket.AF_INET6 if address and ":" in address else socket.AF_INET
            sock = socket.socket(family, socket.SOCK_DGRAM)
            sock.settimeout(QUIET)
            if address is not None:
                sock.bind((address, port))
            return sock

        return self.call(make)

    def asks(self, address: str, port: int = 7) -> str | None:
        """The answer to a UDP packet; None where there is none within ``QUIET``."""
        with self.udp_socket("::" if ":" in address else None) as sock, contextlib.suppress(OSError):
            sock.sendto(b"?", (address, port))
            return sock.recvfrom(100)[0].decode()
        return None


def reaches(sender: Node, receiver: Node, address: str, port: int = 4000) -> bool:
    """Whether a UDP packet from one node arrives at another's address."""
    with (
        receiver.udp_socket(address, port) as there,
        sender.udp_socket("::" if ":" in address else None) as s,
        contextlib.suppress(OSError),
    ):
        s.sendto(b"?", (address, port))
        there.recvfrom(10)
        return True
    return False


@contextlib.contextmanager
def bridge(name: str, *addresses: str, group: int = 0) -> Iterator[str]:
    """A bridge on the test host, with addresses."""
    run("ip", "link", "add", name, "type", "bridge", "forward_delay", "0", "mcast_snooping", "0")
    try:
        run("ip", "link", "set", name, "addrgenmode", "none", "group", str(group))
        for address in addresses:
            run("ip", "address", "add", address, "dev", name, *(["nodad"] if ":" in address else []))
        run("ip", "link", "set", name, "up")
        yield name
    finally:
        run("ip", "link", "del", name)


@contextlib.contextmanager
def node(port_of: str, *addresses: str, gateways: tuple[str, ...] = ()) -> Iterator[Node]:
    """A node with ``eth0`` on a bridge, addresses and default routes."""
    made = Node()
    try:
        port = f"p{made.fd}"
        run("ip", "link", "add", port, "type", "veth", "peer", "name", "eth0", "netns", made.path)
        made.run("ip", "link", "set", "eth0", "addrgenmode", "none")
        for address in addresses:
            made.run("ip", "address", "add", address, "dev", "eth0", *(["nodad"] if ":" in address else []))
        made.run("ip", "link", "set", "eth0", "up")
        run("ip", "link", "set", port, "addrgenmode", "none")
        run("ip", "link", "set", port, "master", port_of, "up")
        for gateway in gateways:
            made.run("ip", "-6" if ":" in gateway else "-4", "route", "add", "default", "via", gateway)
        # Packets flow when the kernel's link watch ran, up to a second later; asking for a link runs it.
        made.run("ip", "link", "show", "dev", "eth0")
        for ifname in (port, port_of):
            run("ip", "link", "show", "dev", ifname)
        yield made
        run("ip", "link", "del", port)
    finally:
        made.close()
