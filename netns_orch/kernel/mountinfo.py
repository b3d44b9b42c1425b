"""The mounts that a process sees, as the kernel lists them: proc_pid_mountinfo(5).

Owns: reading that file.  Must not: judge a mount; import more than a process that forks containers can carry.
"""

from __future__ import annotations

import os

_ESCAPES = (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\"))


class Mount:
    """One line: where it is mounted, what of its file system is, of which kind, and its device number."""

    __slots__ = ("device", "kind", "options", "point", "root")

    def __init__(self, line: str) -> None:
        left, _, right = line.rstrip("\n").partition(" - ")
        _, _, numbers, root, point, *_ = left.split(" ")
        self.kind, _, rest = right.partition(" ")
        major, _, minor = numbers.partition(":")
        self.device = os.makedev(int(major), int(minor))
        self.root, self.point = _unescape(root), _unescape(point)
        self.options = frozenset(rest.rpartition(" ")[2].split(","))
        """Of the file system, not of the mount."""


def of(process: str = "/proc/self") -> list[Mount]:
    """All of a process, in the order in which they were mounted; ``process`` is its directory in /proc.

    Raises OSError where it is gone.
    """
    with open(f"{process}/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
        return [Mount(line) for line in file]


def _unescape(text: str) -> str:
    if "\\" in text:
        for code, character in _ESCAPES:
            text = text.replace(code, character)
    return text
