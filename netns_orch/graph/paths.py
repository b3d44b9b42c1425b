"""The networkx graph of a lab, and the shortest paths over it.

Owns: ``build`` (what is plugged into what) and ``auto_routes`` (``routes: [auto]``).
Must not: be imported where neither is asked for; networkx costs a fifth of a second.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator, Mapping
from typing import Any, cast

import networkx

from netns_orch.graph.addresses import BITS, Addr, Net
from netns_orch.graph.routes import IPV6_METRIC
from netns_orch.graph.wiring import Cable, SharedNet, Wiring
from netns_orch.labfile.model import HOST
from netns_orch.resources import Hop, Route


def build(wiring: Wiring) -> networkx.MultiGraph[str]:
    """Nodes are containers, bridges and, where it takes part, the host; edges are cables.

    A node has ``kind`` (container, bridge, host).  An edge has ``kind`` (cable; port: the host's own foot in
    a bridge with an address; pod), ``cable`` (only of a cable), ``ifnames`` (by node), ``up`` and ``mtu``.
    """
    graph: networkx.MultiGraph[str] = networkx.MultiGraph(name=wiring.topology.name)
    for name in wiring.topology.containers:
        graph.add_node(name, kind="container")
    for bridge in wiring.bridges.values():
        graph.add_node(bridge.name, kind="bridge")
        if bridge.addresses:
            ifnames = {HOST: bridge.ifname}
            graph.add_node(HOST, kind="host")
            graph.add_edge(
                HOST, bridge.name, kind="port", cable=None, up=True, mtu=bridge.mtu, ifnames=ifnames
            )
    for cable in wiring.cables:
        _add(graph, cable)
    for member, root in wiring.pods.items():
        graph.add_edge(member, root, kind="pod", cable=None, up=True, mtu=None, ifnames={})
    return graph


def _add(graph: networkx.MultiGraph[str], cable: Cable) -> None:
    if cable.b.kind == "host":
        graph.add_node(HOST, kind="host")
    graph.add_edge(
        cable.a.node,
        cable.b.node,
        kind="cable",
        cable=cable,
        up=cable.link.up,
        mtu=cable.mtu,
        ifnames={end.node: end.ifname for end in cable.ends if end.ifname},
    )


# -- shortest paths ------------------------------------------------------------------------------

Foot = tuple[SharedNet, Addr, str]
"""A subnet, the node's address in it, its interface there."""
Vertex = tuple[str, Any]
"""("node", name), ("net", SharedNet), ("from", name): a node where a path begins, router or not."""
FirstHops = dict[tuple[str | None, str], None]
"""Next hop (None: on link) and interface of all shortest paths to a vertex; a dict for its order."""


def auto_routes(wiring: Wiring, sources: Iterable[str]) -> dict[str, list[Route]]:
    """For each of these nodes the routes to every subnet and loopback of the lab, equal-cost ways together.

    Paths lead through containers with ``router: true``, and through the host where ``host.router`` is; each
    router on the way counts one.  Cables that are down carry nothing.
    """
    feet = _feet(wiring)
    routes: dict[str, list[Route]] = {name: [] for name in sources}
    for family in (4, 6):
        graph = _layer3(wiring, feet, routes, family)
        for name, found in routes.items():
            found.extend(_routes(wiring, name, family, graph))
    return routes


def _feet(wiring: Wiring) -> dict[str, list[Foot]]:
    """By node the subnets that it has a foot in."""
    down = {(end.node, end.ifname) for cable in wiring.cables if not cable.link.up for end in cable.ends}
    nodes = [name for name in wiring.topology.containers if name not in wiring.pods]
    return {
        name: [
            ((iface.segment, addr.net), addr, iface.ifname)
            for iface in wiring.interfaces(name)
            if (name, iface.ifname) not in down
            for addr in iface.addresses
            if not addr.is_link_local
        ]
        for name in [*nodes, HOST]
    }


def _layer3(
    wiring: Wiring, feet: Mapping[str, list[Foot]], sources: Container[str], family: int
) -> networkx.DiGraph[Vertex]:
    """Subnets and nodes in turn; out of a node lead edges only where it forwards or a path begins."""
    graph: networkx.DiGraph[Vertex] = networkx.DiGraph()
    for name, of_node in feet.items():
        forwards = wiring.topology.host.router if name == HOST else wiring.topology.containers[name].router
        for shared, addr, ifname in of_node:
            if addr.family != family:
                continue
            graph.add_edge(("net", shared), ("node", name), via=addr.ip)
            if forwards:
                graph.add_edge(("node", name), ("net", shared))
            if name in sources:
                graph.add_edge(("from", name), ("net", shared), dev=ifname)
    return graph


def _first_hops(name: str, graph: networkx.DiGraph[Vertex]) -> dict[Vertex, FirstHops]:
    """By vertex, nearest first."""
    start: Vertex = ("from", name)
    found: dict[Vertex, FirstHops] = {}
    if start not in graph:
        return found
    before = cast(dict[Vertex, list[Vertex]], networkx.predecessor(graph, start))
    for vertex, previous_ones in before.items():
        hops: FirstHops = {}
        for previous in previous_ones:
            if previous == start:
                hops[None, graph.edges[start, vertex]["dev"]] = None
                continue
            for via, dev in found[previous]:
                hops[via or graph.edges[previous, vertex]["via"], dev] = None
        found[vertex] = hops
    return found


def _routes(wiring: Wiring, name: str, family: int, graph: networkx.DiGraph[Vertex]) -> Iterator[Route]:
    seen = {addr.net for addr in wiring.addresses(name)}
    for (kind, what), hops in _first_hops(name, graph).items():
        nets: list[Net] = [what[1]] if kind == "net" else []
        if kind == "node":
            loopbacks = (addr for addr in wiring.loopbacks.get(what, ()) if addr.family == family)
            nets = [Net(family, addr.value, BITS[family]) for addr in loopbacks]
        for net in nets:
            if net not in seen:
                seen.add(net)
                ways = tuple(Hop(via=via, dev=dev) for via, dev in hops)
                metric = IPV6_METRIC if family == 6 else 0
                yield Route(owner=name, family=family, dst=str(net), metric=metric, hops=ways)
