"""munet's topology files: networks, nodes, kinds.

Owns: what each of their keys becomes.  Source: munet's documentation (configuration) and its JSON Schema.
Must not: write YAML, or read a file's text.
"""

from __future__ import annotations

import re
from ipaddress import IPv4Interface, ip_interface
from typing import Any

from netns_orch.convert import docker, shell
from netns_orch.convert.draft import Draft, End, Link, lab_name
from netns_orch.convert.source import Source, Value
from netns_orch.convert.variables import escaped
from netns_orch.labfile import addresses
from netns_orch.labfile.nodes import Mapping as MappingNode
from netns_orch.labfile.nodes import Sequence as SequenceNode

Keys = dict[str, Any]
_TOPOLOGY = frozenset(
    ("networks", "nodes", "networks-autonumber", "loopbacks-autonumber", "ipv6-enable", "dns-network")
)
_RUN = "/run/munet"
"""Where a node's run directory is, in the container."""
_SCRIPT = "/opt/munet-cmd"
"""Where a `cmd` of several lines is, in the container."""
_MACHINES = {
    "qemu": "netorch starts no virtual machines",
    "server": "a host that is reached by SSH can't be part of a lab",
    "hostnet": "a container has a network of its own",
}
_IMPAIRMENTS = frozenset(("delay", "jitter", "jitter-correlation", "loss", "loss-correlation", "rate"))
_ELSEWHERE = frozenset(("cmd", "cmd-file", "shell", "connections", "merge", "name", "kind", "id"))
"""Keys of a node that are read together with others."""
_AT_CONNECTION = frozenset(("to", "name", "ip", "ipv6", "mtu", "remote-name", "driver"))


def read(root: Value, source: Source, rootfs: str | None) -> Draft:
    """The draft of a topology file."""
    lab = _Lab(root, source, rootfs)
    lab.networks()
    lab.nodes()
    lab.wire()
    lab.commands()
    return lab.draft


class _Lab:
    """A topology on its way into a draft."""

    def __init__(self, root: Value, source: Source, rootfs: str | None) -> None:
        self.source = source
        self.rootfs = rootfs
        top = root.mapping()
        for key in set(top) - {"topology", "kinds", "version"}:
            top[key].told(f"`{key}` is for munet's own command line: left out")
        self.topology: Value = top["topology"]
        for key, value in self.topology.mapping().items():
            if key not in _TOPOLOGY:
                value.lost(f"left out: `{key}`")
        self.kinds = _named(root.get("kinds"))
        self.given_networks = _named(self.topology.get("networks"))
        self.given_nodes = {
            name: self._with_kind(value) for name, value in _named(self.topology.get("nodes")).items()
        }
        self.draft = Draft(name=lab_name(source.directory.name))
        self.autonumber = self._flag("networks-autonumber")
        ipv6 = self.topology.get("ipv6-enable")
        if self.autonumber and ipv6 is not None and ipv6.flag():
            ipv6.lost("left out: IPv6 addresses, where munet would choose them")
        self.names: dict[str, str] = {}
        self.subnets: dict[str, IPv4Interface | None] = {}
        """What numbers nodes on a network: its address, or None where it has none."""
        self.nat: set[str] = set()

    def _flag(self, key: str) -> bool:
        value = self.topology.get(key)
        return value is not None and value.flag()

    def _with_kind(self, node: Value) -> Value:
        """A node with what its kind says; its own keys win, lists that the kind merges are joined."""
        kind = node.get("kind")
        base = self.kinds.get(kind.plain()) if kind is not None else None
        if kind is not None and base is None:
            kind.lost(f"left out: what the kind {kind.plain()} says, which is not in this file")
        if base is None or not isinstance(base.node, MappingNode) or not isinstance(node.node, MappingNode):
            return node
        merged = MappingNode(node.node.line, node.node.column)
        merged.entries = {**base.node.entries, **node.node.entries}
        merge = base.get("merge")
        for item in merge.items() if merge is not None else []:
            key = item.plain()
            both = [each.node.entries.get(key) for each in (base, node) if isinstance(each.node, MappingNode)]
            lists = [found[1] for found in both if found and isinstance(found[1], SequenceNode)]
            if len(lists) == 2 and both[0] is not None:
                joined = SequenceNode(lists[0].line, lists[0].column)
                joined.items = [*lists[0].items, *lists[1].items]
                merged.entries[key] = (both[0][0], joined)
        return Value(node.source, merged, node.path, node.about, (node.line, node.column))

    # -- networks ----------------------------------------------------------------------------------

    def networks(self) -> None:
        """Each network as a bridge."""
        for number, (name, value) in enumerate(self.given_networks.items(), start=1):
            free = self.draft.bridge(name)
            self.names[name] = free
            value = value.of("bridges", free)
            ip, nat = value.get("ip"), value.get("nat")
            if nat is not None and nat.flag():
                self.nat.add(name)
            address = ip.checked(addresses.interface) if ip is not None and ip.plain() != "auto" else None
            if address is None and self.autonumber:
                address = ip_interface(f"10.0.{number & 255}.254/24")
            self.subnets[name] = address if isinstance(address, IPv4Interface) else None
            self.draft.bridges[free] = self._bridge(name, address, value)
            for key, each in value.mapping().items():
                if key in ("external", "connections"):
                    each.lost(f"left out: `{key}` of network {name}")

    def _bridge(self, name: str, address: Any, value: Value) -> Any:
        found = [str(address)] if address is not None else []
        ipv6 = value.get("ipv6")
        second = ipv6.checked(addresses.interface) if ipv6 is not None else None
        found += [str(second)] if second is not None else []
        if not found:
            return None
        if address is not None and address.ip == address.network.network_address:
            return {"subnet": found if len(found) > 1 else found[0]}
        given: Any = found if len(found) > 1 else found[0]
        return given if name in self.nat else {"address": given, "forward": "none"}

    # -- nodes -------------------------------------------------------------------------------------

    def nodes(self) -> None:
        """Each node as a container, without its links."""
        for number, (name, value) in enumerate(self.given_nodes.items(), start=1):
            free = self.draft.container(name)
            self.names[name] = free
            keys = self.draft.containers[free]
            value = value.of("containers", free)
            if free != name:
                value.lost(f"{name} is called {free} here")
            if self._flag("loopbacks-autonumber") and value.get("ip") is None:
                keys["loopback"] = [f"10.255.{self.id(name, number) >> 8}.{self.id(name, number) & 255}/32"]
            for key, each in value.mapping().items():
                if not each.null and key not in _ELSEWHERE:
                    self._key(free, name, keys, key, each)
            if self.rootfs is not None and self.rootfs != "host" and "rootfs" not in keys:
                keys["rootfs"] = self.rootfs

    def id(self, name: str, number: int) -> int:
        """A node's number: its own, or its place in the file."""
        value = self.given_nodes[name].get("id")
        return (value.whole() or number) if value is not None else number

    def _key(self, free: str, name: str, keys: Keys, key: str, value: Value) -> None:
        match key:
            case "image":
                if self.rootfs is None:
                    keys["image"] = value.text()
            case "ip" | "ipv6":
                found = [item.checked(addresses.loopback) for item in value.many() if item.plain() != "auto"]
                texts = [str(each) for each in found if each is not None]
                keys["loopback"] = [*keys.get("loopback", []), *texts]
            case "cap-add" | "cap-remove":
                docker.capabilities(value, keys, "cap_add" if key == "cap-add" else "cap_drop")
            case "env":
                self._environment(keys, value, name)
            case "privileged":
                keys.update({"privileged": True} if value.flag() else {})
            case "volumes":
                docker.volumes([self._volume(item, name) for item in value.items()], keys, free)
            case "mounts":
                for item in value.items():
                    self._mount(item, keys, free, name)
            case "ready-cmd":
                keys["ready"] = {"exec": self._filled(value, name)}
            case _ if key in _MACHINES:
                value.lost(f"{name}: {_MACHINES[key]}; only its wiring is taken over")
            case _:
                value.lost(f"left out: `{key}` has no counterpart")

    def _environment(self, keys: Keys, value: Value, name: str) -> None:
        for item in value.items():
            variable, text = item.get("name"), item.get("value")
            if variable is None:
                item.fail("this variable has no `name`")
            else:
                given = self._filled(text, name) if text is not None else ""
                keys.setdefault("environment", {})[variable.plain()] = given

    def _filled(self, value: Value, name: str) -> str:
        return escaped(self._replaced(value.raw(), name))

    def _replaced(self, text: str, name: str) -> str:
        """A text with munet's own variables filled in."""
        words = {"%NAME%": name, "%CONFIGDIR%": str(self.source.directory), "%RUNDIR%": _RUN}
        return re.sub("%(NAME|CONFIGDIR|RUNDIR)%", lambda match: words[match.group()], text)

    def _volume(self, item: Value, name: str) -> Value:
        """A volume; what lies in the run directory becomes a named one."""
        text = item.raw().replace("%CONFIGDIR%", ".")
        if text.startswith("%RUNDIR%"):
            source, _, rest = text.removeprefix("%RUNDIR%").strip("/").partition(":")
            text = f"{name}-{source.replace('/', '-') or 'run'}:{rest}"
        return item.saying(self._replaced(text, name))

    def _mount(self, item: Value, keys: Keys, free: str, name: str) -> None:
        kind, source, target = (item.get(key) for key in ("type", "source", "destination"))
        size = item.get("size") or item.get("tmpfs-size")
        if target is None:
            item.fail("this mount has no `destination`")
        elif kind is not None and kind.plain() == "tmpfs":
            option = f":size={size.plain().lower()}" if size is not None else ""
            docker.tmpfs(target.saying(f"{target.plain()}{option}"), keys)
        elif source is not None:
            docker.volumes(
                [self._volume(source.saying(f"{source.raw()}:{target.plain()}"), name)], keys, free
            )
        else:
            item.lost("left out: this mount has no source")

    # -- connections -------------------------------------------------------------------------------

    def wire(self) -> None:
        """A link for each connection; two nodes that name each other have one cable."""
        ends = {name: self._ends(name) for name in self.given_nodes}
        done: set[int] = set()
        p2p: dict[str, int] = {}
        for number, (name, mine) in enumerate(ends.items(), start=1):
            for to, end, value in mine:
                if id(end) in done:
                    continue
                done.add(id(end))
                if to in self.given_networks:
                    self._to_network(name, self.id(name, number), to, end, _mtu(value))
                elif to in ends:
                    other = next(
                        (each for each in ends[to] if each[0] == name and id(each[1]) not in done), None
                    )
                    peer = other[1] if other is not None else End(node=self.names[to])
                    done.add(id(peer))
                    self._number(end, peer, self.id(name, number), name, p2p)
                    self.draft.links.append(Link(a=end, b=peer, options=_mtu(value)))
                elif to:
                    value.fail(f"there is no network or node {to}")
                else:
                    self._unconnected(end)
        for name in self.given_nodes:
            keys = self.draft.containers[self.names[name]]
            networks = [to for to, _, _ in ends[name] if to in self.given_networks]
            if len(ends[name]) > 1:
                keys["router"] = True
            with_address = [to for to in networks if self.draft.bridges[self.names[to]]]
            if with_address and not any(to in self.nat for to in networks):
                keys["default_route"] = False

    def _ends(self, name: str) -> list[tuple[str, End, Value]]:
        """The connections of a node: to whom, its own end, and where that stands."""
        connections = self.given_nodes[name].get("connections")
        items = connections.items() if connections is not None else []
        found: list[tuple[str, End, Value]] = []
        taken: set[str] = set()
        for item in items:
            item = item.of("containers", self.names[name])
            if not item.is_mapping:
                to, _, ifname = item.plain().partition(":")
                end = End(node=self.names[name], ifname=ifname or None)
            else:
                given = item.get("to")
                to, end = (given.plain() if given is not None else ""), self._end(name, item)
            end.ifname = end.ifname or next(f"eth{n}" for n in range(1000) if f"eth{n}" not in taken)
            taken.add(end.ifname)
            found.append((to, end, item))
        return found

    def _end(self, name: str, item: Value) -> End:
        ifname = item.get("name")
        end = End(node=self.names[name], ifname=ifname.checked(addresses.ifname) if ifname else None)
        for key in ("ip", "ipv6"):
            value = item.get(key)
            found = value.checked(addresses.interface) if value is not None else None
            end.addresses += [str(found)] if found is not None else []
        end.options.update(_impairment(item))
        for key, value in item.mapping().items():
            if key in ("hostintf", "physical"):
                value.lost(f"left out: `{key}`: an interface of the host's can only be plugged into a bridge")
            elif key not in _AT_CONNECTION and key not in _IMPAIRMENTS:
                value.lost(f"left out: `{key}` of this connection")
        return end

    def _to_network(self, name: str, number: int, to: str, end: End, options: Keys) -> None:
        address = self.subnets[to]
        if self.autonumber and not end.addresses and address is not None:
            end.addresses.append(f"{address.network[number]}/{address.network.prefixlen}")
        bridge = End(node=self.names[to], options=_impairment(self.given_networks[to]))
        plain = self.draft.bridges[bridge.node] is not None and not end.addresses
        options.update({"address": "none"} if plain else {})
        self.draft.links.append(Link(a=end, b=bridge, options=options))

    def _unconnected(self, end: End) -> None:
        """An interface that no cable is plugged into."""
        made = {"dummy": True, **({"address": end.addresses} if end.addresses else {})}
        self.draft.containers[end.node].setdefault("interfaces", {})[end.ifname] = made

    def _number(self, a: End, b: End, number: int, name: str, p2p: dict[str, int]) -> None:
        """A straight cable gets a /31 of 10.254, as munet gives it, where nothing is said."""
        if self.autonumber and not a.addresses and not b.addresses:
            first = p2p.get(name, 0)
            p2p[name] = first + 2
            start = ip_interface(f"10.254.{number & 255}.0/31")
            a.addresses.append(f"{start.ip + first}/31")
            b.addresses.append(f"{start.ip + first + 1}/31")

    # -- commands ----------------------------------------------------------------------------------

    def commands(self) -> None:
        """`cmd` of each node: what of it sets the network up is said by the file, the rest is its command."""
        for name, value in self.given_nodes.items():
            free = self.names[name]
            value = value.of("containers", free)
            keys = self.draft.containers[free]
            cmd, file = value.get("cmd"), value.get("cmd-file")
            if file is not None:
                there = f"{_RUN}/cmd"
                path = self.source.path(self._replaced(file.raw().replace("%CONFIGDIR%", "."), name))
                keys.setdefault("volumes", []).append(escaped(f"{path}:{there}:ro"))
                keys["command"] = ["bash", there]
            elif cmd is not None:
                self._command(free, keys, self._filled(cmd, name), value.get("shell"))

    def _command(self, free: str, keys: Keys, text: str, shell_value: Value | None) -> None:
        words = shell_value.plain() if shell_value is not None else "true"
        if words == "false":
            assert shell_value is not None
            shell_value.lost("left out: `cmd` is typed on a console here")
            return
        program = words if words.startswith("/") else "bash"
        lines = shell.statements(text) if program.endswith("sh") else None
        if lines is not None:
            shell.absorb(self.draft, free, [shell.Command(line, line) for line in lines])
            text = "\n".join(str(line) for line in keys.pop("setup", []))
        if text.strip():
            several = "\n" in text.strip()
            keys["command"] = [program, _SCRIPT] if several else [program, "-c", text.strip()]
            if several:
                keys.setdefault("files", {})[_SCRIPT] = text.rstrip("\n") + "\n"
        if _RUN in text:
            keys.setdefault("tmpfs", []).append(_RUN)


def _named(value: Value | None) -> dict[str, Value]:
    """A list of mappings with names, by these."""
    found: dict[str, Value] = {}
    for item in value.items() if value is not None else []:
        name = item.get("name")
        if name is None:
            item.fail("this has no `name`")
        else:
            found[name.plain()] = item
    return found


def _mtu(value: Value) -> Keys:
    mtu = value.get("mtu") if value.is_mapping else None
    number = mtu.whole() if mtu is not None else None
    return {"mtu": number} if number is not None else {}


def _impairment(value: Value) -> Keys:
    """Delay and jitter in microseconds, loss in percent, a rate in bits a second."""
    found: Keys = {}
    for key in ("delay", "jitter"):
        each = value.get(key)
        if each is not None and (number := each.whole()):
            found[key] = f"{number // 1000}ms" if number % 1000 == 0 else f"{number}us"
    loss, rate = value.get("loss"), value.get("rate", "rate")
    if loss is not None and loss.plain() not in ("", "0"):
        found["loss"] = f"{loss.plain()}%"
    if rate is not None:
        text = rate.plain().lower()
        found["rate"] = f"{text}bit"
    for path in (("jitter-correlation",), ("loss-correlation",), ("rate", "limit"), ("rate", "burst")):
        each = value.get(*path)
        if each is not None:
            each.lost(f"left out: {' '.join(path)}")
    return found
