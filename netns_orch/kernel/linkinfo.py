"""The options of virtual interfaces and of queueing disciplines, to and from the kernel's encoding.

Owns: IFLA_INFO_DATA of vlan, vxlan, bond, vrf, bridge, dummy and macvlan (linux/if_link.h), and the options
of netem and tbf (linux/pkt_sched.h, tc-netem(8), tc-tbf(8)).
Must not: send anything, or decide which discipline is taken.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from socket import AF_INET, AF_UNSPEC, inet_ntop, ntohs

from netns_orch.kernel.ipmessages import split_prefix
from netns_orch.kernel.messages import (
    IFLA_ADDRESS,
    IFLA_GROUP,
    IFLA_IFNAME,
    IFLA_INFO_DATA,
    IFLA_INFO_KIND,
    IFLA_LINK,
    IFLA_LINKINFO,
    IFLA_MTU,
    LINK,
    RTM_NEWLINK,
    Link,
    mac_bytes,
    string,
)
from netns_orch.kernel.netlink import (
    NLM_F_CREATE,
    NLM_F_EXCL,
    NLM_F_REPLACE,
    Request,
    attribute,
    parse,
    text,
    u8,
    u16,
    u32,
)
from netns_orch.records import replace
from netns_orch.resources import Qdisc, VirtualInterface

RTM_NEWQDISC, RTM_DELQDISC, RTM_GETQDISC = 36, 37, 38
TCA_KIND, TCA_OPTIONS = 1, 2
TC_H_ROOT = 0xFFFF_FFFF
TCM = struct.Struct("=BxxxiIII")
MODULES = {
    "vlan": "8021q", "vxlan": "vxlan", "bond": "bonding", "vrf": "vrf", "bridge": "bridge",
    "dummy": "dummy", "macvlan": "macvlan", "veth": "veth", "netem": "sch_netem", "tbf": "sch_tbf",
}  # fmt: skip
"""The kernel module of each kind of interface and queueing discipline."""
BOND_MODES = (
    "balance-rr",
    "active-backup",
    "balance-xor",
    "broadcast",
    "802.3ad",
    "balance-tlb",
    "balance-alb",
)
MACVLAN_MODES = {"private": 1, "vepa": 2, "bridge": 4, "passthru": 8}
DEFAULT_MODES = {"bond": "balance-rr", "macvlan": "bridge"}
VXLAN_PORT = 4789
IFLA_VLAN_ID, IFLA_VRF_TABLE, IFLA_MACVLAN_MODE = 1, 1, 1
IFLA_VXLAN_ID, IFLA_VXLAN_GROUP, IFLA_VXLAN_LINK, IFLA_VXLAN_LOCAL = 1, 2, 3, 4
IFLA_VXLAN_PORT, IFLA_VXLAN_GROUP6, IFLA_VXLAN_LOCAL6 = 15, 16, 17
IFLA_BOND_MODE, IFLA_BOND_MIIMON = 1, 3
IFLA_BR_MCAST_SNOOPING = 23


# -- virtual interfaces ----------------------------------------------------------------------------


def new_interface(wanted: VirtualInterface, parent: int, group: int) -> Request:
    """Make a virtual interface, down; ``parent`` is the index of the interface below, 0 for none."""
    body = LINK.pack(0, 0, 0, 0, 0) + text(IFLA_IFNAME, wanted.ifname) + u32(IFLA_GROUP, group)
    if wanted.mac is not None:
        body += attribute(IFLA_ADDRESS, mac_bytes(wanted.mac))
    if wanted.mtu is not None:
        body += u32(IFLA_MTU, wanted.mtu)
    if parent and wanted.kind in ("vlan", "macvlan"):
        body += u32(IFLA_LINK, parent)
    info = text(IFLA_INFO_KIND, wanted.kind)
    options = _options(wanted, parent)
    if options:
        info += attribute(IFLA_INFO_DATA, options)
    return Request(RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, body + attribute(IFLA_LINKINFO, info))


def _options(wanted: VirtualInterface, parent: int) -> bytes:
    mode = wanted.mode or DEFAULT_MODES.get(wanted.kind, "")
    match wanted.kind:
        case "vlan":
            return u16(IFLA_VLAN_ID, wanted.id or 0)
        case "vxlan":
            return _vxlan(wanted, parent)
        case "bond":
            number = int(mode) if mode.isdigit() else BOND_MODES.index(mode)
            return u8(IFLA_BOND_MODE, number) + u32(IFLA_BOND_MIIMON, 100)
        case "vrf":
            return u32(IFLA_VRF_TABLE, wanted.table or 0)
        case "macvlan":
            return u32(IFLA_MACVLAN_MODE, MACVLAN_MODES[mode])
        case "bridge":
            return u8(IFLA_BR_MCAST_SNOOPING, 0)
        case _:
            return b""


def _vxlan(wanted: VirtualInterface, parent: int) -> bytes:
    options = u32(IFLA_VXLAN_ID, wanted.id or 0)
    if parent:
        options += u32(IFLA_VXLAN_LINK, parent)
    for address, four, six in (
        (wanted.group or wanted.remote, IFLA_VXLAN_GROUP, IFLA_VXLAN_GROUP6),
        (wanted.local, IFLA_VXLAN_LOCAL, IFLA_VXLAN_LOCAL6),
    ):
        if address is not None:
            family, packed, _ = split_prefix(address)
            options += attribute(four if family == AF_INET else six, packed)
    return options + attribute(IFLA_VXLAN_PORT, struct.pack(">H", wanted.port or VXLAN_PORT))


def decode_interface(
    link: Link, container: str, names: Mapping[int, str], members: tuple[str, ...]
) -> VirtualInterface | None:
    """The virtual interface that a link is; None for a kind that netorch does not make.

    ``names`` are the interfaces of its namespace by index, ``members`` those whose master it is.
    """
    info = link.info()
    kind = string(info.get(IFLA_INFO_KIND, b""))
    if kind not in MODULES or kind == "veth":
        return None
    options = parse(info.get(IFLA_INFO_DATA, b""))
    plain = VirtualInterface(
        container=container,
        ifname=link.ifname,
        kind=kind,
        members=members,
        mac=link.mac,
        mtu=link.mtu,
        link_local=link.link_local,
    )
    if kind in ("vlan", "macvlan"):
        plain = replace(plain, parent=names.get(link.peer))
    return _decode_options(plain, options, names)


def _decode_options(
    plain: VirtualInterface, options: Mapping[int, bytes], names: Mapping[int, str]
) -> VirtualInterface:
    match plain.kind:
        case "vlan":
            return replace(plain, id=_little(options.get(IFLA_VLAN_ID)))
        case "bond":
            number = _little(options.get(IFLA_BOND_MODE)) or 0
            return replace(plain, mode=BOND_MODES[number] if number < len(BOND_MODES) else str(number))
        case "vrf":
            return replace(plain, table=_little(options.get(IFLA_VRF_TABLE)))
        case "macvlan":
            modes = {number: name for name, number in MACVLAN_MODES.items()}
            return replace(plain, mode=modes.get(_little(options.get(IFLA_MACVLAN_MODE)) or 0))
        case "vxlan":
            return _decode_vxlan(plain, options, names)
        case _:
            return plain


def _decode_vxlan(
    plain: VirtualInterface, options: Mapping[int, bytes], names: Mapping[int, str]
) -> VirtualInterface:
    far = _address(options, IFLA_VXLAN_GROUP, IFLA_VXLAN_GROUP6)
    multicast = far is not None and (far.lower().startswith("ff") or 224 <= _first_octet(far) <= 239)
    return replace(
        plain,
        id=_little(options.get(IFLA_VXLAN_ID)),
        parent=names.get(_little(options.get(IFLA_VXLAN_LINK)) or 0),
        local=_address(options, IFLA_VXLAN_LOCAL, IFLA_VXLAN_LOCAL6),
        group=far if multicast else None,
        remote=None if multicast else far,
        port=ntohs(_little(options.get(IFLA_VXLAN_PORT)) or 0),
    )


def _first_octet(address: str) -> int:
    return int(address.partition(".")[0]) if "." in address and ":" not in address else 0


def _address(options: Mapping[int, bytes], four: int, six: int) -> str | None:
    packed = options.get(four) or options.get(six)
    if packed is None or not any(packed):
        return None
    return inet_ntop(AF_INET if len(packed) == 4 else 10, packed)


def _little(value: bytes | None) -> int | None:
    if value is None:
        return None
    return int(struct.unpack({1: "=B", 2: "=H", 4: "=I"}[len(value)], value)[0])


def canonical_interface(wanted: VirtualInterface, like: VirtualInterface) -> VirtualInterface:
    """``wanted`` as read from the kernel, with what ``like`` leaves to the kernel left out again."""
    return replace(
        wanted,
        mac=wanted.mac if like.mac is not None else None,
        mtu=wanted.mtu if like.mtu is not None else None,
        mode=like.mode if (like.mode or DEFAULT_MODES.get(wanted.kind)) == wanted.mode else wanted.mode,
        port=like.port if (like.port or VXLAN_PORT) == wanted.port else wanted.port,
        members=like.members if sorted(like.members) == sorted(wanted.members) else wanted.members,
    )


# -- queueing disciplines --------------------------------------------------------------------------

NETEM = struct.Struct("=6I")
TBF = struct.Struct("=BBHhHI")
TCA_NETEM_REORDER, TCA_NETEM_CORRUPT, TCA_NETEM_RATE, TCA_NETEM_RATE64 = 3, 4, 6, 8
TCA_NETEM_LATENCY64, TCA_NETEM_JITTER64 = 10, 11
TCA_TBF_PARMS, TCA_TBF_RATE64, TCA_TBF_BURST = 1, 4, 6
NETEM_LIMIT = 1000
LINKLAYER_ETHERNET = 1
FRAME = 1514
"""Bytes of a full Ethernet frame without its check sum."""
U32_MAX = 0xFFFF_FFFF


def replace_qdisc(index: int, kind: str, options: bytes) -> Request:
    """Put a queueing discipline at the root of an interface, in the place of what is there."""
    body = (
        TCM.pack(AF_UNSPEC, index, 0, TC_H_ROOT, 0) + text(TCA_KIND, kind) + attribute(TCA_OPTIONS, options)
    )
    return Request(RTM_NEWQDISC, NLM_F_CREATE | NLM_F_REPLACE, body)


def delete_qdisc(index: int) -> Request:
    """Take the queueing discipline off; the kernel's default comes back."""
    return Request(RTM_DELQDISC, 0, TCM.pack(AF_UNSPEC, index, 0, TC_H_ROOT, 0))


def dump_qdiscs() -> Request:
    """Ask for all queueing disciplines."""
    return Request(RTM_GETQDISC, 0, TCM.pack(AF_UNSPEC, 0, 0, 0, 0))


def only_rate(qdisc: Qdisc) -> bool:
    """Whether tbf can do all that is asked."""
    others = (qdisc.delay, qdisc.jitter, qdisc.loss, qdisc.duplicate, qdisc.corrupt, qdisc.reorder)
    return qdisc.rate is not None and not any(others)


def netem_options(qdisc: Qdisc) -> bytes:
    """TCA_OPTIONS of netem."""
    limit = NETEM_LIMIT if qdisc.limit is None else qdisc.limit
    gap = 1 if qdisc.reorder else 0
    options = NETEM.pack(0, limit, _share(qdisc.loss), gap, _share(qdisc.duplicate), 0)
    if qdisc.reorder:
        options += attribute(TCA_NETEM_REORDER, struct.pack("=II", _share(qdisc.reorder), 0))
    if qdisc.corrupt:
        options += attribute(TCA_NETEM_CORRUPT, struct.pack("=II", _share(qdisc.corrupt), 0))
    if qdisc.rate:
        rate = qdisc.rate // 8
        if rate > U32_MAX:
            options += attribute(TCA_NETEM_RATE64, struct.pack("=Q", rate))
        options += attribute(TCA_NETEM_RATE, struct.pack("=IiIi", min(rate, U32_MAX), 0, 0, 0))
    options += attribute(TCA_NETEM_LATENCY64, struct.pack("=q", _nanoseconds(qdisc.delay)))
    return options + attribute(TCA_NETEM_JITTER64, struct.pack("=q", _nanoseconds(qdisc.jitter)))


def tbf_options(qdisc: Qdisc) -> bytes:
    """TCA_OPTIONS of tbf: bursts of 4 ms, and a queue of ``limit`` full frames (default: of 100 ms)."""
    rate, burst, queue = _tbf_sizes(qdisc)
    spec = TBF.pack(0, LINKLAYER_ETHERNET, 0, 0, 0, min(rate, U32_MAX))
    options = attribute(TCA_TBF_PARMS, spec + TBF.pack(0, 0, 0, 0, 0, 0) + struct.pack("=III", queue, 0, 0))
    options += u32(TCA_TBF_BURST, burst)
    if rate > U32_MAX:
        options += attribute(TCA_TBF_RATE64, struct.pack("=Q", rate))
    return options


def _tbf_sizes(qdisc: Qdisc) -> tuple[int, int, int]:
    rate = max(1, (qdisc.rate or 0) // 8)
    burst = min(max(rate // 250, 10 * FRAME), 1 << 28)
    queue = burst + (rate // 10 if qdisc.limit is None else qdisc.limit * FRAME)
    return rate, burst, min(queue, U32_MAX)


def _share(percent: float | None) -> int:
    return round((percent or 0) / 100 * U32_MAX)


def _nanoseconds(seconds: float | None) -> int:
    return round((seconds or 0) * 1e9)


def decode_qdisc(body: bytes) -> tuple[int, str, bytes] | None:
    """Index, kind and options of a root discipline that somebody chose; None for any other."""
    _, index, handle, parent, _ = TCM.unpack_from(body)
    if parent != TC_H_ROOT or handle == 0:
        return None
    attributes = parse(body, TCM.size)
    return index, string(attributes.get(TCA_KIND, b"")), attributes.get(TCA_OPTIONS, b"")


def qdisc_facts(kind: str, options: bytes) -> tuple[int | bytes, ...]:
    """What of the options is compared: equal for what was asked and for what the kernel then shows."""
    if kind == "netem":
        header, inner = NETEM.unpack_from(options), parse(options, NETEM.size)
        reorder, corrupt = (
            struct.unpack_from("=I", inner.get(which, b"\0" * 4))[0]
            for which in (TCA_NETEM_REORDER, TCA_NETEM_CORRUPT)
        )
        delay, jitter = (
            struct.unpack("=q", inner.get(which, b"\0" * 8))[0]
            for which in (TCA_NETEM_LATENCY64, TCA_NETEM_JITTER64)
        )
        rate = _rate(inner.get(TCA_NETEM_RATE), inner.get(TCA_NETEM_RATE64), 0)
        return (delay, jitter, header[1], header[2], header[4], corrupt, reorder, rate)
    if kind == "tbf":
        inner = parse(options)
        parameters = inner.get(TCA_TBF_PARMS, b"\0" * 36)
        return (
            _rate(parameters, inner.get(TCA_TBF_RATE64), 8),
            struct.unpack_from("=I", parameters, 24)[0],
        )
    return (options,)


def _rate(value: bytes | None, wide: bytes | None, offset: int) -> int:
    if wide is not None:
        return int(struct.unpack("=Q", wide)[0])
    return 0 if value is None else int(struct.unpack_from("=I", value, offset)[0])


def decode_impairment(kind: str, options: bytes, owner: str, ifname: str) -> Qdisc:
    """A netem or tbf discipline as a resource, rounded to what a person would write."""
    facts = qdisc_facts(kind, options)
    if kind == "tbf":
        return _decode_tbf(Qdisc(owner=owner, ifname=ifname, rate=int(facts[0]) * 8), int(facts[1]))
    delay, jitter, limit, loss, duplicate, corrupt, reorder, rate = (int(fact) for fact in facts)
    return Qdisc(
        owner=owner,
        ifname=ifname,
        delay=delay / 1e9 if delay else None,
        jitter=jitter / 1e9 if jitter else None,
        loss=_percent(loss),
        duplicate=_percent(duplicate),
        corrupt=_percent(corrupt),
        reorder=_percent(reorder),
        rate=rate * 8 if rate else None,
        limit=None if limit == NETEM_LIMIT else limit,
    )


def _decode_tbf(qdisc: Qdisc, queue: int) -> Qdisc:
    _, burst, usual = _tbf_sizes(qdisc)
    return qdisc if queue == usual else replace(qdisc, limit=max(0, round((queue - burst) / FRAME)))


def _percent(share: int) -> float | None:
    return round(share / U32_MAX * 100, 4) if share else None
