"""The doctor: each lack is found, says what it means and how to mend it; and it tells the truth of a host."""

from __future__ import annotations

import errno
import os
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from support.runner import ROOT, Netorch

from netns_orch import doctor
from netns_orch.kernel import facts, founding, health, mountinfo, rights
from netns_orch.kernel.health import PROGRAMS, Health
from netns_orch.kernel.userhealth import UserHealth

GOOD = Health(
    release="6.1.0-18-amd64",
    machine="x86_64",
    libc="glibc 2.36",
    python="3.11.2",
    root=True,
    capabilities=frozenset(rights.NUMBERS),
    features=facts.FEATURES,
    cgroups=dict.fromkeys(("cpu", "cpuset", "memory", "pids", "io"), 2),
    cgroup_versions=frozenset({2}),
    cgroup_writable=True,
    limits_by="own",
    delegated=frozenset({"cpu", "cpuset", "memory", "pids", "io"}),
    programs={name: f"/usr/sbin/{name}" for name in PROGRAMS},
    sysctls={"net.ipv4.neigh.default.gc_thresh3": "16384", "kernel.seccomp.actions_avail": "allow"},
)
ORDINARY = replace(GOOD, root=False, user=UserHealth(name="alice", directory="/run/user/1000/netorch"))


def of_user(**about: Any) -> Health:
    """What an ordinary user finds on a good host, but for this."""
    return replace(ORDINARY, user=replace(ORDINARY.user, **about))


def of(health: Health) -> dict[str, doctor.Finding]:
    """The findings by name."""
    return {finding.name: finding for finding in doctor.findings(health)}


def test_a_good_host_lacks_nothing() -> None:
    found = doctor.findings(GOOD)
    assert {finding.state for finding in found} == {"ok"}
    assert doctor.missing(found, facts.FEATURES) == []
    mine = doctor.findings(ORDINARY)
    assert [finding.name for finding in mine if finding.state != "ok"] == ["root"], "it notes: not root"


@pytest.mark.parametrize("feature", sorted(facts.FEATURES))
def test_each_feature_that_a_lab_file_can_ask_for_is_shown_when_it_is_missing(feature: str) -> None:
    found = doctor.findings(replace(GOOD, features=facts.FEATURES - {feature}))
    (lacking,) = [finding for finding in found if finding.state != "ok"]
    assert lacking.name == feature
    assert lacking.means and lacking.mend
    assert doctor.missing(found, [feature]) == [lacking]
    assert doctor.missing(found) == ([lacking] if feature in ("bridge", "veth", "overlay") else [])


@pytest.mark.parametrize(
    ("examined", "name", "state", "words"),
    [
        (replace(GOOD, release="5.10.0-28-amd64"), "release", "missing", "5.14"),
        (replace(GOOD, capabilities=frozenset({"SYS_ADMIN"})), "root", "missing", "CAP_NET_ADMIN"),
        (
            replace(GOOD, capabilities=frozenset({"SYS_ADMIN", "NET_ADMIN"})),
            "SYS_RESOURCE",
            "note",
            "ulimits",
        ),
        (replace(GOOD, cgroup_versions=frozenset()), "mode", "missing", "mount -t cgroup2"),
        (replace(GOOD, cgroup_versions=frozenset({1, 2})), "mode", "ok", "hybrid"),
        (replace(GOOD, cgroups={"cpu": 2}), "cgroup:memory", "missing", "memory_high"),
        (replace(GOOD, cgroups={"memory": 1}), "cgroup:memory:v2", "missing", "memory_high"),
        (replace(GOOD, root=False, delegated=frozenset({"pids"})), "cgroup:cpu", "missing", "Delegate="),
        (replace(GOOD, root=False, limits_by="none", no_limits="enable-linger"), "limits", "note", "linger"),
        (replace(GOOD, root=False, limits_by="scope"), "limits", "ok", "user manager"),
        (replace(GOOD, limits_by="top"), "limits", "ok", "beside systemd's slices"),
        (replace(GOOD, root=False, cgroups={"cpu": 1}), "cgroup:cpu", "missing", "Delegate"),
        (replace(GOOD, programs={}), "nft", "missing", "apt-get install nftables"),
        (replace(GOOD, programs={}), "uplink", "note", "apt-get install passt"),
        (replace(GOOD, programs={}), "subordinate-ids", "note", "apt-get install uidmap"),
        (replace(GOOD, overlay_root=True), "overlay-root", "note", "namespaces.user"),
        (replace(GOOD, container="docker"), "container", "note", "no further than it does"),
        (replace(GOOD, wsl="WSL2"), "wsl", "note", "wsl --update"),
        (replace(GOOD, wsl="WSL1"), "wsl", "missing", "wsl --set-version"),
        (replace(GOOD, sysctls_writable=False), "sysctls", "missing", "--privileged"),
        (replace(GOOD, cgroup_writable=False), "mode", "missing", "--cgroupns=host"),
        (replace(GOOD, cgroup_writable=False), "cgroup:cpu", "missing", "--privileged"),
        (
            replace(GOOD, container="docker", devcontainer=True, capabilities=frozenset()),
            "container",
            "note",
            "devcontainer.json",
        ),
        (replace(GOOD, firewalls={"docker": "chain DOCKER-USER"}), "docker", "note", "accept rules"),
        (replace(GOOD, firewalls={"firewalld": "nft table"}), "firewalld", "note", "--zone=trusted"),
        (replace(GOOD, firewalls={"libvirt": "chain LIBVIRT_FWI"}), "libvirt", "note", "guests"),
        (replace(GOOD, firewalls={"podman": "nft table netavark"}), "podman", "note", "do not disturb"),
        (replace(GOOD, firewalls={"ufw": "chain ufw-before-forward"}), "ufw", "note", "ufw allow in on"),
        (replace(GOOD, drops=(("inet fw drops", "nft insert"),)), "nft-drops", "note", "nft insert"),
        (replace(GOOD, machine="riscv64", known_machine=False), "machine", "missing", "x86_64 or aarch64"),
        (replace(GOOD, root_read_only=True), "read-only-root", "note", "layers of their own"),
        (replace(GOOD, run_writable=False), "run", "missing", "mount -t tmpfs"),
        (replace(GOOD, run_kind="ext4"), "run", "note", "ext4"),
        (replace(GOOD, run_free=1 << 20), "run-space", "note", "1024 KiB"),
        (replace(GOOD, sysctls={}), "seccomp", "missing", "CONFIG_SECCOMP_FILTER"),
        (
            replace(GOOD, sysctls={"net.ipv6.conf.default.disable_ipv6": "1"}),
            "ipv6-disabled",
            "note",
            "of theirs",
        ),
        (
            replace(GOOD, sysctls={"kernel.apparmor_restrict_unprivileged_userns": "1"}),
            "user-namespaces",
            "note",
            "sysctl -w kernel.apparmor_restrict_unprivileged_userns=0",
        ),
        (of_user(refused="s is 1", mend="sysctl -w s=0"), "user-namespaces", "missing", "sysctl -w s=0"),
        (of_user(no_tun="as root, modprobe tun"), "uplink", "note", "modprobe tun"),
        (of_user(pings=False), "pings", "note", "ping_group_range='0 2147483647'"),
        (of_user(ids=False), "subordinate-ids", "note", "usermod --add-subuids"),
        (of_user(weak_helpers=("/b/newuidmap",)), "subordinate-ids", "note", "chmod u+s /b/newuidmap"),
        (of_user(directory="/tmp/netorch-1000"), "directory", "note", "loginctl enable-linger"),
        (of_user(directory_refused="not yours alone"), "directory", "missing", "XDG_RUNTIME_DIR"),
        (replace(GOOD, probed=False, not_probed="no right"), "features", "note", "no right"),
    ],
)
def test_each_lack_has_a_meaning_and_a_way_out(examined: Health, name: str, state: str, words: str) -> None:
    finding = of(examined)[name]
    assert finding.state == state
    assert words in f"{finding.found} {finding.means} {finding.mend}"


@pytest.mark.parametrize(
    ("release", "found"),
    [
        ("4.4.0-19041-Microsoft", "WSL1"),
        ("5.15.167.4-microsoft-standard-WSL2", "WSL2"),
        ("6.6.114.1-microsoft-standard-WSL2+", "WSL2"),
        ("6.1.0-18-amd64", ""),
    ],
)
def test_what_a_release_says_of_windows(release: str, found: str) -> None:
    assert health.wsl(release) == found


def test_what_a_file_asks_for(tmp_path: Path) -> None:
    from netns_orch import labfile

    lab = labfile.loads("containers: {a: , b: }\nlinks: [{endpoints: [a, b], delay: 20ms}]", environ={})
    assert {"netem", "veth", "overlay"} <= doctor.needed(lab)
    assert "vlan" not in doctor.needed(lab)


@pytest.mark.kernel
def test_it_tells_the_truth_of_this_host(netorch: Netorch) -> None:
    """Each kind of link that it says is there can be made by ip(8), and no other."""
    said = {row["name"]: row for row in netorch("doctor", "--json", code=None).json()["findings"]}
    makes = {
        "dummy": (),
        "bond": (),
        "bridge": (),
        "vrf": ("table", "10"),
        "vxlan": ("id", "7", "dstport", "4789"),
    }
    for kind, options in makes.items():
        command = ["ip", "link", "add", "probe0", "type", kind, *options]
        made = subprocess.run(command, capture_output=True, text=True)
        assert (said[kind]["state"] == "ok") == (made.returncode == 0), f"{said[kind]} {made.stderr}"
        if made.returncode == 0:
            subprocess.run(["ip", "link", "delete", "probe0"], check=True)
    assert said["release"]["found"] == f"Linux {os.uname().release}"
    with open("/proc/cgroups", encoding="ascii") as file:
        bound_to_v1 = {
            line.split()[0] for line in file if not line.startswith("#") and line.split()[1] != "0"
        }
    for controller in ("cpu", "memory", "pids"):
        if said[f"cgroup:{controller}"]["state"] == "ok":
            assert (said[f"cgroup:{controller}"]["found"] == "v1") == (controller in bound_to_v1)
    assert netorch("doctor", "--for", ROOT / "topologies/red-blue.yaml").code == 0


@pytest.mark.kernel
def test_a_file_that_asks_for_what_is_missing(netorch: Netorch) -> None:
    said = netorch("doctor", "--json", code=None).json()
    lacking = {row["name"] for row in said["findings"] if row["state"] == "missing"} & {
        "vlan",
        "vrf",
        "dummy",
    }
    if not lacking:
        pytest.skip("this kernel lacks none of vlan, vrf and dummy")
    kind = sorted(lacking)[0]
    entry = {"vlan": "{vlan: 10, parent: lo}", "vrf": "{vrf: 10}", "dummy": "{dummy: true}"}[kind]
    file = netorch.write(f"containers:\n  red:\n    interfaces:\n      x0: {entry}\n")
    done = netorch("doctor", "--for", file, code=1)
    assert f"error: {kind} is missing, which" in done.stderr
    assert "hint: " in done.stderr


def test_a_chroot_is_named_before_an_engine_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel makes no user namespace for who is in one (unshare(2)), whatever /.dockerenv says."""
    monkeypatch.setattr(rights, "container", lambda: "docker")
    line = "36 25 0:31 / {} rw,relatime - tmpfs tmpfs rw"
    for point, said in (("/usr", "this is a chroot"), ("/", "the engine of this container")):
        mount = mountinfo.Mount(line.format(point))
        monkeypatch.setattr(mountinfo, "of", lambda process, mount=mount: [mount])
        refused = founding.refused(errno.EPERM, "make a user namespace")
        assert f"something forbids it here: {said}" in (refused.hint or "")
