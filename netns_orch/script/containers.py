"""Containers as commands: cgroups, unshare(1), mount(8), nsenter(1), setpriv(1).

Owns: which command makes which part of a container.  Must not: decide what a container is.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import PurePosixPath
from typing import Any

from netns_orch.resources import (
    Cgroup,
    Container,
    HostsFile,
    Layer,
    NetnsName,
    Process,
    Setup,
    State,
    shares_of_weight,
)
from netns_orch.script.words import Lines, comment, function, heredoc, word, words

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def tables(state: State) -> Lines:
    """Two functions that the prelude asks: capabilities and further namespaces by container."""
    by_capabilities: dict[str, list[str]] = {}
    for container in state.of(Container):
        spec = container.spec
        names = [f"+{name.lower()}" for name in spec["capabilities"]]
        value = "+all" if spec["privileged"] else ",".join(["-all", *names])
        by_capabilities.setdefault(value, []).append(container.name)
    yield from function(
        "capabilities",
        "capabilities CONTAINER: all that its processes can ever have.",
        _case(by_capabilities),
    )
    timed = [c.name for c in state.of(Container) if c.spec["time_offsets"]]
    yield from function(
        "more_namespaces",
        "more_namespaces CONTAINER: what to enter besides those that all have.",
        _case({"--time": timed}) if timed else [":"],
    )


def _case(values: dict[str, list[str]]) -> Lines:
    yield "case $1 in"
    for value, names in values.items():
        yield f"    {' | '.join(map(word, names))}) echo {word(value)} ;;"
    yield "esac"


# -- building ----------------------------------------------------------------------------------------


def build(state: State) -> Lines:
    """Layers, then one container after the other, each with its cgroup first."""
    for layer in state.of(Layer):
        yield words("layer", layer.id, layer.source)
    if state.of(Container):
        yield from comment(
            "Containers: each a process in namespaces of its own.  It enters its cgroup first, so that it is"
            " limited before it does anything.  Its root is laid by `inside`, below."
        )
    cgroups = {cgroup.container: cgroup for cgroup in state.of(Cgroup)}
    for container in state.of(Container):
        yield from _cgroup(cgroups.get(container.name) or Cgroup(container=container.name))
        yield words("start", container.name) + f" {_unshare(container)}"
        if container.spec and not container.spec["net"]:
            yield words("base_line", container.name)
    yield from _names(state.of(NetnsName))


def _unshare(container: Container) -> str:
    assert container.spec is not None
    spec = container.spec
    net = None if spec["net"] else "--net"
    offsets = spec["time_offsets"]
    clocks = [word for clock in offsets for word in (f"--{clock}", str(int(offsets[clock])))]
    command = words(
        "unshare", "--fork", "--mount", "--propagation", "private", "--uts", "--ipc", net, "--pid",
        "--cgroup", *(["--time", *clocks] if clocks else []),
    )  # fmt: skip
    if spec["net"]:
        return f'nsenter --net="/proc/$(pid {word(spec["net"])})/ns/net" {command}'
    return command


def _cgroup(cgroup: Cgroup) -> Lines:
    limits = list(_limits(cgroup))
    controllers = dict.fromkeys(limit[0] for limit in limits)
    yield words("make_cgroup", cgroup.container, *controllers)
    for controller, *rest in limits:
        yield words("limit", cgroup.container, controller, *rest)


def _limits(cgroup: Cgroup) -> Iterator[tuple[str, str, str, str, str]]:
    """Controller; file and value of version 1; file and value of version 2."""
    if cgroup.cpus is not None:
        period = 100_000 if cgroup.cpus >= 0.01 else 1_000_000
        quota = max(1000, round(cgroup.cpus * period))
        yield "cpu", "cpu.cfs_period_us", str(period), "cpu.max", f"{quota} {period}"
        yield "cpu", "cpu.cfs_quota_us", str(quota), "cpu.max", f"{quota} {period}"
    if cgroup.cpu_weight is not None:
        shares = str(shares_of_weight(cgroup.cpu_weight))
        yield "cpu", "cpu.shares", shares, "cpu.weight", str(cgroup.cpu_weight)
    if cgroup.cpuset is not None:
        yield "cpuset", "cpuset.cpus", cgroup.cpuset, "cpuset.cpus", cgroup.cpuset
    if cgroup.memory is not None:
        both, swap = str(cgroup.memory + (cgroup.swap or 0)), str(cgroup.swap or 0)
        yield "memory", "memory.limit_in_bytes", str(cgroup.memory), "memory.max", str(cgroup.memory)
        yield "memory", "memory.memsw.limit_in_bytes", both, "memory.swap.max", swap
    if cgroup.memory_high is not None:
        yield "memory", "", "", "memory.high", str(cgroup.memory_high)
    if cgroup.pids is not None:
        yield "pids", "pids.max", str(cgroup.pids), "pids.max", str(cgroup.pids)


def _names(names: Iterable[NetnsName]) -> Lines:
    for number, name in enumerate(names):
        if not number:
            yield from comment("Names for `ip netns exec`: links to the namespaces of processes pin nothing.")
            yield '[ -d /run/netns ] || { mkdir /run/netns && : >"$DIR/netns"; }'
        yield f'ln -s "/proc/$(pid {word(name.container)})/ns/net" {word(f"/run/netns/{name.name}")}'


# -- the root ----------------------------------------------------------------------------------------


def inside(state: State) -> Lines:
    """From new namespaces to a container: root, /proc and the like, files, then the change of root."""
    files = {hosts.container: hosts for hosts in state.of(HostsFile)}
    yield "root=$DIR/$1/root/new"
    yield "# /proc is still the host's: there a process reads its number on the host."
    yield "read -r number _ </proc/self/stat"
    yield "# Copy-on-write: below what is only read, above it a tmpfs that takes what is written."
    yield 'mount -t tmpfs -o mode=755 tmpfs "$DIR/$1/root"'
    yield 'mkdir "$root" "$DIR/$1/root/upper" "$DIR/$1/root/work"'
    yield "lower=/"
    yield from _lowers(state.of(Container))
    yield 'above="upperdir=$DIR/$1/root/upper,workdir=$DIR/$1/root/work"'
    yield 'mount -t overlay -o "lowerdir=$lower,$above" overlay "$root"'
    yield '[ "$lower" != / ] || show_other_mounts'
    yield "mount_system"
    yield "case $1 in"
    for container in state.of(Container):
        yield from _container(container, files.get(container.name))
    yield "esac"
    yield 'readlink /proc/self/ns/pid >"$DIR/$1/namespace"'
    yield 'echo "$number" >"$DIR/$1/pid"'
    yield 'exec 3>"$DIR/$1/ready"'
    yield "# Change the root, and let go of the old one: unlike after chroot there is no way back."
    yield 'cd "$root"'
    yield "pivot_root . ."
    yield "umount -l ."
    yield "cd /"
    yield "echo ready >&3"
    yield "exec 3>&-"
    yield "# Number 1 takes care of orphans, and of nothing else."
    yield "exec sh -c 'while :; do sleep 3600 & wait $!; done'"


def _lowers(containers: Iterable[Container]) -> Lines:
    by_layers: dict[tuple[str, ...], list[str]] = {}
    for container in containers:
        assert container.spec is not None
        if container.spec["root"]["kind"] != "host":
            by_layers.setdefault(tuple(container.spec["root"]["layers"]), []).append(container.name)
    if by_layers:
        yield "case $1 in"
        for layers, names in by_layers.items():
            lower = ":".join(f"$DIR/layers/{layer}" for layer in reversed(layers))
            yield f'    {" | ".join(map(word, names))}) lower="{lower}" ;;'
        yield "esac"


def _container(container: Container, hosts: HostsFile | None) -> Lines:
    assert container.spec is not None
    spec = container.spec
    yield f"    {word(container.name)})"
    yield f"        echo {word(spec['hostname'])} >/proc/sys/kernel/hostname"
    yield f'        echo {word(spec["hostname"])} >"$root/etc/hostname"'
    texts = {} if hosts is None else {"/etc/hosts": hosts.hosts, "/etc/resolv.conf": hosts.resolv_conf or ""}
    yield from chain.from_iterable(_file(path, text) for path, text in {**texts, **spec["files"]}.items())
    if spec["lab_directory"]:
        yield f'        bind {word(spec["lab_directory"])} "$root"{word(spec["lab_directory"])} ro'
    for mount in spec["mounts"]:
        yield f"        {_mount(mount)}"
    if not spec["privileged"]:
        yield "        mask_system"
    if spec["root"]["read_only"]:
        yield '        mount -o remount,ro "$root"'
    yield "        ;;"


def _file(path: str, text: str) -> Lines:
    target = f'"$root"{word(path)}'
    parent = str(PurePosixPath(path).parent)
    if parent not in ("/", "/etc"):
        yield f'        mkdir -p "$root"{word(parent)}'
    yield f"        rm -f {target}"  # a link of the root must not be followed to elsewhere
    if text.endswith("\n"):
        yield from heredoc(f"        cat >{target}", text.split("\n")[:-1])
    else:
        yield f"        printf %s {word(text)} >{target}"
    if text.startswith("#!"):
        yield f"        chmod 755 {target}"


def _mount(mount: Any) -> str:
    target = f'"$root"{word(mount["target"])}'
    if mount["kind"] == "tmpfs":
        options = f"-o {word(mount['options'])} " if mount["options"] else ""
        return f"mkdir -p {target} && mount -t tmpfs {options}tmpfs {target}"
    mode = " ro" if mount["read_only"] else ""
    if mount["kind"] == "volume":
        source = f'"$DIR/volumes/"{word(mount["source"])}'
        return f"mkdir -p {source} && bind {source} {target}{mode}"
    return f"bind {word(mount['source'])} {target}{mode}"


# -- commands ----------------------------------------------------------------------------------------


def run(state: State) -> Lines:
    """``setup`` of every container, then the commands, each after those it depends on."""
    ulimits = {c.name: c.spec["ulimits"] for c in state.of(Container) if c.spec}
    for setup in state.of(Setup):
        yield from comment(f"Setup of {setup.container}.")
        for argv in setup.commands:
            command = _command(argv, dict(setup.environment), setup.working_dir)
            yield f"enter {word(setup.container)} {command}"
    started = [process for process in _in_order(state.of(Process)) if process.spec and process.spec["argv"]]
    if started:
        yield from comment("The commands of the containers.  What they write is in $DIR/CONTAINER/log.")
    for process in started:
        yield _start(process.container, process.spec, ulimits.get(process.container, {}))


def _start(name: str, spec: Any, ulimits: dict[str, list[int]]) -> str:
    command = _command(spec["argv"], spec["environment"], spec["working_dir"], spec["user"])
    entered = "; ".join([*_limits_of(ulimits), f"enter {word(name)} {command}"])
    return f'({entered}) </dev/null >>"$DIR/"{word(name)}/log 2>&1 &'


def _in_order(processes: list[Process]) -> list[Process]:
    rest, done = list(processes), list[Process]()
    while rest:
        waiting = {process.container for process in rest}
        ready = [p for p in rest if p.spec is None or not waiting & set(p.spec["depends_on"])] or rest
        done += ready
        rest = [process for process in rest if process not in ready]
    return done


def _limits_of(ulimits: dict[str, list[int]]) -> Lines:
    """For this shell and all that it starts: a child's parent is the shell."""
    for name, (soft, hard) in ulimits.items():
        yield f"prlimit --pid \"$(exec sh -c 'echo $PPID')\" --{name}={soft}:{hard}"


def _command(
    argv: Iterable[str], environment: dict[str, str], directory: str | None = None, user: str | None = None
) -> str:
    name, _, group = (user or "").partition(":")
    who = ["setpriv", f"--reuid={name}", f"--regid={group or name}", "--clear-groups"] if user else []
    where = ["-C", directory] if directory else []
    pairs = [f"{key}={value}" for key, value in {"PATH": PATH, **environment}.items()]
    return words(*who, "env", "-i", *where, *pairs, *argv)
