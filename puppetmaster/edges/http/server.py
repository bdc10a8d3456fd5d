"""The server: uvicorn on a socket of ours, on the loop that is already running."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import ssl
import sys
import weakref
from collections.abc import Iterator, Sequence
from pathlib import Path

import uvicorn
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from puppetmaster.address import ListenAddress, load_certificate
from puppetmaster.errors import ListenError, SettingsError

logger = logging.getLogger(__name__)

BACKLOG = 2048

START_POLL = 0.01

STOP_TIMEOUT = 3
"""Seconds that calls under way have to end when the bundle stops. Then their connections are dropped."""

DROPPED_TIMEOUT = 2
"""Seconds that those have who work for connections that were dropped."""

UNSENT_BYTES = 16 * 1024
"""How much of what is written may wait in the kernel, and for a WebSocket as much in front of it.

A kernel takes megabytes for a reader that sleeps: minutes of states, all of them old by the time it wakes.
"""

STALLED_MS = 60_000
"""Milliseconds for which a client may take nothing of what waits for it; then its connection is dropped."""

PING_INTERVAL = 20.0
"""Seconds between two pings to a WebSocket, and the time that it has for the answer."""

MAX_INCOMING_BYTES = 64 * 1024
"""The largest message that a WebSocket takes; what watchers send means nothing."""

WATCHER_BYTES = 64 * 1024
"""How much a watcher may send at once, all frames counted; one that sends more is dropped."""

WATCHER_BYTES_PER_SECOND = 16 * 1024 / 60
"""How much more it may send with every second. An answer to a ping has 10 bytes."""

MAX_HEAD_BYTES = 128 * 1024
"""The longest head of a call, its path and query included; what comes in one read is looked at even if it is longer."""

HEAD_TIMEOUT = 30.0
"""Seconds that a head may take from the connect, or from its first byte, to its end."""

SPARE_FILES = 200
"""How many files can be opened however many clients there are: new connections beyond that are closed at once."""


def bind(listen: ListenAddress) -> socket.socket:
    """A listening socket; bound before anything else is begun, so that a port that is taken stops the start.

    :raises ListenError: when the address can't be had.
    """
    try:
        family, _, _, _, address = socket.getaddrinfo(listen.host, listen.port, type=socket.SOCK_STREAM)[0]
        return _limited(socket.create_server(address[:2], family=family, backlog=BACKLOG))
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno and error.errno > 0 else str(error)
        raise ListenError(str(listen), reason) from None


def _limited(listening: socket.socket) -> socket.socket:
    """Bound what the kernel does for clients that don't read; every connection inherits it. Linux can both of it."""
    for option, value in (("TCP_NOTSENT_LOWAT", UNSENT_BYTES), ("TCP_USER_TIMEOUT", STALLED_MS)):
        if hasattr(socket, option):
            listening.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)
    return listening


def check_certificate(cert: Path, key: Path) -> None:
    """See that HTTPS can be served with a certificate and its key, both PEM files.

    :raises SettingsError: when it can't.
    """
    try:
        load_certificate(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), cert, key)
    except ValueError as error:
        raise SettingsError("http_cert", str(cert), str(error)) from None


class HttpServer:
    """Serves an application on a socket until it is closed.

    :param proxies: the networks of reverse proxies whose word on the caller's address is taken.
    """

    def __init__(
        self,
        app: ASGIApp,
        listening: socket.socket,
        *,
        cert: Path | None = None,
        key: Path | None = None,
        proxies: Sequence[str] = (),
    ) -> None:
        self._listening = listening
        self._scheme = "https" if cert else "http"
        # Its lines on every socket and every malformed call say nothing to an operator, and anybody can cause them.
        logging.getLogger("uvicorn").setLevel(logging.ERROR)
        logging.getLogger("uvicorn.error").addFilter(_is_news)
        config = uvicorn.Config(
            app,
            loop="none",
            lifespan="off",
            http=_Http,
            ws=_WebSocket,
            ws_max_size=MAX_INCOMING_BYTES,
            ws_ping_interval=PING_INTERVAL,
            ws_ping_timeout=PING_INTERVAL,
            # Compressing every state for every watcher costs more than it saves on the networks that this runs in.
            ws_per_message_deflate=False,
            log_config=None,
            access_log=False,
            server_header=False,
            # By itself uvicorn believes every program of this machine: each could be whom it likes in the audit log.
            proxy_headers=bool(proxies),
            forwarded_allow_ips=list(proxies),
            timeout_graceful_shutdown=STOP_TIMEOUT + DROPPED_TIMEOUT,
            ssl_certfile=cert,
            ssl_keyfile=key,
        )
        self._server = _Server(config)
        self._task: asyncio.Task[None] | None = None

    @property
    def url(self) -> str:
        """Where it can be reached."""
        host, port = self._listening.getsockname()[:2]
        return f"{self._scheme}://{ListenAddress(host, port)}"

    async def start(self) -> None:
        """Take calls from now on."""
        url = self.url
        self._task = asyncio.create_task(self._server.serve([self._listening]), name="http")
        while not self._server.started and not self._task.done():  # noqa: ASYNC110 - uvicorn has no event for it
            await asyncio.sleep(START_POLL)
        if self._task.done():
            self._task.result()
        logger.info("HTTP on %s", url, extra={"event": "http_listening", "url": url})

    async def close(self) -> None:
        """Take no more calls, and return when those under way have ended."""
        self._server.should_exit = True
        if self._task is not None:
            await asyncio.gather(self._task, return_exceptions=True)
        self._listening.close()


_NO_NEWS = (
    # Of every WebSocket that is refused with an answer, as if that were an error.
    "ASGI callable returned without completing handshake.",
    # Anybody can send such a message.
    "Invalid UTF-8 sequence received from client.",
    # Those that were left were dropped on purpose.
    "Cancel %s running task(s), timeout graceful shutdown exceeded",
)


def _is_news(record: logging.LogRecord) -> bool:
    """Leave out what uvicorn takes for errors and is none."""
    error = record.exc_info[1] if record.exc_info else None
    return record.msg not in _NO_NEWS and not _is_end(error)


def _is_end(error: BaseException | None) -> bool:
    """Whether it says no more than that a client has gone, or that we stop."""
    if isinstance(error, RuntimeError):
        # What uvloop tells who writes to a connection that was reset, in the moment before it tells that.
        return str(error).endswith("the handler is closed")
    return isinstance(error, (ClientDisconnect, asyncio.CancelledError))


def _most_connections() -> int | None:
    """How many connections leave enough files to open; none where there is no limit."""
    if sys.platform == "win32":
        return None
    import resource  # not on Windows

    # Asked each time: the limit of a process may be changed while it runs.
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return None if limit == resource.RLIM_INFINITY else max(limit - SPARE_FILES, limit // 4)


class _Http(HttpToolsProtocol):
    """One that takes what is no body in measure only, of time and of bytes; the parser takes any amount of it."""

    _head_timer: asyncio.TimerHandle | None = None

    _has_head = False
    """Whether a head has ended and its body has not."""

    _bare_bytes = 0
    """What has come since the parser got on: of a head, of what stands between the pieces of a body, or after it."""

    _cycles: weakref.WeakSet[RequestResponseCycle]
    """The calls that came over it, as far as somebody still works for them."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # as uvicorn has it
        super().connection_made(transport)
        self._cycles = weakref.WeakSet()
        most = _most_connections()
        if most is not None and len(self.connections) > most:
            transport.abort()
            return
        self._expect_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._expect_no_head()
        super().connection_lost(exc)
        # uvicorn tells only the last of those that came one behind the other; the others would go on writing.
        for cycle in self._cycles:
            if not cycle.response_complete:
                cycle.disconnected = True
            cycle.message_event.set()

    def data_received(self, data: bytes) -> None:
        self._bare_bytes += len(data)
        before = self._bare_bytes
        # Only the parser knows what of it is head; so it goes first, and what one read holds is always looked at.
        super().data_received(data)
        if self.transport.is_closing() or self._bare_bytes != before:
            return
        if not self._has_head and self._head_timer is None:
            # Empty lines before a head are no beginning of it to the parser, but have ended uvicorn's own patience.
            self._expect_head()
        if self._bare_bytes > MAX_HEAD_BYTES:
            self._refuse_more()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._expect_head()

    def on_header(self, name: bytes, value: bytes) -> None:
        # What stands behind a body must not get into a head that others have looked at already.
        if not self._has_head:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._expect_no_head()
        self._has_head = True
        self._bare_bytes = 0
        before = self.cycle
        super().on_headers_complete()
        if self.cycle is not before:
            self._cycles.add(self.cycle)

    def on_body(self, body: bytes) -> None:
        self._bare_bytes = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._has_head = False
        self._bare_bytes = 0
        super().on_message_complete()

    def _refuse_more(self) -> None:
        if self._has_head:
            # An answer may be under way: nothing can be said any more.
            self.transport.abort()
        else:
            self.send_400_response("The head of the request is too long.")

    def _expect_head(self) -> None:
        if self._head_timer is None:
            self._head_timer = self.loop.call_later(HEAD_TIMEOUT, self._miss_head)

    def _expect_no_head(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _miss_head(self) -> None:
        self._head_timer = None
        if self.flow.read_paused:
            # Calls before it are not answered yet, and so it may have come and not been read.
            self._expect_head()
        else:
            self.transport.close()


class _WebSocket(WebSocketsSansIOProtocol):
    """One that keeps little for a reader that is slow, waits for none that is gone, and listens little."""

    _has_request = False

    _allowance: float = WATCHER_BYTES
    """How many bytes may come just now."""

    _allowed_at = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self.transport.set_write_buffer_limits(high=UNSENT_BYTES)

    def data_received(self, data: bytes) -> None:
        if not self._has_request:
            # What comes first is the head of the call, and all of it.
            self._has_request = True
            self._allowed_at = self.loop.time()
            super().data_received(data)
            if not self.handshake_initiated:
                self._refuse()
        elif self._allows(len(data)):
            super().data_received(data)
        else:
            self.transport.abort()

    def keepalive_timeout(self) -> None:
        """Drop a client that answers no pings: what waits for it would keep the connection open."""
        super().keepalive_timeout()
        self.transport.abort()

    def _allows(self, size: int) -> bool:
        now = self.loop.time()
        more = (now - self._allowed_at) * WATCHER_BYTES_PER_SECOND
        self._allowance = min(self._allowance + more, WATCHER_BYTES) - size
        self._allowed_at = now
        return self._allowance >= 0

    def _refuse(self) -> None:
        """Answer a head that begins no WebSocket, say a POST; uvicorn would wait for one that does."""
        self.handshake_complete = self.close_sent = True
        answer = self.conn.reject(400, "A WebSocket begins with a GET that is not too long.\n")
        self.transport.write(answer.serialize())
        self.transport.close()


class _Server(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave the signals to the bundle, which stops its parts in order."""
        yield

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """End all connections; those that are left in the end are dropped."""
        dropping = asyncio.get_running_loop().call_later(STOP_TIMEOUT, self._drop)
        try:
            await super().shutdown(sockets)
        finally:
            dropping.cancel()

    def _drop(self) -> None:
        for connection in list(self.server_state.connections):
            connection.transport.abort()
