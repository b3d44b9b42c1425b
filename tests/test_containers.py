"""Containers as a user has them: what they may use, how their commands live, wait and end."""

from __future__ import annotations

import itertools
import os
import stat
import time
from pathlib import Path
from typing import Any

import pytest
from support import probes, view
from support.limits import Cgroups, on_v2
from support.runner import TOPOLOGIES, Lab, Netorch, Result
from support.waiting import until

pytestmark = pytest.mark.kernel

MB = 1 << 20


def row(node: str, name: str = "lab") -> dict[str, Any]:
    """What ``ps`` says of a container."""
    return next(row for row in view.ps(name) if row["name"] == node)


def elapsed(netorch: Netorch, *words: str, code: int = 0) -> tuple[float, Result]:
    """How long a command took, in seconds, and how it ended."""
    began = time.monotonic()
    result = netorch(*words, code=code)
    return time.monotonic() - began, result


def may_not(lab: Lab, node: str, statement: str) -> bool:
    """Whether a container's root gets EPERM for it."""
    return lab.python(node, f"try:\n    {statement}\nexcept PermissionError:\n    print('no')") == "no"


# -- the examples --------------------------------------------------------------------------------


@view.LIMITS
def test_the_example_cgroup_limits(netorch: Netorch) -> None:
    with netorch.lab(TOPOLOGIES / "cgroup-limits.yaml") as lab:
        until(lambda: row("eater", "cgroup-limits")["oom_kills"] >= 2, "eater is killed, and killed again")
        assert row("eater", "cgroup-limits")["restarts"] >= 1
        assert lab.sh("eater", "echo still up") == "still up"
        assert lab.exec("eater", "sh", "-c", "head -c 300000000 /dev/zero | tail", code=None).code == 137
        refused = lab.exec("crowd", "sh", "-c", "for i in $(seq 70); do sleep 3 & done", code=2)
        assert "fork" in refused.stderr
        assert lab.sh("witness", "echo not hurt") == "not hurt"
        assert {row(name, "cgroup-limits")["oom_kills"] for name in ("hog", "crowd", "witness")} == {0}


def test_the_example_services(netorch: Netorch) -> None:
    with netorch.lab(TOPOLOGIES / "services.yaml") as lab:
        # Ready is ready: the first request right after `up` is answered.
        assert lab.sh("client", "python3 /opt/get.py") == "web: app: a row of db"
        assert lab.sh("app", "id -u") == "1000"
        lab.exec("app", "pkill", "-f", "app.py")
        until(lambda: row("app", "services")["restarts"] == 1, "app is started again")
        probes.listening(lab, "app", 8000)
        assert lab.sh("client", "python3 /opt/get.py") == "web: app: a row of db"


def test_the_example_capabilities(netorch: Netorch) -> None:
    raw = "import socket; socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)"
    clock = "import time; time.clock_settime(0, time.clock_gettime(0))"
    with netorch.lab(TOPOLOGIES / "capabilities.yaml") as lab:
        lab.python("plain", raw)
        assert may_not(lab, "mute", raw)
        assert may_not(lab, "plain", clock)
        if view.ROOTLESS:  # whose capabilities are over the lab, not over the host's clock
            assert may_not(lab, "clock", clock)
        else:
            lab.python("clock", clock)
        lab.sh("plain", "ip link set eth0 mtu 1400")
        lab.sh("bare", "ip link set eth0 mtu 1400", code=2)
        assert lab.sh("limited", "ulimit -n; ulimit -Hn; ulimit -c").split() == ["64", "64", "0"]
        assert "0000000000000000" in lab.sh("user", "grep CapEff /proc/self/status")
        lab.sh("plain", "unshare -m true", code=1)


# -- what they may use ---------------------------------------------------------------------------


@pytest.mark.vm
@view.LIMITS
def test_half_a_cpu_is_half_a_cpu(netorch: Netorch) -> None:
    text = "containers: {hog: {command: 'while :; do :; done', resources: {cpus: 0.5, cpu_weight: 10000}}}"
    with netorch.lab(text):
        hog = Cgroups(netorch, "hog")
        hog.favour()
        used: list[float] = []

        def fits() -> bool:
            before, began = hog.cpu_seconds(), time.monotonic()
            time.sleep(2.5)
            used.append((hog.cpu_seconds() - before) / (time.monotonic() - began))
            return 0.45 <= used[-1] <= 0.55

        # Where others leave it less, it may take a second look; more it must never get.
        until(fits, lambda: f"0.45 to 0.55 CPU; it used {used}", seconds=10)
        assert max(used) <= 0.55


ALL_LIMITS = """
containers:
  red:
    command: sleep 1000
    resources: {cpus: 1.5, cpu_weight: 200, cpuset: "0", memory: 100M, swap: 10M, pids: 100}
"""


@pytest.mark.vm
@view.LIMITS
def test_limits_are_kept_by_the_kernel_and_changed_in_place(netorch: Netorch) -> None:
    with netorch.lab(ALL_LIMITS):
        red, pid = Cgroups(netorch, "red"), row("red")["pid"]
        assert red.read("quota") in ("150000", "150000 100000")
        assert red.read("cpuset") == "0"
        assert red.read("memory") == str(100 * MB)
        assert red.read("memory and swap") in (str(110 * MB), str(10 * MB))
        assert red.read("pids") == "100"
        assert red.read("weight") in ("2452", "200")
        netorch.write(ALL_LIMITS.replace("pids: 100", "pids: 50").replace("memory: 100M", "memory: 64M"))
        assert "2 to do" not in netorch("status").stdout
        netorch("up")
        assert (red.read("pids"), red.read("memory")) == ("50", str(64 * MB))
        assert red.read("memory and swap") in (str(74 * MB), str(10 * MB))
        netorch.write("containers: {red: {command: sleep 1000}}")
        netorch("up")
        assert red.read("pids") == "max"
        assert red.read("quota") in ("-1", "max 100000")
        assert row("red")["pid"] == pid, "nothing of it was started anew"
        assert netorch("status", "--json").json()["drift"] == []


@view.LIMITS
def test_a_limit_changed_by_hand_is_drift_and_up_puts_it_back(netorch: Netorch) -> None:
    with netorch.lab(ALL_LIMITS):
        red = Cgroups(netorch, "red")
        for what, value in (("pids", "77"), ("cpuset", "0-1" if os.cpu_count() != 1 else "0")):
            red.file(what).write_text(value)
        drift = netorch("status", "--json", code=1).json()["drift"]
        assert [entry["object"] for entry in drift] == ["cgroup red"]
        assert drift[0]["expected"]["pids"] == 100 and drift[0]["found"]["pids"] == 77
        netorch("up")
        assert (red.read("pids"), red.read("cpuset")) == ("100", "0")
        netorch("status")


@pytest.mark.vm
@view.LIMITS
def test_block_io_limits(netorch: Netorch) -> None:
    disk = next((path for path in map(_node, Path("/sys/block").iterdir()) if path), None)
    if disk is None:
        pytest.skip("no block device has a node in /dev here")
    numbers = f"{os.major(os.stat(disk).st_rdev)}:{os.minor(os.stat(disk).st_rdev)}"
    limit = f"{{device: {disk}, read_bps: 10M, write_iops: 100}}"
    with netorch.lab(f"containers: {{red: {{resources: {{io: [{limit}]}}}}}}"):
        red = Cgroups(netorch, "red")
        assert f"{numbers} " in red.read("read_bps") and str(10 * MB) in red.read("read_bps")
        assert "100" in red.read("write_iops")
        netorch("status")
        netorch.write("containers: {red: }")
        netorch("up")
        assert red.read("read_bps") == ""


def _node(block: Path) -> Path | None:
    node = Path("/dev") / block.name
    fits = node.exists() and stat.S_ISBLK(node.stat().st_mode)
    return node if fits and int((block / "size").read_text()) else None


@pytest.mark.vm
@view.LIMITS
def test_memory_high_where_the_host_has_it(netorch: Netorch) -> None:
    netorch.write("containers:\n  red:\n    resources:\n      memory_high: 50M\n")
    if on_v2("memory"):
        with netorch.lab(netorch.directory / "lab.yaml"):
            assert Cgroups(netorch, "red").read("high") == str(50 * MB)
        return
    result = netorch("up", code=2)
    assert "`memory_high` is there on cgroup v2 only" in result.stderr
    assert "lab.yaml:" in result.stderr and "hint: use `memory`" in result.stderr


@pytest.mark.vm
@view.LIMITS
def test_the_oom_killer_takes_one_process_and_nothing_else(netorch: Netorch) -> None:
    text = """
    containers:
      red: {command: sleep 1000, resources: {memory: 200M}}
      blue: {command: sleep 1000, resources: {memory: 200M}}
    """
    with netorch.lab(text) as lab:
        before = {name: row(name)["pid"] for name in ("red", "blue")}
        lab.python("red", "bytearray(100 << 20)")
        lab.python("red", "bytearray(300 << 20)", code=137)
        red, blue = row("red"), row("blue")
        assert (red["oom_kills"], blue["oom_kills"]) == (1, 0)
        assert (red["state"], blue["state"]) == ("running", "running")
        assert {"red": red["pid"], "blue": blue["pid"]} == before
        told = netorch("status").stdout
        assert "red" in told and "OOM" in told and "blue" not in told
        lab.python("red", "bytearray(100 << 20)")


@view.LIMITS
def test_the_smallest_memory_that_is_accepted_is_enough_for_a_container(netorch: Netorch) -> None:
    with netorch.lab("containers: {red: {command: sleep 1000, resources: {memory: 6M}}}") as lab:
        assert lab.sh("red", "echo up") == "up"
        assert row("red")["oom_kills"] == 0
    netorch.write("containers: {red: {resources: {memory: 5M}}}")
    assert "is too small" in netorch("up", code=2).stderr


@view.LIMITS
def test_up_succeeds_though_a_command_is_killed_for_its_memory(netorch: Netorch) -> None:
    text = """
    containers:
      red:
        command: [python3, -c, "bytearray(100 << 20)"]
        restart: always
        resources: {memory: 20M}
      blue: {depends_on: [red]}
    """
    with netorch.lab(text):
        until(lambda: row("red")["oom_kills"] >= 2, "it is killed again and again")
        netorch("status")
        netorch("up")


BOMB = """
containers:
  red:
    files:
      /bomb: |
        import os, time
        while True:
            try:
                os.fork()
            except OSError:
                time.sleep(0.2)
    command: [python3, /bomb]
    resources: {pids: 64}
  blue: {command: sleep 1000}
"""


@pytest.mark.vm
@view.LIMITS
def test_a_fork_bomb_stays_within_its_limit(netorch: Netorch) -> None:
    with netorch.lab(BOMB) as lab:
        red = Cgroups(netorch, "red")
        until(lambda: red.read("processes") == "64", "64 processes")
        for _ in range(10):
            assert int(red.read("processes")) <= 64
            time.sleep(0.05)
        assert lab.sh("blue", "sh -c 'sh -c \"echo forks\"'") == "forks"
        assert row("red")["state"] == "running"


@view.LIMITS
def test_pid_1_outlives_a_restart_that_finds_no_room(netorch: Netorch) -> None:
    text = "containers: {red: {command: sleep 0.3, restart: always, resources: {pids: 12}}}"
    fill = """
import os, time
children, end = [], time.monotonic() + 1.5
while time.monotonic() < end:
    try:
        pid = os.fork()
    except OSError:
        time.sleep(0.002)
        continue
    if not pid:
        time.sleep(30)
    children.append(pid)
for pid in children:
    os.kill(pid, 9)
"""
    with netorch.lab(text) as lab:
        lab.python("red", fill)
        seen = row("red")
        assert seen["pid"] is not None and seen["state"] in ("running", "restarting")
        until(lambda: row("red")["restarts"] > seen["restarts"], "it is started again")


# -- commands: ready, in order, again, to the end ------------------------------------------------

NOT_READY = {
    "tcp: 80": "nothing listens on TCP port 80, only on 8080",
    'log: "^never$"': "its output has nothing that matches '^never$'",
    "file: /never": "/never: No such file or directory",
    'exec: "echo no luck; exit 3"': "`echo no luck; exit 3` exited 3: no luck",
}


@pytest.mark.parametrize(
    ("probe", "missing"), NOT_READY.items(), ids=[key.split(":")[0] for key in NOT_READY]
)
def test_not_ready_in_time_says_what_is_missing(netorch: Netorch, probe: str, missing: str) -> None:
    """At once, too: `late` would have a minute."""
    netorch.write(f"""
containers:
  red:
    command: "echo these were its words; exec python3 -m http.server 8080"
    ready: {{{probe}, timeout: 1s}}
  late:
    ready: {{exec: sleep 50, timeout: 60s}}
""")
    seconds, result = elapsed(netorch, "up", code=1)
    assert "container red is not ready after 1 s: " + missing in result.stderr
    assert "lab.yaml:4:" in result.stderr
    assert "these were its words" in result.stderr
    assert seconds < 20


def test_the_time_limit_of_up_says_who_was_not_ready(netorch: Netorch) -> None:
    text = "containers:\n  red: {ready: {tcp: 80, timeout: 60s}}\n  blue:\n"
    netorch.write(text)
    said = netorch("up", "--timeout", "1", code=1).stderr
    assert "not up after 1 s" in said and "lab.yaml:2:" in said and "hint: not ready by then: red\n" in said


def test_ready_ends_when_the_command_does(netorch: Netorch) -> None:
    netorch.write("containers: {red: {command: 'echo oh no; exit 4', ready: {tcp: 80, timeout: 60s}}}")
    seconds, result = elapsed(netorch, "up", code=1)
    assert "its command has ended with exit code 4" in result.stderr and "oh no" in result.stderr
    assert seconds < 20


def test_each_probe_finds_what_it_waits_for(netorch: Netorch) -> None:
    text = """
    containers:
      tcp: {command: "sleep 0.3; exec python3 -m http.server 80", ready: {tcp: 80}}
      six: {command: "exec python3 -m http.server 80 --bind ::1", ready: {tcp: 80}}
      log: {command: "sleep 0.3; echo up and running; exit 0", ready: {log: "up.*running$"}}
      file: {command: "sleep 0.3; ln -s /etc/hostname /run/up; sleep 1000", ready: {file: /run/up}}
      exec: {command: "sleep 0.3; touch /run/up; sleep 1000", ready: {exec: test -e /run/up}}
      idle: {ready: {exec: "true"}}
    """
    with netorch.lab(text) as lab:
        lab.sh("file", "test -L /run/up")
        lab.sh("exec", "test -e /run/up")
        assert probes.tcp(lab, "tcp", "127.0.0.1", 80) == "open"
        assert (row("log")["state"], row("log")["exit_code"]) == ("exited", 0)


def test_containers_start_in_order_and_side_by_side(netorch: Netorch) -> None:
    text = """
    containers:
      last: {command: date +%s%N, depends_on: [middle, two]}
      middle: {command: date +%s%N, depends_on: [one, two]}
      one: {command: date +%s%N; sleep 0.8; date +%s%N; echo up, ready: {log: up}}
      two: {command: date +%s%N; sleep 0.8; date +%s%N; echo up, ready: {log: up}}
    """
    with netorch.lab(text):
        one, two, middle, last = (
            [int(word) for word in netorch("logs", name).stdout.split() if word != "up"]
            for name in ("one", "two", "middle", "last")
        )
    assert max(one[0], two[0]) < min(one[1], two[1]), "side by side"
    assert middle[0] > max(one[1], two[1])
    assert last[0] > middle[0]


def test_a_circle_of_dependencies_is_refused(netorch: Netorch) -> None:
    netorch.write("containers:\n  red: {depends_on: [blue]}\n  blue: {depends_on: [red]}\n")
    assert "depends_on goes round in a circle: red -> blue -> red" in netorch("up", code=2).stderr


def test_a_new_command_that_is_not_ready_gives_way_to_the_old_one(netorch: Netorch) -> None:
    old = "containers: {red: {command: 'echo old; exec sleep 1000', ready: {log: old, timeout: 1s}}}"
    with netorch.lab(old) as lab:
        pid = row("red")["pid"]
        # What the old command printed must not count for the new one.
        netorch.write(old.replace("echo old; exec sleep 1000", "exec sleep 2000"))
        assert "matches 'old'" in netorch("up", code=1).stderr
        running = lab.sh("red", "tr '\\0' ' ' < /proc/$(pgrep -x sleep)/cmdline")
        assert running == "sleep 1000"
        assert row("red")["pid"] == pid
        assert netorch("logs", "red").stdout == "old\nold\n"


def test_restart_policies_are_counted_and_slow_down(netorch: Netorch) -> None:
    text = """
    containers:
      fails: {command: "echo x >> /run/n; test $(wc -l < /run/n) -gt 3 && exec sleep 1000; exit 5",
              restart: on-failure}
      done: {command: "exit 0", restart: on-failure}
      always: {command: "date +%s%N; exit 0", restart: always}
      never: {command: "exit 6"}
    """
    with netorch.lab(text):
        fourth = {"state": "running", "restarts": 3}
        until(lambda: fourth.items() <= row("fails").items(), "the fourth run, which stays")
        until(lambda: row("always")["restarts"] >= 4, "it is run again and again")
        runs = [int(line) / 1e9 for line in netorch("logs", "always").stdout.split()]
        pauses = [later - earlier for earlier, later in itertools.pairwise(runs)]
        wanted = (0.1, 0.2, 0.4)  # at least: a busy machine adds to each
        assert all(pause > least * 0.98 for pause, least in zip(pauses, wanted, strict=False)), pauses
        for name, code in (("done", 0), ("never", 6)):
            found = row(name)
            assert (found["state"], found["exit_code"], found["restarts"]) == ("exited", code, 0)


def test_down_sends_the_stop_signal_and_waits(netorch: Netorch) -> None:
    """`own` ends by its own signal only; each has half a minute, which it must not take."""
    deaf = "trap '' TERM; trap 'exit 0' USR1; echo up; while :; do sleep 0.05; done"
    netorch.write(f"""
containers:
  usual: {{command: "trap 'exit 0' TERM; echo up; while :; do sleep 0.05; done", ready: {{log: up}}}}
  own: {{command: "{deaf}", ready: {{log: up}}, stop_signal: SIGUSR1, stop_grace_period: 30s}}
""")
    netorch("up")
    seconds, _ = elapsed(netorch, "down")
    assert seconds < 10


def test_what_does_not_end_in_its_grace_period_is_killed(netorch: Netorch) -> None:
    netorch.write("""
containers:
  red:
    command: "trap '' TERM; echo up; while :; do sleep 0.05; done"
    ready: {log: up}
    stop_grace_period: 2s
""")
    netorch("up")
    seconds, _ = elapsed(netorch, "down")
    assert 2 <= seconds < 10


def test_who_where_and_with_what_a_command_runs(netorch: Netorch) -> None:
    netorch.write("COLOUR=red\nSHAPE='a square'\n", "red.env")
    text = """
    containers:
      red:
        command: id -un; id -gn; pwd; echo $COLOUR, $SHAPE, $SIZE
        user: "daemon:tty"
        working_dir: /usr
        env_file: red.env
        environment: {COLOUR: crimson, SIZE: L}
    """
    with netorch.lab(text) as lab:
        until(lambda: row("red")["state"] == "exited", "it ends")
        expected = "daemon\ntty\n/usr\ncrimson, a square, L\n"
        assert netorch("logs", "red").stdout == expected
        assert lab.sh("red", "id -un; id -gn; pwd; echo $COLOUR, $SHAPE, $SIZE") + "\n" == expected
    netorch.write("containers: {red: {command: 'true', user: nosuch}}")
    result = netorch("up", code=1)
    assert "there is no user 'nosuch'" in result.stderr and "lab.yaml:1:" in result.stderr


def test_a_container_whose_command_ended_keeps_its_network(netorch: Netorch) -> None:
    text = (TOPOLOGIES / "red-blue.yaml").read_text().replace("  red:\n", "  red: {command: exit 7}\n")
    with netorch.lab(text) as lab:
        until(lambda: row("red")["state"] == "exited", "it ends")
        assert row("red")["exit_code"] == 7
        lab.ping("blue", "red")
        lab.ping("red", "blue")


def test_output_has_a_limit_and_its_end_is_kept(netorch: Netorch) -> None:
    with netorch.lab("containers: {red: {command: 'seq 1 700000; echo last', ready: {log: last}}}"):
        lines = netorch("logs", "red").stdout.splitlines()
        assert lines[-2:] == ["700000", "last"]
        assert 50_000 < len(lines) < 400_000, "2 MB of 4.7"
        assert netorch("logs", "red", "--tail", "2").stdout == "700000\nlast\n"


def test_a_thousand_orphans_leave_no_zombie(netorch: Netorch) -> None:
    orphans = """
import os
for _ in range(1000):
    if not os.fork():
        if os.fork():
            os._exit(0)
        os._exit(3)
    os.wait()
"""
    with netorch.lab("containers: {red: {command: sleep 1000}}") as lab:
        lab.python("red", orphans)
        zombies = "grep -ls '^State:.Z' /proc/[0-9]*/status | wc -l"
        until(lambda: lab.sh("red", zombies) == "0", "all are reaped")
        assert row("red")["state"] == "running"


SETUPS = """
containers:
  long:
    setup: [sleep 50]
  short:
    setup: ["sleep 0.2; exit 3"]
"""


def test_a_setup_that_fails_does_not_wait_for_the_others(netorch: Netorch) -> None:
    netorch.write(SETUPS)
    seconds, result = elapsed(netorch, "up", code=1)
    assert "setup of short failed" in result.stderr
    assert seconds < 20


def test_the_time_limit_of_up_ends_a_setup(netorch: Netorch) -> None:
    netorch.write(SETUPS.replace("exit 3", "exit 0"))
    seconds, result = elapsed(netorch, "up", "--timeout", "2", code=1)
    assert "not up after 2 s" in result.stderr
    assert seconds < 20
