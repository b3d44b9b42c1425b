"""Variables of a shell's kind (``$VAR``, ``${VAR:-default}``, ``$$``) as containerlab and Compose have them.

Owns: how they become those of a lab file, or the text they stand for.  Must not: know a format.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Protocol

_NAME = "[A-Za-z_][A-Za-z0-9_]*"
_VARIABLE = re.compile(
    rf"\$(?:(\$)|({_NAME})|\{{({_NAME})(?:(:?[-=+?])((?:[^{{}}]|\$\{{[^{{}}]*\}})*))?\}})", re.DOTALL
)
_TEMPLATE = re.compile(r"\{\{|\}\}|\{name\}|\{n\}|[{}]")
_KEPT = re.compile(rf"(\$\$|\$\{{{_NAME}(?::-[^}}]*)?\}})")


class Teller(Protocol):
    """What a value can say, and where its variables come from."""

    @property
    def source(self) -> _HasEnviron:
        """The file it is of."""

    def lost(self, what: str, hint: str | None = None) -> None:
        """See ``Value.lost``."""

    def told(self, what: str, hint: str | None = None) -> None:
        """See ``Value.told``."""


class _HasEnviron(Protocol):
    environ: Mapping[str, str]
    defaults: Mapping[str, str]


def escaped(text: str) -> str:
    """A text without variables as a lab file writes it: ``$$`` where a dollar would begin one."""
    return re.sub(r"\$(?=[${])", "$$", text)


def kept(text: str, value: Teller) -> str:
    """A text whose variables become those of a lab file, ``${VAR}`` or ``${VAR:-default}``."""
    if "$" not in text:
        return text
    pieces, position = [], 0
    for match in _VARIABLE.finditer(text):
        pieces.append(_literal(text[position : match.start()]))
        pieces.append(_one(match, value))
        position = match.end()
    return "".join([*pieces, _literal(text[position:])])


def _literal(text: str) -> str:
    return text.replace("$", "$$")


def _one(match: re.Match[str], value: Teller) -> str:
    """One variable in a lab file's words."""
    if match[1]:
        return "$$"
    name, sign, word = match[2] or match[3], match[4], match[5] or ""
    given = value.source.defaults.get(name)
    if sign and sign.endswith("+"):
        value.lost(f"{match.group()} was filled in: a lab file has no such variable")
        return _literal(_filled_one(match, value.source.environ))
    if sign is None or given:
        return f"${{{name}:-{given or ''}}}" if "}" not in (given or "") else _literal(given or "")
    if sign.endswith("?"):
        return f"${{{name}}}"
    if sign[0] != ":":
        value.told(f"{match.group()}: in a lab file an empty {name} means the default, too")
    if "$" in word:
        word = _all_filled(word, value.source.environ)
        value.told(f"{match.group()}: its default was filled in: {word}")
    return f"${{{name}:-{word}}}" if "}" not in word else _literal(word)


def filled(text: str, value: Teller) -> str:
    """The text with all its variables filled in."""
    return _all_filled(text, value.source.environ)


def _all_filled(text: str, environ: Mapping[str, str]) -> str:
    return _VARIABLE.sub(lambda match: _filled_one(match, environ), text)


def _filled_one(match: re.Match[str], environ: Mapping[str, str]) -> str:
    if match[1]:
        return "$"
    name, sign, word = match[2] or match[3], match[4] or "", match[5] or ""
    known = name in environ and (sign[:1] != ":" or environ[name] != "")
    if sign.endswith("+"):
        return _all_filled(word, environ) if known else ""
    if known:
        return environ[name]
    return "" if sign.endswith("?") else _all_filled(word, environ)


def without_templates(text: str) -> str:
    """A container's text as a lab file writes it: braces doubled where they would be a template's."""
    seen = set(_TEMPLATE.findall(_KEPT.sub("", text)))
    if not seen or (seen & {"{", "}"} and not seen & {"{name}", "{n}"}):
        return text
    pieces = _KEPT.split(text)
    return "".join(
        piece if number % 2 else piece.replace("{", "{{").replace("}", "}}")
        for number, piece in enumerate(pieces)
    )
