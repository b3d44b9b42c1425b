"""The realm of a rootless lab: the namespaces of its own that hold all of it, and the way in.

Owns: who holds a realm and whether he lives, entering it, its end.
Must not: make one (``founding`` does), import more than ``exec`` can carry, or know what a lab is made of.

An ordinary user has no rights over the host's namespaces, but all over what a user namespace of his owns.  So
each lab of his has a user namespace, and in it a mount, network, time and pid namespace, held by one process:
PID 1 of that pid namespace (``holder``).  What the lab is made of is born in that pid namespace, so it ends
with the holder, whatever ends that (pid_namespaces(7)).

Commands enter the others (one setns(2) by pidfd), and find there what root finds on a host: the lab's bridges
are in the realm's network namespace.  They stay in the host's pid namespace, and /proc is the host's: a pid
means the same inside and outside, and nobody has to be forked, waited for and given signals.
"""

from __future__ import annotations

import errno
import fcntl
import os
import select
from contextlib import contextmanager, suppress

from netns_orch.kernel import syscalls as sc
from netns_orch.kernel import userdir
from netns_orch.kernel.uplabs import read_json

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

SCOPE = (
    "the lab's cgroups are delegated to you, but no process of this session may go there (cgroup-v2.rst, "
    "Delegation Containment), and systemd did not bring it there: systemd-run --user --scope netorch ..."
)
NAMESPACES = sc.CLONE_NEWUSER | sc.CLONE_NEWNS | sc.CLONE_NEWNET
_SIGKILL = 9
_END_TIMEOUT = 30_000
"""Milliseconds."""


def inside() -> dict[str, Any] | None:
    """About the realm that this process is in; None: it is in none."""
    found: dict[str, Any] | None = read_json(userdir.SIGN)
    return found


def join() -> None:
    """Go to the realm's cgroup, where else nobody whom this process starts could be in those below it.

    For a process that is in the realm, before it starts others.  Where systemd does not bring it there, the
    kernel's own refusal is what the user is told, with ``SCOPE``.
    """
    around = inside()
    if around is None or not around.get("base"):
        return
    from netns_orch.kernel import userscope

    if not userscope.may_go(around["base"], around["place"]):
        with suppress(userscope.Refused):
            userscope.attach(around)


def boot_id() -> str:
    """As ``rundir.boot_id``."""
    with open("/proc/sys/kernel/random/boot_id", "rb") as file:
        return file.read().decode().strip()


def with_time() -> int:
    """CLONE_NEWTIME where the kernel has time namespaces, else 0."""
    return sc.CLONE_NEWTIME if os.path.exists("/proc/self/ns/time") else 0


def start_time(pid: int) -> int | None:
    """Field 22 of proc_pid_stat(5); None: no such process, or a dead one."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if fields[0] in (b"Z", b"X") else int(fields[19])


def _is_dying(pid: int, pidfd: int) -> bool:
    """Whether a holder was killed, has left its namespaces and waits for the others of its pid namespace.

    It is waited for: then nobody is left.
    """
    if os.path.exists(f"/proc/{pid}/ns/net"):
        return False
    wait_for(pidfd)
    return True


def wait_for(pidfd: int) -> bool:
    """Wait for the end of a process; whether it has ended."""
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(_END_TIMEOUT))


@contextmanager
def held(path: str | None = None) -> Iterator[str]:
    """Hold the directory of this user's labs, made where it is missing, while one comes or goes."""
    while True:
        path = userdir.make_top(path)
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except FileNotFoundError:
            continue  # the last lab went in between
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        if os.path.isdir(path) and os.path.samestat(os.fstat(descriptor), os.lstat(path)):
            break
        os.close(descriptor)
    try:
        yield path
    finally:
        with suppress(OSError):  # labs are there
            os.rmdir(path)
        os.close(descriptor)


class Realm:
    """The realm of one lab of this user; making the object looks nothing up."""

    __slots__ = ("directory", "lab", "lock", "pidfd", "top")

    def __init__(self, lab: str) -> None:
        self.lab = lab
        self.top = userdir.top()
        self.directory = f"{self.top}/{lab}"
        self.pidfd = self.lock = -1

    @property
    def about(self) -> dict[str, Any]:
        """holder.json: pid, start_time, boot_id, ids, and of its cgroups:

        cgroups (whether it has any), base (where they hang), place (that in the hierarchy), unit (systemd's),
        bus, own (whether the unit is for this realm alone), leaf, undelegated (why there are none).
        """
        found: dict[str, Any] | None = read_json(f"{self.directory}/holder.json")
        return found or {}

    def open(self) -> bool:
        """Take hold of the holder; whether it lives."""
        about = self.about
        if about.get("boot_id") != boot_id():
            return False
        try:
            pidfd = os.pidfd_open(about["pid"])
        except ProcessLookupError:
            return False
        if start_time(about["pid"]) == about["start_time"] and not _is_dying(about["pid"], pidfd):
            self.pidfd = pidfd
            return True
        os.close(pidfd)
        return False

    def use(self) -> None:
        """Keep the realm from ending as long as this process works in it."""
        self.lock = os.open(self.directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        fcntl.flock(self.lock, fcntl.LOCK_SH)

    def enter(self) -> None:
        """Enter for good; the holder was opened before.  For a process with one thread."""
        here = os.getcwd()
        try:
            sc.setns(self.pidfd, NAMESPACES | with_time())
        except OSError as error:
            raise _refused(f"the namespaces of lab {self.lab} can't be entered", error, self.lab) from error
        try:
            os.chdir(here)
        except OSError:
            os.chdir("/")

    def leave(self) -> None:
        """End the realm, unless its lab is up or somebody else works in it."""
        with held(self.top):
            lock, self.lock = self.lock, -1
            try:
                if lock < 0:
                    lock = os.open(self.directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if not self.has_lab():
                    self.end()
            except (BlockingIOError, FileNotFoundError):
                return
            finally:
                if lock >= 0:
                    os.close(lock)

    def has_lab(self) -> bool:
        """Whether its lab has a directory still."""
        return bool(self.labs())

    def labs(self) -> list[str]:
        """The directories of labs in it, each NAME.ID, as its cgroup is called, too."""
        try:
            run = f"{self.directory}/run/{userdir.NAME}"
            return [entry.name for entry in os.scandir(run) if entry.is_dir(follow_symlinks=False)]
        except OSError:
            return []

    def end(self) -> None:
        """Kill the holder, and with it all that was born in the realm; then remove its files."""
        about = self.about
        if self.pidfd < 0:
            self.open()
        if self.pidfd >= 0:
            with suppress(ProcessLookupError):
                sc.pidfd_send_signal(self.pidfd, _SIGKILL)
            if not wait_for(self.pidfd):
                late = OSError(errno.ETIMEDOUT, "they did not end on SIGKILL")
                raise _refused(f"the namespaces of lab {self.lab} stay", late, self.lab)
        if inside():
            sc.umount2("/run", sc.MNT_DETACH)  # else what is mounted below it keeps its directories
        self.forget()
        if self.pidfd >= 0:
            self._wait_for_systemd(about)

    def _wait_for_systemd(self, about: dict[str, Any]) -> None:
        """A scope made for this realm goes with the last process in it, which this one may be itself."""
        if about.get("own"):
            from netns_orch.kernel import userscope

            if not f"{userscope.position()}/".startswith(f"{about['place']}/"):
                userscope.wait_gone(about["base"])

    def forget(self) -> None:
        """Remove the files of a realm that has ended."""
        from netns_orch.kernel import rundir

        rundir.remove_tree(self.directory)


def _refused(what: str, error: OSError, lab: str) -> Exception:
    """As an error for users; its module is imported where something failed only."""
    from netns_orch.errors import KernelError

    if isinstance(error, ProcessLookupError):
        return KernelError(f"lab {lab} has ended: its first process was killed")
    return KernelError(f"{what}: {error.strerror}", errno=error.errno)
