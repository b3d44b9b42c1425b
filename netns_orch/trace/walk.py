"""Hop by hop: the way of one packet to an address, and of its answer.

Owns: the walk, its ends (arrives, lost, outside) and their words.  Must not: ask anybody but the state.

The packet is an ICMP echo request, as ping(8) sends it.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from ipaddress import ip_interface
from typing import Any, NamedTuple

from netns_orch.errors import UsageError
from netns_orch.resources import HOST, Bridge, Cable, Container, Firewall, HostsFile, HostTable, State
from netns_orch.resources import Hop as RouteHop
from netns_orch.trace import filters
from netns_orch.trace.fabric import Fabric, Heard, Place
from netns_orch.trace.lookup import Decision, Ip, Tables, parse_ip

_MOST_HOPS = 64


class Hop(NamedTuple):
    """One node on the way: how the packet comes in and goes out."""

    node: str
    iif: str = ""
    address: str = ""
    """That of ``iif`` (at the first node the packet's source)."""
    oif: str = ""
    via: str = ""
    """Next hop; empty where the destination is on link."""
    route: str = ""
    others: tuple[str, ...] = ()
    """Next hops of the same route that another packet may take."""


class Lost(NamedTuple):
    """Where a packet ends that should not, and why."""

    node: str
    kind: str
    """route | gateway | unplugged | filter | forwarding | reverse-path | loop | unknown"""
    why: str
    hint: str = ""


@dataclass
class Way:
    """The hops in one direction.  ``end``: arrives | lost | outside"""

    hops: list[Hop] = field(default_factory=list)
    end: str = "arrives"
    lost: Lost | None = None

    @property
    def nodes(self) -> list[str]:
        """The nodes, in order."""
        return [hop.node for hop in self.hops]


@dataclass
class Path:
    """There, and back."""

    source: str
    destination: str | None
    """The node that has the address; None where it is not the lab's."""
    src: str
    dst: str
    there: Way
    back: Way | None = None
    """Only of a packet that arrives."""
    unsure: list[str] = field(default_factory=list)
    """Rules on the way that were not judged."""

    @property
    def lost(self) -> Lost | None:
        """Where the packet or its answer ends."""
        return self.there.lost or (self.back.lost if self.back else None)

    def to_json(self) -> dict[str, Any]:
        """The path as data."""
        return {
            "source": self.source,
            "destination": self.destination,
            "src": self.src,
            "dst": self.dst,
            "there": _way_json(self.there),
            "back": _way_json(self.back) if self.back else None,
            "unsure": self.unsure,
        }


def _way_json(way: Way) -> dict[str, Any]:
    hops = [{**hop._asdict(), "others": list(hop.others)} for hop in way.hops]
    return {"end": way.end, "hops": hops, "lost": way.lost._asdict() if way.lost else None}


def predict(
    state: State, source: str, dst: str, src: str | None = None, prefer: Collection[str] = ()
) -> Path:
    """The way of a packet from a node to an address; ``prefer`` are nodes to take among equal ways."""
    return _Walker(state, prefer).path(source, parse_ip(dst), parse_ip(src) if src else None)


# -- who is meant --------------------------------------------------------------------------------


def endpoint(
    state: State, word: str, *, seen_from: str | None = None, family: int | None = None
) -> tuple[str | None, str]:
    """The node and the address that a word means: a name, as ``seen_from`` resolves it, or an address.

    An address that is not the lab's has no node.  UsageError where the word is neither.
    """
    tables = Tables(state, Fabric(state))
    try:
        ip = parse_ip(word)
    except ValueError:
        node = _root(state, word)
        return node, _address_of(state, tables, node, word, seen_from, family)
    return tables.owner(ip), str(ip)


def _root(state: State, name: str) -> str:
    """The node whose network a name has: its own, or that of the pod it is in."""
    if name == HOST:
        return HOST
    container = state.get(f"container {name}")
    if not isinstance(container, Container):
        names = [c.name for c in state.of(Container)]
        raise UsageError(
            f"{name} is neither an address nor a container of the lab", hint=f"there are: {', '.join(names)}"
        )
    return (container.spec["net"] if container.spec else None) or name


def _address_of(
    state: State, tables: Tables, node: str, name: str, seen_from: str | None, family: int | None
) -> str:
    """What the hosts file of the asking container says, else an address that both have a subnet of."""
    own = [ip_interface(address.cidr) for _, address in tables.addresses.get(node, ())]
    own = [i for i in own if family in (None, i.version) and not i.ip.is_link_local]
    asking = state.get(f"hosts-file {seen_from}")
    if isinstance(asking, HostsFile) and node != seen_from:
        for line in asking.hosts.splitlines():
            address, _, names = line.partition(" ")
            if name in names.split() and any(str(i.ip) == address for i in own):
                return address
    near = [ip_interface(a.cidr).network for _, a in tables.addresses.get(seen_from or "", ())]
    chosen = next((i for i in own if i.network in near), own[0] if own else None)
    if chosen is None:
        what = f"no IPv{family} address" if family else "no address"
        raise UsageError(f"{name} has {what}", hint="nothing can be sent to it")
    return str(chosen.ip)


# -- the walk ------------------------------------------------------------------------------------


@dataclass
class _Packet:
    """A packet on its way."""

    node: str
    dst: Ip
    src: Ip | None
    reply: bool
    iif: str = ""


class _Ended(Exception):
    """The packet goes no further."""

    def __init__(self, lost: Lost | None) -> None:
        super().__init__(lost)
        self.lost = lost


class _Walker:
    def __init__(self, state: State, prefer: Collection[str]) -> None:
        self._fabric = Fabric(state)
        self._tables = Tables(state, self._fabric)
        self._prefer = prefer
        self._firewalls: dict[str, list[Firewall]] = {}
        for firewall in state.of(Firewall):
            if firewall.intact:
                self._firewalls.setdefault(firewall.container, []).append(firewall)
        self._changed = [firewall.key for firewall in state.of(Firewall) if not firewall.intact]
        self._table: HostTable | None = next(iter(state.of(HostTable)), None)
        self._bridge_names = {bridge.ifname: bridge.name for bridge in state.of(Bridge)}
        self._translated: dict[tuple[str, Ip], Ip] = {}
        """Sources that a container has put its own address in the place of."""
        self._unsure: dict[str, None] = {}

    def path(self, source: str, dst: Ip, src: Ip | None) -> Path:
        """There and back."""
        packet = _Packet(source, dst, src, reply=False)
        there = self._walk(packet)
        path = Path(source, self._tables.owner(dst), there.hops[0].address, str(dst), there)
        if there.end == "arrives" and packet.src is not None and packet.node != source:
            path.back = self._walk(_Packet(packet.node, packet.src, dst, reply=True))
        path.unsure = [*self._unsure, *(f"{key}: not as it was applied" for key in self._changed)]
        return path

    def _walk(self, packet: _Packet) -> Way:
        way = Way()
        seen: set[tuple[str, str, Ip]] = set()
        try:
            for _ in range(_MOST_HOPS):
                if (packet.node, packet.iif, packet.dst) in seen:
                    raise _Ended(Lost(packet.node, "loop", f"{packet.dst} goes round in a circle"))
                seen.add((packet.node, packet.iif, packet.dst))
                if self._step(packet, way):
                    return way
        except _Ended as ended:
            way.end, way.lost = ("lost", ended.lost) if ended.lost else ("outside", None)
        return way

    def _step(self, packet: _Packet, way: Way) -> bool:
        """One node; True where the packet has arrived."""
        here = Hop(packet.node, packet.iif, self._arrival(packet))
        way.hops.append(here)
        self._receive(packet)
        original = self._translated.get((packet.node, packet.dst))
        if original is not None and packet.reply:
            packet.dst = original
        if self._tables.is_own(packet.node, packet.dst):
            self._filter("INPUT", packet, "")
            return True
        if packet.iif and not self._tables.forwards(packet.node, packet.dst.version):
            hint = f"router: true at {packet.node}"
            raise _Ended(Lost(packet.node, "forwarding", f"{packet.node} does not forward packets", hint))
        decision = self._tables.decide(packet.node, packet.dst, packet.src, packet.iif or None)
        if decision.route is None:
            self._no_route(packet, decision)
        if decision.route is not None and decision.route.type == "local":
            return True
        self._leave(packet, way, decision)
        return False

    def _arrival(self, packet: _Packet) -> str:
        if not packet.iif:
            return str(packet.src or "")
        found = self._tables.address_on(Place(packet.node, packet.iif), packet.dst.version, packet.src)
        return str(found or "")

    def _receive(self, packet: _Packet) -> None:
        place = Place(packet.node, packet.iif)
        if not packet.iif or packet.dst.version == 6 or packet.src is None:
            return
        if self._tables.strict_reverse_path(place):
            back = self._tables.decide(packet.node, packet.src, packet.dst)
            if packet.iif not in [hop.dev for hop in back.hops]:
                why = f"rp_filter: {packet.node} would not answer {packet.src} by {packet.iif}"
                raise _Ended(Lost(packet.node, "reverse-path", why))

    def _no_route(self, packet: _Packet, decision: Decision) -> None:
        if packet.node == HOST and not decision.why and self._tables.owner(packet.dst) is None:
            self._filter_host(packet, None)
            raise _Ended(None)
        why = decision.why or f"no route to {packet.dst}"
        hint = "" if decision.why else f"a route at {packet.node}, such as: default via ADDRESS"
        raise _Ended(Lost(packet.node, "route", f"{packet.node} has {why}", hint))

    def _leave(self, packet: _Packet, way: Way, decision: Decision) -> None:
        assert decision.route is not None
        hop = self._choose(packet, decision)
        place, via = Place(packet.node, hop.dev or ""), parse_ip(hop.via) if hop.via else packet.dst
        if packet.src is None:
            own = decision.route.src
            packet.src = parse_ip(own) if own else self._speak(place, packet.dst.version, via)
        others = tuple(other.via or other.dev or "" for other in decision.hops if other is not hop)
        address = way.hops[-1].address or str(packet.src or "")
        way.hops[-1] = way.hops[-1]._replace(
            address=address, oif=place.ifname, via=hop.via or "", route=decision.text, others=others
        )
        self._filter("FORWARD" if packet.iif else "OUTPUT", packet, place.ifname)
        self._translate(packet, place, via)
        if packet.node == HOST and packet.iif:
            self._filter_host(packet, place.ifname)
        packet.node, packet.iif = self._deliver(place, via)

    def _speak(self, place: Place, family: int, via: Ip) -> Ip | None:
        near = self._tables.address_on(place, family, via)
        if near is not None:
            return near
        addresses = (ip_interface(a.cidr).ip for _, a in self._tables.addresses.get(place.node, ()))
        return next((ip for ip in addresses if ip.version == family and not ip.is_link_local), None)

    def _choose(self, packet: _Packet, decision: Decision) -> RouteHop:
        for hop in decision.hops:
            owner = self._tables.owner(parse_ip(hop.via)) if hop.via else None
            if owner in self._prefer:
                return hop
        return decision.hops[0]

    def _translate(self, packet: _Packet, place: Place, via: Ip) -> None:
        """A container that masquerades, on the way there; the answer is put back by ``_step``."""
        own = self._tables.address_on(place, packet.dst.version, via)
        if packet.reply or own is None or packet.src is None or not packet.iif:
            return
        seen = filters.Packet(packet.src, packet.dst, packet.iif, place.ifname)
        if filters.masquerades(self._firewalls.get(packet.node, ()), seen):
            self._translated[packet.node, own] = packet.src
            packet.src = own

    # -- what can be in the way -------------------------------------------------------------------

    def _filter(self, hook: str, packet: _Packet, oif: str) -> None:
        firewalls = self._firewalls.get(packet.node)
        if not firewalls or packet.src is None:
            return
        seen = filters.Packet(packet.src, packet.dst, packet.iif, oif, reply=packet.reply)
        self._judge(packet.node, filters.judge(firewalls, hook, seen))

    def _filter_host(self, packet: _Packet, oif: str | None) -> None:
        self._judge(HOST, filters.judge_host(self._table, packet.iif, oif, self._bridge_names))

    def _judge(self, node: str, judged: filters.Judged) -> None:
        self._unsure |= dict.fromkeys(f"{node}: {text}" for text in judged.unsure)
        if not judged.passes:
            said = judged.by if node == HOST else f"{node} drops it: {judged.by}"
            raise _Ended(Lost(node, "filter", said))

    def _deliver(self, place: Place, via: Ip) -> tuple[str, str]:
        """Who takes the frame for the next hop."""
        heard = self._fabric.send(place)
        others = [at for at in heard.places if at.node != place.node]
        takers = [at for at in others if self._tables.has(at, via)]
        if not takers and via.is_link_local and len(others) == 1:
            takers = others  # the state has no link-local addresses that the kernel makes
        if takers:
            return takers[0].node, takers[0].ifname
        raise self._unheard(place, via, heard)

    def _unheard(self, place: Place, via: Ip, heard: Heard) -> _Ended:
        owner = self._tables.owner(via)
        for cable in heard.unplugged:
            if _concerns(cable, place, owner):
                return _Ended(Lost(place.node, "unplugged", f"the cable {cable_name(cable)} is unplugged"))
        if heard.outside and owner is None:
            return _Ended(None)
        why = f"nobody on {place.ifname} of {place.node} has the address {via}"
        hint = f"{via} is an address of {owner}, which is not plugged in there" if owner else ""
        return _Ended(Lost(place.node, "gateway", why, hint))


def _concerns(cable: Cable, place: Place, owner: str | None) -> bool:
    """Whether a cable is between a node and the one it looks for: one of theirs, or from bridge to bridge."""
    nodes = (cable.a.node, cable.b.node)
    if place in ((end.node, end.ifname) for end in (cable.a, cable.b)):
        return True
    return owner is not None and (owner in nodes or nodes == (HOST, HOST))


def cable_name(cable: Cable) -> str:
    """A cable by the names of the lab file."""
    ends = (end.bridge or f"{end.node}:{end.ifname}" for end in (cable.a, cable.b))
    return " - ".join(ends)


def nodes_of(*ways: Way | None) -> list[str]:
    """The nodes of several ways, each once, in order."""
    return list(dict.fromkeys(node for way in ways if way for node in way.nodes))
