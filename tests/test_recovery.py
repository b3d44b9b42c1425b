"""Killed or refused at any step of the engine: the next ``down`` leaves the host as it was."""

from __future__ import annotations

import signal
import subprocess

import pytest
from support import snapshot
from support.faults import FAULTED, faulted
from support.runner import TOPOLOGIES, Netorch

pytestmark = pytest.mark.kernel
LAB = TOPOLOGIES / "three-tier.yaml"
MOST_STEPS = 30


def test_up_killed_at_each_step(netorch: Netorch) -> None:
    before = snapshot.take()
    for step in range(1, MOST_STEPS):
        code = faulted("up", step, "kill", LAB)
        netorch("down", LAB)
        snapshot.assert_equal(before)
        if code == 0:
            break
    assert step > 7, "a lab of this size takes more steps: was anything killed at all?"
    print(f"up killed at each of {step - 1} steps: {step - 1} of {step - 1} equal after down")


def test_down_killed_at_each_step(netorch: Netorch) -> None:
    before = snapshot.take()
    for step in range(1, MOST_STEPS):
        netorch("up", LAB)
        code = faulted("down", step, "kill", LAB)
        netorch("down", LAB)
        snapshot.assert_equal(before)
        if code == 0:
            break
    assert step > 3, "down takes more steps: was anything killed at all?"
    print(f"down killed at each of {step - 1} steps: {step - 1} of {step - 1} equal after the next down")


@pytest.mark.parametrize("error", ["EPERM", "ENOSPC", "EBUSY"])
def test_up_refused_at_each_step_rolls_back_by_itself(netorch: Netorch, error: str) -> None:
    before = snapshot.take()
    for step in range(1, MOST_STEPS):
        code = faulted("up", step, error, LAB)
        if code == 0:
            netorch("down", LAB)
        snapshot.assert_equal(before)
        if code == 0:
            break
        assert code == FAULTED
    assert step > 7


def test_up_after_a_killed_up_cleans_up_first_and_succeeds(netorch: Netorch) -> None:
    for step in (2, 5, 7):
        assert faulted("up", step, "kill", LAB) == -signal.SIGKILL
        netorch("up", LAB)
        assert netorch("status", LAB, "--json").json()["drift"] == []
        netorch("down", LAB)


def test_without_any_file_of_ours_down_finds_all_of_it(netorch: Netorch) -> None:
    before = snapshot.take()
    netorch("up", LAB)
    subprocess.run(["rm", "-rf", "/run/netorch"], check=True)
    netorch("down", "three-tier")
    snapshot.assert_equal(before)
