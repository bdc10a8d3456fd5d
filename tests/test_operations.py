"""What callers may ask: the table that both edges serve, and what becomes of a call whichever way it ends."""

from __future__ import annotations

import asyncio
import json
import logging
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import pytest

from puppetmaster.errors import (
    Conflict,
    Fault,
    InvalidDocument,
    JobNotFound,
    KeyConflict,
    PuppetmasterError,
    RequestNotFound,
    StoreUnavailable,
    TooLarge,
)
from puppetmaster.operations import INTERNAL_ERROR, OPERATIONS, Call, Operation, Outcome, carry_out, refusal
from puppetmaster.queries import AnswersQuery, DevicesQuery, FactQuery, JobQuery, JobsQuery, RequestsQuery
from puppetmaster.service import Service
from tests.test_service import Bench, job, run

ROOT = Path(__file__).resolve().parents[1]

BY_NAME = {operation.name: operation for operation in OPERATIONS}


class Scripted:
    """A service that notes what it is asked, and answers or raises what it was given."""

    def __init__(self, answer: Any = None, part: str = "", asked: list[tuple[Any, ...]] | None = None) -> None:
        self.asked: list[tuple[Any, ...]] = [] if asked is None else asked
        self._answer = answer
        self._part = part

    def __getattr__(self, name: str) -> Any:
        if name == "devices":
            return Scripted(self._answer, "devices.", self.asked)

        async def method(*args: Any) -> Any:
            self.asked.append((self._part + name, *args))
            if isinstance(self._answer, BaseException):
                raise self._answer
            return self._answer

        return method


def ask(operation: Operation, call: Call, service: object) -> Outcome:
    return asyncio.run(carry_out(cast(Service, service), operation, call))


# The table


def test_no_two_operations_have_one_name_or_are_one_method_of_one_resource() -> None:
    assert len(BY_NAME) == len(OPERATIONS)
    assert len({(operation.method, operation.resource) for operation in OPERATIONS}) == len(OPERATIONS)


@pytest.mark.parametrize("operation", OPERATIONS, ids=BY_NAME)
def test_an_operation_is_written_as_both_edges_need_it(operation: Operation) -> None:
    assert operation.method in {"get", "post", "put", "delete"}
    assert operation.is_write == (operation.method != "get")
    assert re.fullmatch(r"/[a-z]+((/[a-z]+)?/:id(/[a-z]+)?)?", operation.resource)
    assert operation.summary.endswith(".")


def test_the_controller_is_told_of_every_resource_and_of_its_methods() -> None:
    profile = json.loads((ROOT / "bundle.json").read_text())
    methods: dict[str, set[str]] = {}
    for operation in OPERATIONS:
        methods.setdefault(operation.resource, set()).add(operation.method)
    assert {entry["resource"]: set(entry["methods"]) for entry in profile["resources"]} == methods


def test_every_list_says_what_its_query_may_hold() -> None:
    assert {operation.name: operation.query for operation in OPERATIONS if operation.query} == {
        "list_jobs": JobsQuery,
        "show_job": JobQuery,
        "list_answers": AnswersQuery,
        "list_requests": RequestsQuery,
        "list_devices": DevicesQuery,
        "list_fact_values": FactQuery,
    }


# What the service is asked

QUERY: Mapping[str, Any] = {"limit": "5"}
DOCUMENT = {"a": 1}


@pytest.mark.parametrize(
    ("name", "asked"),
    [
        ("list_jobs", ("list_jobs", QUERY)),
        ("create_job", ("create_job", DOCUMENT)),
        ("show_job", ("show_job", 17, QUERY)),
        ("update_job", ("update_job", 17, DOCUMENT)),
        ("remove_job", ("remove_job", 17)),
        ("list_answers", ("list_answers", 17, QUERY)),
        ("rerun_job", ("rerun_job", 17, DOCUMENT)),
        ("list_requests", ("list_requests", QUERY)),
        ("create_request", ("create_request", DOCUMENT)),
        ("show_request", ("show_request", 17)),
        ("show_request_too", ("show_request", 17)),
        ("cancel_request", ("cancel_request", 17)),
        ("list_devices", ("devices.page", QUERY)),
        ("show_device", ("devices.show", "17")),
        ("update_device", ("devices.update", "17", DOCUMENT)),
        ("remove_device", ("devices.remove", "17")),
        ("list_fact_values", ("devices.values", "17", QUERY)),
    ],
)
def test_a_call_asks_the_service_for_one_thing_and_its_answer_is_the_outcome(name: str, asked: tuple[Any, ...]) -> None:
    service = Scripted({"an": "answer"})
    outcome = ask(BY_NAME[name], Call("17", QUERY, DOCUMENT), service)
    assert outcome == Outcome(200, {"an": "answer"})
    assert service.asked == [asked]


def test_every_operation_is_asked_for_above() -> None:
    [mark] = [
        mark
        for mark in test_a_call_asks_the_service_for_one_thing_and_its_answer_is_the_outcome.pytestmark  # type: ignore[attr-defined]
        if mark.name == "parametrize"
    ]
    assert {name for name, _ in mark.args[1]} == set(BY_NAME)


def test_a_call_without_a_query_has_an_empty_one() -> None:
    asked = {"list_jobs": "list_jobs", "list_requests": "list_requests", "list_devices": "devices.page"}
    for name, method in asked.items():
        service = Scripted([])
        assert ask(BY_NAME[name], Call(), service) == Outcome(200, [])
        assert service.asked == [(method, {})]


# Ids


@pytest.mark.parametrize(("ident", "number"), [("1000000", 1_000_000), ("007", 7), ("0", 0), ("9" * 18, 10**18 - 1)])
def test_an_id_is_a_whole_number(ident: str, number: int) -> None:
    assert (Call(ident).job_id, Call(ident).request_id) == (number, number)


NO_IDS = [
    "", " ", "abc", "-1", "+1", "1.0", "1e6", " 1", "1 ", "1\n", "1_000", "0x10", "9" * 19, "9" * 5_000, "\u0661\u0662",
    "\u00b2", "\uff11", "\u2460", "1\0", "None",
]  # fmt: skip


@pytest.mark.parametrize("ident", NO_IDS, ids=ascii)
def test_an_id_that_is_none_is_not_found_and_the_service_is_not_asked(ident: str) -> None:
    for operation in OPERATIONS:
        if ":id" in operation.resource and not operation.resource.startswith("/devices"):
            service = Scripted()
            outcome = ask(operation, Call(ident, {}, {}), service)
            noun = "job" if operation.resource.startswith("/jobs") else "request"
            assert (outcome.code, outcome.data) == (404, {"message": f"no {noun} has the id {ident[:40]}"})
            assert service.asked == []


def test_a_device_is_named_as_it_is_and_one_that_nobody_knows_is_not_found() -> None:
    async def main() -> None:
        async with Bench() as bench:
            bench.service.devices.seen("00:1A:2b.c d", 1.0)
            shown = await carry_out(bench.service, BY_NAME["show_device"], Call("00:1A:2b.c d"))
            assert (shown.code, shown.data["id"]) == (200, "00:1A:2b.c d")
            for name in ("show_device", "remove_device"):
                for ident in ("", "nobody", "a/b", "x" * 5000, "\ud800", "a\0"):
                    outcome = await carry_out(bench.service, BY_NAME[name], Call(ident))
                    assert (outcome.code, set(outcome.data)) == (404, {"message"})
                    assert len(json.dumps(outcome.data)) < 1000
            refused = await carry_out(bench.service, BY_NAME["update_device"], Call("a/b", document={"labels": {}}))
            assert (refused.code, refused.data["errors"][0]["path"]) == (400, "id")

    run(main)


# How it ends

ERRORS: list[tuple[PuppetmasterError, int]] = [
    (InvalidDocument([Fault("a.b", "bad")]), 400),
    (JobNotFound(5), 404),
    (RequestNotFound(5), 404),
    (Conflict("not now"), 409),
    (KeyConflict("k", 5), 409),
    (TooLarge("too much"), 413),
    (StoreUnavailable("the disk is full"), 503),
]


@pytest.mark.parametrize(("error", "code"), ERRORS, ids=[type(error).__name__ for error, _ in ERRORS])
def test_an_error_of_ours_becomes_a_code_and_a_message(error: PuppetmasterError, code: int) -> None:
    for outcome in (ask(BY_NAME["create_job"], Call(), Scripted(error)), refusal(error)):
        assert (outcome.code, outcome.error) == (code, error)
        assert outcome.data["message"] == str(error)
        assert set(outcome.data) == ({"message", "errors"} if code == 400 else {"message"})


def test_every_fault_of_a_document_is_told_with_its_path() -> None:
    outcome = refusal(InvalidDocument([Fault("a", "bad"), Fault("", "worse")]))
    assert outcome.data == {
        "message": "a: bad (and 1 more)",
        "errors": [{"path": "a", "message": "bad"}, {"path": "", "message": "worse"}],
    }


def test_an_error_that_nobody_expected_is_logged_and_not_told(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.ERROR):
        outcome = ask(BY_NAME["show_job"], Call("5", {}), Scripted(RuntimeError("a secret of ours")))
    assert (outcome.code, outcome.error) == (INTERNAL_ERROR, None)
    assert "secret" not in json.dumps(outcome.data)
    [record] = caplog.records
    assert "show_job" in record.getMessage()
    assert record.exc_info is not None


def test_a_call_that_is_given_up_is_given_up() -> None:
    with pytest.raises(asyncio.CancelledError):
        ask(BY_NAME["list_jobs"], Call(), Scripted(asyncio.CancelledError()))


# With a real service


def test_a_job_goes_through_its_life_by_calls_alone() -> None:
    async def main() -> None:
        async with Bench() as bench:

            async def call(name: str, ident: object = "", **rest: Any) -> Any:
                outcome = await carry_out(bench.service, BY_NAME[name], Call(str(ident), **rest))
                assert outcome.code == 200, outcome
                return outcome.data

            made = await call("create_job", document=job("a", "b"))
            assert [one["id"] for one in await call("list_jobs")] == [made["id"]]
            assert (await call("update_job", made["id"], document={"status": "paused"}))["status"] == "paused"
            first, second = made["requests"]
            assert (await call("cancel_request", first))["__request"]["status"] == "canceled"
            assert await call("show_request", first) == await call("show_request_too", first)
            [group] = await call("list_answers", made["id"])
            assert (group["status"], group["count"], group["destinations"]) == ("canceled", 1, ["a"])
            again = await call("rerun_job", made["id"], document={"status": "canceled"})
            listed = await call("list_requests", query={"destination": "a"})
            assert [one["id"] for one in listed] == [*again["requests"], first]
            single = await call("create_request", document={"destination": "c", "message": job("x")["message"]})
            assert (await call("show_job", single["__request"]["job"]))["requests"] == [single]
            assert (await call("remove_job", made["id"]))["counts"]["canceled"] == 2
            gone = await carry_out(bench.service, BY_NAME["show_request"], Call(str(second)))
            assert (gone.code, gone.data) == (404, {"message": f"no request has the id {second}"})

    run(main)
