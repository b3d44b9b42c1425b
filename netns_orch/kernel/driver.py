"""The driver: one lab's way into the kernel; turns a phase of the plan into calls of the kernel's rooms.

Owns: which room does what, and what passes between them (pids, cgroup paths, fingerprints).  Must not: decide
what is to be done (``plan``), or know how a room does it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from netns_orch.errors import KernelError, NetorchError
from netns_orch.kernel import interrupts
from netns_orch.kernel.rundir import (
    NETNS,
    LabDirectory,
    boot_id,
    host_id,
    make_netns_directory,
    netns_links,
    process_start_time,
    replace_file,
)
from netns_orch.resources import (
    HOST,
    PLACE,
    Bridge,
    Cgroup,
    Container,
    ContainerSpec,
    Firewall,
    HostFacts,
    HostPath,
    HostsFile,
    HostSysctl,
    HostTable,
    Layer,
    MountSpec,
    NetnsName,
    Process,
    PublishedPort,
    Qdisc,
    Resource,
    Setup,
    State,
)

if TYPE_CHECKING:
    from netns_orch.kernel.capture import Taps, Wanted
    from netns_orch.kernel.cgroups import Hierarchies
    from netns_orch.kernel.nets import Nets
    from netns_orch.kernel.running import Running
    from netns_orch.kernel.runtime import CreateOrder, Zygote

__all__ = ["LabKernel", "host_id"]

Changes = Sequence[tuple[Resource | None, Resource | None]]
R = TypeVar("R", bound=Resource)
T = TypeVar("T")


class LabKernel:
    """The kernel as one lab sees it.  Making one does nothing yet."""

    def __init__(self, name: str, id: str | None = None, *, part: str = "") -> None:
        """``part`` is empty for the lab proper, ``uplink`` for what a private lab has on the host."""
        self.name = name
        self.part = part
        self.id = id or host_id()
        self.directory = LabDirectory(name, self.id)
        self.group = 0
        """The link group of this lab (IFLA_GROUP)."""
        self.records: dict[str, Any] = {}
        """What the rooms must remember from one run to the next, kept in the journal."""
        self.warnings: list[NetorchError] = []
        """What may not work all the same, found while doing."""
        self.lock_fd: int | None = None
        self.grace: float | None = None
        """Seconds that commands get to end, in the place of their own grace periods."""
        self._bridges: dict[str, str] = {}
        self._place_fd: int | None = None
        self._zygote: Zygote | None = None

    # -- before and after -------------------------------------------------------------------------

    def start(self) -> None:
        """Start the process that forks containers, early: it comes up while the caller goes on."""
        from netns_orch.kernel.runtime import Zygote

        self._zygote = Zygote()
        self._zygote.start(self.lock_fd)

    def share(self, other: LabKernel) -> None:
        """Fork containers by the process of another part, under its lock."""
        self._zygote, self.lock_fd = other._zygote, other.lock_fd

    def close(self) -> None:
        """End the process that forks containers, and let go of PLACE."""
        self.let_go()
        if self._zygote is not None:
            self._zygote.close()
            self._zygote = None

    def let_go(self) -> None:
        """Let go of PLACE's namespace, which would outlive PLACE otherwise."""
        if self._place_fd is not None:
            os.close(self._place_fd)
            self._place_fd = None

    def interruptible(self, timeout: float | None, then: str = "rolled back") -> AbstractContextManager[None]:
        """ctrl-C, SIGTERM and the time-out end the block with an error that says what is done ``then``."""
        return interrupts.interruptible(timeout, self.name, then)

    def uninterrupted(self) -> AbstractContextManager[None]:
        """No signal but SIGKILL ends the block; they are answered with a line that says how to clean up."""
        return interrupts.uninterrupted(self.name)

    # -- looking ----------------------------------------------------------------------------------

    def facts(self, want: frozenset[str], ports: frozenset[tuple[str, int]] = frozenset()) -> HostFacts:
        """The host as it is without this lab.

        ``want`` are the features to probe, ``ports`` (protocol, number) those that the lab publishes.
        """
        from netns_orch.kernel import facts

        there = sum(map(self._is_ours, self._made()))
        return facts.host_facts(self.name, self.id, want=want, ports=ports, containers=there)

    def paths(self, wanted: Iterable[str]) -> tuple[HostPath, ...]:
        """What lies at paths of the host."""
        from netns_orch.kernel import facts

        return facts.host_paths(wanted)

    def groups_in_use(self) -> frozenset[int]:
        """Link groups that some link of the host is in."""
        from netns_orch.kernel import netobserve

        return netobserve.groups_in_use(nets=self._nets({}))

    def has_marks(self) -> bool:
        """Whether anything on the host bears this lab's mark, with no file of ours to tell."""
        from netns_orch.kernel import leftovers

        return self.name in leftovers.traced_labs()

    def container(self, name: str) -> dict[str, Any] | None:
        """container.json of a container whose PID 1 lives; None otherwise."""
        about = self.directory.read_json(f"c/{name}/container.json")
        if not isinstance(about, dict) or about.get("boot_id") != boot_id():
            return None
        return about if process_start_time(about["pid"]) == about["start_time"] else None

    def observe(self, desired: State, owned: State) -> State:
        """The lab as it is: its own objects, and as ``extra`` what others made inside.

        ``owned`` is what netorch is known to have made where the kernel object itself can't show it.
        """
        abouts = {name: about for name in self._container_names(owned) if (about := self.container(name))}
        cgroups = list(self._observe_cgroups(desired, owned))
        inside = [
            *self._observe_roots(),
            *cgroups,
            *self._observe_containers(abouts, owned),
            *self._observe_strays(cgroups, abouts, desired),
            *self._observe_names(),
        ]
        if self.private and self._place is None:
            return State(inside)
        network, extra = self._observe_network(abouts, desired, owned)
        return State([*network, *inside], extra)

    def _observe_network(
        self, abouts: Mapping[str, dict[str, Any]], desired: State, owned: State
    ) -> tuple[list[Resource], list[Resource]]:
        from netns_orch.kernel import firewall, hosttable, netobserve

        nets = self._nets(_with_network(abouts))
        impaired = [Qdisc(owner=o, ifname=i) for o, i in self.records.get("impaired", [])]
        owned = State([*impaired, *owned.values()])
        links, extra = netobserve.observe(
            nets, desired, lab=self.name, id=self.id, group=self.group, applied=owned
        )
        self._bridges.update({bridge.name: bridge.ifname for bridge in links if isinstance(bridge, Bridge)})
        if self.part:  # what else is in PLACE is the lab proper's
            links = [r for r in links if r.node != PLACE or r.key in desired or r.key in owned]
            extra = []
        wanted = next(iter(desired.of(HostTable)), None)
        table = hosttable.observe(
            self.name, self.id, wanted, netns_fd=self._place, fingerprint=self.records.get("table")
        )
        published = [*owned.of(PublishedPort), *desired.of(PublishedPort)]
        ports = hosttable.observe_ports(
            self.name, self.id, published, netns_fd=self._place, fingerprints=self.records.get("ports")
        )
        loaded = [f for f in owned.of(Firewall) if f.container in abouts]
        rules = firewall.observe(nets, loaded, self.records.get("firewall", {}))
        sysctls = self._observe_sysctls(desired, owned)
        return [*([table] if table else []), *ports, *sysctls, *links, *rules], extra

    def warn_of_drops(self, state: State) -> None:
        """Add to ``warnings`` what other people's firewalls drop of this lab's packets."""
        from netns_orch.kernel import hosttable

        for table in state.of(HostTable):
            self.warnings += hosttable.what_drops(table, self._place)

    def _observe_roots(self) -> Sequence[Resource]:
        if self.part or not os.path.isdir(f"{self.directory.path}/layers"):
            return []
        from netns_orch.kernel import layers

        return list(layers.observe(self.directory.path))

    def _observe_cgroups(self, desired: State, owned: State | None = None) -> Iterator[Cgroup]:
        if not self._cgroups.all:  # rootless without any: a container's directory stands for its cgroup
            yield from self._observe_no_cgroups(desired, owned or State())
            return
        found = self._cgroups.observe(self.name, self.id, desired)
        yield from (cgroup for name, cgroup in found.items() if self._is_ours(name))

    def _observe_no_cgroups(self, desired: State, owned: State) -> Iterator[Cgroup]:
        for name in self._container_names(owned):
            known = owned.get(f"cgroup {name}") or desired.get(f"cgroup {name}")
            yield known if isinstance(known, Cgroup) else Cgroup(container=name)

    def _is_ours(self, container: str) -> bool:
        """Whether a container is of this part of the lab."""
        return (container == PLACE) == (self.part == "uplink")

    def _container_names(self, owned: State) -> list[str]:
        names = dict.fromkeys([*(container.name for container in owned.of(Container)), *self._made()])
        return [name for name in names if self._is_ours(name)]

    def _made(self) -> list[str]:
        """Containers that have a directory, in order of name."""
        with suppress(FileNotFoundError):
            return sorted(os.listdir(f"{self.directory.path}/c"))
        return []

    def _observe_containers(self, abouts: Mapping[str, dict[str, Any]], owned: State) -> Iterator[Resource]:
        from netns_orch.kernel import hostsfiles

        known: dict[hostsfiles.Identity, str] = {}
        for name, about in abouts.items():
            whole = _is_in_its_pod(about, abouts) and self._has_files(name, about)
            digest = about["digest"] if whole else ""
            yield Container(name=name, digest=digest)
            path = self.directory.container(name)
            yield HostsFile(
                container=name,
                hosts=hostsfiles.read(f"{path}/hosts", known),
                resolv_conf=_read(self._path(name) / "resolv.conf") or "",
                own=about["privileged"] or about["user_namespace"],
            )
            if setup := owned.get(f"setup {name}"):
                done = self.directory.read_json(f"c/{name}/setup.json")
                yield from [setup] if done == _setup_record(setup) else []
            if process := owned.get(f"process {name}"):
                running = self.directory.read_json(f"c/{name}/started.json")
                started = running == _process_record(process, about) and self._process_spec(name) is not None
                yield from [process] if started and not self._was_killed(name) else []

    def _has_files(self, name: str, about: Mapping[str, Any]) -> bool:
        """Whether what its PID 1, ``exec`` and ``ip netns`` need is still in the run directory."""
        own = (f"{self.directory.container(name)}/{file}" for file in ("control", "netns"))
        return all(os.path.lexists(path) for path in (*own, *filter(None, [about["seccomp"]])))

    def _was_killed(self, name: str) -> bool:
        """Whether a signal ended the command for good; one that came to its own end is as it was to be."""
        status = self.directory.read_json(f"c/{name}/status") or {}
        return status.get("state") == "exited" and (status.get("exit_code") or 0) > 128

    def _observe_strays(
        self, cgroups: Iterable[Cgroup], abouts: Mapping[str, Any], desired: State
    ) -> Iterator[Container]:
        """Containers that no file tells of any more: processes in a cgroup that bears our mark."""
        for name in (cgroup.container for cgroup in cgroups):
            known = name in abouts or f"container {name}" in desired
            if not known and self._cgroups.processes(self.name, self.id, name):
                yield Container(name=name, digest="")

    def _observe_names(self) -> Iterator[NetnsName]:
        if self.part:
            return
        for name, target in netns_links():
            if target.startswith(f"{self.directory.path}/c/"):
                yield NetnsName(container=target.split("/")[-2], name=name)

    def _observe_sysctls(self, desired: State, owned: State) -> list[HostSysctl]:
        from netns_orch.kernel import hostsysctl, placesysctl

        wanted = [*desired.of(HostSysctl), *owned.of(HostSysctl)]
        if self._place is not None:
            return placesysctl.observe(self._place, wanted)
        return hostsysctl.observe(self.name, self.id, wanted)

    # -- doing ------------------------------------------------------------------------------------

    def perform(self, phase: str, changes: Changes) -> None:
        """Do the changes of one phase; raises KernelError, perhaps with a part done."""
        actions: Mapping[str, Callable[[Changes], None]] = {
            "stop": self._stop,
            "guard": self._guard,
            "host": self._host,
            "layer": self._make_layers,
            "cgroup": self._make_cgroups,
            "files": self._write_files,
            "container": self._create,
            "name": self._name_netns,
            "network": self._network,
            "interface": self._host,
            "firewall": self._firewall,
            "setup": self._setup,
            "process": self._process,
            "anew": self._anew,
            "release": self._release,
            "unguard": self._guard,
        }
        try:
            actions[phase](changes)
        except OSError as error:
            raise _refused(phase, error) from error

    def sweep(self, intents: Iterable[tuple[str, str, int]]) -> None:
        """Remove links (name, MAC, group) that a killed run made and could not mark any more."""
        from netns_orch.kernel import network

        nets = self._nets({})
        for name, mac, group in intents:
            network.delete_unmarked(name, mac, group, nets=nets)

    def remove_cgroups(self) -> None:
        """Remove the lab's cgroups in every hierarchy, whatever is in them."""
        self._cgroups.remove(self.name, self.id)

    def _stop(self, changes: Changes) -> None:
        from netns_orch.kernel import runtime

        names = [c.name for c in _befores(changes, Container)]
        for name in names:
            if self._cgroups.frozen(self.name, self.id, name):
                self._cgroups.thaw(self.name, self.id, name)  # its stop signal must reach it
        if self.grace is not None:
            runtime.stop_commands([self._path(name) for name in names], self.grace)
        runtime.stop([(self._path(name), self._process_spec(name)) for name in names])
        for name in names:
            self._cgroups.kill_all(self.name, self.id, name)

    def _guard(self, changes: Changes) -> None:
        from netns_orch.kernel import conntrack, hosttable

        for before, after in _only(changes, HostTable):
            applied = hosttable.apply(
                before,
                after,
                lab=self.name,
                id=self.id,
                previous_sysctls=self.records.get("previous_sysctls", {}),
                netns_fd=self._place,
            )
            self.records["table"] = applied.fingerprint
            self.warnings += [NetorchError(text) for text in applied.warnings]
            if after is None:
                conntrack.flush_conntrack(self.records.get("prefixes", []), self._place)
        if ports := _only(changes, PublishedPort):
            self.records["ports"] = hosttable.publish_ports(
                ports, lab=self.name, id=self.id, netns_fd=self._place
            )
            conntrack.forget_ports(ports, self._place)

    def _host(self, changes: Changes) -> None:
        from netns_orch.kernel import hostsysctl, placesysctl

        if self._place is not None:
            placesysctl.write(self._place, list(_afters(changes, HostSysctl)))
            return
        for sysctl in _afters(changes, HostSysctl):
            try:
                previous = hostsysctl.acquire(self.name, self.id, {sysctl.name: sysctl.value})
            except NetorchError as error:
                raise error.at(sysctl.where) from error.__cause__
            self.records["previous_sysctls"] = previous

    def _make_layers(self, changes: Changes) -> None:
        from netns_orch.kernel import layers

        for layer in _afters(changes, Layer):
            layers.make(self.directory.path, layer)

    def _make_cgroups(self, changes: Changes) -> None:
        for before, after in changes:
            if before is None and isinstance(after, Cgroup):
                self._cgroups.create(self.name, self.id, after.container, after)
            elif isinstance(before, Cgroup) and isinstance(after, Cgroup):
                self._cgroups.update(self.name, self.id, before, after)

    def _write_files(self, changes: Changes) -> None:
        from netns_orch.kernel import hostsfiles

        for wanted in _afters(changes, HostsFile):
            self.directory.make_container(wanted.container)
        hostsfiles.write(_afters(changes, HostsFile), self.directory.container, self._living_pid)

    def _living_pid(self, name: str) -> int | None:
        about = self.container(name)
        return None if about is None else int(about["pid"])

    def _create(self, changes: Changes) -> None:
        self._create_containers(list(_afters(changes, Container)), {})

    def _create_containers(self, wanted: Sequence[Container], joined: Mapping[str, int]) -> None:
        """Members of a pod come last: the network that they join has to be there."""
        assert self._zygote is not None, "start() comes first"
        for container in wanted:
            place = self.name, self.id, container.name
            if container.name in joined or self._cgroups.was_made(*place):
                continue
            if self._cgroups.processes(*place):
                self._cgroups.kill_all(*place)  # left by a PID 1 nobody knows
        own = [c for c in wanted if c.spec is not None and not c.spec["net"]]
        members = [c for c in wanted if c.spec is not None and c.spec["net"]]
        for group in (own, members):
            orders = [self._order(container, joined.get(container.name)) for container in group]
            for _ in self._zygote.create(orders):
                pass  # each has written its own container.json and netns

    def _order(self, container: Container, kept: int | None) -> CreateOrder:
        from netns_orch.kernel.runtime import CreateOrder

        spec = container.spec
        assert spec is not None
        paths = self._cgroups.paths(self.name, self.id, container.name)
        before = self.directory.read_json(f"c/{container.name}/container.json") or {}
        if spec["nesting"] or before.get("nesting"):
            self._cgroups.clear(self.name, self.id, container.name)
        return CreateOrder(
            name=container.name,
            spec=self._in_place(spec),
            digest=container.digest,
            directory=Path(self.directory.make_container(container.name)),
            cgroup_v1=paths["v1"],
            cgroup_v2=paths["v2"],
            seccomp=self._seccomp(container),
            join_netns=f"{self.directory.container(spec['net'])}/netns" if spec["net"] else kept,
            where=container.where,
        )

    def _in_place(self, spec: ContainerSpec) -> ContainerSpec:
        """The spec with the directories that its layers and named volumes stand for."""
        root = spec["root"]
        if root["kind"] != "host":
            from netns_orch.kernel import layers

            root = {**root, "layers": layers.parts(self.directory.path, root["layers"])}
        volumes = {m["source"] for m in spec["mounts"] if m["kind"] == "volume"}
        where = {name: self.directory.make_volume(name) for name in volumes}
        mounts: list[MountSpec] = [
            {**mount, "source": where.get(mount["source"], mount["source"])}
            if mount["kind"] == "volume"
            else mount
            for mount in spec["mounts"]
        ]
        return {**spec, "root": root, "mounts": mounts}

    def _seccomp(self, container: Container) -> Path | None:
        """The compiled filter of a container, one file for all that have the same."""
        from netns_orch.kernel import seccomp

        spec = container.spec
        assert spec is not None
        if spec["privileged"] or spec["seccomp"] == "unconfined":
            return None
        directory = Path(self.directory.path)
        try:
            return seccomp.keep(directory, spec["seccomp"], spec["capabilities"], nesting=spec["nesting"])
        except NetorchError as error:
            raise error.at(container.where) from error

    def _name_netns(self, changes: Changes) -> None:
        make_netns_directory()
        for before, after in changes:
            if isinstance(before, NetnsName):
                _unlink(f"{NETNS}/{before.name}")
            if isinstance(after, NetnsName):
                self._link_netns(after)

    def _link_netns(self, wanted: NetnsName) -> None:
        path = f"{NETNS}/{wanted.name}"
        try:
            os.symlink(f"{self.directory.container(wanted.container)}/netns", path)
        except FileExistsError:
            raise KernelError(
                f"{path} exists and is not this lab's",
                where=wanted.where,
                hint="ip netns del it, or give the lab another name with --name",
            ) from None

    def _network(self, changes: Changes) -> None:
        from netns_orch.kernel import network

        for bridge in _afters(changes, Bridge):
            self._bridges[bridge.name] = bridge.ifname
        network.apply(
            self._nets(self._living()),
            changes,
            lab=self.name,
            id=self.id,
            group=self.group,
            bridges=self._bridges,
            record=self.records.setdefault("network", {}),
        )

    def _firewall(self, changes: Changes) -> None:
        from netns_orch.kernel import firewall

        fingerprints = firewall.apply(self._nets(self._living()), changes)
        kept = self.records.setdefault("firewall", {})
        for before in _befores(changes, Firewall):
            kept.pop(before.key, None)
        kept.update(fingerprints)

    def _setup(self, changes: Changes) -> None:
        from netns_orch.kernel import setup

        wanted = list(_afters(changes, Setup))
        for done in setup.run([(self._path(s.container), s) for s in wanted]):
            replace_file(
                f"{self.directory.container(done.container)}/setup.json", json.dumps(_setup_record(done))
            )

    def _process(self, changes: Changes) -> None:
        from netns_orch.kernel import startup
        from netns_orch.kernel.runtime import Start

        wanted = list(_afters(changes, Process))
        starts = []
        for process in wanted:
            about = self.container(process.container)
            if about is None:
                raise KernelError(f"container {process.container} has died", where=process.where)
            if self._cgroups.frozen(self.name, self.id, process.container):
                raise _paused(process)
            assert process.spec is not None
            starts.append(Start(self._path(process.container), process.spec, about, process.where))
            # Until the new one runs nobody shall take the old one for running: roll-back starts it again.
            self.directory.unlink(f"c/{process.container}/started.json")
        startup.start(starts)
        for process, begun in zip(wanted, starts, strict=True):
            record = _process_record(process, begun.container)
            replace_file(f"{begun.directory}/started.json", json.dumps(record))

    def _anew(self, changes: Changes) -> None:
        """Make containers anew around their network namespaces, then run their setup and commands."""
        wanted = list(_afters(changes, Container))
        kept: dict[str, int] = {}
        try:
            for container in wanted:
                kept[container.name] = self._open_netns(container)
                _check_owner(container, kept[container.name])
            self._stop([(container, None) for container in wanted])
            for container in wanted:
                for file in ("setup.json", "started.json", "status"):
                    self.directory.unlink(f"c/{container.name}/{file}")
            self._create_containers(wanted, kept)
        finally:
            for fd in kept.values():
                os.close(fd)
        self._setup([(None, s) for s in _afters(changes, Setup)])
        self._process([(None, p) for p in _afters(changes, Process)])

    def _open_netns(self, container: Container) -> int:
        about = self.container(container.name)
        if about is None:
            raise KernelError(f"container {container.name} has died", where=container.where)
        return os.open(f"/proc/{about['pid']}/ns/net", os.O_RDONLY | os.O_CLOEXEC)

    def _release(self, changes: Changes) -> None:
        from netns_orch.kernel import hostsysctl

        for name in _befores(changes, NetnsName):
            _unlink(f"{NETNS}/{name.name}")
        if gone := [cgroup.container for cgroup in _befores(changes, Cgroup)]:
            self._cgroups.remove(self.name, self.id, gone)
        for container in gone:
            self.directory.remove_container(container)
        if roots := [layer.id for layer in _befores(changes, Layer)]:
            from netns_orch.kernel import layers

            layers.remove(self.directory.path, roots)
        sysctls = [sysctl.name for sysctl in _befores(changes, HostSysctl)]
        if sysctls and not self.private:  # those of PLACE end with it
            hostsysctl.release(self.name, self.id, sysctls)

    # -- what the rooms are handed ----------------------------------------------------------------

    @property
    def private(self) -> bool:
        """Whether the lab's bridges live in the namespace of PLACE."""
        return not self.part and os.path.isdir(self.directory.container(PLACE))

    @property
    def _place(self) -> int | None:
        """The namespace of PLACE; None where the host's own is meant (or PLACE has ended)."""
        if self._place_fd is None and self.private and (about := self.container(PLACE)):
            with suppress(OSError):
                self._place_fd = os.open(f"/proc/{about['pid']}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        return self._place_fd

    @cached_property
    def _cgroups(self) -> Hierarchies:
        from netns_orch.kernel.cgroups import Hierarchies

        return Hierarchies.detect()

    def _path(self, name: str) -> Path:
        return Path(self.directory.container(name))

    def _living(self) -> dict[str, dict[str, Any]]:
        """Those that have a network of their own."""
        abouts = {name: about for name in self._container_names(State()) if (about := self.container(name))}
        return _with_network(abouts)

    def _nets(self, abouts: Mapping[str, dict[str, Any]]) -> Nets:
        from netns_orch.kernel.nets import Nets

        return Nets({name: about["pid"] for name, about in abouts.items()}, self._place)

    def _process_spec(self, name: str) -> Any:
        return self.directory.read_json(f"c/{name}/process.json")

    # -- what the views show ----------------------------------------------------------------------

    def view(self, name: str) -> dict[str, Any]:
        """What ``ps`` shows of one container, but for its addresses."""
        from netns_orch.kernel import runtime

        about = self.container(name)
        record = runtime.record(self._path(name)) or {}
        ended = not about and not record.get("init", True)  # with `init: false` it ends with its command
        status = runtime.status(self._path(name)) if about or ended else {}
        row: dict[str, Any] = {
            "state": status.get("state", "idle") if about or ended else "dead",
            "pid": about["pid"] if about else None,
            "uptime": _uptime(about["start_time"]) if about else None,
            "restarts": status.get("restarts", 0),
            "exit_code": status.get("exit_code"),
            "oom_kills": 0,
        }
        with suppress(OSError, KernelError):
            row["oom_kills"] = self._cgroups.usage(self.name, self.id, name).oom_kills
            if about and self._cgroups.frozen(self.name, self.id, name):
                row["state"] = "paused"
        return row

    def oom_kills(self) -> dict[str, int]:
        """How many processes the OOM killer took of each container that lost one."""
        return self._cgroups.oom_kills(self.name, self.id)

    def running(self, name: str) -> Running:
        """What can be done to a container as it runs; KernelError where it does not."""
        from netns_orch.kernel import running

        about = self.container(name)
        if about is None:
            raise running.gone(name)
        return running.Running(self.directory, name, about, self._cgroups)

    def traffic(self, name: str) -> dict[str, dict[str, int]]:
        """The counters of the interfaces of a container or of the host, by interface."""
        from netns_orch.kernel import netobserve

        abouts = {} if name == HOST else {name: self.running(name).about}
        return netobserve.stats(self._nets(abouts), name)

    def anatomy(self, name: str) -> dict[str, Any]:
        """What a container is made of: pids, namespaces (inode numbers), cgroups, confinement, files.

        One that has died still has what it was made with.
        """
        from netns_orch.kernel import runtime

        about = self.container(name)
        record = about or runtime.record(self._path(name)) or {}
        process = self._process_spec(name) or {}
        return {
            **self.view(name),
            "pids": self.running(name).pids() if about else [],
            "namespaces": _namespaces(about["pid"]) if about else {},
            "shares_network_of": record.get("net") or None,
            "cgroup": record.get("cgroup"),
            "capabilities": record.get("capabilities"),
            "seccomp": record.get("seccomp"),
            "command": process.get("argv"),
            "environment": process.get("environment", {}),
            "directory": self.directory.container(name),
        }

    def interfaces(self, names: Iterable[str]) -> dict[str, list[dict[str, Any]]]:
        """The interfaces, with their addresses, of those containers that run (``kernel.interfaceview``)."""
        from netns_orch.kernel import interfaceview
        from netns_orch.kernel.nets import Nets

        pids = {name: about["pid"] for name in names if (about := self.container(name))}
        return interfaceview.interfaces(Nets(pids), pids)

    def diff(self, name: str) -> list[dict[str, Any]]:
        """What a container changed in its root: a row for each path, with ``kind`` A, C or D."""
        from netns_orch.kernel import rootdiff

        about = self.container(name)
        if about is None:
            raise KernelError(f"container {name} does not run: what it changed is gone with it")
        layers = about["layers"] or ["/"]
        first_id = about.get("first_id") or 0
        found = rootdiff.changes(name, self.directory.container(name), about["pid"], layers, first_id)
        return rootdiff.as_rows(found)

    def inside(self, node: str, function: Callable[..., T], *args: Any) -> T:
        """Call a function in the network namespace of a container or of the host."""
        return self._nets(self._living()).within(node, function, *args)

    def taps(self, wanted: Sequence[Wanted], *, filter: str, snaplen: int) -> Taps:
        """Listen to interfaces of containers and of the namespace of the bridges (``kernel.capture``)."""
        from netns_orch.kernel import capture

        abouts = {each.node: about for each in wanted if (about := self._netns_holder(each.node))}
        try:
            return capture.open_taps(self._nets(abouts), wanted, self._reborn, filter=filter, snaplen=snaplen)
        finally:
            self.let_go()

    def _netns_holder(self, node: str) -> dict[str, Any] | None:
        return self.container(PLACE if node == HOST else node)

    def _reborn(self, node: str) -> int | None:
        """The first process of a node that runs; LookupError once it is no node of the lab any more."""
        name = PLACE if node == HOST else node
        if self.directory.read_json(f"c/{name}/container.json") is None:
            raise LookupError(node)
        about = self.container(name)
        return None if about is None else int(about["pid"])

    def logs(self, name: str, *, follow: bool, tail: int | None) -> Iterator[bytes]:
        """The output of a container's command; followed until that has ended for good."""
        from netns_orch.kernel import logfile

        goes_on = (lambda: self._has_command(name)) if follow else None
        return logfile.read(self._path(name) / "log", tail=tail, follow_while=goes_on)

    def _has_command(self, name: str) -> bool:
        """Whether the container's command runs, or is about to be run again."""
        from netns_orch.kernel import runtime

        alive = self.container(name) is not None
        return alive and runtime.status(self._path(name)).get("state") in ("running", "restarting")


def _with_network(abouts: Mapping[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Without the members of pods, who have nothing of the network to themselves."""
    return {name: about for name, about in abouts.items() if not about.get("net")}


def _is_in_its_pod(about: Mapping[str, Any], abouts: Mapping[str, Mapping[str, Any]]) -> bool:
    """Whether a container is in the network namespace that it is to share (if any) as that one is now."""
    if not about.get("net"):
        return True
    root = abouts.get(about["net"])
    if root is None:
        return False
    with suppress(OSError):
        return os.path.samefile(f"/proc/{about['pid']}/ns/net", f"/proc/{root['pid']}/ns/net")
    return False


def _check_owner(container: Container, netns: int) -> None:
    """Refuse a network that its root could not administer: who owns a namespace is fixed when it is made."""
    from netns_orch.kernel import clone

    assert container.spec is not None
    if not container.spec["user_namespace"] or container.spec["net"]:
        return
    owner = clone.owner_of(netns)
    if owner < 0:
        raise KernelError(
            f"container {container.name} has a network namespace of the host's root, "
            "and with a user namespace it needs one of its own",
            where=container.where,
            hint="its network can't be kept: `netorch down`, then `netorch up`",
        )
    os.close(owner)


def signal_number(name: str) -> int:
    """``TERM``, ``SIGTERM`` or ``15`` as a number; KernelError for what is none."""
    from netns_orch.kernel import runtime

    return runtime.signal_number(name)


def _afters(changes: Changes, kind: type[R]) -> Iterator[R]:
    return (after for _, after in changes if isinstance(after, kind))


def _only(changes: Changes, kind: type[R]) -> list[tuple[R | None, R | None]]:
    """The changes of one kind of resource."""
    return [
        (before if isinstance(before, kind) else None, after if isinstance(after, kind) else None)
        for before, after in changes
        if isinstance(before, kind) or isinstance(after, kind)
    ]


def _befores(changes: Changes, kind: type[R]) -> Iterator[R]:
    return (before for before, _ in changes if isinstance(before, kind))


def _refused(phase: str, error: OSError) -> KernelError:
    """A refusal that no room of the kernel's expected."""
    about = f": {error.filename}" if error.filename else ""
    what = f"{phase}: {error.strerror or error}{about}"
    return KernelError(what, errno=error.errno, hint="dmesg(1), df(1) and ulimit(1p) may tell why")


def _paused(process: Process) -> KernelError:
    what = f"container {process.container} is paused: its command can't be started"
    return KernelError(what, where=process.where, hint=f"netorch unpause {process.container}")


def _setup_record(setup: Any) -> Any:
    return [list(command) for command in setup.commands]


def _process_record(process: Any, about: Mapping[str, Any]) -> Any:
    """Which command was started in which life of the container."""
    return [process.digest, about["pid"], about["start_time"]]


def _read(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, ValueError):
        return None


def _unlink(path: str) -> None:
    with suppress(FileNotFoundError):
        os.unlink(path)


def _uptime(start_time: int) -> float:
    with open("/proc/uptime", encoding="ascii") as stream:
        now = float(stream.read().split()[0])
    return round(now - start_time / os.sysconf("SC_CLK_TCK"), 2)


def _namespaces(pid: int) -> dict[str, int]:
    names = ("cgroup", "ipc", "mnt", "net", "pid", "time", "user", "uts")
    found = {}
    for name in names:
        with suppress(OSError):
            found[name] = os.stat(f"/proc/{pid}/ns/{name}").st_ino
    return found
