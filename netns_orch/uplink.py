"""The uplink: what a lab with ``netns: private`` has on the host, and nothing else.

Owns: the desired state of that part: one more container (``@host``, a name no file can give) whose network
namespace stands in the host's place, one cable from it to the host with NAT, the subnet of that cable, and
the published ports that lead there.
Must not: know what the lab looks like inside.

It is a lab of one container to all other rooms: planned, journalled, observed and rolled back as any other,
before (and on ``down`` after) the lab proper, whose host is then ``@host``.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network

from netns_orch.errors import NetorchError
from netns_orch.records import replace
from netns_orch.resources import (
    HOST,
    PLACE,
    UPLINK,
    Address,
    Cable,
    CableEnd,
    Cgroup,
    Container,
    ContainerSpec,
    Hop,
    HostFacts,
    HostSysctl,
    HostTable,
    Process,
    ProcessSpec,
    PublishedPort,
    Resource,
    Route,
    State,
    digest,
    route_localnet,
)

POOL = IPv4Network("100.64.0.0/10")
"""Shared address space (RFC 6598): where uplinks take their subnets from."""
POOL6 = IPv6Network("fd6e:7400::/32")
_SUBNETS = 1 << 20


def resolve(
    lab: str, id: str, facts: HostFacts, kept: State, *, ipv6: bool, ports: Iterable[PublishedPort] = ()
) -> State:
    """The part on the host; ``kept`` is what was applied before, whose subnet stays.

    ``ports`` are those of the lab proper, each leading from PLACE into a container.
    """
    subnets = _kept_subnets(kept) or [_free_subnet(lab, id, facts)]
    if ipv6:
        subnets = [subnets[0], _subnet6(subnets[0])]
    subnets = subnets[: 2 if ipv6 else 1]
    way_out = [*_uplink(lab, id, subnets), *_ports(ports, subnets, _outside(lab, id))]
    return State([*_container(lab), *way_out])


def _outside(lab: str, id: str) -> str:
    """The name of the cable's end on the host."""
    return f"up{_hash(lab, id)[:11]}"


def _ports(
    ports: Iterable[PublishedPort], subnets: Sequence[IPv4Network | IPv6Network], outside: str
) -> Iterable[Resource]:
    """Ports of the host that lead to PLACE, from where the lab's own lead on."""
    for port in ports:
        subnet = next(subnet for subnet in subnets if subnet.version == port.family)
        yield replace(
            port,
            container=PLACE,
            to_address=str(subnet[2]),
            to_port=port.port if port.transit is None else port.transit,
            near=(str(subnet),),
            uplink=None,
            transit=None,
        )
        if port.family == 4 and (port.address is None or ip_address(port.address).is_loopback):
            yield route_localnet(outside, port.where)


def _uplink(lab: str, id: str, subnets: Sequence[IPv4Network | IPv6Network]) -> Iterable[Resource]:
    outside = _outside(lab, id)
    yield HostTable(forward=((outside, "nat"),))
    yield HostSysctl(name="net.ipv4.ip_forward", value="1")
    if len(subnets) > 1:
        yield HostSysctl(name="net.ipv6.conf.all.forwarding", value="1")
    yield Cable(
        a=CableEnd(node=PLACE, ifname=UPLINK, mac=_mac(lab, id, "inside")),
        b=CableEnd(node=HOST, ifname=outside, mac=_mac(lab, id, "outside")),
    )
    for subnet in subnets:
        host, place = subnet[1], subnet[2]
        family, everywhere = (4, "0.0.0.0/0") if subnet.version == 4 else (6, "::/0")
        yield Address(owner=HOST, ifname=outside, cidr=f"{host}/{subnet.prefixlen}")
        yield Address(owner=PLACE, ifname=UPLINK, cidr=f"{place}/{subnet.prefixlen}")
        hops = (Hop(via=str(host), dev=UPLINK),)
        metric = 0 if family == 4 else 1024
        yield Route(owner=PLACE, family=family, dst=everywhere, metric=metric, hops=hops)


def closed(lab: str) -> State:
    """The part on the host of a lab that nothing leaves, where there is no nft to make NAT with."""
    return State(_container(lab))


def _container(lab: str) -> Iterable[Resource]:
    yield Cgroup(container=PLACE)
    spec = _place(lab)
    yield Container(name=PLACE, digest=digest(spec), spec=spec)
    idle = _idle()
    yield Process(container=PLACE, digest=digest(idle), spec=idle)


def _place(lab: str) -> ContainerSpec:
    return ContainerSpec(
        hostname=f"{lab}-host",
        root={"kind": "host", "layers": [], "read_only": False},
        lab_directory=None,
        files={},
        mounts=[],
        user_namespace=False,
        time_offsets={},
        net=None,
        capabilities=[],
        seccomp="default",
        nesting=False,
        privileged=False,
        init=True,
        ulimits={},
    )


def _idle() -> ProcessSpec:
    return ProcessSpec(
        argv=None,
        environment={},
        working_dir=None,
        user=None,
        init=True,
        restart="no",
        stop_signal="TERM",
        stop_grace_period=0.0,
        ready=None,
        depends_on=[],
    )


def _kept_subnets(kept: State) -> list[IPv4Network | IPv6Network]:
    return [ip_network(a.cidr, strict=False) for a in kept.of(Address) if a.owner == HOST and "." in a.cidr]


def _free_subnet(lab: str, id: str, facts: HostFacts) -> IPv4Network:
    """A /30 that nothing on the host overlaps; labs start at different places, so two seldom meet."""
    taken = [ip_network(text) for _, text in (*facts.subnets, *facts.routes)]
    there = [net for net in taken if isinstance(net, IPv4Network) and net.prefixlen and net.overlaps(POOL)]
    first = int(_hash(lab, id), 16) % _SUBNETS
    for step in range(len(there) * 4 + 4096):
        at = int(POOL.network_address) + 4 * ((first + step * 7919) % _SUBNETS)
        subnet = IPv4Network((at, 30))
        if not any(subnet.overlaps(net) for net in there):
            return subnet
    raise NetorchError(
        f"no subnet of {POOL} is free for the uplink of lab {lab}",
        hint="the host routes all of it elsewhere: use netns: host, or remove that route",
    )


def _subnet6(subnet: IPv4Network | IPv6Network) -> IPv6Network:
    """The IPv6 subnet that goes with an IPv4 one."""
    number = (int(subnet.network_address) - int(POOL.network_address)) >> 2
    return IPv6Network((int(POOL6.network_address) + (number << 64), 126))


def _hash(*parts: str) -> str:
    return hashlib.blake2b("\0".join(parts).encode(), digest_size=8).hexdigest()


def _mac(*parts: str) -> str:
    raw = bytes.fromhex(_hash(*parts))[:5]
    return ":".join(["02", *(f"{byte:02x}" for byte in raw)])
