"""A strict reader of pcapng files (draft-ietf-opsawg-pcapng), of the blocks that a capture of ours has."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

SECTION, INTERFACE, NAMES, STATISTICS, PACKET = 0x0A0D0D0A, 1, 4, 5, 6


@dataclass(frozen=True)
class Packet:
    """One packet; ``time`` is Unix time in ns, ``way`` in or out."""

    interface: str
    time: int
    data: bytes
    length: int
    way: str | None


@dataclass
class Interface:
    """An interface, its options as bytes by their codes, and its statistics likewise."""

    link_type: int
    snaplen: int
    options: dict[int, list[bytes]]
    statistics: dict[int, list[bytes]] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """if_name."""
        return self.options[2][0].decode()

    def count(self, code: int) -> int:
        """A number of its statistics: 4 received, 5 dropped, 8 delivered."""
        return int(struct.unpack("<Q", self.statistics[code][0])[0])


@dataclass
class File:
    """All that is in it."""

    section: dict[int, list[bytes]]
    interfaces: list[Interface]
    names: dict[bytes, str]
    packets: list[Packet]

    def of(self, interface: str) -> list[Packet]:
        """The packets of one interface."""
        return [packet for packet in self.packets if packet.interface == interface]


def read(source: Path | bytes) -> File:
    """Read a whole file of one section."""
    data = source if isinstance(source, bytes) else source.read_bytes()
    file: File | None = None
    for kind, body in _blocks(data):
        if kind == SECTION:
            assert file is None, "one section only"
            magic, major, minor, length = struct.unpack_from("<IHHq", body)
            assert (magic, major, minor, length) == (0x1A2B3C4D, 1, 0, -1)
            file = File(_options(body[16:]), [], {}, [])
            continue
        assert file is not None, "a section comes first"
        if kind == INTERFACE:
            link_type, reserved, snaplen = struct.unpack_from("<HHI", body)
            assert reserved == 0
            file.interfaces.append(Interface(link_type, snaplen, _options(body[8:])))
        elif kind == NAMES:
            for code, value in _records(body):
                size = {1: 4, 2: 16}[code]
                assert value.endswith(b"\0")
                file.names[value[:size]] = value[size:-1].decode()
        elif kind == PACKET:
            file.packets.append(_packet(file, body))
        else:
            assert kind == STATISTICS, kind
            file.interfaces[struct.unpack_from("<I", body)[0]].statistics = _options(body[12:])
    assert file is not None
    return file


def _blocks(data: bytes) -> Iterator[tuple[int, bytes]]:
    position = 0
    while position < len(data):
        kind, total = struct.unpack_from("<II", data, position)
        assert total % 4 == 0 and 12 <= total <= len(data) - position, f"a block of {total} bytes"
        assert struct.unpack_from("<I", data, position + total - 4)[0] == total, "both lengths are one"
        yield kind, data[position + 8 : position + total - 4]
        position += total


def _records(data: bytes) -> Iterator[tuple[int, bytes]]:
    position = 0
    while True:
        code, size = struct.unpack_from("<HH", data, position)
        if code == 0:
            assert size == 0 and position + 4 == len(data), "the end is the end"
            return
        yield code, data[position + 4 : position + 4 + size]
        padded = size + -size % 4
        assert not any(data[position + 4 + size : position + 4 + padded]), "padding is zero"
        position += 4 + padded


def _options(data: bytes) -> dict[int, list[bytes]]:
    found: dict[int, list[bytes]] = {}
    for code, value in _records(data) if data else ():
        found.setdefault(code, []).append(value)
    return found


def _packet(file: File, body: bytes) -> Packet:
    number, high, low, captured, length = struct.unpack_from("<IIIII", body)
    assert captured <= length
    end = 20 + captured + -captured % 4
    (flags,) = struct.unpack("<I", _options(body[end:])[2][0])
    data = body[20 : 20 + captured]
    way = {0: None, 1: "in", 2: "out"}[flags & 3]
    return Packet(file.interfaces[number].name, high << 32 | low, data, length, way)
