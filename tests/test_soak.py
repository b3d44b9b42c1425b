"""A sample of scripts/soak, which prints the figures of the whole."""

from __future__ import annotations

import subprocess
import sys

import pytest
from support.runner import ROOT, SECONDS

pytestmark = pytest.mark.kernel


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("labs", "--number", "6", "--rounds", "1", "--processes", "6"), "6 labs, 6 at once, 0 failed"),
        (("cycles", "--number", "6"), "file descriptors: "),
        (("copies", "--number", "2"), "2 copies of three-tier up at once, 0 problems"),
    ],
)
def test_a_sample(words: tuple[str, ...], said: str) -> None:
    command = [sys.executable, ROOT / "scripts/soak", *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS * 3)
    assert done.returncode == 0, done.stdout + done.stderr
    assert said in done.stdout
    assert "the host is as before" in done.stdout
