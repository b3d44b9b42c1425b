"""A draft as the text of a lab file, as a person would write it.

Owns: layout (short forms, comments, which mapping stands on one line) and quoting.
Must not: know where the lab came from.

PyYAML's dumper has no comments and no say in what stands on one line.  Quotes go around all that some reader
of YAML, of 1.1 or 1.2, takes for anything but text: ``no``, ``010``, ``10:10``, ``1e3``, dates.
"""

from __future__ import annotations

import re
import textwrap
from typing import Any

import yaml

from netns_orch.convert.draft import Draft
from netns_orch.convert.source import Remark
from netns_orch.convert.variables import without_templates

_WIDTH = 110
_FEW, _SHORT = 2, 80
"""A container with so many keys may stand on one line, which then is so long at most."""
_PLAIN = re.compile(r"-?[A-Za-z0-9_./+<(^-][A-Za-z0-9_./+()^%@=~$<>|;&*!?:'\" -]*")
_FLOW_PLAIN = re.compile(r"-{0,2}[A-Za-z0-9_./+][A-Za-z0-9_./+@=~:%-]*")
_ROUTE = re.compile(r"(default|[0-9a-fA-F./]+) via [0-9.]+( dev [A-Za-z0-9_.-]+)?")
"""What reads well on one line though it has spaces."""
_PAIR = re.compile(r"[0-9]+(:[0-9]+)+")
"""A port, a user: a person quotes it, as some such are numbers to base 60 in YAML 1.1."""
_UNSAFE = re.compile(r":(\s|$)|\s#|^[-?:](\s|$)|\s$|::")
_ESCAPES = {"\\": "\\\\", '"': '\\"', "\n": "\\n", "\t": "\\t"}
_ON_ONE_LINE = frozenset(("command", "exec"))
"""Lists whose items are the words of one command."""
_WORDS = frozenset(("y", "Y", "n", "N"))
"""Booleans of YAML 1.1 that PyYAML, unlike its specification, takes for text."""
_RESOLVER: Any = yaml.resolver.Resolver()
_TEXT_TAG = "tag:yaml.org,2002:str"
_NUMBER = re.compile(r"[-+]?(\.[0-9]|[0-9])[0-9_]*(\.[0-9_]*)?([eE][-+]?[0-9]+)?|0[xob][0-9a-fA-F_]+")


def lab_file(draft: Draft, remarks: list[Remark]) -> str:
    """The text; every remark stands beside what it is about."""
    comments = _comments(remarks)
    texts = [*draft.header, *(["", *comments[()]] if () in comments else [])]
    lines = [f"# {line}".rstrip() for text in texts for line in _wrapped(text)]
    if draft.name is not None:
        lines += ["", f"name: {scalar(draft.name)}"]
    if draft.defaults:
        lines += ["", "defaults:", *_entries(_templateless(draft.defaults), 2)]
    if draft.bridges:
        lines += ["", "bridges:"]
        for name, value in draft.bridges.items():
            lines += [*_comment_lines(comments, 2, "bridges", name), *_entries({name: value}, 2)]
    lines += ["", "containers:"]
    for name, values in draft.containers.items():
        lines += _container(name, _templateless(values), _comment_lines(comments, 4, "containers", name))
    told = _comment_lines(comments, 2, "links")
    if draft.links or told:
        lines += ["", "links:", *told, *(line for link in draft.links for line in _item(link.value(), 2))]
    return "\n".join(lines).lstrip("\n") + "\n"


def _container(name: str, keys: dict[str, Any], told: list[str]) -> list[str]:
    """A container: on one line where there is little to say."""
    head = f"  {scalar(name)}:"
    one = f"{head} {flow(keys)}" if keys else head
    if not told and len(keys) <= _FEW and len(one) <= _SHORT and _fits(keys, one):
        return [one]
    return [head, *told, *_entries(keys, 4)]


def _comments(remarks: list[Remark]) -> dict[tuple[str, ...], list[str]]:
    found: dict[tuple[str, ...], list[str]] = {}
    for remark in remarks:
        if remark.lost:
            line = f" (line {remark.error.where.line})" if remark.error.where else ""
            text = " ".join(f"{remark.error.what}{line}".split())
            texts = found.setdefault(remark.about, [])
            if text not in texts:
                texts.append(text)
    return found


def _comment_lines(comments: dict[tuple[str, ...], list[str]], indent: int, *about: str) -> list[str]:
    return [line for text in comments.get(about, []) for line in _comment(text, indent)]


def _comment(text: str, indent: int) -> list[str]:
    lead = " " * indent + "# "
    return [lead + line for line in _wrapped(text, _WIDTH - len(lead))]


def _wrapped(text: str, width: int = _WIDTH - 2) -> list[str]:
    safe = "".join(c if c.isprintable() else " " for c in text)
    return textwrap.wrap(safe, width, break_long_words=False, break_on_hyphens=False) or [""]


def _templateless(value: Any) -> Any:
    """What stands in a container, with the braces that are not a template's doubled."""
    if isinstance(value, str):
        return without_templates(value)
    if isinstance(value, dict):
        return {without_templates(key): _templateless(below) for key, below in value.items()}
    return [_templateless(item) for item in value] if isinstance(value, list) else value


# -- mappings and lists --------------------------------------------------------------------------


def _entries(values: dict[str, Any], indent: int) -> list[str]:
    """The lines of a mapping."""
    lines: list[str] = []
    for key, value in values.items():
        head = f"{' ' * indent}{scalar(key)}:"
        if value is None or value in ({}, []):
            lines.append(head)
        elif isinstance(value, str) and "\n" in value:
            lines += _text(head, value, indent)
        elif _fits(value, one := f"{head} {flow(value)}", words=key in _ON_ONE_LINE):
            lines.append(one)
        elif isinstance(value, dict):
            lines += [head, *_entries(value, indent + 2)]
        elif isinstance(value, list):
            lines += [head, *(line for item in value for line in _item(item, indent + 2))]
        else:
            lines.append(f"{head} {scalar(value)}")
    return lines


def _item(value: Any, indent: int) -> list[str]:
    """The lines of one item of a list."""
    head = f"{' ' * indent}-"
    if isinstance(value, str) and "\n" in value:
        return _text(head, value, indent)
    if isinstance(value, (dict, list)):
        one = f"{head} {flow(value)}"
        if _fits(value, one) or isinstance(value, list):
            return [one]
        below = _entries(value, indent + 2)
        return [f"{head} {below[0].lstrip()}", *below[1:]]
    return [f"{head} {scalar(value)}"]


def _fits(value: Any, line: str, *, words: bool = False) -> bool:
    """Whether a value stands well on one line: not too long, and nothing in it has lines of its own."""
    several = not words and isinstance(value, list) and len(value) > 1 and any(map(_is_long, value))
    return len(line) <= _WIDTH and not several and not _has_lines(value)


def _is_long(item: Any) -> bool:
    """A command or a rule reads better on a line of its own."""
    return isinstance(item, list) or (isinstance(item, str) and " " in item)


def _has_lines(value: Any) -> bool:
    if isinstance(value, str):
        return "\n" in value
    if isinstance(value, dict):
        return any(_has_lines(below) for below in value.values()) or any(
            isinstance(below, list)
            and len(below) > 1
            and key not in _ON_ONE_LINE
            and any(map(_is_long, below))
            for key, below in value.items()
        )
    return isinstance(value, list) and any(_has_lines(item) for item in value)


def flow(value: Any) -> str:
    """A value on one line."""
    if isinstance(value, dict):
        return (
            "{"
            + ", ".join(f"{scalar(key, True)}: {flow(below)}".rstrip() for key, below in value.items())
            + "}"
        )
    if isinstance(value, list):
        return "[" + ", ".join(_flow_item(item) for item in value) + "]"
    return scalar(value, True)


def _flow_item(item: Any) -> str:
    """A mapping of one entry needs no braces in a list: ``[red: 10.0.0.2/24, br0]``."""
    text = flow(item)
    return text[1:-1] if isinstance(item, dict) and len(item) == 1 else text


# -- scalars -------------------------------------------------------------------------------------


def scalar(value: Any, in_flow: bool = False) -> str:
    """A text, number or boolean; in quotes where YAML would read anything else."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, float)):
        return f"{value:g}" if isinstance(value, float) else str(value)
    text = str(value)
    pattern = _FLOW_PLAIN if in_flow else _PLAIN
    fits = pattern.fullmatch(text) or (in_flow and _ROUTE.fullmatch(text))
    if fits and not _UNSAFE.search(text) and not _means_something(text):
        return text
    if text.isprintable() and ('"' in text or "\\" in text) and "'" not in text:
        return f"'{text}'"
    return _quoted(text)


def _quoted(text: str) -> str:
    """In double quotes, with YAML's escapes for what can't be printed."""
    return '"' + "".join(_ESCAPES.get(c) or (c if c.isprintable() else _escape(c)) for c in text) + '"'


def _escape(character: str) -> str:
    number = ord(character)
    if number < 256:
        return f"\\x{number:02x}"
    return f"\\u{number:04x}" if number < 65536 else f"\\U{number:08x}"


def _means_something(text: str) -> bool:
    """Whether a reader of YAML takes the bare text for a number, a boolean, a date or nothing."""
    if text in _WORDS or _NUMBER.fullmatch(text) or _PAIR.fullmatch(text):
        return True
    return bool(_RESOLVER.resolve(yaml.ScalarNode, text, (True, False)) != _TEXT_TAG)


def _text(head: str, text: str, indent: int) -> list[str]:
    """Several lines of text: as a block where they can stand as they are."""
    rows = text.split("\n")
    ends = rows[-1] == ""
    body = rows[:-1] if ends else rows
    plain = all(row == row.rstrip() and (row.isprintable() or _tabs_only(row)) for row in body)
    if not plain or not body[0] or body[0][0] in " \t" or (ends and not body[-1]):
        return [f"{head} {_quoted(text)}"]
    sign = "|" if ends else "|-"
    return [f"{head} {sign}", *(f"{' ' * (indent + 2)}{row}".rstrip() for row in body)]


def _tabs_only(row: str) -> bool:
    return row.replace("\t", "").isprintable()
