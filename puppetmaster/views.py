"""What comes back: jobs and requests as callers see them, in the names of the reference documents."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from puppetmaster.answers import Group
from puppetmaster.errors import InvalidDocument, PuppetmasterError
from puppetmaster.models import Job, JobSpec, mean_progress
from puppetmaster.states import JOB_FINAL, REQUEST_FINAL, RequestStatus
from puppetmaster.times import to_text
from puppetmaster.wire import encode

View = dict[str, Any]

MAX_RESULT_BYTES = 4096
"""How much of a result stands among the grouped answers: a hundred of them fit one message on the bus."""

_FINAL = tuple(status.value for status in REQUEST_FINAL)
_FINAL_JOB = frozenset(status.value for status in JOB_FINAL)

MAX_PREVIEW = 500
"""How many destinations a dry run names: with those that are away they fit one message on the bus."""


def job_view(job_id: int, document: Mapping[str, Any]) -> View:
    """A job without its requests, from its document in the store."""
    counts = document["counts"]
    done = sum(counts[status] for status in _FINAL)
    return {
        "id": job_id,
        "name": document["name"],
        "labels": document["labels"],
        "createdAt": to_text(document["createdAt"]),
        "startAt": to_text(document["startAt"]),
        "startedAt": to_text(document["startedAt"]),
        "finishedAt": to_text(document["finishedAt"]),
        "timeout": _whole(document["limits"]["timeout"]),
        **_limits_view(document["limits"]),
        "targets": document.get("targets"),
        "status": document["status"],
        "reason": document["reason"],
        "progress": mean_progress(document["progressSum"], document["totalCount"], document["status"] in _FINAL_JOB),
        "totalCount": document["totalCount"],
        "finishCount": counts[RequestStatus.RESOLVED.value],
        "errorCount": done - counts[RequestStatus.RESOLVED.value],
        "doneCount": done,
        "counts": counts,
    }


def request_view(request_id: int, document: Mapping[str, Any], job: Job) -> View:
    """A request, from its document in the store."""
    message = job.messages[document["message"]]
    return {
        "id": request_id,
        "method": message.method,
        "resource": message.resource,
        "data": message.data,
        "__request": {
            "job": job.id,
            "destination": document["destination"],
            "createdAt": to_text(job.created_at),
            "sentAt": to_text(document.get("sentAt")),
            "finishedAt": to_text(document.get("finishedAt")),
            "timeout": _whole(message.timeout),
            "attempt": document.get("attempt", 0),
            "status": document["status"],
            "reason": document.get("reason", "created"),
            "progress": document.get("progress", 0),
            "code": document.get("code"),
            "result": document.get("result"),
        },
    }


def dry_run_view(spec: JobSpec, is_offline: Callable[[str], bool]) -> View:
    """What would have been made: how much, for whom, and who of them is away; up to ``MAX_PREVIEW`` are named."""
    destinations = list(dict.fromkeys(name for _, named in spec.batch for name in named))
    offline = [name for name in destinations if is_offline(name)]
    return {
        "dryRun": True,
        "totalCount": spec.total,
        "destinationCount": len(destinations),
        "messageCount": len(spec.messages),
        "destinations": destinations[:MAX_PREVIEW],
        "offlineCount": len(offline),
        "offline": offline[:MAX_PREVIEW],
    }


def answer_view(group: Group, document: Mapping[str, Any]) -> View:
    """Requests that ended in the same way, from the document of one of them.

    A result over ``MAX_RESULT_BYTES`` is given as the beginning of its JSON text, cut between two characters.
    """
    result = document.get("result")
    text = encode(result)
    cut = len(text) > MAX_RESULT_BYTES
    return {
        "status": document["status"],
        "code": document.get("code"),
        "result": text[:MAX_RESULT_BYTES].decode("utf-8", "ignore") if cut else result,
        "cut": cut,
        "count": group.count,
        "destinations": list(group.destinations),
    }


def _limits_view(limits: Mapping[str, Any]) -> View:
    """The limits, in the words of the job document."""
    retry, rate, abort = limits["retry"], limits["rate"], limits["abort"]
    return {
        "priority": limits["priority"],
        "concurrency": limits["concurrency"],
        "retry": {
            "limit": retry["limit"],
            "delay": _whole(retry["delay"]),
            "factor": _whole(retry["factor"]),
            "maxDelay": _whole(retry["max_delay"]),
            "jitter": _whole(retry["jitter"]),
            "on": retry["on"],
        },
        "rate": rate
        and {
            "perMinute": _whole(rate["per_minute"]),
            "factor": _whole(rate["factor"]),
            "every": rate["every"],
            "max": _whole(rate["maximum"]),
        },
        "abort": abort and {"errorPercent": _whole(abort["error_percent"]), "minimum": abort["minimum"]},
        "offline": limits.get("offline"),
    }


def _whole(seconds: float | None) -> float | int | None:
    """A duration as people write it: 3600, not 3600.0."""
    return int(seconds) if seconds is not None and seconds == int(seconds) else seconds


def error_view(error: PuppetmasterError) -> View:
    """What a caller is told of an error: ``{message}``, with ``errors: [{path, message}]`` for bad input."""
    view: View = {"message": str(error)}
    if isinstance(error, InvalidDocument):
        view["errors"] = [{"path": fault.path, "message": fault.message} for fault in error.faults]
    return view
