"""A program in a container and whoever started it: descriptors, signals, output, the exit code.

Owns: attaching one program to the caller's own stdin and stdout (or to a terminal), running many side by
side with their output collected, forwarding signals.
Must not: know how a container is entered (``enter``), or which one is meant; import more than it must.

A program leads a session of its own, so a ctrl-C at the terminal reaches only netorch, which hands it on
exactly once: to the program's whole process group if the terminal sent it, as the terminal itself would
have, else to the program alone.
"""

from __future__ import annotations

import ctypes
import os
import select

from netns_orch.kernel import enter
from netns_orch.kernel.enter import Child, Program, Refused

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal
    from collections.abc import Callable, Sequence

    from netns_orch.kernel.terminal import Terminal
else:
    import _signal as signal

_NOT_FORWARDED = {
    signal.SIGKILL,
    signal.SIGSTOP,
    signal.SIGCHLD,
    signal.SIGURG,
    signal.SIGPIPE,
    signal.SIGTTIN,
    signal.SIGTTOU,
    signal.SIGSEGV,
    signal.SIGBUS,
    signal.SIGFPE,
    signal.SIGILL,
    signal.SIGTRAP,
    signal.SIGSYS,
}
"""Those that can't be caught, that are about netorch itself, or that say nothing to a program elsewhere."""
_SFD_CLOEXEC, _SIGINFO_SIZE, _SI_KERNEL = 0o2000000, 128, 0x80
_CHUNK = 65536
_AFTER_HANGUP = 1.0
"""Seconds until SIGKILL."""
_LINE_LIMIT = 1 << 16


class Signals:
    """The signals that are handed on, blocked and readable from a descriptor; a context."""

    def __init__(self) -> None:
        ignored = {n for n in signal.valid_signals() if signal.getsignal(n) == signal.SIG_IGN}
        self.numbers = signal.valid_signals() - _NOT_FORWARDED - ignored
        self.descriptor = -1
        self._before: set[int] = set()

    def __enter__(self) -> Signals:
        self._before = signal.pthread_sigmask(signal.SIG_BLOCK, self.numbers | {signal.SIGTTOU})
        words = bytearray(128)
        for number in self.numbers:
            words[(number - 1) // 8] |= 1 << (number - 1) % 8
        libc = ctypes.CDLL(None, use_errno=True)
        self.descriptor = libc.signalfd(-1, bytes(words), _SFD_CLOEXEC)
        if self.descriptor < 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self.descriptor)
        signal.pthread_sigmask(signal.SIG_SETMASK, self._before)

    def read(self) -> tuple[int, bool]:
        """One signal: its number, and whether the kernel (the terminal) sent it (signalfd(2))."""
        info = os.read(self.descriptor, _SIGINFO_SIZE)
        number = int.from_bytes(info[0:4], "little")
        return number, int.from_bytes(info[8:12], "little", signed=True) == _SI_KERNEL


def attach(program: Program, *, interactive: bool) -> int:
    """Run with the caller's own stdout, stderr and (``interactive``) stdin; the exit code.

    Raises Refused where it can't be run.
    """
    with Signals() as signals:
        stdin = 0 if interactive else program.target.open_null()
        child = enter.start(program, stdin, 1, 2)
        _let_go_of_stdio(program)
        poll = select.poll()
        for descriptor in (signals.descriptor, child.pidfd, child.report):
            poll.register(descriptor, select.POLLIN)
        while True:
            for descriptor, _ in poll.poll():
                if descriptor == signals.descriptor:
                    _forward(child, *signals.read())
                elif descriptor == child.report:
                    poll.unregister(descriptor)
                    child.read_report()
                elif descriptor == child.pidfd:
                    return _result(child)


def _let_go_of_stdio(program: Program) -> None:
    """The program has them now: a pipe must end when it ends, not when netorch does."""
    null = program.target.open_null()
    os.dup2(null, 0)
    os.dup2(null, 1)
    os.close(null)


def _forward(child: Child, number: int, from_terminal: bool) -> None:
    if number == signal.SIGTSTP:
        # Its group is an orphaned one, where SIGTSTP stops nobody (credentials(7)): stop it, then us.
        child.signal(signal.SIGSTOP, group=True)
        os.kill(os.getpid(), signal.SIGSTOP)
    elif number == signal.SIGCONT:
        child.signal(number, group=True)
    elif number != signal.SIGWINCH:
        child.signal(number, group=from_terminal)


def _result(child: Child) -> int:
    code = child.wait()
    if child.failure is not None:
        raise child.failure
    return code


def attach_terminal(program: Program, *, interactive: bool) -> int:
    """Run on a pseudo-terminal of the container's own, joined to the caller's terminal; the exit code.

    SIGTERM and SIGHUP end it even where the program ignores them, as an interactive shell does: the terminal
    is given back and hung up.
    """
    from netns_orch.kernel.terminal import Terminal

    master, slave = program.target.open_terminal()
    owner = program.target.owner(program.uid)
    if owner >= 0:
        os.fchown(slave, owner, -1)
    with Signals() as signals, Terminal(master, 0 if interactive else None, 1) as terminal:
        child = enter.start(program, slave, slave, slave, terminal=True)
        os.close(slave)
        ended_by = _pump(child, signals, terminal)
        if not ended_by:
            terminal.drain()
    os.close(master)  # hangs up: the kernel sends the session SIGHUP
    if ended_by:
        _await_hung_up(child)
        return 128 + ended_by
    return _result(child)


def _await_hung_up(child: Child) -> None:
    poll = select.poll()
    poll.register(child.pidfd, select.POLLIN)
    if not poll.poll(int(_AFTER_HANGUP * 1000)):
        child.signal(signal.SIGKILL, group=True)
    child.wait()


def _pump(child: Child, signals: Signals, terminal: Terminal) -> int:
    """Until the program ends; what it left running keeps the terminal, but is not waited for.

    Returns 0, or the signal that ends the session before.
    """
    shown = True
    while True:
        poll = select.poll()
        for descriptor in (signals.descriptor, child.pidfd, child.report):
            if descriptor >= 0:
                poll.register(descriptor, select.POLLIN)
        events = (select.POLLIN if shown else 0) | (select.POLLOUT if terminal.pending else 0)
        if events:
            poll.register(terminal.master, events)
        if terminal.source is not None and terminal.wants_input:
            poll.register(terminal.source, select.POLLIN)
        ready = dict(poll.poll())
        if terminal.master in ready:
            shown = _exchange(terminal, ready[terminal.master], shown)
        if terminal.source is not None and terminal.source in ready:
            terminal.read_user()
        if child.report in ready:
            child.read_report()
        if signals.descriptor in ready:
            number, _ = signals.read()
            _signal_on_terminal(child, number, terminal)
            if number in (signal.SIGTERM, signal.SIGHUP):
                return number
        if child.pidfd in ready:
            return 0


def _exchange(terminal: Terminal, events: int, shown: bool) -> bool:
    if events & select.POLLOUT:
        terminal.write_program()
    if shown and events & (select.POLLIN | select.POLLHUP | select.POLLERR):
        return terminal.read_program()
    return shown


def _signal_on_terminal(child: Child, number: int, terminal: Terminal) -> None:
    """In raw mode keys are no signals: what comes was sent on purpose."""
    if number == signal.SIGWINCH:
        terminal.resize()
    elif number == signal.SIGTSTP:
        terminal.restore()
        os.kill(os.getpid(), signal.SIGSTOP)
        terminal.raw()
        terminal.resize()
    elif number != signal.SIGCONT:
        child.signal(number)


# -- many side by side ---------------------------------------------------------------------------------


class Sink:
    """Where the output of one of many programs goes: ``take`` as it comes, ``end`` once at the end."""

    def take(self, data: bytes) -> None:
        """A chunk."""
        raise NotImplementedError

    def end(self) -> None:
        """No more."""


def write_all(descriptor: int, data: bytes) -> None:
    """Write all of it; BrokenPipeError where nobody reads."""
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


class Prefixed(Sink):
    """Whole lines to a descriptor, each behind the container's name."""

    def __init__(self, name: str, width: int, descriptor: int) -> None:
        self.prefix = os.fsencode(f"{name:<{width}} | ")
        self.descriptor = descriptor
        self.rest = b""

    def take(self, data: bytes) -> None:
        """A chunk; its last, unfinished line waits for its end."""
        *lines, self.rest = (self.rest + data).split(b"\n")
        if len(self.rest) > _LINE_LIMIT:
            lines, self.rest = [*lines, self.rest], b""
        self._write(lines)

    def end(self) -> None:
        """The last line, where it has no end of its own."""
        if self.rest:
            self._write([self.rest])
            self.rest = b""

    def _write(self, lines: Sequence[bytes]) -> None:
        if lines:
            write_all(self.descriptor, b"".join(self.prefix + line + b"\n" for line in lines))


class Collected(Sink):
    """Kept in memory, up to a limit; what is beyond it is dropped."""

    def __init__(self, limit: int) -> None:
        self.data = bytearray()
        self.limit = limit

    def take(self, data: bytes) -> None:
        """A chunk."""
        self.data += data[: max(0, self.limit - len(self.data))]


class Job:
    """One of many: how to make its program, and where its stdout and stderr go."""

    def __init__(
        self,
        make: Callable[[], Program],
        stdout: Sink,
        stderr: Sink | None = None,
        *,
        stdin: int | None = None,
        timeout: float | None = None,
    ) -> None:
        self.make, self.stdout, self.stderr, self.stdin = make, stdout, stderr, stdin
        self.timeout = timeout
        """Seconds, from its own start; then its process group is killed."""
        self.code: int | None = None
        """Its exit code, once it ended."""
        self.failure: Refused | None = None
        self.timed_out = False


class Crowd:
    """Jobs that run side by side, at most ``parallel`` at a time."""

    def __init__(
        self, jobs: Sequence[Job], parallel: int, on_end: Callable[[Job], None] | None = None
    ) -> None:
        self.waiting = list(jobs)[::-1]
        self.parallel = parallel
        self.on_end = on_end
        self.running: dict[int, _Running] = {}
        self.by_descriptor: dict[int, _Running] = {}
        self.poll = select.poll()

    def run(self, signals: Signals, stop: int | None = None) -> None:
        """Until all have ended; at the end of file of ``stop`` all are killed."""
        for descriptor in (signals.descriptor, stop):
            if descriptor is not None:
                self.poll.register(descriptor, select.POLLIN)
        while self.waiting or self.running:
            while self.waiting and len(self.running) < self.parallel:
                self._start(self.waiting.pop())
            for descriptor, _ in self.poll.poll(self._timeout()) if self.running else ():
                if descriptor == signals.descriptor:
                    self._signal(*signals.read())
                elif descriptor == stop:
                    self._stop(stop)
                else:
                    self._handle(descriptor)
            self._kill_late()

    def _start(self, job: Job) -> None:
        try:
            running = _Running(job)
        except Refused as refused:
            job.failure, job.code = refused, refused.code
            self._ended(job)
            return
        self.running[running.child.pidfd] = running
        for descriptor in (running.child.pidfd, running.child.report, *running.outputs):
            self.by_descriptor[descriptor] = running
            self.poll.register(descriptor, select.POLLIN)

    def _handle(self, descriptor: int) -> None:
        running = self.by_descriptor.get(descriptor)
        if running is None:
            return
        if descriptor == running.child.report:
            self._forget(descriptor)
            running.child.read_report()
        elif descriptor in running.outputs:
            if not running.take(descriptor):
                self._forget(descriptor)
                os.close(descriptor)
        else:
            self._reap(descriptor, running)

    def _reap(self, pidfd: int, running: _Running) -> None:
        """What it left running is not waited for: what it wrote so far is taken."""
        for descriptor in [pidfd, running.child.report, *running.outputs]:
            self._forget(descriptor)
        del self.running[pidfd]
        running.finish()
        self._ended(running.job)

    def _ended(self, job: Job) -> None:
        if self.on_end is not None:
            self.on_end(job)

    def _forget(self, descriptor: int) -> None:
        if self.by_descriptor.pop(descriptor, None) is not None:
            self.poll.unregister(descriptor)

    def _signal(self, number: int, from_terminal: bool) -> None:
        if number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
            self.waiting.clear()
        for running in self.running.values():
            _forward(running.child, number, from_terminal)

    def _stop(self, descriptor: int) -> None:
        self.poll.unregister(descriptor)
        self.waiting.clear()
        for running in self.running.values():
            running.child.signal(signal.SIGKILL, group=True)

    def _timeout(self) -> int | None:
        ends = [running.deadline for running in self.running.values() if running.deadline is not None]
        return max(0, int((min(ends) - _now()) * 1000) + 1) if ends else None

    def _kill_late(self) -> None:
        for running in self.running.values():
            if running.deadline is not None and running.deadline <= _now():
                running.job.timed_out = True
                running.deadline = None
                running.child.signal(signal.SIGKILL, group=True)


class _Running:
    """A job that runs: its child and the pipes that its output comes by."""

    def __init__(self, job: Job) -> None:
        self.job = job
        program = job.make()
        stdin = program.target.open_null() if job.stdin is None else job.stdin
        self.outputs: dict[int, Sink] = {}
        ends = [self._pipe(program, job.stdout)]
        ends.append(self._pipe(program, job.stderr) if job.stderr else ends[0])
        try:
            self.child = enter.start(program, stdin, *ends)
        except Refused:
            for descriptor in self.outputs:
                os.close(descriptor)
            raise
        finally:
            for descriptor in {*ends, *([stdin] if job.stdin is None else [])}:
                os.close(descriptor)
        program.target.close()
        self.deadline = None if job.timeout is None else _now() + job.timeout

    def _pipe(self, program: Program, sink: Sink) -> int:
        """The end to write to; it is the program's own, so that it can open /dev/stdout."""
        read, write = os.pipe2(os.O_CLOEXEC)
        owner = program.target.owner(program.uid)
        if owner > 0:
            os.fchown(write, owner, -1)
        self.outputs[read] = sink
        return write

    def take(self, descriptor: int) -> bool:
        """Hand on a chunk; False at the end."""
        data = os.read(descriptor, _CHUNK)
        if data:
            self.outputs[descriptor].take(data)
        else:
            del self.outputs[descriptor]
        return bool(data)

    def finish(self) -> None:
        """It ended: take the rest of its output, keep its exit code."""
        for descriptor, sink in self.outputs.items():
            os.set_blocking(descriptor, False)
            for _ in range(16):
                try:
                    data = os.read(descriptor, _CHUNK)
                except BlockingIOError:
                    break
                if not data:
                    break
                sink.take(data)
            os.close(descriptor)
        for each in {self.job.stdout, self.job.stderr}:
            if each is not None:
                each.end()
        self.job.code = self.child.wait()
        self.job.failure = self.child.failure


def _now() -> float:
    from time import monotonic

    return monotonic()
