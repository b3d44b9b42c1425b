"""What must still be there after a change: addresses and routes that the kernel drops along with others.

Owns: remembering them before, and putting back after what is missing and was not to go.  The kernel takes
away secondary addresses with the first of their subnet, all routes of an interface with its last address, and
everything on an interface that is made anew.
Must not: put back anything that it did not see.
"""

from __future__ import annotations

import errno
from collections.abc import Collection, Iterable
from contextlib import suppress
from typing import NamedTuple

from netns_orch.kernel import ipmessages, messages
from netns_orch.kernel.linkinfo import decode_interface
from netns_orch.kernel.links import Batch, entered
from netns_orch.kernel.messages import Link, decode_link
from netns_orch.kernel.netlink import Channel
from netns_orch.kernel.nets import Visit
from netns_orch.resources import Address, Resource, Route, VirtualInterface

_THERE = frozenset((errno.EEXIST,))


class _Kept(NamedTuple):
    """A resource of the kernel with the protocol number of whoever added it."""

    resource: Address | Route
    protocol: int


class Upkeep:
    """Remembers what stands on interfaces that are touched, and puts back what was lost."""

    def __init__(self) -> None:
        self._replaced: dict[str, set[str]] = {}
        self._kept: dict[str, list[_Kept]] = {}
        self._masters: dict[str, list[tuple[str, str, VirtualInterface]]] = {}
        self._gone: set[str] = set()

    def replaced(self, interface: VirtualInterface) -> None:
        """Say that an interface will be made anew."""
        self._replaced.setdefault(interface.node, set()).add(interface.ifname)

    def remember(
        self, channel: Channel, node: str, touched: Collection[str], gone: Iterable[Resource]
    ) -> list[VirtualInterface]:
        """Look at the interfaces that lose an address or are made anew, before anything is done.

        Returns the virtual interfaces that will disappear with those below them, to be made anew as well.
        """
        replaced = self._replaced.get(node, set())
        if not touched and not replaced:
            return []
        self._gone |= {resource.key for resource in gone}
        links = [decode_link(message.body) for message in channel.dump(messages.dump_links())]
        above = _above(links, replaced, node) if replaced else []
        self._remember_masters(node, links, replaced | {interface.ifname for interface in above})
        names = {*touched, *replaced, *(interface.ifname for interface in above)}
        self._kept[node] = [kept for kept in _on(channel, node, links) if _stands_on(kept.resource, names)]
        return [interface for interface in above if interface.key not in self._gone]

    def _remember_masters(self, node: str, links: list[Link], names: Collection[str]) -> None:
        by_index = {link.ifindex: link for link in links}
        for link in links:
            master = by_index.get(link.master)
            if link.ifname in names and master is not None:
                blamed = VirtualInterface(container=node, ifname=link.ifname, kind="")
                self._masters.setdefault(node, []).append((link.ifname, master.ifname, blamed))

    def restore(self, visit: Visit) -> None:
        """Put back what is missing now and was not to go."""
        for node, before in self._kept.items():
            wanted = [kept for kept in before if kept.resource.key not in self._gone]
            if not wanted and node not in self._masters:
                continue
            with entered(visit, node, before[0].resource if before else self._masters[node][0][2]) as channel:
                self._restore_masters(channel, node)
                links = [decode_link(message.body) for message in channel.dump(messages.dump_links())]
                now = {kept.resource.key for kept in _on(channel, node, links)}
                _add(channel, [kept for kept in wanted if kept.resource.key not in now])

    def _restore_masters(self, channel: Channel, node: str) -> None:
        batch = Batch()
        for ifname, master, blamed in self._masters.get(node, ()):
            with suppress(OSError):  # its master went as well
                batch.add(messages.set_link(ifname, master=channel.index(master)), blamed, "put back")
        batch.send(channel)


def _above(links: list[Link], replaced: Collection[str], node: str) -> list[VirtualInterface]:
    names = messages.names_by_index(links)
    lost = {link.ifindex for link in links if link.ifname in replaced}
    found: list[VirtualInterface] = []
    grown = True
    while grown:
        grown = False
        for link in links:
            if link.ifindex not in lost and link.peer in lost and link.peer_netnsid is None:
                members = tuple(other.ifname for other in links if other.master == link.ifindex)
                interface = decode_interface(link, node, names, members)
                if interface is not None:
                    found.append(interface)
                    lost.add(link.ifindex)
                    grown = True
    return found


def _on(channel: Channel, node: str, links: list[Link]) -> list[_Kept]:
    """All addresses and routes of a namespace that somebody added."""
    names = messages.names_by_index(links)
    kept: list[_Kept] = []
    for message in channel.dump(ipmessages.dump_addresses()):
        fact = ipmessages.decode_address(message.body)
        if fact.scope != ipmessages.SCOPES["link"]:
            address = Address(owner=node, ifname=names.get(fact.ifindex, ""), cidr=fact.cidr)
            kept.append(_Kept(address, fact.protocol))
    for message in channel.dump(ipmessages.dump_routes()):
        protocol = ipmessages.route_protocol(message.body)
        if protocol is not None and protocol > ipmessages.RTPROT_KERNEL:
            kept.append(_Kept(ipmessages.decode_route(message.body, node, names), protocol))
    return kept


def _stands_on(resource: Address | Route, names: Collection[str]) -> bool:
    if isinstance(resource, Address):
        return resource.ifname in names
    return any(hop.dev in names for hop in resource.hops)


def _add(channel: Channel, missing: list[_Kept]) -> None:
    """Add what was lost: addresses, then routes without a gateway, then the others."""
    batch = Batch()
    for resource, protocol in missing:
        if isinstance(resource, Address):
            index = channel.index(resource.ifname)
            batch.add(ipmessages.add_address(resource, index, protocol), resource, "put back", _THERE)
    routes = [(kept.resource, kept.protocol) for kept in missing if isinstance(kept.resource, Route)]
    for route, protocol in sorted(routes, key=lambda pair: any(hop.via for hop in pair[0].hops)):
        request = ipmessages.add_route(route, channel.index, protocol=protocol)
        batch.add(request, route, "put back", _THERE)
    batch.send(channel)
