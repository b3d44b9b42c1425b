"""Tests of whole lab files: each is brought up, checked, taken through its scenario, and taken down.

Owns: these phases, what a file's test is worth when one of them fails, and the labs' names.  Must not: print;
fork anything but by ``kernel.crew``.

A file is tested by a process of its own (``work``): labs are built side by side, and none disturbs another.
"""

from __future__ import annotations

import json
import os
import random
import re
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from netns_orch import lab as labs
from netns_orch.checks import titles
from netns_orch.checks.outcome import Result
from netns_orch.checks.run import OnResult, chosen, run_checks
from netns_orch.checks.scenario import run_scenario, wanted
from netns_orch.errors import LabFileError, MissingFeature, NetorchError, UsageError, render
from netns_orch.kernel.interrupts import Interrupted, interruptible

if TYPE_CHECKING:
    from netns_orch.labfile.model import Topology

Settle = Callable[["Topology"], object]
State = Literal["passed", "failed", "not built", "invalid", "skipped", "no checks", "interrupted"]
_LONGEST_NAME = 32
_LAB_FILE = re.compile(r"^(bridges|containers|links)\s*:", re.MULTILINE)


@dataclass(frozen=True)
class Order:
    """What to test, and how."""

    file: str
    tags: tuple[str, ...] = ()
    keep_failed: bool = False
    """A lab of which something failed stays up."""
    artifacts: str | None = None
    """A directory for what is kept of a lab that has failed."""
    variables: Mapping[str, str] = field(default_factory=dict)
    untrusted: bool = False
    skip: bool = True
    """A lab that needs what this kernel or host lacks is skipped; else it could not be built."""
    lab: str | None = None
    """The lab that is up already, and stays up: nothing is built, and nothing taken down."""
    scenario: bool = True
    """False: the checks alone."""


@dataclass
class Report:
    """What came of the test of one file."""

    file: str
    lab: str
    state: State = "passed"
    checks: list[Result] = field(default_factory=list)
    scenario: list[Result] = field(default_factory=list)
    planned: list[tuple[str, str]] = field(default_factory=list)
    """Kind and name of what was to be run, also where the lab could not be built."""
    seconds: dict[str, float] = field(default_factory=dict)
    """By phase: up, checks, scenario, down."""
    errors: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def results(self) -> list[Result]:
        """All results in the order of time."""
        return [*self.checks, *self.scenario]

    def fail(self, state: State, error: object) -> None:
        """Something else than a check went wrong; the first of such states counts."""
        text = (
            render(error)
            if isinstance(error, NetorchError) and type(error) is not LabFileError
            else str(error)
        )
        self.errors.append(text)
        if self.state in ("passed", "failed"):
            self.state = state

    def to_json(self) -> dict[str, Any]:
        """The report as data."""
        return {
            "file": self.file,
            "lab": self.lab,
            "state": self.state,
            "checks": [result.to_json() for result in self.checks],
            "scenario": [result.to_json() for result in self.scenario],
            "planned": [list(pair) for pair in self.planned],
            "seconds": {phase: round(seconds, 3) for phase, seconds in self.seconds.items()},
            "errors": self.errors,
            "notes": self.notes,
        }

    @classmethod
    def of_json(cls, row: Mapping[str, Any]) -> Report:
        """The report that ``to_json`` told of."""
        values = {key: row[key] for key in ("file", "lab", "state", "seconds", "errors", "notes")}
        return cls(
            checks=[Result.of_json(each) for each in row["checks"]],
            scenario=[Result.of_json(each) for each in row["scenario"]],
            planned=[(kind, name) for kind, name in row["planned"]],
            **values,
        )


# -- which files --------------------------------------------------------------------------------------


def find(paths: Sequence[Path]) -> list[Path]:
    """The files of the paths; of a directory all lab files right in it.  UsageError where there is none."""
    found: dict[Path, None] = {}
    for path in paths:
        if not path.is_dir():
            found[path] = None
            continue
        inside = [each for each in sorted(path.glob("*.yaml")) if _is_lab_file(each)]
        if not inside:
            raise UsageError(
                f"there is no lab file in {path}",
                hint="it looks for *.yaml with links, bridges or containers",
            )
        found.update(dict.fromkeys(inside))
    return list(found)


def _is_lab_file(path: Path) -> bool:
    """Whether it describes a lab, well or not."""
    try:
        return bool(_LAB_FILE.search(path.read_text(encoding="utf-8", errors="replace")))
    except OSError:
        return False


def unique_name(file: str) -> str:
    """A name for a lab of ``file`` that no other has: many may be tested at once."""
    stem = Path(file).stem.removesuffix(".netorch")
    safe = re.sub(r"[^A-Za-z0-9_-]", "-", stem).lstrip("-_") or "lab"
    tail = f"-{random.randrange(1 << 32):08x}"
    return safe[: _LONGEST_NAME - len(tail)] + tail


# -- one file -----------------------------------------------------------------------------------------


def run_file(order: Order, on_result: OnResult | None = None, settle: Settle | None = None) -> Report:
    """Test one file, in this process; whatever goes wrong is in the report.

    ``settle`` goes where the lab is to be built, before it is, where that is not here.
    SIGINT, SIGTERM and SIGHUP end it, with its lab taken down (in the main thread; signal(7)).
    """
    report = Report(order.file, order.lab or unique_name(order.file))
    try:
        with interruptible(None, report.lab, "its lab is taken down"):
            _test(order, report, on_result, settle)
    except Interrupted as error:
        report.fail("interrupted", error)
    if report.state == "passed" and not all(result.ok for result in report.results):
        report.state = "failed"
    return report


def _test(order: Order, report: Report, on_result: OnResult | None, settle: Settle | None) -> None:
    try:
        topology = labs.load(
            order.file,
            name=report.lab,
            variables=order.variables,
            private=order.lab is None or _is_private(order.lab),
            untrusted=order.untrusted,
        )
    except LabFileError as error:
        return report.fail("invalid", error)
    except NetorchError as error:
        return report.fail("invalid" if isinstance(error, UsageError) else "not built", error)
    report.planned = _planned(topology, order)
    if not report.planned:
        return report.fail("no checks", _why_none(topology, order))
    if order.lab is not None:
        return _run(order, topology, report, on_result)
    try:
        if settle is not None:
            settle(topology)
    except NetorchError as error:
        return report.fail("not built", error)
    with _up(order, topology, report) as is_up:
        if is_up:
            _run(order, topology, report, on_result)
    return None


def _is_private(lab: str) -> bool:
    return any(row["lab"] == lab and row["netns"] == "private" for row in labs.labs())


def _planned(topology: Topology, order: Order) -> list[tuple[str, str]]:
    checks: list[tuple[str, str]] = [
        (c.kind, titles.title(c, topology.groups)) for c in chosen(topology.checks, order.tags)
    ]
    steps: list[tuple[str, str]] = [
        (s.checks[0].kind if s.kind == "check" else s.kind, titles.step_title(s, topology.groups))
        for s in (wanted(topology, order.tags) if order.scenario else ())
    ]
    return [*checks, *steps]


def _why_none(topology: Topology, order: Order) -> str:
    """Why there is nothing to run, and what there would be."""
    steps = topology.scenario if order.scenario else []
    checks = [*topology.checks, *(check for step in steps for check in step.checks)]
    if not checks:
        only = "" if order.scenario or not topology.scenario else " but in its scenario"
        return f"the file has no checks{only}: nothing is proven"
    there = sorted({tag for check in checks for tag in check.tags})
    have = f"theirs are {', '.join(there)}" if there else "they have none"
    return f"no check has {' or '.join(order.tags)} among its tags ({have}): nothing is proven"


def nothing_proven(reports: Sequence[Report]) -> str:
    """Why no check of any file was run although nothing went wrong: that must not look like a success."""
    states = {report.state for report in reports}
    if not states <= {"no checks", "skipped"}:
        return ""
    if "skipped" not in states:
        return "nothing was checked: no file has a check that was asked for"
    return "nothing was checked: every lab was skipped for what this host lacks"


@contextmanager
def _up(order: Order, topology: Topology, report: Report) -> Iterator[bool]:
    """The lab is up inside the block, if it can be (then the block is told so); afterwards it is down."""
    began = time.monotonic()
    keep = False
    try:
        is_up = _build(order, topology, report)
        report.seconds["up"] = time.monotonic() - began
        yield is_up
        keep = order.keep_failed and _has_failed(report) and _is_up(topology.name)
    finally:
        began = time.monotonic()
        if keep:
            report.notes.append(f"lab {topology.name} is kept: netorch down {topology.name}")
        else:
            _down(topology.name, report)
            report.seconds["down"] = time.monotonic() - began


def _is_up(lab: str) -> bool:
    """Whether it is still there: its scenario may have taken it down."""
    return any(row["lab"] == lab for row in labs.labs())


def _has_failed(report: Report) -> bool:
    return report.state not in ("passed", "skipped") or not all(result.ok for result in report.results)


def _build(order: Order, topology: Topology, report: Report) -> bool:
    owner = None if order.keep_failed else os.getpid()
    try:
        labs.up(topology, keep_failed=order.keep_failed, owner_pid=owner)
    except Interrupted:
        raise
    except LabFileError as error:
        report.fail(_why_not(error.problems, order), error)
    except NetorchError as error:
        report.fail(_why_not([error], order), error)
    else:
        return True
    return False


def _why_not(problems: Sequence[NetorchError], order: Order) -> State:
    if all(isinstance(problem, MissingFeature) for problem in problems):
        return "skipped" if order.skip else "not built"
    of_the_file = len(problems) and all(
        type(problem) is NetorchError and problem.where for problem in problems
    )
    return "invalid" if of_the_file else "not built"


def _down(name: str, report: Report) -> None:
    try:
        labs.down(name)
    except NetorchError as error:
        report.fail("failed", error)


def _run(order: Order, topology: Topology, report: Report, on_result: OnResult | None) -> None:
    from netns_orch.checks import artifacts

    def note(results: list[Result]) -> OnResult:
        def take(result: Result) -> None:
            results.append(result)
            if on_result is not None:
                on_result(result)

        return take

    with artifacts.kept(order.artifacts, topology, report):
        with _timed(report, "checks"):
            run_checks(topology.name, topology, tags=order.tags, on_result=note(report.checks))
        if order.scenario and wanted(topology, order.tags):
            before = None if order.lab is None else _look(order.lab)
            with _timed(report, "scenario"):
                run_scenario(topology.name, topology, tags=order.tags, on_result=note(report.scenario))
            if order.lab is not None and before is not None:
                report.notes += _left(order, order.lab, before)


class _Look(NamedTuple):
    """How a lab is, beside how it should be."""

    drift: list[dict[str, Any]]
    paused: set[str]


def _look(lab: str) -> _Look:
    paused = {row["name"] for row in labs.ps(lab) if row["state"] == "paused"}
    return _Look(labs.status(lab)["drift"], paused)


def _left(order: Order, lab: str, before: _Look) -> Iterator[str]:
    """What the scenario has changed of a lab that stays up, and how it is put back."""
    try:
        after = _look(lab)
    except NetorchError as error:
        yield f"after the scenario: {error.what}"
        return
    if drift := [entry["object"] for entry in after.drift if entry not in before.drift]:
        private = " --private" if _is_private(lab) else ""
        yield (
            f"the scenario left lab {lab} other than it should be: {', '.join(drift)}; "
            f"put it back with: netorch up --name {lab}{private} {order.file}"
        )
    if paused := sorted(after.paused - before.paused):
        nodes = " ".join(paused)
        yield f"the scenario left paused: {nodes}; go on with: netorch unpause --lab {lab} {nodes}"


@contextmanager
def _timed(report: Report, phase: str) -> Iterator[None]:
    began = time.monotonic()
    try:
        yield
    except Interrupted:
        raise
    except NetorchError as error:
        report.fail("failed", error)
    finally:
        report.seconds[phase] = time.monotonic() - began


# -- many ---------------------------------------------------------------------------------------------


def run_files(
    orders: Sequence[Order],
    *,
    jobs: int = 1,
    on_result: Callable[[int, Result], None] | None = None,
    on_report: Callable[[int, Report], None] | None = None,
) -> list[Report]:
    """Test each in a process of its own, ``jobs`` at a time; the reports, in the order of the orders.

    Interrupted, it has all labs taken down before it raises; ``on_report`` has been told of every file then,
    also of those whose test had not begun.
    """
    from netns_orch.kernel import crew, hostcommand

    reports: dict[int, Report] = {}

    def take(number: int, line: bytes) -> None:
        news = json.loads(line)
        if "report" in news:
            reports[number] = Report.of_json(news["report"])
            if on_report is not None:
                on_report(number, reports[number])
        elif on_result is not None:
            on_result(number, Result.of_json(news["result"]))

    told = [json.dumps({"parent": os.getpid(), "order": asdict(order)}).encode() for order in orders]
    try:
        with interruptible(None, "LAB", "all labs are taken down"):
            ended = crew.run(hostcommand.own_command([WORKER]), told, jobs, take)
    except Interrupted:
        for number, order in enumerate(orders):
            if number not in reports and on_report is not None:
                errors = ["error: interrupted before its test began"]
                on_report(number, Report(order.file, order.lab or "", "interrupted", errors=errors))
        raise
    for number, (order, how) in enumerate(zip(orders, ended, strict=True)):
        if number not in reports:
            why = how.errors.strip() or f"exit code {how.code}"
            errors = [f"the process that tested it died: {why}"]
            reports[number] = Report(order.file, order.lab or "", "not built", errors=errors)
    return [reports[number] for number in range(len(orders))]


WORKER = "__test"
"""The word on netorch's command line that ``work`` is for."""


def work(settle: Settle | None = None) -> int:
    """One worker of ``run_files``: reads its order, writes results and the report, a line of JSON each."""
    from netns_orch.kernel import crew

    said = json.loads(sys.stdin.read())
    crew.die_with_parent(said["parent"])
    order = Order(**{**said["order"], "tags": tuple(said["order"]["tags"])})

    def tell(news: Mapping[str, Any]) -> None:
        sys.stdout.write(json.dumps(news) + "\n")
        sys.stdout.flush()

    report = run_file(order, lambda result: tell({"result": result.to_json()}), settle)
    tell({"report": report.to_json()})
    return 0
