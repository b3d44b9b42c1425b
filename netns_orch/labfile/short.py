"""Short forms: one line of text that says what a mapping could.

Owns: the small grammars (routes and rules as ip(8) takes them, endpoints, volumes, ports, devices ...).
Must not: know where a text stands; a wrong one is a ``Wrong``.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from typing import Any

from netns_orch.labfile import addresses, hints, units
from netns_orch.labfile.fields import line
from netns_orch.labfile.nodes import shown
from netns_orch.labfile.units import Wrong

NAME = r"[A-Za-z0-9][A-Za-z0-9_-]*"
TABLE = r"main|local|default|[0-9]{1,10}"
USER = r"[A-Za-z0-9_][A-Za-z0-9_.-]*(:[A-Za-z0-9_][A-Za-z0-9_.-]*)?"
ROUTE_TYPES = ("unicast", "blackhole", "unreachable", "prohibit", "throw", "local")
RULE_ACTIONS = ("lookup", "blackhole", "unreachable", "prohibit")
_RLIMITS = (
    "as core cpu data fsize locks memlock msgqueue nice nofile nproc rss rtprio rttime sigpending stack"
)
RLIMITS = ("as", *_RLIMITS.split())
_CAPABILITIES = (
    "AUDIT_CONTROL AUDIT_READ AUDIT_WRITE BLOCK_SUSPEND BPF CHECKPOINT_RESTORE CHOWN DAC_OVERRIDE "
    "DAC_READ_SEARCH FOWNER FSETID IPC_LOCK IPC_OWNER KILL LEASE LINUX_IMMUTABLE MAC_ADMIN MAC_OVERRIDE "
    "MKNOD NET_ADMIN NET_BIND_SERVICE NET_BROADCAST NET_RAW PERFMON SETFCAP SETGID SETPCAP SETUID "
    "SYSLOG SYS_ADMIN SYS_BOOT SYS_CHROOT SYS_MODULE SYS_NICE SYS_PACCT SYS_PTRACE SYS_RAWIO "
    "SYS_RESOURCE SYS_TIME SYS_TTY_CONFIG WAKE_ALARM"
)
CAPABILITIES = frozenset(_CAPABILITIES.split())
"""capabilities(7), without CAP_."""
_SIGNALS = (
    "HUP INT QUIT ILL TRAP ABRT BUS FPE KILL USR1 SEGV USR2 PIPE ALRM TERM STKFLT CHLD CONT STOP TSTP "
    "TTIN TTOU URG XCPU XFSZ VTALRM PROF WINCH IO PWR SYS"
)
SIGNALS = frozenset(_SIGNALS.split())
"""signal(7), without SIG."""
_IPC_SYSCTLS = frozenset(
    f"kernel.{name}"
    for name in ("msgmax", "msgmnb", "msgmni", "sem", "shmall", "shmmax", "shmmni", "shm_rmid_forced")
)
_NAME = re.compile(NAME)
_SYSCTL = re.compile(r"[a-z0-9_]+(\.[A-Za-z0-9][A-Za-z0-9_/-]*)+")


# -- names ---------------------------------------------------------------------------------------


def name(text: str, what: str, most: int) -> str:
    """The name of a lab, container or bridge."""
    if text == "host":
        raise Wrong("the name 'host' is taken", "it stands for the namespace that holds the bridges")
    if not _NAME.fullmatch(text):
        hint = "letters, digits, '-' and '_', beginning with a letter or digit"
        raise Wrong(f"{shown(text)} can't be the name of a {what}", hint)
    if len(text) > most:
        raise Wrong(f"the name {shown(text)} has {len(text)} characters", f"{most} are the most for a {what}")
    return text


def hostname(text: str) -> str:
    """A hostname: at most 64 characters (sethostname(2)), no space."""
    if not re.fullmatch(r"[A-Za-z0-9_]([A-Za-z0-9_.-]{0,62}[A-Za-z0-9_])?", text):
        raise Wrong(f"{shown(text)} is not a hostname", "at most 64 letters, digits, '-', '_' and '.'")
    return text


def environment_name(text: str) -> str:
    """The name of an environment variable."""
    if not text or "=" in text or "\0" in text or not text.isprintable():
        raise Wrong(f"{shown(text)} can't be the name of an environment variable")
    return text


def absolute(text: str) -> str:
    """An absolute path inside a container, other than the root itself."""
    line(text)
    if not text.startswith("/"):
        raise Wrong(f"expected an absolute path, got {shown(text)}", f"it begins with a slash: /{text}")
    if not text.strip("/"):
        raise Wrong("the root itself can't stand here")
    if ".." in text.split("/"):
        raise Wrong(f"the path {shown(text)} holds '..'")
    return text


def user(text: str) -> str:
    """A user, and perhaps a group, by name or number: ``1000:1000``."""
    if not re.fullmatch(USER, text):
        raise Wrong(f"expected a user such as 1000:1000, got {shown(text)}")
    return text


def capability(text: str) -> str:
    """A capability without CAP_, in upper case, or ALL."""
    bare = text.upper().removeprefix("CAP_")
    if bare != "ALL" and bare not in CAPABILITIES:
        raise Wrong(f"there is no capability {shown(text)}", hints.mean(bare, CAPABILITIES))
    return bare


def signal(text: str) -> str:
    """A signal without SIG, or its number."""
    bare = text.upper().removeprefix("SIG")
    if bare in SIGNALS or (bare.isascii() and bare.isdigit() and 1 <= int(bare[:4]) <= 64):
        return bare
    if re.fullmatch(r"RTM(IN\+|AX-)[0-9]{1,2}|RTMIN|RTMAX", bare):
        return bare
    raise Wrong(f"there is no signal {shown(text)}", hints.mean(bare, SIGNALS))


def sysctl(text: str) -> str:
    """A sysctl of a container's own namespaces: net.*, and those of its ipc and uts namespace."""
    if not _SYSCTL.fullmatch(text):
        raise Wrong(f"{shown(text)} is not a sysctl", "with dots, as sysctl(8) prints it")
    if text.startswith(("net.", "fs.mqueue.")) or text in _IPC_SYSCTLS or text == "kernel.domainname":
        return text
    hint = "a container has net.*, fs.mqueue.*, kernel.domainname, kernel.msg*, kernel.sem and kernel.shm*"
    raise Wrong(f"the sysctl {text} is not of a container's own namespaces", hint)


def host_sysctl(text: str) -> str:
    """A net.* sysctl."""
    if not _SYSCTL.fullmatch(text) or not text.startswith("net."):
        raise Wrong(f"{shown(text)} is not a sysctl of a network namespace", "only net.* can be set")
    return text


def table(text: str) -> str:
    """A routing table: a number from 1, main, local or default."""
    if text in ("main", "local", "default"):
        return text
    if not re.fullmatch("[1-9][0-9]{0,9}", text) or int(text) >= 1 << 32:
        raise Wrong(f"expected a routing table, got {shown(text)}", "a number, or main, local, default")
    return text


def mark(text: str) -> str:
    """A firewall mark, perhaps with a mask: ``0x1``, ``1/0xff``."""
    number = "(0x[0-9a-fA-F]{1,8}|[0-9]{1,10})"
    if not re.fullmatch(f"{number}(/{number})?", text):
        raise Wrong(f"expected a mark such as 0x1 or 0x1/0xff, got {shown(text)}")
    if any(int(part, 0) >= 1 << 32 for part in text.split("/") if not re.fullmatch("0[0-9]+", part)):
        raise Wrong(f"a mark has 32 bits, got {shown(text)}")
    return text


def regex(text: str) -> str:
    """A regular expression."""
    try:
        re.compile(text)
    except (re.error, RecursionError, OverflowError) as error:
        raise Wrong(f"{shown(text)} is not a regular expression: {error}") from None
    return text


def cpuset(text: str) -> str:
    """CPUs as cpuset(7) lists them: ``0``, ``0-3,6``."""
    if not re.fullmatch(r"[0-9]{1,5}(-[0-9]{1,5})?(,[0-9]{1,5}(-[0-9]{1,5})?)*", text):
        raise Wrong(f"expected CPUs such as 0-3,6, got {shown(text)}")
    return text


# -- command lines -------------------------------------------------------------------------------


def words(text: str) -> list[str]:
    """A line split as a shell splits it; Wrong where a quote is not closed."""
    try:
        found = shlex.split(line(text))
    except ValueError as error:
        raise Wrong(f"{shown(text)} can't be split into words: {str(error).lower()}") from None
    if not found:
        raise Wrong("expected words, got an empty text")
    return found


def firewall_rule(text: str) -> str:
    """One rule as typed after ``iptables``."""
    first = words(text)[0]
    if first in ("iptables", "ip6tables", "sudo"):
        raise Wrong(
            f"a rule is what follows {shown(first)}", "for example: -A INPUT -p tcp --dport 22 -j DROP"
        )
    if not first.startswith("-"):
        raise Wrong(f"a rule begins with an option, not {shown(first)}", "for example: -A INPUT -j DROP")
    return text


def firewall_text(text: str) -> str:
    """A whole text as iptables-save prints it."""
    rows = [row.strip() for row in block_rows(text)]
    if not any(row.startswith("*") for row in rows) or "COMMIT" not in rows:
        hint = "it has *TABLE and COMMIT lines; single rules are a list: [-A INPUT -j DROP]"
        raise Wrong("this is not a text as iptables-save prints it", hint)
    return text


def block_rows(text: str) -> list[str]:
    """The lines of a text without NUL."""
    if "\0" in text:
        raise Wrong("a text can't hold the character U+0000")
    return text.split("\n")


# -- network -------------------------------------------------------------------------------------


def end(text: str) -> tuple[str, str | None]:
    """``red``, ``red:wan``, ``host:enp3s0``: the node, and the interface's name."""
    node, colon, ifname = text.partition(":")
    if " " in text:
        hint = f"with an address: [{node.split()[0] if node.split() else 'red'}: 10.0.0.2/24, br0]"
        raise Wrong(f"expected a node such as red or red:eth1, got {shown(text)}", hint)
    if not _NAME.fullmatch(node) or (colon and not ifname):
        raise Wrong(f"expected a node such as red or red:eth1, got {shown(text)}")
    return node, addresses.ifname(ifname) if colon else None


_Parsers = dict[str, tuple[str, Callable[[str], Any]]]
_ROUTE_WORDS: _Parsers = {
    "via": ("via", addresses.address),
    "dev": ("dev", addresses.ifname),
    "src": ("src", addresses.address),
    "metric": ("metric", lambda text: _number(text, 0, (1 << 32) - 1)),
    "preference": ("metric", lambda text: _number(text, 0, (1 << 32) - 1)),
    "table": ("table", table),
    "scope": ("scope", lambda text: scope(text)),
    "mtu": ("mtu", lambda text: _number(text, 68, 65535)),
}
_HOP_WORDS: _Parsers = {
    "via": ("via", addresses.address),
    "dev": ("dev", addresses.ifname),
    "weight": ("weight", lambda text: _number(text, 1, 256)),
}


def scope(text: str) -> str:
    """A route's scope (ip-route(8))."""
    if text not in ("global", "site", "link", "host"):
        raise Wrong(f"expected a scope: global, site, link or host, got {shown(text)}")
    return text


def destination(text: str) -> str:
    """``default``, a network or an address, in canonical form."""
    return "default" if text in ("default", "any", "all") else addresses.prefix(text)


def route(text: str) -> dict[str, Any]:
    """A route as typed after ``ip route add``: the fields of ``Route``, ``nexthops`` as mappings."""
    rest = words(text)
    if rest[0] == "auto":
        if len(rest) > 1:
            raise Wrong("nothing can follow auto")
        return {"type": "auto"}
    values: dict[str, Any] = {}
    if rest[0] in ROUTE_TYPES:
        values["type"] = rest.pop(0)
    if rest and rest[0] == "to":
        rest.pop(0)
    if not rest:
        raise Wrong(f"the route {shown(text)} has no destination", "for example: 10.9.0.0/16 via 10.0.0.254")
    values["to"] = destination(rest.pop(0))
    head, *hops = _split(rest, "nexthop")
    _take(head, _ROUTE_WORDS, values, flags=("onlink",))
    if hops:
        values["nexthops"] = [_take(hop, _HOP_WORDS, {}) for hop in hops]
    return values


_RULE_WORDS: _Parsers = {
    "from": ("source", lambda text: selector(text)),
    "to": ("to", lambda text: selector(text)),
    "iif": ("iif", lambda text: rule_interface(text)),
    "oif": ("oif", lambda text: rule_interface(text)),
    "fwmark": ("fwmark", mark),
    "tos": ("tos", lambda text: tos(text)),
    "dsfield": ("tos", lambda text: tos(text)),
    "table": ("table", table),
    "lookup": ("table", table),
    **dict.fromkeys(
        ("priority", "pref", "order", "preference"),
        ("priority", lambda text: _number(text, 1, (1 << 32) - 1)),
    ),
}


def selector(text: str) -> str | None:
    """A rule's from or to; ``all`` is None."""
    return None if text in ("all", "any", "default") else addresses.prefix(text)


def rule_interface(text: str) -> str:
    """A rule's interface; ``lo`` is for packets of the container's own."""
    return text if text == "lo" else addresses.ifname(text)


def tos(text: str) -> int:
    """A type of service byte: 0x10, 16."""
    if not re.fullmatch(r"0x[0-9a-fA-F]{1,2}|[0-9]{1,3}", text):
        raise Wrong(f"expected a type of service such as 0x10, got {shown(text)}")
    value = int(text, 16) if text.startswith("0x") else int(text)
    if value > 255:
        raise Wrong(f"a type of service is one byte, got {text}")
    return value


def rule(text: str) -> dict[str, Any]:
    """A rule as typed after ``ip rule add`` (``-6`` before it for one without addresses)."""
    rest = words(text)
    values: dict[str, Any] = {}
    if rest[0] in ("-4", "-6"):
        values["family"] = int(rest.pop(0)[1:])
    if rest and rest[0] == "not":
        rest.pop(0)
        values["invert"] = True
    actions = [word for word in rest if word in RULE_ACTIONS and word != "lookup"]
    for action in actions[:1]:
        rest.remove(action)
        values["action"] = action
    _take(rest, _RULE_WORDS, values)
    return values


def _split(rest: list[str], word: str) -> list[list[str]]:
    parts: list[list[str]] = [[]]
    for item in rest:
        if item == word:
            parts.append([])
        else:
            parts[-1].append(item)
    return parts


def _take(rest: list[str], known: _Parsers, values: dict[str, Any], flags: tuple[str, ...] = ()) -> Any:
    """Read ``word value`` pairs into ``values``."""
    rest = list(rest)
    while rest:
        word = rest.pop(0)
        if word in flags:
            values[word] = True
            continue
        if word not in known:
            names = [*known, *flags]
            raise Wrong(f"unknown word {shown(word)}", hints.mean(word, names) or hints.one_of(names))
        attribute, convert = known[word]
        if not rest:
            raise Wrong(f"nothing follows {shown(word)}")
        if attribute in values and attribute != "type":
            raise Wrong(f"{shown(word)} stands there twice")
        values[attribute] = convert(rest.pop(0))
    return values


def _number(text: str, low: int, high: int) -> int:
    value = units.whole(text)
    if not low <= value <= high:
        raise Wrong(f"expected a whole number from {low} to {high}, got {text}")
    return value


PORT = r"((\[[0-9A-Fa-f:.]+\]|[0-9.]+):)?[0-9]{1,5}:[0-9]{1,5}(/(tcp|udp))?"


def port(text: str) -> dict[str, Any]:
    """``8080:80``, ``127.0.0.1:5353:53/udp``, ``[::1]:8080:80``."""
    published, _, protocol = text.partition("/")
    match = re.fullmatch(r"(?:(\[[^]]*\]|[^:\[\]]*):)?([0-9]{1,5}):([0-9]{1,5})", published)
    if not match:
        hint = "a port for the host and one of the container, such as 8080:80 or 127.0.0.1:5353:53/udp"
        raise Wrong(f"expected a published port, got {shown(text)}", hint)
    if protocol not in ("", "tcp", "udp"):
        raise Wrong(f"a port's protocol is tcp or udp, not {shown(protocol)}")
    address, outer, inner = match.groups()
    values: dict[str, Any] = {
        "host_port": _number(outer, 1, 65535),
        "port": _number(inner, 1, 65535),
        "protocol": protocol or "tcp",
    }
    if address is not None:
        values["host_address"] = addresses.address(address.strip("[]"))
    return values


def target(text: str) -> tuple[str, int]:
    """``red:80``, ``10.0.0.2:80``, ``[fd00::2]:80``: what a check connects to."""
    match = re.fullmatch(r"(?:\[([^]]+)\]|([^:\[\]\s]+)):([0-9]{1,5})", text)
    if not match:
        raise Wrong(f"expected a target such as red:80, got {shown(text)}")
    host = addresses.address(match[1]) if match[1] else match[2]
    return host, _number(match[3], 1, 65535)


# -- files ---------------------------------------------------------------------------------------


VOLUME_NAME = r"[A-Za-z0-9][A-Za-z0-9_.-]*"


def volume(text: str) -> dict[str, Any]:
    """``./www:/srv/www:ro``, ``data:/var/lib/x``; ``source`` is not absolute yet."""
    parts = line(text).split(":")
    if len(parts) not in (2, 3):
        hint = "for example ./www:/srv/www:ro, or data:/var/lib/x for a named volume"
        raise Wrong(f"expected a volume, got {shown(text)}", hint)
    source, inside = parts[0], absolute(parts[1])
    named = not source.startswith((".", "/"))
    if named and not re.fullmatch(VOLUME_NAME, source):
        hint = "write the path whole" if source.startswith("~") else f"a path begins with ./ or /: ./{source}"
        raise Wrong(f"{shown(source)} is neither a path nor a volume's name", hint)
    mode = parts[2] if len(parts) == 3 else "rw"
    if mode not in ("ro", "rw"):
        raise Wrong(f"expected ro or rw, got {shown(mode)}")
    return {"source": source, "target": inside, "named": named, "read_only": mode == "ro"}


_AMOUNT, _ID = (r"[0-9]{1,15}[kKmMgG]?", "a number"), (r"[0-9]{1,9}", "a number")
_TMPFS_VALUES = {
    "size": (r"[0-9]{1,15}[kKmMgG%]?", "a number"),
    "nr_blocks": _AMOUNT,
    "nr_inodes": _AMOUNT,
    "mode": (r"[0-7]{3,4}", "an octal mode such as 1777"),
    "uid": _ID,
    "gid": _ID,
}
"""tmpfs(5)"""


def tmpfs(text: str) -> dict[str, Any]:
    """``/scratch``, ``/scratch:size=16m``."""
    inside, _, options = line(text).partition(":")
    values = {"target": absolute(inside)}
    for option in options.split(",") if options else ():
        key, equals, value = option.partition("=")
        if key in _TMPFS_VALUES:
            pattern, meaning = _TMPFS_VALUES[key]
            if not equals or not re.fullmatch(pattern, value):
                raise Wrong(f"expected {meaning} after {shown(key + '=')}, got {shown(value)}")
        elif option not in ("ro", "rw", "exec", "noexec", "suid", "nosuid", "dev", "nodev"):
            known = ("size", "mode", "uid", "gid", "nr_inodes", "ro", "noexec", "nosuid", "nodev")
            hint = hints.mean(key, known) or hints.one_of(known)
            raise Wrong(f"unknown option {shown(key)} of a tmpfs", hint)
    if options:
        values["options"] = options
    return values


def device(text: str) -> dict[str, Any]:
    """``/dev/fuse``, ``/dev/sda:/dev/xvda:rw``."""
    parts = line(text).split(":")
    if len(parts) > 3:
        raise Wrong(f"expected a device such as /dev/fuse, got {shown(text)}")
    permissions = "rwm"
    if len(parts) > 1 and not parts[-1].startswith("/"):
        permissions = parts.pop()
    if not permissions or set(permissions) - set("rwm"):
        raise Wrong(f"expected permissions of r, w and m, got {shown(permissions)}")
    source = absolute(parts[0])
    return {"source": source, "target": absolute(parts[-1]), "permissions": permissions}


def ulimit(text: str) -> tuple[int, int]:
    """``4096``, ``1024:4096``, ``unlimited``: soft and hard."""
    soft, colon, hard = text.partition(":")
    low, high = _limit(soft), _limit(hard if colon else soft)
    if high != -1 and (low == -1 or low > high):
        raise Wrong(f"the soft limit {soft} is above the hard limit {hard}")
    return low, high


def _limit(text: str) -> int:
    if text in ("unlimited", "-1"):
        return -1
    return _number(text, 0, (1 << 63) - 1)


def environment_file(text: str) -> dict[str, str]:
    """``KEY=value`` lines; ``#`` comments, ``export`` and quotes around a value are understood."""
    values = {}
    for number, row in enumerate(block_rows(text), start=1):
        stripped = row.strip().removeprefix("export ").strip()
        if not stripped or stripped.startswith("#"):
            continue
        key, equals, value = stripped.partition("=")
        if not equals or not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_.-]*", key.strip()):
            raise Wrong(f"line {number} is not KEY=value: {shown(stripped)}")
        value = value.strip()
        if len(value) > 1 and value[0] == value[-1] and value[0] in "'\"":
            value = value[1:-1]
        values[key.strip()] = value
    return values
