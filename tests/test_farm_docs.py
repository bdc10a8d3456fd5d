"""The examples of docs/manager.md, run as they stand there in their order; only the address is another."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from puppetmaster.farm.compilers import Chunk
from tests.system.farm_site import REPOSITORY, FarmSite

PAGE = REPOSITORY / "docs" / "manager.md"

_BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks() -> list[tuple[str, str]]:
    return _BLOCK.findall(PAGE.read_text(encoding="utf-8"))


@pytest.fixture
def site(tmp_path: Path) -> Iterator[FarmSite]:
    with FarmSite(tmp_path) as running:
        yield running


def run(script: str, site: FarmSite, folder: Path) -> str:
    program = folder / "puppetmaster"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m puppetmaster "$@"\n')
    program.chmod(0o755)
    done = subprocess.run(
        ["bash", "-ec", script.replace("127.0.0.1:8080", f"127.0.0.1:{site.port}")],
        env={**os.environ, "PATH": f"{folder}:{os.environ['PATH']}"},
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def assert_shows(came: Any, shown: Any) -> None:
    """What the page shows is what came; the page may leave fields out."""
    if isinstance(shown, dict):
        for name, value in shown.items():
            assert_shows(came[name], value)
    elif isinstance(shown, list):
        assert len(came) == len(shown)
        for one, other in zip(came, shown, strict=True):
            assert_shows(one, other)
    else:
        assert came == shown


def test_the_examples_do_what_the_page_shows(site: FarmSite, tmp_path: Path) -> None:
    listed = blocks()
    for (kind, text), (next_kind, shown) in zip(listed, [*listed[1:], ("", "")], strict=True):
        if kind != "sh":
            continue
        came = run(text, site, tmp_path)
        if next_kind == "json":
            assert_shows(json.loads(came), json.loads(shown))
        else:
            assert _lines(came) == _lines(shown)


def _lines(text: str) -> list[str]:
    # Answers end without a line's end, so the next one follows on the same line.
    apart = re.sub(r"\}(?=\{|\[|204)", "}\n", text)
    return [line.strip() for line in apart.split("\n") if line.strip()]


def test_the_compiler_of_the_page_compiles() -> None:
    (source,) = (text for kind, text in blocks() if kind == "python")
    scope: dict[str, Any] = {}
    exec(source, scope)
    assert scope["Convert"]().compile({"files": ["a"]}) == [Chunk(commands=[["convert", "a", "a.png"]])]
