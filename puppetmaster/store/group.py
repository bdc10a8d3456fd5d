"""Group commit: whoever asks while a write is under way shares the next one."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Future

from puppetmaster.errors import StoreCorrupt, StoreUnavailable
from puppetmaster.store.journal import GivenUp, unavailable


class _Passengers:
    """Those who share a write, on one loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self._waiters: list[asyncio.Future[None]] = []

    def join(self) -> asyncio.Future[None]:
        waiter = self.loop.create_future()
        self._waiters.append(waiter)
        return waiter

    def take_in(self, others: _Passengers) -> None:
        self._waiters += others._waiters

    def wake(self, error: BaseException | None) -> None:
        for waiter in self._waiters:
            if waiter.done():
                continue
            if error is None:
                waiter.set_result(None)
            else:
                waiter.set_exception(_translate(error))


class GroupCommit:
    """Lets many coroutines of one loop share the writes of one thread.

    A write that was begun on a loop that has been closed since is waited for by the next loop.
    """

    def __init__(self, depart: Callable[[], Future[None]]) -> None:
        """``depart`` takes what has gathered and hands it to the writer thread.

        It returns what its passengers wait for, and the next departure.
        """
        self._depart = depart
        self._flight: Future[None] | None = None
        self._boarding: _Passengers | None = None

    @property
    def is_under_way(self) -> bool:
        """Whether something is being written, or about to be: who has boarded leaves when the write before has landed,
        and looks for no other."""
        return self._boarding is not None or not self._is_free

    async def commit(self) -> None:
        """Return when a write that departs after this call has landed.

        Raises StoreUnavailable when it failed. Cancelling one caller does not disturb the others.
        """
        loop = asyncio.get_running_loop()
        boarding, is_free = self._boarding, self._is_free
        if boarding is None or boarding.loop is not loop:
            boarding = self._boarding = _Passengers(loop)
            if not is_free:
                self._wait_for_flight(boarding)
        waiter = boarding.join()
        if is_free:
            # At once: the next round of the loop may be a millisecond away. Who comes too late shares the next one.
            self._take_off(boarding)
        try:
            await waiter
        finally:
            del waiter  # its exception holds this frame, and all that the one below it held

    @property
    def _is_free(self) -> bool:
        return self._flight is None or self._flight.done()

    def _take_off(self, passengers: _Passengers) -> None:
        if self._boarding is not passengers:
            return  # they have left, with somebody who came when the write before had just landed
        self._boarding = None
        try:
            self._flight = self._depart()
        except Exception as error:
            passengers.wake(error)
            return
        _when_landed(self._flight, passengers.loop, lambda error: self._landed(passengers, error))

    def _landed(self, passengers: _Passengers, error: BaseException | None) -> None:
        if isinstance(error, GivenUp):
            self._board_again(passengers)  # nothing was tried: the next departure goes another way
        else:
            passengers.wake(error)

    def _board_again(self, passengers: _Passengers) -> None:
        if self._boarding is not None and self._boarding.loop is passengers.loop:
            self._boarding.take_in(passengers)
            return
        self._boarding = passengers
        if self._is_free:
            self._take_off(passengers)
        else:
            self._wait_for_flight(passengers)

    def _wait_for_flight(self, passengers: _Passengers) -> None:
        assert self._flight is not None, "there is one, or it would be free"
        _when_landed(self._flight, passengers.loop, lambda _: self._take_off(passengers))


def _when_landed(
    flight: Future[None], loop: asyncio.AbstractEventLoop, callback: Callable[[BaseException | None], None]
) -> None:
    """Call back on the loop, with what went wrong in the thread."""
    landed = asyncio.wrap_future(flight, loop=loop)
    landed.add_done_callback(lambda future: callback(_error_of(future)))


def _error_of(future: asyncio.Future[None]) -> BaseException | None:
    return asyncio.CancelledError() if future.cancelled() else future.exception()


def _translate(error: BaseException) -> StoreUnavailable:
    if isinstance(error, StoreUnavailable):
        return StoreUnavailable(error.reason)
    if isinstance(error, OSError):
        translated = unavailable(error)
    else:
        translated = StoreUnavailable(str(error) if isinstance(error, StoreCorrupt) else repr(error))
    translated.__cause__ = error
    return translated
