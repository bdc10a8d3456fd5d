"""What an agent has begun and done, on disk: so that nothing is done twice, and no answer is lost.

A file of lines, each a checksum and a JSON list::

    5d41402a ["begin", 1000001, "<tunnel>", "post", "/agent/commands", 1327, {<facts>}, <the order's data>]
    7d793037 ["note", 1000001, "<tunnel>", {<more facts>}]
    9f9d51bc ["done", 1000001, "<tunnel>", "post", "/agent/commands", 200, <the answer's data>]
    e4da3b7f ["delivered", 1000001, "<tunnel>"]
    a87ff679 ["forget", 1000001, "<tunnel>"]

Only an index of it is in memory; data are read when they are asked for. All that is asked for while a write is under
way shares the next one. What nobody needs any more goes when the file is written anew, which happens when it has
doubled.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys
import time
import zlib
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import orjson

from puppetmaster.agent.order import TRANSIENT, Key, Order
from puppetmaster.errors import FileUnavailable
from puppetmaster.store.files import FileSystem, Lock

logger = logging.getLogger(__name__)

MIN_REWRITE_BYTES = 1024 * 1024
"""A file that is smaller is not worth writing anew."""

MAX_LINE_BYTES = 16 * 1024 * 1024
"""No line is longer; what is, is rubbish that must not fill the memory."""

LAZY = 1.0
"""Seconds that a line may wait whose loss does no harm."""

_APPEND = os.O_RDWR | os.O_CREAT | os.O_APPEND
_NEW = os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_COPY_BYTES = 256 * 1024
_NO_FACTS: dict[str, Any] = {}


_Place = tuple[int, int]
"""Offset and length of a line."""


class Entry:
    """What is known of one order. Its data lie on disk: :meth:`Memory.data`."""

    __slots__ = ("code", "delivered", "facts", "fresh", "key", "method", "place", "resource")

    def __init__(self, key: Key, method: str, resource: str, facts: dict[str, Any]) -> None:
        # Thousands of entries share few of these texts.
        self.key = (key[0], sys.intern(key[1]))
        self.method, self.resource = sys.intern(method), sys.intern(resource)
        self.facts = facts
        """What was noted about it, as long as it is not done."""
        self.code: int | None = None
        """That of its final answer, once there is one."""
        self.delivered = False
        """Whether somebody has got that answer."""
        self.place: _Place | None = None
        """Where the line with its data is. The writing thread alone sets it."""
        self.fresh: bytes | None = None
        """That line, as long as it is not on disk."""

    @property
    def is_done(self) -> bool:
        """Whether its final answer is remembered."""
        return self.code is not None

    def order(self, data: Any = None) -> Order:
        """The order that it is about."""
        return Order(id=self.key[0], tunnel=self.key[1], method=self.method, resource=self.resource, data=data)


class _Line(NamedTuple):
    text: bytes
    # Whose data it holds.
    entry: Entry | None = None
    waiter: asyncio.Future[None] | None = None


class _Journal:
    """The file. All but the constructor runs in the thread that writes."""

    def __init__(self, path: Path, files: FileSystem) -> None:
        self._path, self._files = path, files
        self._temporary = path.with_name(path.name + ".tmp")
        self._descriptor = files.open(path, _APPEND)
        self.size = 0
        self.limit = MIN_REWRITE_BYTES
        # After a failed sync nobody knows what of the file is on disk.
        self.is_trusted = True

    def replay(self, index: _Index) -> None:
        """Read all lines, cut off what a crash left at the end, and make sure of the rest."""
        end = 0
        with os.fdopen(os.dup(self._descriptor), "rb") as file:
            file.seek(0)
            while line := file.readline(MAX_LINE_BYTES):
                start = self.size
                self.size += len(line)
                if index.read(line, (start, len(line))):
                    end = self.size
                else:
                    logger.warning(
                        "%s: no good line at byte %d", self._path, start, extra={"event": "agent_memory_damaged"}
                    )
        if end < self.size:
            self._files.truncate(self._descriptor, end)
            self.size = end
        self._files.sync(self._descriptor)
        self._files.sync_folder(self._path.parent)

    def write(self, lines: list[_Line]) -> None:
        """Append lines; they are on disk when this returns."""
        start = self.size
        self._append(b"".join(line.text for line in lines))
        for line in lines:
            if line.entry is not None:
                line.entry.place = (start, len(line.text))
                line.entry.fresh = None
            start += len(line.text)

    def _append(self, data: bytes) -> None:
        try:
            self._files.write_all(self._descriptor, data)
        except OSError:
            self._cut()
            raise
        try:
            self._files.sync(self._descriptor)
        except OSError:
            self.is_trusted = False
            raise
        self.size += len(data)

    def _cut(self) -> None:
        try:
            self._files.truncate(self._descriptor, self.size)
        except OSError:
            self.is_trusted = False

    def rewrite(self, entries: list[Entry]) -> None:
        """Replace the file by one that holds what these entries need."""
        self.limit = self.size + MIN_REWRITE_BYTES  # a rewrite that fails is not tried again with every line
        descriptor = self._files.open(self._temporary, _NEW)
        try:
            places, size = self._copy(entries, descriptor)
            self._files.sync(descriptor)
            self._files.replace(self._temporary, self._path)
        except BaseException:
            os.close(descriptor)
            with suppress(OSError):
                self._files.remove(self._temporary)
            raise
        os.close(self._descriptor)
        self._descriptor, self.size, self.limit = descriptor, size, 2 * size + MIN_REWRITE_BYTES
        for entry, place in zip(entries, places, strict=True):
            entry.place = place
        self.is_trusted = False
        self._files.sync_folder(self._path.parent)
        self.is_trusted = True

    def _copy(self, entries: list[Entry], descriptor: int) -> tuple[list[_Place], int]:
        places, size, parts, gathered = [], 0, [], 0
        for entry in entries:
            line = self._line(entry)
            places.append((size, len(line)))
            text = line + b"".join(_beside(entry))
            parts.append(text)
            size += len(text)
            gathered += len(text)
            if gathered > _COPY_BYTES:
                self._files.write_all(descriptor, b"".join(parts))
                parts, gathered = [], 0
        self._files.write_all(descriptor, b"".join(parts))
        return places, size

    def data(self, entry: Entry) -> Any:
        """The data that the entry's line holds."""
        fields = _parse(entry.fresh or self._line(entry))
        if fields is None:
            raise OSError("a line can't be read any more")
        return fields[-1]

    def _line(self, entry: Entry) -> bytes:
        assert entry.place is not None, "it was never written"
        offset, length = entry.place
        line = os.pread(self._descriptor, length, offset)
        if len(line) < length:
            raise OSError("a line is cut off")
        return line

    def close(self) -> None:
        os.close(self._descriptor)


def _text(*fields: Any) -> bytes:
    body = orjson.dumps(fields)
    return b"%08x %b\n" % (zlib.crc32(body), body)


def _parse(line: bytes) -> list[Any] | None:
    if len(line) < 12 or line[8:9] != b" " or line[-1:] != b"\n":
        return None
    body = line[9:-1]
    try:
        if int(line[:8], 16) != zlib.crc32(body):
            return None
        fields = orjson.loads(body)
    except ValueError:
        return None
    return fields if isinstance(fields, list) and len(fields) >= 3 else None


def _beside(entry: Entry) -> Iterable[bytes]:
    """What has to be known of an entry besides the line with its data."""
    if entry.delivered:
        yield _text("delivered", *entry.key)
    elif entry.facts and not entry.is_done:
        yield _text("note", *entry.key, entry.facts)


class _Index:
    """The entries by key: unfinished ones where they were begun, done ones where they were done.

    Both dicts have the entry's own key: one that was just read would keep a tuple and a text of its own for each.
    """

    def __init__(self, keep: int, keep_bytes: int) -> None:
        self.entries: dict[Key, Entry] = {}
        self._keep, self._keep_bytes = keep, keep_bytes
        # Delivered answers, oldest first, and what they take.
        self._delivered: dict[Key, int] = {}
        self._delivered_bytes = 0

    def begin(self, entry: Entry) -> None:
        self.entries[entry.key] = entry

    def done(self, key: Key, method: str, resource: str, code: int) -> Entry:
        entry = self.entries.pop(key, None) or Entry(key, method, resource, _NO_FACTS)
        self._leave(key)
        entry.code, entry.facts, entry.delivered = code, _NO_FACTS, False
        self.entries[entry.key] = entry
        return entry

    def deliver(self, key: Key) -> bool:
        """Note that an answer was got; whether that is news."""
        entry = self.entries.get(key)
        if entry is None or not entry.is_done or entry.delivered:
            return False
        entry.delivered = True
        size = entry.place[1] if entry.place else len(entry.fresh or b"")
        self._delivered[entry.key] = size
        self._delivered_bytes += size
        self._trim()
        return True

    def forget(self, key: Key) -> None:
        self._leave(key)
        self.entries.pop(key, None)

    def _leave(self, key: Key) -> None:
        self._delivered_bytes -= self._delivered.pop(key, 0)

    def _trim(self) -> None:
        while len(self._delivered) > self._keep or self._delivered_bytes > self._keep_bytes:
            self.forget(next(iter(self._delivered)))

    def read(self, line: bytes, place: _Place) -> bool:
        """Take in a line of the file; whether it is a good one."""
        fields = _parse(line)
        if fields is None:
            return False
        word, key = fields[0], (fields[1], fields[2])
        if word == "begin":
            entry = Entry(key, fields[3], fields[4], fields[6])
            entry.place = place
            self.begin(entry)
        elif word == "note" and key in self.entries and not self.entries[key].is_done:
            self.entries[key].facts.update(fields[3])
        elif word == "done":
            self.done(key, fields[3], fields[4], fields[5]).place = place
        elif word == "delivered":
            self.deliver(key)
        elif word == "forget":
            self.forget(key)
        return True


class Memory:
    """The orders that were begun and done. Opens (and makes) its folder at once; methods belong to one loop.

    :param folder: nobody else may use it.
    :param keep: how many answers are kept at the most that somebody has got, the newest.
    :param keep_bytes: how much these may take together, in bytes.
    :raises StoreLocked: when another process has it.
    :raises FileUnavailable: when it can't be read or made.
    """

    def __init__(
        self, folder: Path, *, keep: int = 10_000, keep_bytes: int = 16 * 1024 * 1024, files: FileSystem | None = None
    ) -> None:
        self.folder = folder
        self._index = _Index(keep, keep_bytes)
        self._lock: Lock | None = None
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._lock = Lock(folder / "memory.lock")
            self._journal = _Journal(folder / "memory.jsonl", files or FileSystem())
            self._journal.replay(self._index)
        except OSError as error:
            if self._lock is not None:
                self._lock.release()
            raise FileUnavailable(folder, "remember in", error.strerror or str(error)) from error
        self._thread = ThreadPoolExecutor(1, "agent-memory")
        self._boarding: list[_Line] = []
        self._flight: Future[None] | None = None
        self._is_called = self._is_closed = False

    def find(self, key: Key) -> Entry | None:
        """What is known of an order."""
        return self._index.entries.get(key)

    def unfinished(self) -> list[Entry]:
        """Orders that were begun and have no final answer, oldest first."""
        return [entry for entry in self._index.entries.values() if not entry.is_done]

    def undelivered(self) -> list[Entry]:
        """Orders whose final answer nobody has got, oldest first."""
        return [entry for entry in self._index.entries.values() if entry.is_done and not entry.delivered]

    async def data(self, entry: Entry) -> Any:
        """The answer's data when it is done, else the order's.

        :raises FileUnavailable: when it can't be read.
        """
        try:
            return await asyncio.wrap_future(self._thread.submit(self._journal.data, entry))
        except OSError as error:
            raise self._unavailable("read what was remembered in", error) from error

    async def begin(self, order: Order, **facts: Any) -> Entry:
        """Remember an order that is about to be worked on; returns when that is on disk.

        :raises FileUnavailable: when it can't be written: the order must not be begun.
        """
        text = _text("begin", *order.key, order.method, order.resource, round(time.time(), 3), facts, order.data)
        entry = Entry(order.key, order.method, order.resource, facts)
        entry.fresh = text
        self._index.begin(entry)
        try:
            await self._write(text, entry)
        except FileUnavailable:
            self._index.forget(order.key)
            raise
        return entry

    async def note(self, entry: Entry, **facts: Any) -> None:
        """Remember something about an order that is being worked on; returns when that is on disk.

        :raises FileUnavailable: when it can't be written. It is known until the process ends all the same.
        """
        if entry.is_done:
            return
        entry.facts.update(facts)
        await self._write(_text("note", *entry.key, facts))

    async def done(self, order: Order, code: int, data: Any) -> Entry | None:
        """Remember a final answer, to an order that was begun or not; returns when that is on disk.

        A transient answer is not remembered: the order is forgotten then, as if it had never come.

        :raises FileUnavailable: when it can't be written. It is known until the process ends all the same, and
            calling this again is the way to try again.
        """
        if code in TRANSIENT:
            await self.forget(order.key)
            return None
        text = _text("done", *order.key, order.method, order.resource, code, data)
        entry = self._index.done(order.key, order.method, order.resource, code)
        entry.fresh = text
        await self._write(text, entry)
        return entry

    def delivered(self, key: Key) -> None:
        """Remember that somebody has the final answer. It is written a little later: it may be given again."""
        if self._index.deliver(key):
            self._boarding.append(_Line(_text("delivered", *key)))
            asyncio.get_running_loop().call_later(LAZY, self._call)

    async def forget(self, key: Key) -> None:
        """Forget an order that was begun, as if it had never come; returns when that is on disk.

        :raises FileUnavailable: when it can't be written. It is forgotten until the process ends all the same.
        """
        if self.find(key) is not None:
            self._index.forget(key)
            await self._write(_text("forget", *key))

    async def close(self) -> None:
        """Write what there is to write, and let go of the folder; idempotent."""
        if self._is_closed:
            return
        while self._boarding or self._flight is not None:
            self._call()
            flight = self._flight
            if flight is None:
                await asyncio.sleep(0)
            else:
                await asyncio.wait([asyncio.wrap_future(flight)])
                await asyncio.sleep(0)
        self._is_closed = True
        self._thread.shutdown()
        self._journal.close()
        if self._lock is not None:
            self._lock.release()

    # ------------------------------------------------------------------------------------------- group commit

    async def _write(self, text: bytes, entry: Entry | None = None) -> None:
        waiter = asyncio.get_running_loop().create_future()
        self._boarding.append(_Line(text, entry, waiter))
        self._call()
        await waiter

    def _call(self) -> None:
        if not (self._is_called or self._is_closed or self._flight is not None) and self._boarding:
            self._is_called = True
            # Not at once: everybody who is ready in this round of the loop comes along.
            asyncio.get_running_loop().call_soon(self._take_off)

    def _take_off(self) -> None:
        loop = asyncio.get_running_loop()
        lines, self._boarding, self._is_called = self._boarding, [], False
        kept = None
        if self._journal.size > self._journal.limit or not self._journal.is_trusted:
            # What is in these lines comes behind, so that only what is on disk already is copied.
            kept = [entry for entry in self._index.entries.values() if entry.place is not None]
        self._flight = self._thread.submit(self._carry_out, lines, kept)
        self._flight.add_done_callback(lambda flight: loop.call_soon_threadsafe(self._landed, lines, flight))

    def _carry_out(self, lines: list[_Line], kept: list[Entry] | None) -> None:
        if kept is not None:
            self._rewrite(kept)
        self._journal.write(lines)

    def _rewrite(self, kept: list[Entry]) -> None:
        try:
            self._journal.rewrite(kept)
        except OSError as error:
            if not self._journal.is_trusted:
                raise
            logger.warning("can't tidy %s: %s", self.folder, error, extra={"event": "agent_memory_not_tidied"})

    def _landed(self, lines: list[_Line], flight: Future[None]) -> None:
        self._flight = None
        error = flight.exception()
        for line in lines:
            if line.waiter is not None and not line.waiter.done():
                if error is None:
                    line.waiter.set_result(None)
                else:
                    line.waiter.set_exception(self._unavailable("write to", error))
        if error is None or any(line.waiter for line in self._boarding):
            self._call()

    def _unavailable(self, doing: str, error: BaseException) -> FileUnavailable:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        unavailable = FileUnavailable(self.folder, doing, reason)
        unavailable.__cause__ = error
        return unavailable
