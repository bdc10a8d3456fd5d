"""A device gets its requests in their order and one at a time, while the others get theirs."""

from __future__ import annotations

from collections import defaultdict
from itertools import pairwise

from tests.system.stand import Document, Fleet, Stand, assert_adds_up


def by_device(work: list[Document]) -> dict[str, list[Document]]:
    """What every device did, in the order in which it began."""
    found: dict[str, list[Document]] = defaultdict(list)
    for record in work:
        found[record["device"]].append(record)
    return found


def assert_one_at_a_time(work: list[Document]) -> None:
    for device, records in by_device(work).items():
        for earlier, later in pairwise(records):
            assert later["startedAt"] >= earlier["finishedAt"], device


def assert_no_overlap(fleet: Fleet) -> None:
    """The devices themselves saw none."""
    fleet.stop()
    counts = fleet.counts()
    assert counts["overlaps"] == 0
    assert counts["repeated"] == 0
    assert counts["worked"] == counts["received"] == len(fleet.work())


def steps(devices: list[str], *names: str) -> list[Document]:
    return [{"method": "post", "resource": f"/step/{name}", "__request": {"destination": devices}} for name in names]


def test_each_of_100_devices_sees_its_three_messages_in_order(stand: Stand) -> None:
    fleet = stand.fleet("three", 100, latency="0.02-0.2", seed=1)
    job = stand.create_job({"batch": steps(fleet.names, "1", "2", "3")})
    ended = stand.wait_job(job["id"])
    assert (ended["totalCount"], ended["finishCount"]) == (300, 300)
    assert_adds_up(ended)
    work = stand.work(job)
    devices = by_device(work)
    assert sorted(devices) == fleet.names
    for device, records in devices.items():
        assert [record["resource"] for record in records] == ["/step/1", "/step/2", "/step/3"], device
        assert [record["id"] for record in records] == sorted(record["id"] for record in records), device
    assert_one_at_a_time(work)
    assert_no_overlap(fleet)


def test_different_devices_work_at_the_same_time(stand: Stand) -> None:
    fleet = stand.fleet("parallel", 50, latency="0.5")
    job = stand.create_job({"batch": steps(fleet.names, "1", "2")})
    stand.wait_job(job["id"])
    work = stand.work(job)
    first_end = min(record["finishedAt"] for record in work)
    assert len([record for record in work if record["startedAt"] < first_end]) > 1


def test_a_device_that_does_not_answer_holds_up_nobody_else(stand: Stand) -> None:
    fleet = stand.fleet("quick", 20)
    job = stand.create_job({"batch": steps(["nobody", *fleet.names], "1", "2")})
    waiting = stand.wait_job(job["id"], lambda job: job["finishCount"] == 40)
    assert waiting["status"] == "dispatching"
    assert len(fleet.work()) == 40
    requests = stand.requests(job["id"])
    to_nobody = [
        request["__request"]["status"] for request in requests if request["__request"]["destination"] == "nobody"
    ]
    assert to_nobody == ["sent", "created"]
    stand.update_job(job["id"], status="canceled")


def test_two_jobs_to_the_same_devices_take_turns(stand: Stand) -> None:
    fleet = stand.fleet("two-jobs", 60, latency="0.01-0.1", seed=2)
    jobs = [stand.create_job({"batch": steps(fleet.names, *"123")}) for _ in range(2)]
    for job in jobs:
        ended = stand.wait_job(job["id"])
        assert ended["finishCount"] == 180
    for job in jobs:
        for device, records in by_device(stand.work(job)).items():
            assert [record["resource"] for record in records] == ["/step/1", "/step/2", "/step/3"], device
    assert_one_at_a_time(fleet.work())
    assert_no_overlap(fleet)


def test_a_destination_that_is_named_twice_gets_two_requests(stand: Stand) -> None:
    fleet = stand.fleet("twice", 2, latency="0.05")
    one, other = fleet.names
    message = {"method": "post", "resource": "/system/reboot"}
    job = stand.create_job({"destinations": [one, other, one], "message": message})
    assert len(set(job["requests"])) == 3
    ended = stand.wait_job(job["id"])
    assert (ended["totalCount"], ended["finishCount"]) == (3, 3)
    devices = by_device(stand.work(job))
    assert [record["id"] for record in devices[one]] == [job["requests"][0], job["requests"][2]]
    assert [record["id"] for record in devices[other]] == [job["requests"][1]]
    assert_one_at_a_time(stand.work(job))
    assert_no_overlap(fleet)


def test_the_order_holds_when_requests_are_tried_again(stand: Stand) -> None:
    fleet = stand.fleet("again", 30, latency="0.01-0.05", locked=0.5, seed=3)
    retry = {"limit": 5, "delay": 0.05, "jitter": 0}
    job = stand.create_job({"batch": steps(fleet.names, *"1234"), "retry": retry})
    ended = stand.wait_job(job["id"])
    assert ended["finishCount"] == 120
    for device, records in by_device(stand.work(job)).items():
        assert [record["resource"] for record in records] == [f"/step/{number}" for number in "1234"], device
    fleet.stop()
    assert fleet.counts()["locked"] > 0
    assert fleet.counts()["overlaps"] == 0


def test_the_next_request_follows_one_that_failed(stand: Stand) -> None:
    fleet = stand.fleet("failing", 20, errors=0.5, seed=4)
    job = stand.create_job({"batch": steps(fleet.names, *"123")})
    ended = stand.wait_job(job["id"])
    assert ended["doneCount"] == 60
    assert ended["errorCount"] > 0
    assert_adds_up(ended)
    for device, records in by_device(stand.work(job)).items():
        assert [record["resource"] for record in records] == ["/step/1", "/step/2", "/step/3"], device
