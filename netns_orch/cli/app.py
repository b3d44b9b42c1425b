"""The commands, but for what each of them does: that is ``lab``.

Owns: the words, options and help of each command.  Must not: do more than choose, call ``lab`` and show.

Everything heavy is imported by the command that needs it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from typer import Argument, Option

from netns_orch import __version__, rootless
from netns_orch.cli import capture, changes, choose, doctor, gc, labs, link, operate, test, views
from netns_orch.cli.output import note, out, out_bytes, out_json
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
from netns_orch.errors import EXIT_DONE, EXIT_USAGE, UsageError

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


@app.command("import", cls=Command, rich_help_panel=BUILD)
def import_(
    source: Annotated[
        str, Argument(metavar="FILE|DIR", help="File of the other tool, or its lab's directory.")
    ],
    from_: Annotated[
        Text,
        Option(
            "--from",
            metavar="KIND",
            help="containerlab, compose, kathara or munet; default: told by the content.",
        ),
    ] = None,
    output: Annotated[
        Text, Option("--output", "-o", metavar="FILE", help="Write there; default: stdout.")
    ] = None,
    force: Annotated[bool, Option("--force", help="Overwrite the file.")] = False,
    rootfs: Annotated[
        Text,
        Option(
            "--rootfs",
            metavar="ROOT",
            help="Root of plain Linux nodes, instead of their images:\nhost, a directory or a tar file.",
        ),
    ] = None,
    strict: Annotated[
        bool, Option("--strict", help="Write nothing, and fail, where anything would be lost.")
    ] = False,
) -> int:
    """Make a lab file of a containerlab, Compose, Kathara or munet lab.

    What a lab file can't say is left out, with a comment there and a warning with its place on stderr.
    """
    from netns_orch.cli import convert

    return convert.run(source, kind=from_, output=output, force=force, rootfs=rootfs, strict=strict)


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
    pull: Annotated[
        bool, Option("--pull", help="Fetch the images of containers again, though they are here.")
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
    what = labs.What(file, name, var, private, untrusted)
    how = labs.How(timeout, wait, keep_failed, ttl, owner_pid, pull)
    labs.up(what, how, dry_run=dry_run, json=json)


@app.command("down", cls=Command, rich_help_panel=BUILD)
def down(
    lab_word: LabWord = None,
    every: Annotated[bool, Option("--all", help="All labs of this host.")] = False,
    wait: Wait = None,
    json: Json = False,
) -> int:
    """Remove every trace of the lab; a second time is no error."""
    return labs.down(lab_word, every=every, wait=wait, json=json)


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
    labs.plan(labs.What(file, name, var, private, untrusted), format_=format_, json=json)


@app.command("validate", cls=Command, rich_help_panel=BUILD)
def validate(
    file: FileWord = None,
    name: Name = None,
    var: Var = None,
    private: Private = False,
    untrusted: Untrusted = False,
    json: Json = False,
) -> int:
    """Check a lab file, also against this host; build nothing."""
    return labs.validate(labs.What(file, name, var, private, untrusted), json=json)


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
    labs.ls(json=json)


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
    labs.ps(lab_word, label=label, json=json)


@app.command("status", cls=Command, rich_help_panel=LOOK)
def status(
    lab_word: LabWord = None,
    strict: Annotated[bool, Option("--strict", help="What is not netorch's own is drift.")] = False,
    json: Json = False,
) -> int:
    """Compare the lab with the kernel's own state; exit 1 on drift."""
    return labs.status(lab_word, strict=strict, json=json)


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
