"""Sysctls of the host: set for the first lab, given back by the last, and nothing else changed by it."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from support import view
from support.nodes import Node, bridge, node
from support.outer import run
from support.waiting import until

from netns_orch.errors import KernelError
from netns_orch.kernel import hostsysctl, hosttable, netfilter, rundir
from netns_orch.kernel.hostsysctl import acquire, observe, release
from netns_orch.resources import GROUP_FIRST, HostSysctl, HostTable

pytestmark = [pytest.mark.kernel, view.IN_PROCESS]
ON4 = {"net.ipv4.ip_forward": "1"}
ON6 = {"net.ipv6.conf.all.forwarding": "1"}
BOTH = {**ON4, **ON6}


def read(name: str) -> str:
    return Path("/proc/sys/net", name).read_text().strip()


def write(name: str, value: str) -> None:
    Path("/proc/sys/net", name).write_text(value)


def picture() -> dict[str, str]:
    """Every net sysctl under conf, and ip_forward."""
    top = Path("/proc/sys/net")
    files = [top / "ipv4/ip_forward", *top.glob("ipv[46]/conf/*/*")]
    return {str(file): _text(file) for file in files}


def _text(file: Path) -> str:
    try:
        return file.read_text()
    except OSError:
        return ""


@pytest.fixture
def odd(host: object) -> Iterator[ExitStack]:
    """A host whose values are not the kernel's defaults, so that a reset would be seen."""
    oddities = {
        "ipv4/conf/all/accept_redirects": "1",
        "ipv4/conf/default/forwarding": "1",
        "ipv4/conf/uplink/forwarding": "1",
        "ipv6/conf/uplink/forwarding": "1",
        "ipv6/conf/uplink/accept_ra": "1",
    }
    with ExitStack() as stack:
        stack.callback(write, "ipv4/ip_forward", "0")
        for name, value in oddities.items():
            stack.callback(write, name, read(name))
            write(name, value)
        yield stack


def test_all_that_forwarding_touches_is_given_back(odd: ExitStack) -> None:
    before = picture()
    assert acquire("a", "1f", BOTH).items() >= {("net.ipv4.ip_forward", "0")}
    assert read("ipv4/ip_forward") == read("ipv6/conf/all/forwarding") == "1"
    assert read("ipv4/conf/all/accept_redirects") == "0"
    assert read("ipv6/conf/uplink/accept_ra") == "2"
    assert {(s.name, s.value) for s in observe("a", "1f")} == set(BOTH.items())
    release("a", "1f", BOTH)
    assert picture() == before
    assert observe("a", "1f") == []
    assert not Path(rundir.RUN).exists()


def test_the_last_lab_gives_back_what_was_before_the_first(odd: ExitStack) -> None:
    before = picture()
    first = acquire("a", "1f", BOTH)
    assert acquire("b", "1f", ON4)["net.ipv4.ip_forward"] == first["net.ipv4.ip_forward"] == "0"
    release("a", "1f", BOTH)
    assert (read("ipv4/ip_forward"), read("ipv6/conf/all/forwarding")) == ("1", "0")
    release("b", "1f", ON4)
    assert picture() == before


def test_what_others_changed_meanwhile_stays(odd: ExitStack) -> None:
    for name in ("ipv4/conf/lo/forwarding", "ipv6/conf/lo/accept_ra"):
        odd.callback(write, name, read(name))
    acquire("a", "1f", BOTH)
    write("ipv4/conf/lo/forwarding", "0")
    write("ipv4/conf/all/accept_redirects", "1")
    write("ipv6/conf/lo/accept_ra", "0")
    release("a", "1f", BOTH)
    assert read("ipv4/ip_forward") == "0"
    assert read("ipv4/conf/lo/forwarding") == "0"
    assert read("ipv4/conf/all/accept_redirects") == "1"
    assert read("ipv6/conf/lo/accept_ra") == "0"


def test_an_interface_made_meanwhile_is_as_without_us(host: object) -> None:
    acquire("a", "1f", ON4)
    with bridge("later"):
        assert read("ipv4/conf/later/forwarding") == "1"
        release("a", "1f", ON4)
        assert read("ipv4/conf/later/forwarding") == read("ipv4/conf/default/forwarding") == "0"


def test_interfaces_of_labs_are_not_noted(host: object) -> None:
    with bridge("ours", group=GROUP_FIRST + 1), bridge("th.eirs"):
        previous = acquire("a", "1f", ON4)
        assert "net.ipv4.conf.th/eirs.forwarding" in previous
        assert "net.ipv4.conf.ours.forwarding" not in previous
        release("a", "1f", ON4)


def test_labs_that_want_different_values(host: object) -> None:
    acquire("a", "1f", {"net.ipv4.conf.all.rp_filter": "2"})
    before = picture()
    with pytest.raises(KernelError, match="lab a wants it 2"):
        acquire("b", "1f", {"net.ipv4.conf.all.rp_filter": "1"})
    assert picture() == before
    release("a", "1f", ["net.ipv4.conf.all.rp_filter"])


def test_a_value_that_writes_through_to_interfaces(host: object) -> None:
    before = picture()
    acquire("a", "1f", {"net.ipv4.conf.default.rp_filter": "2", "net.ipv6.conf.all.disable_ipv6": "0"})
    release("a", "1f", ["net.ipv4.conf.default.rp_filter", "net.ipv6.conf.all.disable_ipv6"])
    assert picture() == before


def test_one_lab_wants_what_anothers_write_touched(host: object) -> None:
    before = picture()
    one = {"net.ipv4.conf.uplink.forwarding": "1"}
    acquire("a", "1f", ON4)
    acquire("b", "1f", one)
    release("a", "1f", ON4)
    assert (read("ipv4/ip_forward"), read("ipv4/conf/uplink/forwarding")) == ("0", "1")
    release("b", "1f", one)
    assert picture() == before


@pytest.mark.parametrize("wanted", [{"net.ipv4.nosuch": "1"}, {"net.ipv4.conf.all.rp_filter": "many"}])
def test_what_the_kernel_refuses_is_named(host: object, wanted: dict[str, str]) -> None:
    with pytest.raises(KernelError, match=next(iter(wanted))):
        acquire("a", "1f", wanted)
    release("a", "1f", wanted)


def test_drift_is_shown_and_mended(host: object) -> None:
    before = picture()
    acquire("a", "1f", ON4)
    write("ipv4/ip_forward", "0")
    assert observe("a", "1f") == [HostSysctl(name="net.ipv4.ip_forward", value="0")]
    acquire("a", "1f", ON4)
    release("a", "1f", ON4)
    assert picture() == before


def test_another_name_of_the_same(host: object) -> None:
    other = HostSysctl(name="net.ipv4.conf.all.forwarding", value="1")
    acquire("a", "1f", {other.name: other.value})
    assert observe("a", "1f", [other]) == [other]
    release("a", "1f", [other.name])
    assert read("ipv4/ip_forward") == "0"


@pytest.mark.parametrize("labs", [("a",), ("a", "b")])
def test_the_nft_tables_know_when_the_file_is_gone(odd: ExitStack, labs: tuple[str, ...]) -> None:
    before = picture()
    for lab in labs:
        hosttable.apply(None, HostTable(), lab=lab, id="1f", previous_sysctls={})
        mark = hosttable.observe(lab, "1f", HostTable())
        acquire(lab, "1f", BOTH)
        assert hosttable.observe(lab, "1f", HostTable()) == mark, "a note is no drift"
    for file in Path(rundir.RUN).iterdir():
        file.unlink()
    for lab in labs:
        assert {s.name for s in observe(lab, "1f")} == set(BOTH)
        assert read("ipv4/ip_forward") == "1"
        release(lab, "1f", BOTH)
        hosttable.apply(HostTable(), None, lab=lab, id="1f", previous_sysctls={})
    assert picture() == before


def test_a_new_lab_learns_the_truth_from_the_tables(odd: ExitStack) -> None:
    before = picture()
    hosttable.apply(None, HostTable(), lab="a", id="1f", previous_sysctls={})
    first = acquire("a", "1f", ON4)
    for file in Path(rundir.RUN).iterdir():
        file.unlink()
    assert acquire("b", "1f", ON4) == first
    release("b", "1f", ON4)
    release("a", "1f", ON4)
    hosttable.apply(HostTable(), None, lab="a", id="1f", previous_sysctls={})
    assert picture() == before


def test_killed_before_anything_was_read_back(odd: ExitStack, monkeypatch: pytest.MonkeyPatch) -> None:
    before = picture()
    real = hostsysctl._set

    def dies(name: str, value: str, saved: hostsysctl._Saved) -> None:
        real(name, value, saved)
        raise KeyboardInterrupt

    monkeypatch.setattr(hostsysctl, "_set", dies)
    with pytest.raises(KeyboardInterrupt):
        acquire("a", "1f", ON4)
    assert read("ipv4/ip_forward") == "1"
    release("a", "1f", ON4)
    assert picture() == before


def _announce(router: Node) -> None:
    """A router advertisement (RFC 4861) with a lifetime of 1800 s."""
    packet = struct.pack("!BBHBBHII", 134, 0, 0, 64, 0, 1800, 0, 0)

    def send() -> None:
        with socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6) as raw:
            raw.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, 255)
            raw.sendto(packet, ("ff02::1", 0, 0, socket.if_nametoindex("eth0")))

    router.call(send)


@pytest.mark.parametrize("by_us", [True, False])
def test_the_default_route_that_a_router_announced_stays(host: object, by_us: bool) -> None:
    """The kernel drops such routes when it begins to forward, as the control shows."""

    def announced() -> bool:
        return "via fe80::1" in run("ip", "-6", "route", "show", "default", "dev", "upl", "proto", "ra")

    with bridge("upl"), node("upl", "fe80::1/64") as router:
        _announce(router)
        until(announced, "the route")
        if by_us:
            acquire("a", "1f", ON6)
            assert announced()
            release("a", "1f", ON6)
            assert announced()
            assert read("ipv6/conf/upl/accept_ra") == "1"
        else:
            write("ipv6/conf/all/forwarding", "1")
            assert not announced()
            write("ipv6/conf/all/forwarding", "0")


def test_many_labs_at_once(host: object) -> None:
    before = picture()
    failures: list[BaseException] = []

    def lab(name: str) -> None:
        try:
            for _ in range(10):
                acquire(name, "1f", ON4)
                assert read("ipv4/ip_forward") == "1"
                release(name, "1f", ON4)
        except BaseException as error:  # noqa: BLE001 - shown by the test
            failures.append(error)

    threads = [threading.Thread(target=lab, args=(f"l{n}",)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert picture() == before
    assert not Path(rundir.RUN).exists()


def test_in_another_namespace(host: object) -> None:
    other = Node()
    try:
        acquire("a", "1f", ON4, netns_fd=other.fd)
        assert other.run("cat", "/proc/sys/net/ipv4/ip_forward") == "1\n"
        assert read("ipv4/ip_forward") == "0"
        release("a", "1f", ON4, netns_fd=other.fd)
        assert netfilter.in_netns(other.fd, read, "ipv4/ip_forward") == "0"
    finally:
        other.close()
