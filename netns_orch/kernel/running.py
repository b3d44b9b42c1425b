"""A container that runs, and what is done to it as it runs: paused, signalled, waited for, looked at.

Owns: these operations, each safe against the container ending meanwhile.
Must not: start or end containers (``runtime``), enter them (``enter``), or know the lab's plan.
"""

from __future__ import annotations

import errno
import json
import os
import select
import signal
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from netns_orch.errors import KernelError
from netns_orch.kernel import runtime
from netns_orch.kernel import syscalls as sc
from netns_orch.kernel.rundir import LabDirectory, process_start_time

if TYPE_CHECKING:
    from netns_orch.kernel.cgroups import Hierarchies

_LOOK = 0.05
"""Seconds between two looks at a command's status."""
_LAST_LOOKS = 20
"""How often to look once PID 1 is gone."""
_KILL_ANSWER = 10.0
_KILLED = 128 + signal.SIGKILL


class Running:
    """One container whose PID 1 lives (``about`` is its container.json)."""

    def __init__(
        self, directory: LabDirectory, name: str, about: dict[str, Any], cgroups: Hierarchies
    ) -> None:
        self.name, self.about = name, about
        self.pid: int = about["pid"]
        self._place = directory.name, directory.id, name
        self._path = Path(directory.container(name))
        self._cgroups = cgroups

    # -- frozen and thawed ------------------------------------------------------------------------

    @property
    def paused(self) -> bool:
        """Whether it is frozen, or about to be."""
        return self._cgroups.frozen(*self._place)

    def pause(self) -> None:
        """Freeze all of it; once frozen, or not at all."""
        try:
            self._cgroups.freeze(*self._place)
        except BaseException:
            self._cgroups.thaw(*self._place)
            raise

    def unpause(self) -> None:
        """Let it go on."""
        self._cgroups.thaw(*self._place)

    # -- its command ------------------------------------------------------------------------------

    def kill(self, number: int) -> None:
        """Send its command a signal.  KernelError where none runs.

        After SIGKILL or its stop signal it is not run again by its restart policy, and one that is paused
        goes on to take it; any other signal is refused while it is paused.
        """
        spec = self._spec()
        ending = {signal.SIGKILL, runtime.signal_number(spec.get("stop_signal") or "TERM")}
        if self.paused and number not in ending:
            raise KernelError(f"container {self.name} is paused", hint=f"netorch unpause {self.name}")
        if runtime.status(self._path).get("state") not in ("running", "restarting"):
            raise self._no_command(spec)
        if spec.get("init", True):
            self._ask_to_kill(number)
        else:
            self._signal_first(number)

    def _ask_to_kill(self, number: int) -> None:
        try:
            asked = runtime.ask(self._path, {"op": "kill", "signal": number}, _KILL_ANSWER)
            self.unpause()
            answer = runtime.answer(asked)
        except OSError as error:
            raise KernelError(
                f"container {self.name}: its PID 1 does not answer ({error.strerror or error})",
                errno=error.errno,
            ) from error
        if "pid" not in answer:
            raise self._no_command(self._spec())

    def _signal_first(self, number: int) -> None:
        """``init: false``: the command is PID 1 itself."""
        pidfd = self._open_first()
        try:
            sc.pidfd_send_signal(pidfd, number)
        finally:
            os.close(pidfd)
        self.unpause()

    def _open_first(self) -> int:
        """A descriptor of PID 1; KernelError where it has ended."""
        try:
            pidfd = sc.pidfd_open(self.pid)
        except ProcessLookupError:
            raise gone(self.name) from None
        if process_start_time(self.pid) != self.about["start_time"]:
            os.close(pidfd)
            raise gone(self.name)
        return pidfd

    def _spec(self) -> dict[str, Any]:
        with suppress(FileNotFoundError, ValueError):
            spec: dict[str, Any] = json.loads((self._path / "process.json").read_bytes())
            return spec
        return {}

    def _no_command(self, spec: Mapping[str, Any]) -> KernelError:
        if spec.get("argv") is None:
            what = f"container {self.name} has no command: it is idle"
            return KernelError(what, hint="give it a `command` in the lab file")
        code = runtime.status(self._path).get("exit_code")
        return KernelError(
            f"the command of container {self.name} has ended (exit code {code})",
            hint=f"netorch restart {self.name}",
        )

    def wait(self) -> int:
        """Until the run of its command that is on now has ended; the exit code.

        The code of a run that ended already is told at once.  KernelError where there is no command, or where
        nobody saw how it ended.
        """
        pidfd = self._open_first()
        status = os.open(self._path / "status", os.O_RDONLY | os.O_CLOEXEC)  # outlives the file's name
        try:
            return self._wait(pidfd, status)
        finally:
            os.close(pidfd)
            os.close(status)

    def _wait(self, pidfd: int, status: int) -> int:
        first = _read_status(status)
        if first.get("state") == "idle":
            raise self._no_command({})
        poll = select.poll()
        poll.register(pidfd, select.POLLIN)
        looks_left = _LAST_LOOKS
        while looks_left:
            if poll.poll(int(_LOOK * 1000)):  # whoever keeps the status may still be writing it
                looks_left -= 1
                time.sleep(_LOOK if looks_left < _LAST_LOOKS - 1 else 0)
            now = _read_status(status)
            if now.get("state") in ("exited", "restarting") or now.get("started") != first.get("started"):
                code: int = now["exit_code"]
                return code
        return _KILLED  # PID 1 was killed, and the kernel killed all with it

    # -- looking ----------------------------------------------------------------------------------

    def processes(self) -> list[dict[str, Any]]:
        """Its processes, as ``processes.listing`` tells them."""
        from netns_orch.kernel import processes

        return processes.listing(self.pids(), self.pid)

    def pids(self) -> list[int]:
        """Its processes, by their pids on the host."""
        from netns_orch.kernel import processes

        return self._cgroups.processes(*self._place) if self._cgroups.all else processes.inside(self.pid)

    def usage(self) -> dict[str, Any]:
        """What its cgroups count, as ``cgroupusage.Usage``; without any, what its processes use."""
        usage = self._cgroups.usage(*self._place)
        if self._cgroups.all:
            return usage._asdict()
        rows = self.processes()
        return usage._asdict() | {
            "cpu_usec": int(sum(row["cpu_seconds"] for row in rows) * 1_000_000),
            "memory": sum(row["memory"] for row in rows),
            "pids": len(rows),
        }


def gone(name: str) -> KernelError:
    """The error of everything that needs a container to run."""
    return KernelError(
        f"container {name} is not running",
        errno=errno.ESRCH,
        hint=f"netorch restart {name}   makes it again",
    )


def _read_status(descriptor: int) -> dict[str, Any]:
    """The status; nothing where PID 1 was killed in the middle of writing it."""
    for _ in range(100):
        with suppress(ValueError):
            status: dict[str, Any] = json.loads(os.pread(descriptor, 65536, 0))
            return status
        time.sleep(0.001)
    return {}
