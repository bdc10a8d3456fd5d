"""What agents told: the newest events of each, one document each in a store."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from puppetmaster.errors import Fault, InvalidDocument, StoreUnavailable
from puppetmaster.fields import data_fault
from puppetmaster.store import Store
from puppetmaster.wire import encode

EVENTS = "dut_events"
"""The table: ``{agent, at, bytes, content}`` by a number that counts up."""

MAX_EVENTS = 512
"""Of one agent; the oldest make room for new ones."""

MAX_EVENT_BYTES = 64 * 1024

MAX_AGENT_BYTES = 4 * 1024 * 1024
"""Of all events of one agent: 512 of 8 KiB. The store keeps all of them in memory."""

MAX_BYTES = 128 * 1024 * 1024
"""Of all events; beyond it whoever has the most loses the oldest."""


@dataclass(slots=True)
class _Kept:
    """The events of one agent: their numbers with their sizes, the oldest first."""

    entries: deque[tuple[int, int]] = field(default_factory=deque)
    size: int = 0

    def add(self, number: int, size: int) -> None:
        self.entries.append((number, size))
        self.size += size

    def drop_oldest(self) -> int:
        number, size = self.entries.popleft()
        self.size -= size
        return number

    def drop(self, number: int, size: int) -> None:
        self.entries.remove((number, size))
        self.size -= size

    @property
    def is_over(self) -> bool:
        return len(self.entries) > MAX_EVENTS or self.size > MAX_AGENT_BYTES


class EventLog:
    """The events of all agents; on the loop.

    :param now: the time, in seconds since 1970.
    """

    def __init__(self, store: Store, now: Callable[[], float]) -> None:
        self._store = store
        self._now = now
        self._kept: dict[str, _Kept] = {}
        self._size = 0
        self._next = 1

    def load(self, agents: Iterable[str]) -> None:
        """Take over what the store holds; events of others than these agents go."""
        there, strangers = frozenset(agents), []
        for number, document in self._store.scan(EVENTS):
            self._next = max(self._next, number + 1)
            if document["agent"] in there:
                self._note(document["agent"], number, document["bytes"])
            else:
                strangers.append(number)
        self._store.remove(EVENTS, strangers)
        for kept in list(self._kept.values()):
            self._trim(kept)

    async def add(self, agent: str, content: Any) -> None:
        """Keep an event; it is on disk when this returns.

        :raises InvalidDocument: when it can't be stored as it is.
        :raises StoreUnavailable: when it could not be written; it is not kept then.
        """
        fault = data_fault(content)
        if fault:
            raise InvalidDocument([Fault("", fault)])
        number, size = self._next, len(encode(content))
        self._next += 1
        self._store.put(EVENTS, {number: {"agent": agent, "at": self._now(), "bytes": size, "content": content}})
        kept = self._note(agent, number, size)
        try:
            await self._store.commit()
        except StoreUnavailable:
            self._take_back(agent, kept, number, size)
            raise
        # Not before: the old ones may go when the new one is there for sure. That they went follows with the next.
        if self._kept.get(agent) is kept:
            self._trim(kept)

    def of(self, agent: str) -> list[Any]:
        """The events of an agent, the oldest first."""
        kept = self._kept.get(agent)
        numbers = [number for number, _ in kept.entries] if kept else []
        return [document["content"] for _, document in self._store.scan(EVENTS, numbers)]

    def forget(self, agent: str) -> None:
        """Drop the events of an agent that is gone."""
        kept = self._kept.pop(agent, None)
        if kept is not None:
            self._size -= kept.size
            self._store.remove(EVENTS, [number for number, _ in kept.entries])

    def _note(self, agent: str, number: int, size: int) -> _Kept:
        kept = self._kept.setdefault(agent, _Kept())
        kept.add(number, size)
        self._size += size
        return kept

    def _take_back(self, agent: str, kept: _Kept, number: int, size: int) -> None:
        self._store.remove(EVENTS, [number])
        if self._kept.get(agent) is kept and (number, size) in kept.entries:
            kept.drop(number, size)
            self._size -= size

    def _trim(self, kept: _Kept) -> None:
        while kept.is_over:
            self._drop_oldest(kept)
        while self._size > MAX_BYTES:
            self._drop_oldest(max(self._kept.values(), key=lambda other: other.size))

    def _drop_oldest(self, kept: _Kept) -> None:
        before = kept.size
        self._store.remove(EVENTS, [kept.drop_oldest()])
        self._size -= before - kept.size
