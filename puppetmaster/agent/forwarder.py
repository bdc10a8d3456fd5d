"""Hands requests to the device's own Sanji controller, each of them once, whatever happens to the process.

A request is on disk before it is handed over. One that writes and was cut off by a death of the agent is not handed
over again, for nobody knows how far the controller got; a GET is.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from functools import partial
from typing import Any

from puppetmaster.agent.controller import ControllerLink
from puppetmaster.agent.memory import Entry, Memory
from puppetmaster.agent.order import TRANSIENT, Key, Order, Reply
from puppetmaster.errors import PuppetmasterError

logger = logging.getLogger(__name__)

MAX_AT_WORK = 200
"""How many requests may be at the controller at once; each may hold half a megabyte."""

CUT_OFF = "cut off: it was handed to the controller before the agent ended, and may have been done"

NO_CONTROLLER = "this agent has no controller (--controller): it serves only what is below /agent"

_ANSWER = "refused"
"""The fact under which a transient answer is noted until it is delivered."""


class Forwarder:
    """Serves every resource that the agent does not serve itself.

    :param link: the way to the controller, if there is one. The forwarder neither opens nor closes it.
    :param cut_off: is told of each order that an earlier life left undone.
    """

    def __init__(
        self, link: ControllerLink | None, memory: Memory, *, cut_off: Callable[[Order], None] = lambda order: None
    ) -> None:
        self._link = link
        self._memory = memory
        self._cut_off = cut_off
        self._at_work: dict[Key, asyncio.Task[None]] = {}
        self._giving: set[asyncio.Future[None]] = set()

    async def start(self, reply_to: Callable[[Order], Reply], serves: Callable[[str], bool]) -> None:
        """Take over what an earlier life began.

        :param serves: whether the order of this resource is ours.
        """
        for entry in self._memory.undelivered():
            if serves(entry.resource):
                self._spawn(self._give(entry, reply_to(entry.order())))
        for entry in self._memory.unfinished():
            if serves(entry.resource):
                order = entry.order(await self._memory.data(entry))
                self._begin(order, self._take_over(entry, order, reply_to(order)))

    async def close(self) -> None:
        """Wait for no answers any more; the next life answers for what is out."""
        tasks = [*self._at_work.values(), *self._giving]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def handle(self, order: Order, reply: Reply) -> None:
        """Take an order; returns when it is on disk, or its answer is at the broker."""
        entry = self._memory.find(order.key)
        while entry is not None and _ANSWER in entry.facts and (working := self._at_work.get(order.key)):
            await asyncio.wait({working})  # this is the next attempt: the answer to the last one is on its way
            entry = self._memory.find(order.key)
        if entry is not None:
            if entry.is_done:
                self._spawn(self._give(entry, reply))
            elif order.key not in self._at_work:  # the disk failed us when it was to be brought to its end
                self._begin(order, self._take_over(entry, order, reply))
            return
        try:
            await self._take(order, reply)
        except PuppetmasterError as error:
            await reply(503, {"message": f"the agent can't remember it, so it is not done: {error}"})

    async def _take(self, order: Order, reply: Reply) -> None:
        if self._link is None:
            entry = await self._memory.done(order, 501, {"message": NO_CONTROLLER})
            assert entry is not None
            self._spawn(self._give(entry, reply))
        elif not self._link.connected:
            await reply(503, {"message": f"there is no connection to the controller's broker at {self._link.address}"})
        elif len(self._at_work) >= MAX_AT_WORK:
            await reply(503, {"message": f"{MAX_AT_WORK} requests are at the controller already"})
        else:
            entry = await self._memory.begin(order)
            self._begin(order, self._forward(entry, order, reply))

    # The work

    async def _take_over(self, entry: Entry, order: Order, reply: Reply) -> None:
        if _ANSWER in entry.facts:
            await self._refuse(entry, entry.facts[_ANSWER], {"message": "try again"}, reply)
        elif order.method != "get":
            self._cut_off(order)
            await self._finish(order, 500, {"message": CUT_OFF}, reply)
        elif self._link is None:
            await self._finish(order, 501, {"message": NO_CONTROLLER}, reply)
        else:
            await self._link.until_connected()
            await self._forward(entry, order, reply)

    async def _forward(self, entry: Entry, order: Order, reply: Reply) -> None:
        assert self._link is not None
        code, data = await self._link.ask(
            order.method,
            order.resource,
            order.data,
            progress=lambda code, data: self._spawn(reply(code, data)),
            late=partial(self._late, order, reply),
        )
        if code in TRANSIENT or _is_in_flight(code, data):
            with _survived("note the answer"):
                await self._memory.note(entry, **{_ANSWER: code})
            await self._refuse(entry, code, data, reply)
        else:
            await self._finish(order, code, data, reply)

    async def _refuse(self, entry: Entry, code: int, data: Any, reply: Reply) -> None:
        """Give an answer that is not one to give again, then forget the order: its next attempt is to be done."""
        await reply(code, data)
        with _survived("forget the request"):
            await self._memory.forget(entry.key)

    async def _finish(self, order: Order, code: int, data: Any, reply: Reply) -> None:
        with _survived("remember the answer"):
            await self._memory.done(order, code, data)
        await reply(code, data)
        self._memory.delivered(order.key)

    async def _give(self, entry: Entry, reply: Reply) -> None:
        assert entry.code is not None
        await reply(entry.code, await self._memory.data(entry))
        self._memory.delivered(entry.key)

    def _late(self, order: Order, reply: Reply, code: int, data: Any) -> None:
        """The controller has answered after all: the request was done, and is not to be done again."""
        if code in TRANSIENT or _is_in_flight(code, data) or self._memory.find(order.key) is not None:
            return
        self._spawn(self._finish(order, code, data, reply))

    # Tasks

    def _begin(self, order: Order, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work, name=f"forward-{order.id}")
        self._at_work[order.key] = task
        task.add_done_callback(partial(self._ended, order.key))

    def _spawn(self, giving: Awaitable[None]) -> None:
        task = asyncio.ensure_future(giving)
        self._giving.add(task)
        task.add_done_callback(self._given)

    def _ended(self, key: Key, task: asyncio.Task[None]) -> None:
        del self._at_work[key]
        _complain(task)

    def _given(self, task: asyncio.Future[None]) -> None:
        self._giving.discard(task)
        _complain(task)


def _is_in_flight(code: int, data: Any) -> bool:
    """Whether the controller refused our id, which says nothing about the request."""
    return code == 403 and isinstance(data, dict) and "was used" in str(data.get("message"))


@contextlib.contextmanager
def _survived(doing: str) -> Iterator[None]:
    """A disk that fails is logged: the answer is worth more than the memory of it."""
    try:
        yield
    except PuppetmasterError as error:
        logger.error("can't %s: %s", doing, error, extra={"event": "agent_order_not_noted"})


def _complain(task: asyncio.Future[None]) -> None:
    if not task.cancelled() and task.exception() is not None:
        logger.error("a request could not be brought to its end", exc_info=task.exception(),
                     extra={"event": "agent_order_failed"})
