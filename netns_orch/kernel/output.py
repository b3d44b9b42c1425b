"""What a container writes on the host: its log and its status, through descriptors opened before it began.

Owns: the pipe that its command prints to, the size limit of the log, how the status is rewritten.
Must not: open anything by path, or import what the process that forks containers does not have.
"""

from __future__ import annotations

import json
import os
from contextlib import suppress

from netns_orch.kernel import syscalls as sc

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

LOG_LIMIT, LOG_KEPT = 2 << 20, 1 << 20
"""Bytes at which the log is cut, and how many of the latest are kept."""
_ALIGNED = 1 << 16
"""A multiple of every page size: only whole pages become a hole."""
_CREATE = os.O_CREAT | os.O_TRUNC | os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW


class Files:
    """The log, the status, and both ends of the pipe; made by ``create`` in the container's directory."""

    def __init__(self, log: int, status: int, output: int, output_in: int) -> None:
        self.log, self.status, self.output, self.output_in = log, status, output, output_in
        self._first = 0
        """Where the log begins now; before is a hole."""

    def numbers(self) -> list[int]:
        """All descriptors."""
        return [self.log, self.status, self.output, self.output_in]

    def close(self) -> None:
        """Close all of them."""
        for number in self.numbers():
            os.close(number)

    def drain(self) -> bool:
        """Move what was printed into the log (at most a pipe's worth at a time); False at the end of it."""
        for _ in range(16):
            try:
                chunk = os.read(self.output, 65536)
            except BlockingIOError:
                return True
            if not chunk:
                return False
            self._append(chunk)
        return True

    def _append(self, chunk: bytes) -> None:
        with suppress(OSError):  # the host's /run is full: the command must not block on it
            os.write(self.log, chunk)
            size = os.fstat(self.log).st_size
            if size - self._first > LOG_LIMIT:
                self._forget(size)

    def _forget(self, size: int) -> None:
        """Give back the older part of the log; offsets stay as they are, for who follows."""
        first = (size - LOG_KEPT) // _ALIGNED * _ALIGNED
        try:
            sc.punch_hole(self.log, 0, first)
            self._first = first
        except OSError:  # a file system without holes
            tail = os.pread(self.log, LOG_KEPT, size - LOG_KEPT)
            os.ftruncate(self.log, 0)  # opened for appending: writes begin at 0 again
            os.write(self.log, tail[tail.find(b"\n") + 1 :])
            self._first = 0

    def write_status(self, status: dict[str, Any]) -> None:
        """Replace the status as a whole."""
        data = json.dumps(status).encode()
        with suppress(OSError):
            os.pwrite(self.status, data, 0)
            os.ftruncate(self.status, len(data))


def create(directory: int) -> Files:
    """New, empty files in the container's directory on the host."""
    opened: list[int] = []
    try:
        opened.append(os.open("log", _CREATE | os.O_APPEND, 0o600, dir_fd=directory))
        opened.append(os.open("status", _CREATE, 0o600, dir_fd=directory))
        opened.extend(os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK))
    except OSError:
        for descriptor in opened:
            os.close(descriptor)
        raise
    os.set_blocking(opened[-1], True)
    return Files(*opened)


def exit_code(status: int) -> int:
    """A wait status as a shell says it: 128+n for signal n."""
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else 128 - code
