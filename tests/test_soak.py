"""Samples of scripts/soak and scripts/mutate, which print the figures of the whole."""

from __future__ import annotations

import subprocess
import sys

import pytest
from support.runner import ROOT, SECONDS

pytestmark = [pytest.mark.kernel, pytest.mark.root_only("of scripts that are root's")]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("labs", "--number", "6", "--rounds", "1", "--processes", "6"), "6 labs, 6 at once, 0 failed"),
        (("cycles", "--number", "6"), "file descriptors: "),
        (("copies", "--number", "2"), "2 copies of three-tier up at once, 0 problems"),
        (("tests", "--number", "1", "--processes", "2"), "25 passed"),
    ],
)
def test_a_sample(words: tuple[str, ...], said: str) -> None:
    command = [sys.executable, ROOT / "scripts/soak", *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS * 3)
    assert done.returncode == 0, done.stdout + done.stderr
    assert said in done.stdout
    assert "the host is as before" in done.stdout


def test_mutations_are_found() -> None:
    """A sample of scripts/mutate: all five damages of one topology."""
    command = [sys.executable, ROOT / "scripts/mutate", ROOT / "topologies/straight-cable.yaml"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS * 3)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "5 of 5 damages were found: 100.0 %" in done.stdout
