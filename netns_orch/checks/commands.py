"""Command lines of a scenario: which lab they mean.

Owns: where the name of the lab goes in each of netorch's commands.  Must not: run them.
"""

from __future__ import annotations

from collections.abc import Sequence

_BY_OPTION = {
    "exec", "shell", "logs", "link", "capture", "cp", "pause", "unpause", "restart", "kill", "wait", "top",
    "path", "diff", "inspect",
}  # fmt: skip
"""They take ``--lab LAB``."""
_BY_WORD = {"status", "ps", "stats", "down"}
"""They take LAB as their only argument."""
_BY_FILE = {"up", "plan"}
"""They take a FILE, and then the lab's name and place as options."""


def of_lab(argv: Sequence[str], lab: str, file: str | None, *, private: bool) -> list[str]:
    """The command line, with the lab named where the command wants it, unless another one is."""
    command, *words = argv
    named = any(word == "--lab" or word.startswith("--lab=") for word in words)
    if command in _BY_OPTION and not named:
        return [command, "--lab", lab, *words]
    if command in _BY_WORD and not _arguments(words):
        return [command, lab, *words]
    if command in _BY_FILE and not any(word.startswith("--name") for word in words):
        own = [] if _arguments(words) or file is None else [file]
        return [command, *own, *words, "--name", lab, *(["--private"] if private else [])]
    return [command, *words]


_WITH_VALUE = (
    "--var",
    "--wait",
    "--timeout",
    "--format",
    "--ttl",
    "--owner-pid",
    "--interval",
    "-l",
    "--label",
)


def _arguments(words: Sequence[str]) -> list[str]:
    """The words that are neither options nor their values."""
    found, skip = [], False
    for word in words:
        if skip:
            skip = False
        elif word.startswith("-"):
            skip = word in _WITH_VALUE
        else:
            found.append(word)
    return found
