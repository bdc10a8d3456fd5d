"""Whoever opens a store may be told how long its commits took."""

from __future__ import annotations

import asyncio
import errno
import shutil
import threading
from concurrent.futures import Future
from contextlib import suppress
from pathlib import Path

import pytest

from puppetmaster.errors import StoreUnavailable
from puppetmaster.store import TinyStore, journal, tiny
from puppetmaster.store.compaction import Compaction
from puppetmaster.store.group import GroupCommit
from puppetmaster.store.tail import Tail
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


async def being_compacted(folder: Path, operation: str) -> tuple[TinyStore, HeldFileSystem, int]:
    """A new store with a compaction under way that is held at an operation, and how many rounds were committed."""
    files = HeldFileSystem(operation)
    store, number = TinyStore.open(folder, files=files), 0
    while not files.is_held.is_set():
        number += 1
        put_round(store, number)
        await store.commit()
        await asyncio.sleep(0.001)
    return store, files, number


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
        store, files, number = await being_compacted(tmp_path / "live", operation)
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
        store, files, number = await being_compacted(tmp_path / "live", "sync")
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


def test_a_commit_behind_a_rename_that_fails_is_written_another_way(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(journal, "MIN_COMPACTION_SIZE", 600)

    async def main() -> None:
        store, files, number = await being_compacted(tmp_path / "live", "sync")
        is_renaming, let_go = threading.Event(), threading.Event()

        def refuse(operation: str, _: int) -> None:
            if operation == "replace":
                is_renaming.set()
                assert let_go.wait(60)
                files.before = None
                raise OSError(errno.EIO, "no")

        files.before = refuse
        files.let_go.set()
        assert await asyncio.to_thread(is_renaming.wait, 60)
        put_round(store, number + 1)
        commits = [asyncio.create_task(store.commit()) for _ in range(3)]
        await asyncio.sleep(0)
        let_go.set()
        await asyncio.wait_for(asyncio.gather(*commits), 60)
        assert "can't compact the store" in caplog.text
        assert look(copy_files(store, tmp_path / "live", tmp_path / "copy")) == content_after(number + 1)
        await store.close()

    asyncio.run(main())


def test_what_comes_during_a_compaction_is_tidied_when_it_has_ended(tmp_path, monkeypatch):
    monkeypatch.setattr(journal, "MIN_COMPACTION_SIZE", 600)
    monkeypatch.setattr(journal, "MIN_QUIET_SIZE", 500)
    monkeypatch.setattr(tiny, "QUIET", 0.01)

    async def main() -> None:
        store, files, number = await being_compacted(tmp_path, "sync")
        for number in range(number + 1, number + 10):  # noqa: B020
            put_round(store, number)
            await store.commit()
        await asyncio.sleep(0.1)
        files.before = None
        files.let_go.set()
        for _ in range(6000):
            if not store._journal.size:
                break
            await asyncio.sleep(0.01)
        assert store._journal.size == 0
        assert content_of(store) == content_after(number)
        await store.close()

    asyncio.run(main())


def test_a_refused_compaction_is_tried_again_when_the_journal_has_grown(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(journal, "MIN_COMPACTION_SIZE", 600)

    async def main() -> None:
        store, files, number = await being_compacted(tmp_path, "sync")
        for _ in range(10):
            number += 1
            put_round(store, number)
            await store.commit()
        files.before = lambda operation, _: refuse_compactor(operation)
        files.let_go.set()
        wait_for_threads(store)
        refused = store._journal.size
        while store._journal.size < refused + 600:
            assert caplog.text.count("can't compact") == 1
            number += 1
            put_round(store, number)
            await store.commit()
            wait_for_threads(store)
        for _ in range(2):
            number += 1
            put_round(store, number)
            await store.commit()
            wait_for_threads(store)
        assert caplog.text.count("can't compact") == 2
        files.before = None
        await store.close()

    asyncio.run(main())


def refuse_compactor(operation: str) -> None:
    if operation in ("open", "sync") and is_compactor():
        raise OSError(errno.ENOSPC, "full")


def test_a_compaction_leaves_room_for_commits(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(journal, "MIN_COMPACTION_SIZE", 600)
    monkeypatch.setattr(journal.Journal, "reserve", lambda self: journal.RESERVE)
    free = [journal.RESERVE - 1]

    class Full(FaultyFileSystem):
        def free(self, folder: Path) -> int:
            return free[0]

    async def main() -> None:
        store = TinyStore.open(tmp_path, files=Full())
        for number in range(1, 10):
            put_round(store, number)
            await store.commit()
            wait_for_threads(store)
        assert "only 8191 KiB are left for commits" in caplog.text
        assert store._journal.generation == 1
        assert not list(tmp_path.glob("*.tmp"))
        free[0] = journal.RESERVE
        for number in range(10, 20):
            put_round(store, number)
            await store.commit()
            wait_for_threads(store)
        assert store._journal.generation > 1
        await store.close()

    asyncio.run(main())


def test_a_small_disk_is_used_to_its_half(tmp_path):
    class Small(FaultyFileSystem):
        def free(self, folder: Path) -> int:
            return 1 << 20

    store = TinyStore.open(tmp_path, files=Small())
    assert store._journal.reserve() == 1 << 19
    store._journal.postpone()
    assert store._journal._limit == store._journal.size + (1 << 19)
    asyncio.run(store.close())


def test_a_compaction_that_nobody_can_be_told_of_ends_all_the_same(tmp_path, monkeypatch):
    monkeypatch.setattr(journal, "MIN_COMPACTION_SIZE", 600)

    def fail(*_: object) -> None:
        raise ValueError("the log is closed")

    async def main() -> None:
        store, files, _ = await being_compacted(tmp_path, "sync")
        files.before = lambda operation, _: refuse_compactor(operation)
        monkeypatch.setattr(tiny, "_warn", fail)
        files.let_go.set()
        wait_for_threads(store)
        assert not store._is_compacting
        files.before = None
        await asyncio.wait_for(store.close(), 60)

    asyncio.run(main())


def test_copying_ends_though_commits_come_as_fast(tmp_path, monkeypatch):
    """Each round finds that more has come meanwhile; the rest is copied while commits wait."""
    monkeypatch.setattr(journal, "SHORT_TAIL", 0)
    copied = []

    async def main() -> None:
        store = TinyStore.open(tmp_path / "live", files=QuickFileSystem())
        put_round(store, 1)
        await store.commit()
        compaction = store._compaction = Compaction(store._freeze())
        generation, since = store._journal.generation, store._journal.size
        copy = Tail.copy

        def copy_and_commit(tail: Tail, end: int, check: object = None) -> None:
            copy(tail, end)
            copied.append(end)
            put_round(store, len(copied) + 2)
            store._writer.submit(store._write, store._ledger.take(), None).result()

        put_round(store, 2)
        await store.commit()
        prepared = store._journal.prepare(compaction.tables)
        monkeypatch.setattr(Tail, "copy", copy_and_commit)
        store._journal.follow(prepared, generation, since)
        monkeypatch.undo()
        assert len(copied) == journal.ROUNDS
        store._finish(compaction, prepared)
        assert look(copy_files(store, tmp_path / "live", tmp_path / "copy")) == content_after(len(copied) + 2)
        await store.close()

    asyncio.run(main())


@pytest.mark.parametrize("operation", ["sync", "sync_folder"])
def test_another_store_that_is_put_in_place_meanwhile_is_left_alone(tmp_path, monkeypatch, operation):
    """Held before it makes the new journal, or after; the other store has a journal of the same generation."""
    monkeypatch.setattr(journal, "MIN_COMPACTION_SIZE", 600)

    async def make_other() -> None:
        await TinyStore.open(tmp_path / "other", files=QuickFileSystem()).close()
        store = TinyStore.open(tmp_path / "other", files=QuickFileSystem())
        put_round(store, 1)
        await store.close()
        store = TinyStore.open(tmp_path / "other", files=QuickFileSystem())
        assert store._journal.generation == 2
        put_round(store, 2)
        await store.commit()
        store._journal.close()

    async def main() -> None:
        store, files, _ = await being_compacted(tmp_path / "live", operation)
        (tmp_path / "live").rename(tmp_path / "away")
        shutil.copytree(tmp_path / "other", tmp_path / "live", ignore=shutil.ignore_patterns("*.lock"))
        files.let_go.set()
        wait_for_threads(store)
        with suppress(StoreUnavailable):
            await store.close()
        assert look(tmp_path / "live") == content_after(2)

    asyncio.run(make_other())
    asyncio.run(main())


def test_nothing_is_left_of_a_compaction_that_fails_in_any_way(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(journal, "MIN_COMPACTION_SIZE", 600)

    def fail(*_: object) -> None:
        raise MemoryError("none left")

    async def main() -> None:
        store = TinyStore.open(tmp_path, files=QuickFileSystem())
        monkeypatch.setattr(Tail, "__init__", fail)
        for number in range(1, 12):
            put_round(store, number)
            await store.commit()
            wait_for_threads(store)
        assert 1 < caplog.text.count("none left") < 11
        assert sorted(path.name for path in tmp_path.iterdir()) == [
            "puppetmaster.journal.1", "puppetmaster.json", "puppetmaster.lock",
        ]  # fmt: skip
        await store.close()

    asyncio.run(main())


def test_an_opening_that_can_start_no_thread_is_refused_and_lets_go(tmp_path, monkeypatch):
    def fail(*_: object) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", fail)
        with pytest.raises(StoreUnavailable, match="can't start new thread"):
            TinyStore.open(tmp_path)
    asyncio.run(TinyStore.open(tmp_path).close())


def test_a_commit_that_does_not_come_back_from_the_disk_ends_a_compaction(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(journal, "MIN_COMPACTION_SIZE", 600)

    async def main() -> None:
        store, files, number = await being_compacted(tmp_path / "live", "sync")
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
