"""Imports point downward only.

The floors are the architecture (docs/ARCHITECTURE.md): the core decides and touches nothing, shells touch the world
and decide nothing. Every import is read, those inside functions and under ``TYPE_CHECKING`` too.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parent.parent

# Rooms of one floor do not import each other: so client knows neither shell nor node, and spec knows no wire.
FLOORS = {
    "core": 0,
    "blob": 1,
    "wire": 2,
    "spec": 2,
    "lan": 2,
    "task": 2,
    "shell": 3,
    "client": 3,
    "node": 4,
    "search": 4,
    "joblib": 4,
    "optuna": 4,
    "torch": 4,
    "cli": 5,
}
# Its modules do not know each other either: each is a port of the driver, and only node joins them.
STRANGERS = "shell"
# A port and its own helpers: links.py, links_stream.py.
FAMILIES = ("blobs", "detect", "journal", "link", "runner", "server", "transfer")
# Where generated code may be named besides the codecs: where stubs and servicers are registered.
REGISTRIES = {"mesh.shell.links", "mesh.shell.server", "mesh.client.channel"}
# A resting node stays under 60 MB: these are for tasks, and for the integrations named after their libraries.
HEAVY = {"torch", "numpy", "scipy", "sklearn", "pandas"}
INTEGRATIONS = {"joblib", "optuna", "torch"}
PURE = {
    "__future__",
    "bisect",
    "collections",
    "dataclasses",
    "enum",
    "functools",
    "hashlib",
    "heapq",
    "itertools",
    "json",
    "math",
    "operator",
    "typing",
}


class Import(NamedTuple):
    target: str  # a module, or a name in one
    line: int
    eager: bool  # happens as soon as the importing module is imported


class Module(NamedTuple):
    name: str
    path: Path

    @property
    def room(self) -> str:
        return room(self.name)


def room(module: str) -> str:
    """The part of the package a module lies in: ``mesh.shell.links`` in ``shell``, ``mesh`` itself in none."""
    return module.split(".")[1] if "." in module else ""


def modules(root: Path) -> list[Module]:
    """The hand-written ones. ``mesh/v1`` is generated and imports what it must."""
    found = []
    for path in sorted((root / "mesh").rglob("*.py")):
        parts = path.relative_to(root).with_suffix("").parts
        if parts[1] != "v1":
            found.append(Module(".".join(parts[:-1] if parts[-1] == "__init__" else parts), path))
    return found


def imports(module: Module) -> Iterator[Import]:
    tree = ast.parse(module.path.read_text(encoding="utf-8"), str(module.path))
    package = module.name if module.path.name == "__init__.py" else module.name.rpartition(".")[0]
    found = list(_imports(tree, package, eager=True))
    yield from found
    if any(item.target == "mesh" for item in found):  # then its lazy names are within reach
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "mesh":
                yield Import(f"mesh.{node.attr}", node.lineno, eager=False)


def _imports(node: ast.AST, package: str, *, eager: bool) -> Iterator[Import]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            yield from (Import(alias.name, child.lineno, eager) for alias in child.names)
        elif isinstance(child, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - child.level + 1] if child.level else []
            base = ".".join([*above, child.module] if child.module else above)
            # `from mesh import shell` imports mesh.shell: the names count, not only the module they stand in.
            yield from (Import(f"{base}.{alias.name}", child.lineno, eager) for alias in child.names)
        elif isinstance(child, ast.Call) and (name := _dynamic(child)):
            yield Import(name, child.lineno, eager)
        later = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda) or (
            isinstance(child, ast.If) and "TYPE_CHECKING" in ast.dump(child.test)
        )
        yield from _imports(child, package, eager=eager and not later)


def _dynamic(call: ast.Call) -> str:
    """What ``import_module("x.y")`` or ``__import__("x.y")`` imports, where the name is written out."""
    name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
    if name in ("import_module", "__import__") and call.args and isinstance(call.args[0], ast.Constant):
        return str(call.args[0].value)
    return ""


def kin(one: str, other: str) -> bool:
    a, b = one.split(".")[2], other.split(".")[2]
    return a == b or any(a.startswith(family) and b.startswith(family) for family in FAMILIES)


def complaint(module: Module, found: Import, known: set[str]) -> str:
    """What is wrong with one import; empty: nothing. ``known`` tells modules from the names in them."""
    here, top = module.room, found.target.split(".")[0]
    if top in HEAVY and here not in INTEGRATIONS:
        return f"{top} is for tasks and integrations: a resting node stays small"
    if top != "mesh":
        return "the core touches nothing" if here == "core" and top not in PURE else ""
    target = found.target
    if target.startswith("mesh.v1"):
        allowed = here == "wire" or module.name in REGISTRIES
        return "" if allowed else "generated code is named only in wire and where stubs are registered"
    while target not in known and "." in target:
        target = target.rpartition(".")[0]
    there = room(target)
    if not here:
        lazy = not found.eager or there in ("", "core")
        return "" if lazy else "`import mesh` stays cheap: import this where it is first asked for"
    if not there:
        itself = found.target == "mesh" or found.target.startswith("mesh.__")  # where it lies, its version
        return "" if itself else "inside the package everything is imported from the module that defines it"
    if here == there:
        strangers = here == STRANGERS and target != f"mesh.{here}" and module.name != f"mesh.{here}"
        return f"modules of {here} do not import each other" if strangers and not kin(module.name, target) else ""
    if FLOORS[there] >= FLOORS[here]:
        return f"{here} is on floor {FLOORS[here]} and may only import from below, {there} is on floor {FLOORS[there]}"
    return ""


def violations(root: Path) -> list[str]:
    found = modules(root)
    known = {module.name for module in found}
    homeless = sorted({module.room for module in found} - {""} - FLOORS.keys())
    problems = [f"mesh/{name} stands on no floor" for name in homeless]
    for module in found:
        if module.room not in homeless:
            problems += [
                f"{module.path.relative_to(root)}:{item.line}: {item.target}: {why}"
                for item in imports(module)
                if room(item.target) not in homeless and (why := complaint(module, item, known))
            ]
    return problems


def test_imports_point_downward() -> None:
    assert violations(ROOT) == []


def test_every_module_is_read() -> None:
    assert {"mesh", "mesh.core", "mesh.core.ids"} <= {module.name for module in modules(ROOT)}
    assert not any(module.name.startswith("mesh.v1") for module in modules(ROOT))


# One line in one file, and a word of the complaint it must cause; empty: it must cause none.
CASES = [
    ("core/a.py", "import mesh.wire", "floor"),
    ("core/a.py", "import time", "touches nothing"),
    ("core/a.py", "from random import random", "touches nothing"),
    ("core/a.py", "def f():\n    import os", "touches nothing"),
    ("core/a.py", "import collections.abc, json, heapq", ""),
    ("core/a.py", "from mesh.core.b import x", ""),
    ("core/a.py", "from .. import wire", "floor"),
    ("wire/a.py", "from importlib import import_module\nimport_module('mesh.node.driver')", "floor"),
    ("wire/a.py", "from mesh.v1 import peer_pb2", ""),
    ("wire/a.py", "from mesh.core import b", ""),
    ("wire/a.py", "from mesh.spec import a", "floor"),
    ("spec/a.py", "from mesh.v1.peer_pb2 import Hello", "generated"),
    ("task/a.py", "def f():\n    import torch", "resting node"),
    ("torch.py", "import torch", ""),
    ("shell/a.py", "from mesh.shell.b import x", "do not import each other"),
    ("shell/a.py", "from mesh.shell import b", "do not import each other"),
    ("shell/a.py", "from .b import x", "do not import each other"),
    ("shell/runners.py", "from mesh.shell.runner_zygote import x", ""),
    ("shell/detect.py", "from mesh.shell.detectors.cuda import x", ""),
    ("shell/detectors/cpu.py", "from mesh.shell.detectors.cuda import x", ""),
    ("shell/links.py", "from mesh.v1 import peer_pb2_grpc", ""),
    ("shell/b.py", "from mesh.v1 import peer_pb2_grpc", "generated"),
    ("shell/a.py", "from mesh import client", "floor"),
    ("client/a.py", "from mesh.shell.b import x", "floor"),
    ("client/a.py", "if TYPE_CHECKING:\n    from mesh.node.driver import Driver", "floor"),
    ("client/a.py", "from mesh import MeshClient", "that defines it"),
    ("client/a.py", "from mesh import __version__", ""),
    ("shell/a.py", "import mesh\nprint(mesh.__file__)", ""),
    ("shell/a.py", "import mesh\nprint(mesh.MeshClient)", "that defines it"),
    ("node/a.py", "from mesh.shell import b", ""),
    ("node/a.py", "from mesh.client import a", ""),
    ("node/a.py", "from mesh.cli import meshd", "floor"),
    ("cli/a.py", "from mesh.node.driver import Driver", ""),
    ("extra/a.py", "import json", "no floor"),
    ("__init__.py", "from mesh.client import a", "stays cheap"),
    ("__init__.py", "def __getattr__(name):\n    from mesh.client import a", ""),
]
TREE = [
    "core/b",
    "wire/b",
    "spec/a",
    "shell/b",
    "shell/runner_zygote",
    "shell/detectors/cuda",
    "client/a",
    "node/driver",
    "cli/meshd",
]


@pytest.mark.parametrize(("file", "source", "word"), CASES)
def test_the_check_sees_it(tmp_path: Path, file: str, source: str, word: str) -> None:
    for name in TREE:
        path = tmp_path / "mesh" / f"{name}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        for package in (path.parent, *path.parent.parents):
            if package.is_relative_to(tmp_path / "mesh"):
                (package / "__init__.py").touch()
        path.touch()
    assert violations(tmp_path) == []
    path = tmp_path / "mesh" / file
    path.parent.mkdir(exist_ok=True)
    path.write_text(source + "\n", encoding="utf-8")
    problems = violations(tmp_path)
    if word:
        assert len(problems) == 1
        assert word in problems[0]
    else:
        assert problems == []
