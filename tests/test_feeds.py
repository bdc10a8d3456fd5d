"""Who watches gets the newest state of every job, however slow it reads and however many others do."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections import Counter
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from puppetmaster import wire
from puppetmaster.documents import Document, job_to_document
from puppetmaster.effects import Change
from puppetmaster.feeds import BURST, OFFERS, TICK, Feed, Feeds, State
from puppetmaster.models import Job
from puppetmaster.pacing import INTERVAL
from puppetmaster.states import JobStatus, RequestStatus
from puppetmaster.views import View, job_view
from tests.fast_loop import TURN, run

QUIET = 5.0
"""Seconds, which take no time here, after which nothing comes any more."""


class Jobs:
    """Jobs that change, and the feeds that are told of it."""

    def __init__(self) -> None:
        self.feeds = Feeds()
        self.jobs: dict[int, Job] = {}

    def change(self, job_id: int = 7, done: int = 0, **fields: Any) -> None:
        """A job changes, or comes to be; nobody is told."""
        job = self.jobs.setdefault(
            job_id,
            Job(id=job_id, messages=(), first_request=job_id + 1, total_count=1_000, created_at=0.0,
                status=JobStatus.DISPATCHING),
        )  # fmt: skip
        job.counts[RequestStatus.RESOLVED] = done
        for name, value in fields.items():
            setattr(job, name, value)

    def tell(self, job_id: int = 7, done: int = 0, **fields: Any) -> None:
        """A job changes, and the feeds are told."""
        self.change(job_id, done, **fields)
        self.feeds.tell(Change.CHANGED, job_id, self.document(job_id))

    def remove(self, job_id: int = 7) -> None:
        del self.jobs[job_id]
        self.feeds.tell(Change.REMOVED, job_id, None)

    def document(self, job_id: int = 7) -> Document:
        return job_to_document(self.jobs[job_id])

    def read(self, *ids: int) -> list[View]:
        return [job_view(job_id, self.document(job_id)) for job_id in ids or (7,)]

    def watch(self, *ids: int) -> Feed:
        """A feed of the first of these jobs that was started with what there is."""
        feed = self.feeds.open_job(ids[0] if ids else 7)
        feed.start([view for job_id in ids or (7,) if job_id in self.jobs for view in self.read(job_id)])
        return feed


class Reader:
    """Reads a feed as fast as it can, and notes what comes and when."""

    def __init__(self, feed: Feed) -> None:
        self.feed = feed
        self.states: list[State] = []
        self.times: list[float] = []
        self.task = asyncio.create_task(self.read())

    async def read(self) -> None:
        while (state := await self.feed.next()) is not None:
            self.states.append(state)
            self.times.append(now())

    @property
    def done(self) -> list[int]:
        """The jobs' counters in all states."""
        return [done(state) for state in self.states]


def now() -> float:
    return asyncio.get_running_loop().time()


def said(state: State | None) -> Any:
    assert state is not None
    return json.loads(state.payload)


def done(state: State | None) -> int:
    return int(said(state)["doneCount"])


async def rest(feed: Feed) -> list[State]:
    """What else comes, until it is quiet."""
    states = []
    while True:
        try:
            state = await asyncio.wait_for(feed.next(), QUIET)
        except asyncio.TimeoutError:
            return states
        if state is None:
            return states
        states.append(state)


# What a watcher gets


def test_a_watcher_gets_the_state_that_was_read_and_then_every_change() -> None:
    async def main() -> None:
        jobs = Jobs()
        jobs.tell(done=1)
        feed = jobs.watch()
        assert done(await feed.next()) == 1
        jobs.tell(done=2)
        assert done(await feed.next()) == 2

    run(main())


def test_a_state_is_the_job_as_callers_see_it() -> None:
    async def main() -> None:
        jobs = Jobs()
        jobs.change(done=1)
        feed = jobs.watch()
        [read] = await rest(feed)
        assert read.payload == wire.encode(job_view(7, jobs.document()))
        jobs.tell(done=2)
        [told] = await rest(feed)
        assert told.payload == wire.encode(job_view(7, jobs.document()))
        assert (told.job_id, told.is_removed, told.is_final) == (7, False, False)

    run(main())


@pytest.mark.parametrize("status", JobStatus)
def test_a_state_tells_whether_the_job_has_ended(status: JobStatus) -> None:
    async def main() -> None:
        jobs = Jobs()
        jobs.change(status=status)
        [read] = await rest(jobs.watch())
        feed = jobs.watch()
        await feed.next()
        jobs.tell(status=status)
        told = await feed.next()
        assert told is not None
        ended = status in (JobStatus.RESOLVED, JobStatus.CANCELED, JobStatus.ABORTED, JobStatus.TIMEOUT)
        assert (read.is_final, told.is_final) == (ended, ended)

    run(main())


def test_a_removed_job_is_told_as_that() -> None:
    async def main() -> None:
        jobs = Jobs()
        jobs.change()
        feed, everything = jobs.watch(), jobs.feeds.open_all()
        everything.start([])
        jobs.remove()
        [removed] = await rest(feed)
        assert removed.payload == b'{"id":7,"removed":true}'
        assert (removed.job_id, removed.is_removed, removed.is_final) == (7, True, False)
        assert await rest(everything) == [removed]

    run(main())


def test_all_watchers_of_a_job_share_a_state_and_its_payload() -> None:
    async def main() -> None:
        jobs = Jobs()
        feeds = [jobs.watch(), jobs.watch(), jobs.feeds.open_all()]
        feeds[2].start([])
        jobs.tell()
        first, second, third = [await feed.next() for feed in feeds]
        assert first is second is third is not None
        assert first.payload is first.payload

    run(main())


def test_a_watcher_of_one_job_hears_of_no_other_one() -> None:
    async def main() -> None:
        jobs = Jobs()
        feed = jobs.watch(7)
        jobs.tell(8)
        jobs.tell(7)
        assert [state.job_id for state in await rest(feed)] == [7]

    run(main())


def test_the_first_states_come_in_the_order_in_which_they_are_given_and_before_all_changes() -> None:
    async def main() -> None:
        jobs = Jobs()
        for job_id in (3, 9, 5, 6):
            jobs.change(job_id)
        feed = jobs.feeds.open_all()
        views = jobs.read(9, 3, 5)
        jobs.tell(6)
        jobs.tell(3)
        await asyncio.sleep(1.0)
        feed.start(views)
        assert [state.job_id for state in await rest(feed)] == [9, 3, 5, 6]

    run(main())


def test_at_most_ten_states_a_second_come_of_a_job_and_the_last_one_always() -> None:
    async def main() -> None:
        jobs = Jobs()
        reader = Reader(jobs.watch())
        for number in range(1_000):
            jobs.tell(done=number)
            await asyncio.sleep(0.003)
        await asyncio.sleep(1.0)
        assert len(reader.times) >= 3.0 / INTERVAL
        assert all(later - earlier >= INTERVAL - 1e-2 for earlier, later in pairwise(reader.times))
        assert reader.done == sorted(set(reader.done))
        assert reader.done[-1] == 999

    run(main())


def test_a_lone_watcher_gets_a_change_at_once() -> None:
    async def main() -> None:
        jobs = Jobs()
        reader = Reader(jobs.watch())
        await asyncio.sleep(1.0)
        told_at = now()
        jobs.tell()
        await asyncio.sleep(1.0)
        assert reader.times[0] - told_at <= 4 * TURN

    run(main())


# Slow readers


def test_a_slow_reader_gets_the_newest_state_and_the_older_ones_are_skipped() -> None:
    async def main() -> None:
        jobs = Jobs()
        feed = jobs.watch()
        for number in range(50):
            jobs.tell(done=number)
            await asyncio.sleep(0.2)
        assert [done(state) for state in await rest(feed)] == [49]

    run(main())


def test_the_job_that_waits_longest_comes_first_in_its_newest_state() -> None:
    async def main() -> None:
        jobs = Jobs()
        feed = jobs.feeds.open_all()
        feed.start([])
        for number, job_id in enumerate((9, 7, 8, 7, 9)):
            jobs.tell(job_id, done=number)
            await asyncio.sleep(0.2)
        assert [(state.job_id, done(state)) for state in await rest(feed)] == [(9, 4), (7, 3), (8, 2)]

    run(main())


def test_a_slow_reader_costs_one_state_for_each_job() -> None:
    async def main() -> None:
        jobs = Jobs()
        feed = jobs.feeds.open_all()
        feed.start([])
        for number in range(100):
            jobs.tell(number % 5, done=number)
            await asyncio.sleep(0.2)
        assert len(feed._waiting) == 5

    run(main())


def test_a_state_lets_go_of_its_document_when_it_was_encoded() -> None:
    async def main() -> None:
        jobs = Jobs()
        feed = jobs.watch()
        jobs.tell()
        state = await feed.next()
        assert state is not None
        assert (state.payload, state._view) == (state.payload, None)

    run(main())


# Reading while jobs change


def test_what_was_told_since_the_opening_wins_over_what_was_read() -> None:
    async def main() -> None:
        jobs = Jobs()
        jobs.change(done=1)
        feed = jobs.feeds.open_job(7)
        views = jobs.read()
        jobs.tell(done=2)
        feed.start(views)
        assert [done(state) for state in await rest(feed)] == [2]

    run(main())


def test_what_was_spread_since_the_opening_wins_as_well() -> None:
    async def main() -> None:
        jobs = Jobs()
        jobs.change(done=1)
        feed = jobs.feeds.open_job(7)
        views = jobs.read()
        jobs.tell(done=2)
        await asyncio.sleep(1.0)
        feed.start(views)
        assert [done(state) for state in await rest(feed)] == [2]

    run(main())


def test_what_waits_to_be_told_wins_over_what_was_spread() -> None:
    async def main() -> None:
        jobs = Jobs()
        jobs.change(done=1)
        feed = jobs.feeds.open_job(7)
        views = jobs.read()
        jobs.tell(done=2)
        await asyncio.sleep(0.01)
        jobs.tell(done=3)
        feed.start(views)
        assert [done(state) for state in await rest(feed)] == [3]

    run(main())


def test_what_was_told_before_the_opening_and_spread_after_it_does_not_bring_back_an_older_state() -> None:
    async def main() -> None:
        jobs = Jobs()
        jobs.watch()
        jobs.tell(done=1)
        await asyncio.sleep(0.01)
        jobs.tell(done=2)  # is spread when the job has rested
        feed = jobs.feeds.open_job(7)
        jobs.change(done=3)  # read before it is told, as while the store can't write
        feed.start(jobs.read())
        assert [done(state) for state in await rest(feed)] == [3]
        jobs.tell(done=4)
        assert [done(state) for state in await rest(feed)] == [4]

    run(main())


def test_the_same_holds_when_it_is_spread_between_opening_and_start() -> None:
    async def main() -> None:
        jobs = Jobs()
        jobs.watch()
        jobs.tell(done=1)
        await asyncio.sleep(0.01)
        jobs.tell(done=2)
        feed = jobs.feeds.open_job(7)
        jobs.change(done=3)
        views = jobs.read()
        await asyncio.sleep(1.0)
        feed.start(views)
        assert [done(state) for state in await rest(feed)] == [3]

    run(main())


def test_a_state_that_was_given_already_is_not_given_again_when_its_turn_comes() -> None:
    async def main() -> None:
        jobs = Jobs()
        jobs.watch()
        jobs.tell(done=1)
        await asyncio.sleep(0.01)
        jobs.tell(done=2)
        before = jobs.feeds.open_job(7)
        before.start(jobs.read())
        jobs.tell(done=3)
        after = jobs.feeds.open_job(7)
        after.start(jobs.read())
        assert [done(state) for state in await rest(after)] == [3]
        assert [done(state) for state in await rest(before)] == [3]

    run(main())


def test_a_job_that_is_removed_while_it_is_read_is_told_as_removed() -> None:
    async def main() -> None:
        jobs = Jobs()
        jobs.change()
        feed = jobs.feeds.open_job(7)
        views = jobs.read()
        jobs.remove()
        feed.start(views)
        [state] = await rest(feed)
        assert state.is_removed

    run(main())


def test_a_reader_may_wait_before_the_start() -> None:
    async def main() -> None:
        jobs = Jobs()
        feed = jobs.feeds.open_job(7)
        reader = Reader(feed)
        jobs.tell(done=1)
        await asyncio.sleep(1.0)
        assert reader.states == []
        feed.start(jobs.read())
        await asyncio.sleep(1.0)
        assert reader.done == [1]

    run(main())


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("tell"), st.integers(1, 2)),
        st.tuples(st.just("sleep"), st.sampled_from([0.0, 0.004, 0.05, 0.25])),
        st.tuples(st.sampled_from(["open", "read", "start", "take"]), st.integers(0, 2)),
    ),
    max_size=80,
)


@settings(max_examples=400, deadline=None)
@given(STEPS)
def test_whatever_happens_no_watcher_goes_back_or_hears_the_same_twice_and_all_get_the_last_state(
    steps: list[tuple[str, Any]],
) -> None:
    async def main() -> None:
        jobs, watchers = Jobs(), [Watcher(), Watcher(), Watcher()]
        for job_id in (1, 2):
            jobs.change(job_id)
        for number, (action, value) in enumerate(steps, start=1):
            if action == "tell":
                jobs.tell(value, done=number)
            elif action == "sleep":
                await asyncio.sleep(value)
            else:
                await watchers[value].do(action, jobs)
        for watcher in watchers:
            await watcher.check(jobs)

    run(main())


class Watcher:
    """Begins to watch step by step, and notes what it hears."""

    def __init__(self) -> None:
        self.feed: Feed | None = None
        self.views: list[View] | None = None
        self.is_started = False
        self.heard: dict[int, list[int]] = {1: [], 2: []}

    async def do(self, step: str, jobs: Jobs) -> None:
        if self.feed is None:
            self.feed = jobs.feeds.open_all() if step == "open" else None
        elif step == "read" and self.views is None:
            self.views = jobs.read(2, 1)
        elif step == "start" and self.views is not None and not self.is_started:
            self.feed.start(self.views)
            self.is_started = True
        elif step == "take" and self.feed._waiting:
            self.take(await self.feed.next())

    async def check(self, jobs: Jobs) -> None:
        for step in ("open", "read", "start"):
            await self.do(step, jobs)
        assert self.feed is not None
        for state in await rest(self.feed):
            self.take(state)
        for job_id, heard in self.heard.items():
            assert heard == sorted(set(heard))
            assert heard[-1] == jobs.jobs[job_id].done_count

    def take(self, state: State | None) -> None:
        assert state is not None
        self.heard[state.job_id].append(done(state))


# Watchers of some jobs


def of(jobs: Jobs, labels: tuple[str, ...] = (), statuses: tuple[str, ...] = (), read: tuple[int, ...] = ()) -> Feed:
    feed = jobs.feeds.open_all(frozenset(labels), frozenset(statuses))
    feed.start([view for job_id in read for view in jobs.read(job_id)])
    return feed


def test_a_watcher_of_all_jobs_hears_of_all() -> None:
    async def main() -> None:
        jobs = Jobs()
        feed = of(jobs)
        jobs.tell(7, labels=("lab",))
        jobs.tell(8)
        assert [state.job_id for state in await rest(feed)] == [7, 8]

    run(main())


def test_a_watcher_of_labels_hears_of_the_jobs_that_have_all_of_them() -> None:
    async def main() -> None:
        jobs = Jobs()
        feed = of(jobs, labels=("lab", "night"))
        jobs.tell(6, labels=("lab",))
        jobs.tell(7, labels=("night", "lab", "third"))
        jobs.tell(8)
        assert [state.job_id for state in await rest(feed)] == [7]

    run(main())


def test_a_watcher_of_statuses_hears_of_the_jobs_that_have_any_of_them() -> None:
    async def main() -> None:
        jobs = Jobs()
        feed = of(jobs, statuses=("paused", "dispatching"))
        jobs.tell(6, status=JobStatus.PAUSED)
        jobs.tell(7, status=JobStatus.PENDING)
        jobs.tell(8, status=JobStatus.DISPATCHING)
        assert [state.job_id for state in await rest(feed)] == [6, 8]

    run(main())


def test_both_have_to_match() -> None:
    async def main() -> None:
        jobs = Jobs()
        feed = of(jobs, labels=("lab",), statuses=("paused",))
        jobs.tell(6, labels=("lab",))
        jobs.tell(7, status=JobStatus.PAUSED)
        jobs.tell(8, labels=("lab",), status=JobStatus.PAUSED)
        assert [state.job_id for state in await rest(feed)] == [8]

    run(main())


@pytest.mark.parametrize("read", [(), (7,)], ids=["from a change", "from the start"])
def test_a_watcher_sees_a_job_end_that_it_knows_and_nothing_of_it_afterwards(read: tuple[int, ...]) -> None:
    async def main() -> None:
        jobs = Jobs()
        jobs.change()
        feed = of(jobs, statuses=("dispatching",), read=read)
        jobs.tell(7)
        await asyncio.sleep(1.0)
        await feed.next()
        jobs.tell(7, status=JobStatus.RESOLVED)
        assert [state.is_final for state in await rest(feed)] == [True]
        jobs.remove(7)
        assert await rest(feed) == []

    run(main())


def test_a_watcher_sees_a_job_go_that_it_knows() -> None:
    async def main() -> None:
        jobs = Jobs()
        for job_id in (7, 8):
            jobs.change(job_id, labels=("lab",))
        feed = of(jobs, labels=("lab",), read=(7,))
        jobs.remove(7)
        jobs.remove(8)
        assert [(state.job_id, state.is_removed) for state in await rest(feed)] == [(7, True)]

    run(main())


def test_a_watcher_hears_nothing_of_the_end_of_a_job_that_never_was_its_own() -> None:
    async def main() -> None:
        jobs = Jobs()
        feed = of(jobs, statuses=("paused",))
        jobs.tell(7)
        await asyncio.sleep(1.0)
        jobs.tell(7, status=JobStatus.RESOLVED)
        assert await rest(feed) == []

    run(main())


def test_a_job_that_ends_while_it_is_read_is_given_in_its_last_state() -> None:
    async def main() -> None:
        jobs = Jobs()
        for job_id in (7, 8):
            jobs.change(job_id)
        feed = jobs.feeds.open_all(statuses=frozenset({"dispatching"}))
        views = jobs.read(7)
        for job_id in (7, 8):
            jobs.tell(job_id, status=JobStatus.RESOLVED)
        await asyncio.sleep(1.0)
        feed.start(views)
        assert [(state.job_id, state.is_final) for state in await rest(feed)] == [(7, True)]

    run(main())


# A crowd


def test_a_crowd_gets_no_more_in_a_tick_than_is_allowed_and_all_of_it_the_last_state() -> None:
    async def main() -> None:
        jobs = Jobs()
        crowd = [Reader(jobs.watch()) for _ in range(1_000)]
        await asyncio.sleep(1.0)
        for number in range(1_000):
            jobs.tell(done=number)
            await asyncio.sleep(0.003)
        await asyncio.sleep(1.0)
        times = sorted(when for reader in crowd for when in reader.times)
        assert all(later - earlier >= TICK - 1e-9 for earlier, later in zip(times, times[BURST + 1 :], strict=False))
        assert {reader.done[-1] for reader in crowd} == {999}

    run(main())


@pytest.mark.parametrize("size", [400, 777, 1_000])
def test_those_in_a_crowd_get_as_much_as_each_other(size: int) -> None:
    async def main() -> None:
        jobs = Jobs()
        crowd = [Reader(jobs.watch()) for _ in range(size)]
        for number in range(1_000):
            jobs.tell(done=number)
            await asyncio.sleep(0.003)
            assert len(jobs.feeds._line) <= len(crowd)
        counts = Counter(len(reader.states) for reader in crowd)
        assert max(counts) - min(counts) <= 1
        assert min(counts) >= 6

    run(main())


def test_as_many_as_can_be_served_get_every_state_that_there_is() -> None:
    async def main() -> None:
        jobs = Jobs()
        crowd = [Reader(jobs.watch()) for _ in range(int(BURST * INTERVAL / TICK * 0.9))]
        for number in range(1_000):
            jobs.tell(done=number)
            await asyncio.sleep(0.003)
        await asyncio.sleep(1.0)
        assert min(len(reader.states) for reader in crowd) >= 3.0 / INTERVAL

    run(main())


def test_the_first_states_need_no_turn() -> None:
    async def main() -> None:
        jobs = Jobs()
        for job_id in range(200):
            jobs.change(job_id)
        crowd = [Reader(jobs.watch()) for _ in range(1_000)]
        await asyncio.sleep(0)
        jobs.tell()
        feed = jobs.feeds.open_all()
        feed.start(jobs.read(*range(200)))
        began = now()
        assert [said(await feed.next())["id"] for _ in range(200)] == list(range(200))
        assert now() == began
        assert len(crowd) == 1_000

    run(main())


def test_a_reader_of_many_jobs_takes_a_turn_for_each_state() -> None:
    async def main() -> None:
        jobs = Jobs()
        greedy = jobs.feeds.open_all()
        greedy.start([])
        for job_id in range(500):
            jobs.tell(job_id)
        await asyncio.sleep(1.0)
        began = now()
        for _ in range(500):
            await greedy.next()
        assert now() - began >= (500 / BURST - 1) * TICK - 1e-9

    run(main())


def test_a_call_costs_the_same_however_many_watch(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        jobs = Jobs()
        for _ in range(1_000):
            jobs.watch()
        offers: list[Feed] = []
        monkeypatch.setattr(Feed, "_offer", lambda feed, state: offers.append(feed))
        for number in range(1_000):
            jobs.tell(done=number)
        assert offers == []
        await asyncio.sleep(1.0)
        assert len(offers) == 1_000

    run(main())


def test_a_crowd_that_watches_all_jobs_hears_of_them_at_a_pace_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        jobs = Jobs()
        offers: list[float] = []
        monkeypatch.setattr(Feed, "_offer", lambda feed, state: offers.append(now()))
        for _ in range(300):
            jobs.feeds.open_all()
        for job_id in range(100):
            jobs.tell(job_id)
        await asyncio.sleep(QUIET)
        assert len(offers) == 300 * 100
        # One job more than allowed may be under way; what it costs is saved in the ticks that follow.
        most = OFFERS + 300
        assert all(later - earlier >= TICK - 1e-9 for earlier, later in zip(offers, offers[most:], strict=False))
        assert offers[-1] - offers[0] >= (len(offers) / OFFERS - 2) * TICK

    run(main())


def test_more_watchers_than_may_be_told_in_a_tick_are_told_of_every_job() -> None:
    async def main() -> None:
        jobs = Jobs()
        crowd = [jobs.feeds.open_all() for _ in range(2 * OFFERS + 1)]
        for feed in crowd:
            feed.start([])
        for job_id in range(5):
            jobs.tell(job_id)
        await asyncio.sleep(QUIET)
        assert {len(feed._waiting) for feed in crowd} == {5}

    run(main())


def test_a_reader_that_waits_before_the_start_needs_no_turn_either() -> None:
    async def main() -> None:
        jobs = Jobs()
        jobs.change()
        crowd = [Reader(jobs.watch()) for _ in range(2 * BURST)]
        late = Reader(jobs.feeds.open_job(7))
        await asyncio.sleep(1.0)
        jobs.tell(done=1)
        await asyncio.sleep(2 * TURN)
        late.feed.start(jobs.read())
        await asyncio.sleep(2 * TURN)
        assert sum(len(reader.states) for reader in crowd) == len(crowd) + BURST
        assert late.done == [1]
        await asyncio.sleep(1.0)
        assert late.done == [1]
        assert not late.task.done()

    run(main())


def test_nothing_is_kept_of_jobs_that_nobody_watches() -> None:
    async def main() -> None:
        jobs = Jobs()
        jobs.watch(8).close()
        jobs.tell(7)
        jobs.tell(8)
        assert (jobs.feeds._pacing.untold(7), jobs.feeds._pacing.untold(8)) == (None, None)
        assert jobs.feeds._by_job == {}

    run(main())


# Ends


def test_a_reader_that_gives_up_loses_nothing() -> None:
    async def main() -> None:
        jobs = Jobs()
        feed = jobs.watch()
        for _ in range(3):
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(feed.next(), 15.0)
        waiting = asyncio.create_task(feed.next())
        await asyncio.sleep(0)
        jobs.tell(done=1)
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        assert [done(state) for state in await rest(feed)] == [1]

    run(main())


def test_readers_that_give_up_in_line_are_passed_over_and_others_do_not_wait_for_them() -> None:
    async def main() -> None:
        jobs = Jobs()
        crowd = [Reader(jobs.watch()) for _ in range(500)]
        last = Reader(jobs.watch())
        await asyncio.sleep(1.0)
        jobs.tell()
        await asyncio.sleep(TICK / 2)
        for reader in crowd:
            reader.task.cancel()
        await asyncio.sleep(TICK)
        assert len(last.states) == 1

    run(main())


def test_a_closed_feed_hears_nothing_more_and_its_reader_goes_on() -> None:
    async def main() -> None:
        jobs = Jobs()
        jobs.tell()
        with contextlib.closing(jobs.watch()) as feed:
            reader = Reader(feed)
            await asyncio.sleep(1.0)
        await reader.task
        jobs.tell(done=1)
        await asyncio.sleep(1.0)
        assert await feed.next() is None
        assert len(reader.states) == 1
        feed.close()

    run(main())


def test_a_feed_may_be_closed_before_it_is_started() -> None:
    async def main() -> None:
        jobs = Jobs()
        jobs.change()
        feed = jobs.feeds.open_job(7)
        feed.close()
        feed.start(jobs.read())
        assert await feed.next() is None

    run(main())


def test_the_open_feeds_are_counted() -> None:
    async def main() -> None:
        feeds = Feeds()
        opened = [feeds.open_job(7), feeds.open_job(7), feeds.open_job(8), feeds.open_all()]
        assert feeds.count == 4
        for feed in opened[1:]:
            feed.close()
            feed.close()
        assert feeds.count == 1

    run(main())


def test_when_the_feeds_are_closed_every_reader_goes_on_and_nobody_may_come() -> None:
    async def main() -> None:
        jobs = Jobs()
        jobs.change()
        everything = jobs.feeds.open_all()
        everything.start([])
        readers = [Reader(jobs.watch()), Reader(everything)]
        slow = jobs.watch()
        await asyncio.sleep(1.0)
        jobs.feeds.close()
        jobs.feeds.close()
        for reader in readers:
            await reader.task
        assert await slow.next() is None
        assert await jobs.feeds.open_all().next() is None
        assert await jobs.watch().next() is None
        assert jobs.feeds.count == 0
        jobs.tell()

    run(main())
