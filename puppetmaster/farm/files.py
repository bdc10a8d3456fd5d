"""Archives that the original's clients send along: a job's scenes, and what was rendered of each of its tasks."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import BinaryIO

MAX_FILE_BYTES = 2 << 30
"""The largest archive that is taken."""

_NAME = re.compile(r"(jobfile|taskfileout|jobsupportfile|dependencies)_\d{1,18}(_\d{1,18})?\.zip")


class Upload:
    """A file that is coming in. All of it blocks: it is for threads."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._file: BinaryIO
        number, name = tempfile.mkstemp(prefix=".upload-", dir=folder)
        self._file, self._path = os.fdopen(number, "wb"), Path(name)

    def write(self, data: bytes) -> None:
        """Take more of it."""
        self._file.write(data)

    def finish(self, target: Path) -> None:
        """Put it where it belongs; it is on disk then, whole."""
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        target.parent.mkdir(parents=True, exist_ok=True)
        self._path.replace(target)

    def drop(self) -> None:
        """Throw it away, unless it was put where it belongs."""
        self._file.close()
        with contextlib.suppress(FileNotFoundError):
            self._path.unlink()


class Files:
    """The archives of all jobs, in a folder for each; jobs have the numbers that their makers gave them."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._remover = ThreadPoolExecutor(1, "farm-files")
        for left in folder.glob(".upload-*"):
            left.unlink(missing_ok=True)

    def upload(self) -> Upload:
        """Begin to take a file."""
        return Upload(self._folder)

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
        """Throw all files of a job away, soon: it is for the loop."""
        self._remover.submit(shutil.rmtree, self._folder / str(job), ignore_errors=True)
