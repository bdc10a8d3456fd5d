"""Whoever opens a store may be told how long its commits took."""

from __future__ import annotations

import asyncio
import shutil
import threading
from concurrent.futures import Future
from pathlib import Path

import pytest

from puppetmaster.errors import StoreUnavailable
from puppetmaster.store import TinyStore, journal
from puppetmaster.store.group import GroupCommit
from tests.store.faulty import FaultyFileSystem, QuickFileSystem, always, is_compactor
from tests.store.workload import content_after, content_of, copy_files, put_round, wait_for_threads


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

        def depart() -> Future[None]:
            flights.append(Future())
            return flights[-1]

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


class HeldFileSystem(FaultyFileSystem):
    """Holds a compaction at its first call of an operation, until it is let go."""

    def __init__(self, operation: str) -> None:
        super().__init__(before=self._look)
        self._operation = operation
        self.is_held, self.let_go = threading.Event(), threading.Event()

    def _look(self, operation: str, number: int) -> None:
        if operation == self._operation and is_compactor():
            self.is_held.set()
            assert self.let_go.wait(60)


async def commit_until_held(store: TinyStore, files: HeldFileSystem) -> int:
    """Commit rounds until a compaction is under way; how many."""
    number = 0
    while not files.is_held.is_set():
        number += 1
        put_round(store, number)
        await store.commit()
        await asyncio.sleep(0.001)
    return number


def look(folder: Path) -> dict:
    """What a store holds that was killed."""
    store = TinyStore.open(folder, files=QuickFileSystem())
    try:
        return content_of(store)
    finally:
        store._journal.close()


@pytest.mark.parametrize("operation", ["open", "write", "sync"])
def test_commits_go_on_while_a_snapshot_is_written(tmp_path, monkeypatch, operation):
    monkeypatch.setattr(journal, "MIN_COMPACTION_SIZE", 600)

    async def main() -> None:
        files = HeldFileSystem(operation)
        store = TinyStore.open(tmp_path / "live", files=files)
        number = await commit_until_held(store, files)
        for _ in range(9):
            number += 1
            put_round(store, number)
            await asyncio.wait_for(store.commit(), 60)
        shutil.copytree(tmp_path / "live", tmp_path / "killed before")
        files.let_go.set()
        copy_files(store, tmp_path / "live", tmp_path / "killed after")
        assert sorted(path.name for path in (tmp_path / "killed after").iterdir()) == [
            "puppetmaster.journal.2", "puppetmaster.json", "puppetmaster.lock",
        ]  # fmt: skip
        assert store._journal.size > 600, "what was committed meanwhile is in the new journal"
        put_round(store, number + 1)
        await store.commit()
        copy_files(store, tmp_path / "live", tmp_path / "killed later")
        await store.close()
        for moment, rounds in (("before", number), ("after", number), ("later", number + 1)):
            assert look(tmp_path / f"killed {moment}") == content_after(rounds)

    asyncio.run(main())


def test_a_commit_that_fails_beside_a_compaction_ends_it_and_the_next_one_writes_all(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(journal, "MIN_COMPACTION_SIZE", 600)

    async def main() -> None:
        files = HeldFileSystem("sync")
        store = TinyStore.open(tmp_path / "live", files=files)
        number = await commit_until_held(store, files)
        put_round(store, number + 1)
        files.after = always("write")
        commit = asyncio.create_task(store.commit())
        await asyncio.sleep(0.05)
        assert not commit.done(), "the rows that are being read must not change"
        files.after = None
        files.let_go.set()
        with pytest.raises(StoreUnavailable):
            await commit
        put_round(store, number + 2)
        await store.commit()
        wait_for_threads(store)
        assert look(copy_files(store, tmp_path / "live", tmp_path / "copy")) == content_after(number + 2)
        assert content_of(store) == content_after(number + 2)
        assert "can't compact the store: [Errno 5] it was given up after a failure" in caplog.text
        await store.close()

    asyncio.run(main())


def test_a_commit_that_does_not_come_back_from_the_disk_ends_a_compaction(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(journal, "MIN_COMPACTION_SIZE", 600)

    async def main() -> None:
        files = HeldFileSystem("sync")
        store = TinyStore.open(tmp_path / "live", files=files)
        number = await commit_until_held(store, files)
        put_round(store, number + 1)
        await store.commit()
        path = tmp_path / "live" / "puppetmaster.journal.1"
        content = path.read_bytes()
        path.write_bytes(content[:-3] + b"???")
        files.let_go.set()
        wait_for_threads(store)
        assert "a commit can't be read back" in caplog.text
        path.write_bytes(content)
        put_round(store, number + 2)
        await store.commit()
        assert look(copy_files(store, tmp_path / "live", tmp_path / "copy")) == content_after(number + 2)
        await store.close()

    asyncio.run(main())
