"""What a request costs in jobs from a hundred to a hundred thousand requests."""

from __future__ import annotations

from benchmarks.options import Options
from benchmarks.results import Results
from benchmarks.stand import Stand, Timed

PART = "growth"

SIZES = (100, 1_000, 10_000, 100_000)
QUICK_SIZES = (100, 1_000, 5_000)

TARGET = "<= 1.15"


async def measure(options: Options, rounds: int, results: Results) -> None:
    """Run jobs of each size, in each round on a fresh bundle, in every second round the large ones first.

    Small jobs are run one after the other, each with devices of its own, until they are as many requests as fill a
    clock of the CPU that counts hundredths of a second.
    """
    sizes = QUICK_SIZES if options.quick else SIZES
    at_least = options.count(20_000, 1_000)
    runs: dict[int, list[Timed]] = {size: [] for size in sizes}
    async with Stand() as stand:
        for number in range(rounds):
            if number:
                await stand.restart_bundle(fresh=True)
            await stand.run_job(sizes[-1])  # all devices are known then, to jobs of any size
            for size in reversed(sizes) if number % 2 else sizes:
                firsts = range(0, max(size, at_least), size)
                runs[size].append(Timed.together([await stand.run_job(size, first=first) for first in firsts]))
            told = ", ".join(f"{size:,}: {_cpu(runs[size][-1]):.0f}" for size in sizes)
            options.tell(PART, f"round {number + 1} of {rounds}: µs of CPU a request in jobs of {told}")
    for size in sizes:
        several = runs[size][0].count // size
        note = f"{several} jobs, one after the other" if several > 1 else "one job"
        results.add(PART, cpu_of(size), map(_cpu, runs[size]), "µs a request", form=",.1f", note=note)
    for size in sizes:
        results.add(PART, time_of(size), [seconds * 1e6 for seconds in map(_seconds, runs[size])], "µs a request",
                    form=",.1f")
    large = sizes[-1]
    pairs = list(zip(runs[large], runs[1_000], strict=True))
    versus = f"a request, {large:,} to 1,000"
    results.add(PART, f"CPU {versus}", [_cpu(a) / _cpu(b) for a, b in pairs], form=".2f", target=TARGET)
    results.add(PART, f"time {versus}", [_seconds(a) / _seconds(b) for a, b in pairs], form=".2f", target=TARGET)


def cpu_of(size: int) -> str:
    """The name of the row with the CPU in jobs of a size."""
    return f"CPU of the bundle, jobs of {size:,}"


def time_of(size: int) -> str:
    """The name of the row with the time of jobs of a size."""
    return f"time, jobs of {size:,}"


def _cpu(timed: Timed) -> float:
    return timed.cpu_microseconds("bundle")


def _seconds(timed: Timed) -> float:
    return 1 / timed.rate
