"""Reading a password that is to be set."""

from __future__ import annotations

import signal
import sys

import typer

from puppetmaster.cli.outcome import BadUsage, Interrupted


def read_password() -> str:
    """Ask for it twice without showing it, or take a line from a pipe. Never an argument: those are for all to see."""
    if sys.stdin.isatty():
        try:
            return str(typer.prompt("Password", hide_input=True, confirmation_prompt="The same again", err=True))
        except typer.Abort:
            raise Interrupted(signal.SIGINT, "nothing was changed") from None
    try:
        password = sys.stdin.buffer.readline().decode().rstrip("\r\n")
    except UnicodeDecodeError:
        raise BadUsage("standard input", "the password is no UTF-8") from None
    if not password:
        raise BadUsage("standard input", "its first line is the password, and there is none")
    return password
