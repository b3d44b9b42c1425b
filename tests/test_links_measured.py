"""What packets feel of a cable: its delay, loss and rate, measured; and interfaces that few kernels lack.

All but the rate needs modules that a small kernel does without: there `scripts/test-vm` runs them.
"""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from support.features import can_run
from support.runner import Lab, Netorch
from support.waiting import until

pytestmark = pytest.mark.kernel
MBIT = 1e6
PACKETS = 2000
_SINK = """
import socket, time
with socket.create_server(("", 7001)) as server, server.accept()[0] as sender:
    sender.recv(1)
    began, count = time.monotonic(), 0
    while data := sender.recv(1 << 16):
        count += len(data)
    print(count * 8 / (time.monotonic() - began))
"""
_SOURCE = """
import socket, sys, time
for _ in range(600):
    try:
        sink = socket.create_connection((sys.argv[1], 7001))
        break
    except ConnectionRefusedError:
        time.sleep(0.1)
end, block = time.monotonic() + 4, bytes(1 << 16)
while time.monotonic() < end:
    sink.sendall(block)
"""


def rtts(lab: Lab, node: str, target: str) -> list[float]:
    """The round trips of some pings, in milliseconds."""
    said = lab.sh(node, f"ping -n -c12 -i0.1 {target}")
    return [float(time) for time in re.findall(r"time=([0-9.]+) ms", said)]


def icmp(lab: Lab, node: str, counter: str) -> int:
    """A counter of /proc/net/snmp (RFC 4293)."""
    names, values = (line.split() for line in lab.sh(node, "grep ^Icmp: /proc/net/snmp").splitlines())
    return int(values[names.index(counter)])


def rate(lab: Lab, source: str, sink: str, address: str) -> float:
    """What TCP brings from one container to another, in bits a second, as the receiver sees it."""
    with lab.netorch.start("exec", sink, "python3", "-I", "-c", _SINK) as receiver:
        lab.exec(source, "python3", "-I", "-c", _SOURCE, address)
        stdout, stderr = receiver.communicate()
    assert receiver.returncode == 0, stderr
    return float(stdout)


def test_delay_and_loss(netorch: Netorch) -> None:
    file = netorch.write("""
containers: {red: , blue: }
links:
  - {endpoints: [red:late: 10.1.0.1/24, blue:late: 10.1.0.2/24], delay: 20ms}
  - {endpoints: [red:lossy: 10.2.0.1/24, blue:lossy: 10.2.0.2/24], loss: 10%}
  - [red:plain: 10.3.0.1/24, blue:plain: 10.3.0.2/24]
""")
    can_run(netorch, file)
    with netorch.lab(file) as lab:
        # What the machine itself takes is not the cable's.
        overhead = min(rtts(lab, "red", "10.3.0.2"))
        late = min(rtts(lab, "red", "10.1.0.2"))
        assert late >= 40
        assert late - overhead <= 44
        before = icmp(lab, "blue", "InEchos"), icmp(lab, "red", "InEchoReps")
        lab.sh("red", f"ping -n -q -f -l 20 -c {PACKETS} -W 2 10.2.0.2")
        there = icmp(lab, "blue", "InEchos") - before[0]
        back = icmp(lab, "red", "InEchoReps") - before[1]
        assert 0.08 <= 1 - there / PACKETS <= 0.12
        assert 0.07 <= 1 - back / there <= 0.13
        netorch("link", "red:late", "blue:late", "set", "delay=60ms")
        assert min(rtts(lab, "red", "10.1.0.2")) >= 120
        netorch("link", "red:late", "blue:late", "reset")
        assert 40 <= min(rtts(lab, "red", "10.1.0.2")) < 110
        netorch("status")


def test_a_rate_is_kept(netorch: Netorch) -> None:
    """By netem, or where the kernel lacks it by tbf.  A busy machine may bring less: then once more."""
    text = """
containers: {red: , blue: }
links:
  - {endpoints: [red: 10.1.0.1/24, blue: 10.1.0.2/24], rate: 50mbit}
"""
    with netorch.lab(text) as lab:
        seen: list[float] = []

        def fits() -> bool:
            seen.append(rate(lab, "red", "blue", "10.1.0.2") / MBIT)
            return 45 <= seen[-1] <= 50

        until(fits, lambda: f"45 to 50 Mbit/s; it was {seen}", seconds=40)
        assert max(seen) <= 51


def test_interfaces_made_inside(netorch: Netorch) -> None:
    """A VLAN on a bond of two cables, in a VRF; a dummy; a tunnel that a person adds is left alone."""
    file = netorch.write("""
containers:
  red:
    interfaces: &made
      bond0: {bond: [eth0, eth1], mode: active-backup}
      bond0.10: {vlan: 10, parent: bond0, address: 10.10.0.1/24}
      tenant: {vrf: 77, interfaces: [bond0.10]}
      d0: {dummy: true, address: 192.0.2.1/32}
  blue:
    interfaces:
      <<: *made
      bond0.10: {vlan: 10, parent: bond0, address: 10.10.0.2/24}
      d0: {dummy: true, address: 192.0.2.2/32}
links:
  - {endpoints: [red:eth0, blue:eth0], address: none}
  - {endpoints: [red:eth1, blue:eth1], address: none}
  - [red:eth2: 10.1.0.1/24, blue:eth2: 10.1.0.2/24]
""")
    can_run(netorch, file)
    with netorch.lab(file) as lab:

        def crosses() -> bool:
            return lab.exec("red", "ping", "-c1", "-W1", "-I", "tenant", "10.10.0.2", code=None).code == 0

        until(crosses, "the VLAN over the bond")
        lab.sh("red", "ping -c1 -W1 10.10.0.2", code=2)  # not outside of the VRF
        lab.sh("red", "ping -c1 192.0.2.1")
        active = lab.sh("red", "cat /sys/class/net/bond0/bonding/active_slave")
        netorch("link", f"red:{active}", f"blue:{active}", "down")
        until(crosses, "the bond goes over to the other cable")
        netorch("link", f"red:{active}", f"blue:{active}", "up")
        for node, number in (("red", 1), ("blue", 2)):
            lab.sh(node, "ip link add wg0 type wireguard")
            lab.sh(node, f"wg genkey >/tmp/key; wg set wg0 private-key /tmp/key listen-port {5180 + number}")
            lab.sh(node, f"ip address add 10.66.0.{number}/24 dev wg0; ip link set wg0 up")
        for node, peer, number in (("red", "blue", 2), ("blue", "red", 1)):
            key = lab.sh(peer, "wg show wg0 public-key")
            endpoint = f"10.1.0.{number}:{5180 + number}"
            lab.sh(node, f"wg set wg0 peer {key} allowed-ips 10.66.0.{number}/32 endpoint {endpoint}")
        lab.sh("red", "ping -c1 -W20 10.66.0.2")
        found: dict[str, Any] = netorch("status", "--json").json()
        assert found["drift"] == []
        assert "wg0" in json.dumps(found["extra"])
        netorch("up")
        lab.sh("red", "ping -c1 -W20 10.66.0.2")
