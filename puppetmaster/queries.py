"""The query strings of the routes, checked."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    ValidationError,
    WithJsonSchema,
)
from pydantic_core import CoreSchema, core_schema

from puppetmaster.errors import Fault, InvalidDocument
from puppetmaster.fields import MAX_FAULTS, MAX_STATUSES, FinalStatus, Time, listed, plain
from puppetmaster.policies import Connection
from puppetmaster.states import JobStatus, RequestStatus

MAX_LIMIT = 10_000
"""The longest page; one that would not fit a message on the bus is refused all the same."""

MAX_OFFSET = 2**53
"""The largest whole number that every reader of JSON keeps."""

MAX_TEXTS = 100
"""How often a label or a destination may be repeated: each is compared with everything that is looked at."""

ANY = "*"
"""Stands for any run of characters in the filter of a destination."""

MAX_PATTERNS, MAX_PATTERN, MAX_STARS = 10, 128, 8
"""How many filters with a ``*`` a query may have, how long each of them may be, and how many ``*`` it may hold: each is
searched for in the destination of every request that is looked at."""


_WHOLE = re.compile("-?[0-9]+")
_TRUTHS = {"true": True, "false": False}


def _read_whole(value: object) -> object:
    # pydantic would take "1_000", " 5" and "5.0", too.
    if isinstance(value, str) and not _WHOLE.fullmatch(value):
        raise ValueError("it has to be a whole number")
    return value


def _read_truth(value: object) -> object:
    # pydantic would take "on", "t" and "1", too; Python's clients write "True".
    found = _TRUTHS.get(value.lower()) if isinstance(value, str) else value
    if not isinstance(found, bool):
        raise ValueError("it has to be true or false")
    return found


Whole = Annotated[int, BeforeValidator(_read_whole)]
Limit = Annotated[int, Field(ge=0, le=MAX_LIMIT), BeforeValidator(_read_whole)]
Offset = Annotated[int, Field(ge=0, le=MAX_OFFSET), BeforeValidator(_read_whole)]
Truth = Annotated[bool, BeforeValidator(_read_truth)]
Texts = Annotated[list[str], Field(max_length=MAX_TEXTS), BeforeValidator(listed)]
_FILTER = {"type": "string", "pattern": rf"^[^*]*(\*[^*]*){{0,{MAX_STARS}}}$"}
_Few = Field(max_length=MAX_STATUSES)
JobStatuses = Annotated[list[JobStatus], _Few, BeforeValidator(listed)]
RequestStatuses = Annotated[list[RequestStatus], _Few, BeforeValidator(listed)]
FinalStatuses = Annotated[list[FinalStatus], _Few, BeforeValidator(listed)]
Connections = Annotated[list[Connection], _Few, BeforeValidator(listed)]


class DestinationFilter:
    """Which destinations are meant: those that are named, and those that fit a text with ``*`` in it."""

    def __init__(self, texts: Iterable[str]) -> None:
        named = set(texts)
        self._patterns = [text.split(ANY) for text in sorted(named) if ANY in text]
        self._exact = frozenset(named)

    def matches(self, destination: str) -> bool:
        """Whether a destination is meant."""
        return destination in self._exact or any(_fits(destination, parts) for parts in self._patterns)

    @classmethod
    def __get_pydantic_core_schema__(cls, source: object, handler: GetCoreSchemaHandler) -> CoreSchema:
        """Made from what a query holds: a text or a list of them."""
        texts = Annotated[
            list[Annotated[str, WithJsonSchema(_FILTER)]],
            Field(max_length=MAX_TEXTS, examples=[["device-0001", "device-00*"]]),
            AfterValidator(_check_patterns),
            BeforeValidator(listed),
        ]
        return core_schema.no_info_after_validator_function(cls, handler.generate_schema(texts))


def _check_patterns(texts: list[str]) -> list[str]:
    patterns = [text for text in texts if ANY in text]
    if len(patterns) > MAX_PATTERNS:
        raise ValueError(f"at most {MAX_PATTERNS} destinations may hold a {ANY}")
    for pattern in patterns:
        if len(pattern) > MAX_PATTERN:
            raise ValueError(f"a destination with a {ANY} has at most {MAX_PATTERN} characters")
        if pattern.count(ANY) > MAX_STARS:
            raise ValueError(f"a destination may hold at most {MAX_STARS} {ANY}")
    return texts


def _fits(text: str, parts: list[str]) -> bool:
    """Whether the parts stand in a text in their order, the first at its beginning and the last at its end.

    Each part is taken where it stands first, which loses nothing. A regular expression would try all its places in
    turn: with a dozen of parts that takes longer than anybody lives.
    """
    first, *middle, last = parts
    if not text.startswith(first):
        return False
    place = len(first)
    for part in middle:
        place = text.find(part, place)
        if place < 0:
            return False
        place += len(part)
    return len(text) - place >= len(last) and text.endswith(last)


class Query(BaseModel):
    """A query string. What it does not know it ignores."""

    model_config = ConfigDict(extra="ignore", use_attribute_docstrings=True, json_schema_extra=plain)


class Page(Query):
    """Which part of a list."""

    limit: Limit = 100
    """How many at most."""
    offset: Offset = 0
    """How many to leave out first."""


class JobsQuery(Page):
    """GET /jobs."""

    status: JobStatuses | None = None
    """Only jobs in this status; repeated: in any of them."""
    label: Annotated[Texts, Field(examples=[["site=berlin"]])] | None = None
    """Only jobs with this label, such as site=berlin; repeated: with all of them."""
    since: Time | None = None
    """Only jobs created at this time or later, ISO 8601; UTC where it has no offset."""


class JobQuery(Page):
    """GET /jobs/:id."""

    collection: Truth | None = None
    """Not given: `requests` holds request objects. True: they come in `collection`, and `requests` holds their ids.
    False: ids alone, and all of them unless there is a `limit`."""
    status: RequestStatuses | None = None
    """Only requests in this status; repeated: in any of them."""
    destination: DestinationFilter | None = None
    """Only requests to this destination; repeated: to any of them. A * stands for any run of characters; at most 10
    of them may hold one, up to 8 in up to 128 characters."""


class AnswersQuery(Query):
    """GET /jobs/:id/answers."""

    limit: Limit = 100
    """How many groups at most."""
    status: FinalStatuses | None = None
    """Only requests that have ended in this status; repeated: in any of them."""


class RequestsQuery(Page):
    """GET /requests."""

    status: RequestStatuses | None = None
    """Only requests in this status; repeated: in any of them."""
    destination: DestinationFilter | None = None
    """Only requests to this destination; repeated: to any of them. A * stands for any run of characters; at most 10
    of them may hold one, up to 8 in up to 128 characters."""
    job: Whole | None = None
    """Only requests of the job with this id."""


class DeviceFilters(Query):
    """Which devices are meant: those for which all of it holds."""

    connection: Connections | None = None
    """Only devices with this connection; repeated: with any of them."""
    label: Annotated[Texts, Field(examples=[["site=berlin"]])] | None = None
    """Only devices with this label, such as site=berlin, or site for any value of it; repeated: with all of them."""
    fact: Annotated[Texts, Field(examples=[["system=Linux"]])] | None = None
    """Only devices that say this of themselves, such as system=Linux, or system for any value; repeated: all of it."""
    id: DestinationFilter | None = None
    """Only the device with this id; repeated: any of them. A * stands for any run of characters; at most 10 of them may
    hold one, up to 8 in up to 128 characters."""


class DevicesQuery(Page, DeviceFilters):
    """GET /devices."""


class FactQuery(DeviceFilters):
    """GET /devices/facts/:id."""

    limit: Limit = 100
    """How many values at most."""


class OutputQuery(Query):
    """GET /requests/:id/output."""

    start: Offset = 0
    """The number of the first chunk."""
    limit: Limit = 1000
    """How many at most."""


_Model = TypeVar("_Model", bound=Query)


def parse(model: type[_Model], query: Mapping[str, Any]) -> _Model:
    """A query, from the texts of a query string.

    :raises InvalidDocument: with every fault that was found.
    """
    try:
        return model.model_validate(dict(query))
    except ValidationError as error:
        found = error.errors(include_url=False, include_context=False, include_input=False)[:MAX_FAULTS]
        faults = [Fault(str(fault["loc"][0]), fault["msg"].removeprefix("Value error, ")) for fault in found]
        raise InvalidDocument(faults) from None
