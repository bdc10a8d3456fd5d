"""Twins of the file system that refuse, stutter, die or forget."""

from __future__ import annotations

import errno
import os
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from puppetmaster.store.files import FileSystem

Fault = Callable[[str, int], None]
"""Is told the operation and its number, and raises, kills or does nothing."""


class QuickFileSystem(FileSystem):
    """Syncs nothing: for tests that open hundreds of stores."""

    def sync(self, descriptor: int) -> None:
        return

    def sync_folder(self, folder: Path) -> None:
        return


class FaultyFileSystem(FileSystem):
    """Asks two faults about every call, one before it is carried out and one after.

    :param most: bytes that a write takes at the most.
    :param lag: seconds that each call of a compaction takes.
    """

    def __init__(
        self, before: Fault | None = None, after: Fault | None = None, most: int | None = None, lag: float = 0.0
    ) -> None:
        self.before, self.after, self.most, self.lag = before, after, most, lag
        self.calls: list[str] = []

    def open(self, path: Path, flags: int) -> int:
        return self._call("open", lambda: super(FaultyFileSystem, self).open(path, flags))

    def write(self, descriptor: int, data: memoryview) -> int:
        part = data[: self.most] if self.most else data
        return self._call("write", lambda: super(FaultyFileSystem, self).write(descriptor, part))

    def read(self, descriptor: int, size: int, offset: int) -> bytes:
        return self._call("read", lambda: super(FaultyFileSystem, self).read(descriptor, size, offset))

    def sync(self, descriptor: int) -> None:
        self._call("sync", lambda: super(FaultyFileSystem, self).sync(descriptor))

    def truncate(self, descriptor: int, size: int) -> None:
        self._call("truncate", lambda: super(FaultyFileSystem, self).truncate(descriptor, size))

    def replace(self, source: Path, target: Path) -> None:
        self._call("replace", lambda: super(FaultyFileSystem, self).replace(source, target))

    def remove(self, path: Path) -> None:
        self._call("remove", lambda: super(FaultyFileSystem, self).remove(path))

    def sync_folder(self, folder: Path) -> None:
        self._call("sync_folder", lambda: super(FaultyFileSystem, self).sync_folder(folder))

    def close(self, descriptor: int) -> None:
        self._call("close", lambda: super(FaultyFileSystem, self).close(descriptor))

    def _call(self, operation, carry_out):
        if self.lag and is_compactor():
            time.sleep(self.lag)
        self.calls.append(operation)
        number = len(self.calls)
        if self.before:
            self.before(operation, number)
        try:
            return carry_out()
        finally:
            if self.after:
                self.after(operation, number)


def is_compactor() -> bool:
    """Whether this is the thread that writes snapshots while commits go on."""
    return threading.current_thread().name.startswith("puppetmaster-compaction")


def once(number: int, code: int = errno.EIO) -> Fault:
    """Fails at one call."""

    def fault(operation: str, current: int) -> None:
        if current == number:
            raise OSError(code, os.strerror(code))

    return fault


def always(*operations: str, code: int = errno.EIO) -> Fault:
    """Fails at every call of these operations."""

    def fault(operation: str, current: int) -> None:
        if operation in operations:
            raise OSError(code, os.strerror(code))

    return fault


def kill(number: int) -> Fault:
    """Dies at one call, as with kill -9."""

    def fault(operation: str, current: int) -> None:
        if current == number:
            os.kill(os.getpid(), signal.SIGKILL)

    return fault


@dataclass
class _File:
    """A file as the disk has it, and what was not synced."""

    durable: bytes = b""
    unsynced: list[tuple[int, bytes]] = field(default_factory=list)

    def content(self, chance: random.Random) -> bytes:
        """What may be there after a power cut: any of the unsynced writes, the last of them torn."""
        content = bytearray(self.durable)
        for offset, data in self.unsynced:
            if chance.random() < 0.5:
                data = data[: chance.randint(0, len(data))] if chance.random() < 0.5 else data
                content.extend(bytes(max(0, offset + len(data) - len(content))))
                content[offset : offset + len(data)] = data
        return bytes(content)


class PowerlessFileSystem(FileSystem):
    """Carries everything out, and knows what a power cut would leave of it.

    Writes are lost, torn or reordered until their file is synced; names appear, change and vanish in any
    combination until their folder is.
    """

    def __init__(self) -> None:
        self.names: dict[str, _File] = {}
        self.durable_names: dict[str, _File] = {}
        self.unsynced_names: list[tuple[str, _File | None]] = []
        self.open_files: dict[int, _File] = {}
        self.sizes: dict[int, int] = {}
        self.on_call: Callable[[], None] = lambda: None
        self._lock = threading.Lock()

    def open(self, path: Path, flags: int) -> int:
        with self._turn():
            descriptor = super().open(path, flags)
            file = self.names.get(path.name)
            if file is None or flags & os.O_TRUNC:
                file = self.names[path.name] = _File()
                self.unsynced_names.append((path.name, file))
            self.open_files[descriptor] = file
            return descriptor

    def write(self, descriptor: int, data: memoryview) -> int:
        with self._turn():
            offset = os.fstat(descriptor).st_size
            taken = super().write(descriptor, data)
            self.open_files[descriptor].unsynced.append((offset, bytes(data[:taken])))
            return taken

    def sync(self, descriptor: int) -> None:
        with self._turn():
            super().sync(descriptor)
            file = self.open_files[descriptor]
            file.durable = os.pread(self._readable(descriptor), 1 << 20, 0)
            file.unsynced.clear()

    def replace(self, source: Path, target: Path) -> None:
        with self._turn():
            super().replace(source, target)
            file = self.names.pop(source.name)
            self.names[target.name] = file
            self.unsynced_names += [(source.name, None), (target.name, file)]

    def remove(self, path: Path) -> None:
        with self._turn():
            super().remove(path)
            self.names.pop(path.name)
            self.unsynced_names.append((path.name, None))

    def sync_folder(self, folder: Path) -> None:
        with self._turn():
            super().sync_folder(folder)
            for name, file in self.unsynced_names:
                _set_name(self.durable_names, name, file)
            self.unsynced_names.clear()

    @contextmanager
    def _turn(self) -> Iterator[None]:
        """One call at a time, whatever threads they come from, and time for the others before one of a compaction."""
        if is_compactor():
            time.sleep(0.001)
        with self._lock:
            yield
            self.on_call()

    def cut(self, folder: Path, chance: random.Random) -> None:
        """Write to a new folder what one power cut may leave."""
        names = dict(self.durable_names)
        for name, file in self.unsynced_names:
            if chance.random() < 0.5:
                _set_name(names, name, file)
        folder.mkdir()
        for name, file in names.items():
            (folder / name).write_bytes(file.content(chance))

    @staticmethod
    def _readable(descriptor: int) -> int:
        return os.open(f"/proc/self/fd/{descriptor}", os.O_RDONLY)


def _set_name(names: dict[str, _File], name: str, file: _File | None) -> None:
    if file is None:
        names.pop(name, None)
    else:
        names[name] = file
