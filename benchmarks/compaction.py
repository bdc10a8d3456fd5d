"""How long the store compacts, and how long the event loop stands still meanwhile.

``python -m benchmarks.compaction FOLDER REQUESTS ROUNDS`` opens a store as :mod:`benchmarks.stored` makes it, changes
requests as busy jobs do until it compacts, and prints a line of JSON for each compaction: ``compaction`` (seconds),
``rows``, ``bytes``, ``pause`` and ``pause_before`` (the longest seconds that a task which sleeps for
:data:`HEARTBEAT` was kept waiting: during the compaction, and in a time of that length before it, under the same load),
``commit`` and ``commit_before`` (the longest commit, likewise).
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from pathlib import Path

from benchmarks.stored import WAVE
from puppetmaster import loop
from puppetmaster.documents import REQUESTS
from puppetmaster.store import TinyStore
from puppetmaster.store.files import SystemFiles

HEARTBEAT = 0.001
"""Seconds that the task sleeps whose delay is the pause of the loop."""

CHANGED = 20_000
"""Requests that change, over and over, each time with an answer of :data:`ANSWER_BYTES`."""

PACE = 0.01
"""Seconds from one wave of changes to the next, at the least: 25,000 requests a second. As fast as it goes, the journal
would be due for the next compaction when one has ended."""

LEAST_WAVES = 5
"""Changes before a compaction, with which those beside it are compared."""

ATTEMPTS = 10
"""Compactions after which there has to have been one with so many before it."""

ANSWER_BYTES = 1_000
"""Large, so that the journal grows quickly."""


class WatchedFiles(SystemFiles):
    """Notes when a compaction begins, and when it has ended; the store's threads call it."""

    def __init__(self) -> None:
        super().__init__()
        self.begun = self.ended = 0.0
        self._is_renamed = False
        self.size = 0
        """Bytes of the snapshot."""

    def open(self, path: Path, flags: int) -> int:
        """Open a file: a compaction begins with the new snapshot's."""
        if path.suffix == ".tmp":
            self.begun = time.perf_counter()
        return super().open(path, flags)

    def replace(self, source: Path, target: Path) -> None:
        """Put the snapshot in its place."""
        self.size = source.stat().st_size
        super().replace(source, target)
        self._is_renamed = True

    def sync_folder(self, folder: Path) -> None:
        """Sync the folder: after the rename the snapshot is there with that."""
        super().sync_folder(folder)
        if self._is_renamed:
            self._is_renamed = False
            self.ended = time.perf_counter()


class Waits(list[tuple[float, float]]):
    """When each of many waits was over, and how many seconds it took."""

    def longest(self, begin: float, end: float) -> float:
        """The longest of which a part lies between these times."""
        return max(seconds for now, seconds in self if now >= begin and now - seconds <= end)


class Heart:
    """A task that notes for how long it was kept waiting."""

    def __init__(self) -> None:
        self.beats = Waits()
        """Without the seconds that it slept on purpose."""
        self._task = asyncio.create_task(self._beat(), name="heart")

    async def _beat(self) -> None:
        last = time.perf_counter()
        while True:
            await asyncio.sleep(HEARTBEAT)
            now = time.perf_counter()
            self.beats.append((now, now - last - HEARTBEAT))
            last = now

    def stop(self) -> None:
        """End the task."""
        self._task.cancel()


class Load:
    """Changes requests as a busy job does: a wave of them, a commit, the next wave."""

    def __init__(self, store: TinyStore, ids: list[int]) -> None:
        self.commits = Waits()
        self._store = store
        self._bodies = {ident: store.get(REQUESTS, ident) or {} for ident in ids}
        self._ids = ids
        self._waves = 0

    async def wave(self) -> None:
        """Change some."""
        begin = self._waves * WAVE % len(self._ids)
        self._waves += 1
        answer = {"output": f"{self._waves:0{ANSWER_BYTES}d}"}
        some = self._ids[begin : begin + WAVE]
        self._store.put(REQUESTS, {ident: {**self._bodies[ident], "result": answer} for ident in some})
        begun = time.perf_counter()
        await self._store.commit()
        seconds = time.perf_counter() - begun
        self.commits.append((begun + seconds, seconds))
        await asyncio.sleep(max(0.0, PACE - seconds))


async def main(folder: Path, first_id: int, rounds: int) -> None:
    """Have it compact so often."""
    files = WatchedFiles()
    store = TinyStore.open(folder, files=files)
    load, heart = Load(store, list(range(first_id, first_id + CHANGED))), Heart()
    try:
        for _ in range(rounds):
            print(json.dumps(await compaction(store, files, load, heart)), flush=True)
    finally:
        heart.stop()
    await store.close()


async def compaction(store: TinyStore, files: WatchedFiles, load: Load, heart: Heart) -> dict[str, float]:
    """One of them, with some commits before it.

    :raises RuntimeError: when one follows right after the other.
    """
    for _ in range(ATTEMPTS):
        heart.beats.clear()
        load.commits.clear()
        earlier, begins = files.ended, [time.perf_counter()]
        while files.begun <= earlier:
            await load.wave()
            begins.append(time.perf_counter())
        while files.ended <= files.begun:
            await load.wave()
        if len(begins) > LEAST_WAVES:
            break
    else:
        raise RuntimeError("the store compacts all the time")
    # What the loop does before it hands over to the store's thread counts too: in the wave before.
    departed = max(begin for begin in begins if begin < files.begun)
    await asyncio.sleep(10 * HEARTBEAT)  # the heart beats once more
    seconds = files.ended - files.begun
    return {
        "compaction": seconds,
        "rows": store.count(REQUESTS),
        "bytes": files.size,
        "pause": heart.beats.longest(departed, files.ended),
        "pause_before": heart.beats.longest(departed - seconds, departed),
        "commit": load.commits.longest(departed, files.ended),
        "commit_before": load.commits.longest(departed - seconds, departed),
    }


if __name__ == "__main__":
    loop.run(main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])))
