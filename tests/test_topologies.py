"""Every file in topologies/ is an example and a test: real packets, and proof that they would be missed."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from support import outside, probes
from support.features import can_run
from support.outer import TestHost, run
from support.runner import TOPOLOGIES, Lab, Netorch

kernel = pytest.mark.kernel
FILES = sorted(TOPOLOGIES.glob("*.yaml"))
SEEN_AS = {"4": outside.HOST_ADDRESSES[0].split("/")[0], "6": outside.HOST_ADDRESSES[1].split("/")[0]}


def pings_pass(lab: Lab, *nodes: str) -> None:
    """The first packet between each two containers, right after ``up``."""
    for one, other in itertools.permutations(nodes, 2):
        lab.ping(one, other)


def stop_forwarding(lab: Lab, router: str) -> None:
    """What a broken router does: it is there, and answers, and forwards nothing."""
    lab.sh(router, "echo 0 > /proc/sys/net/ipv4/ip_forward; echo 0 > /proc/sys/net/ipv6/conf/all/forwarding")


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_it_is_a_lesson(file: Path, netorch: Netorch) -> None:
    """It begins with what it shows and what to try, is listed by ``init``, and is valid."""
    text = file.read_text()
    lesson = list(itertools.takewhile(lambda line: line.startswith("#"), text.splitlines()))
    assert lesson[0].endswith("."), "the first line says what it shows, in a sentence"
    assert any(line.startswith("# Try:") for line in lesson)
    assert any(line.startswith("#   netorch ") for line in lesson)
    assert "\nchecks:\n" in text
    examples = {row["name"]: row["summary"] for row in netorch("init", "--json").json()}
    assert examples[file.stem] == lesson[0].lstrip("# ")
    netorch("init", file.stem)
    assert (netorch.directory / "lab.yaml").read_text() == text


@kernel
@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_it_is_valid(file: Path, netorch: Netorch) -> None:
    can_run(netorch, file, programs=False)
    assert netorch("validate", "--json", file).json()["errors"] == []


@kernel
def test_red_blue(netorch: Netorch) -> None:
    with netorch.lab(TOPOLOGIES / "red-blue.yaml") as lab:
        lab.ping("red", "10.0.0.3")
        pings_pass(lab, "red", "blue")
        lab.ping("red", "10.0.0.1")
        assert "default via 10.0.0.1 dev eth0" in lab.sh("red", "ip route")
        assert probes.ttl(lab, "red", "blue") == 64


@kernel
def test_docker0(netorch: Netorch) -> None:
    with netorch.lab(TOPOLOGIES / "docker0.yaml") as lab:
        pings_pass(lab, "web", "client")
        # What the servers outside see is the host's address, and they could not answer another one.
        assert probes.http(lab, "client", f"http://{outside.IPV4}/") == f"you are {SEEN_AS['4']}\n"
        assert probes.udp(lab, "web", outside.IPV4, outside.ECHO_PORT) == SEEN_AS["4"]
        lab.ping("client", outside.IPV4)
        probes.listening(lab, "web", 80)
        assert "Directory listing" in probes.http(lab, "client", "http://web/")


@kernel
def test_docker0_beside_a_host_that_drops_what_it_forwards(netorch: Netorch) -> None:
    with _forward_drop(netorch):
        before = run("iptables-save", "-t", "filter")
        with netorch.lab(TOPOLOGIES / "docker0.yaml") as lab:
            assert probes.http(lab, "client", f"http://{outside.IPV4}/") == f"you are {SEEN_AS['4']}\n"
            lab.ping("client", "web")
        after = run("iptables-save", "-t", "filter")
        assert _rules(after) == _rules(before)


@contextlib.contextmanager
def _forward_drop(netorch: Netorch) -> Iterator[None]:
    """As Docker leaves it: FORWARD has the policy DROP, and only DOCKER-USER is the user's."""
    rules = [":FORWARD DROP", ":DOCKER-USER -", "-A FORWARD -j DOCKER-USER", "-A DOCKER-USER -j RETURN"]
    run("iptables-restore", str(netorch.write("\n".join(["*filter", *rules, "COMMIT", ""]), "rules")))
    try:
        yield
    finally:
        run("nft", "delete", "table", "ip", "filter")


def _rules(saved: str) -> list[str]:
    return [line.split(" [")[0] for line in saved.splitlines() if not line.startswith("#")]


@kernel
def test_two_subnets_router(netorch: Netorch) -> None:
    with netorch.lab(TOPOLOGIES / "two-subnets-router.yaml") as lab:
        pings_pass(lab, "red", "blue", "router")
        assert probes.ttl(lab, "red", "blue") == 63
        stop_forwarding(lab, "router")
        lab.ping("red", "10.1.1.1")
        lab.ping("red", "blue", passes=False)


@kernel
def test_straight_cable(netorch: Netorch) -> None:
    links_before = run("ip", "-brief", "link")
    with netorch.lab(TOPOLOGIES / "straight-cable.yaml") as lab:
        assert run("ip", "-brief", "link") == links_before
        pings_pass(lab, "left", "right")
        assert lab.sh("left", "ip -4 route") == "10.2.0.0/30 dev cable0 proto kernel scope link src 10.2.0.1"
        # A packet of 9000 bytes goes through in one piece.
        lab.exec("left", "ping", "-n", "-c1", "-W1", "-M", "do", "-s", "8972", "right")


@kernel
def test_firewall(netorch: Netorch) -> None:
    with netorch.lab(TOPOLOGIES / "firewall.yaml") as lab:
        for port in (80, 8080):
            probes.listening(lab, "server", port)
        lab.ping("client", "server")
        assert probes.tcp(lab, "client", "server", 80) == "open"
        assert probes.tcp(lab, "client", "server", 8080) == "timeout"
        # Without the rules the same port is open: it was the firewall.
        lab.sh("server", "iptables -F INPUT")
        assert probes.tcp(lab, "client", "server", 8080) == "open"


@kernel
def test_dual_stack(netorch: Netorch) -> None:
    with netorch.lab(TOPOLOGIES / "dual-stack.yaml") as lab:
        for target in ("10.4.0.3", "fd00:4::3", "10.4.1.2", "fd00:4:1::2", "fd00:4::1"):
            lab.ping("red", target)
        for target in ("10.4.0.2", "fd00:4::2"):
            lab.ping("deep", target)
        assert "tentative" not in lab.sh("red", "ip -6 address")
        assert probes.http(lab, "red", f"http://[{outside.IPV6}]/") == f"you are {SEEN_AS['6']}\n"
        assert probes.http(lab, "red", f"http://{outside.IPV4}/") == f"you are {SEEN_AS['4']}\n"
        assert probes.ttl(lab, "red", "fd00:4:1::2") == 63
        stop_forwarding(lab, "edge")
        lab.ping("red", "10.4.1.2", passes=False)
        lab.ping("red", "fd00:4:1::2", passes=False)


@kernel
def test_three_tier(netorch: Netorch) -> None:
    with netorch.lab(TOPOLOGIES / "three-tier.yaml") as lab:
        probes.listening(lab, "app", 8000)
        probes.listening(lab, "db", 5432)
        assert probes.http(lab, "web", "http://app:8000/") == "app db"
        assert probes.tcp(lab, "web", "db", 5432) == "timeout"
        assert probes.tcp(lab, "db", "app", 8000) == "timeout"
        lab.ping("web", "db", passes=False)
        lab.ping("web", "core")
        # The rules were the reason, not a route: with them out of the way, web reaches db.
        lab.sh("core", "iptables -I FORWARD -j ACCEPT")
        assert probes.tcp(lab, "web", "db", 5432) == "open"
        stop_forwarding(lab, "core")
        assert probes.tcp(lab, "web", "app", 8000) == "timeout"


@kernel
@pytest.mark.parametrize("netns", ["host", "private"])
def test_published_ports(netorch: Netorch, host: TestHost, netns: str) -> None:
    options = ["--private"] if netns == "private" else []
    own4, own6 = SEEN_AS["4"], SEEN_AS["6"]
    with _forward_drop(netorch), netorch.lab(TOPOLOGIES / "published-ports.yaml", *options) as lab:
        # The host itself, as the address that it has on the way to web.
        near = "you are 100." if options else "you are 10.44.0.1"
        for address in ("127.0.0.1", own4):
            assert probes.http_by(run, f"http://{address}:8080/").startswith(near)
        assert probes.http_by(run, f"http://[{own6}]:8080/").startswith("you are fd")
        assert probes.udp_by(run, "127.0.0.1", 5353).startswith(near)
        with pytest.raises(RuntimeError, match="refused"):
            probes.http_by(run, "http://[::1]:8080/")
        # From beyond the host, which web sees as it is; the port of 127.0.0.1 is not for it.
        assert probes.http_by(host.in_outside, f"http://{own4}:8080/") == f"you are {outside.IPV4}\n"
        assert probes.http_by(host.in_outside, f"http://[{own6}]:8080/") == f"you are {outside.IPV6}\n"
        with pytest.raises(RuntimeError, match="refused"):
            probes.udp_by(host.in_outside, own4, 5353)
        # Containers: on another bridge, web's neighbour, and web itself.
        for node, gateway in (("client", "10.44.1.1"), ("names", "10.44.0.1"), ("web", "10.44.0.1")):
            assert probes.http(lab, node, f"http://{own4}:8080/").startswith("you are ")
            assert probes.http(lab, node, f"http://[{own6}]:8080/").startswith("you are ")
            seen = "10.44.1.2" if node == "client" else "10.44.0.1"
            assert probes.http(lab, node, f"http://{gateway}:8080/") == f"you are {seen}\n"
        assert probes.tcp(lab, "client", "web", 80) == "timeout"
        ports = {row["name"]: row["ports"] for row in netorch("ps", "--json").json()}
        assert ports == {
            "web": ["0.0.0.0:8080->80/tcp", "[::]:8080->80/tcp"],
            "names": ["127.0.0.1:5353->53/udp"],
            "client": [],
        }
        assert "PORTS" in netorch("ps").stdout


@kernel
def test_layers(netorch: Netorch) -> None:
    netorch("init", "layers")  # with the layers, which lie in a directory of the example's name
    with netorch.lab(netorch.directory / "lab.yaml") as lab:
        for node in ("red", "blue"):
            probes.listening(lab, node, 80)
        assert "Mine alone" in probes.http(lab, "blue", "http://red/")
        assert "The page, updated" in probes.http(lab, "red", "http://blue/")
        assert lab.sh("blue", "cat /etc/motd /srv/notes/red; ls -A /srv/www") == (
            "A lab of layers.\nfrom red\nindex.html"
        )
        lab.sh("red", "echo mine > /etc/motd")
        assert lab.netorch("diff", "red").stdout == (
            "C /etc\nC /etc/motd\nC /srv\nC /srv/www\nC /srv/www/index.html\n"
        )
        assert lab.netorch("diff", "blue").stdout == ""
    assert (netorch.directory / "layers/site/etc/motd").read_text() == "A lab of layers.\n"


@kernel
@pytest.mark.slow
def test_hundred(netorch: Netorch) -> None:
    with netorch.lab(TOPOLOGIES / "hundred.yaml") as lab:
        rows = netorch("ps", "--json", "hundred").json()
        assert [row["name"] for row in rows] == [f"h{n}" for n in range(1, 101)]
        assert rows[41]["addresses"] == ["10.6.0.43/24"]
        assert lab.sh("h42", "hostname; echo $ID") == "h42\n42"
        for one, other in (("h1", "h100"), ("h100", "h1"), ("h50", "10.6.0.1")):
            lab.ping(one, other)


@kernel
@pytest.mark.slow
def test_a_hundred_and_twenty_on_one_bridge_reach_the_gateway(netorch: Netorch) -> None:
    text = (TOPOLOGIES / "hundred.yaml").read_text().replace("scale: 100", "scale: 120")
    with netorch.lab(text) as lab, ThreadPoolExecutor(2) as pool:
        results = pool.map(lambda n: _ping_gateway(lab, f"h{n}"), range(1, 121))
        assert [result for result in results if result] == []


def _ping_gateway(lab: Lab, node: str) -> str | None:
    result = lab.exec(node, "ping", "-n", "-c1", "-W1", "10.6.0.1", code=None)
    return None if result.code == 0 else str(result)
