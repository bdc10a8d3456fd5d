"""The server: uvicorn on a socket of ours, on the loop that is already running."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from puppetmaster.address import ListenAddress
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


MAX_HEAD_BYTES = 128 * 1024
"""The longest head of a call, its path and query included; what comes in one read is looked at even if it is longer."""


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
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(cert, key)
    except (OSError, ValueError) as error:
        reason = f"there is no certificate in it that fits the key in {key}: {error}"
        raise SettingsError("http_cert", str(cert), reason) from None


class HttpServer:
    """Serves an application on a socket until it is closed."""

    def __init__(
        self, app: ASGIApp, listening: socket.socket, *, cert: Path | None = None, key: Path | None = None
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
        logger.info("HTTP on %s", url)

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
    return record.msg not in _NO_NEWS


class _Http(HttpToolsProtocol):
    """One that takes no head of any length: its parser keeps all of it, and copies it at every read."""

    _head_bytes: int | None = None
    """How much of a head has come; none within a body."""

    def data_received(self, data: bytes) -> None:
        if self._head_bytes is not None:
            self._head_bytes += len(data)
            if self._head_bytes > MAX_HEAD_BYTES:
                self.send_400_response("The head of the request is too long.")
                return
        super().data_received(data)

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._head_bytes = 0

    def on_headers_complete(self) -> None:
        super().on_headers_complete()
        self._head_bytes = None


class _WebSocket(WebSocketsSansIOProtocol):
    """One that keeps little for a reader that is slow, and waits for none that is gone."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self.transport.set_write_buffer_limits(high=UNSENT_BYTES)

    def keepalive_timeout(self) -> None:
        """Drop a client that answers no pings: what waits for it would keep the connection open."""
        super().keepalive_timeout()
        self.transport.abort()


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
