"""A lab file from a stranger: all of it that would reach the host is refused, the rest is confined.

Owns: what such a file may not ask for.  Must not: trust that the kernel's rooms refuse it, too.

Refused: the host's root and whatever lies outside of the lab's own directory, binds, devices, added
capabilities, ``privileged``, ``nesting`` (it opens mounts and namespaces to the container), another seccomp
profile, published ports, interfaces of the host's, ``host``, commands of a check that run on the host, those
of a scenario that write files here, name another lab or hand on this environment,
words of rule sets that make the host's own iptables and nft read or run something.
An image is fetched without this user's passwords.
Forced: a user namespace for every container, and ``netns: private``, as a bridge on the host brings addresses
and routes of the stranger's choice.  ``${VAR}`` is only what ``--var`` gives: the environment is not read.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from typing import NamedTuple

from netns_orch.errors import Where
from netns_orch.labfile import imagename
from netns_orch.labfile.fields import Context
from netns_orch.labfile.model import HOST, Container, Firewall, Topology
from netns_orch.labfile.nodes import shown

HINT = "--untrusted (or NETORCH_UNTRUSTED) keeps this file from the host"
STEPS = frozenset(("exec", "kill", "link", "pause", "ps", "restart", "status", "unpause", "wait"))
"""What a scenario may do: all of it happens inside the lab."""
_FLAGS = frozenset(("--all", "--json", "--strict", "-i", "--interactive", "-it", "--tty"))
_WITH_VALUE = frozenset(
    (
        "-u",
        "-w",
        "-e",
        "-l",
        "-s",
        "-t",
        "--user",
        "--workdir",
        "--env",
        "--label",
        "--signal",
        "--time",
        "--wait",
    )
)
"""Options of these steps.  Any other, or another way to write one, is refused: ``--lab`` names a lab."""
_LOOKS = ("ps", "status")
"""Their argument is a lab."""
_INCLUDE = re.compile(r"\binclude\b")
_MODPROBE = re.compile(r"-[fhnvx46]*M")
_LONG = ("--modprobe", "--object-pinned")
"""Options of iptables that name what is the host's, which may be cut short (getopt_long(3))."""


class _Refusal(NamedTuple):
    where: Where | None
    what: str
    hint: str | None = None


def confine(topology: Topology, ctx: Context) -> None:
    """Note each refusal at its place, and force what is to be forced."""
    for where, what, hint in _refusals(topology, ctx):
        place = where or topology.where or Where(ctx.file, 1, 1)
        ctx.problems.at(place, what, "\n".join(filter(None, (hint, HINT))))
    topology.untrusted = True
    topology.netns = "private"
    for container in topology.containers.values():
        container.namespaces.user = True


def _refusals(topology: Topology, ctx: Context) -> Iterator[_Refusal]:
    for container in topology.containers.values():
        yield from _root(container, ctx)
        yield from _mounts(container)
        yield from _rights(container)
        yield from _rules(container)
    if "host" in topology.marks:
        yield _Refusal(topology.mark("host"), "a stranger's file can't change the host: no `host`")
    for link in topology.links:
        for end in (link.a, link.b):
            if end.node == HOST:
                what = f"a stranger's lab can't have the host's interface {shown(end.ifname or '')}"
                yield _Refusal(end.where or link.where, what)
    for check in (*topology.checks, *(check for step in topology.scenario for check in step.checks)):
        if check.kind == "exec" and HOST in check.options["in"]:
            yield _Refusal(check.where, "a stranger's check can't run a command on the host")
    for step in topology.scenario:
        if step.kind == "command" and step.argv[0] not in STEPS:
            what = f"a stranger's scenario can't run {shown(step.argv[0])}"
            yield _Refusal(step.where, what, f"it can: {', '.join(sorted(STEPS))}")
        elif step.kind == "command" and (bad := _reaching_out(step.argv)) is not None:
            yield _Refusal(step.where, f"a stranger's {step.argv[0]} can't have {shown(bad)}")


def _reaching_out(argv: list[str]) -> str | None:
    """The word of a step by which it would leave its lab, or take something of this environment along."""
    command, *words = argv
    left = iter(words)
    for word in left:
        name, equals, value = word.partition("=")
        if not word.startswith("-"):
            if command in _LOOKS:
                return word
            if command == "exec":
                break  # the rest is the container's
        elif command == "exec" and word == "-t":
            continue
        elif name in _WITH_VALUE:
            value = value if equals else next(left, "")
            if name in ("-e", "--env") and "=" not in value:
                return f"{word} {value}".strip()
        elif word not in _FLAGS:
            return word
    return None


def _root(container: Container, ctx: Context) -> Iterator[_Refusal]:
    where = container.rootfs.where or container.where
    if container.rootfs.kind == "host":
        what = f"a stranger's container can't have the host's root, as {container.name} has"
        yield _Refusal(where, what, "`rootfs`: a directory or tar file beside the lab file, or `image`")
    image = imagename.parse(container.image) if container.image else None
    if image and image.transport in imagename.ENGINES:
        yield _Refusal(where, f"a stranger's container can't have {shown(str(image))} of the host's engine")
    for layer in [image.path] if image and image.path else container.rootfs.layers:
        if not ctx.owns(layer):
            what = f"{shown(layer)} is outside of the lab's directory"
            yield _Refusal(where, what, "copy it beside the lab file")


def _mounts(container: Container) -> Iterator[_Refusal]:
    for volume in container.volumes:
        if not volume.named:
            what = f"a stranger's container can't have {shown(volume.source)} of the host"
            yield _Refusal(volume.where, what, "a named volume lives with the lab: data:/srv")
    for device in container.devices:
        yield _Refusal(device.where, f"a stranger's container can't have the device {shown(device.source)}")


def _rights(container: Container) -> Iterator[_Refusal]:
    if container.privileged:
        yield _Refusal(container.mark("privileged"), "a stranger's container can't be privileged")
    if container.cap_add:
        names = ", ".join(container.cap_add)
        yield _Refusal(container.mark("cap_add"), f"a stranger's container can't have {names} added")
    if container.nesting:
        yield _Refusal(container.mark("nesting"), "a stranger's container can't have `nesting`")
    if container.seccomp != "default":
        yield _Refusal(container.mark("seccomp"), "a stranger's container keeps the default seccomp filter")
    for port in container.ports:
        what = f"a stranger's container can't take port {port.host_port} of the host"
        yield _Refusal(port.where or container.mark("ports"), what)


def _rules(container: Container) -> Iterator[_Refusal]:
    if container.nftables is not None and _INCLUDE.search(container.nftables):
        what = "a stranger's ruleset can't have the word include: nft would read files of the host"
        yield _Refusal(container.mark("nftables"), what)
    for key, firewall in (("iptables", container.iptables), ("ip6tables", container.ip6tables)):
        for where, line in _lines(firewall):
            bad = next((word for word in _words(line) if _is_of_the_host(word)), None)
            if bad is not None:
                what = f"a stranger's rule can't have {shown(bad)}: it names a file of the host"
                yield _Refusal(where or container.mark(key), what)


def _is_of_the_host(word: str) -> bool:
    name = word.partition("=")[0]
    return bool(_MODPROBE.match(word)) or (len(name) > 3 and any(each.startswith(name) for each in _LONG))


def _lines(firewall: Firewall) -> Iterator[tuple[Where | None, str]]:
    yield from ((rule.where, rule.text) for rule in firewall.rules)
    yield from ((firewall.where, line) for line in (firewall.text or "").splitlines())


def _words(line: str) -> list[str]:
    try:
        return shlex.split(line)
    except ValueError:
        return line.split()
