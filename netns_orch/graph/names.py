"""Names and MACs that are derived, never drawn: the same file gives the same ones on every run.

Owns: interface names inside containers, bridge names on the host, MAC addresses, and what the kernel
takes for a name.  Must not: know of addresses.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable

from netns_orch.errors import NetorchError, Where
from netns_orch.labfile.model import Marked

IFNAME_BYTES = 15
"""IFNAMSIZ less the final zero byte."""
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")


class Problems:
    """Errors and warnings as they are found; all of them are reported, in file order."""

    def __init__(self) -> None:
        self.errors: list[NetorchError] = []
        self.warnings: list[NetorchError] = []

    def error(self, what: str, where: Where | None = None, hint: str | None = None) -> None:
        """Note an error."""
        self.errors.append(NetorchError(what, where=where, hint=hint))

    def warn(self, what: str, where: Where | None = None, hint: str | None = None) -> None:
        """Note a warning."""
        self.warnings.append(NetorchError(what, where=where, hint=hint))


def file_order(problems: Iterable[NetorchError]) -> list[NetorchError]:
    """Sorted by their place in the file; those without a place come last, as found."""
    return sorted(problems, key=lambda p: (p.where is None, p.where[1:3] if p.where else ()))


def place(marked: Marked, *keys: str) -> Where | None:
    """The place of the first of these keys that stands in the file, else of the object."""
    return next((marked.marks[key] for key in keys if key in marked.marks), marked.where)


def nearest(name: str, known: Iterable[str]) -> str | None:
    """A hint with the nearest valid name, or with the names there are."""
    import difflib

    names = list(known)
    close = difflib.get_close_matches(name, names, n=1)
    if close:
        return f"did you mean {close[0]}?"
    return f"there is: {', '.join(names[:12])}{', ...' if len(names) > 12 else ''}" if names else None


def ifname_fault(name: str) -> str | None:
    """Why the kernel (dev_valid_name) or netorch refuses an interface's name; None where it is right."""
    size = len(name.encode("utf-8", "surrogatepass"))
    if size > IFNAME_BYTES:
        return f"is {size} bytes long; an interface's name has at most {IFNAME_BYTES}"
    if name in ("", ".", ".."):
        return "is no name that an interface can have"
    if name in ("lo", "all", "default"):
        return "is taken in every network namespace"
    bad = next((c for c in name if c in "/:%" or c.isspace() or not c.isprintable()), None)
    return f"has {bad!r} in it, which an interface's name can't have" if bad else None


def short_hash(*parts: str, length: int) -> str:
    """Lower-case letters and digits (base 32) that depend on all the parts; at most 12."""
    import base64

    raw = hashlib.blake2b("\0".join(parts).encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return base64.b32encode(raw).decode().lower()[:length]


class MacMaker:
    """Locally administered unicast MACs from names; none twice in a lab."""

    def __init__(self, lab: str, taken: Iterable[str]) -> None:
        self._seed = hashlib.blake2b(lab.encode("utf-8", "surrogatepass"), digest_size=5)
        self._taken = set(taken)

    def make(self, name: str) -> str:
        """The MAC of the interface of this name (``red:eth0``)."""
        seed = self._seed.copy()
        while True:
            seed.update(f"\0{name}".encode("utf-8", "surrogatepass"))
            mac = "02:" + seed.digest().hex(":")
            if mac not in self._taken:
                self._taken.add(mac)
                return mac


def bridge_ifname(lab: str, bridge: str, taken: set[str]) -> str:
    """``<lab>-<bridge>``, shortened with a hash where it is too long or taken."""
    name = f"{lab}-{bridge}"
    salt = 0
    while len(name) > IFNAME_BYTES or name in taken:
        name = f"{lab[:5]}-{bridge[:4]}{short_hash(lab, bridge, str(salt), length=5)}"
        salt += 1
    taken.add(name)
    return name
