"""Docker Compose files: services and networks.

Owns: the order of things, networks, and who is wired to what.  What a service's own keys become is
``composekeys``.  Source: the Compose specification.  Must not: write YAML, or read a file's text.
"""

from __future__ import annotations

import itertools
from ipaddress import ip_address, ip_interface, ip_network
from typing import Any

from netns_orch.convert import composekeys
from netns_orch.convert.draft import Draft, End, Link, lab_name
from netns_orch.convert.source import Source, Value
from netns_orch.labfile import addresses
from netns_orch.labfile.units import Wrong

Keys = dict[str, Any]
_DEFAULT = "default"
_TOP = frozenset(("name", "services", "networks", "volumes", "configs", "secrets", "version"))
_IPAM = frozenset(("driver", "config"))
_BRIDGE = "com.docker.network.bridge."
_ELSEWHERE = frozenset(("gw_priority", "priority"))


def read(root: Value, source: Source, rootfs: str | None) -> Draft:
    """The draft of a Compose file."""
    lab = _Lab(root, source, rootfs)
    lab.services()
    lab.networks()
    lab.wire()
    lab.names_of_services()
    return lab.draft


class _Lab:
    """A Compose file on its way into a draft."""

    def __init__(self, root: Value, source: Source, rootfs: str | None) -> None:
        self.source = source
        self.top = root.mapping()
        name = self.top["name"].plain() if "name" in self.top else source.directory.name
        self.draft = Draft(name=lab_name(name.lower()))
        self.given = self.top["services"].mapping()
        self.declared = self.top["networks"].mapping() if "networks" in self.top else {}
        self.reader = composekeys.Reader(self.top, self.given, self.draft, rootfs)
        self.ids: dict[str, str] = {}
        """From the names of networks to those of bridges."""
        self.aliases: list[tuple[str, End, Value]] = []
        """Further names, the end that they mean, and where they stand."""
        for key, value in self.top.items():
            if key not in _TOP and not key.startswith("x-"):
                value.lost(f"left out: `{key}`", "one lab is one file" if key == "include" else None)

    def services(self) -> None:
        """Every service as a container, without its links."""
        for name in self.given:
            self.reader.names[name] = self.draft.container(name)
        for name, value in self.given.items():
            free = self.reader.names[name]
            value = value.of("containers", free)
            if free != name:
                value.lost(f"{name} is called {free}: a name has letters, digits, - and _")
            self.reader.service(free, name, value)
        for name, value in (self.top["volumes"].mapping() if "volumes" in self.top else {}).items():
            self._volume(name, value)

    def _volume(self, name: str, value: Value) -> None:
        told = {key for key, each in value.mapping().items() if not each.null} - {"labels", "name"}
        driver = value.get("driver")
        if driver is not None and driver.plain() == "local":
            told.discard("driver")
        if told:
            value.lost(f"the volume {name} is one of the lab's own: {', '.join(sorted(told))} left out")

    # -- networks ----------------------------------------------------------------------------------

    def networks(self) -> None:
        """The networks that a service is on, as bridges; the others are told."""
        used = [name for each in self.given for name in self._networks_of(each)]
        for name in dict.fromkeys(used):
            if name not in self.declared and name != _DEFAULT:
                self.given_place(name).fail(f"there is no network {name}")
                continue
            self.ids[name] = self.draft.bridge(name)
        for name, value in self.declared.items():
            if name in self.ids:
                value = value.of("bridges", self.ids[name])
                self.draft.bridges[self.ids[name]] = self._bridge(name, value)
            else:
                value.told(f"no service is on the network {name}: left out")
        for free in self.ids.values():
            bridge = self.draft.bridges[free]
            if bridge is None or (isinstance(bridge, dict) and "address" not in bridge):
                subnet = self.draft.free_subnet()
                address = f"{subnet[1]}/{subnet.prefixlen}"
                self.draft.bridges[free] = {"address": address, **bridge} if bridge else address

    def given_place(self, network: str) -> Value:
        """The first service that names a network."""
        return next(self.given[each] for each in self.given if network in self._networks_of(each))

    def _networks_of(self, service: str) -> dict[str, Value | None]:
        """The networks of a service, with what is said about each."""
        value = self.reader.merged(service)
        mode = value.get("network_mode")
        if mode is not None and mode.plain() not in ("bridge", _DEFAULT):
            return {}
        networks = value.get("networks")
        if networks is None:
            return {_DEFAULT: None}
        if networks.is_list:
            return {item.plain(): None for item in networks.items()}
        return {name: None if each.null else each for name, each in networks.mapping().items()}

    def _bridge(self, name: str, value: Value) -> Any:
        """A network's own keys."""
        bridge: Keys = {}
        for key, each in value.mapping().items():
            match key:
                case "ipam":
                    self._ipam(each, bridge)
                case "internal":
                    bridge.update({"forward": "none"} if each.flag() else {})
                case "driver_opts":
                    _driver_options(each, bridge)
                case "external":
                    if each.is_mapping or each.flag():
                        each.lost(f"the network {name} is one of the lab's own, not the one that is there")
                case "driver":
                    if each.plain() not in ("bridge", _DEFAULT, ""):
                        each.lost(f"the network {name} is a bridge, not of driver {each.plain()}")
                case "enable_ipv6":
                    if each.flag() and not _has_ipv6(value):
                        each.lost(
                            f"left out: IPv6 of {name}: give it a subnet", "address: [10.0.0.1/24, ...]"
                        )
                case "name" | "labels" | "attachable":
                    pass
                case _ if not key.startswith("x-"):
                    each.lost(f"left out: `{key}` of network {name}")
        return _shortest(bridge)

    def _ipam(self, value: Value, bridge: Keys) -> None:
        for key, each in value.mapping().items():
            if key not in _IPAM or (key == "driver" and each.plain() not in ("", _DEFAULT)):
                each.lost(f"left out: `{key}` of ipam")
        config = value.get("config")
        found = []
        for item in config.items() if config is not None else []:
            subnet, gateway = item.get("subnet"), item.get("gateway")
            network = subnet.checked(addresses.network) if subnet is not None else None
            if network is None:
                continue
            given = gateway.checked(addresses.address) if gateway is not None else None
            if given is not None and ip_address(given) not in network:
                (gateway or item).fail(f"the gateway {given} is not in {network}")
                given = None
            host = given or str(network[1 if network.num_addresses > 1 else 0])
            found.append(f"{host}/{network.prefixlen}")
            for key, each in item.mapping().items():
                if key not in ("subnet", "gateway"):
                    each.lost(
                        f"left out: `{key}`: addresses are given out from the whole subnet, lowest first"
                    )
        if found:
            bridge["address"] = found[0] if len(found) == 1 else found

    # -- wiring ------------------------------------------------------------------------------------

    def wire(self) -> None:
        """A link for each network of each service; the first one is that of its default route."""
        for service in self.given:
            name = self.reader.names[service]
            value = self.reader.merged(service).of("containers", name)
            networks = {each: said for each, said in self._networks_of(service).items() if each in self.ids}
            ordered = sorted(networks.items(), key=lambda item: self._rank(*item))
            for number, (network, said) in enumerate(ordered):
                end = End(node=name)
                mac = value.get("mac_address")
                if mac is not None and number == 0:
                    found = mac.checked(addresses.mac)
                    end.options.update({"mac": found} if found else {})
                if said is not None:
                    self._end(end, said.of("containers", name), network)
                self.draft.links.append(Link(a=end, b=End(node=self.ids[network])))
                container_name = value.get("container_name")
                if container_name is not None and container_name.plain() != name and number == 0:
                    self.aliases.append((container_name.plain(), end, container_name))

    def _rank(self, network: str, said: Value | None) -> tuple[bool, int, int]:
        """Where a network stands among those of a service: Docker's default route is by the first."""
        bridge = self.draft.bridges[self.ids[network]]
        internal = isinstance(bridge, dict) and bridge.get("forward") == "none"
        given = [said.get(key) if said is not None else None for key in ("gw_priority", "priority")]
        first, second = (-(each.whole() or 0) if each is not None else 0 for each in given)
        return internal, first, second

    def _end(self, end: End, value: Value, network: str) -> None:
        """What a service says about its place in a network."""
        scaled = "scale" in self.draft.containers[end.node]
        for key, each in value.mapping().items():
            if key in ("ipv4_address", "ipv6_address"):
                if scaled:
                    each.lost("left out: one address can't be that of several containers")
                elif (found := self._in_subnet(each, network)) is not None:
                    end.addresses.append(found)
            elif key == "mac_address":
                mac = each.checked(addresses.mac)
                end.options.update({"mac": mac} if mac else {})
            elif key == "interface_name":
                end.ifname = each.checked(addresses.ifname)
            elif key == "aliases":
                self.aliases += [(item.plain(), end, item) for item in each.items()]
            elif key not in _ELSEWHERE and not key.startswith("x-"):
                each.lost(f"left out: `{key}` of network {network}")

    def _in_subnet(self, value: Value, network: str) -> str | None:
        """An address with the length of the network's subnet."""
        address = value.checked(addresses.address)
        if address is None:
            return None
        for text in _addresses_of(self.draft.bridges[self.ids[network]]):
            subnet = ip_interface(text).network
            if ip_network(address).version == subnet.version and ip_interface(address).ip in subnet:
                return f"{address}/{subnet.prefixlen}"
        value.fail(f"the address {address} is in no subnet of the network {network}")
        return None

    # -- names -------------------------------------------------------------------------------------

    def names_of_services(self) -> None:
        """Aliases and container names: names beyond those of the containers, for all of the lab."""
        for service in self.given:
            links = self.reader.merged(service).get("links")
            for item in links.items() if links is not None else []:
                self._legacy_link(item)
        hosts: dict[str, str] = {}
        for alias, end, value in self.aliases:
            if alias in self.draft.containers:
                continue
            if "scale" in self.draft.containers[end.node] or alias in hosts:
                value.lost(f"left out: the name {alias}: a name means one container here")
                continue
            try:
                hosts[alias] = str(ip_interface(self._fixed(end)).ip)
            except Wrong as wrong:
                value.lost(f"left out: the name {alias}: {wrong.what}")
        if hosts:
            self.draft.defaults["extra_hosts"] = hosts

    def _legacy_link(self, item: Value) -> None:
        """``links: [db:database]``: another name for db."""
        service, _, alias = item.plain().partition(":")
        ends = self.draft.ends(self.reader.names.get(service, ""))
        if not ends:
            item.fail(f"there is no service {service} with a network")
        elif alias and alias != service:
            self.aliases.append((alias, ends[0], item))

    def _fixed(self, end: End) -> str:
        """The end's address, which is chosen now where the file leaves it open."""
        if not end.addresses:
            bridge = next(link.b.node for link in self.draft.links if link.a is end)
            own = _addresses_of(self.draft.bridges[bridge])
            used = {ip_interface(text).ip for text in own}
            others = (link.a for link in self.draft.links if link.b.node == bridge)
            used |= {ip_interface(text).ip for other in others for text in other.addresses}
            network = ip_interface(own[0]).network
            free = next((host for host in itertools.islice(network.hosts(), 65536) if host not in used), None)
            if free is None:
                raise Wrong(f"no address of {network} is left")
            end.addresses.append(f"{free}/{network.prefixlen}")
        return end.addresses[0]


def _addresses_of(bridge: Any) -> list[str]:
    found = bridge.get("address", []) if isinstance(bridge, dict) else bridge
    return [found] if isinstance(found, str) else list(found or [])


def _has_ipv6(network: Value) -> bool:
    config = network.get("ipam", "config")
    subnets = [item.get("subnet") for item in config.items()] if config is not None else []
    return any(subnet is not None and ":" in subnet.plain() for subnet in subnets)


def _shortest(bridge: Keys) -> Any:
    """A bridge in its short form, where its address is all there is to say."""
    ordered = {key: bridge[key] for key in ("address", *bridge) if key in bridge}
    return ordered["address"] if set(ordered) == {"address"} else ordered or None


def _driver_options(value: Value, bridge: Keys) -> None:
    """Options of Docker's bridge driver that a bridge here has, too."""
    for key, each in value.mapping().items():
        text = each.plain()
        match key.removeprefix(_BRIDGE), text:
            case "com.docker.network.driver.mtu", _:
                bridge["mtu"] = each.whole()
            case "name", _:
                name = each.checked(addresses.ifname)
                bridge.update({"ifname": name} if name else {})
            case "enable_icc", "false":
                bridge["isolated"] = True
            case "enable_ip_masquerade", "false":
                bridge["forward"] = "route"
            case (("enable_icc" | "enable_ip_masquerade"), _):
                pass
            case _:
                each.lost(f"left out: the driver's option {key}")
