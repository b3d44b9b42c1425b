"""Is there room on this host for all of a lab's containers: checked before ``up`` makes the first.

Owns: what a container takes.  Must not: look at the host (``kernel.capacity`` does).

What is met first as a lab grows, each with its own cure, is in the manual under "How large a lab can be".
"""

from __future__ import annotations

import errno
from collections.abc import Iterator

from netns_orch.errors import KernelError
from netns_orch.graph.names import Problems
from netns_orch.graph.wiring import Wiring
from netns_orch.resources import Capacity

MEMORY_EACH = 2 << 20
"""Bytes that an idle container takes; two thirds of them are the kernel's, in slabs."""
_TALKERS = 2
"""Neighbours that the kernel keeps for a container that talks to one other: one for each direction."""


def check_room(wiring: Wiring, free: Capacity, running: int, problems: Problems) -> None:
    """Errors for what there is not enough of; ``running`` of the lab's containers are up already."""
    for room, what, hint in _rooms(wiring, free, running):
        _check(wiring, room, what, hint, problems)
    joined = sum(1 for ends in wiring.ends.values() if ends)
    if free.neighbours is not None and _TALKERS * joined > free.neighbours:
        problems.warn(
            f"{joined} containers may have more neighbours at once than the kernel keeps, {free.neighbours} "
            "for all network namespaces together: packets get lost while many talk",
            None,
            f"sysctl -w net.ipv4.neigh.default.gc_thresh3={_rounded(8 * joined)}",
        )


def _rooms(wiring: Wiring, free: Capacity, running: int) -> Iterator[tuple[int, str, str]]:
    """How many containers there is room for, why no more, and what to do about it."""
    containers = list(wiring.topology.containers.values())
    if not containers:
        return
    processes = len(containers) + sum(1 for container in containers if container.command is not None)
    each = processes / len(containers)
    for name, most in free.processes.items():
        room = running + int((most - free.running) / each)
        needed = _rounded(free.running + processes)
        yield room, f"{name} is {most}, and {free.running} processes run", f"sysctl -w {name}={needed}"
    for name, most in free.namespaces.items():
        yield most, f"{name} is {most}", f"sysctl -w {name}={_rounded(2 * len(containers))}"
    if free.memory is not None:
        megabytes = free.memory >> 20
        what = f"{megabytes} MiB of memory are free, and an idle container takes {MEMORY_EACH / (1 << 20):g}"
        yield running + free.memory // MEMORY_EACH, what, "end what else takes memory, or take a larger host"


def _check(wiring: Wiring, room: int, what: str, hint: str, problems: Problems) -> None:
    containers = list(wiring.topology.containers.values())
    if room >= len(containers):
        return
    problems.errors.append(
        KernelError(
            f"there is room for {max(0, room)} of {len(containers)} containers on this host: {what}",
            errno=errno.EAGAIN,
            where=containers[max(0, room)].where,
            hint=hint,
        )
    )


def _rounded(number: int) -> int:
    """The next power of two: a sysctl for all labs to come."""
    return 1 << (number - 1).bit_length()
