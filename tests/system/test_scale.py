"""10,000 requests to 10,000 devices through a broker with its default limits, and lists that stay readable."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import pytest

from tests.system.stand import Document, Fleet, Stand, assert_adds_up

SIZE = 10_000

BUS_LIMIT = 1024 * 1024
"""Bytes from which on the controller drops a message."""


@dataclass
class Big:
    """The job of this file, and what went before and after it."""

    fleet: Fleet
    job: Document
    ended: Document
    small: list[Document]
    """Four small jobs: two before it, two after it, oldest first; labelled, and one of them failed in part."""


@pytest.fixture(scope="module")
def big(stand: Stand) -> Iterator[Big]:
    fleet = stand.fleet("dev", SIZE)
    message = {"method": "post", "resource": "/system/reboot", "data": {"delay": 1}}
    few = fleet.names[:5]
    small = [
        stand.create_job({"destinations": few, "message": message, "name": "one", "labels": ["site=a", "night"]}),
        stand.create_job({"destinations": few, "message": message, "name": "two", "labels": ["site=b", "night"]}),
    ]
    for job in small:
        stand.wait_job(job["id"])
    job = stand.create_job({"destinations": fleet.names, "message": message, "name": "big", "labels": ["site=a"]})
    ended = stand.wait_job(job["id"], timeout=200)
    late = {"message": message, "options": {"timeout": 100}, "labels": ["night"]}
    small.append(stand.create_job({**late, "destinations": [few[0], "nobody-1", "nobody-2"], "name": "three"}))
    small.append(stand.create_job({"destinations": few[0], "message": message, "name": "four"}))
    for made in small[2:]:
        stand.wait_job(made["id"])
    yield Big(fleet, job, ended, small)


def get(stand: Stand, resource: str) -> Any:
    """The data of a good answer, which is as small as it has to be."""
    answer = stand.exchange("get", resource)
    assert answer.code == 200, answer.data
    assert len(answer.payload) < BUS_LIMIT
    return answer.data


# The job


def test_all_requests_are_resolved_and_every_device_worked_once(stand: Stand, big: Big) -> None:
    ended = big.ended
    assert (ended["status"], ended["totalCount"], ended["finishCount"]) == ("resolved", SIZE, SIZE)
    assert (ended["errorCount"], ended["progress"]) == (0, 100)
    assert_adds_up(ended)
    done = Counter(record["device"] for record in stand.work(big.job))
    assert done == dict.fromkeys(big.fleet.names, 1)


def test_the_broker_dropped_nothing(stand: Stand, big: Big) -> None:
    assert "dropped" not in stand.broker.log()
    assert stand.presence.messages[-1].data["dropped"] == {}


def test_the_counters_added_up_all_the_way(stand: Stand, big: Big) -> None:
    told = [heard.data for heard in stand.job_changes.messages if heard.topic.endswith(f"/{big.job['id']}")]
    assert len(told) >= 3
    for state in told:
        assert_adds_up(state)
        assert state["counts"]["sent"] + state["counts"]["running"] <= 500
    done = [state["doneCount"] for state in told]
    assert done == sorted(done)
    assert told[-1] == big.ended


# Pages


def test_all_requests_can_be_read_page_by_page(stand: Stand, big: Big) -> None:
    found: list[Document] = []
    while True:
        page = get(stand, f"/jobs/{big.job['id']}?limit=1000&offset={len(found)}")["requests"]
        found += page
        if not page:
            break
        assert len(page) == 1000
    assert [request["id"] for request in found] == big.job["requests"]
    assert [request["__request"]["destination"] for request in found] == big.fleet.names
    assert {request["__request"]["status"] for request in found} == {"resolved"}


def test_a_page_has_100_requests_unless_told_otherwise(stand: Stand, big: Big) -> None:
    shown = get(stand, f"/jobs/{big.job['id']}")
    assert [request["id"] for request in shown["requests"]] == big.job["requests"][:100]
    assert len(get(stand, "/requests")) == 100


def test_all_ids_fit_one_answer(stand: Stand, big: Big) -> None:
    assert get(stand, f"/jobs/{big.job['id']}?collection=false")["requests"] == big.job["requests"]
    ids = get(stand, f"/jobs/{big.job['id']}?collection=false&limit=10&offset=9995")["requests"]
    assert ids == big.job["requests"][9995:]


def test_a_page_that_would_not_fit_the_bus_is_413_and_says_what_to_ask_for(stand: Stand, big: Big) -> None:
    for resource in (
        f"/jobs/{big.job['id']}?limit=10000",
        f"/jobs/{big.job['id']}?limit=10000&collection=true",
        "/requests?limit=10000",
    ):
        code, data = stand.ask("get", resource)
        assert code == 413, resource
        assert "limit=" in data["message"] and "offset=" in data["message"]


def test_the_other_requests_list_is_read_page_by_page_too(stand: Stand, big: Big) -> None:
    ids: list[int] = []
    while page := get(stand, f"/requests?job={big.job['id']}&limit=1000&offset={len(ids)}"):
        ids += [request["id"] for request in page]
    assert ids == big.job["requests"][::-1]


def test_a_job_with_more_requests_than_allowed_is_413_and_not_made(stand: Stand, big: Big) -> None:
    before = [job["id"] for job in get(stand, "/jobs")]
    message = {"method": "get", "resource": "/x"}
    code, data = stand.ask("post", "/jobs", {"destinations": ["a"] * 110_000, "message": message})
    assert code == 413
    assert "110000" in data["message"].replace(",", "")
    assert [job["id"] for job in get(stand, "/jobs")] == before


# Filters


def test_jobs_are_paged_newest_first(stand: Stand, big: Big) -> None:
    expected = ["four", "three", "big", "two", "one"]
    assert [job["name"] for job in get(stand, "/jobs")] == expected
    assert [job["name"] for job in get(stand, "/jobs?limit=2")] == expected[:2]
    assert [job["name"] for job in get(stand, "/jobs?limit=2&offset=3")] == expected[3:]
    assert get(stand, "/jobs?offset=5") == []
    assert get(stand, "/jobs?limit=0") == []


def test_jobs_are_filtered_by_label(stand: Stand, big: Big) -> None:
    def named(query: str) -> list[str]:
        return [job["name"] for job in get(stand, f"/jobs?{query}")]

    assert named("label=night") == ["three", "two", "one"]
    assert named("label=site%3Da") == ["big", "one"]
    assert named("label=night&label=site%3Da") == ["one"]
    assert named("label=none") == []
    assert named("label=night&limit=1&offset=1") == ["two"]


def test_jobs_are_filtered_by_status(stand: Stand, big: Big) -> None:
    assert len(get(stand, "/jobs?status=resolved")) == 5
    assert get(stand, "/jobs?status=dispatching") == []
    assert get(stand, "/jobs?status=dispatching&status=pending&status=resolved&limit=1")[0]["name"] == "four"
    assert stand.ask("get", "/jobs?status=wrong")[0] == 400


def test_jobs_are_filtered_by_the_time_of_their_creation(stand: Stand, big: Big) -> None:
    jobs = get(stand, "/jobs")
    for number, job in enumerate(jobs):  # each is among those since its own createdAt
        found = get(stand, f"/jobs?since={quote(job['createdAt'])}")
        assert [job["name"] for job in found] == [job["name"] for job in jobs[: number + 1]]
    assert get(stand, "/jobs?since=2100-01-01T00:00:00Z") == []
    assert len(get(stand, "/jobs?since=2000-01-01T00:00:00Z")) == 5
    assert stand.ask("get", "/jobs?since=yesterday")[0] == 400


def test_the_requests_of_a_job_are_filtered_by_status(stand: Stand, big: Big) -> None:
    three = big.small[2]
    timed_out = get(stand, f"/jobs/{three['id']}?status=timeout")["requests"]
    assert [request["id"] for request in timed_out] == three["requests"][1:]
    assert get(stand, f"/jobs/{three['id']}?status=timeout&collection=false")["requests"] == three["requests"][1:]
    assert len(get(stand, f"/jobs/{three['id']}?status=timeout&status=resolved")["requests"]) == 3
    assert get(stand, f"/jobs/{big.job['id']}?status=error")["requests"] == []
    assert (
        get(stand, f"/jobs/{big.job['id']}?status=resolved&limit=1&offset=9999")["requests"][0]["id"]
        == (big.job["requests"][-1])
    )


def test_requests_are_filtered_by_destination_status_and_job(stand: Stand, big: Big) -> None:
    first = big.fleet.names[0]
    one, two, three, four = big.small
    to_first = [
        four["requests"][0],
        three["requests"][0],
        big.job["requests"][0],
        two["requests"][0],
        one["requests"][0],
    ]
    assert [request["id"] for request in get(stand, f"/requests?destination={first}")] == to_first
    assert [request["id"] for request in get(stand, f"/requests?destination={first}&limit=2&offset=1")] == to_first[1:3]
    assert [request["id"] for request in get(stand, "/requests?status=timeout")] == three["requests"][:0:-1]
    assert get(stand, f"/requests?job={two['id']}&status=timeout") == []
    assert [request["id"] for request in get(stand, f"/requests?job={two['id']}")] == two["requests"][::-1]
    assert [request["id"] for request in get(stand, "/requests?destination=nobody-1&destination=nobody-2")] == (
        three["requests"][:0:-1]
    )
    assert get(stand, "/requests?job=1") == []
    assert get(stand, "/requests?destination=never-seen") == []
