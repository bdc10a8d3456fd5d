"""One MQTT connection on the running asyncio loop, over gmqtt.

What gmqtt leaves to its user is done here, once, for everything that speaks on the bus from a loop: it connects
again by itself, keeps what was published until the broker has it, and respects the number of messages that the
broker takes at a time. The Sanji SDK has a connection of its own (:mod:`puppetmaster.edges.connection`).
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import logging
import os
import socket
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import gmqtt
from gmqtt.mqtt.constants import MQTTv50, MQTTv311
from gmqtt.storage import PersistentStorage

from puppetmaster.address import BrokerAddress
from puppetmaster.errors import BusError
from puppetmaster.logs import Seldom
from puppetmaster.packets import Arrival, MalformedPacket, PacketReader, puback_packets, publish_packet

logger = logging.getLogger(__name__)

# gmqtt tells of every packet and warns of every broken connection; what matters of it is said here.
logging.getLogger("gmqtt").setLevel(logging.CRITICAL)

KEEPALIVE = 30
"""Seconds of silence after which a ping tells whether the broker is still there."""

CONNECT_TIMEOUT = 10.0
"""Seconds for a connection, and for the broker's word on a subscription."""

MQTT5_TIMEOUT = 2.0
"""Seconds after which a broker that says nothing to MQTT 5 is spoken to in 3.1.1: amqtt leaves us waiting."""

FIRST_DELAY, SECOND_DELAY, MAX_DELAY = 0.1, 0.5, 5.0
"""Seconds between attempts to connect: the first, the next where connections break at once, doubled up to the last."""

STEADY = 10.0
"""Seconds after which a connection counts as one that holds."""

SESSION_EXPIRY = 7 * 24 * 3600
"""Seconds that the broker keeps a persistent session for us (MQTT 5)."""

MAX_PACKET = 4 * 1024 * 1024
"""Bytes of the largest packet that we take (MQTT 5). gmqtt gathers a packet in a buffer that it copies for every
64 KiB, so that one of 100 MB would stop the loop for tens of seconds."""

MAX_UNACKNOWLEDGED = 60_000
"""Messages that may be on their way to a broker that sets no limit itself; there are 65,535 packet ids."""

MAX_UNACKNOWLEDGED_BYTES = 8 * 1024 * 1024
"""Bytes that may be on their way at once: each lies in memory three times until the broker has it (the payload, gmqtt's
packet, what the socket did not take). A larger message goes alone."""

MAX_BATCH = 128
"""Messages that are handed over in one go. A read may bring a thousand; between two batches the loop has a turn, so
that what follows from the first is on its way while the next is looked at."""

MAX_BATCHES = 32
"""Batches that wait, from which on nothing more is read until all are handed over: a turn of the loop reads more than
one batch, and what comes at QoS 0 has no other limit. What a read brings fits in."""

CLOSE_TIMEOUT = 1.0
"""Seconds that a broker which we leave has for what is still to be written. One that reads no more would hold the
connection for a quarter of an hour, until the system gives up on it, and nobody would connect again before."""

REFUSED = 0x80
"""From this code on a broker's answer is a no."""

PACKET_TOO_LARGE = 149
"""The broker's reason where a message is larger than it takes (MQTT 5, 2.4)."""

MAX_OVERHEAD = 10
"""Bytes of a PUBLISH beside topic and payload, at the most."""

DENIED = "it does not take the user or the password"
"""Begins the reason where it is that."""

QUICK_ACK: int | None = getattr(socket, "TCP_QUICKACK", None)
"""The option of a socket that has the system confirm at once what came; Linux has it."""

MQTT_3_1_1 = MQTTv311
"""The older version, without limits and without reasons."""

_REFUSED_VERSION = (1, 132)

_DENIED = (4, 5, 134, 135)  # MQTT 3.1.1 (3.2.2.3) and 5 (3.2.2.2)

MessageHandler = Callable[[str, bytes], "Awaitable[None] | None"]
"""Gets topic and payload. A coroutine function's message is acknowledged to the broker when it returns, and not at
all when it raises; a plain function's message is acknowledged before the call."""

BatchHandler = Callable[[Sequence[tuple[str, bytes]]], Awaitable[None]]
"""Gets topic and payload of messages that came in one go, up to MAX_BATCH, in their order. They are acknowledged
together, as those of a coroutine function are."""


@dataclass(slots=True, eq=False)
class _Publication:
    topic: str
    payload: bytes | Callable[[], bytes]
    qos: int
    retain: bool
    done: Callable[[], None] | None
    wanted: Callable[[], bool] | None
    size: int = 0
    """Bytes of the payload, while it is on its way."""


@dataclass(frozen=True, slots=True)
class Will:
    """What the broker publishes for us when the connection breaks."""

    topic: str
    payload: bytes
    retain: bool = True


class _Outbox(PersistentStorage):  # type: ignore[misc]
    """What gmqtt has to keep of QoS 2; ours is told when the broker has it, and sends again itself."""

    def __init__(self, acknowledged: Callable[[int], None]) -> None:
        super().__init__()
        self._acknowledged = acknowledged
        self.last_id = 0

    def push_message(self, mid: int, raw_package: bytes) -> None:
        self.last_id = mid

    def remove_message_by_mid(self, mid: int) -> None:
        self._acknowledged(mid)


class _Corked:
    """A transport that gathers what is written in one turn of the loop and sends it at once.

    gmqtt writes every packet by itself, and a system call for each was half of the cost of a request.
    """

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._loop = asyncio.get_running_loop()
        self._gathered: list[bytes | bytearray] = []

    def write(self, data: bytes | bytearray) -> None:
        if not self._gathered:
            self._loop.call_soon(self._flush)
        self._gathered.append(data)

    def close(self) -> None:
        if self._transport.is_closing():
            return
        self._flush()
        self._transport.close()
        self._loop.call_later(CLOSE_TIMEOUT, self._transport.abort)

    def _flush(self) -> None:
        if self._gathered and not self._transport.is_closing():
            self._transport.write(b"".join(self._gathered))
        self._gathered.clear()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)


class _Stream(asyncio.Protocol):
    """Stands between the socket and gmqtt: what comes in numbers is taken out in one go, the rest gmqtt gets.

    gmqtt took 40 µs for an answer and the acknowledgement of a request; here it is 2 to 3.
    """

    def __init__(self, client: _Client, connection: Any) -> None:
        self._client, self._connection = client, connection
        self._gmqtt: asyncio.Protocol = connection._protocol
        # One of our own: uvloop's makes another socket for every call.
        self._socket = socket.socket(fileno=os.dup(connection._transport.get_extra_info("socket").fileno()))
        self._reader = PacketReader(has_properties=client.has_properties)

    def data_received(self, data: bytes) -> None:
        self._connection._last_data_in = time.monotonic()
        if QUICK_ACK is not None:
            # Holds for this once. Without it Mosquitto, which does not set TCP_NODELAY, sends a message that follows
            # an acknowledgement only when our system has confirmed that one, which takes it 40 ms.
            self._socket.setsockopt(socket.IPPROTO_TCP, QUICK_ACK, 1)
        try:
            arrival = self._reader.read(data)
        except MalformedPacket as error:
            self._client.fault = str(error)
            self._connection._transport.close()
            return
        if arrival.rest:
            self._gmqtt.data_received(b"".join(arrival.rest))
        self._client.on_arrival(self._client, arrival)

    def eof_received(self) -> bool | None:
        return self._gmqtt.eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        self._socket.close()
        self._gmqtt.connection_lost(exc)

    def pause_writing(self) -> None:
        self._gmqtt.pause_writing()

    def resume_writing(self) -> None:
        self._gmqtt.resume_writing()


class _Client(gmqtt.Client):  # type: ignore[misc]
    """gmqtt's client, which connects, subscribes and does QoS 2; what is published at QoS 0 and 1 goes past it.

    It does not connect again by itself: a fresh one is made for each connection.
    """

    has_properties: bool
    """Whether it speaks MQTT 5."""
    on_arrival: Callable[[_Client, Arrival], None]
    on_refused: Callable[[int, int], None]
    """Gets the id of a publication at QoS 2 and the broker's reason, before it is taken for acknowledged."""
    fault = ""
    """What the broker sent that ended the connection."""
    reads = True
    """Whether it takes what comes."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        handler = self._package_handler
        handler._handle_pubrec_packet = partial(self._answered, handler._handle_pubrec_packet)

    def send(self, topic: str, payload: bytes, qos: int, retain: bool) -> int:
        """Publish; returns the id by which the broker acknowledges it.

        :raises OverflowError: when there is none that is free.
        """
        if qos == 2:
            self.publish(topic, payload, qos=2, retain=retain)
            return int(self._persistent_storage.last_id)
        ident = self._package_handler.id_generator.next_id() if qos else 0
        self._connection._transport.write(
            publish_packet(topic, payload, ident, qos=qos, retain=retain, has_properties=self.has_properties)
        )
        return int(ident)

    def take_limit(self) -> int:
        """How many messages the broker takes at a time, which is the caller's to keep from now on.

        gmqtt keeps it by giving out fewer ids: one too few, those of subscriptions among them, and all where it is 1.
        """
        handler = self._package_handler
        handler.id_generator._max = handler._default_id_max
        return max(1, int(handler._connack_properties.get("receive_maximum", [MAX_UNACKNOWLEDGED])[0]))

    @property
    def max_packet(self) -> int | None:
        """Bytes of the largest packet that the broker takes, where it says so; at a larger one it hangs up."""
        said = self._package_handler._connack_properties.get("maximum_packet_size")
        return int(said[0]) if said else None

    def forget(self, ident: int) -> None:
        """The broker has acknowledged it: its id may be given away again."""
        self._package_handler.id_generator.free_id(ident)

    def acknowledge(self, ids: list[bytes]) -> None:
        """Acknowledge messages; without a connection nothing happens, and they come again."""
        self._connection._transport.write(puback_packets(ids))

    def read_on(self, on: bool) -> None:
        """Take what comes, or leave it to the broker to keep."""
        transport = self._connection._transport
        if on is not self.reads and not transport.is_closing():
            self.reads = on
            (transport.resume_reading if on else transport.pause_reading)()

    def _answered(self, handle: Callable[[int, bytes], None], command: int, packet: bytes) -> None:
        # MQTT 5 (3.5.2): the id, and the reason where it is not success.
        if len(packet) > 2 and packet[2] >= REFUSED:
            self.on_refused(int.from_bytes(packet[:2], "big"), packet[2])
        handle(command, packet)

    async def reconnect(self, delay: bool = False) -> None:
        return None

    async def _create_connection(self, *args: Any, **kwargs: Any) -> Any:
        connection = await super()._create_connection(*args, **kwargs)
        transport = connection._transport
        transport.set_protocol(_Stream(self, connection))
        connection._transport = connection._protocol._transport = _Corked(transport)
        return connection


class Bus:
    """A connection that heals itself.

    :param on_message: gets what comes, one by one.
    :param on_messages: gets it as it comes, many at once; in place of the other.
    :param topics: subscribed after every connect, at QoS 1.
    :param persistent: keep the session at the broker while we are away (needs a stable ``client_id``).
    :param on_connect: called after every connect with the broker's session-present flag.
    :param on_disconnect: called when an established connection breaks.
    :param version: of MQTT, to try first.

    What is published while there is no connection is kept and sent when there is one (QoS 1 and 2).
    """

    def __init__(
        self,
        address: BrokerAddress,
        client_id: str,
        on_message: MessageHandler | None = None,
        *,
        on_messages: BatchHandler | None = None,
        topics: Sequence[str] = (),
        persistent: bool = False,
        on_connect: Callable[[bool], None] | None = None,
        on_disconnect: Callable[[], None] | None = None,
        will: Will | None = None,
        version: int = MQTTv50,
    ) -> None:
        self.address = address
        self.client_id = client_id
        self.connected = False
        self.reconnects = 0
        """How often there was a connection again after one that broke."""
        self._topics = list(topics)
        self._persistent = persistent
        self._on_message: Callable[[str, bytes], Any] = on_message or _ignore
        self._on_messages = on_messages
        self._acknowledges_first = not inspect.iscoroutinefunction(on_message)
        self._batches: deque[tuple[_Client, Sequence[tuple[str, bytes]], list[bytes]]] = deque()
        self._is_handing_over = False
        self._tasks: set[asyncio.Task[None]] = set()
        self._on_connect = on_connect
        self._on_disconnect = on_disconnect
        self._will = will
        self._client: _Client | None = None
        self._outbox = _Outbox(self._acknowledged)
        self._waiting: deque[_Publication] = deque()
        self._unacknowledged: dict[int, _Publication] = {}
        self._unacknowledged_bytes = 0
        self._capacity = MAX_UNACKNOWLEDGED
        self._max_packet: int | None = None
        self._version = self._first_version = version
        self._best_version = MQTTv311
        """What the broker is known to speak of those up to the first: one that only stalled is not spoken to in
        another one for ever."""
        self._was_connected = False
        self._lost = asyncio.Event()
        self._up = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._subscribed: dict[int, tuple[asyncio.Future[None], Sequence[str]]] = {}
        self._seldom = Seldom()
        self._supervisor: asyncio.Task[None] | None = None

    # Life

    async def start(self, timeout: float | None = None) -> None:
        """Connect, and stay connected until :meth:`close`.

        :param timeout: seconds to wait for the first connection; none waits for ever.
        :raises BusError: when there is no connection by then; the message says why.
        """
        if self._supervisor is None:
            self._supervisor = asyncio.create_task(self._supervise(), name=f"bus-{self.client_id}")
        try:
            await asyncio.wait_for(self._up.wait(), timeout)
        except asyncio.TimeoutError:
            await self.close(drain=0)
            raise BusError(f"no connection to the broker at {self.address} within {timeout:g} s") from None

    async def close(self, drain: float = 2.0) -> None:
        """Say goodbye to the broker, after at most ``drain`` seconds for what is still on its way out."""
        if self.connected and drain:
            await self.flush(drain)
        while self._supervisor is not None and not self._supervisor.done():
            # Before Python 3.12 wait_for loses a cancellation that comes in the moment of its result.
            self._supervisor.cancel()
            await asyncio.wait({self._supervisor}, timeout=0.1)
        self._supervisor = None
        self.connected = False
        if self._client is not None:
            await self._discard(self._client)
            self._client = None

    async def flush(self, timeout: float) -> bool:
        """Wait until the broker has all that was published; false when it has not after ``timeout`` seconds."""
        try:
            await asyncio.wait_for(self._idle.wait(), timeout)
        except asyncio.TimeoutError:
            return False
        return True

    # Speaking

    @property
    def has_room(self) -> bool:
        """Whether what is published now goes out at once: there is a connection, and the broker takes more on it."""
        return not self._waiting and self._has_room()

    @property
    def is_idle(self) -> bool:
        """Whether the broker has all that was published."""
        return self._idle.is_set()

    def hand_over(self, other: Bus) -> None:
        """Let another connection publish, in its order, what the broker has not acknowledged on this one, which broke.

        It may come twice, as after every connection that breaks.
        """
        other._waiting.extend((*self._unacknowledged.values(), *self._waiting))
        self._unacknowledged.clear()
        self._unacknowledged_bytes = 0
        self._waiting.clear()
        self._idle.set()
        other._idle.clear()
        other._pump()

    def publish(
        self,
        topic: str,
        payload: bytes | Callable[[], bytes],
        *,
        qos: int = 1,
        retain: bool = False,
        done: Callable[[], None] | None = None,
        wanted: Callable[[], bool] | None = None,
    ) -> None:
        """Publish now, or when the broker takes it; ``done`` is called when the broker has it (at QoS 0: at once).

        What is no longer ``wanted`` when its turn comes later, as after a reconnect, is dropped. A QoS 0 message
        without a connection is dropped, and ``done`` is not called.

        :param payload: a function is called when its turn comes, each time: a large payload need not wait in memory.
        """
        if qos == 0:
            if self.connected and self._client is not None:
                self._client.send(topic, _bytes_of(payload), 0, retain)
                if done is not None:
                    done()
            return
        self._idle.clear()
        entry = _Publication(topic, payload, qos, retain, done, wanted)  # wanted now, as this call says
        # Others may wait for the broker already; their turn comes first.
        if self._waiting or not self._has_room() or not self._transmit(entry):
            self._waiting.append(entry)
        else:
            self._check_idle()

    async def subscribe(self, *topics: str) -> None:
        """Subscribe to more topics, now and after every reconnect; returns when the broker confirmed them.

        :raises BusError: when it does not within 10 s.
        """
        added = [topic for topic in topics if topic not in self._topics]
        self._topics += added
        if not added or not self.connected or self._client is None:
            return
        try:
            await asyncio.wait_for(self._send_subscribe(self._client, added), CONNECT_TIMEOUT)
        except (asyncio.TimeoutError, OverflowError):
            raise BusError(f"the broker did not confirm the subscription to {added[0]}") from None

    async def unsubscribe(self, *topics: str) -> None:
        """Take subscriptions back; unknown topics are ignored."""
        removed = frozenset(topics).intersection(self._topics)
        self._topics = [topic for topic in self._topics if topic not in removed]
        if removed and self.connected and self._client is not None:
            with contextlib.suppress(OverflowError):  # its session is clean, or the topic ends with the program
                # As bytes: gmqtt counts the characters of a text for its length, and the broker hangs up.
                self._client.unsubscribe([topic.encode() for topic in sorted(removed)])
            # It does not know its subscriptions by these, would keep them all and look through them at every answer.
            self._client.subscriptions = [kept for kept in self._client.subscriptions if kept.topic not in removed]

    # The connection

    async def _supervise(self) -> None:
        loop = asyncio.get_running_loop()
        delay, last_reason = FIRST_DELAY, ""
        while True:
            client = self._make_client()
            reason = await self._connect(client)
            if not reason:
                logger.info("connected to the broker at %s as %s", self.address, self.client_id,
                            extra={"event": "bus_connected", "client": self.client_id})
                since, last_reason = loop.time(), ""
                await self._lost.wait()
                self._broken()
                # One that breaks at once has a rival with the same client id: two of them must not chase each other.
                delay = FIRST_DELAY if loop.time() - since > STEADY else max(delay, SECOND_DELAY)
                self._version = self._best_version
                reason = client.fault or "the connection broke"
            if reason != last_reason:
                logger.warning("broker at %s: %s; trying again", self.address, reason,
                               extra={"event": "bus_unreachable", "client": self.client_id, "reason": reason})
                last_reason = reason
            await self._discard(client)
            await asyncio.sleep(delay)
            delay = min(delay * 2, MAX_DELAY)

    def _make_client(self) -> _Client:
        properties: dict[str, Any] = {}
        if self._version == MQTTv50:
            # The broker's 20 unacknowledged messages at a time would tie answers to the speed of a commit.
            properties = {"receive_maximum": 2000, "maximum_packet_size": MAX_PACKET}
            if self._persistent:
                properties["session_expiry_interval"] = SESSION_EXPIRY
        will = self._will and gmqtt.Message(self._will.topic, self._will.payload, 1, self._will.retain)
        client = _Client(
            self.client_id.encode(),  # see unsubscribe
            clean_session=not self._persistent,
            will_message=will,
            persistent_storage=self._outbox,
            **properties,
        )
        if self.address.username is not None:
            client.set_auth_credentials(self.address.username, self.address.password)
        client.has_properties = self._version == MQTTv50
        client.on_arrival = self._arrived
        client.on_connect = self._accepted
        client.on_disconnect = self._disconnected
        client.on_subscribe = self._confirmed
        client.on_unsubscribe = self._removed
        client.on_refused = self._refused
        return client

    async def _connect(self, client: _Client) -> str:
        """Connect and subscribe; the reason when it could not be done."""
        self._lost.clear()
        self._client = client
        self._session_present = False
        connecting = asyncio.ensure_future(self._dial(client))
        lost = asyncio.ensure_future(self._lost.wait())
        try:
            timeout = MQTT5_TIMEOUT if self._version == MQTTv50 else CONNECT_TIMEOUT
            await asyncio.wait({connecting, lost}, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
            if not connecting.done():
                self._other_version()
                return "it closed the connection" if lost.done() else f"no answer within {timeout:g} s"
            connecting.result()
            if self._topics:
                confirmed = self._send_subscribe(client, self._topics)
                either: set[asyncio.Future[Any]] = {confirmed, lost}
                await asyncio.wait(either, timeout=CONNECT_TIMEOUT, return_when=asyncio.FIRST_COMPLETED)
                if not confirmed.done():
                    return "it closed the connection" if lost.done() else "it did not confirm the subscriptions"
                confirmed.result()
        except BusError as error:
            return str(error)
        except gmqtt.mqtt.handler.MQTTConnectError as error:
            code = getattr(error, "_code", None)
            if code in _REFUSED_VERSION:
                self._other_version()
            return f"{DENIED}: {error}" if code in _DENIED else str(error)
        except (OSError, ValueError, OverflowError) as error:
            return str(error) or type(error).__name__
        except Exception as error:  # the task must not end: nobody would connect again
            logger.exception("a connection could not be made", extra={"event": "bus_failed", "client": self.client_id})
            return type(error).__name__
        finally:
            for task in (connecting, lost):
                task.cancel()
            await asyncio.gather(connecting, lost, return_exceptions=True)
        if self._lost.is_set():
            return "it closed the connection"
        self._established(client)
        return ""

    async def _dial(self, client: _Client) -> None:
        tls = self.address.ssl_context() or False
        await client.connect(
            self.address.host, self.address.port, ssl=tls, keepalive=KEEPALIVE, version=self._version
        )

    def _other_version(self) -> None:
        # A broker that speaks MQTT 3.1.1 only closes the connection on a CONNECT of version 5, or says nothing.
        self._version = MQTTv311 if self._version == MQTTv50 else MQTTv50

    def _established(self, client: _Client) -> None:
        self.connected = True
        self._best_version = max(self._best_version, min(self._version, self._first_version))
        if self._was_connected:
            self.reconnects += 1
        self._was_connected = True
        self._capacity = min(MAX_UNACKNOWLEDGED, client.take_limit())
        self._max_packet = client.max_packet
        # Without the session the order of what was out and what waits is kept as well: out first.
        out = list(self._unacknowledged.values())
        self._unacknowledged.clear()
        self._unacknowledged_bytes = 0
        self._waiting.extendleft(reversed(out))
        self._pump()
        self._up.set()
        if self._on_connect is not None:
            self._on_connect(self._session_present)

    def _broken(self) -> None:
        self.connected = False
        self._up.clear()
        if self._on_disconnect is not None:
            self._on_disconnect()

    async def _discard(self, client: _Client) -> None:
        try:
            await asyncio.wait_for(client.disconnect(), 2 * CLOSE_TIMEOUT)
        except Exception as error:  # a client in any state of ruin is only to be let go
            logger.debug("while leaving the broker: %s", error,
                         extra={"event": "bus_left_badly", "client": self.client_id})

    # What gmqtt calls

    def _accepted(self, client: object, session_present: int, result: int, properties: object) -> None:
        self._session_present = bool(session_present & 1)

    def _disconnected(self, client: object, packet: object, error: object = None) -> None:
        if client is self._client:
            self._lost.set()

    def _confirmed(self, client: object, mid: int, granted: Sequence[int], properties: object) -> None:
        waiter, topics = self._subscribed.pop(mid, (None, ()))
        if waiter is not None and not waiter.done():
            refused = [topic for topic, code in zip(topics, granted, strict=False) if code >= REFUSED]
            if refused:
                waiter.set_exception(BusError(f"it refuses the subscription to {refused[0]}; see its access rights"))
            else:
                waiter.set_result(None)
        self._pump()

    def _removed(self, client: object, mid: int, reasons: Sequence[int]) -> None:
        self._pump()

    def _refused(self, mid: int, reason: int) -> None:
        entry = self._unacknowledged.get(mid)
        if entry is not None:
            self._tell_refused(entry, reason)

    def _tell_refused(self, entry: _Publication, reason: int) -> None:
        """Say it: to all who wait for it, the publication is with the broker now."""
        if count := self._seldom.due("refused"):
            logger.warning(
                "the broker at %s refuses what is published on %.200s (reason %d): %s",
                self.address, entry.topic, reason,
                "it takes no message as large" if reason == PACKET_TOO_LARGE else "has this user the right to?",
                extra={"event": "publish_refused", "topic": entry.topic, "code": reason, "count": count},
            )  # fmt: skip

    def _send_subscribe(self, client: _Client, topics: Sequence[str]) -> asyncio.Future[None]:
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        mid = client.subscribe([gmqtt.Subscription(topic, qos=1) for topic in topics])
        self._subscribed[mid] = waiter, topics
        return waiter

    def _arrived(self, client: _Client, arrival: Arrival) -> None:
        if arrival.acknowledged and self.connected and client is self._client:
            self._take_acknowledgements(client, arrival.acknowledged)
        if arrival.unreadable:
            client.acknowledge(arrival.unreadable)
        if not arrival.messages:
            return
        if self._on_messages is not None:
            for start in range(0, len(arrival.messages), MAX_BATCH):
                part = slice(start, start + MAX_BATCH)
                self._batches.append((client, arrival.messages[part], arrival.ids[part]))
            if len(self._batches) > MAX_BATCHES:
                client.read_on(False)
            if not self._is_handing_over:
                self._hand_over_batch(self._on_messages)
        elif self._acknowledges_first:
            client.acknowledge(arrival.ids)
            for topic, payload in arrival.messages:
                self._hand_over(topic, payload)
        else:
            for (topic, payload), ident in zip(arrival.messages, arrival.ids, strict=True):
                self._begin(self._on_message(topic, payload), client, [ident])

    def _hand_over_batch(self, handler: BatchHandler) -> None:
        client, messages, ids = self._batches.popleft()
        self._begin(handler(messages), client, ids)
        self._is_handing_over = bool(self._batches)
        if self._batches:
            asyncio.get_running_loop().call_soon(self._hand_over_batch, handler)
        else:
            client.read_on(True)

    def _hand_over(self, topic: str, payload: bytes) -> None:
        try:
            self._on_message(topic, payload)
        except Exception:  # a fault of ours, for which the others are not to suffer
            self._log_unhandled()

    def _begin(self, handling: Awaitable[None], client: _Client, ids: list[bytes]) -> None:
        """Have messages handled beside all else, and acknowledge them when they are."""
        task = asyncio.ensure_future(self._handle(handling, client, ids))
        self._tasks.add(task)  # the loop itself keeps no task
        task.add_done_callback(self._tasks.discard)

    async def _handle(self, handling: Awaitable[None], client: _Client, ids: list[bytes]) -> None:
        try:
            await handling
        except Exception:  # not acknowledged: the broker sends them again
            self._log_unhandled()
        else:
            client.acknowledge(ids)

    def _log_unhandled(self) -> None:
        logger.exception("a message could not be handled", extra={"event": "message_failed", "client": self.client_id})

    def _take_acknowledgements(self, client: _Client, acknowledged: Sequence[tuple[int, int]]) -> None:
        forget = client.forget
        for ident, reason in acknowledged:
            if reason >= REFUSED:
                self._refused(ident, reason)
            forget(ident)
            self._settle(ident)
        self._pump()

    # What is on its way out

    def _pump(self) -> None:
        while self._waiting and self._has_room():
            entry = self._waiting[0]
            if (entry.wanted is None or entry.wanted()) and not self._transmit(entry):
                break
            self._waiting.popleft()
        self._check_idle()

    def _has_room(self) -> bool:
        return (
            self.connected
            and len(self._unacknowledged) < self._capacity
            and self._unacknowledged_bytes < MAX_UNACKNOWLEDGED_BYTES
        )

    def _transmit(self, entry: _Publication) -> bool:
        """Send what has its turn; false when it has to wait."""
        assert self._client is not None, "there is no connection without one"
        payload = _bytes_of(entry.payload)
        if self._max_packet is not None and _size_of(entry.topic, payload) > self._max_packet:
            # The broker would hang up, each time that it comes, and take nothing that follows.
            self._tell_refused(entry, PACKET_TOO_LARGE)
            if entry.done is not None:
                entry.done()
            return True
        try:
            ident = self._client.send(entry.topic, payload, entry.qos, entry.retain)
        except OverflowError:
            return False  # thousands of subscriptions have the ids; their acknowledgements bring the next attempt
        self._unacknowledged[ident] = entry
        entry.size = len(payload)
        self._unacknowledged_bytes += entry.size
        return True

    def _acknowledged(self, ident: int) -> None:
        """The broker has a publication at QoS 2."""
        self._settle(ident)
        self._pump()

    def _settle(self, ident: int) -> None:
        entry = self._unacknowledged.pop(ident, None)
        if entry is not None:
            self._unacknowledged_bytes -= entry.size
            if entry.done is not None:
                entry.done()

    def _check_idle(self) -> None:
        if not self._waiting and not self._unacknowledged:
            self._idle.set()


def _bytes_of(payload: bytes | Callable[[], bytes]) -> bytes:
    return payload if isinstance(payload, bytes) else payload()


def _size_of(topic: str, payload: bytes) -> int:
    return len(topic.encode()) + len(payload) + MAX_OVERHEAD


def _ignore(topic: str, payload: bytes) -> None:
    """Who only publishes need not listen."""
