"""The calls of the HTTP API as values: what is asked for, and how the answer is read.

Both clients send these; nothing here knows how.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Generic, Literal, TypedDict, TypeVar

from puppetmaster.client.documents import CREATE_TIMEOUT, Document, device_path, fact_path, with_query
from puppetmaster.errors import Fault, InvalidDocument
from puppetmaster.schemas import Account, AnswerGroup, Device, DryRun, FactValue, Health, Job, Request, Token
from puppetmaster.times import to_text

ANSWER_TIMEOUT = 30.0
"""Seconds for an answer."""

T = TypeVar("T")

Texts = str | Sequence[str]
"""One text, or several."""

OTHER_NAMES = {"request_timeout": "requestTimeout", "start_at": "startAt"}


class Limits(TypedDict, total=False):
    """What steers a job, as in the job document of docs/api.md."""

    timeout: float | None
    """Seconds for the whole job."""
    concurrency: int | None
    """How many devices at once."""
    priority: int | None
    """0 to 100; a job with a higher one sends first."""
    retry: Mapping[str, Any] | None
    """When a request is tried again: ``{"limit": 5, "on": [503, "timeout"]}``."""
    rate: Mapping[str, Any] | None
    """How many requests may be sent in a minute: ``{"perMinute": 60}``."""
    abort: Mapping[str, Any] | None
    """When the job gives up: ``{"errorPercent": 10}``."""
    offline: Literal["wait", "skip", "fail"] | None
    """What becomes of a request whose device is known to be offline; none: it is sent all the same."""


class RerunOptions(Limits, total=False):
    """What a job that is run again may be given; what is not given is taken over."""

    name: str | None
    labels: Sequence[str] | Mapping[str, str] | None
    """Labels to find it by; ``{"site": "berlin"}`` is another way to write ``["site=berlin"]``."""
    key: str | None
    """The same key never makes a second job of the same content; one is made up when none is given."""
    start_at: datetime | str | None
    """When to begin."""


class JobOptions(RerunOptions, total=False):
    """What a new job may be given beside its message."""

    request_timeout: float | None
    """Seconds that a device may take to answer."""
    targets: Mapping[str, Any] | None
    """Devices that get the message beside the destinations: ``{"labels": {"site": "berlin"}, "sample": "10%"}``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Call(Generic[T]):
    """One call."""

    method: str
    """Lower case, as in the Sanji protocol."""
    resource: str
    """A path with its query string."""
    read: Callable[[Any], T]
    """Makes the answer's JSON what the caller gets; raises a ValueError when it can't."""
    body: Any = None
    timeout: float = ANSWER_TIMEOUT
    """Seconds for an answer."""
    repeatable: bool = True
    """Whether doing it twice is the same as doing it once."""
    also: tuple[int, ...] = ()
    """Codes beside 2xx that bring an answer as well."""
    headers: Mapping[str, str] = field(default_factory=dict)

    @property
    def path(self) -> str:
        """The resource without its query string."""
        return self.resource.partition("?")[0]


# Jobs


def job_document(
    method: str, resource: str, destinations: str | Iterable[str], data: Any, options: Mapping[str, Any]
) -> Document:
    """The document of a job that sends one message to many destinations; with targets there may be none."""
    listed = [destinations] if isinstance(destinations, str) else list(destinations)
    message: Document = {"method": method, "resource": resource}
    if listed or not options.get("targets"):
        message["__request"] = {"destination": listed}
    if data is not None:
        message["data"] = data
    return {"batch": [message], **_options(options, JobOptions)}


def create_job(document: Mapping[str, Any]) -> Call[Job]:
    """Create a job."""
    return _create("/jobs", document, _one(Job))


def preview_job(document: Mapping[str, Any]) -> Call[DryRun]:
    """What a job would be; nothing is made."""
    return _preview("/jobs", document)


def rerun_job(job_id: int, status: Texts | None, options: Mapping[str, Any]) -> Call[Job]:
    """Make a new job of those requests of a job that have such a status."""
    return _create(f"/jobs/{job_id}/rerun", _rerun_document(status, options), _one(Job))


def preview_rerun(job_id: int, status: Texts | None, options: Mapping[str, Any]) -> Call[DryRun]:
    """What a rerun would be; nothing is made."""
    return _preview(f"/jobs/{job_id}/rerun", _rerun_document(status, options))


def list_jobs(**query: Any) -> Call[list[Job]]:
    """A page of the jobs."""
    since = query.get("since")
    query["since"] = _time(since) if isinstance(since, datetime) else since
    return _get(with_query("/jobs", query), _many(Job))


def show_job(job_id: int) -> Call[Job]:
    """One job, without its requests."""
    return _get(f"/jobs/{job_id}?collection=false&limit=0", _one(Job))


def watch_job(job_id: int) -> Call[Job]:
    """The stream of a job's states, and how one is read."""
    return _watch(job_id, _one(Job))


def watch_document(job_id: int) -> Call[Document]:
    """The same stream, read as documents."""
    return _watch(job_id, lambda document: document)


def update_job(job_id: int, status: str | None, limits: Mapping[str, Any]) -> Call[Job]:
    """Pause, resume or cancel a job, or give it other limits."""
    document = _options(limits, Limits, keep_none=True)
    if status is not None:
        document["status"] = status
    return Call(method="put", resource=f"/jobs/{job_id}", body=document, read=_one(Job))


def remove_job(job_id: int) -> Call[Job]:
    """Remove a job: not to be repeated, for a second one finds no job."""
    return Call(method="delete", resource=f"/jobs/{job_id}", read=_one(Job), repeatable=False)


def list_answers(job_id: int, **query: Any) -> Call[list[AnswerGroup]]:
    """The equal answers of a job's devices, counted."""
    return _get(with_query(f"/jobs/{job_id}/answers", query), _many(AnswerGroup))


# Requests


def create_request(
    method: str, resource: str, destination: str, data: Any, timeout: float | None, key: str | None
) -> Call[Request]:
    """Send one message to one destination."""
    message = {"method": method, "resource": resource}
    document: Document = {"destination": destination, "message": message, "key": key}
    if data is not None:
        message["data"] = data
    if timeout is not None:
        document["options"] = {"timeout": timeout * 1000}
    return _create("/requests", document, _one(Request))


def list_requests(**query: Any) -> Call[list[Request]]:
    """A page of the requests."""
    return _get(with_query("/requests", query), _many(Request))


def show_request(request_id: int) -> Call[Request]:
    """One request."""
    return _get(f"/requests/{request_id}", _one(Request))


def cancel_request(request_id: int) -> Call[Request]:
    """Cancel a request; one that is canceled stays so."""
    return Call(method="delete", resource=f"/requests/{request_id}", read=_one(Request))


# Devices


def list_devices(**query: Any) -> Call[list[Device]]:
    """A page of the devices."""
    return _get(with_query("/devices", query), _many(Device))


def show_device(device_id: str) -> Call[Device]:
    """One device."""
    return _get(device_path(device_id), _one(Device))


def label_device(device_id: str, labels: Mapping[str, str | None] | None) -> Call[Device]:
    """Give a device labels."""
    body = {"labels": None if labels is None else dict(labels)}
    return Call(method="put", resource=device_path(device_id), body=body, read=_one(Device))


def remove_device(device_id: str) -> Call[Device]:
    """Forget a device: not to be repeated, for a second one finds no device."""
    return Call(method="delete", resource=device_path(device_id), read=_one(Device), repeatable=False)


def list_fact_values(fact: str, **query: Any) -> Call[list[FactValue]]:
    """What devices say of a fact, counted."""
    return _get(with_query(fact_path(fact), query), _many(FactValue))


# The server


def log_in(name: str, password: str) -> Call[Token]:
    """Get a token."""
    body = {"name": name, "password": password}
    return Call(method="post", resource="/login", body=body, read=_one(Token), repeatable=False)


def log_out() -> Call[None]:
    """End the token."""
    return Call(method="post", resource="/logout", read=lambda data: None)


def show_account() -> Call[Account]:
    """Who we are there."""
    return _get("/account", _one(Account))


def show_health() -> Call[Health]:
    """How the server is; one that is not ready says so with 503."""
    return Call(method="get", resource="/health", read=_one(Health), also=(503,))


def anything(method: str, resource: str, data: Any, timeout: float | None) -> Call[Any]:
    """Any call, its answer as it comes."""
    method = method.lower()
    keyed = isinstance(data, dict) and (data.get("key") or data.get("dryRun"))
    return Call(
        method=method,
        resource=resource,
        body=data,
        read=lambda found: found,
        timeout=timeout or ANSWER_TIMEOUT,
        repeatable=method in ("get", "put") or (method == "post" and bool(keyed)),
    )


def with_key(document: Mapping[str, Any]) -> Document:
    """A document with a key: its own, or one made up here. Sent again with it, it makes nothing again."""
    if document.get("key") is not None or document.get("dryRun"):
        return dict(document)
    return {**document, "key": secrets.token_urlsafe(18)}


# What they are made of


def _get(resource: str, read: Callable[[Any], T]) -> Call[T]:
    return Call(method="get", resource=resource, read=read)


def _create(resource: str, document: Mapping[str, Any], read: Callable[[Any], T]) -> Call[T]:
    if document.get("dryRun"):
        raise InvalidDocument([Fault("dryRun", "this call makes what it is given; dry_run tells what there would be")])
    body = with_key(document)
    return Call(method="post", resource=resource, body=body, read=read, timeout=CREATE_TIMEOUT)


def _preview(resource: str, document: Mapping[str, Any]) -> Call[DryRun]:
    body = {**document, "dryRun": True}
    return Call(method="post", resource=resource, body=body, read=_one(DryRun), timeout=CREATE_TIMEOUT)


def _watch(job_id: int, read: Callable[[Any], T]) -> Call[T]:
    headers = {"Accept": "text/event-stream", "Cache-Control": "no-store"}
    return Call(method="get", resource=f"/jobs/{job_id}/events", read=read, headers=headers)


def _rerun_document(status: Texts | None, options: Mapping[str, Any]) -> Document:
    statuses: Document = {} if status is None else {"status": [status] if isinstance(status, str) else list(status)}
    return {**statuses, **_options(options, RerunOptions)}


def _options(given: Mapping[str, Any], known: type, *, keep_none: bool = False) -> Document:
    """Options in the words of the documents."""
    unknown = given.keys() - known.__annotations__.keys()
    if unknown:
        raise TypeError(f"there is no option {min(unknown)!r}; there are {', '.join(sorted(known.__annotations__))}")
    document = {OTHER_NAMES.get(name, name): value for name, value in given.items() if keep_none or value is not None}
    if isinstance(document.get("startAt"), datetime):
        document["startAt"] = _time(document["startAt"])
    return document


def _time(moment: datetime) -> str | None:
    return to_text(moment.timestamp())


def _one(model: Any) -> Callable[[Any], Any]:
    return lambda data: model.model_validate(data)


def _many(model: Any) -> Callable[[Any], Any]:
    def read(data: Any) -> list[Any]:
        if not isinstance(data, list):
            raise ValueError("it is no list")
        return [model.model_validate(entry) for entry in data]

    return read
