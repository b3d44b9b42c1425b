"""The host that a lab stands on, looked at from outside the lab: this one, or an ordinary user's realm.

A realm stands in the host's place for the lab of an ordinary user: the bridges are in its network namespace,
/run/netorch and /run/netns in its mount namespace.  Pids are the host's there, too.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from netns_orch import lab as lab_room
from support import outer
from support.runner import Netorch

INSIDE = os.environ.get("NETORCH_TEST_ROOTLESS") == "inside"
"""Whether this process itself is an ordinary user's, in the realm of a lab (``inside``)."""
ROOTLESS = bool(os.environ.get("NETORCH_TEST_ROOTLESS")) and not INSIDE
"""Whether all labs are an ordinary user's (scripts/test-rootless)."""
NETNS = "private" if ROOTLESS else "host"
"""Where the bridges of a lab are whose file does not say."""
HOLDERS: list[Path] = []
"""Directories of users' labs; ``ordinary.everywhere`` tells them."""
USERS: list[int] = []
"""And whose they are."""
FIRST_SUBORDINATE = 200_000
"""The first of that user's 65,536 ids in /etc/subuid and /etc/subgid."""


NO_CGROUP = "limits: no cgroup is delegated to the user of the tests"
LIMITS = pytest.mark.root_only(NO_CGROUP)
NO_PAUSE = pytest.mark.root_only("pauses a container: no cgroup is delegated to the user of the tests")
NO_DEVICES = pytest.mark.root_only("makes device nodes, which the kernel lets nobody do in a user namespace")
RANGE = pytest.mark.root_only("a range of ids of its own: a container of a user's has those of the lab")
ON_THE_HOST = pytest.mark.root_only("about the host itself, which no lab of a user's touches")
"""Marks of tests that an ordinary user can't pass."""
IN_PROCESS = pytest.mark.in_process
"""The mark of tests that call netorch in their own process: an ordinary user's is in a realm (``inside``)."""


def holder(lab: str | None = None) -> int:
    """The pid of the first process of an ordinary user's lab; without a name, of the only one."""
    found = [path for top in HOLDERS for path in top.glob(f"{lab or '*'}/holder.json")]
    assert len(found) == 1, f"one lab was expected: {found}"
    pid: int = json.loads(found[0].read_text())["pid"]
    return pid


def there(lab: str | None = None) -> list[str]:
    """The words before a command that run it where the lab's bridges are, as root there."""
    return ["nsenter", "--user", "--net", "--mount", f"--target={holder(lab)}"] if ROOTLESS else []


def run(*argv: str, lab: str | None = None) -> str:
    """Run a command where the lab's bridges are; its output."""
    return outer.run(*there(lab), *argv)


def run_directory(lab: str) -> Path:
    """/run/netorch as the lab has it; of a user's lab that is not up, one that is not there."""
    if not ROOTLESS:
        return Path("/run/netorch")
    return next((top / lab / "run/netorch" for top in HOLDERS if (top / lab).is_dir()), Path("/nonexistent"))


def path(name: str, lab: str | None = None) -> Path:
    """A file of the host as the lab has it: what is below /run is the realm's."""
    return Path(f"/proc/{holder(lab)}/root{name}") if ROOTLESS else Path(name)


def namespace(kind: str, lab: str | None = None) -> int:
    """The inode of a namespace of the host, as the lab has it."""
    return os.stat(f"/proc/{holder(lab) if ROOTLESS else 'self'}/ns/{kind}").st_ino


def host_id(number: int) -> int:
    """The host's id of a user or group of a lab."""
    if not ROOTLESS:
        return number
    return FIRST_SUBORDINATE + number - 1 if number else USERS[0]


def ps(lab: str) -> list[dict[str, Any]]:
    """What ``ps`` says of a lab; for root by a call, since a test may ask often."""
    if not ROOTLESS:
        return lab_room.ps(lab)
    rows: list[dict[str, Any]] = Netorch(HOLDERS[0].parent)("ps", lab, "--json").json()
    return rows
