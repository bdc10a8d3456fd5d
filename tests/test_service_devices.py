"""The service and devices: calling off, what a device says of it, devices that come online, targets, output."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from puppetmaster.documents import REQUESTS
from puppetmaster.errors import Conflict
from puppetmaster.models import Request
from puppetmaster.policies import Targets
from tests.test_service import Bench, job, refused, run, settle

GONE = 499


class Fleet:
    """A directory that a test writes."""

    def __init__(self, *known: str) -> None:
        self.known: list[str] = list(known)
        self.offline: set[str] = set()

    def find(self, targets: Targets, draw: float) -> Sequence[str]:
        wanted = targets.labels.get("id", ())
        return [name for name in self.known if name in wanted or not wanted]

    def is_offline(self, destination: str) -> bool:
        return destination in self.offline

    def is_bounded(self, request: Request) -> bool:
        return True


def targeted(**targets: Any) -> dict[str, Any]:
    return {"message": {"method": "get", "resource": "/x"}, "targets": targets}


# Calling off


def test_a_cancel_is_saved_before_whoever_works_on_it_is_told() -> None:
    async def main() -> None:
        async with Bench() as bench:
            made = await bench.service.create_job(job("a"))
            await settle()
            bench.log.clear()
            await bench.service.update_job(made["id"], {"status": "canceled"})
            await settle()
            kinds = [entry[0] for entry in bench.log]
            assert kinds.index("commit") < kinds.index("abort")
            assert bench.of("abort") == [("abort", made["requests"][0])]

    run(main)


def test_what_never_went_out_is_not_called_off() -> None:
    async def main() -> None:
        async with Bench(window=1) as bench:
            made = await bench.service.create_job(job("a", "b"))
            await settle()
            await bench.service.cancel_request(made["requests"][1])
            await settle()
            assert bench.of("abort") == []

    run(main)


@pytest.mark.parametrize("whole_job", [True, False])
def test_what_a_device_says_became_of_it_is_written_down_and_the_status_stays(whole_job: bool) -> None:
    async def main() -> None:
        async with Bench() as bench:
            made = await bench.service.create_job(job("a", "b"))
            ident = made["requests"][0]
            await settle()
            if whole_job:
                await bench.service.update_job(made["id"], {"status": "canceled"})
            else:
                await bench.service.cancel_request(ident)
            said = {"outcome": "killed", "after": 1.2}
            await bench.answer(ident, GONE, said, destination="b")
            assert (await bench.service.show_request(ident))["__request"]["code"] is None
            await bench.answer(ident, GONE, said)
            await bench.answer(ident, GONE, {"outcome": "done"})
            await bench.answer(ident, 200, "late")
            seen = (await bench.service.show_request(ident))["__request"]
            assert (seen["status"], seen["code"]) == ("canceled", GONE)
            assert seen["result"] == {"code": GONE, "resource": "/x", "data": said}
            assert seen["reason"].endswith("; its device says: killed")
            assert bench.store.durable(REQUESTS, ident)["result"] == seen["result"]  # type: ignore[index]
            counts = (await bench.service.show_job(made["id"], {}))["counts"]
            assert counts["canceled"] == (2 if whole_job else 1)

    run(main)


def test_a_device_that_says_it_of_a_request_that_was_not_called_off_fails_it() -> None:
    async def main() -> None:
        async with Bench() as bench:
            made = await bench.service.create_job(job("a"))
            await settle()
            await bench.answer(made["requests"][0], GONE, {"outcome": "killed"})
            await bench.answer(made["requests"][0], GONE, {"outcome": "done"})
            seen = (await bench.service.show_request(made["requests"][0]))["__request"]
            assert (seen["status"], seen["result"]["data"]) == ("error", {"outcome": "killed"})

    run(main)


# Targets


def test_a_dry_run_tells_who_would_be_sent_to_and_who_is_away() -> None:
    async def main() -> None:
        fleet = Fleet("a", "b", "c")
        fleet.offline = {"b"}
        async with Bench(directory=fleet) as bench:
            found = await bench.service.create_job({**targeted(), "destinations": ["x", "a"], "dryRun": True})
            assert found == {
                "dryRun": True, "totalCount": 4, "destinationCount": 4, "messageCount": 1,
                "destinations": ["x", "a", "b", "c"], "offlineCount": 1, "offline": ["b"],
            }  # fmt: skip
            later = {**targeted(), "startAt": "2030-01-01T00:00:00Z", "dryRun": True}
            assert (await bench.service.create_job(later))["totalCount"] == 3
            assert not bench.engine.jobs and bench.of("send") == []

    run(main)


def test_targets_are_shown_and_kept() -> None:
    async def main() -> None:
        async with Bench(directory=Fleet("a", "b")) as bench:
            made = await bench.service.create_job(targeted(labels={"id": "b"}, sample="50%"))
            assert (made["totalCount"], made["targets"]) == (1, {"labels": {"id": ["b"]}, "sample": "50%"})
            seen = await bench.service.show_job(made["id"], {})
            assert [request["__request"]["destination"] for request in seen["requests"]] == ["b"]
            assert seen["targets"] == made["targets"]

    run(main)


def test_nobody_who_fits_is_refused_and_makes_nothing() -> None:
    async def main() -> None:
        async with Bench(directory=Fleet()) as bench:
            await refused(bench.service.create_job(targeted()), Conflict)
            await refused(bench.service.create_job({**targeted(), "dryRun": True}), Conflict)
            assert not bench.engine.jobs

    run(main)


def test_a_key_answers_the_same_job_whoever_fits_by_then() -> None:
    async def main() -> None:
        fleet = Fleet("a")
        async with Bench(directory=fleet) as bench:
            made = await bench.service.create_job({**targeted(), "key": "k"})
            fleet.known.clear()
            again = await bench.service.create_job({**targeted(), "key": "k"})
            assert (again["id"], again["totalCount"]) == (made["id"], 1)

    run(main)


def test_a_device_that_comes_online_gets_what_waited_for_it() -> None:
    async def main() -> None:
        fleet = Fleet("a")
        fleet.offline = {"a"}
        async with Bench(directory=fleet) as bench:
            made = await bench.service.create_job(job("a", offline="wait"))
            await settle()
            assert bench.of("send") == []
            seen = (await bench.service.show_request(made["requests"][0]))["__request"]
            assert (seen["status"], seen["reason"]) == ("created", "waits for its device to come online")
            fleet.offline.clear()
            bench.service.present("a")
            await settle()
            assert bench.of("send") == [("send", made["requests"][0])]

    run(main)


def test_the_requests_of_a_job_that_is_removed_are_told_when_that_is_on_disk() -> None:
    async def main() -> None:
        async with Bench() as bench:
            removed: list[range] = []
            bench.service.on_removed.append(removed.append)
            made = await bench.service.create_job(job("a", "b"))
            assert bench.service.destination_of(made["requests"][1]) == "b"
            bench.store.open.clear()
            bench.engine.remove(made["id"], bench.now)
            bench.service.link(True)
            await settle()
            assert removed == []
            bench.store.open.set()
            await settle()
            assert removed == [range(made["requests"][0], made["requests"][1] + 1)]
            assert bench.service.destination_of(made["requests"][1]) is None

    run(main)
