"""The file format pcapng (draft-ietf-opsawg-pcapng): its blocks as bytes.

Owns: how sections, interfaces, names, packets and counts are encoded.  Must not: know where they come from,
or do I/O.  Times are Unix time in nanoseconds, and every interface says so (if_tsresol 9).
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping
from ipaddress import ip_address, ip_interface

_SECTION, _INTERFACE, _NAMES, _STATISTICS, _PACKET = 0x0A0D0D0A, 1, 4, 5, 6
_BYTE_ORDER, _UNKNOWN_LENGTH = 0x1A2B3C4D, -1
_COMMENT, _END_OF_OPTIONS = 1, 0
_SHB_HARDWARE, _SHB_OS, _SHB_APPLICATION = 2, 3, 4
_IF_NAME, _IF_DESCRIPTION, _IF_IPV4, _IF_IPV6, _IF_MAC, _IF_TSRESOL, _IF_FILTER, _IF_OS = (
    2,
    3,
    4,
    5,
    6,
    9,
    11,
    12,
)
_NRB_IPV4, _NRB_IPV6 = 1, 2
_ISB_START, _ISB_END, _ISB_RECEIVED, _ISB_DROPPED, _ISB_DELIVERED = 2, 3, 4, 5, 8
_LONGEST_OPTION = 0xFFFF
_NANOSECONDS = 9
_FILTER_IS_TEXT = b"\0"

_INBOUND, _OUTBOUND = 1, 2
_FLAGS = {
    0: _INBOUND | 1 << 2,  # PACKET_HOST: unicast
    1: _INBOUND | 3 << 2,  # PACKET_BROADCAST
    2: _INBOUND | 2 << 2,  # PACKET_MULTICAST
    3: _INBOUND | 4 << 2,  # PACKET_OTHERHOST: promiscuous
    4: _OUTBOUND,  # PACKET_OUTGOING
}
"""epb_flags (direction, kind of reception) by packet(7)'s types of packets."""
_PACKET_HEAD = struct.Struct("<IIIIIII")
_PACKET_OPTIONS = struct.Struct("<HHIHHI")
_PACKET_FRAME = _PACKET_HEAD.size + _PACKET_OPTIONS.size
_PADDING = (b"", b"\0\0\0", b"\0\0", b"\0")


def section(*, application: str, os: str, hardware: str = "", comment: str = "") -> bytes:
    """Section Header Block: the beginning of a file, by whom and on what it was written."""
    options = _options(
        (_COMMENT, comment), (_SHB_HARDWARE, hardware), (_SHB_OS, os), (_SHB_APPLICATION, application)
    )
    return _block(_SECTION, struct.pack("<IHHq", _BYTE_ORDER, 1, 0, _UNKNOWN_LENGTH) + options)


def interface(
    name: str,
    *,
    link_type: int,
    snaplen: int,
    description: str = "",
    mac: str = "",
    addresses: Iterable[str] = (),
    filter: str = "",
    os: str = "",
) -> bytes:
    """Interface Description Block; packets name it by its number, the first being 0.

    ``link_type`` is one of https://www.tcpdump.org/linktypes.html, ``addresses`` are as in ``10.0.0.2/24``.
    """
    options = _options(
        (_IF_NAME, name),
        (_IF_DESCRIPTION, description),
        *(_address_option(address) for address in addresses),
        (_IF_MAC, bytes.fromhex(mac.replace(":", "")) if mac.count(":") == 5 else b""),
        (_IF_TSRESOL, bytes((_NANOSECONDS,))),
        (_IF_FILTER, _FILTER_IS_TEXT + filter.encode() if filter else b""),
        (_IF_OS, os),
    )
    return _block(_INTERFACE, struct.pack("<HHI", link_type, 0, snaplen) + options)


def _address_option(cidr: str) -> tuple[int, bytes]:
    parsed = ip_interface(cidr)
    if parsed.version == 4:
        return _IF_IPV4, parsed.packed + parsed.netmask.packed
    return _IF_IPV6, parsed.packed + bytes((parsed.network.prefixlen,))


def names(addresses: Mapping[str, str]) -> bytes:
    """Name Resolution Block: names by address (``10.0.0.2``); nothing where there are none."""
    if not addresses:
        return b""
    body = b""
    for address, name in addresses.items():
        packed = ip_address(address).packed
        body += _option(_NRB_IPV4 if len(packed) == 4 else _NRB_IPV6, packed + name.encode() + b"\0")
    return _block(_NAMES, body + struct.pack("<HH", _END_OF_OPTIONS, 0))


def packet(interface: int, time: int, data: bytes, length: int, kind: int) -> bytes:
    """Enhanced Packet Block.

    ``length`` is that of the whole packet, of which ``data`` may be the beginning; ``kind`` is the type that
    packet(7) gives it.
    """
    captured = len(data)
    padding = _PADDING[captured & 3]
    total = _PACKET_FRAME + captured + len(padding)
    head = _PACKET_HEAD.pack(_PACKET, total, interface, time >> 32, time & 0xFFFFFFFF, captured, length)
    return b"".join((head, data, padding, _PACKET_OPTIONS.pack(2, 4, _FLAGS.get(kind, 0), 0, 0, total)))


def statistics(
    interface: int, *, started: int, ended: int, received: int, dropped: int, delivered: int
) -> bytes:
    """Interface Statistics Block: packets that the filter let through, of them lost, and in this file."""
    counts = ((_ISB_RECEIVED, received), (_ISB_DROPPED, dropped), (_ISB_DELIVERED, delivered))
    options = _options(
        (_ISB_START, _time(started)),
        (_ISB_END, _time(ended)),
        *((code, struct.pack("<Q", count)) for code, count in counts),
    )
    return _block(_STATISTICS, struct.pack("<I", interface) + _time(ended) + options)


def _time(nanoseconds: int) -> bytes:
    return struct.pack("<II", nanoseconds >> 32, nanoseconds & 0xFFFFFFFF)


def _block(kind: int, body: bytes) -> bytes:
    total = len(body) + 12
    return struct.pack("<II", kind, total) + body + struct.pack("<I", total)


def _options(*options: tuple[int, str | bytes]) -> bytes:
    """Those that say something, and the end of them."""
    told = [(code, value.encode() if isinstance(value, str) else value) for code, value in options]
    return b"".join(_option(code, value) for code, value in told if value) + bytes(4)


def _option(code: int, value: bytes) -> bytes:
    value = value[:_LONGEST_OPTION]
    return struct.pack("<HH", code, len(value)) + value + _PADDING[len(value) & 3]
