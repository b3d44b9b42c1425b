"""Roots on the real kernel: layers, volumes, tmpfs, devices, what ``diff`` shows, and hostile images."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import signal
import stat
import tarfile
import threading
import time
from pathlib import Path

import pytest
from support import archives, view
from support.archives import device, directory, file, symlink
from support.limits import Cgroups
from support.outer import run
from support.runner import Netorch
from support.waiting import until

pytestmark = pytest.mark.kernel
USR = '"/usr:/usr:ro"'


def image(netorch: Netorch, files: dict[str, str] | None = None, name: str = "image") -> Path:
    return archives.skeleton(netorch.directory / name, files or {})


def one(root: str, *lines: str, volumes: str = "") -> str:
    """A lab of one container."""
    more = "".join(f"    {line}\n" for line in lines)
    return f"containers:\n  red:\n    rootfs: {root}\n    volumes: [{USR}{volumes}]\n{more}"


def layers_of(name: str = "lab") -> list[Path]:
    labs = view.run_directory(name).glob(f"{name}.*/layers")
    return sorted(path for lab in labs for path in lab.iterdir())


# -- layers --------------------------------------------------------------------------------------


def test_layers_are_shared_and_copied_on_write(netorch: Netorch) -> None:
    entries = [*archives.skeleton_entries(), file("etc/motd", "base\n"), file("srv/old", "base\n")]
    base = archives.write(netorch.directory / "base.tar.gz", *entries, mode="w:gz")
    archives.fill(netorch.directory / "site", {"etc/motd": "site\n", "srv/page": "site\n"})
    archives.fill(netorch.directory / "patch", {"srv/.wh.old": "", "srv/new": "patch\n"})
    root = "{layers: [base.tar.gz, site, ./patch]}"
    text = one(root) + one(root).replace("red", "blue").removeprefix("containers:\n")
    before = base.read_bytes()
    with netorch.lab(text) as lab:
        assert len(layers_of()) == 3
        assert lab.sh("red", "cat /etc/motd; ls -A /srv") == "site\nnew\npage"
        lab.sh("red", "echo mine > /etc/motd; rm /srv/page")
        assert lab.sh("red", "cat /etc/motd; ls -A /srv") == "mine\nnew"
        assert lab.sh("blue", "cat /etc/motd; ls -A /srv") == "site\nnew\npage"
        assert (netorch.directory / "site/etc/motd").read_text() == "site\n"
        assert netorch("diff", "--json", "red").json() == [
            {"kind": "C", "path": "/etc"},
            {"kind": "C", "path": "/etc/motd"},
            {"kind": "C", "path": "/srv"},
            {"kind": "D", "path": "/srv/page"},
        ]
        assert netorch("diff", "--json", "blue").json() == []
    assert base.read_bytes() == before


@pytest.mark.parametrize("kind", ["directory", "tar"])
def test_rootfs_is_a_directory_or_an_archive(netorch: Netorch, kind: str) -> None:
    image(netorch, {"etc/motd": "hello\n"})
    if kind == "tar":
        with tarfile.open(netorch.directory / "root.tar", "w") as archive:
            archive.add(netorch.directory / "image", ".")
    with netorch.lab(one("./image" if kind == "directory" else "root.tar")) as lab:
        assert lab.sh("red", "cat /etc/motd; hostname") == "hello\nred"
        assert "red" in lab.sh("red", "cat /etc/hosts")
        lab.sh("red", "test -c /dev/null; test -d /proc/1; test -d /sys/class; echo x > /written")
        assert lab.netorch("status").stdout
    assert not (netorch.directory / "image/written").exists()
    assert sorted(os.listdir(netorch.directory / "image")) == ["bin", "etc", "lib", "lib64", "sbin", "usr"]


def test_more_layers_than_one_option_can_name(netorch: Netorch) -> None:
    image(netorch)
    for number in range(40):
        archives.fill(netorch.directory / f"l{number}", {"top": f"{number}\n", f"only{number}": ""})
    names = ", ".join(["image", *(f"l{number}" for number in range(40))])
    with netorch.lab(one(f"{{layers: [{names}]}}")) as lab:
        assert lab.sh("red", "cat /top; ls -d /only* | wc -l; rm /only7") == "39\n40"
        assert netorch("diff", "red").stdout == "D /only7\n"


def test_a_changed_layer_makes_its_container_anew(netorch: Netorch) -> None:
    source = netorch.directory / "root.tar"
    archives.write(source, *archives.skeleton_entries(), file("version", "1\n"))
    image(netorch, {"version": "2\n"})
    text = one("root.tar", volumes=', "data:/data"')
    text += one("./image").replace("red", "blue").removeprefix("containers:\n")
    with netorch.lab(text) as lab:
        pids = {row["name"]: row["pid"] for row in netorch("ps", "--json").json()}
        first = layers_of()
        lab.sh("red", "echo kept > /data/x")
        assert "nothing to do" in netorch("plan").stderr
        archives.write(source, *archives.skeleton_entries(), file("version", "3\n"))
        assert netorch("status", "--json").json()["drift"] == []
        netorch("up")
        assert lab.sh("red", "cat /version /data/x") == "3\nkept"
        now = {row["name"]: row["pid"] for row in netorch("ps", "--json").json()}
        assert now["blue"] == pids["blue"] and now["red"] != pids["red"]
        assert len(set(first) & set(layers_of())) == 1 and len(layers_of()) == 2
        netorch.write(text.replace("rootfs: root.tar", "rootfs: {layers: [root.tar, image]}"))
        netorch("up")
        assert lab.sh("red", "cat /version") == "2"


def test_nobody_gets_into_a_container_that_is_being_made(netorch: Netorch) -> None:
    """Its first process has the host's root until it is handed its own."""
    image(netorch, {"etc/motd": "inside\n"})
    with netorch.lab(one("./image", volumes=', "data:/data"')) as lab:
        record = next(view.run_directory("lab").glob("lab.*/c/red/container.json"))
        before = record.read_text()
        volume = os.open(record.parents[2] / "volumes/data", os.O_RDONLY)
        fcntl.flock(volume, fcntl.LOCK_EX)  # who fills it waits for that
        remake = netorch.start("restart", "red")
        try:
            until(lambda: record.exists() and record.read_text() not in ("", before), "its new record")
            refused = netorch("exec", "red", "cat", "/etc/motd", code=125)
            assert refused.stderr.startswith("error: container red is not running: it is being made just now")
            source = netorch.write("planted", "planted")
            refused = netorch("cp", source, f"red:{netorch.directory}/copied", code=1)
            assert "container red is not running: it is being made just now" in refused.stderr
        finally:
            os.close(volume)
            remake.communicate(timeout=60)
        assert remake.returncode == 0
        assert not (netorch.directory / "copied").exists()
        assert lab.sh("red", "cat /etc/motd") == "inside"


def test_a_hostile_archive_is_refused_whole(netorch: Netorch) -> None:
    outside = netorch.directory.parent / "planted"
    archives.write(netorch.directory / "root.tar", directory("usr"), file("../../../planted", "owned"))
    netorch.write(one("root.tar"))
    result = netorch("up", code=1)
    assert "lab.yaml:3:13" in result.stderr and "'../../../planted'" in result.stderr
    assert not outside.exists() and not os.path.exists("/run/netorch")


def test_what_was_unpacked_goes_when_a_later_step_fails(netorch: Netorch) -> None:
    archives.write(netorch.directory / "root.tar", *archives.skeleton_entries())
    netorch.write(one("root.tar", "command: [/nowhere]", volumes=', "data:/data"'))
    netorch("up", code=1)
    assert not os.path.exists("/run/netorch")


def test_killed_while_it_unpacks(netorch: Netorch) -> None:
    many = [file(f"d{number % 50}/{number}", "x") for number in range(15_000)]
    archives.write(netorch.directory / "root.tar", *archives.skeleton_entries(), *many)
    path = netorch.write(one("root.tar"))
    process = netorch.start("up", path)
    until(lambda: [x for x in layers_of() if (x / "root/d7").exists()], "it unpacks", 20)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    assert layers_of()
    netorch("down", path)
    assert not os.path.exists("/run/netorch")


@pytest.mark.parametrize(
    ("text", "what", "place"),
    [
        (one("./nowhere"), "there is no {}/nowhere", "3:13"),
        (one("{layers: [image, nowhere.tar]}"), "there is no {}/nowhere.tar", "3:13"),
        (one("./image", volumes=', "./nowhere:/x"'), "there is no {}/nowhere", "4:31"),
        (one("./image", "devices: [/dev/nowhere]"), "there is no /dev/nowhere", "5:15"),
        (one("./image", "seccomp: nowhere.json"), "there is no {}/nowhere.json", "5:14"),
        (one("./image", 'devices: ["/usr:/dev/usr"]'), "/usr is a directory", "5:15"),
        (one("./image", "tmpfs: [/usr/]"), "/usr is mounted twice", "5:13"),
        (
            one("./image", "tmpfs: ['/x:mode=1799']"),
            "expected an octal mode such as 1777 after 'mode='",
            "5:13",
        ),
        (one("./image", "tmpfs: [/proc/x]"), "nothing can be mounted at /proc/x", "5:13"),
        (one("./image", "files: {/sys/x: y}"), "a file can't be written to /sys/x", "5:12"),
    ],
)
def test_what_is_not_there_is_an_error_with_its_place(
    netorch: Netorch, text: str, what: str, place: str
) -> None:
    image(netorch)
    netorch.write(text)
    for command in ("validate", "up"):
        stderr = netorch(command, code=None).stderr
        assert what.format(netorch.directory) in stderr and f"lab.yaml:{place}" in stderr
    assert not os.path.exists("/run/netorch")


# -- what is mounted -----------------------------------------------------------------------------


def test_volumes_tmpfs_and_read_only(netorch: Netorch) -> None:
    image(netorch, {"data/seed": "from the image\n", "data/deep/er": "x"})
    (netorch.directory / "image/data/seed").chmod(0o4755)
    os.chown(netorch.directory / "image/data", view.host_id(7), view.host_id(8))
    archives.fill(netorch.directory, {"www/page": "host\n", "single": "file\n"})
    volumes = ', "data:/data", "./www:/srv/www:ro", "./www:/srv/rw", "./single:/etc/single:ro"'
    options = ("tmpfs: ['/scratch:size=1m,mode=0700,uid=5,noexec', '/srv/www2:ro']", "read_only: true")
    files = "files: {/data/written: w, /scratch/s: s}"
    text = one("./image", *options, files, volumes=volumes)
    text += one("./image", volumes=', "data:/other:ro"').replace("red", "blue").removeprefix("containers:\n")
    with netorch.lab(text) as lab:
        assert lab.sh("red", "cat /srv/www/page /etc/single /data/seed /data/written /scratch/s")
        assert lab.sh("red", "stat -c '%u:%g %a' /data /data/seed /scratch") == "7:8 755\n0:0 4755\n5:0 700"
        for path in ("/x", "/srv/www/x", "/srv/www2/x", "/etc/single"):
            assert lab.exec("red", "sh", "-c", f"echo > {path}", code=None).code != 0
        lab.sh(
            "red",
            "echo new > /data/x; echo red > /srv/rw/page; cp /usr/bin/true /data; cp /usr/bin/true /scratch",
        )
        assert lab.sh("blue", "cat /other/x /other/seed; ! touch /other/y; echo x > /written")
        assert lab.exec("red", "/data/true").code == 0
        assert lab.exec("red", "/scratch/true", code=None).code == 126
        assert lab.exec("red", "dd", "if=/dev/zero", "of=/scratch/z", "bs=1M", "count=2", code=None).code == 1
        assert "nosuid,nodev,noexec" in lab.sh("red", "grep /scratch /proc/self/mounts")
    assert (netorch.directory / "www/page").read_text() == "red\n"
    assert not (netorch.directory / "image/data/x").exists()


def test_a_volume_inside_a_volume_and_one_over_etc(netorch: Netorch) -> None:
    image(netorch)
    archives.fill(netorch.directory, {"a/x": "a\n", "b/y": "b\n", "etc/hosts": "mine\n"})
    volumes = ', "./b:/srv/sub", "./a:/srv", "./etc:/etc"'
    with netorch.lab(one("./image", volumes=volumes)) as lab:
        assert lab.sh("red", "cat /srv/x /srv/sub/y; grep -c red /etc/hosts; ls /etc") == "a\nb\n1\nhosts"
    assert (netorch.directory / "etc/hosts").read_text() == "mine\n"
    assert os.listdir(netorch.directory / "etc") == ["hosts"]


@view.NO_DEVICES
def test_a_device_is_a_node_of_its_own_and_allowed(netorch: Netorch) -> None:
    node = netorch.directory / "node"
    os.mknod(node, stat.S_IFBLK | 0o640, os.makedev(7, 0))
    text = f"containers:\n  red:\n    devices: ['{node}:/dev/mine:r', '{node}:/srv/mine:r']\n  blue:\n"
    with netorch.lab(text) as lab:
        assert (
            lab.sh("red", "stat -c %F:%t:%T /dev/mine /srv/mine").split("\n")
            == ["block special file:7:0"] * 2
        )
        lab.sh("blue", "mknod /dev/mine b 7 0")
        refused = "not permitted"
        assert refused in lab.exec("blue", "sh", "-c", ": < /dev/mine", code=2).stderr
        # There may be no such loop device; but then it is the driver that says so.
        assert refused not in lab.exec("red", "sh", "-c", ": < /dev/mine", code=None).stderr
        assert refused in lab.exec("red", "sh", "-c", ": >> /dev/mine", code=2).stderr
        lab.sh("red", "chmod 777 /dev/mine /srv/mine; chown 5 /dev/mine")
    assert (node.stat().st_mode, node.stat().st_uid) == (stat.S_IFBLK | 0o640, 0)


# -- diff ----------------------------------------------------------------------------------------


def test_diff_of_the_host_s_root(netorch: Netorch) -> None:
    archives.fill(netorch.directory, {"root.txt": "x"})
    lines = "    files: {/etc/mine: m, /etc/other: o, /opt/mine/x: x}\n    tmpfs: [/scratch]\n"
    with netorch.lab(f"containers:\n  red:\n{lines}") as lab:
        assert netorch("diff", "red").stdout == ""
        lab.sh("red", "touch /scratch/x /tmp/t /root/new; mkdir -p /run/r; rm /etc/mine; echo > /etc/other")
        lab.sh("red", "echo x >> /etc/passwd; rm /etc/group; chmod 700 /var; ln -s /etc/shadow /root/link")
        lab.sh("red", "rm -r /etc/default; mkdir /etc/default; touch /etc/default/only")
        lab.exec("red", "touch", "/root/a\nb\x1b[31m")
        rows = netorch("diff", "--json", "red").json()
        assert all(not row["path"].startswith("/scratch") for row in rows)
        found = {(row["kind"], row["path"]) for row in rows}
        gone = {("D", f"/etc/default/{name}") for name in os.listdir("/etc/default") if name != "only"}
        assert found - gone == {
            *(("C", path) for path in ("/etc", "/etc/other", "/etc/passwd", "/etc/default", "/root", "/var")),
            *(("D", path) for path in ("/etc/mine", "/etc/group")),
            *(("A", path) for path in ("/tmp/t", "/run/r", "/root/new", "/root/link", "/root/a\nb\x1b[31m")),
            ("A", "/etc/default/only"),
        }
        assert gone <= found
        text = netorch("diff", "red").stdout
        assert "A /root/a\\nb\\x1b[31m\n" in text and len(text.splitlines()) == len(rows)
        assert [row["path"] for row in rows] == sorted(row["path"] for row in rows)


def test_diff_with_a_user_namespace_and_a_directory_that_is_as_it_was(netorch: Netorch) -> None:
    image(netorch, {"srv/x": ""})
    text = one("./image") + one("./image").replace("red", "blue").removeprefix("containers:\n")
    with netorch.lab(text + "    namespaces: {user: true}\n") as lab:
        for node in ("red", "blue"):
            lab.sh(node, "touch /srv/new; rm /srv/new; mkdir /made")
            assert netorch("diff", node).stdout == "A /made\n"


@pytest.mark.root_only("removes directories of the host's root, which are mounts of their own")
def test_diff_does_not_follow_what_the_container_made(netorch: Netorch) -> None:
    with netorch.lab("containers:\n  red:\n") as lab:
        lab.sh("red", "rm -r /opt; ln -s /etc /opt; rm -r /srv; ln -s / /srv; mkfifo /root/fifo")
        lab.sh("red", "cd /root; for i in $(seq 300); do mkdir d; cd d; done")
        rows = netorch("diff", "--json", "red").json()
        kinds = {row["path"]: row["kind"] for row in rows}
        assert kinds["/opt"] == kinds["/srv"] == "C" and kinds["/root/fifo"] == "A"
        assert not any(path.startswith(("/opt/", "/srv/")) for path in kinds)
        assert kinds["/root" + "/d" * 300] == "A"


@pytest.mark.root_only("tests/test_rootless.py has it for an ordinary user")
@pytest.mark.parametrize("user", [False, True])
def test_directories_of_the_host_that_are_mounts(netorch: Netorch, user: bool) -> None:
    """A container writes there, too, into a copy: /etc without a hostname, /srv and a directory in it."""
    etc, srv = netorch.directory / "etc", netorch.directory / "srv"
    run("cp", "-a", "/etc", str(etc))
    (etc / "hostname").unlink(missing_ok=True)
    (srv / "inner").mkdir(parents=True)
    (srv / "old").write_text("old\n")
    with contextlib.ExitStack() as mounted:
        for source, target in ((etc, "/etc"), (srv, "/srv"), (etc, "/srv/inner")):
            run("mount", "--bind", str(source), target)
            mounted.callback(run, "umount", target)
        text = (
            f"containers: {{red: {{namespaces: {{user: {str(user).lower()}}}}}, ro: {{read_only: true}}}}\n"
        )
        with netorch.lab(text) as lab:
            script = "cat /etc/hostname /srv/old; rm /srv/old; echo x > /etc/new; echo y > /srv/inner/passwd"
            assert lab.sh("red", f"{script}; ls /srv; cat /srv/inner/passwd") == "red\nold\ninner\ny"
            assert "Read-only" in lab.exec("ro", "touch", "/srv/x", code=1).stderr
            changed = netorch("diff", "red").stdout.splitlines()
            inner = ["C /srv/inner", "C /srv/inner/passwd"]
            assert changed == ["C /etc", "A /etc/new", "C /srv", *inner, "D /srv/old"]
            assert netorch("diff", "ro").stdout == ""
        assert (srv / "old").exists() and (etc / "passwd").stat().st_size > 2 and not (etc / "new").exists()


def test_diff_of_nobody(netorch: Netorch) -> None:
    with netorch.lab("containers:\n  red:\n") as lab:
        assert "no container 'blue'" in netorch("diff", "blue", code=2).stderr
        pid = netorch("ps", "--json").json()[0]["pid"]
        os.kill(pid, signal.SIGKILL)
        until(lambda: netorch("ps", "--json").json()[0]["state"] == "dead", "it dies")
        assert "does not run" in netorch("diff", "--lab", lab.file, "red", code=1).stderr


# -- hostile images ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["proc", "sys", "dev"])
@pytest.mark.parametrize("target", ["/", "..", "etc"])
def test_links_for_the_kernels_directories_are_refused(netorch: Netorch, name: str, target: str) -> None:
    image(netorch)
    archives.write(netorch.directory / "evil.tar", symlink(name, target), directory("etc"))
    netorch.write(one("{layers: [image, evil.tar]}"))
    stderr = netorch("up", code=1).stderr
    assert f"/{name}" in stderr and "symbolic links" in stderr


@pytest.mark.parametrize("target", ["/", "..", "../../../../../../tmp", "/vol", "/proc"])
def test_etc_as_a_link_stays_inside(netorch: Netorch, target: str) -> None:
    image(netorch)
    volume = archives.fill(netorch.directory / "vol", {"hosts": "the host's\n"})
    (netorch.directory / "image/etc").symlink_to(target)
    for name in ("tmp", "proc"):
        (netorch.directory / "image" / name).mkdir()
    before = sorted(os.listdir("/")), sorted(os.listdir(netorch.directory))
    with netorch.lab(one("./image", "files: {/etc/motd: inside}", volumes=', "./vol:/vol"')) as lab:
        lab.sh("red", "cd /; ls")
    assert os.listdir(volume) == ["hosts"] and (volume / "hosts").read_text() == "the host's\n"
    assert before == (sorted(os.listdir("/")), sorted({*os.listdir(netorch.directory)} - {"lab.yaml"}))


def test_files_and_mount_points_are_not_made_through_links_into_volumes(netorch: Netorch) -> None:
    image(netorch)
    volume = archives.fill(netorch.directory / "vol", {"victim": "untouched"})
    outside = netorch.directory / "outside"
    outside.mkdir()
    for name, target in {
        "motd": "/vol/victim",
        "etc": "/vol",
        "data": "/vol",
        "out": str(outside),
        "up": "../../../../../../../../..",
        "node": "/vol/victim",
    }.items():
        (netorch.directory / "image" / name).symlink_to(target)
    (netorch.directory / "image" / str(outside).lstrip("/")).mkdir(parents=True)
    (netorch.directory / "image/vol").mkdir()
    lines = (
        "files: {/motd: owned, /etc/x: owned, /out/x: owned, /up/up/x: inside}",
        "tmpfs: [/data/tmp, /out/tmp]",
        "devices: ['/dev/null:/data/null', '/dev/zero:/node']",
    )
    volumes = ', "./vol:/vol", "./outside:/data/deep", "named:/out/named"'
    with netorch.lab(one("./image", *lines, volumes=volumes)) as lab:
        assert lab.sh("red", "test -c /node; cat /x; echo; ls -A /vol") == "inside\nvictim"
    assert os.listdir(volume) == ["victim"] and (volume / "victim").read_text() == "untouched"
    assert os.listdir(outside) == []


def test_dev_null_of_the_image_is_not_what_masks(netorch: Netorch) -> None:
    victim = netorch.directory / "victim"
    victim.write_text("untouched")
    entries = [*archives.skeleton_entries(), directory("dev"), symlink("dev/null", str(victim))]
    entries += [symlink("dev/pts", "/"), device("dev/tty", tarfile.BLKTYPE, 7, 0)]
    archives.write(netorch.directory / "root.tar", *entries)
    with netorch.lab(one("root.tar")) as lab:
        lab.sh("red", "test -c /dev/null; echo x > /dev/null")
        assert lab.sh("red", "cat /proc/keys; stat -c %t:%T /dev/tty") == "5:0"
        assert lab.sh("red", "stat -fc %T /dev/pts") == "devpts"
    assert victim.read_text() == "untouched"


def test_a_target_swapped_for_a_link_while_it_starts(netorch: Netorch) -> None:
    """Who can write to the image turns a mount point into a link out and back, all the time."""
    root = image(netorch, {"data/x": ""})
    outside = netorch.directory / "outside"
    (outside / "inner").mkdir(parents=True)
    (root / "link").symlink_to(outside)
    stop = threading.Event()

    def swap() -> None:
        while not stop.is_set():
            for one_name, other in (("data", "was"), ("link", "data"), ("data", "link"), ("was", "data")):
                os.rename(root / one_name, root / other)
                time.sleep(0.0002)

    thread = threading.Thread(target=swap)
    thread.start()
    path = netorch.write(one("./image", "tmpfs: [/data/inner, /data/new]", "files: {/data/file: x}"))
    try:
        for _ in range(5):
            netorch("up", path, code=None)
            netorch("down", path)
    finally:
        stop.set()
        thread.join()
    assert [str(found.relative_to(outside)) for found in outside.rglob("*")] == ["inner"]


def test_a_redirect_of_the_image_is_not_followed(netorch: Netorch) -> None:
    """What overlayfs itself would write into an upper directory, planted by an archive or a directory."""
    image(netorch, {"secret/x": "lower\n"})
    planted = {"SCHILY.xattr.trusted.overlay.redirect": "/secret"}
    archives.write(netorch.directory / "evil.tar", directory("shown", pax_headers=planted))
    evil = netorch.directory / "evil"
    (evil / "also").mkdir(parents=True)
    os.setxattr(evil / "also", "trusted.overlay.redirect", b"/secret")
    with netorch.lab(one("{layers: [image, evil.tar, evil]}")) as lab:
        assert lab.sh("red", "ls /shown; ls /also 2>&1 || true; cat /secret/x").splitlines()[-1] == "lower"
        assert "x" not in lab.sh("red", "ls /shown; ls /also 2>/dev/null || true").split()


def test_container_json_names_its_layers(netorch: Netorch) -> None:
    image(netorch)
    with netorch.lab(one("./image")):
        record = next(view.run_directory("lab").glob("lab.*/c/red/container.json"))
        about = json.loads(record.read_text())
        assert about["layers"] == [str(netorch.directory / "image")]


@view.LIMITS
def test_what_is_written_while_it_is_built_is_the_containers_memory(netorch: Netorch) -> None:
    text = "x" * (2 << 20)
    netorch.write(f"containers:\n  full: {{files: {{/srv/text: {text}}}}}\n  empty:\n", "lab.yaml")
    netorch("up")
    full, empty = (int(Cgroups(netorch, node).read("memory in use")) for node in ("full", "empty"))
    assert full - empty > len(text) * 3 / 4  # what both have besides is not quite the same
    netorch("down")
