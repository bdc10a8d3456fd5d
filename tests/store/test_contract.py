"""What every store owes to its users, asked of each of them."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path

import pytest

from puppetmaster.errors import StoreUnavailable
from puppetmaster.store import MemoryStore, Store, TinyStore
from tests.store.faulty import FaultyFileSystem, always


class MemoryBench:
    """Opens memory stores, and plays crashes and failing disks on them."""

    def __init__(self) -> None:
        self.store = MemoryStore()

    def crash(self) -> Store:
        self.store = self.store.reopen()
        return self.store

    def fail(self, failing: bool) -> None:
        self.store.failing = "disk full" if failing else None

    def slow(self) -> AbstractContextManager[None]:
        return nullcontext()

    def written(self) -> int:
        return self.store.commits


class TinyBench:
    """The same for stores on a disk."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.files = folder, FaultyFileSystem()
        self.store = TinyStore.open(folder, files=self.files)

    def crash(self) -> Store:
        # Letting go of the files without a commit leaves what a kill leaves.
        self.store._journal.close()
        self.store = TinyStore.open(self.folder, files=self.files)
        return self.store

    def fail(self, failing: bool) -> None:
        self.files.before = always("write", "sync") if failing else None

    @contextmanager
    def slow(self) -> Iterator[None]:
        """Nothing is written as long as the block runs."""
        let_go = threading.Event()
        self.store._writer.submit(let_go.wait)
        yield
        let_go.set()

    def written(self) -> int:
        return self.store._journal._sequence


@pytest.fixture(params=["memory", "tiny"])
def bench(request, tmp_path):
    bench = MemoryBench() if request.param == "memory" else TinyBench(tmp_path)
    yield bench
    bench.fail(False)
    asyncio.run(bench.store.close())


@pytest.fixture
def store(bench) -> Store:
    return bench.store


def test_what_was_put_is_seen_at_once(store):
    store.put("jobs", {1: {"a": 1}, 2: {"a": 2}})
    assert store.get("jobs", 1) == {"a": 1}
    assert list(store.scan("jobs")) == [(1, {"a": 1}), (2, {"a": 2})]
    assert store.count("jobs") == 2


def test_put_replaces_and_keeps_the_place(store):
    store.put("jobs", {1: {"a": 1}, 2: {"a": 2}})
    store.put("jobs", {1: {"b": 3}})
    assert list(store.scan("jobs")) == [(1, {"b": 3}), (2, {"a": 2})]


def test_unknown_tables_and_ids_are_empty(store):
    store.remove("jobs", [1, 2])
    assert store.get("jobs", 1) is None
    assert list(store.scan("jobs")) == list(store.scan("jobs", [1])) == []
    assert store.count("jobs") == 0


def test_remove_ignores_what_is_not_there(store):
    store.put("jobs", {1: {}, 2: {}})
    store.remove("jobs", iter([2, 3, 2]))
    assert list(store.scan("jobs")) == [(1, {})]


def test_scan_gives_the_ids_asked_for_in_their_order(store):
    store.put("jobs", {number: {"n": number} for number in range(10)})
    assert [doc_id for doc_id, _ in store.scan("jobs", [7, 99, 3, 5])] == [7, 3, 5]


def test_scan_shows_the_moment_of_the_call(store):
    store.put("jobs", {1: {"a": 1}, 2: {"a": 2}})
    everything, some = store.scan("jobs"), store.scan("jobs", [2])
    store.put("jobs", {1: {"a": 9}, 3: {}})
    store.remove("jobs", [2])
    assert list(everything) == [(1, {"a": 1}), (2, {"a": 2})]
    assert list(some) == [(2, {"a": 2})]


def test_what_was_read_is_a_copy(store):
    store.put("jobs", {1: {"list": [1]}})
    store.get("jobs", 1)["list"].append(2)
    next(store.scan("jobs"))[1]["list"].append(2)
    assert store.get("jobs", 1) == {"list": [1]}


def test_what_was_put_is_a_copy(store):
    document = {"list": [1]}
    store.put("jobs", {1: document})
    document["list"].append(2)
    assert store.get("jobs", 1) == {"list": [1]}


BAD_DOCUMENTS = [
    {"a": 2**64},
    {"a": float("nan"), "b": None},
    {"a": [{"b": (float("inf"),)}]},
    {"a": "\ud800"},
    {1: "a"},
    {"a": object()},
    {"a": {1, 2}},
    ["no", "object"],
    None,
]


@pytest.mark.parametrize("document", BAD_DOCUMENTS)
def test_a_document_that_json_cannot_hold_is_refused_whole(store, document):
    store.put("jobs", {1: {"a": 1}})
    with pytest.raises(ValueError):
        store.put("jobs", {1: {"a": 2}, 2: document})
    assert list(store.scan("jobs")) == [(1, {"a": 1})]


@pytest.mark.parametrize("doc_id", [2**63, -(2**63) - 1, "1", 1.0, True, None])
def test_an_id_that_is_no_64_bit_integer_is_refused(store, doc_id):
    with pytest.raises(ValueError):
        store.put("jobs", {doc_id: {}})
    assert store.count("jobs") == 0


@pytest.mark.parametrize("table", ["_journal", "\ud800", "a\nb", 5])
def test_a_table_name_that_cannot_be_kept_is_refused(store, table):
    with pytest.raises(ValueError):
        store.put(table, {1: {}})
    asyncio.run(store.commit())


def test_what_is_hard_for_json_comes_back(bench):
    document = {
        "text": 'é "quoted" \\ \n\r\t\0 \u2028 😀',
        "numbers": [2**63, -(2**63), 0.1, 1e300, -0.0],
        "": {"null": None, "yes": True, "none": []},
        'PMJ1 00000001 00000001 00000000 00000000\n],["jobs",null]': [],
    }
    bench.store.put('a "table",', {-(2**63): document, 2**63 - 1: document})
    asyncio.run(bench.store.commit())
    store = bench.crash()
    assert list(store.scan('a "table",')) == [(-(2**63), document), (2**63 - 1, document)]


def test_what_was_committed_survives_a_crash(bench):
    bench.store.put("jobs", {1: {"a": 1}, 2: {"a": 2}, 3: {"a": 3}})
    asyncio.run(bench.store.commit())
    bench.store.remove("jobs", [1])
    bench.store.put("jobs", {2: {"a": 9}, 1: {"a": 7}})
    asyncio.run(bench.store.commit())
    assert list(bench.crash().scan("jobs")) == [(2, {"a": 9}), (3, {"a": 3}), (1, {"a": 7})]


def test_what_was_not_committed_does_not(bench):
    bench.store.put("jobs", {1: {"a": 1}})
    asyncio.run(bench.store.commit())
    bench.store.put("jobs", {1: {"a": 2}})
    bench.store.remove("jobs", [1])
    assert list(bench.crash().scan("jobs")) == [(1, {"a": 1})]


def test_a_closed_store_has_committed(bench):
    bench.store.put("jobs", {1: {"a": 1}})
    asyncio.run(bench.store.close())
    assert bench.crash().get("jobs", 1) == {"a": 1}


def test_everybody_who_waits_shares_a_commit(bench):
    async def commit_one(number: int) -> None:
        bench.store.put("jobs", {number: {}})
        await bench.store.commit()

    async def commit_all() -> None:
        with bench.slow():
            commits = [asyncio.create_task(commit_one(number)) for number in range(100)]
            await asyncio.sleep(0)  # all of them wait by now
        await asyncio.gather(*commits)

    asyncio.run(commit_all())
    assert bench.store.count("jobs") == 100
    if isinstance(bench, TinyBench):
        assert bench.written() == 2, "the first leaves alone"


def test_a_commit_without_changes_writes_nothing(bench):
    async def commit_twice() -> None:
        bench.store.put("jobs", {1: {}})
        await bench.store.commit()
        before = bench.written()
        await bench.store.commit()
        assert bench.written() == before

    asyncio.run(commit_twice())


def test_a_caller_who_gives_up_does_not_disturb_the_others(bench):
    async def scenario() -> None:
        bench.store.put("jobs", {1: {}})
        impatient = asyncio.ensure_future(bench.store.commit())
        patient = asyncio.ensure_future(bench.store.commit())
        await asyncio.sleep(0)
        impatient.cancel()
        await patient
        assert impatient.cancelled()

    asyncio.run(scenario())
    assert bench.crash().count("jobs") == 1


def test_a_loop_that_dies_in_the_middle_of_a_commit_leaves_the_store_usable(bench):
    async def leave_early() -> None:
        bench.store.put("jobs", {1: {}})
        asyncio.ensure_future(bench.store.commit())  # noqa: RUF006
        await asyncio.sleep(0)
        await asyncio.sleep(0)

    asyncio.run(leave_early())
    asyncio.run(bench.store.commit())
    assert bench.crash().count("jobs") == 1


def test_a_commit_that_fails_says_so_and_loses_nothing(bench):
    async def scenario() -> None:
        bench.store.put("jobs", {1: {"a": 1}})
        await bench.store.commit()
        bench.fail(True)
        bench.store.put("jobs", {1: {"a": 2}})
        for _ in range(3):
            with pytest.raises(StoreUnavailable) as refused:
                await bench.store.commit()
            assert refused.value.reason
        bench.store.put("jobs", {2: {}})
        assert bench.store.get("jobs", 1) == {"a": 2}
        bench.fail(False)
        await bench.store.commit()

    asyncio.run(scenario())
    assert list(bench.crash().scan("jobs")) == [(1, {"a": 2}), (2, {})]


def test_everybody_who_shares_a_failed_commit_is_told(bench):
    async def scenario() -> None:
        bench.fail(True)
        bench.store.put("jobs", {1: {}})
        results = await asyncio.gather(*(bench.store.commit() for _ in range(5)), return_exceptions=True)
        assert [type(result) for result in results] == [StoreUnavailable] * 5
        assert len({id(result) for result in results}) == 5

    asyncio.run(scenario())


def test_a_closed_store_can_be_read_but_not_changed(store):
    store.put("jobs", {1: {"a": 1}})
    asyncio.run(store.close())
    asyncio.run(store.close())
    with pytest.raises(StoreUnavailable):
        store.put("jobs", {1: {}})
    with pytest.raises(StoreUnavailable):
        store.remove("jobs", [1])
    with pytest.raises(StoreUnavailable):
        asyncio.run(store.commit())
    assert store.get("jobs", 1) == {"a": 1}
