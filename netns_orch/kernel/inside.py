"""A program run in a container on behalf of a large process: a small helper enters in its place.

Owns: the conversation with the helper, and the helper itself (this file run as ``python -I -S inside.py``).
Must not: know how a container is entered (``enter``).

The helper reads one JSON object from a line of its stdin, runs it, and writes the result as one line.  When
its stdin ends before that, its caller is gone: it kills what it runs.
"""

from __future__ import annotations

import os
import sys

if __name__ == "__main__":  # -I leaves only the standard library on the path
    sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))

import json
from base64 import b64decode, b64encode

from netns_orch.kernel import enter, interpreter, session

TYPE_CHECKING = False
if TYPE_CHECKING:
    import threading
    from collections.abc import Mapping, Sequence
    from typing import Any

OUTPUT_LIMIT = 1 << 20
"""Bytes of output that are kept."""
_CANCEL_POLL = 50
"""Milliseconds between two looks at whether a run is called off."""


class CompletedRun:
    """The exit code (124: killed after the time-out; 128+n: by signal n) and the output.

    ``errors`` is its stderr where that was asked for apart; else both are in ``output``.
    """

    __slots__ = ("code", "errors", "output", "timed_out")

    def __init__(self, code: int, output: bytes, timed_out: bool = False, errors: bytes = b"") -> None:
        self.code, self.output, self.timed_out, self.errors = code, output, timed_out, errors


def run(
    directory: str,
    argv: Sequence[str],
    environment: Mapping[str, str],
    working_dir: str | None,
    user: str | None,
    timeout: float | None,
    input: bytes | None,
    cancelled: threading.Event | None,
    apart: bool,
) -> CompletedRun:
    """As ``enter.run``.  Raises KernelError where the helper itself fails."""
    import subprocess

    from netns_orch.errors import KernelError

    order = {
        "directory": directory,
        "argv": list(argv),
        "environment": dict(environment),
        "working_dir": working_dir,
        "user": user,
        "timeout": timeout,
        "input": None if input is None else b64encode(input).decode(),
        "apart": apart,
    }
    command = [sys.executable, "-I", "-S", os.path.abspath(__file__)]
    tree = interpreter.protected()
    program = None if tree is None else f"/proc/self/fd/{tree}"
    kept = () if tree is None else (tree,)
    with subprocess.Popen(
        command, executable=program, pass_fds=kept, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as helper:
        if tree is not None:
            os.close(tree)
        assert helper.stdin is not None and helper.stdout is not None
        try:
            helper.stdin.write(json.dumps(order).encode() + b"\n")
            helper.stdin.flush()
            if cancelled is not None and not _answers(helper.stdout.fileno(), cancelled):
                helper.stdin.close()  # it kills what it runs, and answers
            answer = helper.stdout.readline()
        except BrokenPipeError:
            answer = b""
    if not answer:
        raise KernelError(f"the process that enters {directory} ended with code {helper.returncode}")
    result: dict[str, Any] = json.loads(answer)
    if "errno" in result:
        raise KernelError(f"can't enter {directory}: {result['what']}", errno=result["errno"])
    output, errors = b64decode(result["output"]), b64decode(result["errors"])
    return CompletedRun(result["code"], output, result["timed_out"], errors)


def _answers(descriptor: int, cancelled: threading.Event) -> bool:
    """Wait until there is something to read; False once that is called off."""
    import select

    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    while not poll.poll(_CANCEL_POLL):
        if cancelled.is_set():
            return False
    return True


def _serve(line: bytes) -> bytes:
    """The helper's work: run one order, its answer."""
    order = json.loads(line)
    output = session.Collected(OUTPUT_LIMIT)
    errors = session.Collected(OUTPUT_LIMIT) if order["apart"] else None

    def program() -> enter.Program:
        return enter.Program(
            enter.Target(order["directory"]),
            order["argv"],
            environment=order["environment"],
            working_dir=order["working_dir"],
            user=order["user"],
        )

    stdin = None if order["input"] is None else _in_memory(b64decode(order["input"]))
    job = session.Job(program, output, errors, stdin=stdin, timeout=order["timeout"])
    with session.Signals() as signals:
        session.Crowd([job], 1).run(signals, stop=0)
    if job.failure is not None:
        hint = f"\nhint: {job.failure.hint}" if job.failure.hint else ""
        (errors or output).data = bytearray(f"{job.failure.what}{hint}\n".encode())
    code = 124 if job.timed_out else job.code
    answer = {
        "code": code,
        "output": b64encode(output.data).decode(),
        "errors": b64encode(errors.data if errors else b"").decode(),
        "timed_out": job.timed_out,
    }
    return json.dumps(answer).encode() + b"\n"


def _in_memory(data: bytes) -> int:
    """A file without a name that holds ``data``, to be read from its beginning."""
    descriptor = os.memfd_create("input")
    with open(descriptor, "wb", closefd=False) as file:
        file.write(data)
    os.lseek(descriptor, 0, os.SEEK_SET)
    return descriptor


def main() -> None:
    """Serve one order."""
    with open(0, "rb", buffering=0, closefd=False) as orders:
        line = orders.readline()
    if not line:
        return
    try:
        answer = _serve(line)
    except OSError as error:
        answer = json.dumps({"errno": error.errno, "what": error.strerror}).encode() + b"\n"
    session.write_all(1, answer)


if __name__ == "__main__":
    main()
