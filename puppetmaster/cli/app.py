"""The commands, put together."""

from __future__ import annotations

import logging
import os
import sys
from importlib import import_module
from typing import Annotated

import typer

from puppetmaster.cli.outcome import FAILED, say
from puppetmaster.cli.processes import end_with_parent
from puppetmaster.cli.wording import PlainGroup
from puppetmaster.logs import is_json
from puppetmaster.version import __version__

logger = logging.getLogger(__name__)

_MODULE = "puppetmaster.cli."

COMMANDS = {
    "run": "run.run",
    "exec": "exec.execute",
    "jobs": "jobs.app",
    "requests": "requests.app",
    "devices": "devices.app",
    "accounts": "accounts.app",
    "acl": "acl.app",
    "backup": "backup.backup",
    "restore": "backup.restore",
    "serve": "serve.serve",
    "agent": "agent.agent",
    "jobrunner": "jobrunner.jobrunner",
    "dutserver": "dutserver.app",
    "worker": "worker.worker",
    "controller": "parts.controller",
    "broker": "parts.broker",
    "simulate": "parts.simulate",
    "demo": "demo.demo",
    "settings": "show_settings.show_settings",
}
"""Each command or group of commands, in the order of the help, and where it is."""

SETTINGS = {
    # What stands behind the first word of the command line is the device's.
    "exec": {"allow_interspersed_args": False},
}


def make_app(only: str | None = None) -> typer.Typer:
    """The commands; with the name of one of them that one alone, for the others take their time to load."""
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
    app.callback()(_root)
    for name in [only] if only in COMMANDS else COMMANDS:
        module, _, attribute = COMMANDS[name].partition(".")
        found = getattr(import_module(_MODULE + module), attribute)
        if isinstance(found, typer.Typer):
            app.add_typer(found, name=name)
        else:
            app.command(name, context_settings=SETTINGS.get(name))(found)
    return app


def _print_version(asked: bool) -> None:
    if asked:
        typer.echo(f"puppetmaster {__version__}")
        raise typer.Exit


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
        make_app(sys.argv[1] if sys.argv[1:] else None)(prog_name="puppetmaster")
    except Exception as error:
        if is_json():
            logger.critical("nobody caught an error: %s", type(error).__name__, exc_info=True,
                            extra={"event": "uncaught"})
            sys.exit(FAILED)
        if os.environ.get("PUPPETMASTER_LOG", "").lower().endswith("debug"):
            raise
        say(f"Error: {type(error).__name__}: {error} (a bug; PUPPETMASTER_LOG=debug shows where)")
        sys.exit(FAILED)
