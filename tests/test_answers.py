"""The answers to a job's requests, grouped: what is counted together, in which order, and what is left out."""

from __future__ import annotations

import asyncio
from typing import Any

import orjson
import pytest

from puppetmaster.answers import MAX_DESTINATIONS, Answers
from puppetmaster.errors import InvalidDocument, JobNotFound, TooLarge
from puppetmaster.paging import MAX_PAGE_BYTES
from puppetmaster.views import MAX_RESULT_BYTES
from tests.test_service import Bench, job, refused, run, settle, until

TIMES_OUT = {"requestTimeout": 5, "retry": {"limit": 0}}


async def answered(bench: Bench, *answers: tuple[int, Any], **more: Any) -> dict[str, Any]:
    """A job of as many devices (``d0``, ``d1``, ...) as there are answers, and one that is silent."""
    made = await bench.service.create_job(job(*(f"d{n}" for n in range(len(answers) + 1)), **more))
    await settle()
    for number, (code, data) in enumerate(answers):
        await bench.answer(made["requests"][number], code, data, f"d{number}")
    return made


def test_equal_answers_are_counted_together_the_most_frequent_first() -> None:
    async def main() -> None:
        async with Bench() as bench:
            made = await answered(bench, (404, None), (200, {"v": 2}), (200, {"v": 1}), (200, {"v": 2}))
            failed = {"code": 404, "resource": "/x", "data": None}
            assert await bench.service.list_answers(made["id"], {}) == [
                {"status": "resolved", "code": 200, "result": {"v": 2}, "cut": False, "count": 2,
                 "destinations": ["d1", "d3"]},
                {"status": "error", "code": 404, "result": failed, "cut": False, "count": 1, "destinations": ["d0"]},
                {"status": "resolved", "code": 200, "result": {"v": 1}, "cut": False, "count": 1,
                 "destinations": ["d2"]},
            ]  # fmt: skip

    run(main)


def test_what_differs_in_status_code_or_result_is_told_apart_and_the_order_of_keys_is_no_difference() -> None:
    async def main() -> None:
        async with Bench() as bench:
            answers = [(200, {"a": 1, "b": [None]}), (200, {"b": [None], "a": 1}), (201, {"a": 1, "b": [None]})]
            others: list[tuple[int, Any]] = [(200, None), (200, ""), (200, 0), (200, False), (200, "0"), (200, 0.0)]
            made = await answered(bench, *answers, *others)
            found = await bench.service.list_answers(made["id"], {})
            assert [(group["code"], group["count"]) for group in found[:2]] == [(200, 2), (201, 1)]
            assert list(map(repr, (group["result"] for group in found[2:]))) == [repr(data) for _, data in others]

    run(main)


def test_what_has_not_ended_is_not_among_the_answers_and_what_nobody_answered_is() -> None:
    async def main() -> None:
        async with Bench() as bench:
            made = await answered(bench, (102, {"progress": 50}), **TIMES_OUT)
            assert await bench.service.list_answers(made["id"], {}) == []
            await bench.later(10.0)
            [silent] = await bench.service.list_answers(made["id"], {})
            assert (silent["status"], silent["code"], silent["result"], silent["count"]) == ("timeout", None, None, 2)

    run(main)


def test_answers_are_filtered_by_status_and_limited_in_number() -> None:
    async def main() -> None:
        async with Bench() as bench:
            made = await answered(bench, (200, 1), (200, 2), (200, 2), (500, None))

            async def counts(**query: Any) -> list[tuple[str, int]]:
                found = await bench.service.list_answers(made["id"], query)
                return [(group["status"], group["count"]) for group in found]

            assert await counts() == [("resolved", 2), ("resolved", 1), ("error", 1)]
            assert await counts(limit="1") == [("resolved", 2)]
            assert await counts(limit="0") == []
            assert await counts(status="error") == [("error", 1)]
            assert await counts(status=["error", "timeout"]) == [("error", 1)]

    run(main)


@pytest.mark.parametrize("query", [{"limit": "-1"}, {"limit": "x"}, {"status": "gone"}, {"status": ["error", "x"]}])
def test_a_bad_query_is_refused(query: dict[str, Any]) -> None:
    async def main() -> None:
        async with Bench() as bench:
            made = await answered(bench)
            error = await refused(bench.service.list_answers(made["id"], query), InvalidDocument)
            assert error.faults[0].path.split(".")[0] == next(iter(query))

    run(main)


def test_the_answers_to_an_unknown_job_are_not_found() -> None:
    async def main() -> None:
        async with Bench() as bench:
            await refused(bench.service.list_answers(5, {}), JobNotFound)

    run(main)


def test_a_few_destinations_are_named_each_once() -> None:
    answers = Answers()
    for number in range(20):
        answers.add(number, {"status": "resolved", "code": 200, "destination": f"d{number // 2}"})
    [group] = answers.largest(10)
    assert (group.request_id, group.count) == (0, 20)
    assert group.destinations == tuple(f"d{number}" for number in range(MAX_DESTINATIONS))


# Answers of commands, and of the farm


def command(**more: Any) -> dict[str, Any]:
    """What an agent answers."""
    return {"outcome": "done", "exitCode": 0, "duration": 0.013, "stdout": "hello\n", "stderr": "", **more}


def to(resource: str) -> dict[str, Any]:
    return {"message": {"method": "post", "resource": resource}}


async def counted(resource: str, *answers: tuple[int, Any]) -> list[int]:
    async with Bench() as bench:
        made = await answered(bench, *answers, **to(resource))
        return [group["count"] for group in await bench.service.list_answers(made["id"], {})]


def test_commands_that_printed_the_same_are_counted_together_however_long_they_took() -> None:
    async def main() -> None:
        async with Bench() as bench:
            answers = [(200, command()), (200, command(duration=1.5)), (200, command(stdout="bye\n"))]
            made = await answered(bench, *answers, **to("/agent/commands"))
            first, _ = await bench.service.list_answers(made["id"], {})
            assert (first["count"], first["destinations"], first["result"]) == (2, ["d0", "d1"], command())

    run(main)


def test_commands_that_failed_alike_are_counted_together() -> None:
    def failed(code: int, **more: Any) -> tuple[int, Any]:
        return code, command(outcome="failed", **more)

    async def main() -> None:
        exits = [failed(500, exitCode=exit_code, duration=exit_code + n) for n in (0, 0.5) for exit_code in (3, 4)]
        assert await counted("/agent/commands", *exits) == [2, 2]
        words = "it took too long and was killed after"
        late = [(500, command(outcome="timeout", duration=n, message=f"{words} {n} s")) for n in (5.0, 5.1)]
        assert await counted("/agent/commands", *late) == [2]
        ends = [(499, command(outcome="killed", after=n, message=f"killed after {n:.1f} s")) for n in (3, 4)]
        assert await counted("/agent/commands", *ends) == [2]

    run(main)


def test_what_a_device_itself_calls_a_duration_tells_its_answers_apart() -> None:
    async def main() -> None:
        assert await counted("/backup", (200, {"duration": 1}), (200, {"duration": 2})) == [1, 1]
        assert await counted("/agent/commands", (200, None), (200, [1]), (200, "x")) == [1, 1, 1]

    run(main)


def test_chunks_of_the_farm_that_ended_alike_are_counted_together_whoever_had_them() -> None:
    def chunk(number: int, **more: Any) -> dict[str, Any]:
        return {"message": "done", "worker": f"w{number}", "worker_id": number, "time_cost": number, **more}

    async def main() -> None:
        answers: list[tuple[int, Any]] = [(200, chunk(1)), (200, chunk(2)), (200, chunk(3, message="other"))]
        answers += [(500, chunk(number, failures=[f"w{number}"])) for number in (4, 5)]
        assert await counted("/farm/blender_render", *answers) == [2, 2, 1]

    run(main)


# Sizes


@pytest.mark.parametrize(
    ("result", "cut"),
    [
        ("x" * (MAX_RESULT_BYTES - 2), False),
        ("x" * (MAX_RESULT_BYTES - 1), True),
        ("ä" * MAX_RESULT_BYTES, True),
        ("😀" * MAX_RESULT_BYTES, True),
        ({"log": ["€" * 100] * 100}, True),
    ],
    ids=["fits", "one over", "two bytes", "four bytes", "an object"],
)
def test_a_long_result_is_cut_between_two_characters(result: Any, cut: bool) -> None:
    async def main() -> None:
        async with Bench() as bench:
            made = await answered(bench, (200, result))
            [found] = await bench.service.list_answers(made["id"], {})
            assert found["cut"] is cut
            if not cut:
                assert found["result"] == result
                return
            text, whole = found["result"].encode(), orjson.dumps(result)
            assert whole.startswith(text)
            assert MAX_RESULT_BYTES - 4 < len(text) <= MAX_RESULT_BYTES < len(whole)

    run(main)


def test_long_results_that_differ_only_behind_the_cut_are_told_apart() -> None:
    async def main() -> None:
        async with Bench() as bench:
            made = await answered(bench, (200, "x" * 5_000 + "a"), (200, "x" * 5_000 + "b"))
            one, other = await bench.service.list_answers(made["id"], {})
            assert one["result"] == other["result"]
            assert (one["count"], other["count"]) == (1, 1)

    run(main)


def test_a_page_of_answers_that_would_be_too_long_is_refused() -> None:
    async def main() -> None:
        async with Bench(window=1_000) as bench:
            number = MAX_PAGE_BYTES // MAX_RESULT_BYTES + 1
            made = await bench.service.create_job(job(*(f"d{n}" for n in range(number))))
            answering = []
            for count, request_id in enumerate(made["requests"]):
                await until(lambda wanted=count: len(bench.outlet.sent) > wanted)
                answering.append(bench.answer(request_id, 200, f"{count}" + "x" * 5_000, f"d{count}"))
            await asyncio.gather(*answering)
            error = await refused(bench.service.list_answers(made["id"], {"limit": "10000"}), TooLarge)
            assert "?limit=" in str(error)
            assert len(await bench.service.list_answers(made["id"], {"limit": "3000"})) == 3_000

    run(main)


# While it is read


def test_the_loop_gets_its_turns_while_the_answers_of_a_large_job_are_counted() -> None:
    async def main() -> None:
        async with Bench() as bench:
            made = await bench.service.create_job(job(*(f"d{n}" for n in range(20_000))))
            await bench.service.update_job(made["id"], {"status": "canceled"})
            reading = asyncio.create_task(bench.service.list_answers(made["id"], {}))
            turns = 0
            while not reading.done():
                await asyncio.sleep(0)
                turns += 1
            [group] = await reading
            assert group["count"] == 20_000
            assert turns >= 20

    run(main)


def test_a_job_that_is_removed_while_its_answers_are_counted_is_not_found() -> None:
    async def main() -> None:
        async with Bench() as bench:
            made = await bench.service.create_job(job(*(f"d{n}" for n in range(5_000))))
            await bench.service.update_job(made["id"], {"status": "canceled"})
            reading = asyncio.create_task(bench.service.list_answers(made["id"], {}))
            await asyncio.sleep(0)
            await bench.service.remove_job(made["id"])
            await refused(reading, JobNotFound)

    run(main)


def test_what_is_counted_is_on_disk_when_it_is_answered() -> None:
    async def main() -> None:
        async with Bench() as bench:
            made = await answered(bench, (200, 1))
            bench.store.open.clear()
            answering = bench.answer(made["requests"][1], 200, 1, "d1")
            await settle()
            reading = asyncio.create_task(bench.service.list_answers(made["id"], {}))
            await settle()
            assert not reading.done()
            bench.store.open.set()
            [group] = await reading
            assert group["count"] == 2
            await answering

    run(main)
