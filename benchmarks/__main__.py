"""Runs the benchmarks: ``python -m benchmarks``, or ``make bench``.

Everything is real and in processes of its own: Mosquitto with its default limits, the controller, the bundle
(durable, with events on) and the simulated devices. The baseline is gmqtt alone against the same devices, in turn
with the jobs of the bundle, so that a busy machine slows down both. Medians are shown, with all values behind them.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from statistics import median
from typing import Any

import psutil

from puppetmaster import loop
from puppetmaster.client import BusClient
from puppetmaster.embedded.broker import BrokerProcess, free_port
from puppetmaster.embedded.devices import names
from puppetmaster.errors import PuppetmasterError

HERE = Path(__file__).resolve().parent
REPOSITORY = HERE.parent
WINDOW = 500
PARTS = ("memory", "bare", "growth", "watchers")
WATCHERS, WATCHED_REQUESTS = 1_000, 5_000
READY_TIMEOUT = 60.0


@dataclass
class Run:
    """One job: its requests, the seconds until its last state was seen, the CPU seconds of the bundle."""

    count: int
    seconds: float
    cpu: float

    @property
    def rate(self) -> float:
        """Requests a second, end to end."""
        return self.count / self.seconds

    @property
    def cpu_microseconds(self) -> float:
        """CPU of the bundle for each request."""
        return self.cpu / self.count * 1e6


@dataclass
class Results:
    """The rows of the table."""

    rows: list[tuple[str, str, str, str]] = field(default_factory=list)

    def add(self, what: str, value: str, target: str = "", values: str = "") -> None:
        """Add a row."""
        self.rows.append((what, value, target, values))

    def table(self) -> str:
        """The rows as Markdown."""
        lines = ["| what | median | target | every run |", "| --- | --- | --- | --- |"]
        return "\n".join(lines + [f"| {' | '.join(row)} |" for row in self.rows])


@contextmanager
def process(name: str, *arguments: str, env: dict[str, str]) -> Iterator[psutil.Process]:
    """A process of ours, ended when the block is."""
    child = subprocess.Popen([sys.executable, *arguments], cwd=REPOSITORY, env=env, stdout=subprocess.DEVNULL)
    try:
        yield psutil.Process(child.pid)
    finally:
        child.terminate()
        child.wait(30)


async def ready(client: BusClient) -> None:
    """Wait until the bundle answers."""
    deadline = time.monotonic() + READY_TIMEOUT
    while True:
        try:
            await client.jobs(limit=0)
            return
        except PuppetmasterError:
            if time.monotonic() > deadline:
                raise
            await asyncio.sleep(0.2)


async def run_job(client: BusClient, bundle: psutil.Process, destinations: list[str]) -> Run:
    """One request to each destination; waits for the end as any client does."""
    before, start = bundle.cpu_times(), time.perf_counter()
    job = await client.create_job({"destinations": destinations, "message": {"method": "post", "resource": "/echo"}})
    last = job
    async for state in client.watch(job["id"]):
        last = state
    seconds, after = time.perf_counter() - start, bundle.cpu_times()
    if last["finishCount"] != len(destinations):
        raise SystemExit(f"the job did not resolve: {last['counts']}")
    return Run(len(destinations), seconds, after.user + after.system - before.user - before.system)


async def bare_rate(port: int, count: int, devices: int) -> float:
    """Round trips a second of gmqtt alone."""
    width = str(max(4, len(str(devices))))
    child = await asyncio.create_subprocess_exec(
        sys.executable, str(HERE / "bare_loop.py"), str(port), str(count), str(WINDOW), str(devices), width,
        stdout=asyncio.subprocess.PIPE,
    )
    output, _ = await child.communicate()
    return count / float(output)


def resident(bundle: psutil.Process, what: str) -> int:
    """Bytes of memory of a process by the kernel's count: ``VmRSS`` now, ``VmHWM`` at the most so far."""
    for line in Path(f"/proc/{bundle.pid}/status").read_text().splitlines():
        if line.startswith(what):
            return int(line.split()[1]) * 1024
    raise LookupError(what)


async def measure(rounds: int, count: int, parts: Sequence[str]) -> Results:
    """The benchmarks that are wanted."""
    results = Results()
    small, large = 2_000, 20_000
    with ExitStack() as stack:
        broker = stack.enter_context(BrokerProcess(defaults=True))
        data = stack.enter_context(tempfile.TemporaryDirectory())
        env = {**os.environ, "PUPPETMASTER_BROKER": broker.address.url(), "PUPPETMASTER_DATA": data,
               "PUPPETMASTER_LOG": "warning", "PUPPETMASTER_WINDOW": str(WINDOW)}
        http = free_port("127.0.0.1")
        env["PUPPETMASTER_HTTP"] = f"127.0.0.1:{http}"
        stack.enter_context(process("controller", "-m", "puppetmaster", "controller", env=env))
        stack.enter_context(process("simulate", "-m", "puppetmaster", "simulate", "--devices", str(large), env=env))
        bundle = stack.enter_context(process("bundle", "index.py", env=env))
        client = BusClient(broker.address)
        await client.start(READY_TIMEOUT)
        try:
            await ready(client)
            devices = names(large)
            if "memory" in parts:
                await memory(client, bundle, devices, results)
            if "bare" in parts:
                await against_bare(client, bundle, broker.port, devices, rounds, count, results)
            if "growth" in parts:
                await growth(client, bundle, devices, rounds, small, large, results)
            if "watchers" in parts:
                await watched(client, http, devices[:WATCHED_REQUESTS], rounds, results)
        finally:
            await client.close()
    return results


async def memory(client: BusClient, bundle: psutil.Process, devices: list[str], results: Results) -> None:
    """Peak memory of the first job of a fresh process."""
    idle = resident(bundle, "VmRSS")
    await run_job(client, bundle, devices)
    peak = (resident(bundle, "VmHWM") - idle) / len(devices)
    results.add(f"peak memory above idle, {len(devices):,} requests", f"{peak:,.0f} B a request", "under 3,000",
                f"idle {idle / 2**20:.0f} MiB")


async def against_bare(
    client: BusClient, bundle: psutil.Process, port: int, devices: list[str], rounds: int, count: int, results: Results
) -> None:
    """Requests a second, end to end, against gmqtt alone."""
    runs, bare = [], []
    for number in range(rounds):
        bare.append(await bare_rate(port, count, len(devices)))
        runs.append(await run_job(client, bundle, devices[:count]))
        print(f"round {number + 1}: bare {bare[-1]:,.0f}/s, puppetmaster {runs[-1].rate:,.0f}/s", flush=True)
    ratios = [run.rate / rate for run, rate in zip(runs, bare, strict=True)]
    results.add(f"gmqtt alone, window {WINDOW}", f"{median(bare):,.0f}/s", "", listed(bare, ",.0f"))
    results.add(f"puppetmaster, {count:,} requests, end to end", f"{median(run.rate for run in runs):,.0f}/s", "",
                listed([run.rate for run in runs], ",.0f"))
    results.add("the ratio of the two", f"{median(ratios):.2f}", "at least 0.5", listed(ratios, ".2f"))


async def growth(
    client: BusClient, bundle: psutil.Process, devices: list[str], rounds: int, small: int, large: int, results: Results
) -> None:
    """What a request costs in a large job against a small one."""
    smalls: list[Run] = []
    larges: list[Run] = []
    for _ in range(rounds):
        # As many requests in small jobs as in the large one, or the clock of the CPU is too coarse.
        parts = [await run_job(client, bundle, devices[:small]) for _ in range(large // small)]
        smalls.append(Run(large, sum(part.seconds for part in parts), sum(part.cpu for part in parts)))
        larges.append(await run_job(client, bundle, devices[:large]))
    for count, runs in ((small, smalls), (large, larges)):
        values = [run.cpu_microseconds for run in runs]
        results.add(f"CPU of the bundle, job of {count:,}", f"{median(values):.0f} µs a request", "",
                    listed(values, ".0f"))
    versus = f"a request, {large:,} against {small:,}"
    cpu = [b.cpu / a.cpu for a, b in zip(smalls, larges, strict=True)]
    wall = [b.seconds / a.seconds for a, b in zip(smalls, larges, strict=True)]
    results.add(f"CPU {versus}", f"{median(cpu):.2f}", "at most 1.2", listed(cpu, ".2f"))
    results.add(f"time {versus}", f"{median(wall):.2f}", "at most 1.2", listed(wall, ".2f"))


async def watched(
    client: BusClient, http: int, destinations: list[str], rounds: int, results: Results
) -> None:
    """What a crowd of watchers costs the job that they watch."""
    alone, crowded, states, lags = [], [], [], []
    for number in range(rounds):
        alone.append((await watched_rate(client, http, destinations, 0))[0])
        rate, count, lag = await watched_rate(client, http, destinations, WATCHERS)
        crowded.append(rate)
        states.append(count / WATCHERS)
        lags.append(lag)
        print(f"round {number + 1}: nobody watches {alone[-1]:,.0f}/s, {WATCHERS:,} watch {rate:,.0f}/s", flush=True)
    ratios = [many / none for many, none in zip(crowded, alone, strict=True)]
    what = f"{len(destinations):,} requests"
    results.add(f"{what}, nobody watches", f"{median(alone):,.0f}/s", "", listed(alone, ",.0f"))
    results.add(f"{what}, {WATCHERS:,} WebSockets watch", f"{median(crowded):,.0f}/s", "", listed(crowded, ",.0f"))
    results.add("the ratio of the two", f"{median(ratios):.2f}", "at least 0.8", listed(ratios, ".2f"))
    results.add("states that a watcher got", f"{median(states):.1f}", "", listed(states, ".1f"))
    results.add("from the first watcher to the last with the last state", f"{median(lags):.2f} s", "",
                listed(lags, ".2f"))


async def watched_rate(
    client: BusClient, http: int, destinations: list[str], watchers: int
) -> tuple[float, int, float]:
    """Requests a second by the job's own times, the states that watchers got, the seconds until all had the last."""
    message = {"method": "post", "resource": "/echo"}
    # It waits until everybody has come to watch.
    job = await client.create_job({"destinations": destinations, "message": message, "startAt": "2099-01-01T00:00:00Z"})
    crowd = None
    if watchers:
        crowd = await asyncio.create_subprocess_exec(
            sys.executable, str(HERE / "watchers.py"), str(http), str(job["id"]), str(watchers),
            stdout=asyncio.subprocess.PIPE,
        )
        assert crowd.stdout is not None
        if await crowd.stdout.readline() != b"ready\n":
            raise SystemExit("the watchers did not come")
    await client.update_job(job["id"], {"status": "dispatching"})
    async for state in client.watch(job["id"]):
        job = state
    rate = len(destinations) / (at(job["finishedAt"]) - at(job["startedAt"]))
    if crowd is None:
        return rate, 0, 0.0
    told, _ = await crowd.communicate()
    count, lag = told.split()
    return rate, int(count), float(lag)


def at(time: Any) -> float:
    """Seconds since 1970 of a time as a job has it."""
    return datetime.fromisoformat(time.replace("Z", "+00:00")).timestamp()


def listed(values: list[float], form: str) -> str:
    """Numbers in a row."""
    return ", ".join(format(value, form) for value in values)


def main() -> None:
    """Run, print the table and write it to results.md."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="how often each thing is measured")
    parser.add_argument("--count", type=int, default=10_000, help="requests of the job that races the bare loop")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS, help="what is measured")
    options = parser.parse_args()
    table = loop.run(measure(options.rounds, options.count, options.only)).table()
    machine = f"{os.cpu_count()} cores, Python {platform.python_version()}, Mosquitto with its default limits"
    (HERE / "results.md").write_text(f"# Benchmarks\n\n{machine}.\n\n{table}\n", encoding="utf-8")
    print(f"\n{machine}\n\n{table}")


if __name__ == "__main__":
    main()
