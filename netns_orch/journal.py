"""The journal: what the kernel cannot tell.

Owns: the intent of a run before its first change (so that an object made but not yet marked is still found),
the state that was applied last, and records that the kernel keeps nowhere (fingerprints of rule sets,
previous values).  Must not: touch the kernel; files are handed in as a ``Store``.

It lies in the lab's directory, in /run, with the boot id: after a reboot it speaks of nothing that exists.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any, Protocol

from netns_orch.plan import Plan
from netns_orch.records import dataclass, field
from netns_orch.resources import HOST, Bridge, Cable, State, dumps, loads


class Store(Protocol):
    """Where the files are: ``kernel.rundir.LabDirectory``, or a dictionary in tests."""

    def read_json(self, file: str) -> Any: ...
    def write(self, file: str, text: str) -> None: ...
    def append(self, file: str, text: str) -> None: ...
    def lines(self, file: str) -> list[str]: ...
    def unlink(self, file: str) -> None: ...


@dataclass(frozen=True)
class Intent:
    """A run that has begun: what it does, and the host's links it is going to make (name, MAC)."""

    doing: str
    group: int
    links: tuple[tuple[str, str], ...] = ()


@dataclass
class Applied:
    """What was applied last: the desired state, the link group, and the kernel rooms' own records."""

    state: State = field(default_factory=State)
    group: int = 0
    records: dict[str, Any] = field(default_factory=dict)


class Journal:
    """One lab's journal."""

    def __init__(self, store: Store, boot_id: str, part: str = "") -> None:
        """``part`` tells apart the journals of one lab's parts."""
        self._store = store
        self._boot_id = boot_id
        self._journal, self._state = f"{part}journal.jsonl", f"{part}state.json"

    def begin(self, doing: str, plan: Plan, group: int) -> None:
        """Write the intent of a run; before the first change."""
        intent = {"boot_id": self._boot_id, "doing": doing, "group": group, "links": list(_host_links(plan))}
        self._store.append(self._journal, json.dumps(intent) + "\n")

    def end(self) -> None:
        """The run is over, done or rolled back: nothing unfinished is left."""
        self._store.unlink(self._journal)

    def forget(self) -> None:
        """The lab is gone: neither a run nor a state is left."""
        self._store.unlink(self._state)
        self.end()

    def speaks(self) -> bool:
        """Whether a state or an unfinished run is written down."""
        return bool(self._store.lines(self._journal)) or self._store.read_json(self._state) is not None

    def unfinished(self) -> list[Intent]:
        """The runs of this boot that began and never ended."""
        intents = []
        for line in self._store.lines(self._journal):
            entry = _parse(line)
            if entry.get("boot_id") == self._boot_id:
                links = tuple((name, mac) for name, mac in entry["links"])
                intents.append(Intent(entry["doing"], entry["group"], links))
        return intents

    def of_earlier_boot(self) -> bool:
        """Whether all that is written down speaks of things that went with an earlier boot."""
        state = self._store.read_json(self._state)
        boots = {_parse(line).get("boot_id") for line in self._store.lines(self._journal)}
        boots |= {state.get("boot_id")} if isinstance(state, dict) else set()
        return bool(boots) and self._boot_id not in boots

    def applied(self, *, of_any_boot: bool = False) -> Applied | None:
        """What was applied last in this boot; None where there is nothing, or the file is damaged."""
        value = self._store.read_json(self._state)
        if not isinstance(value, dict) or not (of_any_boot or value.get("boot_id") == self._boot_id):
            return None
        try:
            return Applied(State(loads(value["applied"])), value["group"], value["records"])
        except (KeyError, TypeError, ValueError):
            return None

    def save(self, applied: Applied) -> None:
        """Keep what was applied."""
        head = json.dumps({"boot_id": self._boot_id, "group": applied.group, "records": applied.records})
        self._store.write(self._state, f'{head[:-1]},"applied":{dumps(applied.state.values())}}}')


def _host_links(plan: Plan) -> Iterable[tuple[str, str]]:
    for change in plan.changes:
        match change.after:
            case Bridge(ifname=ifname, mac=mac):
                yield ifname, mac
            case Cable(a=a, b=b):
                yield from ((end.ifname, end.mac) for end in (a, b) if end.node == HOST)


def _parse(line: str) -> dict[str, Any]:
    try:
        return dict(json.loads(line))
    except ValueError:
        return {}
