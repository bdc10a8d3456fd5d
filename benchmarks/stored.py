"""A data folder as a long life leaves it: ``python -m benchmarks.stored FOLDER COUNT [--killed]``.

It is made through the product's own store and documents, in a process of its own, so that nothing of it stays in the
memory of whoever measures. ``COUNT`` requests lie there, all ended, in jobs of :data:`JOB_SIZE`.

With ``--killed`` it goes on from there as a busy life does: new jobs run and the oldest are removed, so the count stays
as it is, until the journal is so large that the store begins to compact. At that moment the process kills itself. After
each job it prints how large the journal was then.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks.programs import output_of
from puppetmaster.documents import (
    JOBS,
    MESSAGES,
    META,
    META_ID,
    REQUESTS,
    Document,
    job_to_document,
    messages_to_document,
    request_to_document,
)
from puppetmaster.models import FIRST_ID, Job, Message, Request
from puppetmaster.states import JobStatus, RequestStatus
from puppetmaster.store import TinyStore
from puppetmaster.store.files import FileSystem

JOB_SIZE = 20_000
"""Requests of each job."""

WAVE = 250
"""Requests whose states go to disk together: half a window, as a job's commits have them."""

JOURNALS = "puppetmaster.journal.*"

FILLED = 0.98
"""How much of what starts a compaction is left in the journal of :func:`make_killed`."""


class Unsynced(FileSystem):
    """Builds quickly: what is built here need not outlive the machine."""

    def __init__(self) -> None:
        self.is_doomed = False
        """Whether the next file that is made is the end of this process."""

    def sync(self, descriptor: int) -> None:
        """Wait for nothing."""

    def open(self, path: Path, flags: int) -> int:
        """Open a file. The journal is open for good, so a new file is the beginning of a compaction."""
        if self.is_doomed and flags & os.O_CREAT:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().open(path, flags)


async def make(folder: Path, count: int) -> None:
    """Make a folder with so many requests, as a bundle that was stopped leaves it."""
    await output_of(*_command(folder, count))


async def make_killed(folder: Path, count: int) -> int:
    """Have a life in a folder of :func:`make` that ends by a kill shortly before a compaction; the journal's bytes.

    :raises Failed: when no compaction began.
    """
    sizes = (await output_of(*_command(folder, count), "--killed", status=-signal.SIGKILL)).split()
    journal = journal_of(folder)
    # As a kill some jobs earlier had left it: frames come one after the other, and here one job ends.
    size = max(size for size in map(int, sizes) if size <= FILLED * journal.stat().st_size)
    os.truncate(journal, size)
    return size


def journal_of(folder: Path) -> Path:
    """The one that is in use: others are made empty."""
    return max(folder.glob(JOURNALS), key=lambda path: path.stat().st_size)


def _command(folder: Path, count: int) -> list[str]:
    return [sys.executable, "-m", "benchmarks.stored", str(folder), str(count)]


def make_job(first_id: int, now: float, count: int = JOB_SIZE) -> tuple[Job, list[Request]]:
    """A job of a finished life, with ids from ``first_id`` on, and its requests, all of them resolved."""
    job = Job(
        id=first_id,
        messages=[Message(method="post", resource="/echo", data={"level": 3}, timeout=60.0)],
        first_request=first_id + 1,
        total_count=count,
        created_at=now,
        started_at=now,
        finished_at=now + 2.0,
        name=f"job {first_id}",
        status=JobStatus.RESOLVED,
        reason="all requests resolved",
        progress_sum=100 * count,
    )
    job.counts[RequestStatus.RESOLVED] = count
    return job, [_request(job, number, now) for number in range(count)]


def _request(job: Job, number: int, now: float) -> Request:
    return Request(
        id=job.first_request + number,
        job=job,
        message_number=0,
        destination=f"device-{number + 1:05d}",
        status=RequestStatus.RESOLVED,
        reason="answered 200",
        attempt=1,
        progress=100,
        sent_at=now + number * 1e-4,
        finished_at=now + number * 1e-4 + 0.05,
        code=200,
        result={"level": 3},
    )


def life_of(request: Request) -> tuple[Document, Document, Document]:
    """What the store is given of a request: when it is made, when the broker has it, and when it has ended."""
    ended = request_to_document(request)
    sent = {**ended, "status": RequestStatus.SENT.value, "reason": "the broker has it", "progress": 0}
    for late in ("finishedAt", "code", "result"):
        del sent[late]
    made = {name: ended[name] for name in ("job", "destination", "message")}
    return {**made, "status": RequestStatus.CREATED.value}, sent, ended


async def _stop(store: TinyStore, count: int) -> None:
    """The life that ends in order."""
    now = time.time()
    for first_id in _first_ids(count):
        job, requests = make_job(first_id, now)
        store.put(JOBS, {job.id: job_to_document(job)})
        store.put(MESSAGES, {job.id: messages_to_document(job)})
        store.put(REQUESTS, {request.id: request_to_document(request) for request in requests})
        await store.commit()
    _put_meta(store, first_id + JOB_SIZE + 1, stopped=True)


async def _run_until_killed(store: TinyStore, files: Unsynced, folder: Path, count: int) -> None:
    """The life that ends by a kill, at the latest when every request has been replaced ten times."""
    oldest, now = _first_ids(10 * count), time.time()
    for first_id in _first_ids(10 * count, begin=FIRST_ID + count // JOB_SIZE * (JOB_SIZE + 1)):
        files.is_doomed = True
        await _run_job(store, *make_job(first_id, now))
        gone = next(oldest)
        store.remove(JOBS, [gone])
        store.remove(MESSAGES, [gone])
        store.remove(REQUESTS, range(gone + 1, gone + 1 + JOB_SIZE))
        await store.commit()
        print(journal_of(folder).stat().st_size, flush=True)


async def _run_job(store: TinyStore, job: Job, requests: list[Request]) -> None:
    """A job, wave by wave, with the commits that it takes."""
    lives = {request.id: life_of(request) for request in requests}
    store.put(MESSAGES, {job.id: messages_to_document(job)})
    store.put(JOBS, {job.id: job_to_document(job)})
    store.put(REQUESTS, {ident: made for ident, (made, _, _) in lives.items()})
    _put_meta(store, job.id + JOB_SIZE + 1, stopped=False)
    await store.commit()
    for begin in range(0, len(requests), WAVE):
        wave = list(lives.items())[begin : begin + WAVE]
        store.put(REQUESTS, {ident: sent for ident, (_, sent, _) in wave})
        await store.commit()
        store.put(REQUESTS, {ident: ended for ident, (_, _, ended) in wave})
        store.put(JOBS, {job.id: job_to_document(job)})
        await store.commit()


def _first_ids(count: int, begin: int = FIRST_ID) -> Iterator[int]:
    """The ids of the jobs that so many requests are in; a job's requests have the ids that follow."""
    return iter(range(begin, begin + count // JOB_SIZE * (JOB_SIZE + 1), JOB_SIZE + 1))


def _put_meta(store: TinyStore, next_id: int, *, stopped: bool) -> None:
    store.put(META, {META_ID: {"nextId": next_id, "stopped": stopped}})


async def main(folder: Path, count: int, *, killed: bool) -> None:
    """Make it."""
    files = Unsynced()
    store = TinyStore.open(folder, files=files)
    if killed:
        await _run_until_killed(store, files, folder, count)
    else:
        await _stop(store, count)
    await store.close()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m benchmarks.stored")
    parser.add_argument("folder", type=Path)
    parser.add_argument("count", type=int, help=f"a multiple of {JOB_SIZE:,}")
    parser.add_argument("--killed", action="store_true")
    options = parser.parse_args()
    asyncio.run(main(options.folder, options.count, killed=options.killed))
