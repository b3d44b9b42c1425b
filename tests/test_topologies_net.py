"""The topologies about networks: real packets prove what each file says, and that it would be missed.

Each lab is brought up once: what was built is what was planned, and what ``plan --format shell`` builds; and
nothing has drifted when the test was done with it.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterator

import pytest
from support import netstate, outside, probes, view
from support.features import ABOUT_NETWORKS, can_run
from support.outer import run
from support.runner import TOPOLOGIES, Lab, Netorch
from support.waiting import until

pytestmark = pytest.mark.kernel
SECONDS = 60.0
"""For what takes its time: spanning trees, routing daemons."""
_FLOWS = """
import socket, sys
for n in range(256):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
        udp.bind(("", 20000 + n))
        udp.sendto(b"flow", (sys.argv[1], 9))
"""
_BROADCAST = """
import socket
udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
udp.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
udp.sendto(b"to all", ("10.51.0.255", 9))
"""


@contextlib.contextmanager
def topology(netorch: Netorch, name: str, *, by_script: bool = True) -> Iterator[Lab]:
    """The lab of an example; built as planned, and at the end only ``extra`` beside what the file says."""
    file = netorch.write((TOPOLOGIES / f"{name}.yaml").read_text(), f"{name}.yaml")
    can_run(netorch, file)
    by_script = by_script and not view.ROOTLESS  # the script is root's
    script = netorch.write(netorch("plan", "--format", "shell", file).stdout, "lab.sh")
    with netorch.lab(file) as lab:
        assert netorch("plan", "--json", file).json()["changes"] == []
        built = netstate.states(name) if by_script else {}
        yield lab
        assert netorch("status", "--json", file).json()["drift"] == []
    if by_script:
        try:
            run("sh", str(script))
            netstate.same(netstate.states(name), built)
        finally:
            run("sh", str(script), "down")


def extra(lab: Lab) -> set[str]:
    """What ``status`` shows that is not netorch's own."""
    return {row["object"] for row in lab.netorch("status", "--json", lab.file).json()["extra"]}


def ways(lab: Lab, node: str, target: str) -> list[str]:
    """The interfaces of the route that the kernel has to the address."""
    (route,) = json.loads(lab.sh(node, f"ip -j route get fibmatch {target}"))
    return sorted(hop["dev"] for hop in route.get("nexthops", [route]))


def received(lab: Lab, node: str, ifname: str) -> int:
    """The packets that came in by an interface."""
    return int(lab.sh(node, f"cat /sys/class/net/{ifname}/statistics/rx_packets"))


def address(lab: Lab, node: str, ifname: str) -> str:
    """The IPv4 address of an interface."""
    (link,) = json.loads(lab.sh(node, f"ip -j -4 address show dev {ifname}"))
    return str(link["addr_info"][0]["local"])


def test_each_has_its_test() -> None:
    assert {name for name in ABOUT_NETWORKS if f"test_{name.replace('-', '_')}" not in globals()} == set()


def test_leaf_spine(netorch: Netorch) -> None:
    spines = [f"spine{n}" for n in range(1, 5)]
    with topology(netorch, "leaf-spine") as lab:
        target = address(lab, "h8", "eth0")
        assert ways(lab, "leaf1", target) == ["eth0", "eth1", "eth2", "eth3"]
        for one, other in (("h1", "h8"), ("h8", "h1"), ("leaf3", "spine4")):
            lab.ping(one, other)
        assert probes.ttl(lab, "h1", "h8") == 61
        # Flows spread over all four ways, and each packet takes one of them.
        passed = flows(lab, target, spines)
        assert min(passed) > 20 and sum(passed) >= 256, passed
        # Where a cable has no carrier, they spread over the others.
        netorch("link", "leaf1", "spine2", "down")
        passed = flows(lab, target, spines)
        assert passed[1] == 0 and min(passed[0], *passed[2:]) > 20 and sum(passed) >= 256, passed
        netorch("link", "leaf1", "spine2", "up")


def flows(lab: Lab, target: str, spines: list[str]) -> list[int]:
    """Send 256 flows of one packet from h1; how many packets each spine received from leaf1."""
    before = [received(lab, spine, "eth0") for spine in spines]
    lab.exec("h1", "python3", "-I", "-c", _FLOWS, target)
    return [received(lab, spine, "eth0") - count for spine, count in zip(spines, before, strict=True)]


def ports() -> list[str]:
    """The spanning tree states of the bridge ports on the host."""
    return [port["state"] for port in json.loads(view.run("bridge", "-j", "link", "show")) if "state" in port]


def broadcasts(lab: Lab, node: str) -> int:
    """How many broadcast packets a container has received (netstat -s: InBcastPkts)."""
    names, values = re.findall(r"^IpExt: (.*)$", lab.sh(node, "cat /proc/net/netstat"), re.MULTILINE)
    return int(dict(zip(names.split(), values.split(), strict=True))["InBcastPkts"])


def test_spanning_tree(netorch: Netorch) -> None:
    with topology(netorch, "spanning-tree", by_script=False) as lab:  # it waits as long as `up` does
        assert sorted(ports()) == ["blocking", *["forwarding"] * 8]
        links = json.loads(view.run("ip", "-j", "-6", "address", "show"))
        local = {link["ifname"] for link in links if link.get("addr_info")}
        uplink = "uplink" if view.ROOTLESS else outside.INTERFACE
        assert local - {uplink} == {"lo"}, "the ports of a bridge have no addresses of their own"
        before = [broadcasts(lab, node) for node in ("blue", "green")]
        lab.python("red", _BROADCAST)
        for node in ("blue", "green"):  # what circled would have come again before these answers
            lab.ping("red", node)
            lab.ping(node, "red")
        assert [broadcasts(lab, node) for node in ("blue", "green")] == [count + 1 for count in before]
        netorch("link", "a", "c", "down")
        until(lambda: "blocking" not in ports(), "the blocked port that takes over", SECONDS)
        until(
            lambda: set(ports()) == {"forwarding", "disabled"},
            lambda: f"forwarding ports: {ports()}",
            SECONDS,
        )
        lab.ping("red", "green")
        netorch("link", "a", "c", "up")


def test_two_homes(netorch: Netorch) -> None:
    with topology(netorch, "two-homes") as lab:
        assert address(lab, "anna", "eth0") == address(lab, "bert", "eth0") == "192.168.1.2"
        assert probes.http(lab, "anna", "http://198.51.100.12:8080/") == "the page of bert\n"
        assert probes.tcp(lab, "anna", "198.51.100.12", 80) == "timeout"
        assert lab.sh("anna", "punch anna bert") == "hello from bert, who is 198.51.100.12 to me"
        heard = "hello from anna, who is 198.51.100.11 to me"
        until(lambda: heard in netorch("logs", "bert").stdout, "bert hears anna", SECONDS)
        # Without the server that both know there is no way in.
        netorch("kill", "-s", "STOP", "server")
        assert "nothing heard" in lab.exec("anna", "punch", "anna", "bert", code=1).stderr
        netorch("kill", "-s", "CONT", "server")


def test_dmz(netorch: Netorch) -> None:
    with topology(netorch, "dmz") as lab:
        reached = {
            ("visitor", "web", 80): "open", ("visitor", "pc", 80): "timeout",
            ("web", "db", 5432): "open", ("web", "pc", 80): "timeout",
            ("web", "visitor", 80): "timeout", ("db", "visitor", 80): "open",
        }  # fmt: skip
        found = {
            way: probes.tcp(lab, *way, seconds=1 if want == "timeout" else 5) for way, want in reached.items()
        }
        assert found == reached
        lab.ping("visitor", "web", passes=False)
        lost = netorch("path", "visitor", "pc", "--probe", "--json", code=1).json()["measured"]["lost"]
        assert (lost["node"], lost["kind"]) == ("fw", "filter") and "refused" in lost["why"]
        assert probes.http(lab, "pc", "http://visitor/") == "outside\n"
        assert "198.51.100.1 " in netorch("logs", "visitor").stdout  # inside is masqueraded
        # It was the rules: with them out of the way, the same door is open.
        lab.sh("fw", "nft insert rule inet zones forward accept")
        assert probes.tcp(lab, "visitor", "pc", 80) == "open"
        netorch("up", lab.file)


def test_ipv6_only(netorch: Netorch) -> None:
    with topology(netorch, "ipv6-only") as lab:
        for one, other in (("red", "far"), ("far", "red"), ("blue", "red"), ("blue", "fd53::1")):
            lab.ping(one, other)
        for node in ("red", "blue", "edge", "far"):
            assert lab.sh(node, "ip -4 address show scope global; ip -4 route") == ""
        assert probes.http(lab, "far", "http://[fd53::2]/") == "six\n"
        assert probes.tcp(lab, "blue", "red", 8080) == "timeout"
        seen = outside.HOST_ADDRESSES[1].split("/")[0]
        if not view.ROOTLESS:  # pasta gives IPv6 where the host has a link-local address, this one has not
            assert probes.http(lab, "blue", f"http://[{outside.IPV6}]/") == f"you are {seen}\n"
        # The first is too big for the cable behind edge, which says so; the next comes in two pieces.
        lab.sh("red", "ping -n -c2 -i0.2 -W5 -s 1400 far")
        assert "mtu 1280" in lab.sh("red", "ip -6 route get fd53:1::2")


def test_dns(netorch: Netorch) -> None:
    with topology(netorch, "dns") as lab:
        for name in ("www.corp.test", "www", "shop"):
            answers = set(lab.sh("client", f"getent ahosts {name} | cut -d' ' -f1").split())
            assert answers == {"10.54.0.10"}, name
        lab.exec("client", "getent", "ahosts", "other.test", code=2)
        log = netorch("logs", "resolver").stdout
        assert "forwarded www.corp.test to 10.54.0.2" in log and "cached www.corp.test" in log
        # What the resolver remembers it answers alone; what it does not, it must ask for.
        netorch("kill", "-s", "STOP", "ns")
        assert "10.54.0.10" in lab.sh("client", "getent ahosts www.corp.test")
        lab.exec("client", "timeout", "2", "getent", "ahosts", "mail.corp.test", code=124)
        netorch("kill", "-s", "CONT", "ns")
        until(
            lambda: "10.54.0.11" in lab.sh("client", "getent ahosts mail", code=None),
            "mail's address",
            SECONDS,
        )


def test_policy_routing(netorch: Netorch) -> None:
    with topology(netorch, "policy-routing") as lab:
        assert probes.http(lab, "staff", "http://server/") == "you came by fast\n"
        assert probes.http(lab, "guest", "http://server/") == "you came by cheap\n"
        assert probes.http(lab, "staff", "http://server:25/") == "you came by cheap\n"
        found = netorch("path", "guest", "server", "--probe", "--json").json()
        assert [hop["node"] for hop in found["measured"]["hops"]] == ["gw", "cheap", "server"]
        assert found["measured"]["as_predicted"] is True
        for uplink in ("10.55.10.1", "10.55.20.1"):
            lab.ping("server", uplink)
        netorch("link", "gw", "cheap", "down")
        lab.ping("guest", "server", passes=False)
        lab.ping("staff", "server")
        netorch("link", "gw", "cheap", "up")
        lab.ping("guest", "server")


def test_load_balancer(netorch: Netorch) -> None:
    with topology(netorch, "load-balancer") as lab:

        def answers(count: int) -> list[str]:
            return sorted(probes.http(lab, "client", "http://balancer/").strip() for _ in range(count))

        assert answers(6) == ["web1", "web1", "web2", "web2", "web3", "web3"]
        lab.ping("client", "web1", passes=False)
        netorch("kill", "web2")
        assert "web2" not in answers(4)
        netorch("restart", "web2")
        until(lambda: "web2" in answers(1), "the server that came back", SECONDS)


def test_vxlan(netorch: Netorch) -> None:
    with topology(netorch, "vxlan") as lab:
        before = received(lab, "core", "eth0")
        lab.ping("red", "blue")
        assert received(lab, "core", "eth0") > before
        assert probes.ttl(lab, "red", "blue") == 64
        mac = lab.sh("blue", "cat /sys/class/net/eth0/address")
        assert mac in lab.sh("red", "ip neighbour show 10.57.0.2")
        assert f"{mac} dst 10.57.102.1" in lab.sh("vtep1", "bridge fdb show dev vx")
        lab.exec("red", "ping", "-n", "-c1", "-W5", "-M", "do", "-s", "1422", "blue")
        lab.exec("core", "ip", "route", "get", "10.57.0.2", code=2)
        netorch("link", "vtep2", "core", "down")
        lab.ping("red", "blue", passes=False)
        assert lab.sh("red", "cat /sys/class/net/eth0/carrier") == "1"
        netorch("link", "vtep2", "core", "up")
        lab.ping("red", "blue")


def test_vpn(netorch: Netorch) -> None:
    with topology(netorch, "vpn") as lab:
        until(
            lambda: lab.exec("laptop", "ping", "-n", "-c1", "-W1", "files", code=None).code == 0, "the tunnel"
        )
        assert probes.ttl(lab, "laptop", "files") == 63
        assert probes.http(lab, "laptop", "http://files/") == "the office's files\n"
        lab.ping("files", "10.58.2.2")
        lab.ping("laptop", "198.51.100.2", passes=False)
        daemons = {"interface laptop wg0", "address laptop:wg0 10.58.2.2/24", "interface gate wg0"}
        assert daemons <= extra(lab)
        assert netorch("up", "--json", lab.file).json()["changes"] == 0
        lab.ping("laptop", "files")
        # Only the tunnel's own packets pass between the two: with these refused, nothing does.
        lab.sh("isp", "iptables -I FORWARD -j DROP")
        lab.ping("laptop", "files", passes=False)
        lab.sh("isp", "iptables -D FORWARD 1")


def test_frr_ospf(netorch: Netorch) -> None:
    with topology(netorch, "frr-ospf") as lab:

        def hops() -> list[str]:
            found = netorch("path", "red", "blue", "--probe", "--json", code=None).json()["measured"]
            return [hop["node"] for hop in found["hops"]]

        until(lambda: hops() == ["r1", "r3", "blue"], "the direct way", SECONDS)
        assert ways(lab, "r1", "10.61.3.2") == ["r3"]
        learned = {f"route {r} {net} table 254 metric 20" for r, net in (
            ("r1", "10.61.3.0/24"), ("r2", "10.61.1.0/24"), ("r2", "10.61.3.0/24"), ("r3", "10.61.1.0/24"),
        )}  # fmt: skip
        assert learned <= extra(lab)
        netorch("link", "r1", "r3", "down")
        until(lambda: hops() == ["r1", "r2", "r3", "blue"], "the way round by r2", SECONDS)
        netorch("link", "r1", "r3", "up")
        until(lambda: hops() == ["r1", "r3", "blue"], "the direct way again", SECONDS)
        # `up` changes what differs and leaves what OSPF made.
        until(lambda: learned <= extra(lab), lambda: f"learned: {learned - extra(lab)}", SECONDS)
        before, text = lab.sh("r1", "ip route show proto ospf"), lab.file.read_text()
        more = "links:\n  - [red:more: 10.61.9.1/24, blue:more: 10.61.9.2/24]\n"
        lab.file.write_text(text.replace("links:\n", more))
        netorch("up", lab.file)
        assert lab.sh("r1", "ip route show proto ospf") == before
        lab.ping("red", "10.61.9.2")


def test_frr_ospf_failover(netorch: Netorch) -> None:
    """The scenario measures both outages: where the dead-interval must pass, and where carrier is lost."""
    file = netorch.write((TOPOLOGIES / "frr-ospf-failover.yaml").read_text(), "frr-ospf-failover.yaml")
    can_run(netorch, file)
    report = netorch("test", "--json", file, code=None)
    (found,) = report.json()["files"]
    assert found["state"] == "passed", str(report)
    silent, seen = (step["figures"]["outage_ms"] for step in found["scenario"] if step["kind"] == "converges")
    assert 2000 < silent < 15_000, "no hello for four seconds, of which one may have passed"
    assert seen < silent


def test_frr_bgp(netorch: Netorch) -> None:
    with topology(netorch, "frr-bgp") as lab:
        assert ways(lab, "leaf1", "10.63.3.2") == ["eth0", "eth1"]
        assert "via inet6 fe80::" in lab.sh("leaf1", "ip route show 10.63.3.0/24")
        lab.ping("h1", "h3")
        lab.ping("h3", "h2")
        assert "route leaf1 10.63.3.0/24 table 254 metric 20" in extra(lab)
        netorch("link", "leaf3", "spine1", "down")
        until(lambda: ways(lab, "leaf1", "10.63.3.2") == ["eth1"], "leaf1 hears of the cable", SECONDS)
        assert ways(lab, "leaf1", "10.63.2.2") == ["eth0", "eth1"]
        lab.ping("h1", "h3")
        netorch("link", "leaf3", "spine1", "up")
        until(lambda: ways(lab, "leaf1", "10.63.3.2") == ["eth0", "eth1"], "both ways again", SECONDS)
        lab.ping("h1", "h3")


def test_wan(netorch: Netorch) -> None:
    # Not by the script, too: few kernels have netem, and emulated it would take minutes.
    with topology(netorch, "wan", by_script=False) as lab:

        def rtt(node: str, target: str) -> float:
            """The shortest of five round trips, in milliseconds."""
            return float(lab.sh(node, f"ping -n -q -c5 -i0.2 {target}").rpartition(" = ")[2].split("/")[0])

        assert 40 <= rtt("red", "blue") < 50
        assert 10 <= rtt("far", "red") < 20
        netorch("link", "hq:lease", "branch:lease", "down")
        assert rtt("red", "blue") > 500
        netorch("link", "hq:lease", "branch:lease", "up")
        assert rtt("red", "blue") < 50


def test_vlans(netorch: Netorch) -> None:
    with topology(netorch, "vlans") as lab:
        for one, other in (
            ("staff1", "staff2"),
            ("guest1", "guest2"),
            ("admin", "mgmt"),
            ("staff2", "guest2"),
        ):
            lab.ping(one, other)
        assert probes.ttl(lab, "staff1", "staff2") == 64
        assert probes.ttl(lab, "staff1", "guest1") == 63
        lab.ping("guest1", "staff1", passes=False)
        # An address of another VLAN does not help: the frames do not get there.
        lab.sh("admin", "ip address add 10.65.10.77/24 dev eth0")
        lab.ping("admin", "10.65.10.11", passes=False)
        lab.sh("router", "iptables -P FORWARD ACCEPT")
        lab.ping("guest1", "staff1")
        netorch("up", lab.file)
