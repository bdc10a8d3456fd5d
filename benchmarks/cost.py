"""What 10,000 requests cost the bundle, split by what it does for them, with a profile."""

from __future__ import annotations

import asyncio
import tempfile
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.earlier import COMMIT, unpack
from benchmarks.options import HERE, Failed, Options
from benchmarks.profiling import PARTS, Profile, Spy
from benchmarks.results import Results
from benchmarks.stand import Stand

PART = "cost"
BEFORE = "cost before"
"""The part of an earlier commit's rows."""

PER = 10_000
"""Requests that the seconds are for."""

PROFILE, PROFILE_BEFORE = HERE / "profile.txt", HERE / "profile-before.txt"
"""Where the profiles go: the functions that take the most."""

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


@dataclass
class _Subject:
    """A bundle whose cost is measured."""

    part: str
    stand: Stand
    file: Path
    """Where its profile goes."""
    seconds: list[float] = field(default_factory=list)
    """Of CPU for PER requests, one for each round."""
    split: dict[str, list[float]] = field(default_factory=lambda: {part: [] for part in PARTS})
    profile: Profile = field(default_factory=Profile)
    reason: str = ""
    """Why there is no profile."""

    async def measure(self, count: int) -> None:
        """Read the CPU of a job without the profiler, and its split from another one with it."""
        await self.stand.at_rest()
        run = await self.stand.run_job(count)
        self.seconds.append(run.cpu["bundle"] / count * PER)
        try:
            found = await _profiled(self.stand, count)
        except (Failed, OSError, asyncio.TimeoutError) as error:
            self.reason = str(error) or "py-spy did not answer"
            return
        self.profile.add(found)
        for part, share in found.parts().items():
            self.split[part].append(share * self.seconds[-1])

    def report(self, results: Results, note: str) -> None:
        """Add its rows, and write its profile."""
        unit = f"s of CPU for {PER:,} requests"
        results.add(self.part, "all", self.seconds, unit, form=".3f", baseline=self.part == BEFORE, note=note)
        for part, values in self.split.items():
            results.add(self.part, part, values, unit, form=".3f", baseline=self.part == BEFORE,
                        note=MEANING[part] if values else f"not measured: {self.reason}")
        if self.profile.stacks:
            self.file.write_text(self.profile.table(FUNCTIONS), encoding="utf-8")


async def measure(options: Options, rounds: int, results: Results) -> None:
    """Measure the bundle, in turn with the one that it was before it was made fast."""
    count = options.count(50_000, 5_000)
    async with AsyncExitStack() as stack:
        subjects = [_Subject(PART, await stack.enter_async_context(Stand()), PROFILE)]
        try:
            folder = unpack(Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="benchmarks-"))))
        except Failed as error:
            options.tell(PART, f"not beside what it was before: {error}")
        else:
            earlier = await stack.enter_async_context(Stand(program=folder))
            subjects.append(_Subject(BEFORE, earlier, PROFILE_BEFORE))
        for subject in subjects:
            await subject.stand.run_job(count // 10)  # what is loaded and made at the first use is not measured
        for number in range(rounds):
            for subject in subjects if number % 2 == 0 else subjects[::-1]:
                await subject.measure(count)
            told = ", ".join(f"{subject.part} {subject.seconds[-1]:.2f} s" for subject in subjects)
            options.tell(PART, f"round {number + 1} of {rounds}: for {PER:,} requests {told}")
        for subject in subjects:
            subject.report(results, f"over {count:,} requests, by the kernel's count"
                           + (f"; commit {COMMIT}, in turn with today's" if subject.part == BEFORE else ""))


async def _profiled(stand: Stand, count: int) -> Profile:
    with tempfile.TemporaryDirectory(prefix="benchmarks-") as folder:
        async with Spy(stand.bundle, Path(folder)) as spy:
            await stand.run_job(count)
    if not spy.profile.stacks:
        raise Failed("py-spy has taken no sample")
    return spy.profile
