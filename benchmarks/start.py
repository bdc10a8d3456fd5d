"""A start with a million stored requests, in turn with one that has nothing stored.

The bundle is started on folders that :mod:`benchmarks.stored` makes, with the broker, the controller and the devices
already there. Beside it, once: how long stock TinyDB takes to open the file of the same jobs.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import sys
import tempfile
import time
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path

from benchmarks import stored
from benchmarks.options import Failed, Options
from benchmarks.programs import TooSlow, output_of
from benchmarks.results import Results
from benchmarks.stand import MESSAGE, Stand
from puppetmaster.client import BusClient

PART = "start"
TARGET = "< 10"
"""Seconds."""

ANSWERED, READY = "first answer over HTTP", "registered, and a job taken over the bus"
"""What is waited for."""

MIB = 1024 * 1024

KEEP = {"PUPPETMASTER_KEEP_REQUESTS": "2000000"}
"""Settings with which nothing of what is stored has to go."""

POLL = 0.01
"""Seconds between two attempts to connect."""

PEER_TIMEOUT = 120.0
"""Seconds after which stock TinyDB is given up."""

PEER = """
import sys
from tinydb import TinyDB
print(len(TinyDB(sys.argv[1]).table("requests").all()))
with open("/proc/self/status") as status:
    print(next(line for line in status if line.startswith("VmHWM:")).split()[1])
"""
"""Opens the file, reads the requests and tells how many there are, and the KiB of memory that it had at the most."""


@dataclass(frozen=True)
class Start:
    """One start: seconds since the process was made, and bytes of memory."""

    answered: float
    """Until the first answer over HTTP."""
    ready: float
    """Until the controller knew it and a job was taken over the bus."""
    resident: int
    peak: int


async def start(stand: Stand, client: BusClient, *, kept: int) -> Start:
    """Start the bundle on the folder that the stand has, and see that all is there.

    :param kept: the requests that are stored.
    :raises Failed: when the bundle does not become ready.
    """
    begun = time.perf_counter()
    first = asyncio.create_task(first_answer(stand.port))
    try:
        await stand.start_bundle()
        made = await client.create_job({"destinations": stand.names(1), "message": MESSAGE})
        ready = time.perf_counter() - begun
        answered = await first - begun
    finally:
        first.cancel()
    taken = Start(answered, ready, stand.resident(), stand.peak())
    await stand.ended(made["id"], 1)
    await check_kept(stand, kept)
    return taken


async def first_answer(port: int) -> float:
    """Ask for the jobs until somebody answers; the time of that."""
    while True:
        with contextlib.suppress(OSError):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"GET /jobs?limit=1 HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n")
            status = await reader.readline()
            writer.close()
            if status.startswith(b"HTTP/1.1 200 "):
                return time.perf_counter()
        await asyncio.sleep(POLL)


async def check_kept(stand: Stand, kept: int) -> None:
    """See that the bundle has all requests, and that those can be read.

    :raises Failed: when it has not, or when one can't be read.
    """
    jobs = await stand.caller.get("/jobs?limit=1000")
    count = sum(job["counts"]["resolved"] for job in jobs)
    if count < kept:
        raise Failed(f"{count:,} requests are there, not {kept:,}")
    for job in jobs:
        await stand.caller.get(f"/requests/{job['id'] + 1}")


def forget_pages(folder: Path) -> None:
    """Have the system forget what it holds of the files, as after a start of the machine: they come from the disk."""
    for path in folder.iterdir():
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(descriptor)


async def open_with_tinydb(path: Path, count: int) -> tuple[float, int] | None:
    """Have stock TinyDB read the requests of a store.

    Returns the seconds since its process was made and the most bytes of memory that it had; none when it takes too
    long.

    :raises Failed: when they are not all there.
    """
    begun = time.perf_counter()
    try:
        told = await output_of(sys.executable, "-c", PEER, path, timeout=PEER_TIMEOUT)
    except TooSlow:
        return None
    seconds = time.perf_counter() - begun
    found, kibibytes = map(int, told.split())
    if found != count:
        raise Failed(f"TinyDB found {found:,} requests, not {count:,}")
    return seconds, kibibytes * 1024


@dataclass(frozen=True)
class Round:
    """A start of each kind."""

    empty: Start
    """Nothing is stored."""
    stopped: Start
    """After a stop."""
    cold: Start
    """After a stop, and nothing of the files is in memory."""
    killed: Start
    """After a kill, with a journal to replay."""
    stop: float
    """Seconds that it took to stop with all that is stored."""


async def run_round(stand: Stand, client: BusClient, folder: Path, count: int) -> Round:
    """Start it in all ways, one after the other; no bundle runs before or after."""
    stand.data = Path(tempfile.mkdtemp(dir=folder))
    empty = await start(stand, client, kept=0)
    await stand.stop_bundle()
    stand.data = folder / "stopped"
    stopped = await start(stand, client, kept=count)
    stop = await stand.stop_bundle()
    forget_pages(stand.data)
    cold = await start(stand, client, kept=count)
    await stand.stop_bundle()
    stand.data = folder / "killed"
    killed = await start(stand, client, kept=count)
    stand.bundle.kill()
    await stand.stop_bundle()
    return Round(empty, stopped, cold, killed, stop)


async def measure(options: Options, rounds: int, results: Results) -> None:
    """Make the folders, and start on them."""
    count = options.count(1_000_000, 100_000)
    with tempfile.TemporaryDirectory(prefix="benchmarks-") as name:
        folder = Path(name)
        options.tell(PART, f"stores {count:,} requests, twice")
        await stored.make(folder / "stopped", count)
        await asyncio.to_thread(shutil.copytree, folder / "stopped", folder / "killed")
        journal_bytes = await stored.make_killed(folder / "killed", count)
        peer = await open_with_tinydb(folder / "stopped" / "puppetmaster.json", count)
        done = []
        async with Stand(settings=KEEP) as stand, BusClient(stand.address) as client:
            await stand.stop_bundle()
            for number in range(rounds):
                done.append(await run_round(stand, client, folder, count))
                if stored.journal_of(folder / "killed").stat().st_size < journal_bytes:
                    raise Failed("the store has compacted: the next start would have no journal to replay")
                options.tell(PART, f"round {number + 1} of {rounds}: empty {done[-1].empty.ready:.2f} s, stopped "
                                   f"{done[-1].stopped.ready:.2f} s, killed {done[-1].killed.ready:.2f} s")
            await stand.start_bundle()
    add_times(results, done, count, journal_bytes)
    add_memory(results, done, count, journal_bytes)
    add_peer(results, peer, count)


def add_times(results: Results, rounds: list[Round], count: int, journal_bytes: int) -> None:
    """How long the starts took, and the stop."""
    what = f"{count:,} requests stored"
    kinds = (
        (what, f"after a stop, in {count // stored.JOB_SIZE} jobs that have ended", [each.stopped for each in rounds]),
        (f"{what}, from the disk", "as after a start of the machine: nothing of the files is in memory",
         [each.cold for each in rounds]),
        (f"{what}, after kill -9", f"{journal_bytes / 1e6:,.0f} MB of journal to replay: with a little more it is "
                                   "compacted", [each.killed for each in rounds]),
    )
    for part, get in ((ANSWERED, attrgetter("answered")), (READY, attrgetter("ready"))):
        results.add(PART, f"nothing stored: {part}", [get(each.empty) for each in rounds], "s", form=".2f",
                    baseline=True)
        for kind, note, starts in kinds:
            results.add(PART, f"{kind}: {part}", map(get, starts), "s", form=".2f", target=TARGET, note=note)
    results.add(PART, f"{what}: the stop", [each.stop for each in rounds], "s", form=".2f")


def add_memory(results: Results, rounds: list[Round], count: int, journal_bytes: int) -> None:
    """What that costs which is stored, above what a bundle takes that has nothing stored.

    After a kill it is no figure of a request: what lies in memory is the journal, whatever the number of requests.
    """
    results.add(PART, "memory with nothing stored", [each.empty.resident / MIB for each in rounds], "MiB",
                baseline=True)
    above = [each.stopped.resident - each.empty.resident for each in rounds]
    what = f"memory above that, {count:,} requests stored"
    results.add(PART, what, [size / MIB for size in above], "MiB", form=",.1f")
    results.add(PART, f"{what}: of each", [size / count for size in above], "B", form=",.1f")
    results.add(PART, f"{what}: of each, at the most during the start",
                [(each.stopped.peak - each.empty.peak) / count for each in rounds], "B", form=",.1f")
    results.add(PART, f"{what}, after kill -9: with the replayed journal",
                [(each.killed.resident - each.empty.resident) / MIB for each in rounds], "MiB", form=",.1f",
                note=f"what its {journal_bytes / 1e6:,.0f} MB hold is in memory until the next compaction")
    results.add(PART, f"{what}, after kill -9: at the most during the start",
                [(each.killed.peak - each.empty.peak) / MIB for each in rounds], "MiB", form=",.1f")


def add_peer(results: Results, peer: tuple[float, int] | None, count: int) -> None:
    """What stock TinyDB needs."""
    seconds, size = peer or (0.0, 0)
    note = "" if peer else f"given up after {PEER_TIMEOUT:.0f} s"
    results.add(PART, f"stock TinyDB reads the same {count:,} requests", [seconds] if peer else [], "s", form=".2f",
                baseline=True, note=note)
    results.add(PART, "memory of stock TinyDB at the most, for each request", [size / count] if peer else [], "B",
                baseline=True, note=note)
