"""What the measurements say: tables, growth exponents, what must hold, a plot."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

Results = Mapping[str, Any]
"""What scripts/bench writes as JSON."""


class Target(NamedTuple):
    """One line of what must hold."""

    what: str
    value: float | None
    bound: float | None
    unit: str

    @property
    def holds(self) -> bool | None:
        """None where it could not be measured here."""
        return None if self.value is None or self.bound is None else self.value <= self.bound


def wall(results: Results, who: str, what: str, count: int) -> float | None:
    """A median in seconds."""
    found = results["labs"].get(who, {}).get(str(count), {}).get(what)
    return None if found is None else float(found["wall"])


def exponent(results: Results, who: str, what: str, low: int, high: int) -> float | None:
    """How ``what`` grows between two sizes: 1 is linear."""
    first, last = wall(results, who, what, low), wall(results, who, what, high)
    return None if not first or not last else math.log(last / first) / math.log(high / low)


def _times(factor: float, value: float | None) -> float | None:
    return None if value is None else factor * value


def targets(results: Results) -> list[Target]:
    """What must hold, as far as it was measured."""
    found = []

    def add(what: str, value: float | None, bound: float | None, unit: str = "s") -> None:
        found.append(Target(what, value, bound, unit))

    up, down = wall(results, "netorch", "up", 300), wall(results, "netorch", "down", 300)
    add("up of 300: 3 x the floor", up, _times(3, wall(results, "floor", "up", 300)))
    add("up of 300: below Mininet", up, wall(results, "mininet", "up", 300))
    for engine in ("podman", "docker"):
        fifty = wall(results, engine, "up", 50)
        add(f"up of 50: 1/10 of {engine}", wall(results, "netorch", "up", 50), _times(0.1, fifty))
    for count in (2, 10):
        small = wall(results, "netorch", "up", count)
        add(f"up of {count}: below Mininet", small, wall(results, "mininet", "up", count))
        for engine in ("podman", "docker"):
            add(f"up of {count}: 1/4 of {engine}", small, _times(0.25, wall(results, engine, "up", count)))
    entered = wall(results, "floor", "exec", 10)
    extra = 0.060 if results["machine"]["cgroup_v1"] else 0.025
    executed = wall(results, "netorch", "exec", 10)
    add(f"exec: nsenter -a + {extra * 1000:.0f} ms", executed, None if entered is None else entered + extra)
    add("exec: below docker", executed, wall(results, "docker", "exec", 10))
    add("exec: 1/3 of podman", executed, _times(1 / 3, wall(results, "podman", "exec", 10)))
    add("down of 300: 2 x the floor", down, _times(2, wall(results, "floor", "down", 300)))
    for what in ("up", "down", "plan", "status"):
        add(f"growth of {what}, 100 to 1,000", exponent(results, "netorch", what, 100, 1000), 1.15, "")
    memory = results["labs"].get("netorch", {}).get("100", {}).get("pss")
    add("PSS of an idle container, of 100", None if memory is None else memory / 100 / 2**20, 1.0, "MiB")
    for key, what, bound in (
        ("change", "one link changed in a lab of 1,000", 2.0),
        ("status", "status of 1,000", 1.5),
        ("validate", "validate of 10,000", 4.0),
    ):
        series = results["scenarios"].get(key)
        add(what, None if series is None else float(series["wall"]), bound)
    return found


def markdown(results: Results) -> str:
    """The tables, as the README shows them."""
    sizes = sorted({int(size) for of in results["labs"].values() for size in of})
    lines = [_about(results), ""]
    for what, title in (("up", "`up`, seconds"), ("down", "`down`, seconds"), ("exec", "`exec true`, ms")):
        lines += [f"| {title} | " + " | ".join(f"{size:,}" for size in sizes) + " |"]
        lines += ["|---|" + "---|" * len(sizes)]
        for who in results["labs"]:
            cells = [_cell(wall(results, who, what, size), 1000 if what == "exec" else 1) for size in sizes]
            if any(cells):
                lines.append(f"| {who} | " + " | ".join(cells) + " |")
        lines.append("")
    lines += ["| must hold | measured | at most | |", "|---|---|---|---|"]
    for target in targets(results):
        if target.value is not None and target.bound is not None:
            numbers = f"{target.value:.3g} {target.unit} | {target.bound:.3g} {target.unit}"
            lines.append(f"| {target.what} | {numbers} | {'yes' if target.holds else '**no**'} |")
    return "\n".join(lines) + "\n"


def _cell(value: float | None, factor: float) -> str:
    return "" if value is None else f"{value * factor:.3g}"


def _about(results: Results) -> str:
    machine = results["machine"]
    words = [
        f"Linux {machine['kernel']}",
        f"{machine['cores']} cores",
        f"{machine['memory_gib']} GiB",
        "cgroup v1 or hybrid" if machine["cgroup_v1"] else "cgroup v2",
        f"Python {machine['python']}",
    ]
    return f"{results['date']}; {', '.join(words)}; medians of `{results['command']}`."


def plot(results: Results, path: Path) -> None:
    """``up`` and ``down`` against the size, both axes logarithmic; needs matplotlib (the extra ``bench``)."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    matplotlib.rcParams["svg.hashsalt"] = "netorch"
    figure, axes = pyplot.subplots(1, 2, figsize=(10, 4), sharey=True)
    for axis, what in zip(axes, ("up", "down"), strict=True):
        for who in results["labs"]:
            _line(axis, results, who, what)
        axis.set(title=f"{what}, whole command", xlabel="containers", xscale="log", yscale="log")
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("seconds")
    axes[1].legend(fontsize="small")
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)


def _line(axis: Any, results: Results, who: str, what: str) -> None:
    sizes: Sequence[int] = sorted(int(size) for size in results["labs"][who])
    points = [(size, value) for size in sizes if (value := wall(results, who, what, size)) is not None]
    if points:
        ours = who == "netorch"
        axis.plot(*zip(*points, strict=True), marker="o", label=who, linewidth=2.5 if ours else 1)
