"""The commands that explain a lab: graph, path.

Owns: their words, options and help.  Must not: do more than choose, call ``views`` and show.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from typer import Argument, Option

from netns_orch.cli import choose
from netns_orch.cli.output import note, out, out_json
from netns_orch.cli.usage import Command
from netns_orch.cli.words import LOOK, FileWord, Json, LabOption, Name, Text, Var
from netns_orch.errors import EXIT_DONE, EXIT_FAILED, UsageError

if TYPE_CHECKING:
    from netns_orch.views import PathReport


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command("graph", cls=Command, rich_help_panel=LOOK)(graph)
    app.command("path", cls=Command, rich_help_panel=LOOK)(path)


def graph(
    file: FileWord = None,
    format_: Annotated[
        Text, Option("--format", metavar="FORMAT", help="text (default), mermaid, dot, svg or html.")
    ] = None,
    output: Annotated[
        Text, Option("--output", "-o", metavar="FILE", help="Write there; its ending can choose the format.")
    ] = None,
    name: Name = None,
    var: Var = None,
    json: Json = False,
) -> None:
    """Draw a lab: who is plugged into what, with names and addresses.

    html is one page that zooms, moves and tells more under the pointer; it needs no network.
    """
    from netns_orch import lab, views

    path, lab_name = choose.lab_file(file)
    format_ = _format(format_, output)
    topology = lab.load(path, name=name or lab_name, variables=choose.variables(var or []))
    if json:
        out_json(views.graph_json(topology))
        return
    drawn = views.graph(topology, format_, ascii_only=output is None and not _speaks_unicode())
    if output in (None, "-"):
        out(drawn)
        return
    assert output is not None
    try:
        Path(output).write_text(f"{drawn}\n", encoding="utf-8")
    except OSError as error:
        raise UsageError(f"can't write {output}: {error.strerror}") from None
    note(f"wrote {output}")


_ENDINGS = {
    "": "text",
    ".txt": "text",
    ".mmd": "mermaid",
    ".mermaid": "mermaid",
    ".dot": "dot",
    ".gv": "dot",
    ".svg": "svg",
    ".html": "html",
}


def _format(said: str | None, output: str | None) -> str:
    from netns_orch.views import GRAPH_FORMATS

    if said is None:
        ending = Path(output or "").suffix
        if ending not in _ENDINGS:
            raise UsageError(
                f"no format goes by the ending {ending}",
                hint=f"say it with --format: {', '.join(GRAPH_FORMATS)}",
            )
        return _ENDINGS[ending]
    if said not in GRAPH_FORMATS:
        raise UsageError(f"--format {said}: no such format", hint=f"expected {', '.join(GRAPH_FORMATS)}")
    return said


def _speaks_unicode() -> bool:
    return "utf" in (getattr(sys.stdout, "encoding", None) or "").lower()


def path(
    source: Annotated[
        str, Argument(metavar="A", help="Where the packet starts: a node, or an address of one.")
    ],
    destination: Annotated[str, Argument(metavar="B", help="Where it goes: a node, or any address.")],
    probe: Annotated[bool, Option("--probe", help="Send packets, too, and say what became of them.")] = False,
    ipv6: Annotated[bool, Option("-6", help="By B's IPv6 address.")] = False,
    lab_word: LabOption = None,
    json: Json = False,
) -> int:
    """Predict the way of a packet and of its answer; exit 1 where it is lost.

    For a FILE that is not up, it is the way in the lab that up would build.  With --probe, packets are sent
    with a TTL that grows; where they are lost, counters, neighbours and routes on the way tell the reason.
    """
    from netns_orch.cli import pathtext

    family = 6 if ipv6 else None
    report = _report(lab_word, source, destination, family, probe)
    if json:
        out_json(report.to_json())
    else:
        out("\n".join(pathtext.lines(report)))
    return EXIT_DONE if report.arrives else EXIT_FAILED


def _report(
    lab_word: str | None, source: str, destination: str, family: int | None, probe: bool
) -> PathReport:
    from netns_orch import lab, views

    file = choose.file_not_up(lab_word)
    if file is None:
        name = choose.lab_name(lab_word, node=source)
        return views.path(name, source, destination, family=family, probe=probe)
    if probe:
        raise UsageError(f"the lab of {file} is not up: there is nothing to probe", hint=f"netorch up {file}")
    return views.path_of_file(lab.load(file), source, destination, family=family)
