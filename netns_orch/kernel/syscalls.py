"""System calls that Python 3.11 has no word for, each raising OSError.

Owns: their numbers (x86_64, aarch64), their structures and flags.
Must not: decide anything, or import more than ctypes and os: the process that forks containers, and PID 1
of each, carry this module.

Names, arguments and flags are those of section 2 of the manual pages (fsopen(2) and its relatives: kernel
sources, include/uapi/linux/mount.h).
"""

from __future__ import annotations

import ctypes
import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

CLONE_NEWTIME = 0x00000080
CLONE_NEWNS = 0x00020000
CLONE_NEWCGROUP = 0x02000000
CLONE_NEWUTS = 0x04000000
CLONE_NEWIPC = 0x08000000
CLONE_NEWUSER = 0x10000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000
CLONE_PIDFD = 0x00001000
CLONE_PARENT = 0x00008000
CLONE_INTO_CGROUP = 0x200000000

MS_RDONLY = 1
MS_NOSUID = 2
MS_NODEV = 4
MS_NOEXEC = 8
MS_REMOUNT = 32
MS_BIND = 4096
MS_MOVE = 8192
MS_REC = 16384
MS_PRIVATE = 1 << 18
MS_SLAVE = 1 << 19
MNT_DETACH = 2

MOUNT_ATTR_RDONLY = 0x01
MOUNT_ATTR_NOSUID = 0x02
MOUNT_ATTR_NODEV = 0x04
MOUNT_ATTR_NOEXEC = 0x08
MOUNT_ATTR_STRICTATIME = 0x20
MOUNT_ATTR_IDMAP = 0x00100000

AT_FDCWD = -100
AT_EMPTY_PATH = 0x1000
AT_RECURSIVE = 0x8000
OPEN_TREE_CLONE = 1
OPEN_TREE_CLOEXEC = os.O_CLOEXEC
MOVE_MOUNT_F_EMPTY_PATH = 0x04
MOVE_MOUNT_T_EMPTY_PATH = 0x40
FSOPEN_CLOEXEC = 1
FSMOUNT_CLOEXEC = 1
FSCONFIG_SET_FLAG = 0
FSCONFIG_SET_STRING = 1
FSCONFIG_CMD_CREATE = 6

CLOSE_RANGE_CLOEXEC = 4

RESOLVE_NO_XDEV = 0x01
RESOLVE_NO_MAGICLINKS = 0x02
RESOLVE_NO_SYMLINKS = 0x04
RESOLVE_BENEATH = 0x08
RESOLVE_IN_ROOT = 0x10

NS_GET_USERNS = 0xB701
"""ioctl_ns(2): the user namespace that owns a namespace."""

_FALLOC_FL_KEEP_SIZE = 1
_FALLOC_FL_PUNCH_HOLE = 2

PR_SET_PDEATHSIG = 1
PR_SET_DUMPABLE = 4
PR_SET_KEEPCAPS = 8
PR_SET_NAME = 15
PR_CAPBSET_READ = 23
PR_CAPBSET_DROP = 24
PR_SET_CHILD_SUBREAPER = 36
PR_SET_NO_NEW_PRIVS = 38
PR_CAP_AMBIENT = 47
PR_CAP_AMBIENT_CLEAR_ALL = 4

SECCOMP_SET_MODE_FILTER = 1

_X86_64 = {
    "fallocate": 285,
    "syncfs": 306,
    "mount": 165,
    "umount2": 166,
    "pivot_root": 155,
    "prctl": 157,
    "sethostname": 170,
    "setdomainname": 171,
    "capget": 125,
    "capset": 126,
    "keyctl": 250,
    "unshare": 272,
    "setns": 308,
    "setfsuid": 122,
    "setfsgid": 123,
    "seccomp": 317,
}
_AARCH64 = {
    "fallocate": 47,
    "syncfs": 267,
    "mount": 40,
    "umount2": 39,
    "pivot_root": 41,
    "prctl": 167,
    "sethostname": 161,
    "setdomainname": 162,
    "capget": 90,
    "capset": 91,
    "keyctl": 219,
    "unshare": 97,
    "setns": 268,
    "setfsuid": 151,
    "setfsgid": 152,
    "seccomp": 277,
}
_EVERYWHERE = {
    "pidfd_send_signal": 424,
    "open_tree": 428,
    "move_mount": 429,
    "fsopen": 430,
    "fsconfig": 431,
    "fsmount": 432,
    "pidfd_open": 434,
    "clone3": 435,
    "close_range": 436,
    "openat2": 437,
    "mount_setattr": 442,
}
_MACHINES = {"x86_64": _X86_64, "aarch64": _AARCH64}
NUMBERS = _EVERYWHERE | _MACHINES.get(os.uname().machine, {})
"""Name to number on this machine."""

_libc = ctypes.CDLL(None, use_errno=True)
# clone3 must not give the interpreter lock away: nobody could hand it back in the child.
_held = ctypes.PyDLL(None, use_errno=True)
_INT, _TEXT, _POINTER = ctypes.c_long, ctypes.c_char_p, ctypes.c_void_p


_call: Callable[..., int] = _held["syscall"]
_call.restype = _INT  # type: ignore[attr-defined]


def _bind(name: str, *types: type) -> Callable[..., int]:
    """A function for one system call, with its argument types fixed once; raises OSError."""
    function = _libc["syscall"]
    function.argtypes = (_INT, *types)
    function.restype = _INT
    number = NUMBERS.get(name, -1)

    def call(*arguments: object) -> int:
        result: int = function(number, *arguments)
        return result if result >= 0 else _raise(name)

    return call


def _raise(name: str) -> int:
    number = ctypes.get_errno()
    raise OSError(number, f"{name}: {os.strerror(number)}")


class _CloneArgs(ctypes.Structure):
    _fields_ = [
        (name, ctypes.c_uint64)
        for name in (
            "flags",
            "pidfd",
            "child_tid",
            "parent_tid",
            "exit_signal",
            "stack",
            "stack_size",
            "tls",
            "set_tid",
            "set_tid_size",
            "cgroup",
        )
    ]


class _OpenHow(ctypes.Structure):
    _fields_ = [("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64)]


class _MountAttr(ctypes.Structure):
    _fields_ = [
        ("attr_set", ctypes.c_uint64),
        ("attr_clr", ctypes.c_uint64),
        ("propagation", ctypes.c_uint64),
        ("userns_fd", ctypes.c_uint64),
    ]


class _CapHeader(ctypes.Structure):
    _fields_ = [("version", ctypes.c_uint32), ("pid", ctypes.c_int)]


class _CapData(ctypes.Structure):
    _fields_ = [(name, ctypes.c_uint32) for name in ("effective", "permitted", "inheritable")]


class _SockFprog(ctypes.Structure):
    _fields_ = [("len", ctypes.c_ushort), ("filter", ctypes.c_char_p)]


_setns = _bind("setns", _INT, _INT)
_unshare = _bind("unshare", _INT)
_pidfd_open = _bind("pidfd_open", _INT, _INT)
_pidfd_send_signal = _bind("pidfd_send_signal", _INT, _INT, _POINTER, _INT)
_prctl = _bind("prctl", _INT, _INT, _INT, _INT, _INT)
_prctl_text = _bind("prctl", _INT, _TEXT, _INT, _INT, _INT)
_setfsuid = _bind("setfsuid", _INT)
_setfsgid = _bind("setfsgid", _INT)
_close_range = _bind("close_range", _INT, _INT, _INT)
_sethostname = _bind("sethostname", _TEXT, _INT)
_capget = _bind("capget", _POINTER, _POINTER)
_seccomp = _bind("seccomp", _INT, _INT, _POINTER)
_fallocate = _bind("fallocate", _INT, _INT, _INT, _INT)
_syncfs = _bind("syncfs", _INT)
_openat2 = _bind("openat2", _INT, _TEXT, _POINTER, _INT)
_mount = _bind("mount", _TEXT, _TEXT, _TEXT, _INT, _TEXT)
_umount2 = _bind("umount2", _TEXT, _INT)
_pivot_root = _bind("pivot_root", _TEXT, _TEXT)
_open_tree = _bind("open_tree", _INT, _TEXT, _INT)
_move_mount = _bind("move_mount", _INT, _TEXT, _INT, _TEXT, _INT)
_mount_setattr = _bind("mount_setattr", _INT, _TEXT, _INT, _POINTER, _INT)
_fsopen = _bind("fsopen", _TEXT, _INT)
_fsconfig = _bind("fsconfig", _INT, _INT, _TEXT, _TEXT, _INT)
_fsmount = _bind("fsmount", _INT, _INT, _INT)


def _path(path: str | bytes | None) -> bytes | None:
    return None if path is None else os.fsencode(path)


# -- for a process that shares its memory with many --------------------------------------------------


def prepared(name: str, *arguments: object) -> tuple[object, ...]:
    """A system call for ``make``.  An argument is an int of 32 bits, bytes, None or a reference of ctypes."""
    return NUMBERS.get(name, -1), *arguments


def make(*call: object) -> int:
    """Make a prepared call: no page of memory is written to that not any of them writes to."""
    result = _call(*call)
    return (
        result
        if result >= 0
        else _raise(next((name for name in NUMBERS if NUMBERS[name] == call[0]), "system call"))
    )


# -- processes and namespaces --------------------------------------------------------------------


class Clone:
    """A clone3(2) with everything allocated before: calling it writes to next to no memory.

    A fork with ``flags``.  Only for a process with one thread.  ``cgroup``: descriptor of the v2 cgroup to be
    born in.  ``exit_signal`` 17 is SIGCHLD.
    """

    def __init__(self, flags: int, exit_signal: int = 17, cgroup: int | None = None) -> None:
        self._pidfd = ctypes.c_int(-1)
        self._fields = _CloneArgs(flags=flags, exit_signal=exit_signal)
        if flags & CLONE_PIDFD:
            self._fields.pidfd = ctypes.addressof(self._pidfd)
        if cgroup is not None:
            self._fields.flags |= CLONE_INTO_CGROUP
            self._fields.cgroup = cgroup
        self.arguments = (NUMBERS["clone3"], ctypes.byref(self._fields), ctypes.sizeof(self._fields))
        """Of ``Clone.call``: the pid in the parent, 0 in the child, -1 where it failed (``failure``)."""

    call = _call

    @property
    def pidfd(self) -> int:
        """In the parent, with CLONE_PIDFD."""
        return self._pidfd.value

    @staticmethod
    def failure() -> OSError:
        """Why the last call failed."""
        number = ctypes.get_errno()
        return OSError(number, f"clone3: {os.strerror(number)}")

    def __call__(self) -> tuple[int, int]:
        """(pid, pidfd or -1) in the parent, (0, -1) in the child; raises OSError."""
        pid = self.call(*self.arguments)
        if pid < 0:
            raise self.failure()
        return (pid, self.pidfd) if pid else (0, -1)


def clone3(flags: int, exit_signal: int = 17, cgroup: int | None = None) -> tuple[int, int]:
    """One ``Clone``."""
    return Clone(flags, exit_signal, cgroup)()


def setns(descriptor: int, flags: int) -> None:
    """Enter the namespace(s) of a namespace file or of a pidfd."""
    _setns(descriptor, flags)


def unshare(flags: int) -> None:
    """Leave the shared namespaces for new ones."""
    _unshare(flags)


def pidfd_open(pid: int) -> int:
    """A descriptor for a process (close-on-exec)."""
    return _pidfd_open(pid, 0)


def pidfd_send_signal(pidfd: int, signal: int) -> None:
    """Send a signal to exactly the process that the descriptor stands for."""
    _pidfd_send_signal(pidfd, signal, None, 0)


def prctl(option: int, a: int = 0, b: int = 0, c: int = 0, d: int = 0) -> int:
    """prctl(2) with integer arguments."""
    return _prctl(option, a, b, c, d)


def arguments_area() -> tuple[int, int]:
    """This process's command line in its memory: address and size (proc_pid_stat(5), 48 and 49)."""
    with open("/proc/self/stat", "rb") as file:
        fields = file.read().rpartition(b")")[2].split()
    start, end = int(fields[45]), int(fields[46])
    return start, end - start


class CommandLine:
    """A command line to write over this process's, and its name; ready before it is called."""

    def __init__(self, area: tuple[int, int], text: str) -> None:
        self._start, self._size = area
        self._data = os.fsencode(text)[: self._size - 1].ljust(self._size, b"\0")
        self._name = os.fsencode(text)[:15]

    def set(self) -> None:
        """Write it."""
        ctypes.memmove(self._start, self._data, self._size)
        _prctl_text(PR_SET_NAME, self._name, 0, 0, 0)


def close_range(first: int, last: int = 0xFFFFFFFF, flags: int = 0) -> None:
    """Close every descriptor from ``first`` to ``last``, both included (or mark it: CLOSE_RANGE_CLOEXEC)."""
    _close_range(first, last, flags)


def close_all_but(kept: Iterable[int]) -> None:
    """Close every descriptor that is not in ``kept``."""
    for call in prepared_close_all_but(kept):
        make(*call)


def prepared_close_all_but(kept: Iterable[int]) -> list[tuple[object, ...]]:
    """The calls that do it."""
    first, calls = 0, []
    for number in sorted(kept):
        if number > first:
            calls.append(prepared("close_range", first, number - 1, 0))
        first = number + 1
    return [*calls, prepared("close_range", first, -1, 0)]


def sethostname(name: str) -> None:
    """Set the host name of the UTS namespace."""
    data = os.fsencode(name)
    _sethostname(data, len(data))


def capget() -> int:
    """This process's permitted capabilities."""
    data = (_CapData * 2)()
    header = _CapHeader(0x20080522, 0)  # _LINUX_CAPABILITY_VERSION_3
    _capget(ctypes.byref(header), ctypes.byref(data))
    return int(data[0].permitted | data[1].permitted << 32)


class Capabilities:
    """Capability masks for this process, ready before they are set."""

    def __init__(self, effective: int, permitted: int, inheritable: int = 0) -> None:
        self._data = (_CapData * 2)()
        for word in (0, 1):
            shift = 32 * word
            self._data[word].effective = (effective >> shift) & 0xFFFFFFFF
            self._data[word].permitted = (permitted >> shift) & 0xFFFFFFFF
            self._data[word].inheritable = (inheritable >> shift) & 0xFFFFFFFF
        self._header = _CapHeader(0x20080522, 0)  # _LINUX_CAPABILITY_VERSION_3
        self.set = prepared("capset", ctypes.byref(self._header), ctypes.byref(self._data))
        """The call that does it."""


def capset(effective: int, permitted: int, inheritable: int = 0) -> None:
    """Set this process's capability masks."""
    make(*Capabilities(effective, permitted, inheritable).set)


def set_file_owner(uid: int, gid: int) -> None:
    """Whose the files are that this process makes from now on (setfsuid(2)); its capabilities stay."""
    permitted = capget()
    _setfsgid(gid)
    _setfsuid(uid)
    capset(permitted, permitted)


def seccomp_filter(program: bytes) -> None:
    """Load a compiled BPF program (8 bytes an instruction) as this process's filter."""
    argument = _SockFprog(len(program) // 8, program)
    _seccomp(SECCOMP_SET_MODE_FILTER, 0, ctypes.byref(argument))


# -- files and mounts ----------------------------------------------------------------------------


def openat2(directory: int, path: str, flags: int, resolve: int, mode: int = 0) -> int:
    """Open below ``directory`` with RESOLVE_* restrictions; the descriptor is close-on-exec."""
    how = _OpenHow(flags | os.O_CLOEXEC, mode, resolve)
    while True:
        try:
            return _openat2(directory, _path(path), ctypes.byref(how), ctypes.sizeof(how))
        except BlockingIOError:  # EAGAIN: a rename elsewhere ran in between; openat2(2) says to try again
            continue


def write_file(path: str, data: bytes) -> None:
    """One write(2): the files of /proc and of cgroups take no other way, and tell errors at once."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(descriptor, data)
    finally:
        os.close(descriptor)


def punch_hole(descriptor: int, offset: int, length: int) -> None:
    """Give back the blocks of a part of a file, whose size stays (fallocate(2))."""
    _fallocate(descriptor, _FALLOC_FL_KEEP_SIZE | _FALLOC_FL_PUNCH_HOLE, offset, length)


def syncfs(descriptor: int) -> None:
    """Wait until all of the file system that a file lies in is on the disk (syncfs(2))."""
    _syncfs(descriptor)


def mount(source: str | None, target: str, kind: str | None, flags: int, data: str | None = None) -> None:
    """mount(2)."""
    _mount(_path(source), _path(target), _path(kind), flags, _path(data))


def umount2(target: str, flags: int) -> None:
    """umount2(2)."""
    _umount2(_path(target), flags)


def pivot_root(new: str, old: str) -> None:
    """pivot_root(2)."""
    _pivot_root(_path(new), _path(old))


def open_tree(directory: int, path: str, flags: int = OPEN_TREE_CLONE) -> int:
    """A detached copy (OPEN_TREE_CLONE) of the mount that ``path`` lies on, rooted at ``path``."""
    if not path:
        flags |= AT_EMPTY_PATH
    return _open_tree(directory, _path(path), flags | OPEN_TREE_CLOEXEC)


def move_mount(tree: int, target: int, path: str = "") -> None:
    """Attach a detached mount at the object that ``target`` (or ``path`` below it) names."""
    flags = MOVE_MOUNT_F_EMPTY_PATH | (0 if path else MOVE_MOUNT_T_EMPTY_PATH)
    _move_mount(tree, b"", target, _path(path), flags)


def mount_setattr(
    tree: int,
    attributes: int,
    *,
    clear: int = 0,
    recursive: bool = False,
    userns: int = 0,
    propagation: int = 0,
) -> None:
    """Set (and clear) MOUNT_ATTR_* on a mount, or on the whole tree of mounts."""
    attr = _MountAttr(attributes, clear, 0, userns)
    flags = AT_EMPTY_PATH | (AT_RECURSIVE if recursive else 0)
    _mount_setattr(tree, b"", flags, ctypes.byref(attr), ctypes.sizeof(attr))


def new_mount(kind: str, options: Sequence[tuple[str, str | None]] = (), attributes: int = 0) -> int:
    """A detached mount of a new file system (fsopen, fsconfig, fsmount); an option of None is a flag.

    Raises OSError with the file system's own words, where it logged some.
    """
    context = _fsopen(_path(kind), FSOPEN_CLOEXEC)
    try:
        for name, value in options:
            command = FSCONFIG_SET_FLAG if value is None else FSCONFIG_SET_STRING
            _fsconfig(context, command, _path(name), _path(value), 0)
        _fsconfig(context, FSCONFIG_CMD_CREATE, None, None, 0)
        return _fsmount(context, FSMOUNT_CLOEXEC, attributes)
    except OSError as error:
        raise OSError(error.errno, _log(context) or error.strerror) from None
    finally:
        os.close(context)


def _log(context: int) -> str:
    """What the file system said about a failure (each message: level, space, text)."""
    lines = []
    try:
        for _ in range(8):
            lines.append(os.read(context, 1024).decode("utf-8", "replace").strip()[2:])
    except OSError:
        pass  # ENODATA: no more
    return "; ".join(lines)
