"""How much this host has left of what every container takes: processes, namespaces, memory.

Owns: reading these limits.  Must not: say how much a lab needs (``graph.room``).
"""

from __future__ import annotations

from netns_orch.resources import Capacity

_NAMESPACES = ("net", "mnt", "pid", "ipc", "uts", "cgroup")


def capacity() -> Capacity:
    """What is there now; None for what this host does not tell."""
    running = int(_text("/proc/loadavg").split()[3].partition("/")[2])
    most = {name: _number(f"/proc/sys/kernel/{name}") for name in ("pid_max", "threads-max")}
    processes = {f"kernel.{name}": number for name, number in most.items() if number is not None}
    namespaces = {f"user.max_{kind}_namespaces": _most_namespaces(kind) for kind in _NAMESPACES}
    free = [line for line in _text("/proc/meminfo").splitlines() if line.startswith("MemAvailable:")]
    return Capacity(
        running=running,
        processes=processes,
        namespaces={name: number for name, number in namespaces.items() if number is not None},
        memory=int(free[0].split()[1]) * 1024 if free else None,
        neighbours=_number("/proc/sys/net/ipv4/neigh/default/gc_thresh3"),
    )


def _most_namespaces(kind: str) -> int | None:
    return _number(f"/proc/sys/user/max_{kind}_namespaces")


def _number(path: str) -> int | None:
    text = _text(path).strip()
    return int(text) if text.isdecimal() else None


def _text(path: str) -> str:
    try:
        with open(path, encoding="ascii") as file:
            return file.read()
    except OSError:
        return ""
