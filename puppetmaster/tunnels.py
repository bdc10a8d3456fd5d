"""The data plane: requests to the devices and their answers, over an MQTT connection with a persistent session.

An answer is acknowledged to the broker when it is on disk. A kill at any moment loses none: the broker keeps the
session under our client id and sends again what was not acknowledged.

In MQTT 5 a broker limits what may be on its way to it, Mosquitto to 20 messages. Requests beyond that go over a second
connection, in 3.1.1, which has no such limit.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import NamedTuple

from puppetmaster import wire
from puppetmaster.address import BrokerAddress
from puppetmaster.bus import MQTT_3_1_1, Bus, Will
from puppetmaster.documents import Document
from puppetmaster.effects import Change
from puppetmaster.errors import BusError
from puppetmaster.logs import Seldom
from puppetmaster.models import Request
from puppetmaster.service import Service
from puppetmaster.teller import Teller
from puppetmaster.version import __version__

logger = logging.getLogger(__name__)

REPORT_INTERVAL = 1.0
"""Seconds between two looks at the number of dropped answers."""

SWEEP_TIME = 5.0
"""Seconds after the start in which the broker hands out what it has retained."""

DOUBT_TIME = 10.0
"""Seconds after a reconnect in which the broker hands out what it kept for us."""

LARGE = 16 * 1024
"""Bytes of a payload that is not kept while it waits for the broker, but written again when its turn comes."""

SUSPICIOUS = ("foreign", "malformed")
"""Reasons to drop an answer that no device has that does what it should."""


class _Oversized(NamedTuple):
    """An answer that is too large to be read, and why it is refused."""

    destination: str
    request_id: int
    reason: str


class Tunnels:
    """Carries requests out and answers in; the service's outlet.

    :param qos: of the requests; everything else goes at QoS 1.
    """

    def __init__(self, address: BrokerAddress, codec: wire.Codec, *, qos: int = 1) -> None:
        instance = codec.instance
        self._codec = codec
        self._job_topics = wire.job_topic(instance, "")
        self._qos = qos
        self._service: Service | None = None
        self.is_ours: Callable[[Request], bool] = lambda request: True
        """Tells what goes over the broker from what others carry."""
        self.seen: Callable[[Iterable[str]], None] = lambda destinations: None
        """Is told whose answers come."""
        self.received = 0
        """How many answers came, those that were dropped and those that came again included."""
        self._malformed = ""
        self._doubtful: dict[str, set[int]] = {}
        """What was out at the last reconnect, by the destination."""
        self._back: set[str] | None = None
        """Who was heard to be online since the broker forgot our session; none while it has not."""
        self._reported: Counter[str] = Counter()
        self._logged: Counter[str] = Counter()
        self._seldom = Seldom()
        self._reporter: asyncio.Task[None] | None = None
        self.teller = Teller(instance, self._publish)
        self._bus = Bus(
            address,
            f"puppetmaster-{instance}",
            on_messages=self._received,
            topics=[wire.answer_topic("+", instance)],
            persistent=True,
            on_connect=self._connected,
            on_disconnect=self._disconnected,
            will=Will(wire.presence_topic(instance), wire.encode({"connection": "offline"})),
        )
        self._overflow = Bus(
            address,
            f"puppetmaster-{instance}-requests",
            # It may be refused from now on, by its client id or the number of connections: nothing waits for it.
            on_disconnect=lambda: self._overflow.hand_over(self._bus),
            version=MQTT_3_1_1,
        )
        """Takes the requests that the broker does not take on the other connection at once."""
        self._opening: asyncio.Task[None] | None = None
        self.teller.online(False)

    def serve(self, service: Service) -> None:
        """Hand answers to this service from now on; it sends nothing before the broker is there."""
        self._service = service
        service.link(False)

    @property
    def connected(self) -> bool:
        """Whether there is a connection to the broker."""
        return self._bus.connected

    @property
    def reconnects(self) -> int:
        """How often the connection broke and was made again."""
        return self._bus.reconnects

    async def start(self) -> None:
        """Connect, however long it takes."""
        await self._bus.start()
        self._opening = asyncio.create_task(self._overflow.start(), name="tunnels-overflow")
        self._reporter = asyncio.create_task(self._report(), name="tunnels-report")
        await self._sweep()

    async def _sweep(self) -> None:
        """Take away what is retained of jobs that are gone: a kill may come between the removal and its news."""
        # A connection of its own: on the persistent session the states would crowd out the devices' answers.
        instance = self._codec.instance
        topics = [wire.job_topic(instance, "+")]
        bus = Bus(self._bus.address, f"puppetmaster-{instance}-sweep", self._seen_job, topics=topics)
        try:
            await bus.start(SWEEP_TIME)
            await asyncio.sleep(SWEEP_TIME)
        except BusError as error:
            logger.info("retained states of removed jobs may be left over: %s", error,
                        extra={"event": "states_not_swept"})
        finally:
            await bus.close()

    async def close(self) -> None:
        """Tell what is untold, say goodbye and leave; the session stays at the broker."""
        for task in (self._reporter, self._opening):
            if task is not None:
                task.cancel()
        await self._overflow.close()
        if self._bus.connected:
            self.teller.flush()
            self._publish_presence("offline")
        await self._bus.close()

    # What the service does

    def send(self, request: Request, attempt: int) -> None:
        """Publish a request, as long as it is wanted."""
        assert self._service is not None
        topic, payload = self._codec.write(request)
        size = len(payload)
        # Over the first as long as it takes them: in MQTT 5 the broker says what it refuses.
        bus = self._bus if self._bus.has_room or not self._overflow.connected else self._overflow
        bus.publish(
            topic,
            payload if size < LARGE else partial(self._payload, request),
            qos=self._qos,
            done=partial(self._service.accepted, request, attempt),
            wanted=partial(_is_wanted, request, attempt),
        )

    def _payload(self, request: Request) -> bytes:
        return self._codec.write(request)[1]

    def abort(self, request: Request) -> None:
        """Tell the agent that runs a command to end it; of other requests nobody would know what to end."""
        if request.message.resource == wire.COMMANDS and not self._codec.through_controller(request):
            topic, payload = self._codec.write_abort(request)
            self._bus.publish(topic, payload)
            if not self._overflow.is_idle:
                # The request may still be on its way to the broker, and this must not overtake it; twice does no harm.
                self._overflow.publish(topic, payload)

    def publish_output(self, destination: str, request_id: int, payload: bytes) -> None:
        """Publish output of a command that runs on this machine, as its device would."""
        self._bus.publish(wire.output_topic(destination, request_id), payload, wanted=lambda: self._bus.connected)

    def tell(self, change: Change, job_id: int, document: Document | None) -> None:
        """Tell of a job to every view, and retain its state."""
        self.teller.tell(change, job_id, document)

    def retain(self, job_id: int, document: Document) -> None:
        """Retain a job's state."""
        self.teller.retain(job_id, document)

    # What the broker does

    def _connected(self, session_present: bool) -> None:
        assert self._service is not None
        is_forgotten = False
        if not session_present:
            count = self._service.resend(self.is_ours)
            # At a first start there is nobody who could have been forgotten.
            is_forgotten = self._bus.reconnects > 0 or count > 0
            if count:
                logger.warning("the broker has lost our session: %d requests that are out are sent again", count,
                               extra={"event": "session_lost", "count": count})
        self._back = set() if is_forgotten else None
        self._doubtful = {}
        for request in filter(self._is_by_tunnel, self._service.out()):
            self._doubtful.setdefault(request.destination, set()).add(request.id)
        if self._doubtful or is_forgotten:
            asyncio.get_running_loop().call_later(DOUBT_TIME, self._resend_doubtful, self._doubtful, is_forgotten)
        self._publish_presence("online")
        self._service.link(True)
        self.teller.online(True)

    def _resend_doubtful(self, doubtful: dict[str, set[int]], is_forgotten: bool) -> None:
        """Send again what was out before a reconnect and is not answered yet.

        A broker that was killed may come back with an older state of our session, and says that it is present. What it
        did keep has been answered by now, or is still worked on: agents answer a known id without doing the work twice.
        One that has forgotten our session has forgotten those of the devices too: whatever was sent before they were
        there again, then or since, has reached nobody.
        """
        assert self._service is not None
        if doubtful is not self._doubtful or not self._bus.connected:
            return  # there was, or will be, another reconnect with a look of its own

        def is_lost(request: Request) -> bool:
            known = request.id in doubtful.get(request.destination, ())
            return known or (is_forgotten and self._is_by_tunnel(request))

        count = self._service.resend(is_lost)
        if count:
            # Nothing is wrong: the broker may have been away, or only we.
            logger.info("%d requests were out before we connected again, and are not answered: sent again", count,
                        extra={"event": "doubtful_resent", "count": count})

    def present(self, destination: str) -> None:
        """A device came online: what was out to it at the last reconnect may have been lost while it was away."""
        if self._back is None:
            self._resend_these(self._doubtful.pop(destination, set()))

    def heard_online(self, destination: str) -> None:
        """A device is there. A broker that forgot all had no session of it until it came back, so what was sent to it
        meanwhile has reached nobody. It is sent again once, however often somebody says that it is there.
        """
        if self._service is None or self._back is None or destination in self._back:
            return
        self._back.add(destination)
        ids, current = self._doubtful.pop(destination, set()), self._service.out_to(destination)
        self._resend_these(ids if current is None else ids | {current})

    def _resend_these(self, ids: set[int]) -> None:
        if ids and self._service is not None and self._bus.connected:
            self._service.resend(lambda request: request.id in ids and self._is_by_tunnel(request))

    def _is_by_tunnel(self, request: Request) -> bool:
        return self.is_ours(request) and not self._codec.through_controller(request)

    def _disconnected(self) -> None:
        assert self._service is not None
        self._service.link(False)
        self.teller.online(False)

    async def _received(self, messages: Sequence[tuple[str, bytes]]) -> None:
        """Answers came, many at once; returns when all that they change is on disk."""
        assert self._service is not None
        self.received += len(messages)
        answers = [answer for topic, payload in messages if (answer := self._read(topic, payload)) is not None]
        try:
            self.seen([answer.destination for answer in answers])
        except Exception:  # a fault of ours, for which no answer is to suffer
            logger.exception("devices could not be noted", extra={"event": "answer_failed"})
        for answer in answers:
            try:
                if isinstance(answer, wire.Answer):
                    self._service.take(answer)
                else:
                    self._service.refuse(answer.destination, answer.request_id, answer.reason)
            except Exception:
                # A fault of ours; the broker would send the answer again and again.
                logger.exception("an answer could not be taken: %.500r", answer, extra={"event": "answer_failed"})
        await self._service.durable()

    def _read(self, topic: str, payload: bytes) -> wire.Answer | _Oversized | None:
        """What a message says; none when it is no answer."""
        assert self._service is not None
        try:
            if len(payload) <= wire.MAX_ANSWER_BYTES:
                return self._codec.read(topic, payload)
            return self._read_oversized(topic, payload)
        except wire.MalformedAnswer as error:
            self._malformed = f"on {topic:.100}: {error}"
            self._service.dropped["malformed"] += 1
        except Exception:
            logger.exception("a message could not be read: %.100s %.500r", topic, payload,
                             extra={"event": "answer_failed"})
        return None

    def _read_oversized(self, topic: str, payload: bytes) -> _Oversized:
        reason = f"the answer has {len(payload)} bytes, over the limit of {wire.MAX_ANSWER_BYTES}"
        destination, request_id = self._codec.destination_of(topic), wire.glean_id(payload)
        if request_id is None:
            raise wire.MalformedAnswer(f"{reason}, and no id")
        return _Oversized(destination, request_id, reason)

    def _seen_job(self, topic: str, payload: bytes) -> None:
        assert self._service is not None
        job_id = topic.removeprefix(self._job_topics)
        if payload and not (job_id.isascii() and job_id.isdigit() and self._service.has_job(int(job_id))):
            self.teller.forget(job_id)

    # Reports

    def _publish(
        self, topic: str, payload: bytes, retain: bool, wanted: Callable[[], bool] | None = None
    ) -> None:
        self._bus.publish(topic, payload, retain=retain, wanted=wanted)

    def _publish_presence(self, connection: str) -> None:
        dropped = dict(self._service.dropped) if self._service is not None else {}
        document = {"connection": connection, "version": __version__, "dropped": dropped}
        self._publish(wire.presence_topic(self._codec.instance), wire.encode(document), True)

    async def _report(self) -> None:
        assert self._service is not None
        while True:
            await asyncio.sleep(REPORT_INTERVAL)
            dropped = self._service.dropped
            if dropped != self._reported and self._bus.connected:
                self._reported = Counter(dropped)
                self._publish_presence("online")
            if dropped != self._logged and self._seldom.due("dropped"):
                self._log_dropped(dropped - self._logged)
                self._logged = Counter(dropped)

    def _log_dropped(self, new: Counter[str]) -> None:
        counts = ", ".join(f"{count} {reason}" for reason, count in sorted(new.items()))
        malformed = f" (the last malformed one {self._malformed})" if self._malformed else ""
        # The others come whenever a job is called off or removed while devices are at work.
        level = logging.WARNING if any(new[reason] for reason in SUSPICIOUS) else logging.INFO
        logger.log(level, "answers dropped: %s%s", counts, malformed,
                   extra={"event": "answers_dropped", "count": sum(new.values())})
        self._malformed = ""


def _is_wanted(request: Request, attempt: int) -> bool:
    return request.is_out and request.attempt == attempt
