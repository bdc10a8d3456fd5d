"""Destinations on the command line: lists, ranges, files and stdin."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TextIO

from puppetmaster.policies import destination_fault

MAX_DESTINATIONS = 1_000_000
"""More than any job may have; a range that is longer is a slip of the fingers."""

_RANGE = re.compile(r"\[([0-9]{1,12})-([0-9]{1,12})\]")


def expand(texts: Sequence[str], stdin: TextIO) -> list[str]:
    """Expand what was given with ``-d``, in its order, each destination once.

    Each text is a list with commas, in which ``device-[0001-0050]`` stands for 50 names with their zeros; or
    ``@file`` with a destination a line; or ``-`` for such lines on stdin. Lines are taken as they are.

    :raises ValueError: when a part of it can't be used; the message says which and why.
    """
    found: dict[str, None] = {}
    for name in itertools.chain.from_iterable(_expand_text(text, stdin) for text in texts):
        fault = destination_fault(name)
        if fault:
            raise ValueError(f"{name!r:.140} can't be used: {fault}")
        found[name] = None
        if len(found) > MAX_DESTINATIONS:
            raise ValueError(f"these are more than {MAX_DESTINATIONS:,} destinations")
    if not found:
        raise ValueError("it names no destination")
    return list(found)


def _expand_text(text: str, stdin: TextIO) -> Iterator[str]:
    if text == "-":
        return _lines(stdin, "stdin")
    if text.startswith("@"):
        return _read(Path(text[1:]))
    return itertools.chain.from_iterable(_expand_range(part.strip()) for part in text.split(","))


def _read(path: Path) -> Iterator[str]:
    try:
        # A byte order mark is none of the first destination's characters.
        with path.open(encoding="utf-8-sig") as lines:
            yield from _lines(lines, str(path))
    except OSError as error:
        raise ValueError(f"can't read {path}: {error.strerror or error}") from error


def _lines(lines: Iterable[str], name: str) -> Iterator[str]:
    """The destinations of a file; empty lines and those that begin with # are left out."""
    try:
        for line in lines:
            text = line.strip()
            if text and not text.startswith("#"):
                yield text
    except UnicodeDecodeError as error:
        raise ValueError(f"{name} is no UTF-8 text: {error}") from error


def _expand_range(text: str) -> Iterator[str]:
    """All names that a text with ranges stands for, the last range counting fastest."""
    pieces = _RANGE.split(text)  # text, low, high, text, low, high, ..., text
    if any("[" in piece or "]" in piece for piece in pieces[::3]):
        raise ValueError(f"{text!r:.140} has a bad range: write [1-50], or [0001-0050] to keep the zeros")
    ranges = [_numbers(low, high) for low, high in zip(pieces[1::3], pieces[2::3], strict=True)]
    for numbers in itertools.product(*ranges):
        yield pieces[0] + "".join(number + piece for number, piece in zip(numbers, pieces[3::3], strict=True))


def _numbers(low: str, high: str) -> list[str]:
    first, last = int(low), int(high)
    if last < first:
        raise ValueError(f"the range [{low}-{high}] runs backwards")
    if last - first >= MAX_DESTINATIONS:
        raise ValueError(f"the range [{low}-{high}] has more than {MAX_DESTINATIONS:,} numbers")
    return [f"{number:0{len(low)}d}" for number in range(first, last + 1)]
