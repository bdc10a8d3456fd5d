"""The port of the parsers, and what they read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """What is known of a chunk by its output so far; none where the output does not tell."""

    progress: int | None = None
    """0 to 100."""
    frame_current: int | None = None
    """The frame that is being rendered."""
    remaining: float | None = None
    """Seconds that the frame still takes, by the word of the program."""
    files: tuple[str, ...] = ()
    """Files that were written, the last ones of many."""
    activity: str = ""
    """What it is doing, for people."""


class Parser(Protocol):
    """Reads the output of one chunk. It is called in a thread, one call at a time."""

    def feed(self, text: str) -> Reading:
        """Take more of the output and tell all that is known.

        A text may begin and end in the middle of a line, some of the output may be missing between two of them, and
        some workers send lines again that they sent before.
        """
        ...


class MakeParser(Protocol):
    """Makes a parser for one chunk: a class whose instances are parsers is one."""

    def __call__(self, frame_start: int, frame_end: int) -> Parser:
        """A parser for these frames; both 0 where there are none."""
        ...
