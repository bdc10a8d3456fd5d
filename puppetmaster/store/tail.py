"""What is committed while a new snapshot is written, and has to go from the old journal to the new one."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from puppetmaster.errors import StoreCorrupt
from puppetmaster.store.files import FileSystem
from puppetmaster.store.frames import HEADER_SIZE, Header, seal


class Tail:
    """The end of a journal that grows, copied frame by frame to the journal of the next generation.

    It is read back from the file: in memory it would take as much again.

    :param path: of the journal, whose frames belong to ``generation``.
    :param start: where its first frame that is to be copied begins.
    :param target: the descriptor of the next journal, of ``next_generation``.
    """

    def __init__(
        self, files: FileSystem, path: Path, generation: int, start: int, target: int, next_generation: int
    ) -> None:
        self.path = path
        self.start = start
        """Where the next frame that is to be copied begins."""
        self.sequence = 0
        """How many frames are copied."""
        self.size = 0
        """Bytes that they have in the next journal."""
        self._files = files
        self._generation, self._target, self._next_generation = generation, target, next_generation

    def copy(self, end: int, check: Callable[[], None] | None = None) -> None:
        """Copy what lies before ``end``, where a frame ends that is on disk.

        ``check`` is called before each frame, and may raise to end it. Raises OSError, and StoreCorrupt when what was
        written does not come back.
        """
        source = self._files.open(self.path, os.O_RDONLY)
        try:
            while self.start < end:
                if check is not None:
                    check()
                body = self._body(source)
                frame = seal(body, self._next_generation, self.sequence + 1)
                self._files.write_all(self._target, frame)
                self.start += HEADER_SIZE + len(body)
                self.sequence += 1
                self.size += len(frame)
        finally:
            self._files.close(source)

    def sync(self) -> None:
        """Return when all that was copied is on disk. Raises OSError."""
        self._files.sync(self._target)

    def _body(self, source: int) -> bytes:
        line = self._files.read_all(source, HEADER_SIZE, self.start)
        header = Header.of(line)
        body = self._files.read_all(source, header.length, self.start + HEADER_SIZE) if header else b""
        if header is None or header.generation != self._generation or not header.fits(line, body):
            raise StoreCorrupt(self.path, self.start, "a commit can't be read back: it was changed or damaged")
        return body
