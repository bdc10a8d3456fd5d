"""The schemas: they describe every field, say what the reader says, and fit what really comes back."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import jsonschema_rs
import orjson
import pytest
from pydantic import BaseModel, TypeAdapter

from puppetmaster import schemas, views
from puppetmaster.accounts.roles import Role
from puppetmaster.devices import DeviceUpdate
from puppetmaster.errors import InvalidDocument, JobNotFound, TooLarge
from puppetmaster.job_document import JobReader
from puppetmaster.policies import Connection
from puppetmaster.queries import AnswersQuery, DevicesQuery, FactQuery, JobQuery, JobsQuery, Page, RequestsQuery, parse
from puppetmaster.states import JobStatus, RequestStatus
from tests import test_job_document
from tests.system import bad_bodies
from tests.test_devices import BAD_UPDATES
from tests.test_service import Bench, run, settle

DOCS = Path(__file__).resolve().parents[1] / "docs"

ANSWERS: list[Any] = [
    schemas.Job, schemas.DryRun, schemas.Removed, schemas.Request, schemas.AnswerGroup, schemas.ErrorBody,
    schemas.Health, schemas.Token, schemas.Account, schemas.AccountEntry, schemas.AuditEntry, schemas.Device,
    schemas.FactValue,
]  # fmt: skip
BODIES: dict[str, Callable[[], schemas.BodyDescription]] = {
    "job": schemas.job_body,
    "request": schemas.request_body,
    "update": schemas.update_body,
    "rerun": schemas.rerun_body,
    "device": schemas.device_body,
    "login": lambda: schemas.body_of(schemas.Login),
    "new account": lambda: schemas.body_of(schemas.NewAccount),
    "account change": lambda: schemas.body_of(schemas.AccountChange),
}
QUERIES = (JobsQuery, JobQuery, AnswersQuery, RequestsQuery, DevicesQuery, FactQuery, Page)

reader = JobReader(max_requests=1_000)
READ: dict[str, Callable[[object], object]] = {
    "job": reader.job,
    "request": reader.request,
    "update": reader.update,
    "rerun": reader.rerun,
    "device": lambda document: schemas.parse(DeviceUpdate, document),
    "login": lambda document: schemas.parse(schemas.Login, document),
    "new account": lambda document: schemas.parse(schemas.NewAccount, document),
    "account change": lambda document: schemas.parse(schemas.AccountChange, document),
}


def validator(name: str) -> Any:
    """Knows whether a document fits the schema of a body."""
    schema, _ = BODIES[name]()
    whole = {**schema, "components": {"schemas": schemas.body_definitions()}}
    return jsonschema_rs.Draft202012Validator(whole, validate_formats=True)


def output_schema(kind: Any) -> dict[str, Any]:
    return TypeAdapter(kind).json_schema(mode="serialization")


def fits(kind: Any, document: Any) -> None:
    """A document is read as this type, and fits its schema."""
    jsonschema_rs.Draft202012Validator(output_schema(kind), validate_formats=True).validate(document)
    TypeAdapter(kind).validate_python(document)


# Descriptions


def objects(schema: Any, path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Every schema with properties in a schema; those that only add to another one are no objects of their own."""
    if isinstance(schema, dict):
        if "properties" in schema and "type" in schema and not path.endswith("/properties/__request"):
            yield path, schema
        for name, inner in schema.items():
            yield from objects(inner, f"{path}/{name}")
    elif isinstance(schema, list):
        for number, inner in enumerate(schema):
            yield from objects(inner, f"{path}/{number}")


EVERYTHING = {
    **{model.__name__: output_schema(model) for model in ANSWERS},
    **schemas.body_definitions(),
}


@pytest.mark.parametrize("name", EVERYTHING)
def test_every_field_is_described_with_a_sentence(name: str) -> None:
    described = list(objects(EVERYTHING[name], name))
    for path, schema in described:
        assert schema.get("description"), path
        for field, what in schema["properties"].items():
            text = what.get("description", "")
            assert len(text.split()) >= 2 and text.endswith((".", "...")), f"{path}.{field}: {text!r}"
            assert "\n" not in text, f"{path}.{field}"
            assert "title" not in what, f"{path}.{field}"


@pytest.mark.parametrize("model", QUERIES)
def test_every_parameter_is_described_with_a_sentence(model: Any) -> None:
    parameters = schemas.query_parameters(model)
    assert [parameter["name"] for parameter in parameters] == list(model.model_fields)
    for parameter in parameters:
        assert parameter["description"].endswith(".")
        assert "\n" not in parameter["description"]
        assert (parameter["in"], parameter["required"]) == ("query", False)
        assert "anyOf" not in parameter["schema"]
        assert "null" not in json.dumps(parameter["schema"])


def test_a_parameter_that_may_be_repeated_says_so() -> None:
    parameters = {parameter["name"]: parameter for parameter in schemas.query_parameters(RequestsQuery)}
    assert {name for name, parameter in parameters.items() if parameter.get("explode")} == {"status", "destination"}
    assert parameters["status"]["schema"] == {
        "type": "array", "maxItems": 20,
        "items": {"type": "string", "enum": [status.value for status in RequestStatus]},
    }  # fmt: skip
    assert parameters["limit"]["schema"] == {"type": "integer", "minimum": 0, "maximum": 10_000, "default": 100}


@pytest.mark.parametrize("model", QUERIES)
def test_the_examples_of_parameters_are_read(model: Any) -> None:
    for parameter in schemas.query_parameters(model):
        schema, example = parameter["schema"], parameter.get("example")
        if example is not None:
            jsonschema_rs.Draft202012Validator(schema, validate_formats=True).validate(example)
            parse(model, {parameter["name"]: example})


def references(schema: Any) -> set[str]:
    if isinstance(schema, dict):
        own = {schema["$ref"]} if "$ref" in schema else set()
        return own.union(*(references(inner) for inner in schema.values()))
    return set().union(*(references(inner) for inner in schema)) if isinstance(schema, list) else set()


def test_all_that_is_referred_to_is_defined() -> None:
    definitions = schemas.body_definitions()
    found = references([definitions, *(make()[0] for make in BODIES.values())])
    assert {reference.removeprefix("#/components/schemas/") for reference in found} <= definitions.keys()


# Bodies


@pytest.mark.parametrize("name", BODIES)
def test_the_example_of_a_body_fits_its_schema_and_is_read(name: str) -> None:
    _, example = BODIES[name]()
    validator(name).validate(example)
    READ[name](example)


def test_the_examples_of_every_spelling_of_a_job_are_read() -> None:
    definitions = schemas.body_definitions()
    for name in ("BatchJob", "CollectionJob", "BroadcastJob"):
        [example] = definitions[name]["examples"]
        validator("job").validate(example)
        reader.job(example)


GOOD_JOBS = [
    *test_job_document.SPELLINGS.values(),
    *map(json.loads, re.findall(r"```json job\n(.*?)```", (DOCS / "api.md").read_text("utf-8"), re.DOTALL)),
    {**test_job_document.BROADCAST, "timeout": None, "retry": None, "labels": {}, "dryRun": None, "key": None},
    {**test_job_document.BROADCAST, "labels": {"site": "berlin"}, "startAt": "2038-01-01T00:00:00+02:00"},
    {"batch": [{"method": "Get", "resource": "/", "__request": None, "__destination": "é😀"}]},
    {"batch": [{"method": "get", "resource": "/", "__request": {"destination": None, "__destination": ["a"]}}]},
    {"batch": [{"method": "get", "resource": "/", "__request": {}, "__destination": "a", "more": 1}]},
    {"destinations": "a", "message": {"method": "get", "resource": "/ü", "data": {"a": [1.5, None, -(2**63)]}}},
]


@pytest.mark.parametrize("document", GOOD_JOBS, ids=range(len(GOOD_JOBS)))
def test_a_job_that_is_read_fits_the_schema(document: Any) -> None:
    reader.job(document)
    validator("job").validate(document)


UNSAYABLE = re.compile("levels deep|has at most 1023 bytes|bytes as JSON|max can't be less|0001-01-01|9999-12-31")
"""What a JSON schema can't tell: the depth of a value, its bytes, two fields together, the ends of the calendar."""


def refused(name: str, document: object) -> InvalidDocument | None:
    try:
        READ[name](document)
    except InvalidDocument as error:
        return error
    except TooLarge:
        return None
    return None


def sayable(name: str, documents: Iterable[object]) -> Iterator[Any]:
    """Those of refused documents that JSON in UTF-8 can say, and whose faults a schema can."""
    for document in documents:
        error = refused(name, document)
        try:
            document = orjson.loads(orjson.dumps(document))
        except TypeError:  # surrogates, numbers over 64 bits
            continue
        if error is None or refused(name, document) is None:
            continue
        labels = document.get("labels") if isinstance(document, dict) else None
        if isinstance(labels, dict) and any(len(f"{key}={text}") > 128 for key, text in labels.items()):
            continue
        if not all(UNSAYABLE.search(f"{fault.message} {document}") for fault in error.faults):
            yield document


BAD: dict[str, Callable[[], Iterator[bad_bodies.Bad]]] = {
    "job": bad_bodies.bad_jobs,
    "request": bad_bodies.bad_requests,
    "update": bad_bodies.bad_updates,
}


@pytest.mark.parametrize("name", BAD)
def test_a_body_that_is_refused_does_not_fit_the_schema(name: str) -> None:
    check, found = validator(name), 0
    for document in sayable(name, (json.loads(bad.raw) for bad in BAD[name]() if len(bad.raw) < 100_000)):
        found += 1
        assert not check.is_valid(document), document
    assert found > 100


def test_each_fault_of_a_job_keeps_it_from_fitting() -> None:
    check = validator("job")
    documents = list(sayable("job", (document for document, _ in test_job_document.FAULTS)))
    assert len(documents) > 80
    assert [document for document in documents if check.is_valid(document)] == []


@pytest.mark.parametrize(
    ("name", "document", "path"),
    [
        ("login", {"name": "ana"}, "password"), ("login", {"name": "", "password": "x"}, "name"),
        ("login", {"name": "ana", "password": 5}, "password"), ("login", None, ""), ("login", [], ""),
        ("login", {"name": "ana", "password": "x", "token": "y"}, "token"),
        ("login", {"name": "ana", "password": "x" * 1025}, "password"),
        ("new account", {"name": "ben"}, "password"), ("new account", {"name": 5, "password": "12345678"}, "name"),
        ("new account", {"name": "ben", "password": "12345678", "role": "root"}, "role"),
        ("new account", {"name": "ben", "password": "12345678", "role": 5}, "role"),
        ("account change", {}, ""), ("account change", {"name": "ben"}, "name"),
        ("account change", {"role": "Admin"}, "role"), ("account change", {"password": []}, "password"),
    ],
)  # fmt: skip
def test_a_bad_body_about_an_account_is_refused_and_does_not_fit(name: str, document: object, path: str) -> None:
    error = refused(name, document)
    assert error is not None
    assert [fault.path for fault in error.faults] == [path]
    assert not validator(name).is_valid(document)


def test_a_password_that_can_not_be_encoded_is_refused() -> None:
    error = refused("login", {"name": "ana", "password": "\ud800"})
    assert error is not None and error.faults[0].path == "password"


def test_bodies_about_accounts_are_read() -> None:
    assert schemas.parse(schemas.NewAccount, {"name": "ben", "password": "x" * 8}).role is None
    assert schemas.parse(schemas.NewAccount, {"name": "ben", "password": "x" * 8, "role": "viewer"}).role is Role.VIEWER
    change = schemas.parse(schemas.AccountChange, {"role": "admin", "password": None})
    assert (change.role, change.password) == (Role.ADMIN, None)


# What comes back

FULL: dict[str, Any] = {
    "name": "reboot", "labels": {"site": "berlin"}, "destinations": ["a", "b", "c"], "timeout": 90.5, "concurrency": 2,
    "message": {"method": "post", "resource": "/system/reboot", "data": {"now": True}}, "priority": 80,
    "retry": {"limit": 0, "on": [503, "timeout"]}, "rate": {"perMinute": 6000, "max": 6000.5, "factor": 1.5},
    "abort": {"errorPercent": 99.5, "minimum": 2}, "startAt": "1970-01-01T00:00:00Z",
}  # fmt: skip
BARE: dict[str, Any] = {"destinations": "a", "message": {"method": "get", "resource": "/x"}}


@pytest.mark.parametrize("document", [FULL, BARE], ids=["full", "bare"])
def test_a_job_is_read_at_every_stage_of_its_life(document: dict[str, Any]) -> None:
    async def main() -> None:
        async with Bench() as bench:
            service = bench.service
            made = await service.create_job(document)
            fits(schemas.Job, made)
            job = schemas.Job.model_validate(made)
            assert job.requests == job.request_ids == made["requests"]
            await settle()
            await bench.answer(made["requests"][0], 404 if document is FULL else 200, {"why": [1, None]})
            await settle()
            for query in ({}, {"collection": "true"}, {"collection": "false"}, {"status": "timeout"}):
                shown = await service.show_job(made["id"], query)
                fits(schemas.Job, shown)
                assert set(shown) - {"requests", "collection"} == wire_names(schemas.Job) - {"requests", "collection"}
            fits(list[schemas.Job], await service.list_jobs({}))
            fits(list[schemas.AnswerGroup], await service.list_answers(made["id"], {}))
            if document is FULL:
                fits(schemas.Job, await service.update_job(made["id"], {"status": "paused"}))
                again = await service.rerun_job(made["id"], {"dryRun": True})
                fits(schemas.Job | schemas.DryRun, again)
                assert schemas.DryRun.model_validate(again).total_count == 1
            fits(schemas.Job, await service.remove_job(made["id"]))

    run(main)


def wire_names(model: type[BaseModel]) -> set[str]:
    return set(output_schema(model)["properties"])


def test_a_job_reads_like_python() -> None:
    async def main() -> None:
        async with Bench() as bench:
            made = await bench.service.create_job(FULL)
            await settle()
            assert not schemas.Job.model_validate(made).is_final
            for number, destination in enumerate("abc"):
                code = 500 if destination == "b" else 200
                await bench.later(1.0)
                await bench.answer(made["requests"][number], code, {"v": number}, destination)
            await settle()
            job = schemas.Job.model_validate(await bench.service.show_job(made["id"], {}))
            assert job.is_final
            assert job.status is JobStatus.RESOLVED
            assert job.created_at == datetime.fromtimestamp(1_000, timezone.utc)
            assert (job.total_count, job.finish_count, job.error_count, job.done_count) == (3, 2, 1, 3)
            assert job.counts.resolved == job.counts["resolved"] == job.counts[RequestStatus.RESOLVED] == 2
            assert (job.timeout, job.concurrency, job.priority, job.labels) == (90.5, 2, 80, ["site=berlin"])
            assert (job.retry.limit, job.retry.on) == (0, [503, "timeout"])
            assert job.rate is not None and (job.rate.per_minute, job.rate.max) == (6000, 6000.5)
            assert job.abort is not None and job.abort.error_percent == 99.5
            assert job.request_ids == made["requests"]
            assert job.requests is not None
            request = job.requests[1]
            assert isinstance(request, schemas.Request)
            assert (request.job, request.destination, request.status) == (job.id, "b", RequestStatus.ERROR)
            assert (request.code, request.is_final) == (500, True)
            assert request.result == {"code": 500, "resource": "/system/reboot", "data": {"v": 1}}
            assert request.reason == request.info.reason != ""
            assert request.info.finished_at is not None

    run(main)


def test_requests_are_read_at_every_stage_of_their_life() -> None:
    async def main() -> None:
        async with Bench() as bench:
            made = await bench.service.create_request({"destination": "a", "message": BARE["message"]})
            fits(schemas.Request, made)
            assert wire_names(schemas.Request) == set(made)
            assert wire_names(schemas.RequestInfo) == set(made["__request"])
            await settle()
            fits(schemas.Request, await bench.service.show_request(made["id"]))
            await bench.answer(made["id"], 102, {"progress": 40})
            await settle()
            fits(schemas.Request, await bench.service.cancel_request(made["id"]))
            fits(list[schemas.Request], await bench.service.list_requests({}))

    run(main)


def test_a_dry_run_and_a_large_answer_are_read() -> None:
    async def main() -> None:
        async with Bench() as bench:
            tried = await bench.service.create_job({**FULL, "dryRun": True})
            fits(schemas.DryRun, tried)
            assert wire_names(schemas.DryRun) == set(tried)
            made = await bench.service.create_job(BARE)
            await settle()
            await bench.answer(made["requests"][0], 200, ["x" * 5000])
            await settle()
            [group] = await bench.service.list_answers(made["id"], {})
            fits(schemas.AnswerGroup, group)
            assert wire_names(schemas.AnswerGroup) == set(group)
            assert schemas.AnswerGroup.model_validate(group).cut

    run(main)


def test_devices_are_read_whatever_is_known_of_them() -> None:
    async def main() -> None:
        async with Bench() as bench:
            devices = bench.service.devices
            devices.seen("seen", 1.0)
            facts = {"hostname": "box", "cores": 4, "load": 0.5, "edge": True}
            devices.presence("says", {"connection": "online", "labels": {"site": "berlin"}, "facts": facts}, 2.0)
            devices.telemetry("says", {"frequent": {"load": [1, None]}, "seldom": {"disk": {"free": 1}}}, 3.0)
            fits(schemas.Device, await devices.update("named", {"labels": {"site": "bonn"}}))
            views = await devices.page({})
            fits(list[schemas.Device], views)
            assert all(set(view) == wire_names(schemas.Device) for view in views)
            assert wire_names(schemas.Telemetry) == set(views[0]["telemetry"])
            device = schemas.Device.model_validate(await devices.show("says"))
            assert (device.facts, device.labels, device.connection) == (facts, {"site": "berlin"}, Connection.ONLINE)
            values = await devices.values("cores", {})
            fits(list[schemas.FactValue], values)
            assert wire_names(schemas.FactValue) == set(values[0])

    run(main)


@pytest.mark.parametrize("document", BAD_UPDATES, ids=lambda document: repr(document)[:40])
def test_labels_that_are_refused_do_not_fit_the_schema(document: Any) -> None:
    assert refused("device", document) is not None
    assert not validator("device").is_valid(document)


def test_errors_are_read() -> None:
    error = refused("job", {"batch": [], "colour": "red"})
    assert error is not None
    fits(schemas.ErrorBody, views.error_view(error))
    body = schemas.ErrorBody.model_validate(views.error_view(error))
    assert body.errors is not None
    assert [fault.path for fault in body.errors] == ["batch", "colour"]
    other = views.error_view(JobNotFound(5))
    fits(schemas.ErrorBody, other)
    assert schemas.ErrorBody.model_validate(other).errors is None


@pytest.mark.parametrize(
    ("model", "document"),
    [
        (schemas.Removed, {"id": 1_000_000, "removed": True}),
        (
            schemas.Health,
            {"live": True, "ready": False, "broker": "disconnected", "controller": "registered", "store": "disk full",
             "version": "0.2.0", "instance": "me"},
        ),
        (schemas.Token, {"token": "pm_x", "expiresAt": "2038-01-01T00:00:00.000Z", "name": "ana", "role": "admin"}),
        (schemas.Account, {"name": None, "role": "admin", "loginRequired": False}),
        (schemas.AccountEntry, {"name": "ana", "role": "viewer", "changedAt": "2038-01-01T00:00:00.000Z"}),
        (
            schemas.AuditEntry,
            {"at": "2038-01-01T00:00:00.000Z", "who": None, "role": None, "from": "::1", "method": "put",
             "resource": "/jobs/1000000", "code": 200, "job": 1_000_000},
        ),
    ],
)  # fmt: skip
def test_what_a_newer_version_adds_does_no_harm(model: Any, document: dict[str, Any]) -> None:
    fits(model, document)
    fits(model, {**document, "new": {"in": "9.0"}})


def test_the_details_of_an_audit_entry_are_kept() -> None:
    entry = schemas.AuditEntry.model_validate(
        {"at": "2038-01-01T00:00:00.000Z", "who": "ana", "role": "admin", "from": "::1", "method": "post",
         "resource": "/jobs", "code": 200, "job": 1_000_000}
    )  # fmt: skip
    assert entry.source == "::1"
    assert entry.model_extra == {"job": 1_000_000}
