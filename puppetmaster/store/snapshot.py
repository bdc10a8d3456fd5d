"""The snapshot's format: a JSON file that stock TinyDB opens, written so that it can be read line by line.

::

    {
    "jobs":{
    "1000000":{...},
    "1000001":{...}
    },
    "_journal":{"1":{"version":1,"generation":7,"crc32":"0badcafe"}}}

Whole blocks of lines go from one snapshot to the next as they are. The last line makes the difference between a file
of ours, whose checksum must fit and whose documents need no decoding, and one that another program wrote, which is
read like any JSON.
"""

from __future__ import annotations

import json
import re
import zlib
from array import array
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import orjson

from puppetmaster.errors import StoreCorrupt
from puppetmaster.store.codec import check_id, encode
from puppetmaster.store.files import FileSystem
from puppetmaster.store.frames import VERSION
from puppetmaster.store.ledger import JOURNAL_TABLE, Tables
from puppetmaster.store.rows import BLOCK_SIZE, SEPARATOR, Block, Rows, SnapshotFile, StoredRows, Untouched

_CHUNK_SIZE = 1 << 20
_TRAILER = re.compile(rb'"_journal":\{"1":\{"version":(\d{1,9}),"generation":(\d{1,9}),"crc32":"([0-9a-f]{8})"\}\}\}\n')
_MAX_TRAILER_SIZE = 256
# What follows the last covered byte: the checksum itself, and `"}}}` with a line break.
_UNCOVERED_SIZE = 13

# The lines around those of the rows: the first one, the end of a table's name, and the last one of a table.
_OPENING, _HEADING, _CLOSING = b"{\n", b":{\n", b"},\n"


class Snapshot(NamedTuple):
    """What was read."""

    tables: Tables
    # Of the journal that goes on from here; 0 when the file knows none.
    generation: int
    # False when another program wrote the file, so that it carries no valid checksum.
    sealed: bool


class Writing:
    """A snapshot that is written: its bytes, and where in them the rows are.

    What is as it was in the snapshot before goes from file to file in blocks, whose checksums are looked at on the
    way: a damage that came up since the start does not get a new seal.
    """

    def __init__(self, tables: Tables, generation: int) -> None:
        """The tables must not change until all is written."""
        self._tables, self._generation = tables, generation
        self._blocks: dict[str, list[Block]] = {}
        self.size = 0
        """Bytes so far."""

    def chunks(self) -> Iterator[bytes]:
        """Yield all of it, in pieces of about a mebibyte. Raises FileUnavailable and StoreCorrupt from reading."""
        checksum, gathered, size = 0, [], 0
        for piece in self._pieces():
            gathered.append(piece)
            size += len(piece)
            self.size += len(piece)
            if size >= _CHUNK_SIZE:
                chunk = b"".join(gathered)
                checksum, gathered, size = zlib.crc32(chunk, checksum), [], 0
                yield chunk
        rest = b"".join(gathered)
        rest = b'%b%08x"}}}\n' % (rest, zlib.crc32(rest, checksum))
        self.size += _UNCOVERED_SIZE
        yield rest

    def stored(self, file: SnapshotFile) -> dict[str, StoredRows]:
        """The tables in the file to which all chunks were written."""
        return {table: StoredRows(file, blocks) for table, blocks in self._blocks.items()}

    def _pieces(self) -> Iterator[bytes]:
        yield b"{"
        for table, rows in self._tables.items():
            yield b"\n%b:{" % orjson.dumps(table)
            blocks = self._blocks[table] = []
            separator = b"\n"
            for block, data in _blocks_of(rows):
                yield separator
                blocks.append(block._replace(start=self.size))
                yield data
                separator = SEPARATOR
            yield b"\n},"
        yield b'\n"_journal":{"1":{"version":%d,"generation":%d,"crc32":"' % (VERSION, self._generation)


def _blocks_of(rows: Rows) -> Iterator[tuple[Block, bytes]]:
    """Blocks with their bytes: those that stay as they were, and new ones of the rows between them."""
    gathered: list[tuple[int, bytes]] = []
    size = 0
    for stretch in rows.stretches():
        if isinstance(stretch, Untouched):
            if gathered:
                yield _make_block(gathered)
            gathered, size = [], 0
            yield stretch
            continue
        for row in stretch:
            gathered.append(row)
            size += len(row[1])
            if size >= BLOCK_SIZE:
                yield _make_block(gathered)
                gathered, size = [], 0
    if gathered:
        yield _make_block(gathered)


def _make_block(rows: list[tuple[int, bytes]]) -> tuple[Block, bytes]:
    lines = [line for _, line in rows]
    data = SEPARATOR.join(lines)
    # Where it starts is known when it is written.
    return Block.of(data, lines, array("q", [doc_id for doc_id, _ in rows]), 0), data


def load(path: Path, files: FileSystem | None = None) -> Snapshot:
    """Read a snapshot, whoever wrote it. Of ours only what is where is kept; the file stays open for the rest.

    Raises StoreCorrupt when it is damaged or from a newer release, FileNotFoundError, and FileUnavailable.
    """
    file = SnapshotFile.open(path, files or FileSystem())
    size = file.size
    end = file.read(max(0, size - _MAX_TRAILER_SIZE), _MAX_TRAILER_SIZE)
    trailer = _find_trailer(end)
    if trailer is None:
        return _load_foreign(path, file.read(0, size))
    version, generation, checksum = int(trailer[1]), int(trailer[2]), int(trailer[3], 16)
    _check_version(path, version)
    if _checksum(file, size - _UNCOVERED_SIZE) != checksum:
        # A file that was edited on purpose is accepted when crc32 is deleted from its last line.
        raise StoreCorrupt(path, 0, "its checksum does not fit its content")
    tables: Tables = {
        table: Rows(StoredRows(file, blocks)) for table, blocks in _find_blocks(file, size - len(trailer[0])).items()
    }
    return Snapshot(tables, generation, sealed=True)


def generation_of(file: BinaryIO) -> int | None:
    """The generation of a snapshot that is open; none when another program wrote it."""
    size = file.seek(0, 2)
    file.seek(max(0, size - _MAX_TRAILER_SIZE))
    trailer = _find_trailer(file.read())
    return None if trailer is None else int(trailer[2])


def _find_trailer(end: bytes) -> re.Match[bytes] | None:
    return _TRAILER.fullmatch(end, end.rfind(b"\n", 0, -1) + 1)


def _checksum(file: SnapshotFile, size: int) -> int:
    checksum = 0
    for start in range(0, size, _CHUNK_SIZE):
        checksum = zlib.crc32(file.read(start, min(size - start, _CHUNK_SIZE)), checksum)
    return checksum


def _find_blocks(file: SnapshotFile, end: int) -> dict[str, list[Block]]:
    """Find the rows of a file whose checksum is good: nothing in it needs to be doubted or decoded."""
    found: dict[str, list[Block]] = {}
    blocks: list[Block] = []
    for start, lines in _whole_lines(file, len(_OPENING), end):
        begin = 0
        while (colon := lines.find(_HEADING, begin)) >= 0:
            name = lines.rfind(b"\n", begin, colon) + 1 or begin
            blocks += _blocks_in(lines[begin:name], start + begin)
            blocks = found[orjson.loads(lines[name:colon])] = []
            begin = colon + len(_HEADING)
        blocks += _blocks_in(lines[begin:], start + begin)
    return found


def _whole_lines(file: SnapshotFile, start: int, end: int) -> Iterator[tuple[int, bytes]]:
    """Yield where some lines begin, and the lines: about as many as make a block."""
    while start < end:
        lines, cut = b"", 0
        while not cut:
            piece = file.read(start + len(lines), min(end - start - len(lines), max(BLOCK_SIZE, len(lines))))
            if not piece:
                raise StoreCorrupt(file.path, start, "it ends in the middle of a line")
            lines += piece
            cut = lines.rfind(b"\n") + 1
        yield start, lines[:cut]
        start += cut


def _blocks_in(lines: bytes, start: int) -> Iterator[Block]:
    """The block of some rows of one table, which may end behind them."""
    if lines == _CLOSING or lines.endswith(b"\n" + _CLOSING):
        lines = lines[: -len(_CLOSING)]
    if lines:
        data = lines.removesuffix(b"\n").removesuffix(b",")
        rows = data.split(SEPARATOR)
        ids = array("q", [int(row[1 : row.index(b'"', 1)]) for row in rows])
        yield Block.of(data, rows, ids, start)


def _load_foreign(path: Path, data: bytes) -> Snapshot:
    try:
        content = json.loads(data or b"{}")
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
    rows = Rows()
    try:
        rows.put(dict(_encode_rows_of(documents.items())))
    except (AttributeError, ValueError) as error:
        raise StoreCorrupt(path, 0, f"the table {table!r} holds what can't be stored: {error}") from error
    return rows


def _encode_rows_of(documents: Iterable[tuple[str, Any]]) -> Iterator[tuple[int, bytes]]:
    for key, document in documents:
        doc_id = int(key)
        check_id(doc_id)
        yield doc_id, encode(document)
