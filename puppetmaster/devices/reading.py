"""What a device says of itself, read within bounds: what is too much of it is left out, and counted."""

from __future__ import annotations

import math
import re
import sys
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import orjson

from puppetmaster.devices.device import Device, Scalar
from puppetmaster.policies import Connection

MAX_LABELS, MAX_LABEL_NAME, MAX_LABEL = 64, 64, 128
"""How many labels, and how many characters of a name and of a value."""

MAX_FACTS, MAX_FACT_NAME, MAX_FACT = 64, 64, 256
"""The same of facts."""

MAX_TELEMETRY_BYTES = 8192
"""As JSON, of one device."""

MAX_SESSION = 128

_BAD_NAME = re.compile("[\0-\x1f=\ud800-\udfff]")
_BAD_LABEL = re.compile("[\0-\x1f\ud800-\udfff]")
_SURROGATE = re.compile("[\ud800-\udfff]")

_SAID = {Connection.ONLINE.value: Connection.ONLINE, Connection.OFFLINE.value: Connection.OFFLINE}

_V = TypeVar("_V")


@dataclass(frozen=True, slots=True)
class Presence:
    """What a device says with its presence; none: it says nothing of that."""

    connection: Connection
    labels: Mapping[str, str] | None
    facts: Mapping[str, Scalar] | None
    session: str | None


def read_presence(document: object, left_out: Counter[str]) -> Presence | None:
    """A presence; none when it is none. What of it can't be kept is left out and counted."""
    connection = document.get("connection") if isinstance(document, dict) else None
    if not isinstance(document, dict) or not isinstance(connection, str) or connection not in _SAID:
        return None
    session = document.get("session")
    return Presence(
        _SAID[connection],
        _read_pairs(document.get("labels"), label_fault, MAX_LABELS, left_out, "label"),
        _read_pairs(document.get("facts"), _fact_fault, MAX_FACTS, left_out, "fact"),
        session if isinstance(session, str) and _is_short(session, MAX_SESSION) else None,
    )


def read_telemetry(document: object, device: Device, left_out: Counter[str]) -> bool:
    """Take what a device measured; false when it is no telemetry.

    The two parts of it come at different times: one that is not there stays as it was.
    """
    if not isinstance(document, dict):
        return False
    found = False
    for part in ("frequent", "seldom"):
        if isinstance(document.get(part), dict):
            found = True
            _take_part(device, part, document[part], left_out)
    return found


def _take_part(device: Device, part: str, document: dict[str, Any], left_out: Counter[str]) -> None:
    try:
        body = orjson.dumps(document)
    except (TypeError, ValueError, RecursionError):
        left_out["telemetry"] += 1
        return
    other = device.telemetry_bytes - len(getattr(device, part) or b"")
    if len(body) + other > MAX_TELEMETRY_BYTES:
        left_out["telemetry"] += 1
        return
    setattr(device, part, bytes(memoryview(body)))  # orjson hands out its whole buffer


def _read_pairs(
    given: object, fault: Callable[[str, Any], str | None], most: int, left_out: Counter[str], noun: str
) -> dict[str, _V] | None:
    if given is None:
        return None
    if not isinstance(given, dict):
        left_out[noun] += 1
        return None
    kept: dict[str, Any] = {}
    for name, value in given.items():
        if len(kept) == most or fault(name, value) is not None:
            left_out[noun] += 1
        else:
            # Thousands of devices have the same names.
            kept[sys.intern(name)] = value
    return kept


def label_fault(name: object, value: object) -> str | None:
    """Why this can't be a label, or none when it can."""
    if not isinstance(name, str) or not 1 <= len(name) <= MAX_LABEL_NAME or _BAD_NAME.search(name):
        return f"the name of a label has 1 to {MAX_LABEL_NAME} characters, no = and no control characters"
    if not isinstance(value, str) or len(value) > MAX_LABEL or _BAD_LABEL.search(value):
        return f"a label is a text of at most {MAX_LABEL} characters, without control characters"
    return None


def _fact_fault(name: object, value: object) -> str | None:
    if not isinstance(name, str) or not 1 <= len(name) <= MAX_FACT_NAME or _BAD_NAME.search(name):
        return "its name"
    return None if _is_fact(value) else "its value"


def _is_fact(value: object) -> bool:
    if isinstance(value, str):
        return _is_short(value, MAX_FACT)
    if isinstance(value, int):
        return -(2**63) <= value < 2**63
    return isinstance(value, float) and math.isfinite(value)


def _is_short(text: str, most: int) -> bool:
    return len(text) <= most and not _SURROGATE.search(text)
