"""Field types: what may stand at a key, declared once for parsing, errors and JSON Schema.

Owns: the combinators.  Each knows how to parse a node, what to say where it does not fit (``expected ...,
got ...``), and its JSON Schema.  Lists, mappings and records note every problem below them and go on.
Must not: know a key of the format; read files.

A field that can't make a value raises ``Wrong`` (whoever called it notes it at the place it gave), or
``Noted`` where the problem is noted already.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable, Iterable
from collections.abc import Mapping as Dict
from functools import partial
from typing import Any, Generic, NamedTuple, TypeVar

from netns_orch.errors import Where
from netns_orch.labfile import hints, units
from netns_orch.labfile.nodes import QUOTED, Mapping, Node, Scalar, Sequence, describe, join, place, shown
from netns_orch.labfile.problems import Problems
from netns_orch.labfile.units import Wrong

T = TypeVar("T")
N = TypeVar("N", int, float)
Schema = dict[str, Any]
VARIABLE = r"\$\{|\{n(ame)?\}"
"""What stands for a value that is filled in later; wherever it does, a schema must let it pass."""
_EMPTY: dict[str, tuple[Scalar, Node]] = {}


class Noted(Exception):
    """What stands here is wrong, and that is noted already."""


class Nodes(NamedTuple):
    """The names of a lab, known before anything that refers to them is read."""

    containers: Dict[str, object] = {}
    groups: Dict[str, list[str]] = {}
    bridges: Dict[str, object] = {}

    def members(self, name: str) -> list[str]:
        """The containers that ``name`` stands for; Wrong where there is none."""
        if name in self.groups:
            return self.groups[name]
        if name in self.containers:
            return [name]
        if name in self.bridges:
            raise Wrong(f"{shown(name)} is a bridge, not a container")
        raise self.unknown(name, "container", [*self.groups, *self.containers])

    def unknown(self, name: str, what: str, known: Iterable[str]) -> Wrong:
        """The error of a name that nothing has."""
        names = list(known)
        hint = hints.mean(name, names) or hints.one_of(names) or f"the file has no {what}"
        return Wrong(f"there is no {what} {shown(name)}", hint)


class Context:
    """What is the same for all of one file: its problems, its directory, the names in it."""

    def __init__(self, problems: Problems, directory: str) -> None:
        self.problems = problems
        self.file = problems.file
        self.directory = directory
        self.untrusted = False
        """Whether the file is a stranger's, who must not reach what is not the file's own."""
        self.nodes = Nodes()
        self.hosts: list[tuple[str, Where]] = []
        """Host names that checks ask for, with their places."""
        self.templates = True
        """False where no text of the file can hold a template: none is looked for."""

    def absolute(self, path: str) -> str:
        """A path of the file, seen from the file's directory."""
        return posixpath.normpath(posixpath.join(self.directory, path))

    def owns(self, path: str) -> bool:
        """Whether a path lies in the file's directory, wherever links lead; nothing does where that is /."""
        directory, path = (posixpath.realpath(each) for each in (self.directory, path))
        return directory != "/" and posixpath.commonpath((directory, path)) == directory

    def note(self, where: Where, wrong: Wrong) -> None:
        """Add a problem at a place."""
        self.problems.at(where, wrong.what, wrong.hint)

    def where(self, node: Node, path: str) -> Where:
        """The place of a node."""
        return Where(self.file, node.line + 1, node.column + 1, path)


class Field(Generic[T]):
    """One type of value."""

    expected = ""
    """How it is called in ``expected ..., got ...``."""

    def parse(self, node: Node, ctx: Context, where: Where) -> T:
        """The value of ``node``, which stands at ``where``; Wrong or Noted where it has none."""
        raise NotImplementedError

    def offer(self, node: Node, ctx: Context, where: Where, keep: Callable[[T], object]) -> bool:
        """Hand the value of ``node`` on; False where it has none, which is noted at ``where``."""
        try:
            value = self.parse(node, ctx, where)
        except Wrong as wrong:
            ctx.note(where, wrong)
            return False
        except Noted:
            return False
        keep(value)
        return True

    def schema(self, defs: dict[str, Schema]) -> Schema:
        """Its JSON Schema; records put theirs into ``defs`` and return a reference."""
        raise NotImplementedError

    def unfit(self, node: Node, hint: str | None = None) -> Wrong:
        """The error of a node of another kind."""
        return Wrong(f"expected {self.expected}, got {describe(node)}", hint)


def _or_variable(schema: Schema) -> Schema:
    return {"anyOf": [schema, {"type": "string", "pattern": VARIABLE}]}


# -- scalars -------------------------------------------------------------------------------------


def line(text: str) -> str:
    """One line of text that a program can be given."""
    if "\n" in text or "\r" in text:
        raise Wrong("expected one line of text, got several")
    return block(text)


def block(text: str) -> str:
    """Any text that can be written to a file or given to a program."""
    if "\0" in text:
        raise Wrong("a text can't hold the character U+0000")
    if not text.isascii() and any("\ud800" <= c <= "\udfff" for c in text):
        raise Wrong("a text can't hold half of a character (a surrogate)")
    return text


class Text(Field[T]):
    """A scalar whose raw text ``convert`` understands; ``also`` are the JSON types it may look like."""

    def __init__(
        self,
        convert: Callable[[str], T],
        expected: str = "a text",
        pattern: str | None = None,
        also: tuple[str, ...] = (),
    ) -> None:
        self.convert = convert
        self.expected = expected
        self.pattern = pattern
        self.also = also

    def parse(self, node: Node, ctx: Context, where: Where) -> T:
        if not isinstance(node, Scalar) or node.null:
            raise self.unfit(node, _braces(node))
        return self.convert(node.value)

    def schema(self, defs: dict[str, Schema]) -> Schema:
        schema: Schema = {"type": ["string", *self.also] if self.also else "string"}
        if self.pattern:
            schema["pattern"] = f"^({self.pattern})$|{VARIABLE}"
        return schema


def any_text(expected: str = "a text") -> Text[str]:
    """One line, whatever it looks like."""
    return Text(line, expected, also=("number", "boolean"))


def _braces(node: Node) -> str | None:
    """The hint for a template without quotes, which YAML reads as a mapping."""
    if isinstance(node, Mapping) and node.flow and list(node.entries) in (["n"], ["name"]):
        return f'in quotes: "{{{next(iter(node.entries))}}}"'
    return None


class Choice(Field[str]):
    """One of a few words."""

    def __init__(self, *words: str) -> None:
        self.words = words
        self.expected = f"{', '.join(words[:-1])} or {words[-1]}" if len(words) > 1 else words[0]

    def parse(self, node: Node, ctx: Context, where: Where) -> str:
        if not isinstance(node, Scalar) or node.null or node.value not in self.words:
            hint = hints.mean(node.value, self.words) if isinstance(node, Scalar) else None
            raise self.unfit(node, hint)
        return node.value

    def schema(self, defs: dict[str, Schema]) -> Schema:
        return _or_variable({"enum": list(self.words)})


class Bool(Field[bool]):
    """``true`` or ``false``, and nothing else."""

    expected = "true or false"

    def parse(self, node: Node, ctx: Context, where: Where) -> bool:
        if isinstance(node, Scalar) and node.style != QUOTED and node.value in ("true", "false"):
            return node.value == "true"
        raise self.unfit(node, self._hint(node))

    def _hint(self, node: Node) -> str | None:
        if not isinstance(node, Scalar):
            return None
        for word, others in (("true", ("yes", "on", "y", "1")), ("false", ("no", "off", "n", "0"))):
            if node.value == word:
                return f"write {word} without quotes"
            if node.value.lower() in (word, *others):
                return f"only true and false are booleans: write {word}"
        return None

    def schema(self, defs: dict[str, Schema]) -> Schema:
        return _or_variable({"type": "boolean"})


class _Number(Field[N]):
    """A number within bounds, written without quotes."""

    json_type = ""

    def __init__(self, convert: Callable[[str], N], low: N, high: N, expected: str) -> None:
        self.convert: Callable[[str], N] = convert
        self.low: N = low
        self.high: N = high
        self.expected = expected

    def parse(self, node: Node, ctx: Context, where: Where) -> N:
        if not isinstance(node, Scalar) or node.null:
            raise self.unfit(node)
        value = self.convert(node.value)
        if node.style == QUOTED:
            raise Wrong(f"expected {self.expected}, got the text {shown(node.value)}", "without quotes")
        if not self.low <= value <= self.high:
            raise Wrong(f"expected {self.expected} from {self.low} to {self.high}, got {node.value}")
        return value

    def schema(self, defs: dict[str, Schema]) -> Schema:
        return _or_variable({"type": self.json_type, "minimum": self.low, "maximum": self.high})


class Int(_Number[int]):
    """A whole number from ``low`` to ``high``."""

    json_type = "integer"

    def __init__(self, low: int, high: int, expected: str = "a whole number") -> None:
        super().__init__(units.whole, low, high, expected)


class Float(_Number[float]):
    """A decimal number from ``low`` to ``high``."""

    json_type = "number"

    def __init__(self, low: float, high: float, expected: str = "a number") -> None:
        super().__init__(units.number, low, high, expected)


# -- collections ---------------------------------------------------------------------------------


class ListOf(Field[list[T]]):
    """A list of one type of value."""

    def __init__(self, item: Field[T], expected: str = "a list", hint: str | None = None) -> None:
        self.item = item
        self.expected = expected
        self.hint = hint

    def parse(self, node: Node, ctx: Context, where: Where) -> list[T]:
        if not isinstance(node, Sequence):
            raise self.unfit(node, self.hint)
        values: list[T] = []
        for index, item in enumerate(node.items):
            self.item.offer(item, ctx, ctx.where(item, f"{where.path}[{index}]"), values.append)
        return values

    def schema(self, defs: dict[str, Schema]) -> Schema:
        return {"type": "array", "items": self.item.schema(defs)}


class Flat(Field[list[T]]):
    """Lists in a list, as one."""

    def __init__(self, field: Field[list[list[T]]]) -> None:
        self.field = field
        self.expected = field.expected

    def parse(self, node: Node, ctx: Context, where: Where) -> list[T]:
        return [value for values in self.field.parse(node, ctx, where) for value in values]

    def schema(self, defs: dict[str, Schema]) -> Schema:
        return self.field.schema(defs)


class OneOrMore(Field[list[T]]):
    """One value, or a list of them."""

    def __init__(self, item: Field[T], expected: str | None = None) -> None:
        self.item = item
        self.many = ListOf(item)
        self.expected = expected or f"{item.expected} or a list"

    def parse(self, node: Node, ctx: Context, where: Where) -> list[T]:
        if isinstance(node, Sequence):
            return self.many.parse(node, ctx, where)
        if node.null or isinstance(node, Mapping):
            raise self.unfit(node)
        return [self.item.parse(node, ctx, where)]

    def schema(self, defs: dict[str, Schema]) -> Schema:
        item = self.item.schema(defs)
        return {"anyOf": [item, {"type": "array", "items": item}]}


class MapOf(Field[dict[str, T]]):
    """A mapping with free keys; ``key`` checks one and gives its canonical form."""

    def __init__(
        self,
        value: Field[T],
        key: Callable[[str], str] = line,
        expected: str = "a mapping",
        pattern: str | None = None,
        hint: str | None = None,
    ) -> None:
        self.value = value
        self.key = key
        self.expected = expected
        self.pattern = pattern
        self.hint = hint

    def parse(self, node: Node, ctx: Context, where: Where) -> dict[str, T]:
        if not isinstance(node, Mapping):
            raise self.unfit(node, self.hint)
        values: dict[str, T] = {}
        for name, (key, value) in node.entries.items():
            path = join(where.path, name)
            row, column = place(key, value)
            at = Where(ctx.file, row + 1, column + 1, path)
            try:
                checked = self.key(name)
            except Wrong as wrong:
                ctx.note(ctx.where(key, path), wrong)
                continue
            self.value.offer(value, ctx, at, partial(values.__setitem__, checked))
        return values

    def schema(self, defs: dict[str, Schema]) -> Schema:
        value = self.value.schema(defs)
        if self.pattern is None:
            return {"type": "object", "additionalProperties": value}
        pattern = f"^({self.pattern})$|{VARIABLE}"
        return {"type": "object", "patternProperties": {pattern: value}, "additionalProperties": False}


class ByKind(Field[T]):
    """Short and long forms: another field for a scalar, a list and a mapping."""

    def __init__(
        self,
        expected: str,
        *,
        scalar: Field[T] | None = None,
        sequence: Field[T] | None = None,
        mapping: Field[T] | None = None,
        null: bool = False,
        hint: str | None = None,
    ) -> None:
        self.expected = expected
        self.scalar = scalar
        self.sequence = sequence
        self.mapping = mapping
        self.null = null
        self.hint = hint

    def parse(self, node: Node, ctx: Context, where: Where) -> T:
        if isinstance(node, Sequence):
            field = self.sequence
        elif isinstance(node, Mapping) or (node.null and self.null):
            field = self.mapping
        else:
            field = None if node.null else self.scalar
        if field is None:
            raise self.unfit(node, self.hint)
        return field.parse(node, ctx, where)

    def schema(self, defs: dict[str, Schema]) -> Schema:
        forms = [form.schema(defs) for form in (self.scalar, self.sequence, self.mapping) if form]
        return {"anyOf": [*forms, {"type": "null"}] if self.null else forms}


# -- records -------------------------------------------------------------------------------------


class Key(NamedTuple):
    """A key of a record: its type, what it means, and the attribute it fills (None: of the same name).

    With ``entries`` each entry of its list or mapping has a mark too: ``address.1``, ``sysctls.NAME``.
    """

    field: Field[Any]
    about: str
    attribute: str | None = None
    entries: str | None = None


class Found(NamedTuple):
    """Where a record stands, and the places of its keys."""

    ctx: Context
    where: Where
    marks: dict[str, Where]

    def note(self, key: str, what: str, hint: str | None = None) -> None:
        """Add a problem at a key (where it was left out: at the record)."""
        self.ctx.problems.at(self.marks.get(key, self.where), what, hint)


def entry_marks(node: Node, ctx: Context, path: str, prefix: str) -> dict[str, Where]:
    """The places of the entries of a list (by index) or mapping (by key)."""
    if isinstance(node, Sequence):
        items = enumerate(node.items)
        return {f"{prefix}.{i}": ctx.where(item, f"{path}[{i}]") for i, item in items}
    if isinstance(node, Mapping):
        entries = node.entries.items()
        return {f"{prefix}.{name}": ctx.where(key, join(path, name)) for name, (key, _) in entries}
    return {}


Make = Callable[[dict[str, Any], Found], T]


class Record(Field[T]):
    """A mapping with known keys; ``make`` builds the value from those that stand there."""

    def __init__(
        self,
        title: str,
        keys: dict[str, Key],
        make: Make[T],
        *,
        about: str = "",
        required: tuple[str, ...] = (),
        foreign: Dict[str, str] | None = None,
        free: str | None = None,
        expected: str = "a mapping",
        nullable: bool = True,
    ) -> None:
        self.title = title
        self.keys = keys
        self.make = make
        self.about = about
        self.required = required
        self.foreign = foreign or {}
        self.free = free
        """A beginning (``x-``) that makes any key allowed and left alone."""
        self.expected = expected
        self.nullable = nullable

    def parse(self, node: Node, ctx: Context, where: Where) -> T:
        if isinstance(node, Mapping):
            entries = node.entries
        elif node.null and self.nullable:
            entries = _EMPTY
        else:
            raise self.unfit(node)
        values: dict[str, Any] = {}
        found = Found(ctx, where, {})
        complete = True
        for name, (key, value) in entries.items():
            declared = self.keys.get(name)
            if declared is None:
                self._unknown(name, key, ctx, where)
            elif not value.null:
                complete &= self._one(declared, name, key, value, values, found)
        for name in self.required:
            if (self.keys[name].attribute or name) not in found.marks:
                about = self.keys[name].about
                raise Wrong(f"the key {shown(name)} is missing", f"{name}: {about[0].lower()}{about[1:-1]}")
        if not complete and self.required:
            raise Noted
        return self.make(values, found)

    def _one(
        self, declared: Key, name: str, key: Scalar, value: Node, values: dict[str, Any], found: Found
    ) -> bool:
        row, column = place(key, value)
        ctx, parent = found.ctx, found.where.path
        where = Where(ctx.file, row + 1, column + 1, f"{parent}.{name}" if parent else name)
        attribute = declared.attribute or name
        found.marks[attribute] = where
        if declared.entries:
            found.marks.update(entry_marks(value, ctx, where.path, declared.entries))
        return declared.field.offer(value, ctx, where, partial(values.__setitem__, attribute))

    def _unknown(self, name: str, key: Scalar, ctx: Context, where: Where) -> None:
        if self.free and name.startswith(self.free):
            return
        hint = self.foreign.get(name) or hints.mean(name, self.keys)
        if hint is None:
            hint = hints.one_of(self.keys, most=20)
        ctx.note(ctx.where(key, join(where.path, name)), Wrong(f"unknown key {shown(name)}", hint))

    def schema(self, defs: dict[str, Schema]) -> Schema:
        if self.title not in defs:
            defs[self.title] = {}
            defs[self.title] = self._schema(defs)
        return {"$ref": f"#/$defs/{self.title}"}

    def _schema(self, defs: dict[str, Schema]) -> Schema:
        properties = {}
        for name, key in self.keys.items():
            inner = {"anyOf": [key.field.schema(defs), {"type": "null"}]}
            properties[name] = {"description": key.about, **inner}
        schema: Schema = {
            "type": ["object", "null"] if self.nullable else "object",
            "properties": properties,
            "additionalProperties": False,
        }
        if self.about:
            schema["description"] = self.about
        if self.free:
            schema["patternProperties"] = {f"^{re.escape(self.free)}": True}
        if self.required:
            schema["required"] = list(self.required)
        return schema


def made(cls: Callable[..., T]) -> Make[T]:
    """``make`` for a type that takes the values by their names, with ``where`` and ``marks``."""

    def make(values: dict[str, Any], found: Found) -> T:
        return cls(where=found.where, marks=found.marks, **values)

    return make


class Built(Field[T]):
    """Another field's value, made into something else."""

    def __init__(self, field: Field[Any], build: Callable[[Any, Context, Where], T]) -> None:
        self.field = field
        self.build = build
        self.expected = field.expected

    def parse(self, node: Node, ctx: Context, where: Where) -> T:
        return self.build(self.field.parse(node, ctx, where), ctx, where)

    def schema(self, defs: dict[str, Schema]) -> Schema:
        return self.field.schema(defs)


class Kept(Field[Node]):
    """The node itself: it is read later, when the names of the lab are known."""

    def __init__(self, field: Field[Any]) -> None:
        self.field = field

    def parse(self, node: Node, ctx: Context, where: Where) -> Node:
        return node

    def schema(self, defs: dict[str, Schema]) -> Schema:
        return self.field.schema(defs)
