"""The graph: names, MACs and addresses for what the file leaves out, and the checks that need no kernel.

Owns: ``wire`` (a ``Topology`` becomes a ``Wiring``), ``check_host`` (does it fit this host), ``build``
(the networkx graph).  Must not: do I/O or know of processes, cgroups and roots.

=============  ==============================================================================
``wiring``     the types, and what a name means to whom
``names``      interface names, MACs
``connect``    links become cables; layer 2 segments
``addresses``  addresses as numbers; pools
``assign``     which address each end gets
``routes``     default routes, the file's routes and rules
``publish``    which address of a container each published port leads to
``checks``     what is an error and what a warning
``roots``      the same for roots and mounts, and the paths of the host that they name
``host``       what only this host can show: clashes, features it lacks
``paths``      the networkx graph; imported only when it is asked for
=============  ==============================================================================
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from netns_orch.errors import LabFileError
from netns_orch.graph.assign import assign
from netns_orch.graph.checks import check
from netns_orch.graph.connect import connect
from netns_orch.graph.host import check_host, features_needed
from netns_orch.graph.names import Problems, file_order
from netns_orch.graph.publish import Published, ports_wanted, publish
from netns_orch.graph.roots import paths_named
from netns_orch.graph.routes import plan_routes
from netns_orch.graph.wiring import Cable, End, Iface, Virtual, WiredBridge, Wiring
from netns_orch.labfile.model import Topology

if TYPE_CHECKING:
    import networkx

__all__ = [
    "Cable",
    "End",
    "Iface",
    "Published",
    "Virtual",
    "WiredBridge",
    "Wiring",
    "build",
    "check_host",
    "features_needed",
    "paths_named",
    "ports_wanted",
    "to_json",
    "wire",
]


def wire(topology: Topology) -> Wiring:
    """Choose every name, MAC, address and route that the file leaves out; LabFileError with every problem."""
    wiring, problems = Wiring(topology=topology), Problems()
    connect(wiring, problems)
    assign(wiring, problems)
    plan_routes(wiring, problems)
    publish(wiring, problems)
    check(wiring, problems)
    if problems.errors:
        raise LabFileError(file_order(problems.errors))
    wiring.warnings = file_order(problems.warnings)
    return wiring


def build(wiring: Wiring) -> networkx.MultiGraph[str]:
    """The networkx graph of containers, bridges and the host."""
    from netns_orch.graph import paths

    return paths.build(wiring)


def to_json(wiring: Wiring) -> dict[str, Any]:
    """What was chosen, as a JSON object: for each container its interfaces with addresses and peers."""
    return {
        "name": wiring.topology.name,
        "bridges": {
            bridge.name: {
                "ifname": bridge.ifname,
                "mac": bridge.mac,
                "addresses": [str(addr) for addr in bridge.addresses],
                "subnets": [str(net) for net in bridge.subnets],
                "forward": bridge.forward,
            }
            for bridge in wiring.bridges.values()
        },
        "containers": {name: _container(wiring, name) for name in wiring.topology.containers},
        "links": [[_end(end) for end in cable.ends] for cable in wiring.cables],
        "warnings": [warning.what for warning in wiring.warnings],
    }


def _end(end: End) -> str:
    return f"{end.node}:{end.ifname}" if end.ifname else end.node


def _container(wiring: Wiring, name: str) -> dict[str, Any]:
    routes = wiring.routes.get(name, [])
    return {
        "interfaces": [
            {
                "ifname": iface.ifname,
                "mac": iface.mac if isinstance(iface, End) else None,
                "addresses": [str(addr) for addr in iface.addresses],
            }
            for iface in wiring.interfaces(name)
        ],
        "loopback": [str(addr) for addr in wiring.loopbacks.get(name, ())],
        "routes": [
            {"to": route.dst, "via": [hop.via or hop.dev for hop in route.hops], "table": route.table}
            for route in routes
        ],
    }
