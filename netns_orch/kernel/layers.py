"""The layers of roots: made ready once in the lab's directory, shared by all containers that use them.

Owns: ``layers/<id>`` there: an archive unpacked, or what translates the whiteouts of a directory.
Must not: change a source, or know how a root is put together of layers (``rootfs``).

A directory is used where it lies, and never written.  Where it holds OCI whiteouts, two small layers go with
it: one below it hides what they name in the layers further down, one above it hides the marker files.
The directory is in /run: what is unpacked counts as the host's memory, and does not outlive a boot.
"""

from __future__ import annotations

import errno
import json
import os
import stat
from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import Any

from netns_orch.errors import KernelError
from netns_orch.kernel import ids, rundir
from netns_orch.kernel.unpack import (
    OPAQUE,
    WHITEOUT,
    Refused,
    hidden_by,
    make_opaque,
    make_whiteout,
    unpack,
)
from netns_orch.resources import Layer

_PARTS = "parts.json"
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_HINTS = {
    errno.ENOSPC: "it is unpacked in /run, which is full: unpack it elsewhere and give the directory, "
    "or enlarge it: mount -o remount,size=4G /run",
    errno.EDQUOT: "it is unpacked in /run: unpack it elsewhere, and give the directory",
}


def make(directory: str, layer: Layer) -> None:
    """Make a layer ready below the lab's ``directory``; KernelError names its source and its place."""
    path = _path(directory, layer.id)
    try:
        rundir.remove_tree(path)
        rundir.make_directories(path)
        found: dict[str, Any] = {
            "source": layer.source,
            "stamp": layer.stamp,
            "lowest": layer.lowest,
            "parts": _make_parts(path, layer),
        }
        rundir.replace_file(f"{path}/{_PARTS}", json.dumps(found))
    except Refused as error:
        raise KernelError(f"{layer.source} {error.what}", where=layer.where, hint=error.hint) from error
    except OSError as error:
        number = error.errno or 0
        what = f"{layer.source}: {error.strerror}"
        raise KernelError(what, errno=number, where=layer.where, hint=_HINTS.get(number)) from error


def parts(directory: str, ids: Iterable[str]) -> list[str]:
    """The directories that these layers stand for, lowest first."""
    found: list[str] = []
    for layer in ids:
        about = _about(directory, layer)
        if about is None:
            raise KernelError(f"{_path(directory, layer)} is gone: a layer of the lab's roots")
        found += about["parts"]
    return found


def observe(directory: str) -> Iterator[Layer]:
    """The layers that are there; what a killed run left half made is a layer that nobody wants."""
    try:
        ids = sorted(os.listdir(f"{directory}/layers"))
    except FileNotFoundError:
        return
    for layer in ids:
        about = _about(directory, layer)
        if about is None:
            yield Layer(id=layer, source="", stamp="")
        else:
            yield Layer(id=layer, source=about["source"], stamp=about["stamp"], lowest=about["lowest"])


def remove(directory: str, ids: Iterable[str]) -> None:
    """Remove layers; one that is gone already is fine."""
    for layer in ids:
        with suppress(FileNotFoundError):
            os.unlink(f"{_path(directory, layer)}/{_PARTS}")  # first: from now on it is not whole
        rundir.remove_tree(_path(directory, layer))
    with suppress(OSError):
        os.rmdir(f"{directory}/layers")


def _path(directory: str, layer: str) -> str:
    return f"{directory}/layers/{layer}"


def _about(directory: str, layer: str) -> dict[str, Any] | None:
    try:
        with open(f"{_path(directory, layer)}/{_PARTS}", encoding="utf-8") as stream:
            found: dict[str, Any] = json.load(stream)
            return found
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return None


def _make_parts(path: str, layer: Layer) -> list[str]:
    if os.path.isdir(layer.source):
        markers = [] if layer.lowest else list(_markers(layer.source))
        return _translate(path, layer.source, markers) if markers else [layer.source]
    into = _make(f"{path}/root")
    try:
        unpack(layer.source, into)
    finally:
        os.close(into)
    return [f"{path}/root"]


def _make(path: str) -> int:
    os.mkdir(path, 0o755)
    os.chmod(path, 0o755)
    return os.open(path, _DIRECTORY)


# -- whiteouts of a directory --------------------------------------------------------------------


def _markers(source: str) -> Iterator[tuple[str, str]]:
    """(directory below ``source``, name) of each marker file."""
    left = [""]
    while left:
        inner = left.pop()
        with os.scandir(f"{source}/{inner}") as entries:
            for entry in entries:
                if entry.name.startswith(WHITEOUT):
                    yield inner, entry.name
                elif entry.is_dir(follow_symlinks=False):
                    left.append(f"{inner}/{entry.name}".lstrip("/"))


def _translate(path: str, source: str, markers: Iterable[tuple[str, str]]) -> list[str]:
    below, above = f"{path}/below", f"{path}/above"
    for shadow in (below, above):
        os.close(_make(shadow))
        _like(source, shadow)
    for inner, name in markers:
        for shadow in (below, above):
            _make_like(source, shadow, inner)
        directory = os.open(f"{above}/{inner}", _DIRECTORY)
        make_whiteout(directory, name)
        os.close(directory)
        directory = os.open(f"{below}/{inner}", _DIRECTORY)
        if name == OPAQUE:
            make_opaque(directory)
        elif hidden := hidden_by(name):
            make_whiteout(directory, hidden)
        os.close(directory)
    return [below, source, above]


def _make_like(source: str, shadow: str, inner: str) -> None:
    """The directory ``inner`` of the source, and those above it, in the shadow."""
    names = inner.split("/") if inner else []
    for count in range(1, len(names) + 1):
        part = "/".join(names[:count])
        try:
            os.mkdir(f"{shadow}/{part}")
        except FileExistsError:
            continue
        _like(f"{source}/{part}", f"{shadow}/{part}")


def _like(source: str, copy: str) -> None:
    """Owner, mode and time: of a directory in many layers, the uppermost counts."""
    found = os.stat(source)
    ids.give(copy, found.st_uid, found.st_gid)
    os.chmod(copy, stat.S_IMODE(found.st_mode))
    os.utime(copy, ns=(found.st_atime_ns, found.st_mtime_ns))
