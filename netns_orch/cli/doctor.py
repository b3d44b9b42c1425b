"""The command ``doctor``: what this host can and cannot do.

Owns: its words.  Must not: judge (``doctor``) or look (``kernel.health``).
"""

from __future__ import annotations

import sys
from typing import Annotated

import typer
from typer import Option

from netns_orch.cli import choose
from netns_orch.cli.output import coloured, note, out, out_json
from netns_orch.cli.usage import Command
from netns_orch.cli.words import Json
from netns_orch.errors import EXIT_DONE, EXIT_FAILED

_SIGNS = {"ok": ("ok", "+"), "missing": ("missing", "-"), "note": ("note", "~")}
_WIDTH = 16


def register(app: typer.Typer, panel: str) -> None:
    """Add the command."""
    app.command("doctor", cls=Command, rich_help_panel=panel)(doctor)


def doctor(
    for_: Annotated[
        list[str] | None,
        Option("--for", metavar="FILE", help="Exit 1 if this lab file asks for what is missing; repeatable."),
    ] = None,
    json: Json = False,
) -> int:
    """What this host can and cannot do for labs: kernel, cgroups, programs, rights.

    Each lack says what it means and how to mend it.  The exit code is 1 where no lab at all can be built, or
    where something is missing that a file named with --for asks for.
    """
    from netns_orch import doctor as judge
    from netns_orch import lab
    from netns_orch.kernel import health

    wanted: dict[str, list[str]] = {}
    for word in for_ or []:
        path, name = choose.lab_file(word)
        for feature in judge.needed(lab.load(path, name=name)):
            wanted.setdefault(feature, []).append(str(path))
    found = judge.findings(health.examine())
    lacking = judge.missing(found, wanted)
    if json:
        rows = [{**one.to_json(), "wanted_by": wanted.get(one.name, [])} for one in found]
        out_json({"ok": not lacking, "findings": rows})
        return EXIT_FAILED if lacking else EXIT_DONE
    group = ""
    for one in found:
        if one.group != group:
            group = one.group
            out(group)
        word, colour = _SIGNS[one.state]
        out(f"  {coloured(colour, f'{word:<8}', sys.stdout)}{one.name:<{_WIDTH}} {one.found}")
        for text in (one.means, one.mend):
            if text:
                out(f"{'':10}{'':{_WIDTH}} {text}")
    for one in lacking:
        files = ", ".join(wanted.get(one.name, ())) or "every lab"
        if one.essential and one.group in ("host", "rights", "cgroups"):
            note(f"error: {one.found}: {one.means}")
        else:
            note(f"error: {one.name} is missing, which {files} needs")
        if one.mend:
            note(f"hint: {one.mend}")
    return EXIT_FAILED if lacking else EXIT_DONE
