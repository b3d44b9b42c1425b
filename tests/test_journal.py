"""journal: what is still known after a run was killed."""

from __future__ import annotations

import json
from typing import Any

from netns_orch.journal import Applied, Intent, Journal
from netns_orch.plan import diff
from netns_orch.resources import HOST, Bridge, Cable, CableEnd, State


class Memory:
    """A store in memory."""

    def __init__(self) -> None:
        self.files: dict[str, str] = {}

    def read_json(self, file: str) -> Any:
        return json.loads(self.files[file]) if file in self.files else None

    def write(self, file: str, text: str) -> None:
        self.files[file] = text

    def append(self, file: str, text: str) -> None:
        self.files[file] = self.files.get(file, "") + text

    def lines(self, file: str) -> list[str]:
        return [line for line in self.files.get(file, "").splitlines(keepends=True) if line.endswith("\n")]

    def unlink(self, file: str) -> None:
        self.files.pop(file, None)


STATE = State(
    [
        Bridge(name="br0", ifname="lab-br0", mac="02:00:00:00:00:01"),
        Cable(
            a=CableEnd(node="red", ifname="eth0", mac="02:00:00:00:00:02"),
            b=CableEnd(node=HOST, ifname="vred", mac="02:00:00:00:00:03", bridge="br0", trunk=(1, 2)),
        ),
    ]
)


def test_an_intent_names_the_links_that_may_stand_without_a_mark() -> None:
    journal = Journal(Memory(), "boot")
    journal.begin("up", diff(STATE, State()), 7)
    links = (("lab-br0", "02:00:00:00:00:01"), ("vred", "02:00:00:00:00:03"))
    assert journal.unfinished() == [Intent("up", 7, links)]
    journal.end()
    assert journal.unfinished() == [] and not journal.speaks()


def test_a_torn_line_is_no_intent() -> None:
    store = Memory()
    Journal(store, "boot").begin("up", diff(STATE, State()), 7)
    store.files["journal.jsonl"] = store.files["journal.jsonl"][:-5]
    assert Journal(store, "boot").unfinished() == []


def test_the_applied_state_comes_back_equal() -> None:
    store = Memory()
    Journal(store, "boot").save(Applied(STATE, 7, {"table": "abc"}))
    back = Journal(store, "boot").applied()
    assert back is not None
    assert dict(back.state) == dict(STATE)
    assert (back.group, back.records) == (7, {"table": "abc"})


def test_after_a_reboot_nothing_is_known() -> None:
    store = Memory()
    journal = Journal(store, "boot")
    journal.save(Applied(STATE, 7))
    journal.begin("up", diff(STATE, State()), 7)
    later = Journal(store, "another boot")
    assert later.applied() is None and later.unfinished() == []


def test_a_damaged_state_is_no_state() -> None:
    store = Memory()
    Journal(store, "boot").save(Applied(STATE, 7))
    store.files["state.json"] = json.dumps(
        json.loads(store.files["state.json"]) | {"applied": [{"kind_of": "x"}]}
    )
    assert Journal(store, "boot").applied() is None
