"""How long one job of one request takes, from the call until its caller has seen its last state."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from statistics import median, quantiles
from typing import Any

import gmqtt
import orjson
from gmqtt.mqtt.constants import MQTTv311

from benchmarks.mqtt import Message, open_connection
from benchmarks.options import Failed, Options
from benchmarks.results import Results
from benchmarks.stand import INSTANCE, MESSAGE, Stand
from puppetmaster.client import BusClient

PART = "latency"
DEVICE = "probe"

TIMEOUT = 60.0
"""Seconds for one small job."""


def p99(values: Sequence[float]) -> float:
    """The value that 99 in 100 do not exceed."""
    return quantiles(values, n=100, method="inclusive")[98]


@dataclass
class Trips:
    """The milliseconds of many trips of one kind, by round."""

    rounds: list[list[float]] = field(default_factory=list)

    async def measure(self, count: int, trip: Callable[[], Awaitable[None]]) -> None:
        """Measure a round: so many of them, one after the other."""
        times = []
        for _ in range(count):
            start = time.perf_counter()
            try:
                await asyncio.wait_for(trip(), TIMEOUT)
            except asyncio.TimeoutError:
                raise Failed(f"a job of one request has not ended after {TIMEOUT:.0f} s") from None
            times.append((time.perf_counter() - start) * 1e3)
        self.rounds.append(times)

    @property
    def medians(self) -> list[float]:
        """Of each round."""
        return [median(times) for times in self.rounds]

    @property
    def p99s(self) -> list[float]:
        """Of each round."""
        return [p99(times) for times in self.rounds]


class Echo:
    """The broker's own round trip: gmqtt to a device and back, one at a time."""

    def __init__(self) -> None:
        self._client = gmqtt.Client("benchmark-echo")
        self._client.on_message = self._on_message
        self._answered: asyncio.Future[None]

    async def start(self, port: int) -> None:
        """Connect, and subscribe to the answers."""
        subscribed = asyncio.get_running_loop().create_future()
        self._client.on_subscribe = lambda *arguments: subscribed.set_result(None)
        await self._client.connect("127.0.0.1", port, version=MQTTv311)
        self._client.subscribe("/remote/+/answer/bare", qos=1)
        await subscribed

    async def trip(self) -> None:
        """One request and its answer."""
        self._answered = asyncio.get_running_loop().create_future()
        self._client.publish(f"/remote/{DEVICE}", b'{"id":1,"method":"post","resource":"/echo","tunnel":'
                             b'"/remote/probe/answer/bare"}', qos=1)
        await self._answered

    async def close(self) -> None:
        """Leave the broker."""
        await self._client.disconnect()

    def _on_message(self, *message: Any) -> int:
        self._answered.set_result(None)
        return 0


class OverBus:
    """A caller on the bus: jobs are created through the controller, and seen to end by their retained states."""

    def __init__(self, client: BusClient) -> None:
        self._client = client
        self._ended: dict[int, Any] = {}
        self._news = asyncio.Event()

    def take(self, messages: list[Message]) -> Iterable[Message]:
        """Take retained states of jobs."""
        for _, payload in messages:
            job = orjson.loads(payload) if payload else {}
            if job.get("finishedAt"):
                self._ended[job["id"]] = job
        self._news.set()
        return ()

    async def trip(self) -> None:
        """One job."""
        job = await self._client.create_job({"destinations": [DEVICE], "message": MESSAGE})
        while job["id"] not in self._ended:
            self._news.clear()
            await self._news.wait()
        _check(self._ended[job["id"]])


def _check(job: dict[str, Any]) -> None:
    if job["counts"]["resolved"] != 1:
        raise Failed(f"a job of one request was not resolved: {job['counts']}")


async def measure(options: Options, rounds: int, results: Results) -> None:
    """Run small jobs one after the other: beside nothing, then beside a large one."""
    idle, loaded, load = options.count(200, 20), options.count(100, 10), options.count(100_000, 20_000)
    broker, http, bus, busy_http, busy_bus = (Trips() for _ in range(5))
    async with Stand() as stand, BusClient(stand.address) as client:
        echo, over_bus = Echo(), OverBus(client)
        await echo.start(stand.broker.port)
        states = await open_connection(stand.broker.port, "benchmark-states", [f"/puppetmaster/{INSTANCE}/jobs/+"],
                                       lambda messages: list(over_bus.take(messages)))

        async def over_http() -> None:
            job = await stand.create_job([DEVICE])
            _check(await stand.watcher.ended(job["id"]))

        for kind in (over_http, over_bus.trip):
            await Trips().measure(10, kind)  # what is loaded and made at the first use is not measured
        for number in range(rounds):
            await broker.measure(idle, echo.trip)
            await http.measure(idle, over_http)
            await bus.measure(idle, over_bus.trip)
            async with stand.load(load):
                await busy_http.measure(loaded, over_http)
                await busy_bus.measure(loaded, over_bus.trip)
            options.tell(PART, f"round {number + 1} of {rounds}: broker {broker.medians[-1]:.1f} ms, HTTP "
                               f"{http.medians[-1]:.1f}, bus {bus.medians[-1]:.1f}, under load "
                               f"{busy_http.medians[-1]:.1f} and {busy_bus.medians[-1]:.1f}")
        states.transport.close()
        await echo.close()
    form = ",.1f"
    results.add(PART, "the broker's round trip, p50", broker.medians, "ms", form=form, baseline=True,
                note="gmqtt to a device and back, one at a time")
    results.add(PART, "the broker's round trip, p99", broker.p99s, "ms", form=form, baseline=True)
    for name, trips in (("over HTTP", http), ("over the bus", bus)):
        results.add(PART, f"{name}, p50", trips.medians, "ms", form=form, note=f"{idle} jobs, one after the other")
        results.add(PART, f"{name}, p99", trips.p99s, "ms", form=form)
        results.add(PART, f"{name}, p50 beyond the broker's round trip",
                    [a - b for a, b in zip(trips.medians, broker.medians, strict=True)], "ms", form=form, target="< 5")
    for name, trips in (("over HTTP", busy_http), ("over the bus", busy_bus)):
        what = f"{name} under load"
        results.add(PART, f"{what}, p50", trips.medians, "ms", form=form, note=f"{loaded} jobs beside one of {load:,}")
        results.add(PART, f"{what}, p99", trips.p99s, "ms", form=form)

