"""Resolve: a wiring becomes the desired state, one resource for each thing to be made in the kernel.

Owns: the translation into the vocabulary of ``resources``, in the order in which things are built; names
of cable ends on the host.  Must not: choose addresses or routes (``graph`` did), or look at the host.

``host`` does what lives in the namespace of the bridges, ``network`` cables and what is on them,
``containers`` namespaces, roots, confinement and processes.
"""

from __future__ import annotations

from itertools import chain

from netns_orch.graph import Wiring
from netns_orch.resolve import containers, network
from netns_orch.resolve import host as place
from netns_orch.resolve.host import published_ports, without_table
from netns_orch.resources import HostFacts, State

__all__ = ["published_ports", "resolve", "without_table"]


_ANY_HOST = HostFacts()


def resolve(wiring: Wiring, *, id: str, host: HostFacts = _ANY_HOST) -> State:
    """All that should be, in build order.

    ``id`` is the lab's; of ``host`` count its name servers, what lies where roots come from, whether its
    firewall sees the frames of bridges, whether the lab is rootless, and what its kernel and programs can do.
    """
    sources = {path.path: path for path in host.paths}
    # A rootless lab has its bridges to itself, in namespaces that are new for each plan of one not up.
    names = network.HostNames(wiring, "" if host.rootless else id)
    return State(
        chain(
            place.table(wiring, host),
            place.published_ports(wiring),
            place.sysctls(wiring, host),
            containers.layers(wiring, sources),
            containers.cgroups(wiring),
            containers.containers(wiring, sources),
            containers.hosts_files(wiring, host.upstream_dns),
            containers.netns_names(wiring),
            place.bridges(wiring),
            place.ports(wiring),
            network.cables(wiring, names, bridge_netfilter=host.bridge_netfilter),
            network.virtual_interfaces(wiring),
            network.addresses(wiring),
            network.sysctls(wiring, ipv6=host.ipv6),
            network.routes(wiring),
            network.rules(wiring),
            network.firewalls(wiring),
            network.qdiscs(wiring, names),
            containers.setups(wiring),
            containers.processes(wiring),
        )
    )
