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

import errno
import json
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from netns_orch.errors import KernelError, Where
from netns_orch.kernel import realm, rundir, uplabs, userdir
from netns_orch.kernel import syscalls as sc
from netns_orch.kernel.realm import Realm

TUN = "/dev/net/tun"
INTERFACE = "uplink"
"""As in a private lab of root's."""
ADDRESS, GATEWAY, PREFIX = "100.64.0.2", "100.64.0.1", 30
"""Out of the shared address space (RFC 6598), as there."""
ADDRESS6, GATEWAY6 = "fd6e:7400::2", "fd6e:7400::1"
_SIGN = "/run/.netorch-outside"
_NETNS = "/proc/self/fd/0"
"""The realm's network namespace, as the programs get it: opened by us, their standard input.

A path of /proc is refused where AppArmor is: Debian's profile of pasta lets it look at no other process.
"""
_PATIENCE = 60.0
_WORDS = {
    "pasta": [
        *("--foreground", "--config-net", "--netns-only", "--no-map-gw", "--ns-ifname", INTERFACE),
        *("--address", ADDRESS, "--netmask", str(PREFIX), "--gateway", GATEWAY),
        *("--address", ADDRESS6, "--gateway", GATEWAY6),
        *("--tcp-ns", "none", "--udp-ns", "none"),
    ],
    "slirp4netns": [
        *("--configure", "--mtu=65520", "--disable-host-loopback", "--disable-dns", "--netns-type=path"),
        "--cidr=100.64.0.0/24",
    ],
}


class Port(NamedTuple):
    """A port of the host that leads into the realm, to the port of the same number."""

    protocol: str
    number: int
    address: str | None
    """The host's; None: all of them."""
    where: Where | None = None

    @property
    def key(self) -> list[Any]:
        """As it is written down."""
        return [self.protocol, self.number, self.address]


def program() -> str | None:
    """The program that leads out of the realm that this process is in; None: none does."""
    about = _about(_SIGN)
    return str(about["program"]) if about else None


def identity() -> list[int] | None:
    """Pid and start time of the process that leads out of the realm that we are in; None: none does."""
    about = _about(_SIGN)
    return [about["pid"], about["start_time"]] if about else None


def lost() -> str | None:
    """The program that led out of the realm that this process is in and runs no longer, if there was one."""
    about = uplabs.read_json(_SIGN) or {}
    return str(about["program"]) if "program" in about and program() is None else None


def why_closed() -> str:
    """Why no program leads out of the realm that this process is in, in words."""
    if (missing := lack()) is not None:
        return f"for that, {missing}"
    about = uplabs.read_json(_SIGN) or {}
    return str(about.get("failed") or "the program that led there has ended")


def why_silent() -> str | None:
    """Why a ping to the outside of the realm that this process is in may get no answer, as a hint; None: n/a.

    The program sends it by a socket of the host, which takes a group that may (icmp(7)).
    """
    about = _about(_SIGN)
    if about is None:
        return f"nothing leads out of this lab: {why_closed()}"
    if about.get("pings", True):
        return None
    return (
        f"{about['program']} may not send pings for you, only TCP and UDP: as root, "
        "sysctl -w net.ipv4.ping_group_range='0 2147483647', and netorch down and up"
    )


def may_ping() -> bool:
    """Whether this process may have a socket for pings, in the network namespace that it is in."""
    try:
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM, socket.IPPROTO_ICMP).close()
    except OSError:
        return False
    return True


def lack() -> str | None:
    """What this user needs, to have a lab that is not closed; None: there is all of it.

    The programs open /dev/net/tun as the user whose lab it is; udev makes it everybody's, a host without
    udev may leave it root's.
    """
    import shutil

    if not any(shutil.which(name) for name in _WORDS):
        return "apt-get install passt"
    return lack_of_tun()


def lack_of_tun() -> str | None:
    """What is to be done so that an ordinary user can open /dev/net/tun; None: he can."""
    try:
        if os.geteuid() != 0 or realm.inside():
            os.close(os.open(TUN, os.O_RDWR | os.O_CLOEXEC))
        elif os.stat(TUN).st_mode & 0o6 != 0o6:
            return f"as root, chmod 666 {TUN}"
    except OSError as error:
        if error.errno == errno.EACCES:
            return f"as root, chmod 666 {TUN}"
        if error.errno == errno.EPERM:
            return f"start this container with --device {TUN}"
        return "as root, modprobe tun"
    return None


def published(here: Realm) -> list[Port] | None:
    """The ports that lead into a realm, seen from outside; None: no program runs there."""
    about = _about(_sign(here))
    return None if about is None else [Port(*row) for row in about["ports"]]


def _sign(here: Realm) -> str:
    return f"{here.directory}/run/{os.path.basename(_SIGN)}"


def _about(path: str) -> dict[str, Any] | None:
    """What was written down of one that runs still."""
    about: dict[str, Any] = uplabs.read_json(path) or {}
    lives = "pid" in about and realm.start_time(about["pid"]) == about["start_time"]
    return about if lives else None


def connect(here: Realm, ports: Sequence[Port]) -> None:
    """Lead out of a realm, and these ports of the host into it, by the first program that is installed.

    For a process that has not entered it.  One that does just that already stays; where one can't be had
    (``lack``), nothing is done.  Where one does not come up (an old one, that lacks an option), the other is
    tried; that none does (a host with no way out itself) is no error, but for ports.  KernelError where a
    port is somebody else's.
    """
    sign, keys = _sign(here), [port.key for port in ports]
    about = _about(sign)
    if about is not None and about["ports"] == keys:
        return
    _check([port for port in ports if about is None or port.key not in about["ports"]])
    if about is not None:
        _stop(about)
    if lack() is not None:
        return
    import shutil

    about = {}
    failures = []
    for name in _WORDS:
        if path := shutil.which(name):
            try:
                pid = _start(here, name, path, ports)
            except KernelError as error:
                failures.append(error)
                continue
            about = {"program": name, "pid": pid, "start_time": realm.start_time(pid), "ports": keys}
            about["pings"] = may_ping()
            break
    else:
        if ports:
            raise failures[0]
        about["failed"] = "; ".join(f"{error.what}: {_last_line(error.details)}" for error in failures)
    rundir.replace_file(sign, json.dumps(about))


def _last_line(said: str | None) -> str:
    return (said or "it said nothing").splitlines()[-1]


def _stop(about: dict[str, Any]) -> None:
    pidfd = sc.pidfd_open(about["pid"])
    with suppress(ProcessLookupError):
        sc.pidfd_send_signal(pidfd, signal.SIGTERM)
    realm.wait_for(pidfd)
    os.close(pidfd)


def _check(ports: Iterable[Port]) -> None:
    """Whether this user may listen there, and nobody else does."""
    for port in ports:
        kind = socket.SOCK_STREAM if port.protocol == "tcp" else socket.SOCK_DGRAM
        family = socket.AF_INET6 if ":" in (port.address or "") else socket.AF_INET
        with socket.socket(family, kind) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, port.protocol == "tcp")
            try:
                probe.bind((port.address or "", port.number))
            except OSError as error:
                who, hint = _why_not(port, error)
                raise KernelError(
                    f"port {port.number}/{port.protocol} of the host can't be published: {who}",
                    errno=error.errno,
                    where=port.where,
                    hint=hint,
                ) from error


def _why_not(port: Port, error: OSError) -> tuple[str, str | None]:
    """Why a port can't be had, and what to do."""
    if error.errno == errno.EACCES:
        free = _sysctl_value("net/ipv4/ip_unprivileged_port_start")
        why = f"an ordinary user may listen from port {free} on"
        return why, f"as root, sysctl -w net.ipv4.ip_unprivileged_port_start={port.number}"
    if error.errno != errno.EADDRINUSE:
        return os.strerror(error.errno or 0), None
    from netns_orch.kernel import portholders

    who = next((f"lab {lab} of yours has it" for lab in userdir.names() if _has(Realm(lab), port)), None)
    hint = f'publish another one; with "${{PORT:-{port.number}}}:..." in the file, `--var PORT=N` chooses it'
    return who or portholders.listener(port.protocol, port.number) or "somebody has it", hint


def _has(here: Realm, port: Port) -> bool:
    return any(each.key[:2] == port.key[:2] for each in published(here) or ())


def _sysctl_value(name: str) -> str:
    return Path("/proc/sys", name).read_text("ascii").strip()


def _start(here: Realm, name: str, path: str, ports: Sequence[Port]) -> int:
    holder = here.about["pid"]
    api = f"{here.directory}/api"
    if name == "pasta":
        forwarded = [*_pasta_ports(ports, "tcp"), *_pasta_ports(ports, "udp")]
        last = [*forwarded, "--netns", _NETNS, "--no-netns-quit"]
    else:
        Path(api).unlink(missing_ok=True)
        last = ["--api-socket", api, _NETNS, INTERFACE]
    log = f"{here.directory}/outside.log"
    words = [sys.executable, "-I", "-S", "-B", __file__, str(holder), log, path, *_WORDS[name], *last]
    done = subprocess.run(words, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False)
    if done.returncode:
        raise KernelError(f"{name} can't be started in the lab's namespaces", details=done.stderr.strip())
    pid = int(done.stdout)
    started, deadline = realm.start_time(pid), time.monotonic() + _PATIENCE
    while not (_has_route(holder) and (name == "pasta" or os.path.exists(api))):
        if started is None or realm.start_time(pid) != started or time.monotonic() > deadline:
            said = Path(log).read_text("utf-8", "replace").strip()
            raise KernelError(f"{name}, the way out of the lab, did not come up", details=said or None)
        time.sleep(0.005)
    if name == "slirp4netns":
        for port in ports:
            _slirp_port(api, port)
    return pid


def _pasta_ports(ports: Iterable[Port], protocol: str) -> list[str]:
    found = [p for p in ports if p.protocol == protocol]
    specs = [f"{port.address}/{port.number}" if port.address else str(port.number) for port in found]
    return [word for spec in specs or ["none"] for word in (f"--{protocol}-ports", spec)]


def _slirp_port(api: str, port: Port) -> None:
    """slirp4netns(1), API socket; it knows IPv4 alone."""
    arguments = {
        "proto": port.protocol,
        "host_addr": port.address or "0.0.0.0",
        "host_port": port.number,
        "guest_port": port.number,
    }
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
        client.settimeout(_PATIENCE)
        client.connect(api)
        client.sendall(json.dumps({"execute": "add_hostfwd", "arguments": arguments}).encode())
        client.shutdown(socket.SHUT_WR)
        answer = json.loads(b"".join(iter(lambda: client.recv(65536), b"")))
    if "error" in answer:
        what = f"slirp4netns does not publish port {port.number}/{port.protocol}"
        raise KernelError(what, where=port.where, details=str(answer["error"].get("desc")))


def prepared(here: Realm, ports: Sequence[Port]) -> Callable[[bool], None]:
    """Have a process ready outside that leads these ports into the realm again; whether, it is told last.

    For a process that is about to enter, and then can't do it itself.
    """
    read, write = os.pipe()
    pid = os.fork()
    if not pid:
        os.close(write)
        try:
            if os.read(read, 1) == b"y":
                connect(here, ports)
        finally:
            os._exit(0)
    os.close(read)

    def tell(again: bool) -> None:
        os.write(write, b"y" if again else b"n")
        os.close(write)
        os.waitpid(pid, 0)

    return tell


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
        os.waitpid(pid, 0)
        return
    # One fork more: whose parent was in that pid namespace becomes the holder's child, and is reaped by it.
    # A child of ours would be left to the host's PID 1: it may take its time, and the holder would wait.
    if os.fork():
        os._exit(0)
    sys.stdout.write(f"{os.readlink('/proc/self')}\n")  # of the host's /proc, and so the host's number
    sys.stdout.flush()
    os.setsid()
    os.dup2(os.open(f"/proc/{holder}/ns/net", os.O_RDONLY | os.O_CLOEXEC), 0)
    written = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    for number in (1, 2):
        os.dup2(written, number)
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # ignored, as Python has it, pasta takes it for a failure
    os.execv(words[0], words)


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], sys.argv[3:])
