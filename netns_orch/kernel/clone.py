"""How the first process of a container comes to be: cloned into new namespaces, perhaps by way of others.

Owns: the flags, the cgroup it is born in, clock offsets, user namespaces, and the process that stays
outside where the command itself is to be PID 1.
Must not: know what the first process then does.

``first_process`` returns twice, as fork(2) does: in the zygote, and in the new process (``pid`` 0).

A user namespace is made by a process in between: it owns what is made by those inside it, so it has to be
there before the others.  Where the container joins a network namespace that has an owner already, it joins
that one: in any other it could not administer its network.
"""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import socket
from contextlib import suppress

from netns_orch.kernel import syscalls as sc

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

IDS = 65536
"""How many ids a user namespace of a container has; in the realm of a rootless lab, all that one has."""
_ALWAYS = sc.CLONE_NEWUTS | sc.CLONE_NEWIPC | sc.CLONE_NEWPID | sc.CLONE_NEWCGROUP
_GO = b"go"


class First:
    """The first process as its maker sees it; ``pid`` is 0 in that process itself."""

    __slots__ = ("first_id", "pid", "pidfd", "user")

    def __init__(self, pid: int, pidfd: int = -1, user: int = -1, first_id: int | None = None) -> None:
        self.pid = pid
        self.pidfd = pidfd
        self.user = user
        """A descriptor of its user namespace; -1: the host's own."""
        self.first_id = first_id
        """The host's id of root inside; None: 0 itself."""

    def close(self) -> None:
        """Let go of the user namespace; ``pidfd`` stays."""
        if self.user >= 0:
            os.close(self.user)
            self.user = -1


def in_proc(pid: int, pidfd: int = -1) -> int:
    """The number of a process in /proc: in a realm (``realm``) it is not the one known here.

    ``pidfd`` is a descriptor of it, where there is one.
    """
    if os.readlink("/proc/self") == str(os.getpid()):
        return pid
    descriptor = pidfd if pidfd >= 0 else sc.pidfd_open(pid)
    try:
        with open(f"/proc/self/fdinfo/{descriptor}", "rb") as file:
            return next(int(line.split()[1]) for line in file if line.startswith(b"Pid:"))
    finally:
        if pidfd < 0:
            os.close(descriptor)


def is_ordinary(order: dict[str, Any]) -> bool:
    """Whether a single system call makes the first process, and that one is to be a sibling of the others."""
    special = order["join_netns"] or order["spec"]["time_offsets"] or order["first_id"] is not None
    return not special and bool(order["init"])


def ordinary(cgroup: int | None) -> sc.Clone:
    """That system call, ready."""
    return sc.Clone(_ALWAYS | sc.CLONE_NEWNET | sc.CLONE_PIDFD, cgroup=cgroup)


def first_process(order: dict[str, Any], cgroup: int | None) -> First:
    """Clone it into its v2 cgroup (a descriptor), still in the mount namespace of the host.

    The caller is in its v1 cgroups already.
    """
    network = os.open(order["join_netns"], os.O_RDONLY | os.O_CLOEXEC) if order["join_netns"] else -1
    ways = []
    inside = False
    try:
        if network >= 0:
            ways.append(_enter_network(network))
        if order["spec"]["time_offsets"]:
            ways.append(_enter_time(order["spec"]["time_offsets"]))
        flags = _ALWAYS | (0 if network >= 0 else sc.CLONE_NEWNET)
        first = _clone(order, flags, cgroup, network)
        inside = not first.pid
        return first
    finally:
        for way, kind in ways:
            if not inside:  # the child stays where it was born
                sc.setns(way, kind)
            os.close(way)
        if network >= 0:
            os.close(network)


def _clone(order: dict[str, Any], flags: int, cgroup: int | None, network: int) -> First:
    if order["first_id"] is None:
        return First(*sc.clone3(flags | sc.CLONE_PIDFD, cgroup=cgroup))
    owner = owner_of(network) if network >= 0 else -1
    return _clone_inside(order["first_id"], flags, cgroup, owner)


# -- namespaces that are entered, and left again ---------------------------------------------------


def _enter_network(network: int) -> tuple[int, int]:
    own = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    sc.setns(network, sc.CLONE_NEWNET)
    return own, sc.CLONE_NEWNET


def _enter_time(offsets: dict[str, float]) -> tuple[int, int]:
    """Children are born with these clock offsets (time_namespaces(7))."""
    own = os.open("/proc/self/ns/time", os.O_RDONLY | os.O_CLOEXEC)
    sc.unshare(sc.CLONE_NEWTIME)
    lines = []
    for clock, seconds in offsets.items():
        whole = int(seconds // 1)
        lines.append(f"{clock} {whole} {int((seconds - whole) * 1e9)}\n")
    sc.write_file("/proc/self/timens_offsets", "".join(lines).encode())
    return own, sc.CLONE_NEWTIME


# -- user namespaces -----------------------------------------------------------------------------


def owner_of(network: int) -> int:
    """A descriptor of the user namespace that owns a network namespace; -1: it is our own."""
    owner = fcntl.ioctl(network, sc.NS_GET_USERNS)
    if os.fstat(owner).st_ino == os.stat("/proc/self/ns/user").st_ino:
        os.close(owner)
        return -1
    return owner


def _clone_inside(first_id: int, flags: int, cgroup: int | None, owner: int) -> First:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    middle, _ = sc.clone3(0, cgroup=cgroup)
    if not middle:
        ours.close()
        return _middle(theirs, flags, owner)
    theirs.close()
    user = -1
    try:
        _heard(ours)
        seen = in_proc(middle)
        if owner < 0:
            _map(seen, first_id)
        else:
            first_id = _mapped(seen)
        user = os.open(f"/proc/{seen}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
        ours.send(_GO)
        pid = int(_heard(ours))
        return First(pid, sc.pidfd_open(pid), user, first_id)
    except OSError:
        if user >= 0:
            os.close(user)
        raise
    finally:
        ours.close()
        if owner >= 0:
            os.close(owner)


def _middle(channel: socket.socket, flags: int, owner: int) -> First:
    """Enter the user namespace, become its root, and make the first process as a sibling."""
    try:
        sc.prctl(sc.PR_SET_PDEATHSIG, signal.SIGKILL)
        if owner >= 0:
            sc.setns(owner, sc.CLONE_NEWUSER)
        else:
            sc.unshare(sc.CLONE_NEWUSER)
        channel.send(_GO)
        if channel.recv(64) != _GO:
            os._exit(1)
        with suppress(PermissionError):  # where the namespace around it allows none to be given up
            os.setgroups([])
        os.setresgid(0, 0, 0)
        os.setresuid(0, 0, 0)
        sc.prctl(sc.PR_SET_PDEATHSIG, signal.SIGKILL)
        pid, _ = sc.clone3(flags | sc.CLONE_PARENT, exit_signal=0)
        if not pid:
            channel.close()
            return First(0)
        channel.send(b"%d" % pid)
    except OSError as error:
        channel.send(b"-%d" % (error.errno or errno.EIO))
    except BaseException:  # noqa: BLE001 - nothing may unwind into the zygote's loop
        channel.send(b"-%d" % errno.EIO)
    os._exit(0)


def _heard(channel: socket.socket) -> bytes:
    """What the process in between says; an OSError where it failed or is gone."""
    data = channel.recv(64)
    if not data or data.startswith(b"-"):
        number = int(data[1:] or errno.ECHILD)
        raise OSError(number, os.strerror(number))
    return data


def _map(pid: int, first_id: int) -> None:
    """Give a new user namespace its ids (user_namespaces(7)); from 0 on: the same as around it."""
    for kind in ("uid", "gid"):
        text = b"0 %d %d\n" % (first_id, IDS) if first_id else _same_ids(kind)
        sc.write_file(f"/proc/{pid}/{kind}_map", text)


def _same_ids(kind: str) -> bytes:
    with open(f"/proc/self/{kind}_map", "rb") as file:
        rows = [line.split() for line in file]
    return b"".join(b"%b %b %b\n" % (first, first, count) for first, _, count in rows)


def _mapped(pid: int) -> int:
    with open(f"/proc/{pid}/uid_map", "rb") as file:
        return int(file.readline().split()[1])
