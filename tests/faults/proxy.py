"""A TCP proxy that breaks connections in the ways in which networks do.

::

    with Proxy(stand.port) as proxy:            # everything that connects to proxy.port is carried to stand.port
        stand.bundle.env["PUPPETMASTER_BROKER"] = f"mqtt://127.0.0.1:{proxy.port}"
        proxy.delay(0.2)                        # each way, from now on; order is kept
        proxy.clear()                           # well again

One mood holds for all connections at a time, those to come included; each of these calls takes the place of the one
before:

============================ ===========================================================================================
``clear()``                  carries everything. What was held back goes on its way, what was dropped is gone: a
                             connection that lost bytes is reset, for TCP would have sent them again, and it never knows
                             a stream with a hole. ``clear(reset=False)`` leaves such a connection dead without a word,
                             as a firewall does that has forgotten it
``delay(seconds)``           each way
``stall(*ways)``             holds back all that goes UP or DOWN (or both): the cable is out, nothing is lost yet
``black_hole(*ways)``        takes all that goes UP or DOWN (or both) and drops it, the end of a connection too; new
                             connections are accepted, and nobody answers them
``trickle(bytes_per_second)``  each way, in pieces of a few bytes
``refuse()``                 resets all connections; new ones are refused as by a host on which nobody listens
``cut(after, way)``          closes each connection after so many more bytes one way, in the middle of a packet unless
                             that is one byte; those that are made while the mood holds too
============================ ===========================================================================================

``reset()`` is a moment and no mood: all connections get an RST. It runs in a thread of its own with a loop of its own;
every call may come from any thread, and has taken effect when it returns.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import socket
import struct
import threading
from collections import Counter
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from functools import partial
from types import TracebackType
from typing import Any

UP, DOWN = "up", "down"
"""To the broker; from the broker."""

WAYS = (UP, DOWN)

CHUNK = 64 * 1024
"""Bytes that are read at a time."""

HELD = 256
"""Chunks of each way that are on the way at once; who sends more has to wait, as with a full window of TCP."""

TICK = 0.02
"""Seconds between two pieces of a trickle."""

STEER_TIMEOUT = 30.0
"""Seconds for a call from another thread to be carried out."""


@dataclass(frozen=True)
class Mood:
    """What the network is like."""

    delay: float = 0.0
    """Seconds, each way."""
    stalled: frozenset[str] = frozenset()
    dropped: frozenset[str] = frozenset()
    rate: float = math.inf
    """Bytes a second, each way."""
    fuse: tuple[str, float] = ("", math.inf)
    """The way, and the bytes after which a connection is cut there."""


CLEAR = Mood()


@dataclass(eq=False)
class _Link:
    """One connection through us."""

    near: asyncio.StreamWriter
    far: asyncio.StreamWriter
    queues: dict[str, asyncio.Queue[tuple[float, bytes]]]
    fuse: dict[str, float] = field(default_factory=dict)
    """Bytes left until it is cut, by the way."""
    lost: bool = False
    """Whether bytes of it were dropped: it never carries any again."""
    ended: set[str] = field(default_factory=set)
    """The ways on which nothing more will come."""
    tasks: list[asyncio.Task[None]] = field(default_factory=list)


class Proxy:
    """See the top of this module.

    :param upstream: the port of the broker, on 127.0.0.1.
    """

    def __init__(self, upstream: int) -> None:
        self._upstream = upstream
        # It is never listened on, and keeps the port ours while new connections are refused.
        self._place = _bound(0)
        self.port: int = self._place.getsockname()[1]
        self.accepted = 0
        """How many connections were ever made."""
        self.carried: Counter[str] = Counter()
        """Bytes that arrived, by the way."""
        self._mood = CLEAR
        self._links: set[_Link] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._listening: socket.socket | None = None
        self._loop = asyncio.new_event_loop()
        self._changed = asyncio.Event()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy", daemon=True)

    # Life

    def start(self) -> Proxy:
        """Listen from now on."""
        self._thread.start()
        self._steer(self._set(CLEAR))
        return self

    def close(self) -> None:
        """Reset what there is and stop."""
        if not self._thread.is_alive():
            return
        self._steer(self._end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(STEER_TIMEOUT)
        self._loop.close()
        self._place.close()

    def __enter__(self) -> Proxy:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def connections(self) -> int:
        """How many there are now."""
        return len(self._links)

    # Moods

    def clear(self, *, reset: bool = True) -> None:
        """Carry everything again."""
        self._steer(self._clear(reset))

    def delay(self, seconds: float) -> None:
        """Let everything take so long, each way."""
        self._steer(self._set(Mood(delay=seconds)))

    def stall(self, *ways: str) -> None:
        """Hold everything back that goes these ways (none: both)."""
        self._steer(self._set(Mood(stalled=frozenset(ways or WAYS))))

    def black_hole(self, *ways: str) -> None:
        """Drop everything that goes these ways (none: both)."""
        self._steer(self._set(Mood(dropped=frozenset(ways or WAYS))))

    def trickle(self, bytes_per_second: float) -> None:
        """Carry few bytes at a time."""
        self._steer(self._set(Mood(rate=bytes_per_second)))

    def cut(self, after: int, way: str = DOWN) -> None:
        """Close each connection after so many more bytes of this way."""
        self._steer(self._cut(after, way))

    def refuse(self) -> None:
        """Reset all connections and take no new ones."""
        self._steer(self._refuse())

    def reset(self) -> None:
        """Reset all connections there are; the mood stays."""
        self._steer(self._reset())

    def _steer(self, work: Coroutine[Any, Any, None]) -> None:
        # The crossing from the caller's thread into our loop.
        asyncio.run_coroutine_threadsafe(work, self._loop).result(STEER_TIMEOUT)

    async def _set(self, mood: Mood) -> None:
        self._mood = mood
        self._changed.set()
        self._changed = asyncio.Event()
        self._listen()

    async def _clear(self, reset: bool) -> None:
        for link in list(self._links):
            link.fuse.clear()
            if link.lost and reset:
                self._close(link, reset=True)
        await self._set(CLEAR)

    async def _cut(self, after: int, way: str) -> None:
        for link in self._links:
            link.fuse = {way: after}
        await self._set(Mood(fuse=(way, after)))

    async def _refuse(self) -> None:
        await self._set(CLEAR)
        self._stop_listening()
        await self._reset()

    async def _reset(self) -> None:
        for link in list(self._links):
            self._close(link, reset=True)

    # Connections

    # Not asyncio's server: one that is closed in the moment of an accept leaves that connection open, and mute.

    def _listen(self) -> None:
        if self._listening is None:
            self._listening = _bound(self.port)
            self._listening.listen(128)
            self._listening.setblocking(False)
            self._loop.add_reader(self._listening, self._take, self._listening)

    def _take(self, listening: socket.socket) -> None:
        with contextlib.suppress(OSError):  # whoever came has gone again
            connection, _ = listening.accept()
            task = self._loop.create_task(self._accept(connection))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    def _stop_listening(self) -> None:
        if self._listening is not None:
            self._loop.remove_reader(self._listening)
            self._listening.close()
            self._listening = None

    async def _end(self) -> None:
        self._stop_listening()
        await self._reset()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _accept(self, connection: socket.socket) -> None:
        connection.setblocking(False)
        near_reader, near = await asyncio.open_connection(sock=connection)
        try:
            far_reader, far = await asyncio.open_connection("127.0.0.1", self._upstream, limit=CHUNK)
        except OSError:
            _reset(near)  # the broker is away
            return
        if self._listening is None:
            _reset(near)
            _reset(far)
            return
        self.accepted += 1
        link = _Link(near, far, {way: asyncio.Queue(HELD) for way in WAYS})
        way, after = self._mood.fuse
        link.fuse = {way: after} if way else {}
        self._links.add(link)
        for way, reader, writer in ((UP, near_reader, far), (DOWN, far_reader, near)):
            _no_delay(writer)
            for work in (partial(self._read, link, way, reader), partial(self._write, link, way, writer)):
                task = asyncio.create_task(self._guarded(link, work))
                link.tasks.append(task)
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)

    async def _guarded(self, link: _Link, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        try:
            await work()
        except OSError:
            if self._mood.dropped:
                link.lost = True  # nobody hears of the end of a connection either
            else:
                self._close(link, reset=True)

    async def _read(self, link: _Link, way: str, reader: asyncio.StreamReader) -> None:
        while data := await reader.read(CHUNK):
            self.carried[way] += len(data)
            await link.queues[way].put((self._loop.time(), data))
        await link.queues[way].put((self._loop.time(), b""))

    async def _write(self, link: _Link, way: str, writer: asyncio.StreamWriter) -> None:
        queue = link.queues[way]
        while link in self._links:
            came, data = await queue.get()
            await self._delayed(came)
            if not data:
                await self._finish(link, way)
                return
            while data:
                data = await self._carry(link, way, writer, data)

    async def _carry(self, link: _Link, way: str, writer: asyncio.StreamWriter, data: bytes) -> bytes:
        """Send what may be sent now; the rest."""
        await self._until(lambda: way not in self._mood.stalled)
        mood = self._mood
        if link.lost or way in mood.dropped:
            link.lost = True
            return b""
        left = link.fuse.get(way, math.inf)
        if len(data) >= left:
            writer.write(data[: max(0, int(left) - (len(data) == left and len(data) > 1))])
            self._close(link)
            return b""
        piece = data
        if math.isfinite(mood.rate):
            piece = data[: max(1, int(mood.rate * TICK))]
            await asyncio.sleep(len(piece) / mood.rate)
        if link.fuse:
            link.fuse[way] = left - len(piece)
        writer.write(piece)
        await writer.drain()
        return data[len(piece) :]

    async def _finish(self, link: _Link, way: str) -> None:
        await self._until(lambda: way not in self._mood.stalled)
        if self._mood.dropped:
            link.lost = True
        link.ended.add(way)
        if not link.lost or len(link.ended) == len(WAYS):
            self._close(link)

    async def _delayed(self, came: float) -> None:
        """Wait until the delay is over for what came then; a mood without one ends it."""
        while (left := came + self._mood.delay - self._loop.time()) > 0:
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._changed.wait(), left)

    async def _until(self, met: Callable[[], bool]) -> None:
        """Wait for a mood for which something holds."""
        while not met():
            await self._changed.wait()

    def _close(self, link: _Link, *, reset: bool = False) -> None:
        if link not in self._links:
            return
        self._links.discard(link)
        for writer in (link.near, link.far):
            _reset(writer) if reset else writer.close()
        current = asyncio.current_task()
        for task in link.tasks:
            if task is not current:
                task.cancel()


def _bound(port: int) -> socket.socket:
    """A socket that has the port, beside others that do not listen."""
    bound = socket.socket()
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    bound.bind(("127.0.0.1", port))
    return bound


def _no_delay(writer: asyncio.StreamWriter) -> None:
    writer.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def _reset(writer: asyncio.StreamWriter) -> None:
    """Close with an RST, and drop what is unsent."""
    with contextlib.suppress(OSError):
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
