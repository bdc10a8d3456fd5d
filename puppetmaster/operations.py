"""What callers may ask of the service: one table, which the Sanji edge and the HTTP edge both serve.

An edge finds out what a caller wants (:class:`Call`), has it carried out, and writes the :class:`Outcome` the way its
protocol has it. Codes, bodies and errors are the same on every edge, because they are made here.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

from puppetmaster.errors import JobNotFound, NotFound, PuppetmasterError, RequestNotFound
from puppetmaster.queries import AnswersQuery, DevicesQuery, FactQuery, JobQuery, JobsQuery, Query, RequestsQuery
from puppetmaster.service import Service
from puppetmaster.views import error_view

logger = logging.getLogger(__name__)

OK, INTERNAL_ERROR = 200, 500

MAX_ID_DIGITS = 18
"""What is longer is no id of ours, and no number that JSON carries safely."""


@dataclass(frozen=True, slots=True)
class Call:
    """One call of an operation."""

    ident: str = ""
    """What stands for ``:id`` in the resource, as the caller wrote it."""
    query: Mapping[str, Any] | None = None
    """The query string: a text for each name, or a list of them."""
    document: Any = None
    """The body."""

    @property
    def job_id(self) -> int:
        """The job that it is about.

        :raises JobNotFound: when the id is none.
        """
        return _number(self.ident, JobNotFound)

    @property
    def request_id(self) -> int:
        """The request that it is about.

        :raises RequestNotFound: when the id is none.
        """
        return _number(self.ident, RequestNotFound)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a caller is answered."""

    code: int
    data: Any
    error: PuppetmasterError | None = None
    """Why it failed, when that was no fault of ours."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """One method of one resource."""

    name: str
    method: str
    """Lower case, as in the Sanji protocol."""
    resource: str
    """As the SDK writes it: ``/jobs/:id``."""
    summary: str
    run: Callable[[Service, Call], Awaitable[Any]]
    query: type[Query] | None = None
    """What its query string may hold."""

    @property
    def is_write(self) -> bool:
        """Whether it may change something."""
        return self.method != "get"


OPERATIONS = (
    Operation(
        name="list_jobs",
        method="get",
        resource="/jobs",
        summary="List jobs, the newest first, without their requests.",
        run=lambda service, call: service.list_jobs(call.query or {}),
        query=JobsQuery,
    ),
    Operation(
        name="create_job",
        method="post",
        resource="/jobs",
        summary="Create a job.",
        run=lambda service, call: service.create_job(call.document),
    ),
    Operation(
        name="show_job",
        method="get",
        resource="/jobs/:id",
        summary="Show a job and a page of its requests.",
        run=lambda service, call: service.show_job(call.job_id, call.query or {}),
        query=JobQuery,
    ),
    Operation(
        name="update_job",
        method="put",
        resource="/jobs/:id",
        summary="Pause, resume or cancel a job, or give it other limits.",
        run=lambda service, call: service.update_job(call.job_id, call.document),
    ),
    Operation(
        name="remove_job",
        method="delete",
        resource="/jobs/:id",
        summary="Cancel what is unfinished of a job, and remove it.",
        run=lambda service, call: service.remove_job(call.job_id),
    ),
    Operation(
        name="list_answers",
        method="get",
        resource="/jobs/:id/answers",
        summary="Count the equal answers of a job's devices, the most frequent first.",
        run=lambda service, call: service.list_answers(call.job_id, call.query or {}),
        query=AnswersQuery,
    ),
    Operation(
        name="rerun_job",
        method="post",
        resource="/jobs/:id/rerun",
        summary="Create a job of the requests of this one that failed.",
        run=lambda service, call: service.rerun_job(call.job_id, call.document),
    ),
    Operation(
        name="list_requests",
        method="get",
        resource="/requests",
        summary="List requests, the newest first.",
        run=lambda service, call: service.list_requests(call.query or {}),
        query=RequestsQuery,
    ),
    Operation(
        name="create_request",
        method="post",
        resource="/requests",
        summary="Send one message to one destination: a job of one request.",
        run=lambda service, call: service.create_request(call.document),
    ),
    Operation(
        name="show_request",
        method="get",
        resource="/requests/:id",
        summary="Show a request and what came of it.",
        run=lambda service, call: service.show_request(call.request_id),
    ),
    Operation(
        name="show_request_too",
        method="get",
        resource="/request/:id",
        summary="The same as /requests/:id, as one of the reference documents has it.",
        run=lambda service, call: service.show_request(call.request_id),
    ),
    Operation(
        name="cancel_request",
        method="delete",
        resource="/requests/:id",
        summary="Cancel a request that has not ended.",
        run=lambda service, call: service.cancel_request(call.request_id),
    ),
    Operation(
        name="list_devices",
        method="get",
        resource="/devices",
        summary="List devices, in the order of their ids.",
        run=lambda service, call: service.devices.page(call.query or {}),
        query=DevicesQuery,
    ),
    Operation(
        name="show_device",
        method="get",
        resource="/devices/:id",
        summary="Show a device and what it says of itself.",
        run=lambda service, call: service.devices.show(call.ident),
    ),
    Operation(
        name="update_device",
        method="put",
        resource="/devices/:id",
        summary="Give a device labels, or take some away.",
        run=lambda service, call: service.devices.update(call.ident, call.document),
    ),
    Operation(
        name="remove_device",
        method="delete",
        resource="/devices/:id",
        summary="Forget a device; it appears again when it is heard of again.",
        run=lambda service, call: service.devices.remove(call.ident),
    ),
    Operation(
        name="list_fact_values",
        method="get",
        resource="/devices/facts/:id",
        summary="Count the devices by what they say of one fact, the most frequent value first.",
        run=lambda service, call: service.devices.values(call.ident, call.query or {}),
        query=FactQuery,
    ),
)


async def carry_out(service: Service, operation: Operation, call: Call) -> Outcome:
    """Do what a caller wants, and say how it went; never raises but when it is canceled."""
    try:
        return Outcome(OK, await operation.run(service, call))
    except PuppetmasterError as error:
        return refusal(error)
    except Exception:
        logger.exception("%s could not be carried out", operation.name,
                         extra={"event": "operation_failed", "operation": operation.name})
        return Outcome(INTERNAL_ERROR, {"message": "internal error; the log of the bundle tells more"})


def refusal(error: PuppetmasterError) -> Outcome:
    """What a caller is told of an error."""
    return Outcome(error.code, error_view(error), error)


def _number(ident: str, missing: type[NotFound]) -> int:
    if not (ident.isascii() and ident.isdigit() and len(ident) <= MAX_ID_DIGITS):
        raise missing(ident)
    return int(ident)
