"""Published ports: where they lead, whom they get in the way of, and that nothing is left of them."""

from __future__ import annotations

import errno
import json
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from support import outside, snapshot, view
from support.faults import faulted
from support.nodes import QUIET
from support.outer import run
from support.runner import Netorch
from support.topologies import addresses, at, box, bridge, end, lab, link, via

from netns_orch import graph
from netns_orch.errors import EXIT_FAILED, KernelError, LabFileError, NetorchError, NotRootless
from netns_orch.graph import Wiring
from netns_orch.labfile import short
from netns_orch.labfile.model import Host, Port, Topology
from netns_orch.resources import HostFacts, PortHolder
from netns_orch.uplink import resolve as resolve_uplink

pytestmark = view.IN_PROCESS  # of the realm: pasta leads from the host to its ports
kernel = pytest.mark.kernel
HOST4 = outside.HOST_ADDRESSES[0].partition("/")[0]


def port(text: str, line: int = 1) -> Port:
    """A port as the file has it."""
    return Port(where=at(line), **short.port(text))


def wired(topology: Topology, netns: Any = "host") -> Wiring:
    """Its wiring."""
    topology.netns = netns
    return graph.wire(topology)


def leads(wiring: Wiring) -> list[str]:
    """Each published port with the address that it leads to."""
    return [f"{str(p).removeprefix('port ')} {p.to.ip}:{p.spec.port}" for p in wiring.published]


def small(*ports: str, forward: Any = None, **more: Any) -> Topology:
    """A container with ports on a bridge with both families."""
    red = box(ports=[port(text, line) for line, text in enumerate(ports, 1)], **more)
    return lab(link("red", "br0"), br0=bridge("10.0.0.1/24", "fd00::1/64", forward=forward), red=red)


# -- where a port leads --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("8080:80", ["0.0.0.0:8080/tcp 10.0.0.2:80", "[::]:8080/tcp fd00::2:80"]),
        ("0.0.0.0:8080:80", ["0.0.0.0:8080/tcp 10.0.0.2:80"]),
        ("[::]:53:53/udp", ["[::]:53/udp fd00::2:53"]),
        ("127.0.0.1:5353:53/udp", ["127.0.0.1:5353/udp 10.0.0.2:53"]),
        ("[2001:db8:0::1]:80:80", ["[2001:db8::1]:80/tcp fd00::2:80"]),
    ],
)
def test_each_family_leads_to_the_address_of_that_family(text: str, expected: list[str]) -> None:
    assert leads(wired(small(text))) == expected


def test_of_several_addresses_the_one_that_outsiders_reach_and_are_answered_from() -> None:
    found = wired(_several())
    assert leads(found) == [
        "0.0.0.0:80/tcp 10.3.0.2:80",
        "0.0.0.0:81/tcp 10.3.0.2:80",
        "0.0.0.0:82/tcp 10.9.0.2:80",
    ]
    assert found.published[2].bridge.name == "inner"
    assert found.published[2].near == ("10.9.0.0/24", "10.1.0.0/24")


def _several() -> Topology:
    member = box(ports=[port("81:80", 2)])
    member.namespaces.net = "red"
    return lab(
        link("red", "closed"),
        link("red", "inner"),
        link("red", "out"),
        link(end("far", "10.1.0.9/24"), "inner"),
        link(end("far", "10.9.0.1/24"), end("deep", "10.9.0.2/24")),
        closed=bridge("10.2.0.1/24", forward="none"),
        inner=bridge("10.1.0.1/24"),
        out=bridge("10.3.0.1/24"),
        red=box(ports=[port("80:80")], routes=[via("default", "10.3.0.1")]),
        member=member,
        far=box(router=True),
        deep=box(ports=[port("82:80", 3)], routes=[via("default", "10.9.0.1")]),
        host=Host(routes=[via("10.9.0.0/24", "10.1.0.9")]),
    )


# -- what is wrong with it -----------------------------------------------------------------------


def wrong(topology: Topology, netns: Any = "host") -> list[NetorchError]:
    """What is wrong with a lab."""
    with pytest.raises(LabFileError) as caught:
        wired(topology, netns)
    return caught.value.problems


@pytest.mark.parametrize(
    ("text", "what", "hint"),
    [
        ("[::1]:8080:80", "nothing can be published on ::1", "127.0.0.1:8080:80"),
        ("[fe80::1]:8080:80", "a link-local address", None),
        ("224.0.0.1:8080:80", "a multicast address", None),
    ],
)
def test_addresses_of_the_host_that_can_not_be(text: str, what: str, hint: str | None) -> None:
    (problem,) = wrong(small(text))
    assert what in problem.what and problem.where == at(1)
    assert hint is None or (problem.hint and hint in problem.hint)


@pytest.mark.parametrize(
    ("one", "other"),
    [("8080:80", "8080:81"), ("127.0.0.1:80:80", "80:80"), ("10.0.0.1:53:1/udp", "0.0.0.0:53:2/udp")],
)
def test_one_port_for_two_is_reported_at_the_second(one: str, other: str) -> None:
    (problem,) = wrong(small(one, other))
    assert "is published already, by the same container" in problem.what and problem.where == at(2)
    topology = small(one)
    topology.containers["red"].ports = [port(one), port("1:1", 2)]
    topology.containers["blue"] = box(ports=[port(other, 9)])
    topology.containers["blue"].name = "blue"
    topology.links.append(link("blue", "br0"))
    (problem,) = wrong(topology)
    assert "by red as" in problem.what and problem.where == at(9)


def test_what_is_no_clash() -> None:
    ports = ("127.0.0.1:53:53/udp", "127.0.0.1:53:53", "127.0.0.2:53:53", "10.0.0.1:53:53", "[::]:53:53")
    assert len(wired(small(*ports)).published) == 5


def test_a_scaled_container_can_not_have_one_port_many_times(tmp_path: Path) -> None:
    from netns_orch import labfile

    file = tmp_path / "lab.yaml"
    file.write_text(
        "bridges: {br0: 10.0.0.1/24}\ncontainers:\n  h: {scale: 5, ports: ['80:80']}\nlinks: [[h, br0]]\n"
    )
    (problem,) = wrong(labfile.load(file))
    assert "of h2 is published already, by h1" in problem.what and "`scale`" in str(problem.hint)
    assert problem.where and problem.where[1:3] == (3, 25)


@pytest.mark.parametrize(
    ("text", "what"),
    [("80:80", "red has no address that the host reaches"), ("[::]:80:80", "red has no IPv6 address that")],
)
def test_a_port_that_would_lead_nowhere(text: str, what: str) -> None:
    topology = lab(link("red", "lan"), lan=bridge(subnet="10.0.0.0/24"), red=box(ports=[port(text, 7)]))
    (problem,) = wrong(topology)
    assert what in problem.what and problem.where == at(7) and "bridge with an address" in str(problem.hint)


def test_ports_that_do_not_reach_as_far_as_they_seem_to() -> None:
    def warnings(*ports: str, netns: str = "host", **more: Any) -> list[str]:
        return [warning.what for warning in wired(small(*ports, **more), netns).warnings]

    assert warnings("8080:80") == []
    assert warnings("127.0.0.1:80:80", forward="none") == []
    (none,) = warnings("0.0.0.0:80:80", forward="none")
    assert none == "only the host itself reaches port 0.0.0.0:80/tcp: bridge br0 has forward: none"
    (none,) = warnings("127.0.0.1:80:80", forward="none", netns="private")
    assert none.startswith("nothing reaches")
    (routeless,) = warnings("0.0.0.0:80:80", default_route=False)
    assert routeless.startswith("red has no IPv4 default route")


# -- the host ------------------------------------------------------------------------------------


def on_host(topology: Topology, *holders: PortHolder, netns: str = "host") -> list[NetorchError]:
    """The errors on a host with one address, where the ports have holders."""
    wiring = wired(topology, netns)
    facts = HostFacts(features=graph.features_needed(wiring), addresses=("192.0.2.1",), port_holders=holders)
    return graph.check_host(wiring, facts)[0]


def test_a_port_that_somebody_has() -> None:
    nginx = PortHolder("tcp", 4, "192.0.2.1", 80, "nginx (pid 12) listens on 192.0.2.1:80")
    (problem,) = on_host(small("1:1", "80:80"), nginx)
    assert isinstance(problem, KernelError) and problem.errno == errno.EADDRINUSE
    assert problem.what == "port 0.0.0.0:80/tcp of the host is taken: nginx (pid 12) listens on 192.0.2.1:80"
    assert problem.where == at(2) and '"${PORT:-80}:80"' in str(problem.hint)
    assert LabFileError([problem]).exit_code == EXIT_FAILED, "the host is at fault, not the file"
    for free in ("80:80/udp", "127.0.0.1:80:80", "[::]:80:80", "81:80"):
        assert on_host(small(free), nginx) == []


def test_an_address_that_the_host_has_not() -> None:
    assert on_host(small("192.0.2.1:80:80", "127.0.0.9:80:80", "10.0.0.1:80:80")) == []
    (problem,) = on_host(small("192.0.2.9:80:80"))
    assert (
        problem.what == "the host has no address 192.0.2.9" and problem.hint == "it has 192.0.2.1, 10.0.0.1"
    )
    (problem,) = on_host(small("10.0.0.1:80:80"), netns="private")
    assert problem.hint == "it has 192.0.2.1"


def test_a_rootless_lab_publishes_by_a_program_alone() -> None:
    topology = small("80:80")
    features = graph.features_needed(wired(topology))
    (problem,) = graph.check_host(
        wired(topology), HostFacts(features=features, rootless=True, closed="modprobe tun")
    )[0]
    assert isinstance(problem, NotRootless) and problem.where == at(1)
    assert "modprobe tun" in (problem.hint or "")
    assert graph.check_host(wired(topology), HostFacts(features=features, rootless=True))[0] == []


def test_a_private_lab_is_led_to_by_the_uplink() -> None:
    from netns_orch.resolve import published_ports
    from netns_orch.resources import HostSysctl, PublishedPort, State

    wiring = wired(small("80:1", "127.0.0.1:53:2", "192.0.2.1:53:3", "[::]:53:4"), "private")
    inside = list(published_ports(wiring))
    assert [(p.port, p.uplink, p.transit) for p in inside] == [
        (80, None, None),
        (80, None, None),
        (53, "uplink", 53),
        (53, "uplink", 65535),
        (53, None, None),
    ]
    found = resolve_uplink("lab", "1f", HostFacts(), State(), ipv6=True, ports=inside)
    led = [(p.key, p.to_port) for p in found.of(PublishedPort)]
    assert led == [
        ("port 0.0.0.0:80/tcp", 80),
        ("port [::]:80/tcp", 80),
        ("port 127.0.0.1:53/tcp", 53),
        ("port 192.0.2.1:53/tcp", 65535),
        ("port [::]:53/tcp", 53),
    ]
    targets = {p.to_address for p in found.of(PublishedPort)}
    assert len(targets) == 2 and targets.isdisjoint(addresses(wiring, "red"))
    assert any(s.name.endswith(".route_localnet") for s in found.of(HostSysctl))


# -- on a running lab ----------------------------------------------------------------------------

SERVE = """
import socket, threading
def echo(port):
    udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    udp.bind(("0.0.0.0", port))
    while True:
        data, sender = udp.recvfrom(100)
        udp.sendto(b"%d" % port, sender)
for port in (7, 8):
    threading.Thread(target=echo, args=(port,), daemon=True).start()
tcp = socket.create_server(("0.0.0.0", 80))
while True:
    client, _ = tcp.accept()
    answer = lambda c=client: [c.send(data) for data in iter(lambda: c.recv(100), b"")]
    threading.Thread(target=answer, daemon=True).start()
"""
LAB = f"""
bridges: {{br0: 10.0.0.1/24}}
host: {{sysctls: {{net.ipv4.conf.br0.rp_filter: 2}}}}
containers:
  red:
    ports: [PORTS]
    command: [python3, -I, /serve.py]
    ready: {{tcp: 80, timeout: 60s}}
    files: {{/serve.py: {json.dumps(SERVE)}}}
links: [[red, br0]]
"""


def text(ports: str) -> str:
    """The lab with these ports."""
    return LAB.replace("PORTS", ports)


def says(sock: socket.socket, data: bytes = b"?") -> bytes:
    """The answer on a connected socket; b"" where it is refused or none comes."""
    try:
        sock.send(data)
        return sock.recv(100)
    except OSError:
        return b""


def udp_to(port: int) -> socket.socket:
    """A UDP socket that speaks with a port of 127.0.0.1."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.settimeout(5)
    sock.connect(("127.0.0.1", port))
    return sock


@kernel
@pytest.mark.parametrize("options", [(), ("--private",)], ids=["host", "private"])
def test_up_changes_the_ports_and_nothing_else(netorch: Netorch, options: tuple[str, ...]) -> None:
    with netorch.lab(text('"127.0.0.1:7007:7/udp", "8080:80"'), *options) as running, udp_to(7007) as first:
        before = netorch("ps", "--json").json()[0]
        assert "net.ipv4.conf.lab-br0.rp_filter" in netorch("inspect", "lab").stdout
        stream = socket.create_connection((HOST4, 8080), 5)
        stale = udp_to(7008)  # what it says before the port is there must not stay the way of what follows
        assert (says(first), says(stream), says(stale)) == (b"7", b"?", b"")

        file = netorch.write(text('"127.0.0.1:7007:8/udp", "8080:80", "127.0.0.1:7008:8/udp"'))
        lines = netorch("plan", *options, file).stdout.splitlines()
        assert len(lines) == (3 if options else 2) and all("port 127.0.0.1:700" in line for line in lines)
        netorch("up", *options, file)
        assert (says(first), says(stream), says(stale)) == (b"8", b"?", b"8")
        netorch("up", *options, netorch.write(text('"8080:80"')))
        assert (says(first), says(stream)) == (b"", b"?")
        after = netorch("ps", "--json").json()[0]
        assert (before["pid"], before["ports"][0]) == (after["pid"], "127.0.0.1:7007->7/udp")
        assert after["ports"] == ["0.0.0.0:8080->80/tcp"]

        # What is taken away by hand is named, and comes back.
        chain = "inet netorch_lab ports"
        handle = run("nft", "-a", "list", "chain", *chain.split()).rpartition("# handle ")[2].split()[0]
        run("nft", "delete", "rule", *chain.split(), "handle", handle)
        stream.close()
        drift = netorch("status", "--json", code=1).json()["drift"]
        assert drift == [
            {"object": "port 0.0.0.0:8080/tcp", "expected": None, "found": None, "what": "missing"}
        ]
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", 8080), 5)
        netorch("up", *options, running.file)
        run("nft", "flush", "chain", "inet", "netorch_lab", "ports_output")
        drift = netorch("status", "--json", code=1).json()["drift"]
        assert [(d["object"], d["what"]) for d in drift] == [("port 0.0.0.0:8080/tcp", "differs: intact")]
        netorch("up", *options, running.file)
        netorch("status")
        socket.create_connection(("127.0.0.1", 8080), 5).close()
        stale.close()
        (shown,) = netorch("inspect", "red").json()["ports"]
        assert (shown["port"], shown["to_address"], shown["to_port"]) == (8080, "10.0.0.2", 80)

        # What stands in the host's place reaches it as the host does.
        checks = "checks: [{tcp: {from: host, to: '127.0.0.1:8080'}}]\n"
        netorch("test", "--lab", "lab", netorch.write(text('"8080:80"') + checks))


@kernel
def test_a_port_that_somebody_has_is_found_before_anything_is_built(netorch: Netorch) -> None:
    before = snapshot.take()
    listen = (
        "import socket, sys; s = socket.create_server(('127.0.0.1', 8080)); print(flush=True);"
        "sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", listen], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None and process.stdin is not None
        process.stdout.readline()
        failed = netorch("up", netorch.write(text('"8080:80"')), code=1)
        assert f"(pid {process.pid}) listens on 127.0.0.1:8080" in failed.stderr
        assert "lab.yaml:6:13" in failed.stderr and "hint: publish another one" in failed.stderr
        process.stdin.close()
    snapshot.assert_equal(before)
    with netorch.lab(text('"8080:80"'), "--private", "--name", "first"):
        failed = netorch("up", "--name", "second", netorch.write(text('"127.0.0.1:8080:80"')), code=1)
        assert "lab first publishes 0.0.0.0:8080/tcp" in failed.stderr
        netorch("down", "first")
    snapshot.assert_equal(before)


@kernel
def test_of_two_labs_at_once_one_has_the_port(netorch: Netorch) -> None:
    files = [netorch.write(text('"8080:80"'), f"{name}/lab.yaml") for name in ("a", "b", "c")]
    started = [netorch.start("up", "--private", "--name", f.parent.name, f) for f in files]
    ends = [(process.communicate(timeout=120)[1], process.returncode) for process in started]
    assert sorted(code for _, code in ends) == [0, 1, 1], ends
    assert all("port 0.0.0.0:8080/tcp of the host is taken" in words for words, code in ends if code)
    assert len(netorch("ls", "--json").json()) == 1
    netorch("down", "--all")


@kernel
def test_a_run_that_ends_half_way_leaves_no_port_of_its_own(netorch: Netorch) -> None:
    """The third step is behind the host's sysctls and the lab's table: the ports are changed by then."""
    other = text('"8081:80", "[::]:8082:80"').replace("rp_filter: 2", "rp_filter: 1")
    other = other.replace("br0: 10.0.0.1/24", 'br0: [10.0.0.1/24, "fd00::1/64"]')
    with netorch.lab(text('"8080:80"')) as running:
        for kind in ("EPERM", "kill"):
            assert faulted("up", 3, kind, netorch.write(other)) != 0
            netorch.write(text('"8080:80"'))
            if kind == "kill":
                assert "8081" in run("nft", "list", "table", "inet", "netorch_lab")
                drift = netorch("status", "--json", code=1).json()["drift"]
                assert "port 0.0.0.0:8081/tcp" in [entry["object"] for entry in drift]
                netorch("up", running.file)
            assert netorch("status", "--json").json()["drift"] == []
            listed = run("nft", "list", "table", "inet", "netorch_lab")
            assert "8080" in listed and "808" not in listed.replace("8080", "")


@kernel
def test_a_published_port_does_not_open_the_hosts_loopback_to_containers(netorch: Netorch) -> None:
    """Packets to 127.0.0.1 that a container sends to the bridge, with route_localnet on."""
    away = (
        "ip address del 127.0.0.1/8 dev lo; echo 1 > /proc/sys/net/ipv4/conf/all/route_localnet;"
        "ip route add 127.0.0.0/8 via 10.0.0.1"
    )
    send = (
        "import socket; s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM);"
        's.sendto(b"x", ("127.0.0.1", 9999))'
    )
    udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with netorch.lab(text('"8080:80"')) as running, udp as of_the_host:
        of_the_host.bind(("127.0.0.1", 9999))
        of_the_host.settimeout(QUIET)
        running.sh("red", away)
        running.python("red", send)
        with pytest.raises(TimeoutError):
            of_the_host.recv(10)
        # It was the lab's table that kept it out: without that chain it arrives.
        run("nft", "flush", "chain", "inet", "netorch_lab", "loopback")
        of_the_host.settimeout(60)
        running.python("red", send)
        assert of_the_host.recv(10) == b"x"
