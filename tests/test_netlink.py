"""The rtnetlink codec against an independent one: pyroute2 encodes the same message, and decodes ours."""

from __future__ import annotations

import errno
import struct
from socket import AF_BRIDGE, AF_INET, AF_INET6
from typing import Any

import pytest
from pyroute2.netlink.rtnl.fibmsg import fibmsg
from pyroute2.netlink.rtnl.ifaddrmsg import ifaddrmsg
from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg
from pyroute2.netlink.rtnl.rtmsg import rtmsg
from pyroute2.netlink.rtnl.tcmsg import tcmsg

from netns_orch.kernel import ipmessages, linkinfo, messages, netlink
from netns_orch.kernel.nets import Mark, read_mark, sysctl_path
from netns_orch.resources import Address, Bridge, Hop, Qdisc, Route, Rule, VirtualInterface

MAC = "02:00:00:00:00:01"
INDEXES = {"eth0": 2, "eth1": 3}
NAMES = {2: "eth0", 3: "eth1"}
NESTED = 0x8000


def encoded(kind: type[Any], attributes: list[tuple[str, Any]], **header: Any) -> bytes:
    """The body of a message as pyroute2 encodes it."""
    message = kind()
    for name, value in header.items():
        message[name] = value
    message["attrs"] = attributes
    message.encode()
    return bytes(message.data[16:])


def decoded(kind: type[Any], request: netlink.Request) -> Any:
    """Our message as pyroute2 decodes it."""
    message = kind(request.encode(7))
    message.decode()
    return message


def nest(*attributes: tuple[str, Any]) -> dict[str, Any]:
    return {"attrs": list(attributes)}


def assert_same(ours: bytes, theirs: bytes) -> None:
    """Equal byte for byte, the nesting flag apart: the kernel takes both, and iproute2 sets it seldom."""
    assert len(ours) == len(theirs)
    differing = [place for place in range(len(ours)) if ours[place] != theirs[place]]
    for place in differing:
        assert ours[place] ^ theirs[place] == NESTED >> 8, (place, ours.hex(), theirs.hex())


def index(ifname: str) -> int:
    return INDEXES[ifname]


# -- links -------------------------------------------------------------------------------------------


def test_a_veth_pair_is_encoded_as_pyroute2_does() -> None:
    ours = messages.new_veth(
        ifname="n1", mac=MAC, mtu=9000, peer="eth0", peer_mac="02:00:00:00:00:02", peer_pid=4711,
        group=0x6E740001, master=5,
    )  # fmt: skip
    peer = nest(
        ("IFLA_IFNAME", "eth0"),
        ("IFLA_ADDRESS", "02:00:00:00:00:02"),
        ("IFLA_MTU", 9000),
        ("IFLA_NUM_TX_QUEUES", 1),
        ("IFLA_NUM_RX_QUEUES", 1),
        ("IFLA_NET_NS_PID", 4711),
    )
    theirs = encoded(
        ifinfmsg,
        [
            ("IFLA_IFNAME", "n1"),
            ("IFLA_ADDRESS", MAC),
            ("IFLA_MTU", 9000),
            ("IFLA_NUM_TX_QUEUES", 1),
            ("IFLA_NUM_RX_QUEUES", 1),
            ("IFLA_GROUP", 0x6E740001),
            ("IFLA_MASTER", 5),
            (
                "IFLA_LINKINFO",
                nest(("IFLA_INFO_KIND", "veth"), ("IFLA_INFO_DATA", nest(("VETH_INFO_PEER", peer)))),
            ),
        ],
    )
    assert_same(ours.body, theirs)
    assert (ours.kind, ours.flags) == (16, netlink.NLM_F_CREATE | netlink.NLM_F_EXCL)


def test_a_bridge_is_encoded_as_pyroute2_does() -> None:
    bridge = Bridge(name="lan", ifname="lan0", mac=MAC, stp=True, vlan_filtering=True)
    options = nest(
        ("IFLA_BR_FORWARD_DELAY", 400),
        ("IFLA_BR_HELLO_TIME", 100),
        ("IFLA_BR_MAX_AGE", 600),
        ("IFLA_BR_STP_STATE", 1),
        ("IFLA_BR_MCAST_SNOOPING", 0),
        ("IFLA_BR_VLAN_FILTERING", 1),
    )
    theirs = encoded(
        ifinfmsg,
        [
            ("IFLA_IFNAME", "lan0"),
            ("IFLA_ADDRESS", MAC),
            ("IFLA_MTU", 1499),
            ("IFLA_GROUP", 9),
            ("IFLA_LINKINFO", nest(("IFLA_INFO_KIND", "bridge"), ("IFLA_INFO_DATA", options))),
        ],
    )
    assert_same(messages.new_bridge(bridge, 9).body, theirs)


@pytest.mark.parametrize(
    ("ours", "attributes", "header"),
    [
        (
            messages.set_link("n1", up=True, master=4, mtu=1400, mac=MAC, group=9),
            [
                ("IFLA_IFNAME", "n1"),
                ("IFLA_ADDRESS", MAC),
                ("IFLA_MTU", 1400),
                ("IFLA_MASTER", 4),
                ("IFLA_GROUP", 9),
            ],
            {"flags": 1, "change": 1},
        ),
        (messages.set_link("n1", up=False), [("IFLA_IFNAME", "n1")], {"flags": 0, "change": 1}),
        (
            messages.set_link("n1", link_local=False),
            [
                ("IFLA_IFNAME", "n1"),
                ("IFLA_AF_SPEC", nest(("AF_INET6", nest(("IFLA_INET6_ADDR_GEN_MODE", 1))))),
            ],
            {},
        ),
        (
            messages.set_link("n1", isolated=True),
            [
                ("IFLA_IFNAME", "n1"),
                (
                    "IFLA_LINKINFO",
                    nest(
                        ("IFLA_INFO_SLAVE_KIND", "bridge"),
                        ("IFLA_INFO_SLAVE_DATA", nest(("IFLA_BRPORT_ISOLATED", 1))),
                    ),
                ),
            ],
            {},
        ),
        (
            messages.set_link("x.y", by_altname=True, group=3),
            [("IFLA_ALT_IFNAME", "x.y"), ("IFLA_GROUP", 3)],
            {},
        ),
        (messages.delete_link("n1"), [("IFLA_IFNAME", "n1")], {}),
        (messages.delete_link_index(6), [], {"index": 6}),
        (messages.delete_link_group(5), [("IFLA_GROUP", 5)], {}),
        (messages.rename_link(6, "n2"), [("IFLA_IFNAME", "n2")], {"index": 6}),
        (messages.get_link("n1"), [("IFLA_IFNAME", "n1"), ("IFLA_EXT_MASK", 8)], {}),
        (
            messages.add_altname("n1", "netorch.a"),
            [("IFLA_IFNAME", "n1"), ("IFLA_PROP_LIST", nest(("IFLA_ALT_IFNAME", "netorch.a")))],
            {},
        ),
    ],
)
def test_link_messages_are_encoded_as_pyroute2_does(
    ours: netlink.Request, attributes: list[tuple[str, Any]], header: dict[str, int]
) -> None:
    assert_same(ours.body, encoded(ifinfmsg, attributes, **header))


def test_vlans_of_a_port() -> None:
    ours = messages.set_port_vlans(7, {10: messages.VLAN_PVID | messages.VLAN_UNTAGGED, 20: 0})
    message = decoded(ifinfmsg, ours)
    assert (message["family"], message["index"]) == (AF_BRIDGE, 7)
    infos = [value for name, value in message.get_attr("IFLA_AF_SPEC")["attrs"]]
    assert [(info["vid"], info["flags"]) for info in infos] == [(10, 6), (20, 0)]
    assert messages.decode_port_vlans(ours.body) == (7, {10: 6, 20: 0})


def test_a_link_is_decoded() -> None:
    body = encoded(
        ifinfmsg,
        [
            ("IFLA_IFNAME", "eth0"),
            ("IFLA_ADDRESS", MAC),
            ("IFLA_MTU", 1400),
            ("IFLA_LINK", 9),
            ("IFLA_LINK_NETNSID", 3),
            ("IFLA_GROUP", 12),
            ("IFLA_MASTER", 5),
            ("IFLA_OPERSTATE", "UP"),
            ("IFLA_PROP_LIST", nest(("IFLA_ALT_IFNAME", "first"), ("IFLA_ALT_IFNAME", "second"))),
            ("IFLA_AF_SPEC", nest(("AF_INET6", nest(("IFLA_INET6_ADDR_GEN_MODE", 0))))),
        ],
        index=2,
        flags=1,
    )
    link = messages.decode_link(body)
    assert (link.ifindex, link.ifname, link.up, link.mac, link.mtu) == (2, "eth0", True, MAC, 1400)
    assert (link.peer, link.peer_netnsid, link.group, link.master) == (9, 3, 12, 5)
    assert link.operational and link.link_local
    assert link.altnames() == ["first", "second"]


@pytest.mark.parametrize(
    "wanted",
    [
        VirtualInterface(container="c", ifname="v", kind="vlan", parent="eth0", id=10),
        VirtualInterface(container="c", ifname="v", kind="macvlan", parent="eth0", mode="private"),
        VirtualInterface(container="c", ifname="v", kind="bond", mode="802.3ad"),
        VirtualInterface(container="c", ifname="v", kind="vrf", table=1000),
        VirtualInterface(container="c", ifname="v", kind="dummy", mac=MAC, mtu=1400),
        VirtualInterface(container="c", ifname="v", kind="bridge"),
        VirtualInterface(
            container="c", ifname="v", kind="vxlan", parent="eth0", id=7, local="10.0.0.1", remote="10.0.0.2",
            port=8472,
        ),
        VirtualInterface(container="c", ifname="v", kind="vxlan", id=7, parent="eth0", group="239.1.1.1"),
        VirtualInterface(container="c", ifname="v", kind="vxlan", id=7, local="fd00::1", remote="fd00::2"),
    ],
    ids=lambda wanted: wanted.kind,
)  # fmt: skip
def test_virtual_interfaces_come_back_as_they_were_encoded(wanted: VirtualInterface) -> None:
    parent = INDEXES[wanted.parent] if wanted.parent else 0
    request = linkinfo.new_interface(wanted, parent, 9)
    link = messages.decode_link(request.body)
    seen = linkinfo.decode_interface(link, "c", NAMES, ())
    assert seen is not None
    assert linkinfo.canonical_interface(seen, wanted) == wanted


def test_pyroute2_reads_our_vxlan_and_vlan() -> None:
    vxlan = VirtualInterface(container="c", ifname="v", kind="vxlan", id=7, parent="eth0", remote="10.0.0.2")
    data = decoded(ifinfmsg, linkinfo.new_interface(vxlan, 2, 9)).get_nested(
        "IFLA_LINKINFO", "IFLA_INFO_DATA"
    )
    got = dict(data["attrs"])
    assert (got["IFLA_VXLAN_ID"], got["IFLA_VXLAN_LINK"], got["IFLA_VXLAN_PORT"]) == (7, 2, 4789)
    assert got["IFLA_VXLAN_GROUP"] == "10.0.0.2"
    vlan = VirtualInterface(container="c", ifname="v", kind="vlan", id=10, parent="eth0")
    message = decoded(ifinfmsg, linkinfo.new_interface(vlan, 2, 9))
    assert message.get_attr("IFLA_LINK") == 2
    assert dict(message.get_nested("IFLA_LINKINFO", "IFLA_INFO_DATA")["attrs"]) == {"IFLA_VLAN_ID": 10}


# -- addresses ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cidr", "family", "flags", "scope"),
    [("10.0.0.2/24", AF_INET, 0, 0), ("127.0.0.2/8", AF_INET, 0, 254), ("fd00::1/64", AF_INET6, 2, 0)],
)
def test_an_address_is_encoded_as_pyroute2_does(cidr: str, family: int, flags: int, scope: int) -> None:
    address, length = cidr.split("/")
    ours = ipmessages.add_address(Address(owner="c", ifname="eth0", cidr=cidr), 2)
    theirs = encoded(
        ifaddrmsg,
        [("IFA_LOCAL", address), ("IFA_ADDRESS", address), ("IFA_PROTO", 110)],
        family=family,
        prefixlen=int(length),
        flags=flags,
        scope=scope,
        index=2,
    )
    assert_same(ours.body, theirs)
    fact = ipmessages.decode_address(theirs)
    assert (fact.ifindex, fact.cidr, fact.scope, fact.protocol) == (2, cidr, scope, 110)


# -- routes ------------------------------------------------------------------------------------------

ROUTES = [
    (
        Route(owner="c", family=4, dst="0.0.0.0/0", hops=(Hop(via="10.0.0.1", dev="eth0"),)),
        {"family": AF_INET, "dst_len": 0, "table": 254, "scope": 0, "type": 1},
        [("RTA_GATEWAY", "10.0.0.1"), ("RTA_OIF", 2)],
    ),
    (
        Route(owner="c", family=4, dst="10.9.0.0/16", metric=50, table=100, hops=(Hop(dev="eth1"),)),
        {"family": AF_INET, "dst_len": 16, "table": 100, "scope": 253, "type": 1},
        [("RTA_DST", "10.9.0.0"), ("RTA_PRIORITY", 50), ("RTA_OIF", 3)],
    ),
    (
        Route(owner="c", family=4, dst="192.0.2.0/24", type="blackhole", table=5000),
        {"family": AF_INET, "dst_len": 24, "table": 0, "scope": 0, "type": 6},
        [("RTA_DST", "192.0.2.0"), ("RTA_TABLE", 5000)],
    ),
    (
        Route(
            owner="c", family=6, dst="fd00:9::/48", metric=1024, mtu=1400, src="fd00::2", onlink=True,
            hops=(Hop(via="fd00::1", dev="eth0"),),
        ),
        {"family": AF_INET6, "dst_len": 48, "table": 254, "scope": 0, "type": 1, "flags": 4},
        [
            ("RTA_DST", "fd00:9::"),
            ("RTA_PREFSRC", "fd00::2"),
            ("RTA_PRIORITY", 1024),
            ("RTA_METRICS", nest(("RTAX_MTU", 1400))),
            ("RTA_GATEWAY", "fd00::1"),
            ("RTA_OIF", 2),
        ],
    ),
    (
        Route(
            owner="c", family=4, dst="10.9.0.0/16",
            hops=(Hop(via="10.0.0.1", dev="eth0", weight=1), Hop(via="10.1.0.1", dev="eth1", weight=3)),
        ),
        {"family": AF_INET, "dst_len": 16, "table": 254, "scope": 0, "type": 1},
        [
            ("RTA_DST", "10.9.0.0"),
            (
                "RTA_MULTIPATH",
                [
                    {"oif": 2, "hops": 0, "attrs": [("RTA_GATEWAY", "10.0.0.1")]},
                    {"oif": 3, "hops": 2, "attrs": [("RTA_GATEWAY", "10.1.0.1")]},
                ],
            ),
        ],
    ),
]  # fmt: skip


@pytest.mark.parametrize(("route", "header", "attributes"), ROUTES, ids=lambda value: str(value)[:40])
def test_a_route_is_encoded_and_decoded_as_pyroute2_does(
    route: Route, header: dict[str, int], attributes: list[tuple[str, Any]]
) -> None:
    theirs = encoded(rtmsg, attributes, proto=110, **header)
    assert_same(ipmessages.add_route(route, index).body, theirs)
    assert ipmessages.decode_route(theirs, "c", NAMES) == route
    assert ipmessages.route_protocol(theirs) == 110


def test_a_route_by_a_gateway_of_the_other_family() -> None:
    route = Route(owner="c", family=4, dst="10.9.0.0/16", hops=(Hop(via="fe80::1", dev="eth0"),))
    message = decoded(rtmsg, ipmessages.add_route(route, index))
    assert message.get_attr("RTA_VIA") == {"family": AF_INET6, "addr": "fe80::1"}
    assert ipmessages.decode_route(ipmessages.add_route(route, index).body, "c", NAMES) == route


@pytest.mark.parametrize(
    ("scope", "family", "hops", "plain"),
    [
        ("link", 4, (Hop(dev="eth0"),), None),
        ("global", 4, (Hop(via="10.0.0.1", dev="eth0"),), None),
        ("host", 4, (Hop(dev="eth0"),), "host"),
        ("global", 6, (Hop(dev="eth0"),), None),
    ],
)
def test_the_usual_scope_is_left_out(
    scope: str, family: int, hops: tuple[Hop, ...], plain: str | None
) -> None:
    route = Route(
        owner="c", family=family, dst="10.0.0.0/8" if family == 4 else "fd00::/8", scope=scope, hops=hops
    )
    assert ipmessages.canonical_route(route).scope == plain


def test_ipv6_shows_lo_for_a_route_to_nowhere() -> None:
    body = encoded(
        rtmsg, [("RTA_DST", "fd00:9::"), ("RTA_OIF", 1), ("RTA_PRIORITY", 1024)],
        family=AF_INET6, dst_len=48, table=254, proto=110, type=7,
    )  # fmt: skip
    route = ipmessages.decode_route(body, "c", {1: "lo"})
    assert route == Route(owner="c", family=6, dst="fd00:9::/48", type="unreachable", metric=1024)


# -- rules -------------------------------------------------------------------------------------------

RULES = [
    (
        Rule(owner="c", family=4, priority=100, source="10.1.0.0/24", table=100),
        {"family": AF_INET, "src_len": 24, "table": 100, "action": 1},
        [("FRA_SRC", "10.1.0.0"), ("FRA_PRIORITY", 100), ("FRA_PROTOCOL", 110)],
    ),
    (
        Rule(
            owner="c", family=4, priority=5, iif="eth0", oif="eth1", fwmark=1, fwmask=255, tos=16, table=5000
        ),
        {"family": AF_INET, "tos": 16, "table": 0, "action": 1},
        [
            ("FRA_PRIORITY", 5),
            ("FRA_IIFNAME", "eth0"),
            ("FRA_OIFNAME", "eth1"),
            ("FRA_FWMARK", 1),
            ("FRA_FWMASK", 255),
            ("FRA_TABLE", 5000),
            ("FRA_PROTOCOL", 110),
        ],
    ),
    (
        Rule(owner="c", family=6, priority=7, to="fd00:9::/48", action="prohibit", invert=True),
        {"family": AF_INET6, "dst_len": 48, "action": 8, "flags": 2},
        [("FRA_DST", "fd00:9::"), ("FRA_PRIORITY", 7), ("FRA_PROTOCOL", 110)],
    ),
]


@pytest.mark.parametrize(("rule", "header", "attributes"), RULES, ids=lambda value: str(value)[:40])
def test_a_rule_is_encoded_and_decoded_as_pyroute2_does(
    rule: Rule, header: dict[str, int], attributes: list[tuple[str, Any]]
) -> None:
    theirs = encoded(fibmsg, attributes, **header)
    assert_same(ipmessages.add_rule(rule).body, theirs)
    assert ipmessages.decode_rule(theirs, "c") == (rule, 110)


def test_the_kernels_own_rules_are_nobodys() -> None:
    body = encoded(fibmsg, [("FRA_TABLE", 254), ("FRA_PROTOCOL", 2)], family=AF_INET, table=254, action=1)
    assert ipmessages.decode_rule(body, "c") is None


# -- queueing disciplines ------------------------------------------------------------------------------


def test_pyroute2_reads_our_netem() -> None:
    qdisc = Qdisc(
        owner="c", ifname="eth0", delay=0.02, jitter=0.002, loss=0.1, duplicate=1, corrupt=2, reorder=25,
        rate=100_000_000, limit=50,
    )  # fmt: skip
    options = linkinfo.netem_options(qdisc)
    message = decoded(tcmsg, linkinfo.replace_qdisc(2, "netem", options))
    assert (message["index"], message["parent"], message.get_attr("TCA_KIND")) == (2, 0xFFFFFFFF, "netem")
    seen = message.get_attr("TCA_OPTIONS")
    assert (seen["limit"], seen["gap"]) == (50, 1)
    assert seen["loss"] == pytest.approx(0.001 * 2**32, rel=1e-6)
    assert seen["duplicate"] == pytest.approx(0.01 * 2**32, rel=1e-6)
    got = dict(seen["attrs"])
    assert got["TCA_NETEM_RATE"]["rate"] == 12_500_000
    assert got["TCA_NETEM_REORDER"]["prob_reorder"] == pytest.approx(0.25 * 2**32, rel=1e-6)
    assert linkinfo.decode_impairment("netem", options, "c", "eth0") == qdisc


def test_pyroute2_reads_our_tbf() -> None:
    qdisc = Qdisc(owner="c", ifname="eth0", rate=50_000_000)
    options = linkinfo.tbf_options(qdisc)
    seen = decoded(tcmsg, linkinfo.replace_qdisc(2, "tbf", options)).get_attr("TCA_OPTIONS")
    parameters = seen.get_attr("TCA_TBF_PARMS")
    assert parameters["rate"] == 6_250_000
    assert parameters["limit"] == 25_000 + 625_000
    assert linkinfo.decode_impairment("tbf", options, "c", "eth0").rate == 50_000_000
    for limit in (None, 1, 5, 1000):
        asked = Qdisc(owner="c", ifname="eth0", rate=1_000_000, limit=limit)
        assert linkinfo.decode_impairment("tbf", linkinfo.tbf_options(asked), "c", "eth0") == asked
    assert linkinfo.only_rate(qdisc)
    assert not linkinfo.only_rate(Qdisc(owner="c", ifname="eth0", rate=1, delay=0.1))


# -- what comes back -----------------------------------------------------------------------------------


def test_a_refusal_is_told_in_the_kernels_words() -> None:
    words = netlink.text(netlink.NLMSGERR_ATTR_MSG, "Nexthop has invalid gateway")
    body = struct.pack("=i", -errno.ENETUNREACH) + bytes(16) + words
    message = netlink.Message(netlink.NLMSG_ERROR, netlink.NLM_F_ACK_TLVS, 4, body)
    assert netlink.failure_of(message, 3) == (3, errno.ENETUNREACH, "Nexthop has invalid gateway")
    plain = netlink.Message(netlink.NLMSG_ERROR, 0, 4, struct.pack("=i", -errno.EPERM) + bytes(16))
    assert netlink.failure_of(plain, 0) == (0, errno.EPERM, "Operation not permitted")
    assert netlink.failure_of(netlink.Message(netlink.NLMSG_ERROR, 0, 4, bytes(20)), 0) is None


def test_messages_are_split_and_a_cut_one_is_an_error() -> None:
    one, two = messages.delete_link("a").encode(1), messages.delete_link("bcd").encode(2)
    assert [message.sequence for message in netlink.split(one + two)] == [1, 2]
    with pytest.raises(OSError, match="cut short"):
        list(netlink.split(one + two[:-4]))


@pytest.mark.parametrize(
    "data", [b"", b"\1", b"\1\0\1\0", b"\0\0\0\0" * 4, b"\xff\xff\1\0abc", bytes(range(255))]
)
def test_attributes_of_any_bytes_end(data: bytes) -> None:
    assert isinstance(netlink.parse(data), dict)
    assert len(list(netlink.parse_list(data))) <= len(data)


# -- marks and sysctls -----------------------------------------------------------------------------------


def test_a_mark_is_read_back() -> None:
    mark = Mark("office", "1f", "c", "red.eth0.10")
    assert read_mark(str(mark)) == mark
    assert read_mark("netorch.office.1f.z.red") is None
    assert read_mark("someone.office.1f.c.red") is None


def test_a_mark_too_long_for_the_kernel_holds_a_digest() -> None:
    name = "n" * 63 + "." + "i" * 15
    mark = str(Mark("l" * 32, "f" * 16, "c", name))
    assert len(mark) < 128
    seen = read_mark(mark)
    assert seen is not None and seen[:3] == ("l" * 32, "f" * 16, "c")
    assert seen.tells(name) and not seen.tells(name + "x") and not seen.written_out


def test_a_sysctl_of_an_interface_with_a_dot() -> None:
    assert sysctl_path("net.ipv4.conf.eth0/10.rp_filter") == "/proc/sys/net/ipv4/conf/eth0.10/rp_filter"
    for evil in ("net.//.//.kernel", "net./.x", "net..x"):
        with pytest.raises(ValueError, match="no sysctl"):
            sysctl_path(evil)
