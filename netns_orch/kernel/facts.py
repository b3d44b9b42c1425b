"""What this host is like before a lab comes up, and what its kernel can do.

Owns: probing for features, the host's real upstream DNS servers, ``HostFacts``.  Must not: change anything
on the host, or probe for what nobody asked about: a probe may make the kernel load a module.

Links and queueing disciplines are tried out in a throw-away network namespace.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Collection, Iterable, Mapping
from ipaddress import ip_address

from netns_orch.errors import KernelError
from netns_orch.kernel import capacity, netfilter, outside, realm
from netns_orch.resources import HostFacts, HostPath

LINK_KINDS = frozenset({"bridge", "veth", "vlan", "vxlan", "bond", "vrf", "dummy", "macvlan", "wireguard"})
QDISC_KINDS = frozenset({"netem", "tbf"})
OTHERS = frozenset(
    {
        "vlan-filter",
        "ipv6",
        "nft",
        "nft-nat",
        "iptables",
        "ip6tables",
        "overlay",
        "skopeo",
        "zstd",
        "user-namespace",
        "time-namespace",
    }
)
CGROUP = "cgroup:"
FEATURES = LINK_KINDS | QDISC_KINDS | OTHERS
"""All that can be asked for, beside ``cgroup:CONTROLLER`` and ``cgroup:CONTROLLER:v2``."""

RESOLV_CONF = "/etc/resolv.conf"
RESOLVED = "/run/systemd/resolve/resolv.conf"
"""Where systemd-resolved writes the servers that its stub asks (systemd-resolved.service(8))."""
_RTM_NEWLINK, _IFLA_IFNAME, _IFLA_LINKINFO, _IFLA_INFO_KIND = 16, 3, 18, 1
_CREATE = 0x600
_LOOPBACK_INDEX = 1
_SYS_FSOPEN, _FSOPEN_CLOEXEC = 430, 1


def host_facts(
    lab: str | None,
    id: str,
    netns_fd: int | None = None,
    *,
    want: Iterable[str] = (),
    ports: Collection[tuple[str, int]] = (),
    containers: int = 0,
) -> HostFacts:
    """The host without ``lab``'s own links; of the features in ``want`` those that are there.

    ``ports`` (protocol, number) are those to be published: who has them already is looked up.
    ``containers`` of the lab are up.
    """
    from netns_orch.kernel import portholders
    from netns_orch.kernel.hostlinks import host_facts_links
    from netns_orch.kernel.nets import Nets

    around = realm.inside()
    rootless = around is not None
    network = host_facts_links(lab=lab, id=id, nets=Nets({}, netns_fd))
    return HostFacts(
        interfaces=network.interfaces,
        subnets=network.subnets,
        routes=network.routes,
        addresses=network.addresses if ports else (),
        port_holders=portholders.port_holders(ports, lab, id) if ports else (),
        bridge_netfilter=bool(ports) and portholders.bridge_netfilter(),
        features=features(frozenset(want)),
        nft=netfilter.find_program("nft") is not None,
        ipv6=_has_ipv6(),
        upstream_dns=upstream_dns(),
        capacity=capacity.capacity(),
        containers=containers,
        rootless=rootless,
        undelegated=None if around is None else around.get("undelegated"),
        closed=outside.lack() if rootless and outside.program() is None else None,
    )


# -- features ------------------------------------------------------------------------------------


def features(want: frozenset[str]) -> frozenset[str]:
    """Those of ``want`` that this kernel and host have; nothing else is probed."""
    found = {name for name in want & OTHERS if _OTHER_PROBES[name]()}
    links, qdiscs = want & LINK_KINDS, want & QDISC_KINDS
    if links or qdiscs:
        found |= netfilter.in_scratch_netns(_probe_links, links, qdiscs)
    if any(name.startswith(CGROUP) for name in want):
        found |= want & _controllers()
    return frozenset(found)


def _probe_links(links: Iterable[str], qdiscs: Iterable[str]) -> set[str]:
    """A kind that is not there has an error of its own; any other one says that it wants to know more."""
    from netns_orch.kernel.linkinfo import replace_qdisc
    from netns_orch.kernel.netlink import Request, attribute, open_channel, text

    def new_link(number: int, kind: str) -> Request:
        info = attribute(_IFLA_LINKINFO, text(_IFLA_INFO_KIND, kind))
        return Request(_RTM_NEWLINK, _CREATE, bytes(16) + text(_IFLA_IFNAME, f"probe{number}") + info)

    asked = [(kind, new_link(n, kind), errno.EOPNOTSUPP) for n, kind in enumerate(links)]
    asked += [(kind, replace_qdisc(_LOOPBACK_INDEX, kind, b""), errno.ENOENT) for kind in qdiscs]
    try:
        with open_channel() as channel:
            failures = channel.send([request for _, request, _ in asked]).failures
    except OSError as error:
        raise KernelError(
            f"can't ask the kernel for its features: {error.strerror}", errno=error.errno
        ) from error
    missing = {asked[f.position][0] for f in failures if f.errno == asked[f.position][2]}
    return {kind for kind, _, _ in asked} - missing


def _has_vlan_filter() -> bool:
    return netfilter.in_scratch_netns(_probe_vlan_filter)


def _probe_vlan_filter() -> bool:
    """A bridge's VLAN filter is an option of the kernel's build, not a module: only making one tells."""
    from netns_orch.kernel.messages import new_bridge
    from netns_orch.kernel.netlink import open_channel
    from netns_orch.resources import Bridge

    probe = Bridge(name="probe", ifname="probe", mac="02:00:00:00:00:01", vlan_filtering=True)
    with open_channel() as channel:
        failures = channel.send([new_bridge(probe, 0)]).failures
    return all(failure.errno != errno.EOPNOTSUPP for failure in failures)


def _has_ipv6() -> bool:
    return os.path.isdir("/proc/sys/net/ipv6")


def _has_nft() -> bool:
    if netfilter.find_program("nft") is None:
        return False
    return netfilter.in_scratch_netns(netfilter.run, "nft", "list", "tables").code == 0


def _has_nft_nat() -> bool:
    """Whether nft can load what published ports are made of."""
    from netns_orch.kernel import publish

    text = publish.sample()
    return _has_nft() and netfilter.in_scratch_netns(lambda: _loads(text))


def _loads(text: str) -> bool:
    return netfilter.run("nft", "-f", "-", stdin=text).code == 0


def _has_iptables(family: int) -> Callable[[], bool]:
    def probe() -> bool:
        name = netfilter.program(family, "-restore")
        if netfilter.find_program(name) is None:
            return False
        empty = netfilter.restore_text((), ["filter"])
        return netfilter.in_scratch_netns(lambda: netfilter.run(name, stdin=empty)).code == 0

    return probe


def _has_overlay() -> bool:
    """fsopen(2) makes no mount, but lets the kernel load the file system."""
    import ctypes

    with open("/proc/filesystems", encoding="ascii") as file:
        if "nodev\toverlay\n" in file.readlines():
            return True
    libc = ctypes.CDLL(None, use_errno=True)
    fd = libc.syscall(_SYS_FSOPEN, b"overlay", _FSOPEN_CLOEXEC)
    if fd < 0:
        return False
    os.close(fd)
    return True


def _has_zstd() -> bool:
    from netns_orch.kernel import unpack

    return unpack.can_zstd()


def _has_user_namespaces() -> bool:
    try:
        with open("/proc/sys/user/max_user_namespaces", encoding="ascii") as file:
            return int(file.read()) > 0
    except FileNotFoundError:
        return False


def _has_time_namespaces() -> bool:
    return os.path.exists("/proc/self/ns/time")


_OTHER_PROBES: Mapping[str, Callable[[], bool]] = {
    "vlan-filter": _has_vlan_filter,
    "ipv6": _has_ipv6,
    "nft": _has_nft,
    "nft-nat": _has_nft_nat,
    "iptables": _has_iptables(4),
    "ip6tables": _has_iptables(6),
    "overlay": _has_overlay,
    "skopeo": lambda: netfilter.find_program("skopeo") is not None,
    "zstd": _has_zstd,
    "user-namespace": _has_user_namespaces,
    "time-namespace": _has_time_namespaces,
}


def _controllers() -> set[str]:
    from netns_orch.kernel.cgroups import Hierarchies

    version_of = Hierarchies.detect().version_of
    return {f"{CGROUP}{name}{on}" for name, version in version_of.items() for on in ("", f":v{version}")}


# -- paths ---------------------------------------------------------------------------------------


def host_paths(wanted: Iterable[str]) -> tuple[HostPath, ...]:
    """What lies at these paths; links are followed."""
    return tuple(_host_path(path) for path in wanted)


def _host_path(path: str) -> HostPath:
    try:
        found = os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return HostPath(path, "missing")
    except OSError as error:
        raise KernelError(f"{path}: {error.strerror}", errno=error.errno) from error
    place = f"{found.st_dev}:{found.st_ino}"
    if stat.S_ISDIR(found.st_mode):
        return HostPath(path, "directory", place)
    if stat.S_ISREG(found.st_mode):
        return HostPath(path, "file", f"{place}:{found.st_size}:{found.st_mtime_ns}")
    device = stat.S_ISCHR(found.st_mode) or stat.S_ISBLK(found.st_mode)
    return HostPath(path, "device" if device else "other")


# -- DNS -----------------------------------------------------------------------------------------


def upstream_dns(resolv_conf: str = RESOLV_CONF, resolved: str = RESOLVED) -> tuple[str, ...]:
    """The host's name servers that a container can reach, too: not a stub on the host's loopback.

    Servers with a zone (``fe80::1%eth0``) mean something on the host only, and are left out.
    """
    return _servers(resolv_conf) or _servers(resolved)


def _servers(path: str) -> tuple[str, ...]:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            lines = [line.split() for line in file]
    except OSError:
        return ()
    named = [words[1] for words in lines if len(words) > 1 and words[0] == "nameserver"]
    return tuple(dict.fromkeys(server for server in named if _is_reachable(server)))


def _is_reachable(server: str) -> bool:
    try:
        address = ip_address(server)
    except ValueError:
        return False
    return not (address.is_loopback or address.is_link_local or address.is_unspecified)
