"""What a lab file mounts into a container: volumes, tmpfs, devices.

Owns: making each of them ready, detached, and putting it in its place.
Must not: decide where a path leads (``within``), or write to the host but into a volume.

A mount is opened and its place is found before anything is attached; see ``rootfs``.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from contextlib import suppress

from netns_orch.kernel import copytree
from netns_orch.kernel import syscalls as sc
from netns_orch.kernel.within import open_directory, open_target

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

    Map = Callable[[int, bool], None]

_ATTRIBUTES = {
    "nosuid": sc.MOUNT_ATTR_NOSUID,
    "nodev": sc.MOUNT_ATTR_NODEV,
    "noexec": sc.MOUNT_ATTR_NOEXEC,
    "ro": sc.MOUNT_ATTR_RDONLY,
}
_CLEARED = {"suid": "nosuid", "dev": "nodev", "exec": "noexec", "rw": "ro"}


class Mounts:
    """All of a container, those in the root's own directories before those deeper inside."""

    def __init__(self, spec: dict[str, Any], map_ids: Map, first_id: int) -> None:
        """``map_ids`` gives a mount of the host's the container's ids, where it has ids of its own."""
        copied = spec["root"]["kind"] != "host"
        deeper = sorted(spec["mounts"], key=lambda mount: mount["target"].count("/"))
        self._mounts = [Mount(mount, map_ids, first_id, copied) for mount in deeper]
        self.targets = [mount.target for mount in self._mounts]

    def __iter__(self) -> Iterator[Mount]:
        return iter(self._mounts)


class Mount:
    """One of them."""

    def __init__(self, mount: dict[str, Any], map_ids: Map, first_id: int, copied: bool) -> None:
        self.target: str = mount["target"]
        self.name = self.target
        self._kind: str = mount["kind"]
        self._source: str = mount["source"]
        self._options: str = mount["options"]
        self._read_only: bool = mount["read_only"]
        self._map_ids, self._first_id, self._copied = map_ids, first_id, copied
        self._tree = self._place = -1
        if self._kind != "tmpfs":
            self.name = f"{self._source} at {self.target}"

    def open(self) -> None:
        """Make the mount, attached nowhere yet."""
        if self._kind == "tmpfs":
            options, attributes = tmpfs_options(self._options)
            self._tree = sc.new_mount("tmpfs", options, attributes)
        elif self._kind != "device":
            self._tree = sc.open_tree(sc.AT_FDCWD, self._source, sc.OPEN_TREE_CLONE | sc.AT_RECURSIVE)
            self._map_ids(self._tree, not self._read_only)

    def find_place(self, root: int, inner: str) -> None:
        """Find the mount point in ``root``, which is what is seen at ``inner``; made where it is missing."""
        path = self.target[len(inner.rstrip("/")) :]
        if self._kind == "device":
            self._place = open_directory(root, os.path.dirname(path))
            return
        directory = stat.S_ISDIR(os.fstat(self._tree).st_mode)
        self._place = open_target(root, path, directory)
        if directory and self._kind == "volume" and self._copied:
            self._fill()

    def attach(self) -> int:
        """Put it in its place; returns a descriptor of what is now there."""
        if self._kind == "device":
            self._make_node()
            return self._place
        if self._kind != "tmpfs":
            attributes = sc.MOUNT_ATTR_NOSUID | sc.MOUNT_ATTR_NODEV
            attributes |= sc.MOUNT_ATTR_RDONLY if self._read_only else 0
            # Programs in a named volume may be run, though it lies in /run, where they often may not.
            clear = sc.MOUNT_ATTR_NOEXEC if self._kind == "volume" else 0
            sc.mount_setattr(self._tree, attributes, clear=clear, recursive=True)
        sc.move_mount(self._tree, self._place)
        os.close(self._place)
        return self._tree

    def _fill(self) -> None:
        """An empty named volume begins as what the image has in its place, as in Docker."""
        volume = os.open(self._source, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(volume, fcntl.LOCK_EX)  # containers that share it may start at the same time
            if not os.listdir(volume):
                copytree.copy(self._place, self._tree)
        finally:
            os.close(volume)

    def _make_node(self) -> None:
        """A node of the container's own: a change of its mode or owner is none of the host's."""
        found = os.stat(self._source)
        if not (stat.S_ISCHR(found.st_mode) or stat.S_ISBLK(found.st_mode)):
            raise OSError(errno.ENODEV, f"{self._source} is not a device")
        name = os.path.basename(self.target)
        with suppress(FileNotFoundError):
            os.unlink(name, dir_fd=self._place)
        if make_node(self._source, found.st_mode, found.st_rdev, self._place, name):
            owner = (self._first_id + found.st_uid, self._first_id + found.st_gid)
            os.chown(name, *owner, dir_fd=self._place, follow_symlinks=False)


def make_node(source: str, mode: int, device: int, directory: int, name: str) -> bool:
    """A device node; without the right to make one, the host's own (``source``).  Whether it was made."""
    try:
        os.mknod(name, mode, device, dir_fd=directory)
    except PermissionError:
        tree = sc.open_tree(sc.AT_FDCWD, source)
        os.close(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666, dir_fd=directory))
        sc.move_mount(tree, directory, name)
        os.close(tree)
        return False
    return True


def tmpfs_options(text: str) -> tuple[list[tuple[str, str | None]], int]:
    """``size=16m,mode=1777,noexec`` as options of the file system and attributes of the mount.

    Without a word about them: mode 1777, nosuid and nodev, as Docker's; programs on it may be run.
    """
    values: dict[str, str | None] = {"mode": "1777"}
    attributes = {"nosuid", "nodev"}
    for item in text.split(",") if text else ():
        name, _, value = item.partition("=")
        if name in _ATTRIBUTES:
            attributes.add(name)
        elif name in _CLEARED:
            attributes.discard(_CLEARED[name])
        else:
            values[name] = value
    bits = 0
    for name in attributes:
        bits |= _ATTRIBUTES[name]
    return list(values.items()), bits
