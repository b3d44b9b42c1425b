"""IP addresses, prefixes, MACs and interface names as text.

Owns: what of them a lab file may write, and why one is refused.
Must not: compare addresses with one another or with a subnet's use: that is ``graph``.
"""

from __future__ import annotations

import re
from ipaddress import (
    IPv4Address,
    IPv4Interface,
    IPv6Address,
    IPv6Interface,
    ip_address,
    ip_interface,
)

from netns_orch.labfile.model import Interface, Network
from netns_orch.labfile.nodes import shown
from netns_orch.labfile.units import Wrong

_V4 = r"[0-9]{1,3}(\.[0-9]{1,3}){3}"
_V6 = r"[0-9A-Fa-f]*:[0-9A-Fa-f:.]*"
ADDRESS = f"({_V4}|{_V6})"
INTERFACE = f"({_V4}/[0-9]{{1,2}}|{_V6}/[0-9]{{1,3}})"
MAC = "[0-9A-Fa-f]{2}(:[0-9A-Fa-f]{2}){5}"
IFNAME = r"[^\s/:%]{1,15}"

_IFNAME = re.compile(IFNAME)
_RESERVED = frozenset((".", "..", "lo", "all", "default"))


def interface(text: str) -> Interface:
    """An address with its prefix length: ``10.0.0.2/24``, ``fd00::2/64``."""
    address, slash, length = text.partition("/")
    host = _address(address, text)
    if not slash:
        full = "24" if host.version == 4 else "64"
        raise Wrong(f"address {text} has no prefix length", f"with its subnet's: {text}/{full}")
    return _with_length(text, host, length)


def loopback(text: str) -> Interface:
    """As ``interface``; without a length it is the whole address (/32, /128)."""
    if "/" in text:
        return interface(text)
    host = _address(text, text)
    return IPv4Interface(host) if isinstance(host, IPv4Address) else IPv6Interface(host)


def network(text: str) -> Network:
    """A prefix whose host bits are zero: ``10.0.0.0/24``."""
    value = interface(text)
    if value.ip != value.network.network_address:
        raise Wrong(f"{text} is an address in a network, not a network", f"the network is {value.network}")
    return value.network


def address(text: str) -> str:
    """An address without a length, in canonical form."""
    return str(_address(text, text))


def family(text: str) -> int:
    """4 or 6, of an address or prefix in canonical form."""
    return 6 if ":" in text else 4


def prefix(text: str) -> str:
    """A destination in canonical form: a network, or one address as /32 or /128."""
    if "/" in text:
        return str(network(text))
    host = _address(text, text)
    return f"{host}/{host.max_prefixlen}"


def mac(text: str) -> str:
    """A unicast MAC in lower case."""
    if not re.fullmatch(MAC, text):
        raise Wrong(f"{shown(text)} is not a MAC address", "six bytes in hex: 02:00:00:00:00:01")
    if int(text[:2], 16) & 1:
        raise Wrong(f"{text} is a multicast MAC", "the first byte of an interface's is even: 02:...")
    if not int(text.replace(":", ""), 16):
        raise Wrong(f"{text} is no interface's MAC")
    return text.lower()


def ifname(text: str) -> str:
    """An interface name: 1 to 15 bytes, no space, ``/``, ``:`` or ``%`` (kernel: dev_valid_name)."""
    size = len(text.encode("utf-8", "surrogatepass"))
    if size > 15:
        raise Wrong(f"interface name {shown(text)} has {size} bytes", "the kernel allows 15")
    if "%" in text:
        raise Wrong(f"interface name {shown(text)} holds a '%'", "that is a pattern to the kernel")
    if not _IFNAME.fullmatch(text) or not text.isprintable():
        raise Wrong(f"{shown(text)} is not an interface name", "1 to 15 bytes without space, '/' and ':'")
    if text in _RESERVED:
        raise Wrong(f"an interface can't be named {shown(text)}")
    return text


def _with_length(text: str, host: IPv4Address | IPv6Address, length: str) -> Interface:
    if not re.fullmatch("[0-9]{1,3}", length):
        hint = "write its length in bits: /24" if "." in length else "a number after the slash"
        raise Wrong(f"address {text} has no valid prefix length", hint)
    if int(length) > host.max_prefixlen:
        hint = f"a prefix length of IPv{host.version} is at most {host.max_prefixlen}"
        raise Wrong(f"address {text} is not an IPv4 or IPv6 address", hint)
    return ip_interface(f"{host}/{int(length)}")


def _address(text: str, whole: str) -> IPv4Address | IPv6Address:
    try:
        if "%" in text or len(text) > 45:
            raise ValueError
        return ip_address(text)
    except ValueError:
        named = whole if whole and whole.isprintable() and " " not in whole else shown(whole)
        raise Wrong(f"address {named} is not an IPv4 or IPv6 address", _why(text)) from None


def _why(text: str) -> str | None:
    if "%" in text:
        return "an address in a lab file has no %zone"
    if re.fullmatch(r"[0-9]+(\.[0-9]+)*", text):
        octets = text.split(".")
        if len(octets) != 4:
            return f"it has {len(octets)} octets, not 4"
        if any(int(octet[:9]) > 255 for octet in octets):
            return "an octet is at most 255"
        return "an octet has no leading zero"
    if re.fullmatch(r"[0-9A-Fa-f:]+", text) and ":" in text:
        return "IPv6 has eight groups of at most four hex digits; one :: may stand for zeros"
    return None
