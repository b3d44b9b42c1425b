"""A container's log file, read from outside while PID 1 writes it.

Owns: the last lines, and following.  Must not: write.

PID 1 keeps the log below its size limit by turning its older part into a hole, so an offset means the same
byte for ever: who follows sees each byte once, and, where it is too slow, goes on behind the hole.
"""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

_POLL = 0.1
_CHUNK = 1 << 16


def size(path: Path) -> int:
    """The offset at which the log ends now; 0 where there is none yet."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def read(
    path: Path, *, tail: int | None, follow_while: Callable[[], bool] | None, since: int = 0
) -> Iterator[bytes]:
    """The log in pieces: its last ``tail`` lines, or all; then what is added, as long as that holds.

    ``since`` is an offset that ``size`` told: what was there before is left out.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        log = _Log(descriptor, since)
        yield from _last_lines(b"".join(log.pieces()), tail)
        while follow_while is not None:
            going_on = follow_while()  # asked before reading, so that the last words are not lost
            yield from log.pieces()
            if not going_on:
                return
            time.sleep(_POLL)
    finally:
        os.close(descriptor)


class _Log:
    """An open log and how far it is read."""

    def __init__(self, descriptor: int, at: int) -> None:
        self.descriptor, self.at = descriptor, at

    def pieces(self) -> Iterator[bytes]:
        """What is there beyond the last piece, up to the end that the log has now."""
        end = os.fstat(self.descriptor).st_size
        self.at = 0 if end < self.at else self.at  # cut: a file system without holes
        while self.at < end:
            piece = os.pread(self.descriptor, _CHUNK, self.at)
            first = self._first_data()
            if not piece:
                return  # it was cut just now
            if first == self.at:  # else a hole came to be there, perhaps while it was read
                self.at += len(piece)
                yield piece
            else:
                self.at = self._line_after(first)

    def _first_data(self) -> int:
        """Where the log goes on: ``at``, or the end of the hole there (lseek(2))."""
        try:
            return os.lseek(self.descriptor, self.at, os.SEEK_DATA)
        except OSError as error:
            if error.errno != errno.ENXIO:
                raise
            return os.fstat(self.descriptor).st_size

    def _line_after(self, offset: int) -> int:
        """The beginning of the first whole line behind a hole."""
        piece = os.pread(self.descriptor, _CHUNK, offset)
        return offset + (piece.find(b"\n") + 1 or len(piece))


def _last_lines(text: bytes, tail: int | None) -> Iterator[bytes]:
    if tail is not None:
        text = b"".join(text.splitlines(keepends=True)[-tail:]) if tail else b""
    if text:
        yield text
