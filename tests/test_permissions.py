"""What a lab has on the host can't be changed by others, nor be chosen by who came first."""

from __future__ import annotations

import os
import shlex
import shutil
import stat
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support import cgroups, view
from support.runner import TOPOLOGIES, Netorch

pytestmark = pytest.mark.kernel
RUN, NETNS = Path("/run/netorch"), Path("/run/netns")
SOMEBODY = 4242


def writable_by_others(top: Path) -> Iterator[str]:
    """What is there that group or others may change; what an unpacked layer holds has modes of its own."""
    for directory, subdirectories, files in os.walk(top):
        subdirectories[:] = [name for name in subdirectories if not Path(directory).match("layers/*")]
        for path in [Path(directory), *(Path(directory) / name for name in files)]:
            status = path.lstat()
            if not stat.S_ISLNK(status.st_mode) and status.st_mode & 0o022:
                yield f"{stat.filemode(status.st_mode)} {path}"


@pytest.mark.parametrize("umask", ["0", "077"])
def test_whatever_the_umask(netorch: Netorch, umask: str) -> None:
    shutil.copytree(TOPOLOGIES / "layers", netorch.directory / "layers", symlinks=True)
    file = netorch.write((TOPOLOGIES / "layers.yaml").read_text(), "layers.yaml")
    command = f"umask {umask}; exec {shlex.join(Netorch.argv('up', file))}"
    done = subprocess.run(["sh", "-c", command], cwd=netorch.directory, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    top = view.HOLDERS[0] if view.ROOTLESS else RUN
    tops = [top, NETNS, *(position.directory / "netorch" for position in cgroups.positions())]
    assert [found for top in tops for found in writable_by_others(top)] == []
    assert stat.S_IMODE(top.stat().st_mode) == 0o700
    assert netorch("exec", "red", "stat", "-c", "%a", "/etc/hosts", "/srv").stdout == "644\n755\n"
    netorch(
        "exec", "-u", "1000", "red", "cat", "/etc/hosts", "/etc/resolv.conf", "/etc/hostname", "/etc/motd"
    )
    netorch("down", file)


def _link(path: Path, elsewhere: Path) -> None:
    path.symlink_to(elsewhere)
    os.lchown(path, SOMEBODY, SOMEBODY)


def _directory(path: Path, elsewhere: Path) -> None:
    path.mkdir(mode=0o700)
    os.chown(path, SOMEBODY, SOMEBODY)


def _open_directory(path: Path, elsewhere: Path) -> None:
    path.mkdir()
    path.chmod(0o1777)


@pytest.mark.root_only("/run is root's; of /tmp, where others may come first, tests/test_rootless.py has it")
@pytest.mark.parametrize("path", [RUN, NETNS], ids=str)
@pytest.mark.parametrize(
    ("make", "words"),
    [
        (_link, "is a symbolic link"),
        (_directory, f"is not root's, but user {SOMEBODY}'s"),
        (_open_directory, "can be written by others (mode 1777)"),
    ],
)
def test_who_came_first_chooses_nothing(
    netorch: Netorch, path: Path, make: Callable[[Path, Path], None], words: str
) -> None:
    elsewhere = netorch.directory / "elsewhere"
    elsewhere.mkdir()
    make(path, elsewhere)
    try:
        said = netorch("up", TOPOLOGIES / "red-blue.yaml", code=1).stderr
        assert f"{path} {words}: netorch does not use it" in said
        if path == RUN:
            for command in (["ls"], ["down", "red-blue"], ["status", "red-blue"], ["gc"]):
                assert words in netorch(*command, code=1).stderr
            netorch("exec", "red", "true", code=125)
        assert list(elsewhere.iterdir()) == [] and (path == NETNS or list(path.iterdir()) == [])
    finally:
        path.unlink() if path.is_symlink() else shutil.rmtree(path)
