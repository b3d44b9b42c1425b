"""The shell script that builds a lab by hand: the plan, one command for each thing in it, with its reason.

Owns: the script's sections and their order.  Must not: look at the host; run anything.

===============  ==============================================================================
``prelude``      the functions that every script begins with
``containers``   cgroups, namespaces, roots, commands
``network``      bridges, cables, addresses, routes, rules, firewalls, impairments
``words``        quoting and indentation
===============  ==============================================================================
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from netns_orch.plan import Plan
from netns_orch.resources import Bridge, Cable, Container, HostSysctl, NetnsName, State
from netns_orch.script import containers, network, prelude
from netns_orch.script.words import Lines, comment, function, heredoc, word

_PRIVATE = (
    "The lab file says `netns: private`.  This script builds where it runs, without an uplink: run it in a"
    " shell that has a network of its own, as `unshare --net` gives, and take it down from there."
)


def render(lab: str, plan: Plan, host_table: Sequence[str], *, private: bool = False) -> str:
    """The script of a plan that builds a lab from nothing.

    ``host_table`` are the nft commands that make the lab's table on the host.  A ``private`` lab has no
    uplink in it: the script says where to run it.
    """
    state = State(change.after for change in plan.changes if change.after is not None)
    parts = [
        prelude.HEAD.replace("{title}", _title(lab, state)).replace("{lab}", word(lab)),
        *(comment(_PRIVATE) if private else ()),
        prelude.FUNCTIONS,
        *containers.tables(state),
        *function("up", "Build the lab, from the ground up.", _up(state, host_table)),
        *function("inside", "Number 1 of a container, in its new namespaces.", containers.inside(state)),
        *function("down", "Remove what `up` made, last things first.", _down(lab, state, host_table)),
        prelude.TAIL,
    ]
    return "\n".join(part.rstrip("\n") for part in parts)


def _title(lab: str, state: State) -> str:
    counts = ((Container, "container"), (Bridge, "bridge"), (Cable, "link"))
    sizes = [f"{n} {noun}{'' if n == 1 else 's'}" for kind, noun in counts if (n := len(state.of(kind)))]
    return f"{lab}: {', '.join(sizes)}"


def _up(state: State, host_table: Sequence[str]) -> Lines:
    yield 'if ! mkdir "$DIR" 2>/dev/null; then'
    yield '    echo "$DIR exists: sh $0 down" >&2'
    yield "    exit 1"
    yield "fi"
    own, sysctls = network.own_interfaces(state), state.of(HostSysctl)
    yield from _sysctls([sysctl for sysctl in sysctls if sysctl.interface not in own])
    yield from _table(host_table)
    yield from containers.build(state)
    yield from network.build(state)
    yield from _of_interfaces([sysctl for sysctl in sysctls if sysctl.interface in own])
    yield from containers.run(state)
    yield f"say {word('the lab is up')}"


def _sysctls(sysctls: Sequence[HostSysctl]) -> Lines:
    if sysctls:
        yield from comment("Sysctls of the host.  Without forwarding, bridges would be all it does.")
    yield from _set_sysctls(sysctls)


def _of_interfaces(sysctls: Sequence[HostSysctl]) -> Lines:
    if sysctls:
        yield from comment(
            "Sysctls of interfaces that are there only now.  route_localnet: what the host sends to a port of"
            " 127.0.0.1 that is published may leave for the container."
        )
    yield from _set_sysctls(sysctls)


def _set_sysctls(sysctls: Iterable[HostSysctl]) -> Lines:
    for sysctl in sysctls:
        yield f"set_sysctl {word(sysctl.name)} {word(sysctl.value)}"


def _table(host_table: Sequence[str]) -> Lines:
    if host_table:
        yield from comment(
            "The host's firewall for this lab, before any bridge is there: masquerading for what leaves the"
            " lab, no way from bridge to bridge unless the lab file says so, and the published ports."
        )
        yield from heredoc("nft -f -", host_table)


def _down(lab: str, state: State, host_table: Sequence[str]) -> Iterator[str]:
    names = [container.name for container in state.of(Container)]
    yield from (f"stop {word(name)}" for name in names)
    yield from network.remove(state)
    tables = dict.fromkeys(tuple(line.split()[2:4]) for line in host_table if line.startswith("add table "))
    yield from (f"nft delete table {' '.join(table)} 2>/dev/null || :" for table in tables)
    yield "restore_sysctls"
    yield from (f"remove_cgroups {word(name)}" for name in names)
    for netns in state.of(NetnsName):
        yield f"rm -f {word(f'/run/netns/{netns.name}')}"
    yield '[ ! -e "$DIR/netns" ] || rmdir /run/netns 2>/dev/null || :'
    yield 'rm -rf "$DIR"'
