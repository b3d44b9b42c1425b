"""Observation is honest: what was changed by hand is named, that and nothing else, and ``up`` repairs it.

One lab, and one change after the other.  An address that goes takes routes along: what the kernel removes
with an object is named with it.
"""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support import view
from support.outer import run
from support.runner import Netorch
from support.waiting import until

from netns_orch import lab
from netns_orch.labfile.model import Topology

pytestmark = [pytest.mark.kernel, view.IN_PROCESS]
RESOURCES = "    resources: {memory: 64M, pids: 64, cpus: 0.5}\n"
LAB = """
name: drift
bridges:
  br0: {address: [10.70.0.1/24, "fd70::1/64"]}
  lan:
containers:
  red:
    resources: {memory: 64M, pids: 64, cpus: 0.5}
    routes: [10.99.0.0/16 via 10.70.0.3]
    rules: [from 10.1.0.0/24 table 100]
    iptables: [-A INPUT -p tcp --dport 1 -j DROP]
    sysctls: {net.ipv4.conf.all.rp_filter: 1}
    loopback: 192.0.2.1/32
  blue:
    command: [sleep, infinity]
    nftables: |
      table inet t {
        chain c { type filter hook input priority 0; tcp dport 2 drop; }
      }
    interfaces:
      vx0: {vxlan: 7, remote: 10.70.0.2, port: 4789}
  green:
links:
  - [red, br0]
  - [blue, br0]
  - [green, lan]
  - {endpoints: [blue, lan], address: none}
  - {endpoints: [red:eth1: 10.71.0.1/30, green:eth1: 10.71.0.2/30], mtu: 1400, rate: 100mbit}
host:
  routes: [10.9.0.0/16 via 10.70.0.2]
  iptables: [-A FORWARD -i br0 -p udp --dport 9 -j DROP]
  sysctls: {net.ipv4.conf.default.rp_filter: 2}
"""
STRAIGHT = ["red:eth1 10.71.0.1/30", "green:eth1 10.71.0.2/30"]
CABLE = "cable red:eth1 green:eth1"
ON_CABLE = [*(f"address {end}" for end in STRAIGHT), "qdisc red:eth1", "qdisc green:eth1"]


class Hand:
    """Somebody with a shell on the host."""

    def inside(self, container: str, command: str) -> None:
        """A command of the host in a container's network namespace."""
        run("nsenter", "-t", str(self.pid(container)), "-n", *command.split())

    def pid(self, container: str) -> int:
        """PID 1 of a container."""
        return int(next(row["pid"] for row in lab.ps("drift") if row["name"] == container))

    def end(self, mark: str) -> tuple[str, str]:
        """Name and mark of the lab's link on the host whose mark ends so."""
        for link in json.loads(run("ip", "-j", "link")):
            for altname in link.get("altnames", []):
                if altname.startswith("netorch.drift.") and altname.endswith(mark):
                    return link["ifname"], altname
        raise AssertionError(f"no link is marked {mark}")

    def link(self, mark: str, words: str) -> None:
        """``ip link set`` on the host."""
        run("ip", "link", "set", self.end(mark)[0], *words.split())

    def unmark(self, mark: str) -> None:
        """Take a mark off."""
        ifname, altname = self.end(mark)
        run("ip", "link", "property", "del", "dev", ifname, "altname", altname)

    def limit(self, v1: tuple[str, str], v2: tuple[str, str]) -> None:
        """Write into a file of red's cgroup."""
        paths = lab.inspect("drift", "red")["cgroup"]
        for directory in [*paths["v1"], paths["v2"]]:
            for file, value in (v1, v2):
                if directory and Path(directory, file).exists():
                    Path(directory, file).write_text(value)
                    return
        raise AssertionError(f"neither {v1[0]} nor {v2[0]}")

    def kill_command(self, container: str) -> None:
        """SIGKILL to a container's command, and not to its PID 1."""
        children = (
            Path(f"/proc/{self.pid(container)}/task/{self.pid(container)}/children").read_text().split()
        )
        os.kill(int(children[0]), signal.SIGKILL)

    def kill(self, container: str) -> None:
        """SIGKILL to a container's PID 1."""
        os.kill(self.pid(container), signal.SIGKILL)

    def files(self) -> Path:
        """The lab's run directory."""
        return next(Path("/run/netorch").glob("drift.*"))


LIMITS = ("memory limit lowered", "process limit raised", "CPU limit raised")
"""What an ordinary user's lab has none of: no cgroup is delegated to the user of the tests."""
Change = Callable[[Hand], Any]
CHANGES: dict[str, tuple[Change, list[str]]] = {
    "address removed": (
        lambda hand: hand.inside("green", "ip address del 10.71.0.2/30 dev eth1"),
        [f"address {STRAIGHT[1]}"],
    ),
    "loopback address removed": (
        lambda hand: hand.inside("red", "ip address del 192.0.2.1/32 dev lo"),
        ["address red:lo 192.0.2.1/32"],
    ),
    "address removed, and routes with it": (
        lambda hand: hand.inside("red", "ip address del 10.70.0.2/24 dev eth0"),
        ["address red:eth0 10.70.0.2/24", "route red 10.99.0.0/16", "route red 0.0.0.0/0"],
    ),
    "route changed": (
        lambda hand: hand.inside("red", "ip route replace 10.99.0.0/16 via 10.70.0.1"),
        ["route red 10.99.0.0/16"],
    ),
    "route removed": (lambda hand: hand.inside("blue", "ip route del default"), ["route blue 0.0.0.0/0"]),
    "policy rule removed": (
        lambda hand: hand.inside("red", "ip rule del from 10.1.0.0/24"),
        ["rule red 4 priority 32765"],
    ),
    "iptables flushed": (lambda hand: hand.inside("red", "iptables -F"), ["firewall red iptables"]),
    "iptables rule added": (
        lambda hand: hand.inside("red", "iptables -A INPUT -p tcp --dport 3 -j DROP"),
        ["firewall red iptables"],
    ),
    "nft table deleted": (
        lambda hand: hand.inside("blue", "nft delete table inet t"),
        ["firewall blue nftables"],
    ),
    "memory limit lowered": (
        lambda hand: hand.limit(("memory.limit_in_bytes", "50331648"), ("memory.max", "50331648")),
        ["cgroup red"],
    ),
    "process limit raised": (lambda hand: hand.limit(("pids.max", "99"), ("pids.max", "99")), ["cgroup red"]),
    "CPU limit raised": (
        lambda hand: hand.limit(("cpu.cfs_quota_us", "90000"), ("cpu.max", "90000 100000")),
        ["cgroup red"],
    ),
    "command killed": (lambda hand: hand.kill_command("blue"), ["process blue"]),
    "link down inside": (lambda hand: hand.inside("red", "ip link set eth1 down"), [CABLE]),
    "link down on the host": (lambda hand: hand.link(".c.blue.eth0", "down"), ["cable blue:eth0"]),
    "bridge down": (lambda hand: hand.link(".b.lan", "down"), ["bridge lan"]),
    "MTU inside": (lambda hand: hand.inside("red", "ip link set eth1 mtu 1300"), [CABLE]),
    "MTU on the host": (lambda hand: hand.link(".c.red.eth0", "mtu 1300"), ["cable red:eth0"]),
    "MTU of a bridge": (lambda hand: hand.link(".b.br0", "mtu 1300"), ["bridge br0"]),
    "MAC": (
        lambda hand: hand.inside("green", "ip link set eth0 address 02:00:00:00:00:99"),
        ["cable green:eth0"],
    ),
    "interface renamed": (
        lambda hand: [
            hand.inside("green", f"ip link set {words}") for words in ("eth1 down", "eth1 name x0", "x0 up")
        ],
        [CABLE, "cable red:eth1 green:x0", "address green:x0 10.71.0.2/30", *ON_CABLE],
    ),
    "qdisc removed": (lambda hand: hand.inside("red", "tc qdisc del dev eth1 root"), ["qdisc red:eth1"]),
    "mark of a cable removed": (lambda hand: hand.unmark(".c.green.eth0"), ["cable green:eth0"]),
    "mark of a bridge removed": (lambda hand: hand.unmark(".b.lan"), ["bridge lan"]),
    "sysctl of a container": (
        lambda hand: hand.inside("red", "sysctl -qw net.ipv4.conf.all.rp_filter=0"),
        ["sysctl red net.ipv4.conf.all.rp_filter"],
    ),
    "sysctl of the host": (
        lambda hand: run("sysctl", "-qw", "net.ipv4.conf.default.rp_filter=0"),
        ["host-sysctl net.ipv4.conf.default.rp_filter"],
    ),
    "port detached": (lambda hand: hand.link(".c.green.eth0", "nomaster"), ["cable green:eth0"]),
    "port moved to another bridge": (
        lambda hand: hand.link(".c.green.eth0", f"master {hand.end('.b.br0')[0]}"),
        ["cable green:eth0"],
    ),
    "STP on": (lambda hand: hand.link(".b.br0", "type bridge stp_state 1"), ["bridge br0"]),
    "snooping on": (lambda hand: hand.link(".b.br0", "type bridge mcast_snooping 1"), ["bridge br0"]),
    "bridge's address removed": (
        lambda hand: run("ip", "address", "del", "fd70::1/64", "dev", hand.end(".b.br0")[0]),
        ["address host:drift-br0 fd70::1/64"],
    ),
    "host's route removed": (
        lambda hand: run("ip", "route", "del", "10.9.0.0/16"),
        ["route host 10.9.0.0/16"],
    ),
    "host's table deleted": (lambda hand: run("nft", "delete", "table", "inet", "netorch_drift"), ["table"]),
    "host's rules flushed": (
        lambda hand: run("nft", "flush", "chain", "inet", "netorch_drift", "forward"),
        ["table"],
    ),
    "hosts file changed": (
        lambda hand: (hand.files() / "c/red/hosts").write_text("192.0.2.9 blue\n"),
        ["hosts-file red", "hosts-file blue"],  # equal ones are one file
    ),
    "interface deleted inside": (
        lambda hand: hand.inside("red", "ip link del eth1"),
        [CABLE, *ON_CABLE],
    ),
    "interface deleted on the host": (
        lambda hand: run("ip", "link", "del", hand.end(".c.green.eth0")[0]),
        ["cable green:eth0"],
    ),
    "virtual interface deleted": (
        lambda hand: hand.inside("blue", "ip link del vx0"),
        ["interface blue vx0"],
    ),
    "bridge deleted": (
        lambda hand: run("ip", "link", "del", hand.end(".b.lan")[0]),
        ["bridge lan", "cable green:eth0", "cable blue:eth1"],
    ),
    "name of a namespace removed": (lambda hand: Path("/run/netns/drift.red").unlink(), ["netns-name red"]),
    "PID 1 killed": (
        lambda hand: hand.kill("green"),
        ["container green", "process green", "hosts-file green", "cable green:eth0", CABLE, *ON_CABLE],
    ),
}


@pytest.fixture
def topology(netorch: Netorch) -> Iterator[Topology]:
    """The lab, up."""
    text = LAB.replace(RESOURCES, "") if view.INSIDE else LAB
    made = lab.load(netorch.write(text, "drift.yaml"))
    lab.up(made)
    yield made
    lab.down("drift")


def drift(objects: list[str]) -> set[str]:
    """The drift that is named now, each cut to what is given of it in ``objects``."""
    named = [entry["object"] for entry in lab.status("drift")["drift"]]
    return {next((short for short in objects if f"{name} ".startswith(f"{short} ")), name) for name in named}


def test_each_manual_change_is_named_and_repaired_and_nothing_else(topology: Topology) -> None:
    hand = Hand()
    for what, (change, objects) in CHANGES.items():
        if view.INSIDE and what in LIMITS:
            continue
        lives = {row["name"]: row["pid"] for row in lab.ps("drift")}
        change(hand)
        until(
            lambda objects=objects: drift(objects) == set(objects),  # type: ignore[misc]
            lambda what=what, objects=objects: f"after {what}: {objects}; named: {drift(objects)}",  # type: ignore[misc]
            60,
        )
        changes = lab.up(topology).changes
        assert changes == len(objects), f"after {what} {changes} things were changed for {objects}"
        assert drift([]) == set(), f"after {what} and up"
        same = {name: pid for name, pid in lives.items() if what != "PID 1 killed" or name != "green"}
        assert same.items() <= {row["name"]: row["pid"] for row in lab.ps("drift")}.items(), what
    assert len(CHANGES) > 30
    print(f"{len(CHANGES)} changes by hand: each named and repaired, and nothing else")
