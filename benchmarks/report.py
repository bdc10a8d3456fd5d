"""Writes the tables into docs/performance.md, each between two marks in the page that name its part::

    <!-- results:begin throughput -->
    <!-- results:end -->

``profile`` and ``profile before`` are the lists of functions that the part ``cost`` leaves. ``targets`` has all rows
with a target; it is written when all parts were measured, for it is to be of one run.
"""

from __future__ import annotations

import re
from pathlib import Path

from benchmarks import cost
from benchmarks.options import HERE, Failed
from benchmarks.results import Results

PAGE = HERE.parent / "docs" / "performance.md"

PROFILES = {"profile": cost.PROFILE, "profile before": cost.PROFILE_BEFORE}
"""The files of profiles, by the name of their place in the page."""

TARGETS = "targets"

_BLOCK = re.compile(r"(?P<begin><!-- results:begin (?P<part>[a-z ]+) -->\n)(?P<table>.*?)(?P<end><!-- results:end -->)",
                    re.DOTALL)


def write_docs(results: Results, page: Path = PAGE) -> None:
    """Put the tables of these results into the page. Those of parts that were not measured stay as they are.

    :raises Failed: when a part that was measured has no place in the page.
    """
    text = page.read_text(encoding="utf-8")
    places = {block["part"] for block in _BLOCK.finditer(text)}
    missing = set(results.parts) - places
    if missing:
        raise Failed(f"{page.name} has no marks for {', '.join(sorted(missing))}")
    tables = {part: _table(results, results.table(part)) for part in results.parts}
    if cost.PART in results.parts:
        tables |= {name: f"\n```\n{path.read_text(encoding='utf-8')}```\n\n"
                   for name, path in PROFILES.items() if path.exists()}
    if places <= {TARGETS, *tables}:
        tables[TARGETS] = _table(results, _targets(results))

    def filled(block: re.Match[str]) -> str:
        table = tables.get(block["part"])
        return block[0] if table is None else f"{block['begin']}{table}{block['end']}"

    page.write_text(_BLOCK.sub(filled, text), encoding="utf-8")


def _table(results: Results, table: str) -> str:
    return f"\n{table}\n\n{results.machine}.\n\n"


def _targets(results: Results) -> str:
    """All rows with a target, each with the name of its part."""
    rows = [f"| {row.part} | {row.what} | {row.shown} | {row.spread} | {len(row.values)} | {row.verdict} |"
            for row in results.rows if row.is_met is not None]
    head = ["| part | what | median | spread | rounds | target |", "| --- | --- | ---: | ---: | ---: | --- |"]
    return "\n".join(head + rows)
