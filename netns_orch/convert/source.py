"""The file that is read: its values with their places, and what is said about them.

Owns: ``Source`` (problems, remarks, variables of one file) and ``Value`` (one node with its place, read as
this or that type).  Must not: know a key of any format.

A value that can't be read as what it must be is a problem of the file (``fail``); one that a lab file can't
say is a remark: ``lost`` where the lab will behave otherwise, ``told`` where it won't but one may wonder.
"""

from __future__ import annotations

import posixpath
import shlex
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple, TypeVar

from netns_orch.convert import variables
from netns_orch.errors import NetorchError, Where
from netns_orch.labfile.nodes import PLAIN, Node, Scalar, Sequence, describe, join
from netns_orch.labfile.nodes import Mapping as MappingNode
from netns_orch.labfile.problems import Problems
from netns_orch.labfile.units import Wrong

T = TypeVar("T")
About = tuple[str, ...]
"""What of the lab a remark is about: ``("containers", "red")``; empty: all of it."""


class Remark(NamedTuple):
    """Something that the user should know: a loss, or only how a thing was understood."""

    error: NetorchError
    lost: bool
    about: About


class Source:
    """One file: where it lies, what its variables stand for, what was found wrong or lost."""

    def __init__(self, path: Path, environ: Mapping[str, str], output: Path) -> None:
        self.file = str(path)
        self.directory = path.absolute().parent
        self.output = output
        """The directory of the lab file, which its relative paths are of."""
        self.environ = environ
        self.defaults: Mapping[str, str] = {}
        """Values of variables that the environment goes before."""
        self.has_variables = False
        self.problems = Problems(self.file)
        self.remarks: list[Remark] = []
        self.told: set[tuple[str, Where, About]] = set()

    def remark(self, where: Where, about: About, what: str, hint: str | None, *, lost: bool) -> None:
        """Note a remark; the same one about the same thing is noted once."""
        if (what, where, about) not in self.told:
            self.told.add((what, where, about))
            self.remarks.append(Remark(NetorchError(what, where=where, hint=hint), lost, about))

    def beside(self, name: str) -> Source:
        """Another file in the same directory: its remarks and problems are told with this one's."""
        other = Source(Path(self.file).parent / name, self.environ, self.output)
        other.problems, other.remarks, other.told = self.problems, self.remarks, self.told
        return other

    def path(self, text: str) -> str:
        """A path of the source as the lab file writes it; relative ones begin with a dot."""
        if text.startswith("~"):
            return posixpath.expanduser(text)
        if text.startswith("/"):
            return posixpath.normpath(text)
        there = posixpath.relpath(self.directory / text, self.output)
        return there if there.startswith(".") else f"./{there}"

    def exists(self, text: str) -> bool:
        """Whether there is anything at a path of the source."""
        return (self.directory / posixpath.expanduser(text)).exists()

    def at(self, line: int, column: int, text: str, path: str = "") -> Value:
        """A piece of text of a file that is not YAML, at a 0-based place."""
        return Value(self, Scalar(text, PLAIN, line, column), path)


class Value:
    """A node, its place and path, and what of the lab it is about."""

    __slots__ = ("about", "column", "line", "node", "path", "source")

    def __init__(
        self,
        source: Source,
        node: Node,
        path: str,
        about: About = (),
        spot: tuple[int, int] | None = None,
    ) -> None:
        self.source = source
        self.node = node
        self.path = path
        self.about = about
        self.line, self.column = spot or (node.line, node.column)

    @property
    def null(self) -> bool:
        """Nothing stands there."""
        return self.node.null

    @property
    def is_list(self) -> bool:
        """Whether it is a list."""
        return isinstance(self.node, Sequence)

    @property
    def is_mapping(self) -> bool:
        """Whether it is a mapping."""
        return isinstance(self.node, MappingNode)

    @property
    def where(self) -> Where:
        """Its place in the source."""
        return Where(self.source.file, self.line + 1, self.column + 1, self.path)

    def of(self, *about: str) -> Value:
        """The same value, about that part of the lab."""
        return Value(self.source, self.node, self.path, about, (self.line, self.column))

    def saying(self, text: str) -> Value:
        """The same value with another text."""
        node = Scalar(text, PLAIN, self.node.line, self.node.column)
        return Value(self.source, node, self.path, self.about, (self.line, self.column))

    def lost(self, what: str, hint: str | None = None) -> None:
        """The lab file can't say this: it will behave otherwise."""
        self.source.remark(self.where, self.about, what, hint, lost=True)

    def told(self, what: str, hint: str | None = None) -> None:
        """How this was understood."""
        self.source.remark(self.where, self.about, what, hint, lost=False)

    def fail(self, what: str, hint: str | None = None) -> None:
        """The source itself is wrong here."""
        self.source.problems.at(self.where, what, hint)

    # -- collections -------------------------------------------------------------------------------

    def mapping(self) -> dict[str, Value]:
        """Its entries; nothing is an empty mapping, anything else a problem."""
        if not isinstance(self.node, MappingNode):
            if not self.null:
                self.fail(f"expected a mapping, got {describe(self.node)}")
            return {}
        return {
            name: Value(self.source, node, join(self.path, name), self.about, _spot(key, node))
            for name, (key, node) in self.node.entries.items()
        }

    def get(self, *keys: str) -> Value | None:
        """What stands below these keys, one below the other, if anything does."""
        here: Value | None = self
        for key in keys:
            found = here.mapping() if here is not None and here.is_mapping else {}
            here = found.get(key)
        return None if here is None or here.null else here

    def items(self) -> list[Value]:
        """Its items; nothing is an empty list, anything else a problem."""
        if not isinstance(self.node, Sequence):
            if not self.null:
                self.fail(f"expected a list, got {describe(self.node)}")
            return []
        return self._items(self.node)

    def many(self) -> list[Value]:
        """Its items, or itself as the only one."""
        if isinstance(self.node, Sequence):
            return self._items(self.node)
        return [] if self.null else [self]

    def _items(self, node: Sequence) -> list[Value]:
        return [
            Value(self.source, item, f"{self.path}[{number}]", self.about)
            for number, item in enumerate(node.items)
        ]

    def pairs(self, signs: str = "=") -> dict[str, Value]:
        """A mapping, or a list of ``KEY=value`` (without a sign: nothing is its value)."""
        if not self.is_list:
            return self.mapping()
        found = {}
        for item in self.items():
            text = item.raw()
            cut = min((text.find(sign) for sign in signs if sign in text), default=len(text))
            node = Scalar(text[cut + 1 :] if cut < len(text) else "", PLAIN, item.line, item.column)
            if cut < len(text):
                node.style = 1
            found[text[:cut].strip()] = Value(self.source, node, item.path, self.about)
        return found

    # -- scalars -----------------------------------------------------------------------------------

    def raw(self) -> str:
        """The text as it stands in the source."""
        if not isinstance(self.node, Scalar):
            self.fail(f"expected a text, got {describe(self.node)}")
            return ""
        return "" if self.null else self.node.value

    def text(self) -> str:
        """The text as a lab file writes it: its variables stay variables."""
        if self.source.has_variables:
            return variables.kept(self.raw(), self)
        return variables.escaped(self.raw())

    def plain(self) -> str:
        """The text with its variables filled in now, which is told."""
        text = self.raw()
        if not self.source.has_variables or "$" not in text:
            return text
        filled = variables.filled(text, self)
        if filled != text.replace("$$", "$"):
            what = f"{text} was filled in: {filled}" if filled else f"{text} is not set: taken as empty"
            self.told(what, "what it stands for is read while importing")
        return filled

    def flag(self) -> bool:
        """true or false, in any of YAML's spellings."""
        text = self.plain().lower()
        if text in ("true", "yes", "on", "y", "1"):
            return True
        if text not in ("false", "no", "off", "n", "0", ""):
            self.fail(f"expected true or false, got {describe(self.node)}")
        return False

    def whole(self) -> int | None:
        """A whole number; a problem where it is none."""
        text = self.plain()
        if text.lstrip("-").isascii() and text.lstrip("-").isdigit() and len(text) < 19:
            return int(text)
        self.fail(f"expected a whole number, got {describe(self.node)}")
        return None

    def words(self) -> list[str]:
        """A command: a list of words, or a text that is split as a shell splits it (no shell runs it)."""
        if self.is_list:
            return [item.text() for item in self.items()]
        try:
            return shlex.split(self.text())
        except ValueError as error:
            self.fail(f"this can't be split into words: {str(error).lower()}")
            return []

    def checked(self, convert: Callable[[str], T]) -> T | None:
        """What ``convert`` makes of the plain text; None, and a loss, where a lab file can't have it."""
        try:
            return convert(self.plain())
        except Wrong as wrong:
            self.lost(f"left out: {wrong.what}", wrong.hint)
            return None


def _spot(key: Scalar, node: Node) -> tuple[int, int]:
    """Where ``key: value`` is best pointed at: the key says what is meant, and it is always there."""
    return key.line, key.column
