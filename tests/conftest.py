"""One host for all kernel tests, and one promise that each of them keeps: the host ends as it was."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import pytest
from support import ordinary, record, snapshot, view
from support.ordinary import Ordinary
from support.outer import TestHost, why_not
from support.runner import Netorch


def pytest_configure(config: pytest.Config) -> None:
    """A job in the background ignores ctrl-C, one of nohup(1) SIGHUP: so would all that the tests start."""
    record.register(config)
    if view.ROOTLESS and config.option.basetemp is None:
        # pytest's usual one is closed to other users again by whoever else starts pytest.
        config.option.basetemp = tempfile.mkdtemp(prefix="netorch-test-rootless-")
        config.add_cleanup(lambda: shutil.rmtree(config.option.basetemp))
    for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGHUP):
        if signal.getsignal(number) is signal.SIG_IGN:
            default = signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL
            signal.signal(number, default)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """As an ordinary user, what needs root is skipped; the rest is in one of both runs."""
    if not (view.ROOTLESS or view.INSIDE):
        return
    elsewhere = []
    for item in items:
        mark = item.get_closest_marker("root_only")
        if (item.get_closest_marker("in_process") is not None) is not view.INSIDE:
            elsewhere.append(item)
        elif reason := mark.args[0] if mark else ordinary.ROOT_ONLY.get(item.name):
            item.add_marker(pytest.mark.skip(reason=f"as an ordinary user: {reason}"))
    config.hook.pytest_deselected(items=elsewhere)
    items[:] = [item for item in items if item not in elsewhere]


@pytest.fixture(scope="session")
def outer() -> Iterator[TestHost]:
    """This process inside namespaces of its own; without the rights: skipped, under CI failed."""
    reason = why_not()
    if reason is not None:
        if os.environ.get("CI") == "true":
            pytest.fail(f"kernel tests must run under CI: {reason}", pytrace=False)
        pytest.skip(reason)
    if view.ROOTLESS and (reason := ordinary.why_not(ordinary.ALICE)):
        pytest.skip(reason)
    host = TestHost()
    host.enter(namespaces=not view.INSIDE)
    everybody: AbstractContextManager[list[Path]] = nullcontext([])
    with ordinary.everywhere() if view.ROOTLESS else everybody as host.given:
        yield host
    host.close()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> object:
    report = yield
    if call.excinfo is not None:
        item.stash[_FAILED] = True
    return report


_FAILED = pytest.StashKey[bool]()


@pytest.fixture(autouse=True)
def host(request: pytest.FixtureRequest) -> Iterator[TestHost | None]:
    """For each test marked ``kernel``: the host is afterwards as it was before."""
    if request.node.get_closest_marker("kernel") is None:
        yield None
        return
    machine, tmp_path = request.getfixturevalue("outer"), request.getfixturevalue("tmp_path")
    machine.given.append(tmp_path)
    # A picture takes as long as many a test.  What one test left as it was, the next one finds so.
    before, labs = request.session.stash.get(_AS_IT_IS, None) or snapshot.take(), _labs()
    request.session.stash[_AS_IT_IS] = None
    yield machine
    if request.node.stash.get(_FAILED, False):
        _clean(tmp_path, labs)
    try:
        snapshot.assert_equal(before)
    except AssertionError:
        _clean(tmp_path, labs)
        raise
    request.session.stash[_AS_IT_IS] = before


_AS_IT_IS = pytest.StashKey["snapshot.Snapshot | None"]()
"""The host after the last test, if nothing can have changed it since."""


def pytest_fixture_setup(fixturedef: pytest.FixtureDef[object], request: pytest.FixtureRequest) -> None:
    """What several tests share may be something on the host, and is made before the picture is taken."""
    if fixturedef.scope != "function":
        request.session.stash[_AS_IT_IS] = None


def pytest_fixture_post_finalizer(
    fixturedef: pytest.FixtureDef[object], request: pytest.FixtureRequest
) -> None:
    """And it is gone again after the last of them."""
    if fixturedef.scope != "function":
        request.session.stash[_AS_IT_IS] = None


def _labs() -> set[str]:
    if view.ROOTLESS:
        return {path.parent.name for top in view.HOLDERS for path in top.glob("*/holder.json")}
    directories = Path("/run/netorch").glob("*.*/") if Path("/run/netorch").is_dir() else ()
    return {directory.name.rpartition(".")[0] for directory in directories if directory.is_dir()}


def _clean(directory: Path, before: set[str]) -> None:
    """After a failure: the next test shall not suffer from what this one left."""
    for name in _labs() - before:
        Netorch(directory)("down", name, code=None)


@pytest.fixture
def netorch(tmp_path: Path) -> Netorch:
    """``netorch``, run in a directory of the test's own."""
    return Netorch(tmp_path)


# -- ordinary users --------------------------------------------------------------------------------


@pytest.fixture
def base(host: TestHost | None) -> Iterator[Path]:
    """A directory that every user can pass through; pytest's own is root's alone."""
    with ordinary.place() as path:
        yield path


@pytest.fixture(scope="session")
def cache() -> Iterator[Path]:
    """Where all users of the tests keep compiled modules."""
    path = Path(tempfile.mkdtemp(prefix="netorch-test-cache-"))
    path.chmod(0o1777)
    yield path
    shutil.rmtree(path)


@pytest.fixture
def user(base: Path, cache: Path) -> Iterator[Callable[[int], Ordinary]]:
    """Makes ordinary users; what they leave in their run directories, or running, is a failure."""
    if reason := ordinary.why_not(ordinary.ALICE):
        pytest.skip(reason)
    users: list[Ordinary] = []

    def make(uid: int) -> Ordinary:
        users.append(Ordinary(uid, base, cache))
        return users[-1]

    yield make
    try:
        for each in users:
            each.assert_nothing_left()
    finally:
        for each in users:
            each.end()


@pytest.fixture
def alice(user: Callable[[int], Ordinary]) -> Ordinary:
    """One of them."""
    return user(ordinary.ALICE)
