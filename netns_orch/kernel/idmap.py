"""Which ids the user namespace of a rootless lab has.

Owns: subuid(5) and subgid(5), writing the maps (user_namespaces(7)): by newuidmap(1) and newgidmap(1) where
the user has subordinate ids, else the user's own id alone, as root's.
Must not: make a namespace.
"""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
from contextlib import suppress
from typing import NamedTuple

from netns_orch.errors import KernelError

SUBORDINATE = {"uid": "/etc/subuid", "gid": "/etc/subgid"}
MOST = 65536
"""Ids 1 to 65536 are mapped at most: what a system of its own has, and one more."""


class Range(NamedTuple):
    """Subordinate ids: the first, and how many."""

    first: int
    size: int


def subordinate(kind: str, path: str | None = None) -> Range | None:
    """This user's first range of subordinate ids (``kind`` is uid or gid); None: he has none."""
    uid = os.getuid()
    names = {str(uid)}
    with suppress(KeyError):
        names.add(pwd.getpwuid(uid).pw_name)
    try:
        with open(path or SUBORDINATE[kind], encoding="utf-8", errors="replace") as file:
            rows = [line.strip().split(":") for line in file]
    except OSError:
        return None
    for row in rows:
        if len(row) == 3 and row[0] in names and row[1].isdecimal() and row[2].isdecimal() and int(row[2]):
            return Range(int(row[1]), min(int(row[2]), MOST))
    return None


def write(pid: int) -> str:
    """Give the new user namespace of process ``pid`` its ids: ``many`` or ``single``."""
    ranges = {kind: subordinate(kind) for kind in ("uid", "gid")}
    possible = all(found and shutil.which(f"new{kind}map") for kind, found in ranges.items())
    if possible and all(_by_helper(kind, pid, found) for kind, found in ranges.items() if found):
        return "many"
    try:
        write_single(pid, os.getuid(), os.getgid())
    except OSError as error:
        raise KernelError(
            f"the lab's user ids can't be mapped: {error.strerror}", errno=error.errno
        ) from error
    return "single"


def write_single(pid: int, uid: int, gid: int) -> None:
    """Map root's ids of a new user namespace to these, where they have no map yet."""
    _put(pid, "setgroups", "deny")
    if not _has_map(pid, "gid"):
        _put(pid, "gid_map", f"0 {gid} 1\n")
    if not _has_map(pid, "uid"):
        _put(pid, "uid_map", f"0 {uid} 1\n")


def _by_helper(kind: str, pid: int, found: Range) -> bool:
    own = os.getuid() if kind == "uid" else os.getgid()
    words = [f"new{kind}map", pid, 0, own, 1, 1, found.first, found.size]
    done = subprocess.run([str(word) for word in words], capture_output=True, check=False)
    return done.returncode == 0


def _has_map(pid: int, kind: str) -> bool:
    with open(f"/proc/{pid}/{kind}_map", encoding="ascii") as file:
        return bool(file.read().strip())


def _put(pid: int, file: str, text: str) -> None:
    descriptor = os.open(f"/proc/{pid}/{file}", os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(descriptor, text.encode())
    finally:
        os.close(descriptor)
