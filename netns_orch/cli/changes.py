"""The command ``diff``: what a container changed in its root.

Owns: its words, and how a row is shown.  Must not: know how changes are found.
"""

from __future__ import annotations

from typing import Annotated

import typer
from typer import Argument, Option

from netns_orch.cli import choose
from netns_orch.cli.output import out, out_json
from netns_orch.cli.usage import Command


def register(app: typer.Typer, panel: str) -> None:
    """Add the command."""
    app.command("diff", cls=Command, rich_help_panel=panel)(diff)


def diff(
    node: Annotated[str, Argument(metavar="NODE", help="The container.")],
    lab_word: Annotated[
        str | None, Option("--lab", metavar="LAB", help="Lab that is up, or its file.")
    ] = None,
    json: Annotated[bool, Option("--json", help="JSON on stdout.")] = False,
) -> None:
    """List what a container added (A), changed (C) and deleted (D) in its root.

    What lies in volumes and tmpfs is not part of it, nor what netorch itself put there.
    """
    from netns_orch import lab

    rows = lab.diff(choose.lab_name(lab_word, node=node), node)
    if json:
        out_json(rows)
        return
    for row in rows:
        out(f"{row['kind']} {_shown(row['path'])}")


def _shown(path: str) -> str:
    """A path on one line of a terminal, whatever a container named its files."""
    return "".join(character if character.isprintable() else repr(character)[1:-1] for character in path)
