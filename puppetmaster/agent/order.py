"""A request as it came to a device, and the way back for its answers."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

Key = tuple[int, str]
"""Id and tunnel: two puppetmasters count their ids from the same number."""

Reply = Callable[[int, Any], Awaitable[None]]
"""Publishes one answer (code, data); returns when the broker, or the service, has it."""

TRANSIENT = frozenset({408, 423, 429, 503})
"""Answers that say "later": not remembered, so that the next attempt does the work."""

PROGRESS = 102
"""The answer that says "still at work"; any number of them may come before the final one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """A request as it came. It is known by :attr:`key`: one that comes again is the same order."""

    id: int
    method: str
    resource: str
    data: Any = None
    tunnel: str
    """The topic that it is answered on."""

    @property
    def key(self) -> Key:
        """What it is known by."""
        return (self.id, self.tunnel)
