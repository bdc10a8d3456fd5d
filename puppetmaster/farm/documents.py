"""The documents that come to the farm: what makes a task, what a worker tells.

Clients send them as JSON or as forms. In a form everything is a text, so numbers may be texts in both; an empty text
counts as not given. Fields that are not known are ignored, for old clients send more than is needed.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import Annotated, Any

import orjson
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from puppetmaster import bodies
from puppetmaster.errors import Fault, InvalidDocument
from puppetmaster.farm.work import MAX_LOG
from puppetmaster.fields import encodable
from puppetmaster.job_document import parse

MAX_NAME = 128
MAX_ACTIVITY = 1024
MAX_OUTPUT = 256 * 1024
"""Characters of the output in one report that are read; the rest before them is dropped."""

_MAX_INT = (1 << 53) - 1
"""What every JSON library carries without loss."""


def _plain(value: object) -> object:
    if value == "":
        return None
    if isinstance(value, bool):
        raise ValueError("it has to be a number")
    return value


def _tail(limit: int) -> Any:
    def check(value: str) -> str:
        return value[-limit:].encode("utf-8", "replace").decode()

    return AfterValidator(check)


def _as_text(value: object) -> object:
    """A document where a text is meant: old parsers send JSON texts, others what these stand for."""
    if not isinstance(value, (dict, list)):
        return value
    try:
        return orjson.dumps(value).decode()
    except TypeError as error:
        raise ValueError(f"it can't be stored: {error}") from None


def _as_object(value: object) -> object:
    return _json(value) if isinstance(value, str) else value


def _json(text: str) -> Any:
    try:
        return bodies.read(text.encode())
    except InvalidDocument as error:
        raise ValueError(error.faults[0].message.replace("the body", "it")) from None
    except UnicodeEncodeError:
        raise ValueError("it holds characters that can't be encoded") from None


def _name(value: str) -> str:
    if not value.strip() or not value.isprintable():
        raise ValueError("it has to have characters that can be seen, and no others")
    return value


Number = Annotated[int | None, BeforeValidator(_plain), Field(ge=-_MAX_INT, le=_MAX_INT)]
Amount = Annotated[float | None, BeforeValidator(_plain), Field(ge=0, le=1e12, allow_inf_nan=False)]
Id = Annotated[int | None, BeforeValidator(_plain), Field(ge=0, le=_MAX_INT)]
Port = Annotated[int | None, BeforeValidator(_plain), Field(ge=0, le=65535)]
Hostname = Annotated[str | None, BeforeValidator(lambda v: None if v == "" else v), Field(max_length=MAX_NAME)]
Activity = Annotated[str | None, BeforeValidator(_as_text)]


class _Document(BaseModel):
    model_config = ConfigDict(extra="ignore")


class NewTask(_Document):
    """What POST /tasks is given."""

    type: Annotated[str, Field(min_length=1, max_length=MAX_NAME)]
    settings: Annotated[dict[str, Any] | None, BeforeValidator(_as_object)] = None
    priority: Number = None
    task_id: Number = None
    job_id: Id = None
    parser: Annotated[str | None, Field(max_length=MAX_NAME)] = None
    name: Annotated[str | None, Field(max_length=MAX_NAME)] = None


class Word(str, Enum):
    """What a status in the words of the many clients comes to."""

    RUNNING = "running"
    """A worker is at it."""
    FINISHED = "finished"
    FAILED = "failed"
    GIVEN_UP = "given up"
    """A worker won't end it; a user does not want it any more."""
    PAUSED = "paused"
    READY = "ready"
    """Somebody may go on with it."""


_WORDS = {
    **dict.fromkeys(("rendering", "running", "active", "started", "processing"), Word.RUNNING),
    **dict.fromkeys(("finished", "completed", "done"), Word.FINISHED),
    **dict.fromkeys(("failed", "error"), Word.FAILED),
    **dict.fromkeys(("aborted", "canceled", "cancelled", "stopped"), Word.GIVEN_UP),
    "paused": Word.PAUSED,
    **dict.fromkeys(("ready", "waiting", "enabled", "available"), Word.READY),
}


def _word(value: object) -> object:
    if value is None or value == "":
        return None
    if not isinstance(value, str) or value.lower() not in _WORDS:
        raise ValueError(f"it has to be one of {', '.join(_WORDS)}")
    return _WORDS[value.lower()]


class TaskChange(_Document):
    """What PATCH /tasks/:id is given: by the worker that has the task, or by a user."""

    status: Annotated[Word | None, BeforeValidator(_word)] = None
    priority: Number = None
    log: Annotated[str, _tail(MAX_OUTPUT)] | None = None
    """The end of all output, for workers that send it anew each time."""
    output: Annotated[str, _tail(MAX_OUTPUT)] | None = None
    """The output since the last report, for those that send it once."""
    activity: Annotated[Activity, Field(max_length=1 << 20)] = None
    time_cost: Amount = None
    frame_current: Number = None
    progress: Amount = None
    message: Annotated[str, _tail(1000)] | None = None
    """Why it failed."""

    @property
    def is_report(self) -> bool:
        """Whether only a worker says that."""
        told = (self.log, self.output, self.activity, self.time_cost, self.frame_current, self.progress)
        return self.status in (Word.RUNNING, Word.FINISHED, Word.FAILED) or any(value is not None for value in told)


class Identity(_Document):
    """By what a worker says who it is: none of it, with old workers."""

    worker_id: Id = None
    worker: Hostname = None
    hostname: Hostname = None
    port: Port = None

    @property
    def maybe_id(self) -> int | None:
        """The number that its name is, if it is one: some give the one for the other."""
        name = self.worker or ""
        return int(name) if name.isascii() and name.isdigit() else None

    @property
    def name(self) -> str | None:
        """Its host name."""
        return self.worker or self.hostname

    @property
    def is_given(self) -> bool:
        """Whether it says anything."""
        return self.worker_id is not None or self.name is not None


class Registration(_Document):
    """What POST /workers is given."""

    hostname: Annotated[str, Field(max_length=MAX_NAME), AfterValidator(_name)]
    system: Annotated[str | None, Field(max_length=MAX_NAME)] = None
    port: Port = None


_WORKER_STATUSES = ("enabled", "disabled", "rendering", "available")


def _worker_status(value: object) -> object:
    if value == "":
        return None
    if isinstance(value, str) and value.lower() in _WORKER_STATUSES:
        return value.lower()
    raise ValueError(f"it has to be one of {', '.join(_WORKER_STATUSES)}")


class LoadAverage(_Document):
    """Processes that want to run, over three spans of time."""

    one: Amount = Field(None, alias="1min")
    five: Amount = Field(None, alias="5min")
    fifteen: Amount = Field(None, alias="15min")


class Frequent(_Document):
    """What changes from second to second."""

    load_average: LoadAverage | None = None
    worker_cpu_percent: Amount = None


class Seldom(_Document):
    """What changes from day to day."""

    worker_architecture: Annotated[str | None, Field(max_length=MAX_NAME)] = None
    worker_disk_percent: Amount = None
    worker_mem_percent: Amount = None
    worker_num_cpus: Id = None


class WorkerChange(_Document):
    """What PATCH /workers/:id is given."""

    status: Annotated[str | None, BeforeValidator(_worker_status)] = None
    activity: Annotated[Activity, Field(max_length=1 << 20)] = None
    log: Annotated[str, _tail(MAX_LOG)] | None = None
    time_cost: Amount = None
    mac_address: Id = None
    system: Annotated[str | None, Field(max_length=MAX_NAME)] = None
    update_frequent: Annotated[Frequent | None, BeforeValidator(_as_object)] = None
    update_less_frequent: Annotated[Seldom | None, BeforeValidator(_as_object)] = None

    @property
    def is_order(self) -> bool:
        """Whether somebody decides about the worker, and it does not tell of itself."""
        return self.status in ("enabled", "disabled")


def read_new_task(document: object) -> NewTask:
    """What makes a task.

    :raises InvalidDocument: with every fault.
    """
    return parse(NewTask, _without_nothing(document))


def read_task_change(document: object) -> TaskChange:
    """What changes a task.

    :raises InvalidDocument: also when it says nothing.
    """
    change = parse(TaskChange, document)
    if not change.is_report and change.status is None and change.priority is None:
        raise InvalidDocument([Fault("", "give a status or a priority; a worker may give log, activity or time_cost")])
    return change


def read_identity(*documents: Mapping[str, Any]) -> Identity:
    """Who a worker says that it is, in the first of these that tells."""
    for document in documents:
        identity = parse(Identity, _texts(document))
        if identity.is_given:
            return identity
    return Identity()


def read_registration(document: object) -> Registration:
    """Who registers.

    :raises InvalidDocument: with every fault.
    """
    return parse(Registration, document)


def read_worker_change(document: object) -> WorkerChange:
    """What changes about a worker.

    :raises InvalidDocument: with every fault.
    """
    return parse(WorkerChange, document)


def _without_nothing(document: object) -> object:
    return {name: value for name, value in document.items() if value != ""} if isinstance(document, dict) else document


def _texts(document: Mapping[str, Any]) -> dict[str, Any]:
    known = ("worker_id", "worker", "hostname", "port")
    return {name: document[name] for name in known if isinstance(document.get(name), (str, int))}


def clean(text: str | None, limit: int = MAX_NAME) -> str:
    """A text of a caller that can be stored."""
    return encodable(text or "", limit)
