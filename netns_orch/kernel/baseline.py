"""The network sysctls that every container starts with, whatever the host's are.

Owns: the list (the kernel's own defaults; rp_filter 0, no duplicate address detection, no IPv6 link-local
addresses unless asked) and how it is written into a new network namespace.
Must not: touch any namespace but the one the caller is in; import more than os.

A new namespace copies some IPv4 values from the first one (net.core.devconf_inherit_init_net), and forwarding
changes others when it changes, so it is written first.
"""

from __future__ import annotations

import os

_FORWARDING = (
    ("ipv4/ip_forward", "0"),
    ("ipv6/conf/all/forwarding", "0"),
    ("ipv6/conf/default/forwarding", "0"),
)
_IPV4 = {
    "accept_local": "0",
    "accept_redirects": "1",
    "arp_accept": "0",
    "arp_announce": "0",
    "arp_evict_nocarrier": "1",
    "arp_filter": "0",
    "arp_ignore": "0",
    "arp_notify": "0",
    "bc_forwarding": "0",
    "bootp_relay": "0",
    "disable_policy": "0",
    "disable_xfrm": "0",
    "drop_gratuitous_arp": "0",
    "drop_unicast_in_l2_multicast": "0",
    "force_igmp_version": "0",
    "forwarding": "0",
    "igmpv2_unsolicited_report_interval": "10000",
    "igmpv3_unsolicited_report_interval": "1000",
    "ignore_routes_with_linkdown": "0",
    "log_martians": "0",
    "medium_id": "0",
    "promote_secondaries": "0",
    "proxy_arp": "0",
    "proxy_arp_pvlan": "0",
    "route_localnet": "0",
    "rp_filter": "0",
    "secure_redirects": "1",
    "send_redirects": "1",
    "shared_media": "1",
    "src_valid_mark": "0",
    "tag": "0",
}
_IPV6 = {
    "accept_dad": "0",
    "accept_ra": "1",
    "accept_redirects": "1",
    "accept_source_route": "0",
    "autoconf": "1",
    "dad_transmits": "1",
    "disable_ipv6": "0",
    "disable_policy": "0",
    "hop_limit": "64",
    "ignore_routes_with_linkdown": "0",
    "keep_addr_on_down": "0",
    "max_addresses": "16",
    "mtu": "1280",
    "ndisc_evict_nocarrier": "1",
    "ndisc_notify": "0",
    "optimistic_dad": "0",
    "proxy_ndp": "0",
    "router_solicitations": "-1",
    "seg6_enabled": "0",
    "use_oif_addrs_only": "0",
    "use_tempaddr": "0",
}
_NEIGHBOURS = {
    "anycast_delay": "100",
    "app_solicit": "0",
    "base_reachable_time_ms": "30000",
    "delay_first_probe_time": "5",
    "gc_stale_time": "60",
    "mcast_solicit": "3",
    "proxy_delay": "80",
    "retrans_time_ms": "1000",
    "ucast_solicit": "3",
}
_PING = "ipv4/ping_group_range"
_OTHERS = (
    ("ipv4/conf/all/accept_source_route", "0"),
    ("ipv4/conf/default/accept_source_route", "1"),
    # 1: no link-local address by itself; an interface that is to have one is switched on by its own setting
    ("ipv6/conf/default/addr_gen_mode", "1"),
    (_PING, "0\t2147483647"),  # or as far as there are groups
    ("ipv4/ip_unprivileged_port_start", "0"),
    ("ipv4/tcp_congestion_control", "cubic"),
    # What a bridge does must not depend on whether the host has loaded br_netfilter.
    ("bridge/bridge-nf-call-arptables", "0"),
    ("bridge/bridge-nf-call-ip6tables", "0"),
    ("bridge/bridge-nf-call-iptables", "0"),
)


def _table() -> tuple[tuple[str, str], ...]:
    rows = list(_FORWARDING)
    for scope in ("all", "default"):
        rows += [(f"ipv4/conf/{scope}/{name}", value) for name, value in _IPV4.items()]
        rows += [(f"ipv6/conf/{scope}/{name}", value) for name, value in _IPV6.items()]
    for family in ("ipv4", "ipv6"):
        rows += [(f"{family}/neigh/default/{name}", value) for name, value in _NEIGHBOURS.items()]
    return (*rows, *_OTHERS)


SYSCTLS = _table()
"""(path below /proc/sys/net, value) in the order in which they are to be written."""
_TOUCHED_BY_FORWARDING = ("forwarding", "accept_redirects", "ip_forward")


def needed(net: int) -> tuple[tuple[str, str], ...]:
    """Of ``SYSCTLS``, what a namespace made on this host has to be given.

    ``net`` is /proc/sys/net as a namespace just made sees it.  What follows the host's forwarding is always
    part of it: that may be switched on while the lab is built.
    """
    rows = []
    for name, value in SYSCTLS:
        try:
            now = _read(net, name)
        except OSError:
            continue  # this kernel has none
        if name == _PING:
            first, last = _groups()
            value = f"{first}\t{min(int(value.split()[1]), last)}"
        if now != value or name.rpartition("/")[2] in _TOUCHED_BY_FORWARDING:
            rows.append((name, value))
    return tuple(rows)


def write(net: int, rows: tuple[tuple[str, str], ...]) -> None:
    """Write the rows below /proc/sys/net (``net``); a sysctl this kernel refuses keeps its default."""
    for name, value in rows:
        try:
            _write(net, name, value)
        except OSError:
            continue


def _groups() -> tuple[int, int]:
    """The first and the last group of a range that is all there are in this user namespace, if possible.

    The kernel refuses a range beyond them, and takes it for empty where the host's id of its last one is
    lower than that of its first: an ordinary user's own id, which is 0 here, may be higher than his
    subordinate ones (user_namespaces(7), icmp(7)).
    """
    try:
        with open("/proc/self/gid_map", encoding="ascii") as file:
            ranges = sorted([int(word) for word in line.split()] for line in file)
    except OSError:
        ranges = [[0, 0, 2**32 - 1]]  # a kernel without user namespaces
    last = highest = 0
    for first, outside, count in ranges:
        if first > last + 1:
            break
        last, highest = first + count - 1, outside + count - 1
    return (0 if ranges[0][1] <= highest else 1), last


def _read(net: int, name: str) -> str:
    descriptor = os.open(name, os.O_RDONLY | os.O_CLOEXEC, dir_fd=net)
    try:
        return os.read(descriptor, 256).decode().strip()
    finally:
        os.close(descriptor)


def _write(net: int, name: str, value: str) -> None:
    descriptor = os.open(name, os.O_WRONLY | os.O_CLOEXEC, dir_fd=net)
    try:
        os.write(descriptor, value.encode())
    finally:
        os.close(descriptor)
