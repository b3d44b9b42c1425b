"""The keys that say what is wired to what: bridges, links, routes, rules, interfaces, firewalls.

Owns: their declarations (types, defaults, descriptions) and the checks that need one object only.
Must not: compare addresses of different objects (``graph``), or expand ``scale`` and ``mesh`` (``expand``).
"""

from __future__ import annotations

from typing import Any

from netns_orch.errors import Where
from netns_orch.labfile import addresses, hints, short, units
from netns_orch.labfile.fields import (
    VARIABLE,
    Bool,
    Built,
    ByKind,
    Choice,
    Context,
    Field,
    Found,
    Int,
    Key,
    ListOf,
    MapOf,
    Noted,
    OneOrMore,
    Record,
    Schema,
    Text,
    block,
    entry_marks,
    made,
)
from netns_orch.labfile.model import (
    Addressing,
    Bridge,
    Firewall,
    FirewallRule,
    Marked,
    Nexthop,
    PortVlan,
    Route,
    Rule,
    VirtualInterface,
)
from netns_orch.labfile.nodes import Mapping, Node, Scalar, Sequence, shown
from netns_orch.labfile.units import Wrong
from netns_orch.records import dataclass, field

INTERFACE = Text(addresses.interface, "an address such as 10.0.0.2/24", addresses.INTERFACE)
NETWORK = Text(addresses.network, "a network such as 10.0.0.0/24", addresses.INTERFACE)
IP = Text(addresses.address, "an IP address", addresses.ADDRESS)
MAC = Text(addresses.mac, "a MAC address", addresses.MAC)
IFNAME = Text(addresses.ifname, "an interface name", addresses.IFNAME, also=("number",))
MTU = Int(68, 65535, "an MTU")
VLAN = Int(1, 4094, "a VLAN")
TABLE = Text(short.table, "a routing table", short.TABLE, also=("integer",))
METRIC = Int(0, (1 << 32) - 1, "a metric")
DESTINATION = Text(short.destination, "a network, an address or default")

# -- bridges -------------------------------------------------------------------------------------


class Gateway(Field[str]):
    """The name of one container."""

    expected = "a container's name"

    def parse(self, node: Node, ctx: Context, where: Where) -> str:
        if not isinstance(node, Scalar) or node.null:
            raise self.unfit(node)
        members = ctx.nodes.members(node.value)
        if members != [node.value]:
            raise Wrong(
                f"{shown(node.value)} stands for {len(members)} containers", f"one of them: {members[0]}"
            )
        return node.value

    def schema(self, defs: dict[str, Schema]) -> Schema:
        return {"type": ["string", "integer"]}


def _bridge(values: dict[str, Any], found: Found) -> Bridge:
    if "gateway" in found.marks and "subnets" not in found.marks:
        found.note("gateway", "a gateway needs the `subnet` that it serves", "subnet: 10.2.0.0/24")
    forward = values.get("forward")
    if forward in ("nat", "route") and "addresses" not in found.marks:
        what = f"`forward: {forward}` needs an address of the host's on the bridge"
        found.note("forward", what, "address: 10.0.0.1/24")
    return Bridge(name="", where=found.where, marks=found.marks, **values)


_BRIDGE = Record(
    "Bridge",
    {
        "address": Key(
            OneOrMore(INTERFACE),
            "The host's own address on it, one or more; containers without one take the next free.",
            "addresses",
            "address",
        ),
        "subnet": Key(
            OneOrMore(NETWORK), "Subnets to give addresses from, where the host has no address.", "subnets"
        ),
        "gateway": Key(Gateway(), "A container: takes the first address, is the others' default route."),
        "forward": Key(
            Choice("nat", "route", "none"),
            "How its packets leave the host: nat (the default with an address), route, or none.",
        ),
        "mtu": Key(MTU, "The bridge's MTU; default 1500."),
        "stp": Key(Bool(), "Spanning tree protocol; default false."),
        "isolated": Key(Bool(), "Ports can't reach one another; default false."),
        "multicast_snooping": Key(Bool(), "IGMP and MLD snooping; default false."),
        "ifname": Key(IFNAME, "Its interface's name on the host; default: made from lab and bridge."),
        "link_local": Key(Bool(), "IPv6 link-local addresses on its links."),
    },
    _bridge,
    about="A bridge; with an address of the host's it is docker0-like, without one a switch.",
    foreign=hints.BRIDGE,
)


class _AddressedBridge(Field[Bridge]):
    """The short form: the bridge's address, or a list of them."""

    _addresses = OneOrMore(INTERFACE)
    expected = _addresses.expected

    def parse(self, node: Node, ctx: Context, where: Where) -> Bridge:
        given = self._addresses.parse(node, ctx, where)
        marks = {"addresses": where, **entry_marks(node, ctx, where.path, "address")}
        return Bridge(name="", where=where, marks=marks, addresses=given)

    def schema(self, defs: dict[str, Schema]) -> Schema:
        return self._addresses.schema(defs)


BRIDGES = MapOf(
    ByKind(
        "an address such as 10.0.0.1/24, or a mapping",
        scalar=_AddressedBridge(),
        sequence=_AddressedBridge(),
        mapping=_BRIDGE,
        null=True,
    ),
    key=lambda text: short.name(text, "bridge", 63),
    expected="a mapping of bridges by name",
    pattern=short.NAME,
    hint="bridges: {br0: 10.0.0.1/24}",
)

ADDRESSING = Record(
    "Addressing",
    {
        "p2p": Key(NETWORK, "A pool: one /31 (or /127) for each cable between containers."),
        "loopback": Key(NETWORK, "A pool: one address for each container with `router: true`."),
    },
    made(Addressing),
    about="Pools for links and routers without an address of their own.",
)

# -- links ---------------------------------------------------------------------------------------


@dataclass(slots=True, kw_only=True)
class EndDraft(Marked):
    """One end as the file says it: ``node`` may stand for many containers."""

    node: str
    ifname: str | None = None
    addresses: list[Any] = field(default_factory=list)
    no_address: bool = False
    mac: str | None = None
    impairment: dict[str, Any] = field(default_factory=dict)
    vlan: PortVlan | None = None


@dataclass(slots=True, kw_only=True)
class LinkDraft(Marked):
    """A link as the file says it, before ``scale`` and ``mesh``."""

    ends: list[EndDraft]
    mesh: bool = False
    impairment: dict[str, Any] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)
    """mtu, subnet, no_address, offload, up, link_local"""


_DURATION = Text(units.duration, "a duration such as 20ms", units.POSITIVE_DURATION, also=("integer",))
_PERCENT = Text(units.percentage, "a percentage such as 0.1%", units.PERCENTAGE, also=("integer",))
IMPAIRMENTS = {
    "delay": Key(_DURATION, "Added to each packet (tc-netem)."),
    "jitter": Key(_DURATION, "How much the delay varies."),
    "loss": Key(_PERCENT, "Packets lost."),
    "duplicate": Key(_PERCENT, "Packets sent twice."),
    "corrupt": Key(_PERCENT, "Packets with a bit flipped."),
    "reorder": Key(_PERCENT, "Packets sent at once, past those delayed."),
    "rate": Key(Text(units.rate, "a rate such as 100mbit", units.RATE), "Bandwidth."),
    "limit": Key(Int(1, 1 << 31, "a number of packets"), "Packets that the queue holds."),
}


class _NoAddress(Field[list[Any]]):
    """``none``, as an empty list."""

    expected = "none"

    def parse(self, node: Node, ctx: Context, where: Where) -> list[Any]:
        if isinstance(node, Scalar) and node.value == "none":
            return []
        hint = "an address stands at one end: [red: 10.0.0.2/24, br0]"
        raise self.unfit(node, hint)

    def schema(self, defs: dict[str, Schema]) -> Schema:
        return {"const": "none"}


class _EndAddress(Field[list[Any]]):
    """An address, several, or ``none`` (an empty list)."""

    expected = "an address such as 10.0.0.2/24, a list of them, or none"
    _some = OneOrMore(INTERFACE)

    def parse(self, node: Node, ctx: Context, where: Where) -> list[Any]:
        if isinstance(node, Scalar) and node.value == "none":
            return []
        if node.null or isinstance(node, Mapping):
            raise self.unfit(node)
        values = self._some.parse(node, ctx, where)
        if isinstance(node, Sequence) and not node.items:
            raise Wrong("an empty list of addresses", "address: none")
        return values

    def schema(self, defs: dict[str, Schema]) -> Schema:
        return {"anyOf": [{"const": "none"}, self._some.schema(defs)]}


def _end_options(values: dict[str, Any], found: Found) -> EndDraft:
    impairment = {name: values.pop(name) for name in IMPAIRMENTS if name in values}
    given = values.pop("addresses", None)
    access, trunk = values.pop("access", None), values.pop("trunk", [])
    native = values.pop("native", None)
    vlan = PortVlan(access=access, trunk=trunk, native=native) if access or trunk or native else None
    if access and (trunk or native):
        found.note("access", "a port has either `vlan` or `trunk`", "an untagged VLAN of a trunk is `native`")
    if native and not trunk and not access:
        found.note("native", "`native` needs `trunk`", "an access port is {vlan: 10}")
    return EndDraft(
        where=found.where,
        marks=found.marks,
        node="",
        addresses=given or [],
        no_address=given == [],
        impairment=impairment,
        vlan=vlan,
        **values,
    )


_END_OPTIONS = Record(
    "End",
    {
        "address": Key(_EndAddress(), "Its addresses, one or a list; or none.", "addresses", "address"),
        "mac": Key(MAC, "Its MAC; default: made from the names."),
        **IMPAIRMENTS,
        "vlan": Key(VLAN, "At a bridge's end: an access port of this VLAN.", "access"),
        "trunk": Key(ListOf(VLAN, "a list of VLANs"), "At a bridge's end: VLANs carried with a tag."),
        "native": Key(VLAN, "At a bridge's end: the trunk's VLAN without a tag."),
    },
    _end_options,
    about="One end of a link; impairments are those on leaving it, over the link's own.",
    foreign=hints.END,
)
_END_PATTERN = r"[A-Za-z0-9][A-Za-z0-9_-]*(:[^\s/:%]{1,15})?"


class _End(Field[EndDraft]):
    """``red``, ``red:eth1``, ``red: 10.0.0.2/24``, ``red:eth1: {address: ..., delay: ...}``."""

    expected = "an end such as red, red:eth1 or red:eth1: 10.0.0.2/24"

    def parse(self, node: Node, ctx: Context, where: Where) -> EndDraft:
        if isinstance(node, Scalar) and not node.null:
            name, ifname = short.end(node.value)
            return EndDraft(where=where, node=name, ifname=ifname)
        if not isinstance(node, Mapping) or len(node.entries) != 1:
            hint = "more than one thing to say about an end: `red:eth1: {address: ..., mac: ...}`"
            raise self.unfit(node, hint if isinstance(node, Mapping) else None)
        ((text, (_, value)),) = node.entries.items()
        draft = self._options(value, ctx, where)
        draft.node, draft.ifname = short.end(text)
        return draft

    def _options(self, value: Node, ctx: Context, where: Where) -> EndDraft:
        if value.null or isinstance(value, Mapping):
            return _END_OPTIONS.parse(value, ctx, where)
        at = ctx.where(value, where.path)
        try:
            given = _EndAddress().parse(value, ctx, at)
        except Wrong as wrong:
            ctx.note(at, wrong)
            raise Noted from None
        marks = {"addresses": at, **entry_marks(value, ctx, where.path, "address")}
        return EndDraft(where=where, marks=marks, node="", addresses=given, no_address=not given)

    def schema(self, defs: dict[str, Schema]) -> Schema:
        forms = [_EndAddress().schema(defs), _END_OPTIONS.schema(defs), {"type": "null"}]
        named = {
            "type": "object",
            "minProperties": 1,
            "maxProperties": 1,
            "patternProperties": {f"^{_END_PATTERN}$|{VARIABLE}": {"anyOf": forms}},
            "additionalProperties": False,
        }
        return {"anyOf": [{"type": "string", "pattern": f"^{_END_PATTERN}$|{VARIABLE}"}, named]}


class _Ends(Field[list[EndDraft]]):
    """Exactly two ends."""

    expected = "a list of two ends"
    _list = ListOf(_End())

    def parse(self, node: Node, ctx: Context, where: Where) -> list[EndDraft]:
        if not isinstance(node, Sequence):
            raise self.unfit(node, "for example [red, br0]")
        if len(node.items) != 2:
            raise Wrong(f"a link has two ends, got {len(node.items)}", "for example [red, br0]")
        ends = self._list.parse(node, ctx, where)
        if len(ends) != 2:
            raise Noted
        return ends

    def schema(self, defs: dict[str, Schema]) -> Schema:
        return {**self._list.schema(defs), "minItems": 2, "maxItems": 2}


def _link(values: dict[str, Any], found: Found) -> LinkDraft:
    impairment = {name: values.pop(name) for name in IMPAIRMENTS if name in values}
    ends, mesh = values.pop("endpoints"), values.pop("mesh", False)
    if "state" in values:
        values["up"] = values.pop("state") == "up"
    if values.pop("no_address", None) is not None:
        values["no_address"] = True
    return LinkDraft(
        where=found.where, marks=found.marks, ends=ends, mesh=mesh, impairment=impairment, options=values
    )


_ENDS = _Ends()
_LINK = Record(
    "Link",
    {
        "endpoints": Key(_ENDS, "Its two ends.", "endpoints"),
        "mesh": Key(Bool(), "Between two scaled names: every one to every one; without: one to one."),
        "mtu": Key(MTU, "The MTU of both ends."),
        **IMPAIRMENTS,
        "offload": Key(Bool(), "false: no segmentation or checksum offload; default true."),
        "state": Key(Choice("up", "down"), "down: the cable is unplugged (no carrier)."),
        "subnet": Key(NETWORK, "Addresses of both ends are taken from it."),
        "address": Key(_NoAddress(), "none: no address on either end, as for DHCP.", "no_address"),
        "link_local": Key(Bool(), "IPv6 link-local addresses at its ends."),
    },
    _link,
    about="A cable; impairments are those of both ends.",
    required=("endpoints",),
    foreign=hints.LINK,
    nullable=False,
)


def _pair(ends: Any, ctx: Context, where: Where) -> LinkDraft:
    return LinkDraft(where=where, ends=ends)


LINKS = ListOf(
    ByKind(
        "a link such as [red, br0]",
        sequence=Built(_ENDS, _pair),
        mapping=_LINK,
        hint="its two ends in brackets: [red, br0]",
    ),
    expected="a list of links",
    hint="links: [[red, br0]]",
)

# -- routes and rules ----------------------------------------------------------------------------


def _families(values: dict[str, Any]) -> None:
    """One family in a route's destination, gateways and source."""
    to = values.get("to", "default")
    texts = [to] if to != "default" else []
    texts += [values[key] for key in ("via", "src") if values.get(key)]
    texts += [hop.via for hop in values.get("nexthops", ()) if hop.via]
    if len({addresses.family(text) for text in texts}) > 1:
        raise Wrong(f"a route is of one family, this one is not: {', '.join(texts)}")


def _route(values: dict[str, Any], ctx: Context, where: Where, marks: dict[str, Where]) -> Route:
    kind = values.get("type", "unicast")
    hops = [hop if isinstance(hop, Nexthop) else Nexthop(**hop) for hop in values.pop("nexthops", ())]
    if hops:
        values["nexthops"] = hops
    ways = [key for key in ("via", "dev") if values.get(key)]
    if kind == "unicast" and not ways and not hops:
        raise Wrong("a route needs `via` or `dev`", "for example: 10.9.0.0/16 via 10.0.0.254")
    if ways and hops:
        raise Wrong(f"a route with nexthops has no {shown(ways[0])} of its own")
    if any(not hop.via and not hop.dev for hop in hops):
        raise Wrong("a nexthop needs `via` or `dev`")
    if kind not in ("unicast", "local") and (ways or hops):
        raise Wrong(f"a route of type {kind} goes nowhere: it has no `via`, `dev` or `nexthop`")
    _families(values)
    return Route(where=where, marks=marks, **values)


def _route_text(values: Any, ctx: Context, where: Where) -> Route:
    return _route(dict(values), ctx, where, {})


def _route_mapping(values: dict[str, Any], found: Found) -> Route:
    return _route(values, found.ctx, found.where, found.marks)


_NEXTHOP = Record(
    "Nexthop",
    {
        "via": Key(IP, "The gateway."),
        "dev": Key(IFNAME, "The interface."),
        "weight": Key(Int(1, 256, "a weight"), "Its share of the traffic; default 1."),
    },
    lambda values, found: Nexthop(**values),
    about="One way of a multipath route.",
    nullable=False,
)
_ROUTE = Record(
    "Route",
    {
        "to": Key(DESTINATION, "The destination: a network, an address, or default."),
        "type": Key(Choice(*short.ROUTE_TYPES), "ip-route(8)'s type; default unicast."),
        "via": Key(IP, "The gateway."),
        "dev": Key(IFNAME, "The interface."),
        "src": Key(IP, "The preferred source address."),
        "metric": Key(METRIC, "Lower is better."),
        "table": Key(TABLE, "The routing table; default main."),
        "scope": Key(Choice("global", "site", "link", "host"), "ip-route(8)'s scope."),
        "mtu": Key(MTU, "The path's MTU."),
        "onlink": Key(Bool(), "Take the gateway as reachable, whatever the addresses say."),
        "nexthops": Key(ListOf(_NEXTHOP), "Several ways at once."),
    },
    _route_mapping,
    about="A route, in ip-route(8)'s words.",
    required=("to",),
    foreign={
        "destination": "it is `to`",
        "gateway": "it is `via`",
        "next_hop": "it is `via`",
        "interface": "it is `dev`",
        "from": "it is `src`; policy routing is `rules`",
    },
    nullable=False,
)
ROUTES = ListOf(
    ByKind(
        "a route such as 10.9.0.0/16 via 10.0.0.254",
        scalar=Built(Text(short.route, "a route such as 10.9.0.0/16 via 10.0.0.254"), _route_text),
        mapping=_ROUTE,
    ),
    expected="a list of routes",
    hint="routes: [10.9.0.0/16 via 10.0.0.254]",
)


def _rule(values: dict[str, Any], where: Where, marks: dict[str, Where]) -> Rule:
    action = values.get("action", "lookup")
    if action == "lookup" and "table" not in values:
        raise Wrong("a rule needs a `table` to look up", "for example: from 10.1.0.0/24 table 100")
    if action != "lookup" and "table" in values:
        raise Wrong(f"a rule with {action} looks up no table")
    families = {addresses.family(values[key]) for key in ("source", "to") if values.get(key)}
    if "family" in values:
        families.add(values["family"])
    if len(families) > 1:
        raise Wrong("a rule is of one family, this one is not")
    values["family"] = families.pop() if families else 4
    return Rule(where=where, marks=marks, **values)


_SELECTOR = Text(short.selector, "a network, an address or all")
_RULE_INTERFACE = Text(short.rule_interface, "an interface name")
_FAMILY = Int(4, 6, "a family: 4 or 6,")
_RULE = Record(
    "Rule",
    {
        "family": Key(_FAMILY, "4 or 6; default: that of the addresses, else 4."),
        "not": Key(Bool(), "What does not match.", "invert"),
        "from": Key(_SELECTOR, "Packets with this source.", "source"),
        "to": Key(_SELECTOR, "Packets to this destination."),
        "iif": Key(_RULE_INTERFACE, "Packets that came in by this interface."),
        "oif": Key(_RULE_INTERFACE, "Packets of sockets bound to this interface."),
        "fwmark": Key(Text(short.mark, "a mark such as 0x1", also=("integer",)), "Packets with this mark."),
        "tos": Key(Text(short.tos, "a type of service", also=("integer",)), "Packets with this type."),
        "table": Key(TABLE, "The table to look up."),
        "priority": Key(Int(1, (1 << 32) - 1, "a priority"), "Lower comes first."),
        "action": Key(Choice(*short.RULE_ACTIONS), "default lookup."),
    },
    lambda values, found: _rule(values, found.where, found.marks),
    about="A policy rule, in ip-rule(8)'s words.",
    nullable=False,
)


def _rule_text(values: Any, ctx: Context, where: Where) -> Rule:
    return _rule(dict(values), where, {})


RULES = ListOf(
    ByKind(
        "a rule such as from 10.1.0.0/24 table 100",
        scalar=Built(Text(short.rule, "a rule such as from 10.1.0.0/24 table 100"), _rule_text),
        mapping=_RULE,
    ),
    expected="a list of rules",
    hint='rules: ["from 10.1.0.0/24 table 100"]',
)

# -- interfaces made inside ----------------------------------------------------------------------

_MEMBERS = ListOf(IFNAME, "a list of interface names")
_MODES = ("balance-rr", "active-backup", "balance-xor", "broadcast", "802.3ad", "balance-tlb", "balance-alb")
_KIND_KEYS: dict[str, tuple[str, Field[Any], str, frozenset[str]]] = {
    "vlan": ("id", VLAN, "An 802.1Q interface of this VLAN on `parent`.", frozenset(("parent",))),
    "vxlan": (
        "id",
        Int(1, (1 << 24) - 1, "a VXLAN network identifier"),
        "A VXLAN tunnel with this network identifier.",
        frozenset(("parent", "local", "remote", "group", "port")),
    ),
    "bond": ("members", _MEMBERS, "A bond of these interfaces.", frozenset(("mode",))),
    "vrf": (
        "table",
        Int(1, (1 << 32) - 1, "a routing table's number"),
        "A VRF with this routing table.",
        frozenset(("interfaces",)),
    ),
    "bridge": ("members", _MEMBERS, "A bridge of these interfaces.", frozenset()),
    "dummy": ("dummy", Bool(), "true: a dummy interface.", frozenset()),
    "macvlan": (
        "mode",
        Choice("bridge", "private", "vepa", "passthru"),
        "A macvlan in this mode on `parent`.",
        frozenset(("parent",)),
    ),
}
_KIND_OPTIONS = frozenset(("parent", "local", "remote", "group", "port", "mode", "interfaces"))


def _virtual(values: dict[str, Any], found: Found) -> VirtualInterface:
    kinds = [kind for kind in _KIND_KEYS if kind in found.marks]
    if len(kinds) != 1:
        hint = f"one of {', '.join(_KIND_KEYS)}: {{vlan: 10, parent: eth0}}"
        raise Wrong("an interface is of one kind" if kinds else "an interface needs a kind", hint)
    kind = kinds[0]
    attribute, _, _, options = _KIND_KEYS[kind]
    for key in sorted(_KIND_OPTIONS - options):
        if key in found.marks:
            found.note(key, f"{kind} interfaces have no {shown(key)}")
            values.pop(key, None)
    if kind in ("vlan", "macvlan") and "parent" not in found.marks:
        raise Wrong(f"a {kind} interface needs its `parent`", "parent: eth0")
    first = values.pop(kind, None)
    if kind == "dummy" and first is False:
        raise Wrong("an interface needs a kind", "dummy: true")
    built = {**values, **({attribute: first} if kind != "dummy" else {})}
    if "interfaces" in built:
        built["members"] = built.pop("interfaces")
    return VirtualInterface(name="", kind=kind, where=found.where, marks=found.marks, **built)  # type: ignore[arg-type]


_VIRTUAL = Record(
    "Interface",
    {
        **{kind: Key(spec[1], spec[2]) for kind, spec in _KIND_KEYS.items()},
        "parent": Key(IFNAME, "vlan, vxlan, macvlan: the interface below."),
        "interfaces": Key(_MEMBERS, "vrf: the interfaces in it."),
        "mode": Key(Choice(*_MODES), "bond: how it spreads packets."),
        "local": Key(IP, "vxlan: the tunnel's own address."),
        "remote": Key(IP, "vxlan: the other end."),
        "group": Key(IP, "vxlan: a multicast group instead of `remote`."),
        "port": Key(Int(1, 65535, "a port"), "vxlan: the UDP port; default 4789."),
        "address": Key(OneOrMore(INTERFACE), "Its addresses, one or a list.", "addresses", "address"),
        "mac": Key(MAC, "Its MAC."),
        "mtu": Key(MTU, "Its MTU."),
    },
    _virtual,
    about="An interface made inside the container.",
    foreign={
        "id": "the VLAN or VXLAN number stands at its kind: {vlan: 10}",
        "link": "it is `parent`",
        "addresses": "it is `address`, one or a list",
        "members": "the interfaces stand at the kind: {bond: [eth0, eth1]}",
        "table": "it stands at the kind: {vrf: 10}",
        "vni": "it stands at the kind: {vxlan: 100}",
    },
    nullable=False,
)


def _named(values: Any, ctx: Context, where: Where) -> list[VirtualInterface]:
    for name, interface in values.items():
        interface.name = name
    return list(values.values())


INTERFACES = Built(
    MapOf(
        _VIRTUAL,
        key=addresses.ifname,
        expected="a mapping of interfaces by name",
        pattern=addresses.IFNAME,
        hint="interfaces: {eth0.10: {vlan: 10, parent: eth0}}",
    ),
    _named,
)

# -- firewalls -----------------------------------------------------------------------------------


def _firewall_rule(text: Any, ctx: Context, where: Where) -> FirewallRule:
    return FirewallRule(where=where, text=text)


def _firewall_rules(rules: Any, ctx: Context, where: Where) -> Firewall:
    return Firewall(where=where, rules=rules)


def _firewall_text(text: Any, ctx: Context, where: Where) -> Firewall:
    return Firewall(where=where, text=text)


_RULE_TEXT = Text(short.firewall_rule, "a rule as typed after `iptables`")
FIREWALL = ByKind(
    "a list of rules, or a text as iptables-save prints it",
    scalar=Built(Text(short.firewall_text, "a text as iptables-save prints it"), _firewall_text),
    sequence=Built(ListOf(Built(_RULE_TEXT, _firewall_rule)), _firewall_rules),
)
NFTABLES = Text(block, "a text as `nft -f` reads it")
