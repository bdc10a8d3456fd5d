"""Which devices a query means."""

from __future__ import annotations

from collections.abc import Iterable

from puppetmaster.devices.device import Device, fact_text
from puppetmaster.queries import DeviceFilters

Pair = tuple[str, str | None]
"""A name and a value; none: any value."""


class DeviceFilter:
    """A query's filters, all of which have to hold."""

    def __init__(self, query: DeviceFilters) -> None:
        self._ids = query.id
        self._connections = None if query.connection is None else frozenset(query.connection)
        self._labels = _pairs(query.label or ())
        self._facts = _pairs(query.fact or ())

    def matches(self, device: Device) -> bool:
        """Whether a device is meant."""
        return (
            (self._connections is None or device.connection in self._connections)
            and all(_holds(device.labels.get(name), value) for name, value in self._labels)
            and all(_holds(_text(device, name), value) for name, value in self._facts)
            and (self._ids is None or self._ids.matches(device.id))
        )


def _pairs(texts: Iterable[str]) -> list[Pair]:
    """``site=berlin`` asks for a value, ``site`` for any."""
    return [(name, value if sign else None) for name, sign, value in (text.partition("=") for text in texts)]


def _holds(found: str | None, wanted: str | None) -> bool:
    return found is not None and (wanted is None or found == wanted)


def _text(device: Device, name: str) -> str | None:
    fact = device.facts.get(name)
    return None if fact is None else fact_text(fact)
