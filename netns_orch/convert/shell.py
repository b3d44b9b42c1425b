"""Commands that set up a network by hand, said by the lab file itself instead.

Owns: which commands of ip(8), ifconfig(8), route(8) and sysctl(8) become addresses, routes and sysctls, so
that `status`, `graph` and the names of the lab know them; and splitting a script into commands.
Must not: take what it does not understand wholly: that stays a command, in its order.
"""

from __future__ import annotations

import re
import shlex
from ipaddress import ip_interface, ip_network
from typing import Any, NamedTuple

from netns_orch.convert.draft import Draft, covers
from netns_orch.labfile import addresses, short
from netns_orch.labfile.units import Wrong

Keys = dict[str, Any]
_KEYWORDS = "if then else elif fi for while until do done case esac function { } [[ select"
_BUILTINS = "cd export set source . trap exit return alias exec read local unset eval"
_SHELL_WORDS = frozenset(f"{_KEYWORDS} {_BUILTINS}".split())
_ASSIGNMENT = re.compile(r"[A-Za-z_][A-Za-z0-9_]*=")
_FORWARDING = frozenset(
    ("net.ipv4.ip_forward", "net.ipv4.conf.all.forwarding", "net.ipv6.conf.all.forwarding")
)
_BROADCAST = frozenset(("brd", "broadcast"))


class Command(NamedTuple):
    """A command line, and what stands in `setup` where a lab file can't say otherwise what it does."""

    line: str
    left: str | list[str]


def statements(script: str) -> list[str] | None:
    """The commands of a script, one each; None where they hang together by more than their order."""
    found = _split(script.replace("\\\n", " "))
    if found is None or any(_hangs_together(text) for text in found):
        return None
    return found


def _hangs_together(text: str) -> bool:
    """Whether a command is a part of something, or changes the shell that runs the next one."""
    head = text.split(maxsplit=1)[0]
    return head in _SHELL_WORDS or head.endswith("()") or bool(_ASSIGNMENT.match(head)) or "<<" in text


_PIECE = re.compile(
    r"""(?P<quoted>'[^']*'|"(?:[^"\\]|\\.)*"|\\.)|(?P<comment>(?<!\S)\#[^\n]*)|(?P<open>[({])|(?P<close>[)}])"""
    r"""|(?P<either>\|\|)|(?P<end>;|&&|\n)|(?P<background>(?<![>&])&(?![>&]))|(?P<quote>['"\\])""",
    re.DOTALL,
)


def _split(script: str) -> list[str] | None:
    """A script cut at ``;``, ``&&``, ``&`` and line ends; None where quotes or brackets are not closed."""
    found, begin, depth, position = [""], 0, 0, 0
    while match := _PIECE.search(script, position):
        kind, position = match.lastgroup, match.end()
        found[-1] += script[begin : match.start()]
        begin = match.end()
        if kind == "quote" or (kind == "either" and "&&" in script):
            return None
        if kind == "comment":
            continue
        depth += {"open": 1, "close": -1}.get(str(kind), 0)
        if kind == "end" and depth == 0:
            found.append("")
        elif kind == "background" and depth == 0:
            found[-1] += "&"
            found.append("")
        else:
            found[-1] += match.group()
    found[-1] += script[begin:]
    return None if depth else [text.strip() for text in found if text.strip()]


def absorb(draft: Draft, node: str, commands: list[Command]) -> None:
    """Say in the draft what these commands of a node do; those that are left are its `setup`."""
    keys = draft.containers[node]
    rest = [each for each in commands if not _absorbed(_static, draft, node, keys, each.line)]
    rest = [each for each in rest if not _absorbed(_routed, draft, node, keys, each.line)]
    if rest:
        keys["setup"] = [each.left for each in rest]


def _absorbed(take: Any, draft: Draft, node: str, keys: Keys, line: str) -> bool:
    try:
        return bool(take(draft, node, keys, shlex.split(line)))
    except (Wrong, ValueError, IndexError):
        return False


def _static(draft: Draft, node: str, keys: Keys, words: list[str]) -> bool:
    """Addresses, links that are set up, sysctls."""
    match words:
        case ["ip", *rest]:
            return _ip(draft, node, keys, [word for word in rest if word not in ("-4", "-6")])
        case ["ifconfig", ifname, *rest]:
            return _ifconfig(draft, node, keys, ifname, rest)
        case ["sysctl", *options, text] if not {*options} - {"-w", "-q", "-qw", "-wq"}:
            return setting(keys, text)
        case ["echo", value, ">", path] if path.startswith("/proc/sys/net/"):
            return setting(keys, f"{path.removeprefix('/proc/sys/').replace('/', '.')}={value}")
        case ["iptables" | "iptables-legacy" | "iptables-nft" | "ip6tables" as program, *rest]:
            return _firewall(keys, "ip6tables" if program == "ip6tables" else "iptables", rest)
    return False


def _firewall(keys: Keys, key: str, words: list[str]) -> bool:
    """A rule that is appended; what a shell would have made of it stays with the shell."""
    if not {"-A", "--append"} & set(words) or any(set(word) & set("$`;&|<>*?(){}") for word in words):
        return False
    keys[key] = [*keys.get(key, []), short.firewall_rule(shlex.join(words))]
    return True


def _ip(draft: Draft, node: str, keys: Keys, words: list[str]) -> bool:
    match words:
        case [what, "add" | "replace" | "a", address, *rest] if "address".startswith(what) and what:
            while len(rest) > 2 and rest[0] in _BROADCAST:
                rest = rest[2:]
            while len(rest) > 2 and rest[2] in _BROADCAST:
                rest = rest[:2] + rest[4:]
            return len(rest) == 2 and rest[0] == "dev" and _address(draft, node, keys, rest[1], address)
        case ["link" | "l" | "li", "set", *rest]:
            rest = [word for word in rest if word != "dev"]
            return len(rest) == 2 and rest[1] == "up" and _known(draft, node, rest[0])
    return False


def _known(draft: Draft, node: str, ifname: str) -> bool:
    return ifname == "lo" or draft.end(node, ifname) is not None


def _address(draft: Draft, node: str, keys: Keys, ifname: str, text: str) -> bool:
    """Put an address to the end of a link, or to `loopback`."""
    if ifname == "lo":
        found = str(addresses.loopback(text))
        if not ip_interface(found).is_loopback:
            keys["loopback"] = [*keys.get("loopback", []), found]
        return True
    end = draft.end(node, ifname)
    if end is None or end.options.get("address") == "none":
        return False
    found = str(addresses.interface(text))
    if found not in end.addresses:
        end.addresses.append(found)
    return True


def _ifconfig(draft: Draft, node: str, keys: Keys, ifname: str, words: list[str]) -> bool:
    match [word for word in words if word != "up"]:
        case []:
            return bool(words) and _known(draft, node, ifname)
        case [address] | ["inet6", "add", address] if "/" in address:
            return _address(draft, node, keys, ifname, address)
        case [address, "netmask", mask] | [address, "netmask", mask, "broadcast", _]:
            length = ip_network(f"0.0.0.0/{mask}").prefixlen
            return _address(draft, node, keys, ifname, f"{address}/{length}")
    return False


def setting(keys: Keys, text: str) -> bool:
    """A sysctl ``NAME=VALUE``; forwarding makes a router.  Whether a container can have it."""
    name, sign, value = (part.strip() for part in text.partition("="))
    name = name.replace("/", ".") if "." not in name else name
    if not sign or not value:
        return False
    if name in _FORWARDING and value == "1":
        keys["router"] = True
        return True
    keys.setdefault("sysctls", {})[short.sysctl(name)] = int(value) if value.isdigit() else value
    return True


def _routed(draft: Draft, node: str, keys: Keys, words: list[str]) -> bool:
    """Routes, once the addresses are known: a gateway must be on one of their links."""
    match words:
        case ["ip", *rest]:
            return _ip_route(draft, node, keys, rest)
        case ["route", "add", *rest]:
            return _old_route(draft, node, keys, rest)
    return False


def _ip_route(draft: Draft, node: str, keys: Keys, words: list[str]) -> bool:
    words = [word for word in words if word not in ("-4", "-6")]
    match words:
        case ["r" | "ro" | "route", "add" | "replace" | "append", *rest]:
            return _route(draft, node, keys, rest)
        case ["r" | "ro" | "route", "del" | "delete", "default", *_]:
            return not any(route.startswith("default") for route in keys.get("routes", []))
    return False


def _route(draft: Draft, node: str, keys: Keys, words: list[str]) -> bool:
    found = short.route(" ".join(words))
    own = [text for end in draft.ends(node) for text in end.addresses]
    ways = [found, *found.get("nexthops", [])]
    if any(way.get("via") and not covers(way["via"], own) for way in ways):
        return False
    if any(way.get("dev") and not _known(draft, node, way["dev"]) for way in ways):
        return False
    if found.get("type", "unicast") == "unicast" and not any(way.get("via") for way in ways):
        return False
    text = " ".join(words).replace("0.0.0.0/0 ", "default ")
    keys["routes"] = [*keys.get("routes", []), text]
    return True


def _old_route(draft: Draft, node: str, keys: Keys, words: list[str]) -> bool:
    """``route add -net 10.1.0.0/16 gw 10.0.0.1``, ``route add default gw 10.0.0.1 dev eth0``."""
    rest = [word for word in words if word not in ("-net", "-host", "-4", "-6", "-A", "inet", "inet6")]
    to = rest.pop(0)
    if rest[:1] == ["netmask"]:
        to = f"{to}/{ip_network(f'0.0.0.0/{rest[1]}').prefixlen}"
        rest = rest[2:]
    if rest[:1] != ["gw"] or len(rest) not in (2, 3, 4):
        return False
    dev = [] if len(rest) == 2 else ["dev", rest[-1]]
    return _route(draft, node, keys, [to, "via", rest[1], *dev])
