"""``netorch import``: a lab file made of another tool's.

Owns: where it is written, what is said about it, the exit code.  Must not: know the tools' formats.
"""

from __future__ import annotations

import os
from pathlib import Path

from netns_orch.cli import examples
from netns_orch.cli.choose import nearest
from netns_orch.cli.output import count, error_text, note, out, warn
from netns_orch.errors import EXIT_DONE, EXIT_FAILED, NetorchError, UsageError


def run(
    word: str, *, kind: str | None, output: str | None, force: bool, rootfs: str | None, strict: bool
) -> int:
    """Import one file or directory; the exit code."""
    from netns_orch import convert

    if kind is not None and kind not in convert.KINDS:
        like = nearest(kind, convert.KINDS)
        hint = f"did you mean {like}?" if like else f"there are: {', '.join(convert.KINDS)}"
        raise UsageError(f"--from {kind}: no such kind of file", hint=hint)
    target = None if output in (None, "-") else Path(str(output))
    if target is not None:
        examples.refuse_existing(target, force=force)
    done = convert.convert(Path(word), kind=kind, rootfs=rootfs, output=target, environ=os.environ)
    for each in done.notes:
        note(error_text(each, "note"))
    warn(done.losses)
    if strict and done.losses:
        raise NetorchError(
            f"{count(len(done.losses), 'thing')} would be lost, nothing was written",
            hint="without --strict it is written, with a comment for each of them",
        )
    if target is None:
        out(done.text.rstrip("\n"))
    else:
        examples.write(done.text.encode(), target, force=force)
    for problem in done.problems:
        note(error_text(problem))
    _summary(done, target)
    return EXIT_FAILED if done.problems else EXIT_DONE


def _summary(done: object, target: Path | None) -> None:
    from netns_orch.convert import Converted

    assert isinstance(done, Converted)
    what = f"{done.kind}: {count(done.containers, 'container')}, {count(done.links, 'link')}"
    if done.losses:
        what += f"; {count(len(done.losses), 'comment')} in it to look at"
    if target is None:
        note(what)
    elif done.problems:
        note(f"wrote {target} ({what}); it is not valid yet: netorch validate {target}")
    else:
        given = "" if str(target) == "lab.yaml" else f" {target}"
        note(f"wrote {target} ({what}); next: netorch up{given}")
