"""``netorch exec`` and ``shell``: the short way from the command line into a container.

Owns: its options, which lab and which containers are meant, the words of its errors, its exit codes (the
command's own; 125 netorch failed or wrong usage, 126 not executable, 127 not found, 128+n by signal n).
Must not: import typer, rich, PyYAML, networkx, pyroute2, or even json and typing: what it costs to start is
what ``exec`` costs.  Errors are worded with what is imported only then.
"""

from __future__ import annotations

import os
import sys

from netns_orch.kernel import enter, session, uplabs, userdir
from netns_orch.kernel.enter import Refused

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from netns_orch.kernel.uplabs import Lab

DEFAULT_FILE = "lab.yaml"
SIDE_BY_SIDE = 32
"""How many containers run at once with ``--all``, ``-l`` or the name of a group."""
USAGE = "netorch exec [OPTIONS] NODE COMMAND [ARGUMENT...]"
HELP = f"""usage: {USAGE}

Run COMMAND in a running container: in all its namespaces and its cgroup, confined as it is.
No `--` is needed before COMMAND. Options come before NODE.

  -i, --interactive       hand stdin on (else it is empty)
  -t, --tty               on a terminal of the container's own; -it for a shell
  -u, --user USER[:GROUP] as this user of the container
  -w, --workdir DIR       in this directory
  -e, --env NAME=VALUE    with this in the environment (NAME alone: its value here); repeatable
      --lab LAB|FILE      in this lab
      --all               in all containers of the lab; then there is no NODE
  -l, --label KEY[=VALUE] in all containers with this label; repeatable (all must fit)
  -h, --help              this text

The name of a scaled group stands for its containers. Where several run, each line of output begins with
the container's name.

The exit code is COMMAND's own; 125 where netorch fails, 126 where COMMAND can't be executed, 127 where it
is not found, 128+n where signal n ended it; of several, the first that is not 0, in file order."""


SHELL_USAGE = "netorch shell [OPTIONS] NODE"
SHELL_HELP = f"""usage: {SHELL_USAGE}

Open a shell in a running container, on a terminal of its own: /bin/bash, or /bin/sh where there is none.
It is `netorch exec -it NODE bash`, confined as the container is. Its exit code is the shell's own.

  -u, --user USER[:GROUP] as this user of the container
  -w, --workdir DIR       in this directory
  -e, --env NAME=VALUE    with this in the environment (NAME alone: its value here); repeatable
      --lab LAB|FILE      in this lab
  -h, --help              this text"""


class Options:
    """The words before NODE."""

    def __init__(self, command: str = "exec") -> None:
        self.command = command
        self.interactive = self.tty = self.all = self.help = False
        self.user: str | None = None
        self.workdir: str | None = None
        self.lab: str | None = None
        self.environment: dict[str, str] = {}
        self.labels: list[tuple[str, str | None]] = []
        self.argv: Sequence[str] | None = None
        """The words behind the command, as they were given."""

    @property
    def many(self) -> bool:
        """Whether containers are chosen without a NODE."""
        return self.all or bool(self.labels)

    def switch(self, name: str) -> bool:
        """Set a flag; False where there is none of that name."""
        if name not in ("interactive", "tty", "all", "help"):
            return False
        setattr(self, name, True)
        return True

    def give(self, name: str, value: str) -> None:
        """Set an option that has a value."""
        if name == "env":
            key, equals, text = value.partition("=")
            if not key or "\0" in value:
                raise Refused(f"-e {value!r}: expected NAME=VALUE")
            if equals:
                self.environment[key] = text
            elif key in os.environ:
                self.environment[key] = os.environ[key]
        elif name == "label":
            key, equals, text = value.partition("=")
            self.labels.append((key, text if equals else None))
        else:
            setattr(self, name, value)


_SHORT = {
    "i": "interactive",
    "t": "tty",
    "u": "user",
    "w": "workdir",
    "e": "env",
    "l": "label",
    "h": "help",
}
_WITH_VALUE = ("user", "workdir", "env", "label", "lab")
_LONG = (*_WITH_VALUE, "interactive", "tty", "all", "help")


def main(argv: Sequence[str]) -> int:
    """Run ``netorch exec`` with the words behind ``exec``; the exit code."""
    return _told(lambda: _exec(argv))


def shell(argv: Sequence[str]) -> int:
    """Run ``netorch shell`` with the words behind ``shell``; the exit code."""
    return _told(lambda: _shell(argv))


def _told(run: Callable[[], int]) -> int:
    try:
        return run()
    except Refused as refused:
        _complain(refused)
        return refused.code


def _complain(refused: Refused) -> None:
    hint = f"hint: {refused.hint}\n" if refused.hint else ""
    if sys.stderr is not None:  # the caller may have closed it
        sys.stderr.write(f"error: {refused.what}\n{hint}")
        sys.stderr.flush()


def parse(argv: Sequence[str], command: str = "exec") -> tuple[Options, list[str]]:
    """The options, and the words behind them: NODE (unless containers are chosen otherwise), the command."""
    options, words = Options(command), list(argv)
    while words and words[0].startswith("-") and words[0] != "-":
        word = words.pop(0)
        if word == "--":
            break
        if word.startswith("--"):
            _long(options, word[2:], words)
        else:
            _short(options, word[1:], words)
    if not options.many and len(words) > 1 and words[1] == "--":
        del words[1]
    return options, words


def _long(options: Options, word: str, words: list[str]) -> None:
    name, equals, value = word.partition("=")
    if not equals and options.switch(name):
        return
    if name not in _WITH_VALUE:
        raise _unknown_option(options, f"--{name}", [f"--{each}" for each in _LONG])
    options.give(name, value if equals else _value(f"--{name}", words))


def _short(options: Options, letters: str, words: list[str]) -> None:
    while letters:
        letter, letters = letters[0], letters[1:]
        name = _SHORT.get(letter)
        if name is None:
            raise _unknown_option(options, f"-{letter}", [])
        if not options.switch(name):
            options.give(name, letters.removeprefix("=") or _value(f"-{letter}", words))
            return


def _value(option: str, words: list[str]) -> str:
    if not words:
        raise Refused(f"{option} needs a value", f"usage: {USAGE}")
    return words.pop(0)


def _unknown_option(options: Options, option: str, known: Sequence[str]) -> Refused:
    near = _nearest(option, known)
    usage = SHELL_USAGE if options.command == "shell" else USAGE
    hint = f"did you mean {near[0]}?" if near else f"usage: {usage}"
    return Refused(f"{options.command} has no option {option}", hint)


# -- which lab, which containers ----------------------------------------------------------------------


def choose(options: Options, words: list[str]) -> tuple[Lab, list[str], list[str]]:
    """The lab, its containers in file order, and the command."""
    labs = uplabs.labs_up()
    node = None if options.many else (words.pop(0) if words else None)
    if node is None and not options.many:
        raise Refused("which container?", f"usage: {USAGE}")
    lab = _lab(labs, options.lab, node)
    if userdir.is_ordinary():
        _enter_realm(lab, options)
        lab = _lab(uplabs.labs_up(), lab.name, node)
    names = _members(lab, options, node)
    if not words:
        raise Refused("which command?", f"usage: {USAGE}")
    return lab, names, words


def _enter_realm(lab: Lab, options: Options) -> None:
    """Rootless: all of the lab is in a realm; inside, this is what root does (``kernel.realm``)."""
    from netns_orch.kernel import interpreter, realm

    here = realm.Realm(lab.name)
    if not here.open():
        raise Refused(f"lab {lab.name} has ended: its first process was killed", "netorch up FILE")
    here.enter()
    if options.argv is not None:
        words = [options.command, *options.argv]
        interpreter.run_protected("netns_orch.cli", "main", words, always=True)


def _lab(labs: list[Lab], wanted: str | None, node: str | None) -> Lab:
    if not labs:
        if userdir.is_ordinary() and os.path.isdir(userdir.RUN):
            from netns_orch.errors import PermissionNeeded

            raise PermissionNeeded("no lab of yours is up, and those of root are root's alone")
        raise Refused("no lab is up", "netorch up FILE")
    if wanted is not None:
        return _named_lab(labs, wanted)
    here = [lab for lab in labs if lab.file == os.path.abspath(DEFAULT_FILE)]
    having = [lab for lab in labs if node is not None and lab.members(node)]
    for found in (here, labs, having):
        if len(found) == 1:
            return found[0]
    names = ", ".join(lab.name for lab in having or here or labs)
    if node is not None and not having:
        raise Refused(f"no lab that is up has a container {node!r}", f"up are: {names}")
    raise Refused("which lab?", f"give one with --lab; it could be: {names}")


def _named_lab(labs: list[Lab], wanted: str) -> Lab:
    for lab in labs:
        if lab.name == wanted:
            return lab
    path = os.path.abspath(wanted)
    made = [lab for lab in labs if lab.file == path]
    if len(made) == 1:
        return made[0]
    if made:
        names = ", ".join(lab.name for lab in made)
        raise Refused(f"several labs were made from {wanted}", f"give one of: {names}")
    near = _nearest(wanted, [lab.name for lab in labs])
    names = ", ".join([*near, *(lab.name for lab in labs if lab.name not in near)])
    raise Refused(f"lab {wanted} is not up", f"up are: {names}")


def _members(lab: Lab, options: Options, node: str | None) -> list[str]:
    if node is None:
        names = [name for name, about in lab.containers.items() if _fits(about, options.labels)]
        if not names:
            words = " ".join(key if value is None else f"{key}={value}" for key, value in options.labels)
            raise Refused(f"no container of lab {lab.name} has the label {words}")
        return names
    names = lab.members(node)
    if names:
        return names
    if node == "host":
        raise Refused("host is this very namespace", "run the command without netorch exec")
    known = [*lab.containers, *(lab.about.get("groups") or {})]
    near = _nearest(node, known)
    listed = ", ".join([*near, *(name for name in known if name not in near)][:20])
    more = f" and {len(known) - 20} more" if len(known) > 20 else ""
    raise Refused(f"lab {lab.name} has no container {node!r}", f"there are: {listed}{more}")


def _fits(about: dict[str, dict[str, str]], labels: Iterable[tuple[str, str | None]]) -> bool:
    own = about.get("labels") or {}
    return all(key in own and value in (None, own[key]) for key, value in labels)


def _nearest(word: str, known: Sequence[str]) -> list[str]:
    """Names like ``word``, best first; only imported where something is wrong already."""
    import difflib

    return difflib.get_close_matches(word, known, n=3)


# -- running -------------------------------------------------------------------------------------------


def _exec(argv: Sequence[str]) -> int:
    options, words = parse(argv)
    options.argv = argv
    if options.help:
        sys.stdout.write(HELP + "\n")
        return 0
    return _run(options, words)


def _shell(argv: Sequence[str]) -> int:
    options, words = parse(argv, "shell")
    if len(words) > 1 and words[1].startswith("-"):  # no command comes, so options may follow NODE
        options, words = parse([*argv[: -len(words)], *words[1:], words[0]], "shell")
    options.argv = argv
    if options.help:
        sys.stdout.write(SHELL_HELP + "\n")
        return 0
    enter.open_missing_stdio()
    if options.many or len(words) != 1:
        hint = f"netorch exec {words[0]} COMMAND runs one" if len(words) > 1 else f"usage: {SHELL_USAGE}"
        raise Refused("shell takes one NODE and nothing behind it", hint)
    options.tty = options.interactive = True
    lab, names, _ = choose(options, [*words, "shell"])
    if len(names) > 1:
        raise Refused(f"{words[0]} is several containers", f"choose one of: {', '.join(names[:20])}")
    if not os.isatty(0):
        raise Refused("stdin is not a terminal", f"netorch exec -i {words[0]} sh   reads commands from it")
    target = enter.Target(lab.directory(names[0]))
    return session.attach_terminal(_program(target, options, [target.shell()]), interactive=True)


def _run(options: Options, words: list[str]) -> int:
    enter.open_missing_stdio()
    lab, names, argv = choose(options, words)
    if len(names) > 1:
        if options.tty or options.interactive:
            raise Refused("-i and -t are for one container", f"these are meant: {', '.join(names[:20])}")
        return _run_many(lab, names, options, argv)
    if options.tty and options.interactive and not os.isatty(0):
        raise Refused("-t: stdin is not a terminal", "leave -t away to hand a pipe or a file on")
    program = _maker(lab, names[0], options, argv)()
    if options.tty:
        return session.attach_terminal(program, interactive=options.interactive)
    return session.attach(program, interactive=options.interactive)


def _maker(lab: Lab, name: str, options: Options, argv: Sequence[str]) -> Callable[[], enter.Program]:
    return lambda: _program(enter.Target(lab.directory(name)), options, argv)


def _program(target: enter.Target, options: Options, argv: Sequence[str]) -> enter.Program:
    return enter.Program(
        target,
        argv,
        environment=options.environment,
        working_dir=options.workdir,
        user=options.user,
        terminal=options.tty,
    )


def _run_many(lab: Lab, names: Sequence[str], options: Options, argv: Sequence[str]) -> int:
    width = max(len(name) for name in names)
    jobs = []
    for name in names:
        sinks = [session.Prefixed(name, width, descriptor) for descriptor in (1, 2)]
        jobs.append(session.Job(_maker(lab, name, options, argv), *sinks))
    with session.Signals() as signals:
        session.Crowd(jobs, SIDE_BY_SIDE, _job_ended).run(signals)
    return next((job.code for job in jobs if job.code), 0)


def _job_ended(job: session.Job) -> None:
    if job.failure is not None:
        _complain(job.failure)
