"""The service on a store in memory: save, publish, tell, in this order, and nothing said that is not on disk.

The loop has a clock that jumps to the next timer, so that waiting takes no time.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping
from typing import Any

import orjson
import pytest

from puppetmaster import views
from puppetmaster.documents import JOBS, MESSAGES, META, META_ID, REQUESTS
from puppetmaster.effects import Change
from puppetmaster.engine import Engine
from puppetmaster.errors import (
    Conflict,
    IllegalTransition,
    InvalidDocument,
    JobNotFound,
    KeyConflict,
    RequestNotFound,
    StoreUnavailable,
    TooLarge,
)
from puppetmaster.job_document import JobReader
from puppetmaster.models import FIRST_ID, Request
from puppetmaster.paging import MAX_PAGE_BYTES
from puppetmaster.policies import Retention
from puppetmaster.service import STORE_RETRY, Service
from puppetmaster.store import MemoryStore
from puppetmaster.store.port import Document
from puppetmaster.wire import MAX_BUS_BYTES, MAX_DATA_BYTES, Answer
from tests.fast_loop import run as run_fast


class Disk(MemoryStore):
    """A store that notes what it does, and whose commits can be held up."""

    def __init__(self, log: list[Any], inner: MemoryStore | None = None) -> None:
        super().__init__({name: dict(rows) for name, rows in inner._durable.items()} if inner else None)
        self.log = log
        self.open = asyncio.Event()
        self.open.set()
        self.fail_once = False

    def put(self, table: str, documents: Mapping[int, Document]) -> None:
        if documents and table != META:
            self.log.append(("put", table, *documents))
        super().put(table, documents)

    def remove(self, table: str, ids: Iterable[int]) -> None:
        ids = list(ids)
        self.log.append(("remove", table, *ids))
        super().remove(table, ids)

    async def commit(self) -> None:
        await self.open.wait()
        if self.fail_once:
            self.fail_once = False
            raise StoreUnavailable("a hiccup")
        await super().commit()
        self.log.append(("commit",))

    def durable(self, table: str, doc_id: int) -> Document | None:
        """What a restart would find."""
        return self.reopen().get(table, doc_id)


class Outlet:
    """Notes what goes out; a broker that acknowledges at once, and devices that answer when told to."""

    def __init__(self, log: list[Any]) -> None:
        self.log = log
        self.sent: list[tuple[Request, int]] = []

    def send(self, request: Request, attempt: int) -> None:
        self.log.append(("send", request.id))
        self.sent.append((request, attempt))

    def abort(self, request: Request) -> None:
        self.log.append(("abort", request.id))

    def tell(self, change: Change, job_id: int, document: Document | None) -> None:
        self.log.append(("tell", change.value, job_id, document and document["status"]))

    def retain(self, job_id: int, document: Document) -> None:
        self.log.append(("retain", job_id, document["status"]))


class Bench:
    """A service with all around it."""

    def __init__(self, store: MemoryStore | None = None, **options: Any) -> None:
        self.log: list[Any] = []
        self.now = 1_000.0
        self.store = Disk(self.log, store)
        self.outlet = Outlet(self.log)
        self.engine = Engine(**options)
        self.reader = JobReader(max_requests=200_000)
        self.service = Service(
            store=self.store, engine=self.engine, reader=self.reader, outlet=self.outlet, now=lambda: self.now
        )

    async def __aenter__(self) -> Bench:
        self.service.load("me")
        self.service.start()
        self.service.link(True)
        await settle()
        return self

    async def __aexit__(self, *exception: object) -> None:
        self.store.open.set()
        self.store.failing = None
        if self.service.cycle is not None and not self.service.cycle.done():
            await self.service.close()

    async def later(self, seconds: float) -> None:
        """Let time pass on our clock, and the service look at it."""
        self.now += seconds
        self.service.link(True)
        await settle()

    def answer(self, request_id: int, code: int = 200, data: Any = None, destination: str = "a") -> asyncio.Task[None]:
        """A device answers; the task is done when that may be acknowledged to the broker."""
        return asyncio.create_task(self.service.answer(Answer(destination, request_id, code, data)))

    def accept_all(self) -> None:
        for request, attempt in self.outlet.sent:
            self.service.accepted(request, attempt)

    def of(self, kind: str) -> list[Any]:
        return [entry for entry in self.log if entry[0] == kind]


async def settle() -> None:
    """Let the loop do all that it can, the next attempt of a store that could not write among it."""
    await asyncio.sleep(2 * STORE_RETRY)


async def until(check: Callable[[], bool]) -> None:
    for _ in range(10_000):
        if check():
            return
        await asyncio.sleep(0)
    raise AssertionError("it did not come to that")


def run(main: Callable[[], Coroutine[Any, Any, None]]) -> None:
    run_fast(main())


async def refused(work: Awaitable[object], error: type[Exception]) -> Any:
    with pytest.raises(error) as caught:
        await work
    return caught.value


def job(*destinations: str, **more: Any) -> dict[str, Any]:
    return {"destinations": list(destinations or ("a",)), "message": {"method": "get", "resource": "/x"}, **more}


# The order of things


def test_a_job_is_saved_then_published_then_told() -> None:
    async def main() -> None:
        async with Bench() as bench:
            bench.log.clear()
            made = await bench.service.create_job(job("a", "b"))
            await settle()
            kinds = [entry[0] for entry in bench.log]
            assert kinds.index("commit") > max(i for i, kind in enumerate(kinds) if kind == "put")
            assert kinds.index("commit") < kinds.index("send") < kinds.index("tell")
            assert bench.of("send") == [("send", made["id"] + 1), ("send", made["id"] + 2)]
            assert bench.of("tell") == [("tell", "post", made["id"], "dispatching")]

    run(main)


def test_a_post_is_answered_when_the_job_is_on_disk_and_nothing_is_sent_before() -> None:
    async def main() -> None:
        async with Bench() as bench:
            bench.store.open.clear()
            posting = asyncio.create_task(bench.service.create_job(job()))
            await settle()
            assert not posting.done()
            assert (bench.of("send"), bench.of("tell")) == ([], [])
            bench.store.open.set()
            made = await posting
            assert bench.store.durable(JOBS, made["id"]) is not None
            assert bench.store.durable(MESSAGES, made["id"]) is not None
            assert bench.store.durable(REQUESTS, made["id"] + 1) is not None

    run(main)


def test_a_job_is_answered_with_its_counters_and_the_ids_of_its_requests() -> None:
    async def main() -> None:
        async with Bench() as bench:
            made = await bench.service.create_job(job("a", "b", name="n", labels=["l"]))
            assert made["requests"] == [made["id"] + 1, made["id"] + 2]
            assert (made["id"], made["status"]) == (FIRST_ID, "dispatching")
            assert (made["totalCount"], made["doneCount"]) == (2, 0)
            assert (made["name"], made["labels"], made["progress"]) == ("n", ["l"], 0)
            assert made["createdAt"] == "1970-01-01T00:16:40.000Z"
            assert sum(made["counts"].values()) == 2

    run(main)


def test_an_answer_may_be_acknowledged_when_it_is_on_disk_and_not_before() -> None:
    async def main() -> None:
        async with Bench() as bench:
            made = await bench.service.create_job(job())
            request_id = made["requests"][0]
            await settle()
            bench.store.open.clear()
            answering = bench.answer(request_id, 200, {"done": True})
            await settle()
            assert not answering.done()
            bench.store.open.set()
            await answering
            stored = bench.store.durable(REQUESTS, request_id)
            assert stored is not None
            assert (stored["status"], stored["result"]) == ("resolved", {"done": True})

    run(main)


def test_an_answer_that_comes_again_before_the_first_is_on_disk_is_not_acknowledged_either() -> None:
    # The broker delivers it again after a broken connection. Acknowledged, and the bundle killed, it would be lost.
    async def main() -> None:
        async with Bench() as bench:
            made = await bench.service.create_job(job("a", "b"))
            await settle()
            bench.store.open.clear()
            first = bench.answer(made["requests"][0])
            await settle()
            second = bench.answer(made["requests"][0])
            await settle()
            assert not first.done()
            assert not second.done()
            bench.store.open.set()
            await asyncio.gather(first, second)
            assert bench.service.dropped["duplicate"] == 1

    run(main)


def test_an_answer_that_comes_again_while_the_store_can_not_write_is_not_acknowledged_either() -> None:
    async def main() -> None:
        async with Bench() as bench:
            made = await bench.service.create_job(job("a"))
            await settle()
            bench.store.failing = "disk full"
            first = bench.answer(made["requests"][0])
            await settle()
            second = bench.answer(made["requests"][0])
            await settle()
            assert not first.done()
            assert not second.done()
            bench.store.failing = None
            await asyncio.gather(first, second)

    run(main)


def test_answers_that_change_nothing_are_counted_by_their_reason_and_acknowledged_at_once() -> None:
    async def main() -> None:
        async with Bench() as bench:
            made = await bench.service.create_job(job("a", "b"))
            await bench.answer(made["requests"][0])
            await settle()
            bench.log.clear()
            await bench.answer(made["requests"][0])
            await bench.answer(made["requests"][1], destination="a")
            await bench.answer(5)
            assert bench.service.dropped == {"duplicate": 1, "foreign": 1, "unknown": 1}
            await settle()
            assert bench.of("put") == []
            assert bench.of("tell") == []

    run(main)


def test_a_whole_job_goes_through() -> None:
    async def main() -> None:
        async with Bench() as bench:
            made = await bench.service.create_job(job("a", "b", "c"))
            await until(lambda: len(bench.outlet.sent) == 3)
            bench.accept_all()
            for request, _ in list(bench.outlet.sent):
                await bench.answer(request.id, destination=request.destination)
            shown = await bench.service.show_job(made["id"], {})
            assert (shown["status"], shown["progress"], shown["finishCount"]) == ("resolved", 100, 3)
            assert [request["__request"]["status"] for request in shown["requests"]] == ["resolved"] * 3
            await settle()
            assert bench.of("tell")[-1] == ("tell", "put", made["id"], "resolved")

    run(main)


def test_a_request_that_has_ended_before_its_turn_to_be_published_is_not_published() -> None:
    async def main() -> None:
        async with Bench() as bench:
            bench.store.open.clear()
            posting = asyncio.create_task(bench.service.create_job(job()))
            await settle()
            canceling = asyncio.create_task(bench.service.update_job(FIRST_ID, {"status": "canceled"}))
            await settle()
            bench.store.open.set()
            await posting
            await canceling
            await settle()
            assert bench.of("send") == []

    run(main)


def test_listeners_are_told_what_the_outlet_is_told_after_it_and_one_that_fails_harms_nobody() -> None:
    async def main() -> None:
        async with Bench() as bench:
            heard: list[Any] = []

            def fail(change: Change, job_id: int, document: Document | None) -> None:
                raise RuntimeError("the listener's own")

            def hear(change: Change, job_id: int, document: Document | None) -> None:
                assert bench.log[-1] == ("tell", change.value, job_id, document and document["status"])
                heard.append(bench.log[-1])

            bench.service.listen(fail)
            bench.service.listen(hear)
            made = await bench.service.create_job(job())
            await settle()
            await bench.answer(made["requests"][0])
            await bench.service.remove_job(made["id"])
            await settle()
            assert heard == bench.of("tell")
            assert [change for _, change, _, _ in heard] == ["post", "put", "delete"]
            assert bench.service.cycle is not None
            assert not bench.service.cycle.done()

    run(main)


def test_listeners_are_told_at_the_start_of_what_the_outlet_is_told_then() -> None:
    async def main() -> None:
        async with Bench() as before:
            done = await before.service.create_job(job("a"))
            await settle()
            await before.answer(done["requests"][0])
            await before.service.create_job(job("b"))
            await settle()
            killed = before.store.reopen()
        await before.store.close()
        for store, told in ((killed, 2), (before.store.reopen(), 1)):
            after = Bench(store)
            heard: list[tuple[Change, int]] = []
            after.service.listen(lambda change, job_id, _, heard=heard: heard.append((change, job_id)))
            async with after:
                assert heard == [(Change(change), job_id) for _, change, job_id, _ in after.of("tell")]
                assert len(heard) == told

    run(main)


def test_what_is_told_was_on_disk_in_that_state() -> None:
    async def main() -> None:
        async with Bench() as bench:
            seen = []
            tell = bench.outlet.tell

            def look(change: Change, job_id: int, document: Document | None) -> None:
                durable = bench.store.durable(JOBS, job_id)
                if document is not None:
                    assert durable is not None
                    assert sum(durable["counts"].values()) == durable["totalCount"]
                    done, told = (sum(d["counts"][s] for s in ("resolved", "error")) for d in (durable, document))
                    assert done >= told
                seen.append(change)
                tell(change, job_id, document)

            bench.outlet.tell = look  # type: ignore[method-assign]
            made = await bench.service.create_job(job("a", "b"))
            for number, destination in enumerate("ab"):
                await bench.answer(made["requests"][number], destination=destination)
            await bench.service.remove_job(made["id"])
            await settle()
            assert seen[0] is Change.CREATED
            assert seen[-1] is Change.REMOVED

    run(main)


# A store that can't write


def test_a_job_that_could_not_be_saved_is_refused_and_does_not_exist() -> None:
    async def main() -> None:
        async with Bench() as bench:
            bench.store.failing = "disk full"
            error = await refused(bench.service.create_job(job(key="k")), StoreUnavailable)
            assert error.code == 503
            assert "disk full" in str(error)
            assert await bench.service.list_jobs({}) == []
            assert (bench.engine.jobs, bench.engine.requests, bench.engine.out_count) == ({}, {}, 0)
            await refused(bench.service.show_job(FIRST_ID, {}), JobNotFound)
            bench.store.failing = None
            await settle()
            assert bench.of("send") == []
            assert bench.store.reopen().count(JOBS) == 0
            assert (await bench.service.create_job(job(key="k")))["id"] > FIRST_ID

    run(main)


def test_nobody_is_told_of_a_job_that_was_refused() -> None:
    async def main() -> None:
        async with Bench() as bench:
            bench.store.failing = "disk full"
            await refused(bench.service.create_job(job()), StoreUnavailable)
            bench.store.failing = None
            await settle()
            assert ("tell", "post", FIRST_ID, "dispatching") not in bench.log

    run(main)


def test_while_the_store_can_not_write_new_jobs_are_refused_at_once_and_reads_go_on() -> None:
    async def main() -> None:
        async with Bench() as bench:
            made = await bench.service.create_job(job())
            bench.store.failing = "disk full"
            await refused(bench.service.create_job(job()), StoreUnavailable)
            next_id = bench.engine.next_id
            await refused(bench.service.create_job(job()), StoreUnavailable)
            single = {"message": {"method": "get", "resource": "/"}}
            await refused(bench.service.create_request(single), StoreUnavailable)
            assert bench.engine.next_id == next_id
            assert (await bench.service.show_job(made["id"], {}))["id"] == made["id"]
            assert len(await bench.service.list_jobs({})) == 1
            assert len(await bench.service.list_requests({})) == 1
            assert bench.service.unavailable == "disk full"

    run(main)


def test_while_the_store_can_not_write_nothing_is_published_and_all_of_it_is_when_it_can() -> None:
    async def main() -> None:
        async with Bench(window=1) as bench:
            made = await bench.service.create_job(job("a", "b"))
            await until(lambda: len(bench.outlet.sent) == 1)
            bench.store.failing = "disk full"
            answering = bench.answer(made["requests"][0])
            await settle()
            assert len(bench.outlet.sent) == 1
            assert not answering.done()
            bench.log.clear()
            bench.store.failing = None
            await answering
            await until(lambda: len(bench.outlet.sent) == 2)
            kinds = [entry[0] for entry in bench.log]
            assert kinds.index("commit") < kinds.index("send")
            assert bench.service.unavailable == ""
            await bench.answer(made["requests"][1], destination="b")
            assert (await bench.service.show_job(made["id"], {}))["status"] == "resolved"

    run(main)


def test_the_change_that_meets_the_failure_is_saved_later_and_says_so() -> None:
    async def main() -> None:
        async with Bench() as bench:
            made = await bench.service.create_job(job())
            bench.store.failing = "disk full"
            error = await refused(bench.service.update_job(made["id"], {"status": "paused"}), StoreUnavailable)
            assert str(error) == (
                "the store can't write: disk full; this change is made, and saved as soon as it can"
            )
            bench.store.failing = None
            await settle()
            stored = bench.store.durable(JOBS, made["id"])
            assert stored is not None
            assert stored["status"] == "paused"

    run(main)


def test_while_the_store_can_not_write_no_change_is_begun() -> None:
    async def main() -> None:
        async with Bench() as bench:
            made = await bench.service.create_job(job("a", "b"))
            ended = await bench.service.create_job(job("c"))
            await bench.service.cancel_request(ended["requests"][0])
            bench.store.failing = "disk full"
            await refused(bench.service.create_job(job()), StoreUnavailable)
            for change in (
                bench.service.update_job(made["id"], {"status": "paused"}),
                bench.service.remove_job(made["id"]),
                bench.service.cancel_request(made["requests"][0]),
                bench.service.rerun_job(ended["id"], {"status": ["canceled"]}),
            ):
                error = await refused(change, StoreUnavailable)
                assert str(error) == "the store can't write: disk full"
            await refused(bench.service.remove_job(FIRST_ID + 999), JobNotFound)
            bench.store.failing = None
            await asyncio.sleep(2 * STORE_RETRY)
            assert bench.service.unavailable == ""
            assert len(await bench.service.list_jobs({})) == 2
            shown = await bench.service.show_job(made["id"], {})
            assert (shown["status"], shown["counts"]["canceled"]) == ("dispatching", 0)

    run(main)


def test_a_store_that_can_not_write_is_known_before_the_first_caller_comes() -> None:
    async def main() -> None:
        bench = Bench()
        bench.store.failing = "disk full"
        async with bench:
            assert bench.service.unavailable == "disk full"
            await refused(bench.service.create_job(job()), StoreUnavailable)
            bench.store.failing = None
            await asyncio.sleep(2 * STORE_RETRY)
            assert bench.service.unavailable == ""
            assert bench.of("tell") == []

    run(main)


def test_a_second_post_with_the_key_of_a_job_that_could_not_be_saved_is_refused_too() -> None:
    # It must not be answered with a job that is then taken away.
    async def main() -> None:
        async with Bench() as bench:
            bench.store.open.clear()
            bench.store.fail_once = True
            first = asyncio.create_task(bench.service.create_job(job(key="k")))
            await settle()
            second = asyncio.create_task(bench.service.create_job(job(key="k")))
            await settle()
            bench.store.open.set()
            await refused(first, StoreUnavailable)
            await refused(second, StoreUnavailable)
            assert bench.engine.jobs == {}
            assert (await bench.service.create_job(job(key="k")))["id"] > FIRST_ID

    run(main)


# Restarts


def test_a_job_goes_on_after_a_restart() -> None:
    async def main() -> None:
        async with Bench(window=1) as before:
            made = await before.service.create_job(job("a", "b", "c"))
            await until(lambda: len(before.outlet.sent) == 1)
            before.accept_all()
            await before.answer(made["requests"][0])
            await settle()
            killed = before.store.reopen()
        async with Bench(killed, window=1) as after:
            await settle()
            assert after.of("tell")[0] == ("tell", "put", made["id"], "dispatching")
            assert [request.id for request, _ in after.outlet.sent] == [made["requests"][1]]
            for number, destination in [(1, "b"), (2, "c")]:
                await after.answer(made["requests"][number], destination=destination)
                await settle()
            shown = await after.service.show_job(made["id"], {})
            assert (shown["status"], shown["finishCount"]) == ("resolved", 3)

    run(main)


def test_what_was_out_at_a_kill_and_not_acknowledged_by_the_broker_is_sent_again_with_its_id() -> None:
    async def main() -> None:
        async with Bench() as before:
            made = await before.service.create_job(job("a"))
            await settle()
            killed = before.store.reopen()
        async with Bench(killed) as after:
            await settle()
            assert [request.id for request, _ in after.outlet.sent] == made["requests"]

    run(main)


def test_ids_are_not_given_twice_even_when_their_job_was_removed_before_a_restart() -> None:
    async def main() -> None:
        async with Bench() as before:
            made = await before.service.create_job(job("a", "b"))
            await before.service.remove_job(made["id"])
            killed = before.store.reopen()
        async with Bench(killed) as after:
            assert (await after.service.create_job(job()))["id"] == made["requests"][-1] + 1

    run(main)


def test_the_instance_is_noted_in_the_store_and_what_else_stands_there_is_kept() -> None:
    async def main() -> None:
        store = MemoryStore()
        store.put(META, {META_ID: {"other": 5}})
        await store.commit()
        async with Bench(store) as bench:
            await bench.service.create_job(job())
            assert bench.store.durable(META, META_ID) == {
                "other": 5, "instance": "me", "nextId": FIRST_ID + 2, "stopped": False,
            }

    run(main)


def test_what_has_gathered_is_saved_at_the_end() -> None:
    async def main() -> None:
        bench = Bench()
        async with bench:
            made = await bench.service.create_job(job())
            await settle()
            bench.accept_all()
        stored = bench.store.durable(REQUESTS, made["requests"][0])
        assert stored is not None
        assert stored["status"] == "sent"

    run(main)


# Reading


def test_a_read_shows_what_was_done_just_before() -> None:
    async def main() -> None:
        async with Bench() as bench:
            made = await bench.service.create_job(job("a"))
            await settle()
            bench.answer(made["requests"][0], 500)
            await asyncio.sleep(0)
            shown = await bench.service.show_request(made["requests"][0])
            assert (shown["__request"]["status"], shown["__request"]["code"]) == ("error", 500)
            listed = await bench.service.list_jobs({"status": "resolved"})
            assert [found["errorCount"] for found in listed] == [1]

    run(main)


def test_what_a_read_shows_is_on_disk_when_it_is_answered() -> None:
    async def main() -> None:
        async with Bench() as bench:
            made = await bench.service.create_job(job("a"))
            await settle()
            bench.store.open.clear()
            bench.answer(made["requests"][0])
            await settle()
            reads = [
                asyncio.create_task(read)
                for read in (
                    bench.service.show_job(made["id"], {}),
                    bench.service.list_jobs({}),
                    bench.service.show_request(made["requests"][0]),
                    bench.service.list_requests({}),
                )
            ]
            await settle()
            assert not any(read.done() for read in reads)
            bench.store.open.set()
            await asyncio.gather(*reads)

    run(main)


def test_a_read_in_quiet_times_does_not_wait_for_the_disk() -> None:
    async def main() -> None:
        async with Bench() as bench:
            made = await bench.service.create_job(job())
            await settle()
            bench.store.open.clear()
            assert (await bench.service.show_job(made["id"], {}))["id"] == made["id"]

    run(main)


def test_jobs_are_listed_newest_first_in_pages_and_filtered() -> None:
    async def main() -> None:
        async with Bench() as bench:
            made = []
            for number in range(4):
                made.append((await bench.service.create_job(job(labels=["all", f"n{number % 2}"])))["id"])
                bench.now += 10.0
            await bench.service.update_job(made[0], {"status": "canceled"})

            async def ids(**query: Any) -> list[int]:
                return [found["id"] for found in await bench.service.list_jobs(query)]

            assert await ids() == made[::-1]
            assert await ids(limit="2", offset="1") == [made[2], made[1]]
            assert await ids(status="canceled") == [made[0]]
            assert await ids(status=["canceled", "dispatching"]) == made[::-1]
            assert await ids(label=["all", "n1"]) == [made[3], made[1]]
            assert await ids(since="1970-01-01T00:17:00Z") == [made[3], made[2]]
            assert await ids(limit="0") == []
            assert "requests" not in (await bench.service.list_jobs({}))[0]

    run(main)


@pytest.mark.parametrize(
    ("query", "path"),
    [
        ({"limit": "x"}, "limit"), ({"limit": "-1"}, "limit"), ({"limit": "10001"}, "limit"),
        ({"offset": "-1"}, "offset"), ({"status": "gone"}, "status"), ({"since": "yesterday"}, "since"),
    ],
)  # fmt: skip
def test_a_bad_query_is_refused_with_the_path_to_its_fault(query: dict[str, str], path: str) -> None:
    async def main() -> None:
        async with Bench() as bench:
            error = await refused(bench.service.list_jobs(query), InvalidDocument)
            assert [fault.path for fault in error.faults] == [path]

    run(main)


def test_a_job_is_shown_with_a_page_of_its_requests_in_the_way_that_is_asked_for() -> None:
    async def main() -> None:
        async with Bench() as bench:
            made = await bench.service.create_job(job("a", "b", "c"))
            await bench.answer(made["requests"][1], destination="b")
            show = bench.service.show_job
            ids = made["requests"]

            whole = await show(made["id"], {})
            assert [request["id"] for request in whole["requests"]] == ids
            assert whole["requests"][0]["__request"]["destination"] == "a"
            apart = await show(made["id"], {"collection": "true", "limit": "2"})
            assert apart["requests"] == ids[:2]
            assert [request["id"] for request in apart["collection"]] == ids[:2]
            alone = await show(made["id"], {"collection": "false"})
            assert alone["requests"] == ids
            assert "collection" not in alone
            part = await show(made["id"], {"collection": "false", "limit": "1", "offset": "1"})
            assert part["requests"] == ids[1:2]
            assert (await show(made["id"], {"collection": "false", "status": "resolved"}))["requests"] == [ids[1]]
            assert [r["id"] for r in (await show(made["id"], {"status": "created"}))["requests"]] == [ids[0], ids[2]]
            await refused(show(5, {}), JobNotFound)

    run(main)


def test_a_jobs_requests_are_filtered_by_destination_in_every_way_that_they_are_shown() -> None:
    async def main() -> None:
        async with Bench() as bench:
            made = await bench.service.create_job(job("north-1", "south-1", "north-2", "south-2"))
            await bench.answer(made["requests"][0], destination="north-1")
            ids = made["requests"]

            async def shown(**query: Any) -> Any:
                return (await bench.service.show_job(made["id"], query))["requests"]

            assert await shown(destination="north-*", collection="false") == [ids[0], ids[2]]
            assert await shown(destination="*-1", collection="false") == ids[:2]
            assert await shown(destination=["south-1", "*h-2"], collection="true") == ids[1:]
            assert await shown(destination="north-*", status="resolved", collection="false") == [ids[0]]
            assert await shown(destination="*", limit="2", offset="1", collection="false") == ids[1:3]
            assert await shown(destination="*", limit="0") == []
            assert [found["id"] for found in await shown(destination="north-2")] == [ids[2]]
            assert await shown(destination="nowhere") == []

    run(main)


def test_requests_are_listed_newest_first_in_pages_and_filtered() -> None:
    async def main() -> None:
        async with Bench() as bench:
            one = await bench.service.create_job(job("a", "b"))
            two = await bench.service.create_job(job("c", "a"))
            every = [*one["requests"], *two["requests"]]

            async def ids(**query: Any) -> list[int]:
                return [found["id"] for found in await bench.service.list_requests(query)]

            assert await ids() == every[::-1]
            assert await ids(limit="2", offset="1") == [every[2], every[1]]
            assert await ids(destination="a") == [every[3], every[0]]
            assert await ids(destination=["b", "c"]) == [every[2], every[1]]
            assert await ids(destination="*") == every[::-1]
            assert await ids(destination="*", limit="2", offset="1") == [every[2], every[1]]
            assert await ids(destination="*b") == [every[1]]
            assert await ids(job=str(one["id"])) == [every[1], every[0]]
            assert await ids(job="5") == []
            assert await ids(status="resolved") == []
            await refused(bench.service.show_request(5), RequestNotFound)

    run(main)


def test_a_job_that_is_removed_while_a_long_list_is_read_does_not_break_the_list() -> None:
    async def main() -> None:
        async with Bench() as bench:
            made = await bench.service.create_job(job(*(f"d{n}" for n in range(5_000))))
            reading = asyncio.create_task(bench.service.list_requests({"destination": ["d4999", "d1"]}))
            await asyncio.sleep(0)
            removing = asyncio.create_task(bench.service.remove_job(made["id"]))
            found = await reading
            await removing
            assert len(found) <= 2

    run(main)


def test_a_job_that_is_removed_while_its_requests_are_read_is_not_found() -> None:
    async def main() -> None:
        async with Bench() as bench:
            made = await bench.service.create_job(job(*(f"d{n}" for n in range(5_000))))
            reading = asyncio.create_task(bench.service.show_job(made["id"], {"destination": "d4999"}))
            await asyncio.sleep(0)
            await bench.service.remove_job(made["id"])
            await refused(reading, JobNotFound)

    run(main)


def test_a_page_that_would_be_too_long_is_refused_before_it_is_built(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        async with Bench() as bench:
            text = "x" * (MAX_DATA_BYTES - 2)
            message = {"method": "put", "resource": "/x", "data": text}
            made = await bench.service.create_job({"destinations": [f"d{n}" for n in range(1_000)], "message": message})
            fitting = MAX_PAGE_BYTES // MAX_DATA_BYTES
            built = []
            view = views.request_view
            monkeypatch.setattr(views, "request_view", lambda *parts: (built.append(1), view(*parts))[1])
            for read in (
                lambda limit: bench.service.list_requests({"limit": limit}),
                lambda limit: bench.service.show_job(made["id"], {"limit": limit}),
                lambda limit: bench.service.show_job(made["id"], {"limit": limit, "destination": "d*"}),
            ):
                built.clear()
                error = await refused(read("10000"), TooLarge)
                assert len(built) <= fitting + 1
                limit = re.search(r"\?limit=(\d+)", str(error))
                assert limit is not None
                await read(limit[1])
            # Their ids alone are short.
            query = {"limit": "1000", "collection": "false", "status": "created"}
            assert (await bench.service.show_job(made["id"], query))["requests"] == made["requests"]

    run(main)


def test_a_page_of_jobs_that_would_be_too_long_is_refused_too() -> None:
    async def main() -> None:
        async with Bench(window=1) as bench:
            labels = [f"{n}" + "😀" * 120 for n in range(64)]
            for _ in range(600):
                bench.engine.submit(bench.reader.job(job("a", labels=labels)), bench.now)
            await refused(bench.service.list_jobs({"limit": "600"}), TooLarge)
            assert len(await bench.service.list_jobs({"limit": "100"})) == 100

    run(main)


def test_the_loop_gets_its_turns_while_a_long_page_is_made() -> None:
    async def main() -> None:
        async with Bench() as bench:
            await bench.service.create_job(job(*(f"d{n}" for n in range(10_000))))
            reading = asyncio.create_task(bench.service.list_requests({"limit": "10000"}))
            turns = 0
            while not reading.done():
                await asyncio.sleep(0)
                turns += 1
            assert len(await reading) == 10_000
            assert turns >= 10

    run(main)


# Callers


def test_a_bad_body_creates_nothing() -> None:
    async def main() -> None:
        async with Bench() as bench:
            await refused(bench.service.create_job({"destinations": ["a/b"]}), InvalidDocument)
            await refused(bench.service.create_request({}), InvalidDocument)
            assert bench.engine.next_id == FIRST_ID
            assert await bench.service.list_jobs({}) == []

    run(main)


def test_a_job_whose_answer_would_not_fit_the_bus_is_refused_and_not_made() -> None:
    async def main() -> None:
        async with Bench() as bench:
            await refused(bench.service.create_job(job(*(f"d{n}" for n in range(140_000)))), TooLarge)
            assert bench.engine.jobs == {}

    run(main)


def test_long_labels_count_towards_what_fits_the_bus() -> None:
    async def main() -> None:
        async with Bench() as bench:
            labels = ["😀" * 128 for _ in range(64)]
            document = job(*(f"d{n}" for n in range(129_800)), labels=labels)
            try:
                made = await bench.service.create_job(document)
            except TooLarge:
                assert bench.engine.jobs == {}
                return
            # The edge refuses what does not fit, and then the job must not have been made.
            assert len(orjson.dumps(made)) + 4_096 < MAX_BUS_BYTES

    run(main)


def test_a_dry_run_tells_how_much_it_would_be_and_makes_nothing() -> None:
    async def main() -> None:
        async with Bench() as bench:
            message = {"method": "put", "resource": "/x", "__request": {"destination": ["a", "b"]}}
            document = {"batch": [message, {**message, "resource": "/y"}, message], "key": "k", "dryRun": True}
            bench.log.clear()
            assert await bench.service.create_job(document) == {
                "dryRun": True, "totalCount": 6, "destinationCount": 2, "messageCount": 2,
                "destinations": ["a", "b"], "offlineCount": 0, "offline": [],
            }  # fmt: skip
            await settle()
            assert (bench.engine.jobs, bench.engine.next_id, bench.log) == ({}, FIRST_ID, [])
            made = await bench.service.create_job({**document, "dryRun": False})
            assert (made["id"], made["totalCount"]) == (FIRST_ID, 6)
            assert (await bench.service.create_job(document))["dryRun"] is True

    run(main)


def test_a_dry_run_is_refused_for_all_that_the_job_would_be_refused_for() -> None:
    async def main() -> None:
        async with Bench() as bench:
            await bench.service.create_job(job(key="k"))
            create = bench.service.create_job
            await refused(create(job("a/b", dryRun=True)), InvalidDocument)
            await refused(create(job("z", key="k", dryRun=True)), KeyConflict)
            await refused(create(job(*(f"d{n}" for n in range(140_000)), dryRun=True)), TooLarge)
            bench.reader.max_requests = 2
            await refused(create(job("a", "b", "c", dryRun=True)), TooLarge)
            assert len(bench.engine.jobs) == 1

    run(main)


def test_the_same_key_gives_the_same_job_and_another_body_is_a_conflict() -> None:
    async def main() -> None:
        async with Bench() as bench:
            made = await bench.service.create_job(job(key="k"))
            assert (await bench.service.create_job(job(key="k")))["id"] == made["id"]
            await refused(bench.service.create_job(job("z", key="k")), KeyConflict)
            assert len(bench.engine.jobs) == 1

    run(main)


def test_a_job_is_paused_resumed_limited_and_canceled() -> None:
    async def main() -> None:
        async with Bench() as bench:
            made = await bench.service.create_job(job())
            update = bench.service.update_job
            assert (await update(made["id"], {"status": "paused"}))["status"] == "paused"
            assert (await update(made["id"], {"status": "dispatching", "priority": 9}))["priority"] == 9
            assert (await update(made["id"], {"status": "canceled"}))["status"] == "canceled"
            await refused(update(made["id"], {"status": "paused"}), IllegalTransition)
            await refused(update(made["id"], {"priority": 1}), Conflict)
            await refused(update(made["id"], {}), InvalidDocument)
            await refused(update(5, {"status": "paused"}), JobNotFound)

    run(main)


def test_a_removed_job_is_answered_in_its_last_state_and_gone_with_all_that_is_its() -> None:
    async def main() -> None:
        async with Bench() as bench:
            made = await bench.service.create_job(job("a", "b"))
            await settle()
            gone = await bench.service.remove_job(made["id"])
            assert (gone["id"], gone["status"], gone["counts"]["canceled"]) == (made["id"], "canceled", 2)
            assert [bench.store.reopen().count(table) for table in (JOBS, MESSAGES, REQUESTS)] == [0, 0, 0]
            await settle()
            assert bench.of("tell")[-1] == ("tell", "delete", made["id"], None)
            await refused(bench.service.remove_job(made["id"]), JobNotFound)

    run(main)


def test_a_single_request_is_answered_as_a_request() -> None:
    async def main() -> None:
        async with Bench() as bench:
            body = {"destination": "a", "message": {"method": "PUT", "resource": "/x", "data": 5}}
            made = await bench.service.create_request({**body, "options": {"timeout": 1_500}})
            assert (made["id"], made["method"], made["resource"], made["data"]) == (FIRST_ID + 1, "put", "/x", 5)
            details = made["__request"]
            assert (details["job"], details["destination"], details["timeout"]) == (FIRST_ID, "a", 1.5)
            assert (details["status"], details["code"], details["result"]) == ("created", None, None)

    run(main)


def test_a_request_is_canceled_once_and_again_and_not_after_it_ended_otherwise() -> None:
    async def main() -> None:
        async with Bench() as bench:
            made = await bench.service.create_job(job("a", "b"))
            first, second = made["requests"]
            for _ in range(2):
                assert (await bench.service.cancel_request(first))["__request"]["status"] == "canceled"
            await bench.answer(second, destination="b")
            for _ in range(2):
                assert (await bench.service.cancel_request(first))["__request"]["status"] == "canceled"
            await refused(bench.service.cancel_request(second), IllegalTransition)
            await refused(bench.service.cancel_request(5), RequestNotFound)

    run(main)


def test_two_callers_may_cancel_a_jobs_last_request_in_one_moment() -> None:
    async def main() -> None:
        async with Bench() as bench:
            made = await bench.service.create_job(job("a"))
            await settle()
            cancel = bench.service.cancel_request
            for found in await asyncio.gather(cancel(made["requests"][0]), cancel(made["requests"][0])):
                assert found["__request"]["status"] == "canceled"

    run(main)


def test_a_request_that_ended_just_now_can_not_be_canceled_and_its_true_state_is_named() -> None:
    async def main() -> None:
        async with Bench() as bench:
            made = await bench.service.create_job(job("a"))
            await settle()
            answering = bench.answer(made["requests"][0])
            await asyncio.sleep(0)
            error = await refused(bench.service.cancel_request(made["requests"][0]), IllegalTransition)
            assert error.status == "resolved"
            await answering

    run(main)


# Time


def test_old_jobs_are_removed_when_their_time_has_come() -> None:
    async def main() -> None:
        async with Bench(retention=Retention(age=3_600.0)) as bench:
            made = await bench.service.create_job(job())
            await bench.answer(made["requests"][0])
            await bench.later(3_500.0)
            assert len(await bench.service.list_jobs({})) == 1
            await bench.later(200.0)
            assert await bench.service.list_jobs({}) == []
            await settle()
            assert bench.of("tell")[-1][1] == "delete"
            assert bench.store.reopen().count(REQUESTS) == 0

    run(main)


def test_a_request_times_out_without_any_other_event() -> None:
    async def main() -> None:
        async with Bench() as bench:
            loop = asyncio.get_running_loop()
            began = loop.time()
            bench.service._now = lambda: 1_000.0 + (loop.time() - began)
            made = await bench.service.create_job(job(requestTimeout=0.05, retry={"limit": 0}))
            ended = asyncio.Event()
            tell = bench.outlet.tell

            def look(change: Change, job_id: int, document: Document | None) -> None:
                tell(change, job_id, document)
                if document is not None and document["status"] == "resolved":
                    ended.set()

            bench.outlet.tell = look  # type: ignore[method-assign]
            await asyncio.wait_for(ended.wait(), 5.0)
            shown = await bench.service.show_request(made["requests"][0])
            assert shown["__request"]["status"] == "timeout"

    run(main)


def test_while_the_broker_is_away_nothing_is_published() -> None:
    async def main() -> None:
        async with Bench() as bench:
            bench.service.link(False)
            made = await bench.service.create_job(job())
            await settle()
            assert bench.outlet.sent == []
            bench.service.link(True)
            await settle()
            assert [request.id for request, _ in bench.outlet.sent] == made["requests"]

    run(main)


def test_what_is_out_is_published_again_when_it_was_lost() -> None:
    async def main() -> None:
        async with Bench() as bench:
            made = await bench.service.create_job(job("a", "localhost"))
            await settle()
            assert bench.service.resend() == 2
            assert bench.service.resend(lambda request: request.destination == "localhost") == 1
            await settle()
            assert [request.id for request, _ in bench.outlet.sent] == [*made["requests"], *made["requests"],
                                                                       made["requests"][1]]

    run(main)


def test_an_answer_that_is_too_large_ends_its_request_on_disk() -> None:
    async def main() -> None:
        async with Bench() as bench:
            made = await bench.service.create_job(job("a"))
            await settle()
            bench.service.refuse("a", made["requests"][0], "too large")
            await bench.service.durable()
            stored = bench.store.durable(REQUESTS, made["requests"][0])
            assert stored is not None
            assert (stored["status"], stored["code"]) == ("error", 413)
            bench.service.refuse("a", made["requests"][0], "too large")
            await bench.service.durable()
            assert bench.service.dropped == {"late": 1}

    run(main)


def test_an_idle_service_does_not_touch_the_disk() -> None:
    async def main() -> None:
        async with Bench() as bench:
            await bench.service.create_job(job())
            await settle()
            commits = bench.store.commits
            for _ in range(5):
                await bench.later(61.0)
            assert bench.store.commits == commits

    run(main)
