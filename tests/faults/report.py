"""The table in docs/reliability.md, made of the results of a campaign: between two markers, and nowhere else."""

from __future__ import annotations

import json
import statistics
from collections import defaultdict
from pathlib import Path
from typing import Any

from tests.faults.kinds import FAULTS, MIXED

BEGIN, END = "<!-- the campaign writes from here -->", "<!-- to here -->"

OF_MIXED = "Two or three of the others at once: all that they promise."

Results = list[dict[str, Any]]


def read(path: Path) -> Results:
    """The lines of a results file, without those of runs that were not played."""
    return [result for line in path.read_text().splitlines() if not (result := json.loads(line))["skipped"]]


def summary(results: Results) -> str:
    """What came out, in a line."""
    played = [result for result in results if not result["skipped"]]
    seeds = dict.fromkeys(result["seed"].rpartition(":")[0] for result in played)
    longest = max((result["recovery"] for result in played if result["recovery"] is not None), default=None)
    facts = {
        "runs": f"{len(played):,}",
        "requests": f"{sum(result['requests'] for result in played):,}",
        "runs with violations": sum(bool(result["violations"]) for result in played),
        "seed": " ".join(seeds) or "-",
        "longest recovery": "-" if longest is None else f"{longest:.1f} s",
    }
    return ", ".join(f"{name}: {value}" for name, value in facts.items())


def render(results: Results) -> str:
    """The facts and the table."""
    seeds = list(dict.fromkeys(result["seed"].rpartition(":")[0] for result in results))
    requests = sum(result["requests"] for result in results)
    violated = sum(bool(result["violations"]) for result in results)
    lines = [
        f"{len(results):,} runs with {requests:,} requests, {violated} of them with a violation. "
        f"Seed{'s' * (len(seeds) > 1)}: {', '.join(f'`{seed}`' for seed in seeds)}.",
        "",
        "| fault | runs | what is promised | violations | recovery, median | longest |",
        "| --- | ---: | --- | ---: | ---: | ---: |",
    ]
    by_kind: dict[str, Results] = defaultdict(list)
    for result in results:
        by_kind[result["kind"]].append(result)
    for kind in [*FAULTS, MIXED]:
        if kind in by_kind:
            lines.append(_row(kind, by_kind[kind]))
    return "\n".join(lines)


def _row(kind: str, results: Results) -> str:
    promise = OF_MIXED if kind == MIXED else FAULTS[kind].promise
    violations = sum(len(result["violations"]) for result in results)
    times = [result["recovery"] for result in results if result["recovery"] is not None]
    median, longest = (f"{statistics.median(times):.1f} s", f"{max(times):.1f} s") if times else ("-", "-")
    return f"| `{kind}` | {len(results)} | {promise} | {violations} | {median} | {longest} |"


def write(path: Path, results: Results) -> None:
    """Put the table into a document that has the markers.

    :raises ValueError: when it has not.
    """
    before, begin, rest = path.read_text(encoding="utf-8").partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{path} has no place for the table: {BEGIN} and {END}, each on a line of its own")
    path.write_text(f"{before}{BEGIN}\n\n{render(results)}\n\n{END}{after}", encoding="utf-8")
