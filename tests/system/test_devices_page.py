"""docs/devices.md against the program: its examples are run as they stand, and its numbers are those of the program."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from puppetmaster.devices import reading, registry, writing
from puppetmaster.embedded.broker import find_mosquitto
from puppetmaster.observer import MAX_SAID_BYTES
from puppetmaster.rollcall import INTERVAL, SETTLE
from puppetmaster.wire import MAX_DEPTH
from tests.system.stand import REPOSITORY, Stand
from tests.system.test_api_examples import Block, Example, Shell

PAGE = REPOSITORY / "docs" / "devices.md"

_BLOCK = re.compile(r"^```([a-z ]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def examples() -> Iterator[Example]:
    page = PAGE.read_text(encoding="utf-8")
    listed = [Block(found[1], found[2], page.count("\n", 0, found.start()) + 1) for found in _BLOCK.finditer(page)]
    for block, following in zip(listed, [*listed[1:], None], strict=True):
        if block.kind == "sh":
            shown = following if following is not None and following.kind in ("json", "text") else None
            yield Example(block, shown)


@pytest.mark.skipif(find_mosquitto() is None, reason="mosquitto is not installed")
def test_who_does_what_the_page_says_sees_what_it_shows(tmp_path: Path) -> None:
    for program in ("mosquitto_pub", "curl"):
        if shutil.which(program) is None:
            pytest.fail(f"{program} is not installed; make test installs it")
    with Stand(tmp_path / "stand", http=True) as stand:
        shell = Shell(stand, tmp_path / "home")
        for example in examples():
            shell.follow(example)


def test_the_numbers_of_the_page_are_those_of_the_program() -> None:
    page = PAGE.read_text(encoding="utf-8")
    for said in (
        f"| devices | {registry.MAX_DEVICES:,} |",
        f"| {reading.MAX_LABELS} each |",
        f"a name of 1 to {reading.MAX_LABEL_NAME} characters without `=`, a value of at most {reading.MAX_LABEL};",
        f"{reading.MAX_FACTS}: names as those of labels, texts of at most {reading.MAX_FACT} characters",
        f"| {reading.MAX_TELEMETRY_BYTES // 1024} KiB as JSON",
        f"| {MAX_SAID_BYTES // 1024} KiB, {MAX_DEPTH} levels deep |",
        f"within {writing.WRITE_INTERVAL:g} seconds; when",
        f"telemetry, within {writing.SEEN_INTERVAL / 60:g} minutes",
        f"so {SETTLE:g} s later, and every {INTERVAL / 60:g} minutes",
    ):
        assert said in page, said
    assert reading.MAX_FACT_NAME == reading.MAX_LABEL_NAME
