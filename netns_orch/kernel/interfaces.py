"""Interfaces made inside containers, and the host's own interfaces that are plugged into a bridge.

Owns: which messages, in which order, make and change them.
Must not: deal with cables and the lab's bridges (``wiring``), or with addresses and routes (``network``).
"""

from __future__ import annotations

import errno
from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import NamedTuple

from netns_orch.errors import KernelError
from netns_orch.kernel import linkinfo, messages
from netns_orch.kernel.links import ABSENT, Batch, Lab, find_link, index_of, name_of, set_link_local
from netns_orch.kernel.messages import IFF_UP
from netns_orch.kernel.netlink import Channel
from netns_orch.kernel.nets import IPV6_MIN_MTU, Visit
from netns_orch.resources import (
    HostPort,
    VirtualInterface,
)

# -- virtual interfaces ----------------------------------------------------------------------------


def make_interfaces(visit: Visit, channel: Channel, lab: Lab, wanted: Sequence[VirtualInterface]) -> None:
    """Make virtual interfaces, those below first; then put members in.  All stay down."""
    for interface in below_first(wanted):
        parent = 0 if interface.parent is None else index_of(channel, interface.parent, interface)
        batch = Batch()
        batch.add(linkinfo.new_interface(interface, parent, lab.group), interface, "make")
        local = visit.link_local(interface.link_local, interface.mtu or IPV6_MIN_MTU)
        if local is not None:
            batch.add(messages.set_link(interface.ifname, link_local=local), interface, "configure")
        batch.send(channel)
    for interface in wanted:
        put_in(channel, interface, interface.members)


def below_first(wanted: Sequence[VirtualInterface]) -> list[VirtualInterface]:
    """In an order in which each parent comes before what stands on it."""
    rest, done = list(wanted), []
    while rest:
        names = {interface.ifname for interface in rest}
        ready = [interface for interface in rest if interface.parent not in names] or rest
        done += ready
        rest = [interface for interface in rest if interface not in ready]
    return done


def put_in(channel: Channel, interface: VirtualInterface, members: Iterable[str]) -> None:
    """Put members into a bond, VRF or bridge."""
    batch = Batch()
    master = index_of(channel, interface.ifname, interface)
    for member in members:
        if interface.kind == "bond":  # takes only links that are down
            batch.add(messages.set_link(member, up=False), interface, f"put {member} into")
        batch.add(messages.set_link(member, master=master), interface, f"put {member} into")
        if interface.kind == "bond":
            batch.add(messages.set_link(member, up=True), interface, f"put {member} into")
    batch.send(channel)


def _take_out(channel: Channel, batch: Batch, interface: VirtualInterface, member: str) -> None:
    with suppress(OSError):  # the member may be gone
        up = bool(channel.flags(member) & IFF_UP)
        verb = f"take {member} out of"
        batch.add(messages.set_link(member, master=0), interface, verb, ABSENT)
        batch.add(messages.set_link(member, up=up), interface, verb, ABSENT)  # a bond switches it off


def members_up(channel: Channel, going: Sequence[VirtualInterface]) -> list[tuple[str, VirtualInterface]]:
    """The members of bonds that are on: when its bond goes, the kernel switches each off."""
    members = []
    for interface in going:
        for member in interface.members if interface.kind == "bond" else ():
            with suppress(OSError):
                if channel.flags(member) & IFF_UP:
                    members.append((member, interface))
    return members


def switch_on(channel: Channel, members: Sequence[tuple[str, VirtualInterface]]) -> None:
    """Switch links on again that lost their bond; those that went with it are passed over."""
    batch = Batch()
    for member, interface in members:
        batch.add(messages.set_link(member, up=True), interface, f"release {member} from", ABSENT)
    batch.send(channel)


def change_in_place(before: VirtualInterface, after: VirtualInterface) -> bool:
    """Whether the kernel can change one into the other."""
    fixed = ("kind", "parent", "id", "mode", "table", "local", "remote", "group", "port")
    dropped = (before.mac is not None and after.mac is None) or (before.mtu is not None and after.mtu is None)
    return not dropped and all(getattr(before, name) == getattr(after, name) for name in fixed)


def change_interface(
    visit: Visit, channel: Channel, before: VirtualInterface, after: VirtualInterface
) -> None:
    """Change a virtual interface in place."""
    batch = Batch()
    if (before.mac, before.mtu) != (after.mac, after.mtu):
        batch.add(messages.set_link(after.ifname, mac=after.mac, mtu=after.mtu), after, "change")
    for member in before.members:
        if member not in after.members:
            _take_out(channel, batch, after, member)
    batch.send(channel)
    put_in(channel, after, [member for member in after.members if member not in before.members])
    local = visit.link_local(after.link_local, after.mtu or IPV6_MIN_MTU)
    if local is not None and local != visit.link_local(before.link_local, before.mtu or IPV6_MIN_MTU):
        set_link_local(channel, after.ifname, local, after)


# -- the host's own interfaces -----------------------------------------------------------------------


class PortRecord(NamedTuple):
    """How an interface of the host's own was before it was plugged in."""

    up: bool
    master: str | None


def plug_in_port(visit: Visit, lab: Lab, port: HostPort) -> PortRecord:
    """Plug an interface of the host's own into a bridge; how it was before."""
    host = visit.host
    link = find_link(host, port.ifname)
    if link is None:
        raise KernelError(f"the host has no interface {port.ifname}", errno=errno.ENODEV, where=port.where)
    master = name_of(host, link.master) if link.master else None
    index, batch = index_of(host, lab.bridges[port.bridge], port), Batch()
    if lab.mark("p", port.ifname) not in link.altnames():
        batch.add(messages.add_altname(port.ifname, lab.mark("p", port.ifname)), port, "mark")
    batch.add(messages.set_link(port.ifname, master=index, up=True), port, "plug in")
    batch.send(host)
    return PortRecord(link.up, master)


def give_back_port(visit: Visit, lab: Lab, port: HostPort, record: PortRecord | None) -> None:
    """Unplug an interface of the host's own, and leave it as it was before."""
    host, mark = visit.host, lab.mark("p", port.ifname)
    master = record.master if record is not None else None
    index = 0
    if master is not None:
        with suppress(OSError):
            index = host.index(master)
    up = False if record is not None and not record.up else None
    batch = Batch()
    batch.add(messages.set_link(mark, by_altname=True, master=index, up=up), port, "give back", ABSENT)
    batch.add(messages.delete_altname(mark), port, "give back", ABSENT)
    batch.send(host)
