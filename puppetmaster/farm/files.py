"""Archives that the original's clients send along: a job's scenes, and what was rendered of each of its tasks."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import shutil
import tempfile
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import BinaryIO

from puppetmaster.errors import FileUnavailable

logger = logging.getLogger(__name__)

MAX_FILE_BYTES = 2 << 30
"""The largest archive that is taken."""

MAX_UPLOADS = 16
"""Archives that come in at once: each is an open file."""

KEEP_FREE, KEEP_FREE_SHARE = 1 << 30, 20
"""Bytes, or one part in so many of the disk if that is less, that no archive is to take: the store is there as well."""

LOOK_BYTES = 16 << 20
"""How much of an archive is written between two looks at what is free."""

_NAME = re.compile(r"(jobfile|taskfileout|jobsupportfile|dependencies)_\d{1,18}(_\d{1,18})?\.zip")
_NUMBER = re.compile(r"\d{1,18}", re.ASCII)


class Upload:
    """A file that is coming in. All of it blocks: it is for threads.

    :raises FileUnavailable: also by :meth:`write`, when the disk is nearly full.
    """

    def __init__(self, folder: Path, free: Callable[[Path], bool], done: Callable[[], None]) -> None:
        self._folder, self._has_space, self._done = folder, free, done
        self._file: BinaryIO
        self._unlooked = 0
        folder.mkdir(parents=True, exist_ok=True)
        self._look()
        number, name = tempfile.mkstemp(prefix=".upload-", dir=folder)
        self._file, self._path = os.fdopen(number, "wb"), Path(name)

    def write(self, data: bytes) -> None:
        """Take more of it."""
        self._file.write(data)
        self._unlooked += len(data)
        if self._unlooked >= LOOK_BYTES:
            self._look()

    def finish(self, target: Path) -> None:
        """Put it where it belongs; it is on disk then, whole."""
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        target.parent.mkdir(parents=True, exist_ok=True)
        self._path.replace(target)
        _sync_folder(target.parent)

    def drop(self) -> None:
        """Throw it away, unless it was put where it belongs."""
        self._done()
        with contextlib.suppress(OSError):  # what is still to be written may not fit the disk
            self._file.close()
        with contextlib.suppress(FileNotFoundError):
            self._path.unlink()

    def _look(self) -> None:
        self._unlooked = 0
        if not self._has_space(self._folder):
            raise FileUnavailable("the folder of the farm", "write to", "its disk is nearly full")


class Files:
    """The archives of all jobs, in a folder for each; jobs have the numbers that their makers gave them."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._remover = ThreadPoolExecutor(1, "farm-files")
        self._lock = threading.Lock()
        self._uploads = 0
        self._removed = 0
        for left in folder.glob(".upload-*"):
            left.unlink(missing_ok=True)
        for left in folder.glob(".removed-*"):
            self._remove_folder(left)

    def upload(self) -> Upload:
        """Begin to take a file; it has to be dropped in the end.

        :raises FileUnavailable: when too many are coming in, or the disk is nearly full.
        """
        with self._lock:
            if self._uploads >= MAX_UPLOADS:
                raise FileUnavailable("the folder of the farm", "write to", f"{MAX_UPLOADS} files are coming in")
            self._uploads += 1
        try:
            return Upload(self._folder, _has_space, self._end_upload)
        except BaseException:
            self._end_upload()
            raise

    def keep_only(self, is_needed: Callable[[int], bool]) -> None:
        """Throw the files of all other jobs away: a kill may have come before that was done."""
        for found in self._folder.glob("*"):
            if _NUMBER.fullmatch(found.name) and not is_needed(int(found.name)):
                self.remove(int(found.name))

    def job_file(self, job: int) -> Path:
        """Where the scenes of a job are."""
        return self._folder / str(job) / f"jobfile_{job}.zip"

    def output(self, job: int, task: int) -> Path:
        """Where that is what a worker made of a task."""
        return self._folder / str(job) / f"taskfileout_{job}_{task}.zip"

    def find(self, job: int, name: str) -> Path | None:
        """The file of this name; none when there is none yet.

        :raises LookupError: when there can't be one of this name.
        """
        if _NAME.fullmatch(name) is None:
            raise LookupError(name)
        path = self._folder / str(job) / name
        return path if path.is_file() else None

    def remove(self, job: int) -> None:
        """Throw all files of a job away: it is for the loop, and what takes long is done later."""
        self._removed += 1
        away = self._folder / f".removed-{os.getpid()}-{self._removed}"
        try:
            # At once, so that a new file of this job's number is not thrown away with the old ones.
            (self._folder / str(job)).rename(away)
        except FileNotFoundError:
            return
        except OSError as error:
            logger.error("the files of the farm's job %d stay where they are: %s", job, error,
                         extra={"event": "farm_files_left", "job": job})
            return
        self._remove_folder(away)

    def _remove_folder(self, folder: Path) -> None:
        self._remover.submit(shutil.rmtree, folder, ignore_errors=True)

    def _end_upload(self) -> None:
        with self._lock:
            self._uploads -= 1


def _has_space(folder: Path) -> bool:
    usage = shutil.disk_usage(folder)
    return usage.free > min(KEEP_FREE, usage.total // KEEP_FREE_SHARE)


def _sync_folder(folder: Path) -> None:
    number = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)
