"""What explains a lab: its graph, the path of a packet, the script that would build it by hand.

Owns: where each of them gets its facts from (the file, or the lab that is up).  Must not: change anything in
the kernel; print.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from netns_orch import lab as labs
from netns_orch.errors import NetorchError, UsageError
from netns_orch.records import dataclass
from netns_orch.resources import Qdisc, State

if TYPE_CHECKING:
    from netns_orch.kernel.driver import LabKernel
    from netns_orch.labfile.model import Topology
    from netns_orch.trace import Lost, NodeFacts, Path, Verdict

_MOST_DELAY = 2.0
GRAPH_FORMATS = ("text", "mermaid", "dot", "svg", "html")


def graph(topology: Topology, format: str, *, ascii_only: bool = False) -> str:
    """The lab of a file, drawn: text, mermaid, dot, svg or html."""
    from netns_orch import draw
    from netns_orch.graph import wire

    return draw.draw(wire(topology), format, ascii_only=ascii_only)


def graph_json(topology: Topology) -> dict[str, Any]:
    """What is drawn, as data: figures, wires, networks."""
    from netns_orch import draw
    from netns_orch.graph import wire

    return draw.to_json(draw.scene(wire(topology)))


# -- path ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class PathReport:
    """The way of a packet, as predicted, and as measured where that was asked for."""

    lab: str
    path: Path
    verdict: Verdict | None = None

    @property
    def arrives(self) -> bool:
        """Whether a packet and its answer arrive; measured, where that was done."""
        return self.path.lost is None if self.verdict is None else self.verdict.reached

    def to_json(self) -> dict[str, Any]:
        """The report as data."""
        measured = self.verdict.to_json() if self.verdict else None
        return {"lab": self.lab, "arrives": self.arrives, **self.path.to_json(), "measured": measured}


def path(
    lab: str, source: str, destination: str, *, family: int | None = None, probe: bool = False
) -> PathReport:
    """The way from one node or address to another in a lab that is up; ``probe`` measures it, too."""
    kernel, applied = labs.known(lab)
    question = _question(applied.state, source, destination, family)
    predicted = question.predict(applied.state)
    if not probe:
        return PathReport(lab, predicted)
    return PathReport(lab, predicted, _measure(kernel, applied.state, question, predicted))


def lost(lab: str, source: str, address: str, send: Callable[[str], None] | None = None) -> Lost | None:
    """Where a packet from a node to an address is lost in a lab that is up; None where nothing is found.

    ``send`` sends to the address, in the place of pings, what rules on the way are to count: it is what got
    no answer, although pings may.
    """
    kernel, applied = labs.known(lab)
    try:
        question = _question(applied.state, source, address, None)
        predicted = question.predict(applied.state)
        return _measure(kernel, applied.state, question, predicted, send).lost
    finally:
        kernel.close()


def path_of_file(
    topology: Topology, source: str, destination: str, *, family: int | None = None
) -> PathReport:
    """The way that a packet would take in the lab of a file."""
    from netns_orch.graph import wire
    from netns_orch.resolve import resolve

    state = resolve(wire(topology), id="")
    return PathReport(topology.name, _question(state, source, destination, family).predict(state))


class _Question(NamedTuple):
    """From which node to which address; ``src`` where the packet is to have that source."""

    node: str
    src: str | None
    dst: str

    def predict(self, state: State, prefer: Collection[str] = ()) -> Path:
        """The answer that a state gives; among equal ways by nodes to ``prefer``."""
        from netns_orch import trace

        return trace.predict(state, self.node, self.dst, self.src, prefer)


def _question(state: State, source: str, destination: str, family: int | None) -> _Question:
    from netns_orch import trace

    node, address = trace.endpoint(state, source, family=family)
    if node is None:
        raise UsageError(f"{source} is no address of the lab", hint="a packet starts at one of its nodes")
    _, target = trace.endpoint(state, destination, seen_from=node, family=family)
    return _Question(node, address if address == source else None, target)


def _measure(
    kernel: LabKernel,
    applied: State,
    question: _Question,
    predicted: Path,
    send: Callable[[str], None] | None = None,
) -> Verdict:
    """Probe, and hold it against what the file, and what the kernel's own state predicts.

    With ``send``, answers to pings don't count: it is something else that has got none.
    """
    from netns_orch import trace
    from netns_orch.kernel import outside, probe, realm

    node, src, dst = question
    answers = kernel.inside(node, probe.trace, src, dst, _delay(applied))
    observed = kernel.observe(applied, applied)
    owners = {a.address: trace.endpoint(observed, a.address)[0] for a in answers if a.address}
    heard = frozenset(owner for owner in owners.values() if owner)
    predicted, found = question.predict(applied, heard), question.predict(observed, heard)
    if send is not None:
        answers = [answer for answer in answers if answer.kind != "reply"]
    facts = {}
    if not any(answer.kind == "reply" for answer in answers):
        ways = (predicted.there, predicted.back, found.there, found.back)
        facts = _facts(kernel, question, trace.nodes_of(*ways), send)
    verdict = trace.judge(predicted, found, [trace.Measured(*answer) for answer in answers], owners, facts)
    lost = verdict.lost
    if lost and lost.kind == "unknown" and found.there.end == "outside" and send is None and realm.inside():
        verdict.lost = lost._replace(hint=outside.why_silent() or "")
    return verdict


def _delay(state: State) -> float:
    """Seconds that an answer may take longer because of the lab's impairments, at most."""
    delays = ((qdisc.delay or 0) + (qdisc.jitter or 0) for qdisc in state.of(Qdisc))
    return min(_MOST_DELAY, sum(delays))


def _facts(
    kernel: LabKernel,
    question: _Question,
    nodes: Sequence[str],
    send: Callable[[str], None] | None = None,
) -> dict[str, tuple[NodeFacts, NodeFacts]]:
    """What the nodes on the way counted while some packets were sent, and whom they did not find."""
    from netns_orch.kernel import probe

    family = 6 if ":" in question.dst else 4
    before = {node: _look(kernel, node, family) for node in nodes}
    if send is not None:
        send(question.dst)
    else:
        kernel.inside(question.node, probe.burst, question.src, question.dst)
    return {node: (facts, _look(kernel, node, family)) for node, facts in before.items()}


def _look(kernel: LabKernel, node: str, family: int) -> NodeFacts:
    from netns_orch import trace
    from netns_orch.kernel import probe

    facts = kernel.inside(node, probe.facts, family)
    return trace.NodeFacts(facts.dropped, facts.neighbours)


# -- script --------------------------------------------------------------------------------------


def script(topology: Topology) -> tuple[str, list[NetorchError]]:
    """The shell script that builds the lab of a file by hand, from nothing, and takes it down.

    With it what this host lacks: there the script can be read, and run elsewhere.
    """
    from netns_orch import plan, script
    from netns_orch.kernel import hosttable
    from netns_orch.resources import HostTable, PublishedPort

    for container in topology.containers.values():
        if container.image and not container.rootfs.layers:
            what = f"the image {container.image} is not here: the script takes its layers from where they lie"
            hint = "`netorch up` fetches it"
            raise NetorchError(what, where=container.mark("image"), hint=hint)
    desired, lacking = labs.desired(topology)
    tables = desired.of(HostTable)
    ports = desired.of(PublishedPort)
    commands = hosttable.commands(tables[0], topology.name, ports=ports) if tables else []
    private = topology.netns == "private"
    return script.render(topology.name, plan.diff(desired, State()), commands, private=private), lacking
