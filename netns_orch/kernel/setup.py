"""``setup``: the commands that shape a container after wiring and before its command.

Owns: running them in order, containers side by side, and saying which line failed.  Must not: know how a
container is entered (that is ``enter``).
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

from netns_orch.errors import KernelError
from netns_orch.kernel import enter
from netns_orch.resources import Setup

_SIDE_BY_SIDE = 4
_LAST_LINES = 20


def run(wanted: Sequence[tuple[Path, Setup]]) -> Iterator[Setup]:
    """Run the setup of each container (its directory, what to run); yields those that are done.

    KernelError at the first command that does not exit 0, with its output and its line in the file; what
    still runs in other containers then is killed.
    """
    if not wanted:
        return
    from concurrent.futures import ThreadPoolExecutor, as_completed

    cancelled = threading.Event()
    with ThreadPoolExecutor(_SIDE_BY_SIDE) as pool:
        futures = [pool.submit(_run_one, directory, setup, cancelled) for directory, setup in wanted]
        try:
            for future in as_completed(futures):
                yield future.result()
        finally:
            cancelled.set()
            for future in futures:
                future.cancel()


def _run_one(directory: Path, setup: Setup, cancelled: threading.Event) -> Setup:
    for number, argv in enumerate(setup.commands):
        done = enter.run(
            directory, list(argv), env=dict(setup.environment), cwd=setup.working_dir, cancelled=cancelled
        )
        if done.code != 0:
            raise KernelError(
                f"setup of {setup.container} failed: {_words(argv)} exited {done.code}",
                where=setup.lines[number] if setup.lines else setup.where,
                details=_tail(done.output),
                hint=f"try it by hand: netorch up --keep-failed, then netorch exec {setup.container} ...",
            )
    return setup


def _words(argv: Sequence[str]) -> str:
    return argv[2] if tuple(argv[:2]) == ("/bin/sh", "-c") else " ".join(argv)


def _tail(output: bytes) -> str:
    return "\n".join(output.decode(errors="replace").splitlines()[-_LAST_LINES:])
