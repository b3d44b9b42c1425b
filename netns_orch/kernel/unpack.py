"""Tar archives, from hands nobody knows, made into directories.

Owns: reading them (plain, gzip, bzip2, xz, zstd; told apart by their content), and writing what they hold.
Must not: make, follow or change anything outside the directory it is given, or know what that is for.

Every name is resolved below the directory's descriptor (openat2, RESOLVE_IN_ROOT), so a link in the archive
leads somewhere inside it.  Kept: modes with their setuid bits, numeric owners, times, hard links, device
nodes, ``security.capability`` and ``user.*``; other extended attributes mean something where they were
written, or would steer overlayfs, and are left out.  OCI whiteouts (image-spec, layer.md) become overlayfs's
own (kernel: filesystems/overlayfs).
"""

from __future__ import annotations

import errno
import gzip
import importlib
import os
import shutil
import stat
import subprocess
import tarfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import IO, Any, Protocol

from netns_orch.kernel import ids, realm
from netns_orch.kernel import syscalls as sc

WHITEOUT, OPAQUE, _BOOKKEEPING = ".wh.", ".wh..wh..opq", ".wh..wh."
"""A name it begins hides one below; this one hides all below its directory; others were aufs's own."""
_OPAQUE_ATTRIBUTES = ("trusted.overlay.opaque", "user.overlay.opaque")
"""The second in a realm, where overlays have ``userxattr``: trusted.* is the host's root's alone."""
ZSTD_HINT = "install zstd (`apt-get install zstd`)"
_CHUNK = 1 << 20
_LONGEST_HEADER = 4 << 20
"""Bytes; a header that claims to be longer would only fill the memory."""
_LAST_ID = 0xFFFF_FFFE
_DAMAGE = (tarfile.TarError, EOFError, zlib.error, gzip.BadGzipFile, RecursionError)
_INSIDE = sc.RESOLVE_IN_ROOT | sc.RESOLVE_NO_MAGICLINKS
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


class Refused(Exception):
    """The archive is damaged, or holds what has no place in a root; the text says what, and where in it."""

    def __init__(self, what: str, hint: str | None = None) -> None:
        super().__init__(what)
        self.what, self.hint = what, hint


class Stream(Protocol):
    """What is read of a file, or of what decompresses it."""

    def read(self, size: int, /) -> bytes: ...


def unpack(archive: str, into: int) -> None:
    """Unpack into the empty directory ``into`` (a descriptor).

    Raises Refused, or OSError where the archive can't be read or the disk is full; a part is then there.
    """
    before = os.umask(0o022)
    try:
        with _decompressed(archive) as stream:
            _Unpacker(_Forward(stream), into).run()
    except _DAMAGE as error:
        raise Refused(f"is no tar archive, or damaged ({error or type(error).__name__})") from error
    except OSError as error:
        if error.errno is not None:
            raise
        raise Refused(f"is damaged ({error})") from error  # bz2's word for it
    except ValueError as error:  # tarfile parses numbers of headers as they come
        raise Refused(f"is damaged ({error})") from error
    finally:
        os.umask(before)


# -- reading -------------------------------------------------------------------------------------


@contextmanager
def _decompressed(archive: str) -> Iterator[Stream]:
    with open(archive, "rb") as file:
        magic = file.read(6)
        file.seek(0)
        if magic.startswith(b"\x1f\x8b"):
            with gzip.GzipFile(fileobj=file) as unzipped:
                yield unzipped
        elif magic.startswith(b"BZh"):
            with _module("bz2").BZ2File(file) as bunzipped:
                yield bunzipped
        elif magic.startswith(b"\xfd7zXZ\0"):
            lzma = _module("lzma")
            try:
                with lzma.LZMAFile(file) as unxz:
                    yield unxz
            except lzma.LZMAError as error:
                raise Refused(f"is damaged ({error})") from error
        elif magic.startswith(b"\x28\xb5\x2f\xfd"):
            with _zstd(file) as pipe:
                yield pipe
        else:
            yield file


def _module(name: str) -> Any:
    """A module that a Python built where its library was missing lacks."""
    try:
        return importlib.import_module(name)
    except ImportError:
        hint = f"install the library that it takes (lib{name[:4]}), and build this Python again"
        raise Refused(f"is compressed, and this Python was built without its module {name}", hint) from None


def can_zstd() -> bool:
    """Whether this host can read zstd: by Python's own module (3.14), zstandard, or the program."""
    return _zstd_module() is not None or shutil.which("zstd") is not None


def _zstd_module() -> Any:
    for name in ("compression.zstd", "zstandard"):
        with suppress(ImportError):
            return importlib.import_module(name)
    return None


@contextmanager
def _zstd(file: IO[bytes]) -> Iterator[Stream]:
    module = _zstd_module()
    if module is not None:
        try:
            yield module.open(file, "rb")
        except module.ZstdError as error:
            raise Refused(f"is damaged ({error})") from error
        return
    program = shutil.which("zstd")
    os.lseek(file.fileno(), 0, os.SEEK_SET)  # the file object may only have moved in its buffer
    if program is None:
        raise Refused("is compressed by zstd, and this host has no program for it", ZSTD_HINT)
    process = subprocess.Popen([program, "-dcq"], stdin=file, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None and process.stderr is not None
    try:
        yield process.stdout
        process.stdout.read()  # what stands behind the end of the archive; zstd checks it
        said = process.stderr.read(4096).decode(errors="replace").strip()
        if process.wait() != 0:
            raise Refused(f"is damaged ({said})")
    finally:
        process.kill()
        process.stdout.close()
        process.stderr.close()
        process.wait()


class _Forward:
    """A stream as tarfile wants one, that only goes forward and reads no more at once than is sane."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._at = 0
        self.last = b""
        """What was read last: after the end, the block that ended it."""

    def read(self, size: int) -> bytes:
        if not 0 <= size <= _LONGEST_HEADER:
            raise Refused(f"is damaged (a header of {size} bytes)")
        pieces = []
        while size > 0 and (piece := self._stream.read(size)):
            pieces.append(piece)
            size -= len(piece)
        self.last = b"".join(pieces)
        self._at += len(self.last)
        return self.last

    def tell(self) -> int:
        return self._at

    def seek(self, position: int) -> int:
        if position < self._at:
            raise Refused("is damaged (a header points back)")
        while self._at < position:
            if not self.read(min(_CHUNK, position - self._at)):
                raise Refused("ends too early")
        return self._at


# -- writing -------------------------------------------------------------------------------------


class _Unpacker:
    def __init__(self, stream: _Forward, into: int) -> None:
        self._stream = stream
        self._into = into
        self._times: list[tuple[list[str], int]] = []
        self._near: tuple[list[str], int] | None = None
        """The directory that the last member went into, and its descriptor."""

    def run(self) -> None:
        """All members, in order; times of directories last, since each new entry changes them."""
        with tarfile.TarFile(
            fileobj=self._stream,  # type: ignore[arg-type]
            encoding="utf-8",
            errors="surrogateescape",
        ) as archive:
            try:
                while (member := archive.next()) is not None:
                    self._add(archive, member)
                    archive.members.clear()  # type: ignore[attr-defined] # else all stay in memory
            finally:
                self._forget_near()
        if self._stream.last.strip(b"\0"):
            raise Refused("is damaged: no header stands where one should")
        for parts, when in reversed(self._times):
            self._set_time(parts, when)

    def _add(self, archive: tarfile.TarFile, member: tarfile.TarInfo) -> None:
        try:
            self._member(archive, member)
        except OSError as error:
            if error.errno is None or isinstance(error, _DAMAGE):
                raise
            raise OSError(error.errno, f"{member.name}: {os.strerror(error.errno)}") from None
        except (OverflowError, ValueError) as error:
            raise Refused(f"member {member.name!r}: {error}") from error

    def _member(self, archive: tarfile.TarFile, member: tarfile.TarInfo) -> None:
        parts = _parts(member.name, member.name)
        if not (0 <= member.uid <= _LAST_ID and 0 <= member.gid <= _LAST_ID):
            raise Refused(f"member {member.name!r}: owner {member.uid}:{member.gid} is out of range")
        if not parts:
            if member.isdir():
                self._finish(os.dup(self._into), parts, member)
            return
        parent, name = self._directory(parts[:-1]), parts[-1]
        if name.startswith(WHITEOUT):
            _hide(parent, name)
        elif member.isdir():
            self._finish(self._make_directory(parent, name), parts, member)
        elif member.isreg():
            self._finish(self._write(archive, member, parent, name), None, member)
        elif member.islnk():
            self._hard_link(member, parent, name)
        else:
            self._special(member, parent, name)

    # -- directories -----------------------------------------------------------------------------

    def _directory(self, parts: list[str]) -> int:
        """The directory of these names, made where it is missing; links are followed, inside."""
        if self._near is not None and self._near[0] == parts:
            return self._near[1]
        self._forget_near()
        try:
            found = self._open(parts)
        except (FileNotFoundError, NotADirectoryError):
            found = self._make_all(parts)
        self._near = (parts, found)
        return found

    def _open(self, parts: list[str]) -> int:
        flags = os.O_RDONLY | os.O_DIRECTORY
        return sc.openat2(self._into, "/".join(parts) or ".", flags, _INSIDE)

    def _make_all(self, parts: list[str]) -> int:
        inner = os.dup(self._into)
        for count, name in enumerate(parts, 1):
            try:
                found = self._open(parts[:count])
            except FileNotFoundError:
                os.mkdir(name, 0o755, dir_fd=inner)  # a link to nowhere: it exists
                found = self._open(parts[:count])
            except NotADirectoryError:
                if not _is_whiteout(inner, name):
                    raise
                found = self._make_directory(inner, name)
            finally:
                os.close(inner)
            inner = found
        return inner

    def _forget_near(self) -> None:
        if self._near is not None:
            os.close(self._near[1])
            self._near = None

    def _make_directory(self, parent: int, name: str) -> int:
        """A directory that is there already stays; in place of a whiteout it shows nothing from below."""
        opaque = False
        try:
            os.mkdir(name, 0o755, dir_fd=parent)
        except FileExistsError:
            if not stat.S_ISDIR(os.lstat(name, dir_fd=parent).st_mode):
                opaque = _is_whiteout(parent, name)
                os.unlink(name, dir_fd=parent)
                os.mkdir(name, 0o755, dir_fd=parent)
        found = os.open(name, _DIRECTORY, dir_fd=parent)
        if opaque:
            make_opaque(found)
        return found

    # -- what is no directory --------------------------------------------------------------------

    def _make_room(self, parent: int, name: str) -> None:
        """What an earlier member of the same name made goes."""
        try:
            os.unlink(name, dir_fd=parent)
        except FileNotFoundError:
            return
        except IsADirectoryError:
            shutil.rmtree(name, dir_fd=parent)

    def _write(self, archive: tarfile.TarFile, member: tarfile.TarInfo, parent: int, name: str) -> int:
        self._make_room(parent, name)
        descriptor = os.open(name, _NEW_FILE, 0o600, dir_fd=parent)
        try:
            for data in self._data(archive, member):
                view = memoryview(data)
                while view:
                    view = view[os.write(descriptor, view) :]
        except BaseException:
            os.close(descriptor)
            raise
        return descriptor

    def _data(self, archive: tarfile.TarFile, member: tarfile.TarInfo) -> Iterator[bytes]:
        if member.issparse():
            source = archive.extractfile(member)
            while source is not None and (data := source.read(_CHUNK)):
                yield data
            return
        self._stream.seek(member.offset_data)
        left = member.size
        while left > 0:
            data = self._stream.read(min(_CHUNK, left))
            if not data:
                raise Refused(f"ends in the middle of member {member.name!r}")
            left -= len(data)
            yield data

    def _hard_link(self, member: tarfile.TarInfo, parent: int, name: str) -> None:
        target = _parts(member.linkname, member.name)
        if not target:
            raise Refused(f"member {member.name!r}: a hard link to nothing")
        try:
            source = self._open(target[:-1])
        except OSError as error:
            raise Refused(f"member {member.name!r}: no {member.linkname!r} is here to link to") from error
        try:
            if _same_place(source, target[-1], parent, name):
                return
            self._make_room(parent, name)
            os.link(target[-1], name, src_dir_fd=source, dst_dir_fd=parent, follow_symlinks=False)
        except FileNotFoundError as error:
            raise Refused(f"member {member.name!r}: no {member.linkname!r} is here to link to") from error
        finally:
            os.close(source)

    def _special(self, member: tarfile.TarInfo, parent: int, name: str) -> None:
        self._make_room(parent, name)
        if member.issym():
            os.symlink(member.linkname, name, dir_fd=parent)
        elif member.isfifo():
            os.mkfifo(name, 0o600, dir_fd=parent)
        elif member.ischr() or member.isblk():
            kind = stat.S_IFCHR if member.ischr() else stat.S_IFBLK
            number = os.makedev(member.devmajor, member.devminor)
            try:
                os.mknod(name, kind | 0o600, number, dir_fd=parent)
            except PermissionError:
                return  # an ordinary user can make none, and what is in an image is of no use in a container
        else:
            raise Refused(f"member {member.name!r} is of a kind that is not known ({member.type!r})")
        ids.give(name, member.uid, member.gid, dir_fd=parent)
        if not member.issym():
            os.chmod(name, stat.S_IMODE(member.mode), dir_fd=parent)  # made just now: no link
        when = _nanoseconds(member)
        os.utime(name, ns=(when, when), dir_fd=parent, follow_symlinks=False)

    # -- attributes ------------------------------------------------------------------------------

    def _finish(self, descriptor: int, parts: list[str] | None, member: tarfile.TarInfo) -> None:
        """Owner, mode, extended attributes and time, in the order in which none undoes another."""
        when = _nanoseconds(member)
        try:
            ids.give(descriptor, member.uid, member.gid)
            os.fchmod(descriptor, stat.S_IMODE(member.mode))
            for name, value in _extended(member):
                _set_attribute(descriptor, name, value)
            os.utime(descriptor, ns=(when, when))
        finally:
            os.close(descriptor)
        if parts is not None:
            self._times.append((parts, when))

    def _set_time(self, parts: list[str], when: int) -> None:
        try:
            found = self._open(parts)
        except OSError:
            return  # a later member took its place
        os.utime(found, ns=(when, when))
        os.close(found)


def _parts(path: str, member: str) -> list[str]:
    """The names of a path; one that is absolute begins at the archive's own root."""
    parts = [part for part in path.split("/") if part not in ("", ".")]
    if ".." in parts:
        raise Refused(f"member {member!r}: the path {path!r} leads out of the archive by '..'")
    return parts


def _same_place(parent: int, name: str, other: int, other_name: str) -> bool:
    """Whether two names are one: a link of a file to itself must not remove it."""
    here, there = os.fstat(parent), os.fstat(other)
    return name == other_name and (here.st_dev, here.st_ino) == (there.st_dev, there.st_ino)


def _nanoseconds(member: tarfile.TarInfo) -> int:
    return int(member.mtime * 1_000_000_000)


def _extended(member: tarfile.TarInfo) -> Iterator[tuple[str, bytes]]:
    """Those to keep of the archive's extended attributes (star and GNU tar write them so)."""
    for key, value in member.pax_headers.items():
        name = key.removeprefix("SCHILY.xattr.")
        if name != key and (name == "security.capability" or name.startswith("user.")):
            yield name, value.encode("utf-8", "surrogateescape")


def _set_attribute(descriptor: int, name: str, value: bytes) -> None:
    try:
        os.setxattr(descriptor, name, value)
    except OSError as error:
        if not name.startswith("user.") or error.errno not in (errno.EOPNOTSUPP, errno.EPERM):
            raise  # a tmpfs of old has no user attributes


# -- whiteouts -----------------------------------------------------------------------------------


def _is_whiteout(parent: int, name: str) -> bool:
    found = os.lstat(name, dir_fd=parent)
    return stat.S_ISCHR(found.st_mode) and found.st_rdev == 0


def _hide(parent: int, name: str) -> None:
    if name == OPAQUE:
        make_opaque(parent)
    elif hidden := hidden_by(name):
        make_whiteout(parent, hidden)


def hidden_by(name: str) -> str | None:
    """The name that a marker file hides; None for what aufs kept for itself."""
    hidden = name.removeprefix(WHITEOUT)
    if hidden in ("", ".", ".."):
        raise Refused(f"holds a whiteout of nothing ({name!r})")
    return None if name.startswith(_BOOKKEEPING) else hidden


def opaque_attribute() -> str:
    """The extended attribute that says of a directory that nothing of the layers below is seen in it."""
    return _OPAQUE_ATTRIBUTES[realm.inside() is not None]


def make_opaque(directory: int | str) -> None:
    """Hide all that the layers below have in a directory."""
    os.setxattr(directory, opaque_attribute(), b"y")


def make_whiteout(parent: int, name: str) -> None:
    """Hide ``name`` of the layers below; what this layer has of that name stays."""
    try:
        os.mknod(name, stat.S_IFCHR, 0, dir_fd=parent)
    except FileExistsError:
        if stat.S_ISDIR(os.lstat(name, dir_fd=parent).st_mode):
            found = os.open(name, _DIRECTORY, dir_fd=parent)
            make_opaque(found)
            os.close(found)
