"""The command ``gc``: what dead runs left.

Owns: its words.  Must not: know what is left over (``collect`` does).
"""

from __future__ import annotations

from itertools import chain
from typing import Annotated

import typer
from typer import Option

from netns_orch.cli import choose
from netns_orch.cli.output import error_text, note, out, out_json
from netns_orch.cli.usage import Command
from netns_orch.cli.words import Json
from netns_orch.errors import EXIT_DONE, EXIT_FAILED


def register(app: typer.Typer, panel: str) -> None:
    """Add the command."""
    app.command("gc", cls=Command, rich_help_panel=panel)(gc)


def gc(
    dry_run: Annotated[bool, Option("--dry-run", help="Only list it, object by object.")] = False,
    images: Annotated[
        bool, Option("--images", help="Also remove the images of this user that no lab uses.")
    ] = False,
    json: Json = False,
) -> int:
    """Remove what dead runs left on this host, and labs that nobody wants any more.

    That is: labs whose up or down was killed half-way or whose run directory is gone, what an earlier boot
    left, labs past their --ttl or whose --owner-pid has ended, and empty directories.  A healthy lab stays,
    and so does all that does not bear netorch's mark.  Images that were fetched stay for the next lab.
    """
    from netns_orch import collect
    from netns_orch.cli import render

    entries, code = [], EXIT_DONE
    ended = [collect.Found(lab, "its first process was killed", removed=True) for lab in choose.look()]
    left = choose.each(lambda: collect.collect(dry_run=dry_run))
    for found in chain(ended, left, collect.images(dry_run=dry_run) if images else ()):
        entries.append(render.found_json(found))
        if found.error is not None:
            note(error_text(found.error))
            code = EXIT_FAILED
        elif not json:
            out("\n".join(render.found_lines(found, dry_run=dry_run)))
    if json:
        out_json(entries)
    elif not entries:
        note("nothing is left over")
    return code
