"""Links of the file become cables: who is at each end, under which name, with which MAC.

Owns: the ends of every cable, the names of interfaces, layer 2 segments, MTUs.
Must not: choose addresses.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from netns_orch.graph.names import (
    MacMaker,
    Problems,
    bridge_ifname,
    ifname_fault,
    nearest,
    place,
)
from netns_orch.graph.wiring import Cable, End, Virtual, WiredBridge, Wiring
from netns_orch.labfile import model
from netns_orch.labfile.model import HOST

DEFAULT_MTU = 1500


def connect(wiring: Wiring, problems: Problems) -> None:
    """Fill in bridges, cables, virtual interfaces, their names and MACs."""
    topology = wiring.topology
    macs = MacMaker(topology.name, _explicit_macs(topology))
    _bridges(wiring, macs, problems)
    _pods(wiring, problems)
    wiring.ends = {name: [] for name in topology.containers}
    for index, link in enumerate(topology.links):
        cable = _cable(wiring, index, link, problems)
        if cable is not None:
            _plug(wiring, cable)
    _name_ends(wiring, problems)
    _virtual(wiring, problems)
    _segments(wiring)
    for cable in wiring.cables:
        _macs(cable, macs)


def _explicit_macs(topology: model.Topology) -> Iterator[str]:
    for link in topology.links:
        yield from (end.mac.lower() for end in (link.a, link.b) if end.mac)
    for container in topology.containers.values():
        yield from (spec.mac.lower() for spec in container.interfaces if spec.mac)


def _bridges(wiring: Wiring, macs: MacMaker, problems: Problems) -> None:
    bridges = wiring.topology.bridges
    taken: set[str] = set()
    for spec in bridges.values():
        if spec.ifname is None:
            continue
        fault = ifname_fault(spec.ifname)
        if fault or spec.ifname in taken:
            what = f"the name {spec.ifname!r} of bridge {spec.name} {fault or 'is another bridge’s'}"
            problems.error(what, place(spec, "ifname"))
        taken.add(spec.ifname)
    for spec in bridges.values():
        wiring.bridges[spec.name] = WiredBridge(
            node=HOST,
            name=spec.name,
            ifname=spec.ifname or bridge_ifname(wiring.topology.name, spec.name, taken),
            spec=spec,
            mac=macs.make(spec.name),
            mtu=spec.mtu or DEFAULT_MTU,
            forward=spec.forward or ("nat" if spec.addresses else "none"),
            segment=(spec.name, 1),
            where=spec.where,
        )


def _pods(wiring: Wiring, problems: Problems) -> None:
    """Who shares whose network; a chain ends at the container that has one."""
    containers = wiring.topology.containers
    for name, spec in containers.items():
        seen, root = [name], spec.namespaces.net
        where = place(spec.namespaces, "net") or spec.where
        while root in containers and root not in seen and containers[root].namespaces.net:
            seen.append(root)
            root = containers[root].namespaces.net
        if root is None:
            continue
        if root not in containers:
            problems.error(f"there is no container {root}", where, nearest(root, containers))
        elif root in seen:
            way = " -> ".join([*seen[seen.index(root) :], root])
            problems.error(f"containers share their network in a circle: {way}", where)
        else:
            wiring.pods[name] = root


# -- ends ----------------------------------------------------------------------------------------


def _kind(wiring: Wiring, node: str) -> Literal["container", "bridge", "host"] | None:
    if node in wiring.topology.containers:
        return "container"
    if node in wiring.bridges:
        return "bridge"
    return "host" if node == HOST else None


def _end(wiring: Wiring, spec: model.Endpoint, link: model.Link, problems: Problems) -> End | None:
    kind = _kind(wiring, spec.node)
    where = spec.where or link.where
    if kind is None:
        known = [*wiring.topology.containers, *wiring.bridges]
        problems.error(f"there is no container or bridge {spec.node}", where, nearest(spec.node, known))
        return None
    fault = _end_fault(kind, spec)
    if fault:
        problems.error(fault[0], where, fault[1])
    if kind == "container" and spec.node in wiring.topology.containers and _in_pod(wiring, spec.node):
        owner = wiring.topology.containers[spec.node].namespaces.net
        problems.error(
            f"{spec.node} shares the network of {owner}, and can have no link of its own",
            where,
            f"write {owner} in its place",
        )
        return None
    return End(node=spec.node, kind=kind, spec=spec, ifname=spec.ifname or "", where=where)


def _in_pod(wiring: Wiring, name: str) -> bool:
    return bool(wiring.topology.containers[name].namespaces.net)


def _end_fault(kind: str, spec: model.Endpoint) -> tuple[str, str | None] | None:
    """What an end of this kind can't have."""
    if kind == "container":
        if spec.vlan is not None:
            return f"{spec.node} is a container, and VLANs are those of a bridge's port", (
                "write it at the bridge's end; a tagged interface inside is `interfaces: {eth0.10: ...}`"
            )
        return None
    if spec.addresses:
        hint = f"write it under bridges.{spec.node}" if kind == "bridge" else "the host keeps its own"
        return f"an end at {_called(kind, spec.node)} has no address of its own", hint
    if spec.mac:
        return f"an end at {_called(kind, spec.node)} has no MAC address to choose", None
    if kind == "bridge" and spec.ifname:
        return f"a port of {_called(kind, spec.node)} has no name to choose", None
    if kind == "host" and not spec.ifname:
        return "which of the host's interfaces?", "write host:NAME, for example host:enp3s0"
    return None


def _called(kind: str, node: str) -> str:
    return f"bridge {node}" if kind == "bridge" else "the host"


def _cable(wiring: Wiring, index: int, link: model.Link, problems: Problems) -> Cable | None:
    a = _end(wiring, link.a, link, problems)
    b = _end(wiring, link.b, link, problems)
    if a is None or b is None:
        wiring.incomplete.update((link.a.node, link.b.node))
        return None
    order = ("container", "bridge", "host")
    if order.index(b.kind) < order.index(a.kind):
        a, b = b, a
    fault = _pair_fault(a, b)
    if fault:
        problems.error(fault[0], link.where or a.where, fault[1])
        wiring.incomplete.update((a.node, b.node))
        return None
    bridges = [end.node for end in (a, b) if end.kind == "bridge"]
    for end in (a, b):
        end.bridge = end.node if end.kind == "bridge" else bridges[0] if bridges else None
    return Cable(index=index, a=a, b=b, link=link, mtu=_mtu(wiring, a, b, link))


def _pair_fault(a: End, b: End) -> tuple[str, str | None] | None:
    if a.node == b.node and a.kind == b.kind == "container":
        return f"both ends of the link are at container {a.node}", None
    if a.node == b.node and a.kind == b.kind == "bridge":
        return f"both ends of the link are at bridge {a.node}", None
    if b.kind == "host" and a.kind != "bridge":
        return "an interface of the host's own can only be plugged into a bridge", (
            f"link {a.node} and host:{b.ifname or 'NAME'} to the same bridge"
        )
    return None


def _mtu(wiring: Wiring, a: End, b: End, link: model.Link) -> int:
    """Its own, else the smallest of its bridges', else the default."""
    of_bridges = [wiring.bridges[end.node].mtu for end in (a, b) if end.kind == "bridge"]
    return link.mtu or min(of_bridges, default=DEFAULT_MTU)


def _plug(wiring: Wiring, cable: Cable) -> None:
    wiring.cables.append(cable)
    for end in cable.ends:
        if end.kind == "container":
            wiring.ends[end.node].append(end)
        elif end.kind == "bridge":
            bridge = wiring.bridges[end.node]
            bridge.ports.append(cable)
            bridge.vlan_filtering = bridge.vlan_filtering or end.spec.vlan is not None


# -- names inside containers ---------------------------------------------------------------------


def _name_ends(wiring: Wiring, problems: Problems) -> None:
    for name, ends in wiring.ends.items():
        specs = wiring.topology.containers[name].interfaces
        taken = {spec.name for spec in specs}
        for end in ends:
            if end.ifname:
                _note_name(end, taken, problems)
        number = 0
        for end in ends:
            if not end.ifname:
                while f"eth{number}" in taken:
                    number += 1
                end.ifname = f"eth{number}"
                number += 1


def _note_name(end: End, taken: set[str], problems: Problems) -> None:
    fault = ifname_fault(end.ifname)
    if fault:
        problems.error(f"the interface name {end.ifname!r} {fault}", end.where)
    elif end.ifname in taken:
        problems.error(f"{end.node} has two interfaces of the name {end.ifname}", end.where)
    taken.add(end.ifname)


def _virtual(wiring: Wiring, problems: Problems) -> None:
    for name, container in wiring.topology.containers.items():
        if not container.interfaces:
            continue
        seen: set[str] = set()
        for spec in container.interfaces:
            fault = ifname_fault(spec.name)
            if fault:
                problems.error(f"the interface name {spec.name!r} {fault}", spec.where)
            elif spec.name in seen:
                problems.error(f"{name} has two interfaces of the name {spec.name}", spec.where)
            seen.add(spec.name)
        wiring.virtual[name] = _stacked(wiring, name, container.interfaces, problems)


def _below(spec: model.VirtualInterface) -> list[str]:
    return [*([spec.parent] if spec.parent else []), *spec.members]


def _stacked(
    wiring: Wiring, container: str, specs: list[model.VirtualInterface], problems: Problems
) -> list[Virtual]:
    """In an order in which each can be made: after what it stands on."""
    from graphlib import CycleError, TopologicalSorter

    by_name = {spec.name: spec for spec in specs}
    cabled = [end.ifname for end in wiring.ends[container]]
    sorter: TopologicalSorter[str] = TopologicalSorter()
    for spec in specs:
        for below in _below(spec):
            if below not in by_name and below not in cabled:
                where = place(spec, "parent" if below == spec.parent else "members")
                hint = nearest(below, [*cabled, *(n for n in by_name if n != spec.name)])
                problems.error(f"{container} has no interface {below}", where, hint)
        sorter.add(spec.name, *(below for below in _below(spec) if below in by_name))
    try:
        order = list(sorter.static_order())
    except CycleError as error:
        way = " -> ".join(error.args[1])
        problems.error(f"interfaces stand on one another: {way}", by_name[error.args[1][0]].where)
        order = list(by_name)
    return [
        Virtual(node=container, ifname=name, spec=by_name[name], where=by_name[name].where) for name in order
    ]


# -- segments ------------------------------------------------------------------------------------


class _Joined:
    """Disjoint sets, for what shares a layer 2 segment (Tarjan's union-find)."""

    def __init__(self) -> None:
        self._parent: dict[str, str] = {}

    def root(self, item: str) -> str:
        while (parent := self._parent.get(item, item)) != item:
            self._parent[item] = self._parent.get(parent, parent)
            item = parent
        return item

    def join(self, first: str, second: str) -> None:
        self._parent[self.root(second)] = self.root(first)


def _wire_name(cable: Cable) -> str:
    """The segment that a cable belongs to by itself."""
    return f"={cable.index}" if cable.straight else cable.b.node if cable.a.kind != "bridge" else cable.a.node


def _segments(wiring: Wiring) -> None:
    joined = _Joined()
    segment_of = {id(end): _wire_name(cable) for cable in wiring.cables for end in cable.ends}
    for cable in wiring.cables:
        if cable.trunk:
            joined.join(cable.a.node, cable.b.node)
    for container, virtuals in wiring.virtual.items():
        below = {end.ifname: segment_of[id(end)] for end in wiring.ends[container]}
        for virtual in virtuals:
            _virtual_segment(virtual, below, joined)
    for bridge in wiring.bridges.values():
        bridge.segment = (joined.root(bridge.name), 1)
    for cable in wiring.cables:
        vlan = next((end.spec.vlan for end in cable.ends if end.spec.vlan), None)
        number = (vlan.access or vlan.native or 1) if vlan else 1
        for end in cable.ends:
            end.segment = (joined.root(segment_of[id(end)]), number)
    for virtual in (v for virtuals in wiring.virtual.values() for v in virtuals):
        virtual.segment = (joined.root(virtual.segment[0]), virtual.segment[1])


def _virtual_segment(virtual: Virtual, below: dict[str, str], joined: _Joined) -> None:
    """A VLAN is in its parent's segment, a bond in its members'; a bridge joins its members'."""
    spec = virtual.spec
    own = f"={virtual.node}:{virtual.ifname}"
    members = [below[name] for name in spec.members if name in below]
    if spec.kind in ("vlan", "macvlan"):
        segment = below.get(spec.parent or "", own)
    elif spec.kind == "vxlan":
        segment = f"=vxlan {spec.id} {spec.group}" if spec.group else own
    elif spec.kind in ("bond", "bridge") and members:
        segment = members[0]
        for other in members[1:]:
            joined.join(segment, other)
    else:
        segment = own
    below[virtual.ifname] = segment
    virtual.segment = (segment, spec.id or 1 if spec.kind == "vlan" else 1)


def _macs(cable: Cable, macs: MacMaker) -> None:
    for end, other in (cable.ends, cable.ends[::-1]):
        if end.kind == "container":
            end.mac = end.spec.mac.lower() if end.spec.mac else macs.make(f"{end.node}:{end.ifname}")
        elif end.kind == "bridge" and other.kind != "host":
            end.mac = macs.make(f"{end.node}:{other.node}:{other.ifname or cable.index}")
