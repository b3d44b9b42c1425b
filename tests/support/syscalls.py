"""One command of netorch under strace(1), struck at one of its system calls: killed there, or refused.

Everything that the command starts is traced as well: its threads, nft, the process that forks containers, and
containers until their own command runs.  strace would follow those for as long as they live, so it is told to
let go of them when the command itself has ended.
"""

from __future__ import annotations

import os
import re
import select
import shutil
import signal
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from support.runner import ROOT, Netorch
from support.waiting import PATIENCE, until

KILL = "KILL"
ERRORS = ("ENOSPC", "EPERM", "EBUSY", "ENOMEM", "EINTR")
CALLS = (
    *("clone", "clone3", "vfork", "execve", "unshare", "setns", "capset", "pidfd_open", "pidfd_send_signal"),
    *("mount", "umount2", "pivot_root", "fsopen", "fsconfig", "fsmount", "open_tree", "move_mount"),
    *("mount_setattr", "openat", "openat2", "write", "mkdir", "mkdirat", "rmdir", "mknodat", "symlink"),
    *("symlinkat", "rename", "renameat", "unlink", "unlinkat", "chmod", "fchmod", "fchmodat", "fchown"),
    *("flock", "setxattr", "removexattr", "memfd_create", "socket", "bind", "sendto", "sendmsg"),
)
"""Those that make, change or remove something, or get hold of it; not every machine has each of them."""
SECONDS = 90 * PATIENCE
"""How long one command may take under strace before it counts as hanging."""
_LIBRARIES = tuple({sys.prefix, sys.base_prefix, f"{ROOT}/netns_orch", "/usr/lib", "/lib", "/etc/ld.so"})
_ENTERED = re.compile(r'^(\d+) +(\w+)\((?:[^"]*"([^"]*)")?')
_ENDED = re.compile(r"^(\d+) +\+\+\+ (?:exited with (\d+)|killed by (\w+))", re.MULTILINE)


class Call(NamedTuple):
    """The n-th call of a system call, counted in each process and thread by itself."""

    name: str
    number: int


class Outcome(NamedTuple):
    """How a struck command ended."""

    reached: bool
    hangs: bool
    stderr: str


def why_not() -> str | None:
    """Why nothing can be struck here, or None."""
    return None if shutil.which("strace") else "needs strace (apt-get install strace)"


def calls(run: Netorch, *words: str | Path) -> list[Call]:
    """The calls that a command of netorch makes, one for each number that some process comes to.

    What an interpreter or a program opens to start is left out: nothing has been made by then.
    """
    log, _hangs, stderr = _traced(run, [f"trace={','.join(f'?{name}' for name in CALLS)}"], words)
    ends = {pid: code for pid, code, _ in _ENDED.findall(log)}
    assert ends.get(log.split(" ", 1)[0]) == "0", f"{words} under strace: {stderr}"
    numbers: dict[tuple[str, str], int] = defaultdict(int)
    found: set[Call] = set()
    trivial: set[Call] = set()
    for line in log.splitlines():
        entered = _ENTERED.match(line)
        if entered is None:
            continue
        pid, name, path = entered.groups()
        numbers[pid, name] += 1
        call = Call(name, numbers[pid, name])
        starts = name == "openat" and path is not None and path.startswith(_LIBRARIES)
        (trivial if starts else found).add(call)
    # strace counts from the command's own execve on, and can not strike at that one.
    return sorted(found - trivial - {Call("execve", 1)})


def strike(run: Netorch, call: Call, fault: str, *words: str | Path) -> Outcome:
    """Run a command of netorch with one fault: ``KILL``, or the name of an error."""
    what = "signal=SIGKILL" if fault == KILL else f"error={fault}"
    options = [f"trace=execve,{call.name}", f"inject={call.name}:{what}:when={call.number}"]
    log, hangs, stderr = _traced(run, options, words)
    ends = _ENDED.findall(log)
    reached = any(by == "SIGKILL" for _, _, by in ends) if fault == KILL else "(INJECTED)" in log
    return Outcome(reached, hangs, stderr)


def _traced(run: Netorch, options: Sequence[str], words: Sequence[str | Path]) -> tuple[str, bool, str]:
    """Run a command under strace to its end; strace's log, whether it had to be ended, its stderr."""
    with tempfile.TemporaryDirectory(dir=run.directory) as scratch:
        Path(scratch).chmod(0o777)  # strace runs as who runs the command
        log, stderr = Path(scratch, "log"), Path(scratch, "stderr")
        # -I 2: with -o, a SIGTERM would be ignored else.  stderr is a file: a pipe ends with its last writer.
        argv = [*run.prefix, "strace", "-f", "-q", "-I", "2", "-s", "128", "-o", str(log)]
        for option in options:
            argv += ["-e", option]
        argv += run.argv(*words)[len(run.prefix) :]
        with stderr.open("wb") as file:
            strace = subprocess.Popen(
                argv,
                cwd=run.directory,
                env=run.environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=file,
            )
        try:
            # The first line is the command's own execve.
            until(lambda: _first(log) or strace.poll() is not None, "the first line of strace")
            hangs = not _wait(_first(log))
        except BaseException:  # interrupted: without strace it would run on
            if pid := _first(log):
                os.kill(int(pid), signal.SIGKILL)
            raise
        finally:
            strace.send_signal(signal.SIGTERM)
            try:
                strace.wait(timeout=30 * PATIENCE)
            except subprocess.TimeoutExpired:
                strace.kill()
                strace.wait()
        return log.read_text(errors="replace"), hangs, stderr.read_text(errors="replace")


def _first(log: Path) -> str | None:
    text = log.read_text(errors="replace") if log.exists() else ""
    return text.split(" ", 1)[0] if "\n" in text else None


def _wait(pid: str | None) -> bool:
    """Wait for the end of a process that is not our child; one that does not end is killed."""
    try:
        fd = os.pidfd_open(int(pid)) if pid else None
    except ProcessLookupError:
        fd = None
    if fd is None:
        return True
    try:
        ended = bool(select.select([fd], [], [], SECONDS)[0])
        if not ended:
            signal.pidfd_send_signal(fd, signal.SIGKILL)
            select.select([fd], [], [], 30 * PATIENCE)
        return ended
    finally:
        os.close(fd)
