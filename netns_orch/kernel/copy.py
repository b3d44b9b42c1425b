"""Files in and out of a container, through its root as its PID 1 sees it.

Owns: finding a path so that no link leads out of the container's root (openat2(2), RESOLVE_IN_ROOT), walking
a tree into entries, making entries below a place, tar streams of entries.
Must not: trust a name in a tar stream or a link in a tree; follow a link below the place that is written to
on the host; make device nodes.

A container may change its files at any moment, so nothing is looked up twice by name: what was looked at is
held by a descriptor, and opened by that.
"""

from __future__ import annotations

import errno
import io
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import TYPE_CHECKING, Any, BinaryIO

from netns_orch.errors import KernelError, UsageError
from netns_orch.kernel import ids, mountinfo, users
from netns_orch.kernel import syscalls as sc
from netns_orch.kernel.processes import IdMap
from netns_orch.records import dataclass, field, replace

if TYPE_CHECKING:
    import tarfile

_CHUNK = 1 << 18
_DEPTH = 256
"""How deep directories may lie in each other: each holds a descriptor while it is walked."""
_ODD_SIZE = 16 << 20
"""A file that says it is empty may not be (proc(5)): as much as this is read to find out."""
_VIRTUAL = frozenset(
    (
        *("proc", "sysfs", "cgroup", "cgroup2", "devpts", "mqueue", "securityfs"),
        *("debugfs", "tracefs", "bpf", "pstore", "fusectl", "configfs"),
    )
)
_SPECIAL_BITS = 0o7000
_PATH = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
_BELOW = sc.RESOLVE_BENEATH | sc.RESOLVE_NO_SYMLINKS | sc.RESOLVE_NO_MAGICLINKS


@dataclass(frozen=True)
class Entry:
    """One thing of a tree; ``name`` is relative to where it goes (empty: the place itself)."""

    name: str
    kind: str
    """directory | file | symlink | hardlink | fifo"""
    mode: int
    uid: int
    """As the container sees it, as is ``gid``."""
    gid: int
    modified: float
    """Unix seconds."""
    size: int = 0
    target: str = ""
    """Of a symlink: what it says; of a hardlink: the name of the entry that it is the same file as."""
    content: BinaryIO | None = None


@dataclass
class Report:
    """What was copied; ``skipped`` are sockets and devices, which are not."""

    entries: int = 0
    bytes: int = 0
    skipped: list[str] = field(default_factory=list)


# -- trees and places --------------------------------------------------------------------------------


class Tree:
    """A root that paths are looked up in: the host's, or a container's.  A context."""

    def __init__(self, root: int, label: str, user_ids: IdMap | None, group_ids: IdMap | None) -> None:
        self.root, self.label = root, label
        self.user_ids, self.group_ids = user_ids, group_ids
        """How a container's ids are seen on the host; None: on the host itself."""
        self.virtual: frozenset[int] = frozenset()
        """Devices of mounted file systems that hold no files: they are not walked into."""

    @classmethod
    def of_container(cls, pid: int, name: str) -> Tree:
        """The root of the container whose PID 1 is ``pid``; KernelError where it has ended."""
        try:
            tree = cls(users.root_of(pid), f"{name}:", IdMap.of(pid), IdMap.of(pid, "gid"))
        except OSError as error:
            how = f"is not running: {error.strerror}" if error.errno == errno.EAGAIN else "is gone"
            raise KernelError(f"container {name} {how}", errno=error.errno) from error
        tree.virtual = _virtual_devices(pid)
        return tree

    @classmethod
    def of_host(cls) -> Tree:
        """The host's own root."""
        tree = cls(os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC), "", None, None)
        tree.virtual = _virtual_devices(os.getpid())
        return tree

    def __enter__(self) -> Tree:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self.root)

    @property
    def is_host(self) -> bool:
        """Whether this is the host's root."""
        return self.user_ids is None

    def at(self, path: str, follow: bool) -> Source:
        """What is at a path, to be copied; ``follow``: also where the last part of it is a link."""
        return Source(self, path, follow)

    def shown(self, path: str) -> str:
        """The path as the user named it."""
        return f"{self.label}{path}"

    def open(self, path: str, flags: int) -> int:
        """Open a path, all links followed inside the root; OSError."""
        whole = os.path.join(os.getcwd(), path) if self.is_host else path
        return sc.openat2(self.root, whole or "/", flags, sc.RESOLVE_IN_ROOT | sc.RESOLVE_NO_MAGICLINKS)

    def owner(self, uid: int, gid: int) -> tuple[int, int]:
        """Ids of a container as chown(2) on the host wants them; -1 (unchanged) where there is none."""
        if self.user_ids is None or self.group_ids is None:
            return uid, gid
        outside = self.user_ids.outside(uid), self.group_ids.outside(gid)
        return (-1 if outside[0] is None else outside[0], -1 if outside[1] is None else outside[1])

    def inside(self, status: os.stat_result) -> tuple[int, int]:
        """The owner of a file as the container sees it."""
        if self.user_ids is None or self.group_ids is None:
            return status.st_uid, status.st_gid
        return self.user_ids.inside(status.st_uid), self.group_ids.inside(status.st_gid)


def _virtual_devices(pid: int) -> frozenset[int]:
    found: set[int] = set()
    with suppress(OSError):
        found = {mount.device for mount in mountinfo.of(f"/proc/{pid}") if mount.kind in _VIRTUAL}
    return frozenset(found)


@contextmanager
def _telling(what: str) -> Iterator[None]:
    """An OSError as the error of copying ``what``."""
    try:
        yield
    except OSError as error:
        hint = None
        if error.errno == errno.EROFS:
            hint = "it lies on a read-only mount"
        elif error.errno == errno.ELOOP:
            hint = "a link is in the way, and links are not followed there"
        elif error.errno == errno.EXDEV:
            hint = "a link leads out of it"
        reason = os.strerror(error.errno) if error.errno else str(error)
        raise KernelError(f"{what}: {reason}", errno=error.errno, hint=hint) from error


class Source:
    """What is to be copied."""

    def __init__(self, tree: Tree, path: str, follow: bool) -> None:
        self.tree, self.path = tree, path
        self.content_only = path == "." or path.endswith("/.") or not path.strip("/")
        """Of a directory: what is in it, not itself."""
        self._flags = os.O_PATH | os.O_CLOEXEC | (0 if follow or path.endswith("/") else os.O_NOFOLLOW)
        with _telling(tree.shown(path)):
            descriptor = tree.open(path, self._flags)
        try:
            self.is_directory = stat.S_ISDIR(os.fstat(descriptor).st_mode)
        finally:
            os.close(descriptor)
        if path.endswith("/") and not self.is_directory:
            raise UsageError(f"{tree.shown(path)} is not a directory")

    @property
    def name(self) -> str:
        """What it is called where it is copied to."""
        path = self.path
        if os.path.basename(path.rstrip("/")) in ("", ".", ".."):
            path = os.path.normpath(os.path.join(os.getcwd() if self.tree.is_host else "/", path))
        return os.path.basename(path.rstrip("/"))

    def entries(self, name: str, report: Report) -> Iterator[Entry]:
        """It and all below it, parents first, as ``name``; what was yielded before is then closed."""
        with _telling(self.tree.shown(self.path)):
            descriptor = self.tree.open(self.path, self._flags)
            yield from _Walk(self.tree, self.path, report).walk(descriptor, name, 0)


class _Walk:
    def __init__(self, tree: Tree, path: str, report: Report) -> None:
        self.tree, self.path, self.report = tree, path, report
        self._first: dict[tuple[int, int], str] = {}
        """Files of several names: the entry that had the first of them."""
        self._device: int | None = None

    def walk(self, descriptor: int, name: str, depth: int) -> Iterator[Entry]:
        """The entries of what an O_PATH descriptor holds; it is closed."""
        with ExitStack() as stack:
            stack.callback(os.close, descriptor)
            status = os.fstat(descriptor)
            self._device = status.st_dev if self._device is None else self._device
            entry = self._entry(descriptor, name, status)
            if entry is None:
                self.report.skipped.append(self.tree.shown(name or self.path))
                return
            if entry.content is not None:
                stack.callback(entry.content.close)
            yield entry
            if entry.kind == "directory" and (
                status.st_dev == self._device or status.st_dev not in self.tree.virtual
            ):
                yield from self._below(descriptor, name, depth)

    def _below(self, descriptor: int, name: str, depth: int) -> Iterator[Entry]:
        if depth >= _DEPTH:
            raise KernelError(
                f"{self.tree.shown(name)}: directories lie more than {_DEPTH} deep in each other"
            )
        directory = os.open(f"/proc/self/fd/{descriptor}", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            for child in sorted(os.listdir(directory)):
                try:
                    below = os.open(child, _PATH, dir_fd=directory)
                except FileNotFoundError:
                    continue  # it went meanwhile
                yield from self.walk(below, f"{name}/{child}" if name else child, depth + 1)
        finally:
            os.close(directory)

    def _entry(self, descriptor: int, name: str, status: os.stat_result) -> Entry | None:
        uid, gid = self.tree.inside(status)
        kind = _KINDS.get(stat.S_IFMT(status.st_mode))
        if kind is None:
            return None
        entry = Entry(name, kind, stat.S_IMODE(status.st_mode), uid, gid, status.st_mtime)
        if kind == "symlink":
            return replace(entry, target=os.readlink("", dir_fd=descriptor))
        if kind != "file":
            return entry
        first = self._first.setdefault((status.st_dev, status.st_ino), name) if status.st_nlink > 1 else name
        if first != name:
            return replace(entry, kind="hardlink", target=first)
        content = open(f"/proc/self/fd/{descriptor}", "rb", buffering=0)  # noqa: SIM115 - closed by walk
        if status.st_size == 0:
            return _odd(entry, content)
        return replace(entry, size=status.st_size, content=content)


_KINDS = {stat.S_IFDIR: "directory", stat.S_IFREG: "file", stat.S_IFLNK: "symlink", stat.S_IFIFO: "fifo"}


def _odd(entry: Entry, content: io.FileIO) -> Entry:
    """A file that says it is empty, with what it holds."""
    with content:
        data = bytearray()
        while len(data) < _ODD_SIZE and (chunk := content.read(_CHUNK)):
            data += chunk
    return replace(entry, size=len(data), content=io.BytesIO(data))


class Place:
    """A directory that entries are made in.

    On the host no link below it is followed; in a container links are, inside its root.
    """

    def __init__(self, tree: Tree, path: str, report: Report, keep_owner: bool) -> None:
        self.tree, self.path, self.report, self.keep_owner = tree, path, report, keep_owner
        with _telling(tree.shown(path)):
            self.directory = tree.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        self._parent: tuple[str, int] | None = None
        self._made: list[Entry] = []

    def __enter__(self) -> Place:
        return self

    def __exit__(self, *_: object) -> None:
        self._let_go()
        os.close(self.directory)

    def make(self, entry: Entry) -> None:
        """Make one entry; KernelError that names it."""
        if not entry.name:
            return  # the place itself
        with _telling(self.tree.shown(os.path.join(self.path, entry.name))):
            parent, base = self._open_parent(entry.name)
            makers: dict[str, Callable[[Entry, int, str], None]] = {
                "directory": self._directory,
                "file": self._file,
                "symlink": self._symlink,
                "hardlink": self._hardlink,
                "fifo": self._fifo,
            }
            makers[entry.kind](entry, parent, base)
        self.report.entries += 1

    def finish(self) -> None:
        """Give directories their modes and times, the innermost first: before, they had to be written to."""
        for entry in reversed(self._made):
            with _telling(self.tree.shown(os.path.join(self.path, entry.name))):
                parent, base = self._open_parent(entry.name)
                descriptor = os.open(
                    base, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent
                )
                try:
                    self._dress(descriptor, entry)
                finally:
                    os.close(descriptor)

    def _open_parent(self, name: str) -> tuple[int, str]:
        above, _, base = name.rpartition("/")
        if self._parent is None or self._parent[0] != above:
            descriptor = self._open_below(above)
            self._let_go()
            self._parent = above, descriptor
        return self._parent[1], base

    def _open_below(self, name: str) -> int:
        flags = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC
        if self.tree.is_host:
            return sc.openat2(self.directory, name or ".", flags, _BELOW)
        return self.tree.open(os.path.join(self.path, name), flags)

    def _let_go(self) -> None:
        if self._parent is not None:
            os.close(self._parent[1])
            self._parent = None

    def _directory(self, entry: Entry, parent: int, base: str) -> None:
        try:
            os.mkdir(base, 0o700, dir_fd=parent)
        except FileExistsError:
            try:
                os.close(self._open_below(entry.name))
            except NotADirectoryError:
                raise FileExistsError(errno.EEXIST, "not a directory") from None
            return  # keeps its owner and mode
        self._made.append(entry)

    def _file(self, entry: Entry, parent: int, base: str) -> None:
        flags = os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
        try:
            descriptor = os.open(base, flags | os.O_CREAT | os.O_EXCL, 0o600, dir_fd=parent)
        except FileExistsError:
            descriptor = self._open_existing(parent, base, flags)
        self.write(descriptor, entry)

    def _open_existing(self, parent: int, base: str, flags: int) -> int:
        """A plain file is written anew (it may be a mount); anything else makes room, but a directory."""
        there = os.stat(base, dir_fd=parent, follow_symlinks=False).st_mode
        if stat.S_ISREG(there):
            with suppress(OSError):  # a program that runs can't be written: then a new file takes its name
                return _plain(os.open(base, flags | os.O_TRUNC, dir_fd=parent))
        _make_room(parent, base)
        return os.open(base, flags | os.O_CREAT | os.O_EXCL, 0o600, dir_fd=parent)

    def write(self, descriptor: int, entry: Entry) -> None:
        """Fill a file that is open, dress it, close it."""
        try:
            while entry.content is not None and (chunk := entry.content.read(_CHUNK)):
                view = memoryview(chunk)
                while view:
                    view = view[os.write(descriptor, view) :]
                self.report.bytes += len(chunk)
            self._dress(descriptor, entry)
        finally:
            os.close(descriptor)

    def _symlink(self, entry: Entry, parent: int, base: str) -> None:
        _make_room(parent, base)
        os.symlink(entry.target, base, dir_fd=parent)
        ids.give(base, *self._owner(entry), dir_fd=parent)
        os.utime(base, (entry.modified, entry.modified), dir_fd=parent, follow_symlinks=False)

    def _hardlink(self, entry: Entry, parent: int, base: str) -> None:
        above, _, first = entry.target.rpartition("/")
        directory = self._open_below(above)
        try:
            if not stat.S_ISREG(os.stat(first, dir_fd=directory, follow_symlinks=False).st_mode):
                raise OSError(errno.EINVAL, "no plain file")
            _make_room(parent, base)
            os.link(first, base, src_dir_fd=directory, dst_dir_fd=parent, follow_symlinks=False)
        finally:
            os.close(directory)

    def _fifo(self, entry: Entry, parent: int, base: str) -> None:
        _make_room(parent, base)
        os.mkfifo(base, entry.mode & 0o777, dir_fd=parent)
        ids.give(base, *self._owner(entry), dir_fd=parent)

    def _owner(self, entry: Entry) -> tuple[int, int]:
        if self.keep_owner:
            return self.tree.owner(entry.uid, entry.gid)
        return (-1, -1) if self.tree.is_host else self.tree.owner(0, 0)

    def _dress(self, descriptor: int, entry: Entry) -> None:
        """Owner, mode, time.  What came out of a container gets no set-user-ID bit on the host."""
        ids.give(descriptor, *self._owner(entry))
        os.fchmod(descriptor, entry.mode & ~_SPECIAL_BITS if self.tree.is_host else entry.mode)
        os.utime(descriptor, (entry.modified, entry.modified))


def _plain(descriptor: int) -> int:
    if stat.S_ISREG(os.fstat(descriptor).st_mode):
        return descriptor
    os.close(descriptor)
    raise OSError(errno.EINVAL, "no plain file")


def _make_room(parent: int, base: str) -> None:
    """Remove what has the name already; IsADirectoryError for a directory."""
    with suppress(FileNotFoundError):
        os.unlink(base, dir_fd=parent)


# -- cp ------------------------------------------------------------------------------------------------


def copy(source: Source, tree: Tree, path: str, *, keep_owner: bool) -> Report:
    """Copy into ``tree`` at ``path``, by the rules of ``docker cp``.

    Into a directory that is there; else under that name.  A directory's content only, where the source ends
    with ``/.``.  Raises UsageError where the rules have no answer, KernelError.
    """
    report = Report()
    there = _status(tree, path)
    if there is not None and stat.S_ISDIR(there.st_mode):
        place, name = path, "" if source.is_directory and source.content_only else source.name
    elif there is not None and source.is_directory:
        raise UsageError(f"{tree.shown(path)} is there and is not a directory")
    elif there is None and path.endswith("/") and not source.is_directory:
        raise UsageError(f"there is no directory {tree.shown(path)}")
    else:
        above, name = os.path.split(path.rstrip("/").removesuffix("/."))
        place = above or ("." if tree.is_host else "/")
    with Place(tree, place, report, keep_owner) as made:
        for entry in source.entries(name, report):
            if there is not None and stat.S_ISREG(there.st_mode) and entry.kind == "file":
                _overwrite(made, tree, path, entry)
            else:
                made.make(entry)
        made.finish()
    return report


def _status(tree: Tree, path: str) -> os.stat_result | None:
    try:
        descriptor = tree.open(path, os.O_PATH | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    except NotADirectoryError:
        if path.endswith("/"):
            raise UsageError(f"{tree.shown(path)} is not a directory") from None
        raise UsageError(f"{tree.shown(os.path.dirname(path))} is not a directory") from None
    except OSError as error:
        with _telling(tree.shown(path)):
            raise error
    try:
        return os.fstat(descriptor)
    finally:
        os.close(descriptor)


def _overwrite(place: Place, tree: Tree, path: str, entry: Entry) -> None:
    """A file that the user named, perhaps by a link: what the link leads to is meant."""
    with _telling(tree.shown(path)):
        flags = os.O_WRONLY | os.O_TRUNC | os.O_NONBLOCK | os.O_CLOEXEC
        try:
            descriptor = _plain(tree.open(path, flags))
        except OSError as error:
            if error.errno != errno.ETXTBSY:
                raise
            place.make(entry)
            return
        place.write(descriptor, entry)
        place.report.entries += 1


# -- tar streams -----------------------------------------------------------------------------------------


def to_stream(source: Source, stream: BinaryIO) -> Report:
    """Write a tar stream of it, its own name in front (``.`` for a directory's content only)."""
    import tarfile

    report = Report()
    name = "." if source.is_directory and source.content_only else source.name
    with tarfile.open(fileobj=stream, mode="w|", format=tarfile.PAX_FORMAT) as archive:
        for entry in source.entries(name, report):
            archive.addfile(_member(entry), _Exactly(entry.content, entry.size) if entry.content else None)
            report.entries += 1
            report.bytes += entry.size
    return report


def _member(entry: Entry) -> tarfile.TarInfo:
    import tarfile

    types = {
        "directory": tarfile.DIRTYPE,
        "file": tarfile.REGTYPE,
        "symlink": tarfile.SYMTYPE,
        "hardlink": tarfile.LNKTYPE,
        "fifo": tarfile.FIFOTYPE,
    }
    member = tarfile.TarInfo(entry.name)
    member.type, member.mode, member.mtime = types[entry.kind], entry.mode, entry.modified
    member.uid, member.gid, member.size = entry.uid, entry.gid, entry.size
    member.linkname = entry.target
    return member


class _Exactly(io.RawIOBase):
    """A file of exactly the size that was told, though it may shrink or grow meanwhile."""

    def __init__(self, content: BinaryIO, size: int) -> None:
        self._content, self._left = content, size

    def readable(self) -> bool:
        """It is."""
        return True

    def read(self, size: int = -1) -> bytes:
        """At most ``size`` bytes; zeros where the file ended too early."""
        wanted = self._left if size < 0 else min(size, self._left)
        data = bytearray()
        while len(data) < wanted and (chunk := self._content.read(wanted - len(data))):
            data += chunk
        self._left -= wanted
        return bytes(data.ljust(wanted, b"\0"))


def from_stream(stream: BinaryIO, tree: Tree, path: str, *, keep_owner: bool) -> Report:
    """Unpack a tar stream (also gzip, bzip2, xz) into a directory that is there.

    Raises KernelError for what is no tar, and for names that lead out; devices are skipped.
    """
    import tarfile

    report = Report()
    there = _status(tree, path)
    if there is None or not stat.S_ISDIR(there.st_mode):
        raise UsageError(f"there is no directory {tree.shown(path)}", hint="a tar stream goes into one")
    with Place(tree, path, report, keep_owner) as place:
        try:
            with tarfile.open(fileobj=stream, mode="r|*") as archive:
                for member in archive:
                    _unpack(archive, member, place, report)
        except (tarfile.TarError, EOFError) as error:
            raise KernelError(f"stdin is not a whole tar stream: {error}") from error
        place.finish()
    return report


def _unpack(archive: tarfile.TarFile, member: tarfile.TarInfo, place: Place, report: Report) -> None:
    kinds = {
        "directory": member.isdir(),
        "file": member.isreg(),
        "symlink": member.issym(),
        "hardlink": member.islnk(),
        "fifo": member.isfifo(),
    }
    kind = next((kind for kind, fits in kinds.items() if fits), None)
    if kind is None:
        report.skipped.append(member.name)
        return
    target = _safe_name(member.linkname) if kind == "hardlink" else member.linkname
    name, mode = _safe_name(member.name), member.mode & 0o7777
    entry = Entry(name, kind, mode, member.uid, member.gid, float(member.mtime), member.size, target)
    content: Any = archive.extractfile(member) if kind == "file" else None
    place.make(replace(entry, content=content))


def _safe_name(name: str) -> str:
    """The name of an entry below the place; KernelError where it leads out."""
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if ".." in parts or "\0" in name:
        raise KernelError(f"the tar stream names {name!r}, which leads out of the directory")
    return "/".join(parts)
