"""Routes and policy rules of the file, as the kernel will list them.

Owns: default routes by bridges, the interface behind each next hop, canonical prefixes, tables,
metrics, the order of rules.  Must not: read the host; a next hop is on link of what the file says or
nowhere.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from ipaddress import ip_address, ip_network
from typing import NamedTuple

from netns_orch.graph.addresses import BITS, Net, from_network, parse_net
from netns_orch.graph.names import Problems, nearest, place
from netns_orch.graph.wiring import End, WiredBridge, Wiring
from netns_orch.labfile import model
from netns_orch.labfile.model import HOST
from netns_orch.records import replace
from netns_orch.resources import Hop, Route, Rule

TABLES = {"main": 254, "default": 253, "local": 255}
"""rt_tables(5)"""
IPV6_METRIC = 1024
"""What the kernel gives an IPv6 route without one (IP6_RT_PRIO_USER)."""
LAST_PRIORITY = 32765
"""The rule before that of table main (ip-rule(8))."""
EVERYTHING = {4: "0.0.0.0/0", 6: "::/0"}


def plan_routes(wiring: Wiring, problems: Problems) -> None:
    """Fill in ``wiring.routes`` and ``wiring.rules`` for every container and for the host.

    What the file says wins over a default route by a bridge, and over ``auto``.
    """
    auto = _auto(wiring)
    for container in wiring.topology.containers.values():
        if container.name in wiring.pods:
            continue
        routes = []
        if container.routes:
            routes = _of_file(wiring, container.name, container.routes, problems)
        routes += _without(routes, auto.get(container.name, []))
        routes += default_routes(wiring, container, routes)
        if routes:
            wiring.routes[container.name] = routes
        if container.rules:
            tables = _vrf_tables(wiring, container.name)
            wiring.rules[container.name] = _rules(container.name, container.rules, tables, problems)
    if wiring.topology.host.routes:
        routes = _of_file(wiring, HOST, wiring.topology.host.routes, problems)
        wiring.routes[HOST] = routes + _without(routes, auto.get(HOST, []))


def _auto(wiring: Wiring) -> dict[str, list[Route]]:
    """What ``auto`` stands for, at each node that says it."""
    specs = {name: spec.routes for name, spec in wiring.topology.containers.items() if spec.routes}
    specs[HOST] = wiring.topology.host.routes
    places = {name: r.where for name, routes in specs.items() for r in routes if r.type == "auto"}
    if not places:
        return {}
    from netns_orch.graph.paths import auto_routes

    found = auto_routes(wiring, places)
    return {name: [replace(route, where=places[name]) for route in found[name]] for name in places}


def _without(said: list[Route], auto: list[Route]) -> list[Route]:
    """The automatic routes to where the file says nothing."""
    known = {route.dst for route in said if route.table == 254}
    return [route for route in auto if route.dst not in known]


# -- default routes ------------------------------------------------------------------------------


def default_routes(wiring: Wiring, container: model.Container, routes: Iterable[Route]) -> list[Route]:
    """By the first bridge with an address or a gateway, per family; none where the file has one."""
    if not container.default_route:
        return []
    said = {route.family for route in routes if route.dst == EVERYTHING[route.family] and route.table == 254}
    found: dict[int, Route] = {}
    for end, bridge in _bridged(wiring, container.name):
        for family in (4, 6):
            if family in said or family in found:
                continue
            via = _way_out(end, bridge, family)
            if via is not None:
                found[family] = Route(
                    owner=container.name,
                    family=family,
                    dst=EVERYTHING[family],
                    metric=IPV6_METRIC if family == 6 else 0,
                    hops=(Hop(via=via, dev=end.ifname),),
                    where=end.where,
                )
    return [found[family] for family in sorted(found)]


def _bridged(wiring: Wiring, container: str) -> Iterator[tuple[End, WiredBridge]]:
    """The container's ends that are plugged into a bridge."""
    for end in wiring.ends[container]:
        bridge = wiring.bridge_at(end)
        if bridge is not None:
            yield end, bridge


def _way_out(end: End, bridge: WiredBridge, family: int) -> str | None:
    """The address of the bridge's gateway, else of the bridge itself, that is on link of this end."""
    if bridge.gateway is not None and bridge.gateway.node == end.node:
        return None
    nets = [addr.net for addr in end.addresses if addr.family == family]
    by_gateway = bridge.gateway.addresses if bridge.gateway is not None else []
    for addr in [*by_gateway, *bridge.addresses]:
        if any(net.holds(addr.family, addr.value) for net in nets) and not addr.is_link_local:
            return addr.ip
    return None


# -- the file's routes ---------------------------------------------------------------------------


class _OnLink:
    """The prefixes that are on link of a node, by length, to find the interface of an address."""

    def __init__(self) -> None:
        self._by_prefix: dict[tuple[int, int], dict[int, list[str]]] = {}

    def add(self, net: Net, dev: str) -> None:
        by_base = self._by_prefix.setdefault((net.family, net.prefix), {})
        by_base.setdefault(net.base, []).append(dev)

    def devices(self, family: int, value: int) -> Iterator[str]:
        """Interfaces on link of which the address is, the longest prefix first."""
        for of_family, prefix in sorted(self._by_prefix, key=lambda key: -key[1]):
            if of_family == family:
                bits = BITS[family] - prefix
                yield from self._by_prefix[of_family, prefix].get(value >> bits << bits, ())


class _Bad(Exception):
    """A route or rule is wrong: what, the keys it may stand at, a hint."""

    def __init__(self, what: str, keys: tuple[str, ...] = (), hint: str | None = None) -> None:
        super().__init__(what)
        self.what, self.keys, self.hint = what, keys, hint


class _Node(NamedTuple):
    """What a route of this node can refer to."""

    name: str
    devices: dict[str, str]
    """Names in the file to real ones."""
    on_link: _OnLink
    own: set[tuple[int, int]]
    tables: dict[str, int]


def _node(wiring: Wiring, name: str, routes: Iterable[model.Route]) -> _Node:
    devices = {iface.ifname: iface.ifname for iface in wiring.interfaces(name)}
    if name == HOST:
        devices = {bridge.name: bridge.ifname for bridge in wiring.bridges.values()}
    on_link = _OnLink()
    for iface in wiring.interfaces(name):
        for addr in iface.addresses:
            on_link.add(addr.net, iface.ifname)
    for route in routes:
        if route.dev and not route.via and not route.nexthops and route.type == "unicast":
            net = _quiet_net(route)
            if net is not None:
                on_link.add(net, devices.get(route.dev, route.dev))
    own = {(addr.family, addr.value) for addr in wiring.addresses(name)}
    return _Node(name, {"lo": "lo", **devices}, on_link, own, _vrf_tables(wiring, name))


def _quiet_net(route: model.Route) -> Net | None:
    """The prefix of a route on link; None where it is wrong (which is reported elsewhere) or default."""
    try:
        return None if route.to == "default" else parse_net(route.to)
    except ValueError:
        return None


def _vrf_tables(wiring: Wiring, node: str) -> dict[str, int]:
    return {
        virtual.ifname: virtual.spec.table
        for virtual in wiring.virtual.get(node, ())
        if virtual.spec.kind == "vrf" and virtual.spec.table is not None
    }


def _of_file(wiring: Wiring, name: str, specs: list[model.Route], problems: Problems) -> list[Route]:
    """Those on link first: the kernel checks the next hop of each of the others against them."""
    node = _node(wiring, name, specs)
    made: dict[str, Route] = {}
    for spec in specs:
        if spec.type == "auto":
            continue
        try:
            route = _route(node, spec)
        except _Bad as bad:
            if name not in wiring.incomplete:
                problems.error(bad.what, place(spec, *bad.keys), bad.hint)
            continue
        if route.key in made:
            problems.error(
                f"{name} has two routes to {spec.to} of the same metric",
                spec.where,
                "give one of them a metric of its own, or write one route with nexthops",
            )
        made[route.key] = route
    return sorted(made.values(), key=lambda route: any(hop.via for hop in route.hops))


def _route(node: _Node, spec: model.Route) -> Route:
    family, dst = _destination(spec)
    hops = _hops(node, spec, family)
    return Route(
        owner=node.name,
        family=family,
        dst=dst,
        table=_table(spec.table, node.tables, 255 if spec.type == "local" else 254),
        metric=_metric(spec.metric, family),
        type=spec.type,
        src=_source(node, spec.src, family),
        mtu=spec.mtu,
        scope=_scope(spec, family, hops),
        onlink=spec.onlink,
        hops=hops,
        where=spec.where,
    )


def _address(text: str, key: str) -> tuple[int, int, str]:
    """Family, number, and canonical text."""
    try:
        address = ip_address(text)
    except ValueError:
        raise _Bad(f"{text} is not an IPv4 or IPv6 address", (key,)) from None
    return address.version, int(address), str(address)


def _prefix(text: str, key: str) -> Net:
    try:
        return parse_net(text)
    except ValueError:
        pass
    try:
        right = from_network(ip_network(text, strict=False))
    except ValueError:
        raise _Bad(f"{text} is not an IPv4 or IPv6 prefix", (key,)) from None
    raise _Bad(f"{text} has bits set beyond its prefix length", (key,), f"the prefix is {right}")


def _destination(spec: model.Route) -> tuple[int, str]:
    if spec.to != "default":
        net = _prefix(spec.to, "to")
        return net.family, str(net)
    vias = [via for via in (spec.via, *(hop.via for hop in spec.nexthops), spec.src) if via]
    family = _address(vias[0], "via")[0] if vias else 4
    return family, EVERYTHING[family]


def _hops(node: _Node, spec: model.Route, family: int) -> tuple[Hop, ...]:
    if spec.type == "local":
        return (Hop(dev=_device(node, spec.dev or "lo")),)
    if spec.type != "unicast":
        if spec.via or spec.dev or spec.nexthops:
            raise _Bad(f"a route of type {spec.type} goes to no next hop and no interface", ("via", "dev"))
        return ()
    ways = spec.nexthops or [model.Nexthop(via=spec.via, dev=spec.dev)]
    if len(ways) == 1:  # the kernel keeps no weight of a single way
        ways = [model.Nexthop(via=ways[0].via, dev=ways[0].dev)]
    return tuple(_hop(node, way, family, onlink=spec.onlink) for way in ways)


def _hop(node: _Node, way: model.Nexthop, family: int, *, onlink: bool) -> Hop:
    dev = _device(node, way.dev) if way.dev else None
    if way.via is None:
        if dev is None:
            raise _Bad("the route has neither a next hop nor an interface", ("to",), "add `via` or `dev`")
        return Hop(dev=dev, weight=way.weight)
    via_family, value, text = _address(way.via, "via")
    if via_family == 4 and family == 6:
        raise _Bad(f"an IPv6 route can't go by the IPv4 address {text}", ("via",))
    if (via_family, value) in node.own:
        raise _Bad(f"the next hop {text} is {_named(node)}'s own address", ("via",))
    link_local = via_family == 6 and value >> 118 == 0xFE80 >> 6
    if link_local and dev is None:
        raise _Bad(f"which interface is {text} on? It is a link-local address", ("via",), "add `dev`")
    if onlink and dev is None:
        raise _Bad("onlink needs the interface", ("onlink", "via"), "add `dev`")
    if not link_local and not onlink:
        dev = _reaching(node, via_family, value, text, dev)
    return Hop(via=text, dev=dev, weight=way.weight)


def _reaching(node: _Node, family: int, value: int, text: str, dev: str | None) -> str:
    """The interface by which a next hop is reached; the one the file names, if that is on link of it."""
    found = list(node.on_link.devices(family, value))
    if not found or (dev is not None and dev not in found):
        where = f" on {dev}" if dev else ""
        own = "no address of the host on a bridge" if node.name == HOST else f"no interface of {node.name}"
        raise _Bad(
            f"the next hop {text} is not on link{where}",
            ("via",),
            f"{own} is in a subnet with {text}"
            if not dev
            else f"{dev} has no address in a subnet with {text}",
        )
    return dev or found[0]


def _named(node: _Node) -> str:
    return "the host" if node.name == HOST else node.name


def _device(node: _Node, name: str) -> str:
    if name in node.devices:
        return node.devices[name]
    if node.name == HOST:
        return name
    raise _Bad(f"{node.name} has no interface {name}", ("dev",), nearest(name, node.devices))


def _source(node: _Node, text: str | None, family: int) -> str | None:
    if text is None:
        return None
    of_family, value, canonical = _address(text, "src")
    if of_family != family:
        raise _Bad(f"src {canonical} is not of the route's family", ("src",))
    if (of_family, value) not in node.own and node.name != HOST:
        raise _Bad(f"src {canonical} is no address of {node.name}", ("src",))
    return canonical


def _metric(metric: int | None, family: int) -> int:
    return metric or (IPV6_METRIC if family == 6 else 0)


def _table(name: str | None, vrfs: dict[str, int], default: int) -> int:
    if name is None:
        return default
    known = {**TABLES, **vrfs}
    if name in known:
        return known[name]
    try:
        number = int(name, 0)
    except ValueError:
        number = 0
    if not 0 < number < 1 << 32:
        raise _Bad(f"there is no routing table {name}", ("table",), f"a number, or {', '.join(known)}")
    return number


def _scope(spec: model.Route, family: int, hops: tuple[Hop, ...]) -> str | None:
    """None where it is what ip-route(8) chooses by itself; IPv6 has no scopes."""
    direct = spec.type == "unicast" and len(hops) == 1 and hops[0].via is None
    usual = "link" if direct else "global"
    if spec.type == "local":
        usual = "host"
    return None if family == 6 or spec.scope in (None, usual) else spec.scope


# -- policy rules --------------------------------------------------------------------------------


def _rules(owner: str, specs: list[model.Rule], tables: dict[str, int], problems: Problems) -> list[Rule]:
    """The first in the file is asked first.  Those without a priority take the free ones up to 32765."""
    priorities = _priorities(specs)
    made: dict[str, Rule] = {}
    for spec, priority in zip(specs, priorities, strict=True):
        try:
            rule = _rule(owner, spec, priority, tables)
        except _Bad as bad:
            problems.error(bad.what, place(spec, *bad.keys), bad.hint)
            continue
        if rule.key in made:
            problems.error(f"{owner} has two rules of priority {priority}", place(spec, "priority"))
        made[rule.key] = rule
    return list(made.values())


def _priorities(specs: list[model.Rule]) -> list[int]:
    chosen: list[int] = []
    free = {family: _free_priorities(specs, family) for family in (4, 6)}
    for spec in specs:
        chosen.append(next(free[spec.family]) if spec.priority is None else spec.priority)
    return chosen


def _free_priorities(specs: list[model.Rule], family: int) -> Iterator[int]:
    taken = {spec.priority for spec in specs if spec.family == family}
    needed = sum(spec.family == family and spec.priority is None for spec in specs)
    free: list[int] = []
    priority = LAST_PRIORITY
    while len(free) < needed:
        if priority not in taken:
            free.append(priority)
        priority -= 1
    return reversed(free)


def _rule(owner: str, spec: model.Rule, priority: int, tables: dict[str, int]) -> Rule:
    mark, mask = _mark(spec.fwmark)
    return Rule(
        owner=owner,
        family=spec.family,
        priority=priority,
        source=_selector(spec.source, spec.family, "from"),
        to=_selector(spec.to, spec.family, "to"),
        iif=spec.iif,
        oif=spec.oif,
        fwmark=mark,
        fwmask=mask,
        tos=spec.tos or 0,
        action=spec.action,
        table=_table(spec.table, tables, 254) if spec.action == "lookup" else 0,
        invert=spec.invert,
        where=spec.where,
    )


def _selector(text: str | None, family: int, key: str) -> str | None:
    """None for all; the kernel keeps no prefix of length 0."""
    if text in (None, "all", "any", "default"):
        return None
    net = _prefix(str(text), key)
    if net.family != family:
        raise _Bad(f"{net} is not an IPv{family} prefix", (key,))
    return str(net) if net.prefix else None


def _mark(text: str | None) -> tuple[int | None, int | None]:
    """The mark and its mask; no mask where it is all ones."""
    if text is None:
        return None, None
    mark, _, mask = text.partition("/")
    try:
        numbers = int(mark, 0), int(mask, 0) if mask else 0xFFFF_FFFF
    except ValueError:
        raise _Bad(
            f"{text} is not a mark", ("fwmark",), "a number, or number/mask, such as 0x1/0xff"
        ) from None
    return numbers[0], None if numbers[1] == 0xFFFF_FFFF else numbers[1]
