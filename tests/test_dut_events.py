"""The events of agents: kept in a store, in bounds."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import pytest

from puppetmaster.dut import events as module
from puppetmaster.dut.events import EVENTS, MAX_EVENTS, EventLog
from puppetmaster.errors import InvalidDocument, StoreUnavailable
from puppetmaster.store import MemoryStore, TinyStore


def run(work: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(work, 60))


def make(store: Any, *agents: str) -> EventLog:
    log = EventLog(store, lambda: 1.0)
    log.load(agents)
    return log


def test_the_newest_512_are_kept_in_their_order() -> None:
    async def main() -> None:
        store = MemoryStore()
        log = make(store, "a", "b")
        for number in range(MAX_EVENTS + 10):
            await log.add("a", {"n": number})
        await log.add("b", "other")
        assert log.of("a") == [{"n": number} for number in range(10, MAX_EVENTS + 10)]
        assert log.of("b") == ["other"]
        assert log.of("nobody") == []
        assert store.count(EVENTS) == MAX_EVENTS + 1

    run(main())


def test_they_are_on_disk_when_they_are_acknowledged(tmp_path: Path) -> None:
    async def main() -> None:
        store = TinyStore.open(tmp_path)
        await make(store, "a").add("a", [None, 1.0, "x"])
        await store.close()
        again = TinyStore.open(tmp_path)
        log = make(again, "a")
        assert log.of("a") == [[None, 1.0, "x"]]
        await log.add("a", "next")
        assert log.of("a") == [[None, 1.0, "x"], "next"]
        await again.close()

    run(main())


def test_those_of_agents_that_are_gone_go_too() -> None:
    async def main() -> None:
        store = MemoryStore()
        log = make(store, "a", "b")
        await log.add("a", 1)
        await log.add("b", 2)
        log.forget("a")
        assert (log.of("a"), log.of("b")) == ([], [2])
        await store.commit()
        again = make(store.reopen(), "c")
        assert again.of("b") == []
        assert store.count(EVENTS) == 1

    run(main())


def test_large_ones_make_room_sooner(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_AGENT_BYTES", 1000)

    async def main() -> None:
        log = make(MemoryStore(), "a")
        for number in range(20):
            await log.add("a", f"{number:0100d}")
        assert log.of("a") == [f"{number:0100d}" for number in range(11, 20)]

    run(main())


def test_beyond_the_whole_measure_the_largest_loses_the_oldest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_BYTES", 1000)

    async def main() -> None:
        log = make(MemoryStore(), "noisy", "quiet")
        await log.add("quiet", "kept")
        for number in range(50):
            await log.add("noisy", f"{number:0100d}")
        assert log.of("quiet") == ["kept"]
        assert log.of("noisy")[-1] == f"{49:0100d}"
        assert len(log.of("noisy")) == 9

    run(main())


def test_one_that_could_not_be_written_is_not_kept() -> None:
    async def main() -> None:
        store = MemoryStore()
        log = make(store, "a")
        await log.add("a", 1)
        store.failing = "disk full"
        with pytest.raises(StoreUnavailable):
            await log.add("a", 2)
        store.failing = None
        await log.add("a", 3)
        assert log.of("a") == [1, 3]
        assert make(store.reopen(), "a").of("a") == [1, 3]

    run(main())


@pytest.mark.parametrize("content", [float("nan"), 2**64, "\ud800", float("inf")])
def test_what_could_not_be_read_back_is_refused(content: Any) -> None:
    async def main() -> None:
        log = make(MemoryStore(), "a")
        with pytest.raises(InvalidDocument):
            await log.add("a", content)
        assert log.of("a") == []

    run(main())
