"""Geometry: points, rectangles, Bézier curves, and spreading things along a line.

Owns: arithmetic.  Must not: know what is drawn.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple


class Point(NamedTuple):
    """A place; y grows downwards."""

    x: float
    y: float

    def moved(self, dx: float, dy: float) -> Point:
        """The same, elsewhere."""
        return Point(self.x + dx, self.y + dy)


class Rect(NamedTuple):
    """A rectangle by its upper left corner."""

    x: float
    y: float
    width: float
    height: float

    @property
    def right(self) -> float:
        """x of its right edge."""
        return self.x + self.width

    @property
    def bottom(self) -> float:
        """y of its lower edge."""
        return self.y + self.height

    @property
    def middle(self) -> float:
        """x of its middle."""
        return self.x + self.width / 2

    def moved(self, dx: float, dy: float) -> Rect:
        """The same, elsewhere."""
        return Rect(self.x + dx, self.y + dy, self.width, self.height)

    def grown(self, by: float) -> Rect:
        """With a border of that width."""
        return Rect(self.x - by, self.y - by, self.width + 2 * by, self.height + 2 * by)

    def overlaps(self, other: Rect) -> bool:
        """Whether they have an area in common."""
        return (
            self.x < other.right and other.x < self.right and self.y < other.bottom and other.y < self.bottom
        )

    def holds(self, point: Point) -> bool:
        """Whether the point lies inside, not on the edge."""
        return self.x < point.x < self.right and self.y < point.y < self.bottom


def bezier(points: Sequence[Point], part: float) -> Point:
    """The point at ``part`` (0 to 1) of the height that a chain of cubic curves spans."""
    curves = [(points[at], *points[at + 1 : at + 4]) for at in range(0, len(points) - 1, 3)]
    lengths = [max(abs(c[3].x - c[0].x), abs(c[3].y - c[0].y)) for c in curves]
    left = part * sum(lengths)
    for curve, length in zip(curves, lengths, strict=True):
        if left <= length:
            return _cubic(curve, left / length if length else 0.0)
        left -= length
    return points[-1]


def _cubic(curve: Sequence[Point], t: float) -> Point:
    s = 1 - t
    weights = (s * s * s, 3 * s * s * t, 3 * s * t * t, t * t * t)
    x = sum(w * p.x for w, p in zip(weights, curve, strict=True))
    y = sum(w * p.y for w, p in zip(weights, curve, strict=True))
    return Point(x, y)


def spread(
    wanted: Sequence[float], widths: Sequence[float], bounds: tuple[float, float] | None = None
) -> list[float]:
    """Middles as near as can be (least squares) to those wanted, in order, no two nearer than their widths.

    Isotonic regression by pooling adjacent violators, after the widths are taken out.
    """
    offsets = [0.0]
    for one, other in pairwise(widths):
        offsets.append(offsets[-1] + (one + other) / 2)
    pools: list[tuple[float, int]] = []
    for value, offset in zip(wanted, offsets, strict=False):
        total, count = value - offset, 1
        while pools and pools[-1][0] / pools[-1][1] > total / count:
            before, members = pools.pop()
            total, count = total + before, count + members
        pools.append((total, count))
    free = [total / count for total, count in pools for _ in range(count)]
    if bounds is not None and free:
        low, high = bounds[0], max(bounds[0], bounds[1] - offsets[len(free) - 1])
        free = [min(max(value, low), high) for value in free]
    return [value + offset for value, offset in zip(free, offsets, strict=False)]
