"""The store: its commits while a job runs, its compactions, and what a request costs it.

The commits are those of the bundle, as its ``/metrics`` tell them. Beside them, on the same disk: as many bytes,
written and synced in a plain loop. Compactions are measured in a process of their own (:mod:`benchmarks.compaction`),
and what a request costs in this one, beside stock TinyDB.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import fmean, quantiles
from typing import Any

import httpx
from prometheus_client.parser import text_string_to_metric_families
from tinydb import TinyDB

from benchmarks import stored
from benchmarks.options import Failed, Options
from benchmarks.programs import output_of
from benchmarks.results import Results
from benchmarks.stand import Run, Stand
from puppetmaster.documents import REQUESTS
from puppetmaster.metrics import PREFIX
from puppetmaster.models import FIRST_ID
from puppetmaster.store import TinyStore

PART = "journal"

WARM_UP = 500
"""Requests of the job before the one that is measured: the first one loads what is needed."""

INSERTS = 5
"""How often stock TinyDB inserts in a round."""

Buckets = dict[float, float]
"""How many commits took at most so many seconds."""


@dataclass(frozen=True)
class Commits:
    """What the bundle tells of its commits, since its start or between two readings."""

    count: float
    bytes: float
    seconds: float
    """Of all of them together."""
    buckets: Buckets

    def since(self, earlier: Commits) -> Commits:
        """Those that came after another reading."""
        return Commits(
            self.count - earlier.count,
            self.bytes - earlier.bytes,
            self.seconds - earlier.seconds,
            {bound: number - earlier.buckets.get(bound, 0.0) for bound, number in self.buckets.items()},
        )


def read_commits(text: str) -> Commits:
    """Take them from what ``/metrics`` answers.

    :raises Failed: when a figure is missing.
    """
    samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
    values = {sample.name.removeprefix(PREFIX): sample.value for sample in samples}
    buckets = {
        float(sample.labels["le"]): sample.value
        for sample in samples
        if sample.name == f"{PREFIX}journal_commit_seconds_bucket"
    }
    try:
        return Commits(values["journal_commits_total"], values["journal_written_bytes_total"],
                       values["journal_commit_seconds_sum"], buckets)
    except KeyError as error:
        raise Failed(f"/metrics does not tell {error}") from None


def quantile(buckets: Buckets, share: float) -> float:
    """The seconds that this share of the commits took at most, evenly spread within each bucket.

    That is how Prometheus reckons (``histogram_quantile``): no more is known than the buckets. What lies above the last
    bound counts as that bound.

    :raises Failed: when there are none.
    """
    bounds = sorted(buckets)
    wanted = share * buckets[bounds[-1]]
    if not wanted:
        raise Failed("there were no commits")
    for (lower, below), (upper, number) in pairwise([(0.0, 0.0), *((bound, buckets[bound]) for bound in bounds)]):
        if number >= wanted:
            return lower if upper == float("inf") else lower + (upper - lower) * (wanted - below) / (number - below)
    raise AssertionError("the last bucket holds all")


async def scrape(stand: Stand) -> Commits:
    """What the bundle tells now."""
    async with httpx.AsyncClient() as client:
        return read_commits((await client.get(f"http://127.0.0.1:{stand.port}/metrics")).text)


# Commits


@dataclass(frozen=True)
class JobCommits:
    """A job, its commits, and the seconds of as many plain writes of their mean size."""

    run: Run
    commits: Commits
    plain: Sequence[float]


async def job_commits(stand: Stand, count: int) -> JobCommits:
    """Run a job, and then the plain loop on the same disk."""
    before = await scrape(stand)
    run = await stand.run_job(count)
    commits = (await scrape(stand)).since(before)
    assert stand.data is not None
    plain = await asyncio.to_thread(write_plainly, stand.data, int(commits.bytes / commits.count), int(commits.count))
    return JobCommits(run, commits, plain)


def write_plainly(folder: Path, size: int, count: int) -> list[float]:
    """Append so many bytes to a file and sync it, so often; the seconds of each time."""
    data, times = os.urandom(size), []
    with tempfile.TemporaryFile(dir=folder, buffering=0) as file:
        for _ in range(count):
            begun = time.perf_counter()
            file.write(data)
            os.fdatasync(file.fileno())
            times.append(time.perf_counter() - begun)
    return times


async def measure_commits(options: Options, rounds: int, results: Results) -> None:
    """The commits of a job."""
    count = options.count(10_000, 2_000)
    done: list[JobCommits] = []
    async with Stand() as stand:
        for number in range(rounds):
            # On a store so small that it does not compact: the bytes are those of the journal alone.
            await stand.restart_bundle(fresh=True)
            await stand.run_job(WARM_UP)
            done.append(await job_commits(stand, count))
            options.tell(PART, f"round {number + 1} of {rounds}: {done[-1].commits.count:,.0f} commits")
    commits = [each.commits for each in done]
    note = f"a job of {count:,}"
    results.add(PART, "commits a second", [each.commits.count / each.run.seconds for each in done], note=note)
    results.add(PART, "requests for each commit", [count / each.count for each in commits], form=",.1f", note=note)
    results.add(PART, "written for each request", [each.bytes / count for each in commits], "B",
                note="its states, and the job's in each commit")
    results.add(PART, "commit: mean", [each.seconds / each.count * 1e3 for each in commits], "ms", form=".2f")
    results.add(PART, "plain write and fdatasync: mean", [fmean(each.plain) * 1e3 for each in done], "ms", form=".2f",
                baseline=True, note="as many, of the mean size of the commits, right after the job")
    results.add(PART, "commit to plain write, mean",
                [each.commits.seconds / each.commits.count / fmean(each.plain) for each in done], form=".2f")
    for percent in (50, 99):
        seconds = [quantile(each.buckets, percent / 100) for each in commits]
        note = "from the buckets of /metrics, evenly spread within each"
        if percent == 99:
            note += f"; the longest has all {count:,} requests as they are made"
        results.add(PART, f"commit: p{percent}", [each * 1e3 for each in seconds], "ms", form=".2f", note=note)
        results.add(PART, f"plain write and fdatasync: p{percent}",
                    [quantiles(each.plain, n=100)[percent - 1] * 1e3 for each in done], "ms", form=".2f", baseline=True)


# Compactions


async def measure_compactions(options: Options, rounds: int, results: Results) -> None:
    """Compactions of a large store."""
    count = options.count(1_000_000, 100_000)
    with tempfile.TemporaryDirectory(prefix="benchmarks-") as name:
        folder = Path(name) / "stored"
        options.tell(PART, f"compacts {count:,} requests")
        await stored.make(folder, count)
        compactions = await compact(folder, rounds)
    if any(each["rows"] != count for each in compactions):
        raise Failed(f"the store does not hold {count:,} requests")
    size = compactions[-1]["bytes"] / 1e6
    results.add(PART, f"compaction of {count:,} requests", [each["compaction"] for each in compactions], "s",
                form=".2f", note=f"in a thread of the store, {size:,.0f} MB, while requests change")
    results.add(PART, "longest commit meanwhile", [each["commit"] * 1e3 for each in compactions], "ms", form=",.1f",
                note="commits go on; they come one after the other")
    results.add(PART, "longest commit without a compaction", [each["commit_before"] * 1e3 for each in compactions],
                "ms", form=",.1f", baseline=True, note="in as much time right before")
    results.add(PART, "longest pause of the event loop meanwhile", [each["pause"] * 1e3 for each in compactions], "ms",
                form=",.1f", note="of a task that sleeps 1 ms")
    results.add(PART, "longest pause without a compaction", [each["pause_before"] * 1e3 for each in compactions], "ms",
                form=",.1f", baseline=True, note="in as much time right before")


async def compact(folder: Path, rounds: int) -> list[dict[str, float]]:
    """Have a process of its own change requests until the store has compacted so often.

    :raises Failed: when it takes too long, or fails.
    """
    told = await output_of(sys.executable, "-m", "benchmarks.compaction", folder, str(FIRST_ID + 1), str(rounds))
    return [json.loads(line) for line in told.splitlines()]


# A request


@dataclass(frozen=True)
class Put:
    """Seconds for each document that is put, and bytes for each request that goes to the journal."""

    seconds: float
    bytes: float


async def put_requests(folder: Path, count: int) -> Put:
    """Put three states of so many requests, wave by wave, as the service does where devices take their time."""
    _, requests = stored.make_job(FIRST_ID, time.time(), count)
    lives = {request.id: stored.life_of(request) for request in requests}
    store = TinyStore.open(folder, name="puts")
    before, seconds = store.bytes_written, 0.0
    for state in range(3):
        documents = {ident: life[state] for ident, life in lives.items()}
        for wave in waves(documents):
            begun = time.perf_counter()
            store.put(REQUESTS, wave)
            seconds += time.perf_counter() - begun
            await store.commit()
    written = store.bytes_written - before
    await store.close()
    return Put(seconds / (3 * count), written / count)


def waves(documents: dict[int, Any]) -> Iterator[dict[int, Any]]:
    """The documents in parts as large as those that a running job saves."""
    items = list(documents.items())
    for begin in range(0, len(items), stored.WAVE):
        yield dict(items[begin : begin + stored.WAVE])


@contextmanager
def tinydb_of(folder: Path, count: int) -> Iterator[tuple[TinyDB, list[dict[str, Any]]]]:
    """A stock TinyDB with the documents of so many requests, and those documents."""
    _, requests = stored.make_job(FIRST_ID, time.time(), count)
    documents = [stored.life_of(request)[-1] for request in requests]
    with TinyDB(folder / "peer.json") as peer:
        peer.table(REQUESTS).insert_multiple(documents)
        yield peer, documents


async def measure_puts(options: Options, rounds: int, results: Results) -> None:
    """What a request costs the store, in turn with what a document costs stock TinyDB."""
    count = 10_000
    puts, inserts = [], []
    with tempfile.TemporaryDirectory(prefix="benchmarks-") as name, tinydb_of(Path(name), count) as (peer, documents):
        for number in range(rounds):
            folder = Path(name) / str(number)
            puts.append(await put_requests(folder, count))
            begun = time.perf_counter()
            for document in documents[:INSERTS]:
                peer.table(REQUESTS).insert(document)
            inserts.append((time.perf_counter() - begun) / INSERTS)
    options.tell(PART, f"puts: {puts[-1].seconds * 1e6:.1f} µs, TinyDB {inserts[-1] * 1e6:,.0f} µs")
    results.add(PART, "put of a request's document", [put.seconds * 1e6 for put in puts], "µs", form=",.1f",
                note=f"on the event loop; {count:,} requests, {stored.WAVE} at a time")
    results.add(PART, "written for a request alone", [put.bytes for put in puts], "B",
                note="its three states; the bundle leaves out the second where a device answers at once")
    results.add(PART, "stock TinyDB inserts a document", [seconds * 1e6 for seconds in inserts], "µs", baseline=True,
                note=f"where {count:,} are already; it writes the whole file, and does not sync it")


async def measure(options: Options, rounds: int, results: Results) -> None:
    """All of it."""
    await measure_commits(options, rounds, results)
    await measure_puts(options, rounds, results)
    await measure_compactions(options, rounds, results)
