"""Colours: of each kind of figure, and of each network.

Owns: them.  No meaning rests on colour alone: kinds differ in shape, networks are written out.
"""

from __future__ import annotations

KINDS = {
    "container": ("#eef4fb", "#3b6ea5"),
    "router": ("#fdf1de", "#b26a00"),
    "bridge": ("#eceff1", "#546e7a"),
    "host": ("#ede7f6", "#5e35b1"),
}
"""Fill and stroke."""
PLAIN = "#78828c"
_LINES = (
    "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#8c6d1f", "#6a3d9a", "#17a2b8", "#a6340b", "#4c8c2b",
    "#b0307a", "#3f51b5", "#00796b",
)  # fmt: skip


def line_colour(network: int | None) -> str:
    """The colour of a network's cables; grey where there is no subnet."""
    return PLAIN if network is None else _LINES[network % len(_LINES)]


def tint(network: int | None) -> str:
    """The same, light enough to write on."""
    colour = line_colour(network)
    parts = (int(colour[at : at + 2], 16) for at in (1, 3, 5))
    return "#" + "".join(f"{round(part + (255 - part) * 0.8):02x}" for part in parts)
