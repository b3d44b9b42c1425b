"""The way of a packet through a state: layer 2, routing decisions, firewalls, verdicts.  No kernel."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address
from typing import Any

import pytest
from support.topologies import box, bridge, end, inside, lab, link, rule, via

from netns_orch import graph
from netns_orch.errors import UsageError
from netns_orch.labfile.model import Firewall, FirewallRule, Host, Namespaces, PortVlan
from netns_orch.resolve import resolve
from netns_orch.resources import Firewall as FirewallResource
from netns_orch.resources import State
from netns_orch.trace import Measured, NodeFacts, Path, endpoint, judge, predict
from netns_orch.trace.filters import Packet
from netns_orch.trace.filters import judge as judge_filters


def state(*links: Any, **more: Any) -> State:
    """The desired state of a lab."""
    return resolve(graph.wire(lab(*links, **more)), id="1")


def rules(*texts: str) -> Firewall:
    """Typed rules of a container."""
    return Firewall(rules=[FirewallRule(text=text) for text in texts])


def way(found: Path) -> str:
    """The nodes there, and how it ends."""
    lost = f" {found.lost.kind} at {found.lost.node}" if found.lost else ""
    return " ".join(found.there.nodes) + f": {found.there.end}{lost}"


HOME = {"a": [via("default", "10.0.1.1")], "b": [via("default", "10.0.2.1")]}


def routed(**more: Any) -> State:
    """a - r - b, with what else is said of each."""
    named = {
        "a": box(routes=HOME["a"]),
        "r": box(router=True),
        "b": box(routes=HOME["b"]),
        **more,
    }
    return state(
        link(end("a", "10.0.1.2/24"), end("r:in", "10.0.1.1/24")),
        link(end("r:out", "10.0.2.1/24"), end("b", "10.0.2.2/24")),
        **named,
    )


def test_there_and_back() -> None:
    found = predict(routed(), "a", "10.0.2.2")
    assert way(found) == "a r b: arrives"
    assert found.back is not None and found.back.nodes == ["b", "r", "a"]
    assert (found.src, found.destination) == ("10.0.1.2", "b")


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({"b": box()}, "a r b: arrives route at b"),
        ({"a": box()}, "a: lost route at a"),
        ({"r": box()}, "a r: lost forwarding at r"),
        ({"a": box(routes=[via("default", "10.0.1.9")])}, "a: lost gateway at a"),
        ({"a": box(routes=[via("10.0.2.0/24", type="blackhole")])}, "a: lost route at a"),
        ({"r": box(router=True, iptables=rules("-P FORWARD DROP"))}, "a r: lost filter at r"),
        ({"b": box(routes=HOME["b"], iptables=rules("-A INPUT -j DROP"))}, "a r b: lost filter at b"),
        ({"a": box(routes=HOME["a"], iptables=rules("-A INPUT -j DROP"))}, "a r b: arrives filter at a"),
        ({"r": box(router=True, sysctls={"net.ipv4.conf.all.rp_filter": "1"})}, "a r b: arrives"),
    ],
)  # fmt: skip
def test_one_thing_is_broken(changed: Any, expected: str) -> None:
    assert way(predict(routed(**changed), "a", "10.0.2.2")) == expected


def test_rp_filter_drops_what_it_would_answer_elsewhere() -> None:
    strict = box(
        router=True,
        sysctls={"net.ipv4.conf.all.rp_filter": "1"},
        routes=[via("10.0.1.2/32", "10.0.2.2")],
    )
    assert way(predict(routed(r=strict), "a", "10.0.2.2")) == "a r: lost reverse-path at r"


def test_an_unplugged_cable_is_named() -> None:
    broken = state(
        link(end("a", "10.0.1.2/24"), end("r:in", "10.0.1.1/24")),
        link(end("r:out", "10.0.2.1/24"), end("b", "10.0.2.2/24"), up=False),
        a=box(routes=[via("default", "10.0.1.1")]), r=box(router=True), b=box(),
    )  # fmt: skip
    found = predict(broken, "a", "10.0.2.2")
    assert found.lost is not None
    assert (found.lost.node, found.lost.kind) == ("r", "unplugged")
    assert "r:out - b:eth0" in found.lost.why


def test_the_cable_of_somebody_else_is_not_to_blame() -> None:
    here = state(
        link("a", "br"), link("b", "br"), link("c", "br", up=False),
        br=bridge(subnet="10.0.0.0/24"), a=box(), b=box(), c=box(),
    )  # fmt: skip
    assert way(predict(here, "a", "10.0.0.2")) == "a b: arrives"
    assert way(predict(here, "a", "10.0.0.3")) == "a: lost unplugged at a"
    assert way(predict(here, "a", "10.0.0.99")) == "a: lost gateway at a"


def test_vlans_keep_ports_apart() -> None:
    def port(number: int) -> Any:
        return end("sw", vlan=PortVlan(access=number))

    here = state(
        link(end("a", "10.0.0.1/24"), port(10)), link(end("b", "10.0.0.2/24"), port(10)),
        link(end("c", "10.0.0.3/24"), port(20)),
        sw=bridge(), a=box(), b=box(), c=box(),
    )  # fmt: skip
    assert way(predict(here, "a", "10.0.0.2")) == "a b: arrives"
    assert way(predict(here, "a", "10.0.0.3")) == "a: lost gateway at a"


def test_a_router_on_a_stick() -> None:
    trunk = end("sw", vlan=PortVlan(trunk=[10, 20]))
    inner = [inside(f"eth0.{n}", "vlan", f"10.0.{n}.1/24", parent="eth0", id=n) for n in (10, 20)]
    here = state(
        link("r", trunk),
        link(end("a", "10.0.10.2/24"), end("sw", vlan=PortVlan(access=10))),
        link(end("b", "10.0.20.2/24"), end("sw", vlan=PortVlan(access=20))),
        sw=bridge(),
        r=box(router=True, interfaces=inner),
        a=box(routes=[via("default", "10.0.10.1")]),
        b=box(routes=[via("default", "10.0.20.1")]),
    )
    found = predict(here, "a", "10.0.20.2")
    assert way(found) == "a r b: arrives"
    assert (found.there.hops[1].iif, found.there.hops[1].oif) == ("eth0.10", "eth0.20")


def test_isolated_ports_reach_only_the_bridge() -> None:
    here = state(link("a", "br"), link("b", "br"), br=bridge("10.0.0.1/24", isolated=True), a=box(), b=box())
    assert way(predict(here, "a", "10.0.0.3")) == "a: lost gateway at a"
    assert way(predict(here, "a", "10.0.0.1")) == "a host: arrives"


def test_longest_prefix_metric_and_tables() -> None:
    asking = box(
        routes=[
            via("default", "10.0.0.11"),
            via("10.9.0.0/16", "10.0.0.12", metric=20),
            via("10.9.0.0/16", "10.0.0.13", metric=10),
            via("10.9.9.0/24", "10.0.0.12"),
            via("default", "10.0.0.13", table="100"),
        ],
        rules=[rule(to="10.8.0.0/16", table="100"), rule(to="10.7.0.0/16", action="prohibit")],
    )
    here = state(
        link(end("a", "10.0.0.1/24"), "br"),
        *(link(end(f"r{n}", f"10.0.0.1{n}/24"), "br") for n in (1, 2, 3)),
        br=bridge(), a=asking, r1=box(), r2=box(), r3=box(),
    )  # fmt: skip
    next_hops = {
        dst: predict(here, "a", dst).there.hops[0].via
        for dst in ("1.1.1.1", "10.9.9.9", "10.9.1.1", "10.8.0.1")
    }
    assert next_hops == {
        "1.1.1.1": "10.0.0.11", "10.9.9.9": "10.0.0.12", "10.9.1.1": "10.0.0.13", "10.8.0.1": "10.0.0.13",
    }  # fmt: skip
    lost = predict(here, "a", "10.7.0.1").lost
    assert lost is not None and "priority" in lost.why


def test_a_loop_ends() -> None:
    here = state(
        link(end("a", "10.0.0.1/30"), end("b", "10.0.0.2/30")),
        a=box(router=True, routes=[via("default", "10.0.0.2")]),
        b=box(router=True, routes=[via("default", "10.0.0.1")]),
    )
    assert way(predict(here, "a", "9.9.9.9")) == "a b a: lost loop at b"


def test_a_container_that_masquerades() -> None:
    hiding = box(router=True, iptables=rules("-t nat -A POSTROUTING -o out -j MASQUERADE"))
    found = predict(routed(r=hiding, b=box()), "a", "10.0.2.2")
    assert way(found) == "a r b: arrives"
    assert found.back is not None and found.back.nodes == ["b", "r", "a"]


def test_the_member_of_a_pod_has_the_network_of_the_pod() -> None:
    here = routed(side=box(namespaces=Namespaces(net="a")))
    assert endpoint(here, "side")[0] == "a"


def test_names_mean_what_the_hosts_file_says() -> None:
    here = state(
        link("a", "one"), link("b", "two"), link("b", "one"),
        one=bridge(subnet="10.0.1.0/24"), two=bridge(subnet="10.0.2.0/24"), a=box(), b=box(),
    )  # fmt: skip
    assert endpoint(here, "b", seen_from="a") == ("b", "10.0.1.2")
    assert endpoint(here, "b") == ("b", "10.0.2.1")
    assert endpoint(here, "10.0.2.1") == ("b", "10.0.2.1")
    assert endpoint(here, "8.8.8.8") == (None, "8.8.8.8")
    with pytest.raises(UsageError, match="neither"):
        endpoint(here, "c")
    with pytest.raises(UsageError, match="no IPv6 address"):
        endpoint(here, "b", family=6)


def test_the_host_routes_between_bridges_only_where_the_file_says_so() -> None:
    parts = {"one": bridge("10.0.1.1/24"), "two": bridge("10.0.2.1/24"), "a": box(), "b": box()}
    links = (link("a", "one"), link("b", "two"))
    assert way(predict(state(*links, **parts), "a", "10.0.2.2")) == "a host: lost filter at host"
    assert (
        way(predict(state(*links, host=Host(router=True), **parts), "a", "10.0.2.2")) == "a host b: arrives"
    )
    assert way(predict(state(*links, **parts), "a", "8.8.8.8")) == "a host: outside"
    shut = {**parts, "one": bridge("10.0.1.1/24", forward="none")}
    assert way(predict(state(*links, **shut), "a", "8.8.8.8")) == "a host: lost filter at host"


# -- firewalls -----------------------------------------------------------------------------------

PING = Packet(ip_address("10.0.1.2"), ip_address("10.0.2.2"), "in", "out")


@pytest.mark.parametrize(
    ("texts", "passes"),
    [
        (["-P FORWARD DROP"], False),
        (["-P FORWARD DROP", "-A FORWARD -s 10.0.1.0/24 -j ACCEPT"], True),
        (["-A FORWARD ! -s 10.0.1.0/24 -j DROP"], True),
        (["-A FORWARD -p tcp --dport 80 -j DROP"], True),
        (["-A FORWARD -p icmp -j REJECT"], False),
        (["-A FORWARD -i in+ -o out -j DROP"], False),
        (["-A FORWARD -m conntrack --ctstate ESTABLISHED,RELATED -j DROP"], True),
        (["-A FORWARD -m conntrack --ctstate NEW -j DROP"], False),
        (["-N mine", "-A mine -d 10.0.2.2 -j DROP", "-A FORWARD -j mine"], False),
        (["-N mine", "-A mine -j RETURN", "-A FORWARD -j mine", "-A FORWARD -j DROP"], False),
        (["-A FORWARD -j DROP", "-I FORWARD -j ACCEPT"], True),
        (["-A INPUT -j DROP"], True),
        (["-t nat -A PREROUTING -j DROP"], True),
        (["-t filter -A FORWARD -j DROP"], False),
    ],
)
def test_rules(texts: list[str], passes: bool) -> None:
    firewall = FirewallResource(container="r", program="iptables", rules=tuple(texts))
    judged = judge_filters([firewall], "FORWARD", PING)
    assert (judged.passes, judged.unsure) == (passes, [])


def test_the_text_of_iptables_save() -> None:
    lines = ["*nat", ":POSTROUTING ACCEPT", "COMMIT", "*filter", ":FORWARD DROP [0:0]"]
    text = "\n".join([*lines, "-A FORWARD -p tcp -j ACCEPT", "COMMIT", ""])
    judged = judge_filters([FirewallResource(container="r", program="iptables", text=text)], "FORWARD", PING)
    assert (judged.passes, judged.by) == (False, "-P FORWARD DROP")


def test_what_is_not_understood_is_told() -> None:
    firewall = FirewallResource(
        container="r", program="iptables", rules=("-A FORWARD -m random --probability 0.5 -j DROP",)
    )
    judged = judge_filters([firewall], "FORWARD", PING)
    assert judged.passes and judged.unsure == ["-A FORWARD -m random --probability 0.5 -j DROP"]
    found = predict(routed(r=box(router=True, nftables="table inet x {}")), "a", "10.0.2.2")
    assert found.unsure == ["r: its nftables ruleset"]


# -- verdicts ------------------------------------------------------------------------------------


def verdict(found: Path, *kinds: tuple[str | None, str], **facts: tuple[NodeFacts, NodeFacts]) -> Any:
    """What is made of answers (from which node, of which kind) and of facts by node."""
    measured = [Measured(ttl, node, kind) for ttl, (node, kind) in enumerate(kinds, 1)]
    owners: dict[str, str | None] = {node: node for node, _ in kinds if node}
    return judge(predict(routed(), "a", "10.0.2.2"), found, measured, owners, facts)


def test_as_predicted() -> None:
    found = verdict(predict(routed(), "a", "10.0.2.2"), ("r", "exceeded"), ("b", "reply"))
    assert (found.reached, found.as_predicted, found.lost) == (True, True, None)


def test_a_rule_that_counted_is_to_blame() -> None:
    counted = (NodeFacts({"-A FORWARD -j DROP": 1}), NodeFacts({"-A FORWARD -j DROP": 4}))
    found = verdict(predict(routed(), "a", "10.0.2.2"), ("r", "exceeded"), (None, "silence"), r=counted)
    assert (found.lost.node, found.lost.why) == ("r", "r drops it: -A FORWARD -j DROP")


def test_a_rule_that_counted_nothing_more_is_not() -> None:
    same = (NodeFacts({"-A FORWARD -j DROP": 4}), NodeFacts({"-A FORWARD -j DROP": 4}))
    found = verdict(predict(routed(), "a", "10.0.2.2"), ("r", "exceeded"), (None, "silence"), r=same)
    assert (found.lost.node, found.lost.kind) == ("r", "unknown")
    assert "between r and b" in found.lost.why


def test_what_the_kernels_state_lacks_is_to_blame() -> None:
    found = verdict(predict(routed(b=box()), "a", "10.0.2.2"), ("r", "exceeded"), (None, "silence"))
    assert (found.lost.node, found.lost.kind, found.as_predicted) == ("b", "route", False)


def test_a_neighbour_that_does_not_answer() -> None:
    facts = (NodeFacts(), NodeFacts(neighbours={("out", "10.0.2.2"): "INCOMPLETE"}))
    found = verdict(predict(routed(), "a", "10.0.2.2"), ("r", "exceeded"), (None, "silence"), r=facts)
    assert (found.lost.node, found.lost.kind) == ("r", "gateway")


def test_a_firewall_that_was_changed_is_not_judged_by_what_was_applied() -> None:
    here = routed(r=box(router=True, iptables=rules("-P FORWARD DROP")))
    firewall = here.of(FirewallResource)[0]
    changed = State([*(r for r in here.values() if r.key != firewall.key), replace(firewall, intact=False)])
    found = predict(changed, "a", "10.0.2.2")
    assert way(found) == "a r b: arrives"
    assert found.unsure == ["firewall r iptables: not as it was applied"]
