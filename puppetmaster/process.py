"""What a process of ours needs around its parts: a socket, stores, signals, and an end in order."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import resource
import secrets
import shlex
import shutil
import signal
from collections.abc import Coroutine
from pathlib import Path
from socket import socket
from typing import Any

from puppetmaster import loop
from puppetmaster.accounts.registry import Accounts
from puppetmaster.address import ListenAddress
from puppetmaster.documents import META, META_ID
from puppetmaster.errors import PuppetmasterError, SettingsError, StoreUnavailable
from puppetmaster.logs import start_logging
from puppetmaster.service import Service
from puppetmaster.settings import Settings, options
from puppetmaster.store import Store, TinyStore
from puppetmaster.store.tiny import OnCommit

logger = logging.getLogger(__name__)

REGISTRY = "registry"
"""The second store, beside that of the jobs: devices speak all the time, and must not fill the jobs' journal."""

COLLECT_AFTER = (5_000, 5, 1_000)
"""How many new objects the collector lets gather, and how many of its rounds, before it walks the older ones.

Nearly all that comes and goes here is freed without it, and what it walks are the requests of large jobs: with
Python's own numbers it walked all of them again for every quarter that they grew, up to 70 ms at a time. A round walks
5,000 objects now, a large one 30,000 (some 5 ms), and all of them are walked only by :func:`until`."""

COLLECT_INTERVAL = 600.0
"""Seconds between two looks of the collector at everything, when no job runs ..."""

COLLECT_LATEST = 6
"""... and how many such intervals it waits for that."""

FACTORY = Path(__file__).resolve().parent.parent / "data" / "puppetmaster.json.factory"
"""What a new installation starts from; a package without a repository around it starts empty."""


def run_to_end(main: Coroutine[Any, Any, int], log: str) -> int:
    """Run until SIGINT or SIGTERM; returns the exit code of the process."""
    start_logging(log)
    gc.set_threshold(*COLLECT_AFTER)
    try:
        return loop.run(main)
    except PuppetmasterError as error:
        logger.critical("can't run: %s", error, extra={"event": "cannot_run"})
        return 1


def listen(settings: Settings, address: ListenAddress) -> socket:
    """The socket that HTTP is served on.

    :raises SettingsError: when everybody could reach it, and nobody would have to log in.
    :raises ListenError: when the address can't be had.
    """
    if not (address.is_loopback or settings.insecure or Accounts(settings.data).any()):
        raise SettingsError(
            "http",
            settings.source("http"),
            f"{address} can be reached from other machines, and there is no account: make one "
            f"(puppetmaster accounts add NAME{_data_flag(settings)}), or let everybody do everything (--insecure)",
        )
    return open_socket(settings, address)


def _data_flag(settings: Settings) -> str:
    """What tells another command of the same folder."""
    is_default = settings.data == next(option.default for option in options() if option.name == "data")
    return "" if is_default else f" --data {shlex.quote(str(settings.data))}"


def open_socket(settings: Settings, address: ListenAddress) -> socket:
    """The same for a server with accounts of its own."""
    from puppetmaster.edges.http.server import bind, check_certificate

    if settings.http_cert is not None and settings.http_key is not None:
        check_certificate(settings.http_cert, settings.http_key)
    _allow_many_files()
    return bind(address)


def _allow_many_files() -> None:
    """Take as many file descriptors as the system gives: each watcher needs one."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def open_store(data: Path, on_commit: OnCommit | None = None) -> TinyStore:
    """Open the store of the jobs; a new one begins with what the factory gives.

    :raises StoreUnavailable: when the folder can't be made, read or written; and what else the store raises.
    """
    try:
        data.mkdir(parents=True, exist_ok=True)
        factory = data / FACTORY.name
        if FACTORY.is_file() and not factory.exists() and not (data / "puppetmaster.json").exists():
            shutil.copyfile(FACTORY, factory)
    except OSError as error:
        raise StoreUnavailable(f"{error.strerror or error} ({error.filename2 or error.filename or data})") from error
    return TinyStore.open(data, on_commit=on_commit)


def open_registry(data: Path) -> TinyStore:
    """Open the store of what is known beside the jobs."""
    return TinyStore.open(data, name=REGISTRY)


def stop_signal() -> asyncio.Event:
    """Is set by SIGINT and SIGTERM."""
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    return stop


async def until(stop: asyncio.Event, service: Service) -> bool:
    """Wait for the signal to stop, or for the end of the service's work, which is a fault in the program.

    All has started by now: modules, routes and what was stored stay, and the collector need not look at them again.
    """
    gc.collect()
    gc.freeze()
    stopping = asyncio.create_task(stop.wait(), name="stop")
    assert service.cycle is not None
    waited = 0
    ends = {stopping, service.cycle}
    while not (await asyncio.wait(ends, timeout=COLLECT_INTERVAL, return_when=asyncio.FIRST_COMPLETED))[0]:
        waited += 1
        if service.is_idle or waited >= COLLECT_LATEST:
            gc.collect()
            waited = 0
    stopping.cancel()
    if not service.cycle.done():
        return False
    logger.critical("the service failed, restart the bundle", exc_info=service.cycle.exception(),
                    extra={"event": "service_failed"})
    return True


def instance_of(settings: Settings, store: Store) -> str:
    """The name of this puppetmaster: the one that was set, or the one it got at its first start."""
    stored: str | None = (store.get(META, META_ID) or {}).get("instance")
    if settings.instance and stored and settings.instance != stored:
        logger.warning("the instance was %s and is %s now: answers to what is out come to the old one", stored,
                       settings.instance, extra={"event": "instance_changed", "instance": settings.instance})
    return settings.instance or stored or secrets.token_hex(4)


async def cancel(task: asyncio.Task[None]) -> None:
    """End a task, and wait for that."""
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
