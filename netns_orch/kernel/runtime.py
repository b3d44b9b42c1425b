"""Containers, seen from outside: made, started, stopped, asked.

Owns: the conversation with the zygote (making) and with each PID 1 (its control socket), stopping, and the
translation of what they say into errors with a place in the lab file.
Must not: mount, clone or confine anything itself, or know how a container is wired.
"""

from __future__ import annotations

import errno
import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from netns_orch.errors import EXIT_FAILED, KernelError, Where
from netns_orch.kernel import idranges, ids, init, interpreter, namespaces, realm, users
from netns_orch.kernel import syscalls as sc
from netns_orch.kernel.interrupts import Interrupted
from netns_orch.kernel.rundir import boot_id, make_directories, process_start_time, replace_file
from netns_orch.records import dataclass
from netns_orch.resources import ContainerSpec, ProcessSpec

if TYPE_CHECKING:
    import threading

T = TypeVar("T")
DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_ANSWER_TIMEOUT = 600.0
"""Seconds to wait for PID 1's answer: it may have to give another command its grace period first."""
_GONE_TIMEOUT = 30.0
_WINDOW = 64
"""Orders given to the zygote, or starts asked of PID 1s, that are not answered yet."""
_NOT_MAPPED = (
    "the container's users have other ids than the host's, which takes a file system that can be mounted "
    "with mapped ids (ext4, xfs, btrfs, and tmpfs since Linux 6.3; not overlay, as inside another container, "
    "nor network file systems): use `rootfs: DIRECTORY` on one that can, or leave `namespaces.user` out"
)
_INVISIBLE = ("/tmp/", "/run/", "/var/run/", "/dev/shm/")
_HINTS = {
    errno.EAGAIN: "the container's `pids` limit is reached: PID 1 counts too, and what exec starts",
    errno.EMFILE: "up to 600 files are open while containers are made: ulimit -n 1024",
    errno.EPERM: "netorch needs root, with CAP_SYS_ADMIN and CAP_NET_ADMIN",
    errno.ENOSPC: "a limit of the kernel is reached: see /proc/sys/user/max_*_namespaces and fs.mount-max",
    errno.ENODEV: "this kernel has no such file system: `netorch doctor` shows what is missing",
    errno.EOVERFLOW: "its root has directories of a user who has no id in this rootless lab: they can't be "
    "written to; unpack it as yourself, or from a tar file",
    errno.ENOMEM: "the container's memory limit may be too small to start anything in it",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class CreateOrder:
    """What it takes to make one container."""

    name: str
    spec: ContainerSpec
    digest: str
    directory: Path
    """Its directory ``c/<name>``; the files hosts, hostname and resolv.conf lie there already."""
    cgroup_v1: Sequence[str] = ()
    """Its cgroup's directories, one for each v1 hierarchy."""
    cgroup_v2: str | None = None
    seccomp: Path | None = None
    """The compiled filter; None: unconfined."""
    join_netns: str | int | None = None
    """A path or descriptor of the network namespace to join; None: a new one."""
    where: Where | None = None


@dataclass(frozen=True, slots=True)
class Created:
    """A container that stands: its root is changed, its PID 1 waits for orders."""

    name: str
    pid: int
    start_time: int


# -- making --------------------------------------------------------------------------------------


class Zygote:
    """The process that forks containers; as a context manager it ends with the block."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        """In a realm, its parent, which ends at once."""
        self._channel: socket.socket | None = None
        self._buffer = b""
        self._last_id = 0

    def __enter__(self) -> Zygote:
        self.start(None)
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def start(self, lock_fd: int | None = None) -> None:
        """Start it (it takes 15 ms to be ready, which may overlap the caller's work).

        It holds ``lock_fd`` until it has ended, so that a killed caller leaves nobody building unlocked.
        """
        self._channel, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        program = Path(__file__).with_name("zygote.py")
        protected = interpreter.protected()
        inherited = [theirs.fileno(), *([lock_fd] if lock_fd is not None else [])]

        def start(*options: str) -> subprocess.Popen[bytes]:
            return subprocess.Popen(
                [sys.executable, "-I", "-S", "-B", str(program), str(theirs.fileno()), *options],
                executable=f"/proc/self/fd/{protected}" if protected is not None else None,
                pass_fds=inherited if protected is None else [*inherited, protected],
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )

        try:
            around = realm.inside()
            realm.join()
            self._process = start() if around is None else _born_in(around["pid"], lambda: start("orphan"))
        except OSError as error:
            raise KernelError(
                f"the process that forks containers: {error.strerror}", errno=error.errno
            ) from error
        finally:
            theirs.close()
            if protected is not None:
                os.close(protected)

    def close(self) -> None:
        """End it; containers that are still being built end with it."""
        if self._channel is not None:
            with suppress(OSError):  # it has ended
                self._channel.shutdown(socket.SHUT_WR)
                while self._channel.recv(1 << 16):
                    pass  # until it is gone, whose child it may not be
            self._channel.close()
            self._channel = None
        if self._process is not None:
            self._process.wait()
            self._process = None

    def create(self, orders: Sequence[CreateOrder]) -> Iterator[Created]:
        """Make the containers, side by side; each is yielded when it stands, in no given order.

        Raises KernelError where one fails.  Then, and when the caller is interrupted, what is not begun is
        given up, and what is begun is waited for: afterwards nobody goes on building.
        """
        pending: dict[int, CreateOrder] = {}
        left = list(reversed(orders))
        try:
            while left or pending:
                while left and len(pending) < _WINDOW:
                    self._last_id += 1
                    text = _order_json(left[-1], self._last_id)
                    pending[self._last_id] = left.pop()
                    self._send(text)
                message = self._receive()
                done = pending.pop(message["id"], None)
                if done is None or "pid" not in message:
                    raise _create_error(done, message)
                yield Created(done.name, message["pid"], message["start_time"])
        except Interrupted as interrupted:
            _tell_unmade(interrupted, list(pending.values()))
            raise
        finally:
            self._cancel(pending)

    def _cancel(self, pending: dict[int, CreateOrder]) -> None:
        with suppress(KernelError):  # it has ended: then so has all building
            if pending:
                self._send('{"cancel": true}')
            while pending:
                pending.pop(self._receive()["id"], None)

    def _send(self, text: str) -> None:
        if self._channel is None:
            raise KernelError("the process that forks containers is not running")
        try:
            self._channel.sendall(text.encode() + b"\n")
        except (BrokenPipeError, ConnectionResetError):
            pass  # its last words say why
        except OSError as error:
            self.close()  # half a line may be on its way
            what = f"can't speak to the process that forks containers: {error.strerror}"
            raise KernelError(what, errno=error.errno) from error

    def _receive(self) -> dict[str, Any]:
        assert self._channel is not None
        while b"\n" not in self._buffer:
            try:
                data = self._channel.recv(1 << 20)
            except ConnectionResetError:
                data = b""
            if not data:
                raise self._died()
            self._buffer += data
        line, _, self._buffer = self._buffer.partition(b"\n")
        message: dict[str, Any] = json.loads(line)
        return message

    def _died(self) -> KernelError:
        code = self._process.wait() if self._process else 0
        how = f"was killed by signal {-code}" if code < 0 else f"ended with code {code}" if code else "ended"
        hint = _HINTS[errno.ENOMEM] if code in (0, -signal.SIGKILL) else None
        return KernelError(f"the process that forks containers {how}", hint=hint)


def _born_in(holder: int, start: Callable[[], T]) -> T:
    """Start a process in the pid namespace of a realm's holder.

    In a thread: who has entered a pid namespace above which he has no rights can't go back (setns(2)).
    """

    def work(_: threading.Event) -> T:
        pidfd = sc.pidfd_open(holder)
        try:
            sc.setns(pidfd, sc.CLONE_NEWPID)
        finally:
            os.close(pidfd)
        return start()

    return namespaces.run_in_thread(work)


def _order_json(order: CreateOrder, number: int) -> str:
    spec = order.spec
    cgroup = {"v1": list(order.cgroup_v1), "v2": order.cgroup_v2}
    record = {
        "name": order.name,
        "hostname": spec["hostname"],
        "digest": order.digest,
        "created": time.time(),
        "boot_id": boot_id(),
        "capabilities": spec["capabilities"],
        "seccomp": str(order.seccomp) if order.seccomp else None,
        "user_namespace": spec["user_namespace"],
        "layers": spec["root"]["layers"],
        "nesting": spec["nesting"],
        "init": spec["init"],
        "net": spec["net"],
        "privileged": spec["privileged"],
        "ulimits": spec["ulimits"],
        "cgroup": cgroup,
    }
    join = order.join_netns
    if isinstance(join, int):
        join = f"/proc/{os.getpid()}/fd/{join}"
    directory = order.directory
    make_directories(str(directory))
    for name in ("hosts", "resolv.conf", "hostname"):
        (directory / name).touch(mode=0o644)
    (directory / "hostname").write_text(spec["hostname"] + "\n", encoding="utf-8")
    for name in ("hosts", "resolv.conf", "hostname"):
        (directory / name).chmod(0o644)
    return json.dumps(
        {
            "id": number,
            "directory": str(directory),
            "spec": spec,
            "cgroup": cgroup,
            "init": spec["init"],
            "join_netns": join,
            "first_id": idranges.choose(directory) if spec["user_namespace"] else None,
            "record": record,
        }
    )


def _tell_unmade(interrupted: Interrupted, unmade: Sequence[CreateOrder]) -> None:
    """A time-out says for whom, and what may not answer; whoever pressed ctrl-C saw it."""
    if unmade and interrupted.exit_code == EXIT_FAILED:
        hints = [f"not made by then: {', '.join(order.name for order in unmade)}"]
        mounts = [mount for order in unmade for mount in order.spec["mounts"] if mount["kind"] == "bind"]
        if mounts:
            sources = ", ".join(dict.fromkeys(mount["source"] for mount in mounts))
            hints.append(f"a file system that does not answer keeps its container waiting: {sources}")
        interrupted.at(unmade[0].where).hint = "\n".join(hints)


def _create_error(order: CreateOrder | None, message: Mapping[str, Any]) -> KernelError:
    number = message["errno"]
    reason = f": {os.strerror(number)}" if number else ""
    hint = _HINTS.get(number or 0)
    if number == errno.EACCES and (around := realm.inside()):
        in_root = message["what"].startswith("mount ") or not around["cgroups"]
        hint = _HINTS[errno.EOVERFLOW] if in_root else realm.SCOPE
    who = f"container {order.name}" if order else "the process that forks containers"
    return KernelError(
        f"{who} could not {message['what']}{reason}",
        errno=number,
        where=order.where if order else None,
        hint=_NOT_MAPPED if message["what"].startswith("map the ids") else hint,
    )


# -- the command ---------------------------------------------------------------------------------


class Start(NamedTuple):
    """One command to run."""

    directory: Path
    spec: ProcessSpec
    container: Mapping[str, Any]
    """container.json"""
    where: Where | None = None


def start(
    directory: Path, spec: ProcessSpec, container: Mapping[str, Any], where: Where | None = None
) -> None:
    """Have PID 1 run the command; one that runs already is stopped first.

    ``container`` is container.json.  Returns once the program runs; KernelError where it can't be run.
    """
    start_all([Start(directory, spec, container, where)])


def start_all(starts: Sequence[Start]) -> None:
    """``start`` for many containers, side by side; the first error, when all have answered."""
    failures = []
    for first in range(0, len(starts), _WINDOW):
        begun = [_begin(item) for item in starts[first : first + _WINDOW]]
        failures += [failure for item in begun if (failure := item.finish()) is not None]
    if failures:
        raise failures[0]


class _Begun:
    """A start that was asked for; ``finish`` waits for the answer."""

    def __init__(self, item: Start, client: socket.socket | None, failure: KernelError | None) -> None:
        self._item, self._client, self._failure = item, client, failure

    def finish(self) -> KernelError | None:
        """What went wrong, or None."""
        if self._client is None:
            return self._failure
        item = self._item
        try:
            said = answer(self._client)
        except OSError as error:
            return _no_answer(item, error)
        if not said and item.spec["init"]:
            return _no_answer(item, ConnectionResetError(errno.ECONNRESET, "it has ended"))
        return _exec_error(item, said) if "errno" in said else None


def _begin(item: Start) -> _Begun:
    replace_file(f"{item.directory}/process.json", json.dumps(item.spec))
    if item.spec["argv"] is None and status(item.directory).get("state") == "idle":
        return _Begun(item, None, None)
    try:
        request = _start_request(item)
        return _Begun(item, ask(item.directory, request, _ANSWER_TIMEOUT), None)
    except KernelError as error:
        return _Begun(item, None, error)
    except OSError as error:
        return _Begun(item, None, _no_answer(item, error))


def _no_answer(item: Start, error: OSError) -> KernelError:
    return KernelError(
        f"container {item.container['name']}: its PID 1 does not answer ({error.strerror or error})",
        errno=error.errno,
        where=item.where,
        hint="`netorch ps` shows whether it runs; with `init: false` the command ends with its container",
    )


def environment(spec: ProcessSpec, hostname: str, home: str, terminal: bool = False) -> dict[str, str]:
    """The environment of a process: Docker's defaults, and over them what the file says."""
    base = {"PATH": DEFAULT_PATH, "HOSTNAME": hostname, "HOME": home}
    if terminal:
        base["TERM"] = "xterm"
    return base | spec["environment"]


def _start_request(item: Start) -> dict[str, Any]:
    _, spec, container, where = item
    seccomp = container["seccomp"]
    request: dict[str, Any] = {"op": "start", "argv": spec["argv"]}
    if spec["argv"] is None:
        return request
    pid = container["pid"]
    try:
        root = users.root_of(pid)
    except OSError as error:
        raise KernelError(f"container {container['name']} is gone", errno=error.errno, where=where) from error
    try:
        user = users.find(root, spec["user"])
    except users.UnknownUser as error:
        raise KernelError(f"container {container['name']}: {error}", where=where) from error
    finally:
        os.close(root)
    if lack := ids.missing(user.uid, user.gid):
        raise KernelError(f"container {container['name']}: {lack}", where=where, hint=ids.HOW_TO)
    return request | {
        "environment": environment(spec, container["hostname"], user.home),
        "working_dir": spec["working_dir"],
        "user": [user.uid, user.gid, user.groups],
        "init": spec["init"],
        "restart": spec["restart"],
        "stop_signal": signal_number(spec["stop_signal"]),
        "grace": spec["stop_grace_period"],
        "capabilities": container["capabilities"],
        "seccomp": Path(seccomp).read_bytes().hex() if seccomp else None,
        "ulimits": container["ulimits"],
    }


def signal_number(name: str) -> int:
    """``TERM``, ``SIGTERM`` or ``15`` as a number; KernelError for what is none."""
    text = name.upper().removeprefix("SIG")
    if text.isdecimal() and 0 < int(text) <= signal.SIGRTMAX:
        return int(text)
    base, sign, offset = text.partition("+") if "+" in text else text.partition("-")
    with suppress(KeyError, ValueError):
        return int(signal.Signals[f"SIG{base}"]) + (int(f"{sign}{offset}") if sign else 0)
    raise KernelError(f"unknown signal {name!r}", hint="kill(1) -l lists them")


def _exec_error(item: Start, answer: Mapping[str, Any]) -> KernelError:
    _, spec, container, where = item
    name, number, doing = container["name"], answer["errno"], answer["what"]
    program = (spec["argv"] or [""])[0]
    if not doing.startswith("run "):
        reason = f": {os.strerror(number)}" if number else ""
        hint = _HINTS.get(number)
        return KernelError(
            f"container {name} could not {doing}{reason}", errno=number, where=where, hint=hint
        )
    if number == errno.ENOENT:
        return KernelError(
            f"container {name}: {program} is not found in it (127)",
            errno=number,
            where=where,
            hint=missing_hint(program),
        )
    reason = os.strerror(number) if number else "unknown"
    return KernelError(
        f"container {name}: {program} can't be executed: {reason} (126)", errno=number, where=where
    )


def missing_hint(program: str) -> str | None:
    """Why a program that is there on the host is not in the container."""
    if program.startswith(_INVISIBLE) and os.path.exists(program):
        return (
            f"{program} is on the host, but a container has a {program.split('/')[1]!r} of its own at "
            f"/{program.split('/')[1]}: put the program beside the lab file, or give it as a volume"
        )
    if "/" in program and os.path.exists(program):
        return "the interpreter that its first line names, or its loader, is missing in the container"
    return None


def ask(directory: Path, request: Mapping[str, Any], timeout: float) -> socket.socket:
    """Send one request to PID 1; OSError where it does not listen."""
    handle = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    client = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        client.settimeout(timeout)
        client.connect(f"/proc/self/fd/{handle}/control")  # a socket's path holds 107 bytes at most
        client.sendall(json.dumps(request).encode())
        client.shutdown(socket.SHUT_WR)
    except OSError:
        client.close()
        raise
    finally:
        os.close(handle)
    return client


def answer(client: socket.socket) -> dict[str, Any]:
    """What PID 1 says; the stream's end alone is an answer too.  OSError where nothing comes in time."""
    with client:
        data = b"".join(iter(lambda: client.recv(65536), b""))
    said: dict[str, Any] = json.loads(data) if data else {}
    return said


# -- looking -------------------------------------------------------------------------------------


def status(directory: Path) -> dict[str, Any]:
    """The file ``status`` of PID 1: state, pid (inside), exit_code, restarts, started, finished."""
    for _ in range(3):  # PID 1 may be in the middle of writing it
        with suppress(ValueError, FileNotFoundError):
            found: dict[str, Any] = json.loads((directory / "status").read_bytes())
            return found
        time.sleep(0.001)
    return {}


def record(directory: Path) -> dict[str, Any] | None:
    """container.json; None where there is none."""
    with suppress(FileNotFoundError, ValueError):
        found: dict[str, Any] = json.loads((directory / "container.json").read_bytes())
        return found
    return None


def alive(directory: Path) -> bool:
    """Whether the container's PID 1 runs (by pid and start time)."""
    found = record(directory)
    return found is not None and process_start_time(found["pid"]) == found["start_time"]


# -- stopping ------------------------------------------------------------------------------------


def stop(containers: Sequence[tuple[Path, ProcessSpec | None]]) -> None:
    """End containers, side by side: the command by its stop signal and grace period, then all by SIGKILL.

    Returns when every process of them is gone.  A container that is gone already is fine.
    """
    running: dict[int, float] = {}
    now = time.monotonic()
    try:
        for directory, spec in containers:
            pidfd = _open_process(directory)
            if pidfd is not None:
                running[pidfd] = now + _ask_to_end(pidfd, directory, spec)
        _wait(running, kill=True)
        left = _wait(dict.fromkeys(running, time.monotonic() + _GONE_TIMEOUT), kill=False)
    finally:
        for pidfd in running:
            os.close(pidfd)
    if left:
        raise KernelError(
            f"{left} containers did not end on SIGKILL",
            hint="a process that the kernel can't end just now holds them (frozen, or waiting for a disk)",
        )


def stop_commands(directories: Sequence[Path], grace: float) -> None:
    """End commands, side by side, each by its stop signal and SIGKILL after ``grace`` seconds.

    Their containers stay.  What can't be asked (it has ended, or its command is PID 1) is left alone.
    """
    asked = []
    for directory in directories:
        if alive(directory):
            with suppress(OSError):
                asked.append(ask(directory, {"op": "stop", "signal": None, "grace": grace}, grace + 10))
    for client in asked:
        with suppress(OSError, ValueError):
            answer(client)


def _open_process(directory: Path) -> int | None:
    found = record(directory)
    if found is None:
        return None
    try:
        pidfd = sc.pidfd_open(found["pid"])
    except OSError:
        return None
    if process_start_time(found["pid"]) != found["start_time"]:
        os.close(pidfd)
        return None
    return pidfd


def _ask_to_end(pidfd: int, directory: Path, spec: ProcessSpec | None) -> float:
    """Send the signal that ends the container; how many seconds it may take before SIGKILL."""
    number, grace = int(signal.SIGKILL), 0.0
    if spec is not None and spec["argv"] is not None and status(directory).get("state") == "running":
        number = int(init.STOP) if spec["init"] else signal_number(spec["stop_signal"])
        grace = spec["stop_grace_period"]
    with suppress(ProcessLookupError):
        sc.pidfd_send_signal(pidfd, number)
    return grace


def _wait(deadlines: Mapping[int, float], kill: bool) -> int:
    """Wait for processes to end, each until its deadline; then SIGKILL it (``kill``).  How many are left."""
    poll = select.poll()
    left = dict(deadlines)
    for pidfd in left:
        poll.register(pidfd, select.POLLIN)
    while left:
        pause = max(0.0, min(left.values()) - time.monotonic())
        for pidfd, _ in poll.poll(int(pause * 1000) + 1):
            poll.unregister(pidfd)
            del left[pidfd]
        late = [pidfd for pidfd, deadline in left.items() if deadline <= time.monotonic()]
        if late and not kill:
            return len(left)
        for pidfd in late:
            with suppress(ProcessLookupError):
                sc.pidfd_send_signal(pidfd, signal.SIGKILL)
            poll.unregister(pidfd)
            del left[pidfd]
    return 0
