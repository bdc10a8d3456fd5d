"""Options that commands share: the settings as flags, and checked numbers."""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from puppetmaster.cli.outcome import reported
from puppetmaster.settings import CONFIG_ENV, CONFIG_FLAG, DEFAULT_FILE, Option, Settings, options

Command = Callable[..., None]

BROKER = ("broker", "ca_file")
"""The settings of a command that only talks to a bus."""

ALL = tuple(option.name for option in options())

_PANEL = "Settings"


def with_settings(*names: str) -> Callable[[Command], Command]:
    """Give a command a flag for each of these settings and ``--config``, and call it with the settings in force.

    Errors end the command with one line on stderr.
    """

    def decorate(command: Command) -> Command:
        @functools.wraps(command)
        def run(**values: Any) -> None:
            with reported():
                flags = {name: values.pop(name) for name in names}
                command(Settings.load(flags, file=values.pop("config")), **values)

        own = list(inspect.signature(command, eval_str=True).parameters.values())[1:]
        flags = [_flag(option) for option in options() if option.name in names]
        parameters = [*(_keyword(parameter) for parameter in own), *flags, _config()]
        # typer reads these two to build the command's options.
        run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        return run

    return decorate


def _keyword(parameter: inspect.Parameter) -> inspect.Parameter:
    return parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY)


def _flag(option: Option) -> inspect.Parameter:
    default = "" if option.default is None else f", default {option.default}"
    info = typer.Option(
        option.flag,
        help=f"{option.help} ({option.env}{default})",
        metavar=option.metavar,
        rich_help_panel=_PANEL,
        show_default=False,
    )
    return _parameter(option.name, Annotated[str | None, info])


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
