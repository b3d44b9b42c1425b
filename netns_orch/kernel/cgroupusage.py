"""What a container used and uses, from the counters of its cgroups.

Owns: which file counts what, on v1 and v2.  Must not: know where cgroups lie.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, NamedTuple

from netns_orch.kernel import cgroupfiles as files


class Usage(NamedTuple):
    """What a container used and uses; None where this host does not count it."""

    cpu_usec: int | None = None
    memory: int | None = None
    """Bytes, the inactive page cache left out, as ``docker stats`` shows it."""
    memory_peak: int | None = None
    memory_limit: int | None = None
    pids: int | None = None
    pids_limit: int | None = None
    oom_kills: int = 0
    read_bytes: int | None = None
    written_bytes: int | None = None


def _number(path: str) -> int | None:
    text = files.read(path)
    return int(text) if text and text.isdecimal() else None


def _table(path: str) -> dict[str, int]:
    """Lines of ``key number``."""
    rows = (line.split() for line in (files.read(path) or "").splitlines())
    return {row[0]: int(row[1]) for row in rows if len(row) == 2 and row[1].isdecimal()}


def oom_kills(path: str) -> int:
    """How many processes of a cgroup the OOM killer took; 0 where that is not counted there."""
    files_of_both = ("memory.oom_control", "memory.events")
    return max(_table(f"{path}/{file}").get("oom_kill", 0) for file in files_of_both)


def usage_v2(path: str) -> dict[str, Any]:
    """Fields of ``Usage`` out of a container's v2 directory (``cpu.stat`` needs no controller)."""
    fields: dict[str, Any] = {"cpu_usec": _table(f"{path}/cpu.stat").get("usage_usec")}
    current = _number(f"{path}/memory.current")
    if current is not None:
        cache = _table(f"{path}/memory.stat").get("inactive_file", 0)
        fields["memory"] = max(0, current - cache)
        fields["memory_limit"] = _number(f"{path}/memory.max")
        fields["memory_peak"] = _number(f"{path}/memory.peak")
        fields["oom_kills"] = oom_kills(path)
    if os.path.exists(f"{path}/pids.current"):
        fields |= _usage_pids(path)
    stat = files.read(f"{path}/io.stat")
    if stat is not None:
        words = [word.split("=") for word in stat.split() if "=" in word]
        fields["read_bytes"] = sum(int(value) for key, value in words if key == "rbytes")
        fields["written_bytes"] = sum(int(value) for key, value in words if key == "wbytes")
    return fields


def _usage_pids(path: str) -> dict[str, Any]:
    return {"pids": _number(f"{path}/pids.current"), "pids_limit": _number(f"{path}/pids.max")}


def _usage_cpuacct(path: str) -> dict[str, Any]:
    nanoseconds = _number(f"{path}/cpuacct.usage")
    return {} if nanoseconds is None else {"cpu_usec": nanoseconds // 1000}


def _usage_memory(path: str) -> dict[str, Any]:
    current = _number(f"{path}/memory.usage_in_bytes")
    if current is None:
        return {}
    limit = _number(f"{path}/memory.limit_in_bytes")
    return {
        "memory": max(0, current - _table(f"{path}/memory.stat").get("total_inactive_file", 0)),
        "memory_limit": limit if limit is not None and limit < 1 << 62 else None,
        "memory_peak": _number(f"{path}/memory.max_usage_in_bytes"),
        "oom_kills": oom_kills(path),
    }


def _usage_blkio(path: str) -> dict[str, Any]:
    rows = [
        line.split() for line in (files.read(f"{path}/blkio.throttle.io_service_bytes") or "").splitlines()
    ]
    return {
        "read_bytes": sum(int(row[2]) for row in rows if len(row) == 3 and row[1] == "Read"),
        "written_bytes": sum(int(row[2]) for row in rows if len(row) == 3 and row[1] == "Write"),
    }


BY_CONTROLLER_V1: dict[str, Callable[[str], dict[str, Any]]] = {
    "cpuacct": _usage_cpuacct,
    "memory": _usage_memory,
    "pids": _usage_pids,
    "io": _usage_blkio,
}
"""Fields of ``Usage`` out of a container's directory in a v1 hierarchy, by controller."""
