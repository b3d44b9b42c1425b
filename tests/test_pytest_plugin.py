"""The pytest plugin: a run of pytest in a run of pytest, on the real kernel, private and side by side."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from support.runner import ROOT, SECONDS

ROOTS = pytest.mark.root_only("tests/test_rootless.py runs pytest with the plugin as an ordinary user")

LAB = """\
bridges: {br0: 10.0.0.1/24}
containers: {red: , blue: }
links:
  - [red, br0]
  - [blue, br0]
checks:
  - ping: {from: red, to: blue}
    tags: [quick]
  - {exec: {in: red, run: "test ${FAIL:-0} = 0"}, name: it was not asked to fail}
scenario:
  - link red br0 down
  - {ping: {from: red, to: blue, expect: fail}}
"""
CODE = """\
import os

import netorch
import pytest

pytestmark = pytest.mark.netorch("lab.yaml")
SEEN = []

def test_fresh(netorch_lab, tmp_path):
    (tmp_path / "in").write_text("from the host")
    assert netorch_lab["red"].check(["cat", str(tmp_path / "in")]) == "from the host"
    netorch_lab["red"].check(f"echo from red > {tmp_path}/out")
    assert (tmp_path / "out").read_text() == "from red\\n"
    assert netorch_lab.reach("red", "blue")
    netorch_lab.link("red", "br0").down()
    assert not netorch_lab.reach("red", "blue")
    SEEN.append(netorch_lab.name)

def test_fresh_again(netorch_lab):
    assert netorch_lab.reach("red", "blue", within="10s")
    with netorch_lab["blue"].socket() as server:
        server.bind(("10.0.0.3", 7))
        server.listen()
        assert netorch_lab["red"].run("exec 3<>/dev/tcp/10.0.0.3/7").code in (0, 2)
    SEEN.append(netorch_lab.name)

def test_shared(netorch_shared_lab):
    SEEN.append(netorch_shared_lab.name)
    netorch_shared_lab["red"].check("touch /root/was-here")

def test_shared_again(netorch_shared_lab):
    netorch_shared_lab["red"].check("test -e /root/was-here")
    assert netorch_shared_lab.name == SEEN[-1]
    assert len(set(SEEN)) == 3

def built():
    t = netorch.Topology("built")
    t.container("a")
    t.container("b")
    t.link(netorch.End("a", address="10.0.0.1/24"), netorch.End("b", address="10.0.0.2/24"))
    return t

@pytest.mark.netorch(built())
def test_built_in_code(netorch_lab, netorch_up):
    assert netorch_lab.reach("a", "b")
    other = netorch_up(built())
    assert other.name != netorch_lab.name and other["a"].run(["ping", "-c1", "b"]).code == 0
    result = other.check(ping={"from": "a", "to": "b", "expect": "fail"})
    assert result.verdict == "failed" and not result.ok
    assert "FAIL" not in os.environ
"""


def run(directory: Path, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """pytest in ``directory``, with the plugin and nothing of this project's configuration."""
    variables = {key: value for key, value in os.environ.items() if key not in ("CI", "PYTEST_ADDOPTS")}
    entered = "netorch = netns_orch.pytest_plugin" in _entry_points()
    plugin = [] if entered else ["-p", "netns_orch.pytest_plugin"]
    options = ["--rootdir", str(directory), "-rA", "-p", "no:cacheprovider"]
    return subprocess.run(
        [sys.executable, "-m", "pytest", *plugin, *options, *words],
        cwd=directory,
        env={**variables, "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
        timeout=SECONDS * 4,
    )


def _entry_points() -> list[str]:
    from importlib.metadata import entry_points

    return [f"{point.name} = {point.value}" for point in entry_points(group="pytest11")]


def outcome(done: subprocess.CompletedProcess[str]) -> dict[str, int]:
    """How many passed, failed, were skipped."""
    last = done.stdout.strip().splitlines()[-1]
    return {
        word.rstrip("s"): int(number)
        for number, word in re.findall(r"(\d+) (\w+)", last.partition(" in ")[0])
    }


def write_project(directory: Path) -> Path:
    """A project that uses the plugin."""
    (directory / "lab.yaml").write_text(LAB)
    (directory / "test_lab.py").write_text(CODE)
    (directory / "compose.yaml").write_text("services: {web: {image: nginx}}\n")
    return directory


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """One in a directory of the test's own."""
    return write_project(tmp_path)


@pytest.mark.kernel
@ROOTS
def test_fixtures_and_lab_files(project: Path) -> None:
    done = run(project)
    assert outcome(done) == {"passed": 8}, done.stdout + done.stderr
    assert "lab.yaml::it was not asked to fail" in done.stdout


@pytest.mark.kernel
@ROOTS
def test_side_by_side(project: Path) -> None:
    """Each worker has labs of its own, of the same files."""
    for copy in range(2):
        (project / f"test_copy{copy}.py").write_text(CODE.replace("assert len(set(SEEN)) == 3", ""))
    done = run(project, "-n", "4", "--dist", "loadfile")
    assert outcome(done) == {"passed": 18}, done.stdout + done.stderr


@pytest.mark.kernel
@ROOTS
def test_a_failure_is_told_by_the_checks_own_words_and_leaves_artefacts(project: Path) -> None:
    tests = "lab.yaml", "test_lab.py::test_built_in_code"
    done = run(project, *tests, "--netorch-artifacts", "kept", FAIL="1")
    assert outcome(done) == {"passed": 2, "failed": 2}, done.stdout + done.stderr
    assert "lab.yaml:9:" in done.stdout
    assert "Traceback" not in done.stdout
    kept, *of_both_labs = sorted((project / "kept").iterdir())
    assert [path.name for path in of_both_labs] == [
        f"test_lab.py_test_built_in_code{number}" for number in ("", "-2")
    ]
    names = {path.name for path in kept.iterdir()}
    assert (kept / "packets.pcapng").read_bytes()[:4] == bytes.fromhex("0a0d0d0a")
    assert {"plan.txt", "status.json", "packets.pcapng", "rules", "logs"} <= names, names


LACKING = """
import netns_orch.api
from netns_orch.errors import LabFileError, MissingFeature, Where

def up(*words, **options):
    raise LabFileError([MissingFeature("this host lacks netem", where=Where("lab.yaml", 3, 5))])

netns_orch.api.up = up
"""


@pytest.mark.parametrize(
    ("words", "environment", "expected"),
    [((), {}, "skipped"), (("--netorch-require",), {}, "error"), ((), {"CI": "true"}, "error")],
)
def test_what_the_host_lacks_is_skipped_or_failed(
    project: Path, words: tuple[str, ...], environment: dict[str, str], expected: str
) -> None:
    (project / "conftest.py").write_text(LACKING)
    done = run(project, "test_lab.py::test_fresh", *words, **environment)
    assert outcome(done) == {expected: 1}, done.stdout
    assert "this host lacks netem" in done.stdout
    assert "lab.yaml:3:5" in done.stdout


def test_a_test_that_names_no_lab_is_told_so(tmp_path: Path) -> None:
    (tmp_path / "test_x.py").write_text("def test_x(netorch_lab): pass\n")
    done = run(tmp_path)
    assert 'no lab is named: @pytest.mark.netorch("lab.yaml")' in done.stdout


def test_a_lab_file_that_is_wrong_is_an_error_of_collection(tmp_path: Path) -> None:
    (tmp_path / "bad.yaml").write_text("containers: {red: }\nchecks:\n  - ping: {from: rde, to: red}\n")
    done = run(tmp_path, "bad.yaml")
    assert done.returncode == 2
    assert "bad.yaml:3:18" in done.stdout
    assert "Traceback" not in done.stdout


def test_the_plugin_costs_no_imports_until_it_is_used(tmp_path: Path) -> None:
    (tmp_path / "test_x.py").write_text(
        "import sys\n"
        "def test_x():\n"
        "    assert not {'netns_orch.lab', 'yaml', 'networkx'} & set(sys.modules)\n"
    )
    done = run(tmp_path)
    assert outcome(done) == {"passed": 1}, done.stdout


def test_which_files_are_tests(project: Path) -> None:
    """Lab files that prove something, where pytest looks at all; and none where nobody wants that."""
    (project / "build").mkdir()
    (project / "build" / "lab.yaml").write_text(LAB)
    (project / "unproven.yaml").write_text(LAB.partition("checks:")[0])
    (project / "other.yaml").write_text("spec:\n  containers: [a]\n  checks: [b]\n")

    def collected(*words: str) -> set[str]:
        done = run(project, "--collect-only", "-q", *words)
        return {line.partition("::")[0] for line in done.stdout.splitlines() if "::" in line}

    assert collected() == {"lab.yaml", "test_lab.py"}
    assert collected("-o", "norecursedirs=", "build") == {"build/lab.yaml"}
    assert collected("-o", "netorch_collect=false") == {"test_lab.py"}
