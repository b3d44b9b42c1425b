"""The commands used most — up, down, plan, validate, ls, ps, status — but for how their options are read.

Owns: what each of them asks of ``lab``, and what it shows; ``plain``, which runs their plain forms.
Must not: import typer, which takes as long to start as a small lab takes to build.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from netns_orch import rootless
from netns_orch.cli import choose
from netns_orch.cli.output import Progress, error_text, note, out, out_json, plan_line, warn
from netns_orch.errors import EXIT_DONE, EXIT_FAILED, EXIT_USAGE, LabFileError, NetorchError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from netns_orch.lab import DownReport
    from netns_orch.labfile.model import Topology


def plain(arguments: Sequence[str]) -> int | None:
    """Run a command line that is a command, at most one word, and flags; None: it takes more to read it."""
    name, *words = arguments or [""]
    known = _PLAIN.get(name)
    flags = [word for word in words if word.startswith("-")]
    if known is None or len(words) - len(flags) > known.words or not known.flags.issuperset(flags):
        return None
    word = next((word for word in words if not word.startswith("-")), None)
    with rootless.command():
        return known.run(word, frozenset(flags))


class What(NamedTuple):
    """Which lab file is meant, and how it is to be read."""

    file: str | None
    name: str | None = None
    var: Sequence[str] | None = None
    private: bool = False
    untrusted: bool = False

    def load(self) -> Topology:
        """Read it."""
        from netns_orch import lab

        file, lab_name = choose.lab_file(self.file)
        return lab.load(
            file,
            name=self.name or lab_name,
            variables=choose.variables(self.var or []),
            private=self.private,
            untrusted=self.untrusted,
        )


class How(NamedTuple):
    """How ``up`` is to build, in the words of the command line."""

    timeout: str | None = None
    wait: str | None = None
    keep_failed: bool = False
    ttl: str | None = None
    owner_pid: str | None = None
    pull: bool = False


def up(what: What, how: How, *, dry_run: bool, json: bool) -> None:
    """Build or converge; ``dry_run`` shows the plan."""
    from netns_orch import images, lab
    from netns_orch.cli import render

    timeout, wait = choose.seconds("--timeout", how.timeout), choose.seconds("--wait", how.wait)
    ttl, owner_pid = choose.time_to_live("--ttl", how.ttl), choose.process("--owner-pid", how.owner_pid)
    topology = what.load()
    spent = choose.settle(topology, building=not dry_run, pull=how.pull, timeout=timeout)
    if dry_run:
        _show_plan(topology, json=json)
        return
    with Progress() as progress:
        report = lab.up(
            topology,
            progress=progress,
            keep_failed=how.keep_failed,
            timeout=images.left(timeout, spent),
            wait=wait,
            ttl=ttl,
            owner_pid=owner_pid,
        )
    if json:
        out_json(render.up_json(report))
        return
    warn(report.warnings)
    note(render.up_line(report, bridges=bool(topology.bridges)))


def down(word: str | None, *, every: bool, wait: str | None, json: bool) -> int:
    """Remove one lab, or ``every`` one."""
    from netns_orch import lab
    from netns_orch.cli import render

    if every and word is not None:
        raise UsageError("--all and a LAB exclude each other")
    patience = choose.seconds("--wait", wait)
    if every:
        return _down_all(patience, json=json)
    name = choose.down_name(word)
    if name is None:
        lab.tidy()
        note("no lab is up")
        if json:
            out_json({"lab": None, "containers": 0, "links": 0, "seconds": 0.0, "found": False})
        return EXIT_DONE
    with Progress() as progress:
        report = lab.down(name, progress=progress, wait=patience)
    if json:
        out_json(render.down_json(report))
    else:
        note(render.down_line(report))
    return EXIT_DONE


def _down_all(wait: float | None, *, json: bool) -> int:
    """One lab that can't be removed keeps none of the others; each error is told."""
    from netns_orch.cli import render

    done = list(choose.each(lambda: _down_here(wait, json=json)))
    if json:
        out_json([render.down_json(report) for report in done if report is not None])
    elif not done:
        note("no lab is up")
    _note_roots()
    return EXIT_FAILED if None in done else EXIT_DONE


def _down_here(wait: float | None, *, json: bool) -> list[DownReport | None]:
    from netns_orch import lab
    from netns_orch.cli import render

    done: list[DownReport | None] = []
    for row in [*lab.labs(), *lab.lost_labs()]:
        try:
            with Progress() as progress:
                report = lab.down(str(row["lab"]), progress=progress, wait=wait)
        except NetorchError as error:
            note(error_text(error))
            done.append(None)
            continue
        done.append(report)
        if not json:
            note(render.down_line(report))
    if not done:
        lab.tidy()
    return done


def _note_roots() -> None:
    if choose.only_root_has_labs():
        note("labs of root are up, which are root's alone: sudo netorch ls")


def plan(what: What, *, format_: str, json: bool) -> None:
    """Show what ``up`` would do."""
    formats = ("table", "json", "shell")
    if format_ not in formats:
        raise UsageError(f"--format {format_}: no such format", hint=f"expected {', '.join(formats)}")
    topology = what.load()
    choose.settle(topology)
    if format_ == "shell":
        _show_script(topology, json=json)
    else:
        _show_plan(topology, json=json or format_ == "json")


def _show_script(topology: Topology, *, json: bool) -> None:
    from netns_orch import views as explain

    if json:
        raise UsageError("--json and --format shell exclude each other")
    script, lacking = explain.script(topology)
    warn(lacking)
    out(script)


def _show_plan(topology: Topology, *, json: bool) -> None:
    from netns_orch import lab

    todo, lost = lab.plan(topology), rootless.lost_way_out()
    if lost is not None:
        note(f"{topology.name}: up starts {lost} again, the way out, which has ended")
    if json:
        out_json({"lab": topology.name, **todo.to_json()})
    elif len(todo):
        for line in todo.lines():
            out(plan_line(line))
        note(f"{topology.name}: {len(todo)} to do")
    else:
        note(f"{topology.name}: nothing to do")


def validate(what: What, *, json: bool) -> int:
    """Check a lab file, also against this host."""
    from netns_orch import lab
    from netns_orch.cli import render

    path, _ = choose.lab_file(what.file)
    try:
        topology = what.load()
        unsettled = choose.why_unsettled(topology)
        warnings = lab.validate(topology, host=unsettled is None)
    except LabFileError as error:
        if not json:
            raise
        out_json(render.invalid_json(str(path), error))
        return EXIT_USAGE
    if json:
        out_json(render.valid_json(str(path), topology, warnings))
    else:
        warn(warnings)
        out(render.valid_line(str(path), topology))
        if unsettled is not None:
            note(f"not checked against this host: {unsettled}")
    return EXIT_DONE


def ls(*, json: bool) -> None:
    """List the labs."""
    from netns_orch import lab
    from netns_orch.cli import render

    choose.look()
    rows = [*lab.labs(), *lab.lost_labs()]
    if json:
        out_json(rows)
    else:
        out("\n".join(render.labs_table(rows)))
    _note_roots()


def ps(word: str | None, *, label: Sequence[str] | None, json: bool) -> None:
    """List the containers of a lab."""
    from netns_orch import lab
    from netns_orch.cli import render

    rows = [row for row in lab.ps(choose.lab_name(word)) if choose.has_labels(row, label or [])]
    if json:
        out_json(rows)
    else:
        out("\n".join(render.containers_table(rows)))


def status(word: str | None, *, strict: bool, json: bool) -> int:
    """Compare a lab with the kernel's own state."""
    from netns_orch import lab
    from netns_orch.cli import render

    found = lab.status(choose.lab_name(word), strict=strict)
    if json:
        out_json(found)
    else:
        out("\n".join(render.status_lines(found)))
        warn(NetorchError(warning["what"], hint=warning["hint"]) for warning in found["warnings"])
    return EXIT_FAILED if found["drift"] else EXIT_DONE


# -- plain forms ---------------------------------------------------------------------------------


class _Plain(NamedTuple):
    """The plain form of a command; options with values, and wrong usage, are for the whole parser."""

    words: int
    flags: frozenset[str]
    run: Callable[[str | None, frozenset[str]], int]


def _plain_up(file: str | None, flags: frozenset[str]) -> int:
    what = What(file, private="--private" in flags)
    how = How(keep_failed="--keep-failed" in flags, pull="--pull" in flags)
    up(what, how, dry_run="--dry-run" in flags, json="--json" in flags)
    return EXIT_DONE


def _plain_down(lab: str | None, flags: frozenset[str]) -> int:
    return down(lab, every="--all" in flags, wait=None, json="--json" in flags)


def _plain_plan(file: str | None, flags: frozenset[str]) -> int:
    plan(What(file, private="--private" in flags), format_="table", json="--json" in flags)
    return EXIT_DONE


def _plain_validate(file: str | None, flags: frozenset[str]) -> int:
    return validate(What(file), json="--json" in flags)


def _plain_ls(_: str | None, flags: frozenset[str]) -> int:
    ls(json="--json" in flags)
    return EXIT_DONE


def _plain_ps(lab: str | None, flags: frozenset[str]) -> int:
    ps(lab, label=None, json="--json" in flags)
    return EXIT_DONE


def _plain_status(lab: str | None, flags: frozenset[str]) -> int:
    return status(lab, strict="--strict" in flags, json="--json" in flags)


_PLAIN = {
    "up": _Plain(1, frozenset({"--private", "--dry-run", "--keep-failed", "--pull", "--json"}), _plain_up),
    "down": _Plain(1, frozenset({"--all", "--json"}), _plain_down),
    "plan": _Plain(1, frozenset({"--private", "--json"}), _plain_plan),
    "validate": _Plain(1, frozenset({"--json"}), _plain_validate),
    "ls": _Plain(0, frozenset({"--json"}), _plain_ls),
    "ps": _Plain(1, frozenset({"--json"}), _plain_ps),
    "status": _Plain(1, frozenset({"--strict", "--json"}), _plain_status),
}
