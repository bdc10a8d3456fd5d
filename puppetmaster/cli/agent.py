"""``puppetmaster agent``: the device's side. Its help, for :mod:`puppetmaster.cli` runs it without this module."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from typing import Annotated, Any

import typer

from puppetmaster.agent.__main__ import main
from puppetmaster.agent.options import EPILOG, Option, options
from puppetmaster.cli.options import joined

Command = Callable[..., None]


def with_options(command: Command) -> Command:
    """Give a command the agent's flags, and call it with the words that they came as."""

    def run(**values: Any) -> None:
        command([word for option in options() for word in _words(option, values[option.name])])

    # typer reads these to build the command's options.
    parameters = [_parameter(option) for option in options()]
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    run.__name__, run.__doc__ = command.__name__, joined(f"{inspect.cleandoc(command.__doc__ or '')}\n\n{EPILOG}")
    return run


def _parameter(option: Option) -> inspect.Parameter:
    kind: Any = bool | None if not option.metavar else list[str] | None if option.repeated else str | None
    info = typer.Option(
        option.flag,
        help=f"{option.help} ({option.env})",
        metavar=option.metavar or None,
        show_default=False,
    )
    return inspect.Parameter(
        option.name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[kind, info]
    )


def _words(option: Option, value: Any) -> Iterator[str]:
    """A flag as it was given; as one word, so that a value may begin with a dash."""
    if value is True:
        yield option.flag
    elif value:
        for text in value if option.repeated else [value]:
            yield f"{option.flag}={text}"


@with_options
def agent(words: list[str]) -> None:
    """Run the agent: the device's side of puppetmaster.

    It takes this device's requests from the broker, runs commands where that is allowed, hands the rest to the device's
    own Sanji controller, and tells how the device is, until Ctrl-C.

    \b
    Examples:
      puppetmaster agent --id press-7 --broker mqtt://localhost
      puppetmaster agent --id press-7 --label site=berlin --commands all
      puppetmaster agent --id press-7 --commands 'uptime,systemctl status *'
      puppetmaster agent --id press-7 --controller mqtt://localhost:1884
    """
    raise typer.Exit(main(words))
