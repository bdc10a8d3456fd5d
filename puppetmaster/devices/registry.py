"""The registry of devices: a directory in memory, written to a store of its own.

Whatever is heard of a device comes in here, on the loop: its presence, its answers, its telemetry. A device appears by
any of these, or when a caller gives it labels. What it says is bounded, and never raises; what callers change is on
disk before they are answered.
"""

from __future__ import annotations

import asyncio
import logging
import math
import random
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from puppetmaster import queries
from puppetmaster.devices.device import (
    LOCAL,
    MQTT,
    PULL,
    Device,
    device_view,
    fact_text,
    from_document,
    to_document,
    value_view,
)
from puppetmaster.devices.filtering import DeviceFilter
from puppetmaster.devices.labelling import DeviceUpdate
from puppetmaster.devices.reading import read_presence, read_telemetry
from puppetmaster.devices.writing import TABLE, Writer
from puppetmaster.errors import Conflict, DeviceNotFound, Fault, InvalidDocument
from puppetmaster.job_document import parse
from puppetmaster.paging import gather
from puppetmaster.policies import LOCALHOST, Connection, Targets, destination_fault
from puppetmaster.store.port import Store
from puppetmaster.views import View

logger = logging.getLogger(__name__)

MAX_DEVICES = 200_000
"""How many devices are kept: whoever may publish anywhere could make up names without an end."""

LOOK_CHUNK = 1000
"""Devices that a query looks at before the loop gets a turn: one to two milliseconds."""

UNREADABLE = "\N{REPLACEMENT CHARACTER}"
"""What stands in an id in place of bytes that are no UTF-8."""


class Devices:
    """The devices that are known.

    :param now: the time, in seconds since 1970.
    :param limit: how many are kept.
    """

    def __init__(self, store: Store, now: Callable[[], float], *, limit: int = MAX_DEVICES) -> None:
        self.on_present: list[Callable[[str], None]] = []
        """Called when a device comes online, also when it does so again, and when it is not away any more."""
        self.on_online: list[Callable[[str], None]] = []
        """Called when a device says that it is online, also when that is known, or only repeated by the broker."""
        self.on_removed: list[Callable[[str], None]] = []
        """Called when a device was removed, and that is on disk."""
        self.current: Callable[[str], int | None] = lambda destination: None
        """Knows the request that is out to a destination."""
        self.dropped: Counter[str] = Counter()
        """What devices said and was not taken, by the reason; a part of a message counts by its name."""
        self._store = store
        self._now = now
        self._limit = limit
        self._devices: dict[str, Device] = {}
        self._writer = Writer(store, self._devices.values)
        self._next_number = 1
        self._counts: Counter[Connection] = Counter()
        self._order: list[str] = []
        """In their order: those of ``_unordered`` are missing, and those that were removed may still be there."""
        self._unordered: list[str] = []
        self._has_gaps = False
        self._is_full = False
        self._writing = asyncio.Lock()

    # Life

    def load(self) -> None:
        """Take over what the store holds."""
        found = [from_document(number, document) for number, document in self._store.scan(TABLE)]
        self._next_number = max((device.number for device in found), default=0) + 1
        for device in sorted(found, key=lambda device: device.id):
            self._add(device)
        self._order, self._unordered = list(self._devices), []
        logger.info("%d devices are known", len(found), extra={"event": "devices_known", "count": len(found)})

    def start(self) -> None:
        """Begin to write what devices say."""
        self._writer.start()

    async def close(self) -> None:
        """Write what is not written yet; the store stays open."""
        await self._writer.close()

    @property
    def unavailable(self) -> str:
        """Why the store can't write; empty while it can."""
        return self._writer.unavailable

    def counts(self) -> Mapping[Connection, int]:
        """How many devices there are, by their connection."""
        return self._counts

    def __len__(self) -> int:
        return len(self._devices)

    def __contains__(self, destination: object) -> bool:
        return destination in self._devices

    # What is heard of devices

    def seen(self, destination: str, now: float, channel: str | None = None) -> None:
        """A device answered."""
        self.seen_all((destination,), now, channel)

    def seen_all(self, destinations: Iterable[str], now: float, channel: str | None = None) -> None:
        """These devices answered. For every answer: it costs next to nothing."""
        devices = self._devices
        for destination in destinations:
            device = devices.get(destination)
            if device is None or device.first_seen_at is None:
                device = self._known(destination, now, channel)
                if device is None:
                    continue
            device.last_seen_at = now

    def presence(self, destination: str, document: object, now: float, channel: str | None = None) -> None:
        """A device says whether it is there, and what it is: ``{connection, labels?, facts?, session?}``."""
        said = read_presence(document, self.dropped)
        if said is None:
            self.dropped["malformed"] += 1
            return
        device = self._known(destination, now, channel)
        if device is None:
            return
        if said.labels is not None and said.labels != device.own:
            device.own = said.labels
            device.relabel()
            self._writer.add(device)
        if said.facts is not None and said.facts != device.facts:
            device.facts = said.facts
            self._writer.add(device)
        again = said.session is not None and said.session != device.session
        if said.connection is Connection.ONLINE and again:
            device.session = said.session
            self._writer.add(device)
        self._connect(device, said.connection, now, again=again)
        if said.connection is Connection.ONLINE:
            self._tell(self.on_online, device.id)

    def absence(self, destination: str, now: float) -> None:
        """Nobody says any more whether a device is there: its presence was taken back."""
        device = self._devices.get(destination)
        if device is not None:
            self._connect(device, Connection.UNKNOWN, now)

    def connection(self, destination: str, connection: Connection, now: float, channel: str = PULL) -> None:
        """It is known by other means whether a device is there."""
        device = self._known(destination, now, channel)
        if device is not None:
            self._connect(device, connection, now)
            if connection is Connection.ONLINE:
                device.last_seen_at = now

    def telemetry(self, destination: str, document: object, now: float, channel: str | None = None) -> None:
        """A device says how it is: ``{frequent?: {...}, seldom?: {...}}``."""
        device = self._known(destination, now, channel)
        if device is None:
            return
        device.last_seen_at = now
        if read_telemetry(document, device, self.dropped):
            device.told_at = now
        else:
            self.dropped["malformed"] += 1

    def _known(self, destination: str, now: float, channel: str | None = None) -> Device | None:
        device = self._devices.get(destination) or self._appear(destination, now)
        if device is None:
            return None
        if device.first_seen_at is None:
            device.first_seen_at = now
        if channel is not None and device.channel != channel and device.id != LOCALHOST:
            device.channel = channel
            self._writer.add(device)
        return device

    def _appear(self, destination: str, now: float) -> Device | None:
        if destination_fault(destination) is not None:
            self.dropped["destination"] += 1
            return None
        if len(self._devices) >= self._limit:
            self.dropped["full"] += 1
            if not self._is_full:
                logger.warning("there are %d devices: others are not noted any more; remove some", self._limit,
                               extra={"event": "devices_full", "count": self._limit})
            self._is_full = True
            return None
        device = self._new(destination)
        device.first_seen_at = now
        self._add(device)
        self._writer.add(device)
        return device

    def _new(self, destination: str) -> Device:
        device = Device(id=destination, number=self._next_number, channel=LOCAL if destination == LOCALHOST else MQTT)
        self._next_number += 1
        return device

    def _add(self, device: Device) -> None:
        self._devices[device.id] = device
        self._unordered.append(device.id)
        self._counts[device.connection] += 1

    def _connect(self, device: Device, connection: Connection, now: float, *, again: bool = False) -> None:
        came = connection is Connection.ONLINE and (again or device.connection is not Connection.ONLINE)
        is_away_no_more = device.connection is Connection.OFFLINE and connection is not Connection.OFFLINE
        if connection is not device.connection:
            self._counts[device.connection] -= 1
            self._counts[connection] += 1
            device.connection, device.changed_at = connection, now
            self._writer.add(device)
        if came:
            # The broker repeats what is retained, and speaks for those that are gone: only this is word of a device.
            device.last_seen_at = now
        if came or is_away_no_more:
            self._tell(self.on_present, device.id)

    def _tell(self, listeners: Sequence[Callable[[str], None]], destination: str) -> None:
        for listener in listeners:
            try:
                listener(destination)
            except Exception:
                logger.exception("a listener failed at device %.140s", destination,
                                 extra={"event": "listener_failed", "destination": destination})

    # What the engine asks

    def find(self, targets: Targets, draw: float) -> Sequence[str]:
        """The devices that are meant, in the order of their names; ``draw`` seeds the choice of a sample."""
        found = self._meant(targets)
        size = len(found)
        if targets.sample_percent is not None:
            # Not quite rounded up: 10 % of 70 is 7.000000000000001 for a computer.
            size = max(1, math.ceil(size * targets.sample_percent / 100 - 1e-9))
        if targets.sample_count is not None:
            size = min(size, targets.sample_count)
        if size >= len(found):
            return found
        return [found[place] for place in sorted(random.Random(draw).sample(range(len(found)), size))]

    def _meant(self, targets: Targets) -> list[str]:
        # One list after the other: a call for each of 100,000 devices would take five times as long.
        devices, found = self._devices, self._ordered()
        if targets.connection is not None:
            connections = targets.connection
            found = [name for name in found if devices[name].connection in connections]
        for label, values in targets.labels.items():
            wanted = frozenset(values)
            found = [name for name in found if devices[name].labels.get(label) in wanted]
        for fact, values in targets.facts.items():
            wanted = frozenset(values)
            found = [name for name in found if _fact(devices[name], fact) in wanted]
        return found

    def is_offline(self, destination: str) -> bool:
        """Whether a device is known to be away."""
        device = self._devices.get(destination)
        return device is not None and device.connection is Connection.OFFLINE

    def has_said(self, destination: str) -> bool:
        """Whether a device has said that it is there, or that it is not."""
        device = self._devices.get(destination)
        return device is not None and device.connection is not Connection.UNKNOWN

    def is_on_broker(self, destination: str) -> bool:
        """Whether a device is known that is reached over the broker."""
        device = self._devices.get(destination)
        return device is not None and device.channel == MQTT

    def on_broker(self) -> Sequence[str]:
        """Those that say over the broker whether they are there, or may."""
        return [name for name in self._ordered() if self._devices[name].channel == MQTT]

    def _ordered(self) -> list[str]:
        """The names of all devices in their order. The list is never changed, so it may be walked in turns."""
        if self._unordered or self._has_gaps:
            kept = [name for name in self._order if name in self._devices] if self._has_gaps else self._order
            added = [name for name in self._unordered if name in self._devices]
            # What is in order already costs little.
            self._order = sorted(dict.fromkeys(kept + added))
            self._unordered, self._has_gaps = [], False
        return self._order

    # What callers ask

    async def page(self, query: Mapping[str, Any]) -> list[View]:
        """A page of the devices, in the order of their ids.

        :raises TooLarge: when it would be too long.
        """
        wanted = queries.parse(queries.DevicesQuery, query)
        end = wanted.offset + wanted.limit
        found = (await self._matching(DeviceFilter(wanted), end))[wanted.offset : end]
        return await gather(self._view(device) for device in found)

    async def values(self, fact: str, query: Mapping[str, Any]) -> list[View]:
        """How many devices say what of one fact, the most frequent first; none for those that say nothing of it."""
        wanted = queries.parse(queries.FactQuery, query)
        groups: dict[str | None, list[str]] = {}
        for device in await self._matching(DeviceFilter(wanted), len(self._devices)):
            value = device.facts.get(fact)
            groups.setdefault(None if value is None else fact_text(value), []).append(device.id)
        ranked = sorted(groups.items(), key=lambda group: (-len(group[1]), group[0] or ""))
        return await gather(value_view(value, names) for value, names in ranked[: wanted.limit])

    async def show(self, ident: str) -> View:
        """One device.

        :raises DeviceNotFound: when nobody has heard of it, and nobody gave it labels.
        """
        return self._view(self._device(ident))

    async def update(self, ident: str, document: object) -> View:
        """Give a device labels; one that nobody has heard of yet is known from then on.

        :raises InvalidDocument: when the id can't be a device's, or the body breaks a rule.
        :raises StoreUnavailable: when it could not be saved; nothing has changed then.
        """
        _check(ident)
        update = parse(DeviceUpdate, document)
        async with self._writing:
            device = self._devices.get(ident)
            before = None if device is None else to_document(device)
            if device is None:
                self._check_room()
                device = self._new(ident)
            given = update.apply(device)
            wanted = to_document(replace(device, given=given))
            await self._writer.replace(device.number, wanted, before)
            device = self._settled(device)
            device.given = given
            device.relabel()
            self._writer.add(device)  # what it said meanwhile
        return self._view(device)

    async def remove(self, ident: str) -> View:
        """Forget a device, and what it said at the broker; answers the last that was known. It appears again when it
        is heard of again.

        :raises DeviceNotFound: when there is none.
        :raises StoreUnavailable: when that could not be saved; nothing has changed then.
        """
        async with self._writing:
            device = self._device(ident)
            await self._writer.replace(device.number, None, to_document(device))
            view = self._view(device)
            self._take_out(device)
        self._tell(self.on_removed, ident)
        return view

    def _device(self, ident: str) -> Device:
        device = self._devices.get(ident)
        if device is None:
            raise DeviceNotFound(ident)
        return device

    def _check_room(self) -> None:
        if len(self._devices) >= self._limit:
            raise Conflict(f"there are {self._limit} devices, and no more are kept: remove some (DELETE /devices/:id)")

    def _settled(self, device: Device) -> Device:
        """The device that is known by now: it may have appeared while it was written."""
        known = self._devices.get(device.id)
        if known is None:
            self._add(device)
            return device
        if known is not device:
            known.number = device.number  # its own was never written: there is not more than one document of it
        return known

    def _take_out(self, device: Device) -> None:
        device.is_gone = True
        del self._devices[device.id]
        self._counts[device.connection] -= 1
        self._has_gaps, self._is_full = True, False

    async def _matching(self, wanted: DeviceFilter, most: int) -> list[Device]:
        """The first devices that fit, with turns for the loop in between."""
        found: list[Device] = []
        order = self._ordered()
        for start in range(0, len(order), LOOK_CHUNK):
            for name in order[start : start + LOOK_CHUNK]:
                device = self._devices.get(name)
                if device is not None and wanted.matches(device):
                    found.append(device)
                    if len(found) >= most:
                        return found
            await asyncio.sleep(0)
        return found

    def _view(self, device: Device) -> View:
        return device_view(device, self.current(device.id))


def _check(ident: str) -> None:
    fault = destination_fault(ident)
    if fault is None and UNREADABLE in ident:
        fault = "it is no UTF-8"
    if fault is not None:
        raise InvalidDocument([Fault("id", fault)])


def _fact(device: Device, name: str) -> str | None:
    value = device.facts.get(name)
    return value if value is None or isinstance(value, str) else fact_text(value)
