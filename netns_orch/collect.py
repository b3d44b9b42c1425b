"""What dead runs left, found, judged and removed: ``gc``.

Owns: which labs nobody wants any more, and why.  Must not: take a healthy lab, one that a process works on,
one of another host namespace, or anything that bears no mark.

A lab is judged twice: first without its lock, so that those that are fine are not disturbed, and again when
the lock is held, as it may have been finished meanwhile.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import NamedTuple

from netns_orch import lab as labs
from netns_orch.errors import LockHeld, NetorchError
from netns_orch.journal import Applied
from netns_orch.kernel import leftovers, owners
from netns_orch.kernel.driver import LabKernel, host_id
from netns_orch.kernel.rundir import lab_directories
from netns_orch.records import dataclass
from netns_orch.resources import Container, State

_WHOLE = frozenset(("up", "down"))
"""Runs that are about the lab as a whole; one of another kind that was killed leaves the lab up."""


@dataclass(frozen=True)
class Found:
    """Something that was left: a lab, or (``lab`` None) an empty thing that labs share."""

    lab: str | None
    reason: str
    objects: tuple[str, ...] = ()
    """What there is of it: keys of resources, or a path."""
    containers: int = 0
    links: int = 0
    removed: bool = False
    error: NetorchError | None = None


def collect(*, dry_run: bool = False) -> Iterator[Found]:
    """What dead runs left in this host namespace, one after the other, each removed (not with ``dry_run``).

    One that can't be removed carries the error, and keeps none of the others.
    """
    marked = leftovers.marked_labs()
    names = sorted(leftovers.traced_labs() | {directory.name for directory in lab_directories(host_id())})
    for name in names:
        kernel = LabKernel(name)
        if kernel.directory.is_held():
            continue
        verdict = _judge(kernel, name in marked)
        if verdict is not None:
            yield from [_seen(kernel, verdict)] if dry_run else _collected(name)
    shared = [Found(None, left.what, (left.path,), removed=not dry_run) for left in leftovers.find()]
    if not dry_run:
        leftovers.remove()
    yield from shared


def images(*, dry_run: bool = False) -> Iterator[Found]:
    """The images in this user's cache that no lab uses, each removed (not with ``dry_run``)."""
    from netns_orch.kernel import imagestore, layers

    def in_use() -> Iterator[str]:
        return (layer.source for lab in lab_directories() for layer in layers.observe(lab.path))

    for name in imagestore.unused(in_use()) if dry_run else imagestore.remove(in_use):
        yield Found(None, "an image that no lab uses", (name,), removed=not dry_run)


def _collected(name: str) -> Iterator[Found]:
    kernel = LabKernel(name)
    verdict = None
    try:
        with labs.working(kernel, "gc", None), kernel.uninterrupted():
            verdict = _judge(kernel, name in leftovers.marked_labs())
            if verdict is None:
                return
            if verdict.stays:
                yield _swept(kernel, verdict.reason)
            else:
                yield _found(verdict.reason, name, labs.remove(kernel), removed=True)
    except LockHeld:
        return
    except NetorchError as error:
        yield Found(name, verdict.reason if verdict else "", error=error)


class _Verdict(NamedTuple):
    """Why there is something to collect, and whether the lab itself stays all the same."""

    reason: str
    stays: bool = False


def _judge(kernel: LabKernel, marked: bool) -> _Verdict | None:
    """None where nothing is left over."""
    journals = [labs.journal_of(part) for part in (kernel, labs.place_of(kernel))]
    killed = [run.doing for journal in journals for run in journal.unfinished()]
    if whole := [doing for doing in killed if doing in _WHOLE]:
        return _Verdict(f"`{whole[0]}` was killed half-way")
    if labs.is_of_earlier_boot(kernel):
        return _Verdict("the host was started anew since it was up")
    applied = journals[0].applied()
    if applied is None and kernel.directory.read_json("lab.json") is None:
        return _Verdict("no file tells of it" if kernel.has_marks() else "its run directory is empty")
    # An ordinary user's lab without bridges and limits has marks in its containers only.
    lives = applied is not None and any(kernel.container(one.name) for one in applied.state.of(Container))
    if not (marked or lives) and (applied is None or len(applied.state)):
        return _Verdict("nothing of it is left but files")
    if ended := labs.lease_of(kernel.directory).ended(time.time(), owners.lives):
        return _Verdict(ended)
    return _Verdict(f"`{killed[0]}` was killed half-way; the lab stays up", stays=True) if killed else None


def _swept(kernel: LabKernel, reason: str) -> Found:
    """A run on a lab that stays: only what it made and could not mark any more goes."""
    journal = labs.journal_of(kernel)
    labs.finish_interrupted(kernel, journal)
    journal.end()
    return Found(kernel.name, reason, removed=True)


def _seen(kernel: LabKernel, verdict: _Verdict) -> Found:
    if verdict.stays:
        return Found(kernel.name, verdict.reason)
    applied = labs.journal_of(kernel).applied() or Applied()
    kernel.group, kernel.records = applied.group, applied.records
    try:
        there = kernel.observe(State(), applied.state)
        return _found(verdict.reason, kernel.name, there, removed=False)
    except NetorchError as error:
        return Found(kernel.name, verdict.reason, error=error)
    finally:
        kernel.close()


def _found(reason: str, name: str, there: State, *, removed: bool) -> Found:
    containers, links = labs.counts(there)
    return Found(name, reason, tuple(r.key for r in there.values()), containers, links, removed)
