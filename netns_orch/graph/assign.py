"""Addresses for what the file leaves without: in the order of the links, the lowest free one.

Owns: subnets of bridges, the pools, gateways, ``addressing``, link-local decisions.
Must not: judge explicit addresses (``checks`` does).

Explicit addresses are reserved first, wherever they stand; then each link in turn takes what it needs.
So a link that is added at the end changes nothing before it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import chain

from netns_orch.graph.addresses import BITS, Addr, BlockPool, Net, Pool, from_interface, from_network
from netns_orch.graph.names import Problems, nearest, place
from netns_orch.graph.wiring import Cable, End, WiredBridge, Wiring


def assign(wiring: Wiring, problems: Problems) -> None:
    """Fill in every address, and who is a bridge's gateway."""
    _explicit(wiring)
    pools = _Pools(wiring)
    for bridge in wiring.bridges.values():
        if bridge.spec.gateway is not None:
            _gateway(wiring, bridge, pools, problems)
    points = _points(wiring)
    for cable in wiring.cables:
        if cable.b.kind != "host" and not cable.trunk and not cable.link.no_address:
            _cable(wiring, cable, pools, points, problems)
    _loopbacks(wiring, problems)
    _link_local(wiring)


def _explicit(wiring: Wiring) -> None:
    for bridge in wiring.bridges.values():
        bridge.addresses = [from_interface(item) for item in bridge.spec.addresses]
        nets = [*(addr.net for addr in bridge.addresses), *map(from_network, bridge.spec.subnets)]
        bridge.subnets = list(dict.fromkeys(net for net in nets if net.base >> 118 != 0xFE80 >> 6))
    for end in chain.from_iterable(wiring.ends.values()):
        end.addresses = [from_interface(item) for item in end.spec.addresses]
    for virtual in chain.from_iterable(wiring.virtual.values()):
        virtual.addresses = [from_interface(item) for item in virtual.spec.addresses]
    for container in wiring.topology.containers.values():
        if container.loopback:
            wiring.loopbacks[container.name] = [from_interface(item) for item in container.loopback]


class _Pools:
    """The pools of each layer 2 segment, each without the addresses that the file gives there."""

    def __init__(self, wiring: Wiring) -> None:
        self._pools: dict[str, dict[Net, Pool]] = {}
        self._explicit: dict[str, list[Addr]] = {}
        ifaces = chain(wiring.bridges.values(), *wiring.ends.values(), *wiring.virtual.values())
        for iface in ifaces:
            if iface.addresses:
                self._explicit.setdefault(iface.segment[0], []).extend(iface.addresses)

    def pool(self, segment: str, net: Net) -> Pool:
        """The pool of a prefix in a segment."""
        pools = self._pools.setdefault(segment, {})
        if net not in pools:
            pool = pools[net] = Pool(net)
            for addr in self._explicit.get(segment, ()):
                if addr.family == net.family:
                    pool.reserve(addr.value)
        return pools[net]

    def take(self, end: End, nets: Iterable[Net], problems: Problems) -> None:
        """Give this end the next address of each prefix."""
        for net in nets:
            addr = self.pool(end.segment[0], net).take()
            if addr is None:
                hint = "give the bridge or the link a wider subnet"
                problems.error(f"no address of {net} is left for {end.node}:{end.ifname}", end.where, hint)
            else:
                end.addresses.append(addr)


def _gateway(wiring: Wiring, bridge: WiredBridge, pools: _Pools, problems: Problems) -> None:
    """The gateway takes its addresses before all others on the bridge."""
    name = bridge.spec.gateway
    where = place(bridge.spec, "gateway")
    if name not in wiring.topology.containers:
        problems.error(
            f"the gateway {name} of bridge {bridge.name} is no container",
            where,
            nearest(str(name), wiring.topology.containers),
        )
        return
    ends = [cable.a for cable in bridge.ports if cable.a.kind == "container" and cable.a.node == name]
    if not ends:
        what = f"the gateway {name} of bridge {bridge.name} has no link to it"
        problems.error(what, where, f"add [{name}, {bridge.name}]")
        return
    end = next((end for end in ends if not end.spec.no_address), None)
    link = next(cable.link for cable in bridge.ports if cable.a is (end or ends[0]))
    if end is None or link.no_address:
        problems.error(f"the gateway {name} has no address on bridge {bridge.name}", where)
        return
    if not end.addresses:
        pools.take(end, bridge.subnets, problems)
    bridge.gateway = end


def _cable(wiring: Wiring, cable: Cable, pools: _Pools, points: BlockPool | None, problems: Problems) -> None:
    needy = [
        end for end in cable.ends if end.kind == "container" and not end.addresses and not end.spec.no_address
    ]
    if cable.link.subnet is not None:
        nets = [from_network(cable.link.subnet)]
    elif not cable.straight:
        nets = wiring.bridges[cable.b.node].subnets
    elif points is not None and len(needy) == 2:
        block = points.take()
        if block is None:
            problems.error(
                f"addressing.p2p {points.net} has no /{BITS[points.net.family] - 1} left", needy[0].where
            )
        nets = [block] if block else []
    else:
        return
    for end in needy:
        pools.take(end, nets, problems)


def _all_nets(wiring: Wiring) -> Iterator[Net]:
    """Every subnet that the file names, but for those of ``addressing``."""
    for bridge in wiring.bridges.values():
        yield from bridge.subnets
    for cable in wiring.cables:
        if cable.link.subnet is not None:
            yield from_network(cable.link.subnet)


def _points(wiring: Wiring) -> BlockPool | None:
    network = wiring.topology.addressing.p2p
    if network is None:
        return None
    pool = BlockPool(from_network(network), 1)
    for net in _all_nets(wiring):
        pool.reserve_net(net)
    for iface in chain(wiring.bridges.values(), *wiring.ends.values(), *wiring.virtual.values()):
        for addr in iface.addresses:
            if addr.family == pool.net.family:
                pool.reserve(addr.value)
    return pool


def _loopbacks(wiring: Wiring, problems: Problems) -> None:
    network = wiring.topology.addressing.loopback
    if network is None:
        return
    pool = BlockPool(from_network(network), 0)
    for addr in chain(*wiring.loopbacks.values(), *map(wiring.addresses, wiring.topology.containers)):
        if addr.family == pool.net.family:
            pool.reserve(addr.value)
    for container in wiring.topology.containers.values():
        if not container.router or container.loopback:
            continue
        block = pool.take()
        if block is None:
            problems.error(
                f"addressing.loopback {pool.net} has no address left for {container.name}",
                place(container, "router"),
            )
            return
        wiring.loopbacks[container.name] = [Addr(*block)]


# -- link-local ----------------------------------------------------------------------------------


def _has_ipv6(addresses: Iterable[Addr]) -> bool:
    return any(addr.family == 6 for addr in addresses)


def _first_said(*values: bool | None) -> bool | None:
    return next((value for value in values if value is not None), None)


def _link_local(wiring: Wiring) -> None:
    """An interface has an IPv6 link-local address where the file gives it an IPv6 address, or says so."""
    top = wiring.topology.link_local
    for bridge in wiring.bridges.values():
        said = _first_said(bridge.spec.link_local, top)
        bridge.link_local = _has_ipv6(bridge.addresses) if said is None else said
    for cable in wiring.cables:
        plugged = wiring.bridge_at(cable.a)
        of_bridge = plugged.spec.link_local if plugged is not None else None
        for end in cable.ends:
            if end.kind == "container":
                own = wiring.topology.containers[end.node].link_local
                said = _first_said(cable.link.link_local, of_bridge, own, top)
                end.link_local = _has_ipv6(end.addresses) if said is None else said
    for virtual in chain.from_iterable(wiring.virtual.values()):
        said = _first_said(wiring.topology.containers[virtual.node].link_local, top)
        virtual.link_local = _has_ipv6(virtual.addresses) if said is None else said
