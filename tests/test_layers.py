"""Archives from hands nobody knows become directories, and nothing else on the host is touched."""

from __future__ import annotations

import gzip
import os
import shutil
import stat
import struct
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from support import archives, view
from support.archives import Entry, device, directory, file, hard_link, symlink

from netns_orch.errors import KernelError, Where
from netns_orch.kernel import layers, rundir, unpack
from netns_orch.resources import Layer

pytestmark = [pytest.mark.kernel, view.IN_PROCESS]  # owners and attributes need root
OPAQUE = "user.overlay.opaque" if view.INSIDE else "trusted.overlay.opaque"


class Box:
    """A directory to unpack into, and things beside it that must stay as they are."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.into = path / "lab/layer"
        self.into.mkdir(parents=True)
        self.secret = path / "secret"
        self.secret.write_text("untouched")
        self.outside = path / "outside"
        self.outside.mkdir()

    def unpack(self, *entries: Entry, mode: str = "w") -> Path:
        return self.open(archives.write(self.path / "layer.tar", *entries, mode=mode))

    def open(self, archive: Path) -> Path:
        descriptor = os.open(self.into, os.O_RDONLY | os.O_DIRECTORY)
        try:
            unpack.unpack(str(archive), descriptor)
        finally:
            os.close(descriptor)
        return self.into

    def is_untouched(self) -> bool:
        only = sorted(os.listdir(self.path)) == ["lab", "layer.tar", "outside", "secret"]
        quiet = self.secret.read_text() == "untouched" and not os.listdir(self.outside)
        return (
            only and quiet and os.listdir(self.path / "lab") == ["layer"] and self.secret.stat().st_nlink == 1
        )


@pytest.fixture
def box(outer: object, host: object, tmp_path: Path) -> Iterator[Box]:
    found = Box(tmp_path)
    yield found
    shutil.rmtree(found.into)


# -- what is kept --------------------------------------------------------------------------------


def test_modes_owners_times_links_and_attributes(box: Box) -> None:
    capability = struct.pack("<IIIII", 0x02000001, 1 << 13, 0, 0, 0)
    attributes = {
        "SCHILY.xattr.security.capability": capability.decode("utf-8", "surrogateescape"),
        "SCHILY.xattr.trusted.overlay.redirect": "/etc",
    }
    root = box.unpack(
        directory(".", mode=0o751),
        directory("d", mode=0o1777, uid=12, gid=34),
        file("d/setuid", "x", mode=0o4755, uid=1000, gid=1000),
        file("d/ping", "y", mode=0o755, pax_headers=attributes),
        hard_link("d/again", "d/setuid"),
        symlink("d/link", "setuid"),
        device("d/fifo", tarfile.FIFOTYPE, 0, 0),
    )
    state = (root / "d/setuid").stat()
    assert (state.st_mode, state.st_uid, state.st_gid, state.st_nlink) == (0o104755, 1000, 1000, 2)
    assert state.st_mtime == (root / "d").stat().st_mtime == 1_600_000_000
    assert (root / "d").stat().st_mode == 0o041777 and root.stat().st_mode == 0o040751
    assert ((root / "d").stat().st_uid, (root / "d").stat().st_gid) == (12, 34)
    assert os.readlink(root / "d/link") == "setuid"
    assert stat.S_ISFIFO((root / "d/fifo").stat().st_mode)
    assert os.getxattr(root / "d/ping", "security.capability") == capability
    assert os.listxattr(root / "d/ping") == ["security.capability"]


@pytest.mark.parametrize("how", ["", "gz", "bz2", "xz", "zst"])
def test_compressions_are_told_by_content(box: Box, how: str) -> None:
    entries = [file("a/b", b"0123456789" * 100_000), symlink("l", "a")]
    if how == "zst":
        if shutil.which("zstd") is None:
            pytest.skip("no zstd program")
        plain = archives.write(box.path / "plain.tar", *entries)
        subprocess.run(["zstd", "-q", "--rm", plain, "-o", box.path / "layer.tar"], check=True)
        box.open(box.path / "layer.tar")
    else:
        box.unpack(*entries, mode=f"w:{how}" if how else "w")
    assert (box.into / "a/b").read_bytes() == b"0123456789" * 100_000
    assert box.is_untouched()


def test_without_a_program_for_zstd_the_error_names_the_package(
    box: Box, monkeypatch: pytest.MonkeyPatch
) -> None:
    (box.path / "layer.tar").write_bytes(b"\x28\xb5\x2f\xfd" + bytes(100))
    monkeypatch.setenv("PATH", str(box.outside))
    monkeypatch.setattr(unpack, "_zstd_module", lambda: None)
    assert not unpack.can_zstd()
    with pytest.raises(unpack.Refused) as caught:
        box.open(box.path / "layer.tar")
    assert "apt-get install zstd" in (caught.value.hint or "")


@pytest.mark.parametrize(("magic", "module"), [(b"BZh", "bz2"), (b"\xfd7zXZ\0", "lzma")])
def test_a_python_built_without_a_module(
    box: Box, monkeypatch: pytest.MonkeyPatch, magic: bytes, module: str
) -> None:
    (box.path / "layer.tar").write_bytes(magic + bytes(100))
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(unpack.Refused, match=f"this Python was built without its module {module}"):
        box.open(box.path / "layer.tar")


def test_sparse_file(box: Box) -> None:
    source = box.path / "sparse"
    with source.open("wb") as stream:
        stream.seek(1 << 20)
        stream.write(b"end")
    subprocess.run(["tar", "-C", box.path, "-cSf", box.path / "layer.tar", "sparse"], check=True)
    source.unlink()
    box.open(box.path / "layer.tar")
    assert (box.into / "sparse").read_bytes() == bytes(1 << 20) + b"end"


def test_a_member_that_comes_twice_replaces_itself(box: Box) -> None:
    root = box.unpack(
        file("a", "one"), symlink("b", "a"), directory("c"), file("c/x"), hard_link("a", "a"),
        file("b", "two"), file("c", "three"),
    )  # fmt: skip
    assert [(root / name).read_text() for name in "abc"] == ["one", "two", "three"]
    assert not (root / "b").is_symlink()


# -- whiteouts -----------------------------------------------------------------------------------


def is_whiteout(path: Path) -> bool:
    found = path.lstat()
    return stat.S_ISCHR(found.st_mode) and found.st_rdev == 0


def test_whiteouts_become_overlayfs_s_own(box: Box) -> None:
    root = box.unpack(
        file("etc/.wh.motd"),
        directory("srv"),
        file("srv/.wh..wh..opq"),
        file("srv/new"),
        file(".wh..wh.plnk"),
        file("made/.wh.again"),
        directory("made/again"),
        file("made/again/new"),
        file("kept"),
        file(".wh.kept"),
    )
    assert is_whiteout(root / "etc/motd")
    assert os.getxattr(root / "srv", OPAQUE) == b"y"
    assert os.getxattr(root / "made/again", OPAQUE) == b"y"  # hides what a layer below has there
    assert stat.S_ISREG((root / "kept").lstat().st_mode)  # a whiteout speaks of the layers below only
    found = sorted(str(path.relative_to(root)) for path in root.rglob("*"))
    assert found == ["etc", "etc/motd", "kept", "made", "made/again", "made/again/new", "srv", "srv/new"]


@pytest.mark.parametrize("name", [".wh.", ".wh...", "a/.wh.."])
def test_whiteout_of_nothing(box: Box, name: str) -> None:
    with pytest.raises(unpack.Refused, match="whiteout of nothing"):
        box.unpack(file(name))
    assert box.is_untouched()


# -- attacks -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "entry",
    [
        file("../secret", "owned"),
        file("a/../../secret", "owned"),
        directory("../outside/in"),
        symlink("../link", "x"),
        hard_link("link", "../secret"),
        hard_link("link", "a/../../../secret"),
        hard_link("link", "nowhere"),
        hard_link("link", "/"),
        file("x", "owned", uid=1 << 33, pax_headers={"uid": str(1 << 33)}),
        file("x", "owned", pax_headers={"mtime": "nan"}),
        file("x", "owned", pax_headers={"mtime": "1e300"}),
        file("x" * 300, "owned"),
        file("/".join(["x" * 200] * 40), "owned"),
        _ := (tarfile.TarInfo("strange"), b""),
    ],
    ids=lambda entry: entry[0].name[:20] + ">" + entry[0].linkname,
)
def test_a_member_that_leads_out_or_is_nonsense_is_named(box: Box, entry: Entry) -> None:
    info, data = entry
    if info.name == "strange":
        info.type = b"Z"
    with pytest.raises((unpack.Refused, OSError)) as caught:
        box.unpack(file("first", "1"), (info, data))
    assert info.name[:20] in str(caught.value)
    assert box.is_untouched()


def test_absolute_names_and_links_stay_inside(box: Box) -> None:
    secret, outside = str(box.secret), str(box.outside)
    root = box.unpack(
        file("/etc/passwd", "inside"),
        directory(outside),
        symlink("out", outside),
        file("out/planted", "inside"),
        symlink("up", "../../.."),
        file("up/secret2", "inside"),
        symlink("target", secret),
        file("target", "inside"),
        hard_link("absolute", "/etc/passwd"),
        symlink("loop", "loop"),
        file("proc-self", "x"),
    )
    assert (root / "etc/passwd").read_text() == (root / "absolute").read_text() == "inside"
    assert (root / outside.lstrip("/") / "planted").read_text() == "inside"
    assert (root / "secret2").read_text() == "inside"
    assert (root / "target").read_text() == "inside" and not (root / "target").is_symlink()
    assert box.is_untouched()


def test_a_hard_link_to_a_link_links_the_link(box: Box) -> None:
    root = box.unpack(symlink("out", str(box.secret)), hard_link("again", "out"))
    assert (root / "again").is_symlink() and box.is_untouched()
    with pytest.raises((unpack.Refused, OSError)):
        box.unpack(symlink("dir", str(box.path)), hard_link("stolen", "dir/secret"))
    assert box.is_untouched()


@view.NO_DEVICES
def test_devices_are_nodes_in_the_layer_and_nothing_else(box: Box) -> None:
    before = os.stat("/dev/null")
    root = box.unpack(device("dev/null", tarfile.CHRTYPE, 1, 3), device("dev/sda", tarfile.BLKTYPE, 8, 0))
    assert stat.S_ISBLK((root / "dev/sda").stat().st_mode)
    assert os.stat("/dev/null") == before and box.is_untouched()


def test_a_writer_through_a_fifo_or_device_does_not_hang(box: Box) -> None:
    """A file in the place of what an earlier member made replaces it, and is never written through it."""
    root = box.unpack(device("x", tarfile.FIFOTYPE, 0, 0), file("x", "a"), device("n", tarfile.CHRTYPE, 1, 3),
                      file("n", "b"))  # fmt: skip
    assert [(root / name).read_text() for name in "xn"] == ["a", "b"]


@pytest.mark.parametrize("cut", [100, 512, 700, 1024 + 512 + 100])
def test_a_torn_archive_is_an_error(box: Box, cut: int) -> None:
    whole = archives.write(box.path / "layer.tar", file("a", "x" * 600), file("b", "y" * 600)).read_bytes()
    (box.path / "layer.tar").write_bytes(whole[:cut])
    with pytest.raises(unpack.Refused):
        box.open(box.path / "layer.tar")


@pytest.mark.parametrize(
    "content",
    [b"", b"no tar at all" * 100, gzip.compress(b"nor here" * 100)],
    ids=["nothing", "text", "compressed text"],
)
def test_what_is_no_archive_is_an_error(box: Box, content: bytes) -> None:
    (box.path / "layer.tar").write_bytes(content)
    with pytest.raises(unpack.Refused, match="no tar archive, or damaged"):
        box.open(box.path / "layer.tar")


def test_damage_in_the_middle_is_an_error(box: Box) -> None:
    path = archives.write(box.path / "layer.tar", *(file(f"f{n}", "x" * 600) for n in range(9)))
    broken = bytearray(path.read_bytes())
    broken[1536 * 3 : 1536 * 3 + 512] = b"?" * 512
    path.write_bytes(broken)
    with pytest.raises(unpack.Refused):
        box.open(path)
    for damaged in (gzip.compress(bytes(broken))[:-900], gzip.compress(bytes(path.stat().st_size))[:20]):
        path.write_bytes(damaged)
        with pytest.raises(unpack.Refused):
            box.open(path)


def test_a_header_that_claims_gigabytes_does_not_fill_the_memory(box: Box) -> None:
    info = tarfile.TarInfo("long")
    info.type, info.size = tarfile.XHDTYPE, 6 << 30
    (box.path / "layer.tar").write_bytes(info.tobuf(tarfile.USTAR_FORMAT) + bytes(1 << 16))
    with pytest.raises(unpack.Refused, match="header of"):
        box.open(box.path / "layer.tar")


def test_thousands_of_headers_in_a_row_are_an_error(box: Box) -> None:
    info = tarfile.TarInfo("x")
    info.type = tarfile.XHDTYPE
    (box.path / "layer.tar").write_bytes(info.tobuf(tarfile.USTAR_FORMAT) * 5000)
    with pytest.raises(unpack.Refused):
        box.open(box.path / "layer.tar")


def test_a_tree_deeper_than_any_path_is_removed(box: Box) -> None:
    """Links make members deeper than a name in an archive can say; ``down`` must still end."""
    deep = "/".join(["d"] * 900)
    entries = [directory(deep), symlink("s1", deep), directory(f"s1/{deep}")]
    root = box.unpack(
        *entries, symlink(f"s1/{deep}/x", "/"), symlink("s2", f"s1/{deep}"), directory(f"s2/{deep}")
    )
    assert (root / "d").is_dir()
    rundir.remove_tree(str(root))
    assert not root.exists()
    root.mkdir()


# -- layers in a lab's directory -----------------------------------------------------------------


def layer(source: Path, *, lowest: bool = False, id: str = "one") -> Layer:
    return Layer(id=id, source=str(source), stamp="s", lowest=lowest, where=Where("lab.yaml", 3, 5))


def test_a_layer_is_made_once_seen_and_removed(box: Box) -> None:
    lab = str(box.path / "lab")
    wanted = layer(archives.write(box.path / "layer.tar", file("a", "x")))
    layers.make(lab, wanted)
    assert list(layers.observe(lab)) == [wanted]
    assert layers.parts(lab, ["one"]) == [f"{lab}/layers/one/root"]
    os.unlink(f"{lab}/layers/one/parts.json")  # as a run that was killed leaves it
    assert list(layers.observe(lab)) != [wanted]
    layers.make(lab, wanted)
    assert (Path(layers.parts(lab, ["one"])[0]) / "a").read_text() == "x"
    layers.remove(lab, ["one", "one"])
    assert not os.path.exists(f"{lab}/layers")


def test_a_refused_layer_names_its_source_and_place(box: Box) -> None:
    source = archives.write(box.path / "layer.tar", file("../x"))
    with pytest.raises(KernelError, match=r"layer\.tar member '\.\./x'") as caught:
        layers.make(str(box.path / "lab"), layer(source))
    assert caught.value.where == Where("lab.yaml", 3, 5)
    assert [found.stamp for found in layers.observe(str(box.path / "lab"))] == [""]
    layers.remove(str(box.path / "lab"), ["one"])


def test_markers_in_a_directory_are_translated_beside_it(box: Box) -> None:
    source = archives.fill(
        box.outside, {"etc/.wh.motd": "", "srv/.wh..wh..opq": "", "srv/new": "n", "plain/x": "x"}
    )
    (source / "etc").chmod(0o711)
    lab = str(box.path / "lab")
    layers.make(lab, layer(source))
    below, same, above = map(Path, layers.parts(lab, ["one"]))
    assert same == source
    assert is_whiteout(below / "etc/motd") and is_whiteout(above / "etc/.wh.motd")
    assert os.getxattr(below / "srv", OPAQUE) == b"y" and is_whiteout(above / "srv/.wh..wh..opq")
    assert stat.S_IMODE((above / "etc").stat().st_mode) == 0o711
    layers.make(lab, layer(source, lowest=True, id="two"))
    assert layers.parts(lab, ["two"]) == [str(source)]
    layers.remove(lab, ["one", "two"])
    shutil.rmtree(source)
    source.mkdir()


def test_a_link_to_a_directory_that_is_not_there_is_an_error(box: Box) -> None:
    with pytest.raises(OSError, match="out/planted"):
        box.unpack(symlink("out", str(box.outside)), file("out/planted", "owned"))
    assert box.is_untouched()
