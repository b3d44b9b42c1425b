"""What looks like ours and bears no mark of this lab is never touched, whatever command runs."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from support import cgroups, snapshot, view
from support.outer import run
from support.runner import Netorch

from netns_orch.resources import GROUP_FIRST

pytestmark = [pytest.mark.kernel, view.ON_THE_HOST]
LAB = """
name: office
bridges: {br0: 10.60.0.1/24}
containers:
  red: {iptables: ["-A INPUT -p tcp --dport 1 -j DROP"], resources: {pids: 64}}
  blue: {command: [sleep, infinity]}
links: [[red, br0], [blue, br0]]
host: {iptables: ["-A FORWARD -i br0 -p udp --dport 1 -j DROP"]}
"""
ANOTHER_HOST = "fffffff"
"""The id of a host namespace that there is not: marks with it are another lab's."""
NFT = f"""
add table inet netorch_shop
add chain inet netorch_shop about
add chain inet netorch_shop forward {{ type filter hook forward priority 0; policy accept; }}
add rule inet netorch_shop forward iifname "office-br0" counter accept comment "netorch"
add table ip netorch_office2
add chain ip netorch_office2 about
add rule ip netorch_office2 about continue comment "lab=office id={ANOTHER_HOST} digest=0"
"""


@pytest.fixture
def decoys(tmp_path: Path) -> Iterator[None]:
    """Things of every kind with names like ours."""
    links = ["office-br1", "netorch0", "vredoffice"]
    run("ip", "link", "add", links[0], "group", str(GROUP_FIRST + 7), "type", "bridge")
    run("ip", "link", "property", "add", "dev", links[0], "altname", f"netorch.office.{ANOTHER_HOST}.b.br0")
    run("ip", "link", "add", links[1], "type", "bridge", "stp_state", "1")
    run("ip", "link", "property", "add", "dev", links[1], "altname", "netorch.office")
    run("ip", "address", "add", "10.61.0.1/24", "dev", links[1])
    run("ip", "link", "add", links[2], "master", links[0], "type", "veth", "peer", "name", "vblueoffice")
    run("ip", "netns", "add", "office.green")
    Path("/run/netns/office.grey").symlink_to("/proc/self/ns/net")
    subprocess.run(["nft", "-f", "-"], input=NFT, text=True, check=True)
    for rule in ("-N netorch_office", "-A netorch_office -i office-br0 -j ACCEPT", "-P FORWARD DROP"):
        run("iptables-nft", *rule.split())
    comment = ["-m", "comment", "--comment", f"netorch.office.{ANOTHER_HOST}"]
    run("iptables-nft", "-A", "FORWARD", "-i", "office-br0", *comment, "-j", "ACCEPT")
    tops = [position.directory / "netorch" for position in cgroups.positions()]
    for top in tops:
        (top / f"office.{ANOTHER_HOST}" / "red").mkdir(parents=True)
        os.setxattr(top, "trusted.note", b"not netorch's")
    Path("/run/netorch-office").mkdir()
    script = tmp_path / "netorch-zygote"
    shutil.copy("/bin/sleep", script)
    with subprocess.Popen([script, "infinity"], cwd="/run/netorch-office") as process:
        (tops[-1] / f"office.{ANOTHER_HOST}" / "red" / "cgroup.procs").write_text(str(process.pid))
        yield
        process.kill()
    for top in tops:
        for directory in (top / f"office.{ANOTHER_HOST}" / "red", top / f"office.{ANOTHER_HOST}", top):
            directory.rmdir()
    Path("/run/netorch-office").rmdir()
    run("nft", "flush", "ruleset")
    Path("/run/netns/office.grey").unlink()
    run("ip", "netns", "del", "office.green")
    subprocess.run(["umount", "/run/netns"], stderr=subprocess.DEVNULL, check=False)
    Path("/run/netns").rmdir()
    for link in links:
        run("ip", "link", "del", link)


def _attributes() -> dict[str, str]:
    """Extended attributes and modes of the decoys' cgroups, which a snapshot leaves out."""
    found = {}
    for position in cgroups.positions():
        for directory in cgroups.directories(position):
            names = {name: os.getxattr(directory, name).hex() for name in os.listxattr(directory)}
            found[f"attributes {directory}"] = f"{names} {directory.stat().st_mode:o}"
    return found


COMMANDS = """
link red br0 down --lab office
link red br0 up --lab office
exec red true
restart blue
pause blue
unpause blue
status office
ps office
ls
inspect office
gc
"""
END = ["down --all", "down office", "gc"]


def test_decoys_are_unchanged(netorch: Netorch, decoys: None) -> None:
    before, attributes = snapshot.take(), _attributes()
    file = netorch.write(LAB)
    netorch("up", file)
    netorch.write(LAB.replace("pids: 64", "pids: 65").replace("dport 1 ", "dport 2 "))
    netorch("up", file)
    commands = COMMANDS.strip().splitlines()
    for command in (*commands, *END):
        netorch(*command.split())
    snapshot.assert_equal(before)
    netorch("up", "--private", file)
    for command in END:
        netorch(*command.split())
    snapshot.assert_equal(before)
    assert _attributes() == attributes
    print(f"{3 + len(commands) + 2 * len(END)} commands: all decoys unchanged")
