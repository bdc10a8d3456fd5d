"""Options that commands share: the settings as flags, and checked numbers."""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from puppetmaster.address import EXPOSED, BrokerAddress
from puppetmaster.cli.outcome import reported, say
from puppetmaster.logs import start_logging
from puppetmaster.settings import CONFIG_ENV, CONFIG_FLAG, DEFAULT_FILE, Option, Settings, options

Command = Callable[..., None]

BROKER = ("broker", "broker_password_file", "broker_cert", "broker_key", "ca_file")
"""The settings of a command that only talks to a bus."""

CLIENT_ONLY = ("url", "token")
"""The settings of a command that talks HTTP."""

REACH = BROKER + CLIENT_ONLY
"""The settings of a command that talks to a running puppetmaster, over the bus or over HTTP."""

ALL = tuple(option.name for option in options() if option.name not in CLIENT_ONLY)
"""The settings of the bundle."""

_PANEL = "Settings"


def with_settings(*names: str, defaults: Mapping[str, str] | None = None) -> Callable[[Command], Command]:
    """Give a command a flag for each of these settings and ``--config``, and call it with the settings in force.

    A command with the setting ``log`` begins its log first. Errors end the command with one line on stderr.

    :param defaults: what its help is to say where the command has defaults of its own, by the names of the settings.
    """

    def decorate(command: Command) -> Command:
        @functools.wraps(command)
        def run(**values: Any) -> None:
            with reported():
                flags = {option.name: values.pop(option.name) for option in _flags(names)}
                settings = Settings.load(flags, file=values.pop("config"))
                if "log" in names:
                    start_logging(settings.log)
                if (broker := flags.get("broker")) and BrokerAddress.parse(broker).password:
                    say(EXPOSED)
                command(settings, **values)

        own = list(inspect.signature(command, eval_str=True).parameters.values())[1:]
        flags = [_flag(option, (defaults or {}).get(option.name, option.default)) for option in _flags(names)]
        parameters = [*(_keyword(parameter) for parameter in own), *flags, _config()]
        # typer reads these two to build the command's options.
        run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        run.__doc__ = joined(command.__doc__ or "")
        return run

    return decorate


def joined(text: str) -> str:
    """A docstring whose paragraphs are one line each, to be wrapped as wide as the terminal is.

    One that begins with a backspace keeps its lines, as typer has it.
    """
    paragraphs = inspect.cleandoc(text).split("\n\n")
    return "\n\n".join(found if found.startswith("\b") else found.replace("\n", " ") for found in paragraphs)


def _flags(names: Sequence[str]) -> list[Option]:
    """The settings that have a flag: a secret has none."""
    return [option for option in options() if option.name in names and option.flag]


def _keyword(parameter: inspect.Parameter) -> inspect.Parameter:
    return parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY)


def _flag(option: Option, default: object) -> inspect.Parameter:
    told = "" if default in (None, (), False) else f", default {default}"
    info = typer.Option(
        option.flag,
        help=f"{option.help} ({option.env}{told})",
        metavar=option.metavar or None,
        rich_help_panel=_PANEL,
        show_default=False,
    )
    return _parameter(option.name, Annotated[str | None if option.metavar else bool | None, info])


def _config() -> inspect.Parameter:
    info = typer.Option(
        CONFIG_FLAG,
        help=f"A TOML file with settings. ({CONFIG_ENV}, default {DEFAULT_FILE} if it is there)",
        metavar="FILE",
        rich_help_panel=_PANEL,
        show_default=False,
    )
    return _parameter("config", Annotated[Path | None, info])


def _parameter(name: str, annotation: Any) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)


def positive(text: str) -> float:
    """Read a number above 0; NaN and infinity are none."""
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not 0 < number < math.inf:
        raise typer.BadParameter(f"it must be a number above 0, not {text!r:.40}")
    return number


Json = Annotated[bool, typer.Option("--json", help="Print JSON, for scripts.")]
Limit = Annotated[int, typer.Option("--limit", min=1, max=10_000, metavar="N", help="How many to list at most.")]
Offset = Annotated[int, typer.Option("--offset", min=0, metavar="N", help="How many to leave out first.")]
JobId = Annotated[int, typer.Argument(metavar="ID", min=0, help="The job's number.", show_default=False)]
JobIds = Annotated[list[int], typer.Argument(metavar="ID...", min=0, help="The jobs' numbers.", show_default=False)]
