"""The kinds of checks: which probes each sends, and what their answers mean.

Owns: a function for each kind, from a check to its trials.  Must not: repeat (``run``), or send anything but
by the bench.

=============  ==================================================================================
check          holds when
=============  ==================================================================================
``reach``      each pair's echo request is answered, in each family that both have; tried twice
``ping``       one of ``count`` echo requests is answered, as ping(8), and none later than ``max_rtt``
``tcp``        a connection is accepted; ``refused``: by a reset; ``timeout``: nothing comes back
``udp``        a datagram comes back, or the target's program has read what was sent; ``refused``: ICMP port
               unreachable; ``timeout``: neither
``http``       the answer has the status (200) and the body matches; redirects are not followed; ``refused``,
               ``timeout``: there is no page, as of ``tcp``
``dns``        the name has all the addresses: by the hosts file, then by DNS, as the C library asks;
               ``refused``: the server refuses; ``timeout``: none answers; ``fail``: any of both, or the name
               has no address
``route``      the hops that answer, but for the last, are ``path``
``throughput`` what TCP carries in three seconds lies between ``min`` and ``max``
``exec``       exit code, stdout and stderr are as asked for
=============  ==================================================================================
"""

from __future__ import annotations

import itertools
import re
import struct
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from netns_orch.checks import control
from netns_orch.checks.bench import (
    ECHO_WAIT,
    EXEC_WAIT,
    HTTP_WAIT,
    TCP_WAIT,
    UDP_WAIT,
    Bench,
    parse_hosts,
)
from netns_orch.checks.outcome import Trial
from netns_orch.checks.titles import socket_text
from netns_orch.kernel.probes import Ask, Heard
from netns_orch.labfile.model import Check

Pair = tuple[str, str]
_TRIES = 2
_TRACES, _ICMP_PAUSE = 3, 1.05
_HOPELESS = 3
"""So many echo requests of a ping without any answer end it."""
_DNS_QUERY = struct.pack("!6H", 0x6E6F, 0x0100, 1, 0, 0, 0) + b"\0" + struct.pack("!2H", 2, 1)
"""The name servers of the root: what every DNS server answers somehow."""
_NTP_QUERY = b"\x23" + bytes(47)
_PAYLOADS = {53: _DNS_QUERY, 123: _NTP_QUERY}
_PLAIN = b"netorch check\n"
_SECONDS = 3.0
_SAID = 200


def trials(check: Check, bench: Bench) -> list[Trial]:
    """Try a check once.  KernelError where the lab itself can't be asked."""
    return KINDS[check.kind](check.options, bench)


def streams(check: Check, bench: Bench) -> list[tuple[str, Ask]] | None:
    """The single packets that a check which expects answers is about; None where it is about more."""
    if check.kind == "reach":
        return _reach_asks(check.options, bench)[0]
    if check.kind not in ("ping", "tcp") or check.options.get("expect") not in (None, "ok", "open"):
        return None
    if check.kind == "ping":
        return _ping_asks(check.options, bench)[0]
    return [
        (f"{source} -> {socket_text(target, port)}", Ask(source, "tcp", address, port))
        for source, (target, port) in itertools.product(check.options["from"], check.options["to"])
        for address in _resolved(bench, source, target)[:1]
    ]


def silences(check: Check, bench: Bench) -> list[Ask]:
    """What a check asks and wants no answer to."""
    expect = check.options.get("expect")
    if check.kind == "ping" and expect == "fail":
        return [ask for _, ask in _ping_asks(check.options, bench)[0]]
    if expect not in ("timeout", "fail"):
        return []
    if check.kind == "dns":
        return [ask for source in check.options["from"] if (ask := _server(check.options, source, bench))]
    if check.kind == "http":
        host, port = _socket_of(check.options["url"])
        sockets, kind = [(host, port)], "tcp"
    else:
        sockets, kind = check.options["to"], check.kind
    return [
        Ask(source, kind, address, port, _PAYLOADS.get(port, _PLAIN))
        for source, (target, port) in itertools.product(check.options["from"], sockets)
        for address in _resolved(bench, source, target)[:1]
    ]


# -- ping -------------------------------------------------------------------------------------------


def _reach(options: Any, bench: Bench) -> list[Trial]:
    asks, found = _reach_asks(options, bench)
    heard = [Heard("silence")] * len(asks)
    for _ in range(_TRIES):
        again = [at for at, one in enumerate(heard) if one.kind != "answered"]
        for at, one in zip(again, bench.ask([asks[at][1] for at in again], ECHO_WAIT), strict=True):
            heard[at] = one
    answers = zip(asks, heard, strict=True)
    return [*found, *(_echo_trial(bench, who, ask, [one]) for (who, ask), one in answers)]


def _reach_asks(options: Any, bench: Bench) -> tuple[list[tuple[str, Ask]], list[Trial]]:
    """What to ask; and trials of pairs that have nothing to ask."""
    everyone = [n for n in bench.containers if bench.root(n) == n and bench.families(n)]
    sources, targets = options.get("from", everyone), options.get("to", everyone)
    found: list[Trial] = []
    asks: list[tuple[str, Ask]] = []
    for source, target in _pairs(bench, sources, targets):
        addresses = _each_family(bench, source, target)
        if not addresses:
            found.append(_unknown(source, target))
        asks += [(_who(source, target, address), Ask(source, "echo", address)) for address in addresses]
    return asks, found


def _each_family(bench: Bench, source: str, target: str) -> list[str]:
    """An address of each family that both have; of a target outside the lab, the first."""
    addresses = _resolved(bench, source, target)
    families = bench.families(source)
    first: dict[int, str] = {}
    for address in addresses:
        first.setdefault(6 if ":" in address else 4, address)
    both = [address for family, address in first.items() if family in families]
    return both or addresses[:1]


def _ping(options: Any, bench: Bench) -> list[Trial]:
    fails = options.get("expect") == "fail"
    asks, found = _ping_asks(options, bench)
    limit = options.get("max_rtt")
    heard = _rounds(bench, [ask for _, ask in asks], options.get("count", 1), limit or 0)
    for (who, ask), answers in zip(asks, heard, strict=True):
        if fails:
            found.append(_silent_trial(bench, who, ask, answers))
        else:
            found.append(_echo_trial(bench, who, ask, answers, limit))
    return found


def _ping_asks(options: Any, bench: Bench) -> tuple[list[tuple[str, Ask]], list[Trial]]:
    """As ``_reach_asks``, to the first address of each target."""
    found: list[Trial] = []
    asks: list[tuple[str, Ask]] = []
    for source, target in _pairs(bench, options["from"], options["to"]):
        addresses = _resolved(bench, source, target)[:1]
        if not addresses:
            found.append(_unknown(source, target))
        asks += [(_who(source, target, address), Ask(source, "echo", address)) for address in addresses]
    return asks, found


def _rounds(bench: Bench, asks: Sequence[Ask], count: int, limit: float) -> list[list[Heard]]:
    """What each of ``count`` rounds of questions heard, by question."""
    heard: list[list[Heard]] = [[] for _ in asks]
    for number in range(count):
        for answers, one in zip(heard, bench.ask(asks, max(ECHO_WAIT, limit)), strict=True):
            answers.append(one)
        if number + 1 >= _HOPELESS and not any(one.kind == "answered" for each in heard for one in each):
            break
    return heard


def _echo_trial(
    bench: Bench, who: str, ask: Ask, heard: Sequence[Heard], limit: float | None = None
) -> Trial:
    times = [1000 * one.seconds for one in heard if one.kind == "answered" and one.seconds is not None]
    if not times:
        said = heard[-1].words or _no_answer(len(heard))
        return Trial(who, False, said, why=lambda: bench.lost(ask.node, ask.address))
    many = f"{len(times)} of {len(heard)} answered" if len(heard) > 1 else "answered"
    figures = {"rtt_ms": max(times), "lost": float(len(heard) - len(times))}
    if limit is not None and max(times) > limit * 1000:
        return Trial(
            who, False, f"{many}, but in {max(times):.2f} ms, max_rtt is {limit * 1000:g} ms", figures=figures
        )
    return Trial(who, True, f"{many} in {max(times):.2f} ms", figures=figures)


def _no_answer(count: int) -> str:
    return "no answer" if count == 1 else f"no answer to {count} pings"


def _silent_trial(bench: Bench, who: str, ask: Ask, heard: Sequence[Heard]) -> Trial:
    answered = sum(one.kind == "answered" for one in heard)
    if answered:
        return Trial(who, False, "it answers, and should not")
    said = heard[-1].words or _no_answer(len(heard))
    if heard[-1].kind == "failed":
        return Trial(who, True, said, doubt=heard[-1].words)
    proof, doubt = control.echo(bench, ask.node, ask.address)
    return Trial(who, True, said, proof=proof, doubt=doubt)


# -- ports ------------------------------------------------------------------------------------------


def _tcp(options: Any, bench: Bench) -> list[Trial]:
    return _ports("tcp", options, bench)


def _udp(options: Any, bench: Bench) -> list[Trial]:
    return _ports("udp", options, bench)


def _ports(kind: str, options: Any, bench: Bench) -> list[Trial]:
    expect = options.get("expect", "open")
    tries = list(itertools.product(options["from"], options["to"]))
    return bench.prober.each(lambda one: _port(kind, expect, one[0], one[1], bench), tries)


def _port(kind: str, expect: str, source: str, socket: tuple[str, int], bench: Bench) -> Trial:
    target, port = socket
    addresses = _resolved(bench, source, target)
    who = f"{source} -> {socket_text(target, port)}"
    if not addresses:
        return _unknown(source, target)
    asks = [Ask(source, kind, address, port, _PAYLOADS.get(port, _PLAIN)) for address in addresses]
    heard = _datagrams(bench, asks) if kind == "udp" else bench.ask(asks, TCP_WAIT)
    ask, one = next((pair for pair in zip(asks, heard, strict=True) if pair[1].kind == "answered"), None) or (
        asks[0],
        heard[0],
    )
    is_open = one.kind == "answered"
    said = _port_said(kind, one)
    if expect == "open":
        return Trial(who, is_open, said, why=lambda: _port_lost(bench, ask, one))
    if is_open or not _fits(expect, one):
        return Trial(who, False, f"{said}, expected {expect}", why=lambda: _port_lost(bench, ask, one))
    return _refusing_trial(bench, who, ask, one, expect, said)


def _refusing_trial(bench: Bench, who: str, ask: Ask, one: Heard, expect: str, said: str) -> Trial:
    """Of a port that does what is expected of it, and is not open."""
    if one.kind == "failed":
        return Trial(who, True, said, doubt=one.words)
    if expect == "refused":
        return Trial(who, True, said, proof="it refuses, which is an answer")
    proof, doubt = control.port(bench, ask.node, ask.kind, ask.address, ask.port, ask.payload)
    return Trial(who, True, said, proof=proof, doubt=doubt)


def _fits(expect: str, one: Heard) -> bool:
    if expect == "fail":
        return one.kind != "answered"
    return one.kind == {"refused": "refused", "timeout": "silence"}[expect]


def _port_said(kind: str, one: Heard) -> str:
    if one.kind == "answered":
        return one.words or ("open" if kind == "tcp" else "a datagram came back")
    if one.kind == "silence":
        return "no answer (timed out)"
    return "refused" if one.kind == "refused" else one.words


def _datagrams(bench: Bench, asks: Sequence[Ask]) -> list[Heard]:
    """Also answered: what a program in the lab has read, or will, although it sends nothing back."""
    before = [_taken(bench, ask) for ask in asks]
    heard = bench.ask(asks, UDP_WAIT)
    for at, (ask, one) in enumerate(zip(asks, heard, strict=True)):
        first = before[at]
        if one.kind == "silence" and first is not None and (_taken(bench, ask) or 0) > first:
            heard[at] = Heard("answered", words=f"{bench.owner(ask.address)} took it, and sent nothing back")
    return heard


def _taken(bench: Bench, ask: Ask) -> int | None:
    """Datagrams read and bytes waiting at the target; None where nothing there takes any."""
    owner = bench.owner(ask.address)
    if owner is None or bench.prober.state(owner) != "running":
        return None
    sockets = [one for one in bench.prober.listeners(owner) if one.protocol == "udp" and one.port == ask.port]
    if not any(one.serves(ask.address) for one in sockets):
        return None
    return bench.prober.datagrams_read(owner) + sum(one.queued for one in sockets)


def _port_lost(bench: Bench, ask: Ask, heard: Heard) -> str:
    """Where a connection that should be there ends."""
    if heard.kind == "answered":
        return ""
    nothing = _nobody_listens(bench, ask)
    if nothing and heard.kind == "refused":
        return nothing

    def send(address: str) -> None:
        bench.prober.ask([ask._replace(node=bench.root(ask.node), address=address)] * 3, 0.3)

    return bench.lost(ask.node, ask.address, send, nothing)


def _nobody_listens(bench: Bench, ask: Ask) -> str:
    """What is said where nothing at the target can take the packet; else nothing is said."""
    owner = bench.owner(ask.address)
    if owner is None:
        return ""
    if bench.prober.state(owner) == "dead":
        return f"lost at {owner}: the container is dead"
    there = [one for one in bench.prober.listeners(owner) if one.protocol == ask.kind]
    if any(one.port == ask.port and one.serves(ask.address) for one in there):
        return ""
    ends = f"lost at {owner}: nothing there listens on {ask.kind} port {ask.port} of {ask.address}"
    others = sorted({socket_text(one.address, one.port) for one in there})
    return f"{ends}; it does on {', '.join(others[:8])}" if others else ends


# -- services ---------------------------------------------------------------------------------------


def _http(options: Any, bench: Bench) -> list[Trial]:
    return bench.prober.each(lambda source: _page(options, source, bench), options["from"])


def _url(url: str) -> re.Match[str]:
    from netns_orch.labfile.probes import URL

    match = URL.fullmatch(url)
    assert match is not None
    return match


def _socket_of(url: str) -> tuple[str, int]:
    """Host and port."""
    match = _url(url)
    return match["six"] or match["host"], int(match["port"] or (443 if match["scheme"] == "https" else 80))


def _page(options: Any, source: str, bench: Bench) -> Trial:
    from netns_orch.kernel.probes import refusal

    url = options["url"]
    match, (host, port) = _url(url), _socket_of(url)
    expect = options.get("expect", "ok")
    who = f"{source} -> {url}"
    addresses = _resolved(bench, source, host)
    if not addresses:
        return _unknown(source, host)
    path = match["path"] or "/"
    path = path if path.startswith("/") else f"/{path}"
    header = f"[{host}]" if match["six"] else host
    named = header if match["port"] is None else f"{header}:{port}"
    try:
        timeout = bench.wait(HTTP_WAIT, times=3)
        tls = match["scheme"] == "https"
        page = bench.prober.get(bench.root(source), addresses, port, named, path, timeout, tls)
    except OSError as error:
        heard = Heard("silence") if isinstance(error, TimeoutError) else refusal(error)
        ask = Ask(source, "tcp", addresses[0], port)
        said = heard.words or "no answer (timed out)"
        if expect != "ok" and _fits(expect, heard):
            return _refusing_trial(bench, who, ask, heard, expect, said)
        said += "" if expect == "ok" else f", expected {expect}"
        return Trial(who, False, said, why=lambda: _service_lost(bench, ask, heard))
    if expect != "ok":
        return Trial(who, False, f"status {page.status} {page.reason}".rstrip() + f", expected {expect}")
    return _judge_page(who, options, page.status, page.reason, page.body.decode(errors="replace"))


def _service_lost(bench: Bench, ask: Ask, heard: Heard) -> str:
    """As ``_port_lost``, but where the connection itself is made, it is the service."""
    again = bench.ask([ask], TCP_WAIT)[0]
    if again.kind == "answered":
        return "the connection is accepted; it is the service that does not answer"
    return _port_lost(bench, ask, again)


def _judge_page(who: str, options: Any, status: int, reason: str, body: str) -> Trial:
    wanted = options.get("status", 200)
    said = f"status {status} {reason}".rstrip()
    if status != wanted:
        return Trial(who, False, f"{said}, expected {wanted}: {_short(body)}")
    pattern = options.get("body")
    if pattern is not None and not re.search(pattern, body, re.MULTILINE):
        return Trial(who, False, f"{said}, but the body does not match {pattern!r}: {_short(body)}")
    return Trial(who, True, said)


def _short(text: str) -> str:
    """A text as one line, not too long, quoted."""
    return repr(text if len(text) <= _SAID else text[: _SAID - 3] + "...")


def _dns(options: Any, bench: Bench) -> list[Trial]:
    return bench.prober.each(lambda source: _name(options, source, bench), options["from"])


def _name(options: Any, source: str, bench: Bench) -> Trial:
    name, wanted = options["name"], [str(address) for address in options.get("address", ())]
    expect, server = options.get("expect", "ok"), options.get("server")
    who = f"{source}: {name}"
    found: list[str] = []
    address: str | None = None
    if server is None:
        found = parse_hosts(bench.prober.file(source, "/etc/hosts")).get(name, [])
    else:
        address = next(iter(_resolved(bench, source, server[0])), None)
        if address is None:
            return _unknown(source, server[0])
    if not found:
        families = sorted({6 if ":" in text else 4 for text in wanted} or {4, 6})
        try:
            found = bench.look_up(bench.root(source), name, server=address, families=families)
        except OSError as error:
            return _unanswered(options, source, bench, who, error)
    if expect != "ok":
        nobody = expect == "fail" and not found
        said = f"is {', '.join(found)}" if found else "is no name that is known"
        if nobody:
            return Trial(who, True, said, proof="that there is no such name is an answer")
        return Trial(who, False, f"{said}, expected {expect}")
    missing = [text for text in wanted if text not in found]
    if missing:
        return Trial(
            who, False, f"is {', '.join(found) or 'no name that is known'}, expected {', '.join(wanted)}"
        )
    return Trial(who, True, f"is {', '.join(found)}")


def _unanswered(options: Any, source: str, bench: Bench, who: str, error: OSError) -> Trial:
    """Of a name that no server told the addresses of."""
    from netns_orch.kernel.probes import refusal

    expect, ask = options.get("expect", "ok"), _server(options, source, bench)
    said = f"no answer: {error.strerror or error}"
    heard = refusal(error)
    if expect != "ok" and _fits(expect, heard):
        if ask is None:
            return Trial(who, True, said, doubt=error.strerror or str(error))
        return _refusing_trial(bench, who, ask, heard, expect, said)
    said += "" if expect == "ok" else f", expected {expect}"
    return Trial(
        who, False, said, why=None if ask is None else lambda: _port_lost(bench, ask, Heard("silence"))
    )


def _server(options: Any, source: str, bench: Bench) -> Ask | None:
    """What asks the name server of a check whether it is there."""
    server = options.get("server")
    if server is None:
        address = bench.name_server(source)
    else:
        address = next(iter(_resolved(bench, source, server[0])), None)
    return None if address is None else Ask(source, "udp", address, 53, _DNS_QUERY)


# -- way and width ----------------------------------------------------------------------------------


def _route(options: Any, bench: Bench) -> list[Trial]:
    pairs = list(_pairs(bench, options["from"], options["to"]))
    return bench.prober.each(lambda pair: _way(options, *pair, bench), pairs)


def _way(options: Any, source: str, target: str, bench: Bench) -> Trial:
    address = next(iter(_resolved(bench, source, target)), None)
    if address is None:
        return _unknown(source, target)
    who = _who(source, target, address)
    hops, arrives = _hops(bench, source, address)
    if not arrives:
        said = f"it does not arrive; the way: {_arrows(hops)}"
        return Trial(who, False, said, why=lambda: bench.lost(source, address))
    wanted = [bench.root(node) for node in options["path"]]
    if hops[:-1] != wanted:
        return Trial(who, False, f"the way is {_arrows(hops[:-1])}, expected {_arrows(wanted)}")
    return Trial(who, True, f"the way is {_arrows(wanted)}")


def _hops(bench: Bench, source: str, address: str) -> tuple[list[str], bool]:
    """The nodes on the way (``*``: it said nothing), and whether the last one is the target.

    A node tells a sender of the end of a packet's life no more than once a second, but for a few at first
    (icmp_ratelimit in ip-sysctl): one that said nothing is asked again.
    """
    known: dict[int, str] = {}
    for tries_left in reversed(range(_TRACES)):
        answers = bench.prober.trace(bench.root(source), address, bench.delay)
        known.update({a.ttl: bench.owner(a.address) or a.address for a in answers if a.address})
        arrives = bool(answers) and answers[-1].kind == "reply"
        hops = [known.get(answer.ttl, "*") for answer in answers]
        if "*" not in hops or not tries_left:
            break
        time.sleep(_ICMP_PAUSE)
    return hops, arrives


def _arrows(nodes: Sequence[str]) -> str:
    return " > ".join(nodes) or "straight"


def _throughput(options: Any, bench: Bench) -> list[Trial]:
    """One after the other: they would share the way."""
    return [_carried(options, *pair, bench) for pair in _pairs(bench, options["from"], options["to"])]


def _carried(options: Any, source: str, target: str, bench: Bench) -> Trial:
    from netns_orch.checks import iperf

    address = next(iter(_resolved(bench, source, target)), None)
    owner = bench.owner(address) if address else None
    if address is None or owner is None:
        return (
            _unknown(source, target)
            if address is None
            else Trial(
                _who(source, target, address),
                False,
                f"{address} is no address of the lab: nobody there can receive",
            )
        )
    who = _who(source, target, address)
    try:
        rate = iperf.measure(bench, source, target, address, _SECONDS)
        if rate is None:
            rate = bench.prober.throughput(bench.root(source), owner, address, _SECONDS)
    except OSError as error:
        said = f"no connection: {(error.strerror or str(error)).lower()}"
        return Trial(who, False, said, why=lambda: bench.lost(source, address))
    least, most = options.get("min"), options.get("max")
    figures = {"bits_per_second": rate}
    said = f"{_speed(rate)}"
    if least is not None and rate < least:
        return Trial(who, False, f"{said}, expected at least {_speed(least)}", figures=figures)
    if most is not None and rate > most:
        return Trial(who, False, f"{said}, expected at most {_speed(most)}", figures=figures)
    return Trial(who, True, said, figures=figures)


def _speed(rate: float) -> str:
    return f"{rate / 1e9:.4g} Gbit/s" if rate >= 1e9 else f"{rate / 1e6:.4g} Mbit/s"


# -- programs ---------------------------------------------------------------------------------------


def _exec(options: Any, bench: Bench) -> list[Trial]:
    return bench.prober.each(lambda node: _command(options, node, bench), options["in"])


def _command(options: Any, node: str, bench: Bench) -> Trial:
    if bench.prober.state(node) == "dead":
        return Trial(node, False, "the container is dead")
    done = bench.prober.run(node, options["run"], EXEC_WAIT)
    stdout, stderr = done.output.decode(errors="replace"), done.errors.decode(errors="replace")
    wrong = list(_wrong(options, done.code, done.timed_out, stdout, stderr))
    if not wrong:
        return Trial(node, True, f"exit code {done.code}")
    told = f"stdout {_short(stdout)}" + (f", stderr {_short(stderr)}" if stderr else "")
    return Trial(node, False, f"{'; '.join(wrong)}: {told}")


def _wrong(options: Any, code: int, timed_out: bool, stdout: str, stderr: str) -> Iterator[str]:
    if timed_out:
        yield f"it did not end within {EXEC_WAIT:g} s"
    elif code != options.get("code", 0):
        yield f"exit code {code}, expected {options.get('code', 0)}"
    for name, text in (("stdout", stdout), ("stderr", stderr)):
        pattern = options.get(name)
        if pattern is not None and not re.search(pattern, text, re.MULTILINE):
            yield f"{name} does not match {pattern!r}"


# -- what they share --------------------------------------------------------------------------------


def _pairs(bench: Bench, sources: Iterable[str], targets: Iterable[str]) -> Iterator[Pair]:
    """Everyone to everyone but itself, each pair once."""
    pairs = itertools.product(dict.fromkeys(sources), dict.fromkeys(targets))
    return ((source, target) for source, target in pairs if bench.root(source) != bench.root(target))


def _resolved(bench: Bench, source: str, target: str) -> list[str]:
    try:
        return bench.resolve(source, target)
    except OSError:
        return []


def _who(source: str, target: str, address: str) -> str:
    return f"{source} -> {target}" + (f" ({address})" if address != target else "")


def _unknown(source: str, target: str) -> Trial:
    return Trial(f"{source} -> {target}", False, f"{source} knows no address of {target}")


KINDS: dict[str, Callable[[Any, Bench], list[Trial]]] = {
    "reach": _reach,
    "ping": _ping,
    "tcp": _tcp,
    "udp": _udp,
    "http": _http,
    "dns": _dns,
    "route": _route,
    "throughput": _throughput,
    "exec": _exec,
}
