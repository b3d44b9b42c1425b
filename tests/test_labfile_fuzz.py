"""Whatever stands in a lab file: a topology or a LabFileError with places, never anything else."""

from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.hostile import SEEDS, TOKENS, check, mutate
from support.runner import ROOT

from netns_orch import labfile
from netns_orch.errors import LabFileError
from netns_orch.labfile.format import SCALED

FUZZ = settings(
    derandomize=True, database=None, deadline=None, suppress_health_check=list(HealthCheck), max_examples=150
)


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


def test_the_script_that_prints_the_figures() -> None:
    command = [sys.executable, ROOT / "scripts/fuzz", "500", "--seed", "7"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert "500 mutated files: " in done.stdout
    assert " 0 bad;" in done.stdout, done.stderr
