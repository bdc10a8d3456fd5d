"""Which agents are there: those that wait for tasks now, or did a moment ago."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import Callable, Iterator

from puppetmaster.dut.errors import TooManyPolls

GRACE = 60.0
"""Seconds for which an agent is there after its last poll has ended: it works on what it was given, and polls again."""

MAX_POLLS = 16
"""Connections over which one agent may wait at once."""


class Presence:
    """Counts the polls of each agent; on the loop.

    :param on_connection: hears when an agent comes (true) and goes; it must not block or raise.
    """

    def __init__(self, on_connection: Callable[[str, bool], None] | None = None) -> None:
        self._on_connection = on_connection or _ignore
        self._polls: Counter[str] = Counter()
        self._leaving: dict[str, asyncio.TimerHandle] = {}

    def is_online(self, agent: str) -> bool:
        """Whether it is there."""
        return self._polls[agent] > 0 or agent in self._leaving

    @contextlib.contextmanager
    def polling(self, agent: str) -> Iterator[None]:
        """Take an agent for there while it polls, and a while after it. Raises TooManyPolls."""
        if self._polls[agent] >= MAX_POLLS:
            raise TooManyPolls(MAX_POLLS)
        was_online = self.is_online(agent)
        self._polls[agent] += 1
        self._stay(agent)
        if not was_online:
            self._on_connection(agent, True)
        try:
            yield
        finally:
            self._polls[agent] -= 1
            if not self._polls[agent]:
                del self._polls[agent]
                self._leaving[agent] = asyncio.get_running_loop().call_later(GRACE, self.forget, agent)

    def forget(self, agent: str) -> None:
        """Take an agent for gone: its time is over, or its account."""
        if agent in self._leaving:
            self._stay(agent)
            self._on_connection(agent, False)

    def close(self) -> None:
        """Let go of the timers."""
        for timer in self._leaving.values():
            timer.cancel()
        self._leaving.clear()

    def _stay(self, agent: str) -> None:
        timer = self._leaving.pop(agent, None)
        if timer is not None:
            timer.cancel()


def _ignore(agent: str, online: bool) -> None:
    """Tell nobody."""
