"""Of every job, at most ten changes in a second are told, its end and its removal at once."""

from __future__ import annotations

import asyncio
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from puppetmaster.effects import Change
from puppetmaster.pacing import INTERVAL, Pacing
from tests.fast_loop import TURN, run

ACTIONS = st.one_of(
    st.tuples(st.sampled_from(["tell", "tell", "tell", "end", "remove"]), st.integers(1, 3)),
    st.tuples(st.just("sleep"), st.sampled_from([0.0, 0.004, 0.05, INTERVAL, 0.25])),
    st.tuples(st.just("hold"), st.booleans()),
)

WHAT = ("tell", "end", "remove")
"""What becomes of a job, in the order of its life."""

MOST = 10
"""Changes of a job that are told in a second."""


class Listener:
    """Notes what is told, and when."""

    def __init__(self) -> None:
        self.pacing: Pacing[int] = Pacing(self.say)
        self.heard: list[tuple[float, Change, int, int]] = []
        self.hold_at: int | None = None
        """After how many changes it is held."""

    def say(self, change: Change, job_id: int, number: int) -> None:
        self.heard.append((now(), change, job_id, number))
        if len(self.heard) == self.hold_at:
            self.pacing.hold(True)

    def tell(self, number: int, job_id: int = 7, change: Change = Change.CHANGED, *, ended: bool = False) -> None:
        self.pacing.tell(change, job_id, number, ended=ended)

    def numbers(self, job_id: int = 7) -> list[int]:
        return [number for _, _, told, number in self.heard if told == job_id]

    def times(self, job_id: int = 7) -> list[float]:
        return [when for when, _, told, _ in self.heard if told == job_id]


def now() -> float:
    return asyncio.get_running_loop().time()


def test_a_change_is_told_in_the_next_turn_of_the_loop_and_not_within_the_call() -> None:
    async def main() -> None:
        listener = Listener()
        listener.tell(1)
        assert listener.numbers() == []
        await asyncio.sleep(0)
        assert listener.numbers() == [1]

    run(main())


def test_of_a_job_that_changes_often_one_change_in_an_interval_is_told_and_the_last_one() -> None:
    async def main() -> None:
        listener = Listener()
        for number in range(1_000):
            listener.tell(number)
            await asyncio.sleep(0.003)
        await asyncio.sleep(1.0)
        times = listener.times()
        assert len(times) >= 3.0 / INTERVAL
        assert all(later - earlier >= INTERVAL - 1e-9 for earlier, later in pairwise(times))
        assert listener.numbers()[-1] == 999

    run(main())


def test_the_end_of_a_job_and_its_removal_do_not_wait_for_the_interval() -> None:
    async def main() -> None:
        listener = Listener()
        for number in range(3):
            listener.tell(number)
            await asyncio.sleep(0)
        assert listener.numbers() == [0]
        listener.tell(3, ended=True)
        await asyncio.sleep(0)
        listener.tell(4, change=Change.REMOVED, ended=True)
        await asyncio.sleep(0)
        assert listener.numbers() == [0, 3, 4]
        await asyncio.sleep(1.0)
        assert listener.numbers() == [0, 3, 4]

    run(main())


def test_the_end_of_a_job_that_is_still_to_be_told_of_is_told_once() -> None:
    async def main() -> None:
        listener = Listener()
        listener.tell(1, change=Change.CREATED)
        listener.tell(2, ended=True)
        await asyncio.sleep(1.0)
        assert [entry[1:] for entry in listener.heard] == [(Change.CREATED, 7, 2)]

    run(main())


def test_an_end_waits_while_it_is_held() -> None:
    async def main() -> None:
        listener = Listener()
        listener.tell(1)
        await asyncio.sleep(0)
        listener.pacing.hold(True)
        listener.tell(2)
        listener.tell(3, ended=True)
        await asyncio.sleep(1.0)
        assert listener.numbers() == [1]
        listener.pacing.hold(False)
        await asyncio.sleep(0)
        assert listener.numbers() == [1, 3]

    run(main())


def test_with_its_end_and_its_removal_a_job_tells_ten_changes_in_a_second() -> None:
    async def main() -> None:
        listener = Listener()
        began = now()
        while now() < began + 0.99:
            listener.tell(0)
            await asyncio.sleep(0.001)
        listener.tell(1, ended=True)
        await asyncio.sleep(0)
        listener.tell(2, change=Change.REMOVED, ended=True)
        await asyncio.sleep(1.0)
        assert len(listener.times()) == MOST
        assert listener.times()[-1] < began + 1.0

    run(main())


def test_a_job_that_rests_does_not_keep_another_one_waiting() -> None:
    async def main() -> None:
        listener = Listener()
        listener.tell(1, job_id=7)
        await asyncio.sleep(0.01)
        listener.tell(2, job_id=7)
        await asyncio.sleep(0.01)
        told_at = now()
        listener.tell(3, job_id=8)
        await asyncio.sleep(1.0)
        assert listener.times(8)[0] - told_at <= 2 * TURN
        assert listener.numbers(7) == [1, 2]

    run(main())


def test_the_job_that_waits_longest_is_told_of_first() -> None:
    async def main() -> None:
        listener = Listener()
        listener.pacing.hold(True)
        for job_id in (9, 7, 8, 9):
            listener.tell(job_id, job_id=job_id)
        listener.pacing.hold(False)
        await asyncio.sleep(1.0)
        assert [job_id for _, _, job_id, _ in listener.heard] == [9, 7, 8]

    run(main())


def test_what_was_created_and_changes_before_it_is_told_is_still_created() -> None:
    async def main() -> None:
        listener = Listener()
        listener.tell(1, change=Change.CREATED)
        listener.tell(2)
        await asyncio.sleep(1.0)
        listener.tell(3)
        await asyncio.sleep(1.0)
        assert [entry[1:] for entry in listener.heard] == [(Change.CREATED, 7, 2), (Change.CHANGED, 7, 3)]

    run(main())


def test_what_was_created_and_removed_before_it_is_told_is_removed() -> None:
    async def main() -> None:
        listener = Listener()
        listener.tell(1, change=Change.CREATED)
        listener.tell(2, change=Change.REMOVED)
        await asyncio.sleep(1.0)
        assert [entry[1:] for entry in listener.heard] == [(Change.REMOVED, 7, 2)]

    run(main())


def test_what_is_untold_can_be_asked_for() -> None:
    async def main() -> None:
        listener = Listener()
        assert listener.pacing.untold(7) is None
        listener.tell(1)
        listener.tell(2)
        assert (listener.pacing.untold(7), listener.pacing.untold(8)) == (2, None)
        await asyncio.sleep(0.01)
        assert listener.pacing.untold(7) is None

    run(main())


def test_nothing_is_told_while_it_is_held_and_the_newest_afterwards() -> None:
    async def main() -> None:
        listener = Listener()
        listener.tell(0)
        await asyncio.sleep(0.01)
        listener.pacing.hold(True)
        for number in range(1, 5):
            listener.tell(number)
            await asyncio.sleep(1.0)
        assert listener.numbers() == [0]
        listener.pacing.hold(False)
        await asyncio.sleep(1.0)
        assert listener.numbers() == [0, 4]

    run(main())


def test_it_can_be_held_by_what_it_tells_and_goes_on_where_it_was() -> None:
    async def main() -> None:
        listener = Listener()
        listener.hold_at = 2
        for job_id in range(5):
            listener.tell(0, job_id=job_id)
        await asyncio.sleep(1.0)
        assert [job_id for _, _, job_id, _ in listener.heard] == [0, 1]
        listener.pacing.hold(False)
        await asyncio.sleep(1.0)
        assert [job_id for _, _, job_id, _ in listener.heard] == [0, 1, 2, 3, 4]

    run(main())


def test_a_flush_tells_all_at_once_even_what_is_held_and_only_once() -> None:
    async def main() -> None:
        listener = Listener()
        listener.tell(1)
        await asyncio.sleep(0.01)
        listener.tell(2)
        listener.pacing.hold(True)
        listener.tell(3, job_id=8)
        listener.pacing.flush()
        assert (listener.numbers(7), listener.numbers(8)) == ([1, 2], [3])
        listener.pacing.hold(False)
        await asyncio.sleep(1.0)
        assert (listener.numbers(7), listener.numbers(8)) == ([1, 2], [3])

    run(main())


def test_after_a_flush_a_job_rests_as_after_any_other_news() -> None:
    async def main() -> None:
        listener = Listener()
        listener.tell(1)
        listener.pacing.flush()
        listener.tell(2)
        await asyncio.sleep(1.0)
        first, second = listener.times()
        assert second - first >= INTERVAL - 1e-9

    run(main())


def test_nothing_is_kept_of_jobs_that_are_quiet() -> None:
    async def main() -> None:
        listener = Listener()
        for job_id in range(500):
            listener.tell(0, job_id=job_id)
            await asyncio.sleep(0.01)
        await asyncio.sleep(2 * INTERVAL)
        pacing = listener.pacing
        assert (pacing._untold, list(pacing._due), dict(pacing._resting), pacing._timer) == ({}, [], {}, None)

    run(main())


@given(st.lists(ACTIONS, max_size=60))
def test_whatever_happens_the_pace_is_kept_and_the_last_change_comes_through(actions: list[tuple[str, float]]) -> None:
    async def main() -> None:
        listener = Listener()
        newest: dict[int, int] = {}
        ended: dict[int, str] = {}
        for number, (action, value) in enumerate(actions):
            if action in WHAT:
                job_id = int(value)
                if WHAT.index(action) <= WHAT.index(ended.get(job_id, "tell")) and job_id in ended:
                    continue  # a job ends once, and afterwards it can only be removed
                if action != "tell":
                    ended[job_id] = action
                newest[job_id] = number
                listener.tell(number, job_id=job_id, ended=action != "tell")
            elif action == "hold":
                listener.pacing.hold(bool(value))
            else:
                await asyncio.sleep(value)
        listener.pacing.hold(False)
        await asyncio.sleep(1.0)
        for job_id, number in newest.items():
            told, times = listener.numbers(job_id), listener.times(job_id)
            assert told == sorted(set(told))
            assert told[-1] == number
            assert all(later - earlier >= 1.0 - 1e-9 for earlier, later in zip(times, times[MOST:], strict=False))

    run(main())
