"""The rows of a table: what lies in a snapshot file is read from it, what changed since is in memory.

Of a row in the file only its id and its place are kept, 12 bytes. Rows are read in blocks of some 64 KiB, each with a
checksum that was taken when the whole file was known to be good: what a disk returns is the document that was
written, or an error.
"""

from __future__ import annotations

import os
import weakref
import zlib
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Mapping, MutableMapping
from contextlib import suppress
from heapq import merge
from itertools import accumulate, chain, islice
from pathlib import Path
from typing import Any, NamedTuple

from puppetmaster.errors import FileUnavailable, StoreCorrupt
from puppetmaster.store.files import FileSystem

BLOCK_SIZE = 64 << 10
"""Bytes: large enough for one read and one checksum to be cheap for each row, small enough to read for one row."""

PINNED_SIZE = 1 << 20
"""A table of at most so many bytes stays in memory whole: the small ones that are read all the time."""

SEPARATOR = b",\n"
"""Between two lines of a table. No document holds a line break, so it is nowhere else."""

_SORTED_AT_ONCE = 1 << 14


class Block(NamedTuple):
    """Some rows in a row, somewhere in a snapshot: ``"<id>":<document>`` each, with separators in between."""

    start: int
    """Where in the file."""
    size: int
    checksum: int
    """CRC32 of its bytes."""
    ids: array[int]
    ends: array[int]
    """Where each row ends, from the start of the block."""

    @classmethod
    def of(cls, data: bytes, lines: Iterable[bytes], ids: array[int], start: int) -> Block:
        """The block of these lines, which joined are the data."""
        gaps = range(0, len(ids) * len(SEPARATOR), len(SEPARATOR))
        ends = array("I", map(int.__add__, accumulate(map(len, lines)), gaps))
        return cls(start, len(data), zlib.crc32(data), ids, ends)

    def line(self, data: bytes, index: int) -> bytes:
        """One of its rows."""
        start = self.ends[index - 1] + len(SEPARATOR) if index else 0
        return data[start : self.ends[index]]


def line_of(doc_id: int, body: bytes) -> bytes:
    """A row as it is written."""
    return b'"%d":%b' % (doc_id, body)


def body_of(line: bytes) -> bytes:
    """The document of a row."""
    return line[line.index(b":") + 1 :]


class SnapshotFile:
    """A snapshot that stays open for as long as anybody reads from it, whatever becomes of its name."""

    def __init__(self, path: Path, descriptor: int, files: FileSystem) -> None:
        self.path = path
        self._descriptor, self._files = descriptor, files
        self.close = weakref.finalize(self, _close_quietly, files, descriptor)
        """Closes it before its time; nobody may read from it any more."""

    @classmethod
    def open(cls, path: Path, files: FileSystem) -> SnapshotFile:
        """Open it. Raises OSError."""
        return cls(path, files.open(path, os.O_RDONLY), files)

    @property
    def size(self) -> int:
        """Bytes in the file."""
        return os.fstat(self._descriptor).st_size

    def read(self, start: int, size: int) -> bytes:
        """So many bytes; fewer where the file ends. Raises FileUnavailable."""
        try:
            return self._files.read_all(self._descriptor, size, start)
        except OSError as error:
            raise FileUnavailable(self.path, "read", f"{error.strerror or error} at byte {start}") from error

    def read_block(self, block: Block) -> bytes:
        """All bytes of a block. Raises FileUnavailable, and StoreCorrupt when they are not those that were written."""
        data = self.read(block.start, block.size)
        if len(data) != block.size or zlib.crc32(data) != block.checksum:
            raise StoreCorrupt(self.path, block.start, "it was changed or damaged since it was opened")
        return data


def _close_quietly(files: FileSystem, descriptor: int) -> None:
    with suppress(OSError):
        files.close(descriptor)


class StoredRows:
    """The rows of one table in a snapshot, in their order there. Immutable.

    Reading one raises FileUnavailable when the disk refuses, and StoreCorrupt when it returns something else.
    """

    def __init__(self, file: SnapshotFile | None = None, blocks: Iterable[Block] = ()) -> None:
        self.blocks = list(blocks)
        self._file = file
        self._counts = [0, *accumulate(len(block.ids) for block in self.blocks)]
        self._firsts = [block.ids[0] for block in self.blocks]
        self._order = None if self._is_ascending() else self._sort()
        self._highest = self.blocks[-1].ids[-1] if self.blocks else -(2**63)
        """The last id, where they ascend."""
        # What was read last: rows that belong together are asked for one after the other.
        self._at_hand: tuple[Block | None, bytes] = (None, b"")
        self._pinned: dict[int, bytes] = {}
        if sum(block.size for block in self.blocks) <= PINNED_SIZE:
            self._pinned = {block.start: self.read(block) for block in self.blocks}

    @property
    def size_in_memory(self) -> int:
        """Bytes of documents that are held in memory."""
        return len(self._at_hand[1]) + sum(map(len, self._pinned.values()))

    def __len__(self) -> int:
        return self._counts[-1]

    def __contains__(self, doc_id: object) -> bool:
        return isinstance(doc_id, int) and self._find(doc_id) is not None

    def __iter__(self) -> Iterator[int]:
        return chain.from_iterable(block.ids for block in self.blocks)

    def get(self, doc_id: int) -> bytes | None:
        """One document, or none."""
        position = self._find(doc_id)
        if position is None:
            return None
        number = bisect_right(self._counts, position) - 1
        block = self.blocks[number]
        return body_of(block.line(self._read_at_hand(block), position - self._counts[number]))

    def items(self) -> Iterator[tuple[int, bytes]]:
        """All documents, read block by block."""
        for block in self.blocks:
            yield from zip(block.ids, map(body_of, self.read(block).split(SEPARATOR)), strict=True)

    def read(self, block: Block) -> bytes:
        """The bytes of one of the blocks."""
        pinned = self._pinned.get(block.start)
        if pinned is not None:
            return pinned
        assert self._file is not None, "blocks lie in a file"
        return self._file.read_block(block)

    def _read_at_hand(self, block: Block) -> bytes:
        held, data = self._at_hand
        if held is not block:
            data = self.read(block)
            self._at_hand = (block, data)
        return data

    # Where a row is. Ids nearly always ascend; where they do not, they are kept a second time, sorted.

    def _find(self, doc_id: int) -> int | None:
        if self._order is not None:
            ids, positions = self._order
            index = bisect_left(ids, doc_id)
            return positions[index] if index < len(ids) and ids[index] == doc_id else None
        if doc_id > self._highest:
            return None  # as of all rows that are new
        number = bisect_right(self._firsts, doc_id) - 1
        if number < 0:
            return None
        ids = self.blocks[number].ids
        index = bisect_left(ids, doc_id)
        return self._counts[number] + index if index < len(ids) and ids[index] == doc_id else None

    def _is_ascending(self) -> bool:
        last = None
        for block in self.blocks:
            ids = block.ids.tolist()
            if (last is not None and ids[0] <= last) or ids != sorted(ids):
                return False
            last = ids[-1]
        return True

    def _sort(self) -> tuple[array[int], array[int]]:
        """All ids sorted, and where each is; a piece at a time, for the loop waits while one is sorted."""
        ids, count = array("q", self), len(self)
        pieces = (range(start, min(start + _SORTED_AT_ONCE, count)) for start in range(0, count, _SORTED_AT_ONCE))
        positions = array("Q", merge(*(sorted(piece, key=ids.__getitem__) for piece in pieces), key=ids.__getitem__))
        return array("q", (ids[position] for position in positions)), positions


class Untouched(NamedTuple):
    """A block that goes to the next snapshot as it is."""

    block: Block
    data: bytes


class Rows(MutableMapping[int, bytes]):
    """One table: encoded documents by id, in the order in which they were first put.

    It behaves like a dict, whose rows were all in memory. Below lies what a snapshot holds, on top what is new since
    then, changed, or gone.
    """

    __slots__ = ("_base", "_gone", "_hot", "_replaced")

    def __init__(self, base: StoredRows | Rows | None = None) -> None:
        self._base: StoredRows | Rows = StoredRows() if base is None else base
        self._hot: dict[int, bytes] = {}
        # Of the base. What was put again since is in both: its place is at the end.
        self._gone: set[int] = set()
        # How many of the hot ones take the place of one of the base.
        self._replaced = 0

    @property
    def size_in_memory(self) -> int:
        """Bytes of documents that are held in memory."""
        return self._base.size_in_memory + sum(map(len, self._hot.values()))

    def __len__(self) -> int:
        return len(self._base) - len(self._gone) + len(self._hot) - self._replaced

    def __contains__(self, doc_id: object) -> bool:
        return doc_id in self._hot or self._is_below(doc_id)

    def __getitem__(self, doc_id: int) -> bytes:
        body = self._hot.get(doc_id)
        if body is None and doc_id not in self._gone:
            body = self._base.get(doc_id)
        if body is None:
            raise KeyError(doc_id)
        return body

    def __setitem__(self, doc_id: int, body: bytes) -> None:
        if doc_id not in self._hot and self._is_below(doc_id):
            self._replaced += 1
        self._hot[doc_id] = body

    def __delitem__(self, doc_id: int) -> None:
        if not self.discard(doc_id):
            raise KeyError(doc_id)

    def __iter__(self) -> Iterator[int]:
        yield from (doc_id for doc_id in self._base if doc_id not in self._gone)
        yield from self._fresh()

    def put(self, rows: Mapping[int, bytes]) -> None:
        """Insert or replace documents."""
        hot, gone, is_stored = self._hot, self._gone, self._base.__contains__
        for doc_id in rows:
            if doc_id not in hot and is_stored(doc_id) and doc_id not in gone:
                self._replaced += 1
        hot.update(rows)

    def discard(self, doc_id: int) -> bool:
        """Remove a document; whether it was there. Nothing is read for it."""
        below = self._is_below(doc_id)
        if below:
            self._gone.add(doc_id)
        if self._hot.pop(doc_id, None) is None:
            return below
        self._replaced -= below
        return True

    def lines(self) -> Iterator[tuple[int, bytes]]:
        """Ids and documents, in their order; nothing may change meanwhile, see :meth:`copy`."""
        for doc_id, body in self._base.items():
            if doc_id not in self._gone:
                yield doc_id, self._hot.get(doc_id, body)
        yield from ((doc_id, self._hot[doc_id]) for doc_id in self._fresh())

    def items(self) -> Any:
        """Iterate over ids and documents as they are at the call."""
        return self.copy().lines()

    def copy(self) -> Rows:
        """The rows as they are now. Costs what has changed since the snapshot, and shares the rest."""
        base = self._base
        copy = Rows(base.copy() if isinstance(base, Rows) else base)
        copy._hot, copy._gone, copy._replaced = self._hot.copy(), self._gone.copy(), self._replaced
        return copy

    def holder(self, doc_id: int) -> bytes | StoredRows | None:
        """A document, or the stored rows that have it, as long as they are held; none when there is none."""
        rows: StoredRows | Rows = self
        while isinstance(rows, Rows):
            if (body := rows._hot.get(doc_id)) is not None:
                return body
            if doc_id in rows._gone:
                return None
            rows = rows._base
        return rows if doc_id in rows else None

    # For a new snapshot.

    def freeze(self) -> Rows:
        """The rows as they are now, never to change again until the next freeze; what changes from now on lies on top.

        Takes no time, however many there are. :meth:`settle` is to follow when they are in a new snapshot; until then
        they are in memory still.
        """
        base = self._base
        if isinstance(base, Rows):
            # The snapshot that was to hold them did not come to be.
            base._take_over(self)
        else:
            base = Rows(base)
            base._hot, base._gone, base._replaced = self._hot, self._gone, self._replaced
        self._base, self._hot, self._gone, self._replaced = base, {}, set(), 0
        return base

    def settle(self, frozen: Rows, stored: StoredRows) -> None:
        """Have the frozen rows in a snapshot from now on; nothing happens when they are not below these.

        May be called in another thread than all else: it is one assignment, and both hold the same.
        """
        if self._base is frozen:
            self._base = stored

    def stretches(self) -> Iterator[Untouched | list[tuple[int, bytes]]]:
        """What a new snapshot is made of, in order: blocks that are as they were, and ids with their lines."""
        stored = self._base
        assert isinstance(stored, StoredRows), "rows are frozen before they are written"
        for block in stored.blocks:
            data = stored.read(block)
            if self._leaves_alone(block):
                yield Untouched(block, data)
            else:
                rows = zip(block.ids, data.split(SEPARATOR), strict=True)
                yield [(doc_id, self._line(doc_id, line)) for doc_id, line in rows if doc_id not in self._gone]
        fresh = self._fresh()
        while rows_at_once := [(doc_id, line_of(doc_id, self._hot[doc_id])) for doc_id in islice(fresh, 256)]:
            yield rows_at_once

    def _line(self, doc_id: int, line: bytes) -> bytes:
        body = self._hot.get(doc_id)
        return line if body is None else line_of(doc_id, body)

    def _leaves_alone(self, block: Block) -> bool:
        """Whether the block can stay as it is. A small one is put together with its neighbours."""
        return (
            block.size >= BLOCK_SIZE // 2
            and self._gone.isdisjoint(block.ids)
            and (not self._replaced or self._hot.keys().isdisjoint(block.ids))
        )

    def _take_over(self, top: Rows) -> None:
        for doc_id in top._gone:
            self.discard(doc_id)
        self.put(top._hot)

    def _is_below(self, doc_id: object) -> bool:
        return doc_id in self._base and doc_id not in self._gone

    def _fresh(self) -> Iterator[int]:
        """Those that are new since the snapshot."""
        if not self._replaced:
            return iter(self._hot)
        return (doc_id for doc_id in self._hot if not self._is_below(doc_id))
