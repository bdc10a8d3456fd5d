"""What a crowd of watchers costs the job that they watch."""

from __future__ import annotations

import asyncio
import sys
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from benchmarks.options import REPOSITORY, Failed, Options
from benchmarks.results import Results
from benchmarks.stand import READY_TIMEOUT, Stand

PART = "watchers"


@dataclass(frozen=True)
class Watched:
    """A job that was watched."""

    rate: float
    """Requests a second, by the job's own times."""
    states: int = 0
    """How many states all watchers together were sent."""
    lag: float = 0.0
    """Seconds from the first watcher to the last that had the last state."""


async def measure(options: Options, rounds: int, results: Results) -> None:
    """Run a job that nobody watches, in turn with one that all watch; in every second round that one first."""
    crowd, count = options.count(1_000, 50), options.count(20_000, 1_000)
    alone: list[Watched] = []
    crowded: list[Watched] = []
    async with Stand() as stand:
        await stand.run_job(count)  # what is loaded and made at the first use is not measured
        for number in range(rounds):
            for watchers, runs in ((0, alone), (crowd, crowded))[:: -1 if number % 2 else 1]:
                await stand.at_rest()
                runs.append(await _watched(stand, count, watchers))
            options.tell(PART, f"round {number + 1} of {rounds}: nobody watches {alone[-1].rate:,.0f}/s, "
                               f"{crowd:,} watch {crowded[-1].rate:,.0f}/s")
    results.add(PART, "nobody watches", [one.rate for one in alone], "/s", baseline=True, note=f"{count:,} requests")
    results.add(PART, f"{crowd:,} WebSockets watch", [one.rate for one in crowded], "/s", note=f"{count:,} requests")
    ratios = [many.rate / none.rate for many, none in zip(crowded, alone, strict=True)]
    results.add(PART, "watched by many to watched by nobody", ratios, form=".2f", target=">= 0.8")
    results.add(PART, "states that a watcher was sent", [one.states / crowd for one in crowded], form=".1f")
    results.add(PART, "from the first watcher to the last with the last state", [one.lag for one in crowded], "s",
                form=".2f")


async def _watched(stand: Stand, count: int, watchers: int) -> Watched:
    """Run a job that waits until everybody has come to watch."""
    made = await stand.create_job(stand.names(count), startAt="2099-01-01T00:00:00Z")
    crowd = await _come(stand, made["id"], watchers) if watchers else None
    try:
        await stand.caller.put(f"/jobs/{made['id']}", {"status": "dispatching"})
        job = await stand.ended(made["id"], count)
        rate = count / (_at(job["finishedAt"]) - _at(job["startedAt"]))
        if crowd is None:
            return Watched(rate)
        told, _ = await asyncio.wait_for(crowd.communicate(), READY_TIMEOUT)
    finally:
        if crowd is not None and crowd.returncode is None:
            crowd.kill()
    if crowd.returncode:
        raise Failed("not all who watched have seen the job end")
    states, lag = told.split()
    return Watched(rate, int(states), float(lag))


async def _come(stand: Stand, job_id: int, watchers: int) -> asyncio.subprocess.Process:
    crowd = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "benchmarks.crowd", str(stand.port), str(job_id), str(watchers),
        stdout=asyncio.subprocess.PIPE, cwd=REPOSITORY,
    )
    assert crowd.stdout is not None
    try:
        word = await asyncio.wait_for(crowd.stdout.readline(), READY_TIMEOUT)
    except BaseException:
        crowd.kill()
        raise
    if word != b"ready\n":
        raise Failed("those who watch did not come")
    return crowd


def _at(time: Any) -> float:
    """Seconds since 1970 of a time as a job has it."""
    return datetime.fromisoformat(time.replace("Z", "+00:00")).timestamp()
