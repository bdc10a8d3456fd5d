"""A job that is being made: its requests come into being a slice at a time, so that the loop gets its turns."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import islice

from puppetmaster.models import Job, Request


class Draft:
    """A job whose requests are not all made yet. Nobody knows of it before it is submitted.

    :param batch: see JobSpec.
    :param line_up: is given the first request to each destination: its turn in the job has come.
    """

    def __init__(
        self, job: Job, batch: Sequence[tuple[int, Sequence[str]]], line_up: Callable[[Request], None]
    ) -> None:
        self.job = job
        self.requests: dict[int, Request] = {}
        """Those that are made."""
        self._next_id = job.first_request
        self._rest = ((number, destination) for number, destinations in batch for destination in destinations)
        self._last: dict[str, Request] = {}
        """The last request to each destination."""
        self._line_up = line_up

    def make(self, count: int) -> dict[int, Request]:
        """Make the next ``count`` requests, chained to those before them to the same destination; none are left when
        it returns none."""
        job, last, ident = self.job, self._last, self._next_id
        made: dict[int, Request] = {}
        for number, destination in islice(self._rest, count):
            request = Request(ident, job, number, destination)
            previous = last.get(destination)
            if previous is None:
                request.is_head = True
                self._line_up(request)
            else:
                previous.next_id = ident
            last[destination] = made[ident] = request
            ident += 1
        self._next_id = ident
        self.requests.update(made)
        return made
