"""A lab that runs, as its nodes see it: what they can reach, what they call things, what they are.

Owns: which of the kernel's rooms answers a question about one node.  Must not: judge an answer; change
anything of the lab.
"""

from __future__ import annotations

import os
import stat
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from netns_orch.kernel import enter, hostcommand, listening, probe, probes, stream, users
from netns_orch.kernel import syscalls as sc
from netns_orch.kernel.driver import LabKernel
from netns_orch.kernel.httpclient import Page
from netns_orch.kernel.inside import CompletedRun
from netns_orch.kernel.nets import Gone, Nets, not_running
from netns_orch.resources import HOST, PLACE

T = TypeVar("T")
_FILE_LIMIT = 4 << 20
_THREADS = 16
_IFF_LOWER_UP = 0x10000
"""There is a carrier (linux/if.h); also told of interfaces that have no operational state, such as lo."""


class Attachment(NamedTuple):
    """An interface that has a certain address."""

    ifname: str
    up: bool
    carrier: bool


class Prober:
    """The questions that checks ask of one lab.  Used as ``with Prober(kernel) as prober``."""

    def __init__(self, kernel: LabKernel) -> None:
        self._kernel = kernel
        self._host: int | None = None
        self._over = threading.Event()

    def __enter__(self) -> Prober:
        return self

    def __exit__(self, *_: object) -> None:
        if self._host is not None:
            os.close(self._host)
            self._host = None

    # -- where they are -----------------------------------------------------------------------------

    def nets(self) -> Nets:
        """The network namespaces of all containers that run, and the one that holds the bridges."""
        pids = {name: about["pid"] for name in self._names() if (about := self._kernel.container(name))}
        if self._host is None and self._kernel.private and (place := self._kernel.container(PLACE)):
            with suppress(OSError):
                self._host = os.open(f"/proc/{place['pid']}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        return Nets(pids, self._host)

    def _names(self) -> list[str]:
        with suppress(FileNotFoundError):
            return [name for name in os.listdir(f"{self._kernel.directory.path}/c") if name != PLACE]
        return []

    def state(self, node: str) -> str:
        """``running``, ``paused`` or ``dead``; the host runs."""
        if node == HOST:
            return "running"
        found = str(self._kernel.view(node)["state"])
        return found if found in ("paused", "dead") else "running"

    # -- what it is called there ----------------------------------------------------------------------

    def file(self, node: str, path: str) -> str:
        """The text of a file as the node sees it; empty where there is none."""
        if node == HOST:
            with suppress(OSError):
                return Path(path).read_text(encoding="utf-8", errors="replace")
            return ""
        about = self._kernel.container(node)
        try:
            root = users.root_of(about["pid"] if about else 0)
        except OSError:
            return ""
        try:
            return _read_inside(root, path)
        finally:
            os.close(root)

    def lookup(self, node: str, server: str, name: str, kind: int, timeout: float) -> Any:
        """Ask a DNS server from a node: ``dnsclient.Answer``.  OSError where it does not answer."""
        from netns_orch.kernel import dnsclient

        return _plain(lambda: self.nets().within(node, _caught, dnsclient.query, server, name, kind, timeout))

    # -- what they reach ------------------------------------------------------------------------------

    def ask(self, asks: Sequence[probes.Ask], timeout: float) -> list[probes.Heard]:
        """Ask all side by side, as ``probes.ask``."""
        return probes.ask(self.nets(), asks, timeout)

    def stream(self, asks: Sequence[probes.Ask], interval: float, began: float) -> stream.Stream:
        """The same questions again and again."""
        return stream.Stream(self.nets, asks, interval, began)

    def trace(self, node: str, address: str, extra: float) -> list[probe.Answer]:
        """One answer for each TTL on the way to ``address``."""
        return self.nets().within(node, probe.trace, None, address, extra)

    def get(
        self, node: str, addresses: Sequence[str], port: int, host: str, path: str, timeout: float, tls: bool
    ) -> Page:
        """GET a page from a node, as ``httpclient.get``."""
        from netns_orch.kernel import httpclient

        arguments = (addresses, port, host, path, timeout, tls)
        page: Page = _plain(lambda: self.nets().within(node, _caught, httpclient.get, *arguments))
        return page

    def throughput(self, source: str, target: str, address: str, seconds: float) -> float:
        """Bits a second that TCP carries.  OSError where it does not connect."""
        from netns_orch.kernel import throughput

        nets = self.nets()
        try:
            return throughput.measure(nets, source, target, address, seconds)
        except Gone as gone:
            raise not_running(gone) from None

    # -- what they are --------------------------------------------------------------------------------

    def attachment(self, node: str, address: str) -> Attachment | None:
        """The interface of a node that has ``address`` now."""
        return self.nets().within(node, _attachment, address)

    def carriers(self, node: str) -> dict[str, bool]:
        """The interfaces of a node but ``lo``, and whether each is up with a carrier."""
        return self.nets().within(node, _carriers)

    def addresses(self, node: str) -> list[str]:
        """The addresses that a node has now, but for loopback and link-local ones."""
        return self.nets().within(node, _addresses)

    def listeners(self, node: str) -> list[listening.Listener]:
        """Who listens in a node's namespace."""
        return self.nets().within(node, listening.listeners)

    def datagrams_read(self, node: str) -> int:
        """How many datagrams programs in a node's namespace have read."""
        return self.nets().within(node, listening.datagrams_read)

    # -- programs -------------------------------------------------------------------------------------

    def run(
        self,
        node: str,
        argv: Sequence[str],
        timeout: float,
        cancelled: threading.Event | None = None,
    ) -> CompletedRun:
        """Run a command in a container as ``exec`` does, stderr apart.

        On the host: as root, in the namespace that holds the bridges, and with the host's own files.
        """
        if node == HOST:
            return self.nets().within(HOST, hostcommand.run, argv, timeout)
        directory = Path(self._kernel.directory.container(node))
        return enter.run(directory, argv, timeout=timeout, cancelled=cancelled or self._over, apart=True)

    def each(self, function: Callable[[T], Any], items: Sequence[T]) -> list[Any]:
        """``function`` of every item, some side by side, in order."""
        if len(items) < 2:
            return [function(item) for item in items]
        with ThreadPoolExecutor(min(_THREADS, len(items))) as pool:
            try:
                return list(pool.map(function, items))
            except BaseException:
                self._over.set()  # what still runs in the other threads is ended
                pool.shutdown(wait=False, cancel_futures=True)
                raise


def _caught(function: Callable[..., T], *args: Any) -> T | OSError:
    """An OSError as a result: of the probe's own sockets, not of the way into the namespace."""
    try:
        return function(*args)
    except OSError as error:
        return error


def _plain(call: Callable[[], T | OSError]) -> T:
    found = call()
    if isinstance(found, OSError):
        raise found
    return found


def _read_inside(root: int, path: str) -> str:
    flags = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY
    try:
        descriptor = sc.openat2(root, path, flags, sc.RESOLVE_IN_ROOT | sc.RESOLVE_NO_MAGICLINKS)
    except OSError:
        return ""
    with open(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            return ""
        return file.read(_FILE_LIMIT).decode(errors="replace")


def _links() -> Mapping[int, Any]:
    from netns_orch.kernel import messages
    from netns_orch.kernel.netlink import open_channel

    with open_channel() as channel:
        links = [messages.decode_link(message.body) for message in channel.dump(messages.dump_links())]
    return {link.ifindex: link for link in links}


def _facts() -> list[Any]:
    from netns_orch.kernel import ipmessages
    from netns_orch.kernel.netlink import open_channel

    with open_channel() as channel:
        return [ipmessages.decode_address(m.body) for m in channel.dump(ipmessages.dump_addresses())]


def _attachment(address: str) -> Attachment | None:
    links = _links()
    for fact in _facts():
        if fact.cidr.partition("/")[0] == address and fact.ifindex in links:
            link = links[fact.ifindex]
            return Attachment(link.ifname, link.up, bool(link.flags & _IFF_LOWER_UP))
    return None


def _carriers() -> dict[str, bool]:
    links = [link for link in _links().values() if link.ifname != "lo"]
    return {link.ifname: link.up and bool(link.flags & _IFF_LOWER_UP) for link in links}


def _addresses() -> list[str]:
    local = ("127.", "::1", "fe80:")
    return [text for fact in _facts() if not (text := fact.cidr.partition("/")[0]).startswith(local)]
