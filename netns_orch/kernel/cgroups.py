"""The cgroups of a lab: made, limited, measured, emptied and removed, in every hierarchy of the host.

Owns: the tree ``netorch/<lab>.<id>/<container>`` below netorch's own position in each hierarchy; at the top,
where that position is systemd's; in a realm, in the cgroup that the realm was given.
Must not: assume a path; know the names of the kernel's files (``cgrouplimits``, ``cgroupwrites``,
``cgroupusage``) or how directories are marked and controllers handed down (``cgrouptree``).

Marks are extended attributes: the lab's name on its directory, so that it is found with no file of ours; on
a container's, last of all, the limits that were asked for.
"""

from __future__ import annotations

import errno
import json
import os
import signal
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any, TypedDict

from netns_orch.errors import KernelError, NetorchError
from netns_orch.kernel import cgroupfiles as files
from netns_orch.kernel import cgrouplimits, cgroupusage, devicefilter, realm, rights
from netns_orch.kernel import cgrouptree as tree
from netns_orch.kernel import cgroupwrites as writes
from netns_orch.kernel import hierarchies as trees
from netns_orch.kernel.cgroupusage import Usage
from netns_orch.kernel.hierarchies import Hierarchy
from netns_orch.records import replace
from netns_orch.resources import Cgroup, Resource, from_json, to_json

_ACCOUNTED = ("memory", "pids")
"""v2: switched on where that is possible, even without a limit, so that use and OOM kills are counted."""
_EMPTY_TIMEOUT = 10.0
DELEGATE = (
    "systemd is asked for one where the lab file has `resources`; for any lab: "
    "systemd-run --user --scope -p Delegate=yes netorch up ...\nor run it as root"
)
_FREEZE_TIMEOUT = 5.0


class Paths(TypedDict):
    """The cgroup directories of one container."""

    v1: list[str]
    v2: str | None


class Hierarchies:
    """The cgroup trees of this host, as they were when it was made."""

    def __init__(self, found: Sequence[Hierarchy]) -> None:
        self.v1 = [hierarchy for hierarchy in found if hierarchy.version == 1]
        self.v2 = next((hierarchy for hierarchy in found if hierarchy.version == 2), None)
        self.all = [*self.v1, *([self.v2] if self.v2 else [])]
        self._labs: dict[tuple[str, str], list[tuple[Hierarchy, str]]] = {}
        self._found: dict[tuple[str, str], list[tuple[Hierarchy, str]]] = {}
        """The directories of a lab: made or completed by us; found."""
        self._switched: dict[tuple[str, str], set[str]] = {}
        """v2 controllers that were asked for already; those only useful perhaps in vain."""
        self._new: set[tuple[str, str, str]] = set()
        self.filters_devices = True
        """Whether device nodes can be forbidden: on v2 that takes a BPF program, and root."""

    @classmethod
    def detect(cls, proc: str = "/proc/self") -> Hierarchies:
        """Read /proc; KernelError where no hierarchy can be used.

        In the realm of a rootless lab there is v2 alone, and that only where it was delegated to the user (v1
        is not safe to be, cgroup-v1/cgroups.rst): often there is none at all, and then nothing is limited.
        """
        try:
            found = trees.detect(proc)
        except OSError as error:
            raise KernelError(f"cgroups: {error.strerror}", errno=error.errno) from error
        around = realm.inside()
        if around is not None:
            base = around.get("base")  # a lab of netorch 0.1.0's has none, and is found all the same
            v2 = [h for h in found if h.version == 2] if around["cgroups"] else []
            rootless = cls([_moved(h, base) if base else h for h in v2])
            rootless.filters_devices = False
            return rootless
        if not found:
            hint = "mount -t cgroup2 none /sys/fs/cgroup"
            raise KernelError("no cgroup hierarchy is mounted here", hint=hint)
        if trees.is_systemds(found):
            found = [_moved(h, h.mount) if _can_hold(h, h.mount) else h for h in found]
        return cls(found)

    @property
    def version_of(self) -> dict[str, int]:
        """Each controller that limits can use here, and the version it is on."""
        found = dict.fromkeys(self.v2.controllers if self.v2 else (), 2)
        return found | {name: 1 for hierarchy in self.v1 for name in hierarchy.controllers}

    def controllers(self) -> frozenset[str]:
        """Names of the controllers of this host, as v2 says them (``io``, not blkio)."""
        return frozenset(self.version_of)

    # -- making ------------------------------------------------------------------------------------

    def create(self, lab: str, id: str, container: str, limits: Cgroup) -> Paths:
        """Make the container's cgroup in every hierarchy and write its limits, before any process is in it.

        What a killed run left half made is finished; KernelError where a process is in it already.
        """
        cgrouplimits.check(limits, self.version_of)
        with _blaming(limits):
            directories = self._make_lab(lab, id, limits)
            made = [(hierarchy, f"{directory}/{container}") for hierarchy, directory in directories]
            new = [_make_or_take(path, container) for _, path in made]
            self._write_limits(made, limits, before=None)
        if all(new):
            self._new.add((lab, id, container))
        return _paths(made)

    def update(self, lab: str, id: str, before: Cgroup, after: Cgroup) -> None:
        """Bring the limits of a container from ``before`` to ``after``, in place."""
        cgrouplimits.check(after, self.version_of)
        with _blaming(after):
            directories = self._make_lab(lab, id, after)
            made = [(hierarchy, f"{directory}/{after.container}") for hierarchy, directory in directories]
            for _, path in made:
                with suppress(FileExistsError):
                    os.mkdir(path, 0o755)
            self._write_limits(made, after, before=before if before.intact else None)

    def paths(self, lab: str, id: str, container: str) -> Paths:
        """Where the container's cgroups are (whether or not they were made yet)."""
        return _paths([(h, f"{directory}/{container}") for h, directory in self._lab(lab, id)])

    def _make_lab(self, lab: str, id: str, limits: Cgroup) -> list[tuple[Hierarchy, str]]:
        """The lab's directory in every hierarchy, made where it is missing; v2 controllers switched on."""
        key = (lab, id)
        needed = self._needed_v2(limits)
        if key not in self._labs:
            there = dict(self._find_lab(lab, id))
            made = []
            for h in self.all:
                base = tree.base_of(there[h]) if h in there else self._choose_base(h, needed)
                made.append((h, tree.make_lab_directory(h, base, f"{lab}.{id}")))
            self._labs[key] = made
        if self.v2 is not None:
            self._hand_down(key, needed, limits)
        return self._labs[key]

    def _hand_down(self, key: tuple[str, str], needed: set[str], limits: Cgroup) -> None:
        assert self.v2 is not None
        directory = dict(self._labs[key])[self.v2]
        done = self._switched.setdefault(key, set())
        useful = set(_ACCOUNTED) & self.v2.controllers - needed - done
        if useful:
            with suppress(OSError):
                tree.switch_on(directory, useful)
        if needed - done:
            try:
                tree.switch_on(directory, needed)
            except OSError as error:
                raise _cannot_hand_down(directory, needed, limits, error) from error
        done |= useful | needed

    def _needed_v2(self, limits: Cgroup) -> set[str]:
        on_v2 = {name for name, version in self.version_of.items() if version == 2}
        return on_v2 & set(cgrouplimits.controllers_needed(limits))

    def _choose_base(self, hierarchy: Hierarchy, needed: set[str]) -> str:
        """Own position; on v2 the real root, where own position can't hand down what is needed or accounted.

        That is so below systemd: a session's cgroup holds processes, so it may not hand down controllers, and
        slices are systemd's own.  A directory beside them at the root it leaves alone.
        """
        own = hierarchy.position.removesuffix(f"/{tree.PARENT}/{tree.LEAF}")
        if hierarchy.version == 1:
            return own
        possible = [own]
        if hierarchy.is_whole and os.access(hierarchy.mount, os.W_OK):
            possible.append(hierarchy.mount)
        accounted = set(_ACCOUNTED) & hierarchy.controllers
        for names in (needed | accounted, needed):
            for base in possible:
                if tree.can_hand_down(base, names):
                    return base
        return own

    # -- limits --------------------------------------------------------------------------------------

    def _write_limits(
        self, made: Sequence[tuple[Hierarchy, str]], limits: Cgroup, before: Cgroup | None
    ) -> None:
        """Write the groups that differ from ``before`` (None: from a new cgroup), then the mark."""
        start = before or Cgroup(container=limits.container)
        wanted = cgrouplimits.cleared_io(start, limits)
        for group in cgrouplimits.groups(self.version_of):
            fields = group.fields
            if before is None or any(getattr(start, name) != getattr(limits, name) for name in fields):
                if before is None and all(getattr(limits, name) in (None, ()) for name in fields):
                    continue
                writes.write_group(self._directory(made, group.controller), group, wanted)
        self._filter_devices(made, limits, before)
        mark = to_json(limits)
        mark.pop("where", None)
        if made:
            files.set_mark(made[-1][1], json.dumps(mark))

    def _directory(self, made: Sequence[tuple[Hierarchy, str]], controller: str) -> str:
        """The container's directory in the hierarchy that has the controller."""
        return next(path for hierarchy, path in made if controller in hierarchy.controllers)

    def _filter_devices(
        self, made: Sequence[tuple[Hierarchy, str]], limits: Cgroup, before: Cgroup | None
    ) -> None:
        same = before is not None and (
            (before.privileged_devices, before.devices) == (limits.privileged_devices, limits.devices)
        )
        if same or not self.filters_devices:
            return
        rules = None if limits.privileged_devices else devicefilter.rules(limits.devices)
        v1 = next((path for hierarchy, path in made if "devices" in hierarchy.controllers), None)
        if v1 is not None:
            writes.filter_v1(v1, rules)
        elif self.v2 is not None:
            writes.filter_v2(made[-1][1], rules)

    # -- looking -------------------------------------------------------------------------------------

    def labs(self) -> list[tuple[str, str]]:
        """(name, id) of every lab whose mark is on a cgroup of this host, wherever in the trees."""
        found: dict[tuple[str, str], None] = {}
        for hierarchy in self.all:
            for parent in tree.parents(hierarchy):
                for name in trees.children(parent):
                    lab, dot, id = name.rpartition(".")
                    if dot and tree.is_ours(parent, name):
                        found[lab, id] = None
        return list(found)

    def observe(self, lab: str, id: str, desired: Mapping[str, Resource] | None = None) -> dict[str, Cgroup]:
        """The cgroups of a lab by container, as they are.

        Limits are told as they were asked for where the kernel keeps just that; what was asked stands in
        the mark, or, where that is lost, in ``desired`` (by key).
        """
        directories = self._find_lab(lab, id)
        names = [frozenset(trees.children(directory)) for _, directory in directories]
        whole = names[0].intersection(*names) if len(names) == len(self.all) else frozenset[str]()
        placed = [
            (group, directory)
            for group in cgrouplimits.groups(self.version_of)
            for hierarchy, directory in directories
            if group.controller in hierarchy.controllers
        ]
        found = {}
        for name in sorted(frozenset[str]().union(*names)):
            mark = files.mark(f"{directories[-1][1]}/{name}") if name in whole else None
            if mark is None:
                found[name] = Cgroup(container=name, intact=False)
            else:
                found[name] = _limits(placed, name, _asked(mark, name, desired or {}))
        return found

    def _find_lab(self, lab: str, id: str) -> list[tuple[Hierarchy, str]]:
        """The lab's marked directory in each hierarchy that has one: at own position, else anywhere."""
        name = f"{lab}.{id}"
        found = []
        for hierarchy in self.all:
            for parent in tree.parents(hierarchy):
                if os.path.isdir(f"{parent}/{name}") and tree.is_ours(parent, name):
                    found.append((hierarchy, f"{parent}/{name}"))
                    break
        return found

    def _lab(self, lab: str, id: str) -> list[tuple[Hierarchy, str]]:
        key = (lab, id)
        if not self._labs.get(key) and not self._found.get(key):
            self._found[key] = self._find_lab(lab, id)
        return self._labs.get(key) or self._found[key]

    def was_made(self, lab: str, id: str, container: str) -> bool:
        """Whether ``create`` made it whole since this was asked last: then no process can be in it."""
        try:
            self._new.remove((lab, id, container))
        except KeyError:
            return False
        return True

    def processes(self, lab: str, id: str, container: str) -> list[int]:
        """Pids (of the host) of everything in a container, cgroups of its own below it included."""
        pids: dict[int, None] = {}
        for _, directory in self._lab(lab, id):
            pids.update(dict.fromkeys(files.pids_below(f"{directory}/{container}")))
        return list(pids)

    def usage(self, lab: str, id: str, container: str) -> Usage:
        """What the container used so far and uses now."""
        made = {h: f"{directory}/{container}" for h, directory in self._lab(lab, id)}
        fields: dict[str, Any] = {}
        if self.v2 in made:
            fields |= cgroupusage.usage_v2(made[self.v2])
        for hierarchy, path in made.items():
            if hierarchy.version == 1:
                for controller in hierarchy.controllers & set(cgroupusage.BY_CONTROLLER_V1):
                    fields |= cgroupusage.BY_CONTROLLER_V1[controller](path)
        return Usage(**fields)

    def oom_kills(self, lab: str, id: str) -> dict[str, int]:
        """How many processes of each container the OOM killer took; containers without any are left out."""
        found: dict[str, int] = {}
        for hierarchy, directory in self._lab(lab, id):
            if "memory" in hierarchy.controllers:
                for name in sorted(trees.children(directory)):
                    if count := cgroupusage.oom_kills(f"{directory}/{name}"):
                        found[name] = count
        return found

    # -- stopping ------------------------------------------------------------------------------------

    def kill_all(self, lab: str, id: str, container: str) -> None:
        """SIGKILL to everything in a container, frozen or not; returns when all of it is gone.

        A process is in all hierarchies at once, so one of them tells; what somebody has moved out of that one
        by hand keeps its cgroup from being removed, and is found then.
        """
        made = [(h, f"{directory}/{container}") for h, directory in self._lab(lab, id)][-1:]
        deadline = time.monotonic() + _EMPTY_TIMEOUT
        thawed = False
        while pids := _all_pids(made):
            if not thawed:
                self.thaw(lab, id, container)
                thawed = True
            _kill(pids)
            if time.monotonic() > deadline:
                raise KernelError(f"container {container}: {len(pids)} processes did not end on SIGKILL")
            _wait_empty(made, 0.05)

    def freeze(self, lab: str, id: str, container: str) -> None:
        """Stop every process of a container where it is; returns when all stand still."""
        self._freeze(lab, id, container, True)

    def thaw(self, lab: str, id: str, container: str) -> None:
        """Let a frozen container go on; one that was not frozen is fine."""
        self._freeze(lab, id, container, False)

    def frozen(self, lab: str, id: str, container: str) -> bool:
        """Whether a container is frozen, or freezing."""
        able = (d for h, d in self._lab(lab, id) if h.version == 2 or "freezer" in h.controllers)
        return any(is_frozen(f"{directory}/{container}") for directory in able)

    def _freeze(self, lab: str, id: str, container: str, frozen: bool) -> None:
        made = {h: f"{directory}/{container}" for h, directory in self._lab(lab, id)}
        v1 = next((path for h, path in made.items() if "freezer" in h.controllers), None)
        with _named(f"container {container} can't be {'frozen' if frozen else 'thawed'}"):
            if self.v2 in made:
                _set_frozen(f"{made[self.v2]}/cgroup.freeze", "1" if frozen else "0")
                events = f"{made[self.v2]}/cgroup.events"
                check = lambda: f"frozen {int(frozen)}" in (files.read(events) or "")  # noqa: E731
            elif v1 is not None:
                state = "FROZEN" if frozen else "THAWED"
                _set_frozen(f"{v1}/freezer.state", state)
                check = lambda: files.read(f"{v1}/freezer.state") == state  # noqa: E731
            elif frozen:
                raise KernelError(
                    f"container {container} can't be paused: this user has no cgroups", hint=DELEGATE
                )
            else:
                return
            _until(check, _FREEZE_TIMEOUT)

    # -- removing ------------------------------------------------------------------------------------

    def clear(self, lab: str, id: str, container: str) -> None:
        """Remove what a container with ``nesting`` made below its own cgroup, so that it can begin again."""
        with _named(f"the cgroups of container {container} can't be cleared"):
            for hierarchy, directory in self._lab(lab, id):
                path = f"{directory}/{container}"
                files.remove_below(path, time.monotonic() + _EMPTY_TIMEOUT)
                handed_down = files.read(f"{path}/cgroup.subtree_control") if hierarchy.version == 2 else None
                if handed_down:
                    off = " ".join(f"-{name}" for name in handed_down.split())
                    files.write(f"{path}/cgroup.subtree_control", off)

    def remove(self, lab: str, id: str, containers: Iterable[str] | None = None) -> None:
        """Remove the cgroups of these containers (None: all), and with the last one the lab's.

        What is gone already is fine.  A process that is just dying is waited for.
        """
        directories = self._find_lab(lab, id)
        names = None if containers is None else list(containers)
        with _named(f"the cgroups of lab {lab} can't be removed"):
            deadline = time.monotonic() + _EMPTY_TIMEOUT
            for _, directory in directories:
                for name in trees.children(directory) if names is None else names:
                    if not files.is_removed(f"{directory}/{name}"):
                        _kill(files.pids_below(f"{directory}/{name}"))
                        files.remove_tree(f"{directory}/{name}", deadline)
            self._labs.pop((lab, id), None)
            self._found.pop((lab, id), None)
            self._switched.pop((lab, id), None)
            for hierarchy, directory in directories:
                tree.remove_lab(hierarchy, directory)
            if not self._find_lab(lab, id):
                self.remove_empty_parents()

    def remove_empty_parents(self) -> None:
        """Also those whose lab somebody else removed, or that were only announced."""
        for hierarchy in self.all:
            for parent in list(tree.parents(hierarchy)):
                tree.remove_parent(hierarchy, parent)
            for base in tree.announced(hierarchy):
                tree.withdraw(base)


def _moved(hierarchy: Hierarchy, base: str) -> Hierarchy:
    """A hierarchy with labs in another place than this process's own."""
    offered = trees.offered(base) if hierarchy.version == 2 else hierarchy.controllers
    return replace(hierarchy, position=base, controllers=offered)


def _can_hold(hierarchy: Hierarchy, top: str) -> bool:
    """Whether labs can hang at the top of what is mounted: beside systemd's slices it leaves them alone.

    Below a unit of its own that is not delegated it switches controllers off (v2) and moves processes from
    one cgroup to another (v1), whenever it looks at that unit again.
    """
    if not os.access(top, os.W_OK):
        return False
    return hierarchy.version == 1 or tree.can_hand_down(top, set(_ACCOUNTED) & trees.offered(top))


def _paths(made: Sequence[tuple[Hierarchy, str]]) -> Paths:
    v2 = next((path for hierarchy, path in made if hierarchy.version == 2), None)
    return {"v1": [path for hierarchy, path in made if hierarchy.version == 1], "v2": v2}


def _limits(placed: Sequence[tuple[cgrouplimits.Group, str]], name: str, asked: Cgroup) -> Cgroup:
    """The limits of a container as they are; ``placed``: each group and the lab's directory that has it."""
    fields: dict[str, Any] = {}
    for group, directory in placed:
        found = writes.observed_group(f"{directory}/{name}", group, asked)
        fields.update(zip(group.fields, found, strict=True))
    return Cgroup(
        container=name, privileged_devices=asked.privileged_devices, devices=asked.devices, **fields
    )


def _asked(mark: str, name: str, desired: Mapping[str, Resource]) -> Cgroup:
    with suppress(ValueError, TypeError, KeyError):
        asked = from_json(json.loads(mark))
        if isinstance(asked, Cgroup):
            return asked
    fallback = desired.get(f"cgroup {name}")
    return fallback if isinstance(fallback, Cgroup) else Cgroup(container=name)


def _make_or_take(path: str, container: str) -> bool:
    """Whether it was made, and not there already."""
    try:
        os.mkdir(path, 0o755)
        return True
    except FileExistsError:
        if files.pids_below(path):
            raise KernelError(
                f"the cgroup {path} is there already, and processes are in it",
                errno=errno.EEXIST,
                hint="`netorch down` ends them",
            ) from None
        return False


def _cannot_hand_down(lab_directory: str, names: set[str], limits: Cgroup, error: OSError) -> KernelError:
    base = tree.base_of(lab_directory)
    words = ", ".join(sorted(names))
    what = f"container {limits.container}: the cgroup {base} can't hand down {words}: {error.strerror}"
    hint = (
        "run netorch in a cgroup of its own that may: systemd-run --scope -p Delegate=yes netorch up ...\n"
        f"(processes are in {base}, and cgroup v2 wants them in leaves only; in a container move them to a "
        "child cgroup first)"
    )
    return KernelError(what, errno=error.errno, where=limits.where, hint=hint)


def _all_pids(made: Sequence[tuple[Hierarchy, str]]) -> list[int]:
    return list(dict.fromkeys(pid for _, path in made for pid in files.pids_below(path)))


def _wait_empty(made: Sequence[tuple[Hierarchy, str]], seconds: float) -> None:
    path = made[-1][1]
    if os.path.isdir(path):
        files.wait_event(path, seconds)


def _kill(pids: Sequence[int]) -> None:
    """One by one: whoever is born into a cgroup (CLONE_INTO_CGROUP) in which ``cgroup.kill`` was ever written
    is killed at once by Linux 6.18, and a container made anew begins in the cgroup that it had."""
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def is_frozen(directory: str) -> bool:
    """Whether a cgroup is frozen itself, or freezing (v1: freezer.state, v2: cgroup.freeze)."""
    return (files.read(f"{directory}/cgroup.freeze") or files.read(f"{directory}/freezer.state")) in (
        "1",
        "FROZEN",
        "FREEZING",
    )


def _set_frozen(file: str, text: str) -> None:
    with suppress(FileNotFoundError):
        files.write(file, text)


def _until(check: Callable[[], bool], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    pause = 0.0005
    while not check():
        if time.monotonic() > deadline:
            raise TimeoutError(errno.ETIMEDOUT, os.strerror(errno.ETIMEDOUT))
        time.sleep(pause)
        pause = min(pause * 2, 0.05)


@contextmanager
def _blaming(limits: Cgroup) -> Iterator[None]:
    """What fails is told as this container's, at its place in the lab file."""
    try:
        with _named(f"the cgroup of container {limits.container} can't be made"):
            yield
    except NetorchError as error:
        raise error.at(limits.where) from error.__cause__


@contextmanager
def _named(what: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        place = f" ({error.filename})" if error.filename else ""
        refused = error.errno in (errno.EACCES, errno.EPERM, errno.EROFS)
        mend = DELEGATE if realm.inside() else rights.how_to_get(rights.container(), rights.is_devcontainer())
        hint = mend if refused else None
        raise KernelError(f"{what}: {error.strerror}{place}", errno=error.errno, hint=hint) from error
