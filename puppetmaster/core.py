"""What every puppetmaster is made of, beside a broker or without one: store, registry, engine, service and channels."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable

from puppetmaster import chunks
from puppetmaster.agent.memory import Memory
from puppetmaster.agent.order import Order
from puppetmaster.agent.output import OutputLimits
from puppetmaster.agent.rights import Rights
from puppetmaster.agent.telemetry import facts
from puppetmaster.agent.worker import Worker
from puppetmaster.channels.local import Local
from puppetmaster.channels.pull import Pull
from puppetmaster.channels.router import Destinations, Router
from puppetmaster.chunks import Chunk
from puppetmaster.devices import Devices
from puppetmaster.engine import Engine
from puppetmaster.job_document import JobReader
from puppetmaster.memory_guard import MemoryGuard
from puppetmaster.outputs import Outputs
from puppetmaster.policies import LOCALHOST, Connection, Retention
from puppetmaster.process_memory import default_limit, resident_bytes, trim
from puppetmaster.service import Outlet, Service
from puppetmaster.settings import Settings
from puppetmaster.store import Store
from puppetmaster.times import Clock
from puppetmaster.wire import answer_topic

logger = logging.getLogger(__name__)

DAY = 86400.0
MIB = 1024 * 1024

OUTPUT_FOLDER, AGENT_FOLDER = "output", "agent"

COMMANDS = "--commands, PUPPETMASTER_COMMANDS"
"""What allows commands on this machine; an agent's setting is called otherwise."""


class Core:
    """The parts, made and connected; nothing runs before :meth:`start`.

    :param tunnels: the way over the broker.
    :param instance: the name of this puppetmaster.
    :param window: how many requests may be out over it at once.
    :param max_destination_bytes: see JobReader.
    """

    def __init__(
        self,
        settings: Settings,
        store: Store,
        registry: Store,
        tunnels: Outlet,
        instance: str,
        *,
        window: int,
        max_destination_bytes: int | None = None,
    ) -> None:
        self.clock = Clock()
        self._instance = instance
        self.registry = registry
        self.publish_output: Callable[[str, int, bytes], None] = _publish_nothing
        """Tells others of the output of commands on this machine."""
        self.devices = Devices(registry, self.clock.now)
        self.router = Router(tunnels)
        self.engine = Engine(
            window=window,
            retention=Retention(age=settings.keep_days * DAY, jobs=settings.keep_jobs, requests=settings.keep_requests),
            directory=Destinations(self.devices, self.router),
            max_requests=settings.max_requests,
        )
        reader = JobReader(
            request_timeout=settings.request_timeout,
            max_requests=settings.max_requests,
            max_destination_bytes=max_destination_bytes,
        )
        limit = default_limit() if settings.max_memory is None else settings.max_memory * MIB
        memory = MemoryGuard(limit, resident_bytes, trim) if limit else None
        self.service = Service(
            store=store,
            engine=self.engine,
            reader=reader,
            outlet=self.router,
            now=self.clock.now,
            devices=self.devices,
            memory=memory,
        )
        self.outputs = Outputs(
            settings.data / OUTPUT_FOLDER,
            is_final=self.service.is_final,
            max_bytes=settings.keep_output * MIB,
            now=self.clock.now,
        )
        self.pull = Pull(self.service)
        # Whole, for its commands run in other folders.
        self._memory = Memory((settings.data / AGENT_FOLDER).resolve())
        self._worker = Worker(
            memory=self._memory,
            rights=Rights.parse(settings.commands, source=settings.source("commands"), called=COMMANDS),
            limits=OutputLimits(),
            emit=self._emit,
            info=lambda: dict(facts({})),
        )
        self._local = Local(self.service, self._worker, answer_topic(LOCALHOST, instance))
        self.router.add(self._local)
        self.router.add(self.pull)
        self.devices.current = self.engine.out_to
        self.devices.on_present.append(self.service.present)
        self.devices.on_removed.append(self.service.present)
        self.service.listen(self.outputs.tell)
        self.service.on_removed.append(self.outputs.remove)

    @property
    def registry_fault(self) -> str:
        """Why the registry can't be written; empty while it can."""
        return self.devices.unavailable or self.registry.unavailable

    def load(self) -> None:
        """Take over what the stores hold."""
        self.devices.load()
        self.service.load(self._instance)
        # A kill may come between the removal of a job and that of its output.
        self.outputs.remove([ident for ident in self.outputs.request_ids if self.service.destination_of(ident) is None])

    async def start(self, ending: contextlib.AsyncExitStack) -> None:
        """Begin to work; what ``ending`` does in the end stops it."""
        ending.push_async_callback(self.devices.close)
        ending.push_async_callback(self._memory.close)
        ending.callback(self.outputs.close)
        ending.push_async_callback(self.service.close)
        ending.push_async_callback(self._local.close)
        self.devices.start()
        self.service.start()
        said = {"connection": Connection.ONLINE.value, "facts": facts({})}
        self.devices.presence(LOCALHOST, said, self.clock.now())
        await self._local.start()
        # What was out when an earlier life ended, and does not go over the broker.
        self.service.resend(lambda request: not self.router.is_by_broker(request))

    def take_output(self, destination: str, request_id: int, payload: bytes) -> None:
        """Output came from a device; what is no output of a request of its own is dropped."""
        if self.service.destination_of(request_id) != destination:
            return
        try:
            self.outputs.append(request_id, chunks.decode(payload))
        except ValueError as error:
            logger.debug("output of %.140s is dropped: %s", destination, error,
                         extra={"event": "output_dropped", "destination": destination})

    def _emit(self, order: Order, chunk: Chunk) -> None:
        self.outputs.append(order.id, chunk)
        self.publish_output(LOCALHOST, order.id, chunks.encode(chunk))


def _publish_nothing(destination: str, request_id: int, payload: bytes) -> None:
    pass
