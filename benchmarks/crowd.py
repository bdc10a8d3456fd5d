"""Many watchers of one job, as light as they can be: ``python -m benchmarks.crowd PORT JOB COUNT``.

Each has a WebSocket of its own. The process says ``ready`` when all have had the first state, and ends when all have
seen the job end: then it prints how many states came in all, and the seconds from the first of the last states to the
last of them.
"""

from __future__ import annotations

import asyncio
import base64
import os
import resource
import sys
import time

FINISHED = b'"finishedAt":"'
FRAME = b"\x81"
"""A whole text message, as servers send them: not masked."""


class Watcher(asyncio.Protocol):
    """Counts the states that it is sent, without parsing them."""

    def __init__(self, port: int, job: int, crowd: Crowd) -> None:
        self._request = (
            f"GET /jobs/{job}/ws HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Key: {base64.b64encode(os.urandom(16)).decode()}\r\nSec-WebSocket-Version: 13\r\n\r\n"
        ).encode()
        self._crowd = crowd
        self._buffer = b""
        self._greeted = False
        self._states = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Ask for the WebSocket."""
        assert isinstance(transport, asyncio.Transport)
        transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        """Take what whole messages there are."""
        self._buffer += data
        if not self._greeted:
            head, found, rest = self._buffer.partition(b"\r\n\r\n")
            if not found:
                return
            if b" 101 " not in head.partition(b"\r\n")[0]:
                self._crowd.failed(head)
            self._greeted, self._buffer = True, rest
        while (message := self._message()) is not None:
            if message:
                self._states += 1
                self._crowd.heard(first=self._states == 1, last=FINISHED in message)

    def _message(self) -> bytes | None:
        """The next text message; empty for a ping, none while it is not all there."""
        if len(self._buffer) < 4:
            return None
        size, start = self._buffer[1], 2
        if size == 126:
            size, start = int.from_bytes(self._buffer[2:4], "big"), 4
        if len(self._buffer) < start + size:
            return None
        message = self._buffer[start : start + size] if self._buffer[:1] == FRAME else b""
        self._buffer = self._buffer[start + size :]
        return message


class Crowd:
    """What all watchers together have seen."""

    def __init__(self, count: int) -> None:
        self.states = 0
        self.ready, self.ended = asyncio.Event(), asyncio.Event()
        self.first_end = self.last_end = 0.0
        self._to_start = self._to_end = count

    def heard(self, *, first: bool, last: bool) -> None:
        """One of them had a state: its first, or the one in which the job has ended."""
        self.states += 1
        if first:
            self._to_start -= 1
            if not self._to_start:
                self.ready.set()
        if last:
            self.last_end = time.perf_counter()
            self.first_end = self.first_end or self.last_end
            self._to_end -= 1
            if not self._to_end:
                self.ended.set()

    def failed(self, head: bytes) -> None:
        """One of them was not let in."""
        sys.exit(f"no WebSocket: {head!r}")


async def main(port: int, job: int, count: int) -> None:
    """Watch until the end."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    loop, crowd = asyncio.get_running_loop(), Crowd(count)
    for _ in range(count):
        await loop.create_connection(lambda: Watcher(port, job, crowd), "127.0.0.1", port)
    await crowd.ready.wait()
    print("ready", flush=True)
    await crowd.ended.wait()
    print(crowd.states, crowd.last_end - crowd.first_end, flush=True)


if __name__ == "__main__":
    asyncio.run(main(*map(int, sys.argv[1:4])))
