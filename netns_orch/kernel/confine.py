"""Confinement: what a process gives up, in which order, just before it runs a container's program.

Owns: the order of the last system calls before execve (session keyring, limits, no_new_privs, bounding set,
ids, capabilities, seccomp), which the container's command and whatever ``exec`` enters share.
Must not: import anything but ``syscalls`` and the names of capabilities, or look anything up in ``apply``:
by then the root is the container's.

Everything is decided, read and encoded in ``prepare``; ``apply`` only makes system calls.
Inheritable and ambient capabilities end up empty (CVE-2022-24769, CVE-2022-29162).
"""

from __future__ import annotations

import os
import resource

from netns_orch.capabilities import mask
from netns_orch.kernel import keyring, syscalls

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

_UNLIMITED = -1
_ALL = (1 << 64) - 1
INIT_CGROUP = "init"
"""``nesting``: the v2 cgroup below the container's own in which its processes begin."""
LIMITS = {
    "as": resource.RLIMIT_AS,
    "core": resource.RLIMIT_CORE,
    "cpu": resource.RLIMIT_CPU,
    "data": resource.RLIMIT_DATA,
    "fsize": resource.RLIMIT_FSIZE,
    "locks": 10,
    "memlock": resource.RLIMIT_MEMLOCK,
    "msgqueue": resource.RLIMIT_MSGQUEUE,
    "nice": resource.RLIMIT_NICE,
    "nofile": resource.RLIMIT_NOFILE,
    "nproc": resource.RLIMIT_NPROC,
    "rss": resource.RLIMIT_RSS,
    "rtprio": resource.RLIMIT_RTPRIO,
    "rttime": resource.RLIMIT_RTTIME,
    "sigpending": resource.RLIMIT_SIGPENDING,
    "stack": resource.RLIMIT_STACK,
}
"""The names of ``ulimits`` (getrlimit(2)) and their numbers."""


class Confinement:
    """What ``prepare`` decided; ``apply`` may be called once, by the process that then calls execve."""

    def __init__(
        self,
        capabilities: int,
        dropped: Sequence[int],
        seccomp_filter: bytes | None,
        limits: Sequence[tuple[int, tuple[int, int], tuple[int, int]]],
        user: tuple[int, int, Sequence[int]] | None,
        no_new_privs: bool,
        oom_score_adj: bytes | None,
        parent_death_signal: int | None,
    ) -> None:
        self.capabilities = capabilities
        self.dropped = dropped
        self.seccomp_filter = seccomp_filter
        self.limits = limits
        self.user = user
        self.no_new_privs = no_new_privs
        self.oom_score_adj = oom_score_adj
        self.parent_death_signal = parent_death_signal

    def before_entering(self) -> None:
        """What needs the host's own /proc: call it before the root changes.  Raises OSError."""
        if self.oom_score_adj is None:
            return
        try:
            # Not dumpable, its files are those of the root where it was executed, who may be nobody here.
            descriptor = os.open("/proc/self/oom_score_adj", os.O_WRONLY | os.O_CLOEXEC)
            try:
                os.write(descriptor, self.oom_score_adj)
            finally:
                os.close(descriptor)
        except PermissionError:
            return  # lower than the caller's own takes CAP_SYS_RESOURCE: then the caller's stays

    def apply(self) -> None:
        """Give it all up.  Raises OSError; the process must then end, for it is half confined.

        Every descriptor above 2 is marked close-on-exec here, before the filter may forbid it.
        """
        keyring.join_new()
        for number, wanted, clamped in self.limits:
            _limit(number, wanted, clamped)
        if self.no_new_privs:
            syscalls.prctl(syscalls.PR_SET_NO_NEW_PRIVS, 1)
        for number in self.dropped:
            syscalls.prctl(syscalls.PR_CAPBSET_DROP, number)
        syscalls.close_range(3, flags=syscalls.CLOSE_RANGE_CLOEXEC)
        if self.seccomp_filter and not self.no_new_privs:
            syscalls.seccomp_filter(self.seccomp_filter)  # needs SYS_ADMIN, which goes below
        if self.user is not None:
            _become(*self.user)
        syscalls.capset(self.capabilities, self.capabilities, 0)
        syscalls.prctl(syscalls.PR_CAP_AMBIENT, syscalls.PR_CAP_AMBIENT_CLEAR_ALL)
        if self.parent_death_signal is not None:  # a change of ids would have cleared it
            syscalls.prctl(syscalls.PR_SET_PDEATHSIG, self.parent_death_signal)
        if self.seccomp_filter and self.no_new_privs:
            syscalls.seccomp_filter(self.seccomp_filter)


def prepare(
    capabilities: Iterable[str],
    seccomp_filter: bytes | None,
    ulimits: Mapping[str, Sequence[int]],
    user: tuple[int, int, Sequence[int]] | None = None,
    no_new_privs: bool = True,
    oom_score_adj: int | None = None,
    parent_death_signal: int | None = None,
    enters_user_namespace: bool = False,
) -> Confinement:
    """Decide everything that ``Confinement.apply`` will do, on the host, as root.

    ``capabilities`` without CAP_; those this process does not have itself can't be given and are left out.
    ``seccomp_filter``: a compiled program (``seccomp.compile_filter``), or None.  ``ulimits``: name to
    (soft, hard), -1 is unlimited; where root may not raise the hard limit, the present one is kept.
    ``user``: uid, gid, supplementary groups; None: stay root with its groups dropped.
    ``parent_death_signal``: what the process gets when its parent dies (PR_SET_PDEATHSIG).
    ``enters_user_namespace``: it will have entered one when ``apply`` is called, and with that got every
    capability over it, in its bounding set too (user_namespaces(7)), whatever this process has.
    """
    wanted = mask(capabilities)
    own = (
        _known() if enters_user_namespace else [number for number in _known() if _is_in_bounding_set(number)]
    )
    return Confinement(
        capabilities=wanted & (_ALL if enters_user_namespace else syscalls.capget()),
        dropped=[number for number in own if not wanted >> number & 1],
        seccomp_filter=seccomp_filter,
        limits=[_prepare_limit(name, *pair) for name, pair in ulimits.items()],
        user=user or (0, 0, ()),
        no_new_privs=no_new_privs,
        oom_score_adj=None if oom_score_adj is None else str(oom_score_adj).encode(),
        parent_death_signal=parent_death_signal,
    )


def _known() -> list[int]:
    """The numbers of this kernel's capabilities, those included that are newer than our list of names."""
    found = []
    for number in range(64):
        try:
            syscalls.prctl(syscalls.PR_CAPBSET_READ, number)
        except OSError:  # EINVAL: past the kernel's last one
            break
        found.append(number)
    return found


def _is_in_bounding_set(number: int) -> bool:
    return bool(syscalls.prctl(syscalls.PR_CAPBSET_READ, number))


def _prepare_limit(name: str, soft: int, hard: int) -> tuple[int, tuple[int, int], tuple[int, int]]:
    """(number, as asked, as near as the present hard limit allows)."""
    number = LIMITS[name]
    present = resource.getrlimit(number)[1]
    soft = _lower(soft, hard)
    return number, (soft, hard), (_lower(soft, present), _lower(hard, present))


def _lower(a: int, b: int) -> int:
    if a == _UNLIMITED:
        return b
    return a if b == _UNLIMITED else min(a, b)


def _limit(number: int, wanted: tuple[int, int], clamped: tuple[int, int]) -> None:
    try:
        resource.setrlimit(number, wanted)
    except ValueError:  # what this module makes of EPERM: not allowed to raise maximum limit
        resource.setrlimit(number, clamped)


def _become(uid: int, gid: int, groups: Sequence[int]) -> None:
    """Change ids and keep the permitted set over it (capset(2) needs it)."""
    syscalls.prctl(syscalls.PR_SET_KEEPCAPS, 1)
    _set_groups(groups)
    os.setresgid(gid, gid, gid)
    os.setresuid(uid, uid, uid)
    syscalls.prctl(syscalls.PR_SET_KEEPCAPS, 0)


def _set_groups(groups: Sequence[int]) -> None:
    """With a single id, a user namespace forbids setgroups(2) (user_namespaces(7)): its user's own stay."""
    try:
        os.setgroups(groups)
    except PermissionError:
        return
