"""The tables, and what has changed in them since somebody last asked.

Documents are encoded here: half the memory of a dict, immutable, and ready to be written. Changes are gathered
for each table in an order that loses nothing: a table is first dropped, then created, then documents are
removed, then put. Whatever happened in between, replaying that gives the same documents in the same order.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from puppetmaster.errors import StoreUnavailable
from puppetmaster.store.codec import decode
from puppetmaster.store.port import Document
from puppetmaster.store.rows import Rows, StoredRows

Tables = dict[str, Rows]
"""All tables by name."""

JOURNAL_TABLE = "_journal"
"""The table of the snapshot in which the journal keeps its generation; nobody else may have it."""


@dataclass(slots=True)
class Changes:
    """What happened to one table."""

    # The table, with all that was in it, went away first.
    dropped: bool = False
    # It was made, or made again.
    created: bool = False
    # Removed before anything of `puts` was put.
    removed: set[int] = field(default_factory=set)
    # Put, in the order in which it was put first.
    puts: dict[int, bytes] = field(default_factory=dict)

    def put(self, rows: Mapping[int, bytes]) -> None:
        """Note documents that were put."""
        self.puts.update(rows)

    def remove(self, ids: Iterable[int]) -> None:
        """Note documents that were removed."""
        for doc_id in ids:
            self.puts.pop(doc_id, None)
            self.removed.add(doc_id)


Frame = dict[str, Changes]
"""The changes of all tables that become durable together."""


def apply(frame: Frame, tables: Tables) -> None:
    """Carry out the changes."""
    for table, changes in frame.items():
        if changes.dropped:
            tables.pop(table, None)
        if changes.created or changes.removed or changes.puts:
            if table not in tables:
                tables[table] = Rows()
            rows = tables[table]
            for doc_id in changes.removed:
                rows.discard(doc_id)
            rows.put(changes.puts)


def check_table(table: str) -> None:
    """Raise ValueError when no table can have this name."""
    if table == JOURNAL_TABLE:
        raise ValueError(f"the table {table!r} is the journal's own")
    if not isinstance(table, str) or not table.isprintable():
        raise ValueError(f"the name of a table is printable text, not {table!r:.60}")


def _fetch(holder: bytes | StoredRows, doc_id: int) -> bytes:
    body = holder if isinstance(holder, bytes) else holder.get(doc_id)
    assert body is not None, "stored rows never change"
    return body


class Ledger:
    """Tables whose changes are gathered until :meth:`take`. For one thread."""

    def __init__(self, tables: Tables | None = None) -> None:
        self.tables: Tables = {} if tables is None else tables
        self._pending: Frame = {}
        self.closed = False

    @property
    def changed(self) -> bool:
        """Is there anything to take?"""
        return bool(self._pending)

    def rows(self, table: str) -> Mapping[int, bytes]:
        """Return the live rows of a table, for reading only; empty when there is no such table."""
        return self.tables.get(table) or {}

    def put(self, table: str, rows: Mapping[int, bytes]) -> None:
        """Insert or replace encoded documents; the table is made when it is missing."""
        changes = self._pending.get(table)
        if changes is None or self.closed or table not in self.tables:
            changes = self.create(table)
        self.tables[table].put(rows)
        changes.puts.update(rows)

    def remove(self, table: str, ids: Iterable[int]) -> None:
        """Remove documents, as far as they are there."""
        self._refuse_if_closed()
        rows = self.tables.get(table)
        gone = [] if rows is None else [doc_id for doc_id in ids if rows.discard(doc_id)]
        if gone:
            self._changes(table).remove(gone)

    def edit(self, table: str, changes: Changes) -> None:
        """Carry out removals and then puts that were gathered elsewhere; the table is made when missing."""
        self.create(table)
        self.remove(table, changes.removed)
        if changes.puts:
            self.put(table, changes.puts)

    def create(self, table: str) -> Changes:
        """Make the table unless it exists, and return where its changes are gathered.

        Raises ValueError when no table can have this name.
        """
        if table in self.tables:
            return self._changes(table)
        check_table(table)
        changes = self._changes(table)
        changes.created = True
        self.tables[table] = Rows()
        return changes

    def drop(self, table: str) -> None:
        """Take the table away, with all that is in it."""
        self._refuse_if_closed()
        if self.tables.pop(table, None) is not None:
            self._pending[table] = Changes(dropped=True)

    def take(self) -> Frame:
        """Return what has changed, and begin anew."""
        taken, self._pending = self._pending, {}
        return taken

    def freeze(self) -> Tables:
        """Return the tables as they are now, for a new snapshot (see Rows.freeze). Takes no time."""
        return {table: rows.freeze() for table, rows in self.tables.items()}

    def settle(self, frozen: Tables, stored: Mapping[str, StoredRows]) -> None:
        """Let go of what was frozen, because a snapshot holds it. May be called in another thread, see Rows.settle."""
        for table, rows in frozen.items():
            if (live := self.tables.get(table)) is not None:
                live.settle(rows, stored[table])

    def get(self, table: str, doc_id: int) -> Document | None:
        """Return a fresh copy of a document, or None."""
        body = self.rows(table).get(doc_id)
        return None if body is None else decode(body)

    def scan(self, table: str, ids: Iterable[int] | None = None) -> Iterator[tuple[int, Document]]:
        """Iterate over fresh copies of documents, as they are at the call (see Store.scan)."""
        rows = self.tables.get(table)
        if rows is None:
            return iter(())
        if ids is None:
            return ((doc_id, decode(body)) for doc_id, body in rows.items())
        # What is in the snapshot is read when its turn comes: it never changes.
        chosen = [(doc_id, holder) for doc_id in ids if (holder := rows.holder(doc_id)) is not None]
        return ((doc_id, decode(_fetch(holder, doc_id))) for doc_id, holder in chosen)

    def close(self) -> None:
        """Refuse all changes from now on with StoreUnavailable: nobody would write them any more."""
        self.closed = True

    def _refuse_if_closed(self) -> None:
        if self.closed:
            raise StoreUnavailable("it was closed")

    def _changes(self, table: str) -> Changes:
        self._refuse_if_closed()
        changes = self._pending.get(table)
        if changes is None:
            changes = self._pending[table] = Changes()
        return changes
