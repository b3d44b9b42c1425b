"""What the topologies need beyond a bare host, and why a test of one can't run here."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from support.runner import Netorch

ABOUT_NETWORKS = {
    *("leaf-spine", "wan", "vlans", "spanning-tree", "two-homes", "dmz", "ipv6-only", "dns"),
    *("policy-routing", "load-balancer", "frr-ospf", "frr-ospf-failover", "frr-bgp", "vpn", "vxlan"),
}
"""The topologies of ``test_topologies_net``, which brings each up once and looks at all of it."""
PACKAGES = {
    "dns": "dnsmasq-base",
    "frr-bgp": "frr",
    "frr-ospf": "frr",
    "frr-ospf-failover": "frr",
    "load-balancer": "nginx-light",
    "vpn": "wireguard-go",
}
"""The Debian package that a topology's containers run a program of."""
PROGRAMS = {
    "dnsmasq-base": "dnsmasq",
    "frr": "vtysh",
    "nginx-light": "nginx",
    "wireguard-go": "wireguard-go",
}
_PATH = os.pathsep.join((os.environ.get("PATH", ""), "/usr/local/sbin", "/usr/sbin", "/sbin"))


def can_run(netorch: Netorch, file: Path, *, programs: bool = True) -> None:
    """Skip the test where the kernel lacks what the lab file asks for, or a package is not installed."""
    package = PACKAGES.get(file.stem) if programs else None
    if package is not None and shutil.which(PROGRAMS[package], path=_PATH) is None:
        pytest.skip(f"{file.name} needs the Debian package {package} (scripts/install-deps)")
    for error in netorch("validate", "--json", file, code=None).json()["errors"]:
        if error["what"].startswith("this host lacks "):
            pytest.skip(error["what"])
