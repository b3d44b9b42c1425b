"""Containers as such: cgroups, namespaces and roots, generated files, setup, processes.

Owns: what goes into ``ContainerSpec`` and ``ProcessSpec``.  Must not: know of cables and addresses.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from pathlib import PurePath
from types import MappingProxyType
from typing import Any

from netns_orch.capabilities import capabilities
from netns_orch.errors import LabFileError, NetorchError
from netns_orch.graph import Wiring
from netns_orch.graph.names import place
from netns_orch.graph.roots import target
from netns_orch.labfile import model
from netns_orch.resources import (
    Cgroup,
    Container,
    ContainerSpec,
    HostPath,
    HostsFile,
    Layer,
    MountSpec,
    NetnsName,
    Process,
    ProcessSpec,
    Setup,
    digest,
)

Sources = Mapping[str, HostPath]
"""What lies at the paths of the host that roots come from."""


def cgroups(wiring: Wiring) -> Iterator[Cgroup]:
    """One for each container, with the limits that the file gives."""
    for spec in wiring.topology.containers.values():
        limits = spec.resources
        yield Cgroup(
            container=spec.name,
            cpus=limits.cpus,
            cpu_weight=limits.cpu_weight,
            cpuset=limits.cpuset,
            memory=limits.memory,
            memory_high=limits.memory_high,
            swap=limits.swap,
            pids=limits.pids,
            io=tuple((io.device, io.read_bps, io.write_bps, io.read_iops, io.write_iops) for io in limits.io),
            privileged_devices=spec.privileged,
            devices=tuple((device.source, device.permissions) for device in spec.devices),
            where=limits.where or spec.where,
        )


def layers(wiring: Wiring, sources: Sources) -> Iterator[Layer]:
    """What roots are made of, each once."""
    seen: set[str] = set()
    for spec in wiring.topology.containers.values():
        for layer in _layers(spec, sources):
            if layer.id not in seen:
                seen.add(layer.id)
                yield layer


def _layers(spec: model.Container, sources: Sources) -> Iterator[Layer]:
    where = spec.rootfs.where or place(spec, "rootfs")
    for number, source in enumerate(spec.rootfs.layers):
        there = sources.get(source) or HostPath(source, "missing")
        # What an image holds was translated when it was unpacked.
        translated = number == 0 or spec.rootfs.kind == "image"
        stamp, lowest = there.stamp, translated and there.kind == "directory"
        id = digest([source, stamp, lowest])
        yield Layer(id=id, source=source, stamp=stamp, lowest=lowest, where=where)


def containers(wiring: Wiring, sources: Sources) -> Iterator[Container]:
    """Each after the container whose network it shares."""
    specs = wiring.topology.containers
    for name in sorted(specs, key=lambda name: name in wiring.pods):
        spec = container_spec(wiring, specs[name], sources)
        yield Container(name=name, digest=digest(spec), spec=spec, where=specs[name].where)


def container_spec(
    wiring: Wiring, spec: model.Container, sources: Sources = MappingProxyType({})
) -> ContainerSpec:
    """All that fixes a container's namespaces, root and confinement."""
    host_root = spec.rootfs.kind == "host"
    file = wiring.topology.file
    layers = [layer.id for layer in _layers(spec, sources)]
    return ContainerSpec(
        hostname=spec.hostname or spec.name,
        root={"kind": spec.rootfs.kind, "layers": layers, "read_only": spec.read_only},
        lab_directory=str(PurePath(file).parent) if file and host_root else None,
        files=dict(spec.files),
        mounts=sorted(_mounts(spec), key=lambda mount: mount["target"].count("/")),
        user_namespace=spec.namespaces.user or spec.nesting,
        time_offsets=_time_offsets(spec.namespaces),
        net=wiring.pods.get(spec.name),
        capabilities=_capabilities(spec),
        seccomp="unconfined" if spec.privileged else spec.seccomp,
        nesting=spec.nesting,
        privileged=spec.privileged,
        init=spec.init,
        ulimits={name: list(limits) for name, limits in spec.ulimits.items()},
    )


def _capabilities(spec: model.Container) -> list[str]:
    try:
        return capabilities(spec.cap_add, spec.cap_drop, spec.privileged, spec.nesting)
    except NetorchError as error:
        raise LabFileError([error.at(place(spec, "cap_add", "cap_drop"))]) from None


def _mounts(spec: model.Container) -> Iterator[MountSpec]:
    for volume in spec.volumes:
        yield MountSpec(
            kind="volume" if volume.named else "bind",
            source=volume.source,
            target=target(volume.target),
            options="",
            read_only=volume.read_only,
        )
    for tmpfs in spec.tmpfs:
        yield MountSpec(
            kind="tmpfs",
            source="tmpfs",
            target=target(tmpfs.target),
            options=tmpfs.options,
            read_only="ro" in tmpfs.options.split(","),
        )
    for device in spec.devices:
        yield MountSpec(
            kind="device",
            source=device.source,
            target=target(device.target),
            options=device.permissions,
            read_only=False,
        )


def _time_offsets(namespaces: model.Namespaces) -> dict[str, float]:
    said = {"boottime": namespaces.time_boottime, "monotonic": namespaces.time_monotonic}
    return {clock: seconds for clock, seconds in said.items() if seconds is not None}


# -- generated files -----------------------------------------------------------------------------


def hosts_files(wiring: Wiring, upstream_dns: Sequence[str]) -> Iterator[HostsFile]:
    """/etc/hosts and /etc/resolv.conf of every container."""
    for spec in wiring.topology.containers.values():
        yield HostsFile(
            container=spec.name,
            hosts=wiring.hosts(spec.name),
            resolv_conf=_resolv_conf(spec, upstream_dns),
            own=spec.privileged or spec.nesting or spec.namespaces.user,
            where=place(spec, "extra_hosts", "dns"),
        )


def _resolv_conf(spec: model.Container, upstream_dns: Sequence[str]) -> str:
    """Where the file says nothing: the host's real servers."""
    search = [f"search {' '.join(spec.dns_search)}\n"] if spec.dns_search else []
    return "".join([*search, *(f"nameserver {server}\n" for server in spec.dns or upstream_dns)])


def netns_names(wiring: Wiring) -> Iterator[NetnsName]:
    """``<lab>.<container>`` for ``ip netns exec``."""
    for spec in wiring.topology.containers.values():
        yield NetnsName(container=spec.name, name=f"{wiring.topology.name}.{spec.name}", where=spec.where)


# -- processes -----------------------------------------------------------------------------------


def setups(wiring: Wiring) -> Iterator[Setup]:
    """``setup`` of the containers that have it."""
    for spec in wiring.topology.containers.values():
        if spec.setup:
            yield Setup(
                container=spec.name,
                commands=tuple(tuple(command.argv) for command in spec.setup),
                environment=tuple(spec.environment.items()),
                working_dir=spec.working_dir,
                lines=tuple(command.where or place(spec, "setup") for command in spec.setup),
                where=place(spec, "setup"),
            )


def processes(wiring: Wiring) -> Iterator[Process]:
    """PID 1's task in every container; an idle one runs nothing."""
    for spec in wiring.topology.containers.values():
        wanted = process_spec(wiring, spec)
        where = (spec.command.where if spec.command else None) or place(spec, "command")
        yield Process(container=spec.name, digest=digest(wanted), spec=wanted, where=where)


def process_spec(wiring: Wiring, spec: model.Container) -> ProcessSpec:
    """What PID 1 runs, and how."""
    waits_for = chain.from_iterable(map(wiring.topology.members, spec.depends_on))
    return ProcessSpec(
        argv=list(spec.command.argv) if spec.command else None,
        environment=dict(spec.environment),
        working_dir=spec.working_dir,
        user=spec.user,
        init=spec.init,
        restart=spec.restart,
        stop_signal=spec.stop_signal,
        stop_grace_period=spec.stop_grace_period,
        ready=_ready(spec.ready) if spec.ready else None,
        depends_on=list(dict.fromkeys(waits_for)),
    )


def _ready(ready: model.Ready) -> dict[str, Any]:
    """The one probe of the four that is there, and its timeout in seconds."""
    probes = {
        "tcp": ready.tcp,
        "exec": ready.exec.argv if ready.exec else None,
        "log": ready.log,
        "file": ready.file,
    }
    return {**{kind: probe for kind, probe in probes.items() if probe is not None}, "timeout": ready.timeout}
