"""The labels that callers give a device: the body of PUT /devices/:id."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, WithJsonSchema

from puppetmaster.devices.device import Device
from puppetmaster.devices.reading import MAX_LABEL, MAX_LABEL_NAME, MAX_LABELS, label_fault
from puppetmaster.errors import Fault, InvalidDocument
from puppetmaster.fields import NO_CONTROL, Schema, plain

_LABELS: Schema = {
    "anyOf": [
        {
            "type": "object",
            "maxProperties": MAX_LABELS,
            "propertyNames": {"minLength": 1, "maxLength": MAX_LABEL_NAME, "pattern": r"^[^\u0000-\u001f=]+$"},
            "additionalProperties": {
                "anyOf": [{"type": "string", "maxLength": MAX_LABEL, "pattern": f"^{NO_CONTROL}*$"}, {"type": "null"}]
            },
        },
        {"type": "null"},
    ],
    "examples": [{"site": "berlin", "old": None}],
}


def _check(labels: dict[str, str | None] | None) -> dict[str, str | None] | None:
    if labels is not None and len(labels) > MAX_LABELS:
        raise ValueError(f"a device has at most {MAX_LABELS} labels")
    for name, value in (labels or {}).items():
        fault = label_fault(name, value or "")
        if fault is not None:
            raise ValueError(fault)
    return labels


class DeviceUpdate(BaseModel):
    """Labels for a device. What is not named stays."""

    model_config = ConfigDict(strict=True, extra="forbid", use_attribute_docstrings=True, json_schema_extra=plain)

    labels: Annotated[dict[str, str | None] | None, AfterValidator(_check), WithJsonSchema(_LABELS)]
    """Labels by their names, which hold no "=". A label that is null is taken away, also one that the device says it
    has. Null in place of all of them: the device is left with those that it says it has."""

    def apply(self, device: Device) -> Mapping[str, str | None]:
        """What callers have given the device, with this.

        :raises InvalidDocument: when these are too many.
        """
        if self.labels is None:
            return {}
        given = {**device.given, **self.labels}
        # A label that is taken away is remembered only while it hides one of the device's own.
        kept = {name: value for name, value in given.items() if value is not None or name in device.own}
        if len(kept) > MAX_LABELS:
            raise InvalidDocument([Fault("labels", f"a device has at most {MAX_LABELS} labels; take some away (null)")])
        return kept
