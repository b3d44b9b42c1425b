"""The verdict: where a packet of the real lab is lost, and why, out of all that was seen.

Owns: which sign counts more than which.  Must not: look anywhere itself.

Counters of rules that drop come first: they have seen the very packets.  Then what the kernel's own state
predicts (a missing route, an unplugged cable, a gateway that nobody has).  Then next hops that do not answer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from netns_orch.trace.walk import Lost, Path, nodes_of


class Measured(NamedTuple):
    """What was heard of a probe with a certain TTL."""

    ttl: int
    address: str | None
    """Who answered; None: nobody."""
    kind: str
    """reply | exceeded | unreachable | refused (the sender's own kernel) | silence"""
    milliseconds: float | None = None
    words: str = ""


@dataclass
class NodeFacts:
    """What is read at a node before and after the probes."""

    dropped: dict[str, int] = field(default_factory=dict)
    """Packets by rule or policy that drops."""
    neighbours: dict[tuple[str, str], str] = field(default_factory=dict)
    """State by interface and address."""


@dataclass
class Verdict:
    """What was measured, and what it means."""

    hops: list[tuple[Measured, str | None]]
    """With the node that answered."""
    reached: bool
    lost: Lost | None
    as_predicted: bool

    def to_json(self) -> dict[str, Any]:
        """The verdict as data."""
        return {
            "reached": self.reached,
            "as_predicted": self.as_predicted,
            "hops": [{**seen._asdict(), "node": node} for seen, node in self.hops],
            "lost": self.lost._asdict() if self.lost else None,
        }


def judge(
    predicted: Path,
    found: Path,
    measured: Sequence[Measured],
    owners: Mapping[str, str | None],
    facts: Mapping[str, tuple[NodeFacts, NodeFacts]],
) -> Verdict:
    """``found`` is predicted from the kernel's state, ``owners`` are nodes by address."""
    hops = [(seen, owners.get(seen.address) if seen.address else None) for seen in measured]
    reached = any(seen.kind == "reply" for seen in measured)
    lost = None if reached else _why(found, hops, facts)
    expected = predicted.there.nodes[1:]
    agrees = all(node in (None, wanted) for (_, node), wanted in zip(hops, expected, strict=False))
    as_predicted = (
        agrees and reached == (predicted.lost is None) and (not reached or len(hops) == len(expected))
    )
    if lost is not None and predicted.lost is not None:
        as_predicted = as_predicted and lost.node == predicted.lost.node
    return Verdict(hops, reached, lost, as_predicted)


def _why(
    found: Path,
    hops: Sequence[tuple[Measured, str | None]],
    facts: Mapping[str, tuple[NodeFacts, NodeFacts]],
) -> Lost:
    nodes = nodes_of(found.there, found.back)
    for node in [*nodes, *(node for node in facts if node not in nodes)]:
        before, after = facts.get(node, (NodeFacts(), NodeFacts()))
        for rule, count in after.dropped.items():
            more = count - before.dropped.get(rule, 0)
            if more > 0:
                hint = f"it counted {more} packets while the probe ran"
                return Lost(node, "filter", f"{node} drops it: {rule}", hint)
    if found.lost is not None:
        return found.lost
    return _unanswered(found, facts) or _unknown(found, hops)


def _unanswered(found: Path, facts: Mapping[str, tuple[NodeFacts, NodeFacts]]) -> Lost | None:
    """The first next hop that its neighbour does not hear of."""
    for way in (found.there, found.back):
        for hop in way.hops if way else ():
            after = facts.get(hop.node, (NodeFacts(), NodeFacts()))[1]
            target = hop.via or (found.dst if way is found.there else found.src)
            if hop.oif and after.neighbours.get((hop.oif, target)) in ("INCOMPLETE", "FAILED"):
                why = f"{target} does not answer {hop.node} on {hop.oif} (no neighbour)"
                return Lost(hop.node, "gateway", why)
    return None


def _unknown(found: Path, hops: Sequence[tuple[Measured, str | None]]) -> Lost:
    refused = next((seen for seen, _ in hops if seen.kind in ("refused", "unreachable")), None)
    if refused is not None:
        node = found.source if refused.kind == "refused" else (_by_ttl(hops).get(refused.ttl) or found.source)
        return Lost(node, "unknown", f"{node} says: {refused.words}")
    answered = [node for _, node in hops if node]
    last = answered[-1] if answered else found.source
    after = found.there.nodes[found.there.nodes.index(last) + 1 :] if last in found.there.nodes else []
    where = f"between {last} and {after[0]}" if after else f"behind {last}"
    return Lost(last, "unknown", f"no sign of it {where}; no rule counted it and no route is missing")


def _by_ttl(hops: Sequence[tuple[Measured, str | None]]) -> dict[int, str | None]:
    return {seen.ttl: node for seen, node in hops}
