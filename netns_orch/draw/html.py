"""HTML: the picture in one page that zooms, moves, tells what lies under the pointer, and needs no network.

Owns: the page and its script.  Must not: draw.
"""

from __future__ import annotations

from html import escape

from netns_orch.draw import svg
from netns_orch.draw.scene import Scene

_STYLE = """\
html,body{margin:0;height:100%;overflow:hidden;font:14px system-ui,"DejaVu Sans",sans-serif;background:#fff}
#stage{width:100%;height:100%} #stage svg{width:100%;height:100%;cursor:grab;touch-action:none}
#about{position:fixed;display:none;max-width:40em;padding:.6em .8em;border-radius:6px;
background:#1b2733;color:#fff;
white-space:pre-line;font:12px ui-monospace,"DejaVu Sans Mono",monospace;pointer-events:none}
#help{position:fixed;right:12px;bottom:10px;color:#667480;font-size:12px}
.faded{opacity:.15} .figure,.wire{transition:opacity .12s} .wire:hover .line{stroke-width:4}"""
_SCRIPT = """\
const svg = document.querySelector('#stage svg'), about = document.getElementById('about');
const whole = svg.viewBox.baseVal, home = [whole.x, whole.y, whole.width, whole.height];
let view = [...home], drag = null;
const show = () => svg.setAttribute('viewBox', view.join(' '));
const scale = () => Math.max(view[2] / svg.clientWidth, view[3] / svg.clientHeight);
const place = e => {
  const p = new DOMPoint(e.clientX, e.clientY).matrixTransform(svg.getScreenCTM().inverse());
  return [p.x, p.y];
};
svg.addEventListener('wheel', e => {
  e.preventDefault();
  const [x, y] = place(e), by = Math.exp(e.deltaY * 0.0015);
  view = [x - (x - view[0]) * by, y - (y - view[1]) * by, view[2] * by, view[3] * by];
  show();
}, {passive: false});
svg.addEventListener('pointerdown', e => {
  drag = [e.clientX, e.clientY];
  svg.setPointerCapture(e.pointerId);
});
svg.addEventListener('pointerup', () => { drag = null; });
svg.addEventListener('dblclick', () => { view = [...home]; show(); });
svg.addEventListener('pointermove', e => {
  if (drag) {
    const by = scale();
    view[0] -= (e.clientX - drag[0]) * by; view[1] -= (e.clientY - drag[1]) * by;
    drag = [e.clientX, e.clientY]; show(); return;
  }
  about.style.left = Math.min(e.clientX + 14, innerWidth - about.offsetWidth - 8) + 'px';
  about.style.top = Math.min(e.clientY + 14, innerHeight - about.offsetHeight - 8) + 'px';
});
const figures = [...svg.querySelectorAll('.figure')], wires = [...svg.querySelectorAll('.wire')];
for (const one of [...figures, ...wires]) {
  const title = one.querySelector('title'), text = title.textContent;
  title.remove();
  one.addEventListener('pointerenter', () => {
    const node = one.dataset.node, near = new Set([node, one.dataset.a, one.dataset.b]);
    const touching = wires.filter(w => node ? w.dataset.a === node || w.dataset.b === node : w === one);
    touching.forEach(w => { near.add(w.dataset.a); near.add(w.dataset.b); });
    figures.forEach(f => f.classList.toggle('faded', !near.has(f.dataset.node)));
    wires.forEach(w => w.classList.toggle('faded', !touching.includes(w)));
    about.textContent = text; about.style.display = 'block';
  });
  one.addEventListener('pointerleave', () => {
    [...figures, ...wires].forEach(f => f.classList.remove('faded'));
    about.style.display = 'none';
  });
}"""


def render(scene: Scene) -> str:
    """The page."""
    return "\n".join(
        [
            "<!doctype html>",
            f'<html lang="en"><head><meta charset="utf-8"><title>{escape(scene.name)}</title>',
            '<link rel="icon" href="data:,">',
            f"<style>{_STYLE}</style></head><body>",
            f'<div id="stage">{svg.render(scene)}</div>',
            '<div id="about"></div><div id="help">wheel: zoom · drag: move · double click: all of it</div>',
            f"<script>{_SCRIPT}</script></body></html>",
            "",
        ]
    )
