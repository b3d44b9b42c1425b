"""The network of a lab, namespace by namespace, as iproute2 and nft show it: to compare two of them."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from support.outer import run

_OF_THE_MOMENT = re.compile(
    r"_timer$|^stats|^ifindex$|^link_index$|_life_time$|^link_netnsid$|^altnames$|^group$|^promiscuity$"
    r"|^allmulti$|^bridge_id$|^root_id$|^designated_|^protocol_down|^operstate$|^linkmode$|^topology_change|^tentative$"
)
"""Numbers that the kernel chose, netorch's own marks, and what changes by itself."""


def steady(value: Any) -> Any:
    """Without what differs from one run to the next."""
    if isinstance(value, dict):
        return {key: steady(item) for key, item in value.items() if not _OF_THE_MOMENT.search(key)}
    return [steady(item) for item in value] if isinstance(value, list) else value


_LATER = re.compile(
    r" proto (ospf|bgp) |^nexthop via inet6 | dev wg0 |^((local|anycast) )?fe80::\S* dev \S+ .*proto kernel "
)
"""Routes that appear some time later: a daemon's, those of link-local addresses that are no duplicates."""


def by(key: str, rows: Any) -> dict[str, Any]:
    """Rows of ``ip -json`` by one of their fields."""
    return {row[key]: row for row in steady(rows) if row.get(key) and row[key] != "wg0"}


def look(*inside: str) -> dict[str, Any]:
    """Links, addresses, routes, rules and firewalls of a network namespace."""

    def ip(*words: str) -> Any:
        return json.loads(run(*inside, "ip", "-json", "-details", *words) or "[]")

    addresses = [
        {k: v for k, v in address.items() if k != "protocol"} | {"on": link["ifname"]}
        for link in ip("address", "show")
        if link["ifname"] != "wg0"
        for address in steady(link.get("addr_info", []))
    ]
    links = by("ifname", ip("link", "show"))
    for link in links.values():
        if link.get("linkinfo", {}).get("info_kind") == "vxlan":
            del link["address"]  # the kernel's choice, where the file has none
    return {
        "links": links,
        "addresses": sorted(addresses, key=lambda address: address["on"]),
        "vlans": [
            (v["ifname"], v["vlans"]) for v in json.loads(run(*inside, "bridge", "-json", "vlan", "show"))
        ],
        **{
            f"routes{family}": sorted(_routes(*inside, "ip", family, "route", "show", "table", "all"))
            for family in ("-4", "-6")
        },
        **{f"rules{family}": _lines(*inside, "ip", family, "rule", "show") for family in ("-4", "-6")},
        **{p: _lines(*inside, p, "-S") for p in ("iptables", "ip6tables")},
        "nat": _lines(*inside, "iptables", "-t", "nat", "-S"),
        "qdiscs": re.findall(r"qdisc ((?:netem|tbf)) \S+ (.*)", run(*inside, "tc", "qdisc", "show")),
        "nft": _nft(run(*inside, "nft", "--stateless", "list", "ruleset")),
    }


def _lines(*argv: str) -> list[str]:
    return [" ".join(line.split()) for line in run(*argv).splitlines()]


def _routes(*argv: str) -> list[str]:
    return [line for line in _lines(*argv) if not _LATER.search(f"{line} ")]


def _nft(text: str) -> list[str]:
    """Tables that are not iptables', without netorch's mark."""
    tables = re.split(r"^(?=table )", text, flags=re.MULTILINE)
    own = (t for t in tables if not re.match(r"table ip6? (filter|nat|mangle|raw)\b", t))
    return [
        re.sub(r"\tchain about \{.*?\n\t\}\n\n?", "", table, flags=re.DOTALL).rstrip()
        for table in own
        if table.strip()
    ]


def states(lab: str) -> dict[str, Any]:
    """What is there, by node."""
    found = {"host": look()}
    for name in sorted(Path("/run/netns").glob(f"{lab}.*")):
        found[name.name.removeprefix(f"{lab}.")] = look("nsenter", f"--net={name}")
    return found


def same(found: dict[str, Any], wanted: dict[str, Any]) -> None:
    """Name the first thing that differs."""
    assert found.keys() == wanted.keys()
    for node, what in ((node, what) for node, all_ in wanted.items() for what in all_):
        one, other = found[node][what], wanted[node][what]
        assert one == other, f"{what} of {node}: {_beyond(one, other)} for {_beyond(other, one)}"


def _beyond(one: Any, other: Any) -> Any:
    """What of a list or mapping is not in the other."""
    if isinstance(one, dict):
        return {key: value for key, value in one.items() if other.get(key) != value}
    return [item for item in one if item not in other]
