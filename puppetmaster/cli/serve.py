"""``puppetmaster serve``: the bundle itself, with a broker and a controller where there are none."""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
import time
from dataclasses import replace
from typing import Annotated

import typer

from puppetmaster.address import BrokerAddress, ListenAddress
from puppetmaster.cli.options import ALL, with_settings
from puppetmaster.cli.outcome import FAILED, BadUsage, say
from puppetmaster.cli.processes import ChildFailed, Children
from puppetmaster.errors import BusError
from puppetmaster.settings import Settings

LOCAL_HOSTS = frozenset({"localhost", "127.0.0.1", "::1"})

START_TIMEOUT = 15.0
"""Seconds for the embedded broker to accept connections."""

_POLL = 0.1

DEFAULT_HTTP = ListenAddress("127.0.0.1", 8080)


@with_settings(*ALL)
def serve(
    settings: Settings,
    embedded: Annotated[
        bool, typer.Option("--embedded", help="Start a broker and a controller too, where --broker points.")
    ] = False,
    plain: Annotated[
        bool, typer.Option("--plain", hidden=True, help="As a bundle: HTTP only where a setting says so.")
    ] = False,
) -> None:
    """Run puppetmaster as a bundle beside a broker and a controller, until Ctrl-C.

    The page is at http://127.0.0.1:8080 unless --http says otherwise.

    \b
    Examples:
      puppetmaster serve --broker mqtt://localhost:1883
      puppetmaster serve --embedded
      puppetmaster serve --http off
    """
    if settings.source("http") == "default" and not plain:
        settings = replace(settings, http=DEFAULT_HTTP)
    raise typer.Exit(_serve_embedded(settings) if embedded else _run_bundle(settings))


def _run_bundle(settings: Settings) -> int:
    from puppetmaster.bundle import run

    return run(settings)


def _serve_embedded(settings: Settings) -> int:
    address = settings.broker
    host = "127.0.0.1" if address.host == "localhost" else address.host
    _check_address(address)
    _check_port(host, address.port)
    _end_on_signals()
    with Children() as children:
        children.start("broker", ["broker", "--port", str(address.port), "--host", host, "--log", settings.log])
        _wait_for_broker(children, host, address.port)
        children.start("controller", ["controller", "--broker", address.url(), "--log", settings.log])
        guard = _Guard(children)
        status = _run_bundle(settings)
        return FAILED if guard.ended() else status


def _check_address(address: BrokerAddress) -> None:
    """See that the embedded broker can be the one that the settings name."""
    if address.host not in LOCAL_HOSTS:
        raise BadUsage("--embedded", f"it starts a broker on this machine, and --broker names {address.host}")
    if address.tls or address.username:
        raise BadUsage("--embedded", "its broker knows neither TLS nor users: name it mqtt://localhost:PORT")


def _check_port(host: str, port: int) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        socket.create_server((host, port), family=family).close()
    except OSError as error:
        advice = "leave --embedded out to use the broker there, or name another port (--broker mqtt://localhost:PORT)"
        raise BadUsage("--embedded", f"port {port} can't be had ({os.strerror(error.errno or 0)}): {advice}") from None


def _end_on_signals() -> None:
    """Let signals that come before or beside the bundle's own handling of them end the children too."""
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    signal.signal(signal.SIGHUP, lambda number, frame: os.kill(os.getpid(), signal.SIGTERM))


def _wait_for_broker(children: Children, host: str, port: int) -> None:
    deadline = time.monotonic() + START_TIMEOUT
    while True:
        children.check()
        try:
            socket.create_connection((host, port), timeout=1.0).close()
        except OSError:
            if time.monotonic() > deadline:
                raise BusError(f"the broker accepts no connection on port {port}") from None
            time.sleep(_POLL)
        else:
            children.check()
            return


class _Guard:
    """Ends this process when a child ends, for without it nothing works."""

    def __init__(self, children: Children) -> None:
        self._children = children
        self._over = threading.Event()
        self._failed = False
        self._thread = threading.Thread(target=self._watch, name="guard", daemon=True)
        self._thread.start()

    def _watch(self) -> None:
        while not self._over.wait(_POLL):
            try:
                self._children.check()
            except ChildFailed as failure:
                self._failed = True
                say(f"Error: {failure}")
                os.kill(os.getpid(), signal.SIGTERM)
                return

    def ended(self) -> bool:
        """Stop looking; whether a child had ended."""
        self._over.set()
        self._thread.join()
        return self._failed
