"""Tar archives for tests, honest and hostile, and the smallest image that runs the host's programs."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

Entry = tuple[tarfile.TarInfo, bytes]
PROGRAMS = ("bin", "sbin", "lib", "lib64")


def file(name: str, content: str | bytes = "", **fields: Any) -> Entry:
    """A plain file."""
    data = content.encode() if isinstance(content, str) else content
    return _entry(name, tarfile.REGTYPE, data, **{"mode": 0o644, **fields})


def directory(name: str, **fields: Any) -> Entry:
    """A directory."""
    return _entry(name, tarfile.DIRTYPE, **{"mode": 0o755, **fields})


def symlink(name: str, target: str) -> Entry:
    """A symbolic link."""
    return _entry(name, tarfile.SYMTYPE, linkname=target, mode=0o777)


def hard_link(name: str, target: str) -> Entry:
    """A hard link."""
    return _entry(name, tarfile.LNKTYPE, linkname=target)


def device(name: str, kind: bytes, major: int, minor: int) -> Entry:
    """A device node: CHRTYPE or BLKTYPE."""
    return _entry(name, kind, devmajor=major, devminor=minor, mode=0o666)


def _entry(name: str, kind: bytes, data: bytes = b"", **fields: Any) -> Entry:
    info = tarfile.TarInfo(name)
    info.type, info.size, info.mtime = kind, len(data), 1_600_000_000
    for key, value in fields.items():
        setattr(info, key, value)
    return info, data


def write(path: Path, *entries: Entry, mode: str = "w") -> Path:
    """An archive; ``mode`` as tarfile's: ``w``, ``w:gz``."""
    with tarfile.open(path, mode, format=tarfile.PAX_FORMAT) as archive:  # type: ignore[call-overload]
        for info, data in entries:
            archive.addfile(info, io.BytesIO(data))
    return path


def skeleton(path: Path, files: Mapping[str, str] = {}) -> Path:
    """A directory that is a root once the host's /usr is mounted into it (VOLUMES)."""
    (path / "usr").mkdir(parents=True)
    for name in PROGRAMS:
        (path / name).symlink_to(f"usr/{name}")
    return fill(path, files)


def fill(path: Path, files: Mapping[str, str]) -> Path:
    """Files below a directory, by their paths."""
    for name, text in files.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_text(text)
    return path


def skeleton_entries() -> list[Entry]:
    """The same as members of an archive."""
    return [directory("usr"), *(symlink(name, f"usr/{name}") for name in PROGRAMS)]
