"""What the words on the command line mean: FILE or LAB, ``K=V``, durations, labels.

Owns: these rules, and the errors for words that mean nothing.  Must not: do what is asked.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from netns_orch.errors import PermissionNeeded, UsageError
from netns_orch.kernel import userdir

if TYPE_CHECKING:
    from netns_orch.labfile.model import Topology

T = TypeVar("T")

DEFAULT_FILE = "lab.yaml"


def nearest(word: str, names: Iterable[str]) -> str | None:
    """The name most like ``word``, if one is like it at all."""
    from netns_orch.labfile import hints

    return hints.nearest(word, names)


def settle(
    topology: Topology, *, building: bool = False, pull: bool = False, timeout: float | None = None
) -> float:
    """Go where the lab is built: root is there; an ordinary user enters the lab's realm, made where missing.

    Before, images are fetched where it is to be built: those that are missing, with ``pull`` all of them,
    each within ``timeout`` seconds; the seconds that it took.
    PermissionNeeded where this host lets no ordinary user have a lab.
    """
    from netns_orch import images, rootless
    from netns_orch.cli.output import note

    spent = images.settle(topology, building=building, again=pull, timeout=timeout, tell=note)
    rootless.settle(topology, building=building)
    return spent


def require_root() -> None:
    """PermissionNeeded for an ordinary user."""
    if userdir.is_ordinary():
        raise PermissionNeeded("this needs root")


def why_unsettled(topology: Topology) -> str | None:
    """The same, where it is possible: None, or why it is not."""
    try:
        settle(topology)
    except PermissionNeeded as error:
        return error.what
    return None


def look() -> list[str]:
    """Before labs are looked for: forget those of this user whose first process was killed; their names."""
    from netns_orch import rootless

    return rootless.look(needed=False)


def only_root_has_labs() -> bool:
    """Whether there are labs, but none of this ordinary user."""
    from netns_orch import rootless

    return rootless.sees_none_but_roots()


def each(function: Callable[[], Iterable[T]]) -> Iterable[T]:
    """What ``function`` finds on this host; for an ordinary user in the realm of each of his labs."""
    from netns_orch import rootless

    return rootless.each(function)


def lab_file(word: str | None) -> tuple[Path, str | None]:
    """The lab file that FILE, LAB or nothing means, and the name of the lab where LAB was given."""
    from netns_orch import lab

    if word is None:
        return _here(), None
    if lab.is_file(word):
        return _existing(Path(word)), None
    rows = {str(row["lab"]): row for row in lab.labs()}
    if word not in rows:
        raise _neither(word, rows)
    file = rows[word]["file"]
    if file is None:
        raise UsageError(f"lab {word} was not made from a file", hint="name a FILE")
    return _existing(Path(file)), word


def _here() -> Path:
    if not Path(DEFAULT_FILE).is_file():
        raise UsageError(
            f"there is no {DEFAULT_FILE} here",
            hint="name a FILE, or write an example with: netorch init red-blue",
        )
    return Path(DEFAULT_FILE)


def _existing(file: Path) -> Path:
    if file.is_dir():
        raise UsageError(f"{file} is a directory, not a lab file", hint=_inside(file))
    if not file.exists():
        raise UsageError(f"there is no file {file}", hint=_beside(file))
    return file


def _inside(directory: Path) -> str | None:
    if (directory / "lab.conf").is_file():
        return f"a Kathará lab: netorch import {directory} -o lab.yaml"
    names = sorted(str(path) for path in directory.glob("*.yaml"))
    return f"in it are: {', '.join(names[:10])}" if names else None


def _beside(file: Path) -> str | None:
    directory = file.parent
    names = [path.name for path in directory.iterdir() if path.is_file()] if directory.is_dir() else []
    like = nearest(file.name, names)
    return f"did you mean {directory / like}?" if like else None


def _neither(word: str, rows: Mapping[str, Any]) -> UsageError:
    files = sorted(path.name for path in Path().glob("*.yaml"))
    like = nearest(word, [*rows, *files, *(name.removesuffix(".yaml") for name in files)])
    if like is not None and like not in rows:
        like = like if like in files else f"{like}.yaml"
    hint = f"did you mean {like}?" if like else None
    if hint is None and rows:
        hint = f"up are: {', '.join(rows)}"
    return UsageError(f"{word} is neither a file nor a lab that is up", hint=hint)


def lab_name(word: str | None, *, node: str | None = None, needed: bool = True) -> str:
    """The lab that FILE, LAB or nothing means (DESIGN section 3); with a node, the only lab that has it."""
    from netns_orch import lab, rootless

    rootless.look()
    name = lab.find(word, node=node)
    if word is not None and lab.is_file(word):
        _refuse_namesake(name, Path(word))
    rootless.enter(name, needed=needed)
    return name


def _refuse_namesake(name: str, file: Path) -> None:
    """A file means the lab that was made of it, never one that only has the same name."""
    from netns_orch import lab

    for row in lab.labs():
        other = row["file"]
        if row["lab"] == name and other is not None and Path(other).resolve() != file.resolve():
            raise UsageError(
                f"no lab of {file} is up; lab {name} is, but from {other}",
                hint=f"if that one is meant, give its name: {name}",
            )


def down_name(word: str | None) -> str | None:
    """The lab to take down; None where no lab is up, which is no error for ``down``."""
    from netns_orch import lab, rootless

    rootless.look()
    if word is None and not lab.labs():
        # Marks in the kernel may have outlived the run directory: then the file here knows the name.
        return lab.find(DEFAULT_FILE) if Path(DEFAULT_FILE).is_file() else None
    return lab_name(word, needed=False)


def variables(pairs: Iterable[str]) -> dict[str, str]:
    """``K=V`` words as a mapping."""
    found = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not key:
            raise UsageError(f"--var {pair}: expected NAME=VALUE")
        found[key] = value
    return found


def seconds(option: str, text: str | None) -> float | None:
    """A duration as in a lab file (``10s``, ``1m30s``, ``1h``) in seconds; a number alone is seconds, too."""
    from netns_orch.labfile import units

    if text is None:
        return None
    try:
        return units.duration(f"{text}s" if text.isascii() and text.isdigit() else text)
    except units.Wrong as error:
        raise UsageError(f"{option}: {error.what}", hint=error.hint) from None


def time_to_live(option: str, text: str | None) -> float | None:
    """A duration from now in seconds, or ``none``: without end."""
    return math.inf if text == "none" else seconds(option, text)


def process(option: str, text: str | None) -> int | None:
    """The number of a process; 0 for ``none``."""
    if text == "none":
        return 0
    number = whole(option, text)
    if number == 0:
        raise UsageError(f"{option}: there is no process 0", hint="none: the lab belongs to no process")
    return number


def whole(option: str, text: str | None) -> int | None:
    """A whole number from 0 up."""
    if text is None:
        return None
    if not (text.isascii() and text.isdigit()) or len(text) > 18:
        raise UsageError(f"{option}: expected a whole number, got {text}")
    return int(text)


def has_labels(row: Mapping[str, Any], wanted: Iterable[str]) -> bool:
    """Whether a container bears every label of ``wanted`` (``K=V``, or ``K`` with any value)."""
    labels = row.get("labels") or {}
    for word in wanted:
        key, equals, value = word.partition("=")
        if key not in labels or (equals and labels[key] != value):
            return False
    return True


def file_not_up(word: str | None) -> Path | None:
    """The lab file that FILE (or nothing, with a lab.yaml here) means, where no lab of it is up."""
    from netns_orch import lab

    file = Path(word if word is not None else DEFAULT_FILE)
    meant = lab.is_file(word) if word is not None else file.is_file()
    if not meant:
        return None
    rows = lab.labs()
    others = word is None and bool(rows)
    up = any(row["file"] == str(file.resolve()) for row in rows)
    return None if up or others else _existing(file)
