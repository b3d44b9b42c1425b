"""Does the lab fit this host: clashes with what is there, and features that are not.

Owns: ``check_host`` and ``features_needed``.
Must not: look at the host itself; ``kernel`` gathers the facts.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from itertools import chain

from netns_orch.errors import KernelError, MissingFeature, NetorchError, NotRootless, Where
from netns_orch.graph import publish, room, roots
from netns_orch.graph.addresses import Net, parse_net
from netns_orch.graph.names import Problems, file_order, nearest, place
from netns_orch.graph.wiring import WiredBridge, Wiring
from netns_orch.labfile import model
from netns_orch.records import replace
from netns_orch.resources import HostFacts

_MODULES = {
    "netem": "sch_netem",
    "tbf": "sch_tbf",
    "vlan": "8021q",
    "vxlan": "vxlan",
    "bond": "bonding",
    "vrf": "vrf",
    "dummy": "dummy",
    "macvlan": "macvlan",
    "bridge": "bridge",
    "veth": "veth",
    "overlay": "overlay",
}
_WHOLE_KERNEL = "Debian: linux-image-amd64 or linux-image-arm64"
HOW_TO = {
    **{
        feature: f"the kernel module {module} is missing (`modprobe {module}`; {_WHOLE_KERNEL})"
        for feature, module in _MODULES.items()
    },
    "vlan-filter": f"its bridges filter no VLANs (CONFIG_BRIDGE_VLAN_FILTERING; {_WHOLE_KERNEL})",
    "ipv6": "this kernel runs without IPv6 (ipv6.disable=1 on its command line?)",
    "nft": "install nftables (`apt-get install nftables`)",
    "nft-nat": "the kernel lacks nft_nat or nft_fib_inet (`modprobe -a nft_nat nft_fib_inet`)",
    "iptables": "install iptables (`apt-get install iptables`)",
    "ip6tables": "install ip6tables (`apt-get install iptables`)",
    "skopeo": "install skopeo (`apt-get install skopeo`)",
    "zstd": "install zstd (`apt-get install zstd`)",
    "user-namespace": "sysctl user.max_user_namespaces is 0, or the kernel is built without CONFIG_USER_NS",
    "host:IF": "an ordinary user has no rights over the host's interfaces: leave the link out",
    "delegation": "systemd hands {controller} on to users where user@.service says so: put the lines "
    "`[Service]` and `Delegate=cpu cpuset io memory pids` into "
    "/etc/systemd/system/user@.service.d/delegate.conf, and log in anew; netorch itself asks systemd for a "
    "cgroup with them",
    "time-namespace": "the kernel is built without CONFIG_TIME_NS (Linux 5.6 and later have it)",
}
"""What to do about a feature that is missing."""

_MEMORY_V2 = "cgroup:memory:v2"
CONTROLLER_OF = {
    "cpus": "cpu",
    "cpu_weight": "cpu",
    "cpuset": "cpuset",
    "memory": "memory",
    "memory_high": "memory",
    "swap": "memory",
    "pids": "pids",
    "io": "io",
}

Need = tuple[str, str, Where | None]
"""A feature, the key that needs it, its place."""


def features_needed(wiring: Wiring) -> frozenset[str]:
    """What the lab asks of the kernel and the host, in the words of ``HostFacts.features``."""
    return frozenset(feature for feature, _, _ in _needs(wiring))


def check_host(wiring: Wiring, facts: HostFacts) -> tuple[list[NetorchError], list[NetorchError]]:
    """Errors and warnings of this lab on this host."""
    problems = Problems()
    if wiring.topology.netns == "private":  # its bridges are in a namespace where nothing else is
        facts = replace(facts, interfaces=(), subnets=(), routes=())
    for bridge in wiring.bridges.values():
        if bridge.ifname in facts.interfaces:
            problems.errors.append(_taken(bridge))
        _clashes(bridge, facts, problems)
    for cable in wiring.cables:
        if cable.b.kind == "host" and facts.rootless:
            what = f"the host's interface {cable.b.ifname} can't be plugged into a rootless lab"
            problems.errors.append(NotRootless(what, where=cable.b.where, hint=HOW_TO["host:IF"]))
        elif cable.b.kind == "host" and cable.b.ifname not in facts.interfaces:
            name = cable.b.ifname
            hint = nearest(name, (known for known in facts.interfaces if known != "lo"))
            problems.error(f"the host has no interface {name}", cable.b.where, hint)
    publish.check_host(wiring, facts, problems)
    roots.check_host(wiring, facts.paths, problems)
    room.check_room(wiring, facts.capacity, facts.containers, problems)
    errors = [*problems.errors, *_missing(wiring, facts)]
    return file_order(errors), file_order(problems.warnings)


def _taken(bridge: WiredBridge) -> KernelError:
    """Not a fault of the file: the same file is right on a host without that interface."""
    return KernelError(
        f"the host has an interface {bridge.ifname} already, the name of bridge {bridge.name}",
        errno=errno.EEXIST,
        where=place(bridge.spec, "ifname"),
        hint="choose another with `ifname`, or bring the lab up in a namespace of its own with --private",
    )


def _clashes(bridge: WiredBridge, facts: HostFacts, problems: Problems) -> None:
    where = place(bridge.spec, "addresses")
    for net in dict.fromkeys(addr.net for addr in bridge.addresses if not addr.is_link_local):
        own = f"the subnet {net} of bridge {bridge.name}"
        clash = next(_overlapping(net, facts.subnets), None)
        if clash:
            problems.error(
                f"{own} clashes with {clash[1]}, which is on link of the host's {clash[0]}",
                where,
                "choose another subnet, or bring the lab up in a namespace of its own with --private",
            )
            continue
        for dev, prefix in _overlapping(net, facts.routes):
            wider = parse_net(prefix).covers(net)
            reached = "is inside" if wider else "covers"
            problems.warn(
                f"{own} {reached} {prefix}, which the host reaches by {dev}",
                where,
                f"while the lab is up, the host reaches {net if wider else prefix} in the lab"
                if wider
                else f"the host's own route to {prefix} hides that part of the lab",
            )


def _overlapping(net: Net, nets: tuple[tuple[str, str], ...]) -> Iterator[tuple[str, str]]:
    for dev, text in nets:
        other = parse_net(text)
        if other.prefix and net.overlaps(other):
            yield dev, text


# -- features ------------------------------------------------------------------------------------


def _missing(wiring: Wiring, facts: HostFacts) -> Iterator[NetorchError]:
    """One error for each feature, at the first place that needs it."""
    seen: set[str] = set()
    for feature, key, where in _needs(wiring):
        if feature in facts.features:
            continue
        if facts.rootless and feature.startswith("cgroup:") and feature != _MEMORY_V2:
            yield _not_delegated(feature.removeprefix("cgroup:"), key, where, facts.undelegated)
            continue
        if feature in seen or (feature == _MEMORY_V2 and "cgroup:memory" not in facts.features):
            continue
        seen.add(feature)
        if feature == _MEMORY_V2:
            yield MissingFeature(
                f"{key} is there on cgroup v2 only, and this host's memory controller is on v1",
                where=where,
                hint="use `memory`, or boot with systemd.unified_cgroup_hierarchy=1",
            )
            continue
        hint = HOW_TO.get(feature)
        if feature.startswith("cgroup:"):
            controller = feature.removeprefix("cgroup:")
            hint = f"no cgroup hierarchy of this host offers us the controller {controller}"
        yield MissingFeature(f"this host lacks {feature}, which {key} needs", where=where, hint=hint)


def _not_delegated(controller: str, key: str, where: Where | None, why: str | None) -> NotRootless:
    """``why``: why systemd gave this user no cgroup at all; None: it did, but without that controller."""
    return NotRootless(
        f"{key} can't be had: the cgroup controller {controller} is not delegated to this user",
        where=where,
        hint=HOW_TO["delegation"].format(controller=controller) + (f"\nnow: {why}" if why else ""),
    )


def _needs(wiring: Wiring) -> Iterator[Need]:
    for bridge in wiring.bridges.values():
        yield "bridge", f"bridge {bridge.name}", bridge.where
        if bridge.addresses:
            yield "nft", f"bridge {bridge.name} with an address", bridge.where
    for cable in wiring.cables:
        if cable.b.kind != "host":
            yield "veth", "a link", cable.link.where
        for end in cable.ends:
            yield from _impairment(end.spec)
            if end.spec.vlan is not None:
                yield "vlan-filter", "a VLAN on a bridge's port", place(end.spec, "vlan", "trunk", "native")
    host = wiring.topology.host
    for rules, key in ((host.iptables, "iptables"), (host.ip6tables, "ip6tables")):
        if rules:
            yield "nft", f"host.{key}", rules.where or host.where
            yield key, f"host.{key}", rules.where or host.where
    for container in wiring.topology.containers.values():
        yield from _of_container(container)
    for port in wiring.published:
        yield "nft-nat", "`ports`", port.spec.where
    for iface in chain(wiring.bridges.values(), *wiring.ends.values(), *wiring.virtual.values()):
        if any(addr.family == 6 for addr in iface.addresses):
            yield "ipv6", "an IPv6 address", iface.where


def _impairment(end: model.Endpoint) -> Iterator[Need]:
    said = [name for name in model.Impairment.__slots__ if getattr(end.impairment, name) is not None]
    if not said:
        return
    feature = "tbf" if "rate" in said and {"rate", "limit"}.issuperset(said) else "netem"
    yield feature, f"`{said[0]}`", place(end, *said)


def _of_container(container: model.Container) -> Iterator[Need]:
    where = container.where
    yield "overlay", f"the root of {container.name}", where
    for path in container.rootfs.layers:
        if path.endswith((".zst", ".tzst")):
            yield "zstd", path, container.rootfs.where or where
    if container.image and not container.rootfs.layers:
        yield "skopeo", f"the image {container.image}", container.mark("image")
    if container.namespaces.user or container.nesting:
        yield "user-namespace", "a user namespace", place(container, "nesting", "namespaces")
    if container.namespaces.time_boottime is not None or container.namespaces.time_monotonic is not None:
        yield "time-namespace", "`time`", place(container, "namespaces")
    for spec in container.interfaces:
        yield spec.kind, f"the interface {spec.name}", spec.where
    for program in ("iptables", "ip6tables"):
        if rules := getattr(container, program):
            yield program, f"`{program}`", rules.where or where
    if container.nftables:
        yield "nft", "`nftables`", place(container, "nftables")
    for key, controller in CONTROLLER_OF.items():
        if getattr(container.resources, key) not in (None, []):
            yield f"cgroup:{controller}", f"`{key}`", place(container.resources, key) or where
    if container.resources.memory_high is not None:
        yield _MEMORY_V2, "`memory_high`", place(container.resources, "memory_high") or where
