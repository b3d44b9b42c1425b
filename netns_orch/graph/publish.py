"""Published ports: which address of a container a port of the host leads to.

Owns: that choice, what is wrong with a port in the lab as such, and what of the host's state forbids it.
Must not: look at the host itself; write rules (``kernel`` does).
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from ipaddress import IPv6Address, IPv6Network, ip_address
from typing import NamedTuple

from netns_orch.errors import KernelError, NetorchError, NotRootless
from netns_orch.graph.addresses import Addr, parse_net
from netns_orch.graph.names import Problems
from netns_orch.graph.routes import EVERYTHING
from netns_orch.graph.wiring import WiredBridge, Wiring
from netns_orch.labfile import model
from netns_orch.labfile.model import HOST
from netns_orch.records import dataclass
from netns_orch.resources import HostFacts, PortHolder, published

_LAST_PORT = 65535
_MAIN_TABLE = 254
_LINK_LOCAL = IPv6Network("fe80::/10")


@dataclass(slots=True, kw_only=True)
class Published:
    """A port of the host, of one family, and where it leads."""

    spec: model.Port
    container: str
    family: int
    address: str | None
    """The host's; None: any of this family."""
    to: Addr
    bridge: WiredBridge
    """The bridge that the host reaches it by."""
    near: tuple[str, ...]
    """Subnets from which the container would answer directly, past the host."""
    transit: int | None = None
    """In a private lab, where ``address`` is not of the namespace of the bridges: the port it comes in at."""

    @property
    def place(self) -> object:
        """What tells its place in the file from others; both families of a port have the same."""
        return self.spec.where or id(self.spec)

    @property
    def loopback(self) -> bool:
        """Whether only the host itself can reach it: published on 127.0.0.0/8."""
        return self.address is not None and ip_address(self.address).is_loopback

    def __str__(self) -> str:
        return f"port {published(self.address, self.family)}:{self.spec.host_port}/{self.spec.protocol}"


class _Way(NamedTuple):
    """An address of a container that the host reaches."""

    addr: Addr
    ifname: str | None
    """None where the host reaches it by a route."""
    bridge: WiredBridge


def publish(wiring: Wiring, problems: Problems) -> None:
    """Fill in ``wiring.published``, in file order."""
    for container in wiring.topology.containers.values():
        for spec in container.ports:
            if container.name not in wiring.incomplete and _is_fit(spec, problems):
                wiring.published += _published(wiring, container.name, spec, problems)
    _twice(wiring, problems)
    if wiring.topology.netns == "private":
        _choose_transit(wiring)


def _is_fit(spec: model.Port, problems: Problems) -> bool:
    """Whether a port can be published on this address of the host."""
    address = ip_address(spec.host_address) if spec.host_address else None
    if address == IPv6Address("::1"):
        problems.error(
            "nothing can be published on ::1: the kernel sends packets of ::1 nowhere but to the host itself",
            spec.where,
            f"127.0.0.1:{spec.host_port}:{spec.port} is for the host alone; "
            f"{spec.host_port}:{spec.port} is on every address but ::1",
        )
    elif address is not None and (address.is_multicast or address in _LINK_LOCAL):
        kind = "a multicast" if address.is_multicast else "a link-local"
        problems.error(f"nothing can be published on {kind} address, {spec.host_address}", spec.where)
    else:
        return True
    return False


def _published(wiring: Wiring, container: str, spec: model.Port, problems: Problems) -> list[Published]:
    host = ip_address(spec.host_address) if spec.host_address else None
    families = (4, 6) if host is None else (host.version,)
    address = None if host is None or host.is_unspecified else str(host)
    found = []
    for family in families:
        way = _best_way(wiring, container, family)
        if way is not None:
            nets = [way.addr.net, *(a.net for a in way.bridge.addresses if a.family == family)]
            near = tuple(dict.fromkeys(map(str, nets)))
            found.append(
                Published(
                    spec=spec,
                    container=container,
                    family=family,
                    address=address,
                    to=way.addr,
                    bridge=way.bridge,
                    near=near,
                )
            )
    if not found:
        kind = "" if len(families) > 1 else f"IPv{families[0]} "
        problems.error(
            f"{container} has no {kind}address that the host reaches: "
            f"port {spec.host_port} would lead nowhere",
            spec.where,
            "link it to a bridge with an address, or give the host a route to it (`host: {routes: [...]}`)",
        )
    for port in found:
        _warn(wiring, port, problems)
    return found


def _warn(wiring: Wiring, port: Published, problems: Problems) -> None:
    """Ports that do not reach as far as they seem to."""
    private = wiring.topology.netns == "private"
    if port.loopback and not private:
        return
    routes = wiring.routes.get(wiring.pods.get(port.container, port.container), [])
    if port.bridge.forward == "none":
        problems.warn(
            f"{'nothing' if private else 'only the host itself'} reaches {port}: "
            f"bridge {port.bridge.name} has forward: none",
            port.spec.where,
            "`forward: nat` lets packets from beyond the host in",
        )
    elif not any(route.dst == EVERYTHING[port.family] for route in routes):
        problems.warn(
            f"{port.container} has no IPv{port.family} default route: "
            f"what it answers at {port} reaches only the host and its own subnets",
            port.spec.where,
        )


# -- the address ---------------------------------------------------------------------------------


def _best_way(wiring: Wiring, container: str, family: int) -> _Way | None:
    """On a bridge that lets packets in, on link of the host, where its default route goes; else the first."""
    network = wiring.pods.get(container, container)
    defaults = [route for route in wiring.routes.get(network, ()) if route.dst == EVERYTHING[family]]
    outward = {hop.dev for route in defaults for hop in route.hops}
    return min(
        (way for way in _ways(wiring, network) if way.addr.family == family),
        key=lambda w: (w.bridge.forward == "none", w.ifname is None, w.ifname not in outward),
        default=None,
    )


def _ways(wiring: Wiring, network: str) -> Iterator[_Way]:
    for iface in wiring.interfaces(network):
        for addr in iface.addresses:
            for bridge in wiring.bridges.values():
                near = (a.net.holds(addr.family, addr.value) for a in bridge.addresses)
                if bridge.segment == iface.segment and not addr.is_link_local and any(near):
                    yield _Way(addr, iface.ifname, bridge)
    for addr in wiring.addresses(network):
        routed = None if addr.is_link_local else _by_route(wiring, addr)
        if routed is not None:
            yield _Way(addr, None, routed)


def _by_route(wiring: Wiring, addr: Addr) -> WiredBridge | None:
    """The bridge by which the host's routes of the file lead to an address."""
    real = {bridge.ifname: bridge for bridge in wiring.bridges.values()}
    best: tuple[int, WiredBridge] | None = None
    for route in wiring.routes.get(HOST, ()):
        net = parse_net(route.dst)
        bridge = next((real[hop.dev] for hop in route.hops if hop.dev in real), None)
        fits = route.table == _MAIN_TABLE and net.holds(addr.family, addr.value)
        if bridge is not None and fits and (best is None or net.prefix > best[0]):
            best = (net.prefix, bridge)
    return best[1] if best else None


# -- one port, one container ---------------------------------------------------------------------


def _overlap(one: str | None, other: str | None) -> bool:
    """Whether two addresses of the host, of one family, have an address in common; None is any."""
    return one is None or other is None or one == other


def _twice(wiring: Wiring, problems: Problems) -> None:
    """The same port of the host for two: reported at the second, once for each place in the file."""
    by_port: dict[tuple[int, str, int], list[Published]] = {}
    reported: set[object] = set()
    for port in wiring.published:
        earlier = by_port.setdefault((port.family, port.spec.protocol, port.spec.host_port), [])
        other = next((o for o in earlier if _overlap(o.address, port.address)), None)
        earlier.append(port)
        if other is not None and port.place not in reported:
            reported.add(port.place)
            problems.errors.append(_second(wiring, other, port))


def _second(wiring: Wiring, first: Published, port: Published) -> NetorchError:
    of_scale = wiring.topology.containers[port.container].n is not None
    if of_scale and port.place == first.place:
        hint = "`scale` gives each of them the same port: publish one container that the others stand behind"
    else:
        hint = "give one of them another port, or each an address of the host's"
    who = first.container if first.container != port.container else "the same container"
    what = f"{port} of {port.container} is published already, by {who} as {str(first).removeprefix('port ')}"
    return NetorchError(what, where=port.spec.where, hint=hint)


def _choose_transit(wiring: Wiring) -> None:
    """Ports on one address of the host come in by the uplink, where that address is no longer to be seen."""
    taken = {(p.family, p.spec.protocol, p.spec.host_port) for p in wiring.published if p.address is None}
    for port in wiring.published:
        if port.address is None:
            continue
        kind, number = (port.family, port.spec.protocol), port.spec.host_port
        free = (n for n in (number, *range(_LAST_PORT, 0, -1)) if (*kind, n) not in taken)
        port.transit = next(free)
        taken.add((*kind, port.transit))


# -- the host ------------------------------------------------------------------------------------


def ports_wanted(wiring: Wiring) -> frozenset[tuple[str, int]]:
    """Protocol and port of all that is published."""
    return frozenset((port.spec.protocol, port.spec.host_port) for port in wiring.published)


def check_host(wiring: Wiring, facts: HostFacts, problems: Problems) -> None:
    """Ports that somebody else has, addresses that the host has not, rootless labs nothing leads into."""
    own = [] if wiring.topology.netns == "private" else [a.ip for a in wiring.addresses(HOST)]
    reported: set[object] = set()
    for port in wiring.published:
        problem: NetorchError | None
        if facts.closed is not None:
            problem = _not_rootless(port, facts.closed)
        else:
            problem = _not_there(port, [*facts.addresses, *own]) or _taken(port, facts)
        if problem is not None and port.place not in reported:
            reported.add(port.place)
            problems.errors.append(problem)


def _not_rootless(port: Published, lack: str) -> NotRootless:
    return NotRootless(
        f"{port} can't be published: an ordinary user needs pasta or slirp4netns for that, and /dev/net/tun",
        where=port.spec.where,
        hint=f"{lack}; or look from inside: netorch exec {port.container} ...",
    )


def _not_there(port: Published, addresses: list[str]) -> KernelError | None:
    if port.address is None or port.loopback or port.address in addresses:
        return None
    there = ", ".join(address for address in addresses if ip_address(address).version == port.family)
    return KernelError(
        f"the host has no address {port.address}",
        errno=errno.EADDRNOTAVAIL,
        where=port.spec.where,
        hint=f"it has {there}" if there else f"it has no IPv{port.family} address",
    )


def _taken(port: Published, facts: HostFacts) -> KernelError | None:
    """Not a fault of the file: the same file is right where nobody has that port."""
    wanted = (port.spec.protocol, port.family, port.spec.host_port)
    for holder in facts.port_holders:
        same = (holder.protocol, holder.family, holder.port) == wanted
        if same and _overlap(holder.address, port.address):
            return _in_use(port, holder)
    return None


def _in_use(port: Published, holder: PortHolder) -> KernelError:
    text = f"${{PORT:-{port.spec.host_port}}}:{port.spec.port}"
    return KernelError(
        f"{port} of the host is taken: {holder.who}",
        errno=errno.EADDRINUSE,
        where=port.spec.where,
        hint=f'publish another one; with "{text}" in the file, `--var PORT=N` chooses it',
    )
