"""The chunks that workers may have, in the order in which they go: the most urgent task first, of those the oldest."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterator
from dataclasses import dataclass

from puppetmaster.farm.work import Given
from puppetmaster.models import Job, Request


@dataclass(slots=True, eq=False)
class Offer:
    """A chunk that a worker may have."""

    request: Request
    attempt: int
    given: Given


class Offers:
    """All of them. The order is kept, not made: hundreds of workers ask while ten thousand tasks wait."""

    def __init__(self) -> None:
        self._offers: dict[int, dict[int, Offer]] = {}
        """By task and chunk."""
        self._priorities: dict[int, int] = {}
        self._order: list[tuple[int, int]] = []
        """What is in :attr:`_ranks`, sorted."""
        self._ranks: dict[int, tuple[int, int]] = {}
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[tuple[Job, list[Offer]]]:
        """The tasks in their order, with their chunks; what is on offer may change meanwhile."""
        for _, task_id in list(self._order):
            offers = self._offers.get(task_id)
            if offers:
                found = list(offers.values())
                yield found[0].request.job, found

    def put(self, offer: Offer) -> None:
        """One more, or a newer attempt of one."""
        task_id, chunk = offer.request.job.id, offer.request.id
        offers = self._offers.setdefault(task_id, {})
        self._count += chunk not in offers
        offers[chunk] = offer
        self.rank(task_id)

    def withdraw(self, request: Request) -> None:
        """One is not on offer any more; idempotent."""
        offers = self._offers.get(request.job.id, {})
        if offers.pop(request.id, None) is None:
            return
        self._count -= 1
        if not offers:
            del self._offers[request.job.id]
            self.rank(request.job.id)

    def forget(self, task_id: int) -> None:
        """A task was removed."""
        self._count -= len(self._offers.pop(task_id, ()))
        self._priorities.pop(task_id, None)
        self.rank(task_id)

    def prioritize(self, task_id: int, priority: int) -> None:
        """Keep what the maker of a task gave as its priority: that of a job is cut to 0 to 100."""
        self._priorities[task_id] = priority
        self.rank(task_id)

    def rank(self, task_id: int) -> None:
        """Put a task where it belongs: its job may have another priority now."""
        offers, old = self._offers.get(task_id), self._ranks.pop(task_id, None)
        new = (-self._priority(next(iter(offers.values())).request.job), task_id) if offers else None
        if new is not None:
            self._ranks[task_id] = new
        if new == old:
            return
        if old is not None:
            del self._order[bisect_left(self._order, old)]
        if new is not None:
            insort(self._order, new)

    def _priority(self, job: Job) -> int:
        given = self._priorities.get(job.id)
        # The job's own counts: it may have been changed by another edge.
        return given if given is not None and bounded_priority(given) == job.limits.priority else job.limits.priority


def bounded_priority(priority: int) -> int:
    """A priority as jobs have it, 0 to 100."""
    return max(0, min(100, priority))
