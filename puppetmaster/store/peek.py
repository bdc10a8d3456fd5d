"""One document of a store that may be open in another process: nothing is locked, and nothing written."""

from __future__ import annotations

import time
from pathlib import Path

from puppetmaster.errors import StoreCorrupt
from puppetmaster.store import snapshot
from puppetmaster.store.codec import decode
from puppetmaster.store.frames import Replay
from puppetmaster.store.port import Document

ATTEMPTS = 5
"""A compaction may come between the snapshot and its journal; when it is missing each time, there is none."""

PAUSE = 0.02
"""Seconds between two attempts, from the second on."""


def peek(directory: Path, table: str, doc_id: int, name: str = "puppetmaster") -> Document | None:
    """A document as it is on disk, or none where there is none, or no store.

    :raises OSError: when a file is there and can't be read.
    :raises StoreCorrupt: when a file is damaged.
    """
    for attempt in range(ATTEMPTS):
        try:
            return _peek(directory, table, doc_id, name, is_last=attempt + 1 == ATTEMPTS)
        except (StoreCorrupt, FileNotFoundError):
            if attempt + 1 == ATTEMPTS:
                raise
            time.sleep(PAUSE if attempt else 0.0)
    return None


def _peek(directory: Path, table: str, doc_id: int, name: str, *, is_last: bool) -> Document | None:
    try:
        found = snapshot.load(directory / f"{name}.json")
    except FileNotFoundError:
        return None
    path = directory / f"{name}.journal.{found.generation}"
    try:
        with path.open("rb") as file:
            Replay(file, path, path.stat().st_size, found.generation).run(found.tables)
    except FileNotFoundError:
        if not is_last:
            raise
    rows = found.tables.get(table)
    body = None if rows is None else rows.get(doc_id)
    return None if body is None else decode(body)
