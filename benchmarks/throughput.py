"""Requests a second, end to end, in turn with gmqtt alone: same broker, devices, window, QoS and payloads.

A machine is faster at one moment than at the next, so a round is several short pairs: in each pair one runs right after
the other, in every second pair in the other order. A round's figures are those of all its pairs together.
"""

from __future__ import annotations

import sys

from benchmarks.options import Failed, Options
from benchmarks.programs import output_of
from benchmarks.results import Results
from benchmarks.stand import FLEET, WINDOW, Run, Stand, Timed

PART = "throughput"
PROCESSES = ("bundle", "broker", "devices", "controller")
PAIRS = 4
"""Of a round; an even number, so that each is first as often as the other."""


async def bare_run(stand: Stand, count: int, window: int = WINDOW) -> Run:
    """Run the bare loop against the devices of a stand.

    :raises Failed: when it does not come to its end.
    """
    served, before = await stand.served(), stand.cpu()
    output = await output_of(sys.executable, "-m", "benchmarks.bare_loop",
                             *map(str, (stand.broker.port, count, window, FLEET)))
    after, (requests, size) = stand.cpu(), await stand.served()
    seconds, own = map(float, output.split())
    cpu = {"loop": own, **{name: after[name] - before[name] for name in ("broker", "devices")}}
    return Run(count, seconds, cpu, (requests - served[0], size - served[1]))


async def measure(options: Options, rounds: int, results: Results) -> None:
    """Run them in turn."""
    count = options.count(25_000, 2_000)
    alone: list[Timed] = []
    durable: list[Timed] = []
    async with Stand() as stand:
        await stand.run_job(count)  # what is loaded and made at the first use is not measured
        for number in range(rounds):
            pairs = [await _pair(stand, count, bare_first=pair % 2 == 0) for pair in range(PAIRS)]
            alone.append(Timed.together([bare for bare, _ in pairs]))
            durable.append(Timed.together([run for _, run in pairs]))
            options.tell(PART, f"round {number + 1} of {rounds}: alone {alone[-1].rate:,.0f}/s, "
                               f"puppetmaster {durable[-1].rate:,.0f}/s")
    size = pairs[-1][1].asked[1] / count
    results.add(PART, "gmqtt alone", [each.rate for each in alone], "/s", baseline=True,
                note=f"{PAIRS} times {count:,} requests of {size:.0f} B, window {WINDOW}, QoS 1")
    results.add(PART, "puppetmaster", [each.rate for each in durable], "/s",
                note="the same, in turn with it; durable, with HTTP and events")
    results.add(PART, "puppetmaster to gmqtt alone",
                [ours.rate / bare.rate for ours, bare in zip(durable, alone, strict=True)], form=".2f",
                target=">= 0.8")
    for name in PROCESSES:
        results.add(PART, f"CPU of the {name}", [each.cpu_microseconds(name) for each in durable], "µs a request")
    for name in alone[0].cpu:
        results.add(PART, f"gmqtt alone: CPU of the {name}", [each.cpu_microseconds(name) for each in alone],
                    "µs a request", baseline=True)


async def _pair(stand: Stand, count: int, *, bare_first: bool) -> tuple[Run, Run]:
    """One run of each, from rest.

    :raises Failed: when they did not ask the devices as often, and with as many bytes.
    """
    if not bare_first:
        await stand.at_rest()
        run = await stand.run_job(count)
    await stand.at_rest()
    bare = await bare_run(stand, count)
    if bare_first:
        await stand.at_rest()
        run = await stand.run_job(count)
    if bare.asked != run.asked or bare.asked[0] != count:
        raise Failed(f"for {count:,} requests the devices had {bare.asked[0]:,} of {bare.asked[1]:,} bytes from the "
                     f"bare loop, and {run.asked[0]:,} of {run.asked[1]:,} bytes from puppetmaster")
    return bare, run
