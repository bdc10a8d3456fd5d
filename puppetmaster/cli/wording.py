"""What the command line's library says of a value that can't be used, in the words of this program."""

from __future__ import annotations

import re
from collections.abc import Callable

import typer
from typer.core import TyperGroup

_WORDS: tuple[tuple[str, Callable[[re.Match[str]], str]], ...] = (
    (r"Value error, (.*)", lambda found: found[1]),
    (r"Input should be a valid integer.*", lambda found: "it must be a whole number"),
    (r"Input should be a valid number.*", lambda found: "it must be a number"),
    (r"Input should be greater than or equal to (\S+)", lambda found: f"it must be {found[1]} or more"),
    (r"Input should be less than or equal to (\S+)", lambda found: f"it must be {found[1]} or less"),
    (r"Input should be (.*)", lambda found: f"it must be {found[1]}"),
)
"""Its sentences are for who writes programs."""


class PlainGroup(TyperGroup):
    """The commands, whose faults are told plainly."""

    def invoke(self, ctx: typer.Context) -> object:  # type: ignore[override, unused-ignore]
        """Run the command that is named."""
        try:
            return super().invoke(ctx)
        except typer.BadParameter as error:
            error.message = plain(error.message)
            raise


def plain(message: str) -> str:
    """The same in our words."""
    for pattern, words in _WORDS:
        found = re.fullmatch(pattern, message, re.DOTALL)
        if found is not None:
            return words(found)
    return message
