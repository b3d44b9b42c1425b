"""SVG: the layout as one picture, with its own style and nothing from anywhere else.

Owns: elements, shapes by kind, styles.  Must not: choose places.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape

from netns_orch.draw.geometry import Point, Rect
from netns_orch.draw.layout import CORNER, LINE, ROOF, Box, Label, Layout, Line, Port, layout
from netns_orch.draw.palette import KINDS, line_colour, tint
from netns_orch.draw.scene import Foot, Scene, Wire

STYLE = """\
.paper{fill:#fff} text{fill:#1b2733;white-space:pre}
.name{font:600 14px system-ui,"DejaVu Sans",sans-serif}
.title{font:600 20px system-ui,"DejaVu Sans",sans-serif}
.note,.legend{font:10.5px ui-monospace,"DejaVu Sans Mono",monospace;fill:#46535f}
.port,.cable{font:10px ui-monospace,"DejaVu Sans Mono",monospace}
.line{fill:none;stroke-width:2} .halo{fill:none;stroke:#fff;stroke-width:6}
.down{stroke-dasharray:6 5;stroke:#c62828} .pod{stroke-dasharray:2 4}
.pill{fill:#fff;stroke-width:1}"""


def render(scene: Scene) -> str:
    """The picture as a file."""
    return picture(layout(scene))


def picture(made: Layout) -> str:
    """A placed drawing as an ``svg`` element."""
    width, height = _n(made.width), _n(made.height)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}"'
        f' viewBox="0 0 {width} {height}">',
        f"<title>{escape(made.scene.name)}</title>",
        f"<style>{STYLE}</style>",
        f'<rect class="paper" width="{width}" height="{height}"/>',
        *(_text(made.title) if made.title else ()),
    ]
    for number, line in enumerate(made.lines):
        parts += _line(line, number)
    for box in made.boxes:
        parts += _box(box)
    for line in made.lines:
        for label in line.labels:
            parts += _pill(label, line_colour(line.wire.network), line.wire.up)
    for network, label in made.legend:
        parts += _legend(network, label)
    return "\n".join([*parts, "</svg>", ""])


def _n(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")


# -- cables --------------------------------------------------------------------------------------


def describe(wire: Wire) -> str:
    """A cable in a few lines, as a tooltip says it."""
    lines = [f"{_end(wire.a)} — {_end(wire.b)}"]
    lines += [f"{foot.node} {' '.join(foot.lines)}" for foot in wire.feet if foot.lines]
    lines += [wire.both] if wire.both else []
    said = ((wire.a, wire.from_a), (wire.b, wire.from_b))
    lines += [f"from {foot.node}: {words}" for foot, words in said if words]
    return "\n".join(lines)


def _end(foot: Foot) -> str:
    return f"{foot.node}:{foot.ifname}" if foot.ifname else foot.node


def _line(line: Line, number: int) -> Iterator[str]:
    wire = line.wire
    classes = " ".join(["line", *([] if wire.up else ["down"]), *(["pod"] if wire.kind == "pod" else [])])
    path = _path(line.points)
    ends = f'data-a="{escape(wire.a.node)}" data-b="{escape(wire.b.node)}"'
    yield f'<g class="wire" id="wire{number}" {ends}><title>{escape(describe(wire))}</title>'
    yield f'<path class="halo" d="{path}"/>'
    yield f'<path class="{classes}" stroke="{line_colour(wire.network)}" d="{path}"/></g>'


def _path(points: Sequence[Point]) -> str:
    words = [f"M{_n(points[0].x)} {_n(points[0].y)}"]
    for at in range(1, len(points), 3):
        words.append("C" + " ".join(f"{_n(point.x)} {_n(point.y)}" for point in points[at : at + 3]))
    return " ".join(words)


def _pill(label: Label, colour: str, up: bool) -> Iterator[str]:
    stroke = colour if up else "#c62828"
    yield f'<rect class="pill" {_frame(label.rect)} rx="8" stroke="{stroke}"/>'
    yield from _text(label)


# -- boxes ---------------------------------------------------------------------------------------


def _box(box: Box) -> Iterator[str]:
    fill, stroke = KINDS[box.figure.kind]
    about = "\n".join([f"{box.figure.kind} {box.figure.name}", *box.figure.notes, *_feet(box)])
    name = escape(box.figure.name)
    yield f'<g class="figure {box.figure.kind}" data-node="{name}"><title>{escape(about)}</title>'
    if box.figure.kind == "bridge" and box.figure.networks:
        fill, stroke = tint(box.figure.networks[0]), line_colour(box.figure.networks[0])
    yield f'{_shape(box.figure.kind, box.rect)} fill="{fill}" stroke="{stroke}" stroke-width="1.6"/>'
    for port in box.ports:
        yield from _port(port, box.rect)
    for label in box.labels:
        yield from _text(label)
    yield "</g>"


def _feet(box: Box) -> Iterator[str]:
    for port in box.ports:
        if port.foot.label:
            yield "  ".join(port.foot.label)


def _shape(kind: str, r: Rect) -> str:
    """The outline: a rounded box, a box with cut corners, a bar with round ends, a house."""
    x, y, right, bottom = (_n(v) for v in (r.x, r.y, r.right, r.bottom))
    c = CORNER
    if kind == "router":
        left_in, right_in, top_in, bottom_in = (_n(v) for v in (r.x + c, r.right - c, r.y + c, r.bottom - c))
        return (
            f'<path d="M{left_in} {y}H{right_in}L{right} {top_in}V{bottom_in}L{right_in} {bottom}'
            f'H{left_in}L{x} {bottom_in}V{top_in}Z"'
        )
    if kind == "host":
        eaves = _n(r.y + ROOF)
        return f'<path d="M{x} {eaves}L{_n(r.middle)} {y}L{right} {eaves}V{bottom}H{x}Z"'
    radius = min(r.height / 2, 17) if kind == "bridge" else 8
    return f'<rect {_frame(r)} rx="{_n(radius)}"'


def _frame(r: Rect) -> str:
    return f'x="{_n(r.x)}" y="{_n(r.y)}" width="{_n(r.width)}" height="{_n(r.height)}"'


def _port(port: Port, box: Rect) -> Iterator[str]:
    if port.label is None:
        return
    colour = line_colour(port.network)
    inner = Rect(port.rect.x + 1, port.rect.y + 1.5, port.rect.width - 2, port.rect.height - 3)
    yield f'<rect {_frame(inner)} rx="3" fill="{tint(port.network)}"/>'
    yield f'<circle cx="{_n(port.at.x)}" cy="{_n(port.at.y)}" r="3" fill="{colour}"/>'
    yield from _text(port.label)


# -- text ----------------------------------------------------------------------------------------


def _text(label: Label) -> Iterator[str]:
    pitch = 13 if label.style == "note" else LINE
    for number, line in enumerate(label.lines):
        bold = (
            ' style="font-weight:700"'
            if label.style == "port" and number == 0 and len(label.lines) > 1
            else ""
        )
        if label.upwards:
            x, y = label.rect.x + number * pitch + pitch / 2, label.rect.bottom - label.rect.height / 2
            turn = f' transform="rotate(-90 {_n(x)} {_n(y)})"'
        else:
            turn, x = "", label.rect.middle
            y = label.rect.y + (label.rect.height - pitch * len(label.lines)) / 2 + (number + 0.5) * pitch
        attributes = f'class="{label.style}" x="{_n(x)}" y="{_n(y)}"{turn}{bold}'
        yield (f'<text {attributes} text-anchor="middle" dominant-baseline="central">{escape(line)}</text>')


def _legend(network: int, label: Label) -> Iterator[str]:
    colour, r = line_colour(network), label.rect
    yield f'<rect x="{_n(r.x - 24)}" y="{_n(r.y + 3)}" width="18" height="8" rx="4" fill="{colour}"/>'
    yield from _text(label)
