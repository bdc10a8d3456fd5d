"""The journal's format: frames of changed documents, each with a checksum.

A frame is a line of ASCII and a body::

    PMJ1 <generation> <sequence> <length> <crc32>      four numbers of eight hexadecimal digits
    ["requests",null]                                  the table was dropped
    ["requests"]                                       the table was made
    ["requests",1000000]                               a document was removed
    ["requests",1000000,{...}]                         a document was put

Sequences count up from 1, so that a frame that went missing is noticed. The checksum covers the numbers before
it and the body. A document holds no line break (JSON escapes it), so nothing in a body looks like a header.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

import orjson

from puppetmaster.errors import StoreCorrupt
from puppetmaster.store.ledger import Changes, Frame, Tables
from puppetmaster.store.rows import Rows

VERSION = 1
"""The version of journal and snapshot; what a newer release wrote is refused."""

HEADER_SIZE = 41
MAX_BODY_SIZE = 0xFFFFFFFF
"""What fits the length field; more than that has to become a snapshot."""

_NUMBER = rb" ([0-9a-f]{8})"
_HEADER = re.compile(b"PMJ1" + _NUMBER * 4 + b"\n")
_NEWER = re.compile(rb"PMJ(\d+) ")
_LINE = re.compile(rb'\[("(?:[^"\\]|\\.)*")(?:,(null|-?\d+)(?:,(\{.*\}))?)?\]')


class _Header(NamedTuple):
    generation: int
    sequence: int
    length: int
    checksum: int


def encode_frame(frame: Frame, generation: int, sequence: int) -> bytes:
    """Return the frame as bytes, or nothing at all when nothing has changed."""
    body = b"".join(line for table, changes in frame.items() for line in _lines(table, changes))
    if not body:
        return b""
    numbers = b"PMJ%d %08x %08x %08x" % (VERSION, generation, sequence, len(body))
    return b"%b %08x\n%b" % (numbers, zlib.crc32(body, zlib.crc32(numbers)), body)


def _lines(table: str, changes: Changes) -> Iterator[bytes]:
    name = orjson.dumps(table)
    if changes.dropped:
        yield b"[%b,null]\n" % name
    if changes.created:
        yield b"[%b]\n" % name
    for doc_id in changes.removed:
        yield b"[%b,%d]\n" % (name, doc_id)
    put = b"[%b,%%d,%%b]\n" % name.replace(b"%", b"%%")
    for row in changes.puts.items():
        yield put % row


class Replay:
    """Reads a journal from its beginning and carries out its frames, one at a time."""

    def __init__(self, file: BinaryIO, path: Path, size: int, generation: int) -> None:
        self._file, self._path, self._size, self._generation = file, path, size, generation
        self.sequence = 0
        """Of the last good frame."""
        self.end = 0
        """Where the last good frame ends; what follows is a torn tail."""

    def run(self, tables: Tables) -> None:
        """Carry out all good frames.

        Raises StoreCorrupt when a bad frame has a good one behind it, when a frame is missing, and when a
        newer release wrote the journal. A bad end is what a crash leaves, and no error.
        """
        while (body := self._read_body()) is not None:
            for line in body.splitlines():
                self._carry_out(line, tables)
            self.end = self._file.tell()
        if self.end < self._size:
            self._examine_tail()

    def _read_body(self) -> bytes | None:
        """Return the body of the next frame, or None when no good frame begins here."""
        start = self._file.read(HEADER_SIZE)
        header = _parse_header(start)
        if header is None or header.length > self._size - self._file.tell():
            return None
        body = self._file.read(header.length)
        if not self._is_good(header, start, memoryview(body)):
            return None
        if header.sequence != self.sequence + 1:
            raise self._corrupt(f"frame {header.sequence} follows frame {self.sequence}")
        self.sequence = header.sequence
        return body

    def _is_good(self, header: _Header, start: bytes, body: memoryview) -> bool:
        # The generation counts too: what lies behind a cut end may be left from an older file.
        numbers = start[: HEADER_SIZE - 10]
        return header.generation == self._generation and header.checksum == zlib.crc32(body, zlib.crc32(numbers))

    def _carry_out(self, line: bytes, tables: Tables) -> None:
        match = _LINE.fullmatch(line)
        if match is None:
            raise self._corrupt("a frame with a good checksum holds a line of an unknown form")
        name, key, document = match.groups()
        table = orjson.loads(name)
        if key == b"null":
            tables.pop(table, None)
            return
        rows = tables.get(table)
        if rows is None:
            rows = tables[table] = Rows()
        if document is not None:
            rows[int(key)] = document
        elif key is not None:
            rows.discard(int(key))

    def _examine_tail(self) -> None:
        self._file.seek(self.end)
        tail = memoryview(self._file.read())
        newer = _NEWER.match(tail)
        if newer and int(newer[1]) > VERSION:
            raise self._corrupt(f"a newer release wrote this journal (format {int(newer[1])})")
        for match in _HEADER.finditer(tail):
            header = _parse_header(match[0])
            body = tail[match.end() : match.end() + header.length] if header else tail[:0]
            if header and len(body) == header.length and self._is_good(header, match[0], body):
                raise self._corrupt(f"a bad frame, and a good one behind it at byte {self.end + match.start()}")

    def _corrupt(self, detail: str) -> StoreCorrupt:
        return StoreCorrupt(self._path, self.end, detail)


def _parse_header(line: bytes) -> _Header | None:
    match = _HEADER.fullmatch(line)
    return _Header(*(int(number, 16) for number in match.groups())) if match else None
