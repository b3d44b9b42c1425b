"""YAML text to nodes with marks, within limits.

Owns: what of YAML a lab file may use (one document, no tags but ``!!str``, unique keys, anchors and ``<<``),
the limits against hostile files, and how syntax errors read.
Must not: turn a scalar into anything but its text; know the keys of the format.

The parser's events are read one by one and the limits are checked on the way, so that nothing recursive
ever sees a file that is too deep, and an alias is a reference to one node, never a copy.
"""

from __future__ import annotations

import re
from typing import Any

import yaml

from netns_orch.labfile.nodes import PLAIN, QUOTED, Mapping, Node, Scalar, Sequence, join, shown
from netns_orch.labfile.problems import Problems

MOST_BYTES = 8 << 20
MOST_DEPTH = 64
MOST_NODES = 200_000
MOST_REPEATS = 100
"""Aliases may make a file this many times larger than it is written."""
FREE_REPEATS = 10_000
"""So many nodes by aliases are always allowed."""

_UNPRINTABLE = re.compile("[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_LIBYAML: Any = getattr(yaml, "cyaml", None)


class Unreadable(Exception):
    """The text is not YAML that we read; the problem is noted already."""


def compose(text: str, problems: Problems) -> Node | None:
    """The root node of ``text``; None where it holds none.  Unreadable after what can't be read on from."""
    bad = _UNPRINTABLE.search(text)
    if bad:
        line = text.count("\n", 0, bad.start())
        column = bad.start() - text.rfind("\n", 0, bad.start()) - 1
        what = f"the control character U+{ord(bad.group()):04X} is not allowed"
        problems.add(line, column, "", what, 'write it in double quotes as an escape, such as "\\x1b"')
        raise Unreadable
    try:
        return _Composer(problems).run(_parser(text))
    except yaml.MarkedYAMLError as error:
        _syntax(error, text, problems)
    except yaml.YAMLError as error:
        problems.add(0, 0, "", f"this is not YAML: {' '.join(str(error).split())}")
    raise Unreadable


def _parser(text: str) -> Any:
    """libyaml's parser, else the one in Python (the same events, slower)."""
    return _LIBYAML.CParser(text) if _LIBYAML else _PurePython(text)


class _PurePython(yaml.reader.Reader, yaml.scanner.Scanner, yaml.parser.Parser):
    """PyYAML's own parser, for installations without libyaml."""

    def __init__(self, text: str) -> None:
        yaml.reader.Reader.__init__(self, text)
        yaml.scanner.Scanner.__init__(self)
        yaml.parser.Parser.__init__(self)


class _Anchor:
    """A named node, and how many nodes it stands for (None: it is still open)."""

    __slots__ = ("node", "size")

    def __init__(self, node: Node, size: int | None) -> None:
        self.node = node
        self.size = size


class _Open:
    """A collection whose end has not come yet."""

    __slots__ = ("anchor", "begin", "key", "node", "place")

    def __init__(
        self, node: Sequence | Mapping, anchor: str | None, begin: int, place: int | str | None
    ) -> None:
        self.node = node
        self.anchor = anchor
        self.begin = begin
        self.place = place
        """Its index or key in the collection around it."""
        self.key: Scalar | None = None

    def next(self) -> int | str | None:
        """The index or key of what comes next in it; None before a key."""
        if isinstance(self.node, Sequence):
            return len(self.node.items)
        return None if self.key is None else self.key.value


class _Composer:
    """Events to nodes."""

    def __init__(self, problems: Problems) -> None:
        self.problems = problems
        self.root: Node | None = None
        self.open: list[_Open] = []
        self.anchors: dict[str, _Anchor] = {}
        self.written = 0
        self.repeated = 0
        self.documents = 0

    def run(self, parser: Any) -> Node | None:
        get = parser.get_event
        while True:
            event = get()
            kind = type(event)
            if kind is yaml.ScalarEvent:
                self._scalar(event)
            elif kind is yaml.MappingStartEvent or kind is yaml.SequenceStartEvent:
                self._begin(event, kind is yaml.MappingStartEvent)
            elif kind is yaml.MappingEndEvent or kind is yaml.SequenceEndEvent:
                self._end()
            elif kind is yaml.AliasEvent:
                self._alias(event)
            elif kind is yaml.DocumentStartEvent:
                self._document(event)
            elif kind is yaml.StreamEndEvent:
                return self.root

    def _stop(self, event: Any, what: str, hint: str | None = None) -> None:
        self.problems.add(event.start_mark.line, event.start_mark.column, self._path(), what, hint)
        raise Unreadable

    def _path(self) -> str:
        """The path of what comes next, from the open collections."""
        path = ""
        places = [level.place for level in self.open[1:]] + [level.next() for level in self.open[-1:]]
        for place in places:
            if isinstance(place, int):
                path += f"[{place}]"
            elif place is not None:
                path = join(path, place)
        return path

    def _document(self, event: Any) -> None:
        self.documents += 1
        if self.documents > 1:
            self._stop(event, "a second document begins here", "one lab a file: give it a file of its own")

    def _scalar(self, event: Any) -> None:
        self.written += 1
        mark = event.start_mark
        if event.tag and event.tag not in ("tag:yaml.org,2002:str", "!"):
            self._tag(event)
        style = QUOTED if event.style or event.tag else PLAIN
        node = Scalar(event.value, style, mark.line, mark.column)
        if event.anchor:
            self.anchors[event.anchor] = _Anchor(node, 1)
        self._add(node, event)

    def _tag(self, event: Any) -> None:
        tag = event.tag.removeprefix("tag:yaml.org,2002:")
        name = f"!!{tag}" if tag != event.tag else tag
        self._stop(event, f"the tag {shown(name)} is not allowed", "a lab file has no tags: leave it out")

    def _begin(self, event: Any, is_mapping: bool) -> None:
        self.written += 1
        if event.tag:
            self._tag(event)
        if len(self.open) >= MOST_DEPTH:
            self._stop(event, f"the file is nested more than {MOST_DEPTH} levels deep")
        mark = event.start_mark
        node: Sequence | Mapping
        if is_mapping:
            node = Mapping(mark.line, mark.column, bool(event.flow_style))
        else:
            node = Sequence(mark.line, mark.column)
        if event.anchor:
            self.anchors[event.anchor] = _Anchor(node, None)
        place = self.open[-1].next() if self.open else None
        self._add(node, event)
        self.open.append(_Open(node, event.anchor, self.written + self.repeated - 1, place))

    def _end(self) -> None:
        done = self.open.pop()
        if done.anchor:
            anchor = self.anchors[done.anchor]
            if anchor.node is done.node:
                anchor.size = self.written + self.repeated - done.begin
        if isinstance(done.node, Mapping) and "<<" in done.node.entries:
            self._merge(done.node)

    def _alias(self, event: Any) -> None:
        anchor = self.anchors.get(event.anchor)
        if anchor is None:
            self._stop(event, f"the alias *{event.anchor} has no anchor &{event.anchor} before it")
        elif anchor.size is None:
            self._stop(event, f"the alias *{event.anchor} stands inside of what it names")
        else:
            self.written += 1
            self.repeated += anchor.size
            if self.repeated > FREE_REPEATS + MOST_REPEATS * self.written:
                self._stop(event, "the aliases of this file make it too large")
            if self.repeated > MOST_NODES:
                self._stop(event, f"with its aliases the file has more than {MOST_NODES} values")
            self._add(anchor.node, event)

    def _add(self, node: Node, event: Any) -> None:
        """Put a node where it belongs: into the innermost open collection."""
        if self.written > MOST_NODES:
            hint = "`scale` makes many containers of one"
            self._stop(event, f"the file has more than {MOST_NODES} values", hint)
        if not self.open:
            self.root = node
            return
        level = self.open[-1]
        if isinstance(level.node, Sequence):
            level.node.items.append(node)
        elif level.key is None:
            level.key = self._key(node, event)
        else:
            if level.key.value not in level.node.entries:
                level.node.entries[level.key.value] = (level.key, node)
            level.key = None

    def _key(self, node: Node, event: Any) -> Scalar:
        """A key, which must be text and not have been there before."""
        if not isinstance(node, Scalar):
            self._stop(event, "a key must be text", "the `{` of a template needs quotes around it")
            raise Unreadable
        mapping = self.open[-1].node
        if isinstance(mapping, Mapping) and node.value in mapping.entries:
            first = mapping.entries[node.value][0]
            mark, what = event.start_mark, f"duplicate key {shown(node.value)}"
            path = join(self._path(), node.value)
            self.problems.add(mark.line, mark.column, path, what, f"the first is on line {first.line + 1}")
        return node

    def _merge(self, node: Mapping) -> None:
        """Resolve ``<<``: keys written here win, then those of earlier mappings."""
        key, value = node.entries["<<"]
        if key.style == QUOTED:
            return
        sources = value.items if isinstance(value, Sequence) else [value]
        del node.entries["<<"]
        for source in sources:
            if not isinstance(source, Mapping):
                what = "`<<` takes a mapping, or a list of mappings, by alias"
                self.problems.add(key.line, key.column, join(self._path(), "<<"), what, "<<: *name")
                continue
            for name, entry in source.entries.items():
                node.entries.setdefault(name, entry)


_WORDS: tuple[tuple[str, str, str], ...] = (
    (
        "mapping values are not allowed",
        "a ':' can't stand here",
        "check the indentation; a text that holds ': ' needs quotes",
    ),
    (
        "did not find expected key|expected <block end>",
        "the indentation fits no mapping above",
        "keys of one mapping begin in one column; after a quoted text nothing may follow",
    ),
    (
        "did not find expected '-' indicator",
        "expected another '- ' item here",
        "items of one list begin in one column; a list and keys don't mix",
    ),
    (
        r"did not find expected ',' or '([\]}])'|expected ',' or '([\]}])'",
        "expected ',' or the closing bracket",
        "a bracket is left open, or a text with a comma or bracket needs quotes",
    ),
    ("could not find expected ':'", "expected ':' after this key", "a key and its value: `key: value`"),
    ("found unexpected end of stream", "a quoted text is not closed", "the closing quote is missing"),
    (
        "unknown escape character|expected escape sequence",
        "this escape is not known",
        "in single quotes a backslash is a backslash",
    ),
    (
        "block sequence entries are not allowed|sequence entries are not allowed",
        "a list can't begin here",
        "begin it on the next line, or write [a, b]",
    ),
    (
        "while scanning a block scalar|expected comment or line break",
        "only a comment may follow '|' or '>'",
        "the text begins on the next line",
    ),
)


def _syntax(error: yaml.MarkedYAMLError, text: str, problems: Problems) -> None:
    """A syntax error in our words, where the parser stopped."""
    mark: Any = error.problem_mark or error.context_mark
    line, column = (mark.line, mark.column) if mark else (0, 0)
    told = f"{error.context or ''} {error.problem or ''}"
    if "cannot start any token" in told:
        what, hint = _bad_start(text, line, column)
    else:
        unknown = (f"this is not YAML: {error.problem}", None)
        what, hint = next(
            ((what, hint) for pattern, what, hint in _WORDS if re.search(pattern, told)), unknown
        )
    began: Any = error.context_mark
    if began is not None and began.line != line:
        hint = f"{hint or ''}\nwhat it belongs to begins on line {began.line + 1}".strip()
    problems.add(line, column, "", what, hint)


def _bad_start(text: str, line: int, column: int) -> tuple[str, str | None]:
    """A character that begins no value: mostly a tab, or a text that needs quotes."""
    lines = text.split("\n")
    character = lines[line][column : column + 1] if line < len(lines) else ""
    if character == "\t":
        return "a tab can't indent", "use spaces"
    return f"a text can't begin with {shown(character)}", "put it in quotes"
