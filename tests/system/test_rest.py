"""The API, the same over the bus and over HTTP; then what only HTTP has: headers, bodies of any size, and bad manners.

What comes first is one suite: each of its tests runs over both edges, on one stand.
"""

from __future__ import annotations

import asyncio
import gzip
import itertools
import json
import re
import select
import socket
import struct
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from http.client import parse_headers
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import httpx
import psutil
import pytest
from starlette.types import Receive, Scope, Send

from puppetmaster.address import ListenAddress
from puppetmaster.bodies import MAX_VALUES
from puppetmaster.edges.http import server
from puppetmaster.edges.http.requests import MAX_BODY_BYTES
from puppetmaster.edges.http.server import SPARE_FILES
from puppetmaster.embedded.broker import find_mosquitto
from puppetmaster.operations import OPERATIONS
from puppetmaster.paging import MAX_PAGE_BYTES
from tests.system.stand import PATIENCE, TRUST, Document, Stand, assert_adds_up

pytestmark = pytest.mark.skipif(find_mosquitto() is None, reason="mosquitto is not installed")

FAR = "2125-01-01T00:00:00Z"
"""A job that starts then stays as it was made."""

MESSAGE = {"method": "post", "resource": "/system/reboot"}

JOB_FIELDS = [
    "id", "name", "labels", "createdAt", "startAt", "startedAt", "finishedAt", "timeout", "priority", "concurrency",
    "retry", "rate", "abort", "offline", "targets", "status", "reason", "progress", "totalCount", "finishCount",
    "errorCount", "doneCount",
    "counts",
]  # fmt: skip
REQUEST_FIELDS = ["id", "method", "resource", "data", "__request"]
INNER_FIELDS = [
    "job", "destination", "createdAt", "sentAt", "finishedAt", "timeout", "attempt", "status", "reason", "progress",
    "code", "result",
]  # fmt: skip

MIB = 1024 * 1024


class Site(Stand):
    """A stand whose calls over HTTP share their connections: a test may make hundreds of them."""

    def __init__(self, folder: Path, **settings: Any) -> None:
        super().__init__(folder, http=True, broker_extra=["set_tcp_nodelay true"], **settings)
        # The server closes a connection that was idle for 5 s.
        limits = httpx.Limits(keepalive_expiry=2.0)
        self._client = httpx.Client(base_url=self.site, trust_env=False, limits=limits, verify=TRUST)

    def http(
        self, method: str, path: str, *, json: Any = None, timeout: float = PATIENCE, **rest: Any
    ) -> httpx.Response:
        if json is not None:
            rest.setdefault("content", dumps(json))
        return self._client.request(method.upper(), path, timeout=timeout, **rest)

    def stop(self) -> None:
        self._client.close()
        super().stop()


def dumps(document: Any) -> bytes:
    return json.dumps(document).encode()


def assert_well(stand: Stand, pid: int | None) -> None:
    """The bundle has lived through it, and found nothing worth an error in its log."""
    assert stand.bundle.pid == pid, "the bundle is another process"
    log = stand.bundle.log()
    assert not re.search(r"^\S+ \S+ (ERROR|CRITICAL)|Traceback", log, re.MULTILINE), log[-5000:]


@pytest.fixture(scope="module")
def stand(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with Site(tmp_path_factory.mktemp("rest")) as running:
        pid = running.bundle.pid
        yield running
        assert_well(running, pid)


@pytest.fixture(scope="module")
def plain(stand: Site) -> list[str]:
    """Devices that do what they are asked to."""
    return stand.fleet("plain", 12).names


@pytest.fixture(scope="module")
def broken(stand: Site) -> list[str]:
    """Devices that answer 500."""
    return stand.fleet("broken", 6, errors=1).names


_words = map("word-{}".format, itertools.count())


@pytest.fixture
def label() -> str:
    """A label, a key or a name that nothing else has."""
    return next(_words)


def waiting(destinations: Sequence[str] | str = "nobody", **more: Any) -> Document:
    """A job document that is not begun with."""
    return {"destinations": destinations, "message": MESSAGE, "startAt": FAR, **more}


def get(stand: Stand, resource: str, **query: Any) -> Any:
    """What a GET is answered; lists in the query are repeated."""
    return good(stand, "get", resource + ("?" + urlencode(query, doseq=True) if query else ""))


def good(stand: Stand, method: str, resource: str, data: Any = None) -> Any:
    code, answered = stand.ask(method, resource, data)
    assert code == 200, f"{method} {resource} was answered {code}: {answered!r:.2000}"
    return answered


def refused(stand: Stand, code: int, method: str, resource: str, data: Any = None) -> Document:
    """What a call is told that is refused with this code."""
    found, answered = stand.ask(method, resource, data)
    assert found == code, f"{method} {resource} was answered {found}: {answered!r:.2000}"
    assert set(answered) == ({"message", "errors"} if code == 400 else {"message"})
    assert answered["message"]
    return dict(answered)


def paths(answered: Document) -> list[str]:
    return [error["path"] for error in answered["errors"]]


def ids(found: Iterable[Document]) -> list[int]:
    return [one["id"] for one in found]


def told(requests: Iterable[Document]) -> list[tuple[str, str]]:
    """Where requests go, and what for."""
    return [(request["__request"]["destination"], request["resource"]) for request in requests]


# Both edges: jobs


def spelled(spelling: str, destinations: list[str]) -> Document:
    message = {"method": "PUT", "resource": "/system/time", "data": {"zone": "UTC"}}
    if spelling == "batch":
        return {"batch": [{**message, "__request": {"destination": destinations}}]}
    if spelling == "collection":
        return {"collection": [{"id": 7, "tunnel": "/t", **message, "__destination": name} for name in destinations]}
    return {"destinations": destinations, "message": message}


@pytest.mark.parametrize("spelling", ["batch", "collection", "broadcast"])
def test_each_spelling_makes_the_same_requests(either: Stand, plain: list[str], spelling: str) -> None:
    job = either.create_job(spelled(spelling, plain[:3]))
    assert list(job) == [*JOB_FIELDS, "requests"]
    assert job["requests"] == [job["id"] + 1, job["id"] + 2, job["id"] + 3]
    ended = either.wait_job(job["id"])
    assert (ended["status"], ended["finishCount"], ended["progress"]) == ("resolved", 3, 100)
    assert_adds_up(ended)
    shown = either.requests(job["id"])
    assert [request["__request"]["destination"] for request in shown] == plain[:3]
    for request in shown:
        assert list(request) == REQUEST_FIELDS
        assert list(request["__request"]) == INNER_FIELDS
        assert (request["method"], request["resource"], request["data"]) == ("put", "/system/time", {"zone": "UTC"})
        assert (request["__request"]["code"], request["__request"]["result"]) == (200, {"zone": "UTC"})


def test_a_job_is_shown_with_all_that_it_was_given(either: Stand, label: str) -> None:
    given = {
        "name": "night shift",
        "timeout": 500,
        "priority": 7,
        "concurrency": 3,
        "retry": {"limit": 5, "delay": 2, "factor": 3, "maxDelay": 300, "jitter": 0.5, "on": [423, "timeout"]},
        "rate": {"perMinute": 600, "factor": 2, "every": 10, "max": 5000},
        "abort": {"errorPercent": 12.5, "minimum": 10},
    }
    job = either.create_job(waiting(["a", "b"], labels={"site": label}, requestTimeout=9, **given))
    assert {name: job[name] for name in given} == {
        **given,
        "retry": {**given["retry"], "on": job["retry"]["on"]},  # type: ignore[dict-item]
    }
    assert set(job["retry"]["on"]) == {423, "timeout"}
    assert job["labels"] == [f"site={label}"]
    assert (job["status"], job["startAt"], job["startedAt"]) == ("pending", "2125-01-01T00:00:00.000Z", None)
    shown = either.job(job["id"])
    assert {name: shown[name] for name in JOB_FIELDS} == {name: job[name] for name in JOB_FIELDS}
    assert [request["__request"]["timeout"] for request in shown["requests"]] == [9, 9]


def test_jobs_come_in_pages_the_newest_first(either: Stand, label: str) -> None:
    made = [either.create_job(waiting(labels=[label]))["id"] for _ in range(5)][::-1]

    def page(**query: int) -> list[int]:
        return ids(get(either, "/jobs", label=label, **query))

    assert page() == page(limit=5) == page(limit=10_000) == made
    assert page(limit=2) + page(limit=2, offset=2) + page(limit=2, offset=4) == made
    assert page(offset=3) == made[3:]
    assert page(limit=0) == page(offset=5) == page(offset=2**53) == page(limit=0, offset=3) == []
    assert all(list(job) == JOB_FIELDS for job in get(either, "/jobs", label=label))


def test_a_page_has_100_jobs_unless_told_otherwise(either: Stand, label: str) -> None:
    for _ in range(101):
        either.create_job(waiting(labels=[label]))
    assert len(get(either, "/jobs", label=label)) == 100
    assert len(get(either, "/jobs", label=label, offset=100)) == 1


def test_jobs_are_found_by_status_by_label_and_by_time(either: Stand, label: str) -> None:
    pending = either.create_job(waiting(labels=[label, "x=1"]))
    paused = either.create_job(waiting(labels=[label, "x=2"]))
    canceled = either.create_job(waiting(labels=["x=1", label]))
    either.update_job(paused["id"], status="paused")
    either.update_job(canceled["id"], status="canceled")

    def found(**query: Any) -> list[int]:
        return ids(get(either, "/jobs", **{"label": label, **query}))

    assert found(status="pending") == [pending["id"]]
    assert found(status=["paused", "canceled"]) == [canceled["id"], paused["id"]]
    assert found(status=["paused", "canceled"], limit=1, offset=1) == [paused["id"]]
    assert found(status="aborted") == []
    assert found(label=[label, "x=1"]) == [canceled["id"], pending["id"]]
    assert found(label=[label, "x=1", "x=2"]) == found(label=[label, "x"]) == []
    for job in (pending, paused, canceled):
        later = [one["id"] for one in (canceled, paused, pending) if one["createdAt"] >= job["createdAt"]]
        assert found(since=job["createdAt"]) == later
        assert found(since=job["createdAt"].replace("Z", "+00:00")) == later
    assert found(since="2125-01-01") == []
    assert found(nonsense="ignored", Status="aborted") == found()


@pytest.mark.parametrize(
    ("given", "shown", "default"),
    [
        ({"timeout": 50.5}, 50.5, None),
        ({"priority": 7}, 7, 50),
        ({"concurrency": 3}, 3, None),
        ({"rate": {"perMinute": 30}}, {"perMinute": 30, "factor": 1, "every": 1, "max": None}, None),
        ({"abort": {"errorPercent": 5}}, {"errorPercent": 5, "minimum": 1}, None),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else None,
)
def test_a_limit_is_set_and_taken_back(either: Stand, given: Document, shown: Any, default: Any) -> None:
    [name] = given
    job = either.create_job(waiting())
    changed = either.update_job(job["id"], **given)
    assert list(changed) == JOB_FIELDS
    assert changed == {**{field: job[field] for field in JOB_FIELDS}, name: shown}
    assert either.update_job(job["id"], **{name: None})[name] == default


def test_a_job_is_paused_resumed_started_and_canceled(either: Stand, plain: list[str]) -> None:
    job = either.create_job(waiting(plain[0]))
    assert either.update_job(job["id"], status="paused", priority=3)["status"] == "paused"
    assert either.job(job["id"])["priority"] == 3
    assert either.update_job(job["id"], status="paused")["status"] == "paused"
    assert either.update_job(job["id"], status="dispatching")["status"] == "pending"
    assert either.update_job(job["id"], status="dispatching")["status"] == "dispatching"
    assert either.wait_job(job["id"])["finishCount"] == 1
    other = either.create_job(waiting(["a", "b"]))
    canceled = either.update_job(other["id"], status="canceled")
    assert (canceled["status"], canceled["counts"]["canceled"]) == ("canceled", 2)
    assert_adds_up(canceled)
    assert either.update_job(other["id"], status="canceled") == canceled


def test_a_job_that_has_ended_takes_no_change(either: Stand, plain: list[str]) -> None:
    job = either.run_job({"destinations": plain[0], "message": MESSAGE})
    for change in ({"status": "paused"}, {"status": "dispatching"}, {"priority": 3}, {"rate": {"perMinute": 5}}):
        answered = refused(either, 409, "put", f"/jobs/{job['id']}", change)
        assert "resolved" in answered["message"] or str(job["id"]) in answered["message"]
    assert either.job(job["id"], "limit=0")["priority"] == 50


def test_a_job_is_removed_with_all_that_belongs_to_it(either: Stand, label: str) -> None:
    job = either.create_job(waiting(["a", "b"], labels=[label], key=label))
    removed = either.remove_job(job["id"])
    assert list(removed) == JOB_FIELDS
    assert (removed["id"], removed["status"], removed["counts"]["canceled"]) == (job["id"], "canceled", 2)
    told = {"message": f"no job has the id {job['id']}"}
    for method, resource, data in (
        ("get", "", None), ("put", "", {"status": "paused"}), ("delete", "", None), ("get", "/answers", None),
        ("post", "/rerun", {}),
    ):  # fmt: skip
        assert refused(either, 404, method, f"/jobs/{job['id']}{resource}", data) == told
    for method, noun in (("get", "requests"), ("get", "request"), ("delete", "requests")):
        answered = refused(either, 404, method, f"/{noun}/{job['requests'][1]}")
        assert answered == {"message": f"no request has the id {job['requests'][1]}"}
    assert get(either, "/requests", job=job["id"]) == get(either, "/jobs", label=label) == []
    assert either.create_job(waiting(key=label))["id"] > job["id"]


# Both edges: one job and its requests


@pytest.fixture(scope="module")
def sample(stand: Site, plain: list[str], broken: list[str]) -> Document:
    """A job of two messages that has ended: three requests resolved, two failed, then one of each again."""
    first = {"method": "put", "resource": "/first", "data": {"to": 1}}
    batch = [
        {**first, "__request": {"destination": [*plain[:3], *broken[:2]]}},
        {"method": "post", "resource": "/second", "__request": {"destination": [plain[1], broken[0]]}},
    ]
    job = stand.create_job({"batch": batch, "name": "sample", "labels": ["sample"]})
    assert stand.wait_job(job["id"])["counts"] == {
        "created": 0, "sent": 0, "running": 0, "resolved": 4, "error": 3, "timeout": 0, "canceled": 0
    }  # fmt: skip
    return stand.job(job["id"])


PAGES = [
    ({}, slice(None), ".*", ".*"),
    ({"limit": 3}, slice(3), ".*", ".*"),
    ({"limit": 3, "offset": 2}, slice(2, 5), ".*", ".*"),
    ({"offset": 6}, slice(6, None), ".*", ".*"),
    ({"offset": 7}, slice(7, None), ".*", ".*"),
    ({"limit": 0}, slice(0), ".*", ".*"),
    ({"limit": 10_000, "offset": 2**53}, slice(0), ".*", ".*"),
    ({"status": "error"}, slice(None), "error", ".*"),
    ({"status": ["error", "resolved"], "limit": 6}, slice(6), ".*", ".*"),
    ({"status": ["sent", "created"]}, slice(None), "sent", ".*"),
    ({"destination": "plain-0002"}, slice(None), ".*", "plain-0002"),
    ({"destination": ["plain-0003", "broken-0001"]}, slice(None), ".*", "plain-0003|broken-0001"),
    ({"destination": "broken-*"}, slice(None), ".*", "broken-.*"),
    ({"destination": ["*-0001", "plain-0002"]}, slice(None), ".*", ".*-0001|plain-0002"),
    ({"destination": "*o*-*2"}, slice(None), ".*", ".*o.*-.*2"),
    ({"destination": "*"}, slice(None), ".*", ".*"),
    ({"destination": ["nobody", "plain"]}, slice(None), ".*", "nobody|plain"),
    ({"destination": "*1", "status": "error", "limit": 1, "offset": 1}, slice(1, 2), "error", ".*1"),
]
"""Queries, and what of a job's requests they ask for: a slice of those whose status and destination fit."""


def cut(found: list[Document], part: slice, status: str, destination: str) -> list[Document]:
    return [
        request
        for request in found
        if re.fullmatch(status, request["__request"]["status"])
        and re.fullmatch(destination, request["__request"]["destination"])
    ][part]


@pytest.mark.parametrize(
    ("query", "part", "status", "destination"), PAGES, ids=[urlencode(query, doseq=True) for query, *_ in PAGES]
)
def test_a_page_of_a_jobs_requests_is_what_the_query_asks_for(
    either: Stand, sample: Document, query: Document, part: slice, status: str, destination: str
) -> None:
    resource, wanted = f"/jobs/{sample['id']}", cut(sample["requests"], part, status, destination)
    job = {name: value for name, value in sample.items() if name != "requests"}
    assert get(either, resource, **query) == {**job, "requests": wanted}
    for word in ("true", "True"):
        both = get(either, resource, collection=word, **query)
        assert both == {**job, "requests": ids(wanted), "collection": wanted}
    assert get(either, resource, collection="false", **query) == {**job, "requests": ids(wanted)}
    # Over all jobs the newest come first.
    newest = cut(sample["requests"][::-1], part, status, destination)
    assert get(either, "/requests", job=sample["id"], **query) == newest


def test_a_page_has_100_requests_and_ids_alone_come_all_at_once(either: Stand) -> None:
    job = either.create_job(waiting([f"d{number}" for number in range(150)]))
    resource = f"/jobs/{job['id']}"
    assert ids(get(either, resource)["requests"]) == job["requests"][:100]
    assert get(either, resource, collection="true")["requests"] == job["requests"][:100]
    assert get(either, resource, collection="false")["requests"] == job["requests"]
    assert get(either, resource, collection="false", offset=140)["requests"] == job["requests"][140:]
    assert get(either, resource, collection="false", status="created")["requests"] == job["requests"][:100]
    assert ids(get(either, "/requests", job=job["id"])) == job["requests"][:49:-1]
    assert ids(get(either, "/requests", job=job["id"], limit=10_000)) == job["requests"][::-1]


def test_requests_of_all_jobs_come_newest_first(either: Stand, label: str) -> None:
    names = [f"{label}-{number}" for number in range(3)]
    made = [either.create_job(waiting(names))["requests"] for _ in range(2)]
    assert ids(get(either, "/requests", destination=f"{label}-*")) == [*made[1][::-1], *made[0][::-1]]
    assert ids(get(either, "/requests", destination=names[:2], limit=3)) == [made[1][1], made[1][0], made[0][1]]
    assert ids(get(either, "/requests", destination=names[0], status=["created", "sent"], offset=1)) == [made[0][0]]
    assert get(either, "/requests", destination=names[0], status="error") == []
    for query in ({"job": 5}, {"job": -5}, {"limit": 0}, {"job": made[0][0]}):
        assert get(either, "/requests", **query) == []


def test_a_request_is_shown_under_both_of_its_resources(either: Stand, sample: Document) -> None:
    for request in sample["requests"]:
        shown = good(either, "get", f"/requests/{request['id']}")
        assert shown == good(either, "get", f"/request/{request['id']}") == request
    error = sample["requests"][3]["__request"]
    assert (error["code"], error["status"], error["attempt"]) == (500, "error", 1)
    assert error["result"] == {"code": 500, "resource": "/first", "data": {"message": "the simulated work failed"}}


def test_one_request_is_made_followed_and_found(either: Stand, plain: list[str]) -> None:
    message = {"method": "post", "resource": "/x", "data": [1, "two", None]}
    body = {"destination": plain[4], "message": message, "options": {"timeout": 30_500}}
    request = either.create_request(body)
    assert list(request) == REQUEST_FIELDS
    assert list(request["__request"]) == INNER_FIELDS
    assert (request["__request"]["destination"], request["__request"]["timeout"]) == (plain[4], 30.5)
    ended = either.wait_job(request["__request"]["job"])
    assert (ended["totalCount"], ended["finishCount"]) == (1, 1)
    assert either.request(request["id"])["__request"]["result"] == [1, "two", None]
    assert ids(get(either, "/requests", destination=plain[4], limit=1)) == [request["id"]]
    answered = refused(either, 409, "delete", f"/requests/{request['id']}")
    assert "resolved" in answered["message"]


def test_one_request_is_canceled_once_and_stays_so(either: Stand) -> None:
    job = either.create_job(waiting(["a", "b"]))
    canceled = either.cancel_request(job["requests"][0])
    assert canceled["__request"]["status"] == "canceled"
    assert either.cancel_request(job["requests"][0]) == canceled == either.request(job["requests"][0])
    assert either.job(job["id"], "limit=0")["counts"]["canceled"] == 1
    either.cancel_request(job["requests"][1])
    assert either.job(job["id"], "limit=0")["status"] == "resolved"


# Both edges: what a job's devices said


def test_equal_answers_are_counted_together_the_most_frequent_first(
    either: Stand, plain: list[str], broken: list[str]
) -> None:
    def message(version: str, destinations: list[str]) -> Document:
        return {"method": "put", "resource": "/f", "data": {"v": version}, "__request": {"destination": destinations}}

    batch = [message("1", plain[:2]), message("2", plain[2:9]), message("3", broken[:3])]
    job = either.run_job({"batch": batch})
    either.cancel_request(either.create_job(waiting("a"))["requests"][0])
    failed = {"code": 500, "resource": "/f", "data": {"message": "the simulated work failed"}}

    def group(status: str, code: int, result: Any, names: list[str]) -> Document:
        return {
            "status": status, "code": code, "result": result, "cut": False, "count": len(names),
            "destinations": names[:5],
        }  # fmt: skip

    groups = [
        group("resolved", 200, {"v": "2"}, plain[2:9]),
        group("error", 500, failed, broken[:3]),
        group("resolved", 200, {"v": "1"}, plain[:2]),
    ]
    resource = f"/jobs/{job['id']}/answers"
    assert get(either, resource) == groups
    assert get(either, resource, limit=1) == groups[:1]
    assert get(either, resource, limit=0) == get(either, resource, status="timeout") == []
    assert get(either, resource, status="error") == groups[1:2]
    assert get(either, resource, status=["error", "resolved"], limit=2) == groups[:2]
    assert paths(refused(either, 400, "get", f"{resource}?status=sent&limit=x")) == ["limit", "status"]


def test_a_long_answer_is_shown_by_its_beginning(either: Stand) -> None:
    tunnels = either.listen("/remote/talker")
    request = either.create_request({"destination": "talker", "message": MESSAGE})
    asked = tunnels.wait(lambda heard: heard.data["id"] == request["id"]).data
    result = {"log": "é" * 4000}
    either.publish(asked["tunnel"], {"id": asked["id"], "code": 200, **MESSAGE, "sign": ["talker"], "data": result})
    job = either.wait_job(request["__request"]["job"])
    [group] = get(either, f"/jobs/{job['id']}/answers")
    whole = json.dumps(result, ensure_ascii=False, separators=(",", ":"))
    assert group["cut"] is True
    assert whole.startswith(group["result"])
    assert 4096 - 1 <= len(group["result"].encode()) <= 4096
    assert either.request(request["id"])["__request"]["result"] == result


def test_only_what_has_ended_is_among_the_answers(either: Stand) -> None:
    job = either.create_job(waiting(["a", "b", "c"]))
    resource = f"/jobs/{job['id']}/answers"
    assert get(either, resource) == []
    either.cancel_request(job["requests"][1])
    [group] = get(either, resource)
    assert group == {
        "status": "canceled", "code": None, "result": None, "cut": False, "count": 1, "destinations": ["b"]
    }  # fmt: skip


# Both edges: once more for those that failed


def test_what_failed_is_run_again_in_the_order_that_it_had(either: Stand, plain: list[str], broken: list[str]) -> None:
    batch = [
        {"method": "put", "resource": f"/{number}", "data": number, "__request": {"destination": names, "timeout": 9}}
        for number, names in enumerate(([broken[0], plain[0], broken[1]], [broken[0]], [plain[1], broken[0]]))
    ]
    old = either.run_job({"batch": batch, "labels": ["again"], "name": "first"})
    new = good(either, "post", f"/jobs/{old['id']}/rerun")
    assert list(new) == [*JOB_FIELDS, "requests"]
    assert (new["id"] > old["id"], new["totalCount"], new["labels"], new["name"]) == (True, 4, ["again"], "first")
    wanted = [(broken[0], "/0"), (broken[1], "/0"), (broken[0], "/1"), (broken[0], "/2")]
    shown = either.requests(new["id"])
    assert told(shown) == wanted
    assert [(request["data"], request["__request"]["timeout"]) for request in shown] == [(0, 9), (0, 9), (1, 9), (2, 9)]
    assert either.wait_job(new["id"])["counts"]["error"] == 4
    work = [record["resource"] for record in either.work(new) if record["device"] == broken[0]]
    assert work == ["/0", "/1", "/2"]
    assert either.wait_job(old["id"]) == old


@pytest.mark.parametrize(
    ("status", "wanted"),
    [
        ("error", ["broken-0001", "broken-0002"]),
        (["resolved"], ["plain-0001", "plain-0002"]),
        (["canceled", "error"], ["broken-0001", "broken-0002", "off"]),
        (["error", "resolved", "canceled"], ["plain-0001", "broken-0001", "broken-0002", "plain-0002", "off"]),
    ],
)
def test_the_statuses_say_what_is_run_again(
    either: Stand, plain: list[str], broken: list[str], status: Any, wanted: list[str]
) -> None:
    names = ["plain-0001", "broken-0001", "broken-0002", "plain-0002", "off"]
    old = either.create_job({"destinations": names, "message": MESSAGE})
    either.cancel_request(old["requests"][-1])
    either.wait_job(old["id"])
    new = good(either, "post", f"/jobs/{old['id']}/rerun", {"status": status, "startAt": FAR})
    assert [name for name, _ in told(either.requests(new["id"]))] == wanted


def test_what_is_not_named_is_taken_over_and_what_is_named_is_not(either: Stand, label: str) -> None:
    limits = {
        "timeout": 500, "concurrency": 7, "priority": 80, "abort": {"errorPercent": 90, "minimum": 5}, "name": "old",
        "labels": [label], "rate": {"perMinute": 600, "factor": 1, "every": 1, "max": 900},
        "retry": {"limit": 1, "delay": 2, "factor": 2, "maxDelay": 9, "jitter": 0, "on": [503]},
    }  # fmt: skip
    old = either.create_job(waiting(["a", "b"], key=label, **limits))
    either.update_job(old["id"], status="canceled")
    resource = f"/jobs/{old['id']}/rerun"
    same = good(either, "post", resource, {"status": "canceled"})
    assert {name: same[name] for name in limits} == limits
    assert (same["status"], same["startAt"]) == ("dispatching", None)
    either.remove_job(same["id"])
    other = {"timeout": 9, "concurrency": None, "priority": None, "rate": None, "abort": None, "name": None,
             "labels": {"b": "c"}, "retry": None, "startAt": FAR}  # fmt: skip
    new = good(either, "post", resource, {"status": ["canceled"], **other})
    shown = {**other, "priority": 50, "labels": ["b=c"], "retry": new["retry"], "startAt": "2125-01-01T00:00:00.000Z"}
    assert {name: new[name] for name in shown} == shown
    assert (new["retry"]["limit"], new["retry"]["on"]) == (3, [423, 429, 503])


def test_a_job_without_such_requests_is_not_run_again(either: Stand, plain: list[str]) -> None:
    job = either.run_job({"destinations": plain[:2], "message": MESSAGE})
    resource = f"/jobs/{job['id']}/rerun"
    told = {"message": f"job {job['id']} has no request that is error or timeout"}
    assert refused(either, 409, "post", resource) == told
    assert refused(either, 409, "post", resource, {"dryRun": True}) == told
    answered = refused(either, 409, "post", resource, {"status": "canceled"})
    assert answered == {"message": f"job {job['id']} has no request that is canceled"}
    assert refused(either, 404, "post", "/jobs/5/rerun", {}) == {"message": "no job has the id 5"}
    assert paths(refused(either, 400, "post", resource, {"status": "sent", "requestTimeout": 5})) == [
        "status.0",
        "requestTimeout",
    ]


def test_a_key_makes_running_again_safe_to_repeat(either: Stand, label: str) -> None:
    old = either.create_job(waiting(["a", "b"]))
    either.update_job(old["id"], status="canceled")
    resource, wish = f"/jobs/{old['id']}/rerun", {"status": "canceled", "startAt": FAR, "key": label}
    new = good(either, "post", resource, wish)
    assert good(either, "post", resource, wish) == new
    told = f"the key '{label}' belongs to job {new['id']}, which was made from another body"
    assert refused(either, 409, "post", resource, {**wish, "name": "other"})["message"] == told
    assert refused(either, 409, "post", "/jobs", waiting(key=label))["message"] == told
    assert (
        refused(either, 409, "post", "/requests", {"destination": "a", "message": MESSAGE, "key": label})["message"]
        == told
    )


# Both edges: dry runs and keys


def next_id(stand: Stand) -> int:
    """The id that a new job gets; this one is removed again."""
    job = stand.create_job(waiting())
    stand.remove_job(job["id"])
    return int(job["id"])


def test_a_dry_run_counts_and_makes_nothing_and_uses_no_id(either: Stand, sample: Document, label: str) -> None:
    before = next_id(either)
    batch = [
        {**MESSAGE, "__request": {"destination": ["a", "b", "b"]}},
        {"method": "get", "resource": "/x", "__destination": "a"},
    ]
    for document, total, destinations, messages in (
        ({"batch": batch}, 4, 2, 2),
        ({"collection": [{**MESSAGE, "__destination": name} for name in "abc"]}, 3, 3, 1),
        (waiting([f"d{number}" for number in range(1000)], key=label, name="n", rate={"perMinute": 5}), 1000, 1000, 1),
    ):
        answered = good(either, "post", "/jobs", {**document, "dryRun": True})
        assert len(answered.pop("destinations")) == min(destinations, 500)
        assert answered == {
            "dryRun": True, "totalCount": total, "destinationCount": destinations, "messageCount": messages,
            "offlineCount": 0, "offline": [],
        }  # fmt: skip
    again = good(either, "post", f"/jobs/{sample['id']}/rerun", {"dryRun": True, "key": label})
    assert (again["dryRun"], again["totalCount"], again["destinationCount"], again["messageCount"]) == (True, 3, 2, 2)
    assert next_id(either) == before + 2
    assert either.create_job(waiting(key=label, dryRun=False))["totalCount"] == 1


def test_a_dry_run_is_refused_as_the_job_would_be(either: Stand, label: str) -> None:
    before = next_id(either)
    bad = {"batch": [{"method": "fetch", "resource": "x"}], "timeout": 0}
    assert refused(either, 400, "post", "/jobs", {**bad, "dryRun": True}) == refused(either, 400, "post", "/jobs", bad)
    many = {"destinations": [f"d{number}" for number in range(100)], "message": MESSAGE}
    large = {"batch": [{**MESSAGE, "__destination": many["destinations"]}] * 1001}
    answered = refused(either, 413, "post", "/jobs", {**large, "dryRun": True})
    assert answered == refused(either, 413, "post", "/jobs", large)
    assert "100100 requests" in answered["message"]
    assert next_id(either) == before + 2
    job = either.create_job(waiting(key=label))
    assert good(either, "post", "/jobs", waiting(key=label, dryRun=True))["totalCount"] == 1
    answered = refused(either, 409, "post", "/jobs", waiting("b", key=label, dryRun=True))
    assert str(job["id"]) in answered["message"]


def test_a_key_stands_for_one_body_however_it_is_spelled(either: Stand, label: str) -> None:
    body = waiting(["a", "b"], key=label, name="n")
    job = either.create_job(body)
    assert either.create_job(dict(reversed(body.items()))) == job
    batch = [{**MESSAGE, "data": None, "__request": {"destination": ["a", "b"]}}]
    assert either.create_job({"batch": batch, "key": label, "name": "n", "startAt": FAR})["id"] == job["id"]
    for change in ({"name": "m"}, {"destinations": ["b", "a"]}, {"priority": 1}, {"message": {**MESSAGE, "data": 1}}):
        answered = refused(either, 409, "post", "/jobs", {**body, **change})
        assert answered["message"] == f"the key '{label}' belongs to job {job['id']}, which was made from another body"
    either.update_job(job["id"], status="canceled")
    assert either.create_job(body)["status"] == "canceled"


def test_a_key_makes_a_single_request_safe_to_repeat(either: Stand, plain: list[str], label: str) -> None:
    body = {"destination": plain[5], "message": MESSAGE, "key": label}
    request = either.create_request(body)
    either.wait_job(request["__request"]["job"])
    assert either.create_request(body)["id"] == request["id"]
    assert refused(either, 409, "post", "/requests", {**body, "destination": plain[6]})["message"]
    # It is a job as any other.
    single = {"destinations": plain[5], "message": MESSAGE, "key": label}
    assert either.create_job(single)["id"] == request["__request"]["job"]


def test_a_key_that_is_sent_many_times_at_once_makes_one_job(either: Stand, label: str) -> None:
    body = waiting(["a", "b"], key=label, labels=[label])
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda _: either.create_job(body)["id"], range(24)))
    assert ids(get(either, "/jobs", label=label)) == list(set(made))


# Both edges: what is refused

NO_IDS = [
    "abc", "0", "1", "-1", "999999999999999999", "9" * 19, "9" * 500, "0x10", "1_000_000", "\u0661\u0662\u0663",
    "\uff11", "_",
]  # fmt: skip


@pytest.mark.parametrize("ident", NO_IDS, ids=ascii)
def test_an_id_that_is_none_is_named_with_404(either: Stand, ident: str) -> None:
    for operation in OPERATIONS:
        if ":id" in operation.resource and not operation.resource.startswith("/devices"):
            data = {"status": "canceled"} if operation.method in ("put", "post") else None
            noun = "job" if operation.resource.startswith("/jobs") else "request"
            answered = refused(either, 404, operation.method, operation.resource.replace(":id", ident), data)
            assert answered == {"message": f"no {noun} has the id {ident[:40]}"}


def test_the_ids_of_requests_are_none_of_jobs(either: Stand, sample: Document) -> None:
    request = sample["requests"][0]["id"]
    refused(either, 404, "get", f"/jobs/{request}")
    refused(either, 404, "delete", f"/jobs/{request}")
    refused(either, 404, "get", f"/requests/{sample['id']}")
    refused(either, 404, "delete", f"/requests/{sample['id']}")


def test_every_fault_of_a_body_is_told_with_its_path(either: Stand) -> None:
    batch = [{"method": "fetch", "resource": "reboot", "__request": {"destination": ["good", "a/b"]}}]
    answered = refused(either, 400, "post", "/jobs", {"batch": batch, "timeot": 60, "rate": {"perMinute": 0}})
    assert answered["message"] == f"{answered['errors'][0]['path']}: {answered['errors'][0]['message']} (and 4 more)"
    assert set(paths(answered)) == {
        "batch.0.method", "batch.0.resource", "batch.0.__request.destination.1", "timeot", "rate.perMinute"
    }  # fmt: skip
    answered = refused(either, 400, "post", "/jobs", waiting(["a/b"] * 50))
    assert len(answered["errors"]) == 20
    assert answered["message"].endswith("(and 19 more)")
    answered = refused(either, 400, "post", "/jobs", waiting(["good"] * 500 + ["a/b"] * 500))
    assert paths(answered) == ["destinations.500"], "of a long list the first fault is told"
    single = {"destination": "$SYS", "message": {"method": "get", "resource": "/" + "x" * 1023}, "name": "n"}
    assert set(paths(refused(either, 400, "post", "/requests", single))) == {"destination", "message.resource", "name"}


def test_every_fault_of_a_query_is_told_with_its_parameter(either: Stand, sample: Document) -> None:
    answered = refused(either, 400, "get", "/jobs?limit=10001&offset=-1&status=nope&since=yesterday")
    assert paths(answered) == ["limit", "offset", "status", "since"]
    answered = refused(either, 400, "get", f"/jobs/{sample['id']}?collection=maybe&status=pending&limit=1&limit=2")
    assert paths(answered) == ["limit", "collection", "status"]
    answered = refused(either, 400, "get", "/requests?job=x&destination=&destination=a&offset=1e3")
    assert paths(answered) == ["offset", "job"]


def test_a_body_that_asks_for_nothing_is_told_so(either: Stand, sample: Document) -> None:
    for method, resource in (("post", "/jobs"), ("post", "/requests"), ("put", f"/jobs/{sample['id']}")):
        for data in (None, [], "text", 5, False):
            answered = refused(either, 400, method, resource, data)
            assert answered["errors"] == [{"path": "", "message": "the body has to be a JSON object"}]
    assert paths(refused(either, 400, "put", f"/jobs/{sample['id']}", {})) == [""]


def test_a_job_has_100000_requests_at_the_most(either: Stand) -> None:
    batch = [{**MESSAGE, "__destination": ["a"] * 1000}] * 100
    before = next_id(either)
    job = either.create_job({"batch": batch, "name": "x" * 128, "labels": ["y" * 128] * 64, "startAt": FAR})
    assert len(job["requests"]) == 100_000
    either.remove_job(job["id"])
    batch.append({**MESSAGE, "__destination": ["a"]})
    answered = refused(either, 413, "post", "/jobs", {"batch": batch})
    assert answered == {"message": "the job has 100001 requests, over the limit of 100000; split it"}
    assert next_id(either) == before + 2 + 100_001


# One edge and the other


def alike(stand: Site, method: str, resource: str, data: Any = None) -> tuple[int, Any]:
    """The answer of both edges, which is the same."""
    answers = []
    for edge in ("bus", "http"):
        stand.edge = edge
        try:
            answers.append(stand.ask(method, resource, data))
        finally:
            stand.edge = "bus"
    on_bus, over_http = answers
    assert on_bus == over_http
    assert json.dumps(on_bus) == json.dumps(over_http), "the fields stand in another order"
    return on_bus


@pytest.mark.parametrize(
    "resource",
    [
        "/jobs?label=sample", "/jobs?limit=0", "/jobs?limit=x", "/jobs?since=2125-01-01T00:00:00%2B01:00",
        "/jobs?label=%C3%A9%20%2B&label=a+b", "/jobs/{job}", "/jobs/{job}?collection=true&limit=3&offset=1",
        "/jobs/{job}?collection=false", "/jobs/{job}?status=error&destination=*-0001", "/jobs/{job}?&&=&=x&a&limit=1",
        "/jobs/{job}?limit=", "/jobs/{job}?limit=%31", "/jobs/{job}?limit=1;offset=2", "/jobs/{job}/answers",
        "/jobs/{job}/answers?limit=1&status=error", "/requests?job={job}", "/requests?job={job}&destination=%2A1",
        "/requests?job={job}&destination=nobody", "/requests?job=0{job}", "/requests/{request}", "/request/{request}",
        "/requests/0{request}", "/jobs/0{job}", "/jobs/000", "/jobs/{request}", "/requests/{job}",
    ],
)  # fmt: skip
def test_a_read_is_answered_alike_on_both_edges(stand: Site, sample: Document, resource: str) -> None:
    alike(stand, "get", resource.format(job=sample["id"], request=sample["requests"][3]["id"]))


def test_a_write_that_changes_nothing_is_answered_alike_on_both_edges(stand: Site, sample: Document) -> None:
    job = stand.create_job(waiting(["a", "b"]))
    stand.cancel_request(job["requests"][0])
    stand.update_job(job["id"], priority=3, status="paused")
    calls: list[tuple[int, str, str, Any]] = [
        (200, "delete", f"/requests/{job['requests'][0]}", None),
        (409, "delete", f"/requests/{sample['requests'][0]['id']}", None),
        (200, "put", f"/jobs/{job['id']}", {"priority": 3, "status": "paused"}),
        (400, "put", f"/jobs/{job['id']}", {"priority": 101, "status": "gone", "x": 1}),
        (409, "put", f"/jobs/{sample['id']}", {"status": "paused"}),
        (409, "put", f"/jobs/{sample['id']}", {"priority": 1}),
        (404, "put", "/jobs/5", {"priority": 1}),
        (404, "delete", "/jobs/5", None),
        (200, "post", "/jobs", waiting(["a", "b"], dryRun=True)),
        (400, "post", "/jobs", {"batch": [{}], "x": {"y": "z"}}),
        (413, "post", "/jobs", {"batch": [{**MESSAGE, "__destination": ["a"] * 400}] * 300}),
        (200, "post", f"/jobs/{sample['id']}/rerun", {"dryRun": True}),
        (409, "post", f"/jobs/{sample['id']}/rerun", {"status": "canceled"}),
        (400, "post", f"/jobs/{sample['id']}/rerun", {"status": "sent"}),
        (400, "post", "/requests", {"message": {}, "destination": "#"}),
    ]
    for code, method, resource, data in calls:
        assert alike(stand, method, resource, data)[0] == code, (method, resource, data)


def test_what_is_made_with_a_key_on_one_edge_is_found_with_it_on_the_other(stand: Site, label: str) -> None:
    for path, body in (
        ("/jobs", waiting(["a", "b"], key=f"{label}-1", labels={"a": "b"}, retry={"on": [503, "timeout"]})),
        ("/requests", {"destination": "nobody", "message": MESSAGE, "key": f"{label}-2"}),
    ):
        code, made = stand.ask("post", path, body)
        assert code == 200
        code, again = stand.http("post", path, json=body).status_code, stand.http("post", path, json=body).json()
        assert (code, again["id"]) == (200, made["id"])
        if path == "/jobs":
            assert (again, list(again)) == (made, list(made))


def test_the_same_body_makes_the_same_job_on_both_edges_but_for_ids_and_times(stand: Site) -> None:
    body = waiting(["a", "b"], name="é\u2028", labels=["x", "x"], abort={"errorPercent": 1}, timeout=1.5)
    found = []
    for edge in ("bus", "http"):
        stand.edge = edge
        job = stand.create_job(body)
        shown = stand.job(job["id"], "collection=true")
        removed = stand.remove_job(job["id"])
        stand.edge = "bus"
        text = json.dumps([job, shown, removed]).replace(job["createdAt"], "then").replace(removed["finishedAt"], "now")
        found.append(re.sub(r"\b1\d{6}\b", lambda ident, base=job["id"]: str(int(ident.group()) - base), text))
    assert found[0] == found[1]


def test_a_method_that_a_resource_does_not_know_is_404_on_the_bus_and_405_over_http(stand: Site) -> None:
    for method, resource in (("put", "/jobs"), ("post", "/jobs/5"), ("put", "/requests/5"), ("delete", "/request/5")):
        assert stand.ask(method, resource, {})[0] == 404
        assert stand.http(method, resource, json={}).status_code == 405


# HTTP alone: methods and headers


def without(headers: Iterable[tuple[str, str]], *names: str) -> dict[str, str]:
    return {name: value for name, value in headers if name not in names}


@pytest.mark.parametrize(
    "resource",
    [
        "/jobs?label=sample", "/jobs/{job}", "/jobs/{job}?limit=1", "/jobs/{job}/answers", "/requests?job={job}",
        "/requests/{request}", "/request/{request}", "/jobs?limit=x", "/jobs/5", "/requests/abc", "/nowhere",
    ],
)  # fmt: skip
def test_head_has_the_headers_of_get_and_no_body(stand: Site, sample: Document, resource: str) -> None:
    path = resource.format(job=sample["id"], request=sample["requests"][0]["id"])
    whole, head = stand.http("get", path), stand.http("head", path)
    assert (head.status_code, head.content) == (whole.status_code, b"")
    assert without(head.headers.items(), "date") == without(whole.headers.items(), "date")
    assert int(head.headers["content-length"]) == len(whole.content) > 0
    assert whole.headers["content-type"] == "application/json"


ALLOWED: dict[str, set[str]] = {}
for _operation in OPERATIONS:
    ALLOWED.setdefault(_operation.resource, set()).add(_operation.method.upper())


@pytest.mark.parametrize("resource", ALLOWED)
def test_another_method_is_405_with_those_that_are_allowed(stand: Site, sample: Document, resource: str) -> None:
    allowed = ALLOWED[resource] | ({"HEAD"} if "GET" in ALLOWED[resource] else set())
    path = resource.replace(":id", str(sample["id"]))
    for method in ("GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE"):
        if method in allowed:
            continue
        reply = stand.http(method, path, content=b"{}")
        assert reply.status_code == 405, method
        assert set(reply.headers["allow"].split(", ")) == allowed
        assert method == "HEAD" or reply.json() == {"message": f"{path} can't be asked to {method}"}
    assert stand.job(sample["id"]) == sample


@pytest.mark.parametrize(
    "path",
    [
        "/nowhere", "/jobs/", "//jobs", "/Jobs", "/jobs/5/", "/jobs/5/nothing", "/jobs/5/answers/6", "/request",
        "/requests/5/answers", "/jobs/%2F", "/jobs/5%2F6", "/..", "/jobs/../requests", "/%00", "/{path}", "/%7Bpath%7D",
        "/static/nothing.js", "/static/%2e%2e/app.py", "/static/../app.py", "/docs/swagger/../../app.py",
        "/static/%00", "/" + "x" * 5000,
    ],
    ids=lambda path: path[:40],
)  # fmt: skip
def test_a_path_that_leads_nowhere_is_404(stand: Site, path: str) -> None:
    with Line(stand) as line:
        for method in ("GET", "POST", "DELETE"):
            reply = line.ask(call(method, path, b""))
            # Files know no other method, whatever their name is.
            assert reply.code in ((404, 405) if "/static" in path or "/docs" in path else (404,))
            assert list(json.loads(reply.body)) == ["message"]


def test_a_job_has_a_tag_that_changes_with_it(stand: Site) -> None:
    job = stand.create_job(waiting(["a", "b"]))
    path = f"/jobs/{job['id']}"
    first = stand.http("get", path)
    tag = first.headers["etag"]
    assert re.fullmatch('"[0-9a-f]+"', tag)
    assert stand.http("get", path).headers["etag"] == tag
    assert stand.http("get", f"{path}?limit=1").headers["etag"] != tag
    stand.update_job(job["id"], priority=3)
    changed = stand.http("get", path, headers={"If-None-Match": tag})
    assert (changed.status_code, changed.json()["priority"]) == (200, 3)
    assert changed.headers["etag"] != tag
    stand.update_job(job["id"], priority=50)
    assert stand.http("get", path).headers["etag"] == tag
    stand.cancel_request(job["requests"][1])
    assert stand.http("get", path, headers={"If-None-Match": tag}).status_code == 200


@pytest.mark.parametrize(
    "condition",
    [
        ["{tag}"], ["W/{tag}"], ['"other", {tag}'], ['"other",W/{tag} ,"more"'], ["*"], ['"other"', "{tag}"],
        ['"a,b",{tag}'],
    ],
    ids=str,
)  # fmt: skip
def test_what_the_caller_has_is_not_sent_again(stand: Site, sample: Document, condition: list[str]) -> None:
    path = f"/jobs/{sample['id']}"
    tag = stand.http("get", path).headers["etag"]
    headers = [("If-None-Match", line.format(tag=tag)) for line in condition]
    for method in ("get", "head"):
        reply = stand.http(method, path, headers=headers)
        assert (reply.status_code, reply.content, reply.headers["etag"]) == (304, b"", tag)
        assert reply.headers["cache-control"] == "no-cache"
    assert stand.http("get", "/jobs/5", headers=headers).status_code == 404
    assert stand.http("get", f"{path}?limit=x", headers=headers).status_code == 400


@pytest.mark.parametrize("condition", ['"other"', "", "{bare}", '"{bare}', 'w/"{bare}"', '"*"', ",", "\xff"])
def test_what_the_caller_has_not_is_sent(stand: Site, sample: Document, condition: str) -> None:
    path = f"/jobs/{sample['id']}"
    bare = stand.http("get", path).headers["etag"].strip('"')
    reply = stand.http("get", path, headers={"If-None-Match": condition.format(bare=bare).encode("latin-1")})
    assert (reply.status_code, reply.json()) == (200, sample)


# HTTP alone: the key in a header


def post(stand: Site, path: str, body: Any, key: str | None = None) -> httpx.Response:
    headers = {} if key is None else {"Idempotency-Key": key.encode()}
    return stand.http("post", path, json=body, headers=headers)


@pytest.mark.parametrize("written", ["{}", '"{}"'], ids=["bare", "quoted"])
def test_a_key_in_the_header_is_the_key_of_the_body(stand: Site, label: str, written: str) -> None:
    body = waiting(["a", "b"])
    made = post(stand, "/jobs", body, written.format(label))
    assert made.status_code == 200
    for again in (
        post(stand, "/jobs", body, written.format(label)),
        post(stand, "/jobs", {**body, "key": label}),
        post(stand, "/jobs", {**body, "key": label}, written.format(label)),
        post(stand, "/jobs", {**body, "key": None}, label),
    ):
        assert (again.status_code, again.json()) == (200, made.json())
    assert stand.create_job({**body, "key": label})["id"] == made.json()["id"]
    other = post(stand, "/jobs", waiting("b"), label)
    assert (other.status_code, label in other.json()["message"]) == (409, True)


def test_a_key_in_the_header_serves_requests_and_reruns_as_well(stand: Site, label: str) -> None:
    body = {"destination": "nobody", "message": MESSAGE}
    first = post(stand, "/requests", body, f"{label}-1").json()
    assert post(stand, "/requests", body, f"{label}-1").json()["id"] == first["id"]
    assert post(stand, "/requests", {**body, "destination": "b"}, f"{label}-1").status_code == 409
    job = stand.create_job(waiting())
    stand.update_job(job["id"], status="canceled")
    path = f"/jobs/{job['id']}/rerun"
    wish = {"status": "canceled", "startAt": FAR}
    again = post(stand, path, wish, f"{label}-2").json()
    assert post(stand, path, wish, f"{label}-2").json() == again
    assert post(stand, path, {**wish, "key": f"{label}-2"}).json() == again
    # Without a body it asks for what failed, of which there is none.
    assert post(stand, path, None, f"{label}-3").status_code == 409
    assert post(stand, "/jobs", {**waiting(), "dryRun": True}, label).json()["dryRun"] is True


@pytest.mark.parametrize("path", ["/jobs", "/requests", "/jobs/{job}/rerun"])
def test_two_different_keys_are_refused(stand: Site, sample: Document, label: str, path: str) -> None:
    reply = post(stand, path.format(job=sample["id"]), {**waiting(), "key": label}, f"{label}-other")
    fault = {"path": "key", "message": "the Idempotency-Key header has another key: give one of the two"}
    assert (reply.status_code, reply.json()["errors"]) == (400, [fault])


@pytest.mark.parametrize(
    ("key", "code"),
    [
        ("", 400), ('""', 400), ("x" * 128, 200), ("x" * 129, 400), ("naïve ☂", 200), ('"', 200), ("a b, c;d=e", 200),
        ('"a" "b"', 200), ("a\tb", 400),
    ],
)  # fmt: skip
def test_a_key_in_the_header_keeps_to_the_rules_of_the_body(stand: Site, key: str, code: int) -> None:
    reply = post(stand, "/jobs", {**waiting(), "dryRun": True}, key)
    assert reply.status_code == code, reply.text
    assert code == 200 or paths(reply.json()) == ["key"]


def test_a_key_of_any_characters_is_the_same_in_header_and_body(stand: Site, label: str) -> None:
    key = f"naïve ☂ {label}"
    made = post(stand, "/jobs", waiting(), key).json()
    assert post(stand, "/jobs", {**waiting(), "key": key}, key).json() == made
    assert post(stand, "/jobs", {**waiting(), "key": key}).json() == made


def test_a_key_means_nothing_where_nothing_is_made(stand: Site, sample: Document) -> None:
    headers = {"Idempotency-Key": "x" * 500}
    job = stand.create_job(waiting())
    assert stand.http("get", f"/jobs/{sample['id']}", headers=headers).json() == sample
    assert stand.http("put", f"/jobs/{job['id']}", json={"priority": 3}, headers=headers).json()["priority"] == 3
    assert stand.http("post", "/jobs", json=[], headers=headers).json()["message"] == "the body has to be a JSON object"
    assert stand.http("delete", f"/jobs/{job['id']}", headers=headers).status_code == 200


# HTTP alone: bytes as they are


@dataclass(frozen=True)
class Reply:
    """An answer as it came."""

    code: int
    headers: dict[str, str]
    body: bytes


class Line:
    """A connection on which anything may be sent; answers are taken off it one by one."""

    def __init__(self, stand: Stand) -> None:
        host, port = stand.site.removeprefix("http://").split(":")
        self.socket = socket.create_connection((host, int(port)), timeout=PATIENCE)
        self._file = self.socket.makefile("rb")

    def __enter__(self) -> Line:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        self._file.close()
        self.socket.close()

    def send(self, *parts: bytes) -> None:
        for part in parts:
            self.socket.sendall(part)

    def ask(self, *parts: bytes, head: bool = False) -> Reply:
        self.send(*parts)
        return self.answer(head=head)

    def answer(self, *, head: bool = False) -> Reply:
        """The next answer; ``head``: to a HEAD."""
        line = self._file.readline()
        assert line.startswith(b"HTTP/1.1 "), line
        code, fields = int(line.split()[1]), parse_headers(self._file)
        headers = {name.lower(): value for name, value in fields.items()}
        bare = head or code in (100, 101, 204, 304)
        return Reply(code, headers, b"" if bare else self._file.read(int(headers["content-length"])))

    def has_answer(self) -> bool:
        """Whether something has come that was not taken yet."""
        return bool(select.select([self.socket], [], [], 0)[0])

    def is_over(self) -> bool:
        """Wait for the server to close it; nothing else may come."""
        try:
            return self._file.read(1) == b""
        except ConnectionResetError:
            return True


def call(method: str, path: str, body: bytes | None = None, *headers: str) -> bytes:
    """A call as it is sent."""
    lines = [f"{method} {path} HTTP/1.1", "Host: localhost", *headers]
    if body is not None:
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join([*lines, "", ""]).encode() + (body or b"")


@pytest.fixture
def untouched(stand: Site) -> Iterator[None]:
    """Nothing is made while a test runs: no id is used."""
    before = next_id(stand)
    yield
    assert next_id(stand) == before + 2


@pytest.fixture
def line(stand: Site) -> Iterator[Line]:
    with Line(stand) as opened:
        yield opened


def assert_serves(stand: Site) -> None:
    assert stand.http("get", "/jobs?limit=0").json() == []


def assert_too_large(reply: Reply) -> None:
    assert reply.code == 413
    assert json.loads(reply.body) == {"message": f"a body has at most {MAX_BODY_BYTES} bytes; make several calls of it"}
    assert reply.headers["connection"] == "close"


WRITES = ["POST /jobs", "POST /requests", "POST /jobs/5/rerun", "PUT /jobs/5"]


@pytest.mark.parametrize("route", WRITES)
@pytest.mark.usefixtures("untouched")
def test_a_body_over_16_mib_is_refused_and_the_server_goes_on(stand: Site, line: Line, route: str) -> None:
    method, path = route.split()
    assert_too_large(line.ask(call(method, path, b" " * (MAX_BODY_BYTES + 1))))
    assert line.is_over()
    assert_serves(stand)


@pytest.mark.usefixtures("untouched")
def test_a_body_over_16_mib_in_chunks_is_refused_and_the_server_goes_on(stand: Site, line: Line) -> None:
    line.send(call("POST", "/jobs", None, "Transfer-Encoding: chunked"))
    line.send(*[b"100000\r\n" + b" " * MIB + b"\r\n"] * 16, b"1\r\n \r\n0\r\n\r\n")
    assert_too_large(line.answer())
    assert line.is_over()
    assert_serves(stand)


@pytest.mark.usefixtures("untouched")
def test_a_body_without_an_end_is_cut_off(stand: Site, line: Line) -> None:
    line.send(call("POST", "/jobs", None, "Transfer-Encoding: chunked"))
    sent = 0
    with pytest.raises(ConnectionError):  # the server closes it
        for _ in range(1024):
            line.send(b"100000\r\n" + b"[" * MIB + b"\r\n")
            sent += MIB
    assert sent >= MAX_BODY_BYTES
    assert_serves(stand)


@pytest.mark.parametrize("size", [MAX_BODY_BYTES + 1, 100 * 2**30, 10**18])
@pytest.mark.usefixtures("untouched")
def test_a_client_that_asks_first_is_told_before_it_sends(stand: Site, line: Line, size: int) -> None:
    headers = (f"Content-Length: {size}", "Expect: 100-continue")
    assert_too_large(line.ask(call("POST", "/jobs", None, *headers)))
    assert line.is_over()
    assert_serves(stand)


@pytest.mark.usefixtures("untouched")
def test_a_body_of_far_too_much_is_refused_unread(stand: Site, line: Line) -> None:
    assert_too_large(line.ask(call("POST", "/jobs", None, f"Content-Length: {100 * 2**30}")))
    assert line.is_over()


@pytest.mark.usefixtures("untouched")
def test_a_body_of_16_mib_is_read(line: Line) -> None:
    body = dumps({**waiting(), "dryRun": True})
    reply = line.ask(call("POST", "/jobs", body + b" " * (MAX_BODY_BYTES - len(body))))
    assert (reply.code, json.loads(reply.body)["totalCount"]) == (200, 1)


@pytest.mark.usefixtures("untouched")
def test_a_client_that_asks_first_may_send_what_is_not_too_much(line: Line) -> None:
    body = dumps({**waiting(), "dryRun": True})
    assert line.ask(call("POST", "/jobs", None, f"Content-Length: {len(body)}", "Expect: 100-continue")).code == 100
    assert line.ask(body).code == 200
    # Who does not wait for it is served as well.
    reply = line.ask(call("POST", "/jobs", body, "Expect: 100-continue"))
    assert (line.answer() if reply.code == 100 else reply).code == 200


@pytest.mark.usefixtures("untouched")
def test_a_client_that_asks_first_is_spared_a_body_that_nobody_reads(line: Line) -> None:
    assert line.ask(call("POST", "/nowhere", None, "Content-Length: 100", "Expect: 100-continue")).code == 404


def test_a_body_that_the_bus_could_not_carry_is_taken_over_http(stand: Site) -> None:
    batch = [{**MESSAGE, "data": letter * 400_000, "__destination": "nobody"} for letter in "abcde"]
    job = stand.http("post", "/jobs", json={"batch": batch, "startAt": FAR}).json()
    assert job["totalCount"] == 5
    assert stand.ask("get", f"/requests/{job['requests'][4]}")[1]["data"] == "e" * 400_000
    assert stand.ask("get", f"/jobs/{job['id']}")[0] == 413
    assert len(stand.http("get", f"/jobs/{job['id']}").json()["requests"]) == 5
    stand.remove_job(job["id"])


@pytest.mark.usefixtures("untouched")
def test_a_body_in_chunks_of_any_size_is_put_together(line: Line) -> None:
    body = dumps({**waiting("é" * 20), "dryRun": True})
    line.send(call("POST", "/jobs", None, "Transfer-Encoding: chunked"))
    for at in range(len(body)):
        line.send(b"1;ext=1\r\n" + body[at : at + 1] + b"\r\n")
    assert line.ask(b"0\r\nTrailer: x\r\n\r\n").code == 200
    assert line.ask(call("GET", "/jobs?limit=0")).body == b"[]"


@pytest.mark.usefixtures("untouched")
def test_a_client_that_leaves_in_the_middle_of_its_body_leaves_nothing(stand: Site) -> None:
    body = dumps(waiting(["a", "b"]))
    for sent in (0, 1, len(body) // 2, len(body) - 1):
        for ending in (socket.SHUT_WR, socket.SHUT_RDWR):
            with Line(stand) as line:
                line.send(call("POST", "/jobs", None, f"Content-Length: {len(body)}"), body[:sent])
                line.socket.shutdown(ending)
                assert ending == socket.SHUT_RDWR or line.is_over()
        with Line(stand) as line:
            line.send(call("POST", "/jobs", None, "Transfer-Encoding: chunked"))
            line.send(b"%x\r\n" % len(body) + body[:sent])
    assert_serves(stand)


def test_a_client_that_leaves_before_the_answer_has_one_job_when_it_comes_again(stand: Site, label: str) -> None:
    body = waiting(["a", "b"], key=label, labels=[label])
    for _ in range(5):
        with Line(stand) as line:
            line.send(call("POST", "/jobs", dumps(body)))
    job = stand.http("post", "/jobs", json=body).json()
    assert ids(get(stand, "/jobs", label=label)) == [job["id"]]


GOOD = dumps(waiting())

NO_JSON = {
    "bytes": b"\xff\xfe\xfd",
    "half of a character": b'{"name": "\xc3"}',
    "a surrogate in UTF-8": b'{"name": "\xed\xa0\x80"}',
    "UTF-16": GOOD.decode().encode("utf-16"),
    "UTF-16 without a mark": GOOD.decode().encode("utf-16-le"),
    "UTF-32": GOOD.decode().encode("utf-32"),
    "a byte order mark": b"\xef\xbb\xbf" + GOOD,
    "cut off": GOOD[:-1],
    "too much": GOOD + b"}",
    "two": GOOD + GOOD,
    "a comma": GOOD[:-1] + b",}",
    "a comment": b"/* */" + GOOD,
    "apostrophes": GOOD.replace(b'"', b"'"),
    "a control character": GOOD.replace(b"nobody", b"no\nbody"),
    "a zero byte": GOOD + b"\0",
    "zero bytes": b"\0" * 1000,
    "a number of 5,000 digits": GOOD[:-1] + b',"priority":' + b"9" * 5000 + b"}",
    "gzip": gzip.compress(GOOD),
    "a form": b"destinations=nobody&message=%7B%7D",
    "another form": b'--x\r\nContent-Disposition: form-data; name="batch"\r\n\r\n[]\r\n--x--\r\n',
    "XML": b"<?xml version='1.0'?><job/>",
    "brackets": b"[" * 99,
    "brackets that close": b"]" * 100_000,
}

NO_BODY = {
    "nothing": b"",
    "space": b" \r\n\t",
    "null": b"null",
    "NaN": b"NaN",
    "a list": b"[]",
    "a text": b'"text"',
    "a surrogate": b'"\\ud800"',
}


@pytest.mark.parametrize("raw", [*NO_JSON.values(), *NO_BODY.values()], ids=[*NO_JSON, *NO_BODY])
@pytest.mark.usefixtures("untouched")
def test_what_is_no_json_object_is_refused(stand: Site, sample: Document, raw: bytes) -> None:
    for method, path in (("post", "/jobs"), ("post", "/requests"), ("put", f"/jobs/{sample['id']}")):
        reply = stand.http(method, path, content=raw)
        assert reply.status_code == 400, reply.text
        [error] = reply.json()["errors"]
        assert error["path"] == ""
        told = "the body has to be a JSON object" if raw in NO_BODY.values() else "the body is not JSON: "
        assert error["message"].startswith(told)
        assert reply.headers["content-type"] == "application/json"


@pytest.mark.parametrize(
    ("raw", "path", "told"),
    [
        (GOOD[:-1] + b',"data":%b}' % (b"[" * 100_000 + b"]" * 100_000), "", "levels deep"),
        (GOOD[:-1] + b',"data":%b}' % (b'{"a":' * 100_000 + b"1" + b"}" * 100_000), "", "levels deep"),
        (GOOD[:-1] + b',"data":%b' % (b"[" * 100_000), "", "levels deep"),
        (GOOD[:-1] + b',"name":"a","name":"b"}', "name", "stands twice"),
        (GOOD[:-1] + b',"a":{"b":1,"b":1}}', "b", "stands twice"),
        (GOOD[:-1] + b',"\\ud800":1,"\\ud800":1}', "?", "stands twice"),
        (GOOD[:-1] + b',"name":"\\ud800"}', "name", "unicode"),
        (GOOD[:-1] + b',"\\ud800":1}', "", "unicode"),
        (GOOD[:-1] + b',"timeout":NaN}', "timeout", ""),
        (GOOD[:-1] + b',"timeout":-Infinity}', "timeout", ""),
        (GOOD[:-1] + b',"timeout":1e999}', "timeout", ""),
        (GOOD[:-1] + b',"priority":%b}' % (b"9" * 4000), "priority", ""),
        (GOOD.replace(b'"nobody"', b'"no\\u0000body"'), "destinations.0", "can't contain"),
        (GOOD.replace(b'"post"', b'"post","data":NaN'), "message.data", "not JSON"),
        (GOOD.replace(b'"post"', b'"post","data":1%b' % (b"0" * 30)), "message.data", "64"),
    ],
    ids=itertools.count(),
)
@pytest.mark.usefixtures("untouched")
def test_what_json_can_say_and_a_job_can_not_is_told_with_its_path(
    stand: Site, raw: bytes, path: str, told: str
) -> None:
    reply = stand.http("post", "/jobs", content=raw)
    assert reply.status_code == 400, reply.text
    [error] = reply.json()["errors"]
    assert (error["path"], told in error["message"]) == (path, True), error


@pytest.mark.parametrize(
    "headers",
    [
        {}, {"Content-Type": "application/json"}, {"Content-Type": "application/x-www-form-urlencoded"},
        {"Content-Type": "multipart/form-data; boundary=x"}, {"Content-Type": "text/plain"},
        {"Content-Type": "application/json; charset=latin-1"}, {"Content-Type": "nonsense"},
    ],
    ids=str,
)  # fmt: skip
@pytest.mark.usefixtures("untouched")
def test_a_body_is_json_in_utf8_whatever_it_is_called(stand: Site, headers: dict[str, str]) -> None:
    body = json.dumps({**waiting("é☂"), "dryRun": True}, ensure_ascii=False).encode()
    assert stand.http("post", "/jobs", content=body, headers=headers).json()["totalCount"] == 1


BRACKETS = {
    "that open": b"[" * MAX_BODY_BYTES,
    "in pairs": b"[" + b"[]," * (MAX_BODY_BYTES // 3 - 1) + b"[]]",
    "around numbers": b"[" + b"1," * (MAX_BODY_BYTES // 2 - 2) + b"1]",
    "in a text": b'["' + b"[" * (MAX_BODY_BYTES - 4) + b'"]',
    "of objects": b"[" + b"{}," * (MAX_BODY_BYTES // 3 - 1) + b"{}]",
}


@pytest.mark.parametrize("raw", BRACKETS.values(), ids=BRACKETS)
@pytest.mark.usefixtures("untouched")
def test_16_mib_of_brackets_are_refused_by_their_number(stand: Site, raw: bytes) -> None:
    reply = stand.http("post", "/jobs", content=raw)
    assert (reply.status_code, reply.json()) == (
        413, {"message": f"a body has at most {MAX_VALUES} values; make several calls of it"}
    )  # fmt: skip
    assert_serves(stand)


@pytest.mark.usefixtures("untouched")
def test_others_are_answered_while_a_large_body_is_read(stand: Site, line: Line) -> None:
    pairs = b"[" + b"[]," * (MAX_VALUES // 4) + b"[]]"
    line.send(call("POST", "/jobs", pairs + b" " * (MAX_BODY_BYTES - len(pairs))))
    answered = 0
    while not line.has_answer():
        assert_serves(stand)
        answered += 1
    assert line.answer().code == 400
    assert answered > 5


# HTTP alone: queries

ODD_QUERIES = {
    "a=%00": 200, "%00=%00": 200, "label=%00": 200, "label=%ff%fe": 200, "label=%zz&label=%": 200, "%": 200, "&": 200,
    "=": 200, "=&=x&&a": 200, "?": 200, "label=%ED%A0%80": 200, "label=[]{}|^`": 200, "limit=%31%30": 200,
    "limit=1#limit=x": 200, "limit=%00": 400, "limit=1%00": 400, "limit=%zz": 400, "limit=%": 400, "limit=+1": 400,
    "limit=%2B1": 400, "limit=1&limit=": 400, "limit": 400, "status=%00": 400, "status=%zz": 400, "since=%00": 400,
    "limit=%D9%A1": 400, "offset=" + "9" * 5000: 400,
    "&".join(f"n{number}" for number in range(8000)): 200,
    "&" * 60_000: 200,
    "label=" + "x" * 60_000: 200,
    "label=x&" * 7000: 400,
    "status=x&" * 6000: 400,
    "limit=" + "1" * 60_000: 400,
}  # fmt: skip


@pytest.mark.parametrize(("query", "code"), ODD_QUERIES.items(), ids=[query[:30] for query in ODD_QUERIES])
def test_an_odd_query_is_read_or_refused(line: Line, query: str, code: int) -> None:
    reply = line.ask(call("GET", f"/jobs?{query}"))
    assert reply.code == code, reply.body
    assert isinstance(json.loads(reply.body), list if code == 200 else dict)


def test_a_query_of_100_kb_is_refused_or_read_and_stops_nobody(stand: Site, line: Line) -> None:
    assert line.ask(call("GET", "/jobs?label=" + "x" * 100_000)).code in (200, 400, 414, 431)
    assert_serves(stand)


@pytest.mark.parametrize("ident", ["%31", "%zz", "%", "%00", "%ff", "%F0%9F%92%A5", "%2e%2e", "..", "a;b=c", "5,6"])
def test_an_id_in_any_writing_is_404(line: Line, ident: str) -> None:
    for resource in (f"/jobs/{ident}", f"/jobs/{ident}/answers", f"/requests/{ident}", f"/request/{ident}"):
        reply = line.ask(call("GET", resource))
        assert (reply.code, list(json.loads(reply.body))) == (404, ["message"])


# HTTP alone: connections


def test_calls_on_one_connection_are_answered_in_their_order(line: Line, sample: Document) -> None:
    requests = [request["id"] for request in sample["requests"]] * 5
    line.send(b"".join(call("GET", f"/requests/{ident}") for ident in requests))
    assert [json.loads(line.answer().body)["id"] for _ in requests] == requests


@pytest.mark.usefixtures("untouched")
def test_calls_of_all_kinds_may_be_sent_at_once(line: Line, sample: Document) -> None:
    path, dry = f"/jobs/{sample['id']}", dumps({**waiting(), "dryRun": True})
    tag = line.ask(call("GET", path)).headers["etag"]
    kinds = [
        (200, call("POST", "/jobs", dry)),
        (200, call("HEAD", path)),
        (400, call("POST", "/jobs", b"{")),
        (304, call("GET", path, None, f"If-None-Match: {tag}")),
        (404, call("GET", "/nowhere", b"a body that nobody reads")),
        (405, call("PATCH", path, dry)),
        (200, call("GET", "/jobs?limit=0", b'{"a": 1}')),
        (200, call("POST", "/jobs", None, "Transfer-Encoding: chunked") + b"%x\r\n%b\r\n0\r\n\r\n" % (len(dry), dry)),
        (404, call("DELETE", "/jobs/5", b"x" * 1000)),
        (409, call("POST", f"{path}/rerun", dumps({"status": "canceled"}))),
    ]
    line.send(b"".join(sent for _, sent in kinds * 3))
    for code, sent in kinds * 3:
        assert line.answer(head=sent.startswith(b"HEAD")).code == code, sent[:60]
    line.send(call("GET", "/jobs?limit=0", None, "Connection: close"))
    assert line.answer().body == b"[]"
    assert line.is_over()


def test_the_first_version_of_http_is_understood(line: Line) -> None:
    assert line.ask(b"GET /jobs?limit=0 HTTP/1.0\r\nHost: localhost\r\n\r\n").body == b"[]"
    assert line.is_over()


def test_an_address_may_stand_in_full(stand: Site, line: Line) -> None:
    assert line.ask(call("GET", f"{stand.site}/jobs?limit=0")).body == b"[]"


NO_HTTP = {
    "nothing of it": b"\0\1\2\3" * 100,
    "a greeting of TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\0" * 500,
    "a method of none": b"FETCH /jobs HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "a method in small letters": b"get /jobs HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "a version of none": b"GET /jobs HTTP/9.9\r\nHost: localhost\r\n\r\n",
    "no path": b"GET HTTP/1.1\r\n\r\n",
    "bytes in the path": b"GET /jobs/\xc3\xa9 HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "bytes in the query": b"GET /jobs?label=\xc3\xa9 HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "a space in the path": b"GET /jobs/a b HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "a header without a name": b"GET /jobs HTTP/1.1\r\n: x\r\n\r\n",
    "a folded header": b"GET /jobs HTTP/1.1\r\n Host: localhost\r\n\r\n",
    "a length of no number": call("POST", "/jobs", None, "Content-Length: many"),
    "a negative length": call("POST", "/jobs", None, "Content-Length: -1"),
    "a length beyond all": call("POST", "/jobs", None, "Content-Length: " + "9" * 5000),
    "two lengths": call("POST", "/jobs", None, "Content-Length: 5", "Content-Length: 6"),
    "a length and chunks": call("POST", "/jobs", GOOD, "Transfer-Encoding: chunked"),
    "a chunk of no size": call("POST", "/jobs", None, "Transfer-Encoding: chunked") + b"zz\r\n{}\r\n0\r\n\r\n",
    "a chunk of another size": call("POST", "/jobs", None, "Transfer-Encoding: chunked") + b"1\r\n{}}}\r\n0\r\n\r\n",
}


@pytest.mark.parametrize("raw", NO_HTTP.values(), ids=NO_HTTP)
@pytest.mark.usefixtures("untouched")
def test_what_is_no_http_ends_the_connection_and_no_more(stand: Site, line: Line, raw: bytes) -> None:
    assert line.ask(raw).code == 400
    assert line.is_over()
    assert_serves(stand)


@pytest.mark.parametrize("head", ["path", "header", "headers"])
def test_a_head_without_an_end_is_cut_off(stand: Site, line: Line, head: str) -> None:
    line.send({"path": b"GET /jobs?", "header": b"GET / HTTP/1.1\r\nX: ", "headers": b"GET / HTTP/1.1\r\n"}[head])
    piece = b"X: y\r\n" * 10_000 if head == "headers" else b"x" * 60_000
    with pytest.raises(ConnectionError):  # the server closes it
        for _ in range(1000):
            line.send(piece)
    assert_serves(stand)


def test_connections_that_say_nothing_keep_nobody_from_being_served(stand: Site) -> None:
    lines = [Line(stand) for _ in range(200)]
    try:
        for number, line in enumerate(lines):
            line.send(call("POST", "/jobs", None, "Content-Length: 1000")[: number // 2])
        assert_serves(stand)
    finally:
        for line in lines:
            line.close()
    assert_serves(stand)


# HTTP alone: large answers


def test_a_page_has_10000_requests_at_the_most(stand: Site) -> None:
    job = stand.http("post", "/jobs", json=waiting([f"d{number}" for number in range(10_001)])).json()
    path = f"/jobs/{job['id']}"
    page = stand.http("get", f"{path}?limit=10000").json()["requests"]
    assert ids(page) == job["requests"][:10_000]
    assert [request["__request"]["destination"] for request in page[-2:]] == ["d9998", "d9999"]
    assert len(stand.http("get", f"{path}?collection=true&limit=10000&offset=1").json()["collection"]) == 10_000
    assert ids(stand.http("get", f"/requests?job={job['id']}&limit=10000").json()) == job["requests"][:0:-1]
    assert stand.http("get", f"{path}?limit=10001").status_code == 400
    # The bus carries less.
    code, answered = stand.ask("get", f"{path}?limit=10000")
    assert (code, "ask for a smaller page" in answered["message"]) == (413, True)
    stand.remove_job(job["id"])


def test_a_page_that_would_be_too_long_is_refused_with_one_that_is_not(stand: Site) -> None:
    names, data = [f"d{number}" for number in range(50)], "x" * 400_000
    job = stand.http("post", "/jobs", json={**waiting(names), "message": {**MESSAGE, "data": data}}).json()
    for path in (f"/jobs/{job['id']}?", f"/jobs/{job['id']}?collection=true&", f"/requests?job={job['id']}&"):
        for method in ("get", "head"):
            assert stand.http(method, path).status_code == 413
        message = stand.http("get", path).json()["message"]
        assert str(MAX_PAGE_BYTES) in message
        [limit] = re.findall(r"\?limit=(\d+)", message)
        page = stand.http("get", f"{path}limit={limit}")
        assert (page.status_code, MAX_PAGE_BYTES * 0.9 < len(page.content) < MAX_PAGE_BYTES * 1.01) == (200, True)
    assert stand.http("get", f"/jobs/{job['id']}?collection=false").json()["requests"] == job["requests"]
    stand.remove_job(job["id"])


# A store that can't write


@pytest.fixture
def full(tmp_path: Path) -> Iterator[Site]:
    """A stand whose bundle can write no file."""
    with Site(tmp_path / "full") as stand:
        kept = stand.create_job(waiting(["a", "b"], name="kept"))
        stand.update_job(kept["id"], status="canceled")
        process = psutil.Process(stand.bundle.pid)
        _, hard = process.rlimit(psutil.RLIMIT_FSIZE)
        process.rlimit(psutil.RLIMIT_FSIZE, (1, hard))
        yield stand
        process.rlimit(psutil.RLIMIT_FSIZE, (hard, hard))
        deadline = time.monotonic() + PATIENCE
        while stand.http("post", "/jobs", json=waiting()).status_code != 200:
            assert time.monotonic() < deadline, "it does not recover"
        assert [job["name"] for job in stand.ask("get", "/jobs")[1]] == [None, "kept"]
        stand.bundle.check()


def test_a_store_that_can_not_write_says_when_to_try_again(full: Site) -> None:
    job = full.ask("get", "/jobs")[1][0]
    calls = [
        ("post", "/jobs", waiting()),
        ("post", "/requests", {"destination": "nobody", "message": MESSAGE}),
        ("post", f"/jobs/{job['id']}/rerun", {"status": "canceled", "startAt": FAR}),
    ]
    for method, path, body in calls:
        reply = full.http(method, path, json=body)
        assert reply.status_code == 503, reply.text
        assert int(reply.headers["retry-after"]) >= 1
        assert list(reply.json()) == ["message"]
        assert reply.json()["message"].startswith("the store can't write: ")
        assert full.ask(method, path, body) == (503, reply.json())
    assert full.http("post", "/jobs", json={**waiting(), "dryRun": True}).json()["totalCount"] == 1
    assert full.http("post", "/jobs", json={}).status_code == 400
    assert [one["name"] for one in full.http("get", "/jobs").json()] == ["kept"]
    assert full.http("get", f"/jobs/{job['id']}").headers["etag"]
    health = full.http("get", "/health")
    assert (health.status_code, health.json()["ready"], "retry-after" in health.headers) == (503, False, True)


# HTTP alone: clients that take more than is theirs


CHUNKED = call("POST", "/jobs", None, "Transfer-Encoding: chunked")

HANDSHAKE = ("Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13")
HANDSHAKE_KEY = "Sec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg=="


def in_chunks(body: bytes, *trailers: str) -> bytes:
    """A call that makes a job, with what stands behind its body."""
    return CHUNKED + b"%x\r\n%b\r\n0\r\n" % (len(body), body) + "\r\n".join([*trailers, "", ""]).encode()


def test_a_body_may_come_in_one_read_with_the_end_of_its_head(line: Line) -> None:
    body = dumps({**waiting(), "dryRun": True}) + b" " * MIB
    sent = call("POST", "/jobs", body)
    line.send(call("GET", "/jobs?limit=0") + sent[:30])
    for _ in range(5):
        line.answer()
        line.send(sent[30:] + sent[:30])
    assert line.answer().code == 200


@pytest.mark.parametrize("piece", [b"a:\r\n" * 10_000, b"x" * 60_000], ids=["behind a body", "in the size of a chunk"])
def test_what_is_no_body_has_an_end_too(stand: Site, line: Line, piece: bytes) -> None:
    line.send(CHUNKED + (b"0\r\n" if piece.startswith(b"a:") else b"1;"))
    with pytest.raises(ConnectionError):  # the server drops it
        for _ in range(1000):
            line.send(piece)
    assert_serves(stand)


def test_what_stands_behind_a_body_is_no_header(line: Line, label: str) -> None:
    made = [line.ask(in_chunks(dumps(waiting()), f"Idempotency-Key: {label}")) for _ in range(2)]
    assert [reply.code for reply in made] == [200, 200]
    first, second = (json.loads(reply.body)["id"] for reply in made)
    assert first != second


@pytest.mark.parametrize(
    "handshake",
    [
        call("POST", "/jobs/ws", None, *HANDSHAKE, HANDSHAKE_KEY),
        call("DELETE", "/jobs/ws", None, *HANDSHAKE),
        call("GET", "/jobs/ws?label=" + "x" * 10_000, None, *HANDSHAKE, HANDSHAKE_KEY),
        call("GET", "/jobs/ws", None, *HANDSHAKE, HANDSHAKE_KEY, *(["X: y"] * 200)),
        call("GET", "/jobs/ws?label=\xe9", None, *HANDSHAKE, HANDSHAKE_KEY),
        call("GET", "/jobs/ws", None, *HANDSHAKE, HANDSHAKE_KEY, "X: \xe9", "X y: z"),
    ],
    ids=["POST", "DELETE", "a long path", "many headers", "bytes in the query", "a header with a space"],
)
def test_what_begins_no_websocket_is_answered(stand: Site, line: Line, handshake: bytes) -> None:
    assert line.ask(handshake).code == 400
    assert line.is_over()
    assert_serves(stand)


@pytest.mark.parametrize("frame", [b"\x81\x80\0\0\0\0", b"\x89\x80\0\0\0\0"], ids=["texts", "pings"])
def test_a_watcher_that_floods_is_dropped(stand: Site, line: Line, frame: bytes) -> None:
    assert line.ask(call("GET", "/jobs/ws?limit=0", None, *HANDSHAKE, HANDSHAKE_KEY)).code == 101
    with pytest.raises(ConnectionError):  # the server drops it
        for _ in range(1000):
            line.send(frame * 10_000)
    assert_serves(stand)


def test_calls_whose_client_resets_the_connection_are_no_fault(stand: Site) -> None:
    for _ in range(50):
        with Line(stand) as line:
            line.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            line.ask(call("GET", "/jobs") * 20)
    assert_serves(stand)
    assert_well(stand, stand.bundle.pid)


def test_connections_leave_files_to_open(stand: Site) -> None:
    bundle = psutil.Process(stand.bundle.pid)
    before = bundle.rlimit(psutil.RLIMIT_NOFILE)
    lines = []
    try:
        bundle.rlimit(psutil.RLIMIT_NOFILE, (SPARE_FILES + 80, before[1]))
        lines = [Line(stand) for _ in range(100)]
        assert lines[-1].is_over()
        assert lines[0].ask(call("GET", "/jobs?limit=0")).body == b"[]"
    finally:
        bundle.rlimit(psutil.RLIMIT_NOFILE, before)
        for line in lines:
            line.close()
    assert_serves(stand)


@pytest.mark.parametrize("sent", [b"", b"GET /", b"GET / HTTP/1.1\r\nHost: localhost\r\n", b"\r\n"])
def test_a_head_must_come_in_time(monkeypatch: pytest.MonkeyPatch, sent: bytes) -> None:
    monkeypatch.setattr(server, "HEAD_TIMEOUT", 0.05)

    async def answer(_scope: Scope, _receive: Receive, send: Send) -> None:
        await silent_is_over.wait()
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    async def check() -> None:
        http = server.HttpServer(answer, server.bind(ListenAddress("127.0.0.1", 0)))
        await http.start()
        host, port = http.url.removeprefix("http://").split(":")
        asking, ask = await asyncio.open_connection(host, int(port))
        ask.write(call("GET", "/"))
        silent, say = await asyncio.open_connection(host, int(port))
        say.write(sent)
        assert await silent.read() == b""
        # A call has all the time that its answer takes.
        silent_is_over.set()
        assert (await asking.readline()).startswith(b"HTTP/1.1 204 ")
        for writer in (ask, say):
            writer.close()
        await http.close()

    silent_is_over = asyncio.Event()
    asyncio.run(asyncio.wait_for(check(), PATIENCE))
