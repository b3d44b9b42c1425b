"""Sysctls of the host that labs need: set for the first lab, given back when the last one goes.

Owns: ``/run/netorch/host.<id>.json`` (which lab wants what; what was there before, and what we made of it)
under a lock of its own, held for the few system calls only.  Must not: decide which sysctls a lab needs.

Writing some sysctls changes others (Documentation/networking/ip-sysctl.rst, devinet.c and addrconf.c):
``ip_forward`` resets all.accept_redirects, default.forwarding and each interface's forwarding; IPv6's
all.forwarding does so, too, and drops the routes that routers announced where accept_ra is not 2.  All that
a write touches is saved with it, and given back with it, each only if it still is what we made of it.
The values from before also stand in the labs' nft tables: they are the truth when the file is gone.

Docker, podman and libvirt switch forwarding on where it is off, and leave it on.  One that came while a lab
had it on found nothing to do, and would lose its way out with the lab: then it stays on, as without us.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import cache
from typing import Any

from netns_orch.errors import KernelError
from netns_orch.kernel import netfilter, rundir
from netns_orch.kernel.netlink import Request, open_channel, parse
from netns_orch.kernel.nets import read_sysctl, write_sysctl
from netns_orch.records import dataclass, field
from netns_orch.resources import GROUP_FIRST, GROUP_LAST, HostSysctl

FORWARD4, FORWARD6 = "net.ipv4.ip_forward", "net.ipv6.conf.all.forwarding"
_ALIASES = {"net.ipv4.conf.all.forwarding": FORWARD4}
_DEFAULT4 = re.compile(r"net\.ipv4\.conf\.default\.([^.]+)$")
_ALL6 = re.compile(r"net\.ipv6\.conf\.all\.([^.]+)$")
_OF_INTERFACE = re.compile(r"(net\.ipv[46]\.conf\.)([^.]+)(\.forwarding)$")
_RTM_GETLINK, _IFLA_IFNAME, _IFLA_GROUP = 18, 3, 27
Values = dict[str, str]


@dataclass
class _Saved:
    """What one wanted sysctl did: its own name and those that its write touches."""

    previous: Values
    written: Values = field(default_factory=dict)
    """As read back after our write; empty where a run was killed before that."""
    guests: list[str] | None = None
    """Of the sysctls that forward: whose guests needed them before the first lab; None: not known."""


@dataclass
class _Store:
    labs: dict[str, Values] = field(default_factory=dict)
    saved: dict[str, _Saved] = field(default_factory=dict)

    def previous_of(self, lab: str) -> Values:
        """The values from before the first lab, of all that this lab has a part in."""
        found: Values = {}
        for name, saved in self.saved.items():
            if name in self.labs.get(lab, {}):
                found = {**saved.previous, **found}
        return found

    def wanted(self) -> set[str]:
        return {name for names in self.labs.values() for name in names}


def acquire(lab: str, id: str, wanted: Mapping[str, str], *, netns_fd: int | None = None) -> Values:
    """Set sysctls for a lab, beside those that it has; returns the values from before the first lab.

    The values are noted in the lab's nft table before anything is written.  A KernelError where another lab
    wants another value, or the kernel refuses.
    """
    return netfilter.in_netns(netns_fd, _acquire_here, lab, id, _canonical(wanted))


def release(lab: str, id: str, names: Iterable[str], *, netns_fd: int | None = None) -> None:
    """Give sysctls back: the last lab that has one restores it, and all that its write touched."""
    netfilter.in_netns(netns_fd, _release_here, lab, id, [_ALIASES.get(name, name) for name in names])


def observe(
    lab: str, id: str, wanted: Iterable[HostSysctl] = (), *, netns_fd: int | None = None
) -> list[HostSysctl]:
    """What the lab has acquired, with the kernel's values of now (in the names that ``wanted`` uses)."""
    names = {_ALIASES.get(sysctl.name, sysctl.name): sysctl.name for sysctl in wanted}
    return netfilter.in_netns(netns_fd, _observe_here, lab, id, names)


def labs(id: str) -> list[str]:
    """The labs that have sysctls of this host namespace, by the file."""
    return list(_load(id).labs)


def stale_files(id: str) -> list[str]:
    """Files beside the one of the labs, which a killed run left: its lock, what it was about to rename."""
    if os.path.exists(_path(id, "json")) and labs(id):
        return []
    with suppress(OSError):
        return [f"{rundir.RUN}/{name}" for name in sorted(os.listdir(rundir.RUN)) if _is_ours(name, id)]
    return []


def _is_ours(name: str, id: str) -> bool:
    return name.startswith(f"{rundir.HOST_FILES}{id}.")


def tidy(id: str) -> None:
    """Remove the stale files, while nobody else is at them."""
    with locked(id):
        for path in stale_files(id):
            with suppress(FileNotFoundError):
                os.unlink(path)


def _canonical(wanted: Mapping[str, str]) -> Values:
    return {_ALIASES.get(name, name): " ".join(value.split()) for name, value in wanted.items()}


def _observe_here(lab: str, id: str, names: Mapping[str, str]) -> list[HostSysctl]:
    held = _load(id).labs.get(lab, {})
    values = _read(held)
    return [HostSysctl(name=names.get(name, name), value=value) for name, value in values.items()]


def _acquire_here(lab: str, id: str, wanted: Values) -> Values:
    with locked(id):
        store = _load(id)
        _refuse_conflicts(store, lab, wanted)
        interfaces, guests = _interfaces(), cache(_guests)
        for name, value in wanted.items():
            if name not in store.saved:
                values = _read([name, *_touched(name, interfaces)])
                store.saved[name] = _Saved(values, guests=guests() if name in (FORWARD4, FORWARD6) else None)
            store.labs.setdefault(lab, {})[name] = value
        _save(id, store)
        previous = store.previous_of(lab)
        _note(lab, id, previous)
        for name, value in wanted.items():
            _set(name, value, store.saved[name])
        _save(id, store)
        return previous


def _refuse_conflicts(store: _Store, lab: str, wanted: Values) -> None:
    for other, names in store.labs.items():
        for name in names.keys() & wanted.keys():
            if other != lab and names[name] != wanted[name]:
                raise KernelError(
                    f"the host's sysctl {name} can't be {wanted[name]}: lab {other} wants it {names[name]}",
                    hint="`netorch up --private` gives a lab a network namespace in the host's place",
                )


def _set(name: str, value: str, saved: _Saved) -> None:
    before = _read(saved.previous)
    if before.get(name) != value:
        if name == FORWARD6 and value != "0":
            _keep_announced_routes(before)
        _write(name, value)
    after = _read(saved.previous)
    changed = {n: v for n, v in after.items() if before.get(n) != v or n not in saved.written}
    saved.written.update(changed)


def _keep_announced_routes(values: Values) -> None:
    """An interface that accepts router advertisements goes on doing so when the host forwards."""
    for name, value in values.items():
        if name.endswith(".accept_ra") and value == "1":
            _write(name, "2")


def _release_here(lab: str, id: str, names: list[str]) -> None:
    with locked(id):
        store = _load(id)
        held = store.labs.get(lab, {})
        for name in names:
            held.pop(name, None)
        if not held:
            store.labs.pop(lab, None)
        wanted, guests = store.wanted(), cache(_guests)
        for name in [name for name in reversed(store.saved) if name not in wanted]:
            _give_back(name, store.saved.pop(name), store, guests)
        _save(id, store)
        if held:  # else the table goes, too
            _note(lab, id, store.previous_of(lab))


def _give_back(name: str, saved: _Saved, store: _Store, guests: Callable[[], list[str]]) -> None:
    """Restore one sysctl and what its write touched, as far as nobody has changed it since.

    Left alone where somebody has ``guests`` now who had none then: they may need it.
    """
    if saved.guests is not None and set(guests()) - set(saved.guests):
        return
    now = _read([*saved.previous, *_touched(name, _interfaces())])
    targets = {n: _target(n, value, saved) for n, value in now.items()}
    for other, still in store.saved.items():
        for n in still.previous.keys() & saved.previous.keys():
            if n == other:  # another lab wants it: what was before us is before it now
                still.previous[n] = saved.previous[n]
                targets[n] = now[n]
    for n in [name, *(n for n in targets if n != name)]:
        if n in targets and _read([n]).get(n) != targets[n]:
            _write(n, targets[n])


def _target(name: str, value: str, saved: _Saved) -> str:
    written = saved.written.get(name)
    if name in saved.previous:
        return saved.previous[name] if written in (None, value) else value
    match = _OF_INTERFACE.match(name)
    default = f"{match.group(1)}default{match.group(3)}" if match else ""
    if default in saved.previous and saved.written.get(default) == value:
        return saved.previous[default]  # an interface made meanwhile: as it would be without us
    return value


def _guests() -> list[str]:
    """Who has guests here that reach the outside only while the host forwards."""
    from netns_orch.kernel import foreign, nftables

    return sorted(foreign.FORWARDING & foreign.owners(nftables.list_chains()).keys())


# -- what a write touches ------------------------------------------------------------------------


def _touched(name: str, interfaces: Iterable[str]) -> list[str]:
    """The other sysctls that the kernel changes when this one is written."""
    if name == FORWARD4:
        each = [f"net.ipv4.conf.{interface}.forwarding" for interface in interfaces]
        return ["net.ipv4.conf.all.accept_redirects", "net.ipv4.conf.default.forwarding", *each]
    if match := _DEFAULT4.match(name):
        return [f"net.ipv4.conf.{interface}.{match.group(1)}" for interface in interfaces]
    if match := _ALL6.match(name):
        keys = [match.group(1)]
        if name == FORWARD6:
            keys += ["force_forwarding", "accept_ra"]
        first = f"net.ipv6.conf.default.{keys[0]}"
        return [first, *(f"net.ipv6.conf.{interface}.{key}" for key in keys for interface in interfaces)]
    return []


def _interfaces() -> list[str]:
    """The host's interfaces in sysctl(8)'s notation; those of labs come and go with them."""
    found = []
    with open_channel() as channel:
        for message in channel.dump(Request(_RTM_GETLINK, 0, bytes(16))):
            attributes = parse(message.body, 16)
            group = int.from_bytes(attributes.get(_IFLA_GROUP, b"\0"), "little")
            if not GROUP_FIRST <= group <= GROUP_LAST:
                name = attributes[_IFLA_IFNAME].rstrip(b"\0").decode(errors="surrogateescape")
                found.append(name.replace(".", "/"))
    return found


def _read(names: Iterable[str]) -> Values:
    """The values of those that are there."""
    found: Values = {}
    for name in names:
        with suppress(OSError, ValueError):
            found[name] = read_sysctl(name)
    return found


def _write(name: str, value: str) -> None:
    try:
        write_sysctl(name, value)
    except FileNotFoundError as error:
        raise KernelError(f"this host has no sysctl {name}", errno=error.errno) from None
    except (OSError, ValueError) as error:
        number = error.errno if isinstance(error, OSError) else None
        words = os.strerror(number) if number else str(error)
        raise KernelError(f"sysctl {name} can't be {value}: {words}", errno=number) from error


# -- the file ------------------------------------------------------------------------------------


def _path(id: str, suffix: str) -> str:
    return f"{rundir.RUN}/{rundir.HOST_FILES}{id}.{suffix}"


@contextmanager
def locked(id: str) -> Iterator[None]:
    """Hold the host's lock; file and lock go when no lab is left in them."""
    path = _path(id, "lock")
    try:
        fd = _open_lock(path)
    except OSError as error:
        raise KernelError(f"{path}: {error.strerror}", errno=error.errno) from error
    try:
        yield
    finally:
        if not os.path.exists(_path(id, "json")):
            with suppress(FileNotFoundError):
                os.unlink(path)
            with suppress(OSError):
                os.rmdir(rundir.RUN)
        os.close(fd)


def _open_lock(path: str) -> int:
    while True:
        try:
            os.makedirs(rundir.RUN, mode=0o700, exist_ok=True)
            rundir.refuse_others(rundir.RUN)
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except FileNotFoundError:
            continue  # the last lab removed the directory in between
        fcntl.flock(fd, fcntl.LOCK_EX)
        with suppress(FileNotFoundError):
            if os.stat(path, follow_symlinks=False).st_ino == os.fstat(fd).st_ino:
                return fd
        os.close(fd)


def _load(id: str) -> _Store:
    try:
        with open(_path(id, "json"), encoding="utf-8") as stream:
            raw: dict[str, Any] = json.load(stream)
    except (FileNotFoundError, ValueError):
        return _recovered(id)
    if raw.get("boot_id") != rundir.boot_id():  # what it tells of went with that boot
        return _recovered(id)
    saved = {
        name: _Saved(item["previous"], item["written"], item["guests"]) for name, item in raw["saved"].items()
    }
    return _Store(raw["labs"], saved)


def _save(id: str, store: _Store) -> None:
    path = _path(id, "json")
    if not store.labs:
        with suppress(FileNotFoundError):
            os.unlink(path)
        return
    saved = {
        name: {"previous": s.previous, "written": s.written, "guests": s.guests}
        for name, s in store.saved.items()
    }
    whole = {"boot_id": rundir.boot_id(), "labs": store.labs, "saved": saved}
    rundir.replace_file(path, json.dumps(whole, indent=1))


def _recovered(id: str) -> _Store:
    """What the nft tables of the labs say: all that is needed but for what was written."""
    from netns_orch.kernel import hosttable

    store = _Store()
    interfaces = _interfaces()
    for table in hosttable.recover():
        previous = table.previous_sysctls
        if table.id != id or not previous:
            continue
        touched = {name: _touched(name, interfaces) for name in previous}
        roots = [name for name in previous if not any(name in names for names in touched.values())]
        store.labs[table.lab] = _read(roots)
        for root in roots:
            values = {name: previous[name] for name in (root, *touched[root]) if name in previous}
            store.saved.setdefault(root, _Saved(values))
    return store


def _note(lab: str, id: str, previous: Values) -> None:
    from netns_orch.kernel import hosttable

    hosttable.note_sysctls(lab, id, previous)
