"""The channel of agents that fetch: each request is given once, to whoever asks, and again when it did not arrive."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from puppetmaster.channels.pull import Pull
from puppetmaster.effects import Verdict
from puppetmaster.models import Job, Message, Request
from puppetmaster.wire import Answer
from tests.fast_loop import run as run_fast


class Post:
    """Notes what it is told."""

    def __init__(self) -> None:
        self.accepted_attempts: list[tuple[int, int]] = []

    def accepted(self, request: Request, attempt: int) -> None:
        self.accepted_attempts.append((request.id, attempt))

    async def answer(self, answer: Answer) -> Verdict:
        return Verdict.APPLIED

    def resend(self, only: Callable[[Request], bool] | None = None) -> int:
        return 0


def out(ident: int, destination: str = "a") -> Request:
    """A request that is out, at its first attempt."""
    job = Job(
        id=1,
        messages=[Message(method="post", resource="/x", timeout=1.0)],
        first_request=2,
        total_count=9,
        created_at=0.0,
    )
    return Request(id=ident, job=job, message_number=0, destination=destination, attempt=1, is_out=True)


def bench() -> tuple[Pull, Post]:
    post = Post()
    pull = Pull(post)
    pull.join("a")
    return pull, post


def run(main: Coroutine[Any, Any, None]) -> None:
    run_fast(main)


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


def test_only_members_are_served() -> None:
    pull, _ = bench()
    assert pull.serves(out(2)) and not pull.serves(out(2, "b"))
    pull.leave("a")
    assert not pull.serves(out(2))


def test_a_request_is_given_once() -> None:
    async def main() -> None:
        pull, post = bench()
        request = out(2)
        pull.send(request, 1)
        pull.send(request, 1)
        assert await pull.next("a", 0.0) is request
        pull.send(request, 1)  # the broker came back, say
        assert await pull.next("a", 0.0) is None
        assert post.accepted_attempts == [(2, 1)]

    run(main())


def test_an_agent_that_has_one_gets_the_next_and_keeps_both() -> None:
    async def main() -> None:
        pull, _ = bench()
        requests = [out(2), out(3)]
        for request in requests:
            pull.send(request, 1)
            assert await pull.next("a", 0.0) is request
        for request in requests:
            pull.send(request, 1)
        assert await pull.next("a", 0.0) is None
        pull.give_back(requests[0])
        assert await pull.next("a", 0.0) is requests[0]

    run(main())


def test_another_attempt_is_given_again() -> None:
    async def main() -> None:
        pull, post = bench()
        request = out(2)
        pull.send(request, 1)
        await pull.next("a", 0.0)
        request.attempt = 2
        pull.send(request, 2)
        assert await pull.next("a", 0.0) is request
        assert post.accepted_attempts == [(2, 1), (2, 2)]

    run(main())


def test_what_did_not_arrive_is_given_to_the_next_who_asks() -> None:
    async def main() -> None:
        pull, _ = bench()
        request = out(2)
        pull.send(request, 1)
        await pull.next("a", 0.0)
        pull.give_back(request)
        pull.give_back(request)
        assert await pull.next("a", 0.0) is request
        assert await pull.next("a", 0.0) is None

    run(main())


def test_what_has_ended_is_not_given_and_not_given_back() -> None:
    async def main() -> None:
        pull, post = bench()
        for ident in (2, 3):
            pull.send(request := out(ident), 1)
            request.is_out = False
        aborted = out(4)
        pull.send(aborted, 1)
        pull.abort(aborted)
        pull.give_back(aborted)
        assert await pull.next("a", 0.0) is None
        assert post.accepted_attempts == []

    run(main())


def test_a_poll_waits_for_what_comes_and_ends_with_its_time() -> None:
    async def main() -> None:
        pull, _ = bench()
        poll = asyncio.ensure_future(pull.next("a", 60.0))
        await settle()
        assert not poll.done()
        request = out(2)
        pull.send(request, 1)
        assert await poll is request
        assert await pull.next("a", 0.01) is None
        assert not pull._pollers

    run(main())


def test_two_polls_get_one_each_and_one_that_leaves_takes_nothing_along() -> None:
    async def main() -> None:
        pull, _ = bench()
        polls = [asyncio.ensure_future(pull.next("a", 60.0)) for _ in range(3)]
        await settle()
        first, second = out(2), out(3)
        pull.send(first, 1)
        polls[0].cancel()  # in the moment in which it is woken
        await settle()
        assert polls[1].done() and polls[1].result() is first
        pull.send(second, 1)
        assert await polls[2] is second
        assert not pull._pollers

    run(main())


def test_all_polls_of_one_who_is_removed_end() -> None:
    async def main() -> None:
        pull, _ = bench()
        polls = [asyncio.ensure_future(pull.next("a", 60.0)) for _ in range(3)]
        await settle()
        pull.leave("a")
        assert await asyncio.gather(*polls) == [None, None, None]

    run(main())
