"""Links read back: the lab's bridges, ports and cables, put together from their two ends.

Owns: reading the links of a namespace, telling by marks, groups and peers which cable an interface is an end
of, and how a cable and a bridge look as resources.
Must not: read anything but links; change anything.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress

from netns_orch.kernel import messages
from netns_orch.kernel.messages import VLAN_PVID, VLAN_UNTAGGED, Link
from netns_orch.kernel.netlink import Channel, parse
from netns_orch.kernel.nets import Mark, read_mark
from netns_orch.kernel.wiring import port_vlans
from netns_orch.records import dataclass, field, replace
from netns_orch.resources import (
    GROUP_FIRST,
    GROUP_LAST,
    HOST,
    Bridge,
    Cable,
    CableEnd,
    HostPort,
    Resource,
)

GROUPS = range(GROUP_FIRST, GROUP_LAST + 1)
ETHTOOL_GTXCSUM = 0x16


def read_links(channel: Channel) -> list[Link]:
    """All links of the namespace."""
    return [messages.decode_link(message.body) for message in channel.dump(messages.dump_links())]


@dataclass(slots=True)
class NodeLinks:
    """The links of a container's namespace."""

    node: str
    links: list[Link]
    names: dict[int, str]

    @classmethod
    def read(cls, channel: Channel, node: str) -> NodeLinks:
        """Read them."""
        links = read_links(channel)
        return cls(node, links, messages.names_by_index(links))


@dataclass(slots=True)
class HostLinks:
    """The links of the host's namespace, and which of them are the lab's."""

    links: list[Link]
    names: dict[int, str]
    marked: list[tuple[Mark, Link]]
    vlans: dict[int, dict[int, int]] = field(default_factory=dict)
    """By index, VLANs of the ports of bridges that filter."""
    unmarked: frozenset[int] = frozenset()
    """Indexes of those that have lost their mark; they stand in ``marked`` all the same."""

    @classmethod
    def read(
        cls,
        channel: Channel,
        lab: str,
        id: str,
        applied: Mapping[str, Resource] | None = None,
        group: int = 0,
    ) -> HostLinks:
        """Read them.  One that lost its mark is ours by name, MAC and ``group``, as they were ``applied``."""
        links = read_links(channel)
        marked = [
            (mark, link) for link in links for mark in marks_of(link) if (mark.lab, mark.id) == (lab, id)
        ]
        known = dict(_marks_applied(applied or {}, lab, id)) if group in GROUPS else {}
        there = {mark[2:] for mark, _ in marked}
        lost = [
            (mark, link)
            for link in links
            if link.group == group and (mark := known.get((link.ifname, link.mac))) and not marks_of(link)
            if mark[2:] not in there
        ]
        unmarked = frozenset(link.ifindex for _, link in lost)
        host = cls(links, messages.names_by_index(links), marked + lost, unmarked=unmarked)
        if any(bridge.vlan_filtering for bridge in host.bridges()):
            dump = channel.dump(messages.dump_port_vlans())
            host.vlans = dict(messages.decode_port_vlans(message.body) for message in dump)
        return host

    def own_names(self) -> dict[int, str]:
        """The lab's own links by index (not the host's interfaces that are plugged in)."""
        return {link.ifindex: link.ifname for mark, link in self.marked if mark.what != "p"}

    def bridges(self) -> list[Bridge]:
        """The lab's bridges."""
        return [
            replace(_bridge(mark.name, link), marked=link.ifindex not in self.unmarked)
            for mark, link in self.marked
            if mark.what == "b"
        ]

    def ports(self) -> list[HostPort]:
        """The host's own interfaces that are plugged in."""
        return [
            HostPort(bridge=self.bridge_name(link.master) or "", ifname=link.ifname)
            for mark, link in self.marked
            if mark.what == "p"
        ]

    def bridge_name(self, index: int) -> str | None:
        """What the lab calls the bridge with this index; one that is not the lab's stands in brackets."""
        for mark, link in self.marked:
            if mark.what == "b" and link.ifindex == index:
                return mark.name
        return f"({self.names.get(index, index)})" if index else None


def _marks_applied(
    applied: Mapping[str, Resource], lab: str, id: str
) -> Iterator[tuple[tuple[str, str], Mark]]:
    """Name and MAC of each link on the host that was made, with the mark that it was given."""
    for resource in applied.values():
        if isinstance(resource, Bridge):
            yield (resource.ifname, resource.mac), Mark(lab, id, "b", resource.name)
        elif isinstance(resource, Cable):
            between = resource.a.node == HOST
            for end in (resource.a, resource.b):
                if end.node == HOST:
                    name = end.ifname if between else f"{resource.a.node}.{resource.a.ifname}"
                    yield (end.ifname, end.mac), Mark(lab, id, "x" if between else "c", name)


def marks_of(link: Link) -> list[Mark]:
    """The marks of a link."""
    if messages.IFLA_PROP_LIST not in link.attributes:
        return []
    return [mark for altname in link.altnames() if (mark := read_mark(altname)) is not None]


def _bridge(name: str, link: Link) -> Bridge:
    options = parse(link.info().get(messages.IFLA_INFO_DATA, b""))

    def on(option: int) -> bool:
        return any(options.get(option, b""))

    return Bridge(
        name=name,
        ifname=link.ifname,
        mac=link.mac,
        mtu=link.mtu,
        stp=on(messages.IFLA_BR_STP_STATE),
        vlan_filtering=on(messages.IFLA_BR_VLAN_FILTERING),
        multicast_snooping=on(messages.IFLA_BR_MCAST_SNOOPING),
        link_local=link.link_local,
        up=link.up,
    )


@dataclass(slots=True)
class _End:
    """One end that was seen."""

    node: str
    link: Link
    offload: bool = True


class CableView:
    """Puts the ends together: the host's first, then those of one container after the other."""

    def __init__(self, host: HostLinks, known: Sequence[Cable]) -> None:
        """``known`` are cables desired or applied: they say which end comes first."""
        self._host = host
        self._ends = {link.ifindex: (mark, link) for mark, link in host.marked if mark.what == "c"}
        self._inside: dict[int, _End] = {}
        self._straight: list[tuple[_End, str]] = []
        self._bridge_names = {link.ifindex: mark.name for mark, link in host.marked if mark.what == "b"}
        self._known: dict[tuple[str, str], Cable] = {}
        for cable in reversed(known):
            for end in (cable.a, cable.b):
                self._known[end.node, end.ifname] = cable

    def take(self, channel: Channel, links: NodeLinks, pids: Mapping[str, int]) -> list[Link]:
        """Take the ends of cables in a container; the other links."""
        others: list[Link] = []
        for link in links.links:
            mark, host_end = self._ends.get(link.peer, (None, None))
            if mark is not None and host_end is not None and self._belongs(mark, host_end, link, links.node):
                self._inside[host_end.ifindex] = self._end(channel, links.node, link)
                continue
            peer = self._peer_node(channel, links, link, pids)
            if peer is None:
                others.append(link)
            else:
                self._straight.append((self._end(channel, links.node, link), peer))
        return others

    def _belongs(self, mark: Mark, host_end: Link, link: Link, node: str) -> bool:
        if host_end.peer != link.ifindex:
            return False
        if mark.written_out:
            return mark.name.partition(".")[0] == node
        return mark.tells(f"{node}.{link.ifname}")

    def _end(self, channel: Channel, node: str, link: Link) -> _End:
        offload = True
        with suppress(OSError):
            offload = bool(channel.ethtool(link.ifname, ETHTOOL_GTXCSUM))
        return _End(node, link, offload)

    def _peer_node(
        self, channel: Channel, links: NodeLinks, link: Link, pids: Mapping[str, int]
    ) -> str | None:
        """The node of the other end of a straight cable of the lab; None for any other link."""
        if link.group not in GROUPS or not link.peer or marks_of(link):
            return None
        if messages.string(link.info().get(messages.IFLA_INFO_KIND, b"")) != "veth":
            return None
        if link.peer_netnsid is None:
            return links.node
        for node in self._candidates(links.node, link, pids):
            if _netnsid(channel, pids[node]) == link.peer_netnsid:
                return node
        return ""  # ours, but its other end is nowhere in the lab

    def _candidates(self, node: str, link: Link, pids: Mapping[str, int]) -> list[str]:
        known = self._known.get((node, link.ifname))
        likely = [] if known is None else [end.node for end in (known.a, known.b) if end.node in pids]
        return [*likely, *(other for other in pids if other not in likely)]

    # -- cables -----------------------------------------------------------------------------------

    def cables(self) -> list[Resource]:
        """All cables of the lab, after all containers were seen."""
        found: list[Resource] = [
            replace(self._to_host(mark, link), marked=link.ifindex not in self._host.unmarked)
            for mark, link in self._ends.values()
        ]
        return [*found, *self._between_bridges(), *self._between_containers()]

    def _to_host(self, mark: Mark, host_end: Link) -> Cable:
        node, _, ifname = mark.name.partition(".")
        inside = self._inside.get(host_end.ifindex)
        known = self._known.get((HOST, host_end.ifname))
        b = self._host_end(host_end, known)
        if inside is None:  # its container is gone, or the interface was moved out of it
            a = CableEnd(node=node, ifname=ifname, mac="")
            if known is not None and mark.tells(f"{known.a.node}.{known.a.ifname}"):
                a = replace(known.a, mac="")
            return Cable(a=a, b=b, mtu=host_end.mtu, up=host_end.up)
        return _cable(_inside_end(inside), b, inside.link, host_end, inside.offload, known)

    def _between_bridges(self) -> list[Cable]:
        ends = {link.ifindex: link for mark, link in self._host.marked if mark.what == "x"}
        found = []
        for index, link in sorted(ends.items()):
            other = ends.get(link.peer)
            if other is None or index > link.peer:
                continue
            known = self._known.get((HOST, link.ifname))
            # the kernel numbers the first end first
            first, second = (link, other) if known is None or known.a.ifname == link.ifname else (other, link)
            a, b = self._host_end(first, known), self._host_end(second, known)
            marked = not {first.ifindex, second.ifindex} & self._host.unmarked
            found.append(replace(_cable(a, b, first, second, True, known), marked=marked))
        return found

    def _between_containers(self) -> list[Cable]:
        by_place = {(end.node, end.link.ifindex): end for end, _ in self._straight}
        found, done = [], set()
        for end, peer_node in self._straight:
            place = (end.node, end.link.ifindex)
            other = by_place.get((peer_node, end.link.peer))
            if place in done:
                continue
            if other is not None:
                done.add((other.node, other.link.ifindex))
            found.append(self._straight_cable(end, other))
        return found

    def _straight_cable(self, end: _End, other: _End | None) -> Cable:
        known = self._known.get((end.node, end.link.ifname))
        if other is None:
            b = CableEnd(node="?", ifname="?", mac="") if known is None else _far(known, end)
            return Cable(a=_inside_end(end), b=b, mtu=end.link.mtu)
        first, second = end, other
        if known is not None:
            swapped = (known.a.node, known.a.ifname) != (end.node, end.link.ifname)
        else:
            swapped = other.node < end.node
        if swapped:
            first, second = other, end
        a, b = _inside_end(first), _inside_end(second)
        return _cable(a, b, first.link, second.link, first.offload and second.offload, known)

    def _host_end(self, link: Link, known: Cable | None) -> CableEnd:
        like = None
        if known is not None:
            like = next((e for e in (known.a, known.b) if e.ifname == link.ifname), None)
        bridge = self._bridge_names.get(link.master) or self._host.bridge_name(link.master)
        end = CableEnd(
            node=HOST,
            ifname=link.ifname,
            mac=link.mac,
            bridge=bridge,
            isolated=_port_option(link, messages.IFLA_BRPORT_ISOLATED),
            link_local=link.link_local,
            hairpin=_port_option(link, messages.IFLA_BRPORT_MODE),
        )
        return _with_vlans(end, like, self._host.vlans.get(link.ifindex))


def _port_option(link: Link, option: int) -> bool:
    """Whether an option of a bridge's port is on."""
    info = link.info()
    if messages.IFLA_INFO_SLAVE_DATA not in info:
        return False
    return any(parse(info[messages.IFLA_INFO_SLAVE_DATA]).get(option, b""))


def _with_vlans(end: CableEnd, like: CableEnd | None, vlans: Mapping[int, int] | None) -> CableEnd:
    if vlans is None:
        return end
    if like is not None and port_vlans(like) == vlans:
        return replace(end, access=like.access, trunk=like.trunk, native=like.native)
    if vlans == port_vlans(end):
        return end
    native = next((vid for vid, flags in vlans.items() if flags & VLAN_PVID), None)
    if native is not None and len(vlans) == 1 and vlans[native] & VLAN_UNTAGGED:
        return replace(end, access=native)
    trunk = tuple(vid for vid in vlans if vid != native)
    return replace(end, trunk=trunk, native=native)


def _inside_end(end: _End) -> CableEnd:
    return CableEnd(node=end.node, ifname=end.link.ifname, mac=end.link.mac, link_local=end.link.link_local)


def _cable(a: CableEnd, b: CableEnd, first: Link, second: Link, offload: bool, known: Cable | None) -> Cable:
    mtu = first.mtu
    if known is not None and mtu == known.mtu:
        mtu = second.mtu  # so that either end's difference shows
    return Cable(a=a, b=b, mtu=mtu, up=first.up and second.up, offload=offload)


def _far(known: Cable, end: _End) -> CableEnd:
    near_is_a = (known.a.node, known.a.ifname) == (end.node, end.link.ifname)
    return replace(known.b if near_is_a else known.a, mac="")


def _netnsid(channel: Channel, pid: int) -> int:
    reply = channel.send([messages.get_nsid(pid)])
    for message in reply.messages:
        return messages.decode_nsid(message.body)
    return -1
