"""Writes the tables into docs/performance.md, each between two marks in the page that name its part::

    <!-- results:begin throughput -->
    <!-- results:end -->

``targets`` stands for all rows that have a target, ``before cost`` for the part ``cost`` of the results that are kept.
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
    page.write_text(_BLOCK.sub(lambda block: _filled(block, results), text), encoding="utf-8")


def _filled(block: re.Match[str], results: Results) -> str:
    part = block["part"]
    if part.startswith("before ") and BEFORE.exists():
        results, part = Results.load(BEFORE), part.removeprefix("before ")
    if part == "targets":
        table = _targets(results)
    elif part in results.parts:
        table = results.table(part)
    else:
        return block[0]
    return f"{block['begin']}\n{table}\n\n{results.machine}.\n\n{block['end']}"


def _targets(results: Results) -> str:
    """All rows with a target, each with the name of its part."""
    rows = [f"| {row.part} | {row.what} | {row.shown} | {row.spread} | {row.verdict} |"
            for row in results.rows if row.is_met is not None]
    return "\n".join(["| part | what | median | spread | target |", "| --- | --- | ---: | ---: | --- |", *rows])
