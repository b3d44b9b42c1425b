"""The processes that make a container: its first one, which waits, and its builder.

Owns: what each of them does until the first one is PID 1, and the words between them.
Must not: clone (``clone``), mount (``rootfs``), or go on as PID 1 (``init``).

The builder is root of the host; it makes the mounts, then ends.  The first process touches next to none of
its memory, which it shares with the process that it was forked from, and is all that stays.

One builder makes several containers, one after the other: it enters the namespaces of each but that for
processes, where nobody sees it, and goes home again.  /proc it gets from the first process, for only inside
can it be mounted.  Where the container has a user namespace there is no way home, and where much is written
that is to count as the container's memory: those have a builder of their own, in their cgroup and their pid
namespace.  With a user namespace the mounts are handed to it as a copy, in which nothing that covers or
restricts something can be taken away (locked mounts, mount_namespaces(7)).
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import select
import signal
import socket
import struct
from contextlib import ExitStack, suppress

from netns_orch import capabilities
from netns_orch.kernel import baseline, clone, init, keyring, output, rootfs
from netns_orch.kernel import syscalls as sc

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NoReturn

_SIOCSIFFLAGS, _IFF_UP = 0x8914, 1
_SHARED = sc.CLONE_NEWNET | sc.CLONE_NEWUTS | sc.CLONE_NEWIPC | sc.CLONE_NEWCGROUP
_INSIDE_NEEDS = ("SETPCAP", "SETUID", "SETGID", "KILL", "CHOWN", "SYS_RESOURCE")
"""What PID 1 needs beyond the container's own capabilities: to confine a command, end it, own its pipe."""
_pack = struct.Struct("i").pack
_DECODER = json.JSONDecoder()
_GO, _BUILT, _SPARED, _NOT_SPARED, _PROC = b"go", b"built", b"s", b"n", b"p"

_DIE_WITH_PARENT = sc.prepared("prctl", sc.PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
_LIVE_ON = sc.prepared("prctl", sc.PR_SET_PDEATHSIG, 0, 0, 0, 0)
_NOT_DUMPABLE = sc.prepared("prctl", sc.PR_SET_DUMPABLE, 0, 0, 0, 0)
_NO_NEW_PRIVILEGES = sc.prepared("prctl", sc.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
_NO_AMBIENT = sc.prepared("prctl", sc.PR_CAP_AMBIENT, sc.PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0)
_OPEN_PROC = sc.prepared("fsopen", b"proc", sc.FSOPEN_CLOEXEC)
_FSCONFIG, _FSMOUNT, _SETNS = (sc.NUMBERS.get(name, -1) for name in ("fsconfig", "fsmount", "setns"))


class Site:
    """What both processes inherit: one order, the files, the channel between them, the way to report."""

    def __init__(self, order: dict[str, Any], host: dict[str, Any]) -> None:
        self.order = order
        self.host = host
        with ExitStack() as opened:  # all of it or nothing: too many files may be open
            directory = os.open(order["directory"], os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                self.files = output.create(directory)
                opened.callback(self.files.close)
                self.supervisor = init.Supervisor(self.files, _control(directory))
                opened.callback(os.close, self.supervisor.wake)
                opened.callback(os.close, self.supervisor.woken)
            finally:
                os.close(directory)
            self.report, self.report_in = os.pipe2(os.O_CLOEXEC)
            opened.callback(os.close, self.report_in)
            opened.callback(os.close, self.report)
            self.first_end, self.builder_end = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            opened.pop_all()
        permitted = host["permitted"] if order["first_id"] is None else ~0
        needed = capabilities.mask((*order["record"]["capabilities"], *_INSIDE_NEEDS)) & permitted
        self.held = sc.Capabilities(needed, needed)
        inherited: list[int] = host["inherited"]
        kept = (*inherited, self.report_in, self.first_end.fileno(), *self.supervisor.descriptors())
        self.first_begins = (_DIE_WITH_PARENT, *sc.prepared_close_all_but(kept))
        self.first_closes = [self.first_end.fileno(), *(number for number in inherited if number > 2)]
        self.first_ends = (
            _NO_NEW_PRIVILEGES,  # with it, no execve brings back what goes here
            _NO_AMBIENT,
            self.held.set,
            _NOT_DUMPABLE,
            _LIVE_ON,
        )

    def close(self) -> None:
        """In the zygote: close all but ``report``, of which it hears."""
        for descriptor in self.supervisor.descriptors():
            os.close(descriptor)
        self.supervisor.control.detach()
        for end in (self.first_end, self.builder_end):
            end.close()
        os.close(self.report_in)

    def let_go(self) -> None:
        """In the zygote: the container may come to be."""
        with suppress(ConnectionError):  # a builder that failed is gone, and has reported why
            self.first_end.send(_GO)

    def keep_own(self, *others: int) -> None:
        """In a new process: close what belongs to the containers that are made at the same time."""
        kept = (self.report_in, *others, *self.host["inherited"])
        sc.close_all_but([number for number in kept if number >= 0])

    def tell(self, number: int | None, what: str) -> None:
        """Report a failure; nobody listens any more where the zygote has given it up."""
        with suppress(BrokenPipeError):
            os.write(self.report_in, json.dumps({"errno": number, "what": what}).encode())


def _control(directory: int) -> socket.socket:
    """The control socket, in the container's directory on the host."""
    with suppress(FileNotFoundError):
        os.unlink("control", dir_fd=directory)
    control = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    control.bind(f"/proc/self/fd/{directory}/control")
    control.listen(16)
    return control


# -- the first process ---------------------------------------------------------------------------


def become_first(site: Site, shared_builder: bool) -> NoReturn:
    """From the clone to PID 1's loop; never returns.

    ``shared_builder``: its builder makes others, too, and is to be given /proc.

    Each page of memory that is written to on the way is one more that this container holds for ever, and a
    call of a Python function writes to several: so system calls are prepared before, and made in a row.
    """
    doing = "begin its first process"
    try:
        for call in site.first_begins:
            sc.make(*call)
        if shared_builder:
            doing = "mount /proc"
            context = sc.make(*_OPEN_PROC)
            sc.make(_FSCONFIG, context, sc.FSCONFIG_CMD_CREATE, None, None, 0)
            proc = sc.make(_FSMOUNT, context, sc.FSMOUNT_CLOEXEC, rootfs.PLAIN)
            site.first_end.sendmsg([_PROC], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, _pack(proc))])
            os.close(context)
            os.close(proc)
            doing = "become its first process"
        _first(site)
        os.write(site.report_in, _BUILT)
        os.close(site.report_in)
        site.supervisor.run()
    except OSError as error:
        site.tell(error.errno, f"{doing} ({error.strerror})")
    except Exception as error:  # noqa: BLE001 - nothing may unwind into the zygote's loop
        site.tell(None, f"go on: {error!r}")
    finally:
        os._exit(1)


def _first(site: Site) -> None:
    word, descriptors = _received(site.first_end)
    if not descriptors:
        os._exit(1)  # the builder failed, and has said why
    mounts, null, proc, _view, *builder = descriptors
    if builder:
        select.select(builder, [], [])  # root of the host is gone before anybody else is here
    sc.make(_SETNS, mounts, sc.CLONE_NEWNS)
    os.umask(0o022)
    site.host["name"].set()
    site.supervisor.begin(null, proc, word == _SPARED)
    for number in (0, 1, 2):
        os.dup2(null, number)
    for number in (mounts, *builder, *site.first_closes):
        os.close(number)
    keyring.join_new()
    for call in site.first_ends:
        sc.make(*call)
    os.setsid()  # by this others know that the container may be entered (``users.root_of``)


# Messages and their descriptors, without the help of the socket module's Python part.


def _send(channel: socket.socket, word: bytes, descriptors: list[int]) -> None:
    data = b"".join(_pack(number) for number in descriptors)
    channel.sendmsg([word], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, data)])


def _received(channel: socket.socket) -> tuple[bytes, list[int]]:
    try:
        word, messages, _, _ = channel.recvmsg(8, 128)
    except ConnectionResetError:  # the end, where the other side left something unread
        return b"", []
    return word, memoryview(messages[0][2]).cast("i").tolist() if messages else []


# -- the builder ---------------------------------------------------------------------------------


class Home:
    """The mounts and the root of the process that forks builders: where they come back to."""

    def __init__(self) -> None:
        self._pid = os.getpid()
        self._process = sc.pidfd_open(self._pid)
        self._root = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)

    def descriptors(self) -> list[int]:
        """What must stay open."""
        return [self._process, self._root]

    def is_left(self) -> bool:
        """In a process that it forked: whether it was gone before that one asked to die with it."""
        return os.getppid() != self._pid

    def enter(self) -> None:
        """Come back; setns(2) would go to the root of the mounts, which need not be ours.

        To the mounts alone: the others are left for the next container's, and some of them, in the realm of a
        rootless lab, are the host's still.
        """
        sc.setns(self._process, sc.CLONE_NEWNS)
        os.fchdir(self._root)
        os.chroot(".")


def become_builders(sites: list[tuple[Site, clone.First]], home: Home) -> NoReturn:
    """Build several containers around their first processes, hand them over, and end."""
    try:
        sc.prctl(sc.PR_SET_PDEATHSIG, signal.SIGKILL)
        if home.is_left():
            os._exit(1)  # the word to go on would never come, and the lab's lock be held for ever
        sc.prctl(sc.PR_SET_DUMPABLE, 0)
        own = os.open("/proc/self", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        shared = [own, *home.descriptors(), *sites[0][0].host["inherited"]]
        while True:
            # What the one before was made with is closed with this, too.
            ends = [end for site, first in sites for end in _ends(site, first)]
            sc.close_all_but([*shared, *ends])
            site, first = sites[0]
            builder = rootfs.Builder(site.order, site.host)
            try:
                _build(site, first, builder, own)
            except OSError as error:
                site.tell(error.errno, f"{builder.doing} ({error.strerror})")
            del sites[0]
            if not sites:
                break
            home.enter()
    except Exception as error:  # noqa: BLE001 - nothing may unwind into the zygote's loop
        for site, _ in sites:
            site.tell(getattr(error, "errno", None), f"go on: {error!r}")
    finally:
        os._exit(0)


def _ends(site: Site, first: clone.First) -> tuple[int, int, int]:
    return site.builder_end.fileno(), site.report_in, first.pidfd


def become_builder(site: Site, first: clone.First) -> NoReturn:
    """Build one with a user namespace."""
    builder = rootfs.Builder(site.order, site.host, first.user, first.first_id or 0)
    try:
        sc.prctl(sc.PR_SET_PDEATHSIG, signal.SIGKILL)
        sc.prctl(sc.PR_SET_DUMPABLE, 0)
        site.keep_own(site.builder_end.fileno(), first.pidfd, first.user)
        _build(site, first, builder, -1)
    except OSError as error:
        site.tell(error.errno, f"{builder.doing} ({error.strerror})")
    except Exception as error:  # noqa: BLE001 - nothing may unwind into the zygote's loop
        site.tell(None, f"go on: {error!r}")
    finally:
        os._exit(1)


def _build(site: Site, first: clone.First, builder: rootfs.Builder, own: int) -> None:
    """``own``: the builder's directory of the host's /proc; -1: it is in the container's pid namespace."""
    builder.doing = "enter its namespaces"
    words = _Words(site.builder_end)
    if own >= 0:
        builder.proc = words.proc()
    sc.setns(first.pidfd, _SHARED)
    sc.unshare(sc.CLONE_NEWNS)
    os.umask(0)
    if first.first_id is not None:
        sc.set_file_owner(first.first_id, first.first_id)
    builder.build()
    builder.doing = "set its hostname"
    sc.sethostname(site.order["spec"]["hostname"])
    if not site.order["join_netns"]:
        builder.doing = "set its network sysctls"
        _network(builder.proc, site.host["sysctls"])
    builder.finish()
    null = os.open("null", os.O_RDWR | os.O_CLOEXEC, dir_fd=builder.dev)
    builder.enter()
    builder.doing = "hand it over"
    proc = builder.proc
    # Commands could not be given another score in a user namespace: they would be spared, too.
    spared = first.user < 0 and init.set_oom_score(proc, "1", init.OOM_SPARED)
    if first.user >= 0:
        sc.setns(first.user, sc.CLONE_NEWUSER)
        sc.unshare(sc.CLONE_NEWNS)
        null = _again(null, "/dev/null", os.O_RDWR)
        proc = _again(proc, "/proc", os.O_PATH | os.O_DIRECTORY)
    words.go()
    handed = [-1, null, proc, builder.view]
    if own < 0:
        own = os.open("self", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=proc)
        handed.append(sc.pidfd_open(os.getpid()))  # to wait for
    handed[0] = os.open("ns/mnt", os.O_RDONLY | os.O_CLOEXEC, dir_fd=own)
    _send(site.builder_end, _SPARED if spared else _NOT_SPARED, handed)


class _Words:
    """What a builder hears, in any order: /proc from the first process, the word to go on from the zygote."""

    def __init__(self, channel: socket.socket) -> None:
        self._channel = channel
        self._proc = -1
        self._may_go = False

    def proc(self) -> int:
        """The container's /proc, mounted nowhere."""
        while self._proc < 0:
            self._hear()
        return self._proc

    def go(self) -> None:
        """Wait until the container may come to be; the zygote may be gone, or could not record it."""
        while not self._may_go:
            self._hear()

    def _hear(self) -> None:
        word, descriptors = _received(self._channel)
        if word == _PROC:
            (self._proc,) = descriptors
        elif word == _GO:
            self._may_go = True
        else:
            raise OSError(errno.ECHILD, "its first process is gone")


def _network(proc: int, rows: tuple[tuple[str, str], ...]) -> None:
    """The base line of sysctls, and lo up."""
    net = os.open("sys/net", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=proc)
    baseline.write(net, rows)
    os.close(net)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as link:
        fcntl.ioctl(link, _SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", _IFF_UP))


def _again(descriptor: int, path: str, flags: int) -> int:
    """The same file by a path of the copied mounts; the file at hand where another one lies there."""
    try:
        found = os.open(path, flags | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return descriptor
    if os.path.samestat(os.fstat(found), os.fstat(descriptor)):
        return found
    os.close(found)
    return descriptor


def reported(site_report: int) -> dict[str, Any]:
    """What one of them has reported so far; empty: nothing."""
    ready, _, _ = select.select([site_report], [], [], 0)
    text = os.read(site_report, 65536) if ready else b""
    return _failure(text) if text and text != _BUILT else {}


def outcome(site_report: int) -> dict[str, Any]:
    """What became of it, from the pipe that both report to; empty: it stands."""
    text = os.read(site_report, 65536)
    if text == _BUILT:
        return {}
    return _failure(text) if text else {"errno": None, "what": "stay alive (it was killed)"}


def _failure(text: bytes) -> dict[str, Any]:
    """Both may have failed by now, one because of the other: who reported first knows why."""
    failure: dict[str, Any] = _DECODER.raw_decode(text.decode())[0]
    return failure
