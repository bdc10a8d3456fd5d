"""The output of a command while it runs, in numbered chunks: the JSON of ``/remote/<destination>/output/<request id>``.

::

    {"number": 0, "stream": "stdout", "offset": 0, "time": "2026-01-31T12:00:00.000Z", "text": "hello\\n"}
    {"number": 1, "stream": "stdout", "offset": 6, "time": "...", "base64": "/w=="}       bytes that are no UTF-8
    {"number": 2, "stream": "cut",    "offset": 7, "time": "...", "bytes": 1000}         so many are left out here
    {"number": 3, "stream": "end",    "offset": 0, "time": "...", "code": 200}           nothing follows

Numbers count from 0 over all streams of a request without a gap, so that a reader can go on where it stopped.
``offset`` is the place of the first byte in its stream. A sequence of commands has one numbering; ``command`` tells
which of them speaks, counted from 0, and is left out for the first. Chunks may come twice (QoS 1, or a request that
was repeated).
"""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass
from enum import Enum
from typing import Any

import orjson

MAX_CHUNK_BYTES = 32 * 1024
"""The most that a chunk holds of a stream: small enough to be live, large enough to be cheap."""

MAX_PAYLOAD_BYTES = 4 * MAX_CHUNK_BYTES
"""The longest JSON of a chunk: base64, or a text of escaped characters, and what is around it."""

MANY = 1024
"""So many characters for which JSON has six bytes may be in a text, and an eighth of it more."""

_CONTROL = bytes(code for code in range(32) if code not in b"\t\n\r")

MAX_NUMBER = 2**53
"""Whole numbers up to this are safe in JSON."""


class Stream(str, Enum):
    """What a chunk is about; the value is the word on the wire."""

    STDOUT = "stdout"
    STDERR = "stderr"
    CUT = "cut"
    """No output, but the number of bytes that are left out here."""
    END = "end"
    """The command has ended; ``code`` is that of its answer."""

    def __str__(self) -> str:
        return str(self.value)


@dataclass(frozen=True, slots=True, kw_only=True)
class Chunk:
    """A piece of output."""

    number: int
    stream: Stream
    offset: int = 0
    """Bytes of its stream before it."""
    time: str
    """When it was read, as :func:`puppetmaster.times.to_text` writes it."""
    data: bytes = b""
    command: int = 0
    """Which command of a sequence."""
    size: int = 0
    """How many bytes are left out, for ``cut``."""
    code: int | None = None
    """The code of the answer, for ``end``."""


def to_document(chunk: Chunk) -> dict[str, Any]:
    """A chunk as it travels."""
    document: dict[str, Any] = {
        "number": chunk.number,
        "stream": chunk.stream.value,
        "offset": chunk.offset,
        "time": chunk.time,
    }
    if chunk.command:
        document["command"] = chunk.command
    if chunk.stream is Stream.CUT:
        document["bytes"] = chunk.size
    elif chunk.stream is Stream.END:
        document["code"] = chunk.code
    else:
        text = _text(chunk.data)
        if text is None:
            document["base64"] = base64.b64encode(chunk.data).decode("ascii")
        else:
            document["text"] = text
    return document


def _text(data: bytes) -> str | None:
    """Data as the text that it is, unless it is none, or mostly of characters that JSON has six bytes for."""
    if len(data) - len(data.translate(None, _CONTROL)) > MANY + len(data) // 8:
        return None
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return None


def encode(chunk: Chunk) -> bytes:
    """A chunk as JSON."""
    return orjson.dumps(to_document(chunk))


def decode(payload: bytes) -> Chunk:
    """A chunk from its JSON.

    :raises ValueError: when it is none.
    """
    if len(payload) > MAX_PAYLOAD_BYTES:
        raise ValueError(f"a chunk has at most {MAX_PAYLOAD_BYTES} bytes, this one has {len(payload)}")
    document = orjson.loads(payload)
    if type(document) is not dict:
        raise ValueError("it is not a JSON object")
    time = document.get("time")
    if not isinstance(time, str) or len(time) > 40:
        raise ValueError("its time is no time")
    code = document.get("code")
    return Chunk(
        number=_whole(document, "number"),
        stream=Stream(document.get("stream")),
        offset=_whole(document, "offset"),
        time=time,
        data=_data(document),
        command=_whole(document, "command"),
        size=_whole(document, "bytes"),
        code=code if type(code) is int else None,
    )


def _whole(document: dict[str, Any], name: str) -> int:
    value = document.get(name, 0)
    if type(value) is not int or not 0 <= value <= MAX_NUMBER:
        raise ValueError(f"its {name} is no whole number from 0 up")
    return value


def _data(document: dict[str, Any]) -> bytes:
    text, encoded = document.get("text", ""), document.get("base64", "")
    if not isinstance(text, str) or not isinstance(encoded, str):
        raise ValueError("its text is no text")
    if text:
        return text.encode("utf-8")
    try:
        return base64.b64decode(encoded, validate=True)
    except (binascii.Error, ValueError):
        raise ValueError("its base64 can't be read") from None
