"""The session keyring of a container's processes: never the one of who runs netorch (session-keyring(7)).

Owns: that keyring, and what takes its place where the user's quota of keys is spent.
Must not: put a key into one.

An ordinary user has 200 keys (kernel.keys.maxkeys), and each keyring is one.  The realm of a rootless lab has
one for all of its containers that come after that.
"""

from __future__ import annotations

import errno

from netns_orch.kernel import syscalls as sc

_JOIN_SESSION_KEYRING, _SETPERM, _SESSION_KEYRING = 1, 5, -3
_SHARED_NAME = b"netorch"
_ALL_TO_ITS_HOLDERS, _FOUND_BY_ITS_USER = 0x3F000000, 0x001B0000
_NEW = sc.prepared("keyctl", _JOIN_SESSION_KEYRING, None, 0, 0, 0)
_SHARED = sc.prepared("keyctl", _JOIN_SESSION_KEYRING, _SHARED_NAME, 0, 0, 0)
_FIND = sc.prepared("keyctl", _SETPERM, _SESSION_KEYRING, _ALL_TO_ITS_HOLDERS | _FOUND_BY_ITS_USER, 0, 0)


def join_new() -> None:
    """A new, empty, anonymous one; the shared one of this user namespace where no more can be had.

    A kernel without keyrings has none to leave.
    """
    try:
        sc.make(*_NEW)
    except OSError as error:
        if error.errno == errno.EDQUOT:
            sc.make(*_SHARED)
        elif error.errno != errno.ENOSYS:
            raise


def share() -> None:
    """Join the shared one, and let it be found; it lives as long as this process does."""
    try:  # not contextlib's suppress: to import that takes a millisecond of each `exec`
        sc.make(*_SHARED)
        sc.make(*_FIND)
    except OSError:  # none to be had at all: only the last resort is missing
        pass
