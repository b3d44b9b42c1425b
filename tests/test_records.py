"""Records mean what the standard library's data classes mean: each case is tried on both."""

from __future__ import annotations

import copy
import dataclasses
import pickle
import subprocess
import sys
from types import ModuleType
from typing import Any, ClassVar

import pytest

from netns_orch import records


@records.dataclass(frozen=True, slots=True, kw_only=True)
class Pickled:
    a: int


@pytest.fixture(params=[records, dataclasses], ids=["records", "standard"])
def made(request: pytest.FixtureRequest) -> ModuleType:
    module: ModuleType = request.param
    return module


def _classes(m: Any) -> tuple[Any, Any, Any]:
    @m.dataclass
    class Plain:
        a: int
        b: list[int] = m.field(default_factory=list)
        c: str = m.field(default="c", compare=False, repr=False)
        KIND: ClassVar[str] = "k"

        def __post_init__(self) -> None:
            self.b.append(self.a)

    @m.dataclass(frozen=True, slots=True, kw_only=True)
    class Base:
        where: str | None = m.field(default=None, compare=False, repr=False)

    @m.dataclass(frozen=True, slots=True, kw_only=True)
    class Derived(Base):
        KIND = "derived"
        name: str
        size: int = 3

    return Plain, Base, Derived


def test_objects_are_made_as_the_standard_library_makes_them(made: ModuleType) -> None:
    plain, _, derived = _classes(made)
    assert (plain(1).b, plain(2, [5]).b, plain(a=1, c="x").c, plain.KIND) == ([1], [5, 2], "x", "k")
    assert (derived(name="n").size, derived(name="n").where, derived.KIND) == (3, None, "derived")
    for wrong in (lambda: plain(), lambda: plain(1, 2, 3, 4), lambda: plain(1, d=2), lambda: derived("n")):
        with pytest.raises(TypeError):
            wrong()


def test_values_compare_hash_and_read_alike(made: ModuleType) -> None:
    plain, base, derived = _classes(made)
    assert plain(1) == plain(1, c="other") and plain(1) != plain(2) and plain(1) != 1
    assert derived(name="n", where="here") == derived(name="n") and base() != derived(name="n")
    assert hash(derived(name="n", where="here")) == hash(derived(name="n"))
    assert len({derived(name="n"), derived(name="n"), derived(name="m")}) == 2
    with pytest.raises(TypeError):
        hash(plain(1))
    assert repr(plain(1)).endswith("Plain(a=1, b=[1])")
    assert repr(derived(name="n")).endswith("Derived(name='n', size=3)")


def test_what_is_frozen_and_what_has_slots(made: ModuleType) -> None:
    _, _, derived = _classes(made)
    item = derived(name="n")
    for change in (lambda: setattr(item, "name", "x"), lambda: delattr(item, "name")):
        with pytest.raises(AttributeError):
            change()
    assert not hasattr(item, "__dict__")
    assert item.name == "n"


def test_fields_and_replace(made: ModuleType) -> None:
    plain, _, derived = _classes(made)
    assert [f.name for f in made.fields(derived(name="n"))] == ["where", "name", "size"]
    assert [f.name for f in made.fields(plain) if f.compare] == ["a", "b"]
    assert made.replace(derived(name="n", where="w"), size=4) == derived(name="n", size=4)
    with pytest.raises(TypeError):
        made.replace(derived(name="n"), nonsense=1)


def test_the_standard_librarys_functions_take_them(made: ModuleType) -> None:
    _, base, derived = _classes(made)
    assert dataclasses.is_dataclass(derived)
    assert dataclasses.asdict(derived(name="n")) == {"where": None, "name": "n", "size": 3}
    assert dataclasses.replace(derived(name="n"), name="m").name == "m"
    assert dataclasses.asdict(base(where="w")) == {"where": "w"}
    assert copy.copy(derived(name="n")) == derived(name="n")


def test_they_travel() -> None:
    assert pickle.loads(pickle.dumps(Pickled(a=3))) == Pickled(a=3)


def test_they_are_light() -> None:
    code = "import sys; sys.path.insert(0, sys.argv[1]); import netns_orch.records as r; print(*sys.modules)"
    root = str(records.__file__).removesuffix("/netns_orch/records.py")
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", code, root], capture_output=True, text=True, check=True
    )
    assert not {"dataclasses", "inspect", "typing", "re"} & set(done.stdout.split())
