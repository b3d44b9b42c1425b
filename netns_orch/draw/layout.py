"""The layout: coordinates of boxes, ports, cables and labels.

Owns: sizes, places, and that no label lies on another or on a foreign box.  Must not: write any format.

A port's name and addresses stand inside its box, at the edge that the cable leaves by: so they need no room
along the cables, however many there are.  Layers are stacked from top to bottom; what is written at a cable
lies in the space between two layers, which grows until all of it finds a place.  Lengths are in pixels.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from netns_orch.draw import layers as layering
from netns_orch.draw.geometry import Point, Rect, bezier, spread
from netns_orch.draw.scene import Figure, Foot, Scene, Wire

MONO = 0.602
"""Advance of a monospaced letter, in parts of the font's size."""
SANS = 0.62
"""What a letter of a sans-serif font takes at most, on average."""
NAME_SIZE, NOTE_SIZE, LABEL_SIZE = 14, 10.5, 10
CABLE_LETTERS = 22
"""What is written at a cable is broken into lines of so many letters."""
LINE = 12
"""From one line of small letters to the next."""
GAP, MARGIN = 34, 28
FIRST_SPACE, MORE_SPACE, MOST_SPACE = 78, 44, 900
"""Between two layers: at first, the step by which it grows, and when that ends."""
MOST_CROWD = 150
FLAT_STRIP = 330
"""Ports stand side by side up to this width; more of them are written upwards."""
WRAP = 12
"""More containers than that hanging on one bridge stand in several rows."""
BAR_HEIGHT, BAR_STEP, LANE = 34, 11, 16
ROOF, CORNER = 16, 9
"""Of the host's house; what is cut off a router's box."""
ROW_WIDTH = 2400


@dataclass
class Label:
    """Lines of text in a rectangle, which they fill."""

    lines: list[str]
    rect: Rect
    upwards: bool = False
    style: str = "port"
    """name | note | port | cable | title | legend"""


@dataclass
class Port:
    """The place in a box where a cable ends, and its label."""

    foot: Foot
    network: int | None
    rect: Rect
    at: Point
    label: Label | None


@dataclass
class Box:
    """A figure in its place."""

    figure: Figure
    rect: Rect
    labels: list[Label] = field(default_factory=list)
    ports: list[Port] = field(default_factory=list)


@dataclass
class Line:
    """A cable in its place: corners of cubic Bézier curves (a start, then three points each)."""

    wire: Wire
    points: list[Point]
    labels: list[Label] = field(default_factory=list)


@dataclass
class Layout:
    """A drawing."""

    scene: Scene
    boxes: list[Box] = field(default_factory=list)
    lines: list[Line] = field(default_factory=list)
    legend: list[tuple[int, Label]] = field(default_factory=list)
    title: Label | None = None
    width: float = 0
    height: float = 0

    def labels(self) -> Iterator[Label]:
        """Every label of the drawing."""
        yield from [self.title] if self.title else []
        for box in self.boxes:
            yield from box.labels
            yield from (port.label for port in box.ports if port.label)
        for line in self.lines:
            yield from line.labels
        yield from (label for _, label in self.legend)


def layout(scene: Scene) -> Layout:
    """Place everything."""
    made = Layout(scene)
    made.title = Label([scene.name], Rect(MARGIN, 14, text_width(scene.name, 20, SANS), 24), style="title")
    x, y, row_height = float(MARGIN), 56.0, 0.0
    for layers in layering.components(scene):
        part = _Part(scene, layers)
        if x > MARGIN and x + part.width > ROW_WIDTH:
            x, y, row_height = float(MARGIN), y + row_height + 2 * GAP, 0.0
        part.move(x, y)
        made.boxes += part.boxes.values()
        made.lines += part.lines
        made.width = max(made.width, x + part.width + MARGIN)
        x, row_height = x + part.width + 2 * GAP, max(row_height, part.height)
    _place_legend(made, y + row_height + GAP)
    return made


def text_width(text: str, size: float, advance: float) -> float:
    """How wide a line of text is at most."""
    return len(text) * size * advance


def _place_legend(made: Layout, y: float) -> None:
    made.width = max(made.width, 420, (made.title.rect.right if made.title else 0) + MARGIN)
    x = float(MARGIN)
    for number, subnets in enumerate(made.scene.networks):
        width = text_width(subnets, NOTE_SIZE, MONO)
        if x > MARGIN and x + width + 24 > made.width - MARGIN:
            x, y = float(MARGIN), y + 22
        made.legend.append((number, Label([subnets], Rect(x + 24, y, width, 14), style="legend")))
        made.width = max(made.width, x + 24 + width + MARGIN)
        x += width + 24 + 20
    made.height = y + (14 if made.scene.networks else 0) + 20


# -- one connected part --------------------------------------------------------------------------


@dataclass
class _Item:
    """What takes part in the order of a layer: a figure, or a block of containers in rows."""

    members: list[str]
    width: float
    height: float
    columns: int = 1
    x: float = 0
    """Its middle."""
    hub: str | None = None
    """The bridge that all of a block hangs on."""


class _Part:
    """One connected part of the lab; placed at 0, 0 until it is moved."""

    def __init__(self, scene: Scene, layers: layering.Layers) -> None:
        self._scene, self._layers = scene, layers
        self._depth = {name: at for at, layer in enumerate(layers) for name in layer}
        self._wires = [wire for wire in scene.wires if wire.a.node in self._depth]
        self._near = layering.neighbours(scene)
        self.boxes: dict[str, Box] = {}
        self.lines: list[Line] = []
        self._sides = self._choose_sides()
        self._hubs = self._choose_hubs()
        self._sizes = {name: self._size(name) for name in self._depth}
        self._items = [list(self._make_items(layer)) for layer in layers]
        self._place_columns()
        space = float(FIRST_SPACE)
        while not self._build(space) and space < MOST_SPACE:
            space += MORE_SPACE
        self._left, right = self._extent()
        self.width = right - self._left
        self.height = max(box.rect.bottom for box in self.boxes.values()) + self._arc_room()

    def _extent(self) -> tuple[float, float]:
        """From the leftmost to the rightmost of all that is drawn."""
        rects = [box.rect for box in self.boxes.values()]
        rects += [label.rect for line in self.lines for label in line.labels]
        across = [point.x for line in self.lines for point in line.points]
        left, right = [rect.x for rect in rects], [rect.right for rect in rects]
        return min([*left, *across]), max([*right, *across])

    def move(self, x: float, y: float) -> None:
        """Move all of it."""
        dx, dy = x - self._left, y
        for box in self.boxes.values():
            box.rect = box.rect.moved(dx, dy)
            for label in box.labels:
                label.rect = label.rect.moved(dx, dy)
            for port in box.ports:
                port.rect, port.at = port.rect.moved(dx, dy), port.at.moved(dx, dy)
                if port.label:
                    port.label.rect = port.label.rect.moved(dx, dy)
        for line in self.lines:
            line.points = [point.moved(dx, dy) for point in line.points]
            for label in line.labels:
                label.rect = label.rect.moved(dx, dy)

    # -- which side a cable leaves by -------------------------------------------------------------

    def _choose_sides(self) -> dict[str, tuple[list[tuple[int, int]], list[tuple[int, int]]]]:
        """By figure the feet at its top and at its bottom: number of the wire, which of its feet."""
        sides: dict[str, tuple[list[tuple[int, int]], list[tuple[int, int]]]] = {
            name: ([], []) for name in self._depth
        }
        for number, wire in enumerate(self._wires):
            for which, (here, far) in enumerate(((wire.a, wire.b), (wire.b, wire.a))):
                mine, other = self._depth[here.node], self._depth[far.node]
                below = other > mine or (other == mine and mine > 0)
                sides[here.node][int(below)].append((number, which))
        return sides

    def _arc_room(self) -> float:
        """Cables within the lowest layer bow out below it."""
        last = len(self._layers) - 1
        bows = any(self._depth[w.a.node] == self._depth[w.b.node] == last > 0 for w in self._wires)
        return FIRST_SPACE if bows else 0

    def _foot(self, key: tuple[int, int]) -> Foot:
        return self._wires[key[0]].feet[key[1]]

    def _far(self, key: tuple[int, int]) -> str:
        return self._wires[key[0]].feet[1 - key[1]].node

    def _is_bar(self, name: str) -> bool:
        """A bridge without anything to be written at its ports."""
        top, bottom = self._sides[name]
        is_bridge = self._scene.figures[name].kind == "bridge"
        return is_bridge and not any(self._foot(key).label for key in (*top, *bottom))

    # -- sizes ------------------------------------------------------------------------------------

    def _choose_hubs(self) -> dict[str, str]:
        """Containers that stand in rows, with the bridge that they hang on."""
        hubs: dict[str, str] = {}
        for name in self._depth:
            if not self._is_bar(name):
                continue
            only = [n for n in self._near[name] if self._hangs_on(n, name)]
            if len(only) > WRAP:
                hubs |= dict.fromkeys(only, name)
        return hubs

    def _hangs_on(self, name: str, bridge: str) -> bool:
        top, bottom = self._sides[name]
        return len(top) == 1 and not bottom and self._depth[name] == self._depth[bridge] + 1

    def _strip(self, keys: Sequence[tuple[int, int]]) -> tuple[bool, list[float], float]:
        """Whether it is written upwards, the width of each cell, the height of the strip."""
        labels = [self._foot(key).label for key in keys]
        if not any(labels):
            return False, [BAR_STEP] * len(labels), 0
        long = [max([text_width(line, LABEL_SIZE, MONO) for line in label], default=0) for label in labels]
        high = [len(label) * LINE for label in labels]
        if sum(long) + 12 * len(long) <= FLAT_STRIP or len(labels) == 1:
            return False, [width + 12 for width in long], max(high) + 6
        return True, [height + 8 for height in high], max(long) + 10

    def _size(self, name: str) -> tuple[float, float]:
        figure = self._scene.figures[name]
        top, bottom = (self._strip(keys) for keys in self._sides[name])
        name_width = text_width(name, NAME_SIZE, SANS) + 24
        notes = [text_width(note, NOTE_SIZE, MONO) for note in figure.notes]
        if self._is_bar(name):
            below = [n for n in self._near[name] if self._hangs_on(n, name) and n not in self._hubs]
            most = max(len(keys) for keys in self._sides[name])
            children = sum(self._size(n)[0] + GAP for n in below) - GAP
            rows = [n for n, hub in self._hubs.items() if hub == name]
            children += self._block(name, rows).width + GAP if rows else 0
            return max(name_width + sum(notes) + 24, most * BAR_STEP + 32, children), BAR_HEIGHT
        corners = 2 * CORNER if figure.kind == "router" else 8
        strips = (sum(strip[1]) + corners for strip in (top, bottom))
        width = max([name_width, *(note + 20 for note in notes), *strips, 84])
        body = 26 + 13 * len(figure.notes) + 4
        roof = ROOF if figure.kind == "host" else 0
        return width, top[2] + body + bottom[2] + roof

    def _make_items(self, layer: Sequence[str]) -> Iterator[_Item]:
        done: set[str] = set()
        for name in layer:
            hub = self._hubs.get(name)
            if hub is None:
                yield _Item([name], *self._sizes[name])
            elif hub not in done:
                done.add(hub)
                yield self._block(hub, [n for n in layer if self._hubs.get(n) == hub])

    def _block(self, hub: str, members: list[str]) -> _Item:
        columns = min(len(members), max(WRAP, round((len(members) * 1.2) ** 0.5)))
        rows = -(-len(members) // columns)
        sizes = [self._size(name) for name in members]
        width, height = (max(size[side] for size in sizes) + GAP for side in (0, 1))
        return _Item(members, columns * width, rows * height - GAP, columns, hub=hub)

    # -- columns ----------------------------------------------------------------------------------

    def _place_columns(self) -> None:
        """Each item as near to the middle of its neighbours as its own neighbours in the layer let it."""
        of = {name: item for items in self._items for item in items for name in item.members}
        for items in self._items:
            widths = [item.width + GAP for item in items]
            for item, x in zip(items, spread([0.0] * len(items), widths), strict=True):
                item.x = x
        count = len(self._items)
        down, up = range(1, count), range(count - 2, -1, -1)
        for _ in range(8):
            for numbers, step in ((down, -1), (up, 1)):
                for number in numbers:
                    self._pull(self._items[number], {number + step}, of)
        for number in (*up, *down):
            self._pull(self._items[number], {number - 1, number + 1}, of)

    def _pull(self, items: Sequence[_Item], towards: set[int], of: Mapping[str, _Item]) -> None:
        wanted = []
        for item in items:
            others = [of[n].x for m in item.members for n in self._near[m] if self._depth[n] in towards]
            wanted.append(sum(others) / len(others) if others else item.x)
        places = spread(wanted, [item.width + GAP for item in items])
        for item, x in zip(items, places, strict=True):
            item.x = x

    # -- boxes, cables, labels --------------------------------------------------------------------

    def _build(self, space: float) -> bool:
        """Place all with so much space between layers; False where a label found no place."""
        self.boxes, self.lines, tops, y = {}, [], [], 0.0
        bows = [wire for wire in self._wires if self._depth[wire.a.node] == self._depth[wire.b.node] == 0]
        y += space if bows else 0
        for number, items in enumerate(self._items):
            height = max(item.height for item in items)
            tops.append((y, y + height))
            for item in items:
                self._place_item(item, y)
            y += height + space + self._crowd(number)
        self._place_ports()
        for number, wire in enumerate(self._wires):
            self.lines.append(Line(wire, self._path(number, wire, tops, space)))
        return self._label_lines()

    def _crowd(self, number: int) -> float:
        """What many cables between a layer and the next need beyond the usual."""
        between = {number, number + 1}
        cables = [w for w in self._wires if {self._depth[w.a.node], self._depth[w.b.node]} == between]
        if all(foot.node in self._hubs for wire in cables for foot in wire.feet[:1]):
            return 0
        return min(MOST_CROWD, 4.0 * max(0, len(cables) - 8))

    def _place_item(self, item: _Item, y: float) -> None:
        if item.hub is None:
            name = item.members[0]
            self._place_box(name, item.x - item.width / 2, y)
            return
        column = item.width / item.columns
        row = max(self._sizes[name][1] for name in item.members) + GAP
        for number, name in enumerate(item.members):
            left = item.x - item.width / 2 + number % item.columns * column + GAP
            self._place_box(name, left, y + number // item.columns * row)

    def _place_box(self, name: str, x: float, y: float) -> None:
        width, height = self._sizes[name]
        figure = self._scene.figures[name]
        box = self.boxes[name] = Box(figure, Rect(x, y, width, height))
        if self._is_bar(name):
            _label_bar(box)
            return
        body = y + self._strip(self._sides[name][0])[2] + (ROOF if figure.kind == "host" else 0)
        wide = text_width(name, NAME_SIZE, SANS)
        box.labels.append(Label([name], Rect(x + (width - wide) / 2, body + 6, wide, 18), style="name"))
        if figure.notes:
            wide = max(text_width(note, NOTE_SIZE, MONO) for note in figure.notes)
            rect = Rect(x + (width - wide) / 2, body + 26, wide, 13 * len(figure.notes))
            box.labels.append(Label(figure.notes, rect, style="note"))

    def _place_ports(self) -> None:
        for name, box in self.boxes.items():
            for side, keys in enumerate(self._sides[name]):
                ordered = sorted(keys, key=lambda key: self._aim(key, box))
                if self._is_bar(name):
                    self._bar_ports(box, ordered, side)
                else:
                    self._strip_ports(box, ordered, side)

    def _aim(self, key: tuple[int, int], box: Box) -> tuple[float, int]:
        """Where a cable is going, to the left or right; parallel ones keep the order of the file."""
        far = self.boxes[self._far(key)]
        return (self._lane(far) if far.figure.name in self._hubs else far.rect.middle, key[0])

    def _lane(self, box: Box) -> float:
        return box.rect.x - LANE

    def _bar_ports(self, box: Box, keys: Sequence[tuple[int, int]], side: int) -> None:
        wanted = [self._aim(key, box)[0] for key in keys]
        low, high = box.rect.x + 14, box.rect.right - 14
        clamped = [min(max(x, low), high) for x in wanted]
        lanes = [self._far(key) in self._hubs for key in keys]
        places = clamped if all(lanes) else spread(clamped, [BAR_STEP] * len(keys), (low, high))
        y = box.rect.bottom if side else box.rect.y
        for key, x in zip(keys, places, strict=True):
            self._add_port(box, key, Rect(x, y, 0, 0), Point(x, y), None)

    def _strip_ports(self, box: Box, keys: Sequence[tuple[int, int]], side: int) -> None:
        upwards, widths, height = self._strip(keys)
        edge = box.rect.bottom if side else box.rect.y
        roof = ROOF if box.figure.kind == "host" and not side else 0
        y = edge - height if side else edge + roof
        spare = (box.rect.width - sum(widths)) / (len(widths) + 1) if widths else 0
        x = box.rect.x + spare
        for key, width in zip(keys, widths, strict=True):
            rect, lines = Rect(x, y, width, height), self._foot(key).label
            label = _port_label(lines, rect, upwards, side) if lines else None
            self._add_port(box, key, rect, Point(rect.middle, edge), label)
            x += width + spare

    def _add_port(self, box: Box, key: tuple[int, int], rect: Rect, at: Point, label: Label | None) -> None:
        wire = self._wires[key[0]]
        box.ports.append(Port(self._foot(key), wire.network, rect, at, label))

    def _path(
        self, number: int, wire: Wire, tops: Sequence[tuple[float, float]], space: float
    ) -> list[Point]:
        start, end = (self._port_at(wire.feet[which]) for which in (0, 1))
        one, other = (self._depth[foot.node] for foot in wire.feet)
        if one == other:
            return _bow(start, end, tops[one], space, above=one == 0)
        if one > other:
            return list(reversed(self._down(end, start, tops[other][1], tops[one][0], wire.a.node)))
        return self._down(start, end, tops[one][1], tops[other][0], wire.b.node)

    def _port_at(self, foot: Foot) -> Point:
        return next(port.at for port in self.boxes[foot.node].ports if port.foot is foot)

    def _down(self, start: Point, end: Point, leave: float, arrive: float, lower: str) -> list[Point]:
        """From a box straight to the edge of its layer, then over to the other's."""
        if lower in self._hubs:
            lane = Point(self._lane(self.boxes[lower]), end.y - LANE)
            into = Point(end.x, end.y - LANE)
            turn = Point(lane.x, arrive - LANE)
            first = _straight(start, Point(start.x, leave)) + _curve(Point(start.x, leave), turn)
            return [start, *first, *_straight(turn, lane), lane, into, end]
        middle = _curve(Point(start.x, leave), Point(end.x, arrive))
        return [
            start,
            *_straight(start, Point(start.x, leave)),
            *middle,
            *_straight(Point(end.x, arrive), end),
        ]

    def _label_lines(self) -> bool:
        taken = [box.rect.grown(3) for box in self.boxes.values()]
        samples = [[bezier(line.points, part / 40) for part in range(41)] for line in self.lines]
        for number, line in enumerate(self.lines):
            foreign = [at for other, points in enumerate(samples) if other != number for at in points]
            for text, places in _cable_texts(line.wire):
                lines = textwrap.wrap(text, CABLE_LETTERS)
                spots = _spots(lines, line.points, places)
                free = [rect for rect in spots if not any(rect.overlaps(other) for other in taken)]
                if not free:
                    return False
                # Rather beside the middle of the cable than upon another one.
                clear = (rect for rect in free if not any(rect.holds(at) for at in foreign))
                rect = next(clear, free[0])
                line.labels.append(Label(lines, rect, style="cable"))
                taken.append(rect.grown(2))
        return True


def _label_bar(box: Box) -> None:
    """The name of a bridge and what is to be said of it, in one line."""
    name, notes = box.figure.name, " ".join(box.figure.notes)
    wide, more = text_width(name, NAME_SIZE, SANS), text_width(notes, NOTE_SIZE, MONO)
    x = box.rect.middle - (wide + (12 + more if notes else 0)) / 2
    box.labels.append(Label([name], Rect(x, box.rect.y + 8, wide, 18), style="name"))
    if notes:
        box.labels.append(Label([notes], Rect(x + wide + 12, box.rect.y + 11, more, 13), style="note"))


def _port_label(lines: list[str], rect: Rect, upwards: bool, side: int) -> Label:
    wide = max(text_width(line, LABEL_SIZE, MONO) for line in lines)
    high = len(lines) * LINE
    if upwards:
        y = rect.bottom - wide - 5 if side else rect.y + 5
        return Label(lines, Rect(rect.middle - high / 2, y, high, wide), upwards=True)
    y = rect.bottom - high - 3 if side else rect.y + 3
    return Label(lines, Rect(rect.middle - wide / 2, y, wide, high))


# -- cables --------------------------------------------------------------------------------------


def _straight(start: Point, end: Point) -> list[Point]:
    return [start, end, end]


def _curve(start: Point, end: Point) -> list[Point]:
    half = (start.y + end.y) / 2
    return [Point(start.x, half), Point(end.x, half), end]


def _bow(start: Point, end: Point, layer: tuple[float, float], space: float, *, above: bool) -> list[Point]:
    """Between two of one layer: out of it, and back."""
    edge = layer[0] if above else layer[1]
    depth = min(space * 0.8, 34 + abs(end.x - start.x) * 0.12) * (-1 if above else 1)
    out, back = Point(start.x, edge), Point(end.x, edge)
    turn = [Point(out.x, edge + depth), Point(back.x, edge + depth), back]
    return [start, *_straight(start, out), *turn, *_straight(back, end)]


def _cable_texts(wire: Wire) -> Iterator[tuple[str, tuple[float, float]]]:
    """What is written at a cable, and between which parts of its length."""
    if wire.both:
        yield wire.both, (0.5, 0.5)
    if wire.from_a:
        yield f"from {wire.a.node}: {wire.from_a}", (0.3, 0.3)
    if wire.from_b:
        yield f"from {wire.b.node}: {wire.from_b}", (0.7, 0.7)


def _spots(lines: Sequence[str], points: Sequence[Point], places: tuple[float, float]) -> list[Rect]:
    """Places for a text along a cable, the best first: upon it, then with one of its ends upon it."""
    width = max(text_width(line, LABEL_SIZE, MONO) for line in lines) + 8
    height = LINE * len(lines) + 4
    steps = (
        place + sign * step * 0.035 for step in range(13) for place, sign in zip(places, (1, -1), strict=True)
    )
    ats = [bezier(points, min(max(part, 0.0), 1.0)) for part in steps]
    shifts = (0.5, 0.15, 0.85)
    return [Rect(at.x - width * shift, at.y - height / 2, width, height) for shift in shifts for at in ats]
