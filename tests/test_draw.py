"""Drawing: what is drawn, in each format; and by arithmetic, that nothing written lies on anything."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

import pytest
from support.runner import TOPOLOGIES, Netorch
from support.topologies import box, bridge, end, link, red_blue, wire

from netns_orch import graph, labfile
from netns_orch.draw import draw, scene
from netns_orch.draw.geometry import Point, Rect, bezier, spread
from netns_orch.draw.layout import Layout, layout
from netns_orch.graph import Wiring
from netns_orch.labfile.model import Impairment, PortVlan

FILES = sorted(TOPOLOGIES.glob("*.yaml"))
LEAF_SPINE = """
addressing: {p2p: 10.255.0.0/16, loopback: 192.0.2.0/24}
containers:
  spine: {scale: 4, router: true}
  leaf: {scale: 8, router: true}
  h: {scale: 8}
links:
  - {endpoints: [spine, leaf], mesh: true, delay: 2ms}
  - {endpoints: [h1, leaf1], delay: 20ms, loss: 1%}
  - {endpoints: [h2, leaf2], state: down}
""" + "".join(f"  - [h{n}, leaf{n}]\n" for n in range(3, 9))
RING = "containers: {r: {scale: 6, router: true}}\naddressing: {p2p: 10.0.0.0/24}\nlinks:\n" + "".join(
    f"  - [r{n}, r{n % 6 + 1}]\n" for n in range(1, 7)
)
"""Nobody hangs on one cable, and one layer has cables within it."""


def of_text(text: str, tmp_path: Path) -> Wiring:
    """The wiring of a lab file."""
    file = tmp_path / "lab.yaml"
    file.write_text(text)
    return graph.wire(labfile.load(file))


def check(made: Layout) -> None:
    """No label on another, none on a foreign box, no box on a box, all inside the picture."""
    labels = list(made.labels())
    for one, other in itertools.combinations(labels, 2):
        assert not one.rect.overlaps(other.rect), f"{one.lines} lies on {other.lines}"
    for one_box, other_box in itertools.combinations(made.boxes, 2):
        assert not one_box.rect.overlaps(other_box.rect), f"{one_box.figure.name} on {other_box.figure.name}"
    for placed in made.boxes:
        own = [*placed.labels, *(port.label for port in placed.ports if port.label)]
        for label in labels:
            if not any(label is mine for mine in own):
                assert not label.rect.overlaps(placed.rect), f"{label.lines} lies on {placed.figure.name}"
        for label in own:
            assert inside(label.rect, placed.rect), f"{label.lines} sticks out of {placed.figure.name}"
    paper = Rect(0, 0, made.width, made.height)
    assert all(inside(rect, paper) for rect in (*(x.rect for x in labels), *(b.rect for b in made.boxes)))


def inside(inner: Rect, outer: Rect) -> bool:
    """Whether all of it lies in the other."""
    grown = outer.grown(0.01)
    return (
        grown.x <= inner.x
        and grown.y <= inner.y
        and inner.right <= grown.right
        and inner.bottom <= grown.bottom
    )


def crossed(made: Layout) -> Iterator[str]:
    """Cables that run over a box that is not one of their own."""
    for line in made.lines:
        foreign = [b for b in made.boxes if b.figure.name not in (line.wire.a.node, line.wire.b.node)]
        for step in range(101):
            at = bezier(line.points, step / 100)
            for placed in foreign:
                if placed.rect.holds(at):
                    yield f"{line.wire.a.node}-{line.wire.b.node} over {placed.figure.name}"


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_every_topology_is_readable(file: Path) -> None:
    wiring = graph.wire(labfile.load(file))
    made = layout(scene(wiring))
    check(made)
    assert list(crossed(made)) == []
    assert {placed.figure.name for placed in made.boxes} >= {*wiring.topology.containers, *wiring.bridges}
    assert sum(line.wire.kind == "cable" for line in made.lines) == len(wiring.cables)


@pytest.mark.parametrize("text", [LEAF_SPINE, RING], ids=["leaf-spine", "ring"])
def test_twenty_nodes_are_readable(text: str, tmp_path: Path) -> None:
    made = layout(scene(of_text(text, tmp_path)))
    check(made)
    assert list(crossed(made)) == []


def test_spines_lie_above_leaves_above_hosts(tmp_path: Path) -> None:
    made = layout(scene(of_text(LEAF_SPINE, tmp_path)))
    tops: dict[str, set[float]] = {}
    for placed in made.boxes:
        tops.setdefault(placed.figure.name.rstrip("0123456789"), set()).add(placed.rect.y)
    assert all(len(heights) == 1 for heights in tops.values())
    assert max(tops["spine"]) < max(tops["leaf"]) < max(tops["h"])
    hosts = sorted((b for b in made.boxes if b.figure.name[0] == "h"), key=lambda b: b.rect.x)
    assert [placed.figure.name for placed in hosts] == [f"h{n}" for n in range(1, 9)], "no cable is crossed"


def test_the_checks_see_what_they_are_there_to_see() -> None:
    made = layout(scene(red_blue()))
    check(made)
    made.boxes[0].labels[0].rect = made.boxes[1].labels[0].rect
    with pytest.raises(AssertionError, match="lies on"):
        check(made)


def test_each_end_has_its_name_and_addresses_in_its_box() -> None:
    made = layout(scene(red_blue()))
    red = next(placed for placed in made.boxes if placed.figure.name == "red")
    assert [port.label.lines for port in red.ports if port.label] == [["eth0", "10.0.0.2/24"]]


def test_impairments_and_mtu_stand_at_the_cable() -> None:
    slow = Impairment(delay=0.02, jitter=0.005, loss=1)
    wiring = wire(
        link(end("a", impairment=slow), end("b", impairment=slow), subnet="10.0.0.0/30", mtu=9000),
        link(end("b", impairment=Impairment(rate=50_000_000)), end("c"), subnet="10.0.1.0/30"),
        link(end("c"), end("a"), subnet="10.0.2.0/30", up=False),
        a=box(),
        b=box(router=True),
        c=box(),
    )
    first, second, third = scene(wiring).wires
    assert first.both == "mtu 9000, 20ms ±5ms, loss 1% each way"
    assert (second.both, second.from_a, second.from_b) == ("", "50mbit", "")
    assert third.both == "unplugged"
    made = layout(scene(wiring))
    check(made)
    written = {" ".join(label.lines) for line in made.lines for label in line.labels}
    assert written == {first.both, "from b: 50mbit", "unplugged"}


def test_vlans_stand_at_the_ports_of_the_bridge() -> None:
    wiring = wire(
        link("a", end("sw", vlan=PortVlan(access=10))),
        link("b", end("sw", vlan=PortVlan(trunk=[10, 20], native=1))),
        a=box(),
        b=box(),
        sw=bridge(),
    )
    wires = scene(wiring).wires
    assert [w.b.lines for w in wires] == [["vlan 10"], ["trunk 10,20", "native 1"]]
    check(layout(scene(wiring)))


def test_shapes_and_colours_tell_kinds_and_networks_apart() -> None:
    wiring = wire(
        link("r", "br0"), link("r", "br1"), link("c", "br1"),
        r=box(router=True), c=box(), br0=bridge("10.0.0.1/24"), br1=bridge(subnet="10.1.0.0/24"),
    )  # fmt: skip
    drawn = scene(wiring)
    assert {name: figure.kind for name, figure in drawn.figures.items()} == {
        "r": "router", "c": "container", "br0": "bridge", "br1": "bridge", "host": "host",
    }  # fmt: skip
    assert drawn.networks == ["10.0.0.0/24", "10.1.0.0/24"]
    assert [w.network for w in drawn.wires] == [0, 0, 1, 1]
    root = ElementTree.fromstring(draw(wiring, "svg"))
    space = "{http://www.w3.org/2000/svg}"
    strokes = {
        g.get("id"): g.findall(f"{space}path")[1].get("stroke") for g in root.iter(f"{space}g") if g.get("id")
    }
    assert strokes["wire0"] == strokes["wire1"] != strokes["wire2"] == strokes["wire3"]
    shapes = {
        g.get("data-node"): g[1].tag.removeprefix(space) for g in root.iter(f"{space}g") if g.get("data-node")
    }
    assert shapes == {"r": "path", "c": "rect", "br0": "rect", "br1": "rect", "host": "path"}


def test_many_point_to_point_cables_share_a_colour(tmp_path: Path) -> None:
    assert scene(of_text(LEAF_SPINE, tmp_path)).networks == ["point-to-point cables"]


def test_html_needs_nothing_from_anywhere() -> None:
    page = draw(red_blue(), "html")
    assert "<svg" in page and "<script>" in page
    addresses = set(re.findall(r"""(?:src|href|url)\s*[=(]\s*["']?([^"')\s>]*)""", page))
    assert addresses == {"data:,"}
    assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)", page)
    assert "fetch(" not in page and "import " not in page


def test_names_are_escaped() -> None:
    """Text of a lab file is never markup: here by way of a description of an interface."""
    wiring = red_blue()
    wiring.topology.name = '<b>&"x'
    for format_ in ("svg", "html"):
        assert "<b>&" not in draw(wiring, format_)
    ElementTree.fromstring(draw(wiring, "svg"))
    assert '"<b>&\\"x"' in draw(wiring, "dot")


def test_text() -> None:
    assert draw(red_blue(), "text").splitlines() == [
        "lab: 2 containers, 1 bridge, 2 links",
        "[#] host  NAT to the outside: br0",
        "",
        "[=] br0  10.0.0.0/24",
        "├── [#] host  lab-br0  10.0.0.1/24",
        "├── ( ) red   eth0     10.0.0.2/24",
        "└── ( ) blue  eth0     10.0.0.3/24",
    ]


def test_text_without_unicode(tmp_path: Path) -> None:
    assert draw(of_text(LEAF_SPINE, tmp_path), "text", ascii_only=True).isascii()


def test_mermaid() -> None:
    lines = draw(red_blue(), "mermaid").splitlines()
    assert lines[:4] == ["---", "title: lab", "---", "flowchart TB"]
    assert '    n1("red"):::container' in lines
    assert '    n1 ---|"red eth0 10.0.0.2/24"| n0' in lines


def test_dot() -> None:
    text = draw(red_blue(), "dot")
    assert text.startswith('graph "lab" {') and text.endswith("}")
    assert '"red" -- "br0"' in text and 'taillabel="eth0\\n10.0.0.2/24"' in text


def test_the_command_line(tmp_path: Path) -> None:
    netorch = Netorch(tmp_path)
    netorch.write("containers: {a: , b: }\nlinks: [[a, b]]\n")
    assert netorch("graph").stdout.startswith("lab: 2 containers")
    ascii_only = netorch("graph", environment={"PYTHONIOENCODING": "ascii"}).stdout
    assert ascii_only.isascii() and "a:eth0" in ascii_only
    netorch("graph", "-o", "lab.svg")
    ElementTree.parse(tmp_path / "lab.svg")
    assert netorch("graph", "lab.yaml", "--format", "html").stdout.startswith("<!doctype html>")
    assert set(netorch("graph", "--json").json()) == {"name", "figures", "wires", "networks"}
    assert "expected text, mermaid" in netorch("graph", "--format", "png", code=2).stderr
    assert "can't write" in netorch("graph", "-o", "nowhere/lab.svg", code=2).stderr
    assert "by the ending .png" in netorch("graph", "-o", "lab.png", code=2).stderr


@pytest.mark.parametrize(
    ("wanted", "places"),
    [([0, 0, 0], [-10, 0, 10]), ([0, 100], [0, 100]), ([5, 0], [-2.5, 7.5]), ([], [])],
)
def test_spread_keeps_order_and_distance(wanted: list[float], places: list[float]) -> None:
    assert spread(wanted, [10.0] * len(wanted)) == pytest.approx(places)


def test_spread_keeps_within_bounds() -> None:
    assert spread([0, 0, 0], [10, 10, 10], (0, 100)) == [0, 10, 20]
    assert spread([99, 99, 99], [10, 10, 10], (0, 100)) == pytest.approx([80, 90, 100])


def test_bezier_begins_and_ends_at_its_ends() -> None:
    points = [Point(0, 0), Point(0, 5), Point(10, 5), Point(10, 10)]
    assert bezier(points, 0) == (0, 0)
    assert bezier(points, 0.5) == (5, 5)
    assert bezier(points, 1) == (10, 10)
