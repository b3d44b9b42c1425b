"""The keys of a Compose service, each as what a container's keys say.

Owns: the table of keys.  Must not: wire anything (``compose``).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from netns_orch.convert import docker
from netns_orch.convert.draft import Draft
from netns_orch.convert.source import Value
from netns_orch.convert.variables import escaped
from netns_orch.labfile import addresses, hints, short, units
from netns_orch.labfile.nodes import Mapping as MappingNode

Keys = dict[str, Any]
_ELSEWHERE = frozenset(
    (
        *("image", "build", "command", "entrypoint", "networks", "network_mode", "links", "container_name"),
        *(
            "extends",
            "mac_address",
            "volumes_from",
            "scale",
            "memswap_limit",
            "cpu_period",
            "cpu_quota",
            "init",
        ),
    )
)
"""Keys that are read together with others, or by ``compose``."""
_NOTHING = {
    "expose": "nothing is hidden between containers of one bridge",
    "pull_policy": hints.CONTAINER["pull_policy"],
    "pull_refresh_after": "`netorch up --pull` fetches images again",
    "platform": "the programs are this machine's own",
    "tty": "`netorch exec -it` and `shell` give a terminal",
    "stdin_open": "`netorch exec -i` gives standard input",
    "logging": "`netorch logs` has the output of each command",
    "attach": "`netorch logs -f` follows the output of a command",
    "develop": "it is for Compose's own watch",
    "annotations": "labels are all that a container bears",
    "runtime": "netorch needs no container runtime",
    "cgroup": "a container always has a cgroup namespace of its own",
    "isolation": "it is for Windows",
    "deploy": "it says nothing else",
}
_IO = {
    "device_read_bps": "read_bps",
    "device_write_bps": "write_bps",
    "device_read_iops": "read_iops",
    "device_write_iops": "write_iops",
}
_WEIGHT = 100 / 1024
"""Docker's default of cpu_shares is 1024, the kernel's of cpu.weight is 100."""


class Reader:
    """Reads services into the containers of a draft."""

    def __init__(
        self, top: dict[str, Value], services: dict[str, Value], draft: Draft, rootfs: str | None
    ) -> None:
        self.top = top
        self.services = services
        self.draft = draft
        self.rootfs = rootfs
        self.names: dict[str, str] = {}
        """From the names of services to those of containers."""

    def merged(self, service: str, seen: tuple[str, ...] = ()) -> Value:
        """A service with what it extends in the same file: its own keys win, mappings merge."""
        value = self.services[service]
        base = value.get("extends")
        if base is None:
            return value
        name = base.get("service") if base.is_mapping else base
        if name is None or base.get("file") is not None or name.plain() not in self.services:
            base.lost("left out: what this service extends is in another file", "write it out here")
            return value
        if name.plain() in (*seen, service):
            base.fail("services extend one another in a circle")
            return value
        other = self.merged(name.plain(), (*seen, service))
        node = MappingNode(value.node.line, value.node.column)
        if isinstance(other.node, MappingNode) and isinstance(value.node, MappingNode):
            node.entries = {**other.node.entries, **value.node.entries}
        return Value(value.source, node, value.path, value.about, (value.line, value.column))

    def service(self, name: str, service: str, value: Value) -> None:
        """All keys of one service."""
        value = self.merged(service).of(*value.about)
        keys = self.draft.containers[name]
        self._image(keys, service, value)
        self._command(keys, value)
        self._copies(keys, value, name)
        self._limits(keys, value)
        self._network_mode(keys, value, name)
        for key, each in value.mapping().items():
            if key not in _ELSEWHERE and not key.startswith("x-") and not each.null:
                self._key(name, keys, key, each)
        volumes_from = value.get("volumes_from")
        for item in volumes_from.items() if volumes_from is not None else []:
            self._volumes_from(keys, item)

    # -- what it is --------------------------------------------------------------------------------

    def _image(self, keys: Keys, service: str, value: Value) -> None:
        image, build = value.get("image"), value.get("build")
        if self.rootfs is not None:
            if self.rootfs != "host":
                keys["rootfs"] = self.rootfs
            return
        if image is not None:
            keys["image"] = image.text()
        elif build is not None:
            keys["image"] = f"{self.draft.name}-{service}"
        if build is not None:
            build.lost(
                f"netorch builds no images: {keys['image']} is what `docker compose build` makes of it",
                f"docker compose build {service}",
            )

    def _command(self, keys: Keys, value: Value) -> None:
        """Entrypoint and command are one; what the image has of its own is not in this file."""
        command, entrypoint = value.get("command"), value.get("entrypoint")
        words = [*(entrypoint.words() if entrypoint else []), *(command.words() if command else [])]
        if words:
            keys["command"] = docker.command(words)
        init = value.get("init")
        if words and init is not None and not init.flag():
            keys["init"] = False
        if command is not None and entrypoint is None and "image" in keys:
            command.told("an entrypoint of the image itself goes before this command: write both")

    def _copies(self, keys: Keys, value: Value, name: str) -> None:
        for copies in (value.get("scale"), value.get("deploy", "replicas")):
            number = copies.whole() if copies is not None else None
            if copies is None or number is None:
                continue
            if number > 1:
                keys["scale"] = number
                copies.lost(
                    f"the {number} copies are {name}1 to {name}{number}; {name} alone is no host's name"
                )
            elif number == 0:
                copies.lost("a container there is, though no copy of it was wanted")

    def _limits(self, keys: Keys, value: Value) -> None:
        """Limits that two keys say together."""
        limits = value.get("deploy", "resources", "limits")
        reserved = value.get("deploy", "resources", "reservations")
        for key, each in (limits.mapping() if limits is not None else {}).items():
            match key:
                case "cpus":
                    docker.cpus(each, keys)
                case "memory":
                    docker.memory(each, keys)
                case "pids":
                    _pids(each, keys)
                case _:
                    each.lost(f"left out: the limit `{key}`")
        if reserved is not None:
            reserved.lost("left out: reservations: there are limits only", "resources: {memory: 200M}")
        total, memory = value.get("memswap_limit"), value.get("mem_limit")
        if total is not None and memory is not None and not total.plain().startswith("-"):
            sizes = [each.checked(units.size) for each in (total, memory)]
            if sizes[0] is not None and sizes[1] is not None:
                docker.resources(keys)["swap"] = docker.size_text(max(0, sizes[0] - sizes[1]))
        elif total is not None:
            total.lost("left out: memswap_limit", "resources: {memory: 200M, swap: 200M}")
        quota, period = value.get("cpu_quota"), value.get("cpu_period")
        if quota is not None and (time := quota.whole()) and time > 0:
            of = period.whole() if period is not None else None
            docker.resources(keys)["cpus"] = round(time / (of or 100_000), 2)

    def _network_mode(self, keys: Keys, value: Value, name: str) -> None:
        mode = value.get("network_mode")
        if mode is None:
            return
        word, _, other = mode.plain().partition(":")
        if word == "container":
            named = (each for each in self.services if self._called(each, other))
            other = next(named, other)
        if word in ("service", "container") and other in self.names:
            keys["namespaces"] = {"net": f"container:{self.names[other]}"}
        elif word not in ("none", "bridge", "default"):
            mode.lost(
                f"left out: network_mode {mode.plain()}: {name} has a network of its own, without a link",
                f"links: [[{name}, BRIDGE]] gives it one",
            )

    def _has_network(self, name: str) -> bool:
        service = next(each for each, free in self.names.items() if free == name)
        mode = self.merged(service).get("network_mode")
        return mode is None or mode.plain() in ("bridge", "default")

    def _called(self, service: str, name: str) -> bool:
        value = self.services[service].get("container_name")
        return service == name or (value is not None and value.plain() == name)

    # -- single keys -------------------------------------------------------------------------------

    def _key(self, name: str, keys: Keys, key: str, value: Value) -> None:
        if key in _SIMPLE:
            _SIMPLE[key](value, keys)
        elif not (self._process(name, keys, key, value) or self._confinement(keys, key, value)):
            self._rest(name, keys, key, value)

    def _process(self, name: str, keys: Keys, key: str, value: Value) -> bool:
        """Keys about the process and what it sees; whether this is one."""
        match key:
            case "ports" if self._has_network(name):
                keys["ports"] = docker.ports(value.items())
            case "ports":
                value.lost("left out: published ports: only a container on a network of its own has them")
            case "volumes":
                docker.volumes(value.items(), keys, name)
            case "working_dir" | "stop_signal":
                keys[key] = value.text()
            case "stop_grace_period":
                keys[key] = docker.duration(docker.seconds(value))
            case "hostname":
                docker.hostname(value, keys, name)
            case "domainname":
                keys.setdefault("sysctls", {})["kernel.domainname"] = value.text()
            case "depends_on":
                self._depends_on(keys, value)
            case "extra_hosts":
                self._extra_hosts(keys, value)
            case "dns_search":
                docker.texts(value, keys, "dns_search")
            case _:
                return False
        return True

    def _confinement(self, keys: Keys, key: str, value: Value) -> bool:
        """Keys about what it may do and use; whether this is one."""
        match key:
            case "cap_add" | "cap_drop":
                docker.capabilities(value, keys, key)
            case "devices":
                docker.devices(value.items(), keys)
            case "security_opt":
                docker.security(value.items(), keys)
            case "privileged" | "read_only":
                keys.update({key: True} if value.flag() else {})
            case "ulimits":
                self._ulimits(keys, value)
            case "blkio_config":
                self._io(keys, value)
            case "cpuset":
                docker.resources(keys)["cpuset"] = value.text()
            case "cpu_shares":
                shares = value.whole() or 1024
                docker.resources(keys)["cpu_weight"] = min(10_000, max(1, round(shares * _WEIGHT)))
            case _:
                return False
        return True

    def _rest(self, name: str, keys: Keys, key: str, value: Value) -> None:
        match key:
            case "configs" | "secrets":
                for item in value.items():
                    self._file(keys, key, item)
            case "post_start":
                keys["setup"] = [found for item in value.items() if (found := _hook(item))]
                value.lost("post_start is `setup`: it runs before the command, not after it has started")
            case "profiles":
                wanted = ", ".join(item.plain() for item in value.items())
                value.lost(
                    f"Compose starts {name} only with the profile {wanted}: delete it if it is not wanted"
                )
            case "deploy":
                for below, each in value.mapping().items():
                    if below not in ("replicas", "resources"):
                        each.told(f"`{below}` of deploy is for a swarm: left out")
            case _ if key in _NOTHING:
                value.told(f"`{key}` means nothing here: {_NOTHING[key]}")
            case _:
                value.lost(f"left out: `{key}` has no counterpart")

    def _depends_on(self, keys: Keys, value: Value) -> None:
        given: dict[str, Value | None] = (
            dict(value.mapping()) if value.is_mapping else {item.plain(): None for item in value.items()}
        )
        found = []
        for service, said in given.items():
            if service not in self.names:
                (said or value).fail(f"there is no service {service}")
                continue
            found.append(self.names[service])
            condition = said.get("condition") if said is not None else None
            if condition is not None and condition.plain() == "service_completed_successfully":
                condition.lost(f"it does not wait for the end of {service}, only for its start")
            again = said.get("restart") if said is not None else None
            if again is not None and again.flag():
                again.lost(f"left out: it is not restarted when {service} is")
        if found:
            keys["depends_on"] = found

    def _extra_hosts(self, keys: Keys, value: Value) -> None:
        hosts: dict[str, str] = {}
        for host, each in value.pairs("=:").items():
            address = each.plain().strip("[]") if not each.is_list else ""
            if address == "host-gateway":
                each.lost(f"left out: {host}: write the address of the host on the container's bridge")
            elif (found := each.saying(address).checked(addresses.address)) is not None:
                hosts[host] = found
        if hosts:
            keys["extra_hosts"] = hosts

    def _io(self, keys: Keys, value: Value) -> None:
        """Limits on block devices, those of one device together."""
        devices: dict[str, Keys] = {}
        for key, each in value.mapping().items():
            if key not in _IO:
                each.lost(f"left out: `{key}` of blkio_config")
                continue
            for item in each.items():
                device, rate = item.get("path"), item.get("rate")
                if device is None or rate is None:
                    item.fail("a limit has a `path` and a `rate`")
                    continue
                limit = docker.size(rate) if key.endswith("bps") else rate.whole()
                devices.setdefault(device.text(), {})[_IO[key]] = limit
        if devices:
            docker.resources(keys)["io"] = [{"device": name, **limits} for name, limits in devices.items()]

    def _ulimits(self, keys: Keys, value: Value) -> None:
        limits: Keys = {}
        for name, each in value.mapping().items():
            if name not in short.RLIMITS:
                each.lost(f"left out: there is no limit {name}")
            elif each.is_mapping:
                soft, hard = each.get("soft"), each.get("hard")
                if soft is not None and hard is not None:
                    limits[name] = f"{soft.plain()}:{hard.plain()}"
            else:
                text = each.plain()
                limits[name] = int(text) if text.isdigit() else text
        if limits:
            keys["ulimits"] = limits

    def _file(self, keys: Keys, kind: str, item: Value) -> None:
        """A config or a secret: a file bound to its place, or its text."""
        source = item.get("source") if item.is_mapping else item
        target = item.get("target") if item.is_mapping else None
        name = source.plain() if source is not None else ""
        declared = self.top.get(kind)
        config = declared.get(name) if declared is not None else None
        if config is None:
            item.fail(f"there is no {kind[:-1]} {name}")
            return
        directory = "/run/secrets/" if kind == "secrets" else "/"
        path = target.plain() if target is not None else name
        path = path if path.startswith("/") else f"{directory}{path}"
        file, content, variable = (config.get(key) for key in ("file", "content", "environment"))
        for key, each in item.mapping().items() if item.is_mapping else ():
            if key not in ("source", "target"):
                each.lost(f"left out: `{key}` of the {kind[:-1]} {name}")
        if file is not None:
            keys.setdefault("volumes", []).append(escaped(f"{config.source.path(file.plain())}:{path}:ro"))
        elif content is not None:
            keys.setdefault("files", {})[path] = content.text()
        elif variable is not None:
            keys.setdefault("files", {})[path] = f"${{{variable.plain()}:-}}"
        else:
            config.of(*item.about).lost(f"left out: the {kind[:-1]} {name} lies with Docker")

    def _volumes_from(self, keys: Keys, item: Value) -> None:
        service = item.plain().split(":")[0]
        volumes = self.merged(service).get("volumes") if service in self.services else None
        if volumes is None:
            item.lost(f"left out: volumes of {service}")
        else:
            docker.volumes([each.of(*item.about) for each in volumes.items()], keys, self.names[service])


def _pids(value: Value, keys: Keys) -> None:
    number = value.whole()
    if number is not None and number > 0:
        docker.resources(keys)["pids"] = number


def _hook(item: Value) -> Any:
    command = item.get("command")
    if command is None:
        return None
    return docker.command(command.words()) if command.is_list else command.text()


_SIMPLE: dict[str, Callable[[Value, Keys], None]] = {
    "environment": docker.environment,
    "env_file": lambda value, keys: docker.environment_files(value.many(), keys),
    "labels": docker.labels,
    "tmpfs": docker.tmpfs,
    "user": docker.user,
    "restart": docker.restart,
    "healthcheck": docker.healthcheck,
    "dns": docker.servers,
    "sysctls": docker.sysctls,
    "mem_limit": docker.memory,
    "cpus": docker.cpus,
    "pids_limit": _pids,
}
"""Keys that need to know nothing but their value."""
