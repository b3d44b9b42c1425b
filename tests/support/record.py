"""What a run of the tests ran, and what it skipped and why: ``scripts/test-vm`` runs that elsewhere.

``NETORCH_TEST_RECORD`` names the file.  It holds JSON: ``ran``, ``failed``, ``skipped``, and ``vm`` and
``systemd`` (which bear those markers), each by the ids of tests; for those that were skipped with the reason.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

VARIABLE = "NETORCH_TEST_RECORD"
MACHINES = ("vm", "systemd")
"""Markers of tests that are for a machine of ``scripts/test-vm``."""


class Record:
    """A pytest plugin that writes the file at the end."""

    def __init__(self, file: Path) -> None:
        self._file = file
        kinds = ("ran", "failed", "skipped", *MACHINES)
        self._found: dict[str, dict[str, str]] = {kind: {} for kind in kinds}

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """A whole module may be skipped."""
        self._skipped(report)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """With xdist it comes from the workers."""
        if report.when == "call" and not report.skipped:
            self._found["ran"][report.nodeid] = ""
        if report.failed:
            self._found["failed"][report.nodeid] = ""
        for mark in MACHINES:
            if mark in report.keywords:
                self._found[mark][report.nodeid] = ""
        self._skipped(report)

    def _skipped(self, report: pytest.CollectReport | pytest.TestReport) -> None:
        if report.skipped and not hasattr(report, "wasxfail"):
            reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
            self._found["skipped"][report.nodeid] = reason.removeprefix("Skipped: ")

    def pytest_sessionfinish(self) -> None:
        """All reports are in."""
        self._file.write_text(json.dumps(self._found, indent=1))


def register(config: pytest.Config) -> None:
    """In the process that sees all reports: the only one, or xdist's controller."""
    file = os.environ.get(VARIABLE)
    if file and not hasattr(config, "workerinput"):
        config.pluginmanager.register(Record(Path(file)), "netorch-record")
