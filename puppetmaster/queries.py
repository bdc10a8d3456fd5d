"""The query strings of the routes, checked."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from puppetmaster.errors import Fault, InvalidDocument
from puppetmaster.fields import Time, listed
from puppetmaster.states import JobStatus, RequestStatus

MAX_LIMIT = 10_000
"""The longest page; one that would not fit a message on the bus is refused all the same."""


Texts = Annotated[list[str], BeforeValidator(listed)]


class _Query(BaseModel):
    model_config = ConfigDict(extra="ignore")


class Page(_Query):
    """Which part of a list: at most ``limit``, after the first ``offset``."""

    limit: Annotated[int, Field(ge=0, le=MAX_LIMIT)] = 100
    offset: Annotated[int, Field(ge=0, le=2**53)] = 0


class JobsQuery(Page):
    """GET /jobs. A ``status`` or ``label`` that is repeated: any of the statuses, all of the labels."""

    status: Annotated[list[JobStatus], BeforeValidator(listed)] | None = None
    label: Texts | None = None
    since: Time | None = None


class JobQuery(Page):
    """GET /jobs/:id. ``collection``: where the request objects come, or (false) that only their ids do."""

    collection: bool | None = None
    status: Annotated[list[RequestStatus], BeforeValidator(listed)] | None = None


class RequestsQuery(Page):
    """GET /requests."""

    status: Annotated[list[RequestStatus], BeforeValidator(listed)] | None = None
    destination: Texts | None = None
    job: int | None = None


_Model = TypeVar("_Model", bound=_Query)


def parse(model: type[_Model], query: Mapping[str, Any]) -> _Model:
    """A query, from the texts of a query string.

    :raises InvalidDocument: with every fault that was found.
    """
    try:
        return model.model_validate(dict(query))
    except ValidationError as error:
        faults = [Fault(str(found["loc"][0]), found["msg"].removeprefix("Value error, ")) for found in error.errors()]
        raise InvalidDocument(faults) from None
