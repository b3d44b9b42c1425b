"""The Python interpreter as a container may come to hold it: on a read-only mount of its own.

Owns: that mount.  Must not: be left out by anything that runs a program of a container's choice.

A container can have the process that enters it execute itself: by a script whose first line says
``#!/proc/self/exe``.  What runs then holds the file of the host's interpreter, and could write to it once
nobody executes it any more (CVE-2019-5736).  On a mount of its own, read-only for ever, it can't.
"""

from __future__ import annotations

import os
import sys

from netns_orch.kernel import syscalls as sc

_PACKAGE_AT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))


def protected() -> int | None:
    """A descriptor to execute in the interpreter's place; None where the kernel can't, before Linux 5.12."""
    try:
        tree = sc.open_tree(sc.AT_FDCWD, os.path.realpath(sys.executable))
    except OSError:
        return None
    try:
        sc.mount_setattr(tree, sc.MOUNT_ATTR_RDONLY)
    except OSError:
        os.close(tree)
        return None
    return tree


def run_protected(module: str, function: str, arguments: list[str], *, always: bool = False) -> None:
    """Become a process that calls a function with these arguments, and exits with what it returns.

    Returns where that is not needed (the interpreter is read-only already) or can't be.  ``always``: it is
    needed by who has entered a user namespace: not dumpable, he could not write to his own files in /proc,
    unless what he is was executed in there (ptrace(2)).
    """
    if os.statvfs("/proc/self/exe").f_flag & os.ST_RDONLY and not always:
        return
    if (tree := protected()) is None:
        return
    code = (
        f"import sys; sys.path.insert(0, {_PACKAGE_AT!r}); from {module} import {function}; "
        f"sys.exit({function}(sys.argv[1:]))"
    )
    options = [f"-X{name}" for name, value in sys._xoptions.items() if value is True]
    # Without site: that takes longer than all the rest, and nothing outside the standard library is needed.
    argv = [sys.executable, "-I", "-S", *options, "-c", code, *arguments]
    try:
        os.execv(f"/proc/self/fd/{tree}", argv)
    except OSError:
        os.close(tree)
