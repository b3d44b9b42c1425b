"""Where labs have their files: root's in /run/netorch, any other user's in $XDG_RUNTIME_DIR/netorch.

Owns: that choice, and that a user's directory is nobody else's.
Must not: import more than builtin modules (``exec`` comes this way).

A user's labs each have a directory there: it holds what is known of the lab's realm (``realm``), and ``run``,
which is /run to all that works inside that realm.  So inside, labs lie in /run/netorch as root's.
"""

from __future__ import annotations

import os

RUN = "/run/netorch"
NAME = "netorch"
SIGN = "/run/.netorch-realm"
"""A file that is there inside a realm only: what ``holder.json`` says (``realm``)."""


def is_ordinary() -> bool:
    """Whether this process is an ordinary user's, and has not entered a realm."""
    return os.geteuid() != 0


def top() -> str:
    """The directory of this user's labs, whether or not it is there.

    $XDG_RUNTIME_DIR where it is set and the user's own, else /run/user/UID, else a directory in /tmp.
    """
    uid = os.geteuid()
    for base in (os.environ.get("XDG_RUNTIME_DIR", ""), f"/run/user/{uid}"):
        if os.path.isabs(base) and is_own(base):
            return f"{base.rstrip('/')}/{NAME}"
    return f"/tmp/{NAME}-{uid}"


def is_own(directory: str) -> bool:
    """Whether it is this user's directory, where nobody else may write."""
    try:
        found = os.stat(directory)
    except OSError:
        return False
    return found.st_mode & 0o170022 == 0o040000 and found.st_uid == os.geteuid()


def make_top(path: str | None = None) -> str:
    """Make ``top`` where it is missing; PermissionNeeded where that place is somebody else's."""
    from netns_orch.errors import PermissionNeeded

    path = path or top()
    try:
        os.mkdir(path, 0o700)
    except FileExistsError:
        pass
    except OSError as error:
        raise PermissionNeeded(f"{path} can't be made: {error.strerror}") from error
    check(path)
    return path


def check(path: str) -> None:
    """PermissionNeeded for a directory (in /tmp others can make some) that is not this user's alone."""
    from netns_orch.errors import PermissionNeeded

    found = os.lstat(path)
    if found.st_mode & 0o170077 == 0o040000 and found.st_uid == os.geteuid():
        return
    raise PermissionNeeded(
        f"{path} is not a directory of yours alone: labs can't be kept there",
        hint="set XDG_RUNTIME_DIR to a directory of yours that nobody else can write to",
    )


def names() -> list[str]:
    """The labs of this user that have a directory, alive or not."""
    path = top()
    try:
        check(path)
        return sorted(entry.name for entry in os.scandir(path) if entry.is_dir(follow_symlinks=False))
    except FileNotFoundError:
        return []


def runs() -> list[str]:
    """The run directories that labs can lie in: root's one, or one for each of this user's realms.

    Root's is left out where it is not root's alone: ``rundir`` says so, here it is just not trusted.
    """
    if is_ordinary():
        return [run_of(name) for name in names()]
    try:
        found = os.lstat(RUN)
    except FileNotFoundError:
        return []
    trusted = found.st_mode & 0o170022 == 0o040000 and found.st_uid in (0, os.geteuid())
    return [RUN] if trusted else []


def run_of(lab: str) -> str:
    """The run directory that a lab lies in, as seen from here."""
    return f"{top()}/{lab}/run/{NAME}" if is_ordinary() else RUN
