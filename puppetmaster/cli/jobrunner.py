"""``puppetmaster jobrunner``: the API of jobrunner alone, set by its variables."""

from __future__ import annotations

import contextlib
import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from puppetmaster.address import ListenAddress
from puppetmaster.agent.rights import ALL, OFF
from puppetmaster.cli.options import with_settings
from puppetmaster.cli.outcome import BadUsage
from puppetmaster.settings import Settings

if TYPE_CHECKING:
    from puppetmaster.core import Core

PORT_ENV, HOST_ENV = "JOBRUNNER_PORT", "JOBRUNNER_HOSTNAME"

DEFAULT_PORT = 8080

LOOPBACK, EVERYWHERE = "127.0.0.1", "0.0.0.0"

DEFAULT_DATA = Path("data/jobrunner")
"""The folder of the store: its own, for a bundle may run beside it."""

SETTINGS = (
    "data", "commands", "insecure", "http_cert", "http_key", "trusted_proxies", "keep_output", "keep_days", "keep_jobs",
    "max_memory", "log",
)  # fmt: skip


@with_settings(*SETTINGS, defaults={"data": str(DEFAULT_DATA), "commands": ALL})
def jobrunner(settings: Settings) -> None:
    """Run commands on this machine for callers over HTTP, with their output as it comes, until Ctrl-C.

    JOBRUNNER_PORT is the port (8080), JOBRUNNER_HOSTNAME the address. Without one it is the loopback address as long as
    there is no account, else every address of this machine. Another one needs an account (puppetmaster accounts add
    NAME --data data/jobrunner) or --insecure. Commands are allowed unless --commands says otherwise.

    \b
    Examples:
      JOBRUNNER_PORT=9000 puppetmaster jobrunner
      curl http://localhost:9000/ -d '{"CommandLine": "uptime"}'
    """
    if settings.source("data") == "default":
        settings = replace(settings, data=DEFAULT_DATA)
    if settings.source("commands") == "default":
        settings = replace(settings, commands=ALL)
    if os.environ.get(HOST_ENV, "").strip():
        settings = replace(settings, sources={**settings.sources, "http": f"environment {HOST_ENV}"})
    raise typer.Exit(_run(settings, _address(settings)))


def _run(settings: Settings, address: ListenAddress) -> int:
    from puppetmaster.alone import run_alone
    from puppetmaster.edges.http.runner import make_app

    def make(core: Core, ending: contextlib.AsyncExitStack) -> Any:
        return make_app(service=core.service, outputs=core.outputs, commands=settings.commands.lower() != OFF)

    return run_alone(settings, address, make, advice=f"name another port ({PORT_ENV}=8081), or address ({HOST_ENV})")


def _address(settings: Settings) -> ListenAddress:
    host = os.environ.get(HOST_ENV, "").strip() or _default_host(settings)
    text = os.environ.get(PORT_ENV, "").strip() or str(DEFAULT_PORT)
    if not (text.isascii() and text.isdigit() and int(text[:6]) <= 65535):
        raise BadUsage(PORT_ENV, f"it is a port from 0 to 65535, not {text!r:.40}")
    try:
        return ListenAddress.parse(f"[{host}]:{text}" if ":" in host else f"{host}:{text}")
    except ValueError:
        raise BadUsage(HOST_ENV, f"{host!r:.80} is no address") from None


def _default_host(settings: Settings) -> str:
    """The original took calls on every address; here that needs an account."""
    from puppetmaster.accounts.registry import Accounts

    return EVERYWHERE if Accounts(settings.data).any() else LOOPBACK
