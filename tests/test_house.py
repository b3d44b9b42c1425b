"""The house rules that a machine can hold: which way imports run, and who may speak to the kernel."""

from __future__ import annotations

import ast
import functools
import sys
from collections.abc import Iterator
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
    "resolve": {"graph", "labfile", "resources", "capabilities", "errors"},
    "plan": {"resources", "errors"},
    "journal": {"plan", "resources", "errors", "kernel"},
    "kernel": {"resources", "capabilities", "errors"},
    "engine": {"plan", "journal", "kernel", "resources", "errors"},
    "lab": {
        "engine",
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
    "api": {"lab", "cables", "operate", "checks", "capture", "rootless", "labfile", "kernel", "errors"},
    "doctor": {"graph", "labfile", "kernel", "resources", "errors"},
    "pytest_plugin": {"api", "checks", "lab", "labfile", "rootless", "errors"},
    "cli": {
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


def parse(module: Path) -> ast.Module:
    """The syntax tree of a file."""
    return ast.parse(module.read_text(encoding="utf-8"), str(module))


def each_module() -> pytest.MarkDecorator:
    """A test for every file of the package."""
    return pytest.mark.parametrize("module", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))


def test_the_map_names_every_room() -> None:
    described = ast.get_docstring(parse(PACKAGE / "__init__.py")) or ""
    for name in {room(module) for module in MODULES} - {"__init__", "__main__"}:
        assert f"``{name}" in described, f"netns_orch/__init__.py does not name {name}"
        assert name in ALLOWED, f"which rooms {name} may import is not said"


@each_module()
def test_imports_run_one_way(module: Path) -> None:
    here = room(module)
    if here == "__init__":
        return
    for name, line in imports(parse(module)):
        parts = name.split(".")
        if parts[0] != "netns_orch" or len(parts) == 1 or parts[1] in ("__version__", "records", here):
            continue
        assert parts[1] in ALLOWED[here], f"{module}:{line}: {here} must not import {parts[1]}"


@each_module()
def test_only_kernel_speaks_to_the_kernel(module: Path) -> None:
    if room(module) == "kernel":
        return
    tree = parse(module)
    for name, line in imports(tree):
        assert name.split(".")[0] not in KERNEL_ONLY, f"{module}:{line}: only kernel/ may import {name}"
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "os":
            assert node.attr not in OS_CALLS, f"{module}:{node.lineno}: only kernel/ may call os.{node.attr}"


@functools.cache
def imported_by_name() -> set[str]:
    """Modules of the package that another one imports when it is itself imported."""
    return {name for module in MODULES for name, _line in imports(at_import_time(parse(module)))}


@each_module()
def test_heavy_modules_are_imported_only_where_they_are_used(module: Path) -> None:
    """Inside a function; or in a module of their own that is only imported inside functions."""
    dotted = ".".join(module.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    if dotted not in imported_by_name():
        return
    for name, line in imports(at_import_time(parse(module))):
        package = name.split(".")[0]
        if package == "yaml" and room(module) in LAZY_ROOMS_OF_YAML:
            continue
        assert package not in HEAVY, f"{module}:{line}: import {name} inside the function that needs it"


@each_module()
def test_every_module_says_what_it_owns(module: Path) -> None:
    assert ast.get_docstring(parse(module)), f"{module} has no docstring"


@each_module()
def test_every_public_name_says_what_it_is(module: Path) -> None:
    for node in parse(module).body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) and node.name[0] != "_":
            assert ast.get_docstring(node), f"{module}:{node.lineno}: {node.name} has no docstring"


@each_module()
def test_functions_and_files_are_short(module: Path) -> None:
    for node in ast.walk(parse(module)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = (node.end_lineno or 0) - node.lineno + 1
            assert lines <= 60, f"{module}:{node.lineno}: {node.name} has {lines} lines"
    assert len(module.read_text().splitlines()) <= 900, f"{module} is too long for one file"


@each_module()
def test_no_import_outside_the_dependencies(module: Path) -> None:
    allowed = {
        "netns_orch",
        "networkx",
        "pyroute2",
        "pyseccomp",
        "yaml",
        "typer",
        "click",
        "rich",
        "pydantic",
        *(["pytest"] if module.name == "pytest_plugin.py" else []),  # pytest itself loads it
    }
    for name, line in imports(parse(module)):
        package = name.split(".")[0]
        assert package in allowed or package in sys.stdlib_module_names, f"{module}:{line}: {name}"


def test_the_rules_can_be_broken() -> None:
    """The walkers see what they are there to see."""
    tree = ast.parse("def f():\n    import networkx\nif TYPE_CHECKING:\n    import rich\nimport yaml.nodes\n")
    assert {name for name, _ in imports(tree)} == {"networkx", "rich", "yaml.nodes"}
    assert [name for name, _ in imports(at_import_time(tree))] == ["yaml.nodes"]
    both = ast.parse("from netns_orch import lab\n")
    assert ("netns_orch.lab", 1) in list(imports(both))
