"""The store of one machine: TinyDB in front, a journal behind."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from tinydb import TinyDB

from puppetmaster.errors import StoreUnavailable
from puppetmaster.store.compaction import Abandoned, Compaction
from puppetmaster.store.files import FileSystem
from puppetmaster.store.group import GroupCommit
from puppetmaster.store.journal import Journal, Preparation
from puppetmaster.store.ledger import Frame, Ledger, Tables
from puppetmaster.store.port import Document
from puppetmaster.store.table import JournalDB, JournalTable

log = logging.getLogger(__name__)


QUIET = 1.0
"""Seconds without a commit after which there is time for a compaction: what a journal holds is in memory until then."""

OnCommit = Callable[[float], None]
"""Is told the seconds that a commit took to be written and synced, in the writer's thread; must not raise."""


class TinyStore:
    """A :class:`~puppetmaster.store.port.Store` in a folder, made by :meth:`open`.

    What is asked of it is asked in one thread, the loop's. The disk is touched in a thread of its own, which is given
    encoded bytes and never sees what changes afterwards. A second one writes new snapshots, so that no commit waits
    for it: see :mod:`puppetmaster.store.compaction`.
    """

    def __init__(self, journal: Journal, on_commit: OnCommit | None = None) -> None:
        self.commits = 0
        """How many commits have been written."""
        self.unavailable = ""
        self._journal = journal
        self._on_commit = on_commit
        self._ledger = Ledger(journal.tables)
        # From here on the ledger alone owns the tables.
        journal.tables = {}
        self._db = JournalDB(self._ledger)
        self._writer = _thread("puppetmaster-store")
        self._compactor = _thread("puppetmaster-compaction")
        self._compaction: Compaction | None = None
        """The last one."""
        self._group = GroupCommit(self._depart)
        self._quiet: asyncio.TimerHandle | None = None

    @classmethod
    def open(
        cls,
        directory: Path,
        name: str = "puppetmaster",
        files: FileSystem | None = None,
        on_commit: OnCommit | None = None,
    ) -> TinyStore:
        """Open or make the store ``<directory>/<name>.json``, and replay its journal.

        ``on_commit`` is told of every commit that has reached the disk, before its waiters are.

        Raises StoreLocked when a process has it open, StoreCorrupt when a file is damaged or from a newer
        release (nothing was changed on disk), StoreUnavailable when the disk refuses.
        """
        journal = Journal(Path(directory), name, files)
        try:
            return cls(journal, on_commit)
        except RuntimeError as error:  # no thread can be started
            journal.close()
            raise StoreUnavailable(str(error)) from error

    @property
    def bytes_written(self) -> int:
        """How many bytes have gone to the files since the opening, snapshots and all."""
        return self._journal.bytes_written

    @property
    def db(self) -> TinyDB:
        """The tables as a TinyDB, for queries; what it changes is durable after the next :meth:`commit`."""
        return self._db

    def put(self, table: str, documents: Mapping[int, Document]) -> None:
        """See Store."""
        self._table(table).put_many(documents)

    def remove(self, table: str, ids: Iterable[int]) -> None:
        """See Store."""
        self._table(table).remove_many(ids)

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
        self._expect_quiet()
        try:
            await self._group.commit()
        except StoreUnavailable as error:
            self.unavailable = error.reason
            raise
        self.unavailable = ""

    async def close(self) -> None:
        """See Store. What the journal holds goes to the snapshot, so that any TinyDB can read all of it."""
        if self._ledger.closed:
            return
        self._ledger.close()
        if self._quiet is not None:
            self._quiet.cancel()
        if self._compaction is not None:
            self._compaction.abandon()
        try:
            await self._group.commit()
            while self._group.is_under_way:  # whoever had to board again
                await self._group.commit()
            if self._compaction is not None:
                await asyncio.shield(asyncio.wrap_future(self._compaction.over))
            if self._journal.size:
                await asyncio.wrap_future(self._writer.submit(self._rewrite_if_trusted, self._freeze()))
        finally:
            # Waits for both: the lock must not be free while they write.
            self._compactor.shutdown(wait=True)
            self._writer.shutdown(wait=True)
            self._journal.close()

    def _table(self, name: str) -> JournalTable:
        table: JournalTable = self._db.table(name)  # type: ignore[assignment]
        return table

    @property
    def _is_compacting(self) -> bool:
        return self._compaction is not None and not self._compaction.is_over

    def _freeze(self) -> Tables:
        """The tables as they are, for a new snapshot."""
        assert self._compaction is None or self._compaction.has_left, "what is being read must not change"
        return self._ledger.freeze()

    def _depart(self) -> Future[None]:
        """Hand to the writer what has gathered; see GroupCommit. No other write of a commit is under way now."""
        if not self._journal.trusted:
            # The tables hold all that was ever put, so what had gathered needs no writing of its own.
            self._ledger.take()
            return self._writer.submit(self._write_anew, self._freeze())
        if not self._ledger.changed:
            nothing: Future[None] = Future()
            nothing.set_result(None)
            return nothing
        compaction = None
        if self._journal.is_oversized() and not self._is_compacting:
            # What has gathered is in it, and is written before it begins.
            compaction = self._compaction = Compaction(self._freeze())
        try:
            return self._writer.submit(self._write, self._ledger.take(), compaction)
        except BaseException:
            self._journal.trusted = False  # what was taken is in the tables alone
            if compaction is not None:
                compaction.end()
            raise

    def _expect_quiet(self) -> None:
        if self._quiet is not None:
            self._quiet.cancel()
        self._quiet = asyncio.get_running_loop().call_later(QUIET, self._tidy)

    def _tidy(self) -> None:
        """Compact while nobody waits for the disk, if there is nothing to be written and it is worth it."""
        if self._ledger.closed:
            return
        if self._ledger.changed or self._group.is_under_way or self._is_compacting:
            self._expect_quiet()
        elif self._journal.trusted and self._journal.is_worth_tidying():
            compaction = self._compaction = Compaction(self._freeze())
            try:
                self._writer.submit(self._begin, compaction)
            except RuntimeError:  # the interpreter is about to end
                compaction.end()
            self._expect_quiet()

    # These run in the writer's thread.

    def _write(self, frame: Frame, compaction: Compaction | None) -> None:
        """Write a commit, and then begin a compaction."""
        begun = time.perf_counter()
        try:
            self._journal.append(frame)
        except BaseException:
            # Whoever hears of this freezes the rows anew, and writes them.
            if self._compaction is not None:
                self._compaction.abandon()
                self._compaction.wait_until_left()
            if compaction is not None:
                compaction.end()
            raise
        if compaction is not None:
            self._begin(compaction)
        self._tell(begun)

    def _write_anew(self, tables: Tables) -> None:
        """Write all there is, after a failure."""
        begun = time.perf_counter()
        self._rewrite(tables)
        self._tell(begun)

    def _tell(self, begun: float) -> None:
        self.commits += 1
        if self._on_commit is not None:
            self._on_commit(time.perf_counter() - begun)

    def _begin(self, compaction: Compaction) -> None:
        # The frozen rows hold all frames up to this size and no other: each is written in this thread.
        generation, since = self._journal.generation, self._journal.size
        try:
            compaction.begin(self._compactor.submit(self._compact, compaction, generation, since))
        except BaseException as error:
            self._finish(compaction, error)

    def _finish(self, compaction: Compaction, outcome: Preparation | BaseException) -> None:
        """End a compaction: go over to the new snapshot, or say why there is none.

        That there is none harms nobody: the journal goes on, or the next commit writes all anew.
        """
        try:
            compaction.wait_until_left()  # it has, but for its last step
            if isinstance(outcome, BaseException):
                raise outcome
            self._ledger.settle(compaction.tables, self._journal.switch(outcome))
            self._compactor.submit(self._journal.remove_predecessors)
        except BaseException as error:
            self._journal.postpone()
            if not isinstance(error, Abandoned):
                _warn(error)
        finally:
            compaction.end()

    def _rewrite_if_trusted(self, tables: Tables) -> None:
        """Write a new snapshot at the end. Its failure harms nobody: the journal has it all."""
        if self._journal.trusted:
            try:
                self._rewrite(tables)
            except Exception as error:
                _warn(error)

    def _rewrite(self, tables: Tables) -> None:
        """Write a new snapshot, and read from it from now on."""
        self._ledger.settle(tables, self._journal.rewrite(tables))

    # This runs in the compactor's.

    def _compact(self, compaction: Compaction, generation: int, since: int) -> None:
        """Write a new snapshot while commits go on, and have the writer go over to it between two of them."""
        outcome: Preparation | BaseException
        try:
            reserve = self._journal.reserve()

            def check() -> None:
                compaction.check()
                self._journal.check_room(reserve)

            outcome = self._journal.prepare(compaction.tables, check)
            self._journal.follow(outcome, generation, since, check)
        except BaseException as error:
            outcome = error
        try:
            self._writer.submit(self._finish, compaction, outcome)
        except RuntimeError:  # the interpreter is about to end
            compaction.end()


def _thread(name: str) -> ThreadPoolExecutor:
    """A thread that runs already: it is known now, and not in an hour, whether it can be started."""
    executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix=name)
    executor.submit(_do_nothing)
    return executor


def _do_nothing() -> None:
    """The first work of a thread."""


def _warn(error: BaseException) -> None:
    log.warning("can't compact the store: %s", error, extra={"event": "compaction_failed"})
