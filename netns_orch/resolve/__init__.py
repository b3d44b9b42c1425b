"""Resolve: a wiring becomes the desired state, one resource for each thing to be made in the kernel.

Owns: the translation into the vocabulary of ``resources``, in the order in which things are built; names
of cable ends on the host.  Must not: choose addresses or routes (``graph`` did), or look at the host.

``host`` does what lives in the namespace of the bridges, ``network`` cables and what is on them,
``containers`` namespaces, roots, confinement and processes.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain

from netns_orch.graph import Wiring
from netns_orch.resolve import containers, host, network
from netns_orch.resolve.host import published_ports
from netns_orch.resources import HostPath, State

__all__ = ["published_ports", "resolve"]


def resolve(
    wiring: Wiring,
    *,
    id: str,
    upstream_dns: Sequence[str] = (),
    paths: Sequence[HostPath] = (),
    bridge_netfilter: bool = False,
) -> State:
    """All that should be, in build order.

    ``id`` is the lab's, ``upstream_dns`` the host's real servers, ``paths`` what lies where roots come from;
    ``bridge_netfilter``: the host's firewall sees the frames of bridges.
    """
    sources = {path.path: path for path in paths}
    names = network.HostNames(wiring, id)
    return State(
        chain(
            host.table(wiring),
            host.published_ports(wiring),
            host.sysctls(wiring),
            containers.layers(wiring, sources),
            containers.cgroups(wiring),
            containers.containers(wiring, sources),
            containers.hosts_files(wiring, upstream_dns),
            containers.netns_names(wiring),
            host.bridges(wiring),
            host.ports(wiring),
            network.cables(wiring, names, bridge_netfilter=bridge_netfilter),
            network.virtual_interfaces(wiring),
            network.addresses(wiring),
            network.sysctls(wiring),
            network.routes(wiring),
            network.rules(wiring),
            network.firewalls(wiring),
            network.qdiscs(wiring, names),
            containers.setups(wiring),
            containers.processes(wiring),
        )
    )
