"""User and group ids that exist here: all of them on a host, a few in the realm of a rootless lab.

Owns: reading the maps (user_namespaces(7)), giving files an owner that may have no id here.
Must not: write a map (``idmap``), or import more than a process that forks containers can carry.
"""

from __future__ import annotations

import errno
import os


def has(kind: str, number: int) -> bool:
    """Whether an id (``kind`` is uid or gid) is one of this process's user namespace."""
    with open(f"/proc/self/{kind}_map", "rb") as file:
        rows = [[int(word) for word in line.split()] for line in file]
    return any(first <= number < first + count for first, _, count in rows)


def missing(uid: int, gid: int) -> str | None:
    """What to say of a user or group that has no id here; None: both have one."""
    for kind, number in (("user", uid), ("group", gid)):
        if number and not has(f"{kind[0]}id", number):
            return f"{kind} {number} has no id in this lab"
    return None


HOW_TO = (
    "a rootless lab has root's id, and those that /etc/subuid and /etc/subgid give its user "
    "(`usermod --add-subuids 100000-165535 --add-subgids 100000-165535 USER`) if newuidmap is there "
    "(`apt-get install uidmap`)"
)


def give(what: int | str, uid: int, gid: int, *, dir_fd: int | None = None) -> None:
    """Change the owner of a file (a link itself, not what it leads to).

    One that has no id here, as most files of an image have none where a rootless lab has a single id, stays
    its maker's.
    """
    try:
        if isinstance(what, int):
            os.fchown(what, uid, gid)
        else:
            os.chown(what, uid, gid, dir_fd=dir_fd, follow_symlinks=False)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
