"""The checks of a wiring that need no kernel (DESIGN section 2, "Checked before the kernel is touched").

Owns: what is an error and what is a warning in a lab as such.  Must not: choose or change anything.
What can't be wired at all (unknown ends, subnets that are full) is reported where it is found out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import chain

from netns_orch.errors import Where
from netns_orch.graph import roots
from netns_orch.graph.addresses import BITS, Addr, Net, from_interface, from_network, given_out
from netns_orch.graph.names import NAME, Problems, nearest, place
from netns_orch.graph.wiring import Cable, End, Segment, Virtual, WiredBridge, Wiring
from netns_orch.labfile.model import HOST

MOST_PORTS = 1023
"""Ports of a bridge: BR_MAX_PORTS of the kernel's net/bridge, less number 0."""
IPV6_MTU = 1280
"""The least that IPv6 runs on (RFC 8200 section 5); below it the kernel takes IPv6 off the interface."""


def check(wiring: Wiring, problems: Problems) -> None:
    """Every check; what is found is added to ``problems``."""
    checks: tuple[Callable[[Wiring, Problems], None], ...] = (
        _names,
        _duplicate_addresses,
        _duplicate_macs,
        _addresses,
        _bridges,
        _host_ports,
        _depends_on,
        _pods,
        _conflicts,
        _mtus,
        _loops,
        _unreached,
        roots.check,
    )
    for each in checks:
        each(wiring, problems)


def _names(wiring: Wiring, problems: Problems) -> None:
    """``labfile`` checks names too; a topology may be built by code."""
    topology = wiring.topology
    for kind, most, names in (
        ("lab", 32, {topology.name: topology.where}),
        ("container", 63, {name: spec.where for name, spec in topology.containers.items()}),
        ("bridge", 63, {name: spec.where for name, spec in topology.bridges.items()}),
    ):
        for name, where in names.items():
            if not NAME.fullmatch(name) or len(name) > most:
                what = f"{name!r} is not a name for a {kind}"
                problems.error(
                    what, where, f"letters, digits, _ and -, at most {most}, a letter or digit first"
                )
            elif kind != "lab" and name == HOST:
                problems.error("the name host is taken: it stands for the namespace of the bridges", where)
    for name in topology.containers.keys() & topology.bridges.keys():
        problems.error(f"{name} is the name of a container and of a bridge", topology.bridges[name].where)


# -- duplicates in a segment ---------------------------------------------------------------------


Wired = End | Virtual | WiredBridge
Holder = tuple[Where | None, str]
"""Where something stands, and who has it."""


def _all_ifaces(wiring: Wiring) -> Iterator[Wired]:
    return chain(wiring.bridges.values(), *wiring.ends.values(), *wiring.virtual.values())


def _owner(iface: Wired) -> str:
    return f"bridge {iface.name}" if isinstance(iface, WiredBridge) else f"{iface.node}:{iface.ifname}"


def _address_place(iface: Wired, addr: Addr) -> Where | None:
    """Where this address stands: of several, ``address.1`` is the place of the second."""
    for number, given in enumerate(iface.spec.addresses):
        if from_interface(given) == addr and f"address.{number}" in iface.spec.marks:
            return iface.spec.marks[f"address.{number}"]
    return iface.spec.marks.get("addresses", iface.where)


def _report_twice(what: str, holders: list[Holder], problems: Problems) -> None:
    """At the second and every later one, naming the first."""
    in_file = sorted(holders, key=lambda holder: holder[0][1:3] if holder[0] else (0, 0))
    (first, owner), *others = in_file
    at = f" ({first})" if first is not None else ""
    for where, other in others:
        problems.error(f"{what} of {other} is also that of {owner}{at}", where)


def _duplicate_addresses(wiring: Wiring, problems: Problems) -> None:
    found: dict[tuple[Segment, int, int], list[tuple[Wired, Addr]]] = {}
    for iface in _all_ifaces(wiring):
        for addr in iface.addresses:
            found.setdefault((iface.segment, addr.family, addr.value), []).append((iface, addr))
    for same in found.values():
        if len(same) > 1:
            holders = [(_address_place(iface, addr), _owner(iface)) for iface, addr in same]
            _report_twice(f"the address {same[0][1].ip}", holders, problems)


def _duplicate_macs(wiring: Wiring, problems: Problems) -> None:
    found: dict[tuple[Segment, str], list[Holder]] = {}
    for end in chain.from_iterable(wiring.ends.values()):
        if end.spec.mac:
            _sound_mac(end, problems)
            holder = (end.spec.marks.get("mac", end.where), _owner(end))
            found.setdefault((end.segment, end.mac), []).append(holder)
    for (_, mac), holders in found.items():
        if len(holders) > 1:
            _report_twice(f"the MAC address {mac}", holders, problems)


def _sound_mac(end: End, problems: Problems) -> None:
    """The kernel refuses a group address and all zeros (is_valid_ether_addr)."""
    if int(end.mac[:2], 16) & 1 or end.mac == "00:00:00:00:00:00":
        hint = "make its first byte an even number, for example 02"
        what = f"{end.mac} is not an address that one interface can have"
        problems.error(what, end.spec.marks.get("mac", end.where), hint)


# -- each address --------------------------------------------------------------------------------


def _addresses(wiring: Wiring, problems: Problems) -> None:
    for iface in _all_ifaces(wiring):
        for addr in iface.addresses:
            fault = _not_an_address(addr)
            if fault:
                problems.error(f"{addr} {fault}", _address_place(iface, addr))
    for cable in wiring.cables:
        for end in cable.ends:
            if end.kind == "container" and end.spec.addresses:
                _in_subnet(wiring, cable, end, problems)
        _apart(cable, problems)


def _not_an_address(addr: Addr) -> str | None:
    """Why no interface can have this address."""
    net = addr.net
    first, last = given_out(net)
    if addr.family == 4 and not first <= addr.value <= last:
        which = "network" if addr.value == net.base else "broadcast"
        return f"is the {which} address of {net}"
    if addr.is_loopback:
        return "is a loopback address, which no packet on a cable can have"
    if addr.family == 4 and (addr.value >> 28 == 0xE or addr.value in (0, 0xFFFFFFFF)):
        return "is not an address that one interface can have"
    if addr.family == 6 and (addr.value >> 120 == 0xFF or addr.value == 0):
        return "is not an address that one interface can have"
    return None


def _apart(cable: Cable, problems: Problems) -> None:
    """A straight cable whose ends have subnets, and none in common; /32 and /128 are meant to need routes."""
    a, b = cable.ends
    if "bridge" in (a.kind, b.kind):
        return
    for family in (4, 6):
        ours, theirs = (
            [
                addr
                for addr in end.addresses
                if addr.family == family and addr.prefix < BITS[family] and not addr.is_link_local
            ]
            for end in (a, b)
        )
        if not ours or not theirs or any(one.net.holds(family, two.value) for one in ours for two in theirs):
            continue
        problems.warn(
            f"{ours[0]} and {theirs[0]} at the ends of one cable are in different subnets",
            _address_place(b, theirs[0]),
            "without a route to it, neither end reaches the other",
        )


def _in_subnet(wiring: Wiring, cable: Cable, end: End, problems: Problems) -> None:
    bridge = wiring.bridge_at(end)
    if cable.link.subnet is not None:
        nets, of = [from_network(cable.link.subnet)], "the link"
    elif bridge is not None and end.segment == bridge.segment:
        nets, of = bridge.subnets, f"bridge {bridge.name}"
    else:
        return
    for addr in end.addresses:
        same = [net for net in nets if net.family == addr.family]
        if same and not addr.is_link_local and not any(net.holds(addr.family, addr.value) for net in same):
            subnets = ", ".join(map(str, same))
            problems.error(
                f"{addr} is outside the subnet of {of}", _address_place(end, addr), f"it has {subnets}"
            )


# -- bridges, ports, dependencies ----------------------------------------------------------------


def _bridges(wiring: Wiring, problems: Problems) -> None:
    for bridge in wiring.bridges.values():
        if len(bridge.ports) > MOST_PORTS:
            problems.error(
                f"bridge {bridge.name} has {len(bridge.ports)} ports; the kernel allows {MOST_PORTS}",
                bridge.ports[MOST_PORTS].link.where or bridge.where,
                "spread them over several bridges, joined by links from bridge to bridge",
            )
        if bridge.spec.forward in ("nat", "route") and not bridge.addresses:
            problems.error(
                f"bridge {bridge.name} has no address, and can't forward",
                place(bridge.spec, "forward"),
                "give it an address, or leave `forward` out",
            )
    _overlaps(wiring, problems)


def _overlaps(wiring: Wiring, problems: Problems) -> None:
    """Two bridges with addresses in one subnet: the host would have two routes to it, and use one."""
    placed: list[tuple[Net, WiredBridge]] = []
    for bridge in wiring.bridges.values():
        for net in dict.fromkeys(addr.net for addr in bridge.addresses if not addr.is_link_local):
            apart = (b for other, b in placed if other.overlaps(net) and b.segment != bridge.segment)
            if (other := next(apart, None)) is not None:
                problems.error(
                    f"the subnet {net} of bridge {bridge.name} overlaps that of bridge {other.name}",
                    place(bridge.spec, "addresses"),
                    "the host can reach one of them only; `subnet` in place of `address` keeps it out",
                )
            placed.append((net, bridge))


def _host_ports(wiring: Wiring, problems: Problems) -> None:
    seen: dict[str, str] = {}
    for cable in wiring.cables:
        if cable.b.kind != "host":
            continue
        name = cable.b.ifname
        if name in seen:
            problems.error(f"host:{name} is already plugged into bridge {seen[name]}", cable.b.where)
        seen.setdefault(name, cable.a.node)


def _depends_on(wiring: Wiring, problems: Problems) -> None:
    """Names that are there, and no circle."""
    from graphlib import CycleError, TopologicalSorter

    topology = wiring.topology
    sorter: TopologicalSorter[str] = TopologicalSorter()
    for name, spec in topology.containers.items():
        for wanted in chain.from_iterable(map(topology.members, spec.depends_on)):
            if wanted in topology.containers:
                sorter.add(name, wanted)
            else:
                hint = nearest(wanted, [*topology.containers, *topology.groups])
                problems.error(f"there is no container {wanted}", place(spec, "depends_on"), hint)
    try:
        sorter.prepare()
    except CycleError as error:
        circle: list[str] = error.args[1][::-1]
        where = place(topology.containers[circle[0]], "depends_on")
        problems.error(f"containers wait for one another: {' -> '.join(circle)}", where)


NETWORK_KEYS = ("interfaces", "routes", "rules", "iptables", "ip6tables", "nftables", "loopback", "router")


def _pods(wiring: Wiring, problems: Problems) -> None:
    """A member of a pod has nothing of the network to itself."""
    for name, root in wiring.pods.items():
        spec = wiring.topology.containers[name]
        keys = [key for key in NETWORK_KEYS if getattr(spec, key)]
        keys += ["sysctls"] if any(sysctl.startswith("net.") for sysctl in spec.sysctls) else []
        for key in keys:
            problems.error(
                f"{name} shares the network of {root}, and can have no `{key}` of its own",
                place(spec, key),
                f"write it under containers.{root}",
            )


def _conflicts(wiring: Wiring, problems: Problems) -> None:
    """What a container can't be at the same time."""
    for spec in wiring.topology.containers.values():
        if spec.privileged and (spec.nesting or spec.namespaces.user):
            key = "nesting" if spec.nesting else "namespaces.user"
            problems.error(
                f"`privileged` gives {spec.name} the host's devices, which `{key}` is there to keep from it",
                place(spec, "privileged"),
                "leave one of them out",
            )
        if not spec.init and spec.restart != "no":
            problems.error(
                f"`init: false` leaves nobody in {spec.name} who could restart its command",
                place(spec, "restart"),
                "leave `init` out; a small PID 1 then runs the command again",
            )


def _mtus(wiring: Wiring, problems: Problems) -> None:
    for cable in wiring.cables:
        where = place(cable.link, "mtu")
        if cable.mtu < IPV6_MTU and any(a.family == 6 for end in cable.ends for a in end.addresses):
            problems.error(f"IPv6 needs an MTU of at least {IPV6_MTU}; the link has {cable.mtu}", where)
        for end in cable.ends:
            if end.kind != "bridge" or cable.b.kind == "host":
                continue
            mtu = wiring.bridges[end.node].mtu
            if mtu != cable.mtu:
                problems.warn(
                    f"the link's MTU {cable.mtu} is not that of bridge {end.node}, {mtu}",
                    where,
                    "packets that are larger than the smaller one are lost without a word",
                )
    for bridge in wiring.bridges.values():
        if bridge.mtu < IPV6_MTU and any(addr.family == 6 for addr in bridge.addresses):
            problems.error(f"IPv6 needs an MTU of at least {IPV6_MTU}", place(bridge.spec, "mtu"))


# -- warnings ------------------------------------------------------------------------------------


def _loops(wiring: Wiring, problems: Problems) -> None:
    """A circle of bridges, none of which runs STP: bridges without it pass BPDUs on, so one is enough."""
    joined: dict[str, str] = {}

    def root(name: str) -> str:
        while name in joined:
            name = joined[name]
        return name

    for cable in wiring.cables:
        if not cable.trunk or not cable.link.up:
            continue
        if any(wiring.bridges[end.node].spec.stp for end in cable.ends):
            continue
        a, b = root(cable.a.node), root(cable.b.node)
        if a == b:
            problems.warn(
                f"this link closes a layer 2 loop: {cable.a.node} and {cable.b.node} are joined already",
                cable.link.where,
                "frames will circle for ever; set `stp: true` on a bridge of the loop",
            )
        else:
            joined[b] = a


def _unreached(wiring: Wiring, problems: Problems) -> None:
    """A container without a link in a lab that has links."""
    if not wiring.topology.links:
        return
    shared = set(wiring.pods.values())
    for name, spec in wiring.topology.containers.items():
        lonely = not wiring.ends[name] and not spec.namespaces.net and name not in shared
        if lonely and name not in wiring.incomplete:
            problems.warn(f"nothing reaches {name}: it has no link", spec.where)
