"""Rows in a snapshot file: the same as in memory, read when asked for, and never a wrong document."""

from __future__ import annotations

import asyncio
import errno
import shutil
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from puppetmaster.errors import FileUnavailable, StoreCorrupt, StoreUnavailable
from puppetmaster.store import TinyStore, journal, rows
from puppetmaster.store.compaction import Compaction
from puppetmaster.store.rows import Rows
from tests.store.faulty import FaultyFileSystem, QuickFileSystem, always
from tests.store.workload import wait_for_threads

SNAPSHOT = "puppetmaster.json"


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch):
    """A few rows fill a block, and no table is so small that it stays in memory."""
    monkeypatch.setattr(rows, "BLOCK_SIZE", 150)
    monkeypatch.setattr("puppetmaster.store.snapshot.BLOCK_SIZE", 150)
    monkeypatch.setattr(rows, "PINNED_SIZE", 0)


def text(number: int) -> dict:
    return {"text": f"document {number} é\n" * 2}


def stored(folder: Path, documents: dict[int, dict], files=None) -> TinyStore:
    """A store whose documents all lie in the snapshot."""
    store = TinyStore.open(folder, files=QuickFileSystem())
    store.put("requests", documents)
    asyncio.run(store.close())
    return TinyStore.open(folder, files=files or QuickFileSystem())


async def compact(store: TinyStore) -> None:
    """Have a commit that is followed by a compaction, and wait for both."""
    store._journal._limit = -1
    store.put("other", {1: {}})
    await store.commit()
    wait_for_threads(store)


IDS = st.integers(-2, 40)
STEPS = st.one_of(
    st.tuples(st.just("put"), st.lists(IDS, min_size=1, max_size=6), st.integers(0, 9)),
    st.tuples(st.just("remove"), st.lists(IDS, max_size=6), st.none()),
    st.tuples(st.sampled_from(["commit", "compact", "fail", "reopen", "begin", "end"]), st.none(), st.none()),
)


@settings(max_examples=60, deadline=None)
@given(steps=st.lists(STEPS, max_size=40))
def test_they_behave_like_a_dict_across_compactions_that_succeed_or_fail_and_restarts(tmp_path_factory, steps):
    folder = tmp_path_factory.mktemp("store")
    model: dict[int, dict] = {}

    async def scenario() -> None:
        begun = None
        files = FaultyFileSystem()
        files.sync = files.sync_folder = lambda _: None
        store = TinyStore.open(folder, files=files)
        for name, ids, value in [*steps, ("end", None, None)]:
            if begun and name in ("compact", "fail", "reopen"):
                name = "end"
            if name == "put":
                documents = {number: {**text(number), "value": value} for number in ids}
                model.update(documents)
                store.put("requests", documents)
            elif name == "remove":
                store.remove("requests", ids)
                for number in ids:
                    model.pop(number, None)
            elif name == "commit":
                await store.commit()
            elif name in ("compact", "fail"):
                files.before = always("replace") if name == "fail" else None
                # The rename decides whether the journal is trusted afterwards: then the next commit is refused, too.
                with suppress(StoreUnavailable):
                    await compact(store)
                files.before = None
            elif name == "begin" and not begun:
                await store.commit()
                if store._journal.trusted:
                    begun = store._compaction = Compaction(store._freeze())
                    since = store._journal.generation, store._journal.size
            elif name == "end" and begun:
                # What was put, removed and committed since the beginning came while the snapshot was written.
                store._compact(begun, *since)
                wait_for_threads(store)
                begun = None
            elif name == "reopen":
                await store.close()
                store = TinyStore.open(folder, files=files)
            check(store)
        await store.commit()
        await store.close()
        store = TinyStore.open(folder, files=files)
        check(store)
        await store.close()

    def check(store: TinyStore) -> None:
        assert list(store.scan("requests")) == list(model.items())
        assert store.count("requests") == len(model)
        for number in range(-2, 41):
            assert store.get("requests", number) == model.get(number)
        assert list(store.scan("requests", [7, 3])) == [(n, model[n]) for n in (7, 3) if n in model]

    asyncio.run(scenario())
    shutil.rmtree(folder)


def test_memory_holds_what_changed_since_the_snapshot_and_one_block(tmp_path):
    for count in (100, 1000):
        store = stored(tmp_path / str(count), {number: text(number) for number in range(count)})
        table = store._ledger.tables["requests"]
        assert table.size_in_memory == 0
        assert sum(1 for _ in store.scan("requests")) == count
        store.get("requests", 50)
        assert 0 < table.size_in_memory < 400
        asyncio.run(store.close())


def test_after_a_compaction_nothing_of_it_is_in_memory(tmp_path):
    store = TinyStore.open(tmp_path, files=QuickFileSystem())
    store.put("requests", {number: text(number) for number in range(100)})
    assert store._ledger.tables["requests"].size_in_memory > 3000
    asyncio.run(compact(store))
    assert store._ledger.tables["requests"].size_in_memory == 0
    assert store.get("requests", 99) == text(99)
    asyncio.run(store.close())


def test_a_small_table_stays_in_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(rows, "PINNED_SIZE", 10_000)
    files = FaultyFileSystem()
    store = stored(tmp_path, {1: text(1)}, files)
    files.before = always("read")
    assert store.get("requests", 1) == text(1)
    files.before = None
    asyncio.run(store.close())


@pytest.mark.parametrize("ids", [[5, 3, 9, 1], [*range(50, 0, -1)], [1, 2, 3, 9, 4]], ids=str)
def test_ids_need_not_ascend(tmp_path, ids, monkeypatch):
    monkeypatch.setattr(rows, "_SORTED_AT_ONCE", 3)
    store = stored(tmp_path, {number: text(number) for number in ids})
    assert [number for number, _ in store.scan("requests")] == ids
    assert [store.get("requests", number) for number in range(-1, 52)] == [
        text(number) if number in ids else None for number in range(-1, 52)
    ]
    asyncio.run(store.close())


def test_a_scan_shows_the_moment_of_its_call_whatever_is_put_and_compacted_meanwhile(tmp_path):
    documents = {number: text(number) for number in range(60)}
    store = stored(tmp_path, documents)

    async def scenario() -> None:
        everything, some = store.scan("requests"), store.scan("requests", [50, 3])
        seen = [next(everything) for _ in range(10)]
        store.put("requests", {number: {"new": number} for number in range(0, 90, 2)})
        store.remove("requests", [3, 51])
        await compact(store)
        store.put("requests", {50: {"newer": 1}})
        await compact(store)
        assert [*seen, *everything] == list(documents.items())
        assert list(some) == [(50, text(50)), (3, text(3))]
        assert store.count("requests") == 73
        await store.close()

    asyncio.run(scenario())


def test_they_are_read_when_the_folder_is_gone_and_go_to_the_one_that_takes_its_place(tmp_path):
    documents = {number: text(number) for number in range(60)}
    store = stored(tmp_path / "data", documents)

    async def scenario() -> None:
        shutil.rmtree(tmp_path / "data")
        assert dict(store.scan("requests")) == documents
        store.remove("requests", [3])
        with pytest.raises(StoreUnavailable):
            await store.commit()
        (tmp_path / "data").mkdir()
        await store.commit()
        await store.close()

    asyncio.run(scenario())
    store = TinyStore.open(tmp_path / "data")
    assert list(store.scan("requests")) == [item for item in documents.items() if item[0] != 3]
    asyncio.run(store.close())


def test_a_disk_that_does_not_read_is_told_and_goes_on_when_it_does(tmp_path):
    files = FaultyFileSystem()
    store = stored(tmp_path, {number: text(number) for number in range(60)}, files)
    files.before = always("read")
    with pytest.raises(FileUnavailable, match=r"can't read .*json: Input/output error at byte \d+") as told:
        store.get("requests", 40)
    assert told.value.code == 503
    with pytest.raises(FileUnavailable):
        list(store.scan("requests"))
    # New documents and removals need no reading.
    store.put("requests", {40: {"new": 1}, 99: {}})
    store.remove("requests", [41])
    asyncio.run(store.commit())
    assert (store.get("requests", 40), store.get("requests", 41)) == ({"new": 1}, None)
    asyncio.run(compact(store))
    assert not (tmp_path / f"{SNAPSHOT}.tmp").exists()
    files.before = None
    assert store.get("requests", 42) == text(42)
    asyncio.run(store.close())
    store = TinyStore.open(tmp_path)
    assert store.count("requests") == 60
    asyncio.run(store.close())


def test_an_opening_that_cannot_read_is_unavailable(tmp_path):
    asyncio.run(stored(tmp_path, {1: text(1)}).close())
    with pytest.raises(StoreUnavailable, match=r"can't read .*Input/output error"):
        TinyStore.open(tmp_path, files=FaultyFileSystem(before=always("read", code=errno.EIO)))


@pytest.mark.parametrize("how", ["flipped", "cut"])
def test_a_file_that_is_damaged_while_it_is_open_gives_an_error_and_no_new_seal(tmp_path, how):
    store = stored(tmp_path, {number: text(number) for number in range(60)})
    path = tmp_path / SNAPSHOT
    content = path.read_bytes()
    place = content.index(b"document 40")
    with path.open("r+b") as file:
        if how == "cut":
            file.truncate(place)
        else:
            file.seek(place)
            file.write(b"D")
    assert store.get("requests", 5) == text(5)
    with pytest.raises(StoreCorrupt) as told:
        store.get("requests", 40)
    assert Path(told.value.path) == path
    assert 0 < told.value.offset <= place

    async def scenario() -> None:
        before = path.read_bytes()
        await compact(store)
        assert path.read_bytes() == before
        assert not (tmp_path / f"{SNAPSHOT}.tmp").exists()
        store._journal.trusted = False
        with pytest.raises(StoreUnavailable, match="is damaged at byte"):
            await store.commit()
        store._journal.close()

    asyncio.run(scenario())


def test_what_another_program_wrote_is_in_the_file_at_once(tmp_path):
    (tmp_path / SNAPSHOT).write_text('{"requests": {"9": {"a": 1}, "2": {"a": null}}, "empty": {}}')
    store = TinyStore.open(tmp_path)
    assert store._ledger.tables["requests"].size_in_memory == 0
    assert list(store.scan("requests")) == [(9, {"a": 1}), (2, {"a": None})]
    assert store.db.tables() == {"requests", "empty"}
    asyncio.run(store.close())


def test_blocks_that_nobody_touched_are_copied_and_small_ones_are_put_together(tmp_path):
    store = stored(tmp_path, {number: text(number) for number in range(200)})

    def blocks() -> list[rows.Block]:
        base = store._ledger.tables["requests"]._base
        assert isinstance(base, rows.StoredRows)
        return base.blocks

    before = blocks()
    store.put("requests", {100: {"new": 1}})
    asyncio.run(compact(store))
    shared = sum(any(block.ids is old.ids for old in before) for block in blocks())
    assert len(before) - 5 < shared < len(before)
    for number in range(200, 230):
        store.put("requests", {number: {}})
        asyncio.run(compact(store))
    assert len(blocks()) < len(before) + 10
    assert [number for number, _ in store.scan("requests")] == list(range(230))
    asyncio.run(store.close())


def test_the_journal_is_compacted_before_it_holds_more_than_fits_the_memory(monkeypatch):
    monkeypatch.setattr(journal, "MIN_COMPACTION_SIZE", 10)
    monkeypatch.setattr(journal, "MAX_COMPACTION_SIZE", 100)
    assert [journal._limit(size) for size in (1, 20, 1000)] == [10, 40, 100]


def test_a_removed_row_is_never_looked_for_below():
    table = Rows()
    table.put({1: b"{}", 2: b"{}"})
    table.freeze()
    assert table.discard(1)
    assert not table.discard(1)
    table[1] = b'{"a":1}'
    assert list(table.items()) == [(2, b"{}"), (1, b'{"a":1}')]
    del table[2]
    with pytest.raises(KeyError):
        del table[2]
    assert list(table) == [1]
    assert 2 not in table


def test_what_a_journal_holds_goes_to_the_snapshot_when_there_is_nothing_else_to_do(tmp_path, monkeypatch):
    monkeypatch.setattr(journal, "MIN_QUIET_SIZE", 500)
    monkeypatch.setattr("puppetmaster.store.tiny.QUIET", 0.0)

    async def main() -> None:
        store = TinyStore.open(tmp_path, files=QuickFileSystem())
        store.put("requests", {1: text(1)})
        await store.commit()
        await asyncio.sleep(0.05)
        assert store._journal.size > 0, "a small one is not worth it"
        for number in range(2, 20):
            store.put("requests", {number: text(number)})
        await store.commit()
        await asyncio.sleep(0.05)  # its turn comes in the next round of the loop
        wait_for_threads(store)
        assert store._journal.size == 0
        assert store._ledger.rows("requests").size_in_memory < 1000
        store.put("requests", {20: text(20)})
        await store.commit()
        assert [number for number, _ in store.scan("requests")] == list(range(1, 21))
        await store.close()

    asyncio.run(main())


def test_nothing_is_compacted_by_the_way_that_is_not_committed(tmp_path, monkeypatch):
    monkeypatch.setattr(journal, "MIN_QUIET_SIZE", 0)

    async def main() -> None:
        store = TinyStore.open(tmp_path, files=QuickFileSystem())
        store.put("requests", {1: text(1)})
        await store.commit()
        size = store._journal.size
        store.put("requests", {2: text(2)})
        store._tidy()
        wait_for_threads(store)
        assert store._journal.size == size
        await store.commit()
        store._tidy()
        wait_for_threads(store)
        assert store._journal.size == 0
        await store.close()

    asyncio.run(main())
