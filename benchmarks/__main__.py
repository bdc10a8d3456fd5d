"""Runs the benchmarks: ``python -m benchmarks``, or ``make bench``.

Everything is real and in processes of its own: Mosquitto with its default limits, the controller, the bundle
(durable, with HTTP and events on) and the devices. What others do is measured in turn with what puppetmaster does, so
that a busy machine slows down both. A row is the median of all rounds, with the lowest and the highest.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib
import importlib.util
import os
import platform
import re
import signal
import subprocess
import sys
import traceback
from collections.abc import Sequence
from datetime import datetime, timezone

from benchmarks import cost, earlier
from benchmarks.options import HERE, Failed, Options
from benchmarks.report import write_docs
from benchmarks.results import Results
from puppetmaster import loop
from puppetmaster.embedded.broker import find_mosquitto
from puppetmaster.errors import PuppetmasterError

PARTS = {
    "throughput": "Requests a second, end to end, beside gmqtt alone",
    "cost": "What a request costs, and where",
    "growth": "The cost of a request in jobs of any size",
    "latency": "One small job, from the call to its last state",
    "memory": "Memory of a job, and of stored jobs",
    "start": "A start with many stored requests",
    "fairness": "Many jobs at once, and a small one beside a large one",
    "journal": "Commits and compactions of the store",
    "peers": "The same work done by others",
    "watchers": "A crowd that watches a job",
}
"""Modules with ``async def measure(options, rounds, results)`` and their headings, in the order in which they run."""

HEADINGS = {**PARTS, cost.BEFORE: "What a request cost before it was made fast, and where"}
"""Of the tables: a part may leave more than one."""

QUICK = "A quick run: that all works is what it says, and nothing of the figures or the targets."


async def measure(parts: Sequence[str], options: Options, rounds: int, results: Results) -> bool:
    """Run these parts; whether all of them could be measured. The others run when one fails, and SIGTERM ends all."""
    task = asyncio.current_task()
    assert task is not None
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, task.cancel)
    is_complete = True
    for part in parts:
        options.tell(part, PARTS[part])
        try:
            await importlib.import_module(f"benchmarks.{part}").measure(options, rounds, results)
        except Exception as error:  # the other parts are measured all the same
            options.tell(part, f"FAILED: {error or type(error).__name__}")
            if not isinstance(error, (Failed, PuppetmasterError, OSError, asyncio.TimeoutError)):
                traceback.print_exc()
            is_complete = False
    return is_complete


def machine() -> str:
    """Where and when, in a sentence.

    :raises Failed: when there is no broker.
    """
    now = datetime.now(timezone.utc)
    commit = earlier.current()
    return (f"{os.cpu_count()} cores ({_processor()}), Python {platform.python_version()}, "
            f"{_broker()} with its default limits, {now:%Y-%m-%d %H:%M} UTC" + (f", commit {commit}" if commit else ""))


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as stream:
            found = re.search(r"^model name\s*:\s*(.+)$", stream.read(), re.MULTILINE)
    except OSError:
        found = None
    return found[1] if found else platform.machine()


def _broker() -> str:
    path = find_mosquitto()
    if path is None:
        raise Failed("the benchmarks need Mosquitto: make bench installs it")
    said = subprocess.run([path, "-h"], capture_output=True, text=True, check=False).stdout
    found = re.search(r"mosquitto version (\S+)", said)
    return f"Mosquitto {found[1]}" if found else "Mosquitto"


def page(results: Results) -> str:
    """All tables, each under its heading."""
    tables = [f"## {HEADINGS.get(part, part)}\n\n{results.table(part)}\n" for part in results.parts]
    return "\n".join(["# Benchmarks\n", f"{results.machine}.\n", *tables])


def main() -> None:
    """Run, print the tables, write them to results.md and all values to results.json, and draw the pictures."""
    given = _arguments()
    options, rounds = Options(quick=given.quick), 1 if given.quick else given.rounds
    try:
        results = Results(machine())
        is_complete = loop.run(measure(given.only, options, rounds, results))
    except asyncio.CancelledError:
        sys.exit("ended by a signal")
    except Failed as error:
        sys.exit(str(error))
    if given.quick:
        results.machine = f"{QUICK} {results.machine}"
    results.save(HERE / "results.json")
    (HERE / "results.md").write_text(page(results), encoding="utf-8")
    print(f"\n{page(results)}")
    if _has_matplotlib():
        importlib.import_module("benchmarks.charts").draw(results, docs=given.docs, quick=given.quick)
    else:
        print("no pictures: matplotlib is not installed (requirements-bench.txt)")
    if given.docs:
        write_docs(results)
    if not is_complete:
        sys.exit("not everything could be measured: see the lines with FAILED")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="how often each thing is measured")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS), metavar="PART",
                        help=f"what is measured: {', '.join(PARTS)}")
    parser.add_argument("--quick", action="store_true", help="once, and little of it: tells whether all works")
    parser.add_argument("--docs", action="store_true", help="write tables and pictures into docs/ too")
    given = parser.parse_args()
    if given.rounds < 1:
        parser.error("--rounds takes 1 or more")
    if given.docs and given.quick:
        parser.error("--docs is not for a quick run: its figures say nothing")
    if given.docs and not _has_matplotlib():
        parser.error("--docs needs matplotlib (requirements-bench.txt): make bench installs it")
    return given


def _has_matplotlib() -> bool:
    return importlib.util.find_spec("matplotlib") is not None


if __name__ == "__main__":
    main()
