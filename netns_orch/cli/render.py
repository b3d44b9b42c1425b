"""How labs, containers, drift and problems look as text or JSON.  Takes what ``lab`` returns; pure.

Owns: the columns and words.  Must not: ask the kernel or ``lab`` for anything; write to a stream.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from netns_orch.cli.output import ago, clean, count, duration_text, size_text, table
from netns_orch.errors import LabFileError, NetorchError

if TYPE_CHECKING:
    from netns_orch.collect import Found
    from netns_orch.lab import DownReport, UpReport
    from netns_orch.labfile.model import Topology

Row = Mapping[str, Any]


def labs_table(rows: Iterable[Row]) -> list[str]:
    """``ls``."""
    rows = list(rows)
    leased = any(_wanted(row) for row in rows)
    header = ["LAB", "STATE", "CONTAINERS", "LINKS", "NETNS", "CREATED", "FILE"]
    cells: list[list[object]] = [
        [r["lab"], r["state"], r["containers"], r["links"], r["netns"], ago(r["created"]), r["file"]]
        for r in rows
    ]
    if leased:
        header.insert(-1, "WANTED")
        for row, line in zip(rows, cells, strict=True):
            line.insert(-1, _wanted(row))
    return table(header, cells)


def _wanted(row: Row) -> str | None:
    """How long a lab is: what --ttl and --owner-pid said."""
    expires, owner = row.get("expires"), row.get("owner_pid")
    words = []
    if expires is not None:
        left = expires - time.time()
        words.append(f"for {duration_text(left)}" if left > 0 else "no longer")
    if owner is not None:
        words.append(f"by {owner}")
    return " ".join(words) or None


def containers_table(rows: Iterable[Row]) -> list[str]:
    """``ps``."""
    rows = list(rows)
    header: tuple[str, ...] = ("NAME", "STATE", "PID", "ADDRESSES", "UPTIME", "RESTARTS", "OOM-KILLS", "EXIT")
    cells = [_container_cells(row) for row in rows]
    if any(row["ports"] for row in rows):
        header = (*header, "PORTS")
        cells = [(*line, row["ports"]) for line, row in zip(cells, rows, strict=True)]
    return table(header, cells)


def _container_cells(row: Row) -> tuple[object, ...]:
    return (
        row["name"],
        row["state"],
        row["pid"],
        row["addresses"],
        duration_text(row["uptime"]),
        row["restarts"],
        row["oom_kills"],
        row["exit_code"],
    )


def processes_table(rows: Iterable[Row]) -> list[str]:
    """``top``."""
    header = ("PID", "ON-HOST", "PPID", "USER", "STATE", "CPU-TIME", "MEMORY", "STARTED", "COMMAND")
    cells = [
        (
            row["inside"],
            row["pid"],
            row["ppid"],
            row["user"],
            row["state"],
            f"{row['cpu_seconds']:.2f}s",
            size_text(row["memory"]),
            ago(row["started"]),
            row["command"],
        )
        for row in rows
    ]
    return table(header, cells)


def stats_table(rows: Iterable[Row]) -> list[str]:
    """``stats``."""
    header = (
        "NAME",
        "CPU",
        "MEMORY",
        "LIMIT",
        "MEM",
        "PIDS",
        "NET RX / TX",
        "DISK READ / WRITTEN",
        "OOM-KILLS",
    )
    return table(header, [_stats_cells(row) for row in rows])


def _stats_cells(row: Row) -> tuple[object, ...]:
    memory, limit = row["memory"], row["memory_limit"]
    return (
        row["name"] if row["state"] in ("running", "idle") else f"{row['name']} ({row['state']})",
        _percent(row["cpu_percent"]),
        size_text(memory),
        size_text(limit),
        _percent(100 * memory / limit) if limit and memory is not None else None,
        row["pids"] if row["pids_limit"] is None else f"{row['pids']}/{row['pids_limit']}",
        f"{size_text(row['rx_bytes'])}/{size_text(row['tx_bytes'])}",
        f"{size_text(row['read_bytes'])}/{size_text(row['written_bytes'])}",
        row["oom_kills"],
    )


def _percent(value: float | None) -> str | None:
    return None if value is None else f"{value:.2f}%"


def status_lines(status: Row) -> list[str]:
    """``status``: each object that drifted, then what is not netorch's own, then OOM kills."""
    lines = [line for entry in status["drift"] for line in _drift_lines(entry)]
    if not lines:
        lines = [f"{status['lab']}: as it should be"]
    strict = [entry["object"] for entry in status["drift"]]
    lines += [f"extra: {clean(e['object'])}" for e in status["extra"] if e["object"] not in strict]
    lines += [f"OOM kills: {clean(name)}: {count}" for name, count in status["oom_kills"].items()]
    return lines


def _drift_lines(entry: Row) -> list[str]:
    lines = [clean(f"drift: {entry['object']}: {entry['what']}")]
    expected, found = entry.get("expected"), entry.get("found")
    if isinstance(expected, Mapping) and isinstance(found, Mapping):
        lines += [f"  {key}: {_expected_found(expected[key], found.get(key))}" for key in expected]
    elif expected is not None or found is not None:
        lines.append(f"  {_expected_found(expected, found)}")
    return lines


def _expected_found(expected: object, found: object) -> str:
    return f"expected {_value(expected)}, found {_value(found)}"


def _value(value: object) -> str:
    """A value in the words of a lab file."""
    if value is None or isinstance(value, bool):
        return {None: "none", True: "true", False: "false"}[value]
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(map(_value, value)) + "]"
    return clean(str(value)).replace("\n", " ")


def up_line(report: UpReport, *, bridges: bool) -> str:
    """The last line of ``up``."""
    size = f"{count(report.containers, 'container')}, {count(report.links, 'link')}"
    changed = "" if report.changes else ", nothing to change"
    where = f"; bridges {report.bridges}" if bridges else ""
    return f"{report.lab}: {size} up in {report.seconds:.2f} s{changed}{where}"


def down_line(report: DownReport) -> str:
    """What ``down`` says."""
    if not report.found:
        return f"{report.lab}: not up"
    size = f"{count(report.containers, 'container')}, {count(report.links, 'link')}"
    return f"{report.lab}: {size} removed in {report.seconds:.2f} s"


def found_lines(found: Found, *, dry_run: bool) -> list[str]:
    """What ``gc`` says of one thing that was left."""
    if found.lab is None:
        path = clean(" ".join(found.objects))
        return [f"{path}: {found.reason}" + ("" if dry_run else ", removed")]
    size = f": {count(found.containers, 'container')}, {count(found.links, 'link')}" if found.objects else ""
    lines = [clean(f"{found.lab}: {found.reason}{size}{', removed' if found.removed and size else ''}")]
    return lines + [clean(f"  {name}") for name in found.objects] if dry_run else lines


def found_json(found: Found) -> dict[str, Any]:
    """``gc --json``, an entry."""
    return {
        "lab": found.lab,
        "reason": found.reason,
        "objects": list(found.objects),
        "removed": found.removed,
        "error": problem_json(found.error) if found.error else None,
    }


def up_json(report: UpReport) -> dict[str, Any]:
    """``up --json``."""
    return {
        "lab": report.lab,
        "containers": report.containers,
        "links": report.links,
        "seconds": round(report.seconds, 6),
        "netns": report.netns,
        "changes": report.changes,
        "warnings": [problem_json(warning) for warning in report.warnings],
    }


def down_json(report: DownReport) -> dict[str, Any]:
    """``down --json``."""
    return {
        "lab": report.lab,
        "containers": report.containers,
        "links": report.links,
        "seconds": round(report.seconds, 6),
        "found": report.found,
    }


def problem_json(problem: NetorchError) -> dict[str, Any]:
    """One error or warning as data."""
    where = problem.where
    return {
        "what": problem.what,
        "file": where.file if where else None,
        "line": where.line if where else None,
        "column": where.column if where else None,
        "path": where.path if where else None,
        "hint": problem.hint,
        "details": problem.details,
    }


def valid_line(file: str, topology: Topology) -> str:
    """What ``validate`` says of a valid file."""
    sizes = (("container", topology.containers), ("bridge", topology.bridges), ("link", topology.links))
    return f"{file}: valid: " + ", ".join(count(len(things), noun) for noun, things in sizes)


def valid_json(file: str, topology: Topology, warnings: Iterable[NetorchError]) -> dict[str, Any]:
    """``validate --json`` of a valid file."""
    return {
        "valid": True,
        "file": file,
        "lab": topology.name,
        "containers": len(topology.containers),
        "bridges": len(topology.bridges),
        "links": len(topology.links),
        "errors": [],
        "warnings": [problem_json(warning) for warning in warnings],
    }


def invalid_json(file: str, error: NetorchError) -> dict[str, Any]:
    """``validate --json`` of a file with errors."""
    problems = error.problems if isinstance(error, LabFileError) else [error]
    errors = [problem_json(problem) for problem in problems]
    return {"valid": False, "file": file, "errors": errors, "warnings": []}
