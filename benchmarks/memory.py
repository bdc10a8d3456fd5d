"""How much memory a job takes while it runs, and how much is left when it is stored."""

from __future__ import annotations

from benchmarks.options import Options
from benchmarks.results import Results
from benchmarks.stand import Stand

PART = "memory"
TARGET = "< 1500"

WARM, JOBS = 3, 10
"""Jobs that are run one after the other, to see what each leaves behind, from when the allocator has what it keeps."""


async def measure(options: Options, rounds: int, results: Results) -> None:
    """Read the memory of bundles that begin with an empty store."""
    small, large = options.count(20_000, 2_000), options.count(100_000, 5_000)
    idle: list[float] = []
    peaks: dict[int, list[float]] = {small: [], large: []}
    left: dict[str, list[float]] = {"the first": [], "the second": []}
    grown: list[float] = []
    async with Stand() as stand:
        for number in range(rounds):
            if number:
                await stand.restart_bundle(fresh=True)
            idle.append(stand.resident())
            peaks[small].append(await _peak(stand, small, idle[-1]))
            left["the first"].append((await _rested(stand) - idle[-1]) / small)
            left["the second"].append((await _after(stand, small, 1) - idle[-1]) / small)
            warm = await _after(stand, small, WARM - 2)
            grown.append((await _after(stand, small, JOBS - WARM) - warm) / (small * (JOBS - WARM)))
            await stand.restart_bundle(fresh=True)
            peaks[large].append(await _peak(stand, large, stand.resident()))
            options.tell(PART, f"round {number + 1} of {rounds}: peak {peaks[small][-1]:,.0f} and "
                               f"{peaks[large][-1]:,.0f} B a request, {grown[-1]:,.0f} B for each that is stored")
    results.add(PART, "idle, nothing stored", [size / 2**20 for size in idle], "MiB", baseline=True)
    for size in (small, large):
        results.add(PART, f"peak above idle, job of {size:,}", peaks[size], "B a request", target=TARGET)
    for which, values in left.items():
        results.add(PART, f"left above idle when {which} job has ended", values, "B a request",
                    note=f"jobs of {small:,}; of the requests of one of them")
    results.add(PART, f"growth from job {WARM} to job {JOBS}", grown, "B a stored request", target="< 100",
                note=f"jobs of {small:,}")


async def _peak(stand: Stand, count: int, idle: float) -> float:
    """Bytes for each request at the highest, while its job runs."""
    stand.forget_peak()
    await stand.run_job(count)
    return (stand.peak() - idle) / count


async def _after(stand: Stand, count: int, jobs: int) -> float:
    """Bytes of memory when that many more jobs have ended, each with a rest in which the store tidies up."""
    for _ in range(jobs):
        await stand.run_job(count)
        resident = await _rested(stand)
    return resident


async def _rested(stand: Stand) -> float:
    await stand.at_rest()
    return stand.resident()
