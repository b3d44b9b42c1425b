"""``netorch import``: other tools' labs as lab files; what can't be said is told, nothing else is changed."""

from __future__ import annotations

import random
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from support import view
from support.runner import ROOT, Netorch

from netns_orch import convert, labfile
from netns_orch.cli import main
from netns_orch.cli.completion import reply
from netns_orch.convert import shell, variables
from netns_orch.convert.draft import Draft
from netns_orch.convert.source import Source
from netns_orch.convert.write import lab_file
from netns_orch.errors import LabFileError, NetorchError

CASES = ROOT / "tests/cases/import"
WORDS = {"clab-host": ["office.clab.yml", "--rootfs", "host"]}
"""How a case is imported, where it is not by its directory."""


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """None of the variables that the cases have."""
    for name in ("TAG", "NGINX_TAG", "REGISTRY", "TOKEN", "NETORCH_UNTRUSTED"):
        monkeypatch.delenv(name, raising=False)


def made(text: str, path: Path, **options: Any) -> convert.Converted:
    """What becomes of a file with this text."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return convert.convert(path, output=path.parent / "lab.yaml", environ={}, **options)


def told(errors: list[NetorchError]) -> list[str]:
    """Where, and what: without the hints."""
    return [f"{error.where.line if error.where else '-'}: {error.what}" for error in errors]


# -- each format, whole ----------------------------------------------------------------------------


@pytest.mark.parametrize("case", sorted(path.name for path in CASES.iterdir()))
def test_an_import_reads_exactly_so(
    case: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The lab file, all that is said about it, and that it is valid: then the exit code is 0."""
    monkeypatch.chdir(CASES / case)
    assert main(["import", *WORDS.get(case, ["."])]) == 0
    output = capsys.readouterr()
    assert output.out == (CASES / case / "expected.yaml").read_text()
    assert output.err == (CASES / case / "expected.txt").read_text()
    yaml.safe_load(output.out)  # other readers of YAML must be able to read it, too


def test_values_come_out_as_they_went_in(tmp_path: Path) -> None:
    """What YAML makes of ``no``, ``010``, ``10:10``; dollars and braces that are nobody's variable."""
    shutil.copytree(CASES / "compose", tmp_path / "shop")
    done = convert.convert(tmp_path / "shop", output=tmp_path / "lab.yaml", environ={"TOKEN": "t"})
    lab = labfile.loads(done.text, directory=str(tmp_path), environ={"TOKEN": "t"})
    app = lab.containers["app1"]
    assert app.environment == {
        "MODE": "no",
        "TIME": "10:10",
        "OCTAL": "010",
        "TOKEN": "t",
        "PRICE": "5$",
        "JSON": '{{"a":1}}',
        "LEVEL": "debug",
    }
    assert app.command is not None and app.command.argv == ["python3", "-m", "http.server", "8000"]
    assert (app.user, app.resources.memory, app.resources.cpus) == ("1000:1000", 256 << 20, 0.5)
    assert [str(link.b.node) for link in lab.links] == ["front", "back", "back", "back", "back"]
    assert lab.containers["db"].extra_hosts["www.shop.test"] == "172.28.5.10"
    assert lab.containers["sidecar"].namespaces.net == "db"


NASTY = [
    *(
        "no",
        "010",
        "10:10",
        "1e3",
        "0x10",
        "0b1",
        "1_000",
        "~",
        "null",
        "y",
        "2026-01-01",
        "<<",
        "=",
        ".5",
        "",
    ),
    *(
        " leading",
        "trailing ",
        "a: b",
        "a #b",
        "#a",
        "- a",
        "-",
        "?",
        "%a",
        "@a",
        "`a`",
        "&a",
        "*a",
        "!a",
        "|",
    ),
    *("a\nb", "a\n", "\na", " a\nb", "a \nb", "a\n\nb\n\n", "tab\there", "\t", ">", "a,b", "a" * 300),
    *(
        "'",
        '"',
        'it\'s "so"',
        "\\n",
        "[a]",
        "{a}",
        "{n}",
        "{name}",
        "{{n}}",
        "}{",
        '{"json": {"a": [1]}}',
        "a{{b",
    ),
    *("$", "$$", "${X}", "$X", "5$", "http://a:80/", "a:", ":a", "::", "fd00::1"),
    *("é", "\U0001f600", "\x85", "\u2028", "\x07", "\ufeff"),
]


def test_no_text_is_changed_by_writing_it() -> None:
    """Every text, in every place, for our reader; and a text for every reader of YAML."""
    texts = {f"K{number}": text for number, text in enumerate(NASTY)}
    written = {key: variables.escaped(text) for key, text in texts.items()}
    draft = Draft(name="no")
    draft.containers["red"] = {
        "labels": {key: text for key, text in written.items() if "\n" not in texts[key]},
        "files": {f"/{key}": text for key, text in written.items()},
        "command": [text for text in written.values() if text and "\n" not in text],
        "setup": [[text, "x"] for text in written.values() if text and "\n" not in text],
    }
    text = lab_file(draft, [])
    red = labfile.loads(text, environ={}).containers["red"]
    assert red.files == {f"/{key}": value for key, value in texts.items()}
    assert red.labels == {key: value for key, value in texts.items() if "\n" not in value}
    assert red.command is not None
    assert red.command.argv == [value for value in NASTY if value and "\n" not in value]
    assert [each.argv[0] for each in red.setup] == red.command.argv
    found = yaml.safe_load(text)["containers"]["red"]
    assert all(isinstance(value, str) for value in [*found["files"].values(), *found["command"]])


# -- pieces ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "kept", "filled"),
    [
        ("a$A-$B", "a${A:-}-${B:-}", "a1-"),
        ("${A}", "${A:-}", "1"),
        ("${B:-x}", "${B:-x}", "x"),
        ("${E-x}", "${E:-x}", ""),
        ("${E:=x}", "${E:-x}", "x"),
        ("${B:?not set}", "${B}", ""),
        ("${A:+yes}", "yes", "yes"),
        ("${B:+yes}", "", ""),
        ("${B:-${A}}", "${B:-1}", "1"),
        ("$$A costs 5$", "$$A costs 5$$", "$A costs 5$"),
        ("${D}", "${D:-of the file}", "of the file"),
    ],
)
def test_variables(text: str, kept: str, filled: str) -> None:
    source = Source(Path("compose.yaml"), {"A": "1", "E": "", "D": "of the file"}, Path())
    source.has_variables, source.defaults = True, {"D": "of the file"}
    assert source.at(0, 0, text).text() == kept
    assert source.at(0, 0, text).plain() == filled


@pytest.mark.parametrize(
    ("script", "commands"),
    [
        ("a b\n# c\n\nd # e\n", ["a b", "d"]),
        ("a; b && c 'x; y' \\\n  z", ["a", "b", "c 'x; y'    z"]),
        ("a | b > c 2>&1\nd &\ne", ["a | b > c 2>&1", "d &", "e"]),
        ("echo $(a; b) # c", ["echo $(a; b)"]),
        ("#!/bin/bash\na#b", ["a#b"]),
        ("X=1\na $X", None),
        ("cd /tmp\na", None),
        ("if a; then b; fi", None),
        ("cat <<END\nEND", None),
        ("a || b && c", None),
        ("f() { a; }", None),
        ("a 'b", None),
        ("a (", None),
    ],
)
def test_a_script_as_commands(script: str, commands: list[str] | None) -> None:
    assert shell.statements(script) == commands


def test_commands_that_a_lab_file_says_itself(tmp_path: Path) -> None:
    """Addresses, routes, forwarding and rules; the rest stays, in its order."""
    lines = {
        "ip a a 10.0.0.1/24 brd + dev eth1": "addresses",
        "ip link set dev eth1 up": "",
        "ip -6 addr add fd00::1/64 dev eth1": "addresses",
        "ifconfig eth2 10.0.1.1 netmask 255.255.255.0 up": "addresses",
        "ip addr add 192.0.2.1/32 dev lo": "loopback",
        "ip route add 10.9.0.0/16 via 10.0.0.9": "routes",
        "route add -net 10.8.0.0 netmask 255.255.0.0 gw 10.0.1.9": "routes",
        "ip route add default via 10.77.0.1": "setup: its gateway is nowhere",
        "ip addr add 10.5.0.1/24 dev vlan5": "setup: no cable of this name",
        "ip addr add 10.5.0.300/24 dev eth1": "setup: no address",
        "sysctl -w net.ipv4.ip_forward=1": "router",
        "sysctl -w net.ipv4.conf.all.rp_filter=2": "sysctls",
        "sysctl -w vm.swappiness=1": "setup: not of a container's own",
        "iptables -t nat -A POSTROUTING -o eth1 -j MASQUERADE": "iptables",
        "iptables -F": "setup: no rule",
    }
    commands = ", ".join(f'"{line}"' for line in lines)
    links = "[{endpoints: [a:eth1, b:eth1]}, {endpoints: [a:eth2, b:eth2]}]"
    text = (
        f"topology: {{nodes: {{a: {{kind: linux, exec: [{commands}]}}, b: {{kind: linux}}}}, links: {links}}}"
    )
    done = made(text, tmp_path / "x.clab.yml")
    assert not done.problems
    lab = labfile.loads(done.text, environ={})
    a = lab.containers["a"]
    assert [[str(item) for item in link.a.addresses] for link in lab.links] == [
        ["10.0.0.1/24", "fd00::1/64"],
        ["10.0.1.1/24"],
    ]
    assert [(route.to, route.via) for route in a.routes] == [
        ("10.9.0.0/16", "10.0.0.9"),
        ("10.8.0.0/16", "10.0.1.9"),
    ]
    assert ([str(item) for item in a.loopback], a.router) == (["192.0.2.1/32"], True)
    assert a.sysctls == {"net.ipv4.conf.all.rp_filter": "2"}
    assert a.iptables is not None and len(a.iptables.rules) == 1
    left = [line for line, what in lines.items() if what.startswith("setup")]
    assert [command.argv[-1] for command in a.setup] == left


# -- losses and mistakes ---------------------------------------------------------------------------


CLAB = "topology:\n  nodes: {a: }\n"
COMPOSE = "services:\n  web:\n    image: nginx\n"


@pytest.mark.parametrize(
    ("lines", "loss"),
    [
        ("    devices: [/dev/fuse]\n    expose: [80]\n", ""),
        ("    mem_limit: 1m\n", "left out: 1m of memory is less than a container takes (6M)"),
        (
            "    network_mode: host\n",
            "left out: network_mode host: web has a network of its own, without a link",
        ),
        ("    ports: ['80']\n", "no port of the host is given for 80: Docker would choose one; 80 was taken"),
        ("    ports: ['1:1/sctp']\n", "left out: a published port is tcp or udp, not sctp"),
        (
            "    volumes: [./no:/x]\n",
            "./no is not there: netorch makes no directory in its place, as Docker would",
        ),
        (
            "    extends: {file: a.yaml, service: x}\n",
            "left out: what this service extends is in another file",
        ),
        ("    env_file: missing.env\n", "left out: there is no file missing.env"),
        ("    gpus: all\n", "left out: `gpus` has no counterpart"),
        ("    restart: on-failure:3\n", "on-failure without the limit of 3 times"),
        ("include: [more.yaml]\n", "left out: `include`"),
    ],
)
def test_what_is_lost_is_told(lines: str, loss: str, tmp_path: Path) -> None:
    done = made(COMPOSE + lines, tmp_path / "compose.yaml")
    assert told(done.losses) == ([f"4: {loss}"] if loss else [])
    assert loss in " ".join(done.text.replace("#", "").split())
    assert not done.problems


@pytest.mark.parametrize(
    ("name", "text", "what"),
    [
        ("compose.yaml", COMPOSE + "    ports: {a: 1}\n", "4:5: expected a list, got a mapping"),
        ("compose.yaml", COMPOSE + "    networks: [lan]\n", "2:3: there is no network lan"),
        ("compose.yaml", COMPOSE + "    depends_on: [db]\n", "4:5: there is no service db"),
        (
            "compose.yaml",
            COMPOSE + "    command: a 'b\n",
            "4:5: this can't be split into words: no closing quotation",
        ),
        ("compose.yaml", COMPOSE + "    privileged: perhaps\n", "4:5: expected true or false, got 'perhaps'"),
        ("compose.yaml", COMPOSE + "  web:\n", "4:3: duplicate key 'web'"),
        ("compose.yaml", "services:\n\tweb:\n", "2:1: a tab can't indent"),
        ("compose.yaml", "", "1:1: the file is empty"),
        ("compose.yaml", "containers: {red: }\n", "1:1: this is a lab file already"),
        ("compose.yaml", "- 1\n", "1:1: this is nothing that netorch can import"),
        ("x.clab.yml", CLAB + "  links: [endpoints: ['a:e', 'b:e']]\n", "3:30: there is no node b"),
        ("x.clab.yml", CLAB + "  links: [endpoints: ['a:e']]\n", "3:11: a link has two endpoints, got 1"),
        ("x.clab.yml", "topology:\n  nodes: {{ range .x }}\n", "2:11: a key must be text"),
        ("lab.conf", 'pc1[0]="A"\nwhat\n', "2:1: this is no line of a lab.conf"),
        ("lab.conf", 'pc1[0]="A"\npc1[0]="B"\n', "2:1: interface 0 of pc1 is there already"),
        ("lab.conf", 'pc1[0]="A B"\n', "1:1: expected a collision domain, and perhaps a MAC after a slash"),
        ("lab.conf", 'shared[0]="A"\n', "1:1: a device can't be called shared"),
        (
            "m.yaml",
            "topology: {nodes: [{name: a, connections: [b]}]}\n",
            "1:44: there is no network or node b",
        ),
    ],
)
def test_a_file_that_is_wrong_is_told_where(name: str, text: str, what: str, tmp_path: Path) -> None:
    with pytest.raises(LabFileError) as caught:
        made(text, tmp_path / name)
    where = caught.value.problems[0].where
    assert where is not None and where.file.endswith(name)
    assert f"{where.line}:{where.column}: {caught.value.problems[0].what}" == what
    assert caught.value.exit_code == 2


def test_the_default_route_of_a_service_is_where_docker_has_it(tmp_path: Path) -> None:
    text = """services:
  a: {image: x, networks: [inner, outer]}
  b: {image: x, networks: {outer: , other: {gw_priority: 1}}}
networks: {inner: {internal: true}, outer: , other: }
"""
    lab = labfile.loads(made(text, tmp_path / "compose.yaml").text, environ={})
    assert [(link.a.node, link.b.node) for link in lab.links] == [
        ("a", "outer"),
        ("a", "inner"),
        ("b", "other"),
        ("b", "outer"),
    ]


@pytest.mark.parametrize("file", ["clab/fabric.clab.yml", "compose/compose.yaml", "munet/munet.yaml"])
def test_no_file_makes_it_stumble(file: str, tmp_path: Path) -> None:
    """Files with one value each replaced by another kind of value: an import, or an error with its place."""
    chance = random.Random(file)
    text = (CASES / file).read_text()
    for _ in range(40):
        tree = yaml.load(text, yaml.BaseLoader)
        holder, key = chance.choice(list(_places(tree)))
        holder[key] = chance.choice(
            [None, "", "x", "a:b", "../..", "${", "%d", "0-9", [], {}, [None], {"a": None}]
        )
        try:
            made(yaml.safe_dump(tree), tmp_path / Path(file).name)
        except LabFileError as error:
            assert all(problem.where for problem in error.problems)


def _places(tree: Any) -> Iterator[tuple[Any, Any]]:
    """Every list or mapping, and a key in it."""
    for key, below in tree.items() if isinstance(tree, dict) else enumerate(tree):
        yield tree, key
        if isinstance(below, dict | list):
            yield from _places(below)


def test_a_pod_a_loop_and_the_host(tmp_path: Path) -> None:
    """Links of who shares a network are those of its owner; of what is no part of the lab there are none."""
    text = """topology:
  defaults: {kind: linux}
  nodes:
    a: {exec: [ip addr add 10.0.0.1/24 dev eth2]}
    b: {network-mode: "container:a"}
    far: {kind: ext-container}
  links:
    - endpoints: [b:eth2, host:up]
    - endpoints: [a:eth3, b:eth4]
    - endpoints: [a:eth5, far:eth1]
    - endpoints: [a:dum0, dummy]
    - endpoints: [a:eth6, macvlan:enp1s0]
"""
    done = made(text, tmp_path / "x.clab.yml")
    assert not done.problems
    assert "  - [a:eth2: 10.0.0.1/24, up]\n" in done.text and done.text.count("\n  - ") == 1
    assert "interfaces: {dum0: {dummy: true}}" in done.text
    assert [each.partition(": ")[2] for each in told(done.losses)] == [
        "far: a container that something else started can't be part of a lab",
        "up was one end of a cable, on the host; here it is a bridge there",
        "left out: both ends of this link are in one network namespace",
        "left out: a link to what is no part of the lab",
        "left out: a link of type macvlan",
    ]


# -- the command -----------------------------------------------------------------------------------


def test_it_writes_once_and_never_half(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("compose.yaml").write_text(COMPOSE + "    gpus: all\n")
    assert main(["import", ".", "-o", "new.yaml"]) == 0
    first = Path("new.yaml").read_text()
    last = capsys.readouterr().err.splitlines()[-1]
    what = "compose: 1 container, 1 link; 1 comment in it to look at"
    assert last == f"wrote new.yaml ({what}); next: netorch up new.yaml"
    Path("new.yaml").write_text("mine")
    assert main(["import", ".", "-o", "new.yaml"]) == 2
    assert "new.yaml is there already" in capsys.readouterr().err
    assert Path("new.yaml").read_text() == "mine"
    assert main(["import", ".", "-o", "new.yaml", "--force", "--strict"]) == 1
    assert "1 thing would be lost, nothing was written" in capsys.readouterr().err
    assert Path("new.yaml").read_text() == "mine"
    assert main(["import", ".", "-o", "new.yaml", "--force"]) == 0
    assert Path("new.yaml").read_text() == first
    assert main(["validate", "compose.yaml"]) == 2
    assert "hint: netorch import compose.yaml -o lab.yaml\n" in capsys.readouterr().err


def test_wrong_usage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("compose.yaml").write_text(COMPOSE)
    for words, what in [
        (["nosuch.yaml"], "there is no file nosuch.yaml"),
        (["x", "--from", "compos"], "--from compos: no such kind of file\nhint: did you mean compose?"),
        (["compose.yaml", "--from", "munet"], "this is not a munet topology"),
        ([], "FILE|DIR is missing"),
    ]:
        assert main(["import", *words]) == 2
        output = capsys.readouterr()
        assert f"error: {what}" in output.err and output.out == ""
    Path("x.clab.yml").write_text("topology: {nodes: {a: }}\n")
    assert main(["import", "."]) == 2
    several = "there is more than one lab in .\nhint: one of: compose.yaml, x.clab.yml"
    assert several in capsys.readouterr().err
    assert [line.partition("\t")[0] for line in reply(["import", "--from", "k"])] == ["kathara"]
    assert "compose.yaml\tfile" in reply(["import", ""])


def test_a_result_that_is_not_valid_is_no_success(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, target = tmp_path / "compose.yaml", tmp_path / "lab.yaml"
    path.write_text("services:\n  web: {image: '${NOT_SET_ANYWHERE}'}\n")
    assert main(["import", str(path), "-o", str(target)]) == 1
    output = capsys.readouterr().err
    assert "error: '' is not the name of an image\n" in output
    assert output.splitlines()[-1].endswith(f"it is not valid yet: netorch validate {target}")
    assert 'web: {image: "${NOT_SET_ANYWHERE:-}"}' in target.read_text()


# -- the kernel ------------------------------------------------------------------------------------


@pytest.mark.kernel
def test_imported_labs_work(netorch: Netorch, tmp_path: Path) -> None:
    """A containerlab file and a Kathará lab that need no image: addresses, routes, files, scripts."""
    for case in ("clab-host", "kathara", "compose"):
        shutil.copytree(CASES / case, tmp_path / case)
    netorch("import", "clab-host/office.clab.yml", "--rootfs", "host", "-o", "office.yaml")
    with netorch.lab(tmp_path / "office.yaml") as lab:
        lab.ping("pc", "10.2.0.2")
        lab.exec("pc", "test", "-e", "/ready-pc")
    netorch("import", "kathara", "-o", "lans.yaml")
    if view.ROOTLESS:  # no cgroup is delegated to the user of the tests
        lans = (tmp_path / "lans.yaml").read_text()
        assert lans.count("    resources: {memory: 64M}\n") == 1
        netorch.write(lans.replace("    resources: {memory: 64M}\n", ""), "lans.yaml")
    with netorch.lab(tmp_path / "lans.yaml") as lab:
        lab.ping("pc1", "10.0.2.3")
        assert lab.sh("pc2", "cat /etc/motd /tmp/motd; ls /started") == "hello\nHELLO\n/started"
        netorch("status", "lans.yaml")
    netorch("import", "compose", "-o", "shop.yaml")
    netorch("validate", "shop.yaml", code=2 if view.ROOTLESS else 0)  # with limits
