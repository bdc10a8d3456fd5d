"""Tasks on a real engine and a real channel; the store is in memory."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from argon2 import PasswordHasher

from puppetmaster.accounts.passwords import Passwords
from puppetmaster.channels.pull import Pull
from puppetmaster.channels.router import Destinations, NoTunnels, Router
from puppetmaster.devices import Devices
from puppetmaster.dut import presence as presence_module
from puppetmaster.dut.accounts import DutAccounts, Kind
from puppetmaster.dut.errors import AgentNotFound, NoResult, TaskEnded, TaskNotFound, TooManyPolls
from puppetmaster.dut.presence import MAX_POLLS, Presence
from puppetmaster.dut.server import DutServer
from puppetmaster.dut.tasks import Tasks, content_of
from puppetmaster.engine import Engine
from puppetmaster.errors import AccountExists, Conflict, InvalidDocument
from puppetmaster.job_document import JobReader
from puppetmaster.models import Message, Request
from puppetmaster.service import Service
from puppetmaster.store import MemoryStore
from puppetmaster.times import Clock

SOON = 0.05


class Site:
    """An engine with agents that fetch."""

    def __init__(self, store: MemoryStore, *agents: str) -> None:
        self.store, self.clock = store, Clock()
        self.devices = Devices(MemoryStore(), self.clock.now)
        router = Router(NoTunnels())
        engine = Engine(directory=Destinations(self.devices, router))
        self.service = Service(
            store=store, engine=engine, reader=JobReader(), outlet=router, now=self.clock.now, devices=self.devices
        )
        self.pull = Pull(self.service)
        router.add(self.pull)
        for agent in agents:
            self.pull.join(agent)
        self.tasks = Tasks(self.service, self.pull)

    async def start(self) -> None:
        self.service.load("site")
        self.tasks.start()
        self.service.start()
        self.service.link(True)
        self.service.resend()

    async def next(self, agent: str = "a", timeout: float = 10.0) -> Request:
        request = await self.tasks.next(agent, timeout)
        assert request is not None
        return request


@contextlib.asynccontextmanager
async def site(*agents: str, store: MemoryStore | None = None) -> AsyncIterator[Site]:
    found = Site(store or MemoryStore(), *agents)
    await found.start()
    try:
        yield found
    finally:
        found.tasks.close()
        await found.service.close()


def run(main: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(asyncio.wait_for(main(), 60))  # type: ignore[arg-type]


def test_a_result_reaches_who_waits_for_it() -> None:
    async def main() -> None:
        async with site("a") as at:
            task = await at.tasks.create("a", {"type": "x"})
            waiting = asyncio.create_task(at.tasks.result(task))
            request = await at.next()
            assert (request.id, content_of(request.message)) == (task.id, {"type": "x"})
            await at.tasks.finish("a", task.id, [None])
            assert await waiting == [None]
            assert await at.tasks.result(task, 0.0) == [None]  # and who comes late

    run(main)


def test_a_result_that_is_null_is_a_result() -> None:
    async def main() -> None:
        async with site("a") as at:
            task = await at.tasks.create("a", None)
            waiting = asyncio.create_task(at.tasks.result(task))
            assert content_of((await at.next()).message) is None
            await at.tasks.finish("a", task.id, None)
            assert await waiting is None

    run(main)


def test_who_waits_is_told_when_there_will_be_no_result() -> None:
    async def main() -> None:
        async with site("a") as at:
            task = await at.tasks.create("a", 1)
            with pytest.raises(NoResult, match=f"/requests/{task.id}"):
                await at.tasks.result(task, SOON)
            waiting = asyncio.create_task(at.tasks.result(task))
            await asyncio.sleep(0)
            await at.service.cancel_request(task.id)
            with pytest.raises(Conflict, match="canceled"):
                await waiting
            task = await at.tasks.create("a", 1)
            waiting = asyncio.create_task(at.tasks.result(task))
            await asyncio.sleep(0)
            await at.service.remove_job(task.job_id)
            with pytest.raises(TaskNotFound):
                await waiting

    run(main)


def test_a_result_counts_once_and_only_from_its_agent() -> None:
    async def main() -> None:
        async with site("a", "b") as at:
            task = await at.tasks.create("a", 1)
            await at.next()
            with pytest.raises(TaskNotFound):
                await at.tasks.finish("b", task.id, 1)
            with pytest.raises(TaskNotFound):
                await at.tasks.finish("a", 5, 1)
            with pytest.raises(InvalidDocument):
                await at.tasks.finish("a", task.id, float("nan"))
            await at.tasks.finish("a", task.id, 1)
            with pytest.raises(TaskEnded, match="resolved"):
                await at.tasks.finish("a", task.id, 1)
            with pytest.raises(TaskNotFound):
                await at.tasks.finish("b", task.id, 1)
            task = await at.tasks.create("a", 1)
            await at.next()
            await at.service.cancel_request(task.id)
            with pytest.raises(TaskEnded, match="canceled"):
                await at.tasks.finish("a", task.id, 1)

    run(main)


def test_a_poll_that_nobody_waits_for_any_more_takes_nothing_away() -> None:
    async def main() -> None:
        async with site("a") as at:
            for turns in range(12):
                doomed = asyncio.create_task(at.tasks.next("a", 60.0))
                survivor = asyncio.create_task(at.tasks.next("a", 60.0))
                await asyncio.sleep(0)
                making = asyncio.create_task(at.tasks.create("a", turns))
                for _ in range(turns):
                    await asyncio.sleep(0)
                doomed.cancel()  # before, in, or after the moment in which it is woken
                (request,) = await asyncio.gather(doomed, return_exceptions=True)
                if isinstance(request, Request):
                    at.tasks.give_back(request)
                task, request = await making, await survivor
                assert request is not None
                assert request.id == task.id
                await at.tasks.finish("a", task.id, None)
            poll = asyncio.create_task(at.tasks.next("a", 60.0))
            await asyncio.sleep(0)
            at.tasks.close()
            assert await poll is None
            assert await at.tasks.next("a") is None

    run(main)


def test_what_was_given_and_not_answered_is_given_again_after_a_restart() -> None:
    async def main() -> None:
        store = MemoryStore()
        async with site("a", store=store) as at:
            task = await at.tasks.create("a", {"n": 1})
            await at.next()
            await at.tasks.create("a", {"n": 2})
        async with site("a", store=store.reopen()) as at:
            request = await at.next()
            assert (request.id, content_of(request.message)) == (task.id, {"n": 1})
            await at.tasks.finish("a", request.id, None)
            assert content_of((await at.next()).message) == {"n": 2}

    run(main)


@pytest.mark.parametrize(
    ("message", "content"),
    [
        (Message(method="post", resource="/dut/task", data={"content": 5}, timeout=1), 5),
        (Message(method="post", resource="/dut/task", data={"content": None}, timeout=1), None),
        (
            Message(method="post", resource="/dut/task", data={"content": 1, "x": 2}, timeout=1),
            {"method": "post", "resource": "/dut/task", "data": {"content": 1, "x": 2}},
        ),
        (Message(method="get", resource="/a", timeout=1), {"method": "get", "resource": "/a"}),
        (Message(method="put", resource="/a", data=0, timeout=1), {"method": "put", "resource": "/a", "data": 0}),
    ],
)
def test_an_agent_is_given_what_its_admin_wrote_or_the_whole_message(message: Message, content: Any) -> None:
    assert content_of(message) == content


# Who is there


def test_an_agent_is_there_while_it_polls_and_a_while_after_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(presence_module, "GRACE", SOON)

    async def main() -> None:
        heard: list[tuple[str, bool]] = []
        gone = asyncio.Event()

        def on_connection(agent: str, online: bool) -> None:
            heard.append((agent, online))
            if not online:
                gone.set()

        presence = Presence(on_connection)
        assert not presence.is_online("a")
        with presence.polling("a"):
            with presence.polling("a"):
                assert presence.is_online("a")
            assert presence.is_online("a")
        assert presence.is_online("a")
        with presence.polling("a"):
            pass
        assert heard == [("a", True)]
        await gone.wait()
        assert heard == [("a", True), ("a", False)]
        assert not presence.is_online("a")
        presence.close()

    run(main)


def test_an_agent_polls_over_a_bounded_number_of_connections() -> None:
    async def main() -> None:
        presence = Presence()
        with contextlib.ExitStack() as polls:
            for _ in range(MAX_POLLS):
                polls.enter_context(presence.polling("a"))
            with pytest.raises(TooManyPolls), presence.polling("a"):
                pass
            with presence.polling("b"):
                assert presence.is_online("b")
        presence.close()

    run(main)


# The server


@contextlib.asynccontextmanager
async def server(at: Site, accounts: DutAccounts, **more: Any) -> AsyncIterator[DutServer]:
    found = DutServer(
        service=at.service, pull=at.pull, accounts=accounts, store=MemoryStore(), now=at.clock.now, **more
    )
    found.load()
    found.start()
    try:
        yield found
    finally:
        await found.close()


@pytest.fixture
def accounts(tmp_path: Path) -> DutAccounts:
    hasher = PasswordHasher(time_cost=1, memory_cost=8, parallelism=1)
    return DutAccounts(tmp_path / "test.db", passwords=Passwords(hasher, shortest=1))


def test_an_agent_gets_what_was_sent_before_anybody_knew_that_it_fetches(accounts: DutAccounts) -> None:
    async def main() -> None:
        async with site() as at, server(at, accounts) as dut:
            await at.service.create_job({"destinations": "late", "message": {"method": "get", "resource": "/a"}})
            with pytest.raises(AgentNotFound):
                dut.check_agent("late")
            accounts.add("late", Kind.AGENT, "x")
            dut.check_agent("late")
            assert content_of((await at.next("late")).message) == {"method": "get", "resource": "/a"}

    run(main)


def test_no_agent_registers_itself_by_the_name_of_another_device(accounts: DutAccounts) -> None:
    async def main() -> None:
        async with site() as at, server(at, accounts, is_taken=lambda name: name == "device-0001") as dut:
            accounts.allow_self_registration(True)
            with pytest.raises(AccountExists):
                await dut.register("device-0001", "x")
            await dut.register("agent1", "x")
            assert at.pull.members == {"agent1"}

    run(main)


def test_who_is_removed_leaves_and_what_they_told_goes(accounts: DutAccounts, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("puppetmaster.dut.server.LOOK_INTERVAL", 0.01)
    accounts.add("a", Kind.AGENT, "x")

    async def main() -> None:
        async with site() as at, server(at, accounts) as dut:
            await dut.events.add("a", 1)
            poll = asyncio.create_task(dut.tasks.next("a", 60.0))
            await asyncio.sleep(0)
            accounts.remove("a")
            assert await poll is None
            assert at.pull.members == set()
            assert dut.events.of("a") == []

    run(main)
