"""Commands of the host: one in the namespace that the calling thread is in, or one of netorch's own.

Owns: these child processes, their output, and that none outlives its time or its caller's patience.
Must not: run anything in a container (``enter``).
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from netns_orch.kernel.inside import OUTPUT_LIMIT, CompletedRun

_TIMED_OUT, _NOT_FOUND, _NOT_EXECUTABLE = 124, 127, 126
_PACKAGE = Path(__file__).resolve().parents[2]


def run(argv: Sequence[str], timeout: float, directory: str | None = None) -> CompletedRun:
    """Run a command to its end; stdin is empty, stderr apart.

    Exit code 124: killed with all of its process group after ``timeout`` seconds; 126 and 127 as of a shell.
    """
    try:
        process = subprocess.Popen(
            list(argv),
            cwd=directory,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
    except OSError as error:
        code = _NOT_FOUND if isinstance(error, FileNotFoundError) else _NOT_EXECUTABLE
        return CompletedRun(code, b"", errors=f"{argv[0]}: {error.strerror}\n".encode())
    with process:
        try:
            output, errors = process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            _kill(process)
            output, errors = process.communicate()
            return CompletedRun(_TIMED_OUT, output[:OUTPUT_LIMIT], True, errors[:OUTPUT_LIMIT])
        except BaseException:
            _kill(process)
            raise
    code = process.returncode
    return CompletedRun(
        code if code >= 0 else 128 - code, output[:OUTPUT_LIMIT], errors=errors[:OUTPUT_LIMIT]
    )


def _kill(process: subprocess.Popen[bytes]) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def own_command(words: Sequence[str]) -> list[str]:
    """The command line that runs ``netorch`` with these words, by this interpreter and of this package."""
    found = f"import sys; sys.path.insert(0, {str(_PACKAGE)!r})"
    return [sys.executable, "-P", "-c", f"{found}; from netns_orch.cli import main; sys.exit(main())", *words]
