"""Runs ``up`` or ``down`` in a process of its own with a fault at the n-th step of the engine.

``python -m support.faults up FILE N kill`` is killed there, ``... N EPERM`` gets that error there.  It exits
0 when it came to the end before step N: so a sweep ends by itself, however many steps there are.
"""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

from netns_orch import lab, rootless
from netns_orch.errors import KernelError, NetorchError
from netns_orch.plan import Phase
from support.waiting import PATIENCE

FAULTED = 3
"""Exit code: the fault came, and the run failed."""


def faulted(what: str, step: int, kind: str, file: Path) -> int:
    """Run with a fault; its exit code, negative where it was killed."""
    from support.runner import ROOT, Netorch

    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"}
    *whose, module = Netorch.argv()
    assert module == "netns_orch"
    argv = [*whose, "support.faults", what, str(file), str(step), kind]
    seconds = 120 * PATIENCE
    done = subprocess.run(argv, env=environment, capture_output=True, text=True, timeout=seconds, check=False)
    assert done.returncode in (0, FAULTED, -signal.SIGKILL), done.stderr
    return done.returncode


class Fault:
    """Counts the steps, and strikes at the n-th."""

    def __init__(self, at: int, kind: str) -> None:
        self.left, self.kind = at, kind

    def __call__(self, phase: Phase) -> None:
        self.left -= 1
        if self.left != 0:
            return
        if self.kind == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        number = getattr(errno, self.kind)
        raise KernelError(f"injected at {phase.name}: {os.strerror(number)}", errno=number)


def main(what: str, file: str, at: str, kind: str) -> int:
    topology = lab.load(file)
    fault = Fault(int(at), kind)
    try:
        with rootless.command():
            if what == "up":
                rootless.settle(topology, building=True)
                lab.up(topology, step=fault)
            else:
                rootless.enter(topology.name)
                lab.down(topology.name, step=fault)
    except NetorchError as error:
        print(error, file=sys.stderr)
        return FAULTED
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
