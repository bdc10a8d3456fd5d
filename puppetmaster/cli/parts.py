"""``puppetmaster controller``, ``broker`` and ``simulate``: the parts around a puppetmaster, for who has none."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Protocol

import typer

from puppetmaster.cli.destinations import expand
from puppetmaster.cli.options import BROKER, Json, with_settings
from puppetmaster.cli.outcome import BadUsage, say
from puppetmaster.cli.running import serve_until_signal
from puppetmaster.settings import Settings

if TYPE_CHECKING:
    from puppetmaster.embedded.devices import Fleet

LISTENING = "devices are listening"
"""What ``simulate`` says once every message to a device is answered."""

_BEHAVIOUR = "Behaviour of the devices"


class BrokerKind(str, Enum):
    """The brokers to choose from."""

    AUTO = "auto"
    MOSQUITTO = "mosquitto"
    AMQTT = "amqtt"


class _Part(Protocol):
    async def start(self, timeout: float | None = None) -> None: ...

    async def close(self) -> None: ...


@with_settings(*BROKER, "log")
def controller(
    settings: Settings,
    local_id: Annotated[
        str | None, typer.Option(metavar="NAME", help="Listen on /NAME/controller as well, as a device does.")
    ] = None,
) -> None:
    """Run a Sanji controller, for a machine that has none. It waits for the broker.

    \b
    Example:
      puppetmaster controller --broker mqtt://localhost
    """
    from puppetmaster.embedded.controller import Controller

    try:
        part = Controller(settings.broker, local_id=local_id)
    except ValueError as error:
        raise BadUsage("--local-id", str(error)) from None
    serve_until_signal(_serve(part))


@with_settings("log")
def broker(
    settings: Settings,
    port: Annotated[int, typer.Option(min=1, max=65535, metavar="PORT", help="The TCP port.")] = 1883,
    host: Annotated[str, typer.Option(metavar="ADDRESS", help="The address to listen on.")] = "127.0.0.1",
    kind: Annotated[
        BrokerKind, typer.Option(help="auto: Mosquitto where it is installed, else amqtt.")
    ] = BrokerKind.AUTO,
) -> None:
    """Run an MQTT broker that everybody on this machine may use.

    \b
    Example:
      puppetmaster broker --port 1883
    """
    from puppetmaster.embedded.broker import find_mosquitto, run_foreground

    if kind is BrokerKind.MOSQUITTO and find_mosquitto() is None:
        raise BadUsage("--kind", "mosquitto is not installed here; amqtt is always there")
    raise typer.Exit(run_foreground(port, host, "amqtt" if kind is BrokerKind.AMQTT else "mosquitto"))


def _share(flag: str, help: str) -> Any:
    return typer.Option(flag, min=0, max=1, metavar="SHARE", help=help, rich_help_panel=_BEHAVIOUR)


@with_settings(*BROKER, "topic", "log")
def simulate(
    settings: Settings,
    devices: Annotated[
        int | None, typer.Option(min=1, max=1_000_000, metavar="N", help="How many: device-0001 and so on.")
    ] = None,
    names: Annotated[
        list[str] | None,
        typer.Option(metavar="DEV", help="Their names instead: a,b or dev-[01-20] or @file. May be repeated."),
    ] = None,
    latency: Annotated[
        str,
        typer.Option(
            metavar="SECONDS",
            help="How long work takes: 0.1, 0.05-0.5, exp:0.2 or normal:0.2,0.05.",
            rich_help_panel=_BEHAVIOUR,
        ),
    ] = "0",
    errors: Annotated[float, _share("--errors", "Share of requests that fail with 500.")] = 0.0,
    silence: Annotated[float, _share("--silence", "Share of attempts that are ignored.")] = 0.0,
    lost: Annotated[float, _share("--lost", "Share of requests that are done but whose answer gets lost.")] = 0.0,
    duplicates: Annotated[float, _share("--duplicates", "Share of answers that are sent twice.")] = 0.0,
    progress: Annotated[float, _share("--progress", "Share of requests that report progress (102).")] = 0.0,
    locked: Annotated[float, _share("--locked", "Share of requests that are answered 423 at first.")] = 0.0,
    seed: Annotated[
        int, typer.Option(metavar="N", help="The same seed, the same devices.", rich_help_panel=_BEHAVIOUR)
    ] = 0,
    work_log: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write a JSON line for all work that is done.")
    ] = None,
    counts_as: Annotated[
        str | None, typer.Option(metavar="NAME", help="Publish what happened, every second, on /simulate/NAME.")
    ] = None,
    json: Json = False,
) -> None:
    """Run simulated devices until Ctrl-C, and print what they did.

    \b
    Example:
      puppetmaster simulate --devices 200 --latency 0.1-2 --errors 0.02
    """
    from puppetmaster.embedded.devices import Behaviour, Fleet, Latency

    destinations = _destinations(devices, names)
    try:
        behaviour = Behaviour(
            latency=Latency.parse(latency),
            errors=errors,
            silence=silence,
            lost=lost,
            duplicates=duplicates,
            progress=progress,
            locked=locked,
            seed=seed,
        )
        fleet = Fleet(
            settings.broker,
            destinations,
            behaviour,
            template=settings.topic,
            log_path=work_log,
            instance=counts_as,
        )
    except ValueError as error:
        raise BadUsage("simulate", str(error)) from None
    serve_until_signal(_serve(fleet, f"{len(destinations)} {LISTENING}; Ctrl-C ends them"))
    _print_counts(fleet, json)


def _destinations(devices: int | None, names: Sequence[str] | None) -> list[str]:
    from puppetmaster.embedded.devices import names as numbered

    if (devices is None) == (not names):
        raise BadUsage("--devices", "give either how many (--devices 50) or which (--names a,b)")
    try:
        return numbered(devices) if devices is not None else expand(names or [], sys.stdin)
    except ValueError as error:
        raise BadUsage("--names", str(error)) from None


async def _serve(part: _Part, ready: str = "") -> None:
    """Run a part for ever; say ``ready`` when it is connected."""
    try:
        await part.start()
        if ready:
            say(ready)
        await asyncio.Event().wait()
    finally:
        await part.close()


def _print_counts(fleet: Fleet, json: bool) -> None:
    counts = fleet.counts()
    if json:
        from puppetmaster.cli import render

        render.print_json(counts)
    else:
        typer.echo(", ".join(f"{number} {name}" for name, number in counts.items() if number) or "nothing happened")
