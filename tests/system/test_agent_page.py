"""docs/agent.md against the program: its examples are run as they stand, and its tables are those of the program."""

from __future__ import annotations

import re
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from puppetmaster.agent.options import options
from puppetmaster.embedded.broker import find_mosquitto
from tests.system.agent_part import Agent
from tests.system.stand import REPOSITORY, Stand
from tests.system.test_api_examples import Block, Example, Shell

PAGE = REPOSITORY / "docs" / "agent.md"

_BLOCK = re.compile(r"^```([a-z ]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks() -> list[Block]:
    page = PAGE.read_text(encoding="utf-8")
    return [Block(found[1], found[2], page.count("\n", 0, found.start()) + 1) for found in _BLOCK.finditer(page)]


def examples() -> Iterator[Example]:
    listed = blocks()
    for block, following in zip(listed, [*listed[1:], None], strict=True):
        if block.kind == "sh":
            shown = following if following is not None and following.kind in ("json", "text") else None
            yield Example(block, shown)


def agent_words() -> list[str]:
    """How the page starts its agent, without the id and the folder."""
    first = next(block for block in blocks() if block.kind == "")
    line = next(line for line in first.text.splitlines() if line.startswith("puppetmaster agent"))
    words = shlex.split(line)
    assert words[2:4] == ["--id", "press-7"] and words[-2] == "--folder"
    return words[4:-2]


def settle(stand: Stand) -> None:
    """Wait until the agent has done what it was told; the reader of the page takes longer to type."""
    for job in stand.ask("get", "/jobs?limit=1")[1]:
        stand.wait_job(job["id"])


@pytest.mark.skipif(find_mosquitto() is None, reason="mosquitto is not installed")
def test_who_does_what_the_page_says_sees_what_it_shows(tmp_path: Path) -> None:
    for program in ("mosquitto_sub", "curl"):
        if shutil.which(program) is None:
            pytest.fail(f"{program} is not installed; make test installs it")
    with Stand(tmp_path / "stand", http=True) as stand:
        agent = Agent(stand, "press-7", *agent_words())
        shell = Shell(stand, tmp_path / "home")
        for example in examples():
            shell.follow(example)
            settle(stand)
        agent.stop()


def test_the_table_of_settings_is_that_of_the_program() -> None:
    rows = [line for line in PAGE.read_text().splitlines() if line.startswith("| `--")]
    expected = []
    for option in options():
        help, _, default = option.help.partition(" Default: ")
        flag = f"{option.flag} {option.metavar}".strip()
        expected.append(f"| `{flag}` | `{option.env}` | {default.removesuffix('.')} | {help} |")
    assert rows == expected


def test_the_unit_that_is_described_is_there() -> None:
    page = PAGE.read_text()
    unit = (REPOSITORY / "packaging" / "puppetmaster-agent.service").read_text()
    for variable in re.findall(r"^    (PUPPETMASTER_AGENT_\w+=.*)$", page, re.MULTILINE):
        assert variable in unit
    for setting in re.findall(r"^    (\w+)=(?:no|root|~)$", page, re.MULTILINE):
        assert f"{setting}=" in unit
