"""What the agent remembers, through kills, full disks and rewrites."""

from __future__ import annotations

import asyncio
import shutil
import tracemalloc
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from puppetmaster.agent import memory as module
from puppetmaster.agent.memory import Memory
from puppetmaster.agent.order import Order
from puppetmaster.errors import FileUnavailable, StoreLocked
from puppetmaster.store.files import FileSystem


def order(ident: int, data: Any = None) -> Order:
    return Order(id=ident, tunnel="/t", method="post", resource="/agent/commands", data=data)


def run(folder: Path, work: Callable[[Memory], Awaitable[Any]], **options: Any) -> Any:
    """One life."""

    async def main() -> Any:
        memory = Memory(folder, **options)
        try:
            return await work(memory)
        finally:
            await memory.close()

    return asyncio.run(main())


def state(folder: Path) -> dict[int, Any]:
    """What a next life knows: code, data, facts and whether it was delivered, by id."""

    async def read(memory: Memory) -> dict[int, Any]:
        entries = {**{each.key: each for each in memory.unfinished()}, **dict(memory._index.entries.items())}
        return {
            entry.key[0]: (entry.code, await memory.data(entry), dict(entry.facts), entry.delivered)
            for entry in entries.values()
        }

    return run(folder, read)


def test_what_was_begun_noted_done_and_delivered_is_known_in_the_next_life(tmp_path: Path) -> None:
    async def work(memory: Memory) -> None:
        entry = await memory.begin(order(1, {"a": 1}), boot="x")
        await memory.note(entry, stop="cancel")
        await memory.begin(order(2))
        await memory.done(order(2), 200, {"b": "é"})
        await memory.done(order(3), 499, None)
        memory.delivered((3, "/t"))
        await memory.begin(order(4))
        await memory.forget((4, "/t"))

    run(tmp_path, work)
    assert state(tmp_path) == {
        1: (None, {"a": 1}, {"boot": "x", "stop": "cancel"}, False),
        2: (200, {"b": "é"}, {}, False),
        3: (499, None, {}, True),
    }

    async def look(memory: Memory) -> None:
        assert [entry.key[0] for entry in memory.unfinished()] == [1]
        assert [entry.key[0] for entry in memory.undelivered()] == [2]
        assert memory.find((2, "/other")) is None
        entry = memory.find((1, "/t"))
        assert entry is not None and entry.order({"x": 1}) == order(1, {"x": 1})

    run(tmp_path, look)


@pytest.mark.parametrize("code", [408, 423, 429, 503])
def test_a_transient_answer_is_not_remembered(tmp_path: Path, code: int) -> None:
    async def work(memory: Memory) -> None:
        await memory.begin(order(1))
        assert await memory.done(order(1), code, None) is None
        assert memory.find((1, "/t")) is None

    run(tmp_path, work)
    assert state(tmp_path) == {}


def test_a_file_that_ends_at_any_byte_holds_what_was_complete(tmp_path: Path) -> None:
    folder = tmp_path / "whole"
    ends = []

    async def work(memory: Memory) -> None:
        for ident in range(1, 4):
            entry = await memory.begin(order(ident, {"text": "x" * ident}))
            ends.append(memory._journal.size)
            if ident % 2:
                await memory.note(entry, n=ident)
                ends.append(memory._journal.size)
                await memory.done(order(ident), 200, {"stdout": "é\n" * ident})
                ends.append(memory._journal.size)

    run(folder, work)
    whole = (folder / "memory.jsonl").read_bytes()
    states, known = {}, None
    for size in range(len(whole) + 1):
        torn = tmp_path / "torn"
        shutil.rmtree(torn, ignore_errors=True)
        torn.mkdir()
        (torn / "memory.jsonl").write_bytes(whole[:size])
        states[size] = state(torn)
        if size in (0, *ends):
            known = states[size]
        assert states[size] == known, size
        assert (torn / "memory.jsonl").stat().st_size == max([0, *(end for end in ends if end <= size)])
        if size % 9 == 0:
            # What comes after a cut end is whole again.
            run(torn, lambda memory: memory.done(order(99), 200, None))
            assert state(torn) == {**states[size], 99: (200, None, {}, False)}
    assert len(known or {}) == 3


def test_rubbish_at_any_byte_costs_no_more_than_its_line(tmp_path: Path) -> None:
    async def work(memory: Memory) -> None:
        for ident in range(1, 4):
            await memory.done(order(ident), 200, "x")

    run(tmp_path, work)
    path = tmp_path / "memory.jsonl"
    whole = path.read_bytes()
    for place in range(len(whole)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0x55]) + whole[place + 1 :])
        assert len(state(tmp_path)) >= (1 if whole[place : place + 1] == b"\n" else 2)


def test_it_is_written_anew_when_it_has_grown_and_keeps_what_is_needed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MIN_REWRITE_BYTES", 4096)

    async def work(memory: Memory) -> None:
        await memory.begin(order(1, {"kept": True}), boot="x")
        await memory.done(order(2), 200, "nobody has it")
        for ident in range(100, 600):
            await memory.begin(order(ident, {"text": "x" * 100}))
            entry = await memory.done(order(ident), 200, "y" * 100)
            memory.delivered((ident, "/t"))
            assert entry and await memory.data(entry) == "y" * 100
        assert memory._journal.size < 10_000

    run(tmp_path, work, keep=10)
    left = state(tmp_path)
    assert left[1] == (None, {"kept": True}, {"boot": "x"}, False)
    assert left[2] == (200, "nobody has it", {}, False)
    assert {ident for ident in left if ident >= 100} >= set(range(590, 600))
    assert not (tmp_path / "memory.jsonl.tmp").exists()


def test_no_more_answers_are_kept_than_wanted_and_none_that_nobody_has(tmp_path: Path) -> None:
    async def work(memory: Memory) -> None:
        for ident in range(20):
            await memory.done(order(ident), 200, "x" * 1000)
            if ident:
                memory.delivered((ident, "/t"))
        assert [key[0] for key in memory._index.entries] == [0, 15, 16, 17, 18, 19]

    run(tmp_path, work, keep=5)
    run(tmp_path / "bytes", work, keep_bytes=5 * 1100)


class Faulty(FileSystem):
    """Fails when it is told to, and counts what it syncs."""

    def __init__(self) -> None:
        self.fault = ""
        self.syncs = 0

    def write(self, descriptor: int, data: memoryview) -> int:
        if self.fault == "write":
            # Half of it gets there, as on a disk that is full.
            if len(data) > 20:
                return super().write(descriptor, data[: len(data) // 2])
            raise OSError(28, "No space left on device")
        return super().write(descriptor, data)

    def sync(self, descriptor: int) -> None:
        self.syncs += 1
        if self.fault == "sync":
            self.fault = ""
            raise OSError(5, "Input/output error")
        super().sync(descriptor)


@pytest.mark.parametrize("fault", ["write", "sync"])
def test_what_could_not_be_written_was_not_begun(tmp_path: Path, fault: str) -> None:
    files = Faulty()

    async def work(memory: Memory) -> None:
        await memory.begin(order(1))
        files.fault = fault
        with pytest.raises(FileUnavailable):
            await memory.begin(order(2))
        assert memory.find((2, "/t")) is None
        files.fault = ""
        await memory.begin(order(3))

    run(tmp_path, work, files=files)
    assert list(state(tmp_path)) == [1, 3]


def test_an_answer_that_could_not_be_written_is_known_until_it_can_be(tmp_path: Path) -> None:
    files = Faulty()

    async def work(memory: Memory) -> None:
        await memory.begin(order(1, "asked"))
        files.fault = "write"
        with pytest.raises(FileUnavailable):
            await memory.done(order(1), 200, "done")
        entry = memory.find((1, "/t"))
        assert entry is not None and entry.code == 200 and await memory.data(entry) == "done"
        files.fault = ""
        await memory.done(order(1), 200, "done")

    run(tmp_path, work, files=files)
    assert state(tmp_path) == {1: (200, "done", {}, False)}


def test_many_at_once_share_a_sync(tmp_path: Path) -> None:
    files = Faulty()

    async def work(memory: Memory) -> None:
        before = files.syncs
        await asyncio.gather(*(memory.begin(order(ident)) for ident in range(100)))
        assert files.syncs - before <= 2

    run(tmp_path, work, files=files)
    assert len(state(tmp_path)) == 100


def test_thousands_of_answers_take_little_memory(tmp_path: Path) -> None:
    count = 3000

    async def work(memory: Memory) -> None:
        orders = [Order(id=10**6 + each, tunnel="/remote/press-7/answer/abcdefgh", method="post",
                        resource="/agent/commands") for each in range(count)]  # fmt: skip
        await asyncio.gather(*(memory.begin(each, boot="x" * 36, waiting=False, bare=[]) for each in orders))
        await asyncio.gather(*(memory.done(each, 200, {"stdout": "x" * 200}) for each in orders))
        for each in orders:
            memory.delivered(each.key)

    run(tmp_path, work)
    tracemalloc.start()
    memory = Memory(tmp_path)
    taken, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    asyncio.run(memory.close())
    assert taken / count < 550, "bytes each: an agent with 10,000 of them is to be small"


def test_one_process_at_a_time(tmp_path: Path) -> None:
    async def work(memory: Memory) -> None:
        with pytest.raises(StoreLocked):
            Memory(tmp_path)

    run(tmp_path, work)


def test_a_folder_that_can_not_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(FileUnavailable):
        Memory(tmp_path / "file" / "folder")
