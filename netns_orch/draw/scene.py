"""The scene: what there is to be drawn of a lab, without a place for it yet.

Owns: which figures and cables there are, what is written at them, and which network each belongs to.
Must not: know of coordinates or formats.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from itertools import chain
from typing import Any

from netns_orch.graph import Cable, End, Virtual, WiredBridge, Wiring
from netns_orch.graph.wiring import Segment
from netns_orch.labfile import model
from netns_orch.labfile.model import HOST

POINT_TO_POINT = "point-to-point cables"
MANY_NETWORKS = 9
"""With more networks than that, cables between two containers share one colour."""
DEFAULT_MTU = 1500


@dataclass
class Figure:
    """A node as it is drawn."""

    name: str
    kind: str
    """container | router | bridge | host"""
    notes: list[str] = field(default_factory=list)
    """Lines below its name."""
    networks: list[int] = field(default_factory=list)


@dataclass
class Foot:
    """Where a cable meets a figure."""

    node: str
    ifname: str = ""
    lines: list[str] = field(default_factory=list)
    """Addresses; VLANs at a bridge."""

    @property
    def label(self) -> list[str]:
        """What is written at the foot."""
        return [*([self.ifname] if self.ifname else []), *self.lines]


@dataclass
class Wire:
    """A cable, the host's foot in a bridge, or the tie between members of a pod."""

    kind: str
    """cable | port | pod"""
    a: Foot
    b: Foot
    up: bool = True
    network: int | None = None
    both: str = ""
    """What holds for the whole cable: its MTU, impairment both ways."""
    from_a: str = ""
    from_b: str = ""
    """Impairment of one direction only."""

    @property
    def feet(self) -> tuple[Foot, Foot]:
        """Both."""
        return self.a, self.b


@dataclass
class Scene:
    """A lab as it is drawn."""

    name: str
    figures: dict[str, Figure] = field(default_factory=dict)
    wires: list[Wire] = field(default_factory=list)
    networks: list[str] = field(default_factory=list)
    """Their subnets, as in the legend; figures and wires name them by number."""


def to_json(scene: Scene) -> dict[str, Any]:
    """The scene as data."""
    return asdict(scene)


def scene(wiring: Wiring) -> Scene:
    """All that is drawn of a lab, in the order of its file."""
    made = Scene(wiring.topology.name)
    networks = _Networks(wiring, made)
    for bridge in wiring.bridges.values():
        made.figures[bridge.name] = _bridge(bridge)
    for container in wiring.topology.containers.values():
        made.figures[container.name] = _container(wiring, container)
    made.wires.extend(_host_feet(wiring, networks))
    made.wires.extend(_cable(cable, networks) for cable in wiring.cables)
    for member, root in wiring.pods.items():
        made.wires.append(Wire("pod", Foot(member), Foot(root), both="shares its network"))
    if any(foot.node == HOST for wire in made.wires for foot in wire.feet):
        made.figures[HOST] = Figure(HOST, "host", _host_notes(wiring))
    for wire in made.wires:
        for foot in wire.feet:
            known = made.figures[foot.node].networks
            if wire.network is not None and wire.network not in known:
                known.append(wire.network)
    return made


# -- figures -------------------------------------------------------------------------------------


def _bridge(bridge: WiredBridge) -> Figure:
    words = [str(net) for net in bridge.subnets]
    traits = {
        "STP": bridge.spec.stp,
        "VLANs": bridge.vlan_filtering,
        "isolated": bridge.spec.isolated,
        f"mtu {bridge.mtu}": bridge.mtu != DEFAULT_MTU,
    }
    words += [word for word, holds in traits.items() if holds]
    return Figure(bridge.name, "bridge", [" · ".join(words)] if words else [])


def _container(wiring: Wiring, container: model.Container) -> Figure:
    kind = "router" if container.router else "container"
    notes = []
    if container.name not in wiring.pods:
        notes = [f"lo {addr}" for addr in wiring.loopbacks.get(container.name, ())]
        notes += [_virtual(virtual) for virtual in wiring.virtual.get(container.name, ())]
    if any(getattr(container, name) for name in ("iptables", "ip6tables", "nftables")):
        notes.append("firewall")
    return Figure(container.name, kind, notes)


def _virtual(virtual: Virtual) -> str:
    spec = virtual.spec
    number = spec.id if spec.id is not None else spec.table
    on = spec.parent or "+".join(spec.members)
    words = [virtual.ifname, spec.kind, str(number) if number is not None else "", f"on {on}" if on else ""]
    return " ".join([*filter(None, words), *map(str, virtual.addresses)])


def _host_notes(wiring: Wiring) -> list[str]:
    by_mode: dict[str, list[str]] = {}
    for bridge in wiring.bridges.values():
        if bridge.addresses:
            by_mode.setdefault(bridge.forward, []).append(bridge.name)
    said = {"nat": "NAT to the outside", "route": "routes to the outside", "none": "forwards nothing"}
    notes = [f"{said[mode]}: {_some(names)}" for mode, names in by_mode.items()]
    return [*notes, *(["routes between bridges"] if wiring.topology.host.router else [])]


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


# -- cables --------------------------------------------------------------------------------------


def _host_feet(wiring: Wiring, networks: _Networks) -> Iterator[Wire]:
    for bridge in wiring.bridges.values():
        if bridge.addresses:
            foot = Foot(HOST, bridge.ifname, [str(addr) for addr in bridge.addresses])
            yield Wire("port", foot, Foot(bridge.name), network=networks.of(bridge.segment))


def _cable(cable: Cable, networks: _Networks) -> Wire:
    one, other = (_impairment(end.spec.impairment) for end in cable.ends)
    both = [f"mtu {cable.mtu}"] if cable.mtu != DEFAULT_MTU else []
    if one == other and one:
        both.append(f"{one} each way")
        one = other = ""
    return Wire(
        "cable",
        _foot(cable.a),
        _foot(cable.b),
        up=cable.link.up,
        network=networks.of_cable(cable),
        both=", ".join([*([] if cable.link.up else ["unplugged"]), *both]),
        from_a=one,
        from_b=other,
    )


def _foot(end: End) -> Foot:
    lines = [str(addr) for addr in end.addresses]
    if end.kind == "bridge" and end.spec.vlan is not None:
        vlan = end.spec.vlan
        lines += [f"vlan {vlan.access}"] if vlan.access is not None else []
        lines += [f"trunk {','.join(map(str, vlan.trunk))}"] if vlan.trunk else []
        lines += [f"native {vlan.native}"] if vlan.native is not None else []
    return Foot(end.node, end.ifname, lines)


def _impairment(asked: model.Impairment) -> str:
    """In the words of a lab file, the shortest way."""
    words = []
    if asked.delay is not None or asked.jitter is not None:
        jitter = f" ±{_time(asked.jitter)}" if asked.jitter else ""
        words.append(f"{_time(asked.delay or 0)}{jitter}")
    for name in ("loss", "duplicate", "corrupt", "reorder"):
        share = getattr(asked, name)
        words += [f"{name} {share:g}%"] if share is not None else []
    words += [_rate(asked.rate)] if asked.rate is not None else []
    words += [f"limit {asked.limit}"] if asked.limit is not None else []
    return ", ".join(words)


def _time(seconds: float) -> str:
    return f"{seconds:g}s" if seconds >= 1 else f"{seconds * 1000:g}ms"


def _rate(bits: int) -> str:
    for size, unit in ((10**9, "gbit"), (10**6, "mbit"), (10**3, "kbit")):
        if bits >= size:
            return f"{bits / size:g}{unit}"
    return f"{bits}bit"


# -- networks ------------------------------------------------------------------------------------


class _Networks:
    """The layer 2 segments that have a subnet, numbered in the order in which they are drawn."""

    def __init__(self, wiring: Wiring, made: Scene) -> None:
        self._subnets: dict[Segment, list[str]] = {}
        for iface in chain(wiring.bridges.values(), *wiring.ends.values()):
            nets = [str(addr.net) for addr in iface.addresses if not addr.is_link_local]
            if isinstance(iface, WiredBridge):
                nets += map(str, iface.subnets)
            self._add(iface.segment, nets)
        straight = {cable.a.segment for cable in wiring.cables if cable.straight}
        self._shared = straight if len(self._subnets) > MANY_NETWORKS else set()
        self._scene = made
        self._numbers: dict[Segment | str, int] = {}

    def _add(self, segment: Segment, nets: Iterable[str]) -> None:
        for net in nets:
            known = self._subnets.setdefault(segment, [])
            if net not in known:
                known.append(net)

    def of_cable(self, cable: Cable) -> int | None:
        """That of the segment which the cable carries."""
        return self.of(cable.a.segment if cable.a.segment in self._subnets else cable.b.segment)

    def of(self, segment: Segment) -> int | None:
        """The number of a segment's network; None where it has no subnet."""
        if segment not in self._subnets:
            return None
        shared = segment in self._shared
        key = POINT_TO_POINT if shared else segment
        if key not in self._numbers:
            self._numbers[key] = len(self._scene.networks)
            self._scene.networks.append(POINT_TO_POINT if shared else ", ".join(self._subnets[segment]))
        return self._numbers[key]
