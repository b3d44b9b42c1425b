"""Firewalls: what a container's iptables rules, and the lab's table on the host, do with one packet.

Owns: the common matches of iptables(8), as far as one packet can be judged by them; the forward modes of
bridges.  Must not: guess: a rule that it does not understand is told, and taken as one that does not match.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from ipaddress import ip_network
from itertools import pairwise

from netns_orch.resources import Firewall, HostTable
from netns_orch.trace.lookup import Ip

_ENDS = {"ACCEPT": True, "DROP": False, "REJECT": False}
_JUMPS = 64


@dataclass(frozen=True)
class Packet:
    """One packet at one node."""

    src: Ip
    dst: Ip
    iif: str = ""
    oif: str = ""
    protocol: str = "icmp"
    reply: bool = False
    """Whether it belongs to a connection that was seen here."""


@dataclass
class Judged:
    """What became of it: ``by`` is the rule that dropped it; ``unsure`` rules that were not understood."""

    passes: bool = True
    by: str = ""
    unsure: list[str] = field(default_factory=list)


@dataclass
class _Chain:
    policy: str = "ACCEPT"
    rules: list[list[str]] = field(default_factory=list)


def judge(firewalls: Sequence[Firewall], hook: str, packet: Packet) -> Judged:
    """What the filter tables of one container do with a packet at INPUT, FORWARD or OUTPUT."""
    program = "ip6tables" if packet.dst.version == 6 else "iptables"
    result = Judged()
    for firewall in firewalls:
        if firewall.program == "nftables":
            result.unsure.append("its nftables ruleset")
        elif firewall.program == program:
            _walk(_chains(firewall, result), hook, packet, result)
    return result


def _walk(chains: dict[str, _Chain], hook: str, packet: Packet, result: Judged) -> None:
    end = _through(chains, hook, packet, result, _JUMPS)
    if end is None and chains.get(hook, _Chain()).policy == "DROP":
        result.passes, result.by = False, f"-P {hook} DROP"
    elif end is not None and not _ENDS[end[0]]:
        result.passes, result.by = False, end[1]


def _through(
    chains: dict[str, _Chain], name: str, packet: Packet, result: Judged, jumps: int
) -> tuple[str, str] | None:
    """The target that ended it, and the rule; None where the chain's end was reached."""
    for words in chains.get(name, _Chain()).rules:
        fits, target = _fits(words, packet)
        text = shlex.join(["-A", name, *words])
        if fits is None:
            result.unsure.append(text)
        elif fits and target in _ENDS:
            return target, text
        elif fits and target == "RETURN":
            return None
        elif fits and target in chains and jumps:
            end = _through(chains, target, packet, result, jumps - 1)
            if end is not None:
                return end
    return None


def _fits(words: Sequence[str], packet: Packet) -> tuple[bool | None, str]:
    """Whether a rule matches (None: not understood), and its target."""
    rest, fits, target, inverted = list(words), True, "", False
    while rest:
        option = rest.pop(0)
        if option == "!":
            inverted = True
            continue
        if option in ("-m", "--match", "--comment"):
            rest[:1] = []
            continue
        value = rest.pop(0) if rest else ""
        if option in ("-j", "--jump", "-g", "--goto"):
            return fits, value
        matched = _match(option, value, packet)
        if matched is None:
            return None, target
        fits, inverted = fits and (matched != inverted), False
    return fits, target


def _match(option: str, value: str, packet: Packet) -> bool | None:
    match option:
        case "-s" | "--source" | "--src":
            return any(packet.src in ip_network(part, strict=False) for part in value.split(","))
        case "-d" | "--destination" | "--dst":
            return any(packet.dst in ip_network(part, strict=False) for part in value.split(","))
        case "-i" | "--in-interface":
            return _is_interface(value, packet.iif)
        case "-o" | "--out-interface":
            return _is_interface(value, packet.oif)
        case "-p" | "--protocol":
            return value in ("all", packet.protocol, f"{packet.protocol}v6", f"ipv6-{packet.protocol}")
        case "--ctstate" | "--state":
            return ("ESTABLISHED" if packet.reply else "NEW") in value.split(",")
        case "--dport" | "--sport" | "--dports" | "--sports" | "--tcp-flags" | "--syn":
            return False  # an ICMP packet has none
        case _:
            return None


def _is_interface(pattern: str, name: str) -> bool:
    return name.startswith(pattern[:-1]) if pattern.endswith("+") else name == pattern


def _chains(firewall: Firewall, result: Judged) -> dict[str, _Chain]:
    chains = {name: _Chain() for name in ("INPUT", "FORWARD", "OUTPUT")}
    for words in _filter_rules(firewall):
        command, *rest = words
        if command == "-P" and len(rest) > 1:
            chains.setdefault(rest[0], _Chain()).policy = rest[1]
        elif command == "-N":
            chains.setdefault(rest[0], _Chain())
        elif command in ("-A", "--append"):
            chains.setdefault(rest[0], _Chain()).rules.append(rest[1:])
        elif command in ("-I", "--insert"):
            at = int(rest[1]) - 1 if len(rest) > 1 and rest[1].isdigit() else 0
            rule = rest[2:] if len(rest) > 1 and rest[1].isdigit() else rest[1:]
            chains.setdefault(rest[0], _Chain()).rules.insert(at, rule)
        else:
            result.unsure.append(shlex.join(words))
    return chains


def _filter_rules(firewall: Firewall) -> Iterator[list[str]]:
    """Rules of the table filter as words."""
    for text in firewall.rules:
        words = shlex.split(text)
        tables = [value for word, value in pairwise(words) if word in ("-t", "--table")]
        if tables in ([], ["filter"]):
            yield words[2:] if tables else words
    table = "filter"
    for line in map(str.strip, (firewall.text or "").splitlines()):
        if line.startswith("*"):
            table = line[1:]
        elif table == "filter" and line.startswith(":"):
            chain, policy, *_ = line[1:].split()
            yield ["-N", chain] if policy == "-" else ["-P", chain, policy]
        elif table == "filter" and line.startswith("-"):
            yield shlex.split(line)


# -- the host ------------------------------------------------------------------------------------


def judge_host(table: HostTable | None, iif: str, oif: str | None, names: dict[str, str]) -> Judged:
    """What the lab's table does with a packet between bridges, or (``oif`` None) to the outside.

    ``names`` are those of the lab file by the real ones.
    """
    if table is None:
        return Judged()
    modes = dict(table.forward)
    unsure = [text for _, text in table.rules if "FORWARD" in text]
    if iif in modes and oif in modes:
        between = f"{names.get(iif, iif)} and {names.get(oif or '', oif or '')}"
        by = f"the host does not route between the lab's bridges {between}"
        return Judged(iif == oif or table.router, by, unsure)
    if modes.get(iif) == "none":
        return Judged(False, f"bridge {names.get(iif, iif)} has forward: none", unsure)
    return Judged(unsure=unsure)


def masquerades(firewalls: Sequence[Firewall], packet: Packet) -> bool:
    """Whether a container puts its own address in the place of the packet's source as it leaves."""
    program = "ip6tables" if packet.dst.version == 6 else "iptables"
    for firewall in firewalls:
        for text in firewall.rules if firewall.program == program else ():
            words = shlex.split(text)
            if words[:2] == ["-t", "nat"] and words[2:4] == ["-A", "POSTROUTING"]:
                fits, target = _fits(words[4:], packet)
                if fits and target == "MASQUERADE":
                    return True
    return False
