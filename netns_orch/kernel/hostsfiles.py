"""The generated /etc/hosts and /etc/resolv.conf of containers, as they lie in the run directory.

Owns: writing and reading them; that containers whose hosts files are equal have one file, by hard links.
Must not: know what is in them.

Each hosts file names every container of its lab: a file of its own for each would take 25 MB of a lab of a
thousand.  A file is bound into its container, which goes on seeing that very file: so those who share one
are changed in place as long as all of them change alike.  A container that comes to differ from the others
gets a file of its own, mounted in the place of the old one.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import NamedTuple

from netns_orch.errors import KernelError
from netns_orch.kernel import namespaces
from netns_orch.kernel import syscalls as sc
from netns_orch.kernel.within import INSIDE
from netns_orch.resources import HostsFile

_CLONE_FS = 0x200
_READ_ONLY = sc.MOUNT_ATTR_RDONLY | sc.MOUNT_ATTR_NOSUID | sc.MOUNT_ATTR_NODEV | sc.MOUNT_ATTR_NOEXEC
_UMOUNT_NOFOLLOW = 8
Identity = tuple[int, int]
"""Device and inode number."""


class _Parting(NamedTuple):
    """A container that is to see another file than it did."""

    pid: int
    before: Identity
    path: str


def write(
    wanted: Iterable[HostsFile], directory: Callable[[str], str], living: Callable[[str], int | None]
) -> None:
    """Bring the files of these containers to what is wanted.

    ``directory`` is where a container's files lie, ``living`` the pid of its PID 1 if it runs.
    """
    together: dict[Identity | None, list[HostsFile]] = {}
    for item in wanted:
        _write_in_place(f"{directory(item.container)}/resolv.conf", item.resolv_conf or "")
        together.setdefault(_identity(f"{directory(item.container)}/hosts"), []).append(item)
    written: dict[str, str] = {}
    for shared in [key for key in together if key is not None]:
        items = together[shared]
        path = f"{directory(items[0].container)}/hosts"
        alike = len({(item.hosts, item.own) for item in items}) == 1
        if alike and os.stat(path).st_nlink == len(items) and not (items[0].own and len(items) > 1):
            _write_in_place(path, items[0].hosts)
            if not items[0].own:
                written[items[0].hosts] = path
            del together[shared]
    parting, paths = [], []
    for identity, items in together.items():
        for item in items:
            path = f"{directory(item.container)}/hosts"
            _make_new(f"{path}.new", item, written)
            paths.append(path)
            pid = living(item.container) if identity is not None else None
            if pid is not None and identity is not None:
                parting.append(_Parting(pid, identity, f"{path}.new"))
    if parting:  # before the old ones go: nothing can be mounted on a file that has no name any more
        namespaces.run_in_thread(lambda stopped: _show_all(parting, stopped))
    for path in paths:
        os.replace(f"{path}.new", path)


def read(path: str, known: dict[Identity, str]) -> str:
    """The content of a hosts file; ``known`` holds what was read already, as most are one file.

    Empty where it is missing, or no text.
    """
    identity = _identity(path)
    if identity is None:
        return ""
    if identity not in known:
        with suppress(OSError, ValueError), open(path, encoding="utf-8") as stream:
            known[identity] = stream.read()
    return known.get(identity, "")


def _identity(path: str) -> Identity | None:
    try:
        status = os.lstat(path)
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _write_in_place(path: str, text: str) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
    with open(fd, "w", encoding="utf-8") as stream:
        stream.write(text)


def _make_new(path: str, item: HostsFile, written: dict[str, str]) -> None:
    """A file with this text: another container's, where one has it already."""
    with suppress(FileNotFoundError):
        os.unlink(path)
    if item.own or item.hosts not in written:
        _write_in_place(path, item.hosts)
        os.chmod(path, 0o644)
    else:
        os.link(written[item.hosts], path)
    if not item.own:
        written.setdefault(item.hosts, path)


# -- in the container ------------------------------------------------------------------------------


def _show_all(parting: Sequence[_Parting], stopped: threading.Event) -> None:
    """In a thread of its own, which goes from one mount namespace into the next."""
    trees: Mapping[str, int] = {item.path: sc.open_tree(sc.AT_FDCWD, item.path) for item in parting}
    homes: list[int] = []
    try:
        for item in parting:
            sc.mount_setattr(trees[item.path], _READ_ONLY)
            with suppress(ProcessLookupError, FileNotFoundError):
                homes.append(os.open(f"/proc/{item.pid}/ns/mnt", os.O_RDONLY | os.O_CLOEXEC))
                continue
            homes.append(-1)
        sc.unshare(_CLONE_FS)
        for item, home in zip(parting, homes, strict=True):
            if stopped.is_set():
                raise namespaces.Abandoned
            if home >= 0:
                sc.setns(home, sc.CLONE_NEWNS)
                _show(trees[item.path], item.before)
    except OSError as error:
        raise KernelError(f"/etc/hosts of a container: {error.strerror}", errno=error.errno) from error
    finally:
        for descriptor in (*trees.values(), *(home for home in homes if home >= 0)):
            os.close(descriptor)


def _show(tree: int, before: Identity) -> None:
    """In the place of what was there before; an /etc/hosts that the lab file gives stays."""
    root = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        etc = sc.openat2(root, "etc", os.O_PATH | os.O_DIRECTORY, INSIDE)
        os.fchdir(etc)
        os.close(etc)
        if _identity("hosts") == before:
            sc.umount2("hosts", sc.MNT_DETACH | _UMOUNT_NOFOLLOW)
            sc.move_mount(tree, sc.AT_FDCWD, "hosts")
    except (FileNotFoundError, NotADirectoryError):
        return
    finally:
        os.close(root)
