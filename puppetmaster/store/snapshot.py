"""The snapshot's format: a JSON file that stock TinyDB opens, written so that it can be read line by line.

::

    {
    "jobs":{
    "1000000":{...},
    "1000001":{...}
    },
    "_journal":{"1":{"version":1,"generation":7,"crc32":"0badcafe"}}}

The last line makes the difference between a file of ours, whose checksum must fit and whose documents need no
decoding, and one that another program wrote, which is read like any JSON.
"""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import orjson

from puppetmaster.errors import StoreCorrupt
from puppetmaster.store.codec import check_id, encode
from puppetmaster.store.frames import VERSION
from puppetmaster.store.ledger import JOURNAL_TABLE, Rows, Tables

_CHUNK_SIZE = 1 << 20
_TRAILER = re.compile(rb'"_journal":\{"1":\{"version":(\d{1,9}),"generation":(\d{1,9}),"crc32":"([0-9a-f]{8})"\}\}\}\n')
_MAX_TRAILER_SIZE = 256
# What follows the last covered byte: the checksum itself, and `"}}}` with a line break.
_UNCOVERED_SIZE = 13


class Snapshot(NamedTuple):
    """What was read."""

    tables: Tables
    # Of the journal that goes on from here; 0 when the file knows none.
    generation: int
    # False when another program wrote the file, so that it carries no valid checksum.
    sealed: bool


def chunks(tables: Tables, generation: int) -> Iterator[bytes]:
    """Yield a snapshot of the tables, in pieces of about a mebibyte."""
    checksum, gathered, size = 0, [], 0
    for line in _lines(tables, generation):
        gathered.append(line)
        size += len(line)
        if size >= _CHUNK_SIZE:
            chunk = b"".join(gathered)
            checksum, gathered, size = zlib.crc32(chunk, checksum), [], 0
            yield chunk
    rest = b"".join(gathered)
    yield b'%b%08x"}}}\n' % (rest, zlib.crc32(rest, checksum))


def _lines(tables: Tables, generation: int) -> Iterator[bytes]:
    yield b"{"
    for table, rows in tables.items():
        yield b"\n%b:{" % orjson.dumps(table)
        separator = b""
        for doc_id, document in rows.items():
            yield b'%b\n"%d":%b' % (separator, doc_id, document)
            separator = b","
        yield b"\n},"
    yield b'\n"_journal":{"1":{"version":%d,"generation":%d,"crc32":"' % (VERSION, generation)


def load(path: Path) -> Snapshot:
    """Read a snapshot, whoever wrote it.

    Raises StoreCorrupt when it is damaged or from a newer release, and FileNotFoundError.
    """
    trailer = _read_trailer(path)
    if trailer is None:
        return _load_foreign(path)
    version, generation, checksum = int(trailer[1]), int(trailer[2]), int(trailer[3], 16)
    _check_version(path, version)
    if _checksum(path) != checksum:
        # A file that was edited on purpose is accepted when crc32 is deleted from its last line.
        raise StoreCorrupt(path, 0, "its checksum does not fit its content")
    return Snapshot(_read_lines(path), generation, sealed=True)


def generation_of(file: BinaryIO) -> int | None:
    """The generation of a snapshot that is open; none when another program wrote it."""
    trailer = _trailer_of(file)
    return None if trailer is None else int(trailer[2])


def _read_trailer(path: Path) -> re.Match[bytes] | None:
    with path.open("rb") as file:
        return _trailer_of(file)


def _trailer_of(file: BinaryIO) -> re.Match[bytes] | None:
    size = file.seek(0, 2)
    file.seek(max(0, size - _MAX_TRAILER_SIZE))
    end = file.read()
    return _TRAILER.fullmatch(end, end.rfind(b"\n", 0, -1) + 1)


def _checksum(path: Path) -> int:
    checksum, left = 0, path.stat().st_size - _UNCOVERED_SIZE
    with path.open("rb") as file:
        while left > 0 and (chunk := file.read(min(left, _CHUNK_SIZE))):
            checksum = zlib.crc32(chunk, checksum)
            left -= len(chunk)
    return checksum


def _read_lines(path: Path) -> Tables:
    """Take apart a file whose checksum is good: nothing in it needs to be doubted or decoded."""
    tables: Tables = {}
    rows: Rows = {}
    with path.open("rb") as file:
        for line in file:
            if line.endswith(b":{\n"):
                rows = tables.setdefault(orjson.loads(line[:-3]), {})
            elif line.endswith((b"},\n", b"}\n")) and line[0] == 0x22 and not line.startswith(b'"_journal":'):
                key, _, document = line.rstrip(b",\n").partition(b":")
                rows[int(key[1:-1])] = document
    return tables


def _load_foreign(path: Path) -> Snapshot:
    try:
        content = json.loads(path.read_bytes() or b"{}")
    except (ValueError, RecursionError) as error:
        raise StoreCorrupt(path, getattr(error, "pos", 0), f"it is no JSON: {error}") from error
    if not isinstance(content, dict):
        raise StoreCorrupt(path, 0, "it holds no tables")
    generation = _read_generation(path, content.pop(JOURNAL_TABLE, None))
    tables = {table: _encode_rows(path, table, rows) for table, rows in content.items()}
    return Snapshot(tables, generation, sealed=False)


def _read_generation(path: Path, own: Any) -> int:
    if own is None:
        return 0
    try:
        _check_version(path, int(own["1"]["version"]))
        return int(own["1"]["generation"])
    except (KeyError, TypeError, ValueError) as error:
        raise StoreCorrupt(path, 0, f"its table {JOURNAL_TABLE!r} is damaged") from error


def _check_version(path: Path, version: int) -> None:
    if version > VERSION:
        raise StoreCorrupt(path, 0, f"a newer release wrote it (format {version})")


def _encode_rows(path: Path, table: str, documents: Any) -> Rows:
    try:
        return dict(_encode_rows_of(documents.items()))
    except (AttributeError, ValueError) as error:
        raise StoreCorrupt(path, 0, f"the table {table!r} holds what can't be stored: {error}") from error


def _encode_rows_of(documents: Iterable[tuple[str, Any]]) -> Iterator[tuple[int, bytes]]:
    for key, document in documents:
        doc_id = int(key)
        check_id(doc_id)
        yield doc_id, encode(document)
