"""scripts/bench: what it makes of its measurements.  How long anything takes is no matter of a test."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from support.runner import ROOT

sys.path.insert(0, str(ROOT / "scripts"))

from benchmarks import report


def _results(**labs: dict[str, Any]) -> dict[str, Any]:
    machine = {"kernel": "6.1", "cores": 2, "memory_gib": 24, "python": "3.11", "cgroup_v1": False}
    return {
        "date": "2026-01-01",
        "command": "scripts/bench",
        "machine": machine,
        "labs": labs,
        "scenarios": {"status": {"wall": 1.6}},
    }


def test_growth_and_bounds() -> None:
    netorch = {
        "100": {"up": {"wall": 1.0}, "pss": 100 * (1 << 20)},
        "300": {"up": {"wall": 2.9}},
        "1000": {"up": {"wall": 100.0}},
    }
    results = _results(netorch=netorch, floor={"300": {"up": {"wall": 1.0}}})
    held = {target.what: target.holds for target in report.targets(results)}
    assert report.exponent(results, "netorch", "up", 100, 1000) == pytest.approx(2)
    assert held["up of 300: 3 x the floor"] and held["PSS of an idle container, of 100"]
    assert held["growth of up, 100 to 1,000"] is False and held["status of 1,000"] is False
    assert held["up of 300: below Mininet"] is None  # not measured is neither


def test_the_tables_hold_what_was_measured_and_no_more() -> None:
    text = report.markdown(_results(netorch={"2": {"up": {"wall": 0.1234}, "exec": {"wall": 0.05}}}))
    assert "| netorch | 0.123 |" in text and "| netorch | 50 |" in text
    assert "mininet" not in text.lower().replace("below mininet", "") and "| status of 1,000 | 1.6 s" in text


def test_the_floor_compiles(tmp_path: Path) -> None:
    source = ROOT / "scripts/benchmarks/floor.c"
    try:
        done = subprocess.run(["cc", "-O0", "-o", tmp_path / "floor", source], capture_output=True, text=True)
    except FileNotFoundError:
        pytest.skip("there is no C compiler")
    assert done.returncode == 0, done.stderr
    usage = subprocess.run([tmp_path / "floor"], capture_output=True, text=True)
    assert usage.returncode == 2 and "usage" in usage.stderr
