"""Hosts that others use, too: their guests and netorch's labs work side by side, before, during and after."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from support import engines, outside, view
from support.engines import GUEST_PORT, Engine
from support.nodes import Node, bridge, node, reaches
from support.outer import TestHost, run
from support.runner import ROOT, Netorch
from support.waiting import until

from netns_orch.kernel import foreign, nftables
from netns_orch.resources import HostTable

pytestmark = [pytest.mark.kernel, view.ON_THE_HOST]
LAB = """
name: side
bridges: {br0: 10.71.0.1/24, dmz: {address: 10.72.0.1/24, forward: route}, sw: }
containers: {red: {ports: ["5001:4000/udp"]}, blue: }
links: [[red, br0], [blue, dmz], [red: 10.73.0.1/24, sw], [blue: 10.73.0.2/24, sw]]
"""
BRIDGE_NETFILTER = [Path(f"/proc/sys/net/bridge/bridge-nf-call-{name}") for name in ("iptables", "ip6tables")]


@pytest.fixture(scope="module", autouse=True)
def legacy(outer: TestHost) -> None:
    """Legacy iptables can't be unloaded, so they are there before the first picture of the host is taken."""
    for table in ("raw", "nat", "filter"):
        run("iptables-legacy", "-t", table, "-S")
    run("ip6tables-legacy", "-S")


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    """The host forwards meanwhile, as all of them make it, and sends the frames of bridges to iptables."""
    wanted = {Path("/proc/sys/net/ipv4/ip_forward"): "1"}
    wanted |= {path: "1" for path in BRIDGE_NETFILTER if path.exists()}
    with ExitStack() as things:
        for path, value in wanted.items():
            things.callback(path.write_text, path.read_text())
            path.write_text(value)
        yield things


@pytest.fixture
def beyond(host: TestHost, stack: ExitStack) -> Node:
    """The outside, as a node."""
    return stack.enter_context(contextlib.closing(Node(f"/proc/{host.outside_pid}/ns/net")))


def guest_of(stack: ExitStack, engine: Engine) -> Node:
    """Something that runs behind the engine's bridge."""
    gateway = f"{engine.subnet}.1"
    stack.enter_context(bridge(engine.bridge, f"{gateway}/24"))
    return stack.enter_context(node(engine.bridge, f"{engine.guest}/24", gateways=(gateway,)))


def answers(beyond: Node, inside: Node, address: str, port: int) -> bool:
    """Whether the outside gets an answer of ``inside`` at a port of the host."""
    with inside.udp_socket(address, GUEST_PORT) as there, beyond.udp_socket() as here:
        here.sendto(b"?", ("203.0.113.2", port))
        try:
            there.sendto(b"!", there.recvfrom(10)[1])
            return here.recvfrom(10)[0] == b"!"
        except TimeoutError:
            return False


@contextlib.contextmanager
def containers(*names: str) -> Iterator[list[Node]]:
    """Containers of the lab, as nodes."""
    with ExitStack() as opened:
        yield [opened.enter_context(contextlib.closing(Node(f"/run/netns/side.{name}"))) for name in names]


def lab_works(beyond: Node, *guests: tuple[Engine, Node]) -> None:
    """NAT, the plain switch and the published port; and what the engines guard stays guarded."""
    with containers("red", "blue") as (red, blue):
        assert red.asks(outside.IPV4) == "203.0.113.2"
        assert reaches(red, blue, "10.73.0.2") and reaches(blue, red, "10.73.0.1")
        assert answers(beyond, red, "10.71.0.2", 5001)
        for engine, guest in guests:
            # podman guards nothing: its guests are reached by whoever has a route.
            assert reaches(red, guest, engine.guest, GUEST_PORT + 1) is (engine is engines.PODMAN)
            assert answers(red, guest, engine.guest, engine.port), "a published port is for containers, too"


Drift = list[dict[str, object]]


def status(netorch: Netorch, code: int) -> tuple[str, list[dict[str, str]]]:
    """What is damaged, and the warnings."""
    said = netorch("status", "side", "--json", code=code).json()
    drift: Drift = said["drift"]
    assert [entry["object"] for entry in drift] in ([], ["table"])
    return " ".join(str(entry["found"]) for entry in drift), said["warnings"]


SIDE_BY_SIDE = {
    "docker-28, libvirt": ([engines.LIBVIRT, engines.DOCKER_28], "nft"),
    "docker-20 by legacy iptables": ([engines.DOCKER_20], "legacy"),
    "libvirt, ufw": ([engines.LIBVIRT, engines.UFW], "nft"),
    "podman, libvirt by nft": ([engines.PODMAN, engines.LIBVIRT_NFT], "nft"),
}


@pytest.mark.parametrize(("there", "variant"), SIDE_BY_SIDE.values(), ids=SIDE_BY_SIDE)
def test_side_by_side(
    netorch: Netorch, stack: ExitStack, beyond: Node, there: list[Engine], variant: str
) -> None:
    guests = [(engine, guest_of(stack, engine)) for engine in there if engine.bridge]

    def start() -> None:
        for engine in there:
            engine.start(variant)

    def stop() -> None:
        engines.flush(variant)
        for engine in there:
            if engine.nft:
                run("nft", "delete", "table", *engine.nft.split()[1:3])

    def guests_work() -> None:
        for engine, guest in guests:
            assert guest.asks(outside.IPV4) == "203.0.113.2", engine.name
            assert answers(beyond, guest, engine.guest, engine.port), engine.name

    file = netorch.write(LAB)
    start()
    stack.callback(stop)
    assert foreign.owners(nftables.list_chains()).keys() == {engine.name for engine in there}
    guests_work()
    before = engines.picture()
    netorch("up", file)
    lab_works(beyond, *guests)
    guests_work()
    assert status(netorch, 0) == ("", [])

    stop()  # the daemons start again, and make their rules anew
    start()
    guests_work()
    drops = any("FORWARD DROP" in str(engine.iptables) for engine in there)
    damage, _ = status(netorch, 1 if drops else 0)
    assert not drops or (f"iptables-{variant} chain" in damage and "of the lab's" in damage)
    netorch("up", file)
    lab_works(beyond, *guests)
    guests_work()
    assert status(netorch, 0) == ("", [])
    netorch("down", "side")
    assert engines.picture() == before
    guests_work()


def test_docker_comes_while_a_lab_is_up(netorch: Netorch, stack: ExitStack, beyond: Node) -> None:
    stack.callback(engines.flush)
    forwards = Path("/proc/sys/net/ipv4/ip_forward")
    forwards.write_text("0")  # ``stack`` puts it back
    engines.UFW.start()
    file = netorch.write(LAB)
    netorch("up", file)
    docker = engines.DOCKER_28
    guest = guest_of(stack, docker)
    lab_works(beyond)
    docker.start()
    with containers("red") as (red,):
        assert answers(beyond, guest, docker.guest, docker.port)
        run("iptables-nft", "-D", "FORWARD", "-i", "side-br0", *_comment("side-br0"), "-j", "ACCEPT")
        assert red.asks(outside.IPV4) is None
    damage, _ = status(netorch, 1)
    assert "iptables-nft chain DOCKER-USER lacks" in damage
    netorch("up", file)
    rules = run("iptables-nft", "-S")
    assert "-A DOCKER-USER -i side-br0" in rules and "-A FORWARD -i side-br0" not in rules
    lab_works(beyond, (docker, guest))
    netorch("down", "side")
    assert "side" not in engines.picture()
    assert answers(beyond, guest, docker.guest, docker.port), "Docker found that the host forwards already"
    forwards.write_text("0")
    netorch("up", file)
    netorch("down", "side")
    assert forwards.read_text() == "0\n", "Docker was there before, and the host did not forward"


def _comment(interface: str) -> list[str]:
    """The match of our comment, as it stands in the rule of that interface."""
    rule = next(line for line in run("iptables-nft", "-S").splitlines() if f"-i {interface} -m" in line)
    words = rule.split()
    at = words.index("--comment")
    return ["-m", "comment", "--comment", words[at + 1].strip('"')]


# -- drops that are final ------------------------------------------------------------------------


def test_firewalld(netorch: Netorch, stack: ExitStack, beyond: Node) -> None:
    stack.callback(run, "nft", "delete", "table", "inet", "firewalld")
    engines.FIREWALLD.start()
    before, file = engines.picture(), netorch.write(LAB)
    _bridge_netfilter("0")
    assert "warning" not in netorch("up", file).stderr, "public forwards to its own interfaces"
    with containers("red") as (red,):
        assert red.asks(outside.IPV4) == "203.0.113.2"
    run("nft", "flush", "chain", "inet", "firewalld", "filter_FWD_public_allow")  # --remove-forward
    with containers("red") as (red,):
        assert red.asks(outside.IPV4) is None
    _, (warning,) = status(netorch, 0)
    assert warning["hint"].startswith(
        "firewall-cmd --zone=trusted --add-interface=side-br0 --add-interface=side-dmz"
    )
    said = netorch("up", file).stderr
    assert "inet firewalld filter_FORWARD (in its chain filter_FWD_public)" in said
    assert warning["hint"] in said
    doctor = {row["name"]: row for row in netorch("doctor", "--json", code=None).json()["findings"]}
    assert "filter_FORWARD" in doctor["nft-drops"]["found"] and "firewall-cmd" in doctor["nft-drops"]["mend"]
    assert doctor["firewalld"]["state"] == "note"
    for interface in ("side-br0", "side-dmz"):
        _trust(interface)
    assert "warning" not in netorch("up", file).stderr
    lab_works(beyond)
    if _bridge_netfilter("1"):
        assert "--add-interface=side-sw  " in netorch("up", file).stderr, "the frames of a plain switch"
        _trust("side-sw")
    assert "warning" not in netorch("up", file).stderr
    lab_works(beyond)
    run("nft", "delete", "table", "inet", "firewalld")
    engines.FIREWALLD.start()
    netorch("down", "side")
    assert engines.picture() == before


def _trust(interface: str) -> None:
    """What firewall-cmd --zone=trusted --add-interface does."""
    rule = f"insert rule inet firewalld filter_FORWARD_ZONES iifname {interface} goto filter_FWD_trusted"
    run("nft", *rule.split())


def _bridge_netfilter(value: str) -> bool:
    """Whether this kernel has br_netfilter loaded, which it is set to; ``stack`` puts it back."""
    there = [path for path in BRIDGE_NETFILTER if path.exists()]
    for path in there:
        path.write_text(value)
    return bool(there)


DROPS = {
    "policy": "table inet own { chain fw { type filter hook forward priority 0; policy drop;\n}\n}",
    "rule": """table ip own { set known { type ifname; flags interval; elements = { "eth*", "wlan0" }; }
        chain fw { type filter hook forward priority 0; policy accept;
            iifname @known accept
            oifname @known ct state vmap { established : accept, invalid : drop }
            tcp dport 22 counter log accept
            jump rest
        }
        chain rest {
            counter drop
        }
        }""",
    "frames": "table bridge own { chain fw { type filter hook forward priority 0; policy drop;\n}\n}",
}


@pytest.mark.parametrize("text", DROPS.values(), ids=DROPS)
def test_the_advice_lets_packets_pass(netorch: Netorch, stack: ExitStack, text: str, beyond: Node) -> None:
    stack.callback(run, "nft", "delete", "table", text.split()[1], "own")
    subprocess.run(["nft", "-f", "-"], input=text, text=True, check=True)
    _bridge_netfilter("0")
    file = netorch.write(LAB)
    stack.callback(netorch, "down", "side")
    (warning,) = netorch("up", file, "--json").json()["warnings"]
    assert f"{text.split()[1]} own fw" in warning["what"]
    with containers("red", "blue") as (red, blue):

        def works() -> bool:
            if text is DROPS["frames"]:
                return reaches(red, blue, "10.73.0.2")
            return red.asks(outside.IPV4) == "203.0.113.2"

        assert not works()
        taken = subprocess.run(["sh", "-ec", warning["hint"]], capture_output=True, text=True)
        if "Operation not supported" in taken.stderr:
            pytest.skip("this kernel's nft can't tell bridges apart (nft_meta_bridge)")
        assert taken.returncode == 0, taken.stderr
        assert until(works, "packets after the advice was taken")
    assert netorch("up", file, "--json").json()["warnings"] == []


def test_a_private_lab_is_warned_for_its_uplink(netorch: Netorch, stack: ExitStack) -> None:
    stack.callback(run, "nft", "delete", "table", "inet", "own")
    subprocess.run(["nft", "-f", "-"], input=DROPS["policy"], text=True, check=True)
    with netorch.lab(LAB.replace('{ports: ["5001:4000/udp"]}', ""), "--private"):
        _, (warning,) = status(netorch, 0)
        assert "inet own fw" in warning["what"] and "iifname up" in warning["hint"]


def test_what_is_no_drop(stack: ExitStack) -> None:
    """What the judgement takes for a pass; each is the end of a chain whose policy is accept."""
    stack.callback(run, "nft", "delete", "table", "inet", "own")
    rules = """
        iifname "br9" drop
        iifname != { "br*", "uplink" } reject
        ip saddr 10.0.0.0/8 drop
        iifname . oifname { "br1" . "eth9" } drop
        limit rate 5/second drop
        iifname vmap { "br1" : jump deeper, "br2" : drop }
        return
        drop
    """
    head = "type filter hook forward priority 0; policy accept;"
    text = f"table inet own {{\nchain deeper {{\nreturn\ndrop\n}}\nchain fw {{\n{head}{rules}\n}}\n}}"
    subprocess.run(["nft", "-f", "-"], input=text, text=True, check=True)

    def dropped(*names: str) -> list[str]:
        table = HostTable(forward=tuple((name, "nat") for name in names))
        found = foreign.problems(nftables.list_chains(), table, bridged=False)
        return [str(problem.what) for problem in found]

    assert "of br9, br2 may not pass" in dropped("br1", "br9", "br2")[0]
    assert dropped("br1") == []


# -- hosts of other kinds ------------------------------------------------------------------------

PLAIN = """
name: plain
bridges: {sw: }
containers: {red: , blue: }
links: [[red: 10.74.0.1/30, blue: 10.74.0.2/30], [red: 10.75.0.1/24, sw], [blue: 10.75.0.2/24, sw]]
"""
PROGRAMS = (
    "nft",
    *(f"{name}{suffix}" for name in ("iptables", "ip6tables") for suffix in ("", "-nft", "-legacy")),
)


@pytest.fixture
def no_firewall_programs(stack: ExitStack) -> None:
    """A host where neither nft nor any iptables is installed: nothing of that name can be run."""
    suffixes = ("", "-save", "-restore")
    for directory in ("/usr/local/sbin", "/usr/sbin", "/usr/bin"):
        for path in (Path(directory, f"{name}{suffix}") for name in PROGRAMS for suffix in suffixes):
            if path.exists() and not path.is_mount():
                run("mount", "--bind", "/dev/null", str(path))
                stack.callback(run, "umount", "-l", str(path))


def test_without_nft_and_iptables(netorch: Netorch, no_firewall_programs: None) -> None:
    with netorch.lab(PLAIN):
        with contextlib.closing(Node("/run/netns/plain.red")) as red:
            assert red.run("ping", "-c1", "-W2", "10.74.0.2") and red.run("ping", "-c1", "-W2", "10.75.0.2")
        assert netorch("status", "plain", "--json").json()["drift"] == []
        # Without a table nothing but this keeps the host, which forwards, from being a router in the lab.
        for family in ("ipv4", "ipv6"):
            assert Path(f"/proc/sys/net/{family}/conf/plain-sw/forwarding").read_text() == "0\n"
    # Nothing leaves it, so its namespace needs no uplink with NAT.
    file = netorch.write(PLAIN + "checks: [{reach: all}]\n")
    netorch("test", file)
    with netorch.lab(file, "--private"):
        assert netorch("status", "plain", "--json").json()["drift"] == []
    for lab, package in (
        ("bridges: {br0: 10.74.1.1/24}\ncontainers: {red: }\nlinks: [[red, br0]]", "nftables"),
        ("containers: {red: {iptables: [-A INPUT -j DROP]}}", "iptables"),
        ("containers: {red: {nftables: 'table inet t { }'}}", "nftables"),
        (PLAIN + "host: {iptables: [-A FORWARD -j DROP]}", "nftables"),
    ):
        said = netorch("up", netorch.write(lab), code=2).stderr
        assert f"apt-get install {package}" in said and "lab.yaml:" in said


def test_ipv6_switched_off(netorch: Netorch, stack: ExitStack) -> None:
    default = Path("/proc/sys/net/ipv6/conf/default/disable_ipv6")
    stack.callback(default.write_text, "0")
    default.write_text("1")
    lab = """
name: six
bridges: {br0: {address: [10.76.0.1/24, "fd00:76::1/64"]}, br1: 10.77.0.1/24}
containers: {red: , blue: }
links: [[red, br0], [blue, br0], [blue, br1]]
"""
    with netorch.lab(lab):
        with contextlib.closing(Node("/run/netns/six.red")) as red:
            assert red.run("ping", "-6", "-c1", "-W2", "fd00:76::3") and red.run("ping", "-c1", "fd00:76::1")
        assert netorch("status", "six", "--json").json()["drift"] == []
        assert Path("/proc/sys/net/ipv6/conf/six-br1/disable_ipv6").read_text() == "1\n"


ROOTS = {
    "overlay": """
        mount -t tmpfs none /mnt; mkdir /mnt/upper /mnt/work /mnt/root
        mount -t overlay none -o lowerdir=/,upperdir=/mnt/upper,workdir=/mnt/work /mnt/root
        for d in proc sys dev run tmp; do mount --rbind /$d /mnt/root/$d; done
        cd /mnt/root; pivot_root . mnt; umount -l /mnt""",
    "read-only": """
        mount --rbind / /mnt; cd /mnt; pivot_root . mnt; umount -l /mnt
        mount -o remount,ro,bind /""",
    "chroot": "mount --rbind / /mnt",
    "/run on disk": 'mount --bind "$PLACE" /run',
    "small /run": "mount -t tmpfs -o size=64k none /run",
}


CLIMB = """
import os, sys
os.makedirs("/below", exist_ok=True)
os.chroot("/below")
for _ in range(64):
    os.chdir("..")
print("the root of red" if os.path.exists("etc/made") else os.listdir("."))
"""
"""Out of a chroot to the root of the mount namespace, as root with CAP_SYS_CHROOT may."""


@pytest.mark.parametrize("kind", ROOTS)
def test_a_root_of_any_kind(netorch: Netorch, kind: str) -> None:
    """A mount namespace stands for such a host: all that is done there is done by one script."""
    netorch.write("containers: {red: , blue: {read_only: true}}\nlinks: [[red, blue]]")
    place = netorch.directory / "place"
    place.mkdir()
    words, python, directory = " ".join(netorch.argv()), os.path.realpath(sys.executable), netorch.directory
    script = f"""
        {ROOTS[kind]}
        cd {directory}
        {words} up || exit 7
        trap "{words} down" EXIT
        {words} exec red sh -c 'touch /usr/made /etc/made && echo made'
        {words} exec red {python} -c '{CLIMB}'
        {words} exec blue touch /usr/made || echo refused
        test ! -e /usr/made; {words} status; {words} down; ls /run/netorch 2>/dev/null || echo nothing left
    """
    shell = ["sh", "-ec"]
    if kind == "chroot":
        script = script.replace(ROOTS[kind], "")
        shell = ["sh", "-ec", f'{ROOTS[kind]}; exec chroot /mnt sh -ec "$0"']
    done = subprocess.run(
        ["unshare", "--mount", "--propagation", "private", *shell, script],
        capture_output=True,
        text=True,
        env={**netorch.environment, "PLACE": str(place), "PYTHONPATH": str(ROOT)},
    )
    if kind == "small /run":
        assert done.returncode == 7 and "No space left" in done.stderr and "size=" in done.stderr, done
        return
    assert done.returncode == 0, done
    lines = done.stdout.splitlines()
    assert lines[:3] == ["made", "the root of red", "refused"], done
    assert "as it should be" in done.stdout and lines[-1] == "nothing left", done


# -- in somebody's container -----------------------------------------------------------------------

_IN_A_DEVCONTAINER = {"REMOTE_CONTAINERS": "true"}
_RUN_ARGS = '"runArgs": ["--privileged", "--cgroupns=host"]'


def _in(netorch: Netorch, *before: str) -> Callable[..., subprocess.CompletedProcess[str]]:
    """netorch, run by another program, in a devcontainer."""

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        environment = {**netorch.environment, **_IN_A_DEVCONTAINER}
        argv = [*before, *netorch.argv(*words)]
        return subprocess.run(argv, cwd=netorch.directory, env=environment, capture_output=True, text=True)

    return run


def test_root_without_the_rights_of_root(netorch: Netorch) -> None:
    netorch.write(PLAIN + "checks: [{reach: all}]\n")
    bare = _in(netorch, "setpriv", "--bounding-set", "-sys_admin,-net_admin")
    lack = "this root is without CAP_NET_ADMIN and CAP_SYS_ADMIN"
    up = bare("up")
    assert up.returncode == 1 and f"no lab can be built here: {lack}\n" in up.stderr
    assert _RUN_ARGS in up.stderr and "sudo" not in up.stderr
    valid = bare("validate")
    assert valid.returncode == 0 and "not checked against this host" in valid.stderr
    assert lack in bare("test").stdout
    doctor = bare("doctor")
    assert doctor.returncode == 1 and _RUN_ARGS in doctor.stderr
    assert "error: root without CAP_NET_ADMIN and CAP_SYS_ADMIN: no namespace, mount" in doctor.stderr


READ_ONLY = """
    mount --bind /proc/sys /proc/sys
    mount -o remount,ro,bind /proc/sys
    for point in $(awk '$3 ~ /^cgroup/ {print $2}' /proc/self/mounts); do
        mount -o remount,ro,bind $point
    done
    exec "$0" "$@"
"""
"""What an engine shows of both to a container without ``--privileged``, also where it has CAP_SYS_ADMIN."""


def test_where_sysctls_and_cgroups_are_read_only(netorch: Netorch) -> None:
    netorch.write(PLAIN)
    private = ["unshare", "--mount", "--propagation", "private", "sh", "-ec"]
    said = _in(netorch, *private, READ_ONLY)("up").stderr
    assert "no lab can be built here: /proc/sys is read-only" in said and _RUN_ARGS in said
    assert "mount -o remount,rw,bind /proc/sys" in said
    net = "mount --bind /proc/sys/net /proc/sys/net; mount -o remount,rw,bind /proc/sys/net"
    mended = READ_ONLY.replace('exec "$0"', f'{net}; exec "$0"')  # the others are not needed
    said = _in(netorch, *private, mended)("up").stderr
    assert "the cgroup of container red can't be made: Read-only file system" in said and _RUN_ARGS in said
    assert not Path("/run/netorch").exists()
    doctor = json.loads(_in(netorch, *private, mended)("doctor", "--json").stdout)
    mode = next(row for row in doctor["findings"] if row["name"] == "mode")
    assert not doctor["ok"] and mode["state"] == "missing" and _RUN_ARGS in mode["mend"]
