"""The output of one request in a file: a line of JSON for each chunk, in the order of their numbers, only appended to.

Nothing here is synced: what a power cut takes away of it is gone, and readers see a gap. A line that was torn by a kill
has no end; readers leave it out, and whoever appends next cuts it off.
"""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from puppetmaster.chunks import MAX_PAYLOAD_BYTES, Chunk, decode

BLOCK = 64 * 1024
"""Bytes that a reader takes at a time."""

MAX_LINE = MAX_PAYLOAD_BYTES + 1
"""The longest line."""

_BEGIN = b'{"number":'
_END = b'"stream":"end"'


@dataclass(frozen=True, slots=True)
class Line:
    """A chunk as it stands in a file."""

    number: int
    payload: bytes
    """Its JSON."""

    @property
    def is_end(self) -> bool:
        """Whether nothing follows it."""
        # No text can hold these bytes: in JSON its quotes have backslashes before them.
        return _END in self.payload

    def chunk(self) -> Chunk:
        """The chunk.

        :raises ValueError: when the file is damaged here.
        """
        return decode(self.payload)


class OutputFile:
    """Appends to a file, and knows how far it is. The file is opened when it is needed, and may be closed at any time.

    :param size: its bytes, when it is there already.
    """

    __slots__ = ("_fd", "_folder", "_is_sound", "at", "ended", "is_full", "last", "left_out", "request_id", "size")

    def __init__(self, folder: Path, request_id: int, size: int = 0) -> None:
        self._folder = folder
        self.request_id = request_id
        self.size = size
        self.last = -1
        """The number of the last chunk that was taken."""
        self.ended = False
        """Whether that was the end."""
        self.is_full = False
        """Whether it takes no more of the output."""
        self.left_out: Chunk | None = None
        """What was left out since the last chunk in it."""
        self.at = 0.0
        """When the last chunk came, on the monotonic clock; 0 for one that came in an earlier life."""
        self._fd = -1
        self._is_sound = False

    @property
    def path(self) -> Path:
        """Where it is."""
        return self._folder / str(self.request_id)

    @property
    def is_open(self) -> bool:
        """Whether it holds a file descriptor."""
        return self._fd >= 0

    def open(self) -> None:
        """Make ready for appending, and know how far it is.

        :raises OSError: when that can't be done now.
        """
        if self.is_open:
            return
        fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            if not self._is_sound:
                self._mend(fd)
        except BaseException:
            os.close(fd)
            raise
        self._fd, self._is_sound = fd, True

    def append(self, number: int, payload: bytes) -> None:
        """Append a chunk.

        :raises OSError: when it can't be written; nothing of it will be read then.
        """
        line = payload + b"\n"
        try:
            if os.write(self._fd, line) != len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError:
            self._is_sound = False
            self.close()
            raise
        self.size += len(line)
        self.last = number

    def close(self) -> None:
        """Let the file descriptor go; idempotent."""
        if self.is_open:
            os.close(self._fd)
            self._fd = -1

    def _mend(self, fd: int) -> None:
        """Cut off a torn line, and find the last whole one."""
        size = os.fstat(fd).st_size
        tail = os.pread(fd, 2 * MAX_LINE, max(0, size - 2 * MAX_LINE))
        whole = tail[: tail.rfind(b"\n") + 1]
        self.size = size - len(tail) + len(whole)
        if self.size < size:
            os.ftruncate(fd, self.size)
        for text in reversed(whole.split(b"\n")):
            line = _line(text)
            if line is not None:
                self.last, self.ended = max(self.last, line.number), line.is_end
                return


def read_on(path: Path, position: int) -> tuple[list[Line], int]:
    """Some lines from a position on, and the position behind them: the same when there are none.

    A file that is not there has no lines.

    :raises OSError: when it can't be read now.
    """
    try:
        with path.open("rb", buffering=0) as file:
            file.seek(position)
            block = file.read(BLOCK) or b""
            if b"\n" not in block and len(block) == BLOCK:
                block += file.read(MAX_LINE) or b""
    except FileNotFoundError:
        return [], position
    whole = block.rfind(b"\n") + 1
    if not whole and len(block) > MAX_LINE:
        return [], position + len(block)  # no line is that long: it is damaged here
    lines = (_line(text) for text in block[:whole].split(b"\n"))
    return [line for line in lines if line is not None], position + whole


def position_of(path: Path, number: int) -> int:
    """A position not far before the first line with this number or a higher one.

    :raises OSError: when it can't be read now.
    """
    try:
        with path.open("rb") as file:
            return _bisect(file, number)
    except FileNotFoundError:
        return 0


def _bisect(file: BinaryIO, number: int) -> int:
    low, high = 0, file.seek(0, os.SEEK_END)
    while high - low > BLOCK:
        middle = (low + high) // 2
        file.seek(middle)
        file.readline(MAX_LINE)
        begin = file.tell()
        line = _line(file.readline(MAX_LINE).rstrip(b"\n"))
        if line is not None and line.number < number and low < begin < high:
            low = begin
        else:
            high = middle
    return low


def _line(text: bytes) -> Line | None:
    """A line, when it is whole."""
    if not text.startswith(_BEGIN) or not text.endswith(b"}"):
        return None
    digits = text[len(_BEGIN) : text.find(b",")]
    return Line(int(digits), text) if digits.isdigit() and len(digits) < 20 else None
