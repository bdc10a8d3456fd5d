"""The commands, put together."""

from __future__ import annotations

import logging
import os
import sys
from typing import Annotated

import typer

from puppetmaster.cli import (
    accounts,
    acl,
    agent,
    demo,
    devices,
    dutserver,
    exec,
    jobrunner,
    jobs,
    parts,
    requests,
    run,
    serve,
    show_settings,
    worker,
)
from puppetmaster.cli.outcome import FAILED, say
from puppetmaster.cli.processes import end_with_parent
from puppetmaster.cli.wording import PlainGroup
from puppetmaster.logs import is_json
from puppetmaster.version import __version__

logger = logging.getLogger(__name__)

app = typer.Typer(
    name="puppetmaster",
    cls=PlainGroup,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Run one command on thousands of devices over MQTT, and know at every moment how far it is.",
    epilog="First steps: puppetmaster demo",
)

app.command("run")(run.run)
# What stands behind the first word of the command line is the device's.
app.command("exec", context_settings={"allow_interspersed_args": False})(exec.execute)
app.add_typer(jobs.app, name="jobs")
app.add_typer(requests.app, name="requests")
app.add_typer(devices.app, name="devices")
app.add_typer(accounts.app, name="accounts")
app.add_typer(acl.app, name="acl")
app.command("serve")(serve.serve)
app.command("agent")(agent.agent)
app.command("jobrunner")(jobrunner.jobrunner)
app.add_typer(dutserver.app, name="dutserver")
app.command("worker")(worker.worker)
app.command("controller")(parts.controller)
app.command("broker")(parts.broker)
app.command("simulate")(parts.simulate)
app.command("demo")(demo.demo)
app.command("settings")(show_settings.show_settings)


def _print_version(asked: bool) -> None:
    if asked:
        typer.echo(f"puppetmaster {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


def main() -> None:
    """Run the command line; the process ends with its exit status."""
    end_with_parent()
    try:
        app(prog_name="puppetmaster")
    except Exception as error:
        if is_json():
            logger.critical("nobody caught an error: %s", type(error).__name__, exc_info=True,
                            extra={"event": "uncaught"})
            sys.exit(FAILED)
        if os.environ.get("PUPPETMASTER_LOG", "").lower().endswith("debug"):
            raise
        say(f"Error: {type(error).__name__}: {error} (a bug; PUPPETMASTER_LOG=debug shows where)")
        sys.exit(FAILED)
