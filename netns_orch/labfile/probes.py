"""The keys ``checks`` and ``scenario``: what ``netorch test`` proves, and its steps in time.

Owns: their declarations.
Must not: run anything.
"""

from __future__ import annotations

import re
from typing import Any

from netns_orch.errors import Where
from netns_orch.labfile import addresses, hints, short, units
from netns_orch.labfile.fields import (
    Built,
    ByKind,
    Choice,
    Context,
    Field,
    Flat,
    Found,
    Int,
    Key,
    ListOf,
    OneOrMore,
    Record,
    Schema,
    Text,
    any_text,
    block,
    line,
)
from netns_orch.labfile.model import HOST, Check, Step
from netns_orch.labfile.network import IP
from netns_orch.labfile.nodes import Node, Scalar, shown
from netns_orch.labfile.units import Wrong

DURATION = Text(units.duration, "a duration such as 10s", units.POSITIVE_DURATION, also=("integer",))


class Sources(Field[list[str]]):
    """A container, a scaled name, or ``host``: the nodes that it stands for."""

    expected = "a container's name"

    def parse(self, node: Node, ctx: Context, where: Where) -> list[str]:
        if not isinstance(node, Scalar) or node.null:
            raise self.unfit(node)
        if node.value == HOST:
            return [HOST]
        return ctx.nodes.members(node.value)

    def schema(self, defs: dict[str, Schema]) -> Schema:
        return {"type": ["string", "integer"]}


class Targets(Sources):
    """As ``Sources``; also an address, or a host name with a dot in it."""

    expected = "a container's name, an address or a host name"

    def parse(self, node: Node, ctx: Context, where: Where) -> list[str]:
        if not isinstance(node, Scalar) or node.null:
            raise self.unfit(node)
        return resolve(node.value, ctx)


def resolve(text: str, ctx: Context) -> list[str]:
    """The nodes, the address or the host name that ``text`` is."""
    if ":" in text or re.fullmatch(r"[0-9]+(\.[0-9]+)+", text):
        return [addresses.address(text)]
    if "." in text:
        return [short.hostname(text)]
    return [HOST] if text == HOST else ctx.nodes.members(text)


def _sockets(values: Any, ctx: Context, where: Where) -> list[tuple[str, int]]:
    return [(host, port) for text, port in values for host in resolve(text, ctx)]


_FROM = Flat(OneOrMore(Sources()))
_TO = Flat(OneOrMore(Targets()))
_SOCKET = Built(OneOrMore(Text(short.target, "a target such as red:80")), _sockets)
_PORT_EXPECT = Choice("open", "refused", "timeout", "fail")
_SERVICE_EXPECT = Choice("ok", "refused", "timeout", "fail")
_REGEX = Text(short.regex, "a regular expression", also=("number",))
_COUNT = Int(1, 10_000, "a number of packets")


def command(text: Any, ctx: Context, where: Where) -> list[str]:
    """A string run by a shell, as argv."""
    return ["/bin/sh", "-c", text]


COMMAND_LIST = ListOf(any_text("a word"), "a command: a list of words, or a string for a shell")
ARGV = ByKind(
    "a command: a list of words, or a string for a shell",
    scalar=Built(Text(block, "a command", also=("number", "boolean")), command),
    sequence=COMMAND_LIST,
)


def _options(values: dict[str, Any], found: Found) -> dict[str, Any]:
    return values


def _url(text: str) -> str:
    if not (match := URL.fullmatch(line(text))) or not 0 < int(match["port"] or 80) < 65536:
        raise Wrong(f"expected a URL such as http://red/, got {shown(text)}")
    return text


URL = re.compile(
    r"(?P<scheme>https?)://(?:\[(?P<six>[0-9A-Fa-f:.]+)\]|(?P<host>[^\s/:?#\[\]@]+))(?::(?P<port>[0-9]{1,5}))?"
    r"(?P<path>[/?][^\s#]*)?"
)
"""What ``http`` can ask for: no user, no fragment."""


def _asked(text: Any, ctx: Context, where: Where) -> str:
    """Note the host of a URL: whether it means something is known once all containers are."""
    match = URL.fullmatch(text)
    if match and match["host"]:
        ctx.hosts.append((match["host"], where))
    return str(text)


def _page(values: dict[str, Any], found: Found) -> dict[str, Any]:
    for key in ("status", "body"):
        if values.get("expect", "ok") != "ok" and key in found.marks:
            raise Wrong(f"a page that is not to come has no `{key}`", "leave it out, or `expect`")
    return values


def _name(values: dict[str, Any], found: Found) -> dict[str, Any]:
    answered = values.get("expect", "ok") == "ok"
    if answered and "address" not in found.marks:
        raise Wrong("the key 'address' is missing", "address: the addresses that it has")
    if not answered and "address" in found.marks:
        raise Wrong("a name that is not to be found has no `address`", "leave it out, or `expect`")
    return values


def _throughput(values: dict[str, Any], found: Found) -> dict[str, Any]:
    if "min" not in found.marks and "max" not in found.marks:
        raise Wrong("a throughput needs `min` or `max`", "min: 50mbit")
    if values.get("min", 0) > values.get("max", 1 << 62):
        raise Wrong("`min` is above `max`")
    return values


_RATE = Text(units.rate, "a rate such as 50mbit", units.RATE)
_ENDS = {
    "from": Key(_FROM, "The containers (or host) that it is tried from."),
    "to": Key(_TO, "What is tried to be reached: containers, addresses or host names."),
}
_SOCKET_KEYS = {
    "from": _ENDS["from"],
    "to": Key(_SOCKET, "Where it connects to, with its port: red:80."),
    "expect": Key(_PORT_EXPECT, "open (default), refused, timeout or fail."),
}


def _kind(title: str, keys: dict[str, Key], required: tuple[str, ...], make: Any = _options) -> Any:
    return Record(f"Check{title}", keys, make, required=required, nullable=False)


_REACH = Record("CheckReach", dict(_ENDS), _options, nullable=False)


def _everyone(values: Any, ctx: Context, where: Where) -> dict[str, Any]:
    return {}


KINDS: dict[str, Key] = {
    "reach": Key(
        ByKind("all, or {from: [...], to: [...]}", scalar=Built(Choice("all"), _everyone), mapping=_REACH),
        "Every container pings every other; or those of `from` those of `to`.",
    ),
    "ping": Key(
        _kind(
            "Ping",
            {
                **_ENDS,
                "count": Key(_COUNT, "How many echo requests; default 1."),
                "max_rtt": Key(DURATION, "The longest round trip allowed."),
                "expect": Key(Choice("ok", "fail"), "ok (default) or fail."),
            },
            ("from", "to"),
        ),
        "An ICMP echo.",
    ),
    "tcp": Key(_kind("Tcp", _SOCKET_KEYS, ("from", "to")), "A TCP connection."),
    "udp": Key(_kind("Udp", _SOCKET_KEYS, ("from", "to")), "A UDP datagram."),
    "http": Key(
        _kind(
            "Http",
            {
                "from": _ENDS["from"],
                "url": Key(Built(Text(_url, "a URL"), _asked), "What is asked for."),
                "status": Key(Int(100, 599, "an HTTP status"), "The answer's status; default 200."),
                "body": Key(_REGEX, "A regular expression found in the body."),
                "expect": Key(_SERVICE_EXPECT, "ok (default): a page; refused, timeout or fail: none."),
            },
            ("from", "url"),
            _page,
        ),
        "An HTTP request.",
    ),
    "dns": Key(
        _kind(
            "Dns",
            {
                "from": _ENDS["from"],
                "name": Key(Text(short.hostname, "a host name"), "The name looked up."),
                "address": Key(OneOrMore(IP), "The addresses that it has."),
                "server": Key(Targets(), "The DNS server to ask; default: as the container looks names up."),
                "expect": Key(_SERVICE_EXPECT, "ok (default); refused, timeout, or fail: it has no address."),
            },
            ("from", "name"),
            _name,
        ),
        "A name looked up.",
    ),
    "route": Key(
        _kind(
            "Route",
            {**_ENDS, "path": Key(Flat(ListOf(Sources(), "a list of names")), "The hops between, in order.")},
            ("from", "to", "path"),
        ),
        "The way that packets take, by traceroute.",
    ),
    "throughput": Key(
        _kind(
            "Throughput",
            {**_ENDS, "min": Key(_RATE, "At least."), "max": Key(_RATE, "At most.")},
            ("from", "to"),
            _throughput,
        ),
        "TCP throughput.",
    ),
    "exec": Key(
        _kind(
            "Exec",
            {
                "in": Key(_FROM, "The containers (or host) that it runs in."),
                "run": Key(ARGV, "The command: a list, or a string for a shell."),
                "stdout": Key(_REGEX, "A regular expression found in its output."),
                "stderr": Key(_REGEX, "A regular expression found in its error output."),
                "code": Key(Int(0, 255, "an exit code"), "Its exit code; default 0."),
            },
            ("in", "run"),
        ),
        "A command.",
    ),
}


def _check(values: dict[str, Any], found: Found) -> Check:
    kinds = [kind for kind in KINDS if kind in found.marks]
    if len(kinds) != 1:
        hint = f"one of {', '.join(KINDS)}"
        raise Wrong("a check is of one kind" if kinds else "a check needs a kind", hint)
    options = values.pop(kinds[0], {})
    return Check(where=found.where, marks=found.marks, kind=kinds[0], options=options, **values)  # type: ignore[arg-type]


_COMMON = {
    "within": Key(DURATION, "Repeated until it holds, for so long."),
    "name": Key(any_text(), "How it is called in reports."),
    "tags": Key(ListOf(any_text("a tag"), "a list of tags"), "For `netorch test --tags`."),
}
CHECK = Record("Check", {**KINDS, **_COMMON}, _check, about="One check.", nullable=False)
CHECKS = ListOf(
    ByKind("a check such as {reach: all}", mapping=CHECK, hint="for example: - reach: all"),
    "a list of checks",
    "checks: [{reach: all}]",
)


def _step_line(text: Any, ctx: Context, where: Where) -> Step:
    argv = short.words(text)
    if argv[0] == "netorch":
        raise Wrong(
            "a step is what follows 'netorch'", f"for example: {' '.join(argv[1:]) or 'link red br0 down'}"
        )
    from netns_orch.labfile import steps  # few labs have any

    if argv[0] not in steps.COMMANDS:
        hint = hints.mean(argv[0], steps.COMMANDS) or "in a container: exec red COMMAND"
        raise Wrong(f"netorch has no command {shown(argv[0])}", hint)
    return Step(where=where, kind="command", argv=argv)


def _converges(values: dict[str, Any], found: Found) -> dict[str, Any]:
    if "checks" in found.marks and not values.get("checks", True):
        raise Wrong("`converges` without a check measures nothing", "checks: [{ping: {from: red, to: blue}}]")
    return values


_CONVERGES = Record(
    "Converges",
    {
        "within": Key(DURATION, "The longest outage allowed."),
        "checks": Key(CHECKS, "What must hold again."),
    },
    _converges,
    about="Measures an outage: from the first lost packet to the first good one.",
    required=("within", "checks"),
    nullable=False,
)


def _step(values: dict[str, Any], found: Found) -> Step:
    own = [key for key in ("wait", "converges") if key in found.marks]
    if not own:
        check = _check(values, found)
        return Step(where=found.where, marks=found.marks, kind="check", checks=[check])
    if len(found.marks) > 1:
        raise Wrong(f"a step with `{own[0]}` has no other key", "the next step is an item of its own")
    if own[0] == "wait":
        return Step(where=found.where, marks=found.marks, kind="wait", seconds=values.get("wait"))
    inner = values.get("converges", {})
    return Step(
        where=found.where,
        marks=found.marks,
        kind="converges",
        seconds=inner.get("within"),
        checks=inner.get("checks", []),
    )


_STEP = Record(
    "Step",
    {
        "wait": Key(DURATION, "Do nothing for so long."),
        "converges": Key(_CONVERGES, "Measure the outage that the step before made."),
        **KINDS,
        **_COMMON,
    },
    _step,
    about="A step that is not a command line.",
    nullable=False,
)
SCENARIO = ListOf(
    ByKind(
        "a step: a command line of netorch, `wait`, `converges` or a check",
        scalar=Built(Text(line, "a command line"), _step_line),
        mapping=_STEP,
    ),
    "a list of steps",
    "scenario: [link red br0 down, {wait: 2s}]",
)
