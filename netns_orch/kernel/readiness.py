"""Readiness: whether a container answers its ``ready`` probe, looked at from the host.

Owns: the four probes (tcp, exec, log, file), their deadline, and what they say is missing.
Must not: start anything of the container, or run any program of the host inside it.
"""

from __future__ import annotations

import os
import re
import shlex
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from netns_orch.errors import KernelError, Where
from netns_orch.kernel import enter, logfile, runtime, users
from netns_orch.kernel import syscalls as sc
from netns_orch.kernel.namespaces import call_in_netns, open_netns
from netns_orch.resources import ProcessSpec

_FIRST_PAUSE, _LONGEST_PAUSE = 0.01, 0.25
_CONNECT_TIMEOUT = 1.0
_EXEC_SHORTEST, _EXEC_LONGEST = 0.5, 10.0
_LISTEN = "0A"
_LOG_LINES = 10
_Listener = tuple[socket.AddressFamily, str, int]
Probe = Callable[[float], str | None]
"""Given the seconds that are left: what is missing, or None where the container is ready."""


class Watch(NamedTuple):
    """A container whose readiness is waited for."""

    directory: Path
    spec: ProcessSpec
    where: Where | None
    log_start: int
    """Where the log ended when it began: what an earlier command printed does not count."""


def watch(directory: Path, spec: ProcessSpec, where: Where | None = None) -> Watch:
    """Begin to watch a container, before its command is started."""
    return Watch(directory, spec, where, logfile.size(directory / "log"))


def wait(watched: Watch, cancelled: threading.Event) -> None:
    """Wait until the container is ready; KernelError at its timeout, or when its command ends before.

    Without ``ready`` a container is ready at once.  Returns as soon as it is ``cancelled``, ready or not.
    """
    ready = watched.spec["ready"]
    if ready is None:
        return
    probe = _probe(watched, cancelled)
    deadline, pause = time.monotonic() + ready["timeout"], _FIRST_PAUSE
    while True:
        over = _over(watched)  # asked before probing: the last thing that it did may have made it ready
        left = deadline - time.monotonic()
        missing = probe(left)
        if missing is None or cancelled.is_set():
            return
        if over:
            raise _not_ready(watched, over, missing)
        if left <= 0:
            raise _not_ready(watched, f"after {ready['timeout']:g} s", missing)
        cancelled.wait(min(pause, max(0.0, deadline - time.monotonic())))
        pause = min(pause * 2, _LONGEST_PAUSE)


def _over(watched: Watch) -> str | None:
    """Why it can't become ready any more; None as long as it can."""
    if not runtime.alive(watched.directory):
        return "and its PID 1 has ended"
    status = runtime.status(watched.directory)
    if watched.spec["argv"] is not None and status.get("state") == "exited":
        return f"and its command has ended with exit code {status.get('exit_code')}"
    return None


def _not_ready(watched: Watch, why: str, missing: str) -> KernelError:
    tail = b"".join(logfile.read(watched.directory / "log", tail=_LOG_LINES, follow_while=None))
    return KernelError(
        f"container {watched.directory.name} is not ready {why}: {missing}",
        where=watched.where,
        details=tail.decode(errors="replace").rstrip() or None,
        hint="netorch up --keep-failed leaves it for inspection",
    )


def _probe(watched: Watch, cancelled: threading.Event) -> Probe:
    ready = watched.spec["ready"] or {}
    if "tcp" in ready:
        return lambda _: _tcp_missing(watched.directory, ready["tcp"])
    if "exec" in ready:
        return lambda left: _exec_missing(watched.directory, ready["exec"], left, cancelled)
    if "log" in ready:
        pattern = re.compile(ready["log"].encode(), re.MULTILINE)
        return lambda _: _log_missing(watched, pattern)
    return lambda _: _file_missing(watched.directory, ready["file"])


# -- tcp -----------------------------------------------------------------------------------------


def _tcp_missing(directory: Path, port: int) -> str | None:
    about = runtime.record(directory)
    try:
        fd = open_netns(about["pid"] if about else 0)
    except OSError:
        return "it is gone"
    try:
        return call_in_netns(fd, _tcp_missing_here, port)
    finally:
        os.close(fd)


def _tcp_missing_here(port: int) -> str | None:
    """What keeps a connection to any address of this namespace from being accepted."""
    listeners = list(_listeners())
    fitting = [(family, address) for family, address, number in listeners if number == port]
    if any(_connects(family, address, port) for family, address in fitting):
        return None
    if fitting:
        return f"nothing answers on TCP port {port} at {fitting[0][1]}, though something listens there"
    others = sorted({number for _, _, number in listeners})
    told = f", only on {', '.join(map(str, others))}" if others else ""
    return f"nothing listens on TCP port {port}{told}"


def _connects(family: socket.AddressFamily, address: str, port: int) -> bool:
    with suppress(OSError), socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.settimeout(_CONNECT_TIMEOUT)
        probe.connect((address, port))
        return True
    return False


def _listeners() -> Iterator[_Listener]:
    """The addresses that somebody listens on (proc_net(5): tcp and tcp6, state 0A)."""
    for table, family in (("tcp", socket.AF_INET), ("tcp6", socket.AF_INET6)):
        with suppress(FileNotFoundError), open(f"/proc/thread-self/net/{table}", encoding="ascii") as rows:
            next(rows)
            for row in rows:
                _, local, _, state, *_ = row.split()
                address, _, port = local.partition(":")
                if state == _LISTEN:
                    yield from ((kind, at, int(port, 16)) for kind, at in _reachable(family, address))


def _reachable(family: socket.AddressFamily, text: str) -> list[tuple[socket.AddressFamily, str]]:
    """The address of such a row (words in host order).

    A wildcard is reached by loopback; that of IPv6 serves IPv4 too, and lo may have no IPv6 address.
    """
    words = [int(text[at : at + 8], 16) for at in range(0, len(text), 8)]
    if any(words):
        return [(family, socket.inet_ntop(family, struct.pack(f"={len(words)}I", *words)))]
    loopback = (socket.AF_INET, "127.0.0.1")
    return [loopback] if family == socket.AF_INET else [(family, "::1"), loopback]


# -- the others ----------------------------------------------------------------------------------


def _exec_missing(
    directory: Path, argv: Sequence[str], left: float, cancelled: threading.Event
) -> str | None:
    timeout = min(max(left, _EXEC_SHORTEST), _EXEC_LONGEST)
    done = enter.run(directory, argv, timeout=timeout, cancelled=cancelled)
    if done.code == 0:
        return None
    words = argv[2] if list(argv[:2]) == ["/bin/sh", "-c"] else shlex.join(argv)
    said = done.output.decode(errors="replace").strip().splitlines()[-1:]
    how = "did not end" if done.timed_out else f"exited {done.code}"
    return ": ".join([f"`{words}` {how}", *said])


def _log_missing(watched: Watch, pattern: re.Pattern[bytes]) -> str | None:
    log = logfile.read(watched.directory / "log", tail=None, follow_while=None, since=watched.log_start)
    if pattern.search(b"".join(log)):
        return None
    return f"its output has nothing that matches {pattern.pattern.decode()!r}"


def _file_missing(directory: Path, path: str) -> str | None:
    """Looked up inside the container, links followed as the container would."""
    about = runtime.record(directory)
    try:
        root = users.root_of(about["pid"] if about else 0)
    except OSError:
        return "it is gone"
    try:
        os.close(sc.openat2(root, path, os.O_PATH, sc.RESOLVE_IN_ROOT | sc.RESOLVE_NO_MAGICLINKS))
    except OSError as error:
        return f"{path}: {os.strerror(error.errno or 0)}"
    finally:
        os.close(root)
    return None
