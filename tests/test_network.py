"""A lab's network on the real kernel: made, read back equal, changed in place, taken away."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from support import view
from support.outer import TestHost
from support.waiting import until

from netns_orch import plan
from netns_orch.errors import KernelError, MissingFeature, Where
from netns_orch.kernel import hostlinks, namespaces
from netns_orch.kernel.netobserve import FALLBACKS, host_facts_links, observe, stats
from netns_orch.kernel.nets import Nets, read_sysctl
from netns_orch.kernel.network import apply
from netns_orch.records import replace
from netns_orch.resources import (
    GROUP_FIRST,
    HOST,
    Address,
    Bridge,
    Cable,
    CableEnd,
    Hop,
    HostPort,
    Qdisc,
    Resource,
    Route,
    Rule,
    State,
    Sysctl,
    VirtualInterface,
)

pytestmark = [pytest.mark.kernel, view.IN_PROCESS]
GROUP = GROUP_FIRST + 0x77
LAB, ID = "lab", "abc"
WHERE = Where("lab.yaml", 9, 14)


class Lab:
    """Nodes that are processes in network namespaces, and the way through observe, diff and apply."""

    def __init__(self, *names: str) -> None:
        self.record: dict[str, Any] = {}
        self.applied = State()
        self.processes = {name: subprocess.Popen(["unshare", "-n", "sleep", "600"]) for name in names}
        own = os.stat("/proc/self/ns/net").st_ino
        for process in self.processes.values():
            path = f"/proc/{process.pid}/ns/net"
            until(partial(_is_another, path, own), f"a network namespace of {process.pid}")
        self.nets = Nets({name: process.pid for name, process in self.processes.items()})

    def close(self) -> None:
        """Take all of the lab away, and end its nodes."""
        hostlinks.delete_group(lab=LAB, id=ID, group=GROUP)
        for process in self.processes.values():
            process.kill()
            process.wait()

    def observe(self, *desired: Resource) -> State:
        """What is there."""
        return State(*observe(self.nets, State(desired), lab=LAB, id=ID, applied=self.applied))

    def apply(self, *changes: tuple[Resource | None, Resource | None]) -> None:
        """Make changes."""
        resources = [after for _, after in changes] + [before for before, _ in changes]
        bridges = {r.name: r.ifname for r in (*self.applied.values(), *resources) if isinstance(r, Bridge)}
        apply(self.nets, changes, lab=LAB, id=ID, group=GROUP, bridges=bridges, record=self.record)

    def converge(self, *desired: Resource) -> list[str]:
        """Bring the kernel to ``desired``; the lines of the plan.  Nothing differs afterwards."""
        wanted = State(desired)
        changes = plan.diff(wanted, self.observe(*desired))
        self.apply(*[(change.before, change.after) for change in changes.changes])
        self.applied = wanted
        left = plan.diff(wanted, self.observe(*desired))
        assert left.lines() == [], left.lines()
        return changes.lines()

    def inside(self, node: str, *argv: str, check: bool = True) -> str:
        """Run a command in a node's network namespace; its output."""
        return run("nsenter", "-t", str(self.processes[node].pid), "-n", *argv, check=check)

    def links(self, node: str) -> dict[str, Any]:
        """ip -j -d link of a node, by name."""
        text = self.inside(node, "ip", "-j", "-d", "link")
        return {link["ifname"]: link for link in json.loads(text)}

    def pings(self, node: str, address: str) -> bool:
        """Whether the very first packet is answered."""
        argv = ("nsenter", "-t", str(self.processes[node].pid), "-n", "ping", "-c1", "-W1", address)
        return subprocess.run(argv, capture_output=True, check=False).returncode == 0


def run(*argv: str, check: bool = True) -> str:
    return subprocess.run(argv, capture_output=True, text=True, check=check).stdout


def _is_another(path: str, own: int) -> bool:
    return os.stat(path).st_ino != own


def host_links() -> dict[str, Any]:
    return {link["ifname"]: link for link in json.loads(run("ip", "-j", "-d", "link"))}


@pytest.fixture
def lab(host: TestHost) -> Iterator[Callable[..., Lab]]:
    """Makes a lab of nodes."""
    made: list[Lab] = []

    def make(*names: str) -> Lab:
        made.append(Lab(*names))
        return made[-1]

    yield make
    for each in made:
        each.close()


BR0 = Bridge(name="br0", ifname="t-br0", mac="02:00:00:00:00:01", where=WHERE)
BR1 = Bridge(name="br1", ifname="t-br1", mac="02:00:00:00:00:02")


def to_bridge(node: str, number: int, bridge: str = "br0", **end: Any) -> Cable:
    inside = CableEnd(node=node, ifname="eth0", mac=f"02:00:00:00:01:{number:02x}")
    port = CableEnd(node=HOST, ifname=f"t-{node}", mac=f"02:00:00:00:02:{number:02x}", bridge=bridge, **end)
    return Cable(a=inside, b=port, where=WHERE)


def straight(a: str = "red", b: str = "blue") -> Cable:
    return Cable(
        a=CableEnd(node=a, ifname="eth1", mac="02:00:00:00:03:01"),
        b=CableEnd(node=b, ifname="eth1", mac="02:00:00:00:03:02"),
    )


def address(node: str, ifname: str, cidr: str) -> Address:
    return Address(owner=node, ifname=ifname, cidr=cidr, where=WHERE)


def default(node: str, via: str, dev: str = "eth0") -> Route:
    if ":" in via:
        return Route(owner=node, family=6, dst="::/0", metric=1024, hops=(Hop(via=via, dev=dev),))
    return Route(owner=node, family=4, dst="0.0.0.0/0", hops=(Hop(via=via, dev=dev),), where=WHERE)


def small(*extra: Resource) -> list[Resource]:
    """Two containers on an addressed bridge."""
    return [
        BR0,
        address(HOST, "t-br0", "10.77.0.1/24"),
        to_bridge("red", 1),
        to_bridge("blue", 2),
        address("red", "eth0", "10.77.0.2/24"),
        address("blue", "eth0", "10.77.0.3/24"),
        default("red", "10.77.0.1"),
        *extra,
    ]


# -- made, and read back -------------------------------------------------------------------------------


def test_the_first_packet_passes_and_all_is_as_asked(lab: Callable[..., Lab]) -> None:
    here = lab("red", "blue")
    wanted = small(
        straight(),
        address("red", "eth1", "fd00:7::1/64"),
        address("blue", "eth1", "fd00:7::2/64"),
        default("blue", "fd00:7::1", "eth1"),
    )
    before = os.stat("/proc/self/ns/net").st_ino
    here.apply(*[(None, resource) for resource in wanted])
    assert here.pings("red", "10.77.0.3")
    assert here.pings("blue", "fd00:7::1")
    assert run("ping", "-c1", "-W1", "10.77.0.2")
    assert os.stat("/proc/self/ns/net").st_ino == before
    state = here.observe(*wanted)
    assert dict(state) == dict(State(wanted))
    assert state.extra == {}
    assert set(here.links("red")) - FALLBACKS == {"lo", "eth0", "eth1"}
    assert {link["operstate"] for name, link in here.links("red").items() if name.startswith("eth")} == {"UP"}
    assert here.converge(*wanted) == []


def test_a_bridge_keeps_its_mac_and_mtu_whatever_its_ports_have(lab: Callable[..., Lab]) -> None:
    here = lab("red")
    here.converge(BR0, replace(to_bridge("red", 1), mtu=9000))
    bridge = host_links()["t-br0"]
    assert (bridge["address"], bridge["mtu"]) == (BR0.mac, 1500)
    assert host_links()["t-red"]["mtu"] == here.links("red")["eth0"]["mtu"] == 9000
    assert here.converge(replace(BR0, mtu=9000), replace(to_bridge("red", 1), mtu=9000))
    assert host_links()["t-br0"]["mtu"] == 9000


def test_a_cable_too_small_for_ipv6(lab: Callable[..., Lab]) -> None:
    here = lab("red", "blue")
    tiny = [replace(r, mtu=1000) if isinstance(r, (Cable, Bridge)) else r for r in small()]
    here.converge(*tiny)
    assert here.pings("red", "10.77.0.3")
    here.converge(*small())
    assert "fe80" not in here.inside("red", "ip", "-6", "addr") + run(
        "ip", "-6", "addr", "show", "dev", "t-br0"
    )


def test_no_link_local_address_unless_asked(lab: Callable[..., Lab]) -> None:
    here = lab("red", "blue")
    with_one = replace(straight(), a=replace(straight().a, link_local=True))
    here.converge(with_one)
    assert "fe80" in here.inside("red", "ip", "-6", "addr", "show", "dev", "eth1")
    assert "fe80" not in here.inside("blue", "ip", "-6", "addr", "show", "dev", "eth1")
    here.converge(replace(straight(), b=replace(straight().b, link_local=True)))
    assert "fe80" not in here.inside("red", "ip", "-6", "addr", "show", "dev", "eth1")
    assert "fe80" in here.inside("blue", "ip", "-6", "addr", "show", "dev", "eth1")


def test_routes_of_every_kind_come_back_equal(lab: Callable[..., Lab]) -> None:
    here = lab("red", "blue")
    four, six = "10.9.0.0/16", "fd00:9::/48"
    routes: list[Resource] = [
        Route(owner="red", family=4, dst=four, metric=50, hops=(Hop(via="10.77.0.3", dev="eth0"),)),
        Route(owner="red", family=4, dst=four, table=100, hops=(Hop(dev="eth0"),), src="10.77.0.2", mtu=1400),
        Route(owner="red", family=4, dst="10.10.0.0/16", type="blackhole"),
        Route(owner="red", family=4, dst="10.11.0.0/16", type="unreachable", table=1000),
        Route(
            owner="red", family=4, dst="10.12.0.0/16", hops=(Hop(via="172.16.0.1", dev="eth0"),), onlink=True
        ),
        Route(
            owner="red",
            family=4,
            dst="10.13.0.0/16",
            hops=(Hop(via="10.77.0.3", dev="eth0", weight=2), Hop(via="10.77.0.4", dev="eth0")),
        ),
        Route(owner="red", family=6, dst=six, metric=1024, type="prohibit"),
        Route(
            owner="red",
            family=6,
            dst="fd00:a::/64",
            metric=1024,
            hops=(Hop(via="fd00:7::2", dev="eth1"), Hop(via="fd00:7::3", dev="eth1")),
        ),
        Route(
            owner="red",
            family=4,
            dst="10.14.0.0/16",
            scope="global",
            hops=(Hop(via="10.77.0.3", dev="eth0"),),
        ),
    ]
    wanted = small(straight(), address("red", "eth1", "fd00:7::1/64"), *routes)
    here.converge(*wanted)
    first = routes[0]
    assert isinstance(first, Route)
    other = replace(first, hops=(Hop(via="10.77.0.9", dev="eth0"),))
    changed = [other if r is first else r for r in wanted]
    assert len(here.converge(*changed)) == 1
    assert "10.9.0.0/16 via 10.77.0.9" in here.inside("red", "ip", "route")


def test_rules_and_sysctls(lab: Callable[..., Lab]) -> None:
    here = lab("red", "blue")
    wanted = small(
        Rule(owner="red", family=4, priority=100, source="10.1.0.0/24", table=100),
        Rule(owner="red", family=4, priority=110, fwmark=1, fwmask=0xFFFFFFFF, table=1000),
        Rule(owner="red", family=6, priority=120, to="fd00:9::/48", action="unreachable", invert=True),
        Sysctl(container="red", name="net.ipv4.ip_forward", value="1"),
        Sysctl(container="red", name="net.ipv4.conf.eth0.rp_filter", value="2"),
        Sysctl(container="red", name="net.ipv4.ip_local_port_range", value="40000 50000"),
    )
    here.converge(*wanted)
    rules = here.inside("red", "ip", "rule")
    assert "100:\tfrom 10.1.0.0/24 lookup 100" in rules
    assert here.inside("red", "cat", "/proc/sys/net/ipv4/ip_forward") == "1\n"
    moved = [replace(r, table=200) if isinstance(r, Rule) and r.priority == 100 else r for r in wanted]
    assert len(here.converge(*moved)) == 1
    here.converge(*small())
    assert here.inside("red", "cat", "/proc/sys/net/ipv4/ip_forward") == "0\n"
    assert "10.1.0.0/24" not in here.inside("red", "ip", "rule")


# -- changed in place ------------------------------------------------------------------------------------


def test_a_changed_address_leaves_routes_and_other_addresses(lab: Callable[..., Lab]) -> None:
    here = lab("red", "blue")
    second = address("red", "eth0", "10.77.0.22/24")
    here.converge(*small(second))
    here.inside("red", "ip", "route", "add", "10.55.0.0/16", "via", "10.77.0.1", "proto", "bird")
    new = address("red", "eth0", "10.77.0.200/24")
    changed = [new if r.key == "address red:eth0 10.77.0.2/24" else r for r in small(second)]
    here.converge(*changed)
    assert "default via 10.77.0.1" in here.inside("red", "ip", "route")
    assert "10.55.0.0/16 via 10.77.0.1 dev eth0 proto bird" in here.inside("red", "ip", "route")
    assert here.pings("blue", "10.77.0.200")
    assert here.pings("blue", "10.77.0.22")
    # and where it was the only one, so that the kernel drops all routes of the interface with it
    here.converge(
        *[address("red", "eth0", "10.77.0.7/24") if r is new else r for r in changed if r is not second]
    )
    assert "default via 10.77.0.1" in here.inside("red", "ip", "route")


def test_a_cable_changes_in_place(lab: Callable[..., Lab]) -> None:
    here = lab("red", "blue")
    here.converge(*small(BR1))
    index = here.links("red")["eth0"]["ifindex"]
    old = to_bridge("red", 1)
    new = replace(old, mtu=1400, a=replace(old.a, mac="02:00:00:00:09:09"), offload=False)
    lines = here.converge(*[new if r == old else r for r in small(BR1)])
    assert len(lines) == 1
    link = here.links("red")["eth0"]
    assert (link["ifindex"], link["mtu"], link["address"]) == (index, 1400, "02:00:00:00:09:09")
    assert here.pings("red", "10.77.0.3")
    moved = replace(new, b=replace(new.b, bridge="br1", isolated=True))
    here.converge(*[moved if r == old else r for r in small(BR1)])
    assert host_links()["t-red"]["master"] == "t-br1"
    assert host_links()["t-red"]["linkinfo"]["info_slave_data"]["isolated"] is True
    assert not here.pings("red", "10.77.0.3")
    here.converge(*small(BR1))
    assert here.pings("red", "10.77.0.3")


def test_unplugged_at_the_bridge_the_container_loses_carrier(lab: Callable[..., Lab]) -> None:
    here = lab("red", "blue")
    here.converge(*small())
    down = [replace(r, up=False) if r == to_bridge("red", 1) else r for r in small()]
    assert len(here.converge(*down)) == 1
    flags = here.links("red")["eth0"]["flags"]
    assert "UP" in flags and "NO-CARRIER" in flags
    assert not here.pings("blue", "10.77.0.2")
    assert len(here.converge(*small())) == 1
    assert here.pings("red", "10.77.0.3")  # blue still waits for its own question to be answered


def test_a_straight_cable_taken_down_and_up_has_its_routes_again(lab: Callable[..., Lab]) -> None:
    here = lab("red", "blue")
    both = [
        address("red", "eth1", "10.78.0.1/24"),
        address("blue", "eth1", "10.78.0.2/24"),
        address("red", "eth1", "fd00:7::1/64"),
        address("blue", "eth1", "fd00:7::2/64"),
        default("red", "10.78.0.2", "eth1"),
        default("red", "fd00:7::2", "eth1"),
    ]
    here.converge(straight(), *both)
    here.converge(replace(straight(), up=False), *both)
    assert "UP" not in here.links("red")["eth1"]["flags"]
    assert "NO-CARRIER" in here.links("blue")["eth1"]["flags"]
    assert "default" not in here.inside("red", "ip", "route")
    here.converge(straight(), *both)
    assert "default via 10.78.0.2" in here.inside("red", "ip", "route")
    assert here.pings("red", "10.78.0.2")
    assert here.pings("blue", "fd00:7::1")


def test_a_cable_may_be_made_unplugged(lab: Callable[..., Lab]) -> None:
    here = lab("red", "blue")
    both = [
        address("red", "eth1", "10.78.0.1/24"),
        address("blue", "eth1", "10.78.0.2/24"),
        default("red", "10.78.0.2", "eth1"),
    ]
    here.converge(replace(straight(), up=False), *both)
    assert not here.pings("red", "10.78.0.2")
    here.converge(straight(), *both)
    assert here.pings("red", "10.78.0.2")


def test_a_bridge_is_renamed_and_changed(lab: Callable[..., Lab]) -> None:
    here = lab("red", "blue")
    here.converge(*small())
    index = host_links()["t-br0"]["ifindex"]
    new = replace(BR0, ifname="t-other", mac="02:00:00:00:00:99", multicast_snooping=True)
    wanted = [new, address(HOST, "t-other", "10.77.0.1/24"), *small()[2:]]
    here.converge(*wanted)
    assert host_links()["t-other"]["ifindex"] == index
    assert here.pings("red", "10.77.0.1")


def test_drift_by_hand_is_seen_and_healed(lab: Callable[..., Lab]) -> None:
    here = lab("red", "blue")
    here.converge(*small(straight()))
    here.inside("red", "ip", "link", "set", "eth0", "down")
    here.inside("blue", "ip", "link", "del", "eth1")
    run("ip", "link", "set", "t-blue", "nomaster")
    run("ip", "address", "del", "10.77.0.1/24", "dev", "t-br0")
    lines = here.converge(*small(straight()))
    assert any(line.startswith("+ cable red:eth1") for line in lines)
    assert any(line.startswith("~ cable red:eth0") for line in lines)
    assert any(line.startswith("+ route red 0.0.0.0/0") for line in lines)
    assert here.pings("red", "10.77.0.3")


# -- virtual interfaces -----------------------------------------------------------------------------------


def test_interfaces_inside_a_container(lab: Callable[..., Lab]) -> None:
    here = lab("red", "blue")
    inside: list[Resource] = [
        VirtualInterface(container="red", ifname="lan", kind="bridge", members=("vx0",)),
        VirtualInterface(
            container="red", ifname="vx0", kind="vxlan", id=7, parent="eth0", remote="10.77.0.3"
        ),
        VirtualInterface(
            container="blue", ifname="vx0", kind="vxlan", id=7, parent="eth0", remote="10.77.0.2"
        ),
        VirtualInterface(container="red", ifname="mv0", kind="macvlan", parent="eth0", mtu=1400),
        address("red", "lan", "10.79.0.1/24"),
        address("blue", "vx0", "10.79.0.2/24"),
        Route(owner="red", family=4, dst="10.80.0.0/16", hops=(Hop(via="10.79.0.2", dev="lan"),)),
    ]
    here.converge(*small(*inside))
    assert here.pings("red", "10.79.0.2")
    # a change that the kernel can't make in place keeps what stands on the interface
    anew = [replace(r, id=8) if isinstance(r, VirtualInterface) and r.kind == "vxlan" else r for r in inside]
    here.converge(*small(*anew))
    assert here.pings("red", "10.79.0.2")
    assert "10.80.0.0/16 via 10.79.0.2" in here.inside("red", "ip", "route")
    here.converge(*small())
    assert set(here.links("red")) - FALLBACKS == {"lo", "eth0"}


def test_what_stands_on_an_interface_made_anew_is_made_anew(lab: Callable[..., Lab]) -> None:
    here = lab("red", "blue")
    lower = VirtualInterface(
        container="red", ifname="vx0", kind="vxlan", id=7, parent="eth0", remote="10.77.0.3"
    )
    upper = VirtualInterface(container="red", ifname="mv0", kind="macvlan", parent="vx0")
    there = address("red", "mv0", "10.81.0.1/24")
    here.converge(*small(lower, upper, there))
    here.apply((lower, replace(lower, id=9)))
    left = plan.diff(State(small(replace(lower, id=9), upper, there)), here.observe(lower, upper))
    assert left.lines() == []


@pytest.mark.parametrize(("kind", "module"), [("vlan", "8021q"), ("bond", "bonding"), ("vrf", "vrf")])
def test_a_kind_this_kernel_lacks_names_the_module(lab: Callable[..., Lab], kind: str, module: str) -> None:
    here = lab("red", "blue")
    here.converge(*small())
    wanted = VirtualInterface(
        container="red", ifname="x0", kind=kind, where=WHERE, table=9, id=9,
        parent="eth0" if kind == "vlan" else None,
    )  # fmt: skip
    try:
        here.apply((None, wanted))
    except MissingFeature as error:
        assert error.where == WHERE
        assert error.hint is not None and f"modprobe {module}" in error.hint
    else:
        assert kind in here.inside("red", "ip", "-d", "link", "show", "x0")


def test_vlans_on_a_bond_in_a_vrf(lab: Callable[..., Lab]) -> None:
    here = lab("red", "blue")
    second = Cable(
        a=CableEnd(node="red", ifname="eth2", mac="02:00:00:00:04:01"),
        b=CableEnd(node="blue", ifname="eth2", mac="02:00:00:00:04:02"),
    )
    wanted: list[Resource] = [straight(), second]
    for number, node in enumerate(here.processes, 1):
        wanted += [
            VirtualInterface(container=node, ifname="tenant", kind="vrf", table=1000, members=("bond0.10",)),
            VirtualInterface(container=node, ifname="bond0.10", kind="vlan", id=10, parent="bond0"),
            VirtualInterface(
                container=node, ifname="bond0", kind="bond", mode="active-backup", members=("eth1", "eth2")
            ),
            address(node, "bond0.10", f"10.79.0.{number}/24"),
        ]
    here.converge(straight(), second)
    try:
        here.converge(*wanted)
    except MissingFeature as error:
        pytest.skip(error.what)
    assert here.inside("red", "ping", "-c1", "-W1", "-I", "bond0.10", "10.79.0.2")
    fewer = [
        replace(r, members=("eth1",)) if isinstance(r, VirtualInterface) and r.kind == "bond" else r
        for r in wanted
    ]
    here.converge(*fewer)
    assert here.inside("red", "ping", "-c1", "-W1", "-I", "bond0.10", "10.79.0.2")
    here.converge(straight(), second)


# -- impairment --------------------------------------------------------------------------------------------


def test_a_rate_works_also_without_netem(lab: Callable[..., Lab]) -> None:
    here = lab("red", "blue")
    slow = Qdisc(owner="red", ifname="eth0", rate=800_000)
    here.converge(*small(slow))
    seen = json.loads(here.inside("red", "tc", "-j", "qdisc", "show", "dev", "eth0"))
    assert seen[0]["kind"] in ("netem", "tbf")
    rate = seen[0]["options"]["rate"]
    assert (rate if isinstance(rate, int) else rate["rate"]) == 100_000  # bytes a second
    here.converge(*small(replace(slow, rate=1_600_000)))
    here.converge(*small())
    left = json.loads(here.inside("red", "tc", "-j", "qdisc", "show", "dev", "eth0"))
    assert [q["kind"] for q in left] == ["noqueue"]


def test_delay_without_netem_names_the_module(lab: Callable[..., Lab]) -> None:
    here = lab("red", "blue")
    here.converge(*small())
    late = Qdisc(owner="red", ifname="eth0", delay=0.02, where=WHERE)
    try:
        here.apply((None, late))
    except MissingFeature as error:
        assert error.hint is not None and "sch_netem" in error.hint
    else:
        assert here.observe(late)[late.key] == late


# -- errors ------------------------------------------------------------------------------------------------


def test_a_name_taken_on_the_host_is_named(lab: Callable[..., Lab]) -> None:
    here = lab("red", "blue")
    run("ip", "link", "add", "t-red", "type", "bridge")
    try:
        with pytest.raises(KernelError, match="t-red") as caught:
            here.apply(*[(None, resource) for resource in small()])
        assert (caught.value.errno, caught.value.where) == (errno.EEXIST, WHERE)
        with pytest.raises(KernelError, match="t-br0"):
            here.apply((None, BR0))
    finally:
        run("ip", "link", "del", "t-red")


def test_a_refused_route_is_blamed_with_the_kernels_words(lab: Callable[..., Lab]) -> None:
    here = lab("red", "blue")
    with pytest.raises(KernelError, match="gateway") as caught:
        here.apply(
            *[(None, r) for r in small() if not isinstance(r, Route)], (None, default("red", "10.1.2.3"))
        )
    assert (caught.value.errno, caught.value.where) == (errno.ENETUNREACH, WHERE)


def test_an_interface_that_is_not_there(lab: Callable[..., Lab]) -> None:
    here = lab("red")
    with pytest.raises(KernelError, match="no interface eth7"):
        here.apply((None, address("red", "eth7", "10.0.0.1/24")))
    with pytest.raises(KernelError, match="green does not run"):
        here.apply((None, BR0), (None, to_bridge("green", 1)))
    with pytest.raises(KernelError, match="cannot set sysctl red net"):
        here.apply((None, Sysctl(container="red", name="net.ipv4.nosuch", value="1", where=WHERE)))


def test_after_a_failure_what_is_there_can_be_taken_away(lab: Callable[..., Lab]) -> None:
    here = lab("red", "blue")
    bad = Route(owner="blue", family=4, dst="10.5.0.0/16", hops=(Hop(via="10.1.2.3", dev="eth0"),))
    with pytest.raises(KernelError):
        here.apply(*[(None, resource) for resource in small(bad)])
    seen = here.observe()
    here.apply(*[(resource, None) for resource in seen.values()])
    assert dict(here.observe()) == {}


def test_taking_away_what_is_gone_already_is_fine(lab: Callable[..., Lab]) -> None:
    here = lab("red", "blue")
    wanted = small(straight(), Rule(owner="red", family=4, priority=9, table=9))
    here.converge(*wanted)
    changes = [(resource, None) for resource in wanted]
    here.apply(*changes)
    here.apply(*changes)
    here.processes["red"].kill()
    here.processes["red"].wait()
    here.apply(*changes)


# -- whose it is -------------------------------------------------------------------------------------------


def test_what_others_made_is_extra_and_stays(lab: Callable[..., Lab]) -> None:
    here = lab("red", "blue")
    here.converge(*small())
    for argv in (
        "ip link add wg0 type bridge",
        "ip address add 10.90.0.1/24 dev wg0",
        "ip route add 10.91.0.0/16 via 10.77.0.1 proto ospf",
        "ip rule add from 10.92.0.0/16 lookup 77 priority 77",
    ):
        here.inside("red", *argv.split())
    state = here.observe(*small())
    assert set(state.extra) == {
        "interface red wg0",
        "address red:wg0 10.90.0.1/24",
        "route red 10.91.0.0/16 table 254 metric 0",
        "rule red 4 priority 77",
    }
    assert here.converge(*small()) == []
    assert "wg0" in here.links("red")


def test_links_of_others_on_the_host_are_never_touched(lab: Callable[..., Lab]) -> None:
    here = lab("red", "blue")
    here.converge(*small())
    run("ip", "link", "add", "t-alien", "type", "bridge")
    run("ip", "link", "set", "t-alien", "group", str(GROUP))
    try:
        assert hostlinks.delete_group(lab=LAB, id=ID, group=GROUP) == 3
        assert {"t-br0", "t-red", "t-alien"} & set(host_links()) == {"t-alien"}
    finally:
        run("ip", "link", "del", "t-alien")


def test_an_unmarked_link_goes_only_by_name_mac_and_group(lab: Callable[..., Lab]) -> None:
    lab()
    mac = "02:00:00:00:00:55"
    run("ip", "link", "add", "t-half", "address", mac, "type", "bridge")
    run("ip", "link", "set", "t-half", "group", str(GROUP))
    try:
        assert not hostlinks.delete_unmarked("t-half", "02:00:00:00:00:56", GROUP)
        assert not hostlinks.delete_unmarked("t-half", mac, GROUP + 1)
        assert not hostlinks.delete_unmarked("t-none", mac, GROUP)
        assert "t-half" in host_links()
        assert GROUP in hostlinks.groups_in_use()
        assert hostlinks.delete_unmarked("t-half", mac, GROUP)
        assert "t-half" not in host_links()
    finally:
        run("ip", "link", "del", "t-half", check=False)


def test_marks_tell_the_lab_without_any_file(lab: Callable[..., Lab]) -> None:
    here = lab("red", "blue")
    here.converge(*small())
    assert (LAB, ID) in hostlinks.marked_labs()
    found = {str(link.mark): link.ifname for link in hostlinks.find_marked(LAB, ID)}
    assert found == {
        "netorch.lab.abc.b.br0": "t-br0",
        "netorch.lab.abc.c.red.eth0": "t-red",
        "netorch.lab.abc.c.blue.eth0": "t-blue",
    }
    assert hostlinks.find_marked("other", ID) == hostlinks.find_marked(None, "other") == []


def test_facts_of_the_host_leave_the_lab_out(lab: Callable[..., Lab]) -> None:
    here = lab("red", "blue")
    before = host_facts_links(lab=LAB, id=ID)
    here.converge(*small())
    assert host_facts_links(lab=LAB, id=ID) == before
    other = host_facts_links(lab="other", id=ID)
    assert ("t-br0", "10.77.0.0/24") in other.subnets
    assert {"t-br0", "netorch.lab.abc.b.br0"} <= set(other.interfaces)


# -- ports of the host ---------------------------------------------------------------------------------------


def test_an_interface_of_the_host_is_plugged_in_and_given_back(lab: Callable[..., Lab]) -> None:
    here = lab("red", "blue")
    run("ip", "link", "add", "t-nic", "type", "veth", "peer", "name", "t-cord")
    try:
        port = HostPort(bridge="br0", ifname="t-nic")
        here.converge(*small(port))
        nic = host_links()["t-nic"]
        assert (nic["master"], "UP" in nic["flags"], nic["group"]) == ("t-br0", True, "default")
        here.converge(*small())
        nic = host_links()["t-nic"]
        assert ("master" in nic, "UP" in nic["flags"], "altnames" in nic) == (False, False, False)
        here.converge(*small(port))
        hostlinks.delete_group(lab=LAB, id=ID, group=GROUP)
        assert "t-nic" in host_links()
        with pytest.raises(KernelError, match="no interface t-none"):
            here.apply((None, BR0), (None, HostPort(bridge="br0", ifname="t-none")))
    finally:
        run("ip", "link", "del", "t-nic")


def test_bridge_to_bridge(lab: Callable[..., Lab]) -> None:
    here = lab("red", "blue")
    between = Cable(
        a=CableEnd(node=HOST, ifname="t-xa", mac="02:00:00:00:04:01", bridge="br1"),
        b=CableEnd(node=HOST, ifname="t-xb", mac="02:00:00:00:04:02", bridge="br0"),
    )
    wanted = [BR1, *small(between)]
    wanted = [to_bridge("blue", 2, "br1") if r == to_bridge("blue", 2) else r for r in wanted]
    here.converge(*wanted)
    assert here.pings("red", "10.77.0.3")
    assert dict(here.observe()).keys() >= {between.key}
    unplugged = [replace(between, up=False) if r == between else r for r in wanted]
    here.converge(*unplugged)
    assert not here.pings("red", "10.77.0.3")
    here.converge(*[r for r in wanted if r != between])
    assert "t-xa" not in host_links()


@pytest.mark.slow
def test_ports_of_a_spanning_tree_forward_when_apply_returns(lab: Callable[..., Lab]) -> None:
    here = lab("red", "blue")
    here.apply(*[(None, replace(r, stp=True) if r == BR0 else r) for r in small()])
    assert here.pings("red", "10.77.0.3")


def test_vlans_of_ports(lab: Callable[..., Lab]) -> None:
    here = lab("red", "blue")
    filtering = replace(BR0, vlan_filtering=True)

    def wanted(red: dict[str, Any], blue: dict[str, Any]) -> list[Resource]:
        cables = [to_bridge("red", 1, **red), to_bridge("blue", 2, **blue)]
        return [filtering, *cables, *[r for r in small() if isinstance(r, Address)]]

    try:
        here.converge(filtering)
    except MissingFeature:
        pytest.skip("this kernel's bridges can't filter VLANs")
    here.converge(*wanted({"access": 10}, {"access": 10}))
    assert here.pings("red", "10.77.0.3")
    here.converge(*wanted({"access": 10}, {"access": 20}))
    assert not here.pings("red", "10.77.0.3")
    here.converge(*wanted({"access": 10}, {"trunk": (20, 30), "native": 10}))
    assert here.pings("red", "10.77.0.3")
    here.converge(*wanted({}, {}))
    assert here.pings("red", "10.77.0.3")


# -- many, and in between ----------------------------------------------------------------------------


def test_many_containers_come_and_go_in_one_call(lab: Callable[..., Lab]) -> None:
    names = [f"h{n}" for n in range(40)]
    here = lab(*names)
    wanted: list[Resource] = [BR0, address(HOST, "t-br0", "10.77.0.1/24")]
    for number, name in enumerate(names):
        wanted += [to_bridge(name, number), address(name, "eth0", f"10.77.0.{number + 2}/24")]
    here.converge(*wanted)
    assert all(here.pings(name, "10.77.0.1") for name in names[::8])
    here.converge(*wanted[:22])
    assert len([name for name in host_links() if name.startswith("t-h")]) == 10
    here.converge()
    assert not [name for name in host_links() if name.startswith("t-")]


def test_a_container_of_another_ones_network_is_seen_once(lab: Callable[..., Lab]) -> None:
    here = lab("red", "blue")
    here.nets = Nets({"pod": here.processes["red"].pid, **here.nets.pids})
    here.converge(*small())
    assert here.observe(*small()).extra == {}


def test_counters(lab: Callable[..., Lab]) -> None:
    here = lab("red", "blue")
    here.converge(*small())
    before = stats(here.nets, "red")["eth0"]
    assert here.pings("red", "10.77.0.3")
    after = stats(here.nets, "red")["eth0"]
    assert after["tx_packets"] > before["tx_packets"] and after["rx_bytes"] > before["rx_bytes"]
    with pytest.raises(KernelError, match="green does not run"):
        stats(here.nets, "green")


def test_an_interrupt_ends_the_worker_too(lab: Callable[..., Lab]) -> None:
    here = lab("red")
    seen = threading.Event()

    class Interrupt(Exception):
        pass

    def interrupt(*_: object) -> None:
        raise Interrupt

    def work(visit: Any) -> None:
        seen.set()
        for _ in range(1000):
            with visit.node("red"):
                visit.pause(0.01)

    previous = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, 0.05)
    try:
        with pytest.raises(Interrupt):
            here.nets.run(work)
    finally:
        signal.signal(signal.SIGALRM, previous)
    assert seen.is_set()
    assert [thread.name for thread in threading.enumerate() if thread.name == "netns"] == []


def test_who_can_not_be_looked_into_and_has_ended_is_gone(host: TestHost) -> None:
    """A container's PID 1 is so; to an ordinary user some kernels refuse it, instead of finding nothing."""
    script = "import ctypes; ctypes.CDLL(None).prctl(4, 0); print(flush=True); input()"
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", script], **pipes) as it:
        assert it.stdout is not None and it.stdout.readline() == b"\n"
        it.kill()
        until(lambda: ") Z " in Path(f"/proc/{it.pid}/stat").read_text(), "its end")
        with pytest.raises((FileNotFoundError, ProcessLookupError)):
            namespaces.open_netns(it.pid)


def test_a_call_in_a_namespace_sees_its_sysctls(lab: Callable[..., Lab]) -> None:
    here = lab("red")
    here.inside("red", "sh", "-c", "echo 1 > /proc/sys/net/ipv4/ip_forward")
    fd = namespaces.open_netns(here.processes["red"].pid)
    try:
        assert namespaces.call_in_netns(fd, read_sysctl, "net.ipv4.ip_forward") == "1"
    finally:
        os.close(fd)
    assert Path("/proc/sys/net/ipv4/ip_forward").read_text() == "0\n"
    assert namespaces.netns_cookie() == namespaces.netns_cookie() > 0
    with pytest.raises(RuntimeError, match="main thread"):
        namespaces.enter_netns(0)
