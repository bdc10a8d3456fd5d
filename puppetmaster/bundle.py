"""Puts the bundle together and runs it: the one place that makes clock, store, engine, service and edges."""

from __future__ import annotations

import asyncio
import logging
import secrets
import shutil
import signal
from pathlib import Path

from puppetmaster import loop
from puppetmaster.documents import META, META_ID
from puppetmaster.edges.connection import Connection
from puppetmaster.edges.sanji import Puppetmaster, SanjiEdge
from puppetmaster.engine import Engine
from puppetmaster.errors import PuppetmasterError
from puppetmaster.job_document import JobReader
from puppetmaster.logs import start_logging
from puppetmaster.policies import Retention
from puppetmaster.service import Service
from puppetmaster.settings import Settings
from puppetmaster.store import Store, TinyStore
from puppetmaster.times import Clock
from puppetmaster.tunnels import Tunnels
from puppetmaster.version import __version__
from puppetmaster.wire import Codec, DeviceTunnel, RemoteBundle, answer_topic

logger = logging.getLogger(__name__)

DAY = 86400.0

FACTORY = Path(__file__).resolve().parent.parent / "data" / "puppetmaster.json.factory"
"""What a new installation starts from; a package without a repository around it starts empty."""

TUNNEL_BYTES = 63
"""The longest tunnel that a Sanji controller answers to."""


def run(settings: Settings) -> int:
    """Run the bundle until SIGINT or SIGTERM; returns the exit code of the process."""
    start_logging(settings.log)
    try:
        return loop.run(_run(settings))
    except PuppetmasterError as error:
        logger.critical("can't run: %s", error)
        return 1


async def _run(settings: Settings) -> int:
    store = _open(settings.data)
    try:
        return await _serve(settings, store)
    finally:
        await store.close()


def _open(data: Path) -> TinyStore:
    data.mkdir(parents=True, exist_ok=True)
    factory = data / FACTORY.name
    if FACTORY.is_file() and not factory.exists() and not (data / "puppetmaster.json").exists():
        shutil.copyfile(FACTORY, factory)
    return TinyStore.open(data)


async def _serve(settings: Settings, store: Store) -> int:
    instance = _instance(settings, store)
    through_controller = settings.channel == "controller"
    codec = Codec(instance, RemoteBundle() if through_controller else DeviceTunnel(settings.topic))
    tunnels = Tunnels(settings.broker, codec, qos=settings.qos)
    # The controller locks the remote bundle while it works, so there one request goes at a time.
    engine = Engine(
        window=1 if through_controller else settings.window,
        retention=Retention(age=settings.keep_days * DAY, jobs=settings.keep_jobs, requests=settings.keep_requests),
    )
    reader = JobReader(
        request_timeout=settings.request_timeout,
        max_requests=settings.max_requests,
        max_destination_bytes=TUNNEL_BYTES - len(answer_topic("", instance)) if through_controller else None,
    )
    service = Service(store=store, engine=engine, reader=reader, outlet=tunnels, now=Clock().now)
    tunnels.serve(service)
    service.load(instance)
    edge = SanjiEdge(
        Puppetmaster.make(
            Connection(settings.broker, qos=settings.qos),
            service=service,
            loop=asyncio.get_running_loop(),
            on_registered=lambda: _controller_restarted(service, codec),
        )
    )
    # After the bundle was made: the SDK's constructor puts a handler of its own on SIGINT.
    stop = _stop_signal()
    logger.info("puppetmaster %s, instance %s, data in %s, broker %s", __version__, instance, settings.data,
                settings.broker)
    service.start()
    connecting = asyncio.create_task(tunnels.start(), name="tunnels-start")
    edge.start()
    failed = await _until(stop, service)
    logger.info("stopping")
    await edge.close()
    connecting.cancel()
    await asyncio.gather(connecting, return_exceptions=True)
    # The last changes are saved before they are told, and told before we leave.
    await service.close()
    await tunnels.close()
    return 1 if failed else 0


def _stop_signal() -> asyncio.Event:
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    return stop


async def _until(stop: asyncio.Event, service: Service) -> bool:
    """Wait for the signal to stop, or for the end of the service's work, which is a fault in the program."""
    stopping = asyncio.create_task(stop.wait(), name="stop")
    assert service.cycle is not None
    await asyncio.wait({stopping, service.cycle}, return_when=asyncio.FIRST_COMPLETED)
    stopping.cancel()
    if not service.cycle.done():
        return False
    logger.critical("the service failed, restart the bundle", exc_info=service.cycle.exception())
    return True


def _instance(settings: Settings, store: Store) -> str:
    stored: str | None = (store.get(META, META_ID) or {}).get("instance")
    if settings.instance and stored and settings.instance != stored:
        logger.warning("the instance was %s and is %s now: answers to what is out come to the old one", stored,
                       settings.instance)
    return settings.instance or stored or secrets.token_hex(4)


def _controller_restarted(service: Service, codec: Codec) -> None:
    count = service.resend(codec.through_controller)
    if count:
        logger.warning("the controller had to be told of us again: %d requests through it are sent again", count)
