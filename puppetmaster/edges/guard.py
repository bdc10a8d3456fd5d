"""Checks what comes from the bus before the Sanji SDK sees it.

The SDK makes every key of a message an attribute of an object of its own, so that a key named ``match`` takes the place
of a method, and it takes the types of ``method`` and ``resource`` on trust: three such messages end its three threads.
Here a message is read once and handed on with the envelope's known fields only, each of its right type.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any

import orjson

from puppetmaster import bodies
from puppetmaster.errors import InvalidDocument, PuppetmasterError, TooLarge
from puppetmaster.wire import MAX_BUS_BYTES, MAX_DEPTH, depth_of, glean_id, top_level

_TYPES: dict[str, type | tuple[type, ...]] = {
    "id": (int, float),
    "code": int,
    "method": str,
    "resource": str,
    "tunnel": str,
    "sign": list,
}
"""The envelope; ``data`` may be anything."""

READABLE_BYTES = 4 * MAX_BUS_BYTES
"""What is larger is not even looked into."""

_METHOD = re.compile(rb'"method"\s*:\s*"(\w{1,10})"')
_RESOURCE = re.compile(rb'"resource"\s*:\s*"([^"\\]{1,1000})"')


class NotAMessage(PuppetmasterError, ValueError):
    """Raised when something is no message and can't be answered either."""

    code = 400


@dataclass
class BadMessage(Exception):
    """Raised when a message breaks a rule but says who sent it: ``envelope`` has its id, method and resource."""

    envelope: dict[str, Any]
    error: PuppetmasterError


def check(payload: bytes) -> dict[str, Any]:
    """A message as the SDK may have it.

    :raises NotAMessage: when it is to be dropped.
    :raises BadMessage: when it is to be answered with an error.
    """
    if len(payload) > READABLE_BYTES:
        raise NotAMessage(f"it has {len(payload)} bytes")
    if len(payload) >= MAX_BUS_BYTES:
        raise BadMessage(_glean(payload), TooLarge(f"a message has less than {MAX_BUS_BYTES} bytes"))
    if depth_of(payload) > MAX_DEPTH:
        raise BadMessage(_glean(payload), InvalidDocument([bodies.DEEP]))
    duplicates: list[str] = []
    try:
        message = bodies.parse(payload, duplicates)
    except (ValueError, RecursionError) as error:
        raise NotAMessage(f"it is not JSON: {error}") from None
    if not isinstance(message, dict):
        raise NotAMessage("it is not a JSON object")
    envelope = _envelope(message)
    if duplicates:
        raise BadMessage(envelope, InvalidDocument(bodies.twice(duplicates)))
    return envelope


def _envelope(message: dict[str, Any]) -> dict[str, Any]:
    # As at the controller, null and false stand for nothing: it has forwarded the message, and waits for an answer.
    envelope = {name: message[name] for name in _TYPES if message.get(name) is not None and message[name] is not False}
    for name, value in envelope.items():
        if not isinstance(value, _TYPES[name]) or value is True or (value != value or value in (math.inf, -math.inf)):
            raise NotAMessage(f"its {name} is of a wrong type")
    if "data" in message:
        envelope["data"] = message["data"]
    if not {"method", "resource"} <= envelope.keys():
        raise NotAMessage("it has no method or no resource")
    try:
        orjson.dumps({name: value for name, value in envelope.items() if name != "data"})
    except TypeError:
        # Lone surrogates and numbers over 64 bits: the library reads them, and nothing can answer them.
        raise NotAMessage("no answer could carry its envelope") from None
    return envelope


def _glean(payload: bytes) -> dict[str, Any]:
    """The envelope of a message that is not read as a whole."""
    top = top_level(payload)
    ident, method, resource = glean_id(payload), _METHOD.search(top), _RESOURCE.search(top)
    if ident is None or method is None or resource is None:
        raise NotAMessage("it is too large or too deep, and says too little of itself to be answered")
    return {
        "id": ident,
        "method": method.group(1).decode(),
        "resource": resource.group(1).decode("utf-8", "replace"),
    }
