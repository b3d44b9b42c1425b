"""Working on a lab as it runs: pause, restart, kill, wait, cp, top, stats, logs; on the real kernel."""

from __future__ import annotations

import io
import json
import os
import signal
import stat
import subprocess
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support import snapshot, view
from support.outer import TestHost
from support.runner import SECONDS, Lab, Netorch
from support.waiting import until

pytestmark = pytest.mark.kernel

TEXT = """
bridges:
  br0: 10.0.0.1/24
containers:
  red:
    command: "trap 'echo got-term; exit 3' TERM; echo started; while :; do sleep 0.1; done"
    setup: ["echo once >> /root/setup-ran"]
    labels: {role: web}
  blue:
  h:
    scale: 2
    command: sleep 1000
    labels: {role: web}
links:
  - [red, br0]
  - [blue, br0]
  - [h, br0]
"""


STUBBORN = """
containers:
  stubborn:
    command: "trap 'echo asked to end' TERM; echo started; while :; do sleep 0.1; done"
    restart: always
    stop_grace_period: 4s
"""


@pytest.fixture
def stubborn(netorch: Netorch) -> Iterator[Lab]:
    """A lab of one container, whose command does not end on SIGTERM."""
    with netorch.lab(STUBBORN) as lab:
        until(lambda: netorch("logs", "stubborn").stdout, "its command")
        yield lab
        netorch("kill", "stubborn", code=None)  # or each test would wait for the grace period


@pytest.fixture
def lab(netorch: Netorch) -> Iterator[Lab]:
    """A lab for one test, to do with as it likes."""
    with netorch.lab(TEXT) as lab:
        until(lambda: netorch("logs", "red").stdout, "red's command")
        yield lab


@pytest.fixture(scope="module")
def files(outer: TestHost, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """A lab of idle containers, for all tests that copy files."""
    netorch = Netorch(tmp_path_factory.mktemp("files"))
    before = snapshot.take()
    with netorch.lab("name: files\ncontainers: {red: , h: {scale: 2}}\n") as lab:
        yield lab
    snapshot.assert_equal(before)


def rows(lab: Lab) -> dict[str, dict[str, Any]]:
    """``ps`` by name."""
    return {row["name"]: row for row in lab.netorch("ps", "--json").json()}


class TestPause:
    @pytest.mark.vm
    @view.LIMITS
    def test_stands_still_and_goes_on(self, lab: Lab) -> None:
        lab.sh("red", "(while :; do date +%s%N > /root/tick; sleep 0.02; done) > /dev/null 2>&1 &")
        lab.netorch("pause", "red")
        assert rows(lab)["red"]["state"] == "paused"
        root = f"/proc/{rows(lab)['red']['pid']}/root/root/tick"
        seen = Path(root).read_text()
        time.sleep(0.3)
        assert Path(root).read_text() == seen
        lab.netorch("unpause", "red")
        assert rows(lab)["red"]["state"] == "running"
        until(lambda: Path(root).read_text() not in ("", seen), "red goes on")

    @view.LIMITS
    def test_exec_is_refused(self, lab: Lab) -> None:
        lab.netorch("pause", "red")
        refused = lab.exec("red", "true", code=125)
        assert refused.stderr == "error: container red is paused\nhint: netorch unpause red\n"

    @view.LIMITS
    def test_down_of_a_paused_lab_ends_its_commands_gently(self, netorch: Netorch) -> None:
        with netorch.lab(TEXT):
            netorch("pause", "--all")
            log = next(Path("/run/netorch").glob("lab.*/c/red/log")).open()
            netorch("unpause", "blue")
        assert "got-term" in log.read(), "SIGTERM reached it before SIGKILL"

    @view.LIMITS
    def test_twice_is_no_error_and_many_at_once(self, lab: Lab) -> None:
        lab.netorch("pause", "h", "blue")
        lab.netorch("pause", "-l", "role=web", "--json")
        states = {name: row["state"] for name, row in rows(lab).items()}
        assert states == {"red": "paused", "blue": "paused", "h1": "paused", "h2": "paused"}
        assert lab.netorch("unpause", "--all", "--json").json()["containers"] == list(states)
        lab.netorch("unpause", "--all")
        assert "paused" not in {row["state"] for row in rows(lab).values()}

    @view.LIMITS
    def test_up_does_not_wait_for_a_paused_container(self, lab: Lab) -> None:
        lab.netorch("pause", "blue")
        lab.netorch.write(TEXT.replace("  blue:\n", "  blue: {command: sleep 999}\n"))
        failed = lab.netorch("up", code=1)
        assert "blue is paused" in failed.stderr and "netorch unpause blue" in failed.stderr

    def test_an_unknown_node_names_the_nearest(self, lab: Lab) -> None:
        for command in ("pause", "unpause", "kill", "top", "wait", "restart"):
            result = lab.netorch(command, "bleu", code=2)
            assert "no container 'bleu'" in result.stderr and "did you mean 'blue'" in result.stderr


class TestRestart:
    def test_is_made_anew_and_keeps_its_network(self, lab: Lab) -> None:
        before = rows(lab)
        space = os.readlink(f"/proc/{before['red']['pid']}/ns/net")
        lab.sh("red", "echo mine > /root/mine; ip route add 10.99.0.0/16 via 10.0.0.3")
        report = lab.netorch("restart", "red", "--json").json()
        assert report["containers"] == ["red"] and report["seconds"] > 0
        after = rows(lab)
        assert after["red"]["pid"] != before["red"]["pid"] and after["red"]["state"] == "running"
        assert os.readlink(f"/proc/{after['red']['pid']}/ns/net") == space
        assert {n: r["pid"] for n, r in after.items() if n != "red"} == {
            n: r["pid"] for n, r in before.items() if n != "red"
        }
        lab.sh("red", "test -e /root/mine", code=1)
        assert lab.sh("red", "cat /root/setup-ran") == "once"
        assert "10.99.0.0/16" in lab.sh("red", "ip route"), "what was done to its network stays"
        lab.ping("red", "10.0.0.3")
        assert lab.netorch("status", "--json").json()["drift"] == []

    def test_a_command_that_ended_runs_again(self, lab: Lab) -> None:
        lab.netorch("kill", "h1")
        until(lambda: rows(lab)["h1"]["state"] == "exited", "the end of h1")
        lab.netorch("restart", "h")
        assert [rows(lab)[name]["state"] for name in ("h1", "h2")] == ["running", "running"]

    def test_grace(self, stubborn: Lab) -> None:
        assert stubborn.netorch("restart", "-t", "200ms", "stubborn", "--json").json()["seconds"] < 3.5
        assert stubborn.netorch("restart", "-t", "5s", "stubborn", "--json").json()["seconds"] > 5

    @view.LIMITS
    def test_of_a_paused_one(self, lab: Lab) -> None:
        lab.netorch("pause", "red")
        lab.netorch("restart", "red")
        assert rows(lab)["red"]["state"] == "running"

    def test_of_one_that_died_builds_its_cables_again(self, lab: Lab) -> None:
        os.kill(rows(lab)["red"]["pid"], signal.SIGKILL)
        until(lambda: rows(lab)["red"]["state"] == "dead", "the end of red")
        dead = lab.netorch("top", "red", code=1)
        assert dead.stderr.startswith("error: container red is not running\nhint: netorch restart red")
        lab.netorch("restart", "red")
        lab.ping("blue", "10.0.0.2")
        assert lab.netorch("status", "--json").json()["drift"] == []

    def test_a_setup_that_fails_is_told_and_is_drift(self, lab: Lab) -> None:
        text = TEXT.replace("echo once >> /root/setup-ran", f"test ! -e {lab.netorch.directory}/stop")
        lab.netorch.write(text)
        lab.netorch("up")
        (lab.netorch.directory / "stop").touch()
        assert "red" in lab.netorch("restart", "red", code=1).stderr
        assert lab.netorch("status", code=1).stdout
        (lab.netorch.directory / "stop").unlink()
        lab.netorch("up")
        assert lab.netorch("status", "--json").json()["drift"] == []

    @view.LIMITS
    def test_waits_for_the_lock(self, stubborn: Lab) -> None:
        with stubborn.netorch.start("restart", "stubborn") as slow:
            until(lambda: "asked to end" in stubborn.netorch("logs", "stubborn").stdout, "its SIGTERM")
            assert "(restart, for" in stubborn.netorch("pause", "--all", code=1).stderr
            stubborn.netorch("pause", "--wait", "60s", "--all")
            stubborn.netorch("unpause", "--all")
            assert slow.wait(timeout=SECONDS) == 0


class TestKillAndWait:
    def test_kill_by_default_is_final_though_it_would_restart(self, stubborn: Lab) -> None:
        stubborn.netorch("kill", "stubborn")
        until(lambda: rows(stubborn)["stubborn"]["exit_code"] == 137, "the end of it")
        time.sleep(0.5)
        row = rows(stubborn)["stubborn"]
        assert (row["state"], row["restarts"]) == ("exited", 0)

    def test_another_signal_leaves_the_restart_policy(self, stubborn: Lab) -> None:
        stubborn.netorch("kill", "-s", "SEGV", "stubborn")
        until(lambda: rows(stubborn)["stubborn"]["restarts"] == 1, "its restart")
        assert rows(stubborn)["stubborn"]["exit_code"] == 139

    @pytest.mark.parametrize("name", ["TERM", "SIGTERM", "15", "term"])
    def test_signals_reach_the_command_and_wait_tells_its_code(self, lab: Lab, name: str) -> None:
        with lab.netorch.start("wait", "red") as waiting:
            time.sleep(0.5)
            assert waiting.poll() is None
            lab.netorch("kill", "--signal", name, "red")
            assert waiting.communicate(timeout=SECONDS)[0] == "3\n"
            assert waiting.returncode == 0
        assert lab.netorch("wait", "red").stdout == "3\n", "at once, once it has ended"
        assert "has ended (exit code 3)" in lab.netorch("kill", "red", code=1).stderr
        assert "got-term" in lab.netorch("logs", "red").stdout

    @view.LIMITS
    def test_kill_of_a_paused_one(self, lab: Lab) -> None:
        lab.netorch("pause", "h")
        assert "is paused" in lab.netorch("kill", "-s", "USR1", "h", code=1).stderr
        lab.netorch("kill", "--all")  # but blue, which has no command
        ended = [{"lab": "lab", "name": name, "exit_code": 137} for name in ("red", "h1", "h2")]
        assert lab.netorch("wait", "--json", "-l", "role=web").json() == ended
        assert lab.netorch("wait", "--all").stdout == "137\n" * 3
        assert lab.netorch("wait", "--json", "h").json() == ended[1:]

    def test_wait_ends_with_down(self, netorch: Netorch) -> None:
        with netorch.lab(TEXT):
            until(lambda: netorch("logs", "red").stdout, "red's command")
            waiting = netorch.start("wait", "red")
            time.sleep(0.5)
        assert waiting.communicate(timeout=SECONDS)[0] == "3\n"

    def test_wrong_words(self, lab: Lab) -> None:
        assert "FOO" in lab.netorch("kill", "-s", "FOO", "red", code=2).stderr
        for command in ("kill", "wait"):
            assert "blue has no command" in lab.netorch(command, "blue", code=1).stderr


class TestTop:
    def test_processes_inside_and_outside(self, lab: Lab) -> None:
        listed = lab.netorch("top", "red", "--json").json()
        first, command = listed[0], listed[1]
        assert (first["inside"], first["pid"]) == (1, rows(lab)["red"]["pid"])
        assert command["ppid"] == 1 and command["command"].startswith("/bin/sh -c trap")
        inside = Path(f"/proc/{command['pid']}/status").read_text()
        assert f"\t{command['inside']}\n" in inside[inside.index("NSpid:") :].split("\n")[0] + "\n"
        assert abs(command["started"] - time.time()) < 60
        text = lab.netorch("top", "red").stdout
        assert text.startswith("PID") and "trap" in text

    @pytest.mark.root_only("writes to /etc/passwd, over which the tests have put one that knows the user")
    def test_users_are_named_as_inside(self, lab: Lab) -> None:
        lab.sh("blue", "sed -i 's/^nobody:/noone:/' /etc/passwd")
        with lab.netorch.start("exec", "-u", "noone", "blue", "sleep", "1000") as running:
            until(
                lambda: "noone" in {r["user"] for r in lab.netorch("top", "blue", "--json").json()}, "sleep"
            )
            running.terminate()


class TestStats:
    @pytest.mark.vm
    def test_once(self, lab: Lab) -> None:
        lab.sh("blue", "(while :; do :; done) > /dev/null 2>&1 &")
        lab.exec("red", "ping", "-qc3", "-i0.1", "10.0.0.3")
        time.sleep(0.5)
        found = {row["name"]: row for row in lab.netorch("stats", "--once", "--json").json()}
        assert list(found) == ["red", "blue", "h1", "h2"]
        assert found["blue"]["cpu_percent"] > 1 > found["h1"]["cpu_percent"]
        assert found["red"]["memory"] > 100_000 and found["red"]["oom_kills"] == 0
        assert found["red"]["pids"] >= 3 and found["h1"]["pids"] >= 2
        assert found["red"]["tx_bytes"] >= 3 * 98 and found["red"]["rx_bytes"] >= 3 * 98
        assert found["h1"]["tx_bytes"] < 98
        assert lab.netorch("stats", "--once").stdout.splitlines()[0].startswith("NAME")

    def test_live_as_lines_until_ctrl_c(self, lab: Lab) -> None:
        with lab.netorch.start("stats", "--json", "--interval", "100ms") as live:
            assert live.stdout is not None
            pictures = [json.loads(live.stdout.readline()) for _ in range(3)]
            lab.netorch.interrupt(live)
            assert live.wait(timeout=SECONDS) == 0
        assert all(picture[0]["name"] == "red" for picture in pictures)

    def test_ends_with_the_lab(self, netorch: Netorch) -> None:
        with netorch.lab(TEXT):
            live = netorch.start("stats", "--json", "--interval", "100ms")
            assert live.stdout is not None
            live.stdout.readline()
        _, told = live.communicate(timeout=SECONDS)
        assert (live.returncode, told) == (0, "")

    @view.LIMITS
    def test_limits_and_a_dead_one(self, lab: Lab) -> None:
        os.kill(rows(lab)["h2"]["pid"], signal.SIGKILL)
        until(lambda: rows(lab)["h2"]["state"] == "dead", "the end of h2")
        lab.netorch.write(TEXT.replace("  blue:\n", "  blue: {resources: {memory: 64M, pids: 50}}\n"))
        found = {row["name"]: row for row in lab.netorch("stats", "--once", "--json").json()}
        assert found["h2"]["state"] == "dead" and found["h2"]["memory"] is None
        lab.netorch("up")
        found = {row["name"]: row for row in lab.netorch("stats", "--once", "--json").json()}
        assert (found["blue"]["memory_limit"], found["blue"]["pids_limit"]) == (64 << 20, 50)


class TestCopyIn:
    def test_a_file_under_a_name_and_into_a_directory(self, files: Lab, tmp_path: Path) -> None:
        source = tmp_path / "f.sh"
        source.write_text("#!/bin/sh\necho hi\n")
        source.chmod(0o750)
        os.utime(source, (1_000_000_000, 1_000_000_000))
        os.chown(source, view.host_id(1234), view.host_id(1234))
        files.netorch("cp", source, "red:/root/new.sh")
        files.netorch("cp", source, "red:/root")
        for name in ("new.sh", "f.sh"):
            assert files.sh("red", f"stat -c '%a %u %g %Y' /root/{name}") == "750 0 0 1000000000"
        assert files.sh("red", "/root/new.sh") == "hi"
        files.netorch("cp", "-a", source, "red:/root/kept")
        assert files.sh("red", "stat -c '%u %g' /root/kept") == "1234 1234"

    def test_directories(self, files: Lab, tmp_path: Path) -> None:
        tree(tmp_path / "d")
        files.netorch("cp", tmp_path / "d", "red:/root/as-new")
        files.netorch("cp", tmp_path / "d", "red:/root/as-new")
        files.netorch("cp", f"{tmp_path}/d/.", "red:/root/content")
        for place in ("as-new", "as-new/d", "content"):
            assert files.sh("red", f"cat /root/{place}/sub/file /root/{place}/one") == "deep\n1"
            assert files.sh("red", f"readlink /root/{place}/link") == "/etc/hostname"
            assert files.sh("red", f"stat -c %a /root/{place}/sub") == "700"
            assert files.sh("red", f"stat -c %h /root/{place}/one") == "2"

    def test_existing_files_are_replaced_links_followed_only_when_named(
        self, files: Lab, tmp_path: Path
    ) -> None:
        (tmp_path / "one").write_text("new\n")
        files.sh(
            "red", "mkdir -p /root/x; echo old > /root/x/real; ln -sf real /root/x/one; ln -s x /root/lx"
        )
        files.netorch("cp", tmp_path / "one", "red:/root/lx/")
        assert files.sh("red", "readlink /root/x/one || cat /root/x/one; cat /root/x/real") == "new\nold"
        files.sh("red", "ln -sf real /root/x/one")
        files.netorch("cp", tmp_path / "one", "red:/root/x/one")
        assert files.sh("red", "readlink /root/x/one; cat /root/x/real") == "real\nnew"

    def test_a_tar_stream(self, files: Lab, tmp_path: Path) -> None:
        tree(tmp_path / "d")
        for mode in ("", "z"):
            packed = subprocess.run(["tar", f"c{mode}", "-C", tmp_path, "d"], capture_output=True, check=True)
            done = piped(files, packed.stdout, "cp", "-", "red:/tmp")
            assert done.returncode == 0, done.stderr
            assert files.sh("red", "cat /tmp/d/sub/file && rm -r /tmp/d") == "deep"

    @pytest.mark.parametrize(
        ("words", "said"),
        [
            (["nosuch", "red:/root"], "nosuch: No such file"),
            (["lab.yaml", "red:/root/no/such/f"], "red:/root/no/such: No such file"),
            (["lab.yaml", "red:/root/no/"], "there is no directory red:/root/no/"),
            (["lab.yaml", "red:/etc/passwd/"], "not a directory"),
            (["lab.yaml", "rde:/root"], "did you mean 'red'"),
            (["lab.yaml", "h:/root"], "h is 2 containers"),
            ([".", "red:/etc/passwd"], "not a directory"),
            (["lab.yaml", "red:/proc/version"], "red:/proc/version"),
            (["-", "red:/no/such"], "there is no directory red:/no/such"),
            (["-", "red:/root"], "not a whole tar stream"),
        ],
        ids=str,
    )
    def test_wrong_words(self, files: Lab, words: list[str], said: str) -> None:
        result = files.netorch("cp", *words, code=None, input="")
        assert result.code in (1, 2) and said in result.stderr, str(result)


class TestCopyOut:
    def test_a_file_and_a_directory(self, files: Lab, tmp_path: Path) -> None:
        files.sh("red", "mkdir -p /srv/d/sub; echo deep > /srv/d/sub/file; ln -sf /etc/shadow /srv/d/link")
        files.sh(
            "red", "chmod 4755 /srv/d/sub/file; chown 5:6 /srv/d/sub/file; mkfifo -m 600 /srv/d/pipe || true"
        )
        files.netorch("cp", "red:/srv/d", tmp_path / "out")
        file = tmp_path / "out/sub/file"
        assert file.read_text() == "deep\n" and os.readlink(tmp_path / "out/link") == "/etc/shadow"
        found = file.stat()
        assert (found.st_uid, found.st_gid) == (view.host_id(0), view.host_id(0))
        assert stat.S_IMODE(found.st_mode) == 0o755, "no setuid bit"
        assert stat.S_ISFIFO((tmp_path / "out/pipe").stat().st_mode)
        files.netorch("cp", "-a", "red:/srv/d/sub/file", tmp_path)
        assert (tmp_path / "file").stat().st_uid == view.host_id(5)
        files.netorch("cp", "red:/srv/d/link", tmp_path)
        assert (tmp_path / "link").is_symlink()
        files.netorch("cp", "-L", "red:/srv/d/../d/sub/.", tmp_path / "out")
        assert (tmp_path / "out/file").read_text() == "deep\n"

    def test_a_tar_stream(self, files: Lab) -> None:
        files.sh("red", "mkdir -p /opt/t; echo word > /opt/t/file; chown 7:8 /opt/t/file")
        done = piped(files, b"", "cp", "red:/opt/t", "-")
        with tarfile.open(fileobj=io.BytesIO(done.stdout)) as archive:
            members = {member.name: member for member in archive}
        assert list(members) == ["t", "t/file"] and (members["t/file"].uid, members["t/file"].gid) == (7, 8)
        assert done.stderr == b""

    def test_files_of_proc_that_say_they_are_empty(self, files: Lab, tmp_path: Path) -> None:
        files.netorch("cp", "red:/proc/sys/kernel/hostname", tmp_path / "name")
        assert (tmp_path / "name").read_text() == (tmp_path / "name").read_text() != ""

    def test_the_whole_root_leaves_virtual_file_systems_empty(self, files: Lab, tmp_path: Path) -> None:
        files.netorch("cp", "red:/dev", tmp_path / "dev", code=None)
        result = files.netorch("cp", "red:/dev", tmp_path / "dev2")
        assert "skipped: red:dev2/null is a device" in result.stderr
        assert not list((tmp_path / "dev2/pts").iterdir())

    @view.LIMITS
    def test_of_a_paused_container(self, files: Lab, tmp_path: Path) -> None:
        files.netorch("pause", "h1")
        files.netorch("cp", "h1:/etc/hostname", tmp_path)
        files.netorch("unpause", "h1")
        assert (tmp_path / "hostname").read_text() == "h1\n"


class TestCopyIsSafe:
    """A container that means harm, and an archive that does: nothing of the host is read or written."""

    @pytest.fixture
    def secret(self, files: Lab) -> Path:
        """A file that only the host has: a container has a /run of its own."""
        path = Path(f"/run/secret-{os.getpid()}")
        view.run("sh", "-c", f'echo "the host\'s" > {path}', lab="files")
        yield path  # type: ignore[misc]
        assert view.run("cat", str(path), lab="files") == "the host's\n"
        view.run("rm", str(path), lab="files")

    def test_links_of_the_container_are_resolved_inside(
        self, files: Lab, tmp_path: Path, secret: Path
    ) -> None:
        for link in (str(secret), f"../../../../../..{secret}", "/proc/1/root" + str(secret)):
            files.sh("red", f"ln -sfn {link} /root/evil")
            assert files.netorch("cp", "-L", "red:/root/evil", tmp_path / "got", code=1).stderr
            assert not (tmp_path / "got").exists()

    def test_writing_through_a_link_stays_inside(self, files: Lab, tmp_path: Path, secret: Path) -> None:
        (tmp_path / "f").write_text("inside")
        files.sh("red", f"ln -sfn {secret} /root/evil; ln -sfn /run /root/evildir; ln -sfn ../../.. /root/up")
        files.netorch("cp", tmp_path / "f", "red:/root/evil")
        files.netorch("cp", tmp_path / "f", f"red:/root/evildir/{secret.name}")
        files.netorch("cp", tmp_path / "f", f"red:/root/up/up/up/run/{secret.name}", code=None)
        assert files.sh("red", f"cat {secret}") == "inside"
        files.sh("red", f"rm {secret}")

    def test_magic_links_are_not_followed(self, files: Lab, tmp_path: Path) -> None:
        (tmp_path / "f").write_text("x")
        for path in ("/proc/1/root/root/f", "/proc/1/cwd/f"):
            assert files.netorch("cp", tmp_path / "f", f"red:{path}", code=1).stderr
        assert files.netorch("cp", "red:/proc/1/exe", "-L", tmp_path / "exe", code=1).stderr

    def test_a_link_at_the_target_on_the_host_is_not_followed(self, files: Lab, tmp_path: Path) -> None:
        (tmp_path / "out").mkdir()
        (tmp_path / "victim").mkdir()
        (tmp_path / "out/d").symlink_to("../victim")
        (tmp_path / "file").write_text("mine")
        (tmp_path / "out/link").symlink_to("../file")
        files.sh("red", "mkdir -p /root/w/d; echo evil > /root/w/d/file; echo evil > /root/w/link")
        result = files.netorch("cp", "red:/root/w/.", tmp_path / "out", code=1)
        assert "links are not followed" in result.stderr or "exists" in result.stderr
        assert list((tmp_path / "victim").iterdir()) == [] and (tmp_path / "file").read_text() == "mine"

    def test_evil_archives(self, files: Lab, tmp_path: Path, secret: Path) -> None:
        for name in ("../../../../out", f"a/../../../../..{secret}"):
            done = piped(files, archive([(name, {})]), "cp", "-", "red:/root")
            assert done.returncode == 1 and b"leads out" in done.stderr
        absolute = archive([(str(secret), {})])
        assert piped(files, absolute, "cp", "-", "red:/").returncode == 0, "relative to the directory"
        through = archive([("l", {"type": tarfile.SYMTYPE, "linkname": "/run"}), (f"l/{secret.name}", {})])
        piped(files, through, "cp", "-", "red:/root")
        hard = archive([("h", {"type": tarfile.LNKTYPE, "linkname": f"../../../..{secret}"})])
        assert piped(files, hard, "cp", "-", "red:/root").returncode == 1
        device = archive([("null", {"type": tarfile.CHRTYPE, "devmajor": 1, "devminor": 3})])
        done = piped(files, device, "cp", "-", "red:/root")
        assert done.returncode == 0 and b"skipped: null" in done.stderr
        assert files.sh("red", f"cat {secret}; rm {secret}; ls /root/null", code=2) == "data"

    def test_a_directory_that_keeps_changing_into_a_link(
        self, files: Lab, tmp_path: Path, secret: Path
    ) -> None:
        tree(tmp_path / "d")
        flip = (
            "mkdir -p /root/race; cd /root/race; while :; do "
            "mkdir d 2>/dev/null; mv -T d e 2>/dev/null; ln -sfn /run d 2>/dev/null; rm -rf d e; done"
        )
        with files.netorch.start("exec", "red", "sh", "-c", flip) as racing:
            try:
                for _ in range(8):
                    files.netorch("cp", tmp_path / "d", "red:/root/race", code=None)
                    files.netorch("cp", "red:/root/race", tmp_path / "out", code=None)
            finally:
                racing.kill()
        run = view.path("/run", lab="files")
        assert not (run / "sub").exists() and not (run / "one").exists()
        assert secret.name not in {path.name for path in (tmp_path / "out").rglob("*")}

    def test_directories_too_deep_are_an_error(self, files: Lab, tmp_path: Path) -> None:
        script = "import os\nos.chdir('/root')\nfor _ in range(700):\n    os.mkdir('d')\n    os.chdir('d')"
        files.python("red", script)
        result = files.netorch("cp", "red:/root/d", tmp_path / "out", code=1)
        assert "deep in each other" in result.stderr
        files.sh("red", "rm -rf /root/d")


class TestLogs:
    def test_follow_ends_with_the_command(self, lab: Lab) -> None:
        with lab.netorch.start("logs", "-f", "red") as following:
            time.sleep(0.5)
            lab.netorch("kill", "-s", "TERM", "red")
            assert following.communicate(timeout=SECONDS)[0] == "started\ngot-term\n"

    def test_follow_of_much_loses_and_doubles_nothing_it_can_keep_up_with(self, netorch: Netorch) -> None:
        count = 400_000
        text = (
            'containers: {red: {command: "sleep 1; for i in $(seq 40); do seq $((i*10000-9999)) $((i*10000)) '
        )
        text += '; sleep 0.05; done; echo end"}}\n'
        with netorch.lab(text), netorch.start("logs", "-f", "red") as following:
            lines = following.communicate(timeout=SECONDS)[0].splitlines()
        assert lines[-1] == "end" and lines[:-1] == [str(n) for n in range(1, count + 1)]

    def test_size_is_limited_and_the_latest_lines_stay(self, netorch: Netorch) -> None:
        text = 'containers: {red: {command: "seq 2000000; echo end"}}\n'
        with netorch.lab(text):
            netorch("wait", "red")
            lines = netorch("logs", "red").stdout.splitlines()
            first = int(lines[0])
            assert lines == [*map(str, range(first, 2_000_001)), "end"]
            log = next(view.path("/run/netorch", "lab").glob("lab.*/c/red/log"))
            assert 1 << 19 < log.stat().st_blocks * 512 < 3 << 20
            assert netorch("logs", "--tail", "3", "red").stdout == "1999999\n2000000\nend\n"
            assert netorch("logs", "--tail", "0", "red").stdout == ""

    def test_tail_and_follow_while_it_prints(self, netorch: Netorch) -> None:
        text = 'containers: {red: {command: "seq 600000; sleep 3; echo end"}}\n'
        with netorch.lab(text):
            until(lambda: netorch("logs", "--tail", "1", "red").stdout == "600000\n", "its last number")
            following = netorch("logs", "--tail", "2", "-f", "red").stdout
        assert following == "599999\n600000\nend\n"


def tree(path: Path) -> None:
    """A small tree: a file of two names, a link, a directory with a file."""
    (path / "sub").mkdir(parents=True)
    (path / "one").write_text("1")
    os.link(path / "one", path / "two")
    (path / "link").symlink_to("/etc/hostname")
    (path / "sub/file").write_text("deep\n")
    (path / "sub").chmod(0o700)


def archive(members: list[tuple[str, dict[str, Any]]]) -> bytes:
    """A tar archive; a member without a type is a file that holds ``data``."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as packed:
        for name, fields in members:
            member = tarfile.TarInfo(name)
            for field, value in fields.items():
                setattr(member, field, value)
            data = b"" if fields else b"data"
            member.size = len(data)
            packed.addfile(member, io.BytesIO(data))
    return stream.getvalue()


def piped(lab: Lab, data: bytes, *words: str) -> subprocess.CompletedProcess[bytes]:
    """Run netorch with bytes as stdin and stdout."""
    return subprocess.run(
        lab.netorch.argv(*words),
        cwd=lab.netorch.directory,
        env=lab.netorch.environment,
        input=data,
        capture_output=True,
        timeout=SECONDS,
        check=False,
    )
