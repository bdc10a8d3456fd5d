"""What comes back, as types, and the JSON schema of all that goes in and out.

The HTTP edge describes itself with these, and its Python client answers with the first half of them. Names are as in
Python here and in camelCase on the wire. What an older or a newer puppetmaster says beyond these is ignored.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, WithJsonSchema, model_validator
from pydantic.alias_generators import to_camel
from pydantic.json_schema import models_json_schema

from puppetmaster.accounts.roles import Role
from puppetmaster.chunks import Stream
from puppetmaster.devices import DeviceUpdate
from puppetmaster.fields import Schema, encodable, not_empty, plain
from puppetmaster.job_document import (
    AbortPart,
    BatchJob,
    BroadcastJob,
    CollectionJob,
    JobUpdate,
    RatePart,
    Rerun,
    RetryPart,
    SingleRequest,
    TargetsPart,
    parse,
)
from puppetmaster.policies import Connection
from puppetmaster.queries import Query
from puppetmaster.states import JOB_FINAL, REQUEST_FINAL, JobStatus, RequestStatus

__all__ = [
    "Account",
    "AccountChange",
    "AccountEntry",
    "AnswerGroup",
    "AuditEntry",
    "Counts",
    "Device",
    "DryRun",
    "ErrorBody",
    "ErrorDetail",
    "FactValue",
    "Health",
    "Job",
    "Login",
    "NewAccount",
    "OutputChunk",
    "Removed",
    "Request",
    "RequestInfo",
    "Telemetry",
    "Token",
    "body_definitions",
    "body_of",
    "device_body",
    "job_body",
    "parse",
    "query_parameters",
    "request_body",
    "rerun_body",
    "update_body",
]


class _Answer(BaseModel):
    model_config = ConfigDict(
        alias_generator=to_camel,
        extra="ignore",
        frozen=True,
        json_schema_extra=plain,
        use_attribute_docstrings=True,
    )


# Jobs


class Retry(RetryPart):
    """When a request of the job is tried again."""

    model_config = ConfigDict(extra="ignore", strict=False, frozen=True)


class Rate(RatePart):
    """How many requests of the job may be sent in a minute."""

    model_config = ConfigDict(extra="ignore", strict=False, frozen=True)


class Abort(AbortPart):
    """When the job gives up."""

    model_config = ConfigDict(extra="ignore", strict=False, frozen=True)


class Targets(TargetsPart):
    """Devices by what is known of them."""

    model_config = ConfigDict(extra="ignore", strict=False, frozen=True)


class Counts(_Answer):
    """How many requests of a job are in each status; they add up to its `totalCount`."""

    created: int
    """Wait for their turn, or for their next attempt."""
    sent: int
    """Are out: the broker has them."""
    running: int
    """Are out, and the device reported progress."""
    resolved: int
    """Were answered with a code of 200 to 299."""
    error: int
    """Were answered with another code."""
    timeout: int
    """Were not answered in time."""
    canceled: int
    """Were called off, alone or with their job."""

    def __getitem__(self, status: RequestStatus | str) -> int:
        return int(getattr(self, RequestStatus(status).value))


class Job(_Answer):
    """A job. Lists, changes, and the answers of PUT and DELETE have it without its requests."""

    id: int
    """A whole number from 1000000 up."""
    name: str | None
    """What people call it; null when it was given no name."""
    labels: list[str]
    """Texts to find it by."""
    created_at: datetime
    """When it was made."""
    start_at: datetime | None
    """When it was asked to start; null: at once."""
    started_at: datetime | None
    """When it began to send; null as long as it has not."""
    finished_at: datetime | None
    """When it ended; null as long as it has not."""
    timeout: float | None
    """Seconds for the whole job, from its start; null: it takes what it takes."""
    priority: int
    """0 to 100; a job with a higher one sends first."""
    concurrency: int | None
    """How many of its requests may be out at once; null: as many as there is room for."""
    retry: Retry
    """When a request is tried again."""
    rate: Rate | None
    """How many requests may be sent in a minute; null: as many as there is room for."""
    targets: Targets | None = None
    """Which devices get every message beside the destinations that were named; null: none. Lists stand for single
    values."""
    abort: Abort | None
    """When it gives up; null: never."""
    offline: Literal["wait", "skip", "fail"] | None = None
    """What becomes of a request whose device is known to be offline; null: it is sent all the same."""
    status: JobStatus
    """pending: waits for its start time. dispatching: sends. paused: sends nothing, what is out is still answered.
    It has ended when it is resolved (all requests have ended, whichever way), canceled, aborted (too many failed) or
    timeout."""
    reason: str
    """Why it is in this status, for people."""
    progress: int
    """0 to 100: the mean of the progress of its requests, rounded down."""
    total_count: int
    """How many requests it has."""
    finish_count: int
    """How many of them resolved."""
    error_count: int
    """How many of them ended otherwise."""
    done_count: int
    """How many of them ended: `finishCount` + `errorCount`."""
    counts: Counts
    """How many of them are in each status."""
    requests: list[int] | list[Request] | None = None
    """The requests of the page that was asked for, or their ids alone; of a new job the ids of all."""
    collection: list[Request] | None = None
    """The requests of the page, where `collection=true` was asked for."""

    @property
    def is_final(self) -> bool:
        """Whether it has ended."""
        return self.status in JOB_FINAL

    @property
    def request_ids(self) -> list[int]:
        """The ids of the requests that came with it."""
        return [found if isinstance(found, int) else found.id for found in self.requests or ()]


class DryRun(_Answer):
    """What a job would be. Nothing was made."""

    dry_run: Literal[True]
    """Nothing was made."""
    total_count: int
    """How many requests it would have."""
    destination_count: int
    """To how many different destinations."""
    message_count: int
    """How many different messages it has."""
    destinations: list[str] = []
    """Those destinations, the first 500 of them."""
    offline_count: int = 0
    """How many of all of them are known to be offline."""
    offline: list[str] = []
    """Those, the first 500 of them."""


class Removed(_Answer):
    """The last that is told of a job: it was removed."""

    id: int
    """The id that it had."""
    removed: Literal[True]
    """It is gone."""


# Requests


class RequestInfo(_Answer):
    """What became of a request."""

    job: int
    """The id of the job that it belongs to."""
    destination: str
    """Where it goes; "localhost" is the machine that puppetmaster runs on."""
    created_at: datetime
    """When it was made."""
    sent_at: datetime | None
    """When the broker had the last attempt; null as long as there was none."""
    finished_at: datetime | None
    """When it ended; null as long as it has not."""
    timeout: float
    """Seconds that each attempt may take."""
    attempt: int
    """The number of its last attempt, counted from when it was picked to be sent; 0: it waits for its turn."""
    status: RequestStatus
    """created: waits for its turn or for its next attempt. sent: the broker has it. running: the device reported
    progress. It has ended when it is resolved (answered with 200 to 299), error (with another code), timeout (not in
    time) or canceled."""
    reason: str
    """Why it is in this status, for people."""
    progress: int
    """0 to 100; what has ended is at 100."""
    code: int | None
    """The code of the final answer; null as long as there is none."""
    result: Any
    """On success the data of the answer; on failure {"code", "resource", "data"} of it; null without an answer."""


class Request(_Answer):
    """One message to one destination, and in `__request` what became of it."""

    id: int
    """A whole number from 1000001 up."""
    method: str
    """get, post, put or delete."""
    resource: str
    """The path on the device."""
    data: Any
    """What it carries; null: nothing."""
    info: RequestInfo = Field(alias="__request")
    """What became of it."""

    @property
    def job(self) -> int:
        """The id of the job that it belongs to."""
        return self.info.job

    @property
    def destination(self) -> str:
        """Where it goes."""
        return self.info.destination

    @property
    def status(self) -> RequestStatus:
        """Where it stands."""
        return self.info.status

    @property
    def reason(self) -> str:
        """Why it is in this status, for people."""
        return self.info.reason

    @property
    def code(self) -> int | None:
        """The code of the final answer."""
        return self.info.code

    @property
    def result(self) -> Any:
        """On success the data of the answer; on failure ``{"code", "resource", "data"}`` of it."""
        return self.info.result

    @property
    def is_final(self) -> bool:
        """Whether it has ended."""
        return self.status in REQUEST_FINAL


class AnswerGroup(_Answer):
    """Requests of a job that ended alike."""

    status: RequestStatus
    """How they ended: resolved, error, timeout or canceled."""
    code: int | None
    """The code of their answers; null without an answer."""
    result: Any
    """What all of them came to, as in a request; the first 4 KiB of it as a JSON text where it is larger."""
    cut: bool
    """Whether `result` is no more than a beginning."""
    count: int
    """How many requests they are."""
    destinations: list[str]
    """Where the first few of them went."""


class OutputChunk(_Answer):
    """A piece of what a command puts out."""

    number: int
    """Counted from 0 over the whole output; where one is missing a piece got lost."""
    stream: Stream
    """stdout or stderr; cut where bytes are left out; end behind all others."""
    offset: int
    """Bytes of the stream before it."""
    time: str
    """When it was read on the device."""
    command: int = 0
    """Which command of a sequence, counted from 0."""
    text: str | None = None
    """The output, when it is text in UTF-8."""
    base64: str | None = None
    """The output, when it is not."""
    bytes: int | None = None
    """How many bytes are left out, for cut."""
    code: int | None = None
    """The code of the answer, for end."""


# Devices


class Telemetry(_Answer):
    """What a device measured."""

    at: datetime | None
    """When it was last told; null: never."""
    frequent: dict[str, Any] | None
    """What changes all the time, such as load, cpu and memory; null as long as it was not told."""
    seldom: dict[str, Any] | None
    """What hardly changes, such as cores and disk; null as long as it was not told."""


class Device(_Answer):
    """A device."""

    id: str
    """Its name as a destination."""
    channel: Literal["mqtt", "pull", "local"]
    """How it is reached: over the broker, by its own long poll, or it is this machine."""
    connection: Connection
    """Whether it is there: online, offline, or unknown where it never said."""
    connection_changed_at: datetime | None
    """When that became so."""
    first_seen_at: datetime | None
    """When it was first heard of; null: never, somebody gave it labels before."""
    last_seen_at: datetime | None
    """When it was last heard of."""
    labels: dict[str, str]
    """Those that it says it has, under those that callers gave it."""
    facts: dict[str, str | int | float | bool]
    """What it says of itself: hostname, system, versions and so on."""
    telemetry: Telemetry
    """What it measured."""
    current_request: int | None
    """The id of the request that is out to it; null: there is none."""


class FactValue(_Answer):
    """Devices that say the same of a fact."""

    value: str | None
    """What they say, as a text; null: nothing."""
    count: int
    """How many devices they are."""
    devices: list[str]
    """The ids of the first few of them."""


# Errors


class ErrorDetail(_Answer):
    """One thing wrong with a body or a query."""

    path: str
    """Where, with dots: `batch.0.method`; empty for the whole."""
    message: str
    """What is wrong there."""


class ErrorBody(_Answer):
    """Why a call was refused. It has changed nothing."""

    message: str
    """Why, for people."""
    errors: list[ErrorDetail] | None = None
    """Up to 20 faults of a bad body or query; absent of other errors."""


# The server and its accounts


class Health(_Answer):
    """How puppetmaster is."""

    live: Literal[True]
    """It answers."""
    ready: bool
    """Whether it can do its work: the five parts that follow are as they should be."""
    broker: Literal["connected", "disconnected"]
    """The connection to the MQTT broker that leads to the devices."""
    controller: Literal["registered", "unregistered"]
    """Whether the Sanji controller knows it."""
    store: str
    """"ok", or why it can't write: no new job is taken then, and nothing is sent."""
    registry: str = "ok"
    """"ok", or why the registry of devices can't be written."""
    memory: str = "ok"
    """"ok", or how much is in use when new jobs are refused for want of it."""
    version: str
    """Its version."""
    instance: str
    """The name of this instance, under which devices answer it."""


class Token(_Answer):
    """What a login gives. Send it as `Authorization: Bearer <token>`."""

    token: str
    """The token; it is not to be had again."""
    expires_at: datetime
    """When it ends."""
    name: str
    """The account that it stands for."""
    role: Role
    """What that account may do: viewer (reads), operator (writes too) or admin (manages accounts too)."""


class Account(_Answer):
    """Who a caller is."""

    name: str | None
    """The account's name; null where no login is needed."""
    role: Role
    """What the caller may do: viewer (reads), operator (writes too) or admin (manages accounts too)."""
    login_required: bool
    """Whether calls need a token; not on loopback as long as no account is made."""


class AccountEntry(_Answer):
    """An account."""

    name: str
    """Its name."""
    role: Role
    """What it may do: viewer (reads), operator (writes too) or admin (manages accounts too)."""
    changed_at: datetime
    """When it got its role or password, in UTC."""


class AuditEntry(_Answer):
    """Who changed what. Further fields tell what it was about: `job`, `request`, `device`, `account`, `change`,
    `message`."""

    model_config = ConfigDict(extra="allow")

    at: datetime | None
    """When it was answered."""
    who: str | None
    """The account; null where no login was needed."""
    role: str | None
    """The role that it had then; null where no login was needed."""
    source: str = Field(alias="from")
    """The network address that it came from, or "cli"."""
    method: str
    """post, put or delete."""
    resource: str
    """The path."""
    code: int
    """How it was answered: 200 to 299 when it was done."""


# Bodies


def _check_encodable(value: str) -> str:
    if encodable(value, len(value)) != value:
        raise ValueError("surrogates are not allowed")
    return value


ACCOUNT_NAME: Schema = {"type": "string", "pattern": "^[A-Za-z0-9][A-Za-z0-9._@-]{0,63}$", "examples": ["ana"]}
NEW_PASSWORD: Schema = {
    "type": "string",
    "format": "password",
    "minLength": 8,
    "maxLength": 1024,
    "pattern": r"^[^\u0000-\u001f\u007f-\u009f]+$",
}

_Text = Annotated[str, Field(min_length=1, max_length=1024), AfterValidator(_check_encodable)]
# The accounts know more of what these may be.
_AccountName = Annotated[str, WithJsonSchema(ACCOUNT_NAME)]
_NewPassword = Annotated[str, WithJsonSchema(NEW_PASSWORD)]
_Role = Annotated[Role, Field(strict=False)]


class _Body(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", json_schema_extra=plain, use_attribute_docstrings=True)


class Login(_Body):
    """A name and its password."""

    name: _Text
    """The account's name."""
    password: _Text
    """Its password."""


class NewAccount(_Body):
    """An account that is to be made."""

    name: _AccountName
    """1 to 64 letters, digits and . _ @ -, a letter or digit first; capitals become small letters."""
    password: _NewPassword
    """8 characters to 1024 bytes, no control characters."""
    role: _Role | None = None
    """viewer (reads), operator (writes too) or admin (manages accounts too). Unless it is given, the first account
    becomes an admin, and others operators."""


class AccountChange(_Body):
    """Another role, another password, or both."""

    model_config = ConfigDict(json_schema_extra=not_empty)

    role: _Role | None = None
    """viewer (reads), operator (writes too) or admin (manages accounts too); null: it stays."""
    password: _NewPassword | None = None
    """8 characters to 1024 bytes, no control characters; it ends the tokens of the account. Null: it stays."""

    @model_validator(mode="after")
    def _asks_for_something(self) -> AccountChange:
        if not self.model_fields_set:
            raise ValueError("give a role or a password")
        return self


# What OpenAPI is told

REFERENCE = "#/components/schemas/{model}"

BodyDescription = tuple[Schema, Any]
"""The schema of a body, which refers to :func:`body_definitions`, and an example that works."""

_MESSAGE = {"method": "post", "resource": "/system/reboot"}
_JOBS: dict[type[BaseModel], Any] = {
    BatchJob: {
        "name": "reboot",
        "labels": {"site": "berlin"},
        "batch": [{**_MESSAGE, "__request": {"destination": ["device-0001", "device-0002"], "timeout": 30}}],
        "concurrency": 50,
        "retry": {"limit": 2, "on": [423, 503, "timeout"]},
    },
    CollectionJob: {"collection": [{**_MESSAGE, "__destination": "device-0001"}]},
    BroadcastJob: {"destinations": ["device-0001", "device-0002"], "message": _MESSAGE, "options": {"timeout": 30000}},
}
_EXAMPLES: dict[type[BaseModel], Any] = {
    **_JOBS,
    SingleRequest: {
        "destination": "device-0007",
        "message": {"method": "get", "resource": "/system/firmware"},
        "options": {"timeout": 5000},
    },
    JobUpdate: {"status": "paused", "priority": 80, "timeout": 600},
    Rerun: {"status": ["error", "timeout"], "name": "reboot, second try", "timeout": 600},
    DeviceUpdate: {"labels": {"site": "berlin", "old": None}},
    Login: {"name": "ana", "password": "correct horse battery"},
    NewAccount: {"name": "ben", "password": "correct horse battery", "role": "operator"},
    AccountChange: {"role": "viewer"},
}


def job_body() -> BodyDescription:
    """The body of POST /jobs."""
    return {"oneOf": [_reference(model) for model in _JOBS]}, _JOBS[BatchJob]


def request_body() -> BodyDescription:
    """The body of POST /requests."""
    return body_of(SingleRequest)


def update_body() -> BodyDescription:
    """The body of PUT /jobs/:id."""
    return body_of(JobUpdate)


def rerun_body() -> BodyDescription:
    """The body of POST /jobs/:id/rerun."""
    schema, example = body_of(Rerun)
    return {"anyOf": [schema, {"type": "null"}]}, example


def device_body() -> BodyDescription:
    """The body of PUT /devices/:id."""
    return body_of(DeviceUpdate)


def body_of(model: type[BaseModel]) -> BodyDescription:
    """The body that a model reads."""
    return _reference(model), _EXAMPLES[model]


def body_definitions() -> dict[str, Schema]:
    """The schemas of all bodies and of what they are made of, by their names."""
    _, found = models_json_schema([(model, "validation") for model in _EXAMPLES], ref_template=REFERENCE)
    definitions: dict[str, Schema] = found["$defs"]
    for model, example in _EXAMPLES.items():
        definitions[model.__name__]["examples"] = [example]
    return definitions


def query_parameters(model: type[Query]) -> list[Schema]:
    """What a query string may hold, as OpenAPI has it."""
    whole = model.model_json_schema(mode="validation")
    return [_parameter(name, field, whole.get("$defs", {})) for name, field in whole["properties"].items()]


def _parameter(name: str, field: Schema, definitions: dict[str, Schema]) -> Schema:
    # None stands for a parameter that is not there; no text of a query is null.
    kind = next((kind for kind in field.get("anyOf", ()) if kind != {"type": "null"}), field)
    schema = {key: value for key, value in kind.items() if key not in ("title", "description", "examples")}
    if "$ref" in schema.get("items", {}):
        found = definitions[schema["items"]["$ref"].rpartition("/")[2]]
        schema["items"] = {key: value for key, value in found.items() if key in ("type", "enum")}
    parameter = {"name": name, "in": "query", "required": False, "description": field["description"], "schema": schema}
    if schema["type"] == "array":
        parameter |= {"style": "form", "explode": True}
    return parameter | ({"example": kind["examples"][0]} if "examples" in kind else {})


def _reference(model: type[BaseModel]) -> Schema:
    return {"$ref": REFERENCE.format(model=model.__name__)}
