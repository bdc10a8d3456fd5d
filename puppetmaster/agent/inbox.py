"""What comes to an agent and goes back: requests are read with suspicion, and answers are made to fit the way back."""

from __future__ import annotations

import asyncio
import logging
import re
from typing import Any

import orjson

from puppetmaster import wire
from puppetmaster.agent.order import Order
from puppetmaster.errors import PuppetmasterError
from puppetmaster.logs import LOG_INTERVAL
from puppetmaster.policies import UNPUBLISHABLE

logger = logging.getLogger(__name__)

MAX_ID = 2**53
"""Ids are whole numbers from 1 up to this, which are safe in JSON."""

MAX_RESOURCE = 1023
"""Characters of a resource, as of a controller's buffer."""

MAX_METHOD = 16

MAX_TUNNEL, MAX_LEVELS = 512, 100
"""Characters and levels of the topic for an answer; a broker drops who publishes to one of more than 200 levels."""

_NO_TOPIC = re.compile(f"[{UNPUBLISHABLE}]")


class MalformedOrder(PuppetmasterError, ValueError):
    """Raised when what came on the agent's topic is no request; nobody can be answered."""

    code = 400


def read_order(payload: bytes) -> Order:
    """A request to this device.

    :raises MalformedOrder: when it is none.
    """
    if len(payload) > wire.MAX_BUS_BYTES:
        raise MalformedOrder(f"it has {len(payload)} bytes")
    if wire.depth_of(payload) > wire.MAX_DEPTH:
        raise MalformedOrder(f"it is nested more than {wire.MAX_DEPTH} levels deep")
    try:
        document = orjson.loads(payload)
    except ValueError as error:
        raise MalformedOrder(f"it is not JSON: {error}") from None
    if type(document) is not dict:
        raise MalformedOrder("it is not a JSON object")
    if "code" in document or "sign" in document:
        raise MalformedOrder("it is an answer or an event")
    ident = document.get("id")
    if type(ident) is not int or not 1 <= ident <= MAX_ID:
        raise MalformedOrder("its id is not a whole number from 1 up")
    return Order(
        id=ident,
        method=_text(document, "method", MAX_METHOD).lower(),
        resource=_text(document, "resource", MAX_RESOURCE),
        data=document.get("data"),
        tunnel=_tunnel(document),
    )


def _text(document: dict[str, Any], name: str, longest: int) -> str:
    value = document.get(name)
    if type(value) is not str or not 0 < len(value) <= longest:
        raise MalformedOrder(f"its {name} is not a text of 1 to {longest} characters")
    return value


def _tunnel(document: dict[str, Any]) -> str:
    tunnel = _text(document, "tunnel", MAX_TUNNEL)
    if tunnel.startswith("$") or tunnel.count("/") >= MAX_LEVELS or _NO_TOPIC.search(tunnel):
        raise MalformedOrder("its tunnel is no topic that can be published to")
    return tunnel


def write_answer(sign: str, order: Order, code: int, data: Any) -> bytes:
    """An answer as it travels; one that would not be taken at the other end becomes one that says so."""
    try:
        payload = _encode(sign, order, code, data)
    except (TypeError, ValueError) as error:  # texts with half of a surrogate, numbers beyond 64 bits
        return _encode(sign, order, 502, {"message": f"the answer can't be written as JSON: {error}"})
    if len(payload) > wire.MAX_ANSWER_BYTES:
        reason = f"the answer ({code}) has {len(payload)} bytes, over the limit of {wire.MAX_ANSWER_BYTES}"
        return _encode(sign, order, 413, {"message": reason})
    if wire.depth_of(payload) > wire.MAX_DEPTH:
        reason = f"the answer ({code}) nests more than {wire.MAX_DEPTH} levels deep"
        return _encode(sign, order, 502, {"message": reason})
    return payload


def _encode(sign: str, order: Order, code: int, data: Any) -> bytes:
    document = {"id": order.id, "code": code, "method": order.method, "resource": order.resource, "sign": [sign]}
    if data is not None:
        document["data"] = data
    return orjson.dumps(document)


class Dropped:
    """Counts what can't be used, and logs it now and then."""

    def __init__(self) -> None:
        self.count = 0
        self._logged = 0
        self._last = ""
        self._timer: asyncio.TimerHandle | None = None

    def add(self, reason: str) -> None:
        """One more; the first is logged at once."""
        self.count += 1
        self._last = reason
        if self._timer is None:
            self._log()

    def close(self) -> None:
        """Log no more."""
        if self._timer is not None:
            self._timer.cancel()

    def _log(self) -> None:
        self._timer = None
        if self.count == self._logged:
            return
        fresh = self.count - self._logged
        logger.warning("dropped %d messages that are no requests; the last: %.200s", fresh, self._last,
                       extra={"event": "agent_messages_dropped", "count": fresh})
        self._logged = self.count
        self._timer = asyncio.get_running_loop().call_later(LOG_INTERVAL, self._log)
