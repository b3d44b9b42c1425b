"""The firewall of each container: iptables, ip6tables and nftables in its network namespace.

Owns: the tables that the lab file's rules speak of, inside a container; they are replaced whole, each in one
transaction.  Must not: touch other tables there (a daemon's), or anything outside.

The programs are the host's: what a container's root holds is never run for this.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Protocol, TypeVar

from netns_orch.errors import KernelError, NetorchError, Where
from netns_orch.kernel import namespaces, netfilter, nftables
from netns_orch.records import replace
from netns_orch.resources import Firewall, Resource

T = TypeVar("T")
W = TypeVar("W")
Change = tuple[Firewall | None, Firewall | None]
NFTABLES = "nftables"
_ORDER = (NFTABLES, "iptables", "ip6tables")
_FLUSH = re.compile(r"^[ \t]*flush[ \t]+ruleset[ \t]*;?[ \t]*$", re.MULTILINE)
_LINE = re.compile(r"line:? (\d+)")
_AT_ONCE = 4
"""Containers worked on side by side, for each processor."""


class Pids(Protocol):
    """Where the containers' namespaces are: a process in each."""

    pids: dict[str, int]


def apply(nets: Pids, changes: Sequence[tuple[Resource | None, Resource | None]]) -> dict[str, str]:
    """Replace (or, with None after, empty) the tables of the changed firewalls; many containers at once.

    All or nothing: where one is refused, what the others loaded is replaced by what was there before.
    Returns, by key, the fingerprint of what the kernel holds then, for ``observe``.
    Errors: KernelError with the program's words and the place of the rule; MissingFeature.
    """
    by_container: dict[str, list[Change]] = {}
    for before, after in changes:
        change = _firewall(before), _firewall(after)
        if any(change):
            by_container.setdefault(_one_of(change).container, []).append(change)
    for work in by_container.values():
        work.sort(key=lambda change: _ORDER.index(_one_of(change).program))
    try:
        found = _in_each(nets, by_container, _apply_here)
    except NetorchError:
        _in_each(nets, by_container, _undo_here)
        raise
    return {key: mark for marks in found for key, mark in marks.items()}


def _firewall(resource: Resource | None) -> Firewall | None:
    return resource if isinstance(resource, Firewall) else None


def observe(nets: Pids, owned: Iterable[Firewall], fingerprints: Mapping[str, str]) -> list[Firewall]:
    """The firewalls that were applied, ``intact`` where the kernel holds exactly what ``apply`` left.

    Those without a fingerprint, or in a container that has ended, are left out: they are not there.
    """
    by_container: dict[str, list[Firewall]] = {}
    for firewall in owned:
        if firewall.key in fingerprints and firewall.container in nets.pids:
            by_container.setdefault(firewall.container, []).append(firewall)

    def look(firewalls: list[Firewall]) -> list[Firewall]:
        marks = [(f, fingerprints[f.key]) for f in firewalls]
        return [replace(f, intact=_fingerprint(f, _tables_of(mark)) == mark) for f, mark in marks]

    return [firewall for found in _in_each(nets, by_container, look) for firewall in found]


# -- many containers -----------------------------------------------------------------------------


def _in_each(nets: Pids, work: Mapping[str, W], function: Callable[[W], T]) -> list[T]:
    """Call the function inside each container; all are done before the first error is raised."""
    if not work:
        return []
    from concurrent.futures import ThreadPoolExecutor

    workers = min(len(work), _AT_ONCE * (os.cpu_count() or 1))
    with ThreadPoolExecutor(workers, thread_name_prefix="firewall") as pool:
        futures = [pool.submit(_inside, nets.pids.get(name), function, item) for name, item in work.items()]
    results = [future.result() for future in futures]
    return [result[0] for result in results if result]


def _inside(pid: int | None, function: Callable[[W], T], item: W) -> list[T]:
    """The result, in a list; [] where the container has ended, and its firewall with it."""
    try:
        fd = None if pid is None else namespaces.open_netns(pid)
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.ESRCH):
            raise KernelError(
                f"can't open a network namespace: {error.strerror}", errno=error.errno
            ) from error
        fd = None
    if fd is None:
        return []
    try:
        return [namespaces.call_in_netns(fd, function, item)]
    finally:
        os.close(fd)


# -- inside one ----------------------------------------------------------------------------------


def _apply_here(changes: list[Change]) -> dict[str, str]:
    """In the order of ``_ORDER``: a ruleset of nft's is loaded before iptables' tables stand beside it."""
    fingerprints = {}
    for before, after in changes:
        tables = _replace(before, after)
        if after is not None:
            fingerprints[after.key] = _fingerprint(after, tables)
    return fingerprints


def _undo_here(changes: list[Change]) -> None:
    for before, after in reversed(changes):
        with suppress(NetorchError):
            _replace(after, before)


def _replace(before: Firewall | None, after: Firewall | None) -> list[str]:
    """Returns the tables that ``after`` speaks of."""
    load = _load_nftables if _one_of((before, after)).program == NFTABLES else _load_iptables
    return load(before, after)


def _one_of(change: Change) -> Firewall:
    one = change[1] or change[0]
    assert one is not None
    return one


def _family(firewall: Firewall) -> int:
    return 6 if firewall.program == "ip6tables" else 4


def _load_iptables(before: Firewall | None, after: Firewall | None) -> list[str]:
    family = _family(_one_of((before, after)))
    old, new = _tables(before), _tables(after)
    reset = [table for table in old if table not in new and table in netfilter.CHAINS]
    if after is not None and after.text is None:
        netfilter.load_rules(family, after.rules, after.places, reset)
        return new
    text = (f"{after.text}\n" if after and after.text else "") + netfilter.restore_text((), reset)
    done = netfilter.run(netfilter.program(family, "-restore"), stdin=text)
    if done.code != 0:
        raise _refused(family, text, done, _place(after))
    return new


def _refused(family: int, text: str, done: netfilter.Output, place: Where | None) -> KernelError:
    """With the line of the text that iptables-restore complains of."""
    name = netfilter.program(family)
    at, lines = _LINE.search(done.words), text.splitlines()
    number = int(at.group(1)) if at else 0
    what = f"line {number} of the rules, {lines[number - 1]!r}" if 0 < number <= len(lines) else "the rules"
    return KernelError(f"{name} refuses {what}", where=place, details=done.words)


def _tables(firewall: Firewall | None) -> list[str]:
    if firewall is None:
        return []
    if firewall.text is not None:
        return netfilter.tables_of_text(firewall.text)
    return list(dict.fromkeys(_table_of(rule) for rule in firewall.rules))


def _table_of(rule: str) -> str:
    try:
        return netfilter.parse_rule(rule).table
    except ValueError:
        return "filter"  # loading it says what is wrong with it


def _place(firewall: Firewall | None) -> Where | None:
    if firewall is None:
        return None
    return next((place for place in firewall.places if place), firewall.where)


def _load_nftables(before: Firewall | None, after: Firewall | None) -> list[str]:
    """Returns the tables ("family name") that the ruleset defines.

    ``flush ruleset``, with which such files like to begin, would take iptables' tables away as well: the
    tables of the ruleset itself are made anew in any case.
    """
    new = _defined(after)
    anew = dict.fromkeys([*_defined(before), *new])
    text = "".join(f"add table {table}\ndelete table {table}\n" for table in anew)
    done = netfilter.run("nft", "-f", "-", stdin=text + _ruleset(after))
    if done.code != 0:
        raise KernelError("nft refuses the ruleset", where=_place(after), details=done.words)
    return new


def _ruleset(firewall: Firewall | None) -> str:
    text = "" if firewall is None else (firewall.text or "\n".join(firewall.rules))
    return _FLUSH.sub("", text)


def _defined(firewall: Firewall | None) -> list[str]:
    """The tables of a ruleset: those that are there when it was loaded into an empty namespace."""
    text = _ruleset(firewall)
    if not text.strip():
        return []
    return netfilter.in_scratch_netns(_defined_here, text, _place(firewall))


def _defined_here(text: str, place: Where | None) -> list[str]:
    done = netfilter.run("nft", "-f", "-", stdin=text)
    if done.code != 0:
        raise KernelError("nft refuses the ruleset", where=place, details=done.words)
    return [f"{family} {name}" for family, name in nftables.list_tables()]


# -- fingerprints --------------------------------------------------------------------------------


def _fingerprint(firewall: Firewall, tables: Sequence[str]) -> str:
    """The tables, and a digest of what the kernel holds in them: ``filter,nat:0123abcd``."""
    if firewall.program == NFTABLES:
        pairs = [(family, name) for family, _, name in (table.partition(" ") for table in tables)]
        text = netfilter.print_tables(pairs) or ""
    else:
        saved = netfilter.save(_family(firewall), tables=tables)
        text = "\n".join(line for table, lines in saved.items() for line in (table, *lines))
    found = hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:16]
    return f"{','.join(tables)}:{found}"


def _tables_of(fingerprint: str) -> list[str]:
    names = fingerprint.rpartition(":")[0]
    return names.split(",") if names else []
