"""Running coroutines from commands, and talking to a running puppetmaster: over the bus, or over HTTP."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
from collections.abc import Awaitable, Callable, Coroutine
from typing import TYPE_CHECKING, Any, TypeVar

from puppetmaster.cli.outcome import BadUsage, Interrupted
from puppetmaster.errors import BusError
from puppetmaster.logs import level_of, start_logging
from puppetmaster.settings import Settings

if TYPE_CHECKING:
    from puppetmaster.client import BusClient, DocumentClient

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


def talk(settings: Settings, conversation: Callable[[DocumentClient], Awaitable[T]]) -> T:
    """Reach a running puppetmaster, have a conversation with it, and leave.

    :raises BusError: when there is no connection to the bus.
    :raises NoAnswer: when nobody answers over HTTP.
    :raises BadUsage: when the flags name both ways.
    :raises Interrupted: when a signal ended it.
    """
    connect = _connect_http if is_over_http(settings) else _connect_bus

    async def main() -> T:
        client = await connect(settings)
        try:
            return await conversation(client)
        finally:
            await client.close()

    if level_of(settings.log) == "debug":
        start_logging(settings.log)
    return run_until_signal(main())


def is_over_http(settings: Settings) -> bool:
    """Which way it is: a flag on the command line goes before a URL from the environment or a file.

    :raises BadUsage: when the flags name both ways.
    """
    if settings.url is None:
        return False
    named = [settings.source(name).startswith("flag") for name in ("url", "broker")]
    if all(named):
        raise BadUsage("--url", "it is another way than --broker: give one of them")
    return not named[1]


async def _connect_http(settings: Settings) -> DocumentClient:
    from puppetmaster.client import AsyncClient, HttpDocuments

    assert settings.url is not None
    return HttpDocuments(AsyncClient(settings.url, token=settings.token, ca_file=settings.ca_file))


async def _connect_bus(settings: Settings) -> DocumentClient:
    from puppetmaster.client import BusClient

    client = BusClient(settings.broker)
    await _start(client)
    return client


async def _start(client: BusClient) -> None:
    """Connect, and when that fails say why: the connection's last warning knows."""
    warnings = _Warnings()
    logger = logging.getLogger("puppetmaster")
    logger.addHandler(warnings)
    try:
        await client.start()
    except BusError as error:
        from puppetmaster.bus import DENIED  # loads gmqtt, as the client has

        reason = warnings.last.removeprefix(f"broker at {client.address}: ")
        hint = "is it running, and is its address right (--broker)?"
        if reason.startswith(DENIED):
            hint = "the user stands in --broker (mqtt://user@host), the password in the file of --broker-password-file"
        reason = f" ({reason})" if reason else ""
        raise BusError(f"{error}{reason}; {hint}") from None


class _Warnings(logging.Handler):
    """Keeps the last warning; while it is there, none is printed that nobody asked for."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.last = ""

    def emit(self, record: logging.LogRecord) -> None:
        self.last = record.getMessage().removesuffix("; trying again")
