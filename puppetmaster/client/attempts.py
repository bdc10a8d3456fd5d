"""Whether a call is made again, and when: decisions as values, without a clock."""

from __future__ import annotations

from typing import Any

from puppetmaster.client.calls import Call
from puppetmaster.client.errors import AnswerError, NoAnswer
from puppetmaster.errors import PuppetmasterError
from puppetmaster.policies import RetryPolicy

PATIENCE = 30.0
"""Seconds for which a call is made again and again: a restart takes less."""

FIRST_PATIENCE = 2.0
"""The same for a server that has never answered: a wrong address is more likely than a restart."""

BACKOFF = RetryPolicy(limit=1_000_000, delay=0.1, factor=2.0, max_delay=2.0, jitter=0.5)
"""The pauses between attempts: 0.1 s, doubled up to 2 s, each shortened at random by up to half."""

TOO_MANY, OUT_OF_SERVICE = 429, 503


class Attempts:
    """The attempts of one call.

    A call is made again when nothing can have come of it (no connection; 503: nothing was created), and, if it may be
    made twice, also when its answer was lost. The server's ``Retry-After`` is the shortest pause.

    :param patience: seconds for all attempts.
    :param now: seconds of a clock that never goes back.
    """

    def __init__(self, call: Call[Any], *, patience: float, now: float) -> None:
        self.number = 0
        """How many have failed."""
        self._call = call
        self._patience = patience
        self._since = now

    def next_delay(self, error: PuppetmasterError, *, reached: bool, now: float, random: float) -> float | None:
        """Seconds until the next attempt after this error, or none when it was the last.

        :param reached: whether the server has ever answered.
        :param random: from 0 to less than 1.
        """
        self.number += 1
        if not self._may_repeat(error):
            return None
        backoff = BACKOFF.next_delay(self.number, random) or 0.0
        delay = max(backoff, getattr(error, "retry_after", None) or 0.0)
        patience = self._patience if reached else min(self._patience, FIRST_PATIENCE)
        return delay if now + delay <= self._since + patience else None

    def _may_repeat(self, error: PuppetmasterError) -> bool:
        if isinstance(error, NoAnswer):
            return not error.lasting and (self._call.repeatable or not error.maybe_done)
        if isinstance(error, AnswerError) and error.code == TOO_MANY:
            return self._call.repeatable
        return isinstance(error, AnswerError) and error.code == OUT_OF_SERVICE
