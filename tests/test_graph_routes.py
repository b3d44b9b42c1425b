"""Default routes, the file's routes and policy rules, as the kernel will list them."""

from __future__ import annotations

from ipaddress import ip_network
from typing import Any

import pytest
from support.topologies import at, box, bridge, end, inside, link, problems, routes, rule, via, wire

from netns_orch.errors import LabFileError
from netns_orch.graph import Wiring
from netns_orch.labfile.model import (
    Addressing,
    Host,
    Nexthop,
    Route,
)

# -- routes --------------------------------------------------------------------------------------


def route_of(route: Route, **more: Any) -> Any:
    """The one route of a container with two interfaces."""
    wiring = wire(
        link(end("red", "10.0.0.2/24", "fd00::2/64"), "a"),
        link(end("red", "10.1.0.2/24"), "b"),
        a=bridge(),
        b=bridge(),
        red=box(routes=[route], **more),
    )
    return wiring.routes["red"][0]


@pytest.mark.parametrize(
    ("route", "expected"),
    [
        (via("10.9.0.0/16", "10.1.0.9"), {"dst": "10.9.0.0/16", "dev": "eth1", "metric": 0, "table": 254}),
        (via("default", "10.0.0.9"), {"dst": "0.0.0.0/0", "dev": "eth0"}),
        (via("default", "FD00::9"), {"dst": "::/0", "dev": "eth0", "via": "fd00::9", "metric": 1024}),
        (via("FD01:0::/32", "fd00::9", metric=7), {"dst": "fd01::/32", "metric": 7}),
        (via("10.9.0.1", "10.0.0.9"), {"dst": "10.9.0.1/32"}),
        (via("default", "10.0.0.9", table="100", metric=50), {"table": 100, "metric": 50}),
        (via("default", "10.0.0.9", table="default"), {"table": 253}),
        (via("10.9.0.0/16", dev="eth1", scope="link"), {"dev": "eth1", "via": None, "scope": None}),
        (via("10.9.0.0/16", dev="eth1", scope="global"), {"scope": "global"}),
        (via("10.9.0.0/16", "10.0.0.9", src="10.1.0.2", mtu=1400), {"src": "10.1.0.2", "mtu": 1400}),
        (via("10.9.0.0/16", "172.16.0.1", dev="eth1", onlink=True), {"dev": "eth1", "onlink": True}),
        (via("10.9.0.0/16", "fe80::1", dev="eth0"), {"via": "fe80::1", "dev": "eth0", "family": 4}),
        (via("192.0.2.0/24", type="local"), {"table": 255, "dev": "lo", "scope": None}),
    ],
)
def test_a_route_reads_as_the_kernel_lists_it(route: Route, expected: dict[str, Any]) -> None:
    found = route_of(route)
    (hop,) = found.hops
    fields = {"via": hop.via, "dev": hop.dev}
    assert {key: fields.get(key, getattr(found, key, None)) for key in expected} == expected


def test_a_route_that_leads_nowhere_has_no_hops() -> None:
    found = route_of(Route(to="192.0.2.0/24", type="blackhole"))
    assert (found.type, found.hops, found.scope) == ("blackhole", (), None)


def test_multipath_keeps_the_order_of_the_file() -> None:
    hops = [Nexthop(via="10.1.0.9", weight=2), Nexthop(via="10.0.0.9")]
    found = route_of(Route(to="10.9.0.0/16", nexthops=hops))
    assert [(hop.via, hop.dev, hop.weight) for hop in found.hops] == [
        ("10.1.0.9", "eth1", 2),
        ("10.0.0.9", "eth0", 1),
    ]


def test_the_longest_prefix_says_which_interface() -> None:
    wiring = wire(
        link(end("red", "10.0.0.2/8"), "a"),
        link(end("red", "10.1.0.2/16"), "b"),
        a=bridge(),
        b=bridge(),
        red=box(routes=[via("172.16.0.0/12", "10.1.9.9"), via("172.32.0.0/12", "10.9.9.9")]),
    )
    assert [hop for _, _, hop in routes(wiring, "red")] == ["eth1", "eth0"]


def test_a_next_hop_may_be_on_link_by_a_route_of_the_file_which_then_comes_first() -> None:
    wiring = wire(
        link(end("red", "10.0.0.2/32"), "a"),
        a=bridge(),
        red=box(routes=[via("default", "192.0.2.1"), via("192.0.2.1/32", dev="eth0")]),
    )
    assert [route.dst for route in wiring.routes["red"]] == ["192.0.2.1/32", "0.0.0.0/0"]
    assert wiring.routes["red"][1].hops[0].dev == "eth0"


def test_an_interface_made_inside_is_on_link_too() -> None:
    wiring = wire(
        link("red", "lan"),
        lan=bridge(),
        red=box(
            interfaces=[inside("eth0.10", "vlan", "10.10.0.2/24", parent="eth0", id=10)],
            routes=[via("10.9.0.0/16", "10.10.0.1")],
        ),
    )
    assert routes(wiring, "red") == [("10.9.0.0/16", "10.10.0.1", "eth0.10")]


def test_an_explicit_default_route_wins_for_its_family_only() -> None:
    wiring = wire(
        link("red", "br0"),
        br0=bridge("10.0.0.1/24", "fd00::1/64"),
        red=box(routes=[via("default", "10.0.0.9", metric=5)]),
    )
    assert routes(wiring, "red") == [("0.0.0.0/0", "10.0.0.9", "eth0"), ("::/0", "fd00::1", "eth0")]


def test_no_default_route_when_the_file_says_so() -> None:
    wiring = wire(link("red", "br0"), br0=bridge("10.0.0.1/24"), red=box(default_route=False))
    assert not wiring.routes


def test_routes_of_the_host_go_by_real_bridge_names() -> None:
    wiring = wire(
        br0=bridge("10.0.0.1/24"),
        host=Host(routes=[via("10.9.0.0/16", "10.0.0.2"), via("10.8.0.0/16", dev="br0")]),
    )
    assert sorted(routes(wiring, "host")) == [
        ("10.8.0.0/16", None, "lab-br0"),
        ("10.9.0.0/16", "10.0.0.2", "lab-br0"),
    ]


@pytest.mark.parametrize(
    ("route", "words", "hint"),
    [
        (via("10.9.0.0/16", "10.7.0.1"), "the next hop 10.7.0.1 is not on link", "no interface of red"),
        (via("10.9.0.0/16", "10.1.0.9", dev="eth0"), "is not on link on eth0", "eth0 has no address"),
        (via("10.9.0.0/16", "10.0.0.2"), "is red's own address", ""),
        (via("10.9.0.1/16", "10.0.0.9"), "bits set beyond", "the prefix is 10.9.0.0/16"),
        (via("nonsense", "10.0.0.9"), "nonsense is not an IPv4 or IPv6 prefix", ""),
        (via("default", "10.0.0.300"), "10.0.0.300 is not an IPv4 or IPv6 address", ""),
        (via("fd01::/64", "10.0.0.9"), "can't go by the IPv4 address", ""),
        (via("10.9.0.0/16"), "neither a next hop nor an interface", "`via` or `dev`"),
        (via("10.9.0.0/16", dev="eth7"), "no interface eth7", "did you mean eth"),
        (via("10.9.0.0/16", "fe80::1"), "link-local", "`dev`"),
        (via("10.9.0.0/16", "10.7.0.1", onlink=True), "onlink needs the interface", "`dev`"),
        (via("10.9.0.0/16", "10.0.0.9", table="mian"), "no routing table mian", "main"),
        (via("10.9.0.0/16", "10.0.0.9", src="10.5.5.5"), "src 10.5.5.5 is no address of red", ""),
        (via("10.9.0.0/16", "10.0.0.9", type="blackhole"), "goes to no next hop", ""),
    ],
)
def test_routes_that_the_kernel_would_refuse(route: Route, words: str, hint: str) -> None:
    route.where, route.marks = at(50), {"via": at(50, 7), "to": at(50, 3)}
    with pytest.raises(LabFileError) as caught:
        route_of(route)
    (found,) = caught.value.problems
    assert words in found.what and hint in (found.hint or "")
    assert found.where is not None and found.where.line == 50


def test_a_second_route_of_the_same_metric_is_an_error() -> None:
    twice = [via("10.9.0.0/16", "10.0.0.8", where=at(50)), via("10.9.0.0/16", "10.0.0.9", where=at(51))]
    (found,) = problems(link("red", "br0"), br0=bridge("10.0.0.1/24"), red=box(routes=twice))
    assert "two routes to 10.9.0.0/16" in found.what and found.where == at(51)


# -- auto ----------------------------------------------------------------------------------------

AUTO = Route(type="auto", where=at(55))


def leaf_spine() -> Wiring:
    """Two spines, three leaves, a host subnet at the first and the last leaf."""
    names = ["s1", "s2", "l1", "l2", "l3"]
    boxes = {name: box(router=True, routes=[AUTO]) for name in names}
    links = [link(spine, leaf) for spine in names[:2] for leaf in names[2:]]
    return wire(
        *links,
        link("l1", "a"),
        link("l3", "b"),
        link("pc", "b"),
        addressing=Addressing(p2p=ip_network("10.255.0.0/24"), loopback=ip_network("192.0.2.0/24")),
        a=bridge(subnet="10.1.0.0/24"),
        b=bridge(subnet=["10.3.0.0/24", "fd03::/64"]),
        pc=box(routes=[AUTO]),
        **boxes,
    )


def test_auto_takes_all_shortest_paths() -> None:
    found = routes(leaf_spine(), "l1")
    assert [way for way in found if way[0] == "10.3.0.0/24"] == [
        ("10.3.0.0/24", "10.255.0.0", "eth0"),
        ("10.3.0.0/24", "10.255.0.6", "eth1"),
    ]
    assert [way for way in found if way[0] == "192.0.2.1/32"] == [("192.0.2.1/32", "10.255.0.0", "eth0")]
    assert [way[0] for way in found if way[0].startswith("192")].count("192.0.2.5/32") == 2


def test_auto_leaves_out_what_is_on_link_and_reaches_all_the_rest() -> None:
    wiring = leaf_spine()
    nets = {str(addr.net) for name in wiring.topology.containers for addr in wiring.addresses(name)}
    for name in wiring.topology.containers:
        own = {str(addr.net) for addr in wiring.addresses(name)}
        reached = {way[0] for way in routes(wiring, name)}
        assert reached == {net for net in nets - own if not net.startswith("fd03")}
        assert all(route.where == at(55) for route in wiring.routes[name])


def test_auto_goes_through_routers_only_and_not_over_a_dead_cable() -> None:
    def of(**fields: Any) -> list[tuple[str, str | None, str | None]]:
        up = fields.pop("up", True)
        wiring = wire(
            link("pc", "a"),
            link("r", "a"),
            link("r", "b", up=up),
            link("x", "b"),
            a=bridge(subnet="10.1.0.0/24"),
            b=bridge(subnet="10.2.0.0/24"),
            pc=box(routes=[AUTO]),
            r=box(**fields),
            x=box(),
        )
        return routes(wiring, "pc")

    assert of(router=True) == [("10.2.0.0/24", "10.1.0.2", "eth0")]
    assert of() == []
    assert of(router=True, up=False) == []


def test_auto_goes_by_the_host_where_it_is_a_router() -> None:
    def of(router: bool) -> list[tuple[str, str | None, str | None]]:
        wiring = wire(
            link("pc", "a"),
            a=bridge("10.1.0.1/24", "fd01::1/64"),
            b=bridge("10.2.0.1/24", "fd02::1/64"),
            pc=box(routes=[AUTO], default_route=False),
            host=Host(router=router),
        )
        return routes(wiring, "pc")

    assert of(True) == [("10.2.0.0/24", "10.1.0.1", "eth0"), ("fd02::/64", "fd01::1", "eth0")]
    assert of(False) == []


def test_a_route_of_the_file_wins_over_auto() -> None:
    wiring = wire(
        link("pc", "a"),
        link("r", "a"),
        link("r", "b"),
        a=bridge(subnet="10.1.0.0/24"),
        b=bridge(subnet="10.2.0.0/24"),
        pc=box(routes=[AUTO, via("10.2.0.0/24", "10.1.0.77")]),
        r=box(router=True),
    )
    assert routes(wiring, "pc") == [("10.2.0.0/24", "10.1.0.77", "eth0")]


# -- policy rules --------------------------------------------------------------------------------


def test_rules_are_asked_in_file_order_and_take_priorities_up_to_32765() -> None:
    rules = [
        rule(source="10.1.0.0/24", table="100"),
        rule(source="all", table="main", priority=32764),
        rule(to="10.2.0.7", table="0x65", fwmark="0x1/0xff"),
        rule(family=6, source="FD00::/64", action="blackhole"),
    ]
    made = wire(red=box(rules=rules)).rules["red"]
    assert [(r.family, r.priority) for r in made] == [(4, 32763), (4, 32764), (4, 32765), (6, 32765)]
    assert [(r.source, r.to, r.table) for r in made] == [
        ("10.1.0.0/24", None, 100),
        (None, None, 254),
        (None, "10.2.0.7/32", 101),
        ("fd00::/64", None, 0),
    ]
    assert [(r.fwmark, r.fwmask) for r in made][2] == (1, 255)


@pytest.mark.parametrize(
    ("rules", "words"),
    [
        ([rule(priority=5), rule(priority=5)], "two rules of priority 5"),
        ([rule(source="fd00::/64")], "is not an IPv4 prefix"),
        ([rule(fwmark="0x1/zz")], "is not a mark"),
        ([rule(table="nowhere")], "no routing table nowhere"),
    ],
)
def test_rules_that_are_wrong(rules: list[Any], words: str) -> None:
    (found,) = problems(red=box(rules=rules))
    assert words in found.what
