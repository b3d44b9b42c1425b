"""Artefacts: what is kept of a lab whose checks have failed, so that it can be looked at when it is gone.

Owns: which files, and when.  Must not: change the lab, or fail a test because something can't be written.

=================  ================================================================================
``report.txt``     what failed, and why
``plan.txt``       what the lab was built of
``status.json``    how it differed from its file when the check had failed
``inspect.json``   everything that the kernel said of it
``links.json``     the counters of every interface of every node
``rules/NODE``     iptables and nft rules with their counters
``logs/NODE``      the output of each container's command
``packets.pcapng`` the last packets on every link
=================  ================================================================================
"""

from __future__ import annotations

import json
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from netns_orch import lab as labs
from netns_orch.errors import NetorchError
from netns_orch.plan import diff
from netns_orch.resources import HOST, Container, State

if TYPE_CHECKING:
    from netns_orch.capture import Recorder as PacketRecorder
    from netns_orch.checks.suite import Report
    from netns_orch.kernel.driver import LabKernel
    from netns_orch.labfile.model import Topology

RING = 16 << 20
"""Bytes of packets that are kept."""


class Recorder:
    """Keeps the last packets on every link of a lab that is up, and writes all that tells of the lab.

    ``start``; then ``stop``, and ``write`` while the lab still stands.
    """

    def __init__(self, lab: str) -> None:
        self._lab = lab
        self._packets: PacketRecorder | None = None
        self.notes: list[str] = []
        """What could not be recorded or written, and why."""

    def start(self) -> Recorder:
        """Begin to record: once it returns, no packet is missed."""
        from netns_orch.capture import Capture
        from netns_orch.capture import Recorder as PacketRecorder

        with self._told("no packets are recorded"):
            packets = PacketRecorder(Capture(self._lab), RING)
            packets.start()
            self._packets = packets
        return self

    def stop(self) -> None:
        """Record no more."""
        if self._packets is not None:
            with self._told("packets are missing"):
                self._packets.stop()

    def write(self, directory: Path, report: Sequence[str] = ()) -> None:
        """Write the files below ``directory``, which is made; ``report`` are the lines of report.txt."""
        with self._told("what the lab was is not kept"):  # its scenario may have taken it down
            kernel, applied = labs.known(self._lab)
            try:
                for path, text in _parts(self._lab, kernel, applied.state).items():
                    self._write(directory / path, text)
            finally:
                kernel.close()
        if report:
            self._write(directory / "report.txt", lambda: "\n".join(report))
        if self._packets is not None:
            with self._told("packets.pcapng"):
                directory.mkdir(parents=True, exist_ok=True)
                with (directory / "packets.pcapng").open("wb") as file:
                    self._packets.save(file)

    def _write(self, path: Path, text: Callable[[], str]) -> None:
        with self._told(path.name):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text() + "\n", encoding="utf-8", errors="backslashreplace")

    @contextmanager
    def _told(self, what: str) -> Iterator[None]:
        """What can't be kept is told, and keeps nothing else from being kept."""
        try:
            yield
        except (NetorchError, OSError) as error:
            self.notes.append(f"{what}: {getattr(error, 'what', error)}")


def recording(lab: str) -> Generator[None, Path | None, None]:
    """Record until a directory is sent, or None; there all is written, as far as it can be."""
    recorder = Recorder(lab).start()
    directory = None
    try:
        directory = yield
    finally:
        recorder.stop()
        if directory is not None:
            recorder.write(directory)


@contextmanager
def kept(directory: str | None, topology: Topology, report: Report) -> Iterator[None]:
    """Record while the block runs; where a result of it is bad, write all below ``directory``."""
    if directory is None:
        yield
        return
    recorder = Recorder(topology.name).start()
    try:
        yield
    finally:
        recorder.stop()
        if report.state != "passed" or not all(result.ok for result in report.results):
            recorder.write(Path(directory), list(_report_lines(report)))
            report.notes.append(f"artefacts: {directory}")
        report.notes += recorder.notes


def _parts(lab: str, kernel: LabKernel, state: State) -> dict[str, Callable[[], str]]:
    """What to write, by path."""
    nodes = [container.name for container in state.of(Container)]
    parts: dict[str, Callable[[], str]] = {
        "plan.txt": lambda: "\n".join(diff(state, State()).lines()),
        "status.json": lambda: _json(labs.status(lab)),
        "inspect.json": lambda: _json(labs.inspect(lab)),
        "links.json": lambda: _json(_links(kernel, [*nodes, HOST])),
    }
    for node in nodes:
        parts[f"logs/{node}.log"] = partial(_log, lab, node)
    for node in (*nodes, HOST):
        parts[f"rules/{node}.txt"] = partial(_rules, kernel, node)
    return parts


def _report_lines(report: Report) -> Iterator[str]:
    yield f"{report.file}: {report.state}"
    yield from report.errors
    for result in report.results:
        yield f"{result.verdict}: {result.name} ({result.seconds:.2f} s)"
        yield from (f"    {line}" for line in result.lines)


def _json(value: object) -> str:
    return json.dumps(value, indent=2, default=str)


def _links(kernel: LabKernel, nodes: Sequence[str]) -> dict[str, Any]:
    """The counters of every interface, by node."""
    found: dict[str, Any] = {}
    for node in nodes:
        try:
            found[node] = kernel.traffic(node)
        except NetorchError as error:
            found[node] = error.what
    return found


def _rules(kernel: LabKernel, node: str) -> str:
    from netns_orch.kernel import probe

    return kernel.inside(node, probe.rules)


def _log(lab: str, node: str) -> str:
    return b"".join(labs.logs(lab, node)).decode(errors="replace")
