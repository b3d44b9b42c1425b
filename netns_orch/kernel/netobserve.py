"""What the network is: the lab's links, addresses, routes, rules and sysctls, read back as resources.

Owns: which object is whose.  On the host a link is the lab's by its mark; in a container a link is by the
host's end of its cable or by the lab's link group, an address, route or rule by its protocol number.  All
else in a container is ``extra`` (a daemon's routes, a ``wg0``), but for what the kernel itself puts there.
Must not: change anything.

A resource that is as desired comes back equal to the desired one, also where the kernel words it otherwise.
A few dumps for each namespace, all from one thread.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import suppress

from netns_orch.kernel import ipmessages, linkinfo, messages
from netns_orch.kernel.cableview import GROUPS, CableView, HostLinks, NodeLinks
from netns_orch.kernel.hostlinks import groups_in_use, host_facts_links, marked_labs
from netns_orch.kernel.netlink import Channel
from netns_orch.kernel.nets import Gone, Nets, Visit, not_running, read_sysctl
from netns_orch.records import dataclass, field, replace
from netns_orch.resources import (
    HOST,
    ROUTE_PROTOCOL,
    Address,
    Cable,
    Hop,
    Qdisc,
    Resource,
    Route,
    Rule,
    State,
    Sysctl,
    VirtualInterface,
)

__all__ = ["groups_in_use", "host_facts_links", "marked_labs", "observe", "stats"]

FALLBACKS = frozenset(
    ("tunl0", "gre0", "gretap0", "erspan0", "sit0", "ip6tnl0", "ip6gre0", "ip_vti0", "ip6_vti0", "teql0")
)
"""What loaded modules put into every new namespace: nobody's."""
_DEFAULT_RULES = frozenset((0, 32766, 32767))
"""The kernel's own, which do not say so before Linux 4.17."""


@dataclass(slots=True)
class _Found:
    """What was read so far."""

    ours: list[Resource] = field(default_factory=list)
    extra: list[Resource] = field(default_factory=list)


def observe(
    nets: Nets, desired: State | None, *, lab: str, id: str, group: int = 0, applied: State | None = None
) -> tuple[list[Resource], list[Resource]]:
    """The lab's own network resources, and those in its containers that are nobody's of netorch.

    ``applied`` is what was last applied: it tells the lab's own addresses on kernels that can't
    (before Linux 5.18), which sysctls and queueing disciplines to look at, and, with the link ``group``,
    which links on the host are the lab's although their marks were taken off.
    """
    return nets.run(_Observer(lab, id, group, desired or State(), applied or State()).run)


class _Observer:
    """One look at a lab."""

    def __init__(self, lab: str, id: str, group: int, desired: State, applied: State) -> None:
        self.lab, self.id, self.group = lab, id, group
        self.desired, self.applied = desired, applied
        self.found = _Found()
        self.down: set[tuple[str, str]] = set()
        """(node, interface) that is switched off."""
        self.sysctls = _by_node([*desired.of(Sysctl), *applied.of(Sysctl)])
        self.qdiscs = _by_node([*desired.of(Qdisc), *applied.of(Qdisc)])
        self.host_rules = any(rule.owner == HOST for rule in (*desired.of(Rule), *applied.of(Rule)))
        self.cables = [*desired.of(Cable), *applied.of(Cable)]
        self._nobodys_rules: set[bytes] = set()

    def run(self, visit: Visit) -> tuple[list[Resource], list[Resource]]:
        """Read the host's namespace, then each container's."""
        with visit.node(HOST) as channel:
            host = HostLinks.read(channel, self.lab, self.id, self.applied, self.group)
            view = CableView(host, self.cables)
            self._host(channel, host)
        seen: set[int] = set()
        for node in self._nodes(visit):
            with suppress(Gone), visit.node(node) as channel:
                if visit.identity not in seen:
                    seen.add(visit.identity)
                    self._container(channel, node, view, visit)
        self.found.ours[:0] = [*host.bridges(), *host.ports(), *view.cables()]
        self.found.ours += self._suspended()
        return self.found.ours, self.found.extra

    def _nodes(self, visit: Visit) -> list[str]:
        """Those with interfaces of their own first: a container may share the network of another."""
        owners = {end.node for cable in self.cables for end in (cable.a, cable.b)}
        return sorted(visit.pids, key=lambda node: node not in owners)

    # -- the host ---------------------------------------------------------------------------------

    def _host(self, channel: Channel, host: HostLinks) -> None:
        names = host.own_names()
        for message in channel.dump(ipmessages.dump_addresses()) if names else ():
            fact = ipmessages.decode_address(message.body)
            if fact.ifindex in names:
                self._address(HOST, names[fact.ifindex], fact)
        wanted = any(route.owner == HOST for route in (*self.desired.of(Route), *self.applied.of(Route)))
        if names or wanted:
            self._host_routes(channel, host, set(names.values()))
        if self.host_rules:
            self._rules(channel, HOST)
        if HOST in self.qdiscs:
            self._qdiscs(channel, HOST, host.names)
        self.down |= {(HOST, link.ifname) for link in host.links if not link.up}

    def _host_routes(self, channel: Channel, host: HostLinks, own: set[str]) -> None:
        for message in channel.dump(ipmessages.dump_routes()):
            protocol = ipmessages.route_protocol(message.body)
            if protocol is None or protocol in (0, ipmessages.RTPROT_KERNEL):
                continue
            route = ipmessages.decode_route(message.body, HOST, host.names)
            ours = bool(route.hops) and all(hop.dev in own for hop in route.hops)
            if ours or self._known(route.key):
                self._route(route, protocol)

    # -- a container ------------------------------------------------------------------------------

    def _container(self, channel: Channel, node: str, view: CableView, visit: Visit) -> None:
        links = NodeLinks.read(channel, node)
        strangers = view.take(channel, links, visit.pids)
        names = links.names
        for link in strangers:
            if link.flags & messages.IFF_LOOPBACK or link.ifname in FALLBACKS:
                continue
            self._interface(node, link, links)
        self.down |= {(node, link.ifname) for link in links.links if not link.up}
        for message in channel.dump(ipmessages.dump_addresses()):
            if ipmessages.is_loopback_address(message.body):
                continue
            fact = ipmessages.decode_address(message.body)
            self._address(node, names.get(fact.ifindex, f"if{fact.ifindex}"), fact)
        for message in channel.dump(ipmessages.dump_routes()):
            protocol = ipmessages.route_protocol(message.body)
            if protocol is not None and protocol not in (0, ipmessages.RTPROT_KERNEL):
                self._route(ipmessages.decode_route(message.body, node, names), protocol)
        self._rules(channel, node)
        self._sysctls(node)
        if node in self.qdiscs:
            self._qdiscs(channel, node, names)

    def _interface(self, node: str, link: messages.Link, links: NodeLinks) -> None:
        members = tuple(other.ifname for other in links.links if other.master == link.ifindex)
        interface = linkinfo.decode_interface(link, node, links.names, members)
        ours = link.group in GROUPS and interface is not None and not link.altnames()
        if interface is None:
            kind = messages.string(link.info().get(messages.IFLA_INFO_KIND, b"")) or "unknown"
            interface = VirtualInterface(
                container=node, ifname=link.ifname, kind=kind, mac=link.mac, mtu=link.mtu
            )
        like = self._wanted(interface.key)
        if isinstance(like, VirtualInterface):
            interface = linkinfo.canonical_interface(interface, like)
        (self.found.ours if ours else self.found.extra).append(interface)

    # -- addresses, routes, rules -----------------------------------------------------------------

    def _address(self, node: str, ifname: str, fact: ipmessages.AddressFact) -> None:
        address = Address(owner=node, ifname=ifname, cidr=fact.cidr)
        if self._known(address.key) or fact.protocol == ROUTE_PROTOCOL:
            self.found.ours.append(address)
        elif not _is_kernels_own(fact) and node != HOST:
            self.found.extra.append(address)

    def _route(self, route: Route, protocol: int) -> None:
        wanted = self._wanted(route.key)
        if isinstance(wanted, Route) and _same_route(wanted, route):
            self.found.ours.append(wanted)
        elif protocol == ROUTE_PROTOCOL or route.key in self.desired:
            self.found.ours.append(route)
        else:
            self.found.extra.append(route)

    def _rules(self, channel: Channel, node: str) -> None:
        for message in channel.dump(ipmessages.dump_rules()):
            if message.body in self._nobodys_rules:
                continue
            decoded = ipmessages.decode_rule(message.body, node)
            if decoded is None:  # the same bytes in every container
                self._nobodys_rules.add(message.body)
                continue
            rule, protocol = decoded
            wanted = self._wanted(rule.key)
            if isinstance(wanted, Rule) and _plain_rule(wanted) == rule:
                self.found.ours.append(wanted)
            elif protocol == ROUTE_PROTOCOL and (node != HOST or self._known(rule.key)):
                self.found.ours.append(rule)
            elif node != HOST and (protocol or rule.priority not in _DEFAULT_RULES):
                self.found.extra.append(rule)

    # -- sysctls and queueing disciplines ---------------------------------------------------------

    def _sysctls(self, node: str) -> None:
        done: set[str] = set()
        for sysctl in self.sysctls.get(node, ()):
            if sysctl.key in done or not isinstance(sysctl, Sysctl):
                continue
            done.add(sysctl.key)
            with suppress(OSError, ValueError):  # without its interface it is not there
                value = read_sysctl(sysctl.name)
                same = value == " ".join(sysctl.value.split())
                self.found.ours.append(sysctl if same else replace(sysctl, value=value))

    def _qdiscs(self, channel: Channel, node: str, names: dict[int, str]) -> None:
        wanted = {q.ifname: q for q in reversed(self.qdiscs[node]) if isinstance(q, Qdisc)}
        for message in channel.dump(linkinfo.dump_qdiscs()):
            decoded = linkinfo.decode_qdisc(message.body)
            if decoded is None:
                continue
            index, kind, options = decoded
            like = wanted.get(names.get(index, ""))
            if like is None or kind not in ("netem", "tbf"):
                continue
            facts = linkinfo.qdisc_facts(kind, options)
            asked = linkinfo.tbf_options(like) if kind == "tbf" else linkinfo.netem_options(like)
            possible = kind == "netem" or linkinfo.only_rate(like)
            same = possible and linkinfo.qdisc_facts(kind, asked) == facts
            seen = linkinfo.decode_impairment(kind, options, node, like.ifname)
            self.found.ours.append(like if same else seen)

    # -- what is known ----------------------------------------------------------------------------

    def _known(self, key: str) -> bool:
        return key in self.desired or key in self.applied

    def _wanted(self, key: str) -> Resource | None:
        wanted = self.desired.get(key)
        return self.applied.get(key) if wanted is None else wanted

    def _suspended(self) -> Iterable[Resource]:
        """What can't be there while its cable is unplugged: the kernel drops it, it counts as present."""
        unplugged = {
            (end.node, end.ifname)
            for cable in self.desired.of(Cable)
            if not cable.up
            for end in (cable.a, cable.b)
            if (end.node, end.ifname) in self.down
        }
        if not unplugged:
            return []
        there = {resource.key for resource in self.found.ours}
        waiting: list[Resource] = [
            route
            for route in self.desired.of(Route)
            if any((route.owner, hop.dev) in unplugged for hop in route.hops)
        ]
        waiting += [
            address
            for address in self.desired.of(Address)
            if (address.owner, address.ifname) in unplugged and ":" in address.cidr
        ]
        return [resource for resource in waiting if resource.key not in there]


def _by_node(resources: Sequence[Resource]) -> dict[str, list[Resource]]:
    found: dict[str, list[Resource]] = {}
    for resource in resources:
        found.setdefault(resource.node, []).append(resource)
    return found


def _is_kernels_own(fact: ipmessages.AddressFact) -> bool:
    """Link-local addresses."""
    return ":" in fact.cidr and fact.scope == ipmessages.SCOPES["link"]


def _same_route(wanted: Route, seen: Route) -> bool:
    plain = ipmessages.canonical_route(wanted)
    if len(plain.hops) > 1:
        plain = replace(plain, hops=_sorted_hops(plain.hops))
        seen = replace(seen, hops=_sorted_hops(seen.hops))
    return plain == seen


def _sorted_hops(hops: tuple[Hop, ...]) -> tuple[Hop, ...]:
    return tuple(sorted(hops, key=lambda hop: (hop.dev or "", hop.via or "", hop.weight)))


def _plain_rule(rule: Rule) -> Rule:
    """The rule as the kernel words it: no mask where it takes every bit, no table where none is asked."""
    mask = None if rule.fwmark is None or rule.fwmask == ipmessages.EVERY_ONE else rule.fwmask
    return replace(rule, fwmask=mask, table=rule.table if rule.action == "lookup" else 0)


def stats(nets: Nets, node: str) -> dict[str, dict[str, int]]:
    """Counters of a node's interfaces: rx and tx, bytes and packets, errors and drops."""

    def read(visit: Visit) -> dict[str, dict[str, int]]:
        try:
            with visit.node(node) as channel:
                dump = channel.dump(messages.dump_links(statistics=True))
        except Gone:
            raise not_running(node) from None
        return dict(messages.decode_statistics(message.body) for message in dump)

    return nets.run(read)
