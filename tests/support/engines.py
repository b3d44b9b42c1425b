"""What other programs put into a host's firewall, as they put it: none of them can run here.

Docker: the rules of moby 20 and 28 (libnetwork/iptables).  podman: netavark's nftables driver.  libvirt: its
iptables and nftables drivers.  firewalld: 1.3's ``build_default_rules`` with ``public`` as default zone.
ufw: ``before.rules`` and the jumps of ``ufw-init``.  Those that have a bridge have a guest behind it, reached
from the outside at one UDP port of the host.
"""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field

from support.outer import run

GUEST_PORT = 4000


@dataclass(frozen=True)
class Engine:
    """One program, and what it has made on the host."""

    name: str
    bridge: str = ""
    subnet: str = ""
    """The first three octets."""
    port: int = 0
    """Of the host; it leads to GUEST_PORT of the guest."""
    iptables: Mapping[str, str] = field(default_factory=dict)
    """By table, in the form of iptables-save."""
    nft: str = ""

    @property
    def guest(self) -> str:
        """The address of what runs behind its bridge."""
        return f"{self.subnet}.2"

    def start(self, variant: str = "nft") -> None:
        """Put the rules into the host's tables; what others have there stays, but for its own chains."""
        for table, text in self.iptables.items():
            _restore(variant, f"*{table}\n{self._filled(text)}COMMIT\n", "--noflush")
        if self.nft:
            subprocess.run(["nft", "-f", "-"], input=self._filled(self.nft), text=True, check=True)

    def _filled(self, text: str) -> str:
        words = {"BRIDGE": self.bridge, "NET": self.subnet, "GPORT": str(GUEST_PORT), "PORT": str(self.port)}
        for word, meant in words.items():
            text = text.replace(f"@{word}", meant)
        return text.strip() + "\n"


def flush(variant: str = "nft") -> None:
    """Take away what iptables can: of legacy ones empty tables stay, of nft's nothing."""
    if variant == "nft":
        for table in ("raw", "nat", "filter"):
            subprocess.run(["nft", "delete", "table", "ip", table], capture_output=True, check=False)
        return
    for table, chains in _BUILT_IN.items():
        policies = "".join(f":{chain} ACCEPT [0:0]\n" for chain in chains)
        _restore(variant, f"*{table}\n{policies}COMMIT\n")


def picture() -> str:
    """All rules of the host, as the programs print them, without counters."""
    legacy = [run("iptables-legacy-save", "-t", table) for table in _BUILT_IN]
    lines = "".join([*legacy, run("nft", "-s", "list", "ruleset")]).splitlines()
    return "\n".join(line.partition(" [")[0] for line in lines if not line.startswith("#"))


_BUILT_IN = {
    "raw": ("PREROUTING", "OUTPUT"),
    "nat": ("PREROUTING", "INPUT", "OUTPUT", "POSTROUTING"),
    "filter": ("INPUT", "FORWARD", "OUTPUT"),
}


def _restore(variant: str, text: str, *options: str) -> None:
    argv = [f"iptables-{variant}-restore", *options]
    subprocess.run(argv, input=text, text=True, check=True, capture_output=True)


_DOCKER_NAT = """
:DOCKER - [0:0]
-A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER
-A OUTPUT ! -d 127.0.0.0/8 -m addrtype --dst-type LOCAL -j DOCKER
-A POSTROUTING -s @NET.0/16 ! -o @BRIDGE -j MASQUERADE
-A DOCKER ! -i @BRIDGE -p udp -m udp --dport @PORT -j DNAT --to-destination @NET.2:@GPORT
"""
_DOCKER_20 = """
:FORWARD DROP [0:0]
:DOCKER - [0:0]
:DOCKER-ISOLATION-STAGE-1 - [0:0]
:DOCKER-ISOLATION-STAGE-2 - [0:0]
:DOCKER-USER - [0:0]
-A FORWARD -j DOCKER-USER
-A FORWARD -j DOCKER-ISOLATION-STAGE-1
-A FORWARD -o @BRIDGE -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A FORWARD -o @BRIDGE -j DOCKER
-A FORWARD -i @BRIDGE ! -o @BRIDGE -j ACCEPT
-A FORWARD -i @BRIDGE -o @BRIDGE -j ACCEPT
-A DOCKER -d @NET.2/32 ! -i @BRIDGE -o @BRIDGE -p udp -m udp --dport @GPORT -j ACCEPT
-A DOCKER-ISOLATION-STAGE-1 -i @BRIDGE ! -o @BRIDGE -j DOCKER-ISOLATION-STAGE-2
-A DOCKER-ISOLATION-STAGE-1 -j RETURN
-A DOCKER-ISOLATION-STAGE-2 -o @BRIDGE -j DROP
-A DOCKER-ISOLATION-STAGE-2 -j RETURN
-A DOCKER-USER -j RETURN
"""
_DOCKER_28 = """
:FORWARD DROP [0:0]
:DOCKER - [0:0]
:DOCKER-BRIDGE - [0:0]
:DOCKER-CT - [0:0]
:DOCKER-FORWARD - [0:0]
:DOCKER-INTERNAL - [0:0]
:DOCKER-USER - [0:0]
-A FORWARD -j DOCKER-USER
-A FORWARD -j DOCKER-FORWARD
-A DOCKER -d @NET.2/32 ! -i @BRIDGE -o @BRIDGE -p udp -m udp --dport @GPORT -j ACCEPT
-A DOCKER ! -i @BRIDGE -o @BRIDGE -j DROP
-A DOCKER-BRIDGE -o @BRIDGE -j DOCKER
-A DOCKER-CT -o @BRIDGE -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A DOCKER-FORWARD -j DOCKER-CT
-A DOCKER-FORWARD -j DOCKER-INTERNAL
-A DOCKER-FORWARD -j DOCKER-BRIDGE
-A DOCKER-FORWARD -i @BRIDGE -j ACCEPT
"""
_DOCKER_RAW = "-A PREROUTING -d @NET.2/32 ! -i @BRIDGE -j DROP"
DOCKER_20 = Engine("docker", "docker0", "172.17.0", 5000, {"nat": _DOCKER_NAT, "filter": _DOCKER_20})
DOCKER_28 = Engine(
    "docker", "docker0", "172.17.0", 5000, {"raw": _DOCKER_RAW, "nat": _DOCKER_NAT, "filter": _DOCKER_28}
)

PODMAN = Engine(
    "podman",
    "podman0",
    "10.88.0",
    5002,
    nft="""
table inet netavark {
  chain FORWARD {
    type filter hook forward priority filter; policy accept;
    ct state invalid drop
    jump NETAVARK-ISOLATION-1
    ip daddr @NET.0/16 ct state established,related accept
    ip saddr @NET.0/16 accept
  }
  chain POSTROUTING {
    type nat hook postrouting priority srcnat; policy accept;
    meta mark & 0x00002000 == 0x00002000 masquerade
    ip saddr @NET.0/16 jump nv_2f259bab_10_88_0_0_nm16
  }
  chain PREROUTING {
    type nat hook prerouting priority dstnat; policy accept;
    fib daddr type local jump NETAVARK-HOSTPORT-DNAT
  }
  chain OUTPUT {
    type nat hook output priority -100; policy accept;
    fib daddr type local jump NETAVARK-HOSTPORT-DNAT
  }
  chain NETAVARK-HOSTPORT-DNAT {
    udp dport @PORT dnat ip to @NET.2:@GPORT
  }
  chain NETAVARK-ISOLATION-1 {
  }
  chain nv_2f259bab_10_88_0_0_nm16 {
    ip daddr @NET.0/16 accept
    ip daddr != 224.0.0.0/4 masquerade
  }
}
""",
)

LIBVIRT = Engine(
    "libvirt",
    "virbr0",
    "192.168.122",
    5003,
    {
        "nat": """
:LIBVIRT_PRT - [0:0]
-A POSTROUTING -j LIBVIRT_PRT
-A PREROUTING -p udp -m addrtype --dst-type LOCAL -m udp --dport @PORT -j DNAT --to-destination @NET.2:@GPORT
-A LIBVIRT_PRT -s @NET.0/24 -d 224.0.0.0/24 -j RETURN
-A LIBVIRT_PRT -s @NET.0/24 ! -d @NET.0/24 -j MASQUERADE
""",
        "filter": """
:LIBVIRT_FWI - [0:0]
:LIBVIRT_FWO - [0:0]
:LIBVIRT_FWX - [0:0]
-I FORWARD -j LIBVIRT_FWO
-I FORWARD -j LIBVIRT_FWI
-I FORWARD -j LIBVIRT_FWX
-A LIBVIRT_FWI -p udp -d @NET.2/32 -o @BRIDGE -m udp --dport @GPORT -m conntrack --ctstate DNAT -j ACCEPT
-A LIBVIRT_FWI -d @NET.0/24 -o @BRIDGE -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A LIBVIRT_FWI -o @BRIDGE -j REJECT --reject-with icmp-port-unreachable
-A LIBVIRT_FWO -s @NET.0/24 -i @BRIDGE -j ACCEPT
-A LIBVIRT_FWO -i @BRIDGE -j REJECT --reject-with icmp-port-unreachable
-A LIBVIRT_FWX -i @BRIDGE -o @BRIDGE -j ACCEPT
""",
    },
)
"""The two rules about a port are what its manual tells users to add in a hook."""
LIBVIRT_NFT = Engine(
    "libvirt",
    "virbr0",
    "192.168.122",
    5003,
    nft="""
table ip libvirt_network {
  chain forward {
    type filter hook forward priority filter; policy accept;
    counter jump guest_cross
    counter jump guest_input
    counter jump guest_output
  }
  chain guest_output {
    ip saddr @NET.0/24 iifname "@BRIDGE" counter accept
    iifname "@BRIDGE" counter reject
  }
  chain guest_input {
    oifname "@BRIDGE" ct status dnat counter accept
    oifname "@BRIDGE" ip daddr @NET.0/24 ct state established,related counter accept
    oifname "@BRIDGE" counter reject
  }
  chain guest_cross {
    iifname "@BRIDGE" oifname "@BRIDGE" counter accept
  }
  chain guest_nat {
    type nat hook postrouting priority srcnat; policy accept;
    ip saddr @NET.0/24 ip daddr 224.0.0.0/24 counter return
    ip saddr @NET.0/24 ip daddr != @NET.0/24 counter masquerade
  }
  chain port {
    type nat hook prerouting priority dstnat; policy accept;
    fib daddr type local udp dport @PORT dnat to @NET.2:@GPORT
  }
}
""",
)

UFW = Engine(
    "ufw",
    iptables={
        "filter": """
:FORWARD DROP [0:0]
:ufw-before-logging-forward - [0:0]
:ufw-before-forward - [0:0]
:ufw-after-forward - [0:0]
:ufw-after-logging-forward - [0:0]
:ufw-reject-forward - [0:0]
:ufw-track-forward - [0:0]
:ufw-user-forward - [0:0]
-A FORWARD -j ufw-before-logging-forward
-A FORWARD -j ufw-before-forward
-A FORWARD -j ufw-after-forward
-A FORWARD -j ufw-after-logging-forward
-A FORWARD -j ufw-reject-forward
-A FORWARD -j ufw-track-forward
-A ufw-before-forward -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A ufw-before-forward -p icmp -m icmp --icmp-type 8 -j ACCEPT
-A ufw-before-forward -j ufw-user-forward
"""
    },
)

FIREWALLD = Engine(
    "firewalld",
    nft="""
table inet firewalld {
  chain filter_FORWARD {
    type filter hook forward priority filter + 10; policy accept;
    ct state { established, related } accept
    ct status dnat accept
    iifname "lo" accept
    ct state { invalid } drop
    ip6 daddr { ::/96, 2002::/24 } reject with icmpv6 type addr-unreachable
    jump filter_FORWARD_ZONES
    reject with icmpx type admin-prohibited
  }
  chain filter_FORWARD_POLICIES_pre {
  }
  chain filter_FORWARD_ZONES {
    iifname "uplink" goto filter_FWD_public
    goto filter_FWD_public
  }
  chain filter_FORWARD_POLICIES_post {
  }
  chain filter_FWD_public {
    jump filter_FORWARD_POLICIES_pre
    jump filter_FWD_public_allow
    jump filter_FORWARD_POLICIES_post
    meta l4proto { icmp, ipv6-icmp } accept
    reject with icmpx type admin-prohibited
  }
  chain filter_FWD_public_allow {
    oifname "uplink" accept
  }
  chain filter_FWD_trusted {
    jump filter_FORWARD_POLICIES_pre
    jump filter_FORWARD_POLICIES_post
    accept
  }
}
""",
)
