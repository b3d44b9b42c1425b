"""Killed or refused anywhere: the next ``down`` leaves the host as it was, the next ``up`` comes to its end.

The lab is three-tier with limits and a layered root; each step is one of the engine's.  ``scripts/sweep``
strikes within them, at system calls.
"""

from __future__ import annotations

import shutil
import signal
from pathlib import Path

import pytest
from support import snapshot, view
from support.faults import FAULTED, faulted
from support.runner import TOPOLOGIES, Netorch
from support.waiting import PATIENCE

pytestmark = pytest.mark.kernel
MOST_STEPS = 30
ERRORS = ("EPERM", "ENOSPC", "EBUSY", "ENOMEM", "EINTR")
LAYERS = TOPOLOGIES / "layers"
LIMITS = ("memory: 256M, pids: 64", "memory: 256M, pids: 65")
DEFAULTS = f"\ndefaults: {{resources: {{{LIMITS[0]}, cpus: 0.5}}}}\n"
if view.ROOTLESS:  # no cgroup is delegated to the user of the tests
    LIMITS = ("ip_default_ttl: 64", "ip_default_ttl: 65")
    DEFAULTS = f"\ndefaults: {{sysctls: {{net.ipv4.{LIMITS[0]}}}}}\n"
BOX = """containers:
  box:
    rootfs: {layers: [layers/base.tar.gz, layers/site]}
    volumes: ["/usr:/usr:ro", "notes:/srv/notes"]
    setup: [touch /srv/notes/done]
"""


@pytest.fixture
def lab(netorch: Netorch) -> Path:
    """The lab file, with layers beside it."""
    shutil.copytree(LAYERS, netorch.directory / "layers", symlinks=True)
    text = (TOPOLOGIES / "three-tier.yaml").read_text()
    text = text.replace("containers:\n", BOX, 1).replace("links:\n", "links:\n  - [box, front]\n", 1)
    return netorch.write(text + DEFAULTS, "tiers.yaml")


def changed(lab: Path) -> Path:
    """Converging: a limit (or a sysctl), a route, a command, a cable and a container more."""
    text = lab.read_text()
    for old, new in (
        LIMITS,
        ("routes: [10.5.2.0/23 via 10.5.1.1]", "routes: [10.5.0.0/16 via 10.5.1.1]"),
        ("touch /srv/notes/done", "touch /srv/notes/again"),
        ("containers:\n", "containers:\n  more:\n"),
        ("links:\n", "links:\n  - [more, back]\n"),
    ):
        assert old in text
        text = text.replace(old, new, 1)
    lab.write_text(text)
    return lab


def clean(netorch: Netorch, lab: Path) -> None:
    """The lab is as its file says."""
    assert netorch("status", lab, "--json").json()["drift"] == []


@pytest.mark.vm
def test_up_killed_at_each_step(netorch: Netorch, lab: Path) -> None:
    """On an emulated machine at each third."""
    before, killed = snapshot.take(), 0
    for step in range(1, MOST_STEPS, 1 if PATIENCE == 1 else 3):
        code = faulted("up", step, "kill", lab)
        if step % 4 == 3:  # the next up first finishes the clean-up
            netorch("up", lab)
            clean(netorch, lab)
        netorch("down", lab)
        snapshot.assert_equal(before)
        if code == 0:
            break
        killed += 1
    assert step > 9, "a lab of this size takes more steps: was anything killed at all?"
    print(f"up killed at {killed} of {step - 1} steps: {killed} of {killed} equal after down")


def test_down_killed_at_each_step(netorch: Netorch, lab: Path) -> None:
    before = snapshot.take()
    for step in range(1, MOST_STEPS):
        netorch("up", lab)
        code = faulted("down", step, "kill", lab)
        netorch("down", lab)
        snapshot.assert_equal(before)
        if code == 0:
            break
    assert step > 3, "down takes more steps: was anything killed at all?"
    print(f"down killed at each of {step - 1} steps: {step - 1} of {step - 1} equal after the next down")


def test_up_refused_at_each_step_rolls_back_by_itself(netorch: Netorch, lab: Path) -> None:
    before = snapshot.take()
    for step in range(1, MOST_STEPS):
        code = faulted("up", step, ERRORS[step % len(ERRORS)], lab)
        if code == 0:
            netorch("down", lab)
        snapshot.assert_equal(before)
        if code == 0:
            break
        assert code == FAULTED
    assert step > 9


def test_a_converging_up_killed_or_refused_at_each_step(netorch: Netorch, lab: Path) -> None:
    before = snapshot.take()
    text = lab.read_text()
    netorch("up", lab)
    killed = refused = 0
    for step in range(1, MOST_STEPS):
        changed(lab)
        kind = "kill" if step % 2 else ERRORS[step // 2 % len(ERRORS)]
        code = faulted("up", step, kind, lab)
        if code == 0:
            break
        killed, refused = killed + (code == -signal.SIGKILL), refused + (code == FAULTED)
        if code == FAULTED:  # rolled back to what it was
            lab.write_text(text)
            clean(netorch, lab)
        else:
            netorch("up", lab)
            clean(netorch, lab)
            lab.write_text(text)
            netorch("up", lab)
    assert killed > 3 and refused > 2
    netorch("down", lab)
    snapshot.assert_equal(before)
    print(
        f"a converging up: {killed} of {killed} killed came to their end, {refused} of {refused} rolled back"
    )


def test_without_any_file_of_ours_down_finds_all_of_it(netorch: Netorch, lab: Path) -> None:
    before = snapshot.take()
    netorch("up", lab)
    shutil.rmtree(view.HOLDERS[0] if view.ROOTLESS else "/run/netorch")
    netorch("down", "tiers")  # of a user's lab, which ends with its files, nothing is left to find
    snapshot.assert_equal(before)
