"""A device as the registry knows it: in memory, as a document in the store, and as callers see it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson

from puppetmaster.policies import Connection
from puppetmaster.store.port import Document
from puppetmaster.times import to_text
from puppetmaster.views import View

Scalar = str | int | float | bool
"""A fact."""

MQTT, PULL, LOCAL = "mqtt", "pull", "local"
"""The ways to a device: the broker, its long poll, this machine itself."""

_NOTHING: Mapping[str, Any] = {}


def _nothing() -> Mapping[str, Any]:
    """One for all: most devices have no labels of their own."""
    return _NOTHING


@dataclass(slots=True, eq=False, kw_only=True)
class Device:
    """All that is known of one device. What is a mapping is replaced as a whole, never changed."""

    id: str
    number: int
    """Its document in the store."""
    channel: str = MQTT
    connection: Connection = Connection.UNKNOWN
    changed_at: float | None = None
    """When its connection became what it is."""
    first_seen_at: float | None = None
    """None as long as it has not been heard of: somebody only gave it labels."""
    last_seen_at: float | None = None
    session: str | None = None
    """What it calls the connection that it last said online on, if it does."""
    own: Mapping[str, str] = field(default_factory=_nothing)
    """The labels that it says it has."""
    given: Mapping[str, str | None] = field(default_factory=_nothing)
    """Those that callers gave it; none hides one of its own."""
    labels: Mapping[str, str] = field(default_factory=_nothing)
    """Both together."""
    facts: Mapping[str, Scalar] = field(default_factory=_nothing)
    frequent: bytes | None = None
    """The last telemetry of what changes often, as JSON."""
    seldom: bytes | None = None
    told_at: float | None = None
    """When it last sent telemetry."""
    stored_at: float | None = None
    """Its ``last_seen_at`` as the store has it."""
    is_gone: bool = False
    """It was removed: nothing of it is to be written any more."""

    @property
    def telemetry_bytes(self) -> int:
        """How much of its telemetry is kept."""
        return len(self.frequent or b"") + len(self.seldom or b"")

    def relabel(self) -> None:
        """Bring the labels up to date with its own and those it was given."""
        self.labels = merged(self.own, self.given)


def merged(own: Mapping[str, str], given: Mapping[str, str | None]) -> Mapping[str, str]:
    """A device's own labels under those that callers gave it."""
    if not given:
        return own
    return {name: value for name, value in {**own, **given}.items() if value is not None}


def fact_text(value: Scalar) -> str:
    """A fact as it is compared and written: ``true`` and ``1.5`` as in JSON, a text as it is."""
    return value if isinstance(value, str) else orjson.dumps(value).decode()


# In the store


def to_document(device: Device) -> Document:
    """A device as it lies in the store; what is empty is left out."""
    document: Document = {
        "destination": device.id,
        "channel": device.channel,
        "connection": device.connection.value,
        "connectionChangedAt": device.changed_at,
        "firstSeenAt": device.first_seen_at,
        "lastSeenAt": device.last_seen_at,
        "session": device.session,
        "ownLabels": device.own,
        "givenLabels": device.given,
        "facts": device.facts,
        # As texts: they are handed out as they came, however deep they nest.
        "frequent": device.frequent and device.frequent.decode(),
        "seldom": device.seldom and device.seldom.decode(),
        "toldAt": device.told_at,
    }
    return {name: value for name, value in document.items() if value is not None and value != {}}


def from_document(number: int, document: Document) -> Device:
    """A device from the store."""
    frequent, seldom = document.get("frequent"), document.get("seldom")
    device = Device(
        id=document["destination"],
        number=number,
        channel=document["channel"],
        connection=Connection(document["connection"]),
        changed_at=document.get("connectionChangedAt"),
        first_seen_at=document.get("firstSeenAt"),
        last_seen_at=document.get("lastSeenAt"),
        session=document.get("session"),
        own=document.get("ownLabels", _NOTHING),
        given=document.get("givenLabels", _NOTHING),
        facts=document.get("facts", _NOTHING),
        frequent=frequent and frequent.encode(),
        seldom=seldom and seldom.encode(),
        told_at=document.get("toldAt"),
        stored_at=document.get("lastSeenAt"),
    )
    device.relabel()
    return device


# As callers see it


def device_view(device: Device, current: int | None) -> View:
    """A device, and the request that is out to it."""
    return {
        "id": device.id,
        "channel": device.channel,
        "connection": device.connection.value,
        "connectionChangedAt": to_text(device.changed_at),
        "firstSeenAt": to_text(device.first_seen_at),
        "lastSeenAt": to_text(device.last_seen_at),
        "labels": dict(device.labels),
        "facts": dict(device.facts),
        "telemetry": {
            "at": to_text(device.told_at),
            "frequent": device.frequent and orjson.loads(device.frequent),
            "seldom": device.seldom and orjson.loads(device.seldom),
        },
        "currentRequest": current,
    }


EXAMPLES = 5
"""How many devices are named of those that say the same."""


def value_view(value: str | None, devices: Sequence[str]) -> View:
    """Devices that say the same of a fact; none: they say nothing."""
    return {"value": value, "count": len(devices), "devices": list(devices[:EXAMPLES])}
