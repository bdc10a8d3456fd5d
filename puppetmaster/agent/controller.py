"""The device's own Sanji controller: a request is sent to it as a DIRECT message, and its answer is matched by id.

The ids are the agent's own. Those of puppetmaster count up from a million, the SDK's end before, and two requests of
different puppetmasters may have the same: a controller refuses an id that is in flight.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import orjson

from puppetmaster import wire
from puppetmaster.address import BrokerAddress
from puppetmaster.agent.order import PROGRESS
from puppetmaster.bus import Bus
from puppetmaster.logs import Seldom

logger = logging.getLogger(__name__)

FIRST_ID, LAST_ID = 2**31, 2**32 - 1
"""The upper half of what the C controller can tell apart."""

MAX_OVERDUE = 1000
"""How many requests that were given up are remembered in case they are answered after all."""

Say = Callable[[int, Any], None]
"""Gets the code and the data of an answer."""


@dataclass(slots=True, eq=False)
class _Asked:
    answered: asyncio.Future[tuple[int, Any]]
    # Called for answers that are not the last one.
    progress: Say
    # Called for the answer that came when nobody waited for it any more.
    late: Say
    deadline: float = 0.0


class ControllerLink:
    """A connection to the broker of the device's controller, with a tunnel of its own.

    :param timeout: seconds for an answer, or for the next report of progress.
    """

    def __init__(self, address: BrokerAddress, ident: str, *, timeout: float) -> None:
        self._timeout = timeout
        # New with each life: an answer to a former one would meet the id of another request.
        self._tunnel = f"/puppetmaster-agent/{secrets.token_hex(8)}"
        self._next = FIRST_ID + secrets.randbelow(2**30)
        self._asked: dict[int, _Asked] = {}
        self._overdue: OrderedDict[int, Say] = OrderedDict()
        self._bus = Bus(address, f"puppetmaster-agent-{ident}-controller", self._received, topics=[self._tunnel])
        self._starting: asyncio.Task[None] | None = None
        self._seldom = Seldom()

    @property
    def address(self) -> BrokerAddress:
        """Where the controller is."""
        return self._bus.address

    @property
    def connected(self) -> bool:
        """Whether something can be sent to it now."""
        return self._bus.connected

    def start(self) -> None:
        """Connect, however long it takes."""
        self._starting = asyncio.create_task(self._bus.start(), name="controller-start")

    async def close(self) -> None:
        """Leave; whoever waits for an answer is left without one."""
        if self._starting is not None:
            self._starting.cancel()
            await asyncio.gather(self._starting, return_exceptions=True)
        await self._bus.close()

    async def until_connected(self, timeout: float | None = None) -> None:
        """Wait for the first connection, at most for so many seconds."""
        assert self._starting is not None
        await asyncio.wait({self._starting}, timeout=timeout)

    async def ask(self, method: str, resource: str, data: Any, *, progress: Say, late: Say) -> tuple[int, Any]:
        """Code and data of the controller's answer, or of what kept it from answering (413, 408).

        Sent now, or when there is a connection.

        :param progress: gets the reports that come before the answer.
        :param late: gets the answer if it comes when this method has given up.
        """
        ident = self._draw()
        message = {"id": ident, "method": method, "resource": resource, "tunnel": self._tunnel}
        if data is not None:
            message["data"] = data
        payload = orjson.dumps(message)
        if len(payload) >= wire.MAX_BUS_BYTES:
            return 413, {"message": f"a controller drops messages of this size ({len(payload)} bytes)"}
        return await self._exchange(ident, payload, progress, late)

    async def _exchange(self, ident: int, payload: bytes, progress: Say, late: Say) -> tuple[int, Any]:
        loop = asyncio.get_running_loop()
        asked = self._asked[ident] = _Asked(loop.create_future(), progress, late, loop.time() + self._timeout)
        self._bus.publish(wire.CONTROLLER_TOPIC, payload, wanted=lambda: ident in self._asked)
        try:
            while not asked.answered.done():
                left = asked.deadline - loop.time()
                if left <= 0:
                    self._give_up(ident, late)
                    return 408, {"message": f"the controller did not answer within {self._timeout:g} s"}
                await asyncio.wait({asked.answered}, timeout=left)
            return asked.answered.result()
        finally:
            del self._asked[ident]

    def _give_up(self, ident: int, late: Say) -> None:
        self._overdue[ident] = late
        while len(self._overdue) > MAX_OVERDUE:
            self._overdue.popitem(last=False)

    def _draw(self) -> int:
        while True:
            self._next = self._next + 1 if self._next < LAST_ID else FIRST_ID
            if self._next not in self._asked and self._next not in self._overdue:
                return self._next

    def _received(self, topic: str, payload: bytes) -> None:
        try:
            ident, code, data = _read(payload)
        except ValueError as error:
            if count := self._seldom.due("unusable"):
                logger.warning("answers of the controller can't be used: %d, the last one: %s", count, error,
                               extra={"event": "controller_answer_unusable", "count": count})
            return
        asked = self._asked.get(ident)
        if asked is None:
            late = self._overdue.get(ident)
            if late is not None and code != PROGRESS:
                del self._overdue[ident]
                late(code, data)
        elif code == PROGRESS:
            asked.deadline = asyncio.get_running_loop().time() + self._timeout
            asked.progress(code, data)
        elif not asked.answered.done():
            asked.answered.set_result((code, data))


def _read(payload: bytes) -> tuple[int, int, Any]:
    """Id, code and data of an answer; one whose content can't be passed on becomes a 502 that says so.

    :raises ValueError: when it can't even be said to whom it belongs.
    """
    if wire.depth_of(payload) >= wire.MAX_DEPTH:
        ident = wire.glean_id(payload)
        if ident is None:
            raise ValueError("it is nested too deep, and has no id")
        return ident, 502, {"message": f"the controller's answer nests more than {wire.MAX_DEPTH} levels deep"}
    document = orjson.loads(payload)
    if type(document) is not dict or type(document.get("id")) is not int:
        raise ValueError("it has no id")
    ident, code = document["id"], document.get("code")
    if type(code) is not int or not 100 <= code <= 999:
        return ident, 502, {"message": "the controller answered without a code"}
    return ident, code, document.get("data")
