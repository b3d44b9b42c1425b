"""Completion for bash, zsh and fish: the scripts, and the answers they ask for.

Owns: what may stand at the cursor.  Must not: fail loudly or be slow; a shell waits, with a person before it.

The scripts know nothing but how to ask ``netorch __complete WORD...`` (the last word is the one at the
cursor, perhaps empty), so that they never are of another version than the program.  An answer is a line: the
word, and after a tab what it is.  No answer at all: the shell offers file names.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from netns_orch.errors import UsageError

ASK = "__complete"
Answer = tuple[str, str]

_BASH = """\
# netorch completion for bash: eval "$(netorch completion bash)"
_netorch() {
    mapfile -t COMPREPLY < <("$1" __complete "${COMP_WORDS[@]:1:COMP_CWORD}" 2>/dev/null | cut -f 1)
    if [[ ${#COMPREPLY[@]} -eq 1 && ${COMPREPLY[0]} == */ ]]; then compopt -o nospace; fi
}
complete -o default -F _netorch netorch
"""
_ZSH = """\
#compdef netorch
# netorch completion for zsh: eval "$(netorch completion zsh)", or as a file _netorch in a directory of $fpath
_netorch() {
    local line tab=$'\\t'
    local -a answers
    for line in "${(@f)$("${words[1]}" __complete "${(@)words[2,CURRENT]}" 2>/dev/null)}"; do
        [[ -n $line ]] && answers+=("${${line%%$tab*}//:/\\\\:}:${line#*$tab}")
    done
    if (( ${#answers} )); then _describe netorch answers; else _files; fi
}
if [[ ${funcstack[1]} == _netorch ]]; then _netorch "$@"; else compdef _netorch netorch; fi
"""
_FISH = """\
# netorch completion for fish: netorch completion fish > ~/.config/fish/completions/netorch.fish
function __netorch_answers
    set -l words (commandline -opc) (commandline -ct)
    set -l answers ($words[1] __complete $words[2..-1] 2>/dev/null)
    if test (count $answers) -gt 0
        printf '%s\\n' $answers
    else
        __fish_complete_path (commandline -ct)
    end
end
complete -c netorch -f -a '(__netorch_answers)'
"""
SCRIPTS = {"bash": _BASH, "zsh": _ZSH, "fish": _FISH}

_EXEC_OPTIONS = {
    "--interactive": "hand stdin on",
    "--tty": "on a terminal",
    "--user": "as USER[:GROUP]",
    "--workdir": "in DIR",
    "--env": "with NAME=VALUE in the environment",
    "--lab": "in that lab",
    "--all": "in all containers",
    "--label": "in all containers with that label",
    "--help": "what it does",
}
_EXEC_VALUES = ("-u", "--user", "-w", "--workdir", "-e", "--env", "-l", "--label", "--lab")
_SHELL_OPTIONS = ("--user", "--workdir", "--env", "--lab", "--help")
_EXEC_MANY = {"-l", "--label", "--all"}


def script(shell: str) -> str:
    """The completion script of a shell."""
    if shell not in SCRIPTS:
        raise UsageError(f"no completion for {shell}", hint=f"there is for {', '.join(SCRIPTS)}")
    return SCRIPTS[shell]


def reply(words: list[str]) -> list[str]:
    """The lines that answer a shell; ``words`` end with the one at the cursor."""
    words = words or [""]
    prefix = words[-1]
    short = {"exec": exec_answers, "shell": shell_answers}
    answers = short[words[0]](words[1:]) if words[0] in short and len(words) > 1 else _app_answers(words)
    unique = dict(answer for answer in answers if answer[0].startswith(prefix))
    return [f"{word}\t{what}" for word, what in unique.items()]


# -- exec, whose options end at NODE ---------------------------------------------------------------


def exec_answers(words: list[str]) -> list[Answer]:
    """What may follow ``exec``: options, then a node; of the command inside nothing is known."""
    lab, position = None, 0
    while position < len(words) - 1:
        word = words[position]
        if not word.startswith("-"):
            return []
        if word == "--lab":
            lab = words[position + 1]
        position += 2 if word in _EXEC_VALUES else 1
    if position >= len(words):
        return [*labs(), *lab_files(words[-1])] if words[-2] == "--lab" else []
    if words[-1].startswith("-"):
        return list(_EXEC_OPTIONS.items())
    return [] if _EXEC_MANY & set(words) else nodes(lab)


def shell_answers(words: list[str]) -> list[Answer]:
    """What may follow ``shell``: those options of ``exec`` that are about one container, then a node."""
    if words[-1].startswith("-"):
        return [(option, what) for option, what in _EXEC_OPTIONS.items() if option in _SHELL_OPTIONS]
    return exec_answers(words)


# -- all other commands: what typer's app knows of them --------------------------------------------


def _app_answers(words: list[str]) -> list[Answer]:
    import typer

    from netns_orch.cli.app import app

    group: Any = typer.main.get_command(app)
    *before, prefix = words
    if not before:
        return _options(group) if prefix.startswith("-") else _commands(group)
    command = group.commands.get(before[0])
    return [] if command is None else _command_answers(command, before[1:], prefix)


def _commands(group: Any) -> list[Answer]:
    return [(name, (command.help or "").strip().splitlines()[0]) for name, command in group.commands.items()]


def _options(command: Any) -> list[Answer]:
    """Each with the first line of its help: a second line would be offered as a word of its own."""
    shown = [p for p in command.params if p.param_type_name == "option" and not p.hidden]
    named = [(max(p.opts, key=len), (p.help or "").partition("\n")[0]) for p in shown]
    return [*named, ("--help", "what it does")]


def _command_answers(command: Any, before: list[str], prefix: str) -> list[Answer]:
    with_value = {name: p for p in command.params for name in p.opts if name[:1] == "-" and not p.is_flag}
    values, lab, position = _given(before, with_value)
    if before and before[-1] in with_value and not values:
        return _of_kind(with_value[before[-1]].metavar, lab, prefix)
    if prefix.startswith("-"):
        return _options(command)
    arguments = [p for p in command.params if p.param_type_name == "argument"]
    if arguments and arguments[-1].nargs == -1:
        position = min(position, len(arguments) - 1)
    return _of_kind(arguments[position].metavar, lab, prefix) if position < len(arguments) else []


def _given(before: list[str], with_value: dict[str, Any]) -> tuple[bool, str | None, int]:
    """Whether the last word is complete, the lab named by ``--lab``, how many arguments there are already."""
    complete, lab, position = True, None, 0
    option = ""
    for word in before:
        if option:
            lab = word if option == "--lab" else lab
            option = ""
        elif word in with_value:
            option = word
        elif not word.startswith("-"):
            position += 1
    complete = not option
    return complete, lab, position


def _of_kind(kind: str | None, lab: str | None, prefix: str) -> list[Answer]:
    sources: dict[str, Callable[[], Iterable[Answer]]] = {
        "FILE": lambda: [*lab_files(prefix), *labs()],
        "FILE|DIR...": lambda: [*lab_files(prefix), *labs()],
        "FILE|DIR": lambda: lab_files(prefix),
        "LAB": lambda: [*labs(), *lab_files(prefix)],
        "NODE": lambda: nodes(lab),
        "NODE...": lambda: nodes(lab),
        "NODE[:IF]...": lambda: nodes(lab),
        "SRC": lambda: [(f"{name}:", what) for name, what in nodes(lab)],
        "DST": lambda: [(f"{name}:", what) for name, what in nodes(lab)],
        "SIGNAL": lambda: [(name, "") for name in ("KILL", "TERM", "INT", "HUP", "USR1", "USR2")],
        "NODE|LAB": lambda: [*nodes(lab), *labs(), *lab_files(prefix)],
        "EXAMPLE": _examples,
        "KIND": lambda: [(kind, "") for kind in ("containerlab", "compose", "kathara", "munet")],
        "ROOT": lambda: [("host", "a copy-on-write view of the host's root")],
        "SHELL": lambda: [(shell, "") for shell in SCRIPTS],
        "FORMAT": lambda: [("table", ""), ("json", ""), ("shell", "")],
    }
    return list(sources[kind]()) if kind in sources else []


def _examples() -> Iterator[Answer]:
    from netns_orch.cli.examples import examples, summary

    for name, path in examples().items():
        yield name, summary(path)


# -- names -----------------------------------------------------------------------------------------


def _about() -> Iterator[dict[str, Any]]:
    """lab.json of each lab: all that names need, without a look at the kernel."""
    from netns_orch.kernel.rundir import host_id, lab_directories

    for directory in lab_directories(host_id()):
        about = directory.read_json("lab.json")
        if isinstance(about, dict):
            yield about


def labs() -> list[Answer]:
    """The labs that are up."""
    return [
        (str(about["name"]), f"lab of {about['file']}" if about.get("file") else "lab") for about in _about()
    ]


def nodes(lab: str | None) -> list[Answer]:
    """The containers, and the names of scaled ones, of ``lab`` or of all labs."""
    found = []
    for about in _about():
        if lab in (None, about["name"]) or str(Path(str(lab)).resolve()) == about.get("file"):
            what = f"container of {about['name']}"
            found += [(name, what) for name in about.get("containers", {})]
            found += [(name, f"all of {name}") for name in about.get("groups", {})]
    return found


def lab_files(prefix: str) -> list[Answer]:
    """Lab files, and directories to look further in, that begin with ``prefix``."""
    head, slash, _ = prefix.rpartition("/")
    directory = Path(head or "/") if slash else Path()
    try:
        entries = sorted(directory.iterdir())
    except OSError:
        return []
    shown = [entry for entry in entries if not entry.name.startswith(".")]
    files = [(f"{head}{slash}{e.name}", "file") for e in shown if e.suffix in (".yaml", ".yml")]
    return files + [(f"{head}{slash}{e.name}/", "directory") for e in shown if e.is_dir()]
