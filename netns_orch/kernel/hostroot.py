"""The host's root as the root of a rootless lab's containers: copy-on-write, but in parts.

Owns: which parts there are (``survey``), the directories that a container may write to (``_ground``), putting
a container's root together of them (``mount``).
Must not: know what else is mounted into a root (``rootfs``).

overlayfs takes no lower directory with another mount below it that was there before the user namespace was
(it is locked, mount_namespaces(7)), and below / there is always one.  So each directory without such mounts
is an overlay of its own, and those on the way to a mount are made anew.

Files of the host's users have no owner inside (they are nobody's) and what nobody owns can't be changed, nor
anything be made in his directories.  So the directories where programs write are there once more as a layer
between, owned by the lab's root; /etc with its files, as far as this user can read them.
"""

from __future__ import annotations

import os
import stat
from contextlib import suppress

from netns_orch.kernel import syscalls as sc

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    Part = tuple[str, str, str]

STORE = "/run/.netorch-ground"
"""A tmpfs of the realm's own: there are thousands of files to be made, and none to be kept."""
GROUND = f"{STORE}/tree"
"""The layer between, made once for each realm."""
COPIED = "/etc"
WRITABLE = ("/etc", "/var", "/root", "/home", "/opt", "/srv", "/mnt", "/media", "/usr/local")
OPAQUE = "user.overlay.opaque"
_FRESH = ("/proc", "/sys", "/dev", "/run", "/tmp")
_MOST_DIRECTORIES = 20_000
_LARGEST_FILE = 1 << 20
_DIRECTORY = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC


def is_writable(path: str) -> bool:
    """Whether a container may write to this directory of the root, or below it."""
    return any(path == top or path.startswith(f"{top}/") for top in WRITABLE)


def survey(points: Iterable[str], others: set[str], left_out: tuple[str, ...]) -> list[Part]:
    """The parts of the root: (kind, path, target), parents first.  ``points``: all mount points there are.

    ``layer``: to be an overlay; ``copied``: one of nothing but the layer between; ``directory``: to be made,
    for there are mounts below; ``file``: to be bound; ``link``: a symbolic link to the target.  What is below
    ``left_out`` is not shown, and of ``others``, mount points, the directory alone: who calls mounts them.
    """
    _make_ground(others, left_out)
    found: list[Part] = []
    _survey("/", {point for point in points if point != "/"}, {*others, *_FRESH, *left_out}, found)
    return found


def _survey(directory: str, points: set[str], empty: set[str], found: list[Part]) -> None:
    try:
        entries = sorted(os.scandir(directory), key=lambda entry: entry.name)
    except OSError:
        return  # not this user's to look into
    for entry in entries:
        path = os.path.join(directory, entry.name)
        if entry.is_symlink():
            found.append(("link", path, os.readlink(path)))
        elif not entry.is_dir(follow_symlinks=False):
            if entry.is_file(follow_symlinks=False):
                found.append(("file", path, ""))
        elif path in empty:
            found.append(("directory", path, ""))
        elif not any(point.startswith(f"{path}/") for point in points):
            found.append(("layer", path, ""))
        elif path == COPIED:
            found.append(("copied", path, ""))
        else:
            found.append(("directory", path, ""))
            _survey(path, points, empty, found)


# -- the layer between ---------------------------------------------------------------------------


def _make_ground(others: set[str], left_out: tuple[str, ...]) -> None:
    if os.path.isdir(GROUND):
        return
    import shutil

    making = f"{GROUND}.new"
    shutil.rmtree(making, ignore_errors=True)
    os.mkdir(making, 0o755)
    count = 0
    level = [path for path in WRITABLE if path not in others and _is_plain_directory(path)]
    while level and count < _MOST_DIRECTORIES:  # those at the top first: /etc before all that homes hold
        below: list[str] = []
        for path in level:
            with suppress(FileNotFoundError):  # removed meanwhile
                if _make_like(path, making + path) and not _is_own(path):
                    below += _inside(path, making + path, {*others, *left_out})
        count += len(level)
        level = below[: _MOST_DIRECTORIES - count]
    os.rename(making, GROUND)


def _is_plain_directory(path: str) -> bool:
    return os.path.isdir(path) and not os.path.islink(path)


def _make_like(path: str, copy: str) -> bool:
    """A directory like ``path``, but owned by root; whether there is anything in it that may be seen.

    One that this user may not look into hides what is below: there is nothing to merge.
    """
    os.makedirs(copy, exist_ok=True)
    os.chmod(copy, stat.S_IMODE(os.stat(path).st_mode) | 0o700)
    if os.access(path, os.R_OK | os.X_OK):
        return True
    with suppress(OSError):
        os.setxattr(copy, OPAQUE, b"y")
    return False


def _is_own(path: str) -> bool:
    """Whether it is this user's already: root's inside."""
    return os.stat(path).st_uid == 0


def _inside(path: str, copy: str, empty: set[str]) -> list[str]:
    """The directories to go on with; files of what is copied are copied here."""
    found = []
    for entry in os.scandir(path):
        if entry.is_dir(follow_symlinks=False):
            if entry.path not in empty:
                found.append(entry.path)
            else:
                os.mkdir(f"{copy}/{entry.name}", 0o755)
        elif path == COPIED or path.startswith(f"{COPIED}/"):
            with suppress(OSError):
                _copy(entry, f"{copy}/{entry.name}")
    return found


def _copy(entry: os.DirEntry[str], copy: str) -> None:
    import shutil

    if entry.is_symlink():
        os.symlink(os.readlink(entry.path), copy)
    elif entry.is_file(follow_symlinks=False) and entry.stat().st_size <= _LARGEST_FILE:
        shutil.copyfile(entry.path, copy, follow_symlinks=False)
        shutil.copystat(entry.path, copy, follow_symlinks=False)


# -- a container's root --------------------------------------------------------------------------


def mount(store: int, parts: Iterable[Part], doing: Callable[[str], None]) -> tuple[int, list[int]]:
    """Put the root together in ``store`` (its directories upper, work, root); it and its parts, open.

    What is written lies in ``upper`` at the same path, as if it were one overlay.
    """
    root = sc.open_tree(store, "upper")
    sc.move_mount(root, store, "root")
    layers = []
    for number, (kind, path, target) in enumerate(parts):
        doing(f"show the host's {path}")
        inner = path.lstrip("/")
        if kind == "link":
            os.symlink(target, inner, dir_fd=root)
        elif kind == "file":
            _show_file(root, path)
        elif kind == "directory":
            _make_own(root, path)
        else:
            layers += _show_layer(store, root, path, number, below=kind == "layer")
    return root, layers


def layered(store: int, lower: Iterable[int], upper: str, work: str) -> list[tuple[str, str | None]]:
    """What makes an overlay of directories, and of two of the store's."""
    here = f"/proc/self/fd/{store}"
    return [
        ("source", "overlay"),
        ("lowerdir", ":".join(f"/proc/self/fd/{item}" for item in lower)),
        ("upperdir", f"{here}/{upper}"),
        ("workdir", f"{here}/{work}"),
    ]


def _make_own(root: int, path: str) -> None:
    inner = path.lstrip("/")
    os.mkdir(inner, 0o755, dir_fd=root)
    with suppress(OSError):
        os.chmod(inner, stat.S_IMODE(os.stat(path).st_mode), dir_fd=root)


def _show_file(root: int, path: str) -> None:
    inner = path.lstrip("/")
    try:
        tree = sc.open_tree(sc.AT_FDCWD, path)
    except OSError:
        return
    os.close(os.open(inner, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644, dir_fd=root))
    sc.mount_setattr(tree, sc.MOUNT_ATTR_RDONLY | sc.MOUNT_ATTR_NODEV)
    sc.move_mount(tree, root, inner)
    os.close(tree)


def _show_layer(store: int, root: int, path: str, number: int, below: bool) -> list[int]:
    inner, work = path.lstrip("/"), f"work/{number}"
    _make_own(root, path)
    os.mkdir(work, 0o755, dir_fd=store)
    ground = [GROUND + path] if os.path.isdir(GROUND + path) else []
    readable = os.access(path, os.R_OK | os.X_OK)
    lower = [os.open(each, _DIRECTORY) for each in [*ground, *([path] if below and readable else [])]]
    if not lower:
        return []
    options = [*layered(store, lower, f"upper/{inner}", work), ("userxattr", None)]
    tree = sc.new_mount("overlay", options, sc.MOUNT_ATTR_NODEV)
    sc.move_mount(tree, root, inner)
    for descriptor in lower:
        os.close(descriptor)
    return [tree]
