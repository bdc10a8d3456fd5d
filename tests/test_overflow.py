"""The second connection of the data plane, on a real Mosquitto: used, taken away, refused, and in what order."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

import orjson
import pytest

from puppetmaster import views
from puppetmaster.address import BrokerAddress
from puppetmaster.bus import Bus
from puppetmaster.embedded.broker import BrokerProcess, find_mosquitto
from puppetmaster.embedded.devices import Fleet, names
from puppetmaster.engine import Engine
from puppetmaster.job_document import JobReader
from puppetmaster.service import Service
from puppetmaster.store import MemoryStore
from puppetmaster.tunnels import Tunnels
from puppetmaster.wire import COMMANDS, Codec, DeviceTunnel

pytestmark = pytest.mark.skipif(find_mosquitto() is None, reason="mosquitto is not installed")

PATIENCE = 20.0  # seconds for what must come
TIMEOUT = 300.0  # seconds that a request has: whatever waits for its deadline fails a test
COUNT = 400  # requests, twenty times as many as a Mosquitto takes at once

FIRST, SECOND = "puppetmaster-i", "puppetmaster-i-requests"


class Gate:
    """Stands before the broker, and can hold what comes on the second connection, cut it, and let it in no more."""

    def __init__(self, broker: BrokerAddress) -> None:
        self._broker = broker
        self.is_shut = False
        self.is_through = asyncio.Event()
        self.is_through.set()
        self._seconds: list[asyncio.StreamWriter] = []

    @contextlib.asynccontextmanager
    async def open(self) -> AsyncIterator[BrokerAddress]:
        server = await asyncio.start_server(self._carry, "127.0.0.1", 0)
        try:
            yield BrokerAddress(host="127.0.0.1", port=server.sockets[0].getsockname()[1])
        finally:
            server.close()

    def shut(self) -> None:
        """Cut the second connection, and refuse it from now on; what was held is lost."""
        self.is_shut = True
        for writer in self._seconds:
            writer.transport.abort()
        self._seconds.clear()

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            hello = await reader.read(65536)
            is_second = SECOND.encode() in hello
            if is_second and self.is_shut:
                writer.close()
                return
            back, forth = await asyncio.open_connection(self._broker.host, self._broker.port)
            forth.write(hello)
            if is_second:
                self._seconds += [writer, forth]
            returning = asyncio.create_task(self._pump(back, writer, is_held=False))
            await self._pump(reader, forth, is_held=is_second)
            await returning

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, is_held: bool) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                if is_held:
                    await self.is_through.wait()
                writer.write(data)
                await writer.drain()
        writer.close()


class Site:
    """A data plane with a service behind it, whose way to the broker goes through the gate."""

    def __init__(self, gate: Gate, address: BrokerAddress) -> None:
        self.gate = gate
        self.tunnels = Tunnels(address, Codec("i", DeviceTunnel()))
        self.service = Service(
            store=MemoryStore(),
            engine=Engine(window=COUNT),
            reader=JobReader(request_timeout=TIMEOUT),
            outlet=self.tunnels,
            now=time.time,
        )
        self.ended: asyncio.Queue[Any] = asyncio.Queue()

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[Site]:
        self.tunnels.serve(self.service)
        self.service.load("i")
        self.service.listen(self._told)
        self.service.start()
        starting = asyncio.create_task(self.tunnels.start())
        try:
            await until(lambda: self.tunnels.connected and (self.tunnels._overflow.connected or self.gate.is_shut))
            yield self
        finally:
            self.gate.is_through.set()
            starting.cancel()
            await self.service.close()
            await self.tunnels.close()

    async def end(self) -> Any:
        """The next job that ends."""
        return await asyncio.wait_for(self.ended.get(), PATIENCE)

    def _told(self, change: object, job_id: int, document: Any) -> None:
        view = views.job_view(job_id, document) if document is not None else None
        if view is not None and view["doneCount"] == view["totalCount"]:
            self.ended.put_nowait(view)


async def until(check: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE
    while not check():
        assert time.monotonic() < end, "it did not come to that"
        await asyncio.sleep(0.01)


def run(main: Callable[[BrokerProcess, Site, Fleet], Coroutine[Any, Any, None]], *, is_shut: bool = False) -> None:
    """Run on a Mosquitto as it comes, with as many devices as there are requests."""

    async def all_of_it(broker: BrokerProcess) -> None:
        gate = Gate(broker.address)
        gate.is_shut = is_shut
        fleet = Fleet(broker.address, names(COUNT, "dev"))
        await fleet.start(PATIENCE)
        try:
            async with gate.open() as address, Site(gate, address).running() as site:
                await main(broker, site, fleet)
        finally:
            await fleet.close()

    with BrokerProcess(defaults=True, extra=["log_type all"]) as broker:
        asyncio.run(all_of_it(broker))


def job(fleet: Fleet) -> dict[str, Any]:
    return {"destinations": list(fleet.destinations), "message": {"method": "put", "resource": "/system/name"}}


def requests_over(client_id: str, broker: BrokerProcess) -> int:
    """How many the broker says that it had over this connection."""
    lines = broker.log().splitlines()
    return sum(f"Received PUBLISH from {client_id} (" in line and "'/remote/" in line for line in lines)


def test_a_large_job_goes_over_both_connections() -> None:
    async def main(broker: BrokerProcess, site: Site, fleet: Fleet) -> None:
        await site.service.create_job(job(fleet))
        assert (await site.end())["counts"]["resolved"] == COUNT
        over = requests_over(FIRST, broker), requests_over(SECOND, broker)
        assert min(over) > 0 and sum(over) == COUNT == fleet.counts()["received"]

    run(main)


def test_a_small_job_goes_over_the_first_connection_alone() -> None:
    async def main(broker: BrokerProcess, site: Site, fleet: Fleet) -> None:
        await site.service.create_job({**job(fleet), "destinations": list(fleet.destinations[:10])})
        assert (await site.end())["counts"]["resolved"] == 10
        assert (requests_over(FIRST, broker), requests_over(SECOND, broker)) == (10, 0)

    run(main)


def test_without_the_second_connection_all_goes_over_the_first() -> None:
    async def main(broker: BrokerProcess, site: Site, fleet: Fleet) -> None:
        await site.service.create_job(job(fleet))
        assert (await site.end())["counts"]["resolved"] == COUNT
        assert (requests_over(FIRST, broker), requests_over(SECOND, broker)) == (COUNT, 0)
        assert not site.tunnels._overflow.connected

    run(main, is_shut=True)


def test_what_was_on_the_second_connection_goes_over_the_first_when_that_breaks_and_is_refused() -> None:
    async def main(broker: BrokerProcess, site: Site, fleet: Fleet) -> None:
        site.gate.is_through.clear()
        await site.service.create_job(job(fleet))
        await until(lambda: fleet.counts()["answered"] > 0 and not site.tunnels._overflow.is_idle)
        assert requests_over(SECOND, broker) == 0
        site.gate.shut()
        assert (await site.end())["counts"]["resolved"] == COUNT
        assert fleet.counts()["worked"] == COUNT

    run(main)


def test_a_rival_for_the_second_connection_costs_no_request() -> None:
    async def main(broker: BrokerProcess, site: Site, fleet: Fleet) -> None:
        site.gate.is_through.clear()
        await site.service.create_job(job(fleet))
        await until(lambda: not site.tunnels._overflow.is_idle)
        rival = Bus(broker.address, SECOND)
        await rival.start(PATIENCE)
        try:
            # It comes back for as long as we do.
            assert (await site.end())["counts"]["resolved"] == COUNT
            assert fleet.counts()["worked"] == COUNT
        finally:
            await rival.close(drain=0)

    run(main)


def test_a_command_that_is_called_off_on_its_way_hears_of_it_last() -> None:
    heard: dict[str, list[str]] = defaultdict(list)

    async def main(broker: BrokerProcess, site: Site, fleet: Fleet) -> None:
        listener = Bus(
            broker.address,
            "listener",
            lambda topic, payload: heard[topic].append(orjson.loads(payload)["method"]),
            topics=["/remote/+"],
        )
        await listener.start(PATIENCE)
        try:
            site.gate.is_through.clear()
            command = {"method": "post", "resource": COMMANDS, "data": {"command": ["true"]}}
            made = await site.service.create_job({**job(fleet), "message": command})
            await until(lambda: not site.tunnels._overflow.is_idle)
            await site.service.update_job(made["id"], {"status": "canceled"})
            await until(lambda: site.tunnels._bus.is_idle)
            site.gate.is_through.set()
            await until(lambda: site.tunnels._overflow.is_idle and site.tunnels._bus.is_idle)
            listener.publish("/remote/end", b'{"method": "end"}')  # it comes behind all that the broker has for it
            await until(lambda: heard.pop("/remote/end", None) is not None)
            assert requests_over(SECOND, broker) > 0
            late = [methods for methods in heard.values() if methods[:1] == ["delete"] and "post" in methods]
            assert late, "none was overtaken over the other connection"
            assert {methods[-1] for methods in heard.values() if "post" in methods} == {"delete"}
        finally:
            await listener.close(drain=0)

    run(main)
