"""The command line: the entry point, and how every error ends up in front of the user.

Owns: the choice between the short way (``exec`` and ``shell``, which load next to nothing) and the rest, exit
codes, and that no traceback reaches a user.  Must not: know commands; import anything at the top (``exec``
starts the interpreter twice, and both have to come by here): even ``errors`` is there only when there is one.
"""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from netns_orch.errors import NetorchError

EXIT_EXEC_FAILED = 125
"""As ``errors.EXIT_EXEC_FAILED``; a test holds them equal."""
EXIT_INTERRUPTED = 130
EXIT_PIPE = 141


def main(argv: list[str] | None = None) -> int:
    """Run one command line (without the program's name; default: the process's own); the exit code."""
    arguments = sys.argv[1:] if argv is None else argv
    if argv is None and arguments[:1] in (["exec"], ["shell"]) and os.geteuid() == 0:
        from netns_orch.kernel import interpreter

        interpreter.run_protected("netns_orch.cli", "main", arguments)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    if arguments[:1] in (["exec"], ["shell"]):
        return guarded(lambda: _exec(arguments), arguments, failed=EXIT_EXEC_FAILED)
    if arguments[:1] == ["__complete"]:
        return guarded(lambda: _complete(arguments[1:]), arguments)
    if arguments == ["__test"]:
        return guarded(_test, arguments)
    return guarded(lambda: _command(arguments), arguments)


def _exec(arguments: list[str]) -> int:
    from netns_orch.cli import exec

    run = exec.shell if arguments[0] == "shell" else exec.main
    return run(arguments[1:])


def _complete(words: list[str]) -> int:
    from netns_orch.cli.completion import reply

    sys.stdout.writelines(f"{line}\n" for line in reply(words))
    return 0


def _test() -> int:
    from netns_orch import rootless
    from netns_orch.checks import suite
    from netns_orch.cli import choose

    with rootless.command():
        return suite.work(lambda topology: choose.settle(topology, building=True))


def _command(arguments: list[str]) -> int:
    from netns_orch.cli import labs

    code = labs.plain(arguments)
    if code is not None:
        return code
    from netns_orch.cli.app import run

    return run(arguments)


_SHORT = ("ENOSPC", "EDQUOT", "EIO", "EROFS", "ENOMEM", "EMFILE", "ENFILE", "EAGAIN", "EBUSY", "EINTR")
"""Errors of a machine that has not enough of something, or does not get to it; no mistake of netorch's."""
_LOOK = "free(1), df(1), ulimit(1p) and dmesg(1) may tell what is short"


def guarded(run: Callable[[], int], arguments: list[str], *, failed: int | None = None) -> int:
    """The exit code of ``run``; whatever it raises is told in a user's words on stderr.

    ``failed`` takes the place of the exit code that an error carries.
    """
    try:
        code = run()
        if sys.stdout is not None:
            sys.stdout.flush()
        return code
    except BrokenPipeError:
        return _pipe_closed()
    except KeyboardInterrupt:
        _say("interrupted")
        return EXIT_INTERRUPTED
    except Exception as error:  # noqa: BLE001 - the last line of defence: no traceback reaches a user
        code = _tell(_in_words(error), arguments)
        return code if failed is None else failed


def _in_words(error: Exception) -> NetorchError:
    """Any error as one that a user can act on."""
    from netns_orch.errors import NetorchError, PermissionNeeded, UsageError

    if isinstance(error, NetorchError):
        return error
    if isinstance(error, FileNotFoundError) and error.filename is None and not _stands_somewhere():
        return UsageError("the current directory is not there any more", hint="cd to another, and try again")
    if isinstance(error, PermissionError):
        where = f": {error.filename}" if error.filename else ""
        reason = os.strerror(error.errno) if error.errno else "permission denied"
        return PermissionNeeded(f"{reason.lower()}{where}")
    return _internal(error)


def _stands_somewhere() -> bool:
    try:
        os.getcwd()
    except FileNotFoundError:
        return False
    return True


def _pipe_closed() -> int:
    """The reader went away: end as quietly as a program that SIGPIPE ends."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, sys.stdout.fileno())
    return EXIT_PIPE


def _tell(error: NetorchError, arguments: list[str]) -> int:
    """Say it on stderr; the exit code that it carries."""
    from netns_orch.cli.output import error_text

    if (wanting := _wants_rights(error)) is not None:
        hints = [f"run it as root: {sudo_line(arguments)}", wanting.hint]
        wanting.hint = "\n".join(filter(None, hints))
    if os.environ.get("NETORCH_DEBUG"):
        import traceback

        _say(traceback.format_exc())
    _say(error_text(error))
    return error.exit_code


def _say(text: str) -> None:
    """Write a line to stderr, if there is one that can be written to."""
    try:
        sys.stderr.write(text + "\n")
        sys.stderr.flush()
    except (AttributeError, OSError, ValueError):
        return


def _wants_rights(error: NetorchError) -> NetorchError | None:
    """The error, or the last of several, that root would not have met."""
    import errno

    from netns_orch.errors import KernelError, LabFileError, NotRootless, PermissionNeeded
    from netns_orch.kernel import realm

    if isinstance(error, LabFileError):
        return next((each for each in reversed(error.problems) if isinstance(each, NotRootless)), None)
    if isinstance(error, PermissionNeeded):
        is_root = os.geteuid() == 0 and realm.inside() is None
        return None if is_root or "sudo " in (error.hint or "") else error
    refused = isinstance(error, KernelError) and error.errno in (errno.EPERM, errno.EACCES)
    return error if refused and os.geteuid() != 0 else None


def _internal(error: Exception) -> NetorchError:
    import errno

    from netns_orch.errors import KernelError, NetorchError

    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EIO) and error.filename is None:
        return NetorchError(f"can't write the output: {os.strerror(error.errno)}")
    short = [getattr(errno, name) for name in _SHORT]
    if isinstance(error, OSError) and error.errno is not None and error.errno in short:
        about = f": {error.filename}" if error.filename else ""
        return KernelError(
            f"this machine refused: {os.strerror(error.errno)}{about}", errno=error.errno, hint=_LOOK
        )
    if isinstance(error, MemoryError) or str(error) == "can't start new thread":  # CPython's RuntimeError
        return KernelError("this machine refused: no memory or no process is left", hint=_LOOK)
    if isinstance(error, ModuleNotFoundError) and (error.name or "").startswith("_"):
        what = f"this Python was built without its module {error.name}"
        return NetorchError(what, hint="install the library that it takes, and build this Python again")
    what = f"internal error: {type(error).__name__}: {error}"
    return NetorchError(what, hint="please report it, with what NETORCH_DEBUG=1 in the environment adds")


def sudo_line(arguments: list[str]) -> str:
    """The whole command line that does the same as root (shell-quoted)."""
    import shlex
    import shutil

    program = sys.argv[0]
    if os.path.basename(program) == "__main__.py":
        command = [sys.executable, "-m", "netns_orch"]
    else:
        command = [os.path.abspath(shutil.which(program) or program)]
    return shlex.join(["sudo", *command, *arguments])
