"""Into the realm of a lab, for commands of an ordinary user; for root there is nothing to do.

Owns: when a realm is made, entered, left and ended, and that realms which have ended leave no files.
Must not: know how a realm is made (``kernel.founding``), or what a command does in it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, TypeVar

from netns_orch.errors import PermissionNeeded, UsageError
from netns_orch.kernel import userdir

if TYPE_CHECKING:
    from netns_orch.kernel.outside import Port
    from netns_orch.labfile.model import Topology

T = TypeVar("T")
_at_the_end: ContextVar[ExitStack] = ContextVar("at_the_end")


@contextmanager
def command() -> Iterator[None]:
    """One command: at its end, the realm that it entered is left."""
    with ExitStack() as stack:
        token = _at_the_end.set(stack)
        try:
            yield
        finally:
            _at_the_end.reset(token)


def look() -> list[str]:
    """Before labs are looked for: those whose first process was killed are gone, and so are their files."""
    if not userdir.is_ordinary():
        return []
    from netns_orch.kernel import founding

    gone = founding.clean()
    if not userdir.names() and os.path.isdir(userdir.RUN):
        raise PermissionNeeded("no lab of yours is up, and those of root are root's alone")
    return gone


def settle(topology: Topology, *, building: bool) -> None:
    """Enter the realm of a lab that is to be built, planned or checked; made where there is none."""
    if not userdir.is_ordinary():
        return
    from netns_orch.kernel import founding, outside

    here = founding.found(topology.name)
    _at_the_end.get().callback(here.leave)
    ports = _ports(topology)
    if building:
        before = outside.published(here)
        outside.connect(here, ports)
        if before is not None and before != outside.published(here):
            again = outside.prepared(here, before)
            _at_the_end.get().push(lambda kind, *_: again(kind is not None))
    here.enter()
    topology.netns = "host"  # the realm stands in the host's place, whatever the file says


def _ports(topology: Topology) -> list[Port]:
    """The ports that lead into the realm; there, they are on all addresses."""
    from netns_orch.kernel.outside import Port

    found = []
    for container in topology.containers.values():
        for port in container.ports:
            if port.host_address != "::1":  # which is refused later
                found.append(Port(port.protocol, port.host_port, port.host_address, port.where))
                port.host_address = None
    return found


def enter(lab: str, *, needed: bool = True) -> None:
    """Enter the realm of a lab that is up; without one it is an error, if it is ``needed``."""
    if not userdir.is_ordinary():
        return
    from netns_orch.kernel.realm import Realm

    here = Realm(lab)
    if not here.open():
        if not needed:
            return
        up = ", ".join(userdir.names())
        raise UsageError(f"no lab {lab!r} of yours is up", hint=f"up are: {up}" if up else "netorch up FILE")
    here.enter()
    _at_the_end.get().callback(here.leave)


def each(function: Callable[[], Iterable[T]]) -> Iterable[T]:
    """What ``function`` finds here; for an ordinary user, in the realm of each of his labs."""
    if not userdir.is_ordinary():
        return function()
    from netns_orch.kernel import founding

    look()
    found: list[T] = []
    for lab in userdir.names():
        found += founding.call_in(lab, lambda: list(function()))
    return found
