"""Layer 3: which way a node sends a packet, by its policy rules and routing tables.

Owns: what ip-rule(8) and ip-route(8) say of one packet.  Must not: know who is at the other end of a cable.

Not looked at: marks that a firewall sets, TOS, and the kernel's choice among equal ways by hash (the first is
taken, the others are told).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_interface, ip_network

from netns_orch.resources import HOST, Address, Hop, HostSysctl, Route, Rule, State, Sysctl
from netns_orch.trace.fabric import Fabric, Place

Ip = IPv4Address | IPv6Address
Subnet = IPv4Network | IPv6Network
MAIN, DEFAULT = 254, 253
_L3MDEV, _MAIN_RULE, _DEFAULT_RULE = 1000, 32766, 32767
_WORDS = {
    "blackhole": "a blackhole route",
    "unreachable": "an unreachable route",
    "prohibit": "a prohibit route",
}
_FORWARDING = {4: "net.ipv4.ip_forward", 6: "net.ipv6.conf.all.forwarding"}


@dataclass(frozen=True)
class Decision:
    """What a node does with a packet: one of its routes, or None and why not."""

    route: Route | None
    hops: tuple[Hop, ...] = ()
    why: str = ""

    @property
    def text(self) -> str:
        """The route in ip-route(8)'s words, without the way."""
        if self.route is None:
            return self.why
        everything = ("0.0.0.0/0", "::/0")
        dst = "default" if self.route.dst in everything else self.route.dst
        return dst + (f" table {self.route.table}" if self.route.table != MAIN else "")


class Tables:
    """The routing of every node of a state."""

    def __init__(self, state: State, fabric: Fabric) -> None:
        self._fabric = fabric
        everything = [*state.values(), *state.extra.values()]
        self.addresses: dict[str, list[tuple[str, Address]]] = {}
        self._routes: dict[tuple[str, int], list[tuple[Subnet, Route]]] = {}
        self._rules: dict[str, list[Rule]] = {}
        self._sysctls: dict[tuple[str, str], str] = {}
        for resource in everything:
            match resource:
                case Address():
                    self.addresses.setdefault(resource.owner, []).append((resource.ifname, resource))
                    self._connected(resource)
                case Route():
                    self._add(resource)
                case Rule():
                    self._rules.setdefault(resource.owner, []).append(resource)
                case Sysctl():
                    self._sysctls[resource.container, resource.name] = resource.value
                case HostSysctl():
                    self._sysctls[HOST, resource.name] = resource.value
                case _:
                    pass

    def _add(self, route: Route) -> None:
        known = self._routes.setdefault((route.owner, route.table), [])
        known.append((ip_network(route.dst), route))

    def _connected(self, address: Address) -> None:
        """The route to its own subnet that comes with an address."""
        interface = ip_interface(address.cidr)
        net = interface.network
        if address.ifname == "lo" or net.prefixlen == net.max_prefixlen:
            return
        table = self._fabric.vrf_of(Place(address.owner, address.ifname)) or MAIN
        source = str(interface.ip) if interface.version == 4 else None
        hop = Hop(dev=address.ifname)
        self._add(
            Route(owner=address.owner, family=net.version, dst=str(net), table=table, src=source, hops=(hop,))
        )

    # -- questions --------------------------------------------------------------------------------

    def owner(self, ip: Ip) -> str | None:
        """The node that has an address."""
        return next((node for node in self.addresses if self.is_own(node, ip)), None)

    def is_own(self, node: str, ip: Ip) -> bool:
        """Whether it is an address of that node."""
        return any(ip_interface(address.cidr).ip == ip for _, address in self.addresses.get(node, ()))

    def has(self, place: Place, ip: Ip) -> bool:
        """Whether it answers for that address there: IPv4 on any of its interfaces, IPv6 on that one only."""
        if ip.version == 4:
            return self.is_own(place.node, ip)
        own = self.addresses.get(place.node, ())
        return any(ifname == place.ifname and ip_interface(a.cidr).ip == ip for ifname, a in own)

    def address_on(self, place: Place, family: int, near: Ip | None = None) -> Ip | None:
        """The address that a node speaks from there: of the next hop's subnet, else the first."""
        own = [
            ip_interface(a.cidr) for ifname, a in self.addresses.get(place.node, ()) if ifname == place.ifname
        ]
        usable = [i for i in own if i.version == family and not i.ip.is_link_local]
        found = next((i for i in usable if near is not None and near in i.network), None)
        chosen = found or (usable[0] if usable else None)
        return chosen.ip if chosen else None

    def forwards(self, node: str, family: int) -> bool:
        """Whether a node passes on what is not for itself.  Of the host, its table judges."""
        return node == HOST or self._sysctls.get((node, _FORWARDING[family])) == "1"

    def strict_reverse_path(self, place: Place) -> bool:
        """Whether IPv4 packets must come in by the interface that answers would leave by (rp_filter 1)."""
        names = (f"net.ipv4.conf.{which}.rp_filter" for which in ("all", place.ifname.replace(".", "/")))
        return max(self._sysctls.get((place.node, name), "0") for name in names) == "1"

    def decide(self, node: str, dst: Ip, src: Ip | None = None, iif: str | None = None) -> Decision:
        """The route that a packet takes at a node; ``iif`` None: it is the node's own."""
        decision = self._decide(node, dst, src, iif, switched_off=False)
        if decision.route is None and not decision.why:
            return self._decide(node, dst, src, iif, switched_off=True)
        return decision

    def _decide(self, node: str, dst: Ip, src: Ip | None, iif: str | None, *, switched_off: bool) -> Decision:
        for rule in self._rules_of(node, dst.version, iif):
            if not _matches(rule, dst, src, iif):
                continue
            if rule.action != "lookup":
                return Decision(None, why=f"the rule with priority {rule.priority}: {rule.action}")
            route = self._longest(node, rule.table, dst, switched_off)
            if route is None or route.type == "throw":
                continue
            if route.type in _WORDS:
                return Decision(None, why=f"{_WORDS[route.type]} to {route.dst}")
            return Decision(route, self._usable(node, route, switched_off))
        return Decision(None)

    def _rules_of(self, node: str, family: int, iif: str | None) -> Iterator[Rule]:
        own = [rule for rule in self._rules.get(node, ()) if rule.family == family]
        blank = Rule(owner=node, family=family, priority=_MAIN_RULE, table=MAIN)
        vrf = self._fabric.vrf_of(Place(node, iif)) if iif else None
        own += [blank, replace(blank, priority=_DEFAULT_RULE, table=DEFAULT)]
        own += [replace(blank, priority=_L3MDEV, table=vrf)] if vrf else []
        return iter(sorted(own, key=lambda rule: rule.priority))

    def _longest(self, node: str, table: int, dst: Ip, switched_off: bool) -> Route | None:
        found = [
            (net.prefixlen, -route.metric, -number, route)
            for number, (net, route) in enumerate(self._routes.get((node, table), ()))
            if dst in net and (switched_off or self._is_there(node, route))
        ]
        return max(found, key=lambda entry: entry[:3])[3] if found else None

    def _is_there(self, node: str, route: Route) -> bool:
        """The kernel takes routes away with the last of their interfaces that is switched on."""
        return not route.hops or bool(self._usable(node, route, switched_off=False))

    def _usable(self, node: str, route: Route, switched_off: bool) -> tuple[Hop, ...]:
        on = (h for h in route.hops if h.dev is None or not self._fabric.switched_off(Place(node, h.dev)))
        return route.hops if switched_off else tuple(on)


def _matches(rule: Rule, dst: Ip, src: Ip | None, iif: str | None) -> bool:
    if rule.fwmark or rule.tos or (rule.oif is not None):
        return rule.invert
    fits = _within(src, rule.source) and _within(dst, rule.to)
    if rule.iif is not None:
        fits = fits and rule.iif == (iif or "lo")
    return fits != rule.invert


def _within(ip: Ip | None, prefix: str | None) -> bool:
    return prefix is None or (ip is not None and ip in ip_network(prefix))


def parse_ip(text: str) -> Ip:
    """An address; a ValueError where it is none."""
    return ip_address(text)
