"""What lives in the namespace of the bridges: the lab's table, sysctls, bridges, plugged-in interfaces.

Owns: real names in place of the file's in ``host.iptables`` and ``host.sysctls``; published ports.
Must not: know how a table is written (``kernel`` does).
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping

from netns_orch.errors import LabFileError, NetorchError, Where
from netns_orch.graph import Wiring
from netns_orch.graph.names import place
from netns_orch.labfile import model
from netns_orch.resources import (
    UPLINK,
    Bridge,
    HostFacts,
    HostPort,
    HostSysctl,
    HostTable,
    PublishedPort,
    route_localnet,
)

INTERFACE_OPTIONS = frozenset(
    ("-i", "-o", "--in-interface", "--out-interface", "--physdev-in", "--physdev-out")
)
"""Options of iptables(8) and iptables-extensions(8) that an interface's name follows."""
BY_INTERFACE = re.compile(r"(net\.ipv[46]\.(?:conf|neigh))\.(.+)\.([^.]+)")
"""A sysctl of one interface: its tree, the interface, the setting."""
COUNTERS = re.compile(r"^\[\d+:\d+\]\s*")
"""What iptables-save -c puts before each rule."""
FORWARD_IPV4 = "net.ipv4.ip_forward"
FORWARD_IPV6 = "net.ipv6.conf.all.forwarding"


def real_names(wiring: Wiring) -> dict[str, str]:
    """The file's names of bridges to those on the host."""
    return {bridge.name: bridge.ifname for bridge in wiring.bridges.values()}


def table(wiring: Wiring, facts: HostFacts) -> Iterator[HostTable]:
    """The lab's nft table on the host, where it has a bridge or a rule."""
    host = wiring.topology.host
    typed = [*_typed(4, host.iptables), *_typed(6, host.ip6tables)]
    if (not wiring.bridges and not typed) or without_table(wiring, facts):
        return
    names = real_names(wiring)
    bridges = wiring.bridges.values()
    yield HostTable(
        forward=tuple((bridge.ifname, bridge.forward) for bridge in bridges if bridge.addresses),
        router=host.router,
        rules=tuple((family, with_real_names(text, names, where)) for family, text, where in typed),
        switches=tuple(bridge.ifname for bridge in bridges if not bridge.addresses),
        rule_places=tuple(where for _, _, where in typed),
        where=host.where or next((bridge.where for bridge in bridges), None),
    )


def without_table(wiring: Wiring, facts: HostFacts) -> bool:
    """Whether sysctls do for a host without nft: where it has nothing to forward, and no rules to keep."""
    host = wiring.topology.host
    plain = not any(bridge.addresses for bridge in wiring.bridges.values())
    return not facts.nft and plain and not (host.iptables or host.ip6tables or wiring.published)


def _typed(family: int, firewall: model.Firewall) -> Iterator[tuple[int, str, Where | None]]:
    """Family, rule as typed after iptables, and its place."""
    for rule in firewall.rules:
        yield family, rule.text, rule.where
    if firewall.text:
        for text in saved_rules(firewall.text):
            yield family, text, place(firewall, "text")


def saved_rules(text: str) -> Iterator[str]:
    """The rules of a text as iptables-save prints it, each as typed after ``iptables``."""
    table = "filter"
    for line in map(str.strip, text.splitlines()):
        if line.startswith("*"):
            table = line[1:].strip()
        elif line.startswith(":"):
            chain, policy, *_ = [*line[1:].split(), "-"]
            if policy == "-":
                yield f"-t {table} -N {chain}"
            elif policy != "ACCEPT":
                yield f"-t {table} -P {chain} {policy}"
        elif line.startswith(("-", "[")):
            yield f"-t {table} {COUNTERS.sub('', line)}"


def with_real_names(rule: str, names: Mapping[str, str], where: Where | None = None) -> str:
    """A rule with the real names of bridges where it names an interface; nothing else is touched."""
    try:
        words = shlex.split(rule)
    except ValueError as error:
        problem = NetorchError(f"the rule {rule!r} can't be read: {error}", where=where)
        raise LabFileError([problem]) from None
    changed = False
    for at, word in enumerate(words):
        option, equals, value = word.partition("=")
        if equals and option in INTERFACE_OPTIONS and value in names:
            words[at], changed = f"{option}={names[value]}", True
        elif word in names and _follows_option(words, at):
            words[at], changed = names[word], True
    return shlex.join(words) if changed else rule


def _follows_option(words: list[str], at: int) -> bool:
    """After ``-i``, or after ``-i !`` as older rules have it."""
    before = words[at - 1] if at else ""
    if before == "!" and at > 1:
        before = words[at - 2]
    return before in INTERFACE_OPTIONS


def sysctls(wiring: Wiring, facts: HostFacts) -> Iterator[HostSysctl]:
    """Forwarding where a bridge needs it, and ``host.sysctls``; what the file says wins."""
    host = wiring.topology.host
    said = {_real_sysctl(name, real_names(wiring)): (name, value) for name, value in host.sysctls.items()}
    for family, name in ((4, FORWARD_IPV4), (6, FORWARD_IPV6)):
        where = _forwarding(wiring, family)
        if where is not None and name not in said:
            yield HostSysctl(name=name, value="1", where=where[0])
    own = [*_from_loopback(wiring), *_closed(wiring, facts)]
    yield from (sysctl for sysctl in own if sysctl.name not in said)
    for real, (name, value) in said.items():
        where_said = host.marks.get(f"sysctls.{name}") or place(host, "sysctls")
        yield HostSysctl(name=real, value=value, where=where_said)


def published_ports(wiring: Wiring) -> Iterator[PublishedPort]:
    """What leads from ports of the host into containers."""
    for port in wiring.published:
        yield PublishedPort(
            protocol=port.spec.protocol,
            family=port.family,
            address=port.address,
            port=port.spec.host_port,
            container=port.container,
            to_address=port.to.ip,
            to_port=port.spec.port,
            near=port.near,
            uplink=None if port.transit is None else UPLINK,
            transit=port.transit,
            where=port.spec.where,
        )


def _from_loopback(wiring: Wiring) -> Iterator[HostSysctl]:
    """Leave for packets of 127.0.0.0/8 to go out to containers, where ports of the host lead there.

    In a private lab ports of one of the host's addresses are led to by the uplink alone.
    """
    private = wiring.topology.netns == "private"
    for port in wiring.published:
        if port.family == 4 and (port.address is None or (port.loopback and not private)):
            yield route_localnet(port.bridge.ifname, port.spec.where)


def _closed(wiring: Wiring, facts: HostFacts) -> Iterator[HostSysctl]:
    """The host forwards nothing that comes from a plain switch: else the table sees to that."""
    for bridge in wiring.bridges.values() if without_table(wiring, facts) else ():
        for family in ("ipv4", "ipv6") if facts.ipv6 else ("ipv4",):
            name = f"net.{family}.conf.{bridge.ifname.replace('.', '/')}.forwarding"
            yield HostSysctl(name=name, value="0", where=bridge.where)


def _forwarding(wiring: Wiring, family: int) -> tuple[Where | None] | None:
    """The place of the first bridge that makes the host forward packets of this family."""
    for bridge in wiring.bridges.values():
        forwards = bridge.forward != "none" or wiring.topology.host.router
        if forwards and any(addr.family == family and not addr.is_link_local for addr in bridge.addresses):
            return (bridge.where,)
    return None


def _real_sysctl(name: str, names: Mapping[str, str]) -> str:
    """The bridge's real name in it, with slashes for its dots, as sysctl(8) writes it."""
    match = BY_INTERFACE.fullmatch(name)
    if match is None:
        return name
    interface = names.get(match[2], match[2])
    return f"{match[1]}.{interface.replace('.', '/')}.{match[3]}"


def bridges(wiring: Wiring) -> Iterator[Bridge]:
    """The bridges."""
    for bridge in wiring.bridges.values():
        yield Bridge(
            name=bridge.name,
            ifname=bridge.ifname,
            mac=bridge.mac,
            mtu=bridge.mtu,
            stp=bridge.spec.stp,
            vlan_filtering=bridge.vlan_filtering,
            multicast_snooping=bridge.spec.multicast_snooping,
            link_local=bridge.link_local,
            where=bridge.where,
        )


def ports(wiring: Wiring) -> Iterator[HostPort]:
    """Interfaces of the host's own, plugged into bridges."""
    for cable in wiring.cables:
        if cable.b.kind == "host":
            yield HostPort(bridge=cable.a.node, ifname=cable.b.ifname, where=cable.b.where)
