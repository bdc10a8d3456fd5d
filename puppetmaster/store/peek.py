"""One document of a store that may be open in another process: nothing is locked, and nothing written."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from puppetmaster.errors import StoreCorrupt
from puppetmaster.store import snapshot
from puppetmaster.store.codec import decode
from puppetmaster.store.frames import Replay
from puppetmaster.store.port import Document

ATTEMPTS = 5
"""A compaction may come between the snapshot and its journal."""


def peek(directory: Path, table: str, doc_id: int, name: str = "puppetmaster") -> Document | None:
    """A document as it is on disk, or none where there is none, or no store.

    :raises OSError: when a file is there and can't be read.
    :raises StoreCorrupt: when a file is damaged.
    """
    for attempt in range(ATTEMPTS):
        try:
            return _peek(directory, table, doc_id, name)
        except StoreCorrupt:
            if attempt + 1 == ATTEMPTS:
                raise
    return None


def _peek(directory: Path, table: str, doc_id: int, name: str) -> Document | None:
    try:
        found = snapshot.load(directory / f"{name}.json")
    except FileNotFoundError:
        return None
    path = directory / f"{name}.journal.{found.generation}"
    with suppress(FileNotFoundError), path.open("rb") as file:
        Replay(file, path, path.stat().st_size, found.generation).run(found.tables)
    rows = found.tables.get(table)
    body = None if rows is None else rows.get(doc_id)
    return None if body is None else decode(body)
