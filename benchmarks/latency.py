"""How long one job of one request takes, from the call until its caller has seen its last state."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
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

FEW = 100
"""Jobs of a round; of fewer the slowest ones make the p99."""

AT_LEAST = 5
"""Small jobs of a round."""

TIMEOUT = 60.0
"""Seconds for one small job."""


def p99(values: Sequence[float]) -> float:
    """The value that 99 in 100 do not exceed."""
    return quantiles(values, n=100, method="inclusive")[98]


@dataclass
class Trips:
    """The milliseconds of many trips of one kind, by round."""

    rounds: list[list[float]] = field(default_factory=list)

    async def measure(
        self, count: int, trip: Callable[[], Awaitable[None]], goes_on: Callable[[], bool] = lambda: True
    ) -> None:
        """Measure a round: so many of them, one after the other, as long as something goes on beside them.

        :raises Failed: when one takes too long, or when it did not go on for long enough to tell a percentile.
        """
        times: list[float] = []
        while len(times) < count and goes_on():
            start = time.perf_counter()
            try:
                await asyncio.wait_for(trip(), TIMEOUT)
            except asyncio.TimeoutError:
                raise Failed(f"a job of one request has not ended after {TIMEOUT:.0f} s") from None
            times.append((time.perf_counter() - start) * 1e3)
        if len(times) < AT_LEAST:
            raise Failed("the large job had ended before there were enough small ones")
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

    def take(self, messages: list[Message]) -> Sequence[Message]:
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


@dataclass
class Case:
    """All trips over one broker."""

    name: str
    extra: Sequence[str]
    """Lines of the broker's configuration."""
    broker: Trips = field(default_factory=Trips)
    http: Trips = field(default_factory=Trips)
    bus: Trips = field(default_factory=Trips)
    busy: dict[str, Trips] = field(default_factory=dict)
    """Beside a large job; empty where that is not measured."""


async def measure(options: Options, rounds: int, results: Results) -> None:
    """Run small jobs one after the other: beside nothing, then beside a large one.

    Mosquitto as it comes keeps a small message back for some 40 ms while another one is not confirmed (Nagle's
    algorithm), which hides all else. So it is measured with ``set_tcp_nodelay true`` as the README advises, too. Under
    load there is always another message, and both are alike: that is measured once.
    """
    busy = {"HTTP": Trips(), "the bus": Trips()}
    cases = [Case("nodelay", ["set_tcp_nodelay true"], busy=busy), Case("as it comes", [])]
    for case, count in zip(cases, (200, 50), strict=True):
        await _measure(options, rounds, case, options.count(count, 20))
    for case in cases:
        _add(options, case, results)


async def _measure(options: Options, rounds: int, case: Case, idle: int) -> None:
    loaded, load = options.count(50, 10), options.count(100_000, 20_000)
    async with Stand(broker=case.extra) as stand, BusClient(stand.address) as client:
        echo, over_bus = Echo(), OverBus(client)
        await echo.start(stand.broker.port)
        states = await open_connection(stand.broker.port, "benchmark-states", [f"/puppetmaster/{INSTANCE}/jobs/+"],
                                       over_bus.take)

        async def over_http() -> None:
            job = await stand.create_job([DEVICE])
            _check(await stand.watcher.ended(job["id"]))

        for kind in (over_http, over_bus.trip):
            await Trips().measure(10, kind)  # what is loaded and made at the first use is not measured
        for number in range(rounds):
            await case.broker.measure(idle, echo.trip)
            await case.http.measure(idle, over_http)
            await case.bus.measure(idle, over_bus.trip)
            for name, trip in (("HTTP", over_http), ("the bus", over_bus.trip)) if case.busy else ():
                async with stand.load(load) as job_id:
                    await case.busy[name].measure(loaded, trip, partial(stand.runs, job_id))
            told = ", ".join(f"{name} under load {trips.medians[-1]:.1f}" for name, trips in case.busy.items())
            options.tell(PART, f"{case.name}: round {number + 1} of {rounds}: broker {case.broker.medians[-1]:.1f} ms, "
                               f"HTTP {case.http.medians[-1]:.1f}, bus {case.bus.medians[-1]:.1f}, {told or 'no load'}")
        states.transport.close()
        await echo.close()


def _add(options: Options, case: Case, results: Results) -> None:
    def add(what: str, values: Iterable[float], **more: Any) -> None:
        results.add(PART, f"{case.name}: {what}", values, "ms", form=",.1f", **more)

    how = "Mosquitto with set_tcp_nodelay true" if case.extra else "Mosquitto, which keeps small messages back"
    add("the broker's round trip, p50", case.broker.medians, baseline=True, note=f"gmqtt to a device and back, {how}")
    add("the broker's round trip, p99", case.broker.p99s, baseline=True)
    for name, trips in (("over HTTP", case.http), ("over the bus", case.bus)):
        add(f"{name}, p50", trips.medians, note=f"{len(trips.rounds[0])} jobs in a round, one after the other")
        add(f"{name}, p99", trips.p99s, note=_tail(trips))
        beyond = [a - b for a, b in zip(trips.medians, case.broker.medians, strict=True)]
        # While the broker holds a message back there is time to work, so that what is beyond says too little.
        add(f"{name}, p50 beyond the broker's round trip", beyond, target="< 5" if case.extra else "",
            note="" if case.extra else "no target: work is done while the broker holds a message back")
    count = options.count(100_000, 20_000)
    for name, trips in case.busy.items():
        add(f"over {name} under load, p50", trips.medians,
            note=f"{min(map(len, trips.rounds))} jobs in a round or more, beside one of {count:,}")
        add(f"over {name} under load, p99", trips.p99s, note=_tail(trips))


def _tail(trips: Trips) -> str:
    """What a percentile of so few is worth."""
    fewest = min(map(len, trips.rounds))
    return f"of {fewest} in a round: close to the slowest" if fewest < FEW else ""
