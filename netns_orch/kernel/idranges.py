"""Which ids of the host the users of a container with a user namespace are.

Owns: the choice of a range, one for each container, so that no two of them own each other's files.
Must not: make a namespace.

Ranges lie in 0x70000000 to 0x7ffdffff, which no distribution gives out (systemd's table "Users, groups,
UIDs and GIDs" calls it unused; useradd(8) takes its subordinate ids from far below).  One that /etc/subuid or
/etc/subgid gives to somebody all the same is passed over.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator
from pathlib import Path

from netns_orch.kernel import realm
from netns_orch.kernel.rundir import RUN

SIZE = 65536
"""Ids of a container: 0 to 65535, as a system of its own has them."""
FIRST, LAST = 0x7000_0000, 0x7FFD_FFFF
_COUNT = (LAST + 1 - FIRST) // SIZE
_GIVEN_OUT = ("/etc/subuid", "/etc/subgid")


def choose(directory: Path) -> int:
    """The first id of the container whose directory this is: always the same one, unless that is taken.

    In a realm it is 0: a container has the ids that the realm has, of which none is the host's root.
    """
    if realm.inside():
        return 0
    taken = [*_of_containers(directory), *_given_out()]
    start = zlib.crc32(str(directory).encode())
    for step in range(_COUNT):
        first = FIRST + (start + step) % _COUNT * SIZE
        if not any(first < end and begin < first + SIZE for begin, end in taken):
            return first
    return FIRST + start % _COUNT * SIZE


def _of_containers(own: Path) -> Iterator[tuple[int, int]]:
    """The ranges of the containers of every lab on this machine."""
    for path in (*Path(RUN).glob("*/c/*/container.json"), *own.parent.glob("*/container.json")):
        if path.parent == own:
            continue
        try:
            first = json.loads(path.read_bytes()).get("first_id")
        except (OSError, ValueError):
            continue  # it is being made or removed
        if first is not None:
            yield first, first + SIZE


def _given_out() -> Iterator[tuple[int, int]]:
    """The ranges of subuid(5) and subgid(5)."""
    for path in _GIVEN_OUT:
        try:
            lines = Path(path).read_text("utf-8", "replace").splitlines()
        except OSError:
            continue
        for line in lines:
            fields = line.split(":")
            if len(fields) == 3 and fields[1].isdecimal() and fields[2].isdecimal():
                yield int(fields[1]), int(fields[1]) + int(fields[2])
