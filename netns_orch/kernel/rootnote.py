"""What of a container's root netorch itself made: noted before anything runs in it.

Owns: ``root.json`` in the container's directory.  Must not: decide what counts as a change (``rootdiff``).

An entry is known by its inode number and change time (ctime): nobody in the container can set that one.
"""

from __future__ import annotations

import json
import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

FILE = "root.json"
PLACES = (("upper", ""), ("run", "/run"), ("tmp", "/tmp"))
"""Directories of the store, and where in the root what they hold is seen."""
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def write(directory: int, store: int) -> None:
    """Note what is there, by paths inside, and which file system the store is."""
    own: dict[str, tuple[int, int]] = {}
    for name, seen_at in PLACES:
        try:
            found = os.open(name, _DIRECTORY, dir_fd=store)
        except FileNotFoundError:
            continue
        _walk(found, seen_at, own)
        os.close(found)
    text = json.dumps({"store": identity(store), "own": own})
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW
    descriptor = os.open(FILE, flags, 0o600, dir_fd=directory)
    with open(descriptor, "w", encoding="ascii") as stream:
        stream.write(text)


def identity(store: int) -> list[int]:
    """What tells the root directory of one store from every other file there is."""
    found = os.fstat(store)
    return [found.st_dev, found.st_ino]


def mark(found: os.stat_result) -> tuple[int, int]:
    """What changes with the entry."""
    return found.st_ino, found.st_ctime_ns


def _walk(directory: int, path: str, own: dict[str, Any]) -> None:
    for entry in os.scandir(directory):
        found = entry.stat(follow_symlinks=False)
        own[f"{path}/{entry.name}"] = mark(found)
        if entry.is_dir(follow_symlinks=False):
            inner = os.open(entry.name, _DIRECTORY, dir_fd=directory)
            _walk(inner, f"{path}/{entry.name}", own)
            os.close(inner)
