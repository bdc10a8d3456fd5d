"""``python -m tests.faults``: the fault campaign, by hand, for as long as one likes."""

from __future__ import annotations

import argparse
import itertools
import os
import secrets
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

from puppetmaster.cli.processes import PARENT_ENV, end_with_parent
from tests.faults import report
from tests.faults.bundle import BUGS
from tests.faults.campaign import Campaign, Result
from tests.faults.kinds import ALL, FAULTS, MIXED


def main(arguments: Sequence[str] | None = None) -> int:
    """Play runs; 1 when an invariant was violated."""
    options = _parse(sys.argv[1:] if arguments is None else arguments)
    if options.results:
        options.results.parent.mkdir(parents=True, exist_ok=True)
        options.results.touch()
    status = _play_beside(options) if options.jobs > 1 else _play(options)
    if options.report and options.results:
        report.write(options.report, report.read(options.results))
    return status


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("--seed", default=secrets.token_hex(4), help="of the campaign; a new one each time")
    parser.add_argument("--run", type=int, help="play this run of the seed alone")
    parser.add_argument("--runs", type=int, help="how many runs; 0 for none, to write the report alone")
    parser.add_argument("--seconds", type=float, help="begin no run after so many seconds")
    parser.add_argument("--only", help=f"faults, comma-separated, of {', '.join([*FAULTS, MIXED])}")
    parser.add_argument("--bug", action="append", default=[], choices=BUGS, help="plant a bug in the bundle")
    parser.add_argument("--jobs", type=int, default=1, help="how many installations to play on side by side")
    parser.add_argument("--folder", type=Path, help="where the installations live")
    parser.add_argument("--results", type=Path, help="a file to which a JSON line is added for each run")
    parser.add_argument("--report", type=Path, help="a document whose table is made anew of the results")
    parser.add_argument("--share", action="store_true", help="leave the last line to who started this")
    parser.add_argument("--first", type=int, default=0, help="the number of the first run")
    parser.add_argument("--step", type=int, default=1, help="from one number to the next")
    options = parser.parse_args(arguments)
    options.only = options.only.split(",") if options.only else ALL
    unknown = set(options.only) - {*FAULTS, MIXED}
    if unknown:
        parser.error(f"there is no fault {', '.join(sorted(unknown))}")
    options.folder = options.folder or Path(tempfile.mkdtemp(prefix="faults-"))
    return options


def _play_beside(options: argparse.Namespace) -> int:
    """Play on several installations, each in a process of its own that takes its share of the numbers."""
    results = options.results or options.folder / "results.jsonl"
    results.parent.mkdir(parents=True, exist_ok=True)
    results.touch()
    before = len(report.read(results))
    shares = []
    for share in range(options.jobs):
        command = [sys.executable, "-m", "tests.faults", "--seed", options.seed, "--only", ",".join(options.only)]
        command += ["--first", str(options.first + share), "--step", str(options.jobs)]
        command += ["--folder", str(options.folder), "--results", str(results), "--share"]
        if options.runs is not None:
            command += ["--runs", str(len(range(share, options.runs, options.jobs)))]
        if options.seconds is not None:
            command += ["--seconds", str(options.seconds)]
        command += [f"--bug={bug}" for bug in options.bug]
        shares.append(subprocess.Popen(command, env={**os.environ, PARENT_ENV: str(os.getpid())}))
    try:
        statuses = [share.wait() for share in shares]
        return int(any(statuses))
    finally:
        for share in shares:
            share.terminate()
            share.wait()
        print(report.summary(report.read(results)[before:]), flush=True)


def _play(options: argparse.Namespace) -> int:
    campaign = Campaign(options.seed, options.only, folder=options.folder, bugs=options.bug, results=options.results)
    print(f"seed {options.seed}, faults {', '.join(dict.fromkeys(campaign.kinds))}", flush=True)
    played: list[Result] = []
    try:
        for result in campaign.play(_numbers(options)):
            played.append(result)
            print(result.line(), flush=True)
            if result.violations:
                _explain(result, options.seed)
    finally:
        if not options.share:
            print(report.summary([asdict(result) for result in played]), flush=True)
    return int(any(result.violations for result in played))


def _numbers(options: argparse.Namespace) -> Iterator[int]:
    if options.run is not None:
        yield options.run
        return
    begun = time.monotonic()
    for number in itertools.islice(itertools.count(options.first, options.step), options.runs):
        if options.seconds is not None and time.monotonic() - begun > options.seconds:
            return
        yield number


def _explain(result: Result, seed: str) -> None:
    for violation in result.violations[:20]:
        print(f"  VIOLATION {violation}")
    again = f"python -m tests.faults --seed {seed} --run {result.number} --only {result.kind}"
    print(f"  logs in {result.kept}; again: {again}", flush=True)


def _leave(number: int, frame: object) -> None:
    """Take the installations down, once: more signals must not disturb that."""
    signal.signal(number, signal.SIG_IGN)
    sys.exit(128 + number)


if __name__ == "__main__":
    end_with_parent()
    signal.signal(signal.SIGTERM, _leave)
    sys.exit(main())
