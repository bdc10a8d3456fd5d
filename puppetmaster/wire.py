"""The one owner of every topic and every JSON shape that travels between the bundle, its devices and the controller."""

from __future__ import annotations

import re
from typing import Any, NamedTuple, Protocol

import orjson

from puppetmaster.errors import PuppetmasterError
from puppetmaster.models import Message, Request
from puppetmaster.policies import LOCALHOST

CONTROLLER_TOPIC = "/controller"
"""Where the Sanji controller listens."""

COMMANDS = "/agent/commands"
"""The resource of an agent that runs commands, and that can be told to end them."""

MAX_BUS_BYTES = 1024 * 1024
"""The controller drops a message of this size or more without a word."""

MAX_ANSWER_BYTES = 512 * 1024
"""The largest answer of a device that is kept."""

MAX_DATA_BYTES = 448 * 1024
"""The largest data of a message: request and answer together still fit one message on the bus."""

MAX_DEPTH = 100
"""How deep an answer's data may nest; what is deeper could be read but not stored."""

# A whole text (which may hold brackets, and may never end), or one bracket. It is for texts without escaped quotes: a
# pattern that knew of these would keep a record of every character, a hundred bytes each.
_BRACKETS = re.compile(rb'"[^"]*"?|[\[\]{}]')


_ID = re.compile(rb'"id"\s*:\s*(\d{1,18})\b')


class MalformedAnswer(PuppetmasterError, ValueError):
    """Raised when what came on an answer topic is no answer."""

    code = 400


class Answer(NamedTuple):
    """What a device answered."""

    destination: str
    """Whose topic it came on: only its device may publish there."""
    request_id: int
    code: int
    data: Any


# Topics


def answer_topic(destination: str, instance: str) -> str:
    """Where a destination answers this bundle: the request's ``tunnel``."""
    return f"/remote/{destination}/answer/{instance}"


def job_topic(instance: str, job_id: int | str) -> str:
    """Where the last state of a job is retained."""
    return f"/puppetmaster/{instance}/jobs/{job_id}"


def output_topic(destination: str, request_id: int) -> str:
    """Where a destination tells the output of a command while it runs."""
    return f"/remote/{destination}/output/{request_id}"


def presence_topic(instance: str) -> str:
    """Where the bundle retains that it is online, and how many answers it dropped."""
    return f"/puppetmaster/{instance}/presence"


# Requests


class Route(Protocol):
    """A way from the bundle to a destination."""

    def topic(self, destination: str) -> str:
        """The topic that a request is published on."""
        ...

    def envelope(self, message: Message, destination: str) -> dict[str, Any]:
        """The message without id and tunnel."""
        ...

    def unwrap(self, code: int, data: Any) -> tuple[int, Any]:
        """The device's own code and data out of what came back.

        :raises MalformedAnswer: when its code is none.
        """
        ...


class _Plain:
    """A route on which the message and the answer travel as they are."""

    def envelope(self, message: Message, destination: str) -> dict[str, Any]:
        """Return the message as it is."""
        return _fields(message)

    def unwrap(self, code: int, data: Any) -> tuple[int, Any]:
        """Return the answer as it is."""
        return code, data


class DeviceTunnel(_Plain):
    """Straight to the device's own topic, which the template names: ``/remote/{destination}``."""

    def __init__(self, template: str = "/remote/{destination}") -> None:
        self._before, self._after = template.split("{destination}")

    def topic(self, destination: str) -> str:
        """Return the destination's topic."""
        return self._before + destination + self._after


class LocalController(_Plain):
    """To a bundle beside us, through the local controller."""

    def topic(self, destination: str) -> str:
        """Return the controller's topic."""
        return CONTROLLER_TOPIC


class RemoteBundle:
    """Through the local controller to a bundle that serves ``/remote/+`` and carries the message on.

    It answers with its own code, and with the device's code and data inside its data: two envelopes.
    """

    def topic(self, destination: str) -> str:
        """Return the controller's topic."""
        return CONTROLLER_TOPIC

    def envelope(self, message: Message, destination: str) -> dict[str, Any]:
        """Return the message wrapped in one for the remote bundle."""
        return {"method": message.method, "resource": f"/remote/{destination}", "data": _fields(message)}

    def unwrap(self, code: int, data: Any) -> tuple[int, Any]:
        """Return what the inner envelope says, or the outer one when it did not get that far."""
        inner = data.get("code") if isinstance(data, dict) else None
        if 200 <= code < 300 and isinstance(inner, int) and not isinstance(inner, bool):
            return _checked(inner), data.get("data")
        return code, data


class Codec:
    """Writes requests and reads answers for one instance.

    :param route: the way to every destination but ``localhost``.
    """

    def __init__(self, instance: str, route: Route) -> None:
        self.instance = instance
        self._route = route
        self._local = LocalController()
        self._before, self._after = answer_topic("+", instance).split("+")
        self._last: tuple[Message | None, bytes] = (None, b"")

    def route(self, destination: str) -> Route:
        """The way to a destination."""
        return self._local if destination == LOCALHOST else self._route

    def through_controller(self, request: Request) -> bool:
        """Whether a request goes through the local controller, which forgets it when it restarts."""
        return self.route(request.destination).topic(request.destination) == CONTROLLER_TOPIC

    def write(self, request: Request) -> tuple[str, bytes]:
        """The topic and the payload of a request."""
        destination = request.destination
        route = self.route(destination)
        if type(route) is RemoteBundle:
            fields = _inside(route.envelope(request.message, destination))
        else:
            fields = self._fields_of(request.message, route)
        tunnel = orjson.dumps(answer_topic(destination, self.instance))
        return route.topic(destination), b'{"id":%d,%b,"tunnel":%b}' % (request.id, fields, tunnel)

    def write_abort(self, request: Request) -> tuple[str, bytes]:
        """The topic and the payload of the message that tells an agent to end a command: its own id, to be deleted."""
        destination = request.destination
        tunnel = answer_topic(destination, self.instance)
        message = {"id": request.id, "method": "delete", "resource": COMMANDS, "tunnel": tunnel}
        return self.route(destination).topic(destination), orjson.dumps(message)

    def read(self, topic: str, payload: bytes) -> Answer:
        """An answer.

        :raises MalformedAnswer: when it is none.
        """
        destination = self.destination_of(topic)
        if len(payload) > 2 * MAX_DEPTH and depth_of(payload) > MAX_DEPTH:  # a shorter one has not the brackets
            raise MalformedAnswer(f"it is nested more than {MAX_DEPTH} levels deep")
        try:
            document = orjson.loads(payload)
        except ValueError as error:
            raise MalformedAnswer(f"it is not JSON: {error}") from None
        if type(document) is not dict:
            raise MalformedAnswer("it is not a JSON object")
        request_id = document.get("id")
        if type(request_id) is not int:
            raise MalformedAnswer("its id is not a whole number")
        code, data = self.route(destination).unwrap(_checked(document.get("code")), document.get("data"))
        return Answer(destination, request_id, code, data)

    def destination_of(self, topic: str) -> str:
        """The destination that an answer's topic names.

        :raises MalformedAnswer: when it is not an answer topic of this instance.
        """
        destination = topic[len(self._before) : -len(self._after)]
        if "/" in destination or f"{self._before}{destination}{self._after}" != topic:
            raise MalformedAnswer(f"{topic!r} is no answer topic of this instance")
        return destination

    def _fields_of(self, message: Message, route: Route) -> bytes:
        # The requests of a job come one after the other and share their message: it is encoded once.
        last, fields = self._last
        if last is not message:
            fields = _inside(route.envelope(message, ""))
            self._last = (message, fields)
        return fields


def glean_id(payload: bytes) -> int | None:
    """The id of a message that is too large, or nests too deep, to be read."""
    found = _ID.search(top_level(payload))
    return int(found.group(1)) if found else None


def encode(document: object) -> bytes:
    """JSON for the bus.

    :raises TypeError: when it can't be written as JSON.
    """
    return orjson.dumps(document)


def event(method: str, resource: str, data: object) -> bytes:
    """A Sanji EVENT: the controller carries it to every view of the resource."""
    return orjson.dumps({"code": 200, "method": method, "resource": resource, "data": data})


def _checked(code: object) -> int:
    if type(code) is not int or not 100 <= code <= 999:
        raise MalformedAnswer("its code is not a number from 100 to 999")
    return code


def _fields(message: Message) -> dict[str, Any]:
    fields: dict[str, Any] = {"method": message.method, "resource": message.resource}
    if message.data is not None:
        fields["data"] = message.data
    return fields


def _inside(document: dict[str, Any]) -> bytes:
    return orjson.dumps(document)[1:-1]


def top_level(payload: bytes) -> bytes:
    """A JSON object without the objects and lists in it: what they hold is not the message's own."""
    kept, depth, start = [], 0, 0
    for found in _BRACKETS.finditer(_without_escapes(payload)):
        if found.group() in (b"[", b"{"):
            depth += 1
            if depth == 2:
                kept.append(payload[start : found.start()])
        elif found.group() in (b"]", b"}"):
            if depth == 2:
                start = found.end()
            depth -= 1
    return b"".join(kept) + (payload[start:] if depth < 2 else b"")


def _without_escapes(payload: bytes) -> bytes:
    """A JSON text in which every quote begins or ends a text; all else stays in its place."""
    return payload.replace(b"\\\\", b"__").replace(b'\\"', b"__")


def depth_of(payload: bytes) -> int:
    """How deep a JSON text nests at the most, without parsing it; texts inside of it don't count."""
    brackets = payload.count(b"[") + payload.count(b"{")
    if brackets <= MAX_DEPTH:
        return brackets  # it can't be deeper, and is not worth a closer look
    depth = deepest = 0
    for found in _BRACKETS.finditer(_without_escapes(payload)):
        if found.group() in (b"[", b"{"):
            depth += 1
            deepest = max(deepest, depth)
        elif found.group() in (b"]", b"}"):
            depth -= 1
    return deepest
