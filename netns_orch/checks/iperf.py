"""Throughput by iperf3, where both containers have it.

Owns: its command lines and what its report says.  Must not: judge a figure.
"""

from __future__ import annotations

import json
import random
import threading
import time
from typing import TYPE_CHECKING

from netns_orch.resources import HOST

if TYPE_CHECKING:
    from netns_orch.checks.bench import Bench

_LEAST_PORT, _MOST_PORT = 20000, 30000
_LISTENS_WITHIN = 5.0
_LOOK = 0.02
_MORE = 10.0


def measure(bench: Bench, source: str, target: str, address: str, seconds: float) -> float | None:
    """Bits a second that the receiver has counted; None where one of the two has no iperf3, or it fails."""
    names = (source, target)
    if any(name == HOST or name not in bench.containers for name in names):
        return None
    if any(bench.prober.run(name, ["iperf3", "--version"], _MORE).code for name in names):
        return None
    port = str(random.randrange(_LEAST_PORT, _MOST_PORT))
    over = threading.Event()
    server = threading.Thread(
        target=bench.prober.run,
        args=(target, ["iperf3", "-s", "-1", "-B", address, "-p", port], seconds + 2 * _MORE, over),
        name="iperf3",
    )
    server.start()
    try:
        if not _listens(bench, target, int(port)):
            return None
        words = ["iperf3", "-c", address, "-p", port, "-t", str(max(1, round(seconds))), "-O", "1", "-J"]
        done = bench.prober.run(source, words, seconds + _MORE)
    finally:
        over.set()
        server.join()
    return received(done.output.decode(errors="replace")) if done.code == 0 else None


def _listens(bench: Bench, node: str, port: int) -> bool:
    deadline = time.monotonic() + _LISTENS_WITHIN
    while time.monotonic() < deadline:
        if any(
            one.port == port and one.protocol == "tcp" for one in bench.prober.listeners(bench.root(node))
        ):
            return True
        time.sleep(_LOOK)
    return False


def received(report: str) -> float | None:
    """What iperf3's JSON report says that has arrived, in bits a second; None where it says nothing."""
    try:
        return float(json.loads(report)["end"]["sum_received"]["bits_per_second"])
    except (ValueError, KeyError, TypeError):
        return None
