"""Paths inside a root or a mount, resolved by descriptor so that no link leads out.

Owns: opening and making directories, files and mount points below a descriptor, attaching mounts to them.
Must not: know what is mounted where.
"""

from __future__ import annotations

import os
import stat
from contextlib import suppress

from netns_orch.kernel import syscalls as sc

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

INSIDE = sc.RESOLVE_IN_ROOT | sc.RESOLVE_NO_MAGICLINKS
"""How openat2(2) resolves: absolute links and ``..`` begin and end at the descriptor."""
_DIRECTORY = os.O_PATH | os.O_DIRECTORY


def innermost(path: str, points: Iterable[str]) -> str | None:
    """Of these mount points the one that ``path`` lies in, by its text; None: in none of them."""
    found = [point for point in points if path.startswith(point.rstrip("/") + "/")]
    return max(found, key=len, default=None)


def open_directory(root: int, path: str) -> int:
    """A directory inside ``root`` (O_PATH), made with its parents where it is missing."""
    parts = [part for part in path.split("/") if part]
    if not parts:
        return os.dup(root)
    try:
        return sc.openat2(root, "/".join(parts), _DIRECTORY, INSIDE)
    except FileNotFoundError:
        parent = open_directory(root, "/".join(parts[:-1]))
    try:
        os.mkdir(parts[-1], 0o755, dir_fd=parent)
    except FileExistsError:
        pass  # a link to nowhere: opening it tells
    finally:
        os.close(parent)
    return sc.openat2(root, "/".join(parts), _DIRECTORY, INSIDE)


def open_plain_directory(root: int, name: str) -> int:
    """A directory right below ``root`` that must be one itself: a symbolic link is refused."""
    with suppress(FileExistsError):
        os.mkdir(name, 0o755, dir_fd=root)
    return sc.openat2(root, name, _DIRECTORY, sc.RESOLVE_BENEATH | sc.RESOLVE_NO_SYMLINKS)


def open_target(root: int, path: str, directory: bool) -> int:
    """What a mount at ``path`` is to cover (O_PATH); made, empty, where it is missing."""
    if directory:
        return open_directory(root, path)
    try:
        return sc.openat2(root, path.lstrip("/"), os.O_PATH, INSIDE)
    except FileNotFoundError:
        create_file(root, path, b"", 0o644)
    return sc.openat2(root, path.lstrip("/"), os.O_PATH, INSIDE)


def create_file(root: int, path: str, content: bytes, mode: int) -> None:
    """Write a file inside ``root``, with its parents; a symbolic link is followed inside it."""
    parent, _, _name = path.strip("/").rpartition("/")
    os.close(open_directory(root, parent))
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NONBLOCK | os.O_NOCTTY
    descriptor = sc.openat2(root, path.strip("/"), flags, INSIDE, mode)
    try:
        view = memoryview(content)
        while view:
            view = view[os.write(descriptor, view) :]
        if stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.fchmod(descriptor, mode)
    finally:
        os.close(descriptor)


def attach(tree: int, target: int, keep: bool = False) -> None:
    """Attach a detached mount at ``target``; both descriptors are closed, the mount's not with ``keep``."""
    try:
        sc.move_mount(tree, target)
    finally:
        if not keep:
            os.close(tree)
        os.close(target)
