"""An ordinary user who runs netorch: an id that /etc/passwd does not know, and directories of his own."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from support import view
from support.runner import ROOT, SECONDS, Netorch
from support.waiting import until

_NEEDED = """
import importlib.util, sys, pydantic_core, yaml
sys.exit(not all(map(importlib.util.find_spec, ("netns_orch", "pydantic", "typer", "networkx", "pyroute2"))))
"""
"""What is compiled is tried out; to import all of it would take as long as many a test."""


def unused(number: int) -> int:
    """The id of a user whom no other process that runs tests has; ``number`` is one of 0 to 3."""
    return 1_000_000 + 4 * os.getpid() + number


ALICE, BOB = unused(0), unused(1)


def as_user(uid: int) -> list[str]:
    """The words before a command that let a user run it; setpriv itself would find it with root's rights."""
    setpriv, env = shutil.which("setpriv"), shutil.which("env")
    assert setpriv is not None and env is not None
    return [setpriv, f"--reuid={uid}", f"--regid={uid}", "--clear-groups", "--inh-caps=-all", env]


@functools.cache
def python(uid: int) -> tuple[str, str] | None:
    """An interpreter that the user can run and PYTHONPATH for it; None: he can't run any with all we need."""
    paths = f"{ROOT}:{ROOT / 'tests'}:{sysconfig.get_paths()['purelib']}"
    names = [sys.executable, *filter(None, [shutil.which("python3", path="/usr/bin:/bin")])]
    for name in names:
        environment = {"PYTHONPATH": paths, "PATH": os.environ["PATH"], "PYTHONDONTWRITEBYTECODE": "1"}
        words = [*as_user(uid), name, "-c", _NEEDED]
        with contextlib.suppress(OSError):
            done = subprocess.run(words, env=environment, cwd="/", capture_output=True, check=False)
            if done.returncode == 0:
                return name, paths
    return None


def why_not(uid: int) -> str | None:
    """Why an ordinary user can run nothing here, or None."""
    if python(uid) is None:
        return "no Python with netorch's dependencies that an ordinary user may run"
    allowed = subprocess.run([*as_user(uid), "unshare", "-Urn", "true"], capture_output=True, check=False)
    return "this host lets no ordinary user have a user namespace" if allowed.returncode else None


@contextlib.contextmanager
def place() -> Iterator[Path]:
    """A directory that every user can pass through; in memory, as a user's run directory is."""
    path = Path(tempfile.mkdtemp(prefix="netorch-test-"))
    subprocess.run(["mount", "-t", "tmpfs", "-o", "mode=711", "netorch-test", str(path)], check=True)
    try:
        yield path
    finally:
        subprocess.run(["umount", "--lazy", str(path)], check=True)
        path.rmdir()


class Ordinary(Netorch):
    """``netorch`` as a user runs it; his files are below ``base``, which all users can pass through."""

    def __init__(self, uid: int, base: Path, cache: Path) -> None:
        """``cache`` is for compiled modules: compiling them takes longer than most commands."""
        self.uid = uid
        found = python(uid)
        assert found is not None, "asked before"
        self.interpreter, paths = found
        self.prefix = tuple(as_user(uid))
        home, self.runtime = base / f"home{uid}", base / f"run{uid}"
        for directory in (home, self.runtime):
            directory.mkdir(mode=0o700)
            os.chown(directory, uid, uid)
        environment = {"PYTHONPATH": paths, "HOME": str(home), "XDG_RUNTIME_DIR": str(self.runtime)}
        super().__init__(home, environment | {"PYTHONPYCACHEPREFIX": str(cache)})
        self.environment.pop("PYTHONDONTWRITEBYTECODE", None)

    def argv(self, *words: str | Path, python: tuple[str, ...] = ()) -> list[str]:  # type: ignore[override]
        """The command line that runs ``netorch`` as this user."""
        return [*self.prefix, self.interpreter, *python, "-m", "netns_orch", *map(str, words)]

    def run(self, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run any program as this user."""
        return subprocess.run(
            [*self.prefix, *words],
            cwd=self.directory,
            env={**self.environment, **environment},
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=False,
        )

    def python(self, script: str, *words: str) -> subprocess.CompletedProcess[str]:
        """Run a Python script as this user."""
        return self.run(self.interpreter, "-c", script, *words)

    def module(self, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run a module of Python's (``-m``) as this user."""
        return self.run(self.interpreter, "-m", *words, **environment)

    def begin(self, script: str) -> subprocess.Popen[str]:
        """Start a Python script as this user, and leave it running."""
        return subprocess.Popen(
            [*self.prefix, self.interpreter, "-c", script],
            cwd=self.directory,
            env=self.environment,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def take(self, tree: Path) -> Path:
        """A copy of a directory, all of it this user's."""
        copy = self.directory / tree.name
        shutil.copytree(tree, copy, symlinks=True)
        subprocess.run(
            ["chown", "--recursive", "--no-dereference", f"{self.uid}:{self.uid}", copy], check=True
        )
        return copy

    @property
    def top(self) -> Path:
        """Where his labs have their files."""
        return self.runtime / "netorch"

    def holder(self, lab: str) -> int:
        """The pid of the first process of a lab."""
        pid: int = json.loads((self.top / lab / "holder.json").read_text())["pid"]
        return pid

    def pid(self, node: str) -> int:
        """The pid of PID 1 of a container of the only lab."""
        pid: int = next(row["pid"] for row in self("ps", "--json").json() if row["name"] == node)
        return pid

    def processes(self) -> list[str]:
        """The names of all processes of this user that live."""
        found = []
        for path in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if path.stat().st_uid == self.uid or f"\nUid:\t{self.uid}\t" in (path / "status").read_text():
                    state = (path / "stat").read_text().rpartition(")")[2].split()[0]
                    found += [(path / "comm").read_text().strip()] if state not in "ZX" else []
        return found

    def assert_nothing_left(self) -> None:
        """No file in his run directory, and within a while no process."""
        assert list(self.runtime.iterdir()) == []
        until(lambda: not self.processes(), f"the end of {self.processes()}", 30)

    def end(self) -> None:
        """After a failure: nothing of him goes on."""
        for about in self.top.glob("*/holder.json"):
            with contextlib.suppress(OSError, ValueError):
                os.kill(json.loads(about.read_text())["pid"], signal.SIGKILL)


@contextlib.contextmanager
def covered(files: Mapping[str, str], base: Path) -> Iterator[None]:
    """Files of /etc with another text, in this mount namespace alone."""
    done: list[str] = []
    try:
        for number, (path, text) in enumerate(files.items()):
            source = base / f"cover{number}"
            source.write_text(text)
            subprocess.run(["mount", "--bind", str(source), path], check=True)
            done.append(path)
        yield
    finally:
        for path in done:
            subprocess.run(["umount", path], check=True)


# -- the tests of the suite as an ordinary user (scripts/test-rootless) ------------------------------

ROOT_ONLY = {
    **{
        f"{test}[{name}]": view.NO_CGROUP
        for test in ("test_it_is_valid", "test_every_topology_is_as_planned")
        for name in ("cgroup-limits", "sandbox")
    },
    "test_published_ports[host]": "looks for the addresses that root's NAT shows",
    "test_published_ports[private]": "looks for the addresses that root's NAT shows",
}
"""Shipped topologies that an ordinary user can't pass, and why; other tests have the mark ``root_only``."""


def known() -> dict[str, str]:
    """Files of /etc that know the user, as adduser(8) leaves them."""
    ids = f"{ALICE}:{view.FIRST_SUBORDINATE}:65536\n"
    users = Path("/etc/passwd").read_text() + f"alice:x:{ALICE}:{ALICE}::/:/bin/sh\n"
    return {"/etc/subuid": ids, "/etc/subgid": ids, "/etc/passwd": users}


def _give(directories: Iterable[Path]) -> None:
    """What root owns in there is this user's from now on."""
    for directory in directories:
        for parent, _, files in os.walk(directory):
            for path in (parent, *(os.path.join(parent, name) for name in files)):
                with contextlib.suppress(FileNotFoundError):  # a test may have something come and go
                    _give_one(path)


def _give_one(path: str) -> None:
    found = os.lstat(path)
    if found.st_uid == 0:
        os.chown(path, ALICE, ALICE, follow_symlinks=False)
        if stat.S_ISREG(found.st_mode):  # set-user-ID goes with the owner
            os.chmod(path, stat.S_IMODE(found.st_mode))


@contextlib.contextmanager
def everywhere() -> Iterator[list[Path]]:
    """Whatever runs ``netorch`` by ``Netorch`` runs it as an ordinary user; the directories that are his."""
    found = python(ALICE)
    assert found is not None, "asked before"
    program, paths = found
    original = Netorch.__init__, Netorch.argv
    with place() as base, covered(known(), base):
        home, runtime, cache = base / "home", base / "run", base / "cache"
        for directory in (home, runtime, cache):
            directory.mkdir(mode=0o700)
            os.chown(directory, ALICE, ALICE)
        view.HOLDERS.append(runtime / "netorch")
        view.USERS.append(ALICE)
        given: list[Path] = []
        # As words, for tests that start the command line by themselves, with an environment of their own.
        own = {"PYTHONPATH": paths, "HOME": home, "XDG_RUNTIME_DIR": runtime, "PYTHONPYCACHEPREFIX": cache}
        prefix = [*as_user(ALICE), "-u", "PYTHONDONTWRITEBYTECODE", *(f"{k}={v}" for k, v in own.items())]

        def init(self: Netorch, directory: Path, environment: Mapping[str, str] | None = None) -> None:
            for parent in [directory, *directory.parents][:4]:
                parent.chmod(parent.stat().st_mode | 0o011)
            given.append(directory)
            original[0](self, directory, environment)
            self.prefix = tuple(prefix)

        def argv(*words: str | Path, python: tuple[str, ...] = ()) -> list[str]:
            _give(filter(Path.is_dir, given))  # what the test, as root, has written there
            return [*prefix, program, *python, "-m", "netns_orch", *map(str, words)]

        Netorch.__init__, Netorch.argv = init, staticmethod(argv)  # type: ignore[method-assign]
        try:
            yield given
        finally:
            view.HOLDERS.pop()
            view.USERS.pop()
            Netorch.__init__, Netorch.argv = original  # type: ignore[method-assign]
