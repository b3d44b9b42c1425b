"""``netorch test`` on the real kernel: labs that are right, and labs that are broken in one place each."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
from pathlib import Path
from typing import Any

import pytest
from support import junit, pcapng, view
from support.runner import Netorch
from support.waiting import until

from netns_orch.cli.test import _places

kernel = pytest.mark.kernel
PAIR = """
bridges:
  br0: 10.0.0.1/24
containers:
  red:
  blue: {command: [python3, -m, http.server, "80"], ready: {tcp: 80}}
links:
  - [red, br0]
  - [blue, br0]
"""
CHAIN = """
bridges:
  left: {subnet: 10.1.1.0/24, gateway: r1}
  right: {subnet: "10.1.3.0/24", gateway: r2}
containers:
  red: {extra_hosts: {db.lab: 10.1.3.2}}
  r1: {router: true, routes: [10.1.3.0/24 via 10.1.2.2]}
  r2:
    router: true
    routes: [10.1.1.0/24 via 10.1.2.1]
    iptables: [-A FORWARD -p tcp --dport 81 -j DROP, -A FORWARD -p udp --dport 70 -j DROP]
  blue:
    command: |
      python3 -m http.server 81 &
      python3 -c 'import socket
      log, echo = (socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(2))
      log.bind(("", 514)); echo.bind(("", 7))
      while True:
          data, sender = echo.recvfrom(2000)
          echo.sendto(data, sender)' &
      exec python3 -m http.server 80
    ready: {tcp: 80}
links:
  - [r1, left]
  - [red, left]
  - endpoints: [r1:wan: 10.1.2.1/30, r2:wan: 10.1.2.2/30]
  - [r2, right]
  - [blue, right]
checks:
"""
"""red - left - r1 - r2 - right - blue"""


GOOD = "checks: [{reach: all}, {reach: all}, {exec: {in: red, run: 'true'}}]\n"


def run(netorch: Netorch, *words: str | Path, code: int = 0) -> dict[str, Any]:
    """What ``test --json`` says."""
    found: dict[str, Any] = netorch("test", "--json", *words, code=code).json()
    assert found["exit_code"] == code
    return found


def results(found: dict[str, Any], which: str = "checks") -> list[dict[str, Any]]:
    """The results of the only file."""
    (file,) = found["files"]
    rows: list[dict[str, Any]] = file[which]
    return rows


def said(row: dict[str, Any]) -> str:
    """All that a result tells."""
    return "\n".join(row["messages"])


HOLD = """
  - reach: {to: [red, blue, r1, r2]}
  - ping: {from: red, to: [blue, 10.1.2.2, r1], count: 3, max_rtt: 2s}
  - tcp: {from: [red, host], to: "127.0.0.1:81", expect: refused}
  - tcp: {from: red, to: "blue:80"}
  - {tcp: {from: red, to: "blue:81", expect: timeout}, name: by a rule}
  - tcp: {from: r2, to: "blue:81"}
  - udp: {from: red, to: ["blue:7", "blue:514"]}
  - udp: {from: red, to: "blue:9", expect: refused}
  - http: {from: red, url: "http://blue/usr/bin/../../etc/", status: 200, body: "hostname"}
  - http: {from: red, url: "http://10.1.3.2/nosuch", status: 404}
  - dns: {from: red, name: db.lab, address: 10.1.3.2}
  - dns: {from: red, name: db2.lab, server: blue, expect: refused}
  - http: {from: red, url: "http://blue:82/", expect: refused}
  - {http: {from: red, url: "http://blue:81/", expect: timeout}, name: no page by a rule}
  - route: {from: red, to: blue, path: [r1, r2]}
  - route: {from: r1, to: r2, path: []}
  - throughput: {from: red, to: blue, min: 1kbit}
  - exec: {in: [red, blue], run: "hostname; echo x >&2; exit 3", stdout: "^(red|blue)", stderr: "x", code: 3}
  - exec: {in: host, run: [ip, -brief, link], stdout: "-lef"}
"""
FAIL = """
  - tcp: {from: red, to: "blue:81"}
  - tcp: {from: red, to: "blue:82"}
  - udp: {from: red, to: "blue:70"}
  - ping: {from: red, to: 10.9.9.9}
  - ping: {from: red, to: blue, expect: fail}
  - http: {from: red, url: "http://blue:82/"}
  - http: {from: red, url: "https://blue:80/"}
  - dns: {from: red, name: blue, address: 10.1.3.9}
  - route: {from: red, to: blue, path: [r2, r1]}
  - exec: {in: red, run: "false"}
"""
NO_PROOF = """
  - tcp: {from: red, to: "blue:82", expect: fail}
  - ping: {from: red, to: 10.1.3.99, expect: fail}
"""


@kernel
def test_every_kind_of_check(netorch: Netorch) -> None:
    """In one lab: some hold, some don't and say where the packet ended, and some prove nothing."""
    lab = netorch.write(CHAIN + HOLD + FAIL + NO_PROOF)
    rows = results(run(netorch, lab, code=1))
    hold = rows[: -FAIL.count("  -") - NO_PROOF.count("  -")]
    assert {row["name"]: said(row) for row in hold if row["result"] != "passed"} == {}
    wrong = {row["name"]: said(row) for row in rows if row["result"] == "failed"}
    assert len(wrong) == FAIL.count("  -")
    assert "lost at r2: r2 drops it: -A FORWARD -p tcp" in wrong["tcp red -> blue:81"]
    assert "lost at blue: nothing there listens on tcp port 82" in wrong["tcp red -> blue:82"]
    assert "r2 drops it" in wrong["udp red -> blue:70"] and "--dport 70" in wrong["udp red -> blue:70"]
    assert "lost at r1: r1 has no route to 10.9.9.9" in wrong["ping red -> 10.9.9.9"]
    assert "nothing there listens on tcp port 82" in wrong["http red -> http://blue:82/"]
    assert "no tls there: wrong version number" in wrong["http red -> https://blue:80/"]
    assert "it answers, and should not" in wrong["ping red -> blue (fail)"]
    assert "is 10.1.3.2, expected 10.1.3.9" in wrong["dns red: blue"]
    assert "the way is r1 > r2, expected r2 > r1" in wrong["route red -> blue by r2, r1"]
    assert "exit code 1, expected 0" in wrong["exec red: false"]
    doubtful = {row["name"] for row in rows if row["result"] == "no proof"}
    assert doubtful == {"tcp red -> blue:82 (fail)", "ping red -> 10.1.3.99 (fail)"}


@kernel
@view.NO_PAUSE
def test_a_lab_that_is_up(netorch: Netorch) -> None:
    """``--lab`` tests it as it is now, and leaves it up; what its scenario has changed is said."""
    checks = """
checks:
  - {ping: {from: red, to: blue}, tags: [net]}
  - {ping: {from: blue, to: 10.0.0.1, expect: fail}, tags: [net]}
  - {tcp: {from: red, to: "blue:80", expect: fail}, tags: [tcp]}
  - exec: {in: red, run: "exit 1"}
scenario:
  - link red br0 down
  - {ping: {from: blue, to: red, expect: fail}, tags: [steps]}
  - pause blue
"""
    with netorch.lab(PAIR + checks, "--private") as lab:
        rows = results(run(netorch, "--lab", "lab", "--tags", "net,more", code=1))
        assert [row["result"] for row in rows] == ["passed", "failed"]
        lab.netorch("link", "blue", "br0", "down")
        (found,) = run(netorch, "--lab", "lab", "--tags", "net,tcp", code=1)["files"]
        assert [row["result"] for row in found["checks"]] == ["failed", "no proof", "no proof"]
        assert "lost at red: the cable blue:eth0 - br0 is unplugged" in said(found["checks"][0])
        assert "no interface of blue has a carrier" in said(found["checks"][1])
        assert "eth0 of blue, which has 10.0.0.3, has no carrier" in said(found["checks"][2])
        assert found["scenario"] == [] and found["notes"] == []
        lab.netorch("link", "blue", "br0", "up")
        text = netorch("test", "--lab", "lab", "--no-scenario", code=1)
        assert "FAILED: ping blue -> 10.0.0.1 (fail)" in text.stdout
        assert text.stderr.startswith("1 file: 1 check passed, 3 failed in ")
        assert netorch("status", "lab", "--json").json()["drift"] == []
        (found,) = run(netorch, "--lab", "lab", "--tags", "steps")["files"]
        assert [row["result"] for row in found["scenario"]] == ["passed"] * 3
        drift, paused = found["notes"]
        assert "the scenario left lab lab other than it should be: cable red:eth0" in drift
        assert netorch("status", "lab", code=1).stdout.startswith("drift: cable red:eth0")
        netorch(*drift.partition("put it back with: netorch ")[2].split())
        assert netorch("status", "lab", "--json").json()["drift"] == []
        assert paused == "the scenario left paused: blue; go on with: netorch unpause --lab lab blue"
        netorch("unpause", "--lab", "lab", "blue")
    netorch("test", "--lab", "lab", code=2)


@kernel
def test_a_scenario(netorch: Netorch) -> None:
    """The outage is seen whole, from before the command that causes it; a command that fails ends it."""
    steps = """
checks: [{reach: all}]
scenario:
  - link red br0 down
  - {ping: {from: red, to: blue, expect: fail}}
  - link red br0 up
  - link blue br0 down
  - wait: 1s
  - link blue br0 up
  - converges: {within: 40s, checks: [{ping: {from: red, to: blue}}, {tcp: {from: red, to: "blue:80"}}]}
  - {http: {from: red, url: "http://blue/"}, within: 5s}
  - converges: {within: 5s, checks: [{exec: {in: red, run: "true"}}, {ping: {from: blue, to: red}}]}
  - link blue br0 down
  - converges: {within: 1s, checks: [{ping: {from: red, to: blue}}]}
  - exec blue sh -c 'echo broken; exit 7'
  - exec blue true
"""
    netorch.write(PAIR + steps)
    rows = results(run(netorch, code=1), "scenario")
    assert [row["result"] for row in rows] == ["passed"] * 10 + ["failed", "failed", "skipped"]
    outage = rows[6]
    assert 1000 <= outage["figures"]["outage_ms"] < 40_000, outage
    assert outage["figures"]["lost_packets"] >= 50
    assert f"outage of {outage['figures']['outage_ms']:.0f} ms" in said(outage)
    assert "no packet was lost" in said(rows[8])
    assert "still lost after" in said(rows[10]) and "unplugged" in said(rows[10])
    assert said(rows[11]) == "exit code 7\nbroken"


@kernel
def test_many_files_side_by_side(netorch: Netorch) -> None:
    """Each kind of end, in one run: the exit code is that of the worst, JUnit has a case for each check."""
    netorch.write(PAIR + GOOD, "labs/a-good.yaml")
    netorch.write(PAIR + "checks: [{tcp: {from: red, to: 'blue:81'}}]\n", "labs/b-fails.yaml")
    netorch.write(PAIR, "labs/c-none.yaml")
    broken = PAIR.replace("red:\n", 'red: {setup: ["exit 9"]}\n')
    netorch.write(broken + GOOD, "labs/d-broken.yaml")
    netorch.write(PAIR + "checks: [{ping: {from: rde, to: blue}}]\n", "labs/e-invalid.yaml")
    netorch.write("services: {web: {image: x}}\n", "labs/compose.yaml")
    everything = netorch("test", "labs", "-j", "3", "--junit", "out/junit.xml", "--json", code=3)
    states = {Path(file["file"]).stem: file["state"] for file in everything.json()["files"]}
    assert states == {
        "a-good": "passed", "b-fails": "failed", "c-none": "no checks", "d-broken": "not built",
        "e-invalid": "invalid",
    }  # fmt: skip
    assert (
        "5 files: 3 checks passed, 1 failed, 1 file not built, 1 file invalid, 1 file with nothing to check"
        in everything.stderr
    )
    numbers = junit.read(netorch.directory / "out/junit.xml")
    assert numbers == [(3, 0, 0, 0), (1, 1, 0, 0), (1, 0, 0, 1), (3, 0, 3, 0), (1, 0, 1, 0)]
    table = netorch("test", "labs/e-invalid.yaml", "labs/c-none.yaml", code=2).stdout
    assert "there is no container 'rde'" in table and "did you mean 'red'?" in table
    assert "the file has no checks: nothing is proven" in table
    assert netorch("ls", "--json").json() == []


@kernel
def test_tags_that_match_nothing(netorch: Netorch) -> None:
    """Table, exit code, JSON and JUnit agree: it is no success; beside what was checked it is no failure."""
    tagged = "checks: [{reach: all, tags: [net, slow]}, {exec: {in: red, run: 'true'}}]\n"
    one, other = netorch.write(PAIR + tagged, "one.yaml"), netorch.write(PAIR + GOOD, "other.yaml")
    why = "no check has nett or tcp among its tags (theirs are net, slow): nothing is proven"
    done = netorch("test", one, "--tags", "nett,tcp", "--junit", "j.xml", code=1)
    assert "NO CHECKS" in done.stdout and why in done.stdout
    assert "error: nothing was checked: no file has a check that was asked for" in done.stderr
    found = run(netorch, one, "--tags", "nett,tcp", code=1)
    assert (found["passed"], found["files"][0]["errors"]) == (False, [why])
    assert found["problem"] == "nothing was checked: no file has a check that was asked for"
    assert junit.read(netorch.directory / "j.xml") == [(1, 0, 1, 0)]
    found = netorch("test", one, other, "--tags", "net", "--junit", "j.xml", "--json").json()
    assert (found["passed"], found["problem"]) == (True, None)
    assert junit.read(netorch.directory / "j.xml") == [(1, 0, 0, 0), (1, 0, 0, 1)]


@kernel
def test_what_this_kernel_lacks_is_skipped_and_said(netorch: Netorch) -> None:
    """An impossible amount of a cgroup controller can't be had anywhere; a kernel module may."""
    from netns_orch.kernel import facts
    from netns_orch.kernel.rundir import host_id

    needs = {"netem": ("delay: 1ms", ""), "vrf": ("", "interfaces: {v: {vrf: [eth0], table: 10}}"),
             "bond": ("", "interfaces: {b: {bond: [eth0]}}")}  # fmt: skip
    there = facts.host_facts("x", host_id(), want=frozenset(needs)).features
    lacking = [name for name in needs if name not in there]
    if not lacking:
        pytest.skip("this kernel has all of netem, vrf and bond")
    on_link, in_red = needs[lacking[0]]
    text = PAIR.replace("red:\n", f"red: {{{in_red}}}\n").replace(
        "  - [red, br0]", f"  - {{endpoints: [red, br0], {on_link}}}" if on_link else "  - [red, br0]"
    )
    lab = netorch.write(text + "checks: [{reach: all}, {reach: all}]\n", "needs.yaml")
    other = netorch.write(PAIR + "checks: [{ping: {from: red, to: blue}}]\n", "other.yaml")
    found = run(netorch, lab, other)
    assert [file["state"] for file in found["files"]] == ["skipped", "passed"]
    assert f"this host lacks {lacking[0]}" in found["files"][0]["errors"][0]
    run(netorch, lab, "--no-skip", code=3)


def is_syn(frame: bytes, source: str, target: str, port: int) -> bool:
    """Whether a frame is the first packet of a TCP connection between these (RFC 791, RFC 9293)."""
    head = frame[14:34]
    if frame[12:14] != b"\x08\x00" or head[9] != 6:
        return False
    ends = socket.inet_aton(source) + socket.inet_aton(target)
    tcp = frame[14 + 4 * (head[0] & 15) :]
    return head[12:20] == ends and tcp[2:4] == port.to_bytes(2, "big") and tcp[13] & 0x12 == 0x02


def test_each_file_has_a_directory_of_artefacts_of_its_own() -> None:
    files = [Path(name) for name in ("a.yaml", "b/a.yaml", "a-2.yaml", "c/a.yml")]
    assert list(_places(files, "kept")) == ["kept/a", "kept/a-2", "kept/a-2-2", "kept/a-3"]
    assert list(_places(files, None)) == [None] * 4


@kernel
def test_artefacts_of_a_failure(netorch: Netorch) -> None:
    """What failed can be looked at afterwards, the very packets; of what passed nothing is kept."""
    text = PAIR.replace(
        "red:\n",
        "red: {iptables: [-A INPUT -s 10.0.0.3 -p icmp -j DROP, -A INPUT -p tcp --dport 22 -j DROP], "
        "command: echo hello}\n",
    )
    checks = "checks: [{ping: {from: blue, to: red}}, {tcp: {from: blue, to: 'red:22'}}]\n"
    bad = netorch.write(text + checks, "bad.yaml")
    good = netorch.write(PAIR + "checks: [{ping: {from: blue, to: red}}]\n", "good.yaml")
    steps = "scenario: [down, up, {ping: {from: blue, to: red}}, down]\n"
    gone = netorch.write(PAIR + "checks: [{exec: {in: red, run: 'false'}}]\n" + steps, "gone.yaml")
    found = run(netorch, bad, good, gone, "--artifacts", "kept", "--keep-failed", code=1)
    kept = netorch.directory / "kept"
    assert sorted(path.name for path in kept.iterdir()) == ["bad", "gone"]
    assert [row["result"] for row in found["files"][2]["scenario"]] == ["passed"] * 4
    assert "failed: exec red: false" in (kept / "gone/report.txt").read_text()
    assert any("what the lab was is not kept: no lab" in note for note in found["files"][2]["notes"])
    assert (kept / "bad/logs/red.log").read_text().strip() == "hello"
    assert re.search(r"\[[1-9]\d*:\d+\] -A INPUT -s 10.0.0.3", (kept / "bad/rules/red.txt").read_text())
    assert "FAILED" not in (kept / "bad/report.txt").read_text()
    assert "lost at red: red drops it: -A INPUT -s 10.0.0.3" in (kept / "bad/report.txt").read_text()
    assert json.loads((kept / "bad/status.json").read_text())["drift"] == []
    assert json.loads((kept / "bad/links.json").read_text())["blue"]["eth0"]["tx_packets"] > 0
    assert "+ container blue" in (kept / "bad/plan.txt").read_text()
    packets = pcapng.read(kept / "bad/packets.pcapng")
    ways = {(p.interface, p.way) for p in packets.packets if b"netorch check" in p.data}
    assert ("red:eth0", "in") in ways, "the echo request that was lost"
    syns = {(p.interface, p.way) for p in packets.packets if is_syn(p.data, "10.0.0.3", "10.0.0.2", 22)}
    assert ("red:eth0", "in") in syns, "the SYN that was lost"
    (row,) = netorch("ls", "--json").json()  # the one that failed is still there
    assert row["lab"] == found["files"][0]["lab"]
    netorch("exec", "--lab", row["lab"], "red", "true")
    netorch("down", row["lab"])


@kernel
def test_ctrl_c_takes_all_labs_down(netorch: Netorch) -> None:
    text = PAIR + "checks: [{exec: {in: red, run: sleep 600}}, {exec: {in: red, run: sleep 601}}]\n"
    files = [netorch.write(text, f"{name}.yaml") for name in ("one", "two", "three")]
    report = netorch.directory / "junit.xml"
    report.write_text("of another day")
    process = netorch.start("test", "-j", "2", "--junit", str(report), "--json", *files)
    running = lambda: [row for row in netorch("ls", "--json").json() if row["state"] == "up"]  # noqa: E731
    until(lambda: len(running()) == 2, "two labs that are up", 60)
    os.kill(process.pid, signal.SIGINT)
    said, errors = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGINT, errors
    assert "all labs are taken down" in errors
    assert junit.read(report) == [(2, 0, 2, 0), (2, 0, 2, 0), (1, 0, 1, 0)]  # the third had not begun
    assert [file["state"] for file in json.loads(said)["files"]] == ["interrupted"] * 3
    assert netorch("ls", "--json").json() == []


@kernel
def test_a_test_that_is_killed_takes_its_labs_down(netorch: Netorch) -> None:
    """Nobody is left who could tell the worker: the kernel does."""
    file = netorch.write(PAIR + "checks: [{exec: {in: red, run: sleep 600}}]\n")
    process = netorch.start("test", file)
    until(lambda: [row for row in netorch("ls", "--json").json() if row["state"] == "up"], "a lab", 60)
    process.kill()
    process.communicate()
    until(lambda: netorch("ls", "--json").json() == [], "the lab's end", 60)
