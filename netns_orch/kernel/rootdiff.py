"""What a container changed in its root: the upper directory of its overlay against the layers below.

Owns: reading both from outside.  Must not: enter the container, follow a link in what it reads, or take for a
change what netorch made (``rootnote``).

The upper directory lies in a tmpfs that no path leads to; PID 1 keeps a descriptor of it, read-only.  What
overlayfs means by whiteouts and opaque directories: kernel, filesystems/overlayfs.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from typing import Any, NamedTuple

from netns_orch.errors import KernelError
from netns_orch.kernel import rootnote
from netns_orch.kernel import syscalls as sc
from netns_orch.kernel.unpack import opaque_attribute

ADDED, CHANGED, DELETED = "A", "C", "D"
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_DEEPEST = 500


class Difference(NamedTuple):
    """One path, and whether it was added, changed or deleted (A, C, D)."""

    kind: str
    path: str


def changes(
    name: str, directory: str, pid: int, layers: Sequence[str], first_id: int = 0
) -> list[Difference]:
    """All of them, by path.

    ``directory`` is the container's own on the host, ``layers`` the directories its root is made of, lowest
    first, ``first_id`` the host's id of its root.  KernelError where its storage can't be reached.
    """
    with ExitStack() as stack:
        try:
            with open(f"{directory}/{rootnote.FILE}", encoding="ascii") as file:
                note = json.load(file)
            store = _store(pid, note["store"])
            if store is not None:
                stack.callback(os.close, store)
            lower = _Below(layers)
            stack.callback(lower.close)
        except OSError as error:
            what = f"container {name}: its changes can't be read ({error.strerror})"
            raise KernelError(what, errno=error.errno) from error
        if store is None:
            raise KernelError(
                f"container {name}: nobody holds its storage open any more",
                hint="with `init: false` the command is PID 1, and keeps nothing of netorch's",
            )
        return sorted(_walk_all(store, lower, note["own"], first_id), key=lambda found: found.path)


def _store(pid: int, identity: list[int]) -> int | None:
    """PID 1's descriptor of the storage, found by what it is a descriptor of."""
    for entry in os.listdir(f"/proc/{pid}/fd"):
        with suppress(OSError):
            path = f"/proc/{pid}/fd/{entry}"
            found = os.stat(path)
            if [found.st_dev, found.st_ino] == identity:
                return os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    return None


class _Below:
    """The layers below the container's own, looked at as overlayfs shows them."""

    def __init__(self, layers: Sequence[str]) -> None:
        """Lowest first; of each but / only its own file system, as a mount that is attached nowhere."""
        self.roots: list[int] = []
        try:
            for path in reversed(layers):
                self.roots.append(_layer(path))
        except OSError:
            self.close()
            raise
        self._known: dict[str, tuple[os.stat_result | None, list[int]]] = {"": (None, self.roots)}

    def close(self) -> None:
        for root in self.roots:
            os.close(root)

    def find(self, path: str) -> os.stat_result | None:
        """What is seen at ``path``; None: nothing."""
        return self._merge(path)[0]

    def names(self, path: str) -> set[str]:
        """What is seen in a directory."""
        found: set[str] = set()
        for root in self._merge(path)[1]:
            with suppress(OSError):
                directory = _open(root, path, _DIRECTORY)
                found.update(os.listdir(directory))
                os.close(directory)
        return {name for name in found if self.find(f"{path}/{name}") is not None}

    def _merge(self, path: str) -> tuple[os.stat_result | None, list[int]]:
        """What is seen, and the layers that a directory is merged of."""
        if path not in self._known:
            self._known[path] = self._look(path)
        return self._known[path]

    def _look(self, path: str) -> tuple[os.stat_result | None, list[int]]:
        seen: os.stat_result | None = None
        merged: list[int] = []
        for root in self._merge(os.path.dirname(path).rstrip("/"))[1]:
            try:
                entry = _open(root, path, os.O_PATH | os.O_NOFOLLOW)
            except OSError:
                continue
            found, opaque = os.fstat(entry), _is_opaque(f"/proc/self/fd/{entry}")
            os.close(entry)
            if not stat.S_ISDIR(found.st_mode):
                seen = seen or (None if _is_whiteout(found) else found)
                break
            seen = seen or found
            merged.append(root)
            if opaque:
                break
        return seen, merged


def _layer(path: str) -> int:
    """The host's / has the mounts below it, of which a container has copies, too."""
    if path == "/":
        return os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    return sc.open_tree(sc.AT_FDCWD, path)


def _open(root: int, path: str, flags: int) -> int:
    return sc.openat2(root, path.lstrip("/") or ".", flags, sc.RESOLVE_BENEATH | sc.RESOLVE_NO_SYMLINKS)


def _is_whiteout(found: os.stat_result) -> bool:
    return stat.S_ISCHR(found.st_mode) and found.st_rdev == 0


def _is_opaque(directory: int | str) -> bool:
    try:
        return os.getxattr(directory, opaque_attribute()) == b"y"
    except OSError:
        return False


def _walk_all(store: int, lower: _Below, own: Mapping[str, list[int]], first_id: int) -> Iterator[Difference]:
    for name, seen_at in rootnote.PLACES:
        try:
            upper = os.open(name, _DIRECTORY, dir_fd=store)
        except FileNotFoundError:
            continue
        walk = _Walk(lower if not seen_at else None, own, first_id)
        try:
            walk.directory(upper, seen_at, 0)
        finally:
            os.close(upper)
        yield from walk.found
        yield from walk.missing(store, name, seen_at)


class _Walk:
    """Through one directory of the storage, beside the layers below it (None: nothing is below)."""

    def __init__(self, lower: _Below | None, own: Mapping[str, list[int]], first_id: int) -> None:
        self.lower = lower
        self.first_id = first_id
        self.own = own
        self.found: list[Difference] = []

    def directory(self, upper: int, path: str, depth: int) -> bool:
        """All entries of a directory; whether any of them differs."""
        before = len(self.found)
        for entry in os.scandir(upper):
            self._entry(upper, f"{path}/{entry.name}", entry, depth)
        if path and _is_opaque(upper):
            self._hidden(upper, path)
        return len(self.found) > before

    def _entry(self, upper: int, path: str, entry: os.DirEntry[str], depth: int) -> None:
        found = entry.stat(follow_symlinks=False)
        below = self._below(path)
        if _is_whiteout(found):
            self.found += [Difference(DELETED, path)] if below else []
            return
        inside = stat.S_ISDIR(found.st_mode) and self._inside(upper, entry.name, path, depth)
        noted = self.own.get(path)
        if noted is None:
            differs = below is None or inside or not self._same_directory(found, below)
        else:
            differs = inside or self._was_touched(found, below, noted)
        if differs:
            self.found.append(Difference(ADDED if below is None and noted is None else CHANGED, path))

    def _was_touched(self, found: os.stat_result, below: os.stat_result | None, noted: list[int]) -> bool:
        """What netorch made; a directory's marks change with what is in it, but its mode does not."""
        if stat.S_ISDIR(found.st_mode):
            return below is not None and found.st_mode != below.st_mode
        return list(rootnote.mark(found)) != noted

    def _inside(self, upper: int, name: str, path: str, depth: int) -> bool:
        if depth >= _DEEPEST:
            raise KernelError(f"{path}: directories too deep to look through")
        inner = os.open(name, _DIRECTORY, dir_fd=upper)
        try:
            return self.directory(inner, path, depth + 1)
        finally:
            os.close(inner)

    def _below(self, path: str) -> os.stat_result | None:
        return self.lower.find(path) if self.lower is not None else None

    def _same_directory(self, found: os.stat_result, below: os.stat_result | None) -> bool:
        """A directory that is there only because of what is in it has all of the one below."""
        if below is None or not stat.S_ISDIR(found.st_mode):
            return False
        owner = (found.st_uid - self.first_id, found.st_gid - self.first_id)
        return found.st_mode == below.st_mode and owner == (below.st_uid, below.st_gid)

    def _hidden(self, upper: int, path: str) -> None:
        """A directory that was removed and made again shows nothing of what is below."""
        if self.lower is not None:
            names = self.lower.names(path) - set(os.listdir(upper))
            self.found += [Difference(DELETED, f"{path}/{name}") for name in names]

    def missing(self, store: int, name: str, seen_at: str) -> Iterator[Difference]:
        """What netorch made, and the container deleted; a whiteout is left only where a layer has it too."""
        gone: set[str] = set()
        for path in sorted(self.own):
            if not path.startswith(f"{seen_at}/") or os.path.dirname(path) in gone:
                continue
            if not seen_at and path.startswith(tuple(f"{at}/" for _, at in rootnote.PLACES if at)):
                continue  # of another place, unless that is no place of its own here
            try:
                os.stat(f"{name}{path[len(seen_at) :]}", dir_fd=store, follow_symlinks=False)
            except OSError:
                gone.add(path)
                if self._below(path) is None:
                    yield Difference(DELETED, path)


def as_rows(found: Sequence[Difference]) -> list[dict[str, Any]]:
    """As data."""
    return [{"kind": difference.kind, "path": difference.path} for difference in found]
