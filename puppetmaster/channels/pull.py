"""Agents that fetch their requests: a request waits here until its destination asks for it."""

from __future__ import annotations

import asyncio

from puppetmaster.channels.port import Post
from puppetmaster.models import Request


class Pull:
    """The channel of the destinations that :meth:`join`.

    A request is given once, and again when the agent did not get it (:meth:`give_back`), for a new attempt, and after a
    restart when it was not answered before: what was given is not remembered on disk, and the engine sends all that is
    out again then.

    Its destinations may have several requests at once, of different jobs: an agent that fetches works on what it was
    given and asks for more meanwhile, and one task that it never answers must not keep all others from it.
    """

    def __init__(self, post: Post) -> None:
        self.members: set[str] = set()
        """The destinations that fetch."""
        self._post = post
        self._waiting: dict[str, dict[int, tuple[Request, int]]] = {}
        """Requests with their attempts, by destination and id."""
        self._given: dict[str, dict[int, tuple[Request, int]]] = {}
        """What each destination has, by id, with its attempt; what has ended since goes when more is given."""
        self._pollers: dict[str, list[asyncio.Future[None]]] = {}

    def join(self, destination: str) -> None:
        """Let requests to a destination wait here from now on; idempotent."""
        self.members.add(destination)

    def leave(self, destination: str) -> None:
        """A destination fetches no more; what waits for it waits for its timeout. Idempotent."""
        self.members.discard(destination)
        self._waiting.pop(destination, None)
        self._given.pop(destination, None)
        self._wake(destination)

    def serves(self, request: Request) -> bool:
        """See Channel."""
        return request.destination in self.members

    def send(self, request: Request, attempt: int) -> None:
        """See Channel."""
        if self._given.get(request.destination, {}).get(request.id) == (request, attempt):
            return  # its agent is at work on it
        self._waiting.setdefault(request.destination, {})[request.id] = (request, attempt)
        self._wake(request.destination)

    def abort(self, request: Request) -> None:
        """See Channel; whoever works on it already finds out when it answers."""
        self._forget(request)

    def give_back(self, request: Request) -> None:
        """An agent did not get what :meth:`next` returned: it is given to the next one who asks."""
        _, attempt = self._given.get(request.destination, {}).pop(request.id, (request, 0))
        if attempt and request.is_out:
            self.send(request, attempt)

    async def next(self, destination: str, timeout: float) -> Request | None:
        """The next request for a destination, after at most ``timeout`` seconds; none when there is none by then."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout
        while destination in self.members:
            request = self._take(destination)
            left = deadline - loop.time()
            if request is not None or left <= 0:
                return request
            waiter = loop.create_future()
            self._pollers.setdefault(destination, []).append(waiter)
            try:
                await asyncio.wait({waiter}, timeout=left)
            finally:
                self._stop_waiting(destination, waiter)
        return None

    def _take(self, destination: str) -> Request | None:
        waiting = self._waiting.pop(destination, {})
        while waiting:
            ident = next(iter(waiting))
            request, attempt = waiting.pop(ident)
            if not _has(request, attempt):
                continue  # it has moved on
            if waiting:
                self._waiting[destination] = waiting
            given = self._given.get(destination, {})
            self._given[destination] = {known: had for known, had in given.items() if _has(*had)}
            self._given[destination][request.id] = (request, attempt)
            self._post.accepted(request, attempt)
            return request
        return None

    def _forget(self, request: Request) -> None:
        waiting = self._waiting.get(request.destination, {})
        waiting.pop(request.id, None)
        if not waiting:
            self._waiting.pop(request.destination, None)
        self._given.get(request.destination, {}).pop(request.id, None)

    def _wake(self, destination: str) -> None:
        for waiter in self._pollers.get(destination, ()):
            if not waiter.done():
                waiter.set_result(None)
                if destination in self.members:
                    return  # one request is for one of them

    def _stop_waiting(self, destination: str, waiter: asyncio.Future[None]) -> None:
        pollers = self._pollers[destination]
        pollers.remove(waiter)
        if not pollers:
            del self._pollers[destination]
        if waiter.done() and not waiter.cancelled() and destination in self._waiting:
            self._wake(destination)  # whoever was woken may be gone, and the request still there


def _has(request: Request, attempt: int) -> bool:
    """Whether an attempt of a request is still out."""
    return request.is_out and request.attempt == attempt
