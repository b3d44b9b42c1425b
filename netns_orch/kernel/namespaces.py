"""Network namespaces: which one this is, and work done inside another one.

Owns: setns(2) for network namespaces, in threads of its own.  A socket belongs for ever to the namespace it
was opened in, so a thread enters a namespace only to open one (or to read and write ``/proc/sys/net``).
Must not: change the namespaces of the calling thread, or know what a lab is.
"""

from __future__ import annotations

import ctypes
import errno
import functools
import os
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, TypeVar

from netns_orch.errors import KernelError

T = TypeVar("T")
CLONE_NEWNET = 0x4000_0000
SO_NETNS_COOKIE = 71
_PF_EXITING = 4


class Abandoned(Exception):
    """Raised inside a worker whose caller no longer waits."""


def netns_cookie() -> int:
    """The number of this thread's network namespace, unique until reboot (SO_NETNS_COOKIE, Linux 5.14)."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, 0) as probe:
        try:
            value: int = struct.unpack("Q", probe.getsockopt(socket.SOL_SOCKET, SO_NETNS_COOKIE, 8))[0]
        except OSError as error:
            raise KernelError(
                "the kernel does not number its network namespaces (SO_NETNS_COOKIE)",
                errno=error.errno,
                hint="netorch needs Linux 5.14 or later",
            ) from None
    return value


def open_netns(pid: int) -> int:
    """A file descriptor of the network namespace of ``pid``; an OSError where the process is gone.

    Of one that is ending, newer kernels show an ordinary user nothing, with another error: it is gone, too.
    """
    try:
        return os.open(f"/proc/{pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    except PermissionError:
        if _is_ending(pid):
            raise ProcessLookupError(errno.ESRCH, os.strerror(errno.ESRCH)) from None
        raise


def _is_ending(pid: int) -> bool:
    """By its flags (proc_pid_stat(5), field 9; PF_EXITING of the kernel's sched.h)."""
    with open(f"/proc/{pid}/stat", "rb") as file:
        return bool(int(file.read().rpartition(b")")[2].split()[6]) & _PF_EXITING)


@functools.cache
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def enter_netns(fd: int) -> None:
    """Move the calling thread into the namespace ``fd`` (setns(2)); only for threads of ``run_in_thread``."""
    if threading.current_thread() is threading.main_thread():
        raise RuntimeError("the main thread never changes its namespaces")
    _setns(fd)


@contextmanager
def visiting(pid: int) -> Iterator[None]:
    """Within the block the calling thread, whichever it is, is in the network namespace of ``pid``.

    For programs that open sockets of their own there; netorch itself uses ``run_in_thread``.
    Raises KernelError where the process is gone, or the right (CAP_SYS_ADMIN) is missing.
    """
    with ExitStack() as descriptors:
        try:
            home, there = (
                descriptors.enter_context(_closing(os.open(path, os.O_RDONLY | os.O_CLOEXEC)))
                for path in ("/proc/thread-self/ns/net", f"/proc/{pid}/ns/net")
            )
            _setns(there)
        except OSError as error:
            raise KernelError(
                f"can't enter the network namespace of process {pid}: {error.strerror}", errno=error.errno
            ) from None
        try:
            yield
        finally:
            _setns(home)


@contextmanager
def _closing(descriptor: int) -> Iterator[int]:
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _setns(descriptor: int) -> None:
    if _libc().setns(descriptor, CLONE_NEWNET) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), "setns")


Socket = socket.socket


def open_socket(pid: int, family: int, kind: int, protocol: int) -> Socket:
    """A socket of the network namespace of ``pid``, whoever uses it; KernelError, or the kernel's own."""
    with visiting(pid):
        return Socket(family, kind, protocol)


def run_in_thread(function: Callable[[threading.Event], T]) -> T:
    """Run ``function`` in a thread of its own and return its result, or raise what it raised.

    The argument is an event that is set when the caller was interrupted: the function should then raise
    ``Abandoned`` at the next opportunity; the thread never outlives this call.
    """
    outcome: list[Any] = [None, None]
    stopped, done = threading.Event(), threading.Event()

    def work() -> None:
        try:
            outcome[0] = function(stopped)
        except BaseException as error:  # noqa: BLE001 - handed to the caller, whatever it is
            outcome[1] = error
        finally:
            done.set()

    thread = threading.Thread(target=work, name="netns")
    thread.start()
    try:
        done.wait()  # not join(): once interrupted, that takes the thread for ended (CPython before 3.13)
    except BaseException:
        stopped.set()
        done.wait()
        raise
    finally:
        thread.join()
    if outcome[1] is not None:
        raise outcome[1]
    result: T = outcome[0]
    return result


def call_in_netns(fd: int, function: Callable[..., T], *args: Any) -> T:
    """Call ``function(*args)`` in a short-lived thread inside the namespace ``fd``."""

    def work(_: threading.Event) -> T:
        enter_netns(fd)
        return function(*args)

    return run_in_thread(work)
