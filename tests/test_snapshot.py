"""The host snapshot itself: it must notice each kind of thing that could be left behind."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support import cgroups, snapshot, view
from support.outer import TestHost, run

pytestmark = [pytest.mark.kernel, view.IN_PROCESS]

FORWARD = Path("/proc/sys/net/ipv4/ip_forward")


@pytest.fixture
def undo() -> Iterator[list[Callable[[], object]]]:
    """What a test adds to the host, it takes away by this list, last first."""
    steps: list[Callable[[], object]] = []
    yield steps
    for step in reversed(steps):
        step()


Undo = list[Callable[[], object]]


def _link(undo: Undo) -> None:
    run("ip", "link", "add", "left0", "type", "bridge")
    undo.append(lambda: run("ip", "link", "del", "left0"))


def _altname(undo: Undo) -> None:
    run("ip", "link", "property", "add", "dev", "lo", "altname", "looping")
    undo.append(lambda: run("ip", "link", "property", "del", "dev", "lo", "altname", "looping"))


def _address(undo: Undo) -> None:
    run("ip", "address", "add", "192.0.2.77/32", "dev", "lo")
    undo.append(lambda: run("ip", "address", "del", "192.0.2.77/32", "dev", "lo"))


def _route(undo: Undo) -> None:
    run("ip", "route", "add", "blackhole", "192.0.2.0/24", "table", "77")
    undo.append(lambda: run("ip", "route", "flush", "table", "77"))


def _rule(undo: Undo) -> None:
    run("ip", "-6", "rule", "add", "from", "2001:db8:77::/48", "table", "77")
    undo.append(lambda: run("ip", "-6", "rule", "del", "from", "2001:db8:77::/48", "table", "77"))


def _neighbour(undo: Undo) -> None:
    entry = ("203.0.113.77", "lladdr", "02:00:00:00:00:77", "dev", "uplink")
    run("ip", "neigh", "add", *entry)
    undo.append(lambda: run("ip", "neigh", "del", *entry))


def _table(undo: Undo) -> None:
    run("nft", "add table inet left; add chain inet left c { type filter hook forward priority 0; }")
    undo.append(lambda: run("nft", "delete", "table", "inet", "left"))


def _cgroup(undo: Undo) -> None:
    directory = cgroups.positions()[0].directory / "left"
    directory.mkdir()
    undo.append(directory.rmdir)


def _file(undo: Undo) -> None:
    path = Path("/run/netorch-left")
    path.write_text("x")
    undo.append(path.unlink)


def _symlink(undo: Undo) -> None:
    path = Path("/run/left")
    path.symlink_to("/nowhere")
    undo.append(path.unlink)


def _mount(undo: Undo) -> None:
    directory = Path("/run/mnt")
    directory.mkdir()
    undo.append(directory.rmdir)
    run("mount", "--no-mtab", "-t", "tmpfs", "left", str(directory))
    undo.append(lambda: run("umount", str(directory)))


def _sysctl(undo: Undo) -> None:
    FORWARD.write_text("1")
    undo.append(lambda: FORWARD.write_text("0"))


def _process(undo: Undo) -> None:
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    undo.append(lambda: process.communicate(b"\n"))


@pytest.mark.parametrize(
    ("add", "expected"),
    [
        (_link, "+ link left0"),
        (_altname, "~ link lo"),
        (_address, "+ address lo 192.0.2.77/32"),
        (_route, "+ route4 blackhole 192.0.2.0/24 table 77"),
        (_rule, "+ rule6 32765: from 2001:db8:77::/48 lookup 77"),
        (_neighbour, "+ neighbour 203.0.113.77 dev uplink"),
        (_table, "+ nft table inet left"),
        pytest.param(_cgroup, "+ cgroup ", marks=view.LIMITS),
        (_file, "+ file /run/netorch-left -rw"),
        (_symlink, "+ file /run/left lrwxrwxrwx 0:0 -> /nowhere"),
        (_mount, "+ mount /run/mnt"),
        (_sysctl, "~ sysctl net.ipv4.ip_forward: 0 -> 1"),
        (_process, "+ process "),
    ],
    ids=lambda value: value.__name__.strip("_") if callable(value) else "",
)
def test_an_addition_is_noticed(add: Callable[[Undo], None], expected: str, undo: Undo) -> None:
    before = snapshot.take()
    add(undo)
    differences = snapshot.difference(before, snapshot.take())
    assert any(line.startswith(expected) for line in differences), differences


def test_a_removal_is_noticed(undo: Undo) -> None:
    _file(undo)
    before = snapshot.take()
    undo.pop()()
    assert [line.split(" -rw")[0] for line in snapshot.difference(before, snapshot.take())] == [
        "- file /run/netorch-left"
    ]


def test_a_changed_rule_is_shown_as_a_diff(undo: Undo) -> None:
    _table(undo)
    before = snapshot.take()
    run("nft", "add", "rule", "inet", "left", "c", "counter", "drop")
    differences = snapshot.difference(before, snapshot.take())
    assert differences[0] == "~ nft table inet left"
    assert any(line.startswith("    +") and "counter drop" in line for line in differences)


def test_traffic_changes_nothing(host: TestHost) -> None:
    before = snapshot.take()
    run("ping", "-n", "-c1", "-W5", "203.0.113.1")
    snapshot.assert_equal(before)


def test_what_remains_is_said_at_the_deadline(undo: Undo) -> None:
    before = snapshot.take()
    _sysctl(undo)
    with pytest.raises(AssertionError, match=r"after 0 s (.|\n)*~ sysctl net\.ipv4\.ip_forward: 0 -> 1"):
        snapshot.assert_equal(before, seconds=0)
