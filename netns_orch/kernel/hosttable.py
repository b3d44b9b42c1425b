"""The lab's own nft table on the host: NAT, isolation between bridges, ``host.iptables``.

Owns: what the tables ``netorch_<lab>`` (inet; ip and ip6 where ``host.iptables`` has rules) hold, the ports
published in them (``publish`` has the text), the mark in them, and the accept rules where others drop
forwarded packets.  Must not: touch a table, chain or rule without that mark; write sysctls (their previous
values are only noted here).

A drop in any base chain of a hook is final, an accept only ends its own chain (nft(8)): so our tables can
forbid whatever others do, and never open what the host's own rules forbid.

The mark is a chain ``about`` without a hook, whose rules have comments: lab, id and digest, and the previous
values of the host's sysctls.  (nft's comments hold 128 bytes; those of rules are the only ones that every
nft lists as JSON.)
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import nullcontext
from typing import Any, NamedTuple
from urllib.parse import quote, unquote

from netns_orch.errors import KernelError, NetorchError
from netns_orch.kernel import forwarding, netfilter, nftables, publish
from netns_orch.records import replace
from netns_orch.resources import GROUP_FIRST, GROUP_LAST, HostTable, PublishedPort, digest

PREFIX = "netorch_"
ABOUT = "about"
FAMILIES = ("inet", "ip", "ip6")
_COMMENT = 100
"""Bytes of a comment that we use, of 128."""
_SAFE = "/.=:,+-_ "
_SIDES = ("saddr", "daddr")
_ABOUT_BLOCK = re.compile(rf"^\tchain {ABOUT} \{{\n.*?^\t\}}\n\n?", re.MULTILINE | re.DOTALL)
_BLANK_LINES = re.compile(r"\n\n+")
_JUMP = re.compile(r"\b(jump|goto) (\S+)(?=$| comment )")


class RecoveredTable(NamedTuple):
    """A lab's table as found on the host."""

    lab: str
    id: str
    digest: str
    previous_sysctls: dict[str, str]


class Applied(NamedTuple):
    """What ``apply`` has to tell: how the tables looked when loaded, and what may not work all the same."""

    fingerprint: str | None
    warnings: tuple[str, ...]


class _Owner(NamedTuple):
    lab: str
    id: str

    @property
    def table(self) -> str:
        """A lab's name is an nft identifier already: no escaping."""
        return PREFIX + self.lab


def table_digest(table: HostTable) -> str:
    """What the mark says about the definition that a table was made from."""
    return digest([table.forward, table.router, table.rules, table.switches])


def apply(
    before: HostTable | None,
    after: HostTable | None,
    *,
    lab: str,
    id: str,
    previous_sysctls: Mapping[str, str],
    groups: tuple[int, int] = (GROUP_FIRST, GROUP_LAST),
    netns_fd: int | None = None,
) -> Applied:
    """Replace the lab's tables by those of ``after`` in one transaction; None: remove them.

    ``before`` is not needed: what is there is looked at, and is ours by its mark.
    Errors: MissingFeature without nft or iptables; KernelError with nft's words, or with iptables' words and
    the place of the rule; a table of that name that is not this lab's.
    """
    owner = _Owner(lab, id)
    new = "" if after is None else _definition(after, owner, previous_sysctls, groups)
    return netfilter.in_netns(netns_fd, _apply_here, after, owner, new)


def _apply_here(after: HostTable | None, owner: _Owner, new: str) -> Applied:
    if after is None and netfilter.find_program("nft") is None:
        return Applied(None, ())
    chains = nftables.list_chains()
    there = [family for family in FAMILIES if _is_there(chains, family, owner)]
    text = "".join(f"delete table {family} {owner.table}\n" for family in there) + new
    if after is not None and "inet" in there:
        text += publish.kept(_listing(owner), f"inet {owner.table}")
    if after is None:
        # First: as long as anything of ours is there, the table is, and says so.
        forwarding.settle(chains, None, _comment(owner))
    if text:
        _load(text, after)
    if after is None:
        return Applied(None, ())
    warnings = forwarding.settle(chains, after, _comment(owner))
    return Applied(_fingerprint(owner), tuple(warnings))


def _load(text: str, table: HostTable | None) -> None:
    done = netfilter.run("nft", "-f", "-", stdin=text)
    if done.code != 0:
        raise KernelError(
            "nft refuses the lab's table", where=table.where if table else None, details=done.words
        )


def _is_there(chains: Iterable[nftables.Chain], family: str, owner: _Owner) -> bool:
    """Whether a table of ours is there; a KernelError where the name is taken by another."""
    if not any(chain[:2] == (family, owner.table) for chain in chains):
        return False
    mark = _read_mark(family, owner.table)
    if mark is None or mark[:2] != (owner.lab, owner.id):
        raise KernelError(
            f"the nft table {family} {owner.table} exists and is not this lab's",
            hint=f"look with: nft list table {family} {owner.table}",
        )
    return True


def _comment(owner: _Owner) -> str:
    return f"netorch.{owner.lab}.{owner.id}"


def publish_ports(
    changes: Iterable[tuple[PublishedPort | None, PublishedPort | None]],
    *,
    lab: str,
    id: str,
    netns_fd: int | None = None,
) -> dict[str, str]:
    """Exchange published ports (before, after) in the lab's table, in one transaction; the others stay.

    Returns, by key, the fingerprints of all ports that are there then, for ``observe_ports``.
    Errors: KernelError where another lab of this host has a port, or with nft's words.
    """
    pairs = list(changes)
    gone = [before.key for before, _ in pairs if before is not None]
    come = [after for _, after in pairs if after is not None]
    return netfilter.in_netns(netns_fd, _publish_here, _Owner(lab, id), gone, come, netns_fd is None)


def _publish_here(owner: _Owner, gone: list[str], come: list[PublishedPort], on_host: bool) -> dict[str, str]:
    from netns_orch.kernel import hostsysctl, portholders

    # Two labs that come up at once both found the port free: under the host's lock one of them is first.
    with hostsysctl.locked(owner.id) if on_host and come else nullcontext():
        if on_host:
            portholders.refuse_published(owner.lab, owner.id, come)
        lines = publish.changed(_listing(owner), gone, come)
        text = "".join(f"{line.replace('{T}', f'inet {owner.table}', 1)}\n" for line in lines)
        done = netfilter.run("nft", "-f", "-", stdin=text)
    if done.code != 0:
        where = next((port.where for port in come if port.where), None)
        raise KernelError("nft refuses the published ports", where=where, details=done.words)
    return publish.fingerprints_of(_listing(owner))


def _listing(owner: _Owner) -> str:
    return netfilter.print_tables([("inet", owner.table)]) or ""


def commands(
    table: HostTable,
    lab: str,
    groups: tuple[int, int] = (GROUP_FIRST, GROUP_LAST),
    ports: Iterable[PublishedPort] = (),
) -> list[str]:
    """What makes the lab's tables, as nft takes it, without the mark: for somebody who does it by hand."""
    owner = _Owner(lab, "")
    inet = [*_inet(table, groups), *publish.statements(ports)]
    rules = {"inet": inet, "ip": _by_iptables(4, table), "ip6": _by_iptables(6, table)}
    lines = []
    for family, statements in rules.items():
        name = f"{family} {owner.table}"
        lines += [f"add table {name}"] if statements else []
        lines += [statement.replace("{T}", name, 1) for statement in statements]
    return lines


def _by_iptables(family: int, table: HostTable) -> list[str]:
    return list(_translated(family, table))


def note_sysctls(lab: str, id: str, previous: Mapping[str, str], netns_fd: int | None = None) -> bool:
    """Note the previous values of sysctls in the lab's table; False where it has none (yet)."""
    if netfilter.find_program("nft") is None:
        return False
    return netfilter.in_netns(netns_fd, _note_here, _Owner(lab, id), previous)


def _note_here(owner: _Owner, previous: Mapping[str, str]) -> bool:
    mark = _read_mark("inet", owner.table)
    if mark is None or mark[:2] != (owner.lab, owner.id):
        return False
    old, new = (list(_notes(values)) for values in (mark.previous_sysctls, previous))
    chain = f"inet {owner.table} {ABOUT}"
    lines = [f"add rule {chain} {_remark(comment)}\n" for comment in new if comment not in old]
    if not set(old) <= set(new) or any(comment.startswith("sysctl+") for comment in new):
        # All of them anew, in order; not always, as taking rules away is slow.
        lines = [f"add rule {chain} {_remark(c)}\n" for c in [*_mark(owner, mark.digest), *new]]
        lines.insert(0, f"flush chain {chain}\n")
    if old != new:
        _load("".join(lines), None)
    return True


# -- looking -------------------------------------------------------------------------------------


def recover(netns_fd: int | None = None) -> list[RecoveredTable]:
    """The tables of all labs in this namespace, by what their marks say."""
    return netfilter.in_netns(netns_fd, _recover_here)


def _recover_here() -> list[RecoveredTable]:
    names = [name for family, name in nftables.list_tables() if family == "inet" and name.startswith(PREFIX)]
    marks = (_read_mark("inet", name) for name in names)
    return [mark for mark in marks if mark is not None]


def observe(
    lab: str,
    id: str,
    desired: HostTable | None,
    netns_fd: int | None = None,
    fingerprint: str | None = None,
) -> HostTable | None:
    """The lab's table as it is, without its ports; None where there is none, and no accept rule of it either.

    It equals ``desired`` where it was made from that, and has no ``damage`` where the kernel's rules are
    exactly those that ``apply`` left (``fingerprint`` is what it returned; None: not compared).
    """
    if netfilter.find_program("nft") is None:
        return None
    return netfilter.in_netns(netns_fd, _observe_here, _Owner(lab, id), desired, fingerprint)


def what_drops(table: HostTable, netns_fd: int | None = None) -> list[NetorchError]:
    """What nft tables of others drop of the lab's packets, with what lets them pass; nothing is changed."""

    def look() -> list[NetorchError]:
        chains = nftables.list_chains()
        if not forwarding.of_others(chains) or netfilter.find_program("nft") is None:
            return []
        from netns_orch.kernel import foreign, portholders

        return foreign.problems(chains, table, bridged=portholders.bridge_netfilter())

    return netfilter.in_netns(netns_fd, look)


def observe_ports(
    lab: str,
    id: str,
    known: Iterable[PublishedPort],
    netns_fd: int | None = None,
    fingerprints: Mapping[str, str] | None = None,
) -> list[PublishedPort]:
    """The ports that the lab's table publishes; ``known`` are definitions that they may be made from.

    ``fingerprints`` are what ``publish_ports`` returned; None: not compared.
    """

    def look() -> list[PublishedPort]:
        owner = _Owner(lab, id)
        if not any(chain[:3] == ("inet", owner.table, publish.CHAIN) for chain in nftables.list_chains()):
            return []  # a listing of nft's costs 5 ms
        return publish.observe(_listing(owner), known, fingerprints)

    return netfilter.in_netns(netns_fd, look)


def _observe_here(owner: _Owner, desired: HostTable | None, fingerprint: str | None) -> HostTable | None:
    chains = nftables.list_chains()
    if not any(_is_there(chains, family, owner) for family in FAMILIES):
        left = forwarding.has_rules(chains, _comment(owner))
        return HostTable(damage=(f"no nft table {owner.table}",)) if left else None
    mark = _read_mark("inet", owner.table)
    if desired is None or mark is None or mark.digest != table_digest(desired):
        return HostTable(damage=(f"the nft table {owner.table} was made from another file",))
    damage = forwarding.unsettled(chains, desired, _comment(owner))
    if fingerprint not in (None, _fingerprint(owner)):
        damage.insert(0, f"the nft table {owner.table} is not as it was loaded")
    return replace(desired, damage=tuple(damage))


def _fingerprint(owner: _Owner) -> str | None:
    """A digest of our tables' text; counters, handles and what the mark says are not in it."""
    there = nftables.list_tables()
    text = netfilter.print_tables([table for family in FAMILIES if (table := (family, owner.table)) in there])
    if text is None:
        return None
    text = _BLANK_LINES.sub("\n", publish.without(_ABOUT_BLOCK.sub("", text)))
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:16]


# -- the mark ------------------------------------------------------------------------------------


def _mark(owner: _Owner, made_from: str) -> list[str]:
    return [f"lab={owner.lab} id={owner.id} digest={made_from}"]


def _notes(previous: Mapping[str, str]) -> Iterator[str]:
    """Comments that hold sysctls: in percent-encoding, as nft has no escapes; long ones go on in the next."""
    for name, value in sorted(previous.items()):
        text = quote(f"{name}={value}", safe=_SAFE)
        for start in range(0, len(text), _COMMENT):
            yield f"{'sysctl+' if start else 'sysctl'} {text[start : start + _COMMENT]}"


def _remark(comment: str) -> str:
    return f'continue comment "{comment}"'


def _read_mark(family: str, table: str) -> RecoveredTable | None:
    return _parse_mark(nftables.list_comments(family, table, ABOUT))


def _parse_mark(comments: Iterable[str]) -> RecoveredTable | None:
    head: dict[str, str] = {}
    sysctls: list[str] = []
    for comment in comments:
        kind, _, text = comment.partition(" ")
        if kind == "sysctl":
            sysctls.append(text)
        elif kind == "sysctl+" and sysctls:
            sysctls[-1] += text
        elif kind.startswith("lab="):
            head = dict(word.partition("=")[::2] for word in comment.split(" "))
    if not head.keys() >= {"lab", "id", "digest"}:
        return None
    previous = dict(unquote(text).partition("=")[::2] for text in sysctls)
    return RecoveredTable(head["lab"], head["id"], head["digest"], previous)


# -- what the tables hold ------------------------------------------------------------------------


def _definition(table: HostTable, owner: _Owner, previous: Mapping[str, str], groups: tuple[int, int]) -> str:
    mark = _mark(owner, table_digest(table))
    lines = list(_in_table("inet", owner, [*mark, *_notes(previous)], _inet(table, groups)))
    for family in (4, 6):
        rules = list(_translated(family, table))
        if rules:
            name = "ip6" if family == 6 else "ip"
            lines += _in_table(name, owner, mark, rules)
    return "".join(f"{line}\n" for line in lines)


def _in_table(family: str, owner: _Owner, mark: Iterable[str], statements: Iterable[str]) -> Iterator[str]:
    """Statements with ``{T}`` for the table, between its creation and its mark."""
    name = f"{family} {owner.table}"
    yield f"add table {name}"
    yield f"add chain {name} {ABOUT}"
    for comment in mark:
        yield f"add rule {name} {ABOUT} {_remark(comment)}"
    for statement in statements:
        yield statement.replace("{T}", name, 1)


def _inet(table: HostTable, groups: tuple[int, int]) -> Iterator[str]:
    bridges = [*(name for name, _ in table.forward), *table.switches]
    if not bridges:
        return
    by_mode = {mode: [name for name, m in table.forward if m == mode] for mode in ("nat", "none")}
    by_mode["none"] += table.switches
    pairs = ", ".join(f'"{name}" . "{name}"' for name in bridges)
    yield _set("bridges", bridges)
    yield f"add set {{T}} within {{ type ifname . ifname; elements = {{ {pairs} }}; }}"
    yield from (_set(mode, names) for mode, names in by_mode.items() if names)
    yield from _forward_chain(table.router, {mode for mode, names in by_mode.items() if names}, groups)
    # With route_localnet, for published ports, nothing else would keep a container from the host's loopback.
    yield "add chain {T} loopback { type filter hook prerouting priority -300; policy accept; }"
    yield from (f"add rule {{T}} loopback iifname @bridges ip {side} 127.0.0.0/8 drop" for side in _SIDES)
    if by_mode["nat"]:
        yield "add chain {T} postrouting { type nat hook postrouting priority 100; policy accept; }"
        # A packet keeps its input interface here since Linux 5.7; one of the host's own has none.
        yield "add rule {T} postrouting iifname @nat oifname != @bridges masquerade"


def _set(name: str, bridges: Iterable[str]) -> str:
    return f"add set {{T}} {name} {{ type ifname; elements = {{ {', '.join(map(_quoted, bridges))} }}; }}"


def _quoted(name: str) -> str:
    return f'"{name}"'


def _forward_chain(router: bool, modes: Iterable[str], groups: tuple[int, int]) -> Iterator[str]:
    others = f"{groups[0]}-{groups[1]}"
    but_none = "iifname != @none oifname != @none " if "none" in modes else ""
    rules = [
        # Frames within one bridge come here only where br_netfilter sends them.
        "iifname . oifname @within accept",
        # A published port is for other bridges and other labs, too.
        f"{but_none}ct status dnat accept",
        f"iifname @bridges oifname @bridges {'accept' if router else 'drop'}",
        f"iifname @bridges oifgroup {others} drop",
        f"oifname @bridges iifgroup {others} drop",
    ]
    if "none" in modes:
        rules += ["iifname @none drop", "oifname @none drop"]
    if "nat" in modes:
        rules += [
            "oifname @nat ct state established,related accept",
            "oifname @nat drop",
        ]
    yield "add chain {T} forward { type filter hook forward priority 0; policy accept; }"
    yield from (f"add rule {{T}} forward {rule}" for rule in rules)


# -- host.iptables -------------------------------------------------------------------------------


def _translated(family: int, table: HostTable) -> Iterator[str]:
    """The rules of one family as nft statements, with base chains of our own.

    They are first loaded into a throw-away namespace, where iptables itself judges them and does what
    ``-I``, ``-D`` and the like ask for; what iptables-save then shows is translated.
    """
    places = [*table.rule_places, *[None] * len(table.rules)]
    chosen = [(text, place) for (of, text), place in zip(table.rules, places, strict=False) if of == family]
    if not chosen:
        return
    texts, wheres = [text for text, _ in chosen], [place for _, place in chosen]
    variant = "-nft" if netfilter.find_program(netfilter.program(family, "-nft-restore")) else ""
    typed, saved = netfilter.in_scratch_netns(_judged, family, texts, wheres, variant)
    # iptables-restore-translate does not escape quotes within a comment, and nft could not read them.
    done = netfilter.run(
        netfilter.program(family, "-restore-translate"), "-f", "/dev/stdin", stdin=saved.replace('\\"', "'")
    )
    lines = done.stdout.splitlines()
    if done.code != 0 or any(line.startswith("# -t ") for line in lines):
        position = next((n for n, rule in enumerate(typed) if not _translates(family, rule)), 0)
        raise KernelError(
            f"{netfilter.program(family)} rule {texts[position]!r} has no translation to nft",
            where=wheres[position],
            details=done.words if done.code != 0 else None,
            hint="rules of `host:` become rules of the lab's own nft table; use matches that nft has, too",
        )
    yield from _own_chains(lines)


def _judged(
    family: int, texts: list[str], places: list[Any], variant: str
) -> tuple[list[netfilter.TypedRule], str]:
    typed = netfilter.load_rules(family, texts, places, variant=variant)
    return typed, netfilter.run(netfilter.program(family, f"{variant}-save")).stdout


def _translates(family: int, rule: netfilter.TypedRule) -> bool:
    done = netfilter.run(netfilter.program(family, "-translate"), "-t", rule.table, *rule.words)
    return done.code == 0 and "# -" not in done.stdout.partition("'")[0]


def _own_chains(lines: Iterable[str]) -> Iterator[str]:
    """Translated statements, with chain names ``<table>_<chain>`` in our table."""
    statements = [line.split(" ", 5) for line in lines if line.startswith("add ")]
    chains = {(words[3], words[4]) for words in statements if words[1] == "chain"}
    used = {(words[3], words[4]) for words in statements if words[1] == "rule"}
    for words in sorted(statements, key=lambda words: words[1] != "chain"):
        kind, name, rest = words[1], tuple(words[3:5]), words[5] if len(words) > 5 else ""
        if kind == "chain" and (name in used or "policy accept" not in rest):
            yield f"add chain {{T}} {'_'.join(name)} {rest}".rstrip()
        elif kind == "rule":
            yield f"add rule {{T}} {'_'.join(name)} {_own_jump(rest, words[3], chains)}"


def _own_jump(rest: str, table: str, chains: set[tuple[str, str]]) -> str:
    def renamed(match: re.Match[str]) -> str:
        verb, chain = match.groups()
        return f"{verb} {table}_{chain}" if (table, chain) in chains else match.group(0)

    return _JUMP.sub(renamed, rest)
