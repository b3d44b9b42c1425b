"""typer, dressed as netorch: our help, our words for wrong usage, and no pydantic.

Owns: the classes that the app's commands are made of.  Must not: know a single command.

typer coerces every parameter through a pydantic adapter, which costs some 100 ms to import, as much as a
small lab takes to build.  Every parameter of ours is a flag or text (``choose`` reads numbers and durations,
with errors of our own), so ``process_value`` is replaced by a plain one.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

from netns_orch.cli.choose import nearest
from netns_orch.errors import UsageError

# typer's own base of all usage errors: click's class in older versions, a copy of it in newer ones.
CLICK_USAGE_ERROR: type[Exception] = typer.BadParameter.__mro__[1]
_COLUMN = 26
_EXTRA = re.compile(r"Got unexpected extra arguments?(?:\(s\))? \((.*)\)")


def _plain_value(param: Any, ctx: Any, value: Any) -> Any:
    """The value as it stands on the command line; an argument that must be there is asked for."""
    if value is None and param.multiple:
        value = ()
    if param.required and value in (None, ()):
        raise UsageError(f"{param_name(param)} is missing", hint=f"usage: {usage_line(ctx)}")
    if param.callback is not None:
        value = param.callback(ctx, param, value)
    return value


def _plain(params: Iterable[Any]) -> None:
    for param in params:
        vars(param)["process_value"] = functools.partial(_plain_value, param)


def param_name(param: Any) -> str:
    """How a parameter is written: ``NODE`` or ``--tail N``."""
    if param.param_type_name == "argument":
        return str(param.metavar)
    names = ", ".join(sorted(param.opts, key=len))
    return names if param.is_flag or not param.metavar else f"{names} {param.metavar}"


def usage_line(ctx: Any) -> str:
    """``netorch up [OPTIONS] [FILE]``."""
    if isinstance(ctx.command, Group):
        return "netorch COMMAND [OPTIONS] [ARGUMENTS]"
    words = _argument_words(ctx.command)
    has_options = len(words) < len(ctx.command.params)
    return " ".join([ctx.command_path, *(["[OPTIONS]"] if has_options else []), *words])


def _argument_words(command: Any) -> list[str]:
    arguments = [p for p in command.params if p.param_type_name == "argument"]
    return [str(a.metavar) if a.required else f"[{a.metavar}]" for a in arguments]


class _Plain:
    """Mixed into a class of typer's: its parameters are read plainly."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        _plain(vars(self)["params"])

    def get_help_option(self, ctx: Any) -> Any:
        """--help, read as plainly as the rest."""
        option = super().get_help_option(ctx)  # type: ignore[misc]
        _plain([] if option is None else [option])
        return option


class Command(_Plain, TyperCommand):
    """A command with our help."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Usage, what it does, the arguments and options in two columns."""
        lines = [f"usage: {usage_line(ctx)}", "", *(self.help or "").strip().splitlines()]
        params: list[Any] = self.params
        shown = [p for p in params if p.help and not p.hidden]
        if shown:
            lines += ["", *_columns((param_name(p), p.help) for p in shown)]
        formatter.write("\n".join(lines) + "\n")


class Group(_Plain, TyperGroup):
    """All commands, grouped by what they are for (``rich_help_panel`` holds the group's name)."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """The list of commands, a line for each."""
        panels: dict[str, list[tuple[str, str]]] = {}
        for name, command in self.commands.items():
            usage = " ".join([name, *_argument_words(command)])
            summary = (command.help or "").strip().splitlines()[0]
            panels.setdefault(getattr(command, "rich_help_panel", "") or "", []).append((usage, summary))
        lines = [*(self.help or "").strip().splitlines(), "", f"usage: {usage_line(ctx)}"]
        for panel, rows in panels.items():
            lines += ["", f"{panel}:", *_columns(rows)]
        lines += ["", *(self.epilog or "").strip().splitlines()]
        formatter.write("\n".join(lines) + "\n")

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """The command that the first word names."""
        if args[0] not in self.commands:
            like = nearest(args[0], self.commands)
            hint = f"did you mean: netorch {like}" if like else "netorch --help   lists the commands"
            raise UsageError(f"there is no command {args[0]}", hint=hint)
        return super().resolve_command(ctx, args)


def _columns(rows: Iterable[tuple[str, str]]) -> list[str]:
    lines = []
    for left, right in rows:
        first, *more = right.splitlines()
        lines.append(
            f"  {left:<{_COLUMN}}{first}" if len(left) < _COLUMN else f"  {left}\n{'':<{_COLUMN + 2}}{first}"
        )
        lines += [f"{'':<{_COLUMN + 2}}{line.strip()}" for line in more]
    return lines


def translated(error: Exception) -> UsageError:
    """An error of typer's parser in our words."""
    ctx = getattr(error, "ctx", None)
    option = getattr(error, "option_name", None)
    if option is not None and hasattr(error, "possibilities"):
        what, hint = _unknown_option(str(option), ctx)
    else:
        what, hint = _plain_words(error), None
    if hint is None and ctx is not None:
        hint = f"usage: {usage_line(ctx)}"
    return UsageError(what, hint=hint)


def _unknown_option(option: str, ctx: Any) -> tuple[str, str | None]:
    known = [name for p in ctx.command.params for name in p.opts if name.startswith("--")]
    like = nearest(option, [*known, "--help"])
    return f"{ctx.command_path} has no option {option}", f"did you mean {like}?" if like else None


def _plain_words(error: Exception) -> str:
    text = str(getattr(error, "message", error)).strip().rstrip(".").replace("'", "")
    if extra := _EXTRA.fullmatch(text):
        return f"one argument too many: {extra[1]}"
    return text[:1].lower() + text[1:]
