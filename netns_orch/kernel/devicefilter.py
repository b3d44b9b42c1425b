"""Which device nodes a container may use: the device cgroup of v1, the BPF program of v2.

Owns: the default list, its form for each version, assembling and attaching the program (bpf(2)).
Must not: know where a container's cgroup lies, or make device nodes.
"""

from __future__ import annotations

import ctypes
import os
import stat
import struct
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from netns_orch.errors import KernelError

ANY = -1


class Rule(NamedTuple):
    """Nodes that may be used: kind ``c`` or ``b``, numbers (ANY: all), access out of ``rwm``."""

    kind: str
    major: int
    minor: int
    access: str


DEFAULT_RULES = (
    Rule("c", ANY, ANY, "m"),
    Rule("b", ANY, ANY, "m"),
    Rule("c", 1, 3, "rwm"),  # null
    Rule("c", 1, 5, "rwm"),  # zero
    Rule("c", 1, 7, "rwm"),  # full
    Rule("c", 1, 8, "rwm"),  # random
    Rule("c", 1, 9, "rwm"),  # urandom
    Rule("c", 5, 0, "rwm"),  # tty
    Rule("c", 5, 2, "rwm"),  # ptmx
    Rule("c", 136, ANY, "rwm"),  # pts
    Rule("c", 10, 200, "rwm"),  # net/tun
)
"""Nodes may be made, but of them only those that every container has may be opened."""

_BPF_PROG_LOAD, _BPF_PROG_ATTACH, _BPF_PROG_DETACH = 5, 8, 9
_BPF_PROG_GET_FD_BY_ID, _BPF_PROG_QUERY = 13, 16
_TYPE_CGROUP_DEVICE, _ATTACH_CGROUP_DEVICE, _ALLOW_MULTI = 15, 6, 2
_BPF_NUMBERS = {"x86_64": 321, "aarch64": 280}
_KINDS = {"b": 1, "c": 2}
_ACCESS = {"m": 1, "r": 2, "w": 4}
_MOST_PROGRAMS = 64


def rules(extra: Iterable[tuple[str, str]]) -> list[Rule]:
    """The default rules and those of device nodes on the host (path, access); KernelError for no device."""
    return [*DEFAULT_RULES, *(_node_rule(path, access) for path, access in extra)]


def _node_rule(path: str, access: str) -> Rule:
    try:
        status = os.stat(path)
    except OSError as error:
        raise KernelError(f"device {path}: {error.strerror}", errno=error.errno) from error
    if stat.S_ISCHR(status.st_mode):
        kind = "c"
    elif stat.S_ISBLK(status.st_mode):
        kind = "b"
    else:
        raise KernelError(f"{path} is not a device node")
    return Rule(kind, os.major(status.st_rdev), os.minor(status.st_rdev), access)


def v1_lines(wanted: Sequence[Rule]) -> list[str]:
    """What is written to ``devices.allow``, a write each (kernel: cgroup-v1/devices)."""
    return [f"{r.kind} {_star(r.major)}:{_star(r.minor)} {r.access}" for r in wanted]


def _star(number: int) -> str:
    return "*" if number == ANY else str(number)


# -- v2: a program that returns 1 for what is allowed ---------------------------------------------


def program(wanted: Sequence[Rule]) -> bytes:
    """The BPF instructions (struct bpf_insn) that allow exactly these rules."""
    code = [
        _instruction(0x61, dst=2, src=1, off=0),  # r2 = access_type
        _instruction(0xBF, dst=3, src=2),
        _instruction(0x57, dst=2, imm=0xFFFF),  # r2 = kind
        _instruction(0x77, dst=3, imm=16),  # r3 = access
        _instruction(0x61, dst=4, src=1, off=4),  # r4 = major
        _instruction(0x61, dst=5, src=1, off=8),  # r5 = minor
    ]
    for rule in wanted:
        code += _rule_code(rule)
    return b"".join([*code, _instruction(0xB7, dst=0, imm=0), _instruction(0x95)])


def _rule_code(rule: Rule) -> list[bytes]:
    refused = ~sum(_ACCESS[letter] for letter in set(rule.access)) & 0xFFFF
    tests = [(2, _KINDS[rule.kind]), (6, 0)]
    tests += [(4, rule.major)] if rule.major != ANY else []
    tests += [(5, rule.minor)] if rule.minor != ANY else []
    left = len(tests) + 2
    code = [_instruction(0xBF, dst=6, src=3), _instruction(0x57, dst=6, imm=refused)]
    for position, (register, value) in enumerate(tests):
        code.append(_instruction(0x55, dst=register, off=left - position - 1, imm=value))
    return [*code, _instruction(0xB7, dst=0, imm=1), _instruction(0x95)]


def _instruction(code: int, *, dst: int = 0, src: int = 0, off: int = 0, imm: int = 0) -> bytes:
    return struct.pack("=BBhi", code, dst | src << 4, off, imm)


def attach(cgroup: str, wanted: Sequence[Rule]) -> None:
    """Make these rules the filter of a v2 cgroup, in place of what was attached before.  Raises OSError.

    Programs of its parents still count: all of them must allow (BPF_F_ALLOW_MULTI).
    """
    target = os.open(cgroup, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        old = _attached(target)
        new = _load(program(wanted))
        try:
            _bpf(_BPF_PROG_ATTACH, struct.pack("=IIII", target, new, _ATTACH_CGROUP_DEVICE, _ALLOW_MULTI))
        finally:
            os.close(new)
        _detach(target, old)
    finally:
        os.close(target)


def detach(cgroup: str) -> None:
    """Remove the filter: every device is allowed as far as the parents allow it.  Raises OSError."""
    target = os.open(cgroup, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        _detach(target, _attached(target))
    finally:
        os.close(target)


def _load(code: bytes) -> int:
    instructions = ctypes.create_string_buffer(code, len(code))
    licence = ctypes.create_string_buffer(b"Apache-2.0")
    pointers = ctypes.addressof(instructions), ctypes.addressof(licence)
    return _bpf(_BPF_PROG_LOAD, struct.pack("=IIQQ24x", _TYPE_CGROUP_DEVICE, len(code) // 8, *pointers))


def _attached(target: int) -> list[int]:
    """Ids of the programs attached to this cgroup itself."""
    ids = (ctypes.c_uint32 * _MOST_PROGRAMS)()
    layout = "=IIIIQI4x"
    address = ctypes.addressof(ids)
    query = struct.pack(layout, target, _ATTACH_CGROUP_DEVICE, 0, 0, address, _MOST_PROGRAMS)
    attribute = ctypes.create_string_buffer(query, len(query))
    _bpf(_BPF_PROG_QUERY, attribute)
    return list(ids[: struct.unpack(layout, attribute.raw)[5]])


def _detach(target: int, ids: Iterable[int]) -> None:
    for number in ids:
        loaded = _bpf(_BPF_PROG_GET_FD_BY_ID, struct.pack("=III", number, 0, 0))
        try:
            _bpf(_BPF_PROG_DETACH, struct.pack("=IIII", target, loaded, _ATTACH_CGROUP_DEVICE, 0))
        finally:
            os.close(loaded)


def _bpf(command: int, attribute: bytes | ctypes.Array[ctypes.c_char]) -> int:
    number = _BPF_NUMBERS.get(os.uname().machine)
    if number is None:
        raise OSError(38, f"bpf: its number on {os.uname().machine} is not known")
    if isinstance(attribute, bytes):
        attribute = ctypes.create_string_buffer(attribute, len(attribute))
    libc = ctypes.CDLL(None, use_errno=True)
    libc.syscall.restype = ctypes.c_long
    words = [ctypes.c_long(word) for word in (number, command, ctypes.addressof(attribute), len(attribute))]
    result: int = libc.syscall(*words)
    if result < 0:
        raise OSError(ctypes.get_errno(), f"bpf: {os.strerror(ctypes.get_errno())}")
    return result
