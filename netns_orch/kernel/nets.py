"""The namespaces of one lab, and the marks on its links.

Owns: which process holds which node's network namespace, how a thread goes through many of them (a setns and
a socket each, about 10 us), sysctls of the namespace that is entered, and the names netorch gives its links
on the host as marks.
Must not: change or read anything of the network itself.
"""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple, TypeVar

from netns_orch.errors import KernelError
from netns_orch.kernel import namespaces
from netns_orch.kernel.netlink import Channel, open_channel
from netns_orch.resources import HOST, digest

T = TypeVar("T")
IPV6_MIN_MTU = 1280
"""Below, Linux switches IPv6 off on a link (RFC 8200)."""
MARK = "netorch"
MARK_LENGTH = 127
"""The most that the kernel takes as an alternative name (ALTIFNAMSIZ)."""
_DIGEST = "#"


class Gone(Exception):
    """The node's namespace is no more: its process ended."""


class Nets:
    """Where the network namespace of each node is: ``pids`` of processes in them, by node.

    The node ``host`` is the caller's own namespace, or the file descriptor ``host``.  Nothing is opened yet.
    """

    def __init__(self, pids: Mapping[str, int], host: int | None = None) -> None:
        self.pids = dict(pids)
        self.host = host

    def run(self, function: Callable[[Visit], T]) -> T:
        """Call ``function`` in a thread of its own that may enter the namespaces, one after the other."""

        def work(stopped: threading.Event) -> T:
            try:
                visit = Visit(self, stopped)
                try:
                    return function(visit)
                finally:
                    visit.close()
            except OSError as error:
                raise _refused(error) from error

        return namespaces.run_in_thread(work)

    def within(self, node: str, function: Callable[..., T], *args: Any) -> T:
        """Call a function in the network namespace of one node; KernelError where that does not run."""

        def work(visit: Visit) -> T:
            try:
                with visit.node(node):
                    return function(*args)
            except Gone:
                raise not_running(node) from None

        return self.run(work)


def not_running(node: object) -> KernelError:
    """For a container whose network namespace nobody holds."""
    return KernelError(f"container {node} does not run", hint="`netorch ps` shows what is")


def _refused(error: OSError) -> KernelError:
    """A refusal that no single resource is to blame for."""
    hint = "netorch must run as root" if error.errno in (errno.EPERM, errno.EACCES) else None
    about = f" ({error.filename})" if error.filename else ""
    return KernelError(
        f"the network can't be read or changed: {error.strerror}{about}", errno=error.errno, hint=hint
    )


class Visit:
    """A thread's way through the namespaces; the thread is where it was last sent."""

    def __init__(self, nets: Nets, stopped: threading.Event) -> None:
        self.pids = nets.pids
        self._stopped = stopped
        self._buffer = bytearray(1 << 16)
        self._home: int | None = None
        self.identity = 0
        """The inode number of the node's namespace that was entered last."""
        self.ipv6 = os.path.isdir("/proc/sys/net/ipv6")
        """Whether this kernel does IPv6 at all."""
        if nets.host is not None:
            namespaces.enter_netns(nets.host)
        self.host = open_channel()
        """The host's channel, open throughout."""

    def close(self) -> None:
        """Close what is open."""
        self.host.close()
        if self._home is not None:
            os.close(self._home)

    @contextmanager
    def node(self, name: str) -> Iterator[Channel]:
        """Enter the namespace of a node and open a channel there; ``Gone`` where it has ended."""
        if self._stopped.is_set():
            raise namespaces.Abandoned
        if name == HOST:
            self._go_home()
            yield self.host
            return
        self._enter(name)
        channel = open_channel(self._buffer)
        try:
            yield channel
        finally:
            channel.close()

    def link_local(self, asked: bool, mtu: int) -> bool | None:
        """What to tell the kernel about a link-local address; None where it does no IPv6 on such a link."""
        return asked if self.ipv6 and mtu >= IPV6_MIN_MTU else None

    def pause(self, seconds: float) -> None:
        """Sleep; raises ``Abandoned`` at once where nobody waits for the thread any more."""
        if self._stopped.wait(seconds):
            raise namespaces.Abandoned

    def _enter(self, name: str) -> None:
        if self._home is None:
            self._home = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        pid = self.pids.get(name)
        try:
            if pid is None:
                raise Gone(name)
            fd = namespaces.open_netns(pid)
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ESRCH):
                raise Gone(name) from None
            raise
        try:
            self.identity = os.fstat(fd).st_ino
            namespaces.enter_netns(fd)
        finally:
            os.close(fd)

    def _go_home(self) -> None:
        if self._home is not None:
            namespaces.enter_netns(self._home)


# -- sysctls of the namespace that the thread is in --------------------------------------------------


def sysctl_path(name: str) -> str:
    """The file of a sysctl in sysctl(8)'s notation, where a slash is a dot of an interface's name."""
    parts = name.split(".")
    if any(part in ("", "/", "//") for part in parts):
        raise ValueError(f"{name!r} is no sysctl")
    return "/proc/sys/" + "/".join(part.replace("/", ".") for part in parts)


def read_sysctl(name: str) -> str:
    """The value, its parts separated by single spaces."""
    fd = os.open(sysctl_path(name), os.O_RDONLY | os.O_CLOEXEC)
    try:
        return " ".join(os.read(fd, 65536).decode(errors="replace").split())
    finally:
        os.close(fd)


def write_sysctl(name: str, value: str) -> None:
    """Set the value; an OSError as the kernel gives it."""
    fd = os.open(sysctl_path(name), os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, value.encode())
    finally:
        os.close(fd)


# -- marks -----------------------------------------------------------------------------------------


class Mark(NamedTuple):
    """An alternative name that says whose a link of the host namespace is."""

    lab: str
    id: str
    what: str
    """b: a bridge; c: a cable's end; x: an end between two bridges; p: an interface of the host's own."""
    name: str
    """The bridge; ``container.ifname``; the interface.  Or ``#`` and a digest of it."""

    def __str__(self) -> str:
        whole = f"{MARK}.{self.lab}.{self.id}.{self.what}."
        return whole + (self.name if len(whole + self.name) <= MARK_LENGTH else _DIGEST + digest(self.name))

    def tells(self, name: str) -> bool:
        """Whether ``name`` is what was marked, also where it was too long to be written out."""
        return self.name in (name, _DIGEST + digest(name))

    @property
    def written_out(self) -> bool:
        """Whether ``name`` is the name itself."""
        return not self.name.startswith(_DIGEST)


def read_mark(altname: str) -> Mark | None:
    """The mark that an alternative name is; None where it is none."""
    parts = altname.split(".", 4)
    if len(parts) != 5 or parts[0] != MARK or parts[3] not in ("b", "c", "x", "p"):
        return None
    return Mark(*parts[1:])
