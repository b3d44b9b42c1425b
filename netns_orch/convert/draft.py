"""The lab that is being written: what a lab file says, before it is text.

Owns: ``Draft``, its links and ends, and the names and subnets that a source leaves open.
Must not: know a source's format, or how YAML is written.

Values are plain data (``str``, ``int``, ``float``, ``bool``, lists, mappings); texts are as a lab file has
them, with ``$$`` and ``${VAR}``.
"""

from __future__ import annotations

import re
from ipaddress import IPv4Network, IPv6Network, ip_interface, ip_network
from typing import Any

from netns_orch.labfile import short
from netns_orch.labfile.units import Wrong
from netns_orch.records import dataclass, field

Network = IPv4Network | IPv6Network
_LOWEST, _HIGHEST = 200, 255
"""The second octet of subnets that a source left open: 10.200.0.0/24 and on, seldom anybody's."""


@dataclass(slots=True, kw_only=True)
class End:
    """One end of a link: its node, its interface's name if the source gives one, and what else is said."""

    node: str
    ifname: str | None = None
    addresses: list[str] = field(default_factory=list)
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """``red`` or ``red:eth1``."""
        return f"{self.node}:{self.ifname}" if self.ifname else self.node

    def value(self) -> Any:
        """As a lab file writes it, as short as it can."""
        addresses: Any = self.addresses[0] if len(self.addresses) == 1 else self.addresses
        if self.options:
            return {self.name: {**({"address": addresses} if addresses else {}), **self.options}}
        return {self.name: addresses} if addresses else self.name


@dataclass(slots=True, kw_only=True)
class Link:
    """A cable, with what holds for all of it."""

    a: End
    b: End
    options: dict[str, Any] = field(default_factory=dict)

    def value(self) -> Any:
        """As a lab file writes it, as short as it can."""
        ends = [self.a.value(), self.b.value()]
        return {"endpoints": ends, **self.options} if self.options else ends


@dataclass(slots=True, kw_only=True)
class Draft:
    """All of a lab file."""

    name: str | None = None
    header: list[str] = field(default_factory=list)
    """Lines of the comment at its top."""
    defaults: dict[str, Any] = field(default_factory=dict)
    bridges: dict[str, Any] = field(default_factory=dict)
    containers: dict[str, dict[str, Any]] = field(default_factory=dict)
    links: list[Link] = field(default_factory=list)
    taken: set[str] = field(default_factory=set)
    """The names of bridges and containers."""

    def end(self, node: str, ifname: str) -> End | None:
        """The end of a node's interface of that name."""
        ends = (end for link in self.links for end in (link.a, link.b))
        return next((end for end in ends if end.node == node and end.ifname == ifname), None)

    def ends(self, node: str) -> list[End]:
        """All ends of a node."""
        ends = (end for link in self.links for end in (link.a, link.b))
        return [end for end in ends if end.node == node]

    def bridge(self, name: str, value: Any = None) -> str:
        """A new bridge of that name, or of one like it where the name is taken; its name."""
        free = self._free(name, "bridge")
        self.bridges[free] = value
        return free

    def container(self, name: str) -> str:
        """A new container of that name, or of one like it where it can't have that; its name."""
        free = self._free(name, "container")
        self.containers[free] = {}
        return free

    def _free(self, name: str, what: str) -> str:
        free = name_for(name, self.taken, what)
        self.taken.add(free)
        return free

    def free_subnet(self) -> IPv4Network:
        """A /24 that nothing in the lab overlaps."""
        used = [net for net in self._subnets() if net.version == 4]
        for number in range(_LOWEST * 256, _HIGHEST * 256):
            subnet = IPv4Network(f"10.{number >> 8}.{number & 255}.0/24")
            if not any(subnet.overlaps(net) for net in used):
                return subnet
        raise Wrong("no subnet is left")

    def _subnets(self) -> list[Network]:
        texts = [text for link in self.links for end in (link.a, link.b) for text in end.addresses]
        for bridge in self.bridges.values():
            values = bridge if isinstance(bridge, dict) else {"address": bridge}
            for key in ("address", "subnet"):
                found = values.get(key) or []
                texts += [found] if isinstance(found, str) else found
        return [ip_interface(text).network for text in texts]


def name_for(wanted: str, taken: set[str], what: str) -> str:
    """A name that a lab file allows and that is free, as near to the wanted one as can be."""
    text = re.sub(r"[^A-Za-z0-9_-]", "-", wanted).lstrip("-_")[:63] or what
    free, number = text, 1
    while free in taken or not _allowed(free, what):
        number += 1
        free = f"{text[:58]}-{number}"
    return free


def _allowed(name: str, what: str) -> bool:
    try:
        short.name(name, what, 63)
    except Wrong:
        return False
    return True


def lab_name(wanted: str) -> str:
    """A lab's name as near to the wanted one as can be."""
    text = re.sub(r"[^A-Za-z0-9_-]", "-", wanted).strip("-_")[:32]
    return text if text and text != "host" else "lab"


def covers(address: str, networks: list[str]) -> bool:
    """Whether an address (without a length) is in the subnet of one of these (with one)."""
    host = ip_network(address)
    nets = [ip_interface(text).network for text in networks]
    return any(net.version == host.version and host.subnet_of(net) for net in nets)  # type: ignore[arg-type]


def tidy(draft: Draft) -> None:
    """Keys in their usual order, single texts without a list around them, and what all say in `defaults`."""
    for keys in draft.containers.values():
        ordered = sorted(keys, key=lambda key: _ORDER.index(key) if key in _ORDER else len(_ORDER))
        values = {key: keys[key] for key in ordered}
        keys.clear()
        for key, value in values.items():
            keys[key] = (
                value[0] if key in _ONE_OR_MORE and isinstance(value, list) and len(value) == 1 else value
            )
    _common_to_defaults(draft)


def _common_to_defaults(draft: Draft) -> None:
    containers = list(draft.containers.values())
    if len(containers) < 2:
        return
    for key in list(containers[0]):
        first = containers[0][key]
        if key in _OWN or not all(key in each and each[key] == first for each in containers):
            continue
        draft.defaults[key] = first
        for each in containers:
            del each[key]


_OWN = frozenset(("scale", "depends_on", "routes", "loopback", "router", "setup", "ports", "command"))
"""Keys that say what one container is, also where several say the same."""
_ONE_OR_MORE = frozenset(("env_file", "tmpfs", "loopback", "dns", "dns_search"))
_ORDER = (
    *("image", "rootfs", "scale", "hostname", "command", "environment", "env_file", "working_dir", "user"),
    *("init", "restart", "ready", "depends_on", "stop_signal", "stop_grace_period", "files", "volumes"),
    *("tmpfs", "devices", "read_only", "namespaces", "cap_add", "cap_drop", "seccomp", "privileged"),
    *("ulimits", "sysctls", "resources", "router", "loopback", "default_route", "link_local", "interfaces"),
    *("routes", "iptables", "ip6tables", "setup", "dns", "dns_search", "extra_hosts", "ports", "labels"),
)
