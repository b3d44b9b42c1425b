"""``gc``: what dead runs left goes, what is wanted or is not ours stays."""

from __future__ import annotations

import contextlib
import fcntl
import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from support import cgroups, snapshot, view
from support.faults import faulted
from support.runner import TOPOLOGIES, Netorch
from support.waiting import until

from netns_orch.kernel.rundir import host_id
from netns_orch.lease import NO_END, Lease

pytestmark = pytest.mark.kernel
RED_BLUE = TOPOLOGIES / "red-blue.yaml"
THREE_TIER = TOPOLOGIES / "three-tier.yaml"
RUN, NETNS = Path("/run/netorch"), Path("/run/netns")


@pytest.fixture
def owner() -> Iterator[subprocess.Popen[bytes]]:
    """A process that a lab can belong to."""
    with subprocess.Popen(["sleep", "infinity"]) as process:
        yield process
        process.kill()


def reasons(netorch: Netorch, *options: str) -> dict[str, str]:
    """What ``gc`` finds: the lab, or the path, and why."""
    found = netorch("gc", "--json", *options).json()
    assert all(entry["removed"] is not bool(options) and entry["error"] is None for entry in found)
    return {entry["lab"] or " ".join(entry["objects"]): entry["reason"] for entry in found}


def test_what_killed_runs_left_goes_and_a_healthy_lab_stays(netorch: Netorch) -> None:
    clean = snapshot.take()
    assert faulted("up", 8, "kill", THREE_TIER) < 0
    with netorch.lab(RED_BLUE):
        before = snapshot.take()
        listed = netorch("gc", "--dry-run").stdout
        assert "three-tier: `up` was killed half-way: 4 containers" in listed and "container web" in listed
        assert "red-blue" not in listed
        snapshot.assert_equal(before)
        (lock,) = view.run_directory("three-tier").glob("three-tier.*/lock")
        with lock.open() as held:  # somebody is at it again
            fcntl.flock(held, fcntl.LOCK_EX)
            assert reasons(netorch) == {}
        assert reasons(netorch) == {"three-tier": "`up` was killed half-way"}
        assert netorch("gc").stdout == ""
        assert netorch("status", "red-blue", "--json").json()["drift"] == []
        assert faulted("down", 2, "kill", RED_BLUE) < 0
        assert reasons(netorch) == {"red-blue": "`down` was killed half-way"}
        snapshot.assert_equal(clean)


def test_a_lab_of_containers_alone_stays(netorch: Netorch) -> None:
    with netorch.lab("containers: {red: , blue: }\nlinks: [[red: 10.0.0.1/30, blue: 10.0.0.2/30]]\n") as lab:
        assert reasons(netorch) == {}
        lab.ping("red", "10.0.0.2")


def test_a_converging_up_that_was_killed(netorch: Netorch) -> None:
    clean = snapshot.take()
    file = netorch.write(RED_BLUE.read_text())
    netorch("up", file)
    file.write_text(RED_BLUE.read_text().replace("  blue:", "  blue:\n  green:", 1))
    assert faulted("up", 3, "kill", file) < 0
    assert netorch("ls", "--json").json()[0]["state"] == "unfinished"
    assert reasons(netorch) == {"lab": "`up` was killed half-way"}
    snapshot.assert_equal(clean)


@pytest.mark.root_only("without its files a lab of a user's ends, as tests/test_rootless.py shows")
def test_labs_without_a_run_directory_are_found_by_their_marks(netorch: Netorch) -> None:
    clean = snapshot.take()
    netorch("up", RED_BLUE)
    netorch("up", "--private", "--name", "copy", RED_BLUE)
    subprocess.run(["rm", "-rf", RUN], check=True)
    rows = {row["lab"]: row["state"] for row in netorch("ls", "--json").json()}
    assert rows == {"red-blue": "lost", "copy": "lost"}
    netorch("down", "--all")
    snapshot.assert_equal(clean)
    netorch("up", RED_BLUE)
    subprocess.run(["rm", "-rf", RUN], check=True)
    assert reasons(netorch) == {"red-blue": "no file tells of it"}
    snapshot.assert_equal(clean)


@view.ON_THE_HOST
def test_empty_leftovers(netorch: Netorch) -> None:
    clean = snapshot.take()
    RUN.mkdir(mode=0o700)
    lock = RUN / f"host.{host_id()}.lock"
    lock.touch(0o600)
    NETNS.mkdir()
    os.setxattr(NETNS, "trusted.netorch", b"made by netorch")
    (NETNS / "x.red").symlink_to(RUN / f"x.{host_id()}/c/red/netns")
    directory = RUN / f"empty.{host_id()}"
    directory.mkdir(0o700)
    parents = [position.directory / "netorch" for position in cgroups.positions()]
    with contextlib.ExitStack() as locks:
        for parent in parents:  # else tests beside this one may remove what is empty and netorch's
            held = os.open(parent.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            locks.callback(os.close, held)
            fcntl.flock(held, fcntl.LOCK_EX)
            parent.mkdir()
            os.setxattr(parent, "trusted.netorch", b"labs")
        listed = reasons(netorch, "--dry-run")
    assert listed.pop("x") == "no file tells of it"
    assert listed.pop("empty") == "its run directory is empty"
    assert listed == {
        **{str(parent): "empty cgroup" for parent in parents},
        str(lock): "file that no run holds",
    }
    reasons(netorch)
    assert not any(parent.exists() for parent in parents)
    snapshot.assert_equal(clean)
    assert netorch("gc").stderr == "nothing is left over\n"


def test_a_lab_lives_as_long_as_it_is_wanted(netorch: Netorch, owner: subprocess.Popen[bytes]) -> None:
    file = netorch.write(RED_BLUE.read_text())
    netorch("up", "--ttl", "1h", "--owner-pid", str(owner.pid), file)
    netorch("up", file)  # says nothing of it: it stays as it was
    row = netorch("ls", "--json").json()[0]
    assert 3500 < row["expires"] - time.time() <= 3600 and row["owner_pid"] == owner.pid
    assert "for 59m" in netorch("ls").stdout and f"by {owner.pid}" in netorch("ls").stdout
    assert netorch("inspect", "lab").json()["owner"]["pid"] == owner.pid
    assert reasons(netorch) == {}
    netorch("up", "--ttl", "none", file)
    assert netorch("ls", "--json").json()[0]["expires"] is None
    owner.kill()
    owner.wait()
    said = netorch("up", file).stderr
    assert f"`netorch gc` will remove lab lab: its owner, process {owner.pid}, has ended" in said
    assert reasons(netorch) == {"lab": f"its owner, process {owner.pid}, has ended"}
    netorch("up", "--ttl", "1s", file)
    until(lambda: reasons(netorch) == {"lab": "its time has passed"}, "the end of its time", 60)
    refused = netorch("up", "--owner-pid", str(owner.pid), file, code=2).stderr
    assert f"there is no process {owner.pid}" in refused


def test_a_lease() -> None:
    owner = {"pid": 1, "start_time": 2, "pid_namespace": 3}
    lease = Lease().renewed(100.0, 10, owner)
    assert lease == Lease.from_json(lease.to_json()) == Lease(110.0, owner)
    assert lease.renewed(105.0, None, None) == lease
    assert lease.renewed(105.0, NO_END, {}) == Lease()
    assert lease.ended(109.0, lambda _: True) is None
    assert lease.ended(110.0, lambda _: True) == "its time has passed"
    assert lease.ended(0.0, lambda _: False) == "its owner, process 1, has ended"
