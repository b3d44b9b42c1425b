"""Rootless: every key of the lab file and every command, as an ordinary user; the manual says the same."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from support import archives, images
from support.ordinary import Ordinary
from support.runner import ROOT, TOPOLOGIES, Result
from support.waiting import PATIENCE

from netns_orch.cli.app import app
from netns_orch.labfile.schema import json_schema

ALL = ROOT / "tests/cases/rootless/all.yaml"
SHOWN = ("", "ScaledContainer", "Bridge", "Link", "Host", "Resources")
"""The parts of the schema whose keys stand in the manual's table; the others are parts of their values."""
_NEEDS = re.compile(r"^(.*?) +# needs (\S+)$", re.M)
_LACKS = re.compile(r"this host lacks (\S+?)(?:,|$)")


def keys(*definitions: str) -> set[str]:
    """The keys of parts of the schema; without a name, of all of it."""
    schema = json_schema()
    parts = {"": schema, **schema["$defs"]}
    chosen = [parts[name] for name in definitions or parts]
    return {key for part in chosen for key in part.get("properties", {})}


def used(node: Any) -> set[str]:
    """All keys of all mappings of a file."""
    if isinstance(node, dict):
        return {str(key) for key in node} | used(list(node.values()))
    return set().union(*map(used, node)) if isinstance(node, list) else set()


def manual() -> dict[str, str]:
    """What the manual says of each key: the column ``rootless`` of its table."""
    text = (ROOT / "README.md").read_text().partition("\n## Rootless\n")[2].partition("\n## ")[0]
    tables = ("\n".join(line for line in part.splitlines() if line[:1] == "|") for part in text.split("\n\n"))
    table = next(table for table in tables if "| rootless |" in table)
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()]
    column = rows[0].index("rootless")
    said: dict[str, str] = {}
    for row in rows[2:]:
        for key in re.findall(r"`([a-z0-9_]+)`", row[0]):
            assert key not in said, f"{key} is in the manual's table twice"
            said[key] = row[column]
    return said


def test_the_manual_names_each_key_and_the_lab_uses_those_that_are_possible() -> None:
    said = manual()
    assert said.keys() == keys(*SHOWN)
    possible = {key for key, text in said.items() if text.startswith("yes")}
    assert said.keys() - possible == keys("Resources") | {"resources"}, "what has a test of its own"
    shown = used(yaml.safe_load(ALL.read_text()))
    assert possible <= shown
    of_limits = keys("Resources", "IoLimit") | {"resources"}
    asked = {"server"}  # of a `dns` check: no name server runs here
    assert keys() - of_limits - asked - shown == set(), "keys that the lab below does not use"


@pytest.mark.kernel
def test_every_key_and_every_command(alice: Ordinary) -> None:
    commands: set[str] = set()

    def run(*words: str | Path, **options: Any) -> Result:
        commands.add(str(words[0]))
        return alice(*words, **options)

    lab = _lab(run, alice)
    run("up", lab)
    assert run("status", "--json").json()["drift"] == []
    _look(run, alice.directory)
    _act(run, alice)
    run("down")
    tested = run("test", "--json", lab).json()
    assert [check for check in tested["files"][0]["checks"] if check["result"] != "passed"] == []
    known = {command.name for command in app.registered_commands}
    delegated = {"pause", "unpause"}  # in ``test_a_delegated_cgroup_keeps_limits_and_pauses``
    assert known - commands - delegated == set(), "commands that were not tried"


def _lab(run: Any, alice: Ordinary) -> Path:
    """The lab, without what this kernel and this host lack."""
    alice.take(TOPOLOGIES / "layers")
    (alice.directory / "site").mkdir()
    (alice.directory / "red.env").write_text("A=1\n")
    base = [*archives.skeleton_entries(), archives.directory("etc")]
    alice.take(images.layout(alice.directory.parent / "tiny", base))
    text = ALL.read_text()
    lab = alice.write(text, "all.yaml")
    lacks = {found for error in run("validate", lab, "--json", code=None).json()["errors"]
             for found in _LACKS.findall(error["what"])}  # fmt: skip
    if not any(map(shutil.which, ("pasta", "slirp4netns"))):
        lacks.add("outside")
    assert lacks <= {need for _, need in _NEEDS.findall(text)}, "more is lacking than may be"
    return alice.write(_NEEDS.sub(lambda line: "" if line[2] in lacks else line[1], text), "all.yaml")


def _look(run: Any, directory: Path) -> None:
    """What shows a lab."""
    assert len(run("ps", "--json").json()) == 12
    assert [row["lab"] for row in run("ls", "--json").json()] == ["all"]
    assert run("plan", "all.yaml", "--format", "json").json()["changes"] == []
    assert run("inspect", "red").json()["name"] == "red"
    run("exec", "h1", "touch", "/root/mine")
    assert "A /root/mine" in run("diff", "h1").stdout
    assert "ready" in run("logs", "inner").stdout
    assert {row["name"] for row in run("stats", "--once", "--json").json()} >= {"red", "pod"}
    assert any("http.server" in row["command"] for row in run("top", "web", "--json").json())
    assert "red" in run("graph", "all.yaml").stdout
    assert run("path", "red", "web", "--probe").code == 0
    states = {row["name"]: row["state"] for row in run("doctor", "--json", code=None).json()["findings"]}
    assert states["nft"] == states["iptables"] == states["bridge"] == "ok", "this lab has all of them"
    run("init", "--list")
    (directory / "compose.yaml").write_text("services: {red: {image: alpine}}\n")
    assert "red" in run("import", "compose.yaml").stdout
    assert run("schema").json()["$defs"]
    assert "netorch" in run("completion", "bash").stdout
    run("gc")


def _act(run: Any, alice: Ordinary) -> None:
    """What does something to a lab, or in it."""
    script = "cat /proc/uptime; id -u; cat /etc/motd; ulimit -n; pwd; echo $LANG $A; ls /dev/tunnel; hostname"
    uptime, *rest = run("exec", "red", "sh", "-c", script).stdout.splitlines()
    assert float(uptime.split()[0]) > 86400
    assert rest == ["0", "I am red", "512", "/srv", "C.UTF-8 1", "/dev/tunnel", "rosso"]
    assert _shell(alice, "exit 5\n") == 5
    run("shell", "-x", code=125)
    run("link", "red", "br0", "down")
    run("link", "red", "br0", "up")
    run("cp", "red.env", "web:/root/copied")
    captured = run("capture", "red:eth0", "--duration", "100ms", "-w", "red.pcapng")
    assert captured.code == 0 and (alice.directory / "red.pcapng").stat().st_size
    run("restart", "h1")
    run("kill", "web")
    assert run("wait", "web", code=None).code in (0, 137)


def _shell(alice: Ordinary, typed: str) -> int:
    """The exit code of ``netorch shell`` on a terminal, where something is typed."""
    ours, theirs = os.openpty()
    with subprocess.Popen(
        alice.argv("shell", "red"),
        cwd=alice.directory,
        env=alice.environment,
        stdin=theirs,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    ) as process:
        os.close(theirs)
        os.write(ours, typed.encode())
        try:
            return process.wait(60 * PATIENCE)
        finally:
            process.kill()
            os.close(ours)
