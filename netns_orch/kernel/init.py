"""PID 1 of a container: reaps orphans, runs the command, keeps its exit code and its output.

Owns: the command's life (start, restart policy, stop), the files ``status`` and ``log``, the control socket.
Must not: import, decode by a new codec, or look anything up once the root has changed, for the files there
are the container's; hold a descriptor that it does not need; be dumpable.

Control socket: one request a connection.  The client sends a JSON object and shuts its side down; the answer
is a JSON object, then the end of the stream.  ``{"op": "start", ...}`` answers ``{"pid": n}`` or ``{"errno":
n, "what": text}``; ``{"op": "stop", "signal": n, "grace": s}`` answers when the command is gone; ``{"op":
"kill", "signal": n}`` answers ``{"pid": n}`` or, where no command runs, ``{}``; ``{"op": "status"}``.  With
``init: false`` PID 1 becomes the command: then the stream just ends, and the process outside (``watch``) goes
on with the files.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import select
import socket
import time
from contextlib import suppress

from netns_orch.kernel import confine, output
from netns_orch.kernel import syscalls as sc

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal
    from types import FrameType
    from typing import Any, NoReturn
else:
    import _signal as signal  # the module around it makes an enum of each number, each time

STOP = signal.SIGRTMIN + 3
"""Sent to PID 1 from outside: end the command by its stop signal, then the container."""
DELAY_FIRST, DELAY_LAST, DELAY_RESET = 0.1, 10.0, 10.0
"""Seconds: before the first restart, at most, and how long a run must last to begin anew."""
OOM_SPARED, OOM_USUAL, OOM_PREFERRED = "-999", "0", "500"
"""oom_score_adj: PID 1's; a command's; a command's where PID 1's could not be lowered."""
REQUEST_LIMIT = 8 << 20
_FORWARDED = (
    signal.SIGTERM,
    signal.SIGINT,
    signal.SIGHUP,
    signal.SIGQUIT,
    signal.SIGUSR1,
    signal.SIGUSR2,
    signal.SIGALRM,
    signal.SIGWINCH,
)
_IGNORED_BY_PYTHON = (signal.SIGPIPE, signal.SIGXFSZ)
_REPORT = 3
"""The one descriptor above 2 that a command's process holds until execve."""


class Command:
    """A ``start`` request."""

    def __init__(self, request: dict[str, Any]) -> None:
        self.argv: list[str] = request["argv"]
        self.environment: dict[str, str] = request["environment"]
        self.working_dir: str = request["working_dir"] or "/"
        self.init: bool = request["init"]
        self.restart: str = request["restart"]
        self.stop_signal: int = request["stop_signal"]
        self.grace: float = request["grace"]
        user = request["user"]
        self.user = (user[0], user[1], user[2])
        self.capabilities: list[str] = request["capabilities"]
        self.seccomp: str | None = request["seccomp"]
        self.ulimits: dict[str, list[int]] = request["ulimits"]

    def again(self, code: int) -> bool:
        """Whether the policy asks for another run."""
        return self.restart == "always" or (self.restart == "on-failure" and code != 0)

    def _confinement(self) -> confine.Confinement:
        program = bytes.fromhex(self.seccomp) if self.seccomp else None
        return confine.prepare(self.capabilities, program, self.ulimits, self.user)

    def execute(self, kept: Supervisor, report: int) -> NoReturn:
        """In the command's own process: confine it and become the program; failures go to ``report``."""
        doing = "start a session"
        try:
            if os.getpid() != 1:
                os.setsid()
            _default_signals()
            set_oom_score(kept.proc, "self", kept.oom_score)
            confinement = self._confinement()
            doing = "set up its output"
            _own_pipe(kept.files.output_in, self.user)
            report = _arrange(kept.null, kept.files.output_in, report)
            doing = f"enter the directory {self.working_dir}"
            _enter(self.working_dir)
            doing = "confine the process"
            confinement.apply()
            doing = f"run {self.argv[0]}"
            _exec(self.argv, self.environment)
        except OSError as error:
            os.write(report, json.dumps({"errno": error.errno, "what": doing}).encode())
        finally:
            os._exit(127)


def _default_signals() -> None:
    signal.set_wakeup_fd(-1)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    for number in _IGNORED_BY_PYTHON:
        signal.signal(number, signal.SIG_DFL)


def set_oom_score(proc: int, process: str, score: str) -> bool:
    """Set a process's oom_score_adj; whether it was allowed: to lower one takes CAP_SYS_RESOURCE."""
    try:
        descriptor = os.open(f"{process}/oom_score_adj", os.O_WRONLY | os.O_CLOEXEC, dir_fd=proc)
        try:
            os.write(descriptor, score.encode())
        finally:
            os.close(descriptor)
    except OSError:
        return False
    return True


def _own_pipe(output: int, user: tuple[int, int, list[int]]) -> None:
    """So that a command that is not root can open /dev/stdout."""
    if user[0]:
        os.fchown(output, user[0], user[1])


def _arrange(null: int, output: int, report: int) -> int:
    """Descriptors 0 to 2, the report as 3, and nothing else."""
    high = [fcntl.fcntl(item, fcntl.F_DUPFD_CLOEXEC, _REPORT + 1) for item in (null, output, output, report)]
    for target, source in enumerate(high):
        os.dup2(source, target, inheritable=target != _REPORT)
    sc.close_range(_REPORT + 1)
    return _REPORT


def _enter(directory: str) -> None:
    os.chdir(directory)
    if not os.getcwd().startswith("/"):  # "(unreachable)": outside the root
        raise OSError(errno.ENOENT, "outside the root")


def _exec(argv: list[str], environment: dict[str, str]) -> None:
    """execve, looking for a bare name along PATH as execvp(3) does; returns never, raises OSError."""
    program = argv[0]
    if "/" in program:
        os.execve(program, argv, environment)
    failure: OSError = FileNotFoundError(errno.ENOENT, "not found")
    for directory in environment.get("PATH", "").split(":"):
        try:
            os.execve(f"{directory or '.'}/{program}", argv, environment)
        except (FileNotFoundError, NotADirectoryError):
            continue
        except PermissionError as error:
            failure = error
    raise failure


class Supervisor:
    """The loop of PID 1, and what it keeps open: the host's files are out of its reach by path.

    Made before the fork, so that next to nothing is left to do after it: each page of memory that PID 1
    writes to (a reference count is enough) is one that it no longer shares with all others.
    """

    def __init__(self, files: output.Files, control: socket.socket) -> None:
        self.files = files
        self.control = control
        self.null = self.proc = -1
        """The container's null device, and its /proc."""
        self.woken, self.wake = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self.poll = select.poll()
        for descriptor in (self.woken, files.output, control.fileno()):
            self.poll.register(descriptor, select.POLLIN)
        self.command: Command | None = None
        self.pid = 0
        self.exit_code: int | None = None
        self.restarts = 0
        self.delay = DELAY_FIRST
        self.started: float | None = None
        self.finished: float | None = None
        self.began = 0.0
        self.restart_at: float | None = None
        self.kill_at: float | None = None
        self.ending = False
        self.forgone = False
        """Whether somebody killed the command, so that no restart policy counts any more."""
        self.next: Command | None = None
        self.waiting: socket.socket | None = None
        self.oom_score = OOM_PREFERRED

        self._write_status()

    def begin(self, null: int, proc: int, spared: bool) -> None:
        """In PID 1: be told of signals.  ``spared``: it has OOM_SPARED."""
        self.null, self.proc = null, proc
        signal.signal(signal.SIGCHLD, _noted)
        signal.set_wakeup_fd(self.wake, warn_on_full_buffer=False)
        if spared:
            self.oom_score = OOM_USUAL

    def run(self) -> NoReturn:
        """Until the end of the container."""
        while True:
            for descriptor, _ in self.poll.poll(self._timeout()):
                if descriptor == self.woken:
                    self._signals(os.read(self.woken, 64))
                elif descriptor == self.files.output:
                    self.files.drain()
                else:
                    self._serve()
            self._timers()

    def descriptors(self) -> list[int]:
        """All that the loop needs open."""
        return [*self.files.numbers(), self.control.fileno(), self.woken, self.wake]

    # -- signals and timers ----------------------------------------------------------------------

    def _signals(self, numbers: bytes) -> None:
        for number in numbers:
            if number == signal.SIGCHLD:
                self._reap()
            elif number == STOP:
                self.ending = True
                self._end_command(None, None)
            elif self.pid:
                _kill(self.pid, number)

    def _timeout(self) -> int | None:
        if self.restart_at is None and self.kill_at is None:
            return None
        moments = [at for at in (self.restart_at, self.kill_at) if at is not None]
        return max(0, int((min(moments) - time.monotonic()) * 1000) + 1)

    def _timers(self) -> None:
        now = time.monotonic()
        if self.kill_at is not None and now >= self.kill_at:
            self.kill_at = None
            if self.pid:
                _kill(self.pid, signal.SIGKILL)
        if self.restart_at is not None and now >= self.restart_at:
            self.restart_at = None
            self.restarts += 1
            self._launch()

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if not pid:
                return
            if pid == self.pid:
                self._ended(output.exit_code(status))

    # -- the command -----------------------------------------------------------------------------

    def _launch(self) -> dict[str, Any]:
        """Run the command; the answer to who asked.  A failed execve counts as a run that ended."""
        command = self.command
        assert command is not None
        report, report_in = os.pipe2(os.O_CLOEXEC)
        self.started, self.finished, self.began = time.time(), None, time.monotonic()
        try:
            pid = os.fork()
        except OSError as error:  # its cgroup is full of processes; the policy may try again
            os.close(report)
            os.close(report_in)
            self._ended(126)
            return {"errno": error.errno, "what": "make a process for its command"}
        if not pid:
            command.execute(self, report_in)
        self.pid = pid
        os.close(report_in)
        failure = os.read(report, 4096)
        os.close(report)
        if failure:
            os.waitpid(pid, 0)
            answer: dict[str, Any] = json.loads(failure)
            self._ended(127 if answer["errno"] == errno.ENOENT else 126)
            self.restart_at = None
            return answer
        self._write_status()
        return {"pid": pid}

    def _ended(self, code: int) -> None:
        self.files.drain()
        stopped = self.pid
        self.pid, self.exit_code, self.finished, self.kill_at = 0, code, time.time(), None
        if self.ending:
            self._write_status()
            os._exit(0)
        if self.waiting is not None:
            _kill(-stopped, signal.SIGKILL)  # what it left in its process group would hold its ports
            self._replaced()
        elif self.command is not None and not self.forgone and self.command.again(code):
            if time.monotonic() - self.began >= DELAY_RESET:
                self.delay = DELAY_FIRST
            self.restart_at = time.monotonic() + self.delay
            self.delay = min(self.delay * 2, DELAY_LAST)
        self._write_status()

    def _end_command(self, number: int | None, grace: float | None) -> None:
        """Ask the command to end; without one, whoever waits for that is served at once."""
        self.restart_at = None
        command = self.command
        if self.pid and command is not None:
            _kill(self.pid, command.stop_signal if number is None else number)
            self.kill_at = time.monotonic() + (command.grace if grace is None else grace)
        elif self.ending:
            os._exit(0)
        elif self.waiting is not None:
            self._replaced()

    def _kill(self, number: int) -> dict[str, Any]:
        """Send the command a signal; one that is meant to end it is no reason to run it again."""
        command = self.command
        if command is None or (not self.pid and self.restart_at is None):
            return {}
        if number in (signal.SIGKILL, command.stop_signal):
            self.forgone, self.restart_at = True, None
            self._write_status()
        if self.pid:
            _kill(self.pid, number)
        return {"pid": self.pid or None}

    def _replaced(self) -> None:
        """The old command is gone: start the next one, if there is one, and answer who waits."""
        client, self.waiting = self.waiting, None
        self.command, self.next = self.next, None
        answer: dict[str, Any] = {"pid": None}
        if self.command is not None:
            self.restarts, self.delay, self.exit_code, self.forgone = 0, DELAY_FIRST, None, False
            answer = self._launch() if self.command.init else self._become(client)
            if "errno" in answer:
                self.restart_at = None
        self._write_status()
        _answer(client, answer)

    def _become(self, client: socket.socket | None) -> dict[str, Any]:
        """``init: false``: this process becomes the command; who reads its output stands outside."""
        command = self.command
        assert command is not None and client is not None
        self.started = time.time()
        self.files.write_status(self.status() | {"state": "running", "pid": 1})
        command.execute(self, client.fileno())

    def _write_status(self) -> None:
        self.files.write_status(self.status())

    def status(self) -> dict[str, Any]:
        """What ``ps`` shows of the command."""
        state = "exited"
        if self.pid:
            state = "running"
        elif self.restart_at is not None:
            state = "restarting"
        elif self.command is None:
            state = "idle"
        return {
            "state": state,
            "pid": self.pid or None,
            "exit_code": self.exit_code,
            "restarts": self.restarts,
            "started": self.started,
            "finished": self.finished,
        }

    # -- the control socket ----------------------------------------------------------------------

    def _serve(self) -> None:
        try:
            client, _ = self.control.accept()
        except OSError:
            return
        try:
            client.settimeout(5)
            request = json.loads(_receive(client))
            self._obey(client, request)
        except (OSError, ValueError, KeyError, TypeError) as error:
            _answer(client, {"errno": errno.EINVAL, "what": f"understand the request ({error!r})"})

    def _obey(self, client: socket.socket, request: dict[str, Any]) -> None:
        if request["op"] == "status":
            _answer(client, self.status())
        elif request["op"] == "kill":
            _answer(client, self._kill(request["signal"]))
        elif self.waiting is not None:
            _answer(client, {"errno": errno.EBUSY, "what": "do two things at once"})
        elif request["op"] in ("start", "stop"):
            starts = request["op"] == "start"
            self.next = Command(request) if starts and request["argv"] else None
            self.waiting = client
            how = (None, None) if starts else (request["signal"], request["grace"])
            self._end_command(*how)
        else:
            _answer(client, {"errno": errno.EINVAL, "what": "understand the request"})


def _receive(client: socket.socket) -> bytes:
    data = bytearray()
    while chunk := client.recv(65536):
        data += chunk
        if len(data) > REQUEST_LIMIT:
            raise ValueError("too long")
    return bytes(data)


def _answer(client: socket.socket | None, answer: dict[str, Any]) -> None:
    if client is None:
        return
    with suppress(OSError):  # who asked is gone
        client.sendall(json.dumps(answer).encode())
    client.close()


def _kill(pid: int, number: int) -> None:
    with suppress(OSError):
        os.kill(pid, number)


def warm_up() -> None:
    """One run, on the host, through all that could look something up later: codecs, caches, messages."""
    json.loads(json.dumps({"warm": [1, 2.5, None, True, "ä\\n"]}).encode())
    confine.prepare(["CHOWN"], bytes(8), {"nofile": [64, 64]}, (0, 0, [0]))
    str(OSError(errno.ENOENT, os.strerror(errno.ENOENT)))
    os.fsencode("ä\udcff").decode("utf-8", "surrogateescape").encode("utf-8", "surrogateescape")
    output.exit_code(0)


def note_signals() -> None:
    """Have those handled that a container's PID 1 hands on; what is forked from here inherits it."""
    for number in (*_FORWARDED, STOP):
        signal.signal(number, _noted)


def _noted(number: int, frame: FrameType | None) -> None:
    """Signals are read from the wake-up pipe."""
