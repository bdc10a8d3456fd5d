"""What the OpenAPI document says of each call: /docs and /openapi.json are made of it."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from starlette.responses import Response

from puppetmaster import schemas
from puppetmaster.edges.http.requests import IDEMPOTENCY_KEY
from puppetmaster.fields import MAX_NAME, NO_CONTROL, DestinationText
from puppetmaster.operations import Operation
from puppetmaster.policies import MAX_DESTINATION
from puppetmaster.queries import JobsQuery, OutputQuery, Page
from puppetmaster.version import __version__

Document = dict[str, Any]

JSON = "application/json"

ABOUT: Document = {
    "title": "puppetmaster",
    "version": __version__,
    "summary": "Runs one command on thousands of devices over MQTT and knows at every moment how far it is.",
    "description": (
        "Every call answers JSON. Errors have a `message`, and for bad input `errors` with the path to each fault. "
        "With an account made, calls need `Authorization: Bearer <token>`: `POST /login` gives one. "
        "WebSockets: `/jobs/ws` for all jobs, `/jobs/{id}/ws` for one; what they send is a job as `GET /jobs` has it, "
        "at once and at every change."
    ),
}

_ERRORS: dict[int, str] = {
    400: "The body or the query breaks a rule: `errors` has the path to each fault. Nothing was created or changed.",
    401: "A login is needed, or the token is not valid.",
    403: "The account's role does not allow it, or the call comes from a page of another origin.",
    404: "There is no such job, request, device or account.",
    405: "The method is none of this resource.",
    408: "The body did not come in time.",
    409: "The state of what it is about forbids it.",
    413: "The body, or what the answer would be, is too large.",
    429: "Too many failed logins; `Retry-After` says in how many seconds to try again.",
    503: "The store can't write now, or memory is short; `Retry-After` says in how many seconds to try again.",
}

_GATE = (401, 403)
"""What may come of every call that is not open to all."""

_ANSWERS: dict[str, tuple[Any, str]] = {
    "list_jobs": (list[schemas.Job], "The jobs."),
    "create_job": (schemas.Job | schemas.DryRun, "The job with the ids of its requests; its size, for a dry run."),
    "show_job": (schemas.Job, "The job."),
    "update_job": (schemas.Job, "The job as it is now."),
    "remove_job": (schemas.Job, "The job as it was in the end."),
    "list_answers": (list[schemas.AnswerGroup], "The groups."),
    "rerun_job": (schemas.Job | schemas.DryRun, "The new job; its size, for a dry run."),
    "list_requests": (list[schemas.Request], "The requests."),
    "create_request": (schemas.Request, "The request."),
    "show_request": (schemas.Request, "The request."),
    "show_request_too": (schemas.Request, "The request."),
    "cancel_request": (schemas.Request, "The request as it is now."),
    "list_devices": (list[schemas.Device], "The devices."),
    "show_device": (schemas.Device, "The device."),
    "update_device": (schemas.Device, "The device as it is now."),
    "remove_device": (schemas.Device, "The device as it was in the end."),
    "list_fact_values": (list[schemas.FactValue], "The values."),
}

_BODIES: dict[str, tuple[Any, bool]] = {
    "create_job": (schemas.job_body, True),
    "update_job": (schemas.update_body, True),
    "rerun_job": (schemas.rerun_body, False),
    "create_request": (schemas.request_body, True),
    "update_device": (schemas.device_body, True),
}
"""The body of an operation, and whether there must be one."""

_FAILURES: dict[str, tuple[int, ...]] = {
    "list_jobs": (400, 413),
    "create_job": (400, 409, 413, 503),
    "show_job": (400, 404, 413),
    "update_job": (400, 404, 409, 413, 503),
    "remove_job": (404, 503),
    "list_answers": (400, 404, 413),
    "rerun_job": (400, 404, 409, 413, 503),
    "list_requests": (400, 413),
    "create_request": (400, 409, 413, 503),
    "show_request": (404,),
    "show_request_too": (404,),
    "cancel_request": (404, 409, 503),
    "list_devices": (400, 413),
    "show_device": (404,),
    "update_device": (400, 409, 413, 503),
    "remove_device": (404, 503),
    "list_fact_values": (400, 413),
}


def describe(operation: Operation) -> Document:
    """What FastAPI is to know of an operation."""
    parameters = [] if operation.query is None else schemas.query_parameters(operation.query)
    kind = _kind(operation)
    if ":id" in operation.resource:
        parameters.insert(0, _DEVICE_IDS[operation.name] if kind == "device" else _id_parameter(kind))
    extra: Document = {}
    body = _BODIES.get(operation.name)
    if body is not None:
        make, required = body
        extra["requestBody"] = _body(make(), required)
    if operation.method == "post":
        parameters.append(_key_parameter(operation))
    if parameters:
        extra["parameters"] = parameters
    model, meaning = _ANSWERS[operation.name]
    return _about(
        operation.name, operation.summary, f"{kind}s", model, meaning, _FAILURES[operation.name] + _GATE, extra
    )


def complete(app: FastAPI) -> Document:
    """The whole document, with the schemas that the bodies refer to."""
    if app.openapi_schema is None:
        document = get_openapi(routes=app.routes, openapi_version="3.1.0", **ABOUT)
        components = document.setdefault("components", {})
        components.setdefault("schemas", {}).update(schemas.body_definitions())
        components["securitySchemes"] = {"bearer": {"type": "http", "scheme": "bearer"}}
        document["security"] = [{}, {"bearer": []}]
        app.openapi_schema = document
    return app.openapi_schema


def _about(
    name: str, summary: str, tag: str, model: Any, meaning: str, failures: tuple[int, ...], extra: Document
) -> Document:
    responses: dict[int, Document] = {200: {"model": model, "description": meaning}}
    responses |= {code: {"model": schemas.ErrorBody, "description": _ERRORS[code]} for code in sorted(failures)}
    return {"operation_id": name, "summary": summary, "tags": [tag], "responses": responses, "openapi_extra": extra}


def _kind(operation: Operation) -> str:
    """What an operation is about."""
    return next((noun for noun in ("request", "device") if operation.resource.startswith(f"/{noun}")), "job")


def _text_parameter(about: str, schema: Document, example: str) -> Document:
    schema = {"type": "string", "minLength": 1, **schema}
    return {"name": "id", "in": "path", "required": True, "description": about, "schema": schema, "example": example}


_DEVICE_ID = _text_parameter(
    "The device's id.",
    {"maxLength": MAX_DESTINATION, "pattern": DestinationText.model_json_schema()["pattern"]},
    "device-0001",
)
_DEVICE_IDS = {
    "show_device": _DEVICE_ID,
    "update_device": _DEVICE_ID,
    "remove_device": _DEVICE_ID,
    "list_fact_values": _text_parameter("The name of the fact.", {"pattern": "^[^/]+$"}, "system"),
}
"""What stands for ``:id``."""


def _id_parameter(noun: str) -> Document:
    return {
        "name": "id",
        "in": "path",
        "required": True,
        "description": f"The {noun}'s id.",
        "schema": {"type": "integer", "minimum": 0},
        "example": 1000000 if noun == "job" else 1000001,
    }


def _key_parameter(operation: Operation) -> Document:
    return {
        "name": IDEMPOTENCY_KEY,
        "in": "header",
        "required": False,
        "description": (
            "The same as `key` in the body: the same key never makes a second job of the same content. Quotes around "
            "it don't count."
        ),
        "schema": {"type": "string", "minLength": 1, "maxLength": MAX_NAME, "pattern": f"^{NO_CONTROL}+$"},
        "example": f"{operation.name}-2026-01-31",
    }


def _body(described: schemas.BodyDescription, required: bool) -> Document:
    schema, example = described
    return {"required": required, "content": {JSON: {"schema": schema, "example": example}}}


def _plain_body(model: Any) -> Document:
    return {"requestBody": _body(schemas.body_of(model), True)}


def _text(name: str, summary: str, tag: str, media_type: str, meaning: str, failures: tuple[int, ...]) -> Document:
    about = _about(name, summary, tag, None, meaning, failures, {})
    about["responses"][200] = {
        "description": meaning,
        "content": {media_type: {"schema": {"type": "string", "description": meaning}}},
    }
    return {**about, "response_class": Response}  # else FastAPI adds JSON to what it may be


_NAME_PARAMETER: Document = {
    "parameters": [
        {
            "name": "name",
            "in": "path",
            "required": True,
            "description": "The account's name.",
            "schema": {"type": "string", "minLength": 1, "maxLength": 64},
            "example": "ana",
        }
    ]
}

LOGIN = _about(
    "login", "Log in: a token for a name and a password, also set as a cookie.", "accounts",
    schemas.Token, "The token.", (400, 401, 403, 409, 413, 429), _plain_body(schemas.Login),
)  # fmt: skip

LOGOUT: Document = {
    "operation_id": "logout",
    "summary": "Log out: the token that it is called with ends.",
    "tags": ["accounts"],
    "status_code": 204,
    "responses": {
        204: {"description": "It has ended."},
        **{code: {"model": schemas.ErrorBody, "description": _ERRORS[code]} for code in _GATE},
    },
}

ACCOUNT = _about(
    "show_account", "Show who the caller is, and whether a login is needed.", "accounts",
    schemas.Account, "The caller.", _GATE, {},
)  # fmt: skip

ACCOUNTS = _about(
    "list_accounts", "List the accounts; for admins.", "accounts",
    list[schemas.AccountEntry], "The accounts.", _GATE, {},
)  # fmt: skip

ADD_ACCOUNT = _about(
    "add_account", "Make an account; for admins.", "accounts",
    schemas.AccountEntry, "The account.", (400, *_GATE, 409, 413, 503), _plain_body(schemas.NewAccount),
)  # fmt: skip

CHANGE_ACCOUNT = _about(
    "change_account", "Give an account another role or password; for admins.", "accounts",
    schemas.AccountEntry, "The account.", (400, *_GATE, 404, 409, 413, 503),
    _NAME_PARAMETER | _plain_body(schemas.AccountChange),
)  # fmt: skip

REMOVE_ACCOUNT = _about(
    "remove_account", "Remove an account and its tokens; for admins.", "accounts",
    schemas.AccountEntry, "The account that was.", (*_GATE, 404, 409, 503), _NAME_PARAMETER,
)  # fmt: skip

AUDIT = _about(
    "list_audit", "List the writes of all callers, the newest first; for admins.", "accounts",
    list[schemas.AuditEntry], "The entries.", (400, *_GATE), {"parameters": schemas.query_parameters(Page)},
)  # fmt: skip

HEALTH = _about(
    "show_health", "Tell whether it is ready: broker, controller and store.", "status",
    schemas.Health, "It is ready.", (), {},
)  # fmt: skip
HEALTH["responses"][503] = {"model": schemas.Health, "description": "It is alive, and not ready: the fields tell why."}

METRICS = _text(
    "show_metrics", "Show figures for Prometheus.", "status",
    "text/plain", "Figures in Prometheus's text format.", _GATE,
)  # fmt: skip

_STREAM = "text/event-stream"

EVENTS_OF_ALL = _text(
    "watch_jobs", "Watch all jobs that match: their states now, then every change (server-sent events).", "jobs",
    _STREAM, "Events named job with a job, or removed with its id; it does not end.", (400, *_GATE, 413),
)  # fmt: skip
EVENTS_OF_ALL["openapi_extra"] = {"parameters": schemas.query_parameters(JobsQuery)}

EVENTS_OF_ONE = _text(
    "watch_job", "Watch a job: its state now, then every change until it has ended (server-sent events).", "jobs",
    _STREAM, "Events named job with the job, or removed with its id.", (404, *_GATE),
)  # fmt: skip
EVENTS_OF_ONE["openapi_extra"] = {"parameters": [_id_parameter("job")]}
EVENTS_OF_ONE["responses"][204] = {"description": "The job has ended, and the caller has had its last state."}

OUTPUT = _about(
    "list_output", "List what the command of a request puts out, in chunks; those that there are by now.", "requests",
    list[schemas.OutputChunk], "The chunks, in the order of their numbers.", (400, *_GATE, 404, 503),
    {"parameters": [_id_parameter("request"), *schemas.query_parameters(OutputQuery)]},
)  # fmt: skip

OUTPUT_EVENTS = _text(
    "watch_output", "Watch what the command of a request puts out, from the beginning on (server-sent events).",
    "requests", _STREAM, "Events named chunk, each with its number as the id, and over in the end.",
    (400, *_GATE, 404),
)  # fmt: skip
OUTPUT_EVENTS["openapi_extra"] = {
    "parameters": [_id_parameter("request"), *schemas.query_parameters(OutputQuery)[:1]]
}
OUTPUT_EVENTS["responses"][204] = {"description": "The caller has had all of it."}

OUTPUT_RAW = _text(
    "read_output", "Read the bytes that the command of a request puts out, from the beginning and on to its end.",
    "requests", "application/octet-stream", "The bytes of stdout and stderr as they come.", (*_GATE, 404),
)  # fmt: skip
OUTPUT_RAW["openapi_extra"] = {"parameters": [_id_parameter("request")]}

JOB_OUTPUT_EVENTS = _text(
    "watch_job_output", "Watch what the commands of a job put out on all its devices (server-sent events).",
    "jobs", _STREAM, "Events named chunk with request and destination beside what a chunk has, and over in the end.",
    (*_GATE, 404, 413),
)  # fmt: skip
JOB_OUTPUT_EVENTS["openapi_extra"] = {"parameters": [_id_parameter("job")]}
JOB_OUTPUT_EVENTS["responses"][204] = {"description": "The caller has had all of it."}
