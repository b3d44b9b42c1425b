"""Labs in other tools' files become lab files: ``netorch import``.

Owns: knowing whose a file is, reading it, and the text of a lab file that says the same; every loss on the
way is told.  Must not: change a file, or look at the kernel.

=================  ===========================================================================
``source``         the file that is read: values with places, problems, remarks
``variables``      ``$VAR`` of the source, ``${VAR}`` of the lab file
``docker``         words that Compose and containerlab share with ``docker run``
``shell``          ``ip address add`` and the like, said by the lab file itself instead
``containerlab``   a topology file
``compose``        a Compose file; ``composekeys``: the keys of a service
``kathara``        a directory with lab.conf
``munet``          a topology file
``draft``          the lab, before it is text
``write``          the draft as text
=================  ===========================================================================

Nothing heavy is imported here: the functions below fetch their modules when they are called.
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from netns_orch.errors import NetorchError, UsageError, Where

if TYPE_CHECKING:
    from netns_orch.convert.draft import Draft
    from netns_orch.convert.source import Source
    from netns_orch.labfile.nodes import Node

KINDS = ("containerlab", "compose", "kathara", "munet")
_NAMES = (
    "lab.conf",
    "compose.yaml",
    "compose.yml",
    "docker-compose.yaml",
    "docker-compose.yml",
    "munet.yaml",
)
_CLAB = ("*.clab.yml", "*.clab.yaml")
_IMAGES = (
    "`netorch up` fetches the images by skopeo (`apt-get install skopeo`).  What an image runs by itself is "
    "not run here: without a `command` its container is idle."
)
_HOST = "--rootfs host leaves images out: containers see the programs of the host"


class Converted(NamedTuple):
    """What came out: the text, whose the file was, what was lost and what is only told."""

    text: str
    kind: str
    containers: int
    links: int
    losses: list[NetorchError]
    notes: list[NetorchError]
    problems: list[NetorchError]
    """What keeps the result from being a valid lab file."""


def convert(
    path: Path,
    *,
    kind: str | None = None,
    rootfs: str | None = None,
    output: Path | None = None,
    environ: Mapping[str, str],
) -> Converted:
    """The lab file that says what the file (or Kathará's directory) at ``path`` says.

    ``kind``: whose it is (None: told by its content).  ``rootfs``: stands in place of the images of plain
    Linux nodes.  ``output``: where the lab file will lie (None: in the current directory); its relative
    paths are of there.  LabFileError with every problem of a file that is not valid itself.
    """
    from netns_orch.convert import draft as drafts
    from netns_orch.convert import write
    from netns_orch.convert.source import Source

    file = _file(path)
    directory = output.absolute().parent if output is not None else Path.cwd()
    source = Source(file, environ, directory)
    if rootfs not in (None, "host"):
        rootfs = posixpath.relpath(Path.cwd() / str(rootfs), directory)
    kind, draft = _draft(file, kind, source, rootfs)
    if len(source.problems):
        raise source.problems.error()
    drafts.tidy(draft)
    notes = _once(remark.error for remark in source.remarks if not remark.lost)
    if _header(draft, file, kind):
        notes.append(NetorchError(_IMAGES.rstrip("."), hint=None if rootfs else _HOST))
    text = write.lab_file(draft, source.remarks)
    name = str(output) if output is not None else "lab.yaml"
    return Converted(
        text,
        kind,
        len(draft.containers),
        len(draft.links),
        _once(remark.error for remark in source.remarks if remark.lost),
        notes,
        _problems(text, name, directory, environ),
    )


def _once(errors: Iterable[NetorchError]) -> list[NetorchError]:
    """In file order, each once: what several nodes inherit has one place."""
    found: dict[tuple[object, ...], NetorchError] = {}
    for error in errors:
        found.setdefault((error.where and error.where[:3], error.what), error)
    return sorted(found.values(), key=lambda error: error.where or Where("", 0, 0))


def _file(path: Path) -> Path:
    """The file that is meant by a path."""
    if not path.is_dir():
        return path
    found = [path / name for name in _NAMES if (path / name).is_file()]
    found += [each for pattern in _CLAB for each in sorted(path.glob(pattern))]
    if len(found) == 1:
        return found[0]
    if not found:
        hint = "a file of containerlab, Compose or munet, or a directory with Kathará's lab.conf"
        raise UsageError(f"there is no lab in {path}", hint=hint)
    raise UsageError(f"there is more than one lab in {path}", hint=f"one of: {', '.join(map(str, found))}")


def _draft(file: Path, kind: str | None, source: Source, rootfs: str | None) -> tuple[str, Draft]:
    from netns_orch.convert import compose, containerlab, kathara, munet
    from netns_orch.convert.source import Value
    from netns_orch.labfile.reader import read_text

    text = read_text(file)
    if kind == "kathara" or (kind is None and (file.name == "lab.conf" or kathara.looks_like(text))):
        return "kathara", kathara.read(text, source, rootfs, read_text)
    root = _yaml(text, source)
    kind = _known(root, kind, source)
    value = Value(source, root, "")
    if kind == "munet":
        return kind, munet.read(value, source, rootfs)
    source.has_variables = True
    if kind == "containerlab":
        return kind, containerlab.read(value, source, rootfs)
    _dotenv(source)
    return kind, compose.read(value, source, rootfs)


def _yaml(text: str, source: Source) -> Node:
    from netns_orch.labfile import yaml
    from netns_orch.labfile.problems import refuse

    try:
        root = yaml.compose(text, source.problems)
    except yaml.Unreadable:
        error = source.problems.error()
        if "{{" in text:
            error.problems[-1].hint = "a template: import the topology that it makes, not the template itself"
        raise error from None
    if len(source.problems):
        raise source.problems.error()
    if root is None or root.null:
        raise refuse("the file is empty", file=source.file)
    return root


def _known(root: Node, kind: str | None, source: Source) -> str:
    """Whose a YAML file is; an error where it is nobody's, or not of the kind that was asked for."""
    from netns_orch.labfile import foreign
    from netns_orch.labfile.nodes import Mapping as MappingNode
    from netns_orch.labfile.problems import refuse

    found = foreign.tool_of(root)
    if found is not None and kind in (None, found):
        return found
    if kind is not None:
        raise refuse(f"this is not {foreign.TITLES[kind]}", _wanted(kind), source.file)
    if isinstance(root, MappingNode) and "containers" in root.entries:
        raise refuse("this is a lab file already", f"netorch up {source.file}", source.file)
    hint = "\n".join(f"{foreign.TITLES[each]} has {_wanted(each)}" for each in KINDS)
    raise refuse("this is nothing that netorch can import", hint, source.file)


def _wanted(kind: str) -> str:
    return {
        "containerlab": "`topology`, and in it `nodes`",
        "compose": "`services`",
        "kathara": 'a lab.conf with lines such as pc1[0]="A"',
        "munet": "`topology`, and in it a list of `nodes`",
    }[kind]


def _dotenv(source: Source) -> None:
    """Compose's .env beside the file: values that the environment goes before."""
    from netns_orch.labfile import short
    from netns_orch.labfile.reader import read_text
    from netns_orch.labfile.units import Wrong

    path = source.directory / ".env"
    if not path.is_file():
        return
    beside = source.beside(path.name).at(0, 0, "")
    try:
        source.defaults = short.environment_file(read_text(path))
    except Wrong as wrong:
        beside.fail(wrong.what, wrong.hint)
        return
    source.environ = {**source.defaults, **source.environ}
    beside.told("the variables of .env became defaults: ${NAME:-value}")


def _header(draft: Draft, file: Path, kind: str) -> bool:
    """The comment at the top; whether the lab has images."""
    from netns_orch.labfile import foreign

    head = [
        f"Imported from {foreign.TITLES[kind]}, {file.name}.",
        *([""] if draft.header else []),
        *draft.header,
    ]
    every = [draft.defaults, *draft.containers.values()]
    has_images = any("image" in keys for keys in every)
    draft.header = [*head, "", _IMAGES] if has_images else head
    return has_images


def _problems(text: str, name: str, directory: Path, environ: Mapping[str, str]) -> list[NetorchError]:
    """What `netorch validate` would say of the result, this host apart."""
    from netns_orch import graph, labfile
    from netns_orch.errors import LabFileError

    try:
        graph.wire(labfile.loads(text, name, str(directory), environ=dict(environ)))
    except LabFileError as error:
        return error.problems
    return []
