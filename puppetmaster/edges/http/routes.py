"""The operations as routes: each parses, has it carried out, and renders."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import Response

from puppetmaster.edges.http import openapi
from puppetmaster.edges.http.replies import reply_outcome, reply_tagged
from puppetmaster.edges.http.requests import read_document, read_query, with_key
from puppetmaster.errors import PuppetmasterError
from puppetmaster.operations import OK, OPERATIONS, Call, Operation, Outcome, carry_out, refusal
from puppetmaster.service import Service

Endpoint = Callable[[Request], Awaitable[Response]]


def add_operations(app: FastAPI, service: Service) -> None:
    """Serve every operation under its resource."""
    for operation in OPERATIONS:
        path, method = path_of(operation), operation.method.upper()
        endpoint = _endpoint(service, operation)
        app.add_api_route(path, endpoint, methods=[method], response_model=None, **openapi.describe(operation))
        if not operation.is_write:
            app.add_api_route(path, endpoint, methods=["HEAD"], response_model=None, include_in_schema=False)


def path_of(operation: Operation) -> str:
    """Its resource as FastAPI writes it."""
    return operation.resource.replace(":id", "{id}")


def _endpoint(service: Service, operation: Operation) -> Endpoint:
    async def endpoint(request: Request) -> Response:
        outcome = await _carry_out(service, operation, request)
        if operation.is_write:
            request.state.audit.update(_subject(operation, request, outcome))
        if operation.name == "show_job":
            return reply_tagged(request, outcome)
        return reply_outcome(outcome)

    return endpoint


async def _carry_out(service: Service, operation: Operation, request: Request) -> Outcome:
    document: Any = None
    try:
        if operation.method in ("post", "put"):
            document = await read_document(request)
        if operation.method == "post":
            document = with_key(request, document)
    except PuppetmasterError as error:
        return refusal(error)
    call = Call(request.path_params.get("id", ""), read_query(request), document)
    outcome = await carry_out(service, operation, call)
    if operation.method == "put" and outcome.code == OK:
        request.state.audit["change"] = document
    return outcome


MAX_AUDITED = 1000
"""Characters of a refusal that the audit log has."""


def _subject(operation: Operation, request: Request, outcome: Outcome) -> dict[str, Any]:
    """What a call was about, for the audit log."""
    subject: dict[str, Any] = {"operation": operation.name}
    if outcome.error is not None or not isinstance(outcome.data, dict):
        return {**subject, "message": str(outcome.error)[:MAX_AUDITED]}
    if "totalCount" in outcome.data:
        subject["totalCount"] = outcome.data["totalCount"]
    if outcome.data.get("name"):
        subject["name"] = outcome.data["name"]
    if "id" in outcome.data:
        noun = "device" if operation.resource.startswith("/devices") else "job"
        subject["request" if "__request" in outcome.data else noun] = outcome.data["id"]
    return subject
