"""The pace at which the changes of a job are told: at most ten in any second for each job, and the last one always.

Eight of the ten are for what changes while the job runs, one in each interval. The other two are for its end and its
removal, which come once in its life and wait for nothing: a job that is done in 3 ms is seen to be done after 3 ms.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from collections.abc import Callable
from typing import Generic, TypeVar

from puppetmaster.effects import Change

INTERVAL = 0.125
"""Seconds between two changes of a running job that are told: eight in any second, and a bar still moves smoothly."""

NEVER = float("inf")

_T = TypeVar("_T")


class Pacing(Generic[_T]):
    """Keeps the newest untold change of every job until it may be told.

    What it costs does not depend on how many jobs wait or rest. For one thread, the loop's.

    :param say: tells a change; it is called on the loop, never from within :meth:`tell`.
    """

    def __init__(self, say: Callable[[Change, int, _T], None]) -> None:
        self._say = say
        self._untold: dict[int, tuple[Change, _T]] = {}
        self._due: deque[int] = deque()
        """The untold jobs that need not rest, the one that waits longest first."""
        self._resting: OrderedDict[int, float] = OrderedDict()
        """The jobs that were told of within the interval, with the end of it, soonest first."""
        self._held = False
        self._timer: asyncio.Handle | None = None
        self._timer_at = NEVER

    def tell(self, change: Change, job_id: int, what: _T, *, ended: bool) -> None:
        """A job changed; takes the place of what is untold of it.

        :param ended: whether the job has ended or is removed, which is told at once. The pace holds because nothing
            else becomes of such a job: it ends once, and after that it can only be removed, once.
        """
        earlier = self._untold.get(job_id)
        if ended and job_id in self._resting:
            del self._resting[job_id]
            self._due.append(job_id)
        elif earlier is None and job_id not in self._resting:
            self._due.append(job_id)
        if earlier is not None and earlier[0] is Change.CREATED and change is Change.CHANGED:
            change = Change.CREATED  # nobody has heard of it yet
        self._untold[job_id] = (change, what)
        self._arm()

    def untold(self, job_id: int) -> _T | None:
        """What is still to be told of a job."""
        entry = self._untold.get(job_id)
        return entry[1] if entry is not None else None

    def hold(self, held: bool) -> None:
        """Tell nothing while it is held; what changes meanwhile is told afterwards."""
        self._held = held
        self._arm()

    def flush(self) -> None:
        """Tell all that is untold now, held or not."""
        now = asyncio.get_running_loop().time()
        self._due.clear()
        for job_id in list(self._untold):
            self._tell(job_id, now)
        self._arm()

    def _arm(self) -> None:
        """Have :meth:`_go_on` called when there is something to do."""
        if self._due and not self._held:
            when = 0.0
        elif self._resting:
            when = next(iter(self._resting.values()))
        else:
            return
        if when >= self._timer_at:
            return
        if self._timer is not None:
            self._timer.cancel()
        loop = asyncio.get_running_loop()
        self._timer = loop.call_at(when, self._go_on) if when else loop.call_soon(self._go_on)
        self._timer_at = when

    def _go_on(self) -> None:
        self._timer, self._timer_at = None, NEVER
        now = asyncio.get_running_loop().time()
        self._end_rests(now)
        while self._due and not self._held:
            self._tell(self._due.popleft(), now)
        self._arm()

    def _end_rests(self, now: float) -> None:
        while self._resting:
            job_id, end = next(iter(self._resting.items()))
            if end > now:
                return
            del self._resting[job_id]
            if job_id in self._untold:
                self._due.append(job_id)

    def _tell(self, job_id: int, now: float) -> None:
        change, what = self._untold.pop(job_id)
        self._resting[job_id] = now + INTERVAL
        self._resting.move_to_end(job_id)
        self._say(change, job_id, what)
