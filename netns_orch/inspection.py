"""What a state has of one node, as ``inspect`` prints it.

Owns: the names of the groups, and which objects belong to a node.  Must not: ask the kernel.
"""

from __future__ import annotations

from typing import Any

from netns_orch.resources import Cable, PublishedPort, State, to_json

NETWORK = ("cables", "virtual_interfaces", "addresses", "routes", "rules", "firewall", "sysctls", "qdiscs")
"""The groups that a pod's members share."""
_PLURALS = {
    "cgroup": "limits",
    "cable": "cables",
    "interface": "virtual_interfaces",
    "address": "addresses",
    "route": "routes",
    "rule": "rules",
    "firewall": "firewall",
    "sysctl": "sysctls",
    "bridge": "bridges",
    "host-sysctl": "sysctls",
    "qdisc": "qdiscs",
    "port": "ports",
}


def of_node(node: str, observed: State) -> dict[str, Any]:
    """All of a state that is a node's, grouped by kind, as JSON; ``extra``: what is there beside."""
    grouped: dict[str, Any] = {}
    for resource in observed.values():
        far = isinstance(resource, Cable) and node in (resource.a.node, resource.b.node)
        leads_here = isinstance(resource, PublishedPort) and resource.container == node
        if resource.node == node or far or leads_here:
            grouped.setdefault(_PLURALS.get(resource.KIND, resource.KIND), []).append(to_json(resource))
    grouped["extra"] = [to_json(r) for r in observed.extra.values() if r.node == node]
    return grouped
