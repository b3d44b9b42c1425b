"""Limits as the kernel's cgroup files say them: the same limit on v1 and on v2, written and read.

Owns: files, units and conversions of every limit, for both versions (kernel: cgroup-v1/, cgroup-v2.rst).
Must not: open a file (texts come and go through its callers), or know where cgroups lie.

A group is one or more limits that are written together (``memory`` and ``swap`` share a file on v1).
"""

from __future__ import annotations

import math
import os
import stat
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from netns_orch.errors import KernelError, MissingFeature
from netns_orch.resources import Cgroup, shares_of_weight

PERIOD = 100_000
"""Microseconds: the period that a CPU quota is given for."""
_LONG_PERIOD = 1_000_000
_SMALLEST_QUOTA = 1000
_PAGE = os.sysconf("SC_PAGE_SIZE")
_NO_LIMIT_V1 = 1 << 62
"""v1 shows "no limit" as the largest number of pages, near 2**63."""
_IO_FILES_V1 = (
    "blkio.throttle.read_bps_device",
    "blkio.throttle.write_bps_device",
    "blkio.throttle.read_iops_device",
    "blkio.throttle.write_iops_device",
)
_IO_KEYS_V2 = ("rbps", "wbps", "riops", "wiops")
_DEFAULT_SHARES, _DEFAULT_WEIGHT = 1024, 100


class Write(NamedTuple):
    """One write; ``text`` as the kernel takes it."""

    file: str
    text: str


Read = Callable[[str], str | None]
"""The content of a file of the cgroup, stripped; None where there is no such file."""


class Group(NamedTuple):
    """Limits of one controller that are written together, on one version."""

    fields: tuple[str, ...]
    controller: str
    writes: Callable[[Cgroup], list[Write]]
    read: Callable[[Read], tuple[Any, ...]]
    """What the fields are in the kernel, in their order."""


def groups(version_of: Mapping[str, int]) -> list[Group]:
    """The groups of the controllers that a host has (controller to 1 or 2)."""
    return [
        group
        for version in (1, 2)
        for group in _GROUPS[version]
        if version_of.get(group.controller) == version
    ]


def controllers_needed(limits: Cgroup) -> dict[str, str]:
    """Controllers that these limits can't do without, each with the name of a limit that needs it."""
    needed: dict[str, str] = {}
    for group in _V1:
        for name in group.fields:
            if getattr(limits, name) not in (None, ()):
                needed.setdefault(group.controller, name)
    return needed


def check(limits: Cgroup, version_of: Mapping[str, int]) -> None:
    """MissingFeature where this host can't keep a limit; KernelError where limits contradict one another."""
    for controller, name in controllers_needed(limits).items():
        if controller not in version_of:
            raise MissingFeature(
                f"container {limits.container}: `{name}` needs the cgroup controller {controller!r}, "
                "which this host does not have",
                where=limits.where,
                hint=_hint_missing(controller),
            )
    if version_of.get("memory") == 1:
        _check_memory_v1(limits)


def _hint_missing(controller: str) -> str:
    hint = "/proc/cgroups lists the kernel's controllers, /sys/fs/cgroup/cgroup.controllers those of v2"
    if controller == "memory":
        hint += "; on some boards memory is switched on by cgroup_enable=memory on the kernel's command line"
    return hint


def _check_memory_v1(limits: Cgroup) -> None:
    if limits.memory_high is not None:
        raise MissingFeature(
            f"container {limits.container}: `memory_high` is there on cgroup v2 only, and this host's memory "
            "controller is on v1",
            where=limits.where,
            hint="use `memory`, or boot with systemd.unified_cgroup_hierarchy=1",
        )
    if limits.swap is not None and limits.memory is None:
        raise MissingFeature(
            f"container {limits.container}: `swap` without `memory` can't be kept on cgroup v1",
            where=limits.where,
            hint="give `memory` too",
        )


# -- CPU -------------------------------------------------------------------------------------------


def _quota(cpus: float) -> tuple[int, int]:
    """(quota, period) in microseconds; the kernel takes no quota under 1 ms."""
    for period in (PERIOD, _LONG_PERIOD):
        quota = round(cpus * period)
        if quota >= _SMALLEST_QUOTA:
            return quota, period
    return _SMALLEST_QUOTA, _LONG_PERIOD


def _cpus_v1(limits: Cgroup) -> list[Write]:
    if limits.cpus is None:
        return [Write("cpu.cfs_quota_us", "-1")]
    quota, period = _quota(limits.cpus)
    # A period that is shortened while the old quota stands could be refused: quota off first.
    return [
        Write("cpu.cfs_quota_us", "-1"),
        Write("cpu.cfs_period_us", str(period)),
        Write("cpu.cfs_quota_us", str(quota)),
    ]


def _read_cpus_v1(read: Read) -> tuple[Any, ...]:
    quota = read("cpu.cfs_quota_us")
    if quota is None or int(quota) < 0:
        return (None,)
    period = read("cpu.cfs_period_us")
    if period is None:
        return (None,)
    return (int(quota) / int(period),)


def _cpus_v2(limits: Cgroup) -> list[Write]:
    if limits.cpus is None:
        return [Write("cpu.max", f"max {PERIOD}")]
    quota, period = _quota(limits.cpus)
    return [Write("cpu.max", f"{quota} {period}")]


def _read_cpus_v2(read: Read) -> tuple[Any, ...]:
    quota, _, period = (read("cpu.max") or "max").partition(" ")
    return (None if quota == "max" else int(quota) / int(period),)


def weight_of_shares(shares: int) -> int:
    """The inverse of ``shares_of_weight``; for shares that no weight has, the runtimes' curve rounded up."""
    if shares <= 2:
        return 1
    level = math.log2(min(shares, 262_144))
    weight = min(10_000, math.ceil(round(10 ** ((level**2 + 125 * level) / 612 - 7 / 34), 6)))
    return weight - 1 if shares_of_weight(weight - 1) == shares else weight


def _weight_v1(limits: Cgroup) -> list[Write]:
    weight = _DEFAULT_WEIGHT if limits.cpu_weight is None else limits.cpu_weight
    return [Write("cpu.shares", str(shares_of_weight(weight)))]


def _read_weight_v1(read: Read) -> tuple[Any, ...]:
    shares = int(read("cpu.shares") or _DEFAULT_SHARES)
    return (weight_of_shares(shares),)


def _weight_v2(limits: Cgroup) -> list[Write]:
    weight = _DEFAULT_WEIGHT if limits.cpu_weight is None else limits.cpu_weight
    return [Write("cpu.weight", str(weight))]


def _read_weight_v2(read: Read) -> tuple[Any, ...]:
    return (int(read("cpu.weight") or _DEFAULT_WEIGHT),)


def _cpuset(limits: Cgroup) -> list[Write]:
    return [Write("cpuset.cpus", limits.cpuset or "\n")]


def _read_cpuset(read: Read) -> tuple[Any, ...]:
    return (read("cpuset.cpus") or None,)


# -- memory ----------------------------------------------------------------------------------------


def _memory_v1(limits: Cgroup) -> list[Write]:
    """The limit, and the limit of memory and swap together; ``memory`` alone means no swap."""
    if limits.memory is None:
        both = limit = "-1"
    else:
        limit = str(limits.memory)
        both = str(limits.memory + (limits.swap or 0))
    return [Write("memory.limit_in_bytes", limit), Write("memory.memsw.limit_in_bytes", both)]


def _read_memory_v1(read: Read) -> tuple[Any, ...]:
    limit = int(read("memory.limit_in_bytes") or _NO_LIMIT_V1)
    if limit >= _NO_LIMIT_V1:
        return (None, None)
    both = read("memory.memsw.limit_in_bytes")
    return (limit, max(0, int(both) - limit) if both is not None and int(both) < _NO_LIMIT_V1 else None)


def _memory_v2(limits: Cgroup) -> list[Write]:
    limit = "max" if limits.memory is None else str(limits.memory)
    swap = limits.swap if limits.swap is not None else 0 if limits.memory is not None else "max"
    return [Write("memory.max", limit), Write("memory.swap.max", str(swap))]


def _read_memory_v2(read: Read) -> tuple[Any, ...]:
    return (_number_or_max(read("memory.max")), _number_or_max(read("memory.swap.max")))


def _high_v2(limits: Cgroup) -> list[Write]:
    return [Write("memory.high", "max" if limits.memory_high is None else str(limits.memory_high))]


def _read_high_v2(read: Read) -> tuple[Any, ...]:
    return (_number_or_max(read("memory.high")),)


def _number_or_max(text: str | None) -> int | None:
    return None if text is None or text == "max" else int(text)


def _pids(limits: Cgroup) -> list[Write]:
    return [Write("pids.max", "max" if limits.pids is None else str(limits.pids))]


def _read_pids(read: Read) -> tuple[Any, ...]:
    return (_number_or_max(read("pids.max")),)


# -- block I/O ---------------------------------------------------------------------------------------


def device_numbers(path: str) -> str:
    """``major:minor`` of a block device; KernelError where it is none."""
    try:
        status = os.stat(path)
    except OSError as error:
        raise KernelError(f"device {path}: {error.strerror}", errno=error.errno) from error
    if not stat.S_ISBLK(status.st_mode):
        raise KernelError(
            f"{path} is not a block device", hint="lsblk lists them; a whole disk, not a partition"
        )
    return f"{os.major(status.st_rdev)}:{os.minor(status.st_rdev)}"


def _io_v1(limits: Cgroup) -> list[Write]:
    return [
        Write(file, f"{device_numbers(device)} {value or 0}")
        for device, *values in limits.io
        for file, value in zip(_IO_FILES_V1, values, strict=True)
    ]


def _read_io_v1(read: Read) -> tuple[Any, ...]:
    found: dict[str, list[int | None]] = {}
    for column, file in enumerate(_IO_FILES_V1):
        for line in (read(file) or "").splitlines():
            numbers, _, value = line.partition(" ")
            found.setdefault(numbers, [None] * 4)[column] = int(value)
    return (tuple((numbers, *values) for numbers, values in sorted(found.items())),)


def _io_v2(limits: Cgroup) -> list[Write]:
    writes = []
    for device, *values in limits.io:
        words = [f"{key}={value or 'max'}" for key, value in zip(_IO_KEYS_V2, values, strict=True)]
        writes.append(Write("io.max", " ".join([device_numbers(device), *words])))
    return writes


def _read_io_v2(read: Read) -> tuple[Any, ...]:
    found = []
    for line in (read("io.max") or "").splitlines():
        numbers, *words = line.split()
        values = dict(word.split("=") for word in words)
        limits = [_number_or_max(values.get(key)) for key in _IO_KEYS_V2]
        if any(limit is not None for limit in limits):
            found.append((numbers, *limits))
    return (tuple(sorted(found, key=lambda row: str(row[0]))),)


def cleared_io(before: Cgroup, after: Cgroup) -> Cgroup:
    """``after`` with an empty entry for each device that only ``before`` limits, so that it is set free."""
    kept = {device for device, *_ in after.io}
    freed = [(device, None, None, None, None) for device, *_ in before.io if device not in kept]
    return _replaced(after, io=(*after.io, *freed)) if freed else after


def _replaced(limits: Cgroup, **fields: Any) -> Cgroup:
    from netns_orch.records import replace

    return replace(limits, **fields)


# -- comparing -------------------------------------------------------------------------------------


def as_kept(group: Group, asked: Cgroup, found: tuple[Any, ...]) -> tuple[Any, ...]:
    """The values to report: what was asked for where the kernel keeps just that, else what it has.

    The kernel rounds memory to pages and shares to its own scale; v1 has no word for "no swap asked for".
    """
    wanted = tuple(getattr(asked, name) for name in group.fields)
    return wanted if _keeps(group.fields, wanted, found) else found


def _keeps(fields: tuple[str, ...], wanted: tuple[Any, ...], found: tuple[Any, ...]) -> bool:
    name = fields[0]
    if name == "memory":
        memory, swap = wanted
        limit = found[1]
        swap_kept = limit in (None, 0) if not swap else limit is not None and abs(limit - swap) < 2 * _PAGE
        return _pages(memory) == _pages(found[0]) and (swap_kept if memory is not None else swap == limit)
    if name == "memory_high":
        return _pages(wanted[0]) == _pages(found[0])
    if name == "cpu_weight":
        return bool((wanted[0] or _DEFAULT_WEIGHT) == found[0])
    if wanted[0] is None or found[0] is None:
        return bool(wanted[0] == found[0])
    if name == "cpus":
        return _quota(wanted[0]) == _quota(found[0])
    if name == "cpuset":
        return cpu_list(wanted[0]) == cpu_list(found[0])
    if name == "io":
        return _io_numbers(wanted[0]) == _io_numbers(found[0])
    return bool(wanted[0] == found[0])


def _pages(size: int | None) -> int | None:
    return None if size is None else size // _PAGE


def cpu_list(text: str) -> set[int]:
    """``0-2,5`` as numbers (cpuset(7), list format)."""
    found: set[int] = set()
    for part in text.split(","):
        first, _, last = part.strip().partition("-")
        found.update(range(int(first), int(last or first) + 1))
    return found


def _io_numbers(rows: tuple[tuple[Any, ...], ...]) -> set[tuple[Any, ...]]:
    """Rows by device number; a device that is gone can't be limited."""
    found = set()
    for device, *values in rows:
        if any(value is not None for value in values):
            found.add((device if ":" in device else _numbers_or_name(device), *values))
    return found


def _numbers_or_name(device: str) -> str:
    try:
        return device_numbers(device)
    except KernelError:
        return device


_V1 = (
    Group(("cpus",), "cpu", _cpus_v1, _read_cpus_v1),
    Group(("cpu_weight",), "cpu", _weight_v1, _read_weight_v1),
    Group(("cpuset",), "cpuset", _cpuset, _read_cpuset),
    Group(("memory", "swap"), "memory", _memory_v1, _read_memory_v1),
    Group(("memory_high",), "memory", lambda _: [], lambda _: (None,)),
    Group(("pids",), "pids", _pids, _read_pids),
    Group(("io",), "io", _io_v1, _read_io_v1),
)
_V2 = (
    Group(("cpus",), "cpu", _cpus_v2, _read_cpus_v2),
    Group(("cpu_weight",), "cpu", _weight_v2, _read_weight_v2),
    Group(("cpuset",), "cpuset", _cpuset, _read_cpuset),
    Group(("memory", "swap"), "memory", _memory_v2, _read_memory_v2),
    Group(("memory_high",), "memory", _high_v2, _read_high_v2),
    Group(("pids",), "pids", _pids, _read_pids),
    Group(("io",), "io", _io_v2, _read_io_v2),
)
_GROUPS = {1: _V1, 2: _V2}
