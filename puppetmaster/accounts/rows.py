"""Tables of a file of accounts, as TinyDB has them, read strictly: what makes no sense is an error, never left out."""

from __future__ import annotations

import math
from typing import Any

Row = dict[str, Any]


def table(rows: list[Row]) -> dict[str, Row]:
    """The rows as a table."""
    return {str(number): row for number, row in enumerate(rows, 1)}


def rows(document: dict[str, Any], name: str) -> list[tuple[str, Row]]:
    """The rows of a table, each with its place for people.

    :raises ValueError: when there is no such table, or a row is none.
    """
    found = document.get(name)
    if not isinstance(found, dict):
        raise ValueError(f"it has no table {name!r}")
    listed = [(f"{name}.{key:.20}", row) for key, row in found.items()]
    for place, row in listed:
        if not isinstance(row, dict):
            raise ValueError(f"{place} is no document")
    return listed


def text(place: str, row: Row, name: str) -> str:
    """A text of a row. Raises ValueError when it is none."""
    value = row.get(name)
    if not isinstance(value, str):
        raise ValueError(f"{place}.{name} is no text")
    return value


def number(place: str, row: Row, name: str) -> float:
    """A number of a row. Raises ValueError when it is none."""
    value = row.get(name)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise ValueError(f"{place}.{name} is no number")
    return float(value)
