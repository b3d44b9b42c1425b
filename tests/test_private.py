"""netns: private: bridges in a namespace of their own, one uplink on the host, any number of copies."""

from __future__ import annotations

import json
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from support import outside, snapshot, view
from support.outer import run
from support.runner import SECONDS, TOPOLOGIES, Netorch

pytestmark = pytest.mark.kernel
RED_BLUE = TOPOLOGIES / "red-blue.yaml"


def interfaces() -> list[str]:
    """The host's interfaces, without lo."""
    listed = json.loads(run("ip", "-j", "link"))
    return [link["ifname"] for link in listed if link["ifname"] != "lo"]


def test_the_host_has_the_uplink_and_nothing_else(netorch: Netorch) -> None:
    before = interfaces()
    netorch("up", "--private", RED_BLUE)
    uplinks = set(interfaces()) - set(before)
    if view.ROOTLESS:
        assert uplinks == set()
    else:
        (uplink,) = uplinks
        assert uplink.startswith("up")
    assert "10.0.0.1" not in run("ip", "address")
    netorch("exec", "red", "ping", "-c1", "-W1", "10.0.0.3")
    assert netorch("ls", "--json").json()[0]["netns"] == "private"
    status = netorch("status", "--json").json()
    assert status == {"lab": "red-blue", "drift": [], "extra": [], "oom_kills": {}, "warnings": []}
    assert "nothing to do" in netorch("plan", "--private", RED_BLUE).stderr
    netorch("down")


def test_it_reaches_the_outside_by_nat(netorch: Netorch) -> None:
    netorch("up", "--private", TOPOLOGIES / "docker0.yaml")
    nodes = [row["name"] for row in netorch("ps", "--json").json()]
    netorch("exec", nodes[0], "ping", "-c1", "-W1", outside.IPV4)
    netorch("down")


def test_ten_copies_side_by_side(netorch: Netorch) -> None:
    """Brought up at once: in each the tiers answer, and those that must not reach one another do not."""
    before = snapshot.take()
    names = [f"copy{number}" for number in range(10)]
    file = TOPOLOGIES / "three-tier.yaml"
    started = [netorch.start("up", "--private", "--name", name, file) for name in names]
    for process in started:
        _, stderr = process.communicate(timeout=SECONDS)
        assert process.returncode == 0, stderr
    with ThreadPoolExecutor(len(names)) as pool:  # they wait, most of the time
        results = list(
            pool.map(lambda name: netorch("test", "--json", "--lab", name, file, code=None), names)
        )
    assert [result.json()["passed"] for result in results] == [True] * 10, "\n".join(map(str, results))
    netorch("down", "--all")
    snapshot.assert_equal(before)


def test_one_copy_cannot_reach_another(netorch: Netorch) -> None:
    with netorch.lab(RED_BLUE, "--private", "--name", "one"):
        other = netorch.write(RED_BLUE.read_text().replace("10.0.", "10.9."))
        netorch("up", "--private", "--name", "two", other)
        address = "10.9.0.1" if view.ROOTLESS else uplink_address("two")
        netorch("exec", "--lab", "two", "red", "ping", "-c1", "-W1", address)
        refused = netorch("exec", "--lab", "one", "red", "ping", "-c1", "-W1", address, code=None)
        assert refused.code == 1, "the namespace of another lab answered"
        netorch("down", "two")


def uplink_address(lab: str) -> str:
    """The address of the far end of a lab's uplink."""
    (directory,) = Path("/run/netorch").glob(f"{lab}.*")
    listed: Any = run("ip", "netns", "list")
    assert "@host" not in listed
    pid = json.loads((directory / "c/@host/container.json").read_text())["pid"]
    shown = subprocess.run(
        ["nsenter", "-t", str(pid), "-n", "ip", "-4", "-o", "address", "show", "dev", "uplink"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    (line,) = shown.splitlines()
    return line.split()[3].split("/")[0]


def test_a_failure_inside_takes_the_uplink_with_it(netorch: Netorch) -> None:
    before = snapshot.take()
    text = RED_BLUE.read_text().replace("  blue:\n", "  blue: {setup: ['exit 3']}\n")
    assert "exit 3" in text
    failed = netorch("up", "--private", netorch.write(text, "red-blue.yaml"), code=1)
    assert "exited 3" in failed.stderr
    snapshot.assert_equal(before)


@pytest.mark.root_only("a lab of a user's is in a namespace of its own with and without the option")
def test_the_namespace_of_a_running_lab_is_not_changed(netorch: Netorch) -> None:
    with netorch.lab(RED_BLUE):
        refused = netorch("up", "--private", RED_BLUE, code=2)
        assert "netns: host" in refused.stderr and "netorch down" in refused.stderr
