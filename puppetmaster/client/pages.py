"""Lists that are longer than a page."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, Protocol, TypeVar

from puppetmaster.client.calls import Call

PAGE = 500
"""Entries of a page: few calls for a large job, and small answers."""


class Listed(Protocol):
    """What lists hold."""

    @property
    def id(self) -> Any:
        """What they are sorted by."""
        ...


T = TypeVar("T", bound=Listed)


class Pages(Generic[T]):
    """Which page comes next of a list, and what of it was not there before.

    What is made while the list is read pushes the rest of it back: an entry that comes again is left out.

    :param call: the call for a page, by limit and offset.
    :param limit: how many entries at most; none means all.
    :param ascending: whether ids grow in it; else the newest comes first.
    """

    def __init__(
        self, call: Callable[[int, int], Call[list[T]]], limit: int | None, *, ascending: bool = False
    ) -> None:
        self._call = call
        self._ascending = ascending
        self._left = limit
        self._size = PAGE
        self._asked = 0
        self._offset = 0
        self._last: Any = None
        self._over = limit is not None and limit <= 0

    def next_call(self) -> Call[list[T]] | None:
        """The call for the next page, or none when there is none."""
        if self._over:
            return None
        self._asked = self._size if self._left is None else min(self._size, self._left)
        return self._call(self._asked, self._offset)

    def take(self, page: list[T]) -> list[T]:
        """The new entries of the page."""
        new = [entry for entry in page if self._follows(entry.id)]
        self._last = new[-1].id if new else self._last
        self._offset += len(page)
        if self._left is not None:
            self._left -= len(new)
        self._over = len(page) < self._asked or self._left == 0
        return new

    def _follows(self, ident: Any) -> bool:
        return self._last is None or bool(ident > self._last if self._ascending else ident < self._last)

    def shrink(self) -> bool:
        """Ask for half as many at a time, because a page was too large for an answer; false when one alone is."""
        self._size = self._asked // 2
        return self._size > 0
