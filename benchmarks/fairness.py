"""Many jobs at once; and how long a small job waits beside a large one, and what a higher priority is worth.

Each has its baseline in the same round: many jobs stand beside one of as many requests, small jobs beside a large one
beside those that run alone right before it, and the higher priority beside the same one.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from statistics import median
from typing import Any

from benchmarks.caller import Caller
from benchmarks.mqtt import Message, open_connection
from benchmarks.options import Failed, Options
from benchmarks.results import Results
from benchmarks.stand import JOB_TIMEOUT, MESSAGE, Stand

PART = "fairness"
DEVICE = "probe"
"""The device of the small jobs; no large job has it."""

PERIOD = 0.2
"""Seconds between small jobs: they are not to be a load of their own."""

SAME, PRIORITY = 50, 80
"""Of jobs as they come, and of the one that is to overtake."""

SEEN_TIMEOUT = 10.0
"""Seconds, after a small job has ended, for the other client of the broker to see its request too."""

TARGET = "< 100"

SEEN = "another client of the broker sees the request"


@dataclass(frozen=True)
class Wait:
    """Milliseconds from the call that created a small job."""

    left: float
    """Until its request had left: until another client of the broker had it."""
    resolved: float
    """Until its caller had seen its last state."""


class Probe:
    """Small jobs, and a client of the broker that sees their requests beside the device."""

    def __init__(self, stand: Stand) -> None:
        self._stand = stand
        self._arrived: asyncio.Future[float]

    def take(self, messages: list[Message]) -> Sequence[Message]:
        """Note when a request came, the first time that it did."""
        if not self._arrived.done():
            self._arrived.set_result(time.perf_counter())
        return ()

    async def wait(self) -> Wait:
        """Run a small job.

        :raises Failed: when it is not resolved, or its request is not seen.
        """
        self._arrived, start = asyncio.get_running_loop().create_future(), time.perf_counter()
        job = await self._stand.create_job([DEVICE])
        await self._stand.ended(job["id"], 1)
        ended = self._stand.watcher.ended_at[job["id"]]
        try:
            arrived = await asyncio.wait_for(self._arrived, SEEN_TIMEOUT)
        except asyncio.TimeoutError:
            raise Failed("a small job was resolved, and its request was not seen") from None
        return Wait((arrived - start) * 1e3, (ended - start) * 1e3)


async def measure(options: Options, rounds: int, results: Results) -> None:
    """Run many jobs together, then one of higher priority and small ones beside a large one."""
    jobs, each = options.count(100, 20), options.count(100, 20)
    large, medium, waits = options.count(100_000, 20_000), options.count(20_000, 4_000), options.count(12, 3)
    together: list[list[float]] = []
    single: list[float] = []
    idle: list[list[Wait]] = []
    beside: list[list[Wait]] = []
    during: list[list[Wait]] = []
    shares: dict[int, list[float]] = {SAME: [], PRIORITY: []}
    async with Stand() as stand:
        probe = Probe(stand)
        seer = await open_connection(stand.broker.port, "benchmark-probe", [f"/remote/{DEVICE}"], probe.take)
        await probe.wait()  # what is loaded and made at the first use is not measured
        for number in range(rounds):
            turn = -1 if number % 2 else 1  # in every second round the other one of a pair is first
            for are_many in (True, False)[::turn]:
                await stand.at_rest()
                if are_many:
                    together.append(await _together(stand, jobs, each))
                else:
                    single.append((await stand.run_job(jobs * each)).seconds * 1e3)
            alone = await _alone(stand, probe, waits)
            during.append(await _while_created(stand, probe, large))
            idle.append(alone + await _alone(stand, probe, waits))
            async with stand.load(large) as load:
                beside.append(await _one_by_one(stand, probe, waits, load))
            for priority in (SAME, PRIORITY)[::turn]:
                async with stand.load(large) as load:
                    shares[priority].append(await _share(stand, load, medium, priority))
            options.tell(PART, f"round {number + 1} of {rounds}: {jobs} jobs end after {together[-1][0]:.0f} to "
                               f"{together[-1][-1]:.0f} ms, a single one after {single[-1]:.0f}; a small job waits "
                               f"{_longest(idle[-1]):.0f} ms at the most, {_longest(beside[-1]):.0f} beside a large "
                               f"one, {_longest(during[-1]):.0f} while that is created; priority gets "
                               f"{shares[PRIORITY][-1]:.2f}, the same one {shares[SAME][-1]:.2f}")
        seer.transport.close()
    _add_together(results, jobs, each, together, single)
    _add_waits(results, idle, "nothing else runs", baseline=True)
    _add_waits(results, beside, f"beside a running job of {large:,}", target=TARGET)
    _add_creation(results, during, f"while a job of {large:,} is created")
    results.add(PART, "share of the rate that a job of the same priority gets", shares[SAME], form=".2f", baseline=True,
                note=f"{medium:,} requests at priority {SAME} beside {large:,} at {SAME}, some of them out already")
    results.add(PART, "share of the rate that a job of higher priority gets", shares[PRIORITY], form=".2f",
                note=f"the same at priority {PRIORITY}")


def _add_together(results: Results, jobs: int, each: int, ends: list[list[float]], single: list[float]) -> None:
    note = f"{jobs} jobs of {each} requests, created together, from the first call on"
    results.add(PART, f"one job of {jobs * each:,} ends after", single, "ms", baseline=True,
                note="as many requests, in turn with the many jobs")
    results.add(PART, "many jobs: the first one ends after", [times[0] for times in ends], "ms", note=note)
    results.add(PART, "many jobs: the middle one ends after", [median(times) for times in ends], "ms")
    results.add(PART, "many jobs: the last one ends after", [times[-1] for times in ends], "ms")
    results.add(PART, "many jobs: from the first end to the last", [times[-1] - times[0] for times in ends], "ms")


def _add_waits(
    results: Results, rounds: list[list[Wait]], where: str, *, baseline: bool = False, target: str = ""
) -> None:
    left = [[wait.left for wait in waits] for waits in rounds]
    resolved = [[wait.resolved for wait in waits] for waits in rounds]
    note = f"{min(map(len, left))} jobs in a round" + ("" if baseline else " or more")
    results.add(PART, f"{where}: a small job's request leaves, p50", map(median, left), "ms", form=",.1f",
                baseline=baseline, note=f"{note}; {SEEN}")
    results.add(PART, f"{where}: a small job's request leaves, at the most", map(max, left), "ms", form=",.1f",
                baseline=baseline, target=target)
    results.add(PART, f"{where}: it is resolved, p50", map(median, resolved), "ms", form=",.1f", baseline=baseline)
    results.add(PART, f"{where}: it is resolved, at the most", map(max, resolved), "ms", form=",.1f",
                baseline=baseline)


def _add_creation(results: Results, rounds: list[list[Wait]], where: str) -> None:
    results.add(PART, f"{where}: a small job's request leaves, at the most",
                map(_longest, rounds), "ms", form=",.1f",
                note=f"sent right behind the large one; {SEEN}")
    results.add(PART, f"{where}: it is resolved, at the most",
                [max(wait.resolved for wait in waits) for waits in rounds], "ms", form=",.1f")


def _longest(waits: list[Wait]) -> float:
    return max(wait.left for wait in waits)


async def _together(stand: Stand, jobs: int, each: int) -> list[float]:
    """Create jobs at once, each to devices of its own on a connection of its own; milliseconds until each has ended."""
    fleet = stand.names(jobs * each)
    documents: list[dict[str, Any]] = [
        {"destinations": fleet[start : start + each], "message": MESSAGE} for start in range(0, jobs * each, each)
    ]
    async with AsyncExitStack() as open_ones:
        callers = [await open_ones.enter_async_context(Caller(stand.port)) for _ in documents]
        start = time.perf_counter()
        calls = [caller.post("/jobs", document) for caller, document in zip(callers, documents, strict=True)]
        made = [job["id"] for job in await asyncio.gather(*calls)]
        for job_id in made:
            await stand.ended(job_id, each)
    return sorted((stand.watcher.ended_at[job_id] - start) * 1e3 for job_id in made)


async def _alone(stand: Stand, probe: Probe, count: int) -> list[Wait]:
    """Small jobs, now and then, when nothing else runs."""
    await stand.at_rest()
    waits: list[Wait] = []
    for _ in range(count):
        waits.append(await probe.wait())
        await asyncio.sleep(PERIOD)
    return waits


async def _one_by_one(stand: Stand, probe: Probe, count: int, load: int) -> list[Wait]:
    """Small jobs, now and then, as long as the large one runs."""
    waits: list[Wait] = []
    while len(waits) < count and stand.runs(load):
        waits.append(await probe.wait())
        await asyncio.sleep(PERIOD)
    if len(waits) < count / 2:
        raise Failed(f"the large job had ended before {count} small ones were created")
    return waits


async def _while_created(stand: Stand, probe: Probe, large: int) -> list[Wait]:
    """Small jobs one after the other, from the moment in which a large one is sent until it is created."""
    async with Caller(stand.port) as caller:
        document = {"destinations": stand.names(large), "message": MESSAGE}
        creating = asyncio.create_task(caller.post("/jobs", document), name="creating")
        await caller.written.wait()
        waits = [await probe.wait()]
        while not creating.done():
            waits.append(await probe.wait())
        await stand.call_off((await creating)["id"])
    return waits


async def _share(stand: Stand, load: int, medium: int, priority: int) -> float:
    """The part of what ends, while a job of this priority runs beside the load, that is of this job."""
    job = await stand.create_job(stand.names(medium), priority=priority)
    before = await _done(stand, load)
    await stand.ended(job["id"], medium)
    after = await _done(stand, load)
    return medium / (medium + after - before)


async def _done(stand: Stand, job_id: int) -> int:
    job = await asyncio.wait_for(stand.caller.get(f"/jobs/{job_id}?collection=false&limit=1"), JOB_TIMEOUT)
    return int(job["doneCount"])
