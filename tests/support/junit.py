"""The form of a JUnit report, as readers expect it: that of Ant's junitreport, which Jenkins and GitLab take.

Written after the schemas that are in common use (JUnit.xsd of the Apache Ant report, Jenkins' junit-10.xsd):
elements in this order, these attributes and no others, counts that are right.
"""

from __future__ import annotations

import copy
import re
from pathlib import Path
from xml.etree import ElementTree

from junitparser import JUnitXml

_SUITE = {
    "id": r"\d+", "name": r".+", "package": r".+", "tests": r"\d+", "failures": r"\d+", "errors": r"\d+",
    "skipped": r"\d+", "time": r"\d+(\.\d+)?", "timestamp": r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d",
    "hostname": r".+",
}  # fmt: skip
_CASE = {"name": r"(?s).+", "classname": r".+", "time": r"\d+(\.\d+)?"}
_ORDER = ["properties", "testcase", "system-out", "system-err"]


def read(path: Path) -> list[tuple[int, int, int, int]]:
    """Tests, failures, errors and skipped of each suite, by a reader of others, which must count the same.

    So must the time of each suite be no less than that of its cases.
    """
    assert_is_junit(path.read_text(encoding="utf-8"))
    found = []
    for suite in JUnitXml.fromfile(str(path)):
        told = (suite.tests, suite.failures, suite.errors, suite.skipped)
        cases = copy.deepcopy(suite)
        cases.update_statistics()  # type: ignore[no-untyped-call]
        assert told == (cases.tests, cases.failures, cases.errors, cases.skipped)
        assert 0 <= cases.time <= suite.time + 0.001 * (suite.tests + 1), (cases.time, suite.time)
        found.append(told)
    return found


def assert_is_junit(text: str) -> None:
    """Fails with what is wrong about the document."""
    root = ElementTree.fromstring(text.encode())
    assert root.tag == "testsuites" and not root.attrib
    ids = []
    for suite in root:
        assert suite.tag == "testsuite"
        _attributes(suite, _SUITE)
        ids.append(suite.get("id"))
        tags = [child.tag for child in suite]
        assert sorted(tags, key=_ORDER.index) == tags, tags
        assert [tags.count(tag) for tag in ("properties", "system-out", "system-err")] == [1, 1, 1]
        _properties(suite.find("properties"))
        _cases(suite)
    assert len(set(ids)) == len(ids)


def _properties(properties: ElementTree.Element | None) -> None:
    assert properties is not None
    for each in properties:
        assert each.tag == "property" and set(each.attrib) == {"name", "value"}


def _cases(suite: ElementTree.Element) -> None:
    cases = suite.findall("testcase")
    names = [case.get("name") for case in cases]
    assert len(set(names)) == len(names), "two cases have one name"
    found = {"failure": 0, "error": 0, "skipped": 0}
    for case in cases:
        _attributes(case, _CASE)
        assert len(case) <= 1, "a case has one outcome"
        for child in case:
            found[child.tag] += 1
            wanted = {"message"} if child.tag == "skipped" else {"message", "type"}
            assert set(child.attrib) == wanted, child.attrib
    assert suite.get("tests") == str(len(cases))
    for tag, attribute in (("failure", "failures"), ("error", "errors"), ("skipped", "skipped")):
        assert suite.get(attribute) == str(found[tag]), attribute


def _attributes(element: ElementTree.Element, wanted: dict[str, str]) -> None:
    assert set(element.attrib) == set(wanted), element.attrib
    for name, pattern in wanted.items():
        assert re.fullmatch(pattern, element.attrib[name]), f"{name}={element.attrib[name]!r}"
