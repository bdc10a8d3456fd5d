"""What a job may ask for beyond its messages, each seen to work on the devices' own clock.

Nothing here says how fast something has to be: the bounds are lower ones, orders and counts.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest

from puppetmaster.embedded.broker import find_mosquitto
from tests.system.stand import FINAL, Document, Fleet, Stand, assert_adds_up

CLOCKS = 0.05
"""Seconds by which the clocks of two processes of this machine may differ, milliseconds that are cut off included."""

MESSAGE = {"method": "post", "resource": "/system/reboot"}


def seconds(text: str) -> float:
    return datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp()


def text(moment: datetime) -> str:
    return moment.astimezone(timezone.utc).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def starts(stand: Stand, job: Document) -> list[float]:
    """When the devices began with the requests of a job, in seconds since it was started."""
    begun = seconds(job["startedAt"])
    return sorted(seconds(record["startedAt"]) - begun for record in stand.work(job))


def most_at_once(work: list[Document]) -> int:
    """How many devices were at work at the same time."""
    # Where an end and a start have the same millisecond, the end came first.
    edges = [(record["startedAt"], 1) for record in work] + [(record["finishedAt"], -1) for record in work]
    return max(itertools.accumulate(change for _, change in sorted(edges)))


def simple(destinations: list[str] | str, **more: Any) -> Document:
    return {"destinations": destinations, "message": MESSAGE, **more}


def request_counts(stand: Stand, job: Document) -> Counter[str]:
    return Counter(request["__request"]["status"] for request in stand.requests(job["id"]))


def run_something_else(stand: Stand, devices: list[str]) -> None:
    """What was published to these devices before has come by now: a later job is through with them."""
    assert stand.run_job(simple(devices))["finishCount"] == len(devices)


Take = Callable[[int], list[str]]
"""Gives devices that no test had before."""


def taker(fleet: Fleet) -> Take:
    names = iter(fleet.names)
    return lambda number: list(itertools.islice(names, number))


QUICK = ["set_tcp_nodelay true"]
"""The broker's limits are its defaults; this spares each of a thousand small messages its 44 ms."""


@pytest.fixture(scope="module")
def stand(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stand]:
    if find_mosquitto() is None:
        pytest.skip("mosquitto is not installed")
    with Stand(tmp_path_factory.mktemp("policies"), broker_extra=QUICK) as running:
        yield running


@pytest.fixture(scope="module")
def plain(stand: Stand) -> Take:
    return taker(stand.fleet("plain", 200))


@pytest.fixture(scope="module")
def slow(stand: Stand) -> Take:
    return taker(stand.fleet("slow", 200, latency="0.1"))


@pytest.fixture(scope="module")
def failing(stand: Stand) -> Take:
    return taker(stand.fleet("failing", 120, errors=1))


# Rate


def test_a_constant_rate_spaces_the_requests(stand: Stand, plain: Take) -> None:
    devices = plain(15)
    job = stand.run_job(simple(devices, rate={"perMinute": 600}))
    assert job["finishCount"] == 15
    for number, began in enumerate(starts(stand, job)):
        assert began >= number * 0.1 - CLOCKS


def test_a_growing_rate_speeds_up_with_what_has_resolved(stand: Stand, plain: Take) -> None:
    devices = plain(20)
    rate = {"perMinute": 120, "factor": 2, "every": 3, "max": 1200}
    job = stand.run_job(simple(devices, rate=rate))
    assert job["finishCount"] == 20
    began = starts(stand, job)
    # When request n is sent, at most n have resolved.
    intervals = [max(60 / (120 * 2 ** (sent // 3)), 60 / 1200) for sent in range(20)]
    for moment, earliest in zip(began, itertools.accumulate(intervals, initial=0.0), strict=False):
        assert moment >= earliest - CLOCKS
    gaps = [later - earlier for earlier, later in itertools.pairwise(began)]
    assert min(gaps[10:]) < 0.4  # at a constant rate none would be under 0.5


def test_a_growing_rate_stays_slow_while_nothing_resolves(stand: Stand, failing: Take) -> None:
    devices = failing(6)
    job = stand.run_job(simple(devices, rate={"perMinute": 200, "factor": 10, "every": 1}))
    assert job["errorCount"] == 6
    for number, began in enumerate(starts(stand, job)):
        assert began >= number * 0.3 - CLOCKS


def test_the_rate_counts_further_attempts_too(stand: Stand) -> None:
    fleet = stand.fleet("locked-rate", 5, locked=1)
    retry = {"limit": 3, "delay": 0.01, "jitter": 0}
    job = stand.run_job(simple(fleet.names, rate={"perMinute": 300}, retry=retry))
    assert job["finishCount"] == 5
    # Ten attempts in all: the last one is nine intervals after the first.
    assert starts(stand, job)[-1] >= 9 * 0.2 - CLOCKS


# Abort


def test_a_job_aborts_when_too_many_of_its_requests_fail(stand: Stand, failing: Take) -> None:
    devices = failing(50)
    job = stand.create_job(simple(devices, concurrency=5, abort={"errorPercent": 50, "minimum": 10}))
    ended = stand.wait_job(job["id"])
    assert ended["status"] == "aborted"
    assert "10 of 10" in ended["reason"]
    assert_adds_up(ended)
    assert ended["counts"]["error"] == 10
    assert ended["counts"]["canceled"] == 40
    assert stand.run_job(simple(devices))["errorCount"] == 50  # what was published before has come by now
    assert 10 <= len(stand.work(job)) <= 15


def test_a_job_below_its_threshold_goes_on(stand: Stand) -> None:
    fleet = stand.fleet("some-fail", 40, errors=0.3, seed=5)
    ended = stand.run_job(simple(fleet.names, concurrency=4, abort={"errorPercent": 90, "minimum": 20}))
    assert ended["status"] == "resolved"
    assert ended["counts"]["error"] > 0
    assert ended["doneCount"] == 40


# Priority and fair sharing


@pytest.fixture(scope="module")
def narrow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stand]:
    """A stand that has one request out at a time, so that the order of all work is the order of the engine."""
    if find_mosquitto() is None:
        pytest.skip("mosquitto is not installed")
    with Stand(tmp_path_factory.mktemp("narrow"), window=1, broker_extra=QUICK) as running:
        running.fleet("dev", 20, latency="0.01")
        yield running


def run_all_at_once(stand: Stand, *documents: Document) -> list[Document]:
    """Create jobs while the one place in the window is taken, so that all of them stand in line when it is free.

    :returns: what the devices did, with ``job``, the number of the job that it was for.
    """
    gate = stand.create_request({"destination": "nobody", "message": MESSAGE})
    jobs = [stand.create_job(document) for document in documents]
    assert stand.work(jobs[0]) == []
    stand.cancel_request(gate["id"])
    for job in jobs:
        assert stand.wait_job(job["id"])["finishCount"] == job["totalCount"]
    number_of = {ident: number for number, job in enumerate(jobs) for ident in job["requests"]}
    # The journal is written in the order of the work.
    return [
        {**record, "job": number_of[record["id"]]}
        for fleet in stand.fleets.values()
        for record in fleet.work()
        if record["id"] in number_of
    ]


def test_a_higher_priority_goes_first(narrow: Stand) -> None:
    names = narrow.fleets["dev"].names
    priorities = [10, 90, 50, 0, 100]
    work = run_all_at_once(
        narrow,
        *(simple(names[number * 4 : number * 4 + 4], priority=priority) for number, priority in enumerate(priorities)),
    )
    order = [priorities[number] for number, _ in itertools.groupby(record["job"] for record in work)]
    assert order == [100, 90, 50, 10, 0]


def test_jobs_of_one_priority_take_turns(narrow: Stand) -> None:
    names = narrow.fleets["dev"].names
    work = run_all_at_once(narrow, simple(names[:5]), simple(names[5:15]), simple(names[15:20]))
    order = [record["job"] for record in work]
    for turn in range(5):
        assert sorted(order[turn * 3 : turn * 3 + 3]) == [0, 1, 2]
    assert order[15:] == [1] * 5


def test_the_priority_can_be_changed_while_a_job_waits(narrow: Stand) -> None:
    names = narrow.fleets["dev"].names
    gate = narrow.create_request({"destination": "nobody", "message": MESSAGE})
    first, second = (narrow.create_job(simple(part)) for part in (names[:5], names[5:10]))
    assert narrow.update_job(second["id"], priority=80)["priority"] == 80
    narrow.cancel_request(gate["id"])
    for job in (first, second):
        narrow.wait_job(job["id"])
    ids = [record["id"] for record in narrow.fleets["dev"].work() if record["id"] > first["id"]]
    assert ids == [*second["requests"], *first["requests"]]


def test_a_job_that_is_slow_leaves_the_window_to_others(narrow: Stand) -> None:
    names = narrow.fleets["dev"].names
    slow = narrow.create_job(simple(names[:3], rate={"perMinute": 120}, priority=100))
    other = narrow.run_job(simple(names[10:15]))
    assert other["finishCount"] == 5
    narrow.wait_job(slow["id"])
    assert starts(narrow, narrow.job(slow["id"]))[-1] >= 1 - CLOCKS


# Concurrency


def test_no_more_requests_of_a_job_are_out_than_it_allows(stand: Stand, slow: Take) -> None:
    devices = slow(40)
    job = stand.run_job(simple(devices, concurrency=5))
    assert job["finishCount"] == 40
    assert 2 <= most_at_once(stand.work(job)) <= 5


def test_the_window_holds_for_all_jobs_together(stand: Stand, narrow: Stand) -> None:
    names = narrow.fleets["dev"].names
    jobs = [narrow.create_job(simple(names[number * 4 : number * 4 + 4])) for number in range(4)]
    for job in jobs:
        narrow.wait_job(job["id"])
    for heard in narrow.job_changes.messages:
        if heard.payload:
            assert heard.data["counts"]["sent"] + heard.data["counts"]["running"] <= 1
    assert most_at_once([record for job in jobs for record in narrow.work(job)]) == 1


# Start


def test_a_job_waits_for_its_start_time(stand: Stand, plain: Take) -> None:
    devices = plain(10)
    start = datetime.now(timezone.utc) + timedelta(seconds=2)
    job = stand.create_job(simple(devices, startAt=text(start)))
    assert job["status"] == "pending"
    assert (job["startedAt"], job["startAt"]) == (None, text(start))
    ended = stand.wait_job(job["id"])
    assert ended["finishCount"] == 10
    assert seconds(ended["startedAt"]) >= start.timestamp() - 0.001
    assert min(seconds(record["startedAt"]) for record in stand.work(job)) >= start.timestamp() - CLOCKS


def test_a_start_time_that_has_passed_is_now(stand: Stand, plain: Take) -> None:
    devices = plain(2)
    assert stand.run_job(simple(devices, startAt="2020-01-01T00:00:00Z"))["finishCount"] == 2


def test_a_job_that_is_paused_before_its_start_time_stays_paused_after_it(stand: Stand, plain: Take) -> None:
    devices = plain(3)
    start = datetime.now(timezone.utc) + timedelta(seconds=2)
    job = stand.create_job(simple(devices[:2], startAt=text(start)))
    assert stand.update_job(job["id"], status="paused")["status"] == "paused"
    assert stand.update_job(job["id"], status="dispatching")["status"] == "pending"
    assert stand.update_job(job["id"], status="paused")["status"] == "paused"
    clock = stand.run_job(simple(devices[2], startAt=text(start + timedelta(milliseconds=300))))
    assert clock["finishCount"] == 1
    assert stand.job(job["id"], "limit=0")["status"] == "paused"
    assert stand.work(job) == []
    stand.update_job(job["id"], status="dispatching")
    assert stand.wait_job(job["id"])["finishCount"] == 2


def test_a_job_that_waits_can_be_started_and_called_off(stand: Stand, plain: Take) -> None:
    devices = plain(2)
    tomorrow = text(datetime.now(timezone.utc) + timedelta(days=1))
    started = stand.create_job(simple(devices, startAt=tomorrow))
    canceled = stand.create_job(simple(devices, startAt=tomorrow))
    stand.update_job(started["id"], status="dispatching")
    assert stand.update_job(canceled["id"], status="canceled")["counts"]["canceled"] == 2
    assert stand.wait_job(started["id"])["finishCount"] == 2
    assert stand.work(canceled) == []


def test_a_timeout_counts_from_the_start_and_not_from_the_creation(stand: Stand) -> None:
    start = datetime.now(timezone.utc) + timedelta(seconds=1.5)
    job = stand.run_job(simple("nobody", startAt=text(start), timeout=0.5))
    assert job["status"] == "timeout"
    assert seconds(job["finishedAt"]) - seconds(job["startedAt"]) >= 0.5 - 0.002
    assert seconds(job["startedAt"]) >= start.timestamp() - 0.002


# Key


def test_the_same_key_and_body_give_the_same_job(stand: Stand, plain: Take) -> None:
    devices = plain(3)
    document = simple(devices, key="nightly-1", name="nightly")
    job = stand.create_job(document)
    again = stand.create_job(dict(reversed(document.items())))
    assert again["id"] == job["id"]
    assert again["requests"] == job["requests"]
    stand.wait_job(job["id"])
    assert stand.create_job(document)["id"] == job["id"]
    run_something_else(stand, devices)
    assert Counter(record["device"] for record in stand.work(job)) == dict.fromkeys(devices, 1)


def test_the_same_key_with_another_body_is_409_and_makes_nothing(stand: Stand, plain: Take) -> None:
    devices = plain(3)
    job = stand.run_job(simple(devices, key="nightly-2"))
    code, data = stand.ask("post", "/jobs", simple(devices[:2], key="nightly-2"))
    assert code == 409
    assert "nightly-2" in data["message"] and str(job["id"]) in data["message"]
    assert stand.ask("get", "/jobs?limit=1")[1][0]["id"] == job["id"]


def test_a_key_is_free_again_when_its_job_is_removed(stand: Stand) -> None:
    job = stand.create_job(simple("nobody", key="once"))
    stand.remove_job(job["id"])
    other = stand.create_job(simple(["nobody", "nobody-2"], key="once"))
    assert other["id"] > job["id"]
    stand.remove_job(other["id"])


# Pause, resume, cancel, remove


def test_a_paused_job_sends_nothing_until_it_is_resumed(stand: Stand, slow: Take) -> None:
    devices = slow(30)
    job = stand.create_job(simple(devices, concurrency=3))
    stand.wait_job(job["id"], lambda job: job["finishCount"] >= 3)
    assert stand.update_job(job["id"], status="paused")["status"] == "paused"
    # What is out is still answered.
    paused = stand.wait_job(job["id"], lambda job: job["counts"]["sent"] + job["counts"]["running"] == 0)
    paused = stand.wait_job(job["id"], lambda job: job["doneCount"] == len(stand.work(job)))
    assert paused["status"] == "paused"
    done = len(stand.work(job))
    assert 3 <= done < 30
    run_something_else(stand, devices)
    assert len(stand.work(job)) == done
    assert stand.job(job["id"], "limit=0")["counts"]["created"] == 30 - done
    assert stand.update_job(job["id"], status="paused")["status"] == "paused"

    assert stand.update_job(job["id"], status="dispatching")["status"] == "dispatching"
    ended = stand.wait_job(job["id"])
    assert ended["finishCount"] == 30
    assert Counter(record["device"] for record in stand.work(job)) == dict.fromkeys(devices, 1)


def test_a_canceled_job_sends_nothing_more(stand: Stand, slow: Take) -> None:
    devices = slow(30)
    job = stand.create_job(simple(devices, concurrency=3))
    stand.wait_job(job["id"], lambda job: job["finishCount"] >= 3)
    canceled = stand.update_job(job["id"], status="canceled")
    assert canceled["status"] == "canceled"
    assert_adds_up(canceled)
    assert canceled["counts"]["canceled"] == 30 - canceled["counts"]["resolved"] > 0
    run_something_else(stand, devices)
    attempted = {request["id"] for request in stand.requests(job["id"]) if request["__request"]["attempt"]}
    worked = {record["id"] for record in stand.work(job)}
    assert worked <= attempted
    assert len(attempted) <= canceled["counts"]["resolved"] + 3
    assert {name: value for name, value in stand.job(job["id"], "limit=0").items() if name != "requests"} == canceled
    assert stand.update_job(job["id"], status="canceled") == canceled
    for status in ("paused", "dispatching"):
        assert stand.ask("put", f"/jobs/{job['id']}", {"status": status})[0] == 409


def test_a_canceled_request_is_not_sent(stand: Stand, plain: Take) -> None:
    devices = plain(3)
    job = stand.create_job(simple(["nobody", *devices], concurrency=1))
    first, second, third, fourth = job["requests"]
    code, canceled = stand.ask("delete", f"/requests/{third}")
    assert (code, canceled["__request"]["status"]) == (200, "canceled")
    assert stand.job(job["id"], "limit=0")["errorCount"] == 1
    assert stand.ask("delete", f"/requests/{first}")[0] == 200  # and the others get their turn
    ended = stand.wait_job(job["id"])
    assert (ended["status"], ended["finishCount"], ended["counts"]["canceled"]) == ("resolved", 2, 2)
    run_something_else(stand, devices)
    assert [record["id"] for record in stand.work(job)] == [second, fourth]
    code, data = stand.ask("delete", f"/requests/{second}")
    assert code == 409 and "resolved" in data["message"]


def test_a_removed_job_is_gone_with_its_requests(stand: Stand, slow: Take) -> None:
    devices = slow(20)
    job = stand.create_job(simple(devices, concurrency=2))
    stand.wait_job(job["id"], lambda job: job["finishCount"] >= 2)
    removed = stand.remove_job(job["id"])
    assert removed["status"] == "canceled"
    for resource in (f"/jobs/{job['id']}", f"/requests/{job['requests'][0]}", f"/request/{job['requests'][-1]}"):
        assert stand.ask("get", resource)[0] == 404
    for method, resource, body in (
        ("put", f"/jobs/{job['id']}", {"status": "paused"}),
        ("delete", f"/jobs/{job['id']}", None),
        ("delete", f"/requests/{job['requests'][-1]}", None),
    ):
        assert stand.ask(method, resource, body)[0] == 404
    assert stand.ask("get", f"/requests?job={job['id']}") == (200, [])
    assert job["id"] not in [listed["id"] for listed in stand.ask("get", "/jobs")[1]]
    run_something_else(stand, devices)
    assert len(stand.work(job)) <= removed["counts"]["resolved"] + 2


# Timeouts and retries


def test_a_job_ends_at_its_timeout_with_all_its_requests(stand: Stand, plain: Take) -> None:
    devices = plain(3)
    job = stand.create_job(simple([*devices, "nobody-1", "nobody-2"], timeout=2))
    ended = stand.wait_job(job["id"])
    assert ended["status"] == "timeout"
    assert_adds_up(ended)
    assert (ended["counts"]["resolved"], ended["counts"]["timeout"]) == (3, 2)
    assert seconds(ended["finishedAt"]) - seconds(ended["startedAt"]) >= 2 - 0.001
    assert "2 s" in ended["reason"]


def test_a_paused_job_ends_at_its_timeout_too(stand: Stand) -> None:
    job = stand.create_job(simple("nobody", timeout=1))
    stand.update_job(job["id"], status="paused")
    ended = stand.wait_job(job["id"])
    assert (ended["status"], ended["counts"]["timeout"]) == ("timeout", 1)


def test_a_request_ends_at_its_timeout(stand: Stand) -> None:
    slow = {**MESSAGE, "__request": {"destination": "nobody-1", "timeout": 1}}
    quick = {**MESSAGE, "__request": {"destination": "nobody-2"}}
    job = stand.run_job({"batch": [slow, quick], "requestTimeout": 0.5})
    assert (job["status"], job["counts"]["timeout"], job["errorCount"]) == ("resolved", 2, 2)
    for request, timeout in zip(stand.requests(job["id"]), (1, 0.5), strict=True):
        inner = request["__request"]
        assert (inner["status"], inner["timeout"], inner["attempt"], inner["code"]) == ("timeout", timeout, 1, None)
        assert seconds(inner["finishedAt"]) - seconds(inner["sentAt"]) >= timeout - CLOCKS


def test_silence_is_tried_again_when_the_job_asks_for_it(stand: Stand) -> None:
    topic = stand.listen("/remote/nobody-there")
    retry = {"limit": 2, "delay": 0.2, "factor": 3, "jitter": 0, "on": ["timeout"]}
    job = stand.run_job({**simple("nobody-there", retry=retry), "requestTimeout": 0.3})
    assert job["counts"]["timeout"] == 1
    [request] = stand.requests(job["id"])
    assert request["__request"]["attempt"] == 3
    # Three attempts of 0.3 s, and 0.2 and 0.6 s between them.
    assert seconds(job["finishedAt"]) - seconds(job["startedAt"]) >= 3 * 0.3 + 0.2 + 0.6 - CLOCKS
    attempts = [heard.data for heard in topic.messages]
    assert [attempt["id"] for attempt in attempts] == [request["id"]] * 3
    assert attempts[0] == attempts[1] == attempts[2]


def test_devices_that_are_silent_now_and_then_are_all_reached(stand: Stand) -> None:
    fleet = stand.fleet("now-and-then", 30, silence=0.4, seed=6)
    retry = {"limit": 50, "delay": 0.05, "factor": 1, "on": ["timeout"]}
    job = stand.run_job({**simple(fleet.names, retry=retry), "requestTimeout": 0.5})
    assert job["finishCount"] == 30
    assert Counter(record["device"] for record in stand.work(job)) == dict.fromkeys(fleet.names, 1)


# Other limits, later


def test_a_rate_is_lifted_while_a_job_runs(stand: Stand, plain: Take) -> None:
    devices = plain(10)
    job = stand.create_job(simple(devices, rate={"perMinute": 0.01}))  # the second one would go after 100 minutes
    stand.wait_job(job["id"], lambda job: job["finishCount"] == 1)
    stand.update_job(job["id"], rate=None)
    assert stand.wait_job(job["id"])["finishCount"] == 10


def test_a_rate_is_set_while_a_job_runs(stand: Stand, slow: Take) -> None:
    devices = slow(12)
    job = stand.create_job(simple(devices, concurrency=1))
    stand.wait_job(job["id"], lambda job: job["finishCount"] >= 2)
    before = datetime.now(timezone.utc).timestamp()
    stand.update_job(job["id"], rate={"perMinute": 200}, concurrency=None)
    left = [request for request in stand.requests(job["id"]) if not request["__request"]["attempt"]]
    stand.wait_job(job["id"])
    # All that were not sent by then went out later than the change, and one every 0.3 s.
    last = max(seconds(record["startedAt"]) for record in stand.work(job))
    assert last >= before + (len(left) - 1) * 0.3 - CLOCKS


def test_other_limits_leave_the_rate_as_it_is(stand: Stand, plain: Take) -> None:
    devices = plain(5)
    job = stand.create_job(simple(devices, rate={"perMinute": 0.01}))
    stand.wait_job(job["id"], lambda job: job["finishCount"] == 1)
    for priority in (60, 70, 80):
        stand.update_job(job["id"], priority=priority)
    run_something_else(stand, devices)
    assert len(stand.work(job)) == 1
    stand.update_job(job["id"], status="canceled")


def test_the_concurrency_is_raised_while_a_job_runs(stand: Stand, slow: Take) -> None:
    devices = slow(5)
    job = stand.create_job(simple(["nobody", *devices], concurrency=1))
    stand.update_job(job["id"], concurrency=2)
    stand.wait_job(job["id"], lambda job: job["finishCount"] == 5)
    assert most_at_once(stand.work(job)) == 1
    stand.update_job(job["id"], status="canceled")


def test_a_timeout_is_set_while_a_job_runs(stand: Stand) -> None:
    job = stand.create_job(simple("nobody"))
    assert job["timeout"] is None
    assert stand.update_job(job["id"], timeout=0.5)["timeout"] == 0.5
    assert stand.wait_job(job["id"])["status"] == "timeout"


def test_an_abort_threshold_is_set_while_a_job_runs(stand: Stand, failing: Take) -> None:
    devices = failing(30)
    job = stand.create_job(simple(["nobody", *devices], concurrency=1))
    stand.update_job(job["id"], abort={"errorPercent": 10, "minimum": 4}, concurrency=2)
    ended = stand.wait_job(job["id"])
    assert (ended["status"], ended["counts"]["error"]) == ("aborted", 4)


def test_limits_are_shown_by_their_effect_and_refused_when_a_job_has_ended(stand: Stand, plain: Take) -> None:
    devices = plain(1)
    job = stand.run_job(simple(devices))
    for limits in ({"concurrency": 2}, {"priority": 3}, {"timeout": 5}, {"rate": {"perMinute": 5}}):
        code, data = stand.ask("put", f"/jobs/{job['id']}", limits)
        assert code == 409, limits
        assert str(job["id"]) in data["message"]
    code, data = stand.ask("put", f"/jobs/{job['id']}", {})
    assert code == 400
    assert job["status"] in FINAL


@pytest.mark.parametrize(
    "time", ["9999-12-31T23:59:59.9999Z", "9999-12-31T23:59:59-12:00", "0001-01-01T00:00:00+12:00"]
)
def test_a_start_time_outside_of_the_calendar_is_400_and_makes_nothing(stand: Stand, time: str) -> None:
    before = stand.ask("get", "/jobs")
    code, data = stand.ask("post", "/jobs", simple("nobody", startAt=time))
    assert code == 400
    assert [error["path"] for error in data["errors"]] == ["startAt"]
    assert stand.ask("get", "/jobs") == before
    assert before[0] == 200
