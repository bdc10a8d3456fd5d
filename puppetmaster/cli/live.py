"""The output of many devices as it comes: whole lines, each with the name of its device."""

from __future__ import annotations

import codecs
import os
import re
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, BinaryIO, Protocol

from puppetmaster.chunks import Stream, to_document
from puppetmaster.cli import render
from puppetmaster.cli.outcome import say

if TYPE_CHECKING:
    from puppetmaster.client.output import Piece

MAX_LINE = 16 * 1024
"""Characters after which a line is shown though it has not ended."""

MAX_WIDTH = 32
"""The longest name that others are aligned with."""

COLOURS = (36, 32, 33, 35, 34, 96, 92, 93, 95, 94)
"""Of names on a terminal, by their last characters: neighbours differ."""

RED, PLAIN = "\x1b[31m", "\x1b[0m"

OUT, ERR = "|", "!"
"""What stands between a name and a line, for stdout and for stderr."""

_ESCAPES = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[@-Z\\-_])")

Source = tuple[int, int, Stream]
"""A request, the number of a command of it, and the stream."""


class View(Protocol):
    """Shows output."""

    def show(self, piece: Piece) -> None:
        """Show a piece, or keep it until its line is whole."""
        ...

    def close(self) -> None:
        """Show what is left."""
        ...


class Gaps:
    """Says what is missing of the output of each request."""

    def __init__(self, tell: Callable[[Piece, str], None]) -> None:
        self._tell = tell
        self._next: dict[int, int] = {}

    def look(self, piece: Piece) -> None:
        """See that a piece follows the one before it."""
        chunk, expected = piece.chunk, self._next.get(piece.request_id, 0)
        self._next[piece.request_id] = chunk.number + 1
        if chunk.stream is Stream.CUT:
            self._tell(piece, f"{render.count(chunk.size, 'byte')} of the output are left out here")
        elif chunk.number > expected:
            self._tell(piece, f"{render.count(chunk.number - expected, 'piece')} of the output got lost here")


class Lines:
    """Names in front of lines.

    :param width: of the longest name, as far as it is known.
    """

    def __init__(self, width: int = 0) -> None:
        self._width = min(width, MAX_WIDTH)
        self._colours = sys.stdout.isatty() and "NO_COLOR" not in os.environ
        self._gaps = Gaps(lambda piece, text: self._note(piece.destination, text))
        self._decoders: dict[Source, codecs.IncrementalDecoder] = {}
        self._begun: dict[Source, str] = {}
        self._names: dict[int, str] = {}

    def show(self, piece: Piece) -> None:
        """Show the lines that end with a piece."""
        self._names[piece.request_id] = piece.destination
        self._gaps.look(piece)
        chunk = piece.chunk
        if chunk.stream is Stream.END:
            self._finish(piece.request_id)
        elif chunk.stream is not Stream.CUT:
            source = (piece.request_id, chunk.command, chunk.stream)
            decoder = self._decoders.get(source) or codecs.getincrementaldecoder("utf-8")("replace")
            self._decoders[source] = decoder
            *whole, rest = (self._begun.pop(source, "") + decoder.decode(chunk.data)).split("\n")
            for line in whole:
                self._print(source, line)
            while len(rest) > MAX_LINE:
                self._print(source, rest[:MAX_LINE])
                rest = rest[MAX_LINE:]
            if rest:
                self._begun[source] = rest
        sys.stdout.flush()

    def close(self) -> None:
        """Show the lines that have not ended."""
        for request_id in {source[0] for source in self._begun}:
            self._finish(request_id)
        sys.stdout.flush()

    def _finish(self, request_id: int) -> None:
        for source in [source for source in self._begun if source[0] == request_id]:
            self._print(source, self._begun.pop(source))
        for source in [source for source in self._decoders if source[0] == request_id]:
            del self._decoders[source]

    def _print(self, source: Source, line: str) -> None:
        is_error = source[2] is Stream.STDERR
        text = clean(line)
        if is_error and self._colours:
            text = f"{RED}{text}{PLAIN}"
        print(f"{self._name(self._names[source[0]])} {ERR if is_error else OUT} {text}".rstrip())

    def _name(self, name: str) -> str:
        shown = render.shortened(name, MAX_WIDTH)
        self._width = max(self._width, len(shown))
        padded = shown.ljust(self._width)
        if not self._colours:
            return padded
        return f"\x1b[{COLOURS[sum(map(ord, name[-3:])) % len(COLOURS)]}m{padded}{PLAIN}"

    def _note(self, name: str, text: str) -> None:
        sys.stdout.flush()
        say(f"{self._name(name) if sys.stderr.isatty() else name}: {text}")


class Raw:
    """The bytes as they come, and nothing else; of several devices whole lines.

    :param alone: whether there is only one.
    """

    def __init__(self, alone: bool) -> None:
        self._alone = alone
        self._gaps = Gaps(lambda piece, text: say(f"{render.plain(piece.destination)}: {text}"))
        self._begun: dict[Source, bytes] = {}

    def show(self, piece: Piece) -> None:
        """Pass on what there is."""
        self._gaps.look(piece)
        chunk = piece.chunk
        source = (piece.request_id, chunk.command, chunk.stream)
        if chunk.stream is Stream.END:
            for begun in [begun for begun in self._begun if begun[0] == piece.request_id]:
                self._write(begun, self._begun.pop(begun))
            return
        data = self._begun.pop(source, b"") + chunk.data
        end = len(data) if self._alone or len(data) > MAX_LINE else data.rfind(b"\n") + 1
        if data[end:]:
            self._begun[source] = data[end:]
        self._write(source, data[:end])

    def close(self) -> None:
        """Pass on what is left."""
        for source, data in self._begun.items():
            self._write(source, data)
        self._begun.clear()

    def _write(self, source: Source, data: bytes) -> None:
        to: BinaryIO = (sys.stderr if source[2] is Stream.STDERR else sys.stdout).buffer
        to.write(data)
        to.flush()


class JsonLines:
    """A JSON line for each piece."""

    def show(self, piece: Piece) -> None:
        """Print it."""
        about = {"type": "output", "request": piece.request_id, "destination": piece.destination}
        render.print_json_line({**about, **to_document(piece.chunk)})

    def close(self) -> None:
        """Do nothing: every piece is a whole line."""


class Nothing:
    """Shows nothing."""

    def show(self, piece: Piece) -> None:
        """Do nothing."""

    def close(self) -> None:
        """Do nothing."""


def clean(line: str) -> str:
    """A line as a terminal would show it in the end, without what would drive it."""
    text = _ESCAPES.sub("", line.rstrip("\r"))
    return render.plain(text.rpartition("\r")[2].expandtabs())
