"""What a process may do where it is: a table as JSON, measured by trying.

A program of its own, for any root with Python 3 in it: ``python3 -I probe.py``.  It changes nothing that
would outlast it, in case that what it tries is allowed.
"""

from __future__ import annotations

import ctypes
import errno
import functools
import json
import mmap
import os
import platform
import signal
import socket
import stat
import struct
from collections.abc import Callable, Iterator
from contextlib import suppress

MASKED = (
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
)
READ_ONLY = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger", "/sys")
OF_PID_1 = ("exe", "root", "cwd", "fd/0", "environ", "maps", "mem", "ns/mnt")
KERNEL_FILES = (
    "/proc/sys/kernel/core_pattern",
    "/proc/sys/kernel/modprobe",
    "/proc/sys/kernel/panic",
    "/proc/sys/vm/overcommit_memory",
    "/proc/sys/fs/file-max",
    "/proc/sysrq-trigger",
    "/sys/kernel/uevent_helper",
    "/sys/power/state",
)
NEW_NAMESPACES = {
    "cgroup": 0x0200_0000,
    "ipc": 0x0800_0000,
    "mnt": 0x0002_0000,
    "net": 0x4000_0000,
    "pid": 0x2000_0000,
    "user": 0x1000_0000,
    "uts": 0x0400_0000,
}
BLOCK_DEVICES = ((7, 0), (8, 0), (254, 0))
CHARACTER_DEVICES = {"mem": (1, 1), "kmsg": (1, 11), "fuse": (10, 229), "console": (5, 1)}
_X86_64 = {
    "acct": 163, "add_key": 248, "bpf": 321, "clock_settime": 227, "clone3": 435, "delete_module": 176,
    "finit_module": 313, "fsopen": 430, "init_module": 175, "io_uring_setup": 425, "ioperm": 173,
    "kexec_load": 246, "keyctl": 250, "mount": 165, "move_mount": 429, "open_by_handle_at": 304,
    "open_tree": 428, "perf_event_open": 298, "pivot_root": 155, "quotactl": 179, "request_key": 249,
    "setns": 308, "settimeofday": 164, "swapon": 167, "syslog": 103, "umount2": 166, "unshare": 272,
    "userfaultfd": 323,
}  # fmt: skip
_AARCH64 = {
    "acct": 89, "add_key": 217, "bpf": 280, "clock_settime": 112, "clone3": 435, "delete_module": 106,
    "finit_module": 273, "fsopen": 430, "init_module": 105, "io_uring_setup": 425, "kexec_load": 104,
    "keyctl": 219, "mount": 40, "move_mount": 429, "open_by_handle_at": 265, "open_tree": 428,
    "perf_event_open": 241, "pivot_root": 41, "quotactl": 60, "request_key": 218, "setns": 268,
    "settimeofday": 170, "swapon": 224, "syslog": 116, "umount2": 39, "unshare": 97, "userfaultfd": 282,
}  # fmt: skip
_ARGUMENTS: dict[str, tuple[object, ...]] = {
    "acct": (1,),
    "mount": (b"none", b"/", b"no-such-type", 0, 0),
    "syslog": (10, 0, 0),
}
"""Where nothing but zeros would do something, or would not tell a refusal from a bad argument."""
_MAP_32BIT = 0x40
_SOCKETCALL, _SYS_SOCKET = 102, 1


def said(call: Callable[[], object]) -> str:
    """``ok``, or the name of the error."""
    try:
        call()
    except OSError as error:
        return errno.errorcode.get(error.errno or 0, str(error.errno))
    return "ok"


def in_child(call: Callable[[], int]) -> str:
    """What a call returns as a raw system call does (-errno), made in a child: it may be deadly."""
    read, write = os.pipe()
    pid = os.fork()
    if not pid:
        os.write(write, struct.pack("i", call()))
        os._exit(0)
    os.close(write)
    data = os.read(read, 4)
    os.close(read)
    _, status = os.waitpid(pid, 0)
    if not data:
        return signal.Signals(status & 0x7F).name
    (value,) = struct.unpack("i", data)
    return "ok" if value >= 0 else errno.errorcode.get(-value, str(value))


def status() -> Iterator[tuple[str, str]]:
    """Capability sets, ids, seccomp and no_new_privs (proc_pid_status(5))."""
    wanted = (
        "CapInh",
        "CapPrm",
        "CapEff",
        "CapBnd",
        "CapAmb",
        "NoNewPrivs",
        "Seccomp",
        "Uid",
        "Gid",
        "Groups",
    )
    with open("/proc/self/status") as rows:
        for row in rows:
            name, _, value = row.partition(":")
            if name in wanted:
                yield name, " ".join(value.split())


def descriptors() -> Iterator[tuple[str, str]]:
    """Descriptors above 2, but for the one that lists them."""
    found = []
    for number in sorted(int(name) for name in os.listdir("/proc/self/fd")):
        with suppress(OSError):
            if number > 2:
                found.append(f"{number} {os.readlink(f'/proc/self/fd/{number}')}")
    yield "descriptors above 2", ", ".join(found)


def masked(path: str) -> str:
    """``absent``, ``empty``, or what there is to read."""
    try:
        if os.path.isdir(path):
            return "empty" if not os.listdir(path) else "readable"
        with open(path, "rb") as file:
            return "readable" if file.read(1) else "empty"
    except FileNotFoundError:
        return "absent"
    except OSError as error:
        return errno.errorcode[error.errno or 0]


def read_only(path: str) -> str:
    """Whether the mount that a path is on is read-only."""
    try:
        return "read-only" if os.statvfs(path).f_flag & os.ST_RDONLY else "writable"
    except FileNotFoundError:
        return "absent"


def writable(path: str) -> str:
    """Opens a file for writing, and writes nothing."""
    return said(lambda: os.close(os.open(path, os.O_WRONLY)))


def writable_mounts() -> Iterator[tuple[str, str]]:
    """Writable mounts: type and device number by place (proc_pid_mountinfo(5))."""
    with open("/proc/self/mountinfo") as rows:
        for row in rows:
            fields, _, tail = row.partition(" - ")
            _, _, device, _, place, options = fields.split(" ")[:6]
            kind, _, super_options = tail.split(" ")[:3]
            if "rw" in options.split(",") and "rw" in super_options.strip().split(","):
                yield f"writable mount {place}", f"{kind} {device}"


def of_pid_1(name: str) -> str:
    """Whether anything of PID 1 can be looked into."""
    path = f"/proc/1/{name}"
    if name in ("environ", "maps", "mem"):
        return said(lambda: os.read(os.open(path, os.O_RDONLY), 1))
    return said(lambda: os.readlink(path))


def device(kind: int, numbers: tuple[int, int]) -> str:
    """Makes a device node and opens it: ``unusable`` where either is refused."""
    path = f"/dev/shm/probe-{os.getpid()}"
    try:
        os.mknod(path, kind | 0o600, os.makedev(*numbers))
    except OSError:
        return "unusable"
    try:
        os.close(os.open(path, os.O_RDONLY | os.O_NONBLOCK))
    except PermissionError:
        return "unusable"
    except OSError as error:
        return f"usable ({errno.errorcode[error.errno or 0]})"
    finally:
        os.unlink(path)
    return "usable"


def system_calls() -> Iterator[tuple[str, str]]:
    """Calls that none but the host's root should make, each with arguments that do no harm."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.syscall.restype = ctypes.c_long
    numbers = _X86_64 if platform.machine() == "x86_64" else _AARCH64

    def call(number: int, *arguments: object) -> None:
        if libc.syscall(ctypes.c_long(number), *map(_word, arguments)) < 0:
            raise OSError(ctypes.get_errno(), "")

    def unshare(flag: int) -> int:
        done = libc.syscall(ctypes.c_long(numbers["unshare"]), ctypes.c_long(flag))
        return -ctypes.get_errno() if done else 0

    for name, number in numbers.items():
        if name != "unshare":
            arguments = _ARGUMENTS.get(name, (0, 0, 0, 0, 0))
            yield name, said(functools.partial(call, number, *arguments))
    for name, flag in NEW_NAMESPACES.items():
        yield f"unshare {name}", in_child(functools.partial(unshare, flag))
    yield "ptrace PID 1", said(lambda: _ptrace(libc))


def _word(argument: object) -> object:
    return ctypes.c_long(argument) if isinstance(argument, int) else argument


def _ptrace(libc: ctypes.CDLL) -> None:
    """PTRACE_SEIZE, which stops nobody."""
    if libc.ptrace(ctypes.c_long(0x4206), ctypes.c_long(1), None, None) < 0:
        raise OSError(ctypes.get_errno(), "")


def sockets() -> Iterator[tuple[str, str]]:
    """Families that reach the kernel's own code or the host's hypervisor, by both doors."""
    for name, family in (("AF_ALG", 38), ("AF_VSOCK", 40)):
        yield name, said(functools.partial(socket.socket, family, socket.SOCK_SEQPACKET))
        if platform.machine() == "x86_64":
            yield f"{name} by int 0x80", in_child(functools.partial(_socketcall, family))
    if platform.machine() == "x86_64":
        yield "AF_INET by int 0x80", in_child(lambda: _socketcall(socket.AF_INET))


def _socketcall(family: int) -> int:
    """socket(2) as a 32-bit program makes it: a filter can't see the family behind the pointer."""
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _MAP_32BIT
    page = mmap.mmap(-1, 4096, flags=flags, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    address = ctypes.addressof(ctypes.c_char.from_buffer(page))
    kind = socket.SOCK_SEQPACKET if family != socket.AF_INET else socket.SOCK_STREAM
    page[256:268] = struct.pack("III", family, kind, 0)
    code = b"\x53"  # push rbx
    code += b"\xb8" + struct.pack("I", _SOCKETCALL)  # mov eax, socketcall
    code += b"\xbb" + struct.pack("I", _SYS_SOCKET)  # mov ebx, SYS_SOCKET
    code += b"\xb9" + struct.pack("I", address + 256)  # mov ecx, its arguments
    code += b"\xcd\x80\x5b\xc3"  # int 0x80; pop rbx; ret
    page[: len(code)] = code
    result: int = ctypes.CFUNCTYPE(ctypes.c_int)(address)()
    return result


def of_32_bits() -> str:
    """What getpid(2) answers a 32-bit ARM program: ``ok`` or ``ENOSYS``; or why there can be none.

    All it can tell is how it ends: by exit(2), or by an instruction that is none where no call is answered.
    """
    instructions = struct.pack(
        "<8I",
        0xE3A07014,  # mov r7, #20 (getpid)
        0xEF000000,  # svc #0
        0xE3700026,  # cmn r0, #38 (ENOSYS)
        0x0A000002,  # beq the last one
        0xE3A07001,  # mov r7, #1 (exit)
        0xE3A00000,  # mov r0, #0
        0xEF000000,  # svc #0
        0xE7F000F0,  # udf #0
    )
    base, start = 0x10000, 52 + 32
    size = start + len(instructions)
    head = b"\x7fELF\1\1\1" + bytes(9)
    head += struct.pack("<HHIIIIIHHHHHH", 2, 40, 1, base + start, 52, 0, 0x05000000, 52, 32, 1, 40, 0, 0)
    segment = struct.pack("<8I", 1, 0, base, base, size, size, 5, 0x10000)
    program = os.memfd_create("program")
    os.write(program, head + segment + instructions)
    pid = os.fork()
    if not pid:
        try:
            os.execve(program, ["program"], {})
        except OSError as error:
            os._exit(error.errno or 255)
    os.close(program)
    _, ended = os.waitpid(pid, 0)
    if os.WIFSIGNALED(ended):
        number = signal.Signals(os.WTERMSIG(ended))
        return "ENOSYS" if number == signal.SIGILL else number.name
    code = os.WEXITSTATUS(ended)
    return errno.errorcode.get(code, str(code)) if code else "ok"


def table() -> dict[str, str]:
    """All of it."""
    found = dict(status())
    found.update(descriptors())
    found["umask"] = f"{_umask():04o}"
    found.update((f"masked {path}", masked(path)) for path in MASKED)
    found.update((f"read-only {path}", read_only(path)) for path in READ_ONLY)
    found.update((f"write {path}", writable(path)) for path in KERNEL_FILES)
    found.update(writable_mounts())
    found.update((f"/proc/1/{name}", of_pid_1(name)) for name in OF_PID_1)
    found["processes"] = " ".join(sorted((name for name in os.listdir("/proc") if name.isdecimal()), key=int))
    found["interfaces"] = " ".join(sorted(os.listdir("/sys/class/net")))
    found.update((f"block device {a}:{b}", device(stat.S_IFBLK, (a, b))) for a, b in BLOCK_DEVICES)
    found.update((f"device {name}", device(stat.S_IFCHR, pair)) for name, pair in CHARACTER_DEVICES.items())
    found.update(system_calls())
    found.update(sockets())
    if platform.machine() == "aarch64":
        found["a program of 32 bits"] = of_32_bits()
    return found


def _umask() -> int:
    found = os.umask(0o077)
    os.umask(found)
    return found


if __name__ == "__main__":
    print(json.dumps(table(), indent=1))
