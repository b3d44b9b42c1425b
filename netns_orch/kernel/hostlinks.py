"""The host's links as a whole: which are marked, what is taken, and removal without any file.

Owns: finding the links of labs by their marks alone (for ``down`` and ``gc`` when no record is left), the
link groups in use, and what of the host's network a new lab could clash with.
Must not: touch a link without a mark, but for the one whose name, MAC and group were written down before it
was made.
"""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import ip_interface
from typing import NamedTuple

from netns_orch.kernel import ipmessages, messages
from netns_orch.kernel.cableview import GROUPS, marks_of, read_links
from netns_orch.kernel.interfaces import give_back_port
from netns_orch.kernel.links import ABSENT, Batch, Lab, delete_links, find_link
from netns_orch.kernel.messages import Link
from netns_orch.kernel.nets import Mark, Nets, Visit
from netns_orch.resources import GROUP_FIRST, GROUP_LAST, HOST, Bridge, HostPort, Resource

_MAIN_TABLE = 254


class MarkedLink(NamedTuple):
    """A link of the host's namespace that is a lab's."""

    mark: Mark
    ifname: str
    mac: str
    group: int


class HostNetwork(NamedTuple):
    """What of the host's network a lab could clash with, the lab's own left out."""

    interfaces: tuple[str, ...]
    """Names and alternative names."""
    subnets: tuple[tuple[str, str], ...]
    """On-link subnets: (interface, canonical prefix)."""
    routes: tuple[tuple[str, str], ...]
    """Other routes of the main table but default ones: (interface, canonical prefix)."""
    addresses: tuple[str, ...]
    """The host's own, without their prefix; neither 127.0.0.1, ::1 nor IPv6 link-local ones."""


def find_marked(lab: str | None, id: str, *, nets: Nets | None = None) -> list[MarkedLink]:
    """All links on the host that a mark says are ``lab``'s (None: any lab's) of this host ``id``."""

    return [
        MarkedLink(mark, link.ifname, link.mac, link.group)
        for link in _read(nets)
        for mark in marks_of(link)
        if mark.id == id and lab in (None, mark.lab)
    ]


def delete_group(*, lab: str, id: str, group: int, nets: Nets | None = None) -> int:
    """Delete all links on the host that are marked as the lab's, and give back the host's own; how many.

    One message does it where all of the link group ``group`` are marked so.
    """

    def delete(visit: Visit) -> int:
        with visit.node(HOST) as channel:
            links = read_links(channel)
            owner = Lab(lab, id, group, {})
            marked = [(mark, link) for link in links for mark in marks_of(link) if mark[:2] == (lab, id)]
            for mark, _ in marked:
                if mark.what == "p":
                    give_back_port(visit, owner, HostPort(bridge="", ifname=mark.name), None)
            doomed = [(mark, link) for mark, link in marked if mark.what != "p"]
            members = {link.ifindex for link in links if link.group == group}
            if doomed and members == {link.ifindex for _, link in doomed}:
                batch = Batch()
                batch.add(messages.delete_link_group(group), _blamed(doomed[0][1]), "delete", ABSENT)
                batch.send(channel)
            else:
                delete_links(channel, [(str(mark), _blamed(link)) for mark, link in doomed])
            return len(marked)

    return _host(nets).run(delete)


def _blamed(link: Link) -> Resource:
    return Bridge(name=link.ifname, ifname=link.ifname, mac=link.mac)


def delete_unmarked(ifname: str, mac: str, group: int, *, nets: Nets | None = None) -> bool:
    """Delete the link on the host that was about to be marked: name, MAC and group are what was written
    down before it was made, and it has no mark.  Whether there was one.
    """

    def delete(visit: Visit) -> bool:
        with visit.node(HOST) as channel:
            link = find_link(channel, ifname)
            if link is None or link.mac != mac.lower() or link.group != group or marks_of(link):
                return False
            if not GROUP_FIRST <= group <= GROUP_LAST:
                return False
            delete_links(channel, [(link, _blamed(link))])
            return True

    return _host(nets).run(delete)


def groups_in_use(*, nets: Nets | None = None) -> frozenset[int]:
    """The groups that links on the host are in."""
    return frozenset(link.group for link in _read(nets))


def marked_labs(*, nets: Nets | None = None) -> set[tuple[str, str]]:
    """The labs (name, id) that links on the host are marked as."""
    return {mark[:2] for link in _read(nets) for mark in marks_of(link)}


def _read(nets: Nets | None) -> list[Link]:
    def read(visit: Visit) -> list[Link]:
        with visit.node(HOST) as channel:
            return read_links(channel)

    return _host(nets).run(read)


def _host(nets: Nets | None) -> Nets:
    """The namespaces given; else the caller's own as the host's."""
    return Nets({}) if nets is None else nets


def host_facts_links(*, lab: str | None, id: str, nets: Nets | None = None) -> HostNetwork:
    """Names, subnets and routes of the host's namespace, without those of ``lab`` itself."""

    def look(visit: Visit) -> HostNetwork:
        with visit.node(HOST) as channel:
            links = read_links(channel)
            # A link of ours whose mark was taken off is still in the group of the others.
            groups = {link.group for link in links if link.group in GROUPS and _is_of(link, lab, id)}
            others = [link for link in links if not _is_of(link, lab, id) and link.group not in groups]
            addresses = [
                ipmessages.decode_address(message.body)
                for message in channel.dump(ipmessages.dump_addresses())
            ]
            routes = [message.body for message in channel.dump(ipmessages.dump_routes())]
        names = messages.names_by_index(others)
        subnets = _subnets(addresses, names)
        own = tuple(dict.fromkeys(_addresses(addresses, names)))
        return HostNetwork(tuple(_all_names(others)), subnets, _routes(routes, names, set(subnets)), own)

    return _host(nets).run(look)


def _is_of(link: Link, lab: str | None, id: str) -> bool:
    return any(mark[:2] == (lab, id) and mark.what != "p" for mark in marks_of(link))


def _all_names(links: Iterable[Link]) -> Iterable[str]:
    for link in links:
        yield link.ifname
        yield from link.altnames()


def _subnets(
    addresses: Iterable[ipmessages.AddressFact], names: dict[int, str]
) -> tuple[tuple[str, str], ...]:
    found = []
    for fact in addresses:
        ifname = names.get(fact.ifindex)
        if ifname is None or fact.scope != ipmessages.SCOPES["global"]:
            continue
        found.append((ifname, str(ip_interface(fact.cidr).network)))
    return tuple(dict.fromkeys(found))


def _addresses(facts: Iterable[ipmessages.AddressFact], names: dict[int, str]) -> Iterable[str]:
    for fact in facts:
        address = ip_interface(fact.cidr).ip
        of_one_link = address.version == 6 and address.is_link_local
        if fact.ifindex in names and not address.is_loopback and not of_one_link:
            yield str(address)


def _routes(
    bodies: Iterable[bytes], names: dict[int, str], subnets: set[tuple[str, str]]
) -> tuple[tuple[str, str], ...]:
    found = []
    for body in bodies:
        if ipmessages.route_protocol(body) is None:
            continue
        route = ipmessages.decode_route(body, HOST, names)
        if route.table != _MAIN_TABLE or route.type != "unicast" or route.dst in ("0.0.0.0/0", "::/0"):
            continue
        if route.dst.startswith(("fe80:", "ff")):
            continue
        known = [hop.dev for hop in route.hops if hop.dev in names.values()]
        found += [(dev, route.dst) for dev in known if dev is not None and (dev, route.dst) not in subnets]
    return tuple(dict.fromkeys(found))
