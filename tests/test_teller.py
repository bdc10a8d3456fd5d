"""Who watches is told of every job's last state at once, and of what came before at most ten times a second."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest

from puppetmaster.documents import job_to_document
from puppetmaster.effects import Change
from puppetmaster.models import Job
from puppetmaster.pacing import INTERVAL
from puppetmaster.states import JOB_FINAL, JobStatus, RequestStatus
from puppetmaster.teller import Teller
from tests.fast_loop import run


class Watcher:
    """Hears what is published."""

    def __init__(self) -> None:
        self.heard: list[tuple[float, str, Any, bool]] = []
        self.wanted: list[Any] = []
        """Of each state that was retained, whether it would be published again."""
        self.teller = Teller("me", self.publish)

    def publish(self, topic: str, payload: bytes, retain: bool, wanted: Callable[[], bool] | None) -> None:
        if retain and payload:
            self.wanted.append(wanted)
        now = asyncio.get_running_loop().time()
        self.heard.append((now, topic, json.loads(payload) if payload else None, retain))

    def tell(self, change: Change, job_id: int = 7, done: int = 0, status: JobStatus = JobStatus.DISPATCHING) -> None:
        self.teller.tell(change, job_id, None if change is Change.REMOVED else document(job_id, done, status))

    def events(self, job_id: int = 7) -> list[tuple[str, int | None]]:
        """The events of a job: what happened, and how many of its requests were done."""
        return [
            (said["method"], said["data"].get("doneCount"))
            for _, topic, said, _ in self.heard
            if topic == "/controller" and said["resource"] == f"/jobs/{job_id}"
        ]

    def retained(self, job_id: int = 7) -> list[Any]:
        return [said for _, topic, said, retain in self.heard if topic == f"/puppetmaster/me/jobs/{job_id}" and retain]

    def times(self, job_id: int = 7) -> list[float]:
        return [when for when, topic, _, _ in self.heard if topic == f"/puppetmaster/me/jobs/{job_id}"]


def document(job_id: int, done: int, status: JobStatus = JobStatus.DISPATCHING) -> dict[str, Any]:
    job = Job(id=job_id, messages=(), first_request=job_id + 1, total_count=1_000, created_at=0.0, status=status)
    job.counts[RequestStatus.RESOLVED] = done
    job.counts[RequestStatus.CREATED] = 1_000 - done
    return job_to_document(job)


def test_only_the_newest_state_of_a_job_would_be_published_again() -> None:
    """After a connection broke the broker may have the newer ones, and a watcher must not see an older one behind."""

    async def main() -> None:
        watcher = Watcher()
        watcher.tell(Change.CREATED)
        watcher.teller.flush()
        watcher.teller.retain(8, document(8, 5))
        assert [wanted() for wanted in watcher.wanted] == [True, True]
        watcher.tell(Change.CHANGED, done=1_000, status=JobStatus.RESOLVED)
        watcher.teller.flush()
        assert [wanted() for wanted in watcher.wanted] == [False, True, True]
        watcher.tell(Change.REMOVED)
        watcher.teller.flush()
        assert [wanted() for wanted in watcher.wanted] == [False, True, False]

    run(main())


def test_a_change_is_told_as_an_event_and_retained() -> None:
    async def main() -> None:
        watcher = Watcher()
        watcher.tell(Change.CREATED)
        await asyncio.sleep(0.01)
        [event, retained] = watcher.heard
        assert event[1:3] == ("/controller", {
            "code": 200, "method": "post", "resource": "/jobs/7", "data": retained[2],
        })  # fmt: skip
        assert event[3] is False
        assert retained[1] == "/puppetmaster/me/jobs/7"
        assert retained[3] is True
        assert (retained[2]["id"], retained[2]["totalCount"]) == (7, 1_000)

    run(main())


def test_at_most_ten_changes_a_second_of_a_job_are_told_and_the_last_one_always() -> None:
    async def main() -> None:
        watcher = Watcher()
        for done in range(1_000):
            watcher.tell(Change.CHANGED, done=done)
            await asyncio.sleep(0.003)
        await asyncio.sleep(1.0)
        times = watcher.times()
        assert len(times) >= 3.0 / INTERVAL
        assert all(later - earlier >= INTERVAL - 1e-9 for earlier, later in pairwise(times))
        assert watcher.events()[-1] == ("put", 999)
        assert watcher.retained()[-1]["doneCount"] == 999

    run(main())


@pytest.mark.parametrize("status", sorted(JOB_FINAL))
def test_the_end_of_a_job_is_told_at_once_and_so_is_its_removal(status: JobStatus) -> None:
    async def main() -> None:
        watcher = Watcher()
        watcher.tell(Change.CREATED)
        await asyncio.sleep(0)
        watcher.tell(Change.CHANGED, done=1)
        await asyncio.sleep(0)
        assert watcher.events() == [("post", 0)]
        watcher.tell(Change.CHANGED, done=2, status=status)
        await asyncio.sleep(0)
        assert watcher.events() == [("post", 0), ("put", 2)]
        assert watcher.retained()[-1]["status"] == status.value
        watcher.tell(Change.REMOVED)
        await asyncio.sleep(0)
        assert watcher.events()[-1] == ("delete", None)
        assert watcher.retained()[-1] is None

    run(main())


def test_what_was_told_never_goes_back() -> None:
    async def main() -> None:
        watcher = Watcher()
        for done in range(300):
            watcher.tell(Change.CHANGED, done=done)
            await asyncio.sleep(0.01)
        told = [done for _, done in watcher.events()]
        assert told == sorted(told)

    run(main())


def test_changes_in_one_moment_become_one() -> None:
    async def main() -> None:
        watcher = Watcher()
        for done in range(50):
            watcher.tell(Change.CHANGED, done=done)
        await asyncio.sleep(1.0)
        assert watcher.events() == [("put", 49)]

    run(main())


def test_a_busy_job_does_not_keep_another_one_waiting() -> None:
    async def main() -> None:
        watcher = Watcher()
        watcher.tell(Change.CHANGED, 7)
        await asyncio.sleep(0.01)
        watcher.tell(Change.CHANGED, 7)
        await asyncio.sleep(0.01)
        started = asyncio.get_running_loop().time()
        watcher.tell(Change.CHANGED, 8)
        await asyncio.sleep(1.0)
        assert watcher.times(8)[0] - started <= INTERVAL

    run(main())


def test_a_job_that_changes_before_it_was_told_of_is_created_in_its_last_state() -> None:
    async def main() -> None:
        watcher = Watcher()
        watcher.tell(Change.CREATED)
        watcher.tell(Change.CHANGED, done=5)
        await asyncio.sleep(1.0)
        watcher.tell(Change.CHANGED, done=6)
        await asyncio.sleep(1.0)
        assert watcher.events() == [("post", 5), ("put", 6)]

    run(main())


def test_a_removed_job_is_told_once_and_its_retained_state_is_taken_away() -> None:
    async def main() -> None:
        watcher = Watcher()
        watcher.tell(Change.CREATED)
        await asyncio.sleep(1.0)
        watcher.tell(Change.CHANGED, done=3)
        watcher.tell(Change.REMOVED)
        await asyncio.sleep(1.0)
        assert watcher.events() == [("post", 0), ("delete", None)]
        assert watcher.retained()[-1] is None

    run(main())


def test_while_there_is_no_broker_nothing_is_told_and_afterwards_the_last_state() -> None:
    async def main() -> None:
        watcher = Watcher()
        watcher.teller.online(False)
        for done in range(5):
            watcher.tell(Change.CHANGED, done=done)
            await asyncio.sleep(1.0)
        assert watcher.heard == []
        watcher.teller.online(True)
        await asyncio.sleep(1.0)
        assert watcher.events() == [("put", 4)]

    run(main())


def test_a_broker_that_goes_while_a_change_waits_its_turn_holds_it_back() -> None:
    async def main() -> None:
        watcher = Watcher()
        watcher.tell(Change.CHANGED, done=1)
        await asyncio.sleep(0.01)
        watcher.tell(Change.CHANGED, done=2)
        watcher.teller.online(False)
        await asyncio.sleep(1.0)
        assert watcher.events() == [("put", 1)]
        watcher.teller.online(True)
        await asyncio.sleep(1.0)
        assert watcher.events() == [("put", 1), ("put", 2)]

    run(main())


def test_flush_tells_all_that_is_untold_at_once_and_only_once() -> None:
    async def main() -> None:
        watcher = Watcher()
        watcher.tell(Change.CHANGED, 7, done=1)
        await asyncio.sleep(0.01)
        watcher.tell(Change.CHANGED, 7, done=2)
        watcher.tell(Change.CREATED, 8)
        watcher.teller.flush()
        assert (watcher.events(7), watcher.events(8)) == ([("put", 1), ("put", 2)], [("post", 0)])
        await asyncio.sleep(1.0)
        assert (watcher.events(7), watcher.events(8)) == ([("put", 1), ("put", 2)], [("post", 0)])

    run(main())


def test_a_state_can_be_retained_and_taken_away_without_an_event() -> None:
    async def main() -> None:
        watcher = Watcher()
        watcher.teller.retain(7, document(7, 3))
        watcher.teller.forget(7)
        assert watcher.events() == []
        assert [said and said["doneCount"] for said in watcher.retained()] == [3, None]

    run(main())
