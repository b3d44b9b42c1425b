"""Namespaces that differ from the usual: user, time, a shared network, nesting; and a command as PID 1."""

from __future__ import annotations

import os
import re
import time
from pathlib import Path
from typing import Any

import pytest
from support import probes, view
from support.outer import run
from support.runner import TOPOLOGIES, Lab, Netorch
from support.waiting import until

from netns_orch.capabilities import CAPABILITIES, NESTING_CAPABILITIES, mask
from netns_orch.kernel import idranges

kernel = pytest.mark.kernel
EIGHT = ["cgroup", "ipc", "mnt", "net", "pid", "time", "user", "uts"]
BRIDGE = "bridges: {br0: 10.44.0.1/24}\ncontainers:\n"


def inspect(lab: Lab, node: str) -> Any:
    return lab.netorch("inspect", node).json()


def row(lab: Lab, node: str) -> Any:
    return next(row for row in lab.netorch("ps", "--json").json() if row["name"] == node)


def first_id(lab: Lab, node: str) -> int:
    """The host's id of root in the container."""
    return int(lab.sh(node, "cat /proc/self/uid_map").split()[1])


def host_status(pid: int) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {key: value.strip() for key, _, value in (line.partition(":") for line in lines)}


def own_status(lab: Lab, node: str) -> dict[str, str]:
    """What exec's own process says of its confinement."""
    names = "^(Cap|NoNewPrivs|Seccomp:|Uid|Gid|Groups)"
    lines = lab.sh(node, f"grep -E '{names}' /proc/self/status").splitlines()
    return {key: value.strip() for key, _, value in (line.partition(":") for line in lines)}


# -- user ------------------------------------------------------------------------------------------


@kernel
@view.RANGE
def test_userns(netorch: Netorch) -> None:
    before = os.stat("/etc/passwd")
    with netorch.lab(TOPOLOGIES / "userns.yaml") as lab:
        first = first_id(lab, "mapped")
        assert idranges.FIRST <= first <= idranges.LAST and (first - idranges.FIRST) % idranges.SIZE == 0
        pid = inspect(lab, "mapped")["pid"]
        assert host_status(pid)["Uid"].split() == [str(first)] * 4
        assert host_status(inspect(lab, "plain")["pid"])["Uid"].split() == ["0"] * 4
        script = "echo mine >> /etc/passwd; touch /root/new; stat -c '%u:%g %n' /etc/passwd /root/new /tmp"
        assert lab.sh("mapped", script).split() == ["0:0", "/etc/passwd", "0:0", "/root/new", "0:0", "/tmp"]
        assert os.stat(f"/proc/{pid}/root/root/new").st_uid == first
        assert lab.sh("mapped", "su nobody -s /bin/sh -c 'id -u; touch /tmp/n'; stat -c %U /tmp/n") == (
            "65534\nnobody"
        )
        lab.ping("mapped", "plain")
        assert lab.sh("mapped", "ip link add x type bridge && ip -o link show x | cut -d: -f2").strip() == "x"
        assert lab.exec("plain", "cat", "/proc/self/uid_map").stdout.split() == ["0", "0", "4294967295"]
    after = os.stat("/etc/passwd")
    assert (after.st_uid, after.st_size, after.st_mtime_ns) == (0, before.st_size, before.st_mtime_ns)


@kernel
@view.RANGE
def test_each_container_has_ids_of_its_own(netorch: Netorch) -> None:
    text = "containers:\n  a: &u {namespaces: {user: true}}\n  b: *u\n  c: *u\n"
    with netorch.lab(text) as lab:
        ids = [first_id(lab, name) for name in "abc"]
        assert len(set(ids)) == 3


@kernel
def test_exec_in_a_user_namespace_is_confined_as_its_command(netorch: Netorch) -> None:
    command = "grep -E '^(Cap|NoNewPrivs|Seccomp:|Uid|Gid|Groups)' /proc/self/status; sleep 1000"
    text = f"containers:\n  red:\n    namespaces: {{user: true}}\n    command: {command!r}\n"
    with netorch.lab(text) as lab:
        until(lambda: "Seccomp" in netorch("logs", "red").stdout, "the command has spoken")
        lines = netorch("logs", "red").stdout.splitlines()
        of_command = {key: value.strip() for key, _, value in (line.partition(":") for line in lines)}
        of_exec = own_status(lab, "red")
        assert of_exec == of_command
        assert of_exec["Seccomp"] == "2" and of_exec["CapInh"] == of_exec["CapAmb"] == "0" * 16
        assert of_exec["CapBnd"] == of_exec["CapEff"]
        assert lab.exec("red", "id", "-u").stdout == "0\n"
        assert inspect(lab, "red")["namespaces"].keys() == set(EIGHT)


ESCAPES = (
    "umount /proc/keys",
    "umount /etc/hosts",
    "umount -l /proc/sys",
    "mount -o remount,bind,rw /etc/hosts",
    "mount -o remount,bind,rw /sys",
    "mount -o remount,rw /sys",
    "mount -t debugfs none /mnt",
    "mknod /tmp/disk b 7 0 && head -c1 /tmp/disk",
    "echo 1 > /proc/sys/kernel/panic",
    "echo 1 > /proc/sysrq-trigger",
    "echo 1 > /sys/fs/cgroup/*/notify_on_release",
    "nsenter --mount=/proc/1/ns/mnt true",
    "cat /proc/1/environ",
    "chown 1:1 /etc/hosts",
    "mount /dev/vda /mnt",
)


@kernel
@pytest.mark.parametrize("key", ["{namespaces: {user: true}, cap_add: [SYS_ADMIN]}", "{nesting: true}"])
def test_power_over_its_own_namespaces_does_not_reach_the_host(netorch: Netorch, key: str) -> None:
    with netorch.lab(f"containers:\n  red: {key}\n") as lab:
        script = "".join(f"( {attempt} ) >/dev/null 2>&1 && echo '{attempt}'; " for attempt in ESCAPES)
        allowed = lab.sh("red", script + "true").splitlines()
        # Nothing is masked where a container may have containers: only then they can have a /proc.
        assert [attempt for attempt in allowed if "nesting" not in key or "/proc/1" not in attempt] == []
        assert lab.sh("red", "mount -t tmpfs none /mnt && touch /mnt/x && ls /mnt") == "x"
        visible = {int(pid) for pid in lab.sh("red", "ls /proc | grep '^[0-9]'").split()}
        assert max(visible) < 100, "its own processes only"


@kernel
@view.RANGE
def test_a_file_system_without_mapped_ids_is_an_error_with_a_hint(netorch: Netorch) -> None:
    root = netorch.directory / "root"
    for name in ("lower", "upper", "work", "root"):
        (netorch.directory / name).mkdir()
    for name in ("usr", "etc", "proc", "sys", "dev"):
        (netorch.directory / "lower" / name).mkdir()
    upper = netorch.directory / "tmp"
    upper.mkdir()
    run("mount", "-t", "tmpfs", "none", str(upper))
    (upper / "u").mkdir()
    (upper / "w").mkdir()
    options = f"lowerdir={netorch.directory}/lower,upperdir={upper}/u,workdir={upper}/w"
    run("mount", "-t", "overlay", "overlay", str(root), "-o", options)
    try:
        path = netorch.write("containers:\n  red:\n    rootfs: ./root\n    namespaces: {user: true}\n")
        result = netorch("up", path, code=1)
        assert "map the ids of" in result.stderr and "overlay" in result.stderr, result
        assert "lab.yaml:2:3" in result.stderr or "lab.yaml:3" in result.stderr, result
        assert netorch("ls", "--json").json() == []
    finally:
        run("umount", str(root))
        run("umount", str(upper))


@kernel
def test_a_network_of_the_hosts_root_can_not_be_given_to_a_user_namespace(netorch: Netorch) -> None:
    text = f"{BRIDGE}  red:\n    namespaces: {{user: false}}\nlinks:\n  - [red, br0]\n"
    with netorch.lab(text) as lab:
        inode, first = inspect(lab, "red")["namespaces"]["net"], first_id(lab, "red")
        lab.file.write_text(text.replace("false", "true"))
        result = netorch("up", lab.file, code=1)
        assert "needs one of its own" in result.stderr and "netorch down" in result.stderr
        assert inspect(lab, "red")["namespaces"]["net"] == inode
        assert first_id(lab, "red") == first


@kernel
def test_made_anew_it_stays_master_of_its_network(netorch: Netorch) -> None:
    text = (
        "bridges: {br0: 10.44.0.1/24}\ncontainers:\n  red:\n    hostname: one\n    namespaces: {user: true}\n"
    )
    text += "links:\n  - [red, br0]\n"
    with netorch.lab(text) as lab:
        before = inspect(lab, "red")["namespaces"]
        lab.file.write_text(text.replace("one", "two"))
        netorch("up", lab.file)
        after = inspect(lab, "red")["namespaces"]
        assert (after["net"], after["user"]) == (before["net"], before["user"])
        assert after["mnt"] != before["mnt"] and lab.sh("red", "hostname") == "two"
        lab.ping("red", "10.44.0.1")
        lab.sh("red", "ip link set eth0 mtu 1400")
        lab.file.write_text(text.replace("user: true", "user: false"))
        netorch("up", lab.file)
        assert inspect(lab, "red")["namespaces"]["net"] == before["net"]
        assert inspect(lab, "red")["namespaces"]["user"] == view.namespace("user")
        lab.ping("red", "10.44.0.1")


# -- pods ------------------------------------------------------------------------------------------


@kernel
def test_pod(netorch: Netorch) -> None:
    with netorch.lab(TOPOLOGIES / "pod.yaml") as lab:
        until(lambda: probes.tcp(lab, "app", "127.0.0.1", 8080) == "open", "the app listens")
        probes.listening(lab, "proxy", 80)
        assert probes.http(lab, "client", "http://app/") == "I am the app\n"
        assert probes.tcp(lab, "client", "app", 8080) == "refused"
        spaces = {name: inspect(lab, name)["namespaces"] for name in ("pause", "app", "proxy", "client")}
        shared = {name for name in EIGHT if len({spaces[n][name] for n in ("pause", "app", "proxy")}) == 1}
        assert shared == {"net", "time", "user"}
        assert spaces["client"]["net"] != spaces["pause"]["net"]
        looks = [inspect(lab, name) for name in ("pause", "app")]
        assert looks[0]["interfaces"] == looks[1]["interfaces"] and looks[0]["routes"] == looks[1]["routes"]
        assert looks[1]["shares_network_of"] == "pause"
        assert row(lab, "app")["addresses"] == row(lab, "pause")["addresses"] == ["10.41.0.2/24"]
        lab.sh("app", "ip address add 10.77.0.1/24 dev eth0")
        assert row(lab, "proxy")["addresses"] == ["10.41.0.2/24", "10.77.0.1/24"], "those that are there"
        lab.sh("app", "ip address del 10.77.0.1/24 dev eth0")
        assert lab.sh("proxy", "hostname; ip -o -4 addr show eth0 | tr -s ' ' | cut -d' ' -f4") == (
            "proxy\n10.41.0.2/24"
        )
        found = netorch("status", "--json").json()
        assert (found["drift"], found["extra"]) == ([], [])


@kernel
def test_a_member_is_made_anew_in_the_same_network_and_follows_its_pod(netorch: Netorch) -> None:
    text = (
        "bridges: {br0: 10.44.0.1/24}\ncontainers:\n  pod:\n  app:\n    namespaces: {net: 'container:pod'}\n"
    )
    text += "links:\n  - [pod, br0]\n"
    with netorch.lab(text) as lab:
        net = inspect(lab, "pod")["namespaces"]["net"]
        lab.file.write_text(text.replace("  app:\n", "  app:\n    hostname: other\n"))
        netorch("up", lab.file)
        assert lab.sh("app", "hostname") == "other"
        assert inspect(lab, "app")["namespaces"]["net"] == net
        os.kill(inspect(lab, "pod")["pid"], 9)
        until(lambda: row(lab, "pod")["state"] == "dead", "pod has died")
        assert netorch("status", code=1).stdout.count("app") >= 1
        netorch("up", lab.file)
        assert inspect(lab, "app")["namespaces"]["net"] == inspect(lab, "pod")["namespaces"]["net"] != net
        lab.ping("app", "10.44.0.1")
        netorch("status")


@kernel
def test_members_of_a_pod_share_its_user_namespace(netorch: Netorch) -> None:
    text = "containers:\n  pod: {namespaces: {user: true}}\n"
    text += "  app: {namespaces: {user: true, net: 'container:pod'}}\n"
    with netorch.lab(text) as lab:
        one, other = (inspect(lab, name)["namespaces"] for name in ("pod", "app"))
        assert (one["user"], one["net"]) == (other["user"], other["net"]) and one["mnt"] != other["mnt"]
        assert lab.sh("app", "ip link add x type bridge; stat -c %U /root /etc/passwd") == "root\nroot"
        assert "x" in lab.sh("pod", "ls /sys/class/net").split()


# -- time ------------------------------------------------------------------------------------------


@kernel
def test_time_travel(netorch: Netorch) -> None:
    with netorch.lab(TOPOLOGIES / "time-travel.yaml") as lab:
        clocks = "import time; print(*(time.clock_gettime(n) for n in (7, 1, 0)))"
        inside = [float(word) for word in lab.python("old", clocks).split()]
        outside = [time.clock_gettime(number) for number in (7, 1, 0)]
        differences = [round(there - here) for there, here in zip(inside, outside, strict=True)]
        for found, wanted in zip(differences, (864000, 3600, 0), strict=True):
            assert abs(found - wanted) <= 5
        assert re.search(r"up 1\d days", lab.sh("old", "uptime"))
        assert abs(float(lab.sh("now", "cut -d' ' -f1 /proc/uptime")) - time.clock_gettime(7)) < 10
        spaces = [inspect(lab, name)["namespaces"]["time"] for name in ("old", "now")]
        assert spaces[0] != spaces[1] == view.namespace("time")
        lab.ping("old", "now")


# -- nesting ---------------------------------------------------------------------------------------


@kernel
@view.LIMITS
def test_sandbox(netorch: Netorch) -> None:
    with netorch.lab(TOPOLOGIES / "sandbox.yaml") as lab:
        shown = lab.sh("workshop", "/root/box")
        assert shown.startswith("welcome to the box\nbox\n") and "10.99.0.2/24" in shown
        assert lab.sh("workshop", "/root/box ps -o pid,comm | tr -s ' '").split() == [
            "PID",
            "COMMAND",
            "1",
            "ps",
        ]
        lab.sh("workshop", "/root/box ping -n -c1 -W2 neighbour.lab")
        lab.sh("workshop", "/root/box sh -c 'echo mine > /etc/motd'")
        assert lab.sh("workshop", "cat /run/box/writes/etc/motd; cat /run/box/image/etc/motd") == (
            "mine\nwelcome to the box"
        )
        assert "Operation not permitted" in lab.exec("workshop", "/root/box", "unshare", "-m", code=1).stderr
        began = time.monotonic()
        used = lab.sh("workshop", "/root/box sh -c 'timeout 2 sh -c \"while :; do :; done\"; times'")
        minutes, seconds = re.findall(r"(\d+)m([\d.]+)s", used)[-2]
        assert float(minutes) * 60 + float(seconds) < 0.3 * (time.monotonic() - began)
        assert netorch("status", "--json").json()["drift"] == []


@kernel
@view.LIMITS
def test_nesting_gives_cgroups_below_its_own_and_not_its_own_limits(netorch: Netorch) -> None:
    text = "containers:\n  red:\n    nesting: true\n    resources: {pids: 40}\n"
    with netorch.lab(text) as lab:
        about = inspect(lab, "red")
        own = [*about["cgroup"]["v1"], about["cgroup"]["v2"]]
        place = next(path for path in own if path and os.path.exists(f"{path}/pids.max"))
        seen = lab.sh("red", "find /sys/fs/cgroup -maxdepth 2 -name pids.max | head -1")
        group = os.path.dirname(seen)
        assert lab.sh("red", f"echo max > {seen}", code=2) == ""
        assert Path(f"{place}/pids.max").read_text() == "40\n"
        assert lab.sh("red", f"mkdir {group}/a && mkdir {group}/a/b && ls -d {group}/a/b") == f"{group}/a/b"
        lab.sh(
            "red", f"cd {group}; for n in $(seq 300); do mkdir deep || break; cd deep; done 2>/dev/null; true"
        )
        lab.file.write_text(text + "    hostname: other\n")
        netorch("up", lab.file)
        assert not os.path.exists(f"{place}/a"), "made anew, it begins without them"
        assert set(own_status(lab, "red")["CapEff"]) and lab.sh("red", "hostname") == "other"
        assert int(own_status(lab, "red")["CapEff"], 16) == mask(NESTING_CAPABILITIES)


# -- privileged ------------------------------------------------------------------------------------


@kernel
def test_privileged_has_all_but_its_namespaces_stay(netorch: Netorch) -> None:
    with netorch.lab("containers:\n  red: {privileged: true}\n  blue:\n") as lab:
        possible = int(host_status(os.getpid())["CapPrm"], 16)
        if view.ROOTLESS:
            possible = -1  # over the realm a user has all
        status = own_status(lab, "red")
        assert int(status["CapEff"], 16) == mask(CAPABILITIES) & possible
        assert status["Seccomp"] == "0"
        assert own_status(lab, "blue")["Seccomp"] == "2"
        assert lab.sh("red", "mount -t tmpfs none /mnt && touch /mnt/x && ls /mnt") == "x"
        nodes = {name for name in os.listdir("/dev") if os.path.exists(f"/dev/{name}")}
        links = {"fd", "stdin", "stdout", "stderr", "ptmx", "core", "log", "initctl"}
        assert nodes - links <= set(lab.sh("red", "ls /dev").split())
        assert (
            lab.sh("red", "grep -cE '^[a-z]+ /(proc|sys)/(keys|timer_list|firmware)' /proc/mounts", code=1)
            == "0"
        )
        here = {name: view.namespace(name) for name in EIGHT}
        there = inspect(lab, "red")["namespaces"]
        assert {name for name in EIGHT if here[name] == there[name]} == {"time", "user"}
        assert lab.sh("red", "ls /sys/class/net | grep -c uplink", code=1) == "0"


# -- init: false -----------------------------------------------------------------------------------


@kernel
def test_without_init_the_exit_code_and_the_last_words_are_kept(netorch: Netorch) -> None:
    command = "echo I am $$$$; seq 20000; echo the end; exit 7"
    text = f"containers:\n  one: {{init: false, command: {command!r}}}\n"
    with netorch.lab(text) as lab:
        until(lambda: row(lab, "one")["state"] == "exited", "its command has ended")
        assert row(lab, "one")["exit_code"] == 7
        assert netorch("wait", "one").stdout == "7\n"
        assert netorch("stats", "--once", "--json").json()[0]["state"] == "exited"
        lines = netorch("logs", "one").stdout.splitlines()
        assert lines[0] == "I am 1" and lines[-1] == "the end" and len(lines) == 20002


@kernel
def test_without_init_another_command_makes_the_container_anew(netorch: Netorch) -> None:
    text = f"{BRIDGE}  one: {{init: false, stop_signal: KILL, command: [sleep, '1000']}}\n"
    text += "links:\n  - [one, br0]\n"
    with netorch.lab(text) as lab:
        assert lab.sh("one", "tr '\\0' ' ' < /proc/1/cmdline").strip() == "sleep 1000"
        before = inspect(lab, "one")
        lab.file.write_text(text.replace("'1000'", "'2000'"))
        assert "! container one" in netorch("plan", lab.file).stdout
        netorch("up", lab.file)
        after = inspect(lab, "one")
        assert after["pid"] != before["pid"] and after["namespaces"]["net"] == before["namespaces"]["net"]
        assert lab.sh("one", "tr '\\0' ' ' < /proc/1/cmdline").strip() == "sleep 2000"
        lab.ping("one", "10.44.0.1")
        os.kill(after["pid"], 9)
        until(lambda: row(lab, "one")["exit_code"] == 137, "killed by signal 9")


# -- what can't be ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ("{privileged: true, nesting: true}", "`nesting` is there to keep"),
        ("{privileged: true, namespaces: {user: true}}", "`namespaces.user` is there to keep"),
        ("{init: false, command: 'true', restart: always}", "who could restart its command"),
    ],
)
def test_contradictions_are_errors_at_their_line(netorch: Netorch, keys: str, words: str) -> None:
    path = netorch.write(f"containers:\n  red: {keys}\n")
    result = netorch("validate", path, code=2)
    assert words in result.stderr and "lab.yaml:2:" in result.stderr


def test_ranges_of_ids_pass_over_what_is_given_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    directory = tmp_path / "c" / "red"
    directory.mkdir(parents=True)
    monkeypatch.setattr(idranges, "_GIVEN_OUT", (str(tmp_path / "subuid"),))
    first = idranges.choose(directory)
    assert first == idranges.choose(directory), "always the same"
    (tmp_path / "subuid").write_text(f"joe:100000:65536\njane:{first + 5}:10\nbroken\n")
    second = idranges.choose(directory)
    assert second != first and idranges.FIRST <= second <= idranges.LAST
    (tmp_path / "c" / "blue").mkdir()
    (tmp_path / "c" / "blue" / "container.json").write_text(f'{{"first_id": {second}}}')
    assert idranges.choose(directory) not in (first, second)
