"""A pseudo-terminal between the user's terminal and a program in a container.

Owns: raw mode and its undoing, window size, the pump between both.
Must not: enter a container, or be imported where no terminal is asked for.
"""

from __future__ import annotations

import errno
import fcntl
import os
import termios
import tty

from netns_orch.kernel.session import write_all

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_TIOCGPTPEER = 0x5441
_TIOCSPTLCK = 0x40045431
_TIOCGWINSZ, _TIOCSWINSZ = termios.TIOCGWINSZ, termios.TIOCSWINSZ
_CHUNK = 65536
_PENDING = 1 << 20


def open_peer(master: int) -> int:
    """The slave of a pseudo-terminal, without a path that somebody else could have put there."""
    fcntl.ioctl(master, _TIOCSPTLCK, b"\0\0\0\0")
    return fcntl.ioctl(master, _TIOCGPTPEER, os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)


def is_terminal(descriptor: int) -> bool:
    """Whether a descriptor is a terminal."""
    return os.isatty(descriptor)


class Terminal:
    """The user's side (``source`` to read from or None, ``sink`` to write to) and the master.

    A context: raw inside, as it was outside, whatever happens.
    """

    def __init__(self, master: int, source: int | None, sink: int) -> None:
        self.master, self.source, self.sink = master, source, sink
        self.pending = b""
        self._saved: tuple[int, list[Any]] | None = None
        os.set_blocking(master, False)

    def __enter__(self) -> Terminal:
        self.raw()
        self.resize()
        return self

    def __exit__(self, *_: object) -> None:
        self.restore()

    def raw(self) -> None:
        """Hand every key through, where the source is a terminal."""
        if self.source is not None and os.isatty(self.source):
            self._saved = self.source, termios.tcgetattr(self.source)
            tty.setraw(self.source, termios.TCSANOW)

    def restore(self) -> None:
        """The user's terminal as it was."""
        if self._saved is None:
            return
        descriptor, attributes = self._saved
        self._saved = None
        try:
            termios.tcsetattr(descriptor, termios.TCSANOW, attributes)
        except termios.error:
            return  # it is gone

    def resize(self) -> None:
        """Give the program the size of the user's window."""
        for descriptor in (self.sink, self.source):
            if descriptor is not None and os.isatty(descriptor):
                size = fcntl.ioctl(descriptor, _TIOCGWINSZ, b"\0" * 8)
                fcntl.ioctl(self.master, _TIOCSWINSZ, size)
                return

    @property
    def wants_input(self) -> bool:
        """Whether there is room for more of what the user types."""
        return self.source is not None and len(self.pending) < _PENDING

    def read_user(self) -> None:
        """Take what was typed."""
        assert self.source is not None
        try:
            data = os.read(self.source, _CHUNK)
        except OSError:
            data = b""
        if not data:
            self.pending += self._end_of_file()
            self.source = None
        self.pending += data

    def _end_of_file(self) -> bytes:
        """The key that says end of file on this terminal (termios(3), VEOF)."""
        key: bytes = termios.tcgetattr(self.master)[6][termios.VEOF]
        return key

    def write_program(self) -> None:
        """Hand on what was typed, as much as fits."""
        try:
            written = os.write(self.master, self.pending)
        except BlockingIOError:
            return
        except OSError:
            written = len(self.pending)  # nobody reads any more
        self.pending = self.pending[written:]

    def read_program(self) -> bool:
        """Show what the program wrote; False at the end (EIO: nobody has the other side open)."""
        try:
            data = os.read(self.master, _CHUNK)
        except BlockingIOError:
            return True
        except OSError as error:
            if error.errno != errno.EIO:
                raise
            return False
        write_all(self.sink, data)
        return bool(data)

    def drain(self) -> None:
        """Show what is left in the terminal after the program ended (at most 1 MiB)."""
        for _ in range(16):
            try:
                data = os.read(self.master, _CHUNK)
            except OSError:  # EAGAIN: no more; EIO: no more for ever
                return
            write_all(self.sink, data)
