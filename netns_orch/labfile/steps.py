"""The command lines of a scenario: what netorch's commands take, and what is wrong with one.

Owns: the options and words of each command, as far as a file can be wrong about them before its lab is up.
Must not: run a command, or know what it does.

The command line has its own parser, which is not loaded for a file; a test holds both together.
"""

from __future__ import annotations

from typing import NamedTuple

from netns_orch.labfile import hints, units
from netns_orch.labfile.fields import Context
from netns_orch.labfile.model import HOST, Topology
from netns_orch.labfile.nodes import shown
from netns_orch.labfile.units import Wrong


class Command(NamedTuple):
    """What a command takes."""

    usage: str
    """Its words: ``[...]`` may be left out, ``...`` repeated."""
    flags: frozenset[str]
    valued: frozenset[str]
    """Options with a value."""

    @property
    def most(self) -> int | None:
        """How many words there can be; None: any number."""
        return None if "..." in self.usage else len(self.usage.split())


def _command(usage: str, options: str) -> Command:
    """``options``: those with a value end with =."""
    names = options.split()
    valued = frozenset(name[:-1] for name in names if name.endswith("="))
    return Command(usage, frozenset(name for name in names if not name.endswith("=")), valued)


_CHOSEN = "--all --json --label= -l= --lab="
COMMANDS = {
    "init": _command("[EXAMPLE]", "--force --list --json --output= -o="),
    "up": _command(
        "[FILE]",
        "--private --untrusted --dry-run --keep-failed --pull --json --name= --var= --timeout= --wait= "
        "--ttl= --owner-pid=",
    ),
    "down": _command("[LAB]", "--all --json --wait="),
    "exec": _command(
        "NODE CMD...",
        "--interactive -i --tty -t --all --user= -u= --workdir= -w= --env= -e= --label= -l= --lab=",
    ),
    "shell": _command("NODE", "--user= -u= --workdir= -w= --env= -e= --lab="),
    "plan": _command("[FILE]", "--private --untrusted --json --name= --var= --format="),
    "validate": _command("[FILE]", "--private --untrusted --json --name= --var="),
    "ls": _command("", "--json"),
    "ps": _command("[LAB]", "--json --label= -l="),
    "status": _command("[LAB]", "--strict --json"),
    "inspect": _command("[NODE|LAB]", "--json --lab="),
    "logs": _command("NODE", "--follow -f --tail= --lab="),
    "stats": _command("[LAB]", "--once --json --interval="),
    "diff": _command("NODE", "--json --lab="),
    "graph": _command("[FILE]", "--json --format= --output= -o= --name= --var="),
    "path": _command("A B", "--probe -6 --json --lab="),
    "link": _command("A [B] ACTION [K=V...]", "--json --lab= --wait="),
    "capture": _command(
        "[NODE[:IF]...]",
        "--json --write= -w= --filter= -f= --count= -c= --duration= --snaplen= -s= --ring= --lab=",
    ),
    "cp": _command("SRC DST", "--archive -a --follow-link -L --lab="),
    "pause": _command("[NODE...]", f"{_CHOSEN} --wait="),
    "unpause": _command("[NODE...]", _CHOSEN),
    "restart": _command("[NODE...]", f"{_CHOSEN} --time= -t= --wait="),
    "kill": _command("[NODE...]", f"{_CHOSEN} --signal= -s="),
    "wait": _command("[NODE...]", _CHOSEN),
    "top": _command("NODE", "--json --lab="),
    "test": _command(
        "[FILE|DIR...]",
        "--keep-failed --no-scenario --no-skip --untrusted --json --jobs= -j= --junit= --tags= --artifacts= "
        "--lab= --var=",
    ),
    "gc": _command("", "--dry-run --images --json"),
    "doctor": _command("", "--json --for="),
    "schema": _command("", "--json"),
    "import": _command("FILE|DIR", "--force --strict --from= --output= -o= --rootfs="),
    "completion": _command("SHELL", ""),
}
"""The first words that a step may begin with, in the order of the help."""
ACTIONS = ("up", "down", "set", "reset", "show")
"""What ``link`` does with a cable."""
_INTO = ("exec", "shell")
"""Their options come before NODE: the rest is the container's."""
_MANY = ("pause", "unpause", "restart", "kill", "wait")
_OF_ONE = ("logs", "diff", "top", "shell")
_TIMES = frozenset(("--wait", "--timeout", "--interval", "--duration", "--time"))


class Line(NamedTuple):
    """A command line, taken apart."""

    command: str
    options: list[tuple[str, str]]
    words: list[str]

    def has(self, *names: str) -> bool:
        """Whether one of these options is given."""
        return any(name in names for name, _ in self.options)


def parse(argv: list[str]) -> Line:
    """Take a command line apart; Wrong where its command does not take what is in it."""
    command, *left = argv
    takes = COMMANDS[command]
    line = Line(command, [], [])
    while left:
        word = left.pop(0)
        if word == "--":
            break
        if word.startswith("--"):
            _long(takes, line, word, left)
        elif word.startswith("-") and word != "-":
            _short(takes, line, word[1:], left)
        else:
            line.words.append(word)
            if command in _INTO:
                break
    line.words.extend(left)
    if not line.has("--help", "-h"):
        _count(takes, line)
    return line


def _long(takes: Command, line: Line, word: str, left: list[str]) -> None:
    name, equals, value = word.partition("=")
    if name in takes.valued:
        line.options.append((name, value if equals else _value(takes, line, name, left)))
    elif equals and name in takes.flags:
        raise _misused(takes, line, f"{name} takes no value")
    elif name in takes.flags or name == "--help":
        line.options.append((name, ""))
    else:
        raise _unknown(takes, line, name)


def _short(takes: Command, line: Line, letters: str, left: list[str]) -> None:
    while letters:
        name, letters = f"-{letters[0]}", letters[1:]
        if name in takes.valued:
            line.options.append((name, letters or _value(takes, line, name, left)))
            return
        if name not in takes.flags and name != "-h":
            raise _unknown(takes, line, name)
        line.options.append((name, ""))


def _value(takes: Command, line: Line, name: str, left: list[str]) -> str:
    if not left:
        raise _misused(takes, line, f"{name} needs a value")
    return left.pop(0)


def _unknown(takes: Command, line: Line, name: str) -> Wrong:
    known = sorted(name for name in takes.flags | takes.valued if name.startswith("--"))
    hint = hints.mean(name, known) or hints.one_of(known)
    return Wrong(f"netorch {line.command} has no option {shown(name)}", hint)


def _count(takes: Command, line: Line) -> None:
    """As many words as the command takes."""
    needed = [word for word in takes.usage.split() if not word.startswith("[")]
    if line.command == "exec" and line.has("--all", "-l", "--label"):
        needed.remove("NODE")
    if len(line.words) < len(needed):
        raise _misused(takes, line, f"{needed[len(line.words)]} is missing")
    if takes.most is not None and len(line.words) > takes.most:
        raise _misused(takes, line, f"{shown(line.words[takes.most])} is one word too many")


def _misused(takes: Command, line: Line, what: str) -> Wrong:
    words = " ".join(filter(None, (line.command, takes.usage)))
    return Wrong(f"netorch {line.command}: {what}", f"it takes: {words}")


# -- what the words stand for ------------------------------------------------------------------------


def check(topology: Topology, ctx: Context) -> None:
    """Note what is wrong with each command line of the scenario, at its place."""
    same = True
    for step in topology.scenario:
        if step.kind != "command":
            continue
        try:
            line = parse(step.argv)
            _check_times(line)
            if line.command == "link":
                _check_link(line, topology, ctx, same=same)
            elif same and not line.has("--lab", "--help", "-h"):
                _check_nodes(line, ctx)
        except Wrong as wrong:
            if step.where is not None:
                ctx.problems.at(step.where, wrong.what, wrong.hint)
            continue
        # From here on the lab may be that of another file.
        same = same and not (line.command == "up" and (line.words or line.has("--var", "--name")))


def _check_times(line: Line) -> None:
    for name, value in line.options:
        if name in _TIMES or (line.command, name) == ("restart", "-t"):
            try:
                units.duration(f"{value}s" if value.isascii() and value.isdigit() else value)
            except Wrong as wrong:
                raise Wrong(f"netorch {line.command} {name}: {wrong.what}", wrong.hint) from None


def _check_nodes(line: Line, ctx: Context) -> None:
    """NODE is a container of the lab, or the name of scaled ones."""
    by_label = line.has("--all", "-l", "--label")
    if line.command in _MANY:
        if bool(line.words) == by_label:
            what = "NODE, --label and --all exclude each other" if by_label else "which containers?"
            raise Wrong(f"netorch {line.command}: {what}", "give NODE..., -l LABEL or --all")
        nodes = line.words
    elif line.command in _OF_ONE or (line.command == "exec" and not by_label):
        nodes = line.words[:1]
    else:
        nodes = []
    for node in nodes:
        ctx.nodes.members(node)


def _check_link(line: Line, topology: Topology, ctx: Context, *, same: bool) -> None:
    at = next((n for n, word in enumerate(line.words) if n and word in ACTIONS), None)
    if at is None or at > 2:
        what = "netorch link wants one or two ends and then an action"
        raise Wrong(what, f"an action is {', '.join(ACTIONS)}: link red br0 down")
    action, settings = line.words[at], line.words[at + 1 :]
    if (action == "set") != bool(settings):
        what = f"netorch link ... {action} takes {'K=V, one or more' if action == 'set' else 'nothing more'}"
        raise Wrong(what, "link red br0 set delay=50ms loss=1%")
    for setting in settings:
        key, _, value = setting.partition("=")
        if key not in units.IMPAIRMENTS:
            raise Wrong(f"netorch link ... set has no {shown(key)}", hints.one_of(units.IMPAIRMENTS))
        units.IMPAIRMENTS[key](value)
    if same and not line.has("--lab"):
        _check_ends(line.words[:at], topology, ctx)


def _check_ends(words: list[str], topology: Topology, ctx: Context) -> None:
    """Some cable of the file ends at all of these."""
    ends = [word.partition(":")[0] for word in words]
    names = [HOST, *topology.containers, *topology.bridges]
    for end in ends:
        if end in topology.groups:
            raise Wrong(
                f"{shown(end)} is several containers", f"one of {', '.join(topology.groups[end][:12])}"
            )
        if end not in names:
            raise ctx.nodes.unknown(end, "container or bridge", names)
    if not any(_joined(ends, (link.a.node, link.b.node)) for link in topology.links):
        where = f"between {ends[0]} and {ends[1]}" if ends[1:] else f"at {ends[0]}"
        raise Wrong(f"there is no cable {where}", "netorch graph shows the file's cables")


def _joined(ends: list[str], cable: tuple[str, str]) -> bool:
    return ends[0] in cable if len(ends) == 1 else sorted(ends) == sorted(cable)
