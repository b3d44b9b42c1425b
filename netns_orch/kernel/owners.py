"""Processes that labs belong to: told apart from whoever gets their number after them.

Owns: what identifies a process, and whether it lives.  Must not: know what depends on it.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

from netns_orch.kernel.rundir import process_start_time


def identify(pid: int) -> dict[str, int] | None:
    """Number, start time (clock ticks since boot) and pid namespace of a process; None: it does not live."""
    start = process_start_time(pid)
    return None if start is None else {"pid": pid, "start_time": start, "pid_namespace": _pid_namespace()}


def lives(owner: Mapping[str, int]) -> bool:
    """Whether it does; True as well where it can't be seen from here (pid_namespaces(7))."""
    if owner["pid_namespace"] != _pid_namespace():
        return True
    return process_start_time(owner["pid"]) == owner["start_time"]


def _pid_namespace() -> int:
    return os.stat("/proc/self/ns/pid").st_ino
