"""The benchmarks of the store: their folders are what a bundle leaves, and their figures are read as they are meant."""

from __future__ import annotations

import asyncio
import shutil
import time
from pathlib import Path

import pytest

from benchmarks import stored
from benchmarks.compaction import Heart, Load, WatchedFiles, compaction
from benchmarks.journal import Commits, put_requests, quantile, read_commits, write_plainly
from benchmarks.options import Failed
from benchmarks.stored import JOB_SIZE
from puppetmaster.documents import JOBS, MESSAGES, META, META_ID, REQUESTS, job_from_document, request_from_document
from puppetmaster.metrics import commit_times
from puppetmaster.models import FIRST_ID, Job
from puppetmaster.store import TinyStore
from puppetmaster.store.codec import encode


def jobs_of(store: TinyStore) -> list[Job]:
    return [
        job_from_document(job_id, document, store.get(MESSAGES, job_id) or {}) for job_id, document in store.scan(JOBS)
    ]


async def check(folder: Path, count: int) -> list[Job]:
    """See that all jobs have ended, and that their requests and no others are there."""
    store = TinyStore.open(folder)
    jobs = jobs_of(store)
    assert sum(job.total_count for job in jobs) == count == store.count(REQUESTS)
    for job in jobs:
        assert job.is_final
        assert job.finish_count == job.total_count
        for request_id, document in store.scan(REQUESTS, job.request_ids):
            assert request_from_document(request_id, document, job).is_final
    assert (store.get(META, META_ID) or {})["nextId"] == max(job.request_ids[-1] for job in jobs) + 1
    await store.close()
    return jobs


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two jobs that have ended."""
    folder = tmp_path_factory.mktemp("stored")
    asyncio.run(stored.make(folder, 2 * JOB_SIZE))
    return folder


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    return shutil.copytree(made, tmp_path / "stored")


def test_a_folder_holds_as_many_ended_requests_as_were_asked_for(folder: Path) -> None:
    assert [job.id for job in asyncio.run(check(folder, 2 * JOB_SIZE))] == [FIRST_ID, FIRST_ID + JOB_SIZE + 1]


def test_a_killed_life_leaves_a_journal_and_the_same_number_of_requests(folder: Path) -> None:
    size = asyncio.run(stored.make_killed(folder, 2 * JOB_SIZE))
    assert stored.journal_of(folder).stat().st_size == size > 0
    assert asyncio.run(check(folder, 2 * JOB_SIZE))[0].id > FIRST_ID


def test_a_compaction_is_seen_from_its_beginning_to_its_end(folder: Path) -> None:
    found, size = asyncio.run(compact_once(folder))
    assert found["compaction"] > 0
    assert found["rows"] == 2 * JOB_SIZE
    assert found["bytes"] == size


async def compact_once(folder: Path) -> tuple[dict[str, float], int]:
    """What is told of a compaction, and the size of the snapshot that it left."""
    files = WatchedFiles()
    store, heart = TinyStore.open(folder, files=files), Heart()
    found = await compaction(store, files, Load(store, list(range(FIRST_ID + 1, FIRST_ID + 1 + JOB_SIZE))), heart)
    heart.stop()
    size = (await asyncio.to_thread((folder / "puppetmaster.json").stat)).st_size
    await store.close()
    return found, size


def test_what_is_written_for_a_request_are_its_three_states(tmp_path: Path) -> None:
    put = asyncio.run(put_requests(tmp_path, 1_000))
    _, [request] = stored.make_job(FIRST_ID, time.time(), 1)
    size = sum(len(encode(document)) for document in stored.life_of(request))
    assert size < put.bytes < 2 * size
    assert put.seconds > 0


def test_plain_writes_are_as_many_as_were_asked_for(tmp_path: Path) -> None:
    assert len(write_plainly(tmp_path, 100, 7)) == 7
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("share", "seconds"),
    [(0.25, 0.5), (0.5, 1.0), (0.75, 1.5), (1.0, 2.0)],
)
def test_a_quantile_lies_evenly_within_its_bucket(share: float, seconds: float) -> None:
    assert quantile({1.0: 50.0, 2.0: 100.0, float("inf"): 100.0}, share) == seconds


def test_a_quantile_above_the_last_bound_is_that_bound() -> None:
    assert quantile({1.0: 1.0, float("inf"): 4.0}, 0.9) == 1.0


def test_no_commits_have_no_quantile() -> None:
    with pytest.raises(Failed):
        quantile({1.0: 0.0, float("inf"): 0.0}, 0.5)


def test_commits_are_read_from_the_metrics_and_counted_from_an_earlier_reading() -> None:
    text = """
puppetmaster_journal_commits_total 30.0
puppetmaster_journal_written_bytes_total 4000.0
puppetmaster_journal_commit_seconds_bucket{le="0.001"} 20.0
puppetmaster_journal_commit_seconds_bucket{le="+Inf"} 30.0
puppetmaster_journal_commit_seconds_count 30.0
puppetmaster_journal_commit_seconds_sum 0.5
"""
    earlier = Commits(10, 1000, 0.25, {0.001: 5.0, float("inf"): 10.0})
    assert read_commits(text).since(earlier) == Commits(20, 3000, 0.25, {0.001: 15.0, float("inf"): 20.0})


def test_the_metrics_of_a_bundle_have_the_histogram_that_is_read() -> None:
    names = {sample.name for family in commit_times().collect() for sample in family.samples}
    assert {"puppetmaster_journal_commit_seconds_bucket", "puppetmaster_journal_commit_seconds_sum"} <= names


def test_metrics_without_a_figure_are_refused() -> None:
    with pytest.raises(Failed, match="journal_commits_total"):
        read_commits("puppetmaster_journal_commit_seconds_sum 0.5\n")
