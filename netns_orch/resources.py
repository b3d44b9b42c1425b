"""The vocabulary: one name and one type for each thing that netorch makes in the kernel.

Desired state, observed state, plan and journal all speak it.  A resource is a value: two that are equal
need no change.  ``key`` says which object it is, the other fields how it should be; ``where`` (not compared)
is its place in the lab file, so that whatever fails can be pointed at.

Must not: import anything but ``errors``; do I/O.  Everything here is made of strings, numbers, tuples and
plain dicts, so that it goes through JSON unchanged (``to_json``, ``from_json``).
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, ClassVar, NamedTuple, TypedDict

from netns_orch.errors import Where
from netns_orch.records import dataclass, field, fields

HOST = "host"
"""The node that stands for the namespace that holds the bridges."""
PLACE = "@host"
"""The container of a lab with ``netns: private`` whose network namespace stands in the host's place."""
UPLINK = "uplink"
"""The interface in PLACE that leads to the host."""
ROUTE_PROTOCOL = 110
"""rtm_protocol and FRA_PROTOCOL of what netorch adds (a number rt_protos does not know)."""
GROUP_FIRST, GROUP_LAST = 0x6E74_0000, 0x6E74_FFFF
"""Link groups (IFLA_GROUP) of netorch: one random number of this range for each lab."""


_OF_INTERFACE = re.compile(r"net\.ipv[46]\.(?:conf|neigh)\.([^.]+)\.[^.]+")


class MountSpec(TypedDict):
    """One mount inside the container."""

    kind: str
    """bind | volume | tmpfs | device"""
    source: str
    target: str
    options: str
    read_only: bool


class RootSpec(TypedDict):
    """The root: ``host``, or layers, lowest first."""

    kind: str
    layers: list[str]
    """Ids of ``Layer`` resources; in an order to the kernel's rooms the directories they stand for."""
    read_only: bool


class ContainerSpec(TypedDict):
    """All that fixes a container's namespaces, root and confinement; a change of it makes it anew."""

    hostname: str
    root: RootSpec
    lab_directory: str | None
    """Bound read-only at its own path, with the host's root."""
    files: dict[str, str]
    """Written into the root: absolute path to content (mode 0644; 0755 where it begins with ``#!``)."""
    mounts: list[MountSpec]
    user_namespace: bool
    time_offsets: dict[str, float]
    """``boottime`` and ``monotonic``, seconds; empty: no time namespace."""
    net: str | None
    """The container whose network namespace it joins; None: its own."""
    capabilities: list[str]
    """Bounding = permitted = effective, without CAP_, sorted."""
    seccomp: str
    """default | unconfined | path"""
    nesting: bool
    privileged: bool
    init: bool
    """False: the command itself is PID 1, and who keeps its exit code stands outside."""
    ulimits: dict[str, list[int]]


class ProcessSpec(TypedDict):
    """What PID 1 runs; a change of it needs no new container."""

    argv: list[str] | None
    environment: dict[str, str]
    working_dir: str | None
    user: str | None
    init: bool
    restart: str
    stop_signal: str
    stop_grace_period: float
    ready: dict[str, Any] | None
    """One of tcp, exec (argv), log, file; and timeout in seconds."""
    depends_on: list[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Resource:
    """One object in the kernel, as it should be or as it is."""

    KIND: ClassVar[str] = ""
    where: Where | None = field(default=None, compare=False, repr=False)

    @property
    def key(self) -> str:
        """Which object this is: unique in a lab."""
        raise NotImplementedError

    @property
    def node(self) -> str:
        """The container it lives in, or ``host``."""
        return HOST


def digest(value: Any) -> str:
    """A short digest of a JSON value: what is compared where the kernel can't show the value itself."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]


# -- on the host ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class HostTable(Resource):
    """The lab's own nft table on the host: NAT, isolation between bridges, ``host.iptables``.

    ``forward`` is real bridge name to nat | route | none; ``rules`` are iptables rules of ``host:``,
    (family 4 or 6, text) with the real bridge names put in.
    """

    KIND = "table"
    forward: tuple[tuple[str, str], ...] = ()
    router: bool = False
    rules: tuple[tuple[int, str], ...] = ()
    switches: tuple[str, ...] = ()
    """Real names of the bridges without an address: br_netfilter may send their frames here too."""
    damage: tuple[str, ...] = ()
    """Observed only: what of the kernel's is not as it was loaded, in words."""
    rule_places: tuple[Where | None, ...] = field(default=(), compare=False, repr=False)

    @property
    def key(self) -> str:
        return "table"


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedPort(Resource):
    """A port of the host that leads into a container: DNAT in the lab's own table (nft(8)).

    ``address`` is the host's, None: any of this family.  ``to_address`` and ``to_port`` are the container's,
    or on the host of a private lab those of the namespace that stands in the host's place.
    """

    KIND = "port"
    protocol: str
    """tcp | udp"""
    family: int
    """4 or 6"""
    address: str | None = None
    port: int
    container: str
    to_address: str
    to_port: int
    near: tuple[str, ...] = ()
    """Subnets from which the container would answer past the host: what comes from there is masqueraded."""
    uplink: str | None = None
    """In a private lab's place, where ``address`` is another namespace's: the interface it comes in by ..."""
    transit: int | None = None
    """... and the port that it comes in at."""
    intact: bool = True
    """Observed only: False where the kernel's rules are not what was loaded."""

    @property
    def key(self) -> str:
        return f"port {published(self.address, self.family)}:{self.port}/{self.protocol}"


def published(address: str | None, family: int) -> str:
    """The host's side of a published port, as in a URL: ``0.0.0.0`` and ``[::]`` are any address."""
    if family == 4:
        return address or "0.0.0.0"
    return f"[{address or '::'}]"


@dataclass(frozen=True, slots=True, kw_only=True)
class HostSysctl(Resource):
    """A sysctl of the host namespace, given back when the last lab that needs it goes."""

    KIND = "host-sysctl"
    name: str
    """With dots; dots inside an interface's name are slashes, as sysctl(8) prints them."""
    value: str

    @property
    def key(self) -> str:
        return f"host-sysctl {self.name}"

    @property
    def interface(self) -> str | None:
        """The interface that it is a setting of, if it is one's."""
        match = _OF_INTERFACE.fullmatch(self.name)
        return match[1].replace("/", ".") if match else None


def route_localnet(ifname: str, where: Where | None = None) -> HostSysctl:
    """Leave for packets of 127.0.0.0/8 on an interface (ip-sysctl.rst), which published ports need."""
    real = ifname.replace(".", "/")
    return HostSysctl(name=f"net.ipv4.conf.{real}.route_localnet", value="1", where=where)


@dataclass(frozen=True, slots=True, kw_only=True)
class Bridge(Resource):
    """A bridge in the host namespace."""

    KIND = "bridge"
    name: str
    """In the lab file."""
    ifname: str
    mac: str
    mtu: int = 1500
    stp: bool = False
    vlan_filtering: bool = False
    multicast_snooping: bool = False
    link_local: bool = False
    up: bool = True
    marked: bool = True
    """False: the kernel's has lost its mark, and is known by name, MAC and group alone."""

    @property
    def key(self) -> str:
        return f"bridge {self.name}"


@dataclass(frozen=True, slots=True, kw_only=True)
class HostPort(Resource):
    """An interface of the host's own, plugged into a bridge (``host:IF``)."""

    KIND = "host-port"
    bridge: str
    ifname: str

    @property
    def key(self) -> str:
        return f"host-port {self.ifname}"


# -- containers ----------------------------------------------------------------------------------


def shares_of_weight(weight: int) -> int:
    """v1 cpu.shares (2 to 262144) of a v2 weight (1 to 10000): the runtimes' curve, 100 is 1024."""
    from math import log10, sqrt

    level = (sqrt(125**2 + 4 * 612 * (log10(weight) + 7 / 34)) - 125) / 2
    return min(262_144, max(2, round(2**level)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Cgroup(Resource):
    """The cgroup of a container, with its limits (None: none written)."""

    KIND = "cgroup"
    container: str
    cpus: float | None = None
    cpu_weight: int | None = None
    cpuset: str | None = None
    memory: int | None = None
    memory_high: int | None = None
    swap: int | None = None
    pids: int | None = None
    io: tuple[tuple[str, int | None, int | None, int | None, int | None], ...] = ()
    """device, read_bps, write_bps, read_iops, write_iops"""
    privileged_devices: bool = False
    """True: no device filter."""
    devices: tuple[tuple[str, str], ...] = ()
    """Device nodes allowed beyond the default ones: path on the host, permissions (rwm)."""
    intact: bool = True
    """Observed only: False where a killed run left it half made."""

    @property
    def key(self) -> str:
        return f"cgroup {self.container}"

    @property
    def node(self) -> str:
        return self.container


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer(Resource):
    """A directory or tar file that roots are made of: unpacked once, shared by all that use it.

    ``stamp`` changes with the source, so that a source that was replaced is another layer.
    """

    KIND = "layer"
    id: str
    """Its name in the lab's directory: a digest of the rest."""
    source: str
    stamp: str
    lowest: bool = False
    """Only the lowest of roots, or of an image unpacked: a directory is then not searched for whiteouts."""

    @property
    def key(self) -> str:
        return f"layer {self.id}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Container(Resource):
    """Namespaces, root, confinement and PID 1 of one container; compared by the digest of ``spec``."""

    KIND = "container"
    name: str
    digest: str
    spec: ContainerSpec | None = field(default=None, compare=False, repr=False)
    """None where it was only observed."""

    @property
    def key(self) -> str:
        return f"container {self.name}"

    @property
    def node(self) -> str:
        return self.name


@dataclass(frozen=True, slots=True, kw_only=True)
class HostsFile(Resource):
    """The generated files that change in place: /etc/hosts and /etc/resolv.conf of a container."""

    KIND = "hosts-file"
    container: str
    hosts: str
    resolv_conf: str | None = None
    """None: the host's real upstream servers."""
    own: bool = False
    """Whether it has a file of its own, and never the same as other containers: one that is privileged could
    write to it, and with a user namespace it could not be given another one."""

    @property
    def key(self) -> str:
        return f"hosts-file {self.container}"

    @property
    def node(self) -> str:
        return self.container


@dataclass(frozen=True, slots=True, kw_only=True)
class Setup(Resource):
    """``setup``: commands run in order, confined, after wiring and before the command.

    Run once for each life of the container; ``lines`` are the places of the commands.
    """

    KIND = "setup"
    container: str
    commands: tuple[tuple[str, ...], ...]
    environment: tuple[tuple[str, str], ...] = ()
    working_dir: str | None = None
    lines: tuple[Where | None, ...] = field(default=(), compare=False, repr=False)

    @property
    def key(self) -> str:
        return f"setup {self.container}"

    @property
    def node(self) -> str:
        return self.container


@dataclass(frozen=True, slots=True, kw_only=True)
class Process(Resource):
    """The container's command under PID 1; compared by the digest of ``spec``."""

    KIND = "process"
    container: str
    digest: str
    spec: ProcessSpec | None = field(default=None, compare=False, repr=False)

    @property
    def key(self) -> str:
        return f"process {self.container}"

    @property
    def node(self) -> str:
        return self.container


@dataclass(frozen=True, slots=True, kw_only=True)
class NetnsName(Resource):
    """``/run/netns/<lab>.<container>``, so that ``ip netns exec`` works."""

    KIND = "netns-name"
    container: str
    name: str

    @property
    def key(self) -> str:
        return f"netns-name {self.container}"

    @property
    def node(self) -> str:
        return self.container


# -- network -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class CableEnd:
    """One end of a cable.  At the host, ``bridge`` is the lab file's bridge that it is a port of."""

    node: str
    ifname: str
    mac: str
    bridge: str | None = None
    isolated: bool = False
    access: int | None = None
    trunk: tuple[int, ...] = ()
    native: int | None = None
    link_local: bool = False
    hairpin: bool = False
    """The bridge may send a frame out where it came in: br_netfilter's DNAT back to the sender needs that."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cable(Resource):
    """A veth pair.  ``a`` is a container's end, or a bridge's where both are bridges'."""

    KIND = "cable"
    a: CableEnd
    b: CableEnd
    mtu: int = 1500
    up: bool = True
    """False: unplugged; the container's end (of a straight cable: the far one) has no carrier."""
    offload: bool = True
    marked: bool = True
    """As a bridge's; of its ends on the host."""

    @property
    def key(self) -> str:
        return f"cable {self.a.node}:{self.a.ifname} {self.b.node}:{self.b.ifname}"

    @property
    def node(self) -> str:
        return self.a.node


@dataclass(frozen=True, slots=True, kw_only=True)
class VirtualInterface(Resource):
    """vlan, vxlan, bond, vrf, bridge, dummy or macvlan inside a container."""

    KIND = "interface"
    container: str
    ifname: str
    kind: str
    parent: str | None = None
    id: int | None = None
    members: tuple[str, ...] = ()
    mode: str | None = None
    table: int | None = None
    local: str | None = None
    remote: str | None = None
    group: str | None = None
    port: int | None = None
    mac: str | None = None
    mtu: int | None = None
    link_local: bool = False

    @property
    def key(self) -> str:
        return f"interface {self.container} {self.ifname}"

    @property
    def node(self) -> str:
        return self.container


@dataclass(frozen=True, slots=True, kw_only=True)
class Qdisc(Resource):
    """Impairment on leaving an interface.  Times in seconds, percentages 0 to 100, rate in bit/s."""

    KIND = "qdisc"
    owner: str
    ifname: str
    """For a bridge's end the real name on the host, with ``owner`` host."""
    delay: float | None = None
    jitter: float | None = None
    loss: float | None = None
    duplicate: float | None = None
    corrupt: float | None = None
    reorder: float | None = None
    rate: int | None = None
    limit: int | None = None

    @property
    def key(self) -> str:
        return f"qdisc {self.owner}:{self.ifname}"

    @property
    def node(self) -> str:
        return self.owner


@dataclass(frozen=True, slots=True, kw_only=True)
class Address(Resource):
    """An address on an interface; ``cidr`` in canonical form (``10.0.0.2/24``, ``fd00::1/64``)."""

    KIND = "address"
    owner: str
    ifname: str
    """For a bridge its real name on the host, with ``owner`` host."""
    cidr: str

    @property
    def key(self) -> str:
        return f"address {self.owner}:{self.ifname} {self.cidr}"

    @property
    def node(self) -> str:
        return self.owner


@dataclass(frozen=True, slots=True, kw_only=True)
class Hop:
    """One next hop of a route; ``dev`` is always known."""

    via: str | None = None
    dev: str | None = None
    weight: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Route(Resource):
    """A route as the kernel lists it, with netorch's protocol number."""

    KIND = "route"
    owner: str
    family: int
    """4 or 6"""
    dst: str
    """A canonical prefix; default is 0.0.0.0/0 or ::/0."""
    table: int = 254
    metric: int = 0
    """IPv6 without one: 1024, the kernel's own default."""
    type: str = "unicast"
    src: str | None = None
    mtu: int | None = None
    scope: str | None = None
    """None: global with a gateway, link without (what ip-route(8) chooses)."""
    onlink: bool = False
    hops: tuple[Hop, ...] = ()

    @property
    def key(self) -> str:
        return f"route {self.owner} {self.dst} table {self.table} metric {self.metric}"

    @property
    def node(self) -> str:
        return self.owner


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule(Resource):
    """A policy rule (ip-rule(8)), with netorch's protocol number."""

    KIND = "rule"
    owner: str
    family: int
    priority: int
    source: str | None = None
    to: str | None = None
    iif: str | None = None
    oif: str | None = None
    fwmark: int | None = None
    fwmask: int | None = None
    tos: int = 0
    action: str = "lookup"
    table: int = 0
    """0 where the action is not lookup."""
    invert: bool = False

    @property
    def key(self) -> str:
        return f"rule {self.owner} {self.family} priority {self.priority}"

    @property
    def node(self) -> str:
        return self.owner


@dataclass(frozen=True, slots=True, kw_only=True)
class Sysctl(Resource):
    """A sysctl of a container's own namespaces, beyond the fixed base line."""

    KIND = "sysctl"
    container: str
    name: str
    value: str

    @property
    def key(self) -> str:
        return f"sysctl {self.container} {self.name}"

    @property
    def node(self) -> str:
        return self.container


@dataclass(frozen=True, slots=True, kw_only=True)
class Firewall(Resource):
    """iptables, ip6tables or nftables inside a container; what was loaded is compared.

    ``program`` is iptables | ip6tables | nftables; ``rules`` as typed, or one text.
    """

    KIND = "firewall"
    container: str
    program: str
    rules: tuple[str, ...] = ()
    text: str | None = None
    intact: bool = True
    """Observed only: False where the kernel's rules are no longer what this loaded."""
    places: tuple[Where | None, ...] = field(default=(), compare=False, repr=False)

    @property
    def key(self) -> str:
        return f"firewall {self.container} {self.program}"

    @property
    def node(self) -> str:
        return self.container


KINDS: dict[str, type[Resource]] = {
    kind.KIND: kind
    for kind in (
        HostTable,
        PublishedPort,
        HostSysctl,
        Bridge,
        HostPort,
        Cgroup,
        Layer,
        Container,
        HostsFile,
        Setup,
        Process,
        NetnsName,
        Cable,
        VirtualInterface,
        Qdisc,
        Address,
        Route,
        Rule,
        Sysctl,
        Firewall,
    )
}


class State(Mapping[str, Resource]):
    """Resources by key, in order: what should be, or what is.

    ``extra`` holds observed objects that are not netorch's own (a daemon's routes, a ``wg0``): they are
    shown, never changed.
    """

    def __init__(self, resources: Iterable[Resource] = (), extra: Iterable[Resource] = ()) -> None:
        self._by_key = {resource.key: resource for resource in resources}
        self.extra = {resource.key: resource for resource in extra}

    def __getitem__(self, key: str) -> Resource:
        return self._by_key[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._by_key)

    def __len__(self) -> int:
        return len(self._by_key)

    def of(self, kind: type[Any]) -> list[Any]:
        """All resources of one type, in order."""
        return [resource for resource in self._by_key.values() if type(resource) is kind]


def to_json(resource: Resource) -> dict[str, Any]:
    """The resource as a JSON object; ``kind_of`` says which type it is, what is None is left out."""
    return json.loads(dumps([resource]))[0]  # type: ignore[no-any-return]


def dumps(resources: Iterable[Resource]) -> str:
    """Many resources as JSON text: one pass of the C encoder, since a large lab has ten thousand.

    A hosts file, which names every container, is written down once; who has the same refers to the first.
    """
    first: dict[str, str] = {}

    def fields_of(value: Any) -> dict[str, Any]:
        out = _fields(value)
        if isinstance(value, HostsFile) and first.setdefault(value.hosts, value.container) != value.container:
            out["like"] = first[out.pop("hosts")]
        return out

    return json.dumps(list(resources), default=fields_of, separators=(",", ":"))


def loads(values: Iterable[Mapping[str, Any]]) -> list[Resource]:
    """The inverse of ``dumps``, from the parsed list; a ValueError where a kind is not known."""
    found: list[Resource] = []
    hosts: dict[str, str] = {}
    for value in values:
        if "like" in value:
            value = {**value, "hosts": hosts[value["like"]]}
            del value["like"]
        found.append(from_json(value))
        if value["kind_of"] == HostsFile.KIND:
            hosts[value["container"]] = value["hosts"]
    return found


def from_json(value: Mapping[str, Any]) -> Resource:
    """The inverse of ``to_json``; a ValueError where the kind is not known."""
    kind = KINDS.get(value["kind_of"])
    if kind is None:
        raise ValueError(f"unknown kind of resource {value['kind_of']!r}")
    return kind(**{k: _rebuild(k, v) for k, v in value.items() if k != "kind_of"})


def plain(value: Any) -> Any:
    """A field's value as JSON would have it."""
    return json.loads(json.dumps(value, default=_fields))


_FIELD_NAMES: dict[type[Any], tuple[str, ...]] = {
    kind: tuple(f.name for f in fields(kind)) for kind in (*KINDS.values(), CableEnd, Hop)
}


def _fields(value: Any) -> dict[str, Any]:
    names = _FIELD_NAMES.get(type(value))
    if names is None:
        raise TypeError(f"{type(value).__name__} is not a resource")
    out = {name: item for name in names if (item := getattr(value, name)) is not None}
    if isinstance(value, Resource):
        out["kind_of"] = value.KIND
    return out


def _rebuild(name: str, value: Any) -> Any:
    if name == "where":
        return Where(*value)
    if name in ("a", "b"):
        return CableEnd(**{k: _tuples(v) for k, v in value.items()})
    if name == "hops":
        return tuple(Hop(**hop) for hop in value)
    if name in ("places", "lines", "rule_places"):
        return tuple(Where(*item) if item else None for item in value)
    return value if name == "spec" else _tuples(value)


def _tuples(value: Any) -> Any:
    return tuple(_tuples(item) for item in value) if isinstance(value, list) else value


class HostPath(NamedTuple):
    """What lies at a path of the host that the lab file names."""

    path: str
    kind: str
    """missing | directory | file | device | other"""
    stamp: str = ""
    """Another one where the directory or file was replaced."""


class PortHolder(NamedTuple):
    """Who has a port of the host already."""

    protocol: str
    family: int
    address: str | None
    """None: any address of the family."""
    port: int
    who: str
    """``nginx (pid 12) listens on 0.0.0.0:80``"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Capacity:
    """How much the host has of what every container takes; None: it does not say."""

    running: int = 0
    """Processes and threads that there are."""
    processes: Mapping[str, int] = field(default_factory=dict)
    """The sysctls that limit those, and their values."""
    namespaces: Mapping[str, int] = field(default_factory=dict)
    """The sysctls that limit the namespaces of each kind, and their values."""
    memory: int | None = None
    """Bytes that can be had without swapping (MemAvailable of proc_meminfo(5))."""
    neighbours: int | None = None
    """Entries of the kernel's neighbour table (arp(7), gc_thresh3)."""


@dataclass(frozen=True)
class HostFacts:
    """What the namespace that will hold the bridges looks like before ``up``, and what this kernel can do."""

    interfaces: tuple[str, ...] = ()
    """Names and altnames taken, those of this very lab left out."""
    subnets: tuple[tuple[str, str], ...] = ()
    """On-link subnets: (interface, canonical prefix), those of this very lab left out."""
    routes: tuple[tuple[str, str], ...] = ()
    """Other routes: (interface, canonical prefix)."""
    features: frozenset[str] = frozenset()
    """What is there: netem, tbf, vlan, vxlan, bond, vrf, dummy, macvlan, bridge, veth, wireguard,
    vlan-filter, ipv6, nft, nft-nat, iptables, ip6tables, overlay, zstd, user-namespace, time-namespace,
    cgroup:CONTROLLER, and cgroup:CONTROLLER:v2 where that is on version 2."""
    addresses: tuple[str, ...] = ()
    """The host's own, where the lab publishes ports; those of this very lab left out."""
    port_holders: tuple[PortHolder, ...] = ()
    """Who has the ports that the lab wants to publish, those that it publishes already left out."""
    bridge_netfilter: bool = False
    """Whether br_netfilter hands the frames of bridges to the host's firewall, where that matters."""
    nft: bool = True
    """Whether the program is installed; without it there is no table for bridges without an address."""
    ipv6: bool = True
    """Whether this kernel does IPv6 at all."""
    upstream_dns: tuple[str, ...] = ()
    paths: tuple[HostPath, ...] = ()
    """Of the paths that were asked about."""
    rootless: bool = False
    """Whether an ordinary user asks: nothing of this is the host's own."""
    undelegated: str | None = None
    """For him: why no cgroup at all is his to divide, in words."""
    capacity: Capacity = Capacity()
    containers: int = 0
    """How many of the lab's own are up."""
    closed: str | None = None
    """For him: what is to be done before a program can lead out of his labs, and ports into them."""
