"""``python -m tests.faults``: the fault campaign, by hand, for as long as one likes."""

from __future__ import annotations

import argparse
import itertools
import secrets
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from tests.faults.campaign import Campaign, Result
from tests.faults.kinds import FAULTS, MIXED


def main(arguments: Sequence[str] | None = None) -> int:
    """Play runs; 1 when an invariant was violated."""
    options = _parse(arguments)
    kinds = options.only.split(",") if options.only else None
    campaign = Campaign(options.seed, kinds, folder=options.folder, bugs=options.bug, results=options.results)
    print(f"seed {options.seed}, faults {', '.join(campaign.kinds)}", flush=True)
    failed = 0
    for result in campaign.play(_numbers(options)):
        print(result.line(), flush=True)
        if result.violations:
            failed += 1
            _explain(result, options)
    return 1 if failed else 0


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("--seed", default=secrets.token_hex(4), help="of the campaign; a new one each time")
    parser.add_argument("--run", type=int, help="play this run of the seed alone")
    parser.add_argument("--runs", type=int, help="how many runs")
    parser.add_argument("--seconds", type=float, help="begin no run after so many seconds")
    parser.add_argument("--only", help=f"faults, comma-separated, of {', '.join([*FAULTS, MIXED])}")
    parser.add_argument("--bug", action="append", default=[], help="plant a bug in the bundle")
    parser.add_argument("--folder", type=Path, help="where the sites live")
    parser.add_argument("--results", type=Path, help="a file to which a JSON line is added for each run")
    parser.add_argument("--first", type=int, default=0, help="the number of the first run")
    options = parser.parse_args(arguments)
    unknown = set((options.only or MIXED).split(",")) - {*FAULTS, MIXED}
    if unknown:
        parser.error(f"there is no fault {', '.join(sorted(unknown))}")
    return options


def _numbers(options: argparse.Namespace) -> Iterator[int]:
    if options.run is not None:
        yield options.run
        return
    begun = time.monotonic()
    for number in itertools.count(options.first):
        over = options.seconds is not None and time.monotonic() - begun > options.seconds
        if over or (options.runs is not None and number - options.first >= options.runs):
            return
        yield number


def _explain(result: Result, options: argparse.Namespace) -> None:
    for violation in result.violations[:20]:
        print(f"  VIOLATION {violation}")
    only = f" --only {options.only}" if options.only else ""
    print(f"  logs in {result.kept}; again: python -m tests.faults --seed {options.seed} --run {result.number}{only}")


if __name__ == "__main__":
    sys.exit(main())
