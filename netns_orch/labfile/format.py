"""The lab file's keys: of the file itself, of containers and of the host.

Owns: their declarations: types, descriptions, and the checks that need one object only.
Must not: know how YAML is read; expand ``defaults``, ``scale`` or templates (``expand``).
"""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

from netns_orch.errors import Where
from netns_orch.labfile import addresses, hints, imagename, network, probes, short, units
from netns_orch.labfile.fields import (
    Bool,
    Built,
    ByKind,
    Choice,
    Context,
    Field,
    Flat,
    Float,
    Found,
    Int,
    Kept,
    Key,
    ListOf,
    MapOf,
    OneOrMore,
    Record,
    Schema,
    Text,
    any_text,
    block,
    line,
    made,
)
from netns_orch.labfile.model import (
    Command,
    Container,
    Device,
    Host,
    IoLimit,
    Namespaces,
    Port,
    Ready,
    Resources,
    RootFs,
    Tmpfs,
    Volume,
)
from netns_orch.labfile.nodes import Node, Scalar, shown
from netns_orch.labfile.units import Wrong

_MOST_ENV_BYTES = 1 << 20
_SIZE = Text(units.size, "a size such as 200M", units.SIZE, also=("integer",))
_DURATION = probes.DURATION
_OFFSET = Text(units.offset, "a duration such as 1d", units.DURATION, also=("integer",))
_BOOL = Bool()
_PATH = Text(short.absolute, "an absolute path")
_TEXTS = MapOf(any_text(), expected="a mapping of texts")


def _absolute(text: Any, ctx: Context, where: Where) -> str:
    return ctx.absolute(text)


_FILE = Built(Text(line, "a path"), _absolute)

# -- process -------------------------------------------------------------------------------------


def _shell(text: Any, ctx: Context, where: Where) -> Command:
    if not text.strip():
        raise Wrong("the command is empty")
    return Command(where=where, argv=["/bin/sh", "-c", text], shell=True)


def _argv(words: Any, ctx: Context, where: Where) -> Command:
    if not words or not words[0]:
        raise Wrong("the command is empty")
    return Command(where=where, argv=words)


COMMAND = ByKind(
    "a command: a list of words, or a string for a shell",
    scalar=Built(Text(block, "a command", also=("number", "boolean")), _shell),
    sequence=Built(probes.COMMAND_LIST, _argv),
)


def _env_file(text: Any, ctx: Context, where: Where) -> dict[str, str]:
    path = ctx.absolute(text)
    if ctx.untrusted and not (ctx.owns(path) and Path(path).is_file()):
        what = f"{shown(text)} is no file of the lab's own directory"
        raise Wrong(what, "copy it beside the lab file: --untrusted keeps that from all others")
    try:
        with Path(path).open("rb") as file:
            data = file.read(_MOST_ENV_BYTES + 1)
    except OSError as error:
        raise Wrong(f"can't read {shown(text)}: {error.strerror}", f"looked for as {path}") from None
    if len(data) > _MOST_ENV_BYTES:
        raise Wrong(f"{shown(text)} is larger than 1 MiB")
    try:
        return short.environment_file(data.decode("utf-8-sig"))
    except UnicodeDecodeError:
        raise Wrong(f"{shown(text)} is not a text in UTF-8") from None
    except Wrong as wrong:
        raise Wrong(f"{text}: {wrong.what}", wrong.hint) from None


def _ready(values: dict[str, Any], found: Found) -> Ready:
    kinds = [key for key in ("tcp", "exec", "log", "file") if key in found.marks]
    if len(kinds) != 1:
        verb = "is" if kinds else "needs"
        raise Wrong(f"`ready` {verb} one of tcp, exec, log, file", "ready: {tcp: 80, timeout: 10s}")
    return Ready(where=found.where, marks=found.marks, **values)


READY = Record(
    "Ready",
    {
        "tcp": Key(Int(1, 65535, "a port"), "A port that accepts connections, seen from inside."),
        "exec": Key(COMMAND, "A command that exits 0."),
        "log": Key(Text(short.regex, "a regular expression"), "Found in the command's output."),
        "file": Key(_PATH, "A file that is there."),
        "timeout": Key(_DURATION, "How long it may take; default 30s."),
    },
    _ready,
    about="How a container shows that it is ready.",
    nullable=False,
    foreign={
        "test": "it is `exec`",
        "interval": "it is tried again and again by itself: leave it out",
        "retries": "it is tried until `timeout`",
        "port": "it is `tcp`",
    },
)

# -- what it can see -----------------------------------------------------------------------------


def _root(text: Any, ctx: Context, where: Where) -> RootFs:
    if text == "host":
        return RootFs(where=where)
    return RootFs(where=where, kind="layers", layers=[ctx.absolute(text)])


def _layers(values: dict[str, Any], found: Found) -> RootFs:
    if not values["layers"]:
        raise Wrong("a root needs at least one layer")
    return RootFs(where=found.where, marks=found.marks, kind="layers", layers=values["layers"])


ROOTFS = ByKind(
    "host, a directory, a tar file, or {layers: [...]}",
    scalar=Built(Text(line, "a path"), _root),
    mapping=Record(
        "RootFs",
        {"layers": Key(ListOf(_FILE, "a list of paths"), "Directories and tar files, lowest first.")},
        _layers,
        about="A root of layers, shared between containers.",
        required=("layers",),
        nullable=False,
    ),
)


def _image(name: Any, ctx: Context, where: Where) -> str:
    return str(name if name.path is None else name.at(ctx.absolute(name.path)))


def _volume(values: Any, ctx: Context, where: Where) -> Volume:
    source = values["source"] if values["named"] else ctx.absolute(values["source"])
    return Volume(where=where, **{**values, "source": source})


def _tmpfs(values: Any, ctx: Context, where: Where) -> Tmpfs:
    return Tmpfs(where=where, **values)


def _device(values: Any, ctx: Context, where: Where) -> Device:
    return Device(where=where, **values)


def _port(values: Any, ctx: Context, where: Where) -> Port:
    return Port(where=where, **values)


class _Pod(Field[str]):
    """``container:X``: the container whose network is shared."""

    expected = "container:NAME"

    def parse(self, node: Node, ctx: Context, where: Where) -> str:
        if not isinstance(node, Scalar) or not node.value.startswith("container:"):
            raise self.unfit(node, "a network of its own is the default: leave it out")
        name = node.value.removeprefix("container:")
        members = ctx.nodes.members(name)
        if members != [name]:
            raise Wrong(f"{shown(name)} stands for {len(members)} containers", f"container:{members[0]}")
        return name

    def schema(self, defs: dict[str, Schema]) -> Schema:
        return {"type": "string", "pattern": "^container:"}


_TIME = Record(
    "TimeOffsets",
    {
        "boottime": Key(_OFFSET, "Added to the time since boot.", "time_boottime"),
        "monotonic": Key(_OFFSET, "Added to the monotonic clock.", "time_monotonic"),
    },
    lambda values, found: values,
    about="Clock offsets of a time namespace.",
    nullable=False,
)


def _namespaces(values: dict[str, Any], found: Found) -> Namespaces:
    offsets = values.pop("time", {})
    return Namespaces(where=found.where, marks=found.marks, **values, **offsets)


_ALWAYS = "a container always has one of its own: leave it out"
NAMESPACES = Record(
    "Namespaces",
    {
        "user": Key(_BOOL, "true: root in the container is nobody on the host."),
        "time": Key(_TIME, "Clock offsets."),
        "net": Key(_Pod(), "container:NAME shares that container's network, as in a pod."),
    },
    _namespaces,
    about="What differs from the usual namespaces.",
    foreign=dict.fromkeys(("mnt", "mount", "uts", "ipc", "pid", "cgroup", "network"), _ALWAYS),
)

# -- what it may do and use ----------------------------------------------------------------------


def _seccomp(text: Any, ctx: Context, where: Where) -> str:
    return text if text in ("default", "unconfined") else ctx.absolute(text)


def _both(value: Any, ctx: Context, where: Where) -> tuple[int, int]:
    return value, value


def _soft_hard(values: dict[str, Any], found: Found) -> tuple[int, int]:
    low, high = values["soft"][0], values["hard"][0]
    if high != -1 and (low == -1 or low > high):
        raise Wrong("the soft limit is above the hard limit")
    return low, high


def _rlimit(text: str) -> str:
    if text not in short.RLIMITS:
        raise Wrong(f"there is no limit {shown(text)}", hints.mean(text, short.RLIMITS))
    return text


_LIMIT = Text(short.ulimit, "a limit: a number, SOFT:HARD or unlimited", also=("integer",))
ULIMITS = MapOf(
    ByKind(
        "a limit: a number, SOFT:HARD or unlimited",
        scalar=_LIMIT,
        mapping=Record(
            "Ulimit",
            {"soft": Key(_LIMIT, "The soft limit."), "hard": Key(_LIMIT, "The hard limit.")},
            _soft_hard,
            required=("soft", "hard"),
            nullable=False,
        ),
    ),
    key=_rlimit,
    expected="a mapping of limits",
    pattern="|".join(short.RLIMITS),
    hint="ulimits: {nofile: 4096}",
)


def _at_least(low: int, what: str) -> Any:
    def build(value: Any, ctx: Context, where: Where) -> int:
        if value < low:
            raise Wrong(f"{what} of {value} bytes is too small", "with its unit: 200M")
        return int(value)

    return build


# Less is used up before a container's first process runs; Docker's least, too.
_MEMORY = Built(_SIZE, _at_least(6 << 20, "a memory limit"))
_BYTES = Built(_SIZE, _at_least(1, "a rate"))
_OPERATIONS = Int(1, 1 << 40, "a number of operations a second")


def _swap(values: dict[str, Any], found: Found) -> Resources:
    if "swap" in values and "memory" not in found.marks:
        found.note("swap", "`swap` needs `memory`", "memory: 200M")
    if values.get("memory_high", 0) > values.get("memory", 1 << 62):
        found.note("memory_high", "`memory_high` is above `memory`", "it is where slowing down begins")
    return Resources(where=found.where, marks=found.marks, **values)


def _io(values: dict[str, Any], found: Found) -> IoLimit:
    if len(found.marks) < 2:
        raise Wrong("no limit stands beside the device", "read_bps, write_bps, read_iops or write_iops")
    return IoLimit(where=found.where, marks=found.marks, **values)


_IO = Record(
    "IoLimit",
    {
        "device": Key(_PATH, "The block device."),
        "read_bps": Key(_BYTES, "Bytes read a second."),
        "write_bps": Key(_BYTES, "Bytes written a second."),
        "read_iops": Key(_OPERATIONS, "Reads a second."),
        "write_iops": Key(_OPERATIONS, "Writes a second."),
    },
    _io,
    about="Limits on one block device.",
    required=("device",),
    nullable=False,
)
RESOURCES = Record(
    "Resources",
    {
        "cpus": Key(Float(0.01, 4096, "a number of CPUs"), "CPU time: 0.5 is half of one CPU."),
        "cpu_weight": Key(Int(1, 10_000, "a weight"), "Its share where CPUs are short; default 100."),
        "cpuset": Key(Text(short.cpuset, "CPUs such as 0-3", also=("integer",)), "The CPUs it may use."),
        "memory": Key(_MEMORY, "The most memory; above it the OOM killer comes."),
        "memory_high": Key(_MEMORY, "From here on it is slowed down (cgroup v2)."),
        "swap": Key(_SIZE, "The most swap; default none where `memory` is set."),
        "pids": Key(Int(1, 1 << 22, "a number of processes"), "The most processes and threads."),
        "io": Key(ListOf(_IO, "a list of limits"), "Limits on block devices."),
    },
    _swap,
    about="cgroup limits.",
    foreign=hints.RESOURCES,
)

# -- containers ----------------------------------------------------------------------------------


class _Members(Field[list[str]]):
    """A container, or all of a scaled name."""

    expected = "a container's name"

    def parse(self, node: Node, ctx: Context, where: Where) -> list[str]:
        if not isinstance(node, Scalar) or node.null:
            raise self.unfit(node)
        return ctx.nodes.members(node.value)

    def schema(self, defs: dict[str, Schema]) -> Schema:
        return {"type": ["string", "integer"]}


def _container(values: dict[str, Any], found: Found) -> Container:
    files = values.pop("env_file", [])
    if files:
        read = dict(itertools.chain.from_iterable(part.items() for part in files))
        values["environment"] = {**read, **values.get("environment", {})}
    if "image" in found.marks and "rootfs" in found.marks:
        found.note("image", "a container has either `image` or `rootfs`")
    elif "image" in values:
        values["rootfs"] = RootFs(where=found.marks["image"], kind="image")
    if "init" in values and not values["init"] and "command" not in found.marks:
        found.note("init", "`init: false` needs a `command`", "the command itself is PID 1 then")
    return Container(name="", where=found.where, marks=found.marks, **values)


_LIST_HINT = "for example {KEY: value}"
_CONTAINER_KEYS = {
    "command": Key(COMMAND, "A list, or a string run by /bin/sh -c; default: none, an idle container."),
    "environment": Key(
        MapOf(
            any_text(), short.environment_name, "a mapping of variables", hint="environment: {LANG: C.UTF-8}"
        ),
        "Variables of the command, of `setup` and of `netorch exec`.",
    ),
    "env_file": Key(
        OneOrMore(Built(Text(line, "a path"), _env_file)), "Files of KEY=value lines; `environment` wins."
    ),
    "working_dir": Key(_PATH, "Where the command begins."),
    "user": Key(
        Text(short.user, "a user such as 1000:1000", short.USER, ("integer",)),
        "The command's user, and group after a colon.",
    ),
    "init": Key(_BOOL, "true (default): a small PID 1 reaps and supervises; false: the command is PID 1."),
    "restart": Key(Choice("no", "on-failure", "always"), "When the command is started again; default no."),
    "setup": Key(
        ListOf(COMMAND, "a list of commands", 'setup: ["ip link set eth0 txqueuelen 100"]'),
        "Commands run in order after wiring, before the command; a failure fails `up`.",
    ),
    "ready": Key(READY, "How it shows that it is ready."),
    "depends_on": Key(
        Flat(ListOf(_Members(), "a list of containers", "depends_on: [blue]; readiness stands in `ready`")),
        "Started when these are ready.",
    ),
    "stop_signal": Key(Text(short.signal, "a signal", also=("integer",)), "Sent by `down`; default TERM."),
    "stop_grace_period": Key(_DURATION, "How long after it the kill comes; default 10s."),
    "hostname": Key(Text(short.hostname, "a hostname", also=("number",)), "Default: the container's name."),
    "rootfs": Key(ROOTFS, "host (default), a directory, a tar file, or {layers: [...]}."),
    "image": Key(
        Built(Text(imagename.parse, "an image's name"), _image),
        "An OCI image, instead of `rootfs`: alpine:3.20, or as skopeo says oci:DIR, docker-archive:FILE.",
    ),
    "files": Key(
        MapOf(
            Text(block, "a text", also=("number", "boolean")),
            short.absolute,
            "a mapping of paths to texts",
            hint='files: {/etc/motd: "hello\\n"}',
        ),
        "Written into its root: path to content.",
    ),
    "volumes": Key(
        ListOf(
            Built(Text(short.volume, "a volume such as ./www:/srv/www:ro"), _volume),
            "a list of volumes",
            'volumes: ["./www:/srv/www:ro"]',
        ),
        "Bind mounts and named volumes.",
    ),
    "tmpfs": Key(
        OneOrMore(Built(Text(short.tmpfs, "a tmpfs such as /scratch:size=16m"), _tmpfs)),
        "Memory file systems.",
    ),
    "devices": Key(
        ListOf(Built(Text(short.device, "a device such as /dev/fuse"), _device), "a list of devices"),
        "Device nodes of the host; /dev/net/tun is always there.",
    ),
    "read_only": Key(_BOOL, "true: its root can't be written."),
    "namespaces": Key(NAMESPACES, "What differs from the usual namespaces."),
    "cap_add": Key(
        ListOf(Text(short.capability, "a capability"), "a list of capabilities"), "Capabilities added."
    ),
    "cap_drop": Key(
        ListOf(Text(short.capability, "a capability"), "a list of capabilities"), "Capabilities dropped."
    ),
    "seccomp": Key(
        Built(Text(line, "default, unconfined or a profile's path"), _seccomp),
        "default, unconfined, or a profile file in OCI JSON.",
    ),
    "nesting": Key(_BOOL, "true: may itself make namespaces, mounts and cgroups."),
    "privileged": Key(_BOOL, "true: all capabilities and devices, no seccomp, no masked paths."),
    "ulimits": Key(ULIMITS, "Limits of setrlimit(2)."),
    "sysctls": Key(
        MapOf(any_text(), short.sysctl, "a mapping of sysctls", hint="sysctls: {net.ipv4.ip_forward: 1}"),
        "Sysctls of its own namespaces.",
        entries="sysctls",
    ),
    "resources": Key(RESOURCES, "cgroup limits."),
    "router": Key(_BOOL, "true: forwards packets, IPv4 and IPv6."),
    "loopback": Key(
        OneOrMore(Text(addresses.loopback, "an address such as 192.0.2.1/32")), "Addresses on lo."
    ),
    "default_route": Key(_BOOL, "false: no default route by its bridge."),
    "interfaces": Key(network.INTERFACES, "Interfaces made inside."),
    "routes": Key(network.ROUTES, "Routes, as typed after `ip route add`; auto: to every subnet of the lab."),
    "rules": Key(network.RULES, "Policy routing, as typed after `ip rule add`."),
    "iptables": Key(network.FIREWALL, "Rules as typed after `iptables`, or a text of iptables-save."),
    "ip6tables": Key(network.FIREWALL, "Rules as typed after `ip6tables`, or a text of ip6tables-save."),
    "nftables": Key(network.NFTABLES, "A ruleset, loaded whole."),
    "dns": Key(OneOrMore(network.IP), "Name servers; default: the host's own."),
    "dns_search": Key(OneOrMore(Text(short.hostname, "a domain")), "Search domains."),
    "extra_hosts": Key(
        MapOf(
            network.IP,
            short.hostname,
            "a mapping of names to addresses",
            hint="extra_hosts: {db.lab: 10.0.0.9}",
        ),
        "Names beyond those of the lab.",
    ),
    "ports": Key(
        ListOf(
            Built(Text(short.port, "a published port such as 8080:80", short.PORT), _port),
            "a list of ports",
            'ports: ["8080:80"]',
        ),
        "Published on the host.",
    ),
    "labels": Key(
        MapOf(any_text(), expected="a mapping of texts", hint="labels: {role: web}"), "Marks to select by."
    ),
    "link_local": Key(_BOOL, "IPv6 link-local addresses on its interfaces."),
}
CONTAINER = Record(
    "Container",
    _CONTAINER_KEYS,
    _container,
    about="What holds for every container.",
    foreign={**hints.CONTAINER, "scale": "it stands at one container, not in `defaults`"},
)
SCALE = Int(1, 10_000, "a number of containers")
SCALED = Record(
    "ScaledContainer",
    {**_CONTAINER_KEYS, "scale": Key(SCALE, "So many of it: NAME1 ... NAMEn; the name means all of them.")},
    _container,
    about="A container; nothing needs to be said: `red:` is one.",
    foreign=hints.CONTAINER,
)
CONTAINERS = MapOf(
    SCALED,
    expected="a mapping of containers by name",
    pattern=short.NAME,
    hint="containers: {red: , blue: }",
)

# -- the host and the file -----------------------------------------------------------------------

HOST = Record(
    "Host",
    {
        "router": Key(_BOOL, "true: it forwards between this lab's bridges."),
        "routes": Key(network.ROUTES, "Routes."),
        "iptables": Key(network.FIREWALL, "Rules; bridge names of this file stand for their real names."),
        "ip6tables": Key(network.FIREWALL, "As `iptables`, for IPv6."),
        "sysctls": Key(
            MapOf(any_text(), short.host_sysctl, "a mapping of sysctls"), "net.* sysctls.", entries="sysctls"
        ),
    },
    made(Host),
    about="The namespace that holds the bridges: the host, or what stands in its place.",
    foreign={"address": "the host's address on a bridge stands at the bridge"},
)


class _Names(Text[str]):
    """The lab's name."""

    def __init__(self) -> None:
        super().__init__(
            lambda text: short.name(text, "lab", 32), "a name", f"(?=.{{1,32}}$){short.NAME}", ("integer",)
        )


TOP = Record(
    "Lab",
    {
        "name": Key(_Names(), "The lab's name; default: the file's stem."),
        "netns": Key(Choice("host", "private"), "Where the bridges live; default host."),
        "defaults": Key(Kept(CONTAINER), "Merged under every container."),
        "addressing": Key(network.ADDRESSING, "Pools of addresses."),
        "bridges": Key(network.BRIDGES, "Bridges by name."),
        "containers": Key(Kept(CONTAINERS), "Containers by name."),
        "links": Key(network.LINKS, "Cables."),
        "host": Key(HOST, "The namespace that holds the bridges."),
        "checks": Key(probes.CHECKS, "What `netorch test` proves with real packets."),
        "scenario": Key(probes.SCENARIO, "Steps in time, after the checks."),
        "link_local": Key(_BOOL, "IPv6 link-local addresses everywhere."),
    },
    lambda values, found: (values, found),
    about="A netorch lab.",
    foreign=hints.TOP,
    free="x-",
    expected="a mapping with `containers`, `bridges`, `links`",
    nullable=False,
)
