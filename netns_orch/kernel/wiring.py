"""Bridges and cables: made, changed, and the ends of cables plugged in.

Owns: which messages, in which order, make and change them.
Must not: deal with addresses, routes, rules or sysctls (``network``).
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable, Sequence

from netns_orch.errors import KernelError, NetorchError
from netns_orch.kernel import messages
from netns_orch.kernel.links import (
    Batch,
    Lab,
    entered,
    exists,
    find_links,
    index_of,
    pid_of,
    refusal,
    set_link_local,
    taken,
)
from netns_orch.kernel.messages import VLAN_PVID, VLAN_UNTAGGED
from netns_orch.kernel.neighbours import forget_unanswered
from netns_orch.kernel.netlink import Channel, Failure, Request
from netns_orch.kernel.nets import Visit
from netns_orch.resources import (
    HOST,
    Bridge,
    Cable,
    CableEnd,
)

_MARKED = frozenset((errno.EEXIST,))
ETHTOOL_STXCSUM, ETHTOOL_STSO, ETHTOOL_SGSO, ETHTOOL_SGRO = 0x17, 0x1F, 0x24, 0x2C

# -- bridges ---------------------------------------------------------------------------------------


def make_bridges(visit: Visit, lab: Lab, bridges: Sequence[Bridge]) -> None:
    """Make bridges, marked but down: they go up when their ports are in."""
    batch = Batch()
    for bridge in bridges:
        local = visit.link_local(bridge.link_local, bridge.mtu)
        batch.add(messages.new_bridge(bridge, lab.group), bridge, "make")
        batch.add(messages.set_link(bridge.ifname, mtu=bridge.mtu, link_local=local), bridge, "configure")
        batch.add(messages.add_altname(bridge.ifname, lab.mark("b", bridge.name)), bridge, "mark")
    failures, _ = batch.attempt(visit.host)
    for failure, resource, verb in failures:
        assert isinstance(resource, Bridge)
        if failure.errno == errno.EEXIST:
            raise taken(resource.ifname, resource)
        raise refusal(failure, resource, verb)


def change_bridge(visit: Visit, lab: Lab, before: Bridge, after: Bridge) -> None:
    """Change a bridge in place."""
    host, batch = visit.host, Batch()
    if not before.marked:
        batch.add(messages.add_altname(before.ifname, lab.mark("b", after.name)), after, "mark")
    if before.ifname != after.ifname:
        batch.add(messages.set_link(before.ifname, up=False), after, "rename")
        batch.add(messages.rename_link(index_of(host, before.ifname, after), after.ifname), after, "rename")
        host.forget_indexes()
    if before.mac != after.mac:
        batch.add(messages.set_link(after.ifname, mac=after.mac), after, "change")
    if before.mtu != after.mtu:
        batch.add(messages.set_link(after.ifname, mtu=after.mtu), after, "change")
    if (before.stp, before.multicast_snooping) != (after.stp, after.multicast_snooping):
        batch.add(messages.set_bridge_options(after), after, "change")
    if before.vlan_filtering != after.vlan_filtering:
        batch.add(messages.set_vlan_filtering(after.ifname, after.vlan_filtering), after, "change")
    batch.send(host)
    local = visit.link_local(after.link_local, after.mtu)
    if local is not None and local != visit.link_local(before.link_local, before.mtu):
        with visit.node(HOST) as channel:
            set_link_local(channel, after.ifname, local, after)


# -- cables ----------------------------------------------------------------------------------------


def lay_cables(visit: Visit, lab: Lab, cables: Sequence[Cable]) -> None:
    """Make veth pairs, each end where it belongs; ends on the host are marked, in their bridge and up.

    Ends in containers stay down and bare; that is the part of each container's own batch.
    """
    on_host = [cable for cable in cables if cable.b.node == HOST]
    _lay_on_host(visit, lab, on_host)
    straight: dict[str, list[Cable]] = {}
    for cable in cables:
        if cable.b.node != HOST:
            straight.setdefault(cable.a.node, []).append(cable)
    for node, some in straight.items():
        with entered(visit, node, some[0]) as channel:
            batch = Batch()
            for cable in some:
                batch.add(_straight(visit, lab, cable), cable, "lay")
            batch.send(channel)
    for cable in cables:
        if not cable.offload:
            set_offload(visit, cable)


def _straight(visit: Visit, lab: Lab, cable: Cable) -> Request:
    return messages.new_veth(
        ifname=cable.a.ifname,
        mac=cable.a.mac,
        mtu=cable.mtu,
        peer=cable.b.ifname,
        peer_mac=cable.b.mac,
        peer_pid=pid_of(visit, cable.b.node, cable),
        group=lab.group,
        peer_group=lab.group,
    )


def _lay_on_host(visit: Visit, lab: Lab, cables: Sequence[Cable]) -> None:
    if not cables:
        return
    host, batch = visit.host, Batch()
    for cable in cables:
        a, b = cable.a, cable.b
        inside = a.node != HOST
        batch.add(
            messages.new_veth(
                ifname=b.ifname,
                mac=b.mac,
                mtu=cable.mtu,
                peer=a.ifname,
                peer_mac=a.mac,
                peer_pid=pid_of(visit, a.node, cable) if inside else None,
                group=lab.group,
                peer_group=0 if inside else lab.group,
                master=_master(host, lab, b, cable),
            ),
            cable,
            "lay",
        )
        if not inside:
            _plug_in(batch, visit, lab, cable, a, up=cable.up, master=_master(host, lab, a, cable))
        _plug_in(batch, visit, lab, cable, b, up=cable.up or not inside)
    failures, _ = batch.attempt(host)
    for failure, resource, verb in failures:
        assert isinstance(resource, Cable)
        raise _refused_cable(host, failure, resource, verb)
    _set_vlans(host, [end for cable in cables for end in (cable.a, cable.b) if end.node == HOST], cables)


def _plug_in(
    batch: Batch, visit: Visit, lab: Lab, cable: Cable, end: CableEnd, *, up: bool, master: int | None = None
) -> None:
    local = visit.link_local(end.link_local, cable.mtu)
    isolated = True if end.isolated else None
    if cable.a.node == HOST:
        # Of its own, before: the options of a port need its bridge, and the kernel switches a link on before
        # it reads in the same message whether that is to have a link-local address (the other end may be up).
        batch.add(messages.set_link(end.ifname, master=master, link_local=local), cable, "plug in")
        local = None
    batch.add(messages.set_link(end.ifname, up=up, link_local=local, isolated=isolated), cable, "plug in")
    batch.add(messages.add_altname(end.ifname, cable_mark(lab, cable, end)), cable, "mark")
    if end.hairpin:
        batch.add(messages.set_link(end.ifname, hairpin=True), cable, "plug in")


def cable_mark(lab: Lab, cable: Cable, end: CableEnd) -> str:
    """The mark of a cable's end on the host."""
    if cable.a.node == HOST:
        return lab.mark("x", end.ifname)
    return lab.mark("c", f"{cable.a.node}.{cable.a.ifname}")


def _refused_cable(host: Channel, failure: Failure, cable: Cable, verb: str) -> NetorchError:
    if failure.errno == errno.EEXIST and verb == "lay":
        for end in (cable.b, cable.a):
            if end.node == HOST and exists(host, end.ifname):
                return taken(end.ifname, cable)
    return refusal(failure, cable, verb)


def _master(host: Channel, lab: Lab, end: CableEnd, cable: Cable) -> int:
    if end.bridge is None:
        return 0
    return index_of(host, lab.bridges[end.bridge], cable)


def _set_vlans(host: Channel, ends: Iterable[CableEnd], blamed: Sequence[Cable]) -> None:
    batch = Batch()
    by_name = {end.ifname: cable for cable in blamed for end in (cable.a, cable.b)}
    for end in ends:
        wanted = port_vlans(end)
        if wanted == DEFAULT_VLANS:
            continue
        cable = by_name[end.ifname]
        index = index_of(host, end.ifname, cable)
        batch.add(messages.set_port_vlans(index, DEFAULT_VLANS, delete=True), cable, "set the VLANs of")
        batch.add(messages.set_port_vlans(index, wanted), cable, "set the VLANs of")
    batch.send(host)


DEFAULT_VLANS = {1: VLAN_PVID | VLAN_UNTAGGED}
"""What the kernel gives a new port of a bridge that filters VLANs."""


def port_vlans(end: CableEnd) -> dict[int, int]:
    """The VLANs of a bridge port, with their flags."""
    if end.access is not None:
        return {end.access: VLAN_PVID | VLAN_UNTAGGED}
    if not end.trunk and end.native is None:
        return DEFAULT_VLANS
    vlans = dict.fromkeys(end.trunk, 0)
    if end.native is not None:
        vlans[end.native] = VLAN_PVID | VLAN_UNTAGGED
    return vlans


def change_cable(visit: Visit, lab: Lab, before: Cable, after: Cable) -> None:
    """Change a cable in place."""
    for old, new in ((before.a, after.a), (before.b, after.b)):
        with entered(visit, new.node, after) as channel:
            batch = Batch()
            mac = new.mac if new.mac != old.mac else None
            mtu = after.mtu if after.mtu != before.mtu else None
            if mac is not None or mtu is not None:
                batch.add(messages.set_link(new.ifname, mac=mac, mtu=mtu), after, "change")
            if new.node == HOST:
                if not before.marked:
                    mark = cable_mark(lab, after, new)
                    batch.add(messages.add_altname(new.ifname, mark), after, "mark", _MARKED)
                _change_port(channel, lab, batch, after, old, new)
            if before.up != after.up:
                batch.add(messages.set_link(new.ifname, up=end_up(after, new)), after, "switch")
            batch.send(channel)
            local = visit.link_local(new.link_local, after.mtu)
            if local is not None and local != visit.link_local(old.link_local, before.mtu):
                set_link_local(channel, new.ifname, local, after)
    if before.up != after.up:
        for end in (after.a, after.b):  # runs the link watch, so that each end knows of the other
            with entered(visit, end.node, after) as channel:
                for link in find_links(channel, [end.ifname]):
                    if after.up:
                        forget_unanswered(channel, link.ifindex)
    if before.offload != after.offload:
        set_offload(visit, after)


def end_up(cable: Cable, end: CableEnd) -> bool:
    """Whether this end is switched on: of a cable that is down, the end at which it is unplugged is not."""
    unplugged = cable.a if cable.b.node != HOST or cable.a.node == HOST else cable.b
    return cable.up or end is not unplugged


def _change_port(host: Channel, lab: Lab, batch: Batch, cable: Cable, old: CableEnd, new: CableEnd) -> None:
    if new.bridge != old.bridge:
        batch.add(messages.set_link(new.ifname, master=_master(host, lab, new, cable)), cable, "plug in")
    plain = CableEnd(node=HOST, ifname=new.ifname, mac=new.mac)  # as the kernel makes a port
    was = old if new.bridge == old.bridge else plain
    if (new.isolated, new.hairpin) != (was.isolated, was.hairpin):
        options = messages.set_link(new.ifname, isolated=new.isolated, hairpin=new.hairpin)
        batch.add(options, cable, "change")
    old_vlans = port_vlans(old) if new.bridge == old.bridge else DEFAULT_VLANS
    new_vlans = port_vlans(new)
    if old_vlans != new_vlans:
        index = index_of(host, new.ifname, cable)
        batch.add(messages.set_port_vlans(index, old_vlans, delete=True), cable, "set the VLANs of")
        batch.add(messages.set_port_vlans(index, new_vlans), cable, "set the VLANs of")


def set_offload(visit: Visit, cable: Cable) -> None:
    """Switch check sum and segmentation offload at both ends (ethtool(8))."""
    order = (ETHTOOL_STXCSUM, ETHTOOL_STSO, ETHTOOL_SGSO)
    commands = order if cable.offload else (ETHTOOL_SGRO, *reversed(order))
    for end in (cable.a, cable.b):
        with entered(visit, end.node, cable) as channel:
            try:
                for command in commands:
                    channel.ethtool(end.ifname, command, int(cable.offload))
            except OSError as error:
                words = os.strerror(error.errno or 0)
                raise KernelError(
                    f"cannot switch offload of {cable.key}: {words}", errno=error.errno, where=cable.where
                ) from None
