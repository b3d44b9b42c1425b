"""Files of other tools, known by their shape.

Owns: telling containerlab's, Compose's and munet's files from a lab file.  Must not: read what is in them
(``convert`` does).
"""

from __future__ import annotations

from netns_orch.labfile.nodes import Mapping, Node, Sequence

TITLES = {
    "containerlab": "a containerlab topology",
    "compose": "a Docker Compose file",
    "kathara": "a Kathará lab",
    "munet": "a munet topology",
}
"""The tools by the word that chooses one, and what their files are called."""
_OURS = frozenset(("containers", "bridges", "links"))


def tool_of(root: Node | None) -> str | None:
    """The tool that a file is plainly for; None where it is a lab file, or nobody's."""
    if not isinstance(root, Mapping) or _OURS & set(root.entries):
        return None
    topology, services = (root.entries.get(key, (None, None))[1] for key in ("topology", "services"))
    if isinstance(topology, Mapping) and "nodes" in topology.entries:
        return "munet" if isinstance(topology.entries["nodes"][1], Sequence) else "containerlab"
    return "compose" if isinstance(services, Mapping) and services.entries else None


def hint(file: str) -> str:
    """How a file of another tool becomes a lab file."""
    target = "new.yaml" if file.rpartition("/")[2] == "lab.yaml" else "lab.yaml"
    return f"netorch import {file} -o {target}"
