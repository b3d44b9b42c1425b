"""The directories ``netorch/<lab>.<id>`` in one hierarchy, and the controllers that v2 hands down to them.

Owns: making and removing them so that at no instant one is there without a sign of whose it is; what is
switched on in a v2 ancestor, and switched off again by the last lab.
Must not: touch a directory that bears no mark; know containers or limits.

A directory about to be made is announced on its parent first: a kill in between leaves no orphan.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from netns_orch.errors import KernelError
from netns_orch.kernel import cgroupfiles as files
from netns_orch.kernel import filelock, realm
from netns_orch.kernel import hierarchies as trees
from netns_orch.kernel.hierarchies import Hierarchy

PARENT = "netorch"
LEAF = ".netorch"
"""v2: where netorch's own processes go when their cgroup must be an inner node."""
_NO_SETTINGS = (".pressure", ".peak", ".reclaim")
_PATIENCE = 30.0
"""Seconds to wait for a lock."""


def base_of(lab_directory: str) -> str:
    """The cgroup that a lab's directory hangs in."""
    return os.path.dirname(os.path.dirname(lab_directory))


def parents(hierarchy: Hierarchy) -> Iterator[str]:
    """Every directory ``netorch`` of a hierarchy, that at own position first."""
    own = f"{hierarchy.position.removesuffix(f'/{PARENT}/{LEAF}')}/{PARENT}"
    if os.path.isdir(own):
        yield own
    yield from (path for path in trees.find(hierarchy.mount, PARENT) if path != own)


def is_empty(parent: str) -> bool:
    """Whether a directory ``netorch`` is ours, and no lab is in it."""
    return not _labs_in(parent) and is_ours(os.path.dirname(parent), PARENT)


def _labs_in(parent: str) -> list[str]:
    return [name for name in trees.children(parent) if name != LEAF]


def announced(hierarchy: Hierarchy) -> Iterator[str]:
    """Own position, where a directory was announced and never made."""
    base = hierarchy.position.removesuffix(f"/{PARENT}/{LEAF}")
    if files.mark(base, ".making") == PARENT and not os.path.isdir(f"{base}/{PARENT}"):
        yield base


def withdraw(base: str) -> None:
    """Take an announcement back, unless the directory has been made meanwhile."""
    with _locked(base):
        if not os.path.isdir(f"{base}/{PARENT}"):
            files.remove_mark(base, ".making")


@contextmanager
def _locked(base: str) -> Iterator[None]:
    """Labs that share a base take turns, for microseconds: to make directories, to switch controllers.

    Whoever may read the directory can hold its lock: KernelError rather than to wait for him for ever.
    """
    descriptor = os.open(base, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        if not filelock.take(descriptor, _PATIENCE):
            what = f"somebody holds the lock of {base} for more than {_PATIENCE:g} s"
            raise KernelError(what, hint=f"fuser -v {base}   tells who")
        yield
    finally:
        os.close(descriptor)


def make_lab_directory(hierarchy: Hierarchy, base: str, name: str) -> str:
    """Make ``netorch/<name>`` below ``base``; KernelError where a directory of somebody else's is there."""
    parent = f"{base}/{PARENT}"
    directory = f"{parent}/{name}"
    with _locked(base):
        _make_marked(base, PARENT, "labs", must_be_ours=False)
        _inherit_cpuset(hierarchy, base, parent)
        _make_marked(parent, name, name)
        _inherit_cpuset(hierarchy, parent, directory)
    return directory


def _make_marked(parent: str, name: str, mark: str, *, must_be_ours: bool = True) -> None:
    """Make a directory so that at no instant it is there without a sign of whose it is."""
    path = f"{parent}/{name}"
    if os.path.isdir(path):
        if is_ours(parent, name):
            files.set_mark(path, mark)
        elif must_be_ours:
            raise KernelError(
                f"the cgroup {path} is there and is not netorch's", hint="give --name another name"
            )
        return
    files.set_mark(parent, name, ".making")
    os.mkdir(path, 0o755)
    files.set_mark(path, mark)
    files.remove_mark(parent, ".making")


def is_ours(parent: str, name: str) -> bool:
    """Whether a directory bears a mark, or was just being made when its maker was killed."""
    return files.mark(f"{parent}/{name}") is not None or files.mark(parent, ".making") == name


def _inherit_cpuset(hierarchy: Hierarchy, parent: str, directory: str) -> None:
    """v1: a new cpuset is empty, and no process can enter it; from here on children copy their parent's."""
    if hierarchy.version == 2 or "cpuset" not in hierarchy.controllers:
        return
    for file in ("cpuset.cpus", "cpuset.mems"):
        if not files.read(f"{directory}/{file}"):
            files.write(f"{directory}/{file}", files.read(f"{parent}/{file}") or "0")
    files.write(f"{directory}/cgroup.clone_children", "1")


def remove_lab(hierarchy: Hierarchy, directory: str) -> None:
    """Remove the lab's directory if no container is left in it, and the parent if no lab is."""
    try:
        with _locked(base_of(directory)):
            if trees.children(directory):
                return
            files.rmdir(directory)
    except FileNotFoundError:
        return  # another `down` was there first
    remove_parent(hierarchy, os.path.dirname(directory))


def remove_parent(hierarchy: Hierarchy, parent: str) -> None:
    """Where no lab of ours is left: switch off what was switched on; a ``netorch`` of ours goes too."""
    base = os.path.dirname(parent)
    if not is_ours(base, PARENT) and files.mark(parent, ".switched") is None:
        return  # somebody else's, who may also hold its lock for ever
    try:
        with _locked(base):
            if any(is_ours(parent, name) for name in _labs_in(parent)):
                return
            if hierarchy.version == 2:
                _switch_off(base, parent)
            if is_empty(parent):
                files.rmdir(parent)
                files.remove_mark(base, ".making")
    except FileNotFoundError:
        return


def _words(path: str) -> set[str]:
    return set((files.read(path) or "").split())


def can_hand_down(directory: str, needed: set[str]) -> bool:
    """Whether children of this cgroup can have these controllers."""
    if needed <= _words(f"{directory}/cgroup.subtree_control"):
        return True
    if not needed <= _words(f"{directory}/cgroup.controllers"):
        return False
    return _is_root(directory) or set(files.pids(directory)) <= _family()


def _is_root(directory: str) -> bool:
    """Whether it is the real root of v2, which alone may hold processes beside children with controllers."""
    return not os.path.exists(f"{directory}/cgroup.type")


def switch_on(lab_directory: str, names: set[str]) -> None:
    """Hand controllers down from the base to the lab's containers, and remember what was off before.

    netorch's own processes make room in the base; OSError (EBUSY) where others are in it.
    """
    names = names - _words(f"{lab_directory}/cgroup.subtree_control")
    if names:
        base = base_of(lab_directory)
        with _locked(base):
            _hand_down(base, os.path.dirname(lab_directory), lab_directory, names)


def _hand_down(base: str, parent: str, lab_directory: str, names: set[str]) -> None:
    # With processes in the base the kernel refuses memory or io, but hands down cpu or pids: then the base is
    # the root of a threaded subtree, and no process can enter what is below (cgroup-v2.rst, Threads).
    if not _is_root(base) and files.pids(base) and not _step_aside(base, parent):
        raise OSError(errno.EBUSY, os.strerror(errno.EBUSY), f"{base}/cgroup.subtree_control")
    before = _words(f"{base}/cgroup.subtree_control")
    switched = set((files.mark(parent, ".switched") or "").split()) | (names - before)
    files.set_mark(parent, " ".join(sorted(switched)), ".switched")
    text = " ".join(f"+{name}" for name in sorted(names))
    for directory in (base, parent, lab_directory):
        files.write(f"{directory}/cgroup.subtree_control", text)


def _family() -> set[int]:
    """This process and all that came from it; in a realm, all that is in it."""
    children: dict[int, list[int]] = {}
    for name in os.listdir("/proc"):
        if name.isdecimal():
            stat = files.read(f"/proc/{name}/stat")
            if stat:
                children.setdefault(int(stat.rpartition(")")[2].split()[1]), []).append(int(name))
    found: set[int] = set()
    around = realm.inside()
    stack = [os.getpid(), *([around["pid"]] if around else [])]
    while stack:
        pid = stack.pop()
        found.add(pid)
        stack += children.get(pid, [])
    return found


def _step_aside(base: str, parent: str) -> bool:
    """Move netorch's own processes out of ``base``, where there are no others: inner nodes hold none."""
    pids = files.pids(base)
    if not set(pids) <= _family():
        return False
    leaf = f"{parent}/{LEAF}"
    with suppress(FileExistsError):
        os.mkdir(leaf, 0o755)
    for pid in pids:
        with suppress(ProcessLookupError):
            files.write(f"{leaf}/cgroup.procs", str(pid))
    return True


def _is_used_beside(base: str, parent: str, controller: str) -> bool:
    """Whether a cgroup beside ours was given a setting of this controller, which would go with it.

    systemd, say, found it switched on.  (Where one hands it down further, the kernel refuses to take it.)
    """
    usual = _settings(parent, controller)
    beside = (f"{base}/{name}" for name in trees.children(base) if name != PARENT)
    return any(_settings(path, controller) != usual for path in beside)


def _settings(directory: str, controller: str) -> dict[str, str | None]:
    """What is set in a cgroup by the files of a controller; statistics that can be written to are none."""
    found = {}
    with suppress(FileNotFoundError):
        for name in os.listdir(directory):
            if name.startswith(f"{controller}.") and not name.endswith(_NO_SETTINGS):
                path = f"{directory}/{name}"
                if os.stat(path).st_mode & 0o200:
                    found[name] = files.read(path)
    return found


def _switch_off(base: str, parent: str) -> None:
    """Take back what was switched on for labs and is used by nobody beside, and go home from the leaf."""
    switched = set((files.mark(parent, ".switched") or "").split())
    switched = {name for name in switched if not _is_used_beside(base, parent, name)}
    own = is_ours(base, PARENT)
    for directory, names in (
        (parent, _words(f"{parent}/cgroup.subtree_control") if own else switched),
        (base, switched),
    ):
        for name in sorted(names):
            with suppress(OSError):  # somebody else's cgroup came to use it: then it stays
                files.write(f"{directory}/cgroup.subtree_control", f"-{name}")
    leaf = f"{parent}/{LEAF}"
    if os.path.isdir(leaf):
        for pid in files.pids(leaf):
            with suppress(ProcessLookupError):
                files.write(f"{base}/cgroup.procs", str(pid))
        files.rmdir(leaf)
    files.remove_mark(parent, ".switched")
