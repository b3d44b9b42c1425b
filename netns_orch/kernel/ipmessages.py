"""The rtnetlink messages of addresses, routes and policy rules, to and from resources.

Owns: what each message and attribute means (rtnetlink(7), linux/if_addr.h, rtnetlink.h, fib_rules.h).
Must not: send anything, decide an order, or know which object belongs to a lab.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from socket import AF_INET, AF_INET6, AF_UNSPEC, inet_ntop, inet_pton
from typing import NamedTuple

from netns_orch.kernel.messages import string
from netns_orch.kernel.netlink import (
    NLM_F_CREATE,
    NLM_F_EXCL,
    NLM_F_REPLACE,
    Request,
    attribute,
    parse,
    text,
    u8,
    u32,
)
from netns_orch.records import replace
from netns_orch.resources import ROUTE_PROTOCOL, Address, Hop, Route, Rule

RTM_NEWADDR, RTM_DELADDR, RTM_GETADDR = 20, 21, 22
RTM_NEWROUTE, RTM_DELROUTE, RTM_GETROUTE = 24, 25, 26
RTM_NEWRULE, RTM_DELRULE, RTM_GETRULE = 32, 33, 34
IFA_ADDRESS, IFA_LOCAL, IFA_PROTO = 1, 2, 11
IFA_F_NODAD = 0x02
RTA_DST, RTA_OIF, RTA_GATEWAY, RTA_PRIORITY, RTA_PREFSRC, RTA_METRICS, RTA_MULTIPATH = 1, 4, 5, 6, 7, 8, 9
RTA_TABLE, RTA_VIA = 15, 18
RTAX_MTU = 2
RTNH_F_ONLINK, RTM_F_CLONED = 4, 0x200
SCOPES = {"global": 0, "site": 200, "link": 253, "host": 254, "nowhere": 255}
ROUTE_TYPES = {
    "unicast": 1, "local": 2, "broadcast": 3, "anycast": 4, "multicast": 5,
    "blackhole": 6, "unreachable": 7, "prohibit": 8, "throw": 9,
}  # fmt: skip
DEVICELESS = frozenset(("blackhole", "unreachable", "prohibit", "throw"))
FRA_DST, FRA_SRC, FRA_IIFNAME, FRA_PRIORITY, FRA_FWMARK = 1, 2, 3, 6, 10
FRA_TABLE, FRA_FWMASK, FRA_OIFNAME, FRA_PROTOCOL = 15, 16, 17, 21
FIB_RULE_INVERT = 2
RULE_ACTIONS = {"lookup": 1, "blackhole": 6, "unreachable": 7, "prohibit": 8}
EVERY_ONE = 0xFFFF_FFFF
ADDRESS = struct.Struct("=BBBBi")
ROUTE = struct.Struct("=8BI")
RULE = struct.Struct("=8BI")
NEXTHOP = struct.Struct("=HBBi")
RTPROT_KERNEL = 2
_BY_KERNEL = bytes((RTPROT_KERNEL,))
_ROUTE_NAMES = {number: name for name, number in ROUTE_TYPES.items()}
_RULE_NAMES = {number: name for name, number in RULE_ACTIONS.items()}
_SCOPE_NAMES = {number: name for name, number in SCOPES.items()}
_CREATE = NLM_F_CREATE | NLM_F_EXCL
_U32 = struct.Struct("=I")


# -- addresses -------------------------------------------------------------------------------------


def split_prefix(prefix: str) -> tuple[int, bytes, int]:
    """Address family, packed address and length of a canonical prefix."""
    address, _, length = prefix.partition("/")
    family = AF_INET6 if ":" in address else AF_INET
    packed = inet_pton(family, address)
    return family, packed, int(length) if length else len(packed) * 8


def add_address(address: Address, index: int, protocol: int = ROUTE_PROTOCOL) -> Request:
    """Add an address, without duplicate address detection (IFA_F_NODAD), as added by ``protocol``."""
    body = _address(address.cidr, index)
    return Request(RTM_NEWADDR, _CREATE, body + u8(IFA_PROTO, protocol) if protocol else body)


def delete_address(cidr: str, index: int) -> Request:
    """Delete an address."""
    return Request(RTM_DELADDR, 0, _address(cidr, index))


def _address(cidr: str, index: int) -> bytes:
    family, packed, length = split_prefix(cidr)
    flags = IFA_F_NODAD if family == AF_INET6 else 0
    scope = SCOPES["host"] if family == AF_INET and packed[0] == 127 else 0
    header = ADDRESS.pack(family, length, flags, scope, index)
    return header + attribute(IFA_LOCAL, packed) + attribute(IFA_ADDRESS, packed)


def dump_addresses() -> Request:
    """Ask for all addresses."""
    return Request(RTM_GETADDR, 0, ADDRESS.pack(AF_UNSPEC, 0, 0, 0, 0))


class AddressFact(NamedTuple):
    """What the kernel says of one address."""

    ifindex: int
    cidr: str
    scope: int
    protocol: int
    """IFA_PROTO: who added it; 0 where the kernel does not say (before Linux 5.18)."""


def decode_address(body: bytes) -> AddressFact:
    """An address of an RTM_NEWADDR message."""
    family, length, _, scope, index = ADDRESS.unpack_from(body)
    attributes = parse(body, 8)
    packed = attributes.get(IFA_LOCAL) or attributes[IFA_ADDRESS]
    protocol = attributes.get(IFA_PROTO, b"\0")[0]
    return AddressFact(index, f"{inet_ntop(family, packed)}/{length}", scope, protocol)


def is_loopback_address(body: bytes) -> bool:
    """Whether it is one of those that every loopback interface has by itself; told without decoding."""
    family, length, _, _, _ = ADDRESS.unpack_from(body)
    if family == AF_INET:
        return length == 8 and body[12:16] == _LOOPBACK_IPV4
    return length == 128 and body[12:28] == _LOOPBACK_IPV6


_LOOPBACK_IPV4, _LOOPBACK_IPV6 = inet_pton(AF_INET, "127.0.0.1"), inet_pton(AF_INET6, "::1")


# -- routes ----------------------------------------------------------------------------------------

IndexOf = Callable[[str], int]


def add_route(
    route: Route, index: IndexOf, *, replace: bool = False, protocol: int = ROUTE_PROTOCOL
) -> Request:
    """Add a route, or put it in the place of the one with the same destination, table and metric."""
    how = NLM_F_CREATE | NLM_F_REPLACE if replace else _CREATE
    return Request(RTM_NEWROUTE, how, _route(route, index, protocol))


def delete_route(route: Route, index: IndexOf) -> Request:
    """Delete a route."""
    return Request(RTM_DELROUTE, 0, _route(route, index))


def _route(route: Route, index: IndexOf, protocol: int = ROUTE_PROTOCOL) -> bytes:
    family, packed, length = split_prefix(route.dst)
    flags = RTNH_F_ONLINK if route.onlink and len(route.hops) == 1 else 0
    header = ROUTE.pack(
        family,
        length,
        0,
        0,
        route.table if route.table < 256 else 0,
        protocol,
        SCOPES[route.scope]
        if route.scope is not None
        else _default_scope(route.family, route.type, route.hops),
        ROUTE_TYPES[route.type],
        flags,
    )
    parts = [header]
    if length:
        parts.append(attribute(RTA_DST, packed))
    if route.table > 255:
        parts.append(u32(RTA_TABLE, route.table))
    if route.src is not None:
        parts.append(attribute(RTA_PREFSRC, inet_pton(family, route.src)))
    if route.metric:
        parts.append(u32(RTA_PRIORITY, route.metric))
    if route.mtu is not None:
        parts.append(attribute(RTA_METRICS, u32(RTAX_MTU, route.mtu)))
    parts.append(_hops(route, family, index))
    return b"".join(parts)


def _scope(route: Route) -> int:
    if route.scope is None:
        return _default_scope(route.family, route.type, route.hops)
    return SCOPES[route.scope] if route.scope in SCOPES else int(route.scope)


def _default_scope(family: int, route_type: str, hops: tuple[Hop, ...]) -> int:
    """What ip-route(8) takes when none is said; IPv6 knows only one."""
    if family == 6:
        return SCOPES["global"]
    if route_type == "local":
        return SCOPES["host"]
    direct = route_type == "unicast" and len(hops) == 1 and hops[0].via is None
    return SCOPES["link"] if direct else SCOPES["global"]


def _hops(route: Route, family: int, index: IndexOf) -> bytes:
    if not route.hops:
        return b""
    if len(route.hops) == 1:
        hop = route.hops[0]
        return _gateway(hop, family) + (u32(RTA_OIF, index(hop.dev)) if hop.dev is not None else b"")
    flags = RTNH_F_ONLINK if route.onlink else 0
    several = []
    for hop in route.hops:
        gateway = _gateway(hop, family)
        dev = index(hop.dev) if hop.dev is not None else 0
        several.append(NEXTHOP.pack(8 + len(gateway), flags, hop.weight - 1, dev) + gateway)
    return attribute(RTA_MULTIPATH, b"".join(several))


def _gateway(hop: Hop, family: int) -> bytes:
    if hop.via is None:
        return b""
    via_family, packed, _ = split_prefix(hop.via)
    if via_family == family:
        return attribute(RTA_GATEWAY, packed)
    return attribute(RTA_VIA, struct.pack("=H", via_family) + packed)


def dump_routes() -> Request:
    """Ask for all routes of all tables and families."""
    return Request(RTM_GETROUTE, 0, ROUTE.pack(AF_UNSPEC, 0, 0, 0, 0, 0, 0, 0, 0))


def route_protocol(body: bytes) -> int | None:
    """Who added the route of an RTM_NEWROUTE message; None for one that is no entry of an IP table."""
    family, _, _, _, _, protocol, _, kind, flags = ROUTE.unpack_from(body)
    if family not in (AF_INET, AF_INET6) or flags & RTM_F_CLONED or kind not in _ROUTE_NAMES:
        return None
    return int(protocol)


def decode_route(body: bytes, owner: str, names: Mapping[int, str]) -> Route:
    """The route of an RTM_NEWROUTE message; ``names`` are the interfaces of its namespace by index."""
    family, length, _, _, table, _, scope, kind, flags = ROUTE.unpack_from(body)
    attributes = parse(body, 12)
    zero = b"\0" * (4 if family == AF_INET else 16)
    metrics = parse(attributes.get(RTA_METRICS, b""))
    hops, onlink = _decode_hops(attributes, family, names)
    route_type, version = _ROUTE_NAMES[kind], 4 if family == AF_INET else 6
    hops = () if route_type in DEVICELESS else hops  # IPv6 shows lo for a route that leads nowhere
    usual = version == 6 or scope == _default_scope(version, route_type, hops)
    return Route(
        owner=owner,
        family=version,
        dst=f"{inet_ntop(family, attributes.get(RTA_DST, zero))}/{length}",
        table=_number(attributes.get(RTA_TABLE), table),
        metric=_number(attributes.get(RTA_PRIORITY), 0),
        type=route_type,
        src=inet_ntop(family, attributes[RTA_PREFSRC]) if RTA_PREFSRC in attributes else None,
        mtu=_number(metrics[RTAX_MTU], 0) if RTAX_MTU in metrics else None,
        scope=None if usual else _SCOPE_NAMES.get(scope, str(scope)),
        onlink=onlink or bool(flags & RTNH_F_ONLINK),
        hops=hops,
    )


def canonical_route(route: Route) -> Route:
    """The same route with its scope left out where it is the usual one."""
    if route.scope is None or SCOPES.get(route.scope) != _default_scope(route.family, route.type, route.hops):
        return route
    return replace(route, scope=None)


def _decode_hops(
    attributes: Mapping[int, bytes], family: int, names: Mapping[int, str]
) -> tuple[tuple[Hop, ...], bool]:
    if RTA_MULTIPATH not in attributes:
        dev = attributes.get(RTA_OIF)
        if dev is None:
            return (), False
        index = _number(dev, 0)
        return (Hop(via=_decode_gateway(attributes, family), dev=names.get(index, f"if{index}")),), False
    data, start, hops, onlink = attributes[RTA_MULTIPATH], 0, [], False
    while start + 8 <= len(data):
        length, flags, weight, index = NEXTHOP.unpack_from(data, start)
        inner = parse(data, start + 8, start + length)
        via = _decode_gateway(inner, family)
        hops.append(Hop(via=via, dev=names.get(index, f"if{index}"), weight=weight + 1))
        onlink = onlink or bool(flags & RTNH_F_ONLINK)
        start += (max(length, 8) + 3) & ~3
    return tuple(hops), onlink


def _decode_gateway(attributes: Mapping[int, bytes], family: int) -> str | None:
    if RTA_GATEWAY in attributes:
        return inet_ntop(family, attributes[RTA_GATEWAY])
    if RTA_VIA in attributes:
        value = attributes[RTA_VIA]
        return inet_ntop(int(struct.unpack_from("=H", value)[0]), value[2:])
    return None


def _number(value: bytes | None, default: int) -> int:
    return default if value is None else int(_U32.unpack(value)[0])


# -- policy rules ----------------------------------------------------------------------------------


def add_rule(rule: Rule) -> Request:
    """Add a policy rule."""
    return Request(RTM_NEWRULE, _CREATE, _rule(rule))


def delete_rule(rule: Rule) -> Request:
    """Delete the policy rule that has all of this."""
    return Request(RTM_DELRULE, 0, _rule(rule))


def _rule(rule: Rule) -> bytes:
    family = AF_INET if rule.family == 4 else AF_INET6
    parts, lengths = [], [0, 0]
    for place, (kind, prefix) in enumerate(((FRA_DST, rule.to), (FRA_SRC, rule.source))):
        if prefix is not None:
            _, packed, lengths[place] = split_prefix(prefix)
            parts.append(attribute(kind, packed) if lengths[place] else b"")
    table = rule.table if rule.action == "lookup" else 0
    flags = FIB_RULE_INVERT if rule.invert else 0
    header = RULE.pack(
        family, *lengths, rule.tos, table if table < 256 else 0, 0, 0, RULE_ACTIONS[rule.action], flags
    )
    parts.append(u32(FRA_PRIORITY, rule.priority))
    for kind, name in ((FRA_IIFNAME, rule.iif), (FRA_OIFNAME, rule.oif)):
        if name is not None:
            parts.append(text(kind, name))
    if rule.fwmark is not None:
        mask = EVERY_ONE if rule.fwmask is None else rule.fwmask
        parts.append(u32(FRA_FWMARK, rule.fwmark) + u32(FRA_FWMASK, mask))
    if table > 255:
        parts.append(u32(FRA_TABLE, table))
    parts.append(u8(FRA_PROTOCOL, ROUTE_PROTOCOL))
    return header + b"".join(parts)


def dump_rules() -> Request:
    """Ask for all policy rules of all families."""
    return Request(RTM_GETRULE, 0, RULE.pack(AF_UNSPEC, 0, 0, 0, 0, 0, 0, 0, 0))


def decode_rule(body: bytes, owner: str) -> tuple[Rule, int] | None:
    """The rule of an RTM_NEWRULE message and who added it; None for one of the kernel's own, and for one of
    another family or action.
    """
    family, to_length, from_length, tos, table, _, _, action, flags = RULE.unpack_from(body)
    if family not in (AF_INET, AF_INET6) or action not in _RULE_NAMES:
        return None
    attributes = parse(body, 12)
    if attributes.get(FRA_PROTOCOL) == _BY_KERNEL:
        return None
    mark = attributes.get(FRA_FWMARK)
    mask = _number(attributes.get(FRA_FWMASK), EVERY_ONE)
    lookup = _RULE_NAMES[action] == "lookup"
    rule = Rule(
        owner=owner,
        family=4 if family == AF_INET else 6,
        priority=_number(attributes.get(FRA_PRIORITY), 0),
        source=_prefix(family, attributes.get(FRA_SRC), from_length),
        to=_prefix(family, attributes.get(FRA_DST), to_length),
        iif=string(attributes[FRA_IIFNAME]) if FRA_IIFNAME in attributes else None,
        oif=string(attributes[FRA_OIFNAME]) if FRA_OIFNAME in attributes else None,
        fwmark=None if mark is None else _number(mark, 0),
        fwmask=None if mark is None or mask == EVERY_ONE else mask,
        tos=tos,
        action=_RULE_NAMES[action],
        table=_number(attributes.get(FRA_TABLE), table) if lookup else 0,
        invert=bool(flags & FIB_RULE_INVERT),
    )
    return rule, attributes.get(FRA_PROTOCOL, b"\0")[0]


def _prefix(family: int, packed: bytes | None, length: int) -> str | None:
    return None if packed is None else f"{inet_ntop(family, packed)}/{length}"
