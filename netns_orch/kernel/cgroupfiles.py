"""The files of a cgroup directory: written, read, waited for, marked.

Owns: system calls on one directory and its files, the extended attributes that are netorch's marks.
Must not: know what a file means, or which directory is whose; leave an error of the kernel unread (one
write(2) each: Python's buffered files swallow EBUSY).
"""

from __future__ import annotations

import errno
import os
import select
import time
from contextlib import suppress

from netns_orch.kernel import hierarchies as trees

_LONGEST = 4096 - 64
"""Bytes of a cgroup's path to which the names of its files still fit (PATH_MAX)."""
_NO_MARK = (errno.ENODATA, errno.ENOTSUP, errno.ENOENT, errno.EPERM)


def write(path: str, *texts: str) -> None:
    """One write(2) for each text: its error is the kernel's answer.  The error carries the path."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        for text in texts:
            os.write(descriptor, text.encode())
    except OSError as error:
        error.filename = path
        raise
    finally:
        os.close(descriptor)


def read(path: str) -> str | None:
    """The content, stripped; None where there is no such file any more."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        return None
    try:
        return os.read(descriptor, 1 << 16).decode("utf-8", "surrogateescape").strip()
    except OSError as error:
        if error.errno in (errno.ENODEV, errno.ESRCH, errno.EOPNOTSUPP):
            return None
        raise
    finally:
        os.close(descriptor)


def pids(directory: str) -> list[int]:
    """The processes in a cgroup; none where it is gone."""
    return [int(word) for word in (_read_whole(f"{directory}/cgroup.procs")).split()]


def _read_whole(path: str) -> str:
    try:
        with open(path, encoding="ascii") as file:
            return file.read()
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENODEV, errno.EOPNOTSUPP):
            return ""
        raise


def pids_below(directory: str) -> list[int]:
    """Those in the cgroups below it, too, as far down as a path can reach.

    A container with ``nesting`` can make them deeper; who is there ends with its PID 1.
    """
    found, left = [], [directory]
    while left:
        path = left.pop()
        found += pids(path)
        names = [f"{path}/{name}" for name in trees.children(path)]
        left += [name for name in names if len(os.fsencode(name)) < _LONGEST]
    return found


def set_mark(path: str, text: str, suffix: str = "") -> None:
    """Set the extended attribute ``trusted.netorch`` plus ``suffix`` (without privilege ``user.``)."""
    try:
        os.setxattr(path, f"trusted.netorch{suffix}", text.encode())
    except PermissionError:
        os.setxattr(path, f"user.netorch{suffix}", text.encode())


def mark(path: str, suffix: str = "") -> str | None:
    """What ``set_mark`` set; None where there is no such mark, or no directory.

    Root looks for ``trusted.`` alone: anybody can set the other on a directory of his own, and what bears a
    mark is killed, removed, and has labs hung in it.
    """
    for space in ("trusted", "user"):
        if space == "user" and is_real_root():
            break
        try:
            return os.getxattr(path, f"{space}.netorch{suffix}").decode("utf-8", "surrogateescape")
        except OSError as error:
            if error.errno not in _NO_MARK:
                raise
    return None


def is_real_root() -> bool:
    """Whether this is root of the initial user namespace (user_namespaces(7)), not of one in there."""
    whole = ["0", "0", "4294967295"]
    return os.geteuid() == 0 and (read("/proc/self/uid_map") or "").split() == whole


def remove_mark(path: str, suffix: str = "") -> None:
    """Take a mark off, where it is there."""
    for space in ("trusted", "user"):
        with suppress(OSError):
            os.removexattr(path, f"{space}.netorch{suffix}")


def rmdir(path: str) -> None:
    """Remove a cgroup, where it is there."""
    with suppress(FileNotFoundError):
        os.rmdir(path)


def is_removed(path: str) -> bool:
    """Remove a cgroup where that takes no more than to ask: nothing is in it, nor below it."""
    try:
        os.rmdir(path)
    except OSError as error:
        if error.errno != errno.EBUSY:
            return error.errno == errno.ENOENT
        return False
    return True


def remove_tree(path: str, deadline: float) -> None:
    """Remove a container's cgroup and those it made below; waits while processes in it are dying."""
    remove_below(path, deadline)
    _rmdir_patiently(path, None, path, deadline)


def remove_below(path: str, deadline: float) -> None:
    """Remove the cgroups below one, however deep: names may be longer together than a path may be."""
    try:
        here = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    way: list[str] = []
    try:
        while True:
            if (inner := _first_inner(here)) is not None:
                way.append(inner)
                here = _step(here, inner)
            elif way:
                for name in trees.children(here):
                    _rmdir_patiently(name, here, path, deadline)
                here = _step(here, "..")
                _rmdir_patiently(way.pop(), here, path, deadline)
            else:
                for name in trees.children(here):
                    _rmdir_patiently(name, here, path, deadline)
                return
    finally:
        os.close(here)


def _step(here: int, name: str) -> int:
    there = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=here)
    os.close(here)
    return there


def _first_inner(here: int) -> str | None:
    """A cgroup right below that has some below itself."""
    for name in trees.children(here):
        inner = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=here)
        try:
            if trees.children(inner):
                return name
        finally:
            os.close(inner)
    return None


def _rmdir_patiently(name: str, parent: int | None, top: str, deadline: float) -> None:
    pause = 0.001
    while True:
        try:
            with suppress(FileNotFoundError):
                os.rmdir(name, dir_fd=parent)
            return
        except OSError as error:
            if error.errno != errno.EBUSY or time.monotonic() > deadline:
                raise
        wait_event(top, pause)
        pause = min(pause * 2, 0.1)


def wait_event(path: str, seconds: float) -> None:
    """Until ``populated`` changes (v2 tells by a poll) or the time is over."""
    try:
        descriptor = os.open(f"{path}/cgroup.events", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        time.sleep(seconds)
        return
    try:
        if b"populated 1" not in os.read(descriptor, 4096):
            time.sleep(min(seconds, 0.01))
            return
        poll = select.poll()
        poll.register(descriptor, select.POLLPRI)
        poll.poll(int(seconds * 1000) + 1)
    finally:
        os.close(descriptor)
