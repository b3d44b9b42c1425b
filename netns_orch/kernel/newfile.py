"""A file that netorch writes for its user, as root, at a path that the user chose.

Owns: who may read it, and that nobody else's link leads the writing astray.  Must not: know what is in it.
"""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from typing import BinaryIO

from netns_orch.errors import NetorchError, UsageError

_PRIVATE = 0o600


def open_new(path: str, *, replace: bool = True) -> BinaryIO:
    """Open a file for writing, without a buffer; what it held is gone, unless ``replace`` is False.

    A new one is readable for its owner alone, who is the user that called sudo(8), if any.  UsageError where
    that can't be; FileExistsError where it is there and shall not be replaced.  In a directory where
    everybody may write (/tmp) a symbolic link is refused, as by fs.protected_symlinks (proc_sys_fs(5)).
    """
    flags = os.O_WRONLY | os.O_CLOEXEC | os.O_NOCTTY
    if _is_everybodys(os.path.dirname(path) or "."):
        flags |= os.O_NOFOLLOW
    try:
        descriptor = _create(path, flags)
    except FileExistsError:
        if not replace:
            raise
        descriptor = _open(path, flags | os.O_TRUNC)
    except OSError as error:
        raise _refused(path, error) from None
    return os.fdopen(descriptor, "wb", buffering=0)


def _create(path: str, flags: int) -> int:
    descriptor = os.open(path, flags | os.O_CREAT | os.O_EXCL, _PRIVATE)
    with suppress(KeyError, ValueError, OSError):
        if os.geteuid() == 0:
            os.fchown(descriptor, int(os.environ["SUDO_UID"]), int(os.environ["SUDO_GID"]))
    return descriptor


def _open(path: str, flags: int) -> int:
    try:
        return os.open(path, flags)
    except FileNotFoundError:  # a link to a file that is not there yet
        return os.open(path, flags | os.O_CREAT, _PRIVATE)
    except OSError as error:
        raise _refused(path, error) from None


def _is_everybodys(directory: str) -> bool:
    with suppress(OSError):
        mode = os.stat(directory).st_mode
        return bool(mode & stat.S_ISVTX and mode & stat.S_IWOTH)
    return False


def _refused(path: str, error: OSError) -> NetorchError:
    return UsageError(f"can't write {path}: {error.strerror}")
