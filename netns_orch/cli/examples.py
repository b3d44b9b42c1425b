"""The examples that ship with netorch, for ``init``.

Owns: where they lie and what their first lines say; writing a file that may be there.  Must not: parse them.
"""

from __future__ import annotations

from pathlib import Path

from netns_orch.cli.choose import nearest
from netns_orch.errors import NetorchError, UsageError


def examples() -> dict[str, Path]:
    """The examples by name; in a source tree they lie beside the package, installed in it."""
    package = Path(__file__).resolve().parent.parent
    for directory in (package / "topologies", package.parent / "topologies"):
        if directory.is_dir():
            return {path.stem: path for path in sorted(directory.glob("*.yaml"))}
    return {}


def summary(path: Path) -> str:
    """What the first comment line of an example says."""
    for line in path.read_text(encoding="utf-8").splitlines():
        text = line.lstrip("#").strip()
        if line.startswith("#") and text and "yaml-language-server" not in text:
            return text
        if line and not line.startswith("#"):
            break
    return ""


def find_example(name: str) -> Path:
    """The file of one example, by its name with or without ``.yaml``."""
    known = examples()
    stem = name.removesuffix(".yaml")
    if stem not in known:
        like = nearest(stem, known)
        hint = f"did you mean {like}?" if like else "netorch init   lists the examples"
        raise UsageError(f"there is no example {name}", hint=hint)
    return known[stem]


def example_text(name: str) -> str:
    """The text of one example."""
    return find_example(name).read_text(encoding="utf-8")


def write_example(name: str, target: Path, *, force: bool) -> None:
    """Write an example to ``target``, and the directory of its name, if it has one, beside that.

    Files that are there stay, but with ``force``.
    """
    source = find_example(name)
    beside = source.with_suffix("")
    files = {source: target}
    for path in sorted(beside.rglob("*")):
        if path.is_file():
            files[path] = target.parent / path.relative_to(source.parent)
    for to in files.values():
        refuse_existing(to, force=force)
    for path, to in files.items():
        write(path.read_bytes(), to, force=force)


def refuse_existing(target: Path, *, force: bool) -> None:
    """UsageError where the file is there, but with ``force``."""
    if target.exists() and not force:
        hint = "--force overwrites it, -o FILE writes elsewhere"
        raise UsageError(f"{target} is there already", hint=hint)


def write(content: bytes, target: Path, *, force: bool) -> None:
    """Write a file and the directories above it; one that is there stays, but with ``force``."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with target.open("wb" if force else "xb") as stream:
            stream.write(content)
    except OSError as error:
        raise NetorchError(f"can't write {target}: {error.strerror}") from error
