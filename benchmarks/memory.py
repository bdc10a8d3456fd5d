"""How much memory a job takes while it runs, and how much is left when it is stored."""

from __future__ import annotations

from benchmarks.options import Options
from benchmarks.results import Results
from benchmarks.stand import Stand

PART = "memory"
TARGET = "< 1500"
MIB = 2**20

WARM, JOBS = 3, 10
"""Jobs that are run one after the other, to see what each leaves behind, from when the allocator has what it keeps."""

LOOKS = (1, 2, WARM, JOBS)
"""After how many of them it is looked what is left."""


async def measure(options: Options, rounds: int, results: Results) -> None:
    """Read the memory of bundles that begin with an empty store."""
    small, large = options.count(20_000, 2_000), options.count(100_000, 5_000)
    idle: list[float] = []
    peaks: dict[int, list[float]] = {small: [], large: []}
    left: dict[int, list[float]] = {jobs: [] for jobs in LOOKS}
    most: list[float] = []
    grown: list[float] = []
    async with Stand() as stand:
        for number in range(rounds):
            if number:
                await stand.restart_bundle(fresh=True)
            idle.append(stand.resident())
            peaks[small].append(await _peak(stand, small, idle[-1]))
            await stand.at_rest()
            for done in range(1, JOBS + 1):
                if done > 1:
                    await stand.run_job(small)
                    await stand.at_rest()  # the store tidies up
                if done in LOOKS:
                    left[done].append(stand.resident() - idle[-1])
            most.append(stand.peak() - idle[-1])
            grown.append((left[JOBS][-1] - left[WARM][-1]) / (small * (JOBS - WARM)))
            await stand.restart_bundle(fresh=True)
            peaks[large].append(await _peak(stand, large, stand.resident()))
            options.tell(PART, f"round {number + 1} of {rounds}: peak {peaks[small][-1]:,.0f} and "
                               f"{peaks[large][-1]:,.0f} B a request, {grown[-1]:,.0f} B for each that is stored")
    results.add(PART, "idle, nothing stored", [size / MIB for size in idle], "MiB", baseline=True)
    for size in (small, large):
        results.add(PART, f"peak above idle, job of {size:,}", peaks[size], "B a request", target=TARGET)
    for jobs, sizes in left.items():
        results.add(PART, f"left above idle after {'one job' if jobs == 1 else f'{jobs} jobs'} of {small:,}",
                    [size / MIB for size in sizes], "MiB", note="" if jobs == 1 else "one after the other")
    results.add(PART, f"peak above idle in these {JOBS} jobs", [size / MIB for size in most], "MiB")
    results.add(PART, f"growth from job {WARM} to job {JOBS}", grown, "B a stored request", target="< 100",
                note=f"jobs of {small:,}")


async def _peak(stand: Stand, count: int, idle: float) -> float:
    """Bytes for each request at the highest, while its job runs."""
    stand.forget_peak()
    await stand.run_job(count)
    return (stand.peak() - idle) / count
