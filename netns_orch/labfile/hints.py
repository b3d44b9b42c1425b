"""Hints: the nearest valid name, and our word for other tools' words.

Owns: the table of foreign words (Docker Compose, containerlab, netplan, Mininet).
Must not: decide whether something is valid.
"""

from __future__ import annotations

from collections.abc import Iterable

from netns_orch.labfile.nodes import shown

_MOST_COMPARED = 2000


def nearest(word: str, names: Iterable[str]) -> str | None:
    """The name that ``word`` was most likely meant to be."""
    fitting = [name for name in names if abs(len(name) - len(word)) <= 3][:_MOST_COMPARED]
    folded = word.lower().replace("-", "_")
    for name in fitting:
        if name.lower().replace("-", "_") == folded:
            return name
    import difflib

    found = difflib.get_close_matches(word[:80], fitting, n=1, cutoff=0.6)
    return found[0] if found else None


def mean(word: str, names: Iterable[str]) -> str | None:
    """``did you mean 'x'?``, or None."""
    name = nearest(word, names)
    return f"did you mean {shown(name)}?" if name else None


def one_of(names: Iterable[str], most: int = 12) -> str | None:
    """The valid names, where there are few enough to print."""
    listed = list(names)
    if not listed:
        return None
    more = f" and {len(listed) - most} more" if len(listed) > most else ""
    return "it can be " + ", ".join(listed[:most]) + more


TOP = {
    "services": "the nodes of a lab are `containers`",
    "nodes": "the nodes of a lab are `containers`",
    "hosts": "the nodes of a lab are `containers`",
    "vms": "the nodes of a lab are `containers`",
    "machines": "the nodes of a lab are `containers`",
    "routers": "a router is a container with `router: true`",
    "interfaces": "interfaces come from `links`; those made inside stand in a container's `interfaces`",
    "topology": "`containers` and `links` stand at the top level",
    "networks": "a network is a bridge in `bridges`, and a cable to it in `links`",
    "network": "a network is a bridge in `bridges`, and a cable to it in `links`",
    "switches": "a switch is a bridge without an address, in `bridges`",
    "edges": "cables are `links`",
    "cables": "cables are `links`",
    "volumes": 'volumes stand in a container: `volumes: ["data:/var/lib/x"]` makes a named one',
    "version": "the format has no version: leave it out",
    "configs": "write files with a container's `files`",
    "secrets": "write files with a container's `files`",
    "include": "one lab is one file; `netorch` takes values by ${VAR} and --var",
    "mgmt": "there is no management network: a lab has exactly the interfaces of the file",
    "tests": "what `netorch test` proves stands in `checks`",
    "iptables": "the host's rules stand in `host`, a container's in the container",
    "sysctls": "the host's sysctls stand in `host`, a container's in the container",
    "routes": "the host's routes stand in `host`, a container's in the container",
    "ethernets": "interfaces come from `links`",
    "groups": "`scale` makes a group; `labels` mark containers",
}
CONTAINER = {
    "networks": "a container is wired in `links`: [red, br0]",
    "links": "cables stand at the top level: `links: [[red, br0]]`",
    "network_mode": "`namespaces: {net: container:NAME}` shares a network; `links` make one",
    "network-mode": "`namespaces: {net: container:NAME}` shares a network; `links` make one",
    "binds": 'bind mounts are `volumes`: ["./www:/srv/www:ro"]',
    "mounts": "bind mounts are `volumes`, memory file systems `tmpfs`",
    "mem_limit": "it is `resources: {memory: 200M}`",
    "memory": "it is `resources: {memory: 200M}`",
    "mem_reservation": "there is `resources: {memory_high: 150M}`",
    "memswap_limit": "it is `resources: {swap: 0}`",
    "cpus": "it is `resources: {cpus: 0.5}`",
    "cpu": "it is `resources: {cpus: 0.5}`",
    "cpu_shares": "it is `resources: {cpu_weight: 100}`, 1 to 10000",
    "cpu_quota": "it is `resources: {cpus: 0.5}`",
    "cpuset": 'it is `resources: {cpuset: "0"}`',
    "cpu-set": 'it is `resources: {cpuset: "0"}`',
    "pids_limit": "it is `resources: {pids: 64}`",
    "limits": "limits are `resources`, or `ulimits` for those of setrlimit(2)",
    "deploy": "limits are `resources`, copies are `scale`",
    "replicas": "it is `scale`",
    "blkio_config": "it is `resources: {io: [...]}`",
    "healthcheck": "it is `ready`: {tcp: 80}, {exec: [...]}, {log: ...} or {file: ...}",
    "kind": "a container has no kind: its root is `rootfs` or `image`",
    "exec": "commands run after wiring are `setup`",
    "cmd": "it is `command`",
    "args": "it is `command`",
    "entrypoint": "it is `command`, whole",
    "env": "it is `environment`",
    "env-files": "it is `env_file`",
    "container_name": "a container's name is its key in `containers`",
    "name": "a container's name is its key in `containers`",
    "expose": "nothing is hidden between containers; to publish on the host: `ports`",
    "ip": "an address stands in `links`: [red: 10.0.0.2/24, br0]",
    "address": "an address stands in `links`: [red: 10.0.0.2/24, br0]",
    "ipv4_address": "an address stands in `links`: [red: 10.0.0.2/24, br0]",
    "addresses": "an address stands in `links`: [red: 10.0.0.2/24, br0]",
    "mac_address": "it stands in `links`: [red: {mac: 02:00:00:00:00:01}, br0]",
    "mgmt-ipv4": "there is no management network: a lab has exactly the interfaces of the file",
    "startup-config": "write files with `files`, run commands with `setup`",
    "gateway": "a default route comes by the bridge, or from `routes: [default via 10.0.0.1]`",
    "default_gateway": "a default route comes by the bridge, or from `routes: [default via 10.0.0.1]`",
    "dns_servers": "it is `dns`",
    "workdir": "it is `working_dir`",
    "cwd": "it is `working_dir`",
    "stop_timeout": "it is `stop_grace_period`",
    "security_opt": "there is `seccomp`: default, unconfined or a profile",
    "capabilities": "there are `cap_add` and `cap_drop`",
    "caps": "there are `cap_add` and `cap_drop`",
    "userns_mode": "it is `namespaces: {user: true}`",
    "user_namespace": "it is `namespaces: {user: true}`",
    "pid": "a container always has a pid namespace of its own",
    "ipc": "a container always has an ipc namespace of its own",
    "tty": "`netorch exec -it` and `netorch shell` give a terminal",
    "stdin_open": "`netorch exec -i` gives standard input",
    "build": "netorch builds no images; `image` takes one that is built, such as docker-daemon:NAME:latest",
    "pull_policy": "an image is fetched where it is not here, with `netorch up --pull` always",
    "forwarding": "it is `router: true`",
    "ip_forward": "it is `router: true`",
    "restart_policy": "it is `restart`",
    "logging": "`netorch logs` shows the output of `command`",
    "firewall": "it is `iptables`, `ip6tables` or `nftables`",
    "on-failure": "it is `restart: on-failure`",
    "root": "it is `rootfs`",
    "count": "it is `scale`",
    "type": "a container has no type: `router: true` makes it forward packets",
    "extra-hosts": "it is `extra_hosts`",
    "init_commands": "it is `setup`",
    "post_up": "it is `setup`",
}
BRIDGE = {
    "ip": "it is `address`",
    "addresses": "it is `address`, one or a list",
    "gateway4": "the host's own address on the bridge is `address`",
    "nat": "it is `forward: nat`",
    "masquerade": "it is `forward: nat`",
    "internal": "it is `forward: none`",
    "driver": "every bridge is a Linux bridge: leave it out",
    "ipam": "it is `subnet` or `address`",
    "interfaces": "what is plugged into a bridge stands in `links`",
    "ports": "what is plugged into a bridge stands in `links`",
    "name": "a bridge's name is its key; its name on the host is `ifname`",
    "vlan_filtering": "it is on when a link has `vlan` or `trunk` at the bridge's end",
}
LINK = {
    "latency": "it is `delay`",
    "bandwidth": "it is `rate`",
    "bw": "it is `rate`",
    "packet_loss": "it is `loss`",
    "type": "a link is a cable between its two `endpoints`",
    "source": "both ends stand in `endpoints: [red, blue]`",
    "target": "both ends stand in `endpoints: [red, blue]`",
    "nodes": "both ends stand in `endpoints: [red, blue]`",
    "interfaces": "both ends stand in `endpoints: [red, blue]`",
    "mac": "it stands at one end: `- red: {mac: 02:00:00:00:00:01}`",
    "vlan": "it stands at the bridge's end: `- lan: {vlan: 10}`",
    "trunk": "it stands at the bridge's end: `- lan: {trunk: [10, 20]}`",
}
END = {
    "ip": "it is `address`",
    "addresses": "it is `address`, one or a list",
    "latency": "it is `delay`",
    "bandwidth": "it is `rate`",
    "mtu": "it stands at the link, for both ends",
    "name": "the interface's name follows the node's: `red:eth2: {...}`",
    "interface": "the interface's name follows the node's: `red:eth2: {...}`",
}
RESOURCES = {
    "cpu": "it is `cpus`",
    "mem": "it is `memory`",
    "mem_limit": "it is `memory`",
    "limits": "the limits stand in `resources` itself",
    "reservations": "there is `memory_high`",
    "pids_limit": "it is `pids`",
    "cpu_shares": "it is `cpu_weight`, 1 to 10000",
    "memory_swap": "it is `swap`",
}
