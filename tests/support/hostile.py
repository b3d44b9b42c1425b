"""Lab files from somebody who means harm: mutations of valid and invalid ones, and bombs; and what must hold.

``scripts/fuzz`` runs as many as wanted and prints the figures; the tests run a sample.
"""

from __future__ import annotations

import random

from netns_orch import lab, labfile
from netns_orch.errors import LabFileError
from support.runner import ROOT

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


def _aliases(levels: int) -> str:
    lines = ["x-0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"x-{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, levels)]
    return "\n".join(lines)


BOMBS = [
    ("[" * 100_000, "nested more than 64 levels"),
    ("{a: " * 100_000, "nested more than 64 levels"),
    ("- " * 100_000, "nested more than 64 levels"),
    ("? " * 100_000, "a key must be text"),
    (_aliases(9), "too large"),
    (f"{_aliases(5)}\ncontainers: {{red: {{command: *a4}}}}", "too large"),
    ("x-a: &a {b: [*a]}", "stands inside of what it names"),
    ("links: [" + "a, " * 210_000 + "]", "more than 200000 values"),
    ("containers: {red: {routes: [" + "10.0.0.0/8 via 10.0.0.1," * 8000 + "]}}", "is not on link"),
    ("containers: {" + ", ".join(f"h{n}x: {{scale: 10000}}" for n in range(3)) + "}", "20000 containers"),
    (
        "containers: {h: {scale: 999}, g: {scale: 999}}\nlinks: [{endpoints: [h, g], mesh: true}]",
        "50000 links",
    ),
]
"""Small or well-formed files that would cost much, and what the error says."""


def check(text: str) -> bool:
    """Read and check it as ``validate`` does; True if it is valid, else each problem has a place in it."""
    try:
        topology = labfile.loads(text, "lab.yaml", str(ROOT / "tests/cases/labfile-valid"), environ={})
        lab.validate(topology, host=False)
    except LabFileError as error:
        lines = text.count("\n") + text.count("\r") + text.count("\x85") + text.count("\u2028") + 2
        for problem in error.problems:
            assert problem.where is not None, str(error)
            assert 1 <= problem.where.line <= lines
            assert problem.where.column >= 1
        assert str(error).startswith("error: ")
        return False
    return True


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
