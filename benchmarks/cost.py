"""What 10,000 requests cost the bundle, split by what it does for them, with a profile."""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path

from benchmarks.options import HERE, Failed, Options
from benchmarks.profiling import PARTS, Profile, Spy
from benchmarks.results import Results
from benchmarks.stand import Stand

PART = "cost"

PER = 10_000
"""Requests that the seconds are for."""

PROFILE = HERE / "profile.txt"
"""Where the profile goes: the functions that take the most."""

FUNCTIONS = 25

MEANING = {
    "publish": "requests written and sent, and taken by the broker",
    "receive": "answers read and acknowledged",
    "engine": "what is next, deadlines, the states of jobs and requests, what is known of devices",
    "journal": "what changed written as JSON, to the disk",
    "events": "jobs told to all that watch",
    "call": "HTTP, and the job document checked",
    "other": "the roll call of the devices, the loop, the threads of the SDK, and what no rule knows",
}


async def measure(options: Options, rounds: int, results: Results) -> None:
    """Read the CPU of a job without the profiler, and its split from another one with it."""
    count = options.count(50_000, 10_000)
    seconds: list[float] = []
    profile, reason = Profile(), ""
    split: dict[str, list[float]] = {part: [] for part in PARTS}
    async with Stand() as stand:
        await stand.run_job(count // 10)  # what is loaded and made at the first use is not measured
        for number in range(rounds):
            run = await stand.run_job(count)
            seconds.append(run.cpu["bundle"] / count * PER)
            try:
                found = await _profiled(stand, count)
            except (Failed, OSError, asyncio.TimeoutError) as error:
                reason = str(error) or "py-spy did not answer"
            else:
                profile.add(found)
                for part, share in found.parts().items():
                    split[part].append(share * seconds[-1])
            options.tell(PART, f"round {number + 1} of {rounds}: {seconds[-1]:.2f} s for {PER:,} requests")
    unit = f"s of CPU for {PER:,} requests"
    results.add(PART, "all", seconds, unit, form=".3f", note=f"over {count:,} requests, by the kernel's count")
    for part, values in split.items():
        results.add(PART, part, values, unit, form=".3f",
                    note=MEANING[part] if values else f"not measured: {reason}")
    if profile.stacks:
        PROFILE.write_text(profile.table(FUNCTIONS), encoding="utf-8")


async def _profiled(stand: Stand, count: int) -> Profile:
    with tempfile.TemporaryDirectory(prefix="benchmarks-") as folder:
        async with Spy(stand.bundle, Path(folder)) as spy:
            await stand.run_job(count)
    if not spy.profile.stacks:
        raise Failed("py-spy has taken no sample")
    return spy.profile
