"""The way out of a realm, for an ordinary user: pasta or slirp4netns, where one of them is installed.

Owns: which of them, its options, starting it so that it ends with the realm, whether it runs.
Must not: know what the lab looks like inside.

Both are programs that make a tap device in the realm's network namespace and speak for what comes out of it
by sockets of the host.  The program is in the realm's user and pid namespace, and so ends with it, but in the
network and mount namespace of the host (this file run as ``python -I -S outside.py HOLDER LOG PROGRAM...``
puts it there).  The host's own loopback is not reached by it.
"""

from __future__ import annotations

import os
import sys

if __name__ == "__main__":  # -I leaves only the standard library on the path
    sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))

import json
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

from netns_orch.errors import KernelError
from netns_orch.kernel import realm
from netns_orch.kernel import syscalls as sc
from netns_orch.kernel.realm import Realm

HOW_TO = "for that, apt-get install passt"
INTERFACE = "uplink"
"""As in a private lab of root's."""
ADDRESS, GATEWAY, PREFIX = "100.64.0.2", "100.64.0.1", 30
"""Out of the shared address space (RFC 6598), as there."""
ADDRESS6, GATEWAY6 = "fd6e:7400::2", "fd6e:7400::1"
_SIGN = "/run/.netorch-outside"
_PATIENCE = 20.0
_WORDS = {
    "pasta": [
        *("--foreground", "--config-net", "--netns-only", "--no-map-gw", "--ns-ifname", INTERFACE),
        *("--address", ADDRESS, "--netmask", str(PREFIX), "--gateway", GATEWAY),
        *("--address", ADDRESS6, "--gateway", GATEWAY6),
        *("--tcp-ports", "none", "--udp-ports", "none", "--tcp-ns", "none", "--udp-ns", "none"),
    ],
    "slirp4netns": [
        *("--configure", "--mtu=65520", "--disable-host-loopback", "--disable-dns", "--netns-type=path"),
        "--cidr=100.64.0.0/24",
    ],
}


def program() -> str | None:
    """The program that leads out of the realm that this process is in; None: none does."""
    about = _about(_SIGN)
    return str(about["program"]) if about else None


def _about(path: str) -> dict[str, Any] | None:
    """What was written down of one that runs still."""
    try:
        about: dict[str, Any] = json.loads(Path(path).read_text("ascii"))
    except (OSError, ValueError):
        return None
    return about if realm.start_time(about["pid"]) == about["start_time"] else None


def connect(here: Realm) -> None:
    """Lead out of a realm by the first program that is installed, unless one does already.

    For a process that has not entered it.  Without any of them, nothing is done.
    """
    sign = f"{here.directory}/run/{os.path.basename(_SIGN)}"
    if _about(sign) is not None:
        return
    for name in _WORDS:
        if path := shutil.which(name):
            pid = _start(here, name, path)
            about = {"program": name, "pid": pid, "start_time": realm.start_time(pid)}
            Path(sign).write_text(json.dumps(about), "ascii")
            return


def _start(here: Realm, name: str, path: str) -> int:
    holder = here.about["pid"]
    netns = f"/proc/{holder}/ns/net"
    last = ["--netns", netns] if name == "pasta" else [netns, INTERFACE]
    log = f"{here.directory}/outside.log"
    words = [sys.executable, "-I", "-S", "-B", __file__, str(holder), log, path, *_WORDS[name], *last]
    done = subprocess.run(words, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False)
    if done.returncode:
        raise KernelError(f"{name} can't be started in the lab's namespaces", details=done.stderr.strip())
    pid = int(done.stdout)
    started, deadline = realm.start_time(pid), time.monotonic() + _PATIENCE
    while not _has_route(holder):
        if realm.start_time(pid) != started or time.monotonic() > deadline:
            said = Path(log).read_text("utf-8", "replace").strip()
            raise KernelError(f"{name}, the way out of the lab, did not come up", details=said or None)
        time.sleep(0.005)
    return pid


def _has_route(holder: int) -> bool:
    """Whether a default route leads out by the interface."""
    with open(f"/proc/{holder}/net/route", encoding="ascii") as file:
        return any(line.split()[:2] == [INTERFACE, "00000000"] for line in file)


def main(holder: int, log: str, words: list[str]) -> None:
    """Start a program in a realm's user and pid namespace; print its pid (of the host)."""
    pidfd = sc.pidfd_open(holder)
    sc.setns(pidfd, sc.CLONE_NEWUSER)
    sc.setns(pidfd, sc.CLONE_NEWPID)
    if pid := os.fork():
        sys.stdout.write(f"{pid}\n")
        return
    os.setsid()
    written = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    for number in (1, 2):
        os.dup2(written, number)
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # ignored, as Python has it, pasta takes it for a failure
    os.execv(words[0], words)


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], sys.argv[3:])
