"""The programs of netfilter: nft, iptables and their kin, run in a network namespace.

Owns: finding and running them, the throw-away network namespace in which something is tried out, and the
search for the one iptables rule that is at fault.  Must not: know what a lab's rules are for.

The programs are the host's, in the host's mount namespace; only the network namespace is another one.
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

from netns_orch.errors import KernelError, MissingFeature, NetorchError, Where
from netns_orch.kernel import namespaces

T = TypeVar("T")

SECONDS = 60
"""How long one program may take."""
LOCK_SECONDS = 10
"""How long a legacy iptables waits for the host's lock."""
HOST_LOCK = "/run/xtables.lock"
CHAINS: Mapping[str, tuple[str, ...]] = {
    "raw": ("PREROUTING", "OUTPUT"),
    "mangle": ("PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"),
    "nat": ("PREROUTING", "INPUT", "OUTPUT", "POSTROUTING"),
    "filter": ("INPUT", "FORWARD", "OUTPUT"),
    "security": ("INPUT", "FORWARD", "OUTPUT"),
}
"""The built-in chains of each table (iptables(8))."""
_PACKAGES = (("nft", "nftables"), ("ip", "iptables"))
_SBIN = "/usr/local/sbin:/usr/sbin:/sbin"
_COUNTERS = re.compile(r"\s*\[\d+:\d+\]$")


class Output(NamedTuple):
    """How a program ended."""

    code: int
    stdout: str
    stderr: str

    @property
    def words(self) -> str:
        """Its own words, without the advice to read its help."""
        lines = (self.stderr.strip() or self.stdout.strip()).splitlines()
        return "\n".join(line for line in lines if line.strip() and not line.startswith("Try `"))


def find_program(name: str) -> str | None:
    """The path of a program on PATH or in the system directories; None: not installed."""
    for directory in f"{os.environ.get('PATH', '')}:{_SBIN}".split(":"):
        path = f"{directory}/{name}"
        if directory and os.access(path, os.X_OK):
            return path
    return None


def need_program(name: str) -> str:
    """As find_program; a MissingFeature that names the Debian package where it is not installed."""
    path = find_program(name)
    if path is None:
        package = next((p for prefix, p in _PACKAGES if name.startswith(prefix)), name)
        raise MissingFeature(
            f"the program {name} is not installed", hint=f"install the package {package} (Debian's name)"
        )
    return path


def run(name: str, *arguments: str, stdin: str = "", host_lock: bool = False) -> Output:
    """Run a program in the network namespace of the calling thread; its exit code is not judged.

    Legacy iptables serialise by a lock file.  ``host_lock``: by the host's own; otherwise by a file that
    nobody else has, as nobody else works in the namespaces that we make (and none is left in /run).
    """
    import subprocess

    lock = os.memfd_create("xtables.lock", os.MFD_CLOEXEC)
    environment = dict(os.environ)
    if not (host_lock and os.path.exists(HOST_LOCK)):
        environment["XTABLES_LOCKFILE"] = f"/proc/self/fd/{lock}"
    argv = [need_program(name), *arguments]
    try:
        done = subprocess.run(
            argv,
            input=stdin.encode("utf-8", "surrogateescape"),
            capture_output=True,
            env=environment,
            timeout=SECONDS,
            pass_fds=(lock,),
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise KernelError(f"{name} did not end within {SECONDS} s") from error
    except OSError as error:
        raise KernelError(f"can't run {argv[0]}: {error.strerror}", errno=error.errno) from error
    finally:
        os.close(lock)
    return Output(done.returncode, _text(done.stdout), _text(done.stderr))


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", "surrogateescape")


def in_netns(fd: int | None, function: Callable[..., T], *args: Any) -> T:
    """Call a function in the namespace of a descriptor; None: in the one we are in."""
    if fd is None:
        return function(*args)
    return namespaces.call_in_netns(fd, function, *args)


def in_scratch_netns(function: Callable[..., T], *args: Any) -> T:
    """Call a function in a new network namespace that goes when it returns."""

    def work(_: object) -> T:
        _unshare_net()
        return function(*args)

    return namespaces.run_in_thread(work)


def _unshare_net() -> None:
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(namespaces.CLONE_NEWNET) != 0:
        number = ctypes.get_errno()
        raise KernelError(f"can't make a network namespace: {os.strerror(number)}", errno=number)


# -- nft -----------------------------------------------------------------------------------------


def print_tables(tables: Sequence[tuple[str, str]]) -> str | None:
    """The text of tables (family, name) without counters; None where one of them is missing."""
    texts = []
    for family, name in tables:  # one call for all: nft up to 1.0.6 finds only those of one family
        done = run("nft", "-s", "list", "table", family, name)
        if done.code != 0:
            return None
        texts.append(done.stdout)
    return "".join(texts)


# -- iptables ------------------------------------------------------------------------------------


class TypedRule(NamedTuple):
    """A rule as typed after ``iptables``: its table, and the words without ``-t``."""

    table: str
    words: tuple[str, ...]


def program(family: int, suffix: str = "") -> str:
    """iptables or ip6tables, with ``-restore``, ``-save`` ..."""
    return f"{'ip6tables' if family == 6 else 'iptables'}{suffix}"


def parse_rule(text: str) -> TypedRule:
    """Split a typed rule as a shell does; a ValueError where quotes don't match."""
    table, rest = "filter", iter(shlex.split(text))
    words: list[str] = []
    for word in rest:
        if word in ("-t", "--table") and words[-1:] != ["--comment"]:
            table = next(rest, "")
        elif word.startswith("--table="):
            table = word.partition("=")[2]
        elif word.startswith("-t") and not words:
            table = word[2:]
        else:
            words.append(word)
    return TypedRule(table, tuple(words))


def restore_text(rules: Sequence[TypedRule], reset: Sequence[str] = ()) -> str:
    """Input of iptables-restore that replaces whole tables: those of the rules, and ``reset`` made empty."""
    by_table: dict[str, list[str]] = {}
    for rule in rules:
        by_table.setdefault(rule.table, []).append(" ".join(map(_quoted, rule.words)))
    by_table |= {table: [] for table in reset if table not in by_table}
    lines = []
    for table, typed in by_table.items():
        chains = (f":{chain} ACCEPT [0:0]" for chain in CHAINS.get(table, ()))
        lines += [f"*{table}", *chains, *typed, "COMMIT"]
    return "".join(f"{line}\n" for line in lines)


def _quoted(word: str) -> str:
    if word and not re.search(r"[\s\"'\\]", word):
        return word
    escaped = word.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def tables_of_text(text: str) -> list[str]:
    """The tables that a text in the form of iptables-save speaks of."""
    return [line[1:].strip() for line in text.splitlines() if line.startswith("*")]


def save(family: int, variant: str = "", tables: Sequence[str] | None = None) -> dict[str, list[str]]:
    """Lines of iptables-save by table, without comments and counters; of ``tables``, or of all.

    Legacy iptables load a table by listing it, so that only loaded ones are listed.
    """
    done = run(program(family, f"{variant}-save"))
    if done.code != 0:
        raise KernelError(f"{program(family, variant)}-save failed", details=done.words)
    found: dict[str, list[str]] = {}
    for line in done.stdout.splitlines():
        if line.startswith("*"):
            current = found.setdefault(line[1:], [])
        elif line and not line.startswith("#") and line != "COMMIT":
            current.append(_COUNTERS.sub("", line))
    return {table: found[table] for table in (found if tables is None else tables) if table in found}


def load_rules(
    family: int,
    rules: Sequence[str],
    places: Sequence[Where | None] = (),
    reset: Sequence[str] = (),
    variant: str = "",
) -> list[TypedRule]:
    """Replace the tables of typed rules by one iptables-restore; what is refused is named with its place."""
    typed = [_parsed(family, text, place) for text, place in zip(rules, _padded(places, rules), strict=True)]
    done = run(program(family, f"{variant}-restore"), stdin=restore_text(typed, reset))
    if done.code != 0:
        at = in_scratch_netns(_first_refused, family, typed, variant)
        raise _refused(family, rules, places, at, done)
    return typed


def _padded(places: Sequence[Where | None], rules: Sequence[str]) -> list[Where | None]:
    return [*places[: len(rules)], *[None] * (len(rules) - len(places))]


def _parsed(family: int, text: str, place: Where | None) -> TypedRule:
    try:
        rule = parse_rule(text)
    except ValueError as error:
        what = f"{program(family)} refuses rule {text!r}"
        raise KernelError(what, where=place, details=str(error)) from None
    if any("\n" in word for word in rule.words):
        raise KernelError(f"{program(family)} refuses rule {text!r}", where=place, details="line break in it")
    return rule


class _Culprit(NamedTuple):
    position: int
    words: str


def _first_refused(family: int, typed: Sequence[TypedRule], variant: str) -> _Culprit | None:
    """By halves: the shortest beginning of the list that is refused ends with the culprit."""

    def refused(count: int) -> bool:
        return run(program(family, f"{variant}-restore"), stdin=restore_text(typed[:count])).code != 0

    if not refused(len(typed)):
        return None
    good, bad = 0, len(typed)
    while bad - good > 1:
        middle = (good + bad) // 2
        good, bad = (good, middle) if refused(middle) else (middle, bad)
    run(program(family, f"{variant}-restore"), stdin=restore_text(typed[:good]))
    rule = typed[bad - 1]
    alone = run(program(family, variant), "-t", rule.table, *rule.words)
    return _Culprit(bad - 1, alone.words if alone.code != 0 else "")


def _refused(
    family: int,
    rules: Sequence[str],
    places: Sequence[Where | None],
    culprit: _Culprit | None,
    done: Output,
) -> NetorchError:
    name = program(family)
    if culprit is None:
        where = next((place for place in places if place), None)
        return KernelError(f"{name} refuses the rules", where=where, details=done.words)
    what = f"{name} refuses rule {rules[culprit.position]!r}"
    where = _padded(places, rules)[culprit.position]
    return KernelError(what, where=where, details=culprit.words or done.words)
