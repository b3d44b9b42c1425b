"""Topologies built in code, in a few words, for the tests of what needs no kernel."""

from __future__ import annotations

from ipaddress import ip_interface, ip_network
from typing import Any

import pytest

from netns_orch import graph
from netns_orch.errors import LabFileError, NetorchError, Where
from netns_orch.graph import Wiring
from netns_orch.labfile.model import (
    Bridge,
    Container,
    Endpoint,
    Link,
    Marked,
    Route,
    Rule,
    Topology,
    VirtualInterface,
)


def at(line: int, column: int = 1) -> Where:
    """A place in a lab file."""
    return Where("lab.yaml", line, column)


def bridge(*addresses: str, subnet: str | list[str] = (), **more: Any) -> Bridge:  # type: ignore[assignment]
    """A bridge; its name is that of the keyword it is given to ``lab`` with."""
    subnets = [subnet] if isinstance(subnet, str) else subnet
    return Bridge(
        name="",
        addresses=[ip_interface(item) for item in addresses],
        subnets=[ip_network(item) for item in subnets],
        **more,
    )


def box(*, loopback: list[str] = (), **more: Any) -> Container:  # type: ignore[assignment]
    """A container."""
    return Container(name="", loopback=[ip_interface(item) for item in loopback], **more)


def end(text: str, *addresses: str, **more: Any) -> Endpoint:
    """``red`` or ``red:eth0``, with addresses."""
    node, _, ifname = text.partition(":")
    given = [ip_interface(item) for item in addresses]
    return Endpoint(node=node, ifname=ifname or None, addresses=given, **more)


def link(a: str | Endpoint, b: str | Endpoint, *, subnet: str | None = None, **more: Any) -> Link:
    """A link of two ends; as text they are as in the file."""
    a, b = (item if isinstance(item, Endpoint) else end(item) for item in (a, b))
    return Link(a=a, b=b, subnet=ip_network(subnet) if subnet else None, **more)


def via(to: str, gateway: str | None = None, **more: Any) -> Route:
    """A route."""
    return Route(to=to, via=gateway, **more)


def rule(**more: Any) -> Rule:
    """A policy rule."""
    return Rule(**more)


def inside(name: str, kind: Any, *addresses: str, **more: Any) -> VirtualInterface:
    """An interface made inside a container."""
    given = [ip_interface(item) for item in addresses]
    return VirtualInterface(name=name, kind=kind, addresses=given, **more)


def lab(*links: Link, name: str = "lab", lines: bool = True, **more: Any) -> Topology:
    """A topology; containers and bridges by name.  ``lines``: each object stands at a line of its own."""
    fields = {
        key: more.pop(key) for key in ("addressing", "host", "groups", "link_local", "file") if key in more
    }
    topology = Topology(name=name, links=list(links), **fields)
    for key, value in more.items():
        value.name = key
        (topology.bridges if isinstance(value, Bridge) else topology.containers)[key] = value
    if lines:
        _number(topology)
    return topology


def _number(topology: Topology) -> None:
    """Line 10 on for bridges, 100 on for containers, 1000 on for links."""
    for first, objects in (
        (10, list(topology.bridges.values())),
        (100, list(topology.containers.values())),
        (1000, topology.links),
    ):
        for number, thing in enumerate(objects):
            _place(thing, first + number)
    for thing in topology.links:
        line = thing.where.line if thing.where else 0
        for column, side in ((5, thing.a), (9, thing.b)):
            side.where = side.where or at(line, column)


def _place(thing: Marked, line: int) -> None:
    thing.where = thing.where or at(line)


def wire(*links: Any, **more: Any) -> Wiring:
    """The wiring of a lab that is right."""
    return graph.wire(lab(*links, **more))


def problems(*links: Any, **more: Any) -> list[NetorchError]:
    """What is wrong with a lab that is not."""
    with pytest.raises(LabFileError) as caught:
        wire(*links, **more)
    return caught.value.problems


def addresses(wiring: Wiring, container: str) -> list[str]:
    """All addresses of a container as text."""
    return [str(addr) for addr in wiring.addresses(container)]


def routes(wiring: Wiring, node: str) -> list[tuple[str, str | None, str | None]]:
    """Destination, next hop and interface of each route of a node."""
    return [(route.dst, hop.via, hop.dev) for route in wiring.routes.get(node, []) for hop in route.hops]


def red_blue() -> Wiring:
    """The smallest lab of the design."""
    return wire(link("red", "br0"), link("blue", "br0"), br0=bridge("10.0.0.1/24"), red=box(), blue=box())
