"""What Docker's words mean in a lab file: ports, volumes, limits, health, options of security.

Owns: the forms that Compose, containerlab and ``docker run`` share.  Must not: know where in a file they
stand, or wire anything.
"""

from __future__ import annotations

import re
import shlex
from typing import Any

from netns_orch.convert.source import Value
from netns_orch.convert.variables import escaped
from netns_orch.labfile import addresses, short, units
from netns_orch.labfile.units import Wrong

Keys = dict[str, Any]
"""The keys of a container of the lab file."""
_MOST_PORTS = 1000
_LEAST_MEMORY = 6 << 20
_NO_LOSS = frozenset(("z", "Z", "cached", "delegated", "consistent", "nocopy", "volume-nocopy"))
_RESTART = {"always": "always", "unless-stopped": "always", "on-failure": "on-failure"}


# -- ports -----------------------------------------------------------------------------------------


def ports(values: list[Value]) -> list[str]:
    """Published ports, ranges as one line for each port."""
    return [line for value in values for line in (_long_port(value) if value.is_mapping else _port(value))]


def _port(value: Value) -> list[str]:
    body, _, protocol = value.plain().partition("/")
    host, _, inside = body.rpartition(":")
    address, _, outside = host.rpartition(":")
    return _published(value, address.strip("[]"), outside, inside, protocol)


def _long_port(value: Value) -> list[str]:
    given = {key: each.plain() for key, each in value.mapping().items() if not each.is_mapping}
    if "target" not in given:
        value.fail("this port has no `target`")
        return []
    outside, inside = given.get("published", ""), given["target"]
    return _published(value, given.get("host_ip", ""), outside, inside, given.get("protocol", ""))


def _published(value: Value, address: str, outside: str, inside: str, protocol: str) -> list[str]:
    if protocol not in ("", "tcp", "udp"):
        value.lost(f"left out: a published port is tcp or udp, not {protocol}")
        return []
    if not outside:
        value.lost(f"no port of the host is given for {inside}: Docker would choose one; {inside} was taken")
        outside = inside
    inner, outer = _range(inside), _range(outside)
    if not inner or not outer or (len(inner) != len(outer) and len(inner) > 1):
        value.fail(f"{value.raw() if not value.is_mapping else outside} is no published port")
        return []
    if len(outer) > len(inner):
        value.lost(f"Docker would choose one port of {outside}: {outer[0]} was taken")
    ip = f"[{address}]:" if ":" in address else f"{address}:" if address else ""
    kind = "/udp" if protocol == "udp" else ""
    return [f"{ip}{out}:{into}{kind}" for out, into in zip(outer, inner, strict=False)]


def _range(text: str) -> list[int]:
    """``80``, ``8000-8010``; nothing where it is neither."""
    match = re.fullmatch(r"([0-9]{1,5})(?:-([0-9]{1,5}))?", text)
    if not match:
        return []
    first, last = int(match[1]), int(match[2] or match[1])
    return list(range(first, last + 1)) if 0 < first <= last < 65536 and last - first < _MOST_PORTS else []


# -- volumes ---------------------------------------------------------------------------------------


def volumes(values: list[Value], keys: Keys, owner: str, *, paths: bool = False) -> None:
    """Binds, named volumes and tmpfs; ``paths``: a source without a slash is a path, too."""
    for value in values:
        line = _long_volume(value, keys, owner) if value.is_mapping else _volume(value, owner, paths)
        if line is not None:
            keys.setdefault("volumes", []).append(line)


def _volume(value: Value, owner: str, paths: bool) -> str | None:
    parts = value.plain().split(":")
    if len(parts) == 1:
        return _mounted(value, f"{owner}{parts[0].replace('/', '-')}", parts[0], False)
    source, target, options = parts[0], parts[1], parts[2].split(",") if len(parts) > 2 else []
    if others := [word for word in options if word not in ("ro", "rw") and word not in _NO_LOSS]:
        value.lost(f"left out: the option {others[0]} of a volume")
    if paths or source.startswith((".", "/", "~")) or "/" in source:
        source = _bound(value, source)
    return _mounted(value, source, target, "ro" in options)


def _bound(value: Value, source: str) -> str:
    """A path that is bound into a container."""
    if not value.source.exists(source):
        value.lost(f"{source} is not there: netorch makes no directory in its place, as Docker would")
    return value.source.path(source)


def _mounted(value: Value, source: str, target: str, read_only: bool) -> str | None:
    line = f"{source}:{target}{':ro' if read_only else ''}"
    try:
        short.volume(line)
    except Wrong as wrong:
        value.lost(f"left out: {wrong.what}", wrong.hint)
        return None
    return escaped(line)


def _long_volume(value: Value, keys: Keys, owner: str) -> str | None:
    given = value.mapping()
    texts = {key: each.plain() for key, each in given.items() if not each.is_mapping and not each.is_list}
    kind, target = texts.get("type", "volume"), texts.get("target", "")
    for each in given.values():
        if each.is_mapping and set(each.mapping()) - {
            "nocopy",
            "create_host_path",
            "selinux",
            "size",
            "mode",
        }:
            each.lost(f"left out: {', '.join(each.mapping())} of this volume")
    read_only = texts.get("read_only", "false") == "true"
    if kind == "tmpfs":
        keys.setdefault("tmpfs", []).append(_tmpfs_of(value, target))
        return None
    if kind == "bind":
        return _mounted(value, _bound(value, texts.get("source", "")), target, read_only)
    if kind == "volume":
        name = texts.get("source") or f"{owner}{target.replace('/', '-')}"
        return _mounted(value, name, target, read_only)
    value.lost(f"left out: a volume of type {kind}")
    return None


def _tmpfs_of(value: Value, target: str) -> str:
    size, mode = value.get("tmpfs", "size"), value.get("tmpfs", "mode")
    options = [f"size={size.plain().lower().removesuffix('b')}"] if size else []
    options += [f"mode={mode.plain().removeprefix('0o')}"] if mode else []
    return f"{target}:{','.join(options)}" if options else target


def tmpfs(value: Value, keys: Keys) -> None:
    """``/run``, ``/run:size=1m``, a list of them, or a mapping of paths to options."""
    lines = value.many()
    texts = [item.plain() for item in lines] if not value.is_mapping else []
    if value.is_mapping:
        pairs = value.mapping().items()
        texts = [f"{path}:{each.plain()}" if each.plain() else path for path, each in pairs]
    for text in texts:
        try:
            short.tmpfs(text)
        except Wrong as wrong:
            value.lost(f"left out: {wrong.what}", wrong.hint)
            continue
        keys.setdefault("tmpfs", []).append(text)


# -- quantities ------------------------------------------------------------------------------------


def size(value: Value) -> str | int | None:
    """Bytes as a lab file writes them: ``512M``."""
    count = value.checked(units.size)
    return None if count is None else size_text(count)


def size_text(count: int) -> str | int:
    """Bytes in the largest unit that they are whole in."""
    for unit, power in (("G", 30), ("M", 20), ("K", 10)):
        if count >= 1 << power and count % (1 << power) == 0:
            return f"{count >> power}{unit}"
    return count


def memory(value: Value, keys: Keys, key: str = "memory") -> None:
    """A limit of memory."""
    found = size(value)
    if found is None or found == 0:
        return
    if units.size(str(found)) < _LEAST_MEMORY:
        value.lost(f"left out: {value.raw()} of memory is less than a container takes (6M)")
    else:
        resources(keys)[key] = found


def resources(keys: Keys) -> Keys:
    """The container's `resources`."""
    found: Keys = keys.setdefault("resources", {})
    return found


def number(value: Value) -> float | int | None:
    """A number, as short as it can be written."""
    found = value.checked(units.number)
    return int(found) if found is not None and found == int(found) else found


def cpus(value: Value, keys: Keys) -> None:
    """A number of CPUs; none is no limit."""
    found = number(value)
    if found:
        resources(keys)["cpus"] = found


def seconds(value: Value | None, default: float = 0.0) -> float:
    """A length of time; a number alone is seconds."""
    if value is None:
        return default
    text = value.plain()
    found = value.checked(lambda _: units.duration(f"{text}s" if re.fullmatch("[0-9.]+", text) else text))
    return default if found is None else found


def duration(length: float) -> str:
    """A length of time as a lab file writes it."""
    return f"{length:g}s"


# -- health, restart -------------------------------------------------------------------------------


def healthcheck(value: Value, keys: Keys) -> None:
    """A health check becomes `ready`: it is asked until it succeeds once."""
    test, off = value.get("test"), value.get("disable")
    if test is None or (off is not None and off.flag()):
        return
    words = [item.text() for item in test.items()] if test.is_list else ["CMD-SHELL", test.text()]
    if not words or words[0] == "NONE":
        return
    in_shell = words[0] == "CMD-SHELL" and len(words) > 1
    ready: Keys = {"exec": words[1] if in_shell else command(words[1:])}
    if words[0] not in ("CMD", "CMD-SHELL"):
        test.fail("a health check begins with CMD, CMD-SHELL or NONE")
        return
    interval, tries = seconds(value.get("interval"), 30.0), value.get("retries")
    count = tries.whole() if tries is not None else 3
    limit = seconds(_either(value, "start_period", "start-period")) + interval * (count or 3)
    if {"interval", "retries", "start_period", "start-period"} & set(value.mapping()):
        ready["timeout"] = duration(limit)
    keys["ready"] = ready
    value.told("this health check is `ready`: asked until it succeeds once, and not again after that")


def _either(value: Value, *keys: str) -> Value | None:
    return next((found for key in keys if (found := value.get(key)) is not None), None)


def restart(value: Value, keys: Keys) -> None:
    """A restart policy."""
    word, _, most = value.plain().partition(":")
    if word in _RESTART:
        keys["restart"] = _RESTART[word]
        if most:
            value.lost(f"{word} without the limit of {most} times")
    elif word not in ("no", "false", ""):
        value.lost(f"left out: restart {word}")


def command(words: list[str]) -> str | list[str]:
    """A command as a lab file writes it: its words; where one has several lines, as a text for a shell."""
    if not any("\n" in word for word in words):
        return words
    if len(words) == 3 and words[0] in ("sh", "/bin/sh") and words[1] == "-c":
        return words[2]
    return f"exec {shlex.join(words)}"


# -- what it may do, what it sees ------------------------------------------------------------------


def capabilities(value: Value, keys: Keys, key: str) -> None:
    """cap_add, cap_drop."""
    found = [name for item in value.items() if (name := item.checked(short.capability)) is not None]
    if found:
        keys.setdefault(key, []).extend(found)


def security(values: list[Value], keys: Keys) -> None:
    """security_opt: what there is of it."""
    for value in values:
        name, _, what = re.sub("[:=]", "=", value.plain(), count=1).partition("=")
        if name == "seccomp":
            keys["seccomp"] = what if what == "unconfined" else value.source.path(what)
        elif name != "no-new-privileges" or what == "false":
            value.lost(f"left out: security option {value.plain()}")


def sysctls(value: Value, keys: Keys) -> None:
    """Sysctls of the container's own namespaces."""
    for name, each in value.pairs().items():
        try:
            checked = short.sysctl(name)
        except Wrong as wrong:
            each.lost(f"left out: {wrong.what}", wrong.hint)
            continue
        text = each.text()
        keys.setdefault("sysctls", {})[checked] = (
            int(text) if re.fullmatch("0|[1-9][0-9]{0,8}", text) else text
        )


def devices(values: list[Value], keys: Keys) -> None:
    """Devices of the host's; /dev/net/tun is always there."""
    for value in values:
        text = value.plain()
        if text.split(":")[0] == "/dev/net/tun":
            continue
        if value.checked(short.device) is not None:
            keys.setdefault("devices", []).append(text)


def environment(value: Value, keys: Keys) -> None:
    """Variables; one without a value is taken from the environment of who runs netorch."""
    for name, each in value.pairs().items():
        if not name:
            continue
        text = f"${{{name}:-}}" if each.null else each.text()
        keys.setdefault("environment", {})[name] = text


def environment_files(values: list[Value], keys: Keys) -> None:
    """Files of ``KEY=value`` lines."""
    for value in values:
        path = value.get("path") if value.is_mapping else value
        needed = value.get("required") if value.is_mapping else None
        if path is None:
            value.fail("this environment file has no `path`")
        elif value.source.exists(path.plain()):
            keys.setdefault("env_file", []).append(escaped(value.source.path(path.plain())))
        elif needed is None or needed.flag():
            path.lost(f"left out: there is no file {path.plain()}")


def labels(value: Value, keys: Keys) -> None:
    """Labels, as a mapping or as a list."""
    found = {name: each.text() for name, each in value.pairs().items()}
    if found:
        keys.setdefault("labels", {}).update(found)


def servers(value: Value, keys: Keys) -> None:
    """Name servers."""
    found = [text for item in value.many() if (text := item.checked(addresses.address)) is not None]
    if found:
        keys["dns"] = found


def texts(value: Value, keys: Keys, key: str) -> None:
    """One text or several, as a list."""
    found = [item.text() for item in value.many()]
    if found:
        keys[key] = found


def user(value: Value, keys: Keys) -> None:
    """The user of the command."""
    found = value.checked(short.user)
    if found is not None:
        keys["user"] = found


def hostname(value: Value, keys: Keys, owner: str) -> None:
    """Its hostname, where it is not its name."""
    found = value.checked(short.hostname)
    if found is not None and found != owner:
        keys["hostname"] = found
