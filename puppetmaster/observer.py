"""What devices say by themselves: presence, telemetry, events, and the output of their commands.

It has a connection of its own, so that none of it stands between a request and its answer: a fleet that comes back at
once says so in ten thousand messages. Presence is retained, so the broker hands out that of all devices whenever the
connection is made. The session is persistent: events and output that come while we are away wait at the broker.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter, deque
from collections.abc import Callable
from typing import Any

import orjson

from puppetmaster.address import BrokerAddress
from puppetmaster.bus import Bus
from puppetmaster.devices import Devices
from puppetmaster.devices.device import MQTT
from puppetmaster.logs import Seldom
from puppetmaster.policies import LOCALHOST, destination_fault
from puppetmaster.rollcall import RollCall
from puppetmaster.wire import MAX_ANSWER_BYTES, MAX_DEPTH, depth_of

logger = logging.getLogger(__name__)

PRESENCE, TELEMETRY, EVENT, OUTPUT = "presence", "telemetry", "event", "output"

TOPICS = (f"/remote/+/{PRESENCE}", f"/remote/+/{TELEMETRY}", f"/remote/+/{EVENT}", f"/remote/+/{OUTPUT}/+")

MAX_SAID_BYTES = 64 * 1024
"""The largest presence or telemetry that is looked into."""

TURN = 0.002
"""Seconds of work before the loop gets a turn."""

MAX_ID_DIGITS = 18

OnOutput = Callable[[str, int, bytes], None]
"""Gets destination, request and a chunk of output; what it can't take is lost, and counted when it raises."""

OnEvent = Callable[[str, bytes], None]
"""Gets destination and event; the same."""


RETAINED_TIME = 2.0
"""Seconds after a connect in which the broker hands out what devices said last."""

UNHEARD_TIME = 30.0
"""Seconds without a connection of our own after which jobs go by what was known before."""


class _Bad(Exception):
    """What came is not what its topic says."""


class Observer:
    """Hears what devices say, and hands it on.

    :param now: the time, in seconds since 1970.
    :param on_known: is told whether the devices have had the time to say whether they are there.
    """

    def __init__(
        self,
        address: BrokerAddress,
        instance: str,
        devices: Devices,
        now: Callable[[], float],
        *,
        on_output: OnOutput | None = None,
        on_event: OnEvent | None = None,
        on_known: Callable[[bool], None] = lambda known: None,
    ) -> None:
        self.received = 0
        """How many messages came."""
        self.dropped: Counter[str] = Counter()
        """Those that were not taken, by the kind of their topic."""
        self._devices = devices
        self._now = now
        self._on_output = on_output
        self._on_event = on_event
        self._seldom = Seldom()
        self._inbox: deque[tuple[str, bytes, asyncio.Future[None]]] = deque()
        self._news = asyncio.Event()
        self._worker: asyncio.Task[None] | None = None
        self._on_known = on_known
        self._knowing: asyncio.TimerHandle | None = None
        self._old_since: float | None = None
        """Since when it is not known who is away, on the loop's clock; none while it is."""
        self._bus = Bus(
            address,
            f"puppetmaster-{instance}-devices",
            self._received,
            topics=TOPICS,
            persistent=True,
            on_connect=lambda session_present: self._know_after(RETAINED_TIME),
            on_disconnect=lambda: self._know_after(UNHEARD_TIME),
        )
        self._rollcall = RollCall(address, instance, devices, self._take)

    @property
    def connected(self) -> bool:
        """Whether there is a connection to the broker."""
        return self._bus.connected

    async def start(self) -> None:
        """Connect, however long it takes."""
        self._worker = asyncio.create_task(self._work(), name="observer")
        self._know_after(UNHEARD_TIME)
        await self._bus.start()
        await self._rollcall.start()

    async def close(self) -> None:
        """Leave the broker; the session stays there, and it keeps what was not taken."""
        await self._rollcall.close()
        await self._bus.close()
        if self._worker is not None:
            self._worker.cancel()
            await asyncio.gather(self._worker, return_exceptions=True)
        if self._knowing is not None:
            self._knowing.cancel()
        for _, _, taken in self._inbox:
            taken.cancel()
        self._inbox.clear()

    def clear_presence(self, destination: str) -> None:
        """Take back what a device said of itself: a removed one must not appear again by what lies at the broker."""
        self._bus.publish(f"/remote/{destination}/{PRESENCE}", b"", retain=True)

    def _know_after(self, seconds: float) -> None:
        """What was known is old by now, until this time is over; not for ever where no connection lasts."""
        loop = asyncio.get_running_loop()
        if self._knowing is not None:
            self._knowing.cancel()
        if self._old_since is None:
            self._old_since = loop.time()
        self._on_known(False)
        self._knowing = loop.call_at(min(loop.time() + seconds, self._old_since + UNHEARD_TIME), self._know)

    def _know(self) -> None:
        self._old_since = None
        self._on_known(True)

    # What comes

    async def _received(self, topic: str, payload: bytes) -> None:
        """Wait until a message was taken; it is acknowledged then."""
        taken: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._inbox.append((topic, payload, taken))
        self._news.set()
        await taken

    async def _work(self) -> None:
        """Take what comes, in its order, with turns for the loop in between."""
        loop = asyncio.get_running_loop()
        while True:
            await self._news.wait()
            until = loop.time() + TURN
            while self._inbox and loop.time() < until:
                topic, payload, taken = self._inbox.popleft()
                self.received += 1
                self._take(topic, payload)
                if not taken.done():
                    taken.set_result(None)
            if not self._inbox:
                self._news.clear()
            await asyncio.sleep(0)

    def _take(self, topic: str, payload: bytes) -> None:
        """Hand a message on. One that is not acknowledged would stand in the way of others until the next connection,
        so that of an error of ours is lost."""
        destination, kind, rest = _parts(topic)
        try:
            self._hand_on(destination, kind, rest, payload)
        except _Bad as bad:
            self._drop(kind, topic, str(bad))
        except Exception as error:
            logger.exception("a message on %.100r could not be taken", topic,
                             extra={"event": "device_message_failed"})
            self._drop(kind, topic, f"{type(error).__name__}: {error}")

    def _hand_on(self, destination: str, kind: str, rest: str, payload: bytes) -> None:
        fault = destination_fault(destination)
        if fault is not None:
            raise _Bad(fault)
        if destination == LOCALHOST:
            return  # this machine: what it says is for others
        if kind == PRESENCE and not payload:
            self._devices.absence(destination, self._now())
        elif kind == PRESENCE:
            self._devices.presence(destination, _read(payload), self._now(), MQTT)
        elif kind == TELEMETRY:
            self._devices.telemetry(destination, _read(payload), self._now(), MQTT)
        elif kind == EVENT:
            self._event(destination, payload)
        elif kind == OUTPUT:
            self._output(destination, rest, payload)

    def _event(self, destination: str, payload: bytes) -> None:
        if len(payload) > MAX_ANSWER_BYTES:
            raise _Bad(f"it has {len(payload)} bytes")
        self._devices.seen(destination, self._now())
        if self._on_event is not None:
            self._on_event(destination, payload)

    def _output(self, destination: str, rest: str, payload: bytes) -> None:
        if not (rest.isascii() and rest.isdigit() and len(rest) <= MAX_ID_DIGITS):
            raise _Bad("it names no request")
        if len(payload) > MAX_ANSWER_BYTES:
            raise _Bad(f"it has {len(payload)} bytes")
        self._devices.seen(destination, self._now())
        if self._on_output is not None:
            self._on_output(destination, int(rest), payload)

    def _drop(self, kind: str, topic: str, why: str) -> None:
        self.dropped[kind] += 1
        if count := self._seldom.due("dropped"):
            logger.warning("messages of devices were not taken: %d, the last one on %.100r: %.200s", count, topic, why,
                           extra={"event": "device_messages_dropped", "count": count})


def _parts(topic: str) -> tuple[str, str, str]:
    """Destination, kind, and what follows, of ``/remote/<destination>/<kind>/...``."""
    levels = topic.split("/", 4)
    return levels[2], levels[3], levels[4] if len(levels) > 4 else ""


def _read(payload: bytes) -> Any:
    if len(payload) > MAX_SAID_BYTES:
        raise _Bad(f"it has {len(payload)} bytes, and may have {MAX_SAID_BYTES}")
    if depth_of(payload) > MAX_DEPTH:
        raise _Bad(f"it is nested more than {MAX_DEPTH} levels deep")
    try:
        return orjson.loads(payload)
    except ValueError as error:
        raise _Bad(f"it is not JSON: {error}") from None
