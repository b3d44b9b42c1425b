"""Who has ports of the host already: processes that listen, and labs that publish.

Owns: finding them, and their names.  Must not: change anything; look at a port that nobody asked about.
"""

from __future__ import annotations

import errno
import os
import re
import socket
from collections.abc import Collection, Iterable, Iterator
from contextlib import suppress

from netns_orch.errors import KernelError
from netns_orch.kernel import listening, nftables, publish
from netns_orch.kernel.listening import Listener
from netns_orch.resources import PortHolder, PublishedPort, published

_SOCKET = re.compile(r"socket:\[(\d+)\]$")
_BRIDGE_NETFILTER = tuple(f"/proc/sys/net/bridge/bridge-nf-call-ip{family}tables" for family in ("", "6"))
Port = tuple[str, int]
"""Protocol and number."""


def port_holders(wanted: Collection[Port], lab: str | None, id: str) -> tuple[PortHolder, ...]:
    """Who has one of the wanted ports; what ``lab`` publishes already is its own, whoever listens behind."""
    by_labs = list(_published(id))
    own = {(mark.protocol, mark.family, mark.port) for of, mark in by_labs if of == lab}
    labs = [_lab(of, mark) for of, mark in by_labs if of != lab and (mark.protocol, mark.port) in wanted]
    sockets = [s for s in listening.listeners() if (s.protocol, s.port) in wanted]
    names = _names({one.inode for one in sockets}) if sockets else {}
    processes = (holder for one in sockets for holder in _process(one, names.get(one.inode)))
    return (*labs, *(p for p in processes if (p.protocol, p.family, p.port) not in own))


def refuse_published(lab: str, id: str, ports: Iterable[PublishedPort]) -> None:
    """KernelError where another lab of this host publishes one of the ports."""
    others = [(of, mark) for of, mark in _published(id) if of != lab]
    for port in ports:
        for of, mark in others:
            same = (mark.family, mark.protocol, mark.port) == (port.family, port.protocol, port.port)
            if same and (None in (mark.address, port.address) or mark.address == port.address):
                raise KernelError(
                    f"{port.key} of the host is taken: {_lab(of, mark).who}",
                    errno=errno.EADDRINUSE,
                    where=port.where,
                    hint=f"publish another one, or netorch down {of}",
                )


def listener(protocol: str, number: int) -> str | None:
    """Who listens on a port, as far as an ordinary user can see; None: nobody that is to be seen."""
    for one in listening.listeners():
        if (one.protocol, one.port) == (protocol, number):
            name = _names({one.inode}).get(one.inode) or f"a program of user {_user(one.uid)}"
            return f"{name} listens on {published(one.address, 6 if ':' in one.address else 4)}:{number}"
    return None


def _user(uid: int) -> str:
    import pwd

    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def bridge_netfilter() -> bool:
    """Whether br_netfilter hands frames of bridges to iptables and nft (ip-sysctl.rst, bridge-nf-call-*)."""
    for path in _BRIDGE_NETFILTER:
        with suppress(OSError), open(path, encoding="ascii") as file:
            if file.read().strip() == "1":
                return True
    return False


# -- labs ----------------------------------------------------------------------------------------


def _published(id: str) -> Iterator[tuple[str, publish.Mark]]:
    """The labs of this host with each port that they publish."""
    from netns_orch.kernel import hosttable

    for table in hosttable.recover():
        comments = nftables.list_comments("inet", hosttable.PREFIX + table.lab, publish.CHAIN)
        marks = (publish.read_mark(comment) for comment in comments if table.id == id)
        yield from ((table.lab, mark) for mark in marks if mark is not None)


def _lab(lab: str, mark: publish.Mark) -> PortHolder:
    who = f"lab {lab} publishes {mark.key.removeprefix('port ')}"
    return PortHolder(mark.protocol, mark.family, mark.address, mark.port, who)


# -- processes -----------------------------------------------------------------------------------


def _process(one: Listener, name: str | None) -> Iterator[PortHolder]:
    """A socket on any IPv6 address mostly takes IPv4, too."""
    family = 6 if ":" in one.address else 4
    address = None if one.address in ("0.0.0.0", "::") else one.address
    who = f"{name or 'somebody'} listens on {published(address, family)}:{one.port}"
    yield PortHolder(one.protocol, family, address, one.port, who)
    if one.address == "::" and _takes_ipv4(one):
        yield PortHolder(one.protocol, 4, None, one.port, who)


def _takes_ipv4(one: Listener) -> bool:
    """Asked by trying: no file says which socket has IPV6_V6ONLY (ipv6(7))."""
    kind = socket.SOCK_STREAM if one.protocol == "tcp" else socket.SOCK_DGRAM
    with socket.socket(socket.AF_INET, kind | socket.SOCK_CLOEXEC) as probe:
        if one.protocol == "tcp":  # what only lingers in TIME_WAIT is no obstacle
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("0.0.0.0", one.port))
        except OSError as error:
            return error.errno == errno.EADDRINUSE
    return False


def _names(inodes: set[int]) -> dict[int, str]:
    """``nginx (pid 12)`` for each socket; without those that no process we can see holds."""
    found: dict[int, str] = {}
    for pid in filter(str.isdigit, os.listdir("/proc")):
        for inode in _held(pid) & inodes:
            with suppress(OSError), open(f"/proc/{pid}/comm", encoding="utf-8", errors="replace") as file:
                found.setdefault(inode, f"{file.read().strip()} (pid {pid})")
    return found


def _held(pid: str) -> set[int]:
    """The sockets that a process has open."""
    held = set()
    with suppress(OSError):
        for name in os.listdir(f"/proc/{pid}/fd"):
            with suppress(OSError):
                if match := _SOCKET.match(os.readlink(f"/proc/{pid}/fd/{name}")):
                    held.add(int(match.group(1)))
    return held
