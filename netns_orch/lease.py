"""How long a lab is wanted: until a time, or as long as the process that it belongs to.

Owns: what ``--ttl`` and ``--owner-pid`` ask for, as it is written down with the lab, and when it has ended.
Must not: look at a process (``kernel.owners`` does), or remove anything (``collect`` does).

A lab without a lease stays until ``down``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from netns_orch.records import dataclass

Owner = Mapping[str, int]
"""A process that can't be mistaken for another: ``kernel.owners.identify``."""
NO_END = math.inf
"""A time to live that takes an earlier one off."""


@dataclass(frozen=True)
class Lease:
    """Until when (Unix seconds), and for whom; None: not limited so."""

    expires: float | None = None
    owner: Owner | None = None

    def renewed(self, now: float, ttl: float | None, owner: Owner | None) -> Lease:
        """What is asked for anew (``ttl`` in seconds) takes the place of what was; None leaves that alone.

        ``NO_END`` and an empty owner take it off.
        """
        expires = self.expires if ttl is None else None if ttl == NO_END else now + ttl
        return Lease(expires, self.owner if owner is None else owner or None)

    def ended(self, now: float, lives: Callable[[Owner], bool]) -> str | None:
        """Why nobody wants the lab any more; None where it is wanted."""
        if self.expires is not None and self.expires <= now:
            return "its time has passed"
        if self.owner is not None and not lives(self.owner):
            return f"its owner, process {self.owner['pid']}, has ended"
        return None

    def to_json(self) -> dict[str, Any]:
        """As it stands in lab.json."""
        return {"expires": self.expires, "owner": dict(self.owner) if self.owner else None}

    @classmethod
    def from_json(cls, about: Mapping[str, Any]) -> Lease:
        """Out of lab.json."""
        return cls(about.get("expires"), about.get("owner"))
