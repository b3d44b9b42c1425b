"""Checks without a kernel: what answers mean, what silence is worth, how long an outage was, how it reads."""

from __future__ import annotations

import socket
import sys
import threading
import time
import tracemalloc
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any
from xml.etree import ElementTree

import pytest
from support.junit import assert_is_junit
from support.topologies import box, bridge, link, wire

from netns_orch import labfile
from netns_orch.checks import commands, control, iperf, junit, kinds, outage, suite, titles
from netns_orch.checks.bench import Bench, parse_hosts
from netns_orch.checks.outcome import Result, Trial, judge
from netns_orch.checks.run import run_check
from netns_orch.cli.test import exit_code, summary
from netns_orch.errors import MissingFeature, Where
from netns_orch.kernel import dnsclient, hostcommand, httpclient
from netns_orch.kernel.httpclient import Page
from netns_orch.kernel.inside import OUTPUT_LIMIT, CompletedRun
from netns_orch.kernel.listening import Listener
from netns_orch.kernel.probe import Answer
from netns_orch.kernel.prober import Attachment
from netns_orch.kernel.probes import Ask, Heard
from netns_orch.kernel.stream import Sample
from netns_orch.labfile.model import Check
from netns_orch.resolve import resolve
from netns_orch.trace import Lost

SILENCE, REFUSED, ANSWERED = Heard("silence"), Heard("refused", 0.001), Heard("answered", 0.001)


class FakeProber:
    """A lab in which what is listed in ``answers`` answers, and nothing else."""

    def __init__(self, wiring: Any) -> None:
        self.wiring = wiring
        self.answers: dict[tuple[str, str, str, int], Heard] = {}
        """By node, kind, address and port."""
        self.states: dict[str, str] = {}
        self.attachments: dict[str, Attachment | None] = {}
        self.links: dict[str, dict[str, bool]] = {}
        self.sockets: dict[str, list[Listener]] = {}
        self.files: dict[tuple[str, str], str] = {}
        self.names: dict[tuple[str, str], list[str]] = {}
        self.codes: dict[str, int] = {}
        """What name servers say of every name."""
        self.read: list[int] = [0]
        self.page: Page | OSError = Page(200, "OK", b"hello\nworld\n")
        self.done = CompletedRun(0, b"default via 10.0.0.1\n", errors=b"a warning\n")
        self.hops: list[Answer] = []

    def file(self, node: str, path: str) -> str:
        if path == "/etc/hosts" and (node, path) not in self.files:
            return str(self.wiring.hosts(node))
        return self.files.get((node, path), "")

    def ask(self, asks: Sequence[Ask], timeout: float) -> list[Heard]:
        return [self.answers.get((a.node, a.kind, a.address, a.port), SILENCE) for a in asks]

    def lookup(self, node: str, server: str, name: str, kind: int, timeout: float) -> dnsclient.Answer:
        if server in self.codes:
            return dnsclient.Answer((), self.codes[server])
        if (server, name) not in self.names:
            raise TimeoutError("timed out")
        wanted = ":" if kind == dnsclient.AAAA else "."
        return dnsclient.Answer(tuple(a for a in self.names[server, name] if wanted in a))

    def state(self, node: str) -> str:
        return self.states.get(node, "running")

    def attachment(self, node: str, address: str) -> Attachment | None:
        return self.attachments.get(node, Attachment("eth0", up=True, carrier=True))

    def carriers(self, node: str) -> dict[str, bool]:
        return self.links.get(node, {"eth0": True})

    def addresses(self, node: str) -> list[str]:
        return []

    def listeners(self, node: str) -> list[Listener]:
        return self.sockets.get(node, [])

    def datagrams_read(self, node: str) -> int:
        return self.read.pop(0) if len(self.read) > 1 else self.read[0]

    def get(self, *arguments: Any) -> Page:
        if isinstance(self.page, OSError):
            raise self.page
        return self.page

    def run(self, node: str, argv: Sequence[str], timeout: float) -> CompletedRun:
        return self.done

    def throughput(self, source: str, target: str, address: str, seconds: float) -> float:
        return 100e6

    def trace(self, node: str, address: str, extra: float) -> list[Answer]:
        return self.hops

    def each(self, function: Any, items: Sequence[Any]) -> list[Any]:
        return [function(item) for item in items]


class FakeBench(Bench):
    """A bench whose packets end where the test says."""

    where: Lost | None = None

    def lost_at(self, node: str, address: str, send: Any = None) -> Lost | None:
        return self.where


@pytest.fixture
def bench() -> FakeBench:
    """red 10.0.0.2, blue 10.0.0.3 and green 10.0.0.4 on a bridge with 10.0.0.1."""
    wiring = wire(
        link("red", "br0"),
        link("blue", "br0"),
        link("green", "br0"),
        br0=bridge("10.0.0.1/24"),
        red=box(),
        blue=box(),
        green=box(),
    )
    return FakeBench("lab", resolve(wiring, id=""), FakeProber(wiring))  # type: ignore[arg-type]


def parsed(text: str) -> Check:
    """A check as it stands in a lab file."""
    lab = f"bridges: {{br0: 10.0.0.1/24}}\ncontainers: {{red: , blue: , green: }}\nchecks: [{{{text}}}]\n"
    (check,) = labfile.loads(lab).checks
    return check


def answers(bench: Bench, node: str, kind: str, address: str, port: int = 0, heard: Heard = ANSWERED) -> None:
    bench.prober.answers[node, kind, address, port] = heard  # type: ignore[attr-defined]


def verdict(bench: Bench, text: str) -> tuple[str, str]:
    """What a check says, and the lines that go with it."""
    result = run_check(bench, parsed(text), {})
    return result.verdict, "\n".join(result.lines)


# -- verdicts ---------------------------------------------------------------------------------------


def test_a_ping_holds_when_one_is_answered_in_time(bench: FakeBench) -> None:
    bench.where = Lost("br0", "filter", "a rule drops it", "it counted 3")
    assert verdict(bench, "ping: {from: red, to: blue, count: 3}") == (
        "failed",
        "red -> blue (10.0.0.3): no answer to 3 pings\n  lost at br0: a rule drops it (it counted 3)",
    )
    answers(bench, "red", "echo", "10.0.0.3", heard=Heard("answered", 0.004))
    assert verdict(bench, "ping: {from: red, to: blue}")[0] == "passed"
    assert verdict(bench, "ping: {from: red, to: blue, max_rtt: 5ms}")[0] == "passed"
    late = verdict(bench, "ping: {from: red, to: blue, max_rtt: 3ms}")
    assert late == ("failed", "red -> blue (10.0.0.3): answered, but in 4.00 ms, max_rtt is 3 ms")


def test_reach_names_the_pairs_that_fail(bench: FakeBench) -> None:
    nodes = {"red": "10.0.0.2", "blue": "10.0.0.3", "green": "10.0.0.4"}
    for one in nodes:
        for other, address in nodes.items():
            if (one, other) != ("green", "red"):
                answers(bench, one, "echo", address)
    said = verdict(bench, "reach: all")
    assert said == ("failed", "1 of 6 are not as expected:\ngreen -> red (10.0.0.2): no answer")
    answers(bench, "green", "echo", "10.0.0.2")
    assert verdict(bench, "reach: all")[0] == "passed"


@pytest.mark.parametrize(
    ("expect", "heard", "wanted"),
    [
        ("open", ANSWERED, "passed"),
        ("open", REFUSED, "failed"),
        ("open", SILENCE, "failed"),
        ("refused", REFUSED, "passed"),
        ("refused", SILENCE, "failed"),
        ("refused", ANSWERED, "failed"),
        ("timeout", SILENCE, "passed"),
        ("timeout", REFUSED, "failed"),
        ("timeout", Heard("unreachable", 0.1, "no route to host"), "failed"),
        ("fail", SILENCE, "passed"),
        ("fail", REFUSED, "passed"),
        ("fail", ANSWERED, "failed"),
    ],
)
@pytest.mark.parametrize("kind", ["tcp", "udp"])
def test_what_a_port_is_expected_to_do(
    kind: str, expect: str, heard: Heard, wanted: str, bench: FakeBench
) -> None:
    answers(bench, "red", kind, "10.0.0.3", 80, heard)
    answers(bench, "blue", kind, "10.0.0.3", 80)  # the control: it is open from blue itself
    assert verdict(bench, f'{kind}: {{from: red, to: "blue:80", expect: {expect}}}')[0] == wanted


def test_a_datagram_that_is_read_arrived_although_nothing_came_back(bench: FakeBench) -> None:
    bench.prober.sockets["blue"] = [Listener("udp", "0.0.0.0", 514, 0, 1)]  # type: ignore[attr-defined]
    check = 'udp: {from: red, to: "blue:514"}'
    assert verdict(bench, check)[0] == "failed"
    bench.prober.read = [7, 8]  # type: ignore[attr-defined]
    assert verdict(bench, check)[0] == "passed"


def test_pages(bench: FakeBench) -> None:
    check = 'http: {from: red, url: "http://blue:8080/x", body: "^world$"}'
    assert verdict(bench, check)[0] == "passed"
    bench.prober.page = Page(302, "Found", b"")  # type: ignore[attr-defined]
    assert "status 302 Found, expected 200" in verdict(bench, check)[1]
    bench.prober.page = ConnectionRefusedError(111, "Connection refused")  # type: ignore[attr-defined]
    answers(bench, "red", "tcp", "10.0.0.3", 8080, REFUSED)
    bench.prober.sockets["blue"] = [Listener("tcp", "127.0.0.1", 8080, 0, 1)]  # type: ignore[attr-defined]
    said = verdict(bench, check)[1]
    assert "nothing there listens on tcp port 8080 of 10.0.0.3; it does on 127.0.0.1:8080" in said


def test_names_are_looked_up_as_the_container_does(bench: FakeBench) -> None:
    check = "dns: {from: red, name: www.lab, address: 10.0.0.9}"
    assert "its resolv.conf names no server" in verdict(bench, check)[1]
    bench.prober.files["red", "/etc/resolv.conf"] = "nameserver 10.0.0.53\n"  # type: ignore[attr-defined]
    assert "10.0.0.53: timed out" in verdict(bench, check)[1]
    bench.prober.names["10.0.0.53", "www.lab."] = ["10.0.0.8"]  # type: ignore[attr-defined]
    assert verdict(bench, check) == ("failed", "red: www.lab: is 10.0.0.8, expected 10.0.0.9")
    bench.prober.names["10.0.0.53", "www.lab."] = ["10.0.0.8", "10.0.0.9"]  # type: ignore[attr-defined]
    assert verdict(bench, check)[0] == "passed"
    bench.prober.files["red", "/etc/hosts"] = "10.0.0.7 www.lab  # first\n"  # type: ignore[attr-defined]
    assert verdict(bench, check)[0] == "failed"
    asked = "dns: {from: red, name: www.lab, address: 10.0.0.9, server: 10.0.0.53}"
    assert verdict(bench, asked)[0] == "passed"


def test_pages_and_names_that_are_not_to_come(bench: FakeBench) -> None:
    """Silence is worth as much as that of the port: a broken service is no proof."""
    prober: Any = bench.prober
    page = 'http: {from: red, url: "http://blue:8080/x", expect: %s}'
    assert verdict(bench, page % "fail") == (
        "failed",
        "red -> http://blue:8080/x: status 200 OK, expected fail",
    )
    prober.page = ConnectionRefusedError(111, "Connection refused")
    assert verdict(bench, page % "refused") == ("passed", "it refuses, which is an answer")
    assert verdict(bench, page % "timeout")[0] == "failed"
    assert verdict(bench, page % "fail")[0] == "no proof"
    prober.page = TimeoutError("timed out")
    assert verdict(bench, page % "timeout")[0] == "no proof"
    answers(bench, "blue", "tcp", "10.0.0.3", 8080)
    assert verdict(bench, page % "timeout") == ("passed", "port 8080 is open from blue itself")
    assert verdict(bench, page % "refused")[0] == "failed"

    name = "dns: {from: red, name: www.lab, expect: %s}"
    assert "its resolv.conf names no server" in verdict(bench, name % "fail")[1]
    assert verdict(bench, name % "fail")[0] == "no proof"
    prober.files["red", "/etc/resolv.conf"] = "nameserver 10.0.0.3\n"
    assert verdict(bench, name % "timeout")[0] == "no proof"
    prober.sockets["blue"] = [Listener("udp", "0.0.0.0", 53, 0, 1)]
    assert verdict(bench, name % "timeout") == ("passed", "blue listens on port 53")
    assert verdict(bench, name % "refused")[0] == "failed"
    prober.codes["10.0.0.3"] = dnsclient.REFUSED
    assert verdict(bench, name % "refused")[0] == "passed"
    assert verdict(bench, name % "timeout")[0] == "failed"
    prober.codes["10.0.0.3"] = dnsclient.NO_SUCH_NAME
    assert verdict(bench, name % "fail") == ("passed", "that there is no such name is an answer")
    assert verdict(bench, name % "timeout")[0] == "failed"
    prober.files["red", "/etc/hosts"] = "10.0.0.7 www.lab\n"
    assert verdict(bench, name % "fail") == ("failed", "red: www.lab: is 10.0.0.7, expected fail")


def test_the_way(bench: FakeBench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kinds, "_ICMP_PAUSE", 0)
    check = "route: {from: red, to: blue, path: [green]}"
    bench.prober.hops = [Answer(1, "10.0.0.4", "exceeded"), Answer(2, "10.0.0.3", "reply")]  # type: ignore[attr-defined]
    assert verdict(bench, check)[0] == "passed"
    bench.prober.hops = [Answer(1, "10.0.0.1", "exceeded"), Answer(2, "10.0.0.3", "reply")]  # type: ignore[attr-defined]
    assert "the way is host, expected green" in verdict(bench, check)[1]
    bench.prober.hops = [Answer(1, "10.0.0.4", "exceeded"), Answer(2, None, "silence")]  # type: ignore[attr-defined]
    assert "it does not arrive; the way: green > *" in verdict(bench, check)[1]


def test_throughput(bench: FakeBench) -> None:
    bench.prober.done = CompletedRun(127, b"")  # type: ignore[attr-defined] # no iperf3 there
    assert verdict(bench, "throughput: {from: red, to: blue, min: 90mbit, max: 110mbit}")[0] == "passed"
    low = verdict(bench, "throughput: {from: red, to: blue, min: 110mbit}")
    assert low == ("failed", "red -> blue (10.0.0.3): 100 Mbit/s, expected at least 110 Mbit/s")
    assert verdict(bench, "throughput: {from: red, to: blue, max: 90mbit}")[0] == "failed"
    wanted = verdict(bench, "throughput: {from: red, to: blue, min: 12.5gbit}")[1]
    assert wanted == "red -> blue (10.0.0.3): 100 Mbit/s, expected at least 12.5 Gbit/s"
    report = '{"end": {"sum_received": {"bits_per_second": 12.5}}}'
    assert (iperf.received(report), iperf.received("{}"), iperf.received("x")) == (12.5, None, None)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ('stdout: "^default via"', ""),
        ('stderr: "warning$"', ""),
        ('stdout: "^$nothing"', "stdout does not match '^$nothing'"),
        ('stderr: "error"', "stderr does not match 'error'"),
        ("code: 1", "exit code 0, expected 1"),
    ],
)
def test_commands(more: str, said: str, bench: FakeBench) -> None:
    found = verdict(bench, f'exec: {{in: red, run: "ip route", {more}}}')
    assert found[0] == ("failed" if said else "passed")
    assert said in found[1]


# -- what silence is worth ----------------------------------------------------------------------------------

FAILS = "ping: {from: red, to: blue, expect: fail}"


def test_a_target_that_answers_another_is_proof(bench: FakeBench) -> None:
    answers(bench, "green", "echo", "10.0.0.3")
    assert verdict(bench, FAILS) == ("passed", "10.0.0.3 answers green")


def test_a_target_that_answers_itself_is_proof(bench: FakeBench) -> None:
    answers(bench, "blue", "echo", "10.0.0.3")
    assert verdict(bench, FAILS) == ("passed", "10.0.0.3 answers itself")


def test_a_target_that_answers_nobody_is_none_unless_a_rule_drops_it(bench: FakeBench) -> None:
    assert verdict(bench, FAILS)[0] == "no proof"
    bench.where = Lost("blue", "route", "blue has no route")
    assert verdict(bench, FAILS)[0] == "no proof"
    bench.where = Lost("blue", "filter", "blue drops it: -A INPUT -j DROP")
    assert verdict(bench, FAILS)[0] == "passed"


@pytest.mark.parametrize(
    ("damage", "doubt"),
    [
        ({"states": {"blue": "dead"}}, "container blue is dead"),
        ({"states": {"red": "dead"}}, "container red is dead"),
        ({"states": {"blue": "paused"}}, "container blue is paused"),
        ({"attachments": {"blue": None}}, "blue does not have the address 10.0.0.3"),
        (
            {"attachments": {"blue": Attachment("eth0", False, False)}},
            "eth0 of blue, which has 10.0.0.3, is down",
        ),
        ({"attachments": {"blue": Attachment("eth0", True, False)}}, "has no carrier"),
        ({"links": {"red": {"eth0": False}}}, "no interface of red has a carrier"),
    ],
)
@pytest.mark.parametrize("check", [FAILS, 'tcp: {from: red, to: "blue:80", expect: timeout}'])
def test_a_broken_lab_is_no_proof(check: str, damage: dict[str, Any], doubt: str, bench: FakeBench) -> None:
    """Although all that could answer does."""
    answers(bench, "green", "echo", "10.0.0.3")
    answers(bench, "blue", "tcp", "10.0.0.3", 80)
    assert verdict(bench, check)[0] == "passed"
    for name, value in damage.items():
        setattr(bench.prober, name, value)
    found = verdict(bench, check)
    assert found[0] == "no proof"
    assert doubt in found[1]


def test_a_port_that_nobody_serves_is_no_proof(bench: FakeBench) -> None:
    check = 'tcp: {from: red, to: "blue:80", expect: fail}'
    answers(bench, "red", "tcp", "10.0.0.3", 80, REFUSED)
    assert verdict(bench, check)[0] == "no proof"
    bench.prober.sockets["blue"] = [
        Listener("tcp", "10.0.0.3", 81, 0, 1),
        Listener("tcp", "127.0.0.1", 80, 0, 1),
    ]  # type: ignore[attr-defined]
    assert verdict(bench, check)[0] == "no proof"
    bench.prober.sockets["blue"] = [Listener("tcp", "::", 80, 0, 1)]  # type: ignore[attr-defined]
    assert verdict(bench, check) == ("passed", "blue listens on port 80")
    bench.prober.sockets["blue"] = []  # type: ignore[attr-defined]
    bench.where = Lost("blue", "filter", "blue drops it: -A INPUT -j DROP")
    assert verdict(bench, check) == ("passed", "blue drops it: -A INPUT -j DROP, and blue is up")
    answers(bench, "green", "tcp", "10.0.0.3", 80)  # handed on by blue, to whoever is allowed
    assert verdict(bench, check) == ("passed", "port 80 of 10.0.0.3 is open from green")


def test_an_address_that_is_not_the_labs_must_answer_somebody(bench: FakeBench) -> None:
    check = "ping: {from: red, to: 192.0.2.1, expect: fail}"
    assert verdict(bench, check)[0] == "no proof"
    answers(bench, "host", "echo", "192.0.2.1")
    assert verdict(bench, check) == ("passed", "192.0.2.1 answers host")


def test_what_answered_before_the_scenario_may_be_taken_away_by_it(bench: FakeBench) -> None:
    answers(bench, "green", "echo", "10.0.0.3")
    control.remember(bench, kinds.silences(parsed(FAILS), bench))
    bench.prober.states = {"blue": "dead"}  # type: ignore[attr-defined]
    assert verdict(bench, FAILS) == ("passed", "before the scenario: 10.0.0.3 answers green")
    assert verdict(bench, "ping: {from: green, to: blue, expect: fail}")[0] == "failed"


def test_one_bad_trial_is_enough() -> None:
    good, bad = Trial("a -> b", True, "answered"), Trial("a -> c", False, "no answer")
    doubtful = Trial("a -> d", True, "no answer", doubt="d is dead")
    assert judge([good])[0] == "passed"
    assert judge([good, doubtful])[0] == "no proof"
    assert judge([good, doubtful, bad])[0] == "failed"
    assert judge([])[0] == "failed"
    assert judge([bad] * 40)[1][-1] == "and 28 more"


# -- names --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("reach: all", "reach all"),
        ("reach: {from: red}", "reach red -> all"),
        ("ping: {from: red, to: [blue, 10.0.0.9]}", "ping red -> blue, 10.0.0.9"),
        ("ping: {from: red, to: blue, expect: fail}", "ping red -> blue (fail)"),
        ('tcp: {from: red, to: "[fd00::1]:80"}', "tcp red -> [fd00::1]:80"),
        ("route: {from: red, to: blue, path: []}", "route red -> blue by nobody"),
        ('exec: {in: red, run: "ip route\\nip link"}', "exec red: ip route"),
        ("exec: {in: red, run: [ip, route]}", "exec red: ip route"),
        ("reach: all, name: all of it", "all of it"),
    ],
)
def test_titles(text: str, wanted: str) -> None:
    assert titles.title(parsed(text), {}) == wanted


def test_a_scaled_name_stands_for_its_containers() -> None:
    text = (
        "containers: {h: {scale: 9}, r: }\nchecks: [{ping: {from: h, to: r}}, {ping: {from: [r, h], to: h1}}]"
    )
    lab = labfile.loads(text)
    assert [titles.title(check, lab.groups) for check in lab.checks] == ["ping h -> r", "ping r, h -> h1"]


def test_hosts_and_resolv_conf() -> None:
    hosts = "127.0.0.1 localhost\n10.0.0.2\tred red.lab # x\nfd00::2 red\n\n# 10.0.0.3 blue\n"
    assert parse_hosts(hosts) == {
        "localhost": ["127.0.0.1"], "red": ["10.0.0.2", "fd00::2"], "red.lab": ["10.0.0.2"]
    }  # fmt: skip
    conf = dnsclient.parse_resolv_conf(
        "nameserver 10.0.0.1\nsearch a b.\noptions ndots:2 rotate\nnameserver fd00::1\n"
    )
    assert conf == (("10.0.0.1", "fd00::1"), ("a", "b."), 2)
    assert conf.candidates("x.y") == ["x.y.a.", "x.y.b.", "x.y."]
    assert conf.candidates("x.y.z") == ["x.y.z.", "x.y.z.a.", "x.y.z.b."]
    assert conf.candidates("x.") == ["x."]


def test_a_page_that_comes_byte_by_byte_has_a_deadline() -> None:
    def drip(server: socket.socket, parts: Sequence[bytes]) -> None:
        with server, server.accept()[0] as client, suppress(OSError):
            client.recv(9999)
            for part in parts:
                client.sendall(part)
                over.wait(0.02)

    over = threading.Event()
    for parts, said in (
        ([b"HTTP/1.0 404 No\r\n\r\n", b"bo", b"dy"], (404, b"body")),
        ([b"x"] * 500, None),
        ([b"HTTP/1.1 200 OK\r\n", *[b"a: b\r\n"] * 500], None),
    ):
        server = socket.create_server(("127.0.0.1", 0))
        thread = threading.Thread(target=drip, args=(server, parts))
        thread.start()
        began = time.monotonic()
        try:
            page = httpclient.get(["127.0.0.1"], server.getsockname()[1], "x", "/", 0.3)
            assert (page.status, page.body) == said
        except TimeoutError:
            assert said is None and time.monotonic() - began < 5
        thread.join()


def test_https_by_a_python_built_without_tls(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ssl", None)
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with pytest.raises(MissingFeature, match="https takes Python's module ssl"):
            httpclient.get(["127.0.0.1"], port, "x", "/", 5.0, tls=True)


# -- outages --------------------------------------------------------------------------------------------


def stream(pattern: str, interval: float = 0.01) -> list[Sample]:
    """``+`` is an answered packet, ``-`` one that is not."""
    return [Sample(n * interval, n * interval if mark == "+" else None) for n, mark in enumerate(pattern)]


@pytest.mark.parametrize(
    ("pattern", "wanted"),
    [
        ("+" * 50, []),
        ("+" * 20 + "-" * 30 + "+" * 20, [(0.2, 0.5, 30)]),
        ("+" * 20 + "-" * 30, [(0.2, None, 30)]),
        ("-" * 3 + "+" * 30, [(0.0, 0.03, 3)]),
        ("+" * 20 + "--+++--" + "+" * 20, [(0.2, 0.27, 4)]),  # it flaps: one outage
        ("+" * 20 + "-" + "+" * 20 + "--" + "+" * 20, [(0.2, 0.21, 1), (0.41, 0.43, 2)]),
        ("+" * 20 + "-" * 5 + "+" * 5, [(0.2, None, 5)]),  # too early to tell
    ],
)
def test_outages(pattern: str, wanted: list[tuple[float, float | None, int]]) -> None:
    found = outage.outages(stream(pattern), now=10)
    assert [(round(o.began, 2), o.ended and round(o.ended, 2), o.lost) for o in found] == wanted


def test_a_packet_that_was_just_sent_is_not_lost_yet() -> None:
    assert outage.outages(stream("+" * 20 + "-" * 5), now=0.3) == []


def test_convergence_is_over_when_it_is_steady_or_too_late() -> None:
    cut = stream("+" * 100 + "-" * 50 + "+" * 200)
    assert outage.watched([cut], now=1.6, since=1.0, within=5).over is False
    seen = outage.watched([stream("+" * 400), cut], now=3.49, since=1.0, within=5)
    assert (seen.over, seen.which) == (True, 1)
    assert seen.longest is not None and round(seen.longest.length(3.49), 2) == 0.5
    late = outage.watched([stream("+" * 100 + "-" * 200)], now=3.0, since=1.0, within=1)
    assert late.over and late.longest is not None and late.longest.ended is None
    quiet = outage.watched([stream("+" * 300)], now=3.0, since=1.0, within=5)
    assert quiet.over and quiet.longest is None


@pytest.mark.parametrize(
    "slow",
    [[], [Sample(0.2, 2.9)], [Sample(0.2, 2.9), Sample(2.9, None)]],
    ids=["nothing yet", "sent before the command", "no answer yet"],
)
def test_of_a_slow_check_one_must_have_been_made_since_the_command(slow: list[Sample]) -> None:
    seen = outage.watched([stream("+" * 300), slow], now=3.0, since=1.0, within=5)
    assert not seen.over and not seen.tried
    assert outage.watched([[*slow[:1], Sample(2.9, 6.0)]], now=6.1, since=1.0, within=5).over
    assert not outage.watched([], now=9.0, since=1.0, within=5).tried


# -- scenarios ------------------------------------------------------------------------------------------


def test_of_a_command_that_prints_for_ever_the_beginning_is_kept() -> None:
    tracemalloc.start()
    try:
        done = hostcommand.run(["sh", "-c", "yes & yes >&2"], 0.5)
        most = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert done.timed_out and done.code == 124
    assert len(done.output) == len(done.errors) == OUTPUT_LIMIT and most < 8 * OUTPUT_LIMIT


@pytest.mark.parametrize(
    ("line", "wanted"),
    [
        ("link red br0 down", "link --lab L red br0 down"),
        ("exec blue kill 1", "exec --lab L blue kill 1"),
        ("pause red --lab other", "pause red --lab other"),
        ("status --strict", "status L --strict"),
        ("ps other", "ps other"),
        ("up", "up /lab.yaml --name L --private"),
        ("up new.yaml --var A=b", "up new.yaml --var A=b --name L --private"),
        ("ls", "ls"),
    ],
)
def test_a_step_means_its_own_lab(line: str, wanted: str) -> None:
    assert commands.of_lab(line.split(), "L", "/lab.yaml", private=True) == wanted.split()


# -- reports --------------------------------------------------------------------------------------------


def report(state: Any = "passed", *results: Result, planned: int = 0, **more: Any) -> suite.Report:
    names = [("ping", f"check {n}") for n in range(planned)]
    return suite.Report("lab.yaml", "lab-1", state, list(results), planned=names, **more)


PASSED = Result("reach all", "reach", "passed", 0.1, figures={"rtt_ms": 0.2})
FAILED = Result("ping \x1b[1m<a>", "ping", "failed", 1.2, ("a -> b: no answer",), where=Where("l.yaml", 3, 5))
DOUBT = Result("tcp a -> b:80", "tcp", "no proof", 2.0, ("nobody",))
COMMAND = Result("link a b down", "command", "passed", 0.3)


def cases(*reports: suite.Report) -> list[ElementTree.Element]:
    text = junit.xml(reports, hostname="here", now=0)
    assert_is_junit(text)
    return list(ElementTree.fromstring(text.split("\n", 1)[1]).iter("testcase"))


def test_junit_has_a_case_for_each_check() -> None:
    found = cases(report("failed", PASSED, FAILED, DOUBT, PASSED, COMMAND))
    assert [case.get("name") for case in found] == [
        "reach all", "ping \ufffd[1m<a>", "tcp a -> b:80", "reach all (2)"
    ]  # fmt: skip
    failures = [case.find("failure") for case in found]
    assert [failure is not None and failure.get("type") for failure in failures] == [
        False, "failed", "no proof", False
    ]  # fmt: skip
    assert failures[1] is not None and "at l.yaml:3:5" in (failures[1].text or "")


@pytest.mark.parametrize(
    ("state", "beside", "alone"),
    [
        ("not built", "error", "error"),
        ("invalid", "error", "error"),
        ("skipped", "skipped", "error"),
        ("no checks", "skipped", "error"),
    ],
)
def test_junit_of_what_was_not_run(state: Any, beside: str, alone: str) -> None:
    """The number of cases does not depend on what became of the lab, where that number is known.

    What nothing was done for is skipped beside a file that passed; alone it is an error, as by the exit code.
    """
    planned = 3 if state in ("not built", "skipped") else 0
    idle = report(state, planned=planned, errors=["error: it broke\nhint: mend it"])
    for kind, others in ((alone, ()), (beside, (report("passed", PASSED),))):
        found = [case for case in cases(idle, *others) if case.get("name") != PASSED.name]
        assert len(found) == max(1, planned)
        for case in found:
            child = case.find(kind)
            assert child is not None and child.get("message") == "it broke"
        failing = any(case.find("error") is not None for case in found)
        assert failing == (exit_code([idle, *others]) != 0)


def test_junit_of_a_test_that_was_cut_short() -> None:
    found = cases(report("interrupted", PASSED, planned=3, errors=["interrupted by SIGINT"]))
    assert [case.find("error") is not None for case in found] == [False, True, True]


def test_reports_survive_the_way_from_one_process_to_another() -> None:
    there = report("failed", PASSED, FAILED, planned=2, seconds={"up": 1.5}, notes=["x"])
    assert suite.Report.of_json(there.to_json()) == there


@pytest.mark.parametrize(
    ("states", "code"),
    [
        (["passed"], 0),
        (["passed", "skipped", "no checks"], 0),
        (["passed", "failed", "invalid"], 1),
        (["failed", "not built"], 3),
        (["passed", "invalid"], 2),
        (["no checks"], 1),
        (["skipped"], 3),
        (["passed", "interrupted"], 130),
    ],
)
def test_exit_codes(states: list[Any], code: int) -> None:
    assert exit_code([report(state) for state in states]) == code


def test_the_summary_counts() -> None:
    text = summary([report("failed", PASSED, FAILED, DOUBT), replace(report("skipped"), errors=["x"])], 2.0)
    assert text == "2 files: 1 check passed, 1 failed, 1 no proof, 1 file skipped in 2.0 s"
