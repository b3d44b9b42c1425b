"""Published ports as nft takes and lists them: DNAT on the way in, masquerading where answers go astray.

Owns: the text of these rules, and what a listing of the lab's table says about them.  Must not: run anything
(``hosttable`` does).

A packet to one of the host's addresses is given the container's as its destination, where it comes in
(``prerouting``) and where the host itself sends it (``output``).  Two kinds of senders would then not be
answered, or answered by somebody they did not ask, and are masqueraded: the host itself, whose source may be
127.0.0.1 (which also needs ``route_localnet`` on the way out; IPv6 has no such leave for ::1), and whoever
sits in a subnet of the container's, the container itself among them.

Each rule has a comment with its port's key and a digest of its definition, so that a listing tells what is
there.  All rules stand in chains of their own, beside those that ``hosttable`` makes from ``HostTable``.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from netns_orch.records import replace
from netns_orch.resources import PublishedPort, digest, published, to_json

CHAIN = "ports"
"""The chain with the DNAT rules, to which those with hooks jump."""
_POSTROUTING = "ports_postrouting"
_CHAINS = {
    CHAIN: "",
    "ports_prerouting": "{ type nat hook prerouting priority -100; policy accept; }",
    "ports_output": "{ type nat hook output priority -100; policy accept; }",
    _POSTROUTING: "{ type nat hook postrouting priority 100; policy accept; }",
}
_JUMPS = ("ports_prerouting", "ports_output")
_NOT_FORWARDED = "{ ::1, fe80::/10 }"
"""IPv6 addresses of the host from which nothing can be sent on: the kernel forwards neither (RFC 4291)."""
_BLOCK = re.compile(r"^\tchain (ports(?:_[a-z]+)?) \{\n(.*?)^\t\}\n\n?", re.MULTILINE | re.DOTALL)
_MARK = re.compile(r"port (\S+):(\d+)/(tcp|udp) ([0-9a-f]+)")
_COMMENT = re.compile(r' comment "(port [^"]+)"$')
_SELECTOR = {4: "ip", 6: "ip6"}


class Mark(NamedTuple):
    """What the comment of a rule says."""

    key: str
    digest: str
    family: int
    address: str | None
    port: int
    protocol: str


class _Rule(NamedTuple):
    chain: str
    text: str
    """As nft lists it, and takes it after ``add rule TABLE CHAIN``."""
    mark: Mark | None


def read_mark(comment: str) -> Mark | None:
    """A comment of ours, taken apart; None for any other."""
    match = _MARK.fullmatch(comment)
    if match is None:
        return None
    host, port, protocol, made_from = match.groups()
    family, address = (6, host[1:-1]) if host.startswith("[") else (4, host)
    key = comment.rpartition(" ")[0]
    return Mark(
        key, made_from, family, None if address in ("0.0.0.0", "::") else address, int(port), protocol
    )


# -- text ----------------------------------------------------------------------------------------


def statements(ports: Iterable[PublishedPort]) -> list[str]:
    """All that makes the ports in a table without any, with ``{T}`` for the table; [] for none."""
    return _anew([rule for port in ports for rule in _rules(port)])


def sample() -> str:
    """A table with one published port of each family: what the kernel must be able to load."""
    ports = [
        PublishedPort(
            protocol="tcp", family=family, port=1, container="c", to_address=to, to_port=1, near=(near,)
        )
        for family, to, near in ((4, "10.0.0.2", "10.0.0.0/24"), (6, "fd00::2", "fd00::/64"))
    ]
    lines = [line.replace("{T}", "inet sample", 1) for line in statements(ports)]
    return "".join(f"{line}\n" for line in ("add table inet sample", *lines))


def changed(listing: str, gone: Iterable[str], come: Sequence[PublishedPort]) -> list[str]:
    """What makes of the ports in a listed table the wanted ones: ``gone`` are keys that are not kept.

    All is made anew in one transaction, what stays as it is listed: so what somebody took away by hand
    (a jump, a hook) is there again.
    """
    left = {*gone, *(port.key for port in come)}
    there = [name for name, _ in _BLOCK.findall(listing)]
    stay = [rule for rule in _listed(listing) if rule.mark is not None and rule.mark.key not in left]
    # What jumps goes before what is jumped to.
    lines = [f"flush chain {{T}} {name}" for name in there]
    lines += [f"delete chain {{T}} {name}" for name in sorted(there, key=lambda name: name == CHAIN)]
    return [*lines, *_anew([*stay, *(rule for port in come for rule in _rules(port))])]


def kept(listing: str, table: str) -> str:
    """The chains of published ports of a listed table, as a text that makes them in the table anew."""
    blocks = "".join(match.group(0) for match in _BLOCK.finditer(listing))
    return f"table {table} {{\n{blocks}}}\n" if blocks else ""


def without(listing: str) -> str:
    """The listing of a table without published ports."""
    return _BLOCK.sub("", listing)


def _anew(rules: Sequence[_Rule]) -> list[str]:
    if not rules:
        return []
    lines = [f"add chain {{T}} {name} {hook}".rstrip() for name, hook in _CHAINS.items()]
    lines += [f"add rule {{T}} {name} fib daddr type local jump {CHAIN}" for name in _JUMPS]
    return [*lines, *(f"add rule {{T}} {rule.chain} {rule.text}" for rule in rules)]


def _rules(port: PublishedPort) -> Iterator[_Rule]:
    ip, there = _SELECTOR[port.family], published(port.to_address, port.family)
    comment = f"{port.key} {_digest(port)}"
    to = f"{ip} daddr {port.to_address} {port.protocol} dport {port.to_port}"
    texts = [
        (CHAIN, f"{_arriving(port)} dnat {ip} to {there}:{port.to_port}"),
        (_POSTROUTING, f"ct status dnat fib saddr type local {to} masquerade"),
    ]
    if port.near:
        near = f"{{ {', '.join(port.near)} }}"
        texts.append((_POSTROUTING, f"ct status dnat {ip} saddr {near} {to} masquerade"))
    return (_Rule(chain, f'{text} comment "{comment}"', read_mark(comment)) for chain, text in texts)


def _arriving(port: PublishedPort) -> str:
    """The packets that are meant."""
    if port.uplink is not None:
        family = "ipv4" if port.family == 4 else "ipv6"
        return f'iifname "{port.uplink}" meta nfproto {family} {port.protocol} dport {port.transit}'
    if port.address is not None:
        to = f"{_SELECTOR[port.family]} daddr {port.address}"
    else:
        to = "meta nfproto ipv4" if port.family == 4 else f"ip6 daddr != {_NOT_FORWARDED}"
    return f"{to} {port.protocol} dport {port.port}"


def _digest(port: PublishedPort) -> str:
    return digest(to_json(replace(port, where=None, intact=True)))


# -- listings ------------------------------------------------------------------------------------


def observe(
    listing: str, known: Iterable[PublishedPort], fingerprints: Mapping[str, str] | None
) -> list[PublishedPort]:
    """The ports of a listed table: as one of ``known`` where it was made from that.

    ``intact`` where the rules are those that were loaded (``fingerprints`` of then, by key; None: not
    compared).
    """
    now = fingerprints_of(listing)
    known_by = {(port.key, _digest(port)): port for port in known}
    found = []
    for chain, _, mark in _listed(listing):
        if chain == CHAIN and mark is not None:
            same = fingerprints is None or fingerprints.get(mark.key) == now[mark.key]
            made_from = known_by.get((mark.key, mark.digest))
            found.append(_unknown(mark) if made_from is None else replace(made_from, intact=same))
    return found


def fingerprints_of(listing: str) -> dict[str, str]:
    """By key, a digest of all rules of each port, and of the chains that they stand in."""
    rules = _listed(listing)
    frame = [rule[:2] for rule in rules if rule.mark is None]
    by_key: dict[str, list[tuple[str, str]]] = {}
    for rule in rules:
        if rule.mark is not None:
            by_key.setdefault(rule.mark.key, []).append(rule[:2])
    return {key: _hash([*frame, *lines]) for key, lines in by_key.items()}


def _hash(lines: Sequence[tuple[str, str]]) -> str:
    return hashlib.sha256("\n".join(map(" ".join, lines)).encode("utf-8", "surrogateescape")).hexdigest()[:16]


def _listed(listing: str) -> list[_Rule]:
    """Every line of the chains of published ports; those without our comment have no mark."""
    found = []
    for chain, body in _BLOCK.findall(listing):
        for line in map(str.strip, body.splitlines()):
            comment = _COMMENT.search(line)
            found.append(_Rule(chain, line, read_mark(comment.group(1)) if comment else None))
    return found


def _unknown(mark: Mark) -> PublishedPort:
    """A port that no definition we know was the reason for: it is to go, or to be made anew."""
    return PublishedPort(
        protocol=mark.protocol,
        family=mark.family,
        address=mark.address,
        port=mark.port,
        container="?",
        to_address="?",
        to_port=0,
        intact=False,
    )
