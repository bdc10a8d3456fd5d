"""The port of the store: what the service may ask of whatever keeps the documents."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Protocol

Document = dict[str, Any]
"""A JSON object with string keys. Its id is an integer that is kept beside it, not in it."""


class Store(Protocol):
    """Tables of documents that outlive the process.

    Everything but :meth:`commit` and :meth:`close` is synchronous and called on one thread, the loop's. Writing works
    on memory. Reading may read from the disk what was not changed lately, and raises FileUnavailable when the disk
    refuses, and StoreCorrupt when it returns something else than was written; never a wrong document. What is put and
    removed between two awaits is one unit: after a crash all of it is there or nothing.
    """

    unavailable: str
    """Why the last commit failed; empty when it did not, and before the first."""

    def put(self, table: str, documents: Mapping[int, Document]) -> None:
        """Insert or replace documents, all of them or none; idempotent.

        They are visible to :meth:`get` and :meth:`scan` at once, and durable after the next :meth:`commit`
        that begins after this call. The documents are copied: changing them later changes nothing here.

        Raises ValueError when an id is no 64-bit integer or a document can't be written as JSON (integers
        over 64 bits, NaN and infinities, lone surrogates, keys that are no strings); nothing was changed.
        Raises StoreUnavailable after :meth:`close`.
        """
        ...

    def remove(self, table: str, ids: Iterable[int]) -> None:
        """Remove documents; ids that are not there are ignored; idempotent; durable as in :meth:`put`.

        Raises StoreUnavailable after :meth:`close`.
        """
        ...

    def get(self, table: str, doc_id: int) -> Document | None:
        """Return a fresh copy of one document, or None. May read from the disk, nearly always from the page cache."""
        ...

    def scan(self, table: str, ids: Iterable[int] | None = None) -> Iterator[tuple[int, Document]]:
        """Iterate over fresh copies of all documents, or of those of ``ids`` that exist, decoded one by one.

        All documents come in the order in which they were first put (one that was removed and put again
        comes last), ``ids`` in the order given. It shows the table as it is at the call: changes during
        the iteration are neither seen nor an error.
        """
        ...

    def count(self, table: str) -> int:
        """Return how many documents the table holds, in constant time."""
        ...

    async def commit(self) -> None:
        """Return when everything put or removed before the call is on disk.

        Waiters share a commit: one takes all that has gathered, and the next starts when it is done. A
        commit that was cancelled by its caller still goes on for the others. With nothing to write it
        costs no disk access.

        Raises StoreUnavailable with the reason when the disk refuses. The changes stay visible and pending,
        and the next commit tries again; after a crash in between they may be there or not.
        """
        ...

    async def close(self) -> None:
        """Commit a last time and let go of the files; idempotent.

        Raises StoreUnavailable when the last commit failed; the files are let go of nevertheless. Reading
        goes on working.
        """
        ...
