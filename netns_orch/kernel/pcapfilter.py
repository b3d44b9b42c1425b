"""Filters in the words of pcap-filter(7), as programs that the kernel runs (classic BPF).

Owns: libpcap, which compiles them, called through ctypes.  Must not: know where packets come from.
"""

from __future__ import annotations

import ctypes
import struct
from contextlib import suppress
from typing import Any

from netns_orch.errors import MissingFeature, UsageError

LIBRARIES = ("libpcap.so.0.8", "libpcap.so.1")
"""Debian's name of it, and everybody else's."""
_ANY_NETMASK = 0xFFFFFFFF
_DLT = {101: 12}
"""Where libpcap numbers a link type otherwise than its files do (pcap/dlt.h): raw IP."""
_LD_ABS, _JEQ, _RET = 0x20, 0x15, 0x06
_VLAN_TAG_PRESENT = 0xFFFFF000 + 48
"""SKF_AD_OFF + SKF_AD_VLAN_TAG_PRESENT (linux/filter.h)."""
_ALL = 0x40000


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_uint), ("instructions", ctypes.c_void_p))


class Filter:
    """A compiled filter, for packets of one link type.

    ``program`` is what a packet socket takes, as an array of struct sock_filter.  The kernel keeps the VLAN
    tag of a packet that came in tagged beside its bytes, where the words of a filter don't look: the program
    lets all of those pass, and ``matches`` decides about the packet as it is written, with its tag.
    """

    def __init__(self, library: ctypes.CDLL, instructions: bytes) -> None:
        self._library = library
        self._instructions = ctypes.create_string_buffer(instructions, len(instructions))
        self.program = _tagged_pass() + instructions

    def matches(self, data: bytes, length: int) -> bool:
        """Whether a packet of that ``length``, of which ``data`` is the beginning, passes."""
        return bool(self._library.bpf_filter(self._instructions, data, length, len(data)))


def _tagged_pass() -> bytes:
    return b"".join(
        struct.pack("=HBBI", *instruction)
        for instruction in ((_LD_ABS, 0, 0, _VLAN_TAG_PRESENT), (_JEQ, 1, 0, 0), (_RET, 0, 0, _ALL))
    )


def compile(text: str, link_type: int, snaplen: int) -> Filter:
    """Compile a filter; UsageError in libpcap's words where it is wrong, MissingFeature without libpcap."""
    library = _load()
    handle = library.pcap_open_dead(_DLT.get(link_type, link_type), snaplen)
    program = _Program()
    try:
        if library.pcap_compile(handle, ctypes.byref(program), text.encode(), 1, _ANY_NETMASK) != 0:
            told = library.pcap_geterr(handle).decode(errors="replace")
            raise UsageError(f"--filter {text!r}: {told}", hint="man 7 pcap-filter")
        instructions = ctypes.string_at(program.instructions, program.length * 8)
        library.pcap_freecode(ctypes.byref(program))
    finally:
        library.pcap_close(handle)
    return Filter(library, instructions)


def _load() -> ctypes.CDLL:
    for name in LIBRARIES:
        with suppress(OSError):
            return _declared(ctypes.CDLL(name))
    raise MissingFeature(
        "a filter needs libpcap, which is not installed",
        hint="on Debian or Ubuntu: apt-get install libpcap0.8",
    )


def _declared(library: Any) -> ctypes.CDLL:
    pointer = ctypes.c_void_p
    library.pcap_open_dead.restype = pointer
    library.pcap_open_dead.argtypes = [ctypes.c_int, ctypes.c_int]
    library.pcap_compile.argtypes = [pointer, pointer, ctypes.c_char_p, ctypes.c_int, ctypes.c_uint32]
    library.pcap_geterr.restype = ctypes.c_char_p
    for name in ("pcap_geterr", "pcap_freecode", "pcap_close"):
        getattr(library, name).argtypes = [pointer]
    library.pcap_freecode.restype = library.pcap_close.restype = None
    library.bpf_filter.argtypes = [pointer, ctypes.c_char_p, ctypes.c_uint, ctypes.c_uint]
    library.bpf_filter.restype = ctypes.c_uint
    return library  # type: ignore[no-any-return]
