"""A directory copied with all in it, from descriptor to descriptor.

Owns: contents, modes, owners, times and file capabilities of the copy.
Must not: follow a link, or leave either directory; nothing in them is trusted.
"""

from __future__ import annotations

import errno
import os
import stat

from netns_orch.kernel import ids
from netns_orch.kernel import syscalls as sc

_DEEPEST = 200
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_CHUNK = 1 << 20


def copy(source: int, target: int) -> None:
    """Copy what is in one directory into another, empty one, and its own mode and owner (raises OSError)."""
    source = sc.openat2(source, ".", _DIRECTORY, sc.RESOLVE_BENEATH)
    target = sc.openat2(target, ".", _DIRECTORY, sc.RESOLVE_BENEATH)
    try:
        _directory(source, target, 0)
    finally:
        os.close(source)
        os.close(target)


def _directory(source: int, target: int, depth: int) -> None:
    if depth > _DEEPEST:
        raise OSError(errno.ELOOP, "directories too deep to copy")
    for entry in os.scandir(source):
        _entry(entry.name, source, target, depth)
    _attributes(os.fstat(source), target)


def _entry(name: str, source: int, target: int, depth: int) -> None:
    found = os.stat(name, dir_fd=source, follow_symlinks=False)
    if stat.S_ISDIR(found.st_mode):
        os.mkdir(name, 0o700, dir_fd=target)
        inner, copied = os.open(name, _DIRECTORY, dir_fd=source), os.open(name, _DIRECTORY, dir_fd=target)
        try:
            _directory(inner, copied, depth + 1)
        finally:
            os.close(inner)
            os.close(copied)
    elif stat.S_ISREG(found.st_mode):
        _file(name, source, target)
    elif stat.S_ISLNK(found.st_mode):
        os.symlink(os.readlink(name, dir_fd=source), name, dir_fd=target)
        ids.give(name, found.st_uid, found.st_gid, dir_fd=target)
    elif not stat.S_ISSOCK(found.st_mode):
        os.mknod(name, found.st_mode, found.st_rdev, dir_fd=target)
        ids.give(name, found.st_uid, found.st_gid, dir_fd=target)


def _file(name: str, source: int, target: int) -> None:
    read = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=source)
    try:
        written = os.open(name, _NEW, 0o600, dir_fd=target)
        try:
            while os.sendfile(written, read, None, _CHUNK):
                pass
            _attributes(os.fstat(read), written)
            _capability(read, written)
        finally:
            os.close(written)
    finally:
        os.close(read)


def _attributes(found: os.stat_result, target: int) -> None:
    ids.give(target, found.st_uid, found.st_gid)
    os.fchmod(target, stat.S_IMODE(found.st_mode))
    os.utime(target, ns=(found.st_atime_ns, found.st_mtime_ns))


def _capability(source: int, target: int) -> None:
    try:
        value = os.getxattr(source, "security.capability")
    except OSError as error:
        if error.errno not in (errno.ENODATA, errno.EOPNOTSUPP):
            raise
        return
    os.setxattr(target, "security.capability", value)
