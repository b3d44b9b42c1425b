"""The command ``test``: lab files brought up, checked and taken down, and how that reads.

Owns: its words, its table and its exit codes.  Must not: do more than choose, call ``checks`` and show.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer import Argument, Option

from netns_orch.cli import choose
from netns_orch.cli.output import Progress, clean, count, note, out, out_json, table
from netns_orch.cli.usage import Command
from netns_orch.cli.words import USE, Json, Text, Texts, Untrusted, Var
from netns_orch.errors import EXIT_DONE, EXIT_FAILED, EXIT_NOT_BUILT, EXIT_USAGE, NetorchError, UsageError

if TYPE_CHECKING:
    from netns_orch.checks.outcome import Result
    from netns_orch.checks.suite import Order, Report

_NO_CHECKS = ("command", "wait")
_NOTE = 72
_VERDICTS = ("passed", "failed", "no proof", "skipped")
_SAID = {"failed": "FAILED", "no proof": "NO PROOF"}


_Artifacts = Annotated[
    Text,
    Option(
        "--artifacts",
        metavar="DIR",
        help="Keep there what tells of a lab that failed: logs, counters, packets.",
    ),
]


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("test", cls=Command, rich_help_panel=USE)(test)


def test(
    files: Annotated[
        Texts, Argument(metavar="FILE|DIR...", help="Lab files, or directories of them.")
    ] = None,
    jobs: Annotated[
        Text, Option("--jobs", "-j", metavar="N", help="So many labs side by side (auto: one a CPU).")
    ] = None,
    junit: Annotated[Text, Option("--junit", metavar="FILE", help="Write a report for CI there.")] = None,
    tags: Annotated[
        Texts, Option("--tags", metavar="A,B", help="Only checks with one of these tags.")
    ] = None,
    keep_failed: Annotated[
        bool, Option("--keep-failed", help="A lab of which something failed stays up.")
    ] = False,
    artifacts: _Artifacts = None,
    lab_word: Annotated[
        Text, Option("--lab", metavar="LAB", help="A lab that is up, and stays so; its scenario changes it.")
    ] = None,
    no_scenario: Annotated[
        bool, Option("--no-scenario", help="The checks alone: nothing in the lab is changed.")
    ] = False,
    no_skip: Annotated[
        bool, Option("--no-skip", help="A lab that needs what this kernel lacks is not skipped: exit code 3.")
    ] = False,
    var: Var = None,
    untrusted: Untrusted = False,
    json: Json = False,
) -> int:
    """Prove what lab files say: up in private, checks, scenario, down.

    Of a directory all lab files in it are tested.  Exit codes: 0 all passed, 1 a check failed or nothing was
    checked (no check bears a tag of --tags), 2 a file is not valid, 3 a lab could not be built.
    """
    from netns_orch.checks import suite

    side_by_side = _jobs(jobs)
    if lab_word is not None and (keep_failed or no_skip):
        unfit = "--keep-failed" if keep_failed else "--no-skip"
        raise UsageError(f"{unfit} is for a lab that is built; with --lab it is up, and stays so")
    labels = tuple(tag for words in tags or () for tag in words.split(",") if tag)
    found, running = _chosen(files or [], lab_word)
    if artifacts is not None:
        _make_directory(Path(artifacts))
    if junit is not None:
        _make_writable(Path(junit))
    same = suite.Order(
        "",
        labels,
        keep_failed,
        variables=choose.variables(var or []),
        untrusted=untrusted,
        skip=not no_skip,
        lab=running,
        scenario=not no_scenario,
    )
    places = _places(found, artifacts)
    orders = [
        replace(same, file=str(file), artifacts=place) for file, place in zip(found, places, strict=True)
    ]
    return _tested(orders, side_by_side, junit, json=json)


def _tested(orders: Sequence[Order], jobs: int, junit: str | None, *, json: bool) -> int:
    began = time.monotonic()
    found: dict[int, Report] = {}

    def tell(code: int | None = None) -> int:
        reports = [report for _, report in sorted(found.items())]
        if code is None:
            code = exit_code(reports)
        _tell(reports, code, time.monotonic() - began, junit, json=json)
        return code

    try:
        _run(orders, jobs, found)
    except NetorchError as error:  # interrupted: an old report must not stay
        tell(error.exit_code)
        raise
    return tell()


def _tell(reports: Sequence[Report], code: int, seconds: float, junit: str | None, *, json: bool) -> None:
    from netns_orch.checks.suite import nothing_proven

    if json:
        out_json(_as_json(reports, code, seconds))
    else:
        _show(reports)
    note(summary(reports, seconds))
    if why := nothing_proven(reports):
        note(f"error: {why}")
    if junit is not None:
        _write_junit(Path(junit), reports)


def _jobs(text: str | None) -> int:
    import os

    if text == "auto":
        return len(os.sched_getaffinity(0))
    number = choose.whole("-j", text)
    if number == 0:
        raise UsageError("-j 0: at least one lab at a time", hint="-j auto: one for each CPU")
    return number or 1


def _chosen(words: Sequence[str], lab_word: str | None) -> tuple[list[Path], str | None]:
    """The files to test, and the lab that is up, if it is one."""
    from netns_orch.checks import suite

    if lab_word is None:
        paths = [Path(word) if Path(word).is_dir() else choose.lab_file(word)[0] for word in words]
        return suite.find(paths or [choose.lab_file(None)[0]]), None
    if len(words) > 1 or (words and Path(words[0]).is_dir()):
        raise UsageError("--lab is for one FILE at most: that lab's own, unless another is named")
    lab = choose.lab_name(lab_word)
    return [choose.lab_file(words[0] if words else lab)[0]], lab


def _make_directory(path: Path) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"--artifacts {path}: {(error.strerror or str(error)).lower()}") from None


def _make_writable(path: Path) -> None:
    """Before minutes of tests, not behind them."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.open("a", encoding="utf-8").close()
    except OSError as error:
        raise UsageError(f"--junit {path}: {(error.strerror or str(error)).lower()}") from None


def _places(files: Sequence[Path], directory: str | None) -> Iterator[str | None]:
    """Where the artefacts of each file go: by its stem, with a number where that is taken."""
    taken: set[str] = set()
    for file in files:
        stem = file.name.removesuffix(".yaml").removesuffix(".yml")
        numbered = (f"{stem}-{number}" for number in itertools.count(2))
        name = next(name for name in itertools.chain([stem], numbered) if name not in taken)
        taken.add(name)
        yield None if directory is None else str(Path(directory) / name)


def _run(orders: Sequence[Order], jobs: int, reports: dict[int, Report]) -> None:
    """Test all; ``reports`` is filled in, by the number of the order."""
    from netns_orch.checks import suite

    with Progress() as progress:

        def on_result(number: int, result: Result) -> None:
            progress(f"{orders[number].file}: {result.name}", len(reports), len(orders))

        def on_report(number: int, report: Report) -> None:
            reports[number] = report
            progress(f"{report.file}: {report.state}", len(reports), len(orders))

        found = suite.run_files(orders, jobs=jobs, on_result=on_result, on_report=on_report)
        reports.update(enumerate(found))


def _write_junit(path: Path, reports: Sequence[Report]) -> None:
    import os

    from netns_orch.checks import junit

    text = junit.xml(reports, hostname=os.uname().nodename, now=time.time())
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise NetorchError(f"can't write {path}: {(error.strerror or str(error)).lower()}") from None


# -- what is said ---------------------------------------------------------------------------------------


def exit_code(reports: Sequence[Report]) -> int:
    """Of all files together: what could not be built outweighs a failed check, that an invalid file."""
    states = {report.state for report in reports}
    if "interrupted" in states:
        return 130
    if "not built" in states:
        return EXIT_NOT_BUILT
    if "failed" in states:
        return EXIT_FAILED
    if "invalid" in states:
        return EXIT_USAGE
    if "passed" in states:
        return EXIT_DONE
    return EXIT_FAILED if "no checks" in states else EXIT_NOT_BUILT  # nothing at all was proven


def _as_json(reports: Sequence[Report], code: int, seconds: float) -> dict[str, Any]:
    from netns_orch.checks.suite import nothing_proven

    return {
        "passed": code == EXIT_DONE,
        "exit_code": code,
        "problem": nothing_proven(reports) or None,
        "seconds": round(seconds, 3),
        "files": [report.to_json() for report in reports],
    }


def _show(reports: Sequence[Report]) -> None:
    rows = [row for report in reports for row in _rows(report)]
    out("\n".join(table(("FILE", "CHECK", "RESULT", "TIME", "NOTE"), rows)))
    for report in reports:
        for line in _details(report, whole=report.state != "no checks" or len(reports) == 1):
            out(line)


def _rows(report: Report) -> Iterator[Sequence[object]]:
    for result in report.results:
        said = _SAID.get(result.verdict, result.verdict)
        told = result.lines[0] if result.lines and (result.kind == "converges" or not result.ok) else ""
        yield report.file, result.name, said, f"{result.seconds:.2f} s", _cut(told)
    phases = ", ".join(f"{phase} {seconds:.1f}" for phase, seconds in report.seconds.items())
    first = report.errors[0].splitlines()[0].removeprefix("error: ") if report.errors else phases
    whole = report.state if report.state == "passed" else report.state.upper()
    yield report.file, "", whole, f"{sum(report.seconds.values()):.2f} s", _cut(first)


def _cut(text: str) -> str:
    return text if len(text) <= _NOTE else text[: _NOTE - 1] + "…"


def _details(report: Report, *, whole: bool) -> Iterator[str]:
    """All that is known of what went wrong; not ``whole``: but for what its row of the table says."""
    for result in report.results:
        if result.ok:
            continue
        yield ""
        yield clean(f"{_SAID[result.verdict]}: {result.name}")
        if result.where:
            yield clean(f"  --> {result.where}")
        yield from (f"  | {clean(line)}" for line in result.lines)
    for error in report.errors if whole else ():
        yield ""
        yield f"{report.state.upper()}: {report.file}"
        yield from (f"  {clean(line)}" for line in error.splitlines())
    if report.notes:
        yield ""
        yield from (f"note: {clean(text)}" for text in report.notes)


def summary(reports: Sequence[Report], seconds: float) -> str:
    """The last line: ``17 files: 80 checks passed, 1 failed in 23.0 s``."""
    results = [r for report in reports for r in report.results if r.kind not in _NO_CHECKS or not r.ok]
    tally = {verdict: sum(r.verdict == verdict for r in results) for verdict in _VERDICTS}
    parts = [f"{count(tally.pop('passed'), 'check')} passed"]
    parts += [f"{number} {verdict}" for verdict, number in tally.items() if number]
    for state in ("not built", "invalid", "skipped", "no checks", "interrupted"):
        number = sum(report.state == state for report in reports)
        if number:
            parts.append(
                f"{count(number, 'file')} {'with nothing to check' if state == 'no checks' else state}"
            )
    return f"{count(len(reports), 'file')}: {', '.join(parts)} in {seconds:.1f} s"
