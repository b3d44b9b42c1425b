"""up, down and what lies between: all or nothing, nothing left behind, only what differs is changed.

That the host is as it was is looked at by the fixture ``host``, after each of these tests.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from support import outside, probes, snapshot, view
from support.features import ABOUT_NETWORKS
from support.outer import TestHost, run
from support.runner import SECONDS, TOPOLOGIES, Lab, Netorch, Result
from support.waiting import until

pytestmark = pytest.mark.kernel

RED_BLUE = (TOPOLOGIES / "red-blue.yaml").read_text()
TWO_BRIDGES = """
bridges:
  br0: 10.20.0.1/24
  br1: 10.20.1.1/24
containers:
  red:
  blue:
links:
  - [red, br0]
  - [blue, br1]
"""
FORWARDING = Path("/proc/sys/net/ipv4/ip_forward")


@pytest.fixture
def forwarding() -> Iterator[None]:
    """A host that forwards already, as one with Docker does."""
    FORWARDING.write_text("1")
    yield
    FORWARDING.write_text("0")


def shown(result: Result) -> str:
    """All that a user sees."""
    return result.stdout + result.stderr


class TestDown:
    def test_a_second_time_is_no_error(self, netorch: Netorch) -> None:
        netorch.write(RED_BLUE)
        netorch("up")
        netorch("down")
        netorch("down")
        netorch("down", "lab")
        netorch("down", "--all")

    def test_without_a_run_directory_nothing_is_made(self, netorch: Netorch) -> None:
        netorch.write(RED_BLUE)
        netorch("down")
        assert not Path("/run/netorch").exists()

    @pytest.mark.parametrize("word", ["lab.yaml", "lab", None])
    def test_after_the_file_was_deleted(self, netorch: Netorch, word: str | None) -> None:
        file = netorch.write(RED_BLUE)
        netorch("up")
        file.unlink()
        netorch("down", *[word] if word else [])
        assert netorch("ls", "--json").json() == []

    @pytest.mark.parametrize("text", ["{ this is no lab", "name: other\ncontainers: {red: }\n"])
    def test_after_the_file_was_changed(self, netorch: Netorch, text: str) -> None:
        file = netorch.write(RED_BLUE)
        netorch("up")
        file.write_text(text)
        netorch("down", file)
        assert netorch("ls", "--json").json() == []

    def test_all(self, netorch: Netorch) -> None:
        netorch("up", netorch.write(RED_BLUE, "one.yaml"))
        netorch("up", netorch.write(TWO_BRIDGES, "two.yaml"))
        assert {row["lab"] for row in netorch("ls", "--json").json()} == {"one", "two"}
        netorch("down", "--all")
        assert netorch("ls", "--json").json() == []

    def test_the_one_that_is_named_and_no_other(self, netorch: Netorch) -> None:
        netorch("up", netorch.write(TWO_BRIDGES, "two.yaml"))
        other = snapshot.take()
        with netorch.lab(netorch.write(RED_BLUE, "one.yaml")):
            pass
        snapshot.assert_equal(other)
        netorch("down", "two")

    def test_ends_processes_that_were_started_inside(self, netorch: Netorch) -> None:
        with netorch.lab(RED_BLUE) as lab:
            lab.sh("red", "sleep 1000 >/dev/null 2>&1 & setsid sleep 2000 >/dev/null 2>&1 &")

    def test_what_was_added_by_hand_in_a_container_goes_with_it(self, netorch: Netorch) -> None:
        with netorch.lab(RED_BLUE) as lab:
            lab.sh("red", "ip link add name own type bridge && ip route add blackhole 192.0.2.0/24")


FAILING = {
    "a setup command fails": (
        RED_BLUE.replace("  red:\n", "  red:\n    setup:\n      - echo before\n      - exit 3\n"),
        "exit 3",
        "exit 3",
    ),
    "iptables refuses a rule": (
        RED_BLUE.replace(
            "  red:\n", "  red:\n    iptables:\n      - -A INPUT -j DROP\n      - -A INPUT -j NOSUCHCHAIN\n"
        ),
        "NOSUCHCHAIN",
        "NOSUCHCHAIN",
    ),
    "iptables does not know an option": (
        RED_BLUE.replace("  red:\n", "  red:\n    iptables:\n      - -A INPUT --nosuchoption 1 -j DROP\n"),
        "--nosuchoption",
        'unknown option "--nosuchoption"',
    ),
    "a route's gateway is refused by a setup": (
        RED_BLUE.replace("  blue:\n", "  blue:\n    setup: [ip route add 192.0.2.0/24 via 192.0.2.1]\n"),
        "192.0.2.1",
        "Nexthop has invalid gateway",
    ),
}


class TestAFailingUp:
    """The whole lab is rolled back, and the user is told what failed, where, and in whose words."""

    @pytest.mark.parametrize(("text", "blamed", "words"), FAILING.values(), ids=FAILING)
    def test_rolls_back(self, netorch: Netorch, text: str, blamed: str, words: str) -> None:
        netorch.write(text)
        before = snapshot.take()
        result = netorch("up", code=1)
        line = 1 + next(n for n, line in enumerate(text.splitlines()) if blamed in line)
        assert f"lab.yaml:{line}:" in result.stderr
        assert words in result.stderr
        assert result.stderr.count("error:") == 1
        snapshot.assert_equal(before)
        assert netorch("ls", "--json").json() == []

    @view.ON_THE_HOST
    def test_an_interface_name_is_taken_on_the_host(self, netorch: Netorch) -> None:
        text = RED_BLUE.replace("br0: 10.0.0.1/24", "br0: {address: 10.0.0.1/24, ifname: taken0}")
        netorch.write(text)
        run("ip", "link", "add", "taken0", "type", "bridge")
        try:
            before = snapshot.take()
            result = netorch("up", code=1)
            line = 1 + next(n for n, line in enumerate(text.splitlines()) if "taken0" in line)
            assert f"lab.yaml:{line}:" in result.stderr
            assert "taken0" in result.stderr
            snapshot.assert_equal(before)
        finally:
            run("ip", "link", "del", "taken0")

    def test_a_changed_file_that_fails_leaves_the_running_lab_as_it_was(self, netorch: Netorch) -> None:
        with netorch.lab(RED_BLUE) as lab:
            before = snapshot.take()
            broken = RED_BLUE.replace("  blue:\n", "  blue:\n  green: {setup: [exit 3]}\n")
            lab.file.write_text(broken.replace("links:\n", "links:\n  - [green, br0]\n"))
            netorch("up", code=1)
            snapshot.assert_equal(before)
            lab.file.write_text(RED_BLUE)
            assert netorch("plan", "--json").json()["changes"] == []
            lab.ping("red", "blue")

    def test_what_a_setup_printed_is_shown(self, netorch: Netorch) -> None:
        netorch.write(
            RED_BLUE.replace("  red:\n", "  red:\n    setup: [\"echo 'the disk is on fire' >&2; exit 3\"]\n")
        )
        result = netorch("up", code=1)
        assert "the disk is on fire" in result.stderr
        assert "3" in result.stderr

    def test_kept_for_a_look_when_asked(self, netorch: Netorch) -> None:
        netorch.write(FAILING["a setup command fails"][0])
        netorch("up", "--keep-failed", code=1)
        assert netorch("exec", "blue", "hostname").stdout == "blue\n"
        netorch("down")

    def test_succeeds_when_the_reason_is_gone(self, netorch: Netorch) -> None:
        netorch.write(FAILING["a setup command fails"][0])
        netorch("up", code=1)
        with netorch.lab(RED_BLUE) as lab:
            lab.ping("red", "blue")


class TestDryRun:
    def test_builds_nothing(self, netorch: Netorch) -> None:
        netorch.write(RED_BLUE)
        before = snapshot.take()
        assert "red" in shown(netorch("up", "--dry-run"))
        snapshot.assert_equal(before, seconds=0)

    def test_shows_what_plan_shows(self, netorch: Netorch) -> None:
        netorch.write(RED_BLUE)
        one, other = netorch("up", "--dry-run").stdout, netorch("plan").stdout
        if view.ROOTLESS:  # interfaces on the host are named after the realm, made for each look
            one, other = (re.sub(r"host:v\w+", "host:v", text) for text in (one, other))
        assert one == other


CONNECTED = """
bridges: {br0: 10.0.0.1/24}
containers:
  red:
  green:
  blue:
    command: [python3, -I, /srv/echo.py]
    ready: {tcp: 9, timeout: 60s}
    files:
      /srv/echo.py: |
        import socketserver
        class Echo(socketserver.BaseRequestHandler):
            def handle(self):
                while data := self.request.recv(65536):
                    self.request.sendall(data)
        socketserver.ThreadingTCPServer(("", 9), Echo).serve_forever()
links:
  - [red: 10.0.0.2/24, br0]
  - [blue: 10.0.0.3/24, br0]
  - [green: 10.0.0.4/24, br0]
  - {endpoints: [red:cable: 10.1.0.1/30, blue:cable: 10.1.0.2/30], rate: 20mbit}
"""
CLIENT = """
import socket, sys, threading
idle = socket.create_connection(("10.0.0.3", 9), 60)
stream = socket.create_connection(("10.1.0.2", 9), 60)
def echo(connection, data):
    connection.sendall(data)
    heard = b""
    while len(heard) < len(data):
        more = connection.recv(65536)
        assert more, "closed"
        heard += more
    assert heard == data
said = threading.Event()
rounds = 0
def run():
    global rounds
    while rounds < 20 or not said.is_set():
        echo(stream, rounds.to_bytes(8, "big") * 2000)
        rounds += 1
    for _ in range(20):
        echo(stream, b"after" * 2000)
    print("the stream goes on")
streaming = threading.Thread(target=run)
streaming.start()
print("open")
sys.stdin.readline()
echo(idle, b"still there")
print("the idle one answers")
said.set()
streaming.join()
"""


def _delay(netorch: Netorch) -> str:
    """Where the kernel has netem, a delay is set as well."""
    text = "containers: {a: , b: }\nlinks: [{endpoints: [a: 10.9.0.1/30, b: 10.9.0.2/30], delay: 2ms}]\n"
    valid = netorch("validate", netorch.write(text, "delay.yaml"), code=None).code == 0
    return ", delay: 2ms" if valid else ""


class TestConverging:
    """``up`` on a running lab changes what differs, and nothing else."""

    def test_twice_changes_nothing(self, netorch: Netorch) -> None:
        with netorch.lab(RED_BLUE):
            before = snapshot.take()
            assert netorch("plan", "--json").json()["changes"] == []
            assert netorch("up", "--json").json()["changes"] == 0
            snapshot.assert_equal(before, seconds=0)

    @pytest.mark.parametrize(
        "file",
        sorted(file for file in TOPOLOGIES.glob("*.yaml") if file.stem not in ABOUT_NETWORKS),
        ids=lambda file: file.stem,
    )
    def test_every_topology_is_as_planned(self, netorch: Netorch, file: Path) -> None:
        """What was built is what is observed: no difference, no drift, nothing extra."""
        if file.stem == "layers":  # in a copy, the layers are this user's
            netorch("init", "layers")
            file = netorch.directory / "lab.yaml"
        with netorch.lab(file):
            assert netorch("plan", "--json", file).json()["changes"] == []
            status = netorch("status", "--json", file).json()
            assert (status["drift"], status["extra"]) == ([], [])

    def test_an_added_container_leaves_the_others_running(self, netorch: Netorch) -> None:
        with netorch.lab(RED_BLUE.replace("  red:\n", "  red: {command: [sleep, '1000']}\n")) as lab:
            before = {row["name"]: row["pid"] for row in netorch("ps", "--json").json()}
            own = processes_of(lab, "red")
            text = lab.file.read_text().replace("  blue:\n", "  blue:\n  green:\n")
            lab.file.write_text(text.replace("  - [blue, br0]\n", "  - [blue, br0]\n  - [green, br0]\n"))
            netorch("up")
            after = {row["name"]: row["pid"] for row in netorch("ps", "--json").json()}
            assert {name: after[name] for name in before} == before
            assert processes_of(lab, "red") == own
            lab.ping("green", "red")
            lab.ping("red", "green")  # by name: the hosts file of a running container was brought up to date

    def test_open_connections_live_through_it(self, netorch: Netorch) -> None:
        """One that is idle, and one that streams over the very cable that is changed."""
        with netorch.lab(CONNECTED) as lab:
            client = netorch.start("exec", "-i", "red", "python3", "-I", "-u", "-c", CLIENT)
            assert client.stdin is not None and client.stdout is not None
            assert client.stdout.readline() == "open\n", client.stderr
            text = CONNECTED.replace("rate: 20mbit", f"rate: 40mbit{_delay(netorch)}")
            text = text.replace("  green:\n", "  green: {iptables: [-A INPUT -p tcp -j DROP]}\n  third:\n")
            lab.file.write_text(text.replace("links:\n", "links:\n  - [third, br0]\n"))
            done = netorch("up", "--json", lab.file).json()
            assert done["changes"] > 3
            client.stdin.write("now\n")
            client.stdin.flush()
            answers = client.stdout.read()
            assert client.wait(timeout=SECONDS) == 0, client.stderr.read() if client.stderr else ""
            assert answers == "the idle one answers\nthe stream goes on\n"
            lab.ping("third", "red")
            assert netorch("status", "--json").json()["drift"] == []

    def test_a_removed_container_leaves_the_others_running(self, netorch: Netorch) -> None:
        with netorch.lab(RED_BLUE) as lab:
            red = netorch("ps", "--json").json()[0]["pid"]
            without = RED_BLUE.replace("  blue:\n", "").replace("  - [blue, br0]\n", "")
            text, _, _ = without.partition("\nchecks:")
            lab.file.write_text(text)
            netorch("up")
            rows = netorch("ps", "--json").json()
            assert [(row["name"], row["pid"]) for row in rows] == [("red", red)]
            lab.ping("red", "10.0.0.1")

    def test_equal_hosts_files_are_one_until_they_differ(self, netorch: Netorch) -> None:
        """Each names every container: one for each would make a lab grow with its square."""
        text = (
            "bridges: {br0: 10.0.0.1/24}\ncontainers:\n  h: {scale: 3}\n  red: {}\n"
            "  inner: {namespaces: {user: true}}\n  boss: {privileged: true}\n"
            "links: [[h, br0], [red, br0], [inner, br0], [boss, br0]]\n"
        )
        with netorch.lab(text) as lab:
            own = [processes_of(lab, name) for name in ("h1", "red")]
            run = view.path(netorch("inspect", "--json", lab.file).json()["directory"])
            files = {name: run / "c" / name / "hosts" for name in ("h1", "h2", "h3", "red", "inner", "boss")}
            inodes = {name: file.stat().st_ino for name, file in files.items()}
            assert inodes["h1"] == inodes["h2"] == inodes["red"]
            assert len({inodes["h1"], inodes["inner"], inodes["boss"]}) == 3
            assert (run / "state.json").read_text().count("10.0.0.2 h1") == 1

            more = text.replace("  red: {}\n", "  red: {}\n  blue: {}\n").replace(
                "[red,", "[blue, br0], [red,"
            )
            lab.file.write_text(more)  # all change alike: in place
            netorch("up")
            for name, file in files.items():
                assert " blue\n" in lab.sh(name, "cat /etc/hosts")
                assert file.stat().st_ino == inodes[name]

            lab.file.write_text(more.replace("red: {}", "red: {extra_hosts: {db: 10.9.9.9}}"))
            netorch("up")
            assert "10.9.9.9 db\n" in lab.sh("red", "cat /etc/hosts")
            assert all("db" not in lab.sh(name, "cat /etc/hosts") for name in ("h1", "h2", "blue"))
            assert netorch("plan", "--json").json()["changes"] == []
            assert " ro," in lab.sh("red", "grep /etc/hosts /proc/self/mountinfo")

            lab.file.write_text(more)  # what has a file of its own by now is changed in place again
            netorch("up")
            assert "db" not in lab.sh("red", "cat /etc/hosts")
            assert [processes_of(lab, name) for name in ("h1", "red")] == own

    def test_a_changed_rule_is_changed_in_place(self, netorch: Netorch) -> None:
        text = (TOPOLOGIES / "firewall.yaml").read_text()
        with netorch.lab(text) as lab:
            probes.listening(lab, "server", 8080)
            assert probes.tcp(lab, "client", "server", 8080) == "timeout"
            lab.file.write_text(text.replace("-A INPUT -j DROP", "-A INPUT -p tcp -j REJECT"))
            own = processes_of(lab, "server")
            netorch("up")
            assert processes_of(lab, "server") == own
            assert probes.tcp(lab, "client", "server", 8080) == "refused"
            assert netorch("plan", "--json").json()["changes"] == []

    def test_a_changed_address_moves(self, netorch: Netorch) -> None:
        text = RED_BLUE.replace("- [blue, br0]", "- [blue: 10.0.0.3/24, br0]")
        with netorch.lab(text) as lab:
            lab.file.write_text(text.replace("- [red, br0]", "- [red: 10.0.0.77/24, br0]"))
            netorch("up")
            lab.ping("blue", "10.0.0.77")
            lab.ping("blue", "10.0.0.2", passes=False)
            lab.ping("blue", "red")
            assert netorch("status", "--json").json()["drift"] == []

    def test_a_container_made_anew_keeps_the_cables_of_its_neighbours(self, netorch: Netorch) -> None:
        with netorch.lab(RED_BLUE) as lab:
            lab.sh("red", "echo old > /srv/written")
            lab.file.write_text(RED_BLUE.replace("  red:\n", "  red: {hostname: crimson}\n"))
            planned = netorch("plan")
            assert "! " in planned.stdout, "plan says which container is made anew"
            netorch("up")
            assert lab.sh("red", "hostname; ls /srv/written", code=2) == "crimson"
            lab.ping("blue", "red")
            assert netorch("plan", "--json").json()["changes"] == []


def processes_of(lab: Lab, node: str) -> list[str]:
    """The processes of a container but for the one that looks, as ``pid command`` lines."""
    lines = lab.sh(node, "ps -e -o pid=,args=").splitlines()
    return [line.strip() for line in lines if "ps -e -o" not in line]


class TestStatus:
    """The kernel's own state against the file."""

    DRIFTS = (
        ("ip address del 10.0.0.2/24 dev eth0", "address"),
        ("ip route del default", "route"),
        ("ip link set eth0 mtu 1400", "eth0"),
        ("ip link set eth0 down", "eth0"),
        ("iptables -F", "firewall"),
        ("sysctl -qw net.ipv4.ip_forward=1", "ip_forward"),
    )

    @pytest.mark.parametrize(("script", "named"), DRIFTS, ids=[script for script, _ in DRIFTS])
    def test_names_what_drifted_and_up_repairs_it(self, netorch: Netorch, script: str, named: str) -> None:
        text = RED_BLUE.replace(
            "  red:\n", "  red: {iptables: [-A INPUT -p tcp -j DROP], sysctls: {net.ipv4.ip_forward: 0}}\n"
        )
        with netorch.lab(text) as lab:
            netorch("status")
            lab.sh("red", script)
            status = netorch("status", "--json", code=1).json()
            assert any(named in entry["object"] and "red" in entry["object"] for entry in status["drift"])
            assert all("blue" not in entry["object"] for entry in status["drift"])
            assert named in netorch("status", code=1).stdout
            netorch("up")
            assert netorch("status", "--json").json()["drift"] == []
            lab.ping("red", "blue")

    def test_names_a_bridge_that_was_deleted_and_up_repairs_it(self, netorch: Netorch) -> None:
        text = RED_BLUE.replace("br0: 10.0.0.1/24", "br0: {address: 10.0.0.1/24, ifname: br-own}")
        with netorch.lab(text) as lab:
            view.run("ip", "link", "del", "br-own")
            status = netorch("status", "--json", code=1).json()
            assert "bridge br0" in [entry["object"] for entry in status["drift"]]
            netorch("up")
            lab.ping("red", "blue")

    def test_names_a_dead_container_and_up_repairs_it(self, netorch: Netorch) -> None:
        with netorch.lab(RED_BLUE) as lab:
            pid = netorch("ps", "--json").json()[0]["pid"]
            run("kill", "-9", str(pid))
            until(lambda: not Path(f"/proc/{pid}/root").exists() or not alive(pid), f"the end of {pid}")
            status = netorch("status", "--json", code=1).json()
            assert any("red" in entry["object"] for entry in status["drift"])
            netorch("up")
            lab.ping("red", "blue")
            lab.ping("blue", "red")

    def test_what_others_added_is_extra_and_stays(self, netorch: Netorch) -> None:
        with netorch.lab(RED_BLUE) as lab:
            lab.sh("red", "ip route add 192.0.2.0/24 via 10.0.0.3; ip link add own type bridge")
            status = netorch("status", "--json").json()
            assert status["drift"] == []
            extra = " ".join(entry["object"] for entry in status["extra"])
            assert "192.0.2.0/24" in extra and "own" in extra
            assert netorch("status", "--json", "--strict", code=1).json()["drift"] != []
            netorch("up")
            assert "192.0.2.0/24" in lab.sh("red", "ip route")
            lab.sh("red", "ip link show own")


def alive(pid: int) -> bool:
    """Whether the process runs (a zombie does not)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


class TestForwarding:
    """What the host does between bridges and to the outside, and what it gets back."""

    @view.ON_THE_HOST
    def test_a_host_that_did_not_forward_does_not_afterwards(self, netorch: Netorch) -> None:
        assert FORWARDING.read_text() == "0\n"
        with netorch.lab(RED_BLUE):
            assert FORWARDING.read_text() == "1\n"
        assert FORWARDING.read_text() == "0\n"

    def test_the_last_lab_gives_back_what_the_first_changed(self, netorch: Netorch) -> None:
        one, two = netorch.write(RED_BLUE, "one.yaml"), netorch.write(TWO_BRIDGES, "two.yaml")
        netorch("up", one)
        with netorch.lab(two) as second:
            netorch("down", one)
            assert probes.http(second, "red", f"http://{outside.IPV4}/").startswith("you are ")

    @pytest.mark.parametrize("name", ["net.ipv4.conf.uplink.accept_redirects", "net.ipv4.conf.all.rp_filter"])
    @view.ON_THE_HOST
    def test_what_an_administrator_changed_meanwhile_stays(self, netorch: Netorch, name: str) -> None:
        path = Path("/proc/sys", *name.split("."))
        old = path.read_text()
        new = "2\n" if name.endswith("rp_filter") else "0\n"
        with netorch.lab(RED_BLUE):
            path.write_text(new)
        try:
            assert path.read_text() == new
        finally:
            path.write_text(old)

    def test_two_bridges_without_a_router_are_apart(self, netorch: Netorch, forwarding: None) -> None:
        with netorch.lab(TWO_BRIDGES) as lab:
            for node in ("red", "blue"):
                assert probes.http(lab, node, f"http://{outside.IPV4}/").startswith("you are ")
            lab.ping("red", "10.20.1.2", passes=False)
            lab.ping("blue", "10.20.0.2", passes=False)

    def test_a_host_that_is_the_router_joins_them(self, netorch: Netorch) -> None:
        with netorch.lab(TWO_BRIDGES + "host: {router: true}\n") as lab:
            lab.ping("red", "blue")
            assert probes.ttl(lab, "blue", "red") == 63

    def test_two_labs_are_apart(self, netorch: Netorch, forwarding: None) -> None:
        one = netorch.write(RED_BLUE, "one.yaml")
        with netorch.lab(one) as first, netorch.lab(TWO_BRIDGES) as second:
            second.netorch("exec", "--lab", "lab", "red", "ping", "-n", "-c1", "-W1", "10.0.0.2", code=1)
            first.netorch("exec", "--lab", "one", "red", "ping", "-n", "-c1", "-W1", "10.20.0.2", code=1)

    @view.ON_THE_HOST
    def test_route_shows_the_outside_the_container_itself(self, netorch: Netorch, host: TestHost) -> None:
        text = RED_BLUE.replace("br0: 10.0.0.1/24", "br0: {address: 10.0.0.1/24, forward: route}")
        host.in_outside("ip", "route", "add", "10.0.0.0/24", "via", "203.0.113.2")
        try:
            with netorch.lab(text) as lab:
                assert probes.http(lab, "red", f"http://{outside.IPV4}/") == "you are 10.0.0.2\n"
        finally:
            host.in_outside("ip", "route", "del", "10.0.0.0/24")

    def test_none_forwards_nothing(self, netorch: Netorch, host: TestHost, forwarding: None) -> None:
        text = RED_BLUE.replace("br0: 10.0.0.1/24", "br0: {address: 10.0.0.1/24, forward: none}")
        host.in_outside("ip", "route", "add", "10.0.0.0/24", "via", "203.0.113.2")
        try:
            with netorch.lab(text) as lab:
                lab.ping("red", "blue")
                lab.ping("red", outside.IPV4, passes=False)
        finally:
            host.in_outside("ip", "route", "del", "10.0.0.0/24")

    def test_rules_of_the_host_section(self, netorch: Netorch) -> None:
        rule = "-A FORWARD -i br0 -o br1 -j DROP"
        text = f"{TWO_BRIDGES}host: {{router: true, iptables: ['{rule}']}}\n"
        with netorch.lab(text) as lab:
            lab.ping("red", "blue", passes=False)
            lab.ping("red", "10.20.0.1")
            lab.file.write_text(text.replace("DROP", "ACCEPT"))
            netorch("up")
            lab.ping("red", "blue")


class TestNames:
    def test_netns_names_work_for_ip_netns(self, netorch: Netorch) -> None:
        with netorch.lab(RED_BLUE):
            assert "10.0.0.2/24" in view.run("ip", "netns", "exec", "lab.red", "ip", "address")

    def test_the_same_file_under_another_name(self, netorch: Netorch) -> None:
        cable = (TOPOLOGIES / "straight-cable.yaml").read_text()
        file, other, namesake = (netorch.write(cable, f"{name}.yaml") for name in ("lab", "other", "one"))
        netorch("up", "--name", "one")
        netorch("up", "--name", "two")
        assert f"already up, from {file}" in netorch("up", namesake, code=2).stderr
        said = netorch("up", "--name", "one", other).stderr
        assert f"warning: lab one was up from {file}, and is now as {other} says\n" in said
        assert "warning" not in netorch("up", "--name", "one", other).stderr
        assert {row["lab"] for row in netorch("ls", "--json").json()} == {"one", "two"}
        for name in ("one", "two"):
            netorch("exec", "--lab", name, "left", "ping", "-n", "-c1", "-W1", "right")
            netorch("down", name)

    @view.ON_THE_HOST
    def test_a_subnet_that_is_up_already_is_refused_with_a_hint(self, netorch: Netorch) -> None:
        file = netorch.write(RED_BLUE)
        netorch("up", file)
        before = snapshot.take()
        result = netorch("up", "--name", "second", file, code=2)
        assert "10.0.0." in result.stderr and "--private" in result.stderr
        assert f"{file.name}:" in result.stderr
        snapshot.assert_equal(before)
        netorch("down", file)
