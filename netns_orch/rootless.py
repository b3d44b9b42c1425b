"""Into the realm of a lab, for an ordinary user; for root there is nothing to do.

Owns: when a realm is made, entered, left and ended, and that realms which have ended leave no files; for
commands, which go there themselves, and for programs, which have workers go there for them.
Must not: know how a realm is made (``kernel.founding``), or what is done in it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, TypeVar

from netns_orch.errors import PermissionNeeded, UsageError
from netns_orch.kernel import rights, userdir

if TYPE_CHECKING:
    from netns_orch.kernel.outside import Port
    from netns_orch.kernel.workers import Server
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


def look(*, needed: bool = True) -> list[str]:
    """Before labs are looked for: those whose first process was killed are gone, and so are their files.

    Where one is ``needed``, it is an error that there are none but root's.
    """
    if not userdir.is_ordinary():
        return []
    from netns_orch.kernel import founding

    gone = founding.clean()
    if needed and sees_none_but_roots():
        raise PermissionNeeded("no lab of yours is up, and those of root are root's alone")
    return gone


def sees_none_but_roots() -> bool:
    """Whether root has labs, and this ordinary user none."""
    return userdir.is_ordinary() and not userdir.names() and os.path.isdir(userdir.RUN)


def settle(topology: Topology, *, building: bool) -> None:
    """Enter the realm of a lab that is to be built, planned or checked; made where there is none.

    PermissionNeeded where this one can have no lab, as a root without the rights of root.
    """
    rights.require()
    if not userdir.is_ordinary():
        return
    from netns_orch.kernel import founding, outside

    here = founding.found(topology.name, limits=topology.has_limits)
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


def lost_way_out() -> str | None:
    """The program that led out of the realm entered here and was killed: building starts one again."""
    from netns_orch.kernel import outside

    return outside.lost()


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

    look(needed=False)
    found: list[T] = []
    for lab in userdir.names():
        found += founding.call_in(lab, lambda: list(function()))
    return found


# -- for programs ----------------------------------------------------------------------------------

_PRELOAD = (
    *(
        "api",
        "cables",
        "checks",
        "lab",
        "labfile",
        "graph",
        "operate",
        "resolve",
        "views",
    ),
    *(
        f"kernel.{name}"
        for name in (
            *("cgroups", "cgroupusage", "conntrack", "devicefilter", "facts", "firewall", "forwarding"),
            *("founding", "hostsysctl", "hosttable", "interfaceview", "logfile", "netobserve", "network"),
            *("nftables", "outside", "placesysctl", "prober", "publish", "readiness", "runtime", "seccomp"),
            *("startup", "within"),
        )
    ),
)
"""What nearly every call takes."""


def build(topology: Topology, function: Callable[..., T], **options: Any) -> T:
    """``function(topology, **options)``, which builds or changes the lab, where the lab is to be."""
    if userdir.is_ordinary():
        result: T = _server().call(_building, topology, function, **options)
        return result
    return _building(topology, function, **options)


def call(lab: str, function: Callable[..., T], *args: Any, needed: bool = True, **options: Any) -> T:
    """``function(*args, **options)`` where the lab is; UsageError if it is not up but ``needed``.

    An ordinary user's function is called in a worker: it is one of a module, and it and all that goes in and
    out can be pickled, but that it may return a socket.
    """
    if userdir.is_ordinary():
        result: T = _server().call(_within, lab, needed, function, *args, **options)
        return result
    return function(*args, **options)


def converse(
    lab: str, function: Callable[..., Generator[Any, Any, None]], *args: Any
) -> Generator[Any, Any, None]:
    """As ``call`` for a generator function: it runs as long as the generator that is returned."""
    if userdir.is_ordinary():
        return _server().converse(_talking, lab, function, *args)
    return function(*args)


def _server() -> Server:
    from netns_orch.kernel import workers

    return workers.server(tuple(f"netns_orch.{name}" for name in _PRELOAD))


def _building(topology: Topology, function: Callable[..., T], **options: Any) -> T:
    with command():
        settle(topology, building=True)
        return function(topology, **options)


def _within(lab: str, needed: bool, function: Callable[..., T], *args: Any, **options: Any) -> T:
    with command():
        _go(lab, needed=needed)
        return function(*args, **options)


def _talking(
    lab: str, function: Callable[..., Generator[Any, Any, None]], *args: Any
) -> Generator[Any, Any, None]:
    with command():
        _go(lab, needed=True)
        yield from function(*args)


def _go(lab: str, *, needed: bool) -> None:
    from netns_orch.kernel.realm import Realm

    if not Realm(lab).open():
        look()
    enter(lab, needed=needed)
