"""Containers on the real kernel: what they see, what they can't, how their commands live and end."""

from __future__ import annotations

import errno
import fcntl
import functools
import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from support import cgroups, view
from support.waiting import until

from netns_orch.capabilities import DEFAULT_CAPABILITIES, mask
from netns_orch.errors import KernelError, Where
from netns_orch.kernel import baseline, mountinfo, output, realm, rootfs, runtime, users
from netns_orch.kernel import syscalls as sc
from netns_orch.kernel.interrupts import Interrupted

pytestmark = view.IN_PROCESS
kernel = pytest.mark.kernel


class Box:
    """Containers of one test, below a run directory and cgroups of the test's own."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.tree = f"netorch/{path.name}"
        self.zygote = runtime.Zygote()
        self.names: list[str] = []
        self.zygote.start()

    def order(self, name: str, **spec: Any) -> runtime.CreateOrder:
        join = spec.pop("join_netns", None)
        whole: Any = {
            "hostname": name,
            "root": {"kind": "host", "layers": [], "read_only": False},
            "lab_directory": None,
            "files": {},
            "mounts": [],
            "user_namespace": False,
            "time_offsets": {},
            "net": None,
            "capabilities": sorted(DEFAULT_CAPABILITIES),
            "seccomp": "unconfined",
            "nesting": False,
            "privileged": False,
            "init": True,
            "ulimits": {},
        } | spec
        v1 = [path for kind, path in self._cgroups(name) if kind != "unified"]
        v2 = next((path for kind, path in self._cgroups(name) if kind == "unified"), None)
        for path in (*v1, *([v2] if v2 else [])):
            os.makedirs(path, exist_ok=True)
        self.names.append(name)
        directory = self.directory(name)
        return runtime.CreateOrder(
            name=name,
            spec=whole,
            digest="d",
            directory=directory,
            cgroup_v1=v1,
            cgroup_v2=v2,
            join_netns=join,
        )

    def _cgroups(self, name: str) -> list[tuple[str, str]]:
        # the cpuset hierarchy takes nobody until its cpus are set, which is not the matter here
        places = [place for place in cgroups.positions() if "cpuset" not in place.hierarchy]
        if view.INSIDE:
            places = []  # none is delegated to the user of the tests
        return [(place.hierarchy, f"{place.directory}/{self.tree}/{name}") for place in places]

    def directory(self, name: str) -> Path:
        return self.path / "c" / name

    def create(self, name: str, **spec: Any) -> runtime.Created:
        return next(iter(self.zygote.create([self.order(name, **spec)])))

    def process(self, argv: list[str] | None, **spec: Any) -> Any:
        return {
            "argv": argv,
            "environment": {},
            "working_dir": None,
            "user": None,
            "init": True,
            "restart": "no",
            "stop_signal": "TERM",
            "stop_grace_period": 5.0,
            "ready": None,
            "depends_on": [],
        } | spec

    def start(self, name: str, *argv: str, **spec: Any) -> Any:
        process = self.process(list(argv), **spec)
        about = runtime.record(self.directory(name))
        assert about is not None
        runtime.start(self.directory(name), process, about)
        return process

    def run(self, name: str, *argv: str, **spec: Any) -> tuple[int, str]:
        """Run a command to its end; its exit code and all that the log holds since."""
        before = len(self.log(name))
        self.start(name, *argv, **spec)
        code = self.wait(name)
        return code, self.log(name)[before:]

    def sh(self, name: str, script: str, **spec: Any) -> str:
        return self.run(name, "sh", "-c", script, **spec)[1]

    def wait(self, name: str) -> int:
        status = until(lambda: self._ended(name), f"{name} exits: {self.status(name)}")
        return int(status["exit_code"])

    def _ended(self, name: str) -> dict[str, Any] | None:
        status = self.status(name)
        return status if status.get("state") == "exited" else None

    def status(self, name: str) -> dict[str, Any]:
        return runtime.status(self.directory(name))

    def log(self, name: str) -> str:
        return (self.directory(name) / "log").read_text(errors="replace")

    def has_logged(self, name: str, text: str) -> bool:
        return text in self.log(name)

    def close(self) -> None:
        self.zygote.close()
        runtime.stop([(self.directory(name), None) for name in self.names])
        for name in self.names:
            for _, path in self._cgroups(name):
                until(functools.partial(_removed, path), f"{path} goes")
        for _, path in self._cgroups("x"):
            for parent in (os.path.dirname(path), os.path.dirname(os.path.dirname(path))):
                with suppress(OSError):
                    os.rmdir(parent)


def _removed(path: str) -> bool:
    with suppress(OSError):
        os.rmdir(path)
    return not os.path.exists(path)


@pytest.fixture
def box(outer: object, host: object, tmp_path: Path) -> Iterator[Box]:
    found = Box(tmp_path)
    yield found
    found.close()


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """The smallest image: a root with a shell, by binds of the host's /usr at run time."""
    root = tmp_path / "image"
    for name in ("usr", "etc", "proc", "sys", "dev"):
        (root / name).mkdir(parents=True)
    for name in ("bin", "lib", "lib64", "sbin"):
        (root / name).symlink_to(f"usr/{name}")
    return root


def image(*layers: Path, read_only: bool = False) -> dict[str, Any]:
    """A spec with layers and the host's programs."""
    usr = {"kind": "bind", "source": "/usr", "target": "/usr", "options": "", "read_only": True}
    root = {"kind": "layers", "layers": [str(x) for x in layers], "read_only": read_only}
    return {"root": root, "mounts": [usr]}


# -- what a container sees -----------------------------------------------------------------------


@kernel
def test_container_sees_only_itself(box: Box) -> None:
    box.create("red")
    script = "hostname; cat /etc/hostname; grep -v :/$ /proc/self/cgroup; "
    script += "ls /proc | grep -c '^[0-9]'; ls -A /run /tmp"
    assert box.sh("red", script).split() == ["red", "red", "4", "/run:", "/tmp:"]
    names = box.sh("red", "ls /sys/class/net; cat /sys/class/net/lo/operstate").split()
    assert "lo" in names and "uplink" not in names
    assert str(box.path) not in box.sh("red", "cat /proc/mounts")


@kernel
def test_writes_stay_inside(box: Box) -> None:
    list(box.zygote.create([box.order("red"), box.order("blue")]))
    assert box.run("red", "sh", "-c", "echo changed > /etc/netorch-probe && cat /etc/netorch-probe") == (
        0,
        "changed\n",
    )
    assert not Path("/etc/netorch-probe").exists()
    assert box.run("blue", "test", "-e", "/etc/netorch-probe")[0] == 1


@kernel
def test_generated_files_change_in_place(box: Box) -> None:
    box.create("red")
    (box.directory("red") / "hosts").write_text("10.0.0.2 red\n")
    assert "10.0.0.2 red" in box.sh("red", "cat /etc/hosts")
    assert box.run("red", "sh", "-c", "echo x >> /etc/hosts")[0] != 0


@kernel
def test_lab_directory_is_live_and_read_only(box: Box, tmp_path: Path) -> None:
    lab = tmp_path / "lab"
    lab.mkdir()
    box.create("red", lab_directory=str(lab))
    (lab / "later").write_text("live\n")
    assert box.sh("red", f"cat {lab}/later") == "live\n"
    assert box.run("red", "touch", f"{lab}/x")[0] != 0


@kernel
def test_files_are_written_and_scripts_executable(box: Box) -> None:
    box.create("red", files={"/opt/netorch/hello": "#!/bin/sh\necho hello $1\n", "/etc/motd": "welcome\n"})
    assert box.sh("red", "/opt/netorch/hello you; cat /etc/motd") == "hello you\nwelcome\n"


@kernel
def test_masked_and_read_only_paths(box: Box) -> None:
    box.create("red")
    assert box.sh("red", "cat /proc/timer_list /proc/keys | wc -c; ls /sys/firmware | wc -l").split() == [
        "0",
        "0",
    ]
    for path in ("/proc/sys/kernel/panic", "/proc/irq/default_smp_affinity", "/sys/kernel/mm/ksm/run"):
        code, text = box.run("red", "sh", "-c", f"echo 0 > {path}")
        assert code != 0 and ("Read-only" in text or "Directory nonexistent" in text), path
    assert box.run("red", "sh", "-c", "echo 1 > /proc/sys/net/ipv4/conf/all/rp_filter")[0] == 0
    writable = box.sh("red", "grep ' rw' /proc/mounts | grep -v -e overlay -e tmpfs -e devpts -e mqueue")
    assert {line.split()[1] for line in writable.splitlines()} == {"/proc", "/proc/sys/net"}


@kernel
def test_devices(box: Box) -> None:
    box.create("red")
    assert (
        box.run(
            "red",
            "sh",
            "-c",
            "echo x > /dev/null && head -c4 /dev/urandom >/dev/shm/x && test -c /dev/net/tun",
        )[0]
        == 0
    )
    names = "fd full mqueue net null ptmx pts random shm stderr stdin stdout tty urandom zero"
    assert " ".join(box.sh("red", "ls /dev").split()) == names
    program = "import os; m, s = os.openpty(); print(os.ttyname(s))"
    assert box.run("red", "python3", "-c", program)[1].startswith("/dev/pts/")


@kernel
def test_every_container_starts_with_the_same_sysctls(box: Box) -> None:
    box.create("red")
    names = [(f"/proc/sys/net/{name}", value) for name, value in baseline.SYSCTLS]
    text = box.sh("red", "".join(f"echo {name}=$(cat {name} 2>/dev/null);" for name, _ in names))
    found = dict(line.split("=", 1) for line in text.splitlines())
    wrong = {n: found[n] for n, value in names if found[n] and found[n].split() != value.split()}
    wrong.pop("/proc/sys/net/ipv4/tcp_congestion_control", None)  # cubic may be a module that is not there
    if view.INSIDE:  # all subordinate ids
        assert wrong.pop("/proc/sys/net/ipv4/ping_group_range") == "1 65536"
    assert wrong == {}


@kernel
def test_volumes_tmpfs_and_devices(box: Box, tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    mounts = [
        {"kind": "bind", "source": str(data), "target": "/srv/a b", "options": "", "read_only": False},
        {"kind": "bind", "source": str(data), "target": "/srv/ro", "options": "", "read_only": True},
        {"kind": "tmpfs", "source": "", "target": "/scratch", "options": "size=64k", "read_only": False},
        {"kind": "device", "source": "/dev/zero", "target": "/dev/nought", "options": "", "read_only": False},
    ]
    box.create("red", mounts=mounts)
    assert box.run("red", "sh", "-c", "echo kept > '/srv/a b/file' && test -c /dev/nought")[0] == 0
    assert (data / "file").read_text() == "kept\n"
    assert box.run("red", "touch", "/srv/ro/x")[0] != 0
    assert box.run("red", "sh", "-c", "head -c 200000 /dev/zero > /scratch/x")[0] != 0


@kernel
def test_clock_offsets(box: Box) -> None:
    box.create("red", time_offsets={"boottime": 86400.0, "monotonic": 0.0})
    inside = float(box.sh("red", "cat /proc/uptime").split()[0])
    outside = float(Path("/proc/uptime").read_text().split()[0])
    assert 86390 < inside - outside < 86410
    box.create("blue")
    assert float(box.sh("blue", "cat /proc/uptime").split()[0]) < outside + 60


# -- roots and hostile images --------------------------------------------------------------------


@kernel
def test_layers_lowest_first_and_shared(box: Box, tree: Path, tmp_path: Path) -> None:
    upper = tmp_path / "upper:with,comma"
    (upper / "etc").mkdir(parents=True)
    (tree / "etc/which").write_text("lower\n")
    (upper / "etc/which").write_text("upper\n")
    list(box.zygote.create([box.order("red", **image(tree, upper)), box.order("blue", **image(tree))]))
    assert box.sh("red", "cat /etc/which; echo mine > /etc/which") == "upper\n"
    assert box.sh("blue", "cat /etc/which") == "lower\n"
    assert (upper / "etc/which").read_text() == "upper\n"


@kernel
def test_read_only_root(box: Box) -> None:
    box.create("red", root={"kind": "host", "layers": [], "read_only": True})
    code, text = box.run("red", "touch", "/etc/x")
    assert code != 0 and "Read-only" in text
    assert box.run("red", "touch", "/tmp/x")[0] == 0


@kernel
@pytest.mark.parametrize("name", ["proc", "sys", "dev"])
def test_image_with_a_link_for_a_kernel_directory_is_refused(box: Box, tree: Path, name: str) -> None:
    (tree / name).rmdir()
    (tree / name).symlink_to("/etc")
    with pytest.raises(KernelError) as caught:
        box.create("red", **image(tree))
    assert caught.value.errno == errno.ELOOP
    assert f"/{name}" in caught.value.what


@kernel
def test_links_in_an_image_do_not_lead_out(box: Box, tree: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (tree / "etc").rmdir()
    (tree / "etc").symlink_to(f"../../../../../..{outside}")
    (tree / "escape").symlink_to(str(outside))
    (tree / str(outside).lstrip("/")).mkdir(parents=True)
    spec = image(tree)
    spec["mounts"] = [
        *spec["mounts"],
        {"kind": "tmpfs", "source": "", "target": "/escape/deep", "options": "", "read_only": False},
    ]
    box.create("red", files={"/etc/motd": "inside\n", "/escape/file": "inside\n"}, **spec)
    assert box.sh("red", f"cat {outside}/motd {outside}/file; ls {outside}").split()[:2] == ["inside"] * 2
    assert list(outside.iterdir()) == []


@kernel
def test_resolv_conf_that_is_a_link_is_replaced_inside(box: Box, tree: Path) -> None:
    (tree / "etc/resolv.conf").symlink_to("../run/systemd/resolve/stub-resolv.conf")
    order = box.order("red", **image(tree))
    order.directory.mkdir(parents=True)
    (order.directory / "resolv.conf").write_text("nameserver 192.0.2.53\n")
    list(box.zygote.create([order]))
    assert box.sh("red", "cat /etc/resolv.conf") == "nameserver 192.0.2.53\n"
    assert (tree / "etc/resolv.conf").is_symlink()


@kernel
def test_failure_names_the_step(box: Box) -> None:
    mount = {"kind": "bind", "source": "/nowhere", "target": "/srv", "options": "", "read_only": False}
    with pytest.raises(KernelError, match=r"container red could not mount /nowhere at /srv.*No such file"):
        box.create("red", mounts=[mount])
    assert not runtime.alive(box.directory("red"))
    box.create("blue")
    assert runtime.alive(box.directory("blue"))


# -- PID 1 ---------------------------------------------------------------------------------------


@kernel
def test_exit_codes_and_output(box: Box) -> None:
    box.create("red")
    assert box.run("red", "sh", "-c", "echo out; echo err >&2; exit 7") == (7, "out\nerr\n")
    assert box.run("red", "sh", "-c", "kill -9 $$")[0] == 137
    assert box.run("red", "sh", "-c", "kill -PIPE $$")[0] == 141


@kernel
@pytest.mark.parametrize(
    ("program", "code", "words"),
    [("nosuch", 127, "not found"), ("/nosuch/x", 127, "not found"), ("/etc/hosts", 126, "Permission denied")],
)
def test_program_that_can_not_run(box: Box, program: str, code: int, words: str) -> None:
    box.create("red")
    with pytest.raises(KernelError, match=rf"{words}.*\({code}\)"):
        box.start("red", program)
    assert box.status("red")["exit_code"] == code


@kernel
def test_program_under_the_hosts_tmp_gets_a_hint(box: Box) -> None:
    program = Path(f"/tmp/netorch-test-{os.getpid()}")
    program.write_text("#!/bin/sh\n")
    try:
        box.create("red")
        with pytest.raises(KernelError) as caught:
            box.start("red", str(program))
        assert caught.value.hint is not None and "beside the lab file" in caught.value.hint
    finally:
        program.unlink()


@kernel
def test_a_thousand_orphans_leave_no_zombie(box: Box) -> None:
    box.create("red")
    orphans = "i=0; while [ $i -lt 1000 ]; do (true & ) ; i=$((i+1)); done; sleep 0.2; "
    script = orphans + "grep -h '^State' /proc/[0-9]*/status | grep -c Z"
    assert box.sh("red", script).strip() == "0"


@kernel
def test_restart_policies(box: Box) -> None:
    box.create("red")
    script = "echo run; test $(wc -l < /tmp/runs) -ge 3 && exit 0; echo x >> /tmp/runs; exit 1"
    box.sh("red", "touch /tmp/runs; exit 0")
    began = time.monotonic()
    box.start("red", "sh", "-c", script, restart="on-failure")
    until(lambda: box.status("red")["state"] == "exited", "the fourth run succeeds")
    assert box.status("red")["restarts"] == 3
    assert time.monotonic() - began >= 0.7  # 0.1 + 0.2 + 0.4
    box.start("red", "true", restart="always")
    until(lambda: box.status("red")["restarts"] >= 2, "it is run again and again")


@kernel
def test_a_new_command_replaces_the_old_one_in_place(box: Box) -> None:
    created = box.create("red")
    box.start("red", "sh", "-c", "trap 'echo ending; exit 3' TERM; echo first; while :; do sleep 0.05; done")
    until(lambda: "first" in box.log("red"), "the first command runs")
    box.start("red", "sleep", "100")
    assert "ending" in box.log("red")
    assert box.status("red")["state"] == "running"
    about = runtime.record(box.directory("red"))
    assert about is not None and about["pid"] == created.pid
    runtime.start(box.directory("red"), box.process(None), about)
    assert box.status("red")["state"] == "idle"


@kernel
def test_stop_gives_the_command_its_grace_period_then_kills(box: Box) -> None:
    list(box.zygote.create([box.order(name) for name in ("polite", "stubborn", "idle")]))
    done = "trap 'echo bye; exit 0' TERM; echo up; while :; do sleep 0.05; done"
    never = "trap '' TERM; echo up; while :; do sleep 0.05; done"
    polite = box.start("polite", "sh", "-c", done)
    stubborn = box.start("stubborn", "sh", "-c", never, stop_grace_period=0.5)
    for name in ("polite", "stubborn"):
        until(functools.partial(box.has_logged, name, "up"), f"{name} runs")
    began = time.monotonic()
    runtime.stop(
        [
            (box.directory("polite"), polite),
            (box.directory("stubborn"), stubborn),
            (box.directory("idle"), None),
        ]
    )
    assert 0.4 < time.monotonic() - began < 3
    assert "bye" in box.log("polite")
    assert not any(runtime.alive(box.directory(name)) for name in ("polite", "stubborn", "idle"))


@kernel
def test_the_log_has_a_limit_and_keeps_the_end(box: Box) -> None:
    box.create("red")
    box.run("red", "sh", "-c", "seq 1 700000; echo last")
    size = (box.directory("red") / "log").stat().st_blocks * 512  # the older part is a hole
    assert output.LOG_KEPT // 2 < size <= output.LOG_LIMIT + 65536
    _, *lines, last = box.log("red").lstrip("\0").splitlines()  # the first one may have been cut in two
    assert last == "last"
    assert [int(line) for line in lines] == list(range(700001 - len(lines), 700001))


@kernel
def test_without_init_the_command_is_pid_1(box: Box) -> None:
    box.create("red", init=False)
    box.start("red", "sh", "-c", "echo I am $$; sleep 100", init=False)
    until(lambda: "I am 1\n" in box.log("red"), "the command is process 1")
    with pytest.raises(KernelError):
        box.start("red", "true")


@kernel
def test_without_init_a_missing_program_is_an_error(box: Box) -> None:
    box.create("red")
    with pytest.raises(KernelError, match=r"\(127\)"):
        box.start("red", "nosuch", init=False)


@kernel
def test_user_working_directory_and_environment(box: Box) -> None:
    box.create("red", files={"/etc/group": "root:x:0:\nlab:x:777:\n"})
    script = "id -u; id -g; pwd; echo $X $HOME $HOSTNAME; echo $PATH; echo ok > /dev/stdout"
    text = box.sh("red", script, user="1234:lab", working_dir="/usr", environment={"X": "1"})
    assert text.split() == ["1234", "777", "/usr", "1", "/", "red", runtime.DEFAULT_PATH, "ok"]
    with pytest.raises(KernelError, match="there is no user 'nosuch'"):
        box.start("red", "true", user="nosuch")
    with pytest.raises(KernelError, match="enter the directory /nosuch"):
        box.start("red", "true", working_dir="/nosuch")


@kernel
def test_pid_1_can_not_be_looked_into(box: Box) -> None:
    created = box.create("red")
    script = "for x in exe root cwd fd/0 mem environ; do readlink /proc/1/$x || head -c1 /proc/1/$x; done"
    code, text = box.run("red", "sh", "-c", script + " 2>/dev/null")
    assert (code, text) == (1, "")
    assert box.sh("red", "tr '\\0' ' ' < /proc/1/cmdline").strip() == "netorch-init"
    status = dict(
        line.split(":", 1)
        for line in Path(f"/proc/{created.pid}/status").read_text().splitlines()
        if ":" in line
    )
    allowed = mask((*DEFAULT_CAPABILITIES, "SYS_RESOURCE"))
    for name in ("CapPrm", "CapEff"):
        assert int(status[name], 16) & ~allowed == 0, name
    assert status["NoNewPrivs"].strip() == "1"
    assert int(status["CapInh"], 16) == int(status["CapAmb"], 16) == 0
    targets = [os.readlink(entry.path) for entry in os.scandir(f"/proc/{created.pid}/fd")]
    directories = [target for target in targets if target.startswith("/") and os.path.isdir(target)]
    assert set(directories) <= {"/", "/proc"}, "its own, not the host's"


@kernel
def test_a_command_has_no_descriptor_but_three(box: Box) -> None:
    box.create("red")
    program = "import os; print(sorted(int(x) for x in os.listdir('/proc/self/fd')))"
    assert box.run("red", "python3", "-c", program)[1] == "[0, 1, 2, 3]\n"  # 3 is the listing's own


@kernel
def test_the_hosts_python_is_not_writable_through_proc(box: Box) -> None:
    """CVE-2019-5736: even who may look into PID 1 finds its program on a read-only mount."""
    created = box.create("red")
    with pytest.raises(OSError) as caught:
        os.open(f"/proc/{created.pid}/exe", os.O_WRONLY)
    refusals = (errno.EROFS, errno.ETXTBSY, *([errno.EACCES] if view.INSIDE else []))  # the host's root's
    assert caught.value.errno in refusals
    flags = os.statvfs(f"/proc/{created.pid}/exe").f_flag
    assert flags & os.ST_RDONLY


# -- the zygote ----------------------------------------------------------------------------------


@kernel
def test_join_keeps_a_network_namespace(box: Box) -> None:
    created = box.create("red")
    inode = os.stat(f"/proc/{created.pid}/ns/net").st_ino
    descriptor = os.open(f"/proc/{created.pid}/ns/net", os.O_RDONLY)
    try:
        runtime.stop([(box.directory("red"), None)])
        again = box.create("red", join_netns=descriptor)
    finally:
        os.close(descriptor)
    assert again.pid != created.pid
    assert os.stat(f"/proc/{again.pid}/ns/net").st_ino == inode


@kernel
def test_zygote_holds_the_lock_and_ends_with_its_caller(box: Box, tmp_path: Path) -> None:
    lock = os.open(tmp_path / "lock", os.O_RDWR | os.O_CREAT)
    other = os.open(tmp_path / "lock", os.O_RDWR)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with runtime.Zygote() as zygote:
            zygote.close()
            zygote.start(lock)
            list(zygote.create([box.order("red")]))
            os.close(lock)
            with pytest.raises(BlockingIOError):
                fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # A container does not hold it; of a process that is not ours the last words may come before its end.
        until(lambda: _locks(other), "the lock")
        assert runtime.alive(box.directory("red"))
    finally:
        os.close(other)


def _locks(descriptor: int) -> bool:
    with suppress(BlockingIOError):
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    return False


def _orphan() -> int:
    """The zygote of a realm, which is the holder's child."""
    around = realm.inside()
    assert around is not None
    children = Path(f"/proc/{around['pid']}/task/{around['pid']}/children").read_text().split()
    (found,) = (pid for pid in children if Path(f"/proc/{pid}/comm").read_text() == "netorch-zygote\n")
    return int(found)


@kernel
def test_a_killed_zygote_leaves_nobody_building(box: Box) -> None:
    orders = [box.order(f"h{n}") for n in range(12)]
    stream = box.zygote.create(orders)
    next(stream)
    process = box.zygote._process
    assert process is not None
    os.kill(_orphan() if view.INSIDE else process.pid, signal.SIGKILL)
    with pytest.raises(KernelError, match="ended" if view.INSIDE else "killed by signal 9"):
        list(stream)
    process.wait()

    def settled() -> bool:
        alive = [order for order in orders if runtime.alive(order.directory)]
        return all(runtime.status(order.directory) for order in alive)

    until(settled, "who lives is built")


@kernel
def test_after_a_failure_nobody_goes_on_building(box: Box) -> None:
    mount = {"kind": "bind", "source": "/nowhere", "target": "/srv", "options": "", "read_only": False}
    orders = [box.order(f"h{n}", mounts=[mount] if n == 3 else []) for n in range(40)]
    with pytest.raises(KernelError, match="h3"):
        list(box.zygote.create(orders))
    alive = [order.name for order in orders if runtime.alive(order.directory)]
    assert "h3" not in alive  # how many of the others were begun by then is the machine's affair
    assert all(runtime.status(box.directory(name))["state"] == "idle" for name in alive)
    again = [box.order(f"again{n}") for n in range(3)]
    assert len(list(box.zygote.create(again))) == 3
    assert alive == [order.name for order in orders if runtime.alive(order.directory)]


@kernel
def test_commands_start_side_by_side_and_all_failures_are_waited_for(box: Box) -> None:
    names = [f"h{n}" for n in range(10)]
    list(box.zygote.create([box.order(name) for name in names]))
    starts = [
        runtime.Start(
            box.directory(name),
            box.process(["nosuch"] if name == "h2" else ["echo", name]),
            runtime.record(box.directory(name)) or {},
        )
        for name in names
    ]
    with pytest.raises(KernelError, match="h2"):
        runtime.start_all(starts)
    for name in names:
        assert box.wait(name) == (127 if name == "h2" else 0)
    assert box.log("h9") == "h9\n"


@kernel
def test_many_side_by_side(box: Box) -> None:
    orders = [box.order(f"h{n}") for n in range(30)]
    made = {created.name: created for created in box.zygote.create(orders)}
    assert sorted(made) == sorted(order.name for order in orders)
    for order in orders:
        about = runtime.record(order.directory)
        assert about is not None and about["pid"] == made[order.name].pid
        assert os.readlink(order.directory / "netns") == f"/proc/{about['pid']}/ns/net"
    runtime.stop([(order.directory, None) for order in orders])
    assert not any(runtime.alive(order.directory) for order in orders)


# -- without a kernel of our own -----------------------------------------------------------------


def _root(tmp_path: Path) -> int:
    return os.open(tmp_path, os.O_PATH | os.O_DIRECTORY)


@pytest.mark.parametrize(
    ("user", "expected"),
    [
        (None, (0, 0, [0, 10], "/root")),
        ("www", (33, 33, [10, 33], "/var/www")),
        ("33", (33, 33, [10, 33], "/var/www")),
        ("www:lab", (33, 777, [777], "/var/www")),
        ("4711", (4711, 0, [0], "/")),
        ("4711:12", (4711, 12, [12], "/")),
    ],
)
def test_users_by_the_roots_own_files(tmp_path: Path, user: str | None, expected: tuple[Any, ...]) -> None:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/passwd").write_text("root:x:0:0::/root:/bin/sh\nwww:x:33:33::/var/www:\nbroken\n")
    (tmp_path / "etc/group").write_text("wheel:x:10:root,www\nlab:x:777:\n")
    found = users.find(_root(tmp_path), user)
    assert (found.uid, found.gid, found.groups, found.home) == expected


@pytest.mark.parametrize("user", ["nobody-here", "0:nogroup-here", "99999999999", "-1", ""])
def test_unknown_users(tmp_path: Path, user: str) -> None:
    if user == "":
        assert users.find(_root(tmp_path), user).uid == 0
        return
    with pytest.raises(users.UnknownUser):
        users.find(_root(tmp_path), user)


def test_passwd_that_is_a_pipe_or_leads_out_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    os.mkfifo(tmp_path / "etc/group")
    (tmp_path / "etc/passwd").symlink_to("/etc/passwd")
    with pytest.raises(users.UnknownUser):
        users.find(_root(tmp_path), "daemon")


def test_host_mounts_leave_out_what_a_container_has_itself() -> None:
    lines = [
        "1 0 8:1 / / rw - ext4 /dev/sda rw",
        "2 1 0:1 / /proc rw - proc proc rw",
        "3 1 8:2 / /home rw shared:1 - ext4 /dev/sdb rw",
        "4 3 8:3 / /home/my\\040disk rw - vfat /dev/sdc rw",
        "5 1 0:9 / /run/user/0 rw - tmpfs tmpfs rw",
        "6 1 0:9 / /tmp rw - tmpfs tmpfs rw",
        "7 1 0:9 / /var/lib/docker/overlay2/x/merged rw - overlay overlay rw",
        "8 1 8:1 /x /etc/resolv.conf rw - ext4 /dev/sda rw",
        "9 3 8:2 / /home rw - ext4 /dev/sdd rw",
    ]
    mounts = [mountinfo.Mount(line) for line in lines]
    assert rootfs.host_mounts(mounts) == ["/home/my disk", "/home"]


def test_signals_by_name() -> None:
    assert (
        runtime.signal_number("TERM") == runtime.signal_number("SIGTERM") == runtime.signal_number("15") == 15
    )
    assert runtime.signal_number("RTMIN+3") == signal.SIGRTMIN + 3
    with pytest.raises(KernelError):
        runtime.signal_number("NOSUCH")


def test_system_calls_raise_os_errors(tmp_path: Path) -> None:
    root = _root(tmp_path)
    (tmp_path / "link").symlink_to("/etc/passwd")
    with pytest.raises(FileNotFoundError):
        sc.openat2(root, "link", os.O_RDONLY, sc.RESOLVE_IN_ROOT)
    with pytest.raises(OSError) as caught:
        sc.openat2(root, "link", os.O_RDONLY, sc.RESOLVE_BENEATH)
    assert caught.value.errno == errno.EXDEV


def test_the_zygote_imports_little() -> None:
    """Every page it holds is copied when a container is forked."""
    import subprocess

    code = "import sys; sys.path.insert(0, sys.argv[1]); import netns_orch.kernel.zygote; print(*sys.modules)"
    package = str(Path(runtime.__file__).parents[2])
    text = subprocess.run(
        [sys.executable, "-I", "-S", "-c", code, package], capture_output=True, text=True, check=True
    ).stdout
    heavy = {"typing", "dataclasses", "inspect", "subprocess", "pathlib", "asyncio", "threading", "pyroute2"}
    assert not heavy & set(text.split())


def test_too_many_open_files_leave_none_behind(tmp_path: Path) -> None:
    """What a container's makers inherit is opened whole or not at all."""
    import itertools
    import resource

    from netns_orch.kernel import build

    def open_now() -> set[int]:
        return {int(name) for name in os.listdir("/proc/self/fd")}

    order = {"directory": str(tmp_path), "first_id": None, "record": {"capabilities": []}}
    host: Any = {"permitted": ~0, "inherited": []}
    before = open_now()
    first = min(set(range(len(before) + 1)) - before)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    refused = 0
    for limit in itertools.count(first):
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
        try:
            site = build.Site(order, host)
        except OSError as error:
            assert error.errno == errno.EMFILE
            refused += 1
        else:
            break
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        assert open_now() == before, limit
    assert refused >= 10, "one for each descriptor"
    site.close()
    os.close(site.report)
    assert open_now() == before


def test_a_timeout_names_the_containers_that_hang(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A volume of a network's file system whose server is gone keeps mount(2) waiting."""
    mount = {"kind": "bind", "source": "/srv/far", "target": "/srv", "options": "", "read_only": False}
    spec: Any = {"mounts": [mount]}
    where = Where("lab.yaml", 3, 3)
    orders = [
        runtime.CreateOrder(name=name, spec=spec, digest="", directory=tmp_path, where=where)
        for name in ("red", "blue")
    ]
    answers: Iterator[Any] = iter([{"id": 2, "pid": 7, "start_time": 8}, Interrupted("not up after 5 s")])

    def receive() -> Any:
        answer = next(answers, {"id": 1})
        if isinstance(answer, Interrupted):
            raise answer
        return answer

    zygote = runtime.Zygote()
    monkeypatch.setattr(zygote, "_send", lambda text: None)
    monkeypatch.setattr(zygote, "_receive", receive)
    monkeypatch.setattr(runtime, "_order_json", lambda order, number: "")
    made = zygote.create(orders)
    assert next(made).name == "blue"
    with pytest.raises(Interrupted) as told:
        next(made)
    assert told.value.where == where
    assert told.value.hint == (
        "not made by then: red\na file system that does not answer keeps its container waiting: /srv/far"
    )
