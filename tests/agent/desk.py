"""A worker in this process, with somebody who gives it orders and waits for what comes of them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from puppetmaster.agent.memory import Memory
from puppetmaster.agent.order import Key, Order, Reply
from puppetmaster.agent.output import OutputLimits
from puppetmaster.agent.rights import Rights
from puppetmaster.agent.worker import Worker
from puppetmaster.chunks import Chunk, Stream
from puppetmaster.store.files import FileSystem

PATIENCE = 30.0
"""Seconds after which something will not come any more."""


class Desk:
    """Gives orders to one worker after the other, in one folder."""

    def __init__(self, folder: Path, rights: str = "all", files: FileSystem | None = None, **options: Any) -> None:
        self.folder, self.rights, self.files = folder, rights, files
        self.options = {"limits": OutputLimits(), "kill_after": 0.5, **options}
        self.answers: dict[Key, list[tuple[int, Any]]] = {}
        self.chunks: dict[int, list[Chunk]] = {}
        self.is_online = True
        self._news = asyncio.Condition()
        self._next = 1_000_000

    async def open(self) -> Desk:
        self.memory = Memory(self.folder, files=self.files)
        self.worker = Worker(
            memory=self.memory, rights=Rights.parse(self.rights), emit=self._emit, info=lambda: {"hostname": "box"},
            **self.options,
        )  # fmt: skip
        await self.worker.start(self.reply_to)
        return self

    async def close(self, kill: bool = False) -> None:
        await self.worker.close(kill)
        await self.memory.close()

    async def reopen(self) -> None:
        """The next life; what the last one had said is forgotten."""
        await self.close()
        self.answers.clear()
        self.chunks.clear()
        await self.open()

    def _emit(self, order: Order, chunk: Chunk) -> None:
        self.chunks.setdefault(order.id, []).append(chunk)
        asyncio.get_running_loop().create_task(self._tell())

    def reply_to(self, order: Order) -> Reply:
        async def reply(code: int, data: Any) -> None:
            await self.wait(lambda: self.is_online)
            self.answers.setdefault(order.key, []).append((code, data))
            await self._tell()

        return reply

    async def go_online(self) -> None:
        self.is_online = True
        await self._tell()

    async def _tell(self) -> None:
        async with self._news:
            self._news.notify_all()

    async def wait(self, is_so: Callable[[], Any]) -> None:
        async def wait() -> None:
            async with self._news:
                await self._news.wait_for(is_so)

        await asyncio.wait_for(wait(), PATIENCE)

    def order(self, data: Any = None, **fields: Any) -> Order:
        self._next += 1
        usual = {"id": self._next, "tunnel": "/t", "method": "post", "resource": "/agent/commands"}
        return Order(**{**usual, "data": data, **fields})

    async def give(self, data: Any = None, **fields: Any) -> Order:
        order = self.order(data, **fields)
        await self.worker.handle(order, self.reply_to(order))
        return order

    async def again(self, order: Order) -> None:
        await self.worker.handle(order, self.reply_to(order))

    async def cancel(self, order: Order) -> None:
        await self.give(id=order.id, method="delete", tunnel=order.tunnel)

    def final(self, order: Order) -> list[tuple[int, Any]]:
        return [answer for answer in self.answers.get(order.key, []) if answer[0] != 102]

    async def answer(self, order: Order, count: int = 1) -> tuple[int, Any]:
        """The final answer; the last of so many."""
        await self.wait(lambda: len(self.final(order)) >= count)
        return self.final(order)[count - 1]

    async def run(self, data: Any = None, **fields: Any) -> tuple[int, Any]:
        return await self.answer(await self.give(data, **fields))

    async def said(self, order: Order, text: bytes) -> None:
        """Return when the command has said that."""
        await self.wait(lambda: text in b"".join(chunk.data for chunk in self.chunks.get(order.id, [])))

    async def quiet(self) -> None:
        """Return when the worker has nothing to do."""
        while self.worker._tasks:
            await asyncio.wait(self.worker._tasks)

    def stream(self, order: Order, stream: Stream) -> list[Chunk]:
        return [chunk for chunk in self.chunks.get(order.id, []) if chunk.stream is stream]


def with_desk(test: Callable[..., Awaitable[None]]) -> Callable[..., None]:
    """Run a test with a desk in a loop of its own."""

    def run(tmp_path: Path) -> None:
        async def main() -> None:
            desk = await Desk(tmp_path / "orders").open()
            try:
                await test(desk)
            finally:
                await desk.close(kill=True)

        asyncio.run(main())

    run.__name__ = test.__name__
    return run
