"""How the way of a packet reads.  Takes what ``views`` returns; pure.

Owns: columns and words.  Must not: ask for anything; write to a stream.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from netns_orch.cli.output import table

if TYPE_CHECKING:
    from netns_orch.trace import Hop, Lost, Measured, Path, Verdict, Way
    from netns_orch.views import PathReport


def lines(report: PathReport) -> list[str]:
    """The predicted way, the measured one, and where it ends."""
    path, verdict = report.path, report.verdict
    found = [f"{path.source} to {path.destination or 'the outside'} ({path.src or '?'} to {path.dst})", ""]
    found += table(("HOP", "NODE", "IN", "ADDRESS", "OUT", "NEXT", "BY ROUTE"), _rows(path.there))
    if path.there.end == "outside":
        found.append("leaves the lab here")
    if path.back is not None:
        found += ["", "back: " + " > ".join(path.back.nodes)]
    found += [f"not judged: {rule}" for rule in path.unsure]
    if verdict is None:
        return [*found, "", *_end("predicted", path.lost, path)]
    return [*found, "", *_measured(verdict), "", *_verdict(verdict, path)]


def _rows(way: Way) -> list[tuple[object, ...]]:
    return [(number, *_cells(hop)) for number, hop in enumerate(way.hops)]


def _cells(hop: Hop) -> tuple[object, ...]:
    following = hop.via or ("on link" if hop.oif else "")
    others = f"{following} (or {', '.join(hop.others)})" if hop.others else following
    return hop.node, hop.iif, hop.address, hop.oif, others, hop.route


def _measured(verdict: Verdict) -> list[str]:
    rows = [
        (seen.ttl, node or "", seen.address or "*", _time(seen), _said(seen)) for seen, node in verdict.hops
    ]
    return table(("TTL", "NODE", "ANSWER FROM", "TIME", "SAYS"), rows)


def _time(seen: Measured) -> str:
    return "" if seen.milliseconds is None else f"{seen.milliseconds:.2f} ms"


def _said(seen: Measured) -> str:
    said = {"reply": "reply", "exceeded": "", "silence": "no answer"}
    return said.get(seen.kind, seen.words or seen.kind)


def _verdict(verdict: Verdict, path: Path) -> list[str]:
    found = _end("measured", verdict.lost, path)
    if verdict.reached and not verdict.as_predicted:
        found.append("not by the way that was predicted")
    elif not verdict.as_predicted and path.lost is None:
        found.append("predicted: it arrives")
    elif not verdict.as_predicted and path.lost is not None:
        found.append(f"predicted: lost at {path.lost.node}: {path.lost.why}")
    return found


def _end(how: str, lost: Lost | None, path: Path) -> list[str]:
    if lost is None:
        outside = path.there.end == "outside" and how == "predicted"
        return [f"{how}: it leaves the lab" if outside else f"{how}: it arrives, and so does the answer"]
    back = path.back is not None and path.back.lost == lost
    where = f"{how}: {'its answer is ' if back else ''}lost at {lost.node}: {lost.why}"
    return [where, *([f"hint: {lost.hint}"] if lost.hint else [])]
