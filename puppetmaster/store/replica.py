"""Copies of a store that another process may have open: nothing is locked, and nothing of the store is written.

A snapshot file never changes, it is replaced; a journal only grows, and is removed when the next snapshot is in place.
So both, once open, are a pair for good, and together all that was committed when they were opened. Only between the
opening of the one and of the other a compaction may come: then the journal of that snapshot is gone, and both are
opened anew.
"""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path
from typing import BinaryIO, NamedTuple

from puppetmaster.errors import StoreCorrupt
from puppetmaster.store import snapshot
from puppetmaster.store.frames import Replay
from puppetmaster.store.ledger import Tables

ATTEMPTS = 100
"""Compactions that may come between, one after the other, before it is believed that the journal is missing."""

PAUSE = 0.02
"""Seconds between two attempts."""


class Content(NamedTuple):
    """What lies in the files of a store."""

    tables: Tables
    generation: int
    end: int
    """Bytes of the journal that hold whole commits."""


class Held:
    """The files of a store at one moment, open; it has to be closed."""

    def __init__(self, directory: Path, name: str) -> None:
        """Open them.

        :raises FileNotFoundError: when there is no such store.
        :raises StoreCorrupt: when the snapshot is none of ours, or its journal is missing.
        :raises OSError: when a file can't be opened.
        """
        self._name = name
        path = directory / f"{name}.json"
        for attempt in range(ATTEMPTS):
            time.sleep(PAUSE if attempt else 0.0)
            self._snapshot: BinaryIO = path.open("rb")
            try:
                generation = snapshot.generation_of(self._snapshot)
                if generation is None:
                    raise StoreCorrupt(path, 0, "it is damaged, or another program wrote it: start puppetmaster once")
                self._journal: BinaryIO = self._journal_path(directory, generation).open("rb")
            except FileNotFoundError:
                self._snapshot.close()
                continue
            except BaseException:
                self._snapshot.close()
                raise
            self._generation = generation
            self._size = os.fstat(self._journal.fileno()).st_size
            return
        raise StoreCorrupt(path, 0, "its journal is missing")

    def close(self) -> None:
        """Let go of the files."""
        self._snapshot.close()
        self._journal.close()

    def copy_to(self, folder: Path) -> Content:
        """Copy all that was committed when they were opened, and read the copy. An unfinished commit is left out.

        :raises StoreCorrupt: when it is damaged.
        :raises OSError: when it can't be read, or the copy not be written.
        """
        self._snapshot.seek(0)
        with (folder / f"{self._name}.json").open("xb") as copy:
            shutil.copyfileobj(self._snapshot, copy, 1 << 20)
        with self._journal_path(folder, self._generation).open("xb") as copy:
            copy_bytes(self._journal, copy, self._size)
        content = load(folder, self._name)
        os.truncate(self._journal_path(folder, self._generation), content.end)
        return content

    def _journal_path(self, folder: Path, generation: int) -> Path:
        return folder / f"{self._name}.journal.{generation}"


def copy_bytes(source: BinaryIO, copy: BinaryIO, size: int) -> None:
    """Copy so many bytes, and no more although the file may grow; fewer when it ends before."""
    while size and (piece := source.read(min(size, 1 << 20))):
        copy.write(piece)
        size -= len(piece)


def load(folder: Path, name: str) -> Content:
    """Read a store that nobody writes.

    :raises StoreCorrupt: when it is damaged or from a newer release.
    :raises OSError: when a file is missing or can't be read.
    """
    start = snapshot.load(folder / f"{name}.json")
    path = folder / f"{name}.journal.{start.generation}"
    with path.open("rb") as file:
        replay = Replay(file, path, os.fstat(file.fileno()).st_size, start.generation)
        replay.run(start.tables)
    return Content(start.tables, start.generation, replay.end)


def write(folder: Path, name: str, tables: Tables, generation: int) -> None:
    """Write a store anew.

    :raises OSError: when a file is there already, or can't be written.
    """
    with (folder / f"{name}.json").open("xb") as file:
        frozen = {table: rows.freeze() for table, rows in tables.items()}
        for chunk in snapshot.Writing(frozen, generation).chunks():
            file.write(chunk)
    (folder / f"{name}.journal.{generation}").touch(exist_ok=False)
