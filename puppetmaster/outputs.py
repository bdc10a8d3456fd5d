"""What commands put out, chunk by chunk in files, for any number of readers: from the beginning, and on to the end.

A reader reads from the file, a block at a time and at its own speed, so that slow ones cost no memory and nobody waits
for them. A chunk that comes twice is known by its number; one that never came leaves a gap. All on the asyncio loop.

Only the end of the output, or of the request, ends a reader. The service tells of the latter (:meth:`Outputs.tell`);
a device that is cut off by a timeout or a cancel may still have something to say, so that readers wait a little then.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections import OrderedDict, deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from puppetmaster.chunks import Chunk, Stream, encode
from puppetmaster.effects import Change
from puppetmaster.errors import FileUnavailable
from puppetmaster.output_file import Line, OutputFile, position_of, read_on

logger = logging.getLogger(__name__)

MAX_REQUEST_BYTES = 4 * 1024 * 1024
"""How much of the output of one request is kept, as JSON."""

MAX_BYTES = 256 * 1024 * 1024
"""How much of all output is kept, in whole pages of the disk."""

PAGE_BYTES = 4096
"""What a file takes of the disk at least, and by what it grows."""

MARGIN = 64
"""When there is no more room, so many parts of all are freed one of: each file that is removed takes the loop 15 µs."""

FULL_TIME = 1.0
"""Seconds for which no room is looked for again when there was none."""

OPEN_FILES = 64
"""Files that are kept open: a chunk that comes for another one takes 50 µs more."""

SETTLE_TIME = 2.0
"""Seconds without a chunk after which nothing more is waited for, once a request has ended without the end of its
output: a command that is called off has the time to say goodbye, and its device to tell of it."""

ARRIVAL_TIME = 0.5
"""Seconds for which output is waited for when its request has just ended: it may come over another connection than the
answer, and a little later."""

FEW = 100
"""Files that are removed at once; more of them are removed in a thread."""


class _Reader:
    """Somebody who reads the output of some requests."""

    def __init__(self, ids: range, with_output: Iterable[int]) -> None:
        self.ids = ids
        self.fresh: OrderedDict[int, None] = OrderedDict.fromkeys(with_output)
        """Requests of which there is something to read, in their turn."""
        self.positions: dict[int, int] = {}
        self.ended: set[int] = set()
        """Requests whose last chunk was read."""
        self.unended = iter(ids)
        self.next_unended: int | None = next(self.unended, None)
        """The first request that may not have ended."""
        self.is_live = False
        """Whether that one was still running when it was looked at."""
        self.noticed = 0.0
        """When it was seen that one of them runs no longer."""
        self.news = asyncio.Event()


class Outputs:
    """The output of all requests.

    :param folder: for the files; it is made when it is not there.
    :param is_final: whether a request has ended, or is none at all.
    :param max_request_bytes: how much is kept of one request.
    :param max_bytes: how much is kept of all; those that ended go first, the oldest before the others.
    :param now: the time, in seconds, never going backwards.
    :raises FileUnavailable: when the folder can't be used.
    """

    def __init__(
        self,
        folder: Path,
        *,
        is_final: Callable[[int], bool] = lambda request_id: False,
        max_request_bytes: int = MAX_REQUEST_BYTES,
        max_bytes: int = MAX_BYTES,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self.lost = 0
        """Chunks that could not be written."""
        self.ignored = 0
        """Chunks that were known already, or came behind the end."""
        self._folder = folder
        self._is_final = is_final
        self._max_request_bytes = max_request_bytes
        self._max_bytes = max_bytes
        self._now = now
        self._files: dict[int, OutputFile] = {}
        self._open: OrderedDict[int, OutputFile] = OrderedDict()
        self._used = 0
        self._full_until = 0.0
        self._fault = ""
        self._readers: dict[range, set[_Reader]] = {}
        self._just_ended: deque[tuple[float, range]] = deque()
        """When jobs ended, and the requests of each."""
        self._closed = False
        self._load()

    @property
    def used(self) -> int:
        """Bytes on disk."""
        return self._used

    @property
    def request_ids(self) -> list[int]:
        """The requests of which there is output."""
        return list(self._files)

    def end_readers(self) -> None:
        """End all readers, and those that will come: who serves them stops. What comes is still taken."""
        self._closed = True
        self._wake(lambda ids: True)

    def close(self) -> None:
        """End all readers, and let the files go; idempotent."""
        self.end_readers()
        for file in self._files.values():
            file.close()
        self._open.clear()

    # Writing

    def append(self, request_id: int, chunk: Chunk) -> bool:
        """Take a chunk; false when it is known already, or can't be kept. Never raises.

        Whoever calls has seen to it that there is such a request, and that it is its device that speaks.
        """
        file = self._files.get(request_id) or OutputFile(self._folder, request_id)
        self._files[request_id] = file
        before = _pages(file.size)
        try:
            self._make_ready(file)
            taken = self._take(file, chunk)
        except OSError as error:
            self._failed(error)
            return False
        finally:
            self._used += _pages(file.size) - before
        if not taken:
            self.ignored += 1
            return False
        self._works()
        file.at = self._now()
        self._spread(request_id)
        return True

    def tell(self, change: Change, job_id: int, document: Mapping[str, Any] | None) -> None:
        """A job changed: those who read its output look whether it has ended (a listener of the service)."""
        if document is None:
            self._wake(lambda ids: ids.start > job_id)
            return
        first, stop = document["firstRequest"], document["firstRequest"] + document["totalCount"]
        now = self._now()
        while self._just_ended and self._just_ended[0][0] + ARRIVAL_TIME < now:
            self._just_ended.popleft()
        if document["finishedAt"] is not None:
            self._just_ended.append((now, range(first, stop)))
        self._wake(lambda ids: ids.start < stop and first < ids.stop)

    def end(self, request_id: int) -> None:
        """A request has ended: those who read its output look at that."""
        self._wake(lambda ids: request_id in ids)

    def remove(self, request_ids: Iterable[int]) -> None:
        """Forget the output of requests; others in between are ignored."""
        found = [request_id for request_id in request_ids if request_id in self._files]
        paths = [self._forget(request_id) for request_id in found]
        if len(paths) > FEW:
            asyncio.get_running_loop().run_in_executor(None, _remove, paths)
        else:
            _remove(paths)

    # Reading

    def page(self, request_id: int, start: int = 0, limit: int = 1000) -> list[Line]:
        """The lines from a number on, so many at most.

        :raises FileUnavailable: when they can't be read now.
        """
        found: list[Line] = []
        path, position = self._path(request_id), self._begin(request_id, start)
        while len(found) < limit and request_id in self._files:
            lines, after = self._read(path, position)
            if after == position:
                break
            position = after
            found += islice((line for line in lines if line.number >= start), limit - len(found))
        return found

    def read(self, request_id: int, start: int = 0, limit: int = 1000) -> list[Chunk]:
        """The chunks from a number on, so many at most.

        :raises FileUnavailable: when they can't be read now.
        """
        return [chunk for line in self.page(request_id, start, limit) if (chunk := _chunk(line)) is not None]

    async def follow(self, request_id: int, start: int = 0) -> AsyncIterator[Chunk]:
        """The chunks from a number on as they come, to the end of the output or of the request.

        :raises FileUnavailable: when they can't be read any more.
        """
        async for _, lines in self.blocks(range(request_id, request_id + 1), start):
            for line in lines:
                chunk = _chunk(line)
                if chunk is not None:
                    yield chunk

    async def blocks(self, request_ids: range, start: int = 0) -> AsyncGenerator[tuple[int, list[Line]], None]:
        """The lines of several requests as they come, some of one request at a time, to the end of all of them.

        :param start: the number to begin with, in each of them.
        :raises FileUnavailable: when they can't be read any more.
        """
        known = self._files if len(request_ids) > len(self._files) else request_ids
        reader = _Reader(request_ids, sorted(x for x in known if x in request_ids and x in self._files))
        readers = self._readers.setdefault(request_ids, set())
        readers.add(reader)
        try:
            while not self._closed:
                reader.news.clear()
                while reader.fresh and not self._closed:
                    request_id, _ = reader.fresh.popitem(last=False)
                    lines = self._read_some(reader, request_id, start)
                    if lines:
                        yield request_id, lines
                    await asyncio.sleep(0)
                rest = self._time_left(reader)
                if rest <= 0:
                    return
                await _wait(reader.news, rest)
        finally:
            readers.discard(reader)
            if not readers:
                self._readers.pop(request_ids, None)

    # Inside: files

    def _load(self) -> None:
        try:
            self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            with os.scandir(self._folder) as entries:
                for entry in entries:
                    if entry.name.isascii() and entry.name.isdigit() and len(entry.name) < 19:
                        size = entry.stat().st_size
                        self._files[int(entry.name)] = OutputFile(self._folder, int(entry.name), size)
                        self._used += _pages(size)
        except OSError as error:
            raise FileUnavailable(self._folder, "use", os.strerror(error.errno or 0)) from error

    def _path(self, request_id: int) -> Path:
        return self._folder / str(request_id)

    def _make_ready(self, file: OutputFile) -> None:
        """Open a file, and close the one that was not needed for the longest time."""
        file.open()
        self._open[file.request_id] = file
        self._open.move_to_end(file.request_id)
        if len(self._open) > OPEN_FILES:
            self._open.popitem(last=False)[1].close()

    def _take(self, file: OutputFile, chunk: Chunk) -> bool:
        if file.ended or chunk.number <= file.last:
            return False
        if chunk.stream is Stream.END:
            self._write_left_out(file)
            file.append(chunk.number, encode(chunk))
            file.ended = True
            return True
        payload = encode(chunk)
        if self._has_room(file, len(payload) + 1):
            self._write_left_out(file)
            file.append(chunk.number, payload)
        else:
            self._leave_out(file, chunk)
        return True

    def _has_room(self, file: OutputFile, size: int) -> bool:
        # Once something was left out the rest is: pieces that happen to fit would make no sense.
        file.is_full = file.is_full or file.size + size > self._max_request_bytes
        if file.is_full:
            return False
        more = _pages(file.size + size) - _pages(file.size)
        if more and self._used + more > self._max_bytes:
            self._make_room(self._max_bytes - more)
        return not more or self._used + more <= self._max_bytes

    def _leave_out(self, file: OutputFile, chunk: Chunk) -> None:
        """Note that a chunk is left out: the first one at once, the others in one when something follows them."""
        size = chunk.size if chunk.stream is Stream.CUT else len(chunk.data)
        before = file.left_out
        note = Chunk(number=chunk.number, stream=Stream.CUT, time=chunk.time, command=chunk.command,
                     size=size + (before.size if before else 0))  # fmt: skip
        if before is None:
            file.append(note.number, encode(note))
            file.left_out = Chunk(number=note.number, stream=Stream.CUT, time=note.time)
        else:
            file.left_out, file.last = note, note.number

    def _write_left_out(self, file: OutputFile) -> None:
        note, file.left_out = file.left_out, None
        if note is not None and note.size:
            file.append(note.number, encode(note))

    def _make_room(self, wanted: int) -> None:
        """Remove the output of requests that have ended, the oldest first, until no more than ``wanted`` bytes are left
        and some more."""
        now = self._now()
        if now < self._full_until:
            return
        wanted -= self._max_bytes // MARGIN
        gone = []
        for request_id in sorted(self._files):
            if self._used <= wanted:
                break
            if self._is_final(request_id):
                gone.append(self._forget(request_id))
        _remove(gone)
        if gone:
            logger.info("no more room for output: that of %d requests is removed", len(gone),
                        extra={"event": "output_removed", "count": len(gone)})
            self._full_until = 0.0
        else:
            if not self._full_until:
                logger.warning("no more room for output, and all of it is of requests that run: more is left out",
                               extra={"event": "output_full"})
            self._full_until = now + FULL_TIME

    def _forget(self, request_id: int) -> Path:
        file = self._files.pop(request_id)
        self._open.pop(request_id, None)
        file.close()
        self._used -= _pages(file.size)
        return file.path

    def _failed(self, error: OSError) -> None:
        self.lost += 1
        reason = os.strerror(error.errno or 0)
        if reason != self._fault:
            logger.error("output of commands can't be written: %s; what comes meanwhile is lost", reason,
                         extra={"event": "output_unavailable", "reason": reason})
        self._fault = reason

    def _works(self) -> None:
        if self._fault:
            self._fault = ""
            logger.warning("output of commands can be written again", extra={"event": "output_available"})

    # Inside: readers

    def _begin(self, request_id: int, start: int) -> int:
        if not start:
            return 0
        try:
            return position_of(self._path(request_id), start)
        except OSError as error:
            raise self._unreadable(request_id, error) from error

    def _read(self, path: Path, position: int) -> tuple[list[Line], int]:
        try:
            return read_on(path, position)
        except OSError as error:
            raise self._unreadable(int(path.name), error) from error

    def _unreadable(self, request_id: int, error: OSError) -> FileUnavailable:
        return FileUnavailable(self._path(request_id), "read", os.strerror(error.errno or 0))

    def _read_some(self, reader: _Reader, request_id: int, start: int) -> list[Line]:
        """A block of what a reader has not read of a request."""
        position = reader.positions.get(request_id)
        if position is None:
            position = self._begin(request_id, start)
        lines, reader.positions[request_id] = self._read(self._path(request_id), position)
        if lines and lines[-1].is_end:
            reader.ended.add(request_id)
            del reader.positions[request_id]
        elif reader.positions[request_id] != position:
            reader.fresh[request_id] = None
        return [line for line in lines if line.number >= start] if start else lines

    def _time_left(self, reader: _Reader) -> float:
        """Seconds until a reader has read everything, as far as that is known; infinite while a request goes on."""
        while reader.next_unended is not None:
            request_id = reader.next_unended
            if request_id not in reader.ended:
                if not self._is_final(request_id):
                    reader.is_live = True
                    return float("inf")
                if reader.is_live:
                    reader.is_live, reader.noticed = False, self._now()
                rest = self._awaited_until(request_id, reader.noticed) - self._now()
                if rest > 0:
                    return rest
            reader.next_unended = next(reader.unended, None)
        return 0.0

    def _awaited_until(self, request_id: int, noticed: float) -> float:
        """How long output is waited for of a request that has ended."""
        file = self._files.get(request_id)
        if file is not None and file.ended:
            return 0.0
        ended = max((at for at, ids in self._just_ended if request_id in ids), default=0.0)
        arrival = max(ended, noticed) + ARRIVAL_TIME
        return arrival if file is None else max(arrival, file.at + SETTLE_TIME)

    def _spread(self, request_id: int) -> None:
        for ids, readers in self._readers.items():
            if request_id in ids:
                for reader in readers:
                    reader.fresh[request_id] = None
                    reader.news.set()

    def _wake(self, concerned: Callable[[range], bool]) -> None:
        for ids, readers in self._readers.items():
            if concerned(ids):
                for reader in readers:
                    reader.news.set()


async def _wait(news: asyncio.Event, timeout: float) -> None:
    timer = None if timeout == float("inf") else asyncio.get_running_loop().call_later(timeout, news.set)
    try:
        await news.wait()
    finally:
        if timer is not None:
            timer.cancel()


def _chunk(line: Line) -> Chunk | None:
    try:
        return line.chunk()
    except ValueError:
        return None  # the file is damaged here: it leaves a gap


def _remove(paths: Iterable[Path]) -> None:
    for path in paths:
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            logger.warning("can't remove %s: %s", path, os.strerror(error.errno or 0),
                           extra={"event": "file_not_removed", "path": str(path)})


def _pages(size: int) -> int:
    return -(-size // PAGE_BYTES) * PAGE_BYTES
