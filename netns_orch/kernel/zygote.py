"""The small process that forks containers.

Owns: the orders, the cgroup v1 that a container's processes are born in, the first process of each
(``clone``), who builds it (``build``), their records, and what becomes of them.
Must not: hold more memory than it must (a fat parent forks slowly), have a second thread, or outlive who
started it.

Run as ``python -I -S zygote.py CHANNEL [orphan]``; CHANNEL is a stream socket.  Each line in is an order
(JSON) with an ``id``, or ``{"cancel": true}``, which drops the orders that are not begun.  Each line out says
what became of one: ``{"id", "pid", "start_time"}``, ``{"id", "errno", "what"}`` or ``{"id", "cancelled"}``.
Any further descriptor it inherited (the lab's lock) is kept until nobody builds any more.

``orphan``: in the pid namespace of a realm, it is not to be its starter's child.  If that one were killed, it
would be left to the host's PID 1, which may take its time to reap it, or never does, and the realm could not
end before.  Whose parent was in that namespace becomes the holder's child, and is reaped at once.
"""

from __future__ import annotations

import os
import sys

if __name__ == "__main__":  # -I leaves only the standard library on the path
    if sys.argv[2:] == ["orphan"] and os.fork():
        os._exit(0)
    sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))

import gc
import json
import select
import signal
import socket
from contextlib import suppress

from netns_orch.kernel import baseline, build, clone, ids, init, mountinfo, realm, rootfs, watch
from netns_orch.kernel import syscalls as sc

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

_AT_ONCE, _BATCH = 48, 24
"""How many containers are being built at a time, at most, and how many are begun together."""

_FEW_BYTES = 1 << 16


def host_facts(inherited: list[int]) -> dict[str, Any]:
    """What every container is made from, read once.

    ``inherited``: the descriptors (the lab's lock) that every process holds as long as it builds.
    """
    mounts = mountinfo.of()
    parts, others = rootfs.parts(mounts) if realm.inside() else (None, rootfs.host_mounts(mounts))
    return {
        "mounts": others,
        "copied": rootfs.copied(mounts) if parts is None else [],
        "parts": parts,
        "tty_group": ids.has("gid", rootfs.TTY),
        "cgroups": rootfs.cgroup_mounts(mounts),
        "masked": rootfs.masks(),
        "read_only": rootfs.read_only_paths(),
        "sysctls": _sysctls_needed(),
        "permitted": _permitted(),
        "name": sc.CommandLine(sc.arguments_area(), "netorch-init"),
        "inherited": inherited,
    }


def _permitted() -> int:
    """This process's permitted capabilities: nobody it forks can have more."""
    with open("/proc/self/status", encoding="ascii", errors="replace") as file:
        return next(int(line.split()[1], 16) for line in file if line.startswith("CapPrm:"))


def _sysctls_needed() -> tuple[tuple[str, str], ...]:
    """Looked up in a network namespace made for it and left at once."""
    own = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    sc.unshare(sc.CLONE_NEWNET)
    net = os.open("/proc/sys/net", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    rows = baseline.needed(net)
    os.close(net)
    sc.setns(own, sc.CLONE_NEWNET)
    os.close(own)
    return rows


class Building:
    """A container under way."""

    def __init__(self, order: dict[str, Any]) -> None:
        self.order = order
        self.doing = "open its files"
        """The step at hand, for the error."""
        self.site: build.Site | None = None
        self.first: clone.First | None = None
        self.watcher = -1
        self.pid = self.start_time = 0
        self.procs: list[int] = []
        """``cgroup.procs`` of its v1 cgroups."""
        self.cgroup: int | None = None
        """A descriptor of its v2 cgroup."""
        self.make_first: sc.Clone | None = None
        """The system call that makes its first process, where a single one does."""
        self.alone = order["first_id"] is not None or _writes_much(order["spec"])
        """Whether it has a builder of its own: one that can't go home, or whose memory is the container's."""

    def open(self, host: dict[str, Any]) -> None:
        """Everything that can be done before the clones."""
        cgroup = self.order["cgroup"]
        self.site = build.Site(self.order, host)
        self.doing = "make its process in its cgroup"
        for directory in cgroup["v1"]:
            self.procs.append(os.open(f"{directory}/cgroup.procs", os.O_WRONLY | os.O_CLOEXEC))
        if cgroup["v2"]:
            self.cgroup = os.open(cgroup["v2"], os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            if self.order["spec"]["nesting"]:
                rootfs.limit_cgroups_below(cgroup["v2"])
        if clone.is_ordinary(self.order):
            self.make_first = clone.ordinary(self.cgroup)

    def make_first_by_steps(self) -> clone.First:
        """Its first process, where it takes more than one system call."""
        assert self.site is not None
        if self.order["init"]:
            return clone.first_process(self.order, self.cgroup)
        first, self.watcher = watch.first_process(self.order, self.site.files, self.cgroup)
        return first

    def enter(self) -> None:
        """On v1 a child is born where its parent is."""
        for procs in self.procs:
            os.write(procs, b"0")

    def close(self) -> None:
        """Close what only the clones needed."""
        for descriptor in (*self.procs, *([] if self.cgroup is None else [self.cgroup])):
            os.close(descriptor)
        self.procs, self.cgroup = [], None
        if self.site is not None:
            self.site.close()
        if self.first is not None:
            self.first.close()

    def give_up(self) -> None:
        """End it, and what watches it."""
        if self.first is not None:
            _kill(self.first)
        if self.watcher >= 0:
            os.close(self.watcher)
            self.watcher = -1


class Zygote:
    """The loop: orders in, containers out; children build while it clones on."""

    def __init__(self, channel: socket.socket, host: dict[str, Any]) -> None:
        self.channel = channel
        self.host = host
        self.buffer = b""
        self.orders: list[dict[str, Any]] = []
        self.building: dict[int, Building] = {}
        self.own_pids = os.open("/proc/self/ns/pid", os.O_RDONLY | os.O_CLOEXEC)
        self.namespaces = build.Home()
        self.builders = min(len(os.sched_getaffinity(0)), 8)
        self.homes: list[str] = []
        """Where this process's own cgroups are, as far as it left them."""
        self.poll = select.poll()
        self.poll.register(channel.fileno(), select.POLLIN)

    def run(self) -> None:
        """Until the channel closes; then nobody goes on building."""
        while True:
            for descriptor, _ in self.poll.poll(0 if self._may_create() else None):
                if descriptor != self.channel.fileno():
                    self._built(descriptor)
                elif not self._receive():
                    self._abandon()
                    return
            if self._may_create():
                batch, self.orders = self.orders[:_BATCH], self.orders[_BATCH:]
                self._create([Building(order) for order in batch])

    def _may_create(self) -> bool:
        return bool(self.orders) and len(self.building) <= _AT_ONCE - _BATCH

    def _receive(self) -> bool:
        data = self.channel.recv(1 << 20)
        *lines, self.buffer = (self.buffer + data).split(b"\n")
        for line in lines:
            order = json.loads(line)
            if "cancel" in order:
                for dropped in self.orders:
                    self._send({"id": dropped["id"], "cancelled": True})
                self.orders = []
            else:
                self.orders.append(order)
        return bool(data)

    def _send(self, message: dict[str, Any]) -> None:
        self.channel.sendall(json.dumps(message).encode() + b"\n")

    def _abandon(self) -> None:
        for item in self.building.values():
            item.give_up()

    def _create(self, batch: list[Building]) -> None:
        """Make the first processes and their builders; they report by a pipe when the container stands.

        All clones of a batch come one right after the other: what this process writes to its memory between
        two of them is what their copies can't share, and the first write to a cgroup v1 waits for all CPUs
        (an RCU grace period), but not those that follow it soon.
        """
        prepared = [item for item in batch if self._try(item, self._open)]
        cloned = [
            item for item in self._clone(prepared) if item.first or self._try(item, self._clone_by_steps)
        ]
        alone = [item for item in cloned if item.alone and self._try(item, self._fork_builder)]
        self._go_home()
        shared = self._fork_builders([item for item in cloned if not item.alone])
        for item in (*shared, *alone):
            self._try(item, self._begin)

    def _try(self, item: Building, step: Callable[[Building], None]) -> bool:
        try:
            step(item)
        except OSError as error:
            self._failed(item, error)
            return False
        return True

    def _failed(self, item: Building, error: OSError) -> None:
        item.give_up()
        if item.pid:
            _forget(item.order)
        item.close()
        message = {"errno": error.errno, "what": f"{item.doing} ({error.strerror})"}
        if item.site is not None:
            message |= build.reported(item.site.report)  # nobody can be recorded who is gone, and said why
            os.close(item.site.report)
        if item.first is not None:
            os.close(item.first.pidfd)
        self._send({"id": item.order["id"]} | message)

    def _open(self, item: Building) -> None:
        item.open(self.host)
        self._note_home(item.order["cgroup"]["v1"])

    def _clone(self, batch: list[Building]) -> list[Building]:
        """The first process of each that a single system call makes; all but those that failed.

        One narrow loop: each page of memory that is written to between two clones is copied once more for
        this process, and kept once more by the container.
        """
        items = [item for item in batch if item.make_first]
        calls = [(i.site, i.procs, i.make_first.arguments, not i.alone) for i in items if i.make_first]
        made: list[int | OSError] = []
        clone3, write, note = sc.Clone.call, os.write, made.append
        for site, procs, arguments, shared_builder in calls:
            try:
                for descriptor in procs:  # on v1 a child is born where its parent is
                    write(descriptor, b"0")
            except OSError as error:
                note(error)
                continue
            pid = clone3(*arguments)
            if not pid and site:
                build.become_first(site, shared_builder)
            note(pid if pid > 0 else sc.Clone.failure())
        for item, result in zip(items, made, strict=True):
            if isinstance(result, OSError):
                self._failed(item, result)
            elif item.make_first:
                item.first = clone.First(result, item.make_first.pidfd)
        return [item for item in batch if item.first or not item.make_first]

    def _clone_by_steps(self, item: Building) -> None:
        assert item.site is not None
        item.enter()
        item.doing = "make its process"
        first = item.make_first_by_steps()
        if not first.pid:
            build.become_first(item.site, not item.alone)
        item.first = first

    def _fork_builder(self, item: Building) -> None:
        """A builder of its own, in its cgroup and its pid namespace."""
        assert item.site is not None and item.first is not None
        item.doing = "make its builder"
        item.enter()
        sc.setns(item.first.pidfd, sc.CLONE_NEWPID)
        pid = -1
        try:
            pid, _ = sc.clone3(0, cgroup=item.cgroup)
        finally:
            if pid:
                sc.setns(self.own_pids, sc.CLONE_NEWPID)
        if not pid:
            build.become_builder(item.site, item.first)

    def _fork_builders(self, batch: list[Building]) -> list[Building]:
        """A builder for each processor, with a share of the batch; the containers that have one now."""
        built = []
        for share in (batch[number :: self.builders] for number in range(min(self.builders, len(batch)))):
            sites = [(item.site, item.first) for item in share if item.site and item.first]
            try:
                pid, _ = sc.clone3(0)
            except OSError as error:
                for item in share:
                    item.doing = "make its builder"
                    self._failed(item, error)
                continue
            if not pid:
                build.become_builders(sites, self.namespaces)
            built += share
        return built

    def _begin(self, item: Building) -> None:
        """Record it, and only then let it come to be: no container runs that nobody can name."""
        assert item.site is not None and item.first is not None
        item.doing = "record it"
        item.pid, item.start_time = _record(item.order, item.first)
        item.site.let_go()
        item.close()
        self.building[item.site.report] = item
        self.poll.register(item.site.report, select.POLLIN)

    def _built(self, report: int) -> None:
        item = self.building.pop(report)
        order, first = item.order, item.first
        assert first is not None
        self.poll.unregister(report)
        failure = build.outcome(report)
        os.close(report)
        message = {"id": order["id"]}
        if failure:
            item.give_up()
            select.select([first.pidfd], [], [], 5)
            _forget(order)
        else:
            message |= {"pid": item.pid, "start_time": item.start_time}
            if item.watcher >= 0:
                os.write(item.watcher, b"!")
                os.close(item.watcher)
        self._send(message | failure)
        os.close(first.pidfd)

    # -- cgroup v1: a child is born where its parent is ------------------------------------------

    def _note_home(self, directories: list[str]) -> None:
        for directory in directories:
            home = os.path.dirname(os.path.dirname(os.path.dirname(directory)))
            if home not in self.homes:
                self.homes.append(home)

    def _go_home(self) -> None:
        """Leave the containers' cgroups, so that they can be removed; home is where the lab's tree hangs."""
        for directory in self.homes:
            sc.write_file(f"{directory}/cgroup.procs", b"0")
        self.homes = []


def _writes_much(spec: dict[str, Any]) -> bool:
    """Whether building it writes more than some pages: that counts as the container's memory."""
    copies = any(mount["kind"] == "volume" for mount in spec["mounts"])
    return copies or sum(map(len, spec["files"].values())) > _FEW_BYTES


def _record(order: dict[str, Any], first: clone.First) -> tuple[int, int]:
    """Write ``container.json`` and ``netns``; returns the pid as all others know it, and the start time.

    Both are replaced whole: who looks at a container while it is made anew sees the old one or the new one.
    """
    pid = clone.in_proc(first.pid, first.pidfd)
    with open(f"/proc/{pid}/stat", "rb") as file:
        start_time = int(file.read().rpartition(b")")[2].split()[19])
    directory = order["directory"]
    about = {"pid": pid, "start_time": start_time, "first_id": first.first_id}
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW
    path, link = f"{directory}/container.json", f"{directory}/netns"
    with open(os.open(f"{path}.new", flags, 0o600), "w", encoding="utf-8") as file:
        json.dump(order["record"] | about, file)
    os.rename(f"{path}.new", path)
    with suppress(FileNotFoundError):
        os.unlink(f"{link}.new")
    os.symlink(f"/proc/{pid}/ns/net", f"{link}.new")
    os.rename(f"{link}.new", link)
    return pid, start_time


def _kill(first: clone.First) -> None:
    with suppress(ProcessLookupError):  # it ends by itself when its builder fails
        sc.pidfd_send_signal(first.pidfd, signal.SIGKILL)


def _forget(order: dict[str, Any]) -> None:
    for name in ("container.json", "netns", "control"):
        with suppress(FileNotFoundError):
            os.unlink(f"{order['directory']}/{name}")


def _forget_modules() -> None:
    """Nothing is imported any more, here or in any PID 1: there the files are the container's."""
    sys.path.clear()
    sys.meta_path.clear()
    sys.path_hooks.clear()
    sys.path_importer_cache.clear()
    sys.excepthook = _silent


def _silent(*_: object) -> None:
    """A traceback would open source files by path, and those are the container's."""


def _is_open(number: int, channel: int) -> bool:
    """Whether it is there still (that of the directory it was found in is not), and not the channel."""
    try:
        os.fstat(number)
    except OSError:
        return False
    return number != channel


def main(channel: int) -> None:
    """Serve orders until the other side closes."""
    os.umask(0o022)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for a container: the kernel reaps
    inherited = [number for number in map(int, os.listdir("/proc/self/fd")) if _is_open(number, channel)]
    stream = socket.socket(fileno=channel)
    stream.set_inheritable(False)
    try:
        zygote = Zygote(stream, host_facts(inherited))
    except OSError as error:
        answer = {"id": None, "errno": error.errno, "what": f"read the host's state ({error.strerror})"}
        with suppress(OSError):  # the other side may have been killed meanwhile
            stream.sendall(json.dumps(answer).encode() + b"\n")
        return
    sc.CommandLine(sc.arguments_area(), "netorch-zygote").set()
    init.note_signals()
    init.warm_up()
    _forget_modules()
    gc.collect()
    gc.disable()
    gc.freeze()
    zygote.run()


if __name__ == "__main__":
    main(int(sys.argv[1]))
