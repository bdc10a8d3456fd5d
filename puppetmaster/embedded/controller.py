"""A Sanji controller in Python, for a machine that has none.

It stands in for the C program (1.6.2), faults included, so that what works here works there.
:class:`ControllerCore` holds the rules and knows neither sockets nor clock; :class:`Controller` carries it over a
:class:`~puppetmaster.bus.Bus`. Its rules were measured on that program; where nothing was measured, this was decided:

- A message without a usable ``id`` (0, text, none) is an event, even without a ``code``; an ``id`` is cut to 32 bits,
  and to a whole number, before it is compared. ``null`` counts as absent, like ``false``.
- An ``id`` that is not in flight, a HOOK and every other mixture of fields is dropped.
- A ``tunnel`` that is no text, is empty, is over 63 bytes or is no topic that a broker takes drops its message: the
  broker would end our connection for such a topic.
- The order of refusals is 400 (resource too long), 404, 403 (``id`` in flight), 423. 404 has no ``data``.
- A resource that only views are registered for is 404: there is no model to ask.
- Several models: the answer goes out when all have answered; the first that is not 200 decides, else the last, and
  ``sign`` names all. The shortest ``ttl`` counts.
- DELETE of a name that is too long is DELETE of an unknown name: 200, because the SDK repeats it until it gets that.
- Registering is never locked out. A model that registers again while a lock of its name is held meets that lock.
- Hooks are not called. The registration model answers GET (the real one: 405), others than POST and DELETE 405.
"""

from __future__ import annotations

import asyncio
import logging
import math
import re
import secrets
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from enum import Enum
from types import TracebackType
from typing import Any, TypeAlias
from urllib.parse import parse_qs

import orjson

from puppetmaster.address import BrokerAddress
from puppetmaster.bus import Bus
from puppetmaster.policies import UNPUBLISHABLE

logger = logging.getLogger(__name__)

MAX_MESSAGE = 1024 * 1024
"""Bytes from which on a message is dropped without a word."""

MAX_TUNNEL, MAX_NAME, MAX_RESOURCE = 63, 31, 1023
"""Bytes that fit into the C program's buffers."""

DEFAULT_TTL = 60.0
"""Seconds that a model has for an answer when its registration does not say."""

NAME = "controller"
"""What the controller signs its own answers with."""

_LONGEST_NAP = 3600.0  # seconds; a ttl of years must not reach the loop's timer as it is
_NO_TOPIC = re.compile(f"[{UNPUBLISHABLE}]")
_WRITES = frozenset({"post", "put", "delete"})
_REGISTRATION = ("controller", "registration")
_DEPENDENCY = ("controller", "resource", "dependency")
_NOT_ALLOWED = (405, {"message": "method not allowed"})

Publication: TypeAlias = tuple[str, bytes]
"""A topic, and the payload to publish on it."""

Levels: TypeAlias = tuple[str, ...]
"""A resource without its query, split at the slashes; in a registration ``+`` stands for any one level."""


class Kind(Enum):
    """What a message is, by the fields that it has and has not."""

    REQUEST = "request"
    """Wants an answer to every view of its resource, or (a DIRECT one) to its tunnel alone."""

    RESPONSE = "response"
    """Answers a request that is in flight."""

    EVENT = "event"
    """Tells every view of its resource."""


class _Unusable(ValueError):
    """Raised when a message can't be used; it is dropped, and the text says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """A message from the bus, checked."""

    kind: Kind
    # 1 to 4294967295; 0 for an event.
    id: int
    # Lower case, as the SDK compares it.
    method: str
    # As it came, with its query.
    resource: str
    # The topic for the answer of a DIRECT request; none for a plain one.
    tunnel: str | None
    # All of it, decoded.
    body: dict[str, Any]
    # All of it, as it came.
    payload: bytes

    @property
    def levels(self) -> Levels:
        """The resource as it is compared with registrations."""
        return split_resource(self.resource)

    @property
    def writes(self) -> bool:
        """Whether this request locks the models that it goes to."""
        return self.method in _WRITES


def split_resource(resource: str) -> Levels:
    """Cut the query off, and the slashes and blanks around it (as the SDK's ``trim_resource``), then split."""
    return tuple(resource.partition("?")[0].strip(" \t\n\r/").split("/"))


def decode(payload: bytes) -> Message:
    """Read a message.

    :raises ValueError: when it can't be used; the message says why.
    """
    if len(payload) >= MAX_MESSAGE:
        raise _Unusable(f"it has {len(payload)} bytes")
    try:
        body = orjson.loads(payload)
    except orjson.JSONDecodeError as error:
        raise _Unusable(f"it is not JSON ({error})") from error
    if not isinstance(body, dict):
        raise _Unusable("it is not an object")
    ident = _read_id(body.get("id"))
    kind = _read_kind(ident, body)
    return Message(
        kind=kind,
        id=ident,
        method=_read_text(body, "method").lower(),
        resource=_read_text(body, "resource"),
        tunnel=_read_tunnel(body) if kind is Kind.REQUEST else None,
        body=body,
        payload=payload,
    )


def _read_id(value: object) -> int:
    """An id as the C program reads it: any number, converted to an unsigned 32-bit integer; 0 stands for none."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not abs(value) < 2**63:
        return 0
    return int(value) % 2**32


def _read_kind(ident: int, body: dict[str, Any]) -> Kind:
    has_code, has_sign, has_tunnel = (_has(body, name) for name in ("code", "sign", "tunnel"))
    if not ident:
        return Kind.EVENT
    if has_code and has_sign and not has_tunnel:
        return Kind.RESPONSE
    if not has_code and not has_sign:
        return Kind.REQUEST
    raise _Unusable("its fields make no type of message that is handled")


def _has(body: dict[str, Any], name: str) -> bool:
    value = body.get(name)
    return value is not None and value is not False


def _read_text(body: dict[str, Any], name: str) -> str:
    value = body.get(name)
    if not isinstance(value, str) or not value:
        raise _Unusable(f"its {name} is no text")
    return value


def _read_tunnel(body: dict[str, Any]) -> str | None:
    if not _has(body, "tunnel"):
        return None
    tunnel = _read_text(body, "tunnel")
    if _size(tunnel) > MAX_TUNNEL:
        raise _Unusable(f"its tunnel has more than {MAX_TUNNEL} bytes")
    if not _is_topic(tunnel):
        raise _Unusable("its tunnel is no topic")
    return tunnel


def _is_topic(text: str) -> bool:
    return not _NO_TOPIC.search(text)


def _size(text: str) -> int:
    return len(text.encode())


@dataclass(frozen=True, slots=True, kw_only=True)
class Component:
    """A registered model or view.

    :raises ValueError: when it breaks a rule; the message says which.
    """

    # At most 31 bytes, unique among models and views.
    name: str
    # "model" (gets requests) or "view" (gets events and the answers to plain requests).
    role: str
    # Where it listens: a number that the controller drew.
    tunnel: str
    # What it is registered for, at most 1023 bytes each, ``+`` for any one level.
    resources: tuple[str, ...]
    # Seconds that it has for an answer.
    ttl: float = DEFAULT_TTL
    patterns: tuple[Levels, ...] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "patterns", tuple(split_resource(resource) for resource in self.resources))

    @classmethod
    def from_registration(cls, name: str, tunnel: str, data: dict[str, Any]) -> Component:
        """Make one from the ``data`` that the SDK sends with POST /controller/registration."""
        role, ttl = data.get("role"), data.get("ttl", DEFAULT_TTL)
        if role not in ("model", "view"):
            raise ValueError("'role' must be model or view")
        if isinstance(ttl, bool) or not isinstance(ttl, (int, float)) or not ttl > 0:
            raise ValueError("'ttl' must be a number of seconds over 0")
        if _size(name) > MAX_NAME:
            raise ValueError(f"'name' has more than {MAX_NAME} bytes")
        if isinstance(data.get("tunnel"), str) and _size(data["tunnel"]) > MAX_TUNNEL:
            raise ValueError(f"'tunnel' has more than {MAX_TUNNEL} bytes")
        return cls(name=name, role=role, tunnel=tunnel, resources=_read_resources(data), ttl=float(ttl))

    def matches(self, levels: Levels) -> bool:
        """Whether it is registered for this resource."""
        return any(_fits(pattern, levels) for pattern in self.patterns)

    def describe(self) -> dict[str, Any]:
        """The component as GET /controller/registration shows it."""
        resources = list(self.resources)
        return {"name": self.name, "role": self.role, "tunnel": self.tunnel, "ttl": self.ttl, "resources": resources}


def _fits(pattern: Levels, levels: Levels) -> bool:
    if len(pattern) != len(levels):
        return False
    return all(ours in ("+", theirs) for ours, theirs in zip(pattern, levels, strict=True))


def _read_resources(data: dict[str, Any]) -> tuple[str, ...]:
    given = data.get("resources")
    resources = [given] if isinstance(given, str) else given
    if not isinstance(resources, list) or not resources:
        raise ValueError("'resources' must be a list that is not empty")
    for resource in resources:
        if not isinstance(resource, str) or not resource:
            raise ValueError("'resources' must hold texts that are not empty")
        if _size(resource) > MAX_RESOURCE:
            raise ValueError(f"one of 'resources' has more than {MAX_RESOURCE} bytes")
    return tuple(resources)


@dataclass(slots=True, eq=False)
class _Session:
    """A request that waits for its models."""

    request: Message
    models: list[Component]
    ttl: float
    deadline: float
    answers: list[Message] = field(default_factory=list)


def _random_number() -> int:
    return secrets.randbelow(2**31)


class ControllerCore:
    """The rules: a message or the time goes in, what is to be published comes out.

    :param draw: gives the numbers that become tunnels.

    Times are seconds on any clock that never goes back. No method raises for anything that is in a message.
    """

    def __init__(self, draw: Callable[[], int] = _random_number) -> None:
        self._draw = draw
        self._components: dict[str, Component] = {}
        self._sessions: dict[int, _Session] = {}
        # A request that meets a locked resource meets the model that it belongs to, so the names are enough.
        self._locked: set[str] = set()
        self._deadline = math.inf

    @property
    def components(self) -> list[Component]:
        """All that is registered, in the order of registration."""
        return list(self._components.values())

    @property
    def in_flight(self) -> int:
        """How many requests wait for an answer."""
        return len(self._sessions)

    @property
    def deadline(self) -> float | None:
        """When :meth:`tick` is to be called next; never too late, perhaps too early. None when nothing waits."""
        return None if self._deadline == math.inf else self._deadline

    def receive(self, topic: str, payload: bytes, now: float) -> list[Publication]:
        """Take a message that came on one of the controller's topics."""
        try:
            message = decode(payload)
        except ValueError as error:
            logger.debug("dropped a message on %s: %s", topic, error, extra={"event": "controller_message_dropped"})
            return []
        if message.kind is Kind.EVENT:
            return [(view.tunnel, payload) for view in self._registered("view", message.levels)]
        if message.kind is Kind.RESPONSE:
            return self._response(message)
        return self._request(message, now)

    def tick(self, now: float) -> list[Publication]:
        """Answer 408 for every model whose ttl has passed, and release its lock."""
        if now < self._deadline:
            return []
        out: list[Publication] = []
        for session in [session for session in self._sessions.values() if session.deadline <= now]:
            self._close(session)
            out += self._refuse(session.request, 408, f"no answer within {session.ttl:g} s")
        self._deadline = min((session.deadline for session in self._sessions.values()), default=math.inf)
        return out

    # Requests and their answers

    def _request(self, message: Message, now: float) -> list[Publication]:
        if _size(message.resource) > MAX_RESOURCE:
            return self._refuse(message, 400, f"'resource' has more than {MAX_RESOURCE} bytes")
        levels = message.levels
        built_in = self._built_in(levels)
        models = [] if built_in else list(self._registered("model", levels))
        if not built_in and not models:
            return self._reply(message, 404)
        if message.id in self._sessions:
            return self._refuse(message, 403, "'id' was used")
        if built_in:
            return self._reply(message, *built_in(message))
        if any(model.name in self._locked for model in models):
            return self._refuse(message, 423, "resource is locked")
        self._open(message, models, now)
        return [(model.tunnel, message.payload) for model in models]

    def _open(self, request: Message, models: list[Component], now: float) -> None:
        ttl = min(model.ttl for model in models)
        self._sessions[request.id] = _Session(request, models, ttl, now + ttl)
        self._deadline = min(self._deadline, now + ttl)
        if request.writes:
            self._locked.update(model.name for model in models)

    def _close(self, session: _Session) -> None:
        del self._sessions[session.request.id]
        if session.request.writes:
            self._locked.difference_update(model.name for model in session.models)
        if not self._sessions:
            self._deadline = math.inf

    def _response(self, message: Message) -> list[Publication]:
        session = self._sessions.get(message.id)
        if session is None:
            logger.debug("dropped an answer: no request %d is in flight", message.id,
                         extra={"event": "controller_answer_dropped", "request": message.id})
            return []
        session.answers.append(message)
        if len(session.answers) < len(session.models):
            return []
        self._close(session)
        return self._deliver(session.request, _combine(session.answers))

    def _deliver(self, request: Message, payload: bytes) -> list[Publication]:
        if request.tunnel is not None:
            return [(request.tunnel, payload)]
        return [(view.tunnel, payload) for view in self._registered("view", request.levels)]

    def _reply(self, request: Message, code: int, data: Any = None) -> list[Publication]:
        answer: dict[str, Any] = {
            "id": request.id,
            "code": code,
            "method": request.method,
            "resource": request.resource,
            "sign": [NAME],
        }
        if data is not None:
            answer["data"] = data
        return self._deliver(request, orjson.dumps(answer))

    def _refuse(self, request: Message, code: int, reason: str) -> list[Publication]:
        logger.debug("%s %s of request %d: %d, %s", request.method, request.resource, request.id, code, reason,
                     extra={"event": "controller_refused", "request": request.id, "code": code})
        return self._reply(request, code, {"message": reason})

    def _registered(self, role: str, levels: Levels) -> Iterator[Component]:
        return (each for each in self._components.values() if each.role == role and each.matches(levels))

    # Built-in models

    def _built_in(self, levels: Levels) -> Callable[[Message], tuple[int, Any]] | None:
        if levels[:2] == _REGISTRATION and len(levels) <= 3:
            return self._registration
        if levels == _DEPENDENCY:
            return self._dependency
        return None

    def _registration(self, message: Message) -> tuple[int, Any]:
        handlers = {"post": self._register, "delete": self._unregister, "get": self._show}
        handler = handlers.get(message.method)
        return handler(message) if handler else _NOT_ALLOWED

    def _register(self, message: Message) -> tuple[int, Any]:
        data, name = message.body.get("data"), _component_name(message)
        if not isinstance(data, dict) or not name:
            return 400, {"message": "'data' must be an object with a 'name'"}
        try:
            component = Component.from_registration(name, self._new_tunnel(), data)
        except ValueError as error:
            return 400, {"message": str(error)}
        if name in self._components:
            return 403, {"message": f"{name} is registered"}
        self._components[name] = component
        logger.info("registered the %s %s for %s", component.role, name, ", ".join(component.resources),
                    extra={"event": "controller_registered"})
        return 200, {"tunnel": component.tunnel}

    def _unregister(self, message: Message) -> tuple[int, Any]:
        name = _component_name(message)
        if not name:
            return 400, {"message": "'data' must be an object with a 'name'"}
        if self._components.pop(name, None) is not None:
            logger.info("unregistered %s", name, extra={"event": "controller_unregistered"})
        return 200, None

    def _show(self, message: Message) -> tuple[int, Any]:
        if len(message.levels) == 2:
            return 200, [component.describe() for component in self._components.values()]
        component = self._components.get(message.levels[2])
        if component is None:
            return 404, {"message": f"{message.levels[2]} is not registered"}
        return 200, component.describe()

    def _dependency(self, message: Message) -> tuple[int, Any]:
        """What a write to ``?resource=`` would lock; without it, the resources of all models."""
        if message.method != "get":
            return _NOT_ALLOWED
        asked = parse_qs(message.resource.partition("?")[2]).get("resource")
        models = [each for each in self.components if each.role == "model"]
        if asked:
            models = [model for model in models if model.matches(split_resource(asked[0]))]
            if not models:
                return 404, {"message": f"{asked[0]} is not registered"}
        return 200, {"resources": list(dict.fromkeys(resource for model in models for resource in model.resources))}

    def _new_tunnel(self) -> str:
        taken = {component.tunnel for component in self._components.values()}
        while True:
            tunnel = str(self._draw())
            if tunnel not in taken:
                return tunnel


def _component_name(message: Message) -> str | None:
    """The NAME in /controller/registration/NAME, else the one in ``data``."""
    if len(message.levels) == 3:
        return message.levels[2]
    data = message.body.get("data")
    name = data.get("name") if isinstance(data, dict) else None
    return name if isinstance(name, str) and name else None


def _combine(answers: list[Message]) -> bytes:
    if len(answers) == 1:
        return answers[0].payload
    decisive = next((answer for answer in answers if answer.body["code"] != 200), answers[-1])
    signs: list[Any] = []
    for answer in answers:
        sign = answer.body["sign"]
        signs += [name for name in (sign if isinstance(sign, list) else [sign]) if name not in signs]
    return orjson.dumps({**decisive.body, "sign": signs})


class Controller:
    """The controller on a broker.

    :param local_id: listens on ``/<local id>/controller`` as well, like the C program's ``-L``.
    :param client_id: the MQTT client id; drawn when not given, so that two controllers never throw each other out.
    :raises ValueError: when ``local_id`` can't be one level of a topic.

    Broken connections heal by themselves, and registrations outlive them; they do not outlive the process.
    """

    def __init__(self, address: BrokerAddress, *, local_id: str | None = None, client_id: str | None = None) -> None:
        topics = ["/controller"]
        if local_id is not None:
            if not local_id or "/" in local_id or not _is_topic(local_id):
                raise ValueError(f"{local_id!r} can't be one level of a topic")
            topics.append(f"/{local_id}/controller")
        self.core = ControllerCore()
        self.topics = tuple(topics)
        self._bus = Bus(address, client_id or f"controller-{secrets.token_hex(4)}", self._received, topics=topics)
        self._timer: asyncio.TimerHandle | None = None
        self._armed_for: float | None = None

    async def start(self, timeout: float | None = None) -> None:
        """Connect, and serve until :meth:`close`.

        :param timeout: seconds to wait for the broker; none waits for ever.
        :raises BusError: when there is no connection by then.
        """
        await self._bus.start(timeout)
        logger.info("the controller listens on %s at %s", " and ".join(self.topics), self._bus.address,
                    extra={"event": "controller_listening", "broker": str(self._bus.address)})

    async def close(self) -> None:
        """Leave the broker; whoever waits for an answer gets none."""
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._armed_for = None
        await self._bus.close()

    async def __aenter__(self) -> Controller:
        await self.start(timeout=10.0)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    def _received(self, topic: str, payload: bytes) -> None:
        now = asyncio.get_running_loop().time()
        try:
            out = self.core.receive(topic, payload, now)
        except Exception:  # whatever the bus holds, the next message is served
            logger.exception("a message on %s could not be handled", topic,
                             extra={"event": "controller_message_failed"})
            return
        self._carry_out(out)

    def _expire(self) -> None:
        self._armed_for = None
        self._carry_out(self.core.tick(asyncio.get_running_loop().time()))

    def _carry_out(self, publications: list[Publication]) -> None:
        for topic, payload in publications:
            self._bus.publish(topic, payload)
        self._arm()

    def _arm(self) -> None:
        deadline = self.core.deadline
        if deadline is None or (self._armed_for is not None and self._armed_for <= deadline):
            return  # a timer that rings too early only looks again
        if self._timer is not None:
            self._timer.cancel()
        loop = asyncio.get_running_loop()
        self._armed_for = min(deadline, loop.time() + _LONGEST_NAP)
        self._timer = loop.call_at(self._armed_for, self._expire)
