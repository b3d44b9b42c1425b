"""Running checks: again and again until they hold, and once more to say why they don't.

Owns: ``within``, tags, and which checks of a lab are run.  Must not: know what a kind does (``kinds``).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from netns_orch.checks import kinds, titles
from netns_orch.checks.bench import Bench, open_bench
from netns_orch.checks.outcome import Result, Trial, judge
from netns_orch.errors import NetorchError
from netns_orch.kernel.interrupts import Interrupted

if TYPE_CHECKING:
    from netns_orch.labfile.model import Check, Topology

_EXPLAINED = 3
"""Trials of a failed check whose packets are traced."""
_FIRST_PAUSE, _LONGEST_PAUSE = 0.05, 0.5
OnResult = Callable[[Result], None]


def run_checks(
    lab: str,
    topology: Topology,
    checks: Iterable[Check] | None = None,
    *,
    tags: Collection[str] = (),
    on_result: OnResult | None = None,
) -> list[Result]:
    """Run ``checks`` (default: all of ``topology``) on the lab named ``lab``, which is up, one by one.

    ``tags``: only those that bear one of them.  ``on_result`` is told each result as it comes.  UsageError
    where the lab is not up.  What fails inside a check is its result, never an error.
    """
    wanted = chosen(topology.checks if checks is None else checks, tags)
    results = []
    with open_bench(lab) as bench:
        for check in wanted:
            results.append(run_check(bench, check, topology.groups))
            if on_result is not None:
                on_result(results[-1])
    return results


def chosen(checks: Iterable[Check], tags: Collection[str]) -> list[Check]:
    """Those that bear one of the tags; without tags, all."""
    return [check for check in checks if not tags or not set(tags).isdisjoint(check.tags)]


def run_check(bench: Bench, check: Check, groups: Mapping[str, Sequence[str]]) -> Result:
    """Run one check, for as long as ``within`` says until it holds."""
    began = time.monotonic()
    deadline, pause, attempts = began + (check.within or 0), _FIRST_PAUSE, 0
    while True:
        attempts += 1
        bench.forget_names()
        try:
            trials, problem = kinds.trials(check, bench), None
        except Interrupted:
            raise
        except NetorchError as error:
            trials, problem = [], error
        left = deadline - time.monotonic()
        good = problem is None and all(trial.verdict == "passed" for trial in trials) and trials
        if good or left <= 0:
            break
        time.sleep(min(pause, left))
        pause = min(pause * 2, _LONGEST_PAUSE)
    verdict, lines, figures = judge(explain(trials))
    if problem is not None:
        hint = f" ({problem.hint})" if problem.hint else ""
        verdict, lines = "failed", (f"{problem.what}{hint}",)
    if verdict != "passed" and check.within:
        lines = (*lines, f"tried {attempts} times within {check.within:g} s")
    return Result(
        name=titles.title(check, groups),
        kind=check.kind,
        verdict=verdict,
        seconds=time.monotonic() - began,
        lines=lines,
        attempts=attempts,
        tags=tuple(check.tags),
        where=check.where,
        figures=figures,
        trials=len(trials),
    )


def explain(trials: Sequence[Trial]) -> list[Trial]:
    """The first that failed say where the packet ended; the others would say the same."""
    found, left = [], _EXPLAINED
    for trial in trials:
        if not trial.held and left:
            left -= 1
            trial = _explained(trial)
        found.append(trial)
    return found


def _explained(trial: Trial) -> Trial:
    try:
        return trial.explained()
    except Interrupted:
        raise
    except (NetorchError, OSError):
        return trial  # the lab goes to pieces meanwhile: what was seen is told all the same
