"""Mermaid and dot: languages whose own programs place what is drawn.

Owns: their syntax and escapes.  Must not: choose places.
"""

from __future__ import annotations

from collections.abc import Iterator

from netns_orch.draw.palette import KINDS, line_colour, tint
from netns_orch.draw.scene import Figure, Foot, Scene, Wire

_MERMAID_SHAPES = {
    "container": ('("', '")'),
    "router": ('{{"', '"}}'),
    "bridge": ('(["', '"])'),
    "host": ('[["', '"]]'),
}
_DOT_SHAPES = {
    "container": 'shape=box, style="rounded,filled"',
    "router": 'shape=octagon, style="filled"',
    "bridge": 'shape=box, style="rounded,filled", peripheries=1, height=0.3',
    "host": 'shape=house, style="filled"',
}


def mermaid(scene: Scene) -> str:
    """A mermaid flowchart."""
    ids = {name: f"n{number}" for number, name in enumerate(scene.figures)}
    lines = ["---", f"title: {scene.name}", "---", "flowchart TB"]
    for name, figure in scene.figures.items():
        left, right = _MERMAID_SHAPES[figure.kind]
        text = "<br/>".join(_entities(line) for line in [name, *figure.notes])
        lines.append(f"    {ids[name]}{left}{text}{right}:::{figure.kind}")
    for wire in scene.wires:
        lines.append(f"    {ids[wire.a.node]} {_mermaid_line(wire)} {ids[wire.b.node]}")
    lines += [f"    linkStyle {numbers} stroke:{colour}" for numbers, colour in _link_styles(scene)]
    for kind, (fill, stroke) in KINDS.items():
        lines.append(f"    classDef {kind} fill:{fill},stroke:{stroke},color:#1b2733")
    return "\n".join(lines)


def _mermaid_line(wire: Wire) -> str:
    text = "<br/>".join(_entities(line) for line in _lines(wire))
    line = "---" if wire.up and wire.kind != "pod" else "-.-"
    return f'{line}|"{text}"|' if text else line


def _link_styles(scene: Scene) -> Iterator[tuple[str, str]]:
    for number in range(len(scene.networks)):
        drawn = [str(place) for place, wire in enumerate(scene.wires) if wire.network == number]
        if drawn:
            yield ",".join(drawn), line_colour(number)


def _lines(wire: Wire) -> list[str]:
    """What stands at a line that has no ends to write at."""
    lines = [_foot(foot) for foot in wire.feet]
    lines += [wire.both]
    lines += [f"from {foot.node}: {said}" for foot, said in zip(wire.feet, _said(wire), strict=True) if said]
    return [line for line in lines if line]


def _said(wire: Wire) -> tuple[str, str]:
    return wire.from_a, wire.from_b


def _foot(foot: Foot) -> str:
    return f"{foot.node} {' '.join(foot.label)}" if foot.label else ""


def _entities(text: str) -> str:
    """Mermaid reads neither quotes nor markup in a quoted text: they are written as entities."""
    signs = {"&": "&amp;", '"': "&quot;", "<": "&lt;", ">": "&gt;", "#": "&num;"}
    return "".join(signs.get(letter, letter) for letter in text)


def dot(scene: Scene) -> str:
    """A graph for graphviz, undirected."""
    lines = [
        f"graph {_quoted(scene.name)} {{",
        '    graph [layout=dot, ranksep=1.2, nodesep=0.5, fontname="sans-serif", labelloc=t,'
        f" label={_quoted(scene.name)}];",
        '    node [fontname="sans-serif", fontsize=12];',
        '    edge [fontname="monospace", fontsize=9, penwidth=1.6];',
    ]
    lines += [f"    {_dot_node(figure)};" for figure in scene.figures.values()]
    lines += [f"    {_dot_edge(wire)};" for wire in scene.wires]
    lines += [f"    {line};" for line in _dot_legend(scene)]
    return "\n".join([*lines, "}"])


def _dot_node(figure: Figure) -> str:
    fill, stroke = KINDS[figure.kind]
    text = "\n".join([figure.name, *figure.notes])
    look = f'{_DOT_SHAPES[figure.kind]}, fillcolor="{fill}", color="{stroke}"'
    return f"{_quoted(figure.name)} [label={_quoted(text)}, {look}]"


def _dot_edge(wire: Wire) -> str:
    colour = line_colour(wire.network)
    said = [wire.both, *(f"from {f.node}: {s}" for f, s in zip(wire.feet, _said(wire), strict=True) if s)]
    options = [
        f'color="{colour}"',
        f"taillabel={_quoted(chr(10).join(wire.a.label))}",
        f"headlabel={_quoted(chr(10).join(wire.b.label))}",
        f"label={_quoted(chr(10).join(filter(None, said)))}",
        *(["style=dashed"] if not wire.up or wire.kind == "pod" else []),
    ]
    return f"{_quoted(wire.a.node)} -- {_quoted(wire.b.node)} [{', '.join(options)}]"


def _dot_legend(scene: Scene) -> Iterator[str]:
    if not scene.networks:
        return
    rows = "".join(
        f'<tr><td bgcolor="{tint(number)}">{_entities(subnets)}</td></tr>'
        for number, subnets in enumerate(scene.networks)
    )
    yield f'" legend" [shape=plain, label=<<table border="0" cellspacing="2">{rows}</table>>]'


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'
