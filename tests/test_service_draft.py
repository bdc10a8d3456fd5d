"""Large jobs: made, and ended, a slice at a time, and there as a whole or not at all."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Iterable
from typing import Any

import pytest

from puppetmaster.documents import JOBS, REQUESTS
from puppetmaster.errors import KeyConflict, StoreUnavailable
from puppetmaster.models import FIRST_ID, Request
from puppetmaster.service import SLICE
from puppetmaster.times import to_text
from puppetmaster.views import View
from tests.test_service import Bench, job, refused, run, settle, until
from tests.test_service_devices import Fleet

SLICES = 20


def large(**more: Any) -> dict[str, Any]:
    return job(*(f"device-{number}" for number in range(SLICES * SLICE)), **more)


def puts(bench: Bench) -> list[int]:
    """How many documents of requests each put held."""
    return [len(entry) - 2 for entry in bench.of("put") if entry[1] == REQUESTS]


async def begun(bench: Bench, body: dict[str, Any]) -> asyncio.Task[Any]:
    """A POST of a large job that is in the midst of being made."""
    posting = asyncio.create_task(bench.service.create_job(body))
    for _ in range(1_000_000):  # its body is read in a thread, which needs its time
        if len(puts(bench)) > 1:
            return posting
        await asyncio.sleep(0)
    raise AssertionError("it was never begun")


def stored(bench: Bench, ids: Iterable[int]) -> int:
    """How many of the requests a restart would find."""
    found = bench.store.reopen()
    return sum(found.get(REQUESTS, ident) is not None for ident in ids)


def test_a_large_job_is_put_into_the_store_in_slices_and_the_same_as_a_small_one() -> None:
    async def main() -> None:
        async with Bench() as bench:
            made = await bench.service.create_job(large())
            assert puts(bench)[:SLICES] == [SLICE] * SLICES
            assert made["requests"] == list(range(made["id"] + 1, made["id"] + 1 + SLICES * SLICE))
            assert sum(made["counts"].values()) == SLICES * SLICE
            await settle()
            sent = [request.destination for request, _ in bench.outlet.sent]
            assert sent == [f"device-{number}" for number in range(len(sent))]
            assert len(sent) == bench.engine.window_size

    run(main)


def test_a_destination_gets_its_requests_in_order_across_slices() -> None:
    async def main() -> None:
        async with Bench() as bench:
            made = await bench.service.create_job(job(*["a", "b"] * SLICE))
            await settle()
            assert [request.id for request, _ in bench.outlet.sent] == made["requests"][:2]
            await bench.answer(made["requests"][0])
            await settle()
            assert bench.outlet.sent[-1][0].id == made["requests"][2]

    run(main)


def test_a_small_job_is_made_and_sent_while_a_large_one_is_being_made() -> None:
    async def main() -> None:
        async with Bench() as bench:
            posting = await begun(bench, large())
            small = await bench.service.create_job(job("elsewhere"))
            assert not posting.done()
            assert list(bench.engine.jobs) == [small["id"]]
            assert small["id"] > FIRST_ID + SLICES * SLICE
            made = await posting
            await settle()
            assert bench.outlet.sent[0][0].id == small["requests"][0]
            # Ids belong to the right one of the two, also where they are looked up by it.
            for ended in (small, made):
                await bench.service.update_job(ended["id"], {"status": "canceled"})
                await bench.answer(ended["requests"][-1])
            assert bench.service.dropped == {"late": 2}

    run(main)


def test_a_kill_while_a_large_job_is_being_made_leaves_nothing_of_it() -> None:
    async def main() -> None:
        async with Bench() as bench:
            posting = await begun(bench, large())
            await bench.service.create_job(job("elsewhere"))  # its commit takes along what is there of the large one
            ids = range(FIRST_ID + 1, FIRST_ID + 1 + SLICES * SLICE)
            assert stored(bench, ids) > 0
            assert bench.store.durable(JOBS, FIRST_ID) is None
            async with Bench(bench.store.reopen()) as again:
                assert stored(again, ids) == 0
                assert again.store.count(REQUESTS) == 1
            await posting

    run(main)


def test_two_posts_of_one_large_job_with_a_key_make_one() -> None:
    async def main() -> None:
        async with Bench() as bench:
            first, second = await asyncio.gather(
                bench.service.create_job(large(key="k")), bench.service.create_job(large(key="k"))
            )
            assert first["id"] == second["id"]
            assert bench.store.count(REQUESTS) == SLICES * SLICE

    run(main)


@pytest.mark.parametrize("same", [True, False])
def test_a_key_that_another_job_took_meanwhile_leaves_nothing_of_the_large_one(same: bool) -> None:
    async def main() -> None:
        async with Bench() as bench:
            posting = await begun(bench, large(key="k"))
            body = large(key="k") if same else job("elsewhere", key="k")
            made, _ = bench.engine.submit(bench.reader.job(body), bench.now)
            if same:
                assert (await posting)["id"] == made.id
            else:
                await refused(posting, KeyConflict)
            await until(lambda: bench.store.count(REQUESTS) == made.total_count)

    run(main)


def test_a_store_that_fails_while_a_large_job_is_being_made_leaves_nothing_of_it() -> None:
    async def main() -> None:
        async with Bench() as bench:
            posting = await begun(bench, large())
            bench.store.failing = "disk full"
            await refused(bench.service.create_job(job("elsewhere")), StoreUnavailable)
            await refused(posting, StoreUnavailable)
            await settle()
            bench.store.failing = None
            await settle()
            assert bench.engine.jobs == {}
            assert bench.store.count(REQUESTS) == 0

    run(main)


async def half_canceled(bench: Bench) -> tuple[View, asyncio.Task[View]]:
    """A large job whose end is on its way to the store: two slices of it are there."""
    made = await bench.service.create_job(large())
    await settle()
    bench.log.clear()
    canceling = asyncio.create_task(bench.service.update_job(made["id"], {"status": "canceled"}))
    await until(lambda: len(puts(bench)) == 2)
    return made, canceling


def test_a_large_job_that_is_canceled_goes_to_the_store_in_slices_and_in_one_commit() -> None:
    async def main() -> None:
        async with Bench() as bench:
            _, canceling = await half_canceled(bench)
            assert puts(bench) == [SLICE, SLICE]
            assert bench.of("commit") == []
            await canceling
            kinds = [entry[:2] for entry in bench.log]
            assert kinds.index(("put", JOBS)) < kinds.index(("commit",))
            assert sum(puts(bench)) == SLICES * SLICE
            assert len(bench.of("commit")) == 1

    run(main)


def test_whoever_reads_while_a_large_job_goes_to_the_store_sees_all_of_it() -> None:
    async def main() -> None:
        async with Bench() as bench:
            made, canceling = await half_canceled(bench)
            small = asyncio.create_task(bench.service.create_job(job("elsewhere")))
            shown = await bench.service.show_job(made["id"], {"status": "created"})
            assert (shown["status"], shown["requests"]) == ("canceled", [])
            _, made_meanwhile = await asyncio.gather(canceling, small)
            for ident, status in ((made["id"], "canceled"), (made_meanwhile["id"], "dispatching")):
                document = bench.store.durable(JOBS, ident)
                assert document is not None
                assert document["status"] == status

    run(main)


def test_a_result_is_kept_by_the_store_alone() -> None:
    async def main() -> None:
        async with Bench() as bench:
            made = await bench.service.create_job(job("a", "b"))
            await settle()
            await bench.answer(made["requests"][0], data={"long": "x" * 1000})
            assert bench.engine.requests[made["requests"][0]].result is None
            async with Bench(bench.store.reopen()) as again:
                assert again.engine.requests[made["requests"][0]].result is None
                await again.answer(made["requests"][1], destination="b")
                shown = await again.service.show_request(made["requests"][0])
                assert shown["__request"]["result"] == {"long": "x" * 1000}

    run(main)


def test_an_answer_that_comes_while_its_request_is_about_to_be_put_is_put_with_it_twice() -> None:
    async def main() -> None:
        async with Bench() as bench:
            many = await bench.service.create_job(large())
            await bench.service.update_job(many["id"], {"status": "paused"})
            one = await bench.service.create_job(job("a"))
            await settle()
            bench.log.clear()
            bench.store.open.clear()  # so that all that follows is put together
            work: list[asyncio.Task[Any]] = [asyncio.create_task(bench.service.create_job(job("elsewhere")))]
            await settle()
            work.append(asyncio.create_task(bench.service.update_job(many["id"], {"status": "canceled"})))
            await settle()
            work.append(bench.answer(one["requests"][0], 102, {"progress": 10}))
            await settle()
            bench.store.open.set()
            await until(lambda: puts(bench).count(SLICE) == 2)
            work.append(bench.answer(one["requests"][0], data={"precious": 1}))
            await asyncio.gather(*work)
            held = [one["requests"][0] in entry[2:] for entry in bench.of("put") if entry[1] == REQUESTS]
            assert held.count(True) == 2
            shown = await bench.service.show_request(one["requests"][0])
            assert shown["__request"]["result"] == {"precious": 1}
            request = bench.store.durable(REQUESTS, one["requests"][0])
            assert request is not None
            assert request["result"] == {"precious": 1}

    run(main)


def test_a_job_that_took_its_time_to_be_made_is_not_missed_by_who_asks_for_what_came_since_another() -> None:
    async def main() -> None:
        async with Bench() as bench:
            posting = await begun(bench, large())
            bench.now += 1.0
            small = await bench.service.create_job(job("elsewhere"))
            bench.now += 1.0
            made = await posting
            assert small["createdAt"] < made["createdAt"]
            found = await bench.service.list_jobs({"since": small["createdAt"]})
            assert [view["id"] for view in found] == [made["id"], small["id"]]

    run(main)


def test_targets_are_looked_up_when_the_start_time_comes_before_the_turn_to_be_made() -> None:
    async def main() -> None:
        async with Bench(directory=Fleet("found")) as bench:
            body = {**large(startAt=to_text(bench.now + 5.0)), "targets": {"labels": {"id": ["found"]}}}
            async with bench.service._drafting:  # as while another large one is made
                posting = asyncio.create_task(bench.service.create_job(body))
                await until(lambda: bool(bench.service._drafting._waiters))
                bench.now += 10.0
            made = await posting
            shown = await bench.service.show_job(made["id"], {"destination": "found", "collection": "false"})
            assert (shown["totalCount"], len(shown["requests"])) == (SLICES * SLICE + 1, 1)

    run(main)


def test_a_large_job_that_nobody_wants_any_more_is_let_go_of_without_the_collector() -> None:
    async def main() -> None:
        async with Bench() as bench:
            posting = await begun(bench, large())
            gc.collect()
            gc.disable()
            try:
                posting.cancel()
                await asyncio.wait([posting])
                del posting
                await settle()
                assert not any(isinstance(held, Request) for held in gc.get_objects())
            finally:
                gc.enable()

    run(main)


def test_the_word_of_the_broker_on_an_earlier_attempt_does_not_hide_that_on_the_newest() -> None:
    async def main() -> None:
        async with Bench() as bench:
            made = await bench.service.create_job(job("a", retry={"limit": 1, "delay": 1, "on": [500]}))
            await settle()
            await bench.answer(made["requests"][0], 500)
            await bench.later(2.0)
            (request, first), (_, second) = bench.outlet.sent
            bench.service.accepted(request, second)
            bench.service.accepted(request, first)
            shown = await bench.service.show_request(made["requests"][0])
            assert (shown["__request"]["attempt"], shown["__request"]["status"]) == (2, "sent")

    run(main)


def test_what_ends_with_an_aborted_job_tells_whether_the_broker_had_it() -> None:
    async def main() -> None:
        async with Bench() as bench:
            made = await bench.service.create_job(job("a", "b", abort={"errorPercent": 1}))
            await settle()
            bench.accept_all()
            await bench.answer(made["requests"][0], 500)
            shown = await bench.service.show_request(made["requests"][1])
            assert shown["__request"]["status"] == "canceled"
            assert shown["__request"]["sentAt"] == made["createdAt"]

    run(main)


def test_what_ends_with_the_time_of_its_job_tells_whether_the_broker_had_it() -> None:
    async def main() -> None:
        async with Bench() as bench:
            made = await bench.service.create_job(job("a", timeout=5))
            await settle()
            bench.accept_all()
            bench.now += 10.0
            bench.service.link(True)
            await until(lambda: bench.service.is_final(made["requests"][0]))
            shown = await bench.service.show_request(made["requests"][0])
            assert shown["__request"]["status"] == "timeout"
            assert shown["__request"]["sentAt"] == made["createdAt"]

    run(main)
