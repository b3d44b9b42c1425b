"""containerlab's topology files: nodes, kinds, groups, defaults and links.

Owns: what each of their keys becomes.  Source: containerlab's manual (nodes, topology definition file) and
its JSON Schema.  Must not: write YAML, or read a file's text.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from typing import Any

from netns_orch.convert import docker, shell
from netns_orch.convert.draft import Draft, End, Link, lab_name
from netns_orch.convert.source import Source, Value
from netns_orch.labfile import addresses, hints
from netns_orch.labfile.units import Wrong

Keys = dict[str, Any]
_LINUX = "linux"
_BRIDGES = frozenset(("bridge", "ovs-bridge"))
_NOT_NODES = {
    "host": "the host itself is no node of a lab: what is linked to it gets a bridge of its own",
    "ext-container": "a container that something else started can't be part of a lab",
    "k8s-kind": "netorch starts no Kubernetes clusters",
}
_LISTS = frozenset(("binds", "volumes", "exec", "env-files", "cap-add", "devices", "security-opts"))
_MAPS = frozenset(("env", "labels", "sysctls", "tmpfs"))
_SHELLS = {"sh": True, "/bin/sh": True, "ash": True, "bash": False, "/bin/bash": False}
"""Shells by name, and whether the lab file's own, /bin/sh, does the same."""
_OF_A_LINK = frozenset(
    (
        *("type", "endpoints", "endpoint", "mtu", "ipv4", "ipv6"),
        *("host-interface", "mode", "remote", "vni", "dst-port"),
    )
)
_SPECIAL = frozenset(("dummy", "macvlan", "mgmt-net", "vxlan", "vxlan-stitch"))
"""What may stand in place of a node at an end of a link in its short form."""
_ELSEWHERE = frozenset(("kind", "group", "image", "cmd", "entrypoint", "exec", "network-mode", "stages"))
"""Keys of a node that are read together with others."""
_NOTHING = {
    "mgmt-ipv4": "there is no management network: a lab has exactly the interfaces of the file",
    "mgmt-ipv6": "there is no management network: a lab has exactly the interfaces of the file",
    "image-pull-policy": hints.CONTAINER["pull_policy"],
    "runtime": "netorch needs no container runtime",
    "auto-remove": "`netorch down` removes a lab whole",
    "link-apply-mode": "`netorch up` changes the links of a running lab in place",
    "credentials": "netorch logs in nowhere: `netorch exec` and `shell` need no password",
    "cgroupns-mode": "a container always has a cgroup namespace of its own",
    "config": "netorch has no config engine",
    "certificate": "netorch makes no certificates",
    "type": "only a network operating system has a type",
}
"""Keys without which a plain container does the same."""
_ALIASES: tuple[tuple[re.Pattern[str], Callable[[re.Match[str]], str]], ...] = (
    (re.compile(r"ethernet-(\d+)/(\d+)(?:/(\d+))?"), lambda m: "e" + "-".join(filter(None, m.groups()))),
    (re.compile(r"Ethernet(\d+)"), lambda m: f"eth{m[1]}"),
)
"""Names of interfaces on the box itself, and those that its container has instead."""


def read(root: Value, source: Source, rootfs: str | None) -> Draft:
    """The draft of a topology file."""
    lab = _Lab(root, source, rootfs)
    lab.nodes()
    lab.wire()
    lab.publish()
    for name in lab.settings:
        lab.setup(name)
    return lab.draft


class _Lab:
    """A topology on its way into a draft."""

    def __init__(self, root: Value, source: Source, rootfs: str | None) -> None:
        self.source = source
        self.rootfs = rootfs
        top = root.mapping()
        name = top["name"].plain() if "name" in top else source.directory.name
        self.lab = name
        self.draft = Draft(name=lab_name(name))
        for key in ("mgmt", "prefix", "settings", "debug"):
            if key in top:
                top[key].told(f"`{key}` means nothing to netorch: {_TOP[key]}")
        for key in set(top) - {"name", "topology", *_TOP}:
            top[key].lost(f"left out: `{key}` is not known")
        topology = top["topology"].mapping()
        for key in set(topology) - {"nodes", "links", "kinds", "groups", "defaults"}:
            topology[key].lost(f"left out: `{key}` is not known")
        self.topology = topology
        self.links = topology.get("links")
        self.names: dict[str, str] = {}
        """From the names of nodes to those in the draft."""
        self.settings: dict[str, dict[str, list[Value]]] = {}
        """What is said about each container: values from the least to the most specific level."""
        self.host_nodes: set[str] = {"host"}
        self.absent: set[str] = set()
        """Nodes that are no part of the lab."""

    # -- nodes -------------------------------------------------------------------------------------

    def nodes(self) -> None:
        """Every node as a bridge or a container."""
        nodes = self.topology.get("nodes")
        for name, value in (nodes.mapping() if nodes else {}).items():
            levels = self._levels(value)
            kind = _last(levels, "kind")
            word = kind.plain() if kind is not None else _LINUX
            if word in _NOT_NODES:
                value.lost(f"{name}: {_NOT_NODES[word]}")
                (self.host_nodes if word == "host" else self.absent).add(name)
            elif word in _BRIDGES:
                self.names[name] = self.draft.bridge(name)
                value.told(
                    f"the bridge {name} is one of the lab's own, not one of that name on the host",
                    "to plug in an interface of the host's: links: [[BRIDGE, host:IFACE]]",
                )
            else:
                self._container(name, value, levels, word)

    def _levels(self, value: Value) -> list[dict[str, Value]]:
        """What holds for a node: defaults, kind, group, the node itself."""
        own = value.mapping()
        defaults = self._section("defaults")
        group = own.get("group") or defaults.get("group")
        group_keys = self._section("groups", group.plain()) if group else {}
        kind = own.get("kind") or group_keys.get("kind") or defaults.get("kind")
        kind_keys = self._section("kinds", kind.plain()) if kind else {}
        if group is None and "group" in kind_keys:
            group_keys = self._section("groups", kind_keys["group"].plain())
        return [defaults, kind_keys, group_keys, own]

    def _section(self, *keys: str) -> dict[str, Value]:
        first = self.topology.get(keys[0])
        found = first.get(*keys[1:]) if first is not None and len(keys) > 1 else first
        return found.mapping() if found is not None else {}

    def _container(self, name: str, value: Value, levels: list[dict[str, Value]], kind: str) -> None:
        free = self.draft.container(name)
        self.names[name] = free
        keys = self.draft.containers[free]
        if free != name:
            value.of("containers", free).lost(f"{name} is called {free}: a name has letters, digits, - and _")
        said: dict[str, list[Value]] = {}
        for level in levels:
            for key, each in level.items():
                if not each.null:
                    said.setdefault(key, []).append(each.of("containers", free))
        self.settings[free] = said
        self._image(keys, said, kind, value.of("containers", free))
        for key, values in said.items():
            if key not in _ELSEWHERE:
                self._key(free, keys, key, values, kind)
        self._command(keys, said, kind)
        self._namespaces(free, keys, said)

    def _image(self, keys: Keys, said: dict[str, list[Value]], kind: str, value: Value) -> None:
        image = said["image"][-1] if "image" in said else None
        plain = kind == _LINUX
        if not plain:
            where = said["kind"][-1] if "kind" in said else value
            where.lost(
                f"a {kind}: netorch starts no network operating system; only its wiring is taken over",
                "FRR in a plain container may take its place: `netorch init frr-ospf` shows one",
            )
        if plain and self.rootfs is not None:
            if self.rootfs != "host":
                keys["rootfs"] = self.rootfs
        elif image is not None:
            keys["image"] = image.text()

    def _key(self, name: str, keys: Keys, key: str, values: list[Value], kind: str) -> None:
        """One key of a node; lists and mappings of all levels count, else the most specific."""
        value = values[-1]
        items = [item for each in values for item in each.items()] if key in _LISTS else []
        if key in _MAPS:
            take = {
                "env": docker.environment,
                "labels": docker.labels,
                "sysctls": docker.sysctls,
                "tmpfs": docker.tmpfs,
            }[key]
            for each in values:
                take(each, keys)
            if keys.get("environment", {}).pop("__IMPORT_ENVS", None) is not None:
                value.lost("left out: __IMPORT_ENVS: name the variables one by one, as NAME: ${NAME:-}")
        elif key == "binds":
            self._binds(name, keys, items)
        elif key == "volumes":
            docker.volumes(items, keys, name)
        elif key == "env-files":
            docker.environment_files(items, keys)
        elif key == "cap-add":
            for each in values:
                docker.capabilities(each, keys, "cap_add")
        elif key == "devices":
            docker.devices(items, keys)
        elif key == "security-opts":
            docker.security(items, keys)
        else:
            self._one(name, keys, key, value, kind)

    def _one(self, name: str, keys: Keys, key: str, value: Value, kind: str) -> None:
        match key:
            case "ports":
                keys["ports"] = docker.ports(value.items())
            case "restart-policy":
                docker.restart(value, keys)
            case "memory":
                docker.memory(value, keys)
            case "cpu":
                docker.cpus(value, keys)
            case "cpu-set":
                docker.resources(keys)["cpuset"] = value.text()
            case "user":
                docker.user(value, keys)
            case "hostname":
                docker.hostname(value, keys, name)
            case "privileged":
                if value.flag():
                    keys["privileged"] = True
            case "healthcheck":
                docker.healthcheck(value, keys)
            case "dns":
                self._dns(keys, value)
            case _ if key in _NOTHING and kind == _LINUX:
                value.told(f"`{key}` means nothing here: {_NOTHING[key]}")
            case _ if key in _NOTHING and key != "type":
                value.told(f"`{key}` means nothing here: {_NOTHING[key]}")
            case _:
                value.lost(f"left out: `{key}` has no counterpart")

    def _dns(self, keys: Keys, value: Value) -> None:
        for key, each in value.mapping().items():
            if key == "servers":
                docker.servers(each, keys)
            elif key == "search":
                docker.texts(each, keys, "dns_search")
            else:
                each.lost(f"left out: `{key}` of dns")

    def _binds(self, name: str, keys: Keys, items: list[Value]) -> None:
        """Binds by the path inside: a more specific level's stands for another's."""
        before = keys.pop("volumes", [])
        docker.volumes([self._magic(item, name) for item in items], keys, name, paths=True)
        by_target = {line.split(":")[1]: line for line in [*before, *keys.get("volumes", [])]}
        if by_target:
            keys["volumes"] = list(by_target.values())

    def _magic(self, value: Value, name: str) -> Value:
        """The same with containerlab's own variables filled in."""
        node = next((before for before, after in self.names.items() if after == name), name)
        words = {
            "__clabNodeName__": node,
            "__clabNodeDir__": f"./clab-{self.lab}/{node}",
            "__clabDir__": f"./clab-{self.lab}",
            "__clabLabName__": f"clab-{self.lab}",
        }
        text = value.raw()
        return value.saying(re.sub("__clab[A-Za-z]+__", lambda found: words.get(found[0], found[0]), text))

    def _command(self, keys: Keys, said: dict[str, list[Value]], kind: str) -> None:
        words = [word for key in ("entrypoint", "cmd") if key in said for word in said[key][-1].words()]
        if not words:
            return
        keys["command"] = docker.command(words)
        if kind == _LINUX and "restart-policy" not in said:
            keys["restart"] = "always"
        if "entrypoint" not in said and "image" in keys:
            said["cmd"][-1].told("an entrypoint of the image itself goes before `cmd`: write both")

    def _namespaces(self, name: str, keys: Keys, said: dict[str, list[Value]]) -> None:
        if "network-mode" not in said:
            return
        value = said["network-mode"][-1]
        mode, _, other = value.plain().partition(":")
        if mode == "container" and other:
            keys["namespaces"] = {"net": f"container:{self.names.get(other, other)}"}
            if other not in self._section("nodes"):
                keys.pop("namespaces")
                value.lost(f"left out: {other} is no node of this lab")
        elif mode not in ("none", "bridge"):
            value.lost(f"left out: network-mode {mode}: a container has a network of its own")

    def publish(self) -> None:
        """Published ports lead by eth0 on the management network, as containerlab has it: so there is one."""
        names = [name for name, keys in self.draft.containers.items() if keys.get("ports")]
        if not names:
            return
        bridge = self.draft.bridge("mgmt")
        subnet = self.draft.free_subnet()
        self.draft.bridges[bridge] = f"{subnet[1]}/{subnet.prefixlen}"
        for name in names:
            self.settings[name]["ports"][-1].told(
                f"eth0 of {name} is on {bridge}, for its published ports alone"
            )
            self.draft.links.append(Link(a=End(node=name, ifname="eth0"), b=End(node=bridge)))

    # -- after the links are known -----------------------------------------------------------------

    def setup(self, name: str) -> None:
        """`exec` and `stages` of a node."""
        said = self.settings[name]
        values = [item for each in said.get("exec", []) for item in each.items()]
        commands = [each for value in values for each in self._exec(self._magic(value, name))]
        shell.absorb(self.draft, name, commands)
        for stages in said.get("stages", []):
            self._stages(name, self.draft.containers[name], stages)

    def _exec(self, value: Value) -> list[shell.Command]:
        """One command, or those that a shell in it would run one after another."""
        words = value.words()
        if len(words) != 3 or words[0] not in _SHELLS or words[1] != "-c":
            return [shell.Command(shlex.join(words), _as_setup(value.text(), words))] if words else []
        inside = shell.statements(words[2])
        if inside is None:
            return [shell.Command("", words[2] if _SHELLS[words[0]] else docker.command(words))]
        posix = _SHELLS[words[0]]
        return [shell.Command(line, line if posix else [words[0], "-c", line]) for line in inside]

    def _stages(self, name: str, keys: Keys, stages: Value) -> None:
        """Who waits for whom; commands of a stage."""
        for stage, value in stages.mapping().items():
            for key, each in value.mapping().items():
                if key == "wait-for":
                    self._wait_for(name, keys, each)
                else:
                    each.lost(f"left out: `{key}` of stage {stage}")

    def _wait_for(self, name: str, keys: Keys, value: Value) -> None:
        for item in value.items():
            node, stage = item.get("node"), item.get("stage")
            other = self.names.get(node.plain()) if node else None
            if other is None or other not in self.draft.containers or other == name:
                item.fail("this waits for no node of the topology")
            elif stage is not None and stage.plain() == "exit":
                stage.lost(f"left out: {name} can't wait for the end of {other}")
            elif other not in keys.get("depends_on", []):
                keys.setdefault("depends_on", []).append(other)

    # -- links -------------------------------------------------------------------------------------

    def wire(self) -> None:
        """All links."""
        for value in self.links.items() if self.links else []:
            value = value.of("links")
            kind = value.get("type")
            word = kind.plain() if kind is not None else "veth"
            for key, each in value.mapping().items():
                if key in ("vars", "labels"):
                    each.told(f"`{key}` of a link is for templates: left out")
                elif key not in _OF_A_LINK:
                    each.lost(f"left out: `{key}` of this link")
            if word in ("veth", "veth-stitch"):
                self._cable(value)
            elif value.get("endpoint") is None:
                value.fail(f"a link of type {word} has one `endpoint`")
            else:
                self._single(value, word)

    def _cable(self, value: Value) -> None:
        ends_value = value.get("endpoints")
        items = ends_value.items() if ends_value is not None else []
        if len(items) != 2:
            value.fail(f"a link has two endpoints, got {len(items)}", 'endpoints: ["red:eth1", "blue:eth1"]')
            return
        nodes = [self._node_of(item) for item in items]
        special = [node for node in nodes if node not in self.names and node in _SPECIAL]
        if all(node in self.host_nodes for node in nodes) or self.absent & set(nodes):
            value.lost("left out: a link to what is no part of the lab")
        elif special and special[0] == "dummy":
            self._inside(value, items[0] if nodes[1] == "dummy" else items[1], "dummy")
        elif special:
            self._left_out(value, special[0])
        elif self.host_nodes & set(nodes):
            container, host = items if nodes[1] in self.host_nodes else reversed(items)
            self._to_host(value, container, host, _split(host)[1])
        else:
            self._between(value, *items)

    def _between(self, value: Value, first: Value, second: Value) -> None:
        """A cable between two nodes."""
        a, b = self._end(first), self._end(second)
        if a is None or b is None:
            return
        if a.node == b.node:
            value.lost("left out: both ends of this link are in one network namespace")
            return
        self._addresses(value, a, b)
        self.draft.links.append(Link(a=a, b=b, options=self._mtu(value)))

    def _mtu(self, value: Value) -> Keys:
        mtu = value.get("mtu")
        number = mtu.whole() if mtu is not None else None
        return {"mtu": number} if number is not None else {}

    def _node_of(self, item: Value) -> str:
        if item.is_mapping:
            node = item.get("node")
            return node.plain() if node is not None else ""
        return _split(item)[0]

    def _end(self, item: Value) -> End | None:
        """One end of a cable, in its short or long form."""
        node = self._node_of(item)
        ifname = _split(item)[1]
        if item.is_mapping:
            interface = item.get("interface")
            ifname = interface.plain() if interface is not None else ""
        if node not in self.names:
            item.fail(f"there is no node {node}" if node else "this end of a link names no node")
            return None
        name = self.names[node]
        if name in self.draft.bridges:
            return End(node=name)
        shared = self.draft.containers[name].get("namespaces", {}).get("net")
        if shared is not None:
            name = shared.removeprefix("container:")
            item.of("containers", name).told(f"the network of {node} is that of {name}, and so is its link")
        end = End(node=name, ifname=_interface(item.of("containers", name), ifname))
        if item.is_mapping:
            self._end_options(item, end)
        return end

    def _end_options(self, item: Value, end: End) -> None:
        for key, each in item.mapping().items():
            if each.null or key in ("node", "interface"):
                continue
            if key == "mac":
                mac = each.checked(addresses.mac)
                end.options.update({"mac": mac} if mac else {})
            elif key in ("ipv4", "ipv6"):
                _add_address(each, end)
            elif key != "vars":
                each.lost(f"left out: `{key}` of this end")

    def _addresses(self, value: Value, a: End, b: End) -> None:
        """``ipv4: [A, B]`` of a link in its short form."""
        for key in ("ipv4", "ipv6"):
            given = value.get(key)
            for end, item in zip((a, b), given.items() if given is not None else [], strict=False):
                if not item.null and item.raw():
                    _add_address(item, end)

    def _single(self, value: Value, kind: str) -> None:
        """A link with one end of its own."""
        endpoint = value.get("endpoint")
        assert endpoint is not None
        host = value.get("host-interface")
        if kind == "host":
            self._to_host(value, endpoint, value, host.plain() if host else "")
            return
        if self._node_of(endpoint) in self.names and kind in ("dummy", "vxlan"):
            self._inside(value, endpoint, kind)
            return
        self._left_out(value, kind)

    def _left_out(self, value: Value, kind: str) -> None:
        plugged = "an interface of the host's is plugged into a bridge: links: [[BRIDGE, host:IFACE]]"
        value.lost(f"left out: a link of type {kind}", plugged if kind == "macvlan" else None)

    def _inside(self, value: Value, endpoint: Value, kind: str) -> None:
        """An interface that is made inside the container."""
        end = self._end(endpoint)
        if end is None or end.ifname is None:
            return
        keys: Keys = {"dummy": True}
        if kind == "vxlan":
            vni, remote, port = (value.get(key) for key in ("vni", "remote", "dst-port"))
            keys = {"vxlan": vni.whole() if vni else 1}
            keys.update({"remote": remote.plain()} if remote else {})
            keys.update({"port": port.whole()} if port else {})
            value.of("containers", end.node).lost(
                f"the tunnel {end.ifname} begins in the container, not on the host",
                "it needs a way to its other end: a bridge with an address",
            )
        keys.update(self._mtu(value))
        keys.update(end.options)
        if end.addresses:
            keys["address"] = end.addresses
        self.draft.containers[end.node].setdefault("interfaces", {})[end.ifname] = keys

    def _to_host(self, value: Value, container: Value, host: Value, ifname: str) -> None:
        """A cable that ends on the host: a bridge there, which bears that end's name."""
        end = self._end(container)
        if end is None:
            return
        taken = [bridge["ifname"] for bridge in self.draft.bridges.values() if isinstance(bridge, dict)]
        known = host.saying(ifname).checked(addresses.ifname) if ifname not in ("", *taken) else None
        name = self.draft.bridge(ifname or f"to-{end.node}", {"ifname": known} if known else None)
        host.of("bridges", name).lost(
            f"{name} was one end of a cable, on the host; here it is a bridge there",
            f"with an address of the host's it is a way out: {name}: 10.0.0.1/24",
        )
        self.draft.links.append(Link(a=end, b=End(node=name), options=self._mtu(value)))


_TOP = {
    "mgmt": "there is no management network, a lab has exactly the interfaces of the file",
    "prefix": "names of containers have none",
    "settings": "it makes no certificates",
    "debug": "NETORCH_DEBUG=1 is its own",
}


def _last(levels: list[dict[str, Value]], key: str) -> Value | None:
    """The value of the most specific level."""
    found = [level[key] for level in levels if key in level and not level[key].null]
    return found[-1] if found else None


def _split(item: Value) -> tuple[str, str]:
    """``red:eth1`` as its two parts."""
    if item.is_mapping or item.is_list:
        return "", ""
    node, _, ifname = item.plain().partition(":")
    return node, ifname


def _interface(item: Value, name: str) -> str | None:
    """An interface's name; None, so that netorch chooses, where the kernel can't have it."""
    for pattern, short_form in _ALIASES:
        if match := pattern.fullmatch(name):
            name = short_form(match)
    try:
        return addresses.ifname(name)
    except Wrong as wrong:
        item.lost(f"the interface {name or '(without a name)'} gets another name: {wrong.what}", wrong.hint)
        return None


def _add_address(value: Value, end: End) -> None:
    found = value.checked(addresses.interface)
    if found is not None and str(found) not in end.addresses:
        end.addresses.append(str(found))


def _as_setup(text: str, words: list[str]) -> str | list[str]:
    """A command that no shell runs: as text where a shell would do the same, else as its words."""
    return docker.command(words) if re.search(r"[`;&|<>*?()~#\\]|\$(?![${])", text) else text
