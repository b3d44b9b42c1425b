"""``load``: a lab file to a ``Topology``, or every one of its problems at once.

Owns: the order of the steps, reading the file (within limits), and what an unreadable one is told.
Must not: know the keys of the format.
"""

from __future__ import annotations

import contextlib
import gc
import os
from collections.abc import Iterator
from collections.abc import Mapping as Dict
from pathlib import Path

from netns_orch.errors import UsageError
from netns_orch.labfile import foreign, short, yaml
from netns_orch.labfile.expand import topology
from netns_orch.labfile.fields import Context
from netns_orch.labfile.model import Topology
from netns_orch.labfile.problems import Problems, TooMany, refuse
from netns_orch.labfile.units import Wrong
from netns_orch.labfile.untrusted import confine
from netns_orch.labfile.variables import fill_variables


def load(
    path: str | Path,
    *,
    variables: Dict[str, str] | None = None,
    environ: Dict[str, str] | None = None,
    name: str | None = None,
    untrusted: bool = False,
) -> Topology:
    """The lab of the file at ``path``.  ``variables`` go before ``environ`` (None: the process's own).

    ``name`` stands in place of the file's.  ``untrusted``: it is a stranger's, who must not reach the host
    (``labfile.untrusted``).  LabFileError holds every problem, by place.
    """
    text = read_text(path, hint="`netorch init` writes an example")
    directory = str(Path(path).absolute().parent)
    lab = loads(
        text, str(path), directory, variables=variables, environ=environ, name=name, untrusted=untrusted
    )
    lab.file = str(Path(path).absolute())
    return lab


def loads(
    text: str,
    file: str = "lab.yaml",
    directory: str = "/",
    *,
    variables: Dict[str, str] | None = None,
    environ: Dict[str, str] | None = None,
    name: str | None = None,
    untrusted: bool = False,
) -> Topology:
    """The lab that ``text`` describes; ``file`` is how errors call it, paths in it are of ``directory``."""
    if name is not None:
        _check_name(name)
    problems = Problems(file)
    lab = None
    with _no_collection(), contextlib.suppress(yaml.Unreadable, TooMany):
        ctx = Context(problems, directory)
        ctx.untrusted = untrusted
        root = yaml.compose(text, problems)
        if root is None or root.null:
            raise refuse("the file is empty", "`netorch init` writes an example", file)
        if (tool := foreign.tool_of(root)) is not None:
            raise refuse(f"this is {foreign.TITLES[tool]}, not a lab file", foreign.hint(file), file)
        ctx.templates = any(sign in text for sign in ("{n", "{{", "}}", "$", "\\"))
        if "$" in text:
            fill_variables(root, {**_environment(environ, untrusted), **(variables or {})}, ctx)
        stem = Path(file).stem.removesuffix(".netorch")
        lab = topology(root, ctx, name, stem)
        if untrusted and lab is not None:
            confine(lab, ctx)
        if lab is not None and lab.scenario:
            from netns_orch.labfile import steps  # few labs have one

            steps.check(lab, ctx)
    if lab is None or len(problems):
        raise problems.error()
    return lab


def _environment(given: Dict[str, str] | None, untrusted: bool) -> Dict[str, str]:
    """What ``${VAR}`` may stand for; a stranger is not to learn what is in the user's environment."""
    if untrusted:
        return {}
    return os.environ if given is None else given


@contextlib.contextmanager
def _no_collection() -> Iterator[None]:
    """No garbage collection meanwhile: the nodes have no cycles, and it takes a third of the time."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


def _check_name(name: str) -> None:
    try:
        short.name(name, "lab", 32)
    except Wrong as wrong:
        raise UsageError(wrong.what, hint=wrong.hint) from None


def read_text(path: str | Path, *, hint: str | None = None) -> str:
    """The text of a file, at most 8 MiB of UTF-8; LabFileError where it is none, or not there (``hint``)."""
    try:
        with Path(path).open("rb") as file:
            data = file.read(yaml.MOST_BYTES + 1)
    except FileNotFoundError:
        raise refuse(f"there is no file {path}", hint) from None
    except OSError as error:
        raise refuse(f"can't read {path}: {error.strerror}") from None
    if len(data) > yaml.MOST_BYTES:
        raise refuse(f"the file is larger than {yaml.MOST_BYTES >> 20} MiB", file=str(path))
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        problems = Problems(str(path))
        line = data.count(b"\n", 0, error.start)
        begin = data.rfind(b"\n", 0, error.start) + 1
        column = len(data[begin : error.start].decode("utf-8", "replace"))
        problems.add(line, column, "", "the file is not a text in UTF-8")
        raise problems.error() from None
