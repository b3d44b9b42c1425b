"""Roots and what is mounted into them: what a lab file may ask for, and whether the host has it.

Owns: the checks of ``rootfs``, ``volumes``, ``tmpfs``, ``devices``, ``files`` and of ``seccomp``'s file, and
which paths of the host they name.  Must not: look at the host itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from posixpath import normpath

from netns_orch.errors import Where
from netns_orch.graph.names import Problems, place
from netns_orch.graph.wiring import Wiring
from netns_orch.labfile import imagename, model
from netns_orch.resources import HostPath

_WORDS = {"missing": "there is no {}", "device": "{} is a device", "other": "{} is no directory and no file"}
_ASKS: dict[str, tuple[frozenset[str], str]] = {
    "layer": (frozenset({"directory", "file"}), "a layer is a directory or a tar file"),
    "image": (frozenset({"directory", "file"}), "a path is relative to the lab file"),
    "volume": (frozenset({"directory", "file", "other"}), "a volume's source is on the host: make it first"),
    "profile": (frozenset({"file"}), "seccomp is default, unconfined or the path of a profile in OCI JSON"),
    "device": (frozenset({"device"}), "`ls -l /dev` shows the host's devices, by a first letter of c or b"),
}
Mounted = model.Volume | model.Tmpfs | model.Device
Asked = tuple[str, str, Where | None]
"""A path of the host, what it is for (a key of ``_ASKS``), its place in the file."""


def target(path: str) -> str:
    """The path of a mount inside, in its one canonical form."""
    return normpath("/" + path.lstrip("/"))


def paths_named(wiring: Wiring) -> tuple[str, ...]:
    """The paths of the host that ``check_host`` must know about."""
    return tuple(dict.fromkeys(path for path, _, _ in _asked(wiring)))


def check_host(wiring: Wiring, paths: Iterable[HostPath], problems: Problems) -> None:
    """Every source must be there, and be what it is used as."""
    kinds = {path.path: path.kind for path in paths}
    for path, use, where in _asked(wiring):
        wanted, hint = _ASKS[use]
        kind = kinds.get(path, "missing")
        if kind not in wanted:
            words = _WORDS.get(kind, f"{{}} is a {kind}")
            problems.error(words.format(path), where, hint)


def _asked(wiring: Wiring) -> Iterator[Asked]:
    for container in wiring.topology.containers.values():
        for layer in container.rootfs.layers:
            yield layer, "layer", container.rootfs.where or container.where
        if container.image and (path := imagename.parse(container.image).path):
            yield path, "image", container.mark("image")
        for volume in container.volumes:
            if not volume.named:
                yield volume.source, "volume", volume.where or place(container, "volumes")
        for device in container.devices:
            yield device.source, "device", device.where or place(container, "devices")
        if container.seccomp.startswith("/"):
            yield container.seccomp, "profile", place(container, "seccomp")


def check(wiring: Wiring, problems: Problems) -> None:
    """What is mounted twice, or where nothing can be mounted or written."""
    for container in wiring.topology.containers.values():
        _targets(container, problems)
        for path in container.files:
            if _in_kernel(path):
                what = f"a file can't be written to {path}: the kernel makes what is there"
                problems.error(what, place(container, "files"), "`sysctls` sets those of /proc/sys")


def _targets(container: model.Container, problems: Problems) -> None:
    seen: set[str] = set()
    mounts: list[Mounted] = [*container.volumes, *container.tmpfs, *container.devices]
    for item in mounts:
        path, where = target(item.target), item.where or container.where
        if path == "/":
            problems.error("the root itself can't be mounted over", where, "it is `rootfs`")
        elif _in_kernel(path):
            problems.error(f"nothing can be mounted at {path}: the kernel makes what is there", where)
        elif path in seen:
            problems.error(f"{path} is mounted twice in {container.name}", where)
        seen.add(path)


def _in_kernel(path: str) -> bool:
    return target(path).split("/")[1] in ("proc", "sys")
