"""Reports as JUnit's XML, as CI systems read it.

Owns: the form (that of Ant's junitreport, which Jenkins and GitLab read, too): a suite for each file, a case
for each check.  Must not: write files.

A lab that could not be built is an error of each of its checks, so that their number does not change; a
command of a scenario is a case only where it failed.  What was skipped, or had nothing to check, is skipped
beside files that were checked; where no file was, it is an error, as the exit code is.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple
from xml.etree import ElementTree

from netns_orch.checks.suite import nothing_proven

if TYPE_CHECKING:
    from netns_orch.checks.outcome import Result
    from netns_orch.checks.suite import Report

_FORBIDDEN = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""What XML 1.0 has no way to write."""
_NO_CASES = ("command", "wait")


class _Case(NamedTuple):
    name: str
    seconds: float
    kind: str = ""
    """failure | error | skipped; empty: passed"""
    type: str = ""
    message: str = ""
    text: str = ""


def xml(reports: Sequence[Report], *, hostname: str, now: float) -> str:
    """The document; ``now`` is in seconds since the epoch."""
    root = ElementTree.Element("testsuites")
    idle = "error" if nothing_proven(reports) else "skipped"
    for number, report in enumerate(reports):
        root.append(_suite(number, report, list(_distinct(_cases(report, idle))), hostname, now))
    ElementTree.indent(root)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ElementTree.tostring(root, encoding="unicode") + "\n"


def _suite(
    number: int, report: Report, cases: Sequence[_Case], hostname: str, now: float
) -> ElementTree.Element:
    counts = {kind: sum(case.kind == kind for case in cases) for kind in ("failure", "error", "skipped")}
    name = _clean(report.file)
    suite = ElementTree.Element(
        "testsuite",
        {
            "id": str(number),
            "name": name,
            "package": name,
            "tests": str(len(cases)),
            "failures": str(counts["failure"]),
            "errors": str(counts["error"]),
            "skipped": str(counts["skipped"]),
            "time": f"{sum(report.seconds.values()):.3f}",
            "timestamp": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now)),
            "hostname": hostname,
        },
    )
    properties = ElementTree.SubElement(suite, "properties")
    for key, value in _properties(report):
        ElementTree.SubElement(properties, "property", {"name": key, "value": _clean(value)})
    for case in cases:
        suite.append(_element(case, name))
    ElementTree.SubElement(suite, "system-out").text = _clean("\n".join(_told(report)))
    ElementTree.SubElement(suite, "system-err").text = _clean("\n".join(report.errors))
    return suite


def _properties(report: Report) -> Iterator[tuple[str, str]]:
    yield "lab", report.lab
    yield "state", report.state
    for phase, seconds in report.seconds.items():
        yield f"seconds.{phase}", f"{seconds:.3f}"
    for result in report.results:
        if "outage_ms" in result.figures:
            yield f"outage_ms: {_clean(result.name)}", f"{result.figures['outage_ms']:.0f}"


def _told(report: Report) -> Iterator[str]:
    yield from report.notes
    for result in report.results:
        if result.verdict == "passed":
            yield from (f"{result.name}: {line}" for line in result.lines)


def _cases(report: Report, idle: str) -> Iterator[_Case]:
    """``idle``: what a case is that nothing was done for, although nothing went wrong."""
    yield from (_case(result) for result in report.results if _counts(result))
    if report.state in ("passed", "failed") and not report.errors:
        return
    why = report.errors[0] if report.errors else report.state
    first = why.splitlines()[0].removeprefix("error: ")
    kind = idle if report.state in ("skipped", "no checks") else "error"
    done = len(report.results)
    left = [name for kind_, name in report.planned[done:] if kind_ not in _NO_CASES]
    for name in left or [report.state if report.state != "no checks" else "checks"]:
        yield _Case(name, 0.0, kind, report.state, first, "\n\n".join(report.errors))


def _counts(result: Result) -> bool:
    return result.kind not in _NO_CASES or not result.ok


def _case(result: Result) -> _Case:
    kind = {"passed": "", "skipped": "skipped"}.get(result.verdict, "failure")
    message = result.lines[0] if kind and result.lines else ""
    place = [f"at {result.where}"] if result.where else []
    return _Case(
        result.name, result.seconds, kind, result.verdict, message, "\n".join([*result.lines, *place])
    )


def _distinct(cases: Iterable[_Case]) -> Iterator[_Case]:
    """Readers tell cases apart by their names: a second of one name gets a number."""
    seen: dict[str, int] = {}
    for case in cases:
        seen[case.name] = seen.get(case.name, 0) + 1
        yield case if seen[case.name] == 1 else case._replace(name=f"{case.name} ({seen[case.name]})")


def _element(case: _Case, suite: str) -> ElementTree.Element:
    element = ElementTree.Element(
        "testcase", {"name": _clean(case.name), "classname": suite, "time": f"{case.seconds:.3f}"}
    )
    if case.kind:
        attributes = {"message": _clean(case.message)}
        if case.kind != "skipped":
            attributes["type"] = case.type
        child = ElementTree.SubElement(element, case.kind, attributes)
        if case.kind != "skipped":
            child.text = _clean(case.text)
    return element


def _clean(text: str) -> str:
    """Without what XML can't hold."""
    return _FORBIDDEN.sub("\ufffd", text)
