"""Asks the broker, device by device, for the presence that it retains.

A subscription to all presences brings what a broker is willing to queue at once: with Mosquitto's own limits 3,000 of
20,000, and the rest is dropped without a word, as are messages of a fleet that comes back faster than they are taken.
A broker that was killed has forgotten what it retained, and the last wills with it. So all known devices are gone
through, a hundred at a time, after every connect and every few minutes: whoever is missed is noticed then.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Callable, Mapping, Sequence

from puppetmaster.address import BrokerAddress
from puppetmaster.bus import Bus
from puppetmaster.devices import Devices
from puppetmaster.errors import BusError

logger = logging.getLogger(__name__)

SETTLE = 10.0
"""Seconds after a connect in which devices come back by themselves."""

INTERVAL = 300.0
"""Seconds between two rounds."""

BATCH = 100
"""Devices that are asked for at once: far less than any broker queues."""

PAUSE = 0.02
"""Seconds between two batches."""

PATIENCE = 10.0
"""Seconds for the broker to hand out a batch."""

LATE = 1.0
"""Seconds for a broker that hands out what it retains after it has confirmed the subscription."""


class RollCall:
    """Goes through the devices.

    :param take: is given topic and payload of a presence; an empty payload means that there is none.
    """

    def __init__(
        self,
        address: BrokerAddress,
        instance: str,
        devices: Devices,
        take: Callable[[str, bytes], None],
        *,
        settle: float = SETTLE,
        interval: float = INTERVAL,
    ) -> None:
        self.rounds = 0
        """How many were done."""
        self._devices = devices
        self._take = take
        self._settle = settle
        self._interval = interval
        self._fence_topic = f"/puppetmaster/{instance}/rollcall/{secrets.token_hex(4)}"
        self._fence: asyncio.Future[None] | None = None
        self._said: dict[str, bytes] = {}
        self._wanted = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._bus = Bus(
            address,
            f"puppetmaster-{instance}-rollcall",
            self._received,
            topics=[self._fence_topic],
            on_connect=lambda session_present: self._wanted.set(),
        )

    async def start(self) -> None:
        """Connect, however long it takes, and begin."""
        self._task = asyncio.create_task(self._run(), name="rollcall")
        await self._bus.start()

    async def close(self) -> None:
        """Stop."""
        while self._task is not None and not self._task.done():
            # Before Python 3.12 wait_for loses a cancellation that comes in the moment of its result.
            self._task.cancel()
            await asyncio.wait({self._task}, timeout=0.1)
        await self._bus.close()

    async def _run(self) -> None:
        while True:
            try:
                await asyncio.wait_for(self._wanted.wait(), self._interval)
            except asyncio.TimeoutError:
                pass
            else:
                self._wanted.clear()
                await asyncio.sleep(self._settle)
            if not self._bus.connected:
                continue
            try:
                await self._round()
            except (BusError, asyncio.TimeoutError) as error:
                logger.info("not all devices were asked for: %s", error, extra={"event": "devices_not_asked"})
            except Exception:
                logger.exception("devices could not be asked for", extra={"event": "roll_call_failed"})

    async def _round(self) -> None:
        missed: list[str] = []
        await self._call(self._devices.on_broker(), 0.0, missed.append)
        # Not everybody who says nothing has taken it back: some brokers take their time.
        doubtful = [name for name in missed if self._devices.has_said(name)]
        await self._call(doubtful, LATE, lambda name: self._take(_topic(name), b""))
        self.rounds += 1

    async def _call(self, names: Sequence[str], wait: float, miss: Callable[[str], None]) -> None:
        for start in range(0, len(names), BATCH):
            batch = names[start : start + BATCH]
            said = await self._ask([_topic(name) for name in batch], wait)
            for name in batch:
                payload = said.get(_topic(name))
                if payload:
                    self._take(_topic(name), payload)
                else:
                    miss(name)
            await asyncio.sleep(PAUSE)

    async def _ask(self, topics: Sequence[str], wait: float) -> Mapping[str, bytes]:
        """What is said on these topics now.

        :raises BusError: when that can't be known.
        """
        said: dict[str, bytes] = {}
        self._said = said
        self._fence = fence = asyncio.get_running_loop().create_future()
        try:
            await self._bus.subscribe(*topics)
            # What is retained comes before whatever is published now.
            self._bus.publish(self._fence_topic, b"{}")
            await asyncio.wait_for(fence, PATIENCE)
            await asyncio.sleep(wait)
        finally:
            self._fence = None
            await self._bus.unsubscribe(*topics)
        if not self._bus.connected:
            raise BusError("the connection broke")
        return said

    def _received(self, topic: str, payload: bytes) -> None:
        if topic != self._fence_topic:
            self._said[topic] = payload
        elif self._fence is not None and not self._fence.done():
            self._fence.set_result(None)


def _topic(name: str) -> str:
    return f"/remote/{name}/presence"
