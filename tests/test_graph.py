"""Wiring: names, MACs, addresses, what a name means, and the networkx graph."""

from __future__ import annotations

import itertools
import subprocess
import sys
from ipaddress import ip_address, ip_interface, ip_network

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.runner import ROOT
from support.topologies import (
    addresses,
    at,
    box,
    bridge,
    end,
    inside,
    lab,
    link,
    problems,
    red_blue,
    routes,
    wire,
)

from netns_orch import graph
from netns_orch.errors import NetorchError
from netns_orch.graph import Wiring
from netns_orch.graph.addresses import Addr, BlockPool, Net, Pool, given_out, parse_net
from netns_orch.graph.names import bridge_ifname, file_order, ifname_fault
from netns_orch.labfile.model import (
    Addressing,
    Endpoint,
    Namespaces,
    Topology,
)

# -- numbers -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("net", "first", "last"),
    [
        ("10.0.0.0/24", "10.0.0.1", "10.0.0.254"),
        ("10.0.0.0/30", "10.0.0.1", "10.0.0.2"),
        ("10.0.0.0/31", "10.0.0.0", "10.0.0.1"),
        ("10.0.0.7/32", "10.0.0.7", "10.0.0.7"),
        ("fd00::/64", "fd00::1", "fd00::ffff:ffff:ffff:ffff"),
        ("fd00::/127", "fd00::", "fd00::1"),
        ("fd00::5/128", "fd00::5", "fd00::5"),
    ],
)
def test_network_broadcast_and_anycast_addresses_are_not_given_out(net: str, first: str, last: str) -> None:
    assert given_out(parse_net(net)) == (int(ip_address(first)), int(ip_address(last)))


def test_a_pool_gives_the_lowest_free_address_and_then_none() -> None:
    pool = Pool(parse_net("10.0.0.0/29"))
    pool.reserve(int(ip_address("10.0.0.2")))
    taken = [pool.take() for _ in range(6)]
    assert [str(addr) for addr in taken if addr] == [f"10.0.0.{n}/29" for n in (1, 3, 4, 5, 6)]
    assert taken[-1] is None


def test_blocks_step_over_what_is_reserved() -> None:
    pool = BlockPool(parse_net("10.255.0.0/28"), 1)
    pool.reserve(int(ip_address("10.255.0.1")))
    pool.reserve_net(parse_net("10.255.0.4/30"))
    taken = [pool.take() for _ in range(6)]
    assert [str(net) for net in taken if net] == [f"10.255.0.{n}/31" for n in (2, 8, 10, 12, 14)]
    assert taken[-1] is None


@given(st.integers(0, 2**128 - 1), st.integers(0, 128), st.integers(0, 2**32 - 1), st.integers(0, 32))
def test_numbers_agree_with_ipaddress(six: int, six_prefix: int, four: int, four_prefix: int) -> None:
    for addr in (Addr(6, six, six_prefix), Addr(4, four, four_prefix)):
        reference = ip_interface(str(addr))
        assert str(addr.net) == str(reference.network)
        assert addr.net.size == reference.network.num_addresses
        assert addr.is_link_local == (reference.version == 6 and reference.ip in ip_network("fe80::/10"))


def test_overlap_and_cover() -> None:
    wide, narrow, other = map(parse_net, ("10.0.0.0/8", "10.1.0.0/16", "11.0.0.0/8"))
    assert wide.covers(narrow) and not narrow.covers(wide)
    assert wide.overlaps(narrow) and narrow.overlaps(wide) and not wide.overlaps(other)
    assert not wide.overlaps(Net(6, wide.base, 8))


# -- names and MACs ------------------------------------------------------------------------------


def test_the_smallest_lab_is_as_the_design_says() -> None:
    wiring = red_blue()
    assert addresses(wiring, "red") == ["10.0.0.2/24"]
    assert addresses(wiring, "blue") == ["10.0.0.3/24"]
    assert routes(wiring, "blue") == [("0.0.0.0/0", "10.0.0.1", "eth0")]
    assert wiring.bridges["br0"].forward == "nat"
    assert wiring.bridges["br0"].ifname == "lab-br0"
    assert not wiring.warnings


def test_interfaces_are_numbered_around_explicit_names() -> None:
    wiring = wire(
        link("red", "lan"),
        link("red:eth0", "lan"),
        link("lan", "red"),
        link("red:wan", "lan"),
        link("red", "lan"),
        lan=bridge(),
        red=box(interfaces=[inside("eth2", "dummy")]),
    )
    assert [iface.ifname for iface in wiring.ends["red"]] == ["eth1", "eth0", "eth3", "wan", "eth4"]


def test_macs_are_fixed_unicast_local_and_unique() -> None:
    first, again = red_blue(), red_blue()
    macs = [e.mac for cable in first.cables for e in cable.ends] + [first.bridges["br0"].mac]
    assert macs == [e.mac for cable in again.cables for e in cable.ends] + [again.bridges["br0"].mac]
    assert len(set(macs)) == 5
    assert all(mac.startswith("02:") and len(mac) == 17 for mac in macs)
    other = wire(link("red", "br0"), name="lab2", br0=bridge("10.0.0.1/24"), red=box())
    assert other.cables[0].a.mac not in macs


def test_an_explicit_mac_is_kept_in_lower_case() -> None:
    wiring = wire(link(end("red", mac="02:00:00:00:00:AB"), "lan"), lan=bridge(), red=box())
    assert wiring.cables[0].a.mac == "02:00:00:00:00:ab"


@pytest.mark.parametrize(
    ("lab_name", "bridge_name"),
    [("a" * 32, "b" * 63), ("office", "br-to-the-world"), ("x", "y"), ("office", "br0")],
)
def test_bridge_names_fit_the_kernel(lab_name: str, bridge_name: str) -> None:
    name = bridge_ifname(lab_name, bridge_name, set())
    assert ifname_fault(name) is None
    if len(lab_name) + len(bridge_name) < 15:
        assert name == f"{lab_name}-{bridge_name}"


def test_bridge_names_never_collide_in_a_lab() -> None:
    names = {f"a-very-long-name-{n}": bridge() for n in range(300)}
    taken = bridge(ifname="lab-short")
    wiring = wire(taken=taken, short=bridge(), **names)
    real = [b.ifname for b in wiring.bridges.values()]
    assert len(set(real)) == len(real) and real[0] == "lab-short"
    assert max(map(len, real)) <= 15


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("a" * 16, "16 bytes long"),
        ("é" * 8, "16 bytes long"),
        ("eth%d", "'%'"),
        ("a b", "' '"),
        ("a\u2003b", "\\u2003"),
        ("a/b", "'/'"),
        ("a:b", "':'"),
        ("a\x07", "\\x07"),
        (".", "no name"),
        ("..", "no name"),
        ("", "no name"),
        ("lo", "taken"),
        ("all", "taken"),
        ("default", "taken"),
    ],
)
def test_names_that_the_kernel_refuses(name: str, words: str) -> None:
    assert words in (ifname_fault(name) or "")
    if name:
        found = problems(link(Endpoint(node="red", ifname=name), "lan"), lan=bridge(), red=box())
        assert words in found[0].what and found[0].where == at(1000, 5)


@pytest.mark.parametrize("name", ["eth0", "a" * 15, "eth0.10", "é" * 7, "wan-1", "x@y"])
def test_names_that_the_kernel_takes(name: str) -> None:
    assert ifname_fault(name) is None


# -- addresses -----------------------------------------------------------------------------------


def test_explicit_addresses_anywhere_are_reserved_first() -> None:
    wiring = wire(
        link("a", "br0"),
        link("b", "br0"),
        link(end("c", "10.0.0.2/24"), "br0"),
        link("br0", end("d", "10.0.0.4/24")),
        br0=bridge("10.0.0.1/24"),
        **{name: box() for name in "abcd"},
    )
    assert [addresses(wiring, name)[0] for name in "abcd"] == [f"10.0.0.{n}/24" for n in (3, 5, 2, 4)]


def test_a_bridge_of_both_families_gives_one_address_of_each() -> None:
    wiring = wire(link("red", "br0"), br0=bridge("10.0.0.1/24", "fd00::1/64"), red=box())
    assert addresses(wiring, "red") == ["10.0.0.2/24", "fd00::2/64"]
    assert routes(wiring, "red") == [("0.0.0.0/0", "10.0.0.1", "eth0"), ("::/0", "fd00::1", "eth0")]
    assert [route.metric for route in wiring.routes["red"]] == [0, 1024]
    assert wiring.ends["red"][0].link_local and wiring.bridges["br0"].link_local


def test_the_gateway_takes_the_first_address_and_is_the_others_default_route() -> None:
    wiring = wire(
        link("red", "dmz"),
        link("fw", "br0"),
        link("fw", "dmz"),
        br0=bridge("10.0.0.1/24"),
        dmz=bridge(subnet=["10.2.0.0/24", "fd02::/64"], gateway="fw"),
        red=box(),
        fw=box(router=True),
    )
    assert addresses(wiring, "fw") == ["10.0.0.2/24", "10.2.0.1/24", "fd02::1/64"]
    assert addresses(wiring, "red") == ["10.2.0.2/24", "fd02::2/64"]
    assert routes(wiring, "red") == [("0.0.0.0/0", "10.2.0.1", "eth0"), ("::/0", "fd02::1", "eth0")]
    assert routes(wiring, "fw") == [("0.0.0.0/0", "10.0.0.1", "eth0")]


def test_a_gateway_keeps_the_address_that_the_file_gives_it() -> None:
    wiring = wire(
        link("red", "dmz"),
        link(end("fw", "10.2.0.254/24"), "dmz"),
        dmz=bridge(subnet="10.2.0.0/24", gateway="fw"),
        red=box(),
        fw=box(),
    )
    assert routes(wiring, "red") == [("0.0.0.0/0", "10.2.0.254", "eth0")]
    assert addresses(wiring, "red") == ["10.2.0.1/24"]


def test_a_switch_without_subnet_gives_no_addresses() -> None:
    wiring = wire(link("red", "lan"), lan=bridge(), red=box())
    assert addresses(wiring, "red") == [] and "red" not in wiring.routes


def test_address_none_leaves_both_ends_or_one_alone() -> None:
    wiring = wire(
        link("a", "br0", no_address=True),
        link(end("b", no_address=True), "br0"),
        link("c", "br0"),
        br0=bridge("10.0.0.1/24"),
        **{name: box() for name in "abc"},
    )
    assert [addresses(wiring, name) for name in "abc"] == [[], [], ["10.0.0.2/24"]]
    assert set(wiring.routes) == {"c"}


def test_a_subnet_on_a_link_serves_both_ends() -> None:
    wiring = wire(
        link("a", "b", subnet="10.4.0.0/30"),
        link(end("a", "fd00::2/64"), "b", subnet="fd00::/64"),
        a=box(),
        b=box(),
    )
    assert addresses(wiring, "a") == ["10.4.0.1/30", "fd00::2/64"]
    assert addresses(wiring, "b") == ["10.4.0.2/30", "fd00::1/64"]


def test_pools_for_cables_and_routers() -> None:
    wiring = wire(
        link("a", "b"),
        link(end("a", "10.255.0.3/31"), end("c", "10.255.0.2/31")),
        link("b", "c"),
        link("a", "c", no_address=True),
        addressing=Addressing(p2p=ip_network("10.255.0.0/16"), loopback=ip_network("192.0.2.0/24")),
        a=box(router=True),
        b=box(router=True, loopback=["192.0.2.1/32"]),
        c=box(),
    )
    assert addresses(wiring, "a") == ["10.255.0.0/31", "10.255.0.3/31", "192.0.2.2/32"]
    assert addresses(wiring, "b") == ["10.255.0.1/31", "10.255.0.4/31", "192.0.2.1/32"]
    assert addresses(wiring, "c") == ["10.255.0.2/31", "10.255.0.5/31"]


def test_ipv6_cables_get_a_127() -> None:
    wiring = wire(link("a", "b"), addressing=Addressing(p2p=ip_network("fd00:ff::/64")), a=box(), b=box())
    assert addresses(wiring, "a") + addresses(wiring, "b") == ["fd00:ff::/127", "fd00:ff::1/127"]


def test_two_bridges_with_the_same_subnet_are_two_pools() -> None:
    wiring = wire(
        link("a", "home1"),
        link("b", "home2"),
        home1=bridge(subnet="192.168.1.0/24"),
        home2=bridge(subnet="192.168.1.0/24"),
        a=box(),
        b=box(),
    )
    assert addresses(wiring, "a") == addresses(wiring, "b") == ["192.168.1.1/24"]


def test_joined_bridges_share_one_pool() -> None:
    wiring = wire(
        link("one", "two"),
        link("a", "one"),
        link("b", "two"),
        one=bridge(subnet="192.168.1.0/24"),
        two=bridge(subnet="192.168.1.0/24"),
        a=box(),
        b=box(),
    )
    assert addresses(wiring, "a") + addresses(wiring, "b") == ["192.168.1.1/24", "192.168.1.2/24"]


_SUBNETS = ["10.0.0.0/29", "10.0.1.0/28", "fd00::/125"]


@st.composite
def wirings(draw: st.DrawFn) -> tuple[list[tuple[str, int | None]], list[str]]:
    """Links of containers to a bridge (some with an address by number), and the bridge's subnets."""
    subnets = draw(st.lists(st.sampled_from(_SUBNETS), min_size=1, max_size=3, unique=True))
    numbers = draw(st.lists(st.integers(2, 6), unique=True, max_size=2))
    kinds: list[int | None] = draw(st.permutations([*numbers, *[None] * draw(st.integers(0, 2))]))
    return [(f"c{place}", number) for place, number in enumerate(kinds)], subnets


def _pooled(ends: list[tuple[str, int | None]], subnets: list[str]) -> Topology:
    nets = [ip_network(subnet) for subnet in subnets]
    own = [f"{net[1]}/{net.prefixlen}" for net in nets]
    links = [
        link(end(name, *([] if number is None else [f"{nets[0][number]}/{nets[0].prefixlen}"])), "br0")
        for name, number in ends
    ]
    return lab(*links, br0=bridge(*own), **{name: box() for name, _ in ends})


@given(wirings())
@settings(max_examples=100, deadline=None)
def test_addresses_are_unique_in_their_subnet_and_stay_when_a_link_is_added(
    drawn: tuple[list[tuple[str, int | None]], list[str]],
) -> None:
    ends, subnets = drawn
    wiring = graph.wire(_pooled(ends, subnets))
    chosen = {name: addresses(wiring, name) for name, _ in ends}
    everyone = [str(a) for a in wiring.bridges["br0"].addresses] + list(itertools.chain(*chosen.values()))
    assert len(set(everyone)) == len(everyone)
    for name, number in ends:
        nets = subnets if number is None else subnets[:1]
        assert [str(ip_interface(item).network) for item in chosen[name]] == nets
    longer = graph.wire(_pooled([*ends, ("late", None)], subnets))
    assert {name: addresses(longer, name) for name, _ in ends} == chosen
    assert [e.mac for c in longer.cables[: len(ends)] for e in c.ends] == [
        e.mac for c in wiring.cables for e in c.ends
    ]


def test_a_container_has_its_addresses_in_file_order_on_many_links() -> None:
    wiring = wire(
        link("red", "b2"),
        link("red", "b1"),
        b1=bridge("10.1.0.1/24"),
        b2=bridge("10.2.0.1/24"),
        red=box(),
    )
    assert addresses(wiring, "red") == ["10.2.0.2/24", "10.1.0.2/24"]
    assert routes(wiring, "red") == [("0.0.0.0/0", "10.2.0.1", "eth0")]


# -- link-local ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("top", "container", "of_bridge", "of_link", "expected"),
    [
        (None, None, None, None, False),
        (True, None, None, None, True),
        (True, False, None, None, False),
        (False, False, True, None, True),
        (True, True, True, False, False),
    ],
)
def test_the_nearest_word_on_link_local_wins(
    top: bool | None, container: bool | None, of_bridge: bool | None, of_link: bool | None, expected: bool
) -> None:
    wiring = wire(
        link("red", "lan", link_local=of_link),
        link_local=top,
        lan=bridge(link_local=of_bridge),
        red=box(link_local=container),
    )
    assert wiring.ends["red"][0].link_local is expected


# -- names mean addresses ------------------------------------------------------------------------


def two_homed() -> Wiring:
    return wire(
        link("red", "a"),
        link("r", "a"),
        link("r", "b"),
        link("blue", "b"),
        a=bridge("10.0.0.1/24", "fd00::1/64"),
        b=bridge("10.1.0.1/24"),
        red=box(),
        blue=box(hostname="azure", extra_hosts={"db.lab": "10.0.0.9"}),
        r=box(loopback=["192.0.2.1/32"]),
        pod=box(namespaces=Namespaces(net="red")),
        lonely=box(),
    )


@pytest.mark.parametrize(
    ("name", "from_", "expected"),
    [
        ("r", "red", "10.0.0.3"),
        ("r", "blue", "10.1.0.2"),
        ("r", None, "10.0.0.3"),
        ("blue", "red", "10.1.0.3"),
        ("pod", "blue", "10.0.0.2"),
        ("r", "pod", "10.0.0.3"),
        ("host", "blue", "10.1.0.1"),
        ("lonely", "red", None),
    ],
)
def test_a_name_means_the_shared_subnet_else_the_first_address(
    name: str, from_: str | None, expected: str | None
) -> None:
    assert two_homed().address_of(name, from_=from_) == expected


def test_a_subnet_of_another_segment_is_not_shared() -> None:
    wiring = wire(
        link("pc", "home1"),
        link("nat2", "wan"),
        link("nat2", "home2"),
        wan=bridge(subnet="203.0.113.0/24"),
        home1=bridge(subnet="192.168.1.0/24"),
        home2=bridge(subnet="192.168.1.0/24"),
        pc=box(),
        nat2=box(),
    )
    assert wiring.address_of("nat2", from_="pc") == "203.0.113.1"


def test_hosts_files_hold_every_container() -> None:
    wiring = two_homed()
    lines = wiring.hosts("blue").splitlines()
    assert lines[:2] == ["127.0.0.1 localhost", "::1 localhost ip6-localhost ip6-loopback"]
    for line in ("10.0.0.9 db.lab", "10.1.0.3 azure", "10.1.0.3 blue", "10.1.0.2 r", "10.0.0.2 red"):
        assert line in lines
    assert "10.0.0.3 r" in wiring.hosts("red").splitlines()
    assert "fd00::3 r" in lines and "10.0.0.2 pod" in lines
    assert "127.0.1.1 lonely" in wiring.hosts("lonely").splitlines()
    assert not any(line.endswith(" lonely") for line in lines)


def test_hosts_files_agree_with_address_of() -> None:
    wiring = two_homed()
    for viewer in ("red", "blue", "r", "pod"):
        lines = wiring.hosts(viewer).splitlines()
        for name in ("red", "blue", "r"):
            assert f"{wiring.address_of(name, from_=viewer)} {name}" in lines


def test_containers_in_the_same_subnets_share_one_text() -> None:
    wiring = red_blue()
    assert wiring.hosts("red") is wiring.hosts("blue")


# -- the graph -----------------------------------------------------------------------------------


def test_the_graph_has_nodes_and_cables() -> None:
    wiring = wire(link("red", "br0"), link("red", "blue"), br0=bridge("10.0.0.1/24"), red=box(), blue=box())
    built = graph.build(wiring)
    assert dict(built.nodes(data="kind")) == {
        "red": "container",
        "blue": "container",
        "br0": "bridge",
        "host": "host",
    }
    cables = sorted(tuple(sorted(pair)) for *pair, kind in built.edges(data="kind") if kind == "cable")
    assert cables == [("blue", "red"), ("br0", "red")]
    (edge,) = built["red"]["blue"].values()
    assert edge["ifnames"] == {"red": "eth1", "blue": "eth0"} and edge["up"]


def test_json_is_json() -> None:
    import json

    shown = json.loads(json.dumps(graph.to_json(red_blue())))
    assert shown["containers"]["red"]["interfaces"][0]["addresses"] == ["10.0.0.2/24"]
    assert shown["links"][1] == ["blue:eth0", "br0"]


def test_wiring_does_not_load_networkx() -> None:
    code = (
        "import sys; from netns_orch import graph; from netns_orch.resolve import resolve;"
        "from netns_orch.labfile.model import *;"
        "t = Topology(name='x', bridges={'a': Bridge(name='a'), 'b': Bridge(name='b')},"
        " links=[Link(a=Endpoint(node='a'), b=Endpoint(node='b'))]);"
        "resolve(graph.wire(t), id='1'); print('networkx' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.strip() == "False"


def test_problems_without_a_place_come_last() -> None:
    unplaced, late, early = NetorchError("x"), NetorchError("y", where=at(9)), NetorchError("z", where=at(2))
    assert [problem.what for problem in file_order([unplaced, late, early])] == ["z", "y", "x"]
