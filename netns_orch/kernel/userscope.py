"""A cgroup that is an ordinary user's to divide, asked of systemd: a scope of his user manager's.

Owns: the calls of the user manager (org.freedesktop.systemd1(5)), by busctl(1); being moved there.
Must not: know what hangs in the cgroup, or import more than ``exec`` can carry.

A login session's cgroup is systemd's own, and lies beside those of the user manager: the kernel moves nobody
from the one to the other for the user (cgroup-v2.rst, Delegation Containment), but systemd does.  The scope
ends, and its cgroup goes, with the last process in it.
"""

from __future__ import annotations

import os
import time

from netns_orch.kernel import userdir

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

PROGRAM = "busctl"
_SYSTEMD, _OBJECT = "org.freedesktop.systemd1", "/org/freedesktop/systemd1"
_METHOD = ("call", _SYSTEMD, _OBJECT, f"{_SYSTEMD}.Manager")
_PATIENCE = 10.0
_LOOK, _ASK = 0.002, 0.25
"""Seconds between two looks at our own cgroup; and until the manager is asked whether the unit is there."""
_END_PATIENCE = 30.0
_NO_LIMIT = str((1 << 64) - 1)
_PREFIX, _SUFFIX = "netorch-", ".scope"


class Refused(Exception):
    """Why the user manager did not do it, in words."""


def address() -> str | None:
    """The bus that this user's manager is on; None: there is none."""
    for base in (os.environ.get("XDG_RUNTIME_DIR", ""), f"/run/user/{os.geteuid()}"):
        if os.path.isabs(base) and userdir.is_own(base) and os.path.exists(f"{base}/bus"):
            return f"unix:path={base}/bus" if os.path.isdir(f"{base}/systemd") else None
    return None


def manager(mount: str) -> str:
    """The cgroup of this user's manager, where version 2 is mounted."""
    uid = os.geteuid()
    return f"{mount}/user.slice/user-{uid}.slice/user@{uid}.service"


def lack() -> str | None:
    """What this user needs to be given a scope; None: there is all of it."""
    if address() is None:
        return "no user manager of systemd runs for you (loginctl enable-linger; package dbus-user-session)"
    return None if _program() else f"{PROGRAM} of the package systemd is not installed"


def _program() -> str | None:
    for directory in os.environ.get("PATH", os.defpath).split(os.pathsep):
        path = f"{directory}/{PROGRAM}"
        if os.access(path, os.X_OK):
            return path
    return None


def start(lab: str) -> str:
    """Have a scope made for a lab, and this process moved into it; its name.  Raises Refused."""
    bus, reason = address(), lack()
    if bus is None or reason is not None:
        raise Refused(reason or "no bus")
    unit = f"{_PREFIX}{lab}-{os.urandom(4).hex()}{_SUFFIX}"
    properties = [
        *("Description", "s", f"netorch: lab {lab}"),
        *("PIDs", "au", "1", str(os.getpid())),
        *("Delegate", "b", "true"),
        *("TasksMax", "t", _NO_LIMIT),
        *("CollectMode", "s", "inactive-or-failed"),
    ]
    _call(bus, *_METHOD, "StartTransientUnit", "ssa(sv)a(sa(sv))", unit, "fail", "5", *properties, "0")
    deadline = time.monotonic() + _PATIENCE
    ask = time.monotonic() + _ASK
    while not position().endswith(f"/{unit}"):
        now = time.monotonic()
        if now > deadline:
            raise Refused(f"the unit {unit} has not begun after {_PATIENCE:g} s")
        if now > ask:
            _call(bus, *_METHOD, "GetUnit", "s", unit)  # fails where the unit did
            ask = now + _ASK
        time.sleep(_LOOK)
    return unit


def attach(around: dict[str, Any]) -> None:
    """Have this process moved to a realm's cgroup.  Raises Refused."""
    if not around.get("unit") or not around.get("bus"):
        raise Refused("it is none of the user manager's")
    leaf = around["leaf"]
    inner = f"/{leaf}" if os.path.isdir(f"{around['base']}/{leaf}") else "/"
    words = ("AttachProcessesToUnit", "ssau", around["unit"], inner, "1", str(os.getpid()))
    _call(around["bus"], *_METHOD, *words)


def _call(bus: str, *words: str) -> str:
    """One call of busctl; what it prints.  ``subprocess`` would cost an ``exec`` more than all of this."""
    program = _program()
    if program is None:
        raise Refused(f"{PROGRAM} of the package systemd is not installed")
    read, write = os.pipe2(os.O_CLOEXEC)
    try:
        null = (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDWR, 0)
        copies = [(os.POSIX_SPAWN_DUP2, write, number) for number in (1, 2)]
        arguments = [PROGRAM, f"--address={bus}", *words]
        pid = os.posix_spawn(program, arguments, os.environ, file_actions=[null, *copies], setsigmask=[])
    except OSError as error:
        os.close(read)
        raise Refused(f"{PROGRAM}: {error.strerror}") from error
    finally:
        os.close(write)
    with open(read, "rb") as stream:
        said = stream.read().decode("utf-8", "replace").strip()
    _, status = os.waitpid(pid, 0)
    if status:
        raise Refused(said.removeprefix("Call failed: ") or f"{PROGRAM} failed")
    return said


def is_delegated(own: str) -> bool:
    """Whether a cgroup is that of a unit of this user's manager which it has delegated.

    No sign of that is on the cgroup itself, as there is on those of the system's units.
    """
    unit, bus = os.path.basename(own), address()
    kind = {"scope": "Scope", "service": "Service"}.get(unit.rpartition(".")[2])
    if bus is None or kind is None or f"/user@{os.geteuid()}.service/" not in own:
        return False
    # sd_bus_path_encode(3)
    named = [c if c.isascii() and c.isalnum() and (at or c.isalpha()) else None for at, c in enumerate(unit)]
    escaped = "".join(new or f"_{ord(old):02x}" for old, new in zip(unit, named, strict=True))
    words = ("get-property", _SYSTEMD, f"{_OBJECT}/unit/{escaped}", f"{_SYSTEMD}.{kind}", "Delegate")
    try:
        return _call(bus, *words) == "b true"
    except Refused:
        return False


def position() -> str:
    """This process's own cgroup of version 2, as its hierarchy has it; empty where there is none."""
    with open("/proc/self/cgroup", "rb") as file:
        for line in file:
            if line.startswith(b"0::"):
                return os.fsdecode(line[3:].rstrip(b"\n"))
    return ""


def is_inside() -> bool:
    """Whether this process is in the scope of a lab already; each lab has its own."""
    return any(name.startswith(_PREFIX) and name.endswith(_SUFFIX) for name in position().split("/"))


def may_go(base: str, there: str) -> bool:
    """Whether the kernel lets this process start others in ``base`` (``there`` in its hierarchy), or below.

    It takes the right to write to the closest cgroup that is above both.
    """
    own = position()
    common = os.path.commonpath([own, there]) if own else "/"
    return os.access(f"{base.removesuffix(there)}{common}/cgroup.procs", os.W_OK)


def wait_gone(base: str) -> None:
    """After the end of all in a scope: until systemd has removed its cgroup, else KernelError."""
    deadline = time.monotonic() + _END_PATIENCE
    while os.path.isdir(base):
        if time.monotonic() > deadline:
            from netns_orch.errors import KernelError

            what = f"the lab has ended, but systemd has not removed its scope in {_END_PATIENCE:g} s: {base}"
            hint = f"systemctl --user stop {os.path.basename(base)}   does it"
            raise KernelError(what, hint=hint)
        time.sleep(_LOOK)
