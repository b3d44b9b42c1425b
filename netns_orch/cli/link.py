"""The command ``link``: a cable of a running lab, switched, impaired, put back or shown.

Owns: its words and how a cable reads.  Must not: do more than choose, call ``cables``, and show.
"""

from __future__ import annotations

from typing import Annotated, Any

import typer
from typer import Argument

from netns_orch.cli import choose
from netns_orch.cli.output import note, out, out_json
from netns_orch.cli.usage import Command
from netns_orch.cli.words import USE, Json, LabOption, Wait
from netns_orch.errors import UsageError

Words = Annotated[
    list[str],
    Argument(
        metavar="A [B] ACTION [K=V...]", help="Ends (red, red:eth1, br0), then up, down, set, reset, show."
    ),
]


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("link", cls=Command, rich_help_panel=USE)(link)


def link(words: Words, lab: LabOption = None, wait: Wait = None, json: Json = False) -> None:
    """Switch or impair a cable of a running lab, or show it.

    netorch link red br0 down; netorch link red blue set delay=50ms loss=1%.  reset puts it back.
    """
    from netns_orch import cables

    (a, b), action, settings = _parsed(words)
    name = choose.lab_name(lab, node=a.partition(":")[0])
    seconds = choose.seconds("--wait", wait)
    if action == "show":
        rows = cables.show(name, a, b)
    elif action == "reset":
        rows = cables.reset(name, a, b, wait=seconds)
    elif action == "set":
        rows = cables.impair(name, a, b, settings, wait=seconds)
    else:
        rows = cables.switch(name, a, b, up=action == "up", wait=seconds)
    _show(rows, json=json, quiet=action != "show")


def _parsed(words: list[str]) -> tuple[tuple[str, str | None], str, dict[str, str]]:
    from netns_orch.labfile.steps import ACTIONS

    at = next((n for n, word in enumerate(words) if n and word in ACTIONS), None)
    if at is None or at > 2:
        raise UsageError(
            "link wants one or two ends and then an action",
            hint=f"an action is {', '.join(ACTIONS)}: netorch link red br0 down",
        )
    settings = dict(word.partition("=")[::2] for word in words[at + 1 :])
    action = words[at]
    if (action == "set") != bool(settings) or not all(settings.values()):
        raise UsageError(
            f"link ... {action} takes {'K=V, one or more' if action == 'set' else 'nothing more'}",
            hint="netorch link red br0 set delay=50ms loss=1%",
        )
    return (words[0], words[1] if at == 2 else None), action, settings


def _show(rows: list[dict[str, Any]], *, json: bool, quiet: bool) -> None:
    if json:
        out_json(rows)
        return
    for row in rows:
        (note if quiet else out)(_line(row))


def _line(row: dict[str, Any]) -> str:
    impaired = "; ".join(
        f"leaving {end}: " + " ".join(f"{key}={_text(key, value)}" for key, value in settings.items())
        for end, settings in row["impairments"].items()
    )
    return f"{row['a']} - {row['b']}: {row['state']}, mtu {row['mtu']}" + (
        f"; {impaired}" if impaired else ""
    )


def _text(key: str, value: float) -> str:
    if key in ("delay", "jitter"):
        return f"{value * 1000:g}ms"
    if key == "rate":
        return f"{value / 1e6:g}mbit"
    return f"{value:g}" if key == "limit" else f"{value:g}%"
