"""The outside world of a test host: a network namespace with servers, run as a program of its own.

It prints ``unshared``, reads a line (the interface that was given to it has arrived), prints ``ready``, and
ends when its standard input does, so that it can not outlive the tests.  Its servers tell each client the
address that they see it under: tests of NAT look at that, not at rules.
"""

from __future__ import annotations

import contextlib
import ctypes
import http.server
import os
import socket
import subprocess
import sys
import threading

CLONE_NEWNET = 0x40000000
INTERFACE = "uplink"
HTTP_PORT = 80
ECHO_PORT = 7
HOST_ADDRESSES = ("203.0.113.2/24", "2001:db8:ffff::2/64")
"""Of the test host; the outside has no route to anything behind it."""
ADDRESSES = ("203.0.113.1/24", "2001:db8:ffff::1/64")
IPV4, IPV6 = (address.partition("/")[0] for address in ADDRESSES)


def _plain(address: str) -> str:
    return address.removeprefix("::ffff:")


class _WhoAmI(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        body = f"you are {_plain(self.client_address[0])}\n".encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing: what a test wants to know it asks for."""


class _Server(http.server.ThreadingHTTPServer):
    address_family = socket.AF_INET6
    daemon_threads = True


def _echo(udp: socket.socket) -> None:
    while True:
        _data, client = udp.recvfrom(2048)
        with contextlib.suppress(OSError):  # no way back to a client whose address was not masqueraded
            udp.sendto(_plain(client[0]).encode(), client)


def _wire() -> None:
    for address in ADDRESSES:
        subprocess.run(["ip", "address", "add", address, "dev", INTERFACE, *_nodad(address)], check=True)
    for name in ("lo", INTERFACE):
        subprocess.run(["ip", "link", "set", name, "up"], check=True)


def _nodad(address: str) -> list[str]:
    return ["nodad"] if ":" in address else []


def main() -> None:
    """Serve until standard input ends."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "unshare")
    print("unshared", flush=True)
    sys.stdin.readline()
    _wire()
    web = _Server(("::", HTTP_PORT), _WhoAmI)
    threading.Thread(target=web.serve_forever, daemon=True).start()
    udp = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    udp.bind(("::", ECHO_PORT))
    threading.Thread(target=_echo, args=(udp,), daemon=True).start()
    print("ready", flush=True)
    sys.stdin.read()
    os._exit(0)


if __name__ == "__main__":
    main()
