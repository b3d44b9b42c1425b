"""Processes that work for a program where the program itself can't go: in the realm of a lab.

Owns: the server that forks them, what a caller and they say to each other, how they are interrupted and that
they end with their caller.  Must not: know what they do (they are told functions), or where they go.

Nobody with threads can enter a user namespace (setns(2)), and a library must not move its caller.  So the
first call of a process starts a server: a program of its own with one thread, which has imported what the
work takes.  It forks a worker for each call, and that one is what a command on the command line is: it goes
where it has to, works, and is gone.  So calls of several threads run side by side, and nobody stays there.

Between them: frames on a stream socket, a length and a pickle each.  Both are this user's own processes, and
the worker runs nothing of a container's.
"""

from __future__ import annotations

import functools
import gc
import importlib
import inspect
import json
import os
import pickle
import select
import signal
import socket
import struct
import subprocess
import sys
import threading
import traceback
import weakref
from collections.abc import Callable, Generator, Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import Any, NoReturn

from netns_orch.errors import KernelError, NetorchError

_ROOT = str(Path(__file__).resolve().parents[2])
_START = (
    "import json, sys\n"
    "sys.path[:] = json.loads(sys.argv[2])\n"
    "from netns_orch.kernel import workers\n"
    "workers.serve(int(sys.argv[1]), sys.argv[3:])"
)
_LENGTH = struct.Struct("!Q")
_DONE, _ITEM, _RAISED = "done", "item", "raised"
_ENDED = "the process that worked in the lab's namespaces ended meanwhile"


# -- the caller's side -------------------------------------------------------------------------------


@functools.cache
def server(preload: tuple[str, ...]) -> Server:
    """This process's server, with these modules imported; started at its first call."""
    return Server(preload)


class Server:
    """Where workers come from; for any number of threads."""

    def __init__(self, preload: Sequence[str]) -> None:
        self._preload = preload
        self._channel: socket.socket | None = None
        self._lock = threading.Lock()

    def call(self, function: Callable[..., Any], *args: Any, **options: Any) -> Any:
        """Call a function of a module in a worker; what it returns, or raises.

        A socket that it returns is handed over.  An interruption of the caller becomes one of the function
        (SIGINT), and is waited for.
        """
        with _Line(self) as line:
            kind, value = line.ask((function, args, options))
            assert kind == _DONE, "for generators there is `converse`"
            return value

    def converse(self, function: Callable[..., Any], *args: Any) -> Generator[Any, Any, None]:
        """Run a generator function in a worker: what it yields, and what it is sent."""
        with _Line(self) as line:
            kind, value = line.ask((function, args, {}))
            while kind == _ITEM:
                kind, value = line.ask((yield value))

    def send(self, word: bytes, *descriptors: int) -> None:
        """Say something to the server; one that has ended is started again."""
        with self._lock:
            for again in (True, False):
                if self._channel is None:
                    self._channel = self._start()
                try:
                    socket.send_fds(self._channel, [word], descriptors)
                    return
                except (BrokenPipeError, ConnectionResetError):
                    self._channel = None
                    if not again:
                        raise KernelError(_ENDED) from None

    def _start(self) -> socket.socket:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        options = [f"-Xpycache_prefix={sys.pycache_prefix}"] if sys.pycache_prefix else []
        paths = json.dumps([_ROOT, *(path for path in sys.path if os.path.isabs(path))])
        with theirs:
            process = subprocess.Popen(
                [sys.executable, "-I", *options, "-c", _START, str(theirs.fileno()), paths, *self._preload],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                start_new_session=True,  # ctrl-C is for the caller, who passes it on
            )
        weakref.finalize(self, _end, ours, process)
        return ours


def _end(channel: socket.socket, process: subprocess.Popen[bytes]) -> None:
    channel.close()
    process.wait()


class _Line:
    """A worker of one's own, and the line to it."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        with theirs:
            server.send(b"work", theirs.fileno())
        self._pid: int = self._hear()
        _send(self._socket, (os.getcwd(), dict(os.environ)))

    def __enter__(self) -> _Line:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def ask(self, message: object) -> tuple[str, Any]:
        """Say something; the kind of the answer and what it is, or the worker's exception."""
        try:
            _send(self._socket, message)
            kind, value = self._hear()
        except (BrokenPipeError, ConnectionResetError):
            raise KernelError(_ENDED) from None
        except KernelError:
            raise
        except BaseException:
            self._interrupt()
            raise
        if kind == _RAISED:
            raise value
        return kind, value

    def _hear(self) -> Any:
        found = _receive(self._socket)
        if found is None:
            raise KernelError(_ENDED)
        return found[0]

    def _interrupt(self) -> None:
        """Have the worker stop what it does, and wait until it has."""
        self._server.send(b"%d" % self._pid)
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_WR)
        while self._socket.recv(65536):
            pass


# -- what is said ------------------------------------------------------------------------------------


def _send(line: socket.socket, message: object) -> None:
    """Send one frame; where it ends with a socket, that one itself."""
    descriptors = []
    if isinstance(message, tuple) and message and isinstance(message[-1], socket.socket):
        descriptors = [message[-1].fileno()]
        message = (*message[:-1], None)
    data = pickle.dumps(message)
    socket.send_fds(line, [_LENGTH.pack(len(data))], descriptors)
    line.sendall(data)


def _receive(line: socket.socket) -> tuple[Any] | None:
    """One frame; None at the end."""
    head, descriptors, _, _ = socket.recv_fds(line, _LENGTH.size, 1)
    rest = _read(line, _LENGTH.size - len(head)) if head else None
    if rest is None:
        return None
    data = _read(line, _LENGTH.unpack(head + rest)[0])
    if data is None:
        return None
    message = pickle.loads(data)
    if descriptors:
        message = (*message[:-1], socket.socket(fileno=descriptors[0]))
    return (message,)


def _read(line: socket.socket, size: int) -> bytes | None:
    parts = []
    while size:
        part = line.recv(min(size, 1 << 20))
        if not part:
            return None
        parts.append(part)
        size -= len(part)
    return b"".join(parts)


# -- the server's side -------------------------------------------------------------------------------


def serve(number: int, preload: Sequence[str]) -> NoReturn:
    """Fork a worker for each line that comes in, until the caller is gone; then none of them goes on."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for name in preload:
        importlib.import_module(name)
    gc.freeze()  # what was imported stays as it is, and so its pages stay shared
    channel = socket.socket(fileno=number)
    workers: dict[int, int] = {}
    poll = select.poll()
    poll.register(channel, select.POLLIN)
    while True:
        for ready, _ in poll.poll():
            if ready in workers:
                poll.unregister(ready)
                os.close(ready)
                os.waitpid(workers.pop(ready), 0)
                continue
            word, descriptors, _, _ = socket.recv_fds(channel, 64, 1)
            if not word:
                _stop(workers, signal.SIGKILL)
                os._exit(0)
            if word != b"work":
                _stop({fd: pid for fd, pid in workers.items() if pid == int(word)}, signal.SIGINT)
                continue
            pid = os.fork()
            if not pid:
                channel.close()
                _work(socket.socket(fileno=descriptors[0]))
            os.close(descriptors[0])
            pidfd = os.pidfd_open(pid)
            workers[pidfd] = pid
            poll.register(pidfd, select.POLLIN)


def _stop(workers: dict[int, int], number: signal.Signals) -> None:
    for pidfd in workers:
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(pidfd, number)


def _work(line: socket.socket) -> NoReturn:
    code = 1
    try:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        _send(line, os.getpid())
        if (found := _receive(line)) is not None:
            directory, environment = found[0]
            os.environ.clear()
            os.environ.update(environment)
            os.chdir(directory)
            _talk(line)
            code = 0
    except (BrokenPipeError, ConnectionResetError, KeyboardInterrupt):
        pass  # nobody waits for an answer any more
    except BaseException:  # noqa: BLE001 - nothing may unwind into the server's loop
        traceback.print_exc()
    finally:
        with suppress(OSError, ValueError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def _talk(line: socket.socket) -> None:
    """Call the function that is asked for; go on with a generator as long as it and the caller want."""
    said = _receive(line)
    if said is None:
        return
    function, args, options = said[0]
    answer: tuple[str, object]
    try:
        result = function(*args, **options)
        if inspect.isgenerator(result):
            if not _exchange(line, result):
                return
            result = None
        answer = (_DONE, result)
    except BaseException as error:  # noqa: BLE001 - it is the caller's
        if not isinstance(error, NetorchError | KeyboardInterrupt):
            error.add_note("".join(traceback.format_exception(error)))
        answer = (_RAISED, error)
    _send(line, answer)


def _exchange(line: socket.socket, generator: Generator[Any, Any, Any]) -> bool:
    """What it yields goes out, what comes in is sent to it; whether it came to its end."""
    with closing(generator), suppress(StopIteration):
        item = next(generator)
        while True:
            _send(line, (_ITEM, item))
            if (said := _receive(line)) is None:
                return False
            item = generator.send(said[0])
    return True
