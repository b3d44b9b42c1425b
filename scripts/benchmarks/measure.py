"""What is measured, and how: wall time, CPU time of everything that a command started, memory.

Everything runs in network and mount namespaces of its own, so that nothing of the machine is touched.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

INSIDE = "NETORCH_BENCH_INSIDE"
"""In the environment of the process that is in the namespaces already."""
_QUIET, _WINDOW, _PATIENCE = 0.15, 0.4, 20.0
"""Share of the CPUs in use below which the machine counts as quiet; seconds to look; seconds to wait."""


def enter_namespaces() -> None:
    """Go on as the same command in new network, mount and UTS namespaces, with a /run of its own."""
    if os.environ.get(INSIDE):
        return
    if os.geteuid() != 0:
        sys.exit("scripts/bench needs root: labs are made of namespaces, interfaces and cgroups")
    script = 'mount -t tmpfs -o size=75% tmpfs /run && mkdir /run/lock && ip link set lo up && exec "$@"'
    os.environ[INSIDE] = "1"
    unshare = ["unshare", "--net", "--mount", "--uts", "--propagation", "private", "sh", "-c", script, "sh"]
    os.execvp("unshare", [*unshare, sys.executable, *sys.argv])


class CpuClock:
    """CPU seconds of this process and all that ever came from it, also of what nobody waited for.

    By a cgroup of its own (cpuacct) where that is v1; else by the whole machine's: then it has to be idle.
    """

    def __init__(self) -> None:
        self._own: Path | None = None
        self._home: Path | None = None

    def __enter__(self) -> CpuClock:
        for line in Path("/proc/self/cgroup").read_text().splitlines():
            _, names, position = line.split(":", 2)
            for mount in (f"/sys/fs/cgroup/{names}", "/sys/fs/cgroup/cpuacct"):
                home = Path(mount + position)
                if "cpuacct" in names.split(",") and (home / "cpuacct.usage").exists():
                    self._home, self._own = home, home / f"netorch-bench.{os.getpid()}"
                    self._own.mkdir()
                    (self._own / "cgroup.procs").write_text("0")
                    return self
        return self

    def __exit__(self, *_: object) -> None:
        if self._own is not None and self._home is not None:
            (self._home / "cgroup.procs").write_text("0")
            for directory in (*sorted(self._own.rglob("*"), reverse=True), self._own):
                if directory.is_dir():
                    directory.rmdir()

    @property
    def is_own(self) -> bool:
        """Whether it counts nothing but this process and its descendants."""
        return self._own is not None

    def now(self) -> float:
        """Seconds so far."""
        if self._own is not None:
            return int((self._own / "cpuacct.usage").read_text()) / 1e9
        busy, _ = _cpu_ticks()
        return busy / os.sysconf("SC_CLK_TCK")


def _cpu_ticks() -> tuple[int, int]:
    with open("/proc/stat") as file:
        fields = [int(word) for word in file.readline().split()[1:9]]
    return sum(fields) - fields[3] - fields[4], sum(fields)


def wait_for_quiet() -> float:
    """Wait (a while) until others leave the CPUs alone; the share that they still use."""
    deadline = time.monotonic() + _PATIENCE
    while True:
        busy, total = _cpu_ticks()
        time.sleep(_WINDOW)
        busy_now, total_now = _cpu_ticks()
        share = (busy_now - busy) / max(1, total_now - total)
        if share < _QUIET or time.monotonic() > deadline:
            return share


@dataclass
class Sample:
    """One measurement: seconds on the wall, and of CPU where that was counted."""

    wall: float
    cpu: float | None = None


@dataclass
class Series:
    """All samples of one thing."""

    samples: list[Sample] = field(default_factory=list)

    @property
    def wall(self) -> float:
        """Median of the wall times."""
        return statistics.median(sample.wall for sample in self.samples)

    @property
    def cpu(self) -> float | None:
        """Median of the CPU times."""
        known = [sample.cpu for sample in self.samples if sample.cpu is not None]
        return statistics.median(known) if known else None

    def as_json(self) -> dict[str, object]:
        """Medians, minima and every sample (seconds)."""
        walls = [sample.wall for sample in self.samples]
        cpus = [sample.cpu for sample in self.samples if sample.cpu is not None]
        return {
            "wall": self.wall,
            "wall_min": min(walls),
            "cpu": self.cpu,
            "cpu_min": min(cpus) if cpus else None,
            "walls": walls,
            "cpus": cpus,
        }


def timed(clock: CpuClock, action: Callable[[], object]) -> Sample:
    """How long ``action`` takes."""
    cpu, began = clock.now(), time.monotonic()
    action()
    wall = time.monotonic() - began
    return Sample(wall, clock.now() - cpu)


def run(argv: list[str], **options: object) -> subprocess.CompletedProcess[str]:
    """Run a command; what it said is in the error where it fails."""
    done = subprocess.run(argv, capture_output=True, text=True, stdin=subprocess.DEVNULL, **options)  # type: ignore[call-overload]
    if done.returncode != 0:
        raise RuntimeError(
            f"{' '.join(argv)}: exit code {done.returncode}\n{done.stdout}{done.stderr}".strip()
        )
    return done  # type: ignore[no-any-return]


def pss(pids: list[int]) -> int:
    """Proportional set size of these processes in bytes (proc_pid_smaps(5))."""
    total = 0
    for pid in pids:
        with suppress(OSError):
            for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
                if line.startswith("Pss:"):
                    total += int(line.split()[1]) * 1024
    return total


def descendants(of: int) -> list[int]:
    """A process and all that came from it and still has it for an ancestor."""
    children: dict[int, list[int]] = {}
    for entry in os.listdir("/proc"):
        if entry.isdecimal():
            with suppress(OSError, ValueError):
                stat = Path(f"/proc/{entry}/stat").read_text()
                children.setdefault(int(stat.rpartition(")")[2].split()[1]), []).append(int(entry))
    found, left = [], [of]
    while left:
        pid = left.pop()
        found.append(pid)
        left += children.get(pid, [])
    return found


def kernel_memory() -> int:
    """What the kernel holds for itself, in bytes: slab, stacks, page tables, per-CPU areas, tmpfs."""
    total = 0
    for line in Path("/proc/meminfo").read_text().splitlines():
        name, _, value = line.partition(":")
        if name in ("Slab", "KernelStack", "PageTables", "Percpu", "Shmem"):
            total += int(value.split()[0]) * 1024
    return total


@contextmanager
def many_files() -> Iterator[None]:
    """The floor holds a descriptor for each container."""
    import resource

    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (before[1], before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
