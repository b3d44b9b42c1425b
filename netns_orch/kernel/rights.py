"""What this process may do as root: its capabilities, and in whose container it runs.

Owns: reading them, the error for a root who lacks what every lab takes, and how to get it.
Must not: try anything out, or judge what a single lab needs.

Root in a container is root without most of its rights (capabilities(7)): an engine takes CAP_SYS_ADMIN away,
forbids mounts and namespaces by seccomp, and shows cgroups and /proc/sys read-only, unless told not to.
"""

from __future__ import annotations

import os

from netns_orch.errors import PermissionNeeded

NUMBERS = {"SYS_ADMIN": 21, "NET_ADMIN": 12, "SYS_RESOURCE": 24, "SYS_PTRACE": 19}
"""By their numbers in CapEff."""
ESSENTIAL = ("NET_ADMIN", "SYS_ADMIN")
"""What no lab can do without."""
_DEVCONTAINER = ("REMOTE_CONTAINERS", "CODESPACES")
"""Set by Visual Studio Code and by GitHub in the terminals of a devcontainer."""


def capabilities() -> frozenset[str]:
    """Those of ``NUMBERS`` that are effective."""
    try:
        with open("/proc/self/status", encoding="utf-8", errors="replace") as file:
            mask = next(int(line.split()[1], 16) for line in file if line.startswith("CapEff:"))
    except (OSError, StopIteration):
        return frozenset()
    return frozenset(name for name, number in NUMBERS.items() if mask >> number & 1)


def container() -> str:
    """The engine whose container this is, as systemd and the engines leave it; empty where it is none.

    (systemd's "The Container Interface".)
    """
    if os.path.exists("/.dockerenv"):
        return "docker"
    if os.path.exists("/run/.containerenv"):
        return "podman"
    try:
        with open("/run/systemd/container", encoding="utf-8", errors="replace") as file:
            named = file.read().strip()
    except OSError:
        named = ""
    return named or os.environ.get("container", "")  # noqa: SIM112 - its name


def is_devcontainer() -> bool:
    """Whether an editor started the container this is."""
    return any(os.environ.get(name) == "true" for name in _DEVCONTAINER)


def is_chroot() -> bool:
    """Whether the root of this process is for certain a chroot: not where a mount begins.

    An ordinary user can't tell one that is a mount's top from the root of his mount namespace (chroot(2)).
    """
    from netns_orch.kernel import mountinfo

    return not any(mount.point == "/" for mount in mountinfo.of("/proc/self"))


def is_filtered() -> bool:
    """Whether a seccomp filter is upon this process (proc_pid_status(5))."""
    with open("/proc/self/status", encoding="utf-8", errors="replace") as file:
        return any(line.split() == ["Seccomp:", "2"] for line in file)


def how_to_get(engine: str, devcontainer: bool) -> str:
    """How root gets the rights of root; ``engine`` is whose container this is, empty for none."""
    if devcontainer:
        return 'devcontainer.json: "runArgs": ["--privileged", "--cgroupns=host"], and rebuild the container'
    if engine:
        return f"run the container with --privileged --cgroupns=host ({engine}), or use a virtual machine"
    return "run it on the host itself, or in a container with --privileged --cgroupns=host"


def sysctls_writable() -> bool:
    """Whether sysctls of network namespaces can be set, by the mount that shows them."""
    return not os.statvfs("/proc/sys/net").f_flag & os.ST_RDONLY


def require() -> None:
    """PermissionNeeded where no lab can be built: root without the rights of root, sysctls that can't be set.

    Every network namespace of a lab gets one fixed set of them, by way of the host's /proc.
    """
    is_root = os.geteuid() == 0
    lacking = [f"CAP_{name}" for name in sorted({*ESSENTIAL} - capabilities())] if is_root else []
    reasons = [f"this root is without {' and '.join(lacking)}"] if lacking else []
    hint = how_to_get(container(), is_devcontainer())
    if not sysctls_writable():
        reasons.append("/proc/sys is read-only")
        if not lacking:
            hint += f"\nor: {'' if is_root else 'sudo '}mount -o remount,rw,bind /proc/sys"
    if reasons:
        raise PermissionNeeded(f"no lab can be built here: {', and '.join(reasons)}", hint=hint)
