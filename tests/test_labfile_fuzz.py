"""Whatever stands in a lab file: a topology or a LabFileError with places, never anything else."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.runner import ROOT

from netns_orch import labfile
from netns_orch.errors import LabFileError
from netns_orch.labfile.format import SCALED

EVERYTHING = (ROOT / "tests/cases/labfile-valid/everything.yaml").read_text(encoding="utf-8")
SEEDS = [EVERYTHING.replace("scale: 100", "scale: 3")]
SEEDS += [path.read_text(encoding="utf-8") for path in sorted((ROOT / "topologies").glob("*.yaml"))]
SEEDS += [path.read_text(encoding="utf-8") for path in sorted(ROOT.glob("tests/cases/labfile/*/lab.yaml"))]
TOKENS = [
    *"[]{},:&*!|>'\"%@`#-?$\\\t\n\r \x00\x07\ud7ff\ue000",
    *("é", "\U0001f600", "\u2028", "\x85", "\ufeff"),
    *("null", "~", "true", "no", "010", "1e3", "10:10", "0x1", ".inf", "-1", "99999999999999999999999"),
    *(
        "${X}",
        "${X:-}",
        "$$",
        "${",
        "{n}",
        "{{",
        "}}",
        "{name}",
        "<<: *web",
        "&a ",
        "*a",
        "!!str ",
        "!!binary ",
    ),
    *("10.0.0.1/24", "fd00::1/64", "host", "host:eth0", "h", "h1", "red", "none", "auto", "all", "- ", ": "),
    *(
        "---\n",
        "...\n",
        "x-a: ",
        "scale: 3",
        "mesh: true",
        "container:red",
        "%d",
        "..",
        "/",
        "\\x00",
        '"\\0"',
    ),
]
FUZZ = settings(
    derandomize=True, database=None, deadline=None, suppress_health_check=list(HealthCheck), max_examples=150
)


def check(text: str) -> None:
    """Read it; every problem must have a place in the text."""
    try:
        labfile.loads(text, "lab.yaml", str(ROOT / "tests/cases/labfile-valid"), environ={})
    except LabFileError as error:
        lines = text.count("\n") + text.count("\r") + text.count("\x85") + text.count("\u2028") + 2
        for problem in error.problems:
            assert problem.where is not None
            assert 1 <= problem.where.line <= lines
            assert problem.where.column >= 1
        assert str(error).startswith("error: ")


def mutate(text: str, rng: random.Random) -> str:
    """A few random cuts, copies and insertions."""
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(text) + 1)
        what = rng.randrange(5)
        if what == 0:
            text = text[:at] + rng.choice(TOKENS) + text[at:]
        elif what == 1:
            text = text[:at] + text[at + rng.randint(1, 12) :]
        elif what == 2:
            text = text[:at] + rng.choice(TOKENS) + text[at + rng.randint(1, 12) :]
        elif what == 3:
            lines = text.split("\n")
            lines.insert(rng.randrange(len(lines)), rng.choice(lines))
            text = "\n".join(lines)
        else:
            lines = text.split("\n")
            row = rng.randrange(len(lines))
            lines[row] = " " * rng.randrange(6) + lines[row].lstrip()
            text = "\n".join(lines)
    return text


@FUZZ
@given(st.integers(0, 2**32), st.sampled_from(SEEDS))
def test_mutated_files(seed: int, text: str) -> None:
    check(mutate(text, random.Random(seed)))


@FUZZ
@given(st.lists(st.sampled_from(TOKENS), max_size=60))
def test_tokens_in_any_order(tokens: list[str]) -> None:
    check("".join(tokens))


VALUES = st.recursive(
    st.sampled_from([token for token in TOKENS if token.isprintable()]).map(lambda token: repr(token)),
    lambda inner: (
        st.lists(inner, max_size=4).map(lambda items: f"[{', '.join(items)}]")
        | st.dictionaries(
            st.sampled_from(["red", "eth0", "n", "to", "address", "exec"]), inner, max_size=3
        ).map(lambda items: "{" + ", ".join(f"{key}: {value}" for key, value in items.items()) + "}")
    ),
    max_leaves=6,
)
KEYS = sorted(SCALED.keys)


@FUZZ
@given(st.sampled_from(KEYS), VALUES)
def test_any_value_at_any_key_of_a_container(key: str, value: str) -> None:
    check(f"containers:\n  red:\n    {key}: {value}\n")


@FUZZ
@given(st.sampled_from(["bridges", "links", "host", "checks", "scenario", "defaults", "addressing"]), VALUES)
def test_any_value_at_any_key_of_the_file(key: str, value: str) -> None:
    check(f"{key}: {value}\ncontainers:\n  red:\n  h: {{scale: 2}}\n")


@pytest.mark.parametrize("text", SEEDS[:1])
def test_every_prefix_of_a_valid_file(text: str) -> None:
    lines = text.split("\n")
    for end in range(1, len(lines), 5):
        check("\n".join(lines[:end]))


def test_bytes_that_are_no_text(tmp_path: Path) -> None:
    rng = random.Random(1)
    path = tmp_path / "lab.yaml"
    for _ in range(50):
        path.write_bytes(rng.randbytes(rng.randint(1, 200)))
        with pytest.raises(LabFileError):
            labfile.load(path, environ={})
