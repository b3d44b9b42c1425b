"""The engine: runs a plan through the kernel, batch by batch.

Owns: the way from a phase to the kernel's function for it, and telling how far it is.  Must not: decide
anything (that is ``plan``) or know how a thing is done (that is ``kernel``).

A batch that fails raises, and may have done a part: the one who called observes again and runs the plan back
to the state before.  So no undo is written for any step.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from netns_orch.plan import Phase, Plan
from netns_orch.resources import Resource

Progress = Callable[[str, int, int], None]
"""What is being done, changes done, changes in all."""
Step = Callable[[Phase], None]
"""Called before each batch; tests make it fail or kill the process there."""

WORDS = {
    Phase.STOP: "stopping containers",
    Phase.GUARD: "loading the host's table",
    Phase.HOST: "setting the host's sysctls",
    Phase.LAYER: "unpacking layers",
    Phase.CGROUP: "making cgroups",
    Phase.FILES: "writing hosts files",
    Phase.CONTAINER: "making containers",
    Phase.NAME: "naming namespaces",
    Phase.NETWORK: "wiring",
    Phase.INTERFACE: "setting sysctls of interfaces",
    Phase.FIREWALL: "loading iptables",
    Phase.SETUP: "running setup",
    Phase.PROCESS: "starting commands",
    Phase.ANEW: "making containers anew",
    Phase.RELEASE: "giving back",
    Phase.UNGUARD: "removing the host's table",
}


class Kernel(Protocol):
    """What the engine needs of the kernel: one function that does the changes of one phase."""

    def perform(self, phase: str, changes: Sequence[tuple[Resource | None, Resource | None]]) -> None: ...


def run(plan: Plan, kernel: Kernel, *, progress: Progress | None = None, step: Step | None = None) -> None:
    """Do all changes of ``plan`` in order; raises what the kernel room raises, with a part done."""
    done, total = 0, len(plan)
    for batch in plan.batches():
        if step is not None:
            step(batch.phase)
        if progress is not None:
            progress(WORDS[batch.phase], done, total)
        kernel.perform(batch.phase.name.lower(), [(c.before, c.after) for c in batch.changes])
        done += len(batch.changes)
    if progress is not None:
        progress("", total, total)
