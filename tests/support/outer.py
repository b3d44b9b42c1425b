"""The test host: a network and mount namespace that stands for the host, entered once by the test process.

It has ``lo``, one interface ``uplink`` with a default route to the outside (``outside.py``), a /run of its
own and a cgroup of its own in every hierarchy.  The real host's interfaces, firewall, routes and sysctls are
out of reach.
"""

from __future__ import annotations

import ctypes
import os
import stat
import subprocess
import sys
from pathlib import Path

from support import cgroups, outside
from support.waiting import PATIENCE, until

CLONE_NEWNS = 0x00020000
CLONE_NEWNET = 0x40000000
MS_NOSUID, MS_NODEV, MS_REC, MS_PRIVATE = 2, 4, 16384, 1 << 18
SYSCTLS = {
    "net.ipv4.ip_forward": "0",
    "net.ipv6.conf.all.forwarding": "0",
    "net.ipv4.ping_group_range": "0 2147483647",  # as systemd sets it: ordinary users may ping
}
"""What a network namespace may inherit from the machine, and tests depend on."""
LINK_LOCAL = "fe80::2/64"
"""Of the host's interface where an ordinary user runs the tests: pasta asks for one."""


def why_not() -> str | None:
    """Why this process can not have a test host, or None."""
    if os.geteuid() != 0:
        return "needs root: a network namespace, mounts and cgroups are made (run the tests with sudo)"
    effective = next(x for x in Path("/proc/self/status").read_text().splitlines() if x.startswith("CapEff"))
    if not int(effective.split()[1], 16) & (1 << 21):
        return "needs CAP_SYS_ADMIN: this root may not make namespaces (a container without --privileged?)"
    return None


class TestHost:
    """The test host of this process; ``close`` ends the outside and gives the cgroups back."""

    __test__ = False

    def __init__(self) -> None:
        self.given: list[Path] = []
        """Directories of the tests that are an ordinary user's, where one runs them."""
        self._outside: subprocess.Popen[str] | None = None
        self._before: list[cgroups.Position] = []
        self._cgroup = f"netorch-tests-{os.getpid()}"

    def enter(self, *, namespaces: bool = True) -> None:
        """Move this process into namespaces and cgroups of its own; there is no way back but its end.

        Without ``namespaces`` it is where it shall be, in the realm of an ordinary user: that is wired.
        """
        if namespaces:
            self._namespaces()
        else:
            Path("/run/netns").mkdir()  # a realm keeps it to its end
        self._wire()

    def _namespaces(self) -> None:
        self._before = cgroups.enter_own(self._cgroup)
        libc = ctypes.CDLL(None, use_errno=True)
        _done(libc.unshare(CLONE_NEWNS | CLONE_NEWNET), "unshare")
        _done(libc.mount(b"none", b"/", None, MS_REC | MS_PRIVATE, None), "make / private")
        _done(libc.mount(b"tmpfs", b"/run", b"tmpfs", MS_NOSUID | MS_NODEV, b"mode=755"), "mount /run")
        # As udev makes it; on a machine without udev it is root's alone.
        _done(libc.mount(b"tmpfs", b"/dev/net", b"tmpfs", MS_NOSUID, b"mode=755"), "mount /dev/net")
        os.mknod("/dev/net/tun", stat.S_IFCHR, os.makedev(10, 200))
        os.chmod("/dev/net/tun", 0o666)
        Path("/run/mount").mkdir()  # mount(8) would make it, and no test shall be blamed for that
        for name, value in SYSCTLS.items():
            Path("/proc/sys", *name.split(".")).write_text(value)

    def close(self) -> None:
        """End what was started; EBUSY names the cgroup that a test left something in."""
        if self._outside is not None and self._outside.stdin is not None:
            self._outside.stdin.close()
            self._outside.wait(timeout=30 * PATIENCE)
        if self._before:
            cgroups.leave_own(self._before, self._cgroup)

    @property
    def outside_pid(self) -> int:
        """The process that holds the outside's network namespace."""
        assert self._outside is not None
        return self._outside.pid

    def in_outside(self, *argv: str) -> str:
        """Run a command in the outside's network namespace; its output."""
        return run("nsenter", f"--net=/proc/{self.outside_pid}/ns/net", *argv)

    def _wire(self) -> None:
        self._outside = subprocess.Popen(
            [sys.executable, outside.__file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self._expect("unshared")
        name = outside.INTERFACE
        run("ip", "link", "add", name, "type", "veth", "peer", "name", name, "netns", str(self.outside_pid))
        # A link-local address would appear some time later, in the middle of a test's snapshot.
        run("ip", "link", "set", name, "addrgenmode", "none")
        more = [LINK_LOCAL] if os.environ.get("NETORCH_TEST_ROOTLESS") else []
        for address in [*outside.HOST_ADDRESSES, *more]:
            run("ip", "address", "add", address, "dev", name, *(["nodad"] if ":" in address else []))
        for interface in ("lo", name):
            run("ip", "link", "set", interface, "up")
        for family, gateway in (("-4", outside.IPV4), ("-6", outside.IPV6)):
            run("ip", family, "route", "add", "default", "via", gateway)
        assert self._outside.stdin is not None
        self._outside.stdin.write("wired\n")
        self._outside.stdin.flush()
        self._expect("ready")
        # Else the first test's snapshot may still show it without carrier: the link watch runs once a second.
        until(lambda: "LOWER_UP" in run("ip", "link", "show", name), f"carrier of {name}")
        # The kernel has the local route of an IPv6 address only after that.
        for address in (text.partition("/")[0] for text in outside.HOST_ADDRESSES if ":" in text):
            until(
                lambda text=address: text in run("ip", "-6", "route", "show", "table", "local"),  # type: ignore[misc]
                f"the local route of {address}",
            )

    def _expect(self, word: str) -> None:
        assert self._outside is not None and self._outside.stdout is not None
        line = self._outside.stdout.readline().strip()
        if line != word:
            raise RuntimeError(f"the outside said {line!r} instead of {word!r}")


def run(*argv: str) -> str:
    """Run a command of the host; its output.  An error carries what it said."""
    result = subprocess.run(
        argv, capture_output=True, text=True, timeout=60 * PATIENCE, stdin=subprocess.DEVNULL
    )
    if result.returncode != 0:
        raise RuntimeError(f"{' '.join(argv)} exited {result.returncode}: {result.stderr.strip()}")
    return result.stdout


def _done(result: int, what: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
