"""``plan --format shell``: the script builds what ``up`` builds, node by node, and takes it down again."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.features import ABOUT_NETWORKS
from support.netstate import same, states
from support.outer import run
from support.runner import TOPOLOGIES, Netorch

from netns_orch import graph, labfile, script
from netns_orch.plan import diff
from netns_orch.resolve import resolve
from netns_orch.resources import State

kernel = pytest.mark.kernel
SCRIPT = pytest.mark.root_only("the script is root's")
FILES = [
    pytest.param(f, id=f.stem, marks=[pytest.mark.slow] if f.stem == "hundred" else [])
    for f in sorted(TOPOLOGIES.glob("*.yaml"))
    if f.stem not in ABOUT_NETWORKS
]
NETWORK = """
bridges:
  sw: {}
  st: {stp: true, isolated: true, mtu: 9000, subnet: 10.5.0.0/24}
containers:
  a:
    router: true
    loopback: [192.0.2.1/32, "2001:db8::1/128"]
    interfaces:
      inner: {bridge: [eth3], address: 10.10.0.1/24}
    routes:
      - {to: 10.20.0.0/16, nexthops: [{via: 10.1.0.2, weight: 2}, {via: 10.2.0.2}]}
      - blackhole 192.0.2.128/25
      - {to: 10.30.0.0/16, via: 10.1.0.2, table: 100, metric: 5, mtu: 1400}
      - {to: default, via: "fd00::2"}
    rules:
      - from 10.1.0.0/24 table 100
      - to 10.99.0.0/16 prohibit
    sysctls: {net.ipv4.conf.eth1.rp_filter: 1}
    nftables: |
      table inet mine {
        chain forward { type filter hook forward priority 0; policy accept; tcp dport 23 drop; }
      }
  b:
    ip6tables: [-A INPUT -p tcp --dport 22 -j DROP]
    iptables: |
      *filter
      :INPUT ACCEPT [0:0]
      -A INPUT -p tcp -j REJECT
      COMMIT
  c: {hostname: other}
links:
  - [a, sw]
  - endpoints: [a:eth1: [10.1.0.1/24, "fd00::1/64"], b:eth0: [10.1.0.2/24, "fd00::2/64"]]
  - {endpoints: [a:eth2: 10.2.0.1/24, b:eth1: 10.2.0.2/24], rate: 10mbit, mtu: 1400}
  - [b, sw]
  - [a:eth3, sw]
  - {endpoints: [c, st], mtu: 9000}
  - {endpoints: [b, st], state: down}
"""
"""What the topologies have too little of."""


@pytest.fixture
def sh(netorch: Netorch) -> Any:
    """Run a script of the test's directory."""

    def call(*words: str, code: int = 0) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            ["sh", *words],
            cwd=netorch.directory,
            capture_output=True,
            text=True,
            timeout=300,
            stdin=subprocess.DEVNULL,
        )
        assert done.returncode == code, (
            f"sh {' '.join(words)} exited {done.returncode}:\n{done.stdout}{done.stderr}"
        )
        return done

    return call


def compare(netorch: Netorch, sh: Any, file: Path, lab: str) -> None:
    """``up``, look, ``down``; the script, look, down."""
    netorch("up", file)
    try:
        wanted = states(lab)
    finally:
        netorch("down", file)
    (netorch.directory / "lab.sh").write_text(netorch("plan", "--format", "shell", file).stdout)
    try:
        sh("lab.sh")
        same(states(lab), wanted)
    finally:
        sh("lab.sh", "down")


@kernel
@SCRIPT
@pytest.mark.parametrize("file", FILES)
def test_the_script_builds_what_up_builds(file: Path, netorch: Netorch, sh: Any) -> None:
    compare(netorch, sh, file, file.stem)


@kernel
@SCRIPT
def test_it_builds_every_kind_of_network(netorch: Netorch, sh: Any) -> None:
    compare(netorch, sh, netorch.write(NETWORK), "lab")


def script_of(text: str, tmp_path: Path) -> str:
    """The script of a lab file, as far as it needs no look at the host."""
    file = tmp_path / "lab.yaml"
    file.write_text(text)
    desired = resolve(graph.wire(labfile.load(file)), id="")
    return script.render("lab", diff(desired, State()), [])


def test_what_this_kernel_may_lack(tmp_path: Path) -> None:
    text = script_of(
        """
bridges: {sw: }
containers:
  a:
    interfaces:
      bond0: {bond: [eth1, eth2], mode: active-backup}
      bond0.10: {vlan: 10, parent: bond0, address: 10.10.0.1/24}
      d0: {dummy: true, mtu: 1400}
      red: {vrf: 77, interfaces: [d0]}
      vx: {vxlan: 5, local: 10.0.0.1, remote: 10.0.0.2, parent: eth1}
      mv: {macvlan: private, parent: eth1, mac: "02:00:00:00:00:01"}
    namespaces: {time: {boottime: 1d}}
    resources: {cpu_weight: 200}
  b:
links:
  - [a:eth1, sw: {trunk: [10, 20], native: 1}]
  - {endpoints: [a:eth2: 10.0.0.1/24, sw: {vlan: 10}]}
  - {endpoints: [a:eth3: 10.2.0.1/24, b:eth0: 10.2.0.2/24], delay: 20ms, jitter: 5ms, loss: 1.5%}
  - {endpoints: [a:eth4: 10.3.0.1/24, b:eth1: 10.3.0.2/24], offload: false}
""",
        tmp_path,
    )
    for line in (
        "ip link add name bond0 type bond mode active-backup miimon 100",
        "ip link set dev eth1 down\nip link set dev eth1 master bond0",
        "ip link add link bond0 name bond0.10 type vlan id 10",
        "ip link add name d0 mtu 1400 type dummy",
        "ip link add name red type vrf table 77",
        "ip link set dev d0 master red",
        "ip link add name vx type vxlan id 5 local 10.0.0.1 remote 10.0.0.2 dev eth1 dstport 4789",
        "ip link add link eth1 name mv address 02:00:00:00:00:01 type macvlan mode private",
        "vid 20\n    bridge vlan add dev",
        "vid 1 pvid untagged",
        "vid 10 pvid untagged",
        "tc qdisc replace dev eth3 root netem limit 1000 delay 20000us 5000us loss 1.5%",
        "ethtool -K eth4 gro off gso off tso off tx off",
        "--propagation private --uts --ipc --net --pid --cgroup --time --boottime 86400",
        "    a) echo --time ;;",
        "limit a cpu cpu.shares 2452 cpu.weight 200",
    ):
        assert line in text, line


@kernel
@SCRIPT
def test_packets_pass_and_commands_run(netorch: Netorch, sh: Any) -> None:
    file = netorch.write(
        "bridges: {br0: 10.0.0.1/24}\n"
        "containers:\n"
        "  red:\n"
        "    command: [sh, -c, 'echo hello from $WHO; ulimit -n; sleep 1000']\n"
        "    environment: {WHO: 'the red one'}\n"
        "    ulimits: {nofile: 4096}\n"
        "    setup: ['echo done > /root/setup']\n"
        "    resources: {memory: 100M, pids: 50}\n"
        '    files: {/etc/motd: "it\'s me\\n", /srv/x/run: "#!/bin/sh\\necho ran"}\n'
        "    cap_drop: [NET_RAW]\n"
        "  blue: {tmpfs: ['/scratch:size=1m'], read_only: true}\n"
        "links: [[red, br0], [blue, br0]]\n"
    )
    (netorch.directory / "lab.sh").write_text(netorch("plan", "--format", "shell", file).stdout)
    own = ("/etc", "/etc/hosts")  # mounts of their own, as they are in a container
    for path in own:
        run("mount", "--bind", path, path)
    try:
        sh("lab.sh")
        assert "1 received" in sh("lab.sh", "enter", "blue", "ping", "-c1", "-W2", "red").stdout
        assert "lab-lab exists" not in sh("lab.sh", code=1).stdout
        inside = ("lab.sh", "enter", "red", "sh", "-c")
        answers = {
            "cat /root/setup /etc/motd": "done\nit's me\n",
            "/srv/x/run; hostname; cat /etc/hostname": "ran\nred\nred\n",
            "grep -c blue /etc/hosts": "1\n",
            "ls /proc | grep -c '^[0-9]*$' | sed 's/^[1-9]$/few/'": "few\n",
            "grep ^NoNewPrivs /proc/self/status": "NoNewPrivs:\t1\n",
            "touch /proc/sys/kernel/x 2>/dev/null || echo no": "no\n",
        }
        for command, answer in answers.items():
            assert sh(*inside, command).stdout == answer
        capabilities = int(sh(*inside, "sed -n s/^CapBnd:.//p /proc/self/status").stdout, 16)
        assert capabilities & 1 << 12 and not capabilities & 1 << 13 and not capabilities & 1 << 21
        assert Path("/run/lab-lab/red/log").read_text() == "hello from the red one\n4096\n"
        assert "Read-only" in sh("lab.sh", "enter", "blue", "touch", "/x", code=1).stderr
        limits = list(_limits())
        assert "50" in limits and str(100 << 20) in limits
    finally:
        sh("lab.sh", "down")
        for path in reversed(own):
            run("umount", path)
    sh("lab.sh", "down")


def _limits() -> Iterator[str]:
    for line in Path("/run/lab-lab/red/cgroups").read_text().splitlines():
        for name in ("pids.max", "memory.max", "memory.limit_in_bytes"):
            file = Path(line.split()[2]) / name
            if file.exists():
                yield file.read_text().strip()


@kernel
def test_it_is_posix_sh_and_says_what_it_does(netorch: Netorch, sh: Any) -> None:
    text = netorch("plan", "--format", "shell", TOPOLOGIES / "three-tier.yaml").stdout
    (netorch.directory / "lab.sh").write_text(text)
    sh("-n", "lab.sh")
    if shutil.which("shellcheck"):
        run("shellcheck", "-s", "sh", str(netorch.directory / "lab.sh"))
    assert text.startswith("#!/bin/sh\n# three-tier: 4 containers, 3 bridges, 6 links\n")
    functions = re.findall(r"(?:^#.*\n)?^(\w+)\(\) \{", text, re.MULTILINE)
    assert {"up", "inside", "down"} <= set(functions)
    assert "in_net core iptables -P FORWARD DROP" in text
    assert "ip -4 route add 10.5.2.0/23 via 10.5.1.1 dev eth0 proto 110" in text
    assert "usage" in sh("lab.sh", "sideways", code=2).stderr


@kernel
@SCRIPT
def test_words(netorch: Netorch) -> None:
    file = TOPOLOGIES / "red-blue.yaml"
    assert "unshare --net" in netorch("plan", "--format", "shell", "--private", file).stdout
    assert "exclude" in netorch("plan", "--format", "shell", "--json", file, code=2).stderr


@kernel
@SCRIPT
def test_a_lab_that_this_host_can_not_build_is_printed_all_the_same(netorch: Netorch) -> None:
    netorch.write("containers: {a: , b: }\nlinks: [{endpoints: [a, b], delay: 20ms}]\n")
    lacking = netorch("validate", code=None).code == 2
    shown = netorch("plan", "--format", "shell")
    assert "netem limit 1000 delay 20000us" in shown.stdout
    assert ("warning: this host lacks netem" in shown.stderr) is lacking
