"""The few calls to the operating system on which durability rests, in one object that tests can replace."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path

from puppetmaster.errors import StoreLocked

try:
    import fcntl
except ImportError:  # pragma: no cover - Windows
    fcntl = None  # type: ignore[assignment]

PRIVATE = 0o600
"""For the owner alone: messages may hold passwords for commands, and answers what nobody else is to know."""

_FOLDER_FLAGS = os.O_RDONLY | getattr(os, "O_DIRECTORY", 0)


class FileSystem:
    """The real thing. Every method raises OSError when it could not do its part."""

    def open(self, path: Path, flags: int) -> int:
        """Open a file and return its descriptor."""
        return os.open(path, flags | os.O_CLOEXEC, PRIVATE)

    def write(self, descriptor: int, data: memoryview) -> int:
        """Write what the system takes of the data, and return how many bytes that was."""
        return os.write(descriptor, data)

    def read(self, descriptor: int, size: int, offset: int) -> bytes:
        """Return at most so many bytes from there; none at the end of the file."""
        return os.pread(descriptor, size, offset)

    def sync(self, descriptor: int) -> None:
        """Return when all that was written to the file is on disk."""
        getattr(os, "fdatasync", os.fsync)(descriptor)

    def truncate(self, descriptor: int, size: int) -> None:
        """Cut the file."""
        os.ftruncate(descriptor, size)

    def replace(self, source: Path, target: Path) -> None:
        """Rename a file over another one."""
        os.replace(source, target)

    def remove(self, path: Path) -> None:
        """Delete a file."""
        os.unlink(path)

    def sync_folder(self, folder: Path) -> None:
        """Return when the names in the folder are on disk."""
        descriptor = os.open(folder, _FOLDER_FLAGS)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def has_name(self, descriptor: int, path: Path) -> bool:
        """Is this the file that is called so now?"""
        return _has_name(descriptor, path)

    def free(self, folder: Path) -> int:
        """Return how many bytes the disk has left for us."""
        return shutil.disk_usage(folder).free

    def close(self, descriptor: int) -> None:
        """Close a descriptor."""
        os.close(descriptor)

    def read_all(self, descriptor: int, size: int, offset: int) -> bytes:
        """Read so many bytes, in as many steps as the system wants; fewer where the file ends."""
        data = b""
        while len(data) < size and (piece := self.read(descriptor, size - len(data), offset + len(data))):
            data += piece
        return data

    def write_all(self, descriptor: int, data: bytes) -> None:
        """Write all of the data, in as many steps as the system wants."""
        rest = memoryview(data)
        while rest:
            taken = self.write(descriptor, rest)
            if taken <= 0:
                raise OSError(errno.EIO, "the system took none of the data")
            rest = rest[taken:]

    def write_synced(self, descriptor: int, data: bytes, offset: int) -> None:
        """Write all of the data at the end of a file, which is there; return when it is on disk."""
        self.write_all(descriptor, data)
        self.sync(descriptor)


class SystemFiles(FileSystem):
    """The same in fewer calls, for what is done hundreds of times a second.

    After each call a thread waits for the interpreter anew, beside a loop that is busy.
    """

    def __init__(self) -> None:
        self._in_one_call = hasattr(os, "pwritev") and hasattr(os, "RWF_DSYNC")

    def write_synced(self, descriptor: int, data: bytes, offset: int) -> None:
        """Write and sync in one call where the system has it (Linux 4.7)."""
        rest = memoryview(data)
        try:
            while rest and self._in_one_call:
                taken = os.pwritev(descriptor, [rest], offset, os.RWF_DSYNC)
                rest, offset = rest[taken:], offset + taken
        except OSError as error:
            if error.errno not in (errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL):
                raise
            self._in_one_call = False
        if rest:
            super().write_synced(descriptor, bytes(rest), offset)


class Lock:
    """A lock file, held from the constructor until :meth:`release` or the end of the process.

    The file stays behind, because deleting it would let two processes lock two files of one name.
    """

    def __init__(self, path: Path) -> None:
        """Take the lock. Raises StoreLocked with the owner's process id when somebody else has it."""
        self._path = path
        self._descriptor: int | None = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, PRIVATE)
        try:
            if fcntl is not None:
                fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._write_owner(self._descriptor)
        except BlockingIOError as error:
            owner = self._read_owner(self._descriptor)
            self.release()
            raise StoreLocked(path, owner) from error
        except BaseException:
            self.release()
            raise

    @property
    def is_lost(self) -> bool:
        """Whether somebody removed or replaced the file, so that it keeps nobody out any more."""
        return self._descriptor is None or not _has_name(self._descriptor, self._path)

    def release(self) -> None:
        """Let go of the lock; idempotent."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    @staticmethod
    def _write_owner(descriptor: int) -> None:
        try:
            os.ftruncate(descriptor, 0)
            os.write(descriptor, b"%d\n" % os.getpid())
        except OSError:
            # The lock holds without the number in it, and a full disk must not keep anybody from reading.
            return

    @staticmethod
    def _read_owner(descriptor: int) -> int | None:
        try:
            return int(os.pread(descriptor, 32, 0))
        except (OSError, ValueError):
            return None


def _has_name(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.stat(path), os.fstat(descriptor))
    except FileNotFoundError:
        return False
