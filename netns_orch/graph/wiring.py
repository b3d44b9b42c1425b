"""The wiring: a topology with every name, MAC and address chosen.

Owns: the types that ``graph.wire`` returns, and the look-ups on them (what a name means, hosts files).
Must not: choose anything.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain
from typing import TYPE_CHECKING, Literal

from netns_orch.errors import NetorchError, Where
from netns_orch.graph.addresses import Addr, Net
from netns_orch.labfile import model
from netns_orch.labfile.model import HOST
from netns_orch.records import dataclass, field
from netns_orch.resources import Route, Rule

if TYPE_CHECKING:
    from netns_orch.graph.publish import Published

Segment = tuple[str, int]
"""A layer 2 segment: a bridge (of those that are joined, the first) or a cable, and a VLAN."""
SharedNet = tuple[Segment, Net]

HOSTS_HEAD = """\
127.0.0.1 localhost
::1 localhost ip6-localhost ip6-loopback
ff02::1 ip6-allnodes
ff02::2 ip6-allrouters
"""


@dataclass(slots=True, kw_only=True)
class Iface:
    """An interface of a container or of the host."""

    node: str
    """A container, ``host``, or (the port of a bridge) a bridge."""
    ifname: str
    """Empty for the port of a bridge: its name needs the lab's id, and is chosen by ``resolve``."""
    addresses: list[Addr] = field(default_factory=list)
    segment: Segment = ("", 0)
    link_local: bool = False
    where: Where | None = None


@dataclass(slots=True, kw_only=True)
class End(Iface):
    """One end of a cable."""

    kind: Literal["container", "bridge", "host"]
    spec: model.Endpoint
    mac: str = ""
    bridge: str | None = None
    """The bridge that this end is a port of, or that its cable goes to."""


@dataclass(slots=True, kw_only=True)
class Virtual(Iface):
    """An interface made inside a container."""

    spec: model.VirtualInterface


@dataclass(slots=True, kw_only=True)
class Cable:
    """A link of the file; ``a`` is the container's end where the other is a bridge's.

    With an interface of the host's own, that is ``b``, and there is no veth pair.
    """

    index: int
    """Its place in ``links``, from 0."""
    a: End
    b: End
    link: model.Link
    mtu: int = 1500

    @property
    def ends(self) -> tuple[End, End]:
        """Both ends."""
        return self.a, self.b

    @property
    def straight(self) -> bool:
        """From container to container."""
        return self.b.kind == "container"

    @property
    def trunk(self) -> bool:
        """From bridge to bridge."""
        return self.a.kind == "bridge" and self.b.kind == "bridge"


@dataclass(slots=True, kw_only=True)
class WiredBridge(Iface):
    """A bridge: ``ifname`` and ``addresses`` are those on the host."""

    name: str
    spec: model.Bridge
    mac: str
    mtu: int
    forward: Literal["nat", "route", "none"]
    subnets: list[Net] = field(default_factory=list)
    """Where its containers' addresses come from: of its own addresses, then of ``subnet``."""
    ports: list[Cable] = field(default_factory=list)
    gateway: End | None = None
    vlan_filtering: bool = False


@dataclass(slots=True, kw_only=True)
class Wiring:
    """A topology with nothing left to choose but what needs the lab's id."""

    topology: model.Topology
    cables: list[Cable] = field(default_factory=list)
    bridges: dict[str, WiredBridge] = field(default_factory=dict)
    ends: dict[str, list[End]] = field(default_factory=dict)
    """Cable ends of each container, in file order; none of a pod's members."""
    virtual: dict[str, list[Virtual]] = field(default_factory=dict)
    """Made inside, each after what it stands on."""
    loopbacks: dict[str, list[Addr]] = field(default_factory=dict)
    pods: dict[str, str] = field(default_factory=dict)
    """The member of a pod to the container whose network it shares."""
    routes: dict[str, list[Route]] = field(default_factory=dict)
    """Of each container and of ``host``: as the kernel will list them."""
    rules: dict[str, list[Rule]] = field(default_factory=dict)
    published: list[Published] = field(default_factory=list)
    """Ports of the host that lead into containers, in file order, each family for itself."""
    incomplete: set[str] = field(default_factory=set)
    """Containers with a link that is wrong: what would follow from it is not reported too."""
    warnings: list[NetorchError] = field(default_factory=list)
    _names: _Names | None = field(default=None, repr=False, compare=False)

    def interfaces(self, node: str) -> Iterator[Iface]:
        """The interfaces of a container in file order, then those made inside; the bridges of ``host``."""
        if node == HOST:
            return iter(self.bridges.values())
        network = self.pods.get(node, node)
        return chain(self.ends.get(network, ()), self.virtual.get(network, ()))

    def bridge_at(self, end: End) -> WiredBridge | None:
        """The bridge that the cable of this end goes to."""
        return self.bridges.get(end.bridge) if end.bridge else None

    def addresses(self, node: str) -> Iterator[Addr]:
        """All addresses of a container (loopbacks last) or of the host on the lab's bridges."""
        network = self.pods.get(node, node)
        yield from chain.from_iterable(iface.addresses for iface in self.interfaces(network))
        yield from self.loopbacks.get(network, ())

    def address_of(self, name: str, *, from_: str | None = None, family: int | None = None) -> str | None:
        """What the name of a container (or ``host``) means: its address in a subnet that it shares with
        ``from_``, else its first in file order; None where it has none (of that family)."""
        near = set(self.shared_nets(from_)) if from_ else set()
        first: Addr | None = None
        for segment, addr in self._placed(name):
            if family not in (None, addr.family):
                continue
            if segment is not None and (segment, addr.net) in near:
                return addr.ip
            first = first or addr
        return first.ip if first else None

    def hosts(self, container: str) -> str:
        """The content of a container's hosts file."""
        if self._names is None:
            self._names = _Names(self)
        return self._names.hosts(container)

    def shared_nets(self, node: str) -> list[SharedNet]:
        """The subnets that a node is in, each with its layer 2 segment."""
        return [(iface.segment, addr.net) for iface in self.interfaces(node) for addr in iface.addresses]

    def _placed(self, node: str) -> Iterator[tuple[Segment | None, Addr]]:
        for iface in self.interfaces(node):
            for addr in iface.addresses:
                if not addr.is_link_local:
                    yield iface.segment, addr
        for addr in self.loopbacks.get(self.pods.get(node, node), ()):
            yield None, addr


class _Names:
    """Hosts files.  Containers in the same subnets have the same: each text is made once."""

    def __init__(self, wiring: Wiring) -> None:
        self._wiring = wiring
        self._lines: list[str] = []
        self._members: dict[SharedNet, list[tuple[int, int, str]]] = {}
        """Who is in a subnet: place of the line, which of its addresses, the line."""
        self._texts: dict[tuple[SharedNet, ...], str] = {}
        self._whole: dict[tuple[str, int], str] = {}
        """By head and common text, so that equal files are one string."""
        for name in wiring.topology.containers:
            self._add(name)

    def hosts(self, name: str) -> str:
        spec = self._wiring.topology.containers[name]
        extra = "".join(f"{address} {host}\n" for host, address in spec.extra_hosts.items())
        shared = tuple(self._wiring.shared_nets(name))
        if shared not in self._texts:
            self._texts[shared] = self._text(shared)
        text = self._texts[shared]
        head = HOSTS_HEAD + extra + self._own(name, spec.hostname)
        if (head, id(text)) not in self._whole:
            self._whole[head, id(text)] = head + text
        return self._whole[head, id(text)]

    def _add(self, name: str) -> None:
        places: dict[int, int] = {}
        for order, (segment, addr) in enumerate(self._wiring._placed(name)):
            line = f"{addr.ip} {name}\n"
            if addr.family not in places:
                places[addr.family] = len(self._lines)
                self._lines.append(line)
            if segment is not None:
                entry = (places[addr.family], order, line)
                self._members.setdefault((segment, addr.net), []).append(entry)

    def _text(self, shared: Sequence[SharedNet]) -> str:
        best: dict[int, tuple[int, str]] = {}
        for key in shared:
            for place, order, line in self._members.get(key, ()):
                if place not in best or order < best[place][0]:
                    best[place] = (order, line)
        lines = list(self._lines)
        for place, (_, line) in best.items():
            lines[place] = line
        return "".join(lines)

    def _own(self, name: str, hostname: str | None) -> str:
        """Lines for a name that the common text lacks: a hostname of its own, or no address at all."""
        own = [addr.ip for _, addr in self._wiring._placed(name)]
        if not own:
            names = name if hostname in (None, name) else f"{hostname} {name}"
            return f"127.0.1.1 {names}\n"
        return "" if hostname in (None, name) else f"{own[0]} {hostname}\n"
