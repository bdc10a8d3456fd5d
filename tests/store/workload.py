"""A small life of a store whose state after every commit is known, and a program that kills it at every call.

Run as a program it takes a folder with a folder ``template`` in it, and for N = 1, 2, 3... plays the workload
in a copy of it, in a forked process that dies at the Nth call to the file system, until it survives.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from puppetmaster.store import TinyStore, journal
from puppetmaster.store.files import FileSystem
from tests.store.faulty import FaultyFileSystem, kill

ROUNDS = 16
Content = dict[str, list[tuple[int, dict[str, Any]]]]


def put_round(store: TinyStore, number: int) -> None:
    """One unit of work: a counter, a new document, and one that goes."""
    store.put("jobs", {1: {"round": number}})
    store.put("requests", {number: {"text": f"request {number} é\n" * 5}})
    store.remove("requests", [number - 3])


def content_after(number: int) -> Content:
    """What the store holds when so many units were committed."""
    if number == 0:
        return {"jobs": [], "requests": []}
    first = max(1, number - 2)
    requests = [(n, {"text": f"request {n} é\n" * 5}) for n in range(first, number + 1)]
    return {"jobs": [(1, {"round": number})], "requests": requests}


def content_of(store: TinyStore) -> Content:
    """What the store holds."""
    return {table: list(store.scan(table)) for table in ("jobs", "requests")}


def rounds_in(store: TinyStore) -> int:
    """Return how many units the store holds, which must be whole ones."""
    job = store.get("jobs", 1)
    number = job["round"] if job else 0
    assert content_of(store) == content_after(number)
    return number


def wait_for_threads(store: TinyStore) -> None:
    """Wait for what was begun: a commit, the compaction that follows it, its end, and the removal of old files."""
    for thread in (store._writer, store._compactor, store._writer, store._compactor):
        thread.submit(lambda: None).result()


def copy_files(store: TinyStore, folder: Path, target: Path) -> Path:
    """Copy the files of an open store, at a moment at which none of them changes."""
    wait_for_threads(store)
    shutil.copytree(folder, target)
    return target


def compact_often() -> None:
    """Make a handful of commits enough for a compaction."""
    journal.MIN_COMPACTION_SIZE = 600


async def live(store: TinyStore, acknowledge: Callable[[int], None], start: int = 1) -> None:
    """Play the workload to its end, and close the store."""
    for number in range(start, ROUNDS + 1):
        put_round(store, number)
        await store.commit()
        acknowledge(number)
    await store.close()


def make_template(scratch: Path, folder: Path, rounds: int) -> None:
    """Leave a store as a kill would: some units in the journal, a torn tail, and leftovers of compactions."""

    async def begin() -> None:
        store = TinyStore.open(scratch)
        for number in range(1, rounds + 1):
            put_round(store, number)
            await store.commit()
        copy_files(store, scratch, folder)
        await store.close()

    asyncio.run(begin())
    with (folder / "puppetmaster.journal.1").open("ab") as tail:
        tail.write(b"PMJ1 00000001 torn")
    (folder / "puppetmaster.json.tmp").write_bytes(b"half a snapsh")
    (folder / "puppetmaster.journal.0").write_bytes(b"an old journal")
    (folder / "puppetmaster.journal.2").write_bytes(b"")


def main_once(folder: Path, files: FileSystem | None = None) -> None:
    """Play the workload, writing every acknowledged unit to the file ``acks``, past all buffers."""
    compact_often()
    acks = os.open(folder / "acks", os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def acknowledge(number: int) -> None:
        os.write(acks, b"%d\n" % number)

    store = TinyStore.open(folder, files=files)
    asyncio.run(live(store, acknowledge, rounds_in(store) + 1))


def _die_at(folder: Path, files: FileSystem) -> bool:
    """Play the workload in a forked process; return whether it survived."""
    child = os.fork()
    if child == 0:
        try:
            main_once(folder, files)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0, "the workload failed by itself"
    return not os.WIFSIGNALED(status)


def main(folder: Path, when: str) -> None:
    """Kill the workload at every call, before or after it is carried out or in the middle of it.

    With ``beside`` a compaction is slow enough for commits to come while it is under way.
    """
    survived, number = False, 0
    while not survived:
        number += 1
        shutil.copytree(folder / "template", folder / str(number))
        most = 60 if when == "within" else None
        fault = {"after" if when == "after" else "before": kill(number)}
        lag = 0.001 if when == "beside" else 0.0
        survived = _die_at(folder / str(number), FaultyFileSystem(**fault, most=most, lag=lag))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
