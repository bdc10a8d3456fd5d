"""The rules of the farm: who gets which chunk, who loses it, and what becomes of it. Time and engine are scripted."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from puppetmaster.effects import Change, Verdict
from puppetmaster.errors import Conflict, Forbidden, InvalidDocument, StoreUnavailable
from puppetmaster.farm import Farm, Plugins, Tasks, Worker
from puppetmaster.farm import workers as workers_module
from puppetmaster.farm.documents import (
    Identity,
    Registration,
    read_new_task,
    read_registration,
    read_task_change,
    read_worker_change,
)
from puppetmaster.farm.farm import AGAIN, AT_WORK, MAX_FAILURES, MAX_GONE, MAX_LOSSES
from puppetmaster.farm.offers import Offer, Offers, bounded_priority
from puppetmaster.farm.tasks import TASKS, TaskNotFound
from puppetmaster.farm.work import WORK
from puppetmaster.models import Job, Limits, Message, Request
from puppetmaster.states import JobStatus
from puppetmaster.store import MemoryStore
from puppetmaster.wire import Answer
from tests.fast_loop import run

PATIENCE = 60.0


class Post:
    """An engine that does at once what it is told: sends again what is transient, ends what is final."""

    def __init__(self) -> None:
        self.unavailable = ""
        self.farm: Farm
        self.requests: dict[int, Request] = {}
        self.accepted_attempts: list[tuple[int, int]] = []
        self.answers: list[Answer] = []
        self.is_slow = False
        """Whether what is to be sent again waits for :meth:`send_all`."""

    def out(self) -> list[Request]:
        return [request for request in self.requests.values() if request.is_out]

    def accepted(self, request: Request, attempt: int) -> None:
        self.accepted_attempts.append((request.id, attempt))

    async def answer(self, answer: Answer) -> Verdict:
        request = self.requests[answer.request_id]
        await asyncio.sleep(0)
        if not request.is_out:
            return Verdict.LATE
        self.answers.append(answer)
        if answer.code == AGAIN:
            request.attempt += 1
            if not self.is_slow:
                self.farm.send(request, request.attempt)
        elif answer.code != AT_WORK:
            request.is_out, request.code = False, answer.code
        return Verdict.APPLIED

    def resend(self, only: Callable[[Request], bool] | None = None) -> int:
        found = [request for request in self.out() if only is None or only(request)]
        for request in found:
            self.farm.send(request, request.attempt)
        return len(found)

    @property
    def final(self) -> list[tuple[int, int]]:
        """What has ended, and its code."""
        return [(answer.request_id, answer.code) for answer in self.answers if answer.code not in (AGAIN, AT_WORK)]


class Bench:
    """A farm with all around it."""

    def __init__(self, store: MemoryStore | None = None, post: Post | None = None, now: float = 1_000.0) -> None:
        self.now = now
        self.store = store or MemoryStore()
        self.post = post or Post()
        self.farm = self.post.farm = Farm(
            store=self.store, now=lambda: self.now, plugins=Plugins(), patience=PATIENCE
        )

    async def restart(self) -> Bench:
        """What a kill leaves: what was committed, and what the engine has."""
        await self.farm.close()
        bench = Bench(self.store.reopen(), self.post, self.now)
        bench.farm.start(bench.post)
        return bench

    def task(self, task_id: int, chunks: int = 1, priority: int = 50) -> list[Request]:
        """Chunks that are on offer."""
        data = {"type": "shell", "commands": [["true"]], "frame_start": 1, "frame_end": 10}
        job = Job(
            id=task_id,
            messages=[Message(method="post", resource="/farm/shell", data=data, timeout=1e6)],
            first_request=task_id + 1,
            total_count=chunks,
            created_at=0.0,
            limits=Limits(priority=priority),
            status=JobStatus.DISPATCHING,
        )
        made = [
            Request(
                id=task_id + number,
                job=job,
                message_number=0,
                destination=f"workers-{number}",
                attempt=1,
                is_out=True,
            )
            for number in range(1, chunks + 1)
        ]
        for request in made:
            self.post.requests[request.id] = request
            self.farm.send(request, 1)
        return made

    async def worker(self, name: str) -> Worker:
        return await self.farm.register(read_registration({"hostname": name}), "192.0.2.1")

    async def take(self, worker: Worker) -> int | None:
        found = await self.farm.give(worker)
        return None if found is None else found[0].id

    async def report(self, worker: Worker, work: int, status: str = "rendering", **more: Any) -> None:
        await self.farm.report(worker, work, read_task_change({"status": status, **more}))

    async def order(self, worker: Worker, status: str) -> None:
        await self.farm.change_worker(worker, read_worker_change({"status": status}))

    async def pass_time(self, seconds: float) -> None:
        """Let time pass, and the farm look at it."""
        self.now += seconds
        await asyncio.sleep(10)  # on a loop on which that takes no time


def started(main: Callable[[Bench], Coroutine[Any, Any, None]]) -> None:
    """Run with a farm that was started."""

    async def inside() -> None:
        bench = Bench()
        bench.farm.start(bench.post)
        await main(bench)
        await bench.farm.close()

    run(inside())


async def refused(call: Coroutine[Any, Any, Any]) -> str:
    """Why somebody was told to stop."""
    with pytest.raises(Forbidden) as caught:
        await call
    return str(caught.value)


# Who gets what


def test_the_highest_priority_goes_first_and_of_those_the_oldest() -> None:
    async def main(bench: Bench) -> None:
        for task_id, priority in ((100, 50), (200, 90), (300, 50), (400, 90)):
            bench.task(task_id, priority=priority)
        bench.farm.offers.prioritize(300, 50)
        workers = [await bench.worker(f"w{number}") for number in range(5)]
        assert [await bench.take(worker) for worker in workers] == [201, 401, 101, 301, None]

    started(main)


def test_priorities_beyond_those_of_jobs_count_until_the_job_has_another() -> None:
    async def main(bench: Bench) -> None:
        (low,), (high,), (changed,) = (bench.task(task, priority=100) for task in (100, 200, 300))
        for task_id, priority in ((100, 100), (200, 1000), (300, 5000)):
            bench.farm.offers.prioritize(task_id, priority)
        changed.job.limits = Limits(priority=3)
        bench.farm.offers.rank(300)
        workers = [await bench.worker(f"w{number}") for number in range(3)]
        assert [await bench.take(worker) for worker in workers] == [high.id, low.id, changed.id]

    started(main)


def test_the_chunks_of_a_task_go_in_their_order_and_each_once() -> None:
    async def main(bench: Bench) -> None:
        chunks = bench.task(100, chunks=20)
        workers = [await bench.worker(f"w{number}") for number in range(21)]
        taken = await asyncio.gather(*map(bench.take, workers))
        assert taken == [*(chunk.id for chunk in chunks), None]
        assert bench.post.accepted_attempts == [(chunk.id, 1) for chunk in chunks]

    started(main)


def test_who_asks_again_gets_the_same_chunk() -> None:
    async def main(bench: Bench) -> None:
        bench.task(100, chunks=2)
        worker = await bench.worker("a")
        assert [await bench.take(worker) for _ in range(3)] == [101, 101, 101]

    started(main)


@settings(deadline=None)
@given(st.lists(st.tuples(st.sampled_from(["put", "withdraw", "forget", "prioritize", "limit"]), st.integers(1, 4),
                          st.integers(-5, 205)), max_size=60))  # fmt: skip
def test_the_order_is_always_that_of_the_priorities(steps: list[tuple[str, int, int]]) -> None:
    offers, priorities = Offers(), dict[int, int]()
    jobs = {task: Bench().task(task * 100, chunks=3) for task in range(1, 5)}
    out: set[Request] = set()
    for what, task, number in steps:
        chunk = jobs[task][number % 3]
        if what == "put":
            offers.put(Offer(chunk, 1, None))  # type: ignore[arg-type]
            out.add(chunk)
        elif what == "withdraw":
            offers.withdraw(chunk)
            out.discard(chunk)
        elif what == "forget":
            offers.forget(task * 100)
            out -= set(jobs[task])
            priorities.pop(task, None)
        elif what == "prioritize":
            offers.prioritize(task * 100, number)
            priorities[task] = number
        else:
            chunk.job.limits = Limits(priority=bounded_priority(number))
            offers.rank(task * 100)

        def rank(task: int) -> tuple[int, int]:
            own = jobs[task][0].job.limits.priority
            given = priorities.get(task, own)
            return -(given if bounded_priority(given) == own else own), task

        assert len(offers) == len(out)
        listed = {job.id // 100: {offer.request for offer in some} for job, some in offers}
        assert list(listed) == sorted({request.job.id // 100 for request in out}, key=rank)
        assert set().union(*listed.values()) == out


@pytest.mark.parametrize("status", [JobStatus.PAUSED, JobStatus.CANCELED])
def test_a_job_that_does_not_go_on_is_given_to_nobody(status: JobStatus) -> None:
    async def main(bench: Bench) -> None:
        (chunk,) = bench.task(100)
        chunk.job.status = status
        worker = await bench.worker("a")
        assert await bench.take(worker) is None
        chunk.job.status = JobStatus.DISPATCHING
        assert await bench.take(worker) == chunk.id

    started(main)


def test_what_moved_on_meanwhile_is_not_given() -> None:
    async def main(bench: Bench) -> None:
        ended, again, good = bench.task(100, chunks=3)
        ended.is_out, again.attempt = False, 2
        worker = await bench.worker("a")
        assert await bench.take(worker) == good.id
        assert len(bench.farm.offers) == 0

    started(main)


def test_what_is_no_chunk_is_refused_to_its_sender() -> None:
    async def main(bench: Bench) -> None:
        job = Job(id=1, messages=[Message(method="post", resource="/x", data={"commands": "rm"}, timeout=1.0)],
                  first_request=2, total_count=1, created_at=0.0)  # fmt: skip
        request = Request(id=2, job=job, message_number=0, destination="workers", attempt=1, is_out=True)
        bench.post.requests[2] = request
        bench.farm.send(request, 1)
        await asyncio.sleep(1)
        assert bench.post.final == [(2, 400)]

    started(main)


@pytest.mark.parametrize(
    ("destination", "is_served"),
    [("workers", True), ("workers-1", True), ("workers-", False), ("workers-x", False), ("worker-1", False),
     ("workers-1\n", False), ("workers-" + "1" * 10, False)],
)  # fmt: skip
def test_only_workers_are_served(destination: str, is_served: bool) -> None:
    async def main(bench: Bench) -> None:
        (request,) = bench.task(100)
        request.destination = destination
        assert bench.farm.serves(request) is is_served

    started(main)


# Failures, losses, silence


def test_a_chunk_fails_on_three_workers_that_differ() -> None:
    async def main(bench: Bench) -> None:
        (chunk,) = bench.task(100)
        workers = [await bench.worker(name) for name in "abcd"]
        for worker in workers[:MAX_FAILURES]:
            assert await bench.take(worker) == chunk.id
            await bench.report(worker, chunk.id, "failed", message=f"no file on {worker.hostname}")
            assert await bench.take(worker) is None, "there are others"
        assert bench.post.final == [(chunk.id, 500)]
        assert bench.post.answers[-1].data["failures"] == ["a", "b", "c"]
        assert await bench.take(workers[3]) is None

    started(main)


def test_a_chunk_comes_back_to_who_failed_when_nobody_else_is_there() -> None:
    async def main(bench: Bench) -> None:
        (chunk,) = bench.task(100)
        one, disabled, away = [await bench.worker(name) for name in ("one", "disabled", "away")]
        await bench.order(disabled, "disabled")
        assert await bench.take(one) == chunk.id
        await bench.report(one, chunk.id, "failed")
        assert await bench.take(one) is None
        bench.now += PATIENCE + 1
        assert not bench.farm.is_online(away)
        assert await bench.take(one) == chunk.id

    started(main)


def test_who_failed_at_one_chunk_gets_the_next() -> None:
    async def main(bench: Bench) -> None:
        first, second = bench.task(100, chunks=2)
        worker, _ = await bench.worker("a"), await bench.worker("b")
        assert await bench.take(worker) == first.id
        await bench.report(worker, first.id, "failed")
        assert await bench.take(worker) == second.id

    started(main)


def test_giving_up_is_no_failure() -> None:
    async def main(bench: Bench) -> None:
        (chunk,) = bench.task(100)
        worker, _ = await bench.worker("a"), await bench.worker("b")
        for attempt in range(1, 5):
            assert await bench.take(worker) == chunk.id
            await bench.report(worker, chunk.id, "aborted")
            assert chunk.attempt == attempt + 1
        assert bench.post.final == []

    started(main)


@pytest.mark.parametrize("how", ["aborted", "registers", "disabled"])
def test_a_chunk_that_comes_to_no_end_ten_times_has_failed(how: str) -> None:
    async def main(bench: Bench) -> None:
        (chunk,) = bench.task(100)
        worker = await bench.worker("a")
        for _ in range(MAX_LOSSES):
            assert bench.post.final == []
            assert await bench.take(worker) == chunk.id
            if how == "registers":
                assert await bench.worker("a") is worker
            elif how == "disabled":
                await bench.order(worker, "disabled")
                await bench.order(worker, "enabled")
            else:
                await bench.report(worker, chunk.id, how)
        assert bench.post.final == [(chunk.id, 500)]
        assert await bench.take(worker) is None

    started(main)


def test_a_silent_worker_loses_its_chunk_and_hears_of_it() -> None:
    async def main(bench: Bench) -> None:
        (chunk,) = bench.task(100)
        silent, other = await bench.worker("silent"), await bench.worker("other")
        assert await bench.take(silent) == chunk.id
        await bench.pass_time(PATIENCE - 1)
        await bench.report(silent, chunk.id)  # any call is a sign of life
        await bench.pass_time(PATIENCE - 1)
        assert await bench.take(other) is None
        await bench.pass_time(2)
        assert await bench.take(other) == chunk.id
        assert "nothing was heard of silent for" in await refused(bench.report(silent, chunk.id))
        assert "nothing was heard" in await refused(bench.report(silent, chunk.id, "finished"))
        await bench.report(other, chunk.id, "finished")
        assert bench.post.final == [(chunk.id, 200)]

    started(main)


def test_a_disabled_worker_loses_its_chunk_and_gets_none() -> None:
    async def main(bench: Bench) -> None:
        (chunk,) = bench.task(100)
        worker, other = await bench.worker("a"), await bench.worker("b")
        assert await bench.take(worker) == chunk.id
        await bench.order(worker, "disabled")
        assert await bench.take(other) == chunk.id
        assert "disabled" in await refused(bench.report(worker, chunk.id))
        assert "disabled" in await refused(bench.farm.give(worker))

    started(main)


def test_a_worker_that_registers_again_has_lost_its_chunk_and_is_the_same() -> None:
    async def main(bench: Bench) -> None:
        (chunk,) = bench.task(100)
        worker, other = await bench.worker("a"), await bench.worker("b")
        assert await bench.take(worker) == chunk.id
        again = await bench.worker("a")
        assert (again is worker, worker.work) == (True, None)
        assert "registered again" in await refused(bench.report(worker, chunk.id))
        assert await bench.take(other) == chunk.id
        assert len(list(bench.farm.workers)) == 2

    started(main)


@pytest.mark.parametrize("how", ["abort", "forget"])
def test_what_is_called_off_is_taken_away(how: str) -> None:
    async def main(bench: Bench) -> None:
        held, offered = bench.task(100, chunks=2)
        worker = await bench.worker("a")
        assert await bench.take(worker) == held.id
        for request in (held, offered):
            request.is_out, request.reason = False, "canceled by ana"
            bench.farm.abort(request)
        if how == "forget":
            bench.farm.forget_task(100)
        why = await refused(bench.report(worker, held.id, "finished"))
        assert ("deleted" if how == "forget" else "canceled by ana") in why
        assert await bench.take(worker) is None
        assert bench.post.answers == []

    started(main)


def test_a_removed_worker_leaves_its_chunk_and_its_number() -> None:
    async def main(bench: Bench) -> None:
        (chunk,) = bench.task(100)
        worker, other = await bench.worker("a"), await bench.worker("b")
        assert await bench.take(other) == chunk.id
        with pytest.raises(Conflict):
            await bench.farm.remove_worker(other)
        await bench.order(other, "disabled")
        await bench.farm.remove_worker(other)
        assert await bench.take(worker) == chunk.id
        assert (await bench.worker("c")).id > other.id
        with pytest.raises(Forbidden):
            bench.farm.identify(Identity(worker_id=other.id), "")

    started(main)


# Reports


def test_a_report_that_comes_twice_is_no_fault() -> None:
    async def main(bench: Bench) -> None:
        (chunk,) = bench.task(100)
        worker = await bench.worker("a")
        await bench.take(worker)
        await asyncio.gather(*(bench.report(worker, chunk.id, "finished") for _ in range(3)))
        await bench.report(worker, chunk.id, "finished")
        assert bench.post.final == [(chunk.id, 200)]
        assert "has ended" in await refused(bench.report(worker, chunk.id))

    started(main)


def test_who_has_not_got_a_chunk_changes_nothing() -> None:
    async def main(bench: Bench) -> None:
        (chunk,) = bench.task(100)
        worker, other = await bench.worker("a"), await bench.worker("b")
        await bench.take(worker)
        for work in (chunk.id, 0, 1 << 60):
            assert "was not given to the worker b" in await refused(bench.report(other, work, "finished"))
        assert bench.post.answers == []
        assert await bench.take(worker) == chunk.id

    started(main)


def test_only_news_are_told_to_the_engine() -> None:
    async def main(bench: Bench) -> None:
        (chunk,) = bench.task(100)
        worker = await bench.worker("a")
        await bench.take(worker)
        for frame in (1, 1, 3, 3, 3):
            await bench.report(worker, chunk.id, frame_current=frame)
            chunk.progress = bench.post.answers[-1].data["progress"]
        assert [answer.data["progress"] for answer in bench.post.answers] == [0, 20]

    started(main)


def test_the_output_that_is_kept_is_its_end() -> None:
    async def main(bench: Bench) -> None:
        (chunk,) = bench.task(100)
        worker = await bench.worker("a")
        await bench.take(worker)
        for _ in range(20):
            await bench.report(worker, chunk.id, output="x" * 100_000)
        work = bench.farm.work(chunk.id)
        assert work is not None and len(work.log) == 16 * 1024
        await bench.report(worker, chunk.id, "finished", output="the end")
        assert bench.post.answers[-1].data["log"].endswith("xthe end")
        assert work.log == ""

    started(main)


# Who calls


def test_a_worker_is_known_by_number_name_or_address() -> None:
    async def main(bench: Bench) -> None:
        worker = await bench.worker("a")
        digits = await bench.worker("77")
        for identity in (Identity(worker_id=worker.id), Identity(worker="a"), Identity(hostname="a"),
                         Identity(hostname="a", port=5000), Identity(worker=str(worker.id))):  # fmt: skip
            assert bench.farm.identify(identity, "192.0.2.9") is worker
        assert bench.farm.identify(Identity(worker="77"), "") is digits
        bench.farm.workers.heard(worker, bench.now)
        assert bench.farm.identify(Identity(), "192.0.2.1") is worker, "it called last"
        for identity in (Identity(worker_id=99), Identity(worker="b"), Identity(hostname="a", port=1), Identity(),
                         Identity(worker="9" * 128), Identity(worker="²")):  # fmt: skip
            with pytest.raises(Forbidden, match="not registered"):
                bench.farm.identify(identity, "192.0.2.9")

    started(main)


def test_there_are_no_more_workers_than_may_be(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers_module, "MAX_WORKERS", 3)

    async def main(bench: Bench) -> None:
        workers = [await bench.worker(name) for name in "abc"]
        with pytest.raises(Conflict):
            await bench.worker("d")
        assert await bench.worker("a") is workers[0], "who is known may come again"
        await bench.order(workers[1], "disabled")
        await bench.farm.remove_worker(workers[1])
        assert (await bench.worker("d")).id == 4

    started(main)


def test_of_tasks_that_are_gone_only_the_last_are_remembered() -> None:
    async def main(bench: Bench) -> None:
        worker = await bench.worker("a")
        bench.task(1_000_000, chunks=MAX_GONE + 5)
        for number in range(1, MAX_GONE + 6):
            assert await bench.take(worker) == 1_000_000 + number
            bench.farm.abort(bench.post.requests[1_000_000 + number])
        bench.farm.forget_task(1_000_000)
        assert "deleted" in await refused(bench.report(worker, 1_000_000 + MAX_GONE))
        assert "not given" in await refused(bench.report(worker, 1_000_001))
        assert bench.store.count(WORK) == 0

    started(main)


# Restarts


def test_a_restart_keeps_who_has_what_who_failed_and_who_is_disabled() -> None:
    async def main(bench: Bench) -> None:
        held, failed, offered = bench.task(100, chunks=3)
        a, b, c = [await bench.worker(name) for name in "abc"]
        assert (await bench.take(a), await bench.take(b)) == (held.id, failed.id)
        await bench.report(b, failed.id, "failed")
        await bench.order(c, "disabled")
        again = await bench.restart()
        a, b, c = (again.farm.workers.get(worker.id) for worker in (a, b, c))
        await again.report(a, held.id)
        assert await again.take(a) == held.id
        assert "disabled" in await refused(again.farm.give(c))
        assert await again.take(b) == offered.id, "it failed at the other one, and a is there"
        await again.report(a, held.id, "finished")
        assert await again.take(a) == failed.id
        assert again.post.final == [(held.id, 200)]
        assert held.attempt == 1
        await again.farm.close()

    started(main)


def test_after_a_restart_workers_have_the_time_to_call() -> None:
    async def main(bench: Bench) -> None:
        (chunk,) = bench.task(100)
        worker = await bench.worker("a")
        await bench.take(worker)
        bench.now += 10 * PATIENCE
        again = await bench.restart()
        await again.pass_time(PATIENCE - 1)
        await again.report(again.farm.workers.get(worker.id), chunk.id)
        await again.farm.close()

    started(main)


def test_what_ended_while_nobody_was_there_is_taken_away() -> None:
    async def main(bench: Bench) -> None:
        (chunk,) = bench.task(100)
        worker = await bench.worker("a")
        await bench.take(worker)
        chunk.is_out = False
        again = await bench.restart()
        worker = again.farm.workers.get(worker.id)
        assert "ended while the manager was not there" in await refused(again.report(worker, chunk.id))
        assert await again.take(worker) is None
        await again.farm.close()

    started(main)


def test_a_kill_between_the_farm_and_the_engine_leaves_the_chunk_on_offer() -> None:
    async def main(bench: Bench) -> None:
        (chunk,) = bench.task(100)
        worker = await bench.worker("a")
        await bench.take(worker)

        async def killed(answer: Answer) -> Verdict:
            raise asyncio.CancelledError

        bench.post.answer = killed  # type: ignore[method-assign]
        with suppress(asyncio.CancelledError):
            await bench.report(worker, chunk.id, "aborted")
        del bench.post.answer
        again = await bench.restart()
        assert await again.take(again.farm.workers.get(worker.id)) == chunk.id
        await again.farm.close()

    started(main)


# A store that can't write


def test_nothing_is_given_while_the_store_can_not_write() -> None:
    async def main(bench: Bench) -> None:
        (chunk,) = bench.task(100)
        worker = await bench.worker("a")
        bench.store.failing = "the disk is full"
        for _ in range(2):
            with pytest.raises(StoreUnavailable):
                await bench.farm.give(worker)
        assert bench.post.accepted_attempts == []
        assert bench.store.reopen().count(WORK) == 0
        bench.store.failing = None
        assert await bench.take(worker) == chunk.id
        assert bench.store.reopen().count(WORK) == 1

    started(main)


def test_what_can_not_be_stored_is_told_again() -> None:
    async def main(bench: Bench) -> None:
        (chunk,) = bench.task(100)
        worker, other = await bench.worker("a"), await bench.worker("b")
        await bench.take(worker)
        bench.post.unavailable = "the disk is full"
        for status in ("rendering", "finished", "failed"):
            with pytest.raises(StoreUnavailable):
                await bench.report(worker, chunk.id, status)
        with pytest.raises(StoreUnavailable):
            await bench.farm.give(other)
        assert bench.post.answers == []
        bench.post.unavailable = ""
        bench.store.failing = "the disk is full"
        with pytest.raises(StoreUnavailable):
            await bench.report(worker, chunk.id, "failed")
        bench.store.failing = None
        assert await bench.take(other) == chunk.id, "it is on offer again"
        await bench.report(other, chunk.id, "finished")
        assert bench.post.final == [(chunk.id, 200)]

    started(main)


def test_silence_is_looked_for_again_when_the_store_can_write() -> None:
    async def main(bench: Bench) -> None:
        (chunk,) = bench.task(100)
        silent, other = await bench.worker("a"), await bench.worker("b")
        await bench.take(silent)
        bench.store.failing = "the disk is full"
        await bench.pass_time(PATIENCE + 1)
        bench.store.failing = None
        await bench.pass_time(1)
        assert await bench.take(other) == chunk.id

    started(main)


# Tasks


class Service:
    """As much of the service as tasks need."""

    def __init__(self) -> None:
        self.jobs: dict[int, dict[str, Any]] = {}
        self.listener: Callable[[Change, int, Any], None] = lambda change, job, document: None
        self.failing = ""

    def has_job(self, job_id: int) -> bool:
        return job_id in self.jobs

    def listen(self, listener: Callable[[Change, int, Any], None]) -> None:
        self.listener = listener

    async def create_job(self, document: dict[str, Any]) -> dict[str, Any]:
        if self.failing:
            raise StoreUnavailable(self.failing)
        job_id = max(self.jobs, default=900) + 100
        self.jobs[job_id] = {"id": job_id, "status": "dispatching", "priority": document["priority"], "errorCount": 0}
        return self.jobs[job_id]

    async def show_job(self, job_id: int, query: Any) -> dict[str, Any]:
        return self.jobs[job_id]

    async def remove_job(self, job_id: int) -> dict[str, Any]:
        job = {**self.jobs.pop(job_id), "status": "canceled"}
        self.listener(Change.REMOVED, job_id, None)
        return job


def with_tasks(main: Callable[[Tasks, Service, list[int], Bench], Coroutine[Any, Any, None]]) -> None:
    async def inside() -> None:
        bench, service, unneeded = Bench(), Service(), []
        tasks = Tasks(service=service, farm=bench.farm, store=bench.store, plugins=Plugins(),  # type: ignore[arg-type]
                      unneeded=unneeded.append)  # fmt: skip
        await main(tasks, service, unneeded, bench)

    asyncio.run(inside())  # compilers run in threads: no clock of ours


def new_task(**more: Any) -> Any:
    return read_new_task({"type": "shell", "settings": {"command": "true"}, **more})


def test_files_are_kept_before_a_task_is_made_and_until_the_last_of_their_job_is_removed() -> None:
    async def main(tasks: Tasks, service: Service, unneeded: list[int], bench: Bench) -> None:
        seen: list[int] = []

        async def keep() -> None:
            assert tasks.needs(7)
            seen.append(len(service.jobs))

        first = await tasks.create(new_task(job_id=7), keep)
        second = await tasks.create(new_task(job_id=7), keep)
        assert seen == [0, 1]
        await tasks.remove(first["id"])
        assert (unneeded, tasks.needs(7)) == ([], True)
        await tasks.remove(second["id"])
        assert (unneeded, tasks.needs(7)) == ([7], False)

    with_tasks(main)


@pytest.mark.parametrize("why", ["type", "settings", "store", "files"])
def test_a_task_that_is_not_made_leaves_no_files(why: str) -> None:
    async def main(tasks: Tasks, service: Service, unneeded: list[int], bench: Bench) -> None:
        kept: list[None] = []

        async def keep() -> None:
            kept.append(None)
            if why == "files":
                raise OSError("the disk is full")

        fields: dict[str, Any] = {"type": {"type": "nope"}, "settings": {"settings": {}}}.get(why, {})
        service.failing = "the disk is full" if why == "store" else ""
        with pytest.raises((InvalidDocument, OSError)):
            await tasks.create(new_task(job_id=7, **fields), keep)
        assert bool(kept) is (why in ("store", "files"))
        assert unneeded == ([7] if kept else [])
        assert not tasks.needs(7)
        assert (service.jobs, bench.store.count(TASKS)) == ({}, 0)

    with_tasks(main)


def test_tasks_that_were_removed_while_nobody_was_there_are_forgotten() -> None:
    async def main(tasks: Tasks, service: Service, unneeded: list[int], bench: Bench) -> None:
        kept, removed = [(await tasks.create(new_task(job_id=number)))["id"] for number in (7, 8)]
        del service.jobs[removed]
        gone: list[int] = []
        again = Tasks(service=service, farm=Bench().farm, store=bench.store, plugins=Plugins(),  # type: ignore[arg-type]
                      unneeded=gone.append)  # fmt: skip
        assert (again.ids, gone) == ([kept], [8])
        assert again.needs(7) and not again.needs(8)
        with pytest.raises(TaskNotFound):
            await again.show(removed)

    with_tasks(main)


def test_no_more_chunks_wait_than_may(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("puppetmaster.farm.tasks.MAX_WAITING", 3)

    async def main(tasks: Tasks, service: Service, unneeded: list[int], bench: Bench) -> None:
        await tasks.create(new_task())
        bench.task(100, chunks=3)
        with pytest.raises(Conflict):
            await tasks.create(new_task())

    with_tasks(main)


def test_a_registration_is_known_when_its_worker_is() -> None:
    async def main(bench: Bench) -> None:
        await bench.worker("a")
        assert bench.farm.knows(Registration(hostname="a"))
        assert not bench.farm.knows(Registration(hostname="a", port=5001))

    started(main)
