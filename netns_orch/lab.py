"""The lab: the one way in, for the command line and for Python.

Owns: what ``up``, ``down``, ``plan``, ``status`` and the views do, step by step, out of the other rooms.
Must not: speak to the kernel but through ``kernel.driver``; print anything.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from ipaddress import ip_interface
from pathlib import Path
from typing import TYPE_CHECKING, Any

from netns_orch import engine
from netns_orch.errors import KernelError, LabFileError, MissingFeature, NetorchError, UsageError, Where
from netns_orch.journal import Applied, Journal
from netns_orch.kernel import outside, owners, realm, userdir
from netns_orch.kernel.driver import LabKernel, host_id
from netns_orch.kernel.rundir import LabDirectory, boot_id, lab_directories
from netns_orch.lease import Lease
from netns_orch.plan import Plan, drift_of, restarted
from netns_orch.plan import diff as compare
from netns_orch.records import dataclass, field, replace
from netns_orch.resources import (
    GROUP_FIRST,
    GROUP_LAST,
    Address,
    Cable,
    Cgroup,
    Container,
    HostFacts,
    PublishedPort,
    State,
    published,
)

if TYPE_CHECKING:
    from netns_orch.graph import Wiring
    from netns_orch.labfile.model import Topology

Progress = engine.Progress


@dataclass(frozen=True)
class UpReport:
    """What ``up`` did; ``changes`` is 0 where the lab already was as the file says."""

    lab: str
    containers: int
    links: int
    seconds: float
    netns: str
    """``host`` or ``private``, as ``ls`` has it."""
    bridges: str
    """Where they live, and what of the outside they reach, in words."""
    changes: int
    warnings: list[NetorchError] = field(default_factory=list)


@dataclass(frozen=True)
class DownReport:
    """What ``down`` removed; ``found`` is False where the lab was not up, which is no error."""

    lab: str
    containers: int
    links: int
    seconds: float
    found: bool


def load(
    file: str | Path,
    *,
    name: str | None = None,
    variables: Mapping[str, str] | None = None,
    private: bool = False,
    untrusted: bool = False,
) -> Topology:
    """Read a lab file; LabFileError with every problem in it.  ``private`` overrules its ``netns``.

    ``untrusted`` (always, with NETORCH_UNTRUSTED in the environment): it is a stranger's, and must not reach
    the host (``labfile.untrusted``).
    """
    from netns_orch import labfile

    untrusted = untrusted or os.environ.get("NETORCH_UNTRUSTED", "0") not in ("", "0")
    topology = labfile.load(file, name=name, variables=variables, untrusted=untrusted)
    if name is not None:
        topology.marks.setdefault("name", Where(str(file), 1, 1, "name"))  # given, not taken from the stem
    if private:
        topology.netns = "private"
    return topology


def validate(topology: Topology, *, host: bool = True) -> list[NetorchError]:
    """Check a topology, and with ``host`` against this host; the warnings. LabFileError where it is wrong."""
    wiring = _wire(topology)
    if not host:
        return list(wiring.warnings)
    return [*wiring.warnings, *_check_host(wiring, LabKernel(topology.name))[1]]


def plan(topology: Topology) -> Plan:
    """What ``up`` would do now; changes nothing."""
    wiring = _wire(topology)
    kernel = LabKernel(topology.name)
    facts, _ = _check_host(wiring, kernel)
    applied = journal_of(kernel).applied() or Applied()
    proper = compare(*_plan(wiring, kernel, facts, applied))
    if topology.netns != "private":
        return proper
    place = place_of(kernel)
    applied = journal_of(place).applied() or Applied()
    outside = compare(*_plan_place(wiring, place, facts, applied))
    return Plan((*outside.changes, *proper.changes), proper.extra)


def desired(topology: Topology) -> tuple[State, list[NetorchError]]:
    """All that ``up`` would have on this host, whatever of it is there; and what this host lacks for it."""
    wiring = _wire(topology)
    kernel = LabKernel(topology.name)
    facts, errors, _ = _checked(wiring, kernel)
    lacking: list[NetorchError] = [error for error in errors if type(error) is MissingFeature]
    if len(lacking) < len(errors):
        raise LabFileError(errors)
    return _resolve(wiring, kernel, facts), lacking


def _resolve(wiring: Wiring, kernel: LabKernel, facts: HostFacts) -> State:
    from netns_orch.resolve import resolve

    return resolve(wiring, id=kernel.id, host=facts)


def up(
    topology: Topology,
    *,
    progress: Progress | None = None,
    keep_failed: bool = False,
    timeout: float | None = None,
    wait: float | None = None,
    ttl: float | None = None,
    owner_pid: int | None = None,
    step: engine.Step | None = None,
) -> UpReport:
    """Build the lab, or change what differs; all of it, or nothing.

    ``timeout`` and ``wait`` (for the lab's lock) are seconds.  A run that fails is rolled back to the state
    before it, unless ``keep_failed``.  ``collect`` may remove the lab ``ttl`` seconds from now, or when the
    process ``owner_pid`` has ended; None leaves what an earlier ``up`` said, ``lease.NO_END`` and 0 take it
    off.
    """
    started = time.monotonic()
    wiring = _wire(topology)
    kernel = LabKernel(topology.name)
    converted = _of_other_file(topology, kernel.directory)
    owner = _owner(owner_pid)
    with working(kernel, "up", wait), kernel.interruptible(timeout):
        _forget_earlier_boot(kernel)
        kernel.start()
        facts, host_warnings = _check_host(wiring, kernel)
        run = _Run(keep_failed, progress, step)
        lease = lease_of(kernel.directory).renewed(time.time(), ttl, owner)
        with _kept(kernel, topology, lease, keep_failed), _placed(wiring, kernel, facts, run) as placed:
            desired, changes = _build(kernel, lambda applied: _plan(wiring, kernel, facts, applied), run)
        kernel.warn_of_drops(desired)
        way_out_anew = _is_way_out_new(kernel.directory)
        _describe(kernel.directory, topology, lease)
    containers, links = counts(desired)
    seconds = time.monotonic() - started
    told = [*converted, *wiring.warnings, *host_warnings]
    warnings = [*told, *kernel.warnings, *_lease_ended(topology.name, lease)]
    changes += placed + way_out_anew
    where = _where(topology, way_out_anew=way_out_anew)
    netns = "host" if topology.netns == "host" and realm.inside() is None else "private"
    return UpReport(topology.name, containers, links, seconds, netns, where, changes, warnings)


def _is_way_out_new(directory: LabDirectory) -> bool:
    """Whether another program leads out of a rootless lab than when ``up`` had last done its work."""
    about, now = directory.read_json("lab.json") or {}, outside.identity()
    return bool(about.get("way_out", now) != now)


def _where(topology: Topology, *, way_out_anew: bool) -> str:
    """Where the bridges live, and what of the outside they reach, in words."""
    if realm.inside() is None:
        return "in a namespace of their own" if topology.netns == "private" else "on this host"
    program = outside.program()
    if program is None:
        return f"in a namespace of their own, rootless; nothing goes out or in: {outside.why_closed()}"
    started = ", started anew" if way_out_anew else ""
    return f"in a namespace of their own, rootless; outside by {program}{started}"


def down(
    name: str,
    *,
    progress: Progress | None = None,
    wait: float | None = None,
    step: engine.Step | None = None,
) -> DownReport:
    """Remove every trace of the lab; a lab that is not up is no error."""
    started = time.monotonic()
    kernel = LabKernel(name)
    if not kernel.directory.exists() and (userdir.is_ordinary() or not kernel.has_marks()):
        tidy()
        return DownReport(name, 0, 0, time.monotonic() - started, found=False)
    with working(kernel, "down", wait), kernel.uninterrupted():
        observed = remove(kernel, progress=progress, step=step)
    return DownReport(name, *counts(observed), time.monotonic() - started, found=True)


def remove(kernel: LabKernel, *, progress: Progress | None = None, step: engine.Step | None = None) -> State:
    """What ``down`` does while it holds the lock (``working``); returns what was there."""
    lost, private = not journal_of(kernel).speaks(), kernel.private
    observed = _remove_part(kernel, progress, step)
    if private or lost:
        kernel.close()
        _remove_part(place_of(kernel), None, None)
    if not observed.of(Cgroup):  # none of a container, but perhaps the lab's own that they were in
        kernel.remove_cgroups()
    kernel.directory.remove()
    if not observed.of(Cgroup):
        tidy()
    return observed


def tidy() -> None:
    """Remove what is empty and no lab's: where no lab is up, nothing of netorch is there."""
    from netns_orch.kernel import leftovers

    if not userdir.is_ordinary():
        leftovers.remove()


@dataclass(frozen=True)
class RestartReport:
    """What ``restart`` did."""

    lab: str
    containers: list[str]
    seconds: float


def restart(
    name: str,
    nodes: Sequence[str],
    *,
    grace: float | None = None,
    progress: Progress | None = None,
    wait: float | None = None,
    step: engine.Step | None = None,
) -> RestartReport:
    """Make containers anew: end their commands, mount their roots afresh, run setup and command again.

    Their network stays.  ``grace`` (seconds until SIGKILL) takes the place of each one's own.  One that has
    died is built again, with all that went with it.
    """
    started = time.monotonic()
    kernel, _ = known(name)
    with working(kernel, "restart", wait), kernel.interruptible(None, "netorch up puts it right"):
        kernel.start()
        kernel.grace = grace
        journal = journal_of(kernel)
        applied = finish_interrupted(kernel, journal)
        for node in nodes:
            known_node(name, node, applied)
        kernel.group, kernel.records = applied.group, applied.records
        todo = restarted(applied.state, kernel.observe(applied.state, applied.state), nodes)
        journal.begin("restart", todo, kernel.group)
        try:
            engine.run(todo, kernel, progress=progress, step=step)
        finally:  # what failed half-way is drift: there is no other state to go back to
            with kernel.uninterrupted():
                kernel.sweep(_intended_links(journal))
                journal.save(Applied(applied.state, kernel.group, kernel.records))
                journal.end()
    return RestartReport(name, list(nodes), time.monotonic() - started)


# -- the steps of up and down --------------------------------------------------------------------


def _wire(topology: Topology) -> Wiring:
    from netns_orch import graph

    return graph.wire(topology)


def _check_host(wiring: Wiring, kernel: LabKernel) -> tuple[HostFacts, list[NetorchError]]:
    facts, errors, warnings = _checked(wiring, kernel)
    if errors:
        raise LabFileError(errors)
    return facts, warnings


def _checked(wiring: Wiring, kernel: LabKernel) -> tuple[HostFacts, list[NetorchError], list[NetorchError]]:
    from netns_orch import graph

    facts = kernel.facts(graph.features_needed(wiring), graph.ports_wanted(wiring))
    facts = replace(facts, paths=kernel.paths(graph.paths_named(wiring)))
    return facts, *graph.check_host(wiring, facts)


def journal_of(kernel: LabKernel) -> Journal:
    """The journal of a lab, or of one of its parts."""
    return Journal(kernel.directory, boot_id(), f"{kernel.part}." if kernel.part else "")


def place_of(kernel: LabKernel) -> LabKernel:
    """The part of a private lab that is on the host."""
    return LabKernel(kernel.name, kernel.id, part="uplink")


@dataclass(frozen=True)
class _Run:
    """How a run is to be done, whatever it builds."""

    keep_failed: bool = False
    progress: Progress | None = None
    step: engine.Step | None = None


def _build(kernel: LabKernel, look: Callable[[Applied], tuple[State, State]], run: _Run) -> tuple[State, int]:
    """Bring one part of a lab to what ``look`` (desired, observed) wants; with the number of changes."""
    journal = journal_of(kernel)
    applied = finish_interrupted(kernel, journal)
    desired, observed = look(applied)
    todo = compare(desired, _remove_unknown(kernel, journal, applied, observed))
    if len(todo):
        _converge(kernel, journal, applied, desired, todo, run)
    elif journal.unfinished() or len(compare(desired, applied.state)):
        # A run was killed behind its last change, or somebody made by hand what the file wants now.
        journal.save(Applied(desired, kernel.group, kernel.records))
        journal.end()
    return desired, len(todo)


@contextmanager
def _placed(wiring: Wiring, kernel: LabKernel, facts: HostFacts, run: _Run) -> Iterator[int]:
    """With ``netns: private``, what the lab has on the host stands before the block, or goes if it fails.

    Yields the number of changes.
    """
    private = wiring.topology.netns == "private"
    if kernel.private != private and journal_of(kernel).applied() is not None:
        raise UsageError(
            f"lab {kernel.name} is up with netns: {'private' if kernel.private else 'host'}",
            hint=f"its namespace can't be changed in place: netorch down {kernel.name}",
        )
    if not private:
        yield 0
        return
    place = place_of(kernel)
    place.share(kernel)
    was_there = journal_of(place).applied() is not None
    desired, changes = _build(place, lambda applied: _plan_place(wiring, place, facts, applied), run)
    place.warn_of_drops(desired)
    kernel.warnings += place.warnings
    try:
        yield changes
    except BaseException:
        if not was_there and not run.keep_failed:
            kernel.let_go()
            with kernel.uninterrupted():
                _remove(place, journal_of(place), desired, None, None)
        raise


@contextmanager
def _kept(kernel: LabKernel, topology: Topology, lease: Lease, keep_failed: bool) -> Iterator[None]:
    """A lab that is kept although it failed can be entered and looked at like any other."""
    try:
        yield
    except BaseException:
        if keep_failed:
            _describe(kernel.directory, topology, lease)
        raise


def _plan_place(wiring: Wiring, place: LabKernel, facts: HostFacts, applied: Applied) -> tuple[State, State]:
    from netns_orch import resolve, uplink

    ipv6 = any(port.family == 6 for port in wiring.published) or any(
        address.family == 6 and not address.is_link_local and bridge.forward != "none"
        for bridge in wiring.bridges.values()
        for address in bridge.addresses
    )
    ports = resolve.published_ports(wiring)
    if resolve.without_table(wiring, facts):
        desired = uplink.closed(place.name)
    else:
        desired = uplink.resolve(place.name, place.id, facts, applied.state, ipv6=ipv6, ports=ports)
    place.group = applied.group or _free_group(place.groups_in_use())
    place.records = applied.records
    return desired, place.observe(desired, applied.state)


def _plan(wiring: Wiring, kernel: LabKernel, facts: HostFacts, applied: Applied) -> tuple[State, State]:
    """The desired and the observed state; the plan is their diff."""
    desired = _resolve(wiring, kernel, facts)
    kernel.group = applied.group or _free_group(kernel.groups_in_use())
    kernel.records = applied.records
    return desired, kernel.observe(desired, applied.state)


def _free_group(in_use: frozenset[int]) -> int:
    # random(4), as the module of that name takes 6 ms to import.
    size = GROUP_LAST - GROUP_FIRST + 1
    while (group := GROUP_FIRST + int.from_bytes(os.urandom(4), "little") % size) in in_use:
        pass
    return group


@contextmanager
def working(kernel: LabKernel, doing: str, wait: float | None) -> Iterator[None]:
    """Hold the lab's lock; a lab that was not there before and has no state after leaves no directory."""
    with kernel.directory.locked(doing, wait) as lock:
        kernel.lock_fd = lock
        try:
            yield
        finally:
            kernel.close()
            if not journal_of(kernel).speaks() and not journal_of(place_of(kernel)).speaks():
                kernel.directory.remove()


def finish_interrupted(kernel: LabKernel, journal: Journal) -> Applied:
    """Sweep up what a killed run made and could not mark; returns what was applied before it."""
    kernel.sweep(_intended_links(journal))
    return journal.applied() or Applied()


def _remove_unknown(kernel: LabKernel, journal: Journal, applied: Applied, observed: State) -> State:
    """Remove what bears the lab's marks when nothing tells how it was made: a first ``up`` was killed."""
    if len(applied.state) or not len(observed):
        return observed
    _remove(kernel, journal, State(), None, None)
    return State()


def _converge(
    kernel: LabKernel,
    journal: Journal,
    applied: Applied,
    desired: State,
    todo: Plan,
    run: _Run,
) -> None:
    journal.begin("up", todo, kernel.group)
    kernel.records["prefixes"] = _prefixes(desired)
    wanted = Applied(desired, kernel.group, kernel.records)
    try:
        engine.run(todo, kernel, progress=run.progress, step=run.step)
    except BaseException as error:
        if run.keep_failed:
            journal.save(wanted)
            journal.end()
        else:
            _roll_back(kernel, journal, applied, desired, error)
        raise
    journal.save(wanted)
    journal.end()


def _prefixes(state: State) -> list[str]:
    """The lab's subnets: what connections the host must forget with it."""
    return sorted({str(ip_interface(address.cidr).network) for address in state.of(Address)})


def _roll_back(
    kernel: LabKernel, journal: Journal, applied: Applied, desired: State, error: BaseException
) -> None:
    """Back to the state before this run: observe what there is now, and run the plan from it."""
    with kernel.uninterrupted():
        try:
            if not len(applied.state):
                _remove(kernel, journal, desired, None, None)
                return
            kernel.sweep(_intended_links(journal))
            owned = State([*desired.values(), *applied.state.values()])
            back = compare(applied.state, kernel.observe(applied.state, owned))
            engine.run(back, kernel)
            journal.save(Applied(applied.state, kernel.group, kernel.records))
            journal.end()
        except NetorchError as second:
            raise KernelError(
                f"{error}\nand rolling back failed: {second.what}",
                hint=f"netorch down {kernel.name}",
            ) from error


def _intended_links(journal: Journal) -> list[tuple[str, str, int]]:
    return [(name, mac, i.group) for i in journal.unfinished() for name, mac in i.links]


def _remove(
    kernel: LabKernel,
    journal: Journal,
    owned: State,
    progress: Progress | None,
    step: engine.Step | None,
) -> State:
    """The diff to nothing, of all that bears the lab's marks; returns what was there."""
    intended = _intended_links(journal)
    nothing = State()
    observed = kernel.observe(nothing, owned)
    todo = compare(nothing, observed)
    journal.begin("down", Plan(()), kernel.group)
    engine.run(todo, kernel, progress=progress, step=step)
    kernel.sweep(intended)
    journal.forget()
    return observed


def _remove_part(kernel: LabKernel, progress: Progress | None, step: engine.Step | None) -> State:
    journal = journal_of(kernel)
    applied = journal.applied() or Applied()
    kernel.group, kernel.records = applied.group, applied.records
    return _remove(kernel, journal, applied.state, progress, step)


def counts(state: State) -> tuple[int, int]:
    """How many containers and cables it holds."""
    return len(state.of(Container)), len(state.of(Cable))


def _of_other_file(topology: Topology, directory: LabDirectory) -> list[NetorchError]:
    """Two files of the same stem are two labs: one must not turn the other into itself by accident.

    UsageError; where the name was said, in the file or on the command line, a warning.
    """
    there = directory.read_json("lab.json") or {}
    other, name_given = there.get("file"), "name" in topology.marks
    if topology.untrusted and there and other != topology.file:
        raise UsageError(
            f"a lab {topology.name} is already up, from {other}, and a stranger's file can't change it",
            hint=f"netorch up --untrusted --name NAME {topology.file}",
        )
    if not other or other == topology.file or not Path(other).exists():
        return []
    if name_given or not topology.file or topology.name != Path(topology.file).stem:
        what = f"lab {topology.name} was up from {other}, and is now as {topology.file or 'a program'} says"
        hint = f"netorch up --name {topology.name} {other}   makes it again what it was"
        return [NetorchError(what, hint=hint)] if there.get("boot_id") == boot_id() else []
    raise UsageError(
        f"a lab {topology.name} is already up, from {other}",
        hint=f"netorch up --name NAME {topology.file}\nor netorch down {topology.name}",
    )


def _describe(directory: LabDirectory, topology: Topology, lease: Lease) -> None:
    """Write lab.json: what ``exec`` and ``ls`` must know without reading the whole state."""
    import json

    there = directory.read_json("lab.json") or {}
    value = {
        "name": topology.name,
        "id": directory.id,
        "file": topology.file,
        "netns": topology.netns if realm.inside() is None else "private",
        "created": there.get("created", time.time()),
        "boot_id": boot_id(),
        "groups": topology.groups,
        "containers": {c.name: {"labels": c.labels} for c in topology.containers.values()},
        "links": len(topology.links),
        "way_out": outside.identity(),
        **lease.to_json(),
    }
    directory.write("lab.json", json.dumps(value))


def _owner(pid: int | None) -> dict[str, int] | None:
    """The process that a lab shall belong to; {} for 0: to none."""
    if not pid:
        return None if pid is None else {}
    owner = owners.identify(pid)
    if owner is None:
        raise UsageError(f"there is no process {pid}", hint="--owner-pid $$ is the shell it is typed in")
    return owner


def lease_of(directory: LabDirectory) -> Lease:
    """How long a lab is wanted."""
    return Lease.from_json(directory.read_json("lab.json") or {})


def _lease_ended(name: str, lease: Lease) -> Iterator[NetorchError]:
    if ended := lease.ended(time.time(), owners.lives):
        hint = "`netorch up` with --ttl TIME or --owner-pid PID says anew, with `none` that nothing ends it"
        yield NetorchError(f"`netorch gc` will remove lab {name}: {ended}", hint=hint)


def _forget_earlier_boot(kernel: LabKernel) -> None:
    """Files of an earlier boot speak of nothing that exists: the lab begins anew."""
    if is_of_earlier_boot(kernel):
        kernel.directory.clear()


def is_of_earlier_boot(kernel: LabKernel) -> bool:
    """Whether the lab was up before the host was started anew, and its files have outlived it."""
    about = kernel.directory.read_json("lab.json")
    if isinstance(about, dict):
        return about.get("boot_id") != boot_id()
    return any(journal_of(part).of_earlier_boot() for part in (kernel, place_of(kernel)))


# -- looking -------------------------------------------------------------------------------------


def labs() -> list[dict[str, Any]]:
    """The labs of this host namespace: lab, file, state, containers, links, netns, created (unix seconds)."""
    return [_lab_row(directory) for directory in lab_directories(host_id())]


def _lab_row(directory: LabDirectory) -> dict[str, Any]:
    about = directory.read_json("lab.json") or {}
    names = list(about.get("containers", {}))
    kernel = LabKernel(directory.name, directory.id)
    lease = Lease.from_json(about)
    return {
        "lab": directory.name,
        "file": about.get("file"),
        "state": _state(kernel, about),
        "containers": len(names),
        "links": about.get("links", 0),
        "netns": about.get("netns", "host"),
        "created": about.get("created"),
        "expires": lease.expires,
        "owner_pid": lease.owner["pid"] if lease.owner else None,
    }


def _state(kernel: LabKernel, about: dict[str, Any]) -> str:
    """up; degraded: containers have died; unfinished: a run works on it or was killed; gone: by a reboot."""
    if is_of_earlier_boot(kernel):
        return "gone"
    if kernel.directory.lines("journal.jsonl") or not about:
        return "unfinished"
    alive = all(kernel.container(name) for name in about.get("containers", {}))
    return "up" if alive and not _missing_files(kernel) else "degraded"


def lost_labs() -> list[dict[str, Any]]:
    """Rows as ``labs`` has them, of those whose run directory is gone: found by their marks alone."""
    from netns_orch.kernel import leftovers

    if userdir.is_ordinary():
        return []  # marks end with the realm they are in
    there = {directory.name for directory in lab_directories(host_id())}
    lost = sorted(leftovers.traced_labs() - there)
    return [{**_lab_row(LabDirectory(name, host_id())), "state": "lost"} for name in lost]


def find(selector: str | None = None, *, node: str | None = None) -> str:
    """The lab that is meant, by FILE or name.

    Without: that of ./lab.yaml, else the only one up, else the only one that has ``node``; UsageError that
    lists the labs where none or several are meant.
    """
    rows = labs()
    if selector is not None:
        return _select(selector, rows)
    here = str(Path("lab.yaml").resolve())
    for row in rows:
        if row["file"] == here:
            return str(row["lab"])
    if len(rows) == 1:
        return str(rows[0]["lab"])
    having = [row["lab"] for row in rows if node is not None and _has_node(row["lab"], node)]
    if len(having) == 1:
        return str(having[0])
    names = ", ".join(row["lab"] for row in rows)
    if not rows:
        raise UsageError("no lab is up", hint="netorch up FILE")
    raise UsageError("several labs are up", hint=f"name one of them: {names}")


def is_file(selector: str) -> bool:
    """Whether a word on the command line means a FILE rather than a LAB."""
    return "/" in selector or selector.endswith((".yaml", ".yml")) or Path(selector).is_file()


def _select(selector: str, rows: list[dict[str, Any]]) -> str:
    if not is_file(selector):
        return selector
    path = str(Path(selector).resolve())
    for row in rows:
        if row["file"] == path:
            return str(row["lab"])
    try:
        return load(selector).name
    except (NetorchError, OSError):
        return Path(selector).name.removesuffix(".yaml").removesuffix(".yml").removesuffix(".netorch")


def _has_node(lab: str, node: str) -> bool:
    for directory in lab_directories(host_id()):
        about = (directory.read_json("lab.json") or {}) if directory.name == lab else {}
        if node in about.get("containers", {}) or node in about.get("groups", {}):
            return True
    return False


def known(lab: str, *, of_any_boot: bool = False) -> tuple[LabKernel, Applied]:
    """A lab that is up, and what was applied; UsageError that names those that are.

    ``of_any_boot``: also one that went with an earlier boot.
    """
    kernel = LabKernel(lab)
    applied = journal_of(kernel).applied(of_any_boot=of_any_boot)
    if applied is None:
        if is_of_earlier_boot(kernel):
            hint = f"netorch up FILE   builds it anew\nnetorch down {lab}   removes its files"
            raise UsageError(f"lab {lab} is gone: the host was started anew since it was up", hint=hint)
        up_labs = ", ".join(row["lab"] for row in labs())
        hint = f"labs: {up_labs}" if up_labs else "netorch up FILE"
        raise UsageError(f"no lab {lab!r} is up", hint=hint)
    kernel.group, kernel.records = applied.group, applied.records
    return kernel, applied


def groups(lab: str) -> dict[str, list[str]]:
    """The scaled names of a lab that is up, each with the containers it stands for."""
    kernel, _ = known(lab)
    found: dict[str, list[str]] = (kernel.directory.read_json("lab.json") or {}).get("groups", {})
    return found


def keep_records(kernel: LabKernel, applied: Applied) -> None:
    """Write down what the kernel's rooms remember, beside the state that was applied."""
    journal_of(kernel).save(Applied(applied.state, kernel.group, kernel.records))


def known_node(lab: str, node: str, applied: Applied) -> Container:
    """A container of the lab; UsageError that names the nearest, and those that are there."""
    found = applied.state.get(f"container {node}")
    if not isinstance(found, Container):
        names = [c.name for c in applied.state.of(Container)]
        raise unknown_node(lab, node, names)
    return found


def unknown_node(lab: str, node: str, names: Sequence[str]) -> UsageError:
    """The error for a name that is none of ``names``."""
    from netns_orch.labfile import hints

    near = hints.mean(node, names)
    there = "there are: " + ", ".join(names[:20]) + (f" and {len(names) - 20} more" if names[20:] else "")
    return UsageError(f"lab {lab} has no container {node!r}", hint=f"{near}\n{there}" if near else there)


def status(lab: str, *, strict: bool = False) -> dict[str, Any]:
    """Desired against the kernel's own state: drift object by object, what is extra, and OOM kills.

    ``warnings`` are what no ``up`` can put right: firewalls of others that drop the lab's packets.
    """
    if missing := _missing_files(LabKernel(lab)):
        return {"lab": lab, "drift": missing, "extra": [], "oom_kills": {}, "warnings": []}
    kernel, applied = known(lab, of_any_boot=True)
    observed = kernel.observe(applied.state, applied.state)
    todo = compare(applied.state, observed)
    drift = [*_drift_outside(kernel), *_lost_way_out(), *(drift_of(change) for change in todo.changes)]
    kernel.warn_of_drops(applied.state)
    extra = [{"object": r.key, "what": "extra"} for r in todo.extra]
    return {
        "lab": lab,
        "drift": drift + (extra if strict else []),
        "extra": extra,
        "oom_kills": kernel.oom_kills(),
        "warnings": [{"what": warning.what, "hint": warning.hint} for warning in kernel.warnings],
    }


def _missing_files(kernel: LabKernel) -> list[dict[str, Any]]:
    """What somebody deleted of the files that say what the lab is: without them nothing can be compared."""
    directory, wanted = kernel.directory, ("lab.json", "state.json")
    if not directory.exists() or directory.lines("journal.jsonl"):
        return []
    missing = [file for file in wanted if not directory.has(file)]
    if len(missing) == len(wanted) and not kernel.has_marks():
        return []
    about = {"what": "missing", "expected": None, "found": None}
    return [{"object": f"file {directory.path}/{file}", **about} for file in missing]


def _drift_outside(kernel: LabKernel) -> list[dict[str, Any]]:
    """The drift of what a private lab has on the host."""
    place = place_of(kernel)
    applied = journal_of(place).applied(of_any_boot=True)
    if applied is None:
        return []
    place.group, place.records = applied.group, applied.records
    place.warn_of_drops(applied.state)
    kernel.warnings += place.warnings
    return [drift_of(c) for c in compare(applied.state, place.observe(applied.state, applied.state)).changes]


def _lost_way_out() -> list[dict[str, Any]]:
    """The drift of a rootless lab whose program for the outside was killed."""
    program = outside.lost()
    return [{"object": "way out", "what": "missing", "expected": program, "found": None}] if program else []


def ps(lab: str) -> list[dict[str, Any]]:
    """The containers, a row each: state, pid, addresses, uptime (s), restarts, OOM kills, exit code."""
    kernel, applied = known(lab)
    labels = (kernel.directory.read_json("lab.json") or {}).get("containers", {})
    ports, wanted = _ports(applied.state), [address.cidr for address in applied.state.of(Address)]
    interfaces = kernel.interfaces(container.name for container in applied.state.of(Container))
    rows = []
    for container in applied.state.of(Container):
        row = {"lab": lab, "name": container.name, **kernel.view(container.name)}
        row["addresses"] = _addresses(interfaces.get(container.name, []), wanted)
        row["ports"] = ports.get(container.name, [])
        row["labels"] = labels.get(container.name, {}).get("labels", {})
        rows.append(row)
    return rows


def _addresses(interfaces: Sequence[Mapping[str, Any]], wanted: Sequence[str]) -> list[str]:
    """The addresses there are: those of the file in its order, then others, but for what every node has."""
    there = {cidr for interface in interfaces for cidr in interface["addresses"]}
    usual = {cidr for cidr in there if (a := ip_interface(cidr)).is_loopback or a.is_link_local}
    known = [cidr for cidr in dict.fromkeys(wanted) if cidr in there]
    return [*known, *sorted(there - usual - {*known})]


def _ports(state: State) -> dict[str, list[str]]:
    """Published ports by container, as ``docker ps`` prints them."""
    found: dict[str, list[str]] = {}
    for port in state.of(PublishedPort):
        text = f"{published(port.address, port.family)}:{port.port}->{port.to_port}/{port.protocol}"
        found.setdefault(port.container, []).append(text)
    return found


def inspect(lab: str, node: str | None = None) -> dict[str, Any]:
    """Everything about a lab or one of its containers, read from the kernel now."""
    from netns_orch import inspection

    kernel, applied = known(lab)
    if node is not None:
        known_node(lab, node, applied)
        return _inspect_node(kernel, applied.state, node)
    about = kernel.directory.read_json("lab.json") or {}
    names = [c.name for c in applied.state.of(Container)]
    observed = kernel.observe(applied.state, applied.state)
    return {
        "lab": lab,
        "file": about.get("file"),
        "netns": about.get("netns"),
        "created": about.get("created"),
        "expires": about.get("expires"),
        "owner": about.get("owner"),
        "directory": kernel.directory.path,
        "group": applied.group,
        "containers": [_inspect_node(kernel, applied.state, name, observed) for name in names],
        "host": inspection.of_node("host", observed),
    }


def _inspect_node(
    kernel: LabKernel, desired: State, node: str, observed: State | None = None
) -> dict[str, Any]:
    from netns_orch.inspection import NETWORK, of_node

    observed = observed or kernel.observe(desired, desired)
    about, own = kernel.anatomy(node), of_node(node, observed)
    if (pod := about["shares_network_of"]) is not None:
        own |= {key: there for key, there in of_node(pod, observed).items() if key in NETWORK}
    interfaces = kernel.interfaces([node]).get(node, [])
    empty: dict[str, Any] = {key: [] for key in ("limits", *NETWORK)}
    return {"lab": kernel.name, "name": node, **about, "interfaces": interfaces, **empty, **own}


def diff(lab: str, node: str) -> list[dict[str, Any]]:
    """What a container changed in its root, by path: ``kind`` (A added, C changed, D deleted), ``path``."""
    kernel, applied = known(lab)
    known_node(lab, node, applied)
    return kernel.diff(node)


def logs(lab: str, node: str, *, follow: bool = False, tail: int | None = None) -> Iterator[bytes]:
    """The output of a container's command, in pieces; ``tail`` is a number of lines."""
    kernel, applied = known(lab)
    known_node(lab, node, applied)
    return kernel.logs(node, follow=follow, tail=tail)
