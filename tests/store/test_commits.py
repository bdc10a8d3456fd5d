"""Whoever opens a store may be told how long its commits took."""

from __future__ import annotations

import asyncio
from concurrent.futures import Future

import pytest

from puppetmaster.errors import StoreUnavailable
from puppetmaster.store import TinyStore
from puppetmaster.store.group import GroupCommit
from tests.store.faulty import FaultyFileSystem, always


@pytest.fixture
def files():
    return FaultyFileSystem()


@pytest.fixture
def times():
    return []


@pytest.fixture
def store(tmp_path, files, times):
    store = TinyStore.open(tmp_path, files=files, on_commit=times.append)
    yield store
    files.before = None
    asyncio.run(store.close())


def test_every_commit_is_told_before_it_returns(store, times):
    async def write() -> None:
        for number in range(3):
            store.put("jobs", {1: {"number": number}})
            await store.commit()
            assert len(times) == store.commits == number + 1
        assert all(seconds > 0 for seconds in times)

    asyncio.run(write())


def test_callers_who_share_a_commit_are_one(store, times):
    async def write() -> None:
        for number in range(5):
            store.put("jobs", {number: {}})
        await asyncio.gather(*(store.commit() for _ in range(5)))

    asyncio.run(write())
    assert len(times) == store.commits == 1


def test_a_commit_with_nothing_to_write_is_none(store, times):
    asyncio.run(store.commit())
    assert (times, store.commits) == ([], 0)


def test_a_commit_that_failed_is_none_and_the_one_that_makes_up_for_it_is(store, files, times):
    async def write() -> None:
        store.put("jobs", {1: {}})
        files.before = always("write")
        with pytest.raises(StoreUnavailable):
            await store.commit()
        assert (times, store.commits) == ([], 0)
        files.before = None
        await store.commit()
        assert len(times) == store.commits == 1

    asyncio.run(write())


def test_all_bytes_that_go_to_the_files_are_counted(store, tmp_path):
    def on_disk() -> int:
        return sum(path.stat().st_size for path in tmp_path.iterdir() if path.suffix != ".lock")

    async def write() -> None:
        assert store.bytes_written == on_disk()
        store.put("jobs", {number: {"text": "x" * 100} for number in range(100)})
        await store.commit()
        assert store.bytes_written == on_disk() > 10_000
        before = store.bytes_written
        await store.close()
        assert store.bytes_written == before + on_disk()

    asyncio.run(write())


def test_between_two_writes_of_which_the_second_has_passengers_there_is_no_time_for_anything_else():
    async def board() -> None:
        flights: list[Future[None]] = []

        def depart() -> tuple[Future[None], Future[None]]:
            flights.append(Future())
            return flights[-1], flights[-1]

        group = GroupCommit(depart)
        first, second = asyncio.create_task(group.commit()), asyncio.create_task(group.commit())
        await asyncio.sleep(0)
        assert len(flights) == 1
        flights[0].set_result(None)  # the loop hears of it in its next round
        assert group.is_under_way
        await first
        flights[1].set_result(None)
        await second
        assert not group.is_under_way

    asyncio.run(board())
