"""Lists that are longer than a page."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, Protocol, TypeVar

from puppetmaster.client.calls import Call

PAGE = 500
"""Entries of a page: few calls for a large job, and small answers."""


class Numbered(Protocol):
    """What lists hold."""

    @property
    def id(self) -> int:
        """Larger for what was made later."""
        ...


T = TypeVar("T", bound=Numbered)


class Pages(Generic[T]):
    """Which page comes next of a list, the newest first, and what of it was not there before.

    What is made while the list is read pushes the rest of it back: an entry that comes again is left out.

    :param call: the call for a page, by limit and offset.
    :param limit: how many entries at most; none means all.
    """

    def __init__(self, call: Callable[[int, int], Call[list[T]]], limit: int | None) -> None:
        self._call = call
        self._left = limit
        self._size = PAGE
        self._asked = 0
        self._offset = 0
        self._last: int | None = None
        self._over = limit is not None and limit <= 0

    def next_call(self) -> Call[list[T]] | None:
        """The call for the next page, or none when there is none."""
        if self._over:
            return None
        self._asked = self._size if self._left is None else min(self._size, self._left)
        return self._call(self._asked, self._offset)

    def take(self, page: list[T]) -> list[T]:
        """The new entries of the page."""
        new = [entry for entry in page if self._last is None or entry.id < self._last]
        self._last = min((entry.id for entry in new), default=self._last)
        self._offset += len(page)
        if self._left is not None:
            self._left -= len(new)
        self._over = len(page) < self._asked or self._left == 0
        return new

    def shrink(self) -> bool:
        """Ask for half as many at a time, because a page was too large for an answer; false when one alone is."""
        self._size = self._asked // 2
        return self._size > 0
