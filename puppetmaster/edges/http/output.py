"""The output of commands over HTTP: pages of chunks, server-sent events, and the bytes themselves."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Any, TypeVar

import orjson
from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from puppetmaster import queries
from puppetmaster.chunks import Stream
from puppetmaster.documents import Document
from puppetmaster.edges.http import openapi
from puppetmaster.edges.http.access import Access
from puppetmaster.edges.http.replies import JSON, reply_error
from puppetmaster.edges.http.requests import read_query
from puppetmaster.edges.http.streams import CHECK_INTERVAL, EVENTS, KEEP_ALIVE
from puppetmaster.effects import Change
from puppetmaster.errors import Fault, InvalidDocument, PuppetmasterError
from puppetmaster.operations import Call
from puppetmaster.output_file import Line
from puppetmaster.outputs import Outputs
from puppetmaster.service import Service

OVER = "over"
"""The name and the id of the last event: nothing follows."""

BYTES = "application/octet-stream"

MAX_ID_DIGITS = 16

Bytes = AsyncGenerator[bytes, None]

T = TypeVar("T")

_FIRST = {"collection": "false", "limit": "1"}
"""The query for a job and the id of its first request; the others follow it."""

_HEADERS = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}


def add_output(app: FastAPI, service: Service, outputs: Outputs, access: Access) -> None:
    """Serve the output of requests and of jobs."""
    routes = OutputRoutes(service, outputs, access)
    for path, endpoint, about in (
        ("/requests/{id}/output", routes.page, openapi.OUTPUT),
        ("/requests/{id}/output/events", routes.events_of_request, openapi.OUTPUT_EVENTS),
        ("/requests/{id}/output/raw", routes.raw, openapi.OUTPUT_RAW),
        ("/jobs/{id}/output/events", routes.events_of_job, openapi.JOB_OUTPUT_EVENTS),
    ):
        app.add_api_route(path, endpoint, methods=["GET"], response_model=None, **about)


class OutputRoutes:
    """What is served."""

    def __init__(self, service: Service, outputs: Outputs, access: Access) -> None:
        self._service = service
        self._outputs = outputs
        self._access = access
        self._waiting: dict[int, set[asyncio.Event]] = {}
        """Who waits for a job to get its requests."""
        service.listen(self._changed)

    async def page(self, request: Request) -> Response:
        """``/requests/:id/output``: a page of chunks, or events where these are asked for."""
        if EVENTS in request.headers.get("accept", ""):
            return await self.events_of_request(request)
        try:
            request_id = await self._request_id(request)
            wanted = queries.parse(queries.OutputQuery, read_query(request))
            lines = self._outputs.page(request_id, wanted.start, wanted.limit)
        except PuppetmasterError as error:
            return reply_error(error)
        return Response(b"[%b]" % b",".join(line.payload for line in lines), media_type=JSON)

    async def events_of_request(self, request: Request) -> Response:
        """``/requests/:id/output/events``: the chunks of a request as they come."""
        try:
            request_id = await self._request_id(request)
            start = _start(request)
        except PuppetmasterError as error:
            return reply_error(error)
        if start is None:
            return Response(status_code=204)  # a browser would ask again and again; this tells it to stop
        return ByteStream(self._events(request, request_id, start), EVENTS)

    async def raw(self, request: Request) -> Response:
        """``/requests/:id/output/raw``: the bytes of stdout and stderr as they come."""
        try:
            request_id = await self._request_id(request)
        except PuppetmasterError as error:
            return reply_error(error)
        return ByteStream(raw_output(self._outputs, request_id, self._check(request)), BYTES)

    async def events_of_job(self, request: Request) -> Response:
        """``/jobs/:id/output/events``: the chunks of all requests of a job as they come."""
        try:
            job_id = Call(request.path_params["id"]).job_id
            await self._service.show_job(job_id, _FIRST)
        except PuppetmasterError as error:
            return reply_error(error)
        if request.headers.get("last-event-id") == OVER:
            return Response(status_code=204)
        return ByteStream(self._events_of_all(request, job_id), EVENTS)

    # Inside

    async def _request_id(self, request: Request) -> int:
        request_id = Call(request.path_params["id"]).request_id
        await self._service.show_request(request_id)
        return request_id

    def _check(self, request: Request) -> Callable[[], bool]:
        return lambda: self._access.is_valid(request.state.caller)

    async def _events(self, request: Request, request_id: int, start: int) -> Bytes:
        blocks = self._outputs.blocks(range(request_id, request_id + 1), start)
        async with aclosing(attended(blocks, self._check(request))) as found:
            async for block in found:
                yield STILL_HERE if block is None else b"".join(map(_event, block[1]))
        yield _over(request_id)

    async def _events_of_all(self, request: Request, job_id: int) -> Bytes:
        heads: dict[int, bytes] = {}
        async with aclosing(attended(self._blocks_of(job_id), self._check(request))) as found:
            async for block in found:
                if block is None:
                    yield STILL_HERE
                    continue
                request_id, lines = block
                head = heads.get(request_id) or await self._head(request_id)
                heads[request_id] = head
                yield b"".join(b"event: chunk\ndata: %b%b\n\n" % (head, line.payload[1:]) for line in lines)
        yield _over(job_id)

    async def _blocks_of(self, job_id: int) -> AsyncGenerator[tuple[int, list[Line]], None]:
        ids = await self._ids(job_id)
        async with aclosing(self._outputs.blocks(ids)) as found:
            async for block in found:
                yield block

    async def _ids(self, job_id: int) -> range:
        """The requests of a job, when it has got them: one that starts later has none before."""
        news = asyncio.Event()
        self._waiting.setdefault(job_id, set()).add(news)
        try:
            while True:
                news.clear()
                try:
                    job = await self._service.show_job(job_id, _FIRST)
                except PuppetmasterError:
                    return range(0)  # it was removed
                if job["requests"] or job["finishedAt"]:
                    first = job["requests"][0] if job["requests"] else 0
                    return range(first, first + job["totalCount"])
                await news.wait()
        finally:
            self._waiting[job_id].discard(news)
            if not self._waiting[job_id]:
                del self._waiting[job_id]

    def _changed(self, change: Change, job_id: int, document: Document | None) -> None:
        for news in self._waiting.get(job_id, ()):
            news.set()

    async def _head(self, request_id: int) -> bytes:
        """The begin of every chunk of a request among those of others."""
        about: dict[str, Any] = {"request": request_id, "destination": None}
        with contextlib.suppress(PuppetmasterError):  # it was removed in this moment
            about["destination"] = (await self._service.show_request(request_id))["__request"]["destination"]
        return orjson.dumps(about)[:-1] + b","


STILL_HERE = b": still here\n\n"


class ByteStream(StreamingResponse):
    """A body that comes bit by bit; its source is closed whenever that ends."""

    def __init__(self, source: Bytes, media_type: str) -> None:
        super().__init__(source, media_type=media_type, headers=_HEADERS)
        self._source = source

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it."""
        async with aclosing(self._source):
            await super().__call__(scope, receive, send)


async def raw_output(outputs: Outputs, request_id: int, is_valid: Callable[[], bool]) -> Bytes:
    """The bytes of stdout and stderr as they come, to the end; what is left out is said in a line.

    :param is_valid: whether the reader's login still holds.
    """
    blocks = outputs.blocks(range(request_id, request_id + 1))
    async with aclosing(attended(blocks, is_valid)) as found:
        async for block in found:
            data = b"" if block is None else b"".join(map(_bytes, block[1]))
            if data:
                yield data


async def attended(
    source: AsyncGenerator[T, None], is_valid: Callable[[], bool]
) -> AsyncGenerator[T | None, None]:
    """What a source gives, and none when there was nothing for a while; it ends when the reader's login is over."""
    loop = asyncio.get_running_loop()
    next_check, next_sign = loop.time() + CHECK_INTERVAL, loop.time() + KEEP_ALIVE
    async with aclosing(source):
        waiting = asyncio.ensure_future(anext(source, None))
        try:
            while True:
                await asyncio.wait({waiting}, timeout=CHECK_INTERVAL)
                now = loop.time()
                if now >= next_check:
                    next_check = now + CHECK_INTERVAL
                    if not is_valid():
                        return
                if waiting.done():
                    found = waiting.result()
                    if found is None:
                        return
                    next_sign = now + KEEP_ALIVE
                    yield found
                    waiting = asyncio.ensure_future(anext(source, None))
                elif now >= next_sign:
                    next_sign = now + KEEP_ALIVE
                    yield None
        finally:
            waiting.cancel()
            await asyncio.wait({waiting})


def _start(request: Request) -> int | None:
    """The first chunk that a reader of events has not had; none when it has had all of them.

    :raises InvalidDocument: when it can't be told.
    """
    last = request.headers.get("last-event-id", "")
    if last == OVER:
        return None
    if not last:
        return queries.parse(queries.OutputQuery, read_query(request)).start
    if not (last.isascii() and last.isdigit() and len(last) <= MAX_ID_DIGITS):
        raise InvalidDocument([Fault("Last-Event-ID", "it is not the id of an event of this stream")])
    return int(last) + 1


def _event(line: Line) -> bytes:
    return b"id: %d\nevent: chunk\ndata: %b\n\n" % (line.number, line.payload)


def _over(ident: int) -> bytes:
    return b'id: %b\nevent: %b\ndata: {"id": %d}\n\n' % (OVER.encode(), OVER.encode(), ident)


def _bytes(line: Line) -> bytes:
    try:
        chunk = line.chunk()
    except ValueError:
        return b""  # the file is damaged here
    if chunk.stream is Stream.CUT:
        return b"\n[%d bytes are left out here]\n" % chunk.size
    return chunk.data
