"""What each command prints and how it exits: the contract with shells, scripts and people."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from support import cgroups, snapshot, view
from support.outer import TestHost, run
from support.runner import ROOT, SECONDS, TOPOLOGIES, Lab, Netorch
from support.waiting import until

pytestmark = pytest.mark.kernel

HEAVY = {"pyroute2", "networkx", "pydantic", "rich", "typer", "yaml"}
TEXT = """
bridges:
  br0: 10.0.0.1/24
containers:
  red:
    command: "echo to-stdout; echo to-stderr >&2; exec sleep 1000"
    environment: {COLOUR: "deep red", EMPTY: ""}
    files: {/etc/motd: "I am {name}\\n", /opt/deep/down/tool: "#!/bin/sh\\necho tool\\n"}
    labels: {role: web, tier: front}
  blue:
    hostname: azure
    labels: {role: db}
  h:
    scale: 2
    labels: {role: web}
links:
  - [red, br0]
  - [blue, br0]
  - [h, br0]
"""


@pytest.fixture(scope="module")
def lab(outer: TestHost, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """One lab for all tests here that only use it; none of them may leave a trace on the host either."""
    netorch = Netorch(tmp_path_factory.mktemp("commands"))
    before = snapshot.take()
    with netorch.lab(TEXT) as lab:
        yield lab
    snapshot.assert_equal(before)


@pytest.fixture
def netorch(lab: Lab) -> Netorch:
    """``netorch`` in the directory of the lab."""
    return lab.netorch


def inside(word: bytes) -> list[int]:
    """Processes below this one's cgroup whose command line holds the word."""
    found = []
    for pid in cgroups.processes(cgroups.positions()[0]):
        try:
            if word in Path(f"/proc/{pid}/cmdline").read_bytes():
                found.append(pid)
        except OSError:
            continue
    return found


class TestExecExitCodes:
    @pytest.mark.parametrize("code", [0, 1, 2, 7, 125, 126, 127, 128, 130, 255])
    def test_are_the_commands_own(self, lab: Lab, code: int) -> None:
        lab.exec("red", "sh", "-c", f"exit {code}", code=code)

    @pytest.mark.parametrize(("name", "number"), [("TERM", 15), ("KILL", 9), ("INT", 2), ("SEGV", 11)])
    def test_of_a_command_that_a_signal_ended(self, lab: Lab, name: str, number: int) -> None:
        lab.exec("red", "sh", "-c", f"kill -{name} $$", code=128 + number)

    def test_not_found(self, lab: Lab) -> None:
        assert "nosuch" in lab.exec("red", "nosuch", code=127).stderr
        assert "/no/such" in lab.exec("red", "/no/such", code=127).stderr

    def test_not_executable(self, lab: Lab) -> None:
        assert "/etc/passwd" in lab.exec("red", "/etc/passwd", code=126).stderr
        lab.exec("red", "/etc", code=126)

    def test_no_such_container_names_those_that_exist(self, netorch: Netorch) -> None:
        result = netorch("exec", "nobody", "true", code=125)
        assert result.stderr.startswith("error: ")
        for name in ("red", "blue", "h1", "h2"):
            assert re.search(rf"\b{name}\b", result.stderr)

    @pytest.mark.parametrize(
        "words",
        [[], ["red"], ["--nosuch", "red", "true"], ["-e"], ["--lab", "nosuch", "red", "true"]],
        ids=str,
    )
    def test_wrong_usage(self, netorch: Netorch, words: list[str]) -> None:
        result = netorch("exec", *words, code=125)
        assert result.stdout == ""
        assert "error: " in result.stderr


class TestExecStreams:
    def test_stdout_and_stderr_are_apart(self, lab: Lab) -> None:
        result = lab.exec("red", "sh", "-c", "echo one; echo two >&2")
        assert (result.stdout, result.stderr) == ("one\n", "two\n")

    def test_stdin_is_empty_without_i(self, netorch: Netorch) -> None:
        assert netorch("exec", "red", "cat", input="not for red\n").stdout == ""

    def test_stdin_with_i(self, lab: Lab) -> None:
        assert lab.exec("red", "cat", input="for red\n").stdout == "for red\n"

    def test_a_megabyte_goes_through_both_ways(self, lab: Lab) -> None:
        text = "0123456789abcde\n" * 65536
        assert lab.exec("red", "cat", input=text).stdout == text

    def test_a_pipeline_ends_when_the_command_has_read_enough(self, netorch: Netorch) -> None:
        result = pipeline(netorch, 'yes | "$@"', "exec", "-i", "red", "head", "-1")
        assert (result.returncode, result.stdout) == (0, b"y\n")

    def test_a_pipeline_ends_when_the_reader_has_enough(self, netorch: Netorch) -> None:
        result = pipeline(netorch, '"$@" | head -1', "exec", "red", "yes")
        assert (result.returncode, result.stdout, result.stderr) == (0, b"y\n", b"")
        until(lambda: not inside(b"yes"), "the end of yes in red")

    def test_options_of_the_command_are_its_own(self, lab: Lab) -> None:
        assert lab.exec("red", "echo", "-i", "--json", "--help").stdout == "-i --json --help\n"
        assert lab.exec("red", "--", "echo", "after").stdout == "after\n"

    def test_arguments_arrive_as_they_are(self, lab: Lab) -> None:
        odd = ["", " ", "a b", "$HOME", "*", "'", '"', "\\", "\n", "ü", "-"]
        script = "import json, sys; print(json.dumps(sys.argv[1:]))"
        assert lab.exec("red", "python3", "-I", "-c", script, *odd).json() == odd


def pipeline(netorch: Netorch, script: str, *words: str) -> subprocess.CompletedProcess[bytes]:
    """A shell pipeline in which ``"$@"`` is netorch."""
    return subprocess.run(
        ["sh", "-c", script, "sh", *netorch.argv(*words)],
        cwd=netorch.directory,
        env=netorch.environment,
        capture_output=True,
        timeout=SECONDS,
        stdin=subprocess.DEVNULL,
    )


SIGNALLED = """
import signal, sys
waited_for = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1}
signal.pthread_sigmask(signal.SIG_BLOCK, waited_for)
print("ready", flush=True)
print("got", signal.Signals(signal.sigwait(waited_for)).name, flush=True)
sys.exit(9)
"""


class TestExecSignals:
    def test_ctrl_c_reaches_the_command(self, netorch: Netorch) -> None:
        with netorch.start("exec", "red", "python3", "-I", "-c", SIGNALLED) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            netorch.interrupt(process)
            stdout, stderr = process.communicate(timeout=SECONDS)
        assert (stdout, process.returncode) == ("got SIGINT\n", 9), stderr
        assert "Traceback" not in stderr

    @pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP", "SIGUSR1"])
    def test_a_signal_to_netorch_is_forwarded(self, netorch: Netorch, name: str) -> None:
        with netorch.start("exec", "red", "python3", "-I", "-c", SIGNALLED) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            process.send_signal(getattr(signal, name))
            stdout, stderr = process.communicate(timeout=SECONDS)
        assert (stdout, process.returncode) == (f"got {name}\n", 9), stderr

    def test_ctrl_c_ends_a_command_that_does_not_mind_it(self, netorch: Netorch) -> None:
        with netorch.start("exec", "red", "sleep", "54321") as process:
            until(lambda: any(is_running(pid, b"sleep") for pid in inside(b"54321")), "sleep in red")
            netorch.interrupt(process)
            process.communicate(timeout=SECONDS)
        assert process.returncode == 130
        until(lambda: not inside(b"54321"), "the end of sleep in red")

    def test_a_killed_netorch_leaves_nobody_behind_after_down(self, netorch: Netorch) -> None:
        """What is still running in the container is the container's; ``down`` ends it (host fixture)."""
        other = netorch.write((TOPOLOGIES / "straight-cable.yaml").read_text(), "cable.yaml")
        with netorch.lab(other), netorch.start("exec", "--lab", "cable", "left", "sleep", "65432") as process:
            until(lambda: any(is_running(pid, b"sleep") for pid in inside(b"65432")), "sleep in left")
            process.kill()
            process.communicate(timeout=SECONDS)


def is_running(pid: int, program: bytes) -> bool:
    """Whether the process has become that program (it is a netorch before)."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().startswith(program)
    except OSError:
        return False


class TestExecOptions:
    def test_environment(self, lab: Lab) -> None:
        assert lab.sh("red", 'echo "$COLOUR|${EMPTY-unset}"') == "deep red|"
        result = lab.netorch("exec", "-e", "COLOUR=pale", "-e", "NEW=a=b", "red", "env")
        assert {"COLOUR=pale", "NEW=a=b"} <= set(result.stdout.splitlines())

    def test_the_environment_is_the_files_and_not_the_callers(self, lab: Lab) -> None:
        result = lab.netorch("exec", "red", "env", environment={"SECRET": "of the host"})
        names = {line.partition("=")[0] for line in result.stdout.splitlines()}
        assert "SECRET" not in names
        path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
        assert f"PATH={path}" in result.stdout.splitlines()

    def test_working_directory(self, lab: Lab) -> None:
        assert lab.netorch("exec", "-w", "/usr/share", "red", "pwd").stdout == "/usr/share\n"
        assert lab.netorch("exec", "-w", "/no/such", "red", "pwd", code=None).code in (125, 126, 127)

    @pytest.mark.parametrize(
        ("user", "ids"),
        [("1000:1001", "1000 1001"), ("nobody", "65534 65534"), ("root", "0 0"), ("12", "12")],
    )
    def test_user(self, lab: Lab, user: str, ids: str) -> None:
        result = lab.netorch("exec", "-u", user, "red", "sh", "-c", "echo $(id -u) $(id -g)")
        assert result.stdout.startswith(ids)

    def test_no_such_user(self, lab: Lab) -> None:
        assert "nosuchuser" in lab.netorch("exec", "-u", "nosuchuser", "red", "id", code=125).stderr

    def test_all(self, netorch: Netorch) -> None:
        result = netorch("exec", "--all", "hostname")
        for name in ("red", "azure", "h1", "h2"):
            assert re.search(rf"\b{name}$", result.stdout, re.MULTILINE)
        assert netorch("exec", "--all", "sh", "-c", "[ $(hostname) != h2 ]", code=None).code == 1

    def test_by_label(self, netorch: Netorch) -> None:
        result = netorch("exec", "-l", "role=web", "hostname")
        assert "red" in result.stdout and "h1" in result.stdout and "azure" not in result.stdout
        assert "label" in netorch("exec", "-l", "role=nosuch", "hostname", code=125).stderr

    def test_a_lab_is_named_by_its_file_or_its_name(self, netorch: Netorch, tmp_path: Path) -> None:
        for word in ("lab", "lab.yaml", str(netorch.directory / "lab.yaml")):
            assert netorch("exec", "--lab", word, "red", "hostname").stdout == "red\n"
        assert Netorch(tmp_path)("exec", "red", "hostname").stdout == "red\n"


def test_exec_imports_next_to_nothing(netorch: Netorch) -> None:
    """Start-up is what a user waits for at every ``exec`` (DESIGN section 6)."""
    imported = _imported(netorch, "exec", "red", "true")
    assert not imported & HEAVY
    # The same look at a command that needs some of them shows that they would be seen.
    assert {"typer", "yaml"} <= _imported(netorch, "plan", "--format", "json")


def _imported(netorch: Netorch, *words: str) -> set[str]:
    lines = netorch(*words, python=("-X", "importtime")).stderr.splitlines()
    return {
        line.rpartition("|")[2].strip().split(".")[0] for line in lines if line.startswith("import time:")
    }


class TestInside:
    """What a container sees."""

    def test_only_its_own_processes(self, lab: Lab) -> None:
        shown = lab.sh("red", "ps -e -o pid=,comm=").split()
        processes = dict(zip(map(int, shown[::2]), shown[1::2], strict=True))
        assert 1 in processes
        del processes[1]
        assert sorted(processes.values()) == ["ps", "sh", "sleep"]
        host = next(iter(inside(b"pytest") or [os.getpid()]))
        lab.sh("red", f"! test -e /proc/{max(host, 300)}")

    def test_its_own_name(self, lab: Lab) -> None:
        assert lab.sh("red", "hostname; cat /etc/hostname") == "red\nred"
        assert lab.sh("blue", "hostname; cat /etc/hostname") == "azure\nazure"

    def test_a_written_file_is_its_own(self, lab: Lab) -> None:
        lab.sh("red", "echo mine > /etc/netorch-x; echo changed >> /etc/passwd; rm /etc/hosts.allow; true")
        assert lab.sh("red", "cat /etc/netorch-x") == "mine"
        assert not Path("/etc/netorch-x").exists()
        assert "changed" not in Path("/etc/passwd").read_text()
        lab.sh("blue", "! test -e /etc/netorch-x && ! grep changed /etc/passwd")

    def test_lo_and_eth0_only(self, lab: Lab) -> None:
        fallback = {link["ifname"] for link in json.loads(run("unshare", "-n", "ip", "-json", "link"))}
        links = json.loads(lab.sh("red", "ip -json link"))
        assert {link["ifname"] for link in links} == fallback | {"eth0"}
        assert {link["ifname"] for link in links if "UP" in link["flags"]} == {"lo", "eth0"}

    def test_its_cgroup_is_the_root(self, lab: Lab) -> None:
        lines = lab.sh("red", "cat /proc/self/cgroup").splitlines()
        assert len(lines) == len(Path("/proc/self/cgroup").read_text().splitlines())
        assert all(line.endswith(":/") for line in lines), lines

    def test_exec_enters_the_containers_cgroup(self, lab: Lab) -> None:
        """In every hierarchy: what runs by exec is where the container is."""
        with lab.netorch.start("exec", "red", "sleep", "76543") as process:
            until(lambda: any(is_running(pid, b"sleep") for pid in inside(b"76543")), "sleep in red")
            pid = next(pid for pid in inside(b"76543") if is_running(pid, b"sleep"))
            first = next(row["pid"] for row in lab.netorch("ps", "--json").json() if row["name"] == "red")
            assert Path(f"/proc/{pid}/cgroup").read_text() == Path(f"/proc/{first}/cgroup").read_text()
            for name in ("mnt", "uts", "ipc", "pid", "net", "cgroup"):
                spaces = [os.readlink(f"/proc/{each}/ns/{name}") for each in (pid, first)]
                assert spaces[0] == spaces[1] != os.readlink(f"/proc/self/ns/{name}"), name
            lab.netorch.interrupt(process)
            process.communicate(timeout=SECONDS)

    def test_its_files(self, lab: Lab) -> None:
        assert lab.sh("red", "cat /etc/motd") == "I am red"
        assert lab.sh("red", "/opt/deep/down/tool") == "tool"

    def test_the_hosts_file_names_all(self, lab: Lab) -> None:
        for name, address in (("red", "10.0.0.2"), ("blue", "10.0.0.3"), ("h2", "10.0.0.5")):
            assert address in lab.sh("h1", f"getent ahostsv4 {name}")

    def test_the_directory_of_the_lab_file_is_there_live_and_read_only(self, lab: Lab) -> None:
        directory = lab.netorch.directory
        (directory / "later.txt").write_text("later\n")
        assert lab.sh("red", f"cat {directory}/later.txt") == "later"
        assert "Read-only" in lab.exec("red", "touch", str(directory / "x"), code=1).stderr

    def test_fresh_run_tmp_dev_and_proc(self, lab: Lab) -> None:
        names = lab.sh("red", "ls -A /tmp").splitlines()
        assert set(names) <= {lab.netorch.directory.relative_to("/tmp").parts[0]}, "only the lab's own way in"
        lab.sh("red", "test -c /dev/null && test -c /dev/net/tun && test -d /dev/pts && test -d /dev/shm")
        lab.sh("red", "! test -e /run/netorch && echo x > /run/x && echo x > /tmp/x && echo x > /dev/shm/x")
        assert not Path("/run/x").exists()
        assert lab.sh("red", "ls /dev/vda /dev/sda /dev/mem 2>/dev/null; true") == ""

    def test_no_mount_of_the_host_is_writable(self, lab: Lab) -> None:
        lab.sh("red", "! echo 1 > /proc/sysrq-trigger", code=0)
        lab.sh("red", "! echo x > /sys/kernel/mm/ksm/run", code=0)

    def test_the_same_sysctls_whatever_the_hosts_are(self, lab: Lab) -> None:
        names = "net.ipv4.ip_forward net.ipv4.conf.eth0.rp_filter net.ipv4.conf.all.rp_filter"
        assert lab.sh("red", f"sysctl -n {names}") == "0\n0\n0"

    def test_orphans_are_reaped(self, lab: Lab) -> None:
        lab.sh("blue", "for i in 1 2 3 4 5 6 7 8; do (true &); done")
        until(lambda: "Z" not in lab.sh("blue", "ps -e -o state="), "the end of all zombies in blue")


class TestLooking:
    """Commands that show something: data on stdout, JSON of a fixed shape."""

    def test_ls(self, netorch: Netorch) -> None:
        [row] = netorch("ls", "--json").json()
        assert row["lab"] == "lab"
        assert row["file"] == str(netorch.directory / "lab.yaml")
        assert (row["state"], row["containers"], row["links"], row["netns"]) == ("up", 4, 4, view.NETNS)
        assert isinstance(row["created"], int | float)
        assert "lab" in netorch("ls").stdout

    def test_ps(self, netorch: Netorch) -> None:
        rows = {row["name"]: row for row in netorch("ps", "--json").json()}
        assert list(rows) == ["red", "blue", "h1", "h2"]
        red = rows["red"]
        assert {
            "lab",
            "name",
            "state",
            "pid",
            "addresses",
            "uptime",
            "restarts",
            "oom_kills",
            "exit_code",
        } <= set(red)
        assert (red["lab"], red["addresses"], red["restarts"]) == ("lab", ["10.0.0.2/24"], 0)
        assert red["state"] == "running"
        assert red["exit_code"] is None
        assert Path(f"/proc/{red['pid']}").exists()
        assert isinstance(red["uptime"], int | float)
        table = netorch("ps").stdout
        assert all(name in table for name in rows)

    def test_status(self, netorch: Netorch) -> None:
        sound = {"lab": "lab", "drift": [], "extra": [], "oom_kills": {}, "warnings": []}
        assert netorch("status", "--json").json() == sound
        assert netorch("status", "lab").stdout

    def test_plan(self, netorch: Netorch) -> None:
        assert netorch("plan", "--json").json() == {"lab": "lab", "changes": []}
        assert netorch("plan", "--format", "json").json()["changes"] == []

    def test_plan_of_a_lab_that_is_not_up(self, netorch: Netorch, tmp_path: Path) -> None:
        cable = TOPOLOGIES / "straight-cable.yaml"
        changes = netorch("plan", "--json", cable).json()["changes"]
        text = netorch("plan", cable).stdout
        assert changes and len(text.splitlines()) >= len(changes)
        assert all(line.startswith("+") for line in text.splitlines())
        assert "left" in text and "right" in text and "10.2.0.1/30" in text

    def test_inspect_a_container(self, netorch: Netorch) -> None:
        red = netorch("inspect", "red").json()
        pid = next(row["pid"] for row in netorch("ps", "--json").json() if row["name"] == "red")
        assert red["name"] == "red"
        text = json.dumps(red)
        assert "10.0.0.2/24" in text and str(pid) in text
        for name in ("mnt", "uts", "ipc", "pid", "net", "cgroup"):
            inode = os.readlink(f"/proc/{pid}/ns/{name}").strip("]").rpartition("[")[2]
            assert inode in text, f"inspect does not show the {name} namespace"
        eth0 = next(each for each in red["interfaces"] if each["ifname"] == "eth0")
        assert eth0["addresses"] == ["10.0.0.2/24"] and eth0["up"] and eth0["carrier"]
        assert eth0["mac"] == Path(f"/proc/{pid}/root/sys/class/net/eth0/address").read_text().strip()
        assert {pid, *inside(b"sleep\x001000")} >= set(red["pids"]) > {pid}
        assert (red["rules"], red["firewall"]) == ([], []) and red["routes"] and red["limits"]
        assert red["cgroup"]["v2"] or red["cgroup"]["v1"] or view.ROOTLESS, "no cgroup is delegated there"

    def test_inspect_a_lab(self, netorch: Netorch) -> None:
        lab = netorch("inspect", "lab").json()
        assert [container["name"] for container in lab["containers"]] == ["red", "blue", "h1", "h2"]

    def test_logs(self, netorch: Netorch) -> None:
        until(lambda: "to-stderr" in netorch("logs", "red").stdout, "both lines in the log of red")
        assert netorch("logs", "red").stdout.splitlines() == ["to-stdout", "to-stderr"]
        assert netorch("logs", "--tail", "1", "red").stdout == "to-stderr\n"
        assert "red" in netorch("logs", "nobody", code=2).stderr

    def test_schema(self, netorch: Netorch) -> None:
        schema = netorch("schema").json()
        assert {"bridges", "containers", "links", "checks", "scenario"} <= set(schema["properties"])

    def test_validate(self, netorch: Netorch) -> None:
        assert netorch("validate", "--json").json()["valid"] is True
        broken = netorch.write("containers:\n  red: {comand: x}\n", "broken.yaml")
        result = netorch("validate", broken, code=2)
        assert "broken.yaml:2:9" in result.stderr and "command" in result.stderr
        assert netorch("validate", "--json", broken, code=2).json()["valid"] is False

    def test_init_lists_and_writes(self, netorch: Netorch, tmp_path: Path) -> None:
        there = Netorch(tmp_path)
        listed = there("init").stdout
        assert all(path.stem in listed for path in TOPOLOGIES.glob("*.yaml"))
        there("init", "red-blue")
        there("init", "red-blue", code=2)
        assert "red-blue" in there("init", "red-bleu", code=2).stderr

    @pytest.mark.parametrize(
        ("words", "said"),
        [
            (["up", "nosuch.yaml"], "nosuch.yaml"),
            (["ps", "nosuch"], "nosuch"),
            (["inspect", "nobody"], "red"),
            (["up", "--nosuch"], "--nosuch"),
            (["nosuch"], "nosuch"),
            (["exec"], ""),
        ],
        ids=str,
    )
    def test_what_is_wrong_is_said(self, netorch: Netorch, words: list[str], said: str) -> None:
        result = netorch(*words, code=125 if words == ["exec"] else 2)
        assert result.stdout == ""
        assert result.stderr.startswith("error: ") and said in result.stderr

    def test_with_several_labs_up_one_must_be_named(self, netorch: Netorch, tmp_path: Path) -> None:
        there = Netorch(tmp_path)
        cable = there.write((TOPOLOGIES / "straight-cable.yaml").read_text(), "cable.yaml")
        with there.lab(cable):
            result = there("ps", code=2)
            assert "cable" in result.stderr and "lab" in result.stderr
            assert there("exec", "left", "hostname").stdout == "left\n"  # only one lab has it
            assert [row["lab"] for row in netorch("ps", "--json").json()] == ["lab"] * 4  # ./lab.yaml


def test_up_says_what_it_did(netorch: Netorch, tmp_path: Path) -> None:
    there = Netorch(tmp_path)
    cable = there.write((TOPOLOGIES / "straight-cable.yaml").read_text(), "cable.yaml")
    result = there("up", cable)
    assert result.stdout == ""
    assert re.fullmatch(r"cable: 2 containers, 1 link up in \d+\.\d\d s\n", result.stderr)
    result = there("down", cable)
    assert re.fullmatch(r"cable: 2 containers, 1 link removed in \d+\.\d\d s\n", result.stderr)


def test_the_package_ships_its_version() -> None:
    text = (ROOT / "CHANGELOG.md").read_text()
    version = re.search(r'^version = "(.*)"', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert version and f"## [{version[1]}]" in text
