"""netorch for Python: what is built in code equals the file, and a running lab is in a program's hands."""

from __future__ import annotations

import os
import socket
import threading
from pathlib import Path
from typing import Any, get_type_hints

import pytest
import yaml
from support import view
from support.runner import ROOT

import netorch
from netns_orch import api, labfile
from netns_orch.api import topology
from netns_orch.labfile import format as keys
from netns_orch.labfile import network

HERE = Path(__file__).name


# -- built in code ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("typed", "record"),
    [
        (topology.ContainerKeys, keys.SCALED),
        (topology.HostKeys, keys.HOST),
        (topology.LinkKeys, network._LINK),
        (topology.EndKeys, network._END_OPTIONS),
    ],
)
def test_the_arguments_are_the_keys_of_the_file(typed: Any, record: Any) -> None:
    names = set(get_type_hints(typed, vars(topology)))
    assert names == set(record.keys) - {"endpoints"}


def test_it_equals_the_file() -> None:
    t = netorch.Topology("office", addressing={"p2p": "10.255.0.0/16"}, defaults={"read_only": True})
    t.bridge("br0", "10.0.0.1/24", mtu=1400)
    t.bridge("lan")
    t.container(
        "red", command=["echo", "$HOME", "snow \N{SNOWMAN} \N{GRINNING FACE} \x7f\u2028"], ports=["8080:80"]
    )
    t.container("h", scale=3, environment={"ID": "{n}"}, files={"/a": "one\ntwo\n"})
    t.link("red", "br0", delay="20ms", loss="1%")
    t.link(netorch.End("h1:wan", address=["10.2.0.1/30", "fd00::1/64"]), netorch.End("red", rate="1mbit"))
    t.link("h", "lan")
    t.host(router=True)
    t.check(ping={"from": "red", "to": "h1"}, within="5s")
    t.step("link red br0 down")
    written = {
        "name": "office",
        "netns": "host",
        "addressing": {"p2p": "10.255.0.0/16"},
        "defaults": {"read_only": True},
        "bridges": {"br0": {"address": "10.0.0.1/24", "mtu": 1400}, "lan": {}},
        "containers": {
            "red": {
                "command": ["echo", "$$HOME", "snow \N{SNOWMAN} \N{GRINNING FACE} \x7f\u2028"],
                "ports": ["8080:80"],
            },
            "h": {"scale": 3, "environment": {"ID": "{n}"}, "files": {"/a": "one\ntwo\n"}},
        },
        "links": [
            {"endpoints": ["red", "br0"], "delay": "20ms", "loss": "1%"},
            {
                "endpoints": [
                    {"h1:wan": {"address": ["10.2.0.1/30", "fd00::1/64"]}},
                    {"red": {"rate": "1mbit"}},
                ]
            },
            {"endpoints": ["h", "lan"]},
        ],
        "host": {"router": True},
        "checks": [{"ping": {"from": "red", "to": "h1"}, "within": "5s"}],
        "scenario": ["link red br0 down"],
    }
    assert yaml.safe_load(t.to_yaml()) == written
    from_file = labfile.loads(yaml.safe_dump(written, sort_keys=False), environ={})
    from_file.file = None
    assert t.model() == from_file


def test_errors_name_the_line_of_code() -> None:
    t = netorch.Topology("office")
    t.bridge("br0", "10.0.0.1/24")
    t.container("red", comand="true")  # type: ignore[call-arg]
    t.link("red", "br1")
    with pytest.raises(netorch.LabFileError) as caught:
        t.model()
    told = str(caught.value)
    first = test_errors_name_the_line_of_code.__code__.co_firstlineno
    assert f"{HERE}:{first + 3}:1  containers.red.comand" in told
    assert f"{HERE}:{first + 4}:1  links[0]" in told
    assert "command" in told.partition("hint: ")[2]


def test_a_name_twice_is_refused_at_once() -> None:
    t = netorch.Topology("office")
    t.container("red")
    with pytest.raises(netorch.LabFileError, match="a container red is there already"):
        t.container("red")


def test_problems_of_addresses_name_the_line_of_code() -> None:
    from netns_orch import lab

    t = netorch.Topology("office")
    t.bridge("br0", "10.0.0.1/24")
    t.container("red")
    t.link(netorch.End("red", address="10.9.0.1/24"), "br0")
    with pytest.raises(netorch.LabFileError) as caught:
        lab.validate(t.model(), host=False)
    assert HERE in str(t.placed(caught.value))


def test_everything_public_is_documented() -> None:
    for name in netorch.__all__:
        assert getattr(netorch, name).__doc__, name


# -- running ---------------------------------------------------------------------------------------


def office(name: str) -> netorch.Topology:
    """Two containers on a bridge; blue answers on TCP 80."""
    t = netorch.Topology(name)
    t.bridge("br0", "10.0.0.1/24")
    t.container("red", labels={"role": "client"})
    t.container("blue", command="exec python3 -u -m http.server 80", ready={"tcp": 80})
    t.link("red", "br0")
    t.link("blue", "br0")
    return t


@pytest.mark.kernel
@view.IN_PROCESS
def test_a_lab_in_the_hands_of_a_program() -> None:
    with netorch.up(office("office"), private=True) as lab:
        red, blue = lab["red"], lab["blue"]
        assert [node.name for node in lab] == ["red", "blue"]
        assert red.addresses == ["10.0.0.2/24"]
        assert red.check(["ping", "-c1", "-W5", "blue"]).startswith("PING")
        assert (proven := lab.check(ping={"from": "red", "to": "blue"})).ok
        assert proven.where is not None and proven.where.file == __file__  # where it was asked, as in errors:
        with pytest.raises(netorch.LabFileError, match=r"test_api\.py:\d+:1  checks\[0\]\.pnig"):
            lab.check(pnig={"from": "red", "to": "blue"})
        assert red.check("echo $((6 * 7)); cat", input="in\n") == "42\nin"
        done = red.run("echo out; echo err >&2; exit 7", environment={"A": "b"}, working_dir="/tmp")
        assert done == (7, "out\n", "err\n")
        with pytest.raises(netorch.CommandFailed, match="blue: exit 3 exited 3"):
            blue.check("exit 3")
        with pytest.raises(netorch.CommandFailed, match=r"did not end within 0\.5 s"):
            red.run(["sleep", "100"], timeout=0.5)
        with red.popen(["cat"], stdin=-1, stdout=-1, text=True) as cat:
            assert cat.communicate("through\n", timeout=60)[0] == "through\n"

        ours, theirs = os.readlink("/proc/thread-self/ns/net"), os.readlink(f"/proc/{red.pid}/ns/net")
        with red.netns():
            assert os.readlink("/proc/thread-self/ns/net") == theirs
            page = socket.create_connection(("10.0.0.3", 80), timeout=60)
        assert os.readlink("/proc/thread-self/ns/net") == ours
        with page:
            page.sendall(b"GET / HTTP/1.0\r\n\r\n")
            assert page.recv(8) == b"HTTP/1.0"

        lab.link("red", "br0").down()
        assert red.run(["ping", "-c1", "-W1", "10.0.0.3"]).code == 1
        assert {entry["object"] for entry in lab.status()["drift"]}
        (row,) = lab.link("red").reset()
        assert row == lab.link("red").show()[0]
        assert lab.status()["drift"] == []

        changed = office(lab.name)
        changed.container("green")
        changed.link("green", "br0")
        pid = red.pid
        report = lab.converge(changed)
        assert report is not None and report.containers == 3
        assert red.pid == pid
        assert lab["green"].run(["ping", "-c1", "-W5", "red"]).code == 0
        assert red.inspect()["name"] == "red"
        with pytest.raises(netorch.UsageError, match="no container 'rde'"):
            lab["rde"]
        blue.kill()
        assert blue.wait() == 137
        assert "GET / " in blue.logs(tail=60)
    assert netorch.Lab(lab.name).down().found is False


@pytest.mark.kernel
@view.IN_PROCESS
def test_what_fails_names_the_line_of_code_and_leaves_nothing() -> None:
    t = office("office")
    t.container("green", setup=["exit 3"])
    with pytest.raises(netorch.NetorchError) as caught:
        netorch.up(t)
    first = test_what_fails_names_the_line_of_code_and_leaves_nothing.__code__.co_firstlineno
    assert f"{HERE}:{first + 4}:1  containers.green" in str(caught.value)


@pytest.mark.kernel
@view.IN_PROCESS
def test_threads_are_each_where_they_are() -> None:
    """A thread in a container's network leaves the others where they are."""
    with netorch.up(office("office")) as lab:
        seen: dict[str, str] = {}

        def look(name: str) -> None:
            with lab[name].netns():
                barrier.wait(60)
                seen[name] = os.readlink("/proc/thread-self/ns/net")
                barrier.wait(60)

        barrier = threading.Barrier(3)
        threads = [threading.Thread(target=look, args=[name]) for name in ("red", "blue")]
        for thread in threads:
            thread.start()
        barrier.wait(60)
        seen["here"] = os.readlink("/proc/thread-self/ns/net")
        barrier.wait(60)
        for thread in threads:
            thread.join()
        assert len(set(seen.values())) == 3


def test_the_examples_of_the_docstring_are_valid() -> None:
    text = api.__doc__ or ""
    code = "\n".join(line[4:] for line in text.splitlines() if line.startswith("    "))
    made, _, _ = code.partition("with netorch.up")
    scope: dict[str, Any] = {}
    exec(compile(made, str(ROOT / "example.py"), "exec"), scope)
    assert list(scope["office"].model().containers) == ["red", "blue"]
