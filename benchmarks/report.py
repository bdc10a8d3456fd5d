"""Writes the tables into docs/performance.md, each between two marks in the page that name its part::

    <!-- results:begin throughput -->
    <!-- results:end -->
"""

from __future__ import annotations

import re
from pathlib import Path

from benchmarks.options import HERE, Failed
from benchmarks.results import Results

PAGE = HERE.parent / "docs" / "performance.md"

BEFORE = HERE / "before.json"
"""The results of what puppetmaster was before it was made fast, by the same benchmarks. Kept, to compare with."""

_BLOCK = re.compile(r"(?P<begin><!-- results:begin (?P<part>[a-z ]+) -->\n)(?P<table>.*?)(?P<end><!-- results:end -->)",
                    re.DOTALL)


def write_docs(results: Results, page: Path = PAGE) -> None:
    """Put the tables of these results into the page. Those of parts that were not measured stay as they are.

    :raises Failed: when a part that was measured has no place in the page.
    """
    text = page.read_text(encoding="utf-8")
    missing = set(results.parts) - {block["part"] for block in _BLOCK.finditer(text)}
    if missing:
        raise Failed(f"{page.name} has no marks for {', '.join(sorted(missing))}")

    def filled(block: re.Match[str]) -> str:
        part = block["part"].removeprefix("before ")
        source = Results.load(BEFORE) if part != block["part"] else results
        if part not in source.parts:
            return block[0]
        return f"{block['begin']}\n{source.table(part)}\n\n{source.machine}.\n\n{block['end']}"

    page.write_text(_BLOCK.sub(filled, text), encoding="utf-8")
