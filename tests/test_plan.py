"""plan: what differs between two states, and the order in which it is put right."""

from __future__ import annotations

from typing import Any

import pytest

from netns_orch.plan import Phase, Plan, diff, drift_of, restarted
from netns_orch.resources import (
    HOST,
    Address,
    Bridge,
    Cable,
    CableEnd,
    Cgroup,
    Container,
    Hop,
    HostSysctl,
    HostTable,
    NetnsName,
    Process,
    Resource,
    Route,
    Setup,
    State,
)


def cable(container: str, **changes: Any) -> Cable:
    return Cable(
        a=CableEnd(node=container, ifname="eth0", mac=f"02:00:00:00:00:{len(container):02x}"),
        b=CableEnd(node=HOST, ifname=f"v{container}", mac="02:00:00:00:01:00", bridge="br0"),
        **changes,
    )


def container(name: str, digest: str = "one") -> list[Resource]:
    return [
        Cgroup(container=name),
        Container(name=name, digest=digest),
        NetnsName(container=name, name=f"lab.{name}"),
        cable(name),
        Address(owner=name, ifname="eth0", cidr="10.0.0.2/24"),
        Route(owner=name, family=4, dst="0.0.0.0/0", hops=(Hop(via="10.0.0.1", dev="eth0"),)),
        Process(container=name, digest="idle"),
    ]


HOST_PART: list[Resource] = [
    HostTable(forward=(("lab-br0", "nat"),)),
    HostSysctl(name="net.ipv4.ip_forward", value="1"),
    Bridge(name="br0", ifname="lab-br0", mac="02:00:00:00:02:00"),
]


def lab(*containers: str) -> State:
    return State([*HOST_PART, *(r for name in containers for r in container(name))])


def actions(plan: Plan) -> list[tuple[str, str]]:
    return [(change.action, change.resource.key) for change in plan.changes]


def test_equal_states_need_nothing() -> None:
    assert len(diff(lab("red", "blue"), lab("red", "blue"))) == 0


def test_up_from_nothing_makes_each_thing_once_and_guards_before_it_opens() -> None:
    plan = diff(lab("red"), State())
    assert {action for action, _ in actions(plan)} == {"create"}
    assert [change.phase for change in plan.changes] == sorted(change.phase for change in plan.changes)
    keys = [key for _, key in actions(plan)]
    assert sorted(keys) == sorted(lab("red"))
    order = ["host-sysctl net.ipv4.ip_forward", "table", "cgroup red", "container red", "process red"]
    assert [key for key in keys if key in order] == order


def test_down_names_what_does_not_end_with_its_container() -> None:
    plan = diff(State(), lab("red"))
    assert actions(plan) == [
        ("remove", "container red"),
        ("remove", "bridge br0"),
        ("remove", "cable red:eth0 host:vred"),
        ("remove", "host-sysctl net.ipv4.ip_forward"),
        ("remove", "cgroup red"),
        ("remove", "netns-name red"),
        ("remove", "table"),
    ]


def test_a_container_more_touches_no_other() -> None:
    plan = diff(lab("red", "blue"), lab("red"))
    assert {change.resource.node for change in plan.changes} == {"blue"}


def test_a_changed_spec_makes_that_container_anew_last_and_keeps_its_network() -> None:
    desired = State([*HOST_PART, *container("red", digest="two"), *container("blue")])
    plan = diff(desired, lab("red", "blue"))
    assert actions(plan) == [("anew", "container red"), ("create", "process red")]
    assert {change.phase for change in plan.changes} == {Phase.ANEW}


def test_a_changed_setup_makes_its_container_anew() -> None:
    before = State([*lab("red").values(), Setup(container="red", commands=(("true",),))])
    after = State([*lab("red").values(), Setup(container="red", commands=(("false",),))])
    assert actions(diff(after, before)) == [
        ("anew", "container red"),
        ("create", "process red"),
        ("create", "setup red"),
    ]
    assert ("anew", "container red") in actions(diff(lab("red"), before))
    anew = next(change for change in diff(after, before).changes if change.resource.key == "container red")
    assert drift_of(anew)["what"] == "is to be made anew: its setup changed", "nothing of it differs itself"


def test_a_changed_command_does_not() -> None:
    resources = [r for r in lab("red").values() if not isinstance(r, Process)]
    plan = diff(State([*resources, Process(container="red", digest="new")]), lab("red"))
    assert actions(plan) == [("change", "process red")]


def test_a_cable_changes_in_place_and_says_what() -> None:
    changed = State([cable("red", mtu=1400) if isinstance(r, Cable) else r for r in lab("red").values()])
    plan = diff(changed, lab("red"))
    assert plan.lines() == ["~ cable red:eth0 host:vred  (mtu 1500 -> 1400)"]


def test_extra_is_told_and_never_a_change() -> None:
    daemon = Route(owner="red", family=4, dst="10.9.0.0/16", hops=(Hop(via="10.0.0.9", dev="eth0"),))
    plan = diff(lab("red"), State(lab("red").values(), extra=[daemon]))
    assert len(plan) == 0
    assert plan.extra == (daemon,)


def test_a_straight_cable_between_containers_that_go_ends_with_them() -> None:
    straight = Cable(
        a=CableEnd(node="red", ifname="eth1", mac="02:00:00:00:03:01"),
        b=CableEnd(node="blue", ifname="eth1", mac="02:00:00:00:03:02"),
    )
    both = State([*lab("red", "blue").values(), straight])
    assert straight.key not in [key for _, key in actions(diff(State(), both))]
    assert straight.key in [key for _, key in actions(diff(lab("red", "blue"), both))]


@pytest.mark.parametrize("names", [("red",), ("red", "blue"), ("a", "b", "c")])
def test_batches_hold_all_changes_in_order(names: tuple[str, ...]) -> None:
    plan = diff(lab(*names), State())
    batches = list(plan.batches())
    assert [batch.phase for batch in batches] == sorted({change.phase for change in plan.changes})
    assert [change for batch in batches for change in batch.changes] == list(plan.changes)


def test_json_names_both_sides_and_the_cause() -> None:
    entry = diff(lab("red"), lab()).to_json()["changes"][0]
    assert entry["action"] == "create" and entry["before"] is None and entry["after"]["kind_of"] == "cgroup"


def test_a_restart_touches_only_what_is_named() -> None:
    desired = State([*HOST_PART, *container("red"), *container("blue")])
    drifted = State([r for r in desired.values() if r.key != "address blue:eth0 10.0.0.2/24"])
    assert len(drifted) == len(desired) - 1
    plan = restarted(desired, drifted, ["red"])
    found = [(change.action, change.resource.key, change.cause) for change in plan.changes]
    assert found == [("anew", "container red", "restarted"), ("create", "process red", "restarted")]
    assert {change.phase for change in plan.changes} == {Phase.ANEW}


def test_a_restart_of_one_that_died_is_all_that_is_missing() -> None:
    desired = State([*HOST_PART, *container("red"), *container("blue")])
    dead = State([r for r in desired.values() if r.node != "red" or isinstance(r, Cgroup)])
    made = {change.resource.key for change in restarted(desired, dead, ["red"]).changes}
    assert {"container red", "process red"} <= made and not any("blue" in key for key in made)
