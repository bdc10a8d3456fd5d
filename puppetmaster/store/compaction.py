"""A compaction, from the freezing of the rows until they are in the new snapshot, or will not come to be there.

::

    loop        freeze the rows, hand them to the writer
    writer      write the commit that belongs to them, note the journal's size, hand over to the compactor
    compactor   write the snapshot; copy what is committed meanwhile to the new journal
    writer      between two commits: copy the rest, rename, go on with the new journal

The writer ends it, whatever becomes of it. Until the compactor has left it, nobody may freeze the rows anew, which it
reads, or write all anew, for which the files would have the same names.
"""

from __future__ import annotations

from concurrent.futures import Future, wait
from threading import Event

from puppetmaster.store.ledger import Tables


class Abandoned(Exception):
    """Raised in a compaction that somebody does not want any more."""


class Compaction:
    """How far one is; see the top of this module.

    :param tables: the frozen rows.
    """

    def __init__(self, tables: Tables) -> None:
        self.tables = tables
        self.over: Future[None] = Future()
        """Done when it has ended, well or not."""
        self._work: Future[None] | None = None
        """The compactor's."""
        self._abandoned = Event()

    @property
    def is_over(self) -> bool:
        """Whether it has ended."""
        return self.over.done()

    @property
    def has_left(self) -> bool:
        """Whether the compactor touches neither the rows nor the files any more."""
        return self.is_over or (self._work is not None and self._work.done())

    def begin(self, work: Future[None]) -> None:
        """The compactor has it."""
        self._work = work

    def abandon(self) -> None:
        """Have it end soon."""
        self._abandoned.set()

    def check(self) -> None:
        """Raise Abandoned when it is to end."""
        if self._abandoned.is_set():
            raise Abandoned

    def wait_until_left(self) -> None:
        """Return when the compactor has left it. For the writer: nobody else hands it over meanwhile."""
        if self._work is not None:
            wait([self._work])

    def end(self) -> None:
        """It has ended; the rows are let go of."""
        self.tables = {}
        if not self.over.done():
            self.over.set_result(None)
