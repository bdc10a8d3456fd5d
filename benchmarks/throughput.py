"""Requests a second, end to end, in turn with gmqtt alone: same broker, devices, window, QoS and payloads."""

from __future__ import annotations

import asyncio
import sys
from dataclasses import dataclass

from benchmarks.options import REPOSITORY, Failed, Options
from benchmarks.results import Results
from benchmarks.stand import FLEET, WINDOW, Run, Stand

PART = "throughput"
PROCESSES = ("bundle", "broker", "devices", "controller")


@dataclass(frozen=True)
class Bare:
    """One run of the bare loop."""

    rate: float
    """Round trips a second."""
    cpu: dict[str, float]
    """Microseconds for each of them, by process: loop, broker, devices."""
    asked: tuple[int, int]
    """How many requests the devices had, and how many bytes those had."""


async def bare_run(stand: Stand, count: int, kind: str, window: int = WINDOW) -> Bare:
    """Run the bare loop against the devices of a stand.

    :param kind: plain, or gathered.
    :raises Failed: when it does not come to its end.
    """
    served, before = await stand.served(), stand.cpu()
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "benchmarks.bare_loop", str(stand.broker.port), str(count), str(window), str(FLEET), kind,
        stdout=asyncio.subprocess.PIPE, cwd=REPOSITORY,
    )
    try:
        output, _ = await child.communicate()
    finally:
        if child.returncode is None:
            child.kill()
    if child.returncode:
        raise Failed(f"the bare loop ended with status {child.returncode}")
    after, (requests, size) = stand.cpu(), await stand.served()
    seconds, own = map(float, output.split())
    spent = {"loop": own, **{name: after[name] - before[name] for name in ("broker", "devices")}}
    cpu = {name: seconds / count * 1e6 for name, seconds in spent.items()}
    return Bare(count / seconds, cpu, (requests - served[0], size - served[1]))


async def measure(options: Options, rounds: int, results: Results) -> None:
    """Run them in turn."""
    count = options.count(50_000, 2_000)
    plain: list[Bare] = []
    gathered: list[Bare] = []
    runs: list[Run] = []
    async with Stand() as stand:
        await stand.run_job(count)  # what is loaded and made at the first use is not measured
        for number in range(rounds):
            plain.append(await bare_run(stand, count, "plain"))
            runs.append(await stand.run_job(count))
            gathered.append(await bare_run(stand, count, "gathered"))
            _check_asked(count, plain[-1].asked, runs[-1].asked)
            options.tell(PART, f"round {number + 1} of {rounds}: alone {plain[-1].rate:,.0f}/s, gathered "
                               f"{gathered[-1].rate:,.0f}/s, puppetmaster {runs[-1].rate:,.0f}/s")
    size = plain[-1].asked[1] / count
    what = f"{count:,} requests of {size:.0f} B, window {WINDOW}, QoS 1"
    results.add(PART, "gmqtt alone", [bare.rate for bare in plain], "/s", baseline=True, note=what)
    results.add(PART, "gmqtt alone, writes gathered", [bare.rate for bare in gathered], "/s", baseline=True,
                note="what it writes in one turn of the loop is sent at once")
    results.add(PART, "puppetmaster", [run.rate for run in runs], "/s", note="durable, with HTTP and events")
    results.add(PART, "puppetmaster to gmqtt alone",
                [run.rate / bare.rate for run, bare in zip(runs, plain, strict=True)], form=".2f", target=">= 0.8")
    for name in PROCESSES:
        results.add(PART, f"CPU of the {name}", [run.cpu_microseconds(name) for run in runs], "µs a request")
    for name in plain[0].cpu:
        results.add(PART, f"gmqtt alone: CPU of the {name}", [bare.cpu[name] for bare in plain], "µs a request",
                    baseline=True)


def _check_asked(count: int, bare: tuple[int, int], durable: tuple[int, int]) -> None:
    """See that both asked the devices as often, and with as many bytes."""
    if bare != durable or bare[0] != count:
        raise Failed(f"for {count:,} requests the devices had {bare[0]:,} of {bare[1]:,} bytes from the bare loop, and "
                     f"{durable[0]:,} of {durable[1]:,} bytes from puppetmaster")
