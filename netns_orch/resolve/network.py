"""Cables and what is on them: interfaces, addresses, routes, rules, firewalls, impairments.

Owns: names of cable ends on the host.  Must not: choose anything else.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import chain

from netns_orch.errors import Where
from netns_orch.graph import Cable, End, Wiring
from netns_orch.graph.names import place, short_hash
from netns_orch.labfile import model
from netns_orch.labfile.model import HOST
from netns_orch.records import replace
from netns_orch.resources import (
    Address,
    CableEnd,
    Firewall,
    Qdisc,
    Route,
    Rule,
    Sysctl,
    VirtualInterface,
)
from netns_orch.resources import Cable as CableResource

ROUTER_SYSCTLS = {4: "net.ipv4.ip_forward", 6: "net.ipv6.conf.all.forwarding"}


class HostNames:
    """Names of cable ends on the host: ``v``, some of the container's name, and a hash.

    The hash is of the lab, its id, and both ends, so that labs don't get into each other's way.
    """

    def __init__(self, wiring: Wiring, id: str) -> None:
        self._names: dict[tuple[int, str], str] = {}
        self._lab = (wiring.topology.name, id)
        self._taken = {bridge.ifname for bridge in wiring.bridges.values()}
        self._taken |= {cable.b.ifname for cable in wiring.cables if cable.b.kind == "host"}
        parallel: dict[tuple[str, str], int] = {}
        for cable in wiring.cables:
            pair = (cable.a.node, cable.b.node)
            if cable.trunk:
                number = parallel[pair] = parallel.get(pair, 0) + 1
                for end in cable.ends:
                    self._choose("x", cable, end, end.node, *pair, str(number))
            elif cable.b.kind == "bridge":
                self._choose("v", cable, cable.b, cable.a.node, cable.a.ifname)

    def of(self, cable: Cable, end: End) -> str:
        """The name of this end, which is a bridge's port."""
        return self._names[cable.index, end.node]

    def _choose(self, letter: str, cable: Cable, end: End, node: str, *parts: str) -> None:
        name = _host_name(letter, node, (*self._lab, node, *parts), self._taken)
        self._names[cable.index, end.node] = name


def _host_name(letter: str, node: str, parts: tuple[str, ...], taken: set[str]) -> str:
    readable = re.sub(r"[^A-Za-z0-9]", "", node)[:6]
    salt = 0
    while True:
        name = f"{letter}{readable}{short_hash(*parts, str(salt), length=8)}"
        if name not in taken:
            taken.add(name)
            return name
        salt += 1


# -- links ---------------------------------------------------------------------------------------


def cables(wiring: Wiring, names: HostNames, *, bridge_netfilter: bool = False) -> Iterator[CableResource]:
    """The veth pairs.

    ``bridge_netfilter``: a packet to a port of the host that leads back to its own sender is turned round
    within the bridge, which does that in hairpin mode only.
    """
    private = wiring.topology.netns == "private"  # there the bridges' frames are the bridges' business
    publish = {wiring.pods.get(port.container, port.container) for port in wiring.published}
    for cable in wiring.cables:
        if cable.b.kind == "host":
            continue
        turned = bridge_netfilter and not private and cable.a.node in publish and cable.b.kind == "bridge"
        far = _end(wiring, cable, cable.b, names)
        yield CableResource(
            a=_end(wiring, cable, cable.a, names),
            b=replace(far, hairpin=True) if turned else far,
            mtu=cable.mtu,
            up=cable.link.up,
            offload=cable.link.offload,
            where=cable.link.where,
        )


def _end(wiring: Wiring, cable: Cable, end: End, names: HostNames) -> CableEnd:
    if end.kind == "container":
        return CableEnd(node=end.node, ifname=end.ifname, mac=end.mac, link_local=end.link_local)
    bridge = wiring.bridges[end.node]
    vlan = end.spec.vlan or model.PortVlan()
    return CableEnd(
        node=HOST,
        ifname=names.of(cable, end),
        mac=end.mac,
        bridge=end.node,
        isolated=bridge.spec.isolated and not cable.trunk,
        access=vlan.access,
        trunk=tuple(vlan.trunk),
        native=vlan.native,
    )


def virtual_interfaces(wiring: Wiring) -> Iterator[VirtualInterface]:
    """Interfaces made inside, each after what it stands on."""
    for virtual in chain.from_iterable(wiring.virtual.values()):
        spec = virtual.spec
        yield VirtualInterface(
            container=virtual.node,
            ifname=virtual.ifname,
            kind=spec.kind,
            parent=spec.parent,
            id=spec.id,
            members=tuple(spec.members),
            mode=spec.mode,
            table=spec.table,
            local=spec.local,
            remote=spec.remote,
            group=spec.group,
            port=spec.port,
            mac=spec.mac.lower() if spec.mac else None,
            mtu=spec.mtu,
            link_local=virtual.link_local,
            where=virtual.where,
        )


def qdiscs(wiring: Wiring, names: HostNames) -> Iterator[Qdisc]:
    """Impairments, each at the end that the packets leave."""
    for cable in wiring.cables:
        for end in cable.ends if cable.b.kind != "host" else ():
            said = {name: getattr(end.spec.impairment, name) for name in model.Impairment.__slots__}
            if all(value is None for value in said.values()):
                continue
            own = end.kind == "container"
            yield Qdisc(
                owner=end.node if own else HOST,
                ifname=end.ifname if own else names.of(cable, end),
                **said,
                where=place(end.spec, *said) or cable.link.where,
            )


# -- layer 3 -------------------------------------------------------------------------------------


def addresses(wiring: Wiring) -> Iterator[Address]:
    """Those of bridges on the host, of containers' interfaces, and loopbacks."""
    for iface in chain(wiring.bridges.values(), *wiring.ends.values(), *wiring.virtual.values()):
        for addr in iface.addresses:
            where = iface.where
            yield Address(owner=iface.node, ifname=iface.ifname, cidr=str(addr), where=where)
    for name, loopbacks in wiring.loopbacks.items():
        where = place(wiring.topology.containers[name], "loopback", "router")
        for addr in loopbacks:
            yield Address(owner=name, ifname="lo", cidr=str(addr), where=where)


def sysctls(wiring: Wiring, *, ipv6: bool) -> Iterator[Sysctl]:
    """Forwarding of routers, as far as the kernel does ``ipv6``, and what the file sets; that wins."""
    routers = {name: "1" for family, name in ROUTER_SYSCTLS.items() if family == 4 or ipv6}
    for container in wiring.topology.containers.values():
        wanted = {**(routers if container.router else {}), **container.sysctls}
        for name, value in wanted.items():
            where = place(container, f"sysctls.{name}", "sysctls" if name in container.sysctls else "router")
            yield Sysctl(container=container.name, name=name, value=value, where=where)


def routes(wiring: Wiring) -> Iterator[Route]:
    """Of the host and of every container."""
    return chain.from_iterable(wiring.routes.values())


def rules(wiring: Wiring) -> Iterator[Rule]:
    """Policy rules."""
    return chain.from_iterable(wiring.rules.values())


def firewalls(wiring: Wiring) -> Iterator[Firewall]:
    """iptables, ip6tables and nftables of every container."""
    for container in wiring.topology.containers.values():
        for program in ("iptables", "ip6tables"):
            firewall: model.Firewall = getattr(container, program)
            if firewall:
                yield _firewall(container, program, firewall)
        if container.nftables:
            where = place(container, "nftables")
            yield Firewall(
                container=container.name,
                program="nftables",
                text=container.nftables,
                places=(where,),
                where=where,
            )


def _firewall(container: model.Container, program: str, firewall: model.Firewall) -> Firewall:
    where: Where | None = firewall.where or place(container, program)
    return Firewall(
        container=container.name,
        program=program,
        rules=tuple(rule.text for rule in firewall.rules),
        text=firewall.text,
        places=tuple(rule.where or where for rule in firewall.rules) or (where,),
        where=where,
    )
