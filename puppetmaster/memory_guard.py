"""Refuses jobs before the memory runs out. The rule alone: who can read the process's memory is handed in.

A job is refused when what the process has, and what the job is going to take, pass the limit. What the process has is
counted by the system (RSS), so whatever else takes memory counts too. The system does not get back all that was
freed: an allocator keeps it for what comes next. So what jobs that are gone were reckoned to have taken is subtracted
from what a new one takes, as far as the process still has it; otherwise one large job would keep out the next one like
it for ever.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from puppetmaster.errors import MemoryShort
from puppetmaster.logs import Seldom

logger = logging.getLogger(__name__)

MIB = 1024 * 1024

LIVE_BYTES = 1300
"""Bytes for each request of a job while it runs, at the peak; measured, see docs/operations.md, Sizes."""

KEPT_BYTES = 20
"""Bytes for each request of a job that has ended and is kept: where it lies in the snapshot."""

MESSAGE_FACTOR = 10
"""Bytes for each byte of the messages' JSON: decoded, as a document in the store, and on its way."""

SMALL_JOB = MIB
"""Bytes that a job of some hundred requests takes; when they are not there, hardly any job is taken."""


class MemoryGuard:
    """The limit, and what is known of the memory.

    :param limit: bytes that the process may have.
    :param resident: reads how many it has.
    :param trim: has the allocator give back what it can.
    """

    def __init__(self, limit: int, resident: Callable[[], int], trim: Callable[[], None]) -> None:
        self.limit = limit
        self.refused = 0
        """Jobs since the start."""
        self._resident, self._trim = resident, trim
        self._base = resident()
        # What the jobs that are there are reckoned to take, and the most of it that the process may still have.
        self._reckoned = self._most_reckoned = 0
        # The smallest job that was refused since there was enough; 0 while there is.
        self._wanted = 0
        # Whether the log says so: who posts a large and a small job in turn has it short and not short each time.
        self._told = False
        self._seldom = Seldom()

    @property
    def shortage(self) -> str:
        """Why hardly any job is taken; empty when small ones are."""
        used = self._in_use()
        return "" if used + SMALL_JOB <= self.limit else f"{_mib(used)} of {_mib(self.limit)} MiB are in use"

    def admit(self, requests: int, message_bytes: int, *, live: int, kept: int) -> None:
        """Let a job in.

        :param requests: how many it has.
        :param message_bytes: the size of its messages as JSON.
        :param live: the requests of the jobs that run.
        :param kept: the requests of all jobs.
        :raises MemoryShort: when it would take too much.
        """
        cost = requests * LIVE_BYTES + message_bytes * MESSAGE_FACTOR
        used = self._room_for(cost, live, kept)
        if used + cost > self.limit:
            self._refuse(requests, cost, used)
        self._end_shortage(used, cost)

    def look(self, live: int, kept: int) -> None:
        """Look how much there is, now and then, so that it is known what the system got back; say when it is enough."""
        wanted = min(self._wanted or SMALL_JOB, self.limit // 10)
        self._end_shortage(self._room_for(wanted, live, kept), wanted)

    def _room_for(self, cost: int, live: int, kept: int) -> int:
        """Bytes that are in use, without those that jobs have left behind; trimmed when it would not do else."""
        self._reckoned = live * (LIVE_BYTES - KEPT_BYTES) + kept * KEPT_BYTES
        used = self._in_use()
        if used + cost <= self.limit:
            return used
        self._trim()
        return self._in_use()

    def _in_use(self) -> int:
        resident = self._resident()
        # What the system got back, others may take: it does not become room for jobs again when they do.
        self._most_reckoned = max(self._reckoned, min(self._most_reckoned, resident - self._base))
        return resident - (self._most_reckoned - self._reckoned)

    def _refuse(self, requests: int, cost: int, used: int) -> None:
        self.refused += 1
        if not self._told and (count := self._seldom.due("short")):
            self._told = True
            logger.warning(
                "memory is short: %d of %d MiB are in use; jobs that would take more are refused",
                _mib(used),
                _mib(self.limit),
                extra={"event": "memory_short", "used_bytes": used, "limit_bytes": self.limit, "count": count},
            )
        self._wanted = min(cost, self._wanted or cost)
        raise MemoryShort(
            f"memory is short: a job of {requests} requests takes about {_mib(cost, up=True)} MiB, and {_mib(used)} of "
            f"{_mib(self.limit)} MiB are in use; remove jobs, wait until some have ended, or raise max_memory"
        )

    def _end_shortage(self, used: int, cost: int) -> None:
        if self._wanted and cost >= min(self._wanted, self.limit // 10) and used + cost <= self.limit:
            self._wanted = 0
            if not self._told:
                return
            self._told = False
            logger.warning(
                "there is memory again: %d of %d MiB are in use",
                _mib(used),
                _mib(self.limit),
                extra={"event": "memory_available", "used_bytes": used, "limit_bytes": self.limit},
            )


def _mib(size_bytes: int, *, up: bool = False) -> int:
    return -(-size_bytes // MIB) if up else size_bytes // MIB
