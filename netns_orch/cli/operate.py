"""The commands that work on a lab as it runs: pause, kill, wait, restart, cp; stats, top.

Owns: their words, options and help.  Must not: do more than choose, call ``operate`` and ``lab``, and show.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Annotated, Any

import typer
from typer import Argument, Option

from netns_orch.cli import choose
from netns_orch.cli.output import Progress, count, note, out, out_json, size_text
from netns_orch.cli.usage import Command
from netns_orch.cli.words import (
    LOOK,
    USE,
    Every,
    Json,
    Label,
    LabOption,
    LabWord,
    Node,
    Nodes,
    Text,
    Texts,
    Wait,
)
from netns_orch.errors import EXIT_DONE, UsageError


def register_uses(app: typer.Typer) -> None:
    """Add the commands that do something, in the order of the help."""
    for name, command in (
        ("cp", cp),
        ("restart", restart),
        ("pause", pause),
        ("unpause", unpause),
        ("kill", kill),
        ("wait", wait),
    ):
        app.command(name, cls=Command, rich_help_panel=USE)(command)


def register_looks(app: typer.Typer) -> None:
    """Add the commands that show something."""
    app.command("top", cls=Command, rich_help_panel=LOOK)(top)
    app.command("stats", cls=Command, rich_help_panel=LOOK)(stats)


def _chosen(nodes: Texts, labels: Texts, every: bool, lab_word: Text) -> tuple[str, list[str]]:
    """The lab, and its containers that NODE..., labels or --all mean."""
    from netns_orch import operate

    if sum(map(bool, (nodes, labels, every))) > 1:
        raise UsageError("NODE, --label and --all exclude each other")
    if not (nodes or labels or every):
        raise UsageError("which containers?", hint="give NODE..., -l LABEL or --all")
    name = choose.lab_name(lab_word, node=nodes[0] if nodes else None)
    wanted = {
        key: value if equals else None for key, equals, value in (w.partition("=") for w in labels or [])
    }
    return name, operate.choose(name, nodes or [], wanted, every)


def _with_command(nodes: Texts, labels: Texts, every: bool, lab_word: Text) -> tuple[str, list[str]]:
    """As ``_chosen``; of those that are not named one by one, idle containers are not meant."""
    from netns_orch import operate

    lab, names = _chosen(nodes, labels, every, lab_word)
    return lab, names if nodes else operate.with_command(lab, names)


def _done(lab: str, names: Sequence[str], what: str, *, json: bool, **more: Any) -> None:
    if json:
        out_json({"lab": lab, "containers": list(names), **more})
    else:
        note(f"{lab}: {', '.join(names[:10])}{' ...' if len(names) > 10 else ''} {what}")


def pause(
    nodes: Nodes = None,
    label: Label = None,
    every: Every = False,
    wait: Wait = None,
    lab_word: LabOption = None,
    json: Json = False,
) -> None:
    """Freeze containers: their processes stand still, their network stays."""
    from netns_orch import operate

    lab, names = _chosen(nodes, label, every, lab_word)
    operate.pause(lab, names, wait=choose.seconds("--wait", wait))
    _done(lab, names, "paused", json=json)


def unpause(
    nodes: Nodes = None,
    label: Label = None,
    every: Every = False,
    lab_word: LabOption = None,
    json: Json = False,
) -> None:
    """Let frozen containers go on."""
    from netns_orch import operate

    lab, names = _chosen(nodes, label, every, lab_word)
    operate.unpause(lab, names)
    _done(lab, names, "unpaused", json=json)


def kill(
    nodes: Nodes = None,
    signal: Annotated[
        str, Option("--signal", "-s", metavar="SIGNAL", help="Name or number; default KILL.")
    ] = "KILL",
    label: Label = None,
    every: Every = False,
    lab_word: LabOption = None,
    json: Json = False,
) -> None:
    """Send a signal to the commands of containers, which stay.

    After KILL or its stop_signal a command is not run again by its restart policy.
    """
    from netns_orch import operate

    lab, names = _with_command(nodes, label, every, lab_word)
    operate.kill(lab, names, signal)
    _done(lab, names, "killed" if signal == "KILL" else f"got {signal}", json=json, signal=signal)


def restart(
    nodes: Nodes = None,
    time: Annotated[
        Text,
        Option("--time", "-t", metavar="TIME", help="Time to end before SIGKILL, not stop_grace_period."),
    ] = None,
    label: Label = None,
    every: Every = False,
    wait: Wait = None,
    lab_word: LabOption = None,
    json: Json = False,
) -> None:
    """Make containers anew: a fresh root, setup and command run again.

    Their network stays, their written files and processes go.
    """
    from netns_orch import lab as labs

    patience, grace = choose.seconds("--wait", wait), choose.seconds("--time", time)
    lab, names = _chosen(nodes, label, every, lab_word)
    with Progress() as progress:
        report = labs.restart(lab, names, grace=grace, progress=progress, wait=patience)
    more = {"seconds": round(report.seconds, 6)} if json else {}
    _done(lab, names, f"restarted in {report.seconds:.2f} s", json=json, **more)


def wait(
    nodes: Nodes = None,
    label: Label = None,
    every: Every = False,
    lab_word: LabOption = None,
    json: Json = False,
) -> None:
    """Wait until the commands of containers have ended; print their exit codes."""
    from netns_orch import operate

    lab, names = _with_command(nodes, label, every, lab_word)
    codes = {}
    for name in names:
        codes[name] = operate.wait(lab, name)
        if not json:
            out(str(codes[name]))
            sys.stdout.flush()
    if json:
        out_json([{"lab": lab, "name": name, "exit_code": code} for name, code in codes.items()])


# -- cp --------------------------------------------------------------------------------------------


def cp(
    source: Annotated[str, Argument(metavar="SRC", help="NODE:PATH, a path, or - for a tar stream.")],
    target: Annotated[str, Argument(metavar="DST", help="PATH or NODE:PATH; - writes a tar stream.")],
    archive: Annotated[bool, Option("--archive", "-a", help="Keep user and group ids.")] = False,
    follow: Annotated[bool, Option("--follow-link", "-L", help="Copy what a link SRC leads to.")] = False,
    lab_word: LabOption = None,
) -> None:
    """Copy files out of a container or into it; directories with all in them.

    As docker cp: DIR/. is only what is in DIR, and a DST that is there is copied into.  Links are
    resolved inside the container, so that none leads out of it.
    """
    inside = [_inside(word) for word in (source, target)]
    if (inside[0] is None) == (inside[1] is None):
        hint = "one of both is NODE:PATH; a path of this host with a colon is written ./PATH"
        raise UsageError("cp copies between this host and a container", hint=hint)
    options = {"archive": archive, "follow": follow}
    report = _copy_out(inside[0], target, lab_word, options) if inside[0] else None
    if report is None and inside[1]:
        report = _copy_in(source, inside[1], lab_word, options)
    for name in report.skipped if report else ():
        note(f"skipped: {name} is a device or a socket")
    if report and target != "-":
        size = size_text(report.bytes)
        note(f"copied {count(report.entries, 'file')}, {size}, to {target}")


def _inside(word: str) -> tuple[str, str] | None:
    """NODE and PATH; None for a path of the host (which begins with / or ., or has no colon)."""
    node, colon, path = word.partition(":")
    if not colon or word[0] in "/." or "/" in node:
        return None
    if node == "host":
        raise UsageError(f"{word}: host is this very host", hint=f"leave host: away: {path}")
    if not path:
        raise UsageError(f"{word}: the path is missing", hint=f"{node}:/ is its root")
    return node, path


def _one(node: str, lab_word: Text) -> tuple[str, str]:
    """The lab, and the one container that a word means."""
    from netns_orch import operate

    lab = choose.lab_name(lab_word, node=node)
    names = operate.choose(lab, [node])
    if len(names) != 1:
        raise UsageError(f"{node} is {len(names)} containers", hint=f"choose one of: {', '.join(names[:20])}")
    return lab, names[0]


def _copy_out(inside: tuple[str, str], target: str, lab_word: Text, options: dict[str, bool]) -> Any:
    from netns_orch import operate

    lab, node = _one(inside[0], lab_word)
    if target != "-":
        return operate.copy_out(lab, node, inside[1], target, **options)
    if sys.stdout.isatty():
        raise UsageError("a tar stream is not written to a terminal", hint="redirect it, or give a DST")
    return operate.copy_to_stream(lab, node, inside[1], sys.stdout.buffer, follow=options["follow"])


def _copy_in(source: str, inside: tuple[str, str], lab_word: Text, options: dict[str, bool]) -> Any:
    from netns_orch import operate

    lab, node = _one(inside[0], lab_word)
    if source != "-":
        return operate.copy_in(lab, source, node, inside[1], **options)
    if sys.stdin.isatty():
        raise UsageError("a tar stream is not read from a terminal", hint="give it on stdin, or give a SRC")
    return operate.copy_from_stream(lab, sys.stdin.buffer, node, inside[1], archive=options["archive"])


# -- looking ---------------------------------------------------------------------------------------


def top(node: Node, lab_word: LabOption = None, json: Json = False) -> None:
    """List the processes of a container, with their pids inside and on this host."""
    from netns_orch import operate
    from netns_orch.cli import render

    lab, name = _one(node, lab_word)
    rows = operate.top(lab, name)
    if json:
        out_json(rows)
    else:
        out("\n".join(render.processes_table(rows)))


def stats(
    lab_word: LabWord = None,
    once: Annotated[bool, Option("--once", help="One picture, then end.")] = False,
    interval: Annotated[
        str, Option("--interval", metavar="TIME", help="Time between two pictures; default 1s.")
    ] = "1s",
    json: Json = False,
) -> int:
    """Show live what the containers use: CPU, memory, processes, network, disk.

    100% CPU is one CPU.  With --json each picture is a line.  ctrl-C ends it.
    """
    from netns_orch import operate

    seconds = choose.seconds("--interval", interval)
    if not seconds or seconds < 0.05:
        raise UsageError("--interval: at least 50ms")
    pictures = operate.stats(choose.lab_name(lab_word), seconds)
    show = _shower(once=once, json=json)
    try:
        for rows in pictures:
            show(rows)
            if once:
                break
    except KeyboardInterrupt:
        out("")
    return EXIT_DONE


def _shower(*, once: bool, json: bool) -> Callable[[list[dict[str, Any]]], None]:
    """How one picture is shown: over the last one on a terminal, below it elsewhere."""
    from json import dumps

    from netns_orch.cli import render
    from netns_orch.cli.output import is_terminal

    if json:
        return out_json if once else lambda rows: _at_once(dumps(rows))
    if once or not is_terminal(sys.stdout):
        return lambda rows: _at_once("\n".join(render.stats_table(rows)))
    return lambda rows: _at_once(
        "\x1b[H" + "".join(f"{line}\x1b[K\n" for line in render.stats_table(rows)) + "\x1b[J"
    )


def _at_once(text: str) -> None:
    out(text)
    sys.stdout.flush()
