"""Imports point one way, and what is foreign stays at the edges."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "puppetmaster"

LAYERS = [
    {"errors", "states"},
    {"policies", "address", "times", "version", "loop"},
    {"models"},
    {"engine", "documents", "wire"},
    {"service"},
    {"bundle", "web", "cli", "__main__"},
]
"""Each may import from those above it, or from modules that no layer names, as far as those keep to the same."""

PURE = ("errors", "states", "policies", "models", "directory", "effects", "window", "draft", "engine")
IMPURE = {
    "asyncio", "gmqtt", "paho", "tinydb", "sanji", "time", "datetime", "socket", "threading", "os", "pathlib",
    "subprocess", "logging", "concurrent", "select", "signal", "io", "tempfile", "secrets", "uvloop", "orjson",
    "pydantic",
}  # fmt: skip
HOMES = {
    "gmqtt": {"bus"},
    "paho": {"edges"},
    "sanji": {"edges"},
    "tinydb": {"store"},
    "amqtt": {"embedded"},
    "typer": {"cli"},
    "rich": {"cli"},
    "argon2": {"accounts"},
    "httpx": {"client"},
    "prometheus_client": {"metrics", "bundle", "web"},
    "uvicorn": {"edges"},
    "fastapi": {"edges"},
    "starlette": {"edges"},
}
"""Where in the package a foreign part may be imported."""


def modules() -> dict[str, Path]:
    """Every module of the package by its name in it: ``engine``, ``edges.guard``."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        name = ".".join(path.relative_to(PACKAGE).with_suffix("").parts)
        found[name.removesuffix(".__init__")] = path
    return found


MODULES = modules()


@cache
def imports(name: str) -> frozenset[str]:
    """What a module imports, anywhere in it, by full name; names of this package without ``puppetmaster.``."""
    return frozenset(_imported(ast.parse(MODULES[name].read_text(encoding="utf-8"))))


def _imported(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield _own(alias.name)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            base = _own(node.module or "")
            inner = [f"{base}.{alias.name}".lstrip(".") for alias in node.names]
            found = [name for name in inner if name in MODULES]
            yield from found or [base]


def _own(name: str) -> str:
    return name.removeprefix("puppetmaster.") if name != "puppetmaster" else ""


@cache
def reachable(name: str) -> frozenset[str]:
    """The modules of the package that a module imports, directly or not."""
    found: set[str] = set()
    pending = [name]
    while pending:
        for other in imports(pending.pop()) & MODULES.keys():
            if other not in found:
                found.add(other)
                pending.append(other)
    return frozenset(found)


def foreign(name: str) -> set[str]:
    """The parts outside of the package that a module imports."""
    return {other.split(".")[0] for other in imports(name) if other not in MODULES and other}


def home(name: str) -> str:
    return name.split(".")[0]


def test_the_package_is_found() -> None:
    assert {"engine", "service", "edges.guard", "store.memory"} <= MODULES.keys()
    assert "models" in imports("engine")
    assert "heapq" in imports("engine")


@pytest.mark.parametrize("name", MODULES)
def test_no_module_imports_itself_by_way_of_others(name: str) -> None:
    assert name not in reachable(name)


def test_imports_point_from_the_edges_to_the_core() -> None:
    for number, layer in enumerate(LAYERS):
        outer = set().union(*LAYERS[number + 1 :]) if number + 1 < len(LAYERS) else set()
        for name in MODULES:
            if home(name) in layer:
                assert not {home(other) for other in reachable(name)} & outer, name


@pytest.mark.parametrize("name", PURE)
def test_the_core_knows_no_clock_no_thread_no_file_and_no_wire(name: str) -> None:
    for module in (name, *reachable(name)):
        # The errors name the type of a path, os.PathLike, and no more of it.
        assert not (foreign(module) - ({"os"} if module == "errors" else set())) & IMPURE, module
        assert home(module) in PURE, module


def test_the_service_knows_no_broker_and_no_controller() -> None:
    for module in ("service", *reachable("service")):
        assert not foreign(module) & {"gmqtt", "paho", "sanji"}, module
        assert home(module) not in {"bus", "tunnels", "edges", "embedded", "cli", "bundle"}, module


def test_the_service_knows_the_store_by_its_port_alone() -> None:
    assert {name for name in imports("service") if home(name) == "store"} <= {"store", "store.port"}
    assert "tinydb" not in foreign("service")


def test_the_store_knows_nothing_of_jobs() -> None:
    for name in MODULES:
        if home(name) == "store":
            assert {home(other) for other in reachable(name)} <= {"store", "errors"}, name


@pytest.mark.parametrize(("part", "homes"), HOMES.items(), ids=HOMES)
def test_a_foreign_part_is_imported_only_where_it_belongs(part: str, homes: set[str]) -> None:
    users = {name for name in MODULES if part in foreign(name)}
    assert {home(name) for name in users} <= homes


def test_nothing_is_printed_but_by_the_command_line() -> None:
    for name, path in MODULES.items():
        if home(name) in {"cli", "__main__"}:
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            assert not (isinstance(node, ast.Name) and node.id == "print"), name


def test_a_bundle_that_serves_no_http_loads_nothing_of_it() -> None:
    heavy = {"fastapi", "starlette", "uvicorn", "httpx", "typer"}
    program = f"import sys, puppetmaster.bundle; print(sorted({heavy} & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout == "[]\n"
