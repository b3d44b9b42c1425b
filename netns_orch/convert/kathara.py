"""Kathará's labs: a directory with lab.conf, lab.dep, NAME.startup scripts and NAME/ trees.

Owns: reading lab.conf and lab.dep, and what they become.  Source: Kathará's manual pages
(kathara-lab.conf(5), kathara-lab-dirs(7), kathara-lab.dep(5), kathara-lab.ext(5)).  Must not: write YAML.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from netns_orch.convert import docker, shell
from netns_orch.convert.draft import Draft, End, Link, lab_name
from netns_orch.convert.source import Source, Value
from netns_orch.convert.variables import escaped
from netns_orch.labfile import addresses

Keys = dict[str, Any]
_LINE = re.compile(r"""([a-z0-9_]{1,30})\[(\w+)\]=(["']?)([^"']+)\3(\s+\#.*)?""")
_ABOUT = re.compile(r"LAB_(NAME|DESCRIPTION|VERSION|AUTHOR|EMAIL|WEB)=(.*)")
_INSIDE = "/hostlab"
"""Where Kathará has the lab's directory in each device."""
_RESERVED = frozenset(("shared", "_test"))
_DOMAIN = re.compile(r"(\w+)(?:/(.*))?", re.ASCII)
_NAT = "nat"


def looks_like(text: str) -> bool:
    """Whether a text is a lab.conf: every line is an assignment, one at least to a device."""
    rows = [row.strip() for row in text.splitlines()]
    rows = [row for row in rows if row and not row.startswith("#")]
    return all(_LINE.fullmatch(row) or _ABOUT.match(row) for row in rows) and any(map(_LINE.fullmatch, rows))


def read(text: str, source: Source, rootfs: str | None, file_text: Callable[[Path], str]) -> Draft:
    """The draft of the lab whose lab.conf holds ``text``; ``file_text`` reads the files beside it."""
    lab = _Lab(source, rootfs, file_text)
    lab.configuration(text)
    lab.wire()
    for name, device in lab.names.items():
        lab.files(device, name)
    lab.strays()
    lab.dependencies()
    lab.outside()
    return lab.draft


class _Lab:
    """A lab on its way into a draft."""

    def __init__(self, source: Source, rootfs: str | None, file_text: Callable[[Path], str]) -> None:
        self.source = source
        self.rootfs = rootfs
        self.file_text = file_text
        self.draft = Draft(name=lab_name(source.directory.name))
        self.names: dict[str, str] = {}
        """From the names of devices to those of containers."""
        self.domains: dict[str, list[End]] = {}
        self.exec: dict[str, list[Value]] = {}
        self.numbers: dict[str, dict[int, Value]] = {}
        self.ports: dict[str, Value] = {}

    # -- lab.conf ----------------------------------------------------------------------------------

    def configuration(self, text: str) -> None:
        """Every line of lab.conf."""
        about = []
        for number, row in enumerate(text.splitlines()):
            stripped = row.strip()
            column = len(row) - len(row.lstrip())
            if match := _LINE.fullmatch(stripped):
                value = self.source.at(number, column, match[4].strip(), f"{match[1]}[{match[2]}]")
                self._assign(match[1], match[2], value)
            elif match := _ABOUT.match(stripped):
                told = match[2].strip().strip("\"'")
                if match[1] == "NAME":
                    self.draft.name = lab_name(told)
                else:
                    about.append(f"{match[1].capitalize()}: {told}")
            elif stripped and not stripped.startswith("#"):
                self.source.at(number, column, stripped).fail(
                    "this is no line of a lab.conf", 'such as: pc1[0]="A"   or: pc1[image]="kathara/base"'
                )
        self.draft.header += about

    def _assign(self, device: str, key: str, value: Value) -> None:
        if device in _RESERVED:
            value.fail(f"a device can't be called {device}")
            return
        name = self._container(device, value)
        value = value.of("containers", name)
        if key.isdigit():
            self._interface(device, name, int(key), value)
        else:
            self._option(name, self.draft.containers[name], key, value)

    def _container(self, device: str, value: Value) -> str:
        if device not in self.names:
            name = self.draft.container(device)
            self.names[device] = name
            if self.rootfs not in (None, "host"):
                self.draft.containers[name]["rootfs"] = self.rootfs
            if name != device:
                value.of("containers", name).lost(f"{device} is called {name} here")
        return self.names[device]

    def _interface(self, device: str, name: str, number: int, value: Value) -> None:
        match = _DOMAIN.fullmatch(value.raw())
        if not match:
            value.fail("expected a collision domain, and perhaps a MAC after a slash", 'such as "A"')
            return
        if number in self.numbers.setdefault(device, {}):
            value.fail(f"interface {number} of {device} is there already")
            return
        self.numbers[device][number] = value
        end = End(node=name, ifname=f"eth{number}")
        if match[2]:
            mac = value.saying(match[2]).checked(addresses.mac)
            end.options.update({"mac": mac} if mac else {})
        self.domains.setdefault(match[1], []).append(end)

    def _option(self, name: str, keys: Keys, key: str, value: Value) -> None:
        match key:
            case "image":
                if self.rootfs is None:
                    keys["image"] = value.text()
            case "mem":
                docker.memory(value, keys)
            case "cpus":
                docker.cpus(value, keys)
            case "port":
                self.ports[name] = value
                self._port(keys, value)
            case "bridged":
                self._bridged(name, value)
            case "ipv6":
                keys.update({"link_local": True} if value.flag() else {})
            case "exec":
                self.exec.setdefault(name, []).append(value)
            case "sysctl" | "env":
                self._pair(keys, key, value)
            case "ulimit":
                limit, _, amount = value.raw().partition("=")
                keys.setdefault("ulimits", {})[limit] = int(amount) if amount.isdigit() else amount
            case "privileged":
                keys.update({"privileged": True} if value.flag() else {})
            case "volume":
                parts = [part for part in value.raw().split("|") if part]
                mode = parts[2] if len(parts) > 2 else "ro"
                line = value.saying(":".join([*parts[:2], *(["ro"] if mode == "ro" else [])]))
                docker.volumes([line], keys, name, paths=True)
            case "entrypoint" | "args":
                keys["command"] = [*keys.get("command", []), *value.words()]
            case "shell" | "num_terms":
                value.told(f"`{key}` means nothing here: `netorch shell` opens a terminal")
            case _:
                value.lost(f"left out: the option {key} has no counterpart")

    def _port(self, keys: Keys, value: Value) -> None:
        text = value.raw() if ":" in value.raw() else f"3000:{value.raw()}"
        keys.setdefault("ports", []).extend(docker.ports([value.saying(text)]))

    def _pair(self, keys: Keys, key: str, value: Value) -> None:
        name, sign, text = value.raw().partition("=")
        if not sign:
            value.fail("expected NAME=VALUE")
        elif key == "env":
            keys.setdefault("environment", {})[name] = escaped(text)
        else:
            shell.setting(keys, value.raw())

    def _bridged(self, name: str, value: Value) -> None:
        """One interface more, by which the host's network is reached with NAT."""
        if value.flag():
            self.domains.setdefault("", []).append(End(node=name))

    # -- wiring ------------------------------------------------------------------------------------

    def wire(self) -> None:
        """A cable for a collision domain of two, a bridge for any other."""
        for domain, ends in sorted(self.domains.items(), key=lambda item: item[0] == ""):
            if len(ends) == 2 and domain and ends[0].node != ends[1].node:
                self.draft.links.append(Link(a=ends[0], b=ends[1]))
                continue
            bridge = self.draft.bridge(domain or _NAT)
            self.draft.links += [Link(a=end, b=End(node=bridge)) for end in ends]
            if not domain:
                subnet = self.draft.free_subnet()
                self.draft.bridges[bridge] = f"{subnet[1]}/{subnet.prefixlen}"
        self._published()
        routers = [device for device, numbers in self.numbers.items() if len(numbers) > 1]
        for device in routers:
            self.draft.containers[self.names[device]]["router"] = True

    def _published(self) -> None:
        """A published port needs the interface that `bridged` gives."""
        bridged = {end.node for end in self.domains.get("", [])}
        for name, value in self.ports.items():
            if name not in bridged:
                self.draft.containers[name].pop("ports", None)
                value.lost("left out: published ports, which Kathará has for bridged devices only")

    # -- the files beside it -----------------------------------------------------------------------

    def files(self, name: str, device: str) -> None:
        """What is copied into a device and run at its start."""
        keys, directory = self.draft.containers[name], self.source.directory
        commands: list[shell.Command] = []
        if (directory / device).is_dir() and any((directory / device).iterdir()):
            commands.append(self._copied(keys, device))
        if (directory / "shared").is_dir():
            keys.setdefault("volumes", []).append(escaped(f"{self.source.path('shared')}:/shared"))
        for script in ("shared.startup", f"{device}.startup"):
            if (directory / script).is_file():
                commands += self._script(name, keys, script)
        for value in self.exec.get(name, []):
            commands.append(shell.Command(value.raw(), value.text()))
        shell.absorb(self.draft, name, commands)
        for script in (f"{device}.shutdown", "shared.shutdown"):
            if (directory / script).is_file():
                place = self.source.beside(script).at(0, 0, "").of("containers", name)
                place.lost(f"left out: {script}: nothing is run when a container ends")

    def _copied(self, keys: Keys, device: str) -> shell.Command:
        there = f"{_INSIDE}/{device}"
        self._mount(keys, device, there)
        return shell.Command("", f"cp -r {there}/. /")

    def _mount(self, keys: Keys, name: str, there: str) -> None:
        line = escaped(f"{self.source.path(name)}:{there}:ro")
        if line not in keys.setdefault("volumes", []):
            keys["volumes"].append(line)

    def _script(self, name: str, keys: Keys, script: str) -> Iterator[shell.Command]:
        """The commands of a script; all of it at once where they hang together."""
        path = self.source.directory / script
        text = self.file_text(path)
        lines = shell.statements(text)
        if lines is not None:
            yield from (shell.Command(line, escaped(line)) for line in lines)
            return
        place = self.source.beside(path.name).at(0, 0, "").of("containers", name)
        place.told(
            f"{script} is run whole, as a script: its addresses and routes are not in the lab file",
            "written as addresses and routes, `status`, `graph` and the lab's names know them",
        )
        there = f"{_INSIDE}/{script}"
        self._mount(keys, script, there)
        yield shell.Command("", f"bash {shlex.quote(there)}")

    def strays(self) -> None:
        """Scripts of devices that there are not."""
        for path in sorted(self.source.directory.glob("*.startup")):
            if path.stem not in {*self.names, "shared"}:
                self.source.beside(path.name).at(0, 0, "").told(f"{path.name} is of no device of lab.conf")

    def dependencies(self) -> None:
        """lab.dep: ``pc1: pc2 pc3``."""
        for row, place in self._rows("lab.dep"):
            device, sign, others = row.partition(":")
            unknown = [each for each in (device.strip(), *others.split()) if each not in self.names]
            if not sign or unknown:
                place.fail(f"there is no device {unknown[0]}" if sign else "expected DEVICE: DEVICE...")
                continue
            names = [self.names[each] for each in others.split()]
            self.draft.containers[self.names[device.strip()]]["depends_on"] = names

    def outside(self) -> None:
        """lab.ext: collision domains that lead out by an interface of the host's."""
        for row, place in self._rows("lab.ext"):
            place.lost(
                f"left out: {row.strip()}: an interface of the host's in a collision domain",
                "it is plugged into a bridge, and given back by `down`: links: [[BRIDGE, host:enp3s0]]",
            )

    def _rows(self, name: str) -> Iterator[tuple[str, Value]]:
        """The lines of a file that may be there, and where each stands; without comments."""
        path = self.source.directory / name
        if not path.is_file():
            return
        beside = self.source.beside(name)
        for number, row in enumerate(self.file_text(path).splitlines()):
            if row.strip() and not row.lstrip().startswith("#"):
                yield row, beside.at(number, 0, row)
