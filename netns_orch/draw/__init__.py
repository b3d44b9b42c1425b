"""Drawing: a wiring as text for a terminal, mermaid, dot, svg or html.

Owns: how a lab looks.  Must not: do I/O, need a display, a font or a library; choose anything of the lab.

==========  ==================================================================================
``scene``   what there is to be drawn: figures, cables with their two feet, networks
``layers``  which figure lies in which layer, and the order within it
``layout``  coordinates of boxes, ports, cables and labels, so that no label lies on another
``svg``     the picture; ``html`` the same in one page that zooms and tells more
``text``    a tree for a terminal
``markup``  mermaid and dot, which place things by themselves
==========  ==================================================================================
"""

from __future__ import annotations

from netns_orch.draw.scene import Scene, scene, to_json
from netns_orch.graph import Wiring

__all__ = ["Scene", "draw", "scene", "to_json"]


def draw(wiring: Wiring, format: str, *, ascii_only: bool = False) -> str:
    """The lab as text, mermaid, dot, svg or html, without the last newline.

    ``ascii_only`` is for the text.
    """
    from netns_orch.draw import html, markup, svg, text

    shown = scene(wiring)
    if format == "text":
        return text.render(shown, ascii_only=ascii_only)
    renderers = {"mermaid": markup.mermaid, "dot": markup.dot, "svg": svg.render, "html": html.render}
    return renderers[format](shown).rstrip("\n")
