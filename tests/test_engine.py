"""The engine's rules, one by one, on a clock of our own and with scripted answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from random import Random
from typing import Any

import orjson
import pytest

from puppetmaster import documents
from puppetmaster.effects import Change, Effects, Verdict
from puppetmaster.engine import Engine
from puppetmaster.errors import Conflict, IllegalTransition, JobNotFound, KeyConflict, RequestNotFound
from puppetmaster.job_document import JobReader
from puppetmaster.models import FIRST_ID, Job, JobSpec, Limits, Message, Request
from puppetmaster.policies import AbortThreshold, Rate, Retention, RetryPolicy
from puppetmaster.states import JobStatus, RequestStatus
from puppetmaster.window import MAX_WINDOW

S, J = RequestStatus, JobStatus
NO_RETRY = RetryPolicy(limit=0)
START = 1_000.0


class Disk:
    """What the effects said to save, as JSON: the model of a store."""

    def __init__(self) -> None:
        self.jobs: dict[int, bytes] = {}
        self.messages: dict[int, bytes] = {}
        self.requests: dict[int, bytes] = {}

    def save(self, effects: Effects) -> None:
        """Do what the service does with its store."""
        for job in effects.jobs.values():
            self.jobs[job.id] = orjson.dumps(documents.job_to_document(job))
        for request in effects.requests.values():
            self.requests[request.id] = orjson.dumps(documents.request_to_document(request))
        for job in effects.removed:
            self.jobs.pop(job.id, None)
            self.messages.pop(job.id, None)
            for request_id in job.request_ids:
                self.requests.pop(request_id, None)
        for job_id, (change, job) in effects.changes.items():
            if change is Change.CREATED:
                self.messages[job_id] = orjson.dumps(documents.messages_to_document(job))

    def restore(self, engine: Engine, next_id: int, now: float) -> None:
        """Give an engine what a bundle finds after its start."""
        jobs = {
            job_id: documents.job_from_document(job_id, orjson.loads(body), orjson.loads(self.messages[job_id]))
            for job_id, body in self.jobs.items()
        }
        requests = [
            documents.request_from_document(request_id, orjson.loads(self.requests[request_id]), job)
            for job in jobs.values()
            if not job.is_final
            for request_id in job.request_ids
        ]
        # In any order, says the engine.
        engine.restore(reversed(list(jobs.values())), reversed(requests), next_id, now)

    def request(self, request_id: int) -> dict[str, Any]:
        """A request as it is stored."""
        document: dict[str, Any] = orjson.loads(self.requests[request_id])
        return document

    def job(self, job_id: int) -> dict[str, Any]:
        """A job as it is stored."""
        document: dict[str, Any] = orjson.loads(self.jobs[job_id])
        return document


class Run:
    """An engine, its clock, its disk, and what it sent and told."""

    def __init__(self, **options: Any) -> None:
        self.options = options
        self.now = START
        self.disk = Disk()
        self.told: list[tuple[Change, int]] = []
        self.engine = Engine(random=Random(7), **options)

    def job(
        self,
        *batch: Sequence[str],
        request_timeout: float = 60.0,
        start_at: float | None = None,
        key: str | None = None,
        fingerprint: str = "",
        **limits: Any,
    ) -> Job:
        """Submit a job: for each message, the destinations that it goes to."""
        messages = [Message(method="put", resource=f"/m/{n}", timeout=request_timeout) for n in range(len(batch))]
        spec = JobSpec(
            messages=messages,
            batch=list(enumerate(batch)),
            limits=Limits(**limits),
            start_at=start_at,
            key=key,
            fingerprint=fingerprint,
        )
        return self.engine.submit(spec, self.now)[0]

    def step(self, seconds: float = 0.0) -> list[Request]:
        """Let time pass; returns what was sent."""
        self.now += seconds
        self.engine.tick(self.now)
        effects = self.engine.drain()
        self.disk.save(effects)
        self.told += [(change, job_id) for job_id, (change, _) in effects.changes.items()]
        return [request for request, attempt in effects.sends if request.is_out and request.attempt == attempt]

    def sent(self, seconds: float = 0.0) -> list[str]:
        """Let time pass; returns where something was sent to."""
        return [request.destination for request in self.step(seconds)]

    def accept(self, *requests: Request) -> None:
        """The broker has them."""
        for request in requests:
            self.engine.accepted(request.id, request.attempt, self.now)

    def answer(self, request: Request, code: int = 200, data: Any = None) -> Verdict:
        """The request's device answers."""
        return self.engine.answer(request.destination, request.id, code, data, self.now)

    def request(self, job: Job, number: int) -> Request:
        """One of the requests of a job that has not ended."""
        return self.engine.requests[job.first_request + number]

    def restart(self, **options: Any) -> None:
        """End without a word, and begin again with what was saved."""
        next_id = self.engine.next_id
        self.options.update(options)
        self.engine = Engine(random=Random(8), **self.options)
        self.disk.restore(self.engine, next_id, self.now)

    def again(self, job: Job) -> Job:
        """The same job after a restart."""
        return self.engine.job(job.id)


def recount(run: Run, job: Job) -> dict[RequestStatus, int]:
    """The statuses of a job's requests, counted on the disk."""
    found = dict.fromkeys(RequestStatus, 0)
    for request_id in job.request_ids:
        found[RequestStatus(run.disk.request(request_id)["status"])] += 1
    return found


def counts(job: Job) -> dict[str, int]:
    """The counts of a job that are not 0."""
    assert sum(job.counts.values()) == job.total_count
    return {status.value: count for status, count in job.counts.items() if count}


# A job from end to end


def test_a_job_that_all_devices_answer_ends_resolved() -> None:
    run = Run()
    job = run.job(["a", "b", "c"])
    assert (job.status, job.reason, job.started_at) == (J.DISPATCHING, "started", START)
    out = run.step()
    assert [request.destination for request in out] == ["a", "b", "c"]
    assert counts(job) == {"created": 3}
    run.accept(*out)
    assert counts(job) == {"sent": 3}
    assert job.progress == 0
    for request in out:
        assert run.answer(request, 200, {"at": request.destination}) is Verdict.APPLIED
    assert (job.status, job.progress, job.finished_at) == (J.RESOLVED, 100, START)
    assert (job.finish_count, job.error_count, job.done_count) == (3, 0, 3)
    assert [request.result for request in out] == [{"at": "a"}, {"at": "b"}, {"at": "c"}]
    run.step()
    assert run.told == [(Change.CREATED, job.id), (Change.CHANGED, job.id)]
    assert recount(run, job) == job.counts
    assert run.engine.requests == {}
    assert run.engine.next_wake() is None or run.engine.next_wake() > run.now


def test_ids_count_up_and_a_jobs_requests_follow_its_own() -> None:
    run = Run()
    first, second = run.job(["a", "b"]), run.job(["c"])
    assert (first.id, list(first.request_ids)) == (FIRST_ID, [FIRST_ID + 1, FIRST_ID + 2])
    assert (second.id, list(second.request_ids)) == (FIRST_ID + 3, [FIRST_ID + 4])


def test_the_three_spellings_expand_to_the_same_requests() -> None:
    reader = JobReader()
    message = {"method": "put", "resource": "/x", "data": {"on": 1}}
    spellings: list[Mapping[str, Any]] = [
        {"batch": [{**message, "__request": {"destination": ["a", "b"]}}]},
        {"collection": [{**message, "__destination": ["a", "b"]}]},
        {"destinations": ["a", "b"], "message": message},
    ]
    expanded = []
    for spelling in spellings:
        run = Run()
        run.engine.submit(reader.job(spelling), run.now)
        out = run.step()
        expanded.append([(request.id, request.destination, request.message) for request in out])
    assert expanded[0] == expanded[1] == expanded[2]
    assert [destination for _, destination, _ in expanded[0]] == ["a", "b"]


def test_an_error_answer_ends_a_request_with_code_resource_and_data() -> None:
    run = Run()
    job = run.job(["a"])
    [request] = run.step()
    run.answer(request, 404, {"message": "no such resource"})
    assert request.status is S.ERROR
    assert (request.code, request.progress, request.finished_at) == (404, 100, START)
    assert request.result == {"code": 404, "resource": "/m/0", "data": {"message": "no such resource"}}
    assert (job.status, job.finish_count, job.error_count) == (J.RESOLVED, 0, 1)
    assert job.reason == "all requests ended, 1 of them without success"


@pytest.mark.parametrize("code", [200, 201, 204, 299])
def test_every_code_of_the_two_hundreds_resolves(code: int) -> None:
    run = Run()
    run.job(["a"])
    [request] = run.step()
    run.answer(request, code)
    assert (request.status, request.code) == (S.RESOLVED, code)


@pytest.mark.parametrize("code", [100, 300, 302, 400, 403, 500, 999])
def test_every_other_final_code_is_an_error(code: int) -> None:
    run = Run()
    run.job(["a"])
    [request] = run.step()
    run.answer(request, code)
    assert (request.status, request.code) == (S.ERROR, code)


def test_an_unknown_job_or_request_is_not_found() -> None:
    run = Run()
    with pytest.raises(JobNotFound):
        run.engine.job(1)
    for act in (run.engine.pause, lambda i: run.engine.cancel(i, 0), lambda i: run.engine.remove(i, 0)):
        with pytest.raises(JobNotFound):
            act(5)
    with pytest.raises(RequestNotFound):
        run.engine.cancel_request(5, run.now)


# Order


def test_a_destination_gets_its_requests_one_at_a_time_in_the_order_of_the_batch() -> None:
    run = Run()
    job = run.job(["a", "b"], ["b", "a"], ["a"])
    order: list[tuple[str, str]] = []
    while not job.is_final:
        out = run.step()
        assert len({request.destination for request in out}) == len(out)
        for request in out:
            order.append((request.destination, request.message.resource))
            run.answer(request)
    assert [resource for where, resource in order if where == "a"] == ["/m/0", "/m/1", "/m/2"]
    assert [resource for where, resource in order if where == "b"] == ["/m/0", "/m/1"]


def test_a_destination_named_twice_by_one_message_gets_it_twice_in_turn() -> None:
    run = Run()
    job = run.job(["a", "a"])
    [first] = run.step()
    assert run.step() == []
    run.answer(first)
    [second] = run.step()
    assert second.id == first.id + 1
    run.answer(second)
    assert job.status is J.RESOLVED


def test_a_failed_request_lets_the_next_one_to_its_destination_go() -> None:
    run = Run()
    run.job(["a"], ["a"])
    [first] = run.step()
    run.answer(first, 500)
    assert [request.id for request in run.step()] == [first.id + 1]


def test_two_jobs_take_turns_at_one_destination() -> None:
    run = Run()
    one, two = run.job(["a"], ["a"]), run.job(["a"], ["a"])
    order = []
    for _ in range(4):
        [request] = run.step()
        assert run.step() == []
        order.append(request.job)
        run.answer(request)
    assert order == [one, two, one, two]


def test_an_answer_wakes_one_of_those_that_wait_for_its_destination_and_not_all() -> None:
    run = Run()
    jobs = [run.job(["a"]) for _ in range(50)]
    order = []
    for _ in jobs:
        [request] = run.step()
        order.append(request.job)
        run.answer(request)
        assert sum(line.runnable for job in jobs for line in job.lines) == (0 if request.job is jobs[-1] else 1)
    assert order == jobs


def test_whoever_waits_for_a_destination_and_may_not_send_lets_others_go_first() -> None:
    run = Run()
    run.job(["a"])
    [out] = run.step()
    paused = run.job(["a"])
    slow = run.job(["a", "b"], rate=Rate(per_minute=1.0))
    narrow = run.job(["a", "c"], concurrency=1)
    last = run.job(["a"])
    assert run.sent() == ["b", "c"]
    run.engine.pause(paused.id)
    run.answer(out)
    assert [request.job for request in run.step()] == [last]
    run.answer(run.request(last, 0))
    assert run.sent(1.0) == []
    run.answer(run.request(narrow, 1))
    assert [request.job for request in run.step()] == [narrow]
    run.engine.resume(paused.id, run.now)
    run.answer(run.request(narrow, 0))
    assert [request.job for request in run.step()] == [paused]
    run.answer(run.request(paused, 0))
    assert [request.job for request in run.step(59.0)] == [slow]


def test_a_job_that_is_paused_or_canceled_after_it_was_offered_a_destination_passes_it_on() -> None:
    for act in ("pause", "cancel"):
        run = Run()
        run.job(["a"])
        [out] = run.step()
        first, second = run.job(["a"]), run.job(["a"])
        run.step()
        run.answer(out)
        run.engine.pause(first.id) if act == "pause" else run.engine.cancel_request(first.first_request, run.now)
        assert [request.job for request in run.step()] == [second], act


def test_the_higher_priority_goes_first_among_those_that_wait_for_a_destination() -> None:
    run = Run()
    run.job(["a"])
    [out] = run.step()
    low, other, high = run.job(["a"], priority=10), run.job(["a"]), run.job(["a"], priority=90)
    raised = run.job(["a"], priority=20)
    run.step()
    run.engine.limit(raised.id, Limits(priority=60), run.now)
    order = []
    for _ in range(4):
        run.answer(out)
        [out] = run.step()
        order.append(out.job)
    assert order == [high, raised, other, low]


def test_a_destination_that_was_offered_to_a_canceled_request_is_passed_on_before_its_job_goes_on() -> None:
    run = Run(window=2)
    run.job(["a"])
    [out] = run.step()
    first = run.job(["a", "b", "c", "d", "e"])
    second = run.job(["a"])
    run.step()
    run.answer(run.request(first, 1))
    assert run.sent() == ["c"]
    run.answer(out)
    run.engine.cancel_request(first.first_request, run.now)
    assert run.sent() == ["d"]
    run.answer(run.request(first, 2))
    assert [request.job for request in run.step()] == [second]


def test_a_job_of_a_new_priority_need_not_wait_for_one_that_was_offered_its_destination_before() -> None:
    run = Run(window=2)
    run.job(["a"])
    [out] = run.step()
    run.job(["a"], priority=10)
    raised = run.job(["a"], priority=9)
    run.step()
    many = run.job([f"d{n}" for n in range(9)])
    run.step()
    run.answer(out)
    assert run.sent() == ["d1"]
    run.engine.limit(raised.id, Limits(priority=90), run.now)
    run.answer(run.request(many, 0))
    assert [request.job for request in run.step()] == [raised]


def test_a_busy_destination_does_not_hold_up_a_jobs_other_destinations() -> None:
    run = Run()
    run.job(["a"])
    run.step()
    run.job(["a", "b", "c"])
    assert run.sent() == ["b", "c"]


# The window, concurrency, fairness, priority


def test_no_more_than_the_window_is_out_and_each_answer_lets_one_follow() -> None:
    run = Run(window=3)
    run.job([f"d{n}" for n in range(10)])
    out = run.step()
    assert len(out) == run.engine.out_count == 3
    assert run.step() == []
    run.answer(out[0])
    assert len(run.step()) == 1
    assert run.engine.out_count == 3


def test_the_window_never_goes_over_what_a_broker_queues() -> None:
    assert Engine(window=5_000)._window.size == MAX_WINDOW == 1_000


def test_concurrency_limits_one_job_and_not_the_other() -> None:
    run = Run(window=10)
    limited = run.job([f"x{n}" for n in range(5)], concurrency=2)
    run.job([f"y{n}" for n in range(5)])
    out = run.step()
    assert sum(request.job is limited for request in out) == limited.out_count == 2
    assert len(out) == 7
    run.answer(next(request for request in out if request.job is limited))
    assert [request.job for request in run.step()] == [limited]


def test_jobs_of_one_priority_share_the_window_in_turn() -> None:
    run = Run(window=4)
    jobs = [run.job([f"{name}{n}" for n in range(10)]) for name in "xyz"]
    out: list[Request] = []
    for _ in range(6):
        fresh = run.step()
        out += fresh
        for request in fresh:
            run.answer(request)
    served = [sum(request.job is job for request in out) for job in jobs]
    assert sum(served) == 24
    assert max(served) - min(served) <= 1


def test_a_small_job_is_not_kept_waiting_by_a_large_one() -> None:
    run = Run(window=2)
    run.job([f"big{n}" for n in range(1_000)])
    first = run.step()
    small = run.job(["s1", "s2"])
    for request in first:
        run.answer(request)
    second = run.step()
    assert sum(request.job is small for request in second) == 1


def test_a_higher_priority_goes_first() -> None:
    run = Run(window=1)
    low, high = run.job(["a", "b"], priority=10), run.job(["c", "d"], priority=90)
    order = []
    for _ in range(4):
        [request] = run.step()
        order.append(request.job)
        run.answer(request)
    assert order == [high, high, low, low]


def test_a_job_of_high_priority_that_may_not_send_does_not_hold_up_others() -> None:
    run = Run(window=5)
    high = run.job(["a", "b", "c"], priority=90, concurrency=1)
    run.job(["d", "e"], priority=10)
    assert run.sent() == ["a", "d", "e"]
    run.engine.pause(high.id)
    run.answer(run.request(high, 0))
    assert run.step() == []


# Timeouts


def test_a_request_without_an_answer_times_out() -> None:
    run = Run()
    job = run.job(["a"], request_timeout=5.0, retry=NO_RETRY)
    [request] = run.step()
    assert run.engine.next_wake() == START + 5.0
    run.step(4.9)
    assert not request.is_final
    run.step(0.1)
    assert (request.status, request.reason) == (S.TIMEOUT, "no answer within 5 s")
    assert (request.code, request.result, request.finished_at) == (None, None, START + 5.0)
    assert (job.status, job.error_count, run.engine.out_count) == (J.RESOLVED, 1, 0)


def test_each_attempt_has_its_own_time() -> None:
    run = Run()
    retry = RetryPolicy(limit=1, delay=10.0, jitter=0.0, on=frozenset({"timeout"}))
    run.job(["a"], request_timeout=5.0, retry=retry)
    [request] = run.step()
    assert run.sent(5.0) == []
    assert (request.status, request.attempt) == (S.CREATED, 1)
    assert run.sent(10.0) == ["a"]
    run.step(4.9)
    assert not request.is_final
    run.step(0.1)
    assert (request.status, request.attempt) == (S.TIMEOUT, 2)


def test_a_time_out_lets_the_next_request_to_the_destination_go() -> None:
    run = Run()
    run.job(["a"], ["a"], request_timeout=5.0, retry=NO_RETRY)
    run.step()
    assert run.sent(5.0) == ["a"]


def test_requests_do_not_time_out_before_they_are_sent() -> None:
    run = Run(window=1)
    job = run.job(["a", "b"], request_timeout=5.0, retry=NO_RETRY)
    run.step()
    run.step(5.0)
    assert [run.request(job, n).status for n in (0, 1)] == [S.TIMEOUT, S.CREATED]
    assert run.request(job, 1).is_out


def test_a_jobs_deadline_ends_it_and_all_its_requests() -> None:
    run = Run(window=1)
    job = run.job(["a", "b", "c"], timeout=30.0)
    [first] = run.step()
    run.answer(first)
    [second] = run.step(1.0)
    run.step(28.9)
    assert job.status is J.DISPATCHING
    run.step(0.1)
    assert (job.status, job.reason) == (J.TIMEOUT, "not done within 30 s")
    assert counts(job) == {"resolved": 1, "timeout": 2}
    assert (job.progress, run.engine.out_count) == (100, 0)
    assert "not done within 30 s" in second.reason
    assert recount(run, job) == job.counts


def test_a_jobs_time_begins_with_its_start() -> None:
    run = Run()
    job = run.job(["a"], timeout=10.0, start_at=START + 100.0)
    run.step(50.0)
    assert job.deadline is None
    run.step(50.0)
    assert (job.status, job.deadline) == (J.DISPATCHING, START + 110.0)


def test_a_paused_job_runs_into_its_deadline_all_the_same() -> None:
    run = Run()
    job = run.job(["a"], timeout=10.0)
    run.engine.pause(job.id)
    run.step(10.0)
    assert job.status is J.TIMEOUT


# Retries


def test_a_transient_answer_is_tried_again_with_the_same_id_after_a_growing_delay() -> None:
    run = Run()
    retry = RetryPolicy(limit=2, delay=1.0, factor=3.0, jitter=0.0)
    job = run.job(["a"], retry=retry)
    [request] = run.step()
    run.accept(request)
    run.answer(request, 423)
    assert (request.status, request.progress) == (S.CREATED, 0)
    assert request.reason == "answered 423, attempt 2 follows in 1.0 s"
    assert counts(job) == {"created": 1}
    assert run.sent(0.9) == []
    [again] = run.step(0.1)
    assert (again.id, again.attempt) == (request.id, 2)
    run.answer(again, 503)
    assert run.sent(2.9) == []
    assert [again.attempt for again in run.step(0.1)] == [3]
    run.answer(request, 423, {"message": "locked"})
    assert (request.status, request.code, job.status) == (S.ERROR, 423, J.RESOLVED)


def test_delays_are_jittered_within_their_bounds_and_differ() -> None:
    run = Run()
    job = run.job([f"d{n}" for n in range(50)], retry=RetryPolicy(delay=10.0, jitter=0.5))
    for request in run.step():
        run.answer(request, 503)
    waits = [run.request(job, n).retry_at - run.now for n in range(50)]
    assert all(5.0 < wait <= 10.0 for wait in waits)
    assert len(set(waits)) == 50


def test_a_request_that_waits_for_its_next_attempt_leaves_its_place_to_others() -> None:
    run = Run(window=1)
    run.job(["a"], retry=RetryPolicy(delay=100.0))
    [request] = run.step()
    run.job(["b"])
    run.answer(request, 503)
    assert run.sent() == ["b"]


def test_another_job_may_use_the_destination_between_two_attempts() -> None:
    run = Run()
    run.job(["a"], retry=RetryPolicy(delay=10.0, jitter=0.0))
    [first] = run.step()
    other = run.job(["a"])
    run.step()
    run.answer(first, 423)
    [second] = run.step()
    assert second.job is other
    assert run.sent(10.0) == []
    run.answer(second)
    assert [request.id for request in run.step()] == [first.id]


def test_a_403_that_says_the_id_is_in_use_is_tried_again_and_another_403_is_final() -> None:
    run = Run()
    run.job(["a", "b"])
    busy, forbidden = run.step()
    run.answer(busy, 403, {"message": "'id' was used."})
    run.answer(forbidden, 403, {"message": "not you"})
    assert busy.status is S.CREATED
    assert forbidden.status is S.ERROR


def test_only_what_a_job_names_is_tried_again() -> None:
    run = Run()
    run.job(["a", "b", "c"], request_timeout=5.0, retry=RetryPolicy(on=frozenset({500})))
    first, second, third = run.step()
    run.answer(first, 500)
    run.answer(second, 503)
    run.step(5.0)
    assert [first.attempt, first.is_final] == [2, False]
    assert (second.status, third.status) == (S.ERROR, S.TIMEOUT)


def test_a_transient_answer_to_an_attempt_that_is_over_changes_nothing() -> None:
    run = Run()
    run.job(["a"], retry=RetryPolicy(delay=10.0, jitter=0.0))
    [request] = run.step()
    run.answer(request, 423)
    assert run.answer(request, 423) is Verdict.DUPLICATE
    assert request.attempt == 1
    assert run.sent(10.0) == ["a"]


def test_a_final_answer_to_an_earlier_attempt_is_as_good_as_any() -> None:
    run = Run()
    job = run.job(["a"], retry=RetryPolicy(delay=10.0, jitter=0.0))
    [request] = run.step()
    run.answer(request, 423)
    assert run.answer(request, 200, "done") is Verdict.APPLIED
    assert (request.status, request.result, job.status) == (S.RESOLVED, "done", J.RESOLVED)
    assert run.sent(20.0) == []


def test_a_silent_device_is_tried_again_when_the_job_says_so() -> None:
    run = Run()
    retry = RetryPolicy(limit=1, delay=1.0, jitter=0.0, on=frozenset({"timeout"}))
    run.job(["a"], request_timeout=5.0, retry=retry)
    [request] = run.step()
    run.step(5.0)
    assert request.reason == "no answer within 5 s, attempt 2 follows in 1.0 s"
    assert run.sent(1.0) == ["a"]


# Rates


def test_a_constant_rate_lets_one_request_go_at_each_interval() -> None:
    run = Run()
    run.job([f"d{n}" for n in range(4)], rate=Rate(per_minute=30))
    assert run.sent() == ["d0"]
    assert run.engine.next_wake() == START + 2.0
    assert run.sent(1.9) == []
    assert run.sent(0.1) == ["d1"]
    assert run.sent(2.0) == ["d2"]


def test_a_growing_rate_grows_with_what_resolved_and_not_with_what_failed() -> None:
    run = Run()
    run.job([f"d{n}" for n in range(9)], rate=Rate(per_minute=60, factor=2.0, every=2, maximum=240))
    intervals = []
    [request] = run.step()
    for number in range(6):
        run.answer(request, 500 if number == 2 else 200)
        before = run.now
        request = _next_sent(run)
        intervals.append(run.now - before)
    # An interval is fixed when the request before it goes out.
    assert intervals == [1.0, 1.0, 0.5, 0.5, 0.5, 0.25]


def _next_sent(run: Run) -> Request:
    for _ in range(20):
        out = run.step()
        if out:
            return out[0]
        wake = run.engine.next_wake()
        assert wake is not None
        run.now = max(run.now, wake)
    raise AssertionError("nothing was sent")


def test_a_rate_does_not_catch_up_in_a_burst_after_a_pause() -> None:
    run = Run()
    job = run.job([f"d{n}" for n in range(9)], rate=Rate(per_minute=60))
    run.step()
    run.engine.pause(job.id)
    run.step(100.0)
    run.engine.resume(job.id, run.now)
    assert len(run.step()) == 1
    assert len(run.step(1.0)) == 1


def test_a_rate_of_one_job_does_not_slow_another() -> None:
    run = Run()
    run.job([f"x{n}" for n in range(3)], rate=Rate(per_minute=1))
    run.job(["y0", "y1"])
    assert run.sent() == ["x0", "y0", "y1"]


def test_a_fast_rate_is_reached_although_the_engine_is_woken_seldom() -> None:
    run = Run()
    run.job([f"d{n}" for n in range(200)], rate=Rate(per_minute=60_000))
    sent = 0
    for _ in range(10):  # ten looks in a tenth of a second: about 100 requests are due
        sent += len(run.step(0.01))
    assert sent >= 90


# Abort


def test_a_job_gives_up_when_too_many_failed_and_cancels_the_rest() -> None:
    run = Run(window=4)
    job = run.job([f"d{n}" for n in range(10)], abort=AbortThreshold(error_percent=50, minimum=4))
    out = run.step()
    run.answer(out[0], 500)
    run.answer(out[1], 500)
    run.answer(out[2], 200)
    assert job.status is J.DISPATCHING
    run.answer(out[3], 200)
    assert (job.status, job.reason) == (J.ABORTED, "2 of 4 ended requests failed")
    assert counts(job) == {"resolved": 2, "error": 2, "canceled": 6}
    assert job.progress == 100
    assert run.step() == []


def test_timeouts_count_towards_the_threshold_and_canceled_requests_do_not() -> None:
    run = Run()
    job = run.job(["a", "b", "c"], request_timeout=5.0, retry=NO_RETRY, abort=AbortThreshold(error_percent=50))
    out = run.step()
    run.engine.cancel_request(out[0].id, run.now)
    assert job.status is J.DISPATCHING
    run.step(5.0)
    assert job.status is J.ABORTED


def test_a_job_whose_last_request_fails_is_finished_and_not_aborted() -> None:
    run = Run()
    job = run.job(["a"], abort=AbortThreshold(error_percent=1))
    [request] = run.step()
    run.answer(request, 500)
    assert job.status is J.RESOLVED


# Start time


def test_a_job_waits_for_its_start_time() -> None:
    run = Run()
    job = run.job(["a"], start_at=START + 60.0)
    assert (job.status, job.reason, job.started_at) == (J.PENDING, "waits for its start time", None)
    assert run.engine.next_wake() == START + 60.0
    assert run.sent(59.0) == []
    assert run.sent(1.0) == ["a"]
    assert (job.status, job.reason, job.started_at) == (J.DISPATCHING, "its start time came", START + 60.0)


def test_a_start_time_in_the_past_starts_at_once() -> None:
    run = Run()
    assert run.job(["a"], start_at=START - 1.0).status is J.DISPATCHING


def test_a_caller_can_start_a_waiting_job_before_its_time() -> None:
    run = Run()
    job = run.job(["a"], start_at=START + 60.0)
    run.engine.resume(job.id, run.now)
    assert (job.status, job.reason) == (J.DISPATCHING, "started by a caller before its start time")
    assert run.sent() == ["a"]


def test_a_job_paused_before_its_start_time_waits_for_a_caller_even_after_it() -> None:
    run = Run()
    job = run.job(["a"], start_at=START + 60.0)
    run.engine.pause(job.id)
    assert run.sent(100.0) == []
    run.engine.resume(job.id, run.now)
    assert run.sent() == ["a"]


def test_a_job_paused_and_resumed_before_its_start_time_waits_for_it_again() -> None:
    run = Run()
    job = run.job(["a"], start_at=START + 60.0)
    run.engine.pause(job.id)
    run.engine.resume(job.id, run.now)
    assert (job.status, job.reason) == (J.PENDING, "waits for its start time")
    assert run.sent(60.0) == ["a"]


def test_a_job_that_was_started_early_and_paused_goes_on_at_once_when_it_is_resumed() -> None:
    run = Run()
    job = run.job(["a", "b"], start_at=START + 3_600.0, timeout=10.0, concurrency=1)
    run.engine.resume(job.id, run.now)
    run.step()
    run.engine.pause(job.id)
    run.engine.resume(job.id, run.now)
    assert job.status is J.DISPATCHING
    run.step(10.0)
    assert job.status is J.TIMEOUT


# Idempotency keys


def test_the_same_key_and_body_give_the_same_job() -> None:
    run = Run()
    first = run.job(["a"], key="k", fingerprint="f")
    again, created = run.engine.submit(
        JobSpec(messages=first.messages, batch=[(0, ["a"])], key="k", fingerprint="f"), run.now
    )
    assert (again, created) == (first, False)
    assert len(run.engine.jobs) == 1


def test_the_same_key_with_another_body_is_a_conflict_that_names_the_job() -> None:
    run = Run()
    first = run.job(["a"], key="k", fingerprint="f")
    with pytest.raises(KeyConflict, match=str(first.id)):
        run.job(["b"], key="k", fingerprint="g")
    assert len(run.engine.jobs) == 1
    assert run.engine.next_id == first.id + 2


def test_a_key_outlives_its_jobs_end_and_a_restart_but_not_its_removal() -> None:
    run = Run()
    job = run.job(["a"], key="k", fingerprint="f")
    run.engine.cancel(job.id, run.now)
    run.step()
    run.restart()
    with pytest.raises(KeyConflict):
        run.job(["b"], key="k", fingerprint="g")
    run.engine.remove(job.id, run.now)
    assert run.job(["b"], key="k", fingerprint="g").id > job.id


# Pause and resume


def test_a_paused_job_sends_nothing_more_and_takes_what_is_out() -> None:
    run = Run()
    job = run.job(["a"], ["a"])
    [first] = run.step()
    run.engine.pause(job.id)
    assert (job.status, job.reason) == (J.PAUSED, "paused by a caller")
    run.answer(first)
    assert counts(job) == {"resolved": 1, "created": 1}
    assert run.step(10.0) == []
    run.engine.resume(job.id, run.now)
    assert (job.status, job.reason) == (J.DISPATCHING, "resumed by a caller")
    assert run.sent() == ["a"]


def test_a_paused_job_whose_last_answer_comes_is_resolved() -> None:
    run = Run()
    job = run.job(["a"])
    [request] = run.step()
    run.engine.pause(job.id)
    run.answer(request)
    assert job.status is J.RESOLVED


def test_a_paused_jobs_requests_time_out_and_its_retries_wait_for_the_resumption() -> None:
    run = Run()
    retry = RetryPolicy(limit=1, delay=1.0, jitter=0.0, on=frozenset({"timeout"}))
    job = run.job(["a"], request_timeout=5.0, retry=retry)
    run.step()
    run.engine.pause(job.id)
    assert run.sent(5.0) == []
    assert run.sent(50.0) == []
    run.engine.resume(job.id, run.now)
    assert run.sent() == ["a"]


def test_pausing_twice_and_resuming_what_runs_change_nothing() -> None:
    run = Run()
    job = run.job(["a"])
    run.engine.resume(job.id, run.now)
    assert (job.status, job.reason) == (J.DISPATCHING, "started")
    run.engine.pause(job.id)
    run.step()
    run.told.clear()
    run.engine.pause(job.id)
    run.step()
    assert run.told == []


@pytest.mark.parametrize("act", ["pause", "resume", "cancel"])
def test_what_has_ended_can_not_be_paused_resumed_or_canceled(act: str) -> None:
    run = Run()
    job = run.job(["a"])
    [request] = run.step()
    run.answer(request)
    before = documents.job_to_document(job)
    with pytest.raises(IllegalTransition):
        run.engine.pause(job.id) if act == "pause" else getattr(run.engine, act)(job.id, run.now)
    assert documents.job_to_document(job) == before


# Progress


def test_a_progress_report_moves_a_request_and_its_jobs_mean() -> None:
    run = Run()
    job = run.job(["a", "b"])
    first, _ = run.step()
    assert run.answer(first, 102, {"progress": 50}) is Verdict.APPLIED
    assert (first.status, first.progress, first.reason) == (S.RUNNING, 50, "the device reported 50 %")
    assert job.progress == 25
    run.answer(first, 102, {"progress": 80.9})
    assert (first.progress, job.progress) == (80, 40)
    run.answer(first)
    assert (first.progress, job.progress) == (100, 50)


@pytest.mark.parametrize(
    ("data", "progress"),
    [
        ({"progress": 100}, 99), ({"progress": 1e300}, 99), ({"progress": -5}, 0), ({"progress": "50"}, 0),
        ({"progress": True}, 0), ({"progress": None}, 0), ({}, 0), (None, 0), ([50], 0), ("50", 0),
    ],
)  # fmt: skip
def test_a_strange_progress_report_is_bounded_or_says_only_that_work_goes_on(data: Any, progress: int) -> None:
    run = Run()
    run.job(["a"])
    [request] = run.step()
    assert run.answer(request, 102, data) is Verdict.APPLIED
    assert (request.status, request.progress) == (S.RUNNING, progress)


def test_a_report_of_progress_does_not_put_off_the_timeout() -> None:
    run = Run()
    run.job(["a"], request_timeout=5.0, retry=NO_RETRY)
    [request] = run.step()
    run.step(4.0)
    run.answer(request, 102, {"progress": 99})
    run.step(1.0)
    assert request.status is S.TIMEOUT


def test_a_new_attempt_begins_at_no_progress() -> None:
    run = Run()
    job = run.job(["a"])
    [request] = run.step()
    run.answer(request, 102, {"progress": 70})
    run.answer(request, 503)
    assert (request.progress, job.progress) == (0, 0)
    assert run.answer(request, 102, {"progress": 10}) is Verdict.LATE
    assert request.status is S.CREATED


def test_a_jobs_progress_is_100_only_when_all_its_requests_have_ended() -> None:
    run = Run()
    job = run.job([f"d{n}" for n in range(3)])
    out = run.step()
    run.answer(out[0])
    run.answer(out[1])
    run.answer(out[2], 102, {"progress": 100})
    assert job.progress == 99
    run.answer(out[2])
    assert job.progress == 100


# Cancelling


def test_cancelling_a_job_ends_all_that_has_not_ended() -> None:
    run = Run(window=2)
    job = run.job(["a", "b", "c"], ["a"])
    out = run.step()
    run.answer(out[0])
    run.engine.cancel(job.id, run.now)
    assert (job.status, job.reason, job.finished_at) == (J.CANCELED, "canceled by a caller", START)
    assert counts(job) == {"resolved": 1, "canceled": 3}
    assert (run.engine.out_count, run.engine.requests) == (0, {})
    assert run.step() == []
    assert recount(run, job) == job.counts
    assert run.engine.cancel(job.id, run.now) is job


def test_cancelling_a_job_frees_its_destinations_for_others() -> None:
    run = Run()
    job = run.job(["a"])
    run.step()
    run.job(["a"])
    assert run.step() == []
    run.engine.cancel(job.id, run.now)
    assert run.sent() == ["a"]


def test_cancelling_the_request_that_is_out_lets_the_next_one_go() -> None:
    run = Run()
    job = run.job(["a"], ["a"])
    [first] = run.step()
    run.engine.cancel_request(first.id, run.now)
    assert (first.status, first.reason) == (S.CANCELED, "canceled by a caller")
    [second] = run.step()
    run.answer(second)
    assert counts(job) == {"canceled": 1, "resolved": 1}
    assert job.status is J.RESOLVED


def test_cancelling_a_request_in_the_middle_of_its_chain_leaves_the_order_of_the_others() -> None:
    run = Run()
    job = run.job(["a"], ["a"], ["a"])
    [first] = run.step()
    run.engine.cancel_request(first.id + 1, run.now)
    assert run.step() == []
    run.answer(first)
    [third] = run.step()
    assert third.id == first.id + 2
    run.answer(third)
    assert job.status is J.RESOLVED


def test_cancelling_a_request_that_waits_for_another_jobs_turn_lets_its_follower_take_its_place() -> None:
    run = Run()
    run.job(["a"])
    [first] = run.step()
    job = run.job(["a"], ["a"])
    run.step()
    run.engine.cancel_request(job.first_request, run.now)
    run.step()
    run.answer(first)
    assert [request.id for request in run.step()] == [job.first_request + 1]


def test_cancelling_a_request_that_waits_for_its_next_attempt_drops_the_attempt() -> None:
    run = Run()
    job = run.job(["a", "b"], retry=RetryPolicy(delay=1.0))
    first, _ = run.step()
    run.answer(first, 503)
    run.engine.cancel_request(first.id, run.now)
    assert run.step(10.0) == []
    assert counts(job) == {"canceled": 1, "created": 1}


def test_cancelling_all_requests_one_by_one_ends_the_job_even_before_its_start() -> None:
    run = Run()
    job = run.job(["a", "b"], start_at=START + 60.0)
    for request_id in job.request_ids:
        run.engine.cancel_request(request_id, run.now)
    assert (job.status, job.error_count) == (J.RESOLVED, 2)


def test_a_request_that_is_canceled_can_be_canceled_again() -> None:
    run = Run()
    job = run.job(["a", "b"])
    for _ in range(2):
        assert run.engine.cancel_request(job.first_request, run.now).status is S.CANCELED
    assert counts(job) == {"canceled": 1, "created": 1}


def test_cancelling_a_request_that_has_ended_is_illegal_and_changes_nothing() -> None:
    run = Run()
    run.job(["a", "b"])
    first, _ = run.step()
    run.answer(first, 200, {"kept": True})
    before = documents.request_to_document(first)
    run.now += 5.0
    with pytest.raises(IllegalTransition):
        run.engine.cancel_request(first.id, run.now)
    assert documents.request_to_document(first) == before


# Removing


def test_removing_a_job_cancels_and_forgets_it() -> None:
    run = Run()
    job = run.job(["a", "b"], key="k")
    run.step()
    assert run.engine.remove(job.id, run.now).status is J.CANCELED
    run.step()
    assert run.told[-1] == (Change.REMOVED, job.id)
    assert (run.engine.jobs, run.engine.requests, run.engine.out_count) == ({}, {}, 0)
    assert (run.disk.jobs, run.disk.requests, run.disk.messages) == ({}, {}, {})


def test_a_job_made_and_removed_before_it_was_saved_leaves_nothing_to_save() -> None:
    run = Run()
    job = run.job(["a"])
    run.engine.remove(job.id, run.now)
    effects = run.engine.drain()
    assert (effects.jobs, effects.requests, [job.id for job in effects.removed]) == ({}, {}, [job.id])
    assert {job_id: change for job_id, (change, _) in effects.changes.items()} == {job.id: Change.REMOVED}


def test_a_job_that_could_not_be_saved_is_taken_back_and_nobody_is_told() -> None:
    run = Run()
    job = run.job(["a", "b"], key="k")
    for step_first in (False, True):
        if step_first:
            run.step()
            run.told.clear()
        run.engine.revoke(job.id, run.now)
        assert run.step() == []
        assert run.told == []
        assert (run.engine.jobs, run.engine.requests, run.engine.out_count) == ({}, {}, 0)
        assert (run.disk.jobs, run.disk.requests, run.disk.messages) == ({}, {}, {})
        job = run.job(["a", "b"], key="k")


def test_an_answer_to_a_removed_job_is_unknown() -> None:
    run = Run()
    job = run.job(["a"])
    [request] = run.step()
    run.engine.remove(job.id, run.now)
    assert run.answer(request) is Verdict.UNKNOWN


# Limits that change while a job runs


def test_concurrency_can_be_raised_and_lowered_while_a_job_runs() -> None:
    run = Run()
    job = run.job([f"d{n}" for n in range(9)], concurrency=1)
    out = run.step()
    run.engine.limit(job.id, Limits(concurrency=3), run.now)
    out += run.step()
    assert len(out) == 3
    run.engine.limit(job.id, Limits(concurrency=1), run.now)
    run.answer(out[0])
    run.answer(out[1])
    assert run.step() == []
    run.answer(out[2])
    assert len(run.step()) == 1


def test_a_rate_can_be_given_changed_and_taken_away() -> None:
    run = Run()
    job = run.job([f"d{n}" for n in range(9)], rate=Rate(per_minute=1), concurrency=20)
    run.step()
    assert run.step(1.0) == []
    run.engine.limit(job.id, Limits(rate=Rate(per_minute=60)), run.now)
    assert len(run.step()) == 1
    assert len(run.step(1.0)) == 1
    run.engine.limit(job.id, Limits(), run.now)
    assert len(run.step()) == 6


def test_a_priority_can_be_changed_while_a_job_runs() -> None:
    run = Run(window=1)
    one, two = run.job(["a", "b", "c"]), run.job(["d", "e"])
    [first] = run.step()
    run.engine.limit(two.id, Limits(priority=99), run.now)
    run.answer(first)
    for _ in range(2):
        [request] = run.step()
        assert request.job is two
        run.answer(request)
    [request] = run.step()
    assert request.job is one


def test_a_deadline_can_be_moved_forward_and_back() -> None:
    run = Run()
    job = run.job(["a"], timeout=10.0)
    run.step()
    run.engine.limit(job.id, Limits(timeout=100.0), run.now)
    run.step(20.0)
    assert job.status is J.DISPATCHING
    run.engine.limit(job.id, Limits(timeout=15.0), run.now)
    run.step()
    assert job.status is J.TIMEOUT


def test_the_limits_of_an_ended_job_can_not_change() -> None:
    run = Run()
    job = run.job(["a"])
    run.engine.cancel(job.id, run.now)
    with pytest.raises(Conflict):
        run.engine.limit(job.id, Limits(), run.now)


def test_changed_limits_are_saved_and_told() -> None:
    run = Run()
    job = run.job(["a"])
    run.step()
    run.told.clear()
    run.engine.limit(job.id, Limits(priority=7, abort=AbortThreshold(error_percent=5)), run.now)
    run.step()
    assert run.told == [(Change.CHANGED, job.id)]
    run.restart()
    assert run.again(job).limits == job.limits


# Answers that change nothing


def test_a_second_answer_is_a_duplicate() -> None:
    run = Run()
    job = run.job(["a", "b"])
    first, _ = run.step()
    run.answer(first, 200, 1)
    assert run.answer(first, 500, 2) is Verdict.DUPLICATE
    assert (first.status, first.result, counts(job)) == (S.RESOLVED, 1, {"resolved": 1, "created": 1})


def test_an_answer_after_the_timeout_or_the_cancel_is_late() -> None:
    run = Run()
    run.job(["a", "b", "c"], request_timeout=5.0, retry=NO_RETRY, concurrency=2)
    silent, canceled = run.step()
    run.engine.cancel_request(canceled.id, run.now)
    run.step(5.0)
    assert run.answer(silent) is Verdict.LATE
    assert run.answer(canceled) is Verdict.LATE
    assert (silent.status, canceled.status) == (S.TIMEOUT, S.CANCELED)


def test_an_answer_to_a_job_that_has_ended_is_late() -> None:
    run = Run()
    other = run.job(["z"])
    job = run.job(["a"])
    _, request = run.step()
    run.answer(request)
    assert run.answer(request) is Verdict.LATE
    assert (job.status, other.status) == (J.RESOLVED, J.DISPATCHING)


def test_a_late_answer_finds_its_job_among_those_that_are_kept_also_after_a_restart() -> None:
    run = Run()
    jobs = [run.job(["a", "b"]) for _ in range(4)]
    while run.engine.requests:
        for request in run.step():
            run.answer(request)
    run.engine.remove(jobs[1].id, run.now)
    run.step()
    for _ in range(2):
        for job in jobs:
            for request_id in job.request_ids:
                found = run.engine.answer("a", request_id, 200, None, run.now)
                assert found is (Verdict.UNKNOWN if job is jobs[1] else Verdict.LATE)
            assert run.engine.answer("a", job.id, 200, None, run.now) is Verdict.UNKNOWN
        run.restart()


@pytest.mark.parametrize("request_id", [0, -1, 1, FIRST_ID, FIRST_ID + 3, 2**63, 2**64 - 1])
def test_an_answer_with_an_id_that_no_request_has_is_unknown(request_id: int) -> None:
    run = Run()
    run.job(["a", "b"])
    run.step()
    assert run.engine.answer("a", request_id, 200, None, run.now) is Verdict.UNKNOWN


def test_an_answer_to_a_request_that_was_never_sent_is_unknown() -> None:
    run = Run(window=1)
    job = run.job(["a", "b"])
    run.step()
    assert run.answer(run.request(job, 1)) is Verdict.UNKNOWN


def test_an_answer_from_another_device_is_foreign() -> None:
    run = Run()
    job = run.job(["a", "b"])
    first, _ = run.step()
    assert run.engine.answer("b", first.id, 200, None, run.now) is Verdict.FOREIGN
    assert counts(job) == {"created": 2}


def test_answers_that_change_nothing_have_no_effects() -> None:
    run = Run()
    run.job(["a", "b"])
    first, _ = run.step()
    run.answer(first)
    run.step()
    run.answer(first)
    run.engine.answer("b", first.id, 200, None, run.now)
    run.engine.answer("b", 5, 200, None, run.now)
    assert not run.engine.drain()


def test_an_answer_may_overtake_the_brokers_acknowledgement() -> None:
    run = Run()
    run.job(["a", "b"])
    first, second = run.step()
    run.answer(first)
    assert (first.status, first.sent_at) == (S.RESOLVED, START)
    run.answer(second, 102, {"progress": 5})
    assert (second.status, second.sent_at) == (S.RUNNING, START)
    run.now += 1.0
    run.accept(first, second)
    assert (first.status, second.status, second.sent_at) == (S.RESOLVED, S.RUNNING, START)


def test_an_acknowledgement_of_an_earlier_attempt_changes_nothing() -> None:
    run = Run()
    run.job(["a"], retry=RetryPolicy(delay=1.0, jitter=0.0))
    [request] = run.step()
    run.answer(request, 503)
    run.engine.accepted(request.id, 1, run.now)
    assert request.status is S.CREATED
    run.step(1.0)
    run.engine.accepted(request.id, 1, run.now)
    assert request.status is S.CREATED
    run.engine.accepted(request.id, 2, run.now)
    assert request.status is S.SENT


def test_an_answer_that_is_too_large_ends_what_is_out_to_its_destination() -> None:
    run = Run()
    job = run.job(["a", "b"])
    run.step()
    assert run.engine.refuse_answer("a", job.first_request + 1, "not the one that is out", run.now) is Verdict.LATE
    too_large = "the answer has too many bytes"
    assert run.engine.refuse_answer("a", job.first_request, too_large, run.now) is Verdict.APPLIED
    request = run.request(job, 0)
    assert (request.status, request.code, request.reason) == (S.ERROR, 413, "the answer has too many bytes")
    assert run.engine.refuse_answer("a", job.first_request, "again", run.now) is Verdict.LATE


# Restarts


def test_after_a_restart_what_was_sent_waits_for_its_answer_and_is_not_sent_again() -> None:
    run = Run()
    job = run.job(["a"], request_timeout=60.0, retry=NO_RETRY)
    out = run.step()
    run.accept(*out)
    run.step()
    run.now += 20.0
    run.restart()
    assert run.step() == []
    request = run.request(job, 0)
    assert (request.status, run.engine.out_count, request.deadline) == (S.SENT, 1, START + 60.0)
    assert run.answer(request, 200, "late but fine") is Verdict.APPLIED
    assert run.again(job).status is J.RESOLVED


def test_after_a_restart_what_was_created_is_sent_with_its_id() -> None:
    run = Run()
    job = run.job(["a", "b"], ["a"])
    before = run.step()
    run.restart()
    after = run.step()
    assert [request.id for request in after] == [request.id for request in before]
    assert [request.destination for request in after] == ["a", "b"]
    assert counts(run.again(job)) == {"created": 3}


def test_after_a_restart_deadlines_of_requests_go_on_counting() -> None:
    run = Run()
    job = run.job(["a", "b"], request_timeout=60.0, retry=NO_RETRY)
    run.accept(*run.step())
    run.answer(run.request(job, 0), 102, {"progress": 30})
    run.step()
    run.now += 59.0
    run.restart()
    run.step()
    assert counts(run.again(job)) == {"sent": 1, "running": 1}
    assert run.again(job).progress == 15
    run.step(1.0)
    assert counts(run.again(job)) == {"timeout": 2}


def test_after_a_restart_a_jobs_deadline_goes_on_counting() -> None:
    run = Run()
    job = run.job(["a"], timeout=100.0)
    run.step()
    run.now += 99.0
    run.restart()
    run.step()
    assert run.again(job).status is J.DISPATCHING
    run.step(1.0)
    assert run.again(job).status is J.TIMEOUT


def test_a_deadline_that_passed_while_nobody_was_there_ends_the_job_at_once() -> None:
    run = Run()
    job = run.job(["a"], timeout=100.0)
    run.step()
    run.now += 1_000.0
    run.restart()
    run.step()
    assert run.again(job).status is J.TIMEOUT


def test_after_a_restart_an_answer_to_what_was_in_doubt_is_taken() -> None:
    run = Run(window=1)
    job = run.job(["a", "b"])
    run.step()  # sent, but the broker's acknowledgement was not saved
    run.restart()
    assert run.answer(run.request(job, 0)) is Verdict.APPLIED
    assert [request.destination for request in run.step()] == ["b"]
    run.answer(run.request(job, 1))
    assert run.again(job).status is J.RESOLVED


def test_after_a_restart_what_was_never_sent_takes_no_answer() -> None:
    run = Run()
    job = run.job(["a"], ["a"])
    [first] = run.step()
    run.restart()
    assert run.engine.answer("a", first.id + 1, 200, None, run.now) is Verdict.UNKNOWN
    run.answer(run.request(job, 0))
    [second] = run.step()
    assert second.id == first.id + 1
    run.answer(second)
    assert run.again(job).status is J.RESOLVED


def test_after_a_restart_what_is_in_doubt_holds_its_destination_against_a_job_of_higher_priority() -> None:
    run = Run()
    low = run.job(["a"], priority=10)
    run.step()  # sent, but the broker's acknowledgement was not saved
    high = run.job(["a"], priority=90)
    run.step()
    run.restart()
    assert [request.job.id for request in run.step()] == [low.id]
    run.answer(run.request(low, 0))
    assert [request.job.id for request in run.step()] == [high.id]


def test_requests_made_after_a_restart_are_not_in_doubt() -> None:
    run = Run()
    run.job(["z"])
    run.step()
    run.restart(window=1)
    job = run.job(["a", "b"])
    assert run.answer(run.request(job, 1)) is Verdict.UNKNOWN


def test_a_job_that_has_not_started_takes_no_answers_after_a_restart_either() -> None:
    run = Run()
    job = run.job(["a", "b", "c"], start_at=START + 60.0, abort=AbortThreshold(error_percent=1))
    run.step()
    run.restart()
    assert run.answer(run.request(job, 0), 500) is Verdict.UNKNOWN
    assert counts(run.again(job)) == {"created": 3}
    assert run.again(job).status is J.PENDING


def test_after_a_restart_a_request_that_waited_for_its_next_attempt_is_tried_again() -> None:
    run = Run()
    run.job(["a"], retry=RetryPolicy(limit=2, delay=5.0, jitter=0.0))
    [request] = run.step()
    run.answer(request, 503)
    run.step()
    run.restart()
    [again] = run.step(5.0)
    assert (again.id, again.attempt) == (request.id, 2)


def test_after_a_restart_a_waiting_job_waits_on_and_an_overdue_one_starts() -> None:
    run = Run()
    job = run.job(["a"], start_at=START + 60.0)
    run.step()
    run.restart()
    assert run.step() == []
    assert run.sent(60.0) == ["a"]
    assert run.again(job).started_at == START + 60.0
    late = run.job(["b"], start_at=run.now + 60.0)
    run.step()
    run.now += 100.0
    run.restart()
    run.step()
    assert run.again(late).status is J.DISPATCHING


def test_after_a_restart_a_paused_job_stays_paused() -> None:
    run = Run()
    job = run.job(["a"])
    run.engine.pause(job.id)
    run.step()
    run.restart()
    assert run.step(100.0) == []
    run.engine.resume(job.id, run.now)
    assert run.sent() == ["a"]


def test_after_a_restart_ids_are_not_given_twice_and_counters_are_those_of_before() -> None:
    run = Run()
    job = run.job(["a", "b", "c"], ["a"])
    out = run.step()
    run.accept(*out)
    run.answer(out[0], 200)
    run.answer(out[1], 500)
    run.answer(out[2], 102, {"progress": 40})
    run.step()
    before = documents.job_to_document(job)
    run.restart()
    assert documents.job_to_document(run.again(job)) == before
    assert run.job(["z"]).id > job.request_ids[-1]


def test_an_ended_job_comes_back_as_it_was() -> None:
    run = Run()
    job = run.job(["a", "b"])
    run.engine.cancel(job.id, run.now)
    run.step()
    run.restart()
    assert documents.job_to_document(run.again(job)) == documents.job_to_document(job)
    assert run.engine.requests == {}
    assert run.engine.answer("a", job.first_request, 200, None, run.now) is Verdict.LATE


# The link to the broker


def test_nothing_is_sent_while_the_broker_can_not_be_reached() -> None:
    run = Run()
    run.engine.link(False)
    run.job(["a"])
    assert run.step() == []
    assert run.engine.out_count == 0
    run.engine.link(True)
    assert run.sent() == ["a"]


def test_what_is_out_can_be_sent_again_with_its_id() -> None:
    run = Run()
    run.job(["a", "b", "localhost"])
    out = run.step()
    run.accept(out[0])
    run.answer(out[1])
    assert run.engine.resend() == 2
    assert [request.destination for request in run.step()] == ["a", "localhost"]
    assert run.engine.resend(lambda request: request.destination == "localhost") == 1
    [again] = run.step()
    assert (again.destination, again.attempt) == ("localhost", 1)


def test_what_was_to_be_sent_again_and_has_ended_meanwhile_is_not_wanted_any_more() -> None:
    run = Run()
    run.job(["a"])
    [request] = run.step()
    run.engine.resend()
    run.answer(request)
    assert run.step() == []


# Retention


def test_finished_jobs_are_removed_by_age_oldest_first() -> None:
    run = Run(retention=Retention(age=100.0))
    old, young, running = run.job(["a"]), run.job(["b"]), run.job(["c"])
    run.engine.cancel(old.id, run.now)
    run.now += 50.0
    run.engine.cancel(young.id, run.now)
    assert run.engine.retire(run.now) == []
    run.now += 50.0
    assert run.engine.retire(run.now) == [old]
    assert set(run.engine.jobs) == {young.id, running.id}


def test_finished_jobs_are_removed_by_number() -> None:
    run = Run(retention=Retention(jobs=2))
    jobs = [run.job(["a"]) for _ in range(5)]
    for job in jobs[:4]:
        run.engine.cancel(job.id, run.now)
        run.now += 1.0
    assert run.engine.retire(run.now) == jobs[:2]


def test_finished_jobs_are_removed_by_the_number_of_their_requests() -> None:
    run = Run(retention=Retention(requests=5))
    jobs = [run.job(["a", "b"]) for _ in range(4)]
    for job in jobs:
        run.engine.cancel(job.id, run.now)
        run.now += 1.0
    assert run.engine.retire(run.now) == jobs[:2]
    run.step()
    assert len(run.disk.requests) == 4


def test_unfinished_jobs_are_never_removed_by_themselves() -> None:
    run = Run(retention=Retention(age=0.0, jobs=0, requests=0))
    job = run.job(["a"])
    run.now += 1e9
    assert run.engine.retire(run.now) == []
    assert run.engine.jobs == {job.id: job}


# Memory


def test_an_ended_job_leaves_nothing_behind_in_the_engine_but_itself() -> None:
    run = Run(window=2)
    engine = run.engine
    for _ in range(20):
        blocked = [run.job(["a", "b"], ["a"], retry=RetryPolicy(delay=1.0)) for _ in range(3)]
        out = run.step()
        run.answer(out[0], 503)
        run.step(0.5)
        for job in blocked:
            engine.cancel(job.id, run.now)
        run.step(10.0)
    assert (engine.requests, engine._window.out, engine._window.busy, engine._window._parked) == ({}, {}, {}, {})
    assert engine._window._offers == {}
    assert not any(line.ready for job in engine.jobs.values() for line in job.lines)
    assert engine._timers == []


def test_changing_the_limits_often_does_not_gather_timers() -> None:
    run = Run()
    job = run.job(["a"], timeout=1_000.0)
    for number in range(200):
        run.engine.limit(job.id, Limits(timeout=1_000.0, priority=number % 100), run.now)
    run.step()
    assert len(run.engine._timers) < 20


# Reasons


def test_every_change_of_a_request_and_of_a_job_has_a_reason_of_its_own() -> None:
    run = Run()
    job = run.job(["a"], ["a"], start_at=START + 1.0, timeout=50.0)
    reasons = [job.reason]
    request = run.request(job, 0)
    requests_reasons = [request.reason]

    def note() -> None:
        run.step()
        reasons.append(job.reason)
        requests_reasons.append(request.reason)

    run.now += 1.0
    note()
    run.accept(request)
    note()
    run.answer(request, 102, {"progress": 1})
    note()
    run.engine.pause(job.id)
    run.answer(request, 503)
    note()
    run.engine.resume(job.id, run.now)
    run.now += 50.0
    note()
    assert list(dict.fromkeys(reasons)) == [
        "waits for its start time",
        "its start time came",
        "paused by a caller",
        "not done within 50 s",
    ]
    assert len(set(requests_reasons)) == 5
    assert all(requests_reasons)
