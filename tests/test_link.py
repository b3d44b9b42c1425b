"""link: a cable of a running lab is unplugged, slowed down, put back and shown."""

from __future__ import annotations

import pytest
from support.runner import Lab, Netorch

pytestmark = pytest.mark.kernel
BOTH = """
bridges: {br0: 10.0.0.1/24}
containers: {red: , blue: }
links:
  - [red, br0]
  - [blue, br0]
  - [red:straight: 10.1.0.1/24, blue:straight: 10.1.0.2/24]
"""


def carrier(lab: Lab, node: str, ifname: str) -> str:
    """The file in sysfs that says whether the cable is plugged in (0 or 1)."""
    return lab.sh(node, f"cat /sys/class/net/{ifname}/carrier")


def test_a_cable_to_a_bridge_loses_carrier_and_comes_back(netorch: Netorch) -> None:
    with netorch.lab(BOTH) as lab:
        netorch("link", "red", "br0", "down")
        assert carrier(lab, "red", "eth0") == "0"
        lab.ping("red", "10.0.0.3", passes=False)
        assert netorch("status", code=1).stdout
        netorch("link", "red:eth0", "up")
        lab.ping("red", "10.0.0.3")
        netorch("status")


def test_a_straight_cable_loses_carrier_at_the_far_end(netorch: Netorch) -> None:
    with netorch.lab(BOTH) as lab:
        netorch("link", "red", "blue", "down")
        assert carrier(lab, "blue", "straight") == "0"
        lab.ping("red", "10.0.0.3")
        netorch("link", "red", "blue", "up")
        lab.ping("red", "10.1.0.2")


def test_what_the_kernel_drops_with_a_cable_comes_back_with_it(netorch: Netorch) -> None:
    text = """
containers:
  red:
    interfaces: {above: {macvlan: bridge, parent: straight, address: 10.2.0.1/24}}
    routes: [10.9.0.0/24 via 10.1.0.2, "fd09::/64 via fd01::2", 10.8.0.0/24 via 10.2.0.2]
  blue:
links:
  - [red:straight: [10.1.0.1/24, "fd01::1/64"], blue:straight: [10.1.0.2/24, "fd01::2/64"]]
"""
    with netorch.lab(text) as lab:
        before = lab.sh("red", "ip -4 route; ip -6 route; ip -br address")
        assert "10.8.0.0/24 via 10.2.0.2 dev above" in before and "fd01::1/64" in before
        for back in ("up", "reset"):
            netorch("link", "red", "blue", "down")
            assert "fd01::1/64" not in lab.sh("red", "ip -6 address")
            netorch("link", "red", "blue", back)
            netorch("status")
            assert lab.sh("red", "ip -4 route; ip -6 route; ip -br address") == before


def test_a_rate_is_set_at_both_ends_shown_and_taken_back(netorch: Netorch) -> None:
    with netorch.lab(BOTH) as lab:
        netorch("link", "red", "blue", "set", "rate=5mbit")
        for node in ("red", "blue"):
            assert "5Mbit" in lab.sh(node, "tc qdisc show dev straight")
        (row,) = netorch("link", "red", "blue", "show", "--json").json()
        assert {end: values["rate"] for end, values in row["impairments"].items()} == {
            "red:straight": 5_000_000,
            "blue:straight": 5_000_000,
        }
        netorch("link", "red", "blue", "reset")
        assert "5Mbit" not in lab.sh("red", "tc qdisc show dev straight")
        netorch("status")


def test_up_takes_a_change_back(netorch: Netorch) -> None:
    with netorch.lab(BOTH) as lab:
        netorch("link", "red", "blue", "set", "rate=5mbit")
        netorch("link", "red", "br0", "down")
        drift = netorch("status", "--json", code=1).json()["drift"]
        assert sorted(entry["object"].split()[0] for entry in drift) == ["cable", "qdisc", "qdisc"]
        netorch("up")
        netorch("status")
        lab.ping("red", "10.0.0.3")


def test_wrong_words(netorch: Netorch) -> None:
    with netorch.lab(BOTH):
        for words, told in {
            "red green down": "no cable between red and green",
            "red br0": "an action",
            "red br0 set loss=x": "expected a percentage",
            "red br0 set speed=1": "unknown setting 'speed'",
            "red br0 set": "K=V",
            "red br0 down now": "nothing more",
        }.items():
            assert told in netorch("link", *words.split(), code=2).stderr
