"""The desired state: every resource that a lab needs, with equal values for equal files."""

from __future__ import annotations

import itertools
import json
from ipaddress import ip_interface
from typing import Any

import pytest
from support.topologies import at, box, bridge, end, inside, lab, link, rule, via

from netns_orch import graph
from netns_orch.errors import LabFileError
from netns_orch.labfile.model import (
    Command,
    Container,
    Device,
    Firewall,
    FirewallRule,
    Host,
    Impairment,
    IoLimit,
    Namespaces,
    Port,
    PortVlan,
    Ready,
    Resources,
    RootFs,
    Tmpfs,
    Topology,
    Volume,
)
from netns_orch.resolve import resolve
from netns_orch.resolve.host import saved_rules, with_real_names
from netns_orch.resources import (
    KINDS,
    Address,
    Bridge,
    Cable,
    CableEnd,
    Cgroup,
    HostFacts,
    HostPath,
    HostPort,
    HostsFile,
    HostSysctl,
    HostTable,
    Layer,
    NetnsName,
    Process,
    Qdisc,
    Resource,
    Route,
    Rule,
    Setup,
    State,
    Sysctl,
    VirtualInterface,
    digest,
    from_json,
    to_json,
)
from netns_orch.resources import Container as ContainerResource
from netns_orch.resources import Firewall as FirewallResource

ID = "1f"


def state(topology: Topology, id: str = ID) -> State:
    return resolve(graph.wire(topology), id=id)


def desired(*links: Any, **more: Any) -> State:
    return state(lab(*links, **more))


def only(found: State, kind: type[Resource]) -> Any:
    (resource,) = found.of(kind)
    return resource


def red_blue(**more: Any) -> Topology:
    fields: dict[str, Any] = {"br0": bridge("10.0.0.1/24"), "red": box(), "blue": box(), **more}
    return lab(link("red", "br0"), link("blue", "br0"), **fields)


def container_spec(**fields: Any) -> Any:
    return only(desired(red=box(**fields)), ContainerResource).spec


# -- the whole -----------------------------------------------------------------------------------


def test_the_smallest_lab() -> None:
    found = state(red_blue())
    assert only(found, HostTable) == HostTable(forward=(("lab-br0", "nat"),))
    assert found.of(HostSysctl) == [HostSysctl(name="net.ipv4.ip_forward", value="1")]
    assert [a.cidr for a in found.of(Address)] == ["10.0.0.1/24", "10.0.0.2/24", "10.0.0.3/24"]
    assert found.of(Address)[0].node == "host" and found.of(Address)[0].ifname == "lab-br0"
    assert [name.name for name in found.of(NetnsName)] == ["lab.red", "lab.blue"]
    red, blue = found.of(Cable)
    assert (red.a.node, red.a.ifname, red.b.node, red.b.bridge) == ("red", "eth0", "host", "br0")
    assert red.b.ifname != blue.b.ifname
    assert [process.spec["argv"] for process in found.of(Process)] == [None, None]


def test_kinds_come_in_build_order() -> None:
    found = state(everything())
    order = [type(resource) for resource in found.values()]
    firsts = list(dict.fromkeys(order))
    assert firsts == [kind for kind, _ in itertools.groupby(order)]
    position = {kind: number for number, kind in enumerate(firsts)}
    for before, after in (
        (Cgroup, ContainerResource),
        (ContainerResource, Bridge),
        (Bridge, Cable),
        (Cable, VirtualInterface),
        (VirtualInterface, Address),
        (Address, Route),
        (Setup, Process),
    ):
        assert position[before] < position[after]


def everything() -> Topology:
    """A lab that needs every kind of resource."""
    return lab(
        link(end("red", impairment=Impairment(delay=0.02)), "br0"),
        link("red", "blue"),
        link("br0", "lan"),
        link("lan", "host:enp3s0"),
        br0=bridge("10.0.0.1/24", "fd00::1/64"),
        lan=bridge(),
        red=box(
            ports=[Port(host_port=8080, port=80, where=at(55))],
            router=True,
            loopback=["192.0.2.1/32"],
            interfaces=[inside("eth0.10", "vlan", "10.10.0.2/24", parent="eth0", id=10, where=at(60))],
            rules=[rule(source="10.1.0.0/24", table="100", where=at(65))],
            iptables=Firewall(rules=[FirewallRule(text="-A INPUT -j DROP", where=at(70))]),
            setup=[Command(argv=["true"], where=at(80))],
            sysctls={"net.ipv4.conf.all.rp_filter": "1"},
        ),
        blue=box(rootfs=RootFs(kind="layers", layers=["/a", "/b.tar"])),
    )


def test_every_kind_of_resource_is_made_and_goes_through_json() -> None:
    found = state(everything())
    assert {resource.KIND for resource in found.values()} == set(KINDS)
    for resource in found.values():
        again = from_json(json.loads(json.dumps(to_json(resource))))
        assert again == resource and again.where == resource.where


def test_equal_files_give_equal_states_and_no_key_is_lost() -> None:
    first, second = state(everything()), state(everything())
    assert list(first.items()) == list(second.items())
    wiring = graph.wire(everything())
    assert (
        len(first.of(Address))
        == sum(len(i.addresses) for n in ("host", "red", "blue") for i in wiring.interfaces(n)) + 1
    )


def test_every_resource_knows_its_place() -> None:
    unplaced = [resource.key for resource in state(everything()).values() if resource.where is None]
    assert unplaced == []


# -- names on the host ---------------------------------------------------------------------------


def test_cable_ends_on_the_host_have_names_that_fit_and_never_meet() -> None:
    boxes = {f"container-with-a-long-name-{n}": box() for n in range(500)}
    topology = lab(*(link(name, "lan") for name in boxes), lan=bridge(), **boxes)
    names = [cable.b.ifname for cable in state(topology).of(Cable)]
    assert len(set(names)) == 500 and max(map(len, names)) <= 15
    assert all(name.startswith("vcontai") for name in names)
    others = [cable.b.ifname for cable in state(topology, id="2f").of(Cable)]
    assert not set(names) & set(others)


def test_a_name_on_the_host_stays_when_links_are_added() -> None:
    before = {c.key for c in state(red_blue()).of(Cable)}
    longer = red_blue()
    longer.links.insert(0, link("blue:wan", "red:wan"))
    assert before <= {c.key for c in state(longer).of(Cable)}


def test_cables_between_bridges_have_two_ends_on_the_host() -> None:
    found = desired(link("a", "b"), link("a", "b"), a=bridge(stp=True), b=bridge())
    ends = [e for cable in found.of(Cable) for e in (cable.a, cable.b)]
    assert [e.bridge for e in ends] == ["a", "b", "a", "b"]
    assert {e.node for e in ends} == {"host"} and len({e.ifname for e in ends}) == 4
    assert len({e.mac for e in ends}) == 4


# -- the host ------------------------------------------------------------------------------------


def test_switches_are_apart_in_the_table() -> None:
    found = desired(br0=bridge("10.0.0.1/24", forward="none"), lan=bridge())
    table = only(found, HostTable)
    assert table.forward == (("lab-br0", "none"),) and table.switches == ("lab-lan",)
    assert not found.of(HostSysctl)


def test_a_lab_without_bridges_leaves_the_host_alone() -> None:
    found = desired(link("red", "blue"), red=box(), blue=box())
    assert not [r for r in found.values() if isinstance(r, (HostTable, HostSysctl, Bridge))]


@pytest.mark.parametrize(
    ("addresses", "forward", "router", "expected"),
    [
        (["10.0.0.1/24"], None, False, ["net.ipv4.ip_forward"]),
        (["fd00::1/64"], "route", False, ["net.ipv6.conf.all.forwarding"]),
        (["10.0.0.1/24", "fd00::1/64"], None, False, ["net.ipv4.ip_forward", "net.ipv6.conf.all.forwarding"]),
        (["10.0.0.1/24"], "none", False, []),
        (["10.0.0.1/24"], "none", True, ["net.ipv4.ip_forward"]),
        ([], None, True, []),
    ],
)
def test_the_host_forwards_where_a_bridge_needs_it(
    addresses: list[str], forward: Any, router: bool, expected: list[str]
) -> None:
    found = desired(br0=bridge(*addresses, forward=forward), host=Host(router=router))
    assert [sysctl.name for sysctl in found.of(HostSysctl)] == expected


def test_sysctls_of_the_host_name_real_interfaces() -> None:
    host = Host(sysctls={"net.ipv4.ip_forward": "0", "net.ipv4.conf.br0.rp_filter": "0"})
    found = desired(br0=bridge("10.0.0.1/24", ifname="br.lab"), host=host)
    assert [(s.name, s.value) for s in found.of(HostSysctl)] == [
        ("net.ipv4.ip_forward", "0"),
        ("net.ipv4.conf.br/lab.rp_filter", "0"),
    ]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("-A FORWARD -i br0 -o br1 -j DROP", "-A FORWARD -i lab-br0 -o lab-br1 -j DROP"),
        ("-A FORWARD --in-interface=br0 -j DROP", "-A FORWARD --in-interface=lab-br0 -j DROP"),
        ("-A FORWARD ! -o br0 -j DROP", "-A FORWARD '!' -o lab-br0 -j DROP"),
        ("-A FORWARD -o ! br0 -j DROP", "-A FORWARD -o '!' lab-br0 -j DROP"),
        ("-A br0 -i br00 -j br1", "-A br0 -i br00 -j br1"),
        ("-A FORWARD  -m comment --comment 'to br0'", "-A FORWARD  -m comment --comment 'to br0'"),
        (
            "-A FORWARD -i br0 -m comment --comment 'from br0'",
            "-A FORWARD -i lab-br0 -m comment --comment 'from br0'",
        ),
    ],
)
def test_bridge_names_stand_for_real_ones_word_by_word(text: str, expected: str) -> None:
    assert with_real_names(text, {"br0": "lab-br0", "br1": "lab-br1"}) == expected


def test_a_rule_that_can_not_be_read_is_said_with_its_place() -> None:
    host = Host(iptables=Firewall(rules=[FirewallRule(text="-A 'FORWARD", where=at(90))]))
    with pytest.raises(LabFileError, match="No closing quotation") as caught:
        desired(br0=bridge("10.0.0.1/24"), host=host)
    assert caught.value.where == at(90)


def test_saved_rules_read_as_typed_ones() -> None:
    text = """
    # Generated
    *filter
    :INPUT ACCEPT [0:0]
    :FORWARD DROP [0:0]
    :mine - [0:0]
    [3:180] -A FORWARD -i br0 -j mine
    COMMIT
    *nat
    -A POSTROUTING -o br0 -j MASQUERADE
    COMMIT
    """
    assert list(saved_rules(text)) == [
        "-t filter -P FORWARD DROP",
        "-t filter -N mine",
        "-t filter -A FORWARD -i br0 -j mine",
        "-t nat -A POSTROUTING -o br0 -j MASQUERADE",
    ]


def test_rules_of_the_host_keep_family_and_place() -> None:
    host = Host(
        iptables=Firewall(rules=[FirewallRule(text="-A FORWARD -i br0 -j DROP", where=at(90))]),
        ip6tables=Firewall(rules=[FirewallRule(text="-A INPUT -j DROP", where=at(91))]),
    )
    table = only(desired(br0=bridge("10.0.0.1/24"), host=host), HostTable)
    assert table.rules == ((4, "-A FORWARD -i lab-br0 -j DROP"), (6, "-A INPUT -j DROP"))
    assert table.rule_places == (at(90), at(91))


def test_bridges_and_plugged_in_interfaces() -> None:
    found = desired(
        link("lan", "host:enp3s0"),
        link("red", end("lan", vlan=PortVlan(trunk=[10, 20], native=1))),
        lan=bridge(stp=True, mtu=9000, isolated=True, multicast_snooping=True),
        red=box(),
    )
    made = only(found, Bridge)
    assert (made.ifname, made.mtu, made.stp, made.vlan_filtering, made.multicast_snooping) == (
        "lab-lan",
        9000,
        True,
        True,
        True,
    )
    assert found.of(HostPort) == [HostPort(bridge="lan", ifname="enp3s0")]
    cable = only(found, Cable)
    assert cable.mtu == 9000
    assert (cable.b.trunk, cable.b.native, cable.b.isolated) == ((10, 20), 1, True)


# -- network of containers -----------------------------------------------------------------------


def test_a_straight_cable_has_both_ends_in_containers() -> None:
    found = desired(link("red:wan", "blue:lan", up=False, offload=False, mtu=1400), red=box(), blue=box())
    cable = only(found, Cable)
    assert isinstance(cable.a, CableEnd)
    assert [(e.node, e.ifname, e.bridge) for e in (cable.a, cable.b)] == [
        ("red", "wan", None),
        ("blue", "lan", None),
    ]
    assert (cable.up, cable.offload, cable.mtu) == (False, False, 1400)


def test_impairments_stand_where_packets_leave() -> None:
    found = desired(
        link(
            end("red", impairment=Impairment(delay=0.02, loss=0.1)),
            end("br0", impairment=Impairment(delay=0.05)),
        ),
        br0=bridge("10.0.0.1/24"),
        red=box(),
    )
    port = only(found, Cable).b.ifname
    assert found.of(Qdisc) == [
        Qdisc(owner="red", ifname="eth0", delay=0.02, loss=0.1),
        Qdisc(owner="host", ifname=port, delay=0.05),
    ]


def test_a_router_forwards_and_the_file_has_the_last_word() -> None:
    found = desired(
        red=box(router=True, sysctls={"net.ipv6.conf.all.forwarding": "0", "net.core.somaxconn": "9"})
    )
    assert [(s.name, s.value) for s in found.of(Sysctl)] == [
        ("net.ipv4.ip_forward", "1"),
        ("net.ipv6.conf.all.forwarding", "0"),
        ("net.core.somaxconn", "9"),
    ]


def test_routes_and_rules_are_those_of_the_wiring() -> None:
    found = state(red_blue(red=box(routes=[via("10.9.0.0/16", "10.0.0.9")], rules=[rule(table="7")])))
    assert [(r.owner, r.dst) for r in found.of(Route)] == [
        ("red", "10.9.0.0/16"),
        ("red", "0.0.0.0/0"),
        ("blue", "0.0.0.0/0"),
    ]
    assert [(r.owner, r.table) for r in found.of(Rule)] == [("red", 7)]


def test_firewalls_of_all_three_programs() -> None:
    text = "*filter\n-A INPUT -j DROP\nCOMMIT\n"
    found = desired(
        red=box(
            iptables=Firewall(rules=[FirewallRule(text="-P INPUT DROP", where=at(70))]),
            ip6tables=Firewall(text=text, where=at(75)),
            nftables="table inet t { }",
        )
    )
    assert found.of(FirewallResource) == [
        FirewallResource(container="red", program="iptables", rules=("-P INPUT DROP",)),
        FirewallResource(container="red", program="ip6tables", text=text),
        FirewallResource(container="red", program="nftables", text="table inet t { }"),
    ]
    assert [firewall.places for firewall in found.of(FirewallResource)] == [(at(70),), (at(75),), (at(100),)]


def test_loopbacks_are_on_lo() -> None:
    found = desired(red=box(loopback=["192.0.2.1/32", "FD00:0::1/128"]))
    assert found.of(Address) == [
        Address(owner="red", ifname="lo", cidr="192.0.2.1/32"),
        Address(owner="red", ifname="lo", cidr="fd00::1/128"),
    ]


def test_addresses_are_in_the_form_in_which_the_kernel_lists_them() -> None:
    topology = lab(link(end("red"), "lan"), lan=bridge(), red=box())
    topology.links[0].a.addresses = [
        ip_interface("FD00:0:0::00A2/64"),
        ip_interface("10.0.0.2/255.255.255.0"),
    ]
    assert [a.cidr for a in state(topology).of(Address)] == ["fd00::a2/64", "10.0.0.2/24"]


# -- containers ----------------------------------------------------------------------------------


def test_a_container_of_defaults() -> None:
    found = desired(red=box(), file="/labs/office/lab.yaml")
    spec = only(found, ContainerResource).spec
    assert spec["hostname"] == "red" and spec["lab_directory"] == "/labs/office"
    assert spec["root"] == {"kind": "host", "layers": [], "read_only": False}
    assert "NET_ADMIN" in spec["capabilities"] and "SYS_ADMIN" not in spec["capabilities"]
    assert (spec["seccomp"], spec["net"], spec["user_namespace"]) == ("default", None, False)
    assert only(found, Cgroup) == Cgroup(container="red")


LAYERS = [digest(["/a", "", False]), digest(["/b", "", False])]


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"hostname": "azure"}, {"hostname": "azure"}),
        ({"nesting": True}, {"user_namespace": True, "nesting": True}),
        ({"privileged": True}, {"privileged": True, "seccomp": "unconfined"}),
        ({"seccomp": "/p.json"}, {"seccomp": "/p.json"}),
        ({"ulimits": {"nofile": (1, 2)}}, {"ulimits": {"nofile": [1, 2]}}),
        ({"files": {"/etc/motd": "hi"}}, {"files": {"/etc/motd": "hi"}}),
        ({"namespaces": Namespaces(time_boottime=86400.0)}, {"time_offsets": {"boottime": 86400.0}}),
        (
            {"rootfs": RootFs(kind="layers", layers=["/a", "/b"]), "read_only": True},
            {"root": {"kind": "layers", "layers": LAYERS, "read_only": True}, "lab_directory": None},
        ),
    ],
)
def test_what_fixes_a_container(fields: dict[str, Any], expected: dict[str, Any]) -> None:
    spec = container_spec(**fields)
    assert {key: spec[key] for key in expected} == expected
    assert only(desired(red=box(**fields)), ContainerResource) != only(desired(red=box()), ContainerResource)


def layers(*containers: Any, **kinds: str) -> list[Layer]:
    """The layers of a lab; ``kinds`` is what lies at /a, /b ..., and its stamp."""
    paths = [HostPath(f"/{name}", *kind.split()) for name, kind in kinds.items()]
    topology = lab(**{f"c{number}": spec for number, spec in enumerate(containers)})
    return resolve(graph.wire(topology), id="1", host=HostFacts(paths=tuple(paths))).of(Layer)


def test_layers_are_shared_and_change_with_their_source() -> None:
    one, two = (box(rootfs=RootFs(kind="layers", layers=[*names])) for names in (["/a", "/b"], ["/b", "/a"]))
    found = layers(one, one, a="directory 1", b="file 2")
    assert [(x.source, x.stamp, x.lowest) for x in found] == [("/a", "1", True), ("/b", "2", False)]
    assert [x.id for x in layers(one, a="directory 1", b="file 2")] == [x.id for x in found]
    assert [x.id for x in layers(one, a="directory 1", b="file 3")] != [x.id for x in found]
    # As the lowest a directory needs no search for whiteouts; an archive is unpacked once all the same.
    assert len(layers(one, two, a="directory 1", b="file 2")) == 3


def test_mounts() -> None:
    spec = container_spec(
        volumes=[
            Volume(source="/srv", target="/www", read_only=True),
            Volume(source="data", target="/d", named=True),
        ],
        tmpfs=[Tmpfs(target="/scratch", options="size=16m")],
        devices=[Device(source="/dev/fuse", target="/dev/fuse", permissions="rw")],
    )
    assert [(m["kind"], m["source"], m["target"], m["options"], m["read_only"]) for m in spec["mounts"]] == [
        ("bind", "/srv", "/www", "", True),
        ("volume", "data", "/d", "", False),
        ("tmpfs", "tmpfs", "/scratch", "size=16m", False),
        ("device", "/dev/fuse", "/dev/fuse", "rw", False),
    ]


def test_capabilities_that_are_none_are_said_with_their_place() -> None:
    with pytest.raises(LabFileError, match="NET_RWA") as caught:
        container_spec(cap_drop=["NET_RWA"])
    assert caught.value.where == at(100)


def test_a_pod_comes_after_the_container_whose_network_it_shares() -> None:
    found = desired(
        link("red", "lan"),
        lan=bridge(),
        side=box(namespaces=Namespaces(net="mid")),
        mid=box(namespaces=Namespaces(net="red")),
        red=box(),
    )
    made = found.of(ContainerResource)
    assert [c.name for c in made] == ["red", "side", "mid"]
    assert [c.spec["net"] for c in made] == [None, "red", "red"]


def test_limits() -> None:
    limits = Resources(cpus=0.5, memory=1 << 20, swap=0, pids=64, io=[IoLimit(device="/dev/vda", read_bps=5)])
    assert only(desired(red=box(resources=limits)), Cgroup) == Cgroup(
        container="red", cpus=0.5, memory=1 << 20, swap=0, pids=64, io=(("/dev/vda", 5, None, None, None),)
    )


def test_generated_files() -> None:
    topology = red_blue(red=box(dns=["1.1.1.1"], dns_search=["lab"]), green=box(dns_search=["lab"]))
    made = resolve(graph.wire(topology), id=ID, host=HostFacts(upstream_dns=("9.9.9.9", "8.8.8.8")))
    found = {file.container: file for file in made.of(HostsFile)}
    assert {name: file.resolv_conf for name, file in found.items()} == {
        "red": "search lab\nnameserver 1.1.1.1\n",
        "blue": "nameserver 9.9.9.9\nnameserver 8.8.8.8\n",
        "green": "search lab\nnameserver 9.9.9.9\nnameserver 8.8.8.8\n",
    }
    assert "10.0.0.3 blue\n" in found["red"].hosts


# -- processes -----------------------------------------------------------------------------------


def test_a_process_and_its_readiness() -> None:
    found = desired(
        red=box(
            command=Command(argv=["sleep", "9"], where=at(60)),
            environment={"A": "1"},
            ready=Ready(exec=Command(argv=["true"]), timeout=5.0),
            depends_on=["h", "blue"],
            user="1000:1000",
            restart="always",
        ),
        h1=box(),
        h2=box(),
        blue=box(),
        groups={"h": ["h1", "h2"]},
    )
    process = found["process red"]
    assert isinstance(process, Process) and process.spec is not None
    assert process.where == at(60)
    assert process.spec["argv"] == ["sleep", "9"]
    assert process.spec["ready"] == {"exec": ["true"], "timeout": 5.0}
    assert process.spec["depends_on"] == ["h1", "h2", "blue"]
    assert (process.spec["user"], process.spec["restart"]) == ("1000:1000", "always")


def test_a_changed_command_changes_the_process_and_not_the_container() -> None:
    def of(argv: list[str]) -> State:
        return desired(red=Container(name="red", command=Command(argv=argv)))

    before, after = of(["a"]), of(["b"])
    changed = {key for key in before if before[key] != after[key]}
    assert changed == {"process red"}


def test_setup_keeps_the_place_of_each_command() -> None:
    found = desired(
        red=box(
            setup=[Command(argv=["a"], where=at(80)), Command(argv=["b", "c"], where=at(81))],
            environment={"A": "1"},
        )
    )
    setup = only(found, Setup)
    assert setup.commands == (("a",), ("b", "c")) and setup.lines == (at(80), at(81))
    assert setup.environment == (("A", "1"),)


def test_a_third_container_changes_nothing_of_the_two_but_their_hosts_files() -> None:
    longer = red_blue(green=box())
    longer.links.append(link("green", "br0"))
    before, after = state(red_blue()), state(longer)
    changed = {key for key in before if before[key] != after.get(key)}
    assert changed == {"hosts-file red", "hosts-file blue"}


# -- hosts that lack something --------------------------------------------------------------------------


@pytest.mark.parametrize("ipv6", [True, False])
def test_without_ipv6_a_router_forwards_ipv4(ipv6: bool) -> None:
    made = resolve(graph.wire(lab(r=box(router=True))), id=ID, host=HostFacts(ipv6=ipv6))
    names = ["net.ipv4.ip_forward", "net.ipv6.conf.all.forwarding"]
    assert [sysctl.name for sysctl in made.of(Sysctl)] == names[: 2 if ipv6 else 1]


@pytest.mark.parametrize("ipv6", [True, False])
def test_without_nft_sysctls_close_plain_switches(ipv6: bool) -> None:
    wiring = graph.wire(lab(link("red", "sw"), red=box(), sw=bridge(ifname="sw.1")))
    assert resolve(wiring, id=ID).of(HostTable)
    made = resolve(wiring, id=ID, host=HostFacts(nft=False, ipv6=ipv6))
    assert not made.of(HostTable)
    families = ["ipv4", "ipv6"] if ipv6 else ["ipv4"]
    found = [(sysctl.name, sysctl.value) for sysctl in made.of(HostSysctl)]
    assert found == [(f"net.{family}.conf.sw/1.forwarding", "0") for family in families]
