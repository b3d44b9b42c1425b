"""The doctor: what this host can do for labs, what each lack means, and how to mend it.

Owns: the judgement of ``kernel.health.Health``, and which findings a lab file asks for.
Must not: look at the host itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

from netns_orch.kernel import rights
from netns_orch.kernel.health import Health

if TYPE_CHECKING:
    from netns_orch.labfile.model import Topology

State = Literal["ok", "missing", "note"]
_OLDEST = (5, 14)
"""SO_NETNS_COOKIE, by which one host is told from another (netorch's marks hold it)."""


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at."""

    group: str
    name: str
    """As ``HostFacts.features`` has it, where a lab file can ask for it."""
    state: State
    found: str
    means: str = ""
    """What can't be done without it, or what follows."""
    mend: str = ""
    essential: bool = False
    """No lab at all without it."""

    def to_json(self) -> dict[str, Any]:
        """The finding as data."""
        return asdict(self)


_LINKS = {
    "bridge": "bridges",
    "veth": "cables",
    "netem": "delay, jitter, loss and the other impairments of links",
    "tbf": "links with nothing but a rate",
    "vlan": "interfaces with a VLAN inside containers",
    "vlan-filter": "VLANs on the ports of bridges",
    "vxlan": "vxlan interfaces",
    "bond": "bond interfaces",
    "vrf": "vrf interfaces",
    "dummy": "dummy interfaces",
    "macvlan": "macvlan interfaces",
    "wireguard": "WireGuard of the kernel inside containers (a program such as wireguard-go needs none)",
    "overlay": "the roots of containers",
    "ipv6": "IPv6 addresses",
    "nft-nat": "published ports",
    "user-namespace": "namespaces.user, nesting, and labs of ordinary users",
    "time-namespace": "namespaces.time",
}
_ESSENTIAL = frozenset({"bridge", "veth", "overlay"})
_CONTROLLERS = {
    "cpu": "cpus, cpu_weight",
    "cpuset": "cpuset",
    "memory": "memory, memory_high, swap",
    "pids": "pids",
    "io": "io",
}
_PROGRAMS = (
    ("nft", "nft", "nftables", "bridges with an address, host rules, published ports, `nftables`"),
    ("iptables", "iptables-restore", "iptables", "`iptables`"),
    ("ip6tables", "ip6tables-restore", "iptables", "`ip6tables`"),
    ("zstd", "zstd", "zstd", "roots in tar files with zstd"),
    ("skopeo", "skopeo", "skopeo", "`image`"),
    ("iperf3", "iperf3", "iperf3", "throughput checks by iperf3; without it they use sockets of their own"),
)


def findings(health: Health) -> list[Finding]:
    """Everything that was looked at, in the order in which it is shown."""
    return [
        *_host(health),
        *_rights(health),
        *_kernel(health),
        *_cgroups(health),
        *_programs(health),
        *_rootless(health),
    ]


def needed(topology: Topology) -> frozenset[str]:
    """What a lab file asks of the host, as names of findings; LabFileError where it is not valid."""
    from netns_orch import graph

    return graph.features_needed(graph.wire(topology))


def missing(found: Iterable[Finding], wanted: Iterable[str] = ()) -> list[Finding]:
    """Those that stand in the way of every lab, or of one that wants these features."""
    wanted = set(wanted)
    return [
        finding
        for finding in found
        if finding.state == "missing" and (finding.essential or finding.name in wanted)
    ]


_FIREWALLS = {
    "docker": (
        "it drops what it does not know; netorch puts marked accept rules where Docker honours them",
        "netorch status   after a restart of Docker; netorch up   puts back what is missing",
    ),
    "firewalld": (
        "it rejects what goes from one zone to another; bridges are in the default zone unless put elsewhere",
        "firewall-cmd --zone=trusted --add-interface=BRIDGE   where `up` warns of it",
    ),
    "libvirt": ("its guests and labs reach the outside, but containers can't begin to talk to guests", ""),
    "podman": ("its containers and labs do not disturb one another", ""),
    "ufw": (
        "it drops what it does not know; netorch puts marked accept rules for bridges into FORWARD,"
        " but what containers ask of the host itself is ufw's to allow",
        "ufw allow in on BRIDGE   for services of the host; netorch up   after `ufw reload`",
    ),
}
"""What the rules of others mean, and what can be done."""
_SMALL_RUN = 16 << 20
"""Bytes in /run below which a lab of some hundred containers may not find room for its state."""


def _essential(group: str, name: str, fits: bool, found: str, means: str, mend: str) -> Finding:
    """What no lab can do without; where it fits, there is nothing to explain or to mend."""
    if fits:
        return Finding(group, name, "ok", found, essential=True)
    return Finding(group, name, "missing", found, means, mend, essential=True)


def _host(health: Health) -> Iterator[Finding]:
    known = health.known_machine
    yield _essential(
        "host",
        "machine",
        known,
        f"{health.machine}, {health.libc}, Python {health.python}",
        "the system calls of this machine, or of a 32-bit Python, are not known to netorch",
        "x86_64 or aarch64, with a Python of 64 bits",
    )
    yield from _around(health)
    yield from _file_systems(health)
    for name, where in health.firewalls.items():
        means, mend = _FIREWALLS[name]
        yield Finding("host", name, "note", f"it has rules in this host's firewall ({where})", means, mend)
    for what, mend in health.drops:
        means = "no packet gets out of a lab, or none back, as long as its bridge is not let through"
        yield Finding("host", "nft-drops", "note", what, means, mend)
    if health.sysctls.get("net.bridge.bridge-nf-call-iptables") == "1":
        means = "the host's rules see bridged packets; plain switches get accept rules, private labs none"
        yield Finding("host", "br-netfilter", "note", "br_netfilter is on", means)
    if health.sysctls.get("net.ipv6.conf.default.disable_ipv6") == "1":
        setting = "net.ipv6.conf.default.disable_ipv6"
        means = "the host's new interfaces have no IPv6; labs switch it on for those of theirs that need it"
        yield Finding("host", "ipv6-disabled", "note", f"{setting} is 1", means)
    thresh = health.sysctls.get("net.ipv4.neigh.default.gc_thresh3", "")
    if thresh.isdecimal() and int(thresh) < 4096:
        yield Finding(
            "host",
            "neighbours",
            "note",
            f"at most {thresh} neighbours in all network namespaces",
            "with more than some hundred containers that all talk to each other, packets get lost",
            "sysctl -w net.ipv4.neigh.default.gc_thresh3=16384",
        )


def _around(health: Health) -> Iterator[Finding]:
    """What this host is inside of."""
    if health.container or health.devcontainer:
        engine = health.container or "an unknown engine"
        kind = ", a devcontainer" if health.devcontainer else ""
        means = "labs need its --privileged, and may reach no further than it does"
        lacking = not (health.sysctls_writable and set(rights.ESSENTIAL) <= health.capabilities)
        mend = rights.how_to_get(engine, health.devcontainer) if lacking else ""
        yield Finding("host", "container", "note", f"this is a container of {engine}{kind}", means, mend)
    if health.wsl == "WSL1":
        means = "its kernel is Windows, without namespaces, cgroups and bridges"
        mend = "wsl --set-version DISTRIBUTION 2"
        yield Finding("host", "wsl", "missing", "this is WSL1", means, mend, essential=True)
    elif health.wsl:
        yield Finding(
            "host",
            "wsl",
            "note",
            "this is WSL2",
            "its kernel may lack what is missing below; before 6.6 it has no modules to load",
            "wsl --update; else a kernel of your own: kernel= in .wslconfig",
        )


def _file_systems(health: Health) -> Iterator[Finding]:
    if health.overlay_root:
        means = "namespaces.user with the host's root is refused: it can't be mapped; other roots can"
        yield Finding("host", "overlay-root", "note", "the host's own root is an overlay", means)
    if health.root_read_only:
        means = "no matter for labs: what containers write goes to layers of their own, state to /run"
        yield Finding("host", "read-only-root", "note", "the host's root is read-only", means)
    if health.root and not health.run_writable:
        means = "there is no place for the state of labs"
        mend = "mount -t tmpfs tmpfs /run"
        yield Finding("host", "run", "missing", "/run is read-only", means, mend, essential=True)
    elif health.root and health.run_kind != "tmpfs":
        means = "state of labs is written to a disk, and outlives a reboot: the next `up` cleans it up"
        yield Finding("host", "run", "note", f"/run is no tmpfs, but {health.run_kind}", means)
    if health.root and health.run_writable and health.run_free < _SMALL_RUN:
        found = f"{health.run_free >> 10} KiB are free in /run"
        means = "a lab with many containers, or layers unpacked from images, may not find room"
        yield Finding("host", "run-space", "note", found, means, "mount -o remount,size=256m /run")


def _rights(health: Health) -> Iterator[Finding]:
    mend = rights.how_to_get(health.container, health.devcontainer)
    if not health.sysctls_writable:
        means = "containers can't be given the sysctls that every container has"
        yield _essential("rights", "sysctls", False, "/proc/sys is read-only", means, mend)
    if not health.root:
        means = "labs are rootless: in a user namespace, and private"
        yield Finding("rights", "root", "note", "not root", means, "sudo netorch doctor   looks as root does")
        return
    lacking = set(rights.ESSENTIAL) - health.capabilities
    yield _essential(
        "rights",
        "root",
        not lacking,
        f"root without CAP_{' and CAP_'.join(sorted(lacking))}" if lacking else "root",
        "no namespace, mount or link can be made",
        mend,
    )
    if "SYS_RESOURCE" not in health.capabilities:
        means = "ulimits above the present hard limits are clamped to them"
        yield Finding("rights", "SYS_RESOURCE", "note", "root without CAP_SYS_RESOURCE", means)


def _kernel(health: Health) -> Iterator[Finding]:
    from netns_orch.graph.host import HOW_TO

    yield _essential(
        "kernel",
        "release",
        _version(health.release) >= _OLDEST,
        f"Linux {health.release}",
        "network namespaces can't be told apart",
        "Linux 5.14 or later is needed",
    )
    if not health.probed:
        yield Finding("kernel", "features", "note", "not tried out", health.not_probed, "sudo netorch doctor")
        return
    if "kernel.seccomp.actions_avail" not in health.sysctls:
        means = "containers can only be built with `seccomp: unconfined`"
        yield Finding("kernel", "seccomp", "missing", "no", means, "a kernel with CONFIG_SECCOMP_FILTER")
    for name, use in _LINKS.items():
        there = name in health.features
        how_to = HOW_TO.get("nft" if name == "nft-nat" and "nft" not in health.programs else name)
        mend = "" if there else how_to or f"the kernel module {name} is missing (`modprobe {name}`)"
        yield Finding(
            "kernel",
            name,
            "ok" if there else "missing",
            "yes" if there else "no",
            "" if there else f"no {use}",
            mend,
            essential=name in _ESSENTIAL,
        )


def _version(release: str) -> tuple[int, ...]:
    numbers = []
    for part in release.split(".")[:2]:
        digits = part.partition("-")[0]
        if not digits.isdecimal():
            break
        numbers.append(int(digits))
    return tuple(numbers)


def _cgroups(health: Health) -> Iterator[Finding]:
    from netns_orch.graph.host import HOW_TO

    versions = health.cgroup_versions
    mode = {frozenset({1, 2}): "hybrid", frozenset({1}): "v1", frozenset({2}): "v2"}.get(versions, "none")
    found, mend = mode + (", below systemd" if health.systemd else ""), "mount -t cgroup2 none /sys/fs/cgroup"
    read_only = health.root and mode != "none" and not health.cgroup_writable
    if read_only:
        found += ", which can't be written to"
        mend = rights.how_to_get(health.container, health.devcontainer)
    works = mode != "none" and not read_only
    yield _essential("cgroups", "mode", works, found, "no process can be put into a cgroup", mend)
    if works:
        yield _limits(health)
    for name, keys in _CONTROLLERS.items():
        version = health.cgroups.get(name)
        usable = version is not None and (
            health.cgroup_writable if health.root else version == 2 and name in health.delegated
        )
        mend = ""
        if version is None:
            mend = f"cgroup_no_v1={name} or cgroup_enable={name} on the kernel's command line"
        elif read_only:
            mend = rights.how_to_get(health.container, health.devcontainer)
        elif not usable:
            mend = HOW_TO["delegation"].format(controller=name)
        yield Finding(
            "cgroups",
            f"cgroup:{name}",
            "ok" if usable else "missing",
            f"v{version}" if version else "no",
            "" if usable else f"no limits by {keys}",
            mend,
        )
        if name == "memory" and version == 1:
            mend = "boot with systemd.unified_cgroup_hierarchy=1"
            yield Finding("cgroups", "cgroup:memory:v2", "missing", "no", "no `memory_high`", mend)


def _limits(health: Health) -> Finding:
    """Which way limits have here; without one an ordinary user's labs have no limits, and no ``pause``."""
    ways = {
        "own": "in the cgroup that netorch runs in",
        "scope": "in a scope that systemd's user manager makes for each lab with `resources`",
        "top": "beside systemd's slices, at the top of each hierarchy",
    }
    if health.limits_by != "none":
        return Finding("cgroups", "limits", "ok", ways[health.limits_by])
    means = "labs have no `resources`, and no `pause`; root's have"
    return Finding("cgroups", "limits", "note", "no cgroup is this user's", means, health.no_limits)


def _programs(health: Health) -> Iterator[Finding]:
    for name, program, package, use in _PROGRAMS:
        path = health.programs.get(program)
        works = path is not None and (name in health.features or name == "iperf3" or not health.probed)
        found = path or "not installed"
        mend = "" if works else f"apt-get install {package}"
        if path and not works:
            found, mend = (
                f"{path}, but it fails here",
                "the kernel lacks nf_tables, or the tables of iptables",
            )
        state: State = "ok" if works else "note" if name == "iperf3" else "missing"
        means = use if name == "iperf3" else f"no {use}"
        yield Finding("programs", name, state, found, "" if works else means, mend)


def _rootless(health: Health) -> Iterator[Finding]:
    """What labs of ordinary users need; a lack of it is no lack for root."""
    if health.user.refused:
        means = "no lab of yours can be built here; those of root can: sudo netorch ..."
        yield _essential("rootless", "user-namespaces", False, health.user.refused, means, health.user.mend)
    elif health.root:
        yield from _forbidden(health.sysctls)
    yield from _ids(health)
    yield from _uplink(health)
    if health.user.directory:
        yield from _directory(health.user.directory, health.user.directory_refused)


def _forbidden(sysctls: Mapping[str, str]) -> Iterator[Finding]:
    """Root can't try out what others may; a security module may make exceptions."""
    if sysctls.get("kernel.unprivileged_userns_clone") == "0":
        yield _no_rootless("kernel.unprivileged_userns_clone is 0", "kernel.unprivileged_userns_clone=1")
    if sysctls.get("kernel.apparmor_restrict_unprivileged_userns") == "1":
        setting = "kernel.apparmor_restrict_unprivileged_userns"
        found = f"AppArmor leaves those of ordinary users without rights ({setting} is 1)"
        yield _no_rootless(found, f"{setting}=0")
    if sysctls.get("user.max_user_namespaces") == "0":
        yield _no_rootless("user.max_user_namespaces is 0", "user.max_user_namespaces=15000")


def _no_rootless(found: str, setting: str) -> Finding:
    means = "an ordinary user can have no user namespace, and so no lab; root can"
    return Finding("rootless", "user-namespaces", "note", found, means, f"sysctl -w {setting}")


def _ids(health: Health) -> Iterator[Finding]:
    name, means = "subordinate-ids", "containers of ordinary users have one user id each"
    if not {"newuidmap", "newgidmap"} <= health.programs.keys():
        mend = "apt-get install uidmap"
        yield Finding("rootless", name, "note", "no newuidmap", means, mend)
    elif weak := " ".join(health.user.weak_helpers):
        found = f"{weak}: not set-user-ID, and without capabilities; or these don't count here"
        mend = f"as root, chmod u+s {weak}   where no_new_privs and a mount with nosuid are not the reason"
        yield Finding("rootless", name, "note", found, means, mend)
    elif not health.user.ids:
        words = "--add-subuids 100000-165535 --add-subgids 100000-165535"
        mend = f"as root, usermod {words} {health.user.name}   with ids that nobody has"
        yield Finding("rootless", name, "note", "none in /etc/subuid and /etc/subgid", means, mend)
    else:
        yield Finding("rootless", name, "ok", "newuidmap")


def _uplink(health: Health) -> Iterator[Finding]:
    program = next((name for name in ("pasta", "slirp4netns") if name in health.programs), "")
    found, mend = program, ""
    if not program:
        found, mend = "neither pasta nor slirp4netns", "apt-get install passt"
    elif health.user.no_tun:
        found, mend = f"{program}, but not /dev/net/tun, which it opens", health.user.no_tun
    means = "labs of ordinary users are closed: no packet leaves them" if mend else ""
    yield Finding("rootless", "uplink", "note" if mend else "ok", found, means, mend)
    if not health.user.pings:
        yield Finding(
            "rootless",
            "pings",
            "note",
            "net.ipv4.ping_group_range has none of your groups",
            "no ping leaves a lab of yours; TCP and UDP do",
            "as root, sysctl -w net.ipv4.ping_group_range='0 2147483647'",
        )


def _directory(path: str, refused: str) -> Iterator[Finding]:
    mend = "set XDG_RUNTIME_DIR to a directory of yours that nobody else can write to"
    if refused:
        yield _essential("rootless", "directory", False, refused, "no lab of yours can be kept there", mend)
        return
    in_tmp = path.startswith("/tmp/")
    means = "neither XDG_RUNTIME_DIR nor /run/user has a directory of yours (after su, in cron): a session"
    means += " that has one does not see the labs of this one"
    mend = "log in by ssh or machinectl shell; or loginctl enable-linger"
    state: State = "note" if in_tmp else "ok"
    yield Finding("rootless", "directory", state, path, means if in_tmp else "", mend if in_tmp else "")
