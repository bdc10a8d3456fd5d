"""The Sanji edge: the bundle's routes at the controller.

The SDK runs in threads of its own: paho's, three that call the handlers, and one that keeps the bundle registered. They
cross into the service's loop at one line, in :meth:`Puppetmaster._ask`.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Coroutine, Mapping
from concurrent import futures
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import orjson
from sanji.bundle import Bundle
from sanji.core import Sanji
from sanji.message import Message
from sanji.session import StatusError
from sanji.session import TimeoutError as SdkTimeoutError

from puppetmaster.edges import guard, repairs
from puppetmaster.errors import TooLarge
from puppetmaster.logs import Seldom
from puppetmaster.operations import OPERATIONS, Call, Operation, Outcome, carry_out, refusal
from puppetmaster.service import Service
from puppetmaster.views import error_view
from puppetmaster.wire import CONTROLLER_TOPIC, MAX_BUS_BYTES

logger = logging.getLogger(__name__)

ANSWER_TIMEOUT = 50.0
"""Seconds that the service may take for an answer; less than the ``ttl`` in bundle.json, after which the controller
answers in our place."""

REGISTRATION_TIMEOUT = 3.0
"""Seconds for the controller to register us."""

GREETING_TIMEOUT = 1.0
"""Seconds for it to forget an earlier registration: our first word to a controller that may not be there yet."""

PROBE_INTERVAL = 8.0
"""Seconds between two looks whether the controller still knows us. With the time for an answer, one that restarted is
noticed well within 30 s."""

PROBE_TIMEOUT = 5.0

NOT_FOUND = 404
GOODBYE_TIMEOUT = 1.0

ENVELOPE_BYTES = 4096
"""Bytes around the data of an answer: ids, the resource, the sign."""

PACKAGE = Path(__file__).resolve().parent.parent

repairs.apply()

Respond = Callable[..., Any]


class Puppetmaster(Sanji):  # type: ignore[misc]
    """The bundle as the controller sees it.

    :param service: answers the routes, on ``loop``.
    :param on_registered: called on the loop after every registration: the controller may have lost what it had in
        flight, in this life or in the one before.
    """

    def init(
        self,
        *args: object,
        service: Service,
        loop: asyncio.AbstractEventLoop,
        on_registered: Callable[[], None],
        **kwargs: object,
    ) -> None:
        """Take what the constructor was given (the SDK's hook)."""
        self._service = service
        self._loop = loop
        self._on_registered = on_registered
        self._must_register = threading.Event()
        self._connected = threading.Event()
        self._wake_registrar = threading.Event()
        self.rejected = 0
        self._seldom = Seldom()
        self.registered = False
        """Whether the controller knows us, as far as we know."""
        self._conn.set_on_disconnect(self.on_disconnect)
        for operation in OPERATIONS:
            getattr(self.router.route(operation.resource), operation.method)(_handler(operation))

    @classmethod
    def make(cls, connection: object, **kwargs: object) -> Puppetmaster:
        """A bundle on a connection, described by the bundle.json of this package."""
        return cls(bundle=Bundle(bundle_dir=str(PACKAGE)), connection=connection, **kwargs)

    # Calls

    def _handle(self, operation: Operation, message: Message, respond: Respond) -> None:
        outcome = self._ask(carry_out(self._service, operation, _call(message)))
        respond(code=outcome.code, data=outcome.data)

    def _ask(self, work: Coroutine[Any, Any, Outcome]) -> Outcome:
        """What the service says."""
        try:
            # The crossing from the SDK's threads into the loop.
            outcome = asyncio.run_coroutine_threadsafe(work, self._loop).result(ANSWER_TIMEOUT)
            _check_size(outcome.data)
        except TooLarge as error:
            return refusal(error)
        except futures.TimeoutError:
            message = f"not done within {ANSWER_TIMEOUT:g} s; it may still be carried out (send a job with a key again)"
            return Outcome(503, {"message": message})
        return outcome

    # What comes from the bus

    def on_sanji_message(self, client: object, userdata: object, msg: Any) -> None:
        """Check a message, then let the SDK have it."""
        try:
            msg.payload = guard.check(msg.payload)
        except guard.NotAMessage as error:
            self.rejected += 1
            if count := self._seldom.due("dropped"):
                logger.info("a message on %.60s is dropped: %s (%d since the last such line)", msg.topic, error, count,
                            extra={"event": "bus_message_dropped", "count": count})
        except guard.BadMessage as bad:
            self.rejected += 1
            if count := self._seldom.due("refused"):
                logger.info("a message on %.60s is refused: %s (%d since the last such line)", msg.topic, bad.error,
                            count, extra={"event": "bus_message_refused", "count": count})
            # Not from here: paho holds its lock for callbacks now, and a thread that publishes holds the one that a
            # publication needs while it waits for this one.
            self._loop.call_soon_threadsafe(self._refuse, bad)
        else:
            super().on_sanji_message(client, userdata, msg)

    def _refuse(self, bad: guard.BadMessage) -> None:
        answer = {**bad.envelope, "code": bad.error.code, "data": error_view(bad.error)}
        answer["sign"] = [self.bundle.profile["name"]]
        answer.pop("tunnel", None)
        self._conn.publish(topic=CONTROLLER_TOPIC, payload=answer)

    def _dispatch_message(self) -> None:
        """Call handlers until told to stop; an error that the SDK lets through must not end one of its threads."""
        while True:
            try:
                return super()._dispatch_message()  # type: ignore[no-any-return]
            except (SdkTimeoutError, StatusError):
                if count := self._seldom.due("late"):
                    logger.warning("answers could not be published in time: %d", count,
                                   extra={"event": "bus_answer_late", "count": count})
            except Exception:
                logger.exception("a message could not be handled", extra={"event": "bus_message_failed"})

    # Registration

    def on_connect(self, client: object, userdata: object, flags: object, rc: int) -> None:
        """The broker let us in, or did not. The SDK's own way here can wait for itself for ever."""
        if rc != 0:
            logger.warning("the broker refuses the control plane's connection: code %d", rc,
                           extra={"event": "control_refused", "code": rc})
            return
        self._conn.set_tunnels(dict(self._conn.tunnels))
        self._must_register.set()
        self._connected.set()
        self._wake_registrar.set()

    def on_disconnect(self, client: object, userdata: object, rc: int) -> None:
        """The broker is away: nothing is to pile up for it."""
        self._connected.clear()
        self.registered = False

    def keep_registered(self) -> None:
        """Register, and again whenever the controller no longer knows us, until the bundle stops (a thread's work)."""
        while not self.stop_event.is_set():
            if not self._connected.wait(1.0):
                continue
            if self._must_register.is_set():
                self._must_register.clear()
                if not self._register():
                    self._must_register.set()
                    self.stop_event.wait(0.2)
                    continue
                self._loop.call_soon_threadsafe(self._on_registered)
                self.is_ready.set()
            self._wake_registrar.wait(PROBE_INTERVAL)
            self._wake_registrar.clear()
            # A bundle that is stopping makes the controller forget it, and may get no answers any more.
            if self.stop_event.is_set() or self._must_register.is_set():
                continue
            if self._is_forgotten() and not self.stop_event.is_set():
                logger.warning("the controller does not know us any more; registering again",
                               extra={"event": "registration_lost"})
                self._must_register.set()

    def _register(self) -> bool:
        profile = self.get_profile("model")
        # A registration of an earlier life would be in the way: a name that is taken gets 403.
        if self._call("delete", "/controller/registration", profile, GREETING_TIMEOUT) is None:
            return False
        answer = self._call("post", "/controller/registration", profile, REGISTRATION_TIMEOUT)
        if answer is None or answer.code != 200:
            return False
        tunnel = answer.data.get("tunnel") if isinstance(answer.data, Mapping) else None
        if not isinstance(tunnel, str) or not tunnel:
            logger.warning("the controller answered a registration without a tunnel: %.200s", answer.data,
                           extra={"event": "registration_unusable"})
            return False
        self._conn.set_tunnel("model", tunnel, self.on_sanji_message)
        self.registered = True
        logger.info("registered at the controller, tunnel %s", tunnel, extra={"event": "registered", "tunnel": tunnel})
        return True

    def _is_forgotten(self) -> bool:
        """Whether the controller answers that nobody serves our resource; silence tells only that it is not there."""
        answer = self._call("get", "/jobs?limit=0", None, PROBE_TIMEOUT)
        forgotten = answer is not None and answer.code == NOT_FOUND
        self.registered = answer is not None and not forgotten
        return forgotten

    def _call(self, method: str, resource: str, data: object, timeout: float) -> Any:
        """The controller's answer, or none when there is none in time, or no broker to carry it."""
        if not self._connected.is_set():
            return None
        try:
            return getattr(self.publish.direct, method)(resource, data=data, timeout=timeout)
        except (SdkTimeoutError, StatusError, RuntimeError):
            return None

    def before_stop(self) -> None:
        """Take our registration back, so that callers get 404 at once and not 408 after a minute."""
        self._wake_registrar.set()
        if self.is_ready.is_set():
            self._call("delete", "/controller/registration", self.get_profile("model"), GOODBYE_TIMEOUT)


class SanjiEdge:
    """Runs the bundle's Sanji side beside the loop."""

    def __init__(self, bundle: Puppetmaster) -> None:
        self._bundle = bundle
        self._threads = [
            threading.Thread(target=bundle.start, name="sanji", daemon=True),
            threading.Thread(target=bundle.keep_registered, name="sanji-registrar", daemon=True),
        ]

    def start(self) -> None:
        """Connect and register, however long that takes."""
        for thread in self._threads:
            thread.start()

    async def close(self) -> None:
        """Take the registration back and disconnect."""
        self._bundle.stop_event.set()
        for thread, patience in zip(self._threads, (5.0, 0.5), strict=True):
            # The registrar may be waiting for an answer that the stopped SDK never hands out: it dies with the process.
            await asyncio.get_running_loop().run_in_executor(None, thread.join, patience)


def _handler(operation: Operation) -> Callable[[Puppetmaster, Message, Respond], None]:
    def handle(bundle: Puppetmaster, message: Message, respond: Respond) -> None:
        bundle._handle(operation, message, respond)

    return handle


def _call(message: Message) -> Call:
    # The SDK makes an empty value true.
    query = {name: "" if value is True else value for name, value in message.query.items()}
    # A resource is a path like any other: what can't stand in one is escaped, as over HTTP.
    return Call(unquote(message.param.get("id", "")), query, getattr(message, "data", None))


def _check_size(data: Any) -> None:
    size = len(orjson.dumps(data)) + ENVELOPE_BYTES
    if size >= MAX_BUS_BYTES:
        raise TooLarge(
            f"the answer would have {size} bytes, and the bus carries less than {MAX_BUS_BYTES}; "
            "ask for a smaller page (?limit=10&offset=0), or for the ids of a job alone (/jobs/:id?collection=false)"
        )
