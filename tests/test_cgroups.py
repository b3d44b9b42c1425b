"""Cgroups: where they are found (any host, by its files), the conversions, and the real thing."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from support import view
from support.waiting import until

from netns_orch.errors import KernelError, MissingFeature, Where
from netns_orch.kernel import (
    cgroupfiles,
    cgrouplimits,
    cgrouptree,
    devicefilter,
    founding,
    hierarchies,
    realm,
    rundir,
    userscope,
)
from netns_orch.kernel.cgroups import Hierarchies, Paths
from netns_orch.records import replace
from netns_orch.resources import Cgroup, shares_of_weight

kernel = pytest.mark.kernel
ID = f"abc{os.getpid():x}"  # other test processes may see these cgroups


class FakeHost:
    """/proc/self and mount points below a directory."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.lines: list[str] = []
        self.device = f"{os.major(path.stat().st_dev)}:{os.minor(path.stat().st_dev)}"

    def mount(
        self, kind: str, point: str, options: str = "rw", root: str = "/", device: str | None = None
    ) -> Path:
        directory = self.path / point
        directory.mkdir(parents=True, exist_ok=True)
        shown = str(directory).replace(" ", "\\040")
        numbers = device or self.device
        number = 30 + len(self.lines)
        left = f"{number} 23 {numbers} {root} {shown} rw,relatime shared:9"
        self.lines.append(f"{left} - {kind} {kind} {options}")
        return directory

    def detect(self, cgroup: str) -> list[hierarchies.Hierarchy]:
        (self.path / "mountinfo").write_text("".join(f"{line}\n" for line in self.lines))
        (self.path / "cgroup").write_text(cgroup)
        return hierarchies.detect(str(self.path))


@pytest.fixture
def fake(tmp_path: Path) -> FakeHost:
    return FakeHost(tmp_path)


class TestDetect:
    def test_v2(self, fake: FakeHost) -> None:
        top = fake.mount("cgroup2", "cg")
        (top / "cgroup.controllers").write_text("cpuset cpu io memory pids\n")
        (top / "user.slice" / "session 3.scope").mkdir(parents=True)
        (found,) = fake.detect("0::/user.slice/session 3.scope\n")
        assert found.version == 2
        assert found.controllers == {"cpuset", "cpu", "io", "memory", "pids"}
        assert found.position == f"{top}/user.slice/session 3.scope"
        assert found.is_whole

    def test_v1_with_a_named_hierarchy_and_controllers_together(self, fake: FakeHost) -> None:
        cpu = fake.mount("cgroup", "cpu,cpuacct", "rw,cpu,cpuacct")
        blkio = fake.mount("cgroup", "blkio", "rw,blkio")
        named = fake.mount("cgroup", "systemd", "rw,xattr,release_agent=/x,name=systemd")
        (blkio / "a" / "b").mkdir(parents=True)
        found = fake.detect("3:blkio:/a/b\n2:cpu,cpuacct:/\n1:name=systemd:/\n")
        assert [(h.version, set(h.controllers), h.position) for h in found] == [
            (1, {"io"}, f"{blkio}/a/b"),
            (1, {"cpu", "cpuacct"}, str(cpu)),
            (1, set(), str(named)),
        ]

    def test_hybrid_with_a_controller_on_v2(self, fake: FakeHost) -> None:
        fake.mount("cgroup", "memory", "rw,memory")
        (fake.mount("cgroup2", "unified") / "cgroup.controllers").write_text("pids hugetlb\n")
        host = Hierarchies(fake.detect("4:memory:/\n0::/\n"))
        assert host.version_of == {"memory": 1, "pids": 2, "hugetlb": 2}
        assert host.controllers() == {"memory", "pids", "hugetlb"}

    def test_of_several_mounts_the_one_that_shows_most(self, fake: FakeHost) -> None:
        fake.mount("cgroup", "part", "rw,memory", root="/docker/c1")
        whole = fake.mount("cgroup", "whole", "rw,memory")
        (whole / "docker" / "c1" / "x").mkdir(parents=True)
        (fake.path / "part" / "x").mkdir()
        (found,) = fake.detect("4:memory:/docker/c1/x\n")
        assert found.position == f"{whole}/docker/c1/x"

    def test_a_mount_of_a_subtree(self, fake: FakeHost) -> None:
        part = fake.mount("cgroup", "a part", "rw,memory", root="/docker/c1")
        (part / "x").mkdir()
        (found,) = fake.detect("4:memory:/docker/c1/x\n")
        assert (found.mount, found.position) == (str(part), f"{part}/x")

    def test_what_can_not_be_reached_is_left_out(self, fake: FakeHost) -> None:
        fake.mount("cgroup", "memory", "rw,memory", root="/elsewhere")
        fake.mount("cgroup", "pids", "rw,pids")
        fake.mount("cgroup", "covered", "rw,cpu", device="0:4095")
        assert fake.detect("4:memory:/mine\n3:pids:/../..\n2:cpu:/\n1:freezer:/\n") == []

    def test_in_a_realm_where_the_lab_was_given_them(
        self, fake: FakeHost, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        top = fake.mount("cgroup2", "cg")
        for name in ("own", "scope"):
            (top / name).mkdir()
            (top / name / "cgroup.controllers").write_text("pids\n")
        fake.detect("0::/own\n")
        for about, position in (
            ({"cgroups": True, "base": f"{top}/scope"}, f"{top}/scope"),
            ({"cgroups": True}, f"{top}/own"),  # as netorch 0.1.0 left it
            ({"cgroups": False}, None),
        ):
            monkeypatch.setattr(realm, "inside", lambda about=about: about)
            v2 = Hierarchies.detect(str(fake.path)).v2
            assert (v2.position if v2 else None) == position

    def test_none_at_all_is_an_error_with_a_way_out(self, fake: FakeHost) -> None:
        fake.detect("")
        with pytest.raises(KernelError, match="mount -t cgroup2"):
            Hierarchies.detect(str(fake.path))


class TestLimits:
    def test_weight_and_shares_follow_the_runtimes_curve(self) -> None:
        for shares, weight in ((2, 1), (512, 59), (1024, 100), (262_144, 10_000)):
            assert cgrouplimits.weight_of_shares(shares) == weight
        for weight, shares in ((1, 2), (100, 1024), (10_000, 262_144)):
            assert shares_of_weight(weight) == shares

    def test_every_weight_has_shares_that_the_kernel_takes(self) -> None:
        shares = [shares_of_weight(weight) for weight in range(1, 10_001)]
        assert shares == sorted(shares)
        assert shares[0] >= 2 and shares[-1] <= 262_144

    @pytest.mark.parametrize(
        ("limits", "v1", "v2"),
        [
            (
                {"cpus": 0.5},
                {"cpu.cfs_period_us": "100000", "cpu.cfs_quota_us": "50000"},
                {"cpu.max": "50000 100000"},
            ),
            (
                {"cpus": 0.002},
                {"cpu.cfs_period_us": "1000000", "cpu.cfs_quota_us": "2000"},
                {"cpu.max": "2000 1000000"},
            ),
            ({"cpu_weight": 100}, {"cpu.shares": "1024"}, {"cpu.weight": "100"}),
            ({"cpuset": "0-1"}, {"cpuset.cpus": "0-1"}, {"cpuset.cpus": "0-1"}),
            (
                {"memory": 8192},
                {"memory.limit_in_bytes": "8192", "memory.memsw.limit_in_bytes": "8192"},
                {"memory.max": "8192", "memory.swap.max": "0"},
            ),
            (
                {"memory": 8192, "swap": 4096},
                {"memory.limit_in_bytes": "8192", "memory.memsw.limit_in_bytes": "12288"},
                {"memory.max": "8192", "memory.swap.max": "4096"},
            ),
            ({"memory_high": 4096}, {}, {"memory.high": "4096"}),
            ({"pids": 64}, {"pids.max": "64"}, {"pids.max": "64"}),
        ],
        ids=lambda value: ",".join(value) if isinstance(value, dict) else None,
    )
    def test_written(self, limits: dict[str, object], v1: dict[str, str], v2: dict[str, str]) -> None:
        wanted = Cgroup(container="red", **limits)  # type: ignore[arg-type]
        for version, files in ((1, v1), (2, v2)):
            assert _written(wanted, version) == files

    @pytest.mark.parametrize("version", [1, 2])
    def test_every_weight_is_kept_the_default_too(self, version: int) -> None:
        (group,) = (g for g in _groups(version) if "cpu_weight" in g.fields)
        for weight in (None, *range(1, 10_001)):
            asked = Cgroup(container="red", cpu_weight=weight)
            files = {write.file: write.text for write in group.writes(asked)}
            assert cgrouplimits.as_kept(group, asked, group.read(files.get)) == (weight,)
            lowered = Cgroup(container="red", cpu_weight=(weight or 100) % 10_000 + 1)
            assert cgrouplimits.as_kept(group, lowered, group.read(files.get)) == (weight or 100,)

    @pytest.mark.parametrize("version", [1, 2])
    def test_what_is_written_is_read_back(self, version: int) -> None:
        limits = Cgroup(
            container="red", cpus=1.5, cpu_weight=250, cpuset="0,2-3", memory=1 << 30, swap=1 << 20, pids=9
        )
        files = _written(limits, version)
        for group in _groups(version):
            found = cgrouplimits.as_kept(group, limits, group.read(files.get))
            assert found == tuple(getattr(limits, name) for name in group.fields)

    def test_memory_is_kept_in_pages(self) -> None:
        (group,) = (g for g in _groups(2) if "memory" in g.fields)
        page = os.sysconf("SC_PAGE_SIZE")
        asked = Cgroup(container="red", memory=5 * page + 17)
        kept = {"memory.max": str(5 * page), "memory.swap.max": "0"}
        assert cgrouplimits.as_kept(group, asked, group.read(kept.get)) == (5 * page + 17, None)
        raised = {"memory.max": str(6 * page), "memory.swap.max": "0"}
        assert cgrouplimits.as_kept(group, asked, group.read(raised.get)) == (6 * page, 0)

    def test_a_limit_that_somebody_took_away_is_seen(self) -> None:
        for group in _groups(1):
            if group.fields == ("pids",):
                found = group.read({"pids.max": "max"}.get)
                assert cgrouplimits.as_kept(group, Cgroup(container="red", pids=5), found) == (None,)

    def test_a_missing_controller_is_named_with_the_limit_and_its_place(self) -> None:
        where = Where("lab.yaml", 7, 3)
        with pytest.raises(MissingFeature, match=r"`memory`.*'memory'") as caught:
            cgrouplimits.check(Cgroup(container="red", memory=1, where=where), {"cpu": 2})
        assert caught.value.where == where
        assert caught.value.hint

    @pytest.mark.parametrize("limits", [{"memory_high": 5, "memory": 9}, {"swap": 5}])
    def test_what_v1_has_no_word_for(self, limits: dict[str, int]) -> None:
        with pytest.raises(MissingFeature, match="v1"):
            cgrouplimits.check(Cgroup(container="red", **limits), {"memory": 1})  # type: ignore[arg-type]

    def test_a_cpu_list(self) -> None:
        assert cgrouplimits.cpu_list("0-2,5, 7") == {0, 1, 2, 5, 7}


def _groups(version: int) -> list[cgrouplimits.Group]:
    names = ("cpu", "cpuset", "memory", "pids", "io")
    return cgrouplimits.groups(dict.fromkeys(names, version))


def _written(limits: Cgroup, version: int) -> dict[str, str]:
    """What stands in each file after the writes of the limits that are asked for."""
    files = {}
    for group in _groups(version):
        if any(getattr(limits, name) not in (None, ()) for name in group.fields):
            files.update({write.file: write.text for write in group.writes(limits)})
    return files


@pytest.mark.parametrize(
    ("euid", "map_", "found"),
    [(0, "0 0 4294967295", None), (0, "0 1000 1\n1 100000 65536", "labs"), (1000, "0 0 4294967295", "labs")],
)
def test_root_takes_no_mark_that_anybody_can_set(
    monkeypatch: pytest.MonkeyPatch, euid: int, map_: str, found: str | None
) -> None:
    def get(_: str, name: str) -> bytes:
        if name == "user.netorch":
            return b"labs"
        raise OSError(errno.ENODATA, "")

    monkeypatch.setattr(os, "getxattr", get)
    monkeypatch.setattr(os, "geteuid", lambda: euid)
    monkeypatch.setattr(cgroupfiles, "read", lambda path: map_)
    assert cgroupfiles.mark("/somewhere") == found


def test_who_holds_a_cgroups_lock_is_not_waited_for_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cgrouptree, "_PATIENCE", 0.01)
    hierarchy = hierarchies.Hierarchy(2, frozenset(), str(tmp_path), str(tmp_path))
    held = os.open(tmp_path, os.O_RDONLY)
    try:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(KernelError, match="holds the lock") as refused:
            cgrouptree.make_lab_directory(hierarchy, str(tmp_path), "t.1")
    finally:
        os.close(held)
    assert f"fuser -v {tmp_path}" in (refused.value.hint or "")
    assert list(tmp_path.iterdir()) == []


def test_the_leaf_of_somebody_elses_labs_stays(tmp_path: Path) -> None:
    parent = tmp_path / cgrouptree.PARENT
    (parent / cgrouptree.LEAF).mkdir(parents=True)
    hierarchy = hierarchies.Hierarchy(2, frozenset(), str(tmp_path), str(tmp_path))
    cgrouptree.remove_parent(hierarchy, str(parent))
    assert (parent / cgrouptree.LEAF).is_dir()


# -- on the kernel -------------------------------------------------------------------------------------


@pytest.fixture
def trees(host: object) -> Iterator[Hierarchies]:
    """The hierarchies as seen from the test host's own cgroups."""
    found = Hierarchies.detect()
    yield found
    for lab, id in found.labs():
        if id == ID:
            for name in found.observe(lab, id):
                found.kill_all(lab, id, name)
            found.remove(lab, id)


def _directories(paths: Paths) -> list[str]:
    return [*paths["v1"], *([paths["v2"]] if paths["v2"] else [])]


def _spawn(paths: Paths) -> int:
    """A process that sits in the cgroups."""
    pid = os.fork()
    if not pid:
        with suppress(BaseException):
            signal.signal(signal.SIGUSR1, lambda *_: os._exit(7))
            for directory in _directories(paths):
                cgroupfiles.write(f"{directory}/cgroup.procs", "0")
            while True:
                time.sleep(100)
        os._exit(1)
    until(lambda: all(pid in cgroupfiles.pids(d) for d in _directories(paths)), "the process in its cgroups")
    return pid


@pytest.fixture
def sitting(trees: Hierarchies) -> Iterator[int]:
    """A process in the cgroups of lab t, container red."""
    pid = _spawn(trees.create("t", ID, "red", Cgroup(container="red")))
    yield pid
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
    with suppress(ChildProcessError):
        os.waitpid(pid, 0)


FULL = Cgroup(container="red", cpus=0.5, cpu_weight=50, cpuset="0", memory=(64 << 20) + 5, pids=64)


def _possible(trees: Hierarchies, limits: Cgroup) -> Cgroup:
    """The limits, without those that this host has no controller for."""
    version_of = trees.version_of
    needed = cgrouplimits.controllers_needed(limits)
    missing = {name for controller, name in needed.items() if controller not in version_of}
    return replace(limits, **dict.fromkeys(missing))


def test_a_controller_is_used_where_a_cgroup_beside_has_another_setting(tmp_path: Path) -> None:
    """What systemd finds switched on it may use: then the last lab leaves it on."""
    for name in ("netorch", "a.slice", "b.slice"):
        (tmp_path / name).mkdir()
        for file, text in (("memory.max", "max"), ("memory.low", "0"), ("memory.pressure", name)):
            (tmp_path / name / file).write_text(f"{text}\n")
    assert not cgrouptree._is_used_beside(str(tmp_path), f"{tmp_path}/netorch", "memory")
    (tmp_path / "b.slice" / "memory.low").write_text("4096\n")
    assert cgrouptree._is_used_beside(str(tmp_path), f"{tmp_path}/netorch", "memory")
    assert not cgrouptree._is_used_beside(str(tmp_path), f"{tmp_path}/netorch", "pids")


def test_a_realm_that_ended_takes_its_own_cgroups_along_and_no_others(tmp_path: Path) -> None:
    """Not those of a lab of the same name in another run directory; not what bears no mark."""
    parent = tmp_path / "cgroup" / "netorch"
    for name in ("lab.1", "lab.1/red", "lab.2", "lab.3"):
        (parent / name).mkdir(parents=True)
    for name in ("lab.1", "lab.2"):
        cgroupfiles.set_mark(str(parent / name), name)
    here = realm.Realm("lab")
    here.directory = str(tmp_path / "realm")
    for name in ("lab.1", "lab.3"):
        (tmp_path / "realm" / "run" / "netorch" / name).mkdir(parents=True)
    about = {"cgroups": True, "boot_id": rundir.boot_id(), "base": str(parent.parent)}
    (tmp_path / "realm" / "holder.json").write_text(json.dumps(about))
    founding._remove_cgroups(here)
    assert sorted(path.name for path in parent.iterdir()) == ["lab.2", "lab.3"]


def test_a_scope_that_systemd_leaves_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(userscope, "_END_PATIENCE", 0.0)
    userscope.wait_gone(f"{tmp_path}/netorch-gone.scope")
    with pytest.raises(KernelError, match="systemd has not removed its scope") as told:
        userscope.wait_gone(str(tmp_path))
    assert told.value.hint == f"systemctl --user stop {tmp_path.name}   does it"


@pytest.mark.vm
@kernel
@view.LIMITS
class TestOnTheKernel:
    def test_a_cgroup_in_every_hierarchy_and_no_trace_after(self, trees: Hierarchies) -> None:
        before = _names(trees)
        paths = trees.create("t", ID, "red", Cgroup(container="red"))
        assert len(_directories(paths)) == len(trees.all)
        assert all(os.path.isdir(path) for path in _directories(paths))
        assert trees.paths("t", ID, "red") == paths
        assert ("t", ID) in Hierarchies.detect().labs()
        trees.remove("t", ID)
        assert ("t", ID) not in trees.labs()
        assert _names(trees) == before
        trees.remove("t", ID)

    def test_limits_are_kept_and_told_as_they_were_asked_for(self, trees: Hierarchies) -> None:
        limits = _possible(trees, FULL)
        trees.create("t", ID, "red", limits)
        assert Hierarchies.detect().observe("t", ID) == {"red": limits}

    def test_limits_change_in_place(self, trees: Hierarchies) -> None:
        limits = _possible(trees, FULL)
        trees.create("t", ID, "red", limits)
        for change in (
            {"cpus": None},
            {"cpus": 1.25, "cpuset": None},
            {"memory": None},
            {"memory": 32 << 20, "pids": None},
            {"memory": 128 << 20, "cpu_weight": None},
        ):
            wanted = _possible(trees, replace(limits, **change))  # type: ignore[arg-type]
            trees.update("t", ID, limits, wanted)
            assert trees.observe("t", ID)["red"] == wanted
            limits = wanted

    def test_a_limit_changed_by_hand_is_seen(self, trees: Hierarchies) -> None:
        if "pids" not in trees.version_of:
            pytest.skip("this host has no pids controller")
        paths = trees.create("t", ID, "red", Cgroup(container="red", pids=64))
        path = next(d for d in _directories(paths) if os.path.exists(f"{d}/pids.max"))
        cgroupfiles.write(f"{path}/pids.max", "65")
        assert trees.observe("t", ID)["red"].pids == 65

    def test_a_refused_limit_names_it_and_what_there_is(self, trees: Hierarchies) -> None:
        if "cpuset" not in trees.version_of:
            pytest.skip("this host has no cpuset controller")
        where = Where("lab.yaml", 3, 1)
        with pytest.raises(KernelError, match="cpuset: 4000") as caught:
            trees.create("t", ID, "red", Cgroup(container="red", cpuset="4000", where=where))
        assert caught.value.where == where
        assert "there are: 0" in (caught.value.hint or "")

    def test_what_a_killed_run_left_half_made_is_told_and_finished(self, trees: Hierarchies) -> None:
        paths = trees.create("t", ID, "red", Cgroup(container="red"))
        first, *others = _directories(paths)
        for directory in others:
            os.rmdir(directory)
        if not others:
            cgroupfiles.remove_mark(first)
        (half,) = trees.observe("t", ID).values()
        assert not half.intact
        wanted = Cgroup(container="red")
        trees.update("t", ID, half, wanted)
        assert trees.observe("t", ID) == {"red": wanted}

    def test_removing_what_is_half_gone(self, trees: Hierarchies) -> None:
        paths = trees.create("t", ID, "red", Cgroup(container="red"))
        os.rmdir(_directories(paths)[0])
        os.rmdir(os.path.dirname(_directories(paths)[0]))
        trees.remove("t", ID, ["red", "never made"])
        assert ("t", ID) not in trees.labs()

    def test_two_labs_and_the_parent_goes_with_the_last(self, trees: Hierarchies) -> None:
        first = trees.create("t", ID, "red", Cgroup(container="red"))
        trees.create("u", ID, "red", Cgroup(container="red"))
        parent = os.path.dirname(os.path.dirname(_directories(first)[0]))
        trees.remove("t", ID, ["red"])
        assert os.path.isdir(parent)
        trees.remove("u", ID, ["red"])
        assert not os.path.isdir(parent)

    def test_a_directory_of_somebody_else_is_left_alone(self, trees: Hierarchies) -> None:
        base = trees.all[0].position
        decoy = f"{base}/netorch/t.{ID}"
        os.makedirs(decoy)
        try:
            assert ("t", ID) not in trees.labs()
            with pytest.raises(KernelError, match="not netorch's"):
                trees.create("t", ID, "red", Cgroup(container="red"))
            trees.create("u", ID, "red", Cgroup(container="red"))
            trees.remove("t", ID)
            trees.remove("u", ID)
            assert os.path.isdir(decoy)
        finally:
            os.rmdir(decoy)
            os.rmdir(f"{base}/netorch")

    def test_a_kill_between_making_and_marking_leaves_no_orphan(self, trees: Hierarchies) -> None:
        base = trees.all[0].position
        cgroupfiles.set_mark(base, "netorch", ".making")
        os.mkdir(f"{base}/netorch")
        cgroupfiles.set_mark(f"{base}/netorch", f"t.{ID}", ".making")
        os.mkdir(f"{base}/netorch/t.{ID}")
        assert ("t", ID) in trees.labs()
        trees.remove("t", ID)
        assert not os.path.exists(f"{base}/netorch")
        assert cgroupfiles.mark(base, ".making") is None

    def test_found_from_another_position(self, trees: Hierarchies) -> None:
        """``down`` from another session is elsewhere in the trees than ``up`` was."""
        trees.create("t", ID, "red", Cgroup(container="red"))
        elsewhere = Hierarchies(
            [replace(h, position=_elsewhere(h)) for h in hierarchies.detect()],
        )
        assert elsewhere.observe("t", ID) == {"red": Cgroup(container="red")}
        elsewhere.create("t", ID, "blue", Cgroup(container="blue"))
        assert set(trees.observe("t", ID)) == {"red", "blue"}

    def test_processes_and_what_they_use(self, trees: Hierarchies, sitting: int) -> None:
        assert trees.processes("t", ID, "red") == [sitting]
        usage = trees.usage("t", ID, "red")
        assert usage.cpu_usec is not None
        assert usage.oom_kills == 0
        if "pids" in trees.version_of:
            assert (usage.pids, usage.pids_limit) == (1, None)

    def test_a_container_with_processes_is_not_made_again(self, trees: Hierarchies, sitting: int) -> None:
        with pytest.raises(KernelError, match="processes are in it") as caught:
            trees.create("t", ID, "red", Cgroup(container="red"))
        assert caught.value.errno == errno.EEXIST

    def test_freeze_and_thaw(self, trees: Hierarchies, sitting: int) -> None:
        trees.freeze("t", ID, "red")
        os.kill(sitting, signal.SIGUSR1)
        time.sleep(0.05)
        assert os.waitpid(sitting, os.WNOHANG) == (0, 0)
        trees.thaw("t", ID, "red")
        assert os.waitstatus_to_exitcode(os.waitpid(sitting, 0)[1]) == 7

    def test_a_frozen_container_is_killed_all_the_same(self, trees: Hierarchies, sitting: int) -> None:
        trees.freeze("t", ID, "red")
        signal.signal(
            signal.SIGCHLD, signal.SIG_IGN
        )  # reaped at once, as if it were no child of this process
        try:
            trees.kill_all("t", ID, "red")
        finally:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        assert trees.processes("t", ID, "red") == []
        trees.remove("t", ID)

    def test_devices(self, trees: Hierarchies) -> None:
        """null may be opened, mem may not, and a device that the lab file gives may."""
        kmsg = (("/dev/kmsg", "rw"),)
        for devices, privileged, allowed in (((), False, False), (kmsg, False, True), ((), True, True)):
            limits = Cgroup(container="red", devices=devices, privileged_devices=privileged)
            paths = trees.create("t", ID, "red", limits)
            assert trees.observe("t", ID)["red"] == limits
            assert _can_open(paths, "/dev/null")
            assert _can_open(paths, "/dev/kmsg") is allowed
            trees.remove("t", ID)

    def test_devices_by_the_program_of_v2(self, trees: Hierarchies) -> None:
        """On a hybrid host v1 has the devices, but the program works on v2 all the same."""
        if trees.v2 is None:
            pytest.skip("this host has no v2 hierarchy")
        paths = trees.create("t", ID, "red", Cgroup(container="red", privileged_devices=True))
        assert paths["v2"]
        devicefilter.attach(paths["v2"], devicefilter.rules([]))
        assert not _can_open(paths, "/dev/kmsg")
        devicefilter.attach(paths["v2"], devicefilter.rules([("/dev/kmsg", "r")]))
        assert _can_open(paths, "/dev/kmsg")
        assert not _can_open(paths, "/dev/kmsg", os.O_RDWR)
        devicefilter.detach(paths["v2"])
        assert _can_open(paths, "/dev/kmsg", os.O_RDWR)

    def test_controllers_switched_on_in_an_ancestor_are_switched_off_again(self, trees: Hierarchies) -> None:
        """io or hugetlb stands for any controller of v2: one that is not switched on without need."""
        if trees.v2 is None or not trees.v2.controllers & {"io", "hugetlb"}:
            pytest.skip("no controller of v2 to switch on")
        base = trees.v2.position
        name = "io" if "io" in trees.v2.controllers else "hugetlb"
        if not cgrouptree.can_hand_down(base, {name}):
            pytest.skip("this test's own v2 cgroup does not have it")
        control = Path(f"{base}/cgroup.subtree_control")
        before = control.read_text()
        for lab in ("t", "u"):
            paths = trees.create(lab, ID, "red", Cgroup(container="red"))
            assert paths["v2"]
            cgrouptree.switch_on(os.path.dirname(paths["v2"]), {name})
            assert list(Path(paths["v2"]).glob(f"{name}.*"))
        assert name in control.read_text()
        trees.remove("t", ID)
        assert name in control.read_text()
        trees.remove("u", ID)
        assert control.read_text() == before

    def test_a_lab_is_not_among_processes_of_others(self, trees: Hierarchies) -> None:
        """As below systemd, where sessions hold processes: cpu would make threaded subtrees of them."""
        if trees.v2 is None or "cpu" not in trees.v2.controllers:
            pytest.skip("no cpu controller on v2")
        if not trees.v2.is_whole:
            pytest.skip("the root of v2 is not to be seen here")
        base = trees.v2.position
        with _stranger(base):
            for limits in (Cgroup(container="red"), Cgroup(container="red", cpus=0.5)):
                paths = trees.create("t", ID, "red", limits)
                assert paths["v2"] == f"{trees.v2.mount}/netorch/t.{ID}/red"
                assert trees.usage("t", ID, "red").pids == 0
                pid = _spawn(paths)
                assert trees.processes("t", ID, "red") == [pid]
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
                trees.remove("t", ID)
            assert Path(f"{base}/cgroup.type").read_text() == "domain\n"


@contextmanager
def _stranger(directory: str) -> Iterator[None]:
    """A process in a cgroup that is nobody's child here."""
    argv = ["sh", "-c", "setsid sleep 86425 >/dev/null & echo $!"]
    pid = int(subprocess.run(argv, stdout=subprocess.PIPE, text=True, check=True).stdout)
    assert pid in cgroupfiles.pids(directory)
    yield
    os.kill(pid, signal.SIGKILL)
    until(lambda: pid not in cgroupfiles.pids(directory), "the end of the stranger")


def _names(trees: Hierarchies) -> list[list[str]]:
    return [hierarchies.children(hierarchy.position) for hierarchy in trees.all]


def _elsewhere(hierarchy: hierarchies.Hierarchy) -> str:
    """A position that is not ours: the mount's top, or (where we are there) a directory that is not."""
    return hierarchy.mount if hierarchy.position != hierarchy.mount else f"{hierarchy.mount}/nowhere"


def _can_open(paths: Paths, device: str, flags: int = os.O_RDONLY) -> bool:
    """Whether a process in the cgroups can open the device."""
    pid = os.fork()
    if not pid:
        code = 2
        with suppress(BaseException):
            for directory in _directories(paths):
                cgroupfiles.write(f"{directory}/cgroup.procs", "0")
            code = 1
            os.close(os.open(device, flags | os.O_NONBLOCK))
            code = 0
        os._exit(code)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert code in (0, 1)
    return code == 0
