"""What came of a check: the types that the whole room hands on.

Owns: verdicts and their meaning.  Must not: ask anything of a lab.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from netns_orch.errors import Where

Verdict = Literal["passed", "failed", "no proof", "skipped"]
"""``no proof``: it did not answer, as it should not, but nothing shows that it could have; a failure."""


@dataclass(frozen=True)
class Trial:
    """One probe of a check, from one node to one target."""

    who: str
    """``red -> blue (10.0.0.3)``"""
    held: bool
    said: str
    """What was seen: ``answered in 0.21 ms``."""
    proof: str = ""
    """Of a check that expects silence: what showed that the target could have answered."""
    doubt: str = ""
    """Why that silence proves nothing."""
    why: Callable[[], str] | None = field(default=None, compare=False, repr=False)
    """Finds out where the packet ended: asked only of a check that has failed for good."""
    lost: str = ""
    """Where the packet ended, and why."""
    figures: Mapping[str, float] = field(default_factory=dict)
    """What was measured: ``rtt_ms``, ``bits_per_second`` ..."""

    @property
    def verdict(self) -> Verdict:
        """What it means for the check."""
        if not self.held:
            return "failed"
        return "no proof" if self.doubt else "passed"

    def explained(self) -> Trial:
        """With ``lost`` filled in."""
        return self if self.held or self.why is None else replace(self, lost=self.why())

    def lines(self) -> list[str]:
        """How it reads, where something is wrong."""
        found = [f"{self.who}: {self.said}"]
        if self.lost:
            found.append(f"  {self.lost}")
        if self.doubt:
            found.append(f"  no proof: {self.doubt}")
        return found


@dataclass(frozen=True)
class Result:
    """What came of one check, or of one step of a scenario."""

    name: str
    kind: str
    """reach, ping, ... exec; command, wait, converges"""
    verdict: Verdict
    seconds: float
    lines: tuple[str, ...] = ()
    """Why it is not passed; or what is worth telling."""
    attempts: int = 1
    """More than one with ``within``."""
    tags: tuple[str, ...] = ()
    where: Where | None = None
    figures: Mapping[str, float] = field(default_factory=dict)
    """``outage_ms`` of ``converges``, the worst ``rtt_ms`` of a ping ..."""
    trials: int = 0
    """How many pairs of nodes were tried."""

    @property
    def ok(self) -> bool:
        """Whether it is no failure."""
        return self.verdict in ("passed", "skipped")

    @classmethod
    def of_json(cls, row: Mapping[str, Any]) -> Result:
        """The result that ``to_json`` told of."""
        at = row["where"]
        return cls(
            name=row["name"],
            kind=row["kind"],
            verdict=row["result"],
            seconds=row["seconds"],
            lines=tuple(row["messages"]),
            attempts=row["attempts"],
            tags=tuple(row["tags"]),
            where=Where(at["file"], at["line"], at["column"], at["path"]) if at else None,
            figures=row["figures"],
            trials=row["trials"],
        )

    def to_json(self) -> dict[str, Any]:
        """The result as data."""
        return {
            "name": self.name,
            "kind": self.kind,
            "result": self.verdict,
            "seconds": round(self.seconds, 3),
            "attempts": self.attempts,
            "trials": self.trials,
            "messages": list(self.lines),
            "figures": {key: round(value, 3) for key, value in self.figures.items()},
            "tags": list(self.tags),
            "where": self.where._asdict() if self.where else None,
        }


MOST_LINES = 12
"""Pairs that a failed check tells of."""


def judge(trials: Sequence[Trial]) -> tuple[Verdict, tuple[str, ...], dict[str, float]]:
    """The verdict of a check out of its trials, what to tell, and the worst of what was measured."""
    wrong = [trial for trial in trials if trial.verdict != "passed"]
    figures: dict[str, float] = {}
    for trial in trials:
        for key, value in trial.figures.items():
            worst = min if key == "bits_per_second" else max
            figures[key] = worst(figures.get(key, value), value)
    if not trials:
        return "failed", ("there is nobody to try it with",), figures
    if not wrong:
        return "passed", tuple(dict.fromkeys(trial.proof for trial in trials if trial.proof)), figures
    lines = [line for trial in wrong[:MOST_LINES] for line in trial.lines()]
    if len(wrong) > MOST_LINES:
        lines.append(f"and {len(wrong) - MOST_LINES} more")
    if len(trials) > 1:
        lines.insert(0, f"{len(wrong)} of {len(trials)} are not as expected:")
    failed = any(trial.verdict == "failed" for trial in wrong)
    return "failed" if failed else "no proof", tuple(lines), figures
