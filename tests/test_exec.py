"""``exec``: which lab and container are meant, terminals, and entering a real container (the rest of what a
user sees of it is in test_commands.py)."""

from __future__ import annotations

import errno
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import termios
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pexpect
import pytest
from support import cgroups, snapshot, view
from support.outer import TestHost
from support.runner import SECONDS, Lab, Netorch
from support.waiting import until

from netns_orch import cli, errors
from netns_orch.capabilities import DEFAULT_CAPABILITIES, mask
from netns_orch.cli import exec as command
from netns_orch.kernel import enter, rundir, session, uplabs, userdir
from netns_orch.kernel.enter import Refused

kernel = pytest.mark.kernel
LIGHT = {
    "__future__",
    "errno",
    "types",
    "ctypes",
    "_ctypes",
    "fcntl",
    "select",
    "resource",
    "struct",
    "_struct",
}


class FakeRun:
    """A run directory with labs that nobody runs."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def lab(self, name: str, *containers: str, file: str | None = None, id: str = "7", **more: Any) -> None:
        directory = self.path / f"{name}.{id}"
        directory.mkdir()
        labels = more.pop("labels", {})
        about = {
            "name": name,
            "id": id,
            "file": file,
            "containers": {c: {"labels": labels.get(c, {})} for c in containers},
            **more,
        }
        (directory / "lab.json").write_text(json.dumps(about))


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeRun:
    monkeypatch.setattr(userdir, "RUN", str(tmp_path / "run"))
    monkeypatch.setattr(uplabs, "host_id", lambda: "7")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run").mkdir()
    return FakeRun(tmp_path / "run")


def choose(*words: str) -> tuple[str, list[str], list[str]]:
    lab, names, argv = command.choose(*command.parse(words))
    return lab.name, names, argv


class TestWords:
    def test_options_end_at_the_node(self) -> None:
        options, words = command.parse(
            ["-it", "-u", "1000", "-eA=b", "-e", "C=", "--env=D=e=f", "red", "-x", "--all"]
        )
        assert (options.interactive, options.tty, options.all) == (True, True, False)
        assert options.user == "1000"
        assert options.environment == {"A": "b", "C": "", "D": "e=f"}
        assert words == ["red", "-x", "--all"]

    @pytest.mark.parametrize(
        "words", [["-iw/tmp", "red"], ["-i", "-w", "/tmp", "red"], ["-i", "--workdir=/tmp", "red"]]
    )
    def test_a_value_close_by_or_apart(self, words: list[str]) -> None:
        options, rest = command.parse(words)
        assert (options.interactive, options.workdir, rest) == (True, "/tmp", ["red"])

    def test_a_name_alone_takes_the_value_from_here(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("HERE", "x")
        monkeypatch.delenv("NOT_HERE", raising=False)
        assert command.parse(["-e", "HERE", "-e", "NOT_HERE", "red"])[0].environment == {"HERE": "x"}

    def test_two_dashes_before_or_behind_the_node(self) -> None:
        assert command.parse(["--", "red", "ls"])[1] == ["red", "ls"]
        assert command.parse(["red", "--", "ls", "--"])[1] == ["red", "ls", "--"]
        assert command.parse(["--all", "--", "ls"])[1] == ["ls"]

    @pytest.mark.parametrize(
        ("words", "says"),
        [
            (["--interctive"], "did you mean --interactive"),
            (["-x"], "usage: netorch exec"),
            (["-w"], "-w needs a value"),
            (["-e", "=b", "red"], "expected NAME=VALUE"),
        ],
    )
    def test_wrong(self, words: list[str], says: str) -> None:
        with pytest.raises(Refused) as caught:
            command.parse(words)
        assert says in f"{caught.value.what} {caught.value.hint}"

    def test_help_lists_every_option(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert command.main(["--help"]) == 0
        text = capsys.readouterr().out
        for name in (*command._LONG, "usage: netorch exec"):
            assert name in text


class TestWhichLab:
    def test_the_only_one(self, fake: FakeRun) -> None:
        fake.lab("office", "red")
        fake.lab("elsewhere", "red", id="8")
        assert choose("red", "ls", "-l") == ("office", ["red"], ["ls", "-l"])

    def test_that_of_the_file_here_before_all_others(self, fake: FakeRun, tmp_path: Path) -> None:
        fake.lab("a", "red", "only")
        fake.lab("b", "red", file=str(tmp_path / "lab.yaml"))
        assert choose("red", "ls")[0] == "b"
        with pytest.raises(Refused, match="lab b has no container 'only'"):
            choose("only", "ls")

    def test_the_only_one_that_has_the_node(self, fake: FakeRun) -> None:
        fake.lab("a", "red")
        fake.lab("b", "blue", groups={"h": ["blue"]})
        assert choose("blue", "ls")[0] == "b"
        assert choose("h", "ls")[0] == "b"

    def test_not_to_be_told_apart_lists_them(self, fake: FakeRun) -> None:
        for name in ("a", "b"):
            fake.lab(name, "red")
        fake.lab("c", "blue")
        for words, listed in ((["red", "ls"], "a, b"), (["--all", "ls"], "a, b, c")):
            with pytest.raises(Refused, match="which lab") as caught:
                choose(*words)
            assert (caught.value.hint or "").endswith(f": {listed}")
            assert caught.value.code == 125
        with pytest.raises(Refused, match="'green'"):
            choose("green", "ls")

    def test_given_by_name_or_file(self, fake: FakeRun, tmp_path: Path) -> None:
        fake.lab("a", "red", file=str(tmp_path / "x.yaml"))
        fake.lab("b", "red")
        for word in ("a", "x.yaml", f"{tmp_path}/y/../x.yaml"):
            assert choose("--lab", word, "red", "ls")[0] == "a"
        with pytest.raises(Refused, match="lab aa is not up") as caught:
            choose("--lab", "aa", "red", "ls")
        assert caught.value.hint == "up are: a, b"

    def test_none(self, fake: FakeRun) -> None:
        with pytest.raises(Refused, match="no lab is up"):
            choose("red", "ls")

    def test_a_torn_file_is_no_lab(self, fake: FakeRun) -> None:
        fake.lab("a", "red")
        fake.lab("b", "red")
        (fake.path / "b.7" / "lab.json").write_text('{"name": "b", "conta')
        assert choose("red", "ls")[0] == "a"


class TestWhichContainers:
    def test_a_group_all_and_labels_in_file_order(self, fake: FakeRun) -> None:
        labels = {"z": {"role": "web"}, "h2": {"role": "web", "tier": ""}}
        fake.lab("a", "z", "h1", "h2", groups={"h": ["h1", "h2"]}, labels=labels)
        assert choose("h", "ls")[1] == ["h1", "h2"]
        assert choose("--all", "ls")[1] == ["z", "h1", "h2"]
        assert choose("-l", "role=web", "ls")[1] == ["z", "h2"]
        assert choose("-l", "role=web", "-l", "tier", "ls")[1] == ["h2"]
        with pytest.raises(Refused, match="role=db"):
            choose("-l", "role=db", "ls")

    def test_unknown_names_those_that_exist_nearest_first(self, fake: FakeRun) -> None:
        fake.lab("a", "web", "red", "blue")
        with pytest.raises(Refused, match="'blu'") as caught:
            choose("blu", "ls")
        assert caught.value.hint == "there are: blue, web, red"

    def test_a_long_list_is_cut(self, fake: FakeRun) -> None:
        fake.lab("a", *(f"h{i}" for i in range(100)))
        with pytest.raises(Refused) as caught:
            choose("nobody", "ls")
        assert (caught.value.hint or "").endswith("and 80 more")

    def test_the_host_is_no_container(self, fake: FakeRun) -> None:
        fake.lab("a", "red")
        with pytest.raises(Refused, match="host is this very namespace"):
            choose("host", "ls")

    @pytest.mark.parametrize(("words", "says"), [([], "which container"), (["red"], "which command")])
    def test_a_word_is_missing(self, fake: FakeRun, words: list[str], says: str) -> None:
        fake.lab("a", "red")
        with pytest.raises(Refused, match=says):
            choose(*words)

    def test_a_container_that_is_gone(self, fake: FakeRun, capsys: pytest.CaptureFixture[str]) -> None:
        fake.lab("a", "red")
        assert command.main(["red", "true"]) == 125
        assert capsys.readouterr().err.startswith("error: container red is not running\nhint: ")


class TestReader:
    """The JSON reader that costs no import of json."""

    @pytest.mark.parametrize(
        "value",
        [{}, [], {"a": [1, -2.5, None, True, 'ä\n"\\\ud83d']}, {"deep": [[[{"x": {}}]]]}, "text", 7],
    )
    def test_reads_what_json_writes(self, tmp_path: Path, value: Any) -> None:
        path = tmp_path / "x.json"
        for text in (json.dumps(value), json.dumps(value, indent=1) + "\n"):
            path.write_text(text)
            assert uplabs.read_json(str(path)) == value

    @pytest.mark.parametrize("text", ["", "{", '{"a": 1', "nonsense", '{"a": tru'])
    def test_torn_is_none(self, tmp_path: Path, text: str) -> None:
        (tmp_path / "x.json").write_text(text)
        assert uplabs.read_json(str(tmp_path / "x.json")) is None
        assert uplabs.read_json(str(tmp_path / "missing")) is None

    def test_agrees_with_the_run_directory(self) -> None:
        assert uplabs.host_id() == rundir.host_id()


def test_what_exec_itself_imports() -> None:
    """Nothing beyond ctypes and what that needs: the interpreter's own start is most of what is left."""
    script = (
        "import sys\n"
        "sys.path.insert(0, sys.argv[1])\n"
        "before = set(sys.modules)\n"
        "import netns_orch.cli, netns_orch.kernel.interpreter, netns_orch.cli.exec\n"
        "print(*sorted(set(sys.modules) - before))\n"
    )
    root = str(Path(command.__file__).parents[2])
    done = subprocess.run(
        [sys.executable, "-I", "-c", script, root], capture_output=True, text=True, check=True
    )
    imported = {name for name in done.stdout.split() if name.partition(".")[0] != "netns_orch"}
    assert {name.partition(".")[0] for name in imported} - LIGHT == set()
    assert "netns_orch.errors" not in done.stdout
    assert cli.EXIT_EXEC_FAILED == errors.EXIT_EXEC_FAILED


class TestOutput:
    def _lines(self, *chunks: bytes) -> bytes:
        with tempfile.TemporaryFile() as file:
            sink = session.Prefixed("red", 4, file.fileno())
            for chunk in chunks:
                sink.take(chunk)
            sink.end()
            file.seek(0)
            return file.read()

    def test_lines_are_whole_and_named(self) -> None:
        assert self._lines(b"o", b"ne\ntw", b"o\n\nend") == b"red  | one\nred  | two\nred  | \nred  | end\n"

    def test_a_line_without_end_does_not_grow_for_ever(self) -> None:
        written = self._lines(*[b"x" * 10_000] * 6, b"y" * 10_000)
        assert written.startswith(b"red  | xxx")
        assert written.count(b"\n") == 1

    def test_collected_up_to_a_limit(self) -> None:
        sink = session.Collected(5)
        for chunk in (b"abc", b"def", b"ghi"):
            sink.take(chunk)
        assert bytes(sink.data) == b"abcde"


# -- on the kernel -----------------------------------------------------------------------------------------

TEXT = """
bridges:
  br0: 10.0.0.1/24
containers:
  red:
    command: "sleep 1000"
    environment: {COLOUR: deep}
    working_dir: /usr
    ulimits: {nofile: "512:1024"}
  blue:
links:
  - [red, br0]
  - [blue, br0]
"""


@pytest.fixture(scope="module")
def lab(outer: TestHost, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """One lab for all tests below, none of which changes it."""
    netorch = Netorch(tmp_path_factory.mktemp("exec"))
    before = snapshot.take()
    with netorch.lab(TEXT) as lab:
        yield lab
    snapshot.assert_equal(before)


@pytest.fixture
def red(lab: Lab) -> Path:
    """The directory of container red."""
    return Path(uplabs.labs_up()[0].directory("red"))


@pytest.fixture
def spawn(lab: Lab) -> Iterator[Callable[..., pexpect.spawn]]:
    """``netorch exec`` on a terminal."""
    children = []

    def start(*words: str, **options: Any) -> pexpect.spawn:
        argv = lab.netorch.argv("exec", *words)
        child = pexpect.spawn(
            argv[0], argv[1:], cwd=lab.netorch.directory, encoding="utf-8", timeout=SECONDS, **options
        )
        children.append(child)
        return child

    yield start
    for child in children:
        child.close(force=True)


SHELL = ("-it", "-e", "PS1=rdy# ", "red", "bash", "--norc", "--noprofile")


@kernel
class TestTerminal:
    def test_is_the_containers_own_and_follows_the_window(self, spawn: Callable[..., pexpect.spawn]) -> None:
        child = spawn(*SHELL, dimensions=(33, 77))
        child.expect("rdy# ")
        child.sendline("tty; stty size; echo $TERM | wc -c")
        child.expect(r"/dev/pts/\d+\r\n33 77\r\n[1-9]")
        child.setwinsize(41, 99)
        until(lambda: _says(child, "stty size", "41 99"), "the new size")
        child.sendline("exit 5")
        child.expect(pexpect.EOF)
        child.close()
        assert child.exitstatus == 5

    def test_job_control(self, spawn: Callable[..., pexpect.spawn]) -> None:
        child = spawn(*SHELL)
        child.expect("rdy# ")
        child.sendline("echo go; sleep 1000")
        child.expect("go\r\n")
        time.sleep(0.2)
        child.sendcontrol("z")
        child.expect("Stopped")
        child.sendline("fg")
        child.expect("sleep 1000\r\n")
        time.sleep(0.2)
        child.sendcontrol("c")
        child.expect("rdy# ")
        child.sendline("echo code $?")
        child.expect("code 130")

    def test_is_given_back_whatever_ends_it(self, lab: Lab) -> None:
        master, slave = os.openpty()
        before = termios.tcgetattr(slave)
        for number, code in ((signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGHUP, 129)):
            process = subprocess.Popen(
                lab.netorch.argv("exec", "-it", "red", "sleep", "1000"),
                cwd=lab.netorch.directory,
                stdin=slave,
                stdout=slave,
                start_new_session=True,
            )
            until(lambda: termios.tcgetattr(slave) != before, "raw mode")
            until(lambda: _in_red(b"sleep\x001000"), "sleep in red")
            process.send_signal(number)
            assert process.wait(SECONDS) == code
            assert termios.tcgetattr(slave) == before
        os.close(master)
        os.close(slave)

    def test_a_great_deal_of_output_comes_whole(self, spawn: Callable[..., pexpect.spawn]) -> None:
        child = spawn("-t", "red", "sh", "-c", "seq 20000; exit 3")
        lines = child.read().split()
        assert lines == [str(number) for number in range(1, 20_001)]
        child.close()
        assert child.exitstatus == 3

    def test_wants_a_terminal(self, lab: Lab) -> None:
        result = lab.netorch("exec", "-it", "red", "true", input="x", code=125)
        assert "not a terminal" in result.stderr

    def test_ctrl_c_without_one_comes_exactly_once(self, spawn: Callable[..., pexpect.spawn]) -> None:
        script = "trap 'echo GOT' INT; echo ready; sleep 1; sleep 1; exit 3"
        child = spawn("red", "sh", "-c", script)
        child.expect("ready")
        time.sleep(0.2)
        child.sendcontrol("c")
        child.expect(pexpect.EOF)
        child.close()
        assert (child.before.count("GOT"), child.exitstatus) == (1, 3)

    def test_ctrl_c_ends_what_a_shell_waits_for(self, spawn: Callable[..., pexpect.spawn]) -> None:
        child = spawn("red", "sh", "-c", "echo ready; sleep 1000; echo never")
        child.expect("ready")
        time.sleep(0.2)
        child.sendcontrol("c")
        child.expect(pexpect.EOF)
        child.close()
        assert child.exitstatus == 130
        assert "never" not in child.before


def _says(child: pexpect.spawn, line: str, expected: str) -> bool:
    child.sendline(line)
    return bool(child.expect([re.escape(expected), "rdy# "]) == 0)


def _in_red(word: bytes) -> bool:
    for pid in cgroups.processes(cgroups.positions()[0]):
        try:
            line = Path(f"/proc/{pid}/cmdline").read_bytes()
        except OSError:
            continue
        if word in line and b"netns_orch" not in line:
            return True
    return False


PROBE = """
import json, os, resource
keys = ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb", "NoNewPrivs", "Seccomp", "SigBlk", "Uid", "Gid",
        "Groups", "Umask")
status = dict(line.strip().split(":", 1) for line in open("/proc/self/status"))
found = {key: status.get(key) for key in keys}
own = "/proc/self/fd"
found["descriptors"] = [n for n in os.listdir(own) if int(n) > 2 and os.path.exists(f"{own}/{n}")]
found["nofile"] = resource.getrlimit(resource.RLIMIT_NOFILE)
found["oom"] = open("/proc/self/oom_score_adj").read()
found["cgroup"] = open("/proc/self/cgroup").read()
found["cwd"] = os.getcwd()
found["environment"] = {k: v for k, v in os.environ.items() if k not in ("LC_CTYPE",)}
print(json.dumps(found))
"""


@kernel
class TestConfined:
    def test_as_the_command_is(self, lab: Lab) -> None:
        """One table, taken by ``exec`` and by a command of the lab file."""
        probe = lab.netorch.write(PROBE, "probe.py")  # the lab file's directory is seen in each container
        by_exec = lab.netorch("exec", "red", "python3", "-I", str(probe)).json()
        assert by_exec["descriptors"] == []
        possible = mask(DEFAULT_CAPABILITIES) & int(_status("CapPrm"), 16)
        assert {int(by_exec[key], 16) for key in ("CapPrm", "CapEff", "CapBnd")} == {possible}
        assert {int(by_exec[key], 16) for key in ("CapInh", "CapAmb", "SigBlk")} == {0}
        assert (by_exec["NoNewPrivs"], by_exec["Seccomp"]) == ("\t1", "\t2")
        assert by_exec["nofile"] == [512, 1024]
        text = TEXT.replace('"sleep 1000"', json.dumps(["python3", "-I", str(probe)]))
        file = lab.netorch.write(text.replace("10.0.0.", "10.7.0."), "probe.yaml")
        with lab.netorch.lab(file):
            printed = until(
                lambda: lab.netorch("logs", "--lab", "probe", "red").stdout, "what the probe prints"
            )
            by_command = json.loads(printed)
        assert by_exec == by_command

    def test_not_inherited_from_the_caller(self, lab: Lab) -> None:
        """Ignored and blocked signals, the working directory, umask and environment are the caller's own."""

        def odd() -> None:
            os.umask(0o077)
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])

        done = subprocess.run(
            lab.netorch.argv("exec", "--lab", "lab", "red", "python3", "-I", "-c", PROBE),
            capture_output=True,
            preexec_fn=odd,
            cwd="/proc",
            env={**os.environ, "SECRET": "1"},
            check=True,
        )
        usual = lab.netorch("exec", "red", "python3", "-I", "-c", PROBE).json()
        assert json.loads(done.stdout) == usual
        assert usual["cwd"] == "/usr"
        assert usual["environment"]["COLOUR"] == "deep"

    def test_descriptors_of_the_caller_do_not_come_along(self, lab: Lab) -> None:
        root = os.open("/", os.O_RDONLY)
        try:
            done = subprocess.run(
                lab.netorch.argv("exec", "red", "sh", "-c", "ls /proc/self/fd | wc -l"),
                capture_output=True,
                pass_fds=[root],
                cwd=lab.netorch.directory,
                check=True,
            )
        finally:
            os.close(root)
        assert done.stdout == b"4\n"

    @pytest.mark.parametrize("signals", [[], [signal.SIGPIPE, signal.SIGINT, signal.SIGTERM]], ids=str)
    def test_no_signal_is_ignored_or_blocked(self, lab: Lab, signals: list[int]) -> None:
        def odd() -> None:
            for number in signals:
                signal.signal(number, signal.SIG_IGN)

        done = subprocess.run(
            lab.netorch.argv("exec", "red", "grep", "-E", "Sig(Ign|Blk)", "/proc/self/status"),
            capture_output=True,
            text=True,
            preexec_fn=odd,
            cwd=lab.netorch.directory,
            check=True,
        )
        assert [int(line.split()[1], 16) for line in done.stdout.splitlines()] == [0, 0]

    def test_closed_descriptors_become_null(self, lab: Lab) -> None:
        script = '"$@" <&- >&- 2>&-; echo $?'
        for words, code in ((["sh", "-c", "readlink /proc/self/fd/0; exit 4"], "4"), (["nosuch"], "127")):
            done = subprocess.run(
                ["sh", "-c", script, "sh", *lab.netorch.argv("exec", "-i", "red", *words)],
                capture_output=True,
                text=True,
                cwd=lab.netorch.directory,
            )
            assert done.stdout == f"{code}\n"

    def test_dies_with_netorch(self, lab: Lab) -> None:
        for user in ("root", "1000"):
            with lab.netorch.start("exec", "-u", user, "red", "sleep", "97531") as process:
                until(lambda: _in_red(b"sleep\x0097531"), "sleep in red")
                process.kill()
                process.communicate(timeout=SECONDS)
            until(lambda: not _in_red(b"sleep\x0097531"), "the end of sleep")

    @view.LIMITS
    def test_not_in_a_paused_container(self, lab: Lab, red: Path) -> None:
        about = json.loads((red / "container.json").read_text())
        freeze = Path(about["cgroup"]["v2"] or "/nonexistent", "cgroup.freeze")
        if not freeze.exists():
            pytest.skip("no v2 hierarchy")
        freeze.write_text("1")
        try:
            assert "is paused" in lab.netorch("exec", "red", "true", code=125).stderr
        finally:
            freeze.write_text("0")

    @view.IN_PROCESS
    def test_a_pid_that_is_another_process_now_is_not_entered(
        self, lab: Lab, red: Path, tmp_path: Path
    ) -> None:
        about = json.loads((red / "container.json").read_text())
        fake = tmp_path / "red"
        fake.mkdir()
        for wrong in ({"pid": os.getpid()}, {"start_time": about["start_time"] + 1}, {"pid": 1 << 22}):
            (fake / "container.json").write_text(json.dumps(about | wrong))
            with pytest.raises(Refused, match="not running"):
                enter.Target(str(fake))
        (fake / "container.json").write_text(json.dumps(about))
        enter.Target(str(fake)).close()


def _status(key: str) -> str:
    text = Path("/proc/self/status").read_text()
    return next(line.split()[1] for line in text.splitlines() if line.startswith(f"{key}:"))


@kernel
@view.IN_PROCESS
class TestRun:
    """``enter.run``, which setup commands and probes use."""

    def test_code_and_output(self, red: Path) -> None:
        script = "cat; echo err >&2; pwd; echo $A $COLOUR; exit 3"
        done = enter.run(red, ["sh", "-c", script], env={"A": "b"}, cwd="/tmp", input=b"in\n")
        assert (done.code, done.output, done.timed_out) == (3, b"in\nerr\n/tmp\nb deep\n", False)

    def test_another_user_owns_its_output(self, red: Path) -> None:
        done = enter.run(red, ["sh", "-c", "id -u; echo x > /dev/stdout"], user="1000")
        assert (done.code, done.output) == (0, b"1000\nx\n")

    def test_no_input_is_an_empty_one(self, red: Path) -> None:
        assert enter.run(red, ["cat"]).output == b""

    def test_its_process_group_is_killed_after_the_time_out(self, red: Path) -> None:
        began = time.monotonic()
        done = enter.run(red, ["sh", "-c", "echo a; sleep 86420; echo b"], timeout=0.3)
        assert (done.code, done.output, done.timed_out) == (124, b"a\n", True)
        assert time.monotonic() - began < 30
        until(lambda: not _in_red(b"86420"), "the end of sleep")

    def test_what_can_not_be_run_is_a_result(self, red: Path) -> None:
        done = enter.run(red, ["nosuch"])
        assert (done.code, b"nosuch is not found" in done.output) == (127, True)
        done = enter.run(red, ["/etc/passwd"])
        assert (done.code, os.strerror(errno.EACCES).encode() in done.output) == (126, True)
        assert enter.run(red.parent / "nobody", ["true"]).code == 125

    def test_output_beyond_the_limit_is_dropped_and_does_not_block(self, red: Path) -> None:
        done = enter.run(red, ["sh", "-c", "yes | head -c 3000000; echo end"])
        assert (done.code, len(done.output)) == (0, 1 << 20)

    def test_what_it_leaves_running_is_not_waited_for(self, red: Path) -> None:
        began = time.monotonic()
        assert enter.run(red, ["sh", "-c", "sleep 8 & echo started"]).output == b"started\n"
        assert time.monotonic() - began < 7

    def test_many_side_by_side(self, red: Path) -> None:
        with ThreadPoolExecutor(8) as pool:
            results = pool.map(lambda n: enter.run(red, ["sh", "-c", f"echo {n}; exit {n}"]), range(16))
            assert [(done.code, int(done.output)) for done in results] == [(n, n) for n in range(16)]
