"""The interfaces of containers as they are now, for people and programs that look at a lab.

Owns: which facts of an interface are shown.  Must not: know which of them the lab file asked for; change any.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from typing import Any

from netns_orch.kernel import ipmessages, messages
from netns_orch.kernel.cableview import read_links
from netns_orch.kernel.netlink import Channel
from netns_orch.kernel.nets import Gone, Nets, Visit


def interfaces(nets: Nets, nodes: Iterable[str]) -> dict[str, list[dict[str, Any]]]:
    """The interfaces of each node that runs, lo first, in the kernel's order.

    A row: ifname index kind mac mtu up carrier master addresses.  ``carrier`` is the operational state,
    ``kind`` is None for hardware and lo, ``addresses`` are as in ``10.0.0.2/24``, link-local ones too.
    """

    def read(visit: Visit) -> dict[str, list[dict[str, Any]]]:
        found = {}
        for node in nodes:
            with suppress(Gone), visit.node(node) as channel:
                found[node] = _rows(channel)
        return found

    return nets.run(read)


def _rows(channel: Channel) -> list[dict[str, Any]]:
    links = read_links(channel)
    names = messages.names_by_index(links)
    addresses: dict[int, list[str]] = {}
    for message in channel.dump(ipmessages.dump_addresses()):
        fact = ipmessages.decode_address(message.body)
        addresses.setdefault(fact.ifindex, []).append(fact.cidr)
    return [
        {
            "ifname": link.ifname,
            "index": link.ifindex,
            "kind": messages.string(link.info().get(messages.IFLA_INFO_KIND, b"")) or None,
            "mac": link.mac,
            "mtu": link.mtu,
            "up": link.up,
            "carrier": link.operational or bool(link.flags & messages.IFF_LOOPBACK and link.up),
            "master": names.get(link.master),
            "addresses": addresses.get(link.ifindex, []),
        }
        for link in links
    ]
