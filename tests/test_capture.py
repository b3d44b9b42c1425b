"""capture: packets of many interfaces in one pcapng file, read back by a reader of our own and by tshark."""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import signal
import struct
import subprocess
import time
from collections.abc import Iterator
from ctypes.util import find_library
from ipaddress import ip_address, ip_interface
from pathlib import Path

import pytest
from support import pcapng as reader
from support import snapshot, view
from support.outer import TestHost, run
from support.runner import Lab, Netorch
from support.waiting import until

from netns_orch.capture import Capture, Recorder, Ring, Stream, pcapng
from netns_orch.cli import main
from netns_orch.errors import UsageError
from netns_orch.kernel import newfile

TEXT = """
bridges: {br0: 10.0.0.1/24, lan: }
containers:
  red:
  blue:
  app: {namespaces: {net: "container:blue"}}
  h: {scale: 2}
links:
  - [red, br0]
  - [blue, br0]
  - [red:straight: 10.1.0.1/24, blue:straight: 10.1.0.2/24]
  - [h, lan]
"""
NEEDS_LIBPCAP = pytest.mark.skipif(find_library("pcap") is None, reason="libpcap is not installed")
BROADCAST = bytes.fromhex("ffffffffffff020000000001")
_IPV4 = bytes.fromhex("4500001c000100004011666c" + "0a0000020a000063")
_UDP = struct.pack("!HHHH", 1, 2, 8, 0)


# -- the format ------------------------------------------------------------------------------------


def head(*names: str) -> bytes:
    """The beginning of a file of ours."""
    interfaces = (pcapng.interface(name, link_type=1, snaplen=96) for name in names)
    return pcapng.section(application="netorch", os="Linux") + b"".join(interfaces)


def test_a_file_says_all_of_its_interfaces() -> None:
    described = pcapng.interface(
        "red:eth0",
        link_type=1,
        snaplen=96,
        description="cable to br0",
        mac="02:00:00:00:00:01",
        addresses=["10.0.0.2/24", "fd00::2/64"],
        filter="tcp port 80",
        os="Linux 6",
    )
    section = pcapng.section(application="netorch 1", os="Linux 6", hardware="x86_64", comment="déjà vu")
    file = reader.read(section + described + pcapng.names({"10.0.0.2": "red", "fd00::2": "red"}))
    assert file.section == {1: ["déjà vu".encode()], 2: [b"x86_64"], 3: [b"Linux 6"], 4: [b"netorch 1"]}
    (one,) = file.interfaces
    assert (one.link_type, one.snaplen) == (1, 96)
    assert one.options == {
        2: [b"red:eth0"],
        3: [b"cable to br0"],
        4: [bytes([10, 0, 0, 2, 255, 255, 255, 0])],
        5: [ip_interface("fd00::2/64").packed + bytes([64])],
        6: [bytes([2, 0, 0, 0, 0, 1])],
        9: [bytes([9])],
        11: [b"\0tcp port 80"],
        12: [b"Linux 6"],
    }
    assert file.names == {ip_address("10.0.0.2").packed: "red", ip_address("fd00::2").packed: "red"}
    assert pcapng.names({}) == b""


def test_packets_come_back_as_they_were() -> None:
    now = time.time_ns()
    sizes = range(9)
    blocks = [pcapng.packet(size % 2, now + size, b"x" * size, 1500, 4 * (size % 2)) for size in sizes]
    counts = pcapng.statistics(1, started=now, ended=now + 9, received=12, dropped=3, delivered=9)
    file = reader.read(head("a", "b") + b"".join(blocks) + counts)
    assert file.packets == [
        reader.Packet("ab"[size % 2], now + size, b"x" * size, 1500, ("in", "out")[size % 2])
        for size in sizes
    ]
    assert [file.interfaces[1].count(code) for code in (4, 5, 8)] == [12, 3, 9]
    assert file.interfaces[1].statistics[3] == [struct.pack("<II", now + 9 >> 32, now + 9 & 0xFFFFFFFF)]


def test_a_ring_keeps_the_last_packets_and_the_head() -> None:
    blocks = [pcapng.packet(0, number, bytes(64), 64, 0) for number in range(10)]
    ring = Ring(3 * len(blocks[0]) + 1)
    ring.begin(head("a"))
    for block in blocks:
        ring.take([block])
    ring.end(pcapng.statistics(0, started=0, ended=10, received=10, dropped=0, delivered=10))
    saved = io.BytesIO()
    ring.save(saved)
    file = reader.read(saved.getvalue())
    assert [packet.time for packet in file.packets] == [7, 8, 9]
    assert file.interfaces[0].count(8) == 10
    tiny, saved = Ring(1), io.BytesIO()
    tiny.begin(head("a"))
    tiny.take(blocks)
    tiny.save(saved)
    assert len(reader.read(saved.getvalue()).packets) == 1, "smaller than a packet, it keeps the last one"


def test_a_stream_goes_on_where_a_pipe_took_only_a_part() -> None:
    class Slow(io.BytesIO):
        def write(self, data: object) -> int:
            return super().write(bytes(memoryview(data)[:5]))  # type: ignore[arg-type]

    slow = Slow()
    stream = Stream(slow)
    stream.begin(b"a head, ")
    stream.take([b"one, ", b"two, "])
    stream.end(b"a tail")
    assert slow.getvalue() == b"a head, one, two, a tail"


def test_a_file_is_its_owners_and_no_link_in_tmp_is_followed(tmp_path: Path) -> None:
    public = tmp_path / "tmp"
    public.mkdir()
    public.chmod(0o1777)
    mine = tmp_path / "mine"
    for directory in (tmp_path, public):
        (directory / "link").symlink_to(mine)
    with newfile.open_new(str(tmp_path / "new")) as file:
        file.write(b"new")
        assert os.fstat(file.fileno()).st_mode & 0o777 == 0o600
    with pytest.raises(FileExistsError):
        newfile.open_new(str(tmp_path / "new"), replace=False)
    newfile.open_new(str(tmp_path / "new")).close()
    assert (tmp_path / "new").read_bytes() == b"", "what it held is gone"
    newfile.open_new(str(tmp_path / "link")).close()
    assert mine.stat().st_mode & 0o777 == 0o600
    with pytest.raises(UsageError, match="can't write"):
        newfile.open_new(str(public / "link"))
    with pytest.raises(UsageError, match="can't write"):
        newfile.open_new(str(tmp_path / "nowhere" / "file"))


@pytest.mark.parametrize(
    ("words", "told"),
    {
        "-c 0": "--count: expected at least 1, got 0",
        "-s 9": "--snaplen: expected 16 to 262144, got 9",
        "--ring 0": "--ring: expected at least 1B",
        "--ring x": "--ring: expected a size such as 200M",
        "--duration soon": "--duration: expected a duration",
        "-w - --json": "--json and -w - exclude each other",
    }.items(),
)
def test_wrong_options(words: str, told: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["capture", "red", *words.split()]) == 2
    assert f"error: {told}" in capsys.readouterr().err


# -- a lab -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def lab(outer: TestHost, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """One lab for all tests that leave it as it is."""
    netorch = Netorch(tmp_path_factory.mktemp("capture"))
    before = snapshot.take()
    with netorch.lab(TEXT, "--name", "office") as lab:
        yield lab
    snapshot.assert_equal(before)


class Running:
    """A capture that has begun."""

    def __init__(self, lab: Lab, *words: str | Path, stdout: int = subprocess.PIPE) -> None:
        self.file = lab.file.parent / "test.pcapng"
        words = words if "-w" in words else (*words, "-w", self.file)
        argv = Netorch.argv("capture", "--lab", lab.file, *words)
        self.process = subprocess.Popen(
            argv, cwd=lab.file.parent, stdout=stdout, stderr=subprocess.PIPE, start_new_session=True
        )
        assert self.process.stderr is not None
        self.first = self.process.stderr.readline().decode()
        if not self.first.startswith("capturing on "):
            self.process.kill()
            rest = self.process.communicate()[1].decode()
            raise AssertionError(f"it does not begin: {self.first}{rest}")

    def end(self, number: int | None = signal.SIGINT, code: int = 0) -> str:
        """Send it a signal (None: none), and wait for its end; what it said, without the first line."""
        if number is not None:
            self.process.send_signal(number)
        self.out, err = self.process.communicate(timeout=60)
        assert self.process.returncode == code, err.decode()
        return err.decode()

    def packets(self, least: int = 0) -> reader.File:
        """What it has written, as soon as there are so many packets."""

        def look() -> reader.File | None:
            with contextlib.suppress(AssertionError, struct.error):  # a block is there in part
                file = reader.read(self.file)
                return file if len(file.packets) >= least else None
            return None

        return until(look, f"{least} packets in {self.file}", 60)


@contextlib.contextmanager
def capturing(lab: Lab, *words: str | Path) -> Iterator[Running]:
    """A capture around a block, ended by ctrl-C."""
    running = Running(lab, *words)
    try:
        yield running
    except BaseException:
        running.process.kill()
        running.process.communicate()
        raise
    running.said = running.end()  # type: ignore[attr-defined]


def echoes(packets: list[reader.Packet]) -> list[tuple[str, int, str | None]]:
    """Interface, ICMP type (8 asks, 0 answers) and direction of every echo that is no IP fragment."""
    return [
        (packet.interface, packet.data[34], packet.way)
        for packet in packets
        if packet.data[12:14] == b"\x08\0" and packet.data[23] == 1 and packet.data[34] in (0, 8)
    ]


@pytest.mark.kernel
class TestCapture:
    def test_several_interfaces_in_one_file_with_their_names(self, lab: Lab) -> None:
        before = time.time_ns()
        with capturing(lab, "red:eth0", "blue", "br0") as running:
            lab.ping("red", "10.0.0.3")
            lab.netorch("status", "office")
            running.packets(6)
        assert running.first == (
            f"capturing on red:eth0, blue:eth0, blue:straight, br0, into {running.file}; ctrl-C ends it\n"
        )
        file = running.packets()
        assert echoes(file.packets) == [
            ("red:eth0", 8, "out"),
            ("br0", 8, "in"),
            ("blue:eth0", 8, "in"),
            ("blue:eth0", 0, "out"),
            ("br0", 0, "in"),
            ("red:eth0", 0, "in"),
        ]
        times = [packet.time for packet in file.packets]
        assert before < times[0] and times == sorted(times) and times[-1] < time.time_ns()
        red, blue, straight, bridge = file.interfaces
        assert [red.name, blue.name, straight.name, bridge.name] == [
            "red:eth0",
            "blue:eth0",
            "blue:straight",
            "br0",
        ]
        assert red.options[3] == [b"cable to br0"] and straight.options[3] == [b"cable to red:straight"]
        assert red.options[4] == [bytes([10, 0, 0, 2, 255, 255, 255, 0])]
        mac = lab.sh("red", "cat /sys/class/net/eth0/address")
        assert red.options[6] == [bytes.fromhex(mac.replace(":", ""))]
        for interface in file.interfaces:
            captured = len(file.of(interface.name))
            assert [interface.count(code) for code in (4, 5, 8)] == [captured, 0, captured]
        assert file.names[ip_address("10.0.0.3").packed] == "blue"
        assert file.names[ip_address("10.0.0.1").packed] == "br0"
        assert running.file.stat().st_mode & 0o777 == 0o600
        assert f"  br0: {len(file.of('br0'))} packets\n" in running.said  # type: ignore[attr-defined]

    def test_without_a_node_it_is_every_cable_once_and_sigterm_ends_it(self, lab: Lab) -> None:
        running = Running(lab)
        lab.ping("red", "10.1.0.2")
        running.packets(2)
        running.end(signal.SIGTERM)
        file = running.packets()
        assert {each.name for each in file.interfaces} == {
            "red:eth0",
            "blue:eth0",
            "red:straight",
            "h1:eth0",
            "h2:eth0",
        }
        assert echoes(file.packets) == [("red:straight", 8, "out"), ("red:straight", 0, "in")]

    def test_count_snaplen_and_json(self, lab: Lab) -> None:
        running = Running(lab, "red:lo", "-c", "3", "--snaplen", "60", "--json")
        lab.sh("red", "ping -c3 -i0.1 -s 1000 127.0.0.1")
        running.end(None)
        packets = running.packets().packets
        assert [(len(packet.data), packet.length) for packet in packets] == [(60, 1042)] * 3
        result = lab.netorch("capture", "--lab", "office", "h", "--duration", "100ms", "--json")
        report = result.json()
        assert (report["lab"], report["file"], report["ended"]) == ("office", "office.pcapng", "duration")
        assert [each["name"] for each in report["interfaces"]] == ["h1:eth0", "h2:eth0"]
        assert 0.1 <= report["seconds"] < 60
        lab.netorch("capture", "--lab", lab.file, "app:straight", "--duration", "1ms")
        again = reader.read(lab.file.parent / "office-2.pcapng")
        assert [each.name for each in again.interfaces] == ["app:straight"], "nothing is overwritten unasked"

    def test_the_ring_keeps_the_last_packets(self, lab: Lab) -> None:
        with capturing(lab, "red:lo", "--ring", "1K") as running:
            lab.sh("red", "ping -c30 -i0.002 127.0.0.1")
        file = running.packets()
        assert 3 <= len(file.packets) <= 1024 // 98
        assert file.interfaces[0].count(8) == 60
        sequence = [struct.unpack("!H", packet.data[40:42])[0] for packet in file.packets]
        assert sequence[-1] == 30 and sequence == sorted(sequence)

    def test_into_a_pipe_as_packets_come_until_nobody_reads(self, lab: Lab) -> None:
        running = Running(lab, "red:eth0", "-w", "-")
        assert running.process.stdout is not None
        lab.ping("red", "10.0.0.3")
        data = b""
        while not data or len(echoes(reader.read(data).packets)) < 2:
            data += os.read(running.process.stdout.fileno(), 65536)
        running.process.stdout.close()
        running.process.stdout = None
        assert running.end(None, code=141) == "", "also without one more packet"

    def test_an_interface_that_is_no_ethernet(self, lab: Lab) -> None:
        lab.sh("h1", "ip tuntap add raw mode tun && ip addr add 10.7.0.1/24 dev raw && ip link set raw up")
        try:
            with capturing(lab, "h1") as running:
                lab.sh("h1", "ping -c1 -W1 10.7.0.2", code=1)
            # nobody holds the tun device open, so nothing is sent; what it is was told all the same
            kinds = {each.name: each.link_type for each in running.packets().interfaces}
        finally:
            lab.sh("h1", "ip link del raw")
        assert kinds == {"h1:eth0": 1, "h1:raw": 101}

    @view.IN_PROCESS
    def test_a_recorder_in_this_process(self, lab: Lab) -> None:
        recorder = Recorder(Capture("office", ["red:lo"]), 1 << 20)
        assert recorder.start() == ["red:lo"]
        lab.ping("red", "127.0.0.1")
        summary = recorder.stop()
        assert (summary.packets, summary.ended) == (2, "stopped")
        saved = io.BytesIO()
        recorder.save(saved)
        assert len(echoes(reader.read(saved.getvalue()).packets)) == 2

    def test_wrong_words(self, lab: Lab) -> None:
        for words, told in {
            "red:eth7": "container red has no interface eth7\nhint: there are: lo, eth0, straight",
            "nobody": "no container 'nobody'\nhint: there are: red, blue, h1, h2, app, h, br0, lan",
            "host": "which interface of the host?",
            "host:nope": "the host has no interface nope",
            "br0:eth0": "br0 is a bridge",
            "red:": "expected NODE or NODE:INTERFACE",
            "red -w /nonexistent/x": "can't write /nonexistent/x: No such file or directory",
        }.items():
            assert told in lab.netorch("capture", "--lab", "office", *words.split(), code=2).stderr


def send(lab: Lab, node: str, *frames: bytes) -> None:
    """Put frames on eth0 of a node."""
    script = "import socket, sys; s = socket.socket(17, 3); s.bind(('eth0', 0))\n"
    lab.python(node, script + "\n".join(f"s.send(bytes.fromhex('{frame.hex()}'))" for frame in frames))


@pytest.mark.kernel
@NEEDS_LIBPCAP
class TestFilter:
    def test_lets_through_what_it_says(self, lab: Lab) -> None:
        with capturing(lab, "red:eth0", "br0", "-f", "icmp[0] = 8") as running:
            lab.ping("red", "10.0.0.3")
            running.packets(2)
        file = running.packets()
        assert echoes(file.packets) == [("red:eth0", 8, "out"), ("br0", 8, "in")]
        assert len(file.packets) == 2 and file.interfaces[0].options[11] == [b"\0icmp[0] = 8"]

    def test_a_vlan_tag_is_in_the_file_and_seen_by_the_filter_at_either_end(self, lab: Lab) -> None:
        tagged = BROADCAST + struct.pack("!HHH", 0x8100, 10, 0x0800) + _IPV4 + _UDP
        plain = BROADCAST + struct.pack("!H", 0x0800) + _IPV4 + _UDP
        with capturing(lab, "red:eth0", "blue:eth0", "-f", "vlan 10 and udp") as running:
            send(lab, "red", plain, tagged, plain)
            running.packets(2)
        assert [(p.interface, p.data, p.length) for p in running.packets().packets] == [
            ("red:eth0", tagged, len(tagged)),
            ("blue:eth0", tagged, len(tagged)),
        ]
        with capturing(lab, "red:eth0", "blue:eth0", "-f", "udp") as running:
            send(lab, "red", tagged, plain)
            running.packets(2)
        assert [(p.interface, p.data) for p in running.packets().packets] == [
            ("red:eth0", plain),
            ("blue:eth0", plain),
        ]

    def test_a_wrong_one_is_told_in_libpcaps_words(self, lab: Lab) -> None:
        told = lab.netorch("capture", "--lab", "office", "red", "-f", "tcp prt 80", "-w", "never", code=2)
        assert "error: --filter 'tcp prt 80': " in told.stderr and "syntax error" in told.stderr
        assert not (lab.file.parent / "never").exists()


@pytest.mark.kernel
def test_tshark_shows_the_interfaces_names(lab: Lab) -> None:
    if shutil.which("tshark") is None:
        pytest.skip("tshark is not installed")
    with capturing(lab, "red:eth0", "red:straight") as running:
        lab.ping("red", "10.1.0.2")
        lab.ping("red", "10.0.0.3")
        running.packets(4)
    fields = ["-T", "fields", "-e", "frame.interface_name", "-e", "ip.dst"]
    shown = run("tshark", "-r", str(running.file), "-Y", "icmp.type == 8", *fields)
    assert shown.splitlines() == ["red:straight\t10.1.0.2", "red:eth0\t10.0.0.3"]


@pytest.mark.kernel
@pytest.mark.parametrize("where", ["host", "private"])
def test_a_capture_lives_as_long_as_what_it_looks_at(netorch: Netorch, where: str) -> None:
    """A link goes down and up, a container is made anew in its network; one interface goes, at last all do.

    Sockets keep a namespace, and with it its cables: ``down`` must not be held up by them.
    """
    text = TEXT.replace("10.0.0.", "10.8.0.").replace("10.1.0.", "10.9.0.")
    with netorch.lab(f"name: other\nnetns: {where}\n{text}") as lab:
        running = Running(lab, "red", "br0", "h1")
        netorch("link", "red", "blue", "down", "--lab", "other")
        netorch("link", "red", "blue", "up", "--lab", "other")
        netorch("restart", "red", "--lab", "other")
        lab.exec("h1", "ip", "link", "del", "eth0")
        until(lambda: lab.exec("red", "ping", "-c1", "-W1", "10.9.0.2", code=None).code == 0, "an answer")
        lab.ping("red", "10.8.0.3")
        netorch("down", "other")
        said = running.end(None)
    assert "no interface is left" in said and "  h1:eth0: 0 packets, then it went\n" in said
    packets = running.packets()
    assert echoes(packets.of("red:straight"))[-1] == ("red:straight", 0, "in")
    assert echoes(packets.of("br0") + packets.of("red:eth0")) == [
        ("br0", 8, "in"),
        ("br0", 0, "in"),
        ("red:eth0", 8, "out"),
        ("red:eth0", 0, "in"),
    ]


def test_without_libpcap_a_filter_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    from netns_orch.errors import MissingFeature
    from netns_orch.kernel import pcapfilter

    monkeypatch.setattr(pcapfilter, "LIBRARIES", ("libnothing.so.7",))
    with pytest.raises(MissingFeature) as caught:
        pcapfilter.compile("tcp", 1, 100)
    assert "libpcap0.8" in (caught.value.hint or "")
