"""Outages: when packets were lost, out of a stream of samples.

Owns: what counts as lost, as an outage, and as its end.  Must not: send anything.

A packet without an answer is lost once ``GRACE`` seconds (and what the lab itself delays) have gone by.  An
outage lasts from the sending of the first lost packet to that of the first good one that ``STEADY`` more good
ones follow: what flaps in between belongs to it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from netns_orch.kernel.stream import Sample

GRACE = 0.5
STEADY = 10
SETTLE = 1.0
"""Seconds without an outage after which it is over; also how long one is waited for."""


class Outage(NamedTuple):
    """From when to when (seconds since the stream began; None: it goes on), and packets lost."""

    began: float
    ended: float | None
    lost: int

    def length(self, now: float) -> float:
        """Seconds; up to ``now`` where it goes on."""
        return (now if self.ended is None else self.ended) - self.began


def outages(samples: Sequence[Sample], now: float, grace: float = GRACE) -> list[Outage]:
    """All outages of one stream, in order; the last one may go on."""
    found: list[Outage] = []
    began, lost, good, ended = 0.0, 0, 0, 0.0
    for sample in samples:
        if sample.answered is None:
            if sample.sent > now - grace:
                continue  # its answer may still come
            began, lost, good = (began, lost + 1, 0) if lost else (sample.sent, 1, 0)
        elif lost:
            good += 1
            ended = sample.sent if good == 1 else ended
            if good > STEADY:
                found.append(Outage(began, ended, lost))
                lost = 0
    return [*found, Outage(began, None, lost)] if lost else found


class Watched(NamedTuple):
    """What is known of the convergence that is waited for."""

    over: bool
    """Whether nothing more is to be waited for."""
    longest: Outage | None
    """None: no packet was lost."""
    which: int
    """The stream that the longest is of."""
    tried: bool
    """Whether of each stream something is known that was sent since the command: else nothing is proven."""


def watched(
    streams: Sequence[Sequence[Sample]], now: float, since: float, within: float, grace: float = GRACE
) -> Watched:
    """How far it is, ``now``; the command that may have caused an outage was done at ``since``.

    It is over when every stream was steady for ``SETTLE`` seconds, or an outage is longer than ``within``.
    A stream may be slow: each of its samples a check that takes its time.
    """
    longest, which, last_end, open_ = None, 0, since, False
    for at, samples in enumerate(streams):
        for one in outages(samples, now, grace):
            if longest is None or one.length(now) > longest.length(now):
                longest, which = one, at
            last_end = max(last_end, one.ended or 0.0)
            open_ = open_ or one.ended is None
    too_long = longest is not None and longest.length(now) > within + (grace if longest.ended is None else 0)
    tried = len(streams) > 0 and all(
        any(_is_known(one, since, now - grace) for one in reversed(samples)) for samples in streams
    )
    steady = tried and not open_ and now - last_end >= SETTLE + grace
    return Watched(too_long or steady, longest, which, tried)


def _is_known(sample: Sample, since: float, until: float) -> bool:
    return sample.sent >= since and (sample.answered is not None or sample.sent <= until)
