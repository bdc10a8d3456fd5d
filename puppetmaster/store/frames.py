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
from hashlib import blake2b
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


class Header(NamedTuple):
    """What a frame says of itself."""

    generation: int
    sequence: int
    length: int
    checksum: int

    @classmethod
    def of(cls, line: bytes | memoryview) -> Header | None:
        """What a line of HEADER_SIZE bytes says; none when it is none."""
        match = _HEADER.fullmatch(line)
        return cls(*(int(number, 16) for number in match.groups())) if match else None

    def fits(self, line: bytes | memoryview, body: bytes | memoryview) -> bool:
        """Whether this header, which the line spells, and this body are a good frame."""
        return self.length == len(body) and self.checksum == zlib.crc32(body, zlib.crc32(line[: HEADER_SIZE - 10]))


def encode_frame(frame: Frame, generation: int, sequence: int) -> bytes:
    """Return the frame as bytes, or nothing at all when nothing has changed."""
    body = b"".join(line for table, changes in frame.items() for line in _lines(table, changes))
    return seal(body, generation, sequence) if body else b""


def seal(body: bytes, generation: int, sequence: int) -> bytes:
    """Return the frame with this body."""
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
        header = Header.of(start)
        if header is None or header.length > self._size - self._file.tell():
            return None
        body = self._file.read(header.length)
        # The generation counts too: what lies behind a cut end may be left from an older file.
        if header.generation != self._generation or not header.fits(start, body):
            return None
        if header.sequence != self.sequence + 1:
            raise self._corrupt(f"frame {header.sequence} follows frame {self.sequence}")
        self.sequence = header.sequence
        return body

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
        if newer := _newer_version(tail):
            raise self._corrupt(f"a newer release wrote this journal (format {newer})")
        for start, header, _ in _good_frames(tail):
            if header.generation == self._generation:
                raise self._corrupt(f"a bad frame, and a good one behind it at byte {self.end + start}")

    def _corrupt(self, detail: str) -> StoreCorrupt:
        return StoreCorrupt(self._path, self.end, detail)


def frame_digests(path: Path, generation: int) -> list[bytes] | None:
    """A digest for the body of each good frame of a journal, in their order, whatever lies between.

    None when another release or another generation wrote any of it; empty without a file. Raises OSError.
    """
    try:
        data = memoryview(path.read_bytes())
    except FileNotFoundError:
        return []
    frames = list(_good_frames(data))
    if _newer_version(data) or any(header.generation != generation for _, header, _ in frames):
        return None
    return [blake2b(body, digest_size=16).digest() for _, _, body in frames]


def _good_frames(data: memoryview) -> Iterator[tuple[int, Header, memoryview]]:
    """Find good frames: where each begins, its header and its body."""
    for match in _HEADER.finditer(data):
        header = Header.of(match[0])
        body = data[match.end() : match.end() + header.length] if header else data[:0]
        if header and header.fits(match[0], body):
            yield match.start(), header, body


def _newer_version(data: memoryview) -> int:
    """The version of the format, where a newer release wrote it; else 0."""
    match = _NEWER.match(data)
    version = int(match[1]) if match else 0
    return version if version > VERSION else 0
