"""Puts what the bundle serves over HTTP together; loaded only where HTTP is served, for it is half of the program."""

from __future__ import annotations

from dataclasses import dataclass
from socket import socket

from prometheus_client import Histogram

from puppetmaster.accounts.audit import Audit
from puppetmaster.accounts.registry import Accounts
from puppetmaster.address import ListenAddress
from puppetmaster.core import Core
from puppetmaster.edges.http.app import Site, make_app
from puppetmaster.edges.http.server import HttpServer
from puppetmaster.edges.http.status import Parts
from puppetmaster.edges.sanji import Puppetmaster
from puppetmaster.feeds import Feeds
from puppetmaster.metrics import Metrics, Sources
from puppetmaster.process_memory import resident_bytes
from puppetmaster.settings import Settings
from puppetmaster.store import TinyStore
from puppetmaster.systems import Systems
from puppetmaster.tunnels import Tunnels
from puppetmaster.version import __version__

HOUR = 3600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """The parts of the bundle that HTTP serves or tells of."""

    instance: str
    core: Core
    store: TinyStore
    tunnels: Tunnels
    sanji: Puppetmaster
    feeds: Feeds
    systems: Systems
    accounts: Accounts
    audit: Audit
    times: Histogram


def make_server(settings: Settings, address: ListenAddress, listening: socket, made: Made) -> HttpServer:
    """The server, not yet started.

    :param listening: the socket, bound to the address.
    """
    core = made.core
    metrics = Metrics(
        version=__version__,
        instance=made.instance,
        sources=_sources(core, made.store, made.tunnels, made.sanji, made.feeds),
        commit_times=made.times,
    )
    site = Site(
        service=core.service,
        feeds=made.feeds,
        outputs=core.outputs,
        metrics=metrics,
        parts=_parts(made.instance, core, made.tunnels, made.sanji),
        accounts=made.accounts,
        audit=made.audit,
        listen=address,
        now=core.clock.now,
        lifetime=settings.login_hours * HOUR,
        insecure=settings.insecure,
        origins=settings.cors,
        mounts=made.systems.apps,
    )
    return HttpServer(
        make_app(site),
        listening,
        cert=settings.http_cert,
        key=settings.http_key,
        proxies=settings.trusted_proxies,
    )


def _parts(instance: str, core: Core, tunnels: Tunnels, sanji: Puppetmaster) -> Parts:
    service, memory = core.service, core.service.memory
    return Parts(
        instance=instance,
        broker=lambda: tunnels.connected,
        controller=lambda: sanji.registered,
        store=lambda: service.unavailable,
        registry=lambda: core.registry_fault,
        memory=lambda: memory.shortage if memory is not None else "",
    )


def _sources(
    core: Core, store: TinyStore, tunnels: Tunnels, sanji: Puppetmaster, feeds: Feeds
) -> Sources:
    engine, service, memory = core.engine, core.service, core.service.memory
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
        registry_writable=lambda: not core.registry_fault,
        memory_used=resident_bytes,
        memory_limit=lambda: memory.limit if memory is not None else 0,
        memory_refused=lambda: memory.refused if memory is not None else 0,
        watchers=lambda: feeds.count,
        devices=core.devices.counts,
    )
