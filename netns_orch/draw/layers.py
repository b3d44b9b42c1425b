"""Layers: which figure lies in which layer, and the order within it, so that few cables cross.

Owns: the choice of the top, breadth-first layers, barycentre ordering (Sugiyama, Tagawa and Toda 1981).
Must not: know of sizes or coordinates.

Breadth-first layers have one property that all the rest stands on: a cable runs between neighbouring layers
or within one, never past a third.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations, pairwise

from netns_orch.draw.scene import Scene

Neighbours = Mapping[str, Sequence[str]]
Layers = list[list[str]]
_SWEEPS = 12
_COUNTED = 400
"""Crossings are counted up to so many cables between two layers; beyond, the last sweep is taken."""
HOST = "host"


def neighbours(scene: Scene) -> dict[str, list[str]]:
    """Who is next to whom, each once, in the order of the scene."""
    found: dict[str, dict[str, None]] = {name: {} for name in scene.figures}
    for wire in scene.wires:
        if wire.a.node != wire.b.node:
            found[wire.a.node][wire.b.node] = None
            found[wire.b.node][wire.a.node] = None
    return {name: list(others) for name, others in found.items()}


def components(scene: Scene) -> list[Layers]:
    """Each connected part of the lab in layers from top to bottom, the largest part first."""
    near = neighbours(scene)
    parts, seen = [], set[str]()
    for name in scene.figures:
        if name not in seen:
            part = sorted(_distances([name], near), key=list(scene.figures).index)
            seen.update(part)
            parts.append(part)
    parts.sort(key=len, reverse=True)
    return [_ordered(_layered(scene, part, near), near) for part in parts]


def _distances(sources: Iterable[str], near: Neighbours) -> dict[str, int]:
    found = dict.fromkeys(sources, 0)
    queue = deque(found)
    while queue:
        here = queue.popleft()
        for other in near[here]:
            if other not in found:
                found[other] = found[here] + 1
                queue.append(other)
    return found


def _layered(scene: Scene, part: Sequence[str], near: Neighbours) -> Layers:
    """The host on top; without it, those farthest from all that hangs on one cable (the spines)."""
    leaves = [n for n in part if len(near[n]) == 1 and scene.figures[n].kind != "bridge"]
    if HOST in part:
        depth = _distances([HOST], near)
    elif leaves and len(part) > 2:
        height = _distances(leaves, near)
        depth = {name: max(height.values()) - at for name, at in height.items()}
    else:
        depth = _distances([max(part, key=lambda name: len(near[name]))], near)
    layers: Layers = [[] for _ in range(max(depth.values()) + 1)]
    for name in part:
        layers[depth[name]].append(name)
    return layers


def _ordered(layers: Layers, near: Neighbours) -> Layers:
    best, fewest = layers, _crossings(layers, near)
    current = layers
    for sweep in range(_SWEEPS):
        current = _swept(current, near, downwards=sweep % 2 == 0)
        crossings = _crossings(current, near)
        if crossings < fewest:
            best, fewest = current, crossings
        if not fewest:
            break
    return best


def _swept(layers: Layers, near: Neighbours, *, downwards: bool) -> Layers:
    """Each layer sorted by the mean place of its neighbours in the layer before."""
    result = [list(layer) for layer in layers]
    order = range(1, len(result)) if downwards else range(len(result) - 2, -1, -1)
    for number in order:
        fixed = {name: at for at, name in enumerate(result[number + (-1 if downwards else 1)])}
        own = {name: at for at, name in enumerate(result[number])}
        spread = len(fixed) / max(1, len(own))
        means = {}
        for name, at in own.items():
            places = [fixed[other] for other in near[name] if other in fixed]
            means[name] = sum(places) / len(places) if places else at * spread
        result[number].sort(key=means.__getitem__)
    return result


def _crossings(layers: Layers, near: Neighbours) -> int:
    count = 0
    for upper, lower in pairwise(layers):
        below = {name: at for at, name in enumerate(lower)}
        edges = [
            (at, below[other]) for at, name in enumerate(upper) for other in near[name] if other in below
        ]
        if len(edges) <= _COUNTED:
            count += sum((a - c) * (b - d) < 0 for (a, b), (c, d) in combinations(edges, 2))
    return count
