"""A file layer under the store that a power cut, a failing disk and a slow one can be played on.

What is written is durable when it is synced, and a name when its folder is; until then the seed says of each write and
each name what a cut leaves of it: all, nothing, a torn beginning, or a hole with a later write behind it. What a cut
would lose is held back in memory, so that ``kill -9`` of the process *is* the cut.

Faults come from a :class:`Control` file, which is looked at on each call::

    {"seed": 7, "keep": 0.4, "delay": 0.1, "faults": [
        {"id": "a", "call": "write", "error": "EIO", "after": false, "times": 1, "short": null}]}

``keep`` is the share of unsynced doings that a cut leaves. ``error`` raises at that ``call`` (``write sync sync_folder
open replace remove truncate``), before the call or ``after`` it was carried out; ``times`` is how often, none until it
is taken out of the file; ``short`` makes writes take no more than so many bytes. ``die`` (a number) kills the process
at that call, counted from the beginning of the next compaction of the jobs' store. ``delay`` is what a sync takes, in
seconds; ``clock`` how far the wall clock is off.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import random
import shutil
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from puppetmaster.store.files import FileSystem

HELD = ".held"
"""The folder in the data folder for files whose name a cut would lose."""

T = TypeVar("T")


class Control:
    """The control file: written by the site, read by the part."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._stamp = (0, 0)
        self._content: dict[str, Any] = {}

    def read(self) -> dict[str, Any]:
        """What it says now; what it said before while there is none."""
        with contextlib.suppress(OSError):
            status = self.path.stat()
            stamp = (status.st_mtime_ns, status.st_ino)
            if stamp != self._stamp:
                self._content, self._stamp = json.loads(self.path.read_text()), stamp
        return self._content

    def write(self, **content: Any) -> None:
        """Replace it at once."""
        temporary = self.path.with_suffix(".new")
        temporary.write_text(json.dumps(content))
        temporary.replace(self.path)


@dataclass
class _Open:
    path: Path
    end: int
    held: list[tuple[int, bytes]] = field(default_factory=list)
    cut_to: int | None = None


class PowerFiles(FileSystem):
    """See the top of this module. For one process; it begins with what the last cut has left."""

    def __init__(self, control: Control) -> None:
        self._control = control
        self._seed: object = None
        self._chance = random.Random()
        self._of_compaction = 0
        self._open: dict[int, _Open] = {}
        self._held_names: dict[Path, Path] = {}
        self._moves: list[tuple[Path, Path | None]] = []
        self._counts: Counter[str] = Counter()
        self._lock = threading.RLock()

    # What the store calls

    def open(self, path: Path, flags: int) -> int:
        return self._call("open", lambda: self._do_open(path, flags))

    def write(self, descriptor: int, data: memoryview) -> int:
        for fault in self._faults("write"):
            if fault.get("short"):
                data = data[: fault["short"]]
        return self._call("write", lambda: self._do_write(descriptor, data))

    def sync(self, descriptor: int) -> None:
        self._wait()
        self._call("sync", lambda: self._do_sync(descriptor))

    def truncate(self, descriptor: int, size: int) -> None:
        self._call("truncate", lambda: self._do_truncate(descriptor, size))

    def replace(self, source: Path, target: Path) -> None:
        self._call("replace", lambda: self._do_move(source, target))

    def remove(self, path: Path) -> None:
        self._call("remove", lambda: self._do_move(path, None))

    def sync_folder(self, folder: Path) -> None:
        self._wait()
        self._call("sync_folder", lambda: self._do_sync_folder(folder))

    def close(self, descriptor: int) -> None:
        with self._lock:
            # What is not synced stays lost: closing syncs nothing.
            self._open.pop(descriptor, None)
            super().close(descriptor)

    # Faults

    def _faults(self, call: str) -> list[dict[str, Any]]:
        return [fault for fault in self._control.read().get("faults", ()) if fault["call"] == call]

    def _call(self, call: str, carry_out: Callable[[], T]) -> T:
        with self._lock:  # commits and compactions come from two threads
            after = self._fault_of(call)
            self._die_in_compaction()
            result = carry_out()
        if after is not None:
            raise after
        return result

    def _fault_of(self, call: str) -> OSError | None:
        """What is to be raised after the call; raises what is to be raised before it."""
        after = None
        for fault in self._faults(call):
            times = fault.get("times")
            if "error" not in fault or (times is not None and self._counts[fault["id"]] >= times):
                continue
            self._counts[fault["id"]] += 1
            number = getattr(errno, fault["error"])
            error = OSError(number, os.strerror(number))
            if not fault.get("after"):
                raise error
            after = error
        return after

    def _die_in_compaction(self) -> None:
        if self._of_compaction:
            self._of_compaction += 1
            if self._of_compaction == self._control.read().get("die"):
                os.kill(os.getpid(), signal.SIGKILL)

    # What a cut leaves

    def _keeps(self) -> bool:
        """Whether the next doing is carried out at once; else it is held back until the sync."""
        wanted = self._control.read()
        if wanted.get("seed") != self._seed:
            self._seed = wanted.get("seed")
            self._chance.seed(self._seed)
        return self._chance.random() < wanted.get("keep", 0.4)

    def _do_open(self, path: Path, flags: int) -> int:
        if path.name == "puppetmaster.json.tmp":
            self._of_compaction = 1
        if any(source == path for source, _ in self._moves):
            self._carry_out_moves()  # the name is used again, so it is free again
        real = self._held_names.get(path, path)
        if flags & os.O_CREAT and not real.exists() and not self._keeps():
            real = path.parent / HELD / path.name
            real.parent.mkdir(exist_ok=True)
            self._held_names[path] = real
        # Not appending: what is written goes to its place, whatever was lost before it.
        descriptor = super().open(real, flags & ~os.O_APPEND)
        self._open[descriptor] = _Open(path, os.fstat(descriptor).st_size)
        return descriptor

    def _do_write(self, descriptor: int, data: memoryview) -> int:
        file = self._open[descriptor]
        content, offset = bytes(data), file.end
        if file.cut_to is not None:
            file.held.append((offset, content))  # behind an end that is held back itself
        elif self._keeps():
            self._put(descriptor, content, offset)
        else:
            torn = self._chance.randrange(len(content)) if self._chance.random() < 0.5 else 0
            self._put(descriptor, content[:torn], offset)
            file.held.append((offset + torn, content[torn:]))
        file.end += len(content)
        return len(content)

    def _do_truncate(self, descriptor: int, size: int) -> None:
        file = self._open[descriptor]
        file.end = size
        if self._keeps():
            super().truncate(descriptor, size)
        else:
            file.cut_to = size

    def _do_sync(self, descriptor: int) -> None:
        file = self._open[descriptor]
        if file.cut_to is not None:
            super().truncate(descriptor, file.cut_to)
            file.cut_to = None
        while file.held:
            offset, content = file.held[0]
            self._put(descriptor, content, offset)
            del file.held[0]
        super().sync(descriptor)

    def _do_move(self, source: Path, target: Path | None) -> None:
        if not self._held_names.get(source, source).exists() or (source, None) in self._moves:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(source))
        self._moves.append((source, target))
        if self._keeps():
            self._carry_out_moves()

    def _do_sync_folder(self, folder: Path) -> None:
        self._carry_out_moves()
        for path, held in list(self._held_names.items()):
            if path.parent == folder and held.exists():
                os.replace(held, path)
            del self._held_names[path]
        super().sync_folder(folder)

    def _carry_out_moves(self) -> None:
        while self._moves:
            source, target = self._moves.pop(0)
            real = self._held_names.pop(source, source)
            with contextlib.suppress(FileNotFoundError):
                if target is None:
                    os.unlink(real)
                else:
                    os.replace(real, target)

    def _wait(self) -> None:
        delay = self._control.read().get("delay", 0)
        if delay:
            time.sleep(delay)

    @staticmethod
    def _put(descriptor: int, content: bytes, offset: int) -> None:
        rest = memoryview(content)
        while rest:
            taken = os.pwrite(descriptor, rest, offset)
            rest, offset = rest[taken:], offset + taken


def after_a_cut(folder: Path) -> None:
    """Take away what a cut has lost, before the next start."""
    shutil.rmtree(folder / HELD, ignore_errors=True)
