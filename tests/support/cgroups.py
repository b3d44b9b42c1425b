"""The cgroup of a test process: one of its own in every hierarchy, so that nobody else is in it."""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from pathlib import Path

CONTROL = "cgroup.procs"


@dataclass(frozen=True)
class Position:
    """Where a process stands in one hierarchy."""

    hierarchy: str
    """The controllers of a v1 hierarchy, or ``unified``."""
    mount: Path
    directory: Path


def positions() -> list[Position]:
    """This process's place in every mounted hierarchy (cgroups(7), proc_pid_cgroup(5))."""
    mounts = _mounts()
    found = []
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _number, controllers, path = line.split(":", 2)
        name = controllers or "unified"
        if name in mounts:
            root, mount = mounts[name]
            inside = path if root == "/" else path.removeprefix(root)
            found.append(Position(name, mount, mount / inside.lstrip("/")))
    return found


def _mounts() -> dict[str, tuple[str, Path]]:
    mounts: dict[str, tuple[str, Path]] = {}
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        fields, _, tail = line.partition(" - ")
        kind, _source, options = tail.split(" ", 2)
        root, mount = fields.split(" ")[3:5]
        if kind == "cgroup2":
            mounts.setdefault("unified", (root, Path(mount)))
        elif kind == "cgroup":
            words = options.split(",")
            for name in (_key(words), _key(reversed(words))):
                mounts.setdefault(name, (root, Path(mount)))
    return mounts


def _key(words: object) -> str:
    known = [w for w in words if w not in ("rw", "ro", "xattr", "clone_children", "noprefix")]  # type: ignore[attr-defined]
    return ",".join(word for word in known if not word.startswith("release_agent"))


def enter_own(name: str) -> list[Position]:
    """Move this process into a new cgroup ``name`` of every hierarchy; returns where it was before."""
    before = positions()
    for position in before:
        _remove_those_of_the_dead(position, name.rstrip("0123456789"))
        directory = position.directory / name
        directory.mkdir()
        if "cpuset" in position.hierarchy.split(","):
            for limit in ("cpuset.cpus", "cpuset.mems"):
                (directory / limit).write_text((position.directory / limit).read_text())
        (directory / CONTROL).write_text(str(os.getpid()))
    return before


def _remove_those_of_the_dead(position: Position, prefix: str) -> None:
    """A killed test process leaves its cgroups: those whose process is gone and that hold none any more."""
    for directory in position.directory.glob(f"{prefix}[0-9]*"):
        left = Position(position.hierarchy, position.mount, directory)
        if Path("/proc", directory.name.removeprefix(prefix)).exists() or processes(left):
            continue
        with contextlib.suppress(OSError):  # another worker may be doing the same
            for each in reversed(directories(left)):
                each.rmdir()


def leave_own(before: list[Position], name: str) -> None:
    """Go back to where ``enter_own`` started, and remove its cgroups (EBUSY: something is left in one)."""
    for position in before:
        (position.directory / CONTROL).write_text(str(os.getpid()))
    for position in before:
        (position.directory / name).rmdir()


def directories(position: Position) -> list[Path]:
    """The position itself and every cgroup below it."""
    return [Path(directory) for directory, _subdirectories, _files in os.walk(position.directory)]


def processes(position: Position) -> set[int]:
    """The ids of all processes at the position or below."""
    found: set[int] = set()
    for directory in directories(position):
        try:
            found.update(int(word) for word in (directory / CONTROL).read_text().split())
        except OSError:  # it went while we looked
            continue
    return found
