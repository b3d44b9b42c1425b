"""``netorch path``: the hop that it names, in labs that are broken in one place each, on the real kernel."""

from __future__ import annotations

from typing import Any

import pytest
from support import outside
from support.runner import TOPOLOGIES, Lab, Netorch

kernel = pytest.mark.kernel
CHAIN = """
bridges:
  left: {subnet: 10.1.1.0/24}
  right: {subnet: 10.1.3.0/24}
containers:
  red: {routes: [default via 10.1.1.1]}
  r1: {router: true, routes: [10.1.3.0/24 via 10.1.2.2]}
  r2: {router: true, routes: [10.1.1.0/24 via 10.1.2.1]}
  blue: {routes: [default via 10.1.3.1]}
links:
  - [r1, left]
  - [red, left]
  - endpoints: [r1:wan: 10.1.2.1/30, r2:wan: 10.1.2.2/30]
  - [r2, right]
  - [blue, right]
"""
"""red - left - r1 - r2 - right - blue"""


def path(lab: Lab, source: str, destination: str, *options: str, code: int = 0) -> Any:
    """What ``path --probe`` says, as data."""
    words = ("path", source, destination, "--probe", "--json", *options)
    return lab.netorch(*words, code=code).json()


def nodes(way: Any) -> list[str]:
    """The nodes of a predicted way."""
    return [hop["node"] for hop in way["hops"]]


@kernel
def test_the_measured_way_is_the_predicted_one(netorch: Netorch) -> None:
    with netorch.lab(CHAIN) as lab:
        found = path(lab, "red", "blue")
        assert found["arrives"] is True
        assert nodes(found["there"]) == ["red", "r1", "r2", "blue"]
        assert nodes(found["back"]) == ["blue", "r2", "r1", "red"]
        assert [hop["node"] for hop in found["measured"]["hops"]] == ["r1", "r2", "blue"]
        assert found["measured"]["as_predicted"] is True
        assert found["there"]["hops"][1] == {
            "node": "r1", "iif": "eth0", "address": "10.1.1.1", "oif": "wan", "via": "10.1.2.2",
            "route": "10.1.3.0/24", "others": [],
        }  # fmt: skip
        text = netorch("path", "red", "blue", "--probe").stdout
        assert "measured: it arrives" in text and "back: blue > r2 > r1 > red" in text


@kernel
def test_a_missing_return_route_in_the_file(netorch: Netorch) -> None:
    with netorch.lab(CHAIN.replace("routes: [10.1.1.0/24 via 10.1.2.1]", "routes: []")) as lab:
        found = path(lab, "red", "blue", code=1)
        assert found["there"]["end"] == "arrives"
        assert found["back"]["lost"]["node"] == found["measured"]["lost"]["node"] == "r2"
        assert found["measured"]["lost"]["kind"] == "route"
        assert "r2 has no route to 10.1.1.2" in found["measured"]["lost"]["why"]
        assert found["measured"]["hops"][0]["node"] == "r1"
        text = netorch("path", "red", "blue", "--probe", code=1).stdout
        assert "measured: its answer is lost at r2" in text or "measured: lost at r2" in text


@kernel
def test_a_return_route_that_somebody_took_away(netorch: Netorch) -> None:
    """The file predicts that all is well; the kernel's own state says what is missing."""
    with netorch.lab(CHAIN) as lab:
        lab.sh("blue", "ip route del default")
        found = path(lab, "red", "blue", code=1)
        assert found["back"]["end"] == "arrives"
        assert (found["measured"]["lost"]["node"], found["measured"]["lost"]["kind"]) == ("blue", "route")
        assert found["measured"]["as_predicted"] is False
        assert [hop["node"] for hop in found["measured"]["hops"]][:2] == ["r1", "r2"]
        lab.netorch("up", lab.file)
        assert path(lab, "red", "blue")["arrives"] is True


@kernel
@pytest.mark.parametrize("rules", ["-P FORWARD DROP", "-A FORWARD -s 10.1.1.0/24 -j DROP"])
def test_a_forward_drop_in_the_file(netorch: Netorch, rules: str) -> None:
    text = CHAIN.replace("r2: {router: true,", f'r2: {{router: true, iptables: ["{rules}"],')
    with netorch.lab(text) as lab:
        found = path(lab, "red", "blue", code=1)
        assert found["there"]["lost"]["node"] == found["measured"]["lost"]["node"] == "r2"
        assert found["measured"]["lost"]["kind"] == "filter"
        assert rules.removeprefix("-A FORWARD ").removesuffix(" -j DROP") in found["measured"]["lost"]["why"]
        assert "it counted 3 packets" in found["measured"]["lost"]["hint"]
        assert found["measured"]["as_predicted"] is True


@kernel
@pytest.mark.parametrize(
    "command",
    [
        "iptables -A FORWARD -p icmp -j DROP",
        "nft add table inet mine;"
        " nft add chain inet mine fw '{ type filter hook forward priority 0; }';"
        " nft add rule inet mine fw ip protocol icmp counter drop",
    ],
    ids=["iptables", "nft"],
)
def test_a_forward_drop_that_no_file_tells_of(netorch: Netorch, command: str) -> None:
    with netorch.lab(CHAIN) as lab:
        lab.sh("r1", command)
        found = path(lab, "red", "blue", code=1)
        assert found["there"]["end"] == "arrives"
        assert (found["measured"]["lost"]["node"], found["measured"]["lost"]["kind"]) == ("r1", "filter")
        assert "icmp" in found["measured"]["lost"]["why"]


@kernel
def test_a_drop_of_the_answer(netorch: Netorch) -> None:
    with netorch.lab(CHAIN) as lab:
        lab.sh("r1", "iptables -A FORWARD -i wan -j DROP")
        lost = path(lab, "red", "blue", code=1)["measured"]["lost"]
        assert (lost["node"], lost["kind"]) == ("r1", "filter")
        assert "-i wan" in lost["why"]


@kernel
@pytest.mark.parametrize("ends", ["r1:wan: 10.1.2.1/30, r2:wan: 10.1.2.2/30", "right"])
def test_an_unplugged_cable_in_the_file(netorch: Netorch, ends: str) -> None:
    if ends == "right":
        text, node = CHAIN.replace("- [blue, right]", "- {endpoints: [blue, right], state: down}"), "r2"
    else:
        text, node = CHAIN.replace(f"endpoints: [{ends}]", f"{{endpoints: [{ends}], state: down}}"), "r1"
    with netorch.lab(text) as lab:
        found = path(lab, "red", "blue", code=1)
        assert found["there"]["lost"]["node"] == found["measured"]["lost"]["node"] == node
        assert found["measured"]["lost"]["kind"] == "unplugged"
        assert "cable" in found["measured"]["lost"]["why"]


@kernel
def test_a_cable_that_somebody_unplugged(netorch: Netorch) -> None:
    with netorch.lab(CHAIN) as lab:
        lab.sh("r2", "ip link set wan down")
        found = path(lab, "red", "blue", code=1)
        assert found["there"]["end"] == "arrives"
        lost = found["measured"]["lost"]
        assert (lost["node"], lost["kind"]) == ("r1", "unplugged")
        assert "r1:wan - r2:wan" in lost["why"]


@kernel
def test_a_wrong_gateway_in_the_file(netorch: Netorch) -> None:
    """In its subnet, but nobody has it."""
    with netorch.lab(
        CHAIN.replace("red: {routes: [default via 10.1.1.1]}", "red: {routes: [default via 10.1.1.9]}")
    ) as lab:
        found = path(lab, "red", "blue", code=1)
        assert found["there"]["lost"]["node"] == found["measured"]["lost"]["node"] == "red"
        assert found["measured"]["lost"]["kind"] == "gateway"
        assert "10.1.1.9" in found["measured"]["lost"]["why"]


@kernel
def test_a_wrong_gateway_further_on(netorch: Netorch) -> None:
    with netorch.lab(CHAIN) as lab:
        lab.sh("r1", "ip route replace 10.1.3.0/24 via 10.1.1.77")
        lost = path(lab, "red", "blue", code=1)["measured"]["lost"]
        assert (lost["node"], lost["kind"]) == ("r1", "gateway")
        assert "10.1.1.77" in lost["why"]


@kernel
def test_a_router_that_does_not_forward(netorch: Netorch) -> None:
    with netorch.lab(CHAIN) as lab:
        lab.sh("r2", "echo 0 > /proc/sys/net/ipv4/ip_forward")
        lost = path(lab, "red", "blue", code=1)["measured"]["lost"]
        assert (lost["node"], lost["kind"]) == ("r2", "forwarding")


@kernel
def test_the_host_between_two_bridges(netorch: Netorch) -> None:
    """It is no router unless the file says so, and with ``forward: none`` not at all."""
    text = (
        "bridges: {a: 10.0.1.1/24, b: 10.0.2.1/24}\ncontainers: {red: , blue: }\n"
        "links: [[red, a], [blue, b]]\n"
    )
    with netorch.lab(text) as lab:
        found = path(lab, "red", "blue", code=1)
        assert found["there"]["lost"]["node"] == "host"
        assert found["measured"]["lost"]["why"] == "the host does not route between the lab's bridges a and b"
        netorch.write(text + "host: {router: true}\n")
        netorch("up", lab.file)
        found = path(lab, "red", "blue")
        assert nodes(found["there"]) == ["red", "host", "blue"]
        assert [hop["node"] for hop in found["measured"]["hops"]] == ["host", "blue"]
        netorch.write(text.replace("b: 10.0.2.1/24", "b: {address: 10.0.2.1/24, forward: none}"))
        netorch("up", lab.file)
        found = path(lab, "blue", outside.IPV4, code=1)
        for said in (found["there"], found["measured"]):
            assert said["lost"]["why"] == "bridge b has forward: none"


@kernel
def test_to_the_outside_and_from_the_host(netorch: Netorch) -> None:
    with netorch.lab(TOPOLOGIES / "docker0.yaml") as lab:
        found = path(lab, "web", outside.IPV4, "--lab", "docker0")
        assert (found["there"]["end"], found["destination"]) == ("outside", None)
        assert found["measured"]["reached"] is True
        found = path(lab, "host", "client", "--lab", "docker0")
        assert nodes(found["there"]) == ["host", "client"]
        assert found["measured"]["as_predicted"] is True


@kernel
def test_ipv6(netorch: Netorch) -> None:
    with netorch.lab(TOPOLOGIES / "dual-stack.yaml") as lab:
        options = ("--lab", "dual-stack")
        found = path(lab, "red", "deep", "-6", *options)
        assert [hop["node"] for hop in found["measured"]["hops"]] == ["edge", "deep"]
        assert found["dst"] == "fd00:4:1::2" and found["measured"]["as_predicted"] is True
        lab.sh("edge", "ip6tables -P FORWARD DROP")
        lost = path(lab, "red", "deep", "-6", *options, code=1)["measured"]["lost"]
        assert (lost["node"], lost["kind"]) == ("edge", "filter")
        assert path(lab, "red", "deep", *options)["arrives"] is True


@kernel
def test_equal_cost_ways(netorch: Netorch) -> None:
    text = """
addressing: {p2p: 10.255.0.0/24, loopback: 192.0.2.0/24}
containers:
  s: {scale: 2, router: true, routes: [auto]}
  l: {scale: 2, router: true, routes: [auto]}
links:
  - {endpoints: [s, l], mesh: true}
"""
    with netorch.lab(text) as lab:
        found = path(lab, "l1", "192.0.2.4")
        assert len(found["there"]["hops"][0]["others"]) == 1
        assert found["measured"]["as_predicted"] is True


@kernel
def test_a_private_lab(netorch: Netorch) -> None:
    """Its host is the namespace that stands in the host's place."""
    with netorch.lab(TOPOLOGIES / "red-blue.yaml", "--private") as lab:
        found = path(lab, "host", "red", "--lab", "red-blue")
        assert [hop["node"] for hop in found["measured"]["hops"]] == ["red"]
        found = path(lab, "blue", outside.IPV4, "--lab", "red-blue")
        assert (found["there"]["end"], found["measured"]["reached"]) == ("outside", True)


@kernel
def test_words(netorch: Netorch) -> None:
    with netorch.lab(CHAIN) as lab:
        assert "there are: red, r1, r2, blue" in netorch("path", "red", "green", code=2).stderr
        assert "no address of the lab" in netorch("path", "10.9.9.9", "red", code=2).stderr
        assert (
            netorch("path", "10.1.2.1", "10.1.3.2", "--json").json()["there"]["hops"][0]["address"]
            == "10.1.2.1"
        )
        assert netorch("path", "red", "blue", "--lab", lab.file).code == 0


def test_of_a_file_that_is_not_up(tmp_path: Any) -> None:
    netorch = Netorch(tmp_path)
    file = netorch.write(CHAIN)
    assert "predicted: it arrives" in netorch("path", "red", "blue", "--lab", file).stdout
    assert "not up" in netorch("path", "red", "blue", "--lab", file, "--probe", code=2).stderr
