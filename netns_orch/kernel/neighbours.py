"""The neighbour tables: which link layer address answers for which address (rtnetlink(7), RTM_GETNEIGH).

Owns: their messages, and forgetting the neighbours that were asked for in vain.
Must not: judge what a state means for a path (``trace``).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from socket import AF_INET, AF_INET6, AF_UNSPEC, inet_ntop
from typing import NamedTuple

from netns_orch.kernel.netlink import Channel, Request, attribute, parse

RTM_DELNEIGH, RTM_GETNEIGH, NDA_DST = 29, 30, 1
_NDMSG = struct.Struct("=BxxxiHBB")
_STATES = {
    0x01: "INCOMPLETE", 0x02: "REACHABLE", 0x04: "STALE", 0x08: "DELAY", 0x10: "PROBE", 0x20: "FAILED",
    0x80: "PERMANENT",
}  # fmt: skip
_UNANSWERED = ("INCOMPLETE", "FAILED")


class Neighbour(NamedTuple):
    """An entry of the table, with the state's name as ``ip neighbour`` prints it."""

    family: int
    ifindex: int
    packed: bytes
    state: str

    @property
    def address(self) -> str:
        return inet_ntop(self.family, self.packed)


def neighbours(channel: Channel) -> Iterator[Neighbour]:
    """All IPv4 and IPv6 neighbours of the channel's network namespace, but for groups (NOARP)."""
    for message in channel.dump(Request(RTM_GETNEIGH, 0, _NDMSG.pack(AF_UNSPEC, 0, 0, 0, 0))):
        family, index, state, _, _ = _NDMSG.unpack_from(message.body)
        packed = parse(message.body, _NDMSG.size).get(NDA_DST)
        if packed and family in (AF_INET, AF_INET6) and state in _STATES:
            yield Neighbour(family, index, packed, _STATES[state])


def forget_unanswered(channel: Channel, ifindex: int) -> None:
    """Forget the neighbours that did not answer behind this link.

    An entry that was asked for while the cable was unplugged swallows what is sent until it fails, up to
    three seconds after the cable is plugged in again.
    """
    body = _NDMSG.pack
    channel.send(
        [
            Request(RTM_DELNEIGH, 0, body(one.family, ifindex, 0, 0, 0) + attribute(NDA_DST, one.packed))
            for one in neighbours(channel)
            if one.ifindex == ifindex and one.state in _UNANSWERED
        ]
    )  # a refusal means that it answered, or went, in the meantime


def forget_learned(channel: Channel) -> None:
    """Forget all that was learned: whoever is asked next is looked for anew."""
    channel.send(
        [
            Request(
                RTM_DELNEIGH,
                0,
                _NDMSG.pack(one.family, one.ifindex, 0, 0, 0) + attribute(NDA_DST, one.packed),
            )
            for one in neighbours(channel)
            if one.state != "PERMANENT"
        ]
    )
