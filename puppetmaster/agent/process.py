"""Puts the agent together and runs it: the one place that makes its connection, its worker and what it tells."""

from __future__ import annotations

import asyncio
import logging
import signal
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import orjson

from puppetmaster import chunks, loop
from puppetmaster.agent.controller import ControllerLink
from puppetmaster.agent.folder import Folder, LastEnd
from puppetmaster.agent.forwarder import Forwarder
from puppetmaster.agent.inbox import Dropped, MalformedOrder, read_order, write_answer
from puppetmaster.agent.memory import Memory
from puppetmaster.agent.options import DESTINATION, AgentSettings
from puppetmaster.agent.order import Order, Reply
from puppetmaster.agent.output import OutputLimits
from puppetmaster.agent.rights import Rights
from puppetmaster.agent.telemetry import Frequent, Telemetry, facts, seldom
from puppetmaster.agent.worker import Worker
from puppetmaster.bus import STEADY, Bus, Will
from puppetmaster.times import to_text
from puppetmaster.version import __version__

logger = logging.getLogger(__name__)

RIVALRY = 3
"""Connections that broke soon, one after the other, from which on another agent with our id is suspected."""

LINK_TIME = 2.0
"""Seconds that the device's controller is waited for before requests are taken."""

MAX_CHUNKS_OUT = 16
"""Chunks of output that may be on their way to the broker; what a command says meanwhile stays on the disk."""


def run(settings: AgentSettings) -> int:
    """Run the agent until SIGINT, SIGTERM or SIGHUP; returns the exit code of the process.

    :raises PuppetmasterError: when a setting or the folder can't be used.
    """
    return loop.run(_run(settings))


async def _run(settings: AgentSettings) -> int:
    stop = _stop_signal()
    rights = Rights.parse(settings.commands, source="--commands")
    folder = Folder(settings.folder, settings.id)
    try:
        agent = Agent(settings, rights, Memory(folder.path / "orders"))
        logger.info("agent %s of puppetmaster %s, broker %s, state in %s", settings.id, __version__, settings.broker,
                    folder.path, extra={"event": "started", "version": __version__, "destination": settings.id})
        await agent.start(folder.begin())
        await stop.wait()
        logger.info("stopping", extra={"event": "stopping"})
        await agent.close()
        folder.end()
    finally:
        folder.close()
    return 0


def _stop_signal() -> asyncio.Event:
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    return stop


class Agent:
    """One device on the bus.

    :param memory: closed with the agent.
    """

    def __init__(self, settings: AgentSettings, rights: Rights, memory: Memory) -> None:
        self._settings = settings
        self._rights = rights
        self._memory = memory
        self._base = f"/remote/{settings.id}"
        self._facts = facts(settings.facts)
        self._frequent = Frequent()
        self._started = time.time()
        self._closing = False
        self._chunks_out = 0
        self._dropped = Dropped()
        self._rivalry = _Rivalry(settings.id)
        self._link = self._make_link()
        self._forwarder = Forwarder(self._link, memory, cut_off=self._tell_cut_off)
        self._worker = Worker(
            memory=memory,
            rights=rights,
            limits=OutputLimits(keep_bytes=settings.output_limit),
            emit=self._emit,
            info=self._info,
            is_clear=lambda: self._bus.connected and self._chunks_out < MAX_CHUNKS_OUT,
        )
        self._telemetry = Telemetry(settings.telemetry, self._tell_telemetry)
        self._bus = Bus(
            settings.broker,
            f"puppetmaster-agent-{settings.id}",
            self._received,
            topics=[settings.topic.replace(DESTINATION, settings.id)],
            persistent=True,
            on_connect=self._connected,
            on_disconnect=self._rivalry.broken,
            will=Will(f"{self._base}/presence", orjson.dumps({"connection": "offline"})),
        )
        self._connecting: asyncio.Task[None] | None = None

    def _make_link(self) -> ControllerLink | None:
        settings = self._settings
        if settings.controller is None:
            return None
        return ControllerLink(settings.controller, settings.id, timeout=settings.controller_timeout)

    # Life

    async def start(self, last: LastEnd) -> None:
        """Take over what an earlier life began, then connect, however long that takes."""
        if self._link is not None:
            self._link.start()
        await self._worker.start(self._reply_to)
        self._tell_event("started", version=__version__, lastEnd=str(last), running=len(self._worker.running))
        await self._forwarder.start(self._reply_to, lambda resource: not self._worker.serves(resource))
        self._connecting = asyncio.create_task(self._connect(), name="connect")
        if self._settings.telemetry:
            self._telemetry.start()

    async def _connect(self) -> None:
        if self._link is not None:
            # What waits at the broker comes at once, and is not to be refused for a connection that is being made.
            await self._link.until_connected(LINK_TIME)
        await self._bus.start()

    async def close(self) -> None:
        """Say goodbye and leave; commands go on unless they are to be killed. The session stays at the broker."""
        self._closing = True
        await self._telemetry.close()
        await self._worker.close(kill=self._settings.kill_on_stop)
        await self._forwarder.close()
        if self._bus.connected:
            self._tell_event("stopping", running=len(self._worker.running))
            self._bus.publish(f"{self._base}/presence", orjson.dumps({"connection": "offline"}), retain=True)
        if self._connecting is not None:
            self._connecting.cancel()
            await asyncio.gather(self._connecting, return_exceptions=True)
        await self._bus.close()
        if self._link is not None:
            await self._link.close()
        self._dropped.close()
        await self._memory.close()

    # What comes in

    async def _received(self, topic: str, payload: bytes) -> None:
        if self._closing:
            await asyncio.Event().wait()  # not acknowledged, so that it comes again in the next life
        try:
            order = read_order(payload)
        except MalformedOrder as error:
            self._dropped.add(str(error))
            return
        logger.debug("request %d: %s %.200s", order.id, order.method, order.resource,
                     extra={"event": "request_received", "request": order.id})
        try:
            if self._worker.serves(order.resource):
                await self._worker.handle(order, self._reply_to(order))
            else:
                await self._forwarder.handle(order, self._reply_to(order))
        except Exception:
            # A fault of ours; the broker would send the request again after every reconnect.
            logger.exception("request %d (%s %.100s) could not be taken", order.id, order.method, order.resource,
                             extra={"event": "agent_order_failed", "request": order.id})
            await self._reply_to(order)(500, {"message": "a fault of the agent; its log tells more"})

    # What goes out

    def _reply_to(self, order: Order) -> Reply:
        return partial(self._reply, order)

    async def _reply(self, order: Order, code: int, data: Any) -> None:
        taken: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        payload = write_answer(self._settings.id, order, code, data)
        logger.debug("request %d: answered %d", order.id, code,
                     extra={"event": "request_answered", "request": order.id, "code": code})
        self._bus.publish(order.tunnel, payload, done=partial(_settle, taken), wanted=lambda: not taken.cancelled())
        await taken

    def _emit(self, order: Order, chunk: chunks.Chunk) -> None:
        self._chunks_out += 1
        self._bus.publish(f"{self._base}/output/{order.id}", chunks.encode(chunk), done=self._chunk_taken)

    def _chunk_taken(self) -> None:
        self._chunks_out -= 1

    # What is told unasked

    def _connected(self, session_present: bool) -> None:
        self._rivalry.made()
        # After every connect: a broker that was killed has forgotten what it retained, and the will may have been said.
        rights = self._rights.describe()
        presence = {
            "connection": "online",
            "labels": self._settings.labels,
            "facts": self._facts,
            "agent": {"commands": rights if isinstance(rights, str) else "list"},
        }
        self._bus.publish(f"{self._base}/presence", orjson.dumps(presence), retain=True)
        if not session_present:
            self._telemetry.again()

    def _tell_telemetry(self, message: dict[str, Any]) -> None:
        self._bus.publish(f"{self._base}/telemetry", orjson.dumps(message), qos=0)

    def _tell_event(self, name: str, **more: Any) -> None:
        event = {"event": name, "at": to_text(time.time()), **more}
        self._bus.publish(f"{self._base}/event", orjson.dumps(event))

    def _tell_cut_off(self, order: Order) -> None:
        self._tell_event("cut off", id=order.id, method=order.method, resource=order.resource)

    def _info(self) -> dict[str, Any]:
        return {
            "id": self._settings.id,
            "labels": self._settings.labels,
            "facts": self._facts,
            "startedAt": to_text(self._started),
            "controller": None if self._link is None else {"connected": self._link.connected},
            "dropped": self._dropped.count,
            **self._frequent.read(),
            **seldom(),
        }


class _Rivalry:
    """Notices that the connection breaks again and again: brokers end the older one of two with the same name."""

    def __init__(self, ident: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._ident = ident
        self._clock = clock
        self._since = 0.0
        self._short = 0

    def made(self) -> None:
        """There is a connection."""
        self._since = self._clock()

    def broken(self) -> None:
        """It broke."""
        self._short = self._short + 1 if self._clock() - self._since < STEADY else 0
        if self._short == RIVALRY:
            logger.warning(
                "the connection broke %d times within %g s of its beginning: is there another agent with the id %s?",
                RIVALRY,
                STEADY,
                self._ident,
                extra={"event": "agent_rivaled", "destination": self._ident},
            )


def _settle(taken: asyncio.Future[None]) -> None:
    if not taken.done():
        taken.set_result(None)
