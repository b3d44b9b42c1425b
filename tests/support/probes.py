"""Small programs that run inside containers, and what they answer: real packets, seen from the other end."""

from __future__ import annotations

from collections.abc import Callable

from support.runner import Lab
from support.waiting import until

_TCP = """
import socket, sys
try:
    socket.create_connection((sys.argv[1], int(sys.argv[2])), float(sys.argv[3])).close()
    print("open")
except ConnectionRefusedError:
    print("refused")
except TimeoutError:
    print("timeout")
except OSError as error:
    print(error.strerror)
"""
_HTTP = """
import sys, urllib.request
opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
print(opener.open(sys.argv[1], timeout=5).read().decode(), end="")
"""
_UDP = """
import socket, sys
family = socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET
udp = socket.socket(family, socket.SOCK_DGRAM)
udp.settimeout(5)
udp.connect((sys.argv[1], int(sys.argv[2])))  # else nobody tells that it is refused
udp.send(b"who am i")
print(udp.recv(2048).decode())
"""


def tcp(lab: Lab, node: str, target: str, port: int, seconds: float = 2) -> str:
    """What a connection attempt says: open, refused, timeout, or the kernel's words."""
    return lab.exec(node, "python3", "-I", "-c", _TCP, target, str(port), str(seconds)).stdout.strip()


def listening(lab: Lab, node: str, port: int) -> None:
    """Wait until something in the container listens on the port (looked at from inside)."""
    until(lambda: tcp(lab, node, "127.0.0.1", port) == "open", f"a listener on port {port} in {node}")


def http(lab: Lab, node: str, url: str) -> str:
    """The body that the URL answers with."""
    return lab.exec(node, "python3", "-I", "-c", _HTTP, url).stdout


def udp(lab: Lab, node: str, target: str, port: int) -> str:
    """The answer to one datagram."""
    return lab.exec(node, "python3", "-I", "-c", _UDP, target, str(port)).stdout.strip()


Run = Callable[..., str]
"""Runs a command on the host, or outside of it; its output."""


def http_by(run: Run, url: str) -> str:
    """The body that the URL answers with, asked from somewhere else than a container."""
    return run("python3", "-I", "-c", _HTTP, url)


def udp_by(run: Run, target: str, port: int) -> str:
    """The answer to one datagram from somewhere else than a container."""
    return run("python3", "-I", "-c", _UDP, target, str(port)).strip()


def ttl(lab: Lab, node: str, target: str) -> int:
    """The ttl that one ping's answer arrives with: 64, less one for each router on its way."""
    answer = lab.exec(node, "ping", "-n", "-c1", "-W1", target).stdout
    return int(answer.partition("ttl=")[2].split()[0])
