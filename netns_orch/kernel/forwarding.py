"""Accept rules for the lab's bridges, where others drop forwarded packets (Docker's FORWARD policy).

Owns: rules with our comment in DOCKER-USER or early in FORWARD, by the variant of iptables that made these
chains.  Must not: list with legacy iptables what they have not loaded (that loads it); touch a rule
without our comment.

What these rules let pass is still judged by the lab's own table, where a drop is final.  What Docker and
libvirt keep from the bridges of their own is still theirs to judge.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

from netns_orch.errors import KernelError
from netns_orch.kernel import netfilter
from netns_orch.kernel.nftables import Chain
from netns_orch.resources import HostTable

DOCKER_USER = "DOCKER-USER"
_GUARDED = re.compile(
    r"^-A (?:(?:FORWARD|DOCKER-BRIDGE) -o (\S+) -j DOCKER$"
    r"|(?:DOCKER(?!-USER)|LIBVIRT_)\S* (?:! -i \S+ )?-o (\S+) -j (?:DROP|REJECT)\b)"
)
"""A rule of Docker's or libvirt's that keeps others' packets from one of their bridges."""
_LIBVIRT = re.compile(r"^-A FORWARD -j LIBVIRT_")
_MARK = re.compile(r"netorch\.([^.]+)\.([0-9a-f]+)")
_NAMES = {4: "ip", 6: "ip6"}
FILTERS = frozenset((name, "filter") for name in _NAMES.values())
"""The nft tables that iptables make, by family and name."""
_FORWARDS = frozenset((*table, "FORWARD") for table in FILTERS)
_OURS = "netorch_"
Chains = Sequence[Chain]


class _Place(NamedTuple):
    """A filter table of one family and variant of iptables, as it is."""

    family: int
    variant: str
    lines: list[str]

    @property
    def chain(self) -> str | None:
        """Where accept rules are honoured; None: nobody drops."""
        if f":{DOCKER_USER} -" in self.lines:
            return DOCKER_USER
        return "FORWARD" if ":FORWARD DROP" in self.lines else None

    @property
    def start(self) -> int:
        """The number of our first rule in its chain: behind libvirt's, which guard its own bridges."""
        if self.chain != "FORWARD":
            return 1
        rules = [line for line in self.lines if line.startswith("-A FORWARD ") and "netorch." not in line]
        return 1 + max((n for n, line in enumerate(rules, 1) if _LIBVIRT.match(line)), default=0)

    def ours(self, comment: str) -> list[tuple[str, ...]]:
        """Our rules in it, as words from ``-A`` on, in order."""
        rules = (tuple(shlex.split(line)) for line in self.lines if comment in line)
        return [rule for rule in rules if _comment_of(rule) == comment]


def settle(chains: Chains, table: HostTable | None, comment: str) -> list[str]:
    """Put our accept rules where they are needed, and take away all others of ours; returns warnings."""
    warnings = []
    for place in _places(chains):
        current, wanted = place.ours(comment), _wanted(place, table, comment)
        if current != wanted:
            problem = _replace(place, current, wanted)
            if problem is not None:
                warnings.append(problem)
    return warnings


def unsettled(chains: Chains, table: HostTable, comment: str) -> list[str]:
    """What our accept rules lack or have too much of, in words; empty where they are as needed."""
    found = []
    for place in _places(chains):
        current, wanted = place.ours(comment), _wanted(place, table, comment)
        if current == wanted:
            continue
        at = f"{netfilter.program(place.family, place.variant)} chain"
        lacking = sum(rule not in current for rule in wanted)
        needless = sum(rule not in wanted for rule in current)
        if lacking:
            found.append(f"{at} {wanted[0][1]} lacks {lacking} of the lab's {len(wanted)} accept rules")
        if needless:
            found.append(f"{at} {current[0][1]} has {needless} accept rules of the lab's that nothing needs")
        if not (lacking or needless):
            found.append(f"{at} {wanted[0][1]} has the lab's accept rules in another order")
    return found


def has_rules(chains: Chains, comment: str) -> bool:
    """Whether any accept rule of ours is there."""
    return any(place.ours(comment) for place in _places(chains))


def labs(chains: Chains) -> Iterator[tuple[str, str]]:
    """The labs (name, id) that accept rules are marked as."""
    for place in _places(chains):
        for line in place.lines:
            match = _MARK.fullmatch(_comment_of(shlex.split(line)) or "") if "netorch." in line else None
            if match:
                yield match.group(1), match.group(2)


def of_others(chains: Chains) -> list[Chain]:
    """The base chains that see forwarded packets, and are neither a lab's nor made by iptables."""
    return [c for c in chains if c.forward and not c.table.startswith(_OURS) and c[:3] not in _FORWARDS]


def legacy_chains() -> set[str]:
    """The chains of the filter tables that legacy iptables hold."""
    loaded = [family for family, name in _NAMES.items() if _legacy_is_loaded(name)]
    lines = (line for family in loaded for place in _saved(family, "-legacy") for line in place.lines)
    return {line[1:].partition(" ")[0] for line in lines if line.startswith(":")}


def _comment_of(rule: Sequence[str]) -> str | None:
    return next((value for word, value in pairwise(rule) if word == "--comment"), None)


def _places(chains: Chains) -> Iterator[_Place]:
    """The filter tables that iptables made: nft's by their chains, legacy ones where they are loaded."""
    for family, name in _NAMES.items():
        made = {chain.name for chain in chains if chain[:2] == (name, "filter")}
        if made & {"FORWARD", DOCKER_USER}:
            yield from _saved(family, "-nft")
        if _legacy_is_loaded(name):
            yield from _saved(family, "-legacy")


def _saved(family: int, variant: str) -> Iterator[_Place]:
    if netfilter.find_program(netfilter.program(family, f"{variant}-save")) is None:
        return
    tables = netfilter.save(family, variant)
    if "filter" in tables:
        yield _Place(family, variant, tables["filter"])


def _legacy_is_loaded(name: str) -> bool:
    try:
        with open(f"/proc/thread-self/net/{name}_tables_names", encoding="ascii") as file:
            return "filter\n" in file.readlines()
    except OSError:
        return False


def _wanted(place: _Place, table: HostTable | None, comment: str) -> list[tuple[str, ...]]:
    chain = place.chain
    if table is None or chain is None:
        return []
    marked = ("-m", "comment", "--comment", comment, "-j")
    rules: list[tuple[str, ...]] = []
    for bridge, _ in table.forward:
        if chain == DOCKER_USER:
            rules += [("-i", bridge, "-o", theirs, *marked, "RETURN") for theirs in _guarded(place)]
        rules += [("-i", bridge, *marked, "ACCEPT"), ("-o", bridge, *marked, "ACCEPT")]
    rules += [("-i", switch, "-o", switch, *marked, "ACCEPT") for switch in table.switches]
    return [("-A", chain, *rule) for rule in rules]


def _guarded(place: _Place) -> list[str]:
    """Bridges that their owners' rules guard: what comes from a lab shall still be judged by them."""
    found = (_GUARDED.match(line) for line in place.lines)
    return list(dict.fromkeys(match[1] or match[2] for match in found if match))


def _replace(place: _Place, current: Iterable[Sequence[str]], wanted: Sequence[Sequence[str]]) -> str | None:
    """Exchange our rules in one transaction; returns a warning where iptables refuses."""
    lines = [f"-D {chain} {shlex.join(words)}" for _, chain, *words in current]
    numbered = enumerate(wanted, place.start)
    lines += [f"-I {chain} {n} {shlex.join(words)}" for n, (_, chain, *words) in numbered]
    text = "".join(f"{line}\n" for line in ("*filter", *lines, "COMMIT"))
    name = netfilter.program(place.family, f"{place.variant}-restore")
    wait = ("-w", str(netfilter.LOCK_SECONDS)) if place.variant == "-legacy" else ()
    done = netfilter.run(name, "--noflush", *wait, stdin=text, host_lock=True)
    if done.code == 0:
        return None
    if not wanted:
        raise KernelError(f"{name} can't remove the lab's accept rules", details=done.words)
    return f"the host drops forwarded packets, and {name} takes no accept rules for the lab: {done.words}"
