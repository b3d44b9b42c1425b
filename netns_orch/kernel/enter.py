"""Into a running container: its cgroup, all its namespaces, its confinement, then a program.

Owns: the order of entering, the process that does it, what it reports when it fails.
Must not: import more than a few builtin modules (``exec`` is to cost little more than the kernel's share),
or, in the process that enters, import, decode or look anything up once it has entered: all of that is the
container's there.

One fork does it: setns(2) to a pid namespace only concerns children, so the caller sets that and stays where
it is; the child enters the cgroups (v2: is born there), then the other namespaces, and becomes the program.
It is not dumpable until execve, so that nobody in the container can look into it meanwhile.
"""

from __future__ import annotations

import errno
import fcntl
import os
import select

from netns_orch.kernel import confine, ids, userdir, users
from netns_orch.kernel import syscalls as sc
from netns_orch.kernel.uplabs import read_json

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal
    import threading
    from collections.abc import Mapping, Sequence
    from pathlib import Path
    from typing import Any, NoReturn

    from netns_orch.kernel.inside import CompletedRun
else:
    import _signal as signal  # the package around it imports enum

DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
CANNOT_ENTER, NOT_EXECUTABLE, NOT_FOUND = 125, 126, 127
_OOM_USUAL, _OOM_PREFERRED = 0, 500
"""oom_score_adj, as PID 1 gives it to its command: the second where its own could not be lowered."""
_OTHERS = sc.CLONE_NEWNS | sc.CLONE_NEWUTS | sc.CLONE_NEWIPC | sc.CLONE_NEWNET | sc.CLONE_NEWCGROUP
_TIOCSCTTY = 0x540E
_AGAIN = "try again when the netorch that makes it has ended"
_LOOKED_UP_FURTHER = (errno.ENOENT, errno.ENOTDIR, errno.EACCES)
_STEPS = (
    "start",
    "enter its cgroup",
    "enter its namespaces",
    "arrange descriptors",
    "enter the working directory",
    "confine the process",
    "run",
)
"""What the entering process reports by number when a step fails."""
_RUN, _DIRECTORY = _STEPS.index("run"), _STEPS.index("enter the working directory")


class Refused(Exception):
    """It can't be run; ``code`` is the exit code that says so (125 to 127)."""

    def __init__(self, what: str, hint: str | None = None, code: int = CANNOT_ENTER) -> None:
        super().__init__(what)
        self.what, self.hint, self.code = what, hint, code


class Target:
    """A running container, held by descriptors, so that no other process can take its place."""

    def __init__(self, directory: str) -> None:
        self.name = os.path.basename(directory)
        about = read_json(f"{directory}/container.json")
        if not isinstance(about, dict):
            raise self._gone()
        self.about: dict[str, Any] = about
        self.process: dict[str, Any] = read_json(f"{directory}/process.json") or {}
        self.root = self.v2 = -1
        self.procs: list[int] = []
        self.pidfd = self._open_process()
        try:
            self._open()
        except OSError as error:
            self.close()
            if error.errno == errno.EAGAIN:
                raise Refused(f"container {self.name} is not running: {error.strerror}", _AGAIN) from error
            raise (self._gone() if error.errno in (errno.ENOENT, errno.ESRCH) else _told(error)) from error
        except Refused:
            self.close()
            raise

    def _gone(self) -> Refused:
        return Refused(f"container {self.name} is not running", "`netorch ps` shows what is")

    def _open_process(self) -> int:
        try:
            pidfd = os.pidfd_open(self.about["pid"])
        except ProcessLookupError:
            raise self._gone() from None
        if _start_time(self.about["pid"]) != self.about["start_time"]:
            os.close(pidfd)
            raise self._gone()
        return pidfd

    def _open(self) -> None:
        self.root = users.root_of(self.about["pid"])
        paths = self.about["cgroup"]
        if any(_is_frozen(path) for path in ([paths["v2"]] if paths["v2"] else paths["v1"])):
            raise Refused(f"container {self.name} is paused", f"netorch unpause {self.name}")
        v2 = _innermost(paths["v2"]) if self.about.get("nesting") else paths["v2"]
        if v2:
            self.v2 = os.open(v2, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            _join_realm()
        joined = [*paths["v1"], v2] if v2 and paths["v1"] else paths["v1"]
        for path in joined:
            self.procs.append(os.open(f"{path}/cgroup.procs", os.O_WRONLY | os.O_CLOEXEC))
        if _has_ended(self.pidfd):
            raise self._gone()

    def close(self) -> None:
        """Let go of it."""
        for descriptor in (self.pidfd, self.root, self.v2, *self.procs):
            if descriptor >= 0:
                os.close(descriptor)
        self.pidfd = self.root = self.v2 = -1
        self.procs = []

    def open_null(self) -> int:
        """The container's own /dev/null: the host's would let it change that node's mode."""
        resolve = sc.RESOLVE_IN_ROOT | sc.RESOLVE_NO_MAGICLINKS
        descriptor = sc.openat2(self.root, "dev/null", os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK, resolve)
        status = os.fstat(descriptor)
        if status.st_mode & 0o170000 != 0o020000 or status.st_rdev != os.makedev(1, 3):
            os.close(descriptor)
            raise Refused(f"container {self.name}: /dev/null is no longer the null device")
        os.set_blocking(descriptor, True)
        return descriptor

    def shell(self) -> str:
        """The container's shell: /bin/bash, where it is executable there, else /bin/sh."""
        resolve = sc.RESOLVE_IN_ROOT | sc.RESOLVE_NO_MAGICLINKS
        try:
            descriptor = sc.openat2(self.root, "bin/bash", os.O_PATH, resolve)
        except OSError:
            return "/bin/sh"
        mode = os.fstat(descriptor).st_mode
        os.close(descriptor)
        return "/bin/bash" if mode & 0o170000 == 0o100000 and mode & 0o111 else "/bin/sh"

    def open_terminal(self) -> tuple[int, int]:
        """A new pseudo-terminal of the container's own devpts: (master, slave)."""
        from netns_orch.kernel import terminal

        resolve = sc.RESOLVE_IN_ROOT | sc.RESOLVE_NO_MAGICLINKS
        try:
            master = sc.openat2(self.root, "dev/pts/ptmx", os.O_RDWR | os.O_NOCTTY, resolve)
        except OSError as error:
            raise Refused(f"container {self.name}: no pseudo-terminal: {error.strerror}") from error
        status = os.fstat(master)
        if status.st_mode & 0o170000 != 0o020000 or status.st_rdev != os.makedev(5, 2):
            os.close(master)
            raise Refused(f"container {self.name}: /dev/pts/ptmx is not a terminal multiplexer")
        return master, terminal.open_peer(master)

    def owner(self, uid: int) -> int:
        """A user id of the container as the host sees it (user_namespaces(7)); -1 where it has none."""
        if not self.about["user_namespace"]:  # the file would tell of ours, as the one around it sees that
            return uid
        with open(f"/proc/{self.about['pid']}/uid_map", "rb") as file:
            for line in file:
                inside, outside, count = (int(word) for word in line.split())
                if inside <= uid < inside + count:
                    return outside + uid - inside
        return -1


class Program:
    """What to run in a container, with every look-up done and every text encoded."""

    def __init__(
        self,
        target: Target,
        argv: Sequence[str],
        *,
        environment: Mapping[str, str] | None = None,
        working_dir: str | None = None,
        user: str | None = None,
        terminal: bool = False,
    ) -> None:
        spec = target.process
        wanted = user or spec.get("user")
        try:
            found = users.find(target.root, wanted)
        except users.UnknownUser as error:
            raise Refused(f"container {target.name}: {error}") from error
        if (found.uid or found.gid) and (lack := ids.missing(found.uid, found.gid)):
            raise Refused(f"container {target.name}: {lack}", ids.HOW_TO)
        self.target = target
        self.name = argv[0]
        self.uid = found.uid
        base = {
            "PATH": DEFAULT_PATH,
            "HOSTNAME": target.about.get("hostname", target.name),
            "HOME": found.home,
        }
        if terminal:
            base["TERM"] = os.environ.get("TERM") or "xterm"
        full = base | (spec.get("environment") or {}) | dict(environment or {})
        self.environment = {os.fsencode(key): os.fsencode(value) for key, value in full.items()}
        self.argv = [os.fsencode(word) for word in argv]
        self.candidates = _candidates(self.argv[0], self.environment.get(b"PATH", b""))
        start = spec.get("working_dir") or "/"
        self.working_dir = os.fsencode(os.path.join(start, working_dir or ""))
        self.confinement = _confinement(target.about, (found.uid, found.gid, found.groups))


class Child:
    """A started program: ``report`` is readable when it runs (end of file) or could not be (a failure)."""

    def __init__(self, program: Program, pid: int, report: int) -> None:
        self.program, self.pid, self.report = program, pid, report
        self.pidfd = os.pidfd_open(pid)
        self.failure: Refused | None = None

    def read_report(self) -> bool:
        """Take what ``report`` has to say; whether the program runs."""
        data = os.read(self.report, 16)
        os.close(self.report)
        self.report = -1
        if data:
            step, number = (int(word) for word in data.split())
            self.failure = _failure(self.program, step, number)
        return not data

    def signal(self, number: int, group: bool = False) -> None:
        """Send a signal to the program, or to its whole process group; it may be gone."""
        try:
            if group and os.getpgid(self.pid) == self.pid:  # else it does not lead one yet
                os.killpg(self.pid, number)
            else:
                sc.pidfd_send_signal(self.pidfd, number)
        except OSError:
            pass

    def wait(self) -> int:
        """Reap it; its exit code as a shell says it."""
        _, status = os.waitpid(self.pid, 0)
        os.close(self.pidfd)
        if self.report >= 0:
            self.read_report()
        if self.failure is not None:
            return self.failure.code
        code = os.waitstatus_to_exitcode(status)
        return code if code >= 0 else 128 - code


def start(program: Program, stdin: int, stdout: int, stderr: int, *, terminal: bool = False) -> Child:
    """Fork, enter and execute; the caller goes on at once.  Its signals should be blocked already.

    The program leads a session of its own; with ``terminal`` its stdin becomes the controlling terminal.
    It is killed when the calling process dies.  Raises Refused.
    """
    sc.prctl(sc.PR_SET_DUMPABLE, 0)
    opened: list[int] = []
    try:
        opened += os.pipe2(os.O_CLOEXEC)
        opened.append(os.pidfd_open(os.getpid()))
        report, report_in, parent = opened
        entry = _Entry(program, (stdin, stdout, stderr), terminal, parent, report_in)
        pid = _fork(program.target)
    except OSError as error:
        for descriptor in opened:
            os.close(descriptor)
        raise _told(error) from error
    if not pid:
        entry.become()
    os.close(report_in)
    os.close(parent)
    try:
        return Child(program, pid, report)
    except OSError as error:  # what can't be watched shall not run
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        os.close(report)
        raise _told(error) from error


def _fork(target: Target) -> int:
    """A child in the container's pid namespace; on v2 it is born in the container's cgroup, too."""
    sc.setns(target.pidfd, sc.CLONE_NEWPID)
    if target.v2 >= 0 and not target.procs:
        return sc.clone3(0, cgroup=target.v2)[0]
    return os.fork()


class _Entry:
    """The way of the forked child; made before the fork, since later nothing may be looked up."""

    def __init__(
        self, program: Program, stdio: tuple[int, int, int], terminal: bool, parent: int, report: int
    ) -> None:
        self.program, self.stdio, self.terminal, self.report = program, stdio, terminal, report
        self.step = 0
        self.namespaces = _OTHERS | (sc.CLONE_NEWUSER if program.target.about["user_namespace"] else 0)
        self.namespaces |= sc.CLONE_NEWTIME if os.path.exists("/proc/self/ns/time") else 0
        self.parent = select.poll()
        self.parent.register(parent, select.POLLIN)
        self.handled = [
            n for n in signal.valid_signals() if signal.getsignal(n) not in (signal.SIG_DFL, None)
        ]
        os.strerror(errno.ENOENT)

    def become(self) -> NoReturn:
        """Enter, confine, execute.  What fails is reported by number; nothing returns from here."""
        number = 0
        try:
            self._enter()
            self._arrange()
            self._execute()
        except OSError as error:
            number = error.errno or 0
        except BaseException:  # noqa: BLE001 - nothing may unwind into the caller's code
            number = 0
        try:
            os.write(self.report, b"%d %d" % (self.step, number))
        finally:
            os._exit(CANNOT_ENTER)

    def _enter(self) -> None:
        target = self.program.target
        self.step = 1
        for procs in target.procs:
            os.write(procs, b"0")
        self.program.confinement.before_entering()
        self.step = 2
        sc.setns(target.pidfd, self.namespaces)

    def _arrange(self) -> None:
        self.step = 3
        os.setsid()
        for number, descriptor in enumerate(self.stdio):
            if descriptor != number:
                os.dup2(descriptor, number)
        if self.terminal:
            fcntl.ioctl(0, _TIOCSCTTY, 0)
        os.umask(0o022)
        self.step = 4
        os.chdir(self.program.working_dir)
        if not os.getcwdb().startswith(b"/"):  # "(unreachable)": outside the root
            raise OSError(errno.ENOENT, "outside the root")

    def _execute(self) -> None:
        self.step = 5
        self.program.confinement.apply()
        if self.parent.poll(0):
            os._exit(CANNOT_ENTER)  # the caller died before it could be bound to us
        for number in self.handled:
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        self.step = _RUN
        failure = OSError(errno.ENOENT, "not found")
        for path in self.program.candidates:
            try:
                os.execve(path, self.program.argv, self.program.environment)
            except OSError as error:
                if error.errno not in _LOOKED_UP_FURTHER:
                    raise
                if error.errno == errno.EACCES:
                    failure = error
        raise failure


def run(
    directory: Path,
    argv: Sequence[str],
    *,
    env: Mapping[str, str] | None = None,
    cwd: str | None = None,
    user: str | None = None,
    timeout: float | None = None,
    input: bytes | None = None,
    cancelled: threading.Event | None = None,
    apart: bool = False,
) -> CompletedRun:
    """Run a program in a container to its end, from a process that may be large and have threads.

    ``directory`` is the container's; stdout and stderr come back as one, or ``apart``.  After ``timeout``
    seconds, or once it is ``cancelled``, its process group is killed.  A program that can't be run is a
    result too: 125 to 127, the reason as output.
    """
    from netns_orch.kernel import inside

    return inside.run(str(directory), argv, env or {}, cwd, user, timeout, input, cancelled, apart)


def _candidates(program: bytes, path: bytes) -> list[bytes]:
    """Where execve will look, as execvp(3): a name with a slash is the path itself."""
    if b"/" in program or not program:
        return [program]
    return [(directory or b".") + b"/" + program for directory in path.split(b":")]


def _confinement(
    about: Mapping[str, Any], user: tuple[int, int, Sequence[int]] | None
) -> confine.Confinement:
    program = None
    if about["seccomp"]:
        try:
            with open(about["seccomp"], "rb") as file:
                program = file.read()
        except OSError as error:
            raise Refused(f"the seccomp filter of container {about['name']}: {error.strerror}") from error
    return confine.prepare(
        about["capabilities"],
        program,
        about["ulimits"],
        user,
        oom_score_adj=_OOM_USUAL if _spared(about["pid"]) else _OOM_PREFERRED,
        parent_death_signal=signal.SIGKILL,
        enters_user_namespace=about["user_namespace"],
    )


def _spared(pid: int) -> bool:
    """Whether the out-of-memory killer spares this process before others."""
    try:
        with open(f"/proc/{pid}/oom_score_adj", "rb") as file:
            return int(file.read()) < 0
    except OSError:
        return False


def _failure(program: Program, step: int, number: int) -> Refused:
    """What the child's report means."""
    name, reason = program.target.name, os.strerror(number) if number else "an error of netorch's own"
    if step == _DIRECTORY:
        directory = os.fsdecode(program.working_dir)
        return Refused(
            f"container {name}: the working directory {directory}: {reason}", "give another with -w"
        )
    if step != _RUN:
        hint = "netorch needs root here" if number == errno.EPERM else None
        return Refused(f"container {name}: can't {_STEPS[step]}: {reason}", hint)
    if number == errno.ENOENT:
        from netns_orch.kernel.runtime import missing_hint

        what = f"{program.name or repr('')} is not found in container {name}"
        return Refused(what, missing_hint(program.name), NOT_FOUND)
    hint = None
    if number == errno.ENOEXEC:
        hint = "a script needs a first line such as #!/bin/sh, a binary one that suits this machine"
    return Refused(f"{program.name} can't be executed in container {name}: {reason}", hint, NOT_EXECUTABLE)


def _told(error: OSError) -> Refused:
    hint = "netorch needs root here" if error.errno in (errno.EPERM, errno.EACCES) else None
    if error.errno == errno.EACCES:
        from netns_orch.kernel import realm

        hint = realm.SCOPE if realm.inside() else hint
    return Refused(f"can't enter the container: {error.strerror}", hint)


def _join_realm() -> None:
    """As ``realm.join``; root has none, and need not import that."""
    if os.path.exists(userdir.SIGN):
        from netns_orch.kernel import realm

        realm.join()


def _start_time(pid: int) -> int | None:
    """Field 22 of proc_pid_stat(5); None: no such process."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return int(file.read().rpartition(b")")[2].split()[19])
    except (FileNotFoundError, ProcessLookupError):
        return None


def _is_frozen(cgroup: str) -> bool:
    """As ``cgroups.is_frozen``, which is too large to be imported here."""
    for name in ("cgroup.freeze", "freezer.state"):
        try:
            with open(f"{cgroup}/{name}", "rb") as file:
                return file.read().strip() in (b"1", b"FROZEN", b"FREEZING")
        except OSError:
            continue
    return False


def _innermost(cgroup: str | None) -> str | None:
    """``nesting``: where its PID 1 began, since the group above may hold no process any more (cgroups(7))."""
    below = f"{cgroup}/{confine.INIT_CGROUP}"
    return below if cgroup and os.path.isdir(below) else cgroup


def _has_ended(pidfd: int) -> bool:
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(0))


def open_missing_stdio() -> None:
    """Descriptors 0 to 2 that the caller closed become /dev/null, so that nothing else gets their numbers."""
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            os.open("/dev/null", os.O_RDWR)
