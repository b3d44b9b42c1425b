"""The house rules that a machine can hold: which way imports run, and who may speak to the kernel."""

from __future__ import annotations

import ast
import functools
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from support.runner import ROOT

PACKAGE = ROOT / "netns_orch"
MODULES = sorted(PACKAGE.rglob("*.py"))
ALLOWED = {
    "errors": set(),
    "records": set(),
    "resources": {"errors"},
    "capabilities": {"errors"},
    "labfile": {"errors"},
    "graph": {"labfile", "resources", "errors"},
    "convert": {"graph", "labfile", "errors"},
    "resolve": {"graph", "labfile", "resources", "capabilities", "errors"},
    "plan": {"resources", "errors"},
    "journal": {"plan", "resources", "errors", "kernel"},
    "kernel": {"resources", "capabilities", "errors"},
    "engine": {"plan", "journal", "kernel", "resources", "errors"},
    "inspection": {"resources"},
    "lab": {
        "engine",
        "inspection",
        "journal",
        "lease",
        "plan",
        "resolve",
        "uplink",
        "graph",
        "labfile",
        "kernel",
        "resources",
        "errors",
    },
    "lease": set(),
    "collect": {"lab", "journal", "kernel", "resources", "errors"},
    "draw": {"graph", "labfile"},
    "trace": {"resources", "errors"},
    "script": {"plan", "resources", "errors"},
    "views": {
        "lab",
        "draw",
        "script",
        "trace",
        "graph",
        "labfile",
        "resolve",
        "plan",
        "kernel",
        "resources",
        "errors",
    },
    "operate": {"lab", "kernel", "resources", "errors"},
    "uplink": {"resources", "errors"},
    "cables": {"lab", "engine", "plan", "journal", "labfile", "kernel", "resources", "errors"},
    "capture": {"lab", "kernel", "resources", "errors"},
    "checks": {"lab", "views", "trace", "capture", "plan", "labfile", "kernel", "resources", "errors"},
    "rootless": {"labfile", "kernel", "errors"},
    "images": {"labfile", "kernel", "errors", "records"},
    "api": {
        "lab",
        "cables",
        "operate",
        "checks",
        "capture",
        "images",
        "rootless",
        "labfile",
        "kernel",
        "errors",
    },
    "doctor": {"graph", "labfile", "kernel", "resources", "errors"},
    "pytest_plugin": {"api", "checks", "lab", "labfile", "rootless", "errors"},
    "cli": {
        "images",
        "rootless",
        "lab",
        "doctor",
        "checks",
        "capture",
        "operate",
        "collect",
        "cables",
        "views",
        "trace",
        "convert",
        "labfile",
        "kernel",
        "resources",
        "errors",
        "cli",
    },
    "__main__": {"cli"},
}
"""Which rooms each room may import.  Only ``__main__`` imports ``cli``, only it and ``operate`` ``lab``."""
KERNEL_ONLY = {
    "ctypes",
    "fcntl",
    "pyroute2",
    "pty",
    "resource",
    "signal",
    "socket",
    "subprocess",
    "termios",
    "tty",
}
OS_CALLS = {
    "chroot",
    "execv",
    "execve",
    "execvp",
    "execvpe",
    "fork",
    "forkpty",
    "kill",
    "killpg",
    "listxattr",
    "mknod",
    "pidfd_open",
    "pipe",
    "pipe2",
    "posix_spawn",
    "setgid",
    "setgroups",
    "setns",
    "setresgid",
    "setresuid",
    "setsid",
    "setuid",
    "setxattr",
    "system",
    "unshare",
    "waitid",
    "waitpid",
}
"""Calls of ``os`` that change processes, namespaces or the kernel's objects."""
HEAVY = {"networkx", "pydantic", "pyroute2", "pyseccomp", "rich", "yaml"}
"""Third-party modules that cost tens of milliseconds: only where they are used."""
LAZY_ROOMS_OF_YAML = {"labfile"}
DEPENDENCIES = {
    "netns_orch",
    "networkx",
    "pyroute2",
    "pyseccomp",
    "yaml",
    "typer",
    "click",
    "rich",
    "pydantic",
}


def room(module: Path) -> str:
    """The room that a file belongs to: the first part of its path inside the package."""
    return module.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """Absolute names of all imported modules, wherever they stand, with their lines."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: relative import"
            assert node.module is not None
            yield node.module, node.lineno
            if node.module.split(".")[0] == "netns_orch":
                yield from ((f"{node.module}.{alias.name}", node.lineno) for alias in node.names)


def at_import_time(tree: ast.Module) -> ast.Module:
    """What runs when the module is imported: no function bodies, no ``if TYPE_CHECKING``."""

    class Strip(ast.NodeTransformer):
        def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
            return None

        def visit_AsyncFunctionDef(self, node: ast.AsyncFunctionDef) -> None:
            return None

        def visit_If(self, node: ast.If) -> ast.AST | None:
            if isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
                return None
            return self.generic_visit(node)

    stripped = Strip().visit(ast.parse(ast.unparse(tree)))
    assert isinstance(stripped, ast.Module)
    return stripped


@functools.cache
def parse(module: Path) -> ast.Module:
    """The syntax tree of a file."""
    return ast.parse(module.read_text(encoding="utf-8"), str(module))


Rule = Callable[[Path], Iterator[tuple[int, str]]]
"""The lines of a file that break it, and why."""


def broken(rule: Rule, modules: Sequence[Path] = MODULES) -> list[str]:
    """All that breaks a rule; one test for each file would take ten times as long."""
    return [f"{module}:{line}: {why}" for module in modules for line, why in rule(module)]


def test_the_map_names_every_room() -> None:
    described = ast.get_docstring(parse(PACKAGE / "__init__.py")) or ""
    for name in {room(module) for module in MODULES} - {"__init__", "__main__"}:
        assert f"``{name}" in described, f"netns_orch/__init__.py does not name {name}"
        assert name in ALLOWED, f"which rooms {name} may import is not said"


def one_way(module: Path) -> Iterator[tuple[int, str]]:
    here = room(module)
    if here == "__init__":
        return
    for name, line in imports(parse(module)):
        parts = name.split(".")
        if parts[0] != "netns_orch" or len(parts) == 1 or parts[1] in ("__version__", "records", here):
            continue
        if parts[1] not in ALLOWED[here]:
            yield line, f"{here} must not import {parts[1]}"


def test_imports_run_one_way() -> None:
    assert not broken(one_way)


def speaks_to_the_kernel(module: Path) -> Iterator[tuple[int, str]]:
    if room(module) == "kernel":
        return
    tree = parse(module)
    for name, line in imports(tree):
        if name.split(".")[0] in KERNEL_ONLY:
            yield line, f"only kernel/ may import {name}"
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and node.attr in OS_CALLS and ast.unparse(node.value) == "os":
            yield node.lineno, f"only kernel/ may call os.{node.attr}"


def test_only_kernel_speaks_to_the_kernel() -> None:
    assert not broken(speaks_to_the_kernel)


@functools.cache
def imported_at_once(module: Path) -> list[tuple[str, int]]:
    """What a file imports when it is itself imported."""
    return list(imports(at_import_time(parse(module))))


@functools.cache
def imported_by_name() -> set[str]:
    """Modules of the package that another one imports when it is itself imported."""
    return {name for module in MODULES for name, _line in imported_at_once(module)}


def heavy(module: Path) -> Iterator[tuple[int, str]]:
    """Only inside a function; or in a module of their own that is only imported inside functions."""
    dotted = ".".join(module.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    if dotted not in imported_by_name():
        return
    for name, line in imported_at_once(module):
        package = name.split(".")[0]
        if package in HEAVY and not (package == "yaml" and room(module) in LAZY_ROOMS_OF_YAML):
            yield line, f"import {name} inside the function that needs it"


def test_heavy_modules_are_imported_only_where_they_are_used() -> None:
    assert not broken(heavy)


def undescribed(module: Path) -> Iterator[tuple[int, str]]:
    tree = parse(module)
    if not ast.get_docstring(tree):
        yield 1, "the file does not say what it owns"
    for node in tree.body:
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            continue
        if node.name[0] != "_" and not ast.get_docstring(node):
            yield node.lineno, f"{node.name} has no docstring"


def test_every_file_and_every_public_name_says_what_it_is() -> None:
    assert not broken(undescribed)


def long(module: Path) -> Iterator[tuple[int, str]]:
    for node in ast.walk(parse(module)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = (node.end_lineno or 0) - node.lineno + 1
            if lines > 60:
                yield node.lineno, f"{node.name} has {lines} lines"
    if len(module.read_text().splitlines()) > 900:
        yield 1, "too long for one file"


def test_functions_and_files_are_short() -> None:
    assert not broken(long)


def foreign(module: Path) -> Iterator[tuple[int, str]]:
    for name, line in imports(parse(module)):
        package = name.split(".")[0]
        known = package in DEPENDENCIES or package in sys.stdlib_module_names
        if not known and (package, module.name) != ("pytest", "pytest_plugin.py"):  # pytest itself loads it
            yield line, f"{name} is no dependency"


def test_no_import_outside_the_dependencies() -> None:
    assert not broken(foreign)


@pytest.mark.parametrize(
    ("rule", "place", "text", "why"),
    [
        (one_way, "labfile/x.py", "import netns_orch.lab", "labfile must not import lab"),
        (speaks_to_the_kernel, "graph/x.py", "def f():\n    import socket", "only kernel/ may import socket"),
        (speaks_to_the_kernel, "lab.py", "import os\nos.kill(1, 9)", "only kernel/ may call os.kill"),
        (undescribed, "lab.py", '"""x"""\ndef f():\n    pass', "f has no docstring"),
        (long, "lab.py", "def f():\n" + "    pass\n" * 60, "f has 61 lines"),
        (foreign, "lab.py", "import requests", "requests is no dependency"),
    ],
)
def test_a_rule_finds_what_breaks_it(rule: Rule, place: str, text: str, why: str, tmp_path: Path) -> None:
    module = PACKAGE / place
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys.modules[__name__], "parse", lambda _path: ast.parse(text))
        (found,) = broken(rule, [module] if module.exists() else [_made(tmp_path, patch, place)])
    assert found.endswith(why)


def _made(top: Path, patch: pytest.MonkeyPatch, place: str) -> Path:
    """An empty file in a package that stands for ours."""
    patch.setattr(sys.modules[__name__], "PACKAGE", top)
    path = top / place
    path.parent.mkdir(parents=True)
    path.touch()
    return path


def test_the_rules_can_be_broken() -> None:
    """The walkers see what they are there to see."""
    tree = ast.parse("def f():\n    import networkx\nif TYPE_CHECKING:\n    import rich\nimport yaml.nodes\n")
    assert {name for name, _ in imports(tree)} == {"networkx", "rich", "yaml.nodes"}
    assert [name for name, _ in imports(at_import_time(tree))] == ["yaml.nodes"]
    both = ast.parse("from netns_orch import lab\n")
    assert ("netns_orch.lab", 1) in list(imports(both))
