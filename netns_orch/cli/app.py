"""The commands, but for what each of them does: that is ``lab``.

Owns: the words, options and help of each command.  Must not: do more than choose, call ``lab`` and show.

Everything heavy is imported by the command that needs it.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple

import typer
from typer import Argument, Option

from netns_orch import __version__
from netns_orch.cli import capture, changes, choose, doctor, gc, link, operate, rootless, test, views
from netns_orch.cli.output import Progress, error_text, note, out, out_bytes, out_json, plan_line, warn
from netns_orch.cli.usage import CLICK_USAGE_ERROR, Command, Group, translated
from netns_orch.cli.words import (
    BUILD,
    LOOK,
    MORE,
    USE,
    FileWord,
    Json,
    JsonOnly,
    LabOption,
    LabWord,
    Name,
    Node,
    Private,
    Text,
    Texts,
    Untrusted,
    Var,
    Wait,
)
from netns_orch.errors import EXIT_DONE, EXIT_FAILED, EXIT_USAGE, LabFileError, NetorchError, UsageError

if TYPE_CHECKING:
    from netns_orch.lab import DownReport
    from netns_orch.labfile.model import Topology

_EPILOG = """\
FILE is a lab file (default: ./lab.yaml), LAB the name of a lab that is up; either is taken for the other.
netorch COMMAND --help says more.  Exit codes: 0 done, 1 failed or drift, 2 wrong usage or an invalid file."""

app = typer.Typer(
    name="netorch",
    cls=Group,
    help="netorch: one YAML file, one command, and a network lab stands.",
    epilog=_EPILOG,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    add_completion=False,
    context_settings={"help_option_names": ["--help", "-h"]},
)


def run(arguments: list[str]) -> int:
    """Parse and run one command line; raises what the command raises."""
    command = typer.main.get_command(app)
    if arguments[:1] == ["help"]:
        arguments = [*arguments[1:2], "--help"]
    try:
        with rootless.command(), command.make_context("netorch", list(arguments)) as ctx:
            code = command.invoke(ctx)
    except typer.Exit as done:
        return done.exit_code
    except CLICK_USAGE_ERROR as error:
        raise translated(error) from None
    return code if isinstance(code, int) else EXIT_DONE


def _load(
    word: str | None, name: str | None, var: list[str] | None, *, private: bool, untrusted: bool
) -> Topology:
    from netns_orch import lab

    file, lab_name = choose.lab_file(word)
    variables = choose.variables(var or [])
    return lab.load(file, name=name or lab_name, variables=variables, private=private, untrusted=untrusted)


@app.callback(invoke_without_command=True)
def _top(
    ctx: typer.Context,
    version: Annotated[bool, Option("--version", help="Print the version.")] = False,
) -> None:
    if version:
        out(f"netorch {__version__}")
        raise typer.Exit(EXIT_DONE)
    if ctx.invoked_subcommand is None:
        note(ctx.get_help().rstrip())
        raise typer.Exit(EXIT_USAGE)


@app.command("init", cls=Command, rich_help_panel=BUILD)
def init(
    example: Annotated[Text, Argument(metavar="EXAMPLE", help="Name of the example.")] = None,
    output: Annotated[
        str, Option("--output", "-o", metavar="FILE", help="Write there instead; - is stdout.")
    ] = choose.DEFAULT_FILE,
    force: Annotated[bool, Option("--force", help="Overwrite the file.")] = False,
    list_: Annotated[bool, Option("--list", help="List the examples.")] = False,
    json: Json = False,
) -> None:
    """Write an example to lab.yaml; without a name list them."""
    from netns_orch.cli import examples
    from netns_orch.cli.output import table

    if json and example is not None:
        raise UsageError("--json is for the list of examples")
    if example is None or list_:
        rows = [(name, examples.summary(path)) for name, path in examples.examples().items()]
        if json:
            out_json([{"name": name, "summary": summary} for name, summary in rows])
        else:
            out("\n".join(table(("EXAMPLE", "WHAT IT SHOWS"), rows)))
    elif output == "-":
        out(examples.example_text(example).rstrip("\n"))
    else:
        examples.write_example(example, Path(output), force=force)
        given = "" if output == choose.DEFAULT_FILE else f" {output}"
        note(f"wrote {output}; next: netorch up{given}")


@app.command("up", cls=Command, rich_help_panel=BUILD)
def up(
    file: FileWord = None,
    name: Name = None,
    var: Var = None,
    private: Private = False,
    untrusted: Untrusted = False,
    dry_run: Annotated[bool, Option("--dry-run", help="Only show what would be done, as plan does.")] = False,
    keep_failed: Annotated[
        bool, Option("--keep-failed", help="Leave a failed lab as it is, to look at it.")
    ] = False,
    timeout: Annotated[
        Text,
        Option("--timeout", metavar="TIME", help="Give up, and roll back, after so long (30s, 5m)."),
    ] = None,
    wait: Wait = None,
    ttl: Annotated[
        Text,
        Option(
            "--ttl",
            metavar="TIME",
            help="gc removes the lab after so long (1h); none takes it off again.\n"
            "Default: it stays until down.",
        ),
    ] = None,
    owner_pid: Annotated[
        Text,
        Option(
            "--owner-pid",
            metavar="PID",
            help="gc removes the lab when that process has ended ($$: this shell); none takes it off again.\n"
            "Default: it belongs to no process.",
        ),
    ] = None,
    json: Json = False,
) -> None:
    """Build the lab, or change only what differs from the file.

    It succeeds whole or rolls back whole.  When it returns, packets flow.
    """
    limits = _Limits(
        choose.seconds("--timeout", timeout),
        choose.seconds("--wait", wait),
        keep_failed,
        choose.time_to_live("--ttl", ttl),
        choose.process("--owner-pid", owner_pid),
    )
    topology = _load(file, name, var, private=private, untrusted=untrusted)
    choose.settle(topology, building=not dry_run)
    if dry_run:
        _show_plan(topology, json=json)
    else:
        _build(topology, limits, json=json)


class _Limits(NamedTuple):
    timeout: float | None
    wait: float | None
    keep_failed: bool
    ttl: float | None
    owner_pid: int | None


def _build(topology: Topology, limits: _Limits, *, json: bool) -> None:
    from netns_orch import lab
    from netns_orch.cli import render

    with Progress() as progress:
        report = lab.up(topology, progress=progress, **limits._asdict())
    if json:
        out_json(render.up_json(report))
        return
    warn(report.warnings)
    note(render.up_line(report, bridges=bool(topology.bridges)))


@app.command("down", cls=Command, rich_help_panel=BUILD)
def down(
    lab_word: LabWord = None,
    every: Annotated[bool, Option("--all", help="All labs of this host.")] = False,
    wait: Wait = None,
    json: Json = False,
) -> int:
    """Remove every trace of the lab; a second time is no error."""
    from netns_orch import lab
    from netns_orch.cli import render

    if every and lab_word is not None:
        raise UsageError("--all and a LAB exclude each other")
    patience = choose.seconds("--wait", wait)
    if every:
        return _down_all(patience, json=json)
    name = choose.down_name(lab_word)
    if name is None:
        note("no lab is up")
        if json:
            out_json({"lab": None, "containers": 0, "links": 0, "seconds": 0.0, "found": False})
        return EXIT_DONE
    with Progress() as progress:
        report = lab.down(name, progress=progress, wait=patience)
    if json:
        out_json(render.down_json(report))
    else:
        note(render.down_line(report))
    return EXIT_DONE


def _down_all(wait: float | None, *, json: bool) -> int:
    """One lab that can't be removed keeps none of the others; each error is told."""
    from netns_orch.cli import render

    done = list(choose.each(lambda: _down_here(wait, json=json)))
    if json:
        out_json([render.down_json(report) for report in done if report is not None])
    elif not done:
        note("no lab is up")
    return EXIT_FAILED if None in done else EXIT_DONE


def _down_here(wait: float | None, *, json: bool) -> list[DownReport | None]:
    from netns_orch import lab
    from netns_orch.cli import render

    done: list[DownReport | None] = []
    for row in [*lab.labs(), *lab.lost_labs()]:
        try:
            with Progress() as progress:
                report = lab.down(str(row["lab"]), progress=progress, wait=wait)
        except NetorchError as error:
            note(error_text(error))
            done.append(None)
            continue
        done.append(report)
        if not json:
            note(render.down_line(report))
    return done


@app.command("plan", cls=Command, rich_help_panel=BUILD)
def plan(
    file: FileWord = None,
    name: Name = None,
    var: Var = None,
    private: Private = False,
    untrusted: Untrusted = False,
    format_: Annotated[
        str, Option("--format", metavar="FORMAT", help="table (default), json or shell.")
    ] = "table",
    json: Json = False,
) -> None:
    """Show what up would do, change by change.

    + is made, ~ changed in place, ! made anew (its processes end), - removed.
    As shell it is a script that builds the whole lab by hand: sh lab.sh, and sh lab.sh down.
    """
    formats = ("table", "json", "shell")
    if format_ not in formats:
        raise UsageError(f"--format {format_}: no such format", hint=f"expected {', '.join(formats)}")
    topology = _load(file, name, var, private=private, untrusted=untrusted)
    choose.settle(topology)
    if format_ == "shell":
        _show_script(topology, json=json)
    else:
        _show_plan(topology, json=json or format_ == "json")


def _show_script(topology: Topology, *, json: bool) -> None:
    from netns_orch import views as explain

    if json:
        raise UsageError("--json and --format shell exclude each other")
    out(explain.script(topology))


def _show_plan(topology: Topology, *, json: bool) -> None:
    from netns_orch import lab

    todo = lab.plan(topology)
    if json:
        out_json({"lab": topology.name, **todo.to_json()})
    elif len(todo):
        for line in todo.lines():
            out(plan_line(line))
        note(f"{topology.name}: {len(todo)} to do")
    else:
        note(f"{topology.name}: nothing to do")


@app.command("validate", cls=Command, rich_help_panel=BUILD)
def validate(
    file: FileWord = None,
    name: Name = None,
    var: Var = None,
    untrusted: Untrusted = False,
    json: Json = False,
) -> int:
    """Check a lab file, also against this host; build nothing."""
    from netns_orch import lab
    from netns_orch.cli import render

    path, lab_name = choose.lab_file(file)
    try:
        variables = choose.variables(var or [])
        topology = lab.load(path, name=name or lab_name, variables=variables, untrusted=untrusted)
        settled = choose.can_settle(topology)
        warnings = lab.validate(topology, host=settled)
    except LabFileError as error:
        if not json:
            raise
        out_json(render.invalid_json(str(path), error))
        return EXIT_USAGE
    if json:
        out_json(render.valid_json(str(path), topology, warnings))
    else:
        warn(warnings)
        out(render.valid_line(str(path), topology))
        if not settled:
            note("not checked against this host: that needs root")
    return EXIT_DONE


@app.command(
    "exec",
    cls=Command,
    rich_help_panel=USE,
    add_help_option=False,
    context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False},
)
def exec_(words: Annotated[list[str], Argument(metavar="NODE CMD...")]) -> int:
    """Run a command in a container, as its own command runs."""
    from netns_orch.cli.exec import main

    return main(list(words))


@app.command(
    "shell",
    cls=Command,
    rich_help_panel=USE,
    add_help_option=False,
    context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False},
)
def shell(words: Annotated[list[str], Argument(metavar="NODE")]) -> int:
    """Open a shell in a container, on a terminal of its own."""
    from netns_orch.cli.exec import shell

    return shell(list(words))


@app.command("logs", cls=Command, rich_help_panel=USE)
def logs(
    node: Node,
    follow: Annotated[bool, Option("--follow", "-f", help="Go on as more is written.")] = False,
    tail: Annotated[Text, Option("--tail", metavar="N", help="Only the last N lines.")] = None,
    lab_word: LabOption = None,
) -> None:
    """Print what a container's command wrote."""
    from netns_orch import lab

    lines = choose.whole("--tail", tail)
    name = choose.lab_name(lab_word, node=node)
    for piece in lab.logs(name, node, follow=follow, tail=lines):
        out_bytes(piece)


operate.register_uses(app)
link.register(app)
test.register(app)


@app.command("ls", cls=Command, rich_help_panel=LOOK)
def ls(json: Json = False) -> None:
    """List the labs of this host."""
    from netns_orch import lab
    from netns_orch.cli import render

    choose.look()
    rows = [*lab.labs(), *lab.lost_labs()]
    if json:
        out_json(rows)
    else:
        out("\n".join(render.labs_table(rows)))


@app.command("ps", cls=Command, rich_help_panel=LOOK)
def ps(
    lab_word: LabWord = None,
    label: Annotated[
        Texts,
        Option("--label", "-l", metavar="K=V", help="Only those with that label."),
    ] = None,
    json: Json = False,
) -> None:
    """List the containers of a lab."""
    from netns_orch import lab
    from netns_orch.cli import render

    rows = [row for row in lab.ps(choose.lab_name(lab_word)) if choose.has_labels(row, label or [])]
    if json:
        out_json(rows)
    else:
        out("\n".join(render.containers_table(rows)))


@app.command("status", cls=Command, rich_help_panel=LOOK)
def status(
    lab_word: LabWord = None,
    strict: Annotated[bool, Option("--strict", help="What is not netorch's own is drift.")] = False,
    json: Json = False,
) -> int:
    """Compare the lab with the kernel's own state; exit 1 on drift."""
    from netns_orch import lab
    from netns_orch.cli import render

    found = lab.status(choose.lab_name(lab_word), strict=strict)
    if json:
        out_json(found)
    else:
        out("\n".join(render.status_lines(found)))
    return EXIT_FAILED if found["drift"] else EXIT_DONE


@app.command("inspect", cls=Command, rich_help_panel=LOOK)
def inspect(
    word: Annotated[
        Text, Argument(metavar="NODE|LAB", help="A container, or a lab that is up (or its file).")
    ] = None,
    lab_word: Annotated[Text, Option("--lab", metavar="LAB", help="The lab of that NODE.")] = None,
    json: JsonOnly = False,
) -> None:
    """Print everything about a container or a lab as JSON."""
    from netns_orch import lab

    choose.look()
    is_lab = word is None or lab.is_file(word) or word in [row["lab"] for row in lab.labs()]
    if is_lab and lab_word is None:
        out_json(lab.inspect(choose.lab_name(word), None))
    else:
        out_json(lab.inspect(choose.lab_name(lab_word, node=word), word))


operate.register_looks(app)
views.register(app)
capture.register(app)


changes.register(app, LOOK)
gc.register(app, MORE)
doctor.register(app, MORE)


@app.command("schema", cls=Command, rich_help_panel=MORE)
def schema(
    json: JsonOnly = False,
) -> None:
    """Print the JSON Schema of lab files, for editors."""
    from netns_orch.labfile import schema as labfile_schema

    out_json(labfile_schema.json_schema())


@app.command("completion", cls=Command, rich_help_panel=MORE)
def completion(
    shell: Annotated[str, Argument(metavar="SHELL", help="bash, zsh or fish.")],
) -> None:
    """Print the completion script of a shell."""
    from netns_orch.cli.completion import script

    out(script(shell).rstrip("\n"))
