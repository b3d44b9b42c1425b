"""The lab's nft table on the host, by the packets that pass and those that don't."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from support import outside, view
from support.nodes import Node, bridge, node, reaches
from support.outer import TestHost, run
from support.waiting import until

from netns_orch.errors import KernelError, Where
from netns_orch.kernel import hosttable
from netns_orch.kernel.conntrack import flush_conntrack
from netns_orch.resources import GROUP_FIRST, HostTable

pytestmark = [pytest.mark.kernel, view.IN_PROCESS]
SYSCTLS = ("ipv4/ip_forward", "ipv6/conf/all/forwarding")


class Lab:
    """One bridge ``br<n>`` with a node on it, in the subnets 10.n.0.0/24 and fd00:n::/64."""

    def __init__(self, stack: ExitStack, n: int, group: int = GROUP_FIRST) -> None:
        self.bridge = f"br{n}"
        self.address, self.address6 = f"10.{n}.0.2", f"fd00:{n}::2"
        stack.enter_context(bridge(self.bridge, f"10.{n}.0.1/24", f"fd00:{n}::1/64", group=group))
        gateways = (f"10.{n}.0.1", f"fd00:{n}::1")
        self.node: Node = stack.enter_context(
            node(self.bridge, f"{self.address}/24", f"{self.address6}/64", gateways=gateways)
        )


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    """What a test adds is taken away in reverse; the host forwards meanwhile."""
    paths = [Path("/proc/sys/net", name) for name in SYSCTLS]
    with ExitStack() as things:
        for path in paths:
            path.write_text("1")
            things.callback(path.write_text, "0")
        yield things


@pytest.fixture(scope="module", autouse=True)
def legacy(outer: TestHost) -> None:
    """Legacy iptables can't be unloaded, so they are there before the first picture of the host is taken."""
    for program in ("iptables-legacy", "ip6tables-legacy"):
        run(program, "-S")


Load = Callable[..., hosttable.Applied]


@pytest.fixture
def load(stack: ExitStack) -> Load:
    """Load a lab's table; removed at the end."""

    def apply(table: HostTable | None, lab: str = "a", previous: dict[str, str] | None = None) -> object:
        done = hosttable.apply(None, table, lab=lab, id="1f", previous_sysctls=previous or {})
        if table is not None:
            stack.callback(hosttable.apply, table, None, lab=lab, id="1f", previous_sysctls={})
        return done

    return apply  # type: ignore[return-value]


def _table(*bridges: tuple[str, str], **more: object) -> HostTable:
    return HostTable(forward=bridges, **more)  # type: ignore[arg-type]


def test_nat_leaves_the_lab_under_the_hosts_address(stack: ExitStack, load: Load) -> None:
    red = Lab(stack, 1)
    assert red.node.asks(outside.IPV4) is None, "the outside has no way back without NAT"
    load(_table((red.bridge, "nat")))
    assert red.node.asks(outside.IPV4) == "203.0.113.2"
    # The outside's own link-local address may still be tentative: it answers no solicitation yet.
    assert until(lambda: red.node.asks(outside.IPV6), "an answer") == "2001:db8:ffff::2"


def test_the_address_stays_within_the_lab_and_with_route(stack: ExitStack, load: Load) -> None:
    red, blue = Lab(stack, 1), Lab(stack, 2)
    load(_table((red.bridge, "nat"), (blue.bridge, "route"), router=True))
    with blue.node.udp_socket(blue.address, 4000) as there, red.node.udp_socket() as here:
        here.sendto(b"?", (blue.address, 4000))
        assert there.recvfrom(10)[1][0] == red.address
    assert blue.node.asks(outside.IPV4) is None, "route: not masqueraded"


def test_bridges_of_one_lab_are_apart_unless_it_is_a_router(stack: ExitStack, load: Load) -> None:
    red, blue = Lab(stack, 1), Lab(stack, 2)
    assert reaches(red.node, blue.node, blue.address), "the host forwards by itself"
    load(_table((red.bridge, "nat"), (blue.bridge, "route")))
    for one, other in ((red, blue), (blue, red)):
        assert not reaches(one.node, other.node, other.address)
        assert not reaches(one.node, other.node, other.address6)
    load(_table((red.bridge, "nat"), (blue.bridge, "none"), router=True))
    for one, other in ((red, blue), (blue, red)):
        assert reaches(one.node, other.node, other.address)
        assert reaches(one.node, other.node, other.address6)


def test_labs_are_apart_even_with_routers(stack: ExitStack, load: Load) -> None:
    red, blue = Lab(stack, 1), Lab(stack, 2, GROUP_FIRST + 7)
    load(_table((red.bridge, "route"), router=True), "a")
    for one, other in ((red, blue), (blue, red)):
        assert not reaches(one.node, other.node, other.address)
    load(_table((blue.bridge, "route"), router=True), "b-2")
    for one, other in ((red, blue), (blue, red)):
        assert not reaches(one.node, other.node, other.address)


@pytest.mark.parametrize(("mode", "let_in"), [("route", True), ("nat", False), ("none", False)])
def test_what_the_outside_may_begin(
    host: object, stack: ExitStack, load: Load, mode: str, let_in: bool
) -> None:
    red = Lab(stack, 1)
    load(_table((red.bridge, mode)))
    other = stack.enter_context(bridge("foreign", "10.9.0.1/24"))
    outsider = stack.enter_context(node(other, "10.9.0.2/24", gateways=("10.9.0.1",)))
    assert reaches(outsider, red.node, red.address) is let_in
    assert reaches(red.node, outsider, "10.9.0.2") is (mode != "none")


def test_dnat_of_the_host_lets_in(stack: ExitStack, load: Load) -> None:
    red = Lab(stack, 1)
    load(
        _table(
            (red.bridge, "nat"),
            rules=((4, f"-t nat -A PREROUTING -p udp --dport 5000 -j DNAT --to {red.address}:4000"),),
        )
    )
    other = stack.enter_context(bridge("foreign", "10.9.0.1/24"))
    outsider = stack.enter_context(node(other, "10.9.0.2/24", gateways=("10.9.0.1",)))
    with red.node.udp_socket(red.address, 4000) as there, outsider.udp_socket() as here:
        here.sendto(b"?", ("10.9.0.1", 5000))
        assert there.recvfrom(10)[1][0] == "10.9.0.2"


# -- host.iptables -------------------------------------------------------------------------------


def test_host_rules_drop(stack: ExitStack, load: Load) -> None:
    red, blue = Lab(stack, 1), Lab(stack, 2)
    rules = (
        (4, "-N guard"),
        (4, f"-I FORWARD -i {red.bridge} -o {blue.bridge} -j guard"),
        (4, "-A guard -p udp --dport 4001 -m comment --comment 'not \"this\" one' -j DROP"),
        (4, "-A FORWARD -j ACCEPT"),
        (6, "-P FORWARD DROP"),
    )
    load(_table((red.bridge, "route"), (blue.bridge, "route"), router=True, rules=rules))
    assert reaches(red.node, blue.node, blue.address, 4000)
    assert not reaches(red.node, blue.node, blue.address, 4001)
    assert reaches(blue.node, red.node, red.address, 4001)
    assert not reaches(red.node, blue.node, blue.address6, 4000)


def test_an_accept_of_the_lab_overrules_nobody(stack: ExitStack, load: Load) -> None:
    red = Lab(stack, 1)
    run("iptables-nft", "-A", "INPUT", "-p", "udp", "--dport", "4002", "-j", "DROP")
    stack.callback(run, "nft", "delete", "table", "ip", "filter")
    load(_table((red.bridge, "nat"), rules=((4, "-A INPUT -j ACCEPT"),)))
    host = subprocess.run(["nft", "list", "ruleset"], capture_output=True, text=True, check=True).stdout
    assert "filter_INPUT" in host
    here = red.node.udp_socket()
    import socket

    with here, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as there:
        there.settimeout(0.4)
        there.bind(("10.1.0.1", 4002))
        here.sendto(b"?", ("10.1.0.1", 4002))
        with pytest.raises(TimeoutError):
            there.recvfrom(10)


PLACES = (Where("lab.yaml", 7, 5, "host.iptables[0]"), Where("lab.yaml", 8, 5, "host.iptables[1]"))


@pytest.mark.parametrize(
    ("rule", "words"),
    [
        ("-A FORWARD -p tcp --dprt 22 -j DROP", 'unknown option "--dprt"'),
        ("-A FORWARD -j DORP", "DORP"),
        ("-A FORWARD -j DROP 'x", "No closing quotation"),
        ("-D FORWARD -j DROP", "does a matching rule exist"),
    ],
)
def test_a_bad_host_rule_is_named(rule: str, words: str) -> None:
    table = HostTable(rules=((4, "-A INPUT -j ACCEPT"), (4, rule)), rule_places=PLACES)
    with pytest.raises(KernelError) as caught:
        hosttable.apply(None, table, lab="a", id="1f", previous_sysctls={})
    assert caught.value.where == PLACES[1]
    assert rule in caught.value.what
    assert words in str(caught.value.details)


def test_a_rule_without_translation_is_named() -> None:
    text = "-A FORWARD -p tcp -m string --string foo --algo bm -j DROP"
    table = HostTable(rules=((4, "-A INPUT -j ACCEPT"), (4, text)), rule_places=PLACES)
    with pytest.raises(KernelError, match="no translation to nft") as caught:
        hosttable.apply(None, table, lab="a", id="1f", previous_sysctls={})
    assert caught.value.where == PLACES[1]


# -- marks, drift, removal -----------------------------------------------------------------------


def test_recover_tells_what_the_run_directory_told(stack: ExitStack, load: Load) -> None:
    previous = {
        "net.ipv4.ip_forward": "0",
        'net.ipv4.conf.odd"%é/5.forwarding': "1",
        "net.ipv4.ip_local_reserved_ports": ",".join(str(n) for n in range(8000, 8100, 2)),
    }
    table = _table(("br1", "nat"))
    load(table, "a-b_c", previous)
    load(HostTable(), "z")
    assert hosttable.recover() == [
        ("a-b_c", "1f", hosttable.table_digest(table), previous),
        ("z", "1f", hosttable.table_digest(HostTable()), {}),
    ]


def test_drift_is_seen_and_mended(load: Load) -> None:
    table = _table(("br1", "nat"), rules=((4, "-A INPUT -p tcp --dport 9 -j DROP"),), switches=("sw",))
    mark = load(table).fingerprint
    assert mark is not None
    assert hosttable.observe("a", "1f", table, fingerprint=mark) == table
    for command in (
        "add rule inet netorch_a forward accept",
        "flush chain inet netorch_a forward",
        "add rule ip netorch_a filter_INPUT accept",
        "delete table ip netorch_a",
    ):
        run("nft", *command.split())
        seen = hosttable.observe("a", "1f", table, fingerprint=mark)
        assert seen is not None and seen.damage, command
        assert load(table).fingerprint == mark
    other = hosttable.observe("a", "1f", _table(("br1", "none")), fingerprint=mark)
    assert other is not None and other.damage


def test_observe_without_a_table() -> None:
    assert hosttable.observe("a", "1f", HostTable()) is None


def test_a_table_of_that_name_that_is_anothers_is_left_alone(stack: ExitStack) -> None:
    run("nft", "add table inet netorch_a; add chain inet netorch_a about")
    stack.callback(run, "nft", "delete", "table", "inet", "netorch_a")
    for table in (HostTable(), None):
        with pytest.raises(KernelError, match="not this lab's"):
            hosttable.apply(None, table, lab="a", id="1f", previous_sysctls={})


def test_removing_twice_is_no_error() -> None:
    for _ in range(2):
        assert hosttable.apply(HostTable(), None, lab="a", id="1f", previous_sysctls={}).fingerprint is None


# -- hosts that drop -----------------------------------------------------------------------------


@pytest.fixture(params=["nft", "legacy"])
def variant(request: pytest.FixtureRequest, stack: ExitStack) -> str:
    """A host whose iptables are of this variant."""
    if request.param == "nft":
        for family in ("ip", "ip6"):
            stack.callback(subprocess.run, ["nft", "delete", "table", family, "filter"], capture_output=True)
    return str(request.param)


def _iptables(stack: ExitStack, variant: str, family: str, *rules: str) -> None:
    program = f"{family}tables-{variant}"
    for rule in rules:
        run(program, *rule.split())
    if variant == "legacy":
        for undo in ("-X", "-F", "-P FORWARD ACCEPT"):
            stack.callback(run, program, *undo.split())


def _saved(variant: str, family: str) -> list[str]:
    text = run(f"{family}tables-{variant}-save", "-t", "filter")
    return [line.partition(" [")[0] for line in text.splitlines() if not line.startswith("#")]


DOCKER = (
    "-P FORWARD DROP",
    "-N DOCKER-USER",
    "-N DOCKER",
    "-A FORWARD -j DOCKER-USER",
    "-A FORWARD -o docker0 -j DOCKER",
    "-A FORWARD -i docker0 -j ACCEPT",
    "-A DOCKER-USER -j RETURN",
)


@pytest.mark.parametrize("rules", [DOCKER, ("-P FORWARD DROP",), ("-P FORWARD DROP", "-A FORWARD -j DROP")])
def test_a_host_that_drops_forwarded_packets(
    stack: ExitStack, load: Load, variant: str, rules: tuple[str, ...]
) -> None:
    for family in ("ip", "ip6"):
        _iptables(stack, variant, family, *rules)
    before = [_saved(variant, family) for family in ("ip", "ip6")], run("nft", "-s", "list", "ruleset")
    red = Lab(stack, 1)
    assert red.node.asks(outside.IPV4) is None
    table = _table((red.bridge, "nat"), switches=("sw",))
    mark = load(table).fingerprint
    assert red.node.asks(outside.IPV4) == "203.0.113.2"
    assert red.node.asks(outside.IPV6) == "2001:db8:ffff::2"
    during = _saved(variant, "ip")
    assert load(table).fingerprint == mark and _saved(variant, "ip") == during, (
        "a second time changes nothing"
    )
    assert hosttable.observe("a", "1f", table, fingerprint=mark) == table
    chain = "DOCKER-USER" if rules is DOCKER else "FORWARD"
    run(f"iptables-{variant}", "-D", chain, "1")
    seen = hosttable.observe("a", "1f", table, fingerprint=mark)
    assert seen is not None and seen.damage
    load(None)
    after = [_saved(variant, family) for family in ("ip", "ip6")], run("nft", "-s", "list", "ruleset")
    assert after == before


def test_accept_rules_are_found_without_the_table(stack: ExitStack, load: Load, variant: str) -> None:
    _iptables(stack, variant, "ip", "-P FORWARD DROP")
    table = _table(("br1", "nat"))
    load(table)
    run("nft", "delete", "table", "inet", "netorch_a")
    assert hosttable.observe("a", "1f", table) == HostTable(damage=("no nft table netorch_a",))
    load(None)
    assert "br1" not in "".join(_saved(variant, "ip"))
    assert hosttable.observe("a", "1f", table) is None


@pytest.mark.parametrize("call", ["0", "1"])
def test_a_plain_switch_beside_docker(stack: ExitStack, load: Load, variant: str, call: str) -> None:
    path = Path("/proc/sys/net/bridge/bridge-nf-call-iptables")
    if not path.exists():
        pytest.skip("this kernel has no br_netfilter loaded")
    stack.callback(path.write_text, path.read_text())
    path.write_text(call)
    _iptables(stack, variant, "ip", *DOCKER)
    switch = stack.enter_context(bridge("sw"))
    left = stack.enter_context(node(switch, "10.3.0.1/24"))
    right = stack.enter_context(node(switch, "10.3.0.2/24"))
    assert reaches(left, right, "10.3.0.2") is (call == "0")
    load(HostTable(switches=("sw",)))
    assert reaches(left, right, "10.3.0.2")


def test_dockers_own_bridges_stay_guarded(stack: ExitStack, load: Load, variant: str) -> None:
    _iptables(stack, variant, "ip", *DOCKER)
    red = Lab(stack, 1)
    docker = stack.enter_context(bridge("docker0", "172.17.0.1/16"))
    theirs = stack.enter_context(node(docker, "172.17.0.2/16", gateways=("172.17.0.1",)))
    load(_table((red.bridge, "route")))
    assert not reaches(red.node, theirs, "172.17.0.2")


# -- connection tracking -------------------------------------------------------------------------


def _tracked() -> str:
    return run("conntrack", "-L") + run("conntrack", "-L", "-f", "ipv6")


def test_connections_of_the_lab_are_forgotten(stack: ExitStack, load: Load) -> None:
    red, blue = Lab(stack, 1), Lab(stack, 2)
    load(_table((red.bridge, "nat"), (blue.bridge, "nat")))
    for lab in (red, blue):
        flush_conntrack([f"{lab.address}/32", f"{lab.address6}/128"])
        assert lab.node.asks(outside.IPV4) and lab.node.asks(outside.IPV6)
    assert flush_conntrack(["10.1.0.0/24", "fd00:1::/64"]) == 2
    left = _tracked()
    assert "10.1.0.2" not in left and "fd00:1::2" not in left
    assert "10.2.0.2" in left and "fd00:2::2" in left
    assert flush_conntrack(["10.2.0.0/24", "fd00:2::/64"]) == 2
    assert flush_conntrack([]) == 0
