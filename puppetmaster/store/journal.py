"""The files of a store: a snapshot and the journal of what changed since.

``<name>.json`` is the snapshot of generation *g*, ``<name>.journal.<g>`` what came after it. A commit appends a
frame and syncs it. Once in a while everything goes to a new snapshot and the journal begins anew:

1. write ``<name>.json.tmp`` and sync it
2. make ``<name>.journal.<g+1>``, copy to it what was committed since the snapshot was begun, and sync it
3. rename the snapshot into place and sync the folder
4. delete ``<name>.journal.<g>``

Commits go on meanwhile, but for the last of 2 and for 3. Killed before 3, the old pair is whole; after 3, the new one.
Leftovers go at the next start, among them a journal of a later generation that has nothing but copies of frames in the
current one.

A journal that was removed while it is open would take frames that no restart ever finds: that counts as a failure,
before anything is written. When there is a folder of that name again, an empty one, a new snapshot goes into it.

After a failed write or sync nobody knows what the file holds: the system may have thrown the data away and
report the next sync as good. So the file is given up, though not deleted, and the next attempt is a new
snapshot under a new generation, which needs nothing but the memory and the snapshot that is open: its file stays
readable when its name is gone.
"""

from __future__ import annotations

import errno
import logging
import os
import re
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from puppetmaster.errors import StoreCorrupt, StoreLocked, StoreUnavailable
from puppetmaster.store import snapshot
from puppetmaster.store.files import FileSystem, Lock, SystemFiles
from puppetmaster.store.frames import MAX_BODY_SIZE, Replay, encode_frame, frame_digests
from puppetmaster.store.ledger import Frame, Tables
from puppetmaster.store.rows import Rows, SnapshotFile, StoredRows
from puppetmaster.store.tail import Tail

log = logging.getLogger(__name__)

MIN_COMPACTION_SIZE = 8 << 20
"""Bytes of journal below which compacting is not worth it: they are replayed in a tenth of a second."""

MAX_COMPACTION_SIZE = 64 << 20
"""Bytes of journal above which compacting always is worth it: what it holds is in memory until then."""

MIN_QUIET_SIZE = 1 << 20
"""Bytes of journal below which compacting is not worth it even when there is nothing else to do."""

SHORT_TAIL = 256 << 10
"""Bytes that may be left to be copied while commits wait, beside what comes in the last moment."""

ROUNDS = 8
"""Times that what was appended is copied beside the commits. Where each brings as much again as the one before, commits
come as fast as they are copied: then they wait for the rest."""

RESERVE = 8 << 20
"""Bytes of the disk that a compaction leaves to the commits beside it, or half of what is free where that is less: a
commit that finds the disk full gives the journal up."""

_NEW_SNAPSHOT = os.O_RDWR | os.O_CREAT | os.O_TRUNC
_NEW_JOURNAL = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND
_APPEND = os.O_WRONLY | os.O_CREAT | os.O_APPEND


class GivenUp(OSError):
    """Raised when the journal can't be appended to since an earlier failure; everything has to be written anew."""


@dataclass(slots=True)
class Preparation:
    """A snapshot that is written and synced, and the journal that is to follow it; nobody knows of them yet."""

    generation: int
    descriptor: int
    """Of the journal."""
    file: SnapshotFile
    snapshot_size: int
    stored: Mapping[str, StoredRows]
    """The tables as they lie in the snapshot."""
    tail: Tail | None = None
    """Copies what is appended meanwhile, from :meth:`Journal.follow` on; none where nothing is."""


class Journal:
    """The files of one store, locked against other processes.

    One thread writes. Others may ask how it is: :attr:`size` grows when a frame is on disk, and :attr:`trusted` is to
    be read while nothing is being appended. What else may run in another thread says so.
    """

    def __init__(self, directory: Path, name: str, files: FileSystem | None = None) -> None:
        """Open the files, or begin with ``<name>.json.factory`` or nothing; see :attr:`tables`.

        Raises StoreCorrupt (nothing on disk was changed), StoreLocked, and StoreUnavailable when a folder or
        file can't be made, read or written.
        """
        self._folder, self._name = directory, name
        self._files = files or SystemFiles()
        self._snapshot = directory / f"{name}.json"
        self._temporary = directory / f"{name}.json.tmp"
        self._descriptor: int | None = None
        self.tables: Tables = {}
        """What the files held at the opening; whoever opened the journal may take it over."""
        self.trusted = False
        """May frames be appended? If not, :meth:`rewrite` is the only way on."""
        self.size = 0
        """Bytes in the journal."""
        self.bytes_written = 0
        """Bytes that were written since the opening, snapshots and all."""
        try:
            directory.mkdir(parents=True, exist_ok=True)
            self._lock = Lock(directory / f"{name}.lock")
        except OSError as error:
            raise unavailable(error) from error
        try:
            self._open()
        except BaseException as error:
            self.close()
            if isinstance(error, OSError) and not isinstance(error, StoreUnavailable):
                raise unavailable(error) from error
            raise

    @property
    def generation(self) -> int:
        """Of the snapshot and the journal that are in use."""
        return self._generation

    def append(self, frame: Frame) -> None:
        """Return when the frame is on disk. Raises OSError; the journal can't be trusted then.

        Raises GivenUp when it could not be trusted before: nothing was written, and :meth:`rewrite` is the way on.
        """
        if not self.trusted or self._descriptor is None:
            raise self._given_up()
        self.trusted = False
        data = encode_frame(frame, self._generation, self._sequence + 1)
        if data:
            self._check_journal(self._descriptor)
            self._write_frame(self._descriptor, data)
        self.trusted = True

    def is_oversized(self) -> bool:
        """Is it time for a new generation?"""
        return self.size > self._limit

    def is_worth_tidying(self) -> bool:
        """Is a new generation worth it while there is nothing else to write? An eighth of the snapshot is."""
        return self.size > self._quiet_limit

    def postpone(self) -> None:
        """Let the journal grow before the next attempt, as far as there is room: one that was refused is not made again
        with every commit."""
        free = MIN_COMPACTION_SIZE
        with suppress(OSError):
            free = self._files.free(self._folder)
        self._limit = self.size + min(MIN_COMPACTION_SIZE, free // 2)
        self._quiet_limit = self.size + min(MIN_QUIET_SIZE, free // 2)

    def rewrite(self, tables: Tables) -> Mapping[str, StoredRows]:
        """Replace snapshot and journal by a new generation with these tables; the journal can be trusted then.

        Returns the tables as they lie in the snapshot. Raises OSError, and StoreCorrupt when the snapshot that is to be
        replaced was damaged. What was trusted before remains so, unless the rename itself failed.
        """
        stored = self.switch(self.prepare(tables))
        self.remove_predecessors()
        return stored

    # The same in steps, for a new generation that is written while frames are appended. The first two may run in
    # another thread than the rest, beside append alone. So may remove_predecessors, beside anything: a generation that
    # is past does not come again.

    def prepare(self, tables: Tables, check: Callable[[], None] | None = None) -> Preparation:
        """Write the snapshot of a new generation, and an empty journal for it. Nothing in use changes.

        ``check`` is called again and again, and may raise to end it. Raises OSError and StoreCorrupt as
        :meth:`rewrite` does.
        """
        if self._lock.is_lost:
            self._lock_again()
        # A generation is used once: after a failure nobody knows which of its files are on disk.
        self._highest += 1
        generation = self._highest
        try:
            file, snapshot_size, stored = self._write_snapshot(generation, tables, check)
            try:
                return Preparation(generation, self._create_journal(generation), file, snapshot_size, stored)
            except BaseException:
                file.close()
                raise
        except BaseException:
            # The space is needed, by others and by the next attempt.
            self._remove_quietly(self._temporary)
            raise

    def follow(
        self, prepared: Preparation, generation: int, since: int, check: Callable[[], None] | None = None
    ) -> None:
        """Copy to the new journal what was appended since its tables were as they are in the snapshot.

        That was when this generation's journal had the size ``since``. What is appended from now on is left to
        :meth:`switch`, which commits wait for. ``check`` is as in :meth:`prepare`. Raises OSError, and StoreCorrupt
        when a frame does not come back.
        """
        try:
            if generation != self._generation:
                raise self._given_up()
            # What is in the journal must not be without its name when the snapshot has got its own.
            self._files.sync_folder(self._folder)
            prepared.tail = tail = Tail(
                self._files, self._journal(generation), generation, since, prepared.descriptor, prepared.generation
            )
            for _ in range(ROUNDS):
                if self.size - tail.start <= SHORT_TAIL:
                    break
                tail.copy(self.size, check)
                tail.sync()
        except BaseException:
            self.abandon(prepared)
            raise

    def switch(self, prepared: Preparation) -> Mapping[str, StoredRows]:
        """Go over to the generation that was prepared; the journal can be trusted then. See :meth:`rewrite`.

        Raises GivenUp when frames were followed and can't be trusted any more: nobody knows what is in them.
        """
        try:
            if prepared.tail is not None:
                self._finish(prepared.tail)
            if self._lock.is_lost:
                raise FileNotFoundError(errno.ENOENT, "the data folder was replaced", str(self._folder))
        except BaseException:
            self.abandon(prepared)
            raise
        try:
            self._files.replace(self._temporary, self._snapshot)
            self._files.sync_folder(self._folder)
        except BaseException:
            # Which of the two generations is on disk, nobody knows.
            self.trusted = False
            self._close_quietly(prepared.descriptor)
            prepared.file.close()
            raise
        self._take_over(prepared)
        return prepared.stored

    def abandon(self, prepared: Preparation) -> None:
        """Remove what was made for a generation that does not come to be."""
        path = self._journal(prepared.generation)
        try:
            if self._files.has_name(prepared.descriptor, path):  # or it is of a store that was put in place of this one
                self._remove_quietly(path)
        except OSError as error:
            log.warning("can't delete %s: %s", path, error, extra={"event": "leftover_kept"})
        finally:
            self._close_quietly(prepared.descriptor)
            prepared.file.close()
            self._remove_quietly(self._temporary)

    def remove_predecessors(self) -> None:
        """Remove the journals of earlier generations: tens of milliseconds for a large one."""
        for generation, path in self._journals().items():
            if generation < self._generation:
                self._remove_quietly(path)

    def close(self) -> None:
        """Let go of the files; idempotent. Raises nothing."""
        self.trusted = False
        if self._descriptor is not None:
            self._close_quietly(self._descriptor)
            self._descriptor = None
        self._lock.release()

    # ------------------------------------------------------------------------------------------- opening

    def _open(self) -> None:
        start = self._load_start()
        self.tables, self._generation = start.tables, start.generation
        self._highest = max([start.generation, *self._journals()])
        self._set_limits(self._size_of(self._snapshot))
        self._sequence, self.size, torn = self._replay()
        self._refuse_journals_of_the_future()
        if start.sealed:
            self._continue(torn)
        else:
            # Another program may change the file again, so it is no ground for a journal.
            stored = self.rewrite({table: rows.freeze() for table, rows in self.tables.items()})
            self.tables = {table: Rows(rows) for table, rows in stored.items()}

    def _load_start(self) -> snapshot.Snapshot:
        with suppress(FileNotFoundError):
            return snapshot.load(self._snapshot, self._files)
        factory = self._folder / f"{self._name}.json.factory"
        with suppress(FileNotFoundError):
            start = snapshot.load(factory, self._files)
            log.info("starting with %s", factory, extra={"event": "store_from_factory"})
            return snapshot.Snapshot(start.tables, 0, sealed=False)
        return snapshot.Snapshot({}, 0, sealed=False)

    def _replay(self) -> tuple[int, int, int]:
        """Carry out the journal on the tables; return its last sequence, its good size and what is torn."""
        path = self._journal(self._generation)
        size = self._size_of(path)
        if not size:
            if self._generation and not path.exists():
                log.warning("%s is missing; the snapshot is all there is", path, extra={"event": "journal_missing"})
            return 0, 0, 0
        with path.open("rb") as file:
            replay = Replay(file, path, size, self._generation)
            replay.run(self.tables)
        return replay.sequence, replay.end, size - replay.end

    def _refuse_journals_of_the_future(self) -> None:
        """See that no journal of a later generation holds what would be lost with it.

        A kill in a compaction leaves one with copies of what the current one ends with. Any other one belongs to a
        snapshot that is gone.
        """
        own: list[bytes] | None = None
        for generation, path in self._journals().items():
            if generation <= self._generation or not self._size_of(path):
                continue
            own = frame_digests(self._journal(self._generation), self._generation) if own is None else own
            copies = frame_digests(path, generation)
            if not own or copies is None or not _is_part(copies, own):
                raise StoreCorrupt(
                    path, 0, f"it belongs to generation {generation}, the snapshot is {self._generation}"
                )

    def _continue(self, torn: int) -> None:
        self._descriptor = self._files.open(self._journal(self._generation), _APPEND)
        if torn:
            log.warning(
                "cutting %d bytes of an unfinished commit off %s",
                torn,
                self._journal(self._generation),
                extra={"event": "journal_cut", "bytes": torn},
            )
            self._files.truncate(self._descriptor, self.size)
        # What was read may not have been synced by the process that was killed.
        self._files.sync(self._descriptor)
        self._files.sync_folder(self._folder)
        self._remove_leftovers()
        self.trusted = True

    # ------------------------------------------------------------------------------------------- writing

    def _check_journal(self, descriptor: int) -> None:
        path = self._journal(self._generation)
        if not self._files.has_name(descriptor, path):
            self._check_folder()
            raise FileNotFoundError(errno.ENOENT, "it was removed", str(path))

    def _check_folder(self) -> None:
        if not self._folder.is_dir():
            raise FileNotFoundError(errno.ENOENT, "the data folder was removed", str(self._folder))

    def _lock_again(self) -> None:
        """Take the lock of a folder that was removed and made again.

        Raises OSError when there is none, when another process has it, or when somebody put another store there: it
        must not be overwritten by what this process knows.
        """
        self._check_folder()
        if self._snapshot.exists():
            raise FileExistsError(errno.EEXIST, "another store was put in its place, restart", str(self._snapshot))
        try:
            lock = Lock(self._folder / f"{self._name}.lock")
        except StoreLocked as error:
            raise OSError(errno.EBUSY, str(error)) from error
        self._lock.release()
        self._lock = lock

    def _write_frame(self, descriptor: int, data: bytes) -> None:
        if len(data) > MAX_BODY_SIZE:
            raise OSError(f"{len(data)} bytes are too many for one frame")
        self._files.write_synced(descriptor, data, self.size)
        self._sequence += 1
        self.size += len(data)
        self.bytes_written += len(data)

    def _write_snapshot(
        self, generation: int, tables: Tables, check: Callable[[], None] | None
    ) -> tuple[SnapshotFile, int, Mapping[str, StoredRows]]:
        descriptor = self._files.open(self._temporary, _NEW_SNAPSHOT)
        # It stays open, and is read from by whoever needs a document of it.
        file = SnapshotFile(self._snapshot, descriptor, self._files)
        writing = snapshot.Writing(tables, generation)
        try:
            for chunk in writing.chunks():
                if check is not None:
                    check()
                self._files.write_all(descriptor, chunk)
            self._files.sync(descriptor)
        except BaseException:
            file.close()  # as long as it is open, its space is taken, though it has no name
            raise
        return file, writing.size, writing.stored(file)

    def reserve(self) -> int:
        """Bytes of the disk that a compaction which begins now is to leave to commits: see RESERVE. Raises OSError."""
        return min(RESERVE, self._files.free(self._folder) // 2)

    def check_room(self, reserve: int) -> None:
        """Raise OSError when the disk has less room than that."""
        free = self._files.free(self._folder)
        if free < reserve:
            raise OSError(errno.ENOSPC, f"only {free >> 10} KiB are left for commits", str(self._folder))

    def _create_journal(self, generation: int) -> int:
        path = self._journal(generation)
        descriptor = self._files.open(path, _NEW_JOURNAL)
        try:
            self._files.sync(descriptor)
        except BaseException:
            self._close_quietly(descriptor)
            self._remove_quietly(path)
            raise
        return descriptor

    def _finish(self, tail: Tail) -> None:
        """Copy the last frames."""
        if not self.trusted:
            raise self._given_up()
        tail.copy(self.size)
        if tail.size:
            tail.sync()

    def _given_up(self) -> GivenUp:
        return GivenUp(errno.EIO, "it was given up after a failure", str(self._journal(self._generation)))

    def _take_over(self, prepared: Preparation) -> None:
        if self._descriptor is not None:
            self._close_quietly(self._descriptor)
        self._descriptor, self._generation = prepared.descriptor, prepared.generation
        self._sequence = self.size = 0
        if prepared.tail is not None:
            self._sequence, self.size = prepared.tail.sequence, prepared.tail.size
        self.bytes_written += prepared.snapshot_size + self.size
        self._set_limits(prepared.snapshot_size)
        self.trusted = True

    def _set_limits(self, snapshot_size: int) -> None:
        self._limit = _limit(snapshot_size)
        self._quiet_limit = max(MIN_QUIET_SIZE, snapshot_size // 8)

    def _remove_leftovers(self) -> None:
        self._remove_quietly(self._temporary)
        for generation, path in self._journals().items():
            if generation != self._generation:
                self._remove_quietly(path)

    # --------------------------------------------------------------------------------------------- files

    def _journal(self, generation: int) -> Path:
        return self._folder / f"{self._name}.journal.{generation}"

    def _journals(self) -> dict[int, Path]:
        pattern = re.compile(re.escape(self._name) + r"\.journal\.(\d{1,9})")
        names = (pattern.fullmatch(name) for name in os.listdir(self._folder))
        return {int(match[1]): self._folder / match[0] for match in names if match}

    @staticmethod
    def _size_of(path: Path) -> int:
        try:
            return path.stat().st_size
        except FileNotFoundError:
            return 0

    def _remove_quietly(self, path: Path) -> None:
        try:
            self._files.remove(path)
        except FileNotFoundError:
            return
        except OSError as error:
            log.warning("can't delete %s: %s", path, error, extra={"event": "leftover_kept"})

    def _close_quietly(self, descriptor: int) -> None:
        # All that matters was synced before; an error here has nothing more to say.
        with suppress(OSError):
            self._files.close(descriptor)


def unavailable(error: OSError) -> StoreUnavailable:
    """Translate an error of the system."""
    where = f" ({error.filename})" if error.filename else ""
    return StoreUnavailable(f"{error.strerror or error}{where}")


def _is_part(some: Iterable[bytes], others: Iterable[bytes]) -> bool:
    """Whether each of some is among the others, in the same order."""
    rest = iter(others)
    return all(one in rest for one in some)


def _limit(snapshot_size: int) -> int:
    """The size of a journal that is due for a compaction."""
    return max(MIN_COMPACTION_SIZE, min(2 * snapshot_size, MAX_COMPACTION_SIZE))
