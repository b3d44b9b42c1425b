"""What netorch learns about the host: true, and without changing it."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import pytest
from support import view
from support.nodes import Node, bridge
from support.outer import run

from netns_orch.kernel import facts, netfilter
from netns_orch.kernel.facts import host_facts, upstream_dns

pytestmark = view.IN_PROCESS
kernel = pytest.mark.kernel


@kernel
def test_interfaces_subnets_and_routes(host: object) -> None:
    with bridge("other", "10.7.0.1/24", "fd00:7::1/64"), ExitStack() as stack:
        run("ip", "link", "property", "add", "dev", "other", "altname", "another-name")
        run("ip", "route", "add", "10.8.0.0/16", "via", "10.7.0.9")
        stack.callback(run, "ip", "route", "del", "10.8.0.0/16")
        seen = host_facts("a", "1f")
    assert {"lo", "uplink", "other", "another-name"} <= set(seen.interfaces)
    assert {("other", "10.7.0.0/24"), ("other", "fd00:7::/64"), ("uplink", "203.0.113.0/24")} <= set(
        seen.subnets
    )
    assert ("other", "10.8.0.0/16") in seen.routes


@kernel
def test_the_labs_own_are_left_out(host: object) -> None:
    with bridge("mine", "10.7.0.1/24"):
        run("ip", "link", "property", "add", "dev", "mine", "altname", "netorch.a.1f.b.br0")
        own, others = host_facts("a", "1f"), host_facts("b", "1f")
    assert "mine" not in own.interfaces and "10.7.0.0/24" not in dict(own.subnets).values()
    assert "mine" in others.interfaces and "10.7.0.0/24" in dict(others.subnets).values()


@kernel
def test_in_another_namespace(host: object) -> None:
    other = Node()
    try:
        other.run("ip", "link", "add", "inside", "type", "bridge")
        assert "inside" in host_facts(None, "1f", other.fd).interfaces
        assert "inside" not in host_facts(None, "1f").interfaces
    finally:
        other.close()


def _works(*argv: str) -> bool:
    """Whether iproute2 can make it, in a namespace of its own."""
    one = Node()
    try:
        one.run(*argv)
    except RuntimeError as error:
        assert "Unknown" in str(error) or "not supported" in str(error) or "unknown" in str(error), error
        return False
    finally:
        one.close()
    return True


@kernel
@pytest.mark.parametrize(
    ("feature", "command"),
    [
        ("dummy", "ip link add x type dummy"),
        ("bridge", "ip link add x type bridge"),
        ("veth", "ip link add x type veth peer name y"),
        ("vlan", "ip link add link lo name x type vlan id 5"),
        ("vlan-filter", "ip link add x type bridge vlan_filtering 1"),
        ("vxlan", "ip link add x type vxlan id 5 dstport 4789"),
        ("bond", "ip link add x type bond"),
        ("vrf", "ip link add x type vrf table 5"),
        ("wireguard", "ip link add x type wireguard"),
        ("netem", "tc qdisc add dev lo root netem delay 1ms"),
        ("tbf", "tc qdisc add dev lo root tbf rate 1mbit burst 10k limit 10k"),
        ("nft", "nft add table inet x"),
        ("iptables", "iptables -A INPUT -j ACCEPT"),
        ("ip6tables", "ip6tables -A INPUT -j ACCEPT"),
    ],
)
def test_a_feature_is_there_exactly_where_it_works(host: object, feature: str, command: str) -> None:
    seen = host_facts("a", "1f", want={feature}).features
    assert (feature in seen) is _works(*command.split())
    assert seen <= {feature}


@kernel
def test_all_features_at_once(host: object) -> None:
    one_by_one = {name for name in facts.FEATURES if facts.features(frozenset({name}))}
    assert facts.features(facts.FEATURES | {"nonsense", "cgroup:nonsense"}) == one_by_one
    assert {"overlay", "time-namespace", "user-namespace"} <= one_by_one


@kernel
@view.LIMITS
def test_controllers(host: object) -> None:
    assert "cgroup:memory" in facts.features(frozenset({"cgroup:memory", "cgroup:nosuch"}))
    assert facts.features(frozenset({"cgroup:nosuch"})) == frozenset()


def test_nothing_is_probed_unasked(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: object, **__: object) -> None:
        raise AssertionError("a probe that nobody asked for")

    monkeypatch.setattr(netfilter, "in_scratch_netns", never)
    monkeypatch.setattr(netfilter, "run", never)
    assert facts.features(frozenset()) == frozenset()


def test_programs_that_are_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(netfilter, "find_program", lambda _: None)
    assert facts.features(frozenset({"nft", "iptables", "ip6tables"})) == frozenset()


# -- DNS -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "servers"),
    [
        ("nameserver 192.0.2.53\nnameserver 2001:db8::53\nsearch lab\n", ("192.0.2.53", "2001:db8::53")),
        (
            "# nameserver 9.9.9.9\n\tnameserver   192.0.2.53   # mine\nnameserver 192.0.2.53\n",
            ("192.0.2.53",),
        ),
        ("nameserver 127.0.0.53\noptions edns0\n", ("198.51.100.1", "198.51.100.2")),
        ("nameserver ::1\nnameserver 192.0.2.53\n", ("192.0.2.53",)),
        ("nameserver fe80::1%eth0\nnameserver\nnameserver x\n", ("198.51.100.1", "198.51.100.2")),
        (None, ("198.51.100.1", "198.51.100.2")),
    ],
)
def test_upstream_dns(tmp_path: Path, text: str | None, servers: tuple[str, ...]) -> None:
    resolv_conf, resolved = tmp_path / "resolv.conf", tmp_path / "resolved"
    if text is not None:
        resolv_conf.write_text(text)
    resolved.write_text("nameserver 198.51.100.1\nnameserver 127.0.0.1\nnameserver 198.51.100.2\n")
    assert upstream_dns(str(resolv_conf), str(resolved)) == servers


def test_no_dns_at_all(tmp_path: Path) -> None:
    assert upstream_dns(str(tmp_path / "none"), str(tmp_path / "neither")) == ()
