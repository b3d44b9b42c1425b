"""A picture of the host, for the promise that nothing is left behind and nothing else is touched.

A snapshot is a flat mapping: one line for each thing (``link br0``, ``sysctl net.ipv4.ip_forward``) with how
it is.  Counters, timers and rule handles are left out; so are loaded kernel modules, and the sysctls that
came with them.  It asks the kernel and the usual programs, never netorch.
"""

from __future__ import annotations

import difflib
import errno
import functools
import hashlib
import json
import os
import re
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from support import cgroups, view
from support.outer import run
from support.waiting import until

Snapshot = Mapping[str, str]
_OF_A_REALM = "/run/.netorch-"
"""What a realm keeps to its end, for all containers that are made in it."""
NAMESPACES = ("mnt", "uts", "ipc", "pid", "net", "cgroup", "user", "time")
_VOLATILE = re.compile(r"_timer$|^stats|^ifindex$|^link_index$|_life_time$")
_FROM_MODULES = re.compile(r"^sysctl net[./](netfilter|bridge|vrf)[./]|^sysctl net\.(ipv4|ipv6)\.netfilter")
_COUNTS = re.compile(r"^sysctl net[./]netfilter[./]nf_conntrack_(count|buckets)$")


def take() -> Snapshot:
    """The host as this process sees it, now."""
    facts: dict[str, str] = {}
    for part in (
        _processes,
        _links,
        _lines_of_ip,
        _nft,
        _legacy,
        _mounts,
        _cgroups,
        lambda: _files("/run", "file"),
        lambda: (found for top in view.HOLDERS for found in _files(str(top.parent), "file")),
        lambda: _files("/etc", "etc"),
        _sysctls,
    ):
        facts.update(part())
    return facts


def difference(before: Snapshot, after: Snapshot) -> list[str]:
    """What was added (+), removed (-) and changed (~), one thing a line; empty when equal."""
    lines = []
    links = {key.removeprefix("link ") for key in before.keys() ^ after.keys() if key.startswith("link ")}
    for key in sorted(before.keys() | after.keys()):
        if _follows(key, links):
            continue
        if key not in after:
            lines.append(f"- {key} {before[key]}".rstrip())
        elif key not in before:
            if not _FROM_MODULES.match(key):
                lines.append(f"+ {key} {after[key]}".rstrip())
        elif before[key] != after[key]:
            lines.extend(_change(key, before[key], after[key]))
    return lines


def assert_equal(before: Snapshot, seconds: float = 15.0) -> None:
    """Wait for asynchronous ends (namespaces, zombies); at the deadline say what is not as it was."""
    remains: list[str] = []

    def same() -> bool:
        remains[:] = difference(before, take())
        return not remains

    until(same, lambda: "the host as it was before; these differ:\n  " + "\n  ".join(remains), seconds)


def _follows(key: str, links: set[str]) -> bool:
    """Whether it is a sysctl that comes and goes with one of these links, of which the link says enough."""
    words = key.split(".")
    return key.startswith("sysctl net.") and len(words) > 4 and words[3].replace("/", ".") in links


def _change(key: str, before: str, after: str) -> Iterator[str]:
    if "\n" not in before + after:
        yield f"~ {key}: {before} -> {after}"
        return
    yield f"~ {key}"
    for line in difflib.unified_diff(before.splitlines(), after.splitlines(), lineterm="", n=1):
        if not line.startswith(("---", "+++", "@@")):
            yield f"    {line}"


def _processes() -> Iterator[tuple[str, str]]:
    """Processes of this test process's own cgroups, where whatever it starts must be."""
    pids: set[int] = set().union(*(cgroups.processes(position) for position in cgroups.positions()))
    for pid in sorted(pids):
        try:
            words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
            # Only the inode numbers: a process is another one when it lives elsewhere.
            spaces = [os.readlink(f"/proc/{pid}/ns/{name}") for name in NAMESPACES]
        except OSError:  # it ended while we looked
            continue
        yield f"process {pid}", b" ".join(words).decode(errors="replace").strip() + " " + " ".join(spaces)


def _links() -> Iterator[tuple[str, str]]:
    for link in json.loads(run("ip", "-json", "-details", "link", "show")):
        yield f"link {link['ifname']}", json.dumps(_steady(link), sort_keys=True)
    for device in json.loads(run("ip", "-json", "address", "show")):
        for address in device.get("addr_info", []):
            key = f"address {device['ifname']} {address['local']}/{address['prefixlen']}"
            yield key, json.dumps(_steady(address), sort_keys=True)


def _steady(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _steady(item) for key, item in value.items() if not _VOLATILE.search(key)}
    return [_steady(item) for item in value] if isinstance(value, list) else value


def _lines_of_ip() -> Iterator[tuple[str, str]]:
    for what, command in {
        "route4": "-4 route show table all",
        "route6": "-6 route show table all",
        "rule4": "-4 rule show",
        "rule6": "-6 rule show",
        "neighbour": "neigh show nud permanent",
        "proxy neighbour": "neigh show proxy",
    }.items():
        for line in run("ip", *command.split()).splitlines():
            yield f"{what} {' '.join(line.split())}", ""


def _nft() -> Iterator[tuple[str, str]]:
    text = run("nft", "--stateless", "list", "ruleset")
    for table in re.split(r"^(?=table )", text, flags=re.MULTILINE):
        if table.strip():
            head, _, body = table.partition("{")
            yield f"nft {head.strip()}", "{" + body.rstrip()


def _legacy() -> Iterator[tuple[str, str]]:
    """Tables of iptables-legacy; those not loaded are not listed, because listing loads them."""
    for family, program in (("ip", "iptables"), ("ip6", "ip6tables")):
        try:
            tables = Path(f"/proc/net/{family}_tables_names").read_text().split()
        except OSError:
            continue
        for table in tables:
            text = run(f"{program}-legacy-save", "-t", table)
            rules = [re.sub(r"\[\d+:\d+\]", "", x) for x in text.splitlines() if not x.startswith("#")]
            yield f"{program}-legacy {table}", "\n".join(rules)


def _mounts() -> Iterator[tuple[str, str]]:
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        if not (view.INSIDE and line.split(" ")[4].startswith(_OF_A_REALM)):
            yield f"mount {line.split(' ')[4]} ({line.split(' ')[0]})", line


def _cgroups() -> Iterator[tuple[str, str]]:
    for position in cgroups.positions():
        for directory in cgroups.directories(position):
            yield f"cgroup {position.hierarchy} {directory}", ""
        if position.hierarchy == "unified":
            for directory in (position.directory, *position.directory.parents):
                control = directory / "cgroup.subtree_control"
                if control.is_file():
                    yield f"subtree_control {directory}", control.read_text().strip()


def _files(top: str, kind: str) -> Iterator[tuple[str, str]]:
    """Every file below ``top``: mode, owner, target of a link, size and digest of a regular file."""
    for directory, subdirectories, names in os.walk(top):
        if view.INSIDE:
            kept = [name for name in subdirectories if f"{directory}/{name}".startswith(_OF_A_REALM)]
            subdirectories[:] = [name for name in subdirectories if name not in kept]
        for name in sorted(subdirectories + names):
            path = os.path.join(directory, name)
            try:
                yield f"{kind} {path}", _status(path)
            except FileNotFoundError:
                continue


def _status(path: str) -> str:
    status = os.lstat(path)
    text = f"{stat.filemode(status.st_mode)} {status.st_uid}:{status.st_gid}"
    if stat.S_ISLNK(status.st_mode):
        return f"{text} -> {os.readlink(path)}"
    if not stat.S_ISREG(status.st_mode):
        return text
    return f"{text} {status.st_size} {_content(path, status.st_ino, status.st_ctime_ns)}"


@functools.lru_cache(maxsize=8192)
def _content(path: str, _inode: int, _changed: int) -> str:
    """A digest: a file that was written again with what it held before is as it was."""
    try:
        with open(path, "rb") as file:
            return hashlib.sha256(file.read()).hexdigest()[:12]
    except OSError as error:
        if error.errno == errno.EINVAL:
            return f"namespace {_inode}"  # one that ip-netns(8) has pinned
        if error.errno == errno.EACCES and view.INSIDE:
            return "the host's root's"
        raise


def _sysctls() -> Iterator[tuple[str, str]]:
    """All of net.*; a name that holds dots has slashes there, as sysctl(8) prints it."""
    for directory, _subdirectories, names in os.walk("/proc/sys/net"):
        for name in names:
            path = os.path.join(directory, name)
            key = "sysctl " + path.removeprefix("/proc/sys/").translate({46: "/", 47: "."})
            value = _read(path)
            if value is not None and not _COUNTS.match(key):
                yield key, value


def _read(path: str) -> str | None:
    try:
        with open(path, "rb", buffering=0) as file:
            return b" ".join(file.read().split()).decode(errors="replace")
    except OSError:  # write-only, or (stable_secret) not set
        return None
