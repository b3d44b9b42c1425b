"""Shell words: quoting, comments, functions, here-documents.

Owns: the syntax of POSIX sh.  Must not: know what is done.
"""

from __future__ import annotations

import shlex
import textwrap
from collections.abc import Iterable, Iterator

Lines = Iterator[str]
_WIDTH = 106


def word(text: str) -> str:
    """One word, quoted where it must be."""
    return shlex.quote(text)


def words(*parts: str | int | None) -> str:
    """A command of several words; None is left out."""
    return " ".join(word(str(part)) for part in parts if part is not None)


def comment(text: str) -> Lines:
    """An empty line, and a comment of several lines."""
    yield ""
    yield from (f"# {line}" for line in textwrap.wrap(text, _WIDTH))


def function(name: str, about: str, body: Iterable[str]) -> Lines:
    """A function with a comment; here-documents in it keep their lines as they are."""
    yield ""
    yield f"# {about}"
    yield f"{name}() {{"
    end = ""
    for line in body:
        yield line if end or not line else f"    {line}"
        if end and line == end:
            end = ""
        elif not end and "<<'" in line:
            end = line.rpartition("<<'")[2].partition("'")[0]
    yield "}"


def heredoc(command: str, lines: Iterable[str]) -> Lines:
    """A command that reads these lines, which the shell does not touch."""
    text = list(lines)
    end = "END"
    while end in text:
        end += "_"
    yield f"{command} <<'{end}'"
    yield from text
    yield end
