"""Layer 2: who hears a frame that leaves by an interface, and what keeps it from others.

Owns: cables, bridges with VLANs and isolated ports, interfaces made inside (vlan, bridge, bond, macvlan,
vxlan).  Must not: know of routes.

A bridge that blocks a port by STP is taken as one that forwards: the tree leaves one way to everybody.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from netns_orch.resources import HOST, Bridge, Cable, CableEnd, HostPort, State, VirtualInterface

DEFAULT_VLAN = 1
_MOST_STEPS = 20_000
"""A loop of bridges ends here, as it does not in real life."""


class Place(NamedTuple):
    """An interface of a node."""

    node: str
    ifname: str


@dataclass
class Heard:
    """What became of a frame."""

    places: list[Place] = field(default_factory=list)
    """Interfaces that it arrives at."""
    unplugged: list[Cable] = field(default_factory=list)
    """Cables that it would have gone by."""
    outside: list[str] = field(default_factory=list)
    """Interfaces of the host's own that it leaves the lab by."""


class Fabric:
    """The cables and bridges of a state."""

    def __init__(self, state: State) -> None:
        self._cables: dict[Place, tuple[Cable, CableEnd, CableEnd]] = {}
        for cable in state.of(Cable):
            for near, far in ((cable.a, cable.b), (cable.b, cable.a)):
                self._cables[Place(near.node, near.ifname)] = (cable, near, far)
        self._bridges = {bridge.name: bridge for bridge in state.of(Bridge)}
        self._by_ifname = {bridge.ifname: bridge for bridge in state.of(Bridge)}
        self._host_ports = state.of(HostPort)
        inside = [*state.of(VirtualInterface), *state.extra.values()]
        self._virtual = {
            Place(virtual.container, virtual.ifname): virtual
            for virtual in inside
            if isinstance(virtual, VirtualInterface)
        }

    def virtual(self, place: Place) -> VirtualInterface | None:
        """The interface made inside that this is; None for the end of a cable."""
        return self._virtual.get(place)

    def vrf_of(self, place: Place) -> int | None:
        """The routing table of the VRF that an interface is in."""
        for at, virtual in self._virtual.items():
            if virtual.kind == "vrf" and at.node == place.node and place.ifname in virtual.members:
                return virtual.table
        return None

    def cable_at(self, place: Place) -> Cable | None:
        """The cable whose end this interface is."""
        found = self._cables.get(place)
        return found[0] if found else None

    def switched_off(self, place: Place) -> bool:
        """Whether the interface itself is down: the first end of a straight cable that is."""
        found = self._cables.get(place)
        if found is None or found[0].up:
            return False
        cable, near, _ = found
        return cable.b.node != HOST and near is cable.a

    def send(self, place: Place) -> Heard:
        """A frame to everybody, out of an interface."""
        return _Flood(self, _MOST_STEPS).run(place)

    # -- what a flood asks ------------------------------------------------------------------------

    def end_at(self, place: Place) -> tuple[Cable, CableEnd, CableEnd] | None:
        """The cable at an interface, its end here, its end there."""
        return self._cables.get(place)

    def bridge(self, name: str | None = None, *, ifname: str | None = None) -> Bridge | None:
        """A bridge by the name in the lab file, or by its real one."""
        return self._bridges.get(name or "") or self._by_ifname.get(ifname or "")

    def ports(self, bridge: Bridge) -> Iterator[CableEnd]:
        """The ends of cables that are plugged into a bridge."""
        for cable, near, _ in self._cables.values():
            if near.node == HOST and near.bridge == bridge.name:
                yield cable.a if near is cable.a else cable.b

    def host_ports(self, bridge: Bridge) -> Iterator[str]:
        """Interfaces of the host's own that are plugged into a bridge."""
        return (port.ifname for port in self._host_ports if port.bridge == bridge.name)

    def above(self, place: Place) -> Iterator[tuple[Place, VirtualInterface]]:
        """Interfaces that stand on this one."""
        for at, virtual in self._virtual.items():
            if at.node == place.node and (virtual.parent == place.ifname or place.ifname in virtual.members):
                yield at, virtual

    def vxlan_peers(self, place: Place) -> Iterator[Place]:
        """Interfaces of the same VXLAN in other nodes."""
        own = self._virtual[place]
        for at, virtual in self._virtual.items():
            if at.node != place.node and virtual.kind == "vxlan" and virtual.id == own.id:
                yield at


class _Flood:
    """One frame on its way to everybody.  A tag of 0 is none."""

    def __init__(self, fabric: Fabric, steps: int) -> None:
        self._fabric, self._left = fabric, steps
        self._heard = Heard()
        self._seen: set[tuple[str, Place, int]] = set()

    def run(self, place: Place) -> Heard:
        self._transmit(place, 0)
        return self._heard

    def _first_time(self, what: str, place: Place, tag: int) -> bool:
        key = (what, place, tag)
        self._left -= 1
        if key in self._seen or self._left < 0:
            return False
        self._seen.add(key)
        return True

    def _transmit(self, place: Place, tag: int) -> None:
        if not self._first_time("out", place, tag):
            return
        virtual = self._fabric.virtual(place)
        if virtual is not None:
            self._transmit_virtual(place, virtual, tag)
            return
        bridge = self._fabric.bridge(ifname=place.ifname) if place.node == HOST else None
        if bridge is not None:
            self._switch(bridge, None, tag or DEFAULT_VLAN if bridge.vlan_filtering else tag)
            return
        found = self._fabric.end_at(place)
        if found is None:
            return
        cable, _, far = found
        if not cable.up:
            self._heard.unplugged.append(cable)
            return
        self._receive(Place(far.node, far.ifname), far, tag)

    def _transmit_virtual(self, place: Place, virtual: VirtualInterface, tag: int) -> None:
        node = place.node
        if virtual.kind == "vlan" and virtual.parent:
            self._transmit(Place(node, virtual.parent), virtual.id or 0)
        elif virtual.kind == "macvlan" and virtual.parent:
            self._transmit(Place(node, virtual.parent), tag)
        elif virtual.kind == "vxlan":
            for peer in self._fabric.vxlan_peers(place):
                self._arrive(peer, tag)
        elif virtual.kind in ("bridge", "bond"):
            for member in virtual.members:
                self._transmit(Place(node, member), tag)

    def _receive(self, place: Place, end: CableEnd, tag: int) -> None:
        bridge = self._fabric.bridge(end.bridge) if place.node == HOST else None
        if bridge is None:
            self._arrive(place, tag)
            return
        if bridge.vlan_filtering:
            tag = tag or _native(end)
            if tag not in _vlans(end):
                return
        self._switch(bridge, end, tag)

    def _switch(self, bridge: Bridge, source: CableEnd | None, vlan: int) -> None:
        """Out of every other port, and to the bridge's own interface."""
        if not bridge.up or not self._first_time("switch", Place(HOST, bridge.ifname), vlan):
            return
        for port in self._fabric.ports(bridge):
            if source is not None and (port.ifname == source.ifname or (port.isolated and source.isolated)):
                continue
            if bridge.vlan_filtering and vlan not in _vlans(port):
                continue
            untagged = bridge.vlan_filtering and vlan == _native(port)
            self._transmit(Place(HOST, port.ifname), 0 if untagged else vlan)
        self._heard.outside += self._fabric.host_ports(bridge)
        if vlan in (0, DEFAULT_VLAN):
            self._heard.places.append(Place(HOST, bridge.ifname))

    def _arrive(self, place: Place, tag: int) -> None:
        """At an interface of a container: taken by it, or by what stands on it."""
        if not self._first_time("in", place, tag):
            return
        for above, virtual in self._fabric.above(place):
            if virtual.kind == "vlan" and virtual.id == tag:
                self._arrive(above, 0)
            elif virtual.kind == "bridge":
                self._arrive(above, tag)
                for member in virtual.members:
                    if member != place.ifname:
                        self._transmit(Place(place.node, member), tag)
            elif virtual.kind in ("bond", "macvlan"):
                self._arrive(above, tag)
        if tag == 0:
            self._heard.places.append(place)


def _native(end: CableEnd) -> int:
    """The VLAN of untagged frames; 0 where there is none."""
    if end.access is not None:
        return end.access
    if end.native is not None:
        return end.native
    return 0 if end.trunk else DEFAULT_VLAN


def _vlans(end: CableEnd) -> set[int]:
    return {_native(end), *end.trunk} - {0}
