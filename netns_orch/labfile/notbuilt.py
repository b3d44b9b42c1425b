"""What the format has and netorch does not do yet: refused by ``up``, never accepted and ignored.

Owns: the tables below, one line a feature.  A line goes when its feature comes.
Must not: be asked by anything but what builds a lab (``validate`` accepts the whole format).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from netns_orch.errors import NetorchError, Where
from netns_orch.labfile.model import Topology

Uses = Callable[[Any], object]

_EXPORT = "docker export $(docker create IMAGE) > root.tar makes a root of it; then write `rootfs: root.tar`"

CONTAINER: dict[str, tuple[Uses, str | None]] = {
    "image": (lambda c: c.image, _EXPORT),
}


def unbuilt(topology: Topology) -> list[NetorchError]:
    """An error for each use of what is not built yet, in file order; a scaled container counts once."""
    found: dict[tuple[tuple[int, int], str], NetorchError] = {}
    for error in _all(topology):
        place = (error.where.line, error.where.column) if error.where else (0, 0)
        found.setdefault((place, error.what), error)
    return [found[key] for key in sorted(found)]


def _all(topology: Topology) -> Iterator[NetorchError]:
    for container in topology.containers.values():
        for key, (uses, hint) in CONTAINER.items():
            if uses(container):
                yield _error(key, container.mark(key), hint)


def _error(key: str, where: Where | None, hint: str | None = None) -> NetorchError:
    told = f"{hint}\n" if hint else ""
    return NetorchError(f"`{key}` is not built yet", where=where, hint=f"{told}`validate` accepts it already")
