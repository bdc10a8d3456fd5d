"""``puppetmaster worker``: a machine of a render farm."""

from __future__ import annotations

import logging
import socket
from typing import Annotated

import typer

from puppetmaster.cli.options import positive, with_settings
from puppetmaster.cli.outcome import BadUsage
from puppetmaster.cli.running import serve_until_signal
from puppetmaster.errors import SettingsError
from puppetmaster.settings import Settings

_PACE = "Pace"


@with_settings("ca_file", "log")
def worker(
    settings: Settings,
    manager: Annotated[
        str,
        typer.Option(
            metavar="URL",
            envvar="PUPPETMASTER_MANAGER",
            help="The manager, http://host:8080/manager. Where a login is needed, a token of an account belongs into "
            "PUPPETMASTER_TOKEN; in the URL, http://name:token@host:8080/manager, everybody here can read it.",
        ),
    ],
    name: Annotated[
        str | None, typer.Option(metavar="NAME", help="What it is called there; the name of this machine by default.")
    ] = None,
    port: Annotated[
        int, typer.Option(min=0, max=65535, metavar="N", help="Tells workers of one name apart; nothing listens there.")
    ] = 0,
    once: Annotated[
        bool, typer.Option("--once", help="End when there is no task; with 1 when there is no manager for 30 s.")
    ] = False,
    ask: Annotated[
        float, typer.Option(parser=positive, metavar="SECONDS", help="Between two questions for a task.",
                            rich_help_panel=_PACE)
    ] = 2.0,
    report: Annotated[
        float, typer.Option(parser=positive, metavar="SECONDS", help="Between two reports of output, at least.",
                            rich_help_panel=_PACE)
    ] = 1.0,
    heartbeat: Annotated[
        float, typer.Option(parser=positive, metavar="SECONDS", help="Between two signs of life, at most.",
                            rich_help_panel=_PACE)
    ] = 10.0,
) -> None:
    """Ask the manager of a farm for tasks and run their commands, until Ctrl-C.

    It runs whatever the manager says, as the user that starts it. When it is ended it kills what is running and gives
    the task back, so that another worker gets it.

    \b
    Examples:
      puppetmaster worker --manager http://localhost:8080/manager
      PUPPETMASTER_TOKEN=pm_... puppetmaster worker --manager http://farm/manager
      puppetmaster worker --manager http://localhost:8080/manager --name r1
      puppetmaster worker --manager http://localhost:8080/manager --once
    """
    # Imported here: --help needs no HTTP.
    from puppetmaster.client.farm import FarmClient
    from puppetmaster.worker import Pace, WorkerProgram

    logging.getLogger("httpx").setLevel(logging.WARNING)  # a line for every call says nothing
    try:
        client = FarmClient(manager, token=settings.token, ca_file=settings.ca_file)
    except SettingsError as error:
        if error.name not in ("manager", "url"):
            raise
        raise BadUsage("--manager", error.reason) from None

    async def main() -> None:
        pace = Pace(ask=ask, report=report, heartbeat=heartbeat)
        try:
            await WorkerProgram(
                client, name=name or socket.gethostname(), port=port, pace=pace, once=once
            ).run()
        finally:
            await client.close()

    serve_until_signal(main())
