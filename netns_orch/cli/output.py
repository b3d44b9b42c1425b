"""How things are shown: data on stdout, the rest on stderr, plain text that a terminal may decorate.

Owns: tables, JSON, the progress bar, colour, and the words for durations.  Must not: know what it shows.

Nothing here needs a library: importing rich takes 90 ms, half of what it takes to build a small lab.  Colour
never carries a meaning of its own, and NO_COLOR (no-color.org) is respected.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterable, Sequence
from typing import Any, TextIO

from netns_orch.errors import LabFileError, NetorchError, render

_COLOURS = {
    **{"error": "1;31", "warning": "1;33", "note": "36", "hint": "36"},
    **{"+": "32", "-": "31", "~": "33", "!": "1;33"},
}
_UNITS = (("d", 86400), ("h", 3600), ("m", 60), ("s", 1))
_REDRAW = 0.05
"""Seconds between two drawings of the bar: drawing must not slow what it shows."""
_BAR_WIDTH = 24


def out(text: str) -> None:
    """One line of data on stdout."""
    if sys.stdout is not None:
        sys.stdout.write(text + "\n")


def out_bytes(piece: bytes) -> None:
    """Bytes on stdout, at once and as they are."""
    if sys.stdout is not None:
        sys.stdout.buffer.write(piece)
        sys.stdout.buffer.flush()


def note(text: str) -> None:
    """One line on stderr, for people."""
    if sys.stderr is not None:
        sys.stderr.write(text + "\n")


def out_json(value: Any) -> None:
    """A value as JSON on stdout."""
    import json

    out(json.dumps(value, indent=2))


def is_terminal(stream: TextIO | None) -> bool:
    """Whether ``stream`` is a terminal that understands escape sequences."""
    return stream is not None and stream.isatty() and os.environ.get("TERM") != "dumb"


def has_colour(stream: TextIO | None) -> bool:
    """Whether colour is welcome on ``stream``."""
    return is_terminal(stream) and not os.environ.get("NO_COLOR")


def coloured(name: str, text: str, stream: TextIO | None) -> str:
    """``text`` in the colour of ``name``, where ``stream`` takes colour."""
    return f"\x1b[{_COLOURS[name]}m{text}\x1b[0m" if has_colour(stream) else text


def clean(text: str) -> str:
    """``text`` with what would steer a terminal made visible; line ends stay."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c in "\n\t" else ascii(c)[1:-1] for c in text)


def error_text(error: NetorchError, word: str = "error") -> str:
    """An error, or a ``word`` other than that, as people read it on stderr."""
    if isinstance(error, LabFileError):
        return "\n\n".join(error_text(problem, word) for problem in error.problems)
    lines = clean(render(error)).split("\n")
    lines[0] = coloured(word, f"{word}:", sys.stderr) + lines[0].removeprefix("error:")
    return "\n".join(_hint_coloured(line) for line in lines)


def _hint_coloured(line: str) -> str:
    if not line.startswith("hint:"):
        return line
    return coloured("hint", "hint:", sys.stderr) + line.removeprefix("hint:")


def warn(warnings: Iterable[NetorchError]) -> None:
    """Each warning on stderr."""
    for warning in warnings:
        note(error_text(warning, "warning"))


def plan_line(line: str) -> str:
    """A line of a plan, its symbol coloured."""
    symbol = line[:1]
    return coloured(symbol, line, sys.stdout) if symbol in _COLOURS else line


def table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> list[str]:
    """Aligned columns, numbers to the right; cut to the width of a terminal, whole anywhere else."""
    texts = [[_cell(value) for value in row] for row in rows]
    columns = list(zip(header, *texts, strict=True))
    widths = [max(map(len, column)) for column in columns]
    right = [all(cell.isdigit() or cell == "-" for cell in column[1:]) for column in columns]
    lines = [_row(cells, widths, right) for cells in [list(header), *texts]]
    if not is_terminal(sys.stdout):
        return lines
    width = _terminal_width()
    return [line if len(line) <= width else line[: width - 1] + "…" for line in lines]


def _terminal_width() -> int:
    import shutil

    return shutil.get_terminal_size().columns


def _row(cells: list[str], widths: list[int], right: list[bool]) -> str:
    places = zip(cells, widths, right, strict=True)
    return "  ".join(c.rjust(w) if r else c.ljust(w) for c, w, r in places).rstrip()


def _cell(value: object) -> str:
    if value is None or value == "" or value == []:
        return "-"
    if isinstance(value, (list, tuple)):
        return ",".join(str(item) for item in value)
    return clean(str(value)).replace("\n", " ")


def duration_text(seconds: float | None) -> str:
    """A length of time in its two largest units: ``3s``, ``5m 3s``, ``2d 4h``; ``-`` for None."""
    if seconds is None:
        return "-"
    amounts, rest = [], max(0, int(seconds))
    for unit, size in _UNITS:
        amount, rest = divmod(rest, size)
        amounts.append((amount, unit))
    first = next((place for place, (amount, _) in enumerate(amounts) if amount), len(amounts) - 1)
    shown = [amounts[first], *(pair for pair in amounts[first + 1 : first + 2] if pair[0])]
    return " ".join(f"{amount}{unit}" for amount, unit in shown)


def size_text(size: float | None) -> str:
    """Bytes in the largest unit that fits, of 1024: ``17B``, ``1.5M``; ``-`` for None."""
    if size is None:
        return "-"
    for unit in "BKMGT":
        if size < 999.5 or unit == "T":
            break
        size /= 1024
    return f"{size:.0f}{unit}" if unit == "B" or size >= 99.5 else f"{size:.1f}{unit}"


def ago(moment: float | None) -> str:
    """How long ago a moment (Unix seconds) was."""
    return "-" if moment is None else f"{duration_text(time.time() - moment)} ago"


def count(number: int, noun: str) -> str:
    """``1 link``, ``2 links``."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


class Progress:
    """A bar on stderr while something runs; silent where stderr is no terminal.

    Used as ``with Progress() as progress``, then called with what is being done, how many are, of how many.
    """

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = sys.stderr if stream is None else stream
        self._shows = is_terminal(self._stream)
        self._drawn = 0.0
        self._what = ""

    def __enter__(self) -> Progress:
        return self

    def __call__(self, what: str, done: int, total: int) -> None:
        if not self._shows:
            return
        now = time.monotonic()
        if what == self._what and now - self._drawn < _REDRAW and done < total:
            return
        self._drawn, self._what = now, what
        self._stream.write(f"\r{self._line(what, done, total)}\x1b[K")
        self._stream.flush()

    def _line(self, what: str, done: int, total: int) -> str:
        full, empty = ("━", "┄") if "utf" in (self._stream.encoding or "").lower() else ("#", ".")
        filled = _BAR_WIDTH * done // total if total else _BAR_WIDTH
        text = f"{full * filled}{empty * (_BAR_WIDTH - filled)} {done}/{total} {clean(what)}"
        return text[: _terminal_width() - 1]

    def __exit__(self, *_: object) -> None:
        if self._shows and self._drawn:
            self._stream.write("\r\x1b[K")
            self._stream.flush()
