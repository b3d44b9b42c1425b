"""Controls: what shows that silence means something.

A check that expects no answer holds in every broken lab.  So what did not answer must be shown to be able to:

- A ping that is to fail: the asking node and the target run and have a carrier, the target has the address,
  and a node near it, else the target itself, gets an answer from it.  Where it answers nobody, a rule on
  the way must have counted the packets.  An address outside the lab must answer the host or another node.
- A TCP or UDP port that is to time out or fail: the same nodes are alive, and the port is open from the
  target itself, or something listens on it there, or (where the target hands connections on) it is open from
  another node; else a rule must have dropped, and counted, the packets.
- ``refused`` needs none: to refuse is to answer.

In a scenario, whose steps may take the target away on purpose, what was shown before its first step counts
too.

Owns: these controls.  Must not: judge the check.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from netns_orch.checks.bench import ECHO_WAIT, TCP_WAIT, UDP_WAIT, Bench
from netns_orch.kernel.probes import Ask
from netns_orch.resources import HOST

_BURST_WAIT = 0.3


class Control(NamedTuple):
    """``proof`` is what was shown; or ``doubt``, what was not."""

    proof: str = ""
    doubt: str = ""


def echo(bench: Bench, source: str, address: str) -> Control:
    """Of a target that did not answer the pings of ``source``."""
    return _or_before(bench, ("echo", source, address, 0), _echo(bench, source, address))


def port(bench: Bench, source: str, kind: str, address: str, number: int, payload: bytes) -> Control:
    """Of a port (``kind`` tcp or udp) that ``source`` could not reach."""
    found = _port(bench, source, kind, address, number, payload)
    return _or_before(bench, (kind, source, address, number), found)


def remember(bench: Bench, asks: Iterable[Ask]) -> None:
    """Note what can be shown now of targets that are not to answer these questions later."""
    for one in asks:
        if one.kind == "echo":
            found = _echo(bench, one.node, one.address)
        else:
            found = _port(bench, one.node, one.kind, one.address, one.port, one.payload)
        if not found.doubt:
            bench.proofs[one.kind, one.node, one.address, one.port] = found.proof


def _or_before(bench: Bench, key: tuple[str, str, str, int], found: Control) -> Control:
    if found.doubt and key in bench.proofs:
        return Control(proof=f"before the scenario: {bench.proofs[key]}")
    return found


def _echo(bench: Bench, source: str, address: str) -> Control:
    owner = bench.owner(address)
    if doubt := _asking(bench, source) or _target(bench, owner, address):
        return Control(doubt=doubt)
    me = bench.root(source)
    nodes = bench.others([me]) if owner is None else [*bench.near(address, [me, owner]), owner]
    for node, heard in zip(
        nodes, bench.ask([Ask(n, "echo", address) for n in nodes], ECHO_WAIT), strict=True
    ):
        if heard.kind == "answered":
            return Control(proof=f"{address} answers {'itself' if node == owner else node}")
    if owner is None:
        return Control(doubt=f"{address} is no address of the lab, and answers nobody in it")
    if rule := _dropped(bench, Ask(source, "echo", address)):
        return Control(proof=f"{rule}, and {owner} is up")
    return Control(
        doubt=f"{address} answers nobody, not even {owner} itself, and no rule has dropped the packets"
    )


def _port(bench: Bench, source: str, kind: str, address: str, number: int, payload: bytes) -> Control:
    owner = bench.owner(address)
    if doubt := _asking(bench, source) or _target(bench, owner, address):
        return Control(doubt=doubt)
    if owner is not None:
        if _opens(bench, [owner], kind, address, number, payload):
            return Control(proof=f"port {number} is open from {owner} itself")
        if any(
            one.protocol == kind and one.port == number and one.serves(address)
            for one in bench.prober.listeners(owner)
        ):
            return Control(proof=f"{owner} listens on port {number}")
    others = bench.others([bench.root(source), owner or ""])
    if node := _opens(bench, others, kind, address, number, payload):
        return Control(proof=f"port {number} of {address} is open from {node}")
    if owner is not None and (rule := _dropped(bench, Ask(source, kind, address, number, payload))):
        return Control(proof=f"{rule}, and {owner} is up")
    who = owner or address
    return Control(doubt=f"{kind} port {number} of {who} is not open for anybody, not even for {who} itself")


def _dropped(bench: Bench, ask: Ask) -> str:
    """The rule that drops such packets, and has counted them."""

    def send(address: str) -> None:
        bench.prober.ask([ask._replace(node=bench.root(ask.node), address=address)] * 3, _BURST_WAIT)

    lost = bench.lost_at(ask.node, ask.address, send if ask.kind != "echo" else None)
    return lost.why if lost is not None and lost.kind == "filter" else ""


def _opens(
    bench: Bench, nodes: list[str], kind: str, address: str, number: int, payload: bytes
) -> str | None:
    """The first of the nodes that the port answers."""
    wait = TCP_WAIT if kind == "tcp" else UDP_WAIT
    asks = [Ask(node, kind, address, number, payload) for node in nodes]
    heard = zip(nodes, bench.ask(asks, wait), strict=True)
    return next((node for node, one in heard if one.kind == "answered"), None)


def _asking(bench: Bench, node: str) -> str:
    """What keeps the asking node from reaching anybody at all."""
    root = bench.root(node)
    for name in dict.fromkeys((node, root)):
        if (state := bench.prober.state(name)) == "dead":
            return f"container {name} is {state}"
    carriers = bench.prober.carriers(root)
    if root != HOST and carriers and not any(carriers.values()):
        return f"no interface of {root} has a carrier"
    return ""


def _target(bench: Bench, owner: str | None, address: str) -> str:
    """What keeps the target from answering anybody at all."""
    if owner is None:
        return ""
    if (state := bench.prober.state(owner)) != "running":
        return f"container {owner} is {state}"
    attachment = bench.prober.attachment(owner, address)
    if attachment is None:
        return f"{owner} does not have the address {address}"
    if not attachment.up or not attachment.carrier:
        what = "has no carrier" if attachment.up else "is down"
        return f"{attachment.ifname} of {owner}, which has {address}, {what}"
    return ""
