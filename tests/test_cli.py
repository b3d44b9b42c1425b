"""The command line: words, exit codes and what a user reads, with a double in the place of ``lab``."""

from __future__ import annotations

import io
import itertools
import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import typer

import netns_orch
from netns_orch.cli import labs, main
from netns_orch.cli.app import app
from netns_orch.cli.exec import HELP as EXEC_HELP
from netns_orch.cli.exec import SHELL_HELP
from netns_orch.cli.output import Progress, clean, duration_text, error_text, size_text, table
from netns_orch.errors import (
    KernelError,
    LabFileError,
    LockHeld,
    NetorchError,
    PermissionNeeded,
    UsageError,
    Where,
)
from netns_orch.kernel import founding, rights, userdir
from netns_orch.labfile import steps
from netns_orch.labfile.model import Container

RED = {
    "lab": "office",
    "name": "red",
    "state": "running",
    "pid": 4711,
    "addresses": ["10.0.0.2/24", "fd00::2/64"],
    "uptime": 303.4,
    "restarts": 0,
    "oom_kills": 0,
    "ports": [],
    "exit_code": None,
    "labels": {"role": "web"},
}
BLUE = {**RED, "name": "blue", "state": "exited", "pid": None, "addresses": [], "exit_code": 7, "labels": {}}


class Plan(list[str]):
    """A plan as far as the command line knows one."""

    def lines(self) -> list[str]:
        return list(self)

    def to_json(self) -> dict[str, Any]:
        return {"changes": [{"key": line} for line in self]}


class FakeLab:
    """Stands in for ``netns_orch.lab``: answers from its fields, and remembers what it was asked."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []
        self.error: BaseException | None = None
        self.rows: list[dict[str, Any]] = []
        self.plan_lines = Plan(["+ bridge br0 as br0", "~ route red default"])
        self.drift: list[dict[str, Any]] = []
        self.extra: list[dict[str, Any]] = []
        self.warnings: list[NetorchError] = []
        self.changes = 9

    def _called(self, *call: Any) -> None:
        self.calls.append(call)
        if self.error is not None:
            raise self.error

    def load(
        self,
        file: Any,
        *,
        name: str | None = None,
        variables: Any = None,
        private: bool = False,
        untrusted: bool = False,
    ) -> Any:
        self._called("load", str(file), name, variables, *(["untrusted"] if untrusted else []))
        return SimpleNamespace(
            has_limits=False,
            name=name or Path(file).stem,
            containers={name: Container(name=name) for name in ("red", "blue")},
            bridges={"br0": 1},
            links=[1, 2],
        )

    def validate(self, topology: Any, *, host: bool = True) -> list[NetorchError]:
        return self.warnings

    def plan(self, topology: Any) -> Plan:
        return self.plan_lines

    def up(self, topology: Any, *, progress: Callable[..., None], **options: Any) -> Any:
        self._called("up", topology.name, options)
        progress("wiring", 0, 9)
        progress("", 9, 9)
        return SimpleNamespace(
            lab=topology.name,
            containers=2,
            links=2,
            seconds=0.2149,
            netns="host",
            bridges="on this host",
            changes=self.changes,
            warnings=self.warnings,
        )

    def down(self, name: str, *, progress: Callable[..., None], wait: float | None = None) -> Any:
        self._called("down", name, wait)
        found = name in [row["lab"] for row in self.rows]
        return SimpleNamespace(lab=name, containers=2, links=1, seconds=0.05, found=found)

    def labs(self) -> list[dict[str, Any]]:
        return self.rows

    def tidy(self) -> None:
        """Nothing is left over."""

    def lost_labs(self) -> list[dict[str, Any]]:
        return []

    def is_file(self, word: str) -> bool:
        return "/" in word or word.endswith((".yaml", ".yml")) or Path(word).is_file()

    def find(self, selector: str | None = None, *, node: str | None = None) -> str:
        self.calls.append(("find", selector, node))
        if selector is None and len(self.rows) != 1:
            raise UsageError("several labs are up", hint="name one of them: office, wan")
        return Path(selector).stem if selector else str(self.rows[0]["lab"])

    def ps(self, lab: str) -> list[dict[str, Any]]:
        self._called("ps", lab)
        return [RED, BLUE]

    def status(self, lab: str, *, strict: bool = False) -> dict[str, Any]:
        drift = self.drift + (self.extra if strict else [])
        return {"lab": lab, "drift": drift, "extra": self.extra, "oom_kills": {}, "warnings": []}

    def inspect(self, lab: str, node: str | None) -> dict[str, Any]:
        return {"lab": lab, "node": node}

    def logs(self, lab: str, node: str, *, follow: bool, tail: int | None) -> Iterator[bytes]:
        self._called("logs", lab, node, follow, tail)
        yield b"one\n"
        yield b"\xfftwo\n"


def row(lab: str, file: str | None = None) -> dict[str, Any]:
    return {
        "lab": lab,
        "file": file,
        "state": "up",
        "containers": 2,
        "links": 2,
        "netns": "host",
        "created": None,
    }


@pytest.fixture
def lab(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> FakeLab:
    """The double, in an empty directory that holds nothing but ``office.yaml``."""
    fake = FakeLab()
    monkeypatch.setitem(sys.modules, "netns_orch.lab", fake)
    monkeypatch.setattr(netns_orch, "lab", fake, raising=False)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["/opt/bin/netorch"])
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(rights, "require", lambda: None)
    monkeypatch.delenv("NETORCH_DEBUG", raising=False)
    Path("office.yaml").write_text("containers: {red: , blue: }\n")
    return fake


# -- wrong usage -----------------------------------------------------------------------------------

WRONG = [
    ("upp", "error: there is no command upp\nhint: did you mean: netorch up\n"),
    ("frobnicate", "error: there is no command frobnicate\nhint: netorch --help   lists the commands\n"),
    ("--verison", "error: netorch has no option --verison\nhint: did you mean --version?\n"),
    ("up --kep-failed", "error: netorch up has no option --kep-failed\nhint: did you mean --keep-failed?\n"),
    ("up a b", "error: one argument too many: b\nhint: usage: netorch up [OPTIONS] [FILE]\n"),
    ("logs", "error: NODE is missing\nhint: usage: netorch logs [OPTIONS] NODE\n"),
    ("up --timeout", "error: option --timeout requires an argument\n"),
    (
        "up office.yaml --timeout soon",
        "error: --timeout: expected a duration such as 10s, got 'soon'\nhint: units are us, ms, s, m, h, d\n",
    ),
    ("up office.yaml --var X", "error: --var X: expected NAME=VALUE\n"),
    ("up office.yaml --owner-pid x", "error: --owner-pid: expected a whole number, got x\n"),
    ("plan --format x", "error: --format x: no such format\nhint: expected table, json, shell\n"),
    (
        "up",
        "error: there is no lab.yaml here\n"
        "hint: name a FILE, or write an example with: netorch init red-blue\n",
    ),
    ("up offise.yaml", "error: there is no file offise.yaml\nhint: did you mean office.yaml?\n"),
    ("up ./", "error: . is a directory, not a lab file\nhint: in it are: office.yaml\n"),
    ("up ofice", "error: ofice is neither a file nor a lab that is up\nhint: did you mean office.yaml?\n"),
    ("ps", "error: several labs are up\nhint: name one of them: office, wan\n"),
    ("down --all office", "error: --all and a LAB exclude each other\n"),
    ("logs red --tail x --lab office", "error: --tail: expected a whole number, got x\n"),
    ("pause", "error: which containers?\nhint: give NODE..., -l LABEL or --all\n"),
    ("kill red --all", "error: NODE, --label and --all exclude each other\n"),
    *(
        (
            f"test --lab office {option}",
            f"error: {option} is for a lab that is built; with --lab it is up, and stays so\n",
        )
        for option in ("--keep-failed", "--no-skip")
    ),
    ("stats --interval 1ms office", "error: --interval: at least 50ms\n"),
    (
        "cp a b",
        "error: cp copies between this host and a container\n"
        "hint: one of both is NODE:PATH; a path of this host with a colon is written ./PATH\n",
    ),
    (
        "cp red:/a blue:/b",
        "error: cp copies between this host and a container\n"
        "hint: one of both is NODE:PATH; a path of this host with a colon is written ./PATH\n",
    ),
    ("cp host:/a b", "error: host:/a: host is this very host\nhint: leave host: away: /a\n"),
    ("cp red: b", "error: red:: the path is missing\nhint: red:/ is its root\n"),
    ("completion csh", "error: no completion for csh\nhint: there is for bash, zsh, fish\n"),
]


@pytest.mark.parametrize(("words", "stderr"), WRONG, ids=[words for words, _ in WRONG])
def test_wrong_usage(lab: FakeLab, capsys: pytest.CaptureFixture[str], words: str, stderr: str) -> None:
    assert main(words.split()) == 2
    assert capsys.readouterr() == ("", stderr)
    assert not [call for call in lab.calls if call[0] in ("up", "down")]


def test_no_command_shows_the_help_and_fails(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert main(["--help"]) == 0
    assert capsys.readouterr().out == err
    assert main(["help"]) == 0
    assert capsys.readouterr().out == err


def test_each_command_has_help_and_stands_in_the_list(capsys: pytest.CaptureFixture[str]) -> None:
    main(["--help"])
    text = capsys.readouterr().out
    for name in [
        "init",
        "up",
        "down",
        "plan",
        "validate",
        "exec",
        "shell",
        "logs",
        "cp",
        "restart",
        "pause",
        "unpause",
        "kill",
        "wait",
        "ls",
        "ps",
        "status",
        "inspect",
        "top",
        "stats",
        "capture",
        "test",
        "schema",
        "completion",
    ]:
        assert f"\n  {name}" in text
        assert main([name, "--help"]) == 0
        assert capsys.readouterr().out.startswith(f"usage: netorch {name}")
    assert max(map(len, text.splitlines())) <= 110


# -- errors of the rooms below ---------------------------------------------------------------------

PLACE = Where("lab.yaml", 9, 14, "containers.red")
ERRORS = [
    (
        KernelError(
            "iptables refused a rule", where=PLACE, details="Bad argument `x'\n", hint="see iptables(8)"
        ),
        1,
        "error: iptables refused a rule\n  --> lab.yaml:9:14  containers.red\n"
        "  | Bad argument `x'\nhint: see iptables(8)\n",
    ),
    (
        LabFileError([NetorchError("one", where=PLACE), NetorchError("two", hint="try\nthis")]),
        2,
        "error: one\n  --> lab.yaml:9:14  containers.red\n\nerror: two\nhint: try\nhint: this\n",
    ),
    (LockHeld("lab office is being worked on"), 1, "error: lab office is being worked on\n"),
    (
        PermissionNeeded("netorch needs root here"),
        1,
        "error: netorch needs root here\nhint: run it as root: sudo /opt/bin/netorch up office.yaml\n",
    ),
    (
        PermissionNeeded("no", hint="sudo /x/netorch up"),
        1,
        "error: no\nhint: sudo /x/netorch up\n",
    ),
    (
        PermissionError(13, "Permission denied", "/run/netorch/x"),
        1,
        "error: permission denied: /run/netorch/x\n"
        "hint: run it as root: sudo /opt/bin/netorch up office.yaml\n",
    ),
    (
        ModuleNotFoundError("No module named '_bz2'", name="_bz2"),
        1,
        "error: this Python was built without its module _bz2\n"
        "hint: install the library that it takes, and build this Python again\n",
    ),
    (
        ZeroDivisionError("division by zero"),
        1,
        "error: internal error: ZeroDivisionError: division by zero\n"
        "hint: please report it, with what NETORCH_DEBUG=1 in the environment adds\n",
    ),
    (KeyboardInterrupt(), 130, "interrupted\n"),
    (NetorchError("a \x1b[31mred\x1b[0m name"), 1, "error: a \\x1b[31mred\\x1b[0m name\n"),
]


@pytest.mark.parametrize(("error", "code", "stderr"), ERRORS, ids=[type(e).__name__ for e, _, _ in ERRORS])
def test_errors_as_a_user_reads_them(
    lab: FakeLab,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    error: BaseException,
    code: int,
    stderr: str,
) -> None:
    lab.error = error
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert main(["up", "office.yaml"]) == code
    assert capsys.readouterr() == ("", stderr)


def test_root_without_the_rights_of_root_is_not_sent_to_sudo(
    lab: FakeLab, capsys: pytest.CaptureFixture[str]
) -> None:
    lab.error = PermissionNeeded("this root is without CAP_SYS_ADMIN", hint="--privileged")
    assert main(["up", "office.yaml"]) == 1
    assert capsys.readouterr().err == "error: this root is without CAP_SYS_ADMIN\nhint: --privileged\n"


def test_debug_adds_a_traceback(
    lab: FakeLab, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NETORCH_DEBUG", "1")
    lab.error = ZeroDivisionError()
    assert main(["up", "office.yaml"]) == 1
    assert "Traceback (most recent call last)" in capsys.readouterr().err


@pytest.mark.parametrize("words", ["up office.yaml", "up --dry-run office.yaml", "plan office.yaml"])
def test_without_rights_the_whole_sudo_line(
    lab: FakeLab, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, words: str
) -> None:
    _no_user_namespaces(monkeypatch)
    assert main(words.split()) == 1
    assert capsys.readouterr() == (
        "",
        "error: sysctl user.max_user_namespaces is 0\n"
        f"hint: run it as root: sudo /opt/bin/netorch {words}\nhint: or allow it\n",
    )


LOOK = ["down", "ps", "inspect red", "status office", "logs red"]


@pytest.mark.parametrize("words", LOOK)
def test_labs_of_root_are_roots_alone(
    lab: FakeLab,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    words: str,
) -> None:
    """An ordinary user without a lab of his own, on a host where root has one."""
    _without_a_lab(monkeypatch, tmp_path)
    assert main(words.split()) == 1
    assert capsys.readouterr() == (
        "",
        "error: no lab of yours is up, and those of root are root's alone\n"
        f"hint: run it as root: sudo /opt/bin/netorch {words}\n",
    )


@pytest.mark.parametrize("words", ["down --all", "gc"])
def test_labs_of_root_are_no_error_for_who_has_none(
    lab: FakeLab,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    words: str,
) -> None:
    _without_a_lab(monkeypatch, tmp_path)
    assert main(words.split()) == 0
    said = capsys.readouterr().err
    assert ("root's alone: sudo netorch ls" in said) == (words != "gc")


def _without_a_lab(monkeypatch: pytest.MonkeyPatch, directory: Path) -> None:
    """An ordinary user who has no lab, and can have none."""
    _no_user_namespaces(monkeypatch)
    monkeypatch.setattr(userdir, "RUN", str(directory))
    monkeypatch.setattr(userdir, "names", list)


def _no_user_namespaces(monkeypatch: pytest.MonkeyPatch) -> None:
    """An ordinary user whom this host lets have no lab of his own."""

    def refuse(*_: object, **__: object) -> None:
        raise PermissionNeeded("sysctl user.max_user_namespaces is 0", hint="or allow it")

    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setattr(founding, "found", refuse)


def test_validate_needs_no_rights(
    lab: FakeLab, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    _no_user_namespaces(monkeypatch)
    assert main(["validate", "office.yaml"]) == 0
    said = capsys.readouterr().err
    assert said == "not checked against this host: sysctl user.max_user_namespaces is 0\n"


def test_refused_by_the_kernel_without_rights_hints_at_sudo(
    lab: FakeLab, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    lab.error = KernelError("unshare: operation not permitted", errno=1)
    _no_user_namespaces(monkeypatch)
    assert main(["validate", "office.yaml", "--name", "a b"]) == 1
    assert "sudo /opt/bin/netorch validate office.yaml --name 'a b'\n" in capsys.readouterr().err
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    lab.error = KernelError("unshare: operation not permitted", errno=1)
    assert main(["up", "office.yaml"]) == 1
    assert "sudo" not in capsys.readouterr().err


def test_exec_fails_with_its_own_code(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(argv: list[str]) -> int:
        raise UsageError(f"no {argv}")

    monkeypatch.setitem(sys.modules, "netns_orch.cli.exec", SimpleNamespace(main=refuse))
    monkeypatch.setattr(netns_orch.cli, "exec", SimpleNamespace(main=refuse), raising=False)
    assert main(["exec", "-x", "red"]) == 125
    assert capsys.readouterr().err == "error: no ['-x', 'red']\n"


def test_a_scenario_is_checked_by_what_the_commands_take() -> None:
    """The lab file's table of commands is the command line's."""
    commands: dict[str, Any] = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    assert set(steps.COMMANDS) == set(commands)
    for name, command in commands.items():
        takes = steps.COMMANDS[name]
        options = [p for p in command.params if p.param_type_name == "option"]
        if name in ("exec", "shell"):  # they read their options themselves
            help_text = {"exec": EXEC_HELP, "shell": SHELL_HELP}[name]
            said = re.findall(r"^  (?:(-\w), |    )?(--\w+)( [A-Z])?", help_text, re.M)
            given = {(option, bool(value)) for *names, value in said for option in names if option}
            given -= {("-h", False), ("--help", False)}
        else:
            given = {(option, not p.is_flag) for p in options for option in p.opts}
            usage = " ".join(
                str(p.metavar) if p.required else f"[{p.metavar}]" for p in command.params if p not in options
            )
            assert takes.usage == usage, name
        assert given == {(o, False) for o in takes.flags} | {(o, True) for o in takes.valued}, name


# -- what the commands do --------------------------------------------------------------------------


def test_up_says_what_stands(lab: FakeLab, capsys: pytest.CaptureFixture[str]) -> None:
    lab.warnings = [NetorchError("red: nothing reaches it", where=PLACE)]
    words = "up office.yaml --name o2 --var A=1 --var B=x=y --timeout 2m --wait 500ms --keep-failed"
    words += " --ttl 1h --owner-pid 4711"
    assert main(words.split()) == 0
    out, err = capsys.readouterr()
    assert out == ""
    assert err == (
        "warning: red: nothing reaches it\n  --> lab.yaml:9:14  containers.red\n"
        "o2: 2 containers, 2 links up in 0.21 s; bridges on this host\n"
    )
    assert lab.calls == [
        ("load", "office.yaml", "o2", {"A": "1", "B": "x=y"}),
        (
            "up",
            "o2",
            {
                "timeout": pytest.approx(120.0, abs=60),
                "wait": 0.5,
                "keep_failed": True,
                "ttl": 3600.0,
                "owner_pid": 4711,
            },
        ),
    ]


def test_up_json_and_nothing_to_change(lab: FakeLab, capsys: pytest.CaptureFixture[str]) -> None:
    lab.changes = 0
    assert main(["up", "office.yaml", "--json"]) == 0
    out, err = capsys.readouterr()
    report = json.loads(out)
    assert (report["lab"], report["changes"], report["warnings"], err) == ("office", 0, [], "")
    assert report["netns"] == "host"
    assert main(["up", "office.yaml"]) == 0
    assert "up in 0.21 s, nothing to change;" in capsys.readouterr().err


def test_up_of_a_lab_takes_its_file_and_keeps_its_name(lab: FakeLab) -> None:
    lab.rows = [row("copy", str(Path("office.yaml").resolve()))]
    assert main(["up", "copy"]) == 0
    assert lab.calls[0] == ("load", str(Path("office.yaml").resolve()), "copy", {})


def test_lab_yaml_is_the_default(lab: FakeLab) -> None:
    Path("lab.yaml").write_text("containers: {red: }\n")
    assert main(["up"]) == 0
    assert lab.calls[0] == ("load", "lab.yaml", None, {})


@pytest.mark.parametrize("words", ["plan office.yaml", "up office.yaml --dry-run"])
def test_plan(lab: FakeLab, capsys: pytest.CaptureFixture[str], words: str) -> None:
    assert main(words.split()) == 0
    out, err = capsys.readouterr()
    assert out == "+ bridge br0 as br0\n~ route red default\n"
    assert err == "office: 2 to do\n"
    assert main([*words.split(), "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert (plan["lab"], len(plan["changes"])) == ("office", 2)
    lab.plan_lines = Plan()
    assert main(words.split()) == 0
    assert capsys.readouterr() == ("", "office: nothing to do\n")
    assert "up" not in [call[0] for call in lab.calls]


def test_validate(lab: FakeLab, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["validate", "office.yaml"]) == 0
    assert capsys.readouterr().out == "office.yaml: valid: 2 containers, 1 bridge, 2 links\n"
    assert main(["validate", "office.yaml", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["valid"] is True


def test_validate_of_an_invalid_file_as_json(lab: FakeLab, capsys: pytest.CaptureFixture[str]) -> None:
    lab.error = LabFileError([NetorchError("bad", where=PLACE, hint="h"), NetorchError("worse")])
    assert main(["validate", "office.yaml", "--json"]) == 2
    out, err = capsys.readouterr()
    found = json.loads(out)
    assert (found["valid"], err) == (False, "")
    assert [problem["what"] for problem in found["errors"]] == ["bad", "worse"]
    assert found["errors"][0]["line"] == 9


def test_down_and_again(lab: FakeLab, capsys: pytest.CaptureFixture[str]) -> None:
    lab.rows = [row("office", str(Path("office.yaml").resolve()))]
    assert main(["down", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["found"] is True
    assert main(["down"]) == 0
    assert capsys.readouterr() == ("", "office: 2 containers, 1 link removed in 0.05 s\n")
    lab.rows = []
    assert main(["down", "office"]) == 0
    assert main(["down", "office.yaml"]) == 0
    assert main(["down"]) == 0
    assert capsys.readouterr() == ("", "office: not up\noffice: not up\nno lab is up\n")


def test_down_all(lab: FakeLab, capsys: pytest.CaptureFixture[str]) -> None:
    lab.rows = [row("office"), row("wan")]
    assert main(["down", "--all", "--json", "--wait", "3"]) == 0
    assert [report["lab"] for report in json.loads(capsys.readouterr().out)] == ["office", "wan"]
    assert lab.calls == [("down", "office", 3.0), ("down", "wan", 3.0)]


def test_down_all_goes_on_after_an_error(lab: FakeLab, capsys: pytest.CaptureFixture[str]) -> None:
    lab.rows = [row("office"), row("wan")]
    lab.error = LockHeld("it is being worked on")
    assert main(["down", "--all"]) == 1
    assert capsys.readouterr().err == "error: it is being worked on\n" * 2
    assert [call[1] for call in lab.calls] == ["office", "wan"]


def test_down_never_takes_a_namesake_from_another_file(
    lab: FakeLab, capsys: pytest.CaptureFixture[str]
) -> None:
    lab.rows = [row("office", "/elsewhere/office.yaml")]
    assert main(["down", "office.yaml"]) == 2
    assert capsys.readouterr().err == (
        "error: no lab of office.yaml is up; lab office is, but from /elsewhere/office.yaml\n"
        "hint: if that one is meant, give its name: office\n"
    )
    assert "down" not in [call[0] for call in lab.calls]


def test_ls_and_ps(lab: FakeLab, capsys: pytest.CaptureFixture[str]) -> None:
    lab.rows = [row("office", "/a/office.yaml")]
    assert main(["ls"]) == 0
    assert capsys.readouterr().out == (
        "LAB     STATE  CONTAINERS  LINKS  NETNS  CREATED  FILE\n"
        "office  up              2      2  host         -  /a/office.yaml\n"
    )
    assert main(["ps"]) == 0
    assert capsys.readouterr().out == (
        "NAME  STATE     PID  ADDRESSES               UPTIME  RESTARTS  OOM-KILLS  EXIT\n"
        "red   running  4711  10.0.0.2/24,fd00::2/64  5m 3s          0          0     -\n"
        "blue  exited      -  -                       5m 3s          0          0     7\n"
    )


@pytest.mark.parametrize(
    ("labels", "names"),
    [(["role=web"], ["red"]), (["role"], ["red"]), (["role=db"], []), ([], ["red", "blue"])],
)
def test_ps_by_label_as_json(
    lab: FakeLab, capsys: pytest.CaptureFixture[str], labels: list[str], names: list[str]
) -> None:
    words = [word for label in labels for word in ("-l", label)]
    assert main(["ps", "office", "--json", *words]) == 0
    assert [r["name"] for r in json.loads(capsys.readouterr().out)] == names


def test_status(lab: FakeLab, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["status", "office"]) == 0
    assert capsys.readouterr().out == "office: as it should be\n"
    lab.extra = [{"object": "route red 10.9.0.0/16", "what": "extra"}]
    assert main(["status", "office"]) == 0
    assert capsys.readouterr().out == "office: as it should be\nextra: route red 10.9.0.0/16\n"
    assert main(["status", "office", "--strict"]) == 1
    assert capsys.readouterr().out == "drift: route red 10.9.0.0/16: extra\n"
    lab.drift = [
        {
            "object": "cable red:eth0",
            "what": "differs: up",
            "expected": {"up": True},
            "found": {"up": False},
        },
        {"object": "address red:eth0 10.0.0.2/24", "what": "missing", "expected": None, "found": None},
    ]
    assert main(["status", "office"]) == 1
    assert capsys.readouterr().out == (
        "drift: cable red:eth0: differs: up\n  up: expected true, found false\n"
        "drift: address red:eth0 10.0.0.2/24: missing\nextra: route red 10.9.0.0/16\n"
    )
    assert main(["status", "office", "--json"]) == 1
    assert list(json.loads(capsys.readouterr().out)) == ["lab", "drift", "extra", "oom_kills", "warnings"]


@pytest.mark.parametrize(
    ("words", "found"),
    [
        ("inspect", ("office", None)),
        ("inspect office", ("office", None)),
        ("inspect office.yaml", ("office", None)),
        ("inspect red", ("office", "red")),
        ("inspect office --lab office", ("office", "office")),
    ],
)
def test_inspect_takes_a_lab_or_a_node(
    lab: FakeLab, capsys: pytest.CaptureFixture[str], words: str, found: tuple[str, str | None]
) -> None:
    lab.rows = [row("office", str(Path("office.yaml").resolve()))]
    assert main(words.split()) == 0
    value = json.loads(capsys.readouterr().out)
    assert (value["lab"], value["node"]) == found


def test_logs_are_bytes(lab: FakeLab, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    assert main(["logs", "red", "--lab", "office", "--tail", "5", "-f"]) == 0
    assert capfdbinary.readouterr().out == b"one\n\xfftwo\n"
    assert lab.calls[-1] == ("logs", "office", "red", True, 5)


# -- init, completion ------------------------------------------------------------------------------


@pytest.fixture
def shipped(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Two examples in the place of those that ship."""
    from netns_orch.cli import examples

    directory = tmp_path / "shipped"
    directory.mkdir()
    (directory / "red-blue.yaml").write_text(
        "# yaml-language-server: $schema=x\n# The smallest lab.\n\na: 1\n"
    )
    (directory / "wan.yaml").write_text("name: wan\n# later\n")
    paths = {path.stem: path for path in sorted(directory.glob("*.yaml"))}
    monkeypatch.setattr(examples, "examples", lambda: paths)
    return directory


def test_init_lists(lab: FakeLab, shipped: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["init"]) == 0
    assert capsys.readouterr().out == ("EXAMPLE   WHAT IT SHOWS\nred-blue  The smallest lab.\nwan       -\n")


def test_init_writes_once(lab: FakeLab, shipped: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["init", "red-blue"]) == 0
    assert capsys.readouterr() == ("", "wrote lab.yaml; next: netorch up\n")
    assert Path("lab.yaml").read_text() == (shipped / "red-blue.yaml").read_text()
    assert main(["init", "wan.yaml"]) == 2
    assert capsys.readouterr().err == (
        "error: lab.yaml is there already\nhint: --force overwrites it, -o FILE writes elsewhere\n"
    )
    assert Path("lab.yaml").read_text() == (shipped / "red-blue.yaml").read_text()
    assert main(["init", "wan", "--force"]) == 0
    assert main(["init", "wan", "-o", "w.yaml"]) == 0
    assert Path("lab.yaml").read_text() == Path("w.yaml").read_text() == "name: wan\n# later\n"
    capsys.readouterr()
    assert main(["init", "wann"]) == 2
    assert capsys.readouterr().err == "error: there is no example wann\nhint: did you mean wan?\n"


def answers(capsys: pytest.CaptureFixture[str], *words: str) -> list[str]:
    assert main(["__complete", *words]) == 0
    return [line.split("\t")[0] for line in capsys.readouterr().out.splitlines()]


def test_completion_answers(
    lab: FakeLab, shipped: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from netns_orch.cli import completion

    about = [
        {
            "name": "office",
            "file": "/a/office.yaml",
            "containers": {"red": {}, "h1": {}},
            "groups": {"h": ["h1"]},
        },
        {"name": "wan", "file": None, "containers": {"r1": {}}, "groups": {}},
    ]
    monkeypatch.setattr(completion, "_about", lambda: iter(about))
    (Path("dir") / "sub").mkdir(parents=True)
    (Path("dir") / "x.yml").touch()
    assert answers(capsys, "sta") == ["status", "stats"]
    assert answers(capsys, "up", "--k") == ["--keep-failed"]
    assert "--ttl" in answers(capsys, "up", "--")
    assert all(word.startswith("--") for word in answers(capsys, "up", "--"))
    assert answers(capsys, "up", "") == ["office.yaml", "dir/", "shipped/", "office", "wan"]
    assert answers(capsys, "up", "dir/") == ["dir/x.yml", "dir/sub/"]
    assert answers(capsys, "up", "--timeout", "") == []
    assert answers(capsys, "down", "w") == ["wan"]
    assert answers(capsys, "logs", "--tail", "3", "") == ["red", "h1", "h", "r1"]
    assert answers(capsys, "logs", "--lab", "")[:2] == ["office", "wan"]
    assert answers(capsys, "logs", "--lab", "wan", "") == ["r1"]
    assert answers(capsys, "logs", "red", "") == []
    assert answers(capsys, "exec", "") == ["red", "h1", "h", "r1"]
    assert answers(capsys, "exec", "-u", "root", "--lab", "wan", "") == ["r1"]
    assert answers(capsys, "exec", "--l") == ["--lab", "--label"]
    assert answers(capsys, "exec", "--all", "") == []
    assert answers(capsys, "exec", "--lab", "o") == ["office", "office.yaml"]
    assert answers(capsys, "exec", "--lab", "/a/../a/office.yaml", "r") == ["red"]
    assert answers(capsys, "exec", "red", "pi") == []
    assert answers(capsys, "shell", "") == ["red", "h1", "h", "r1"]
    assert answers(capsys, "shell", "--") == ["--user", "--workdir", "--env", "--lab", "--help"]
    assert answers(capsys, "pause", "red", "r") == ["red", "r1"]
    assert answers(capsys, "cp", "r") == ["red:", "r1:"]
    assert answers(capsys, "kill", "-s", "T") == ["TERM"]
    assert answers(capsys, "init", "") == ["red-blue", "wan"]
    assert answers(capsys, "completion", "f") == ["fish"]
    assert answers(capsys, "nosuch", "") == []


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts_are_valid(capsys: pytest.CaptureFixture[str], shell: str) -> None:
    import shutil

    assert main(["completion", shell]) == 0
    script = capsys.readouterr().out
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    assert subprocess.run([shell, "-n"], input=script.encode(), check=False).returncode == 0


def test_bash_completes_with_the_script(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", "bash"]) == 0
    script = capsys.readouterr().out
    program = tmp_path / "netorch"
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m netns_orch "$@"\n')
    program.chmod(0o755)
    ask = 'COMP_WORDS=(netorch stat); COMP_CWORD=1; _netorch netorch; echo "${COMPREPLY[*]}"'
    done = subprocess.run(
        ["bash", "-c", script + ask],
        env={**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", **_here()},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "status stats\n"


# -- output ----------------------------------------------------------------------------------------


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    encoding = "utf-8"

    def isatty(self) -> bool:
        return True


def test_the_bar_always_names_what_is_being_done(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    stream = Terminal()
    with Progress(stream) as progress:
        for done, what in enumerate(["one", "two", "three"]):
            progress(what, done, 3)
    assert all(what in stream.getvalue() for what in ("one", "two", "three"))


def test_the_bar_draws_seldom_and_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    stream = Terminal()
    with Progress(stream) as progress:
        for done in range(1000):
            progress("wiring", done, 1000)
        progress("", 1000, 1000)
    drawn = stream.getvalue().split("\r")
    assert 4 <= len(drawn) < 20
    assert drawn[1].endswith(" 0/1000 wiring\x1b[K")
    assert "1000/1000" in drawn[-2]
    assert drawn[-1] == "\x1b[K"


@pytest.mark.parametrize(("stream", "term"), [(io.StringIO(), "xterm"), (Terminal(), "dumb")])
def test_no_bar_without_a_terminal(monkeypatch: pytest.MonkeyPatch, stream: io.StringIO, term: str) -> None:
    monkeypatch.setenv("TERM", term)
    with Progress(stream) as progress:
        progress("wiring", 1, 2)
    assert stream.getvalue() == ""


def test_colour_only_where_it_is_welcome(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    error = NetorchError("what", hint="try this")
    monkeypatch.setattr(sys, "stderr", Terminal())
    assert error_text(error) == "\x1b[1;31merror:\x1b[0m what\n\x1b[36mhint:\x1b[0m try this"
    monkeypatch.setenv("NO_COLOR", "1")
    assert error_text(error) == "error: what\nhint: try this"


def test_tables_are_cut_on_a_terminal_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "12")
    monkeypatch.setattr(sys, "stdout", Terminal())
    assert table(("A", "B"), [("x" * 20, 1)]) == ["A" + " " * 10 + "…", "x" * 11 + "…"]
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    assert table(("A", "B"), [("x" * 20, 1)])[1] == "x" * 20 + "  1"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, "-"),
        (0, "0s"),
        (59.9, "59s"),
        (60, "1m"),
        (303, "5m 3s"),
        (3605, "1h"),
        (187200, "2d 4h"),
        (-1, "0s"),
    ],
)
def test_durations(seconds: float | None, text: str) -> None:
    assert duration_text(seconds) == text


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (None, "-"),
        (0, "0B"),
        (999, "999B"),
        (1000, "1.0K"),
        (1536, "1.5K"),
        (1 << 26, "64.0M"),
        (1 << 50, "1024T"),
    ],
)
def test_sizes(size: float | None, text: str) -> None:
    assert size_text(size) == text


def test_clean_keeps_words_and_shows_controls() -> None:
    assert clean("käse\n") == "käse\n"
    assert clean("a\x07b\u202ec") == "a\\x07b\\u202ec"


# -- the process -----------------------------------------------------------------------------------


def _here() -> dict[str, str]:
    return {"PYTHONPATH": str(Path(netns_orch.__file__).parent.parent)}


def python(*words: str, stdout: Any = subprocess.PIPE) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *words],
        env={**os.environ, **_here()},
        stdout=stdout,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
        timeout=60,
    )


@pytest.mark.parametrize(
    "words", [["--help"], ["schema"], ["init"], ["completion", "bash"], ["__complete", "up", ""]]
)
def test_light_commands_load_nothing_heavy(words: list[str]) -> None:
    done = python("-X", "importtime", "-m", "netns_orch", *words)
    assert done.returncode == 0, done.stderr
    loaded = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines() if "import time:" in line}
    assert "netns_orch.cli.app" in loaded
    assert not loaded & {"pyroute2", "networkx", "pydantic", "rich", "pyseccomp", "asyncio"}


def test_exec_loads_next_to_nothing() -> None:
    done = python("-X", "importtime", "-m", "netns_orch", "exec", "red", "true")
    lines = (line.rpartition("|")[2].strip() for line in done.stderr.splitlines() if "import time:" in line)
    loaded = {*itertools.dropwhile(lambda name: name != "netns_orch", lines)}  # before that, Python's site
    assert done.returncode == 125 and "netns_orch.kernel.enter" in loaded, done.stderr
    assert not loaded & {"pyroute2", "networkx", "pydantic", "rich", "contextlib", "collections", "json"}


@pytest.mark.parametrize("words", [["validate", "topologies/red-blue.yaml"], ["ls"]])
def test_plain_commands_do_without_typer(words: list[str]) -> None:
    done = python("-X", "importtime", "-m", "netns_orch", *words)
    loaded = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines() if "import time:" in line}
    assert "netns_orch.cli.labs" in loaded
    assert not loaded & {"typer", "inspect", "logging", "concurrent.futures", "networkx", "pyroute2"}


@pytest.mark.parametrize("name", sorted(labs._PLAIN))
def test_the_plain_form_of_a_command_is_part_of_the_whole_one(name: str) -> None:
    whole = typer.main.get_command(app).commands[name]  # type: ignore[attr-defined]
    options = {word for param in whole.params if getattr(param, "is_flag", False) for word in param.opts}
    words = [param for param in whole.params if param.param_type_name == "argument"]
    assert labs._PLAIN[name].flags <= options
    assert labs._PLAIN[name].words == len(words)


@pytest.mark.parametrize(
    "words", [[], ["nonsense"], ["up", "a", "b"], ["up", "--nonsense"], ["up", "--name", "x"]]
)
def test_what_is_not_plain_is_for_the_whole_parser(words: list[str]) -> None:
    assert labs.plain(words) is None


def test_a_reader_that_goes_away_is_no_error() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    done = python("-m", "netns_orch", "--help", stdout=writer)
    os.close(writer)
    assert (done.returncode, done.stderr) == (141, "")


def test_a_full_disk_is_told() -> None:
    with Path("/dev/full").open("w") as full:
        done = python("-m", "netns_orch", "--version", stdout=full)
    assert done.returncode == 1
    assert done.stderr == "error: can't write the output: No space left on device\n"


def test_a_directory_that_is_gone_is_said(tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    line = f"rmdir {shlex.quote(str(gone))}; exec {shlex.quote(sys.executable)} -m netns_orch ps"
    done = subprocess.run(
        ["/bin/sh", "-c", line],
        cwd=gone,
        env={**os.environ, **_here()},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr.startswith("error: the current directory is not there any more\nhint: cd to another")


def test_closed_streams_are_no_traceback() -> None:
    script = f'"{sys.executable}" -m netns_orch --version >&- 2>&-; echo $?'
    done = subprocess.run(
        ["bash", "-c", script], env={**os.environ, **_here()}, capture_output=True, text=True, check=True
    )
    assert done.stdout == "0\n"


def test_run_as_a_module_the_sudo_line_names_python(monkeypatch: pytest.MonkeyPatch) -> None:
    from netns_orch.cli import sudo_line

    monkeypatch.setattr(sys, "argv", ["/somewhere/netns_orch/__main__.py", "up"])
    assert sudo_line(["up"]) == f"sudo {sys.executable} -m netns_orch up"


def test_completion_knows_the_options_of_exec() -> None:
    from netns_orch.cli.completion import exec_answers

    text = python("-m", "netns_orch", "exec", "--help").stdout
    assert [option for option, _ in exec_answers(["--"])] == re.findall(r"^ .*?(--\w+)", text, re.MULTILINE)
