"""The output of an order: from the files of its commands into numbered chunks, and into its answer.

What is kept of a command is a head and a tail. The head of both streams together is told while it comes; then there is
nothing but the number of bytes, and their place on the disk is given back while the command runs; the tail follows at
its end. A command that is not the last of a sequence gets half of what is left, and leaves to the next what it did not
use.

Every chunk is written down in ``chunks`` before it is told, so that the next life of the agent tells the same chunks by
the same numbers::

    ["plan", <how many commands>, <bytes to keep>]
    ["told", <command>, <0 stdout, 1 stderr>, <offset in the stream>, <bytes>, "<time>"]
    ["split", <command>, <end of stdout's head>, <start of its tail>, <its end>, <and the same of stderr>]
    ["cut", <command>, <0 or 1>, <offset in the stream>, <bytes>, "<time>"]
    ["end", <code>, "<time>"]
"""

from __future__ import annotations

import errno
import logging
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import orjson

from puppetmaster import times
from puppetmaster.agent.shim import Run
from puppetmaster.chunks import MAX_CHUNK_BYTES, Chunk, Stream

logger = logging.getLogger(__name__)

KIB, MIB = 1024, 1024 * 1024

BLOCK = 64 * KIB
"""Holes are made of whole blocks; this is a multiple of any file system's."""

MIN_HOLE = 4 * MIB
"""Giving less back is not worth the call, but at the end."""

_KEEP_SIZE, _PUNCH_HOLE = 1, 2


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputLimits:
    """How much of an order's output is kept."""

    keep_bytes: int = MIB
    """That much is told in chunks: half of it from the beginning while it comes, half of it from the end."""
    answer_bytes: int = 64 * KIB
    """That much is in the answer, beginning and end, stdout and stderr together."""
    disk_bytes: int = 64 * MIB
    """That much may lie in a file that can't be given back in part; only file systems without holes need it."""


class TooMuchOutput(Exception):
    """Raised when a file has passed its limit and nothing of it can be given back."""


class _File:
    """One stream of one command. All places are offsets in the stream."""

    def __init__(self, path: Path, stream: Stream) -> None:
        self._path, self.stream = path, stream
        self.size = 0
        self.head = 0
        """Where the head ends as far as it has come."""
        self.tail: int | None = None
        """Where the tail begins, once the command has ended."""
        self.told = 0
        """Up to here chunks were made."""
        self._hole = 0

    def look(self) -> None:
        """See how long it is."""
        with suppress(FileNotFoundError):
            self.size = max(self.size, self._path.stat().st_size)

    def is_quiet(self) -> bool:
        """Whether it is no longer than it was."""
        try:
            return self._path.stat().st_size <= self.size
        except FileNotFoundError:
            return True

    def read(self, place: int, length: int) -> bytes:
        """What stands there."""
        try:
            descriptor = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return b""
        try:
            return os.pread(descriptor, length, place)
        finally:
            os.close(descriptor)

    def give_back(self, keep: int) -> None:
        """Make a hole between the head and the last bytes, which may become the tail.

        :raises OSError: when the file system can't do that.
        """
        start = -(-max(self.head, self._hole) // BLOCK) * BLOCK
        end = (self.size - keep) // BLOCK * BLOCK
        if end - start < MIN_HOLE:
            return
        descriptor = os.open(self._path, os.O_WRONLY | os.O_CLOEXEC)
        try:
            _punch(descriptor, start, end - start)
        finally:
            os.close(descriptor)
        self._hole = end

    def split(self, share: int) -> None:
        """Fix what is head and tail, which may have so many bytes."""
        tail = self.size - share
        if tail <= self.head:
            self.head = self.tail = self.size
            return
        # What the cut leaves of a character goes with it.
        self.head = max(self.told, self.head - unfinished(self.read(max(0, self.head - 4), min(4, self.head))))
        self.tail = tail + continued(self.read(tail, 4))

    @property
    def pieces(self) -> list[tuple[int, int]]:
        """Start and end of what is kept, in order."""
        tail = self.size if self.tail is None else self.tail
        return [(0, self.size)] if self.head == tail else [(0, self.head), (tail, self.size)]

    @property
    def kept(self) -> int:
        """How many bytes are kept."""
        return sum(end - start for start, end in self.pieces)


class _Command:
    """Both streams of one command.

    :param limit: how many bytes of it are kept.
    """

    def __init__(self, folder: Path, number: int, limit: int) -> None:
        run = Run(folder, number)
        self.number = number
        self._half = limit // 2
        self.files = (_File(run.stdout, Stream.STDOUT), _File(run.stderr, Stream.STDERR))
        self.is_split = False

    @property
    def kept(self) -> int:
        """How many bytes are kept."""
        return sum(file.kept for file in self.files)

    def look(self) -> None:
        """Let the heads grow."""
        for file in self.files:
            file.look()
            left = self._half - sum(each.head for each in self.files)
            file.head += min(file.size - file.head, max(0, left))

    def give_back(self, disk_bytes: int) -> None:
        """Give back the place of what will not be kept.

        :raises TooMuchOutput: when that can't be done, and it has become too much.
        """
        if sum(file.head for file in self.files) < self._half:
            return
        for file in self.files:
            try:
                file.give_back(self._half)
            except OSError as error:
                if file.size > disk_bytes:
                    raise TooMuchOutput(str(error)) from error

    def split(self) -> list[int]:
        """Fix what is head and tail of each: the command has ended."""
        rests = [file.size - file.head for file in self.files]
        for file, share in zip(self.files, shares(rests, self._half), strict=True):
            file.split(share)
        self.is_split = True
        return [place for file in self.files for place in (file.head, file.tail or 0, file.size)]

    def restore(self, places: Sequence[int]) -> None:
        """Take over what an earlier life has fixed."""
        for file, start in zip(self.files, (0, 3), strict=True):
            file.head, file.tail, file.size = places[start : start + 3]
        self.is_split = True


class Output:
    """The output of one order. Everything here reads or writes files: keep it off the loop.

    :param folder: of the order; it is there.
    :param count: how many commands it has. What an earlier life has written down there counts more.
    """

    def __init__(self, folder: Path, count: int, limits: OutputLimits) -> None:
        self._folder, self._limits = folder, limits
        self._count, self._left = count, limits.keep_bytes
        self._commands: list[_Command] = []
        self._number = 0
        self._code: int | None = None
        self._log = folder / "chunks"
        end = self._restore()
        if end == 0:
            self._write("plan", count, self._left)
        self._retold = self._retell(end)

    def begin(self, number: int) -> None:
        """A command begins, or began in an earlier life. They begin in order, each after the end of the one before."""
        if number == len(self._commands):
            limit = self._left if number == self._count - 1 else self._left // 2
            self._commands.append(_Command(self._folder, number, limit))

    def is_quiet(self) -> bool:
        """Whether the running command has said nothing since the last look; cheap enough for the loop."""
        return not self._commands or all(file.is_quiet() for file in self._commands[-1].files)

    def look(self) -> None:
        """See what the running command has said.

        :raises TooMuchOutput: when it fills the disk.
        """
        if self._commands and not self._commands[-1].is_split:
            self._commands[-1].look()
            self._commands[-1].give_back(self._limits.disk_bytes)

    def end(self, number: int) -> None:
        """A command has ended; all that it has said is in its files."""
        command = self._commands[number]
        if not command.is_split:
            command.look()
            self._write("split", number, *command.split())
            self._left -= command.kept

    def next(self, most: int) -> list[Chunk]:
        """The next chunks to tell, at most so many; first those that an earlier life may have told."""
        found: list[Chunk] = []
        while len(found) < most:
            chunk = next(self._retold, None) or self._next()
            if chunk is None:
                break
            found.append(chunk)
        return found

    def close(self, code: int) -> list[Chunk]:
        """The last chunk, once :meth:`next` has no more; none when that has told it again."""
        if self._code is not None:
            return []
        self._code = code
        return [self._tell("end", code)]

    # ---------------------------------------------------------------------------------------------- chunks

    def _next(self) -> Chunk | None:
        for command in self._commands:
            chunk = self._next_of(command)
            if chunk is not None or not command.is_split:
                return chunk
        return None

    def _next_of(self, command: _Command) -> Chunk | None:
        for which, file in enumerate(command.files):
            if file.told < file.head and (chunk := self._piece(command, which, file.head)):
                return chunk
        if not command.is_split:
            return None
        for which, file in enumerate(command.files):
            tail = file.size if file.tail is None else file.tail
            if file.told < tail:
                return self._tell("cut", command.number, which, file.told, tail - file.told)
            if file.told < file.size:
                return self._piece(command, which, file.size)
        return None

    def _piece(self, command: _Command, which: int, end: int) -> Chunk | None:
        file = command.files[which]
        rest = end - file.told
        data = file.read(file.told, min(rest, MAX_CHUNK_BYTES))
        if len(data) < rest or not command.is_split:
            # The rest of its last character is still to come.
            data = data[: len(data) - unfinished(data[-4:])]
        if data:
            return self._tell("told", command.number, which, file.told, len(data))
        # Somebody has meddled with the file: that must not go on for ever.
        return self._tell("cut", command.number, which, file.told, rest) if command.is_split else None

    def _tell(self, *fields: Any) -> Chunk:
        fields = (*fields, times.to_text(time.time()))
        self._write(*fields)
        chunk = self._chunk(self._number, fields)
        self._follow(fields)
        return chunk

    def _chunk(self, number: int, fields: Sequence[Any]) -> Chunk:
        if fields[0] == "end":
            return Chunk(number=number, stream=Stream.END, time=fields[2], code=fields[1])
        word, command, which, offset, length, now = fields
        file = self._commands[command].files[which]
        data = file.read(offset, length) if word == "told" else b""
        if not data:
            return Chunk(number=number, stream=Stream.CUT, time=now, command=command, offset=offset, size=length)
        return Chunk(number=number, stream=file.stream, time=now, command=command, offset=offset, data=data)

    # ----------------------------------------------------------------------------------------------- the log

    def _write(self, *fields: Any) -> None:
        try:
            with open(self._log, "ab") as file:
                file.write(orjson.dumps(fields) + b"\n")
        except OSError as error:
            # It is told all the same; only a next life could number it in another way.
            logger.warning("can't write %s: %s", self._log, error, extra={"event": "agent_chunk_not_noted"})

    def _lines(self, end: int) -> Iterator[tuple[int, list[Any]]]:
        """The lines up to a place, each with the place where it ends; those behind a torn one are none."""
        try:
            log = open(self._log, "rb")  # noqa: SIM115 - it is closed with this generator
        except FileNotFoundError:
            return
        with log:
            place = 0
            for line in log:
                place += len(line)
                if place > end or not line.endswith(b"\n"):
                    return
                try:
                    yield place, orjson.loads(line)
                except ValueError:
                    return

    def _restore(self) -> int:
        """Take over what an earlier life has written down, and cut off what a crash left; the place where it ends."""
        end = 0
        for place, fields in self._lines(1 << 62):
            end = place
            self._follow(fields)
        if self._log.exists():
            os.truncate(self._log, end)
        return end

    def _follow(self, fields: Sequence[Any]) -> None:
        """Come to where things are after a line."""
        word, first = fields[0], fields[1]
        if word == "plan":
            self._count, self._left = first, fields[2]
            return
        if word == "end":
            self._code = first
            self._number += 1
            return
        self.begin(first)
        command = self._commands[first]
        if word == "split":
            command.restore(fields[2:])
            self._left -= command.kept
        else:
            file = command.files[fields[2]]
            file.told = fields[3] + fields[4]
            file.head = max(file.head, file.told) if not command.is_split else file.head
            file.size = max(file.size, file.told)
            self._number += 1

    def _retell(self, end: int) -> Iterator[Chunk]:
        number = 0
        for _, fields in self._lines(end):
            if fields[0] in ("told", "cut", "end"):
                yield self._chunk(number, fields)
                number += 1

    # ---------------------------------------------------------------------------------------------- the answer

    def answer(self) -> dict[str, Any]:
        """What the answer says of the output: ``stdout``, ``stderr``, ``outputBytes``, ``cutBytes``."""
        streams = [_Text([command.files[which] for command in self._commands]) for which in (0, 1)]
        given = shares([stream.size for stream in streams], self._limits.answer_bytes)
        texts, sizes = zip(*(stream.text(share) for stream, share in zip(streams, given, strict=True)), strict=True)
        total = sum(stream.size for stream in streams)
        return {"stdout": texts[0], "stderr": texts[1], "outputBytes": total, "cutBytes": total - sum(sizes)}


class _Text:
    """One stream over all commands."""

    def __init__(self, files: list[_File]) -> None:
        self.size = sum(file.size for file in files)
        # What is kept in one piece, from the first command into the last.
        self._runs: list[list[tuple[_File, int, int]]] = [[]]
        for file in files:
            for number, (start, end) in enumerate(file.pieces):
                if number:
                    self._runs.append([])
                self._runs[-1].append((file, start, end))

    def text(self, most: int) -> tuple[str, int]:
        """The text, and how many bytes of the stream it shows, which are at most so many."""
        if len(self._runs) == 1 and self.size <= most:
            data = self._first(most)
            return data.decode("utf-8", "replace"), len(data)
        head = self._first(most // 2)
        tail = self._last(most - len(head))
        head, tail = head[: len(head) - unfinished(head[-4:])], tail[continued(tail[:4]) :]
        shown = len(head) + len(tail)
        between = f"\n[... {self.size - shown} bytes left out ...]\n"
        return head.decode("utf-8", "replace") + between + tail.decode("utf-8", "replace"), shown

    def _first(self, most: int) -> bytes:
        data = b""
        for file, start, end in self._runs[0]:
            data += file.read(start, min(end - start, most - len(data)))
        return data

    def _last(self, most: int) -> bytes:
        data = b""
        for file, start, end in reversed(self._runs[-1]):
            length = min(end - start, most - len(data))
            data = file.read(end - length, length) + data
        return data


def shares(wanted: Sequence[int], most: int) -> tuple[int, int]:
    """What two get of something: each half of it, and what the other one does not want."""
    first = min(wanted[0], max(most // 2, most - wanted[1]))
    return first, min(wanted[1], most - first)


def unfinished(end: bytes) -> int:
    """How many bytes at the end of something begin a character of UTF-8 that is not complete."""
    for back in range(1, min(3, len(end)) + 1):
        byte = end[-back]
        if byte >= 0xC0:
            length = 2 if byte < 0xE0 else 3 if byte < 0xF0 else 4
            return back if back < length else 0
        if byte < 0x80:
            return 0
    return 0


def continued(start: bytes) -> int:
    """How many bytes at the start of something belong to a character of UTF-8 that began before."""
    count = 0
    while count < min(3, len(start)) and 0x80 <= start[count] < 0xC0:
        count += 1
    # Four in a row are no UTF-8 anyway.
    return count if count < len(start) and not 0x80 <= start[count] < 0xC0 else 0


@cache
def _fallocate() -> Callable[..., int]:
    # Here, because most agents never need it, and it takes memory.
    import ctypes

    library = ctypes.CDLL(None, use_errno=True)
    function = getattr(library, "fallocate64", None) or library.fallocate
    function.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]
    return lambda *arguments: 0 if function(*arguments) == 0 else ctypes.get_errno() or -1


def _punch(descriptor: int, start: int, length: int) -> None:
    try:
        number = _fallocate()(descriptor, _PUNCH_HOLE | _KEEP_SIZE, start, length)
    except AttributeError:
        number = errno.ENOSYS
    if number:
        raise OSError(number, os.strerror(number))
