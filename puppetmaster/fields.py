"""The values that documents are made of, as types that check themselves."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

import orjson
from pydantic import AfterValidator, BeforeValidator, Field

from puppetmaster.policies import MAX_SECONDS, destination_fault
from puppetmaster.times import from_text, to_text
from puppetmaster.wire import MAX_DATA_BYTES, MAX_DEPTH

MAX_RESOURCE_BYTES = 1023
"""The controller's buffer for a resource."""


def _lower(value: object) -> object:
    return value.lower() if isinstance(value, str) else value


def _check_destination(value: str) -> str:
    fault = destination_fault(value)
    if fault:
        raise ValueError(fault)
    return value


def _check_resource(value: str) -> str:
    if not value.startswith("/"):
        raise ValueError("a resource begins with /")
    if len(_check_text(value).encode()) > MAX_RESOURCE_BYTES:
        raise ValueError(f"a resource has at most {MAX_RESOURCE_BYTES} bytes")
    return value


def _check_text(value: str) -> str:
    if any(ord(char) < 0x20 or 0xD800 <= ord(char) <= 0xDFFF for char in value):
        raise ValueError("control characters and surrogates are not allowed")
    return value


def _check_data(value: Any) -> Any:
    fault = data_fault(value)
    if fault:
        raise ValueError(fault)
    return value


def data_fault(value: Any) -> str | None:
    """Why a value can't travel as JSON unchanged, or none when it can."""
    pending: list[tuple[Any, int]] = [(value, 1)]
    while pending:
        item, depth = pending.pop()
        if isinstance(item, float) and not math.isfinite(item):
            return "NaN and Infinity are not JSON"
        if isinstance(item, (dict, list)):
            if depth > MAX_DEPTH:
                return f"it is nested more than {MAX_DEPTH} levels deep"
            children = item.values() if isinstance(item, dict) else item
            pending.extend((child, depth + 1) for child in children)
    try:
        size = len(orjson.dumps(value))
    except (TypeError, ValueError) as error:
        return str(error)
    return f"it has {size} bytes as JSON, and may have {MAX_DATA_BYTES}" if size > MAX_DATA_BYTES else None


def _read_time(value: object) -> float:
    try:
        # A + in a query string is read as a space.
        seconds = from_text(value.replace(" ", "+") if isinstance(value, str) else "")
        to_text(seconds)  # a time near the ends of the calendar may be none in UTC
        return seconds
    except (ValueError, OverflowError):
        raise ValueError("a time is a text such as 2026-01-31T12:00:00Z") from None


def _read_labels(value: object) -> object:
    # {"site": "berlin"} is another way to write ["site=berlin"].
    if isinstance(value, dict) and all(isinstance(part, str) for pair in value.items() for part in pair):
        return [f"{name}={text}" for name, text in value.items()]
    return value


def encodable(text: str, limit: int = 200) -> str:
    """A text that can be encoded, whatever a caller put into a field's name; at most ``limit`` characters of it."""
    return text[:limit].encode("utf-8", "replace").decode()


def listed(value: object) -> object:
    """One thing stands for a list of it."""
    return value if isinstance(value, list) else [value]


Destination = Annotated[str, AfterValidator(_check_destination)]
Destinations = Annotated[list[Destination], Field(min_length=1), BeforeValidator(listed)]
Method = Annotated[Literal["get", "post", "put", "delete"], BeforeValidator(_lower)]
Resource = Annotated[str, AfterValidator(_check_resource)]
Data = Annotated[Any, AfterValidator(_check_data)]
Seconds = Annotated[float, Field(gt=0, le=MAX_SECONDS, allow_inf_nan=False)]
Milliseconds = Annotated[float, Field(gt=0, le=MAX_SECONDS * 1000, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1, le=1_000_000_000)]
PerMinute = Annotated[float, Field(gt=0, le=1e6, allow_inf_nan=False)]
Name = Annotated[str, Field(min_length=1, max_length=128), AfterValidator(_check_text)]
Time = Annotated[Any, BeforeValidator(_read_time)]
Labels = Annotated[list[Name], Field(max_length=64), BeforeValidator(_read_labels)]
