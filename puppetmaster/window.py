"""The window: which requests are out, and which one goes next.

At most ``size`` requests are out over all jobs, at most one to each destination, for a device's controller locks its
resources while it works. A job of a higher priority goes first; jobs of one priority take turns, a request each.
"""

from __future__ import annotations

from bisect import insort_left
from collections import deque
from collections.abc import Callable

from puppetmaster.directory import Directory, EmptyDirectory
from puppetmaster.models import Job, Request
from puppetmaster.states import JobStatus, RequestStatus

MAX_WINDOW = 1000
"""Mosquitto queues 1,000 messages a client and drops the rest without a word, so no more may be out at once."""

RATE_CATCH_UP = 1.0
"""Seconds of a job's rate that may be made up for when the loop, or a full window, was late."""

NEVER = float("inf")


class Window:
    """The requests that are out and the jobs that have one to send.

    :param wake_at: has a job woken (:meth:`wake`) at a time, by its id.
    """

    def __init__(
        self, size: int, wake_at: Callable[[float, int], None], directory: Directory | None = None
    ) -> None:
        self.size = min(size, MAX_WINDOW)
        self.used = 0
        """How many places are taken; what does not go over the broker takes none."""
        self.knows_who_is_away = True
        """Whether the directory is up to date."""
        self.absent: list[Request] = []
        """What had its turn while its device was away, or may have been, for the engine to decide on."""
        self._directory = directory or EmptyDirectory()
        self.out: dict[int, Request] = {}
        """By id."""
        self.busy: dict[str, Request] = {}
        """Those of them that their destination gets alone, by destination."""
        self.next_expiry = NEVER
        """Not after the first deadline of what is out."""
        self._wake_at = wake_at
        self._parked: dict[str, list[Request]] = {}
        """What has its turn in its job but not at its destination, where another job's request is out or about to
        be; who is next stands last."""
        self._offers: dict[int, list[str]] = {}
        """Destinations that were offered to a job, by its id; some of them it may have used already."""
        self._rings: dict[int, deque[Job]] = {}
        """The jobs that may have something to send, by priority; the first of each has the turn."""

    @property
    def is_full(self) -> bool:
        """Whether nothing more may go out."""
        return self.used >= self.size

    def enter(self, request: Request, deadline: float) -> None:
        """A request is out, until ``deadline`` at the latest."""
        request.deadline = deadline
        request.is_out = True
        request.job.out_count += 1
        self.out[request.id] = request
        request.is_bounded = self._directory.is_bounded(request)
        # After a restart two may be out to one destination: it had them by a way that it does not have any more.
        request.is_alone = request.destination not in self.busy and not self._directory.is_shared(request)
        if request.is_bounded:
            self.used += 1
        if request.is_alone:
            self.busy[request.destination] = request
        self.next_expiry = min(self.next_expiry, deadline)

    def leave(self, request: Request) -> None:
        """A request is no longer out; others may go in its place. One that was not out changes nothing."""
        if not request.is_out:
            return
        request.is_out = False
        request.job.out_count -= 1
        del self.out[request.id]
        if request.is_bounded:
            self.used -= 1
        if request.is_alone:
            del self.busy[request.destination]
            self._offer(request.destination)
        self.wake(request.job)

    def wake(self, job: Job) -> None:
        """Give a job its turn again, if it has something to send."""
        if not job.runnable and job.ready and job.status is JobStatus.DISPATCHING:
            job.runnable = True
            self._rings.setdefault(job.limits.priority, deque()).append(job)

    def withdraw(self, job: Job) -> None:
        """Take a job's turn away: it has ended, or its priority changes."""
        self._pass_on(job)
        if job.runnable:
            self._rings[job.limits.priority].remove(job)
            job.runnable = False

    def reorder(self) -> None:
        """The priority of a job has changed: what waits for a destination may go in another order."""
        for destination, waiting in list(self._parked.items()):
            waiting.sort(key=_priority)
            if destination not in self.busy:
                self._offer(destination)

    def next_request(self, now: float) -> Request | None:
        """The request that goes next, if one may go now."""
        if self.is_full:
            return None
        while self._rings:
            priority = max(self._rings)
            ring = self._rings[priority]
            while ring:
                job = ring[0]
                request = self._take(job, now)
                if request is not None:
                    ring.rotate(-1)
                    return request
                ring.popleft()
                job.runnable = False
                self._pass_on(job)
            del self._rings[priority]
        return None

    def overdue(self, now: float) -> list[Request]:
        """What has been out too long; the caller makes each of them leave. The window is small, so a scan is cheap."""
        if now < self.next_expiry:
            return []
        deadlines = [request.deadline for request in self.out.values() if request.deadline > now]
        self.next_expiry = min(deadlines, default=NEVER)
        return [request for request in self.out.values() if request.deadline <= now]

    def _take(self, job: Job, now: float) -> Request | None:
        """The job's next request, if it may send one now; whatever forbids it wakes the job when it is over."""
        if job.status is not JobStatus.DISPATCHING:
            return None
        if job.limits.concurrency is not None and job.out_count >= job.limits.concurrency:
            return None
        if job.limits.rate is not None and job.ready and job.next_send_at > now:
            if job.rate_timer != job.next_send_at:
                job.rate_timer = job.next_send_at
                self._wake_at(job.next_send_at, job.id)
            return None
        while job.ready:
            request = job.ready.popleft()
            free = request.destination not in self.busy or self._directory.is_shared(request)
            if request.status is not RequestStatus.CREATED or request.is_out:
                if free:
                    self._offer(request.destination)  # it may have been offered to this one
            elif free and job.limits.offline is not None and self._may_be_away(request):
                self.absent.append(request)
                self._offer(request.destination)  # to a job that sends to it all the same
            elif free:
                return request
            else:
                insort_left(self._parked.setdefault(request.destination, []), request, key=_priority)
        return None

    def _may_be_away(self, request: Request) -> bool:
        return not self.knows_who_is_away or self._directory.is_offline(request.destination)

    def _offer(self, destination: str) -> None:
        """A destination is free: wake the first that waits for it. To wake all would cost each of them a turn."""
        waiting = self._parked.get(destination)
        while waiting:
            request = waiting.pop()
            if request.is_final:
                continue
            request.job.ready.appendleft(request)
            self.wake(request.job)
            if request.job.runnable:
                self._offers.setdefault(request.job.id, []).append(destination)
                break
        if not waiting:
            self._parked.pop(destination, None)

    def _pass_on(self, job: Job) -> None:
        """A job loses its turn: what it was offered and did not use must not lie idle while others wait for it."""
        for destination in self._offers.pop(job.id, ()):
            if destination not in self.busy:
                self._offer(destination)


def _priority(request: Request) -> int:
    return request.job.limits.priority


def pace(job: Job, now: float) -> None:
    """Note that a job sent a request, for its rate."""
    if job.limits.rate is None:
        return
    interval = job.limits.rate.interval(job.finish_count)
    # A rate of hundreds a second is kept over ticks that come late; a slow one never sends two at once.
    earliest = now - RATE_CATCH_UP if interval < RATE_CATCH_UP else now
    job.next_send_at = max(job.next_send_at, earliest) + interval
