"""The command line, as a user runs it."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from support.waiting import PATIENCE

ROOT = Path(__file__).resolve().parents[2]
TOPOLOGIES = ROOT / "topologies"
SECONDS = 120 * PATIENCE
"""How long any one command may take before it counts as hanging."""
_BROKEN = re.compile(r"Traceback \(most recent call last\)|^error: internal error", re.MULTILINE)
"""What a user must never see, whatever the exit code."""


@dataclass(frozen=True)
class Result:
    """How a command ended."""

    argv: list[str]
    code: int
    stdout: str
    stderr: str

    def json(self) -> Any:
        """What it printed on stdout, which must be one JSON value and nothing else."""
        return json.loads(self.stdout)

    def __str__(self) -> str:
        return f"{shlex.join(self.argv)} exited {self.code}\nstdout: {self.stdout}\nstderr: {self.stderr}"


class Netorch:
    """Runs ``netorch`` in a directory; a call waits for the end and returns the Result."""

    prefix: tuple[str, ...] = ()
    """Words before the command line, that have it run as somebody else."""

    def __init__(self, directory: Path, environment: Mapping[str, str] | None = None) -> None:
        self.directory = directory
        self.environment = {**os.environ, "NO_COLOR": "1", "COLUMNS": "200", **(environment or {})}

    @staticmethod
    def argv(*words: str | Path, python: tuple[str, ...] = ()) -> list[str]:
        """The command line that runs ``netorch`` with the interpreter of the tests."""
        return [sys.executable, *python, "-m", "netns_orch", *map(str, words)]

    def __call__(
        self,
        *words: str | Path,
        code: int | None = 0,
        input: str | None = None,
        environment: Mapping[str, str] | None = None,
        python: tuple[str, ...] = (),
    ) -> Result:
        """Run it; ``code`` is the exit code that it must have (None: any)."""
        argv = self.argv(*words, python=python)
        with self.start(*words, environment=environment, python=python) as process:
            try:
                stdout, stderr = process.communicate(input, timeout=SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                stdout, stderr = process.communicate()
                raise AssertionError(f"{shlex.join(argv)} hangs\n{stdout}\n{stderr}") from None
        result = Result(["netorch", *map(str, words)], process.returncode, stdout, stderr)
        assert not _BROKEN.search(result.stderr), str(result)
        assert code is None or result.code == code, f"wanted exit code {code}: {result}"
        return result

    def start(
        self,
        *words: str | Path,
        environment: Mapping[str, str] | None = None,
        python: tuple[str, ...] = (),
        stdin: int = subprocess.PIPE,
    ) -> subprocess.Popen[str]:
        """Start it and leave it running, in a process group of its own (a terminal's foreground job)."""
        return subprocess.Popen(
            self.argv(*words, python=python),
            cwd=self.directory,
            env={**self.environment, **(environment or {})},
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            # What a shell gives its commands: Python's own ignored SIGPIPE must not be inherited.
            restore_signals=True,
        )

    def write(self, text: str, name: str = "lab.yaml") -> Path:
        """A lab file in the directory."""
        path = self.directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    @contextlib.contextmanager
    def lab(self, file: str | Path, *options: str) -> Iterator[Lab]:
        """A lab that is up inside the ``with``; ``file`` is a path, or the text of a lab file."""
        path = file if isinstance(file, Path) else self.write(file)
        self("up", *options, path)
        try:
            yield Lab(self, path)
        finally:
            self("down", path)

    def interrupt(self, process: subprocess.Popen[str], number: int = signal.SIGINT) -> None:
        """What ctrl-C does: the signal goes to the whole foreground process group."""
        os.killpg(process.pid, number)


@dataclass(frozen=True)
class Lab:
    """A lab that is up."""

    netorch: Netorch
    file: Path

    def exec(self, node: str, *argv: str, code: int | None = 0, input: str | None = None) -> Result:
        """Run a command in a container; with ``input`` as its standard input."""
        options = [] if input is None else ["-i"]
        return self.netorch("exec", *options, node, *argv, code=code, input=input)

    def sh(self, node: str, script: str, code: int | None = 0) -> str:
        """Run a shell script in a container; its output, without the last newlines."""
        return self.exec(node, "sh", "-c", script, code=code).stdout.rstrip()

    def python(self, node: str, script: str, code: int | None = 0) -> str:
        """Run a Python script in a container; its output, without the last newlines."""
        return self.exec(node, "python3", "-I", "-c", script, code=code).stdout.rstrip()

    def ping(self, node: str, target: str, *, passes: bool = True) -> None:
        """One packet, no second try; it must pass, or (``passes=False``) must not."""
        result = self.exec(node, "ping", "-n", "-c1", "-W1", target, code=None)
        if passes:
            assert result.code == 0, f"the first packet must pass: {result}"
        else:
            assert result.code == 1, f"no packet must pass: {result}"
