"""The engine's rules about devices: who is meant, who is away, and who may have several requests at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from time import process_time
from typing import Any

import pytest

from puppetmaster.errors import Conflict, TooLarge
from puppetmaster.models import JobSpec, Limits, Message, Request
from puppetmaster.policies import Connection, Offline, Rate, RetryPolicy, Targets
from puppetmaster.states import JobStatus, RequestStatus
from tests.test_engine import START, Run

S, J = RequestStatus, JobStatus
SECOND = 1.0


class Fleet:
    """A directory that a test writes."""

    def __init__(self, *online: str, offline: Sequence[str] = (), off_broker: Sequence[str] = ()) -> None:
        self.online, self.offline, self.off_broker = list(online), set(offline), set(off_broker)
        self.asked: list[Targets] = []

    def find(self, targets: Targets, draw: float) -> Sequence[str]:
        assert 0 <= draw < 1
        self.asked.append(targets)
        return self.online

    def is_offline(self, destination: str) -> bool:
        return destination in self.offline

    def is_bounded(self, request: Request) -> bool:
        return request.destination not in self.off_broker


def targeted(run: Run, *named: str, start_at: float | None = None, messages: int = 1, **limits: Any) -> JobSpec:
    return JobSpec(
        messages=[Message(method="put", resource=f"/m/{n}", timeout=60.0) for n in range(messages)],
        batch=[(number, list(named)) for number in range(messages)],
        limits=Limits(**limits),
        start_at=start_at,
        targets=Targets(connection=frozenset({Connection.ONLINE})),
    )


def submit(run: Run, spec: JobSpec) -> Any:
    return run.engine.submit(run.engine.resolve(spec, run.now), run.now)[0]


def test_targets_are_looked_up_when_the_job_starts_and_join_those_that_are_named() -> None:
    run = Run(directory=Fleet("a", "b", "c"))
    job = submit(run, targeted(run, "b", "x", messages=2))
    assert job.total_count == 8
    assert sorted(run.sent()) == ["a", "b", "c", "x"]
    assert job.progress == 0


def test_a_job_that_starts_later_has_no_requests_until_then() -> None:
    fleet = Fleet("a")
    run = Run(directory=fleet)
    job = submit(run, targeted(run, start_at=START + 10))
    assert (job.total_count, job.status, job.progress, list(job.request_ids)) == (0, J.PENDING, 0, [])
    assert run.sent(5) == [] and not fleet.asked
    fleet.online = ["a", "b"]
    assert run.sent(5) == ["a", "b"]
    assert (job.total_count, job.status) == (2, J.DISPATCHING)
    assert [run.engine.requests[request_id].job for request_id in job.request_ids] == [job, job]


def test_what_a_job_is_to_look_up_outlives_a_restart() -> None:
    fleet = Fleet("a")
    run = Run(directory=fleet)
    job = submit(run, targeted(run, "x", start_at=START + 10))
    other = run.job(["y"])
    run.step()
    again = Run(directory=fleet)
    again.now = START + 5
    run.disk.restore(again.engine, run.engine.next_id, again.now)
    again.disk = run.disk
    assert again.sent(6) == ["y", "x", "a"]
    restored = again.engine.jobs[job.id]
    assert restored.plan is None and restored.total_count == 2
    # The requests of the later job have the larger ids, though it is the older one.
    assert restored.first_request > other.first_request
    third = Run(directory=fleet)
    run.disk.restore(third.engine, again.engine.next_id, again.now)
    assert third.engine.jobs[job.id].total_count == 2


def test_a_job_for_every_device_there_is_outlives_a_restart_too() -> None:
    run = Run(directory=Fleet("a", "b"))
    job = submit(run, replace(targeted(run, start_at=START + 10), targets=Targets()))
    run.step()
    run.restart()
    assert run.sent(10) == ["a", "b"]
    run.restart()
    assert run.again(job).targets == Targets()


def test_a_late_answer_is_told_from_an_unknown_one_though_ids_are_out_of_order() -> None:
    run = Run(directory=Fleet("a"))
    late = submit(run, targeted(run, start_at=START + 10))
    early = run.job(["y"])
    run.step(10)
    for job in (late, early):
        (request_id,) = job.request_ids
        destination = run.engine.requests[request_id].destination
        assert run.engine.answer(destination, request_id, 200, None, run.now).value == "applied"
        run.step()
        assert run.engine.answer(destination, request_id, 200, None, run.now).value == "late"
    assert run.engine.answer("a", early.id, 200, None, run.now).value == "unknown"
    run.engine.remove(late.id, run.now)
    assert run.engine.answer("a", late.first_request, 200, None, run.now).value == "unknown"


def test_nobody_who_fits_is_a_conflict_now_and_the_end_of_the_job_later() -> None:
    run = Run(directory=Fleet())
    with pytest.raises(Conflict, match="no device that is known fits"):
        submit(run, targeted(run))
    assert not run.engine.jobs
    job = submit(run, targeted(run, start_at=START + 10))
    run.step(10)
    assert (job.status, job.reason, job.progress) == (J.RESOLVED, "no device that is known fits its targets", 100)
    run.engine.remove(job.id, run.now)


def test_too_many_who_fit_are_refused_now_and_end_the_job_later() -> None:
    run = Run(directory=Fleet("a", "b", "c"), max_requests=2)
    with pytest.raises(TooLarge, match="3 requests, over the limit of 2"):
        submit(run, targeted(run))
    job = submit(run, targeted(run, start_at=START + 10))
    run.step(10)
    assert (job.status, job.total_count) == (J.ABORTED, 0)
    assert "over the limit of 2" in job.reason


def test_a_thousand_messages_to_a_whole_fleet_are_counted_and_not_made() -> None:
    run = Run(directory=Fleet(*(f"d{n}" for n in range(10_000))), max_requests=100_000)
    spec = targeted(run, messages=2)
    spec = replace(spec, batch=[(0, ["d1", "d1", "x"])] * 20_000)
    with pytest.raises(TooLarge, match="200040000 requests"):
        run.engine.resolve(spec, run.now)


def test_without_a_rule_a_device_that_is_away_is_sent_to_all_the_same() -> None:
    run = Run(directory=Fleet(offline=["a"]))
    run.job(["a", "b"])
    assert run.sent() == ["a", "b"]


def test_skip_ends_the_request_as_canceled_and_the_job_goes_on() -> None:
    run = Run(directory=Fleet(offline=["a"]))
    job = run.job(["a", "b"], ["a", "b"], offline=Offline.SKIP)
    assert run.sent() == ["b"]
    assert (job.counts[S.CANCELED], job.done_count) == (2, 2)
    assert run.engine.requests[job.first_request].reason == "its device is offline"


def test_fail_ends_the_request_as_an_error_and_counts_for_the_threshold() -> None:
    run = Run(directory=Fleet(offline=["a", "b", "c"]))
    job = run.job(["a", "b", "c"], offline=Offline.FAIL)
    run.step()
    assert (job.status, job.counts[S.ERROR]) == (J.RESOLVED, 3)
    stored = run.disk.request(job.first_request)
    assert (stored["code"], stored["sentAt"], stored["attempt"]) == (503, None, 0)


def test_all_jobs_may_end_by_it_while_others_have_their_turn() -> None:
    run = Run(directory=Fleet(offline=["a"]))
    jobs = [run.job(["a"], offline=Offline.SKIP) for _ in range(3)]
    last = run.job(["a", "b"])
    assert run.sent() == ["a", "b"]
    assert [job.status for job in jobs] == [J.RESOLVED] * 3
    assert last.status is J.DISPATCHING


def test_wait_sends_when_the_device_comes_online() -> None:
    fleet = Fleet(offline=["a"])
    run = Run(directory=fleet)
    job = run.job(["a", "b"], offline=Offline.WAIT)
    assert run.sent() == ["b"]
    assert run.disk.request(job.first_request)["reason"] == "waits for its device to come online"
    assert run.sent(100) == []
    fleet.offline.clear()
    run.engine.present("a", run.now)
    assert run.sent() == ["a"]


def test_what_waits_leaves_the_destination_to_jobs_that_do_not() -> None:
    run = Run(directory=Fleet(offline=["a"]))
    run.job(["a"], offline=Offline.WAIT)
    run.step()
    run.job(["a"])
    assert run.sent() == ["a"]


def test_a_site_that_comes_back_is_not_flooded() -> None:
    names = [f"d{n:03}" for n in range(200)]
    fleet = Fleet(offline=names)
    run = Run(directory=fleet)
    run.job(names, offline=Offline.WAIT)
    assert run.sent() == []
    fleet.offline.clear()
    for name in names:
        run.engine.present(name, run.now)
    gone: list[str] = []
    while len(gone) < len(names):
        wake = run.engine.next_wake()
        assert wake is not None
        gone += run.sent(max(0.0, wake - run.now))
    assert gone == names
    assert run.now - START > 2.5  # 50 of them in a second, and one second's worth at the most when the loop is late


def test_who_comes_online_and_goes_again_waits_on() -> None:
    fleet = Fleet(offline=["a"])
    run = Run(directory=fleet)
    job = run.job(["a"], offline=Offline.WAIT)
    run.step()
    for _ in range(3):
        run.engine.present("a", run.now)
        assert run.sent(SECOND) == []
    fleet.offline.clear()
    run.engine.present("a", run.now)
    assert run.sent(SECOND) == ["a"]
    assert job.counts[S.CREATED] == 1


def test_another_rule_holds_at_once_for_what_waits() -> None:
    run = Run(directory=Fleet(offline=["a"]))
    job = run.job(["a"], offline=Offline.WAIT)
    run.step()
    run.engine.limit(job.id, Limits(offline=Offline.SKIP), run.now)
    run.step()
    assert (job.status, job.counts[S.CANCELED]) == (J.RESOLVED, 1)


def test_without_a_rule_what_waited_for_the_news_of_its_device_is_sent_at_once() -> None:
    run = Run(directory=Fleet())
    run.engine.know_who_is_away(False)
    jobs = [run.job([name], offline=Offline.WAIT) for name in ("a", "b")]
    assert run.sent() == []
    run.engine.limit(jobs[0].id, Limits(), run.now)
    assert run.sent() == ["a"]
    run.engine.know_who_is_away(True)
    assert run.sent() == ["b"]


def test_what_waits_ends_with_its_job_and_is_forgotten() -> None:
    fleet = Fleet(offline=["a"])
    run = Run(directory=fleet)
    job = run.job(["a", "a"], offline=Offline.WAIT)
    run.step()
    run.engine.cancel(job.id, run.now)
    run.step()
    assert job.counts[S.CANCELED] == 2
    assert not run.engine._absent
    run.engine.present("a", run.now)
    assert run.sent(SECOND) == []


def test_what_waited_waits_on_after_a_restart() -> None:
    fleet = Fleet(offline=["a"])
    run = Run(directory=fleet)
    run.job(["a"], offline=Offline.WAIT)
    run.step()
    again = Run(directory=fleet)
    run.disk.restore(again.engine, run.engine.next_id, run.now)
    assert again.sent() == []
    fleet.offline.clear()
    again.engine.present("a", again.now)
    assert again.sent() == ["a"]


def test_an_attempt_that_waits_for_its_device_is_not_taken_for_one_that_is_out_after_a_restart() -> None:
    fleet = Fleet()
    run = Run(directory=fleet)
    run.job(["a"], offline=Offline.WAIT, retry=RetryPolicy(limit=1, delay=1.0, jitter=0.0))
    (out,) = run.step()
    run.accept(out)
    fleet.offline = {"a"}
    run.answer(out, 503)
    assert run.sent(SECOND) == []
    for _ in range(2):
        run.restart()
        assert run.sent(SECOND) == []
    fleet.offline.clear()
    run.engine.present("a", run.now)
    assert run.sent() == ["a"]
    assert run.sent(SECOND) == []


def test_two_that_are_out_to_one_destination_after_its_way_has_changed_are_both_answered() -> None:
    run = Run(directory=Fleet(off_broker=["p"]))
    for timeout in (5.0, 7.0):
        run.job(["p"], request_timeout=timeout)
    run.accept(*run.step())
    run.step()
    run.restart(directory=Fleet())
    run.job(["p"])
    assert run.sent(SECOND) == []
    assert run.sent(5) == ["p"]
    run.step(5)
    assert [job.status for job in run.engine.jobs.values()] == [J.RESOLVED, J.RESOLVED, J.DISPATCHING]


def test_a_great_many_that_are_out_are_sent_again_after_a_restart_in_no_time() -> None:
    names = [f"p{n}" for n in range(5_000)]
    run = Run(directory=Fleet(off_broker=names))
    run.job(names)
    run.step()
    run.restart()
    begun = process_time()
    assert run.engine.resend(lambda request: request.destination != "p0") == len(names) - 1
    assert len(run.step()) == len(names)
    assert process_time() - begun < 0.5  # with lists in place of sets it took some seconds


def test_while_nobody_knows_who_is_away_only_jobs_that_do_not_care_are_sent() -> None:
    fleet = Fleet(offline=["a"])
    run = Run(directory=fleet)
    run.engine.know_who_is_away(False)
    for offline in Offline:
        run.job(["a", "b"], offline=offline)
    run.job(["c"])
    assert run.sent() == ["c"]
    run.engine.know_who_is_away(True)
    assert run.sent() == ["b"]
    assert run.sent(SECOND) == []


def test_what_does_not_go_over_the_broker_takes_no_place_in_the_window() -> None:
    run = Run(directory=Fleet(off_broker=["p", "q"]), window=1)
    run.job(["p", "q", "a", "b"])
    out = run.step()
    assert [request.destination for request in out] == ["p", "q", "a"]
    run.answer(out[0])
    assert run.sent() == []
    run.answer(out[2])
    assert run.sent() == ["b"]


@pytest.mark.parametrize("offline", [None, *Offline])
def test_neither_a_full_window_nor_a_broker_that_is_away_keeps_others_from_their_work(offline: Offline | None) -> None:
    run = Run(directory=Fleet(off_broker=["p", "q"]), window=1)
    run.job(["a"])
    assert run.sent() == ["a"]
    job = run.job(["b", "p"], ["p"], offline=offline)
    (out,) = run.step()
    assert out.destination == "p"
    run.engine.link(False)
    run.engine.know_who_is_away(False)
    run.answer(out)
    assert run.sent() == ["p"]
    run.engine.hold(True)
    run.job(["q"], offline=offline)
    assert run.sent(SECOND) == []
    run.engine.hold(False)
    assert run.sent() == ["q"]
    assert job.counts[S.CREATED] == 2


def test_a_limit_counts_for_both_ways_together() -> None:
    run = Run(directory=Fleet(off_broker=["p", "q"]))
    job = run.job(["a", "b", "p", "q"], concurrency=1)
    gone = []
    while job.status is J.DISPATCHING:
        (out,) = run.step()
        gone.append(out.destination)
        run.answer(out)
    assert sorted(gone) == ["a", "b", "p", "q"]
    run.job(["a", "b", "p", "q"], rate=Rate(per_minute=60.0))
    assert [len(run.sent(SECOND)) for _ in range(5)] == [1, 1, 1, 1, 0]


def test_a_destination_that_is_shared_gets_the_requests_of_several_jobs_at_once_but_of_one_job_in_order() -> None:
    run = Run(directory=Fleet(off_broker=["p"]))
    jobs = [run.job(["p"], ["p"]) for _ in range(3)]
    out = run.step()
    assert [request.job for request in out] == jobs
    run.answer(out[0])
    (following,) = run.step()
    assert (following.job, following.message_number) == (jobs[0], 1)
    assert run.engine.out_to("p") is None


def test_only_what_was_out_is_told_to_be_called_off() -> None:
    run = Run(window=1)
    job = run.job(["a", "b"])
    (out,) = run.step()
    run.engine.cancel(job.id, run.now)
    run.engine.tick(run.now)
    assert run.engine.drain().aborts == [out]


def test_what_is_overdue_is_told_to_be_called_off_but_not_what_is_tried_again() -> None:
    run = Run()
    run.job(["a"], request_timeout=5.0, retry=RetryPolicy(limit=1, delay=1.0, jitter=0.0, on=frozenset({"timeout"})))
    (out,) = run.step()
    run.now += 5
    run.engine.tick(run.now)
    assert run.engine.drain().aborts == []
    assert run.step(1) == [out]
    run.now += 5
    run.engine.tick(run.now)
    assert run.engine.drain().aborts == [out]
