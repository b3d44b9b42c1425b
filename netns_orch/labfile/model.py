"""The topology: what a lab file says, checked and expanded, before any address is chosen.

Owns: the types that ``labfile.load`` returns and that code may also build by hand.
Must not: read files, look at the host, or choose anything (addresses, names, MACs): that is ``graph``.

Everything is expanded here: ``defaults`` are merged, ``scale`` has become h1 ... h100, ``mesh`` links are
single links, ``{name}`` and ``{n}`` are replaced, ``${VAR}`` is substituted.  ``marks`` maps a key of the
object to its place in the file, so that a later error can point at it.
Sizes are bytes, rates bits (or, for block I/O, bytes) a second, times seconds.
"""

from __future__ import annotations

from collections.abc import Mapping
from ipaddress import IPv4Interface, IPv4Network, IPv6Interface, IPv6Network
from typing import Any, Literal

from netns_orch.errors import Where
from netns_orch.records import dataclass, field

Interface = IPv4Interface | IPv6Interface
Network = IPv4Network | IPv6Network
HOST = "host"
"""The name that stands, in links and checks, for the namespace that holds the bridges."""


@dataclass(slots=True, kw_only=True)
class Marked:
    """Something that stands at a place in the file."""

    where: Where | None = field(default=None, compare=False, repr=False)
    marks: dict[str, Where] = field(default_factory=dict, compare=False, repr=False)

    def mark(self, key: str) -> Where | None:
        """The place of ``key``, else of the object itself."""
        return self.marks.get(key, self.where)


@dataclass(slots=True, kw_only=True)
class Bridge(Marked):
    """A bridge in the host's namespace; with an address it is docker0-like, without one a switch."""

    name: str
    addresses: list[Interface] = field(default_factory=list)
    subnets: list[Network] = field(default_factory=list)
    """From ``subnet``; those of ``addresses`` are not repeated here."""
    gateway: str | None = None
    """The container that takes the first address of each ``subnets`` and is the others' default route."""
    forward: Literal["nat", "route", "none"] | None = None
    """None: the default (nat with an address, none without)."""
    mtu: int | None = None
    stp: bool = False
    isolated: bool = False
    multicast_snooping: bool = False
    ifname: str | None = None
    link_local: bool | None = None


@dataclass(slots=True, kw_only=True)
class Impairment:
    """What ``tc`` does to packets that leave an end; None is: not asked for.  Percentages are 0 to 100."""

    delay: float | None = None
    jitter: float | None = None
    loss: float | None = None
    duplicate: float | None = None
    corrupt: float | None = None
    reorder: float | None = None
    rate: int | None = None
    """bit/s"""
    limit: int | None = None
    """packets"""


@dataclass(slots=True, kw_only=True)
class PortVlan:
    """VLANs of a bridge port: an access port has ``access``, a trunk ``trunk`` and perhaps ``native``."""

    access: int | None = None
    trunk: list[int] = field(default_factory=list)
    native: int | None = None


@dataclass(slots=True, kw_only=True)
class Endpoint(Marked):
    """One end of a link: a container, a bridge, or an interface of the host's own (node ``host``)."""

    node: str
    ifname: str | None = None
    """None: the next free ethN of the container.  For node ``host`` the host's interface."""
    addresses: list[Interface] = field(default_factory=list)
    no_address: bool = False
    """``address: none`` on this end."""
    mac: str | None = None
    impairment: Impairment = field(default_factory=Impairment)
    """The link's own, overridden by what stands at this end."""
    vlan: PortVlan | None = None
    """At a bridge's end: what the port carries."""


@dataclass(slots=True, kw_only=True)
class Link(Marked):
    """A cable between two ends."""

    a: Endpoint
    b: Endpoint
    mtu: int | None = None
    subnet: Network | None = None
    no_address: bool = False
    offload: bool = True
    up: bool = True
    link_local: bool | None = None


@dataclass(slots=True, kw_only=True)
class Nexthop:
    """One way of a multipath route."""

    via: str | None = None
    dev: str | None = None
    weight: int = 1


@dataclass(slots=True, kw_only=True)
class Route(Marked):
    """A route, in iproute2's words; ``auto`` stands for shortest paths to every subnet of the lab."""

    to: str = "default"
    """A prefix, or ``default`` (of the family of ``via``; IPv4 without one)."""
    type: Literal["unicast", "blackhole", "unreachable", "prohibit", "throw", "local", "auto"] = "unicast"
    via: str | None = None
    dev: str | None = None
    src: str | None = None
    metric: int | None = None
    table: str | None = None
    """A number, ``main``, ``local`` or ``default``."""
    scope: str | None = None
    mtu: int | None = None
    onlink: bool = False
    nexthops: list[Nexthop] = field(default_factory=list)


@dataclass(slots=True, kw_only=True)
class Rule(Marked):
    """A policy rule, in iproute2's words (ip-rule(8))."""

    family: Literal[4, 6] = 4
    source: str | None = None
    """from"""
    to: str | None = None
    iif: str | None = None
    oif: str | None = None
    fwmark: str | None = None
    """``0x1`` or ``0x1/0xff``"""
    tos: int | None = None
    table: str | None = None
    priority: int | None = None
    action: Literal["lookup", "blackhole", "unreachable", "prohibit"] = "lookup"
    invert: bool = False


@dataclass(slots=True, kw_only=True)
class VirtualInterface(Marked):
    """An interface made inside a container, in netplan's words."""

    name: str
    kind: Literal["vlan", "vxlan", "bond", "vrf", "bridge", "dummy", "macvlan"]
    parent: str | None = None
    """vlan, vxlan and macvlan: the interface below."""
    id: int | None = None
    """VLAN or VXLAN network identifier."""
    members: list[str] = field(default_factory=list)
    """bond, vrf and bridge: the interfaces in it."""
    mode: str | None = None
    """bond: active-backup, 802.3ad ...; macvlan: bridge, private, vepa, passthru."""
    table: int | None = None
    """vrf: its routing table."""
    local: str | None = None
    remote: str | None = None
    group: str | None = None
    port: int | None = None
    """vxlan"""
    addresses: list[Interface] = field(default_factory=list)
    mac: str | None = None
    mtu: int | None = None


@dataclass(slots=True, kw_only=True)
class FirewallRule(Marked):
    """One rule as typed after ``iptables``."""

    text: str


@dataclass(slots=True, kw_only=True)
class Firewall(Marked):
    """iptables or ip6tables: single rules, or one text as iptables-save prints it."""

    rules: list[FirewallRule] = field(default_factory=list)
    text: str | None = None

    def __bool__(self) -> bool:
        return bool(self.rules or self.text)


@dataclass(slots=True, kw_only=True)
class Command(Marked):
    """What to run: argv.  A string in the file has become ``["/bin/sh", "-c", text]``."""

    argv: list[str]
    shell: bool = False


@dataclass(slots=True, kw_only=True)
class Ready(Marked):
    """How a container shows that it is ready; one of tcp, exec, log, file."""

    tcp: int | None = None
    exec: Command | None = None
    log: str | None = None
    file: str | None = None
    timeout: float = 30.0


@dataclass(slots=True, kw_only=True)
class RootFs(Marked):
    """The root: ``host``, or layers, lowest first (a single directory or tar file is one layer).

    Those of an image are empty until ``images`` has looked for it.
    """

    kind: Literal["host", "layers", "image"] = "host"
    layers: list[str] = field(default_factory=list)
    """Absolute paths (relative ones in the file are relative to it)."""


@dataclass(slots=True, kw_only=True)
class Volume(Marked):
    """A bind mount (``source`` an absolute path) or a named volume (``source`` a name)."""

    source: str
    target: str
    named: bool = False
    read_only: bool = False


@dataclass(slots=True, kw_only=True)
class Tmpfs(Marked):
    """A tmpfs inside; ``options`` as mount(8)'s, e.g. ``size=16m``."""

    target: str
    options: str = ""


@dataclass(slots=True, kw_only=True)
class Device(Marked):
    """A device node of the host, given to the container."""

    source: str
    target: str
    permissions: str = "rwm"


@dataclass(slots=True, kw_only=True)
class Namespaces(Marked):
    """What differs from the usual set of namespaces."""

    user: bool = False
    time_boottime: float | None = None
    time_monotonic: float | None = None
    """Clock offsets in seconds; None: no time namespace."""
    net: str | None = None
    """The container whose network this one shares (``container:X``)."""


@dataclass(slots=True, kw_only=True)
class IoLimit(Marked):
    """Limits on one block device: bytes and operations a second."""

    device: str
    read_bps: int | None = None
    write_bps: int | None = None
    read_iops: int | None = None
    write_iops: int | None = None


@dataclass(slots=True, kw_only=True)
class Resources(Marked):
    """cgroup limits; None is: no limit written."""

    cpus: float | None = None
    cpu_weight: int | None = None
    cpuset: str | None = None
    memory: int | None = None
    memory_high: int | None = None
    swap: int | None = None
    pids: int | None = None
    io: list[IoLimit] = field(default_factory=list)


@dataclass(slots=True, kw_only=True)
class Port(Marked):
    """A port published on the host."""

    host_address: str | None = None
    host_port: int
    port: int
    protocol: Literal["tcp", "udp"] = "tcp"


@dataclass(slots=True, kw_only=True)
class Container(Marked):
    """A container; every field has the default of DESIGN section 2."""

    name: str
    n: int | None = None
    """Its number, where it comes from ``scale``."""
    # process
    command: Command | None = None
    environment: dict[str, str] = field(default_factory=dict)
    """``env_file`` is read into it; what stands in ``environment`` wins."""
    working_dir: str | None = None
    user: str | None = None
    init: bool = True
    restart: Literal["no", "on-failure", "always"] = "no"
    setup: list[Command] = field(default_factory=list)
    ready: Ready | None = None
    depends_on: list[str] = field(default_factory=list)
    stop_signal: str = "TERM"
    """Without SIG; or a number."""
    stop_grace_period: float = 10.0
    # what it can see
    hostname: str | None = None
    """None: the name."""
    rootfs: RootFs = field(default_factory=RootFs)
    image: str | None = None
    """As ``imagename`` reads it; a path in it is absolute."""
    files: dict[str, str] = field(default_factory=dict)
    volumes: list[Volume] = field(default_factory=list)
    tmpfs: list[Tmpfs] = field(default_factory=list)
    devices: list[Device] = field(default_factory=list)
    read_only: bool = False
    namespaces: Namespaces = field(default_factory=Namespaces)
    # what it may do
    cap_add: list[str] = field(default_factory=list)
    """Without CAP_, upper case; ``ALL`` allowed."""
    cap_drop: list[str] = field(default_factory=list)
    seccomp: str = "default"
    """default, unconfined, or the absolute path of a profile."""
    nesting: bool = False
    privileged: bool = False
    ulimits: dict[str, tuple[int, int]] = field(default_factory=dict)
    """soft, hard; -1 is unlimited"""
    sysctls: dict[str, str] = field(default_factory=dict)
    """With dots, as in the file."""
    # what it can use
    resources: Resources = field(default_factory=Resources)
    # network
    router: bool = False
    loopback: list[Interface] = field(default_factory=list)
    default_route: bool = True
    interfaces: list[VirtualInterface] = field(default_factory=list)
    routes: list[Route] = field(default_factory=list)
    rules: list[Rule] = field(default_factory=list)
    iptables: Firewall = field(default_factory=Firewall)
    ip6tables: Firewall = field(default_factory=Firewall)
    nftables: str | None = None
    dns: list[str] = field(default_factory=list)
    dns_search: list[str] = field(default_factory=list)
    extra_hosts: dict[str, str] = field(default_factory=dict)
    ports: list[Port] = field(default_factory=list)
    labels: dict[str, str] = field(default_factory=dict)
    link_local: bool | None = None


@dataclass(slots=True, kw_only=True)
class Host(Marked):
    """The namespace that holds the bridges."""

    router: bool = False
    routes: list[Route] = field(default_factory=list)
    iptables: Firewall = field(default_factory=Firewall)
    ip6tables: Firewall = field(default_factory=Firewall)
    sysctls: dict[str, str] = field(default_factory=dict)


@dataclass(slots=True, kw_only=True)
class Check(Marked):
    """One entry of ``checks``; ``options`` is the validated mapping under its kind."""

    kind: Literal["reach", "ping", "tcp", "udp", "http", "dns", "route", "throughput", "exec"]
    options: Mapping[str, Any]
    within: float | None = None
    name: str | None = None
    tags: list[str] = field(default_factory=list)


@dataclass(slots=True, kw_only=True)
class Step(Marked):
    """One step of ``scenario``: a command line, a wait, a check, or ``converges``."""

    kind: Literal["command", "wait", "check", "converges"]
    argv: list[str] = field(default_factory=list)
    seconds: float | None = None
    """wait: how long; converges: within."""
    checks: list[Check] = field(default_factory=list)


@dataclass(slots=True, kw_only=True)
class Addressing(Marked):
    """Pools for links and routers without an address of their own."""

    p2p: Network | None = None
    loopback: Network | None = None


@dataclass(slots=True, kw_only=True)
class Topology(Marked):
    """A whole lab."""

    name: str
    file: str | None = None
    """The absolute path of the lab file; None where code built the topology."""
    netns: Literal["host", "private"] = "host"
    addressing: Addressing = field(default_factory=Addressing)
    bridges: dict[str, Bridge] = field(default_factory=dict)
    containers: dict[str, Container] = field(default_factory=dict)
    groups: dict[str, list[str]] = field(default_factory=dict)
    """A scaled name to the names it stands for, in order: ``h`` to h1 ... h100."""
    links: list[Link] = field(default_factory=list)
    host: Host = field(default_factory=Host)
    checks: list[Check] = field(default_factory=list)
    scenario: list[Step] = field(default_factory=list)
    link_local: bool | None = None
    untrusted: bool = False
    """Read as a stranger's: what reaches the host was refused, and the rest is confined."""

    @property
    def has_limits(self) -> bool:
        """Whether any container has ``resources``."""
        return any(container.resources != Resources() for container in self.containers.values())

    def members(self, name: str) -> list[str]:
        """The containers that ``name`` stands for: itself, or those of a scaled group."""
        return self.groups.get(name, [name])
