"""The examples of docs/commands.md and docs/jobrunner.md, run as they stand there."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from puppetmaster.embedded.broker import find_mosquitto
from tests.system.stand import PATIENCE, REPOSITORY, Stand
from tests.system.test_api_examples import _BLOCK, SITE, Block, Example, Shell, assert_shown
from tests.system.test_jobrunner import runner

DEVICES = {"press-1": "berlin", "press-2": "berlin", "press-3": "bonn"}


def examples(page: str) -> Iterator[Example]:
    """Every block of the shell, and what is shown of it."""
    text = (REPOSITORY / "docs" / page).read_text(encoding="utf-8")
    listed = [Block(m[1], m[2], text.count("\n", 0, m.start()) + 1) for m in _BLOCK.finditer(text)]
    for block, following in zip(listed, [*listed[1:], None], strict=True):
        if block.kind == "sh":
            yield Example(block, following if following is not None and following.kind in ("json", "text") else None)


def in_order(text: str) -> str:
    return "\n".join(sorted(text.splitlines()))


@pytest.mark.skipif(find_mosquitto() is None, reason="mosquitto is not installed")
def test_the_page_of_commands(tmp_path: Path) -> None:
    with Stand(tmp_path / "stand", http=True, commands="all") as stand:
        heard = stand.listen("/remote/+/presence")
        for name, site in DEVICES.items():
            arguments = ["--id", name, "--broker", stand.url, "--commands", "all", "--label", f"site={site}"]
            folder = ["--folder", str(stand.folder / name)]
            stand.program(name, [sys.executable, "-m", "puppetmaster", "agent", *arguments, *folder])
        heard.wait_until(lambda messages: sum(m.data.get("connection") == "online" for m in messages) >= len(DEVICES))
        for name in DEVICES:
            stand.until_answered(stand.bundle, f"/devices/{name}", lambda code: code == 200)
        shell = Shell(stand, tmp_path / "home")
        found = list(examples("commands.md"))
        assert len(found) >= 5
        for example in found:
            came = shell._run(example.block.text.replace(SITE, stand.site.removeprefix("http://")), example.block)
            if example.shown is not None and "press-1 | " in example.shown.text:
                # The devices speak in any order.
                shown = Block("text", in_order(example.shown.text), example.shown.line)
                assert_shown(Example(example.block, shown), in_order(came))
            else:
                assert_shown(example, came)


def test_the_page_of_jobrunner(tmp_path: Path) -> None:
    found = list(examples("jobrunner.md"))
    assert len(found) >= 5
    with runner(tmp_path) as it:
        for example in found:
            done = subprocess.run(
                ["sh", "-ec", example.block.text.replace(SITE, f"localhost:{it.port}")],
                capture_output=True, text=True, timeout=PATIENCE, check=True, env={**os.environ, "NO_PROXY": "*"},
            )  # fmt: skip
            assert_shown(example, done.stdout)
