"""A lab that somebody took half away, or that a reboot took: ``status`` names it, ``up`` repairs it, ``down``
leaves nothing."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from support import cgroups, snapshot, view
from support.outer import run
from support.runner import Netorch
from support.waiting import until

pytestmark = pytest.mark.kernel
BOOT_ID = "/proc/sys/kernel/random/boot_id"
LAB = """
bridges: {br0: 10.80.0.1/24, lan: }
containers:
  red: {setup: [touch /tmp/done], command: [sleep, infinity], resources: {pids: 64}}
  blue: {iptables: [-A INPUT -p tcp --dport 1 -j DROP]}
links: [[red, br0], [blue, br0], [red, lan], [red:wan, blue:wan]]
"""
if view.ROOTLESS:
    LAB = LAB.replace(", resources: {pids: 64}", "")


def files() -> Path:
    return next(view.run_directory("lab").glob("lab.*/"))


def links() -> list[str]:
    found = json.loads(view.run("ip", "-j", "link"))
    return [
        link["ifname"] for link in found if any("netorch.lab" in name for name in link.get("altnames", []))
    ]


def kill(*names: str) -> None:
    """SIGKILL to PID 1 of containers, until they are gone."""
    pids = [json.loads((files() / f"c/{name}/container.json").read_text())["pid"] for name in names]
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids), "the end of the containers", 60)


def remove_cgroups(*patterns: str) -> None:
    for position in cgroups.positions():
        for pattern in patterns:
            for directory in position.directory.glob(pattern):
                until(lambda directory=directory: _gone(directory), f"the end of {directory}", 60)  # type: ignore[misc]


def _gone(directory: Path) -> bool:
    with suppress(OSError):
        directory.rmdir()
    return not directory.exists()


def container_lost() -> None:
    kill("red")
    remove_cgroups("netorch/lab.*/red")


def everything_lost() -> None:
    """All but the files: as after a reboot, if /run were kept."""
    kill("red", "blue")
    remove_cgroups("netorch/lab.*/*/", "netorch/lab.*/", "netorch/")
    for link in links():
        with suppress(RuntimeError):  # gone with another
            view.run("ip", "link", "del", link)
    view.run("nft", "flush", "ruleset")
    view.run("sysctl", "-qw", "net.ipv4.ip_forward=0")


def half_of_the_files() -> None:
    subprocess.run(["rm", "-r", files() / "c", files() / "lab.json"], check=True)


def remove(*names: str) -> Callable[[], None]:
    """Delete files of the run directory."""
    return lambda: subprocess.run(["rm", "-r", *(files() / name for name in names)], check=True) and None


DAMAGES: dict[str, tuple[Callable[[], None], tuple[str, ...]]] = {
    "links": (lambda: [view.run("ip", "link", "del", link) for link in links()[:2]] and None, ("bridge ",)),
    "a container": (container_lost, ("container red",)),
    "everything": (everything_lost, ("bridge br0", "container red", "cable red:wan blue:wan")),
    "lab.json": (remove("lab.json"), ("/lab.json",)),
    "state.json": (remove("state.json"), ("/state.json",)),
    "half of the files": (half_of_the_files, ("/lab.json",)),
    "container.json, netns": (
        remove("c/red/container.json", "c/blue/netns"),
        ("container red", "container blue"),
    ),
    "small files": (
        remove("c/blue/control", "c/red/process.json", "c/red/setup.json"),
        ("container blue", "process red", "setup red"),
    ),
}


@contextmanager
def another_boot() -> Iterator[None]:
    """The kernel tells another boot id; the files are kept."""
    file = Path("/run/boot_id")
    file.write_text("00000000-1111-2222-3333-444444444444\n")
    run("mount", "--bind", str(file), BOOT_ID)
    try:
        yield
    finally:
        run("umount", BOOT_ID)
        file.unlink()


def check(netorch: Netorch, file: Path) -> None:
    """The lab is as the file says, and works."""
    assert netorch("status", file, "--json").json()["drift"] == []
    netorch("exec", "red", "sh", "-c", "test -e /tmp/done && ping -c1 -W5 blue && ip link show wan")


def test_what_was_taken_away_by_hand(netorch: Netorch) -> None:
    before = snapshot.take()
    file = netorch.write(LAB)
    netorch("up", file)
    for what, (damage, named) in DAMAGES.items():
        damage()
        drift = netorch("status", "lab", "--json", code=1).json()["drift"]
        objects = [entry["object"] for entry in drift]
        for name in named:
            assert any(each.startswith(name) or each.endswith(name) for each in objects), f"{what}: {objects}"
        netorch("up", file)
        check(netorch, file)
    netorch("down", file)
    snapshot.assert_equal(before)
    print(f"{len(DAMAGES)} of {len(DAMAGES)} named and repaired")


@pytest.mark.parametrize("what", ["links", "a container", "everything", "state.json", "half of the files"])
def test_down_after_it(netorch: Netorch, what: str) -> None:
    before = snapshot.take()
    file = netorch.write(LAB)
    netorch("up", file)
    DAMAGES[what][0]()
    netorch("down", file)
    snapshot.assert_equal(before)


@view.ON_THE_HOST
def test_files_of_an_earlier_boot(netorch: Netorch) -> None:
    before = snapshot.take()
    file = netorch.write(LAB)
    netorch("up", file)
    everything_lost()
    with another_boot():
        assert netorch("ls", "--json").json()[0]["state"] == "gone"
        drift = netorch("status", file, "--json", code=1).json()["drift"]
        assert {entry["what"] for entry in drift} == {"missing"}
        objects = {entry["object"] for entry in drift}
        assert {"bridge br0", "container red", "cable red:wan blue:wan"} <= objects
        assert "the host was started anew" in netorch("ps", file, code=2).stderr
        netorch("exec", "red", "true", code=125)
        netorch("up", file)
        check(netorch, file)
        everything_lost()
    for command in (["down", file], ["gc"]):  # the real boot id again: another boot, to these files
        netorch(*command)
        snapshot.assert_equal(before)
        netorch("up", file)
        everything_lost()
        with another_boot():
            found = netorch("gc", "--json", "--dry-run").json()
            assert (found[0]["lab"], found[0]["reason"]) == (
                "lab",
                "the host was started anew since it was up",
            )
    netorch("down", "--all")
    snapshot.assert_equal(before)
