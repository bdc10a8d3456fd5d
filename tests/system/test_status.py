"""How the bundle says that it is: ``/health`` for whoever starts and stops it, ``/metrics`` for whoever watches it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import psutil
import pytest
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

from puppetmaster.embedded.broker import find_mosquitto
from puppetmaster.states import JobStatus, RequestStatus
from puppetmaster.wire import answer_topic
from tests.system.stand import PATIENCE, Document, Fleet, Stand

MESSAGE = {"method": "post", "resource": "/system/reboot"}

LATER = "2100-01-01T00:00:00Z"


@pytest.fixture(scope="module")
def stand(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stand]:
    if find_mosquitto() is None:
        pytest.skip("mosquitto is not installed")
    with Stand(tmp_path_factory.mktemp("stand"), http=True, window=50) as running:
        running.edge = "http"
        yield running


@pytest.fixture(scope="module")
def fleet(stand: Stand) -> Fleet:
    return stand.fleet("dev", 20, latency="0.05")


def health(stand: Stand) -> tuple[int, Document]:
    answer = stand.http("get", "/health")
    assert answer.headers["cache-control"] == "no-store"
    assert ("retry-after" in answer.headers) == (answer.status_code == 503)
    return answer.status_code, answer.json()


def until_health(stand: Stand, **wanted: Any) -> tuple[int, Document]:
    """What it says once it says that."""
    deadline = time.monotonic() + PATIENCE
    while True:
        code, said = health(stand)
        if wanted.items() <= said.items():
            return code, said
        assert time.monotonic() < deadline, f"it says {said}, not {wanted}"
        time.sleep(0.02)


READY = {
    "live": True, "ready": True, "broker": "connected", "controller": "registered", "store": "ok", "registry": "ok",
    "memory": "ok", "instance": "stand",
}  # fmt: skip


# Health


def test_a_bundle_that_can_work_is_ready(stand: Stand) -> None:
    code, said = health(stand)
    assert code == 200
    version = said.pop("version")
    assert said == READY
    assert version in stand.bundle.log()
    answer = stand.http("head", "/health")
    assert (answer.status_code, answer.content) == (200, b"")


def test_without_its_broker_it_is_not_ready_until_it_is_back(stand: Stand) -> None:
    stand.broker.stop()
    code, said = until_health(stand, broker="disconnected")
    assert code == 503
    assert (said["live"], said["ready"], said["store"]) == (True, False, "ok")
    assert stand.http("get", "/jobs").status_code == 200, "it answers all the same"

    stand.broker.start()
    code, said = until_health(stand, ready=True)
    assert code == 200
    assert READY.items() <= said.items()


def test_without_its_controller_it_is_not_ready_until_it_is_back(stand: Stand) -> None:
    stand.controller.stop()
    code, said = until_health(stand, controller="unregistered")
    assert code == 503
    assert (said["ready"], said["broker"]) == (False, "connected")

    stand.controller.start()
    code, _ = until_health(stand, ready=True)
    assert code == 200


def test_with_a_store_that_cannot_write_it_is_not_ready_until_it_can(stand: Stand) -> None:
    stand.create_job({"destinations": "nobody", "message": MESSAGE, "startAt": LATER})
    bundle = psutil.Process(stand.bundle.pid)
    (journal,) = stand.data.glob("puppetmaster.journal.*")
    unlimited = bundle.rlimit(psutil.RLIMIT_FSIZE)
    # As a disk that is full: no file grows beyond what the journal has.
    bundle.rlimit(psutil.RLIMIT_FSIZE, (journal.stat().st_size, unlimited[1]))
    refused = stand.http("post", "/jobs", json={"destinations": "a", "message": MESSAGE})
    assert refused.status_code == 503
    assert int(refused.headers["retry-after"]) >= 1
    code, said = health(stand)
    assert (code, said["ready"], said["broker"], said["controller"]) == (503, False, "connected", "registered")
    assert said["store"] not in ("", "ok")
    assert Figures(stand)("store_writable") == 0

    bundle.rlimit(psutil.RLIMIT_FSIZE, unlimited)
    assert until_health(stand, ready=True)[0] == 200
    stand.create_job({"destinations": "nobody", "message": MESSAGE, "startAt": LATER})


# Metrics

COUNTERS = {
    "puppetmaster_requests_ended", "puppetmaster_requests_sent", "puppetmaster_answers_taken",
    "puppetmaster_answers_dropped", "puppetmaster_journal_commits", "puppetmaster_journal_written_bytes",
    "puppetmaster_broker_reconnects", "puppetmaster_jobs_refused_memory",
}  # fmt: skip

GAUGES = {
    "puppetmaster_jobs", "puppetmaster_requests", "puppetmaster_window_used", "puppetmaster_window_size",
    "puppetmaster_store_writable", "puppetmaster_broker_connected", "puppetmaster_controller_registered",
    "puppetmaster_watchers", "puppetmaster_devices", "puppetmaster_registry_writable", "puppetmaster_memory_bytes",
    "puppetmaster_memory_limit_bytes",
}  # fmt: skip


class Figures:
    """One look at ``/metrics``."""

    def __init__(self, stand: Stand) -> None:
        answer = stand.http("get", "/metrics")
        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith("text/plain; version=")
        self.families: dict[str, Metric] = {
            family.name: family for family in text_string_to_metric_families(answer.text)
        }
        self._values = {
            (sample.name, *sorted(sample.labels.items())): sample.value
            for family in self.families.values()
            for sample in family.samples
        }

    def __call__(self, name: str, **labels: str) -> float:
        return self._values[(f"puppetmaster_{name}", *sorted(labels.items()))]

    def by(self, name: str, label: str) -> dict[str, float]:
        """The values of a family by one of its labels."""
        samples = self.families[f"puppetmaster_{name}"].samples
        return {sample.labels[label]: sample.value for sample in samples}


def until_figures(stand: Stand, accept: Callable[[Figures], object]) -> Figures:
    """The figures once they are as expected."""
    deadline = time.monotonic() + PATIENCE
    while not accept(figures := Figures(stand)):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return figures


def test_all_figures_have_a_name_a_type_and_a_meaning(stand: Stand) -> None:
    families = Figures(stand).families
    types = {name: family.type for name, family in families.items()}
    expected = dict.fromkeys(COUNTERS, "counter") | dict.fromkeys(GAUGES, "gauge")
    expected |= {"puppetmaster_journal_commit_seconds": "histogram"}
    # In the text form, what never changes is a gauge, and so is the time from which a histogram counts.
    expected |= dict.fromkeys(("puppetmaster_build_info", "puppetmaster_journal_commit_seconds_created"), "gauge")
    assert types == expected
    for family in families.values():
        assert family.documentation.endswith("."), family.name
        assert all(sample.value >= 0 for sample in family.samples), family.name
    (build,) = families["puppetmaster_build_info"].samples
    assert build.labels == {"version": health(stand)[1]["version"], "instance": "stand"}


def test_the_figures_agree_with_what_was_done(stand: Stand, fleet: Fleet) -> None:
    before = Figures(stand)
    assert before("window_size") == 50
    stand.run_job({"destinations": fleet.names, "message": MESSAGE})
    silent = {"message": MESSAGE, "options": {"timeout": 50}, "retry": {"limit": 0}}
    stand.run_job({**silent, "destinations": ["nobody-1", "nobody-2"]})
    later = stand.create_job({"destinations": fleet.names[:3], "message": MESSAGE, "startAt": LATER})
    kept = stand.create_job({"destinations": fleet.names[:4], "message": MESSAGE, "startAt": LATER})
    stand.update_job(later["id"], status="canceled")
    after = Figures(stand)

    def more(name: str, **labels: str) -> float:
        return after(name, **labels) - before(name, **labels)

    ended = {status: more("requests_ended_total", status=status) for status in before.by("requests_ended", "status")}
    assert ended == {"resolved": 20, "error": 0, "timeout": 2, "canceled": 3}
    assert more("requests_sent_total") == 22
    assert more("answers_taken_total") == 20
    assert more("requests", status="created") == 4
    assert more("requests", status="resolved") == 20
    assert [more("jobs", status=status) for status in ("resolved", "canceled", "pending")] == [2, 1, 1]
    assert set(after.by("jobs", "status")) == {status.value for status in JobStatus}
    assert set(after.by("requests", "status")) == {status.value for status in RequestStatus}
    assert after("window_used") == 0

    commits = more("journal_commits_total")
    assert commits >= 4, "at least one for each job"
    assert more("journal_commit_seconds_count") == commits
    assert more("journal_commit_seconds_sum") > 0
    assert more("journal_written_bytes_total") > 1000
    assert after("store_writable") == after("broker_connected") == after("controller_registered") == 1

    stand.remove_job(kept["id"])
    assert Figures(stand)("jobs", status="pending") == before("jobs", status="pending")


def test_answers_that_change_nothing_are_counted_by_their_reason(stand: Stand) -> None:
    twice = stand.fleet("twice", 10, duplicates=1.0)
    before = Figures(stand)
    stand.run_job({"destinations": twice.names, "message": MESSAGE})
    stand.publish(answer_topic(twice.names[0], "stand"), "this is no JSON")

    def dropped(figures: Figures) -> dict[str, float]:
        old = before.by("answers_dropped", "reason")
        return {reason: count - old[reason] for reason, count in figures.by("answers_dropped", "reason").items()}

    after = until_figures(stand, lambda figures: sum(dropped(figures).values()) >= 11)
    assert sum(dropped(after).values()) == 11
    assert dropped(after)["malformed"] == 1
    assert after("answers_taken_total") - before("answers_taken_total") == 10


def test_the_figures_can_be_read_while_a_job_runs(stand: Stand, fleet: Fleet) -> None:
    rounds = [{**MESSAGE, "data": number, "__request": {"destination": fleet.names}} for number in range(20)]
    job = stand.create_job({"batch": rounds})
    running = until_figures(stand, lambda figures: figures("window_used") > 0)
    assert running("jobs", status="dispatching") == 1
    assert running("window_used") <= running("window_size") == 50
    seen = [running("requests", status="resolved")]
    while stand.job(job["id"], "limit=0")["status"] == "dispatching":
        seen.append(Figures(stand)("requests", status="resolved"))
    assert seen == sorted(seen)
    assert len(set(seen)) > 2, "it moves"


def test_watchers_are_counted(stand: Stand) -> None:
    with httpx.stream("GET", f"{stand.site}/jobs/events?limit=0", timeout=PATIENCE, trust_env=False):
        assert Figures(stand)("watchers") == 1
    until_figures(stand, lambda figures: figures("watchers") == 0)


def test_connections_that_came_back_are_counted(stand: Stand) -> None:
    before = Figures(stand)
    stand.broker.restart()
    until_health(stand, ready=True)
    after = Figures(stand)
    assert after("broker_reconnects_total") == before("broker_reconnects_total") + 1
    assert after("broker_connected") == 1
