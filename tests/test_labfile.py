"""The lab file: what is valid means what it should, and what is not is said exactly."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from ipaddress import ip_interface, ip_network
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from support.hostile import BOMBS
from support.runner import ROOT

from netns_orch import lab, labfile
from netns_orch.errors import LabFileError, UsageError
from netns_orch.labfile import addresses, short, units
from netns_orch.labfile import yaml as labfile_yaml
from netns_orch.labfile.model import Container, Endpoint, Topology
from netns_orch.labfile.schema import json_schema
from netns_orch.labfile.variables import template

CASES = ROOT / "tests/cases/labfile"
VALID = ROOT / "tests/cases/labfile-valid/everything.yaml"
TOPOLOGIES = sorted((ROOT / "topologies").glob("*.yaml"))


def read(text: str, **options: Any) -> Topology:
    """The lab of a text, with an empty environment."""
    return labfile.loads(text, **{"environ": {}, **options})


def container(body: str, **options: Any) -> Container:
    """A container ``red`` whose keys are ``body`` (in flow style), beside ``blue``."""
    return read(f"containers: {{red: {{{body}}}, blue: }}", **options).containers["red"]


def problem(text: str, **options: Any) -> str:
    """The one problem of a text, without its place."""
    with pytest.raises(LabFileError) as caught:
        read(text, **options)
    assert len(caught.value.problems) == 1, str(caught.value)
    return caught.value.what


# -- what is not valid ---------------------------------------------------------------------------


@pytest.fixture(params=["libyaml", "python"])
def parser(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of PyYAML's two parsers: installations without libyaml must read the same."""
    if request.param == "python":
        monkeypatch.setattr(labfile_yaml, "_LIBYAML", None)


@pytest.mark.usefixtures("parser")
@pytest.mark.parametrize("case", sorted(CASES.iterdir()), ids=lambda case: case.name)
def test_errors_read_exactly_so(case: Path) -> None:
    text = (case / "lab.yaml").read_text(encoding="utf-8")
    with pytest.raises(LabFileError) as caught:
        labfile.loads(text, "lab.yaml", str(case), environ={})
    told = str(caught.value).replace(str(case), "DIR")
    assert told + "\n" == (case / "error.txt").read_text(encoding="utf-8")
    places = [(error.where.line, error.where.column) for error in caught.value.problems if error.where]
    assert places == sorted(places)
    assert len(places) == len(caught.value.problems), "every problem has a place"


def test_there_are_enough_invalid_cases() -> None:
    assert len(list(CASES.iterdir())) >= 40


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(LabFileError, match="there is no file"):
        labfile.load(tmp_path / "lab.yaml")


def test_a_file_that_is_not_text(tmp_path: Path) -> None:
    (tmp_path / "lab.yaml").write_bytes(b"containers:\n  red: \xff\n")
    with pytest.raises(LabFileError, match=r"not a text in UTF-8\n  --> .*lab.yaml:2:8"):
        labfile.load(tmp_path / "lab.yaml")


def test_a_file_that_never_ends() -> None:
    with pytest.raises(LabFileError, match="larger than 8 MiB"):
        labfile.load("/dev/zero")


@pytest.mark.parametrize(("text", "what"), BOMBS, ids=range(len(BOMBS)))
def test_bombs_are_refused_quickly(text: str, what: str) -> None:
    begun = time.process_time()
    with pytest.raises(LabFileError, match=what):
        lab.validate(labfile.loads(text, environ={}), host=False)
    assert time.process_time() - begun < 5


def test_a_thousand_problems_are_cut_at_a_hundred() -> None:
    with pytest.raises(LabFileError) as caught:
        read("".join(f"key{n}: 1\n" for n in range(1000)))
    assert len(caught.value.problems) == 100
    assert "only 100 problems are shown" in str(caught.value)


def test_unset_variables_are_named() -> None:
    assert problem("containers: {red: {hostname: '${NOT_SET}'}}") == "the variable NOT_SET is not set"


def test_the_name_given_from_outside_is_checked() -> None:
    with pytest.raises(UsageError, match="can't be the name of a lab"):
        read("containers: {red: }", name="a b")


# -- what is valid -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def everything() -> Topology:
    return labfile.load(VALID, environ={})


def test_the_whole_format_is_read(everything: Topology) -> None:
    assert everything.name == "office"
    assert everything.file == str(VALID)
    assert len(everything.containers) == 7 + 100 + 2 + 3
    assert everything.groups["h"][:2] == ["h1", "h2"]
    assert len(everything.links) == 119
    assert len(everything.checks) == 11
    assert [step.kind for step in everything.scenario] == ["command", "converges", "wait", "command", "check"]


def test_both_parsers_read_the_same(everything: Topology, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(labfile_yaml, "_LIBYAML", None)
    assert labfile.load(VALID, environ={}) == everything


def test_text_is_never_turned_into_anything(everything: Topology) -> None:
    environment = everything.containers["red"].environment
    assert environment == {
        "GREETING": "hello world",
        "OTHER": "1",
        "LANG": "C.UTF-8",
        "NUMBER": "010",
        "FLAG": "no",
        "CLOCK": "10:10",
        "FLOAT": "1e3",
    }


def test_defaults_merge_and_replace(everything: Topology) -> None:
    assert everything.containers["red"].labels == {"site": "office", "role": "web"}
    assert everything.containers["red"].resources.memory == 200 << 20
    assert everything.containers["blue"].resources.memory == 256 << 20
    assert everything.containers["h7"].resources.memory is None, "null takes the default away"


def test_scale_and_templates(everything: Topology) -> None:
    seventh = everything.containers["h7"]
    assert (seventh.name, seventh.n, seventh.hostname) == ("h7", 7, "h7.lab")
    assert seventh.environment == {"ID": "7", "BRACES": "{n}"}
    assert everything.containers["leaf2"].loopback == [ip_interface("192.0.2.12/32")]


def test_impairments_of_an_end_go_over_those_of_the_link(everything: Topology) -> None:
    link = next(link for link in everything.links if link.mtu == 9000)
    assert link.a.impairment == link.b.impairment
    assert (link.a.impairment.delay, link.a.impairment.rate) == (0.02, 100_000_000)
    one_way = next(link for link in everything.links if link.a.mac)
    assert (one_way.a.impairment.delay, one_way.b.impairment.delay) == (0.05, None)


def test_marks_point_into_the_file(everything: Topology) -> None:
    lines = VALID.read_text(encoding="utf-8").splitlines()
    red = everything.containers["red"]
    for key, text in (("command", "[python3"), ("hostname", "red"), ("resources", "resources:")):
        where = red.mark(key)
        assert where is not None
        assert lines[where.line - 1][where.column - 1 :].startswith(text)
        assert where.path == f"containers.red.{key}"
    rule = red.iptables.rules[1].where
    assert rule is not None and lines[rule.line - 1][rule.column - 1 :].startswith("-t nat")


def test_entries_have_marks_too() -> None:
    text = """bridges:
  br0: [10.0.0.1/24, "fd00::1/64"]
  br1: {address: [10.1.0.1/24, 10.2.0.1/24]}
containers:
  red:
    sysctls:
      net.ipv4.ip_forward: 1
links:
  - {endpoints: [red: [10.0.0.2/24, "fd00::2/64"], br0], delay: 1ms}
"""
    lab = read(text)
    places = {
        "br0": lab.bridges["br0"].marks["address.1"],
        "br1": lab.bridges["br1"].marks["address.1"],
        "red": lab.links[0].a.marks["address.1"],
        "sysctl": lab.containers["red"].marks["sysctls.net.ipv4.ip_forward"],
        "delay": lab.links[0].b.marks["delay"],
    }
    columns = {name: (where.line, where.column) for name, where in places.items()}
    assert columns == {"br0": (2, 22), "br1": (3, 32), "red": (9, 37), "sysctl": (7, 7), "delay": (9, 65)}


@pytest.mark.parametrize("path", TOPOLOGIES, ids=lambda path: path.stem)
def test_the_topologies_are_valid(path: Path) -> None:
    assert labfile.load(path, environ={}).name == path.stem


def test_the_smallest_file() -> None:
    lab = read(
        "bridges: {br0: 10.0.0.1/24}\ncontainers:\n  red:\n  blue:\nlinks:\n  - [red, br0]\n  - [blue, br0]"
    )
    assert (lab.name, list(lab.containers)) == ("lab", ["red", "blue"])
    assert lab.bridges["br0"].addresses == [ip_interface("10.0.0.1/24")]
    assert [(link.a.node, link.b.node) for link in lab.links] == [("red", "br0"), ("blue", "br0")]


END_FORMS: dict[str, Endpoint] = {
    "red": Endpoint(node="red"),
    "red:wan": Endpoint(node="red", ifname="wan"),
    "red: 10.0.0.7/24": Endpoint(node="red", addresses=[ip_interface("10.0.0.7/24")]),
    "red:eth2: fd00::2/64": Endpoint(node="red", ifname="eth2", addresses=[ip_interface("fd00::2/64")]),
    "red: [10.0.0.7/24, 'fd00::7/64']": Endpoint(
        node="red", addresses=[ip_interface("10.0.0.7/24"), ip_interface("fd00::7/64")]
    ),
    "red: {address: 10.0.0.7/24, mac: 02:00:00:00:00:0A}": Endpoint(
        node="red", addresses=[ip_interface("10.0.0.7/24")], mac="02:00:00:00:00:0a"
    ),
    "red: none": Endpoint(node="red", no_address=True),
    "red: ": Endpoint(node="red"),
}


@pytest.mark.parametrize(("text", "end"), END_FORMS.items(), ids=END_FORMS)
def test_forms_of_an_end(text: str, end: Endpoint) -> None:
    lab = read(f"containers: {{red: }}\nbridges: {{lan: }}\nlinks:\n  - [{text}, lan]")
    assert lab.links[0].a == end


@pytest.mark.parametrize(
    ("text", "fields"),
    [
        ("default via 10.0.0.1", {"to": "default", "via": "10.0.0.1"}),
        ("10.9.0.7 dev eth0", {"to": "10.9.0.7/32", "dev": "eth0"}),
        ("unicast to FD00:9::/64 via FD00::1", {"type": "unicast", "to": "fd00:9::/64", "via": "fd00::1"}),
        (
            "10.9.0.0/16 via 10.0.0.254 dev eth0 metric 5 table 7 src 10.0.0.2 mtu 1400 onlink",
            {
                "to": "10.9.0.0/16",
                "via": "10.0.0.254",
                "dev": "eth0",
                "metric": 5,
                "table": "7",
                "src": "10.0.0.2",
                "mtu": 1400,
                "onlink": True,
            },
        ),
        ("prohibit 10.0.0.0/8", {"type": "prohibit", "to": "10.0.0.0/8"}),
        (
            "default nexthop via 10.0.0.1 weight 2 nexthop dev eth1",
            {"to": "default", "nexthops": [{"via": "10.0.0.1", "weight": 2}, {"dev": "eth1"}]},
        ),
        ("auto", {"type": "auto"}),
    ],
)
def test_routes_as_typed(text: str, fields: dict[str, Any]) -> None:
    assert short.route(text) == fields


@pytest.mark.parametrize(
    ("text", "fields"),
    [
        ("from 10.1.0.0/24 table 100", {"source": "10.1.0.0/24", "table": "100"}),
        (
            "not from all fwmark 0x1/0xff lookup main",
            {"invert": True, "source": None, "fwmark": "0x1/0xff", "table": "main"},
        ),
        ("iif lo tos 0x10 pref 9 blackhole", {"iif": "lo", "tos": 16, "priority": 9, "action": "blackhole"}),
        ("-6 oif eth1 unreachable", {"family": 6, "oif": "eth1", "action": "unreachable"}),
    ],
)
def test_rules_as_typed(text: str, fields: dict[str, Any]) -> None:
    assert short.rule(text) == fields


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("0", 0),
        ("4096", 4096),
        ("64K", 65536),
        ("200M", 200 << 20),
        ("1.5G", 3 << 29),
        ("16mib", 16 << 20),
        ("2TB", 2 << 40),
    ],
)
def test_sizes(text: str, value: int) -> None:
    assert units.size(text) == value


@pytest.mark.parametrize(
    ("text", "value"),
    [("100mbit", 10**8), ("1.5gbit", 15 * 10**8), ("64kbit", 64_000), ("8bit", 8), ("10Mbit", 10**7)],
)
def test_rates(text: str, value: int) -> None:
    assert units.rate(text) == value


@pytest.mark.parametrize(
    ("text", "value"),
    [("0", 0), ("20ms", 0.02), ("500us", 0.0005), ("1m30s", 90), ("1h", 3600), ("1d", 86400), ("1.5s", 1.5)],
)
def test_durations(text: str, value: float) -> None:
    assert units.duration(text) == pytest.approx(value)
    assert units.offset(f"-{text}") == pytest.approx(-value)


@pytest.mark.parametrize(("text", "value"), [("0", 0), ("0.1%", 0.1), ("100%", 100)])
def test_percentages(text: str, value: float) -> None:
    assert units.percentage(text) == value


@pytest.mark.parametrize(
    ("convert", "text"),
    [
        (units.size, "1X"),
        (units.size, "-1"),
        (units.size, "1e3"),
        (units.size, "9" * 23),
        (units.rate, "100mbps"),
        (units.rate, "100"),
        (units.duration, "5"),
        (units.duration, "-5s"),
        (units.duration, "9" * 30 + "d"),
        (units.percentage, "5"),
        (units.percentage, "101%"),
        (units.whole, "010"),
        (units.whole, "1_000"),
        (units.whole, "0x10"),
        (units.number, "1e3"),
        (units.number, "nan"),
        (addresses.interface, "10.0.0.1"),
        (addresses.interface, "10.0.0.1/24/24"),
        (addresses.interface, "fe80::1%eth0/64"),
        (addresses.interface, "10.0.0.1/ 24"),
        (addresses.network, "10.0.0.1/24"),
        (addresses.mac, "01:00:00:00:00:00"),
        (addresses.ifname, "a/b"),
        (addresses.ifname, "é" * 8),
        (addresses.ifname, ".."),
        (short.end, "red:eth 0"),
        (short.port, "80"),
        (short.port, "0:80"),
        (short.port, "[::1:80:80"),
        (short.volume, "data:srv"),
        (short.device, "/dev/fuse:/dev/x:rwx"),
        (short.mark, "0x1ffffffff"),
        (short.table, "0"),
        (short.sysctl, "kernel.panic"),
        (short.sysctl, "net.//.//.kernel.panic"),
        (short.host_sysctl, "kernel.domainname"),
        (short.signal, "0"),
        (short.capability, "CAP_NOTHING"),
    ],
)
def test_wrong_words(convert: Any, text: str) -> None:
    with pytest.raises(units.Wrong):
        convert(text)


@pytest.mark.parametrize(
    ("body", "key", "value"),
    [
        ("command: sleep 1", "command.argv", ["/bin/sh", "-c", "sleep 1"]),
        ("command: [sleep, 1]", "command.argv", ["sleep", "1"]),
        ("setup: [a b, [c, d]]", "setup.0.argv", ["/bin/sh", "-c", "a b"]),
        ("stop_signal: SIGHUP", "stop_signal", "HUP"),
        ("stop_signal: 9", "stop_signal", "9"),
        ("restart: no", "restart", "no"),
        ("rootfs: root.tar", "rootfs.layers", ["/labs/root.tar"]),
        ("rootfs: {layers: [a, ../b, /c]}", "rootfs.layers", ["/labs/a", "/b", "/c"]),
        ("volumes: ['./www:/srv:ro']", "volumes.0.source", "/labs/www"),
        ("volumes: ['data:/srv']", "volumes.0.named", True),
        ("devices: ['/dev/sda:/dev/vda:r']", "devices.0.target", "/dev/vda"),
        ("tmpfs: /scratch", "tmpfs.0.target", "/scratch"),
        ("seccomp: profile.json", "seccomp", "/labs/profile.json"),
        ("seccomp: unconfined", "seccomp", "unconfined"),
        ("cap_add: [cap_net_raw, ALL]", "cap_add", ["NET_RAW", "ALL"]),
        (
            "ulimits: {nofile: 4096, core: '0:unlimited'}",
            "ulimits",
            {"nofile": (4096, 4096), "core": (0, -1)},
        ),
        ("namespaces: {net: container:blue}", "namespaces.net", "blue"),
        ("namespaces: {time: {boottime: -1d}}", "namespaces.time_boottime", -86400.0),
        ("loopback: 192.0.2.1", "loopback", [ip_interface("192.0.2.1/32")]),
        ("dns: 1.1.1.1", "dns", ["1.1.1.1"]),
        ("sysctls: {net.ipv4.conf.all.rp_filter: 0x1}", "sysctls", {"net.ipv4.conf.all.rp_filter": "0x1"}),
        ("ready: {exec: test -e /x, timeout: 1m}", "ready.timeout", 60.0),
        ("ports: ['[::1]:8080:80']", "ports.0.host_address", "::1"),
        ("interfaces: {d0: {dummy: true}}", "interfaces.0.kind", "dummy"),
        ("labels: {a: yes, b: 1, c: null-like}", "labels", {"a": "yes", "b": "1", "c": "null-like"}),
        ("user: 1000", "user", "1000"),
        ("router: ${ROUTER}", "router", True),
        ('resources: {pids: "${PIDS:-5}"}', "resources.pids", 5),
        ("hostname: $$x", "hostname", None),
        ("command: 'echo $${HOME} $HOME'", "command.argv", ["/bin/sh", "-c", "echo ${HOME} $HOME"]),
        ("environment: {A: '${ROUTER}: [x]'}", "environment", {"A": "true: [x]"}),
    ],
)
def test_forms_in_a_container(body: str, key: str, value: Any) -> None:
    if value is None:
        assert "is not a hostname" in problem(f"containers: {{red: {{{body}}}}}")
        return
    body = body.replace("router: ${ROUTER}", 'router: "${ROUTER}"')
    found: Any = container(body, directory="/labs", environ={"ROUTER": "true"})
    for part in key.split("."):
        found = found[int(part)] if part.isdigit() else getattr(found, part)
    assert found == value


def test_variables_of_the_command_line_go_first() -> None:
    text = "containers: {red: {hostname: '${NAME}'}}"
    lab = read(text, variables={"NAME": "mine"}, environ={"NAME": "theirs"})
    assert lab.containers["red"].hostname == "mine"


def test_anchors_and_merge_keys() -> None:
    lab = read(
        "x-web: &web {router: true, hostname: a}\ncontainers:\n  red: {<<: *web, hostname: b}\n  blue: *web"
    )
    assert (lab.containers["red"].router, lab.containers["red"].hostname) == (True, "b")
    assert lab.containers["blue"].hostname == "a"


@pytest.mark.parametrize(
    ("text", "filled"),
    [
        ("{name}-{n}", "h7-7"),
        ("{{name}}", "{name}"),
        ("{{}}", "{}"),
        ('{"a": {"b": 1}}', '{"a": {"b": 1}}'),
        ("awk '{print $1}'", "awk '{print $1}'"),
    ],
)
def test_templates(text: str, filled: str) -> None:
    assert template(text, "h7", 7) == filled


def test_links_of_scaled_names() -> None:
    lab = read(
        "bridges: {lan: }\ncontainers: {h: {scale: 3}, g: {scale: 3}, r: }\n"
        "links: [[h, lan], [h, g], {endpoints: [h, g], mesh: true}, {endpoints: [h, h], mesh: true}, [r, h]]"
    )
    pairs = [(link.a.node, link.b.node) for link in lab.links]
    assert pairs[:6] == [
        ("h1", "lan"),
        ("h2", "lan"),
        ("h3", "lan"),
        ("h1", "g1"),
        ("h2", "g2"),
        ("h3", "g3"),
    ]
    assert pairs[6:15] == [(f"h{a}", f"g{b}") for a in (1, 2, 3) for b in (1, 2, 3)]
    assert pairs[15:] == [("h1", "h2"), ("h1", "h3"), ("h2", "h3"), ("r", "h1"), ("r", "h2"), ("r", "h3")]


def test_names_from_the_file(tmp_path: Path) -> None:
    for file, name in (("a-b.yaml", "a-b"), ("x.netorch.yaml", "x")):
        (tmp_path / file).write_text("containers: {red: }", encoding="utf-8")
        assert labfile.load(tmp_path / file).name == name
    (tmp_path / "my lab.yaml").write_text("containers: {red: }", encoding="utf-8")
    with pytest.raises(LabFileError, match="hint: name: my-lab"):
        labfile.load(tmp_path / "my lab.yaml")
    assert labfile.load(tmp_path / "my lab.yaml", name="other").name == "other"


def test_subnets_and_gateways() -> None:
    lab = read("bridges: {dmz: {subnet: 10.2.0.0/24, gateway: fw}}\ncontainers: {fw: }")
    assert lab.bridges["dmz"].subnets == [ip_network("10.2.0.0/24")]
    assert lab.bridges["dmz"].gateway == "fw"


# -- images --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("alpine", "alpine"),
        ("docker.io/library/alpine:3.20", "docker.io/library/alpine:3.20"),
        ("docker://localhost:5000/a/b_c", "localhost:5000/a/b_c"),
        (f"alpine:3.20@sha256:{'0' * 64}", f"alpine@sha256:{'0' * 64}"),
        ("'[::1]:5000/tiny:v1'", "[::1]:5000/tiny:v1"),
        ("oci:./images/tiny:v1", "oci:/lab/images/tiny:v1"),
        ("oci:tiny", "oci:/lab/tiny"),
        ("docker-archive:/srv/x.tar", "docker-archive:/srv/x.tar"),
        ("dir:copy", "dir:/lab/copy"),
        ("docker-daemon:web:latest", "docker-daemon:web:latest"),
    ],
)
def test_names_of_images(text: str, name: str) -> None:
    red = labfile.loads(f"containers: {{red: {{image: {text}}}}}", "lab.yaml", "/lab").containers["red"]
    assert red.image == name
    assert (red.rootfs.kind, red.rootfs.layers) == ("image", [])


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("Alpine", "names of images are in lower case"),
        ("'alpine:'", "such as alpine:3.20"),
        ("alpine@sha256:0", "such as alpine:3.20"),
        ("'oci:'", "such as alpine:3.20"),
        ("'a b'", "such as alpine:3.20"),
        ("../alpine", "such as alpine:3.20"),
    ],
)
def test_what_is_no_name_of_an_image(text: str, hint: str) -> None:
    with pytest.raises(LabFileError, match="is not the name of an image") as caught:
        read(f"containers: {{red: {{image: {text}}}}}")
    assert caught.value.where is not None and caught.value.where.column == 27
    assert (caught.value.hint or "").startswith(hint)


def test_a_root_of_its_own_takes_the_place_of_the_defaults() -> None:
    lab = read("defaults: {image: alpine}\ncontainers: {red: {rootfs: host}, blue: {image: busybox}, any: }")
    assert [(c.image, c.rootfs.kind) for c in lab.containers.values()] == [
        (None, "host"),
        ("busybox", "image"),
        ("alpine", "image"),
    ]


# -- the schema ----------------------------------------------------------------------------------


class _Core(yaml.SafeLoader):
    """YAML as an editor's checker reads it: the core schema of YAML 1.2."""


_Core.yaml_implicit_resolvers = {}
_Core.add_implicit_resolver("tag:yaml.org,2002:merge", re.compile("^<<$"), ["<"])
_Core.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile("^(true|false)$"), list("tf"))
_Core.add_implicit_resolver("tag:yaml.org,2002:null", re.compile("^(null|~|)$"), ["n", "~", ""])
_Core.add_implicit_resolver("tag:yaml.org,2002:int", re.compile("^-?(0|[1-9][0-9]*)$"), list("-0123456789"))
_Core.add_implicit_resolver("tag:yaml.org,2002:float", re.compile(r"^-?[0-9]+\.[0-9]+$"), list("-0123456789"))


def core(path: Path) -> Any:
    """The file as plain data."""
    return yaml.load(path.read_text(encoding="utf-8"), _Core)


@pytest.fixture(scope="module")
def validator() -> Any:
    schema = json_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


def _keys_of(schema: Any) -> set[str]:
    found: set[str] = set()
    for definition in [schema, *schema["$defs"].values()]:
        found |= set(definition.get("properties", {}))
    return found


@pytest.mark.parametrize("path", [VALID, *TOPOLOGIES], ids=lambda path: path.stem)
def test_valid_files_pass_the_schema(validator: Any, path: Path) -> None:
    assert [error.message for error in validator.iter_errors(core(path))] == []


def test_the_schema_is_json_and_describes_every_key() -> None:
    schema = json_schema()
    assert json.loads(json.dumps(schema)) == schema
    for definition in [schema, *schema["$defs"].values()]:
        assert definition["additionalProperties"] is False
        assert all(value["description"] for value in definition["properties"].values())


def test_the_manuals_table_of_keys_is_up_to_date() -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "scripts/keys", "--check"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "data",
    [
        {"contaners": {}},
        {"containers": {"red": {"resources": {"memry": "200M"}}}},
        {"containers": {"red": {"router": "yes"}}},
        {"containers": {"a b": None}},
        {"links": [["red"]]},
        {"links": [["red", {"br0": {"addres": "10.0.0.1/24"}}]]},
        {"bridges": {"br0": "ten"}},
        {"checks": [{"ping": {"form": "red", "to": "blue"}}]},
        {"containers": {"red": {"resources": {"memory": "200X"}}}},
        {"defaults": {"scale": 3}},
        {"host": {"route": []}},
    ],
)
def test_the_schema_refuses(validator: Any, data: Any) -> None:
    assert not validator.is_valid(data)


def test_the_schema_lets_variables_pass(validator: Any) -> None:
    resources = {"pids": "${PIDS}", "memory": "${MEMORY:-1G}", "cpus": "${CPUS}"}
    assert validator.is_valid({"containers": {"red": {"resources": resources, "router": "${ROUTER}"}}})
