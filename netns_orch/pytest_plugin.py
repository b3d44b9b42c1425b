"""The pytest plugin: labs as fixtures, and lab files as tests.

Owns: which lab a test gets and how long it lives, what it is called, when a test is skipped for what the
host lacks, and what is kept of a lab whose test failed.  Must not: build or check anything (``api``,
``checks``), or import them before a test asks: every run of pytest loads this file.

    @pytest.mark.netorch("lab.yaml")                     # beside the test's file; or a netorch.Topology
    def test_red_reaches_blue(netorch_lab):
        assert netorch_lab["red"].run(["ping", "-c1", "blue"]).code == 0

Labs are private (``netns: private``) and bear names of their own, so any number of them, also of the same
file, run side by side (pytest-xdist).  The test's ``tmp_path`` is in every container, at its own path.
"""

from __future__ import annotations

import os
import re
import secrets
import zlib
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from netns_orch.api import Lab, Topology
    from netns_orch.checks import Result
    from netns_orch.labfile.model import Check
    from netns_orch.labfile.model import Topology as Model

    Source = Topology | str | Path

_NAME_LENGTH = 32
_OF_A_LAB = (re.compile(r"^containers:", re.M), re.compile(r"^(checks|scenario):", re.M))
"""What a YAML file must have at its top to be collected as tests; anything else is somebody else's."""


def pytest_addoption(parser: pytest.Parser) -> None:
    """The options, in a group of their own."""
    group = parser.getgroup("netorch", "labs of netorch")
    group.addoption(
        "--netorch-require",
        action="store_true",
        help="fail, not skip, where the rights or a feature of the kernel are missing; so does CI=true",
    )
    group.addoption(
        "--netorch-artifacts",
        metavar="DIR",
        help="write there why a test failed: plan, status, logs, counters, the last packets of every link",
    )
    parser.addini(
        "netorch_collect", "whether lab files with checks are tests themselves", type="bool", default=True
    )


def pytest_configure(config: pytest.Config) -> None:
    """Make the marker known."""
    config.addinivalue_line(
        "markers",
        "netorch(source, **options): the lab of netorch_lab and netorch_shared_lab: a lab file beside the "
        "test's own, or a netorch.Topology; options as of netorch.up",
    )


# -- fixtures --------------------------------------------------------------------------------------


@pytest.fixture
def netorch_up(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[..., Lab]]:
    """``netorch_up(source, **options)``: as ``netorch.up``, private, and taken down at the test's end."""
    labs: list[_Kept] = []

    def bring_up(source: Source, **options: Any) -> Lab:
        kept = _Kept(request.config, source, Path(request.path).parent, tmp_path, options)
        labs.append(kept)
        return kept.lab

    yield bring_up
    failed = request.node.stash.get(_FAILED, False)
    _close(labs, _slug(request.node.nodeid) if failed else None)


@pytest.fixture
def netorch_lab(request: pytest.FixtureRequest, netorch_up: Callable[..., Lab]) -> Lab:
    """The marked lab, fresh for each test."""
    source, options = _marked(request.node)
    return netorch_up(source, **options)


@pytest.fixture
def netorch_shared_lab(request: pytest.FixtureRequest, _netorch_shared: _Shared) -> Lab:
    """The marked lab, one for all tests of a file that ask for it."""
    source, options = _marked(request.node)
    lab = _netorch_shared.get(source, options)
    request.addfinalizer(lambda: _netorch_shared.note(source, request.node))
    return lab


@pytest.fixture(scope="module")
def _netorch_shared(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[_Shared]:
    """The labs that the tests of a file share."""
    shared = _Shared(request.config, Path(request.path).parent, tmp_path_factory)
    yield shared
    shared.close()


class _Kept:
    """A lab that a fixture brought up, with what records its packets."""

    def __init__(
        self, config: pytest.Config, source: Source, directory: Path, tmp_path: Path, options: dict[str, Any]
    ) -> None:
        from netns_orch import api

        self._config = config
        self._recording: Generator[None, Path | None, None] | None = None
        path = directory / source if isinstance(source, (str, Path)) else source
        stem = path.stem if isinstance(path, Path) else path.name
        options = {"private": True, "name": _fresh_name(stem), "owner_pid": os.getpid(), **options}
        options["volumes"] = [f"{tmp_path}:{tmp_path}", *options.get("volumes", ())]
        with _Skipping(config):
            self.lab = api.up(path, **options)
        self._recording = _recording(config, self.lab)

    def close(self, failed: str | None) -> None:
        """Take it down; with the name of a directory, for a test that failed, its artefacts go there."""
        try:
            if self._recording is not None:
                with suppress(StopIteration):
                    place = None if failed is None else _artifacts(self._config) / failed
                    self._recording.send(place)
        finally:
            self.lab.down(wait=60.0)


def _close(labs: Iterable[_Kept], failed: str | None) -> None:
    """Take all of them down, whatever one of them says; each leaves a directory of artefacts of its own."""
    problems: list[Exception] = []
    for number, kept in enumerate(labs, 1):
        try:
            kept.close(failed if failed is None or number == 1 else f"{failed}-{number}")
        except Exception as error:  # noqa: BLE001 - the others must go, too; then it is raised
            problems.append(error)
    if problems:
        raise problems[0]


class _Shared:
    """Labs by their source, as long as a file's tests run."""

    def __init__(self, config: pytest.Config, directory: Path, paths: pytest.TempPathFactory) -> None:
        self._config, self._directory, self._paths = config, directory, paths
        self._labs: dict[str, _Kept] = {}
        self._failed: dict[str, str] = {}

    def get(self, source: Source, options: dict[str, Any]) -> Lab:
        """The lab of this source, up."""
        key = _key(source)
        if key not in self._labs:
            tmp_path = self._paths.mktemp("shared")
            self._labs[key] = _Kept(self._config, source, self._directory, tmp_path, options)
        return self._labs[key].lab

    def note(self, source: Source, item: pytest.Item) -> None:
        """A test with it has ended."""
        if item.stash.get(_FAILED, False):
            self._failed.setdefault(_key(source), f"{_slug(item.nodeid)}-shared")

    def close(self) -> None:
        """Take them down."""
        for key, kept in self._labs.items():
            _close([kept], self._failed.get(key))


def _key(source: Source) -> str:
    return str(source) if isinstance(source, (str, Path)) else f"topology {id(source)}"


def _marked(item: pytest.Item) -> tuple[Source, dict[str, Any]]:
    marker = item.get_closest_marker("netorch")
    if marker is None or not marker.args:
        raise pytest.UsageError(f'{item.nodeid}: no lab is named: @pytest.mark.netorch("lab.yaml")')
    return marker.args[0], dict(marker.kwargs)


def _fresh_name(stem: str) -> str:
    """A name that no other test of this machine has."""
    end = f"-{secrets.token_hex(4)}"
    start = re.sub(r"[^A-Za-z0-9_-]", "-", stem.removesuffix(".netorch")).lstrip("-_") or "lab"
    return start[: _NAME_LENGTH - len(end)] + end


def _slug(nodeid: str) -> str:
    """A test's node id as the name of a directory, which no other test has."""
    slug = re.sub(r"[^A-Za-z0-9_.=-]+", "_", nodeid)
    return slug if len(slug) <= 100 else f"{slug[:91]}-{zlib.crc32(nodeid.encode()):08x}"


class _Skipping:
    """What the host lacks skips the test, with the reason; or fails it where that is asked for."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        from netns_orch.errors import LabFileError, MissingFeature, PermissionNeeded

        problems = error.problems if isinstance(error, LabFileError) else [error]
        if not all(isinstance(one, (MissingFeature, PermissionNeeded)) for one in problems):
            return
        required = self._config.getoption("netorch_require") or os.environ.get("CI", "").lower() in (
            "true",
            "1",
        )
        if not required:
            pytest.skip(str(error))


# -- artefacts -------------------------------------------------------------------------------------

_FAILED = pytest.StashKey[bool]()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Any:
    """Remember which tests failed, for the fixtures' end."""
    report = yield
    if report.failed:
        item.stash[_FAILED] = True
    return report


def _artifacts(config: pytest.Config) -> Path:
    return Path(config.rootpath) / str(config.getoption("netorch_artifacts"))


def _recording(config: pytest.Config, lab: Lab) -> Generator[None, Path | None, None] | None:
    """Packets are recorded from now on; what is sent ends it: the directory for all that is kept, or None."""
    if not config.getoption("netorch_artifacts"):
        return None
    from netns_orch import rootless
    from netns_orch.checks import recording

    begun = rootless.converse(lab.name, recording, lab.name)
    next(begun)
    return begun


# -- lab files as tests ----------------------------------------------------------------------------


def pytest_collect_file(file_path: Path, parent: pytest.Collector) -> pytest.Collector | None:
    """A YAML file with ``containers`` and ``checks`` (or a ``scenario``) is a collection of tests."""
    if file_path.suffix not in (".yaml", ".yml") or not parent.config.getini("netorch_collect"):
        return None
    try:
        text = file_path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return None
    if not all(pattern.search(text) for pattern in _OF_A_LAB):
        return None
    collector: pytest.Collector = LabFile.from_parent(parent, path=file_path)
    return collector


class LabFile(pytest.File):
    """A lab file: a test for each of its checks, and one for its scenario; on one lab."""

    topology: Model
    """What the file said when it was collected."""

    def collect(self) -> Iterator[pytest.Item]:
        """The tests, in the order of the file."""
        from netns_orch.checks.titles import title as title_of

        topology = self.topology = self._read()
        self._kept: _Kept | None = None
        self.failed: str | None = None
        seen: dict[str, int] = {}
        for check in topology.checks:
            title = title_of(check, topology.groups)
            seen[title] = seen.get(title, 0) + 1
            name = title if seen[title] == 1 else f"{title} ({seen[title]})"
            item: CheckItem = CheckItem.from_parent(self, name=name)
            item.check = check
            item.extra_keyword_matches.update(check.tags)  # -k slow
            yield item
        if topology.scenario:
            yield ScenarioItem.from_parent(self, name="scenario")

    def _read(self) -> Model:
        from netns_orch import lab
        from netns_orch.errors import NetorchError

        try:
            return lab.load(self.path)
        except NetorchError as error:
            raise self.CollectError(str(error)) from None

    def lab(self) -> Lab:
        """The file's lab; up from the first test on."""
        if self._kept is None:
            paths: pytest.TempPathFactory = self.config._tmp_path_factory  # type: ignore[attr-defined]
            self._kept = _Kept(self.config, self.path, self.path.parent, paths.mktemp("shared"), {})
        return self._kept.lab

    def teardown(self) -> None:
        """Take it down behind the last test."""
        if self._kept is not None:
            _close([self._kept], self.failed)
            self._kept = None


class _LabItem(pytest.Item):
    """One test of a lab file."""

    parent: LabFile

    def _expect(self, results: Iterable[Result]) -> None:
        wrong = [result for result in results if not result.ok]
        if wrong:
            self.parent.failed = _slug(self.nodeid)
            raise NotAsExpected("\n".join(_told(result) for result in wrong))

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: Any = None) -> Any:
        """What is wrong, in netorch's own words."""
        from netns_orch.errors import NetorchError

        if isinstance(excinfo.value, (NotAsExpected, NetorchError)):
            return str(excinfo.value)
        return super().repr_failure(excinfo, style)


class CheckItem(_LabItem):
    """One check."""

    check: Check

    def runtest(self) -> None:
        """Prove it with real packets."""
        from netns_orch import checks, rootless

        lab = self.parent.lab().name
        self._expect(rootless.call(lab, checks.run_checks, lab, self.parent.topology, [self.check]))

    def reportinfo(self) -> tuple[Path, int | None, str]:
        """Where it stands."""
        line = self.check.where.line - 1 if self.check.where else None
        return self.path, line, f"{self.path.name}: {self.name}"


class ScenarioItem(_LabItem):
    """The scenario, step by step."""

    def runtest(self) -> None:
        """Play it."""
        from netns_orch import checks, rootless

        lab = self.parent.lab().name
        self._expect(rootless.call(lab, checks.run_scenario, lab, self.parent.topology))

    def reportinfo(self) -> tuple[Path, int | None, str]:
        """Where it stands."""
        return self.path, None, f"{self.path.name}: scenario"


class NotAsExpected(AssertionError):
    """A check that did not hold."""


def _told(result: Result) -> str:
    place = f"  --> {result.where}\n" if result.where else ""
    return f"{result.name}: {result.verdict}\n{place}" + "".join(f"  {line}\n" for line in result.lines)
