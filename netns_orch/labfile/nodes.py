"""The nodes of a YAML file: text as it was written, lists and mappings, each with its place.

Owns: the three node types, and how a node is named in an error.
Must not: interpret a scalar: that is for the field that reads it.
"""

from __future__ import annotations

import re

PLAIN, QUOTED, FILLED = 0, 1, 2
"""How a scalar was written: bare; in quotes or as a block; or its text came from a variable."""
_SIMPLE = re.compile(r"[\w-]+")
_NULLS = frozenset(("", "~", "null", "Null", "NULL"))


class Scalar:
    """A piece of text, exactly as written."""

    __slots__ = ("column", "line", "style", "value")

    def __init__(self, value: str, style: int, line: int, column: int) -> None:
        self.value = value
        self.style = style
        self.line = line
        self.column = column

    @property
    def null(self) -> bool:
        """Nothing stands there (or ``null``, ``~``)."""
        return self.style == PLAIN and self.value in _NULLS


class Sequence:
    """A list."""

    __slots__ = ("column", "items", "line")
    null = False

    def __init__(self, line: int, column: int) -> None:
        self.items: list[Node] = []
        self.line = line
        self.column = column


class Mapping:
    """A mapping: text to (the key itself, its value), in file order, merge keys resolved."""

    __slots__ = ("column", "entries", "flow", "line")
    null = False

    def __init__(self, line: int, column: int, flow: bool = False) -> None:
        self.entries: dict[str, tuple[Scalar, Node]] = {}
        self.line = line
        self.column = column
        self.flow = flow


Node = Scalar | Sequence | Mapping


def describe(node: Node) -> str:
    """What a node is, for ``expected ..., got ...``."""
    if isinstance(node, Sequence):
        return "a list"
    if isinstance(node, Mapping):
        return "a mapping"
    if node.null:
        return "nothing"
    return shown(node.value)


def shown(text: str) -> str:
    """A text in single quotes, on one line and not too long."""
    short = text if len(text) <= 60 else text[:57] + "..."
    if "\n" in short or not short.isprintable():
        return repr(short)
    return f"'{short}'"


def place(key: Scalar, value: Node) -> tuple[int, int]:
    """Where ``key: value`` is best pointed at: the value, or the key where the value is on later lines."""
    if value.line == key.line and not value.null:
        return value.line, value.column
    return key.line, key.column


def join(path: str, key: str) -> str:
    """The path of ``key`` below ``path``."""
    if not _SIMPLE.fullmatch(key):
        return f"{path}[{shown(key)}]"
    return f"{path}.{key}" if path else key
