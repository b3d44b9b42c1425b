"""Seccomp: profiles in OCI JSON, compiled to the BPF program that seccomp(2) loads.

Owns: reading a profile (the one beside this file, or the user's), the compiler, the system call numbers.
Must not: load a filter (that is ``confine``), or run in a container: programs are made before it is entered.

The compiler is netorch's own and needs no libseccomp.  The profile is Docker's default in effect, but for
one point: only the native system calls are allowed.  A 32-bit program gets ENOSYS for each of its calls,
because its ``socketcall`` hides the address family from any filter.

The program is a binary search over ranges of numbers, about nine comparisons for a call.  Structure of the
data it sees: seccomp(2), struct seccomp_data.
"""

from __future__ import annotations

import errno
import functools
import hashlib
import json
import os
import struct
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from netns_orch.errors import KernelError, NetorchError, Where
from netns_orch.kernel.rundir import replace_file

DEFAULT_PROFILE = Path(__file__).with_name("seccomp_default.json")
_NESTING = ["pivot_root"]
_NUMBERS = Path(__file__).with_name("syscall_numbers.json")
_X32_BIT = 0x4000_0000
_MACHINES = {"x86_64": ("amd64", 0xC000003E), "aarch64": ("arm64", 0xC00000B7)}
"""uname's name to (OCI's name, AUDIT_ARCH_*)."""

_LOAD, _AND, _JUMP, _JEQ, _JGT, _JGE, _RETURN = 0x20, 0x54, 0x05, 0x15, 0x25, 0x35, 0x06
_MAX_INSTRUCTIONS = 4096
_MAX_CONDITIONS = 12
_ALL_BITS = 0xFFFF_FFFF_FFFF_FFFF
_ACTIONS = {
    "SCMP_ACT_KILL": 0x0000_0000,
    "SCMP_ACT_KILL_THREAD": 0x0000_0000,
    "SCMP_ACT_KILL_PROCESS": 0x8000_0000,
    "SCMP_ACT_TRAP": 0x0003_0000,
    "SCMP_ACT_ERRNO": 0x0005_0000,
    "SCMP_ACT_TRACE": 0x7FF0_0000,
    "SCMP_ACT_LOG": 0x7FFC_0000,
    "SCMP_ACT_ALLOW": 0x7FFF_0000,
}
_WITH_DATA = ("SCMP_ACT_ERRNO", "SCMP_ACT_TRACE")
_PASSING = ("SCMP_ACT_ALLOW", "SCMP_ACT_LOG")
_NO_SUCH_CALL = _ACTIONS["SCMP_ACT_ERRNO"] | errno.ENOSYS


class _Instruction(NamedTuple):
    """One BPF instruction; jumps are relative, in instructions."""

    code: int
    k: int
    true: int = 0
    false: int = 0


class _Condition(NamedTuple):
    """One comparison of a 64-bit argument."""

    argument: int
    op: str
    value: int
    mask: int


class _Rule(NamedTuple):
    """What to do when every condition holds (none: always)."""

    conditions: tuple[_Condition, ...]
    action: int


_Code = list[_Instruction]


def compile_filter(
    profile: str, capabilities: Iterable[str], machine: str | None = None, *, nesting: bool = False
) -> bytes:
    """The BPF program (8 bytes an instruction) of ``default`` or of a profile file.

    ``capabilities`` (without CAP_) open the system calls that the profile ties to them.  The newest
    calls, above every number that the profile names, get ENOSYS, so that programs fall back to older ones.
    ``nesting`` opens in the default profile what building a container takes and no capability opens.
    """
    path = DEFAULT_PROFILE if profile == "default" else Path(profile)
    text = _read(path)
    if nesting and profile == "default":
        document = json.loads(text)
        document["syscalls"].append({"names": _NESTING, "action": "SCMP_ACT_ALLOW"})
        text = json.dumps(document)
    return _compile_text(text, str(path), frozenset(capabilities), machine or os.uname().machine)


def keep(directory: Path, profile: str, capabilities: Iterable[str], *, nesting: bool = False) -> Path:
    """The compiled program as a file in ``directory``, one for all that have the same."""
    program = compile_filter(profile, capabilities, nesting=nesting)
    path = directory / f"seccomp-{hashlib.sha256(program).hexdigest()[:16]}.bpf"
    try:
        if path.exists() and path.read_bytes() == program:
            return path
        replace_file(str(path), program)
    except OSError as error:
        raise KernelError(f"{path}: {error.strerror}", errno=error.errno) from error
    return path


def system_calls(machine: str | None = None) -> dict[str, int]:
    """Name to number of the system calls of a machine (uname's name)."""
    return _numbers(machine or os.uname().machine)


@functools.lru_cache(maxsize=64)
def _compile_text(text: str, path: str, capabilities: frozenset[str], machine: str) -> bytes:
    if machine not in _MACHINES:
        hint = f"netorch knows those of {' and '.join(_MACHINES)}; use `seccomp: unconfined`"
        raise KernelError(f"the system call numbers of {machine} are not known", hint=hint)
    try:
        document = json.loads(text)
        rules = _rules(document, capabilities, machine)
        default = _action(document["defaultAction"], document.get("defaultErrnoRet"))
        passing = document["defaultAction"] in _PASSING
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise _not_a_profile(path, error) from error
    code = _program(rules, default, passing, _MACHINES[machine][1])
    if len(code) > _MAX_INSTRUCTIONS:
        what = f"seccomp profile {path} makes {len(code)} instructions, the kernel takes {_MAX_INSTRUCTIONS}"
        raise KernelError(what)
    return b"".join(struct.pack("=HBBI", i.code, i.true, i.false, i.k) for i in code)


def _not_a_profile(path: str, error: Exception) -> NetorchError:
    where = None
    if isinstance(error, json.JSONDecodeError):
        where = Where(path, error.lineno, error.colno)
    reason = f"{error} is missing" if isinstance(error, KeyError) else str(error)
    hint = (
        "the format is `linux.seccomp` of the OCI runtime specification, as Docker's --security-opt takes it"
    )
    return NetorchError(f"{path} is not a seccomp profile: {reason}", where=where, hint=hint)


def _read(path: Path) -> str:
    try:
        return path.read_text("utf-8")
    except OSError as error:
        raise KernelError(f"seccomp profile {path}: {error.strerror}", errno=error.errno) from error
    except UnicodeDecodeError as error:
        raise _not_a_profile(str(path), error) from error


@functools.lru_cache(maxsize=2)
def _numbers(machine: str) -> dict[str, int]:
    numbers: dict[str, dict[str, int]] = json.loads(_NUMBERS.read_text("utf-8"))
    return numbers[machine]


# -- from the document to rules by number ----------------------------------------------------------


def _rules(document: Mapping[str, Any], capabilities: frozenset[str], machine: str) -> dict[int, list[_Rule]]:
    """Rules by system call number; names that this machine does not have are left out, as runc does."""
    numbers = _numbers(machine)
    rules: dict[int, list[_Rule]] = {}
    for entry in document.get("syscalls") or ():
        if not _applies(entry, capabilities, _MACHINES[machine][0]):
            continue
        conditions = tuple(_condition(item) for item in entry.get("args") or ())
        if len(conditions) > _MAX_CONDITIONS:
            raise ValueError(f"more than {_MAX_CONDITIONS} args in one rule")
        rule = _Rule(conditions, _action(entry["action"], entry.get("errnoRet")))
        for name in entry.get("names") or [entry["name"]]:
            if name in numbers:
                rules.setdefault(numbers[name], []).append(rule)
    return rules


def _applies(entry: Mapping[str, Any], capabilities: frozenset[str], arch: str) -> bool:
    """Docker's ``includes`` and ``excludes``: by capability and by architecture."""
    includes, excludes = entry.get("includes") or {}, entry.get("excludes") or {}
    if any(name.removeprefix("CAP_") not in capabilities for name in includes.get("caps") or ()):
        return False
    if any(name.removeprefix("CAP_") in capabilities for name in excludes.get("caps") or ()):
        return False
    if includes.get("arches") and arch not in includes["arches"]:
        return False
    if arch in (excludes.get("arches") or ()):
        return False
    return _kernel_is_at_least(includes.get("minKernel"))


def _kernel_is_at_least(version: str | None) -> bool:
    if not version:
        return True
    running = os.uname().release.split(".")
    wanted = [int(part) for part in version.split(".")[:2]]
    return [int(running[0]), int(running[1].split("-")[0])] >= wanted


def _condition(item: Mapping[str, Any]) -> _Condition:
    index, op = item["index"], item["op"].removeprefix("SCMP_CMP_")
    value, second = item["value"], item.get("valueTwo", 0)
    numbers = all(isinstance(number, int) and 0 <= number <= _ALL_BITS for number in (value, second))
    if op not in _COMPARISONS or index not in range(6) or not numbers:
        raise ValueError(f"not a comparison: {item!r}")
    if op == "MASKED_EQ":
        return _Condition(index, op, second, value)
    return _Condition(index, op, value, _ALL_BITS)


def _action(name: str, data: int | None) -> int:
    if name not in _ACTIONS:
        known = ", ".join(sorted(_ACTIONS))
        raise ValueError(f"unknown action {name!r}; known are {known}")
    if name in _WITH_DATA:
        return _ACTIONS[name] | ((errno.EPERM if data is None else data) & 0xFFFF)
    return _ACTIONS[name]


# -- from rules to instructions ------------------------------------------------------------------
#
# Every piece of code below is closed: it ends in a return on every way through it, so pieces can be put
# one after the other, and a jump only ever skips a whole piece.


def _program(rules: Mapping[int, Sequence[_Rule]], default: int, passing: bool, arch: int) -> _Code:
    unknown = default if passing else _NO_SUCH_CALL
    pieces = [(number, _calls_code(rules[number], default)) for number in sorted(rules)]
    ranges = _ranges(pieces, [_give(default)], [_give(unknown)])
    body = [_Instruction(_LOAD, 0), *_search(ranges)]
    foreign = [_give(_NO_SUCH_CALL)]
    return [
        _Instruction(_LOAD, 4),
        _Instruction(_JEQ, arch, 1, 0),
        *foreign,
        *body,
    ]


def _ranges(pieces: list[tuple[int, _Code]], default: _Code, unknown: _Code) -> list[tuple[int, _Code]]:
    """(first number, code) without gaps; neighbours with the same code are one range."""
    ranges: list[tuple[int, _Code]] = []
    following = 0
    for number, code in pieces:
        if number != following:
            _extend(ranges, following, default)
        _extend(ranges, number, code)
        following = number + 1
    _extend(ranges, following, unknown)
    _extend(ranges, _X32_BIT, [_give(_NO_SUCH_CALL)])
    return ranges


def _extend(ranges: list[tuple[int, _Code]], first: int, code: _Code) -> None:
    if not ranges or ranges[-1][1] != code:
        ranges.append((first, code))


def _search(ranges: list[tuple[int, _Code]]) -> _Code:
    """A balanced tree of comparisons; the accumulator holds the number."""
    if len(ranges) == 1:
        return ranges[0][1]
    middle = len(ranges) // 2
    low, high = _search(ranges[:middle]), _search(ranges[middle:])
    first = ranges[middle][0]
    if len(low) <= 255:
        return [_Instruction(_JGE, first, len(low), 0), *low, *high]
    return [_Instruction(_JGE, first, 0, 1), _Instruction(_JUMP, len(low)), *low, *high]


def _calls_code(rules: Sequence[_Rule], default: int) -> _Code:
    """Rules with conditions in their order, then the one without, else the default."""
    code: _Code = []
    for rule in rules:
        if rule.conditions:
            code += _rule_code(rule)
    always = next((rule.action for rule in rules if not rule.conditions), default)
    return [*code, _give(always)]


def _rule_code(rule: _Rule) -> _Code:
    """Return the action where all conditions hold, else go on behind this code."""
    code = [_give(rule.action)]
    for condition in reversed(rule.conditions):
        code = _COMPARISONS[condition.op](condition, len(code)) + code
    return code


def _halves(condition: _Condition) -> tuple[tuple[_Code, int], tuple[_Code, int]]:
    """How to load (and mask) the high and the low word, and what each is compared to."""
    words = []
    for shift, offset in ((32, 4), (0, 0)):
        load = [_Instruction(_LOAD, 16 + 8 * condition.argument + offset)]
        mask = (condition.mask >> shift) & 0xFFFF_FFFF
        if mask != 0xFFFF_FFFF:
            load.append(_Instruction(_AND, mask))
        words.append((load, (condition.value >> shift) & 0xFFFF_FFFF))
    return words[0], words[1]


def _equal(condition: _Condition, skip: int) -> _Code:
    """Go on where equal, else skip ``skip`` instructions behind this code."""
    (high, high_value), (low, low_value) = _halves(condition)
    second = [*low, _Instruction(_JEQ, low_value, 0, skip)]
    return [*high, _Instruction(_JEQ, high_value, 0, len(second) + skip), *second]


def _not_equal(condition: _Condition, skip: int) -> _Code:
    (high, high_value), (low, low_value) = _halves(condition)
    second = [*low, _Instruction(_JEQ, low_value, skip, 0)]
    return [*high, _Instruction(_JEQ, high_value, 0, len(second)), *second]


def _above(condition: _Condition, skip: int, code: int) -> _Code:
    """Go on where the argument is > (JGT) or >= (JGE) the value."""
    (high, high_value), (low, low_value) = _halves(condition)
    second = [*low, _Instruction(code, low_value, 0, skip)]
    equal = _Instruction(_JEQ, high_value, 0, len(second) + skip)
    return [*high, _Instruction(_JGT, high_value, 1 + len(second), 0), equal, *second]


def _below(condition: _Condition, skip: int, code: int) -> _Code:
    """Go on where the argument is not > (JGT: so <=) or not >= (JGE: so <) the value."""
    (high, high_value), (low, low_value) = _halves(condition)
    second = [*low, _Instruction(code, low_value, skip, 0)]
    equal = _Instruction(_JEQ, high_value, 0, len(second))
    return [*high, _Instruction(_JGT, high_value, 1 + len(second) + skip, 0), equal, *second]


def _give(action: int) -> _Instruction:
    return _Instruction(_RETURN, action)


_COMPARISONS: dict[str, Callable[[_Condition, int], _Code]] = {
    "EQ": _equal,
    "MASKED_EQ": _equal,
    "NE": _not_equal,
    "GT": functools.partial(_above, code=_JGT),
    "GE": functools.partial(_above, code=_JGE),
    "LE": functools.partial(_below, code=_JGT),
    "LT": functools.partial(_below, code=_JGE),
}
