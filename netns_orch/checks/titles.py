"""How a check is called in reports, where the file gives it no name.

Owns: these words.  Must not: know what a check does.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from netns_orch.labfile.model import Check, Step

_MOST = 3


def title(check: Check, groups: Mapping[str, Sequence[str]]) -> str:
    """``ping red -> blue``; scaled containers by the name of their group."""
    if check.name:
        return check.name
    options = check.options
    if check.kind == "exec":
        return f"exec {_names(options['in'], groups)}: {_command(options['run'])}"
    source = _names(options.get("from"), groups)
    expect = options.get("expect")
    expected = f" ({expect})" if expect not in (None, "ok", "open") else ""
    if check.kind == "http":
        return f"http {source} -> {options['url']}{expected}"
    if check.kind == "dns":
        return f"dns {source}: {options['name']}{expected}"
    target = _names(options.get("to"), groups)
    if check.kind == "reach" and source == target == "all":
        return "reach all"
    words = f"{check.kind} {source} -> {target}"
    if check.kind == "route":
        words += f" by {', '.join(options['path']) or 'nobody'}"
    return words + expected


def step_title(step: Step, groups: Mapping[str, Sequence[str]]) -> str:
    """How a step of a scenario is called."""
    if step.kind == "command":
        return shlex.join(step.argv)
    if step.kind == "wait":
        return f"wait {step.seconds:g}s"
    if step.kind == "converges":
        inner = ", ".join(title(check, groups) for check in step.checks)
        return f"converges within {step.seconds:g}s: {inner}"
    return title(step.checks[0], groups)


def socket_text(address: str, port: int) -> str:
    """``10.0.0.2:80``, ``[fd00::2]:80``."""
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def _names(values: Any, groups: Mapping[str, Sequence[str]]) -> str:
    if values is None:
        return "all"
    names = [socket_text(*value) if isinstance(value, tuple) else str(value) for value in values]
    for group, members in groups.items():
        at = next((at for at in range(len(names)) if names[at : at + len(members)] == list(members)), None)
        if at is not None and members:
            names[at : at + len(members)] = [group]
    return ", ".join(names[:_MOST]) + (f" and {len(names) - _MOST} more" if len(names) > _MOST else "")


def _command(argv: Sequence[str]) -> str:
    text = argv[2] if list(argv[:2]) == ["/bin/sh", "-c"] and len(argv) == 3 else shlex.join(argv)
    first = text.strip().splitlines()[0] if text.strip() else ""
    return first if len(first) <= 60 else first[:57] + "..."
