"""Programs that Python code runs in a container: each by a ``netorch exec`` of its own.

Owns: the words of that command, and its process.  Must not: enter anything itself (``enter``).

A process of its own is what keeps the caller whole: it may have any number of threads, and nothing of the
container is ever looked up by it.
"""

from __future__ import annotations

import subprocess
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from netns_orch.kernel.hostcommand import own_command

Running = subprocess.Popen
PIPE, DEVNULL, STDOUT = subprocess.PIPE, subprocess.DEVNULL, subprocess.STDOUT


class Completed(NamedTuple):
    """A program that has ended: its exit code (128+n: by signal n), and what it wrote."""

    code: int
    stdout: str
    stderr: str


class How(NamedTuple):
    """How a program is to run; what is None is the container's own."""

    user: str | None = None
    working_dir: str | None = None
    environment: Mapping[str, str] | None = None
    tty: bool = False


def start(lab: str, node: str, argv: Sequence[str], how: How, **more: Any) -> Running[Any]:
    """Begin to run a program; ``more`` goes to ``subprocess.Popen``."""
    return subprocess.Popen(_command(lab, node, argv, how), **more)


def run(
    lab: str, node: str, argv: Sequence[str], how: How, *, input: str | None, timeout: float | None
) -> Completed | None:
    """Run a program to its end; None where it was killed because it took longer than ``timeout`` seconds."""
    try:
        done = subprocess.run(
            _command(lab, node, argv, how),
            input=input or "",
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return None
    return Completed(done.returncode, done.stdout, done.stderr)


def _command(lab: str, node: str, argv: Sequence[str], how: How) -> list[str]:
    options = ["-i", *(["-t"] if how.tty else [])]
    for option, value in (("-u", how.user), ("-w", how.working_dir)):
        options += [option, value] if value is not None else []
    for name, value in (how.environment or {}).items():
        options += ["-e", f"{name}={value}"]
    return own_command(["exec", "--lab", lab, *options, node, *argv])
