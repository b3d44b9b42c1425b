"""Where this host's cgroup hierarchies are mounted, and where in each of them this process is.

Owns: reading mountinfo and cgroup of /proc (v1, v2, hybrid), the names of controllers, finding marked
directories in the trees.
Must not: assume a path, write anything, or know what netorch puts where.

A controller is on exactly one side.  Names are those of v2: v1's ``blkio`` is ``io`` here.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence

from netns_orch.kernel import mountinfo
from netns_orch.records import dataclass

CONTROLLERS = frozenset({"cpu", "cpuacct", "cpuset", "memory", "io", "pids", "devices", "freezer", "hugetlb"})
_V1_NAMES = {"blkio": "io"}
_SYSTEMD = "/run/systemd/system"
"""Is there where systemd is PID 1 (sd_booted(3))."""
_UNITS = (".scope", ".service", ".slice", ".socket", ".mount", ".swap")
"""How the names of cgroups end that are systemd's units."""


@dataclass(frozen=True)
class Hierarchy:
    """One hierarchy, seen through one of its mounts."""

    version: int
    controllers: frozenset[str]
    """v1: bound to it; v2: that its root knows.  Empty for a named v1 hierarchy."""
    mount: str
    """Where it is mounted."""
    position: str
    """This process's own directory in it."""

    @property
    def is_whole(self) -> bool:
        """Whether ``mount`` shows the hierarchy's real root (only there is no cgroup.type)."""
        return self.version == 2 and not os.path.exists(f"{self.mount}/cgroup.type")


def detect(proc: str = "/proc/self") -> list[Hierarchy]:
    """Every hierarchy that this process can reach its own position in."""
    mounts = [mount for mount in mountinfo.of(proc) if mount.kind in ("cgroup", "cgroup2")]
    with open(f"{proc}/cgroup", encoding="utf-8", errors="surrogateescape") as file:
        positions = [line.rstrip("\n").split(":", 2) for line in file]
    found = []
    for _, names, position in positions:
        hierarchy = _hierarchy(names, position, mounts)
        if hierarchy is not None:
            found.append(hierarchy)
    return found


def is_writable(own: str) -> bool:
    """Whether a v2 cgroup is this user's to divide (cgroup-v2.rst, Delegation)."""
    files = (own, f"{own}/cgroup.procs", f"{own}/cgroup.subtree_control")
    return all(os.access(path, os.W_OK) for path in files)


def is_delegated(hierarchy: Hierarchy) -> bool:
    """Whether systemd says that it leaves this process's cgroup to others: ``Delegate=`` of the unit.

    The sign is an extended attribute of the unit's cgroup (CGROUP_DELEGATION), which the system's manager
    sets and a user's does not: trusted.delegate since systemd 238, user.delegate since 251.
    """
    unit = hierarchy.position
    while unit != hierarchy.mount and not unit.endswith(_UNITS):
        unit = os.path.dirname(unit)
    return any(_attribute(unit, name) == b"1" for name in ("trusted.delegate", "user.delegate"))


def is_systemds(found: Sequence[Hierarchy]) -> bool:
    """Whether this process's cgroups are systemd's own, where nobody else may write (CGROUP_DELEGATION)."""
    if not os.path.isdir(_SYSTEMD):
        return False
    kept = [h for h in found if h.version == 2 or not h.controllers]  # where systemd tells units apart
    return bool(kept) and not any(is_delegated(hierarchy) for hierarchy in kept)


def offered(directory: str) -> frozenset[str]:
    """The controllers that a v2 cgroup was given, and can hand down."""
    return _known(_v2_controllers(directory))


def _attribute(path: str, name: str) -> bytes | None:
    try:
        return os.getxattr(path, name)
    except OSError:
        return None


def _hierarchy(names: str, position: str, mounts: list[mountinfo.Mount]) -> Hierarchy | None:
    """The hierarchy of one line of /proc/self/cgroup, by the mount that shows most of it."""
    kind = "cgroup" if names else "cgroup2"
    words = frozenset(names.split(",")) if names else frozenset()
    usable = []
    for mount in mounts:
        if mount.kind != kind or not words <= mount.options:
            continue
        inside = _below(position, mount.root)
        directory = f"{mount.point}{inside}".rstrip("/") if inside is not None else None
        if directory and _is_there(directory, mount.device):
            usable.append((len(mount.root), mount.point, directory))
    if not usable:
        return None
    _, point, directory = min(usable)
    controllers = _known(words) if names else _known(_v2_controllers(point))
    return Hierarchy(2 if kind == "cgroup2" else 1, controllers, point, directory)


def _below(position: str, root: str) -> str | None:
    """``position`` as seen from a mount of ``root``; None where the mount does not show it."""
    if position.startswith("/.."):
        return None  # outside of this cgroup namespace
    if root == "/":
        return position
    if position == root or position.startswith(f"{root}/"):
        return position[len(root) :]
    return None


def _is_there(directory: str, device: int) -> bool:
    """False where another mount lies over it."""
    try:
        return os.stat(directory).st_dev == device
    except OSError:
        return False


def _v2_controllers(point: str) -> frozenset[str]:
    try:
        with open(f"{point}/cgroup.controllers", encoding="ascii") as file:
            return frozenset(file.read().split())
    except OSError:
        return frozenset()


def _known(names: frozenset[str]) -> frozenset[str]:
    return frozenset(_V1_NAMES.get(name, name) for name in names) & CONTROLLERS


def children(directory: str | int) -> list[str]:
    """The names of the cgroups below one, sorted; none where it is gone."""
    try:
        if os.stat(directory).st_nlink == 2:  # itself and its name: one more for each directory inside
            return []
        with os.scandir(directory) as entries:
            return sorted(entry.name for entry in entries if entry.is_dir(follow_symlinks=False))
    except OSError:
        return []


def find(top: str, name: str) -> Iterator[str]:
    """Every directory called ``name`` in the tree; what is below such a one is not looked at."""
    stack = [top]
    while stack:
        directory = stack.pop()
        for child in children(directory):
            path = f"{directory}/{child}"
            if child == name:
                yield path
            else:
                stack.append(path)
