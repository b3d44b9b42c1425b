"""What this host is, as far as labs care: read, not judged.

Owns: ``Health``.  Must not: change anything, or say what a fact means (``doctor``).

Features of links are tried out in a throw-away network namespace; without root in one inside of a throw-away
user namespace, by a process of its own, as rootless labs have it.
"""

from __future__ import annotations

import json
import os
import platform
import sys
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from netns_orch.errors import NetorchError
from netns_orch.kernel import facts, founding, hierarchies, idmap, mountinfo, netfilter, rights, userhealth
from netns_orch.kernel import syscalls as sc
from netns_orch.kernel.userhealth import UserHealth
from netns_orch.resources import HostTable

PROGRAMS = (
    "nft", "iptables-restore", "ip6tables-restore", "zstd", "skopeo", "newuidmap", "newgidmap", "pasta",
    "slirp4netns", "iperf3", "docker", "podman",
)  # fmt: skip
SYSCTLS = (
    "user.max_user_namespaces",
    "kernel.unprivileged_userns_clone",
    "kernel.apparmor_restrict_unprivileged_userns",
    "kernel.pid_max",
    "net.ipv4.ip_forward",
    "net.ipv4.neigh.default.gc_thresh3",
    "net.bridge.bridge-nf-call-iptables",
    "net.ipv6.conf.default.disable_ipv6",
    "kernel.seccomp.actions_avail",
)
_PROBE = """
import sys
sys.path.insert(0, sys.argv[1])
from netns_orch.kernel import health
health.unprivileged()
"""


@dataclass(frozen=True)
class Health:
    """The raw facts of a host; a name that is missing in ``programs`` or ``sysctls`` is not there."""

    release: str = ""
    machine: str = ""
    libc: str = ""
    python: str = ""
    root: bool = False
    capabilities: frozenset[str] = frozenset()
    features: frozenset[str] = frozenset()
    probed: bool = True
    """False: the features of links could not be tried out; ``not_probed`` says why."""
    not_probed: str = ""
    cgroups: dict[str, int] = field(default_factory=dict)
    """Each controller, and the version (1 or 2) of the hierarchy that has it."""
    cgroup_versions: frozenset[int] = frozenset()
    limits_by: Literal["own", "scope", "top", "none"] = "none"
    """Where the cgroups of labs hang: in this process's own; in a scope that systemd makes for each; at the
    top of each hierarchy, beside systemd's slices."""
    no_limits: str = ""
    """Why nowhere."""
    delegated: frozenset[str] = frozenset()
    """The controllers that labs are given there."""
    cgroup_writable: bool = False
    """Whether this process may make a directory in the hierarchy of version 2, or as root in each."""
    systemd: bool = False
    programs: dict[str, str] = field(default_factory=dict)
    sysctls: dict[str, str] = field(default_factory=dict)
    sysctls_writable: bool = True
    """False: /proc/sys is mounted read-only."""
    apparmor: bool = False
    overlay_root: bool = False
    run_kind: str = "tmpfs"
    """The file system that holds /run."""
    run_writable: bool = True
    run_free: int = 1 << 30
    """Bytes that this user may still write there."""
    root_read_only: bool = False
    user: UserHealth = field(default_factory=UserHealth)
    container: str = ""
    """The engine whose container this is, where it is one."""
    wsl: str = ""
    """WSL1 or WSL2, where Windows runs this Linux."""
    devcontainer: bool = False
    firewalls: dict[str, str] = field(default_factory=dict)
    """Who has rules in the host's tables (docker, podman, libvirt, firewalld, ufw), and where."""
    drops: tuple[tuple[str, str], ...] = ()
    """What others' nft tables drop of any bridge's packets, and what lets them pass."""
    known_machine: bool = True
    """Whether netorch has the system call numbers of this machine, and this Python makes its native calls."""


def examine() -> Health:
    """Look at everything; no error, whatever is missing."""
    root = os.geteuid() == 0
    features, why_not, mend = _features(root)
    trees, run = _hierarchies(), os.statvfs("/run")
    own = [tree.position for tree in trees if root or tree.version == 2]
    limits_by, no_limits, delegated = _limits(root, trees)
    firewalls, dropped = _firewalls() if root else ({}, ())
    return Health(
        release=platform.release(),
        machine=platform.machine(),
        libc=_libc(),
        python=platform.python_version(),
        root=root,
        capabilities=rights.capabilities(),
        features=frozenset(features),
        probed=not why_not,
        not_probed=why_not,
        cgroups={name: tree.version for tree in trees for name in tree.controllers},
        cgroup_versions=frozenset(tree.version for tree in trees),
        limits_by=limits_by,
        no_limits=no_limits,
        delegated=delegated,
        cgroup_writable=bool(own) and all(os.access(path, os.W_OK) for path in own),
        systemd=os.path.isdir("/run/systemd/system"),
        programs={name: path for name in PROGRAMS if (path := netfilter.find_program(name))},
        sysctls={name: value for name in SYSCTLS if (value := _sysctl(name)) is not None},
        sysctls_writable=rights.sysctls_writable(),
        apparmor=_read("/sys/module/apparmor/parameters/enabled").startswith("Y"),
        overlay_root=_file_system("/") == "overlay",
        run_kind=_file_system("/run"),
        run_writable=not run.f_flag & os.ST_RDONLY,
        run_free=run.f_bavail * run.f_frsize,
        root_read_only=bool(os.statvfs("/").f_flag & os.ST_RDONLY),
        user=userhealth.examine(why_not if mend else "", mend),
        container=rights.container(),
        wsl=wsl(platform.release()),
        devcontainer=rights.is_devcontainer(),
        firewalls=firewalls,
        drops=dropped,
        known_machine="mount" in sc.NUMBERS and sys.maxsize > 1 << 32,
    )


def _limits(
    root: bool, trees: list[hierarchies.Hierarchy]
) -> tuple[Literal["own", "scope", "top", "none"], str, frozenset[str]]:
    if root:
        every = frozenset(name for tree in trees for name in tree.controllers)
        return "top" if hierarchies.is_systemds(trees) else "own", "", every
    way = founding.way_to_cgroups()
    return way.kind, way.lack or "", way.controllers


def _features(root: bool) -> tuple[Iterable[str], str, str]:
    """The features; why they could not be tried out, and how to mend that where an ordinary user may not."""
    if root:
        try:
            return facts.features(facts.FEATURES), "", ""
        except NetorchError as error:
            return frozenset(), error.what, ""
    import subprocess

    package = str(Path(__file__).resolve().parents[2])
    words = [sys.executable, "-I", "-c", _PROBE, package]
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=60)
    try:
        said = json.loads(done.stdout)
    except ValueError:
        return frozenset(), "the process that tries them out ended before it said anything", ""
    return said["features"], said["why_not"], said["mend"]


def unprivileged() -> None:
    """Print, as JSON, the features that are there inside of a new user namespace."""
    features: list[str] = []
    why_not = mend = ""
    doing = "make a user namespace"
    uid, gid = os.getuid(), os.getgid()
    try:
        sc.unshare(sc.CLONE_NEWUSER)
        idmap.write_single(os.getpid(), uid, gid)  # or a program (nft) has no rights there
        doing = "make the other namespaces"  # AppArmor may leave a user namespace without rights
        sc.unshare(sc.CLONE_NEWNS | sc.CLONE_NEWNET)
        features = sorted(facts.features(facts.FEATURES))
    except OSError as error:
        refused = founding.refused(error.errno or 0, doing)
        why_not, mend = refused.what, refused.hint or ""
    except NetorchError as error:
        why_not = error.what
    sys.stdout.write(json.dumps({"features": features, "why_not": why_not, "mend": mend}))


def wsl(release: str) -> str:
    """What a kernel's release says of Windows; a kernel of one's own in WSL2 need not say so."""
    if release.endswith("-Microsoft"):
        return "WSL1"
    return "WSL2" if "microsoft" in release.lower() or os.path.exists("/run/WSL") else ""


def _libc() -> str:
    """The C library of this Python and its version; platform.libc_ver() of Python 3.13 does not know musl."""
    try:
        return os.confstr("CS_GNU_LIBC_VERSION") or ""
    except (ValueError, OSError):
        loaders = sorted(Path("/lib").glob("ld-musl-*.so.1"))
    if not loaders:
        return "an unknown C library"
    import subprocess

    # Without arguments it says what it is (PEP 656).
    done = subprocess.run([loaders[0]], capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
    version = next((line.split()[1] for line in done.stderr.splitlines() if line.startswith("Version ")), "")
    return f"musl {version}".strip()


def _hierarchies() -> list[hierarchies.Hierarchy]:
    try:
        return hierarchies.detect()
    except OSError:
        return []


def _sysctl(name: str) -> str | None:
    try:
        return Path("/proc/sys", *name.split(".")).read_text("ascii").strip()
    except (OSError, UnicodeDecodeError):
        return None


def _read(path: str) -> str:
    try:
        return Path(path).read_text("utf-8", "replace")
    except OSError:
        return ""


def _file_system(path: str) -> str:
    """The kind of file system that holds ``path``; the last mount is on top."""
    best, kind = "", ""
    for mount in mountinfo.of():
        point = mount.point.rstrip("/")
        if (path == point or path.startswith(f"{point}/")) and len(point) >= len(best):
            best, kind = point, mount.kind
    return kind


def _firewalls() -> tuple[dict[str, str], tuple[tuple[str, str], ...]]:
    """Whose rules there are, and what they drop of a bridge that nobody knows, named BRIDGE."""
    from netns_orch.kernel import foreign, nftables, portholders

    try:
        chains = nftables.list_chains()
        found = foreign.owners(chains)
        if netfilter.find_program("nft") is None:
            return found, ()
        unknown = HostTable(forward=(("BRIDGE", "nat"),))
        problems = foreign.problems(chains, unknown, bridged=portholders.bridge_netfilter())
        return found, tuple((problem.what, problem.hint or "") for problem in problems)
    except NetorchError:
        return {}, ()
