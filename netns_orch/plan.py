"""The plan: what differs between two states, in the order in which it is put right.

Owns: ``diff``, the order of changes, and how a plan reads.  Must not: do anything; every decision about
*what* to do is taken here, the engine only does it.

``status`` is the same diff (a plan that is not empty is the drift), ``down`` is the diff to nothing, and
roll-back is the diff back to the state before.  A change is (before, after); its inverse swaps them.

The phases, and why in this order: what disappears makes room before anything new is made; what guards comes
before what it guards (the host's table before any bridge is there); a cgroup and its limits stand before the
first process enters; all of the network is one batch; processes start last; and making a container anew comes
after all that can be done in place, since it is the one step that roll-back can't give back as it was.
"""

from __future__ import annotations

import shlex
from collections.abc import Collection, Iterator, Mapping, Sequence
from enum import IntEnum
from typing import Any, NamedTuple

from netns_orch.records import dataclass, fields, replace
from netns_orch.resources import (
    HOST,
    Address,
    Bridge,
    Cable,
    Cgroup,
    Container,
    Firewall,
    HostPort,
    HostsFile,
    HostSysctl,
    HostTable,
    Layer,
    NetnsName,
    Process,
    PublishedPort,
    Qdisc,
    Resource,
    Route,
    Rule,
    Setup,
    State,
    Sysctl,
    VirtualInterface,
    plain,
    published,
    to_json,
)


class Phase(IntEnum):
    """Changes of one phase are done together, phases one after the other."""

    STOP = 1
    """processes and containers that go"""
    HOST = 2
    """host sysctls"""
    GUARD = 3
    """the lab's table on the host, with its published ports; it also keeps the sysctls' previous values"""
    LAYER = 4
    """archives that roots are made of"""
    CGROUP = 5
    FILES = 6
    CONTAINER = 7
    NAME = 8
    NETWORK = 9
    INTERFACE = 10
    """host sysctls of the lab's own interfaces, which are there now"""
    FIREWALL = 11
    SETUP = 12
    PROCESS = 13
    ANEW = 14
    """containers made anew, each with its setup and process"""
    RELEASE = 15
    """cgroups, layers, names and host sysctls that go"""
    UNGUARD = 16
    """the lab's table goes last"""


class Change(NamedTuple):
    """One difference: ``before`` is None where it is made, ``after`` where it goes."""

    before: Resource | None
    after: Resource | None
    phase: Phase
    cause: str = ""

    @property
    def resource(self) -> Resource:
        """The resource meant, as it will be, or as it was where it goes."""
        found = self.after or self.before
        assert found is not None
        return found

    @property
    def action(self) -> str:
        """create | change | remove | anew"""
        if self.phase is Phase.ANEW and isinstance(self.after, Container):
            return "anew"
        if self.before is None:
            return "create"
        return "remove" if self.after is None else "change"


class Batch(NamedTuple):
    """The changes of one phase."""

    phase: Phase
    changes: list[Change]


_NETWORK = (Bridge, HostPort, Cable, VirtualInterface, Qdisc, Address, Route, Rule, Sysctl)
_PHASES: dict[type[Resource], tuple[Phase, Phase]] = {
    HostTable: (Phase.GUARD, Phase.UNGUARD),
    PublishedPort: (Phase.GUARD, Phase.GUARD),
    HostSysctl: (Phase.HOST, Phase.RELEASE),
    Layer: (Phase.LAYER, Phase.RELEASE),
    Cgroup: (Phase.CGROUP, Phase.RELEASE),
    HostsFile: (Phase.FILES, Phase.FILES),
    Container: (Phase.CONTAINER, Phase.STOP),
    NetnsName: (Phase.NAME, Phase.RELEASE),
    **dict.fromkeys(_NETWORK, (Phase.NETWORK, Phase.NETWORK)),
    Firewall: (Phase.FIREWALL, Phase.FIREWALL),
    Setup: (Phase.SETUP, Phase.SETUP),
    Process: (Phase.PROCESS, Phase.STOP),
}
_LONGEST = 80
_SYMBOL = {"create": "+", "change": "~", "remove": "-", "anew": "!"}


@dataclass(frozen=True)
class Plan:
    """Changes in the order in which they are done; ``extra`` is what is not netorch's own."""

    changes: tuple[Change, ...]
    extra: tuple[Resource, ...] = ()

    def __len__(self) -> int:
        return len(self.changes)

    def batches(self) -> Iterator[Batch]:
        """The changes by phase, in order."""
        batch: Batch | None = None
        for change in self.changes:
            if batch is None or change.phase != batch.phase:
                if batch is not None:
                    yield batch
                batch = Batch(change.phase, [])
            batch.changes.append(change)
        if batch is not None:
            yield batch

    def lines(self) -> list[str]:
        """One line for each change: ``+`` made, ``~`` changed in place, ``!`` made anew, ``-`` removed."""
        return [_line(change) for change in self.changes]

    def to_json(self) -> dict[str, Any]:
        """The plan as data."""
        return {"changes": [_change_json(change) for change in self.changes]}


def diff(desired: State, observed: State) -> Plan:
    """What must be done so that ``observed`` becomes ``desired``."""
    observed = _without_lost(desired, observed)
    anew = _made_anew(desired, observed)
    gone = _going(desired, observed)
    changes = [*_removals(desired, observed, gone), *_makings(desired, observed, anew)]
    changes.sort(key=lambda change: change.phase)
    return Plan(tuple(changes), tuple(observed.extra.values()))


def restarted(desired: State, observed: State, names: Collection[str]) -> Plan:
    """Make containers anew that are as they should be, and leave everything else as it is.

    What goes with one that has died (its cables, its neighbours' routes) is told by the whole ``diff`` alone:
    then that is the plan.
    """
    there = {container.name for container in observed.of(Container)}
    whole = diff(desired, State([_stale(r, names) for r in observed.values()], observed.extra.values()))
    if not there.issuperset(names):
        return whole
    mine = [c for c in whole.changes if c.phase is Phase.ANEW and c.resource.node in names]
    return Plan(tuple(change._replace(cause="restarted") for change in mine))


def _stale(resource: Resource, names: Collection[str]) -> Resource:
    if isinstance(resource, Container) and resource.name in names:
        return replace(resource, digest="")
    return resource


def _made_anew(desired: State, observed: State) -> Mapping[str, str]:
    """Containers that the kernel can't change in place, each with the cause."""
    anew: dict[str, str] = {}
    for wanted in desired.of(Container):
        there = observed.get(wanted.key)
        if not isinstance(there, Container):
            continue
        if there != wanted:
            anew[wanted.name] = "its root, namespaces or confinement changed"
        elif desired.get(key := f"setup {wanted.name}") != observed.get(key):
            anew[wanted.name] = "its setup changed"
        elif _is_its_first_process(desired.get(key := f"process {wanted.name}"), observed.get(key)):
            anew[wanted.name] = "its command changed, and is its PID 1"
    return anew


def _is_its_first_process(wanted: Resource | None, there: Resource | None) -> bool:
    """Whether another command is wanted where the command is the container's first process itself."""
    own = isinstance(wanted, Process) and wanted.spec is not None and not wanted.spec["init"]
    return own and wanted != there


def _without_lost(desired: State, observed: State) -> State:
    """Without what is wanted, and will be lost, as it stands on an end of a cable that goes.

    That end is there again afterwards: another cable is wanted at it (the far end was renamed by hand).
    """
    cables = [cable for cable in observed.of(Cable) if cable.key not in desired]
    lost = {(end.node, end.ifname) for cable in cables for end in (cable.a, cable.b)}
    if not lost:
        return observed
    kept = [r for key, r in observed.items() if key not in desired or not _stands_on(r, lost)]
    return State(kept, observed.extra.values())


def _stands_on(resource: Resource, ends: Collection[tuple[str, str]]) -> bool:
    if isinstance(resource, (Address, Qdisc)):
        return (resource.node, resource.ifname) in ends
    if isinstance(resource, VirtualInterface):
        return (resource.node, resource.parent) in ends
    if isinstance(resource, Route):
        return bool(resource.hops) and any((resource.node, hop.dev) in ends for hop in resource.hops)
    return False


def _going(desired: State, observed: State) -> frozenset[str]:
    return frozenset(c.name for c in observed.of(Container) if c.key not in desired)


def _removals(desired: State, observed: State, gone: frozenset[str]) -> Iterator[Change]:
    tableless = not desired.of(HostTable)
    for key, there in observed.items():
        with_table = tableless and isinstance(there, PublishedPort)
        if key not in desired and not with_table and not _implied(there, gone):
            cause = "not in the lab file" if len(desired) else ""
            yield Change(there, None, _PHASES[type(there)][1], cause)


def _implied(resource: Resource, gone: frozenset[str]) -> bool:
    """Whether it ends by itself with its container.

    A cable to a bridge does, but its host's end only some time after: it is removed by name, so that
    ``down`` leaves nothing that is still on its way out.
    """
    if isinstance(resource, Cable):
        ends = (resource.a.node, resource.b.node)
        return HOST not in ends and any(node in gone for node in ends)
    if isinstance(resource, (Setup, HostsFile)):
        return True
    if isinstance(resource, (Container, Cgroup, NetnsName)):
        return False
    return resource.node in gone


def _makings(desired: State, observed: State, anew: Mapping[str, str]) -> Iterator[Change]:
    own = {bridge.ifname for bridge in desired.of(Bridge)}
    own |= {end.ifname for cable in desired.of(Cable) for end in (cable.a, cable.b) if end.node == HOST}
    for key, wanted in desired.items():
        there = observed.get(key)
        if wanted.node in anew and isinstance(wanted, (Container, Setup, Process)):
            before = there if isinstance(wanted, Container) else None
            yield Change(before, wanted, Phase.ANEW, anew[wanted.node])
        elif wanted != there:
            ours = isinstance(wanted, HostSysctl) and wanted.interface in own
            phase = Phase.INTERFACE if ours else _PHASES[type(wanted)][0]
            yield Change(there, wanted, phase, _what_differs(there, wanted))


def differences(before: Resource, after: Resource) -> dict[str, tuple[Any, Any]]:
    """The fields that differ, as (before, after)."""
    return {
        f.name: (old, new)
        for f in fields(after)
        if f.compare and (old := getattr(before, f.name)) != (new := getattr(after, f.name))
    }


def drift_of(change: Change) -> dict[str, Any]:
    """A change that would put something right, read as what is wrong with it."""
    entry: dict[str, Any] = {"object": change.resource.key, "expected": None, "found": None}
    if change.before is None:
        return entry | {"what": "missing"}
    if change.after is None:
        return entry | {"what": "not expected"}
    found = differences(change.before, change.after)
    entry["expected"] = {name: plain(new) for name, (_, new) in found.items()}
    entry["found"] = {name: plain(old) for name, (old, _) in found.items()}
    if not found:
        return entry | {"what": f"is to be made anew: {change.cause}"}
    return entry | {"what": "differs: " + ", ".join(found)}


def _what_differs(before: Resource | None, after: Resource) -> str:
    if before is None:
        return ""
    return ", ".join(_changed(name, *values) for name, values in differences(before, after).items())


def _changed(name: str, old: Any, new: Any) -> str:
    """``mtu 1500 -> 1400``; of what does not fit in a line the name only."""
    simple = all(isinstance(value, (str, int, float, bool, type(None))) for value in (old, new))
    text = f"{name} {old} -> {new}"
    return text if simple and "\n" not in text and len(text) <= _LONGEST else name


def _line(change: Change) -> str:
    cause = f"  ({change.cause})" if change.cause else ""
    return f"{_SYMBOL[change.action]} {change.resource.key}{describe(change.resource)}{cause}"


def describe(resource: Resource) -> str:
    """What a plan's line says of a resource beyond its key."""
    match resource:
        case Bridge():
            return f" as {resource.ifname}"
        case Layer():
            return f" of {resource.source}"
        case HostSysctl() | Sysctl():
            return f" = {resource.value}"
        case PublishedPort():
            to = f"{published(resource.to_address, resource.family)}:{resource.to_port}"
            return f" to {resource.container} at {to}"
        case Route():
            ways = [_way(hop.via, hop.dev) for hop in resource.hops]
            return " " + " ".join(ways) if ways else f" {resource.type}"
        case Firewall():
            return f": {len(resource.rules) or 'a text of'} rules"
        case Process() if resource.spec is not None:
            return f": {_one_line(resource.spec['argv'])}" if resource.spec["argv"] else ": idle"
        case Setup():
            return f": {len(resource.commands)} commands"
        case _:
            return ""


def _one_line(argv: Sequence[str]) -> str:
    """A command as a shell would take it, cut to one line."""
    text = shlex.join(argv).replace("\n", "\\n")
    return text if len(text) <= _LONGEST else text[:_LONGEST] + "..."


def _way(via: str | None, dev: str | None) -> str:
    return " ".join(part for part in (f"via {via}" if via else "", f"dev {dev}" if dev else "") if part)


def _change_json(change: Change) -> dict[str, Any]:
    entry: dict[str, Any] = {
        "action": change.action,
        "key": change.resource.key,
        "kind": change.resource.KIND,
        "node": change.resource.node,
        "phase": change.phase.name.lower(),
        "cause": change.cause,
    }
    for side in ("before", "after"):
        resource = getattr(change, side)
        entry[side] = None if resource is None else to_json(replace(resource, where=None))
    where = change.resource.where
    entry["where"] = None if where is None else str(where)
    return entry
