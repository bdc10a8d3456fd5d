"""The figures of a running bundle, in the text that Prometheus reads.

They are counted where they arise, for the sake of the work there as plain numbers, and read when somebody asks. Only
the times of the commits are gathered here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.registry import Collector

from puppetmaster.effects import Verdict
from puppetmaster.models import Job
from puppetmaster.policies import Connection
from puppetmaster.states import JobStatus, RequestStatus

PREFIX = "puppetmaster_"

COMMIT_BUCKETS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0)
"""Seconds: from a disk that only pretends to sync to one that keeps everybody waiting."""

DROP_REASONS = (*(verdict.value for verdict in Verdict if verdict is not Verdict.APPLIED), "malformed")
"""Why an answer may be dropped."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sources:
    """Where the figures are; each is asked whenever they are rendered, and has to answer at once."""

    jobs: Callable[[], Iterable[Job]]
    """The jobs that are kept."""
    requests_ended: Callable[[], Mapping[RequestStatus, int]]
    """Since the start, by how they ended."""
    requests_sent: Callable[[], int]
    """Attempts since the start."""
    answers_received: Callable[[], int]
    """Since the start, those that were dropped included."""
    answers_dropped: Callable[[], Mapping[str, int]]
    """Since the start, by the reason."""
    window_used: Callable[[], int]
    window_size: Callable[[], int]
    commits: Callable[[], int]
    """Since the start."""
    bytes_written: Callable[[], int]
    """Since the start, to the files of the store."""
    broker_reconnects: Callable[[], int]
    """Since the start."""
    broker_connected: Callable[[], bool]
    controller_registered: Callable[[], bool]
    store_writable: Callable[[], bool]
    registry_writable: Callable[[], bool] = lambda: True
    memory_used: Callable[[], int] = int
    """Bytes."""
    memory_limit: Callable[[], int] = int
    """Bytes; 0 when there is none."""
    memory_refused: Callable[[], int] = int
    """Jobs since the start."""
    watchers: Callable[[], int]
    """WebSockets and event streams."""
    devices: Callable[[], Mapping[Connection, int]] = dict
    """Those that are known, by their connection."""


def commit_times() -> Histogram:
    """Make what gathers the seconds that each commit took: ``observe(seconds)``, from any thread."""
    return Histogram(
        f"{PREFIX}journal_commit_seconds",
        "Time that a commit took to be written and synced.",
        buckets=COMMIT_BUCKETS,
        registry=None,
    )


class Metrics:
    """Renders the figures; a registry of its own, so that nothing else comes with them."""

    content_type = CONTENT_TYPE_LATEST
    """Of what :meth:`render` returns."""

    def __init__(self, *, version: str, instance: str, sources: Sources, commit_times: Histogram) -> None:
        self._registry = CollectorRegistry()
        self._registry.register(_Figures({"version": version, "instance": instance}, sources))
        self._registry.register(commit_times)

    def render(self) -> bytes:
        """All figures as they are now."""
        return generate_latest(self._registry)


class _Figures(Collector):
    """Reads the sources when the registry is asked."""

    def __init__(self, build: dict[str, str], sources: Sources) -> None:
        self._build = build
        self._sources = sources

    def collect(self) -> Iterator[Metric]:
        """Read all of them."""
        yield InfoMetricFamily(f"{PREFIX}build", "What is running here.", self._build)
        yield from self._work()
        yield from self._answers()
        yield from self._store()
        yield from self._surroundings()

    def _work(self) -> Iterator[Metric]:
        ask = self._sources
        jobs, requests = _count(ask.jobs())
        yield _gauges("jobs", "Jobs that are kept.", "status", jobs)
        yield _gauges("requests", "Requests of the jobs that are kept.", "status", requests)
        ended = {status.value: count for status, count in ask.requests_ended().items()}
        yield _counters("requests_ended", "Requests that have ended.", "status", ended)
        yield _counter("requests_sent", "Attempts that were sent to destinations.", ask.requests_sent())
        yield _gauge("window_used", "Requests that are out.", ask.window_used())
        yield _gauge("window_size", "Requests that may be out at once.", ask.window_size())

    def _answers(self) -> Iterator[Metric]:
        dropped = dict.fromkeys(DROP_REASONS, 0) | dict(self._sources.answers_dropped())
        taken = self._sources.answers_received() - sum(dropped.values())
        yield _counter("answers_taken", "Answers of devices that changed something.", taken)
        yield _counters("answers_dropped", "Answers of devices that changed nothing.", "reason", dropped)

    def _store(self) -> Iterator[Metric]:
        ask = self._sources
        yield _counter("journal_commits", "Commits that were written and synced.", ask.commits())
        yield _counter("journal_written_bytes", "Bytes written to journal and snapshots.", ask.bytes_written())
        yield _gauge("store_writable", "Whether the store can write.", ask.store_writable())
        yield _gauge("registry_writable", "Whether the registry of devices can be written.", ask.registry_writable())
        yield _gauge("memory_bytes", "Memory that the process has.", ask.memory_used())
        yield _gauge("memory_limit_bytes", "Memory above which new jobs are refused; 0: none.", ask.memory_limit())
        yield _counter("jobs_refused_memory", "Jobs that were refused for want of memory.", ask.memory_refused())

    def _surroundings(self) -> Iterator[Metric]:
        ask = self._sources
        yield _gauge("broker_connected", "Whether the broker is connected.", ask.broker_connected())
        yield _counter("broker_reconnects", "Connections to the broker after one that broke.", ask.broker_reconnects())
        yield _gauge("controller_registered", "Whether the controller knows us.", ask.controller_registered())
        devices = ask.devices()
        counts = {connection.value: devices.get(connection, 0) for connection in Connection}
        yield _gauges("devices", "Devices that are known.", "connection", counts)
        yield _gauge("watchers", "WebSockets and event streams that are open.", ask.watchers())


def _count(jobs: Iterable[Job]) -> tuple[dict[str, int], dict[str, int]]:
    """The jobs and their requests, by status."""
    statuses: Counter[JobStatus] = Counter()
    requests = dict.fromkeys(RequestStatus, 0)
    for job in jobs:
        statuses[job.status] += 1
        for status, count in job.counts.items():
            requests[status] += count
    return (
        {status.value: statuses[status] for status in JobStatus},
        {status.value: count for status, count in requests.items()},
    )


def _gauge(name: str, about: str, value: float) -> Metric:
    return GaugeMetricFamily(PREFIX + name, about, value)


def _counter(name: str, about: str, value: float) -> Metric:
    return CounterMetricFamily(PREFIX + name, about, value)


def _gauges(name: str, about: str, label: str, values: Mapping[str, float]) -> Metric:
    return _fill(GaugeMetricFamily(PREFIX + name, about, labels=[label]), values)


def _counters(name: str, about: str, label: str, values: Mapping[str, float]) -> Metric:
    return _fill(CounterMetricFamily(PREFIX + name, about, labels=[label]), values)


def _fill(family: GaugeMetricFamily | CounterMetricFamily, values: Mapping[str, float]) -> Metric:
    for label, value in values.items():
        family.add_metric([label], value)
    return family
