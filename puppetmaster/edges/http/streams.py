"""Jobs as they change: WebSockets and server-sent events."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import AbstractContextManager
from typing import Any

from fastapi import FastAPI
from starlette.requests import HTTPConnection, Request
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send
from starlette.websockets import WebSocket, WebSocketDisconnect

from puppetmaster import queries
from puppetmaster.edges.http import openapi
from puppetmaster.edges.http.access import Access, Caller
from puppetmaster.edges.http.replies import reply_error
from puppetmaster.edges.http.requests import read_query
from puppetmaster.errors import PuppetmasterError
from puppetmaster.feeds import Feed, Feeds, State
from puppetmaster.operations import Call
from puppetmaster.service import Service

KEEP_ALIVE = 15.0
"""Seconds without an event after which a comment is sent, so that nothing between us and the reader gives up."""

CHECK_INTERVAL = 5.0
"""Seconds between two looks whether a watcher's login still holds."""

NORMAL_CLOSURE, GOING_AWAY, POLICY_VIOLATION = 1000, 1001, 1008

FINAL = "final"
"""The id of the event with the state in which a job has ended."""

EVENTS = "text/event-stream"

ONLY_THE_JOB: Mapping[str, Any] = {"collection": "false", "limit": "0"}
"""The query for a job without its requests."""


class Streams:
    """Serves the feeds."""

    def __init__(self, service: Service, feeds: Feeds, access: Access) -> None:
        self._service = service
        self._feeds = feeds
        self._access = access
        self._callers: dict[Feed, Caller] = {}
        """Who watches, as long as a login is needed for it."""
        self._timer: asyncio.TimerHandle | None = None

    def add_to(self, app: FastAPI) -> None:
        """Serve them under their paths. Before the operations: ``/jobs/events`` is no job's number."""
        app.add_api_websocket_route("/jobs/ws", self.socket_of_all)
        app.add_api_websocket_route("/jobs/ws/{id}", self.socket_of_one)
        app.add_api_websocket_route("/jobs/{id}/ws", self.socket_of_one)
        for path, endpoint, about in (
            ("/jobs/events", self.events_of_all, openapi.EVENTS_OF_ALL),
            ("/jobs/{id}/events", self.events_of_one, openapi.EVENTS_OF_ONE),
        ):
            app.add_api_route(path, endpoint, methods=["GET"], response_model=None, **about)

    # WebSockets

    async def socket_of_all(self, socket: WebSocket) -> None:
        """``/jobs/ws``: every job that matches."""
        try:
            feed, jobs = await self._open_all(socket)
        except PuppetmasterError as error:
            await socket.send_denial_response(reply_error(error))
            return
        with self._attended(feed, socket):
            feed.start(jobs)
            await self._serve(socket, feed, ends_with_job=False)

    async def socket_of_one(self, socket: WebSocket) -> None:
        """``/jobs/:id/ws``: one job, until it is removed."""
        try:
            feed, job = await self._open_one(socket)
        except PuppetmasterError as error:
            await socket.send_denial_response(reply_error(error))
            return
        with self._attended(feed, socket):
            feed.start([job])
            await self._serve(socket, feed, ends_with_job=True)

    async def _serve(self, socket: WebSocket, feed: Feed, *, ends_with_job: bool) -> None:
        await socket.accept()
        # What a watcher sends means nothing; reading it shows when it has left.
        reader = asyncio.create_task(_read_to_end(socket, feed), name="socket-reader")
        try:
            while (state := await feed.next()) is not None:
                await socket.send_text(state.payload.decode())
                if state.is_removed and ends_with_job:
                    await socket.close(NORMAL_CLOSURE, "removed")
                    return
            if not reader.done():
                await socket.close(*self._farewell(socket))
        except (WebSocketDisconnect, RuntimeError):
            return  # it has left, in the middle of a message or before it
        finally:
            reader.cancel()

    def _farewell(self, socket: WebSocket) -> tuple[int, str]:
        if self._access.is_valid(socket.state.caller):
            return GOING_AWAY, "puppetmaster stops"
        return POLICY_VIOLATION, "the login is over"

    # Server-sent events

    async def events_of_all(self, request: Request) -> Response:
        """``/jobs/events``: every job that matches."""
        try:
            feed, jobs = await self._open_all(request)
        except PuppetmasterError as error:
            return reply_error(error)
        feed.start(jobs)
        return _EventStream(feed, self._attended(feed, request), ends_with_job=False)

    async def events_of_one(self, request: Request) -> Response:
        """``/jobs/:id/events``: one job, until it has ended or is removed."""
        try:
            feed, job = await self._open_one(request)
        except PuppetmasterError as error:
            return reply_error(error)
        if job["finishedAt"] and request.headers.get("last-event-id") == FINAL:
            # A browser would ask again and again; this answer tells it to stop.
            feed.close()
            return Response(status_code=204)
        feed.start([job])
        return _EventStream(feed, self._attended(feed, request), ends_with_job=True)

    # Both

    async def _open_all(self, connection: HTTPConnection) -> tuple[Feed, list[dict[str, Any]]]:
        query = read_query(connection)
        wanted = queries.parse(queries.JobsQuery, query)
        feed = self._feeds.open_all(
            labels=frozenset(wanted.label or ()),
            statuses=frozenset(status.value for status in wanted.status or ()),
        )
        try:
            jobs = await self._service.list_jobs(query)
        except BaseException:
            feed.close()
            raise
        return feed, jobs[::-1]

    async def _open_one(self, connection: HTTPConnection) -> tuple[Feed, dict[str, Any]]:
        job_id = Call(connection.path_params["id"]).job_id
        feed = self._feeds.open_job(job_id)
        try:
            job = await self._service.show_job(job_id, ONLY_THE_JOB)
        except BaseException:
            feed.close()
            raise
        del job["requests"]
        return feed, job

    @contextlib.contextmanager
    def _attended(self, feed: Feed, connection: HTTPConnection) -> Iterator[None]:
        """Close the feed at the end, or as soon as its watcher's login is over."""
        self._callers[feed] = connection.state.caller
        if self._timer is None:
            self._look_later()
        try:
            yield
        finally:
            del self._callers[feed]
            feed.close()

    def _look_later(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(CHECK_INTERVAL, self._look)

    def _look(self) -> None:
        self._timer = None
        valid = {caller: self._access.is_valid(caller) for caller in set(self._callers.values())}
        for feed, caller in self._callers.items():
            if not valid[caller]:
                feed.close()
        if self._callers:
            self._look_later()


class _EventStream(StreamingResponse):
    """A feed as server-sent events."""

    def __init__(self, feed: Feed, attended: AbstractContextManager[None], *, ends_with_job: bool) -> None:
        headers = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
        super().__init__(_events(feed, ends_with_job), media_type=EVENTS, headers=headers)
        self._attended = attended

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        # Around all of it: of a client that has left already, the events are not even begun.
        with self._attended:
            await super().__call__(scope, receive, send)


async def _events(feed: Feed, ends_with_job: bool) -> AsyncIterator[bytes]:
    waiting = asyncio.ensure_future(feed.next())
    try:
        while True:
            done, _ = await asyncio.wait({waiting}, timeout=KEEP_ALIVE)
            if not done:
                yield b": still here\n\n"
                continue
            state = waiting.result()
            if state is None:
                return
            is_last = ends_with_job and (state.is_final or state.is_removed)
            yield _event(state, is_last=is_last)
            if is_last:
                return
            waiting = asyncio.ensure_future(feed.next())
    finally:
        waiting.cancel()


async def _read_to_end(socket: WebSocket, feed: Feed) -> None:
    try:
        while (await socket.receive())["type"] != "websocket.disconnect":
            pass
    finally:
        feed.close()


def _event(state: State, *, is_last: bool) -> bytes:
    name = b"removed" if state.is_removed else b"job"
    ident = b"id: %b\n" % FINAL.encode() if is_last and state.is_final else b""
    return b"event: %b\n%bdata: %b\n\n" % (name, ident, state.payload)
