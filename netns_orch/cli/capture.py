"""The command ``capture``: packets of a lab into a pcapng file, or into a pipe to wireshark.

Owns: its words, and what it says when it begins and when it ends.  Must not: know how packets are captured.
"""

from __future__ import annotations

import os
import sys
from itertools import count as numbers
from typing import TYPE_CHECKING, Annotated, BinaryIO

import typer
from typer import Argument, Option

from netns_orch.cli import choose
from netns_orch.cli.output import count, note, out_json
from netns_orch.cli.usage import Command
from netns_orch.cli.words import LOOK, Json, LabOption, Text, Texts
from netns_orch.errors import NetorchError, UsageError

if TYPE_CHECKING:
    from netns_orch.capture import Capture, Sink, Summary

_SMALLEST = 16
_NAMES_SHOWN = 8


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("capture", cls=Command, rich_help_panel=LOOK)(capture)


def capture(
    nodes: Annotated[
        Texts,
        Argument(
            metavar="NODE[:IF]...",
            help="red:eth0; red: all but lo; a bridge; host:IF. Without any: every cable once.",
        ),
    ] = None,
    write: Annotated[
        Text,
        Option(
            "--write",
            "-w",
            metavar="OUTPUT",
            help="Write there; - is a pipe. Default: LAB.pcapng, a new file.",
        ),
    ] = None,
    filter_: Annotated[
        str, Option("--filter", "-f", metavar="EXPR", help="Only what it lets through: 'tcp port 80'.")
    ] = "",
    count_: Annotated[Text, Option("--count", "-c", metavar="N", help="End after N packets.")] = None,
    duration: Annotated[Text, Option("--duration", metavar="TIME", help="End after so long.")] = None,
    snaplen: Annotated[
        Text, Option("--snaplen", "-s", metavar="BYTES", help="Of each packet the first BYTES only.")
    ] = None,
    ring: Annotated[
        Text,
        Option("--ring", metavar="SIZE", help="Only the last SIZE (10M) of packets, written at the end."),
    ] = None,
    lab_word: LabOption = None,
    json: Json = False,
) -> None:
    """Capture packets of several interfaces into one pcapng file.

    netorch capture red blue:eth1 -f 'tcp port 80'; netorch capture br0 -w - | wireshark -k -i -
    A line on stderr says when it has begun; ctrl-C ends it.
    """
    from netns_orch.capture import SNAPLEN, Capture

    limits = _number("--count", count_), choose.seconds("--duration", duration)
    kept = _size(ring)
    length = _number("--snaplen", snaplen, _SMALLEST, SNAPLEN) or SNAPLEN
    if write == "-" and json:
        raise UsageError("--json and -w - exclude each other: both are stdout")
    if write == "-" and sys.stdout.isatty():
        raise UsageError("packets are not written to a terminal", hint="redirect it, or give -w FILE")
    lab = choose.lab_name(lab_word, node=_first_node(nodes))
    with Capture(lab, nodes or [], filter=filter_, snaplen=length) as packets, packets.stopped_by_signals():
        path, file = _open(write, lab)
        with file:
            summary = _run(packets, path, file, limits, kept)
    if json:
        out_json({"file": path, **summary.to_json()})
    else:
        _tell(path, summary)


def _run(
    packets: Capture,
    path: str,
    file: BinaryIO,
    limits: tuple[int | None, float | None],
    kept: int | None,
) -> Summary:
    from netns_orch.capture import Ring, Stream

    packets.watch_reader(file.fileno())
    ring = Ring(kept) if kept is not None else None
    sink: Sink = Stream(file) if ring is None else ring
    names = packets.names
    shown = ", ".join(names[:_NAMES_SHOWN]) + (
        f" and {len(names) - _NAMES_SHOWN} more" if names[_NAMES_SHOWN:] else ""
    )
    note(f"capturing on {shown}, into {_shown(path)}; ctrl-C ends it")
    sys.stderr.flush()
    try:
        summary = packets.run(sink, count=limits[0], seconds=limits[1])
        if ring is not None:
            ring.save(file)
    except BrokenPipeError:
        raise
    except OSError as error:
        raise NetorchError(f"can't write {path}: {error.strerror}") from error
    return summary


def _open(write: str | None, lab: str) -> tuple[str, BinaryIO]:
    from netns_orch.kernel import newfile

    if write == "-":
        return "-", os.fdopen(os.dup(sys.stdout.fileno()), "wb", buffering=0)
    if write is not None:
        return write, newfile.open_new(write)
    for number in numbers(1):
        path = f"{lab}.pcapng" if number == 1 else f"{lab}-{number}.pcapng"
        try:
            return path, newfile.open_new(path, replace=False)
        except FileExistsError:
            continue
    raise AssertionError("numbers do not end")


def _tell(path: str, summary: Summary) -> None:
    packets = count(summary.packets, "packet")
    lost = f"; the kernel dropped {summary.dropped}" if summary.dropped else ""
    gone = "; no interface is left" if summary.ended == "gone" else ""
    note(f"{_shown(path)}: {packets} in {summary.seconds:.1f} s{lost}{gone}")
    if len(summary.interfaces) > 1 or any(each.gone for each in summary.interfaces):
        for each in summary.interfaces:
            dropped = f", {each.dropped} dropped" if each.dropped else ""
            went = ", then it went" if each.gone else ""
            note(f"  {each.name}: {count(each.packets, 'packet')}{dropped}{went}")


def _shown(path: str) -> str:
    return "stdout" if path == "-" else path


def _first_node(words: list[str] | None) -> str | None:
    """The first container that is named: it can tell which lab is meant."""
    nodes = [word.partition(":")[0] for word in words or []]
    return next((node for node in nodes if node != "host"), None)


def _number(option: str, text: str | None, least: int = 1, most: int | None = None) -> int | None:
    value = choose.whole(option, text)
    if value is not None and (value < least or (most is not None and value > most)):
        wanted = f"at least {least}" if most is None else f"{least} to {most}"
        raise UsageError(f"{option}: expected {wanted}, got {text}")
    return value


def _size(text: str | None) -> int | None:
    """A size as in a lab file (``10M``)."""
    from netns_orch.labfile import units

    if text is None:
        return None
    try:
        size = units.size(text)
    except units.Wrong as error:
        raise UsageError(f"--ring: {error.what}", hint=error.hint) from None
    if not size:
        raise UsageError("--ring: expected at least 1B")
    return size
