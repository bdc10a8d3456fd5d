"""How devices get to the disk: what callers change at once, what devices say of themselves when there is time.

A device says that it is there far more often than it is worth a write. What changed gathers, and is written every few
seconds, a little at a time; that a device was seen again is written with that, and else every few minutes only.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from itertools import islice

from puppetmaster.devices.device import Device, to_document
from puppetmaster.errors import StoreUnavailable
from puppetmaster.store.port import Document, Store

logger = logging.getLogger(__name__)

TABLE = "devices"

WRITE_INTERVAL = 5.0
"""Seconds between two writes of what devices said: after a kill so much of it is missing until they say it again."""

SEEN_INTERVAL = 300.0
"""Seconds between two writes of when devices were seen, and of their telemetry: 200,000 of them take some seconds."""

CHUNK = 100
"""Devices that are written before the loop gets a turn: about 3 ms."""

PAUSE = 0.01
"""Seconds between two chunks: a fleet that comes back at once must not take the loop from the jobs."""

LOOK_CHUNK = 5000
"""Devices that are looked at before the loop gets a turn."""


class Writer:
    """Writes devices.

    :param devices: all of them, for those that were only seen.
    """

    def __init__(self, store: Store, devices: Callable[[], Iterable[Device]]) -> None:
        self.unavailable = ""
        """Why the store can't write; empty while it can."""
        self._store = store
        self._devices = devices
        self._waiting: dict[str, Device] = {}
        self._held: set[int] = set()
        """Documents that a caller is changing: what the device says meanwhile waits."""
        self._task: asyncio.Task[None] | None = None

    # Life

    def start(self) -> None:
        """Begin to write."""
        self._task = asyncio.create_task(self._run(), name="devices-writer")

    async def close(self) -> None:
        """Write all that is not written yet."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None
        await self._gather_seen()
        await self.flush(0.0)

    # What devices say

    def add(self, device: Device) -> None:
        """Have a device written when there is time."""
        self._waiting[device.id] = device

    async def flush(self, pause: float = PAUSE) -> bool:
        """Write what waits; false when the store can't."""
        left = len(self._waiting)  # what comes meanwhile has its turn the next time
        while left > 0:
            names = list(islice(self._waiting, min(left, CHUNK)))
            left -= len(names) or left
            self._put([self._waiting.pop(name) for name in names])
            await asyncio.sleep(pause)
        try:
            await self._store.commit()
        except StoreUnavailable as error:
            self._failed(error.reason)
            return False
        self._works()
        return True

    def _put(self, chunk: list[Device]) -> None:
        documents = {}
        for device in chunk:
            if device.number in self._held:
                self._waiting.setdefault(device.id, device)
            elif not device.is_gone:
                documents[device.number] = to_document(device)
                device.stored_at = device.last_seen_at
        try:
            self._store.put(TABLE, documents)
        except ValueError:
            logger.exception("devices can't be written: %.200s", [device.id for device in chunk],
                             extra={"event": "devices_not_written", "count": len(chunk)})
        except StoreUnavailable as error:
            self._failed(error.reason)

    async def _gather_seen(self) -> None:
        """Note all that were seen since they were written."""
        rest = iter(list(self._devices()))
        while chunk := list(islice(rest, LOOK_CHUNK)):
            for device in chunk:
                if device.last_seen_at != device.stored_at:
                    self._waiting.setdefault(device.id, device)
            await asyncio.sleep(0)

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        next_seen = loop.time() + SEEN_INTERVAL
        while True:
            await asyncio.sleep(WRITE_INTERVAL)
            try:
                if loop.time() >= next_seen:
                    next_seen = loop.time() + SEEN_INTERVAL
                    await self._gather_seen()
                # Also for others who share the store: they do not try again by themselves.
                if self._waiting or self.unavailable or self._store.unavailable:
                    await self.flush()
            except Exception:
                logger.exception("devices could not be written", extra={"event": "devices_not_written"})

    # What callers change

    async def replace(self, number: int, document: Document | None, before: Document | None) -> None:
        """Put a document in the place of another, none meaning that there is none; it is on disk then.

        :raises StoreUnavailable: when that failed; what was before is there again.
        """
        self._held.add(number)
        try:
            self._place(number, document)
            try:
                await self._store.commit()
            except BaseException as error:
                self._place(number, before)
                if isinstance(error, StoreUnavailable):
                    self._failed(error.reason)
                raise
        finally:
            self._held.discard(number)
        self._works()

    def _place(self, number: int, document: Document | None) -> None:
        if document is None:
            self._store.remove(TABLE, [number])
        else:
            self._store.put(TABLE, {number: document})

    # The store's state

    def _failed(self, reason: str) -> None:
        if not self.unavailable:
            logger.error("the registry of devices can't be written: %s; trying again", reason,
                         extra={"event": "registry_unavailable", "reason": reason})
        self.unavailable = reason

    def _works(self) -> None:
        if self.unavailable:
            logger.warning("the registry of devices can be written again", extra={"event": "registry_available"})
            self.unavailable = ""
