"""The job document: three spellings of one thing, checked and brought to one form here and nowhere else.

=========== ================================================================================================
batch       ``batch: [{method, resource, data?, __request: {destination}}]``, also ``__request.__destination``
            and a bare ``__destination``
collection  ``collection: [{method, resource, data?, __destination}]``; a client's id, tunnel, __task are ignored
broadcast   ``destinations, message: {method, resource, data?}, options: {timeout}`` (this timeout in milliseconds)
=========== ================================================================================================

A destination is a text or a list of texts. Every fault is reported with the path to it, not only the first.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Any, Literal, TypeVar

import orjson
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from puppetmaster.errors import Fault, InvalidDocument, TooLarge
from puppetmaster.fields import (
    Count,
    Data,
    Destination,
    Destinations,
    Labels,
    Method,
    Milliseconds,
    Name,
    PerMinute,
    Resource,
    Seconds,
    Time,
    encodable,
)
from puppetmaster.models import JobSpec, Limits, Message
from puppetmaster.policies import (
    LOCALHOST,
    TIMEOUT,
    TRANSIENT_CODES,
    AbortThreshold,
    Rate,
    RetryPolicy,
)

MAX_FAULTS = 20
"""How many faults are reported at once: a list of 100,000 bad destinations says enough with the first ones."""

_Model = TypeVar("_Model", bound=BaseModel)


class _Part(BaseModel):
    """Unknown fields are faults: a typing error must not change what a fleet is told to do."""

    model_config = ConfigDict(strict=True, extra="forbid")


class _Lenient(BaseModel):
    """Unknown fields are ignored: clients send whole messages, ids and tunnels included."""

    model_config = ConfigDict(strict=True, extra="ignore")


class RetryPart(_Part):
    """``retry``."""

    limit: Annotated[int, Field(ge=0, le=1000)] = 3
    delay: Seconds = 1.0
    factor: Annotated[float, Field(ge=1, le=100, allow_inf_nan=False)] = 2.0
    max_delay: Seconds = Field(60.0, alias="maxDelay")
    jitter: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)] = 0.5
    on: list[Annotated[int, Field(ge=100, le=999)] | Literal["timeout"]] = Field(
        default=[*TRANSIENT_CODES, TIMEOUT], min_length=1
    )

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
    """``rate``."""

    per_minute: PerMinute = Field(alias="perMinute")
    factor: Annotated[float, Field(ge=1, le=1000, allow_inf_nan=False)] = 1.0
    every: Count = 1
    max: PerMinute | None = None

    @model_validator(mode="after")
    def _in_order(self) -> RatePart:
        if self.max is not None and self.max < self.per_minute:
            raise ValueError("max can't be less than perMinute")
        return self

    def to_policy(self) -> Rate:
        """The rate that it describes."""
        return Rate(per_minute=self.per_minute, factor=self.factor, every=self.every, maximum=self.max)


class AbortPart(_Part):
    """``abort``."""

    error_percent: Annotated[float, Field(gt=0, le=100, allow_inf_nan=False)] = Field(alias="errorPercent")
    minimum: Count = 1

    def to_policy(self) -> AbortThreshold:
        """The threshold that it describes."""
        return AbortThreshold(error_percent=self.error_percent, minimum=self.minimum)


class LimitsPart(_Part):
    """What a job may be given at its birth and later."""

    timeout: Seconds | None = None
    concurrency: Count | None = None
    retry: RetryPart | None = None
    rate: RatePart | None = None
    abort: AbortPart | None = None
    priority: Annotated[int, Field(ge=0, le=100)] | None = None

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
        )


class MessagePart(_Lenient):
    """A message."""

    method: Method
    resource: Resource
    data: Data = None


class RequestPart(_Lenient):
    """``__request`` of a message."""

    destination: Destinations | None = None
    old_destination: Destinations | None = Field(None, alias="__destination")
    timeout: Seconds | None = None


class BatchPart(MessagePart):
    """One message of ``batch`` or ``collection`` and where it goes."""

    request: RequestPart | None = Field(None, alias="__request")
    destination: Destinations | None = Field(None, alias="__destination")

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
    """``options`` of the predecessor."""

    timeout: Milliseconds | None = None


class _JobPart(LimitsPart):
    request_timeout: Seconds | None = Field(None, alias="requestTimeout")
    start_at: Time | None = Field(None, alias="startAt")
    name: Name | None = None
    labels: Labels | None = None
    key: Name | None = None


class BatchJob(_JobPart):
    """The spelling ``batch``."""

    batch: Annotated[list[BatchPart], Field(min_length=1)]


class CollectionJob(_JobPart):
    """The spelling ``collection``."""

    collection: Annotated[list[BatchPart], Field(min_length=1)]


class BroadcastJob(_JobPart):
    """The spelling ``destinations`` and ``message``."""

    destinations: Destinations
    message: MessagePart
    options: OptionsPart | None = None


class SingleRequest(_Part):
    """The body of POST /requests."""

    destination: Destination = LOCALHOST
    message: MessagePart
    options: OptionsPart | None = None


class JobUpdate(LimitsPart):
    """The body of PUT /jobs/:id."""

    status: Literal["paused", "dispatching", "canceled"] | None = None


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
        if spelling == "batch":
            part = _parse(BatchJob, document)
            return self._spec(part, self._batched(part.batch, "batch"), part.request_timeout)
        if spelling == "collection":
            listed = _parse(CollectionJob, document)
            return self._spec(listed, self._batched(listed.collection, "collection"), listed.request_timeout)
        cast = _parse(BroadcastJob, document)
        batch = [(cast.message, cast.destinations, None)]
        return self._spec(cast, batch, cast.request_timeout or _milliseconds(cast.options))

    def request(self, document: object) -> JobSpec:
        """What a body of POST /requests asks for: a job of one request."""
        part = _parse(SingleRequest, document)
        batch: list[tuple[MessagePart, list[str], float | None]] = [(part.message, [part.destination], None)]
        return self._spec(_JobPart.model_validate({}), batch, _milliseconds(part.options))

    def update(self, document: object) -> JobUpdate:
        """What a body of PUT /jobs/:id asks for.

        :raises InvalidDocument: also when it asks for nothing.
        """
        part = _parse(JobUpdate, document)
        if not part.model_fields_set:
            raise InvalidDocument([Fault("", "give a status or a limit to change")])
        return part

    def _batched(
        self, items: Sequence[BatchPart], field: str
    ) -> list[tuple[MessagePart, list[str], float | None]]:
        missing = "__request.destination" if field == "batch" else "__destination"
        faults = [
            Fault(f"{field}.{number}.{missing}", "it is missing")
            for number, item in enumerate(items)
            if not item.destinations
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
        )
        return spec if spec.key is None else replace(spec, fingerprint=_fingerprint(spec))


def _spelling(document: object) -> str:
    if not isinstance(document, dict):
        raise InvalidDocument([Fault("", "the body has to be a JSON object")])
    found = [name for name in ("batch", "collection", "destinations", "message") if name in document]
    if not found:
        raise InvalidDocument([Fault("", "it needs batch, collection, or destinations and message")])
    if "destinations" in found or "message" in found:
        if "batch" in found or "collection" in found:
            raise InvalidDocument([Fault(found[0], f"it can't stand beside {found[1]}")])
        return "broadcast"
    if len(found) > 1:
        raise InvalidDocument([Fault(found[0], f"it can't stand beside {found[1]}")])
    return found[0]


def _parse(model: type[_Model], document: object) -> _Model:
    try:
        return model.model_validate(document)
    except ValidationError as error:
        raise InvalidDocument([_fault(found) for found in error.errors()[:MAX_FAULTS]]) from None


# A step of pydantic's own on the way to a value, no field of the document.
_INNER_STEP = re.compile(r"int|str|constrained-.*|function-.*|(literal|list)\[.*")


def _fault(error: Mapping[str, Any]) -> Fault:
    path = ".".join(str(step) for step in error["loc"] if not _INNER_STEP.fullmatch(str(step)))
    message = "there is no such field" if error["type"] == "extra_forbidden" else error["msg"]
    for prefix in ("Value error, ", "Assertion failed, "):
        message = message.removeprefix(prefix)
    return Fault(encodable(path), encodable(message))


def _milliseconds(options: OptionsPart | None) -> float | None:
    return options.timeout / 1000.0 if options and options.timeout else None


def _identity(message: Message) -> bytes:
    return orjson.dumps([message.method, message.resource, message.timeout, message.data])


def _fingerprint(spec: JobSpec) -> str:
    """The same for bodies that ask for the same, however they are spelled."""
    return hashlib.sha256(orjson.dumps(spec, default=_listed_codes, option=orjson.OPT_SORT_KEYS)).hexdigest()


def _listed_codes(codes: object) -> object:
    return sorted(codes, key=str) if isinstance(codes, frozenset) else codes
