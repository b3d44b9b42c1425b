"""Who a user is inside a root: /etc/passwd and /etc/group of that root, read safely.

Owns: the meaning of ``user: "name:group"``.
Must not: ask NSS (its modules would be the host's, or worse, the container's), follow a link out of the root.
"""

from __future__ import annotations

import errno
import os
import stat

from netns_orch.kernel import syscalls as sc

_SIZE_LIMIT = 4 << 20
_LAST_ID = 0xFFFF_FFFE


class User:
    """Ids, supplementary groups and home directory."""

    __slots__ = ("gid", "groups", "home", "uid")

    def __init__(self, uid: int, gid: int, groups: list[int], home: str) -> None:
        self.uid, self.gid, self.groups, self.home = uid, gid, groups, home


class UnknownUser(Exception):
    """The root has no such user or group; the text says which."""


def root_of(pid: int) -> int:
    """A descriptor (O_PATH) of the root of the container whose PID 1 is ``pid``; OSError where it has none.

    EAGAIN: it is being made, and its first process still sees the host's root.  To lead a session of its own
    is the last thing that one does before it is PID 1 (``build``), and cannot be undone.
    """
    with open(f"/proc/{pid}/stat", "rb") as file:
        session = file.read().rpartition(b")")[2].split()[3]
    if int(session) != pid:
        raise OSError(errno.EAGAIN, "it is being made just now")
    return os.open(f"/proc/{pid}/root", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)


def find(root: int, user: str | None) -> User:
    """The user ``name``, ``uid``, ``name:group`` or ``uid:gid`` as the files of ``root`` know it.

    A number needs no entry; the group is then 0 as in Docker.  UnknownUser for a name that is not there.
    """
    name, _, group = (user or "0").partition(":")
    entry = _entry(_rows(root, "etc/passwd"), name, 2)
    if entry is None and not name.isdecimal():
        raise UnknownUser(f"there is no user {name!r} in /etc/passwd")
    uid = _number(entry[2] if entry else name)
    gid = _number(entry[3]) if entry else 0
    home = entry[5] if entry and len(entry) > 5 and entry[5].startswith("/") else "/"
    groups = _rows(root, "etc/group")
    if group:
        gid, also = _group(groups, group), []
    else:
        also = [_number(row[2]) for row in groups if entry and len(row) > 3 and entry[0] in row[3].split(",")]
    return User(uid, gid, sorted({gid, *also}), home)


def names(root: int) -> dict[int, str]:
    """The user names in /etc/passwd of a root, by user id; the first of several counts."""
    found: dict[int, str] = {}
    for row in _rows(root, "etc/passwd"):
        if len(row) > 2 and row[2].isdecimal():
            found.setdefault(int(row[2]), row[0])
    return found


def _group(rows: list[list[str]], group: str) -> int:
    entry = _entry(rows, group, 2)
    if entry is None and not group.isdecimal():
        raise UnknownUser(f"there is no group {group!r} in /etc/group")
    return _number(entry[2] if entry else group)


def _entry(rows: list[list[str]], name: str, column: int) -> list[str] | None:
    """By name, else by number."""
    for key in (0, column):
        for row in rows:
            if len(row) > column and row[key] == name:
                return row
    return None


def _number(text: str) -> int:
    if not text.isdecimal() or int(text) > _LAST_ID:
        raise UnknownUser(f"{text!r} is not an id")
    return int(text)


def _rows(root: int, path: str) -> list[list[str]]:
    """The lines of a file of the root, split at colons; none where there is no such plain file."""
    flags = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY
    try:
        descriptor = sc.openat2(root, path, flags, sc.RESOLVE_IN_ROOT | sc.RESOLVE_NO_MAGICLINKS)
    except OSError:
        return []
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            return []
        text = os.read(descriptor, _SIZE_LIMIT).decode("utf-8", "surrogateescape")
    finally:
        os.close(descriptor)
    return [line.split(":") for line in text.splitlines()]
