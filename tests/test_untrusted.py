"""A stranger's lab file: what reaches the host is refused by place, all at once; the rest is confined."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from support.runner import TOPOLOGIES, Netorch

from netns_orch import labfile
from netns_orch.errors import LabFileError, NetorchError

HOSTILE = r"""
containers:
  red: #                                            host's root, as red has
  blue:
    rootfs: host #                                  host's root, as blue has
    privileged: true #                              can't be privileged
    cap_add: [SYS_PTRACE] #                         can't have SYS_PTRACE added
    nesting: true #                                 can't have `nesting`
    seccomp: unconfined #                           keeps the default seccomp filter
    volumes:
      - /etc:/mnt:ro #                              can't have '/etc' of the host
      - ./www:/www #                                can't have '/
      - data:/data
    devices:
      - /dev/fuse #                                 can't have the device '/dev/fuse'
    ports:
      - "8080:80" #                                 can't take port 8080 of the host
    env_file:
      - ../secret #                                 '../secret' is no file of the lab's own directory
      - link #                                      'link' is no file of the lab's own directory
      - fifo #                                      'fifo' is no file of the lab's own directory
      - mine
    iptables:
      - -A INPUT -M /tmp/evil -j ACCEPT #           can't have '-M'
      - -A INPUT --modp=/tmp/evil -j ACCEPT #       can't have '--modp=/tmp/evil'
      - -A INPUT -m statistic --mode random -jMARK
      - -A INPUT -m bpf --object-pinned /x #        can't have '--object-pinned'
    nftables: include "/etc/shadow" #               can't have the word include
  green:
    rootfs: /srv/root #                             '/srv/root' is outside
  grey:
    rootfs: {layers: [root, outside]} #             is outside
  fine:
    rootfs: root
    cap_drop: [NET_RAW]
    environment: {A: "${HOME:-nothing}"}
bridges:
  lan:
links:
  - [fine, lan]
  - [lan, "host:eth0"] #                            can't have the host's interface 'eth0'
host: #                                             can't change the host
  router: true
scenario:
  - link fine lan down
  - cp fine:/x /etc/x #                             a stranger's scenario can't run 'cp'
  - exec --lab other fine id #                      a stranger's exec can't have '--lab'
  - exec -it -eSECRET fine env #                    a stranger's exec can't have '-eSECRET'
  - exec -e SECRET fine env #                       a stranger's exec can't have '-e SECRET'
  - kill fine --lab=other #                         a stranger's kill can't have '--lab=other'
  - ps other #                                      a stranger's ps can't have 'other'
  - exec -t -e A=b -u 1 fine cat --lab x
  - restart -t 1s fine
  - ps -l role=web --json
"""


def refused(text: str, directory: Path, **options: str) -> list[NetorchError]:
    with pytest.raises(LabFileError) as caught:
        labfile.loads(text, "lab.yaml", str(directory), untrusted=True, **options)  # type: ignore[arg-type]
    return caught.value.problems


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A stranger's directory, with links that lead out of it."""
    own = tmp_path / "lab"
    (own / "root").mkdir(parents=True)
    (tmp_path / "secret").write_text("SECRET=1\n")
    (own / "link").symlink_to("../secret")
    (own / "outside").symlink_to("/etc")
    (own / "mine").write_text("MINE=1\n")
    subprocess.run(["mkfifo", own / "fifo"], check=True)
    return own


def test_each_refusal_is_named_at_its_place_all_at_once(directory: Path) -> None:
    found = {problem.where.line: problem for problem in refused(HOSTILE, directory) if problem.where}
    wanted = {
        number: match[1]
        for number, line in enumerate(HOSTILE.splitlines(), 1)
        if (match := re.search(r" #  +(.+)$", line))
    }
    assert found.keys() == wanted.keys()
    for number, words in wanted.items():
        assert words in found[number].what, found[number]
        assert "untrusted" in (found[number].hint or "")


def test_the_environment_is_not_read(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOKEN", "secret")
    text = "containers:\n  red: {rootfs: root, environment: {A: '${TOKEN:-none}', B: '${GIVEN}'}}\n"
    lab = labfile.loads(text, "lab.yaml", str(directory), variables={"GIVEN": "b"}, untrusted=True)
    assert lab.containers["red"].environment == {"A": "none", "B": "b"}
    assert lab.netns == "private" and lab.containers["red"].namespaces.user
    problems = refused("containers:\n  red: {rootfs: root, hostname: '${TOKEN}'}\n", directory)
    assert [problem.what for problem in problems] == ["the variable TOKEN is not set"]


@pytest.mark.kernel
class TestRun:
    @pytest.fixture
    def file(self, netorch: Netorch) -> Path:
        """A lab with a root of its own: a shell, and what it is linked with."""
        programs = ["/bin/sh", "/bin/cat", "/bin/id"]
        linked = subprocess.run(["ldd", *programs], capture_output=True, text=True, check=True).stdout
        root = netorch.directory / "root"
        for path in {*programs, *re.findall(r"(/\S+) \(0x", linked)}:
            target = root / path.lstrip("/")
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, target)
        for name in ("proc", "sys", "dev", "etc", "run", "tmp"):
            (root / name).mkdir(exist_ok=True)
        return netorch.write(
            "defaults: {rootfs: root}\nbridges: {br0: 10.9.0.1/24}\n"
            "containers: {red: {setup: ['echo $$ > /tmp/done']}, blue: }\nlinks: [[red, br0], [blue, br0]]\n"
        )

    def test_confined(self, netorch: Netorch, file: Path) -> None:
        for command in ("up", "plan", "validate"):
            for how in ({"NETORCH_UNTRUSTED": "1"}, {}):
                words = [command, *([] if how else ["--untrusted"]), TOPOLOGIES / "red-blue.yaml"]
                assert "can't have the host's root" in netorch(*words, code=2, environment=how).stderr
        netorch("up", "--untrusted", file)
        pid = netorch("inspect", "red").json()["pid"]
        first = int(Path(f"/proc/{pid}/uid_map").read_text().split()[1])
        assert first > 65536
        assert netorch("exec", "red", "cat", "/tmp/done").stdout
        links = json.loads(subprocess.run(["ip", "-j", "link"], capture_output=True, check=True).stdout)
        assert not [link for link in links if "br0" in link["ifname"] or link.get("linkinfo") == "bridge"]
        other = netorch.write(file.read_text(), "other/lab.yaml")
        shutil.copytree(file.parent / "root", other.parent / "root")
        assert "can't change it" in netorch("up", "--untrusted", "--name", "lab", other, code=2).stderr
        netorch("down", file)
