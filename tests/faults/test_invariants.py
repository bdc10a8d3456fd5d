"""Each invariant is shown records with the very violation that it is for: a check that can't fail is worth nothing."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest

from tests.faults import invariants
from tests.faults.records import Posted, Records

FIRST = 1000
NAMES = ("a", "b")
KEYED = {
    "name": "r1-0",
    "key": "key-r1-0",
    "batch": [
        {"method": "put", "resource": f"/step/{step}", "__request": {"destination": list(NAMES)}} for step in range(2)
    ],
}


def good() -> Records:
    """A run in which nothing went wrong: one job of two messages to two devices; one request failed there."""
    outcomes = ["resolved", "resolved", "resolved", "error"]
    requests, work, stored = [], [], {}
    for number, outcome in enumerate(outcomes):
        ident, name = FIRST + 1 + number, NAMES[number % 2]
        own = {"job": FIRST, "destination": name, "status": outcome, "code": 500 if outcome == "error" else 200,
               "result": number, "reason": "answered"}  # fmt: skip
        requests.append({"id": ident, "resource": f"/step/{number // 2}", "__request": own})
        work.append({"device": name, "id": ident, "outcome": outcome, "data": number})
        stored[ident] = {field: own[field] for field in ("job", "destination", "status", "code", "result")}
    counts = {"created": 0, "sent": 0, "running": 0, "resolved": 3, "error": 1, "timeout": 0, "canceled": 0}
    job = {"id": FIRST, "name": "r1-0", "status": "resolved", "reason": "all ended", "counts": counts, "totalCount": 4,
           "doneCount": 4, "finishCount": 3, "errorCount": 1}  # fmt: skip
    return Records(
        posted=[
            Posted(copy.deepcopy(KEYED), codes=[0, 200, 200], ids={FIRST}),
            Posted({**copy.deepcopy(KEYED), "name": "r1-bad"}, is_bad=True, codes=[400]),
        ],
        jobs=[job],
        requests={FIRST: requests},
        work=work,
        told=[{**job, "status": "dispatching", "doneCount": 2}, dict(job)],
        stored={"jobs": {FIRST: copy.deepcopy(job)}, "requests": stored},
        log="INFO all is well",
    )


def request(records: Records, number: int) -> dict[str, Any]:
    found: dict[str, Any] = records.requests[FIRST][number]["__request"]
    return found


def other_job(records: Records, **fields: Any) -> None:
    records.jobs.append({**records.jobs[0], "id": 2000, "totalCount": 0, "counts": {}, "doneCount": 0,
                         "finishCount": 0, "errorCount": 0, **fields})  # fmt: skip


# What is done to good records, and the invariants that must find it, with a part of what they say.
Violate = Callable[[Records], object]
VIOLATIONS: list[tuple[str, str, Violate]] = [
    ("accepted_jobs_exist_and_end", "does not exist", lambda r: r.jobs.clear()),
    ("accepted_jobs_exist_and_end", "has its id", lambda r: r.jobs[0].update(name="r1-probe")),
    ("accepted_jobs_exist_and_end", "has not ended", lambda r: r.jobs[0].update(status="dispatching")),
    ("accepted_jobs_exist_and_end", "not 4", lambda r: r.requests[FIRST].pop()),
    ("accepted_jobs_exist_and_end", "it is sent", lambda r: request(r, 2).update(status="sent")),
    ("jobs_are_those_that_were_asked_for", "not what was posted", lambda r: request(r, 0).update(destination="b")),
    ("counters_add_up", "its requests are", lambda r: request(r, 3).update(status="timeout")),
    ("counters_add_up", "doneCount", lambda r: r.jobs[0].update(doneCount=3)),
    ("nothing_refused_exists", "came of the refused", lambda r: other_job(r, name="r1-bad")),
    ("nothing_refused_exists", "asked for by nobody", lambda r: other_job(r, name="r1-7")),
    ("nothing_refused_exists", "was accepted", lambda r: r.posted[1].codes.append(200)),
    ("nothing_refused_exists", "answered 400", lambda r: r.posted[0].codes.append(400)),
    ("keyed_jobs_exist_once", "2 jobs", lambda r: other_job(r, name="r1-0")),
    ("keyed_jobs_exist_once", "answered with [1000, 2000]", lambda r: r.posted[0].ids.add(2000)),
    ("keyed_jobs_exist_once", "there are 4 jobs", lambda r: [r.posted[0].document.pop("key")]
     + [other_job(r, name="r1-0") for _ in range(3)]),
    ("resolved_was_done", "never done", lambda r: r.work.pop(0)),
    ("resolved_was_done", "failed with 500", lambda r: r.work[3].update(outcome="resolved")),
    ("results_are_the_devices_own", "said 0", lambda r: request(r, 0).update(result="liar")),
    ("results_are_the_devices_own", "has 204", lambda r: request(r, 0).update(code=204)),
    ("done_once", "2 times", lambda r: r.work.append(dict(r.work[0]))),
    ("done_once", "of a", lambda r: r.work[0].update(device="b")),
    ("order_held", "in the order", lambda r: r.work.reverse()),
    ("answers_are_not_lost", "is timeout", lambda r: request(r, 1).update(status="timeout", code=None)),
    ("answers_are_not_lost", "is error", lambda r: request(r, 1).update(status="error", code=408)),
    ("answers_are_not_lost", "is aborted", lambda r: r.jobs[0].update(status="aborted")),
    ("what_was_told_holds", "and then 1", lambda r: r.told.insert(1, {**r.told[0], "doneCount": 1})),
    ("what_was_told_holds", "told to be aborted", lambda r: r.told[0].update(status="aborted")),
    ("store_equals_api", "not on disk", lambda r: r.stored["jobs"].clear()),
    ("store_equals_api", "not on disk", lambda r: r.stored.clear()),
    ("store_equals_api", "not what the API shows", lambda r: r.stored["jobs"][FIRST].update(status="sent")),
    ("store_equals_api", "not on disk", lambda r: r.stored["requests"].pop(FIRST + 2)),
    ("store_equals_api", "not what the API shows", lambda r: r.stored["requests"][FIRST + 2].update(result="other")),
    ("nothing_broke", "Traceback", lambda r: setattr(r, "log", "Traceback (most recent call last):")),
    ("nothing_broke", "CRITICAL", lambda r: setattr(r, "log", "CRITICAL the service failed")),
]  # fmt: skip


def test_a_run_in_which_nothing_went_wrong_violates_nothing() -> None:
    assert invariants.check(good()) == []


@pytest.mark.parametrize(("name", "text", "violate"), VIOLATIONS)
def test_an_invariant_finds_what_it_is_for(name: str, text: str, violate: Violate) -> None:
    records = good()
    violate(records)
    found = [violation for violation in invariants.check(records) if violation.startswith(f"{name}: ")]
    assert any(text in violation for violation in found), invariants.check(records)


def test_every_invariant_is_shown_a_violation() -> None:
    assert {name for name, _, _ in VIOLATIONS} == {invariant.__name__ for invariant in invariants.ALL}


def test_a_job_that_was_called_off_may_have_requests_that_are_not_answered() -> None:
    records = good()
    records.posted[0].ends = "any"
    request(records, 3).update(status="canceled", code=None)
    counts = records.jobs[0]["counts"]
    counts.update(error=0, canceled=1)
    records.stored = None
    assert invariants.check(records) == []
