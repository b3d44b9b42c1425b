"""A sample of scripts/sweep, which strikes at hundreds of system calls and prints the figures."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys

import pytest
from support import cgroups, syscalls, view
from support.runner import ROOT, SECONDS, TOPOLOGIES, Netorch
from support.syscalls import KILL, Call
from support.waiting import until

from netns_orch.cli import guarded
from netns_orch.kernel import rundir

SAMPLE = [
    "up/KILL/move_mount/20",
    "up/ENOSPC/mkdirat/3",
    "converge/EPERM/setns/1",
    "down/KILL/rmdir/5",
]


@pytest.mark.kernel
@pytest.mark.skipif(syscalls.why_not() is not None, reason=syscalls.why_not() or "")
def test_a_sample() -> None:
    whose = ["--rootless"] if view.ROOTLESS else []
    command = [sys.executable, ROOT / "scripts/sweep", *whose, "--only", *SAMPLE]
    done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS * 3, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "not reached" not in done.stdout, "the sample strikes at nothing any more: choose other calls"
    total = next(line for line in done.stdout.splitlines() if line.startswith("all "))
    assert total.split()[1:5] == [str(len(SAMPLE)), str(len(SAMPLE)), str(len(SAMPLE)), "0"]


@pytest.mark.kernel
@pytest.mark.skipif(syscalls.why_not() is not None, reason=syscalls.why_not() or "")
@pytest.mark.parametrize(
    ("fault", "call", "words"),
    [
        ("EPERM", Call("fsmount", 1), "could not mount /proc (fsmount: Operation not permitted)"),
        (KILL, Call("move_mount", 9), "could not stay alive (it was killed)"),
    ],
    ids=["first process", "builder"],
)
def test_of_two_processes_that_make_a_container_the_one_that_failed_says_why(
    netorch: Netorch, fault: str, call: Call, words: str
) -> None:
    file = netorch.write("containers: {red: {}}\n")
    struck = syscalls.strike(netorch, call, fault, "up", file)
    assert struck.reached and f"error: container red {words}" in struck.stderr, struck
    assert "--> lab.yaml:1:" in struck.stderr or f"--> {file}:1:" in struck.stderr


@pytest.mark.kernel
@view.LIMITS
def test_of_a_down_that_came_to_the_labs_own_cgroups_the_next_leaves_none(netorch: Netorch) -> None:
    netorch("up", TOPOLOGIES / "red-blue.yaml")
    pids = [container["pid"] for container in netorch("ps", "red-blue", "--json").json()]
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    labs = [lab for position in cgroups.positions() for lab in position.directory.glob("netorch/red-blue.*")]
    assert len(labs) > 0
    below = [directory for lab in labs for directory in lab.iterdir() if directory.is_dir()]
    until(lambda: not any((x / "cgroup.procs").read_text() for x in below), "the end of the containers")
    for container in below:
        container.rmdir()
    labs[0].rmdir()
    netorch("down", "red-blue")
    assert not any(lab.exists() for lab in labs)


class Killed(BaseException):
    """Nothing is done any more."""


@pytest.mark.kernel
@view.ON_THE_HOST
def test_a_run_netns_that_was_just_being_made_is_removed(monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(*_: object) -> None:
        raise Killed

    for _ in range(2):  # the second one finds what the first one left
        with monkeypatch.context() as patch, pytest.raises(Killed):
            patch.setattr(os, "chmod", killed)
            rundir.make_netns_directory()
        assert os.listdir(rundir.NETNS) == []
    rundir.remove_shared()
    assert not os.path.exists(rundir.NETNS)


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOMEM, "Cannot allocate memory"),
        OSError(errno.ENOSPC, "No space left on device", "/run/netorch/x"),
        RuntimeError("can't start new thread"),
        MemoryError(),
    ],
    ids=repr,
)
def test_what_a_machine_is_short_of_is_no_internal_error(
    error: Exception, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse() -> int:
        raise error

    assert guarded(refuse, []) == 1
    said = capsys.readouterr().err
    assert said.startswith("error: this machine refused: ") and "\nhint: " in said
