"""The way of a packet: predicted from a state, and held against what a probe has seen.

Owns: what a kernel would do with one packet, by addresses, cables, routes and rules.  Must not: ask a kernel;
know where a state comes from (a lab file, what was applied, or what is there now).

===========  ===============================================================================
``fabric``   layer 2: who hears a frame that leaves by an interface
``lookup``   layer 3: which way a node sends a packet, by policy rules and routing tables
``filters``  what a container's iptables rules and the host's table do with it
``walk``     hop by hop there, and the answer's way back
``verdict``  where a packet of the real lab is lost, and why
===========  ===============================================================================
"""

from __future__ import annotations

from netns_orch.trace.verdict import Measured, NodeFacts, Verdict, judge
from netns_orch.trace.walk import Hop, Lost, Path, Way, endpoint, nodes_of, predict

__all__ = [
    "Hop",
    "Lost",
    "Measured",
    "NodeFacts",
    "Path",
    "Verdict",
    "Way",
    "endpoint",
    "judge",
    "nodes_of",
    "predict",
]
