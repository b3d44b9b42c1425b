"""The JSON Schema of the lab file, made from the same declarations that parse it.

Owns: its frame.
Must not: say anything about a key that ``format`` does not.
"""

from __future__ import annotations

from typing import Any

from netns_orch.labfile.format import TOP


def json_schema() -> dict[str, Any]:
    """The JSON Schema (draft 2020-12) of a lab file, for editors and other checkers."""
    defs: dict[str, Any] = {}
    TOP.schema(defs)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "netorch lab",
        **defs.pop(TOP.title),
        "$defs": dict(sorted(defs.items())),
    }
