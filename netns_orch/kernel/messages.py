"""The rtnetlink messages of links: bridges, cables, and facts about any link, as the kernel encodes them.

Owns: what each message and attribute means (rtnetlink(7), linux/if_link.h, if_bridge.h).
Must not: send anything, decide an order, or know which object belongs to a lab.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping
from socket import AF_BRIDGE, AF_INET6
from typing import NamedTuple

from netns_orch.kernel.netlink import (
    NLA_F_NESTED,
    NLM_F_APPEND,
    NLM_F_CREATE,
    NLM_F_EXCL,
    Request,
    attribute,
    parse,
    parse_list,
    text,
    u8,
    u32,
)
from netns_orch.resources import Bridge

RTM_NEWLINK, RTM_DELLINK, RTM_GETLINK, RTM_SETLINK = 16, 17, 18, 19
RTM_GETNSID = 90
RTM_NEWLINKPROP, RTM_DELLINKPROP = 108, 109
IFF_UP, IFF_LOOPBACK = 0x1, 0x8
IFLA_ADDRESS, IFLA_IFNAME, IFLA_MTU, IFLA_LINK, IFLA_MASTER = 1, 3, 4, 5, 10
IFLA_OPERSTATE, IFLA_LINKINFO, IFLA_NET_NS_PID, IFLA_STATS64 = 16, 18, 19, 23
IFLA_AF_SPEC, IFLA_GROUP, IFLA_EXT_MASK = 26, 27, 29
IFLA_NUM_TX_QUEUES, IFLA_NUM_RX_QUEUES, IFLA_LINK_NETNSID = 31, 32, 37
IFLA_PROP_LIST, IFLA_ALT_IFNAME = 52, 53
IFLA_INFO_KIND, IFLA_INFO_DATA, IFLA_INFO_SLAVE_KIND, IFLA_INFO_SLAVE_DATA = 1, 2, 4, 5
VETH_INFO_PEER = 1
IFLA_BOND_SLAVE_PERM_HWADDR = 4
IFLA_INET6_ADDR_GEN_MODE = 8
GEN_MODE_EUI64, GEN_MODE_NONE = 0, 1
IFLA_BR_FORWARD_DELAY, IFLA_BR_HELLO_TIME, IFLA_BR_MAX_AGE, IFLA_BR_STP_STATE = 1, 2, 3, 5
IFLA_BR_VLAN_FILTERING, IFLA_BR_MCAST_SNOOPING = 7, 23
IFLA_BRPORT_STATE, IFLA_BRPORT_MODE, IFLA_BRPORT_ISOLATED = 1, 4, 33
IFLA_BRIDGE_VLAN_INFO = 2
VLAN_PVID, VLAN_UNTAGGED = 2, 4
RTEXT_FILTER_BRVLAN, RTEXT_FILTER_SKIP_STATS = 2, 8
OPER_UP = 6
NETNSA_NSID, NETNSA_PID = 1, 2

LINK = struct.Struct("=BxHiII")
_U32 = struct.Struct("=I")
_CREATE = NLM_F_CREATE | NLM_F_EXCL
_ONE_QUEUE = u32(IFLA_NUM_TX_QUEUES, 1) + u32(IFLA_NUM_RX_QUEUES, 1)
_NO_LINK = LINK.pack(0, 0, 0, 0, 0)
_UP = LINK.pack(0, 0, 0, IFF_UP, IFF_UP)
_DOWN = LINK.pack(0, 0, 0, 0, IFF_UP)
_VETH = text(IFLA_INFO_KIND, "veth")
_BRIDGE = text(IFLA_INFO_KIND, "bridge")
_BRIDGE_PORT = text(IFLA_INFO_SLAVE_KIND, "bridge")


def _gen_mode(mode: int) -> bytes:
    inner = attribute(AF_INET6, u8(IFLA_INET6_ADDR_GEN_MODE, mode))
    return attribute(IFLA_AF_SPEC, inner)


_NO_LINK_LOCAL, _LINK_LOCAL = _gen_mode(GEN_MODE_NONE), _gen_mode(GEN_MODE_EUI64)


# -- links -----------------------------------------------------------------------------------------


def mac_bytes(mac: str) -> bytes:
    """The six bytes of a MAC address."""
    return bytes.fromhex(mac.replace(":", ""))


def mac_text(value: bytes) -> str:
    """A MAC address in lower case with colons."""
    return value.hex(":")


def new_veth(
    *,
    ifname: str,
    mac: str,
    mtu: int,
    peer: str,
    peer_mac: str,
    peer_pid: int | None,
    group: int,
    peer_group: int = 0,
    master: int = 0,
) -> Request:
    """Both ends of a veth pair in one message, each where it belongs and under its final name.

    ``peer_pid`` is a process in the other end's namespace (None: the same); one queue each way, which
    halves the cost of the pair.
    """
    where = b"" if peer_pid is None else u32(IFLA_NET_NS_PID, peer_pid)
    theirs = _end(peer, peer_mac, mtu, peer_group) + where
    info = _VETH + attribute(IFLA_INFO_DATA, attribute(VETH_INFO_PEER, _NO_LINK + theirs))
    ours = _end(ifname, mac, mtu, group) + (u32(IFLA_MASTER, master) if master else b"")
    return Request(RTM_NEWLINK, _CREATE, _NO_LINK + ours + attribute(IFLA_LINKINFO, info))


def _end(ifname: str, mac: str, mtu: int, group: int) -> bytes:
    marked = u32(IFLA_GROUP, group) if group else b""
    return (
        text(IFLA_IFNAME, ifname)
        + attribute(IFLA_ADDRESS, mac_bytes(mac))
        + u32(IFLA_MTU, mtu)
        + _ONE_QUEUE
        + marked
    )


def new_bridge(bridge: Bridge, group: int) -> Request:
    """A bridge, still down and of another MTU than asked.

    The kernel takes an MTU as chosen (and keeps it whatever the ports have) only when it is changed.
    """
    mtu = bridge.mtu - 1 if bridge.mtu > 1280 else bridge.mtu + 1
    attributes = (
        text(IFLA_IFNAME, bridge.ifname)
        + attribute(IFLA_ADDRESS, mac_bytes(bridge.mac))
        + u32(IFLA_MTU, mtu)
        + u32(IFLA_GROUP, group)
        + attribute(IFLA_LINKINFO, _BRIDGE + attribute(IFLA_INFO_DATA, _bridge_options(bridge)))
    )
    return Request(RTM_NEWLINK, _CREATE, _NO_LINK + attributes)


def set_bridge_options(bridge: Bridge) -> Request:
    """Change an existing bridge's options."""
    info = _BRIDGE + attribute(IFLA_INFO_DATA, _bridge_options(bridge))
    return Request(
        RTM_NEWLINK, 0, _NO_LINK + text(IFLA_IFNAME, bridge.ifname) + attribute(IFLA_LINKINFO, info)
    )


def _bridge_options(bridge: Bridge) -> bytes:
    options = b""
    if bridge.stp:
        # The shortest times that IEEE 802.1D allows together, in 1/100 s: ports forward after 8 s, not 30.
        options = u32(IFLA_BR_FORWARD_DELAY, 400) + u32(IFLA_BR_HELLO_TIME, 100) + u32(IFLA_BR_MAX_AGE, 600)
    options += u32(IFLA_BR_STP_STATE, int(bridge.stp)) + u8(IFLA_BR_MCAST_SNOOPING, bridge.multicast_snooping)
    # Only where asked for: a kernel may lack it.
    return options + (u8(IFLA_BR_VLAN_FILTERING, 1) if bridge.vlan_filtering else b"")


def set_vlan_filtering(ifname: str, on: bool) -> Request:
    """Switch a bridge's VLAN filter."""
    info = _BRIDGE + attribute(IFLA_INFO_DATA, u8(IFLA_BR_VLAN_FILTERING, on))
    return Request(RTM_NEWLINK, 0, _NO_LINK + text(IFLA_IFNAME, ifname) + attribute(IFLA_LINKINFO, info))


def set_link(
    ifname: str,
    *,
    by_altname: bool = False,
    up: bool | None = None,
    master: int | None = None,
    mtu: int | None = None,
    mac: str | None = None,
    group: int | None = None,
    link_local: bool | None = None,
    isolated: bool | None = None,
    hairpin: bool | None = None,
) -> Request:
    """Change a link: what is None stays.

    ``master`` is an index, 0 for none; ``isolated`` and ``hairpin`` are options of bridge ports.
    """
    header = _NO_LINK if up is None else _UP if up else _DOWN
    parts = [header, text(IFLA_ALT_IFNAME if by_altname else IFLA_IFNAME, ifname)]
    if mac is not None:
        parts.append(attribute(IFLA_ADDRESS, mac_bytes(mac)))
    if mtu is not None:
        parts.append(u32(IFLA_MTU, mtu))
    if master is not None:
        parts.append(u32(IFLA_MASTER, master))
    options = b"" if isolated is None else u8(IFLA_BRPORT_ISOLATED, isolated)
    options += b"" if hairpin is None else u8(IFLA_BRPORT_MODE, hairpin)
    if options:
        parts.append(attribute(IFLA_LINKINFO, _BRIDGE_PORT + attribute(IFLA_INFO_SLAVE_DATA, options)))
    if link_local is not None:
        parts.append(_LINK_LOCAL if link_local else _NO_LINK_LOCAL)
    if group is not None:
        parts.append(u32(IFLA_GROUP, group))
    return Request(RTM_NEWLINK, 0, b"".join(parts))


def rename_link(index: int, ifname: str) -> Request:
    """Give the link with this index another name (it must be down before Linux 6.2)."""
    return Request(RTM_SETLINK, 0, LINK.pack(0, 0, index, 0, 0) + text(IFLA_IFNAME, ifname))


def delete_link(ifname: str, *, by_altname: bool = False) -> Request:
    """Delete a link by its name, or by an alternative name only."""
    return Request(RTM_DELLINK, 0, _NO_LINK + text(IFLA_ALT_IFNAME if by_altname else IFLA_IFNAME, ifname))


def delete_link_index(index: int) -> Request:
    """Delete the link with this index."""
    return Request(RTM_DELLINK, 0, LINK.pack(0, 0, index, 0, 0))


def delete_link_group(group: int) -> Request:
    """Delete all links of a group at once: as cheap as one of them."""
    return Request(RTM_DELLINK, 0, _NO_LINK + u32(IFLA_GROUP, group))


_SKIP_STATS = u32(IFLA_EXT_MASK, RTEXT_FILTER_SKIP_STATS)


def get_link(ifname: str, *, by_altname: bool = False) -> Request:
    """Ask for one link (which runs its pending link watch, Linux 6.8)."""
    return Request(
        RTM_GETLINK, 0, _NO_LINK + text(IFLA_ALT_IFNAME if by_altname else IFLA_IFNAME, ifname) + _SKIP_STATS
    )


def dump_links(*, statistics: bool = False) -> Request:
    """Ask for all links."""
    return Request(RTM_GETLINK, 0, _NO_LINK + (b"" if statistics else _SKIP_STATS))


def add_altname(ifname: str, altname: str) -> Request:
    """Give a link an alternative name (Linux 5.5)."""
    return Request(
        RTM_NEWLINKPROP, _CREATE | NLM_F_APPEND, _NO_LINK + text(IFLA_IFNAME, ifname) + _altname(altname)
    )


def delete_altname(altname: str) -> Request:
    """Take an alternative name from the link that has it."""
    return Request(
        RTM_DELLINKPROP, 0, _NO_LINK + text(IFLA_ALT_IFNAME, altname) + _altname(altname)
    )  # the link is found by the name that goes


def _altname(name: str) -> bytes:
    return attribute(IFLA_PROP_LIST | NLA_F_NESTED, text(IFLA_ALT_IFNAME, name))


def get_nsid(pid: int) -> Request:
    """Ask by which number this namespace knows that of ``pid``."""
    return Request(RTM_GETNSID, 0, b"\0\0\0\0" + u32(NETNSA_PID, pid))


def decode_nsid(body: bytes) -> int:
    """The number that ``get_nsid`` asked for; -1 for none."""
    value: int = struct.unpack("=i", parse(body, 4).get(NETNSA_NSID, b"\xff\xff\xff\xff"))[0]
    return value


class Link(NamedTuple):
    """What the kernel says of one link."""

    ifindex: int
    ifname: str
    flags: int
    attributes: dict[int, bytes]

    def number(self, kind: int, default: int = 0) -> int:
        """A numeric attribute of four bytes."""
        value = self.attributes.get(kind)
        return default if value is None else int(_U32.unpack(value)[0])

    @property
    def up(self) -> bool:
        """Switched on by the administrator."""
        return bool(self.flags & IFF_UP)

    @property
    def mtu(self) -> int:
        return self.number(IFLA_MTU)

    @property
    def mac(self) -> str:
        """Its own MAC address, also while it is in a bond and shows the bond's."""
        own = self.attributes.get(IFLA_ADDRESS, b"")
        if IFLA_MASTER in self.attributes:
            info = self.info()
            if info.get(IFLA_INFO_SLAVE_KIND) == b"bond\0":
                own = parse(info.get(IFLA_INFO_SLAVE_DATA, b"")).get(IFLA_BOND_SLAVE_PERM_HWADDR, own)
        return mac_text(own)

    @property
    def group(self) -> int:
        return self.number(IFLA_GROUP)

    @property
    def master(self) -> int:
        """The index of the bridge, bond or VRF it is in; 0 for none."""
        return self.number(IFLA_MASTER)

    @property
    def peer(self) -> int:
        """The index of a veth's other end, or of a VLAN's parent; 0 for none."""
        return self.number(IFLA_LINK)

    @property
    def peer_netnsid(self) -> int | None:
        """The number of the namespace ``peer`` is in; None: this one."""
        value = self.attributes.get(IFLA_LINK_NETNSID)
        return None if value is None else int(struct.unpack("=i", value)[0])

    @property
    def operational(self) -> bool:
        """Up and with carrier, as the link watch has seen it (RFC 2863)."""
        return self.attributes.get(IFLA_OPERSTATE) == bytes((OPER_UP,))

    def info(self) -> dict[int, bytes]:
        """Kind and options (IFLA_LINKINFO)."""
        return parse(self.attributes.get(IFLA_LINKINFO, b""))

    def altnames(self) -> list[str]:
        """Alternative names."""
        values = self.attributes.get(IFLA_PROP_LIST, b"")
        return [string(v) for k, v in parse_list(values) if k == IFLA_ALT_IFNAME]

    @property
    def link_local(self) -> bool:
        """Whether the kernel gives it an IPv6 link-local address of its own accord."""
        inet6 = parse(self.attributes.get(IFLA_AF_SPEC, b"")).get(AF_INET6, b"")
        return parse(inet6).get(IFLA_INET6_ADDR_GEN_MODE, bytes((GEN_MODE_NONE,)))[0] != GEN_MODE_NONE


def string(value: bytes) -> str:
    """A zero-terminated string."""
    return value.rstrip(b"\0").decode(errors="surrogateescape")


def decode_link(body: bytes) -> Link:
    """A link of an RTM_NEWLINK message."""
    _, _, index, flags, _ = LINK.unpack_from(body)
    attributes = parse(body, 16)
    return Link(index, string(attributes.get(IFLA_IFNAME, b"")), flags, attributes)


_COUNTERS = (
    "rx_packets",
    "tx_packets",
    "rx_bytes",
    "tx_bytes",
    "rx_errors",
    "tx_errors",
    "rx_dropped",
    "tx_dropped",
)


def decode_statistics(body: bytes) -> tuple[str, dict[str, int]]:
    """Name and counters (struct rtnl_link_stats64) of an RTM_NEWLINK message."""
    link = decode_link(body)
    values = struct.unpack_from("=8Q", link.attributes.get(IFLA_STATS64, bytes(64)))
    return link.ifname, dict(zip(_COUNTERS, values, strict=True))


def names_by_index(links: Iterable[Link]) -> dict[int, str]:
    """Interface names by index."""
    return {link.ifindex: link.ifname for link in links}


# -- VLANs of bridge ports -------------------------------------------------------------------------


def set_port_vlans(index: int, vlans: Mapping[int, int], *, delete: bool = False) -> Request:
    """Add (or delete) VLANs of a bridge port: number to VLAN_PVID and VLAN_UNTAGGED flags."""
    infos = (attribute(IFLA_BRIDGE_VLAN_INFO, struct.pack("=HH", f, vid)) for vid, f in vlans.items())
    body = LINK.pack(AF_BRIDGE, 0, index, 0, 0) + attribute(IFLA_AF_SPEC, b"".join(infos))
    return Request(RTM_DELLINK if delete else RTM_SETLINK, 0, body)


def dump_port_vlans() -> Request:
    """Ask for the VLANs of all bridge ports."""
    return Request(RTM_GETLINK, 0, LINK.pack(AF_BRIDGE, 0, 0, 0, 0) + u32(IFLA_EXT_MASK, RTEXT_FILTER_BRVLAN))


def decode_port_vlans(body: bytes) -> tuple[int, dict[int, int]]:
    """The port's index, and its VLANs with their VLAN_PVID and VLAN_UNTAGGED flags."""
    index = LINK.unpack_from(body)[2]
    vlans = {}
    for kind, value in parse_list(parse(body, 16).get(IFLA_AF_SPEC, b"")):
        if kind == IFLA_BRIDGE_VLAN_INFO:
            flags, vid = struct.unpack_from("=HH", value)
            vlans[vid] = flags & (VLAN_PVID | VLAN_UNTAGGED)
    return index, vlans
