"""An interactive session as a person has it: a real terminal, driven by pexpect from outside."""

from __future__ import annotations

import hashlib
import os
import re
import signal
import termios
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pexpect
import pytest
from support import cgroups, snapshot
from support.outer import TestHost
from support.runner import Lab, Netorch
from support.waiting import until

pytestmark = pytest.mark.kernel

SECONDS = 20
PROMPT = "ready> "
TEXT = """
containers:
  red:
    files: {/root/.bashrc: "PS1='ready> '; bind 'set enable-bracketed-paste off'\\n"}
  plain:
  h: {scale: 2}
"""


@pytest.fixture(scope="module")
def lab(outer: TestHost, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """A lab of idle containers."""
    netorch = Netorch(tmp_path_factory.mktemp("terminal"))
    before = snapshot.take()
    with netorch.lab(TEXT) as lab:
        yield lab
    snapshot.assert_equal(before)


class Session:
    """netorch on a terminal of its own, at a person's place."""

    def __init__(self, lab: Lab, *words: str, environment: dict[str, str] | None = None) -> None:
        argv = Netorch.argv(*words)
        self.spawn: Any = pexpect.spawn(
            argv[0],
            argv[1:],
            cwd=str(lab.netorch.directory),
            env={**os.environ, "TERM": "xterm-256color", **(environment or {})},
            timeout=SECONDS,
            encoding="utf-8",
            dimensions=(30, 100),
        )
        self.before = self.attributes()

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *_: object) -> None:
        self.spawn.close(force=True)

    def attributes(self) -> list[Any]:
        """The modes of the person's terminal."""
        return termios.tcgetattr(self.spawn.child_fd)

    def expect(self, pattern: str) -> None:
        """Wait until the terminal shows it (a regular expression)."""
        self.spawn.expect(pattern)

    def run(self, line: str) -> str:
        """Type a line at the prompt; what it prints."""
        self.spawn.sendline(line)
        self.expect(re.escape(line) + r"\r\n")
        self.expect(PROMPT)
        return str(self.spawn.before)

    def end(self) -> int:
        """Wait for the end; the exit code, 128+n for signal n."""
        self.spawn.expect(pexpect.EOF)
        self.spawn.wait()
        self.spawn.close()
        code = self.spawn.exitstatus
        return int(code) if code is not None else 128 + int(self.spawn.signalstatus)


@pytest.fixture
def shell(lab: Lab) -> Iterator[Session]:
    """``netorch shell red``, at its first prompt."""
    with Session(lab, "shell", "red") as session:
        session.expect(PROMPT)
        yield session


class TestShell:
    def test_is_in_the_container(self, shell: Session) -> None:
        assert shell.run("hostname").strip() == "red"
        assert shell.run("echo $0 $PPID").split()[0] == "/bin/bash"

    def test_exit_code(self, shell: Session) -> None:
        shell.spawn.sendline("exit 7")
        assert shell.end() == 7

    def test_end_of_file_ends_it(self, shell: Session) -> None:
        shell.spawn.sendcontrol("d")
        assert shell.end() == 0

    def test_terminal_and_colours(self, shell: Session) -> None:
        assert shell.run("tty").strip().startswith("/dev/pts/")
        assert shell.run("echo $TERM").strip() == "xterm-256color"
        assert shell.run("tput colors").strip() == "256"
        assert "\x1b[01;34m" in shell.run("ls -d --color=auto /etc")

    def test_size_and_resize(self, shell: Session) -> None:
        assert shell.run("stty size").strip() == "30 100"
        shell.run("trap 'echo resized' WINCH")
        shell.spawn.setwinsize(40, 120)
        until(lambda: shell.run("stty size").split()[-2:] == ["40", "120"], "the new size")

    def test_ctrl_c_ends_the_command_not_the_shell(self, shell: Session) -> None:
        shell.spawn.sendline("sh -c 'echo begin; exec sleep 100'")
        shell.expect("begin\r\n")
        shell.spawn.sendcontrol("c")
        shell.expect(PROMPT)
        assert shell.run("echo $?").strip() == "130"

    def test_ctrl_z_and_fg(self, shell: Session) -> None:
        shell.spawn.sendline("sh -c 'echo begin; read line; echo got $line'")
        shell.expect("begin\r\n")
        shell.spawn.sendcontrol("z")
        shell.expect("Stopped")
        shell.expect(PROMPT)
        assert "Stopped" in shell.run("jobs")
        shell.spawn.sendline("fg")
        shell.expect("fg\r\n")
        shell.spawn.sendline("word")
        shell.expect("got word\r\n")
        shell.expect(PROMPT)

    def test_ctrl_backslash(self, shell: Session) -> None:
        shell.spawn.sendline("sh -c 'echo begin; exec sleep 100'")
        shell.expect("begin\r\n")
        shell.spawn.sendcontrol("\\")
        shell.expect(PROMPT)
        assert shell.run("echo $?").strip() == "131"

    def test_much_output_arrives_whole(self, shell: Session) -> None:
        shell.spawn.sendline("seq 1 20000; echo end-of-it")
        shell.expect("20000\r\nend-of-it\r\n")
        numbers = re.findall(r"^(\d+)\r$", shell.spawn.before, re.MULTILINE)
        assert numbers[-3:] == ["19997", "19998", "19999"] and len(numbers) == 19999

    def test_much_input_arrives_whole(self, shell: Session) -> None:
        text = "0123456789" * 10000
        shell.spawn.sendline("stty -icanon -echo; echo go; head -c 100000 | md5sum; stty sane")
        shell.expect("go\r\n")
        shell.spawn.send(text)
        shell.expect(hashlib.md5(text.encode(), usedforsecurity=False).hexdigest())

    def test_is_confined_as_the_command_is(self, lab: Lab, shell: Session) -> None:
        ask = "grep -E '^(Cap|Seccomp:|NoNewPrivs)' /proc/self/status"
        assert shell.run(ask).split() == lab.sh("red", ask).split()

    def test_options(self, lab: Lab) -> None:
        with Session(lab, "shell", "plain", "-u", "nobody", "-w", "/usr", "-e", "WORD=of mine") as session:
            session.spawn.sendline("id -un; pwd; hostname; echo $WORD")
            session.expect("nobody\r\n/usr\r\nplain\r\nof mine\r\n")


class TestUse:
    @pytest.mark.root_only("moves a file below /usr, where a container of a user's can't write")
    def test_without_bash_sh_serves(self, lab: Lab) -> None:
        lab.sh("plain", "mv /bin/bash /bin/bash.away")
        try:
            with Session(lab, "shell", "-e", f"PS1={PROMPT}", "plain") as session:
                session.expect(PROMPT)
                assert session.run("echo $0").strip() == "/bin/sh"
        finally:
            lab.sh("plain", "mv /bin/bash.away /bin/bash")

    @pytest.mark.parametrize(
        ("words", "said"),
        [
            (["rde"], "red"),
            (["h"], "h1, h2"),
            (["red", "ls"], "netorch exec red"),
            ([], "usage: netorch shell"),
            (["--worksdir", "/", "red"], "--workdir"),
            (["red"], "stdin is not a terminal"),
        ],
        ids=str,
    )
    def test_wrong_usage(self, lab: Lab, words: list[str], said: str) -> None:
        result = lab.netorch("shell", *words, code=125)
        assert result.stdout == "" and said in result.stderr


class TestTheTerminalIsGivenBack:
    def test_after_the_end(self, shell: Session) -> None:
        assert shell.attributes() != shell.before, "raw while it runs"
        shell.spawn.sendline("stty raw -echo; exit 3")
        until(lambda: not shell.spawn.isalive(), "the end")
        assert shell.attributes() == shell.before

    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP], ids=str)
    def test_when_netorch_is_killed(self, shell: Session, number: int) -> None:
        shell.spawn.sendline("sleep 4711")
        until(lambda: inside(b"sleep\x004711"), "sleep in red")
        os.kill(shell.spawn.pid, number)
        until(lambda: not shell.spawn.isalive(), "the end of netorch")
        assert shell.attributes() == shell.before
        assert shell.spawn.exitstatus == 128 + number
        until(lambda: not inside(b"sleep\x004711"), "the end of what ran in it")

    def test_when_the_container_dies(self, netorch: Netorch) -> None:
        with netorch.lab("name: dying\n" + TEXT) as lab, Session(lab, "shell", "red") as session:
            session.expect(PROMPT)
            pid = next(row["pid"] for row in netorch("ps", "--json").json() if row["name"] == "red")
            os.kill(pid, signal.SIGKILL)
            until(lambda: not session.spawn.isalive(), "the end")
            assert session.attributes() == session.before

    def test_when_it_is_stopped_and_goes_on(self, shell: Session) -> None:
        os.kill(shell.spawn.pid, signal.SIGTSTP)
        until(lambda: state(shell.spawn.pid) == "T", "netorch stops")
        assert shell.attributes() == shell.before
        os.kill(shell.spawn.pid, signal.SIGCONT)
        until(lambda: shell.attributes() != shell.before, "raw again")
        assert shell.run("echo on").strip() == "on"


class TestExecOnATerminal:
    def test_exit_code_and_crlf(self, lab: Lab) -> None:
        with Session(lab, "exec", "-it", "red", "sh", "-c", "echo one; exit 9") as session:
            session.expect("one\r\n")
            assert session.end() == 9

    def test_signal(self, lab: Lab) -> None:
        with Session(lab, "exec", "-it", "red", "sh", "-c", "kill -SEGV $$") as session:
            assert session.end() == 128 + signal.SIGSEGV

    def test_not_found(self, lab: Lab) -> None:
        with Session(lab, "exec", "-it", "red", "nosuch") as session:
            session.expect("nosuch is not found in container red")
            assert session.end() == 127
            assert session.before is not None

    def test_t_alone_has_no_stdin(self, lab: Lab) -> None:
        with Session(lab, "exec", "-t", "red", "tty") as session:
            session.expect("/dev/pts/")
            assert session.end() == 0

    def test_what_stays_behind_is_not_waited_for(self, lab: Lab) -> None:
        with Session(lab, "exec", "-it", "red", "sh", "-c", "sleep 4712 & echo left") as session:
            session.expect("left\r\n")
            assert session.end() == 0
        lab.exec("red", "pkill", "-f", "sleep 4712", code=None)

    def test_from_a_pipe_it_says_what_to_leave_away(self, lab: Lab) -> None:
        result = lab.netorch("exec", "-it", "red", "true", code=125)
        assert "leave -t away" in result.stderr


def state(pid: int) -> str:
    """The state letter of a process (proc_pid_stat(5))."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def inside(words: bytes) -> list[int]:
    """Processes below this one's cgroup whose command line begins with the words."""
    found = []
    for pid in cgroups.processes(cgroups.positions()[0]):
        try:
            if Path(f"/proc/{pid}/cmdline").read_bytes().startswith(words):
                found.append(pid)
        except OSError:
            continue
    return found
