"""Spreads the changes of jobs among those who watch them: a feed for each watcher, all on the asyncio loop.

A watcher gets the state of a job at its own speed, and always the newest one; those that it was too slow for are
skipped. A change is told by the service at the cost of an entry in a dict; it is spread among the feeds at the pace of
the job, and the feeds get their turns at the pace of the crowd. So neither many watchers nor slow ones can keep the
loop from the engine.

The order for whoever begins to watch is: open a feed, read the states, :meth:`Feed.start` it with them. What changes in
between is then neither missed nor told before an older state.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

from puppetmaster import wire
from puppetmaster.documents import Document
from puppetmaster.effects import Change
from puppetmaster.pacing import Pacing
from puppetmaster.states import JOB_FINAL
from puppetmaster.views import View, job_view

TICK = 0.01
"""Seconds after which the loop has a turn for the next ones of a crowd."""

BURST = 25
"""States that the watchers get in a tick, all of them together.

A state costs the loop 20 to 40 µs until it is on its socket, so 2,500 of them in a second are a tenth of its time at
the most, and the engine has the rest: 1,000 watchers of one job must not cost it a fifth of its rate. Up to 300
watchers get eight states of a running job in a second, all that there are; 1,000 of them two or three.
"""

OFFERS = 1000
"""Feeds that hear of a change in a tick, all changes together.

Each costs the loop half a microsecond, so that all of them take a twentieth of its time at the most: a thousand
watchers of all jobs hear of a hundred changes in a second, ten watchers of ten thousand.
"""

_FINAL = frozenset(status.value for status in JOB_FINAL)


class State:
    """What a watcher is given: a job as it was at one moment, shared by all who watch it."""

    __slots__ = ("_payload", "_view", "is_final", "is_removed", "job_id", "labels", "number", "status")

    def __init__(self, job_id: int, number: int, about: Mapping[str, Any] | None, view: Callable[[], View]) -> None:
        self.job_id = job_id
        self.number = number
        """Of two states of a job the newer one has the larger number."""
        self.is_removed = about is None
        """Whether there is no such job any more."""
        self.labels: Iterable[str] = about["labels"] if about else ()
        self.status: str = about["status"] if about else ""
        self.is_final = self.status in _FINAL
        """Whether the job has ended; it may still be removed."""
        self._view: Callable[[], View] | None = view
        self._payload = b""

    @property
    def payload(self) -> bytes:
        """The JSON of the job as :func:`~puppetmaster.views.job_view` has it, or ``{"id": 7, "removed": true}``."""
        if self._view is not None:
            self._payload, self._view = wire.encode(self._view()), None  # the document is needed no longer
        return self._payload


class _Filter:
    """Which jobs a watcher wants to hear of."""

    def __init__(self, labels: frozenset[str], statuses: frozenset[str]) -> None:
        self._labels, self._statuses = labels, statuses
        self._matching: set[int] = set()
        """The jobs that matched when the watcher last heard of them."""

    def know(self, job_id: int) -> None:
        """The watcher has heard of a job that matches."""
        self._matching.add(job_id)

    def wants(self, state: State) -> bool:
        """Whether the watcher has to hear of a state: it matches, or the one before did."""
        matched = state.job_id in self._matching
        matches = self._labels.issubset(state.labels) and (not self._statuses or state.status in self._statuses)
        if matches:
            self._matching.add(state.job_id)
        else:
            self._matching.discard(state.job_id)
        return matched or matches


class _Allowance:
    """So much in a tick; what is spent beyond it is missing in the next ones.

    :param on_more: called when there is more again.
    """

    def __init__(self, size: int, on_more: Callable[[], None]) -> None:
        self._size = self._left = size
        self._on_more = on_more
        self._timer: asyncio.TimerHandle | None = None

    @property
    def is_spent(self) -> bool:
        """Whether there is nothing left in this tick."""
        return self._left <= 0

    def spend(self, count: int) -> None:
        """Take some of it."""
        self._left -= count
        if self._timer is None and self._left < self._size:
            self._timer = asyncio.get_running_loop().call_later(TICK, self._refill)

    def _refill(self) -> None:
        self._timer = None
        self._left = min(self._left + self._size, self._size)
        self.spend(0)  # a debt takes several ticks
        if not self.is_spent:
            self._on_more()


class Feed:
    """The states of the jobs that one watcher wants to hear of; made by :class:`Feeds`, for one reader.

    What waits for a reader that is slow is one state for each job.
    """

    def __init__(self, feeds: Feeds, opened: int, job_id: int | None, wanted: _Filter | None) -> None:
        self._feeds = feeds
        self._opened = opened
        """The number of the last change that was told before."""
        self.job_id = job_id
        """The job that it is about; none when it is about all of them."""
        self._filter = wanted
        self._early: dict[int, State] | None = {}
        """The newest states that came before the start."""
        self._ahead: dict[int, int] = {}
        """Jobs whose next state to be spread may be known already, with its number."""
        self._waiting: OrderedDict[int, State] = OrderedDict()
        """What the reader has not taken yet, by job, the job that waits longest first."""
        self._initial = 0
        """How many of these wait since the start: they need no turn."""
        self._reader: asyncio.Future[None] | None = None
        """Somebody waits for a state."""
        self._in_line = False
        self._closed = False

    def start(self, views: Iterable[View]) -> None:
        """Give the states that were read after the feed was opened; the reader gets them first, in this order.

        What was told of a job since the opening takes the place of the state that was read. A job that is given here
        counts as one that this feed has heard of. They need no turns, so there must not be more of them than a page.
        """
        early, self._early = self._early, None
        assert early is not None, "a feed is started once"
        if self._closed:
            return
        for view in views:
            if self._filter is not None:
                self._filter.know(view["id"])
            self._take_in(self._newest(view, early.pop(view["id"], None)))
        for state in early.values():
            self._take_in(state)
        self._initial = len(self._waiting)
        if self._initial:
            self._wake()

    async def next(self) -> State | None:
        """The newest state of the job that waits longest; none when the feed is closed.

        May be cancelled: nothing is lost by that.
        """
        if not self._initial and not self._closed:
            await self._turn()
        if self._closed:
            return None
        self._initial = max(self._initial - 1, 0)
        return self._waiting.popitem(last=False)[1]

    def close(self) -> None:
        """Hear of nothing any more; idempotent."""
        if not self._closed:
            self._closed = True
            self._feeds._forget(self)
            self._wake()

    # What the feeds do

    def _offer(self, state: State) -> None:
        """A job changed."""
        if self._early is not None:
            self._early[state.job_id] = state
        elif not self._ahead or self._ahead.pop(state.job_id, -1) < state.number:
            self._take_in(state)

    def _take_turn(self) -> bool:
        """Let the reader go on; false when it needs no turn now."""
        self._in_line = False
        return bool(self._waiting) and self._wake()

    # Inside

    def _newest(self, view: View, early: State | None) -> State:
        job_id = view["id"]
        untold = self._feeds._pacing.untold(job_id)
        if untold is not None:
            self._ahead[job_id] = untold.number
        for told in (untold, early):
            if told is not None and told.number > self._opened:
                return told
        return State(job_id, self._opened, view, lambda: view)

    def _take_in(self, state: State) -> None:
        wanted = self._filter is None or self._filter.wants(state)
        # What still waits has not been heard, so what comes after it is owed as well: the last state always.
        if wanted or state.job_id in self._waiting:
            self._waiting[state.job_id] = state
            self._line_up()

    async def _turn(self) -> None:
        assert self._reader is None, "a feed has one reader"
        self._reader = asyncio.get_running_loop().create_future()
        try:
            self._line_up()
            await self._reader
        finally:
            self._reader = None

    def _line_up(self) -> None:
        if self._waiting and self._is_awaited and not self._in_line:
            self._in_line = True
            self._feeds._line_up(self)

    @property
    def _is_awaited(self) -> bool:
        return self._reader is not None and not self._reader.done()

    def _wake(self) -> bool:
        if self._reader is None or self._reader.done():
            return False
        self._reader.set_result(None)
        return True


class Feeds:
    """All feeds, and what is told to them. For one thread, the loop's."""

    def __init__(self) -> None:
        self._by_job: dict[int, dict[Feed, None]] = {}
        self._of_all: dict[Feed, None] = {}
        self._pacing: Pacing[State] = Pacing(self._spread)
        self._number = 0
        """Of the last change that was told."""
        self._line: deque[Feed] = deque()
        """Feeds whose reader waits, and that have something for it."""
        self._turns = _Allowance(BURST, self._serve)
        self._offers = _Allowance(OFFERS, partial(self._pacing.hold, False))
        self._closed = False

    @property
    def count(self) -> int:
        """How many feeds are open."""
        return len(self._of_all) + sum(map(len, self._by_job.values()))

    def open_job(self, job_id: int) -> Feed:
        """A feed of one job, whether there is such a job or not."""
        feed = Feed(self, self._number, job_id, None)
        return self._enter(feed, self._by_job.setdefault(job_id, {}))

    def open_all(self, labels: frozenset[str] = frozenset(), statuses: frozenset[str] = frozenset()) -> Feed:
        """A feed of the jobs that have all of these labels and any of these statuses; of all jobs when there are none.

        It also hears of a job that has just ceased to be one of them.
        """
        wanted = _Filter(labels, statuses) if labels or statuses else None
        return self._enter(Feed(self, self._number, None, wanted), self._of_all)

    def tell(self, change: Change, job_id: int, document: Document | None) -> None:
        """A job changed, and the document of it is on disk; none when it was removed."""
        self._number += 1
        if self._of_all or job_id in self._by_job:
            view = partial(_removed_view, job_id) if document is None else partial(job_view, job_id, document)
            state = State(job_id, self._number, document, view)
            self._pacing.tell(change, job_id, state, ended=state.is_final or state.is_removed)

    def close(self) -> None:
        """Close all feeds, and those that will be opened; idempotent."""
        self._closed = True
        for feed in [*self._of_all, *(feed for feeds in self._by_job.values() for feed in feeds)]:
            feed.close()

    # What the feeds do

    def _line_up(self, feed: Feed) -> None:
        """A feed has something for its reader."""
        self._line.append(feed)
        self._serve()

    def _forget(self, feed: Feed) -> None:
        self._of_all.pop(feed, None)
        if feed.job_id is not None:
            feeds = self._by_job.get(feed.job_id, {})
            feeds.pop(feed, None)
            if not feeds:
                self._by_job.pop(feed.job_id, None)

    # Inside

    def _enter(self, feed: Feed, feeds: dict[Feed, None]) -> Feed:
        feeds[feed] = None
        if self._closed:
            feed.close()
        return feed

    def _spread(self, change: Change, job_id: int, state: State) -> None:
        feeds = [*self._by_job.get(job_id, ()), *self._of_all]
        for feed in feeds:
            feed._offer(state)
        self._offers.spend(len(feeds))
        if self._offers.is_spent:
            self._pacing.hold(True)

    def _serve(self) -> None:
        """Give turns, as long as there are any, in the order in which the feeds lined up."""
        while self._line and not self._turns.is_spent:
            feed = self._line.popleft()
            if feed._take_turn():
                self._turns.spend(1)
                # Whoever has had a turn hears of the next change after all others, and so lines up behind them.
                feeds = self._of_all if feed.job_id is None else self._by_job[feed.job_id]
                feeds[feed] = feeds.pop(feed)


def _removed_view(job_id: int) -> View:
    return {"id": job_id, "removed": True}
