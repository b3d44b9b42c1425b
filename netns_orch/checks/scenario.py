"""Scenarios: steps in time, on a lab that is up.

Owns: their order, and that the packets of a ``converges`` are on their way before the commands that cause the
outage.  Must not: know what a command does: each is a command line of netorch, run as one.

A step that fails does not stop the scenario, but for a command: what follows it would test something else.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Collection, Sequence
from contextlib import ExitStack, suppress
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from netns_orch import lab as labs
from netns_orch.checks import commands, control, kinds, titles
from netns_orch.checks.bench import EXEC_WAIT, Bench, open_bench
from netns_orch.checks.outage import GRACE, SETTLE, Watched, watched
from netns_orch.checks.outcome import Result, Verdict
from netns_orch.checks.run import OnResult, explain, run_check
from netns_orch.errors import NetorchError
from netns_orch.kernel.interrupts import Interrupted
from netns_orch.kernel.probes import Ask
from netns_orch.kernel.stream import Sample

if TYPE_CHECKING:
    from netns_orch.labfile.model import Check, Step, Topology

INTERVAL = 0.01
"""Seconds between two packets: the resolution of a measured outage."""
_MOST_STREAMS = 64
_FIRST_PACKETS = 0.1
_COARSE = 5
_COMMAND_WAIT = 120.0
_LOOK = 0.05
_SLOWEST = 2 * EXEC_WAIT
"""Seconds after which a check is no longer waited for that has not ended since the command."""
_PATIENCE = 0.5
"""Seconds that a probe which is no packet of a stream waits for its answer."""


def run_scenario(
    lab: str, topology: Topology, *, tags: Collection[str] = (), on_result: OnResult | None = None
) -> list[Result]:
    """Run the steps of ``topology`` on the lab named ``lab``, which is up; a result for each.

    With ``tags`` all steps are run where one of their checks bears one, else none.  ``on_result`` is told
    each result as it comes.
    """
    steps = wanted(topology, tags)
    if not steps:
        return []
    results: list[Result] = []
    with open_bench(lab) as bench, ExitStack() as open_now:
        for check in (check for step in steps for check in step.checks):
            with suppress(NetorchError):
                control.remember(bench, kinds.silences(check, bench))
        player = _Player(bench, topology, open_now)
        for at, step in enumerate(steps):
            failed = next((r for r in results if r.kind == "command" and not r.ok), None)
            player.prepare(at)
            results.append(player.skip(step, failed) if failed else player.play(at, step))
            if on_result is not None:
                on_result(results[-1])
    return results


def wanted(topology: Topology, tags: Collection[str]) -> list[Step]:
    """The steps to run: all, or none where none of their checks bears one of the tags."""
    steps = topology.scenario
    bear = any(set(tags) & set(check.tags) for step in steps for check in step.checks)
    return steps if bear or not tags else []


class _Player:
    """One run of a scenario."""

    def __init__(self, bench: Bench, topology: Topology, open_now: ExitStack) -> None:
        self._bench, self._topology, self._open = bench, topology, open_now
        self._watches: dict[int, _Watch] = {}

    def prepare(self, at: int) -> None:
        """Start the packets of the ``converges`` that ends the run of commands beginning at step ``at``."""
        steps = self._topology.scenario
        if at and steps[at - 1].kind in ("command", "wait"):
            return
        end = next((n for n in range(at, len(steps)) if steps[n].kind not in ("command", "wait")), None)
        if end is not None and steps[end].kind == "converges":
            self._watch(end)

    def _watch(self, at: int) -> _Watch:
        if at not in self._watches:
            self._watches[at] = _Watch(self._bench, self._topology.scenario[at].checks)
            self._open.enter_context(self._watches[at])
        return self._watches[at]

    def play(self, at: int, step: Step) -> Result:
        """Do one step."""
        if step.kind == "check":
            return run_check(self._bench, step.checks[0], self._topology.groups)
        began = time.monotonic()
        try:
            if step.kind == "command":
                verdict, lines, figures = self._command(step)
            elif step.kind == "wait":
                time.sleep(step.seconds or 0)
                verdict, lines, figures = "passed", (), {}
            else:
                verdict, lines, figures = self._converges(at, step)
        except Interrupted:
            raise
        except NetorchError as error:
            verdict, lines, figures = "failed", (error.what,), {}
        return self._result(step, verdict, time.monotonic() - began, lines, figures)

    def skip(self, step: Step, after: Result) -> Result:
        """The result of a step that is not done."""
        return self._result(step, "skipped", 0.0, (f"not done, as `{after.name}` failed",), {})

    def _result(
        self, step: Step, verdict: Verdict, seconds: float, lines: Sequence[str], figures: dict[str, float]
    ) -> Result:
        return Result(
            name=titles.step_title(step, self._topology.groups),
            kind=step.checks[0].kind if step.kind == "check" else step.kind,
            verdict=verdict,
            seconds=seconds,
            lines=tuple(lines),
            tags=tuple(dict.fromkeys(tag for check in step.checks for tag in check.tags)),
            where=step.where,
            figures=figures,
        )

    def _command(self, step: Step) -> tuple[Verdict, Sequence[str], dict[str, float]]:
        from netns_orch.kernel import hostcommand

        topology = self._topology
        words = commands.of_lab(
            step.argv, self._bench.lab, topology.file, private=topology.netns == "private"
        )
        directory = str(Path(topology.file).parent) if topology.file else None
        done = hostcommand.run(hostcommand.own_command(words), _COMMAND_WAIT, directory)
        with suppress(NetorchError):  # it may have been `down`: the checks behind it say what is not there
            self._look_again()
        if done.code == 0:
            return "passed", (), {}
        said = [
            *done.errors.decode(errors="replace").splitlines(),
            *done.output.decode(errors="replace").splitlines(),
        ]
        how = f"it did not end within {_COMMAND_WAIT:g} s" if done.timed_out else f"exit code {done.code}"
        return "failed", (how, *said[:12]), {}

    def _look_again(self) -> None:
        """What a command changed (delays, addresses) counts from now on."""
        kernel, applied = labs.known(self._bench.lab)
        try:
            self._bench.take(applied.state, kernel.observe(applied.state, applied.state))
        finally:
            kernel.close()

    def _converges(self, at: int, step: Step) -> tuple[Verdict, Sequence[str], dict[str, float]]:
        within = step.seconds or 0.0
        watch = self._watch(at)
        since, grace = watch.now(), GRACE + self._bench.delay
        deadline = since + within + grace + SETTLE + _PATIENCE
        while True:
            now = watch.now()
            seen = watched(watch.samples(), now, since, within, grace)
            late = now - deadline - within
            if seen.over or late > (0 if seen.tried else _SLOWEST):
                break
            time.sleep(_LOOK)
        watch.close()
        if seen.longest is None and not seen.tried:
            return "failed", (f"nothing could be tried in the {now - since:.0f} s since the command",), {}
        return self._judge(seen, watch, now, within)

    def _judge(
        self, seen: Watched, watch: _Watch, now: float, within: float
    ) -> tuple[Verdict, Sequence[str], dict[str, float]]:
        if seen.longest is None:
            return "passed", (f"no packet was lost ({watch.sent()} sent)",), {"outage_ms": 0.0}
        seconds = seen.longest.length(now)
        figures = {"outage_ms": seconds * 1000, "lost_packets": float(seen.longest.lost)}
        told = f"{seen.longest.lost} of {watch.names[seen.which]}{watch.coarseness(seen.which)}"
        if seen.longest.ended is None:
            lines = [f"still lost after {seconds:.2f} s ({told}), at most {within:g} s are allowed"]
            return "failed", (*lines, *watch.explain(seen.which)), figures
        line = f"outage of {seconds * 1000:.0f} ms (lost: {told})"
        if seconds > within:
            return "failed", (f"{line}, at most {within * 1000:.0f} ms are allowed",), figures
        return "passed", (line,), figures


class _Source(Protocol):
    """Something that samples come from."""

    def __enter__(self) -> object: ...

    def __exit__(self, *_: object) -> None: ...

    def samples(self) -> list[list[Sample]]:
        """By stream."""
        ...


class _Watch:
    """The packets of one ``converges``: streams, or where a check is about more, that check repeated."""

    def __init__(self, bench: Bench, checks: Sequence[Check]) -> None:
        self._bench, self._checks = bench, checks
        self._began = time.monotonic()
        self._stack = ExitStack()
        self._sources: list[_Source] = []
        self.names: list[str] = []
        self._of: list[Check] = []

    def __enter__(self) -> _Watch:
        asks: list[Ask] = []
        names: list[str] = []
        owners: list[Check] = []
        repeated: list[Check] = []
        for check in self._checks:
            streams = kinds.streams(check, self._bench)
            if streams is None or len(asks) + len(streams) > _MOST_STREAMS:
                repeated.append(check)
                continue
            asks += [ask for _, ask in streams]
            names += [f"{check.kind} {who}" for who, _ in streams]
            owners += [check] * len(streams)
        self._began = time.monotonic()
        if asks:
            self._sources.append(self._stack.enter_context(self._bench.stream(asks, INTERVAL, self._began)))
        for check in repeated:
            self._sources.append(self._stack.enter_context(_Repeated(self._bench.lab, check, self._began)))
        self.names = [*names, *(titles.title(check, {}) for check in repeated)]
        self._of = [*owners, *repeated]
        self._wait_for_first_packets()
        return self

    def _wait_for_first_packets(self) -> None:
        """Some must be on their way, and back, before anything happens."""
        time.sleep(_FIRST_PACKETS)

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Send no more."""
        self._stack.close()

    def now(self) -> float:
        """Seconds since it began."""
        return time.monotonic() - self._began

    def samples(self) -> list[list[Sample]]:
        """By stream, in the order of ``names``."""
        return [samples for source in self._sources for samples in source.samples()]

    def sent(self) -> int:
        """How many packets were sent."""
        return sum(len(samples) for samples in self.samples())

    def coarseness(self, which: int) -> str:
        """How far apart the packets of a stream were, where that is much more than asked for."""
        sent = [sample.sent for sample in self.samples()[which]]
        widest = max((after - before for before, after in pairwise(sent)), default=0.0)
        return f", tried every {widest * 1000:.0f} ms" if widest > _COARSE * INTERVAL else ""

    def explain(self, which: int) -> list[str]:
        """Where packets of a stream end now."""
        try:
            trials = kinds.trials(self._of[which], self._bench)
        except Interrupted:
            raise
        except NetorchError as error:
            return [error.what]
        return [line for trial in explain(trials) if trial.verdict != "passed" for line in trial.lines()]


class _Repeated:
    """A check run again and again, each run taken as one packet."""

    def __init__(self, lab: str, check: Check, began: float) -> None:
        self._lab, self._check, self._began = lab, check, began
        self._samples: list[Sample] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="repeated")

    def __enter__(self) -> _Repeated:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def samples(self) -> list[list[Sample]]:
        """One stream."""
        return [list(self._samples)]

    def _run(self) -> None:
        with open_bench(self._lab) as bench:
            bench.patience = _PATIENCE
            while not self._stop.is_set():
                sent = time.monotonic() - self._began
                good = self._holds(bench)
                self._samples.append(Sample(sent, time.monotonic() - self._began if good else None))
                self._stop.wait(INTERVAL)

    def _holds(self, bench: Bench) -> bool:
        bench.forget_names()
        try:
            trials = kinds.trials(self._check, bench)
        except NetorchError:
            return False
        return bool(trials) and all(trial.verdict == "passed" for trial in trials)
