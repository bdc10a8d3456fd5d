"""The documents of the store: what a job and a request look like on disk.

What never changes, a job's messages, is a document of its own, for the job's counters are saved many times a second.
A request names its message by number and keeps only what differs from its birth, so that 500,000 of them fit in
memory. Times are seconds since 1970.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from puppetmaster.models import Job, Limits, Message, Request
from puppetmaster.policies import AbortThreshold, Connection, Offline, Rate, RetryPolicy, Targets
from puppetmaster.states import REQUEST_WORDS, JobStatus, RequestStatus

Document = dict[str, Any]

JOBS, MESSAGES, REQUESTS, META = "jobs", "messages", "requests", "meta"
"""The tables. Jobs and their messages have the job's id, requests their own."""

META_ID = 1
"""The one document of the meta table: ``{instance, nextId, stopped}``; the last tells a stop from a kill."""


def job_to_document(job: Job) -> Document:
    """A job as it is stored, but for its messages."""
    document: Document = {
        "name": job.name,
        "labels": list(job.labels),
        "key": job.key,
        "fingerprint": job.fingerprint,
        "limits": limits_to_document(job.limits),
        "firstRequest": job.first_request,
        "totalCount": job.total_count,
        "createdAt": job.created_at,
        "startAt": job.start_at,
        "startedAt": job.started_at,
        "finishedAt": job.finished_at,
        "status": job.status.value,
        "reason": job.reason,
        "counts": {word: job.counts[status] for status, word in REQUEST_WORDS.items()},
        "progressSum": job.progress_sum,
    }
    if job.targets is not None:
        document["targets"] = targets_to_document(job.targets)
        document["isPlanned"] = job.plan is not None
    return document


def messages_to_document(job: Job) -> Document:
    """The messages of a job as they are stored, and its batch while its requests are not made."""
    # Spelled out: asdict copies what it is given down to its leaves, and a job may have 100,000 of them.
    plan = {} if job.plan is None else {"plan": [[number, list(named)] for number, named in job.plan]}
    return {
        **plan,
        "messages": [
            {"method": message.method, "resource": message.resource, "data": message.data, "timeout": message.timeout}
            for message in job.messages
        ]
    }


def job_from_document(job_id: int, document: Mapping[str, Any], messages: Mapping[str, Any]) -> Job:
    """A job as it was stored."""
    return Job(
        id=job_id,
        name=document["name"],
        labels=tuple(document["labels"]),
        key=document["key"],
        fingerprint=document["fingerprint"],
        targets=targets_from_document(document["targets"]) if "targets" in document else None,
        plan=[(number, named) for number, named in messages["plan"]] if document.get("isPlanned") else None,
        messages=tuple(Message(**message) for message in messages["messages"]),
        limits=limits_from_document(document["limits"]),
        first_request=document["firstRequest"],
        total_count=document["totalCount"],
        created_at=document["createdAt"],
        start_at=document["startAt"],
        started_at=document["startedAt"],
        finished_at=document["finishedAt"],
        status=JobStatus(document["status"]),
        reason=document["reason"],
        counts={status: document["counts"].get(status.value, 0) for status in RequestStatus},
        progress_sum=document["progressSum"],
    )


def limits_to_document(limits: Limits) -> Document:
    """The limits of a job as they are stored."""
    # Spelled out: asdict took 20 µs, and this is written with every change of a job.
    retry, rate, abort = limits.retry, limits.rate, limits.abort
    return {
        "timeout": limits.timeout,
        "concurrency": limits.concurrency,
        "retry": {
            "limit": retry.limit,
            "delay": retry.delay,
            "factor": retry.factor,
            "max_delay": retry.max_delay,
            "jitter": retry.jitter,
            "on": sorted(retry.on, key=str),
        },
        "rate": rate and {
            "per_minute": rate.per_minute,
            "factor": rate.factor,
            "every": rate.every,
            "maximum": rate.maximum,
        },
        "abort": abort and {"error_percent": abort.error_percent, "minimum": abort.minimum},
        "priority": limits.priority,
        "offline": limits.offline and limits.offline.value,
    }


def limits_from_document(document: Mapping[str, Any]) -> Limits:
    """The limits of a job as they were stored."""
    retry, rate, abort = document["retry"], document["rate"], document["abort"]
    return Limits(
        timeout=document["timeout"],
        concurrency=document["concurrency"],
        priority=document["priority"],
        offline=Offline(document["offline"]) if document.get("offline") else None,
        retry=RetryPolicy(**{**retry, "on": frozenset(retry["on"])}),
        rate=Rate(**rate) if rate else None,
        abort=AbortThreshold(**abort) if abort else None,
    )


def targets_to_document(targets: Targets) -> Document:
    """Targets as they are stored, and as callers write them: what was not given is left out."""
    document: Document = {}
    if targets.labels:
        document["labels"] = {name: list(values) for name, values in targets.labels.items()}
    if targets.facts:
        document["facts"] = {name: list(values) for name, values in targets.facts.items()}
    if targets.connection is not None:
        document["connection"] = sorted(connection.value for connection in targets.connection)
    if targets.sample_percent is not None:
        document["sample"] = f"{targets.sample_percent:g}%"
    if targets.sample_count is not None:
        document["sample"] = targets.sample_count
    return document


def targets_from_document(document: Mapping[str, Any]) -> Targets:
    """Targets as they were stored."""
    connection, sample = document.get("connection"), document.get("sample")
    return Targets(
        labels={name: tuple(values) for name, values in document.get("labels", {}).items()},
        facts={name: tuple(values) for name, values in document.get("facts", {}).items()},
        connection=None if connection is None else frozenset(map(Connection, connection)),
        sample_percent=float(sample[:-1]) if isinstance(sample, str) else None,
        sample_count=sample if isinstance(sample, int) else None,
    )


def request_to_document(request: Request) -> Document:
    """A request as it is stored."""
    document: Document
    if request.sent_at is not None or request.reason != "created":
        document = {
            "job": request.job.id,
            "destination": request.destination,
            "message": request.message_number,
            "status": REQUEST_WORDS[request.status],
            "attempt": request.attempt,
            "reason": request.reason,
            "progress": request.progress,
            "sentAt": request.sent_at,
        }
    else:
        document = {
            "job": request.job.id,
            "destination": request.destination,
            "message": request.message_number,
            "status": REQUEST_WORDS[request.status],
        }
        if request.attempt:
            document["attempt"] = request.attempt
    if request.retry_at:
        document["retryAt"] = request.retry_at
    if request.finished_at is not None:
        document["finishedAt"] = request.finished_at
        document["code"] = request.code
        document["result"] = request.result
    return document


def request_from_document(request_id: int, document: Mapping[str, Any], job: Job) -> Request:
    """A request as it was stored."""
    return Request(
        id=request_id,
        job=job,
        message_number=document["message"],
        destination=document["destination"],
        status=RequestStatus(document["status"]),
        reason=document.get("reason", "created"),
        attempt=document.get("attempt", 0),
        retry_at=document.get("retryAt", 0.0),
        progress=document.get("progress", 0),
        sent_at=document.get("sentAt"),
        finished_at=document.get("finishedAt"),
        code=document.get("code"),
        result=document.get("result"),
    )
