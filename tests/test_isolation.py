"""A default container held against attack: the table of the project's own probe, and hostile programs."""

from __future__ import annotations

import json
import platform
import resource
from pathlib import Path
from typing import Any

import pytest
from support import probe, view
from support.runner import ROOT, Lab, Netorch
from support.waiting import until

from netns_orch.capabilities import DEFAULT_CAPABILITIES, mask

pytestmark = pytest.mark.kernel

DEFAULT = f"{mask(DEFAULT_CAPABILITIES):016x}"
PROBED = """
bridges: {br0: 10.66.0.1/24}
containers:
  red:
    setup: ["python3 -I DIRECTORY/probe.py > /setup.json"]
    command: "python3 -I DIRECTORY/probe.py > /command.new; mv /command.new /command.json; sleep 1000"
    ready: {file: /command.json}
links: [[red, br0]]
"""
REFUSED = "EPERM"
NEVER_ALLOWED = """
acct add_key bpf clock_settime delete_module finit_module fsopen init_module io_uring_setup kexec_load keyctl
mount move_mount open_by_handle_at open_tree perf_event_open pivot_root quotactl request_key setns
settimeofday swapon syslog umount2 userfaultfd
"""
WRITABLE = {
    "/": "overlay",
    "/dev": "tmpfs",
    "/dev/mqueue": "mqueue",
    "/dev/pts": "devpts",
    "/dev/shm": "tmpfs",
    "/proc": "proc",
    "/proc/sys/net": "proc",
    "/run": "tmpfs",
    "/tmp": "tmpfs",
}
"""Beside these only masks: the container's own /dev/null over a file."""


def expected() -> dict[str, Any]:
    """What must be found, whatever the host; lists are alternatives."""
    table: dict[str, Any] = dict.fromkeys(("CapBnd", "CapPrm", "CapEff"), DEFAULT)
    table |= dict.fromkeys(("CapInh", "CapAmb"), f"{0:016x}")
    table |= {"NoNewPrivs": "1", "Seccomp": "2", "descriptors above 2": "", "umask": "0022"}
    table |= {f"masked {path}": ["empty", "absent"] for path in probe.MASKED}
    table |= {f"read-only {path}": ["read-only", "absent"] for path in probe.READ_ONLY}
    not_its_own = ["EACCES"] if view.ROOTLESS else []  # they are the host's root's
    table |= {f"write {path}": ["EROFS", "ENOENT", *not_its_own] for path in probe.KERNEL_FILES}
    table |= {f"/proc/1/{name}": ["EACCES", "EPERM"] for name in probe.OF_PID_1}
    table |= {f"block device {a}:{b}": "unusable" for a, b in probe.BLOCK_DEVICES}
    table |= {f"device {name}": "unusable" for name in probe.CHARACTER_DEVICES}
    table |= dict.fromkeys(NEVER_ALLOWED.split(), REFUSED)
    table |= {f"unshare {name}": REFUSED for name in probe.NEW_NAMESPACES}
    table |= {"clone3": "ENOSYS", "ptrace PID 1": REFUSED, "AF_ALG": REFUSED, "AF_VSOCK": REFUSED}
    if platform.machine() == "x86_64":
        # No 32-bit call at all; a kernel without them kills who tries.
        table |= {f"{name} by int 0x80": ["ENOSYS", "SIGSEGV"] for name in ("AF_ALG", "AF_VSOCK", "AF_INET")}
        table |= {"ioperm": REFUSED}
    if platform.machine() == "aarch64":
        table |= {"a program of 32 bits": ["ENOSYS", "ENOEXEC"]}
    return table


def differs(found: dict[str, str]) -> list[str]:
    """What is not as expected, a line each."""
    lines = []
    for key, wanted in expected().items():
        allowed = wanted if isinstance(wanted, list) else [wanted]
        if found.get(key) not in allowed:
            lines.append(f"{key}: {found.get(key)}, not {' or '.join(allowed)}")
    return lines


def test_the_probe_finds_a_default_container_tight_in_each_way_in(netorch: Netorch) -> None:
    """The same table for ``command``, ``setup`` and what ``exec`` starts; on the host quite another."""
    netorch.write((ROOT / "tests/support/probe.py").read_text(), "probe.py")
    program = str(netorch.directory / "probe.py")
    with netorch.lab(PROBED.replace("DIRECTORY", str(netorch.directory))) as lab:
        found = json.loads(lab.exec("red", "python3", "-I", program).stdout)
        assert differs(found) == []
        for other in ("command", "setup"):
            table = json.loads(lab.exec("red", "cat", f"/{other}.json").stdout)
            assert _comparable(table) == _comparable(found), other
        _sees_only_itself(found)
    _is_a_test(probe.table())


def _comparable(table: dict[str, str]) -> dict[str, str]:
    return {key: value for key, value in table.items() if key != "processes"}


def _sees_only_itself(found: dict[str, str]) -> None:
    assert 3 <= len(found["processes"].split()) <= 8, "PID 1, the command's and the probe's own"
    assert {"lo", "eth0"} <= set(found["interfaces"].split())
    assert not {"uplink", "br0"} & set(found["interfaces"].split())
    mounts = {key.split(" ")[-1]: value for key, value in found.items() if key.startswith("writable mount ")}
    kinds = {place: value.split()[0] for place, value in mounts.items() if place not in probe.MASKED}
    if view.ROOTLESS:  # of several parts, with devices of the host's, which are bound: nobody can make any
        kinds.pop("/dev/net/tun")
        devices = {place for place, kind in kinds.items() if kind == "devtmpfs"}
        assert {kinds[place] for place in kinds.keys() - devices} <= {*WRITABLE.values()}
        mounts = {place: mounts[place] for place in kinds.keys() - devices}
    else:
        copies = {place for place, kind in kinds.items() if kind == "overlay" and Path(place).is_mount()}
        assert {place: kinds[place] for place in kinds.keys() - (copies - {"/"})} == WRITABLE
    of_host = {line.split(" ")[2] for line in Path("/proc/self/mountinfo").read_text().splitlines()}
    seen = {place: value for place, value in mounts.items() if value.split()[1] in of_host}
    assert not seen, "no file system of the host's"


def _is_a_test(on_host: dict[str, str]) -> None:
    """The probe does find what is allowed: else its refusals would prove nothing."""
    told = "\n".join(differs(on_host))
    for key in (
        "CapEff",
        "Seccomp",
        "unshare mnt",
        "bpf:",
        "mount:",
        "keyctl",
        "clone3",
        "masked",
        "read-only",
    ):
        assert key in told, key


# -- hostile programs ----------------------------------------------------------------------------

SELF = """\
#!/proc/self/exe
import os
log = os.open("/self.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
exe = os.open("/proc/self/exe", os.O_RDONLY)
answer = "read-only" if os.fstatvfs(exe).f_flag & os.ST_RDONLY else "WRITABLE"
try:
    os.open(f"/proc/self/fd/{exe}", os.O_WRONLY)
    answer += " OPENED"
except OSError as error:
    answer += " refused"
os.write(log, answer.encode() + b"\\n")
"""


def test_who_executes_proc_self_exe_gets_nothing_to_write_to(netorch: Netorch) -> None:
    """CVE-2019-5736, by each way in: what runs then is the host's own Python."""
    text = f"""
containers:
  red:
    files: {{/self: {json.dumps(SELF)}}}
    setup: [[/self]]
    command: [/self]
    ready: {{exec: [/self]}}
"""
    with netorch.lab(text) as lab:
        lab.exec("red", "/self")
        lines = lab.sh("red", "cat /self.log").splitlines()
        assert len(lines) == 4
        assert set(lines) == {"read-only refused"}


def test_a_running_process_that_enters_can_not_be_looked_into(netorch: Netorch) -> None:
    """CVE-2016-9962: a root inside that opens all it can of every process while others enter."""
    hunter = """
import os, time
own = {os.stat("/usr/bin/env").st_dev, os.stat("/proc").st_dev}
seen, end = set(), time.monotonic() + 60
while not os.path.exists("/run/enough") and time.monotonic() < end:
    for pid in filter(str.isdecimal, os.listdir("/proc")):
        for what in ("exe", "cwd", "root", "fd/0", "fd/3", "fd/4", "fd/5", "fd/6", "fd/7"):
            try:
                where = os.stat(f"/proc/{pid}/{what}")
                comm = open(f"/proc/{pid}/comm").read().strip()
            except OSError:  # refused, or it has ended
                continue
            if what == "exe" and comm == "netorch-init":
                seen.add(f"PID 1's {what}")
            if what in ("cwd", "root") and where.st_ino != os.stat("/").st_ino and where.st_dev not in own:
                seen.add(f"{what} outside: {where.st_dev}:{where.st_ino}")
            if what.startswith("fd/") and what[3] in "34567" and os.path.isdir(f"/proc/{pid}/{what}"):
                if where.st_dev not in own:
                    seen.add(f"{what} is a directory outside")
print(sorted(seen), flush=True)
"""
    text = f"""
containers:
  red:
    files: {{/hunter: {json.dumps(hunter)}}}
    command: [python3, -I, /hunter]
"""
    with netorch.lab(text) as lab:
        for _ in range(8):
            lab.exec("red", "true")
        lab.exec("red", "touch", "/run/enough")
        until(lambda: view.ps("lab")[0]["state"] == "exited", "the hunter gives up")
        assert netorch("logs", "red").stdout == "[]\n"


ATTACKS = {
    "a descriptor of the host's as working directory": (
        "cd /proc/self/fd/3 || cd /proc/1/cwd",
        "cd: can't cd",
    ),
    "PID 1's root": ("ls /proc/1/root/", "Permission denied"),
    "core_pattern": ("echo '|/bin/sh' > /proc/sys/kernel/core_pattern", "Read-only file system"),
    "any other of kernel": ("echo 1 > /proc/sys/kernel/panic", "Read-only file system"),
    "a mount over /proc/sys": ("mount -t tmpfs none /proc/sys", "permission denied"),
    "a /proc of one's own": ("mkdir /p && mount -t proc proc /p", "permission denied"),
    "proc/sys made writable": ("mount -o remount,rw,bind /proc/sys", "permission denied"),
    "a mask taken away": (
        "umount /proc/keys || umount /proc/timer_list",
        "must be superuser|permission|ermitted",
    ),
    "release_agent": (
        "mkdir /c && mount -t cgroup -o memory c /c && echo /bin/sh > /c/release_agent",
        "permission denied",
    ),
    "release_agent where cgroups are mounted": (
        "for f in $(find /sys/fs/cgroup -name release_agent) /sys/fs/cgroup/x; do echo x > $f; done",
        "Read-only|Permission|nonexistent|Directory",
    ),
    "a namespace with all capabilities": ("unshare -Urm true", "not permitted"),
    "the host's disk": (
        "mknod /disk b $(cut -d' ' -f3 /proc/self/mountinfo | grep -v ^0: | sort -u | sed 1q | tr : ' ') "
        "&& head -c1 /disk; mknod /d2 b 8 0 && head -c1 /d2",
        "not permitted",
    ),
    "the memory of the machine": ("mknod /mem c 1 1 && head -c1 /mem", "not permitted"),
    "the kernel's messages": ("dmesg", "not permitted"),
    "sysrq": ("echo b > /proc/sysrq-trigger", "Read-only|nonexistent|Permission|Directory"),
    "a program with the setuid bit for more": (
        "cp /bin/sh /tmp/suid && chmod 6755 /tmp/suid && su nobody -s /tmp/suid -c 'id -u; cat /etc/shadow'",
        "",
    ),
}


def test_attacks_that_each_must_fail(netorch: Netorch) -> None:
    with netorch.lab("containers: {red: }") as lab:
        assert [line for line in (_attack(lab, name) for name in ATTACKS) if line] == []


def _attack(lab: Lab, name: str) -> str:
    """What is wrong with its outcome; nothing where it was refused in the words that it should be."""
    import re

    script, words = ATTACKS[name]
    result = lab.exec("red", "sh", "-c", script, code=None)
    if result.code == 0:
        return f"{name}: succeeded: {result}"
    if not re.search(words, result.stderr + result.stdout):
        return f"{name}: refused for another reason: {result}"
    return ""


# -- seccomp, limits, users ----------------------------------------------------------------------


def test_seccomp_unconfined_and_by_a_file(netorch: Netorch) -> None:
    profile = {
        "defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [
            {"names": ["sethostname", "mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 95}
        ],
    }
    netorch.write(json.dumps(profile), "mine.json")
    text = """
    containers:
      open: {seccomp: unconfined}
      mine: {seccomp: mine.json, command: "mkdir /x; sleep 1000"}
    """
    with netorch.lab(text) as lab:
        assert lab.sh("open", "grep Seccomp: /proc/self/status; mkdir /x && echo made").split()[1:] == [
            "0",
            "made",
        ]
        assert "Operation not supported" in lab.exec("mine", "mkdir", "/x", code=1).stderr
        until(lambda: "not supported" in netorch("logs", "mine").stdout, "the command is confined by it, too")
    netorch.write('{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{}]}', "mine.json")
    result = netorch("up", code=None)
    assert result.code in (1, 2) and "mine.json is not a seccomp profile" in result.stderr
    assert "lab.yaml:" in result.stderr


def test_ulimits_and_those_that_may_not_be_raised(netorch: Netorch) -> None:
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    limits = "{nofile: 1048576, nproc: 100, core: 0}"
    text = f"containers: {{red: {{ulimits: {limits}, command: 'ulimit -Hn; ulimit -n'}}}}"
    with netorch.lab(text) as lab:
        inside = lab.sh("red", "ulimit -n; ulimit -Hn; ulimit -c").split()
        assert inside[0] == inside[1] and int(inside[0]) in (1048576, min(hard, 1048576))
        assert inside[2] == "0"
        until(lambda: view.ps("lab")[0]["state"] == "exited", "it ends")
        assert netorch("logs", "red").stdout.split() == inside[:2]
