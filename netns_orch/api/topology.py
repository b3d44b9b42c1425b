"""A topology built in code: the lab file's keys as arguments, and its rules, for they are read by its reader.

Owns: the text that stands for what was said in code, and which line of code said which of it.
Must not: check anything itself, or choose anything: a key that the file does not know is refused as there.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypedDict, Unpack

from netns_orch.errors import LabFileError, NetorchError, Where

if TYPE_CHECKING:
    from netns_orch.labfile.model import Topology as Model

_SURROGATES = re.compile(r"\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}")
_HERE = __file__.rpartition("/")[0] + "/"
Words = str | Sequence[str]
"""A string for a shell, or a list of words."""
OneOrMore = str | Sequence[str]


class BridgeKeys(TypedDict, total=False):
    """What can be said of a bridge beside its address."""

    subnet: OneOrMore
    gateway: str
    forward: Literal["nat", "route", "none"]
    mtu: int
    stp: bool
    isolated: bool
    multicast_snooping: bool
    ifname: str
    link_local: bool


class ContainerKeys(TypedDict, total=False):
    """What can be said of a container, by the words of the lab file."""

    command: Words
    environment: Mapping[str, str]
    env_file: OneOrMore
    working_dir: str
    user: str
    init: bool
    restart: Literal["no", "on-failure", "always"]
    setup: Sequence[Words]
    ready: Mapping[str, Any]
    depends_on: Sequence[str]
    stop_signal: str
    stop_grace_period: str
    hostname: str
    rootfs: str | Mapping[str, Any]
    image: str
    files: Mapping[str, str]
    volumes: Sequence[str]
    tmpfs: OneOrMore
    devices: Sequence[str]
    read_only: bool
    namespaces: Mapping[str, Any]
    cap_add: Sequence[str]
    cap_drop: Sequence[str]
    seccomp: str
    nesting: bool
    privileged: bool
    ulimits: Mapping[str, Any]
    sysctls: Mapping[str, str | int]
    resources: Mapping[str, Any]
    router: bool
    loopback: OneOrMore
    default_route: bool
    interfaces: Mapping[str, Any]
    routes: Sequence[str | Mapping[str, Any]]
    rules: Sequence[str]
    iptables: OneOrMore
    ip6tables: OneOrMore
    nftables: str
    dns: OneOrMore
    dns_search: OneOrMore
    extra_hosts: Mapping[str, str]
    ports: Sequence[str]
    labels: Mapping[str, str]
    link_local: bool
    scale: int


class Impairments(TypedDict, total=False):
    """What tc-netem(8) does to packets that leave an end."""

    delay: str
    jitter: str
    loss: str
    duplicate: str
    corrupt: str
    reorder: str
    rate: str
    limit: int


class LinkKeys(Impairments, total=False):
    """What can be said of a cable; impairments hold for both ends."""

    mtu: int
    offload: bool
    state: Literal["up", "down"]
    subnet: str
    address: Literal["none"]
    mesh: bool
    link_local: bool


class EndKeys(Impairments, total=False):
    """What can be said of one end of a cable; impairments hold on leaving it only."""

    address: OneOrMore
    mac: str
    vlan: int
    trunk: Sequence[int]
    native: int


class HostKeys(TypedDict, total=False):
    """What can be said of the namespace that holds the bridges."""

    router: bool
    routes: Sequence[str | Mapping[str, Any]]
    iptables: OneOrMore
    ip6tables: OneOrMore
    sysctls: Mapping[str, str | int]


class End:
    """One end of a cable: ``End("red:eth1", address="10.0.0.7/24", mac="02:00:00:00:00:03")``.

    The name is a container's or a bridge's, with the interface's behind a colon where that matters, or
    ``host:IF`` for an interface of the host's own.
    """

    def __init__(self, name: str, **keys: Unpack[EndKeys]) -> None:
        self.name, self.keys = name, keys

    def plain(self) -> str | dict[str, Any]:
        """As the file has it."""
        return {self.name: dict(self.keys)} if self.keys else self.name


class _Said(NamedTuple):
    """One entry, and the line of code that said it."""

    value: Any
    file: str
    line: int


class Topology:
    """A lab, built in code: what a lab file says, by the same words, and with the same rules.

    ``directory`` is where relative paths begin; default: that of the file whose code makes it.
    ``up``, or ``model``, raises LabFileError with every problem, each at the line of code that said it.
    """

    def __init__(
        self,
        name: str,
        *,
        netns: Literal["host", "private"] = "host",
        addressing: Mapping[str, str] | None = None,
        defaults: ContainerKeys | None = None,
        link_local: bool | None = None,
        directory: str | Path | None = None,
    ) -> None:
        self.name = name
        self._made = _said(None)
        self._directory = str(directory) if directory is not None else _directory(self._made.file)
        self._top: dict[str, _Said] = {}
        given = {"netns": netns, "addressing": addressing, "defaults": defaults, "link_local": link_local}
        for key, value in given.items():
            if value is not None:
                self._top[key] = self._made._replace(value=value)
        self._bridges: dict[str, _Said] = {}
        self._containers: dict[str, _Said] = {}
        self._links: list[_Said] = []
        self._checks: list[_Said] = []
        self._scenario: list[_Said] = []

    def bridge(self, name: str, address: OneOrMore | None = None, **keys: Unpack[BridgeKeys]) -> None:
        """A bridge: docker0-like with an ``address`` of the host's, else a plain layer 2 switch."""
        self._add(self._bridges, "bridge", name, {"address": address, **keys} if address else keys)

    def container(self, name: str, **keys: Unpack[ContainerKeys]) -> None:
        """A container; with ``scale`` so many, NAME1 ... NAMEn."""
        self._add(self._containers, "container", name, keys)

    def link(self, a: str | End, b: str | End, **keys: Unpack[LinkKeys]) -> None:
        """A cable between two ends."""
        ends = [end.plain() if isinstance(end, End) else end for end in (a, b)]
        self._links.append(_said({"endpoints": ends, **keys}))

    def host(self, **keys: Unpack[HostKeys]) -> None:
        """Of the namespace that holds the bridges."""
        self._top["host"] = _said(keys)

    def check(self, **keys: Any) -> None:
        """An expectation, as in the file's ``checks``: ``check(ping={"from": "red", "to": "blue"})``."""
        self._checks.append(_said(keys))

    def step(self, step: str | Mapping[str, Any]) -> None:
        """A step of the ``scenario``: a command line of netorch, or a mapping as in the file."""
        self._scenario.append(_said(step))

    def to_yaml(self) -> str:
        """The lab file that says the same, an entry a line."""
        return "".join(f"{line}\n" for line, _ in self._lines())

    def model(self, *, name: str | None = None) -> Model:
        """What the file's reader makes of it, under its own name or another."""
        from netns_orch import labfile

        try:
            made = labfile.loads(self.to_yaml(), self._made.file, self._directory, name=name, environ={})
        except LabFileError as error:
            raise self.placed(error) from None
        made.file = None
        return made

    def placed(self, error: NetorchError) -> NetorchError:
        """The error, with lines of code for lines of the text."""
        error.where = self.place(error.where)
        for problem in error.problems if isinstance(error, LabFileError) else ():
            problem.where = self.place(problem.where)
        return error

    def place(self, where: Where | None) -> Where | None:
        """The line of code for a line of the text."""
        lines = [said for _, said in self._lines()]
        if where is None or where.file != self._made.file or not 0 < where.line <= len(lines):
            return where
        said = lines[where.line - 1]
        return Where(said.file, said.line, 1, where.path)

    def _add(self, to: dict[str, _Said], what: str, name: str, keys: Mapping[str, Any]) -> None:
        said = _said(dict(keys))
        if name in to:
            first = to[name]
            raise LabFileError(
                [
                    NetorchError(
                        f"a {what} {name} is there already",
                        where=Where(said.file, said.line, 1, f"{what}s.{name}"),
                        hint=f"the first one: {first.file}:{first.line}",
                    )
                ]
            )
        to[name] = said

    def _lines(self) -> list[tuple[str, _Said]]:
        """The text, line by line, each with who said it."""
        lines = [(f"name: {_text(self.name)}", self._made)]
        lines += [(f"{key}: {_text(said.value)}", said) for key, said in self._top.items()]
        for key, entries in (("bridges", self._bridges), ("containers", self._containers)):
            if entries:
                lines.append((f"{key}:", self._made))
                lines += [(f"  {_text(name)}: {_text(said.value)}", said) for name, said in entries.items()]
        for key, items in (("links", self._links), ("checks", self._checks), ("scenario", self._scenario)):
            if items:
                lines.append((f"{key}:", self._made))
                lines += [(f"  - {_text(said.value)}", said) for said in items]
        return lines


def _text(value: Any) -> str:
    """In one line: JSON, which YAML holds but for pairs of surrogates; a ``$`` means itself in code."""
    text = json.dumps(value, default=list).replace("$", "$$")
    return _SURROGATES.sub(lambda pair: f"\\U{ord(json.loads(f'{chr(34)}{pair[0]}{chr(34)}')):08x}", text)


def _said(value: Any) -> _Said:
    """With the line of code outside of this package that is being run."""
    frame = sys._getframe(1)
    while frame.f_back is not None and frame.f_code.co_filename.startswith(_HERE):
        frame = frame.f_back
    return _Said(value, frame.f_code.co_filename, frame.f_lineno)


def _directory(file: str) -> str:
    path = Path(file)
    return str(path.resolve().parent) if path.is_file() else str(Path.cwd())
