"""Cables of a running lab: plugged and unplugged, made slow or lossy, put back, shown.

Owns: which cables two names mean, and what a change of them asks of the engine.  Must not: change what the
lab was made from: ``status`` tells such a change as drift, and ``up`` or ``reset`` takes it back.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from netns_orch import engine
from netns_orch import lab as labs
from netns_orch.errors import UsageError
from netns_orch.journal import Applied
from netns_orch.kernel.driver import LabKernel
from netns_orch.labfile import units
from netns_orch.labfile.units import IMPAIRMENTS
from netns_orch.plan import diff
from netns_orch.records import replace
from netns_orch.resources import (
    HOST,
    Address,
    Cable,
    CableEnd,
    Qdisc,
    Resource,
    Route,
    State,
    VirtualInterface,
)


def find(state: State, a: str, b: str | None) -> list[Cable]:
    """The cables between two names (nodes, bridges, ``red:eth1``); with one name all that end there.

    UsageError with what there is where nothing fits.
    """
    cables: list[Cable] = state.of(Cable)
    found = [cable for cable in cables if _joins(cable, a, b)]
    if not found:
        there = sorted({_name(end) for cable in cables for end in (cable.a, cable.b)})
        between = f"between {a} and {b}" if b else f"at {a}"
        raise UsageError(f"there is no cable {between}", hint="ends are: " + ", ".join(there[:30]))
    return found


def _joins(cable: Cable, a: str, b: str | None) -> bool:
    one, other = cable.a, cable.b
    if b is None:
        return _is(one, a) or _is(other, a)
    return (_is(one, a) and _is(other, b)) or (_is(one, b) and _is(other, a))


def _is(end: CableEnd, name: str) -> bool:
    node = end.bridge if end.bridge is not None else end.node
    return name in (node, f"{node}:{end.ifname}")


def _name(end: CableEnd) -> str:
    return end.bridge if end.bridge is not None else f"{end.node}:{end.ifname}"


def switch(lab: str, a: str, b: str | None, *, up: bool, wait: float | None = None) -> list[dict[str, Any]]:
    """Plug the cables in, or unplug them (carrier goes with it); how they are then."""

    def wanted(cable: Cable, now: State) -> Iterator[Resource]:
        there = now.get(cable.key, cable)
        assert isinstance(there, Cable)
        yield replace(there, up=up)
        yield from _qdiscs(now, cable)

    return _change(lab, a, b, wanted, wait)


def impair(
    lab: str, a: str, b: str | None, settings: Mapping[str, str], *, wait: float | None = None
) -> list[dict[str, Any]]:
    """Set impairments (``{"delay": "50ms"}``) at both ends, beside what is there; how they are then."""
    values: dict[str, Any] = {key: parse(key, text) for key, text in settings.items()}

    def wanted(cable: Cable, now: State) -> Iterator[Resource]:
        yield now.get(cable.key, cable)
        there = {(q.owner, q.ifname): q for q in _qdiscs(now, cable)}
        for end in (cable.a, cable.b):
            before = there.get((end.node, end.ifname), Qdisc(owner=end.node, ifname=end.ifname))
            yield replace(before, **values)

    return _change(lab, a, b, wanted, wait)


def parse(key: str, text: str) -> float | int:
    """A setting's value; UsageError for an unknown key or a wrong value."""
    if key not in IMPAIRMENTS:
        raise UsageError(f"unknown setting {key!r}", hint="expected " + ", ".join(IMPAIRMENTS))
    try:
        return IMPAIRMENTS[key](text)
    except units.Wrong as error:
        raise UsageError(f"{key}={text}: {error}", hint=error.hint) from None


def reset(lab: str, a: str, b: str | None, *, wait: float | None = None) -> list[dict[str, Any]]:
    """Put the cables back to what the lab was made with; how they are then."""
    _, applied = labs.known(lab)

    def wanted(cable: Cable, now: State) -> Iterator[Resource]:
        yield cable
        yield from _qdiscs(applied.state, cable)

    return _change(lab, a, b, wanted, wait)


def show(lab: str, a: str, b: str | None) -> list[dict[str, Any]]:
    """How the cables are now."""
    kernel, applied = labs.known(lab)
    now = kernel.observe(applied.state, applied.state)
    return [_row(cable, now) for cable in find(applied.state, a, b)]


def _change(lab: str, a: str, b: str | None, wanted: Any, wait: float | None) -> list[dict[str, Any]]:
    kernel, applied = labs.known(lab)
    chosen = find(applied.state, a, b)
    with labs.working(kernel, "link", wait):
        journal = labs.journal_of(kernel)
        labs.finish_interrupted(kernel, journal)
        _remember(kernel, applied, chosen)
        now = kernel.observe(applied.state, applied.state)
        asked = State(resource for cable in chosen for resource in wanted(cable, now))
        desired = State([*asked.values(), *_dropped(applied.state, now, asked)])
        there = [now[key] for key in desired if key in now]
        todo = diff(desired, State([*there, *_part(now, chosen)]))
        journal.begin("link", todo, kernel.group)
        try:
            engine.run(todo, kernel)
        finally:
            labs.finish_interrupted(kernel, journal)
            journal.end()
        after = kernel.observe(applied.state, applied.state)
    return [_row(cable, after) for cable in chosen]


def _remember(kernel: LabKernel, applied: Applied, chosen: Sequence[Cable]) -> None:
    """Note, before the change, where a queue discipline may be ours that the lab file does not know."""
    ends = {(end.node, end.ifname) for cable in chosen for end in (cable.a, cable.b)}
    noted = {(owner, ifname) for owner, ifname in kernel.records.get("impaired", [])}
    kernel.records["impaired"] = sorted(noted | ends)
    labs.keep_records(kernel, applied)


def _part(now: State, chosen: Sequence[Cable]) -> Iterator[Resource]:
    for cable in chosen:
        if cable.key in now:
            yield now[cable.key]
        yield from _qdiscs(now, cable)


def _dropped(applied: State, now: State, asked: State) -> Iterator[Resource]:
    """What the kernel dropped with the cables that are plugged in again, as the lab was made.

    An interface that goes down takes with it its IPv6 addresses and all routes by it, and by what stands on
    it; nobody but us puts these back.
    """
    plugged = [cable for cable in asked.of(Cable) if cable.up and _is_down(now.get(cable.key))]
    ends = {(end.node, end.ifname) for cable in plugged for end in (cable.a, cable.b)}
    for above in applied.of(VirtualInterface):  # each stands after those below it
        if any((above.container, below) in ends for below in (above.parent, *above.members)):
            ends.add((above.container, above.ifname))
    for address in applied.of(Address):
        if (address.owner, address.ifname) in ends:
            yield address
    for route in applied.of(Route):
        if any((route.owner, hop.dev) in ends for hop in route.hops):
            yield route


def _is_down(cable: Resource | None) -> bool:
    return isinstance(cable, Cable) and not cable.up


def _qdiscs(state: State, cable: Cable) -> list[Qdisc]:
    ends = {(end.node, end.ifname) for end in (cable.a, cable.b)}
    return [qdisc for qdisc in state.of(Qdisc) if (qdisc.owner, qdisc.ifname) in ends]


def _row(cable: Cable, now: State) -> dict[str, Any]:
    there = now.get(cable.key)
    return {
        "a": _name(cable.a),
        "b": _name(cable.b),
        "state": "missing" if not isinstance(there, Cable) else "up" if there.up else "down",
        "mtu": there.mtu if isinstance(there, Cable) else None,
        "impairments": {
            ("host" if q.owner == HOST else q.owner) + f":{q.ifname}": {
                key: getattr(q, key) for key in IMPAIRMENTS if getattr(q, key) is not None
            }
            for q in _qdiscs(now, cable)
        },
    }
