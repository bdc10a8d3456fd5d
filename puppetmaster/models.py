"""Jobs and their requests, as the engine holds them. Times are seconds since 1970 (UTC), durations are seconds."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from puppetmaster.policies import DEFAULT_RETRY, AbortThreshold, Offline, Rate, RetryPolicy, Targets
from puppetmaster.states import JOB_FINAL, REQUEST_FAILED, REQUEST_FINAL, JobStatus, RequestStatus

FIRST_ID = 1_000_000
"""Ids of jobs and requests count up from here: the SDK draws its own from 0..655350, so they never meet."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """What a device is asked to do."""

    method: str
    """get, post, put or delete."""
    resource: str
    data: Any = None
    """Any JSON value; none is not sent."""
    timeout: float
    """Seconds that each attempt may take."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What may be changed while a job runs."""

    timeout: float | None = None
    """Seconds for the whole job, counted from its start."""
    concurrency: int | None = None
    """How many of its requests may be out at once."""
    retry: RetryPolicy = DEFAULT_RETRY
    rate: Rate | None = None
    abort: AbortThreshold | None = None
    priority: int = 50
    """0 to 100; a higher one goes first."""
    offline: Offline | None = None
    """What becomes of requests to devices that are away; none: they are sent, and the broker may keep them."""


DEFAULT_LIMITS = Limits()


@dataclass(frozen=True, slots=True, kw_only=True)
class JobSpec:
    """A job as its caller wants it, in the one form that all three spellings come to."""

    messages: Sequence[Message]
    """Each once, however many destinations it has."""
    batch: Sequence[tuple[int, Sequence[str]]]
    """Numbers of messages and where they go, in the order in which each destination gets them."""
    limits: Limits = DEFAULT_LIMITS
    start_at: float | None = None
    name: str | None = None
    labels: tuple[str, ...] = ()
    key: str | None = None
    """Idempotency key."""
    fingerprint: str = ""
    """Tells whether two bodies with one key are the same."""
    dry_run: bool = False
    """Whether its caller wants to know no more than that it could be made."""
    targets: Targets | None = None
    """Where every message goes beside the destinations that the batch names."""

    @property
    def total(self) -> int:
        """How many requests it expands to."""
        return sum(len(destinations) for _, destinations in self.batch)


@dataclass(slots=True, kw_only=True, eq=False)
class Job:
    """A job and its counters. Its requests have the ids ``first_request`` and the ``total_count - 1`` that follow."""

    id: int
    messages: Sequence[Message]
    first_request: int
    total_count: int
    created_at: float
    limits: Limits = DEFAULT_LIMITS
    start_at: float | None = None
    name: str | None = None
    labels: tuple[str, ...] = ()
    key: str | None = None
    fingerprint: str = ""
    targets: Targets | None = None
    """Where every message goes beside the destinations that were named."""
    plan: Sequence[tuple[int, Sequence[str]]] | None = None
    """The batch of a job whose targets are looked up when it starts, until then: it has no requests yet."""
    status: JobStatus = JobStatus.PENDING
    reason: str = "created"
    """Why it is in its status, for people."""
    started_at: float | None = None
    finished_at: float | None = None
    counts: dict[RequestStatus, int] = field(default_factory=lambda: dict.fromkeys(RequestStatus, 0))
    progress_sum: int = 0
    """The sum of its requests' progress."""

    # What only the engine uses, and what is not stored.
    lines: tuple[Line, ...] = ()
    """Requests whose turn it is: those that take no place in the window, and those that do. A job that has ended has
    no lines: they would make it a cycle, which only the collector frees."""
    out_count: int = 0
    next_send_at: float = 0.0
    """When its rate allows the next request."""
    rate_timer: float = 0.0
    """The time that the engine last asked to be woken at for it."""
    deadline_timer: float = float("inf")
    """The same for its deadline; the earliest, if its limits change."""

    def __post_init__(self) -> None:
        if not self.is_final:
            self.lines = (Line(self), Line(self))

    @property
    def is_final(self) -> bool:
        """Whether it has ended."""
        return self.status in JOB_FINAL

    @property
    def finish_count(self) -> int:
        """How many requests resolved."""
        return self.counts[RequestStatus.RESOLVED]

    @property
    def done_count(self) -> int:
        """How many requests ended."""
        return sum(map(self.counts.__getitem__, REQUEST_FINAL))

    @property
    def error_count(self) -> int:
        """How many requests ended without success."""
        return self.done_count - self.finish_count

    @property
    def failed_count(self) -> int:
        """How many requests ended by their device's doing, that is, without the canceled ones."""
        return sum(self.counts[status] for status in REQUEST_FAILED)

    @property
    def progress(self) -> int:
        """0 to 100, the mean of its requests' progress, rounded down: 100 only when all have ended."""
        return mean_progress(self.progress_sum, self.total_count, self.is_final)

    @property
    def deadline(self) -> float | None:
        """When its time is over, if it has started and has a timeout."""
        if self.limits.timeout is None or self.started_at is None:
            return None
        return self.started_at + self.limits.timeout

    @property
    def request_ids(self) -> range:
        """The ids of its requests, in the order of the batch."""
        return range(self.first_request, self.first_request + self.total_count)


def mean_progress(progress_sum: int, total_count: int, is_final: bool) -> int:
    """The progress of a job; one without requests has none until it ends."""
    return progress_sum // total_count if total_count else 100 * is_final


@dataclass(slots=True, eq=False)
class Line:
    """Requests of a job that wait side by side: what holds up one of them holds up the others."""

    job: Job
    ready: deque[Request] = field(default_factory=deque)
    """Those whose turn it is in their job."""
    runnable: bool = False
    """Whether the scheduler has it in a ring."""


@dataclass(slots=True, eq=False)
class Request:
    """One message to one destination."""

    # Its first four may be given by place: a call with names takes twice as long, and there are 100,000 in a job.

    id: int
    job: Job
    message_number: int
    """The place of its message among those of its job."""
    destination: str
    status: RequestStatus = RequestStatus.CREATED
    reason: str = "created"
    """Why it is in its status, for people."""
    attempt: int = 0
    """How often it was handed to the broker; all attempts have the same id."""
    retry_at: float = 0.0
    """When the next attempt is due, while it waits for it; else 0."""
    progress: int = 0
    """0 to 100; whatever ended is at 100."""
    sent_at: float | None = None
    """When the broker had the last attempt."""
    finished_at: float | None = None
    code: int | None = None
    """The code of the final answer."""
    result: Any = None
    """The answer's data on success, else ``{code, resource, data}``."""

    # What only the engine uses, and what is not stored.
    deadline: float = 0.0
    """When the attempt that is out has taken too long."""
    is_head: bool = False
    """Whether all requests before it in its job, to its destination, have ended."""
    is_out: bool = False
    """Whether it is on its way or worked on."""
    is_bounded: bool = False
    """Whether it goes over the broker, and so holds a place in the window while it is out."""
    is_alone: bool = False
    """Whether its destination gets no other one over the broker while it is out."""
    next_id: int = 0
    """The job's next request to the same destination; 0 means none."""

    @property
    def line(self) -> Line:
        """Where it waits for its turn."""
        return self.job.lines[self.is_bounded]

    @property
    def message(self) -> Message:
        """What its device is asked to do."""
        return self.job.messages[self.message_number]

    @property
    def is_final(self) -> bool:
        """Whether it has ended."""
        return self.status in REQUEST_FINAL
