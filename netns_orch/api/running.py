"""A lab that runs, in the hands of a program: its containers, its cables, what it says of itself.

Owns: handles that name what they stand for and hold nothing open.  Must not: know how anything is done, or
where: all of it is done by ``rootless.call``, which goes to where the lab is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from netns_orch import cables, images, operate, rootless
from netns_orch import lab as labs
from netns_orch.api.topology import Topology
from netns_orch.errors import CommandFailed, NetorchError, PermissionNeeded, UsageError
from netns_orch.kernel import namespaces, programs, userdir
from netns_orch.labfile import short
from netns_orch.labfile.model import Volume
from netns_orch.labfile.units import Wrong

if TYPE_CHECKING:
    from types import TracebackType

    from netns_orch.checks import Result
    from netns_orch.kernel.namespaces import Socket
    from netns_orch.kernel.programs import Completed, Running
    from netns_orch.labfile.model import Topology as Model

_PATIENCE = 60.0
"""Seconds for a command that says nothing else."""


def up(
    source: Topology | str | Path,
    *,
    name: str | None = None,
    private: bool = False,
    variables: Mapping[str, str] | None = None,
    keep_failed: bool = False,
    timeout: float | None = None,
    wait: float | None = None,
    ttl: float | None = None,
    owner_pid: int | None = None,
    volumes: Sequence[str] = (),
    pull: bool = False,
) -> Lab:
    """Build a lab, or bring a running one of that name to what ``source`` says; all of it, or nothing.

    ``source`` is a Topology or the path of a lab file (``variables`` fill its ``${VAR}``).  The times are
    seconds: ``timeout`` for the whole, ``wait`` for another process that works on the lab, ``ttl`` until
    ``netorch gc`` may remove it, as when the process ``owner_pid`` has ended.  ``volumes`` are mounted in
    every container, beside its own.  ``pull``: images that are here are fetched again.
    For an ordinary user it is a lab of his own (README, Rootless).
    Raises LabFileError (2), UsageError (2), LockHeld, KernelError: what failed, where, and a hint;
    PermissionNeeded where this host lets no ordinary user have a lab.
    """
    with _placed(source):
        model = _model(source, name, variables)
        if private:
            model.netns = "private"
        for container in model.containers.values():
            container.volumes += [_volume(text) for text in volumes]
        spent = images.settle(model, building=True, again=pull, timeout=timeout)
        report = rootless.build(
            model,
            labs.up,
            keep_failed=keep_failed,
            timeout=images.left(timeout, spent),
            wait=wait,
            ttl=ttl,
            owner_pid=owner_pid,
        )
    return Lab(report.lab, report)


def _volume(text: str) -> Volume:
    try:
        values = short.volume(text)
    except Wrong as wrong:
        raise UsageError(wrong.what, hint=wrong.hint) from None
    if not values["named"]:
        values["source"] = str(Path(values["source"]).absolute())
    return Volume(**values)


def _model(source: Topology | str | Path, name: str | None, variables: Mapping[str, str] | None) -> Model:
    if isinstance(source, Topology):
        return source.model(name=name)
    return labs.load(source, name=name, variables=variables)


@contextmanager
def _placed(source: Topology | str | Path) -> Iterator[None]:
    try:
        yield
    except NetorchError as error:
        raise (source.placed(error) if isinstance(source, Topology) else error) from None


class Lab:
    """A running lab.  As a context manager it is taken down at the end of the block."""

    def __init__(self, name: str, report: labs.UpReport | None = None) -> None:
        self.name = name
        self.report = report
        """What ``up`` did, where this handle comes from it."""

    @classmethod
    def up(cls, source: Topology | str | Path, **options: Any) -> Lab:
        """As the function ``up``."""
        return up(source, **options)

    @classmethod
    def find(cls, selector: str | Path | None = None) -> Lab:
        """A lab that is up, by its name or FILE; without: the one that the command line would mean."""
        rootless.look()
        found = cls(labs.find(None if selector is None else str(selector)))
        rootless.call(found.name, _known, found.name)
        return found

    def __repr__(self) -> str:
        return f"Lab({self.name!r})"

    def __enter__(self) -> Lab:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.down(wait=_PATIENCE)

    def down(self, *, wait: float | None = None) -> labs.DownReport:
        """Remove every trace of it; a second time is no error."""
        return rootless.call(self.name, labs.down, self.name, wait=wait, needed=False)

    def converge(self, source: Topology | str | Path, **options: Any) -> labs.UpReport | None:
        """Change what differs from ``source``; the options of ``up``, and its report."""
        options.setdefault("private", self._private())
        self.report = up(source, name=self.name, **options).report
        return self.report

    def _private(self) -> bool:
        return any(row["lab"] == self.name and row["netns"] == "private" for row in labs.labs())

    # -- its parts ---------------------------------------------------------------------------------

    def __getitem__(self, name: str) -> Node:
        """A container; UsageError with the nearest name where there is none."""
        rootless.call(self.name, _known, self.name, name)
        return Node(self.name, name)

    def __iter__(self) -> Iterator[Node]:
        return iter(self.nodes())

    def nodes(self) -> list[Node]:
        """All containers, in file order."""
        return [Node(self.name, row["name"]) for row in self.ps()]

    def link(self, a: str, b: str | None = None) -> Link:
        """The cables between two names (nodes, bridges, ``red:eth1``), or all that end at one."""
        rootless.call(self.name, _known_cables, self.name, a, b)
        return Link(self.name, a, b)

    # -- what holds in it --------------------------------------------------------------------------

    def check(self, **keys: Any) -> Result:
        """Prove with real packets what one entry of the file's ``checks`` says; its words are the arguments.

        result = lab.check(tcp={"from": "blue", "to": "red:80", "expect": "refused"}, within="5s")
        assert result.ok, result.lines
        """
        from netns_orch import checks

        said = self._with_check(keys)
        model = said.model()
        (result,) = rootless.call(self.name, checks.run_checks, self.name, model, model.checks)
        return replace(result, where=said.place(result.where))

    def reach(self, a: str, b: str, *, within: str | None = None) -> bool:
        """Whether each of ``a`` pings each of ``b`` (containers, scaled names, addresses)."""
        keys = {"reach": {"from": [a], "to": [b]}, **({"within": within} if within else {})}
        return self.check(**keys).ok

    def _with_check(self, keys: Mapping[str, Any]) -> Topology:
        """A topology of the lab's names, with one check: what is said is read as in a file."""
        said = Topology(self.name)
        groups = rootless.call(self.name, labs.groups, self.name)
        scaled = {member for members in groups.values() for member in members}
        for group, members in groups.items():
            said.container(group, scale=len(members))
        for row in self.ps():
            if row["name"] not in scaled:
                said.container(row["name"])
        said.check(**keys)
        return said

    # -- what it says of itself --------------------------------------------------------------------

    def ps(self) -> list[dict[str, Any]]:
        """The containers, as ``netorch ps --json``."""
        return rootless.call(self.name, labs.ps, self.name)

    def status(self, *, strict: bool = False) -> dict[str, Any]:
        """Drift and what is extra, as ``netorch status --json``."""
        return rootless.call(self.name, labs.status, self.name, strict=strict)

    def inspect(self) -> dict[str, Any]:
        """Everything, as ``netorch inspect LAB``."""
        return rootless.call(self.name, labs.inspect, self.name)


class Node:
    """A container of a running lab."""

    def __init__(self, lab: str, name: str) -> None:
        self.lab, self.name = lab, name

    def __repr__(self) -> str:
        return f"Node({self.lab!r}, {self.name!r})"

    # -- commands in it ----------------------------------------------------------------------------

    def run(
        self,
        command: str | Sequence[str],
        *,
        input: str | None = None,
        timeout: float = _PATIENCE,
        user: str | None = None,
        working_dir: str | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> Completed:
        """Run a command to its end, as ``netorch exec`` does: its ``code``, ``stdout`` and ``stderr``.

        A string is for a shell, a list is words.  CommandFailed if it takes more than ``timeout`` seconds.
        """
        how = programs.How(user, working_dir, environment)
        done = programs.run(self.lab, self.name, _words(command), how, input=input, timeout=timeout)
        if done is None:
            raise CommandFailed(f"{self.name}: {_shown(command)} did not end within {timeout:g} s")
        return done

    def check(self, command: str | Sequence[str], **options: Any) -> str:
        """Run a command that must exit 0, with the options of ``run``; its stdout, without the last newline.

        CommandFailed carries what it said.
        """
        done = self.run(command, **options)
        if done.code:
            words = "\n".join(filter(None, (done.stdout.rstrip(), done.stderr.rstrip())))
            raise CommandFailed(f"{self.name}: {_shown(command)} exited {done.code}", details=words or None)
        return done.stdout.removesuffix("\n")

    def popen(
        self,
        command: str | Sequence[str],
        *,
        user: str | None = None,
        working_dir: str | None = None,
        environment: Mapping[str, str] | None = None,
        tty: bool = False,
        **options: Any,
    ) -> Running[Any]:
        """Begin to run a command; ``options`` are those of ``subprocess.Popen``.

        Signals to the process reach the command, which is killed when the process is.
        """
        how = programs.How(user, working_dir, environment, tty)
        return programs.start(self.lab, self.name, _words(command), how, **options)

    # -- its network, in the hands of the program --------------------------------------------------

    def socket(self, family: int = 2, type: int = 1, proto: int = 0) -> Socket:
        """A socket in the container's network (AF_INET and SOCK_STREAM, if nothing else is said).

        It stays there for its life, whoever uses it: ``bind``, ``connect`` and the like speak of the
        container's addresses.  For root and ordinary users.
        """
        return rootless.call(self.lab, _socket, self.lab, self.name, family, type, proto)

    @contextmanager
    def netns(self) -> Iterator[None]:
        """Within the block the calling thread is in the container's network namespace (setns(2)).

        A socket that is opened there stays there for its life.  Other threads stay where they are.  What
        asks netorch itself has its place outside of the block: in there is another host.
        It needs root; else PermissionNeeded: with ``socket`` an ordinary user has one from there.
        """
        if userdir.is_ordinary():
            raise PermissionNeeded(
                f"{self.name}: only root's threads can enter a container's network namespace",
                hint=f"lab[{self.name!r}].socket() opens a socket there, run() and popen() programs",
            )
        kernel, _ = labs.known(self.lab)
        with namespaces.visiting(kernel.running(self.name).pid):
            yield

    # -- what is done to it ------------------------------------------------------------------------

    def restart(self) -> None:
        """End its command, mount its root afresh, run ``setup`` and the command again; its network stays."""
        rootless.call(self.lab, labs.restart, self.lab, [self.name])

    def pause(self) -> None:
        """Freeze all of its processes."""
        rootless.call(self.lab, operate.pause, self.lab, [self.name])

    def unpause(self) -> None:
        """Let it go on."""
        rootless.call(self.lab, operate.unpause, self.lab, [self.name])

    def kill(self, signal: str = "KILL") -> None:
        """Send its command a signal, by name or number."""
        rootless.call(self.lab, operate.kill, self.lab, [self.name], signal)

    def wait(self) -> int:
        """Block until its command has ended; the exit code."""
        return rootless.call(self.lab, operate.wait, self.lab, self.name)

    # -- what it says of itself --------------------------------------------------------------------

    @property
    def addresses(self) -> list[str]:
        """Its addresses with prefix lengths, in file order."""
        addresses: list[str] = self.ps()["addresses"]
        return addresses

    @property
    def pid(self) -> int | None:
        """Its PID 1, as the host numbers it; None when it is dead."""
        pid: int | None = self.ps()["pid"]
        return pid

    def ps(self) -> dict[str, Any]:
        """Its row of ``netorch ps --json``."""
        return next(row for row in rootless.call(self.lab, labs.ps, self.lab) if row["name"] == self.name)

    def inspect(self) -> dict[str, Any]:
        """Everything, as ``netorch inspect NODE``."""
        return rootless.call(self.lab, labs.inspect, self.lab, self.name)

    def logs(self, *, tail: int | None = None) -> str:
        """What its command printed, or the last ``tail`` lines of it."""
        return rootless.call(self.lab, _logs, self.lab, self.name, tail).decode(errors="replace")


class Link:
    """The cables between two names of a running lab."""

    def __init__(self, lab: str, a: str, b: str | None) -> None:
        self.lab, self.a, self.b = lab, a, b

    def __repr__(self) -> str:
        return f"Link({self.lab!r}, {self.a!r}, {self.b!r})"

    def up(self) -> list[dict[str, Any]]:
        """Plug them in; how they are then."""
        return self._do(cables.switch, up=True, wait=_PATIENCE)

    def down(self) -> list[dict[str, Any]]:
        """Unplug them: carrier goes with it."""
        return self._do(cables.switch, up=False, wait=_PATIENCE)

    def set(self, **impairments: str | int) -> list[dict[str, Any]]:
        """Impair them, in the lab file's words: ``set(delay="50ms", loss="1%")``."""
        texts = {key: str(value) for key, value in impairments.items()}
        return self._do(cables.impair, texts, wait=_PATIENCE)

    def reset(self) -> list[dict[str, Any]]:
        """Put them back to what the lab file says."""
        return self._do(cables.reset, wait=_PATIENCE)

    def show(self) -> list[dict[str, Any]]:
        """How they are now, a row for each cable."""
        return self._do(cables.show)

    def _do(
        self, function: Callable[..., list[dict[str, Any]]], *args: Any, **options: Any
    ) -> list[dict[str, Any]]:
        return rootless.call(self.lab, function, self.lab, self.a, self.b, *args, **options)


# -- what is done where the lab is -------------------------------------------------------------------


def _known(lab: str, node: str | None = None) -> None:
    _, applied = labs.known(lab)
    if node is not None:
        labs.known_node(lab, node, applied)


def _known_cables(lab: str, a: str, b: str | None) -> None:
    _, applied = labs.known(lab)
    cables.find(applied.state, a, b)


def _socket(lab: str, node: str, family: int, kind: int, protocol: int) -> Socket:
    kernel, _ = labs.known(lab)
    return namespaces.open_socket(kernel.running(node).pid, family, kind, protocol)


def _logs(lab: str, node: str, tail: int | None) -> bytes:
    return b"".join(labs.logs(lab, node, tail=tail))


def _words(command: str | Sequence[str]) -> list[str]:
    return ["/bin/sh", "-c", command] if isinstance(command, str) else list(command)


def _shown(command: str | Sequence[str]) -> str:
    return command if isinstance(command, str) else " ".join(command)
