"""Files of accounts, which several processes change: the bundle while it runs, and the command line.

Changes are made one at a time under a lock file. Each writes a temporary file, syncs it, renames it into place and
syncs the folder, so that a reader finds the old content or the new one at any moment, and so does whoever comes
after a kill. Readers take no lock: they look whether the file is still the one that they have read.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Generic, Protocol, TypeVar

from puppetmaster.accounts.book import Book, decode, encode
from puppetmaster.accounts.private_files import make_private, open_private
from puppetmaster.errors import FileUnavailable, StoreCorrupt
from puppetmaster.store.files import FileSystem

try:
    import fcntl
except ImportError:  # pragma: no cover - Windows
    fcntl = None  # type: ignore[assignment]

FILE_NAME, LOCK_NAME = "accounts.json", "accounts.lock"

LOCK_TIMEOUT = 10.0
"""Seconds to wait for another process; a change takes a few milliseconds."""

_POLL = 0.005

ADVICE = (
    "put a good copy in its place, or move it away to begin without accounts (puppetmaster accounts add makes new ones)"
)

GONE = "it was here and is gone; put a copy in its place, or restart to begin without accounts"

_Stamp = tuple[int, int, int]
"""What tells one content of the file from another without reading it: inode, time of change in ns, size."""


_S = TypeVar("_S")


class Content(Protocol):
    """What such a file holds; two are equal when they hold the same."""

    def copy(self: _S) -> _S:
        """One that can be changed without changing this one."""
        ...

    def sweep(self, now: float) -> None:
        """Drop what time has ended."""
        ...


C = TypeVar("C", bound=Content)


class SharedFile(Generic[C]):
    """A file that several processes change; for any thread.

    :param lock_path: the file whose lock is held for a change.
    :param empty: makes the content that no file stands for.
    :param decode: reads a content; raises ValueError when it is damaged.
    :param advice: what to do about a damaged one.
    :param gone: what to do when the file is away that was there before.
    """

    def __init__(
        self,
        path: Path,
        lock_path: Path,
        *,
        empty: Callable[[], C],
        decode: Callable[[bytes], C],
        encode: Callable[[C], bytes],
        advice: str,
        gone: str,
        files: FileSystem | None = None,
    ) -> None:
        self.path = path
        self._lock_path = lock_path
        self._temporary = path.with_name(f"{path.name}.tmp")
        self._empty, self._decode, self._encode = empty, decode, encode
        self._advice, self._gone = advice, gone
        self._files = files or FileSystem()
        self._changing = threading.Lock()
        # Replaced as a whole, so that threads need no lock to look at it.
        self._known: tuple[_Stamp, C] | None = None

    def read(self) -> C:
        """The content as it is on disk now; it is not to be changed. Costs one ``stat`` while the file stays the same.

        No file means an empty one, unless there was one before.

        :raises StoreCorrupt: when the file is damaged, or went away.
        :raises FileUnavailable: when it can't be read.
        """
        known = self._known
        try:
            status = os.stat(self.path)
        except FileNotFoundError:
            if known is None:
                return self._empty()
            raise StoreCorrupt(self.path, 0, self._gone) from None
        except OSError as error:
            raise FileUnavailable(self.path, "read", _reason(error)) from error
        if known is None or known[0] != _stamp(status):
            known = self._known = self._load()
        return known[1]

    @contextlib.contextmanager
    def changing(self, now: float) -> Iterator[C]:
        """Give the content to change; what it is at the end is on disk when this returns. An error changes nothing.

        :raises StoreCorrupt: as :meth:`read`.
        :raises FileUnavailable: when it can't be written, or another process keeps the lock.
        """
        with self._locked():
            before = self.read()
            content = before.copy()
            content.sweep(now)
            yield content
            if content != before:
                self._save(content)

    def _load(self) -> tuple[_Stamp, C]:
        try:
            with self.path.open("rb") as file:
                # Before the content: what changes while it is read has another stamp, and is read again.
                stamp = _stamp(os.fstat(file.fileno()))
                return stamp, self._decode(file.read())
        except OSError as error:
            raise FileUnavailable(self.path, "read", _reason(error)) from error
        except ValueError as error:
            raise StoreCorrupt(self.path, getattr(error, "pos", 0), f"{error}; {self._advice}") from error

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        with self._changing:
            try:
                self._lock_path.parent.mkdir(parents=True, exist_ok=True)
                descriptor = open_private(self._lock_path, os.O_RDWR)
            except OSError as error:
                raise FileUnavailable(self._lock_path, "write", _reason(error)) from error
            try:
                self._wait_for_lock(descriptor)
                yield
            finally:
                os.close(descriptor)  # and with it the lock

    def _wait_for_lock(self, descriptor: int) -> None:
        deadline = time.monotonic() + LOCK_TIMEOUT
        while fcntl is not None:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except BlockingIOError as error:
                if time.monotonic() > deadline:
                    raise FileUnavailable(self.path, "change", "another process is at it all the time") from error
            time.sleep(_POLL)

    def _save(self, content: C) -> None:
        try:
            self._known = self._replace(self._encode(content)), content
        except OSError as error:
            with contextlib.suppress(OSError):
                self._files.remove(self._temporary)
            raise FileUnavailable(self.path, "write", _reason(error)) from error

    def _replace(self, content: bytes) -> _Stamp:
        with contextlib.suppress(FileNotFoundError):
            self._files.remove(self._temporary)
        descriptor = make_private(self._temporary, os.O_WRONLY)
        try:
            self._files.write_all(descriptor, content)
            self._date(descriptor)
            self._files.sync(descriptor)
            stamp = _stamp(os.fstat(descriptor))
        finally:
            self._files.close(descriptor)
        self._files.replace(self._temporary, self.path)
        self._files.sync_folder(self.path.parent)
        return stamp

    def _date(self, descriptor: int) -> None:
        """See that each content is younger than the one before.

        The clock of a file system stands still for milliseconds and may go backwards, an inode is used again, and
        a size is soon the same: a reader would not see the change.
        """
        if self._known is not None:
            status = os.fstat(descriptor)
            date = max(status.st_mtime_ns, self._known[0][1] + 1)
            os.utime(descriptor, ns=(status.st_atime_ns, date))


class AccountFile(SharedFile[Book]):
    """``<folder>/accounts.json``."""

    def __init__(self, folder: Path, files: FileSystem | None = None) -> None:
        super().__init__(
            folder / FILE_NAME,
            folder / LOCK_NAME,
            empty=Book,
            decode=decode,
            encode=encode,
            advice=ADVICE,
            gone=GONE,
            files=files,
        )


def _stamp(status: os.stat_result) -> _Stamp:
    return status.st_ino, status.st_mtime_ns, status.st_size


def _reason(error: OSError) -> str:
    return error.strerror or str(error)
