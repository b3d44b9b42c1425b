"""What an ordinary user has on this host, as far as his labs care: read, not judged.

Owns: ``UserHealth``.  Must not: change anything, or say what a fact means (``doctor``).
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass, replace

from netns_orch.errors import NetorchError
from netns_orch.kernel import idmap, netfilter, outside, userdir

HELPERS = ("newuidmap", "newgidmap")
_CAPABILITY = "security.capability"


@dataclass(frozen=True)
class UserHealth:
    """As root sees it, what is the same for all users; the rest is this user's own."""

    refused: str = ""
    """Why he can have no user namespace with rights in it; empty: he can, or it was not tried."""
    mend: str = ""
    """How to mend that."""
    ids: bool = True
    """Whether subuid(5) and subgid(5) give him a range."""
    name: str = ""
    weak_helpers: tuple[str, ...] = ()
    """The paths of those of ``HELPERS`` that have no rights of their own here."""
    no_tun: str = ""
    """What is to be done so that he can open /dev/net/tun; empty: nothing."""
    pings: bool = True
    """Whether he may have sockets for pings (icmp(7))."""
    directory: str = ""
    """Where the files of his labs are; empty: this is root."""
    directory_refused: str = ""
    """Why it can't be used; empty: it can."""


def examine(refused: str = "", mend: str = "") -> UserHealth:
    """Look at everything but user namespaces; no error, whatever is missing."""
    about = UserHealth(weak_helpers=tuple(_weak_helpers()), no_tun=outside.lack_of_tun() or "")
    if os.geteuid() == 0:
        return about
    path, why_not = userdir.top(), ""
    try:
        userdir.check(path)
    except FileNotFoundError:
        pass
    except NetorchError as error:
        why_not = error.what
    return replace(
        about,
        refused=refused,
        mend=mend,
        ids=all(idmap.subordinate(kind) for kind in idmap.SUBORDINATE),
        name=_name(),
        pings=outside.may_ping(),
        directory=path,
        directory_refused=why_not,
    )


def _name() -> str:
    import pwd

    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return str(os.getuid())


def _weak_helpers() -> Iterator[str]:
    """Neither set-user-ID nor with capabilities of their own, or where that does not count."""
    with open("/proc/self/status", encoding="utf-8", errors="replace") as file:
        bound = "NoNewPrivs:\t1\n" in file.readlines()
    for name in HELPERS:
        path = netfilter.find_program(name)
        if path is None:
            continue
        gains = os.stat(path).st_mode & stat.S_ISUID or _CAPABILITY in os.listxattr(path)
        if bound or not gains or os.statvfs(path).f_flag & os.ST_NOSUID:
            yield path
