"""Who is measured: netorch, the floor, and peers, each with the same job as far as it can do it.

The job: N containers on one bridge with NAT, an address of a /16 and a default route each.  ``up`` is timed
from the shell: with the start of the interpreter, where there is one.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.measure import CpuClock, Sample, descendants, kernel_memory, pss, run, timed

HERE = Path(__file__).resolve().parent
NETWORK, GATEWAY = "10.200.0.0/16", "10.200.0.1"
_EXECS = 9


def address(number: int) -> str:
    """The address of container ``number`` (from 1)."""
    return f"10.200.{(number + 1) >> 8}.{(number + 1) & 255}"


class Contestant:
    """One who can build and remove the lab."""

    name = ""
    isolates = ""
    """What of a container's it isolates."""
    most = 1000
    """The largest lab it is asked for: what takes minutes tells nothing more."""

    def __init__(self, clock: CpuClock, directory: Path) -> None:
        self.clock = clock
        self.directory = directory
        """An empty one of its own, on a tmpfs."""

    def missing(self) -> str | None:
        """Why it can't be measured here."""
        return None

    def prepare(self) -> None:
        """Once, before all."""

    def close(self) -> None:
        """Once, after all."""

    def up(self, count: int) -> Sample:
        """Build it."""
        raise NotImplementedError

    def down(self) -> Sample:
        """Remove it."""
        raise NotImplementedError

    def execute(self) -> Sample | None:
        """Run ``true`` in a container: the median of several; None where that means nothing."""
        return None

    def memory(self) -> int | None:
        """What stays running, PSS in bytes; None where nothing does."""
        return None

    def _executed(self, argv: list[str]) -> Sample:
        samples = [timed(self.clock, lambda: run(argv)) for _ in range(_EXECS)]
        return Sample(
            statistics.median(s.wall for s in samples), statistics.median(s.cpu or 0 for s in samples)
        )


class Netorch(Contestant):
    """netorch, as it is typed at the shell."""

    name = "netorch"
    isolates = "mnt, uts, ipc, pid, net, cgroup; overlay root; confined"

    def __init__(self, clock: CpuClock, directory: Path) -> None:
        super().__init__(clock, directory)
        self.count = 0
        self.kernel = 0

    def missing(self) -> str | None:
        return None if self.program() else "netorch is not installed beside this Python, nor on PATH"

    def program(self) -> str | None:
        """The command of this very environment."""
        beside = Path(sys.executable).parent / "netorch"
        return str(beside) if beside.exists() else shutil.which("netorch")

    def netorch(self, *words: str) -> Sample:
        """One command."""
        program = self.program()
        assert program is not None
        return timed(self.clock, lambda: run([program, *words], cwd=self.directory))

    def write(self, name: str, text: str) -> str:
        """A lab file."""
        path = self.directory / f"{name}.yaml"
        path.write_text(text)
        return str(path)

    def up(self, count: int) -> Sample:
        self.count = count
        text = f"bridges:\n  br0: {GATEWAY}/16\ncontainers:\n  h: {{scale: {count}}}\nlinks:\n  - [h, br0]\n"
        file = self.write("bench", text)
        self.kernel = kernel_memory()
        return self.netorch("up", file)

    def down(self) -> Sample:
        return self.netorch("down", "bench")

    def pids(self, lab: str = "bench") -> list[int]:
        """Every PID 1."""
        files = Path("/run/netorch").glob(f"{lab}.*/c/*/container.json")
        return [json.loads(file.read_text())["pid"] for file in files]

    def execute(self) -> Sample:
        program = self.program()
        assert program is not None
        return self._executed([program, "exec", "h1", "true"])

    def memory(self) -> int:
        return pss(self.pids())

    def kernel_memory(self) -> int:
        """What the kernel took for the lab, in bytes."""
        return kernel_memory() - self.kernel


class Floor(Contestant):
    """The same in C, without anything that could be left out."""

    name = "floor"
    isolates = "as netorch"
    options: tuple[str, ...] = ()

    def __init__(self, clock: CpuClock, directory: Path) -> None:
        super().__init__(clock, directory)
        self.process: subprocess.Popen[str] | None = None
        self.pids: list[int] = []

    def missing(self) -> str | None:
        return None if shutil.which("cc") else "there is no C compiler (cc)"

    def prepare(self) -> None:
        program = self.directory / "floor"
        run(["cc", "-O2", "-o", str(program), str(HERE / "floor.c")])

    def _said(self) -> dict[str, Any]:
        assert self.process is not None and self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"the floor failed, exit code {self.process.wait()}")
        return dict(json.loads(line))

    def up(self, count: int) -> Sample:
        return self.begin(str(count))

    def begin(self, *words: str) -> Sample:
        """Start it; it stands when it says so."""
        files = self.directory / "files"
        shutil.rmtree(files, ignore_errors=True)
        files.mkdir()
        cpu, began = self.clock.now(), time.monotonic()
        argv = [str(self.directory / "floor"), *words, str(files), *self.options]
        self.process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.pids = self._said()["pids"]
        return Sample(time.monotonic() - began, self.clock.now() - cpu)

    def down(self) -> Sample:
        assert self.process is not None and self.process.stdin is not None
        cpu, began = self.clock.now(), time.monotonic()
        self.process.stdin.close()
        self._said()
        self.process.wait()
        return Sample(time.monotonic() - began, self.clock.now() - cpu)

    def execute(self) -> Sample:
        """``nsenter -a`` into it, which is how one enters by hand."""
        return self._executed(["nsenter", "-a", "-t", str(self.pids[0]), "true"])

    def memory(self) -> int | None:
        assert self.process is not None
        return pss([pid for pid in descendants(self.process.pid) if pid != self.process.pid])


class PlainFloor(Floor):
    """The floor without root, masks, sysctls and confinement: what most peers isolate, or more."""

    name = "bare floor"
    isolates = "mnt, uts, ipc, pid, net, cgroup"
    options = ("plain",)


class IpScript(Contestant):
    """A shell script of ip(8) as it is written by hand: a process for each step."""

    name = "ip script"
    isolates = "net"

    def __init__(self, clock: CpuClock, directory: Path) -> None:
        super().__init__(clock, directory)
        self.count = 0

    def missing(self) -> str | None:
        return None if shutil.which("nft") else "there is no nft"

    def _script(self, name: str, lines: list[str]) -> Sample:
        path = self.directory / name
        path.write_text("\n".join(["set -e", *lines, ""]))
        return timed(self.clock, lambda: run(["sh", str(path)]))

    def up(self, count: int) -> Sample:
        self.count = count
        rule = f"ip saddr {NETWORK} oifname != ibr0 masquerade"
        lines = [
            "ip link add ibr0 type bridge",
            f"ip addr add {GATEWAY}/16 dev ibr0",
            f"nft 'table inet ibench {{ chain n {{ type nat hook postrouting priority 100; {rule}; }}; }}'",
        ]
        for number in range(1, count + 1):
            name = f"ib{number}"
            lines += [
                f"ip netns add {name}",
                f"ip link add i{number} type veth peer name eth0 netns {name}",
                f"ip link set i{number} master ibr0 up",
                f"ip -n {name} link set lo up",
                f"ip -n {name} addr add {address(number)}/16 dev eth0",
                f"ip -n {name} link set eth0 up",
                f"ip -n {name} route add default via {GATEWAY}",
            ]
        return self._script("up.sh", [*lines, "ip link set ibr0 up"])

    def down(self) -> Sample:
        lines = [f"ip netns del ib{number}" for number in range(1, self.count + 1)]
        return self._script("down.sh", [*lines, "ip link del ibr0", "nft delete table inet ibench"])

    def execute(self) -> Sample:
        return self._executed(["ip", "netns", "exec", "ib1", "true"])


class Library(Contestant):
    """A Python library in an interpreter of its own, which stays as long as the lab (``drivers.py``)."""

    def __init__(self, clock: CpuClock, directory: Path) -> None:
        super().__init__(clock, directory)
        self.process: subprocess.Popen[str] | None = None

    def python(self) -> str:
        """The interpreter that has the library."""
        return "/usr/bin/python3"

    def missing(self) -> str | None:
        done = subprocess.run([self.python(), "-c", f"import {self.name}"], capture_output=True, check=False)
        return None if done.returncode == 0 else f"{self.name} is not installed for {self.python()}"

    def _said(self) -> dict[str, Any]:
        assert self.process is not None and self.process.stdout is not None
        for line in self.process.stdout:
            if line.startswith("{"):
                return dict(json.loads(line))
        raise RuntimeError(f"{self.name} failed, exit code {self.process.wait()}")

    def _tell(self, word: str) -> None:
        assert self.process is not None and self.process.stdin is not None
        self.process.stdin.write(f"{word}\n")
        self.process.stdin.flush()

    def up(self, count: int) -> Sample:
        cpu, began = self.clock.now(), time.monotonic()
        argv = [self.python(), str(HERE / "drivers.py"), self.name, str(count), str(self.directory)]
        self.process = subprocess.Popen(
            argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        self._said()
        return Sample(time.monotonic() - began, self.clock.now() - cpu)

    def down(self) -> Sample:
        cpu, began = self.clock.now(), time.monotonic()
        self._tell("down")
        self._said()
        assert self.process is not None
        self.process.wait()
        return Sample(time.monotonic() - began, self.clock.now() - cpu)

    def execute(self) -> Sample:
        self._tell("exec")
        return Sample(float(self._said()["seconds"]))

    def memory(self) -> int:
        assert self.process is not None
        return pss(descendants(self.process.pid))


class Mininet(Library):
    """Mininet with Linux bridges."""

    name = "mininet"
    isolates = "net, mnt"
    most = 300

    def missing(self) -> str | None:
        if shutil.which("brctl") is None:
            return "mininet needs brctl (bridge-utils)"
        return super().missing()


class Munet(Library):
    """munet, in the environment that its command belongs to."""

    name = "munet"
    isolates = "net, mnt, uts, pid, ipc"
    most = 50

    def python(self) -> str:
        program = shutil.which("munet")
        if program is None:
            return sys.executable
        return Path(program).read_text(errors="replace").splitlines()[0].removeprefix("#!").strip()


class Engine(Contestant):
    """A container engine, with an image that holds busybox alone."""

    most = 50
    image = "netorch-bench"

    def __init__(self, clock: CpuClock, directory: Path) -> None:
        super().__init__(clock, directory)
        self.count = 0

    def missing(self) -> str | None:
        if shutil.which(self.name) is None:
            return f"{self.name} is not installed"
        return None if shutil.which("busybox") else "there is no busybox (busybox-static) to make an image of"

    def command(self, *words: str) -> list[str]:
        """The command line of the engine."""
        raise NotImplementedError

    def _import_image(self) -> None:
        root = self.directory / "image"
        (root / "bin").mkdir(parents=True)
        shutil.copy(shutil.which("busybox") or "", root / "bin" / "busybox")
        for name in ("sh", "sleep", "true"):
            (root / "bin" / name).symlink_to("busybox")
        for name in ("etc", "proc", "sys", "dev", "tmp", "run"):
            (root / name).mkdir()
        run(["tar", "-C", str(root), "-cf", str(self.directory / "image.tar"), "."])
        run(self.command("import", str(self.directory / "image.tar"), f"{self.image}:1"))
        run(self.command("network", "create", "--subnet", NETWORK, "--gateway", GATEWAY, "bench"))

    def _options(self) -> list[str]:
        return []

    def up(self, count: int) -> Sample:
        self.count = count

        def build() -> None:
            for number in range(1, count + 1):
                place = ["--name", f"h{number}", "--network", "bench", "--ip", address(number)]
                what = ["--log-driver", "none", *self._options(), f"{self.image}:1", "/bin/sleep", "99999"]
                run(self.command("run", "-d", *place, *what))

        return timed(self.clock, build)

    def _remove(self, *words: str) -> list[str]:
        return self.command("rm", "-f", *words)

    def down(self) -> Sample:
        names = [f"h{number}" for number in range(1, self.count + 1)]
        return timed(self.clock, lambda: run(self._remove(*names)))

    def execute(self) -> Sample:
        return self._executed(self.command("exec", "h1", "/bin/true"))


class Podman(Engine):
    """podman, by crun and netavark."""

    name = "podman"
    isolates = "mnt, uts, ipc, pid, net, cgroup; overlay root; confined"

    def command(self, *words: str) -> list[str]:
        places = ["--root", f"{self.directory}/root", "--runroot", f"{self.directory}/state"]
        how = ["--cgroup-manager", "cgroupfs", "--events-backend", "none", "--storage-driver", "overlay"]
        return ["podman", *places, *how, "--network-config-dir", f"{self.directory}/networks", *words]

    def _options(self) -> list[str]:
        return ["--ulimit", "nofile=1024:4096", "--ulimit", "nproc=4096:4096"]

    def _remove(self, *words: str) -> list[str]:
        return self.command("rm", "-f", "-t", "0", *words)

    def prepare(self) -> None:
        if os.path.exists("/sys/fs/cgroup/unified"):  # crun refuses hosts with both versions: show it one
            run(["umount", "/sys/fs/cgroup/unified"])
        (self.directory / "networks").mkdir()
        self._import_image()

    def close(self) -> None:
        subprocess.run(self._remove("-a"), capture_output=True, check=False)
        subprocess.run(self.command("network", "rm", "-f", "bench"), capture_output=True, check=False)


class Docker(Engine):
    """Docker, by a daemon of its own that ends with the measurement."""

    name = "docker"
    isolates = "mnt, uts, ipc, pid, net; overlay root; confined"

    def __init__(self, clock: CpuClock, directory: Path) -> None:
        super().__init__(clock, directory)
        self.daemon: subprocess.Popen[bytes] | None = None

    def missing(self) -> str | None:
        return None if shutil.which("dockerd") else "docker (dockerd) is not installed"

    def command(self, *words: str) -> list[str]:
        beside = Path(shutil.which("dockerd") or "/usr/sbin/dockerd").parent.parent / "bin" / "docker"
        return [str(beside), "-H", f"unix://{self.directory}/socket", *words]

    def prepare(self) -> None:
        argv = ["dockerd", "-H", f"unix://{self.directory}/socket", "--data-root", f"{self.directory}/data"]
        argv += ["--exec-root", f"{self.directory}/exec", "-p", f"{self.directory}/pid"]
        argv += [
            "--bip",
            "172.29.0.1/24",
            "--userland-proxy=false",
            "--cgroup-parent",
            "/netorch-bench-docker",
        ]
        with open(self.directory / "log", "wb") as log:
            self.daemon = subprocess.Popen(argv, stdout=log, stderr=log)
        deadline = time.monotonic() + 60
        while subprocess.run(self.command("info"), capture_output=True, check=False).returncode:
            if time.monotonic() > deadline or self.daemon.poll() is not None:
                raise RuntimeError(f"dockerd did not start\n{(self.directory / 'log').read_text()[-1500:]}")
            time.sleep(0.2)
        self._import_image()

    def close(self) -> None:
        if self.daemon is not None:
            subprocess.run(self.command("network", "rm", "bench"), capture_output=True, check=False)
            self.daemon.terminate()
            self.daemon.wait(30)


ALL: tuple[type[Contestant], ...] = (Netorch, Floor, PlainFloor, IpScript, Mininet, Munet, Podman, Docker)
