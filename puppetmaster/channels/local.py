"""Commands on this machine: the destination ``localhost``, served by the same code as a device's agent."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any

from puppetmaster.agent.order import Order, Reply
from puppetmaster.agent.worker import Worker
from puppetmaster.channels.port import Post
from puppetmaster.models import Request
from puppetmaster.policies import LOCALHOST
from puppetmaster.wire import COMMANDS, Answer

logger = logging.getLogger(__name__)


class Local:
    """The channel of ``localhost`` for what an agent serves; all else goes to the bundles beside us.

    :param tunnel: stands for us in the worker's memory, which may outlive the ids of one instance.
    """

    def __init__(self, post: Post, worker: Worker, tunnel: str) -> None:
        self._post = post
        self._worker = worker
        self._tunnel = tunnel
        self._tasks: set[asyncio.Task[None]] = set()

    def serves(self, request: Request) -> bool:
        """See Channel."""
        return request.destination == LOCALHOST and self._worker.serves(request.message.resource)

    async def start(self) -> None:
        """Take over what an earlier life began."""
        await self._worker.start(lambda order: self._reply(order.id))

    async def close(self) -> None:
        """Stop looking; commands that run go on, and are taken over by the next life."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._worker.close()

    def send(self, request: Request, attempt: int) -> None:
        """See Channel."""
        message = request.message
        order = Order(
            id=request.id, method=message.method, resource=message.resource, data=message.data, tunnel=self._tunnel
        )
        self._begin(self._hand_over(request, attempt, order), f"local-{request.id}")

    def abort(self, request: Request) -> None:
        """See Channel."""
        if request.message.resource == COMMANDS:
            order = Order(id=request.id, method="delete", resource=COMMANDS, data=None, tunnel=self._tunnel)
            self._begin(self._worker.handle(order, self._reply(request.id)), f"local-abort-{request.id}")

    async def _hand_over(self, request: Request, attempt: int, order: Order) -> None:
        await self._worker.handle(order, self._reply(request.id))
        self._post.accepted(request, attempt)

    def _reply(self, request_id: int) -> Reply:
        async def reply(code: int, data: object) -> None:
            await self._post.answer(Answer(LOCALHOST, request_id, code, data))

        return reply

    def _begin(self, work: Coroutine[Any, Any, None], name: str) -> None:
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._end)

    def _end(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            logger.error("a local order failed", exc_info=task.exception(), extra={"event": "local_order_failed"})
