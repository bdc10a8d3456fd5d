"""A job that is run again for those that failed: what is taken over, what is chosen, and in which order it goes."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from puppetmaster.documents import JOBS, MESSAGES, REQUESTS
from puppetmaster.errors import Conflict, InvalidDocument, JobNotFound, KeyConflict, StoreUnavailable, TooLarge
from puppetmaster.wire import MAX_BUS_BYTES
from tests.test_service import Bench, job, refused, run, settle

LIMITS: dict[str, Any] = {
    "timeout": 500, "concurrency": 7, "priority": 80, "retry": {"limit": 1}, "rate": {"perMinute": 600},
    "abort": {"errorPercent": 90, "minimum": 5},
}  # fmt: skip


def message(resource: str, *destinations: str, **details: Any) -> dict[str, Any]:
    return {
        "method": "put", "resource": resource, "data": {"to": resource},
        "__request": {"destination": list(destinations), **details},
    }  # fmt: skip


async def ended(bench: Bench, codes: dict[int, int], **document: Any) -> dict[str, Any]:
    """A job whose requests, by their place, were answered with these codes, one after the other; others are not."""
    made = await bench.service.create_job(document or job(*(f"d{n}" for n in range(4))))
    await settle()
    for place, code in codes.items():
        request = bench.engine.requests[made["requests"][place]]
        await bench.answer(request.id, code, None, request.destination)
        await settle()
    return made


async def destinations(bench: Bench, made: dict[str, Any]) -> list[tuple[str, str]]:
    """Where the requests of a job go, and what for."""
    shown = await bench.service.show_job(made["id"], {"limit": "1000"})
    return [(request["__request"]["destination"], request["resource"]) for request in shown["requests"]]


# What is run again


def test_what_failed_is_run_again_as_a_new_job() -> None:
    async def main() -> None:
        async with Bench() as bench:
            old = await ended(bench, {0: 200, 1: 500, 2: 200, 3: 404})
            made = await bench.service.rerun_job(old["id"], None)
            assert made["id"] == old["requests"][-1] + 1
            assert made["requests"] == [made["id"] + 1, made["id"] + 2]
            assert (made["totalCount"], made["status"]) == (2, "dispatching")
            assert await destinations(bench, made) == [("d1", "/x"), ("d3", "/x")]
            await settle()
            assert [request.id for request, _ in bench.outlet.sent[-2:]] == made["requests"]
            assert bench.store.durable(JOBS, made["id"]) is not None
            assert (await bench.service.show_job(old["id"], {}))["counts"]["error"] == 2

    run(main)


def test_by_default_what_timed_out_is_run_again_and_what_was_canceled_is_not() -> None:
    async def main() -> None:
        async with Bench() as bench:
            old = await ended(bench, {0: 200, 1: 500}, **job("a", "b", "c", "d", requestTimeout=5, retry={"limit": 0}))
            await bench.service.cancel_request(old["requests"][2])
            await bench.later(10.0)
            assert await destinations(bench, await bench.service.rerun_job(old["id"], {})) == [("b", "/x"), ("d", "/x")]

    run(main)


@pytest.mark.parametrize(
    ("status", "wanted"),
    [("resolved", ["d0", "d2"]), (["canceled"], ["d3"]), (["canceled", "resolved"], ["d0", "d2", "d3"])],
)
def test_any_final_status_can_be_named(status: Any, wanted: list[str]) -> None:
    async def main() -> None:
        async with Bench() as bench:
            old = await ended(bench, {0: 200, 1: 500, 2: 200})
            await bench.service.update_job(old["id"], {"status": "canceled"})
            made = await bench.service.rerun_job(old["id"], {"status": status})
            assert [where for where, _ in await destinations(bench, made)] == wanted

    run(main)


def test_what_failed_so_far_can_be_run_again_while_the_job_goes_on() -> None:
    async def main() -> None:
        async with Bench() as bench:
            old = await ended(bench, {1: 500})
            assert await destinations(bench, await bench.service.rerun_job(old["id"], None)) == [("d1", "/x")]
            assert (await bench.service.show_job(old["id"], {}))["status"] == "dispatching"

    run(main)


def test_the_order_and_the_messages_with_their_own_timeouts_are_kept() -> None:
    async def main() -> None:
        async with Bench() as bench:
            batch = [
                message("/first", "a", "b", timeout=11),
                message("/second", "b", "c", "a"),
                message("/first", "b", timeout=11),
                message("/third", "c", timeout=33),
            ]
            # In this order: first a, b; second b, c, a; first b; third c.
            codes = {0: 500, 3: 200, 1: 200, 4: 500, 2: 500, 6: 500, 5: 500}
            old = await ended(bench, codes, batch=batch, requestTimeout=22)
            made = await bench.service.rerun_job(old["id"], None)
            assert await destinations(bench, made) == [
                ("a", "/first"), ("b", "/second"), ("a", "/second"), ("b", "/first"), ("c", "/third"),
            ]  # fmt: skip
            shown = await bench.service.show_job(made["id"], {})
            assert [request["__request"]["timeout"] for request in shown["requests"]] == [11, 22, 22, 11, 33]
            assert [request["data"] for request in shown["requests"][:2]] == [{"to": "/first"}, {"to": "/second"}]

            await bench.service.update_job(made["id"], {"status": "canceled"})
            few = await bench.service.rerun_job(old["id"], {"status": "resolved"})
            assert await destinations(bench, few) == [("b", "/first"), ("c", "/second")]

    run(main)


def test_a_message_that_nobody_needs_again_is_not_stored_again() -> None:
    async def main() -> None:
        async with Bench() as bench:
            only = await ended(bench, {0: 200, 1: 500}, batch=[message("/big", "a"), message("/small", "b")])
            again = await bench.service.rerun_job(only["id"], None)
            stored = bench.store.durable(MESSAGES, again["id"])
            assert stored is not None
            assert [each["resource"] for each in stored["messages"]] == ["/small"]

    run(main)


def test_each_destination_gets_its_requests_in_the_old_order() -> None:
    async def main() -> None:
        async with Bench() as bench:
            batch = [message("/1", "a", "b"), message("/2", "a"), message("/3", "a", "b")]
            old = await ended(bench, {0: 500, 2: 500, 3: 500, 1: 500, 4: 500}, batch=batch)
            made = await bench.service.rerun_job(old["id"], None)
            for request_id, where in zip(made["requests"], "abaab", strict=True):
                await settle()
                assert {request.destination for request in bench.service.out()} <= {"a", "b"}
                await bench.answer(request_id, 200, None, where)
            sent = [request for request, _ in bench.outlet.sent if request.job.id == made["id"]]
            order = [request.message.resource for request in sent if request.destination == "a"]
            assert order == ["/1", "/2", "/3"]

    run(main)


def test_nothing_to_run_again_is_a_conflict_that_says_so() -> None:
    async def main() -> None:
        async with Bench() as bench:
            old = await ended(bench, {0: 200})
            error = await refused(bench.service.rerun_job(old["id"], None), Conflict)
            assert str(error) == f"job {old['id']} has no request that is error or timeout"
            error = await refused(bench.service.rerun_job(old["id"], {"status": "canceled", "dryRun": True}), Conflict)
            assert str(error) == f"job {old['id']} has no request that is canceled"
            assert len(bench.engine.jobs) == 1

    run(main)


# What is taken over


def test_name_labels_and_limits_are_taken_over_but_not_the_key_and_the_start_time() -> None:
    async def main() -> None:
        async with Bench() as bench:
            document = job("a", "b", name="n", labels=["l"], key="k", startAt="1970-01-01T00:16:41Z", **LIMITS)
            old = await bench.service.create_job(document)
            await bench.later(2.0)
            await bench.answer(old["requests"][0], 500)
            made = await bench.service.rerun_job(old["id"], None)
            for field in ("name", "labels", "timeout", "concurrency", "priority", "retry", "rate", "abort"):
                assert made[field] == old[field], field
            assert (made["startAt"], made["status"]) == (None, "dispatching")
            assert bench.engine.jobs[made["id"]].key is None

    run(main)


def test_limits_that_were_changed_while_the_job_ran_are_taken_over_as_they_are_now() -> None:
    async def main() -> None:
        async with Bench() as bench:
            old = await ended(bench, {0: 500})
            await bench.service.update_job(old["id"], {"concurrency": 3})
            assert (await bench.service.rerun_job(old["id"], None))["concurrency"] == 3

    run(main)


def test_what_the_caller_names_takes_the_place_of_what_the_job_had() -> None:
    async def main() -> None:
        async with Bench() as bench:
            old = await ended(bench, {0: 500}, **job("a", "b", name="n", labels=["l"], **LIMITS))
            given = {
                "name": "again", "labels": ["x", "y"], "priority": 5, "rate": None, "timeout": None, "key": "k",
                "startAt": "1970-01-01T01:00:00Z",
            }  # fmt: skip
            made = await bench.service.rerun_job(old["id"], given)
            assert (made["name"], made["labels"], made["priority"]) == ("again", ["x", "y"], 5)
            assert (made["rate"], made["timeout"], made["concurrency"]) == (None, None, 7)
            assert (made["status"], made["startAt"]) == ("pending", "1970-01-01T01:00:00.000Z")
            assert bench.engine.jobs[made["id"]].key == "k"

    run(main)


# The key


def test_the_same_key_gives_the_same_job_even_if_more_has_failed_since() -> None:
    async def main() -> None:
        async with Bench() as bench:
            old = await ended(bench, {0: 500})
            made = await bench.service.rerun_job(old["id"], {"key": "k"})
            await bench.answer(old["requests"][1], 500, None, "d1")
            again = await bench.service.rerun_job(old["id"], {"key": "k"})
            assert (again["id"], again["requests"]) == (made["id"], made["requests"])
            assert len(bench.engine.jobs) == 2

    run(main)


def test_the_key_of_another_call_is_a_conflict() -> None:
    async def main() -> None:
        async with Bench() as bench:
            old = await ended(bench, {0: 500, 1: 200}, **job("d0", "d1", "d2", key="new"))
            other = await ended(bench, {0: 500})
            await bench.service.rerun_job(old["id"], {"key": "k"})
            rerun = bench.service.rerun_job
            await refused(rerun(old["id"], {"key": "new"}), KeyConflict)
            await refused(rerun(other["id"], {"key": "k"}), KeyConflict)
            await refused(rerun(old["id"], {"key": "k", "status": "resolved"}), KeyConflict)
            await refused(rerun(old["id"], {"key": "k", "priority": 1}), KeyConflict)
            await refused(rerun(old["id"], {"key": "k", "priority": 1, "dryRun": True}), KeyConflict)
            await refused(bench.service.create_job(job(key="k")), KeyConflict)
            assert len(bench.engine.jobs) == 3

    run(main)


# Refusals


@pytest.mark.parametrize(
    ("document", "path"),
    [
        ({"status": "created"}, "status"), ({"status": []}, "status"), ({"destinations": ["a"]}, "destinations"),
        ({"priority": 101}, "priority"), ([], ""), ("error", ""),
    ],
)  # fmt: skip
def test_a_bad_body_is_refused_with_the_path_to_its_fault(document: Any, path: str) -> None:
    async def main() -> None:
        async with Bench() as bench:
            old = await ended(bench, {0: 500})
            error = await refused(bench.service.rerun_job(old["id"], document), InvalidDocument)
            assert error.faults[0].path.split(".")[0] == path
            assert len(bench.engine.jobs) == 1

    run(main)


def test_an_unknown_job_is_not_found_nor_is_one_that_is_removed_while_it_is_read() -> None:
    async def main() -> None:
        async with Bench() as bench:
            await refused(bench.service.rerun_job(5, None), JobNotFound)
            old = await bench.service.create_job(job(*(f"d{n}" for n in range(5_000))))
            await bench.service.update_job(old["id"], {"status": "canceled"})
            running = asyncio.create_task(bench.service.rerun_job(old["id"], {"status": "canceled"}))
            await asyncio.sleep(0)
            await bench.service.remove_job(old["id"])
            await refused(running, JobNotFound)
            assert bench.engine.jobs == {}

    run(main)


def test_while_the_store_can_not_write_nothing_is_run_again() -> None:
    async def main() -> None:
        async with Bench() as bench:
            old = await ended(bench, {0: 500})
            bench.store.failing = "disk full"
            await refused(bench.service.rerun_job(old["id"], None), StoreUnavailable)
            await refused(bench.service.rerun_job(old["id"], None), StoreUnavailable)
            assert list(bench.engine.jobs) == [old["id"]]

    run(main)


def test_a_job_whose_new_labels_would_make_its_answer_too_long_for_the_bus_is_not_run_again() -> None:
    async def main() -> None:
        async with Bench() as bench:
            old = await bench.service.create_job(job(*(f"d{n}" for n in range(129_000))))
            await bench.service.update_job(old["id"], {"status": "canceled"})
            given = {"status": "canceled", "labels": [f"{n}" + "😀" * 120 for n in range(64)]}
            assert old["totalCount"] * 8 < MAX_BUS_BYTES
            for dry in (False, True):
                await refused(bench.service.rerun_job(old["id"], {**given, "dryRun": dry}), TooLarge)
            assert list(bench.engine.jobs) == [old["id"]]

    run(main)


# Trying it out


def test_a_dry_run_tells_how_much_it_would_be_and_makes_nothing() -> None:
    async def main() -> None:
        async with Bench() as bench:
            batch = [message("/1", "a", "b"), message("/2", "a"), message("/3", "b")]
            old = await ended(bench, {0: 500, 1: 500, 2: 500, 3: 200}, batch=batch)
            next_id, stored = bench.engine.next_id, bench.store.count(REQUESTS)
            bench.log.clear()
            assert await bench.service.rerun_job(old["id"], {"dryRun": True, "key": "k"}) == {
                "dryRun": True, "totalCount": 3, "destinationCount": 2, "messageCount": 2,
                "destinations": ["a", "b"], "offlineCount": 0, "offline": [],
            }  # fmt: skip
            await settle()
            assert (bench.engine.next_id, bench.store.count(REQUESTS), bench.log) == (next_id, stored, [])
            made = await bench.service.rerun_job(old["id"], {"key": "k"})
            assert made["id"] == next_id

    run(main)


def test_the_loop_gets_its_turns_while_a_large_job_is_read() -> None:
    async def main() -> None:
        async with Bench() as bench:
            old = await bench.service.create_job(job(*(f"d{n}" for n in range(20_000))))
            await bench.service.update_job(old["id"], {"status": "canceled"})
            running = asyncio.create_task(
                bench.service.rerun_job(old["id"], {"status": "canceled", "dryRun": True})
            )
            turns = 0
            while not running.done():
                await asyncio.sleep(0)
                turns += 1
            assert (await running)["totalCount"] == 20_000
            assert turns >= 20

    run(main)
