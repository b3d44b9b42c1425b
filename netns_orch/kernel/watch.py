"""``init: false``: the process outside a container that keeps what its PID 1 prints, and its exit code.

Owns: being the parent of that PID 1 (nobody else learns how it ended), its log, its last status.
Must not: enter the container, or hold anything of the host but those two files.

With PID 1 every process of the container ends, and its log would end in the middle; so this one stays
outside, from before the first process to after the last.
"""

from __future__ import annotations

import errno
import json
import os
import select
import signal
import socket
import time
from contextlib import suppress

from netns_orch.kernel import clone, output
from netns_orch.kernel import syscalls as sc

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NoReturn


def first_process(order: dict[str, Any], files: output.Files, cgroup: int | None) -> tuple[clone.First, int]:
    """As ``clone.first_process``, with a watcher for its parent; and a descriptor to that.

    The watcher goes on living once a byte has been sent there; at its end before that, it ends the container.
    """
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    pid, _ = sc.clone3(0, cgroup=cgroup)
    if not pid:
        ours.close()
        return _stay_outside(order, files, cgroup, theirs), -1
    theirs.close()
    data, descriptors, _, _ = socket.recv_fds(ours, 256, 2)
    if not descriptors:
        number = int(data or errno.ECHILD)
        raise OSError(number, os.strerror(number))
    answer = json.loads(data)
    user = descriptors[1] if len(descriptors) > 1 else -1
    return clone.First(answer["pid"], descriptors[0], user, answer["first_id"]), ours.detach()


def _stay_outside(
    order: dict[str, Any], files: output.Files, cgroup: int | None, channel: socket.socket
) -> clone.First:
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    try:
        first = clone.first_process(order, cgroup)
    except OSError as error:
        channel.send(b"%d" % (error.errno or errno.EIO))
        os._exit(1)
    except BaseException:  # noqa: BLE001 - nothing may unwind into the zygote's loop
        os._exit(1)
    if not first.pid:
        channel.close()
        return first
    try:
        answer = json.dumps({"pid": first.pid, "first_id": first.first_id}).encode()
        socket.send_fds(channel, [answer], [fd for fd in (first.pidfd, first.user) if fd >= 0])
        _watch(first, files, channel)
    finally:
        os._exit(1)


def _watch(first: clone.First, files: output.Files, channel: socket.socket) -> NoReturn:
    sc.prctl(sc.PR_SET_DUMPABLE, 0)
    os.setsid()
    null = os.open("/dev/null", os.O_RDWR)
    for number in (0, 1, 2):
        os.dup2(null, number)
    sc.close_all_but([0, 1, 2, files.log, files.status, files.output, first.pidfd, channel.fileno()])
    poll = select.poll()
    for descriptor in (files.output, first.pidfd, channel.fileno()):
        poll.register(descriptor, select.POLLIN)
    while True:
        ready = dict(poll.poll())
        if channel.fileno() in ready:
            poll.unregister(channel)
            if not channel.recv(1):
                with suppress(ProcessLookupError):
                    sc.pidfd_send_signal(first.pidfd, signal.SIGKILL)
        if files.output in ready and not files.drain():
            poll.unregister(files.output)
        if first.pidfd in ready:
            _, status = os.waitpid(first.pid, 0)
            files.drain()
            _record(files, output.exit_code(status))
            os._exit(0)


def _record(files: output.Files, code: int) -> None:
    """Into the status that PID 1 left before it became the command."""
    with suppress(OSError, ValueError):
        status = json.loads(os.pread(files.status, 65536, 0))
        files.write_status(
            status | {"state": "exited", "pid": None, "exit_code": code, "finished": time.time()}
        )
