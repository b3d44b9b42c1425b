"""The lab as a tree for a terminal: who is plugged into what, under which name and address.

Owns: columns and line art.  Must not: know how wide the terminal is, or use colour.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from netns_orch.draw.scene import Figure, Foot, Scene, Wire

_ASCII = str.maketrans({"├": "|", "└": "`", "─": "-", "│": "|", "·": ",", "±": "~", "═": "=", "╳": "X"})
_SIGNS = {"bridge": "[=]", "host": "[#]", "router": "(*)", "container": "( )"}


def render(scene: Scene, *, ascii_only: bool = False) -> str:
    """One paragraph for the host, for each bridge, and for the cables between containers."""
    members: dict[str, list[tuple[Wire, Foot, Foot]]] = {name: [] for name in scene.figures}
    for wire in scene.wires:
        for here, far in ((wire.a, wire.b), (wire.b, wire.a)):
            members[here.node].append((wire, here, far))
    parts = [_head(scene)]
    parts += [_bridge(scene, scene.figures[n], members[n]) for n in members if _is(scene, n, "bridge")]
    parts += [part for part in (_straight(scene), _pods(scene), _nodes(scene, members)) if part]
    text = "\n\n".join("\n".join(part) for part in parts)
    return text.translate(_ASCII) if ascii_only else text


def _is(scene: Scene, node: str, kind: str) -> bool:
    return scene.figures[node].kind == kind


def _head(scene: Scene) -> list[str]:
    kinds = [figure.kind for figure in scene.figures.values()]
    containers, cables = len(kinds) - kinds.count("bridge") - kinds.count("host"), _cables(scene)
    sizes = ((containers, "container"), (kinds.count("bridge"), "bridge"), (cables, "link"))
    lines = [f"{scene.name}: " + ", ".join(f"{n} {noun}{'' if n == 1 else 's'}" for n, noun in sizes)]
    if "host" in scene.figures:
        host = scene.figures["host"]
        lines.append(f"{_SIGNS['host']} host" + "".join(f"  {note}" for note in host.notes[:1]))
        lines += [f"    {note}" for note in host.notes[1:]]
    return lines


def _cables(scene: Scene) -> int:
    return sum(wire.kind == "cable" for wire in scene.wires)


def _bridge(scene: Scene, bridge: Figure, members: Sequence[tuple[Wire, Foot, Foot]]) -> list[str]:
    head = "  ".join([f"{_SIGNS['bridge']} {bridge.name}", *bridge.notes])
    rows = [_member(scene, *member) for member in members]
    return [head, *_branches(_columns(rows))]


def _member(scene: Scene, wire: Wire, here: Foot, far: Foot) -> list[str]:
    kind = scene.figures[far.node].kind
    vlans = f"at {' '.join(here.lines)}" if here.lines else ""
    said = " · ".join(filter(None, [vlans, *_cable_words(wire)]))
    return [f"{_SIGNS[kind]} {far.node}", far.ifname, ", ".join(far.lines), said]


def _cable_words(wire: Wire) -> list[str]:
    """What is to be said of a cable, each direction by the name of the sender."""
    words = [wire.both] if wire.both else []
    words += [f"from {foot.node}: {said}" for foot, said in _directions(wire) if said]
    return words


def _directions(wire: Wire) -> Iterator[tuple[Foot, str]]:
    yield wire.a, wire.from_a
    yield wire.b, wire.from_b


def _straight(scene: Scene) -> list[str]:
    ends = {"container", "router"}
    cables = [wire for wire in scene.wires if wire.kind == "cable"]
    plain = [w for w in cables if all(scene.figures[foot.node].kind in ends for foot in w.feet)]
    if not plain:
        return []
    rows = []
    for wire in plain:
        line = "══════" if wire.up else "══╳═══"
        rows.append([*_end(wire.a), line, *reversed(_end(wire.b)), " · ".join(_cable_words(wire))])
    return ["cables", *("    " + line for line in _columns(rows))]


def _end(foot: Foot) -> list[str]:
    return [f"{foot.node}:{foot.ifname}", ", ".join(foot.lines)]


def _pods(scene: Scene) -> list[str]:
    pods = [wire for wire in scene.wires if wire.kind == "pod"]
    lines = [f"    {wire.a.node} shares the network of {wire.b.node}" for wire in pods]
    return ["pods", *lines] if lines else []


def _nodes(scene: Scene, members: dict[str, list[tuple[Wire, Foot, Foot]]]) -> list[str]:
    """What is inside containers, and containers without any cable."""
    rows = []
    for figure in scene.figures.values():
        if figure.kind not in ("container", "router"):
            continue
        notes = figure.notes if members[figure.name] else [*figure.notes, "no cable"]
        router = ["router"] if figure.kind == "router" else []
        rows += (
            [[f"{_SIGNS[figure.kind]} {figure.name}", "; ".join([*router, *notes])]] if router + notes else []
        )
    return ["nodes", *("    " + line for line in _columns(rows))] if rows else []


def _branches(lines: Sequence[str]) -> list[str]:
    last = len(lines) - 1
    return [("└── " if place == last else "├── ") + line for place, line in enumerate(lines)]


def _columns(rows: Sequence[Sequence[str]]) -> list[str]:
    if not rows:
        return []
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    padded = ("  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True) if w) for row in rows)
    return [line.rstrip() for line in padded]
