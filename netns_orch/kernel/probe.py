"""Probes: ICMP echo requests whose TTL grows, and what the nodes on their way counted meanwhile.

Owns: raw sockets in a node's network namespace (their packets are ``icmp``'s), counters of rules that drop,
neighbour tables.  Must not: judge; change anything.

Everything is bounded: so many packets, so many milliseconds for each.
"""

from __future__ import annotations

import errno
import random
import re
import select
import socket
import time
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from netns_orch.kernel import icmp, messages, neighbours, netfilter
from netns_orch.kernel.netlink import open_channel

TRIES = 2
WAIT = 0.4
"""Seconds for an answer; a cable with more delay needs ``extra``."""
_BURST_WAIT = 0.1
SILENT = 3
"""So many TTLs without an answer end the probe."""
MOST_HOPS = 32


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
        self._socket = icmp.open_socket(self._six)
        self._id, self._sequence = random.randint(1, 0xFFFF), 0  # several may ask from one node at once
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
            self._sequence = (self._sequence + 1) & 0xFFFF
            started = time.monotonic()
            try:
                packet = icmp.request(self._six, self._id, self._sequence)
                self._socket.sendto(packet, (self._destination, 0))
            except OSError as error:
                return Answer(ttl, None, "refused", words=error.strerror or "")
            for address, kind, words in self._heard(started + self._wait):
                return Answer(ttl, address, kind, (time.monotonic() - started) * 1000, words)
        return Answer(ttl, None, "silence")

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
            message = icmp.read(self._six, packet, self._id)
            if message is not None and message.sequence == self._sequence:
                yield sender[0], message.kind, "" if message.kind == "exceeded" else message.words


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
