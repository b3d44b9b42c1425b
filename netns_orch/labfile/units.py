"""Quantities as text: sizes, rates, durations, percentages, numbers.

Owns: the units that a lab file may use.
Must not: know where in the file a text stands; a wrong one is a ``Wrong`` with what and hint.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from netns_orch.labfile.nodes import shown


class Wrong(ValueError):
    """A text that is not what it should be: what is wrong, and a hint."""

    def __init__(self, what: str, hint: str | None = None) -> None:
        super().__init__(what)
        self.what = what
        self.hint = hint


SIZE = r"[0-9]+(\.[0-9]+)? ?([KkMmGgTt]([Ii]?[Bb])?|[Bb])?"
RATE = r"[0-9]+(\.[0-9]+)? ?([KkMmGg]?[Bb]it)"
DURATION = r"[+-]?(0|([0-9]+(\.[0-9]+)?(us|ms|s|m|h|d))+)"
POSITIVE_DURATION = r"0|([0-9]+(\.[0-9]+)?(us|ms|s|m|h|d))+"
PERCENTAGE = r"[0-9]+(\.[0-9]+)?%|0"

_SIZE = re.compile(SIZE)
_RATE = re.compile(RATE)
_DURATION = re.compile(DURATION)
_PERCENTAGE = re.compile(PERCENTAGE)
_WHOLE = re.compile(r"-?(0|[1-9][0-9]{0,18})")
_NUMBER = re.compile(r"-?(0|[1-9][0-9]{0,17})(\.[0-9]{1,18})?")
_POWERS = {"": 0, "b": 0, "k": 1, "m": 2, "g": 3, "t": 4}
_SECONDS = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_PART = re.compile(r"([0-9]+(?:\.[0-9]+)?)(us|ms|s|m|h|d)")
_MOST = 1 << 62
_LONGEST = 100 * 365 * 86400.0


def whole(text: str) -> int:
    """A whole number, in decimal and without leading zeros."""
    if _WHOLE.fullmatch(text):
        return int(text)
    hint = None
    if re.fullmatch(r"-?0[0-9]+", text):
        hint = "numbers are decimal: leave out the leading zero"
    elif re.fullmatch(r"[0-9]+([_,:][0-9]+)+|0[xo][0-9a-fA-F]+", text):
        hint = "write it in plain decimal digits"
    raise Wrong(f"expected a whole number, got {shown(text)}", hint)


def number(text: str) -> float:
    """A decimal number such as 0.5."""
    if _NUMBER.fullmatch(text):
        return float(text)
    raise Wrong(f"expected a number such as 0.5, got {shown(text)}")


def size(text: str) -> int:
    """Bytes: ``200M``, ``64K``, ``1.5G``, ``4096``; units of 1024."""
    match = _SIZE.fullmatch(text)
    if not match or len(text) > 24:
        raise Wrong(f"expected a size such as 200M, got {shown(text)}", "units are K, M, G, T, of 1024")
    digits, power = _scaled(text)
    value = int(digits * float(1024**power))
    if value > _MOST:
        raise Wrong(f"{shown(text)} is too large")
    return value


def _scaled(text: str) -> tuple[float, int]:
    """The number that ``text`` begins with, and the power that its unit stands for."""
    digits = text.rstrip("KkMmGgTtIiBb ")
    return float(digits), _POWERS[text[len(digits) :].strip().lower()[:1]]


def rate(text: str) -> int:
    """Bit/s: ``100mbit``, ``1.5gbit``, ``64kbit``; units of 1000, as tc(8) has them."""
    if not _RATE.fullmatch(text) or len(text) > 24:
        raise Wrong(f"expected a rate such as 100mbit, got {shown(text)}", _rate_hint(text))
    digits, power = _scaled(text)
    value = round(digits * float(1000**power))
    if not 8 <= value <= 10**15:
        raise Wrong(f"a rate of {shown(text)} is out of range")
    return value


def _rate_hint(text: str) -> str:
    if re.fullmatch(r"[0-9.]+ ?[kmg]?bps", text, re.IGNORECASE):
        return "bps is ambiguous (bytes to tc): write kbit, mbit or gbit"
    if re.fullmatch(r"[0-9]+", text):
        return f"with its unit: {text}bit, or kbit, mbit, gbit"
    return "units are bit, kbit, mbit, gbit, of 1000"


def duration(text: str) -> float:
    """Seconds: ``20ms``, ``10s``, ``1m30s``, ``1h``, ``1d``, ``500us``, or ``0``."""
    if text.startswith(("-", "+")):
        raise Wrong(f"a duration can't have a sign, got {shown(text)}")
    return offset(text)


def offset(text: str) -> float:
    """Seconds, as ``duration``, and perhaps negative: ``-1d``."""
    if not _DURATION.fullmatch(text) or len(text) > 40:
        hint = f"with its unit: {text}s, or us, ms, m, h, d" if re.fullmatch(r"-?[0-9.]+", text) else None
        what = f"expected a duration such as 10s, got {shown(text)}"
        raise Wrong(what, hint or "units are us, ms, s, m, h, d")
    seconds = sum((float(amount) * _SECONDS[unit] for amount, unit in _PART.findall(text)), 0.0)
    if seconds > _LONGEST:
        raise Wrong(f"{shown(text)} is too long")
    return -seconds if text.startswith("-") else seconds


def percentage(text: str) -> float:
    """0 to 100: ``0.1%``, ``10%``, or ``0``."""
    if not _PERCENTAGE.fullmatch(text) or len(text) > 24:
        hint = f"with its sign: {text}%" if re.fullmatch(r"[0-9.]+", text) else None
        raise Wrong(f"expected a percentage such as 0.1%, got {shown(text)}", hint)
    value = float(text.rstrip("%"))
    if value > 100:
        raise Wrong(f"a percentage is at most 100%, got {shown(text)}")
    return value


IMPAIRMENTS: dict[str, Callable[[str], float]] = {
    "delay": duration,
    "jitter": duration,
    "loss": percentage,
    "duplicate": percentage,
    "corrupt": percentage,
    "reorder": percentage,
    "rate": rate,
    "limit": whole,
}
"""What ``netorch link A B set`` knows, in the words and units of a link in the file."""
