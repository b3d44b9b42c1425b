"""The run directory: the lab's files below /run/netorch, its lock, and how files are replaced whole.

Owns: where things lie, who holds a lab, atomic writes.  Must not: know what the files mean.

``exec`` imports this room, so it imports next to nothing.  The directory is in /run, which does not outlive
a boot; labs of different host namespaces are told apart by the namespace's cookie (SO_NETNS_COOKIE,
socket(7)).
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import socket
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from itertools import count
from typing import Any

from netns_orch.errors import KernelError, LockHeld, PermissionNeeded
from netns_orch.kernel import userdir

RUN = userdir.RUN
NETNS = "/run/netns"
HOST_FILES = "host."
"""How the names of files begin that labs share, below ``RUN``."""
_NETNS_MARK = "trusted.netorch"
_SO_NETNS_COOKIE = 71
_LOCK_POLL = 0.02
_LOCK_TRANSIENT = 1.0
"""For how many seconds at most somebody holds a lock and does not say who."""


def host_id() -> str:
    """The id of the network namespace this process is in: its cookie, in hex."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as probe:
        raw = probe.getsockopt(socket.SOL_SOCKET, _SO_NETNS_COOKIE, 8)
    return f"{int.from_bytes(raw, 'little'):x}"


@cache
def boot_id() -> str:
    """The kernel's id of this boot (random(4))."""
    with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
        return file.read().strip()


class LabDirectory:
    """``/run/netorch/<lab>.<id>``: made by the first lock, removed by the last word of ``down``."""

    def __init__(self, name: str, id: str) -> None:
        self.name = name
        self.id = id
        self.path = f"{userdir.run_of(name)}/{name}.{id}"

    def container(self, name: str) -> str:
        """The directory of one container's files."""
        return f"{self.path}/c/{name}"

    def exists(self) -> bool:
        """Whether the lab has a directory at all."""
        return os.path.isdir(self.path)

    def make_container(self, name: str) -> str:
        """The directory of one container, made where it is missing."""
        path = self.container(name)
        make_directories(path)
        return path

    def make_volume(self, name: str) -> str:
        """The directory of a named volume, made where it is missing; it lives as long as the lab."""
        path = f"{self.path}/volumes/{name}"
        if not os.path.isdir(path):
            make_directories(path)
            os.chmod(path, 0o755)
        return path

    def remove_container(self, name: str) -> None:
        """Remove the files of one container."""
        remove_tree(self.container(name))

    def has(self, file: str) -> bool:
        """Whether one file is there."""
        return os.path.exists(f"{self.path}/{file}")

    def read_json(self, file: str) -> Any:
        """The content of one file; None where it is missing or torn."""
        try:
            with open(f"{self.path}/{file}", encoding="utf-8") as stream:
                return json.load(stream)
        except (FileNotFoundError, NotADirectoryError, ValueError):
            return None

    def write(self, file: str, text: str) -> None:
        """Replace one file whole: a reader sees the old or the new text, never half of one."""
        replace_file(f"{self.path}/{file}", text)

    def append(self, file: str, text: str) -> None:
        """Add to one file with a single write, so that a kill leaves whole lines but for the last."""
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
        try:
            fd = os.open(f"{self.path}/{file}", flags, 0o600)
            try:
                os.write(fd, text.encode())
            finally:
                os.close(fd)
        except OSError as error:
            raise KernelError(f"{self.path}/{file}: {error.strerror}", errno=error.errno) from error

    def lines(self, file: str) -> list[str]:
        """The whole lines of one file; a torn last one is left out."""
        try:
            with open(f"{self.path}/{file}", encoding="utf-8") as stream:
                return [line for line in stream if line.endswith("\n")]
        except FileNotFoundError:
            return []

    def unlink(self, file: str) -> None:
        """Remove one file, where it is there."""
        with suppress(FileNotFoundError):
            os.unlink(f"{self.path}/{file}")

    def is_held(self) -> bool:
        """Whether a process works on the lab now; it is not disturbed."""
        try:
            fd = os.open(f"{self.path}/lock", os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except OSError:
            return False
        try:
            fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(fd)
        return False

    def clear(self) -> None:
        """Remove all that is in it but the lock, which the caller holds."""
        for entry in list(os.scandir(self.path)):
            if entry.is_dir(follow_symlinks=False):
                remove_tree(entry.path)
            elif entry.name != "lock":
                os.unlink(entry.path)

    @contextmanager
    def locked(self, doing: str, wait: float | None = None) -> Iterator[int]:
        """Hold the lab's lock; yields its descriptor, for children that must hold it too.

        ``wait`` is for how many seconds; LockHeld then says who holds it, since when, doing what.
        """
        fd = self._acquire(wait)
        holder = {"pid": os.getpid(), "since": time.time(), "doing": doing}
        os.ftruncate(fd, 0)
        os.pwrite(fd, json.dumps(holder).encode(), 0)
        try:
            yield fd
        finally:
            with suppress(OSError):
                os.ftruncate(fd, 0)
            os.close(fd)

    def _acquire(self, wait: float | None) -> int:
        begun = time.monotonic()
        deadline = begun + (wait or 0)
        while True:
            fd = self._open_lock()
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                holder = _read_holder(fd)
                os.close(fd)
                # Nobody's name: it is being taken, given back or only looked at just now.
                patience = deadline if holder else max(deadline, begun + _LOCK_TRANSIENT)
                if time.monotonic() >= patience:
                    raise _lock_held(self.name, holder) from None
                time.sleep(_LOCK_POLL)
                continue
            if same_file(fd, f"{self.path}/lock"):  # else a `down` has removed it in between
                return fd
            os.close(fd)

    def _open_lock(self) -> int:
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        with _run_directory_held():
            try:
                os.makedirs(self.path, mode=0o700, exist_ok=True)
                return os.open(f"{self.path}/lock", flags, 0o600)
            except OSError as error:
                with suppress(OSError):  # what was just made and is empty
                    os.rmdir(self.path)
                _remove_shared_if_unused()
                raise KernelError(f"{self.path}: {error.strerror}", errno=error.errno) from error

    def remove(self) -> None:
        """Remove the lab's directory; with the last lab all that labs shared, and the parent."""
        with _run_directory_held():
            remove_tree(self.path)
            _remove_shared_if_unused()


def make_netns_directory() -> None:
    """Make /run/netns where nobody has yet, and remember that it is ours to remove (ip-netns(8)).

    At no instant it is there without a sign of whose it is: until it bears the mark, /run/netorch does.
    """
    with _run_directory_held():
        if not _is_marked(RUN) and not os.path.lexists(NETNS):
            with suppress(OSError):  # a /run without extended attributes keeps an empty directory
                os.setxattr(RUN, _NETNS_MARK, b"makes " + NETNS.encode())
        try:
            os.mkdir(NETNS, 0o755)
        except FileExistsError:
            refuse_others(NETNS)
            if not _is_marked(RUN) or os.listdir(NETNS):
                return
        os.chmod(NETNS, 0o755)
        with suppress(OSError):
            os.setxattr(NETNS, _NETNS_MARK, b"made by netorch")
            os.removexattr(RUN, _NETNS_MARK)


def _is_marked(directory: str) -> bool:
    try:
        os.getxattr(directory, _NETNS_MARK)
    except OSError:
        return False
    return True


@contextmanager
def _run_directory_held() -> Iterator[None]:
    """Hold /run/netorch, made where it is missing, while an entry of it is made or the last one goes."""
    while True:
        try:
            os.makedirs(RUN, mode=0o700, exist_ok=True)
            refuse_others(RUN)
            fd = os.open(RUN, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except FileNotFoundError:
            continue  # the last lab's `down` removed it in between
        except PermissionError as error:
            raise PermissionNeeded(f"may not write in {RUN}: {error.strerror}") from error
        except OSError as error:
            raise KernelError(f"{RUN}: {error.strerror}", errno=error.errno) from error
        fcntl.flock(fd, fcntl.LOCK_EX)
        if same_file(fd, RUN):
            break
        os.close(fd)
    try:
        yield
    finally:
        os.close(fd)


def remove_shared() -> None:
    """Remove /run/netorch, and /run/netns if netorch made it, where no lab is left in them."""
    with _run_directory_held():
        _remove_shared_if_unused()


def is_ours_and_empty(directory: str) -> bool:
    """Whether a directory is there that netorch made, or was just making, and nothing in it."""
    try:
        return (_is_marked(directory) or (directory == NETNS and _is_marked(RUN))) and not os.listdir(
            directory
        )
    except OSError:
        return False


def netns_links() -> list[tuple[str, str]]:
    """The names in /run/netns that point into directories of labs: (name, target)."""
    found = []
    with suppress(OSError):
        for name in sorted(os.listdir(NETNS)):
            with suppress(OSError):
                target = os.readlink(f"{NETNS}/{name}")
                if target.startswith(f"{RUN}/"):
                    found.append((name, target))
    return found


def is_unused() -> bool:
    """Whether no lab of any host namespace has a directory."""
    try:
        return not any(entry.is_dir(follow_symlinks=False) for entry in os.scandir(RUN))
    except OSError:
        return True


def _remove_shared_if_unused() -> None:
    if not is_unused():
        return
    if is_ours_and_empty(NETNS):
        os.rmdir(NETNS)
    for entry in os.listdir(RUN):
        if entry.startswith(HOST_FILES):
            os.unlink(f"{RUN}/{entry}")
    with suppress(OSError):  # somebody keeps a file of theirs there
        os.rmdir(RUN)


def same_file(fd: int, path: str) -> bool:
    """Whether a descriptor is of what is at the path now."""
    try:
        there = os.stat(path, follow_symlinks=False)
    except FileNotFoundError:
        return False
    here = os.fstat(fd)
    return (there.st_dev, there.st_ino) == (here.st_dev, here.st_ino)


def refuse_others(directory: str) -> None:
    """KernelError where a directory is there that somebody else made, can change, or leads elsewhere.

    /run is root's on every distribution; where it is not, who came first must not choose what root reads.
    """
    try:
        found = os.stat(directory, follow_symlinks=False)
    except FileNotFoundError:
        return
    if stat.S_ISLNK(found.st_mode):
        what = "is a symbolic link"
    elif not stat.S_ISDIR(found.st_mode):
        what = "is no directory"
    elif found.st_uid not in (0, os.geteuid()):
        what = f"is not root's, but user {found.st_uid}'s"
    elif found.st_mode & 0o022:
        what = f"can be written by others (mode {stat.S_IMODE(found.st_mode):04o})"
    else:
        return
    raise KernelError(
        f"{directory} {what}: netorch does not use it", hint="look at what is there, and remove it"
    )


def make_directories(path: str) -> None:
    """Make a directory and those above it that are missing, for root alone, whatever the umask is."""
    if not os.path.isdir(path):
        make_directories(os.path.dirname(path))
        with suppress(FileExistsError):
            os.mkdir(path, 0o700)


def replace_file(path: str, content: str | bytes) -> None:
    """Write a temporary file beside ``path`` and rename it over: atomic for every reader."""
    temporary = f"{path}.{os.urandom(8).hex()}.new"
    raw = content if isinstance(content, bytes) else content.encode("utf-8", "surrogatepass")
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
    try:
        with open(os.open(temporary, flags, 0o600), "wb") as stream:
            stream.write(raw)
        os.replace(temporary, path)
    except OSError as error:
        with suppress(OSError):
            os.unlink(temporary)
        full = error.errno in (errno.ENOSPC, errno.EDQUOT) and path.startswith("/run/")
        hint = "/run is full: make room there, or   mount -o remount,size=256m /run" if full else None
        raise KernelError(f"{path}: {error.strerror}", errno=error.errno, hint=hint) from error


def lab_directories(id: str | None = None) -> list[LabDirectory]:
    """The labs that have a directory, by name; of one host namespace where ``id`` is given.

    An ordinary user's labs are each in a host namespace of their own: for him ``id`` tells nothing.
    """
    if userdir.is_ordinary():
        id = None
    else:
        refuse_others(RUN)
    found = []
    for run in userdir.runs():
        with suppress(FileNotFoundError, PermissionError):
            for entry in sorted(os.listdir(run)):
                name, dot, lab_id = entry.rpartition(".")
                if dot and id in (None, lab_id) and os.path.isdir(f"{run}/{entry}") and name != "host":
                    found.append(LabDirectory(name, lab_id))
    return found


def process_start_time(pid: int) -> int | None:
    """Start time in clock ticks since boot (proc_pid_stat(5), field 22); None: no such process, or dead.

    One that has ended and is not reaped yet has lost its namespaces: to us it is gone.
    """
    try:
        with open(f"/proc/{pid}/stat", "rb") as stream:
            fields = stream.read().rpartition(b")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if fields[0] in (b"Z", b"X") else int(fields[19])


def _read_holder(fd: int) -> dict[str, Any]:
    try:
        return dict(json.loads(os.pread(fd, 4096, 0)))
    except ValueError:
        return {}


def _lock_held(name: str, holder: dict[str, Any]) -> LockHeld:
    what = f"lab {name} is being worked on"
    if holder:
        since = max(0.0, time.time() - holder["since"])
        what += f" by process {holder['pid']} ({holder['doing']}, for {since:.1f} s)"
    return LockHeld(what, hint="wait for it to end, or give --wait SECONDS")


def remove_tree(path: str) -> None:
    """Remove a directory with all below it; one that is gone already is fine.

    Directories deeper inside are first moved up into ``path``: a tree that a container made, or an archive,
    may be deeper than any path can say (PATH_MAX) and than a recursion can go.
    """
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        top = os.open(path, flags)
    except FileNotFoundError:
        return
    token = os.urandom(8).hex()
    try:
        names = (f".gone.{token}.{number}" for number in count())
        left = _unlink_files(top, top, names)
        while left:
            found = os.open(name := left.pop(), flags, dir_fd=top)
            try:
                left += _unlink_files(found, top, names)
            finally:
                os.close(found)
            os.rmdir(name, dir_fd=top)
        os.rmdir(path)
    except OSError as error:
        raise KernelError(f"{path}: {error.strerror}", errno=error.errno) from error
    finally:
        os.close(top)


def _unlink_files(directory: int, top: int, names: Iterator[str]) -> list[str]:
    """Remove the files of a directory; move its directories into ``top``.  Their names there."""
    moved = []
    for entry in list(os.scandir(directory)):
        if entry.is_dir(follow_symlinks=False):
            moved.append(next(names))
            os.rename(entry.name, moved[-1], src_dir_fd=directory, dst_dir_fd=top)
        else:
            with suppress(FileNotFoundError):
                os.unlink(entry.name, dir_fd=directory)
    return moved
