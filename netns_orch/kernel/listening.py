"""Who listens in a network namespace, and what UDP has counted there (proc_net(5), proc_net_snmp in Linux).

Owns: the tables of sockets and the counters below /proc/net.  Must not: connect to anything.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator
from contextlib import suppress
from typing import NamedTuple

_LISTEN = "0A"
_UNCONNECTED = "07"


class Listener(NamedTuple):
    """A socket that takes what comes: its protocol (tcp or udp), address and port."""

    protocol: str
    address: str
    port: int
    queued: int
    """Bytes that wait to be read."""
    inode: int
    """As /proc/PID/fd names it."""
    uid: int = 0
    """Whose it is."""

    def serves(self, address: str) -> bool:
        """Whether it takes what is sent to ``address``."""
        if self.address in ("0.0.0.0", "::"):
            return self.address == "::" or ":" not in address
        return self.address == address


def listeners() -> list[Listener]:
    """Those of the calling thread's namespace."""
    return [
        Listener(protocol, _address(local), port, queued, inode, uid)
        for protocol, state in (("tcp", _LISTEN), ("udp", _UNCONNECTED))
        for table in (protocol, f"{protocol}6")
        for local, port, found, queued, inode, uid in _rows(table)
        if found == state
    ]


def _rows(table: str) -> Iterator[tuple[str, int, str, int, int, int]]:
    with suppress(FileNotFoundError), open(f"/proc/thread-self/net/{table}", encoding="ascii") as rows:
        next(rows)
        for row in rows:
            _, local, _, state, queues, _, _, uid, _, inode, *_ = row.split()
            address, _, port = local.partition(":")
            yield address, int(port, 16), state, int(queues.partition(":")[2], 16), int(inode), int(uid)


def _address(text: str) -> str:
    """The address of such a row: words in host order; IPv4 in IPv6's clothes is IPv4."""
    words = [int(text[at : at + 8], 16) for at in range(0, len(text), 8)]
    packed = struct.pack(f"={len(words)}I", *words)
    if len(packed) == 16 and packed[:12] == bytes(10) + b"\xff\xff":
        packed = packed[12:]
    return socket.inet_ntop(socket.AF_INET if len(packed) == 4 else socket.AF_INET6, packed)


def datagrams_read() -> int:
    """How many datagrams programs of this namespace have read, of both families."""
    total = 0
    with open("/proc/thread-self/net/snmp", encoding="ascii") as file:
        rows = [line.split() for line in file if line.startswith("Udp:")]
    total += int(dict(zip(*rows, strict=False)).get("InDatagrams", 0)) if len(rows) == 2 else 0
    with suppress(FileNotFoundError), open("/proc/thread-self/net/snmp6", encoding="ascii") as file:
        total += next((int(line.split()[1]) for line in file if line.startswith("Udp6InDatagrams")), 0)
    return total
