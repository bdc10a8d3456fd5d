"""The values that documents are made of, as types that check themselves and have a JSON schema.

A schema says what can be said in one; limits in bytes can't.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import orjson
from pydantic import (
    AfterValidator,
    BeforeValidator,
    ConfigDict,
    FailFast,
    Field,
    GetJsonSchemaHandler,
    RootModel,
    TypeAdapter,
    ValidatorFunctionWrapHandler,
    WithJsonSchema,
    WrapValidator,
)
from pydantic_core import CoreSchema

from puppetmaster.policies import (
    MAX_DESTINATION,
    MAX_SECONDS,
    UNPUBLISHABLE,
    Connection,
    are_plain_destinations,
    destination_fault,
)
from puppetmaster.states import REQUEST_FINAL, RequestStatus
from puppetmaster.times import from_text, to_text
from puppetmaster.wire import MAX_DATA_BYTES, MAX_DEPTH

MAX_RESOURCE_BYTES = 1023
"""The controller's buffer for a resource."""

MAX_NAME, MAX_LABELS = 128, 64

MAX_CHOICES = 100
"""How many values a label may be given in targets: each is compared with every device's."""

MAX_STATUSES = 20
"""How many statuses a list of them may hold: more than there are."""

MAX_FAULTS = 20
"""How many faults are reported at once: a list of 100,000 bad destinations says enough with the first ones."""

LONG = 50
"""What is wrong with a list of more items is told for the first bad one only: to find a million faults takes half a
minute, in which nothing else is done, and gigabytes."""

Schema = dict[str, Any]
"""A JSON schema."""


# Schemas: what a value has to look like before it is read

NO_CONTROL = r"[^\u0000-\u001f]"

# Without the surrogates: no text in UTF-8 has any, and not every dialect of patterns can say them.
_POISON = re.sub(
    "[\0-\x1f\x7f-\x9f\ufdd0-\uffff]",
    lambda found: f"\\u{ord(found.group()):04x}",
    f"/{UNPUBLISHABLE}".replace("\ud800-\udfff", ""),
)


class DestinationText(RootModel[str]):
    """One level of a topic: no / + #, no control characters, and no $ in front."""

    root: str = Field(
        min_length=1,
        max_length=MAX_DESTINATION,
        pattern=f"^[^${_POISON}][^{_POISON}]*$",
        examples=["device-0001"],
    )


_LINE_END = re.compile(r"(?<!\n)\n(?!\n)")


def plain(schema: Schema) -> None:
    """Take from a model's schema what says nothing: titles that repeat a name, defaults of none, ends of lines."""
    for field in schema.get("properties", {}).values():
        field.pop("title", None)
        if field.get("default", ...) is None:
            del field["default"]
    for described in (schema, *schema.get("properties", {}).values()):
        described["description"] = _LINE_END.sub(" ", described.get("description", ""))


def not_empty(schema: Schema) -> None:
    """Say that an object needs a field, whichever."""
    plain(schema)
    schema["minProperties"] = 1


@dataclass(frozen=True)
class _Like:
    """Gives a value that is checked by hand the schema of another type."""

    kind: Any

    def __get_pydantic_json_schema__(self, _: CoreSchema, handler: GetJsonSchemaHandler) -> Schema:
        return handler(TypeAdapter(self.kind).core_schema)


_METHOD: Schema = {
    "type": "string",
    "pattern": "^([gG][eE][tT]|[pP][oO][sS][tT]|[pP][uU][tT]|[dD][eE][lL][eE][tT][eE])$",
    "examples": ["get", "post", "put", "delete"],
}
_RESOURCE: Schema = {
    "type": "string",
    "minLength": 1,
    "maxLength": MAX_RESOURCE_BYTES,
    "pattern": f"^/{NO_CONTROL}*$",
    "examples": ["/system/reboot"],
}
_NAME: Schema = {"type": "string", "minLength": 1, "maxLength": MAX_NAME, "pattern": f"^{NO_CONTROL}+$"}
_LABELS: Schema = {
    "anyOf": [
        {"type": "array", "maxItems": MAX_LABELS, "items": _NAME},
        {
            "type": "object",
            "maxProperties": MAX_LABELS,
            "propertyNames": {"pattern": f"^{NO_CONTROL}*$"},
            "additionalProperties": {"type": "string", "pattern": f"^{NO_CONTROL}*$"},
        },
    ],
    "examples": [["site=berlin"], {"site": "berlin"}],
}
_TIME: Schema = {"type": "string", "format": "date-time", "examples": ["2038-01-01T00:00:00Z"]}
_FINAL_WORDS = [status.value for status in RequestStatus if status in REQUEST_FINAL]
_FINAL_STATUS: Schema = {"type": "string", "enum": _FINAL_WORDS}


_ANY_TEXT: Schema = {"type": "string", "pattern": f"^{NO_CONTROL}*$"}
_CHOICES: Schema = {
    "type": "object",
    "maxProperties": MAX_LABELS,
    "propertyNames": {"pattern": f"^{NO_CONTROL}*$"},
    "additionalProperties": {
        "anyOf": [_ANY_TEXT, {"type": "array", "minItems": 1, "maxItems": MAX_CHOICES, "items": _ANY_TEXT}]
    },
    "examples": [{"site": "berlin"}, {"site": ["berlin", "potsdam"]}],
}
_CONNECTION: Schema = {"type": "string", "enum": [connection.value for connection in Connection]}
_CONNECTIONS: Schema = {
    "anyOf": [_CONNECTION, {"type": "array", "minItems": 1, "maxItems": len(Connection), "items": _CONNECTION}]
}
_SHARE = r"(100(\.0{1,6})?|[1-9][0-9]?(\.[0-9]{1,6})?|0\.[0-9]{0,5}[1-9])%"
_SAMPLE: Schema = {
    "anyOf": [
        {"type": "string", "pattern": f"^{_SHARE}$"},
        {"type": "integer", "minimum": 1, "maximum": 1_000_000},
    ],
    "examples": ["10%", 25],
}


# Checks


def _lower(value: object) -> object:
    return value.lower() if isinstance(value, str) else value


def _read_whole(value: object) -> object:
    # JSON knows one kind of numbers: some clients write 5.0.
    return int(value) if isinstance(value, float) and value.is_integer() else value


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


def _check_final(value: object) -> object:
    if not isinstance(value, str) or value not in _FINAL_WORDS:
        raise ValueError(f"only requests that have ended are meant: {', '.join(_FINAL_WORDS)}")
    return RequestStatus(value)


def _check_choices(value: dict[str, list[str]]) -> dict[str, list[str]]:
    for text in (*value, *(text for texts in value.values() for text in texts)):
        _check_text(text)
    return value


def _check_sample(given: object) -> object:
    value = _read_whole(given)
    if isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= 1_000_000:
        return value
    if not isinstance(value, str) or not re.fullmatch(_SHARE, value):
        raise ValueError('it has to be a share such as "10%", or a whole number of devices from 1 up')
    return value


def encodable(text: str, limit: int = 200) -> str:
    """A text that can be encoded, whatever a caller put into a field's name; at most ``limit`` characters of it."""
    return text[:limit].encode("utf-8", "replace").decode()


def listed(value: object) -> object:
    """One thing stands for a list of it."""
    return value if isinstance(value, list) else [value]


def first_fault_if_long(kind: Any, are_plain: Callable[[list[str]], bool] | None = None) -> WrapValidator:
    """For a list of a kind: all its faults are found while it is short, the first bad item ends it when it is long.

    :param are_plain: tells of texts, in less time, whether they are so plain that each of them is good.
    """
    first_fault = TypeAdapter(Annotated[list[kind], FailFast()], config=ConfigDict(strict=True))

    def check(value: object, every_fault: ValidatorFunctionWrapHandler) -> Any:
        if isinstance(value, list) and len(value) > LONG:
            if are_plain is not None and set(map(type, value)) == {str} and are_plain(value):
                return value
            return first_fault.validate_python(value)
        return every_fault(value)

    return WrapValidator(check)


# Types

Destination = Annotated[str, AfterValidator(_check_destination), _Like(DestinationText)]
Destinations = Annotated[
    list[Destination],
    Field(min_length=1),
    first_fault_if_long(Destination, are_plain_destinations),
    BeforeValidator(listed),
    _Like(DestinationText | Annotated[list[DestinationText], Field(min_length=1)]),
]
Method = Annotated[Literal["get", "post", "put", "delete"], BeforeValidator(_lower), WithJsonSchema(_METHOD)]
Resource = Annotated[str, AfterValidator(_check_resource), WithJsonSchema(_RESOURCE)]
Data = Annotated[Any, AfterValidator(_check_data)]
Seconds = Annotated[float, Field(gt=0, le=MAX_SECONDS, allow_inf_nan=False)]
Milliseconds = Annotated[float, Field(gt=0, le=MAX_SECONDS * 1000, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1, le=1_000_000_000), BeforeValidator(_read_whole)]
Priority = Annotated[int, Field(ge=0, le=100), BeforeValidator(_read_whole)]
RetryLimit = Annotated[int, Field(ge=0, le=1000), BeforeValidator(_read_whole)]
Code = Annotated[int, Field(ge=100, le=999), BeforeValidator(_read_whole)]
PerMinute = Annotated[float, Field(gt=0, le=1e6, allow_inf_nan=False)]
Name = Annotated[str, Field(min_length=1, max_length=MAX_NAME), AfterValidator(_check_text), WithJsonSchema(_NAME)]
Time = Annotated[Any, BeforeValidator(_read_time), WithJsonSchema(_TIME)]
Labels = Annotated[list[Name], Field(max_length=MAX_LABELS), BeforeValidator(_read_labels), WithJsonSchema(_LABELS)]
Choices = Annotated[
    dict[str, Annotated[list[str], Field(min_length=1, max_length=MAX_CHOICES), BeforeValidator(listed)]],
    Field(max_length=MAX_LABELS),
    AfterValidator(_check_choices),
    WithJsonSchema(_CHOICES),
]
"""For each name the values of which one is wanted; a text stands for a list of it."""
Connections = Annotated[
    list[Literal["online", "offline", "unknown"]],
    Field(min_length=1, max_length=len(Connection)),
    BeforeValidator(listed),
    WithJsonSchema(_CONNECTIONS),
]
Sample = Annotated[Any, BeforeValidator(_check_sample), WithJsonSchema(_SAMPLE)]
FinalStatus = Annotated[RequestStatus, BeforeValidator(_check_final), WithJsonSchema(_FINAL_STATUS)]
FinalStatuses = Annotated[
    list[FinalStatus],
    Field(min_length=1, max_length=MAX_STATUSES),
    BeforeValidator(listed),
    _Like(FinalStatus | Annotated[list[FinalStatus], Field(min_length=1, max_length=MAX_STATUSES)]),
]
"""One or more statuses of requests that have ended."""
