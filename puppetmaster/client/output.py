"""The output of a job's commands as it comes, over HTTP or from the bus.

What is read over HTTP is whole: puppetmaster keeps it, and a stream that breaks is opened again. What is heard on the
bus comes straight from the devices, and what is missed there is missing.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path

import httpx
import orjson

from puppetmaster.address import BrokerAddress
from puppetmaster.bus import Bus
from puppetmaster.chunks import MAX_PAYLOAD_BYTES, Chunk, Stream, decode
from puppetmaster.client.calls import Call
from puppetmaster.client.errors import NoAnswer
from puppetmaster.client.events import Event, EventReader
from puppetmaster.client.server import Server
from puppetmaster.client.watching import SILENCE
from puppetmaster.errors import BusError
from puppetmaster.logs import Seldom

logger = logging.getLogger(__name__)

CONNECT_TIMEOUT = 10.0
"""Seconds for a connection to the broker."""

LOST_AFTER = 60.0
"""Seconds without a connection after which the output is given up; the job is watched all the same."""

DELAY = 0.5
"""Seconds between two attempts to open a stream."""

QUIET = 1.5
"""Seconds for which output is waited for on the bus, when the job has ended and some of it has not."""

FEW = 200
"""Requests that have a subscription each; more of them share one for all output there is."""

EARLY = 10_000
"""Chunks that are kept from before it is known which are wanted, and whose they are."""


@dataclass(frozen=True, slots=True)
class Piece:
    """A chunk, and whose it is."""

    request_id: int
    destination: str
    chunk: Chunk


AskDestinations = Callable[[], Awaitable[Mapping[int, str]]]
"""Asks for the destinations of a job's requests, by their ids."""


class Output(ABC):
    """Where the output of one job comes from: :meth:`open` it, make the job, read."""

    @abstractmethod
    async def open(self) -> None:
        """Be ready to hear of it.

        :raises PuppetmasterError: when that can't be.
        """

    @abstractmethod
    def pieces(self, job_id: int, request_ids: Collection[int], ask: AskDestinations) -> AsyncGenerator[Piece, None]:
        """The chunks of a job, each once, until all has ended.

        :param ask: for the destinations of the requests; a device may say whatever it likes on its own topics.
        :raises PuppetmasterError: when there are no more to be had before that.
        """

    @abstractmethod
    def finish(self) -> None:
        """The job has ended: nothing new will begin."""

    @abstractmethod
    async def close(self) -> None:
        """Let the connection go."""


class HttpOutput(Output):
    """Over HTTP, in server-sent events."""

    def __init__(self, url: str, *, token: str | None = None, ca_file: str | Path | None = None) -> None:
        self._server = Server(url, token, ca_file)
        self._http = httpx.AsyncClient(**self._server.options())
        self._known: dict[int, int] = {}
        """The last chunk that came of each request."""

    async def open(self) -> None:
        """Do nothing: what is missed now comes later."""

    def finish(self) -> None:
        """Do nothing: the stream ends by itself."""

    async def close(self) -> None:
        """Let the connection go."""
        await self._http.aclose()

    async def pieces(
        self, job_id: int, request_ids: Collection[int], ask: AskDestinations
    ) -> AsyncGenerator[Piece, None]:
        """The chunks of a job, each once, until all has ended. puppetmaster has seen to it whose they are."""
        give_up = time.monotonic() + LOST_AFTER
        while True:
            try:
                async with aclosing(self._stream(job_id)) as found:
                    async for piece in found:
                        give_up = time.monotonic() + LOST_AFTER
                        if piece is None:
                            return
                        yield piece
                reason = NoAnswer(f"{self._server.url} ended the stream of output", maybe_done=True)
            except NoAnswer as error:
                reason = error
            if reason.lasting or time.monotonic() > give_up:
                raise reason
            logger.info("no output for now: %s", reason, extra={"event": "output_silent"})
            await asyncio.sleep(DELAY)

    async def _stream(self, job_id: int) -> AsyncGenerator[Piece | None, None]:
        """What one stream brings; none when all has ended."""
        headers = {"Accept": "text/event-stream", "Cache-Control": "no-store"}
        call = Call(method="get", resource=f"/jobs/{job_id}/output/events", read=lambda data: data, headers=headers)
        try:
            async with self._http.stream(**self._server.question(call, SILENCE)) as response:
                if response.status_code != httpx.codes.OK:
                    await response.aread()
                    self._server.read(call, response)
                self._server.check_stream(call, response)
                reader = EventReader()
                async for data in response.aiter_bytes():
                    for event in reader.feed(data):
                        if event.name == "over":
                            yield None
                            return
                        if (piece := self._new(event)) is not None:
                            yield piece
        except httpx.RequestError as error:
            raise self._server.no_answer(call, error) from error

    def _new(self, event: Event) -> Piece | None:
        """What an event brings that was not known."""
        try:
            about = orjson.loads(event.data)
            piece = Piece(int(about["request"]), str(about["destination"]), decode(event.data))
        except (ValueError, TypeError, KeyError):
            logger.warning("an event can't be read: %.200r", event.data, extra={"event": "stream_event_unreadable"})
            return None
        if piece.chunk.number <= self._known.get(piece.request_id, -1):
            return None
        self._known[piece.request_id] = piece.chunk.number
        return piece


class BusOutput(Output):
    """From the bus, where the devices publish it."""

    def __init__(self, address: BrokerAddress) -> None:
        name = f"puppetmaster-output-{secrets.token_hex(4)}"
        self._bus = Bus(address, name, self._received, topics=[_topic("+", "+")])
        self._pieces: asyncio.Queue[Piece | None] = asyncio.Queue()
        self._early: list[tuple[str, int, bytes]] | None = []
        self._wanted: dict[int, int] = {}
        """The last chunk that came of each request of the job."""
        self._destinations: Mapping[int, str] = {}
        self._seldom = Seldom()
        self._unended: set[int] = set()
        self._finished = False
        self._closed = False

    async def open(self) -> None:
        """Listen to all output, for nobody knows yet which requests there will be."""
        await self._bus.start(CONNECT_TIMEOUT)

    def finish(self) -> None:
        """The job has ended: nothing new will begin."""
        self._finished = True
        self._pieces.put_nowait(None)

    async def close(self) -> None:
        """Let the connection go."""
        await self._bus.close()

    async def pieces(
        self, job_id: int, request_ids: Collection[int], ask: AskDestinations
    ) -> AsyncGenerator[Piece, None]:
        """The chunks of a job, each once, until all has ended."""
        self._unended = set(request_ids)
        self._wanted = dict.fromkeys(request_ids, -1)
        self._destinations = await ask()
        early, self._early = self._early or [], None
        for destination, request_id, payload in early:
            self._take(destination, request_id, payload)
        await self._narrow(request_ids)
        while self._unended or not self._pieces.empty():
            timeout = QUIET if self._finished and self._pieces.empty() else None
            try:
                piece = await asyncio.wait_for(self._pieces.get(), timeout)
            except asyncio.TimeoutError:
                return
            if piece is not None:
                yield piece

    async def _narrow(self, request_ids: Collection[int]) -> None:
        """Listen to nobody else's output any more."""
        if len(request_ids) > FEW:
            return
        try:
            for request_id in request_ids:
                await self._bus.subscribe(_topic("+", request_id))
        except BusError as error:
            logger.info("all output goes on being heard: %s", error, extra={"event": "output_still_heard"})
        else:
            await self._bus.unsubscribe(_topic("+", "+"))

    def _received(self, topic: str, payload: bytes) -> None:
        levels = topic.split("/")
        ident = levels[4]
        if len(payload) > MAX_PAYLOAD_BYTES or not (ident.isascii() and ident.isdigit() and len(ident) < 19):
            return
        if self._early is None:
            self._take(levels[2], int(ident), payload)
        elif len(self._early) < EARLY and (not self._wanted or int(ident) in self._wanted):
            self._early.append((levels[2], int(ident), payload))

    def _take(self, destination: str, request_id: int, payload: bytes) -> None:
        last = self._wanted.get(request_id)
        if last is None or self._destinations.get(request_id) != destination:
            return
        try:
            chunk = decode(payload)
        except ValueError as error:
            if count := self._seldom.due("unreadable"):
                logger.info("output can't be read: %d, the last of %s: %s", count, destination, error,
                            extra={"event": "output_unreadable", "destination": destination, "count": count})
            return
        if chunk.number <= last:
            return
        self._wanted[request_id] = chunk.number
        if chunk.stream is Stream.END:
            self._unended.discard(request_id)
        self._pieces.put_nowait(Piece(request_id, destination, chunk))


def _topic(destination: str, request_id: int | str) -> str:
    return f"/remote/{destination}/output/{request_id}"


__all__ = ["BusOutput", "HttpOutput", "Output", "Piece"]
