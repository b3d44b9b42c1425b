"""What the kernel's own files say of a container's cgroups, on v1 and v2 alike."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from support.runner import Netorch

FILES = {
    "cpu_seconds": ("cpuacct.usage", "cpu.stat"),
    "quota": ("cpu.cfs_quota_us", "cpu.max"),
    "weight": ("cpu.shares", "cpu.weight"),
    "cpuset": ("cpuset.cpus", "cpuset.cpus"),
    "memory": ("memory.limit_in_bytes", "memory.max"),
    "memory and swap": ("memory.memsw.limit_in_bytes", "memory.swap.max"),
    "memory in use": ("memory.usage_in_bytes", "memory.current"),
    "high": ("none on v1", "memory.high"),
    "pids": ("pids.max", "pids.max"),
    "processes": ("pids.current", "pids.current"),
    "read_bps": ("blkio.throttle.read_bps_device", "io.max"),
    "write_iops": ("blkio.throttle.write_iops_device", "io.max"),
}
"""The file on v1, and on v2."""


class Cgroups:
    """The cgroup directories of one container of a lab that is up, as ``inspect`` names them."""

    def __init__(self, netorch: Netorch, node: str) -> None:
        paths: dict[str, Any] = netorch("inspect", node).json()["cgroup"]
        self.v1 = [Path(path) for path in paths["v1"]]
        self.v2 = Path(paths["v2"]) if paths["v2"] else None

    def file(self, what: str) -> Path:
        """The file that has it on this host."""
        v1, v2 = FILES[what]
        for directory in self.v1:
            if (directory / v1).exists():
                return directory / v1
        assert self.v2 is not None, f"no hierarchy has {what}"
        return self.v2 / v2

    def read(self, what: str) -> str:
        """What the kernel says."""
        return self.file(what).read_text().strip()

    def favour(self) -> None:
        """Give it all the CPU that it may have, whatever else this machine does now.

        It, and all cgroups above it that are the tests' own, get the greatest weight.
        """
        file = self.file("weight")
        for directory in (file.parent, *file.parent.parents):
            if (directory / file.name).exists():
                (directory / file.name).write_text("262144" if file.name == "cpu.shares" else "10000")
            if directory.name.startswith("netorch-tests"):
                return

    def cpu_seconds(self) -> float:
        """CPU time used so far."""
        file = self.file("cpu_seconds")
        text = file.read_text()
        if file.name == "cpuacct.usage":
            return int(text) / 1e9
        return int(text.split("usage_usec ", 1)[1].split()[0]) / 1e6


def on_v2(controller: str) -> bool:
    """Whether a controller is on cgroup v2 here."""
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, names, _ = line.split(":", 2)
        if controller in names.split(","):
            return False
    return True
