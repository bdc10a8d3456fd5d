"""The store that keeps nothing: the twin of TinyStore for tests and trials."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator, Mapping

from puppetmaster.errors import StoreUnavailable
from puppetmaster.store.codec import encode_all
from puppetmaster.store.ledger import Frame, Ledger, Tables, apply
from puppetmaster.store.port import Document
from puppetmaster.store.rows import Rows


class MemoryStore:
    """A :class:`~puppetmaster.store.port.Store` without a disk.

    It knows the difference between what was put and what was committed, so that a crash can be played:
    :meth:`reopen` returns what a restart would find.
    """

    def __init__(self, tables: Mapping[str, Mapping[int, bytes]] | None = None) -> None:
        self._durable: Tables = _copy(tables or {})
        self._ledger = Ledger(_copy(self._durable))
        self.failing: str | None = None
        """While this is set, commits raise StoreUnavailable with it as the reason."""
        self.commits = 0
        """How many commits have written something."""
        self.unavailable = ""

    def reopen(self) -> MemoryStore:
        """Return a new store that holds what this one has committed."""
        return MemoryStore(self._durable)

    def put(self, table: str, documents: Mapping[int, Document]) -> None:
        """See Store."""
        if documents:
            self._ledger.put(table, encode_all(documents))

    def remove(self, table: str, ids: Iterable[int]) -> None:
        """See Store."""
        self._ledger.remove(table, ids)

    def get(self, table: str, doc_id: int) -> Document | None:
        """See Store."""
        return self._ledger.get(table, doc_id)

    def scan(self, table: str, ids: Iterable[int] | None = None) -> Iterator[tuple[int, Document]]:
        """See Store."""
        return self._ledger.scan(table, ids)

    def count(self, table: str) -> int:
        """See Store."""
        return len(self._ledger.rows(table))

    async def commit(self) -> None:
        """See Store."""
        if self._ledger.closed:
            raise StoreUnavailable("it was closed")
        await self._commit()

    async def close(self) -> None:
        """See Store."""
        if not self._ledger.closed:
            self._ledger.close()
            await self._commit()

    async def _commit(self) -> None:
        # Gives way like a real one, and takes along what others put in this round of the loop.
        await asyncio.sleep(0)
        self.unavailable = self.failing or ""
        if self.failing is not None:
            raise StoreUnavailable(self.failing)
        frame: Frame = self._ledger.take()
        if frame:
            apply(frame, self._durable)
            self.commits += 1


def _copy(tables: Mapping[str, Mapping[int, bytes]]) -> Tables:
    copy: Tables = {table: Rows() for table in tables}
    for table, rows in tables.items():
        copy[table].put(rows)
    return copy
