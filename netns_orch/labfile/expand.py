"""From what the file says to single containers and cables: ``defaults``, ``scale``, ``mesh``, names.

Owns: expansion, and the checks that need the names of the whole lab.
Must not: choose an address or an interface's name, or compare addresses (``graph``).
"""

from __future__ import annotations

import copy
import graphlib
import itertools
from collections.abc import Iterator
from typing import Any

from netns_orch.errors import Where
from netns_orch.labfile import format as keys
from netns_orch.labfile import short
from netns_orch.labfile.fields import Context, Found, Nodes
from netns_orch.labfile.model import (
    HOST,
    Bridge,
    Container,
    Endpoint,
    Impairment,
    Link,
    Topology,
)
from netns_orch.labfile.network import EndDraft, LinkDraft
from netns_orch.labfile.nodes import Mapping, Node, Scalar, describe, join, place, shown
from netns_orch.labfile.problems import TooMany
from netns_orch.labfile.units import Wrong
from netns_orch.labfile.variables import fill_template, templated

MOST_CONTAINERS = 20_000
MOST_LINKS = 50_000


def topology(root: Node, ctx: Context, name: str | None, stem: str) -> Topology | None:
    """The lab; None where so much is wrong (and noted) that there is none."""
    where = ctx.where(root, "")
    groups = _survey(root, ctx)
    try:
        values, found = keys.TOP.parse(root, ctx, where)
    except Wrong as wrong:
        ctx.note(where, wrong)
        return None
    containers = _containers(values.pop("containers", None), values.pop("defaults", None), groups, found)
    bridges: dict[str, Bridge] = values.pop("bridges", {})
    for bridge_name, bridge in bridges.items():
        bridge.name = bridge_name
    links = _links(values.pop("links", []), containers, bridges, ctx)
    _dependencies(containers, ctx)
    _hosts_asked_for(containers, ctx)
    lab = name or values.pop("name", None) or _stem(stem, found)
    values.pop("name", None)
    return Topology(
        where=where,
        marks=found.marks,
        name=lab,
        bridges=bridges,
        containers=containers,
        groups=groups,
        links=links,
        **values,
    )


def _stem(stem: str, found: Found) -> str:
    """The lab's name from the file's."""
    if "name" in found.marks:
        return ""
    try:
        return short.name(stem, "lab", 32)
    except Wrong:
        safe = "".join(c if c.isascii() and (c.isalnum() or c in "-_") else "-" for c in stem)
        better = safe.strip("-_")[:32]
        hint = f"name: {better or 'lab'}"
        found.ctx.problems.at(found.where, f"the file's name {shown(stem)} can't be the lab's name", hint)
        return ""


# -- names ---------------------------------------------------------------------------------------


def _survey(root: Node, ctx: Context) -> dict[str, list[str]]:
    """Find the names of all containers and bridges, so that whatever refers to one can be checked."""
    bridges = _section(root, "bridges")
    groups: dict[str, list[str]] = {}
    names: dict[str, Scalar] = {}
    for name, (key, value) in _section(root, "containers").items():
        path = join("containers", name)
        try:
            short.name(name, "container", 63)
            members = _members(name, value)
        except Wrong as wrong:
            ctx.note(ctx.where(key, path), wrong)
            members = [name]
        if name in bridges:
            first = bridges[name][0].line + 1
            what = f"the container {shown(name)} has the name of a bridge"
            ctx.note(ctx.where(key, path), Wrong(what, f"the bridge is on line {first}"))
        if members != [name] or _scale_node(value) is not None:
            groups[name] = members
        for member in members:
            if member in names or (member != name and member in bridges):
                _collision(name, member, key, ctx)
            names.setdefault(member, key)
        if len(names) > MOST_CONTAINERS:
            ctx.note(ctx.where(key, path), Wrong(f"the lab has more than {MOST_CONTAINERS} containers"))
            raise TooMany
    ctx.nodes = Nodes(names, groups, bridges)
    return groups


def _collision(name: str, member: str, key: Scalar, ctx: Context) -> None:
    other = "a container or bridge has that name already"
    what = f"{shown(name)} is scaled to {shown(member)}, and {other}" if member != name else None
    what = what or f"the container {shown(name)} has the name of one that `scale` makes"
    ctx.note(ctx.where(key, join("containers", name)), Wrong(what))


def _section(root: Node, key: str) -> dict[str, tuple[Scalar, Node]]:
    if isinstance(root, Mapping) and key in root.entries:
        section = root.entries[key][1]
        if isinstance(section, Mapping):
            return section.entries
    return {}


def _scale_node(value: Node) -> Node | None:
    if isinstance(value, Mapping) and "scale" in value.entries:
        node = value.entries["scale"][1]
        return None if node.null else node
    return None


def _members(name: str, value: Node) -> list[str]:
    """The names that a container's entry stands for; a wrong ``scale`` is reported when it is parsed."""
    node = _scale_node(value)
    if not isinstance(node, Scalar) or not node.value.isascii() or not node.value.isdigit():
        return [name]
    count = int(node.value[:6])
    if not keys.SCALE.low <= count <= keys.SCALE.high:
        return [name]
    short.name(f"{name}{count}", "container", 63)
    return [f"{name}{number}" for number in range(1, count + 1)]


# -- containers ----------------------------------------------------------------------------------


def _containers(
    section: Node | None, defaults: Node | None, groups: dict[str, list[str]], found: Found
) -> dict[str, Container]:
    """All containers, scaled, with the defaults merged under each."""
    ctx = found.ctx
    base = _defaults(defaults, found)
    if section is None or section.null:
        return {}
    if not isinstance(section, Mapping):
        wrong = keys.CONTAINERS.unfit(section, keys.CONTAINERS.hint)
        ctx.note(found.marks["containers"], wrong)
        return {}
    made: dict[str, Container] = {}
    for name, (key, value) in section.entries.items():
        row, column = place(key, value)
        at = Where(ctx.file, row + 1, column + 1, join("containers", name))
        node = value if base is None else merged(_other_root(base, value), value)
        for container in _scaled(name, groups.get(name), node, ctx, at):
            made.setdefault(container.name, container)
    return made


def _defaults(defaults: Node | None, found: Found) -> Mapping | None:
    if defaults is None or defaults.null:
        return None
    if not isinstance(defaults, Mapping):
        found.note("defaults", f"expected a mapping, got {describe(defaults)}")
        return None
    if not templated(defaults):
        _parse(keys.CONTAINER, defaults, found.ctx, found.marks["defaults"])
    elif "scale" in defaults.entries:
        key = defaults.entries["scale"][0]
        wrong = Wrong("unknown key 'scale'", keys.CONTAINER.foreign["scale"])
        found.ctx.note(found.ctx.where(key, "defaults.scale"), wrong)
    return defaults


def _other_root(base: Mapping, own: Node) -> Mapping:
    """The defaults for a container that says itself what its root is, in whichever of the two words."""
    said = {"image", "rootfs"} & own.entries.keys() if isinstance(own, Mapping) else set()
    if not said:
        return base
    result = Mapping(base.line, base.column, base.flow)
    result.entries = {key: entry for key, entry in base.entries.items() if key not in ("image", "rootfs")}
    return result


def merged(base: Mapping, own: Node) -> Node:
    """``own`` over ``base``: mappings merge, lists and scalars replace."""
    if own.null:
        return base
    if not isinstance(own, Mapping):
        return own
    result = Mapping(own.line, own.column, own.flow)
    result.entries = dict(base.entries)
    for name, (key, value) in own.entries.items():
        below = base.entries.get(name)
        if below is not None and isinstance(below[1], Mapping) and isinstance(value, Mapping):
            value = merged(below[1], value)
        result.entries[name] = (key, value)
    return result


def _parse(record: Any, node: Node, ctx: Context, at: Where) -> Container | None:
    found: list[Container] = []
    record.offer(node, ctx, at, found.append)
    return found[0] if found else None


def _scaled(name: str, members: list[str] | None, node: Node, ctx: Context, at: Where) -> Iterator[Container]:
    """The containers of one entry; nothing where it is wrong."""
    node = _unscaled(node)
    if ctx.templates and templated(node):
        yield from _from_template(name, members, node, ctx, at)
        return
    first = _parse(keys.SCALED, node, ctx, at)
    for index, member in enumerate(members or [name]):
        if first is not None:
            container = copy.copy(first) if index else first
            container.name = member
            container.n = index + 1 if members else None
            yield container


def _from_template(
    name: str, members: list[str] | None, node: Node, ctx: Context, at: Where
) -> Iterator[Container]:
    """Each member read by itself; the first with a problem stands for all."""
    before = len(ctx.problems)
    for index, member in enumerate(members or [name]):
        number = index + 1 if members else None
        filled = fill_template(node, member, number, ctx, at.path)
        container = _parse(keys.SCALED, filled, ctx, at)
        if container is None or len(ctx.problems) > before:
            return
        container.name = member
        container.n = number
        yield container


def _unscaled(node: Node) -> Node:
    """The same without a ``scale`` that is right (a wrong one is left, for its field to refuse)."""
    scale = _scale_node(node)
    if not isinstance(node, Mapping) or "scale" not in node.entries:
        return node
    if scale is not None and _members("x", node) == ["x"]:
        return node
    rest = Mapping(node.line, node.column, node.flow)
    rest.entries = {key: entry for key, entry in node.entries.items() if key != "scale"}
    return rest


def _dependencies(containers: dict[str, Container], ctx: Context) -> None:
    """``depends_on`` without circles, and pods of one level."""
    graph: dict[str, list[str]] = {}
    for name, container in containers.items():
        if name in container.depends_on:
            at = container.mark("depends_on")
            if at:
                ctx.problems.at(at, f"{shown(name)} depends on itself")
        elif container.depends_on:
            graph[name] = container.depends_on
        _pod(container, containers, ctx)
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        circle = list(reversed(error.args[1]))
        at = containers[circle[0]].mark("depends_on")
        if at:
            ctx.problems.at(at, f"depends_on goes round in a circle: {' -> '.join(circle)}")


def _hosts_asked_for(containers: dict[str, Container], ctx: Context) -> None:
    """A host of a URL without a dot is a name of the lab."""
    known = {HOST, "localhost", *containers}
    for container in containers.values():
        known.update(container.extra_hosts, filter(None, [container.hostname]))
    for name, where in ctx.hosts:
        if "." not in name and name not in known:
            ctx.note(where, ctx.nodes.unknown(name, "container", containers))


def _pod(container: Container, containers: dict[str, Container], ctx: Context) -> None:
    target = container.namespaces.net
    at = container.namespaces.mark("net")
    if target is None or at is None:
        return
    if target == container.name:
        ctx.problems.at(at, "a container can't share its own network", "leave it out")
    elif target in containers and containers[target].namespaces.net:
        other = containers[target].namespaces.net
        what = f"{shown(target)} shares the network of {shown(str(other))} itself"
        ctx.problems.at(at, what, f"container:{other}")


# -- links ---------------------------------------------------------------------------------------


def _links(
    drafts: list[LinkDraft], containers: dict[str, Container], bridges: dict[str, Bridge], ctx: Context
) -> list[Link]:
    links: list[Link] = []
    for draft in drafts:
        if sum(_known(end, containers, ctx) for end in draft.ends) < 2:
            continue
        try:
            pairs = _pairs(draft, ctx, MOST_LINKS - len(links))
            _suits(draft, len(pairs), ctx)
        except Wrong as wrong:
            ctx.note(_at(draft), wrong)
            continue
        links.extend(_cable(draft, a, b) for a, b in pairs)
    return links


def _at(draft: LinkDraft) -> Where:
    assert draft.where is not None
    return draft.where


def _known(end: EndDraft, containers: dict[str, Container], ctx: Context) -> bool:
    """Whether an end's node is there, and fit to be one."""
    nodes = ctx.nodes
    wrong = None
    if end.node == HOST:
        if end.ifname is None:
            hint = "an interface of the host's: host:enp3s0; to reach the host, link a bridge with an address"
            wrong = Wrong("an end at the host needs its interface", hint)
    elif end.node not in nodes.groups and end.node not in nodes.containers and end.node not in nodes.bridges:
        known = [*nodes.groups, *nodes.containers, *nodes.bridges]
        wrong = nodes.unknown(end.node, "container or bridge", known)
    elif end.node in containers and containers[end.node].namespaces.net:
        target = containers[end.node].namespaces.net
        wrong = Wrong(
            f"{end.node} shares the network of {target}: it has no cable of its own", f"link {target}"
        )
    if wrong is not None and end.where is not None:
        ctx.note(end.where, wrong)
    return wrong is None


def _pairs(draft: LinkDraft, ctx: Context, most: int) -> list[tuple[str, str]]:
    """The pairs of nodes that a link stands for."""
    groups = ctx.nodes.groups
    a, b = (groups.get(end.node, [end.node]) for end in draft.ends)
    both = all(end.node in groups for end in draft.ends)
    count = len(a) * len(b) if draft.mesh or not both else max(len(a), len(b))
    if count > most:
        raise Wrong(f"the lab has more than {MOST_LINKS} links")
    if draft.mesh:
        if not both:
            raise Wrong("`mesh` is for two scaled names", "a single one has a cable to each without it")
        return list(itertools.combinations(a, 2)) if a == b else list(itertools.product(a, b))
    if not both:
        return list(itertools.product(a, b))
    if draft.ends[0].node == draft.ends[1].node:
        raise Wrong(f"every {draft.ends[0].node} would be linked to itself", "mesh: true links them all")
    if len(a) != len(b):
        hint = "one to one needs equal sizes; `mesh: true` links every one to every one"
        raise Wrong(f"{draft.ends[0].node} is {len(a)} containers, {draft.ends[1].node} {len(b)}", hint)
    return list(zip(a, b, strict=True))


def _suits(draft: LinkDraft, count: int, ctx: Context) -> None:
    """Whether what is said of a link and its ends is possible between these nodes."""
    a, b = draft.ends
    if a.node == b.node and not draft.mesh:
        raise Wrong(f"{shown(a.node)} is linked to itself")
    if HOST in (a.node, b.node):
        _host_end(draft, ctx)
    for end in draft.ends:
        if end.node in ctx.nodes.bridges:
            _bridge_end(end)
        elif end.vlan:
            raise Wrong("a VLAN stands at a bridge's end, not at a container's", "- lan: {vlan: 10}")
        if count > 1 and (end.addresses or end.mac) and end.node not in ctx.nodes.bridges:
            what = "address" if end.addresses else "MAC"
            raise Wrong(f"one {what} can't be that of {count} ends of {shown(end.node)}", "leave it out")
    if draft.options.get("subnet") and all(end.node in ctx.nodes.bridges for end in draft.ends):
        raise Wrong("no end of this link takes an address from its subnet", "a bridge's is `subnet` there")
    _impairments(draft)


def _bridge_end(end: EndDraft) -> None:
    if end.ifname is not None:
        raise Wrong(f"a bridge's end has no name to choose: {shown(end.node)} alone")
    if end.addresses:
        hint = f"bridges: {{{end.node}: {end.addresses[0]}}}"
        raise Wrong(f"the address of {shown(end.node)} stands at the bridge", hint)
    if end.mac:
        raise Wrong("a bridge's end has no MAC to choose")


def _host_end(draft: LinkDraft, ctx: Context) -> None:
    mine, other = draft.ends if draft.ends[0].node == HOST else reversed(draft.ends)
    if other.node not in ctx.nodes.bridges:
        hint = "link both to one bridge"
        raise Wrong("an interface of the host's can only be plugged into a bridge", hint)
    said = [*draft.impairment, *mine.impairment, *other.impairment, *draft.options]
    said += [key for key in ("addresses", "mac", "vlan") if getattr(mine, key)]
    said = [key for key in said if key != "no_address"]
    if said:
        raise Wrong(
            f"{said[0].replace('addresses', 'address')} can't be set on an interface of the host's own"
        )


def _impairments(draft: LinkDraft) -> None:
    for end in draft.ends:
        both = {**draft.impairment, **end.impairment}
        for key in ("jitter", "reorder"):
            if both.get(key) and not both.get("delay"):
                raise Wrong(f"`{key}` needs `delay`", "delay: 20ms")


def _cable(draft: LinkDraft, a: str, b: str) -> Link:
    first, second = draft.ends
    return Link(
        where=draft.where,
        marks=draft.marks,
        a=_end(draft, first, a),
        b=_end(draft, second, b),
        **draft.options,
    )


def _end(draft: LinkDraft, end: EndDraft, node: str) -> Endpoint:
    both, marks = end.impairment, end.marks
    if draft.impairment:
        both = {**draft.impairment, **both}
        marks = {**{key: draft.marks[key] for key in draft.impairment}, **marks}
    return Endpoint(
        where=end.where,
        marks=marks,
        node=node,
        ifname=end.ifname,
        addresses=end.addresses,
        no_address=end.no_address or bool(draft.options.get("no_address")),
        mac=end.mac,
        impairment=Impairment(**both),
        vlan=end.vlan,
    )
