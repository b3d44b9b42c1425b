"""Starting commands: side by side as far as ``depends_on`` allows, each when those it waits for are ready.

Owns: the order at run time (the file's cycles were refused long before).  Must not: know how a command is
started (``runtime``) or found ready (``readiness``).
"""

from __future__ import annotations

import graphlib
import threading
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from netns_orch.errors import EXIT_FAILED
from netns_orch.kernel import readiness, runtime
from netns_orch.kernel.interrupts import Interrupted
from netns_orch.kernel.readiness import Watch
from netns_orch.kernel.runtime import Start

if TYPE_CHECKING:
    from concurrent.futures import Future


class _Task(NamedTuple):
    """One container to bring up; ``watch`` was begun before anything was started."""

    item: Start
    watch: Watch
    started: bool


def start(starts: Sequence[Start]) -> None:
    """Start all commands and wait until every container that has a ``ready`` is ready.

    Dependencies on containers that are not among ``starts`` hold already.  The first error ends it: what
    others still wait for is called off.
    """
    names = {item.directory.name for item in starts}
    simple = [item for item in starts if names.isdisjoint(item.spec["depends_on"])]
    begun = {item.directory.name for item in simple}
    tasks = {
        item.directory.name: _Task(
            item, readiness.watch(item.directory, item.spec, item.where), item.directory.name in begun
        )
        for item in starts
    }
    runtime.start_all(simple)
    _bring_up_in_order(tasks)


def _bring_up_in_order(tasks: Mapping[str, _Task]) -> None:
    if all(_is_up(task) for task in tasks.values()):
        return
    from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait

    sorter = graphlib.TopologicalSorter(
        {name: [n for n in task.item.spec["depends_on"] if n in tasks] for name, task in tasks.items()}
    )
    sorter.prepare()
    cancelled = threading.Event()
    running: dict[Future[None], str] = {}
    # A thread for each that needs one: with fewer, one that others wait for could be left in the queue.
    with ThreadPoolExecutor(max(1, len(tasks))) as pool:
        try:
            while sorter.is_active():
                for name in sorter.get_ready():
                    if _is_up(tasks[name]):
                        sorter.done(name)
                    else:
                        running[pool.submit(_bring_up, tasks[name], cancelled)] = name
                for future in wait(running, return_when=FIRST_COMPLETED).done if running else ():
                    future.result()
                    sorter.done(running.pop(future))
        except Interrupted as interrupted:
            _tell_waiting(interrupted, [tasks[name] for name in running.values()])
            raise
        finally:
            cancelled.set()
            for future in running:
                future.cancel()


def _tell_waiting(interrupted: Interrupted, waiting: Sequence[_Task]) -> None:
    """A time-out says for whom; whoever pressed ctrl-C saw it."""
    if waiting and interrupted.exit_code == EXIT_FAILED:
        names = ", ".join(task.item.directory.name for task in waiting)
        interrupted.at(waiting[0].item.where).hint = f"not ready by then: {names}"


def _is_up(task: _Task) -> bool:
    """Whether nothing is left to be done or waited for."""
    return task.started and task.item.spec["ready"] is None


def _bring_up(task: _Task, cancelled: threading.Event) -> None:
    if not task.started:
        runtime.start_all([task.item])
    readiness.wait(task.watch, cancelled)
