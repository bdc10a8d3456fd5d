"""What Prometheus is told is what the parts of the bundle know."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import REGISTRY
from prometheus_client.parser import text_string_to_metric_families

from puppetmaster.bus import Bus
from puppetmaster.embedded.broker import BrokerProcess, find_mosquitto
from puppetmaster.engine import Engine
from puppetmaster.job_document import JobReader
from puppetmaster.metrics import COMMIT_BUCKETS, DROP_REASONS, Metrics, Sources, commit_times
from puppetmaster.policies import Connection
from puppetmaster.service import Service
from puppetmaster.states import JobStatus, RequestStatus
from puppetmaster.store import MemoryStore, TinyStore
from puppetmaster.times import Clock
from puppetmaster.tunnels import Tunnels
from puppetmaster.wire import Codec, DeviceTunnel, answer_topic, presence_topic

Figures = dict[tuple[str, str], float]
"""Values by name and label: ``("puppetmaster_jobs", "paused")``."""

TIMEOUT = 15.0  # seconds that a test waits for what must come

SOURCES: dict[str, Callable[[], Any]] = {
    "jobs": list,
    "requests_ended": lambda: Engine().ended_counts,
    "requests_sent": int,
    "answers_received": int,
    "answers_dropped": dict,
    "window_used": int,
    "window_size": int,
    "commits": int,
    "bytes_written": int,
    "broker_reconnects": int,
    "broker_connected": bool,
    "controller_registered": bool,
    "store_writable": bool,
    "registry_writable": bool,
    "watchers": int,
}
"""A bundle in which nothing has happened."""


def metrics(**sources: Callable[[], Any]) -> Metrics:
    return Metrics(
        version="1.2.3", instance="me", sources=Sources(**{**SOURCES, **sources}), commit_times=commit_times()
    )


def read(rendered: Metrics) -> Figures:
    """The figures as Prometheus reads them."""
    return {
        (sample.name, ",".join(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(rendered.render().decode())
        for sample in family.samples
    }


def of(engine: Engine) -> Metrics:
    return metrics(
        jobs=engine.jobs.values,
        requests_ended=lambda: engine.ended_counts,
        requests_sent=lambda: engine.sent_count,
        window_used=lambda: engine.out_count,
        window_size=lambda: engine.window_size,
    )


def submit(engine: Engine, *destinations: str, **more: Any) -> int:
    document = {"destinations": list(destinations), "message": {"method": "get", "resource": "/x"}, **more}
    job, _ = engine.submit(JobReader().job(document), 0.0)
    return job.first_request


def test_every_figure_is_there_before_anything_has_happened() -> None:
    figures = read(metrics())
    assert figures.pop(("puppetmaster_build_info", "me,1.2.3")) == 1
    assert {name for name, _ in figures} == {
        "puppetmaster_jobs",
        "puppetmaster_requests",
        "puppetmaster_requests_ended_total",
        "puppetmaster_requests_sent_total",
        "puppetmaster_window_used",
        "puppetmaster_window_size",
        "puppetmaster_answers_taken_total",
        "puppetmaster_answers_dropped_total",
        "puppetmaster_journal_commits_total",
        "puppetmaster_journal_written_bytes_total",
        "puppetmaster_journal_commit_seconds_bucket",
        "puppetmaster_journal_commit_seconds_count",
        "puppetmaster_journal_commit_seconds_sum",
        "puppetmaster_journal_commit_seconds_created",
        "puppetmaster_store_writable",
        "puppetmaster_registry_writable",
        "puppetmaster_memory_bytes",
        "puppetmaster_memory_limit_bytes",
        "puppetmaster_jobs_refused_memory_total",
        "puppetmaster_broker_connected",
        "puppetmaster_broker_reconnects_total",
        "puppetmaster_controller_registered",
        "puppetmaster_devices",
        "puppetmaster_watchers",
    }
    figures.pop(("puppetmaster_journal_commit_seconds_created", ""))
    assert set(figures.values()) == {0}
    assert {label for name, label in figures if name == "puppetmaster_jobs"} == {status.value for status in JobStatus}
    assert {label for name, label in figures if name == "puppetmaster_requests"} == {
        status.value for status in RequestStatus
    }
    assert {label for name, label in figures if name.startswith("puppetmaster_answers_dropped")} == set(DROP_REASONS)


def test_every_figure_says_what_it_is() -> None:
    for family in text_string_to_metric_families(metrics().render().decode()):
        assert family.documentation.endswith("."), family.name


def test_the_text_is_one_that_prometheus_reads() -> None:
    assert Metrics.content_type.startswith("text/plain; version=")


def test_jobs_and_requests_are_counted_as_they_are_now() -> None:
    engine = Engine(window=2)
    rendered = of(engine)
    first = submit(engine, "a", "b", "c")
    submit(engine, "d", startAt="2030-01-01T00:00:00Z")
    engine.tick(0.0)
    engine.accepted(first, 1, 0.0)
    engine.answer("b", first + 1, 200, None, 1.0)
    figures = read(rendered)
    assert {label: value for (name, label), value in figures.items() if name == "puppetmaster_jobs" and value} == {
        "dispatching": 1,
        "pending": 1,
    }
    assert {label: value for (name, label), value in figures.items() if name == "puppetmaster_requests" and value} == {
        "sent": 1,
        "resolved": 1,
        "created": 2,
    }
    assert (figures["puppetmaster_window_used", ""], figures["puppetmaster_window_size", ""]) == (1, 2)


def test_what_has_ended_and_was_sent_is_counted_for_good() -> None:
    engine = Engine()
    rendered = of(engine)
    first = submit(engine, "a", "b", "c", "d", retry={"limit": 1, "delay": 1})
    engine.tick(0.0)
    engine.answer("a", first, 200, None, 1.0)
    engine.answer("b", first + 1, 404, None, 1.0)
    engine.answer("c", first + 2, 503, None, 1.0)
    engine.tick(100.0)
    engine.answer("c", first + 2, 200, None, 100.0)
    engine.cancel_request(first + 3, 100.0)
    engine.remove(first - 1, 101.0)
    figures = read(rendered)
    ended = {label: value for (name, label), value in figures.items() if name == "puppetmaster_requests_ended_total"}
    assert ended == {"resolved": 2, "error": 1, "timeout": 0, "canceled": 1}
    assert figures["puppetmaster_requests_sent_total", ""] == engine.sent_count >= 5
    assert figures["puppetmaster_requests", "resolved"] == 0


def test_answers_were_taken_when_they_came_and_were_not_dropped() -> None:
    dropped = Counter({"late": 3, "malformed": 2})
    figures = read(metrics(answers_received=lambda: 12, answers_dropped=lambda: dropped))
    assert figures["puppetmaster_answers_taken_total", ""] == 7
    assert figures["puppetmaster_answers_dropped_total", "late"] == 3
    assert figures["puppetmaster_answers_dropped_total", "malformed"] == 2
    assert figures["puppetmaster_answers_dropped_total", "foreign"] == 0


@pytest.mark.skipif(find_mosquitto() is None, reason="mosquitto is not installed")
def test_answers_and_reconnects_are_counted_where_they_come_in() -> None:
    async def main(broker: BrokerProcess) -> None:
        tunnels = Tunnels(broker.address, Codec("me", DeviceTunnel()))
        service = Service(
            store=MemoryStore(), engine=Engine(), reader=JobReader(), outlet=tunnels, now=Clock().now
        )
        rendered = metrics(
            answers_received=lambda: tunnels.received,
            answers_dropped=lambda: service.dropped,
            broker_connected=lambda: tunnels.connected,
            broker_reconnects=lambda: tunnels.reconnects,
        )
        tunnels.serve(service)
        service.load("me")
        service.start()
        assert read(rendered)["puppetmaster_broker_connected", ""] == 0
        presence: asyncio.Queue[Any] = asyncio.Queue()
        device = Bus(
            broker.address, "device", lambda topic, payload: presence.put_nowait(json.loads(payload)),
            topics=[presence_topic("me")],
        )  # fmt: skip
        await device.start(TIMEOUT)
        starting = asyncio.create_task(tunnels.start())
        while (await presence.get())["connection"] != "online":
            continue
        device.publish(answer_topic("a", "me"), b"no answer")
        device.publish(answer_topic("a", "me"), b'{"id": 1000000, "code": 200}')
        while (await presence.get())["dropped"] != {"malformed": 1, "unknown": 1}:
            continue
        figures = read(rendered)
        assert (tunnels.received, figures["puppetmaster_answers_taken_total", ""]) == (2, 0)
        assert figures["puppetmaster_broker_connected", ""] == 1
        assert figures["puppetmaster_broker_reconnects_total", ""] == 0
        await asyncio.to_thread(broker.kill)
        await asyncio.to_thread(broker.start)
        while not tunnels.reconnects:
            await presence.get()
        assert read(rendered)["puppetmaster_broker_reconnects_total", ""] == 1
        starting.cancel()
        await asyncio.gather(starting, return_exceptions=True)
        await service.close()
        await tunnels.close()
        await device.close(drain=0)

    with BrokerProcess() as broker:
        asyncio.run(asyncio.wait_for(main(broker), 3 * TIMEOUT))


def test_what_stands_around_is_there_or_not() -> None:
    yes, no = (lambda: True), (lambda: False)
    figures = read(metrics(broker_connected=yes, controller_registered=no, store_writable=yes,
                           broker_reconnects=lambda: 3, watchers=lambda: 41,
                           devices=lambda: {Connection.ONLINE: 7}))  # fmt: skip
    assert figures["puppetmaster_broker_connected", ""] == 1
    assert figures["puppetmaster_controller_registered", ""] == 0
    assert figures["puppetmaster_store_writable", ""] == 1
    assert figures["puppetmaster_broker_reconnects_total", ""] == 3
    assert figures["puppetmaster_watchers", ""] == 41
    devices = {label: value for (name, label), value in figures.items() if name == "puppetmaster_devices"}
    assert devices == {"online": 7, "offline": 0, "unknown": 0}


def test_commits_of_a_store_are_counted_and_timed(tmp_path: Path) -> None:
    times = commit_times()

    async def write() -> TinyStore:
        store = TinyStore.open(tmp_path, on_commit=times.observe)
        for number in range(3):
            store.put("jobs", {1: {"number": number}})
            await store.commit()
        return store

    store = asyncio.run(write())
    sources = Sources(**{**SOURCES, "commits": lambda: store.commits, "bytes_written": lambda: store.bytes_written})
    figures = read(Metrics(version="1", instance="me", sources=sources, commit_times=times))
    assert figures["puppetmaster_journal_commits_total", ""] == 3
    assert figures["puppetmaster_journal_commit_seconds_count", ""] == 3
    assert figures["puppetmaster_journal_commit_seconds_sum", ""] > 0
    written = sum(path.stat().st_size for path in tmp_path.iterdir() if path.suffix != ".lock")
    assert figures["puppetmaster_journal_written_bytes_total", ""] == written
    asyncio.run(store.close())


def test_commit_times_are_told_apart_from_a_tenth_of_a_millisecond_to_a_second() -> None:
    times = commit_times()
    for bucket in COMMIT_BUCKETS:
        times.observe(bucket)
    figures = read(Metrics(version="1", instance="me", sources=Sources(**SOURCES), commit_times=times))
    counts = [value for (name, _), value in figures.items() if name.endswith("commit_seconds_bucket")]
    assert counts == [*range(1, len(COMMIT_BUCKETS) + 1), len(COMMIT_BUCKETS)]
    assert (COMMIT_BUCKETS[0], COMMIT_BUCKETS[-1]) == (0.0001, 1.0)


def test_nothing_is_asked_before_somebody_wants_to_know() -> None:
    asked: list[str] = []
    rendered = metrics(watchers=lambda: asked.append("watchers") or 1)
    assert asked == []
    rendered.render()
    rendered.render()
    assert asked == ["watchers", "watchers"]


def test_two_bundles_in_one_process_do_not_see_each_other() -> None:
    one, other = metrics(watchers=lambda: 1), metrics(watchers=lambda: 2)
    assert (read(one)["puppetmaster_watchers", ""], read(other)["puppetmaster_watchers", ""]) == (1, 2)
    assert not [family.name for family in REGISTRY.collect() if family.name.startswith("puppetmaster")]
