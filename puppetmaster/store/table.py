"""TinyDB on a ledger: a storage and a table whose updates cost what they change, not what is there."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping
from contextlib import suppress
from typing import Any, cast

from tinydb import TinyDB
from tinydb.storages import Storage
from tinydb.table import Table
from tinydb.utils import LRUCache

from puppetmaster.store.codec import check_id, decode, encode, encode_all
from puppetmaster.store.ledger import Changes, Ledger, check_table
from puppetmaster.store.port import Document

OPEN_DOCUMENTS = 1000
"""How many decoded documents an update keeps at hand. TinyDB changes one at a time, right after reading it, so
a handful would do; without a limit an update by query would decode the whole table into memory."""


class StoredTable(Mapping[str, Document]):
    """What TinyDB reads: documents by id, as text, decoded when asked for. A view; iterating sees one moment."""

    def __init__(self, rows: Mapping[int, bytes]) -> None:
        self.rows = rows

    def __getitem__(self, key: str) -> Document:
        doc_id = _parse_id(key)
        if doc_id is None:
            raise KeyError(key)
        return decode(self.rows[doc_id])

    def __iter__(self) -> Iterator[str]:
        return map(str, list(self.rows))

    def __len__(self) -> int:
        return len(self.rows)

    def __contains__(self, key: object) -> bool:
        return isinstance(key, str) and _parse_id(key) in self.rows

    def items(self) -> Any:
        """Iterate over ids and fresh copies, in one pass."""
        return ((str(doc_id), decode(body)) for doc_id, body in list(self.rows.items()))


def _parse_id(key: str) -> int | None:
    """Return the id that is spelled exactly like this."""
    with suppress(ValueError):
        doc_id = int(key)
        return doc_id if str(doc_id) == key else None
    return None


class TableEdit(MutableMapping[int, Document]):
    """What TinyDB's updaters change: gathers the changes and leaves the rows alone.

    A document that was read may be changed in place; it counts as changed when its bytes differ afterwards.
    """

    def __init__(self, rows: Mapping[int, bytes]) -> None:
        self._rows = rows
        self._changes = Changes()
        self._open: dict[int, Document] = {}

    def __getitem__(self, doc_id: int) -> Document:
        document = self._open.get(doc_id)
        if document is None:
            document = decode(self._body(doc_id))
            if len(self._open) >= OPEN_DOCUMENTS:
                self._settle(next(iter(self._open)))
            self._open[doc_id] = document
        return document

    def __setitem__(self, doc_id: int, document: Document) -> None:
        check_id(doc_id)
        self._changes.put({doc_id: encode(document)})
        self._open.pop(doc_id, None)

    def __delitem__(self, doc_id: int) -> None:
        if doc_id not in self:
            raise KeyError(doc_id)
        self._changes.remove([doc_id])
        self._open.pop(doc_id, None)

    def __contains__(self, doc_id: object) -> bool:
        return doc_id in self._changes.puts or (doc_id in self._rows and doc_id not in self._changes.removed)

    def __iter__(self) -> Iterator[int]:
        kept = [doc_id for doc_id in self._rows if doc_id not in self._changes.removed]
        return iter(list(dict.fromkeys([*kept, *self._changes.puts])))

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def clear(self) -> None:
        """Remove all documents."""
        self._open.clear()
        self._changes.remove(list(self))

    def finish(self) -> Changes:
        """Return what was changed. Raises ValueError when a document can't be stored any more."""
        for doc_id in list(self._open):
            self._settle(doc_id)
        return self._changes

    def _body(self, doc_id: int) -> bytes:
        if doc_id not in self:
            raise KeyError(doc_id)
        return self._changes.puts.get(doc_id) or self._rows[doc_id]

    def _settle(self, doc_id: int) -> None:
        body = encode(self._open.pop(doc_id))
        if body != self._body(doc_id):
            self._changes.put({doc_id: body})


class JournalStorage(Storage):
    """A TinyDB storage whose tables live in a ledger, encoded."""

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger

    def read(self) -> dict[str, dict[str, Any]]:
        """Return all tables, as read-only views."""
        views = {table: StoredTable(rows) for table, rows in self.ledger.tables.items()}
        return cast(dict[str, dict[str, Any]], views)

    def write(self, data: Mapping[str, Mapping[str, Any]]) -> None:
        """Make the tables what is given; those that :meth:`read` returned are recognised and left alone.

        Raises ValueError when a document can't be stored; nothing was changed.
        """
        tables = self.ledger.tables
        edits = {table: self._difference(table, documents) for table, documents in data.items()}
        for table in [name for name in tables if name not in data]:
            self.ledger.drop(table)
        for table, changes in edits.items():
            if changes is not None:
                self.ledger.edit(table, changes)

    def _difference(self, table: str, documents: Mapping[str, Any]) -> Changes | None:
        check_table(table)
        rows = self.ledger.rows(table)
        if isinstance(documents, StoredTable) and documents.rows is rows:
            return None
        wanted = encode_all({int(key): document for key, document in documents.items()})
        return Changes(
            removed={doc_id for doc_id in rows if doc_id not in wanted},
            puts={doc_id: body for doc_id, body in wanted.items() if rows.get(doc_id) != body},
        )


class _NoCache(LRUCache[Any, Any]):
    """Forgets all results at once: a cache would hand the same documents to everybody who asks."""

    def set(self, key: Any, value: Any) -> None:
        return


class JournalTable(Table):
    """A TinyDB table on :class:`JournalStorage`. What it returns are copies, always."""

    query_cache_class = _NoCache
    _next_id: int | None  # type: ignore[assignment]  # TinyDB infers None from its first value

    def __init__(self, storage: Storage, name: str, cache_size: int = 0, persist_empty: bool = False) -> None:
        # Before TinyDB's own, which may already write an empty table.
        self._ledger = cast(JournalStorage, storage).ledger
        super().__init__(storage, name, cache_size, persist_empty)

    def put_many(self, documents: Mapping[int, Document]) -> None:
        """Insert or replace documents by id, past all of TinyDB's machinery.

        Raises ValueError when one can't be stored; nothing was changed.
        """
        if not documents:
            return
        encoded = encode_all(documents)
        self._ledger.put(self._name, encoded)
        if self._next_id is not None:
            self._next_id = max(self._next_id, max(encoded) + 1)

    def remove_many(self, ids: Iterable[int]) -> None:
        """Remove documents by id, as far as they are there."""
        self._ledger.remove(self._name, ids)

    def _get_next_id(self) -> int:
        if self._next_id is None:
            self._next_id = max(self._ledger.rows(self._name), default=0) + 1
        next_id = self._next_id
        self._next_id = next_id + 1
        return next_id

    def _read_table(self) -> dict[str, Mapping[str, Any]]:
        return cast(dict[str, Mapping[str, Any]], StoredTable(self._ledger.rows(self._name)))

    def _update_table(self, updater: Callable[[dict[int, Mapping[str, Any]]], None]) -> None:
        edit = TableEdit(self._ledger.rows(self._name))
        updater(cast(dict[int, Mapping[str, Any]], edit))
        self._ledger.edit(self._name, edit.finish())


class JournalDB(TinyDB):
    """A TinyDB over a ledger; closing it does nothing, because the store owns the files."""

    table_class = JournalTable

    def __init__(self, ledger: Ledger) -> None:
        super().__init__(storage=lambda: JournalStorage(ledger))
