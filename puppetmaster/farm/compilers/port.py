"""The port of the compilers, and what they make."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

MAX_CHUNKS = 10_000
"""Chunks of one task. All of them are one document in the store."""

MAX_COMMANDS = 1000
"""Commands of one chunk."""

MAX_ARGUMENTS = 10_000
"""Arguments of one command."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Chunk:
    """A part of a task that one worker does by itself.

    :raises ValueError: when it is made of something else than commands.
    """

    commands: Sequence[Sequence[str]]
    """Programs with their arguments, run one after the other; the first one that fails ends the chunk."""
    frame_start: int = 0
    """The first frame, where there are frames."""
    frame_end: int = 0
    """The last one."""

    def __post_init__(self) -> None:
        if isinstance(self.commands, str) or not 1 <= len(self.commands) <= MAX_COMMANDS:
            raise ValueError(f"a chunk has 1 to {MAX_COMMANDS} commands")
        for command in self.commands:
            _check_command(command)
        for frame in (self.frame_start, self.frame_end):
            if type(frame) is not int or abs(frame) >= 1 << 53:
                raise ValueError(f"a frame is a whole number, not {frame!r:.80}")


class Compiler(Protocol):
    """Makes chunks out of settings. It is called in a thread, maybe in several at once."""

    parser: str
    """The parser that reads the output of its commands, where the task names none; empty for none."""

    def compile(self, settings: Mapping[str, Any]) -> Sequence[Chunk]:
        """The chunks of a task, at least one.

        :param settings: what the task was made with, of the types that JSON has.
        :raises InvalidDocument: with the faults of the settings; a ValueError, KeyError or TypeError is one too.
        """
        ...


def _check_command(command: Sequence[str]) -> None:
    if isinstance(command, str) or not isinstance(command, Sequence):
        raise ValueError(f"a command is a list of texts, not {command!r:.80}")
    if not 1 <= len(command) <= MAX_ARGUMENTS:
        raise ValueError(f"a command has 1 to {MAX_ARGUMENTS} texts")
    for argument in command:
        if not isinstance(argument, str) or "\0" in argument:
            raise ValueError(f"a command is made of texts without NUL, not of {argument!r:.80}")
    if not command[0]:
        raise ValueError("the program of a command has no name")
