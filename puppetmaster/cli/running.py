"""Running coroutines from commands: signals end them cleanly, logs go to stderr."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
from collections.abc import Awaitable, Callable, Coroutine
from typing import TYPE_CHECKING, Any, TypeVar

from puppetmaster.cli.outcome import Interrupted
from puppetmaster.errors import BusError
from puppetmaster.logs import start_logging
from puppetmaster.settings import Settings

if TYPE_CHECKING:
    from puppetmaster.client import Client

T = TypeVar("T")

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def run_until_signal(main: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine; a signal cancels it, so that it can clean up.

    :raises Interrupted: when a signal ended it.
    """
    from puppetmaster.loop import run  # uvloop takes its time, and --help needs none

    return run(_interruptible(main))


async def _interruptible(main: Coroutine[Any, Any, T]) -> T:
    loop = asyncio.get_running_loop()
    task = asyncio.ensure_future(main)
    caught: list[int] = []

    def stop(number: int) -> None:
        caught.append(number)
        task.cancel()

    for number in SIGNALS:
        loop.add_signal_handler(number, stop, number)
    try:
        return await task
    except asyncio.CancelledError:
        if caught:
            raise Interrupted(caught[0]) from None
        raise
    finally:
        for number in SIGNALS:
            loop.remove_signal_handler(number)


def serve_until_signal(main: Coroutine[Any, Any, None]) -> None:
    """Run what runs until it is told to stop: being told is no failure."""
    with contextlib.suppress(Interrupted):
        run_until_signal(main)


def talk(settings: Settings, conversation: Callable[[Client], Awaitable[T]]) -> T:
    """Connect to the bus, have a conversation with the bundle, and leave.

    :raises BusError: when there is no connection.
    :raises Interrupted: when a signal ended it.
    """
    from puppetmaster.client import Client

    async def main() -> T:
        client = Client(settings.broker)
        await _connect(client)
        try:
            return await conversation(client)
        finally:
            await client.close()

    if settings.log == "debug":
        start_logging(settings.log)
    return run_until_signal(main())


async def _connect(client: Client) -> None:
    """Connect, and when that fails say why: the connection's last warning knows."""
    warnings = _Warnings()
    logger = logging.getLogger("puppetmaster")
    logger.addHandler(warnings)
    try:
        await client.start()
    except BusError as error:
        reason = warnings.last.removeprefix(f"broker at {client.address}: ")
        reason = f" ({reason})" if reason else ""
        raise BusError(f"{error}{reason}; is it running, and is its address right (--broker)?") from None


class _Warnings(logging.Handler):
    """Keeps the last warning; while it is there, none is printed that nobody asked for."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.last = ""

    def emit(self, record: logging.LogRecord) -> None:
        self.last = record.getMessage().removesuffix("; trying again")
