"""The labs that are up, read with next to nothing imported: for ``exec`` and for shell completion.

Owns: a small reader of the run directory's JSON files.
Must not: import more than builtin modules (the package ``json`` alone, by way of ``re``, costs several
milliseconds, more than entering a container), or write.
"""

from __future__ import annotations

import os

from netns_orch.kernel import userdir

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_SO_NETNS_COOKIE = 71


class _Context:
    """What the C scanner asks of a JSONDecoder (json/decoder.py)."""

    strict = True
    object_hook = None
    object_pairs_hook = None
    parse_float = float
    parse_int = int
    parse_constant = float
    memo: dict[str, str]


def read_json(path: str) -> Any:
    """The content of a JSON file; None where it is missing or torn."""
    try:
        with open(path, "rb") as file:
            text = file.read().decode("utf-8", "surrogatepass")
    except OSError:
        return None
    try:
        from _json import make_scanner
    except ImportError:  # not CPython
        import json

        try:
            return json.loads(text)
        except ValueError:
            return None
    try:
        return make_scanner(_Context())(text.strip(), 0)[0]  # type: ignore[arg-type]
    except (StopIteration, ValueError):
        return None


def host_id() -> str:
    """The id of the network namespace this process is in: its cookie, in hex (as ``rundir.host_id``)."""
    import _socket

    probe = _socket.socket(_socket.AF_UNIX, _socket.SOCK_DGRAM)
    try:
        raw = probe.getsockopt(_socket.SOL_SOCKET, _SO_NETNS_COOKIE, 8)
    finally:
        probe.close()
    return f"{int.from_bytes(raw, 'little'):x}"


def _boot_id() -> str:
    """As ``rundir.boot_id``: what an earlier boot left in the files is up no longer."""
    with open("/proc/sys/kernel/random/boot_id", "rb") as file:
        return file.read().decode().strip()


class Lab:
    """One lab that is up: ``about`` is lab.json."""

    __slots__ = ("about", "name", "path")

    def __init__(self, name: str, path: str, about: dict[str, Any]) -> None:
        self.name, self.path, self.about = name, path, about

    @property
    def file(self) -> str | None:
        """The absolute path of the lab file."""
        file: str | None = self.about.get("file")
        return file

    @property
    def containers(self) -> dict[str, Any]:
        """Name to what lab.json says of it, in file order."""
        containers: dict[str, Any] = self.about.get("containers") or {}
        return containers

    def members(self, node: str) -> list[str]:
        """The containers that ``node`` stands for: itself, or those of a scaled group; none if unknown."""
        if node in self.containers:
            return [node]
        group: list[str] = (self.about.get("groups") or {}).get(node) or []
        return [name for name in group if name in self.containers]

    def directory(self, container: str) -> str:
        """Where the files of a container are."""
        return f"{self.path}/c/{container}"


def labs_up(id: str | None = None) -> list[Lab]:
    """The labs of this host namespace, or of this user.  PermissionError where they may not be read."""
    suffix = "" if userdir.is_ordinary() else f".{id or host_id()}"
    boot = _boot_id()
    found = []
    for run in userdir.runs():
        try:
            entries = sorted(os.listdir(run))
        except FileNotFoundError:
            continue
        for entry in entries:
            if entry.endswith(suffix):
                about = read_json(f"{run}/{entry}/lab.json")
                if isinstance(about, dict) and about.get("boot_id", boot) == boot:
                    found.append(Lab(entry.rpartition(".")[0], f"{run}/{entry}", about))
    return found
