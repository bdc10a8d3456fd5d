"""The window: which requests are out, and which one goes next.

At most ``size`` requests are out over all jobs, at most one to each destination, for a device's controller locks its
resources while it works. A job of a higher priority goes first; jobs of one priority take turns, a request each.

What does not go over the broker waits in lines of its own, and for none of that: a window that is full of silent
devices, or a broker that is away, must not keep this machine, or agents that poll, from their work.
"""

from __future__ import annotations

from bisect import insort_left
from collections import deque
from collections.abc import Callable

from puppetmaster.directory import Directory, EmptyDirectory
from puppetmaster.models import Job, Line, Request
from puppetmaster.states import JobStatus, RequestStatus

MAX_WINDOW = 1000
"""Mosquitto queues 1,000 messages a client and drops the rest without a word, so no more may be out at once."""

RATE_CATCH_UP = 1.0
"""Seconds of a job's rate that may be made up for when the loop, or a full window, was late."""

NEVER = float("inf")

# A member of an enum takes 75 ns to find, a name of the module 20, and these are looked at for each request.
_DISPATCHING, _CREATED = JobStatus.DISPATCHING, RequestStatus.CREATED

_Rings = dict[int, deque[Line]]
"""By priority; the first of each ring has the turn."""


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
        self.has_link = True
        """Whether the broker can be reached."""
        self.knows_who_is_away = True
        """Whether the directory is up to date on those that are reached over the broker."""
        self.absent: list[Request] = []
        """What had its turn while its device was away, or may have been, for the engine to decide on."""
        self._directory = directory or EmptyDirectory()
        self._is_bounded = self._directory.is_bounded
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
        self._rings: tuple[_Rings, _Rings] = ({}, {})
        """The lines of jobs that may have something to send: beside the broker, and over it."""

    def line_up(self, request: Request, first: bool = False) -> None:
        """It is a request's turn in its job; :meth:`wake` follows. The way that it would take now is the one that
        counts."""
        request.is_bounded = is_bounded = self._is_bounded(request)
        ready = request.job.lines[is_bounded].ready
        if first:
            ready.appendleft(request)
        else:
            ready.append(request)

    def restore(self, request: Request, deadline: float) -> None:
        """A request is out since an earlier life."""
        request.is_bounded = self._is_bounded(request)
        self.enter(request, deadline)

    def enter(self, request: Request, deadline: float) -> None:
        """A request is out, until ``deadline`` at the latest."""
        request.deadline = deadline
        request.is_out = True
        request.job.out_count += 1
        self.out[request.id] = request
        if request.is_bounded:
            self.used += 1
            # After a restart two may be out to one destination: it had them by a way that it does not have any more.
            if request.destination not in self.busy:
                request.is_alone = True
                self.busy[request.destination] = request
        if deadline < self.next_expiry:
            self.next_expiry = deadline

    def leave(self, request: Request) -> None:
        """A request is no longer out; others may go in its place. One that was not out changes nothing."""
        if not request.is_out:
            return
        job = request.job
        request.is_out = False
        job.out_count -= 1
        del self.out[request.id]
        if request.is_bounded:
            self.used -= 1
        if request.is_alone:
            request.is_alone = False
            del self.busy[request.destination]
            if request.destination in self._parked:
                self._offer(request.destination)
        self.wake(job)

    def wake(self, job: Job) -> None:
        """Give a job its turn again, if it has something to send."""
        if job.status is not _DISPATCHING:
            return
        beside, bounded = job.lines  # spelled out, for it is called at every answer
        if bounded.ready and not bounded.runnable:
            self._admit(bounded, self._rings[1])
        if beside.ready and not beside.runnable:
            self._admit(beside, self._rings[0])

    def _admit(self, line: Line, rings: _Rings) -> None:
        line.runnable = True
        rings.setdefault(line.job.limits.priority, deque()).append(line)

    def withdraw(self, job: Job) -> None:
        """Take a job's turn away: it has ended, or its priority changes."""
        self._pass_on(job)
        for line, rings in zip(job.lines, self._rings, strict=True):
            if line.runnable:
                rings[job.limits.priority].remove(line)
                line.runnable = False

    def reorder(self) -> None:
        """The priority of a job has changed: what waits for a destination may go in another order."""
        for destination, waiting in list(self._parked.items()):
            waiting.sort(key=_priority)
            if destination not in self.busy:
                self._offer(destination)

    def next_request(self, now: float) -> Request | None:
        """The request that goes next, if one may go now."""
        beside, bounded = self._rings
        request = self._next_in(beside, now) if beside else None
        if request is None and bounded and self.has_link and self.used < self.size:
            request = self._next_in(bounded, now)
        return request

    def overdue(self, now: float) -> list[Request]:
        """What has been out too long; the caller makes each of them leave.

        A look goes through all that is out, so it is only taken when the first deadline may have passed.
        """
        if now < self.next_expiry:
            return []
        deadlines = [request.deadline for request in self.out.values() if request.deadline > now]
        self.next_expiry = min(deadlines, default=NEVER)
        return [request for request in self.out.values() if request.deadline <= now]

    def _next_in(self, rings: _Rings, now: float) -> Request | None:
        while rings:
            priority = max(rings)
            ring = rings[priority]
            while ring:
                line = ring[0]
                request = self._take(line, now)
                if request is not None:
                    ring.rotate(-1)
                    return request
                ring.popleft()
                line.runnable = False
                self._pass_on(line.job)
            del rings[priority]
        return None

    def _take(self, line: Line, now: float) -> Request | None:
        """A job's next request, if it may send one now; whatever forbids it wakes the job when it is over."""
        job, ready, limits = line.job, line.ready, line.job.limits
        if job.status is not _DISPATCHING:
            return None
        if limits.concurrency is not None and job.out_count >= limits.concurrency:
            return None
        if limits.rate is not None and ready and job.next_send_at > now:
            if job.rate_timer != job.next_send_at:
                job.rate_timer = job.next_send_at
                self._wake_at(job.next_send_at, job.id)
            return None
        while ready:
            request = ready.popleft()
            free = not request.is_bounded or request.destination not in self.busy
            if request.status is not _CREATED or request.is_out:
                if free:
                    self._offer(request.destination)  # it may have been offered to this one
            elif free and limits.offline is not None and self._may_be_away(request):
                self.absent.append(request)
                self._offer(request.destination)  # to a job that sends to it all the same
            elif free:
                return request
            else:
                insort_left(self._parked.setdefault(request.destination, []), request, key=_priority)
        return None

    def _may_be_away(self, request: Request) -> bool:
        is_known = self.knows_who_is_away or not request.is_bounded
        return not is_known or self._directory.is_offline(request.destination)

    def _offer(self, destination: str) -> None:
        """A destination is free: wake the first that waits for it. To wake all would cost each of them a turn."""
        waiting = self._parked.get(destination)
        while waiting:
            request = waiting.pop()
            if request.is_final:
                continue
            request.line.ready.appendleft(request)
            self.wake(request.job)
            if request.line.runnable:
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
