"""The processes of a container, as /proc on the host tells of them.

Owns: which fields of /proc/PID say what (proc_pid_stat(5), proc_pid_status(5)).
Must not: know how the pids were found; fail because a process ended meanwhile.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import Any

from netns_orch.kernel import users

_TICKS = os.sysconf("SC_CLK_TCK")
_COMMAND_LIMIT = 4096
_NOBODY = 65534
_ALL = (1 << 32) - 1


def listing(pids: Iterable[int], first: int) -> list[dict[str, Any]]:
    """The processes ``pids`` (of the host) of the container whose PID 1 is ``first``, by their pid inside.

    Each: pid, inside (its pid there; None: none), ppid (inside), user (as the container names it), state,
    threads, cpu_seconds, memory (resident bytes), started (unix seconds), command.
    """
    level = len(_status(first).get("NSpid", "").split()) - 1
    names = _user_names(first)
    ids = IdMap.of(first)
    boot = time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)
    found = []
    for pid in pids:
        with suppress(OSError, IndexError, ValueError):
            found.append(_process(pid, level, ids, names, boot))
    inside = {row["pid"]: row["inside"] for row in found}
    for row in found:
        row["ppid"] = inside.get(row["ppid"])
    return sorted(found, key=lambda row: (row["inside"] is None, row["inside"], row["pid"]))


def inside(first: int) -> list[int]:
    """The processes in the pid namespace of a container's PID 1, where no cgroup tells of them.

    Those in namespaces below that one, which a container with ``nesting`` can make, are left out.
    """
    found = []
    for name in os.listdir("/proc"):
        if name.isdecimal():
            with suppress(OSError):
                if os.path.samefile(f"/proc/{name}/ns/pid", f"/proc/{first}/ns/pid"):
                    found.append(int(name))
    return found


def _process(pid: int, level: int, ids: IdMap, names: Mapping[int, str], boot: float) -> dict[str, Any]:
    with open(f"/proc/{pid}/stat", "rb") as file:
        head, _, tail = file.read().rpartition(b")")
    fields = tail.split()
    status = _status(pid)
    numbers = status.get("NSpid", "").split()
    uid = ids.inside(int(status["Uid"].split()[1]))
    return {
        "pid": pid,
        "inside": int(numbers[level]) if 0 <= level < len(numbers) else None,
        "ppid": int(fields[1]),
        "user": names.get(uid, str(uid)),
        "state": fields[0].decode(),
        "threads": int(fields[17]),
        "cpu_seconds": (int(fields[11]) + int(fields[12])) / _TICKS,
        "memory": int(fields[21]) * os.sysconf("SC_PAGE_SIZE"),
        "started": round(boot + int(fields[19]) / _TICKS, 2),
        "command": _command(pid) or f"[{head.partition(b'(')[2].decode(errors='replace')}]",
    }


def _command(pid: int) -> str:
    with open(f"/proc/{pid}/cmdline", "rb") as file:
        words = file.read(_COMMAND_LIMIT).rstrip(b"\0").split(b"\0")
    return b" ".join(words).decode(errors="replace")


def _status(pid: int) -> dict[str, str]:
    try:
        with open(f"/proc/{pid}/status", encoding="utf-8", errors="replace") as file:
            return {key: value.strip() for key, _, value in (line.partition(":") for line in file)}
    except (FileNotFoundError, ProcessLookupError):
        return {}


def _user_names(first: int) -> dict[int, str]:
    try:
        root = users.root_of(first)
    except OSError:
        return {}
    try:
        return users.names(root)
    finally:
        os.close(root)


class IdMap:
    """User (or group) ids of a container as the host sees them, and back (user_namespaces(7))."""

    def __init__(self, ranges: Iterable[tuple[int, int, int]]) -> None:
        self._ranges = list(ranges)
        """(first inside, first outside, how many)"""

    @classmethod
    def of(cls, pid: int, kind: str = "uid") -> IdMap:
        """The map of a process's user namespace; ``kind`` is uid or gid.  An empty one where it is gone."""
        try:
            if os.path.samefile(f"/proc/{pid}/ns/user", "/proc/self/ns/user"):
                return cls([(0, 0, _ALL)])  # the file would tell of ours, as the one around it sees that
            with open(f"/proc/{pid}/{kind}_map", encoding="ascii") as file:
                rows = [[int(word) for word in line.split()] for line in file]
        except OSError:
            return cls([])
        return cls([(row[0], row[1], row[2]) for row in rows])

    def inside(self, outside: int) -> int:
        """An id of the host as the container sees it: nobody's, where it has none."""
        for first, host, count in self._ranges:
            if host <= outside < host + count:
                return first + outside - host
        return _NOBODY

    def outside(self, inside: int) -> int | None:
        """An id of the container as the host sees it; None where it has none."""
        for first, host, count in self._ranges:
            if first <= inside < first + count:
                return host + inside - first
        return None
