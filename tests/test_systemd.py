"""Below a real systemd (``scripts/test-vm --init systemd``): limits for an ordinary user and for root.

Nothing here stands for the host: it is that machine itself, with its systemd, its buses and its cgroups.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from support import outer, snapshot
from support.limits import Cgroups
from support.ordinary import Ordinary
from support.runner import Netorch
from support.waiting import until

MACHINE = Path("/run/test-vm")
USER = 61000
"""He has a user manager (scripts/vm/systemd)."""
MANAGER = Path(f"/sys/fs/cgroup/user.slice/user-{USER}.slice/user@{USER}.service")
LIMITED = """
bridges: {lan: {subnet: 10.0.0.0/24}}
containers:
  red: {resources: {memory: 64M, pids: 40, cpus: 0.5}}
  blue:
links: [[red, lan], [blue, lan]]
"""
GREEDY = ("python3", "-I", "-c", "bytearray(200 << 20)")
"""Takes more memory than ``red`` may have; the kernel ends it."""

pytestmark = [
    pytest.mark.systemd,
    pytest.mark.skipif(not MACHINE.is_dir(), reason="needs the machine of scripts/test-vm --init systemd"),
]


class Session(Ordinary):
    """The user as in a login session: his commands are in a cgroup outside of his manager's."""

    def __init__(self, base: Path, cache: Path) -> None:
        super().__init__(USER, base, cache)
        self.runtime = Path(f"/run/user/{USER}")
        self.environment |= {"XDG_RUNTIME_DIR": str(self.runtime)}

    def systemd(self, *words: str) -> str:
        """Run a program of systemd's as this user; its output."""
        done = self.run(*words)
        assert done.returncode == 0, done.stderr
        return done.stdout

    @staticmethod
    def scopes() -> list[Path]:
        """The cgroups that systemd made for labs."""
        return [*MANAGER.glob("*/netorch-*.scope"), *MANAGER.glob("netorch-*.scope")]


@pytest.fixture
def session(base: Path, cache: Path) -> Iterator[Session]:
    """The user, once his manager and its bus are there."""
    if not (MANAGER.parents[2] / "cgroup.controllers").exists():
        pytest.skip("systemd delegates cgroup v2 alone to users, and here it has no controllers")
    until((Path(f"/run/user/{USER}") / "bus").exists, "the bus of the user's manager", 60)
    found = Session(base, cache)
    yield found
    found.end()


def test_a_user_needs_nothing_but_the_keys(session: Session) -> None:
    """A scope is made for a lab with limits; commands of another session are brought there, too."""
    lab = session.write(LIMITED)
    session("up", lab)
    (scope,) = session.scopes()
    (red,) = scope.glob("netorch/lab.*/red")
    limits = {"memory.max": f"{64 << 20}", "pids.max": "40", "cpu.max": "50000 100000"}
    assert {name: (red / name).read_text().strip() for name in limits} == limits
    session.systemd("systemctl", "--user", "daemon-reload")
    outer.run("systemctl", "daemon-reload")
    assert session("exec", "red", *GREEDY, code=None).code == 137
    assert {name: (red / name).read_text().strip() for name in limits} == limits
    row = session("ps", "--json").json()[0]
    assert (row["name"], row["oom_kills"], row["state"]) == ("red", 1, "idle")
    session("pause", "blue")
    assert session("ps", "--json").json()[1]["state"] == "paused"
    session("unpause", "blue")
    session("restart", "blue")
    assert session("status", "--json").json()["drift"] == []
    session("down")
    assert session.scopes() == [] and not red.exists()
    units = session.systemd("systemctl", "--user", "list-units", "--all", "--plain", "--no-legend")
    assert "netorch-lab" not in units


def test_a_user_s_scope_goes_with_the_lab_s_first_process(session: Session) -> None:
    """And what he can't be given is said; a cgroup that is delegated already is used as it is."""
    lab = session.write(LIMITED.replace("cpus: 0.5", "cpuset: '0'"))
    said = session("validate", lab, code=2).stderr
    assert "`cpuset` can't be had" in said and "Delegate=cpu cpuset io memory pids" in said
    until(lambda: not session.scopes(), "the end of the scope that was for looking only")
    session.write(LIMITED)
    words = ["systemd-run", "--user", "--scope", "--quiet", "-p", "Delegate=yes"]
    session.systemd(*words, *session.argv("up")[len(session.prefix) :])
    assert session.scopes() == [] and len([*MANAGER.glob("*/run-*.scope/netorch/lab.*/red/memory.max")]) == 1
    session("exec", "red", "true")
    os.kill(session.holder("lab"), signal.SIGKILL)
    until(lambda: not [*MANAGER.glob("*/run-*.scope")], "the end of the scope")
    assert session("ls", "--json").json() == []


def test_root_s_labs_are_left_alone(netorch: Netorch) -> None:
    """Made by a service that ends, beside systemd's slices: no limit is lost on ``daemon-reload``."""
    before = _cgroups()
    netorch.write(
        LIMITED.replace("pids: 40", "pids: 40, cpuset: '0', io: [{device: /dev/vda, read_bps: 1M}]")
    )
    service = ["systemd-run", "--wait", "--collect", "--quiet", "-p", f"WorkingDirectory={netorch.directory}"]
    environment = [f"--setenv={name}={value}" for name, value in netorch.environment.items()]
    outer.run(*service, *environment, *netorch.argv("up"))
    pid = netorch("ps", "--json").json()[0]["pid"]
    at = Path(f"/proc/{pid}/cgroup").read_text()
    assert all(line.endswith("/red") and ":/netorch/lab." in line for line in at.splitlines()), at
    red = Cgroups(netorch, "red")
    wanted = {"memory": f"{64 << 20}", "pids": "40", "cpuset": "0"}
    for words in (["daemon-reload"], ["set-property", "--runtime", "system.slice", "TasksMax=9000"]):
        outer.run("systemctl", *words)
        assert {name: red.read(name) for name in wanted} == wanted
        assert red.read("quota").split()[0] == "50000" and "1048576" in red.read("read_bps")
        assert Path(f"/proc/{pid}/cgroup").read_text() == at
    assert netorch("status", "--json").json()["drift"] == []
    assert netorch("exec", "red", *GREEDY, code=None).code == 137
    assert netorch("ps", "--json").json()[0]["oom_kills"] == 1
    scope = ["systemd-run", "--scope", "--slice=user-0.slice", "--quiet"]
    outer.run(*scope, *netorch.argv("pause", "red", "--lab", "lab"))
    assert netorch("ps", "--json").json()[0]["state"] == "paused"
    netorch("down")
    assert snapshot.difference(before, _cgroups()) == []


def _cgroups() -> snapshot.Snapshot:
    """All cgroups of this machine but those of units that come and go, and what is handed down at the top."""
    found = {}
    for directory in Path("/sys/fs/cgroup").glob("**/"):
        if "netorch" in str(directory):
            found[str(directory)] = ""
    for file in Path("/sys/fs/cgroup").glob("**/cgroup.subtree_control"):
        if len(file.parts) <= 6:
            found[str(file)] = file.read_text().strip()
    return found
