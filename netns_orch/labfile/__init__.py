"""The lab file: ``load`` makes a ``Topology`` of it, or says all that is wrong with it.

Owns: the format.  YAML with marks and limits (``yaml``, ``nodes``), types (``fields``, ``units``,
``addresses``, ``short``, ``imagename``), keys (``format``, ``network``, ``probes``), expansion
(``variables``, ``expand``), the JSON Schema (``schema``), what a stranger's file may not ask for
(``untrusted``), and whose a file is that is none (``foreign``).  ``model`` is what comes out.
Must not: look at the host, or choose an address.

Nothing is imported here: the functions below fetch their modules when they are called.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from netns_orch.labfile.model import Topology


def load(
    path: str | Path,
    *,
    variables: Mapping[str, str] | None = None,
    environ: Mapping[str, str] | None = None,
    name: str | None = None,
    untrusted: bool = False,
) -> Topology:
    """The lab of the file at ``path``; LabFileError holds every problem.  See ``reader.load``."""
    from netns_orch.labfile import reader

    return reader.load(path, variables=variables, environ=environ, name=name, untrusted=untrusted)


def loads(
    text: str,
    file: str = "lab.yaml",
    directory: str = "/",
    *,
    variables: Mapping[str, str] | None = None,
    environ: Mapping[str, str] | None = None,
    name: str | None = None,
    untrusted: bool = False,
) -> Topology:
    """The lab that ``text`` describes.  See ``reader.loads``."""
    from netns_orch.labfile import reader

    return reader.loads(
        text, file, directory, variables=variables, environ=environ, name=name, untrusted=untrusted
    )
