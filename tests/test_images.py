"""``image`` on the real kernel: from registries, directories and archives; the cache; what is refused."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support import archives, images, view
from support.archives import directory, file
from support.ordinary import Ordinary
from support.outer import run
from support.runner import Netorch
from support.waiting import until

pytestmark = [
    pytest.mark.kernel,
    pytest.mark.skipif(not shutil.which("skopeo"), reason="skopeo is not installed"),
]

_SKOPEO_S = Path("/var/lib/containers")
"""Where skopeo as root notes which registry has which blob."""


@pytest.fixture
def netorch(netorch: Netorch) -> Iterator[Netorch]:
    """With a cache of the test's own; skopeo, too, leaves none of its own."""
    netorch.environment["NETORCH_CACHE"] = str(cache_of(netorch))
    had = _SKOPEO_S.exists()
    yield netorch
    if not had:
        shutil.rmtree(_SKOPEO_S / "cache", ignore_errors=True)
        with contextlib.suppress(OSError):
            _SKOPEO_S.rmdir()


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[str]:
    if not shutil.which("docker-registry"):
        pytest.skip("docker-registry is not installed")
    with images.registry(tmp_path / "registry") as name:
        yield name


def cache_of(netorch: Netorch) -> Path:
    return netorch.directory / "cache"


def tiny(path: Path, *layers: list[archives.Entry], **config: Any) -> Path:
    """An image that shows the host's /usr once it is mounted, and what these layers hold."""
    base = [*archives.skeleton_entries(), directory("etc"), file("etc/motd", "base\n")]
    return images.layout(path, base, *layers, **config)


def red(image: str, *lines: str, name: str = "red") -> str:
    more = "".join(f"    {line}\n" for line in lines)
    return f'containers:\n  {name}:\n    image: "{image}"\n    volumes: ["/usr:/usr:ro"]\n{more}'


def names(path: Path) -> list[str]:
    return sorted(entry.name for entry in path.iterdir())


def test_an_image_of_a_registry(netorch: Netorch, registry: str) -> None:
    top = [file("etc/.wh.motd"), file("srv/page", "one\n"), file("bin-of-mine", "#!/bin/sh\n", mode=0o4755)]
    image = tiny(
        netorch.directory / "tiny", [file("srv/old")], [directory("srv"), file("srv/.wh..wh..opq")], top
    )
    images.push(image, f"{registry}/a/tiny:v1")
    lab_file = netorch.write(red(f"{registry}/a/tiny:v1", "namespaces: {user: true}"))
    assert "is not here" in netorch("plan", "--format", "shell", lab_file, code=1).stderr
    assert not cache_of(netorch).exists(), "plan fetches nothing"
    done = netorch("up", lab_file)
    assert f"fetching {registry}/a/tiny:v1" in done.stderr
    look = "ls -A /etc /srv; cat /srv/page; stat -c '%a %u' /bin-of-mine"
    first = netorch("exec", "red", "sh", "-c", look).stdout
    assert first == "/etc:\nhostname\nhosts\nresolv.conf\n\n/srv:\npage\none\n4755 0\n"
    netorch("exec", "red", "sh", "-c", "echo mine >/srv/page")
    assert [row["path"] for row in netorch("diff", "--json", "red").json()] == ["/srv", "/srv/page"]
    assert netorch("plan", "--json", lab_file).json()["changes"] == []
    link = netorch.directory / "link"
    link.symlink_to(cache_of(netorch))
    for cache in (cache_of(netorch), link):
        gone = netorch("gc", "--images", "--json", environment={"NETORCH_CACHE": str(cache)}).json()
        assert gone == [], "it is in use"
    # The tag is moved: what is here stays, until it is asked for.
    changed = tiny(netorch.directory / "changed", [file("srv/page", "two\n")])
    images.push(changed, f"{registry}/a/tiny:v1")
    assert "fetching" not in netorch("up", lab_file).stderr
    assert netorch("exec", "red", "cat", "/srv/page").stdout == "mine\n"
    netorch("up", "--pull", lab_file)
    assert netorch("exec", "red", "cat", "/srv/page", "/etc/motd").stdout == "two\nbase\n"
    netorch("down")
    again = netorch("up", "--private", lab_file, environment={"PATH": "/nowhere"})
    assert "fetching" not in again.stderr, "without skopeo, from the cache"
    netorch("down")
    # Of both images, for nobody asked to remove one; an ordinary user's lab unpacks them by itself.
    assert len(names(cache_of(netorch) / "layers")) == (0 if view.ROOTLESS else 5)
    (gone,) = netorch("gc", "--images", "--json").json()
    assert (gone["objects"], gone["removed"]) == ([f"{registry}/a/tiny:v1"], True)
    assert not cache_of(netorch).exists()


def test_what_an_image_says_of_itself_is_below_what_the_file_says(netorch: Netorch) -> None:
    config = {
        "Env": ["COLOR=blue", "SIZE=1=2", "=x", "y"],
        "User": "web:8",
        "WorkingDir": "/srv",
        "StopSignal": "SIGUSR1",
        "Entrypoint": ["/usr/sbin/served"],
        "Cmd": ["-x", "a b"],
    }
    users = [file("etc/passwd", "web:x:7:7::/srv:/bin/sh\n"), file("etc/group", ""), directory("srv", uid=7)]
    tiny(netorch.directory / "tiny", users, **config)
    text = red("oci:tiny") + "".join(
        f"  {name}: {{image: 'oci:./tiny:latest', volumes: ['/usr:/usr:ro', './out:/out'], {more}}}\n"
        for name, more in {
            "own": "user: '0', working_dir: /etc, environment: {COLOR: red}, setup: [env > /setup]",
            "run": "command: 'trap \"echo usr1 >/out/x; exit\" USR1; echo ready; while :; do sleep 1; done', "
            "ready: {log: ready}, stop_grace_period: 30s",
        }.items()
    )
    out = netorch.directory / "out"
    out.mkdir()
    out.chmod(0o777)
    done = netorch("up", netorch.write(text))
    said = 'red is idle; what its image runs by itself is   command: ["/usr/sbin/served", "-x", "a b"]'
    assert said in done.stderr and "run is idle" not in done.stderr
    look = "echo $(id -u):$(id -g) $PWD $COLOR $SIZE"
    assert netorch("exec", "red", "sh", "-c", look).stdout == "7:8 /srv blue 1=2\n"
    assert netorch("exec", "own", "sh", "-c", look).stdout == "0:0 /etc red 1=2\n"
    assert {"COLOR=red", "SIZE=1=2"} <= set(netorch("exec", "own", "cat", "/setup").stdout.splitlines())
    netorch("restart", "run")
    assert (out / "x").read_text() == "usr1\n"
    netorch("down")
    tiny(netorch.directory / "odd", machine="s390x", User="a b")
    wrong = netorch("up", netorch.write(red("oci:odd")), code=2).stderr
    assert f"oci:{netorch.directory}/odd says of itself: expected a user" in wrong
    assert "  --> lab.yaml:3:12  containers.red.image" in wrong.replace(f"{netorch.directory}/", "")
    done = netorch("up", netorch.write(red("oci:odd", "user: root")))
    assert "/odd is for s390x: its programs can't run on this machine" in done.stderr
    assert "red is idle" not in done.stderr
    netorch("down")


def test_directories_and_archives_of_this_host(netorch: Netorch) -> None:
    image = tiny(netorch.directory / "tiny", [file("srv/page", "one\n")])
    kinds = ("oci:tiny", "docker-archive:docker.tar", "oci-archive:./oci.tar", "dir:copy")
    for kind, name in (each.split(":", 1) for each in kinds[1:]):
        run("skopeo", "copy", "-q", f"oci:{image}:latest", f"{kind}:{netorch.directory / name}")
    parts = [red(kind, name=f"h{number}") for number, kind in enumerate(kinds)]
    lab_file = netorch.write("containers:\n" + "".join(part.removeprefix("containers:\n") for part in parts))
    with netorch.lab(lab_file):
        for number in range(len(kinds)):
            assert netorch("exec", f"h{number}", "cat", "/srv/page").stdout == "one\n"
        # One that has changed is another one; the others stay.
        shutil.rmtree(image)
        tiny(netorch.directory / "tiny", [file("srv/page", "two\n")])
        pids = {row["name"]: row["pid"] for row in netorch("ps", "--json").json()}
        assert netorch("up", lab_file).stderr.count("fetching") == 1
        assert netorch("exec", "h0", "cat", "/srv/page").stdout == "two\n"
        now = {row["name"]: row["pid"] for row in netorch("ps", "--json").json()}
        assert {name for name in now if now[name] != pids[name]} == {"h0"}


def test_an_image_that_can_not_be_had(netorch: Netorch, registry: str) -> None:
    tiny(netorch.directory / "tiny")
    images.push(netorch.directory / "tiny", f"{registry}/tiny")

    def refused(image: str, code: int = 1, **options: Any) -> str:
        path = netorch.write(red(image))
        said = netorch("up", path, code=code, **options).stderr
        assert f"  --> {path}:3:12  containers.red.image\n" in said
        assert netorch("ls", "--json").json() == []
        return said

    assert "the registry has no such tag" in refused(f"{registry}/tiny:v9")
    assert "is the network up?" in refused("127.0.0.1:1/tiny")
    assert "hint: a path is relative to the lab file" in refused("oci:nowhere", code=2)
    netorch.write("nothing of the kind", "x.tar")
    assert "can't be had" in refused("docker-archive:x.tar")
    without = refused(f"{registry}/tiny", code=2, environment={"PATH": "/nowhere"})
    assert "the program skopeo is not installed" in without and "package skopeo" in without
    late = netorch("up", "--timeout", "10ms", netorch.write(red(f"{registry}/tiny")), code=1).stderr
    assert "was not here within 0.01 s" in late
    # A layer that no root can be made of: nothing of it is kept.
    for number, wrong in enumerate(({"Env": 5}, {"User": ["x"]}, {"Cmd": ["a\0b"]}, {"Env": ["A=\ud800"]})):
        odd = tiny(netorch.directory / f"odd{number}", **wrong)
        assert "is no image of a container" in refused(f"oci:{odd}")
    os.mkfifo(netorch.directory / "pipe")
    assert "no directory and no file" in refused("docker-archive:pipe", code=2)
    evil = tiny(netorch.directory / "evil", [file("../../outside", "x")])
    assert "outside" in refused(f"oci:{evil}")
    assert not (netorch.directory / "outside").exists()
    index = json.loads((evil / "index.json").read_text())
    index["manifests"][0]["digest"] = "sha256:../../../../../../etc/passwd"
    (evil / "index.json").write_text(json.dumps(index))
    assert "can't be had" in refused(f"oci:{evil}")
    assert not any(
        name.startswith(".new") for part in ("images", "layers") for name in names(cache_of(netorch) / part)
    )
    (cache_of(netorch) / "mine").touch()
    netorch("gc", "--images")
    assert names(cache_of(netorch)) == ["mine"], "what somebody else keeps in the directory stays"


def test_a_stranger_s_image(netorch: Netorch, tmp_path_factory: pytest.TempPathFactory) -> None:
    elsewhere = tiny(tmp_path_factory.mktemp("elsewhere") / "tiny")
    tiny(netorch.directory / "tiny")
    for image in (f"oci:{elsewhere}", "docker-daemon:web:latest", "containers-storage:web"):
        said = netorch("up", "--untrusted", netorch.write(red(image)), code=2).stderr
        assert "a stranger's container can't have" in said or "outside of the lab's directory" in said
    text = "containers: {red: {image: 'oci:tiny'}}"
    netorch("up", "--untrusted", netorch.write(text))
    mapped = Path(f"/proc/{netorch('ps', '--json').json()[0]['pid']}/uid_map").read_text().split()
    assert mapped[0] == "0" and mapped[1] != "0"
    netorch("down")


@pytest.mark.root_only("an ordinary user's lab unpacks an image by itself")
def test_what_a_killed_run_left_is_no_image(netorch: Netorch) -> None:
    """A process that is killed while it unpacks leaves a part without a name; the next one starts anew."""
    tiny(netorch.directory / "tiny", [file(f"srv/{number}", "x" * 4096) for number in range(6000)])
    lab_file = netorch.write(red("oci:tiny"))
    process = netorch.start("up", lab_file)
    layers = cache_of(netorch) / "layers"
    until(lambda: any(layers.glob(".new-*/srv/9*")), "the large layer is being unpacked")
    os.killpg(process.pid, 9)
    process.communicate()
    assert any(name.startswith(".new") for name in names(layers)), "it was killed while it unpacked"
    # What fetches it does not outlive who wants it, whatever he is ended by.
    slow = netorch.directory / "slow"
    slow.mkdir()
    os.mkfifo(slow / "index.json")
    process = netorch.start("up", netorch.write(red("oci:slow"), "slow.yaml"))

    def opened() -> int | None:
        try:
            return os.open(slow / "index.json", os.O_WRONLY | os.O_NONBLOCK)
        except OSError as error:
            assert error.errno == errno.ENXIO, "nobody reads (fifo(7))"
            return None

    def nobody_reads() -> bool:
        try:
            os.write(pipe, b" ")
        except BrokenPipeError:
            return True
        return False

    pipe = until(opened, "skopeo reads")
    try:
        os.kill(process.pid, 15)
        process.communicate()
        assert process.returncode in (-15, 143)
        until(nobody_reads, "skopeo has ended")
    finally:
        os.close(pipe)
    netorch("gc")
    with netorch.lab(lab_file):
        assert netorch("exec", "red", "sh", "-c", "ls /srv | wc -l").stdout == "6000\n"
        assert not any(name.startswith(".new") for name in names(layers))


def test_an_ordinary_user_s_image(alice: Ordinary) -> None:
    """His labs unpack it by themselves, with the ids that he has there; root's cache is not his."""
    tiny(alice.directory / "tiny", [file("srv/page", "one\n", uid=7, mode=0o600)], Env=["A=b"], User="7")
    run("chown", "-R", f"{alice.uid}:{alice.uid}", str(alice.directory))
    alice.environment["XDG_CACHE_HOME"] = str(alice.directory / "mine")
    lab_file = alice.write(red("oci:tiny"))
    with alice.lab(lab_file):
        assert alice("exec", "-u", "0", "red", "sh", "-c", "cat /srv/page; echo $A").stdout == "one\nb\n"
        assert alice("plan", "--json", lab_file).json()["changes"] == []
    assert names(alice.directory / "mine/netorch") == ["blobs", "images", "layers", "lock"]
    assert names(alice.directory / "mine/netorch/layers") == []
    layer = max(
        (alice.directory / "mine/netorch/blobs/sha256").iterdir(), key=lambda path: path.stat().st_size
    )
    layer.write_bytes(b"")  # as when this host loses its power
    with alice.lab(lab_file):
        assert alice("exec", "-u", "0", "red", "cat", "/srv/page").stdout == "one\n"
    assert alice("gc", "--images", "--json").json()[0]["objects"] == [f"oci:{alice.directory}/tiny"]
    assert not (alice.directory / "mine/netorch").exists()
    assert view.ROOTLESS or not Path("/var/cache/netorch").exists()
