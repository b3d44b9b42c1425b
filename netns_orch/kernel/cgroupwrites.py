"""The limits and the device filter of one container's cgroup: written, read back, explained when refused.

Owns: the order of writes, and the words for what the kernel refuses.
Must not: know where the directory lies in the trees, or what a limit is called on which version
(``cgrouplimits``).
"""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from typing import Any

from netns_orch.errors import KernelError
from netns_orch.kernel import cgroupfiles as files
from netns_orch.kernel import cgrouplimits, devicefilter
from netns_orch.resources import Cgroup


def write_group(directory: str, group: cgrouplimits.Group, limits: Cgroup) -> None:
    """Write limits and read them back; KernelError where the kernel refuses them or keeps others."""
    writes = [(write.file, _text(directory, write)) for write in group.writes(limits)]
    try:
        _write_all(directory, writes)
    except OSError as error:
        raise _limit_error(directory, group, limits, error) from error
    found = observed_group(directory, group, limits)
    wanted = tuple(getattr(limits, name) for name in group.fields)
    if found != wanted:
        names = ", ".join(group.fields)
        raise KernelError(
            f"container {limits.container}: the kernel keeps {found} for {names}, not {wanted}",
            where=limits.where,
        )


def _text(directory: str, write: cgrouplimits.Write) -> str:
    """An empty cpuset means on v2 all that the parent has, which v1 wants to be told."""
    if write.text == "\n" and os.path.exists(f"{directory}/cgroup.clone_children"):
        return files.read(f"{os.path.dirname(directory)}/{write.file}") or "0"
    return write.text


def _write_all(directory: str, writes: Sequence[tuple[str, str]]) -> None:
    """In this order; in the other one where the kernel wants a pair of limits raised upper one first."""
    try:
        _write_each(directory, writes)
    except OSError as error:
        if error.errno == errno.EINVAL and len(writes) == 2:
            _write_each(directory, writes[::-1])
        elif error.errno == errno.ENOSPC and [text for _, text in writes] == ["\n"]:
            # v2 takes no cpuset back from processes that are in it: they get all that there are.
            _write_each(directory, [(file, _cpus_above(directory) or "0") for file, _ in writes])
        else:
            raise


def _write_each(directory: str, writes: Sequence[tuple[str, str]]) -> None:
    for file, text in writes:
        try:
            files.write(f"{directory}/{file}", text)
        except FileNotFoundError:
            if "swap" not in file and "memsw" not in file:
                raise  # a kernel without swap accounting: there is nothing to forbid


def _limit_error(directory: str, group: cgrouplimits.Group, limits: Cgroup, error: OSError) -> KernelError:
    values = ", ".join(f"{n}: {getattr(limits, n)}" for n in group.fields if getattr(limits, n) is not None)
    hint = None
    if group.controller == "cpuset":
        hint = f"there are: {_cpus_above(directory)}"
    elif group.controller == "memory" and error.errno == errno.EBUSY:
        hint = "the container already uses more than that"
    elif group.controller == "io":
        hint = "limits are for whole disks, not for partitions"
    return KernelError(
        f"container {limits.container}: the kernel refuses {values} ({error.strerror})",
        errno=error.errno,
        where=limits.where,
        hint=hint,
    )


def _cpus_above(directory: str) -> str | None:
    """The CPUs that it may have at most."""
    above = os.path.dirname(directory)
    return files.read(f"{above}/cpuset.cpus.effective") or files.read(f"{above}/cpuset.cpus")


def observed_group(directory: str, group: cgrouplimits.Group, asked: Cgroup) -> tuple[Any, ...]:
    """The limits of a group as they are, in the words of ``asked`` where the kernel keeps just those."""
    found = group.read(lambda file: files.read(f"{directory}/{file}"))
    if group.controller == "cpuset" and asked.cpuset is None and found[0] == _cpus_above(directory):
        found = (None,)
    return cgrouplimits.as_kept(group, asked, found)


def filter_v1(directory: str, rules: Sequence[devicefilter.Rule] | None) -> None:
    """Allow exactly these devices (None: all)."""
    if rules is None:
        files.write(f"{directory}/devices.allow", "a")
        return
    files.write(f"{directory}/devices.deny", "a")
    files.write(f"{directory}/devices.allow", *devicefilter.v1_lines(rules))


def filter_v2(directory: str, rules: Sequence[devicefilter.Rule] | None) -> None:
    """Allow exactly these devices (None: all)."""
    try:
        if rules is None:
            devicefilter.detach(directory)
        else:
            devicefilter.attach(directory, rules)
    except PermissionError:
        if files.is_real_root():
            raise  # in a user namespace nobody can make a device node anyway
