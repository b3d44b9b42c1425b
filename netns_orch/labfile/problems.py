"""What is wrong with a lab file: collected, all of it, with places.

Owns: the list of problems of one file, and the limit on its length.
Must not: know the format.
"""

from __future__ import annotations

from netns_orch.errors import MOST_PROBLEMS, LabFileError, NetorchError, Where

_LONGEST_PATH = 200


class TooMany(Exception):
    """Raised by ``add`` when the list is full."""


class Problems:
    """The problems of one file, one for each place: what else is wrong there mostly follows from it."""

    def __init__(self, file: str) -> None:
        self.file = file
        self._found: dict[tuple[int, int], NetorchError] = {}

    def __len__(self) -> int:
        return len(self._found)

    def add(self, line: int, column: int, path: str, what: str, hint: str | None = None) -> None:
        """Note a problem at a 0-based line and column; TooMany after the hundredth."""
        self.at(Where(self.file, line + 1, column + 1, path), what, hint)

    def at(self, where: Where, what: str, hint: str | None = None) -> None:
        """Note a problem at a place; TooMany after the hundredth."""
        key = (where.line, where.column)
        if key in self._found:
            return
        if len(where.path) > _LONGEST_PATH:
            where = where._replace(path=where.path[: _LONGEST_PATH - 3] + "...")
        self._found[key] = NetorchError(what, where=where, hint=hint)
        if len(self._found) >= MOST_PROBLEMS:
            raise TooMany

    def error(self) -> LabFileError:
        """All of them, by place, as one error."""
        return LabFileError(self._found[key] for key in sorted(self._found))


def refuse(what: str, hint: str | None = None, file: str | None = None) -> LabFileError:
    """The error of a file that can not be read at all (with its name: at its beginning)."""
    where = Where(file, 1, 1) if file else None
    return LabFileError([NetorchError(what, where=where, hint=hint)])
