"""Bodies of clients that send forms: urlencoded, multipart with files, or JSON after all."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import Executor
from dataclasses import dataclass, field
from typing import Any, Protocol
from urllib.parse import parse_qsl

from starlette.requests import Request

from puppetmaster import bodies
from puppetmaster.edges.http.requests import BODY_TIMEOUT, MAX_BODY_BYTES, THREAD_BYTES, read_body
from puppetmaster.errors import Fault, InvalidDocument, TooLarge, TooSlow

MAX_FORM_FIELDS = 1000
MAX_PART_HEAD = 16 * 1024

MIN_RATE = 16 * 1024
"""Bytes of a form with files that have to come in a second, on average."""

_BOUNDARY = re.compile(r';\s*boundary=(?:"([^"]{1,200})"|([^;,\s"]{1,200}))', re.IGNORECASE)
_NAME = re.compile(rb'^content-disposition:[^\r\n]*;\s*name="?([^";\r\n]{0,200})"?', re.IGNORECASE | re.MULTILINE)
_FILE = re.compile(rb"^content-disposition:[^\r\n]*;\s*filename\*?=", re.IGNORECASE | re.MULTILINE)


class Sink(Protocol):
    """Takes a file; it is called in threads."""

    def write(self, data: bytes) -> None:
        """Take more of it."""
        ...


@dataclass
class Form:
    """What a body holds."""

    fields: dict[str, Any] = field(default_factory=dict)
    """By name; of one that stands twice in a form the first."""
    files: dict[str, Any] = field(default_factory=dict)
    """The sinks that were made for files, by their fields' names."""
    pairs: list[tuple[str, str]] = field(default_factory=list)
    """All fields of a form, in their order."""

    def every(self, name: str) -> list[Any]:
        """All values of a name: those of a form's fields, or the items of a list in JSON."""
        if self.pairs:
            return [value for other, value in self.pairs if other == name]
        value = self.fields.get(name, [])
        return value if isinstance(value, list) else [value]


OpenFile = Callable[[str], "Sink | None"]
"""Makes a sink for a file by its field's name; without one the file is not kept. It is called in a thread."""


async def read_form(
    request: Request, open_file: OpenFile = lambda name: None, *, max_file_bytes: int = MAX_BODY_BYTES
) -> Form:
    """What is in a body, whichever way it came.

    :param max_file_bytes: the bound of all files together; without files a body has at most 16 MiB.
    :raises TooLarge: when something in it is too large.
    :raises TooSlow: when it does not come in time.
    :raises InvalidDocument: when it can't be read, or is JSON and no object.
    """
    kind = request.headers.get("content-type", "")
    if _type(kind) == "multipart/form-data":
        return await _read_multipart(request, kind, open_file, max_file_bytes)
    body = await read_body(request)
    if len(body) <= THREAD_BYTES:
        return _parse(body, kind)
    return await asyncio.get_running_loop().run_in_executor(request.app.state.parsers, _parse, body, kind)


def _type(kind: str) -> str:
    return kind.partition(";")[0].strip().lower()


def _parse(body: bytes, kind: str) -> Form:
    """What is in a body of this content type; curl calls JSON a form unless it is told."""
    if _type(kind) != "application/json" and body.lstrip()[:1] != b"{":
        return _urlencoded(body)
    document = bodies.read(body)
    if document is None:
        return Form()
    if not isinstance(document, dict):
        raise _bad("the body has to be a JSON object, or a form")
    return Form(document)


def _urlencoded(body: bytes) -> Form:
    try:
        pairs = parse_qsl(
            body.decode("ascii"), keep_blank_values=True, max_num_fields=MAX_FORM_FIELDS, errors="replace"
        )
    except ValueError as error:
        raise _bad(f"the body is neither JSON nor a form: {error!s:.200}") from None
    if not pairs and body.strip():
        raise _bad("the body is neither JSON nor a form")
    return Form(dict(reversed(pairs)), pairs=pairs)


# Multipart


async def _read_multipart(request: Request, kind: str, open_file: OpenFile, max_file_bytes: int) -> Form:
    found = _BOUNDARY.search(kind)
    if found is None:
        raise _bad("the type of the body names no boundary")
    reader = Multipart((found[1] or found[2]).encode("latin-1", "replace"))
    form = Form()
    taker = _Taker(form, open_file, max_file_bytes, request.app.state.parsers)
    async for chunk in _chunks(request, max_file_bytes + 2 * MAX_BODY_BYTES):
        for event in reader.feed(chunk):
            await taker.take(event)
    if not reader.is_over:
        raise _bad("the form has no end")
    taker.end()
    return form


async def _chunks(request: Request, limit: int) -> AsyncIterator[bytes]:
    """The body as it comes. A file may take long, but not for ever: whoever sends one holds a place meanwhile."""
    stream, loop = request.stream().__aiter__(), asyncio.get_running_loop()
    begun, size = loop.time(), 0
    while True:
        left = begun + BODY_TIMEOUT + size / MIN_RATE - loop.time()
        try:
            chunk = await asyncio.wait_for(stream.__anext__(), min(left, BODY_TIMEOUT))
        except StopAsyncIteration:
            return
        except asyncio.TimeoutError:
            raise TooSlow(
                f"after {loop.time() - begun:.0f} s there were {size} bytes of the body; at least {MIN_RATE} are "
                f"to come in a second, and some within {BODY_TIMEOUT:g} s"
            ) from None
        size += len(chunk)
        if size > limit:
            raise TooLarge(f"a form with files has at most {limit} bytes")
        yield chunk


class _Taker:
    """Takes the parts of a form as they come."""

    def __init__(self, form: Form, open_file: OpenFile, max_file_bytes: int, threads: Executor) -> None:
        self._form = form
        self._open_file = open_file
        self._max_file_bytes = max_file_bytes
        self._threads = threads
        self._parts = 0
        self._field_bytes = self._file_bytes = 0
        self._name = ""
        self._is_file = False
        self._sink: Sink | None = None
        self._value: list[bytes] = []

    async def take(self, event: bytes | Head) -> None:
        if isinstance(event, Head):
            await self._begin(event)
        elif self._is_file:
            await self._take_file(event)
        else:
            self._field_bytes += len(event)
            if self._field_bytes > MAX_BODY_BYTES:
                raise TooLarge(f"the fields of a form have at most {MAX_BODY_BYTES} bytes")
            self._value.append(event)

    def end(self) -> None:
        """The part that came last is whole."""
        if self._parts and not self._is_file and self._name:
            value = b"".join(self._value).decode("utf-8", "replace")
            self._form.fields.setdefault(self._name, value)
            self._form.pairs.append((self._name, value))
        self._value = []

    async def _begin(self, head: Head) -> None:
        self.end()
        self._parts += 1
        if self._parts > MAX_FORM_FIELDS:
            raise _bad(f"a form has at most {MAX_FORM_FIELDS} fields")
        self._name, self._is_file, self._sink = head.name, head.is_file, None
        if head.is_file and head.name not in self._form.files:
            self._sink = await self._in_thread(lambda: self._open_file(head.name))
            if self._sink is not None:
                self._form.files[head.name] = self._sink

    async def _take_file(self, data: bytes) -> None:
        self._file_bytes += len(data)
        if self._file_bytes > self._max_file_bytes:
            raise TooLarge(f"the files of a form have at most {self._max_file_bytes} bytes")
        sink = self._sink
        if sink is not None:
            await self._in_thread(lambda: sink.write(data))

    async def _in_thread(self, call: Callable[[], Any]) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._threads, call)


@dataclass(frozen=True, slots=True)
class Head:
    """A part of a form begins."""

    name: str
    is_file: bool


class Multipart:
    """Takes a multipart form apart as it comes (RFC 7578), and keeps no more of it than a boundary's length."""

    def __init__(self, boundary: bytes) -> None:
        self.is_over = False
        """Whether its end has come."""
        self._delimiter = b"\r\n--" + boundary
        self._buffer = b"\r\n"  # the first boundary has no line before it
        self._in_head = False
        self._in_part = False

    def feed(self, data: bytes) -> Iterator[bytes | Head]:
        """Take more of it: the heads of parts, and what they hold in pieces.

        :raises InvalidDocument: when it is no form.
        """
        if self.is_over:
            return  # what follows the end means nothing, and is not kept
        self._buffer += data
        while not self.is_over:
            event = self._head() if self._in_head else self._data()
            if event is None:
                return
            if event != b"":
                yield event

    def _head(self) -> Head | bytes | None:
        """Read what stands between a boundary and a part's own bytes."""
        if self._buffer.startswith(b"--"):
            self.is_over, self._buffer = True, b""
            return None
        head, found, rest = self._buffer.partition(b"\r\n\r\n")
        if not found:
            if len(head) > MAX_PART_HEAD:
                raise _bad("the head of a part of the form is too long")
            return None
        self._buffer, self._in_head, self._in_part = b"" + rest, False, True
        name = _NAME.search(head)
        return Head(name[1].decode("utf-8", "replace") if name else "", _FILE.search(head) is not None)

    def _data(self) -> bytes | None:
        """Read a part's bytes, up to where a boundary may begin."""
        data, found, rest = self._buffer.partition(self._delimiter)
        if found:
            self._buffer, self._in_head = rest, True
        else:
            keep = len(self._delimiter) - 1
            data, self._buffer = self._buffer[:-keep], self._buffer[-keep:]
            if not data:
                return None
        if self._in_part:
            self._in_part = not found
            return data
        return b""


def _bad(message: str) -> InvalidDocument:
    return InvalidDocument([Fault("", message)])
