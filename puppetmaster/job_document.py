"""The job document: three spellings of one thing, checked and brought to one form here and nowhere else.

=========== ================================================================================================
batch       ``batch: [{method, resource, data?, __request: {destination}}]``, also ``__request.__destination``
            and a bare ``__destination``
collection  ``collection: [{method, resource, data?, __destination}]``; a client's id, tunnel, __task are ignored
broadcast   ``destinations, message: {method, resource, data?}, options: {timeout}`` (this timeout in milliseconds)
=========== ================================================================================================

A destination is a text or a list of texts. Every fault is reported with the path to it, not only the first; in a long
list those of its first bad item.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from typing import Annotated, Any, Literal, TypeVar

import orjson
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from puppetmaster.errors import Fault, InvalidDocument, TooLarge
from puppetmaster.fields import (
    MAX_FAULTS,
    Choices,
    Code,
    Connections,
    Count,
    Data,
    Destination,
    Destinations,
    FinalStatuses,
    Labels,
    Method,
    Milliseconds,
    Name,
    PerMinute,
    Priority,
    Resource,
    RetryLimit,
    Sample,
    Schema,
    Seconds,
    Time,
    encodable,
    first_fault_if_long,
    not_empty,
    plain,
)
from puppetmaster.models import JobSpec, Limits, Message
from puppetmaster.policies import (
    LOCALHOST,
    TIMEOUT,
    TRANSIENT_CODES,
    AbortThreshold,
    Connection,
    Offline,
    Rate,
    RetryPolicy,
    Targets,
)
from puppetmaster.states import REQUEST_FAILED, RequestStatus

MAX_FIELDS = 1000
"""How many fields an object may have before its unknown ones are not even named."""

MAX_RETRIED = 100
"""How many answer codes a retry may name."""

LARGE = 1000
"""Messages, or destinations, of a body that is large: 10 ms and 1 ms of work."""

NO_OBJECT = Fault("", "the body has to be a JSON object")

_Model = TypeVar("_Model", bound=BaseModel)


class _Part(BaseModel):
    """Unknown fields are faults: a typing error must not change what a fleet is told to do."""

    model_config = ConfigDict(strict=True, extra="forbid", use_attribute_docstrings=True, json_schema_extra=plain)

    @model_validator(mode="before")
    @classmethod
    def _few_fields(cls, value: Any) -> Any:
        # Each of them would be a fault of its own, and a million faults take half a minute to find.
        if isinstance(value, dict) and len(value) > MAX_FIELDS:
            raise ValueError(f"it has {len(value)} fields, and may have {MAX_FIELDS}")
        return value


class _Lenient(BaseModel):
    """Unknown fields are ignored: clients send whole messages, ids and tunnels included."""

    model_config = ConfigDict(strict=True, extra="ignore", use_attribute_docstrings=True, json_schema_extra=plain)


class RetryPart(_Part):
    """When a request is tried again. Without it only what was refused is (423, 429, 503), not silence."""

    limit: RetryLimit = 3
    """How many attempts may follow the first one; 0: none."""
    delay: Seconds = 1.0
    """Seconds before the second attempt."""
    factor: Annotated[float, Field(ge=1, le=100, allow_inf_nan=False)] = 2.0
    """Each delay is so many times the one before."""
    max_delay: Seconds = Field(60.0, alias="maxDelay")
    """Seconds of the longest delay."""
    jitter: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)] = 0.5
    """Each delay is shortened at random by up to this share of it, so that not all come back at once."""
    on: list[Code | Literal["timeout"]] = Field(
        default=[*sorted(TRANSIENT_CODES), TIMEOUT], min_length=1, max_length=MAX_RETRIED
    )
    """The answer codes after which it is tried again, and "timeout" for silence."""

    def to_policy(self) -> RetryPolicy:
        """The policy that it describes."""
        return RetryPolicy(
            limit=self.limit,
            delay=self.delay,
            factor=self.factor,
            max_delay=self.max_delay,
            jitter=self.jitter,
            on=frozenset(self.on),
        )


class RatePart(_Part):
    """How many requests may be sent in a minute. The rate may grow with what has worked."""

    per_minute: PerMinute = Field(alias="perMinute")
    """Requests in a minute."""
    factor: Annotated[float, Field(ge=1, le=1000, allow_inf_nan=False)] = 1.0
    """The rate is multiplied by this, each time that `every` requests have resolved; 1: it stays."""
    every: Count = 1
    """How many requests have to resolve before the rate grows."""
    max: PerMinute | None = None
    """Requests in a minute that the rate may grow to, not less than `perMinute`; null: without end."""

    @model_validator(mode="after")
    def _in_order(self) -> RatePart:
        if self.max is not None and self.max < self.per_minute:
            raise ValueError("max can't be less than perMinute")
        return self

    def to_policy(self) -> Rate:
        """The rate that it describes."""
        return Rate(per_minute=self.per_minute, factor=self.factor, every=self.every, maximum=self.max)


class AbortPart(_Part):
    """When the job gives up: it ends as aborted."""

    error_percent: Annotated[float, Field(gt=0, le=100, allow_inf_nan=False)] = Field(alias="errorPercent")
    """Percent of the ended requests that have failed (error or timeout; canceled ones don't count) ..."""
    minimum: Count = 1
    """... when at least so many have ended."""

    def to_policy(self) -> AbortThreshold:
        """The threshold that it describes."""
        return AbortThreshold(error_percent=self.error_percent, minimum=self.minimum)


class LimitsPart(_Part):
    """What a job may be given at its birth and later."""

    timeout: Seconds | None = None
    """Seconds for the whole job, from its start; then it ends as timeout. Null: it takes what it takes."""
    concurrency: Count | None = None
    """How many requests of this job may be out at once; null: as many as there is room for."""
    retry: RetryPart | None = None
    """When a request is tried again."""
    rate: RatePart | None = None
    """How many requests may be sent in a minute; null: as many as there is room for."""
    abort: AbortPart | None = None
    """When the job gives up; null: never."""
    priority: Priority | None = None
    """A job with a higher one sends first, jobs of one priority send in turn. 50 unless it is given."""
    offline: Literal["wait", "skip", "fail"] | None = None
    """What becomes of a request whose device is known to be offline. wait: it is sent when the device comes online.
    skip: it ends as canceled. fail: it ends as an error with code 503. Null: it is sent all the same; the broker keeps
    it for a device with a persistent session."""

    def to_limits(self, base: Limits) -> Limits:
        """``base`` with what was given; a field that is null goes back to its default."""
        given = self.model_fields_set
        default = Limits()
        return Limits(
            timeout=self.timeout if "timeout" in given else base.timeout,
            concurrency=self.concurrency if "concurrency" in given else base.concurrency,
            retry=(self.retry.to_policy() if self.retry else default.retry) if "retry" in given else base.retry,
            rate=(self.rate.to_policy() if self.rate else None) if "rate" in given else base.rate,
            abort=(self.abort.to_policy() if self.abort else None) if "abort" in given else base.abort,
            priority=(default.priority if self.priority is None else self.priority)
            if "priority" in given
            else base.priority,
            offline=(Offline(self.offline) if self.offline else None) if "offline" in given else base.offline,
        )


class MessagePart(_Lenient):
    """What a device is asked to do. Other fields are ignored."""

    method: Method
    """get, post, put or delete, in any case."""
    resource: Resource
    """The path on the device: at most 1023 bytes in UTF-8, no control characters."""
    data: Data = None
    """Any JSON, at most 100 levels deep and 448 KiB as text, whole numbers of at most 64 bits; null is not sent."""


class RequestPart(_Lenient):
    """Where a message goes and how long it may take. Other fields are ignored."""

    destination: Destinations | None = None
    """One destination or a list of them; "localhost" is the machine that puppetmaster runs on."""
    old_destination: Destinations | None = Field(None, alias="__destination")
    """Another way to write `destination`, which goes before it."""
    timeout: Seconds | None = None
    """Seconds that each attempt of its requests may take; it goes before `requestTimeout` of the job."""


def _with_destinations(schema: Schema) -> None:
    plain(schema)
    schema["anyOf"] = [_is_given("destinations"), _is_given("targets")]


def _is_given(name: str) -> Schema:
    """Holds when a field is there and not null."""
    return {"required": [name], "properties": {name: {"not": {"type": "null"}}}}


def _with_destination(schema: Schema) -> None:
    plain(schema)
    inside = {"type": "object", "anyOf": [_is_given("destination"), _is_given("__destination")]}
    schema["anyOf"] = [
        {"required": ["__request"], "properties": {"__request": inside}},
        _is_given("__destination"),
    ]


class BatchPart(MessagePart):
    """One message of a batch and where it goes: its destination has to be given in one of three places."""

    model_config = ConfigDict(json_schema_extra=_with_destination)

    request: RequestPart | None = Field(None, alias="__request")
    """Where it goes and how long it may take."""
    destination: Destinations | None = Field(None, alias="__destination")
    """One destination or a list of them, where `__request` has none."""

    @property
    def destinations(self) -> list[str] | None:
        """Where it goes, whichever way it was written."""
        part = self.request
        return (part.destination or part.old_destination if part else None) or self.destination

    @property
    def timeout(self) -> float | None:
        """Seconds for its requests, if it has its own."""
        return self.request.timeout if self.request else None


class OptionsPart(_Lenient):
    """Options of the predecessor; others than these are ignored."""

    timeout: Milliseconds | None = None
    """Milliseconds that each attempt of a request may take."""


class _NewJob(LimitsPart):
    """What only a job that is being made may be given."""

    name: Name | None = None
    """What people call the job; 1 to 128 characters, no control characters."""
    labels: Labels | None = None
    """Up to 64 texts to find the job by. An object {"site": "berlin"} is another way to write ["site=berlin"]; each of
    them has 1 to 128 characters in that form, no control characters."""
    start_at: Time | None = Field(None, alias="startAt")
    """When the job starts, ISO 8601; UTC where it has no offset. At once where it is in the past or not given."""
    key: Name | None = None
    """Makes it safe to send the body again: the same key with the same body answers the same job, and makes no
    second one; with another body it is refused (409)."""
    dry_run: bool | None = Field(None, alias="dryRun")
    """True: everything is checked and nothing is made; the answer tells how many requests there would be."""


class TargetsPart(_Part):
    """Devices by what is known of them. Whoever fits all that is given is meant; an empty object means every device.

    `localhost`, the machine that puppetmaster runs on, is never meant by it.
    """

    labels: Choices | None = None
    """For each label the value that it has to have, or a list of values of which it has to have one."""
    facts: Choices | None = None
    """The same of what devices tell about themselves: hostname, system, version and so on."""
    connection: Connections | None = None
    """online, offline or unknown, or a list of them; null: it does not matter."""
    sample: Sample | None = None
    """A random choice of those that fit: a share such as "10%" (at least one device), or how many."""

    def to_targets(self) -> Targets:
        """The targets that it describes."""
        sample = self.sample
        return Targets(
            labels={name: tuple(values) for name, values in (self.labels or {}).items()},
            facts={name: tuple(values) for name, values in (self.facts or {}).items()},
            connection=None if self.connection is None else frozenset(map(Connection, self.connection)),
            sample_percent=float(sample[:-1]) if isinstance(sample, str) else None,
            sample_count=sample if isinstance(sample, int) else None,
        )


class _JobPart(_NewJob):
    request_timeout: Seconds | None = Field(None, alias="requestTimeout")
    """Seconds that each attempt of a request may take; the setting request_timeout (3600) unless it is given."""
    targets: TargetsPart | None = None
    """Devices that get every message, beside the destinations of that message. They are looked up when the job
    starts."""


class BatchJob(_JobPart):
    """Messages, each with its destinations in `__request.destination`. It becomes one request for each of them."""

    batch: Annotated[list[BatchPart], Field(min_length=1), first_fault_if_long(BatchPart)]
    """The messages. A destination gets its requests one at a time, in the order of this list."""


class CollectionJob(_JobPart):
    """Messages, each with its destinations in `__destination`; their `id`, `tunnel` and `__task` are ignored."""

    collection: Annotated[list[BatchPart], Field(min_length=1), first_fault_if_long(BatchPart)]
    """The messages. A destination gets its requests one at a time, in the order of this list."""


class BroadcastJob(_JobPart):
    """One message to many destinations."""

    model_config = ConfigDict(json_schema_extra=_with_destinations)

    destinations: Destinations | None = None
    """One destination or a list of them; one that stands in it twice gets two requests. Where there are `targets` it
    may be left out."""
    message: MessagePart
    """What all of them are asked to do."""
    options: OptionsPart | None = None
    """Options of the predecessor."""


class SingleRequest(_Part):
    """One message to one destination."""

    destination: Destination = LOCALHOST
    """Where it goes; "localhost" is the machine that puppetmaster runs on."""
    message: MessagePart
    """What it is asked to do."""
    options: OptionsPart | None = None
    """How long it may take."""
    key: Name | None = None
    """Makes it safe to send the body again: the same key with the same body answers the same request, and makes no
    second one; with another body it is refused (409)."""


class JobUpdate(LimitsPart):
    """A new status, new limits, or both. What is not named stays; a limit that is null goes back to its default."""

    model_config = ConfigDict(json_schema_extra=not_empty)

    status: Literal["paused", "dispatching", "canceled"] | None = None
    """paused: nothing more is sent, what is out is still answered. dispatching: it goes on, or starts before its time.
    canceled: it ends, with all its requests that have not ended. Null: it stays as it is."""


class Rerun(_NewJob):
    """Which requests are run again, and how.

    What is not named is taken over from the job, but for key and startAt. A limit that is null goes back to its
    default; a name or labels that are null are none.
    """

    status: FinalStatuses | None = None
    """Requests in this status, or in any of a list of them, are run again; error and timeout unless it is given."""

    @property
    def statuses(self) -> frozenset[RequestStatus]:
        """Requests in any of these are run again."""
        return frozenset(self.status or REQUEST_FAILED)

    def to_name(self, base: str | None) -> str | None:
        """The name of the new job: what was given (null: none), or that of the job that is run again."""
        return self.name if "name" in self.model_fields_set else base

    def to_labels(self, base: tuple[str, ...]) -> tuple[str, ...]:
        """The labels of the new job: what was given (null: none), or those of the job that is run again."""
        return tuple(self.labels or ()) if "labels" in self.model_fields_set else base

    def fingerprint(self, job_id: int) -> str:
        """Tells whether two bodies with one key ask for the same of the same job; empty without a key.

        It says nothing of the requests: who asks again gets the job that was made at first, whatever became of the
        requests of the old one meanwhile.
        """
        if self.key is None:
            return ""
        asked = {name: getattr(self, name) for name in self.model_fields_set - {"status", "dry_run"}}
        return _digest(["rerun", job_id, sorted(self.statuses), asked])


# Reading


class JobReader:
    """Reads job documents.

    :param request_timeout: seconds for each request of a job that names none.
    :param max_requests: how many requests a job may expand to.
    :param max_destination_bytes: set where a controller carries the answers, for its buffer of a tunnel is short.
    """

    def __init__(
        self,
        *,
        request_timeout: float = 3600.0,
        max_requests: int = 100_000,
        max_destination_bytes: int | None = None,
    ) -> None:
        self.request_timeout = request_timeout
        self.max_requests = max_requests
        self.max_destination_bytes = max_destination_bytes

    def job(self, document: object) -> JobSpec:
        """What a body of POST /jobs asks for.

        :raises InvalidDocument: with every fault that was found.
        :raises TooLarge: when it expands to too many requests.
        """
        spelling = _spelling(document)
        self._check_lengths(document)
        if spelling == "batch":
            part = parse(BatchJob, document)
            return self._spec(part, self._batched(part, part.batch, "batch"), part.request_timeout)
        if spelling == "collection":
            listed = parse(CollectionJob, document)
            batched = self._batched(listed, listed.collection, "collection")
            return self._spec(listed, batched, listed.request_timeout)
        cast = parse(BroadcastJob, document)
        if not cast.destinations and cast.targets is None:
            raise InvalidDocument([Fault("destinations", "it is missing, and there are no targets")])
        batch = [(cast.message, cast.destinations or [], None)]
        return self._spec(cast, batch, cast.request_timeout or _milliseconds(cast.options))

    def is_large(self, document: object) -> bool:
        """Whether it takes more than some milliseconds to read a body."""
        members = document.values() if isinstance(document, dict) else ()
        return any(isinstance(items, list) and len(items) > LARGE for items in members)

    def _check_lengths(self, document: Any) -> None:
        """Refuse what is too long before it is looked at: a million faults take half a minute to find."""
        for name in ("batch", "collection", "destinations"):
            items = document.get(name)
            if isinstance(items, list) and len(items) > self.max_requests:
                raise TooLarge(f"the job has {len(items)} requests, over the limit of {self.max_requests}; split it")

    def request(self, document: object) -> JobSpec:
        """What a body of POST /requests asks for: a job of one request."""
        part = parse(SingleRequest, document)
        batch: list[tuple[MessagePart, list[str], float | None]] = [(part.message, [part.destination], None)]
        return self._spec(_JobPart.model_validate({"key": part.key}), batch, _milliseconds(part.options))

    def update(self, document: object) -> JobUpdate:
        """What a body of PUT /jobs/:id asks for.

        :raises InvalidDocument: also when it asks for nothing.
        """
        part = parse(JobUpdate, document)
        if not part.model_fields_set:
            raise InvalidDocument([Fault("", "give a status or a limit to change")])
        return part

    def rerun(self, document: object) -> Rerun:
        """What a body of POST /jobs/:id/rerun asks for; none asks for nothing special.

        :raises InvalidDocument: with every fault that was found.
        """
        return parse(Rerun, {} if document is None else document)

    def _batched(
        self, part: _JobPart, items: Sequence[BatchPart], field: str
    ) -> list[tuple[MessagePart, list[str], float | None]]:
        missing = "__request.destination" if field == "batch" else "__destination"
        faults = [
            Fault(f"{field}.{number}.{missing}", "it is missing")
            for number, item in enumerate(items)
            if not item.destinations and part.targets is None
        ]
        if faults:
            raise InvalidDocument(faults[:MAX_FAULTS])
        return [(item, item.destinations or [], item.timeout) for item in items]

    def _check_destinations(self, batch: Sequence[tuple[MessagePart, list[str], float | None]]) -> None:
        limit = self.max_destination_bytes
        if limit is None:
            return
        long = [name for _, destinations, _ in batch for name in destinations if len(name.encode()) > limit]
        if long:
            message = f"the controller can't carry answers for more than {limit} bytes: {long[0]!r}"
            raise InvalidDocument([Fault("destination", message)])

    def _spec(
        self,
        part: _JobPart,
        batch: Sequence[tuple[MessagePart, list[str], float | None]],
        request_timeout: float | None,
    ) -> JobSpec:
        total = sum(len(destinations) for _, destinations, _ in batch)
        if total > self.max_requests:
            raise TooLarge(f"the job has {total} requests, over the limit of {self.max_requests}; split it")
        self._check_destinations(batch)
        default = request_timeout or self.request_timeout
        messages: dict[bytes, int] = {}
        expansion = []
        unique: list[Message] = []
        for item, destinations, timeout in batch:
            message = Message(
                method=item.method, resource=item.resource, data=item.data, timeout=timeout or default
            )
            number = messages.setdefault(_identity(message), len(unique))
            if number == len(unique):
                unique.append(message)
            expansion.append((number, destinations))
        spec = JobSpec(
            messages=tuple(unique),
            batch=expansion,
            limits=part.to_limits(Limits()),
            start_at=part.start_at,
            name=part.name,
            labels=tuple(part.labels or ()),
            key=part.key,
            dry_run=bool(part.dry_run),
            targets=part.targets.to_targets() if part.targets else None,
        )
        return spec if spec.key is None else replace(spec, fingerprint=_fingerprint(spec))


def _spelling(document: object) -> str:
    if not isinstance(document, dict):
        raise InvalidDocument([NO_OBJECT])
    found = [name for name in ("batch", "collection", "destinations", "message") if name in document]
    if not found:
        raise InvalidDocument([Fault("", "it needs batch, collection, or message and destinations or targets")])
    if "destinations" in found or "message" in found:
        if "batch" in found or "collection" in found:
            raise InvalidDocument([Fault(found[0], f"it can't stand beside {found[1]}")])
        return "broadcast"
    if len(found) > 1:
        raise InvalidDocument([Fault(found[0], f"it can't stand beside {found[1]}")])
    return found[0]


def parse(model: type[_Model], document: object) -> _Model:
    """A body, checked.

    :raises InvalidDocument: with every fault that was found.
    """
    if not isinstance(document, dict):
        raise InvalidDocument([NO_OBJECT])
    try:
        return model.model_validate(document)
    except ValidationError as error:
        found = error.errors(include_url=False, include_context=False, include_input=False)
        raise InvalidDocument([_fault(fault) for fault in found[:MAX_FAULTS]]) from None


# A step of pydantic's own on the way to a value, no field of the document.
_INNER_STEP = re.compile(r"int|str|constrained-.*|function-.*|(literal|list)\[.*")


# Where pydantic speaks of its own things.
_MESSAGES = {"extra_forbidden": "there is no such field", "model_type": "it has to be a JSON object"}


def _fault(error: Mapping[str, Any]) -> Fault:
    path = ".".join(str(step) for step in error["loc"] if not _INNER_STEP.fullmatch(str(step)))
    message = _MESSAGES.get(error["type"], error["msg"])
    for prefix in ("Value error, ", "Assertion failed, "):
        message = message.removeprefix(prefix)
    return Fault(encodable(path), encodable(message))


def _milliseconds(options: OptionsPart | None) -> float | None:
    return options.timeout / 1000.0 if options and options.timeout else None


def _identity(message: Message) -> bytes:
    return orjson.dumps([message.method, message.resource, message.timeout, message.data])


# The order is that of the hashes in the stores of earlier versions.
_ASKED = ("messages", "batch", "limits", "start_at", "name", "labels", "key", "fingerprint")


def _fingerprint(spec: JobSpec) -> str:
    """The same for bodies that ask for the same, however they are spelled."""
    asked = {name: orjson.Fragment(_sorted_json(getattr(spec, name))) for name in _ASKED}
    if spec.limits.offline is None:
        # As it was before there was such a limit: the fields in their order.
        asked["limits"] = orjson.Fragment(orjson.dumps(_without_offline(spec.limits), default=_plain))
    if spec.targets is not None:
        asked["targets"] = orjson.Fragment(_sorted_json(spec.targets))
    return hashlib.sha256(orjson.dumps(asked)).hexdigest()


def _without_offline(limits: Limits) -> dict[str, Any]:
    return {part.name: getattr(limits, part.name) for part in fields(limits) if part.name != "offline"}


def _digest(value: object) -> str:
    return hashlib.sha256(_sorted_json(value)).hexdigest()


def _sorted_json(value: object) -> bytes:
    return orjson.dumps(value, default=_plain, option=orjson.OPT_SORT_KEYS)


def _plain(value: object) -> object:
    if isinstance(value, (RetryPart, RatePart, AbortPart)):
        return value.to_policy()
    return sorted(value, key=str) if isinstance(value, frozenset) else value
