"""Probes: ICMP echo requests whose TTL grows, and what the nodes on their way counted meanwhile.

Owns: raw sockets in a node's network namespace, packets of ICMP (RFC 792) and ICMPv6 (RFC 4443), counters
of rules that drop, neighbour tables.  Must not: judge; change anything.

Everything is bounded: so many packets, so many milliseconds for each.
"""

from __future__ import annotations

import errno
import os
import re
import select
import socket
import struct
import time
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from netns_orch.kernel import messages, neighbours, netfilter
from netns_orch.kernel.netlink import open_channel

TRIES = 2
WAIT = 0.4
"""Seconds for an answer; a cable with more delay needs ``extra``."""
_BURST_WAIT = 0.1
SILENT = 3
"""So many TTLs without an answer end the probe."""
MOST_HOPS = 32
ECHO_REQUEST, ECHO_REPLY, UNREACHABLE, EXCEEDED = 8, 0, 3, 11
ECHO_REQUEST6, ECHO_REPLY6, UNREACHABLE6, EXCEEDED6 = 128, 129, 1, 3
_PAYLOAD = b"netorch path probe"
_ECHO = struct.Struct("!BBHHH")
_CODES = {
    0: "network unreachable", 1: "host unreachable", 2: "protocol unreachable", 3: "port unreachable",
    9: "network prohibited", 10: "host prohibited", 13: "prohibited",
}  # fmt: skip
"""Of destination unreachable (RFC 792, RFC 1812 5.2.7.1)."""
_CODES6 = {0: "no route", 1: "prohibited", 3: "address unreachable", 4: "port unreachable"}


class Answer(NamedTuple):
    """What was heard of the probes with one TTL."""

    ttl: int
    address: str | None
    kind: str
    """reply | exceeded | unreachable | refused | silence"""
    milliseconds: float | None = None
    words: str = ""


class Facts(NamedTuple):
    """What one node says of itself."""

    dropped: dict[str, int]
    neighbours: dict[tuple[str, str], str]


# -- probes --------------------------------------------------------------------------------------


def trace(source: str | None, destination: str, extra: float = 0.0, most: int = MOST_HOPS) -> list[Answer]:
    """One answer for each TTL from 1 on, until the destination answers; in the caller's namespace.

    ``extra`` seconds more are waited for each.
    """
    answers: list[Answer] = []
    with _Prober(source, destination, WAIT + extra) as prober:
        for ttl in range(1, most + 1):
            answer = prober.ask(ttl)
            answers.append(answer)
            silent = [a.kind for a in answers[-SILENT:]] == ["silence"] * SILENT
            if silent or answer.kind in ("reply", "unreachable", "refused"):
                break
    return answers


def burst(source: str | None, destination: str, count: int = 3) -> None:
    """Some requests with the usual TTL, so that rules on their way have something to count."""
    with _Prober(source, destination, _BURST_WAIT) as prober:
        for _ in range(count):
            prober.ask(64, tries=1)


class _Prober:
    """A raw socket of the namespace of the thread that makes it."""

    def __init__(self, source: str | None, destination: str, wait: float) -> None:
        self._six = ":" in destination
        self._destination, self._wait = destination, wait
        family = socket.AF_INET6 if self._six else socket.AF_INET
        protocol = socket.IPPROTO_ICMPV6 if self._six else socket.IPPROTO_ICMP
        self._socket = socket.socket(family, socket.SOCK_RAW | socket.SOCK_CLOEXEC, protocol)
        self._socket.setblocking(False)
        self._id, self._sequence = os.getpid() & 0xFFFF, 0
        try:
            if source:
                self._socket.bind((source, 0))
        except OSError:
            self._socket.close()
            raise

    def __enter__(self) -> _Prober:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def ask(self, ttl: int, tries: int = TRIES) -> Answer:
        """Send until something answers."""
        level, option = (
            (socket.IPPROTO_IPV6, socket.IPV6_UNICAST_HOPS)
            if self._six
            else (socket.IPPROTO_IP, socket.IP_TTL)
        )
        self._socket.setsockopt(level, option, ttl)
        for _ in range(tries):
            self._sequence += 1
            started = time.monotonic()
            try:
                self._socket.sendto(self._request(), (self._destination, 0))
            except OSError as error:
                return Answer(ttl, None, "refused", words=error.strerror or "")
            for address, kind, words in self._heard(started + self._wait):
                return Answer(ttl, address, kind, (time.monotonic() - started) * 1000, words)
        return Answer(ttl, None, "silence")

    def _request(self) -> bytes:
        kind = ECHO_REQUEST6 if self._six else ECHO_REQUEST
        head = _ECHO.pack(kind, 0, 0, self._id, self._sequence)
        if not self._six:  # of ICMPv6 the kernel makes the check sum
            head = _ECHO.pack(kind, 0, checksum(head + _PAYLOAD), self._id, self._sequence)
        return head + _PAYLOAD

    def _heard(self, deadline: float) -> Iterator[tuple[str, str, str]]:
        while (left := deadline - time.monotonic()) > 0:
            if not select.select([self._socket], [], [], left)[0]:
                return
            try:
                packet, sender = self._socket.recvfrom(2048)
            except OSError as error:
                if error.errno in (errno.EAGAIN, errno.EINTR):
                    continue
                yield self._destination, "unreachable", error.strerror or ""
                continue
            meaning = self._meaning(packet)
            if meaning is not None:
                yield sender[0], *meaning

    def _meaning(self, packet: bytes) -> tuple[str, str] | None:
        """Kind and words of a packet that answers ours; None for any other."""
        icmp = packet if self._six else packet[(packet[0] & 15) * 4 :]
        if len(icmp) < 8:
            return None
        kind, code = icmp[0], icmp[1]
        replies, exceeded, unreachable = (
            (ECHO_REPLY6, EXCEEDED6, UNREACHABLE6) if self._six else (ECHO_REPLY, EXCEEDED, UNREACHABLE)
        )
        if kind == replies:
            return ("reply", "") if self._is_ours(icmp) else None
        if kind not in (exceeded, unreachable) or not self._is_ours(self._inner(icmp)):
            return None
        words = (_CODES6 if self._six else _CODES).get(code, f"code {code}")
        return ("exceeded", "") if kind == exceeded else ("unreachable", words)

    def _inner(self, icmp: bytes) -> bytes:
        """The ICMP part of the packet that an error speaks of."""
        inner = icmp[8:]
        return inner[40:] if self._six else inner[(inner[0] & 15) * 4 if inner else 0 :]

    def _is_ours(self, icmp: bytes) -> bool:
        return len(icmp) >= 8 and _ECHO.unpack_from(icmp)[3:] == (self._id, self._sequence)


def checksum(data: bytes) -> int:
    """The internet check sum (RFC 1071)."""
    padded = data + b"\0" * (len(data) & 1)
    total: int = sum(struct.unpack(f"!{len(padded) // 2}H", padded))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


# -- what a node says of itself --------------------------------------------------------------------


def facts(family: int) -> Facts:
    """Counters and neighbours of the namespace that the calling thread is in."""
    return Facts(dict(_dropped(family)), _neighbours())


def _dropped(family: int) -> Iterator[tuple[str, int]]:
    """Packets by iptables rule or policy that drops or rejects, and by rule of nft that counts."""
    for variant in _variants(family):
        done = netfilter.run(netfilter.program(family, f"{variant}-save"), "-c")
        table = ""
        for line in done.stdout.splitlines() if done.code == 0 else ():
            if line.startswith("*"):
                table = "" if line[1:] == "filter" else f"-t {line[1:]} "
            elif found := _POLICY.match(line):
                yield f"{table}-P {found[1]} DROP", int(found[2])
            elif found := _RULE.match(line):
                yield f"{table}{found[2]}", int(found[1])
    yield from _dropped_by_nft()


def rules() -> str:
    """All rules of the calling thread's namespace with their counters, as their programs print them."""
    parts = []
    for family in (4, 6):
        for variant in _variants(family):
            done = netfilter.run(netfilter.program(family, f"{variant}-save"), "-c")
            parts.append(done.stdout if done.code == 0 else "")
    if netfilter.find_program("nft") is not None:
        parts.append(netfilter.run("nft", "list", "ruleset").stdout)
    return "\n".join(part.strip() for part in parts if part.strip())


_POLICY = re.compile(r":(\S+) DROP \[(\d+):")
_RULE = re.compile(r"\[(\d+):\d+\] (-A .*-j (?:DROP|REJECT)\b.*)")
_NFT_RULE = re.compile(r"^\s+(.*counter packets (\d+) bytes \d+.*\b(?:drop|reject)\b.*)$")
_NFT_HEAD = re.compile(r"^(?:table (\S+ \S+)|\s+chain (\S+)) \{")
_IPTABLES_TABLES = re.compile(r"(ip|ip6) (filter|nat|mangle|raw|security)")
_COUNTER = re.compile(r"counter packets \d+ bytes \d+ ")


def _variants(family: int) -> Sequence[str]:
    """The variants of iptables that have tables here; to list with the legacy one would load its modules."""
    name = "ip6" if family == 6 else "ip"
    nft = netfilter.find_program(netfilter.program(family, "-nft-save")) is not None
    try:
        with open(f"/proc/thread-self/net/{name}_tables_names", encoding="ascii") as file:
            legacy = bool(file.read().strip())
    except OSError:
        legacy = False
    return [*(["-nft"] if nft else []), *(["-legacy"] if legacy else [])]


def _dropped_by_nft() -> Iterator[tuple[str, int]]:
    if netfilter.find_program("nft") is None:
        return
    table = chain = ""
    for line in netfilter.run("nft", "list", "ruleset").stdout.splitlines():
        if head := _NFT_HEAD.match(line):
            table, chain = head[1] or table, head[2] or ""
        elif (found := _NFT_RULE.match(line)) and not _IPTABLES_TABLES.fullmatch(table):
            yield f"nft {table} {chain}: {_COUNTER.sub('', found[1])}", int(found[2])


def _neighbours() -> dict[tuple[str, str], str]:
    """The state of each neighbour by interface and address."""
    with open_channel() as channel:
        names = messages.names_by_index(
            messages.decode_link(message.body) for message in channel.dump(messages.dump_links())
        )
        return {
            (names.get(one.ifindex, ""), one.address): one.state for one in neighbours.neighbours(channel)
        }
