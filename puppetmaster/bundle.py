"""Puts the bundle together and runs it: the one place that makes clock, store, engine, service and edges."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from socket import socket

from prometheus_client import Histogram

from puppetmaster.accounts.audit import FILE_NAME as AUDIT_FILE
from puppetmaster.accounts.audit import Audit
from puppetmaster.accounts.registry import Accounts
from puppetmaster.core import Core
from puppetmaster.edges.connection import Connection
from puppetmaster.edges.sanji import Puppetmaster, SanjiEdge
from puppetmaster.feeds import Feeds
from puppetmaster.metrics import commit_times
from puppetmaster.observer import Observer
from puppetmaster.process import cancel, instance_of, listen, open_registry, open_store, run_to_end, stop_signal, until
from puppetmaster.settings import Settings
from puppetmaster.store import TinyStore
from puppetmaster.systems import Systems
from puppetmaster.tunnels import Tunnels
from puppetmaster.version import __version__
from puppetmaster.wire import Codec, DeviceTunnel, RemoteBundle, answer_topic

logger = logging.getLogger(__name__)

TUNNEL_BYTES = 63
"""The longest tunnel that a Sanji controller answers to."""


def run(settings: Settings) -> int:
    """Run the bundle until SIGINT or SIGTERM; returns the exit code of the process."""
    return run_to_end(_run(settings), settings.log)


async def _run(settings: Settings) -> int:
    async with contextlib.AsyncExitStack() as ending:
        # First of all: a port that is taken, or a server that everybody could reach, is no reason to touch the store.
        listening = listen(settings, settings.http) if settings.http is not None else None
        if listening is not None:
            ending.callback(listening.close)
        times = commit_times()
        store = open_store(settings.data, times.observe)
        ending.push_async_callback(store.close)
        registry = open_registry(settings.data)
        ending.push_async_callback(registry.close)
        return await _serve(settings, store, registry, times, listening)


async def _serve(
    settings: Settings, store: TinyStore, registry: TinyStore, times: Histogram, listening: socket | None
) -> int:
    if settings.http is not None:
        from puppetmaster import web  # half of the program: loaded where HTTP is served, before anything has begun
    instance = instance_of(settings, store)
    through_controller = settings.channel == "controller"
    codec = Codec(instance, RemoteBundle() if through_controller else DeviceTunnel(settings.topic))
    tunnels = Tunnels(settings.broker, codec, qos=settings.qos)
    core = Core(
        settings,
        store,
        registry,
        tunnels,
        instance,
        # The controller locks the remote bundle while it works, so there one request goes at a time.
        window=1 if through_controller else settings.window,
        max_destination_bytes=TUNNEL_BYTES - len(answer_topic("", instance)) if through_controller else None,
    )
    service, clock = core.service, core.clock
    tunnels.is_ours = core.router.is_by_broker
    tunnels.seen = lambda destinations: core.devices.seen_all(destinations, clock.now())
    core.publish_output = tunnels.publish_output
    observer = Observer(
        settings.broker,
        instance,
        core.devices,
        clock.now,
        on_output=core.take_output,
        on_known=service.know_who_is_away,
    )
    core.devices.on_present.append(tunnels.present)
    core.devices.on_online.append(tunnels.heard_online)
    core.devices.on_removed.append(observer.clear_presence)
    systems = Systems(core, settings)
    tunnels.serve(service)
    core.load()
    sanji = Puppetmaster.make(
        Connection(settings.broker, qos=settings.qos),
        service=service,
        loop=asyncio.get_running_loop(),
        on_registered=lambda: _controller_restarted(core, codec),
    )
    edge = SanjiEdge(sanji)
    # After the bundle was made: the SDK's constructor puts a handler of its own on SIGINT.
    stop = stop_signal()
    logger.info("puppetmaster %s, instance %s, data in %s, broker %s", __version__, instance, settings.data,
                settings.broker,
                extra={"event": "started", "version": __version__, "instance": instance, "data": str(settings.data)})
    feeds = Feeds()
    service.listen(feeds.tell)
    # What was begun first ends last: the last changes are saved before they are told, and told before we leave.
    async with contextlib.AsyncExitStack() as ending:
        ending.push_async_callback(tunnels.close)
        ending.push_async_callback(observer.close)
        await core.start(ending)
        for part in (tunnels, observer):
            connecting = asyncio.create_task(part.start(), name="connecting")
            ending.push_async_callback(cancel, connecting)
        ending.push_async_callback(edge.close)
        edge.start()
        accounts, audit = Accounts(settings.data, now=clock.now), Audit(settings.data / AUDIT_FILE)
        systems.start(accounts, audit)
        if settings.http is not None and listening is not None:
            made = web.Made(
                instance=instance,
                core=core,
                store=store,
                tunnels=tunnels,
                sanji=sanji,
                feeds=feeds,
                systems=systems,
                accounts=accounts,
                audit=audit,
                times=times,
            )
            http = web.make_server(settings, settings.http, listening, made)
            ending.push_async_callback(http.close)
            await http.start()
            if settings.insecure:
                logger.warning("whoever reaches %s may do all until there is an account (--insecure)", settings.http,
                               extra={"event": "open_to_all"})
        ending.push_async_callback(systems.close)
        ending.callback(feeds.close)
        ending.callback(core.outputs.end_readers)
        failed = await until(stop, service)
        logger.info("stopping", extra={"event": "stopping"})
    return 1 if failed else 0


def _controller_restarted(core: Core, codec: Codec) -> None:
    count = core.service.resend(
        lambda request: core.router.is_by_broker(request) and codec.through_controller(request)
    )
    if count:
        logger.info("the controller had to be told of us again: %d requests through it are sent again", count,
                    extra={"event": "controller_resent", "count": count})
