"""The network as commands of ip(8), bridge(8), tc(8), iptables(8) and nft(8).

Owns: which command makes which resource.  Must not: decide what is made.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Iterator

from netns_orch.resources import (
    HOST,
    Address,
    Bridge,
    Cable,
    CableEnd,
    Container,
    Firewall,
    Hop,
    HostPort,
    Qdisc,
    Route,
    Rule,
    State,
    Sysctl,
    VirtualInterface,
)
from netns_orch.script.words import Lines, comment, heredoc, word, words

PROTOCOL = 110
"""Of routes and rules, as netorch marks its own: `ip route show proto 110` lists them."""
_FRAME = 1514
_DEFAULT_MTU = 1500
_TABLES = {254: "main", 255: "local", 253: "default"}


def build(state: State) -> Lines:
    """Everything, in the order in which it is made."""
    yield from _bridges(state)
    yield from _cables(state)
    for node in _nodes(state):
        yield from _node(state, node)
    yield from _host(state)


def own_interfaces(state: State) -> set[str]:
    """The lab's interfaces on the host."""
    ends = [end for cable in state.of(Cable) for end in (cable.a, cable.b) if end.node == HOST]
    return {bridge.ifname for bridge in state.of(Bridge)} | {end.ifname for end in ends}


def remove(state: State) -> Lines:
    """What does not go with a container: bridges, the host's ends of cables, the host's own interfaces."""
    for port in state.of(HostPort):
        yield f"ip link set dev {word(port.ifname)} nomaster 2>/dev/null || :"
    for cable in state.of(Cable):
        if cable.b.node == HOST:
            yield f"ip link delete dev {word(cable.b.ifname)} 2>/dev/null || :"
    for bridge in state.of(Bridge):
        yield f"ip link delete dev {word(bridge.ifname)} 2>/dev/null || :"


def _nodes(state: State) -> list[str]:
    """Containers with a network of their own, in order."""
    joined = {c.name for c in state.of(Container) if c.spec and c.spec["net"]}
    return [c.name for c in state.of(Container) if c.name not in joined]


# -- bridges and cables ----------------------------------------------------------------------------


def _bridges(state: State) -> Lines:
    bridges = state.of(Bridge)
    if bridges:
        yield from comment(
            "Bridges.  They stay down until all ports are in.  addrgenmode: no IPv6 link-local address by"
            " itself."
        )
    for bridge in bridges:
        yield from _bridge(bridge)


def _bridge(bridge: Bridge) -> Lines:
    times = ("forward_delay", 400, "hello_time", 100, "max_age", 600) if bridge.stp else ()
    filtering = ("vlan_filtering", 1) if bridge.vlan_filtering else ()
    options = (
        *times, "stp_state", int(bridge.stp), "mcast_snooping", int(bridge.multicast_snooping), *filtering,
    )  # fmt: skip
    # An MTU counts as chosen only where it is changed; else it follows the ports.
    first = bridge.mtu - 1 if bridge.mtu > 1280 else bridge.mtu + 1
    yield words(
        "ip", "link", "add", bridge.ifname, "mtu", first, "address", bridge.mac, "type", "bridge", *options
    )
    mode = "eui64" if bridge.link_local else "none"
    yield words("ip", "link", "set", "dev", bridge.ifname, "mtu", bridge.mtu, "addrgenmode", mode)


def _cables(state: State) -> Lines:
    cables = state.of(Cable)
    if cables:
        yield from comment(
            "Cables: veth pairs.  What goes in at one end comes out at the other.  Each end is made where it"
            " belongs: in a container's network namespace, or on the host, plugged into a bridge."
        )
    ifnames = {bridge.name: bridge.ifname for bridge in state.of(Bridge)}
    for cable in cables:
        yield from _cable(cable, ifnames)


def _cable(cable: Cable, bridges: dict[str, str]) -> Lines:
    near, far = (cable.b, cable.a) if cable.b.node == HOST else (cable.a, cable.b)
    one, other = (_veth_end(end, cable) for end in (near, far))
    queues = "numtxqueues 1 numrxqueues 1"
    yield f"ip link add {one} {queues} type veth peer {other} {queues}"
    for end in (cable.a, cable.b):
        if end.node == HOST:
            yield from _port(cable, end, bridges)


def _veth_end(end: CableEnd, cable: Cable) -> str:
    text = words("name", end.ifname, "mtu", cable.mtu, "address", end.mac)
    return text if end.node == HOST else f'{text} netns "$(pid {word(end.node)})"'


def _port(cable: Cable, end: CableEnd, bridges: dict[str, str]) -> Lines:
    up = "up" if is_up(cable, end) else "down"
    master = ("master", bridges[end.bridge]) if end.bridge else ()
    # Two commands: of one message the kernel reads "up" first, and where the other end is up already may have
    # made the link-local address by the time it reads that there is to be none.
    yield words("ip", "link", "set", "dev", end.ifname, "addrgenmode", "none")
    yield words("ip", "link", "set", "dev", end.ifname, *master, up)
    if end.isolated:
        yield words("bridge", "link", "set", "dev", end.ifname, "isolated", "on")
    if end.hairpin:
        yield words("bridge", "link", "set", "dev", end.ifname, "hairpin", "on")
    yield from _vlans(end)


def is_up(cable: Cable, end: CableEnd) -> bool:
    """Of a cable that is unplugged, one end is switched off; the other then has no carrier."""
    unplugged = cable.a if cable.b.node != HOST or cable.a.node == HOST else cable.b
    return cable.up or end is not unplugged


def _vlans(end: CableEnd) -> Lines:
    if end.access is None and not end.trunk and end.native is None:
        return
    yield words("bridge", "vlan", "delete", "dev", end.ifname, "vid", 1)
    for vid in end.trunk:
        yield words("bridge", "vlan", "add", "dev", end.ifname, "vid", vid)
    untagged = end.access if end.access is not None else end.native
    if untagged is not None:
        yield words("bridge", "vlan", "add", "dev", end.ifname, "vid", untagged, "pvid", "untagged")


# -- one container ---------------------------------------------------------------------------------


def _node(state: State, node: str) -> Lines:
    """All that is done in one network namespace, by one shell in it."""
    ends = [(cable, end) for cable in state.of(Cable) for end in (cable.a, cable.b) if end.node == node]
    inside = [virtual for virtual in state.of(VirtualInterface) if virtual.container == node]
    commands = [
        *(words("sysctl", "-qw", f"{s.name}={s.value}") for s in state.of(Sysctl) if s.container == node),
        *_address_modes(ends),
        *(line for virtual in _below_first(inside) for line in _virtual(virtual)),
        *(_address(address) for address in state.of(Address) if address.owner == node),
        "ip link set dev lo up",
        *(words("ip", "link", "set", "dev", end.ifname, "up") for cable, end in ends if is_up(cable, end)),
        *(words("ip", "link", "set", "dev", virtual.ifname, "up") for virtual in inside),
        *_routing(state, node),
        *(line for qdisc in state.of(Qdisc) if qdisc.owner == node for line in _qdisc(qdisc)),
        *(line for cable, end in ends if not cable.offload for line in _no_offload(end.ifname)),
    ]
    yield ""
    yield f"# {node}"
    yield from heredoc(f"in_net {word(node)} sh -eu", commands)
    for firewall in state.of(Firewall):
        if firewall.container == node:
            yield from _firewall(firewall)


def _address_modes(ends: Iterable[tuple[Cable, CableEnd]]) -> Lines:
    for _, end in ends:
        mode = "eui64" if end.link_local else "none"
        yield words("ip", "link", "set", "dev", end.ifname, "addrgenmode", mode)


def _address(address: Address) -> str:
    nodad = "nodad" if ":" in address.cidr else None
    return words("ip", "address", "add", address.cidr, "dev", address.ifname, nodad)


def _below_first(wanted: Iterable[VirtualInterface]) -> list[VirtualInterface]:
    """Each parent before what stands on it."""
    rest, done = list(wanted), []
    while rest:
        names = {virtual.ifname for virtual in rest}
        ready = [virtual for virtual in rest if virtual.parent not in names] or rest
        done += ready
        rest = [virtual for virtual in rest if virtual not in ready]
    return done


def _virtual(virtual: VirtualInterface) -> Lines:
    parent = ("link", virtual.parent) if virtual.parent and virtual.kind in ("vlan", "macvlan") else ()
    mac = ("address", virtual.mac) if virtual.mac else ()
    mtu = ("mtu", virtual.mtu) if virtual.mtu else ()
    head = ("ip", "link", "add", *parent, "name", virtual.ifname, *mtu, *mac, "type", virtual.kind)
    yield words(*head, *_virtual_options(virtual))
    mode = "eui64" if virtual.link_local else "none"
    yield words("ip", "link", "set", "dev", virtual.ifname, "addrgenmode", mode)
    for member in virtual.members:
        if virtual.kind == "bond":  # takes only links that are down
            yield words("ip", "link", "set", "dev", member, "down")
        yield words("ip", "link", "set", "dev", member, "master", virtual.ifname)


def _virtual_options(virtual: VirtualInterface) -> tuple[str | int | None, ...]:
    match virtual.kind:
        case "vlan":
            return ("id", virtual.id)
        case "vrf":
            return ("table", virtual.table)
        case "bond":
            return ("mode", virtual.mode or "balance-rr", "miimon", 100)
        case "macvlan":
            return ("mode", virtual.mode or "bridge")
        case "bridge":
            return ("mcast_snooping", 0)
        case "vxlan":
            said = {
                "local": virtual.local,
                "remote": virtual.remote,
                "group": virtual.group,
                "dev": virtual.parent,
            }
            pairs = (part for name, value in said.items() if value for part in (name, value))
            return ("id", virtual.id, *pairs, "dstport", virtual.port or 4789)
        case _:
            return ()


# -- layer 3 -----------------------------------------------------------------------------------------


def _routing(state: State, node: str) -> Lines:
    for route in state.of(Route):
        if route.owner == node:
            yield _route(route)
    for rule in state.of(Rule):
        if rule.owner == node:
            yield _rule(rule)


def _route(route: Route) -> str:
    kind = None if route.type == "unicast" else route.type
    parts: list[str | int | None] = ["ip", f"-{route.family}", "route", "add", kind, route.dst]
    if len(route.hops) == 1:
        parts += _hop(route.hops[0], route.family)
    parts += ["proto", PROTOCOL]
    for name, value in (
        ("table", None if route.table == 254 else route.table),
        ("metric", route.metric or None),
        ("src", route.src),
        ("mtu", route.mtu),
        ("scope", route.scope),
    ):
        parts += [name, value] if value is not None else []
    parts += ["onlink"] if route.onlink and len(route.hops) == 1 else []
    for hop in route.hops if len(route.hops) > 1 else ():
        parts += ["nexthop", *_hop(hop, route.family), "weight", hop.weight]
        parts += ["onlink"] if route.onlink else []
    return words(*parts)


def _hop(hop: Hop, family: int) -> list[str | int | None]:
    other = "inet6" if hop.via and ":" in hop.via and family == 4 else None
    return [*(["via", other, hop.via] if hop.via else []), *(["dev", hop.dev] if hop.dev else [])]


def _rule(rule: Rule) -> str:
    parts: list[str | int | None] = ["ip", f"-{rule.family}", "rule", "add", "not" if rule.invert else None]
    mark = None if rule.fwmark is None else f"{rule.fwmark:#x}"
    if mark is not None and rule.fwmask is not None:
        mark += f"/{rule.fwmask:#x}"
    for name, value in (
        ("from", rule.source or "all"), ("to", rule.to), ("iif", rule.iif), ("oif", rule.oif),
        ("fwmark", mark), ("tos", rule.tos or None), ("priority", rule.priority), ("protocol", PROTOCOL),
    ):  # fmt: skip
        parts += [name, value] if value is not None else []
    parts += ["lookup", _TABLES.get(rule.table, rule.table)] if rule.action == "lookup" else [rule.action]
    return words(*parts)


def _firewall(firewall: Firewall) -> Lines:
    inside = f"in_net {word(firewall.container)}"
    if firewall.program == "nftables":
        yield from heredoc(f"{inside} nft -f -", (firewall.text or "").splitlines())
    elif firewall.text is not None:
        yield from heredoc(f"{inside} {firewall.program}-restore", firewall.text.splitlines())
    else:
        for rule in firewall.rules:
            yield f"{inside} {firewall.program} {shlex.join(shlex.split(rule))}"


# -- impairments -------------------------------------------------------------------------------------


def _qdisc(qdisc: Qdisc) -> Lines:
    head = ("tc", "qdisc", "replace", "dev", qdisc.ifname, "root")
    netem = words(*head, "netem", *_netem(qdisc))
    others = (qdisc.delay, qdisc.jitter, qdisc.loss, qdisc.duplicate, qdisc.corrupt, qdisc.reorder)
    if qdisc.rate is None or any(others):
        yield netem
    else:  # a kernel without netem can still do a rate
        yield f"{netem} 2>/dev/null || {words(*head, 'tbf', *_tbf(qdisc))}"


def _netem(qdisc: Qdisc) -> Iterator[str | int]:
    yield from ("limit", 1000 if qdisc.limit is None else qdisc.limit)
    if qdisc.delay is not None or qdisc.jitter is not None:
        yield from ("delay", _microseconds(qdisc.delay))
        yield from (_microseconds(qdisc.jitter),) if qdisc.jitter else ()
    for name in ("loss", "duplicate", "corrupt", "reorder"):
        share = getattr(qdisc, name)
        yield from (name, f"{share:g}%") if share is not None else ()
    yield from ("rate", f"{qdisc.rate}bit") if qdisc.rate is not None else ()


def _microseconds(seconds: float | None) -> str:
    return f"{round((seconds or 0) * 1e6)}us"


def _tbf(qdisc: Qdisc) -> tuple[str | int, ...]:
    rate = max(1, (qdisc.rate or 0) // 8)
    burst = min(max(rate // 250, 10 * _FRAME), 1 << 28)
    queue = burst + (rate // 10 if qdisc.limit is None else qdisc.limit * _FRAME)
    return ("rate", f"{qdisc.rate}bit", "burst", f"{burst}b", "limit", f"{queue}b")


def _no_offload(ifname: str) -> Lines:
    yield words("ethtool", "-K", ifname, "gro", "off", "gso", "off", "tso", "off", "tx", "off")


# -- the host ----------------------------------------------------------------------------------------


def _host(state: State) -> Lines:
    bridges, ports = state.of(Bridge), state.of(HostPort)
    here = [address for address in state.of(Address) if address.owner == HOST]
    ifnames = {bridge.name: bridge.ifname for bridge in bridges}
    if bridges:
        yield from comment("The host's own addresses on the bridges; then the bridges go up.")
    yield from (_address(address) for address in here)
    yield from (
        words("ip", "link", "set", "dev", port.ifname, "master", ifnames[port.bridge], "up") for port in ports
    )
    yield from (words("ip", "link", "set", "dev", b.ifname, "up" if b.up else "down") for b in bridges)
    yield from _routing(state, HOST)
    for qdisc in state.of(Qdisc):
        if qdisc.owner == HOST:
            yield from _qdisc(qdisc)
    yield from _settle(state)


def _settle(state: State) -> Lines:
    ends = [end for cable in state.of(Cable) for end in (cable.a, cable.b)]
    ports = [end.ifname for end in ends if end.node == HOST]
    straight = [end for cable in state.of(Cable) if cable.b.node != HOST for end in (cable.a, cable.b)]
    if ends:
        yield from comment(
            "A link carries packets once the kernel has looked at it: at once if it is asked for it."
        )
    if ports:
        yield f"for port in {words(*ports)}; do"
        yield '    ip link show dev "$port" >/dev/null'
        yield "done"
    for bridge in state.of(Bridge):
        if bridge.stp:
            yield from comment(f"STP: the ports of {bridge.name} listen and learn for some seconds.")
            waiting = word(f" master {bridge.ifname} state \\(listening\\|learning\\)")
            yield f"while bridge link show | grep -q {waiting}; do sleep 0.2; done"
            yield words("ip", "link", "show", "dev", bridge.ifname) + " >/dev/null"
    for end in straight:
        yield f"in_net {word(end.node)} {words('ip', 'link', 'show', 'dev', end.ifname)} >/dev/null"
