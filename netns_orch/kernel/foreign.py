"""Firewalls of others on this host: whose rules stand in it, and what in nft drops the packets of a lab.

Owns: telling Docker, podman, libvirt, firewalld and ufw by the names they give their chains and tables; the
judgement of other people's nft tables about a packet that a lab forwards.  Must not: change anything; judge
what iptables made (that is ``forwarding``, which puts accept rules there).

A drop in any base chain of a hook is final (nft(8)), whatever an accept elsewhere said.  So a lab can't open
what these tables forbid, but it can say which chain does, and how its owner lets the lab's bridges pass.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from netns_orch.errors import NetorchError
from netns_orch.kernel import forwarding, netfilter
from netns_orch.kernel.nftables import Chain
from netns_orch.resources import HostTable

_CHAINS = {
    "docker": ("DOCKER", "DOCKER-USER"),
    "podman": ("NETAVARK_FORWARD", "CNI-FORWARD"),
    "libvirt": ("LIBVIRT_FWI",),
    "firewalld": ("FORWARD_ZONES", "FORWARD_direct"),
    "ufw": ("ufw-before-forward",),
}
"""Chains that these make with iptables."""
_TABLES = {
    "docker": "docker-bridges",
    "podman": "netavark",
    "libvirt": "libvirt_network",
    "firewalld": "firewalld",
}
"""Tables that newer ones make with nft."""
FORWARDING = frozenset({"docker", "podman", "libvirt"})
"""Those that switch forwarding on for guests of their own, and never off."""
_DEEPEST = 16
"""Jumps within jumps that nf_tables allows (NFT_JUMP_STACK_SIZE)."""
_WITHOUT_EFFECT = frozenset({"counter", "log", "mangle", "notrack", "ct helper", "ct timeout", "set", "map"})
_INTERFACES = frozenset({"iifname", "oifname", "iif", "oif", "ibrname", "obrname"})

Packet = Mapping[str, str]
"""A packet by meta key (nft(8)); ``state`` is that of its connection.  What is left out is not known."""
Rule = Sequence[Mapping[str, Any]]


class Drop(NamedTuple):
    """A chain that drops packets of some interfaces, and the base chain through which they came there."""

    family: str
    table: str
    base: str
    chain: str
    interfaces: tuple[str, ...]


# -- whose rules ---------------------------------------------------------------------------------


def owners(chains: Sequence[Chain]) -> dict[str, str]:
    """Who of those we know has rules here, and where: ``{"docker": "chain DOCKER-USER", ...}``."""
    names = {chain.name for chain in chains if (chain.family, chain.table) in forwarding.FILTERS}
    names |= forwarding.legacy_chains()
    tables = {chain.table for chain in chains}
    found = {}
    for owner in sorted({*_CHAINS, *_TABLES}):
        chain = next((name for name in _CHAINS.get(owner, ()) if name in names), None)
        if chain is not None:
            found[owner] = f"chain {chain}"
        elif _TABLES.get(owner) in tables:
            found[owner] = f"nft table {_TABLES[owner]}"
    return found


# -- what drops ----------------------------------------------------------------------------------


def problems(chains: Sequence[Chain], table: HostTable, *, bridged: bool) -> list[NetorchError]:
    """What others' nft tables drop of a lab's packets, each with the commands that let them pass.

    ``bridged``: frames within a bridge come to these chains, too (br_netfilter).
    """
    leaving = [name for name, mode in table.forward if mode != "none"]
    inside = [*(name for name, _ in table.forward), *table.switches]
    return [_problem(drop) for drop in drops(chains, leaving, inside, bridged=bridged)]


def drops(
    chains: Sequence[Chain], leaving: Collection[str], inside: Collection[str] = (), *, bridged: bool = False
) -> list[Drop]:
    """The base chains of others that drop what interfaces send to the outside, or what comes back.

    ``leaving`` are interfaces whose packets go there, ``inside`` bridges between whose ports frames go.
    A rule that is not understood (an address, a port) is taken as one that does not match: what is left is
    what becomes of a packet that nobody expected.
    """
    bases = forwarding.of_others(chains)
    texts = {(chain.family, chain.table): _Table.read(chain.family, chain.table) for chain in bases}
    outside = _default_interface() if bases else ""
    found = []
    for base in bases:
        table, by_chain = texts[base.family, base.table], dict[str, list[str]]()
        of_frames = base.family == "bridge"
        tried = [] if of_frames else [(name, packet) for name in leaving for packet in _ways(name, outside)]
        if of_frames or bridged:
            tried += [(name, _within(name, of_frames)) for name in inside]
        for name, packet in tried:
            by = table.judge(base, packet)
            if by is not None and name not in by_chain.setdefault(by, []):
                by_chain[by].append(name)
        found += [Drop(*base[:3], chain, tuple(names)) for chain, names in by_chain.items()]
    return found


def _ways(name: str, outside: str) -> Iterator[Packet]:
    yield {"iifname": name, "oifname": outside, "state": "new"}
    yield {"iifname": outside, "oifname": name, "state": "established"}


def _within(bridge: str, of_frames: bool) -> Packet:
    if of_frames:
        return {"iifname": "", "oifname": "", "ibrname": bridge, "obrname": bridge, "state": "new"}
    return {"iifname": bridge, "oifname": bridge, "state": "new"}


def _default_interface() -> str:
    """Where packets to the outside go; empty where there is no default route."""
    try:
        with open("/proc/thread-self/net/route", encoding="ascii") as file:
            rows = [line.split() for line in file]
    except OSError:
        return ""
    return next((row[0] for row in rows if row[1:2] == ["00000000"] and row[7:8] == ["00000000"]), "")


def _problem(drop: Drop) -> NetorchError:
    name = f"{drop.family} {drop.table} {drop.base}"
    if drop.table == "firewalld":
        added = " ".join(f"--add-interface={interface}" for interface in drop.interfaces)
        hint = f"firewall-cmd --zone=trusted {added}   (with --permanent also after a reload)"
    elif drop.family == "bridge":
        rules = (f"nft insert rule {name} ibrname {interface} accept" for interface in drop.interfaces)
        hint = "; ".join(rules)
    else:
        rules = (
            f"nft insert rule {name} iifname {i} accept; "
            f"nft insert rule {name} oifname {i} ct state established,related accept"
            for i in drop.interfaces
        )
        hint = "; ".join(rules)
    by = "" if drop.chain == drop.base else f" (in its chain {drop.chain})"
    what = (
        f"the host's nft chain {name}{by} drops what it does not know: packets of"
        f" {', '.join(drop.interfaces)} may not pass, and no rule of netorch's can overrule it"
    )
    return NetorchError(what, hint=hint)


# -- the judgement of one table ------------------------------------------------------------------


class _Table:
    """The rules of an nft table by chain, and its sets and maps."""

    def __init__(self, items: Iterable[Mapping[str, Any]]) -> None:
        self._rules: dict[str, list[Rule]] = {}
        self._elements: dict[str, list[Any]] = {}
        for item in items:
            if rule := item.get("rule"):
                self._rules.setdefault(rule["chain"], []).append(rule["expr"])
            for kind in ("set", "map"):
                if named := item.get(kind):
                    self._elements[f"@{named['name']}"] = named.get("elem", [])

    @classmethod
    def read(cls, family: str, name: str) -> _Table:
        """As nft lists it; without rules where it can't, as one that was built without JSON."""
        done = netfilter.run("nft", "-j", "list", "table", family, name)
        try:
            return cls(json.loads(done.stdout)["nftables"] if done.code == 0 else ())
        except (ValueError, KeyError, TypeError):
            return cls(())

    def judge(self, base: Chain, packet: Packet) -> str | None:
        """The chain that drops the packet; None where it passes, or where nft's JSON is not as we know it."""
        try:
            verdict = self._through(base.name, packet, 0)
        except (KeyError, TypeError, ValueError, AttributeError):
            return None
        if verdict is None and base.drops:
            return base.name
        return verdict or None

    def _through(self, chain: str, packet: Packet, depth: int) -> str | None:
        """The chain that drops it, "" where one accepts it, None where the end is reached."""
        for rule in self._rules.get(chain, ()) if depth <= _DEEPEST else ():
            kind, target = self._verdict(rule, packet)
            if kind in ("accept", "queue"):
                return ""
            if kind in ("drop", "reject"):
                return chain
            if kind == "return":
                return None
            if kind == "goto":
                return self._through(target, packet, depth + 1)
            if kind == "jump" and (end := self._through(target, packet, depth + 1)) is not None:
                return end
        return None

    def _verdict(self, rule: Rule, packet: Packet) -> tuple[str, str]:
        """What the rule does with the packet, and where to; empty where it does not match, or nothing."""
        for statement in rule:
            ((kind, about),) = statement.items()
            if kind == "match":
                if not self._matches(about, packet):
                    return "", ""
            elif kind == "vmap":
                return self._mapped(about, packet)
            elif kind in ("accept", "drop", "reject", "return", "queue"):
                return kind, ""
            elif kind in ("jump", "goto"):
                return kind, about["target"]
            elif kind not in _WITHOUT_EFFECT:
                return "", ""
        return "", ""

    def _matches(self, match: Mapping[str, Any], packet: Packet) -> bool:
        value = _value(match["left"], packet)
        if value is None:
            return False
        among = any(_same(element, value) for element in self._listed(match["right"]))
        return among is (match["op"] != "!=")

    def _mapped(self, vmap: Mapping[str, Any], packet: Packet) -> tuple[str, str]:
        value = _value(vmap["key"], packet)
        if value is None:
            return "", ""
        for key, verdict in self._listed(vmap["data"]):
            if _same(key, value):
                ((kind, about),) = verdict.items()
                return kind, about["target"] if about else ""
        return "", ""

    def _listed(self, right: Any) -> list[Any]:
        if isinstance(right, str) and right in self._elements:
            return self._elements[right]
        if isinstance(right, dict) and "set" in right:
            return list(right["set"])
        return right if isinstance(right, list) else [right]


def _value(left: Any, packet: Packet) -> tuple[str, ...] | None:
    """What the packet has there, a word for each part of a concatenation; None: not known."""
    if isinstance(left, dict) and "concat" in left:
        parts = [_value(part, packet) for part in left["concat"]]
        return None if None in parts else tuple(word for part in parts if part for word in part)
    match left:
        case {"meta": {"key": "nfproto"}}:
            return ("ipv4",)
        case {"meta": {"key": key}} if key in _INTERFACES:
            name = packet.get(key if key.endswith("name") else f"{key}name")
            return None if name is None else (name,)
        case {"ct": {"key": "state"}}:
            return (packet["state"],)
        case {"ct": {"key": "status"}}:
            return ("confirmed",)
    return None


def _same(element: Any, value: Sequence[str]) -> bool:
    """Whether an element of a set is the value; a name that ends with ``*`` stands for all that begin so."""
    if isinstance(element, dict):
        element = element.get("elem", {}).get("val", element.get("concat", element))
    words = element if isinstance(element, list) else [element]
    return len(words) == len(value) and all(
        isinstance(word, str) and (word == is_ or (word[-1:] == "*" and is_.startswith(word[:-1])))
        for word, is_ in zip(words, value, strict=True)
    )
