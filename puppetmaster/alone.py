"""Runs one application of another system by itself: on a store of its own, without a broker or a controller."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable

from puppetmaster.accounts.audit import FILE_NAME as AUDIT_FILE
from puppetmaster.accounts.audit import Audit
from puppetmaster.accounts.registry import Accounts
from puppetmaster.address import ListenAddress
from puppetmaster.channels.router import NoTunnels
from puppetmaster.core import Core
from puppetmaster.edges.http.access import Access, App, Gate
from puppetmaster.edges.http.server import HttpServer
from puppetmaster.errors import ListenError
from puppetmaster.process import (
    instance_of,
    listen,
    open_registry,
    open_socket,
    open_store,
    run_to_end,
    stop_signal,
    until,
)
from puppetmaster.settings import Settings
from puppetmaster.version import __version__

logger = logging.getLogger(__name__)

MakeApp = Callable[[Core, contextlib.AsyncExitStack], App]
"""Makes the application; what it begins it has ended by the stack."""


def run_alone(
    settings: Settings, address: ListenAddress, make: MakeApp, *, advice: str, own_access: bool = False
) -> int:
    """Serve an application at the root of an address until SIGINT or SIGTERM; returns the exit code of the process.

    :param advice: what to do when the address can't be had.
    :param own_access: whether it knows its callers itself. Else it is open on a loopback address as long as no account
        is made, and needs a login of puppetmaster's own accounts everywhere else.
    """
    return run_to_end(_run(settings, address, make, advice, own_access), settings.log)


async def _run(settings: Settings, address: ListenAddress, make: MakeApp, advice: str, own_access: bool) -> int:
    # The stores are open to the end, whatever else fails.
    async with contextlib.AsyncExitStack() as stores:
        try:
            listening = open_socket(settings, address) if own_access else listen(settings, address)
        except ListenError as error:
            raise ListenError(error.address, error.reason, advice) from None
        stores.callback(listening.close)
        store = open_store(settings.data)
        stores.push_async_callback(store.close)
        registry = open_registry(settings.data)
        stores.push_async_callback(registry.close)
        core = Core(settings, store, registry, NoTunnels(), instance_of(settings, store), window=settings.window)
        core.load()
        core.service.link(True)
        stop = stop_signal()
        logger.info("puppetmaster %s, data in %s", __version__, settings.data,
                    extra={"event": "started", "version": __version__, "data": str(settings.data)})
        async with contextlib.AsyncExitStack() as ending:
            await core.start(ending)
            # Ends before the server does: who waits for something new gets a last answer.
            own = contextlib.AsyncExitStack()
            app = make(core, own)
            http = HttpServer(
                app if own_access else _gated(app, settings, address, core),
                listening,
                cert=settings.http_cert,
                key=settings.http_key,
                proxies=settings.trusted_proxies,
            )
            ending.push_async_callback(http.close)
            ending.push_async_exit(own)
            await http.start()
            ending.callback(core.outputs.end_readers)
            failed = await until(stop, core.service)
            logger.info("stopping", extra={"event": "stopping"})
        return 1 if failed else 0


def _gated(app: App, settings: Settings, address: ListenAddress, core: Core) -> App:
    now = core.clock.now
    access = Access(Accounts(settings.data, now=now), address, now, insecure=settings.insecure, has_pages=False)
    return Gate(app, access, Audit(settings.data / AUDIT_FILE), now)
