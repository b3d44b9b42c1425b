"""Checks: what a lab file says must hold, proven with real packets.

Owns: what a check sends and what an answer means, what shows that silence means something, the steps of a
scenario, and the test of whole lab files.  Must not: open a socket (``kernel``), or change a lab but by its
own commands.

=============  ====================================================================================
``outcome``    verdicts, trials, results
``bench``      a lab that is up: what names mean to its nodes, and the probes that these can send
``kinds``      each kind of check: its probes, and what answers mean; ``iperf`` for one of them
``control``    a check that expects silence: what shows that there could have been an answer
``run``        again until it holds; where the packet ended, when it does not
``titles``     how a check is called
``scenario``   steps in time; ``commands``: which lab they mean; ``outage``: what a stream of packets tells
``suite``      whole lab files: up, checks, scenario, down; several side by side
``artifacts``  what is kept of a lab whose checks have failed
``junit``      reports of files as JUnit's XML
=============  ====================================================================================
"""

from __future__ import annotations

from netns_orch.checks.artifacts import recording
from netns_orch.checks.bench import Bench, open_bench
from netns_orch.checks.outcome import Result, Trial
from netns_orch.checks.run import run_check, run_checks
from netns_orch.checks.scenario import run_scenario
from netns_orch.checks.suite import Order, Report, run_file, run_files

__all__ = [
    "Bench", "Order", "Report", "Result", "Trial", "open_bench", "recording", "run_check", "run_checks",
    "run_file", "run_files", "run_scenario",
]  # fmt: skip
