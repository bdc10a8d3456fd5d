"""What comes in over HTTP: bodies of a bounded size, query strings, keys."""

from __future__ import annotations

import asyncio
import contextlib
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from starlette.requests import HTTPConnection, Request

from puppetmaster import bodies
from puppetmaster.errors import Fault, InvalidDocument, TooLarge, TooSlow

MAX_BODY_BYTES = 16 * 1024 * 1024
"""The largest body that is read."""

MAX_DISCARDED_BYTES = 4 * MAX_BODY_BYTES
"""How much of a body that is too large is read and thrown away: a client that is still sending would not see the answer
before its connection breaks."""

BODY_TIMEOUT = 120.0
"""Seconds for a whole body to come: 16 MiB at 1.2 Mbit/s. Who holds one back longer only holds our memory."""

THREAD_BYTES = 64 * 1024
"""A larger body is parsed in a thread, so that the loop has turns meanwhile."""

PARSERS = 2
"""Threads for that; what waits for them is no more than its text."""

IDEMPOTENCY_KEY = "Idempotency-Key"


async def read_document(request: Request, limit: int = MAX_BODY_BYTES) -> Any:
    """The JSON in the body; none when there is no body.

    :raises TooLarge: when it is larger than ``limit`` bytes; no more than these are kept of it.
    :raises TooSlow: when it does not come in time.
    :raises InvalidDocument: when it is no JSON.
    """
    return await _parse(request, await read_body(request, limit))


async def read_value(request: Request, limit: int = MAX_BODY_BYTES) -> Any:
    """The JSON in the body, which has to be there: ``null`` is a value like others.

    :raises TooLarge: and others as :func:`read_document`.
    :raises InvalidDocument: when it is no JSON.
    """
    body = await read_body(request, limit)
    if not body.strip():
        raise InvalidDocument([Fault("", "the body is empty, and has to be JSON")])
    return await _parse(request, body)


async def read_body(request: Request, limit: int = MAX_BODY_BYTES) -> bytes:
    """The body as it came.

    :raises TooLarge: when it is larger than ``limit`` bytes; no more than these are kept of it.
    :raises TooSlow: when it does not come in time.
    """
    try:
        return await asyncio.wait_for(_read_body(request, limit), BODY_TIMEOUT)
    except asyncio.TimeoutError:
        raise TooSlow(f"the body did not come within {BODY_TIMEOUT:g} s") from None


def make_parsers() -> ThreadPoolExecutor:
    """The threads that parse large bodies; an application has them as ``state.parsers``."""
    return ThreadPoolExecutor(PARSERS, "json")


def read_query(request: HTTPConnection) -> dict[str, Any]:
    """The query string: a text for each name, or a list where it stands more than once."""
    query: dict[str, list[str]] = {}
    for name, value in request.query_params.multi_items():
        query.setdefault(name, []).append(value)
    return {name: values[0] if len(values) == 1 else values for name, values in query.items()}


def with_key(request: Request, document: Any) -> Any:
    """The document with the key of the ``Idempotency-Key`` header, if there is one.

    :raises InvalidDocument: when the document has another key.
    """
    header = request.headers.get(IDEMPOTENCY_KEY)
    if header is None or not isinstance(document, (dict, type(None))):
        return document
    key = _key_of(header)
    own = (document or {}).get("key")
    if own is not None and own != key:
        raise InvalidDocument([Fault("key", f"the {IDEMPOTENCY_KEY} header has another key: give one of the two")])
    return {**(document or {}), "key": key}


def _key_of(header: str) -> str:
    # Clients write headers in UTF-8, and ASGI's have one character for each byte.
    with contextlib.suppress(UnicodeDecodeError):
        header = header.encode("latin-1").decode()
    # The draft of the standard has it as a quoted string; most clients send it bare.
    return header[1:-1] if len(header) > 1 and header[0] == header[-1] == '"' else header


async def _parse(request: Request, body: bytes) -> Any:
    if len(body) <= THREAD_BYTES:
        return bodies.read(body)
    return await asyncio.get_running_loop().run_in_executor(request.app.state.parsers, bodies.read, body)


async def _read_body(request: Request, limit: int) -> bytes:
    """The body; never more than ``limit`` bytes of it are kept."""
    declared = request.headers.get("content-length", "")
    size = int(declared) if declared.isascii() and declared.isdigit() else 0
    if size > limit and (size > MAX_DISCARDED_BYTES or "expect" in request.headers):
        raise _too_large(limit)  # not a byte of it was read, and a client that asked first sends none
    chunks: list[bytes] = []
    size = 0
    async for chunk in request.stream():
        size += len(chunk)
        if size <= limit:
            chunks.append(chunk)
        else:
            chunks.clear()
        if size > MAX_DISCARDED_BYTES:
            break
    if size > limit:
        raise _too_large(limit)
    return b"".join(chunks)


def _too_large(limit: int) -> TooLarge:
    return TooLarge(f"a body has at most {limit} bytes; make several calls of it")
