"""The bench: one lab that is up, its nodes and addresses, and the probes that its nodes can send.

Owns: what a name means to a node (its own hosts file, its resolv.conf), who has an address, who is near it,
and how long an answer may take.  Must not: judge (``kinds``), or know how a probe is sent (``kernel``).
"""

from __future__ import annotations

import errno
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from ipaddress import ip_address, ip_interface
from typing import TYPE_CHECKING

from netns_orch import lab as labs
from netns_orch import views
from netns_orch.errors import NetorchError
from netns_orch.kernel.interrupts import Interrupted
from netns_orch.kernel.probes import Ask, Heard
from netns_orch.resources import HOST, Address, Container, Qdisc, State

if TYPE_CHECKING:
    from netns_orch.kernel.dnsclient import ResolvConf
    from netns_orch.kernel.prober import Prober
    from netns_orch.kernel.stream import Stream
    from netns_orch.trace import Lost

ECHO_WAIT, TCP_WAIT, UDP_WAIT, DNS_WAIT, HTTP_WAIT, EXEC_WAIT = 1.0, 2.0, 1.0, 2.0, 5.0, 60.0
"""Seconds for an answer, where nothing in the lab delays it."""
_MOST_DELAY = 4.0
_MOST_OTHERS = 16
"""Nodes that a control probe is tried from."""
Send = Callable[[str], None]
"""Sends something to an address, so that rules on the way have something to count."""


class Bench:
    """What checks know and ask of one lab."""

    def __init__(self, lab: str, state: State, prober: Prober) -> None:
        self.lab = lab
        self.prober = prober
        self.patience = math.inf
        """The most seconds that a probe waits for an answer, the lab's own delays apart."""
        self.proofs: dict[tuple[str, str, str, int], str] = {}
        """What was shown of targets before a scenario (``control.remember``)."""
        self._hosts: dict[str, dict[str, list[str]]] = {}
        self.take(state)

    def take(self, applied: State, observed: State | None = None) -> None:
        """Look at the lab as it was ``applied``, and what of it was ``observed`` since."""
        self._hosts.clear()
        containers: list[Container] = applied.of(Container)
        self.containers = [container.name for container in containers]
        self._roots = {c.name: c.spec["net"] for c in containers if c.spec and c.spec["net"]}
        self._addresses: dict[str, list[str]] = {}
        self._owners: dict[str, str] = {}
        for address in [*applied.of(Address), *(observed.of(Address) if observed else ())]:
            ip = ip_interface(address.cidr)
            own = self._addresses.setdefault(address.owner, [])
            if not ip.is_link_local and address.cidr not in own:
                own.append(address.cidr)
                self._owners.setdefault(str(ip.ip), address.owner)
        qdiscs: list[Qdisc] = (observed or applied).of(Qdisc)
        self.delay = min(_MOST_DELAY, sum((qdisc.delay or 0) + (qdisc.jitter or 0) for qdisc in qdiscs))
        """Seconds that the lab's own impairments may add to an answer."""

    def forget_names(self) -> None:
        """Read the hosts files anew when they are needed next."""
        self._hosts.clear()

    # -- who and where ------------------------------------------------------------------------------

    def root(self, node: str) -> str:
        """The node whose network a node has: its own, or that of the pod it is in."""
        return self._roots.get(node, node)

    def owner(self, address: str) -> str | None:
        """The node that the lab gives an address to; None: nobody."""
        return self._owners.get(address)

    def families(self, node: str) -> set[int]:
        """The IP versions that a node has addresses of."""
        return {ip_interface(cidr).version for cidr in self._own(node)}

    def _own(self, node: str) -> list[str]:
        """As the lab gives them, else as they are now (DHCP)."""
        root = self.root(node)
        if self._addresses.get(root) or root == HOST:
            return self._addresses.get(root, [])
        try:
            return [f"{address}/{128 if ':' in address else 32}" for address in self.prober.addresses(root)]
        except Interrupted:
            raise
        except NetorchError:
            return []

    def near(self, address: str, but: Sequence[str]) -> list[str]:
        """Nodes in a subnet of ``address`` other than ``but``, the host first."""
        owner = self.owner(address)
        own = [ip_interface(cidr) for cidr in self._addresses.get(owner or "", ())]
        nets = [interface.network for interface in own if str(interface.ip) == address]
        found = [
            node
            for node, cidrs in self._addresses.items()
            if node not in but and any(ip_interface(cidr).network in nets for cidr in cidrs)
        ]
        return sorted(found, key=lambda node: node != HOST)[:_MOST_OTHERS]

    def others(self, but: Sequence[str]) -> list[str]:
        """Nodes other than ``but``, the host first."""
        names = [HOST, *(name for name in self.containers if name not in self._roots)]
        return [name for name in names if name not in but][:_MOST_OTHERS]

    def resolve(self, node: str, word: str) -> list[str]:
        """The addresses that a name (or an address) means to a node, best first; none: it means nothing."""
        try:
            return [str(ip_address(word))]
        except ValueError:
            pass
        if node != HOST and (found := self._hosts_of(node).get(word)):
            return found
        if word == HOST or word in self.containers:
            return self._sorted(node, [str(ip_interface(cidr).ip) for cidr in self._own(word)])
        return list(self.look_up(node, word))

    def _hosts_of(self, node: str) -> dict[str, list[str]]:
        if node not in self._hosts:
            self._hosts[node] = parse_hosts(self.prober.file(node, "/etc/hosts"))
        return self._hosts[node]

    def _sorted(self, node: str, addresses: list[str]) -> list[str]:
        """IPv4 first; among one family those in a subnet of the node's first."""
        nets = [ip_interface(cidr).network for cidr in self._addresses.get(self.root(node), ())]

        def far(address: str) -> tuple[int, bool]:
            ip = ip_address(address)
            return ip.version, not any(ip in net for net in nets)

        return sorted(addresses, key=far)

    def look_up(
        self, node: str, name: str, *, server: str | None = None, families: Sequence[int] = (4, 6)
    ) -> list[str]:
        """The addresses that a name has by DNS, asked from a node; ``server`` instead of its resolv.conf.

        OSError where no server answers: ECONNREFUSED where one refuses, ETIMEDOUT where it is silent.
        """
        from netns_orch.kernel import dnsclient

        conf = self._resolv_conf(node)
        servers = [server] if server else list(conf.servers)
        names = [f"{name.rstrip('.')}."] if server else conf.candidates(name)
        kinds = [dnsclient.A if family == 4 else dnsclient.AAAA for family in families]
        problem: OSError | None = None if servers else OSError("its resolv.conf names no server")
        for candidate in names:
            found: list[str] = []
            for kind in kinds:
                answer, problem = self._first_answer(node, servers, candidate, kind, problem)
                found += answer
            if found:
                return found
        if problem is not None:
            raise problem
        return []

    def name_server(self, node: str) -> str | None:
        """The server that a node asks first."""
        return next(iter(self._resolv_conf(node).servers), None)

    def _resolv_conf(self, node: str) -> ResolvConf:
        from netns_orch.kernel import dnsclient

        return dnsclient.parse_resolv_conf(self.prober.file(node, "/etc/resolv.conf"))

    def _first_answer(
        self, node: str, servers: Sequence[str], name: str, kind: int, problem: OSError | None
    ) -> tuple[list[str], OSError | None]:
        from netns_orch.kernel import dnsclient

        for server in servers:
            try:
                answer = self.prober.lookup(node, server, name, kind, self.wait(DNS_WAIT))
            except OSError as error:
                number = errno.ETIMEDOUT if isinstance(error, TimeoutError) else error.errno or errno.EIO
                problem = OSError(number, f"{server}: {(error.strerror or str(error)).lower()}")
                continue
            if answer.code in (0, dnsclient.NO_SUCH_NAME):  # to know that there is none is an answer
                return list(answer.addresses), None
            number = errno.ECONNREFUSED if answer.code == dnsclient.REFUSED else errno.EPROTO
            problem = OSError(number, f"{server}: {answer.words}")
        return [], problem

    # -- probes -----------------------------------------------------------------------------------------

    def ask(self, asks: Sequence[Ask], wait: float) -> list[Heard]:
        """Ask all; the lab's own delays come on top of ``wait`` seconds."""
        asked = [one._replace(node=self.root(one.node)) for one in asks]
        return self.prober.ask(asked, self.wait(wait))

    def wait(self, seconds: float, times: int = 1) -> float:
        """How long to wait for an answer that takes ``seconds`` and so many ways through the lab."""
        return min(seconds, self.patience) + times * self.delay

    def stream(self, asks: Sequence[Ask], interval: float, began: float) -> Stream:
        """Ask the same every ``interval`` seconds; times are told since ``began`` (monotonic)."""
        asked = [one._replace(node=self.root(one.node)) for one in asks]
        return self.prober.stream(asked, interval, began)

    def lost(self, node: str, address: str, send: Send | None = None, otherwise: str = "") -> str:
        """Where a packet from a node to an address ends, and why; ``otherwise``, where no reason is found.

        ``send`` is what is sent in the place of pings while counters are watched.
        """
        try:
            found = self.lost_at(node, address, send)
        except Interrupted:
            raise
        except (NetorchError, OSError) as error:
            return f"where it is lost can't be told: {getattr(error, 'what', error)}"
        if found is None or (otherwise and found.kind == "unknown"):
            return otherwise
        hint = f" ({found.hint})" if found.hint else ""
        return f"lost at {found.node}: {found.why}{hint}"

    def lost_at(self, node: str, address: str, send: Send | None = None) -> Lost | None:
        """As ``lost``, as data."""
        return views.lost(self.lab, node, address, send)


def parse_hosts(text: str) -> dict[str, list[str]]:
    """The addresses of each name of a hosts file (hosts(5)), in file order."""
    found: dict[str, list[str]] = {}
    for line in text.splitlines():
        address, *names = line.partition("#")[0].split() or [""]
        for name in names:
            if address not in found.setdefault(name, []):
                found[name].append(address)
    return found


@contextmanager
def open_bench(lab: str) -> Iterator[Bench]:
    """The bench of a lab that is up; UsageError where it is not."""
    from netns_orch.kernel.prober import Prober

    kernel, applied = labs.known(lab)
    with Prober(kernel) as prober:
        try:
            yield Bench(lab, applied.state, prober)
        finally:
            kernel.close()
