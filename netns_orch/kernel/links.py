"""Links in general: batches whose failures blame a resource, look-ups, deletion, and the wait for carrier.

Owns: how a refusal of the kernel becomes an error that names the resource and its place in the lab file, and
the cheap way to delete many links.
Must not: know how a certain kind of link is made (``wiring``, ``interfaces``), or look for links by name
patterns: what is deleted on the host is named by its mark, in a container by name and the lab's link group.
"""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import NamedTuple

from netns_orch.errors import KernelError, MissingFeature, NetorchError
from netns_orch.kernel import ipmessages, linkinfo, messages
from netns_orch.kernel.messages import Link
from netns_orch.kernel.netlink import Channel, Failure, Message, Request, parse
from netns_orch.kernel.nets import Gone, Mark, Visit, write_sysctl
from netns_orch.resources import (
    GROUP_FIRST,
    GROUP_LAST,
    Bridge,
    Cable,
    Resource,
    VirtualInterface,
)

SETTLE_TIMEOUT = 3.0
FORWARDING_TIMEOUT = 35.0
"""Longer than a bridge with the kernel's own spanning tree times needs (twice 15 s)."""
_LISTENING, _LEARNING = 1, 2
ABSENT = frozenset((errno.ENODEV,))
_HINTS = {
    errno.EPERM: "netorch must run as root",
    errno.EACCES: "IPv6 is switched off on the interface: sysctl net.ipv6.conf.INTERFACE.disable_ipv6",
    errno.ENETUNREACH: "a gateway must be in a subnet of one of the container's interfaces",
    errno.EHOSTUNREACH: "a gateway must be in a subnet of one of the container's interfaces",
    errno.ENETDOWN: "the interface is down",
    errno.ESRCH: "the container's process has ended meanwhile",
}


class Lab(NamedTuple):
    """Whose links are made."""

    name: str
    id: str
    group: int
    bridges: Mapping[str, str]
    """Real names by the lab file's."""

    def mark(self, what: str, name: str) -> str:
        """The mark of one of the lab's links."""
        return str(Mark(self.name, self.id, what, name))


class Batch:
    """Requests for one namespace, each with the resource to blame and the errors that are none."""

    def __init__(self) -> None:
        self.requests: list[Request] = []
        self._about: list[tuple[Resource, str, frozenset[int]]] = []

    def add(
        self, request: Request, resource: Resource, verb: str, tolerated: frozenset[int] = frozenset()
    ) -> None:
        """Queue a request; ``verb`` completes "cannot ... <resource>"."""
        self.requests.append(request)
        self._about.append((resource, verb, tolerated))

    def attempt(self, channel: Channel) -> tuple[list[tuple[Failure, Resource, str]], list[Message]]:
        """Send all; the failures that are not tolerated, and the answers."""
        reply = channel.send(self.requests)
        failures = []
        for failure in reply.failures:
            resource, verb, tolerated = self._about[failure.position]
            if failure.errno not in tolerated:
                failures.append((failure, resource, verb))
        self.requests, self._about = [], []
        return failures, reply.messages

    def send(self, channel: Channel) -> list[Message]:
        """Send all; the answers.  Raises a KernelError for the first failure."""
        if not self.requests:
            return []
        failures, answers = self.attempt(channel)
        if failures:
            raise refusal(*failures[0])
        return answers


def refusal(failure: Failure, resource: Resource, verb: str) -> NetorchError:
    """The error for a request that the kernel refused."""
    what = f"cannot {verb} {resource.key}: {failure.words}"
    if failure.errno == errno.EOPNOTSUPP:
        if isinstance(resource, Bridge) and resource.vlan_filtering:
            return missing("vlan-filter", resource, failure.words)
        if isinstance(resource, (VirtualInterface, Bridge, Cable)):
            return missing(_kind_of(resource), resource, failure.words)
    return KernelError(what, errno=failure.errno, where=resource.where, hint=_HINTS.get(failure.errno))


def _kind_of(resource: VirtualInterface | Bridge | Cable) -> str:
    if isinstance(resource, VirtualInterface):
        return resource.kind
    return "bridge" if isinstance(resource, Bridge) else "veth"


def missing(kind: str, resource: Resource, words: str) -> MissingFeature:
    """The error for a kind of link or discipline that this kernel does not have."""
    module = linkinfo.MODULES.get(kind)
    hint = f"it needs the kernel module {module} (modprobe {module})"
    if module is None:
        hint = "it needs a kernel whose bridges filter VLANs (CONFIG_BRIDGE_VLAN_FILTERING)"
    return MissingFeature(f"this kernel can't make {resource.key}: {words}", where=resource.where, hint=hint)


def taken(ifname: str, resource: Resource) -> KernelError:
    """The error for a name on the host that something else has."""
    return KernelError(
        f"there is an interface {ifname} already, which is not this lab's: cannot make {resource.key}",
        errno=errno.EEXIST,
        where=resource.where,
        hint="choose another name (`ifname:` of a bridge, `--name` of the lab), or `--private`",
    )


# -- deleting --------------------------------------------------------------------------------------


def delete_links(channel: Channel, doomed: Sequence[tuple[Link | str, Resource]]) -> None:
    """Delete links, each given by mark or as found; one that is gone already is fine.

    Each deletion alone waits for the kernel (16 ms and more).  So several are gathered in a group of their
    own, which is then deleted as one.
    """
    if len(doomed) == 1:
        link, resource = doomed[0]
        batch = Batch()
        if isinstance(link, str):
            batch.add(messages.delete_link(link, by_altname=True), resource, "delete", ABSENT)
        else:
            batch.add(messages.delete_link_index(link.ifindex), resource, "delete", ABSENT)
        batch.send(channel)
    elif doomed:
        _delete_together(channel, doomed)
    channel.forget_indexes()


def _delete_together(channel: Channel, doomed: Sequence[tuple[Link | str, Resource]]) -> None:
    group, batch = _unused_group(), Batch()
    for link, resource in doomed:
        by_mark = isinstance(link, str)
        name = link if isinstance(link, str) else link.ifname
        batch.add(messages.set_link(name, by_altname=by_mark, group=group), resource, "delete", ABSENT)
    batch.add(messages.delete_link_group(group), doomed[0][1], "delete", ABSENT)
    batch.send(channel)


def _unused_group() -> int:
    """One of two thousand million, none of which is a lab's: nobody else's, as good as certainly."""
    while True:
        group = int.from_bytes(os.urandom(4), "little") >> 1
        if group > 0xFFFF and not GROUP_FIRST <= group <= GROUP_LAST:
            return group


# -- looking at single links -------------------------------------------------------------------------


def find_link(channel: Channel, ifname: str, *, by_altname: bool = False) -> Link | None:
    """The link of that name; None where there is none."""
    found = find_links(channel, [ifname], by_altname=by_altname)
    return found[0] if found else None


def find_links(channel: Channel, ifnames: Iterable[str], *, by_altname: bool = False) -> list[Link]:
    """The links of these names, as far as they exist."""
    requests = [messages.get_link(ifname, by_altname=by_altname) for ifname in ifnames]
    reply = channel.send(requests)
    for failure in reply.failures:
        if failure.errno != errno.ENODEV:
            raise OSError(failure.errno, failure.words)
    return [messages.decode_link(message.body) for message in reply.messages]


def exists(channel: Channel, ifname: str) -> bool:
    """Whether there is an interface of that name."""
    channel.forget_indexes()
    try:
        channel.index(ifname)
    except OSError:
        return False
    return True


def index_of(channel: Channel, ifname: str, resource: Resource) -> int:
    """The index of an interface that must be there."""
    try:
        return channel.index(ifname)
    except OSError as error:
        raise KernelError(
            f"there is no interface {ifname} for {resource.key}", errno=error.errno, where=resource.where
        ) from None


def name_of(channel: Channel, index: int) -> str | None:
    """The name of the link with this index."""
    for message in channel.dump(messages.dump_links()):
        link = messages.decode_link(message.body)
        if link.ifindex == index:
            return link.ifname
    return None


def pid_of(visit: Visit, node: str, resource: Resource) -> int:
    """A process in the node's namespace."""
    pid = visit.pids.get(node)
    if pid is None:
        raise KernelError(f"container {node} does not run: cannot make {resource.key}", where=resource.where)
    return pid


@contextmanager
def entered(visit: Visit, node: str, resource: Resource) -> Iterator[Channel]:
    """Enter a node's namespace; a KernelError that blames the resource where it has ended."""
    try:
        with visit.node(node) as channel:
            yield channel
    except Gone:
        what = f"container {node} does not run: cannot make {resource.key}"
        raise KernelError(what, where=resource.where) from None


def set_link_local(channel: Channel, ifname: str, on: bool, resource: Resource) -> None:
    """Give a link that is up its IPv6 link-local address, or take it away; the thread is in its namespace.

    The sysctl and not the message: only that makes the address at once.
    """
    try:
        write_sysctl(f"net.ipv6.conf.{ifname.replace('.', '/')}.addr_gen_mode", "0" if on else "1")
    except OSError as error:
        raise KernelError(
            f"cannot change {resource.key}: {os.strerror(error.errno or 0)}",
            errno=error.errno,
            where=resource.where,
        ) from None
    if on:
        return
    index, batch = index_of(channel, ifname, resource), Batch()
    for message in channel.dump(ipmessages.dump_addresses()):
        fact = ipmessages.decode_address(message.body)
        if fact.ifindex == index and fact.cidr.startswith("fe80:"):
            batch.add(ipmessages.delete_address(fact.cidr, index), resource, "change")
    batch.send(channel)


# -- until packets flow ------------------------------------------------------------------------------


def settle(
    visit: Visit, channel: Channel, ifnames: Sequence[str], timeout: float = SETTLE_TIMEOUT
) -> list[Link]:
    """Wait until the kernel's link watch has seen the carrier of these links; the links.

    Asking for a link runs the watch at once (Linux 6.8); before, it takes up to a second of its own.
    """
    deadline, waiting, settled = time.monotonic() + timeout, list(ifnames), []
    while waiting:
        links = find_links(channel, waiting)
        settled += [link for link in links if link.operational]
        waiting = [link.ifname for link in links if not link.operational]
        if waiting and time.monotonic() >= deadline:
            break
        if waiting:
            visit.pause(0.01)
    return settled


def wait_forwarding(visit: Visit, links: Sequence[Link], timeout: float = FORWARDING_TIMEOUT) -> None:
    """Wait until no port of these is still listening or learning, as spanning tree makes it."""
    deadline = time.monotonic() + timeout
    waiting = [link.ifname for link in links if port_state(link) in (_LISTENING, _LEARNING)]
    while waiting and time.monotonic() < deadline:
        visit.pause(0.1)
        links = find_links(visit.host, waiting)
        waiting = [link.ifname for link in links if port_state(link) in (_LISTENING, _LEARNING)]


def port_state(link: Link) -> int | None:
    """The spanning tree state of a bridge port; None for what is none."""
    info = link.info()
    if messages.string(info.get(messages.IFLA_INFO_SLAVE_KIND, b"")) != "bridge":
        return None
    return parse(info.get(messages.IFLA_INFO_SLAVE_DATA, b"")).get(messages.IFLA_BRPORT_STATE, b"\0")[0]
