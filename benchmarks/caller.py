"""A program that uses puppetmaster over HTTP: one kept connection for its calls, a WebSocket on which it sees jobs.

It does as little as it can, for what it costs is measured along.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any, TypeAlias

import orjson
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import WebSocketException

from benchmarks.options import Failed

Document: TypeAlias = dict[str, Any]

Holds: TypeAlias = Callable[[Document], bool]


class Caller:
    """A connection that stays, for one call at a time; ``async with`` opens and closes it."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._turn = asyncio.Lock()
        self.written = asyncio.Event()
        """Set when a call is on its way to the server as a whole, cleared when the next one begins."""

    async def __aenter__(self) -> Caller:
        self._reader, self._writer = await asyncio.open_connection("127.0.0.1", self._port)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._writer.close()

    async def get(self, path: str) -> Any:
        """What GET answers.

        :raises Failed: when the answer is not 200.
        """
        return await self._call("GET", path, b"")

    async def post(self, path: str, document: Document) -> Any:
        """What POST answers.

        :raises Failed: when the answer is not 200.
        """
        return await self._call("POST", path, orjson.dumps(document))

    async def put(self, path: str, document: Document) -> Any:
        """What PUT answers.

        :raises Failed: when the answer is not 200.
        """
        return await self._call("PUT", path, orjson.dumps(document))

    async def _call(self, method: str, path: str, body: bytes) -> Any:
        head = f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1:{self._port}\r\nContent-Length: {len(body)}\r\n\r\n"
        async with self._turn:
            try:
                status, answer = await self._exchange(head.encode() + body)
            except (OSError, asyncio.IncompleteReadError) as error:
                raise Failed(f"no answer to {method} {path}: {error}") from error
        if status != 200:
            raise Failed(f"{method} {path} is answered {status}: {answer[:500]!r}")
        return orjson.loads(answer)

    async def _exchange(self, request: bytes) -> tuple[int, bytes]:
        """Send a request; on a new connection where the server has let go of this one, as it does when it is idle."""
        try:
            return await self._sent(request)
        except (ConnectionError, asyncio.IncompleteReadError) as error:
            if isinstance(error, asyncio.IncompleteReadError) and error.partial:
                raise
            self._writer.close()
            self._reader, self._writer = await asyncio.open_connection("127.0.0.1", self._port)
            return await self._sent(request)

    async def _sent(self, request: bytes) -> tuple[int, bytes]:
        self.written.clear()
        self._writer.write(request)
        await self._writer.drain()
        self.written.set()
        return await self._answer()

    async def _answer(self) -> tuple[int, bytes]:
        head = (await self._reader.readuntil(b"\r\n\r\n")).lower()
        length = head.partition(b"content-length:")[2].partition(b"\r\n")[0]
        return int(head.split()[1]), await self._reader.readexactly(int(length))


class Watcher:
    """A WebSocket that is told of all jobs; ``async with`` opens and closes it."""

    def __init__(self, port: int) -> None:
        self.last: dict[int, Document] = {}
        """The last state of each job."""
        self.ended_at: dict[int, float] = {}
        """When the last state of a job was seen, by :func:`time.perf_counter`."""
        self._url = f"ws://127.0.0.1:{port}/jobs/ws?limit=1"
        self._waiting: dict[int, list[tuple[Holds, asyncio.Future[Document]]]] = {}
        self._reason = ""

    async def __aenter__(self) -> Watcher:
        self._socket = await connect(self._url, max_size=None, proxy=None)
        self._reading = asyncio.create_task(self._read(self._socket), name="watcher")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._reading.cancel()
        await self._socket.close()

    async def ended(self, job_id: int) -> Document:
        """The last state of a job, as soon as it has ended.

        :raises Failed: when the WebSocket breaks.
        """
        return await self.until(job_id, _has_ended)

    async def until(self, job_id: int, holds: Holds) -> Document:
        """The first state of a job of which something holds, from the last one on that was seen.

        :raises Failed: when the WebSocket breaks.
        """
        if job_id in self.last and holds(self.last[job_id]):
            return self.last[job_id]
        if self._reason:
            raise Failed(self._reason)
        future: asyncio.Future[Document] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(job_id, []).append((holds, future))
        return await future

    async def _read(self, socket: ClientConnection) -> None:
        try:
            async for text in socket:
                self._take(orjson.loads(text))
            self._reason = "the WebSocket was closed"
        except WebSocketException as error:
            self._reason = f"the WebSocket broke: {error}"
        for waiting in self._waiting.values():
            for _, future in waiting:
                if not future.done():
                    future.set_exception(Failed(self._reason))

    def _take(self, job: Document) -> None:
        job_id = job["id"]
        self.last[job_id] = job
        if _has_ended(job):
            self.ended_at.setdefault(job_id, time.perf_counter())
        for holds, future in self._waiting.get(job_id, ()):
            if holds(job) and not future.done():
                future.set_result(job)
        if _has_ended(job):
            self._waiting.pop(job_id, None)


def _has_ended(job: Document) -> bool:
    return job.get("finishedAt") is not None
