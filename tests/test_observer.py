"""When it is known who is away: some time after a connect, and not never where no connection lasts."""

from __future__ import annotations

import asyncio

from puppetmaster.address import BrokerAddress
from puppetmaster.devices import Devices
from puppetmaster.observer import RETAINED_TIME, UNHEARD_TIME, Observer
from puppetmaster.store.memory import MemoryStore
from tests import fast_loop

NOWHERE = BrokerAddress.parse("mqtt://127.0.0.1:1")


def make(told: list[bool]) -> Observer:
    return Observer(NOWHERE, "me", Devices(MemoryStore(), lambda: 0.0), lambda: 0.0, on_known=told.append)


def test_it_is_known_a_little_after_a_connect() -> None:
    async def main() -> None:
        told: list[bool] = []
        observer = make(told)
        observer._know_after(UNHEARD_TIME)
        await asyncio.sleep(UNHEARD_TIME / 2)
        observer._know_after(RETAINED_TIME)
        await asyncio.sleep(RETAINED_TIME / 2)
        assert told == [False, False]
        await asyncio.sleep(RETAINED_TIME)
        assert told == [False, False, True]

    fast_loop.run(main())


def test_a_connection_that_never_lasts_keeps_nobody_waiting_for_ever() -> None:
    async def main() -> None:
        told: list[bool] = []
        observer = make(told)
        for _ in range(int(2.5 * UNHEARD_TIME)):
            observer._know_after(RETAINED_TIME)
            await asyncio.sleep(RETAINED_TIME / 4)
            observer._know_after(UNHEARD_TIME)
            await asyncio.sleep(RETAINED_TIME / 4)
        assert told.count(True) == 2

    fast_loop.run(main())
