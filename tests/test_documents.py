"""What lies in the store comes back as it was."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import orjson
from hypothesis import given, settings
from hypothesis import strategies as st

from puppetmaster import documents
from puppetmaster.models import Job, Limits, Message, Request
from puppetmaster.policies import AbortThreshold, Rate, RetryPolicy
from puppetmaster.states import JobStatus, RequestStatus

TRANSIENT = {"lines", "out_count", "next_send_at", "rate_timer", "runnable", "watched_at"}
"""Of a job: what only the engine uses, and what is not stored."""

texts = st.text(st.characters(codec="utf-8"), max_size=8)
times = st.floats(0, 1e11)
seconds = st.floats(0.001, 1e8)
values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.floats(allow_nan=False, allow_infinity=False) | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=6,
)
messages = st.builds(Message, method=st.just("put"), resource=texts, data=values, timeout=seconds)
limits = st.builds(
    Limits,
    timeout=st.none() | seconds,
    concurrency=st.none() | st.integers(1, 1_000),
    retry=st.builds(
        RetryPolicy,
        limit=st.integers(0, 1_000),
        delay=seconds,
        factor=st.floats(1, 100),
        max_delay=seconds,
        jitter=st.floats(0, 1),
        on=st.frozensets(st.integers(100, 999) | st.just("timeout"), min_size=1, max_size=4),
    ),
    rate=st.none() | st.builds(Rate, per_minute=seconds, factor=st.floats(1, 9), maximum=st.none() | seconds),
    abort=st.none() | st.builds(AbortThreshold, error_percent=st.floats(1, 100), minimum=st.integers(1, 99)),
    priority=st.integers(0, 100),
)
jobs = st.builds(
    Job,
    id=st.just(1_000_000),
    messages=st.lists(messages, min_size=1, max_size=3).map(tuple),
    first_request=st.just(1_000_001),
    total_count=st.integers(1, 9),
    created_at=times,
    limits=limits,
    start_at=st.none() | times,
    name=st.none() | texts,
    labels=st.lists(texts, max_size=3).map(tuple),
    key=st.none() | texts,
    fingerprint=texts,
    status=st.sampled_from(JobStatus),
    reason=texts,
    started_at=st.none() | times,
    finished_at=st.none() | times,
    counts=st.fixed_dictionaries({status: st.integers(0, 9) for status in RequestStatus}),
    progress_sum=st.integers(0, 900),
)


def stored(document: dict[str, Any]) -> dict[str, Any]:
    """A document as it comes back from a disk."""
    found: dict[str, Any] = orjson.loads(orjson.dumps(document))
    return found


def state(thing: Job | Request, *without: str) -> dict[str, Any]:
    return {field.name: getattr(thing, field.name) for field in fields(thing) if field.name not in without}


@given(jobs)
@settings(max_examples=100, deadline=None)
def test_a_job_comes_back_as_it_was(job: Job) -> None:
    document, its_messages = documents.job_to_document(job), documents.messages_to_document(job)
    again = documents.job_from_document(job.id, stored(document), stored(its_messages))
    assert state(again, *TRANSIENT) == state(job, *TRANSIENT)
    assert documents.job_to_document(again) == document
    assert documents.messages_to_document(again) == its_messages


@given(limits)
@settings(max_examples=100)
def test_limits_come_back_as_they_were(given_limits: Limits) -> None:
    assert documents.limits_from_document(stored(documents.limits_to_document(given_limits))) == given_limits


@given(
    job=jobs, status=st.sampled_from(RequestStatus), attempt=st.integers(1, 9), reason=texts,
    progress=st.integers(0, 100), sent_at=st.none() | times, finished_at=st.none() | times,
    code=st.none() | st.integers(100, 999), result=values,
)  # fmt: skip
@settings(max_examples=100, deadline=None)
def test_a_request_comes_back_as_it_was(
    job: Job,
    status: RequestStatus,
    attempt: int,
    reason: str,
    progress: int,
    sent_at: float | None,
    finished_at: float | None,
    code: int | None,
    result: Any,
) -> None:
    ended = finished_at is not None
    request = Request(
        id=5,
        job=job,
        message_number=0,
        destination="a",
        status=status,
        attempt=attempt,
        reason=reason,
        progress=progress,
        sent_at=sent_at,
        finished_at=finished_at,
        code=code if ended else None,
        result=result if ended else None,
    )
    again = documents.request_from_document(5, stored(documents.request_to_document(request)), job)
    assert state(again, "job") == state(request, "job")


def test_a_request_that_was_never_touched_is_stored_in_few_words() -> None:
    job = Job(
        id=1_000_000,
        messages=(Message(method="get", resource="/", timeout=1.0),),
        first_request=1_000_001,
        total_count=1,
        created_at=5.0,
    )
    request = Request(id=1_000_001, job=job, message_number=0, destination="a")
    document = documents.request_to_document(request)
    assert document == {"job": 1_000_000, "destination": "a", "message": 0, "status": "created"}
    assert state(documents.request_from_document(1_000_001, document, job), "job") == state(request, "job")


def test_documents_hold_plain_json_and_no_enums_or_tuples() -> None:
    job = Job(
        id=1, messages=(), first_request=2, total_count=1, created_at=5.0, labels=("a",),
        limits=Limits(retry=RetryPolicy(on=frozenset({503, "timeout", 423})), rate=Rate(per_minute=5)),
    )  # fmt: skip
    document = documents.job_to_document(job)
    assert stored(document) == document
    assert document["limits"]["retry"]["on"] == [423, 503, "timeout"]
    assert type(document["status"]) is str
    assert all(type(key) is str for key in document["counts"])
