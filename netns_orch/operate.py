"""What is done to a lab that runs, and leaves its definition alone: pause, kill, wait, cp, top, stats.

Owns: which containers are meant, and what these commands tell.  Must not: change what ``status`` compares
(that is ``lab``), or speak to the kernel but through ``kernel.driver``.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, BinaryIO

from netns_orch import lab as labs
from netns_orch.errors import KernelError, UsageError
from netns_orch.kernel.driver import LabKernel, signal_number
from netns_orch.resources import Container, Process

if TYPE_CHECKING:
    from netns_orch.kernel.copy import Report

_FIRST = 0.5
"""Seconds to the first picture of ``stats``, whatever its interval: it needs two looks."""


def choose(
    lab: str, nodes: Sequence[str], labels: Mapping[str, str | None] | None = None, every: bool = False
) -> list[str]:
    """The containers that are meant, in file order, each once.

    ``nodes`` are names, also of scaled containers; else those that bear all ``labels`` (value None: any);
    else (``every``) all.  UsageError where that is nobody.
    """
    kernel, applied = labs.known(lab)
    names = [container.name for container in applied.state.of(Container)]
    about = kernel.directory.read_json("lab.json") or {}
    groups = about.get("groups", {})
    chosen: set[str] = set(names if every else ())
    for node in nodes:
        if node not in names and node not in groups:
            raise labs.unknown_node(lab, node, [*names, *groups])
        chosen.update([node] if node in names else groups[node])
    if labels:
        chosen.update(n for n in names if _fits(about.get("containers", {}).get(n, {}), labels))
        if not chosen:
            words = " ".join(key if value is None else f"{key}={value}" for key, value in labels.items())
            raise UsageError(f"no container of lab {lab} has the label {words}")
    return [name for name in names if name in chosen]


def _fits(about: Mapping[str, Any], labels: Mapping[str, str | None]) -> bool:
    own = about.get("labels") or {}
    return all(key in own and value in (None, own[key]) for key, value in labels.items())


def with_command(lab: str, names: Sequence[str]) -> list[str]:
    """Those of the containers that have a command; UsageError where none has."""
    _, applied = labs.known(lab)
    argv = {p.container: p.spec["argv"] for p in applied.state.of(Process) if p.spec is not None}
    found = [name for name in names if argv.get(name) is not None]
    if not found:
        raise UsageError(f"lab {lab}: {', '.join(names[:10])}: none of them has a command")
    return found


def pause(lab: str, nodes: Iterable[str], *, wait: float | None = None) -> None:
    """Freeze containers; those that are frozen stay so.  ``wait`` is for the lab's lock, in seconds."""
    kernel, _ = labs.known(lab)
    with labs.working(kernel, "pause", wait):
        for running in [kernel.running(node) for node in nodes]:
            running.pause()


def unpause(lab: str, nodes: Iterable[str]) -> None:
    """Let containers go on; those that are not frozen are fine.

    It waits for no other netorch: that one may be waiting for the very container that is frozen.
    """
    kernel, _ = labs.known(lab)
    for running in [kernel.running(node) for node in nodes]:
        running.unpause()


def kill(lab: str, nodes: Iterable[str], signal: str = "KILL") -> None:
    """Send the commands of containers a signal (``KILL``, ``SIGKILL`` or ``9``)."""
    kernel, _ = labs.known(lab)
    try:
        number = signal_number(signal)
    except KernelError as error:
        raise UsageError(error.what, hint=error.hint) from None
    for running in [kernel.running(node) for node in nodes]:
        running.kill(number)


def wait(lab: str, node: str) -> int:
    """Block until the command of a container has ended; its exit code.

    With ``init: false`` the container ends with its command, whose code is kept.
    """
    kernel, _ = labs.known(lab)
    seen = kernel.view(node)
    if seen["state"] == "exited" and seen["pid"] is None and seen["exit_code"] is not None:
        code: int = seen["exit_code"]
        return code
    return kernel.running(node).wait()


def top(lab: str, node: str) -> list[dict[str, Any]]:
    """The processes of a container, by their pid inside (``kernel.processes.listing``)."""
    kernel, _ = labs.known(lab)
    return kernel.running(node).processes()


# -- stats -----------------------------------------------------------------------------------------


def stats(lab: str, interval: float, *, nodes: Sequence[str] = ()) -> Iterator[list[dict[str, Any]]]:
    """Rows of what each container uses, again and again, ``interval`` seconds apart; all, or ``nodes``.

    A row: lab name state cpu_percent (100: one CPU) memory memory_limit memory_peak pids pids_limit rx_bytes
    tx_bytes read_bytes written_bytes oom_kills; bytes, totals since the container was made; None where this
    host does not count it.  Ends when the lab goes.
    """
    before = _look(lab, nodes)
    time.sleep(min(interval, _FIRST))
    while True:
        try:
            now = _look(lab, nodes)
        except UsageError:
            return
        yield [_row(lab, name, seen, before.get(name)) for name, seen in now.items()]
        before = now
        time.sleep(interval)


def _look(lab: str, nodes: Sequence[str]) -> dict[str, dict[str, Any]]:
    kernel, applied = labs.known(lab)
    names = nodes or [container.name for container in applied.state.of(Container)]
    return {name: _counters(kernel, name) for name in names}


def _counters(kernel: LabKernel, name: str) -> dict[str, Any]:
    try:
        usage = kernel.running(name).usage()
        links = {ifname: counts for ifname, counts in kernel.traffic(name).items() if ifname != "lo"}
    except KernelError:
        return {"state": kernel.view(name)["state"], "at": time.monotonic()}
    traffic = {f"{way}_bytes": sum(each[f"{way}_bytes"] for each in links.values()) for way in ("rx", "tx")}
    return {"state": kernel.view(name)["state"], "at": time.monotonic(), **usage, **traffic}


_COUNTED = (
    "memory",
    "memory_limit",
    "memory_peak",
    "pids",
    "pids_limit",
    "rx_bytes",
    "tx_bytes",
    "read_bytes",
    "written_bytes",
    "oom_kills",
)


def _row(lab: str, name: str, now: Mapping[str, Any], before: Mapping[str, Any] | None) -> dict[str, Any]:
    row = {"lab": lab, "name": name, "state": now["state"], "cpu_percent": _cpu(now, before or {})}
    return row | {key: now.get(key) for key in _COUNTED}


def _cpu(now: Mapping[str, Any], before: Mapping[str, Any]) -> float | None:
    used, used_before = now.get("cpu_usec"), before.get("cpu_usec")
    if used is None or used_before is None:
        return None
    seconds: float = max(now["at"] - before["at"], 1e-6)
    percent: float = max(0, used - used_before) / seconds / 1e4
    return round(percent, 2)


# -- cp --------------------------------------------------------------------------------------------


def copy_out(lab: str, node: str, path: str, target: str, *, archive: bool, follow: bool) -> Report:
    """Copy a file or directory of a container to a path of the host."""
    return _copy(lab, node, lambda inside, host: (inside.at(path, follow), host, target), archive)


def copy_in(lab: str, source: str, node: str, path: str, *, archive: bool, follow: bool) -> Report:
    """Copy a file or directory of the host to a path of a container."""
    return _copy(lab, node, lambda inside, host: (host.at(source, follow), inside, path), archive)


def _copy(lab: str, node: str, ends: Callable[[Any, Any], tuple[Any, Any, str]], archive: bool) -> Report:
    from netns_orch.kernel import copy

    kernel, _ = labs.known(lab)
    with copy.Tree.of_container(kernel.running(node).pid, node) as inside, copy.Tree.of_host() as host:
        source, tree, target = ends(inside, host)
        return copy.copy(source, tree, target, keep_owner=archive)


def copy_to_stream(lab: str, node: str, path: str, stream: BinaryIO, *, follow: bool) -> Report:
    """Write a file or directory of a container to ``stream``, as tar."""
    from netns_orch.kernel import copy

    kernel, _ = labs.known(lab)
    with copy.Tree.of_container(kernel.running(node).pid, node) as inside:
        return copy.to_stream(inside.at(path, follow), stream)


def copy_from_stream(lab: str, stream: BinaryIO, node: str, path: str, *, archive: bool) -> Report:
    """Unpack a tar stream (also compressed) into a directory of a container."""
    from netns_orch.kernel import copy

    kernel, _ = labs.known(lab)
    with copy.Tree.of_container(kernel.running(node).pid, node) as inside:
        return copy.from_stream(stream, inside, path, keep_owner=archive)
