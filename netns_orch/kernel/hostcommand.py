"""Commands of the host: one in the namespace that the calling thread is in, or one of netorch's own.

Owns: these child processes, their output, and that none outlives its time or its caller's patience.
Must not: run anything in a container (``enter``).
"""

from __future__ import annotations

import os
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from netns_orch.kernel import syscalls
from netns_orch.kernel.inside import OUTPUT_LIMIT, CompletedRun

_TIMED_OUT, _NOT_FOUND, _NOT_EXECUTABLE = 124, 127, 126
_PIECE = 65536
_PACKAGE = Path(__file__).resolve().parents[2]


def run(
    argv: Sequence[str], timeout: float, directory: str | None = None, *, ends_with_us: bool = False
) -> CompletedRun:
    """Run a command to its end; stdin is empty, stderr apart.

    ``ends_with_us``: it is killed where this process is (PR_SET_PDEATHSIG).
    Exit code 124: killed with all of its process group after ``timeout`` seconds; 126 and 127 as of a shell.
    """
    us = os.getpid()

    def end_with_us() -> None:
        syscalls.prctl(syscalls.PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != us:
            os._exit(1)

    try:
        process = subprocess.Popen(
            list(argv),
            cwd=directory,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
            preexec_fn=end_with_us if ends_with_us else None,
        )
    except OSError as error:
        code = _NOT_FOUND if isinstance(error, FileNotFoundError) else _NOT_EXECUTABLE
        return CompletedRun(code, b"", errors=f"{argv[0]}: {error.strerror}\n".encode())
    with process:
        output, errors, ended = _Kept(), _Kept(), False
        try:
            ended = _collect(process, output, errors, time.monotonic() + timeout)
        finally:
            if not ended:
                _kill(process)
    code = process.returncode if process.returncode >= 0 else 128 - process.returncode
    return CompletedRun(code if ended else _TIMED_OUT, bytes(output), not ended, bytes(errors))


class _Kept(bytearray):
    """The beginning of what a command prints; the rest is read, so that it can go on, and forgotten."""

    def take(self, piece: bytes) -> None:
        """Keep of a piece what there is room for."""
        self += piece[: OUTPUT_LIMIT - len(self)]


def _collect(process: subprocess.Popen[bytes], output: _Kept, errors: _Kept, deadline: float) -> bool:
    """Read until it has ended and nobody has its output open any more; False at the deadline."""
    assert process.stdout is not None and process.stderr is not None
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ, output)
        selector.register(process.stderr, selectors.EVENT_READ, errors)
        while selector.get_map():
            left = deadline - time.monotonic()
            if left <= 0:
                return False
            for key, _ in selector.select(left):
                piece = os.read(key.fd, _PIECE)
                key.data.take(piece)
                if not piece:
                    selector.unregister(key.fileobj)
    try:
        process.wait(max(0.0, deadline - time.monotonic()))
    except subprocess.TimeoutExpired:
        return False
    return True


def _kill(process: subprocess.Popen[bytes]) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def own_command(words: Sequence[str]) -> list[str]:
    """The command line that runs ``netorch`` with these words, by this interpreter and of this package."""
    found = f"import sys; sys.path.insert(0, {str(_PACKAGE)!r})"
    return [sys.executable, "-P", "-c", f"{found}; from netns_orch.cli import main; sys.exit(main())", *words]
