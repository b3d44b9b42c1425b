"""The firewall of containers, by the packets that pass and those that don't."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest
from support import view
from support.nodes import Node, bridge, node, reaches
from support.outer import TestHost, run

from netns_orch.errors import KernelError, MissingFeature, Where
from netns_orch.kernel import firewall, netfilter
from netns_orch.resources import Firewall

pytestmark = [pytest.mark.kernel, view.IN_PROCESS]


class Pids:
    """A process in each node, as a container has."""

    def __init__(self, stack: ExitStack, **nodes: Node) -> None:
        self.pids: dict[str, int] = {}
        self.processes: list[subprocess.Popen[bytes]] = []
        for name, one in nodes.items():
            sleeper = stack.enter_context(_sleeper(one))
            self.processes.append(sleeper)
            self.pids[name] = sleeper.pid


@contextmanager
def _sleeper(one: Node) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(["nsenter", f"--net={one.path}", "cat"], stdin=subprocess.PIPE)
    deadline = time.monotonic() + 5
    while not _is_in(process.pid, one) and time.monotonic() < deadline:
        time.sleep(0.01)
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        assert process.stdin is not None
        process.stdin.close()


def _is_in(pid: int, one: Node) -> bool:
    return os.stat(f"/proc/{pid}/ns/net").st_ino == os.fstat(one.fd).st_ino


@pytest.fixture(scope="module", autouse=True)
def lock(outer: TestHost) -> None:
    """The tests' own calls of legacy iptables make their lock file: before the first picture is taken."""
    for program in ("iptables-legacy", "ip6tables-legacy"):
        run(program, "-S")


@pytest.fixture
def stack(host: object) -> Iterator[ExitStack]:
    with ExitStack() as things:
        yield things


class Pair:
    """Two nodes on a bridge; ``red`` asks, ``blue`` has the firewall."""

    def __init__(self, stack: ExitStack) -> None:
        stack.enter_context(bridge("sw"))
        self.red = stack.enter_context(node("sw", "10.1.0.1/24", "fd00:1::1/64"))
        self.blue = stack.enter_context(node("sw", "10.1.0.2/24", "fd00:1::2/64"))
        self.nets = Pids(stack, blue=self.blue)
        self.marks: dict[str, str] = {}

    def change(self, before: Firewall | None, after: Firewall | None) -> None:
        self.marks |= firewall.apply(self.nets, [(before, after)])

    def passes(self, port: int, address: str = "10.1.0.2") -> bool:
        return reaches(self.red, self.blue, address, port)

    def seen(self, *owned: Firewall) -> list[bool]:
        return [found.intact for found in firewall.observe(self.nets, owned, self.marks)]


@pytest.fixture
def pair(stack: ExitStack) -> Pair:
    return Pair(stack)


@pytest.fixture(params=["nft", "legacy"])
def variant(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """A host whose ``iptables`` is of this variant, as update-alternatives(1) has it."""
    real = netfilter.find_program

    def find(name: str) -> str | None:
        family, dash, rest = name.partition("-")
        if family in ("iptables", "ip6tables") and rest in ("", "restore", "save"):
            name = f"{family}-{request.param}{dash}{rest}"
        return real(name)

    monkeypatch.setattr(netfilter, "find_program", find)
    return str(request.param)


def rules(*texts: str, program: str = "iptables", **more: Any) -> Firewall:
    return Firewall(container="blue", program=program, rules=texts, **more)


DROP = rules("-A INPUT -p udp --dport 4001 -j DROP")


def test_rules_as_typed(pair: Pair, variant: str) -> None:
    pair.change(None, DROP)
    assert (pair.passes(4000), pair.passes(4001)) == (True, False)
    assert pair.passes(4001, "fd00:1::2"), "iptables are for IPv4"


def test_ip6tables(pair: Pair, variant: str) -> None:
    pair.change(None, rules("-A INPUT -p udp --dport 4001 -j DROP", program="ip6tables"))
    assert pair.passes(4001)
    assert (pair.passes(4000, "fd00:1::2"), pair.passes(4001, "fd00:1::2")) == (True, False)


def test_all_that_can_be_typed(pair: Pair, variant: str) -> None:
    typed = rules(
        "-P INPUT DROP",
        "-N guard",
        "-A INPUT -j guard",
        "--table nat -A PREROUTING -p udp --dport 5000 -j REDIRECT --to-ports 4000",
        "-t filter -A guard -p udp --dport 4001 -m comment --comment 'a \"b\" c' -j DROP",
        "-I guard 1 -p udp -m multiport --dports 4000,4001 -m comment --comment -t -j ACCEPT",
        "-D guard -p udp --dport 4001 -m comment --comment 'a \"b\" c' -j DROP",
        "-A guard -i lo -j ACCEPT",
    )
    pair.change(None, typed)
    assert [pair.passes(port) for port in (4000, 4001, 4002)] == [True, True, False]
    with pair.blue.udp_socket("10.1.0.2", 4000) as there, pair.red.udp_socket() as here:
        here.sendto(b"?", ("10.1.0.2", 5000))
        assert there.recvfrom(10)[0] == b"?"


def test_a_text_of_iptables_save(pair: Pair, variant: str) -> None:
    text = pair.blue.run("sh", "-c", "iptables-nft -A INPUT -p udp --dport 4001 -j DROP; iptables-nft-save")
    pair.blue.run("nft", "flush", "ruleset")
    pair.change(None, Firewall(container="blue", program="iptables", text=text))
    assert (pair.passes(4000), pair.passes(4001)) == (True, False)


def test_change_and_removal(pair: Pair, variant: str) -> None:
    first = rules("-P INPUT DROP", "-t nat -A PREROUTING -p udp --dport 5000 -j REDIRECT --to-ports 4000")
    pair.change(None, first)
    assert not pair.passes(4000)
    pair.change(first, DROP)
    assert (pair.passes(4000), pair.passes(4001)) == (True, False)
    assert "REDIRECT" not in pair.blue.run(f"iptables-{variant}-save")
    assert pair.seen(DROP) == [True]
    pair.change(DROP, None)
    assert pair.passes(4001)
    assert "-A" not in pair.blue.run(f"iptables-{variant}-save")


def test_drift(pair: Pair, variant: str) -> None:
    pair.change(None, DROP)
    assert pair.seen(DROP) == [True]
    assert not pair.passes(4001)
    assert pair.seen(DROP) == [True], "counters are no drift"
    pair.blue.run(f"iptables-{variant}", "-t", "mangle", "-A", "INPUT", "-j", "MARK", "--set-mark", "1")
    assert pair.seen(DROP) == [True], "a table that is not ours"
    for change in ("-A INPUT -j ACCEPT", "-F INPUT", "-P FORWARD DROP", "-N theirs"):
        pair.blue.run(f"iptables-{variant}", *change.split())
        assert pair.seen(DROP) == [False], change
        pair.change(DROP, DROP)
        assert pair.seen(DROP) == [True]


def test_what_was_never_applied_or_is_gone_is_not_seen(pair: Pair) -> None:
    assert pair.seen(DROP) == []
    pair.change(None, DROP)
    for process in pair.nets.processes:
        process.kill()
        process.wait()
    assert pair.seen(DROP) == []
    pair.change(DROP, None)


# -- nftables ------------------------------------------------------------------------------------

RULESET = """#!/usr/sbin/nft -f
flush ruleset
table inet t {
  set ports { type inet_service; elements = { 4001, 4003 } }
  chain in { type filter hook input priority 0; policy accept; udp dport @ports counter drop; }
}
table ip other { }
"""


def test_a_ruleset(pair: Pair) -> None:
    ruleset = Firewall(container="blue", program="nftables", text=RULESET)
    pair.change(None, DROP)
    pair.change(None, ruleset)
    assert [pair.passes(port) for port in (4000, 4001, 4003)] == [True, False, False]
    assert pair.seen(DROP, ruleset) == [True, True], "flush ruleset spares iptables"
    pair.blue.run("nft", "delete element inet t ports { 4003 }")
    assert pair.seen(ruleset) == [False]
    other = Firewall(container="blue", program="nftables", text=RULESET.replace("4003", "4000"))
    pair.change(ruleset, other)
    assert [pair.passes(port) for port in (4000, 4001, 4003)] == [False, False, True]
    pair.change(other, None)
    assert pair.blue.run("nft", "list", "tables") == "table ip filter\n"


def test_a_bad_ruleset_is_named_and_changes_nothing(pair: Pair) -> None:
    ruleset = Firewall(container="blue", program="nftables", text=RULESET)
    pair.change(None, ruleset)
    place = Where("lab.yaml", 9, 5, "containers.blue.nftables")
    bad = Firewall(
        container="blue", program="nftables", text="table inet t {\n  chian x { }\n}", places=(place,)
    )
    with pytest.raises(KernelError) as caught:
        pair.change(ruleset, bad)
    assert caught.value.where == place
    assert ":2:" in str(caught.value.details)
    assert pair.seen(ruleset) == [True]


# -- errors --------------------------------------------------------------------------------------

PLACES = tuple(Where("lab.yaml", line, 9, f"containers.blue.iptables[{line - 10}]") for line in range(10, 14))


@pytest.mark.parametrize(
    ("rule", "words"),
    [
        ("-A INPUT -p tcp --dprt 22 -j DROP", 'unknown option "--dprt"'),
        ("-A INPUT -j DORP", "DORP"),
        ("-A NOSUCH -j DROP", "No chain/target/match by that name|does not exist"),
        ("-t nosuch -A INPUT -j DROP", "nosuch"),
        ("-A INPUT -j DROP 'x", "No closing quotation"),
        ("-A INPUT -j REJECT --reject-with tcp-reset", "tcp|Invalid argument"),
        ("-D INPUT -j DROP", "does a matching rule exist"),
    ],
)
def test_a_bad_rule_is_named(pair: Pair, variant: str, rule: str, words: str) -> None:
    pair.change(None, DROP)
    bad = rules("-A INPUT -j ACCEPT", "-N own", rule, "-A own -j ACCEPT", places=PLACES)
    with pytest.raises(KernelError) as caught:
        pair.change(DROP, bad)
    assert caught.value.where == PLACES[2]
    assert caught.value.what == f"iptables refuses rule {rule!r}"
    assert any(word in str(caught.value.details) for word in words.split("|")), caught.value.details
    assert pair.seen(DROP) == [True], "what was there is still there"
    assert "own" not in pair.blue.run(f"iptables-{variant}-save")


def test_a_bad_line_of_a_text_is_named(pair: Pair, variant: str) -> None:
    text = "*filter\n:INPUT ACCEPT [0:0]\n-A INPUT -p tcp --dprt 22 -j DROP\nCOMMIT\n"
    with pytest.raises(KernelError, match="line 3 of the rules, '-A INPUT -p tcp --dprt 22 -j DROP'"):
        pair.change(None, Firewall(container="blue", program="iptables", text=text))


def test_without_the_program(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(netfilter, "_SBIN", "")
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(MissingFeature, match="iptables-restore is not installed") as caught:
        pair.change(None, DROP)
    assert "package iptables" in str(caught.value.hint)


def test_many_containers_at_once(stack: ExitStack) -> None:
    nodes = {f"h{n}": Node() for n in range(40)}
    for one in nodes.values():
        stack.callback(one.close)
    nets = Pids(stack, **nodes)
    wanted = [
        Firewall(container=name, program=program, rules=(f"-A INPUT -p tcp --dport {n + 1} -j DROP",))
        for n, name in enumerate(nodes)
        for program in ("iptables", "ip6tables")
    ]
    marks = firewall.apply(nets, [(None, one) for one in wanted])
    assert firewall.observe(nets, wanted, marks) == wanted
    assert "--dport 7 -j DROP" in nodes["h6"].run("ip6tables-save")
    assert "DROP" not in run("iptables-nft-save")


def test_an_error_in_one_of_many_is_undone_in_all(stack: ExitStack) -> None:
    one, other = Node(), Node()
    for made in (one, other):
        stack.callback(made.close)
    nets = Pids(stack, a=one, b=other)
    good = Firewall(container="b", program="iptables", rules=("-A INPUT -j ACCEPT",))
    bad = Firewall(container="a", program="iptables", rules=("-A INPUT -j DORP",))
    with pytest.raises(KernelError, match="DORP"):
        firewall.apply(nets, [(None, bad), (None, good)])
    assert "-A" not in other.run("iptables-save")
