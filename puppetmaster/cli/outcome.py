"""How a command ends: its exit status, and one line on stderr when something is wrong."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import sys
from collections.abc import Iterator
from typing import NoReturn

import typer

from puppetmaster.errors import InvalidDocument, PuppetmasterError, SettingsError
from puppetmaster.logs import is_json

logger = logging.getLogger(__name__)

OK, FAILED, USAGE = 0, 1, 2

MAX_FAULTS = 10
"""How many faults of a refused document are shown."""


class BadUsage(PuppetmasterError, ValueError):
    """Raised when the command line itself can't be used; ``option`` is what to look at."""

    def __init__(self, option: str, message: str) -> None:
        super().__init__(f"{option}: {message}")


class Interrupted(Exception):
    """Raised in place of what a signal ended; ``note`` says what goes on without us."""

    def __init__(self, number: int, note: str = "") -> None:
        self.number, self.note = number, note
        super().__init__(signal.Signals(number).name)

    @property
    def exit_code(self) -> int:
        """128 and the signal's number, as shells have it: 130 for Ctrl-C."""
        return 128 + self.number


@contextlib.contextmanager
def reported() -> Iterator[None]:
    """Turn errors into a line on stderr and the exit status of the command."""
    try:
        yield
    except (SettingsError, BadUsage, InvalidDocument) as error:
        _fail(error, USAGE)
    except PuppetmasterError as error:
        _fail(error, FAILED)
    except Interrupted as interrupted:
        say(interrupted.note or "stopped")
        raise typer.Exit(interrupted.exit_code) from None
    except BrokenPipeError:
        # Whoever read our output has gone. What is still buffered must not raise again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise typer.Exit(FAILED) from None
    except OSError as error:
        _fail(error, FAILED)


def say_if_page(shown: int, limit: int, offset: int) -> None:
    """Tell that a list may go on where the page that was asked for ended."""
    if shown == limit:
        these = "this is one" if shown == 1 else f"these are {shown}"
        say(f"{these}, there may be more: --offset {offset + shown}, or a larger --limit")


def say(text: str) -> None:
    """Tell the user something beside the output, on stderr; where that is a log in JSON, as a line of it."""
    if is_json():
        logger.info("%s", text, extra={"event": "said"})
    else:
        typer.echo(text, err=True)


def _fail(error: Exception, code: int) -> NoReturn:
    if is_json():
        logger.critical("can't run: %s", error, extra={"event": "cannot_run"})
        raise typer.Exit(code) from None
    faults = getattr(error, "faults", ())
    say(f"Error: {error}")
    for fault in faults[:MAX_FAULTS] if len(faults) > 1 else ():
        say(f"  {fault.path or 'document'}: {fault.message}")
    if len(faults) > MAX_FAULTS:
        say(f"  and {len(faults) - MAX_FAULTS} more")
    raise typer.Exit(code) from None
