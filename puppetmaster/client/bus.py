"""The client over the bus: a client of the controller like any other.

::

    async with BusClient(BrokerAddress.parse("mqtt://localhost")) as client:
        job = await client.create_job({"batch": [...]})
        async for job in client.watch(job["id"]):
            print(job["status"], job["progress"])

Requests go to the controller as DIRECT messages, their answers come to a tunnel of this client's own and are told
apart by their id.
"""

from __future__ import annotations

import asyncio
import logging
import random
import secrets
import time
from collections.abc import AsyncIterator
from typing import Any

import orjson

from puppetmaster.address import BrokerAddress
from puppetmaster.bus import Bus
from puppetmaster.client.documents import (
    Absence,
    Document,
    DocumentClient,
    Told,
    follows,
    is_final,
    with_query,
    without_requests,
)
from puppetmaster.client.errors import AnswerError, refusal
from puppetmaster.errors import BusError, Fault, InvalidDocument, PuppetmasterError, TooLarge
from puppetmaster.logs import Seldom
from puppetmaster.wire import CONTROLLER_TOPIC, MAX_BUS_BYTES, job_topic

logger = logging.getLogger(__name__)

CONNECT_TIMEOUT = 10.0
"""Seconds for the first connection to the broker."""

ANSWER_TIMEOUT = 15.0
"""Seconds for an answer of the bundle, through the controller."""

BUSY_PATIENCE = 5.0
"""Seconds for which a locked resource or an id in flight is tried again: the controller locks the bundle's resources
until it has answered somebody else's write, and the bundle answers at once."""

BUSY_DELAY, BUSY_MAX_DELAY = 0.05, 0.5
"""Seconds between those attempts: the first, doubled each time up to the last."""

POLL_PERIOD = 3.0
"""Seconds without a change after which a watched job is asked for, because a change may have been lost."""

LOOK_TIMEOUT = 5.0
"""Seconds for the answer when a watched job is asked for."""

LOST_AFTER = 60.0
"""Seconds without any word on a watched job after which watching it is given up: restarts take less."""

LOCKED, FORBIDDEN, NOT_FOUND = 423, 403, 404

# Between those of the SDK (0 to 655350) and those of the bundle's own requests (from 1_000_000 up).
_IDS = range(700_000, 1_000_000)


class BusClient(DocumentClient):
    """A connection to a running puppetmaster, on the running asyncio loop.

    All its calls raise :class:`AnswerError` when they are refused, and :class:`~puppetmaster.errors.BusError` when
    nobody answers. It connects again by itself, and what was not answered meanwhile ends in a BusError.

    :param answer_timeout: seconds for an answer.
    """

    def __init__(self, address: BrokerAddress, *, answer_timeout: float = ANSWER_TIMEOUT) -> None:
        self.address = address
        self._answer_timeout = answer_timeout
        name = secrets.token_hex(4)
        self._tunnel = f"/puppetmaster/client/{name}"
        self._bus = Bus(address, f"puppetmaster-client-{name}", self._received, topics=[self._tunnel])
        self._pending: dict[int, asyncio.Future[Document]] = {}
        self._watches: dict[str, set[_Watch]] = {}
        self._seldom = Seldom()

    # Life

    async def start(self, timeout: float | None = CONNECT_TIMEOUT) -> None:
        """Connect to the broker.

        :param timeout: seconds; none waits for ever.
        :raises BusError: when there is no connection by then.
        """
        await self._bus.start(timeout)

    async def close(self) -> None:
        """Leave the broker."""
        await self._bus.close()

    # Any resource

    async def request(self, method: str, resource: str, data: Any = None, timeout: float | None = None) -> Any:
        """Send a request to whoever serves ``resource`` at the controller; the data of the answer.

        While the resource is locked it is tried again for 5 s.

        :param method: get, post, put or delete.
        :param data: any JSON value; none is not sent.
        :param timeout: seconds for an answer.
        :raises AnswerError: when the answer's code is not 2xx.
        :raises BusError: when no answer comes in time, or nobody serves the resource.
        :raises TooLarge: when the controller would not take a message of this size.
        :raises InvalidDocument: when the data can't be written as JSON.
        """
        give_up, delay = time.monotonic() + BUSY_PATIENCE, BUSY_DELAY
        while True:
            answer = await self._ask(method, resource, data, timeout or self._answer_timeout)
            if 200 <= answer["code"] <= 299:
                return answer.get("data")
            if not _is_busy(answer) or time.monotonic() + delay > give_up:
                raise self._error(resource, answer)
            await asyncio.sleep(delay)
            delay = min(delay * 2, BUSY_MAX_DELAY)

    # Watching

    async def watch(self, job_id: int, *, told: Told | None = None) -> AsyncIterator[Document]:
        """A job without its requests, now and at every change, until it has ended or was removed.

        :param told: is told when there is no word on the job any more, and when there is again.
        :raises AnswerError: when there is no such job.
        :raises BusError: when there was no word on it for a minute.
        """
        watch = _Watch(told)
        self._watches.setdefault(str(job_id), set()).add(watch)
        try:
            await self._bus.subscribe(job_topic("+", job_id))
            job = await self._look(job_id, self._answer_timeout)
            yield job
            while not is_final(job):
                change = await self._next_change(job, watch)
                if change is None:
                    return
                if change != job:
                    job = change
                    yield job
        finally:
            await self._unwatch(job_id, watch)

    async def _next_change(self, job: Document, watch: _Watch) -> Document | None:
        """The job at its next change or at the next look at it; none when it was removed."""
        now = time.monotonic()
        look_at, give_up = now + POLL_PERIOD, now + LOST_AFTER
        while True:
            change = await watch.next(look_at - time.monotonic())
            if change is not None:
                if follows(change, job):
                    watch.absence.ends()
                    return change
                continue
            look_at = time.monotonic() + POLL_PERIOD
            try:
                found = await self._look_again(job["id"])
            except (AnswerError, BusError) as error:
                if _is_unknown(error):
                    return None
                self._no_word(job["id"], error, watch, give_up)
            else:
                watch.absence.ends()
                return found

    def _no_word(self, job_id: int, reason: PuppetmasterError, watch: _Watch, give_up: float) -> None:
        logger.info("no word on job %s: %s", job_id, reason, extra={"event": "job_silent", "job": job_id})
        watch.absence.begins(reason)
        if time.monotonic() > give_up:
            raise BusError(f"no word on job {job_id} for {LOST_AFTER:.0f} s: {reason}") from reason

    async def _look_again(self, job_id: int) -> Document:
        # Without a connection the question would only wait for its time to be over.
        if not self._bus.connected:
            raise BusError(self._disconnected())
        return await self._look(job_id, min(LOOK_TIMEOUT, self._answer_timeout))

    async def _look(self, job_id: int, timeout: float) -> Document:
        resource = with_query(f"/jobs/{job_id}", {"collection": False, "limit": 1})
        return without_requests(self._document(await self.request("get", resource, timeout=timeout)))

    async def _unwatch(self, job_id: int, watch: _Watch) -> None:
        watches = self._watches[str(job_id)]
        watches.discard(watch)
        if not watches:
            del self._watches[str(job_id)]
            await self._bus.unsubscribe(job_topic("+", job_id))

    # The wire

    async def _ask(self, method: str, resource: str, data: Any, timeout: float) -> Document:
        """Send one DIRECT message and wait for its answer."""
        ident = self._new_id()
        payload = _encode(ident, method, resource, data, self._tunnel)
        future: asyncio.Future[Document] = asyncio.get_running_loop().create_future()
        self._pending[ident] = future
        try:
            # What waits for a connection must not be carried out after its caller was told that it failed.
            self._bus.publish(CONTROLLER_TOPIC, payload, wanted=lambda: not future.done())
            return await asyncio.wait_for(future, timeout)
        except asyncio.TimeoutError:
            raise BusError(self._unanswered(method, resource, timeout)) from None
        finally:
            del self._pending[ident]

    def _new_id(self) -> int:
        while (ident := random.choice(_IDS)) in self._pending:
            pass
        return ident

    def _unanswered(self, method: str, resource: str, timeout: float) -> str:
        if not self._bus.connected:
            return self._disconnected()
        return (
            f"no answer to {method.upper()} {resource} within {timeout:g} s over the broker at {self.address}: "
            "is a controller running there (puppetmaster controller), and puppetmaster itself (puppetmaster serve)?"
        )

    def _disconnected(self) -> str:
        return f"the connection to the broker at {self.address} is broken: is the broker running?"

    def unreadable(self, text: str) -> PuppetmasterError:
        """The error for an answer that is not what a puppetmaster answers."""
        return BusError(text)

    def _error(self, resource: str, answer: Document) -> PuppetmasterError:
        error = refusal(answer["code"], answer.get("data"), resource)
        # The controller's own 404 carries no data: nothing is registered for the resource.
        if error.code == NOT_FOUND and not error.message:
            served = f"nobody serves {resource.partition('?')[0]} at the controller behind {self.address}"
            return BusError(f"{served}: is puppetmaster running (puppetmaster serve)?")
        return error

    def _received(self, topic: str, payload: bytes) -> None:
        if topic == self._tunnel:
            self._answered(payload)
        else:
            self._changed(topic, payload)

    def _answered(self, payload: bytes) -> None:
        answer = _decode(payload)
        if answer is None or type(answer.get("code")) is not int:
            if count := self._seldom.due("unreadable"):
                logger.warning("answers can't be read: %d, the last one: %.200r", count, payload,
                               extra={"event": "answer_unreadable", "count": count})
            return
        ident = answer.get("id")
        future = self._pending.get(ident) if type(ident) is int else None
        if future is None or future.done():
            if count := self._seldom.due("late"):
                logger.info("answers came too late: %d, the last one: %.200r", count, payload,
                            extra={"event": "answer_late", "count": count})
            return
        future.set_result(answer)

    def _changed(self, topic: str, payload: bytes) -> None:
        job = _decode(payload)
        for watch in self._watches.get(topic.rpartition("/")[2], ()):
            watch.put(None if job is None else without_requests(job))


class _Watch:
    """Changes of one job on their way to one watcher; none among them asks for a look at the job."""

    def __init__(self, told: Told | None) -> None:
        self.absence = Absence(told)
        self._changes: asyncio.Queue[Document | None] = asyncio.Queue()

    def put(self, change: Document | None) -> None:
        self._changes.put_nowait(change)

    async def next(self, timeout: float) -> Document | None:
        try:
            return await asyncio.wait_for(self._changes.get(), timeout)
        except asyncio.TimeoutError:
            return None


def _encode(ident: int, method: str, resource: str, data: Any, tunnel: str) -> bytes:
    message: Document = {"id": ident, "method": method, "resource": resource, "tunnel": tunnel}
    if data is not None:
        message["data"] = data
    try:
        payload = orjson.dumps(message)
    except orjson.JSONEncodeError as error:
        raise InvalidDocument([Fault("", f"it can't be written as JSON: {error}")]) from error
    if len(payload) >= MAX_BUS_BYTES:
        raise TooLarge(
            f"the message has {len(payload):,} bytes, and a controller drops what has {MAX_BUS_BYTES:,} or more: "
            "make several jobs of it"
        )
    return payload


def _decode(payload: bytes) -> Document | None:
    try:
        document = orjson.loads(payload)
    except orjson.JSONDecodeError:
        return None
    return document if isinstance(document, dict) else None


def _is_busy(answer: Document) -> bool:
    in_flight = answer["code"] == FORBIDDEN and "was used" in str(answer.get("data"))
    return answer["code"] == LOCKED or in_flight


def _is_unknown(error: PuppetmasterError) -> bool:
    return isinstance(error, AnswerError) and error.code == NOT_FOUND
