"""netorch for Python: labs built in code or from a file, brought up, used and taken down.

Owns: what a program sees of netorch; ``import netorch`` gives the same names.  Must not: know how a lab is
built (``lab``), checked (``checks``) or shown (``cli``).

    import netorch

    office = netorch.Topology("office")
    office.bridge("br0", "10.0.0.1/24")
    office.container("red")
    office.container("blue", command="python3 -m http.server 80")
    office.link("red", "br0")
    office.link("blue", "br0", rate="10mbit")

    with netorch.up(office, private=True) as lab:
        lab["red"].check(["ping", "-c1", "blue"])
        lab.link("blue", "br0").down()
        assert not lab.reach("red", "blue")
"""

from __future__ import annotations

from netns_orch.api.running import Lab, Link, Node, up
from netns_orch.api.topology import End, Topology
from netns_orch.errors import (
    CommandFailed,
    KernelError,
    LabFileError,
    LockHeld,
    MissingFeature,
    NetorchError,
    PermissionNeeded,
    UsageError,
)

__all__ = [
    "CommandFailed",
    "End",
    "KernelError",
    "Lab",
    "LabFileError",
    "Link",
    "LockHeld",
    "MissingFeature",
    "NetorchError",
    "Node",
    "PermissionNeeded",
    "Topology",
    "UsageError",
    "up",
]
