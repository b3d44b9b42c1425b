"""The network of a lab, put right: bridges, cables, interfaces, addresses, routes, rules, sysctls.

Owns: the order in which changes are made, one send for each namespace, and that what was not to change is
still there afterwards (the kernel drops routes and addresses along with others).
Must not: decide what is to be done (``plan``); look at more of a namespace than it must to do it.

First everything goes that has to; then bridges are made (down), cables, each container's own batch, the
host's; bridges go up last, since a bridge that is up while ports join costs O(N^2); then each new port's
link watch is run, so that the first packet passes.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable, Mapping, MutableMapping, Sequence
from contextlib import suppress
from typing import Any

from netns_orch.errors import KernelError
from netns_orch.kernel import interfaces, ipmessages, linkinfo, messages, wiring
from netns_orch.kernel.hostlinks import delete_group, delete_unmarked, find_marked
from netns_orch.kernel.links import (
    ABSENT,
    Batch,
    Lab,
    delete_links,
    entered,
    find_links,
    index_of,
    missing,
    refusal,
    settle,
    wait_forwarding,
)
from netns_orch.kernel.messages import IFF_UP, Link
from netns_orch.kernel.netlink import Channel, Failure
from netns_orch.kernel.nets import Gone, Nets, Visit, read_sysctl, write_sysctl
from netns_orch.kernel.upkeep import Upkeep
from netns_orch.resources import (
    HOST,
    Address,
    Bridge,
    Cable,
    CableEnd,
    HostPort,
    Qdisc,
    Resource,
    Route,
    Rule,
    Sysctl,
    VirtualInterface,
)

__all__ = ["Nets", "apply", "delete_group", "delete_unmarked", "find_marked"]

Changes = Sequence[tuple[Resource | None, Resource | None]]
_UNREACHABLE = frozenset((errno.ENETUNREACH, errno.ENETDOWN, errno.EHOSTUNREACH, errno.EINVAL))
_NO_FAMILY = frozenset((errno.EAFNOSUPPORT, errno.EOPNOTSUPP))
_ROUTE_GONE = ABSENT | {errno.ESRCH, errno.ENOENT}
_ADDRESS_GONE = ABSENT | {errno.EADDRNOTAVAIL}
_RULE_GONE = _NO_FAMILY | {errno.ENOENT}
_QDISC_GONE = ABSENT | {errno.ENOENT, errno.EINVAL}


def apply(
    nets: Nets,
    changes: Changes,
    *,
    lab: str,
    id: str,
    group: int,
    bridges: Mapping[str, str],
    record: MutableMapping[str, Any] | None = None,
) -> None:
    """Make the changes (before, after) of a lab's network, and wait until packets pass.

    ``bridges`` are real names by the lab file's.  ``record`` keeps what only this room knows and needs to
    undo a change: how a host's interface and a sysctl were before.  Raises a KernelError that blames a
    resource, with a part done.
    """
    work = _Work(Lab(lab, id, group, bridges), changes, {} if record is None else record)
    nets.run(work.run)


class _NodeWork:
    """What is to be made in one namespace."""

    def __init__(self) -> None:
        self.ends: list[tuple[Cable, CableEnd]] = []
        self.interfaces: list[VirtualInterface] = []
        self.changed: list[tuple[VirtualInterface, VirtualInterface]] = []
        self.sysctls: list[Sysctl] = []
        self.addresses: list[Address] = []
        self.routes: list[tuple[Route, bool]] = []
        """With whether one is there to be replaced."""
        self.rules: list[tuple[Rule | None, Rule]] = []
        self.qdiscs: list[Qdisc] = []


class _Work:
    """One call of ``apply``: the changes, sorted by what is done with them."""

    def __init__(self, lab: Lab, changes: Changes, record: MutableMapping[str, Any]) -> None:
        self.lab, self.record = lab, record
        self.gone: dict[str, list[Resource]] = {}
        """By node, what is taken away."""
        self.new_bridges: list[Bridge] = []
        self.new_cables: list[Cable] = []
        self.changed_bridges: list[tuple[Bridge, Bridge]] = []
        self.changed_cables: list[tuple[Cable, Cable]] = []
        self.ports: list[HostPort] = []
        self.nodes: dict[str, _NodeWork] = {}
        self.upkeep = Upkeep()
        for before, after in changes:
            self._sort(before, after)

    def _sort(self, before: Resource | None, after: Resource | None) -> None:
        if before is not None and (after is None or not _in_place(before, after)):
            self.gone.setdefault(before.node, []).append(before)
            if after is not None and isinstance(before, VirtualInterface):
                self.upkeep.replaced(before)
            before = None
        if after is not None:
            self._sort_wanted(before, after)

    def _sort_wanted(self, before: Resource | None, after: Resource) -> None:
        node = self._node(after.node)
        match after:
            case Bridge() if isinstance(before, Bridge):
                self.changed_bridges.append((before, after))
            case Bridge():
                self.new_bridges.append(after)
            case Cable() if isinstance(before, Cable):
                self.changed_cables.append((before, after))
            case Cable():
                self.new_cables.append(after)
                for end in (after.a, after.b):
                    self._node(end.node).ends.append((after, end))
            case VirtualInterface() if isinstance(before, VirtualInterface):
                node.changed.append((before, after))
            case VirtualInterface():
                node.interfaces.append(after)
            case HostPort():
                self.ports.append(after)
            case Sysctl():
                node.sysctls.append(after)
            case Address():
                node.addresses.append(after)
            case Route():
                node.routes.append((after, before is not None))
            case Rule():
                node.rules.append((before if isinstance(before, Rule) else None, after))
            case Qdisc():
                node.qdiscs.append(after)
            case _:
                raise TypeError(f"{after.KIND} is no part of the network")

    def _node(self, name: str) -> _NodeWork:
        work = self.nodes.get(name)
        if work is None:
            work = self.nodes[name] = _NodeWork()
        return work

    # -- the order --------------------------------------------------------------------------------

    def run(self, visit: Visit) -> None:
        """Everything, in order."""
        self._remove(visit)
        wiring.make_bridges(visit, self.lab, self.new_bridges)
        for bridge, changed_bridge in self.changed_bridges:
            wiring.change_bridge(visit, self.lab, bridge, changed_bridge)
        wiring.lay_cables(visit, self.lab, self.new_cables)
        for cable, changed_cable in self.changed_cables:
            wiring.change_cable(visit, self.lab, cable, changed_cable)
        for name, work in self.nodes.items():
            blamed = next(iter(_all_of(work)), None)
            if name != HOST and blamed is not None:
                with entered(visit, name, blamed) as channel:
                    self._make_here(visit, channel, name, work)
        self._settle_first_ends(visit)
        if HOST in self.nodes:
            with visit.node(HOST) as channel:
                self._make_here(visit, channel, HOST, self.nodes[HOST])
        self.upkeep.restore(visit)
        wait_forwarding(visit, settle(visit, visit.host, self._new_ports()))
        # What may have no carrier is not waited for, but its link watch is run.
        find_links(visit.host, [bridge.ifname for bridge in self.new_bridges])
        find_links(visit.host, [port.ifname for port in self.ports])

    def _make_here(self, visit: Visit, channel: Channel, name: str, work: _NodeWork) -> None:
        batch, ends = Batch(), [] if name == HOST else work.ends
        _write_sysctls((s for s in work.sysctls if not _of_interface(s)), self.record)
        for cable, end in ends:
            local = visit.link_local(end.link_local, cable.mtu)
            if local is not None:
                batch.add(messages.set_link(end.ifname, link_local=local), cable, "configure")
        if work.interfaces or work.changed:
            batch.send(channel)
            interfaces.make_interfaces(visit, channel, self.lab, work.interfaces)
            for before, after in work.changed:
                interfaces.change_interface(visit, channel, before, after)
        _write_sysctls((s for s in work.sysctls if _of_interface(s)), self.record)
        for address in work.addresses:
            if name == HOST and ":" in address.cidr:
                _allow_ipv6(address)
            batch.add(
                ipmessages.add_address(address, index_of(channel, address.ifname, address)), address, "add"
            )
        self._switch_on(visit, batch, name, work, ends)
        for cable, end in ends:  # runs the link watch, see ``settle``
            batch.add(messages.get_link(end.ifname), cable, "look at")
        _make_routes(channel, batch, work)
        for qdisc in work.qdiscs:
            _make_qdisc(channel, qdisc)

    def _switch_on(
        self, visit: Visit, batch: Batch, name: str, work: _NodeWork, ends: Sequence[tuple[Cable, CableEnd]]
    ) -> None:
        """Links up; on the host the bridges and the host's own ports."""
        if ends or any(address.ifname == "lo" for address in work.addresses):
            batch.add(_LO_UP, next(iter(_all_of(work))), "switch on lo for")
        for cable, end in ends:
            if wiring.end_up(cable, end):
                batch.add(messages.set_link(end.ifname, up=True), cable, "switch on")
        for interface in interfaces.below_first(work.interfaces):
            batch.add(messages.set_link(interface.ifname, up=True), interface, "switch on")
        if name == HOST:
            batch.send(visit.host)
            self._plug_in_ports(visit)
            for bridge in (*self.new_bridges, *self._changed_bridges()):
                batch.add(messages.set_link(bridge.ifname, up=bridge.up), bridge, "switch on")
            batch.send(visit.host)

    def _plug_in_ports(self, visit: Visit) -> None:
        for port in self.ports:
            before = interfaces.plug_in_port(visit, self.lab, port)
            self.record.setdefault(port.key, {"up": before.up, "master": before.master})

    def _changed_bridges(self) -> list[Bridge]:
        return [
            after
            for before, after in self.changed_bridges
            if before.up != after.up or before.ifname != after.ifname
        ]

    def _settle_first_ends(self, visit: Visit) -> None:
        """The first end of a straight cable was asked before its other end was up: ask again."""
        first: dict[str, list[Cable]] = {}
        for cable in self.new_cables:
            if cable.b.node != HOST and cable.up:
                first.setdefault(cable.a.node, []).append(cable)
        for name, cables in first.items():
            with entered(visit, name, cables[0]) as channel:
                settle(visit, channel, [cable.a.ifname for cable in cables])

    def _new_ports(self) -> list[str]:
        return [
            end.ifname
            for cable in (*self.new_cables, *(after for _, after in self.changed_cables))
            for end in (cable.a, cable.b)
            if end.node == HOST and cable.up
        ]

    # -- taking away ------------------------------------------------------------------------------

    def _remove(self, visit: Visit) -> None:
        doomed = self._doomed()
        marks: list[tuple[Link | str, Resource]] = []
        for name, gone in self.gone.items():
            for resource in gone:
                if isinstance(resource, HostPort):
                    self._give_back(visit, resource)
                marks += [(mark, resource) for mark in self._marks(visit, resource)]
            with suppress(Gone), visit.node(name) as channel:
                self._remove_here(channel, name, gone, doomed)
        delete_links(visit.host, marks)

    def _doomed(self) -> set[tuple[str, str]]:
        """(node, interface) that disappear, and all on them with them."""
        doomed: set[tuple[str, str]] = set()
        for gone in self.gone.values():
            for resource in gone:
                if isinstance(resource, Bridge):
                    doomed.add((HOST, resource.ifname))
                elif isinstance(resource, VirtualInterface):
                    doomed.add((resource.node, resource.ifname))
                elif isinstance(resource, Cable):
                    doomed |= {(end.node, end.ifname) for end in (resource.a, resource.b)}
        return doomed

    def _marks(self, visit: Visit, resource: Resource) -> Sequence[Link | str]:
        """What names the link on the host to delete: its mark, or where that is lost the link itself."""
        if isinstance(resource, Bridge):
            ifname, mark = resource.ifname, self.lab.mark("b", resource.name)
        elif isinstance(resource, Cable) and resource.b.node == HOST:
            ifname, mark = resource.b.ifname, wiring.cable_mark(self.lab, resource, resource.b)
        else:
            return []
        if resource.marked:
            return [mark]
        return [link for link in find_links(visit.host, [ifname]) if link.group == self.lab.group]

    def _give_back(self, visit: Visit, port: HostPort) -> None:
        kept = self.record.pop(port.key, None)
        before = None if kept is None else interfaces.PortRecord(kept["up"], kept["master"])
        interfaces.give_back_port(visit, self.lab, port, before)

    def _remove_here(
        self, channel: Channel, name: str, gone: Sequence[Resource], doomed: set[tuple[str, str]]
    ) -> None:
        batch = Batch()
        staying = [resource for resource in gone if not _goes_with(resource, doomed)]
        touched = {resource.ifname for resource in staying if isinstance(resource, Address)}
        self._node(name).interfaces += self.upkeep.remember(channel, name, touched, gone)
        for resource in staying:
            with suppress(OSError):  # its interface is gone, and it with it
                _take_away(channel, batch, resource)
        batch.send(channel)
        for resource in gone:
            if isinstance(resource, Sysctl) and resource.key in self.record:
                _set_sysctl(resource, str(self.record.pop(resource.key)))
        self._delete_inside(channel, name, gone)

    def _delete_inside(self, channel: Channel, name: str, gone: Sequence[Resource]) -> None:
        """Delete straight cables and virtual interfaces: those of the name that are in the lab's group."""
        by_name: dict[str, Resource] = {}
        for resource in gone:
            if isinstance(resource, VirtualInterface):
                by_name[resource.ifname] = resource
            elif isinstance(resource, Cable) and resource.b.node != HOST:
                by_name[resource.a.ifname] = resource
        if not by_name:
            return
        links = [link for link in find_links(channel, by_name) if link.group == self.lab.group]
        if name == HOST:
            return
        released = interfaces.members_up(channel, [r for r in gone if isinstance(r, VirtualInterface)])
        delete_links(channel, [(link, by_name[link.ifname]) for link in links])
        interfaces.switch_on(channel, released)


_LO_UP = messages.set_link("lo", up=True)


def _in_place(before: Resource, after: Resource) -> bool:
    if isinstance(before, Cable):
        return bool(before.a.mac and before.b.mac)  # else an end of it is missing
    if isinstance(before, VirtualInterface) and isinstance(after, VirtualInterface):
        return interfaces.change_in_place(before, after)
    return True


def _goes_with(resource: Resource, doomed: set[tuple[str, str]]) -> bool:
    """Whether it disappears with its interface."""
    if isinstance(resource, (Address, Qdisc)):
        return (resource.node, resource.ifname) in doomed
    if isinstance(resource, Route):
        return bool(resource.hops) and all((resource.node, hop.dev) in doomed for hop in resource.hops)
    return False


def _take_away(channel: Channel, batch: Batch, resource: Resource) -> None:
    match resource:
        case Rule():
            batch.add(ipmessages.delete_rule(resource), resource, "delete", _RULE_GONE)
        case Route():
            batch.add(ipmessages.delete_route(resource, channel.index), resource, "delete", _ROUTE_GONE)
        case Address():
            request = ipmessages.delete_address(resource.cidr, channel.index(resource.ifname))
            batch.add(request, resource, "delete", _ADDRESS_GONE)
        case Qdisc():
            request = linkinfo.delete_qdisc(channel.index(resource.ifname))
            batch.add(request, resource, "delete", _QDISC_GONE)


def _all_of(work: _NodeWork) -> Iterable[Resource]:
    yield from (cable for cable, _ in work.ends)
    yield from (*work.interfaces, *work.sysctls, *work.addresses)
    yield from (interface for _, interface in work.changed)
    yield from (route for route, _ in work.routes)
    yield from (rule for _, rule in work.rules)
    yield from work.qdiscs


# -- sysctls ---------------------------------------------------------------------------------------


def _of_interface(sysctl: Sysctl) -> bool:
    """Whether it belongs to one interface, and so needs it."""
    parts = sysctl.name.split(".")
    return len(parts) > 3 and parts[2] in ("conf", "neigh") and parts[3] not in ("all", "default")


def _allow_ipv6(address: Address) -> None:
    """On an interface of ours on the host, whatever the host's default for new ones says; it goes with it."""
    name = f"net.ipv6.conf.{address.ifname.replace('.', '/')}.disable_ipv6"
    try:
        if read_sysctl(name) == "1":
            write_sysctl(name, "0")
    except FileNotFoundError:
        return  # no IPv6 in this kernel: the address is refused, and that says so


def _write_sysctls(sysctls: Iterable[Sysctl], record: MutableMapping[str, Any]) -> None:
    for sysctl in sysctls:
        with suppress(OSError):
            record.setdefault(sysctl.key, read_sysctl(sysctl.name))
        _set_sysctl(sysctl, sysctl.value)


def _set_sysctl(sysctl: Sysctl, value: str) -> None:
    try:
        write_sysctl(sysctl.name, value)
    except (OSError, ValueError) as error:
        number = error.errno if isinstance(error, OSError) else errno.ENOENT
        hint = "this kernel has no such sysctl" if number == errno.ENOENT else None
        raise KernelError(
            f"cannot set {sysctl.key} to {value}: {os.strerror(number or 0)}",
            errno=number,
            where=sysctl.where,
            hint=hint,
        ) from None


# -- routes and rules ------------------------------------------------------------------------------


def _make_routes(channel: Channel, batch: Batch, work: _NodeWork) -> None:
    """Send what is queued, then routes (those without a gateway first) and rules behind it."""
    for route, there in sorted(work.routes, key=lambda pair: _has_gateway(pair[0])):
        try:
            request = ipmessages.add_route(route, channel.index, replace=there)
        except OSError as error:
            raise KernelError(
                f"cannot add {route.key}: one of its interfaces does not exist",
                errno=error.errno,
                where=route.where,
            ) from None
        batch.add(request, route, "add")
    for before, rule in work.rules:
        if before is not None:
            batch.add(ipmessages.delete_rule(before), rule, "change", _RULE_GONE)
        batch.add(ipmessages.add_rule(rule), rule, "add")
    failures, _ = batch.attempt(channel)
    for failure, resource, verb in failures:
        if not _waits_for_link(channel, failure, resource):
            raise refusal(failure, resource, verb)


def _has_gateway(route: Route) -> bool:
    return any(hop.via is not None for hop in route.hops)


def _waits_for_link(channel: Channel, failure: Failure, resource: Resource) -> bool:
    """Whether a route was refused only because its cable is unplugged: it comes when that is plugged in."""
    if failure.errno not in _UNREACHABLE or not isinstance(resource, Route):
        return False
    return any(hop.dev is not None and not channel.flags(hop.dev) & IFF_UP for hop in resource.hops)


# -- queueing disciplines --------------------------------------------------------------------------


def _make_qdisc(channel: Channel, qdisc: Qdisc) -> None:
    """netem; or tbf, where this kernel has no netem and only a rate is asked."""
    index, batch = index_of(channel, qdisc.ifname, qdisc), Batch()
    batch.add(linkinfo.replace_qdisc(index, "netem", linkinfo.netem_options(qdisc)), qdisc, "set")
    failures, _ = batch.attempt(channel)
    if not failures:
        return
    failure, _, verb = failures[0]
    if failure.errno not in (errno.ENOENT, errno.EOPNOTSUPP):
        raise refusal(failure, qdisc, verb)
    if not linkinfo.only_rate(qdisc):
        raise missing("netem", qdisc, failure.words)
    batch.add(linkinfo.replace_qdisc(index, "tbf", linkinfo.tbf_options(qdisc)), qdisc, "set")
    batch.send(channel)
