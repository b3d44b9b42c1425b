"""What is wrong with a lab, or with a lab on this host: said with its place, all at once."""

from __future__ import annotations

from ipaddress import ip_network
from typing import Any

import pytest
from support.topologies import at, box, bridge, end, inside, lab, link, problems, red_blue, via, wire

from netns_orch import graph
from netns_orch.errors import LabFileError, NetorchError
from netns_orch.graph import Wiring, room
from netns_orch.labfile.model import (
    Addressing,
    Command,
    Impairment,
    Namespaces,
    PortVlan,
    Resources,
    Topology,
)
from netns_orch.resources import Capacity, HostFacts

# -- checks: errors ------------------------------------------------------------------------------

CASES: dict[str, tuple[Topology, str, tuple[int, int], str]] = {
    "unknown end": (
        lab(link("redd", "br0"), br0=bridge("10.0.0.1/24"), red=box()),
        "there is no container or bridge redd",
        (1000, 5),
        "did you mean red?",
    ),
    "both ends at one container": (
        lab(link("red", "red"), red=box()),
        "both ends of the link are at container red",
        (1000, 1),
        "",
    ),
    "both ends at one bridge": (
        lab(link("lan", "lan"), lan=bridge()),
        "both ends of the link are at bridge lan",
        (1000, 1),
        "",
    ),
    "container and host interface": (
        lab(link("red", "host:eth0"), red=box()),
        "can only be plugged into a bridge",
        (1000, 1),
        "red and host:eth0",
    ),
    "host interface without name": (
        lab(link("lan", "host"), lan=bridge()),
        "which of the host's interfaces",
        (1000, 9),
        "host:enp3s0",
    ),
    "host interface twice": (
        lab(link("lan", "host:eth0"), link("host:eth0", "lan2"), lan=bridge(), lan2=bridge()),
        "host:eth0 is already plugged into bridge lan",
        (1001, 5),
        "",
    ),
    "address at a bridge's end": (
        lab(link("red", end("lan", "10.0.0.1/24")), lan=bridge(), red=box()),
        "an end at bridge lan has no address",
        (1000, 9),
        "bridges.lan",
    ),
    "vlan at a container's end": (
        lab(link(end("red", vlan=PortVlan(access=10)), "lan"), lan=bridge(), red=box()),
        "VLANs are those of a bridge's port",
        (1000, 5),
        "bridge's end",
    ),
    "interface name twice": (
        lab(link("red:wan", "lan"), link("red:wan", "lan"), lan=bridge(), red=box()),
        "red has two interfaces of the name wan",
        (1001, 5),
        "",
    ),
    "interface made inside has a cable's name": (
        lab(link("red:d", "lan"), lan=bridge(), red=box(interfaces=[inside("d", "dummy", where=at(60))])),
        "red has two interfaces of the name d",
        (1000, 5),
        "",
    ),
    "unknown parent": (
        lab(
            link("red", "lan"),
            lan=bridge(),
            red=box(interfaces=[inside("v", "vlan", parent="eht0", id=1, where=at(60))]),
        ),
        "red has no interface eht0",
        (60, 1),
        "did you mean eth0?",
    ),
    "interfaces in a circle": (
        lab(
            red=box(
                interfaces=[
                    inside("x", "vlan", parent="y", id=1, where=at(60)),
                    inside("y", "vlan", parent="x", id=1, where=at(60)),
                ]
            )
        ),
        "interfaces stand on one another",
        (60, 1),
        "",
    ),
    "the same address twice": (
        lab(
            link(end("red", "10.0.0.7/24"), "br0"),
            link(end("blue", "10.0.0.7/24"), "br0"),
            br0=bridge("10.0.0.1/24"),
            red=box(),
            blue=box(),
        ),
        "the address 10.0.0.7 of blue:eth0 is also that of red:eth0 (lab.yaml:1000:5)",
        (1001, 5),
        "",
    ),
    "the bridge's address": (
        lab(link(end("red", "10.0.0.1/24"), "br0"), br0=bridge("10.0.0.1/24"), red=box()),
        "the address 10.0.0.1 of red:eth0 is also that of bridge br0",
        (1000, 5),
        "",
    ),
    "the same address over joined bridges": (
        lab(
            link("one", "two"),
            link(end("red", "10.0.0.7/24"), "one"),
            link(end("blue", "10.0.0.7/24"), "two"),
            one=bridge(),
            two=bridge(),
            red=box(),
            blue=box(),
        ),
        "the address 10.0.0.7 of blue:eth0",
        (1002, 5),
        "",
    ),
    "the same address on a straight cable": (
        lab(link(end("red", "10.0.0.7/24"), end("blue", "10.0.0.7/24")), red=box(), blue=box()),
        "the address 10.0.0.7 of blue:eth0",
        (1000, 9),
        "",
    ),
    "the same MAC twice": (
        lab(
            link(end("red", mac="02:00:00:00:00:01"), "lan"),
            link(end("blue", mac="02:00:00:00:00:01"), "lan"),
            lan=bridge(),
            red=box(),
            blue=box(),
        ),
        "the MAC address 02:00:00:00:00:01 of blue:eth0 is also that of red:eth0",
        (1001, 5),
        "",
    ),
    "a group MAC": (
        lab(link(end("red", mac="03:00:00:00:00:01"), "lan"), lan=bridge(), red=box()),
        "is not an address that one interface can have",
        (1000, 5),
        "even",
    ),
    "a loopback address on a cable": (
        lab(link(end("red", "127.0.0.2/8"), "lan"), lan=bridge(), red=box()),
        "127.0.0.2/8 is a loopback address",
        (1000, 5),
        "",
    ),
    "::1 on a bridge": (
        lab(link("red", "br0"), br0=bridge("::1/64"), red=box()),
        "::1/64 is a loopback address",
        (10, 1),
        "",
    ),
    "outside the bridge's subnet": (
        lab(link(end("red", "10.1.0.7/24"), "br0"), br0=bridge("10.0.0.1/24"), red=box()),
        "10.1.0.7/24 is outside the subnet of bridge br0",
        (1000, 5),
        "10.0.0.0/24",
    ),
    "outside the link's subnet": (
        lab(link(end("red", "10.1.0.7/24"), "blue", subnet="10.4.0.0/30"), red=box(), blue=box()),
        "10.1.0.7/24 is outside the subnet of the link",
        (1000, 5),
        "10.4.0.0/30",
    ),
    "network address": (
        lab(link(end("red", "10.0.0.0/24"), "lan"), lan=bridge(), red=box()),
        "10.0.0.0/24 is the network address of 10.0.0.0/24",
        (1000, 5),
        "",
    ),
    "broadcast address": (
        lab(br0=bridge("10.0.0.255/24")),
        "10.0.0.255/24 is the broadcast address",
        (10, 1),
        "",
    ),
    "group address": (
        lab(link(end("red", "ff02::5/64"), "lan"), lan=bridge(), red=box()),
        "ff02::5/64 is not an address",
        (1000, 5),
        "",
    ),
    "subnet is full": (
        lab(
            *(link(name, "br0") for name in "abc"),
            br0=bridge("10.0.0.1/30"),
            **{name: box() for name in "ab"},
            c=box(default_route=False),
        ),
        "no address of 10.0.0.0/30 is left for b:eth0",
        (1001, 5),
        "wider",
    ),
    "no more cables in p2p": (
        lab(
            link("a", "b"),
            link("a", "b"),
            addressing=Addressing(p2p=ip_network("10.255.0.0/31")),
            a=box(),
            b=box(),
        ),
        "addressing.p2p 10.255.0.0/31 has no /31 left",
        (1001, 5),
        "",
    ),
    "no more loopbacks": (
        lab(
            addressing=Addressing(loopback=ip_network("192.0.2.1/32")), a=box(router=True), b=box(router=True)
        ),
        "addressing.loopback 192.0.2.1/32 has no address left for b",
        (101, 1),
        "",
    ),
    "gateway is no container": (
        lab(link("red", "dmz"), dmz=bridge(subnet="10.2.0.0/24", gateway="rde"), red=box()),
        "the gateway rde of bridge dmz is no container",
        (10, 1),
        "did you mean red?",
    ),
    "gateway is not on the bridge": (
        lab(
            link("red", "dmz"),
            dmz=bridge(subnet="10.2.0.0/24", gateway="fw"),
            red=box(),
            fw=box(namespaces=Namespaces(net="red")),
        ),
        "the gateway fw of bridge dmz has no link to it",
        (10, 1),
        "add [fw, dmz]",
    ),
    "gateway without address": (
        lab(link("fw", "dmz", no_address=True), dmz=bridge(subnet="10.2.0.0/24", gateway="fw"), fw=box()),
        "the gateway fw has no address on bridge dmz",
        (10, 1),
        "",
    ),
    "two bridges in one subnet": (
        lab(one=bridge("10.0.0.1/24"), two=bridge("10.0.0.2/16")),
        "the subnet 10.0.0.0/16 of bridge two overlaps that of bridge one",
        (11, 1),
        "subnet",
    ),
    "forward without address": (
        lab(lan=bridge(forward="nat")),
        "bridge lan has no address, and can't forward",
        (10, 1),
        "address",
    ),
    "bridge name too long": (
        lab(lan=bridge(ifname="a" * 16)),
        "has at most 15",
        (10, 1),
        "",
    ),
    "bridge name twice": (
        lab(one=bridge(ifname="br9"), two=bridge(ifname="br9")),
        "another bridge",
        (11, 1),
        "",
    ),
    "unknown dependency": (
        lab(red=box(depends_on=["blu"]), blue=box()),
        "there is no container blu",
        (100, 1),
        "did you mean blue?",
    ),
    "circle of dependencies": (
        lab(a=box(depends_on=["b"]), b=box(depends_on=["c"]), c=box(depends_on=["a"])),
        "containers wait for one another: ",
        (0, 0),
        "",
    ),
    "depends on itself": (
        lab(a=box(depends_on=["a"])),
        "containers wait for one another: a -> a",
        (100, 1),
        "",
    ),
    "pod of nobody": (
        lab(red=box(), a=box(namespaces=Namespaces(net="rd"))),
        "there is no container rd",
        (101, 1),
        "did you mean red?",
    ),
    "pod member with a link": (
        lab(
            link("red", "lan"),
            link("a", "lan"),
            lan=bridge(),
            red=box(),
            a=box(namespaces=Namespaces(net="red")),
        ),
        "a shares the network of red, and can have no link",
        (1001, 5),
        "write red",
    ),
    "pod member with routes": (
        lab(red=box(), a=box(namespaces=Namespaces(net="red"), routes=[via("default", "10.0.0.1")])),
        "a shares the network of red, and can have no `routes`",
        (101, 1),
        "containers.red",
    ),
    "IPv6 on a small MTU": (
        lab(link(end("red", "fd00::2/64"), "blue", mtu=1000), red=box(), blue=box()),
        "IPv6 needs an MTU of at least 1280",
        (1000, 1),
        "",
    ),
    "bad name": (lab(**{"../etc": box()}), "'../etc' is not a name for a container", (100, 1), "letters"),
    "host as a name": (
        lab(**{"hosts": box()}, **{"red": bridge()}, name="bad name"),
        "'bad name'",
        (0, 0),
        "",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_what_is_wrong_is_said_with_its_place(case: str) -> None:
    topology, words, (line, column), hint = CASES[case]
    with pytest.raises(LabFileError) as caught:
        graph.wire(topology)
    found = caught.value.problems[0]
    assert words in found.what
    assert hint in (found.hint or "")
    if line:
        assert found.where is not None
        assert found.where[1:3] == (line, column)


def test_a_circle_of_pods_is_reported() -> None:
    found = problems(a=box(namespaces=Namespaces(net="b")), b=box(namespaces=Namespaces(net="a")))
    assert "share their network in a circle: a -> b -> a" in found[0].what


def test_a_name_can_not_be_a_container_and_a_bridge() -> None:
    topology = lab(red=box())
    topology.bridges["red"] = bridge()
    topology.bridges["red"].name = "red"
    with pytest.raises(LabFileError, match="red is the name of a container and of a bridge"):
        graph.wire(topology)


def test_all_problems_come_at_once_in_file_order() -> None:
    found = problems(
        link("nobody", "br0"),
        link(end("red", "10.9.0.7/24"), "br0"),
        link("red:eth%d", "br0"),
        br0=bridge("10.0.0.1/24"),
        red=box(depends_on=["nothing"], routes=[via("nonsense", where=at(40))]),
    )
    lines = [problem.where.line for problem in found if problem.where]
    assert len(found) == 5 and lines == sorted(lines)


def test_what_follows_from_a_wrong_link_is_not_reported_too() -> None:
    found = problems(
        link("red", "br1"), br0=bridge("10.0.0.1/24"), red=box(routes=[via("10.9.0.0/16", "10.0.0.9")])
    )
    assert [problem.what for problem in found] == ["there is no container or bridge br1"]


def test_a_bridge_has_at_most_1023_ports() -> None:
    boxes = {f"h{n}": box() for n in range(1024)}
    fits = lab(*(link(name, "lan") for name in list(boxes)[:1023]), lan=bridge(), **boxes)
    assert len(graph.wire(fits).bridges["lan"].ports) == 1023
    (found,) = problems(*(link(name, "lan") for name in boxes), lan=bridge(), **boxes)
    assert "has 1024 ports; the kernel allows 1023" in found.what and found.where == at(2023)


# -- segments ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("first", "second", "clash"),
    [
        (PortVlan(access=10), PortVlan(access=20), False),
        (PortVlan(access=10), PortVlan(access=10), True),
        (None, PortVlan(access=10), False),
        (None, PortVlan(access=1), True),
        (None, PortVlan(trunk=[10], native=1), True),
    ],
)
def test_the_same_address_in_two_vlans_is_no_clash(
    first: PortVlan | None, second: PortVlan | None, clash: bool
) -> None:
    topology = lab(
        link(end("red", "10.0.0.7/24"), end("lan", vlan=first)),
        link(end("blue", "10.0.0.7/24"), end("lan", vlan=second)),
        lan=bridge(),
        red=box(),
        blue=box(),
    )
    if clash:
        with pytest.raises(LabFileError, match="also that of"):
            graph.wire(topology)
    else:
        assert graph.wire(topology).bridges["lan"].vlan_filtering


def test_a_tagged_interface_is_in_the_segment_of_its_vlan() -> None:
    wiring = wire(
        link("router", end("lan", vlan=PortVlan(trunk=[10]))),
        link(end("pc", "10.10.0.2/24"), end("lan", vlan=PortVlan(access=10))),
        lan=bridge(),
        pc=box(),
        router=box(interfaces=[inside("eth0.10", "vlan", "10.10.0.1/24", parent="eth0", id=10)]),
    )
    assert wiring.virtual["router"][0].segment == wiring.ends["pc"][0].segment
    assert wiring.address_of("router", from_="pc") == "10.10.0.1"


def test_interfaces_inside_come_after_what_they_stand_on() -> None:
    made = [
        inside("v", "vlan", parent="bond0", id=5),
        inside("bond0", "bond", members=["eth0", "eth1"]),
        inside("blue", "vrf", members=["v"], table=10),
    ]
    wiring = wire(link("red", "lan"), link("red", "lan"), lan=bridge(), red=box(interfaces=made))
    assert [virtual.ifname for virtual in wiring.virtual["red"]] == ["bond0", "v", "blue"]


def test_a_bridge_inside_a_container_joins_its_segments() -> None:
    with pytest.raises(LabFileError, match=r"the address 10\.0\.0\.7"):
        wire(
            link(end("red", "10.0.0.7/24"), "sw"),
            link(end("blue", "10.0.0.7/24"), "sw"),
            red=box(),
            blue=box(),
            sw=box(interfaces=[inside("br", "bridge", members=["eth0", "eth1"])]),
        )


# -- checks: warnings ----------------------------------------------------------------------------


def warnings(*links: Any, **more: Any) -> list[str]:
    return [warning.what for warning in wire(*links, **more).warnings]


def test_a_loop_without_stp_is_warned_of_at_the_link_that_closes_it() -> None:
    three = {name: bridge() for name in "abc"}
    wiring = wire(link("a", "b"), link("b", "c"), link("c", "a"), **three)
    (found,) = wiring.warnings
    assert "closes a layer 2 loop" in found.what and found.where == at(1002)


@pytest.mark.parametrize(
    ("links", "stp"),
    [
        ([("a", "b"), ("b", "c"), ("c", "a")], "b"),
        ([("a", "b"), ("a", "b")], "a"),
        ([("a", "b"), ("b", "c")], ""),
    ],
)
def test_stp_on_a_bridge_of_the_loop_or_no_loop_is_no_warning(links: list[tuple[str, str]], stp: str) -> None:
    assert not warnings(*(link(*pair) for pair in links), **{n: bridge(stp=n == stp) for n in "abc"})


def test_two_cables_between_two_bridges_are_a_loop() -> None:
    assert len(warnings(link("a", "b"), link("a", "b"), a=bridge(), b=bridge())) == 1


def test_mtu_mismatch_is_warned_of() -> None:
    found = warnings(link("red", "lan", mtu=9000), lan=bridge(), red=box())
    assert found == ["the link's MTU 9000 is not that of bridge lan, 1500"]
    assert not warnings(link("red", "lan"), lan=bridge(mtu=9000), red=box())


def test_ends_of_a_straight_cable_in_different_subnets_are_warned_of() -> None:
    def between(a: str, b: str) -> list[str]:
        return warnings(link(end("red", a), end("blue", b)), red=box(), blue=box())

    assert between("10.0.0.1/24", "10.0.1.2/24") == [
        "10.0.0.1/24 and 10.0.1.2/24 at the ends of one cable are in different subnets"
    ]
    assert len(between("fd00::1/64", "fd01::2/64")) == 1
    assert not between("10.0.0.1/16", "10.0.1.2/24")
    assert not between("10.0.0.1/32", "10.0.1.2/32")
    assert not between("10.0.0.1/24", "fd00::2/64")


def test_a_container_that_nothing_reaches_is_warned_of() -> None:
    found = warnings(
        link("red", "lan"), lan=bridge(), red=box(), blue=box(), a=box(namespaces=Namespaces(net="red"))
    )
    assert found == ["nothing reaches blue: it has no link"]
    assert not warnings(red=box())


# -- this host -----------------------------------------------------------------------------------

ALL = frozenset(
    {
        *("netem", "tbf", "vlan", "vxlan", "bond", "vrf", "dummy", "macvlan", "bridge", "veth", "wireguard"),
        "vlan-filter",
        *("ipv6", "nft", "iptables", "ip6tables", "overlay", "user-namespace", "time-namespace"),
        *(f"cgroup:{controller}" for controller in ("cpu", "cpuset", "memory", "memory:v2", "pids", "io")),
    }
)


def on_host(wiring: Wiring, **facts: Any) -> tuple[list[NetorchError], list[NetorchError]]:
    return graph.check_host(wiring, HostFacts(**{"features": ALL, **facts}))


def test_a_lab_that_fits_has_no_problem() -> None:
    assert on_host(red_blue(), interfaces=("lo", "enp3s0"), subnets=(("enp3s0", "192.168.1.0/24"),)) == (
        [],
        [],
    )


def room_for(count: int, up: int = 0, **capacity: Any) -> tuple[list[NetorchError], list[NetorchError]]:
    """What is said of this many containers on one switch, every other with a command."""
    command = Command(where=at(1), argv=["true"])
    boxes = {f"h{n}": box(command=command if n % 2 else None) for n in range(1, count + 1)}
    wiring = wire(*(link(name, "lan") for name in boxes), lan=bridge(), **boxes)
    return on_host(wiring, capacity=Capacity(**capacity), containers=up)


@pytest.mark.parametrize(
    ("capacity", "words", "hint"),
    [
        ({"processes": {"kernel.pid_max": 40}, "running": 28}, "kernel.pid_max is 40, and 28", "=64"),
        ({"namespaces": {"user.max_net_namespaces": 8}}, "user.max_net_namespaces is 8", "=32"),
        ({"memory": 8 * room.MEMORY_EACH + 1}, "16 MiB of memory are free", "a larger host"),
    ],
)
def test_no_room_is_said_at_the_first_container_too_many(
    capacity: dict[str, Any], words: str, hint: str
) -> None:
    (found,), _ = room_for(10, **capacity)
    assert found.what.startswith(f"there is room for 8 of 10 containers on this host: {words}")
    assert found.where == at(108) and hint in (found.hint or "")
    assert room_for(8, **capacity)[0] == []


def test_bridges_alone_need_no_room() -> None:
    assert room_for(0, processes={"kernel.pid_max": 1}, running=9, memory=0) == ([], [])


def test_containers_that_are_up_have_their_room() -> None:
    full = {"memory": 2 * room.MEMORY_EACH, "processes": {"kernel.pid_max": 40}, "running": 37}
    assert room_for(10, up=8, **full)[0] == []
    assert len(room_for(10, **full)[0]) == 2


def test_more_neighbours_than_the_kernel_keeps_are_a_warning() -> None:
    (found,) = room_for(10, neighbours=19)[1]
    assert found.what.startswith("10 containers may have more neighbours at once than the kernel keeps, 19")
    assert found.hint == "sysctl -w net.ipv4.neigh.default.gc_thresh3=128"
    assert room_for(10, neighbours=20)[1] == []


@pytest.mark.parametrize("prefix", ["10.0.0.0/24", "10.0.0.0/8", "10.0.0.128/25"])
def test_a_clash_with_a_subnet_of_the_host_names_the_way_out(prefix: str) -> None:
    (found,), _ = on_host(red_blue(), subnets=(("tun0", prefix),))
    assert found.what == (
        f"the subnet 10.0.0.0/24 of bridge br0 clashes with {prefix}, which is on link of the host's tun0"
    )
    assert "--private" in (found.hint or "") and found.where == at(10)


def test_a_subnet_of_a_switch_can_not_clash() -> None:
    wiring = wire(link("red", "dmz"), dmz=bridge(subnet="10.0.0.0/24"), red=box())
    assert on_host(wiring, subnets=(("tun0", "10.0.0.0/24"),)) == ([], [])


def test_a_broader_route_of_the_host_is_a_warning_the_default_route_is_not() -> None:
    errors, found = on_host(red_blue(), routes=(("tun0", "10.0.0.0/8"), ("eth0", "0.0.0.0/0")))
    assert not errors
    assert [w.what for w in found] == [
        "the subnet 10.0.0.0/24 of bridge br0 is inside 10.0.0.0/8, which the host reaches by tun0"
    ]


def test_a_taken_name_and_a_missing_interface_are_errors() -> None:
    wiring = wire(link("lan", "host:enp3s1"), lan=bridge())
    errors, _ = on_host(wiring, interfaces=("lo", "lab-lan", "enp3s0"))
    assert [error.what for error in errors] == [
        "the host has an interface lab-lan already, the name of bridge lan",
        "the host has no interface enp3s1",
    ]
    assert errors[1].hint == "did you mean enp3s0?"


@pytest.mark.parametrize(
    ("feature", "topology"),
    [
        ("netem", lab(link(end("a", impairment=Impairment(delay=0.01)), "b"), a=box(), b=box())),
        ("netem", lab(link(end("a", impairment=Impairment(rate=1, loss=1.0)), "b"), a=box(), b=box())),
        ("tbf", lab(link(end("a", impairment=Impairment(rate=1000)), "b"), a=box(), b=box())),
        ("tbf", lab(link(end("a", impairment=Impairment(rate=9, limit=5)), "b"), a=box(), b=box())),
        ("vlan", lab(link("a", "b"), a=box(interfaces=[inside("v", "vlan", parent="eth0", id=5)]), b=box())),
        ("vlan-filter", lab(link("a", end("sw", vlan=PortVlan(access=10))), a=box(), sw=bridge())),
        ("nft", lab(br0=bridge("10.0.0.1/24"))),
        ("nft", lab(a=box(nftables="table inet t { }"))),
        ("cgroup:memory", lab(a=box(resources=Resources(swap=0)))),
        ("cgroup:cpu", lab(a=box(resources=Resources(cpu_weight=5)))),
        ("cgroup:pids", lab(a=box(resources=Resources(pids=64)))),
        ("user-namespace", lab(a=box(nesting=True))),
        ("time-namespace", lab(a=box(namespaces=Namespaces(time_boottime=5.0)))),
        ("ipv6", lab(br0=bridge("fd00::1/64"))),
        ("veth", lab(link("a", "b"), a=box(), b=box())),
        ("overlay", lab(a=box())),
    ],
)
def test_a_missing_feature_is_found_before_anything_is_built(feature: str, topology: Topology) -> None:
    wiring = graph.wire(topology)
    assert feature in graph.features_needed(wiring)
    errors, _ = on_host(wiring, features=ALL - {feature})
    (found,) = errors
    assert feature in found.what and found.hint
    assert on_host(wiring) == ([], [])


def test_memory_high_needs_version_2_and_is_named_once_where_memory_is_missing_at_all() -> None:
    wiring = graph.wire(lab(a=box(resources=Resources(memory_high=5))))
    ((on_v1,), _) = on_host(wiring, features=ALL - {"cgroup:memory:v2"})
    assert on_v1.what == (
        "`memory_high` is there on cgroup v2 only, and this host's memory controller is on v1"
    )
    ((without,), _) = on_host(wiring, features=ALL - {"cgroup:memory", "cgroup:memory:v2"})
    assert "this host lacks cgroup:memory" in without.what
    assert on_host(wiring) == ([], [])


def test_rate_alone_needs_no_netem() -> None:
    wiring = wire(link(end("a", impairment=Impairment(rate=1000)), "b"), a=box(), b=box())
    assert "netem" not in graph.features_needed(wiring)
