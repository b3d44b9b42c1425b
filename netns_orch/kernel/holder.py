"""The process that holds a realm: PID 1 of its pid namespace, with nothing to do but to be there.

Owns: the making of the realm's namespaces, the realm's /run, waiting until it is killed.
Must not: know what a lab is; outlive whoever starts it before that one has said to keep it.

It ends, and with it the lab, also when its files are removed: /run/user/UID goes with a user's last session,
and nobody would find the lab again.

Run as ``python -I -S holder.py CHANNEL RUN``; CHANNEL is a SEQPACKET socket, RUN the directory that is to be
/run inside.  It says ``user`` once it has a user namespace, and goes on when it hears ``mapped``; ``pid N``
for the process that stays, which goes on when it hears ``go``, says ``ready`` when all is made, and stays
when it hears ``keep``.  A failure is ``error ERRNO what``.
"""

from __future__ import annotations

import os
import sys

if __name__ == "__main__":  # -I leaves only the standard library on the path
    sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))

import fcntl
import signal
import socket
import struct
from contextlib import suppress

from netns_orch.kernel import baseline, hostroot, keyring, realm
from netns_orch.kernel import syscalls as sc

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

_SIOCSIFFLAGS, _IFF_UP = 0x8914, 1
_ENDS = (signal.SIGTERM, signal.SIGIO)
_LEFT_OUT = ("netns", "netorch", "xtables.lock")
"""Of the host's /run: what programs inside make for themselves."""


class Holder:
    """``doing`` names the step at hand, for the error."""

    def __init__(self, channel: socket.socket, run: str) -> None:
        self.channel = channel
        self.run = run
        self.doing = ""
        self.directory = os.open(os.path.dirname(run), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)

    def main(self) -> None:
        """In the process that was started: make the namespaces, and the process that stays."""
        self.doing = "make a user namespace"
        sc.unshare(sc.CLONE_NEWUSER)
        self.channel.send(b"user")
        self._hear(b"mapped")
        self.doing = "become root of it"
        with suppress(PermissionError):  # with a single id groups can't be given up (user_namespaces(7))
            os.setgroups([])
        os.setresgid(0, 0, 0)
        os.setresuid(0, 0, 0)
        sc.prctl(sc.PR_SET_DUMPABLE, 1)  # whose namespaces these are may be looked up in /proc
        self.doing = "make the other namespaces"
        sc.unshare(sc.CLONE_NEWNS | sc.CLONE_NEWNET | sc.CLONE_NEWPID | realm.with_time())
        if pid := os.fork():
            self.channel.send(b"pid %d" % pid)
            return
        self._stay()

    def _stay(self) -> NoReturn:
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # orphans are reaped by the kernel
        try:
            self._hear(b"go")  # so that `ready` does not come before `pid`
            self._mounts()
            self._network()
            keyring.share()
            sc.capset(0, 0)  # it needs none; and who has few (pasta) may look up its namespaces (ptrace(2))
            self.channel.send(b"ready")
            self._hear(b"keep")
            self._settle()
        except OSError as error:
            self.tell(error)
            os._exit(1)
        while self._is_wanted():
            if signal.sigwait(_ENDS) == signal.SIGTERM:  # blocked, none is lost that comes meanwhile
                break
        os._exit(0)

    def _hear(self, word: bytes) -> None:
        """Wait for a word; any other one, or none, means that nobody wants the realm any more."""
        if self.channel.recv(64) != word:
            os._exit(1)

    def tell(self, error: OSError) -> None:
        """Report a failure."""
        with suppress(OSError):
            self.channel.send(b"error %d %s" % (error.errno or 0, self.doing.encode()))

    def _mounts(self) -> None:
        """/run is the lab's own, with what the host has there; programs write to it (xtables.lock)."""
        self.doing = "make the mounts private"
        sc.mount(None, "/", None, sc.MS_REC | sc.MS_PRIVATE)
        self.doing = "make a /run of its own"
        entries = []
        for entry in sorted(os.scandir("/run"), key=lambda found: found.name):
            if entry.name in _LEFT_OUT or entry.name.startswith(".netorch"):
                continue
            with suppress(OSError):
                entries.append((entry.name, _copy(entry)))
        own = sc.open_tree(sc.AT_FDCWD, self.run)
        sc.move_mount(own, os.open("/run", os.O_PATH | os.O_DIRECTORY))
        for name, (kind, what) in entries:
            with suppress(OSError):
                _attach(f"/run/{name}", kind, what)
        os.mkdir(hostroot.STORE)
        sc.mount("tmpfs", hostroot.STORE, "tmpfs", sc.MS_NOSUID | sc.MS_NODEV, "mode=755")
        os.chdir("/")

    def _network(self) -> None:
        self.doing = "set its network up"
        net = os.open("/proc/sys/net", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        baseline.write(net, baseline.needed(net))
        os.close(net)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as link:
            fcntl.ioctl(link, _SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", _IFF_UP))

    def _settle(self) -> None:
        """Nothing of who started it stays open; it hears of SIGTERM, as a process that is no PID 1 would.

        And of each file that goes from the realm's directory.
        """
        null = os.open("/dev/null", os.O_RDWR)
        for number in (0, 1, 2):
            os.dup2(null, number)
        sc.close_all_but([0, 1, 2, self.directory])
        sc.CommandLine(
            sc.arguments_area(), f"netorch-holder {os.path.basename(os.path.dirname(self.run))}"
        ).set()
        signal.pthread_sigmask(signal.SIG_BLOCK, _ENDS)
        with suppress(OSError):  # a kernel without CONFIG_DNOTIFY
            fcntl.fcntl(self.directory, fcntl.F_NOTIFY, fcntl.DN_DELETE | fcntl.DN_MULTISHOT)

    def _is_wanted(self) -> bool:
        """Whether the realm's files are still there."""
        try:
            os.stat("holder.json", dir_fd=self.directory)
        except FileNotFoundError:
            return False
        return True


def _copy(entry: os.DirEntry[str]) -> tuple[str, object]:
    """An entry of the host's /run: a link's target, or a detached mount of what it is."""
    if entry.is_symlink():
        return "link", os.readlink(entry.path)
    tree = sc.open_tree(sc.AT_FDCWD, entry.path, sc.OPEN_TREE_CLONE | sc.AT_RECURSIVE)
    return "directory" if entry.is_dir() else "file", tree


def _attach(path: str, kind: str, what: object) -> None:
    if kind == "link":
        os.symlink(str(what), path)
        return
    if kind == "directory":
        os.mkdir(path, 0o755)
    else:
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
    assert isinstance(what, int)
    target = os.open(path, os.O_PATH | os.O_NOFOLLOW)
    sc.move_mount(what, target)
    os.close(target)
    os.close(what)


def main(channel: int, run: str) -> None:
    """Make a realm and stay in it."""
    holder = Holder(socket.socket(fileno=channel), run)
    try:
        holder.main()
    except OSError as error:
        holder.tell(error)
        sys.exit(1)


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
