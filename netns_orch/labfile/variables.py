"""``${VAR}`` and the templates ``{name}`` and ``{n}``: text filled into scalars, after YAML was read.

Owns: both grammars.  A value can hold anything: it stays the text of one scalar and can't become structure.
Must not: touch keys of the format.
"""

from __future__ import annotations

import re
from collections.abc import Mapping as Dict

from netns_orch.labfile.fields import Context
from netns_orch.labfile.nodes import FILLED, QUOTED, Mapping, Node, Scalar, Sequence, join, shown
from netns_orch.labfile.units import Wrong

_VARIABLE = re.compile(r"\$(?:\$|\{([A-Za-z_][A-Za-z0-9_]*)(?::-([^}]*))?\}|\{)")
_DOLLAR = "a dollar is $$: write $${...} for what a shell shall see"
_TEMPLATE = re.compile(r"\{\{|\}\}|\{name\}|\{n\}|[{}]")
_MOST_FILLED = 1 << 20


def fill_variables(root: Node, variables: Dict[str, str], ctx: Context) -> None:
    """Replace ``${VAR}``, ``${VAR:-default}`` and ``$$`` in every value, in place (aliases: once)."""
    seen: set[int] = set()
    todo: list[tuple[Node, str]] = [(root, "")]
    while todo:
        node, path = todo.pop()
        if id(node) in seen:
            continue
        seen.add(id(node))
        if isinstance(node, Sequence):
            todo.extend((item, f"{path}[{i}]") for i, item in enumerate(node.items))
        elif isinstance(node, Mapping):
            entries = node.entries.items()
            todo.extend(
                (value, join(path, key)) for key, (_, value) in entries if path or not key.startswith("x-")
            )
        elif "$" in node.value:
            _fill_scalar(node, path, variables, ctx)


def _fill_scalar(node: Scalar, path: str, variables: Dict[str, str], ctx: Context) -> None:
    try:
        filled = _VARIABLE.sub(lambda match: _variable(match, variables), node.value)
        if len(filled) > _MOST_FILLED:
            raise Wrong("with its variables filled in this text is too long")
    except Wrong as wrong:
        ctx.note(ctx.where(node, path), wrong)
        return
    if filled != node.value:
        whole = _VARIABLE.fullmatch(node.value)
        node.style = FILLED if whole or node.style != QUOTED else QUOTED
        node.value = filled


def _variable(match: re.Match[str], variables: Dict[str, str]) -> str:
    name, default = match.groups()
    if match.group() == "$$":
        return "$"
    if name is None:
        raise Wrong("expected ${VAR} or ${VAR:-default}", _DOLLAR)
    value = variables.get(name)
    if default is not None:
        return value or default
    if value is None:
        hint = f"set it in the environment or by --var {name}=..., or write ${{{name}:-default}}"
        raise Wrong(f"the variable {name} is not set", f"{hint}\n{_DOLLAR}")
    return value


def templated(node: Node) -> bool:
    """Whether a template may stand anywhere below ``node``."""
    if isinstance(node, Scalar):
        return "{" in node.value or "}" in node.value
    if isinstance(node, Sequence):
        return any(templated(item) for item in node.items)
    return any("{" in key or templated(value) for key, (_, value) in node.entries.items())


def fill_template(node: Node, name: str, number: int | None, ctx: Context, path: str) -> Node:
    """``node`` with ``{name}`` and ``{n}`` replaced; what has none is the same node."""
    if isinstance(node, Scalar):
        return _template_scalar(node, name, number, ctx, path)
    if isinstance(node, Sequence):
        items = [fill_template(item, name, number, ctx, f"{path}[{i}]") for i, item in enumerate(node.items)]
        if all(new is old for new, old in zip(items, node.items, strict=True)):
            return node
        sequence = Sequence(node.line, node.column)
        sequence.items = items
        return sequence
    mapping = Mapping(node.line, node.column, node.flow)
    for text, (key, value) in node.entries.items():
        below = join(path, text)
        new_key = _template_scalar(key, name, number, ctx, below) if "{" in text else key
        mapping.entries[new_key.value] = (new_key, fill_template(value, name, number, ctx, below))
    return mapping


def _template_scalar(node: Scalar, name: str, number: int | None, ctx: Context, path: str) -> Scalar:
    if "{" not in node.value and "}" not in node.value:
        return node
    try:
        text = template(node.value, name, number)
    except Wrong as wrong:
        ctx.note(ctx.where(node, path), wrong)
        return node
    return node if text == node.value else Scalar(text, FILLED, node.line, node.column)


def template(text: str, name: str, number: int | None) -> str:
    """``{name}``, ``{n}``, ``{{`` and ``}}`` replaced.

    A text with other braces and neither ``{name}`` nor ``{n}`` (JSON, awk, an nft ruleset) is no template
    and stays as it is; a mixture is an error, so that nothing is changed by surprise.
    """
    tokens = set(_TEMPLATE.findall(text))
    alone = tokens & {"{", "}"}
    if alone and not tokens & {"{name}", "{n}"}:
        return text
    if alone:
        hint = "write {{ and }} for the braces that shall stay"
        raise Wrong(f"a brace stands alone in a text with {{name}} or {{n}}: {shown(text)}", hint)
    if "{n}" in tokens and number is None:
        raise Wrong("{n} stands for nothing: this container has no `scale`", "{{n}} for the text itself")
    values = {"{name}": name, "{n}": str(number), "{{": "{", "}}": "}"}
    return _TEMPLATE.sub(lambda match: values[match.group()], text)
