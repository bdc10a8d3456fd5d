"""Puts the bundle together and runs it: the one place that makes clock, store, engine, service and edges."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import resource
import secrets
import shutil
import signal
from pathlib import Path
from socket import socket

from prometheus_client import Histogram

from puppetmaster import loop
from puppetmaster.accounts.audit import FILE_NAME as AUDIT_FILE
from puppetmaster.accounts.audit import Audit
from puppetmaster.accounts.registry import Accounts
from puppetmaster.documents import META, META_ID
from puppetmaster.edges.connection import Connection
from puppetmaster.edges.http.app import Site, make_app
from puppetmaster.edges.http.server import HttpServer, bind, check_certificate
from puppetmaster.edges.http.status import Parts
from puppetmaster.edges.sanji import Puppetmaster, SanjiEdge
from puppetmaster.engine import Engine
from puppetmaster.errors import PuppetmasterError, SettingsError
from puppetmaster.feeds import Feeds
from puppetmaster.job_document import JobReader
from puppetmaster.logs import start_logging
from puppetmaster.metrics import Metrics, Sources, commit_times
from puppetmaster.policies import Retention
from puppetmaster.service import Service
from puppetmaster.settings import Settings
from puppetmaster.store import Store, TinyStore
from puppetmaster.store.tiny import OnCommit
from puppetmaster.times import Clock
from puppetmaster.tunnels import Tunnels
from puppetmaster.version import __version__
from puppetmaster.wire import Codec, DeviceTunnel, RemoteBundle, answer_topic

logger = logging.getLogger(__name__)

HOUR, DAY = 3600.0, 86400.0

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
    # First of all: a port that is taken, or a server that everybody could reach, is no reason to touch the store.
    listening = _listen(settings)
    times = commit_times()
    try:
        store = _open(settings.data, times.observe)
        try:
            return await _serve(settings, store, times, listening)
        finally:
            await store.close()
    finally:
        if listening is not None:
            listening.close()


def _listen(settings: Settings) -> socket | None:
    """The socket that HTTP is served on, if it is."""
    listen = settings.http
    if listen is None:
        return None
    if not (listen.is_loopback or settings.insecure or Accounts(settings.data).any()):
        raise SettingsError(
            "http",
            settings.source("http"),
            f"{listen} can be reached from other machines, and there is no account: make one "
            "(puppetmaster accounts add NAME), or let everybody do everything (--insecure)",
        )
    if settings.http_cert is not None and settings.http_key is not None:
        check_certificate(settings.http_cert, settings.http_key)
    _allow_many_files()
    return bind(listen)


def _allow_many_files() -> None:
    """Take as many file descriptors as the system gives: each watcher needs one."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def _open(data: Path, on_commit: OnCommit) -> TinyStore:
    data.mkdir(parents=True, exist_ok=True)
    factory = data / FACTORY.name
    if FACTORY.is_file() and not factory.exists() and not (data / "puppetmaster.json").exists():
        shutil.copyfile(FACTORY, factory)
    return TinyStore.open(data, on_commit=on_commit)


async def _serve(settings: Settings, store: TinyStore, times: Histogram, listening: socket | None) -> int:
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
    clock = Clock()
    service = Service(store=store, engine=engine, reader=reader, outlet=tunnels, now=clock.now)
    tunnels.serve(service)
    service.load(instance)
    sanji = Puppetmaster.make(
        Connection(settings.broker, qos=settings.qos),
        service=service,
        loop=asyncio.get_running_loop(),
        on_registered=lambda: _controller_restarted(service, codec),
    )
    edge = SanjiEdge(sanji)
    # After the bundle was made: the SDK's constructor puts a handler of its own on SIGINT.
    stop = _stop_signal()
    logger.info("puppetmaster %s, instance %s, data in %s, broker %s", __version__, instance, settings.data,
                settings.broker)
    feeds = Feeds()
    service.listen(feeds.tell)
    # What was begun first ends last: the last changes are saved before they are told, and told before we leave.
    async with contextlib.AsyncExitStack() as ending:
        ending.push_async_callback(tunnels.close)
        ending.push_async_callback(service.close)
        service.start()
        connecting = asyncio.create_task(tunnels.start(), name="tunnels-start")
        ending.push_async_callback(_cancel, connecting)
        ending.push_async_callback(edge.close)
        edge.start()
        if listening is not None:
            parts = _parts(instance, service, tunnels, sanji)
            metrics = Metrics(
                version=__version__,
                instance=instance,
                sources=_sources(engine, service, store, tunnels, sanji, feeds),
                commit_times=times,
            )
            app = make_app(_site(settings, service, feeds, metrics, clock, parts))
            http = HttpServer(
                app,
                listening,
                cert=settings.http_cert,
                key=settings.http_key,
                proxies=settings.trusted_proxies,
            )
            ending.push_async_callback(http.close)
            await http.start()
            if settings.insecure:
                logger.warning("whoever reaches %s may do all until there is an account (--insecure)", settings.http)
        ending.callback(feeds.close)
        failed = await _until(stop, service)
        logger.info("stopping")
    return 1 if failed else 0


async def _cancel(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


def _site(
    settings: Settings, service: Service, feeds: Feeds, metrics: Metrics, clock: Clock, parts: Parts
) -> Site:
    assert settings.http is not None
    return Site(
        service=service,
        feeds=feeds,
        metrics=metrics,
        parts=parts,
        accounts=Accounts(settings.data, now=clock.now),
        audit=Audit(settings.data / AUDIT_FILE),
        listen=settings.http,
        now=clock.now,
        lifetime=settings.login_hours * HOUR,
        insecure=settings.insecure,
        origins=settings.cors,
    )


def _parts(instance: str, service: Service, tunnels: Tunnels, sanji: Puppetmaster) -> Parts:
    return Parts(
        instance=instance,
        broker=lambda: tunnels.connected,
        controller=lambda: sanji.registered,
        store=lambda: service.unavailable,
    )


def _sources(
    engine: Engine, service: Service, store: TinyStore, tunnels: Tunnels, sanji: Puppetmaster, feeds: Feeds
) -> Sources:
    return Sources(
        jobs=engine.jobs.values,
        requests_ended=lambda: engine.ended_counts,
        requests_sent=lambda: engine.sent_count,
        answers_received=lambda: tunnels.received,
        answers_dropped=lambda: service.dropped,
        window_used=lambda: engine.out_count,
        window_size=lambda: engine.window_size,
        commits=lambda: store.commits,
        bytes_written=lambda: store.bytes_written,
        broker_reconnects=lambda: tunnels.reconnects,
        broker_connected=lambda: tunnels.connected,
        controller_registered=lambda: sanji.registered,
        store_writable=lambda: not service.unavailable,
        watchers=lambda: feeds.count,
    )


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
