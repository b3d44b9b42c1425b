"""Typed errors: what went wrong, where, and what to do about it.

Owns: every exception that netorch raises on purpose, the exit codes they map to, and how they read.
Must not: do I/O or import anything else of the package.

OS errors are translated once, at the edge (the room ``kernel/``), into these.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice
from typing import NamedTuple

EXIT_DONE = 0
EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_NOT_BUILT = 3
"""``netorch test``: a lab could not be built."""
EXIT_EXEC_FAILED = 125
EXIT_NOT_EXECUTABLE = 126
EXIT_NOT_FOUND = 127
MOST_PROBLEMS = 100
"""Of one lab file: a hostile one must not keep us busy, nor flood a terminal."""


class Where(NamedTuple):
    """A place in a lab file: 1-based line and column, and the path of the key there."""

    file: str
    line: int
    column: int
    path: str = ""

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}"


class NetorchError(Exception):
    """An error a user can act on: ``what`` happened, ``where`` in the lab file, a ``hint``.

    Several hints are separate lines.  ``details`` are the words of a program that failed (iptables,
    a ``setup`` command), shown as they are.
    """

    exit_code = EXIT_FAILED

    def __init__(
        self,
        what: str,
        *,
        where: Where | None = None,
        hint: str | None = None,
        details: str | None = None,
    ) -> None:
        super().__init__(what)
        self.what = what
        self.where = where
        self.hint = hint
        self.details = details

    def at(self, where: Where | None) -> NetorchError:
        """Fill in the place, where the raiser did not know it."""
        if self.where is None:
            self.where = where
        return self

    def __reduce__(self) -> tuple[object, ...]:
        """As it is, whatever its class is made of: errors come back from processes that work for others."""
        return _error_again, (type(self), self.args, self.__dict__.copy())

    def __str__(self) -> str:
        return render(self)


def _error_again(
    kind: type[NetorchError], args: tuple[object, ...], about: dict[str, object]
) -> NetorchError:
    error = kind.__new__(kind, *args)
    error.__dict__.update(about)
    return error


class UsageError(NetorchError):
    """Wrong usage: an unknown command, lab, node or option value."""

    exit_code = EXIT_USAGE


class KernelError(NetorchError):
    """The kernel, or a program that speaks to it, refused; ``errno`` where there is one."""

    def __init__(
        self,
        what: str,
        *,
        errno: int | None = None,
        where: Where | None = None,
        hint: str | None = None,
        details: str | None = None,
    ) -> None:
        super().__init__(what, where=where, hint=hint, details=details)
        self.errno = errno


class LabFileError(NetorchError):
    """The lab file is not valid; ``problems`` holds every one of them, in file order, but a hundred at most.

    Where all of them are the host's state and none is the file's, the exit code says failed, not invalid.
    """

    exit_code = EXIT_USAGE

    def __init__(self, problems: Iterable[NetorchError]) -> None:
        self.problems = list(islice(problems, MOST_PROBLEMS))
        first, last = self.problems[0], self.problems[-1]
        if len(self.problems) == MOST_PROBLEMS:
            last.hint = "\n".join(filter(None, (last.hint, f"only {MOST_PROBLEMS} problems are shown")))
        super().__init__(first.what, where=first.where, hint=first.hint)
        if all(isinstance(problem, KernelError) for problem in self.problems):
            self.exit_code = EXIT_FAILED

    def __str__(self) -> str:
        return "\n\n".join(render(problem) for problem in self.problems)


class MissingFeature(NetorchError):
    """This kernel or host lacks something the lab needs (netem, vlan, a controller, a program)."""

    exit_code = EXIT_USAGE


class NotRootless(MissingFeature):
    """Something in the lab file that only root can have; the hint gets the whole ``sudo`` line, too."""


class PermissionNeeded(NetorchError):
    """The rights are missing; the hint holds the whole ``sudo`` line."""


class CommandFailed(NetorchError):
    """A command in a container did not exit 0, or not in time; ``details`` is what it said."""


class LockHeld(NetorchError):
    """Another process works on this lab."""


def render(error: NetorchError) -> str:
    """The text of one error, as DESIGN section 3 prints it (no trailing newline)."""
    lines = [f"error: {error.what}"]
    if error.where is not None:
        path = f"  {error.where.path}" if error.where.path else ""
        lines.append(f"  --> {error.where}{path}")
    if error.details:
        lines.extend(f"  | {line}" for line in error.details.strip().splitlines())
    if error.hint:
        lines.extend(f"hint: {line}" for line in error.hint.splitlines())
    return "\n".join(lines)
