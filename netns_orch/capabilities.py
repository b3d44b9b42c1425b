"""The names of capabilities, and which of them a container has.

Owns: capabilities(7) by name and number, the default set, the sum of ``cap_add`` and ``cap_drop``.
Must not: import anything but ``errors`` (and that only to complain), or ask the kernel.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

CAPABILITIES = (
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
)
"""All of them, at the index that is their number (linux/capability.h)."""

DEFAULT_CAPABILITIES = (
    "AUDIT_WRITE",
    "CHOWN",
    "DAC_OVERRIDE",
    "FOWNER",
    "FSETID",
    "KILL",
    "MKNOD",
    "NET_ADMIN",
    "NET_BIND_SERVICE",
    "NET_RAW",
    "SETFCAP",
    "SETGID",
    "SETPCAP",
    "SETUID",
    "SYS_CHROOT",
)
"""Docker's fourteen and NET_ADMIN, which is only over the container's own network."""


NESTING_CAPABILITIES = (*DEFAULT_CAPABILITIES, "SYS_ADMIN", "SYS_PTRACE")
"""Of a container that may itself make some; all of them are only over its own user namespace."""


def capabilities(
    add: Iterable[str], drop: Iterable[str], privileged: bool = False, nesting: bool = False
) -> list[str]:
    """The capabilities of a container, sorted, without ``CAP_``; UsageError for a name that is none.

    ``ALL`` in ``add`` or ``drop`` is every one; what is named in the other list then still counts:
    ``drop: [ALL], add: [NET_RAW]`` leaves NET_RAW, as in Docker.  ``privileged`` has all.
    """
    if privileged:
        return sorted(CAPABILITIES)
    added, dropped = _names(add), _names(drop)
    if "ALL" in added:
        kept = set(CAPABILITIES)
    elif "ALL" in dropped:
        kept = set()
    else:
        kept = set(NESTING_CAPABILITIES if nesting else DEFAULT_CAPABILITIES)
    return sorted((kept | (added - {"ALL"})) - (dropped - {"ALL"}))


def mask(names: Iterable[str]) -> int:
    """The bit mask of capabilities by name."""
    total = 0
    for name in names:
        total |= 1 << CAPABILITIES.index(name)
    return total


def _names(names: Iterable[str]) -> set[str]:
    found = set()
    for given in names:
        name = given.upper().removeprefix("CAP_")
        if name != "ALL" and name not in CAPABILITIES:
            raise _unknown(given, name)
        found.add(name)
    return found


def _unknown(given: str, name: str) -> Exception:
    import difflib

    from netns_orch.errors import UsageError

    near = difflib.get_close_matches(name, CAPABILITIES, n=1)
    hint = f"did you mean {near[0]}?" if near else "capabilities(7) lists them"
    return UsageError(f"unknown capability {given!r}", hint=hint)
