"""How the realm of a rootless lab comes to be; and its files cleaned up after its end.

Owns: starting the holder, the ids, ``holder.json``, what to say where user namespaces are not allowed.
Must not: enter a realm (``realm``), or know what a lab is made of.
"""

from __future__ import annotations

import errno
import json
import os
import pickle
import socket
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal, NamedTuple, NoReturn, TypeVar

from netns_orch.errors import KernelError, NetorchError, PermissionNeeded
from netns_orch.kernel import cgrouptree, hierarchies, idmap, realm, rights, rundir, userdir, userscope
from netns_orch.kernel import syscalls as sc
from netns_orch.kernel.realm import Realm

T = TypeVar("T")
_PATIENCE = 120.0
"""Seconds that the holder may take for a step."""
_SWITCHES = (
    (
        "kernel/unprivileged_userns_clone",
        "0",
        "sysctl kernel.unprivileged_userns_clone is 0: only root may make user namespaces",
        "sysctl -w kernel.unprivileged_userns_clone=1",
    ),
    (
        "user/max_user_namespaces",
        "0",
        "sysctl user.max_user_namespaces is 0: nobody may make user namespaces",
        "sysctl -w user.max_user_namespaces=15000",
    ),
    (
        "kernel/apparmor_restrict_unprivileged_userns",
        "1",
        "sysctl kernel.apparmor_restrict_unprivileged_userns is 1: AppArmor leaves a user namespace of an "
        "ordinary user without rights",
        "sysctl -w kernel.apparmor_restrict_unprivileged_userns=0, or an AppArmor profile for netorch "
        "with `userns,`",
    ),
)
_FORBIDDEN = (errno.EPERM, errno.EACCES, errno.ENOSPC, errno.EUSERS)
_SYSCTLS = Path("/proc/sys")


def found(lab: str, *, limits: bool = False) -> Realm:
    """The realm of a lab, opened and in use by this process; made where there is none.

    With ``limits`` it is to have cgroups: where this process's own is not delegated, systemd is asked.
    PermissionNeeded where this host lets no ordinary user have a realm.
    """
    here = Realm(lab)
    with realm.held():
        if not here.open():
            _forget(here)
            _make(here, _cgroups(lab, limits))
        here.use()
    return here


def clean() -> list[str]:
    """Remove the files of realms whose holder was killed; the names of their labs."""
    gone: list[str] = []
    if not userdir.names():
        return gone
    with realm.held():
        for lab in userdir.names():
            here = Realm(lab)
            if here.open():
                os.close(here.pidfd)
            else:
                _forget(here)
                gone.append(lab)
    return gone


def _forget(here: Realm) -> None:
    """Remove the files of a realm that has ended, also those of the subordinate ids that it had."""
    with suppress(OSError, NetorchError):  # systemd removes them meanwhile, or another lab needs them
        _remove_cgroups(here)
    try:
        here.forget()
    except KernelError:
        _with_ids(here.forget)


def _remove_cgroups(here: Realm) -> None:
    """Remove the cgroups of a realm that has ended; what its last lab switched on is switched off again."""
    about = here.about
    if not about.get("cgroups") or about.get("boot_id") != rundir.boot_id():
        return
    base = about["base"]
    hierarchy = hierarchies.Hierarchy(2, frozenset(), base, base)
    parent = f"{base}/{cgrouptree.PARENT}"
    for name in here.labs():  # others of this name, in another of this user's run directories, are not meant
        if not cgrouptree.is_ours(parent, name):
            continue
        for directory, _, _ in os.walk(f"{parent}/{name}", topdown=False):
            if directory != f"{parent}/{name}":
                os.rmdir(directory)
        cgrouptree.remove_lab(hierarchy, f"{parent}/{name}")


def _with_ids(function: Callable[[], None]) -> None:
    """Call a function as root of a user namespace with all ids of this user, in a process of its own."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    pid = os.fork()
    if not pid:
        try:
            sc.unshare(sc.CLONE_NEWUSER)
            theirs.send(b"user")
            theirs.recv(64)
            os.setresgid(0, 0, 0)
            os.setresuid(0, 0, 0)
            function()
            os._exit(0)
        finally:
            os._exit(1)
    theirs.close()
    try:
        if ours.recv(64):
            idmap.write(pid)
            ours.send(b"mapped")
    finally:
        ours.close()
        _, status = os.waitpid(pid, 0)
    if status:
        what = "the files of a lab that has ended can't be removed"
        raise KernelError(what, hint=f"look at {userdir.top()}")


class Way(NamedTuple):
    """How the labs of this user come to a cgroup that they can divide."""

    kind: Literal["own", "scope", "none"]
    """This process's own; a scope that systemd makes; there is none."""
    lack: str | None = None
    """Why there is none."""
    controllers: frozenset[str] = frozenset()


def way_to_cgroups() -> Way:
    """Which way there is here, for labs with limits."""
    own = _own_cgroup()
    if own is None:
        return Way("none", "no cgroup v2 here, and v1 is not safe to delegate")
    writable = hierarchies.is_writable(own.position) and not userscope.is_inside()
    own_way = Way("own", None, hierarchies.offered(own.position))
    if writable and (hierarchies.is_delegated(own) or userscope.is_delegated(own.position)):
        return own_way
    lack = userscope.lack() if own.controllers else "the cgroup v2 of this host has no controllers"
    if lack is None:
        return Way("scope", None, hierarchies.offered(userscope.manager(own.mount)) or own.controllers)
    return own_way if writable else Way("none", lack)


def _cgroups(lab: str, limits: bool) -> dict[str, Any]:
    """Where a lab's cgroups are to hang, as ``Realm.about`` has it; this process may be moved there."""
    way = way_to_cgroups()
    own, lack = _own_cgroup(), way.lack
    if way.kind == "scope" and limits:
        try:
            return _about_cgroups(userscope.start(lab))
        except userscope.Refused as refused:
            lack = str(refused)
    if own and hierarchies.is_writable(own.position) and not userscope.is_inside():
        return _about_cgroups(None)
    if way.kind == "scope" and not limits:
        lack = "it came up without any limit: netorch down, then up again"
    return {"cgroups": False, "undelegated": lack}


def _own_cgroup() -> hierarchies.Hierarchy | None:
    return next((hierarchy for hierarchy in hierarchies.detect() if hierarchy.version == 2), None)


def _about_cgroups(unit: str | None) -> dict[str, Any]:
    own = _own_cgroup()
    assert own is not None, "it was there before"
    base = own.position.removesuffix(f"/{cgrouptree.PARENT}/{cgrouptree.LEAF}")
    place = userscope.position().removesuffix(f"/{cgrouptree.PARENT}/{cgrouptree.LEAF}")
    by_user_manager = f"/user@{os.getuid()}.service/" in base
    return {
        "cgroups": True,
        "base": base,
        "place": place,
        "unit": unit or (os.path.basename(base) if by_user_manager else None),
        "own": unit is not None,
        "bus": userscope.address(),
        "leaf": f"{cgrouptree.PARENT}/{cgrouptree.LEAF}",
    }


def _make(here: Realm, cgroups: dict[str, Any]) -> None:
    run = f"{here.directory}/run"
    os.mkdir(here.directory, 0o700)
    os.mkdir(run)
    os.chmod(run, 0o755)
    try:
        _start(here, run, cgroups)
    except BaseException:
        if here.pidfd >= 0:
            here.end()
        else:
            here.forget()
        raise


def _start(here: Realm, run: str, cgroups: dict[str, Any]) -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.settimeout(_PATIENCE)
    program = Path(__file__).with_name("holder.py")
    with ours:
        with theirs:
            process = subprocess.Popen(
                [sys.executable, "-I", "-S", "-B", str(program), str(theirs.fileno()), run],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )
        try:
            about = _told(here, ours, process.pid) | cgroups
        except BaseException:
            ours.close()  # whoever waits for a word ends
            raise
        finally:
            process.wait()
        rundir.replace_file(f"{run}/{os.path.basename(userdir.SIGN)}", json.dumps(about))
        rundir.replace_file(f"{here.directory}/holder.json", json.dumps(about))
        ours.send(b"keep")


def _told(here: Realm, channel: socket.socket, maker: int) -> dict[str, Any]:
    """Lead the holder through its steps; what there is to know about it."""
    _hear(channel, "user")
    try:
        ids = idmap.write(maker)
    except KernelError as error:
        raise refused(error.errno or 0, "map your user ids") from error
    channel.send(b"mapped")
    pid = int(_hear(channel, "pid"))
    here.pidfd = os.pidfd_open(pid)
    channel.send(b"go")
    _hear(channel, "ready")
    return {
        "lab": here.lab,
        "top": here.top,
        "pid": pid,
        "start_time": realm.start_time(pid),
        "boot_id": rundir.boot_id(),
        "uid": os.getuid(),
        "ids": ids,
    }


def _hear(channel: socket.socket, wanted: str) -> str:
    """What follows the word ``wanted``; KernelError or PermissionNeeded where the holder failed."""
    try:
        word, _, rest = channel.recv(4096).decode().partition(" ")
    except TimeoutError:
        what = f"the process that holds the lab's namespaces did not get to '{wanted}' in {_PATIENCE:g} s"
        raise KernelError(what) from None
    except OSError:
        word, rest = "", ""
    if word == wanted:
        return rest
    if word != "error":
        raise KernelError("the process that holds the lab's namespaces ended before it held them")
    number, _, doing = rest.partition(" ")
    raise refused(int(number), doing)


def refused(number: int, doing: str) -> PermissionNeeded | KernelError:
    """Why an ordinary user can't have a realm here, and how to mend it."""
    for name, value, what, how in _SWITCHES if number in _FORBIDDEN else ():
        try:
            there = (_SYSCTLS / name).read_text().strip()
        except OSError:
            continue
        if there == value:
            hint = f"or allow it, as root: {how}"
            return PermissionNeeded(f"a rootless lab can't be made: {what}", hint=hint)
    reason = os.strerror(number)
    if number in _FORBIDDEN:
        return PermissionNeeded(
            f"a rootless lab can't be made: could not {doing}: {reason}",
            hint="all user namespaces are in use: sysctl user.max_user_namespaces"
            if number == errno.ENOSPC
            else f"something forbids it here: {_who_forbids()}",
        )
    return KernelError(f"a rootless lab can't be made: could not {doing}: {reason}", errno=number)


def _who_forbids() -> str:
    chroot = "this is a chroot, and the kernel lets nobody in one make user namespaces"
    if rights.is_chroot():
        return f"{chroot}; run it outside, or as root"
    engine, devcontainer = rights.container(), rights.is_devcontainer()
    if engine or devcontainer:
        return f"the engine of this container; {rights.how_to_get(engine, devcontainer)}"
    if not rights.is_filtered():
        return f"a security module, or {chroot}"
    return "a container's seccomp filter, a security module"


def call_in(lab: str, function: Callable[[], T]) -> T:
    """Call a function in the realm of a lab, in a process of its own; what it returns or raises."""
    read, write = os.pipe()
    pid = os.fork()
    if not pid:
        os.close(read)
        _answer(Realm(lab), function, write)
    os.close(write)
    with open(read, "rb") as stream:
        data = stream.read()
    os.waitpid(pid, 0)
    if not data:
        raise KernelError(f"the namespaces of lab {lab} ended meanwhile")
    good, value = pickle.loads(data)  # of our own child
    if not good:
        raise value
    result: T = value
    return result


def _answer(here: Realm, function: Callable[[], object], write: int) -> NoReturn:
    answer: tuple[bool, object]
    try:
        if not here.open():
            os._exit(1)
        here.enter()
        try:
            answer = True, function()
        finally:
            here.leave()
    except NetorchError as error:
        answer = False, error
    except BaseException as error:  # noqa: BLE001 - nothing may unwind into the caller's code
        answer = False, KernelError(f"{type(error).__name__}: {error}")
    with open(write, "wb") as stream:
        stream.write(pickle.dumps(answer))
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)
